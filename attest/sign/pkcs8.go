package sign

import (
	"bytes"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"slices"

	"github.com/youmark/pkcs8"
)

// maxIterations bounds what a key file can ask for: OpenSSL writes 2048, the advice of today is 600,000.
const maxIterations = 10_000_000

// encryptedKeyInfo is EncryptedPrivateKeyInfo of RFC 5958.
type encryptedKeyInfo struct {
	Algorithm pkix.AlgorithmIdentifier
	Data      []byte
}

// decryptPKCS8 opens what RFC 8018 calls PBES2 with PBKDF2, as OpenSSL writes it. The library has no typed errors and
// obeys every parameter, so that they are checked here first.
func decryptPKCS8(der, password []byte) (any, error) {
	var info encryptedKeyInfo
	var scheme struct{ KDF, Cipher pkix.AlgorithmIdentifier }
	var kdf struct {
		Salt       []byte
		Iterations int
		PRF        pkix.AlgorithmIdentifier `asn1:"optional"`
	}
	if err := parseDER(der, &info); err != nil {
		return nil, err
	}
	if err := supported("encryption", info.Algorithm, "1.2.840.113549.1.5.13"); err != nil {
		return nil, err
	}
	if err := parseDER(info.Algorithm.Parameters.FullBytes, &scheme); err != nil {
		return nil, err
	}
	if err := supported("key derivation", scheme.KDF, "1.2.840.113549.1.5.12"); err != nil {
		return nil, err
	}
	// AES in CBC mode, of 128, 192 and 256 bits.
	if err := supported("cipher", scheme.Cipher, "2.16.840.1.101.3.4.1.2", "2.16.840.1.101.3.4.1.22", "2.16.840.1.101.3.4.1.42"); err != nil {
		return nil, err
	}
	if err := parseDER(scheme.KDF.Parameters.FullBytes, &kdf); err != nil {
		return nil, err
	}
	if len(kdf.PRF.Algorithm) > 0 { // SHA-1 is what is meant without one
		if err := supported("hash", kdf.PRF, "1.2.840.113549.2.7", "1.2.840.113549.2.9"); err != nil {
			return nil, err
		}
	}
	if kdf.Iterations < 1 || kdf.Iterations > maxIterations {
		return nil, &KeyError{Reason: fmt.Sprintf("key derivation with %d iterations, the limit is %d", kdf.Iterations, maxIterations)}
	}
	var iv []byte
	if err := parseDER(scheme.Cipher.Parameters.FullBytes, &iv); err != nil {
		return nil, err
	}
	const block = 16
	if len(iv) != block || len(info.Data) == 0 || len(info.Data)%block != 0 {
		return nil, &KeyError{Reason: fmt.Sprintf("%d encrypted bytes with an initial vector of %d", len(info.Data), len(iv))}
	}
	if len(password) == 0 {
		return nil, &PasswordError{} // the library would take the key for one that is not encrypted
	}
	key, _, err := pkcs8.ParsePrivateKey(der, password)
	if err != nil {
		return nil, &PasswordError{}
	}
	return key, nil
}

func parseDER(der []byte, v any) error {
	rest, err := asn1.Unmarshal(der, v)
	if err == nil && len(bytes.TrimSpace(rest)) > 0 {
		err = fmt.Errorf("%d bytes behind it", len(rest))
	}
	if err != nil {
		return &KeyError{Reason: "not encrypted PKCS#8", Err: err}
	}
	return nil
}

func supported(what string, have pkix.AlgorithmIdentifier, want ...string) error {
	if !slices.Contains(want, have.Algorithm.String()) {
		return &KeyError{Reason: fmt.Sprintf("%s %s is not supported; convert the key with 'openssl pkcs8'", what, have.Algorithm)}
	}
	return nil
}
