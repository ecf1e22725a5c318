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
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/time/rate"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/durable"
	"github.com/plimsoll/plimsoll/internal/progress"
	"github.com/plimsoll/plimsoll/internal/strictjson"
	"github.com/plimsoll/plimsoll/registry/store"
	"github.com/plimsoll/plimsoll/relay/gitmirror"
)

const (
	scrubFile    = "scrub.json" // in derivedDir: to lose it only repeats what was read
	scrubVersion = "plimsoll.scrub.v1"

	scrubBurst   = 1 << 20          // bytes that are read at once, whatever the rate
	scrubSave    = 30 * time.Second // how often is noted how far it came
	maxUnread    = 64               // blobs that the disk does not give, after which a pass ends: it is the disk, not they
	maxListedBad = 1000             // blobs that a result lists
)

// ScrubOptions say how much is read again, and how fast. The zero value goes on where the last one stopped, as fast as
// the disk goes.
type ScrubOptions struct {
	Rate  int64     // bytes per second; 0: no bound
	All   bool      // from the first blob on; else behind the last one that was read
	Until time.Time // when to stop, to go on another time; zero: at the last blob

	Found func(BadBlob) // is told of each damaged or unreadable one when it is found; may be nil

	gitOnly bool // the blobs are somebody else's to look after
}

// ScrubResult is what a scrub found.
type ScrubResult struct {
	Checked int   `json:"checked"` // blobs that were read again
	Bytes   int64 `json:"bytes"`   // of them
	Whole   bool  `json:"whole"`   // the end was reached: everything was read since the pass began
	Flaky   int   `json:"flaky"`   // blobs that were wrong once and right when read again: memory or cables, not the disk

	Damaged    []BadBlob `json:"damaged"`    // their bytes are not what they should be; they are not served any more
	Unreadable []BadBlob `json:"unreadable"` // the disk does not give them
	Missing    []BadBlob `json:"missing"`    // named by releases that are here, and not in the store; the damaged ones too

	Git GitScrub `json:"git"` // the mirror, which is looked at behind the last blob
}

// Healthy tells whether nothing is wrong.
func (r *ScrubResult) Healthy() bool {
	return len(r.Damaged) == 0 && len(r.Unreadable) == 0 && len(r.Missing) == 0 && r.Git.Healthy()
}

// BadBlob is a blob that cannot be served.
type BadBlob struct {
	Digest      digest.Digest `json:"digest"`
	Size        int64         `json:"size"` // in bytes
	Reason      string        `json:"reason"`
	Quarantined bool          `json:"quarantined"` // it left its place, so that an import or heal brings it anew
	Uses        []BlobUse     `json:"uses"`        // none if no release that is here needs it
}

// BlobUse is a release that needs a blob.
type BlobUse struct {
	Release string        `json:"release"` // name and version
	Bundle  digest.Digest `json:"bundle"`
	Items   []string      `json:"items"` // none when the release's own manifests cannot be read
}

// scrubState is how far the blobs were read again, in the order of their digests.
type scrubState struct {
	APIVersion string        `json:"apiVersion"`
	Began      string        `json:"began"`           // RFC 3339: the pass that goes on, or ended last
	Ended      string        `json:"ended,omitempty"` // RFC 3339; empty while it goes on
	After      digest.Digest `json:"after,omitempty"` // the last blob that was read

	GitAfter string              `json:"gitAfter,omitempty"` // likewise, of the mirror's packs
	GitBad   []gitmirror.BadPack `json:"gitBad,omitempty"`   // what could not be repaired; is tried again
}

func (r *Relay) scrubPath() string { return filepath.Join(r.dir, derivedDir, scrubFile) }

// readScrubState gives the zero state when there is none that can be read.
func (r *Relay) readScrubState() scrubState {
	var s scrubState
	data, err := os.ReadFile(r.scrubPath())
	if err != nil || strictjson.UnmarshalCanonical(data, &s) != nil || s.APIVersion != scrubVersion {
		return scrubState{}
	}
	if s.After != "" && s.After.Validate() != nil {
		return scrubState{}
	}
	return s
}

func (r *Relay) writeScrubState(s scrubState) {
	s.APIVersion = scrubVersion
	data, err := strictjson.Marshal(s)
	if err != nil {
		return
	}
	// A disk that is full or read-only costs a repetition and nothing else.
	_ = durable.WriteFile(r.scrubPath(), data, 0o644)
}

// Scrub reads the blobs of the store again, those that were not read for longest first, and takes out what is damaged.
// Then it does so with the packs of the Git mirror, and makes them again if they are damaged: only then imports wait. It
// changes nothing else, and holds nobody up: imports, collections and robots go on.
//
// The whole store is read and not only what releases name: a damaged blob that waits for its collection would else be
// taken for good by the next import that needs it.
func (r *Relay) Scrub(ctx context.Context, o ScrubOptions) (*ScrubResult, error) {
	s := &scrubbing{relay: r, options: o, limit: rate.NewLimiter(rate.Inf, scrubBurst), saved: time.Now()}
	s.result = ScrubResult{
		Damaged: []BadBlob{}, Unreadable: []BadBlob{}, Missing: []BadBlob{},
		Git: GitScrub{Damaged: []gitmirror.BadPack{}, Left: []string{}},
	}
	if o.Rate > 0 {
		s.limit = rate.NewLimiter(rate.Limit(o.Rate), scrubBurst)
	}
	s.state = r.readScrubState()
	if o.All || s.state.Began == "" || s.state.Ended != "" {
		s.state = scrubState{Began: now(), GitBad: s.state.GitBad}
	}
	err := s.run(ctx)
	return &s.result, err
}

type scrubbing struct {
	relay   *Relay
	options ScrubOptions
	limit   *rate.Limiter
	state   scrubState
	saved   time.Time
	begun   bool // the first blob
	total   int64
	result  ScrubResult
	unread  []digest.Digest
	uses    *blobUses
	failed  []error // what could not be done about what was found
}

// errScrubTime ends a scrub at ScrubOptions.Until.
var errScrubTime = errors.New("the time for scrubbing is over")

func (s *scrubbing) run(ctx context.Context) error {
	r := s.relay
	reading := ctx
	if !s.options.Until.IsZero() {
		var cancel context.CancelFunc
		reading, cancel = context.WithDeadlineCause(ctx, s.options.Until, errScrubTime)
		defer cancel()
	}
	done, err := true, error(nil)
	if !s.options.gitOnly {
		done, err = s.blobs(reading, ctx)
	}
	if err == nil && done {
		if done, err = s.git(reading, ctx); err != nil && ctx.Err() == nil {
			// A box without git must not read its blobs over and over for that.
			s.failed, err = append(s.failed, err), nil
		}
	}
	if err == nil && done {
		s.result.Whole = true
		s.state.Ended, s.state.After, s.state.GitAfter = now(), "", ""
	}
	r.writeScrubState(s.state)
	if s.result.Whole && !s.options.gitOnly {
		s.result.Missing, err = r.missing(ctx, s.names)
		r.options.Progress.Report(progress.Event{Stage: "scrub", Done: s.total, Total: s.total, End: true})
	}
	return errors.Join(append(s.failed, err)...)
}

// blobs reads those again that the pass has not read yet. done is false when the time was over before the last one.
func (s *scrubbing) blobs(reading, ctx context.Context) (done bool, err error) {
	r := s.relay
	if r.options.Progress != nil {
		// What cannot be listed is found by the walk that reads.
		_ = r.store.Walk(ctx, func(d digest.Digest, size int64) error {
			if d > s.state.After {
				s.total += size
			}
			return nil
		})
	}
	err = r.store.Walk(ctx, func(d digest.Digest, _ int64) error {
		if d <= s.state.After {
			return nil
		}
		if s.begun && reading.Err() != nil {
			return context.Cause(reading)
		}
		// The first one is read to its end, whatever the time: a blob that takes longer than a quiet night would else begin
		// anew in each of them.
		until := reading
		if !s.begun {
			s.begun, until = true, ctx
		}
		if err := s.blob(until, ctx, d); err != nil {
			return err
		}
		s.state.After = d
		if time.Since(s.saved) > scrubSave {
			r.writeScrubState(s.state)
			s.saved = time.Now()
		}
		return nil
	})
	var unlisted *store.UnlistedError
	if errors.As(err, &unlisted) {
		s.failed, err = append(s.failed, err), nil // its blobs are missing; they are named at the end
	}
	done = err == nil
	if errors.Is(err, errScrubTime) {
		err = nil
	}
	r.writeScrubState(s.state)
	if err == nil {
		err = s.unreadable(ctx)
	}
	return done, err
}

// wait waits for the rate.
func (s *scrubbing) wait(ctx context.Context, n int) error {
	err := s.limit.WaitN(ctx, n)
	if err != nil && ctx.Err() == nil {
		// The limiter says at once that the turn would come behind the deadline.
		<-ctx.Done()
	}
	if err != nil {
		return ctx.Err()
	}
	return nil
}

// pace waits for the rate, and lets the progress know.
func (s *scrubbing) pace(ctx context.Context, n int) error {
	if err := s.wait(ctx, n); err != nil {
		return err
	}
	s.result.Bytes += int64(n)
	s.relay.options.Progress.Report(progress.Event{Stage: "scrub", Done: min(s.result.Bytes, s.total), Total: s.total})
	return nil
}

// blob reads one blob again. What is found of it is acted on even if the time for reading is over.
func (s *scrubbing) blob(reading, ctx context.Context, d digest.Digest) error {
	_, err := s.relay.store.Check(reading, d, s.pace)
	if reading.Err() != nil {
		return context.Cause(reading)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil // collected meanwhile
	case err == nil:
	case store.IsDamage(err):
		// Good bytes must not be thrown away for what a bad moment of the memory made of them.
		var seen store.Sighting
		if seen, err = s.relay.store.Check(ctx, d, s.pace); err == nil {
			s.result.Flaky++
			break
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !store.IsDamage(err) {
			return s.postpone(d, err)
		}
		s.damaged(ctx, d, seen, err)
	default:
		return s.postpone(d, err)
	}
	s.result.Checked++
	return nil
}

// postpone leaves a blob that the disk did not give for the end. It may give it then, or show that it gives nothing.
func (s *scrubbing) postpone(d digest.Digest, err error) error {
	s.unread = append(s.unread, d)
	if len(s.unread) < maxUnread {
		return nil
	}
	return fmt.Errorf("scrub: the disk gives too few blobs, after %d that it did not give: %w", len(s.unread), err)
}

// unreadable asks once more for what the disk did not give.
func (s *scrubbing) unreadable(ctx context.Context) error {
	for _, d := range s.unread {
		seen, err := s.relay.store.Check(ctx, d, nil)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, fs.ErrNotExist):
		case err == nil:
			s.result.Flaky++
			s.result.Checked++
		case store.IsDamage(err):
			s.damaged(ctx, d, seen, err)
		default:
			bad := s.bad(ctx, d, seen.Size, err)
			// The bytes of the medium that cannot be read are in this file's hands: moved, they stay there and are not given
			// to the blob that comes anew. But when the disk gives nothing at all it may be its cable, and nothing is moved.
			if s.result.Checked > 0 && errors.Is(err, syscall.EIO) {
				s.takeOut(ctx, &bad, seen)
			}
			s.found(ctx, &s.result.Unreadable, bad)
		}
	}
	return nil
}

func (s *scrubbing) damaged(ctx context.Context, d digest.Digest, seen store.Sighting, err error) {
	bad := s.bad(ctx, d, seen.Size, err)
	s.takeOut(ctx, &bad, seen)
	s.found(ctx, &s.result.Damaged, bad)
}

func (s *scrubbing) bad(ctx context.Context, d digest.Digest, size int64, err error) BadBlob {
	return BadBlob{Digest: d, Size: size, Reason: err.Error(), Uses: s.names(ctx, d)}
}

func (s *scrubbing) takeOut(ctx context.Context, bad *BadBlob, seen store.Sighting) {
	moved, err := s.relay.store.Quarantine(ctx, bad.Digest, seen)
	bad.Quarantined = moved
	if err != nil {
		s.failed = append(s.failed, err)
	}
}

// found tells everybody. That it cannot be recorded must not keep damage from being taken out: it comes after that.
func (s *scrubbing) found(ctx context.Context, list *[]BadBlob, bad BadBlob) {
	if err := s.relay.record(ctx, "blob-damaged", bad); err != nil {
		s.failed = append(s.failed, err)
	}
	if s.options.Found != nil {
		s.options.Found(bad)
	}
	if len(*list) < maxListedBad {
		*list = append(*list, bad)
	}
}

// names gives who needs a blob. It is computed when the first bad one is found, which hardly ever happens.
func (s *scrubbing) names(ctx context.Context, d digest.Digest) []BlobUse {
	if s.uses == nil {
		s.uses = s.relay.blobUses(ctx)
	}
	return s.uses.of(d)
}

// kept gives the releases that a collection of garbage leaves here, with their records. When records cannot be read those
// are left that are served or kept by a channel.
func (r *Relay) kept(ctx context.Context) ([]Record, error) {
	active, _, err := readActive(ctx, r.docs)
	if err != nil {
		return nil, err
	}
	s := &survey{relay: r, active: active}
	if err := s.releases(ctx); err == nil {
		return s.stay, nil
	}
	var all []Record
	for _, rel := range active.Releases() {
		all = append(all, Record{Name: rel.Name, Version: rel.Version, Bundle: rel.Bundle})
	}
	return all, nil
}

// missing lists the blobs that releases name and the store has not.
func (r *Relay) missing(ctx context.Context, names func(context.Context, digest.Digest) []BlobUse) ([]BadBlob, error) {
	recs, err := r.kept(ctx)
	if err != nil {
		return nil, err
	}
	all := []BadBlob{}
	seen := make(map[digest.Digest]bool)
	bad := func(d digest.Digest, size int64, reason error) {
		if len(all) < maxListedBad {
			all = append(all, BadBlob{Digest: d, Size: max(size, 0), Reason: reason.Error(), Uses: names(ctx, d)})
		}
	}
	look := func(d digest.Digest, want int64) error {
		if seen[d] {
			return nil
		}
		seen[d] = true
		size, err := r.store.Size(ctx, d)
		if err == nil && size != want {
			err = fmt.Errorf("size %d, want %d", size, want)
		}
		if err != nil {
			bad(d, want, err)
		}
		return ctx.Err()
	}
	for _, rec := range recs {
		part, err := r.part(ctx, rec.Release())
		if err != nil {
			// The index, the lock or a manifest is gone, and with it the list of the others.
			if d := blobOf(err); d != "" && !seen[d] {
				seen[d] = true
				bad(d, 0, err)
			}
			continue
		}
		for d, want := range part.Blobs() {
			if err := look(d, want); err != nil {
				return all, err
			}
		}
		if err := r.missingBeside(ctx, rec, look); err != nil {
			return all, err
		}
	}
	slices.SortFunc(all, func(a, b BadBlob) int { return strings.Compare(string(a.Digest), string(b.Digest)) })
	return all, nil
}

// missingBeside looks for what travels beside a release.
func (r *Relay) missingBeside(ctx context.Context, rec Record, visit func(d digest.Digest, want int64) error) error {
	for _, beside := range rec.Beside {
		err := bundle.Walk(ctx, r.store, beside.Manifest, func(n bundle.Node) error { return visit(n.Descriptor.Digest, n.Descriptor.Size) })
		if d := blobOf(err); d != "" {
			err = visit(d, -1) // a size that no blob has
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// UnhealthyError says that a scrub found what cannot be served.
type UnhealthyError struct{ Result *ScrubResult }

func (e *UnhealthyError) Error() string {
	r := e.Result
	text := fmt.Sprintf("store: %d blobs damaged, %d unreadable, %d missing", len(r.Damaged), len(r.Unreadable), len(r.Missing))
	if !r.Git.Healthy() {
		text += "; git mirror: damaged: " + r.Git.Reason
	}
	return text
}
