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

// smallBlob is what is held in memory to be sent, in bytes, and sent in one piece.
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

// Put uploads. The registry compares the digest, and what is sent of a damaged blob ends before its last bytes. A
// manifest with a subject is entered into the subject's list of referrers, by the registry or, where it has no such list,
// under the fallback tag (distribution-spec 1.1, "Pushing Manifests with Subject").
//
// rd gives its bytes once: when the registry wants some again after the link broke, the Put fails. Copy, which can read
// again, goes on.
func (r *remote) Put(ctx context.Context, desc ocispec.Descriptor, rd io.Reader) error {
	opened := false
	return r.putFrom(ctx, desc, func(offset int64) (io.ReadCloser, error) {
		if opened {
			return nil, fmt.Errorf("the link broke, and what is sent cannot be read again from byte %d", offset)
		}
		opened = true
		return io.NopCloser(rd), nil
	}, nil)
}

// putFrom is Put from what open gives, the first time from the first byte.
func (r *remote) putFrom(ctx context.Context, desc ocispec.Descriptor, open func(offset int64) (io.ReadCloser, error), from []candidate) error {
	err := bundle.CheckDescriptor(desc)
	if err != nil {
		return err
	}
	if bundle.IsManifest(desc.MediaType) {
		err = r.putManifest(ctx, desc, open)
	} else {
		err = r.putBlob(ctx, desc, open, from)
	}
	if err != nil {
		return putError(r.name, desc, err)
	}
	return nil
}

func (r *remote) putManifest(ctx context.Context, desc ocispec.Descriptor, open func(offset int64) (io.ReadCloser, error)) error {
	if desc.Size > bundle.MaxManifest {
		return fmt.Errorf("%d bytes, the limit for a manifest is %d", desc.Size, bundle.MaxManifest)
	}
	data, err := readSmallBlob(ctx, desc, open)
	if err != nil {
		return err
	}
	return r.patiently(ctx, func(ctx context.Context) error {
		return r.repo.Manifests().Push(ctx, desc, bytes.NewReader(data))
	})
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
	if tag != "" {
		// Some registries cannot say, without being asked for the bytes.
		if got, err := r.repo.Manifests().Resolve(ctx, tag); err == nil && got.Digest == desc.Digest && got.Size == desc.Size {
			return nil
		}
	}
	raw, err := bundle.ReadBlob(ctx, r, desc, bundle.MaxManifest)
	if err == nil && tag != "" {
		err = r.patiently(ctx, func(ctx context.Context) error {
			return r.repo.Manifests().PushReference(ctx, desc, bytes.NewReader(raw), tag)
		})
	}
	if errors.Is(err, errdef.ErrNotFound) {
		err = fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	if err != nil {
		return fmt.Errorf("commit %s: tag %q: %w", r.name, tag, err)
	}
	return nil
}
