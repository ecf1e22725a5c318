package generate

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/bundle/media"
	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// Blobs are the blobs of an OCI layout, whether its index is written already or not: an image gets its SBOM while the
// bundle is being built.
type Blobs struct {
	root  *os.Root                            // of a folder
	tar   *os.File                            // of a tar
	index map[digest.Digest]*io.SectionReader // of the tar
}

// OpenBlobs opens an OCI layout that is a folder or an uncompressed tar.
func OpenBlobs(name string) (*Blobs, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		root, err := os.OpenRoot(name)
		if err != nil {
			return nil, err
		}
		return &Blobs{root: root}, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	b := &Blobs{tar: f, index: make(map[digest.Digest]*io.SectionReader)}
	if err := b.scan(); err != nil {
		return nil, errors.Join(fmt.Errorf("OCI layout %s: %w", name, err), f.Close())
	}
	return b, nil
}

func (b *Blobs) scan() error {
	tr := tar.NewReader(b.tar)
	for n := 0; ; n++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) && n > 0 { // still being written
			return nil
		}
		if err != nil {
			return err
		}
		if n >= bundle.MaxBlobs {
			return fmt.Errorf("more than %d entries", bundle.MaxBlobs)
		}
		name, ok := strings.CutPrefix(path.Clean(h.Name), "blobs/")
		d := digest.Digest(strings.Replace(name, "/", ":", 1))
		if !ok || h.Typeflag != tar.TypeReg || d.Validate() != nil {
			continue
		}
		at, err := b.tar.Seek(0, io.SeekCurrent) // the reader of tars does not read ahead
		if err != nil {
			return err
		}
		b.index[d] = io.NewSectionReader(b.tar, at, h.Size)
	}
}

// Open implements bundle.Fetcher.
func (b *Blobs) Open(_ context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if err := desc.Digest.Validate(); err != nil {
		return nil, err
	}
	if b.root != nil {
		return b.root.Open(path.Join("blobs", desc.Digest.Algorithm().String(), desc.Digest.Encoded()))
	}
	section, ok := b.index[desc.Digest]
	if !ok {
		return nil, fmt.Errorf("blob %s: %w", desc.Digest, fs.ErrNotExist)
	}
	return io.NopCloser(io.NewSectionReader(section, 0, section.Size())), nil
}

// Close implements io.Closer.
func (b *Blobs) Close() error {
	if b.root != nil {
		return b.root.Close()
	}
	return b.tar.Close()
}

// FromFetcher is the image of a platform manifest whose blobs come from f and are verified as they are read.
func FromFetcher(ctx context.Context, f bundle.Fetcher, desc ocispec.Descriptor) (v1.Image, error) {
	if !bundle.IsManifest(desc.MediaType) || bundle.IsIndex(desc.MediaType) {
		return nil, fmt.Errorf("image %s: media type %q is not an image manifest", desc.Digest, desc.MediaType)
	}
	raw, err := bundle.ReadBlob(ctx, f, desc, bundle.MaxManifest)
	if err != nil {
		return nil, err
	}
	c := &core{ctx: ctx, fetcher: f, desc: desc, raw: raw}
	if err := strictjson.Unmarshal(raw, &c.manifest); err != nil {
		return nil, fmt.Errorf("image %s: manifest: %w", desc.Digest, err)
	}
	// A manifest that says index of itself would be read as one by the next tool.
	if m := c.manifest.MediaType; m != "" && m != desc.MediaType {
		return nil, fmt.Errorf("image %s: manifest: media type %q, its descriptor says %q", desc.Digest, m, desc.MediaType)
	}
	if c.config, err = bundle.ReadBlob(ctx, f, c.manifest.Config, bundle.MaxManifest); err != nil {
		return nil, fmt.Errorf("image %s: config: %w", desc.Digest, err)
	}
	if err := strictjson.Check(c.config); err != nil {
		return nil, fmt.Errorf("image %s: config: %w", desc.Digest, err)
	}
	return partial.CompressedToImage(c)
}

// core implements partial.CompressedImageCore. The library's interface has no context, so core keeps it.
type core struct {
	ctx         context.Context //nolint:containedctx // see above
	fetcher     bundle.Fetcher
	desc        ocispec.Descriptor
	manifest    ocispec.Manifest
	raw, config []byte
}

func (c *core) MediaType() (types.MediaType, error) { return types.MediaType(c.desc.MediaType), nil }
func (c *core) RawManifest() ([]byte, error)        { return c.raw, nil }
func (c *core) RawConfigFile() ([]byte, error)      { return c.config, nil }
func (c *core) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	for _, layer := range c.manifest.Layers {
		if layer.Digest.String() == h.String() {
			return &blobLayer{core: c, desc: layer}, bundle.CheckDescriptor(layer)
		}
	}
	return nil, fmt.Errorf("image %s: no layer %s", c.desc.Digest, h)
}

type blobLayer struct {
	core *core
	desc ocispec.Descriptor
}

func (l *blobLayer) Digest() (v1.Hash, error) { return v1.NewHash(l.desc.Digest.String()) }
func (l *blobLayer) Size() (int64, error)     { return l.desc.Size, nil }
func (l *blobLayer) MediaType() (types.MediaType, error) {
	return types.MediaType(l.desc.MediaType), nil
}

// Compressed opens the blob; what is read of it is what its digest names, or ends in *bundle.DamagedError.
func (l *blobLayer) Compressed() (io.ReadCloser, error) {
	rc, err := l.core.fetcher.Open(l.core.ctx, l.desc)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &bundle.MissingError{Descriptor: l.desc, Err: err}
	}
	if err != nil {
		return nil, err
	}
	verified := media.NewVerifyReader(&cancellable{ctx: l.core.ctx, r: rc}, l.desc)
	return struct {
		io.Reader
		io.Closer
	}{verified, rc}, nil
}

// cancellable ends with its context: decompressing has none.
type cancellable struct {
	ctx context.Context //nolint:containedctx // of core
	r   io.Reader
}

// Read implements io.Reader.
func (c *cancellable) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
