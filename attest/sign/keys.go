// Package sign makes what package attest verifies: keys, signatures of manifests in both forms that cosign knows, and
// signed in-toto attestations.
//
// All of it is deterministic: the same key and the same input give the same bytes (ECDSA nonces follow RFC 6979, JSON is
// compact and in a fixed order, nothing carries a time), so that a bundle can be rebuilt to the same digest.
package sign

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/secure-systems-lab/go-securesystemslib/encrypted"
	"github.com/sigstore/cosign/v2/pkg/cosign"

	"github.com/plimsoll/plimsoll/attest"
)

// MaxPrivateKey bounds the bytes of a private key file.
const MaxPrivateKey = 64 << 10

// KeyPair is a new key as cosign stores it.
type KeyPair struct {
	Private []byte // PEM "ENCRYPTED SIGSTORE PRIVATE KEY": scrypt and NaCl secretbox over PKCS#8
	Public  []byte // PEM "PUBLIC KEY"
	ID      string // attest.KeyID
}

// Kind is a kind of key.
type Kind string

// The kinds of keys that every verifier in the field takes.
const (
	ECDSA   Kind = "ecdsa"   // on P-256; what cosign makes
	Ed25519 Kind = "ed25519" //
)

// GenerateKey is Generate of an ECDSA key.
func GenerateKey(password []byte) (*KeyPair, error) { return Generate(ECDSA, password) }

// Generate makes a key, encrypted with password in cosign's format (cosign.key and cosign.pub). An empty password is
// valid and protects nothing.
//
// The key derivation is scrypt with N = 2^15, which every cosign reads and takes 32 MiB; cosign itself writes 2^16 today,
// whose 64 MiB would be most of what a build needs.
func Generate(kind Kind, password []byte) (*KeyPair, error) {
	var key crypto.Signer
	var err error
	switch kind {
	case ECDSA:
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case Ed25519:
		_, key, err = ed25519.GenerateKey(rand.Reader)
	default:
		err = &KeyError{Reason: fmt.Sprintf("kind %q: want %s or %s", kind, ECDSA, Ed25519)}
	}
	if err != nil {
		return nil, fmt.Errorf("generate key: %w", err)
	}
	pair, err := encrypt(key, password)
	if err != nil {
		return nil, fmt.Errorf("generate key: %w", err)
	}
	return pair, nil
}

// Import reads a private key as LoadSigner does and gives it in cosign's format, encrypted with another password.
func Import(data, password, newPassword []byte) (*KeyPair, error) {
	key, err := parsePrivateKey(data, password)
	if err != nil {
		return nil, err
	}
	return encrypt(key, newPassword)
}

func encrypt(key crypto.Signer, password []byte) (*KeyPair, error) {
	signer, err := newSigner(key)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	box, err := encrypted.EncryptWithCustomKDFParameters(der, password, encrypted.Legacy)
	if err != nil {
		return nil, err
	}
	return &KeyPair{
		Private: pem.EncodeToMemory(&pem.Block{Type: cosign.SigstorePrivateKeyPemType, Bytes: box}),
		Public:  signer.PublicPEM(),
		ID:      signer.KeyID(),
	}, nil
}

// KeyError says why a private key cannot be used.
type KeyError struct {
	Reason string
	Err    error // the cause, if there is one
}

func (e *KeyError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("private key: %s: %v", e.Reason, e.Err)
	}
	return "private key: " + e.Reason
}

func (e *KeyError) Unwrap() error { return e.Err }

// PasswordError says that a private key could not be decrypted: the password is wrong or the encrypted bytes were
// changed; the format cannot tell these apart.
type PasswordError struct{}

func (e *PasswordError) Error() string { return "private key: wrong password" }

// Signer signs with one private key. It is safe for concurrent use.
type Signer struct {
	key  crypto.Signer // *ecdsa.PrivateKey on P-256, ed25519.PrivateKey, *recording or *plugin
	id   string
	hint string // base64 SHA-256 of the PKIX form, as cosign writes it into a Sigstore bundle
	pem  []byte
}

// LoadSigner reads a private key in PEM, which must be ECDSA P-256 or Ed25519. It is encrypted in cosign's form ("ENCRYPTED
// SIGSTORE PRIVATE KEY", "ENCRYPTED COSIGN PRIVATE KEY") or as PKCS#8 ("ENCRYPTED PRIVATE KEY": PBES2 with PBKDF2); or it
// is not, as PKCS#8 ("PRIVATE KEY") or SEC 1 ("EC PRIVATE KEY"), and then the password is ignored. It fails with
// *PasswordError or *KeyError.
func LoadSigner(data, password []byte) (*Signer, error) {
	key, err := parsePrivateKey(data, password)
	if err != nil {
		return nil, err
	}
	return newSigner(key)
}

// IsEncrypted reports whether LoadSigner will need a password.
func IsEncrypted(data []byte) bool {
	block, err := onlyBlock(data)
	return err == nil && strings.HasPrefix(block.Type, "ENCRYPTED ")
}

// onlyBlock gives the one PEM block of a file. OpenSSL writes the name of the curve before the key.
func onlyBlock(data []byte) (*pem.Block, error) {
	if len(data) > MaxPrivateKey {
		return nil, &KeyError{Reason: fmt.Sprintf("%d bytes, the limit is %d", len(data), MaxPrivateKey)}
	}
	block, rest := pem.Decode(data)
	if block != nil && block.Type == "EC PARAMETERS" {
		block, rest = pem.Decode(rest)
	}
	if block == nil {
		return nil, &KeyError{Reason: "not a PEM block"}
	}
	if next, _ := pem.Decode(rest); next != nil {
		return nil, &KeyError{Reason: fmt.Sprintf("a second PEM block %q", next.Type)}
	}
	return block, nil
}

func parsePrivateKey(data, password []byte) (crypto.Signer, error) {
	block, err := onlyBlock(data)
	if err != nil {
		return nil, err
	}
	der := block.Bytes
	switch block.Type {
	case "PRIVATE KEY":
	case "EC PRIVATE KEY":
		if len(block.Headers) > 0 {
			return nil, &KeyError{Reason: "encrypted as OpenSSL did before PKCS#8; convert it with 'openssl pkcs8 -topk8'"}
		}
		key, err := x509.ParseECPrivateKey(der)
		if err != nil {
			return nil, &KeyError{Reason: "not SEC 1", Err: err}
		}
		return key, nil
	case "ENCRYPTED PRIVATE KEY":
		key, err := decryptPKCS8(der, password)
		if err != nil {
			return nil, err
		}
		return canSign(key)
	case cosign.SigstorePrivateKeyPemType, cosign.CosignPrivateKeyPemType:
		if der, err = decrypt(der, password); err != nil {
			return nil, err
		}
	default:
		return nil, &KeyError{Reason: fmt.Sprintf("PEM block %q, want %q or \"PRIVATE KEY\"", block.Type, cosign.SigstorePrivateKeyPemType)}
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, &KeyError{Reason: "not PKCS#8", Err: err}
	}
	return canSign(key)
}

func canSign(key any) (crypto.Signer, error) {
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, &KeyError{Reason: fmt.Sprintf("a key of type %T cannot sign", key)}
	}
	return signer, nil
}

// decrypt tells a wrong password from bytes that no password opens. encrypted.Decrypt has no typed errors, so that its
// preconditions are checked here first.
func decrypt(data, password []byte) ([]byte, error) {
	var box struct {
		KDF struct {
			Name   string
			Params struct{ N, R, P int }
		}
		Cipher struct {
			Name  string
			Nonce []byte
		}
		Ciphertext []byte
	}
	if err := json.Unmarshal(data, &box); err != nil {
		return nil, &KeyError{Reason: "not cosign's encrypted form", Err: err}
	}
	params := box.KDF.Params
	if box.KDF.Name != "scrypt" || !slices.Contains([]int{1 << 15, 1 << 16, 1 << 17}, params.N) || params.R != 8 || params.P != 1 {
		return nil, &KeyError{Reason: fmt.Sprintf("key derivation %q with N=%d r=%d p=%d is not supported", box.KDF.Name, params.N, params.R, params.P)}
	}
	if box.Cipher.Name != "nacl/secretbox" || len(box.Cipher.Nonce) != 24 {
		return nil, &KeyError{Reason: fmt.Sprintf("cipher %q is not supported", box.Cipher.Name)}
	}
	der, err := encrypted.Decrypt(data, password)
	if err != nil {
		return nil, &PasswordError{}
	}
	return der, nil
}

func newSigner(key crypto.Signer) (*Signer, error) {
	id := attest.KeyID(key.Public())
	if id == "" {
		return nil, &KeyError{Reason: fmt.Sprintf("a key of type %T: want ECDSA P-256 or Ed25519", key)}
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, &KeyError{Reason: "its public half cannot be encoded", Err: err}
	}
	sum := sha256.Sum256(der)
	return &Signer{
		key:  key,
		id:   id,
		hint: base64.StdEncoding.EncodeToString(sum[:]),
		pem:  pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}),
	}, nil
}

// KeyID is attest.KeyID of the public key.
func (s *Signer) KeyID() string { return s.id }

// Public is the public key.
func (s *Signer) Public() crypto.PublicKey { return s.key.Public() }

// PublicPEM is the public key as cosign writes it to cosign.pub.
func (s *Signer) PublicPEM() []byte { return slices.Clone(s.pem) }

// sign gives the signature of a message, which is deterministic unless another program makes it: ECDSA over its SHA-256
// in ASN.1, or pure Ed25519, which is what cosign's verifiers expect of the two kinds of keys.
func (s *Signer) sign(message []byte) ([]byte, error) {
	switch key := s.key.(type) {
	case *ecdsa.PrivateKey:
		sum := sha256.Sum256(message)
		return key.Sign(nil, sum[:], crypto.SHA256) // no randomness: RFC 6979
	case ed25519.PrivateKey:
		return ed25519.Sign(key, message), nil
	case *recording:
		return key.lookup(message)
	case *plugin:
		return key.sign(message)
	default:
		return nil, errors.New("not an ECDSA or Ed25519 key")
	}
}
