package relay

import (
	"context"
	"fmt"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/registry"
)

// reserve is the room that an import leaves, so that a full disk never stops the relay from writing its own small files.
const reserve = 16 << 20

// room is how many bytes of disk an import needs, with the reserve, and how many are free. Without blobs to copy it
// needs nothing.
func (r *Relay) room(ctx context.Context, pl *plan) (need, free int64, err error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(r.dir, &fs); err != nil {
		return 0, 0, fmt.Errorf("%s: %w", r.dir, err)
	}
	free = int64(fs.Bavail) * fs.Bsize
	if len(pl.missing) == 0 {
		return 0, free, nil
	}
	// A Git layer is stored as a blob, unpacked in quarantine and linked into the mirror.
	need = 2*pl.gitBytes + reserve
	if !r.remote {
		need += pl.missingBytes - pl.left(ctx, r)
	}
	return need, free, nil
}

// left is how many bytes an import that was cut has left of what is missing.
func (pl *plan) left(ctx context.Context, r *Relay) (n int64) {
	for _, node := range pl.missing {
		n += min(r.store.Partial(ctx, node.Descriptor.Digest), node.Descriptor.Size)
	}
	return n
}

// preflight refuses an import for which there is no room, before it writes anything.
func (i *importing) preflight(ctx context.Context) error {
	r := i.relay
	need, free, err := r.room(ctx, i.plan)
	if err != nil || need <= free {
		return err
	}
	if i.options.MakeRoom {
		if _, err := r.collect(ctx, GCOptions{arriving: i.plan.nodes}); err != nil {
			return err
		}
		if need, free, err = r.room(ctx, i.plan); err != nil || need <= free {
			return err
		}
	}
	e := &NoRoomError{Path: r.dir, Need: need, Free: free}
	if now, err := r.garbage(ctx, i.active, i.plan.nodes...); err == nil {
		e.Garbage = now.Bytes
	}
	return e
}

// describe says what run would do.
func (i *importing) describe(ctx context.Context) (*ImportPlan, error) {
	r, pl := i.relay, i.plan
	need, free, err := r.room(ctx, pl)
	if err != nil {
		return nil, err
	}
	now, err := r.garbage(ctx, i.active, pl.nodes...)
	if err != nil {
		return nil, err
	}
	then, err := r.garbage(ctx, i.next, pl.nodes...)
	if err != nil {
		return nil, err
	}
	left := pl.left(ctx, r)
	estimate, unknown, err := i.estimate(ctx, pl.missingBytes-left, free)
	if err != nil {
		return nil, err
	}
	return &ImportPlan{
		Name: i.release.Name, Version: i.release.Version, Channel: i.channel, Bundle: i.release.Bundle,
		Signatures: pl.record(i).Signatures, Blobs: len(pl.nodes), Bytes: pl.bytes, CopyBlobs: len(pl.missing),
		CopyBytes: pl.missingBytes - left, LeftBytes: left, Need: need, Free: free, Garbage: now.Bytes,
		Drops: append([]Release{}, dropped(i.active, i.next)...), Freed: then.Bytes,
		Active: i.next.Generation == i.active.Generation, Generation: i.next.Generation,
		Estimate: estimate, EstimateUnknown: unknown,
	}, nil
}

// checkNames refuses a release that would serve a tag or a Git repository which another channel serves with different
// content. The commit would refuse it too, but only after all bytes came.
func (r *Relay) checkNames(ctx context.Context, next Active, offered Release, lock *bundle.Lock) error {
	channels, yields := next.ranked()
	if len(channels) < 2 {
		return nil
	}
	type claim struct {
		digest  digest.Digest
		release Release
	}
	tags, repos := make(map[[2]string]claim), make(map[string]claim)
	for i, c := range channels {
		its := lock
		if !c.Release.same(offered) {
			b, err := bundle.Load(ctx, r.store, c.Release.Bundle)
			if err != nil {
				return fmt.Errorf("channel %s: release %s: %w", c.Name, c.Release, err)
			}
			its = b.Lock
		}
		for _, it := range its.Items {
			mine := claim{it.Descriptor.Digest, c.Release}
			if it.Kind == bundle.KindGit {
				have, taken := repos[it.Repository]
				if taken && have.digest != mine.digest && !yields[i] {
					return &GitConflictError{Repository: it.Repository, Releases: [2]string{have.release.String(), mine.release.String()}}
				} else if !taken {
					repos[it.Repository] = mine
				}
			}
			for _, tag := range it.Tags {
				have, taken := tags[[2]string{it.Repository, tag}]
				if taken && have.digest != mine.digest && !yields[i] {
					return &registry.ConflictError{
						Repository: it.Repository, Tag: tag,
						Bundles: [2]string{have.release.String(), mine.release.String()},
						Digests: [2]digest.Digest{have.digest, mine.digest},
					}
				} else if !taken {
					tags[[2]string{it.Repository, tag}] = mine
				}
			}
		}
	}
	return nil
}
