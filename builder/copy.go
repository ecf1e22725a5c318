package builder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/bundle/media"
	"github.com/plimsoll/plimsoll/internal/progress"
)

// copyGraph copies manifests with everything under them, byte for byte, and gives the size of it all, each digest
// counted once.
func (a *assembly) copyGraph(ctx context.Context, name string, from bundle.Fetcher, roots ...ocispec.Descriptor) (int64, error) {
	var blobs, manifests []bundle.Node
	var total int64
	seen := make(map[digest.Digest]struct{})
	for _, root := range roots {
		err := bundle.Walk(ctx, from, root, func(n bundle.Node) error {
			if _, dup := seen[n.Descriptor.Digest]; dup {
				return nil
			}
			seen[n.Descriptor.Digest] = struct{}{}
			total += n.Descriptor.Size
			a.count(n.Descriptor)
			if n.Manifest {
				manifests = append(manifests, n)
			} else {
				blobs = append(blobs, n)
			}
			return nil
		})
		if err != nil {
			return 0, err
		}
	}
	m := &meter{send: a.o.Progress, event: progress.Event{Stage: "copy", Name: name, Total: total}}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(a.o.Workers)
	for _, n := range blobs {
		g.Go(func() error { return a.copyBlob(gctx, from, n.Descriptor, m) })
	}
	if err := g.Wait(); err != nil {
		return 0, err
	}
	for _, n := range manifests {
		if err := a.putBytes(ctx, n.Descriptor, n.Raw); err != nil {
			return 0, err
		}
		m.add(n.Descriptor.Size)
	}
	m.end()
	return total, nil
}

func (a *assembly) copyBlob(ctx context.Context, from bundle.Fetcher, desc ocispec.Descriptor, m *meter) error {
	has, err := a.sink.Has(ctx, desc)
	if err != nil {
		return err
	}
	if has {
		m.add(desc.Size)
		return nil
	}
	rc, err := media.Resume(ctx, from, desc)
	if err != nil {
		return fmt.Errorf("blob %s: %w", desc.Digest, err)
	}
	err = a.sink.Put(ctx, desc, &metered{r: rc, m: m})
	return errors.Join(err, rc.Close())
}

type metered struct {
	r io.Reader
	m *meter
}

func (r *metered) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.m.add(int64(n))
	return n, err
}

// put writes bytes that this build made.
func (a *assembly) put(ctx context.Context, mediaType string, data []byte) (ocispec.Descriptor, error) {
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	return desc, a.putBytes(ctx, desc, data)
}

func (a *assembly) putBytes(ctx context.Context, desc ocispec.Descriptor, data []byte) error {
	has, err := a.sink.Has(ctx, desc)
	if err != nil || has {
		return err
	}
	return a.sink.Put(ctx, desc, bytes.NewReader(data))
}

// putFile writes a local file as a blob. It is read twice, once to know its digest: a file that changes in between is
// refused by the sink.
func (a *assembly) putFile(ctx context.Context, path, mediaType, name string) (ocispec.Descriptor, error) {
	desc := ocispec.Descriptor{MediaType: mediaType}
	f, err := os.Open(path)
	if err != nil {
		return desc, err
	}
	defer f.Close() //nolint:errcheck // only read from
	digester := digest.SHA256.Digester()
	if desc.Size, err = io.Copy(digester.Hash(), f); err != nil {
		return desc, err
	}
	desc.Digest = digester.Digest()
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return desc, err
	}
	return desc, a.putFrom(ctx, desc, f, name)
}

// putFrom writes a blob of which everything is known, unless it is there.
func (a *assembly) putFrom(ctx context.Context, desc ocispec.Descriptor, r io.Reader, name string) error {
	has, err := a.sink.Has(ctx, desc)
	if err != nil || has {
		return err
	}
	m := &meter{send: a.o.Progress, event: progress.Event{Stage: "copy", Name: name, Total: desc.Size}}
	err = a.sink.Put(ctx, desc, &metered{r: r, m: m})
	m.end()
	return err
}
