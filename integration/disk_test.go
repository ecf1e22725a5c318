package integration

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// ext4Disk mounts a real ext4 file system in a file and gives the folder and the loop device.
func ext4Disk(t *testing.T, size int64) (dir, device string) {
	t.Helper()
	folder := "/dev/shm" // in memory: an image on a disk that others use makes each sync take seconds
	if _, err := os.Stat(folder); err != nil {
		folder = ""
	}
	folder, err := os.MkdirTemp(folder, "plimsoll-disk-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) }) //nolint:errcheck // scratch
	image := filepath.Join(folder, "disk.img")
	f, err := os.Create(image)
	if err == nil {
		err = errors.Join(f.Truncate(size), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", "-m", "0", "-b", "4096", image).CombinedOutput(); err != nil {
		t.Skipf("no mkfs.ext4 here: %v %s", err, out)
	}
	out, err := exec.Command("losetup", "--find", "--show", image).Output()
	if err != nil {
		t.Skipf("a disk of its own needs root and loop devices: %v", err)
	}
	device = strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "--detach", device).CombinedOutput(); err != nil {
			t.Errorf("%v %s", err, out)
		}
	})
	dir = t.TempDir()
	mountDisk(t, device, dir)
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) }) //nolint:errcheck // it may be away
	return dir, device
}

func mountDisk(t *testing.T, device, dir string) {
	t.Helper()
	if err := unix.Mount(device, dir, "ext4", 0, ""); err != nil {
		t.Skipf("a disk of its own needs root to mount it: %v", err)
	}
}

func remount(t *testing.T, dir string, flags uintptr) {
	t.Helper()
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|flags, ""); err != nil {
		t.Fatal(err)
	}
}

// siteOn is a site on a disk, with the first release.
func siteOn(t *testing.T, disk string) *site {
	t.Helper()
	s := &site{fixture: releases(t), t: t, data: filepath.Join(disk, "data")}
	s.must("trust", "add", s.path("keys", "release.pub"))
	s.password = s.secret("robot", "add", robot)
	s.must("import", s.bundle("v1.5.4"))
	return s
}

// refused runs a command that must end with a code and say something.
func (s *site) refused(code int, reason string, args ...string) {
	s.t.Helper()
	out, err := s.run("plimsoll-relay", append(args, "--data", s.data)...)
	if exitCode(err) != code || !strings.Contains(out, reason) {
		s.t.Errorf("%s: exit %d, want %d and %q:\n%s", strings.Join(args, " "), exitCode(err), code, reason, out)
	}
}

// blobs lists the files of the store, the largest first.
func (s *site) blobFiles() (all []string) {
	s.t.Helper()
	var size int64
	err := filepath.WalkDir(filepath.Join(s.data, "store", "blobs"), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		if all = append(all, path); fi.Size() > size {
			size = fi.Size()
			all[0], all[len(all)-1] = all[len(all)-1], all[0]
		}
		return nil
	})
	if err != nil || len(all) == 0 {
		s.t.Fatal(len(all), err)
	}
	return all
}

// fetch asks for a path as the robot does, and gives the status; an error if the body broke off.
func (s *site) fetch(path string) (int, error) {
	req := s.request(path)
	resp, err := s.relay.HTTP().Do(req)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, errors.Join(err, resp.Body.Close())
}

// layer is the path of the largest layer of the image, and its file.
func (s *site) layer() (path, file string) {
	s.t.Helper()
	manifest := func(reference string) (m imageManifest) {
		img, err := s.get("/v2/" + app + "/manifests/" + reference)
		if err != nil {
			s.t.Fatal(err)
		}
		return img
	}
	size := int64(-1)
	for _, m := range manifest("v1.5.4").Manifests {
		for _, l := range manifest(m.Digest.String()).Layers {
			if l.Size > size {
				size = l.Size
				path = "/v2/" + app + "/blobs/" + l.Digest.String()
				file = filepath.Join(s.data, "store", "blobs", "sha256", l.Digest.Encoded()[:2], l.Digest.Encoded())
			}
		}
	}
	return path, file
}

// A disk that becomes read-only: robots go on, what would write is refused with the reason, a restart serves the same, and
// when the disk is writable again everything works without one.
func TestDiskReadOnly(t *testing.T) {
	disk, _ := ext4Disk(t, 96<<20)
	s := siteOn(t, disk)
	s.must("import", "--stage", s.bundle("v1.5.5"))
	s.start("--no-history") // or the kernel keeps the disk writable, for the file of the history
	s.follow(1)
	first := s.pullAll("v1.5.4")
	remount(t, disk, unix.MS_RDONLY)
	check := func() {
		t.Helper()
		if again := s.pullAll("v1.5.4"); again != first {
			t.Errorf("%+v, before %+v", again, first)
		}
		for _, args := range [][]string{
			{"import", s.bundle("v1.5.5")}, {"activate", "robot-stack", "v1.5.5"}, {"settings", "--keep", "4"},
			{"pin", "robot-stack", "v1.5.4"}, {"trust", "add", s.path("keys", "release.pub")}, {"robot", "add", "another"},
		} {
			s.refused(1, "read-only file system", args...)
		}
		s.must("status")
		s.must("settings")
		s.must("scrub", "--now")
	}
	check()
	s.kill(syscall.SIGTERM)
	s.start("--no-history")
	s.follow(1)
	check()
	s.kill(syscall.SIGTERM)
	s.start() // the history waits for the disk
	s.follow(1)
	s.pullAll("v1.5.4")
	remount(t, disk, 0)
	s.must("import", s.bundle("v1.5.5"))
	s.follow(2)
	s.pullAll("v1.5.5")
	s.must("scrub", "--now")
}

// A disk without a single free byte: robots go on, also after a restart, changes are refused with the reason, and nothing
// is lost. With room again the same commands complete.
func TestDiskFull(t *testing.T) {
	disk, _ := ext4Disk(t, 96<<20)
	s := siteOn(t, disk)
	s.must("import", "--stage", s.bundle("v1.5.5"))
	s.start()
	s.follow(1)
	first := s.pullAll("v1.5.4")
	ballast := filepath.Join(disk, "ballast")
	fill(t, ballast)
	for range 2 {
		if again := s.pullAll("v1.5.4"); again != first {
			t.Errorf("%+v, before %+v", again, first)
		}
		s.refused(7, "no space left on device", "activate", "robot-stack", "v1.5.5")
		s.refused(7, "no space left on device", "settings", "--keep", "4")
		s.must("status")
		s.must("scrub", "--now")
		s.kill(syscall.SIGKILL)
		fill(t, ballast)
		s.start()
		s.follow(1)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	s.must("activate", "robot-stack", "v1.5.5")
	s.follow(2)
	s.pullAll("v1.5.5")
}

// fill writes until the disk takes nothing more.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{1 << 20, 4096, 1} {
		for err == nil {
			_, err = f.Write(make([]byte, size))
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// The store's folder is lost while it is served: what is in memory and in Git goes on, requests for the rest are refused
// and no more; when the folder is back, or was imported anew, everything is served again without a restart.
func TestStoreFolderLost(t *testing.T) {
	s := siteOn(t, t.TempDir())
	s.start()
	s.follow(1)
	first := s.pullAll("v1.5.4")
	path, _ := s.layer()
	folder := filepath.Join(s.data, "store")
	lost := func() {
		t.Helper()
		if code, err := s.fetch(path); err != nil || code != http.StatusNotFound {
			t.Errorf("a lost layer is answered by %d, %v", code, err)
		}
		s.cloneAll(t.Context(), "v1.5.4")
		s.must("status")
	}
	if err := os.Rename(folder, folder+".away"); err != nil {
		t.Fatal(err)
	}
	lost()
	s.refused(6, "missing", "scrub", "--now")
	if err := errors.Join(os.RemoveAll(folder), os.Rename(folder+".away", folder)); err != nil {
		t.Fatal(err)
	}
	if again := s.pullAll("v1.5.4"); again != first {
		t.Errorf("%+v, before %+v", again, first)
	}
	// Gone for good, with all that was derived; the same release comes again.
	for name, args := range map[string][]string{"import": {"import", s.bundle("v1.5.4")}, "heal": {"heal", s.bundle("v1.5.4")}} {
		if err := errors.Join(os.RemoveAll(folder), os.RemoveAll(filepath.Join(s.data, "derived"))); err != nil {
			t.Fatal(err)
		}
		lost()
		s.must(args...)
		if again := s.pullAll("v1.5.4"); again != first {
			t.Errorf("after %s %+v, before %+v", name, again, first)
		}
		s.must("scrub", "--now")
	}
	if s.activeGeneration() != 1 {
		t.Errorf("generation %d", s.activeGeneration())
	}
}

// Something else has the name of a file: it is refused or replaced, and what is served stays served.
func TestFolderInPlaceOfAFile(t *testing.T) {
	s := siteOn(t, t.TempDir())
	s.start()
	s.follow(1)
	path, file := s.layer()
	for _, name := range []string{"active.json", "apply.lock", "settings.json"} {
		name := filepath.Join(s.data, name)
		if err := os.Rename(name, name+".away"); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Join(name, "sub"), 0o755); err != nil {
			t.Fatal(err)
		}
		s.refused(1, "is a directory", "import", s.bundle("v1.5.5"))
		s.pullAll("v1.5.4")
		if err := os.RemoveAll(name); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(name+".away", name); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"heal", s.bundle("v1.5.4")}, {"import", s.bundle("v1.5.4")}} {
		if err := errors.Join(os.Remove(file), os.MkdirAll(filepath.Join(file, "sub"), 0o755)); err != nil {
			t.Fatal(err)
		}
		if code, err := s.fetch(path); err == nil && code < 400 {
			t.Errorf("a folder was served: %d", code)
		}
		s.must(args...)
		if code, err := s.fetch(path); err != nil || code != http.StatusOK {
			t.Errorf("after %s: %d, %v", args[0], code, err)
		}
	}
	s.must("import", s.bundle("v1.5.5"))
	s.follow(2)
	s.pullAll("v1.5.5")
}

// A disk that flips bits: the scrub finds each, the blob is not served any more, and any road brings it back while the
// relay serves.
func TestBitsFlipWhileServing(t *testing.T) {
	s := siteOn(t, t.TempDir())
	s.start()
	s.follow(1)
	path, file := s.layer()
	for _, args := range [][]string{{"heal", s.bundle("v1.5.4")}, {"import", s.bundle("v1.5.4")}, {"heal", s.bundle("v1.5.5")}} {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		data[len(data)/3] ^= 1
		if err := os.WriteFile(file, data, 0o644); err != nil {
			t.Fatal(err)
		}
		s.refused(6, "of robot-stack v1.5.4", "scrub", "--now")
		if code, err := s.fetch(path); err != nil || code != http.StatusNotFound {
			t.Errorf("a damaged layer is answered by %d, %v", code, err)
		}
		out, err := s.run("plimsoll-relay", append(args, "--data", s.data)...)
		if code := exitCode(err); code != 0 && !(code == 3 && strings.Contains(args[1], "v1.5.5")) {
			t.Errorf("%v: %s", err, out)
		}
		if exitCode(err) == 3 { // the newer release has another layer: the right one heals the rest
			s.must("heal", s.bundle("v1.5.4"))
		}
		if code, err := s.fetch(path); err != nil || code != http.StatusOK {
			t.Errorf("after %s: %d, %v", args[0], code, err)
		}
		s.must("scrub", "--now")
	}
	s.pullAll("v1.5.4")
}

// Without the right to read or write: as a user who is not root, the way a relay should run.
func TestDiskPermissions(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to become somebody else")
	}
	setpriv, err := exec.LookPath("setpriv")
	if err != nil {
		t.Skip(err)
	}
	const nobody = 65534
	f := *releases(t) //nolint:govet // the lock is the shared one's
	if err := os.Chmod(f.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\nexec %s --reuid %d --regid %d --clear-groups %s/plimsoll-relay \"$@\"\n", setpriv, nobody, nobody, f.bin)
	if err := os.WriteFile(filepath.Join(bin, "plimsoll-relay"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	f.bin = bin
	disk := t.TempDir()
	for _, dir := range []string{filepath.Dir(disk), disk} {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(disk, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	s := &site{fixture: &f, t: t, data: filepath.Join(disk, "data")}
	key, err := os.ReadFile(s.path("keys", "release.pub")) // beside the private one, in a folder of its owner's
	if err == nil {
		err = os.WriteFile(filepath.Join(bin, "release.pub"), key, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	s.must("trust", "add", filepath.Join(bin, "release.pub"))
	s.password = s.secret("robot", "add", robot)
	s.must("import", s.bundle("v1.5.4"))
	s.start()
	s.follow(1)
	path, _ := s.layer()
	store := filepath.Join(s.data, "store")
	for _, c := range []struct {
		dir     string
		mode    os.FileMode
		served  bool
		refused []string
	}{
		{store + "/blobs/sha256", 0, false, []string{"import", s.bundle("v1.5.5")}},
		{store + "/ingest", 0o555, true, []string{"import", s.bundle("v1.5.5")}},
		{s.data, 0o555, true, []string{"robot", "add", "another"}},
		{s.data + "/releases", 0, true, []string{"import", s.bundle("v1.5.5")}},
	} {
		if err := os.Chmod(c.dir, c.mode); err != nil {
			t.Fatal(err)
		}
		code, err := s.fetch(path)
		if served := err == nil && code == http.StatusOK; served != c.served {
			t.Errorf("%s: %d, %v", c.dir, code, err)
		}
		s.cloneAll(t.Context(), "v1.5.4")
		s.refused(1, "permission denied", c.refused...)
		if err := os.Chmod(c.dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if code, err := s.fetch(path); err != nil || code != http.StatusOK {
			t.Errorf("%s, allowed again: %d, %v", c.dir, code, err)
		}
	}
	s.must("import", s.bundle("v1.5.5"))
	s.follow(2)
	s.pullAll("v1.5.5")
}
