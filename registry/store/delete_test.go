package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
)

func mustAdmit(t *testing.T, s *Store, data []byte) digest.Digest {
	t.Helper()
	desc := describe(data)
	if err := s.Admit(t.Context(), desc, (&source{data: data}).open, nil); err != nil {
		t.Fatal(err)
	}
	return desc.Digest
}

func TestDelete(t *testing.T) {
	drivers(t, func(t *testing.T, s *Store) {
		gone, alsoGone, stays := []byte("v1.5.3"), []byte("v1.5.3, too"), []byte("v1.5.4")
		for _, data := range [][]byte{gone, alsoGone, stays} {
			mustAdmit(t, s, data)
		}
		for range 2 { // what is gone is no error
			if err := s.Delete(t.Context(), digest.FromBytes(gone), digest.FromBytes(alsoGone)); err != nil {
				t.Fatal(err)
			}
			mustNotHave(t, s, digest.FromBytes(gone))
			mustNotHave(t, s, digest.FromBytes(alsoGone))
			mustHave(t, s, digest.FromBytes(stays), stays)
		}
		if err := s.Delete(t.Context(), "sha256:../../x", digest.FromBytes(stays)); err == nil {
			t.Error("a digest that is none was deleted")
		}
		mustHave(t, s, digest.FromBytes(stays), stays)
		mustAdmit(t, s, gone)
		mustHave(t, s, digest.FromBytes(gone), gone)
	})
}

// A robot that is in the middle of a blob gets the rest of it.
func TestDeleteLeavesOpenBlobsReadable(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	data := testBytes(1 << 20)
	d := mustAdmit(t, s, data)
	blob, err := s.OpenBlob(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	defer blob.Close() //nolint:errcheck // only read from
	head := make([]byte, 1000)
	if _, err := io.ReadFull(blob, head); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(blob)
	if err != nil || digest.FromBytes(append(head, rest...)) != d {
		t.Errorf("%d bytes, %v", len(rest), err)
	}
}

// Each folder is synced after the last of its blobs went, and before Delete answers.
func TestDeleteIsDurable(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	f := s.place.(*files)
	var blobs []digest.Digest
	shards := make(map[string]bool)
	for i := range 300 {
		d := mustAdmit(t, s, fmt.Appendf(nil, "blob %d", i))
		blobs = append(blobs, d)
		shards[f.shard(d)] = true
	}
	synced := make(chan string, 1000)
	f.syncDir = func(dir string) error {
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("%s was synced with %d blobs: %v", dir, len(left), err)
		}
		synced <- dir
		return nil
	}
	if err := s.Delete(t.Context(), blobs...); err != nil {
		t.Fatal(err)
	}
	if len(synced) != len(shards) {
		t.Errorf("%d syncs of %d folders", len(synced), len(shards))
	}
	f.syncDir = func(string) error { return errors.New("disk is gone") }
	if err := s.Delete(t.Context(), blobs[0]); err == nil {
		t.Error("a folder that was not synced is taken for durable")
	}
}

func TestDeleteEndsWithItsContext(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	d := mustAdmit(t, s, []byte("stays"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Delete(ctx, d); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	mustHave(t, s, d, []byte("stays"))
}

func TestUnfinishedAndDiscard(t *testing.T) {
	drivers(t, func(t *testing.T, s *Store) {
		one, two := describe(testBytes(5000)), describe(testBytes(7000))
		plantRemains(t, s, one, testBytes(5000)[:1000])
		plantRemains(t, s, two, testBytes(7000)[:2000])
		if dir := folder(s); dir != "" {
			if err := os.WriteFile(filepath.Join(dir, "ingest", "notes.txt"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		all, err := s.Unfinished(t.Context())
		if err != nil || len(all) != 2 {
			t.Fatalf("%+v, %v", all, err)
		}
		for _, u := range all {
			want := int64(1000)
			if u.Digest == two.Digest {
				want = 2000
			}
			if u.Size != want || u.Since.IsZero() {
				t.Errorf("%+v", u)
			}
		}
		for range 2 {
			if gone, err := s.Discard(t.Context(), one.Digest); err != nil || !gone {
				t.Errorf("%v, %v", gone, err)
			}
			if n, m := s.Partial(t.Context(), one.Digest), s.Partial(t.Context(), two.Digest); n != 0 || m != 2000 {
				t.Errorf("%d and %d bytes are left", n, m)
			}
		}
	})
}

// What is being copied now is not taken away under its writer's hands.
func TestDiscardLeavesARunningAdmit(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	other, err := Open(dir) // as another process has it
	if err != nil {
		t.Fatal(err)
	}
	data := testBytes(1 << 20)
	desc := describe(data)
	r, w := io.Pipe()
	done := make(chan error)
	go func() {
		done <- s.Admit(t.Context(), desc, func(int64) (io.ReadCloser, error) { return r, nil }, nil)
	}()
	if _, err := w.Write(data[:1000]); err != nil {
		t.Fatal(err)
	}
	if gone, err := other.Discard(t.Context(), desc.Digest); err != nil || gone {
		t.Errorf("%v, %v", gone, err)
	}
	if _, err := w.Write(data[1000:]); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Close(), <-done); err != nil {
		t.Fatal(err)
	}
	mustHave(t, s, desc.Digest, data)
}

func TestS3Delete(t *testing.T) {
	f := newFake(t)
	s := f.open("")
	gone, stays := []byte("v1.5.3"), []byte("v1.5.4")
	mustAdmit(t, s, gone)
	mustAdmit(t, s, stays)
	for range 2 {
		if err := s.Delete(t.Context(), digest.FromBytes(gone)); err != nil {
			t.Fatal(err)
		}
	}
	mustNotHave(t, s, digest.FromBytes(gone))
	mustHave(t, s, digest.FromBytes(stays), stays)
	f.setFault(func(op, _ string, w http.ResponseWriter, _ *http.Request) bool {
		if op == "Delete" {
			w.WriteHeader(http.StatusForbidden)
		}
		return op == "Delete"
	})
	if err := s.Delete(t.Context(), digest.FromBytes(stays)); !errors.Is(err, os.ErrPermission) {
		t.Errorf("got %v, after %v", err, f.requests())
	}
}

// The state of a cut upload goes, and the upload with it.
func TestS3Discard(t *testing.T) {
	f := newFake(t)
	s := f.open("")
	data := testBytes(12 << 20)
	desc := describe(data)
	if err := s.Admit(t.Context(), desc, cut(data, 7<<20), nil); err == nil {
		t.Fatal("half a blob was admitted")
	}
	all, err := s.Unfinished(t.Context())
	if err != nil || len(all) != 1 || all[0].Digest != desc.Digest || all[0].Size != 7<<20 || all[0].Since.IsZero() {
		t.Fatalf("%+v, %v", all, err)
	}
	for range 2 {
		if gone, err := s.Discard(t.Context(), desc.Digest); err != nil || !gone {
			t.Fatalf("%v, %v", gone, err)
		}
		f.mustBeClean()
	}
	if all, err := s.Unfinished(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("%+v, %v", all, err)
	}
}
