package relay

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// On a disk without a free byte a collection makes room, and a release can be dropped.
func TestGCOnAFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=8m"); err != nil {
		t.Skipf("no file systems can be mounted here: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	d := newDepot(t, 4)
	r, err := Open(t.Context(), dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	d.Relay = r
	d.serve(2, 0, 1, 2)
	d.stage(3, depotChannel)
	d.gc(GCOptions{})
	d.mustHold(1, 2, 3)
	d.gitless(1, 2)
	var journal []string
	d.options.Journal = journalFunc(func(kind string) error {
		f, err := os.OpenFile(filepath.Join(dir, "records"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		_, err = f.Write(bytes.Repeat([]byte{'x'}, 512))
		journal = append(journal, kind)
		return errors.Join(err, f.Close())
	})
	full := func() {
		t.Helper()
		f, err := os.OpenFile(filepath.Join(dir, "ballast"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		for err == nil {
			_, err = f.Write(make([]byte, 64<<10))
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
		_ = f.Close()
	}
	full()
	if _, err := d.Drop(t.Context(), d.releases[1].Name, "v1.2.0", DropOptions{}); err != nil {
		t.Errorf("drop: %v, %v", err, journal)
	}
	d.gc(GCOptions{})
	d.mustHold(2, 3)
	full()
	// The whole room is taken by a blob that nothing needs.
	name := digest.FromString("garbage")
	path := filepath.Join(d.dir, "store", "blobs", "sha256", name.Encoded()[:2], name.Encoded())
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(d.dir, "ballast"), path); err != nil {
		t.Fatal(err)
	}
	d.gc(GCOptions{})
	d.mustHold(2, 3)
}
