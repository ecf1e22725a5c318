package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/bundle/media"
	"github.com/plimsoll/plimsoll/internal/progress"
	"github.com/plimsoll/plimsoll/registry/store"
)

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

// stageBlob copies one blob. A link that breaks is taken up where it broke, and what a killed import left is continued.
func (r *Relay) stageBlob(ctx context.Context, src media.Source, n bundle.Node, advance func(int64)) error {
	open := func(offset int64) (io.ReadCloser, error) {
		if offset == 0 {
			return media.Resume(ctx, src, n.Descriptor)
		}
		if ro, ok := src.(media.RangeOpener); ok {
			return media.ResumeAt(ctx, ro, n.Descriptor, offset)
		}
		return nil, store.ErrNoRange
	}
	err := r.store.Admit(ctx, n.Descriptor, open, advance)
	var damaged *bundle.DamagedError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil: // the error may be another worker's, by which the group was cancelled
		return err
	case errors.As(err, &damaged):
		damaged.Item = n.Item
		return err
	case errors.Is(err, fs.ErrNotExist):
		return &bundle.MissingError{Item: n.Item, Descriptor: n.Descriptor, Err: err}
	}
	return fmt.Errorf("item %s: blob %s: %w", n.Item, n.Descriptor.Digest, err)
}
