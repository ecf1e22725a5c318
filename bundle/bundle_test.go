package bundle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// memory is a Fetcher over a map.
type memory map[digest.Digest][]byte

func (m memory) Open(_ context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	data, ok := m[desc.Digest]
	if !ok {
		return nil, fmt.Errorf("%s: %w", desc.Digest, fs.ErrNotExist)
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

func (m memory) put(mediaType string, data []byte) ocispec.Descriptor {
	d := digest.FromBytes(data)
	m[d] = data
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
}

func (m memory) putJSON(t *testing.T, mediaType string, v any) ocispec.Descriptor {
	t.Helper()
	data, err := strictjson.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return m.put(mediaType, data)
}

func (m memory) manifest(t *testing.T, artifactType string, layers ...ocispec.Descriptor) ocispec.Descriptor {
	t.Helper()
	return m.putJSON(t, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: artifactType,
		Config: m.put(ocispec.MediaTypeEmptyJSON, []byte("{}")), Layers: layers,
	})
}

func (m memory) index(t *testing.T, children ...ocispec.Descriptor) ocispec.Descriptor {
	t.Helper()
	return m.putJSON(t, ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: children,
	})
}

// sample is a bundle with a whole image, a sparse image and a Git repository.
type sample struct {
	memory
	lock    *Lock
	index   *ocispec.Index
	indexes []ocispec.Descriptor // layers of the lock, behind the first
}

func newSample(t *testing.T) *sample {
	t.Helper()
	m := make(memory)
	amd := m.manifest(t, "", m.put("application/vnd.oci.image.layer.v1.tar+gzip", []byte("layer amd64")))
	arm := m.manifest(t, "", m.put("application/vnd.oci.image.layer.v1.tar+gzip", []byte("layer arm64")))
	whole := m.index(t, amd, arm)
	partial := m.index(t, arm, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("absent"), Size: 6})
	layer := func(index ocispec.Descriptor) ocispec.Descriptor {
		index.MediaType = MediaTypeIndexLayer
		return index
	}
	git := m.manifest(t, ArtifactTypeGit, m.put(MediaTypeGitLayer, []byte("# v2 git bundle\n")))
	oid := strings.Repeat("a", 40)
	s := &sample{memory: m, indexes: []ocispec.Descriptor{m.put(MediaTypeSpec, []byte("spec")), layer(whole), layer(partial)}}
	s.lock = &Lock{
		APIVersion: LockVersion, Name: "robot-stack", Version: "v1.5.4", Created: "2026-11-21T06:00:00Z",
		Builder: Tool{"plimsoll", "test"}, Spec: digest.FromString("spec"),
		Items: []Item{
			{Name: "ghcr.io/acme/app:v1", Kind: KindImage, Descriptor: whole, Repository: "ghcr.io/acme/app", Tags: []string{"v1"},
				Platforms: []Platform{{"linux/amd64", amd.Digest}, {"linux/arm64", arm.Digest}}},
			{Name: "ghcr.io/acme/tool:v2", Kind: KindImage, Descriptor: partial, Repository: "ghcr.io/acme/tool", Tags: []string{"v2"},
				Sparse: true, Platforms: []Platform{{"linux/arm64", arm.Digest}}},
			{Name: "github.com/acme/deploy", Kind: KindGit, Descriptor: git, Repository: "github.com/acme/deploy",
				Git: &Git{Head: "refs/heads/main", Refs: []GitRef{{Name: "refs/heads/main", OID: oid}}, Version: "2.39.5"}},
		},
	}
	entry := func(d ocispec.Descriptor, item string) ocispec.Descriptor {
		d.Annotations = map[string]string{AnnotationItem: item}
		return d
	}
	s.index = &ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, ArtifactType: ArtifactTypeBundle,
		Manifests: []ocispec.Descriptor{
			{}, entry(amd, "ghcr.io/acme/app:v1"), entry(arm, "ghcr.io/acme/app:v1"), entry(arm, "ghcr.io/acme/tool:v2"), entry(git, "github.com/acme/deploy"),
		},
	}
	return s
}

// root writes lock and index and gives the descriptor of the bundle.
func (s *sample) root(t *testing.T) ocispec.Descriptor {
	t.Helper()
	layers := append([]ocispec.Descriptor{s.putJSON(t, MediaTypeLock, s.lock)}, s.indexes...)
	lock := s.manifest(t, ArtifactTypeLock, layers...)
	lock.Annotations = map[string]string{AnnotationItem: ItemLock}
	s.index.Manifests[0] = lock
	return s.putJSON(t, ocispec.MediaTypeImageIndex, s.index)
}

func TestLoadAndWalk(t *testing.T) {
	s := newSample(t)
	root := s.root(t)
	b, err := Load(t.Context(), s, root)
	if err != nil {
		t.Fatal(err)
	}
	var nodes []Node
	seen := make(map[digest.Digest]bool)
	err = b.Walk(t.Context(), s, func(n Node) error {
		if n.Manifest {
			var m anyManifest
			if err := strictjson.Unmarshal(n.Raw, &m); err != nil {
				return err
			}
			for _, child := range append(m.Manifests, m.blobs()...) {
				if !seen[child.Digest] {
					t.Errorf("%s comes before its child %s", n.Descriptor.Digest, child.Digest)
				}
			}
		}
		if seen[n.Descriptor.Digest] {
			t.Errorf("%s comes twice", n.Descriptor.Digest)
		}
		seen[n.Descriptor.Digest] = true
		nodes = append(nodes, n)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(nodes) != len(s.memory) {
		t.Errorf("%d nodes for %d blobs", len(nodes), len(s.memory))
	}
	if last := nodes[len(nodes)-1]; last.Descriptor.Digest != root.Digest {
		t.Errorf("the root is not the last: %s", last.Descriptor.Digest)
	}
	if _, ok := b.IndexLayer(s.lock.Items[1]); !ok {
		t.Error("the raw index of the sparse image is not found")
	}
}

// Whatever makes index and lock disagree is refused: neither may carry anything that the other does not name.
func TestLoadRefuses(t *testing.T) {
	cases := map[string]func(s *sample){
		"the index has no entry": func(s *sample) { s.index.Manifests = s.index.Manifests[:4] },
		"is not in the lock":     func(s *sample) { s.index.Manifests = append(s.index.Manifests, s.index.Manifests[1]) },
		"where the lock has": func(s *sample) {
			s.index.Manifests[1], s.index.Manifests[4] = s.index.Manifests[4], s.index.Manifests[1]
		},
		"disagree about size":     func(s *sample) { s.index.Manifests[4].Size++ },
		"is not among the layers": func(s *sample) { s.indexes = s.indexes[:1] },
		"bundle.yaml is":          func(s *sample) { s.indexes[0] = s.put(MediaTypeSpec, []byte("another")) },
		"not a lock artifact":     func(s *sample) { s.indexes = s.indexes[1:] },
		"rendering of \"x\", which is not an item": func(s *sample) {
			s.lock.Closure = &Closure{Renderings: []Rendering{{Item: "x", Engine: "helm"}}, Needs: []Need{}}
		},
		"want either the item that satisfies it or a reason": func(s *sample) {
			s.lock.Closure = &Closure{Renderings: []Rendering{}, Needs: []Need{{Kind: "image", Ref: "a/b:1", Count: 1, Places: []Place{{Item: "x"}}}}}
		},
		"satisfied by \"x\", which is not an item": func(s *sample) {
			s.lock.Closure = &Closure{Renderings: []Rendering{}, Needs: []Need{{Kind: "image", Ref: "a/b:1", Item: "x", Count: 1, Places: []Place{{Item: "x"}}}}}
		},
		"has 0 of 0 places": func(s *sample) {
			s.lock.Closure = &Closure{Renderings: []Rendering{}, Needs: []Need{{Kind: "image", Ref: "a/b:1", Reason: "x", Places: []Place{}}}}
		},
		"dependency \"x\"": func(s *sample) {
			s.lock.Items[0].Kind, s.lock.Items[0].Vendored = KindChart, []Dependency{{Name: "x"}}
		},
		"raw indexes, want 2":                  func(s *sample) { s.indexes = append(s.indexes, s.indexes[0]) },
		"artifact type":                        func(s *sample) { s.index.ArtifactType = "application/x" },
		"apiVersion":                           func(s *sample) { s.lock.APIVersion = "v9" },
		"the name is used twice":               func(s *sample) { s.lock.Items[1].Name = s.lock.Items[0].Name },
		"is already served by item":            func(s *sample) { s.lock.Items[1].Repository, s.lock.Items[1].Tags = "ghcr.io/acme/app", []string{"v1"} },
		"unknown kind":                         func(s *sample) { s.lock.Items[0].Kind = "vm" },
		"not an OCI repository name":           func(s *sample) { s.lock.Items[0].Repository = "ghcr.io/../etc" },
		"git ref \"refs/heads/../x\"":          func(s *sample) { s.lock.Items[2].Git.Refs[0].Name = "refs/heads/../x" },
		"is not allowed as a part of the path": func(s *sample) { s.lock.Items[2].Repository = "github.com/../../etc" },
		"is not an object id":                  func(s *sample) { s.lock.Items[2].Git.Refs[0].OID = "HEAD" },
		"want RFC 3339 in UTC":                 func(s *sample) { s.lock.Created = "2026-11-21T07:00:00+01:00" },
		"fields do not fit kind \"git\"":       func(s *sample) { s.lock.Items[2].Tags = []string{"v1"} },
		"only mediaType, digest and size":      func(s *sample) { s.lock.Items[0].Descriptor.URLs = []string{"https://evil.example"} },
		"descriptor: digest \"sha256:short\"":  func(s *sample) { s.lock.Items[0].Descriptor.Digest = "sha256:short" },
	}
	for want, breakIt := range cases {
		t.Run(want, func(t *testing.T) {
			s := newSample(t)
			breakIt(s)
			_, err := Load(t.Context(), s, s.root(t))
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %q", err, want)
			}
		})
	}
}

func TestReadBlob(t *testing.T) {
	m := make(memory)
	desc := m.put("text/plain", []byte("hello"))
	if data, err := ReadBlob(t.Context(), m, desc, 5); err != nil || string(data) != "hello" {
		t.Errorf("%q, %v", data, err)
	}
	if _, err := ReadBlob(t.Context(), m, desc, 4); err == nil {
		t.Error("the limit does not hold")
	}
	m[desc.Digest] = []byte("hellO")
	var damaged *DamagedError
	if _, err := ReadBlob(t.Context(), m, desc, 5); !errors.As(err, &damaged) || damaged.Digest == "" {
		t.Errorf("flipped byte: %v", err)
	}
	for _, data := range []string{"hell", "hello!"} {
		m[desc.Digest] = []byte(data)
		if _, err := ReadBlob(t.Context(), m, desc, 5); !errors.As(err, &damaged) || damaged.Size != int64(len(data)) {
			t.Errorf("%q: %v", data, err)
		}
	}
	delete(m, desc.Digest)
	var missing *MissingError
	if _, err := ReadBlob(t.Context(), m, desc, 5); !errors.As(err, &missing) {
		t.Errorf("missing: %v", err)
	}
}

func TestWalkRefuses(t *testing.T) {
	m := make(memory)
	layer := m.put("application/x", []byte("x"))
	deep := m.manifest(t, "", layer)
	for range MaxDepth + 1 {
		deep = m.index(t, deep)
	}
	sized := layer
	sized.Size = 2
	conflict := m.index(t, m.manifest(t, "", layer), m.manifest(t, "", sized))
	odd := m.index(t, ocispec.Descriptor{MediaType: "text/plain", Digest: layer.Digest, Size: 1})
	liar := m.putJSON(t, ocispec.MediaTypeImageManifest, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
	})
	both := m.put(ocispec.MediaTypeImageIndex, []byte(`{"schemaVersion":2,"manifests":[],"layers":[]}`))
	twice := m.put(ocispec.MediaTypeImageIndex, []byte(`{"schemaVersion":2,"manifests":[],"manifests":[]}`))
	for want, root := range map[string]ocispec.Descriptor{
		"nested deeper": deep, "declared with": conflict, "neither an index nor": odd, "its descriptor says": liar,
		"has a config or layers": both, "duplicate key": twice,
	} {
		err := Walk(t.Context(), m, root, func(Node) error { return nil })
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestLockRoundTrip(t *testing.T) {
	s := newSample(t)
	data, err := s.lock.Encode()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseLock(data)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := again.Encode(); err != nil || !bytes.Equal(got, data) {
		t.Errorf("encodes to %s (%v)", got, err)
	}
	if _, err := ParseLock(append(data, '\n')); err == nil {
		t.Error("a trailing newline was accepted")
	}
}

func FuzzParseLock(f *testing.F) {
	for _, item := range []string{
		`{"name":"a","kind":"image","descriptor":{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0},"bytes":0,"repository":"ghcr.io/a/b","tags":["v1"]}`,
		`{"name":"g","kind":"git","descriptor":{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0},"bytes":0,"repository":"github.com/a/b","git":{"head":"refs/heads/main","refs":[{"name":"refs/heads/main","oid":"e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"}],"version":"2.39.5"}}`,
	} {
		f.Add([]byte(`{"apiVersion":"plimsoll.lock.v1","name":"s","version":"v1","created":"2026-11-21T06:00:00Z","builder":{"name":"plimsoll","version":"x"},"spec":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","bytes":0,"items":[` + item + `]}`))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := ParseLock(data)
		if err != nil {
			return
		}
		again, err := l.Encode()
		if err != nil || !bytes.Equal(again, data) {
			t.Errorf("accepted %q, which encodes to %q (%v)", data, again, err)
		}
		for _, it := range l.Items {
			if strings.Contains(it.Repository, "..") && it.Kind == KindGit {
				for _, part := range strings.Split(it.Repository, "/") {
					if part == ".." {
						t.Errorf("repository %q", it.Repository)
					}
				}
			}
		}
	})
}

func FuzzWalk(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`), true)
	f.Add([]byte(`{"schemaVersion":2,"config":{"mediaType":"a","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0},"layers":[]}`), false)
	f.Fuzz(func(t *testing.T, data []byte, index bool) {
		m := make(memory)
		mediaType := ocispec.MediaTypeImageManifest
		if index {
			mediaType = ocispec.MediaTypeImageIndex
		}
		root := m.put(mediaType, data)
		err := Walk(t.Context(), m, root, func(n Node) error { return CheckDescriptor(n.Descriptor) })
		var damaged *DamagedError
		if errors.As(err, &damaged) {
			t.Errorf("bytes that are right were called damaged: %v", err)
		}
	})
}
