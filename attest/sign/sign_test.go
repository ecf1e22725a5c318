package sign_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sigstore/cosign/v2/pkg/cosign"
	"github.com/sigstore/cosign/v2/pkg/oci/empty"
	"github.com/sigstore/cosign/v2/pkg/oci/mutate"
	"github.com/sigstore/cosign/v2/pkg/oci/static"
	sigstore "github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/payload"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/attest/sign"
)

const repository = "ghcr.io/acme/robot-stack"

var subject = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromString("index"), Size: 5}

func pkcs8(t *testing.T, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// fixedSigners are keys that are the same in every run.
func fixedSigners(t *testing.T) map[string]*sign.Signer {
	t.Helper()
	scalar := bytes.Repeat([]byte{7}, 32)
	ec, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), scalar)
	if err != nil {
		t.Fatal(err)
	}
	signers := make(map[string]*sign.Signer)
	for kind, key := range map[string]any{"ecdsa": ec, "ed25519": ed25519.NewKeyFromSeed(scalar)} {
		if signers[kind], err = sign.LoadSigner(pkcs8(t, key), nil); err != nil {
			t.Fatal(err)
		}
	}
	return signers
}

func TestGeneratedKey(t *testing.T) {
	pair, err := sign.GenerateKey([]byte("s3cret"))
	if err != nil {
		t.Fatal(err)
	}
	signer, err := sign.LoadSigner(pair.Private, []byte("s3cret"))
	if err != nil {
		t.Fatal(err)
	}
	if signer.KeyID() != pair.ID || !bytes.Equal(signer.PublicPEM(), pair.Public) {
		t.Errorf("loaded %s\n%s\ngenerated %s\n%s", signer.KeyID(), signer.PublicPEM(), pair.ID, pair.Public)
	}
	theirs, err := cosign.LoadPrivateKey(pair.Private, []byte("s3cret"), nil)
	if err != nil {
		t.Fatalf("cosign: %v", err)
	}
	pub, err := theirs.PublicKey()
	if err != nil || attest.KeyID(pub) != pair.ID {
		t.Errorf("cosign reads key %s (%v), want %s", attest.KeyID(pub), err, pair.ID)
	}

	var wrong *sign.PasswordError
	for _, password := range []string{"", "S3cret"} {
		if _, err := sign.LoadSigner(pair.Private, []byte(password)); !errors.As(err, &wrong) {
			t.Errorf("password %q: got %v", password, err)
		}
	}
}

func TestLoadSignerRefuses(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := sign.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(pair.Private)
	encrypted := func(old, new string) []byte {
		t.Helper()
		changed := strings.Replace(string(block.Bytes), old, new, 1)
		if changed == string(block.Bytes) {
			t.Fatalf("%q is not in %s", old, block.Bytes)
		}
		return pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: []byte(changed)})
	}
	for kind, give := range map[string][]byte{
		"empty":           nil,
		"public key":      pair.Public,
		"two keys":        append(bytes.Clone(pair.Private), pair.Private...),
		"P-384":           pkcs8(t, p384),
		"RSA":             pkcs8(t, rsaKey),
		"not PKCS#8":      pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")}),
		"not JSON":        encrypted("{", "["),
		"costly scrypt":   encrypted(`"N":32768`, `"N":1073741824`),
		"another cipher":  encrypted("nacl/secretbox", "aes"),
		"too long a file": bytes.Repeat([]byte("x"), sign.MaxPrivateKey+1),
	} {
		var bad *sign.KeyError
		if _, err := sign.LoadSigner(give, nil); !errors.As(err, &bad) {
			t.Errorf("%s: got %v, want *KeyError", kind, err)
		}
	}
}

func TestArtifactsAreComplete(t *testing.T) {
	for kind, signer := range fixedSigners(t) {
		artifacts, err := signer.SignManifest(subject, repository)
		if err != nil {
			t.Fatal(err)
		}
		if len(artifacts) != 2 || artifacts[0].Tag != "" || artifacts[1].Tag != "sha256-"+subject.Digest.Encoded()+".sig" {
			t.Fatalf("%s: %+v", kind, artifacts)
		}
		for _, a := range artifacts {
			have := make(map[digest.Digest]bool)
			for i, b := range a.Blobs {
				if digest.FromBytes(b.Data) != b.Digest || int64(len(b.Data)) != b.Size {
					t.Errorf("%s: blob %d is not what its descriptor says", kind, i)
				}
				have[b.Digest] = true
			}
			last := a.Blobs[len(a.Blobs)-1]
			if !reflect.DeepEqual(last.Descriptor, a.Manifest) {
				t.Errorf("%s: last blob %v, want the manifest %v", kind, last.Descriptor, a.Manifest)
			}
			var m ocispec.Manifest
			if err := json.Unmarshal(last.Data, &m); err != nil {
				t.Fatal(err)
			}
			for _, d := range append(m.Layers, m.Config) {
				if !have[d.Digest] {
					t.Errorf("%s: %s is named and not given", kind, d.Digest)
				}
			}
		}
	}
}

// The digests pin every byte. A change of them is a change of the digest of every bundle that is built again.
func TestSignaturesAreDeterministic(t *testing.T) {
	want := map[string][2]string{
		"ecdsa":   {"ea1b228f7924816a25731fb8503bb9dbd2e7d9fa7a913c7f9537d8b67f033004", "c1840c4f4f0221ebc6345355cf2d2ce93a3c139ce07f0dc66737d2284e3ae2ce"},
		"ed25519": {"58c30fccf2476dec539ff2ff376b5fefe524f9e72db120f06d893002a15d571c", "af3ab41bcfee52e76de4288cb74b7ca1cbded37731b1a9de64ededa4cbe460c4"},
	}
	for kind, signer := range fixedSigners(t) {
		for range 2 {
			artifacts, err := signer.SignManifest(subject, repository)
			if err != nil {
				t.Fatal(err)
			}
			got := [2]string{artifacts[0].Manifest.Digest.Encoded(), artifacts[1].Manifest.Digest.Encoded()}
			if got != want[kind] {
				t.Errorf("%s: manifests %q, want %q", kind, got, want[kind])
			}
		}
	}
}

func decoded(t *testing.T, data []byte) any {
	t.Helper()
	var v any
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// The legacy form must be what cosign's own code makes of the same signature: payload and config byte for byte, and the
// manifest but for the order of digest and size.
func TestSimpleSigningIsCosigns(t *testing.T) {
	for kind, signer := range fixedSigners(t) {
		artifacts, err := signer.SignManifest(subject, repository)
		if err != nil {
			t.Fatal(err)
		}
		blobs := artifacts[1].Blobs
		config, layer, manifest := blobs[0], blobs[1], blobs[2]

		image, err := name.NewDigest(repository + "@" + subject.Digest.String())
		if err != nil {
			t.Fatal(err)
		}
		message, err := payload.Cosign{Image: image}.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(layer.Data, message) {
			t.Errorf("%s: payload %s, cosign writes %s", kind, layer.Data, message)
		}
		sig, err := static.NewSignature(message, layer.Annotations[attest.AnnotationSignature])
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := mutate.AppendSignatures(empty.Signatures(), false, sig)
		if err != nil {
			t.Fatal(err)
		}
		theirManifest, err := theirs.RawManifest()
		if err != nil {
			t.Fatal(err)
		}
		theirConfig, err := theirs.RawConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(config.Data, theirConfig) {
			t.Errorf("%s: config %s, cosign writes %s", kind, config.Data, theirConfig)
		}
		if !reflect.DeepEqual(decoded(t, manifest.Data), decoded(t, theirManifest)) {
			t.Errorf("%s: manifest %s, cosign writes %s", kind, manifest.Data, theirManifest)
		}
	}
}

// Sigstore's own verifier, with everything that it checks, must accept the bundle form for this key and digest only.
func TestBundleVerifiesWithSigstore(t *testing.T) {
	signers := fixedSigners(t)
	for kind, signer := range signers {
		artifacts, err := signer.SignManifest(subject, repository)
		if err != nil {
			t.Fatal(err)
		}
		for trusted, key := range signers {
			for _, d := range []digest.Digest{subject.Digest, digest.FromString("other")} {
				err := sigstoreVerify(t, artifacts[0].Blobs[1].Data, key.Public(), d)
				if good := kind == trusted && d == subject.Digest; (err == nil) != good {
					t.Errorf("signed by %s, verified with %s for %s: %v", kind, trusted, d, err)
				}
			}
		}
	}
}

func sigstoreVerify(t *testing.T, data []byte, pub crypto.PublicKey, d digest.Digest) error {
	t.Helper()
	var b sigstore.Bundle
	if err := b.UnmarshalJSON(data); err != nil {
		t.Fatal(err)
	}
	verifier, err := signature.LoadVerifier(pub, crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	key := root.NewExpiringKey(verifier, time.Time{}, time.Time{})
	material := root.NewTrustedPublicKeyMaterial(func(string) (root.TimeConstrainedVerifier, error) { return key, nil })
	v, err := verify.NewVerifier(material, verify.WithNoObserverTimestamps())
	if err != nil {
		t.Fatal(err)
	}
	sum, err := hex.DecodeString(d.Encoded())
	if err != nil {
		t.Fatal(err)
	}
	_, err = v.Verify(&b, verify.NewPolicy(verify.WithArtifactDigest("sha256", sum), verify.WithKey()))
	return err
}

func TestAttestRefuses(t *testing.T) {
	signer := fixedSigners(t)["ed25519"]
	elsewhere := []attest.Subject{{Digest: map[string]string{"sha256": digest.FromString("other").Encoded()}}}
	sha512 := subject
	sha512.Digest = digest.SHA512.FromString("index")
	for kind, c := range map[string]struct {
		statement attest.Statement
		subject   ocispec.Descriptor
	}{
		"no predicate type":      {attest.Statement{Predicate: []byte("{}")}, subject},
		"no predicate":           {attest.Statement{PredicateType: "x"}, subject},
		"a list":                 {attest.Statement{PredicateType: "x", Predicate: []byte("[]")}, subject},
		"duplicate keys":         {attest.Statement{PredicateType: "x", Predicate: []byte(`{"a":1,"a":2}`)}, subject},
		"about something else":   {attest.Statement{PredicateType: "x", Predicate: []byte("{}"), Subjects: elsewhere}, subject},
		"sha512":                 {attest.Statement{PredicateType: "x", Predicate: []byte("{}")}, sha512},
		"no descriptor":          {attest.Statement{PredicateType: "x", Predicate: []byte("{}")}, ocispec.Descriptor{}},
		"larger than verifiable": {attest.Statement{PredicateType: "x", Predicate: []byte(`{"a":"` + strings.Repeat("x", attest.MaxAttestation) + `"}`)}, subject},
	} {
		if _, err := signer.Attest(c.statement, c.subject); err == nil {
			t.Errorf("%s: accepted", kind)
		}
	}
	for _, repository := range []string{"", "Not A Repository"} {
		if _, err := signer.SignManifest(subject, repository); err == nil {
			t.Errorf("repository %q: accepted", repository)
		}
	}
}

func TestAttestWithSeveralSubjects(t *testing.T) {
	signer := fixedSigners(t)["ecdsa"]
	subjects := []attest.Subject{
		{Name: "other", Digest: map[string]string{"sha256": digest.FromString("other").Encoded()}},
		{Name: "robot-stack", Digest: map[string]string{"sha256": subject.Digest.Encoded()}},
	}
	a, err := signer.Attest(attest.Statement{PredicateType: "https://example.com/x", Predicate: []byte(" {\n}"), Subjects: subjects}, subject)
	if err != nil {
		t.Fatal(err)
	}
	if err := sigstoreVerify(t, a.Blobs[1].Data, signer.Public(), subject.Digest); err != nil {
		t.Error(err)
	}
}
