package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plimsoll/plimsoll/internal/durable"
)

// get reads a manifest as the robot does.
func (s *site) get(path string) (m imageManifest, err error) {
	resp, err := s.relay.HTTP().Do(s.request(path))
	if err != nil {
		return m, err
	}
	data, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return m, err
	}
	if resp.StatusCode != http.StatusOK {
		return m, fmt.Errorf("%s: %s", path, resp.Status)
	}
	return m, json.Unmarshal(data, &m)
}

// cutDisk makes a loop device end at a byte: what lies behind it gives real I/O errors, until it is whole again.
func cutDisk(t *testing.T, device string, size uint64) {
	t.Helper()
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // only asked
	info, err := unix.IoctlLoopGetStatus64(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	info.Sizelimit = size
	if err := unix.IoctlLoopSetStatus64(int(f.Fd()), info); err != nil {
		t.Skipf("the loop device cannot be cut: %v", err)
	}
	if err := unix.IoctlSetInt(int(f.Fd()), unix.LOOP_SET_CAPACITY, 0); err != nil {
		t.Skipf("the loop device cannot be cut: %v", err)
	}
}

// begins gives where on its disk a file or folder begins, in bytes.
func begins(t *testing.T, path string) uint64 {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // only asked
	begin, _, err := firstExtent(f)
	if err != nil {
		t.Skipf("the file system does not say where a file is: %v", err)
	}
	return begin
}

func syncDisk(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // only asked
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		t.Fatal(err)
	}
}

// forget drops what the kernel has of a file in memory.
func forget(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // only asked
	if err := errors.Join(f.Sync(), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)); err != nil {
		t.Fatal(err)
	}
}

// moveToEnd writes a blob anew until it lies behind all other files and folders of the site.
func (s *site) moveToEnd(disk, file string) {
	s.t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		s.t.Fatal(err)
	}
	end := uint64(0)
	err = filepath.WalkDir(disk, func(path string, d os.DirEntry, err error) error {
		if err == nil && (d.Type().IsRegular() || d.IsDir()) && path != file {
			if fi, err := d.Info(); err == nil && fi.Size() > 0 {
				end = max(end, begins(s.t, path)+uint64(fi.Size()))
			}
		}
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	for n := range 40 {
		if begins(s.t, file) >= end {
			return
		}
		// The old one keeps its place, so that the next free place is further on.
		if err := os.Rename(file, filepath.Join(disk, fmt.Sprint("before", n))); err != nil {
			s.t.Fatal(err)
		}
		if err := durable.WriteFile(file, data, 0o644); err != nil {
			s.t.Fatal(err)
		}
	}
	s.t.Skip("the layer does not go to the end of the disk")
}

// Sectors of the disk cannot be read: one layer is not served, everything else is; the scrub names it, another source
// brings it back beside the bad sectors, without a restart.
func TestDiskErrors(t *testing.T) {
	disk, device := ext4Disk(t, 96<<20)
	head := filepath.Join(disk, "head")
	if err := os.WriteFile(head, make([]byte, 24<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	syncDisk(t, disk)
	s := siteOn(t, disk)
	s.start()
	s.follow(1)
	path, file := s.layer()
	s.moveToEnd(disk, file)
	// All that is free lies before the layer now: nothing new goes behind the cut.
	fill(t, filepath.Join(disk, "tail"))
	if err := os.Remove(head); err != nil {
		t.Fatal(err)
	}
	syncDisk(t, disk)
	first := s.pullAll("v1.5.4")
	forget(t, file)
	cutDisk(t, device, begins(t, file))
	if f, err := os.Open(file); err != nil {
		t.Fatal(err)
	} else if _, err := io.Copy(io.Discard, f); !errors.Is(err, syscall.EIO) {
		t.Skipf("the disk gives no I/O error: %v", err)
	} else {
		f.Close() //nolint:errcheck // only read from
	}
	if code, err := s.fetch(path); err == nil && code == http.StatusOK {
		t.Error("a layer was served that the disk does not give")
	}
	s.cloneAll(t.Context(), "v1.5.4")
	if _, _, err := s.relay.PullImage(t.Context(), tool+":v2.1.0", linux("amd64")); err != nil {
		t.Errorf("another image: %v", err)
	}
	// The request made the serving relay look: it may have brought the layer back by now, from where it was imported.
	out, err := s.run("plimsoll-relay", "scrub", "--now", "--data", s.data)
	if code := exitCode(err); code != 0 && (code != 6 || !strings.Contains(out, "unreadable") && !strings.Contains(out, "missing")) {
		t.Errorf("scrub --now: exit %d: %s", code, out)
	}
	s.must("heal", s.bundle("v1.5.4"))
	if code, err := s.fetch(path); err != nil || code != http.StatusOK {
		t.Errorf("after healing: %d, %v", code, err)
	}
	if again := s.pullAll("v1.5.4"); again != first {
		t.Errorf("%+v, before %+v", again, first)
	}
	cutDisk(t, device, 0)
	s.must("scrub", "--now")
	s.must("import", s.bundle("v1.5.5"))
	s.follow(2)
	s.pullAll("v1.5.5")
}

// A disk that is pulled while it is served, and plugged in again: nothing is served from it meanwhile, and everything
// afterwards, without a restart.
func TestDiskPulledAndPluggedIn(t *testing.T) {
	disk, device := ext4Disk(t, 96<<20)
	s := siteOn(t, disk)
	s.start("--no-history") // the old file system stays as long as a file on it is open
	s.follow(1)
	first := s.pullAll("v1.5.4")
	path, _ := s.layer()
	if err := unix.Unmount(disk, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	if code, err := s.fetch(path); err != nil || code != http.StatusNotFound {
		t.Errorf("without a disk: %d, %v", code, err)
	}
	mountDisk(t, device, disk)
	if again := s.pullAll("v1.5.4"); again != first {
		t.Errorf("%+v, before %+v", again, first)
	}
	s.must("import", s.bundle("v1.5.5"))
	s.follow(2)
	s.pullAll("v1.5.5")
	if strings.Contains(s.log.String(), "panic") {
		t.Error(s.log.String())
	}
}

// The robot's pull finds what is damaged, and the serving relay heals that and what else is missing from where the release
// came, by itself.
func TestServingRelayHeals(t *testing.T) {
	s := siteOn(t, t.TempDir())
	s.start()
	s.follow(1)
	path, file := s.layer()
	all := s.blobFiles()
	other := all[len(all)-1]
	if other == file {
		other = all[0]
	}
	if err := errors.Join(os.Truncate(file, 100), os.Remove(other)); err != nil {
		t.Fatal(err)
	}
	if code, err := s.fetch(path); err == nil && code == http.StatusOK {
		t.Error("half a layer was served")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	waitFor(ctx, t, "both blobs are back", func() bool {
		code, err := s.fetch(path)
		_, missing := os.Stat(other)
		return err == nil && code == http.StatusOK && missing == nil
	})
	s.pullAll("v1.5.4")
	s.must("scrub", "--now")
}
