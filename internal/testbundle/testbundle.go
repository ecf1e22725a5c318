// Package testbundle makes a small but real bundle in memory, for tests: what bundle.Load accepts, what stock OCI tools
// copy, and one of everything that a bundle can hold.
//
// The items are, in this order:
//
//	robot-app         an image for two platforms, as an index with two manifests, layers that are real gzipped tars
//	camera            a sparse image: one of two platforms travels, the raw index is a layer of the lock
//	robot-chart       a chart-like artifact
//	robot-deployment  a Git-like artifact (its layer only looks like a Git bundle)
//	robot.conf        a file
//	robot-app-sbom    a referrer of robot-app's index
//
// Beside the bundle stand a manifest whose subject is the bundle index, and one under the legacy signature tag. Both only
// look like signatures.
package testbundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// Options vary the bundle. Two bundles with different versions share all but lock, index and what stands beside them;
// with different content, robot-app's layers differ too.
type Options struct {
	Version string // "" is v1.5.4
	Content string // of a file in robot-app's layers; "" is some
	Padding []byte // another layer of robot-app's amd64 manifest, if not nil; not a tar
}

// Blob is a descriptor with its bytes.
type Blob struct {
	ocispec.Descriptor
	Data []byte
}

// Beside is what stands beside the bundle.
type Beside struct {
	ocispec.Descriptor
	Tag string // the legacy signature tag, or ""
}

// Bundle is the bundle with all its bytes. It is a bundle.Fetcher.
type Bundle struct {
	Root   ocispec.Descriptor // the bundle index
	Lock   *bundle.Lock
	Tag    string             // the version
	Beside []Beside           // first the one with a subject, then the one with a tag
	Blobs  []Blob             // children before parents, each digest once; what stands beside comes last
	Image  ocispec.Index      // of robot-app
	Layer  ocispec.Descriptor // a layer of robot-app, to be damaged or to be missing
	byID   map[digest.Digest][]byte
}

// spec stands for a bundle.yaml.
const spec = "kind: Bundle\n"

// New makes a bundle, the same one for the same options.
func New(t testing.TB, o Options) *Bundle {
	t.Helper()
	if o.Version == "" {
		o.Version = "v1.5.4"
	}
	if o.Content == "" {
		o.Content = "CAMERA_OFFSET=3\n"
	}
	m := &maker{t: t, Bundle: &Bundle{Tag: o.Version, byID: make(map[digest.Digest][]byte)}}
	m.lock = bundle.Lock{
		APIVersion: bundle.LockVersion, Name: "robot-stack", Version: o.Version, Created: "2025-01-02T03:04:05Z",
		Builder: bundle.Tool{Name: "testbundle", Version: "1"}, Spec: digest.FromString(spec),
	}
	m.image(o)
	m.sparse()
	m.artifacts()
	m.index()
	m.beside()
	return m.Bundle
}

// Open gives the bytes of a blob.
func (b *Bundle) Open(_ context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	data, ok := b.byID[desc.Digest]
	if !ok {
		return nil, fmt.Errorf("blob %s: %w", desc.Digest, fs.ErrNotExist)
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

// Data gives the bytes of a blob, nil if there is none.
func (b *Bundle) Data(d digest.Digest) []byte { return b.byID[d] }

// Write writes an OCI layout into a folder, which is made. The blobs of another bundle may be there; its entries in
// index.json are lost.
func (b *Bundle) Write(t testing.TB, dir string) {
	t.Helper()
	root := b.Root
	root.ArtifactType = bundle.ArtifactTypeBundle
	root.Annotations = map[string]string{ocispec.AnnotationRefName: b.Tag}
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{root}}
	for _, r := range b.Beside {
		if r.Tag != "" {
			r.Annotations = map[string]string{ocispec.AnnotationRefName: r.Tag}
		}
		index.Manifests = append(index.Manifests, r.Descriptor)
	}
	data, err := strictjson.Marshal(index)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{
		ocispec.ImageLayoutFile: []byte(`{"imageLayoutVersion":"1.0.0"}`),
		ocispec.ImageIndexFile:  data,
	}
	for d, data := range b.byID {
		files[BlobPath(d)] = data
	}
	for name, data := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil { //nolint:gosec // nothing secret
			t.Fatal(err)
		}
	}
}

// BlobPath is the path of a blob in a layout.
func BlobPath(d digest.Digest) string { return "blobs/" + d.Algorithm().String() + "/" + d.Encoded() }

type maker struct {
	*Bundle
	t       testing.TB
	lock    bundle.Lock
	indexes []ocispec.Descriptor // layers of the lock
	entries []ocispec.Descriptor // of the index
}

func (m *maker) put(mediaType string, data []byte) ocispec.Descriptor {
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	if _, ok := m.byID[desc.Digest]; !ok {
		m.byID[desc.Digest] = data
		m.Blobs = append(m.Blobs, Blob{desc, data})
	}
	return desc
}

func (m *maker) putJSON(mediaType string, v any) ocispec.Descriptor {
	m.t.Helper()
	data, err := strictjson.Marshal(v)
	if err != nil {
		m.t.Fatal(err)
	}
	return m.put(mediaType, data)
}

// item adds an item whose entries in the index are given; without entries it is its own.
func (m *maker) item(it bundle.Item, entries ...ocispec.Descriptor) {
	it.Bytes = it.Descriptor.Size
	it.Descriptor = ocispec.Descriptor{MediaType: it.Descriptor.MediaType, Digest: it.Descriptor.Digest, Size: it.Descriptor.Size}
	if entries == nil {
		entries = []ocispec.Descriptor{it.Descriptor}
	}
	m.lock.Items = append(m.lock.Items, it)
	m.lock.Bytes += it.Bytes
	for _, e := range entries {
		m.entries = append(m.entries, ocispec.Descriptor{
			MediaType: e.MediaType, Digest: e.Digest, Size: e.Size, Annotations: map[string]string{bundle.AnnotationItem: it.Name},
		})
	}
}

// platform makes an image with one layer that is a real tar.
func (m *maker) platform(arch, content string, more ...[]byte) ocispec.Descriptor {
	m.t.Helper()
	var plain, packed bytes.Buffer
	tw := tar.NewWriter(&plain)
	err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "etc/robot-" + arch, Mode: 0o644, Size: int64(len(content))})
	if err == nil {
		_, err = io.WriteString(tw, content)
	}
	if err == nil {
		err = tw.Close()
	}
	if err != nil {
		m.t.Fatal(err)
	}
	gz := gzip.NewWriter(&packed)
	if _, err := gz.Write(plain.Bytes()); err != nil {
		m.t.Fatal(err)
	}
	if err := gz.Close(); err != nil {
		m.t.Fatal(err)
	}
	layers := []ocispec.Descriptor{m.put(ocispec.MediaTypeImageLayerGzip, packed.Bytes())}
	config := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: arch}}
	config.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(plain.Bytes())}}
	for _, data := range more {
		layers = append(layers, m.put(ocispec.MediaTypeImageLayer, data))
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(data))
	}
	m.Layer = layers[0]
	desc := m.putJSON(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: m.putJSON(ocispec.MediaTypeImageConfig, config), Layers: layers,
	})
	desc.Platform = &ocispec.Platform{OS: "linux", Architecture: arch}
	return desc
}

func (m *maker) image(o Options) {
	var more [][]byte
	if o.Padding != nil {
		more = append(more, o.Padding)
	}
	m.Image = ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	m.Image.Manifests = []ocispec.Descriptor{m.platform("amd64", o.Content, more...), m.platform("arm64", o.Content)}
	m.item(bundle.Item{
		Name: "robot-app", Kind: bundle.KindImage, Source: "ghcr.io/acme/robot-app:" + o.Version,
		Descriptor: m.imageIndex(m.Image), Repository: "ghcr.io/acme/robot-app", Tags: []string{"v1"},
		Platforms: []bundle.Platform{
			{Platform: "linux/amd64", Digest: m.Image.Manifests[0].Digest}, {Platform: "linux/arm64", Digest: m.Image.Manifests[1].Digest},
		},
	}, m.Image.Manifests...)
}

// imageIndex puts an index where it travels, among the layers of the lock, and gives its own descriptor.
func (m *maker) imageIndex(index ocispec.Index) ocispec.Descriptor {
	desc := m.putJSON(bundle.MediaTypeIndexLayer, index)
	m.indexes = append(m.indexes, desc)
	desc.MediaType = ocispec.MediaTypeImageIndex
	return desc
}

func (m *maker) sparse() {
	layer := m.Layer
	carried := m.platform("amd64", "camera\n")
	m.Layer = layer
	absent := ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("stays behind"), Size: 512,
		Platform: &ocispec.Platform{OS: "linux", Architecture: "s390x"},
	}
	desc := m.imageIndex(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{carried, absent},
	})
	m.item(bundle.Item{
		Name: "camera", Kind: bundle.KindImage, Descriptor: desc, Repository: "ghcr.io/acme/camera", Tags: []string{"v2"}, Sparse: true,
		Platforms: []bundle.Platform{{Platform: "linux/amd64", Digest: carried.Digest}},
	}, carried)
}

// artifact makes a manifest of anything.
func (m *maker) artifact(artifactType string, config, layer ocispec.Descriptor, subject *ocispec.Descriptor) ocispec.Descriptor {
	return m.putJSON(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: artifactType,
		Config: config, Layers: []ocispec.Descriptor{layer}, Subject: subject,
	})
}

func (m *maker) empty() ocispec.Descriptor { return m.put(ocispec.MediaTypeEmptyJSON, []byte("{}")) }

func (m *maker) artifacts() {
	image := m.lock.Items[0].Descriptor
	m.item(bundle.Item{
		Name: "robot-chart", Kind: bundle.KindChart, Repository: "ghcr.io/acme/charts/robot-app", Tags: []string{"1.5.4"},
		Descriptor: m.artifact("", m.put("application/vnd.cncf.helm.config.v1+json", []byte(`{"apiVersion":"v2","name":"robot-app","version":"1.5.4"}`)),
			m.put("application/vnd.cncf.helm.chart.content.v1.tar+gzip", []byte("a chart")), nil),
	})
	git := bundle.Git{
		Head: "refs/heads/main", Version: "2.39.0",
		Refs: []bundle.GitRef{{Name: "refs/heads/main", OID: "0123456789abcdef0123456789abcdef01234567"}},
	}
	m.item(bundle.Item{
		Name: "robot-deployment", Kind: bundle.KindGit, Repository: "github.com/acme/robot-deployment", Git: &git,
		Descriptor: m.artifact(bundle.ArtifactTypeGit, m.putJSON(bundle.MediaTypeGitConfig, git),
			m.put(bundle.MediaTypeGitLayer, []byte("# v2 git bundle\n")), nil),
	})
	file := m.put(bundle.MediaTypeFileLayer, []byte("WIFI_SSID=factory\n"))
	file.Annotations = map[string]string{ocispec.AnnotationTitle: "robot.conf"}
	m.item(bundle.Item{
		Name: "robot.conf", Kind: bundle.KindFile, Repository: "files/robot.conf", Tags: []string{"latest"},
		File:       &bundle.File{Path: "robot.conf", Mode: 0o644},
		Descriptor: m.artifact(bundle.ArtifactTypeFile, m.empty(), file, nil),
	})
	m.item(bundle.Item{
		Name: "robot-app-sbom", Kind: bundle.KindReferrer, Repository: "ghcr.io/acme/robot-app", Subject: image.Digest,
		Descriptor: m.artifact("application/spdx+json", m.empty(), m.put("application/spdx+json", []byte(`{"spdxVersion":"SPDX-2.3"}`)), &image),
	})
}

func (m *maker) index() {
	m.t.Helper()
	data, err := m.lock.Encode()
	if err != nil {
		m.t.Fatal(err)
	}
	lock := m.putJSON(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: bundle.ArtifactTypeLock,
		Config: m.empty(), Layers: append([]ocispec.Descriptor{m.put(bundle.MediaTypeLock, data), m.put(bundle.MediaTypeSpec, []byte(spec))}, m.indexes...),
	})
	lock.Annotations = map[string]string{bundle.AnnotationItem: bundle.ItemLock}
	m.Lock = &m.lock
	m.Root = m.putJSON(ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, ArtifactType: bundle.ArtifactTypeBundle,
		Manifests: append([]ocispec.Descriptor{lock}, m.entries...),
		Annotations: map[string]string{
			ocispec.AnnotationTitle: m.lock.Name, ocispec.AnnotationVersion: m.lock.Version, ocispec.AnnotationCreated: m.lock.Created,
		},
	})
}

func (m *maker) beside() {
	const bundleType = "application/vnd.dev.sigstore.bundle.v0.3+json"
	root := m.Root
	signature := m.artifact(bundleType, m.empty(), m.put(bundleType, []byte(`{"about":"`+root.Digest.String()+`"}`)), &root)
	m.Beside = append(m.Beside, Beside{Descriptor: signature})

	payload, err := json.Marshal(map[string]any{"critical": map[string]string{"digest": root.Digest.String()}})
	if err != nil {
		m.t.Fatal(err)
	}
	layer := m.put("application/vnd.dev.cosign.simplesigning.v1+json", payload)
	layer.Annotations = map[string]string{"dev.cosignproject.cosign/signature": base64.StdEncoding.EncodeToString([]byte("no signature"))}
	config := ocispec.Image{}
	config.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{layer.Digest}}
	legacy := m.artifact("", m.putJSON(ocispec.MediaTypeImageConfig, config), layer, nil)
	m.Beside = append(m.Beside, Beside{legacy, root.Digest.Algorithm().String() + "-" + root.Digest.Encoded() + ".sig"})
}
