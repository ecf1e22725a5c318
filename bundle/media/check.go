package media

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/progress"
)

// CheckOptions say how thorough a Check is. The zero value reads everything.
type CheckOptions struct {
	MetadataOnly bool          // read index, lock and manifests, but not configs and layers
	Workers      int           // blobs read at once; if zero what the options of a registry say, or 2
	Progress     progress.Func //
}

// Check reads a whole bundle and verifies it, writing nothing: *bundle.MissingError when something is not there,
// *bundle.DamagedError when its bytes are not what their digest says. It gives the number of blobs and their bytes.
func Check(ctx context.Context, src Source, b *bundle.Bundle, o CheckOptions) (blobs int, bytes int64, err error) {
	var nodes []bundle.Node
	err = b.Walk(ctx, src, func(n bundle.Node) error {
		blobs++
		bytes += n.Descriptor.Size
		if !n.Manifest {
			nodes = append(nodes, n)
		}
		return nil
	})
	if err != nil || o.MetadataOnly {
		return blobs, bytes, err
	}
	if o.Workers == 0 {
		o.Workers = fewest(2, src)
	}
	var done atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(o.Workers)
	for _, n := range nodes {
		g.Go(func() error {
			err := checkBlob(ctx, src, n)
			o.Progress.Report(progress.Event{Stage: "verify", Name: n.Item, Done: done.Add(n.Descriptor.Size), Total: bytes})
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return blobs, bytes, err
	}
	o.Progress.Report(progress.Event{Stage: "verify", Done: bytes, Total: bytes, End: true})
	return blobs, bytes, nil
}

func checkBlob(ctx context.Context, src Source, n bundle.Node) error {
	rc, err := Resume(ctx, src, n.Descriptor)
	if errors.Is(err, fs.ErrNotExist) {
		err = &bundle.MissingError{Descriptor: n.Descriptor, Err: err}
	}
	if err == nil {
		err = errors.Join(CopyBlob(ctx, io.Discard, rc, n.Descriptor), rc.Close())
	}
	return inItem(ctx, n.Item, err)
}
