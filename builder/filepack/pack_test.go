package filepack

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/file"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/plimsoll/plimsoll/internal/upstream"
)

// entry of a folder: a file with a mode, a link when it has a target, a folder when its name ends in a slash.
type entry struct {
	name, content, target string
	mode                  fs.FileMode
}

var sample = []entry{
	{name: "maps/", mode: 0o755},
	{name: "maps/hall-1.pgm", content: strings.Repeat("\x00\xff", 5000), mode: 0o644},
	{name: "bin/calibrate", content: "#!/bin/sh\nexit 0\n", mode: 0o755},
	{name: "bin/run", target: "calibrate"},
	{name: "empty/", mode: 0o755},
	{name: "current", target: "maps"},
	{name: "nothing", mode: 0o644},
	{name: "ünïcode " + strings.Repeat("long", 40), content: "x", mode: 0o644},
	{name: "a/b/c/deep", target: "../../../bin/calibrate"},
	{name: "firmware.bin", content: strings.Repeat("firmware", 10_000), mode: 0o644},
}

func fill(t *testing.T, dir string, entries ...entry) {
	t.Helper()
	for _, e := range entries {
		path := filepath.Join(dir, e.name)
		if strings.HasSuffix(e.name, "/") {
			must(t, os.MkdirAll(path, 0o755))
			continue
		}
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		if e.target != "" {
			must(t, os.Symlink(e.target, path))
			continue
		}
		must(t, os.WriteFile(path, []byte(e.content), 0o600))
		must(t, os.Chmod(path, e.mode))
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func folder(t *testing.T, entries ...entry) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "robot-files")
	must(t, os.Mkdir(dir, 0o755))
	fill(t, dir, entries...)
	return dir
}

func pack(t *testing.T, dir string) (Layer, []byte) {
	t.Helper()
	var b bytes.Buffer
	layer, err := Pack(t.Context(), dir, "", &b)
	if err != nil {
		t.Fatal(err)
	}
	if layer.Digest != digest.FromBytes(b.Bytes()) || layer.Size != int64(b.Len()) {
		t.Errorf("%d bytes with digest %s are said to be %+v", b.Len(), digest.FromBytes(b.Bytes()), layer)
	}
	return layer, b.Bytes()
}

func TestPackIsReproducible(t *testing.T) {
	first := folder(t, sample...)
	layer, data := pack(t, first)
	if layer.Files != 8 || layer.Name != "robot-files" {
		t.Errorf("got %+v", layer)
	}

	other := folder(t)
	for i := range sample {
		fill(t, other, sample[len(sample)-1-i])
	}
	must(t, os.Remove(filepath.Join(other, "nothing")))
	must(t, os.WriteFile(filepath.Join(t.TempDir(), "x"), nil, 0o644))
	outside := filepath.Join(t.TempDir(), "outside")
	must(t, os.WriteFile(outside, nil, 0o600))
	must(t, os.Link(outside, filepath.Join(other, "nothing"))) // a hard link is a file
	must(t, filepath.WalkDir(other, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if os.Getuid() == 0 {
			must(t, os.Lchown(path, 1234, 5678))
		}
		switch {
		case d.IsDir():
			must(t, os.Chmod(path, 0o2700))
		case d.Type() == 0 && d.Name() == "calibrate":
			must(t, os.Chmod(path, 0o500|fs.ModeSetuid))
		case d.Type() == 0:
			must(t, os.Chmod(path, 0o600))
		}
		if d.Type()&fs.ModeSymlink == 0 {
			must(t, os.Chtimes(path, time.Unix(1, 0), time.Unix(2_000_000_000, 5)))
		}
		return nil
	}))
	again, otherData := pack(t, other)
	if again != layer || !bytes.Equal(data, otherData) {
		t.Errorf("got %+v, want %+v", again, layer)
	}

	for name, change := range map[string]func(dir string) error{
		"a byte": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "firmware.bin"), []byte(strings.Repeat("firmware", 9_999)+"firmwarf"), 0o644)
		},
		"who may execute": func(dir string) error { return os.Chmod(filepath.Join(dir, "firmware.bin"), 0o744) },
		"a name":          func(dir string) error { return os.Rename(filepath.Join(dir, "nothing"), filepath.Join(dir, "nothinG")) },
		"an empty folder": func(dir string) error { return os.Remove(filepath.Join(dir, "empty")) },
		"a link": func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, "current")), os.Symlink("bin", filepath.Join(dir, "current")))
		},
	} {
		changed := folder(t, sample...)
		must(t, change(changed))
		if got, _ := pack(t, changed); got.Digest == layer.Digest || got.Uncompressed == layer.Uncompressed {
			t.Errorf("%s: the digest is the same", name)
		}
	}
}

func TestPackIsATarOfTheFolder(t *testing.T) {
	layer, data := pack(t, folder(t, sample...))
	zipped, err := gzip.NewReader(bytes.NewReader(data))
	must(t, err)
	if zipped.Name != "" || !zipped.ModTime.IsZero() {
		t.Errorf("gzip header %+v", zipped.Header)
	}
	plain, err := io.ReadAll(zipped)
	must(t, err)
	if digest.FromBytes(plain) != layer.Uncompressed {
		t.Errorf("the tar's digest is %s, want %s", digest.FromBytes(plain), layer.Uncompressed)
	}
	var list []string
	for r := tar.NewReader(bytes.NewReader(plain)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		if h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.Gname != "" || h.ModTime.Unix() != 0 {
			t.Errorf("%s: %+v", h.Name, h)
		}
		list = append(list, fmt.Sprintf("%o %s %s", h.Mode, h.Name, h.Linkname))
	}
	want := []string{
		"755 robot-files/ ", "755 robot-files/a/ ", "755 robot-files/a/b/ ", "755 robot-files/a/b/c/ ",
		"777 robot-files/a/b/c/deep ../../../bin/calibrate", "755 robot-files/bin/ ", "755 robot-files/bin/calibrate ",
		"777 robot-files/bin/run calibrate", "777 robot-files/current maps", "755 robot-files/empty/ ",
		"644 robot-files/firmware.bin ", "755 robot-files/maps/ ", "644 robot-files/maps/hall-1.pgm ", "644 robot-files/nothing ",
		"644 robot-files/ünïcode " + strings.Repeat("long", 40) + " ",
	}
	if got := strings.Join(list, "\n"); got != strings.Join(want, "\n") {
		t.Errorf("got\n%s", got)
	}
}

// TestORASUnpacks: what is pushed to a registry, `oras pull` makes the folder of again, with modes and links.
func TestORASUnpacks(t *testing.T) {
	registry, err := upstream.Start(t.Context(), t.TempDir())
	must(t, err)
	defer registry.Close() //nolint:errcheck // of a test
	repo, err := remote.NewRepository(registry.Host() + "/acme/files")
	must(t, err)
	repo.PlainHTTP = true
	source := folder(t, sample...)
	for _, name := range []string{"", "config/robot"} {
		var b bytes.Buffer
		layer, err := Pack(t.Context(), source, name, &b)
		must(t, err)
		must(t, repo.Push(t.Context(), layer.Descriptor(), &b))
		manifest, err := oras.PackManifest(t.Context(), repo, oras.PackManifestVersion1_1, "application/vnd.plimsoll.file.v1+json",
			oras.PackManifestOptions{Layers: []ocispec.Descriptor{layer.Descriptor()}})
		must(t, err)
		must(t, repo.Tag(t.Context(), manifest, "v1"))

		dir := t.TempDir()
		pulled, err := file.New(dir)
		must(t, err)
		pulled.PreservePermissions = true // whatever this process' umask is
		if _, err := oras.Copy(t.Context(), repo, "v1", pulled, "v1", oras.DefaultCopyOptions); err != nil {
			t.Fatal(err)
		}
		must(t, pulled.Close())
		sameFolder(t, source, filepath.Join(dir, layer.Name))
		again, err := Pack(t.Context(), filepath.Join(dir, layer.Name), name, io.Discard)
		if err != nil || again != layer {
			t.Errorf("packed again: %+v, %v, want %+v", again, err, layer)
		}
	}
}

func sameFolder(t *testing.T, want, got string) {
	t.Helper()
	list := func(dir string) (text string) {
		must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			must(t, err)
			info, err := d.Info()
			must(t, err)
			name, err := filepath.Rel(dir, path)
			must(t, err)
			text += fmt.Sprintf("%s %s", info.Mode(), name)
			switch {
			case d.Type()&fs.ModeSymlink != 0:
				target, err := os.Readlink(path)
				must(t, err)
				text += " " + target
			case d.Type() == 0:
				data, err := os.ReadFile(path)
				must(t, err)
				text += " " + digest.FromBytes(data).Encoded()[:8]
			}
			text += "\n"
			return nil
		}))
		return text
	}
	if w, g := list(want), list(got); w != g {
		t.Errorf("got\n%s\nwant\n%s", g, w)
	}
}

func TestPackRefuses(t *testing.T) {
	long := strings.Repeat("d", 200) + "/"
	for name, tc := range map[string]struct {
		entries []entry
		special func(dir string) error
		path    string
		reason  string
	}{
		"an absolute link":   {entries: []entry{{name: "x", target: "/etc/passwd"}}, path: "x", reason: "outside"},
		"a link that climbs": {entries: []entry{{name: "a/x", target: "../../x"}}, path: "a/x", reason: "outside"},
		"a link to the folder by its name": {
			entries: []entry{{name: "f", mode: 0o644}, {name: "x", target: "../robot-files/f"}}, path: "x", reason: "outside"},
		"a link that climbs through another": {entries: []entry{
			{name: "a/b/c/", mode: 0o755}, {name: "a/b/c/up", target: "../.."}, {name: "x", target: "a/b/c/up/../../f"}, {name: "a/f", mode: 0o644},
		}, path: "x", reason: "escapes"},
		"a link to nothing": {entries: []entry{{name: "x", target: "y"}}, path: "x", reason: "not there"},
		"a link to itself":  {entries: []entry{{name: "x", target: "x"}}, path: "x", reason: "symbolic link"},
		"a named pipe": {special: func(dir string) error { return syscall.Mkfifo(filepath.Join(dir, "x"), 0o644) },
			path: "x", reason: "named pipe"},
		"a socket": {special: func(dir string) error {
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "x")})
			if err == nil {
				t.Cleanup(func() { l.Close() }) //nolint:errcheck // of a test
			}
			return err
		}, path: "x", reason: "socket"},
		"a device": {special: func(dir string) error {
			return syscall.Mknod(filepath.Join(dir, "x"), syscall.S_IFCHR|0o666, 1<<8|3)
		}, path: "x", reason: "device"},
		"a name that is not UTF-8": {entries: []entry{{name: "a\xff", mode: 0o644}}, path: "a\xff", reason: "UTF-8"},
		"a target that is not UTF-8": {
			entries: []entry{{name: "x", target: "a\xff"}}, path: "x", reason: "UTF-8"},
		"a long path": {entries: []entry{{name: strings.Repeat(long, 5) + strings.Repeat("f", 20), mode: 0o644}},
			path: strings.Repeat(long, 5) + strings.Repeat("f", 20), reason: "the limit is 1024"},
	} {
		dir := folder(t, tc.entries...)
		if tc.special != nil {
			if err := tc.special(dir); errors.Is(err, syscall.EPERM) {
				t.Logf("%s: this user cannot make one", name)
				continue
			} else if err != nil {
				t.Fatal(err)
			}
		}
		_, err := Pack(t.Context(), dir, "", io.Discard)
		var refused *RefusedError
		if !errors.As(err, &refused) || refused.Path != tc.path || !strings.Contains(refused.Reason, tc.reason) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"/etc", "../x", "a/../b", ".", "a/", "a\\b", "\xff", strings.Repeat("a", 1025)} {
		var refused *RefusedError
		if _, err := Pack(t.Context(), t.TempDir(), name, io.Discard); !errors.As(err, &refused) {
			t.Errorf("name %.20q: %v", name, err)
		}
	}
	if _, err := Pack(t.Context(), filepath.Join(t.TempDir(), "none"), "", io.Discard); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
	if _, err := Pack(t.Context(), filepath.Join(folder(t, sample...), "nothing"), "", io.Discard); err == nil {
		t.Error("a file was packed as a folder")
	}
}

// meanwhile runs something when the first bytes are written, while the file is read still.
type meanwhile struct {
	do   func()
	done bool
}

func (m *meanwhile) Write(b []byte) (int, error) {
	// The gzip header comes before any file is opened.
	if len(b) > 100 && !m.done {
		m.done = true
		m.do()
	}
	return len(b), nil
}

func TestPackSeesChanges(t *testing.T) {
	noise := make([]byte, 8<<20) // more than gzip keeps back
	source := rand.NewChaCha8([32]byte{1})
	_, err := source.Read(noise)
	must(t, err)
	for name, change := range map[string]func(path string) error{
		"cut":     func(path string) error { return os.Truncate(path, 1<<20) },
		"grown":   func(path string) error { return os.Truncate(path, 9<<20) },
		"written": func(path string) error { return os.Chtimes(path, time.Time{}, time.Unix(2_000_000_000, 0)) },
		"mode":    func(path string) error { return os.Chmod(path, 0o755) },
	} {
		dir := folder(t, entry{name: "a/model", content: string(noise), mode: 0o644})
		w := &meanwhile{do: func() { must(t, change(filepath.Join(dir, "a", "model"))) }}
		_, err := Pack(t.Context(), dir, "", w)
		var changed *ChangedError
		if !errors.As(err, &changed) || changed.Path != "a/model" || !w.done {
			t.Errorf("%s: %v", name, err)
		}
	}

	dir := folder(t, entry{name: "a", content: string(noise), mode: 0o644}, entry{name: "b", content: string(noise), mode: 0o644})
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := Pack(ctx, dir, "", &meanwhile{do: cancel}); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled context: %v", err)
	}
	full := &failing{err: syscall.ENOSPC}
	if _, err := Pack(t.Context(), dir, "", full); !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), dir) {
		t.Errorf("a full disk: %v", err)
	}
}

type failing struct{ err error }

func (f *failing) Write([]byte) (int, error) { return 0, f.err }
