package policy_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/attest/policy"
	"github.com/plimsoll/plimsoll/attest/sign"
	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/bundle/media"
)

// world is a bundle in memory whose evidence a test puts there.
type world struct {
	mu    sync.Mutex
	blobs map[digest.Digest][]byte
	made  map[digest.Digest]func() io.Reader // blobs that are too large to keep
	fail  map[digest.Digest]error
	lie   map[digest.Digest][][]byte // what the first openings give
	refs  map[digest.Digest][]media.Referrer
	list  error
	b     *bundle.Bundle
}

func newWorld() *world {
	w := &world{blobs: map[digest.Digest][]byte{}, made: map[digest.Digest]func() io.Reader{}, fail: map[digest.Digest]error{},
		lie: map[digest.Digest][][]byte{}, refs: map[digest.Digest][]media.Referrer{}}
	w.b = &bundle.Bundle{Root: w.descriptor(ocispec.MediaTypeImageIndex, "root"),
		Lock: &bundle.Lock{Name: "robot-stack", Version: "v1.5.4"}}
	w.b.LockManifest.Layers = make([]ocispec.Descriptor, 2)
	return w
}

func (w *world) Open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.fail[desc.Digest]; err != nil {
		return nil, err
	}
	if lies := w.lie[desc.Digest]; len(lies) > 0 {
		w.lie[desc.Digest] = lies[1:]
		return io.NopCloser(bytes.NewReader(lies[0])), nil
	}
	if made := w.made[desc.Digest]; made != nil {
		return io.NopCloser(made()), nil
	}
	data, ok := w.blobs[desc.Digest]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

func (w *world) Referrers(_ context.Context, subject digest.Digest) ([]media.Referrer, error) {
	return w.refs[subject], w.list
}

func (w *world) descriptor(mediaType, content string) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromString(content), Size: int64(len(content))}
}

func (w *world) blob(mediaType string, data []byte) ocispec.Descriptor {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	w.blobs[d.Digest] = data
	return d
}

// image adds an image of one manifest.
func (w *world) image(name string) ocispec.Descriptor {
	d := w.descriptor(ocispec.MediaTypeImageManifest, name)
	w.b.Lock.Items = append(w.b.Lock.Items, bundle.Item{Name: name, Kind: bundle.KindImage, Descriptor: d,
		Repository: "ghcr.io/acme/" + name, Platforms: []bundle.Platform{{Platform: "linux/amd64", Digest: d.Digest}}})
	return d
}

// index adds an image of several platforms, and gives the index and its manifests.
func (w *world) index(name string, platforms ...string) (ocispec.Descriptor, []ocispec.Descriptor) {
	doc := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	it := bundle.Item{Name: name, Kind: bundle.KindImage, Repository: "ghcr.io/acme/" + name}
	for _, p := range platforms {
		m := w.descriptor(ocispec.MediaTypeImageManifest, name+p)
		it.Platforms = append(it.Platforms, bundle.Platform{Platform: p, Digest: m.Digest})
		switch p {
		case "unknown": // BuildKit's
			m.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
			m.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest"}
		case "unknown2": // an image that hides among them
			it.Platforms[len(it.Platforms)-1].Platform = "unknown"
			m.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest"}
		}
		doc.Manifests = append(doc.Manifests, m)
	}
	data, _ := json.Marshal(doc)
	it.Descriptor = w.blob(ocispec.MediaTypeImageIndex, data)
	layer := it.Descriptor
	layer.MediaType = bundle.MediaTypeIndexLayer
	w.b.LockManifest.Layers = append(w.b.LockManifest.Layers, layer)
	w.b.Lock.Items = append(w.b.Lock.Items, it)
	return it.Descriptor, doc.Manifests
}

// carry puts an artifact into the bundle, or beside it when its subject is the root.
func (w *world) carry(subject ocispec.Descriptor, a sign.Artifact) ocispec.Descriptor {
	for _, b := range a.Blobs {
		w.blobs[b.Digest] = b.Data
	}
	w.refer(subject, a.Manifest, a.Tag)
	return a.Manifest
}

func (w *world) refer(subject, manifest ocispec.Descriptor, tag string) {
	if subject.Digest == w.b.Root.Digest {
		w.refs[subject.Digest] = append(w.refs[subject.Digest], media.Referrer{Descriptor: manifest, Tag: tag})
		return
	}
	it := bundle.Item{Name: fmt.Sprintf("ref-%d", len(w.b.Lock.Items)), Kind: bundle.KindReferrer, Descriptor: manifest, Subject: subject.Digest}
	if tag != "" {
		it.Tags = []string{tag}
	}
	w.b.Lock.Items = append(w.b.Lock.Items, it)
}

// raw puts the bytes of a Sigstore bundle beside subject.
func (w *world) raw(t testing.TB, subject ocispec.Descriptor, hint string, data []byte) ocispec.Descriptor {
	t.Helper()
	return w.manifest(t, subject, hint, w.blob(attest.MediaTypeBundle, data))
}

func (w *world) manifest(t testing.TB, subject ocispec.Descriptor, hint string, layers ...ocispec.Descriptor) ocispec.Descriptor {
	t.Helper()
	data, err := json.Marshal(ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		ArtifactType: attest.MediaTypeBundle, Config: w.blob(ocispec.MediaTypeEmptyJSON, []byte("{}")), Layers: layers, Subject: &subject,
		Annotations: map[string]string{attest.AnnotationPredicateType: hint}})
	if err != nil {
		t.Fatal(err)
	}
	d := w.blob(ocispec.MediaTypeImageManifest, data)
	w.refer(subject, d, "")
	return d
}

// signer is a key that a test derives from one byte, so that failures repeat.
type signer struct {
	*sign.Signer
	key crypto.Signer
}

func newSigner(t testing.TB, seed byte, ed bool) signer {
	t.Helper()
	var key crypto.Signer
	if ed {
		key = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
	} else {
		d := bytes.Repeat([]byte{seed}, 32)
		k, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), d)
		if err != nil {
			t.Fatal(err)
		}
		key = k
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	s, err := sign.LoadSigner(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil)
	if err != nil {
		t.Fatal(err)
	}
	return signer{s, key}
}

// sign signs what DSSE signs.
func (s signer) sign(t testing.TB, message []byte) []byte {
	t.Helper()
	if k, ok := s.key.(ed25519.PrivateKey); ok {
		return ed25519.Sign(k, message)
	}
	sum := sha256.Sum256(message)
	sig, err := s.key.Sign(nil, sum[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

func (s signer) attest(t testing.TB, predicateType, predicate string, subject ocispec.Descriptor, more ...ocispec.Descriptor) sign.Artifact {
	t.Helper()
	st := attest.Statement{PredicateType: predicateType, Predicate: json.RawMessage(predicate)}
	if len(more) > 0 {
		for _, d := range append([]ocispec.Descriptor{subject}, more...) {
			st.Subjects = append(st.Subjects, attest.Subject{Digest: map[string]string{"sha256": d.Digest.Encoded()}})
		}
	}
	a, err := s.Attest(st, subject)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// keys of the tests.
type keyring struct{ release, attestation, second, stranger signer }

func newKeys(t testing.TB) keyring {
	return keyring{newSigner(t, 1, false), newSigner(t, 2, false), newSigner(t, 3, true), newSigner(t, 4, false)}
}

func (k keyring) trusted() policy.Keys {
	return policy.Keys{Release: []crypto.PublicKey{k.release.Public()}, Attestation: []crypto.PublicKey{k.attestation.Public(), k.second.Public()}}
}

func (w *world) gather(t testing.TB, k keyring) *policy.Facts {
	t.Helper()
	f, err := policy.Gather(t.Context(), w, w.b, k.trusted(), now)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// The predicate types and a good predicate of each.
const (
	typeSPDX, typeCycloneDX = "https://spdx.dev/Document", "https://cyclonedx.org/bom"
	typeProvenance          = "https://slsa.dev/provenance/v1"
	typeCosignVuln          = "https://cosign.sigstore.dev/attestation/vuln/v1"
	typeVulns               = "https://in-toto.io/attestation/vulns/v0.1"
	typeVEX                 = "https://openvex.dev/ns/v0.2.0"
	typeTest                = "https://in-toto.io/attestation/test-result/v0.1"
	typeVSA                 = "https://slsa.dev/verification_summary/v1"

	spdx       = `{"SPDXID":"SPDXRef-DOCUMENT","spdxVersion":"SPDX-2.3","creationInfo":{"created":"2026-02-01T00:00:00Z"},"packages":[{"name":"a","packages":[1,2,3]},{"name":"b"}]}`
	cyclonedx  = `{"bomFormat":"CycloneDX","specVersion":"1.6","metadata":{"timestamp":"2026-02-02T00:00:00+01:00"},"components":[{},{},{"components":[{}]}]}`
	provenance = `{"buildDefinition":{"buildType":"https://ci.example/t","externalParameters":{"workflow":{"repository":"https://git.example/app"}},"resolvedDependencies":[{"uri":"git+https://git.example/app@refs/heads/main","digest":{"gitCommit":"abc"}},{"name":"base","uri":"pkg:docker/base","digest":{"sha256":"00"}},{"uri":"git+https://git.example/lib","digest":{"gitCommit":"def"}}]},"runDetails":{"builder":{"id":"https://ci.example"},"metadata":{"finishedOn":"2026-02-03T00:00:00Z"}}}`
	trivy      = `{"invocation":{},"scanner":{"uri":"https://trivy.dev","version":"0.60","db":{"lastUpdate":"2026-02-03T00:00:00Z"},"result":{"Results":[{"Vulnerabilities":[{"Severity":"CRITICAL"},{"Severity":"HIGH"},{"Severity":"HIGH"}]},{},{"Vulnerabilities":[{"Severity":"UNKNOWN"},{}]}]}},"metadata":{"scanStartedOn":"2026-02-04T00:00:00Z","scanFinishedOn":"2026-02-04T01:00:00Z"}}`
	grype      = `{"scanner":{"uri":"https://grype","result":{"matches":[{"vulnerability":{"severity":"Medium"}},{"vulnerability":{"severity":"Negligible"}}]}},"metadata":{"scanFinishedOn":"2026-02-04T01:00:00Z"}}`
	vulns      = `{"scanner":{"uri":"pkg:x","result":[{"id":"CVE-1","severity":[{"method":"nvd","score":"6.9"},{"method":"cvss","score":"9.1"}]},{"id":"CVE-2","severity":[{"method":"x","score":"low"}]},{"id":"CVE-3"}]},"metadata":{"scanFinishedOn":"2026-02-05T00:00:00Z"}}`
	vex        = `{"@context":"https://openvex.dev/ns/v0.2.0","author":"acme","timestamp":"2026-02-06T00:00:00Z","statements":[{"status":"fixed"},{"status":"not_affected"},{"status":"not_affected"}]}`
	test       = `{"result":"PASSED","configuration":[{"name":"unit","digest":{"sha256":"00"}}],"passedTests":["a","b"],"failedTests":[]}`
	vsa        = `{"verifier":{"id":"https://verifier"},"timeVerified":"2026-02-07T00:00:00Z","resourceUri":"x","policy":{"uri":"https://p"},"verificationResult":"PASSED","verifiedLevels":["SLSA_BUILD_LEVEL_2"]}`
)
