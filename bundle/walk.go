package bundle

import (
	"context"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// Node is one content-addressed piece of a bundle.
type Node struct {
	Item       string             // the lock's name of the first item that needs it; empty in Walk over a bare descriptor
	Descriptor ocispec.Descriptor //
	Manifest   bool               // an index or a manifest, by its place in the graph; false for configs and layers
	Raw        []byte             // of a manifest: its verified bytes
}

// Walk visits everything under the bundle's root, and the root itself last: each digest once, children before parents,
// items in the order of the lock. Manifests are read and verified; configs and layers are only named.
func (b *Bundle) Walk(ctx context.Context, f Fetcher, fn func(Node) error) error {
	w := newWalker(f, fn)
	for _, e := range b.Index.Manifests {
		w.item = e.Annotations[AnnotationItem]
		if err := w.manifest(ctx, e, 0); err != nil {
			return inItem(w.item, err)
		}
	}
	w.item = "index"
	return w.visit(Node{Item: w.item, Descriptor: b.Root, Manifest: true, Raw: b.Raw})
}

// Walk visits everything under a manifest, and the manifest itself last. What refers to it is not visited.
func Walk(ctx context.Context, f Fetcher, root ocispec.Descriptor, fn func(Node) error) error {
	return newWalker(f, fn).manifest(ctx, root, 0)
}

type walker struct {
	fetch Fetcher
	fn    func(Node) error
	item  string
	seen  map[digest.Digest]seen
}

type seen struct {
	size     int64
	manifest bool
	blob     bool
}

func newWalker(f Fetcher, fn func(Node) error) *walker {
	return &walker{fetch: f, fn: fn, seen: make(map[digest.Digest]seen)}
}

func (w *walker) manifest(ctx context.Context, desc ocispec.Descriptor, depth int) error {
	if err := CheckDescriptor(desc); err != nil {
		return err
	}
	if s, ok := w.seen[desc.Digest]; ok && s.manifest && s.size == desc.Size {
		return nil
	}
	if depth > MaxDepth {
		return fmt.Errorf("manifest %s: nested deeper than %d", desc.Digest, MaxDepth)
	}
	raw, err := ReadBlob(ctx, w.fetch, desc, MaxManifest)
	if err != nil {
		return err
	}
	m, err := parseManifest(desc, raw)
	if err != nil {
		return err
	}
	for _, child := range m.Manifests {
		if !IsManifest(child.MediaType) {
			return fmt.Errorf("index %s: %s has media type %q, which is neither an index nor a manifest", desc.Digest, child.Digest, child.MediaType)
		}
		if err := w.manifest(ctx, child, depth+1); err != nil {
			return err
		}
	}
	for _, blob := range m.blobs() {
		if err := CheckDescriptor(blob); err != nil {
			return fmt.Errorf("manifest %s: %w", desc.Digest, err)
		}
		if err := w.visit(Node{Item: w.item, Descriptor: blob}); err != nil {
			return err
		}
	}
	return w.visit(Node{Item: w.item, Descriptor: desc, Manifest: true, Raw: raw})
}

// visit calls fn once for each digest and role. A digest that is a manifest in one place and a layer in another (the raw
// bytes of an image index) is visited in both roles.
func (w *walker) visit(n Node) error {
	s, ok := w.seen[n.Descriptor.Digest]
	if ok && s.size != n.Descriptor.Size {
		return fmt.Errorf("blob %s: declared with %d and with %d bytes", n.Descriptor.Digest, s.size, n.Descriptor.Size)
	}
	if n.Manifest && s.manifest || !n.Manifest && s.blob {
		return nil
	}
	if len(w.seen) >= MaxBlobs {
		return fmt.Errorf("more than %d blobs", MaxBlobs)
	}
	s.size = n.Descriptor.Size
	s.manifest = s.manifest || n.Manifest
	s.blob = s.blob || !n.Manifest
	w.seen[n.Descriptor.Digest] = s
	return w.fn(n)
}

// anyManifest is what indexes and manifests, OCI's and Docker's, have in common for a walk.
type anyManifest struct {
	SchemaVersion int                  `json:"schemaVersion"`
	MediaType     string               `json:"mediaType"`
	Config        *ocispec.Descriptor  `json:"config"`
	Layers        []ocispec.Descriptor `json:"layers"`
	Manifests     []ocispec.Descriptor `json:"manifests"`
}

func (m *anyManifest) blobs() []ocispec.Descriptor {
	if m.Config == nil {
		return m.Layers
	}
	return append([]ocispec.Descriptor{*m.Config}, m.Layers...)
}

// parseManifest refuses documents that two readers could take for different things (OCI image-spec, "mediaType").
func parseManifest(desc ocispec.Descriptor, raw []byte) (*anyManifest, error) {
	var m anyManifest
	if err := strictjson.Unmarshal(raw, &m); err != nil {
		return nil, fmt.Errorf("manifest %s: %w", desc.Digest, err)
	}
	if m.SchemaVersion != 2 {
		return nil, fmt.Errorf("manifest %s: schema version %d, want 2", desc.Digest, m.SchemaVersion)
	}
	if m.MediaType != "" && m.MediaType != desc.MediaType {
		return nil, fmt.Errorf("manifest %s: media type %q, its descriptor says %q", desc.Digest, m.MediaType, desc.MediaType)
	}
	if IsIndex(desc.MediaType) {
		if m.Config != nil || m.Layers != nil {
			return nil, fmt.Errorf("index %s: has a config or layers", desc.Digest)
		}
		return &m, nil
	}
	if m.Manifests != nil || m.Config == nil {
		return nil, fmt.Errorf("manifest %s: want a config, layers and no manifests", desc.Digest)
	}
	return &m, nil
}
