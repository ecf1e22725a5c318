package relay

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/progress"
	"github.com/plimsoll/plimsoll/relay/gitmirror"
)

// maxGitBad bounds what is noted of damage that could not be repaired: a repair makes everything anew, whatever was found.
const maxGitBad = 16

// GitScrub is what a scrub found in the Git mirror, once it came to the end of the blobs. The mirror is made of Git layers
// that are blobs: what is damaged of it is made again at once, and nothing has to be brought.
type GitScrub struct {
	Checked int   `json:"checked"` // packs that were read again
	Bytes   int64 `json:"bytes"`   // of them and their indexes
	Flaky   int   `json:"flaky"`   // packs that were wrong once and right when read again

	Damaged  []gitmirror.BadPack `json:"damaged"`
	Repaired bool                `json:"repaired"`         // what was damaged is whole again
	Left     []string            `json:"left"`             // repositories of kept releases that could not be made again; the active ones are whole
	Reason   string              `json:"reason,omitempty"` // why it is not repaired
}

// Healthy tells whether what is served is whole, by now.
func (g *GitScrub) Healthy() bool { return len(g.Damaged) == 0 || g.Repaired }

// What the journal says of the mirror.
type (
	gitDamaged struct {
		Damaged []gitmirror.BadPack `json:"damaged"`
	}
	gitHealed struct {
		Packs int      `json:"packs"` // that were made of layers
		Left  []string `json:"left"`
	}
)

// git reads the packs of the mirror again, and makes it whole if it is not. done is false when the time was over before.
func (s *scrubbing) git(reading, ctx context.Context) (done bool, err error) {
	done, err = s.gitPacks(reading, ctx)
	res := &s.result.Git
	if done && err == nil && len(res.Damaged) == 0 {
		err = s.gitWhole(ctx)
	}
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if len(res.Damaged) > 0 {
		s.repairGit(ctx)
	} else if done && err == nil {
		s.state.GitBad = nil
	}
	return done, err
}

func (s *scrubbing) gitPacks(reading, ctx context.Context) (done bool, err error) {
	r, res := s.relay, &s.result.Git
	packs, err := r.mirror.Packs()
	if err != nil {
		return true, err
	}
	pace := func(ctx context.Context, n int) error {
		if err := s.wait(ctx, n); err != nil {
			return err
		}
		res.Bytes += int64(n)
		r.options.Progress.Report(progress.Event{Stage: "scrub git", Done: res.Bytes})
		return nil
	}
	for _, name := range packs {
		if name <= s.state.GitAfter {
			continue
		}
		if s.begun && reading.Err() != nil {
			return false, nil
		}
		until := reading // as with blobs: the first one is read to its end, whatever the time
		if !s.begun {
			s.begun, until = true, ctx
		}
		bad, flaky, err := r.mirror.CheckPack(until, name, pace)
		switch {
		case err != nil && until.Err() != nil:
			return false, ctx.Err()
		case err != nil:
			return true, err
		case bad != nil:
			res.Damaged = append(res.Damaged, *bad)
		case flaky:
			res.Flaky++
		}
		res.Checked++
		s.state.GitAfter = name
		if time.Since(s.saved) > scrubSave {
			r.writeScrubState(s.state)
			s.saved = time.Now()
		}
	}
	return true, nil
}

// gitWhole looks for what single packs do not show: one that was lost.
func (s *scrubbing) gitWhole(ctx context.Context) error {
	active, _, err := readActive(ctx, s.relay.docs)
	if err != nil {
		return err
	}
	kept, err := s.relay.gitKept(ctx, active)
	if blobOf(err) != "" {
		return nil // the scrub of blobs names what is missing; until that is here it is not known what must be in the mirror
	}
	if err != nil {
		return err
	}
	bad, err := s.relay.mirror.CheckWhole(ctx, kept)
	s.result.Git.Damaged = append(s.result.Git.Damaged, bad...)
	return err
}

// repairGit records what was found and makes it good. That it cannot be recorded keeps nothing from that.
func (s *scrubbing) repairGit(ctx context.Context) {
	res := &s.result.Git
	if err := s.relay.record(ctx, "git-damaged", gitDamaged{res.Damaged}); err != nil {
		s.failed = append(s.failed, err)
	}
	left, err := s.relay.repairGit(ctx, res.Damaged)
	if err != nil {
		res.Reason = err.Error()
		s.state.GitBad = res.Damaged[:min(len(res.Damaged), maxGitBad)]
		return
	}
	res.Repaired, res.Left, s.state.GitBad = true, append(res.Left, left...), nil
}

// repairGit makes the mirror whole again of the layers in the store, and gives the repositories of kept releases of which
// it could not. Imports and activations wait meanwhile; who reads does not.
func (r *Relay) repairGit(ctx context.Context, bad []gitmirror.BadPack) (left []string, err error) {
	err = r.change(ctx, func() error {
		active, _, err := readActive(ctx, r.docs)
		if err != nil {
			return err
		}
		kept, err := r.gitKept(ctx, active)
		if err != nil {
			return err
		}
		did, err := r.mirror.Repair(ctx, bad, kept)
		if err != nil || did == nil { // nil: another process has repaired or collected it
			return err
		}
		left = did.Left
		r.note(ctx, "git-healed", gitHealed{Packs: did.Packs, Left: did.Left})
		if active.Generation == 0 {
			return nil
		}
		// Bitmaps went with the packs that they knew, and it is a good moment to see whether all is there.
		gen, err := r.generation(ctx, active)
		if err != nil {
			return err
		}
		if err := r.mirror.Bitmap(ctx, gen.Git); err != nil { // without them all is served, only slower
			r.options.Progress.Report(progress.Event{Stage: "bitmaps", End: true, Note: err.Error()})
		}
		return nil
	})
	return left, err
}

// gitKept lists the Git repositories of the releases that are here, with their layers, those that are served first. Until
// the folder of the generation is made nothing is said to be in the mirror: the next start sees to it.
func (r *Relay) gitKept(ctx context.Context, active Active) ([]gitmirror.Kept, error) {
	_, err := os.Stat(filepath.Join(r.dir, "git", "gen-"+strconv.FormatUint(active.Generation, 10)))
	made := err == nil
	var all []gitmirror.Kept
	taken := make(map[string]bool)       // repositories that are served
	known := make(map[gitAt]bool)        // of all
	read := make(map[digest.Digest]bool) // releases
	add := func(rel Release, serves bool) error {
		read[rel.Bundle.Digest] = true
		p, err := r.part(ctx, rel)
		if err != nil {
			return err
		}
		for _, it := range p.git {
			// A repository that a channel before has is not this one's to serve, and was perhaps never admitted.
			served := serves && !taken[it.Repository]
			taken[it.Repository] = taken[it.Repository] || serves
			if at := (gitAt{it.Repository, it.Descriptor.Digest}); !known[at] {
				known[at] = true
				all = append(all, gitmirror.Kept{
					Repository: gitmirror.Repository{Path: it.Repository, Git: it.Git},
					Layers:     r.gitLayers(ctx, it), Served: served && made,
				})
			}
		}
		return nil
	}
	channels, _ := active.ranked()
	for _, c := range channels {
		if err := add(c.Release, true); err != nil {
			return nil, err
		}
	}
	recs, err := r.kept(ctx)
	if err != nil {
		return nil, err
	}
	for _, rec := range recs {
		if !read[rec.Bundle.Digest] {
			_ = add(rec.Release(), false) // what cannot be read is missing, which the scrub of blobs says
		}
	}
	return all, ctx.Err()
}

// gitAt is a repository in one state.
type gitAt struct {
	repository string
	item       digest.Digest
}

// gitLayers lists the layers of a Git item. When its manifest cannot be read, that is what opening them says.
func (r *Relay) gitLayers(ctx context.Context, it gitPart) []gitmirror.Layer {
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
		return []gitmirror.Layer{{Name: it.Descriptor.Digest.String(), Open: func() (io.ReadCloser, error) { return nil, err }}}
	}
	return layers
}

// gitScrubbed logs what a scrub found in the mirror.
func (s *Scrubber) gitScrubbed(g *GitScrub) {
	for _, bad := range g.Damaged {
		s.log.Error("a git pack is damaged", "pack", bad.Name, "reason", bad.Reason)
	}
	switch {
	case g.Repaired:
		s.log.Info("the git mirror was made again of its layers", "left", g.Left)
	case len(g.Damaged) > 0:
		s.log.Error("the git mirror cannot be repaired yet", "reason", g.Reason)
	}
}

// healGit tries once more to repair what could not be repaired when it was found: blobs of its layers may have come.
func (s *Scrubber) healGit(ctx context.Context) {
	st := s.relay.readScrubState()
	if len(st.GitBad) == 0 || !s.gitTried.IsZero() && time.Since(s.gitTried) < healEvery {
		return
	}
	s.gitTried = time.Now()
	left, err := s.relay.repairGit(ctx, st.GitBad)
	s.report("heal git", err)
	if err == nil {
		s.gitScrubbed(&GitScrub{Repaired: true, Left: left})
		st.GitBad = nil
		s.relay.writeScrubState(st)
	}
}
