package relay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/progress"
	"github.com/plimsoll/plimsoll/registry/store"
	"github.com/plimsoll/plimsoll/relay/gitmirror"
	"github.com/plimsoll/plimsoll/relay/state"
)

// unfinishedLife is how long what a cut import has left waits for the import to be repeated.
const unfinishedLife = 7 * 24 * time.Hour

// deleteBatch is how many blobs are deleted between two looks at whether the collection may go on. They come sorted, so
// that a folder is synced twice at most.
const deleteBatch = 4096

// GCOptions say what to collect.
type GCOptions struct {
	DryRun     bool // list and delete nothing
	Unfinished bool // take all that cut imports have left, not only what has waited for a week
	Progress   progress.Func

	arriving []bundle.Node // of a release that is being imported: what it is going to need
}

// GCResult is what was, or would be, deleted.
type GCResult struct {
	Releases        []Release `json:"releases"` // that nothing could make the relay serve again; their records go
	Blobs           int       `json:"blobs"`
	Bytes           int64     `json:"bytes"`
	Unfinished      int       `json:"unfinished"` // blobs that an import has begun which was cut
	UnfinishedBytes int64     `json:"unfinishedBytes"`
	Packs           int       `json:"packs"` // of the Git mirror, put together again without what is not kept
	PackBytes       int64     `json:"packBytes"`
	PacksNoRoom     bool      `json:"packsNoRoom,omitempty"`   // Git packs could be smaller, but there is no room to put them together
	Derived         int       `json:"derived"`                 // files that were computed from releases which are gone
	Leftovers       int       `json:"leftovers"`               // files of writes that were cut, older than a day
	List            []GCBlob  `json:"list,omitempty"`          // of a dry run: the blobs, sorted by digest
	LeftoverFiles   []string  `json:"leftoverFiles,omitempty"` // of a dry run: the files, below the data folder
	Problems        []string  `json:"problems,omitempty"`      // what could not be read, and keeps nothing for that
}

// GCBlob is one blob that would be deleted.
type GCBlob struct {
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"` // in bytes
}

// UnreadableReleaseError says that nothing was collected: what a kept release needs is not known while its metadata cannot
// be read.
type UnreadableReleaseError struct {
	Release Release
	Err     error
}

func (e *UnreadableReleaseError) Error() string {
	return fmt.Sprintf("release %s cannot be read, so that what it needs is not known: %v", e.Release, e.Err)
}

func (e *UnreadableReleaseError) Unwrap() error { return e.Err }

// GC deletes what no release that is served, kept, pinned, promised or staged refers to. Serving goes on; imports wait.
// Interrupted at any moment it has deleted only what it would have deleted, and can be repeated; the result then says how
// far it came. It works on a disk without a free byte.
func (r *Relay) GC(ctx context.Context, o GCOptions) (*GCResult, error) {
	var res *GCResult
	err := r.change(ctx, func() (err error) {
		if !o.DryRun {
			defer r.layBallast()
		}
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
	if o.Progress == nil {
		o.Progress = r.options.Progress
	}
	s := &survey{relay: r, options: o, active: a}
	if err := s.run(ctx); err != nil {
		return nil, err
	}
	s.findLeftovers()
	keep := s.repositories()
	if o.DryRun {
		git, err := r.mirror.Collect(ctx, keep, true)
		if err != nil {
			s.problem("%v", err)
		}
		return s.result(git), nil
	}
	return s.sweep(ctx, keep)
}

// garbage finds what a state does not refer to, in the store. Nodes are what a release needs that is not here yet.
func (r *Relay) garbage(ctx context.Context, a Active, arriving ...bundle.Node) (*GCResult, error) {
	s := &survey{relay: r, options: GCOptions{arriving: arriving}, active: a, absent: true}
	if err := s.run(ctx); err != nil {
		return nil, err
	}
	return s.result(gitmirror.Collection{}), nil
}

// survey tells garbage from what is needed.
//
// A release stays when a channel serves or keeps it, when it is pinned or promised, or when it waits: it is staged, and its
// channel could still go on to it. One that a channel has left behind can be neither activated (it is older than what was
// accepted) nor rolled back to (no channel keeps it), and goes.
type survey struct {
	relay   *Relay
	options GCOptions
	active  Active
	absent  bool // a release without a record need not be here yet

	stay, leave []Record
	parts       []*part // of stay, nil for one that is not here yet
	needed      map[digest.Digest]struct{}

	blobs      []GCBlob // sorted by digest
	unfinished []store.Unfinished
	derived    []string // paths
	leftovers  []string // files below the data folder
	problems   []string
}

func (s *survey) problem(format string, args ...any) {
	s.problems = append(s.problems, fmt.Sprintf(format, args...))
}

func (s *survey) run(ctx context.Context) error {
	if err := s.releases(ctx); err != nil {
		return err
	}
	if err := s.mark(ctx); err != nil {
		return err
	}
	err := s.relay.store.Walk(ctx, func(d digest.Digest, size int64) error {
		if _, ok := s.needed[d]; !ok {
			s.blobs = append(s.blobs, GCBlob{d, size})
		}
		return nil
	})
	var unlisted *store.UnlistedError
	if errors.As(err, &unlisted) {
		s.problem("%v", err) // what is there cannot be deleted, the rest can
	} else if err != nil {
		return err
	}
	left, err := s.relay.store.Unfinished(ctx)
	if err != nil {
		return err
	}
	old := time.Now().Add(-unfinishedLife)
	for _, u := range left {
		_, continues := s.needed[u.Digest]
		if !continues && (s.options.Unfinished || !u.Since.IsZero() && u.Since.Before(old)) {
			s.unfinished = append(s.unfinished, u)
		}
	}
	return s.findDerived()
}

// releases divides those that are here into those that stay and those that go.
func (s *survey) releases(ctx context.Context) error {
	r := s.relay
	recs, err := r.records(ctx)
	if err != nil {
		return err
	}
	promised, err := r.promised(ctx)
	if err != nil {
		return err
	}
	known := make(map[digest.Digest]bool)
	inChannel := make(map[digest.Digest]bool)
	for _, rel := range s.active.Releases() {
		inChannel[rel.Bundle.Digest] = true
	}
	for _, rec := range recs {
		d := rec.Bundle.Digest
		known[d] = true
		if inChannel[d] || s.active.Pinned(d) || slices.Contains(promised, d) || s.active.waits(rec) {
			s.stay = append(s.stay, rec)
		} else {
			s.leave = append(s.leave, rec)
		}
	}
	// A record that was lost takes its release's evidence along, but not the release.
	for _, rel := range s.active.Releases() {
		if !known[rel.Bundle.Digest] {
			known[rel.Bundle.Digest] = true
			s.stay = append(s.stay, Record{Name: rel.Name, Version: rel.Version, Bundle: rel.Bundle})
		}
	}
	held := slices.Clone(promised)
	for _, p := range s.active.Pins {
		held = append(held, p.Bundle)
	}
	for _, d := range held {
		if known[d] {
			continue
		}
		known[d] = true
		size, err := r.store.Size(ctx, d)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		s.stay = append(s.stay, Record{Name: d.String(), Bundle: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: d, Size: size}})
	}
	return nil
}

// mark lists every blob that the releases which stay need.
func (s *survey) mark(ctx context.Context) error {
	s.needed = make(map[digest.Digest]struct{})
	for _, n := range s.options.arriving {
		s.needed[n.Descriptor.Digest] = struct{}{}
	}
	all := make([]Release, len(s.stay))
	for i, rec := range s.stay {
		all[i] = rec.Release()
	}
	parts, errs := s.relay.parts(ctx, all)
	for i, rec := range s.stay {
		if errs[i] != nil {
			if s.absent && rec.Imported == "" && errors.Is(errs[i], fs.ErrNotExist) {
				continue
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return &UnreadableReleaseError{Release: rec.Release(), Err: errs[i]}
		}
		for d := range parts[i].Blobs() {
			s.needed[d] = struct{}{}
		}
		if err := s.markBeside(ctx, rec); err != nil {
			return err
		}
	}
	s.parts = parts
	return nil
}

// markBeside marks what travels beside a release. Nothing rests on it but evidence: what cannot be read any more must not
// keep a full disk from being freed.
func (s *survey) markBeside(ctx context.Context, rec Record) error {
	for _, beside := range rec.Beside {
		s.needed[beside.Manifest.Digest] = struct{}{}
		err := bundle.Walk(ctx, s.relay.store, beside.Manifest, func(n bundle.Node) error {
			s.needed[n.Descriptor.Digest] = struct{}{}
			return nil
		})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			s.problem("release %s: what travels beside it: %v", rec.Release(), err)
		}
	}
	return nil
}

// findDerived lists the parts of releases that are not here.
func (s *survey) findDerived() error {
	dir := filepath.Join(s.relay.dir, derivedDir)
	entries, err := os.ReadDir(dir)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	stays := make(map[string]bool)
	for _, rec := range s.stay {
		stays[rec.Bundle.Digest.Encoded()] = true
	}
	for _, e := range entries {
		hex, ok := strings.CutSuffix(e.Name(), ".part")
		if ok && digest.NewDigestFromEncoded(digest.SHA256, hex).Validate() == nil && !stays[hex] {
			s.derived = append(s.derived, filepath.Join(dir, e.Name()))
		}
	}
	return nil
}

// repositories are the Git repositories of the releases that stay, in each state.
func (s *survey) repositories() []gitmirror.Repository {
	var all []gitmirror.Repository
	for _, p := range s.parts {
		if p == nil {
			continue
		}
		for _, it := range p.git {
			all = append(all, gitmirror.Repository{Path: it.Repository, Git: it.Git})
		}
	}
	return all
}

// result says what would go.
func (s *survey) result(git gitmirror.Collection) *GCResult {
	res := &GCResult{
		Releases: []Release{}, Blobs: len(s.blobs), Unfinished: len(s.unfinished), Derived: len(s.derived), Problems: s.problems,
		Packs: git.Packs, PackBytes: git.Bytes, PacksNoRoom: git.NoRoom, List: s.blobs,
		Leftovers: len(s.leftovers), LeftoverFiles: s.leftovers,
	}
	for _, rec := range s.leave {
		res.Releases = append(res.Releases, rec.Release())
	}
	for _, b := range s.blobs {
		res.Bytes += b.Size
	}
	for _, u := range s.unfinished {
		res.UnfinishedBytes += u.Size
	}
	return res
}

// sweep deletes. Its order lets it be cut anywhere: a record goes before the bytes that it promises.
func (s *survey) sweep(ctx context.Context, keep []gitmirror.Repository) (res *GCResult, err error) {
	r := s.relay
	planned := s.result(gitmirror.Collection{})
	planned.List, planned.LeftoverFiles = nil, nil
	res = &GCResult{Releases: []Release{}, Problems: s.problems}
	nothing := len(s.leave) == 0 && len(s.blobs) == 0 && len(s.unfinished) == 0
	var unrecorded error
	if !nothing {
		if err := r.record(ctx, "gc", planned); err != nil && !isFull(err) {
			return res, err
		} else if err != nil {
			unrecorded = err // room for a record is what is going to be made
		}
	}
	defer func() {
		if unrecorded != nil {
			err = errors.Join(err, r.record(context.WithoutCancel(ctx), "gc", planned))
		}
		if !nothing {
			r.note(context.WithoutCancel(ctx), "gc-done", res)
		}
	}()
	if err := s.sweepRecords(ctx, res); err != nil {
		return res, err
	}
	s.sweepLeftovers(res)
	if err := s.sweepBlobs(ctx, res); err != nil {
		return res, err
	}
	for _, u := range s.unfinished {
		if err := r.mayDelete(ctx); err != nil {
			return res, err
		}
		gone, err := r.store.Discard(ctx, u.Digest)
		if err != nil {
			return res, err
		}
		if gone {
			res.Unfinished++
			res.UnfinishedBytes += u.Size
		}
	}
	return res, s.sweepGit(ctx, keep, res)
}

// isFull tells whether an error is about a disk that takes no more bytes.
func isFull(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// mayDelete is asked before anything is deleted: another relay at the same bucket, which took over because this one stood
// still for long, may be importing what would go.
func (r *Relay) mayDelete(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return state.Held(r.docs)
}

func (s *survey) sweepRecords(ctx context.Context, res *GCResult) error {
	for _, rec := range s.leave {
		if err := s.relay.mayDelete(ctx); err != nil {
			return err
		}
		if err := s.relay.docs.Remove(ctx, recordName(rec.Bundle.Digest)); err != nil {
			return fmt.Errorf("release %s: %w", rec.Release(), err)
		}
		res.Releases = append(res.Releases, rec.Release())
	}
	for _, path := range s.derived {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		res.Derived++
	}
	return nil
}

func (s *survey) sweepBlobs(ctx context.Context, res *GCResult) error {
	var total int64
	for _, b := range s.blobs {
		total += b.Size
	}
	for batch := range slices.Chunk(s.blobs, deleteBatch) {
		if err := s.relay.mayDelete(ctx); err != nil {
			return err
		}
		digests := make([]digest.Digest, len(batch))
		for i, b := range batch {
			digests[i] = b.Digest
		}
		if err := s.relay.store.Delete(ctx, digests...); err != nil {
			return err
		}
		for _, b := range batch {
			res.Blobs++
			res.Bytes += b.Size
		}
		s.options.Progress.Report(progress.Event{Stage: "gc", Done: res.Bytes, Total: total})
	}
	if total > 0 {
		s.options.Progress.Report(progress.Event{Stage: "gc", Done: total, Total: total, End: true})
	}
	return nil
}

// sweepGit makes the Git mirror smaller. It is made of the releases' layers: what goes wrong here is told, and does not
// make the collection look as if it had not been done.
func (s *survey) sweepGit(ctx context.Context, keep []gitmirror.Repository, res *GCResult) error {
	r := s.relay
	git, err := r.mirror.Collect(ctx, keep, false)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	res.Packs, res.PackBytes, res.PacksNoRoom = git.Packs, git.Bytes, git.NoRoom
	if err == nil && git.Packs > 0 {
		// Bitmaps went with the packs that they knew, and it is a good moment to see whether all is still there.
		var gen *Generation
		if gen, err = r.generation(ctx, s.active); err == nil {
			err = r.mirror.Bitmap(ctx, gen.Git)
		}
	}
	if err != nil {
		res.Problems = append(res.Problems, err.Error())
	}
	return nil
}
