package release_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"io/fs"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/attest/release"
	"github.com/plimsoll/plimsoll/attest/sign"
	"github.com/plimsoll/plimsoll/bundle/media"
)

// evidence is an honest attest.Evidence in memory.
type evidence struct {
	blobs map[digest.Digest][]byte
	refs  map[digest.Digest][]media.Referrer
}

func newEvidence() *evidence {
	return &evidence{blobs: map[digest.Digest][]byte{}, refs: map[digest.Digest][]media.Referrer{}}
}

func (e *evidence) Open(_ context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	data, ok := e.blobs[desc.Digest]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

func (e *evidence) Referrers(_ context.Context, subject digest.Digest) ([]media.Referrer, error) {
	return e.refs[subject], nil
}

func (e *evidence) blob(mediaType string, data []byte) ocispec.Descriptor {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	e.blobs[d.Digest] = data
	return d
}

func (e *evidence) add(subject ocispec.Descriptor, a sign.Artifact) {
	for _, b := range a.Blobs {
		e.blobs[b.Digest] = b.Data
	}
	e.refs[subject.Digest] = append(e.refs[subject.Digest], media.Referrer{Descriptor: a.Manifest, Tag: a.Tag})
}

// bundle puts the bytes of a Sigstore bundle beside subject, with a claim of its predicate type.
func (e *evidence) bundle(t testing.TB, subject ocispec.Descriptor, predicateType string, data []byte) {
	t.Helper()
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: attest.MediaTypeBundle,
		Config: e.blob(ocispec.MediaTypeEmptyJSON, []byte("{}")), Layers: []ocispec.Descriptor{e.blob(attest.MediaTypeBundle, data)},
		Subject: &subject, Annotations: map[string]string{attest.AnnotationPredicateType: predicateType},
	}
	d := e.blob(m.MediaType, encode(t, m))
	d.ArtifactType = m.ArtifactType
	e.refs[subject.Digest] = append(e.refs[subject.Digest], media.Referrer{Descriptor: d})
}

func encode(t testing.TB, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// identity is a key with which a test can sign anything at all.
type identity struct {
	*sign.Signer
	key ed25519.PrivateKey
}

// newIdentity derives a key from one byte, so that failures repeat.
func newIdentity(t testing.TB, seed byte) identity {
	t.Helper()
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	s, err := sign.LoadSigner(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil)
	if err != nil {
		t.Fatal(err)
	}
	return identity{s, key}
}

// signed is a Sigstore bundle with one good signature over any bytes.
func (i identity) signed(t testing.TB, statement string) []byte {
	t.Helper()
	return encode(t, map[string]any{
		"mediaType":            attest.MediaTypeBundle,
		"verificationMaterial": map[string]any{"publicKey": map[string]any{"hint": ""}},
		"dsseEnvelope": map[string]any{"payload": []byte(statement), "payloadType": attest.PayloadTypeInToto,
			"signatures": []any{map[string]any{"sig": ed25519.Sign(i.key, dsse.PAE(attest.PayloadTypeInToto, []byte(statement)))}}},
	})
}

// file is a statement file with any payload, signed by all of them.
func file(t testing.TB, statement string, signers ...identity) []byte {
	t.Helper()
	var out []byte
	for _, s := range signers {
		out = append(append(out, s.signed(t, statement)...), '\n')
	}
	return out
}

func keys(threshold int, signers ...identity) release.Keys {
	k := release.Keys{Threshold: threshold}
	for _, s := range signers {
		k.Keys = append(k.Keys, s.Public())
	}
	return k
}

func index(content string) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromString(content), Size: int64(len(content))}
}

// must gives a value or ends the test.
func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// payloadOf is the statement as attest/sign writes it.
func payloadOf(t testing.TB, st attest.Statement) string {
	t.Helper()
	line := must[[]byte](t)(newIdentity(t, 1).SignStatement(st))
	_, payload, err := attest.PeekStatementFile(line)
	if err != nil {
		t.Fatal(err)
	}
	return string(payload)
}

const name = "robot-stack"

var (
	root      = index("index")
	elsewhere = index("another index")
)

func stable() *release.Release {
	return &release.Release{Channel: "stable", Sequence: 41, Version: "1.4.0", IssuedAt: "2026-03-01T08:00:00Z", UseBy: "2026-09-01T08:00:00Z",
		Epoch: 3, MinRelay: "1.2.0", Sites: []string{"plant-1", "plant-7"}, Supersedes: elsewhere.Digest}
}

func approval() *release.Approval {
	return &release.Approval{Channel: "stable", Sequence: 41, IssuedAt: "2026-03-02T08:00:00Z", UseBy: "2026-04-02T08:00:00Z", Sites: []string{"plant-7"}}
}

func permit() *release.Permit {
	return &release.Permit{ID: strings.Repeat("0a", 16), Site: "plant-7", Relay: strings.Repeat("ab", 32),
		Overrides: []release.Check{release.CheckNameExpired, release.CheckNameOlder}, Reason: "Förderband steht", IssuedAt: "2026-03-02T08:00:00Z",
		NotAfter: "2026-03-09T08:00:00Z"}
}

func revocation() *release.Revocation {
	return &release.Revocation{Number: 7, IssuedAt: "2026-03-02T08:00:00Z", Epoch: 2, Bundles: []digest.Digest{"sha256:" + digest.Digest(strings.Repeat("1a", 32))},
		Images: []digest.Digest{"sha256:" + digest.Digest(strings.Repeat("2b", 32))}, Keys: []string{strings.Repeat("3c", 32)}}
}

func publics(signers ...identity) []crypto.PublicKey { return keys(1, signers...).Keys }

// swapPayload puts another payload under the signature of a bundle.
func swapPayload(data []byte, payload string) (string, error) {
	var b map[string]any
	if err := json.Unmarshal(data, &b); err != nil {
		return "", err
	}
	b["dsseEnvelope"].(map[string]any)["payload"] = []byte(payload)
	out, err := json.Marshal(b)
	return string(out), err
}
