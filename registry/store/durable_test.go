package store

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"

	storagedriver "github.com/distribution/distribution/v3/registry/storage/driver"
)

// spy passes everything on to a real driver, writes down what makes bytes durable, and fails where it is told to, with
// errors wrapped as distribution's drivers wrap them.
type spy struct {
	storagedriver.StorageDriver
	log  []string
	fail map[string]error
}

func (s *spy) step(name string) error {
	s.log = append(s.log, name)
	return s.fail[name]
}

func wrapped(err error) error {
	if err == nil {
		return nil
	}
	return storagedriver.Error{DriverName: "spy", Detail: err}
}

func (s *spy) Writer(ctx context.Context, p string, more bool) (storagedriver.FileWriter, error) {
	if err := s.fail["open"]; err != nil {
		return nil, wrapped(err)
	}
	w, err := s.StorageDriver.Writer(ctx, p, more)
	return &spyWriter{w, s}, err
}

func (s *spy) Move(ctx context.Context, from, to string) error {
	if err := s.step("rename"); err != nil {
		return wrapped(err)
	}
	return s.StorageDriver.Move(ctx, from, to)
}

type spyWriter struct {
	storagedriver.FileWriter
	spy *spy
}

func (w *spyWriter) Commit(ctx context.Context) error {
	if err := w.spy.step("sync file"); err != nil {
		return err
	}
	return w.FileWriter.Commit(ctx)
}

func spied(t *testing.T, dir string) (*Store, *spy) {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	f := s.place.(*files)
	sp := &spy{StorageDriver: f.driver, fail: make(map[string]error)}
	f.driver = sp
	inner := f.syncDir
	f.syncDir = func(dir string) error {
		name := "sync shard"
		if filepath.Base(dir) == "sha256" {
			name = "sync parent"
		}
		if err := sp.step(name); err != nil {
			return err
		}
		return inner(dir)
	}
	return s, sp
}

// The order is the promise: a blob's name must not reach the disk before its bytes, nor Admit return before its name.
func TestAdmitSyncsInOrder(t *testing.T) {
	dir := t.TempDir()
	s, sp := spied(t, dir)
	data := testBytes(1000)
	if err := s.Admit(t.Context(), describe(data), (&source{data: data}).open, nil); err != nil {
		t.Fatal(err)
	}
	if want := []string{"sync file", "sync parent", "sync shard", "rename", "sync shard"}; !slices.Equal(sp.log, want) {
		t.Errorf("%v, want %v", sp.log, want)
	}
	// A process that was killed after the rename has not synced the folder; the one that finds the blob does.
	s, sp = spied(t, dir)
	for range 2 {
		if err := s.Admit(t.Context(), describe(data), noSource, nil); err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{"sync parent", "sync shard"}; !slices.Equal(sp.log, want) {
		t.Errorf("found: %v, want %v, once", sp.log, want)
	}
}

func TestAdmitReportsTheDisk(t *testing.T) {
	data := testBytes(1000)
	desc := describe(data)
	for _, c := range []struct {
		step string
		kept int64 // bytes for the next try
	}{
		{"open", 0},
		{"sync file", 0}, // after a failed sync the bytes cannot be trusted
		{"sync parent", 1000},
		{"rename", 1000},
	} {
		s, sp := spied(t, t.TempDir())
		sp.fail[c.step] = &os.PathError{Op: c.step, Path: "x", Err: syscall.ENOSPC}
		if err := s.Admit(t.Context(), desc, (&source{data: data}).open, nil); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%s: %v; want ENOSPC", c.step, err)
		}
		mustNotHave(t, s, desc.Digest)
		if n := s.Partial(t.Context(), desc.Digest); n != c.kept {
			t.Errorf("%s: %d bytes kept, want %d", c.step, n, c.kept)
		}
		clear(sp.fail)
		if err := s.Admit(t.Context(), desc, (&source{data: data}).open, nil); err != nil {
			t.Errorf("%s: the next Admit: %v", c.step, err)
		}
		mustHave(t, s, desc.Digest, data)
	}
}

// When the rename is done and only the sync of its folder fails, the next Admit finds the blob and must sync again.
func TestAdmitSyncsAgainAfterFailure(t *testing.T) {
	data := testBytes(1000)
	s, sp := spied(t, t.TempDir())
	if err := s.place.settle(describe(data).Digest); err != nil {
		t.Fatal(err)
	}
	sp.fail["sync shard"] = syscall.EIO
	if err := s.Admit(t.Context(), describe(data), (&source{data: data}).open, nil); !errors.Is(err, syscall.EIO) {
		t.Fatalf("%v; want EIO", err)
	}
	if err := s.Admit(t.Context(), describe(data), noSource, nil); !errors.Is(err, syscall.EIO) {
		t.Fatalf("%v; want EIO again: the folder was not synced", err)
	}
	clear(sp.fail)
	if err := s.Admit(t.Context(), describe(data), noSource, nil); err != nil {
		t.Fatal(err)
	}
	mustHave(t, s, describe(data).Digest, data)
}

// Whoever waits for the lock of a file that its holder renames or removes must end up with the lock of the name's new
// file: two processes would otherwise write to one name, each believing to be alone.
func TestLockFollowsTheName(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	first, err := lockFile(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	var holders sync.WaitGroup
	for range 6 {
		holders.Go(func() {
			f, err := lockFile(t.Context(), path)
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			mine, err1 := f.Stat()
			named, err2 := os.Stat(path)
			if err := errors.Join(err1, err2); err != nil || !os.SameFile(mine, named) {
				t.Errorf("the locked file is not the one of that name: %v", err)
			}
			if err := os.Remove(path); err != nil {
				t.Error(err)
			}
		})
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	holders.Wait()
}
