package relay

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/progress"
	"github.com/plimsoll/plimsoll/registry"
	"github.com/plimsoll/plimsoll/relay/gitmirror"
	"github.com/plimsoll/plimsoll/relay/state"
)

// keptGenerations is how many Git generations stay on disk for requests that began before a switch.
const keptGenerations = 16

// Generation is an immutable, numbered view of what the relay serves: a function of active.json and the store.
type Generation struct {
	Active   Active
	Registry *registry.View
	Git      *gitmirror.Generation
	Problems []string // kept releases that could not be loaded; what is active is whole

	parts  []*part  // of all releases
	active []*part  // of the active ones
	header []string // the value of GenerationHeader

	gitHosts map[string]struct{} // of the mirrored repositories
}

// Hosts lists the upstream names for which registry and mirror have something, sorted.
func (g *Generation) Hosts() []string {
	hosts := slices.Collect(maps.Keys(g.gitHosts))
	return slices.Compact(slices.Sorted(slices.Values(append(hosts, g.Registry.Hosts()...))))
}

// Number is the generation that responses name.
func (g *Generation) Number() uint64 { return g.Active.Generation }

// Load computes the generation that active.json asks for. Start-up, and each change of active.json while serving, run
// this same code: a power cut is an ordinary restart.
func (r *Relay) Load(ctx context.Context) (*Generation, error) {
	active, _, err := readActive(ctx, r.docs)
	if err != nil {
		return nil, err
	}
	return r.generation(ctx, active)
}

// commit prepares and checks everything that the next state serves, and then makes it the one that is served.
//
// What it is about to do is recorded before, under the word that the journal has for it, and nothing is done that cannot be
// recorded. That it was done is recorded afterwards, if that is possible; a start records what it serves in any case.
func (r *Relay) commit(ctx context.Context, kind string, before, next Active, replaces state.Version) error {
	if err := state.Held(r.docs); err != nil { // who slept must not write a generation over another's
		return err
	}
	p := r.options.Progress
	p.Report(progress.Event{Stage: "check"})
	gen, err := r.generation(ctx, next)
	if err != nil {
		return err
	}
	if err := gen.check(ctx, r); err != nil {
		return err
	}
	p.Report(progress.Event{Stage: "check", End: true})
	if err := r.write(ctx, kind, next, replaces); err != nil {
		return err
	}
	p.Report(progress.Event{Stage: "activate", End: true, Note: fmt.Sprintf("generation %d", next.Generation)})
	r.forget(ctx, dropped(before, next))
	r.tidy(ctx, next.Generation, gen.Git)
	return nil
}

// dropped lists the releases that one state keeps in its channels and the next does not.
func dropped(before, next Active) []Release {
	after := next.Releases()
	return slices.DeleteFunc(before.Releases(), func(r Release) bool { return slices.ContainsFunc(after, r.same) })
}

// forget removes the records of releases that are not kept any more, which would else look staged. The release after them is
// active: one that is left over by a crash is only something to drop by hand.
func (r *Relay) forget(ctx context.Context, gone []Release) {
	for _, rel := range gone {
		if err := r.docs.Remove(ctx, recordName(rel.Bundle.Digest)); err != nil {
			r.options.Progress.Report(progress.Event{Stage: "retain", Name: rel.String(), End: true, Note: err.Error()})
		}
	}
}

// tidy makes the mirror small and fast again after a switch. The release is active: what goes wrong here must not make it
// look otherwise.
func (r *Relay) tidy(ctx context.Context, newest uint64, git *gitmirror.Generation) {
	p := r.options.Progress
	keep := make([]uint64, 0, keptGenerations)
	for n := newest; n > 0 && len(keep) < keptGenerations; n-- {
		keep = append(keep, n)
	}
	if err := r.mirror.Prune(ctx, keep...); err != nil {
		p.Report(progress.Event{Stage: "prune", End: true, Note: err.Error()})
	}
	if err := r.mirror.Bitmap(ctx, git); err != nil {
		p.Report(progress.Event{Stage: "bitmaps", End: true, Note: err.Error()})
	}
	r.layBallast()
}

func (r *Relay) generation(ctx context.Context, a Active) (*Generation, error) {
	gen := &Generation{Active: a, header: []string{strconv.FormatUint(a.Generation, 10)}, gitHosts: make(map[string]struct{})}
	var wanted []Release
	var of []int // of wanted: its channel
	channels, yields := a.ranked()
	for i, c := range channels {
		for _, release := range append([]Release{c.Release}, c.Previous...) {
			wanted, of = append(wanted, release), append(of, i)
		}
	}
	parts, errs := r.parts(ctx, wanted)
	var releases []registry.Release
	var yielding []bool // of gen.active
	for i, part := range parts {
		c := channels[of[i]]
		active := wanted[i].same(c.Release)
		switch {
		case errs[i] == nil:
			releases = append(releases, registry.Release{Part: part.Part, Active: active, Yields: yields[of[i]]})
			gen.parts = append(gen.parts, part)
			if active {
				gen.active = append(gen.active, part)
				yielding = append(yielding, yields[of[i]])
			}
		case active:
			return nil, fmt.Errorf("channel %s: release %s: %w", c.Name, wanted[i], errs[i])
		default:
			// Damage in a release that is not active must be left out, not keep the relay from starting.
			gen.Problems = append(gen.Problems, fmt.Sprintf("channel %s: kept release %s: %v", c.Name, wanted[i], errs[i]))
		}
	}
	var err error
	if gen.Registry, err = registry.NewView(releases); err != nil {
		return nil, err
	}
	repos, err := r.gitRepositories(ctx, gen.active, yielding)
	if err != nil {
		return nil, err
	}
	for _, repo := range repos {
		host, _, _ := strings.Cut(repo.Path, "/")
		gen.gitHosts[host] = struct{}{}
	}
	gen.Git, err = r.mirror.Prepare(ctx, a.Generation, repos)
	return gen, err
}

// gitRepositories brings the Git repositories of the active releases into the mirror and lists them.
func (r *Relay) gitRepositories(ctx context.Context, active []*part, yields []bool) ([]gitmirror.Repository, error) {
	var repos []gitmirror.Repository
	places := make(map[string]place)
	for i, p := range active {
		for _, it := range p.git {
			if have, taken := places[it.Repository]; taken {
				if have.digest == it.Descriptor.Digest || yields[i] {
					continue
				}
				return nil, &GitConflictError{Repository: it.Repository, Releases: [2]string{have.release, p.Name() + " " + p.Version()}}
			}
			places[it.Repository] = place{p.Name() + " " + p.Version(), it.Descriptor.Digest}
			if err := r.admitGit(ctx, it); err != nil {
				return nil, fmt.Errorf("release %s %s: item %s: %w", p.Name(), p.Version(), it.Name, err)
			}
			repos = append(repos, gitmirror.Repository{Path: it.Repository, Git: it.Git})
		}
	}
	return repos, nil
}

// place is who has a Git repository.
type place struct {
	release string
	digest  digest.Digest // of the item
}

// GitConflictError says that two active releases carry one Git repository in different states.
type GitConflictError struct {
	Repository string
	Releases   [2]string
}

func (e *GitConflictError) Error() string {
	return fmt.Sprintf("git repository %s is in two releases, in different states: %s and %s", e.Repository, e.Releases[0], e.Releases[1])
}

// admitGit brings the Git layers of an item from the store into the mirror's object store; it is quick when they are
// there already.
func (r *Relay) admitGit(ctx context.Context, it gitPart) error {
	if r.mirror.Admitted(it.Repository, it.Git) {
		return nil
	}
	return r.mirror.Admit(ctx, it.Repository, it.Git, r.gitLayers(ctx, it))
}

// check asserts that every blob of the active releases is in the store, with its size: a tag whose layer is missing
// would fail a robot's pull instead of this activation.
func (g *Generation) check(ctx context.Context, r *Relay) error {
	for _, part := range g.active {
		if err := r.checkPart(ctx, part); err != nil {
			return fmt.Errorf("release %s %s: %w", part.Name(), part.Version(), err)
		}
	}
	return nil
}

func (r *Relay) checkPart(ctx context.Context, part *part) error {
	for d, want := range part.Blobs() {
		size, err := r.store.Size(ctx, d)
		if err != nil || size != want {
			return &bundle.MissingError{Descriptor: ocispec.Descriptor{Digest: d, Size: want}, Err: err}
		}
	}
	return nil
}

// Activate makes a staged release the one that is served: the one of that channel or bundle with the version or digest.
func (r *Relay) Activate(ctx context.Context, name, wanted string) (Active, error) {
	return r.switchTo(ctx, "activate", func(a Active, keep retention) (Active, error) {
		recs, err := r.records(ctx)
		if err != nil {
			return a, err
		}
		missing := &NoReleaseError{Name: name, Wanted: wanted}
		for _, rec := range recs {
			if rec.Name != name && rec.Channel != name {
				continue
			}
			if rec.Release().is(wanted) {
				return a.accept(rec.Channel, rec.Release(), NewerVersion, keep)
			}
			missing.Present = append(missing.Present, rec.Version)
		}
		return a, missing
	})
}

// Rollback goes back to a release of a channel that was active before; see Active.rollback for what an empty wanted
// means.
func (r *Relay) Rollback(ctx context.Context, channel, wanted string) (Active, error) {
	return r.switchTo(ctx, "rollback", func(a Active, keep retention) (Active, error) {
		if channel == "" && len(a.Channels) == 1 {
			channel = a.Channels[0].Name
		}
		return a.rollback(channel, wanted, keep)
	})
}

// SetPrecedence says whose names are served when channels differ; see Active.Precedence.
func (r *Relay) SetPrecedence(ctx context.Context, channels []string) (Active, error) {
	return r.switchTo(ctx, "precedence", func(a Active, _ retention) (Active, error) {
		for i, c := range channels {
			if err := CheckChannel(c); err != nil {
				return a, err
			}
			if slices.Contains(channels[:i], c) {
				return a, fmt.Errorf("precedence names channel %s twice", c)
			}
		}
		if slices.Equal(a.Precedence, channels) {
			return a, nil
		}
		a.Precedence = slices.Clone(channels)
		a.Generation++
		return a, nil
	})
}

// Pin keeps a release that is here until it is unpinned.
func (r *Relay) Pin(ctx context.Context, name, wanted, reason string) (Release, error) {
	var pinned Release
	_, err := r.switchTo(ctx, "pin", func(a Active, _ retention) (Active, error) {
		rel, err := r.find(ctx, name, wanted)
		if err != nil {
			return a, err
		}
		pinned = rel
		return a.pin(Pin{Bundle: rel.Bundle.Digest, Since: now(), Reason: reason}), nil
	})
	return pinned, err
}

// Unpin leaves a release to retention again.
func (r *Relay) Unpin(ctx context.Context, name, wanted string) (Release, error) {
	var rel Release
	_, err := r.switchTo(ctx, "unpin", func(a Active, _ retention) (_ Active, err error) {
		if rel, err = r.find(ctx, name, wanted); err != nil {
			return a, err
		}
		return a.unpin(rel.Bundle.Digest), nil
	})
	return rel, err
}

// find looks a release up by the name of its bundle or channel, and its version or digest.
func (r *Relay) find(ctx context.Context, name, wanted string) (Release, error) {
	recs, err := r.records(ctx)
	if err != nil {
		return Release{}, err
	}
	missing := &NoReleaseError{Name: name, Wanted: wanted}
	for _, rec := range recs {
		if rec.Name != name && rec.Channel != name {
			continue
		}
		if rec.Release().is(wanted) {
			return rec.Release(), nil
		}
		missing.Present = append(missing.Present, rec.Version)
	}
	return Release{}, missing
}

// switchTo changes active.json under the lock. When what is served changes it goes through commit, else it is only
// written. The kind is what the journal calls it.
func (r *Relay) switchTo(ctx context.Context, kind string, change func(Active, retention) (Active, error)) (Active, error) {
	var next Active
	err := r.change(ctx, func() error {
		active, version, err := readActive(ctx, r.docs)
		if err != nil {
			return err
		}
		keep, err := r.retention(ctx, active)
		if err != nil {
			return err
		}
		if next, err = change(active, keep); err != nil {
			return err
		}
		switch {
		case next.Generation != active.Generation:
			return r.commit(ctx, kind, active, next, version)
		case !reflect.DeepEqual(next, active):
			return r.write(ctx, kind, next, version)
		}
		return nil
	})
	return next, err
}

// write replaces active.json between two records.
func (r *Relay) write(ctx context.Context, kind string, next Active, replaces state.Version) error {
	if err := r.record(ctx, kind, next); err != nil {
		return err
	}
	if err := writeActive(ctx, r.docs, next, replaces); err != nil {
		r.note(ctx, kind+"-refused", refusedChange{Generation: next.Generation, Reason: err.Error()})
		return err
	}
	r.note(ctx, kind+"-done", done{Generation: next.Generation})
	return nil
}

// What the journal says of a change that was written, and of one that was not.
type (
	done struct {
		Generation uint64 `json:"generation"`
	}
	refusedChange struct {
		Generation uint64 `json:"generation"`
		Reason     string `json:"reason"`
	}
)

// retention is what the settings, the pins and the receipts say about a state.
func (r *Relay) retention(ctx context.Context, a Active) (retention, error) {
	s, err := r.Settings(ctx)
	if err != nil {
		return retention{}, err
	}
	promised, err := r.promised(ctx)
	if err != nil {
		return retention{}, err
	}
	return retention{keep: s.KeepReleases(), held: func(d digest.Digest) bool {
		return a.Pinned(d) || slices.Contains(promised, d)
	}}, nil
}

// now is the time by the box's clock, as documents have it.
func now() string { return time.Now().UTC().Truncate(time.Second).Format(time.RFC3339) }
