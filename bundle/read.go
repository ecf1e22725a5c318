package bundle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// ReadBlob reads a small blob whole and verifies it. It fails with *MissingError, with *DamagedError, or when the
// descriptor declares more than limit bytes, which is checked before anything is read.
func ReadBlob(ctx context.Context, f Fetcher, desc ocispec.Descriptor, limit int64) ([]byte, error) {
	if err := CheckDescriptor(desc); err != nil {
		return nil, err
	}
	if desc.Size > limit {
		return nil, fmt.Errorf("blob %s: %d bytes, the limit for %s is %d", desc.Digest, desc.Size, desc.MediaType, limit)
	}
	rc, err := f.Open(ctx, desc)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &MissingError{Descriptor: desc, Err: err}
	}
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", desc.Digest, err)
	}
	// One byte more than declared tells "too long" from "just right" without reading the rest.
	data, err := io.ReadAll(io.LimitReader(rc, desc.Size+1))
	if err := errors.Join(err, rc.Close()); err != nil {
		return nil, fmt.Errorf("blob %s: %w", desc.Digest, err)
	}
	if int64(len(data)) != desc.Size {
		return nil, &DamagedError{Descriptor: desc, Size: int64(len(data))}
	}
	if got := desc.Digest.Algorithm().FromBytes(data); got != desc.Digest {
		return nil, &DamagedError{Descriptor: desc, Digest: got, Size: desc.Size}
	}
	return data, nil
}

// Bundle is a bundle whose index and lock were read and agree with each other.
type Bundle struct {
	Root         ocispec.Descriptor // of the index
	Raw          []byte             // the index as it was read
	Index        ocispec.Index      //
	Lock         *Lock              //
	LockManifest ocispec.Manifest   // its layers are the lock, bundle.yaml, and raw image indexes (MediaTypeIndexLayer)
}

// Load reads the index and the lock below root and checks that they name the same items.
func Load(ctx context.Context, f Fetcher, root ocispec.Descriptor) (*Bundle, error) {
	raw, err := ReadBlob(ctx, f, root, MaxManifest)
	if err != nil {
		return nil, inItem("index", err)
	}
	b := &Bundle{Root: root, Raw: raw}
	if err := strictjson.UnmarshalCanonical(raw, &b.Index); err != nil {
		return nil, fmt.Errorf("bundle %s: index: %w", root.Digest, err)
	}
	if b.Index.MediaType != ocispec.MediaTypeImageIndex || b.Index.ArtifactType != ArtifactTypeBundle || b.Index.SchemaVersion != 2 {
		return nil, fmt.Errorf("bundle %s: index: media type %q and artifact type %q, want %q and %q", root.Digest,
			b.Index.MediaType, b.Index.ArtifactType, ocispec.MediaTypeImageIndex, ArtifactTypeBundle)
	}
	if err := b.loadLock(ctx, f); err != nil {
		return nil, fmt.Errorf("bundle %s: %w", root.Digest, err)
	}
	if err := b.compare(); err != nil {
		return nil, fmt.Errorf("bundle %s: %w", root.Digest, err)
	}
	return b, nil
}

func (b *Bundle) loadLock(ctx context.Context, f Fetcher) error {
	if len(b.Index.Manifests) == 0 || b.Index.Manifests[0].Annotations[AnnotationItem] != ItemLock {
		return errors.New("index: the first entry is not the lock")
	}
	raw, err := ReadBlob(ctx, f, b.Index.Manifests[0], MaxManifest)
	if err != nil {
		return inItem(ItemLock, err)
	}
	if err := strictjson.UnmarshalCanonical(raw, &b.LockManifest); err != nil {
		return fmt.Errorf("lock manifest: %w", err)
	}
	m := b.LockManifest
	if m.MediaType != ocispec.MediaTypeImageManifest || m.ArtifactType != ArtifactTypeLock ||
		len(m.Layers) < 2 || m.Layers[0].MediaType != MediaTypeLock || m.Layers[1].MediaType != MediaTypeSpec {
		return errors.New("lock manifest: not a lock artifact")
	}
	data, err := ReadBlob(ctx, f, m.Layers[0], MaxLock)
	if err != nil {
		return inItem(ItemLock, err)
	}
	if b.Lock, err = ParseLock(data); err != nil {
		return err
	}
	if m.Layers[1].Digest != b.Lock.Spec {
		return fmt.Errorf("lock manifest: bundle.yaml is %s, the lock says %s", m.Layers[1].Digest, b.Lock.Spec)
	}
	return nil
}

// MaxSpec bounds the bytes of a bundle.yaml.
const MaxSpec = 1 << 20

// Spec reads the bundle.yaml that the bundle was built from.
func (b *Bundle) Spec(ctx context.Context, f Fetcher) ([]byte, error) {
	data, err := ReadBlob(ctx, f, b.LockManifest.Layers[1], MaxSpec)
	if err != nil {
		return nil, inItem(ItemLock, err)
	}
	return data, nil
}

// compare checks that index and lock name the same things in the same order, so that neither can smuggle anything in.
func (b *Bundle) compare() error {
	entries := b.Index.Manifests[1:]
	for _, it := range b.Lock.Items {
		want := []string{it.Descriptor.Digest.String()}
		index := IsIndex(it.Descriptor.MediaType)
		if index {
			if _, ok := b.IndexLayer(it); !ok {
				return fmt.Errorf("item %s: its index is not among the layers of the lock", it.Name)
			}
			want = want[:0]
			for _, p := range it.Platforms {
				want = append(want, p.Digest.String())
			}
		}
		for _, digest := range want {
			if len(entries) == 0 {
				return fmt.Errorf("item %s: the index has no entry for %s", it.Name, digest)
			}
			e := entries[0]
			if e.Annotations[AnnotationItem] != it.Name || e.Digest.String() != digest {
				return fmt.Errorf("item %s: the index has %s (%s) where the lock has %s", it.Name, e.Digest,
					e.Annotations[AnnotationItem], digest)
			}
			if !index && (e.Size != it.Descriptor.Size || e.MediaType != it.Descriptor.MediaType) {
				return fmt.Errorf("item %s: index and lock disagree about size or media type", it.Name)
			}
			if !isImageManifest(e.MediaType) {
				return fmt.Errorf("item %s: media type %q is not an image manifest", it.Name, e.MediaType)
			}
			entries = entries[1:]
		}
	}
	if len(entries) > 0 {
		return fmt.Errorf("index: %s is not in the lock", entries[0].Digest)
	}
	if layers := len(b.LockManifest.Layers) - 2; layers != b.countIndexes() {
		return fmt.Errorf("lock manifest: %d raw indexes, want %d", layers, b.countIndexes())
	}
	return nil
}

func (b *Bundle) countIndexes() int {
	distinct := make(map[string]struct{})
	for _, it := range b.Lock.Items {
		if IsIndex(it.Descriptor.MediaType) {
			distinct[it.Descriptor.Digest.String()] = struct{}{}
		}
	}
	return len(distinct)
}

// IndexLayer gives the layer of the lock artifact that holds the raw bytes of an item that is an index.
func (b *Bundle) IndexLayer(it Item) (ocispec.Descriptor, bool) {
	for _, layer := range b.LockManifest.Layers[2:] {
		if IsIndex(it.Descriptor.MediaType) && layer.Digest == it.Descriptor.Digest && layer.Size == it.Descriptor.Size &&
			layer.MediaType == MediaTypeIndexLayer {
			return layer, true
		}
	}
	return ocispec.Descriptor{}, false
}

// inItem names the item in the two errors that can say it.
func inItem(item string, err error) error {
	var missing *MissingError
	var damaged *DamagedError
	switch {
	case errors.As(err, &missing) && missing.Item == "":
		missing.Item = item
	case errors.As(err, &damaged) && damaged.Item == "":
		damaged.Item = item
	case missing == nil && damaged == nil:
		return fmt.Errorf("item %s: %w", item, err)
	}
	return err
}
