package relay

import (
	"context"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/durable"
	"github.com/plimsoll/plimsoll/registry"
)

// derivedDir has what can be computed from the store again at any time. It may be removed.
const derivedDir = "derived"

// partReaders bounds how many releases are read at one time.
const partReaders = 4

// part gives what a release adds to the registry. It is kept beside the store, because reading every manifest of fifty
// kept releases would make each start slow; a file that is missing or damaged is made anew.
func (r *Relay) part(ctx context.Context, release Release) (*registry.Part, error) {
	path := filepath.Join(r.dir, derivedDir, release.Bundle.Digest.Encoded()+".part")
	if data, err := os.ReadFile(path); err == nil {
		p := new(registry.Part)
		if p.UnmarshalBinary(data) == nil && p.Bundle() == release.Bundle.Digest {
			return p, nil
		}
	}
	b, err := bundle.Load(ctx, r.store, release.Bundle)
	if err != nil {
		return nil, err
	}
	p, err := registry.Describe(ctx, r.store, b)
	if err != nil {
		return nil, err
	}
	data, err := p.MarshalBinary()
	if err != nil {
		return nil, err
	}
	// A disk that is full costs time at the next start and nothing else.
	_ = durable.WriteFile(path, data, 0o644)
	return p, nil
}

// parts gives the parts of releases in their order, and for each that cannot be read the error in its place.
func (r *Relay) parts(ctx context.Context, releases []Release) ([]*registry.Part, []error) {
	parts, errs := make([]*registry.Part, len(releases)), make([]error, len(releases))
	var g errgroup.Group
	g.SetLimit(partReaders)
	for i, release := range releases {
		g.Go(func() error {
			parts[i], errs[i] = r.part(ctx, release)
			return nil
		})
	}
	_ = g.Wait() // each error has its place
	return parts, errs
}
