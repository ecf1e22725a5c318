package integration

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// smallDisk mounts a real file system with little room.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("a small disk needs root to mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func exitCode(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return 0
}

// An import that does not fit is refused before its first write, with the numbers; what was served stays.
func TestNoRoomForImport(t *testing.T) {
	s := newSite(t)
	s.data = filepath.Join(smallDisk(t, "24m"), "data")
	s.must("trust", "add", s.path("keys", "release.pub"))
	s.password = s.secret("robot", "add", robot)
	s.must("import", s.bundle("v1.5.4"))
	s.start()
	s.follow(1)
	if err := os.WriteFile(filepath.Join(s.data, "..", "ballast"), make([]byte, 2<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	before := listFiles(t, filepath.Join(s.data, "store"))
	out, err := s.run("plimsoll-relay", "import", s.bundle("v1.5.5"), "--data", s.data)
	if exitCode(err) != 7 || !strings.Contains(out, "bytes are needed") {
		t.Errorf("exit %d: %s", exitCode(err), out)
	}
	if after := listFiles(t, filepath.Join(s.data, "store")); after != before {
		t.Errorf("the refused import wrote:\n%s\nbefore:\n%s", after, before)
	}
	s.pullAll("v1.5.4")
	// With room again the same command completes.
	if err := os.Remove(filepath.Join(s.data, "..", "ballast")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", filepath.Dir(s.data), "tmpfs", syscall.MS_REMOUNT, "size=64m"); err != nil {
		t.Fatal(err)
	}
	s.must("import", s.bundle("v1.5.5"))
	s.follow(2)
	s.pullAll("v1.5.5")
}

// A copy that fills the disk ends with its own exit code and leaves nothing that looks like a bundle; with room it is
// continued.
func TestNoRoomForCopy(t *testing.T) {
	f := releases(t)
	disk := smallDisk(t, "3m")
	for _, name := range []string{"bundle.tar", "folder"} {
		dst := filepath.Join(disk, name)
		if out, err := f.run("plimsoll", "copy", f.bundle("v1.5.4"), dst); exitCode(err) != 7 {
			t.Errorf("%s: exit %d: %s", name, exitCode(err), out)
		}
		if out, err := f.run("plimsoll", "inspect", dst); err == nil {
			t.Errorf("%s: half a bundle can be read:\n%s", name, out)
		}
	}
	if err := syscall.Mount("tmpfs", disk, "tmpfs", syscall.MS_REMOUNT, "size=32m"); err != nil {
		t.Fatal(err)
	}
	dst := filepath.Join(disk, "folder")
	for _, args := range [][]string{{"copy", f.bundle("v1.5.4"), dst}, {"verify", dst, "--key", f.path("keys", "release.pub")}} {
		if _, err := f.run("plimsoll", args...); err != nil {
			t.Error(err)
		}
	}
}

func listFiles(t *testing.T, dir string) string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		names = append(names, path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(names, "\n")
}
