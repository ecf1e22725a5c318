package attest_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"math/big"
	"strings"
	"testing"

	"github.com/plimsoll/plimsoll/attest"
)

// newCertificate is base64 DER of a self-signed certificate.
func newCertificate(t *testing.T) string {
	t.Helper()
	key := newIdentity(t, 1).key
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1)}, &x509.Certificate{}, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(der)
}

// bundleDigest512 is the hex of the SHA-512 of nothing.
const bundleDigest512 = "cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e"

func (i identity) raw(message []byte) []byte { return ed25519.Sign(i.key, message) }

func newHint(t *testing.T, pub crypto.PublicKey) string {
	t.Helper()
	sum := sha256.Sum256(marshalKey(t, pub))
	return base64.StdEncoding.EncodeToString(sum[:])
}

func marshalKey(t testing.TB, pub crypto.PublicKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func encodeKey(t testing.TB, pub crypto.PublicKey) string {
	t.Helper()
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: marshalKey(t, pub)}))
}

func TestParsePublicKeys(t *testing.T) {
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	a, b := encodeKey(t, p256.Public()), encodeKey(t, newIdentity(t, 1).signer.Public())

	keys, err := attest.ParsePublicKeys([]byte("\n" + a + "\n" + b + a))
	if err != nil {
		t.Fatal(err)
	}
	if len(keys) != 2 || !p256.PublicKey.Equal(keys[0]) {
		t.Fatalf("got %v", keys)
	}
	sum := sha256.Sum256(marshalKey(t, p256.Public()))
	if got, want := attest.KeyID(keys[0]), hex.EncodeToString(sum[:]); got != want {
		t.Errorf("key id %s, want %s", got, want)
	}
	if id := attest.KeyID(rsaKey.Public()); id != "" {
		t.Errorf("an RSA key has the id %s", id)
	}

	for name, give := range map[string]string{
		"empty":              "",
		"text":               "hello",
		"text before":        "# ours\n" + a,
		"text after":         a + "trailing",
		"damaged first key":  strings.Replace(a, "-----END PUBLIC KEY-----", "-----END PUBLIC", 1) + b,
		"damaged second key": a + strings.Replace(b, "-----BEGIN PUBLIC KEY-----", "-----BEGIN", 1),
		"private key":        strings.ReplaceAll(a, "PUBLIC KEY", "PRIVATE KEY"),
		"not PKIX":           string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte{1, 2, 3}})),
		"P-384":              encodeKey(t, p384.Public()),
		"RSA":                encodeKey(t, rsaKey.Public()),
		"too long":           strings.Repeat(a, attest.MaxKeyFile/len(a)+1),
	} {
		var bad *attest.KeyError
		if keys, err := attest.ParsePublicKeys([]byte(give)); !errors.As(err, &bad) {
			t.Errorf("%s: got %v, %v", name, keys, err)
		}
	}
}

func FuzzParsePublicKeys(f *testing.F) {
	f.Add([]byte(encodeKey(f, newIdentity(f, 1).signer.Public())))
	f.Fuzz(func(t *testing.T, data []byte) {
		keys, err := attest.ParsePublicKeys(data)
		if err != nil {
			return
		}
		// Every key that was read is in the file, and none was skipped.
		if got, want := len(keys), strings.Count(string(data), "-----BEGIN "); got > want || got == 0 {
			t.Errorf("%d keys from %d PEM blocks", got, want)
		}
		for _, k := range keys {
			if attest.KeyID(k) == "" {
				t.Errorf("unusable key %v", k)
			}
		}
	})
}
