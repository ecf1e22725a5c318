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

// GenerateKey makes an ECDSA P-256 key, encrypted with password in cosign's format (cosign.key and cosign.pub). An empty
// password is valid and protects nothing.
//
// The key derivation is scrypt with N = 2^15, which every cosign reads and takes 32 MiB; cosign itself writes 2^16 today,
// whose 64 MiB would be most of what a build needs.
func GenerateKey(password []byte) (*KeyPair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("generate key: %w", err)
	}
	box, err := encrypted.EncryptWithCustomKDFParameters(der, password, encrypted.Legacy)
	if err != nil {
		return nil, fmt.Errorf("generate key: %w", err)
	}
	signer, err := newSigner(key)
	if err != nil {
		return nil, fmt.Errorf("generate key: %w", err)
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
	key  crypto.Signer // *ecdsa.PrivateKey on P-256, ed25519.PrivateKey, or *recording
	id   string
	hint string // base64 SHA-256 of the PKIX form, as cosign writes it into a Sigstore bundle
	pem  []byte
}

// LoadSigner reads one PEM block: an encrypted key of cosign ("ENCRYPTED SIGSTORE PRIVATE KEY" or "ENCRYPTED COSIGN
// PRIVATE KEY") or an unencrypted PKCS#8 key ("PRIVATE KEY", the password is then ignored). The key must be ECDSA P-256
// or Ed25519. It fails with *PasswordError or *KeyError.
func LoadSigner(data, password []byte) (*Signer, error) {
	if len(data) > MaxPrivateKey {
		return nil, &KeyError{Reason: fmt.Sprintf("%d bytes, the limit is %d", len(data), MaxPrivateKey)}
	}
	block, rest := pem.Decode(data)
	if block == nil {
		return nil, &KeyError{Reason: "not a PEM block"}
	}
	if next, _ := pem.Decode(rest); next != nil {
		return nil, &KeyError{Reason: fmt.Sprintf("a second PEM block %q", next.Type)}
	}
	der := block.Bytes
	switch block.Type {
	case "PRIVATE KEY":
	case cosign.SigstorePrivateKeyPemType, cosign.CosignPrivateKeyPemType:
		var err error
		if der, err = decrypt(block.Bytes, password); err != nil {
			return nil, err
		}
	default:
		return nil, &KeyError{Reason: fmt.Sprintf("PEM block %q, want %q or \"PRIVATE KEY\"", block.Type, cosign.SigstorePrivateKeyPemType)}
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, &KeyError{Reason: "not PKCS#8", Err: err}
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, &KeyError{Reason: fmt.Sprintf("a key of type %T cannot sign", key)}
	}
	return newSigner(signer)
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

// sign gives the deterministic signature of a message: ECDSA over its SHA-256 in ASN.1, or pure Ed25519, which is what
// cosign's verifiers expect of the two kinds of keys.
func (s *Signer) sign(message []byte) ([]byte, error) {
	switch key := s.key.(type) {
	case *ecdsa.PrivateKey:
		sum := sha256.Sum256(message)
		return key.Sign(nil, sum[:], crypto.SHA256) // no randomness: RFC 6979
	case ed25519.PrivateKey:
		return ed25519.Sign(key, message), nil
	case *recording:
		return key.lookup(message)
	default:
		return nil, errors.New("not an ECDSA or Ed25519 key")
	}
}
