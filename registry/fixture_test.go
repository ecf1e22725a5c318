package registry

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/strictjson"
	"github.com/plimsoll/plimsoll/registry/store"
)

// fixture writes bundles into a real store.
type fixture struct {
	t   testing.TB
	st  *store.Store
	dir string // of st
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "store")
	return &fixture{t: t, st: must(store.Open(dir))(t), dir: dir}
}

func must[T any](v T, err error) func(t testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func (f *fixture) put(mediaType string, data []byte) ocispec.Descriptor {
	f.t.Helper()
	return f.putAs(digest.SHA256, mediaType, data)
}

// putAs admits data under a digest of the algorithm.
func (f *fixture) putAs(algorithm digest.Algorithm, mediaType string, data []byte) ocispec.Descriptor {
	f.t.Helper()
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: algorithm.FromBytes(data), Size: int64(len(data))}
	err := f.st.Admit(f.t.Context(), desc, func(offset int64) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(data[offset:])), nil
	}, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	return desc
}

func (f *fixture) putJSON(mediaType string, v any) ocispec.Descriptor {
	f.t.Helper()
	return f.put(mediaType, must(strictjson.Marshal(v))(f.t))
}

func (f *fixture) image(layers int64) v1.Image { return f.imageFor("amd64", layers) }

func (f *fixture) imageFor(arch string, layers int64) v1.Image {
	f.t.Helper()
	img := must(random.Image(3000, layers))(f.t)
	config := must(img.ConfigFile())(f.t).DeepCopy()
	config.OS, config.Architecture = "linux", arch
	img = must(mutate.ConfigFile(img, config))(f.t)
	img = mutate.ConfigMediaType(mutate.MediaType(img, types.OCIManifestSchema1), types.OCIConfigJSON)
	return img
}

// putImage admits an image and gives its descriptor.
func (f *fixture) putImage(img v1.Image) ocispec.Descriptor {
	f.t.Helper()
	for _, layer := range must(img.Layers())(f.t) {
		rc := must(layer.Compressed())(f.t)
		f.put("application/octet-stream", must(io.ReadAll(rc))(f.t))
	}
	f.put("application/octet-stream", must(img.RawConfigFile())(f.t))
	return f.put(string(must(img.MediaType())(f.t)), must(img.RawManifest())(f.t))
}

// index makes an image index of two platforms.
func (f *fixture) index(images ...v1.Image) v1.ImageIndex {
	f.t.Helper()
	idx := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for i, img := range images {
		idx = mutate.AppendManifests(idx, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{
			Platform: &v1.Platform{OS: "linux", Architecture: []string{"amd64", "arm64"}[i]},
		}})
	}
	return idx
}

func descriptorOf(t testing.TB, raw []byte, mediaType string) ocispec.Descriptor {
	t.Helper()
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
}

// artifact admits a manifest with one layer, and with a subject if that is not nil.
func (f *fixture) artifact(artifactType, content string, subject *ocispec.Descriptor, annotations map[string]string) ocispec.Descriptor {
	f.t.Helper()
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: artifactType,
		Config:  f.put(ocispec.MediaTypeEmptyJSON, []byte("{}")),
		Layers:  []ocispec.Descriptor{f.put("text/plain", []byte(content))},
		Subject: subject, Annotations: annotations,
	}
	if artifactType == "" {
		m.Config = f.put("application/vnd.dev.cosign.simplesigning.config.v1+json", []byte("{}"))
	}
	return f.putJSON(ocispec.MediaTypeImageManifest, m)
}

// entry is an item for release, with what the bundle index lists for it (the item itself if that is nil).
type entry struct {
	item    bundle.Item
	entries []ocispec.Descriptor
}

func item(name string, kind bundle.Kind, desc ocispec.Descriptor, repository string, tags ...string) entry {
	slices.Sort(tags)
	return entry{item: bundle.Item{Name: name, Kind: kind, Descriptor: bare(desc), Repository: repository, Tags: tags}}
}

// bare leaves only what identifies content.
func bare(d ocispec.Descriptor) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
}

// release admits lock and index and loads the bundle back.
func (f *fixture) release(version string, entries ...entry) *bundle.Bundle {
	f.t.Helper()
	lock := &bundle.Lock{
		APIVersion: bundle.LockVersion, Name: "robot-stack", Version: version, Created: "2025-01-02T03:04:05Z",
		Builder: bundle.Tool{Name: "test", Version: "1"}, Spec: digest.FromString("spec"),
	}
	lockManifest := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		ArtifactType: bundle.ArtifactTypeLock, Config: f.put(ocispec.MediaTypeEmptyJSON, []byte("{}")),
	}
	index := ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, ArtifactType: bundle.ArtifactTypeBundle,
		Manifests: []ocispec.Descriptor{{}},
	}
	var indexes []ocispec.Descriptor
	for _, e := range entries {
		lock.Items = append(lock.Items, e.item)
		if bundle.IsIndex(e.item.Descriptor.MediaType) && !slices.ContainsFunc(indexes, func(d ocispec.Descriptor) bool { return d.Digest == e.item.Descriptor.Digest }) {
			layer := e.item.Descriptor
			layer.MediaType = bundle.MediaTypeIndexLayer
			indexes = append(indexes, layer)
		}
		if e.entries == nil {
			e.entries = []ocispec.Descriptor{e.item.Descriptor}
		}
		for _, d := range e.entries {
			d.Annotations = map[string]string{bundle.AnnotationItem: e.item.Name}
			index.Manifests = append(index.Manifests, d)
		}
	}
	raw := must(lock.Encode())(f.t)
	lockManifest.Layers = append([]ocispec.Descriptor{f.put(bundle.MediaTypeLock, raw), f.put(bundle.MediaTypeSpec, []byte("spec"))}, indexes...)
	index.Manifests[0] = f.putJSON(ocispec.MediaTypeImageManifest, lockManifest)
	index.Manifests[0].Annotations = map[string]string{bundle.AnnotationItem: bundle.ItemLock}
	root := f.putJSON(ocispec.MediaTypeImageIndex, index)
	return must(bundle.Load(f.t.Context(), f.st, root))(f.t)
}

// describe gives the part of a bundle as a relay has it from its second start on: read from its file.
func (f *fixture) describe(b *bundle.Bundle) *Part {
	f.t.Helper()
	data := must(must(Describe(f.t.Context(), f.st, b))(f.t).MarshalBinary())(f.t)
	p := new(Part)
	if err := p.UnmarshalBinary(data); err != nil {
		f.t.Fatal(err)
	}
	return p
}

func (f *fixture) active(b *bundle.Bundle) Release {
	f.t.Helper()
	return Release{Part: f.describe(b), Active: true}
}

func (f *fixture) kept(b *bundle.Bundle) Release {
	f.t.Helper()
	return Release{Part: f.describe(b)}
}

func (f *fixture) view(releases ...Release) *View {
	f.t.Helper()
	return must(NewView(releases))(f.t)
}

// serve starts a server and fails the test on every error that the handler reports.
func (f *fixture) serve(v *View) *httptest.Server {
	f.t.Helper()
	return f.serveBy(f.handler(), v)
}

func (f *fixture) handler() *Handler {
	h := NewHandler(f.st)
	h.Report = func(r *http.Request, err error) { f.t.Errorf("%s %s: %v", r.Method, r.URL, err) }
	return h
}

func (f *fixture) serveBy(h *Handler, v *View) *httptest.Server {
	f.t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeView(w, r, v) }))
	f.t.Cleanup(srv.Close)
	return srv
}

// stack is a release with one item of every kind that a registry shows.
type stack struct {
	*fixture
	bundle    *bundle.Bundle
	app       v1.ImageIndex // ghcr.io/acme/robot-app:v1.5.4, two platforms
	appDesc   ocispec.Descriptor
	appImages []v1.Image
	nginx     v1.Image // docker.io/library/nginx:1 and :stable, Docker media types
	sparse    v1.ImageIndex
	carried   v1.Image // the only platform of quay.io/acme/tools:2 that is carried
	absent    v1.Image
	chart     ocispec.Descriptor
	sbom      ocispec.Descriptor // referrer of the app's first platform
	signature ocispec.Descriptor // referrer of the app's index, a Sigstore bundle
	legacy    ocispec.Descriptor // sha256-….sig of the app's index
}

// sharedDir is the folder of the one store that all stacks share: each test would otherwise sync dozens of files.
var sharedDir string

var shared struct {
	sync.Mutex
	stack *stack
}

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "registry")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		sharedDir = dir
		return m.Run()
	}())
}

// newStack gives the stack. The store may get more blobs; who damages it calls alone first.
func newStack(t testing.TB) *stack {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.stack == nil {
		shared.stack = makeStack(t, sharedDir)
	}
	s := *shared.stack
	s.fixture = &fixture{t: t, st: s.st, dir: s.dir}
	return &s
}

// alone gives the stack a store of its own.
func (s *stack) alone() *stack {
	s.t.Helper()
	dir := s.t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(s.dir)); err != nil {
		s.t.Fatal(err)
	}
	s.fixture = &fixture{t: s.t, st: must(store.Open(dir))(s.t), dir: dir}
	return s
}

func makeStack(t testing.TB, dir string) *stack {
	t.Helper()
	s := &stack{fixture: &fixture{t: t, st: must(store.Open(dir))(t), dir: dir}}
	s.appImages = []v1.Image{s.imageFor("amd64", 2), s.imageFor("arm64", 3)}
	s.app = s.index(s.appImages...)
	for _, img := range s.appImages {
		s.putImage(img)
	}
	s.appDesc = s.put(ocispec.MediaTypeImageIndex, must(s.app.RawManifest())(t))
	s.nginx = must(random.Image(500_000, 1))(t)
	s.carried, s.absent = s.imageFor("amd64", 1), s.imageFor("arm64", 1)
	s.sparse = s.index(s.carried, s.absent)
	sparseDesc := s.put(ocispec.MediaTypeImageIndex, must(s.sparse.RawManifest())(t))
	carriedDesc := s.putImage(s.carried)
	s.chart = s.artifact("application/vnd.cncf.helm.config.v1+json", "chart", nil, nil)
	platform := descriptorOf(t, must(s.appImages[0].RawManifest())(t), ocispec.MediaTypeImageManifest)
	s.sbom = s.artifact("application/spdx+json", "{}", &platform, map[string]string{"org.opencontainers.image.created": "2025-01-01T00:00:00Z"})
	s.signature = s.artifact("application/vnd.dev.sigstore.bundle.v0.3+json", "signed", &s.appDesc, nil)
	s.legacy = s.artifact("", "legacy", nil, map[string]string{"a": "b"})

	sbom := item("sbom", bundle.KindReferrer, s.sbom, "ghcr.io/acme/robot-app")
	sbom.item.Subject = platform.Digest
	signature := item("signature", bundle.KindReferrer, s.signature, "ghcr.io/acme/robot-app")
	signature.item.Subject = s.appDesc.Digest
	legacy := item("legacy", bundle.KindReferrer, s.legacy, "ghcr.io/acme/robot-app", "sha256-"+s.appDesc.Digest.Encoded()+".sig")
	legacy.item.Subject = s.appDesc.Digest
	tools := item("tools", bundle.KindImage, sparseDesc, "quay.io/acme/tools", "2")
	tools.item.Sparse = true
	tools.item.Platforms = []bundle.Platform{{Platform: "linux/amd64", Digest: carriedDesc.Digest}}
	tools.entries = []ocispec.Descriptor{carriedDesc}
	s.bundle = s.release("v1.5.4",
		s.appEntry("v1.5.4", "latest"),
		item("nginx", bundle.KindImage, s.putImage(s.nginx), "docker.io/library/nginx", "1", "stable"),
		tools,
		item("chart", bundle.KindChart, s.chart, "charts/robot-app", "1.0.0_build.1"),
		sbom, signature, legacy,
	)
	return s
}

// appEntry is the app under tags.
func (s *stack) appEntry(tags ...string) entry {
	e := item("app", bundle.KindImage, s.appDesc, "ghcr.io/acme/robot-app", tags...)
	for i, img := range s.appImages {
		desc := descriptorOf(s.t, must(img.RawManifest())(s.t), ocispec.MediaTypeImageManifest)
		e.entries = append(e.entries, desc)
		e.item.Platforms = append(e.item.Platforms, bundle.Platform{Platform: "linux/" + []string{"amd64", "arm64"}[i], Digest: desc.Digest})
	}
	return e
}

func (s *stack) activeView() *View { return s.view(s.active(s.bundle)) }

// serveOnce answers one GET without a server and gives status and error code.
func serveOnce(t *testing.T, h *Handler, v *View, path string) (int, string) {
	t.Helper()
	rec := httptest.NewRecorder()
	h.ServeView(rec, httptest.NewRequest(http.MethodGet, path, nil), v)
	return rec.Code, errorCode(t, rec.Result(), rec.Body.Bytes())
}

// errorCode reads the code out of an error body and fails when it is not one.
func errorCode(t *testing.T, resp *http.Response, body []byte) string {
	t.Helper()
	if ct := resp.Header.Get("Content-Type"); ct != "application/json" {
		t.Fatalf("Content-Type %q of an error: %s", ct, body)
	}
	var e struct {
		Errors []struct{ Code, Message string }
	}
	if err := json.Unmarshal(body, &e); err != nil || len(e.Errors) != 1 || e.Errors[0].Message == "" {
		t.Fatalf("error body %q: %v", body, err)
	}
	return e.Errors[0].Code
}

// sentTypes are what the handler hands to a connection's ReadFrom, by Go type.
type sentTypes struct {
	mu   sync.Mutex
	seen map[string]int64
}

func (s *sentTypes) add(kind string, n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen == nil {
		s.seen = make(map[string]int64)
	}
	s.seen[kind] += n
}

func (s *sentTypes) get() map[string]int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.seen)
}
