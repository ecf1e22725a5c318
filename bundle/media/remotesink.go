package media

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry"

	"github.com/plimsoll/plimsoll/bundle"
)

// smallBlob is what is held in memory to be sent, in bytes: such a request is repeated when the registry is busy. A
// larger body is streamed, once; Copy opens it again.
const smallBlob = 1 << 20

func (r *remote) store(desc ocispec.Descriptor) registry.BlobStore {
	if bundle.IsManifest(desc.MediaType) {
		return r.repo.Manifests()
	}
	return r.repo.Blobs()
}

func (r *remote) Has(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	if err := bundle.CheckDescriptor(desc); err != nil {
		return false, err
	}
	got, err := r.store(desc).Resolve(ctx, desc.Digest.String())
	if errors.Is(err, errdef.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("%s: blob %s: %w", r.name, desc.Digest, err)
	}
	return got.Size == desc.Size, nil
}

// Put uploads in one piece (POST, then PUT). The registry compares the digest, and the body of a damaged blob ends
// before its last bytes. A manifest with a subject is entered into the subject's list of referrers, by the registry or,
// where it has no such list, under the fallback tag (distribution-spec 1.1, "Pushing Manifests with Subject").
func (r *remote) Put(ctx context.Context, desc ocispec.Descriptor, rd io.Reader) error {
	if err := bundle.CheckDescriptor(desc); err != nil {
		return err
	}
	if err := r.put(ctx, desc, rd); err != nil {
		return putError(r.name, desc, err)
	}
	return nil
}

func (r *remote) put(ctx context.Context, desc ocispec.Descriptor, rd io.Reader) error {
	manifest := bundle.IsManifest(desc.MediaType)
	if manifest && desc.Size > bundle.MaxManifest {
		return fmt.Errorf("%d bytes, the limit for a manifest is %d", desc.Size, bundle.MaxManifest)
	}
	if manifest || desc.Size <= smallBlob {
		var buf bytes.Buffer
		if err := CopyBlob(ctx, &buf, rd, desc); err != nil {
			return err
		}
		return r.store(desc).Push(ctx, desc, bytes.NewReader(buf.Bytes()))
	}
	v := NewVerifyReader(rd, desc)
	err := r.repo.Blobs().Push(ctx, desc, struct{ io.Reader }{v})
	if v.Err() != nil {
		return v.Err() // the cause; the client only says that the upload broke
	}
	return err
}

// Commit sets the tags, the bundle's own last of all. Until then its manifests can be had by digest only.
func (r *remote) Commit(ctx context.Context, root ocispec.Descriptor, tag string, beside []Referrer) error {
	tag, err := r.ref.commitTag(tag)
	if err != nil {
		return err
	}
	for _, ref := range beside {
		if err := r.tag(ctx, ref.Descriptor, ref.Tag); err != nil {
			return err
		}
	}
	return r.tag(ctx, root, tag)
}

func (r *remote) tag(ctx context.Context, desc ocispec.Descriptor, tag string) error {
	desc = plain(desc)
	raw, err := bundle.ReadBlob(ctx, r, desc, bundle.MaxManifest)
	if err == nil && tag != "" {
		err = r.repo.Manifests().PushReference(ctx, desc, bytes.NewReader(raw), tag)
	}
	if errors.Is(err, errdef.ErrNotFound) {
		err = fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	if err != nil {
		return fmt.Errorf("commit %s: tag %q: %w", r.name, tag, err)
	}
	return nil
}
