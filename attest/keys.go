package attest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"slices"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore/pkg/signature"
)

// MaxKeyFile bounds the bytes of a file of public keys.
const MaxKeyFile = 1 << 20

// KeyError says why a key cannot be used.
type KeyError struct {
	Reason string
	Err    error // the cause, if there is one
}

func (e *KeyError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("public key: %s: %v", e.Reason, e.Err)
	}
	return "public key: " + e.Reason
}

func (e *KeyError) Unwrap() error { return e.Err }

// ParsePublicKeys reads one or more PEM blocks "PUBLIC KEY" (PKIX, RFC 5280), each an ECDSA P-256 or an Ed25519 key, as
// cosign writes them to cosign.pub. Anything else in the file is an error (*KeyError): half a key file must not quietly
// become a smaller set of trusted keys. A key that is given twice is returned once.
func ParsePublicKeys(data []byte) ([]crypto.PublicKey, error) {
	if len(data) > MaxKeyFile {
		return nil, &KeyError{Reason: fmt.Sprintf("%d bytes, the limit is %d", len(data), MaxKeyFile)}
	}
	var keys []crypto.PublicKey
	seen := make(map[string]struct{})
	for rest := bytes.TrimSpace(data); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		// pem.Decode skips what it does not understand; a key with a damaged first line would vanish.
		if !bytes.HasPrefix(rest, []byte("-----BEGIN ")) {
			return nil, &KeyError{Reason: "text outside of a PEM block"}
		}
		next := rest
		block, tail := pem.Decode(next)
		if block == nil {
			return nil, &KeyError{Reason: "not a PEM block"}
		}
		if n := bytes.Count(next[:len(next)-len(tail)], []byte("-----BEGIN ")); n != 1 {
			return nil, &KeyError{Reason: "a damaged PEM block"}
		}
		if block.Type != "PUBLIC KEY" {
			return nil, &KeyError{Reason: fmt.Sprintf("PEM block %q, want \"PUBLIC KEY\"", block.Type)}
		}
		pub, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, &KeyError{Reason: "not a PKIX public key", Err: err}
		}
		if err := checkKey(pub); err != nil {
			return nil, err
		}
		if len(keys) == MaxKeys {
			return nil, &KeyError{Reason: fmt.Sprintf("more than %d keys", MaxKeys)}
		}
		if _, dup := seen[KeyID(pub)]; !dup {
			seen[KeyID(pub)] = struct{}{}
			keys = append(keys, pub)
		}
		rest = tail
	}
	if len(keys) == 0 {
		return nil, &KeyError{Reason: "no PEM block \"PUBLIC KEY\""}
	}
	return keys, nil
}

// KeyID names a public key: the SHA-256 of its PKIX DER form, in lower-case hex. It is "" for a key that this package
// does not accept.
func KeyID(pub crypto.PublicKey) string {
	if checkKey(pub) != nil {
		return ""
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// checkKey accepts the two kinds of keys for which signatures are unambiguous: with RSA or P-384 the verifiers in the
// field do not agree on padding and hash.
func checkKey(pub crypto.PublicKey) error {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		if k == nil || k.Curve != elliptic.P256() {
			return &KeyError{Reason: "an ECDSA key on another curve than P-256"}
		}
		return nil
	case ed25519.PublicKey:
		if len(k) != ed25519.PublicKeySize {
			return &KeyError{Reason: fmt.Sprintf("an Ed25519 key of %d bytes", len(k))}
		}
		return nil
	default:
		return &KeyError{Reason: fmt.Sprintf("a key of type %T: want ECDSA P-256 or Ed25519", pub)}
	}
}

// trustedKey is a key in the shapes that the verifiers want.
type trustedKey struct {
	id       string
	verifier signature.Verifier
	material root.TrustedMaterial
}

type keyring []trustedKey

func newKeyring(pubs []crypto.PublicKey) (keyring, error) {
	if len(pubs) > MaxKeys {
		return nil, &KeyError{Reason: fmt.Sprintf("%d keys, the limit is %d", len(pubs), MaxKeys)}
	}
	ring := make(keyring, 0, len(pubs))
	for _, pub := range pubs {
		if err := checkKey(pub); err != nil {
			return nil, err
		}
		// A key that is given twice, perhaps in two encodings, must not fill a threshold of two.
		if slices.Contains(ring.ids(), KeyID(pub)) {
			continue
		}
		v, err := signature.LoadVerifier(pub, crypto.SHA256)
		if err != nil {
			return nil, &KeyError{Reason: "cannot verify with it", Err: err}
		}
		// A key has no validity period here: the zero times make it valid without asking a clock. The hint in a Sigstore
		// bundle is not signed, so that every key is tried whatever the hint says.
		timeless := root.NewExpiringKey(v, time.Time{}, time.Time{})
		ring = append(ring, trustedKey{
			id:       KeyID(pub),
			verifier: v,
			material: root.NewTrustedPublicKeyMaterial(func(string) (root.TimeConstrainedVerifier, error) { return timeless, nil }),
		})
	}
	return ring, nil
}

func (r keyring) ids() []string {
	ids := make([]string, len(r))
	for i, k := range r {
		ids[i] = k.id
	}
	return ids
}
