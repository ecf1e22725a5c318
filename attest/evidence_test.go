package attest_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/attest/sign"
	"github.com/plimsoll/plimsoll/bundle/media"
)

// evidence is an honest Evidence in memory that can be made to fail.
type evidence struct {
	blobs   map[digest.Digest][]byte
	refs    map[digest.Digest][]media.Referrer
	opened  int
	openErr map[digest.Digest]error
	listErr error
}

func newEvidence() *evidence {
	return &evidence{blobs: map[digest.Digest][]byte{}, refs: map[digest.Digest][]media.Referrer{}, openErr: map[digest.Digest]error{}}
}

func (e *evidence) Open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	e.opened++
	if err := e.openErr[desc.Digest]; err != nil {
		return nil, err
	}
	data, ok := e.blobs[desc.Digest]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

func (e *evidence) Referrers(_ context.Context, subject digest.Digest) ([]media.Referrer, error) {
	return e.refs[subject], e.listErr
}

func (e *evidence) blob(mediaType string, data []byte) ocispec.Descriptor {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	e.blobs[d.Digest] = data
	return d
}

// add puts artifacts beside subject.
func (e *evidence) add(subject ocispec.Descriptor, artifacts ...sign.Artifact) {
	for _, a := range artifacts {
		for _, b := range a.Blobs {
			e.blobs[b.Digest] = b.Data
		}
		e.refs[subject.Digest] = append(e.refs[subject.Digest], media.Referrer{Descriptor: a.Manifest, Tag: a.Tag})
	}
}

// manifest puts a manifest of the test's own beside subject.
func (e *evidence) manifest(t testing.TB, subject ocispec.Descriptor, tag string, m ocispec.Manifest) ocispec.Descriptor {
	t.Helper()
	m.Versioned = specs.Versioned{SchemaVersion: 2}
	m.MediaType = ocispec.MediaTypeImageManifest
	m.Config = e.blob(ocispec.MediaTypeEmptyJSON, []byte("{}"))
	d := e.blob(m.MediaType, encode(t, m))
	d.ArtifactType = m.ArtifactType
	e.refs[subject.Digest] = append(e.refs[subject.Digest], media.Referrer{Descriptor: d, Tag: tag})
	return d
}

// bundle puts the bytes of a Sigstore bundle beside subject.
func (e *evidence) bundle(t testing.TB, subject ocispec.Descriptor, data []byte) ocispec.Descriptor {
	t.Helper()
	return e.manifest(t, subject, "", ocispec.Manifest{
		ArtifactType: attest.MediaTypeBundle,
		Layers:       []ocispec.Descriptor{e.blob(attest.MediaTypeBundle, data)},
		Subject:      &subject,
	})
}

// legacy puts a simple-signing payload with a signature beside subject.
func (e *evidence) legacy(t testing.TB, subject ocispec.Descriptor, payload, sig []byte) ocispec.Descriptor {
	t.Helper()
	layer := e.blob(attest.MediaTypeSimpleSigning, payload)
	layer.Annotations = map[string]string{attest.AnnotationSignature: base64.StdEncoding.EncodeToString(sig)}
	return e.manifest(t, subject, attest.LegacyTag(subject.Digest), ocispec.Manifest{Layers: []ocispec.Descriptor{layer}})
}

// identity is a key with which a test can sign anything at all.
type identity struct {
	key    ed25519.PrivateKey
	signer *sign.Signer
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
	return identity{key: key, signer: s}
}

func (i identity) policy() attest.Policy {
	return attest.Policy{ReleaseKeys: []crypto.PublicKey{i.signer.Public()}}
}

func (i identity) dsse(payloadType string, payload []byte) []byte {
	return ed25519.Sign(i.key, dsse.PAE(payloadType, payload))
}

// sigstoreBundle writes a bundle with any payload and any signatures.
func sigstoreBundle(t testing.TB, hint, payloadType string, payload []byte, sigs ...[]byte) []byte {
	t.Helper()
	list := []map[string]any{}
	for _, s := range sigs {
		list = append(list, map[string]any{"sig": s})
	}
	return encode(t, map[string]any{
		"mediaType":            attest.MediaTypeBundle,
		"verificationMaterial": map[string]any{"publicKey": map[string]any{"hint": hint}},
		"dsseEnvelope":         map[string]any{"payload": payload, "payloadType": payloadType, "signatures": list},
	})
}

// signed is a bundle with one good signature over any bytes.
func (i identity) signed(t testing.TB, statement string) []byte {
	t.Helper()
	return sigstoreBundle(t, "", attest.PayloadTypeInToto, []byte(statement), i.dsse(attest.PayloadTypeInToto, []byte(statement)))
}

func signStatement(d digest.Digest) string {
	return fmt.Sprintf(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":"%s"}}],"predicateType":"https://sigstore.dev/cosign/sign/v1","predicate":{}}`, d.Encoded())
}

func simplePayload(d digest.Digest) string {
	return fmt.Sprintf(`{"critical":{"identity":{"docker-reference":"ghcr.io/acme/robot-stack"},"image":{"docker-manifest-digest":"%s"},"type":"cosign container image signature"},"optional":null}`, d)
}

func encode(t testing.TB, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// release is the descriptor of an index that nobody reads: signatures are over its digest.
func release(content string) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromString(content), Size: int64(len(content))}
}

func (e *evidence) refer(subject, manifest ocispec.Descriptor, tag string) {
	e.refs[subject.Digest] = append(e.refs[subject.Digest], media.Referrer{Descriptor: manifest, Tag: tag})
}

// bothSignatures gives the two ECDSA signatures of one message that one random number makes: (r, s) and (r, n-s).
func bothSignatures(t testing.TB, key *ecdsa.PrivateKey, payloadType, payload string) (first, second []byte) {
	t.Helper()
	sum := sha256.Sum256(dsse.PAE(payloadType, []byte(payload)))
	first, err := key.Sign(nil, sum[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	var rs struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(first, &rs); err != nil {
		t.Fatal(err)
	}
	rs.S.Sub(elliptic.P256().Params().N, rs.S)
	if second, err = asn1.Marshal(rs); err != nil {
		t.Fatal(err)
	}
	return first, second
}
