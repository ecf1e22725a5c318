package relay

import (
	"cmp"
	"context"
	"crypto"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/plimsoll/plimsoll/attest/receipt"
	"github.com/plimsoll/plimsoll/relay/seen"
	"github.com/plimsoll/plimsoll/relay/siterepo"
	"github.com/plimsoll/plimsoll/relay/smarthttp"
	"github.com/plimsoll/plimsoll/relay/state"
)

// latestPulls is among how many pulls a robot's latest one is looked for.
const latestPulls = 50_000

// Signatory is who a relay is: its name, and the key that signs what it says.
type Signatory interface {
	Name() string
	Signer() crypto.Signer
}

// ReceiptOptions say what goes into a receipt beside what the data folder says. Identity is needed.
type ReceiptOptions struct {
	Identity        Signatory
	SoftwareVersion string            // of plimsoll-relay
	Seen            *seen.Reader      // what robots pulled; nil if nothing is recorded
	Encoders        map[string]string // that can rebuild compressed layers: name to version
	Floor           time.Time         // the newest time that somebody signed whom the relay trusts; zero if nobody did
	Problems        []string          // what the caller could not find out

	// Checkpoint gives the signed note of the journal. Nil: there is no journal.
	Checkpoint func(context.Context) ([]byte, error)

	// Promise keeps what the receipt says to be here until the next receipt that promises, so that a transfer may build on
	// it. What only an earlier promise keeps is left out.
	Promise bool

	// Deliver is given a receipt that promises while the promise is being made: an error takes the promise back and leaves
	// the one before. May be nil.
	Deliver func(signed []byte) error
}

// Receipt gives a signed statement of what is here; attest/receipt reads it. What cannot be found out is a problem in the
// receipt and not an error: a relay with half a disk must be able to say so. Only a promise waits for others that change
// what is here, and only a promise needs to be recorded.
func (r *Relay) Receipt(ctx context.Context, o ReceiptOptions) ([]byte, error) {
	if !o.Promise {
		return r.receipt(ctx, o)
	}
	var data []byte
	err := r.change(ctx, func() (err error) {
		data, err = r.receipt(ctx, o)
		return err
	})
	return data, err
}

// receiptRecord is what the journal says of a receipt.
type receiptRecord struct {
	Receipt    digest.Digest   `json:"receipt"` // of its bytes
	Made       string          `json:"made"`
	Promise    bool            `json:"promise"`
	Generation uint64          `json:"generation"`
	Bundles    []digest.Digest `json:"bundles"`
}

func (r *Relay) receipt(ctx context.Context, o ReceiptOptions) ([]byte, error) {
	w := &receiptWriter{relay: r, options: o, layers: make(map[digest.Digest][]receipt.Layer)}
	w.Relay.Name, w.Software = o.Identity.Name(), cmp.Or(receipt.Text(o.SoftwareVersion), "unknown")
	w.Promise, w.Encoders = o.Promise, o.Encoders
	w.clock(time.Now())
	if err := w.releases(ctx); err != nil {
		return nil, err
	}
	w.store(ctx)
	w.bundles(ctx)
	w.robots(ctx)
	w.site(ctx)
	w.checkpoint(ctx)
	for _, text := range o.Problems {
		w.problem("%s", text)
	}
	// What was cut short by ctx would look like trouble of the disk.
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	data, err := receipt.Sign(&w.Receipt, o.Identity.Signer())
	if err != nil {
		return nil, err
	}
	entry := receiptRecord{
		Receipt: digest.FromBytes(data), Made: w.Made, Promise: o.Promise, Generation: w.Generation, Bundles: []digest.Digest{},
	}
	for _, b := range w.Bundles {
		entry.Bundles = append(entry.Bundles, b.Digest)
	}
	if !o.Promise {
		r.note(ctx, "receipt", entry)
		return data, nil
	}
	if err := r.record(ctx, "receipt", entry); err != nil {
		return nil, err
	}
	if err := r.promiseReceipt(ctx, entry, func() error {
		if o.Deliver == nil {
			return nil
		}
		return o.Deliver(data)
	}); err != nil {
		return nil, err
	}
	return data, nil
}

// promiseReceipt makes the promise of a receipt. Until it has left, and after a crash nobody can tell, both it and the one
// before may be the last that did: what either lists is promised.
func (r *Relay) promiseReceipt(ctx context.Context, entry receiptRecord, deliver func() error) error {
	before, err := r.docs.Read(ctx, promisedFile)
	none := errors.Is(err, fs.ErrNotExist)
	if err != nil && !none {
		return err
	}
	earlier, err := r.promised(ctx)
	if err != nil {
		return err
	}
	both := slices.Compact(slices.Sorted(slices.Values(slices.Concat(earlier, entry.Bundles))))
	if err := r.promise(ctx, entry.Made, both); err != nil {
		return err
	}
	if err = deliver(); err == nil {
		if err := r.promise(ctx, entry.Made, entry.Bundles); err != nil {
			// It has left. To keep more than it lists harms nobody, and the next one sets it right.
			r.note(ctx, "receipt-keeps-more", refusedReceipt{Receipt: entry.Receipt, Reason: err.Error()})
		}
		return nil
	}
	r.note(ctx, "receipt-refused", refusedReceipt{Receipt: entry.Receipt, Reason: err.Error()})
	if none {
		return errors.Join(err, r.docs.Remove(ctx, promisedFile))
	}
	_, again := r.docs.Write(ctx, promisedFile, before.Data, state.Any)
	return errors.Join(err, again)
}

// refusedReceipt is what the journal says of a receipt that was signed and did not leave.
type refusedReceipt struct {
	Receipt digest.Digest `json:"receipt"`
	Reason  string        `json:"reason"`
}

// receiptWriter collects what a receipt says.
type receiptWriter struct {
	receipt.Receipt
	relay   *Relay
	options ReceiptOptions
	held    map[digest.Digest]Release         // what w.Bundles are
	here    map[digest.Digest]int64           // the blobs of the store with their sizes; nil if they could not be listed
	layers  map[digest.Digest][]receipt.Layer // by image manifest
}

func (w *receiptWriter) problem(format string, args ...any) {
	text := receipt.Text(fmt.Sprintf(format, args...))
	switch n := len(w.Problems); {
	case n < receipt.MaxProblems-1:
		w.Problems = append(w.Problems, text)
	case n == receipt.MaxProblems-1:
		w.Problems = append(w.Problems, "and more")
	}
}

func (w *receiptWriter) clock(now time.Time) {
	w.Clock.Now = stampTime(now)
	w.Made = w.Clock.Now
	if floor := w.options.Floor; !floor.IsZero() {
		w.Clock.Floor = stampTime(floor)
		w.Made = max(w.Made, w.Clock.Floor) // of one form, so that their order is that of the times
	}
}

// stampTime writes a time as documents have it. Clocks lie, but a receipt can only say years of four digits.
func stampTime(t time.Time) string {
	t = t.UTC().Truncate(time.Second)
	if t.Year() > 9999 {
		t = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	}
	if t.Year() < 1 {
		t = time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	return t.Format(time.RFC3339)
}

// releases lists what is here, and what it is here for.
func (w *receiptWriter) releases(ctx context.Context) error {
	r := w.relay
	active, _, err := readActive(ctx, r.docs)
	if err != nil {
		return err
	}
	promised, err := r.promised(ctx)
	if err != nil {
		return err
	}
	keep, err := r.retention(ctx, active)
	if err != nil {
		return err
	}
	if w.options.Promise {
		keep.held, promised = active.Pinned, nil
	}
	records, err := w.records(ctx)
	if err != nil {
		return err
	}
	w.Generation = active.Generation
	held := make(map[digest.Digest]Release)
	inChannel := make(map[digest.Digest]bool)
	for _, c := range active.Channels {
		ch := receipt.Channel{Name: c.Name, Active: c.Release.Bundle.Digest}
		held[c.Release.Bundle.Digest], inChannel[c.Release.Bundle.Digest] = c.Release, true
		for _, p := range keep.trim(slices.Clone(c.Previous)) {
			ch.Previous = append(ch.Previous, p.Bundle.Digest)
			held[p.Bundle.Digest] = p
		}
		for _, p := range c.Previous {
			inChannel[p.Bundle.Digest] = true
		}
		w.Channels = append(w.Channels, ch)
	}
	for d, rec := range records {
		waits := !inChannel[d] && active.waits(rec)
		if waits || active.Pinned(d) || slices.Contains(promised, d) {
			held[d] = rec.Release()
		}
		if _, ok := held[d]; ok && !inChannel[d] {
			w.Staged = append(w.Staged, d)
		}
	}
	slices.Sort(w.Staged)
	for _, p := range active.Pins {
		if _, ok := held[p.Bundle]; ok {
			w.Pinned = append(w.Pinned, p.Bundle)
		} else {
			w.problem("pinned release %s is not here", p.Bundle)
		}
	}
	for _, d := range slices.Sorted(maps.Keys(held)) {
		b := receipt.Bundle{Digest: d, Name: receipt.Text(held[d].Name), Version: receipt.Text(held[d].Version)}
		if rec, ok := records[d]; ok {
			b.From = receipt.Text(rec.From)
			if at, err := time.Parse(time.RFC3339, rec.Imported); err == nil {
				b.Imported = stampTime(at)
			}
		}
		w.Bundles = append(w.Bundles, b)
	}
	w.held = held
	return nil
}

// waits tells whether a release that is in no channel could still be activated. One that could not was let go of by
// retention: it may be collected at any time.
func (a Active) waits(rec Record) bool {
	i, found := a.find(rec.Channel)
	return !found || NewerVersion(&a.Channels[i], rec.Release()) == nil
}

// records reads how each release came here; what cannot be read is a problem.
func (w *receiptWriter) records(ctx context.Context) (map[digest.Digest]Record, error) {
	names, err := w.relay.docs.List(ctx, releasesDir)
	if err != nil {
		return nil, err
	}
	all := make(map[digest.Digest]Record, len(names))
	for _, name := range names {
		hex, ok := strings.CutSuffix(path.Base(name), ".json")
		if !ok {
			continue
		}
		rec, err := w.relay.Record(ctx, digest.NewDigestFromEncoded(digest.SHA256, hex))
		switch {
		case err == nil:
			all[rec.Bundle.Digest] = rec
		case !errors.Is(err, fs.ErrNotExist): // else it was collected just now
			w.problem("%v", err)
		}
	}
	return all, nil
}

// store counts what is stored.
func (w *receiptWriter) store(ctx context.Context) {
	var disk unix.Statfs_t
	if err := unix.Statfs(w.relay.dir, &disk); err != nil {
		w.problem("room on the disk: %v", err)
	} else {
		// A file system without an end says so with a number that has none.
		w.Room.Free = max(0, int64(disk.Bavail)*disk.Bsize)
		w.Room.Total = max(0, int64(disk.Blocks)*disk.Bsize)
	}
	here := make(map[digest.Digest]int64)
	err := w.relay.store.Walk(ctx, func(d digest.Digest, size int64) error {
		here[d] = size
		w.Store.Bytes += size
		return nil
	})
	w.Store.Blobs = int64(len(here))
	if err != nil {
		w.problem("the store cannot be listed: %v", err)
		return
	}
	w.here = here
}

// size is store.Size without a request for each of the blobs of fifty releases.
func (w *receiptWriter) size(ctx context.Context, d digest.Digest) (int64, error) {
	if w.here == nil {
		return w.relay.store.Size(ctx, d)
	}
	size, ok := w.here[d]
	if !ok {
		return 0, fs.ErrNotExist
	}
	return size, nil
}

// bundles says of each bundle what is here of it.
func (w *receiptWriter) bundles(ctx context.Context) {
	images := make([][]ocispec.Descriptor, len(w.Bundles))
	for i := range w.Bundles {
		b := &w.Bundles[i]
		release := w.held[b.Digest]
		part, err := w.relay.part(ctx, release)
		if err != nil {
			w.problem("release %s cannot be read: %v", release, err)
			continue
		}
		w.blobs(ctx, b, part)
		for _, g := range part.git {
			refs := make(map[string]string, len(g.Git.Refs))
			for _, ref := range g.Git.Refs {
				refs[ref.Name] = ref.OID
			}
			b.Git = append(b.Git, tips(g.Repository, refs))
		}
		b.Git = sortRepositories(b.Git)
		if images[i], err = w.images(ctx, release); err != nil {
			w.problem("release %s: its images cannot be read: %v", release, err)
		}
	}
	w.addLayers(ctx, images)
}

// blobs looks for every blob of a bundle.
func (w *receiptWriter) blobs(ctx context.Context, b *receipt.Bundle, part *part) {
	var trouble error
	for d, want := range part.Blobs() {
		size, err := w.size(ctx, d)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && trouble == nil {
			trouble = err
		}
		if err != nil || size != want {
			b.Missing = append(b.Missing, d)
		}
	}
	if trouble != nil {
		w.problem("release %s: %v", part, trouble)
	}
	b.Whole = len(b.Missing) == 0
	slices.Sort(b.Missing)
}

// robots says who asked for something, and what each got last.
func (w *receiptWriter) robots(ctx context.Context) {
	if w.options.Seen == nil {
		return
	}
	robots, err := w.options.Seen.Robots(ctx)
	if err != nil {
		w.problem("who pulled what: %v", err)
		return
	}
	if len(robots) > receipt.MaxRobots {
		w.problem("%d robots were seen; those seen last are listed", len(robots))
		robots = robots[:receipt.MaxRobots] // the latest come first
	}
	last := make(map[[2]string]*receipt.Pull)
	err = w.options.Seen.Walk(ctx, seen.Query{Limit: latestPulls}, func(p seen.Pull) error {
		who := [2]string{p.Robot, p.Address}
		if p.Robot != "" {
			who[1] = "" // an account is one robot, wherever it is
		}
		if last[who] != nil {
			return nil
		}
		pull := &receipt.Pull{Time: stampTime(p.Time), Repository: receipt.Text(p.Repository), Reference: receipt.Text(p.Reference)}
		if receipt.CheckDigest(p.Digest) == nil {
			pull.Digest = p.Digest
		}
		last[who] = pull
		return nil
	})
	if err != nil {
		w.problem("who pulled what: %v", err)
	}
	for _, b := range robots {
		robot := receipt.Robot{
			Name: receipt.Text(b.Name), Seen: stampTime(b.Last), Generation: b.Generation, Pulls: b.Pulls, Bytes: b.Bytes,
			Last: last[[2]string{b.Name, ""}],
		}
		if b.Name == "" {
			robot.Name, robot.Anonymous, robot.Last = receipt.Text(b.Address), true, last[[2]string{"", b.Address}]
		}
		if robot.Name != "" {
			w.Robots = append(w.Robots, robot)
		}
	}
	slices.SortStableFunc(w.Robots, receipt.Robot.Compare)
	w.Robots = slices.CompactFunc(w.Robots, func(a, b receipt.Robot) bool { return a.Compare(b) == 0 })
}

// site says where the site's own repositories are. It only reads: nothing must be mended to make a receipt.
func (w *receiptWriter) site(ctx context.Context) {
	dir, err := filepath.Abs(SiteDir(w.relay.dir))
	if err != nil {
		w.problem("site repositories: %v", err)
		return
	}
	entries, err := os.ReadDir(filepath.Join(dir, "repos"))
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return
	}
	var git *smarthttp.Tool
	if err == nil {
		git, err = smarthttp.NewTool(w.relay.options.Git, filepath.Join(dir, "home"))
	}
	if err != nil {
		w.problem("site repositories: %v", err)
		return
	}
	for _, e := range entries {
		if siterepo.CheckName(e.Name()) != nil || len(w.Site) == receipt.MaxSite {
			continue
		}
		refs := make(map[string]string)
		err := git.Lines(ctx, filepath.Join(dir, "repos", e.Name(), "repo.git"), strings.NewReader(""), func(line string) error {
			oid, ref, _ := strings.Cut(line, " ")
			refs[ref] = oid
			return nil
		}, "for-each-ref", "--format=%(objectname) %(refname)", "refs/heads/", "refs/tags/")
		if err != nil {
			w.problem("site repository %s: %v", e.Name(), err)
			continue
		}
		w.Site = append(w.Site, tips(e.Name(), refs))
	}
	w.Site = sortRepositories(w.Site)
}

// tips are refs in a receipt's order. A name with characters that a receipt does not show is one that is changed.
func tips(name string, refs map[string]string) receipt.Repository {
	repo := receipt.Repository{Name: receipt.Text(name)}
	shown := make(map[string]string, len(refs))
	for ref, oid := range refs {
		shown[receipt.Text(ref)] = oid
	}
	for _, ref := range slices.Sorted(maps.Keys(shown)) {
		repo.Refs = append(repo.Refs, receipt.Ref{Name: ref, OID: shown[ref]})
	}
	return repo
}

func sortRepositories(all []receipt.Repository) []receipt.Repository {
	slices.SortStableFunc(all, func(a, b receipt.Repository) int { return strings.Compare(a.Name, b.Name) })
	return slices.CompactFunc(all, func(a, b receipt.Repository) bool { return a.Name == b.Name })
}

func (w *receiptWriter) checkpoint(ctx context.Context) {
	if w.options.Checkpoint == nil {
		return
	}
	note, err := w.options.Checkpoint(ctx)
	if err == nil {
		err = receipt.CheckCheckpoint(string(note))
	}
	if err != nil {
		w.problem("the journal's checkpoint: %v", err)
		return
	}
	w.Journal = string(note)
}
