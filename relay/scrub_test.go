package relay

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/plimsoll/plimsoll/bundle/media"
	"github.com/plimsoll/plimsoll/internal/testbundle"
	"github.com/plimsoll/plimsoll/relay/state"
)

// notes is a journal that remembers.
type notes struct {
	mu    sync.Mutex
	kinds []string
	fail  error
}

func (n *notes) Append(_ context.Context, kind string, detail any) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, err := json.Marshal(detail); err != nil {
		return err
	}
	n.kinds = append(n.kinds, kind)
	return n.fail
}

func (n *notes) all() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.kinds)
}

// stack is a relay with an active release, all of it, a journal, and a folder with the bundle.
func stack(t *testing.T) (*Relay, *testbundle.Bundle, *notes, string) {
	t.Helper()
	r, release, b := kept(t)
	release.Name = b.Lock.Name
	journal := new(notes)
	r.options.Journal = journal
	from := filepath.Join(t.TempDir(), "bundle")
	b.Write(t, from)
	rec := Record{
		APIVersion: recordVersion, Name: release.Name, Version: release.Version, Channel: "stable", Bundle: release.Bundle,
		Imported: now(), From: from, Signatures: []RecordSignature{},
	}
	for _, beside := range b.Beside {
		rec.Beside = append(rec.Beside, BesideManifest{Manifest: plain(beside.Descriptor), Tag: beside.Tag})
	}
	if err := r.writeRecord(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	a := Active{APIVersion: activeVersion, Generation: 1, Channels: []Channel{{Name: "stable", Release: release, Accepted: release}}}
	if err := writeActive(t.Context(), r.docs, a, state.Any); err != nil {
		t.Fatal(err)
	}
	return r, b, journal, from
}

func (r *Relay) blobFile(d digest.Digest) string {
	return filepath.Join(r.dir, "store", "blobs", d.Algorithm().String(), d.Encoded()[:2], d.Encoded())
}

// flip changes one bit of a blob, as a disk does.
func (r *Relay) flip(t *testing.T, d digest.Digest) {
	t.Helper()
	data, err := os.ReadFile(r.blobFile(d))
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 8
	if err := os.WriteFile(r.blobFile(d), data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, from string) media.Source {
	t.Helper()
	src, err := media.OpenSource(t.Context(), from, media.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { src.Close() })
	return src
}

func (r *Relay) mustScrub(t *testing.T, o ScrubOptions) *ScrubResult {
	t.Helper()
	res, err := r.Scrub(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func TestScrubFindsNothing(t *testing.T) {
	r, b, journal, _ := stack(t)
	res := r.mustScrub(t, ScrubOptions{})
	if !res.Whole || !res.Healthy() || res.Checked != len(b.Blobs) || res.Flaky != 0 || len(journal.all()) != 0 {
		t.Errorf("%+v, of %d blobs; %q", res, len(b.Blobs), journal.all())
	}
	size := int64(0)
	for _, blob := range b.Blobs {
		size += blob.Size
	}
	if res.Bytes != size {
		t.Errorf("%d bytes, want %d", res.Bytes, size)
	}
}

// Whatever blob of a release is damaged, index and lock too: it is named with the items that need it, is not found any
// more, is recorded, and comes back from a source that has it.
func TestScrubAndHealEveryBlob(t *testing.T) {
	for _, derived := range []bool{true, false} {
		r, b, journal, from := stack(t)
		src := open(t, from)
		for i, blob := range b.Blobs {
			if !derived { // when what was derived is lost too, the manifests must come back to know what else is missing
				if err := os.RemoveAll(r.partFile(Release{Bundle: b.Root})); err != nil {
					t.Fatal(err)
				}
			}
			r.flip(t, blob.Digest)
			res := r.mustScrub(t, ScrubOptions{All: true})
			if len(res.Damaged) != 1 || len(res.Unreadable) != 0 || len(res.Missing) != 1 {
				t.Fatalf("blob %d: %+v", i, res)
			}
			bad := res.Damaged[0]
			if bad.Digest != blob.Digest || bad.Size != blob.Size || !bad.Quarantined || res.Missing[0].Digest != blob.Digest {
				t.Errorf("blob %d: %+v", i, bad)
			}
			if len(bad.Uses) != 1 || bad.Uses[0].Bundle != b.Root.Digest {
				t.Errorf("blob %d: uses %+v", i, bad.Uses)
			}
			if _, err := r.store.Size(t.Context(), blob.Digest); err == nil {
				t.Errorf("blob %d is still found", i)
			}
			healed, err := r.Heal(t.Context(), src, HealOptions{From: from})
			if err != nil || !slices.Equal(healed.Healed, []digest.Digest{blob.Digest}) || healed.Bytes != blob.Size || len(healed.Left) != 0 {
				t.Fatalf("blob %d: %+v, %v", i, healed, err)
			}
		}
		res := r.mustScrub(t, ScrubOptions{All: true})
		if !res.Healthy() || res.Checked != len(b.Blobs) {
			t.Errorf("%+v", res)
		}
		want := slices.Repeat([]string{"blob-damaged", "blob-healed"}, len(b.Blobs))
		if !slices.Equal(journal.all(), want) {
			t.Errorf("journal %q", journal.all())
		}
	}
}

func TestScrubNamesItems(t *testing.T) {
	r, b, _, _ := stack(t)
	r.flip(t, b.Layer.Digest)
	res := r.mustScrub(t, ScrubOptions{})
	if len(res.Damaged) != 1 || len(res.Damaged[0].Uses) != 1 || !slices.Contains(res.Damaged[0].Uses[0].Items, "robot-app") {
		t.Errorf("%+v", res.Damaged)
	}
}

// A store that was lost whole comes back from another version of the bundle as far as that has it, and is whole with the
// right one. Nothing else of the source comes.
func TestHealFromAnotherRelease(t *testing.T) {
	r, b, _, from := stack(t)
	if _, err := r.part(t.Context(), Release{Bundle: plain(b.Root)}); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(r.dir, "store", "blobs", "sha256")); err != nil {
		t.Fatal(err)
	}
	other := testbundle.New(t, testbundle.Options{Version: "v1.5.5", Content: "another"})
	elsewhere := filepath.Join(t.TempDir(), "other")
	other.Write(t, elsewhere)
	res, err := r.Heal(t.Context(), open(t, elsewhere), HealOptions{})
	if err != nil || len(res.Healed) == 0 || len(res.Left) == 0 {
		t.Fatalf("%+v, %v", res, err)
	}
	for _, blob := range b.Blobs {
		size, err := r.store.Size(t.Context(), blob.Digest)
		if has := other.Data(blob.Digest) != nil; has != (err == nil && size == blob.Size) {
			t.Errorf("%s: in the other bundle: %v; here: %v", blob.Digest, has, err)
		}
	}
	if _, err := r.store.Size(t.Context(), other.Root.Digest); err == nil {
		t.Error("the other release came along")
	}
	if res, err = r.Heal(t.Context(), open(t, from), HealOptions{}); err != nil || len(res.Left) != 0 {
		t.Fatalf("%+v, %v", res, err)
	}
	if res := r.mustScrub(t, ScrubOptions{}); !res.Healthy() || res.Checked != len(b.Blobs) {
		t.Errorf("%+v", res)
	}
}

// A source with damage of its own heals what it can.
func TestHealFromDamagedSource(t *testing.T) {
	r, b, _, from := stack(t)
	lost := []digest.Digest{b.Layer.Digest, b.Root.Digest}
	for _, d := range lost {
		if err := os.Remove(r.blobFile(d)); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(from, testbundle.BlobPath(b.Layer.Digest))
	data := bytes.Clone(b.Data(b.Layer.Digest))
	data[0] ^= 1
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	res, err := r.Heal(t.Context(), open(t, from), HealOptions{})
	if err != nil || !slices.Equal(res.Healed, []digest.Digest{b.Root.Digest}) {
		t.Fatalf("%+v, %v", res, err)
	}
	if len(res.Left) != 1 || res.Left[0].Digest != b.Layer.Digest || len(res.Left[0].Uses) != 1 || res.Left[0].Reason == "" {
		t.Errorf("%+v", res.Left)
	}
	if _, err := r.store.Size(t.Context(), b.Layer.Digest); err == nil {
		t.Error("damaged bytes were stored")
	}
}

// A scrub that is cut goes on behind what it has read; a lost note only repeats.
func TestScrubGoesOn(t *testing.T) {
	r, b, _, _ := stack(t)
	ctx, cancel := context.WithCancel(t.Context())
	stop := &stopAfter{n: 5, cancel: cancel}
	r.options.Progress = stop.report
	res, err := r.Scrub(ctx, ScrubOptions{})
	if !errors.Is(err, context.Canceled) || res.Whole || res.Checked == 0 || res.Checked >= len(b.Blobs) {
		t.Fatalf("%+v, %v", res, err)
	}
	r.options.Progress = nil
	first := res.Checked
	if res := r.mustScrub(t, ScrubOptions{}); !res.Whole || first+res.Checked != len(b.Blobs) {
		t.Errorf("%d and then %+v, of %d", first, res, len(b.Blobs))
	}
	// The next pass reads everything.
	if res := r.mustScrub(t, ScrubOptions{}); !res.Whole || res.Checked != len(b.Blobs) {
		t.Errorf("%+v", res)
	}
	for _, content := range []string{"", "{}", `{"apiVersion":"plimsoll.scrub.v1","began":"x","after":"sha256:zz"}`} {
		if err := os.WriteFile(r.scrubPath(), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if res := r.mustScrub(t, ScrubOptions{}); !res.Whole || res.Checked != len(b.Blobs) {
			t.Errorf("note %q: %+v", content, res)
		}
	}
}

// A blob that takes longer than the quiet hours is read all the same, and the next ones wait for the next night.
func TestScrubEndsInTime(t *testing.T) {
	r, b, _, _ := stack(t)
	passes, checked := 0, 0
	for res := new(ScrubResult); !res.Whole; passes++ {
		res = r.mustScrub(t, ScrubOptions{Until: time.Now().Add(-time.Hour)})
		if res.Checked > 1 {
			t.Fatalf("%+v", res)
		}
		checked += res.Checked
		if passes > 2*len(b.Blobs) {
			t.Fatal("it does not end")
		}
	}
	if checked != len(b.Blobs) {
		t.Errorf("%d blobs in %d passes, want %d", checked, passes, len(b.Blobs))
	}
}

// What the journal cannot take is taken out of service all the same, and the error is told.
func TestScrubWithoutJournal(t *testing.T) {
	r, b, journal, _ := stack(t)
	journal.fail = unix.ENOSPC
	r.flip(t, b.Layer.Digest)
	res, err := r.Scrub(t.Context(), ScrubOptions{})
	var refused *JournalError
	if !errors.As(err, &refused) || !errors.Is(err, unix.ENOSPC) || len(res.Damaged) != 1 || !res.Damaged[0].Quarantined {
		t.Errorf("%+v, %v", res, err)
	}
}

// A damaged blob that no release needs goes too: the next import would take it for good.
func TestScrubTakesOutGarbage(t *testing.T) {
	r, _, _, _ := stack(t)
	desc := testbundle.New(t, testbundle.Options{Content: "garbage"}).Blobs[0]
	path := r.blobFile(desc.Digest)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, bytes.Repeat([]byte("x"), int(desc.Size)), 0o644); err != nil {
		t.Fatal(err)
	}
	res := r.mustScrub(t, ScrubOptions{})
	if len(res.Damaged) != 1 || len(res.Damaged[0].Uses) != 0 || len(res.Missing) != 0 {
		t.Errorf("%+v", res)
	}
}

// The rate is kept, whatever the sizes of the blobs.
func TestScrubRate(t *testing.T) {
	r, b, _, _ := stack(t)
	size := int64(0)
	for _, blob := range b.Blobs {
		size += blob.Size
	}
	start := time.Now()
	// What goes beyond one burst takes 50 ms.
	big := bytes.Repeat([]byte("y"), 3*scrubBurst)
	d := digest.FromBytes(big)
	if err := errors.Join(os.MkdirAll(filepath.Dir(r.blobFile(d)), 0o755), os.WriteFile(r.blobFile(d), big, 0o644)); err != nil {
		t.Fatal(err)
	}
	rate := (size + 2*scrubBurst) * 20
	r.mustScrub(t, ScrubOptions{Rate: rate})
	if took := time.Since(start); took < 45*time.Millisecond {
		t.Errorf("%d bytes at %d a second in %v", size+int64(len(big)), rate, took)
	}
}
