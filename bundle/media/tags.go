package media

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"oras.land/oras-go/v2/errdef"
)

// MaxTags bounds the tags of a repository that Tags lists.
const MaxTags = 100_000

// Tags lists the tags of a registry repository, sorted; the reference's own tag or digest says nothing. A repository that is
// not there has none. It fails with *RefError for a folder or a tar.
func Tags(ctx context.Context, ref string, o Options) (all []string, err error) {
	r, err := parseReference(ref)
	if err != nil {
		return nil, err
	}
	if !r.remote() {
		return nil, r.errorf("it is not in a registry")
	}
	repo, err := openRemote(r, o)
	if err != nil {
		return nil, err
	}
	defer repo.Close() //nolint:errcheck // only read from
	err = repo.patiently(ctx, func(ctx context.Context) error {
		all = all[:0]
		return repo.repo.Tags(ctx, "", func(tags []string) error {
			if all = append(all, tags...); len(all) > MaxTags {
				return r.errorf("more than %d tags", MaxTags)
			}
			return nil
		})
	})
	if errors.Is(err, errdef.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: list tags: %w", repo.name, err)
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}
