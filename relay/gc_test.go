package relay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/testbundle"
	"github.com/plimsoll/plimsoll/registry/store"
	"github.com/plimsoll/plimsoll/relay/state"
)

// depot is a relay with releases that share most of their blobs, as real ones do. Nothing is activated through the
// pipeline: what it decides is written as it would be.
type depot struct {
	*testing.T
	*Relay
	bundles  []*testbundle.Bundle
	releases []Release // v1.1.0, v1.2.0, …
}

const depotChannel = "stable"

func newDepot(t *testing.T, n int) *depot {
	t.Helper()
	r, err := Open(t.Context(), t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	d := &depot{T: t, Relay: r}
	for i := range n {
		b := testbundle.New(t, testbundle.Options{Version: fmt.Sprintf("v1.%d.0", i+1), Content: fmt.Sprintf("content %d\n", i/2)})
		d.bundles = append(d.bundles, b)
		d.releases = append(d.releases, Release{Name: b.Lock.Name, Version: b.Lock.Version, Bundle: plain(b.Root)})
	}
	return d
}

func (d *depot) admit(data []byte) digest.Digest {
	d.Helper()
	desc := ocispec.Descriptor{Digest: digest.FromBytes(data), Size: int64(len(data))}
	err := d.store.Admit(d.Context(), desc, func(offset int64) (io.ReadCloser, error) {
		if offset > 0 {
			return nil, store.ErrNoRange
		}
		return io.NopCloser(bytes.NewReader(data)), nil
	}, nil)
	if err != nil {
		d.Fatal(err)
	}
	return desc.Digest
}

// stage does what an import does up to the activation.
func (d *depot) stage(i int, channel string) {
	d.Helper()
	b := d.bundles[i]
	for _, blob := range b.Blobs {
		d.admit(blob.Data)
	}
	rec := Record{
		APIVersion: recordVersion, Name: d.releases[i].Name, Version: d.releases[i].Version, Channel: channel,
		Bundle: d.releases[i].Bundle, Imported: now(), Signatures: []RecordSignature{}, Beside: []BesideManifest{},
	}
	for _, beside := range b.Beside {
		rec.Beside = append(rec.Beside, BesideManifest{Manifest: plain(beside.Descriptor), Tag: beside.Tag})
	}
	if err := d.writeRecord(d.Context(), rec); err != nil {
		d.Fatal(err)
	}
}

func (d *depot) active() Active {
	d.Helper()
	a, _, err := readActive(d.Context(), d.docs)
	if err != nil {
		d.Fatal(err)
	}
	return a
}

func (d *depot) set(a Active) {
	d.Helper()
	if err := writeActive(d.Context(), d.docs, a, state.Any); err != nil {
		d.Fatal(err)
	}
}

// serve has the channel go through releases, of which the last is active.
func (d *depot) serve(keep int, versions ...int) {
	d.Helper()
	a := d.active()
	for _, i := range versions {
		d.stage(i, depotChannel)
		var err error
		if a, err = a.accept(depotChannel, d.releases[i], NewerVersion, retention{keep: keep}); err != nil {
			d.Fatal(err)
		}
	}
	d.set(a)
}

func (d *depot) gc(o GCOptions) *GCResult {
	d.Helper()
	res, err := d.GC(d.Context(), o)
	if err != nil {
		d.Fatal(err)
	}
	return res
}

// has lists the blobs in the store.
func (d *depot) has() map[digest.Digest]bool {
	d.Helper()
	all := make(map[digest.Digest]bool)
	if err := d.store.Walk(context.Background(), func(b digest.Digest, _ int64) error { all[b] = true; return nil }); err != nil {
		d.Fatal(err)
	}
	return all
}

// needs lists the blobs of releases as those know them who made them.
func (d *depot) needs(versions ...int) map[digest.Digest]bool {
	all := make(map[digest.Digest]bool)
	for _, i := range versions {
		for _, b := range d.bundles[i].Blobs {
			all[b.Digest] = true
		}
	}
	return all
}

// litter puts garbage into the store: quicker than Admit, which makes each blob durable.
func (d *depot) litter(n int) {
	d.Helper()
	for i := range n {
		name := digest.FromString(fmt.Sprint("garbage ", i)).Encoded()
		dir := filepath.Join(d.dir, "store", "blobs", "sha256", name[:2])
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, name), nil, 0o644)); err != nil {
			d.Fatal(err)
		}
	}
}

// mustHold asserts that exactly these releases are here, records and bytes.
func (d *depot) mustHold(versions ...int) {
	d.Helper()
	if got, want := d.has(), d.needs(versions...); !maps.Equal(got, want) {
		for b := range want {
			if !got[b] {
				d.Errorf("blob %s is gone", b)
			}
		}
		d.Errorf("%d blobs are here, want the %d of %v", len(got), len(want), versions)
	}
	recs, err := d.records(context.Background())
	if err != nil {
		d.Fatal(err)
	}
	want := make(map[digest.Digest]bool)
	for _, i := range versions {
		want[d.releases[i].Bundle.Digest] = true
	}
	got := make(map[digest.Digest]bool)
	for _, rec := range recs {
		got[rec.Bundle.Digest] = true
	}
	if !maps.Equal(got, want) {
		d.Errorf("records of %v, want of %v", got, versions)
	}
}

func TestGCOfNothing(t *testing.T) {
	d := newDepot(t, 0)
	if res := d.gc(GCOptions{}); res.Blobs != 0 || res.Bytes != 0 || len(res.Releases) != 0 {
		t.Errorf("%+v", res)
	}
}

// One test for each reason to stay: with it the release is untouched to the last byte, without it it goes.
func TestGCKeeps(t *testing.T) {
	promise := func(d *depot, i ...int) {
		var all []digest.Digest
		for _, i := range i {
			all = append(all, d.releases[i].Bundle.Digest)
		}
		if err := d.promise(t.Context(), now(), all); err != nil {
			t.Fatal(err)
		}
	}
	tests := map[string]struct {
		set     func(d *depot)
		release func(d *depot)
		held    []int
		after   []int
	}{
		"active and previous": {
			set:     func(d *depot) { d.serve(3, 0, 1, 2) },
			release: func(d *depot) { d.serve(2, 3) },
			held:    []int{0, 1, 2}, after: []int{2, 3},
		},
		"pinned": {
			set: func(d *depot) {
				d.serve(2, 0, 1, 2)
				d.set(d.active().pin(Pin{Bundle: d.releases[0].Bundle.Digest, Since: now()}))
			},
			release: func(d *depot) { d.set(d.active().unpin(d.releases[0].Bundle.Digest)) },
			held:    []int{0, 1, 2}, after: []int{1, 2},
		},
		"promised": {
			set:     func(d *depot) { d.serve(2, 0, 1, 2); promise(d, 0, 2) },
			release: func(d *depot) { promise(d, 2) },
			held:    []int{0, 1, 2}, after: []int{1, 2},
		},
		"staged": {
			set:     func(d *depot) { d.serve(2, 0, 1); d.stage(3, depotChannel) },
			release: func(d *depot) { d.serve(2, 4, 5) },
			held:    []int{0, 1, 3}, after: []int{4, 5},
		},
		"staged for a channel that has nothing": {
			set:     func(d *depot) { d.serve(2, 1, 2); d.stage(0, "canary") },
			release: func(d *depot) { d.set(mustAccept(t, d.active(), "canary", d.releases[3])); d.stage(3, "canary") },
			held:    []int{0, 1, 2}, after: []int{1, 2, 3},
		},
		"accepted, and gone from its channel": {
			set: func(d *depot) { d.serve(3, 0, 1); d.set(d.active().without(d.releases[0].Bundle.Digest)) },
			// Only what is older than the newest that was accepted can never come back.
			release: func(*depot) {},
			held:    []int{1}, after: []int{1},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			d := newDepot(t, 6)
			test.set(d)
			stray := d.admit([]byte("a blob that nothing refers to"))
			d.gc(GCOptions{})
			if d.has()[stray] {
				t.Error("garbage stays")
			}
			d.mustHold(test.held...)
			test.release(d)
			d.gc(GCOptions{})
			d.mustHold(test.after...)
			if res := d.gc(GCOptions{}); res.Blobs != 0 || len(res.Releases) != 0 {
				t.Errorf("the second collection found %+v", res)
			}
		})
	}
}

func TestGCDryRun(t *testing.T) {
	d := newDepot(t, 3)
	d.serve(2, 0, 1, 2)
	stray := d.admit([]byte("a blob that nothing refers to"))
	before := d.has()
	would := d.gc(GCOptions{DryRun: true})
	if !maps.Equal(before, d.has()) {
		t.Error("a dry run deleted something")
	}
	gone := d.needs(0)
	maps.DeleteFunc(gone, func(b digest.Digest, _ bool) bool { return d.needs(1, 2)[b] })
	gone[stray] = true
	listed := make(map[digest.Digest]bool)
	var size int64
	for _, b := range would.List {
		listed[b.Digest] = true
		size += b.Size
	}
	if !maps.Equal(listed, gone) || would.Blobs != len(gone) || would.Bytes != size || len(would.Releases) != 1 || !would.Releases[0].same(d.releases[0]) {
		t.Errorf("%+v, want %d blobs", would, len(gone))
	}
	did := d.gc(GCOptions{})
	if did.Blobs != would.Blobs || did.Bytes != would.Bytes || did.List != nil {
		t.Errorf("%+v, announced was %+v", did, would)
	}
}

// A release whose record was lost is served all the same, and nothing of it goes.
func TestGCWithoutARecord(t *testing.T) {
	d := newDepot(t, 2)
	d.serve(2, 0)
	if err := d.docs.Remove(t.Context(), recordName(d.releases[0].Bundle.Digest)); err != nil {
		t.Fatal(err)
	}
	d.stage(1, depotChannel)
	d.set(d.active().pin(Pin{Bundle: d.releases[1].Bundle.Digest, Since: now()}))
	if err := d.docs.Remove(t.Context(), recordName(d.releases[1].Bundle.Digest)); err != nil {
		t.Fatal(err)
	}
	d.gc(GCOptions{})
	want := d.needs(0, 1)
	for _, b := range d.bundles[:2] {
		for _, beside := range b.Beside { // known by the record only
			_ = bundle.Walk(t.Context(), b, beside.Descriptor, func(n bundle.Node) error {
				delete(want, n.Descriptor.Digest)
				return nil
			})
		}
	}
	got := d.has()
	for b := range want {
		if !got[b] {
			t.Errorf("blob %s is gone", b)
		}
	}
}

// While it is not known what a kept release needs, nothing may go. When the release is let go of, it goes on.
func TestGCRefusesWhatItCannotRead(t *testing.T) {
	d := newDepot(t, 2)
	d.serve(2, 0)
	d.stage(1, depotChannel)
	stray := d.admit([]byte("a blob that nothing refers to"))
	index := d.releases[1].Bundle.Digest
	if err := d.store.Delete(t.Context(), index); err != nil {
		t.Fatal(err)
	}
	before := d.has()
	var unreadable *UnreadableReleaseError
	if _, err := d.GC(t.Context(), GCOptions{}); !errors.As(err, &unreadable) || !unreadable.Release.same(d.releases[1]) {
		t.Errorf("got %v", err)
	}
	if !maps.Equal(before, d.has()) || !before[stray] {
		t.Error("something was deleted")
	}
	if _, err := d.Drop(t.Context(), d.releases[1].Name, "v1.2.0", DropOptions{}); err != nil {
		t.Fatal(err)
	}
	d.gc(GCOptions{})
	d.mustHold(0)
}

// Evidence that was lost is told and keeps nothing from being freed.
func TestGCWithoutEvidence(t *testing.T) {
	d := newDepot(t, 1)
	d.serve(2, 0)
	beside := d.bundles[0].Beside[0].Digest
	if err := d.store.Delete(t.Context(), beside); err != nil {
		t.Fatal(err)
	}
	d.admit([]byte("a blob that nothing refers to"))
	if res := d.gc(GCOptions{}); res.Blobs == 0 || len(res.Problems) != 1 {
		t.Errorf("%+v", res)
	}
}

func TestGCUnfinished(t *testing.T) {
	d := newDepot(t, 2)
	d.serve(2, 0)
	plant := func(b digest.Digest, age time.Duration) string {
		path := filepath.Join(d.dir, "store", "ingest", b.Algorithm().String()+"-"+b.Encoded())
		if err := os.WriteFile(path, []byte("half a blob"), 0o644); err != nil {
			t.Fatal(err)
		}
		then := time.Now().Add(-age)
		if err := os.Chtimes(path, then, then); err != nil {
			t.Fatal(err)
		}
		return path
	}
	week := 7 * 24 * time.Hour
	old, young := plant(digest.FromString("old"), week+time.Hour), plant(digest.FromString("young"), week-time.Hour)
	needed := plant(d.bundles[0].Layer.Digest, 100*week) // a blob that is being healed
	there := func(path string) bool { _, err := os.Stat(path); return err == nil }
	if res := d.gc(GCOptions{}); res.Unfinished != 1 || res.UnfinishedBytes != 11 || there(old) || !there(young) || !there(needed) {
		t.Errorf("%+v; old %v, young %v, needed %v", res, there(old), there(young), there(needed))
	}
	if res := d.gc(GCOptions{Unfinished: true}); res.Unfinished != 1 || there(young) || !there(needed) {
		t.Errorf("%+v", res)
	}
}

func TestGCDerived(t *testing.T) {
	d := newDepot(t, 2)
	d.serve(2, 0, 1)
	d.gc(GCOptions{})
	if _, err := os.Stat(d.partFile(d.releases[0])); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(d.dir, derivedDir, "scrub-state")
	if err := os.WriteFile(other, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	d.set(d.active().without(d.releases[0].Bundle.Digest))
	if res := d.gc(GCOptions{}); res.Derived != 1 {
		t.Errorf("%+v", res)
	}
	if _, err := os.Stat(d.partFile(d.releases[0])); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the part of a release that is gone: %v", err)
	}
	for _, path := range []string{d.partFile(d.releases[1]), other} {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
}

// What an import has found here before it made room must still be here when it goes on.
func TestGarbageSparesWhatArrives(t *testing.T) {
	d := newDepot(t, 3)
	d.serve(2, 0)
	for _, b := range d.bundles[2].Blobs { // an import that was cut
		d.admit(b.Data)
	}
	var nodes []bundle.Node
	for _, b := range d.bundles[2].Blobs {
		nodes = append(nodes, bundle.Node{Descriptor: b.Descriptor})
	}
	next := mustAccept(t, d.active(), depotChannel, d.releases[2])
	if res, err := d.garbage(t.Context(), next, nodes...); err != nil || res.Blobs != 0 {
		t.Errorf("%+v, %v", res, err)
	}
	if _, err := d.collect(t.Context(), GCOptions{arriving: nodes}); err != nil {
		t.Fatal(err)
	}
	d.mustHaveAll(0, 2)
	if _, err := d.collect(t.Context(), GCOptions{}); err != nil {
		t.Fatal(err)
	}
	d.mustHold(0)
	// Nothing of it is here: the plan of an import may be asked for all the same.
	if _, err := d.garbage(t.Context(), next, nodes...); err != nil {
		t.Error(err)
	}
}

func (d *depot) mustHaveAll(versions ...int) {
	d.Helper()
	got := d.has()
	for b := range d.needs(versions...) {
		if !got[b] {
			d.Errorf("blob %s is gone", b)
		}
	}
}

// leased is a place of documents whose lock is lost after a while.
type leased struct {
	state.Documents
	left *int
}

var errLost = errors.New("the lease is another's")

func (l leased) Held() error {
	if *l.left--; *l.left < 0 {
		return errLost
	}
	return nil
}

// Cut at each look that it takes, a collection has deleted garbage only, no record is without its bytes, and the next one
// ends what it began.
func TestGCInterruptedAnywhere(t *testing.T) {
	for cut := 0; ; cut++ {
		d := newDepot(t, 4)
		d.serve(2, 0, 1, 2, 3)
		d.litter(3 * deleteBatch / 2)
		plain := d.docs
		left := cut
		d.docs = leased{Documents: plain, left: &left}
		res, err := d.GC(t.Context(), GCOptions{})
		d.docs = plain
		if err != nil && !errors.Is(err, errLost) {
			t.Fatal(err)
		}
		d.mustHaveAll(2, 3)
		recs, rerr := d.records(t.Context())
		if rerr != nil {
			t.Fatal(rerr)
		}
		has := d.has()
		for _, rec := range recs {
			i := slices.IndexFunc(d.releases, func(rel Release) bool { return rel.same(rec.Release()) })
			for b := range d.needs(i) {
				if !has[b] {
					t.Fatalf("cut at %d: release %d has a record, and not blob %s", cut, i, b)
				}
			}
		}
		d.gc(GCOptions{})
		d.mustHold(2, 3)
		if err == nil {
			if cut < 4 || len(res.Releases) != 2 {
				t.Errorf("%d looks, %+v", cut, res)
			}
			return
		}
	}
}

func TestGCCancelled(t *testing.T) {
	d := newDepot(t, 1)
	d.serve(2, 0)
	stray := d.admit([]byte("a blob that nothing refers to"))
	ctx, cancel := context.WithCancel(t.Context())
	d.options.Journal = journalFunc(func(kind string) error { cancel(); return nil })
	if _, err := d.GC(ctx, GCOptions{}); !errors.Is(err, context.Canceled) || !d.has()[stray] {
		t.Errorf("got %v", err)
	}
}

type journalFunc func(kind string) error

func (f journalFunc) Append(_ context.Context, kind string, _ any) error { return f(kind) }

// A journal that cannot take a record because the disk is full gets it when there is room. Any other error of it keeps
// the collection from being done.
func TestGCRecords(t *testing.T) {
	for name, test := range map[string]struct {
		errs    []error // of one Append after the other
		records []string
		done    bool
		fails   bool
	}{
		"as ever":              {nil, []string{"gc", "gc-done"}, true, false},
		"full":                 {[]error{unix.ENOSPC}, []string{"gc", "gc", "gc-done"}, true, false},
		"full, and stays so":   {[]error{unix.ENOSPC, unix.ENOSPC, unix.ENOSPC}, []string{"gc", "gc", "gc-done"}, true, true},
		"broken":               {[]error{unix.EIO}, []string{"gc"}, false, true},
		"broken at its result": {[]error{nil, unix.EIO}, []string{"gc", "gc-done"}, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDepot(t, 1)
			d.serve(2, 0)
			stray := d.admit([]byte("a blob that nothing refers to"))
			var kinds []string
			d.options.Journal = journalFunc(func(kind string) error {
				kinds = append(kinds, kind)
				if len(test.errs) == 0 {
					return nil
				}
				err := test.errs[0]
				test.errs = test.errs[1:]
				return err
			})
			_, err := d.GC(t.Context(), GCOptions{})
			var broken *JournalError
			if (err != nil) != test.fails || err != nil && !errors.As(err, &broken) || !slices.Equal(kinds, test.records) {
				t.Errorf("%q, %v", kinds, err)
			}
			if d.has()[stray] == test.done {
				t.Errorf("deleted: %v, want %v", !d.has()[stray], test.done)
			}
		})
	}
	d := newDepot(t, 1)
	d.serve(2, 0)
	d.options.Journal = journalFunc(func(kind string) error { t.Errorf("%s is recorded, and nothing was done", kind); return nil })
	d.gc(GCOptions{})
	d.admit([]byte("a blob that nothing refers to"))
	d.gc(GCOptions{DryRun: true})
}
