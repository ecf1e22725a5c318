package journal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// disk mounts a small file system, where that is allowed.
func disk(t *testing.T, size int) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Skipf("mounting a file system is not allowed here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// On a full disk nothing half-written counts, and appending goes on when there is room again.
func TestFullDisk(t *testing.T) {
	dir := disk(t, 512<<10)
	j := reopen(t, filepath.Join(dir, Folder), newIdentity(t))
	add(t, j, 0)
	want := 1
	for round := range 12 {
		// Each round leaves another number of pages free, so that another step is the one that finds no room.
		ballast := filepath.Join(dir, "ballast")
		f, err := os.Create(ballast)
		if err != nil {
			t.Fatal(err)
		}
		for err == nil {
			_, err = f.Write(make([]byte, 4096))
		}
		if fi, statErr := f.Stat(); statErr != nil || f.Truncate(fi.Size()-int64(round)<<12) != nil || f.Close() != nil {
			t.Fatal("ballast")
		}
		refused := 0
		for range 200 {
			before := read(t, j.dir)
			err := j.Append(t.Context(), "test", make([]int, 500))
			if err == nil {
				want++
				continue
			}
			if !errors.Is(err, syscall.ENOSPC) {
				t.Fatalf("round %d: %v", round, err)
			}
			if refused++; refused > 3 {
				break
			}
			if now := read(t, j.dir); now[recordsFile] != before[recordsFile] || now[checkpointFile] != before[checkpointFile] {
				t.Fatalf("round %d: a refused Append left something", round)
			}
		}
		if refused == 0 {
			t.Fatal("the disk was never full")
		}
		if err := j.Verify(t.Context()); err != nil {
			t.Fatalf("round %d: full: %v", round, err)
		}
		if _, err := j.Checkpoint(t.Context()); err != nil {
			t.Errorf("round %d: a checkpoint needs room: %v", round, err)
		}
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		add(t, j, round)
		want++
		if err := j.Verify(t.Context()); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if got := len(all(t, j)); got != want {
			t.Fatalf("round %d: %d records, %d were accepted", round, got, want)
		}
	}
}

// A read-only disk takes no records; everything else works.
func TestReadOnlyDisk(t *testing.T) {
	dir := disk(t, 1<<20)
	j := reopen(t, filepath.Join(dir, Folder), newIdentity(t))
	for i := range 5 {
		add(t, j, i)
	}
	older := checkpoint(t, j)
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	j = reopen(t, j.dir, j.options.Identity)
	if err := j.Append(t.Context(), "test", nil); !errors.Is(err, syscall.EROFS) {
		t.Errorf("append: %v", err)
	}
	if _, err := j.Prove(t.Context(), 2); err != nil {
		t.Error(err)
	}
	if err := errors.Join(j.Verify(t.Context()), j.CheckConsistency(t.Context(), older.Note)); err != nil {
		t.Error(err)
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT, ""); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(j.path(hashesFile), 33); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if err := j.Verify(t.Context()); err != nil {
		t.Errorf("without the derived hashes: %v", err)
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT, ""); err != nil {
		t.Fatal(err)
	}
	add(t, j, 5)
	if got := len(all(t, j)); got != 6 {
		t.Errorf("%d records", got)
	}
}

// A file that cannot be written, whatever the reason, is an error that names it, and no damage.
func TestFoldersInPlaceOfFiles(t *testing.T) {
	for _, name := range []string{recordsFile, hashesFile, checkpointFile, nextCheckpoint, lockFile} {
		j := filled(t, 0)
		path := j.path(name)
		if err := errors.Join(os.RemoveAll(path), os.MkdirAll(filepath.Join(path, "x"), 0o755)); err != nil {
			t.Fatal(err)
		}
		err := j.Append(t.Context(), "test", nil)
		var corrupt *CorruptError
		if err == nil || errors.As(err, &corrupt) {
			t.Errorf("%s: %v", name, err)
		}
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
		add(t, j, 0)
		if err := j.Verify(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
