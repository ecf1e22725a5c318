package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/bundle/media"
	"github.com/plimsoll/plimsoll/internal/progress"
	"github.com/plimsoll/plimsoll/registry/store"
)

// stageAttempts is how often a blob is taken up again after its connection broke.
const stageAttempts = 5

// stage brings every missing blob into the store, where nothing refers to it yet.
func (r *Relay) stage(ctx context.Context, src media.Source, pl *plan) error {
	p := r.options.Progress
	var done atomic.Int64
	report := func(item string, n int64) {
		p.Report(progress.Event{Stage: "stage", Name: item, Done: done.Add(n), Total: pl.missingBytes})
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(r.options.Workers)
	for _, n := range pl.missing {
		g.Go(func() error {
			return r.stageBlob(ctx, src, n, func(k int64) { report(n.Item, k) })
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	p.Report(progress.Event{Stage: "stage", Done: pl.missingBytes, Total: pl.missingBytes, End: true})
	return nil
}

func (r *Relay) stageBlob(ctx context.Context, src media.Source, n bundle.Node, advance func(int64)) error {
	open := func(offset int64) (io.ReadCloser, error) {
		if offset == 0 {
			return src.Open(ctx, n.Descriptor)
		}
		if ro, ok := src.(media.RangeOpener); ok {
			return ro.OpenAt(ctx, n.Descriptor, offset)
		}
		return nil, store.ErrNoRange
	}
	for attempt := 1; ; attempt++ {
		before := r.store.Partial(ctx, n.Descriptor.Digest)
		err := r.store.Admit(ctx, n.Descriptor, open, advance)
		if err == nil {
			return nil
		}
		var damaged *bundle.DamagedError
		switch {
		case errors.As(err, &damaged):
			damaged.Item = n.Item
			return err
		case errors.Is(err, fs.ErrNotExist):
			return &bundle.MissingError{Item: n.Item, Descriptor: n.Descriptor, Err: err}
		case ctx.Err() != nil || !broken(err):
			return fmt.Errorf("item %s: blob %s: %w", n.Item, n.Descriptor.Digest, err)
		}
		if r.store.Partial(ctx, n.Descriptor.Digest) > before {
			attempt = 1 // it moves, if slowly
		}
		if attempt >= stageAttempts {
			return fmt.Errorf("item %s: blob %s: %w", n.Item, n.Descriptor.Digest, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second << (attempt - 1)):
		}
	}
}

// broken tells a link that may come back from an error that will not go away.
func broken(err error) bool {
	var netErr net.Error
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &netErr)
}
