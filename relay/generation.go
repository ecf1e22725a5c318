package relay

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/progress"
	"github.com/plimsoll/plimsoll/registry"
	"github.com/plimsoll/plimsoll/relay/gitmirror"
)

// keptGenerations is how many Git generations stay on disk for requests that began before a switch.
const keptGenerations = 16

// Generation is an immutable, numbered view of what the relay serves: a function of active.json and the store.
type Generation struct {
	Active   Active
	Registry *registry.View
	Git      *gitmirror.Generation
	Problems []string // kept releases that could not be loaded; what is active is whole

	parts  []*part // of all releases
	active []*part // of the active ones
	header []string         // the value of GenerationHeader

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
	active, err := readActive(r.dir)
	if err != nil {
		return nil, err
	}
	return r.generation(ctx, active)
}

// commit prepares and checks everything that the next state serves, and then makes it the one that is served.
func (r *Relay) commit(ctx context.Context, next Active) error {
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
	if err := writeActive(r.dir, next); err != nil {
		return fmt.Errorf("%s: %w", activeFile, err)
	}
	p.Report(progress.Event{Stage: "activate", End: true, Note: fmt.Sprintf("generation %d", next.Generation)})
	r.tidy(ctx, next.Generation, gen.Git)
	return nil
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
}

func (r *Relay) generation(ctx context.Context, a Active) (*Generation, error) {
	gen := &Generation{Active: a, header: []string{strconv.FormatUint(a.Generation, 10)}, gitHosts: make(map[string]struct{})}
	var wanted []Release
	var streams []int // of wanted: its stream
	for i, s := range a.Streams {
		for _, release := range append([]Release{s.Release}, s.Previous...) {
			wanted, streams = append(wanted, release), append(streams, i)
		}
	}
	parts, errs := r.parts(ctx, wanted)
	var releases []registry.Release
	for i, part := range parts {
		stream := a.Streams[streams[i]]
		active := wanted[i].same(stream.Release)
		switch {
		case errs[i] == nil:
			releases = append(releases, registry.Release{Part: part.Part, Active: active})
			gen.parts = append(gen.parts, part)
			if active {
				gen.active = append(gen.active, part)
			}
		case active:
			return nil, fmt.Errorf("release %s %s: %w", stream.Name, wanted[i].Version, errs[i])
		default:
			// Damage in a release that is not active must be left out, not keep the relay from starting.
			gen.Problems = append(gen.Problems, fmt.Sprintf("kept release %s %s: %v", stream.Name, wanted[i].Version, errs[i]))
		}
	}
	var err error
	if gen.Registry, err = registry.NewView(releases); err != nil {
		return nil, err
	}
	repos, err := r.gitRepositories(ctx, gen.active)
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
func (r *Relay) gitRepositories(ctx context.Context, active []*part) ([]gitmirror.Repository, error) {
	var repos []gitmirror.Repository
	places := make(map[string]string)
	for _, p := range active {
		for _, it := range p.git {
			if other, taken := places[it.Repository]; taken {
				return nil, fmt.Errorf("release %s %s: git repository %s is already served by release %s", p.Name(), p.Version(), it.Repository, other)
			}
			places[it.Repository] = p.Name()
			if err := r.admitGit(ctx, it); err != nil {
				return nil, fmt.Errorf("release %s %s: item %s: %w", p.Name(), p.Version(), it.Name, err)
			}
			repos = append(repos, gitmirror.Repository{Path: it.Repository, Git: it.Git})
		}
	}
	return repos, nil
}

// admitGit brings the Git layers of an item from the store into the mirror's object store; it is quick when they are
// there already.
func (r *Relay) admitGit(ctx context.Context, it gitPart) error {
	if r.mirror.Admitted(it.Repository, it.Git) {
		return nil
	}
	var layers []gitmirror.Layer
	err := bundle.Walk(ctx, r.store, it.Descriptor, func(n bundle.Node) error {
		if !n.Manifest && n.Descriptor.MediaType == bundle.MediaTypeGitLayer {
			layers = append(layers, gitmirror.Layer{
				Name: n.Descriptor.Digest.String(),
				Open: func() (io.ReadCloser, error) { return r.store.Open(ctx, n.Descriptor) },
			})
		}
		return nil
	})
	if err != nil {
		return err
	}
	return r.mirror.Admit(ctx, it.Repository, it.Git, layers)
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

// Activate makes a staged release the one that is served: the one of that name with the version or digest.
func (r *Relay) Activate(ctx context.Context, name, wanted string) (Active, error) {
	return r.switchTo(ctx, func(a Active) (Active, error) {
		recs, err := r.records()
		if err != nil {
			return a, err
		}
		missing := &NoReleaseError{Name: name, Wanted: wanted}
		for _, rec := range recs {
			if rec.Name != name {
				continue
			}
			if rec.Version == wanted || rec.Bundle.Digest.String() == wanted {
				return a.accept(name, Release{Version: rec.Version, Bundle: rec.Bundle})
			}
			missing.Present = append(missing.Present, rec.Version)
		}
		return a, missing
	})
}

// Rollback goes back to a release that was active before; see Active.rollback for what an empty wanted means.
func (r *Relay) Rollback(ctx context.Context, name, wanted string) (Active, error) {
	return r.switchTo(ctx, func(a Active) (Active, error) {
		if name == "" && len(a.Streams) == 1 {
			name = a.Streams[0].Name
		}
		return a.rollback(name, wanted)
	})
}

func (r *Relay) switchTo(ctx context.Context, change func(Active) (Active, error)) (Active, error) {
	var next Active
	err := r.change(ctx, func() error {
		active, err := readActive(r.dir)
		if err != nil {
			return err
		}
		if next, err = change(active); err != nil {
			return err
		}
		if next.Generation == active.Generation {
			return nil
		}
		return r.commit(ctx, next)
	})
	return next, err
}
