package relay

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/plimsoll/plimsoll/attest/receipt"
	"github.com/plimsoll/plimsoll/internal/testbundle"
	"github.com/plimsoll/plimsoll/registry/store"
	"github.com/plimsoll/plimsoll/relay/seen"
	"github.com/plimsoll/plimsoll/relay/siterepo"
	"github.com/plimsoll/plimsoll/relay/state"
)

// signatory is a relay's identity.
type signatory struct{ ed25519.PrivateKey }

func (signatory) Name() string            { return "relay-of-tests" }
func (s signatory) Signer() crypto.Signer { return s.PrivateKey }

var us = signatory{ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))}

// log is a journal in memory.
type log struct {
	kinds   []string
	details []any
	err     error
}

func (l *log) Append(_ context.Context, kind string, detail any) error {
	if l.err == nil {
		l.kinds, l.details = append(l.kinds, kind), append(l.details, detail)
	}
	return l.err
}

// receiptOf makes a receipt and reads it as a builder does.
func receiptOf(t *testing.T, r *Relay, o ReceiptOptions) *receipt.Receipt {
	t.Helper()
	o.Identity, o.SoftwareVersion = us, "v1"
	data, err := r.Receipt(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	v, err := receipt.Verify(data, []crypto.PublicKey{us.Public()})
	if err != nil {
		t.Fatal(err)
	}
	return v.Receipt()
}

// hold puts a bundle into the store, and a record of it if it has one.
func (r *Relay) hold(t *testing.T, b *testbundle.Bundle) Release {
	t.Helper()
	for _, blob := range b.Blobs {
		open := func(offset int64) (io.ReadCloser, error) {
			if offset > 0 {
				return nil, store.ErrNoRange
			}
			return io.NopCloser(bytes.NewReader(blob.Data)), nil
		}
		if err := r.store.Admit(t.Context(), blob.Descriptor, open, nil); err != nil {
			t.Fatal(err)
		}
	}
	rel := Release{Name: b.Lock.Name, Version: b.Lock.Version, Bundle: plain(b.Root)}
	r.writeTestRecord(t, rel)
	return rel
}

func (r *Relay) writeTestRecord(t *testing.T, rel Release) {
	t.Helper()
	err := r.writeRecord(t.Context(), Record{
		APIVersion: recordVersion, Name: rel.Name, Version: rel.Version, Channel: rel.Name, Bundle: rel.Bundle,
		Imported: "2026-03-01T10:00:00Z", From: "/media/stick\x1b[2J", Signatures: []RecordSignature{},
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (r *Relay) setActive(t *testing.T, a Active) {
	t.Helper()
	a.APIVersion = activeVersion
	_, version, err := readActive(t.Context(), r.docs)
	if err == nil {
		err = writeActive(t.Context(), r.docs, a, version)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// lose takes a blob out of the store as a dying disk does.
func (r *Relay) lose(t *testing.T, d digest.Digest) {
	t.Helper()
	if err := os.Remove(filepath.Join(r.dir, "store", "blobs", "sha256", d.Encoded()[:2], d.Encoded())); err != nil {
		t.Fatal(err)
	}
}

// site is a relay that serves one release and has the next one staged.
func site(t *testing.T, o Options) (r *Relay, first, next Release, b *testbundle.Bundle) {
	t.Helper()
	r, err := Open(t.Context(), t.TempDir(), o)
	if err != nil {
		t.Fatal(err)
	}
	b = testbundle.New(t, testbundle.Options{})
	first = r.hold(t, b)
	next = r.hold(t, testbundle.New(t, testbundle.Options{Version: "v1.5.5", Content: "another"}))
	r.setActive(t, Active{Generation: 4, Channels: []Channel{{Name: first.Name, Release: first, Accepted: first}}})
	return r, first, next, b
}

func TestReceiptSaysWhatIsHere(t *testing.T) {
	journal := new(log)
	r, first, next, b := site(t, Options{Journal: journal})
	rc := receiptOf(t, r, ReceiptOptions{
		Checkpoint: func(context.Context) ([]byte, error) { return []byte("relay-of-tests\n3\nAAAA\n\n— sig\n"), nil },
		Encoders:   map[string]string{"go": "1"}, Floor: time.Date(2199, 1, 1, 0, 0, 0, 0, time.UTC), Problems: []string{"the sea is rough"},
	})
	if rc.Relay.Name != "relay-of-tests" || rc.Software != "v1" || rc.Promise || rc.Generation != 4 || rc.Journal == "" || rc.Encoders["go"] != "1" {
		t.Errorf("%+v", rc)
	}
	if rc.Made != "2199-01-01T00:00:00Z" || rc.Clock.Floor != rc.Made || rc.Clock.Now >= rc.Made {
		t.Errorf("made %s, clock %+v", rc.Made, rc.Clock)
	}
	if want := []receipt.Channel{{Name: first.Name, Active: first.Bundle.Digest}}; !reflect.DeepEqual(rc.Channels, want) {
		t.Errorf("channels %+v", rc.Channels)
	}
	if !slices.Equal(rc.Staged, []digest.Digest{next.Bundle.Digest}) || len(rc.Bundles) != 2 {
		t.Errorf("staged %v, %d bundles", rc.Staged, len(rc.Bundles))
	}
	if !slices.Equal(rc.Problems, []string{"the sea is rough"}) {
		t.Errorf("problems %q", rc.Problems)
	}
	got, _ := rc.Bundle(first.Bundle.Digest)
	if !got.Whole || got.Name != "robot-stack" || got.Version != "v1.5.4" || got.Imported == "" || got.From != "/media/stick?[2J" {
		t.Errorf("%+v", got)
	}
	wantGit := []receipt.Repository{{Name: "github.com/acme/robot-deployment", Refs: []receipt.Ref{
		{Name: "refs/heads/main", OID: "0123456789abcdef0123456789abcdef01234567"},
	}}}
	if !reflect.DeepEqual(got.Git, wantGit) {
		t.Errorf("git %+v", got.Git)
	}
	// Each layer's diff-id is the digest of what comes out of it; two images of two platforms, and one of a sparse index.
	if len(got.Layers) != 3 {
		t.Errorf("%d layers", len(got.Layers))
	}
	for _, l := range got.Layers {
		gz, err := gzip.NewReader(bytes.NewReader(b.Data(l.Digest)))
		if err != nil {
			t.Fatal(err)
		}
		if plain, err := digest.FromReader(gz); err != nil || plain != l.DiffID {
			t.Errorf("layer %s unpacks to %s, not to %s (%v)", l.Digest, plain, l.DiffID, err)
		}
	}
	var blobs, size int64
	if err := r.store.Walk(t.Context(), func(_ digest.Digest, n int64) error { blobs++; size += n; return nil }); err != nil {
		t.Fatal(err)
	}
	if rc.Store != (receipt.Store{Blobs: blobs, Bytes: size}) || rc.Room.Free <= 0 || rc.Room.Total < rc.Room.Free {
		t.Errorf("store %+v, room %+v", rc.Store, rc.Room)
	}
	if promised, err := r.promised(t.Context()); err != nil || promised != nil {
		t.Errorf("promised %v, %v", promised, err)
	}
	if !slices.Equal(journal.kinds, []string{"receipt"}) || journal.details[0].(receiptRecord).Generation != 4 {
		t.Errorf("journal: %v %+v", journal.kinds, journal.details)
	}
}

func TestReceiptOfAnEmptyRelay(t *testing.T) {
	r, err := Open(t.Context(), t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, promise := range []bool{false, true} {
		if rc := receiptOf(t, r, ReceiptOptions{Promise: promise}); rc.Generation != 0 || len(rc.Bundles) != 0 || len(rc.Problems) != 0 {
			t.Errorf("%+v", rc)
		}
	}
}

// What is lost is said to be missing, and nothing else is.
func TestReceiptSaysWhatIsMissing(t *testing.T) {
	r, first, next, b := site(t, Options{})
	r.lose(t, b.Layer.Digest)
	rc := receiptOf(t, r, ReceiptOptions{})
	got, _ := rc.Bundle(first.Bundle.Digest)
	if got.Whole || !slices.Equal(got.Missing, []digest.Digest{b.Layer.Digest}) || len(got.Layers) != 2 || len(rc.Problems) != 0 {
		t.Errorf("%+v, problems %q", got, rc.Problems)
	}
	if other, _ := rc.Bundle(next.Bundle.Digest); !other.Whole || len(other.Layers) != 3 {
		t.Errorf("%+v", other)
	}

	// A config of an image: its layers are here, what they are is not known.
	var config digest.Digest
	for _, blob := range b.Blobs {
		if blob.MediaType == "application/vnd.oci.image.config.v1+json" {
			config = blob.Digest
			break
		}
	}
	r.lose(t, config)
	got, _ = receiptOf(t, r, ReceiptOptions{}).Bundle(first.Bundle.Digest)
	if !slices.Contains(got.Missing, config) || len(got.Missing) != 2 || len(got.Layers) >= 3 {
		t.Errorf("%+v", got)
	}

	// The index itself, and what was derived from it.
	r.lose(t, first.Bundle.Digest)
	if err := os.RemoveAll(filepath.Join(r.dir, derivedDir, first.Bundle.Digest.Encoded()+".part")); err != nil {
		t.Fatal(err)
	}
	rc = receiptOf(t, r, ReceiptOptions{})
	if got, _ = rc.Bundle(first.Bundle.Digest); got.Whole || len(rc.Problems) != 1 || !strings.Contains(rc.Problems[0], "release robot-stack v1.5.4") {
		t.Errorf("%+v, problems %q", got, rc.Problems)
	}
}

// With its store gone, a relay can still say so.
func TestReceiptWithoutAStore(t *testing.T) {
	r, first, _, _ := site(t, Options{})
	if err := os.RemoveAll(filepath.Join(r.dir, "store")); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(r.dir, derivedDir)); err != nil {
		t.Fatal(err)
	}
	rc := receiptOf(t, r, ReceiptOptions{Promise: true})
	if got, ok := rc.Bundle(first.Bundle.Digest); !ok || got.Whole || len(rc.Problems) == 0 || rc.Store.Blobs != 0 {
		t.Errorf("%+v, problems %q", got, rc.Problems)
	}
}

// many is a channel with releases of which only the records are here.
func many(t *testing.T, r *Relay, versions ...string) (all []Release) {
	t.Helper()
	for _, v := range versions {
		rel := release(v, v)
		r.writeTestRecord(t, rel)
		all = append(all, rel)
	}
	return all
}

func digests(releases ...Release) []digest.Digest {
	all := []digest.Digest{}
	for _, rel := range releases {
		all = append(all, rel.Bundle.Digest)
	}
	slices.Sort(all)
	return all
}

// A promise lasts until the next one, and renews nothing that only the last one kept.
func TestReceiptPromises(t *testing.T) {
	journal := new(log)
	r, err := Open(t.Context(), t.TempDir(), Options{Journal: journal})
	if err != nil {
		t.Fatal(err)
	}
	all := many(t, r, "v1.0.0", "v1.1.0", "v1.2.0", "v1.3.0", "v1.4.0", "v1.5.0", "v1.6.0")
	v0, v1, v2, v3, v4, v5, v6 := all[0], all[1], all[2], all[3], all[4], all[5], all[6]
	active := Active{
		Generation: 9, Channels: []Channel{{Name: "stack", Release: v5, Previous: []Release{v4, v3, v2, v1}, Accepted: v5}},
		Pins: []Pin{{Bundle: v1.Bundle.Digest, Since: now()}},
	}
	r.setActive(t, active)
	if err := r.promise(t.Context(), now(), digests(v2)); err != nil {
		t.Fatal(err)
	}
	listed := func(rc *receipt.Receipt) []digest.Digest {
		var all []digest.Digest
		for _, b := range rc.Bundles {
			all = append(all, b.Digest)
		}
		return all
	}
	// Served, kept (three, with the active one), promised, pinned, staged. v0 was let go of: it could not come back.
	rc := receiptOf(t, r, ReceiptOptions{})
	if want := digests(v1, v2, v3, v4, v5, v6); !slices.Equal(listed(rc), want) {
		t.Errorf("%v, want %v", listed(rc), want)
	}
	if slices.Contains(listed(rc), v0.Bundle.Digest) || !slices.Equal(rc.Staged, digests(v6)) || !slices.Equal(rc.Pinned, digests(v1)) {
		t.Errorf("staged %v, pinned %v", rc.Staged, rc.Pinned)
	}
	if before, err := r.promised(t.Context()); err != nil || !slices.Equal(before, digests(v2)) {
		t.Errorf("a receipt without a promise changed it: %v, %v", before, err)
	}

	rc = receiptOf(t, r, ReceiptOptions{Promise: true})
	want := digests(v1, v3, v4, v5, v6)
	if !rc.Promise || !slices.Equal(listed(rc), want) {
		t.Errorf("promised %v, want %v", listed(rc), want)
	}
	promised, err := r.promised(t.Context())
	if err != nil || !slices.Equal(promised, want) {
		t.Errorf("promised %v, %v", promised, err)
	}
	// Retention keeps it: four more releases do not push v3 and v4 out, but do v2.
	keep, err := r.retention(t.Context(), active)
	if err != nil {
		t.Fatal(err)
	}
	next := active
	for _, v := range []string{"v1.7.0", "v1.8.0", "v1.9.0", "v1.10.0"} {
		if next, err = next.accept("stack", release(v, v), NewerVersion, keep); err != nil {
			t.Fatal(err)
		}
	}
	for _, rel := range []Release{v1, v2, v3, v4, v5} {
		if kept := slices.ContainsFunc(next.Releases(), rel.same); kept != !rel.same(v2) {
			t.Errorf("%s: kept %v", rel, kept)
		}
	}

	// What does not leave is not promised: the cloud has the receipt before.
	full := errors.New("the stick is full")
	for _, before := range [][]digest.Digest{want, nil} {
		if before == nil {
			if err := r.docs.Remove(t.Context(), promisedFile); err != nil {
				t.Fatal(err)
			}
		} else {
			before = digests(v1)
			if err := r.promise(t.Context(), now(), before); err != nil {
				t.Fatal(err)
			}
		}
		both := slices.Compact(slices.Sorted(slices.Values(slices.Concat(before, want))))
		deliver := func([]byte) error {
			if during, err := r.promised(t.Context()); err != nil || !slices.Equal(during, both) {
				t.Errorf("while it leaves, %v is promised, %v; want %v", during, err, both)
			}
			return full
		}
		if _, err := r.Receipt(t.Context(), ReceiptOptions{Identity: us, Promise: true, Deliver: deliver}); !errors.Is(err, full) {
			t.Errorf("%v", err)
		}
		if after, err := r.promised(t.Context()); err != nil || !slices.Equal(after, before) {
			t.Errorf("promised %v, %v; want %v", after, err, before)
		}
	}
	if last := journal.kinds[len(journal.kinds)-1]; last != "receipt-refused" {
		t.Errorf("the journal's last word is %s", last)
	}
	if err := r.promise(t.Context(), now(), want); err != nil {
		t.Fatal(err)
	}

	// What cannot be recorded is not promised.
	journal.err = errors.New("no room")
	var notRecorded *JournalError
	if data, err := r.Receipt(t.Context(), ReceiptOptions{Identity: us, Promise: true}); !errors.As(err, &notRecorded) || data != nil {
		t.Errorf("%d bytes, %v", len(data), err)
	}
	if after, err := r.promised(t.Context()); err != nil || !slices.Equal(after, want) {
		t.Errorf("promised %v, %v", after, err)
	}
	receiptOf(t, r, ReceiptOptions{}) // one that changes nothing is given all the same
}

// A receipt is had while an import runs; only a promise waits.
func TestReceiptNeedsNoLock(t *testing.T) {
	r, _, _, _ := site(t, Options{})
	lock, err := r.docs.Lock(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	receiptOf(t, r, ReceiptOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if data, err := r.Receipt(ctx, ReceiptOptions{Identity: us, Promise: true}); !errors.Is(err, context.Canceled) || data != nil {
		t.Errorf("%d bytes, %v", len(data), err)
	}
	if err := lock.Unlock(); err != nil {
		t.Fatal(err)
	}
	if data, err := r.Receipt(ctx, ReceiptOptions{Identity: us}); !errors.Is(err, context.Canceled) || data != nil {
		t.Errorf("interrupted: %d bytes, %v", len(data), err)
	}
}

func TestReceiptSaysWhatRobotsPulled(t *testing.T) {
	r, first, _, _ := site(t, Options{})
	path := filepath.Join(t.TempDir(), seen.FileName)
	db, err := seen.Open(path, seen.Options{})
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)
	pull := func(minute int, robot, address, repository string, bytes int64) {
		e := seen.Event{
			Time: at.Add(time.Duration(minute) * time.Minute), Robot: robot, Address: address, Kind: seen.KindManifest, Repository: repository,
			Reference: "v1", Digest: first.Bundle.Digest, Generation: uint64(minute), Status: 200, Bytes: bytes,
		}
		db.Record(e)
	}
	pull(1, "agv-17", "10.0.0.1", "ghcr.io/acme/old", 10)
	pull(2, "", "10.0.0.7", "ghcr.io/acme/app", 20)
	pull(3, "agv-17", "10.0.0.2", "ghcr.io/acme/new", 30)
	pull(4, "", "10.0.0.8", "ghcr.io/acme/other", 40)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := db.Run(ctx); err != nil {
		t.Fatal(err)
	}
	history, err := seen.OpenReader(path)
	if err != nil {
		t.Fatal(err)
	}
	rc := receiptOf(t, r, ReceiptOptions{Seen: history})
	want := []receipt.Robot{
		{Name: "10.0.0.7", Anonymous: true, Seen: "2026-03-01T10:02:00Z", Generation: 2, Pulls: 1, Bytes: 20,
			Last: &receipt.Pull{Time: "2026-03-01T10:02:00Z", Repository: "ghcr.io/acme/app", Reference: "v1", Digest: first.Bundle.Digest}},
		{Name: "10.0.0.8", Anonymous: true, Seen: "2026-03-01T10:04:00Z", Generation: 4, Pulls: 1, Bytes: 40,
			Last: &receipt.Pull{Time: "2026-03-01T10:04:00Z", Repository: "ghcr.io/acme/other", Reference: "v1", Digest: first.Bundle.Digest}},
		{Name: "agv-17", Seen: "2026-03-01T10:03:00Z", Generation: 3, Pulls: 2, Bytes: 40,
			Last: &receipt.Pull{Time: "2026-03-01T10:03:00Z", Repository: "ghcr.io/acme/new", Reference: "v1", Digest: first.Bundle.Digest}},
	}
	if !reflect.DeepEqual(rc.Robots, want) {
		t.Errorf("%+v\nwant %+v", rc.Robots, want)
	}
	// A history that cannot be read is a problem and no more.
	if err := history.Close(); err != nil {
		t.Fatal(err)
	}
	if rc := receiptOf(t, r, ReceiptOptions{Seen: history}); len(rc.Robots) != 0 || len(rc.Problems) != 1 {
		t.Errorf("%+v, problems %q", rc.Robots, rc.Problems)
	}
}

func TestReceiptSaysWhereTheSiteIs(t *testing.T) {
	r, _, _, _ := site(t, Options{})
	if _, err := siterepo.Open(SiteDir(r.dir), siterepo.Options{Names: []string{"site-overrides", "empty"}}); err != nil {
		t.Fatal(err)
	}
	repo := filepath.Join(SiteDir(r.dir), "repos", "site-overrides", "repo.git")
	git := func(stdin string, args ...string) string {
		cmd := exec.Command("git", append([]string{"--git-dir", repo}, args...)...)
		cmd.Stdin = strings.NewReader(stdin)
		cmd.Env = append(os.Environ(), "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	commit := git("", "commit-tree", "-m", "x", git("", "mktree"))
	git("", "update-ref", "refs/heads/main", commit)
	rc := receiptOf(t, r, ReceiptOptions{})
	want := []receipt.Repository{{Name: "empty"}, {Name: "site-overrides", Refs: []receipt.Ref{{Name: "refs/heads/main", OID: commit}}}}
	if !reflect.DeepEqual(rc.Site, want) || len(rc.Problems) != 0 {
		t.Errorf("%+v, problems %q", rc.Site, rc.Problems)
	}
	if err := os.RemoveAll(repo); err != nil {
		t.Fatal(err)
	}
	if rc := receiptOf(t, r, ReceiptOptions{}); len(rc.Site) != 1 || len(rc.Problems) != 1 {
		t.Errorf("%+v, problems %q", rc.Site, rc.Problems)
	}
}

// Trouble of one thing leaves the rest of a receipt as it is.
func TestReceiptSaysItsProblems(t *testing.T) {
	r, first, next, _ := site(t, Options{})
	if _, err := r.docs.Write(t.Context(), recordName(next.Bundle.Digest), []byte("{"), state.Any); err != nil {
		t.Fatal(err)
	}
	broken := func(context.Context) ([]byte, error) { return nil, errors.New("disk on fire\n") }
	rc := receiptOf(t, r, ReceiptOptions{Checkpoint: broken, Problems: slices.Repeat([]string{"p"}, 2*receipt.MaxProblems)})
	if len(rc.Bundles) != 1 || rc.Bundles[0].Digest != first.Bundle.Digest || !rc.Bundles[0].Whole || rc.Journal != "" {
		t.Errorf("%+v", rc.Bundles)
	}
	if len(rc.Problems) != receipt.MaxProblems || !strings.Contains(rc.Problems[0], next.Bundle.Digest.String()) || !strings.Contains(rc.Problems[1], "disk on fire?") {
		t.Errorf("%q", rc.Problems)
	}
}

// Two images that say different things of one layer are both not believed.
func TestReceiptBelievesNoContradiction(t *testing.T) {
	r, first, _, b := site(t, Options{})
	w := &receiptWriter{relay: r, layers: make(map[digest.Digest][]receipt.Layer), held: map[digest.Digest]Release{first.Bundle.Digest: first}}
	w.Bundles = []receipt.Bundle{{Digest: first.Bundle.Digest}}
	for i, m := range b.Image.Manifests {
		w.layers[m.Digest] = []receipt.Layer{{Digest: b.Layer.Digest, DiffID: digest.FromString(string(rune('a' + i)))}}
	}
	w.bundles(t.Context())
	if got := w.Bundles[0].Layers; len(got) != 1 || got[0].Digest == b.Layer.Digest { // the third image's
		t.Errorf("%+v", got)
	}
}
