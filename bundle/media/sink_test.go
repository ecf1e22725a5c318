package media

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/testbundle"
)

// childFolder tells the test binary that it is the process to be killed, and where it writes.
const childFolder = "PLIMSOLL_TEST_CHILD_SINK"

// TestMain is the child of TestKilledProcess, or runs the tests.
func TestMain(m *testing.M) {
	if ref := os.Getenv(childFolder); ref != "" {
		os.Exit(writeUntilKilled(ref))
	}
	os.Exit(m.Run())
}

// writeUntilKilled puts one whole blob and half of another one, says so, and waits.
func writeUntilKilled(ref string) int {
	ctx := context.Background()
	s, err := OpenSink(ctx, ref, Options{})
	if err != nil {
		panic(err)
	}
	whole := blobOf("whole")
	if err := s.Put(ctx, whole.Descriptor, bytes.NewReader(whole.Data)); err != nil {
		panic(err)
	}
	half := blobOf(strings.Repeat("half", 1<<20))
	err = s.Put(ctx, half.Descriptor, io.MultiReader(bytes.NewReader(half.Data[:2<<20]), readerFunc(func([]byte) (int, error) {
		if _, err := os.Stdout.WriteString("ready\n"); err != nil {
			return 0, err
		}
		select {}
	})))
	panic(err)
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func blobOf(text string) testbundle.Blob {
	return testbundle.Blob{
		Descriptor: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromString(text), Size: int64(len(text))}, Data: []byte(text),
	}
}

// killChild runs a process that writes to ref and kills it in the middle of a blob. While it lives, during is called.
func killChild(t *testing.T, ref string, during func()) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), must(os.Executable())(t))
	cmd.Env = append(os.Environ(), childFolder+"="+ref)
	cmd.Stderr = os.Stderr
	out := must(cmd.StdoutPipe())(t)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var ready [6]byte
	if _, err := io.ReadFull(out, ready[:]); err != nil {
		t.Fatal(err, cmd.Wait())
	}
	during()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) {
		t.Fatal(err)
	}
}

func TestKilledWhileWritingAFolder(t *testing.T) {
	b, from := written(t, testbundle.Options{})
	to := filepath.Join(t.TempDir(), "out")
	var bad *RefError
	killChild(t, to, func() {
		if s, err := OpenSink(t.Context(), to, Options{}); !errors.As(err, &bad) {
			t.Errorf("two processes write to one folder: %v, %v", s, err)
		}
	})
	if names := dirNames(t, filepath.Join(to, ingestDir)); len(names) != 1 {
		t.Fatalf("the child left %q, so it was not killed in a blob", names)
	}
	if src, err := OpenSource(t.Context(), to, Options{}); !errors.As(err, &bad) || !strings.Contains(err.Error(), "repeat") {
		t.Fatalf("what was cut opens: %v, %v", src, err)
	}
	s := sink(t, to, Options{})
	if has := must(s.Has(t.Context(), blobOf("whole").Descriptor))(t); !has {
		t.Error("the blob that was complete is lost")
	}
	if has := must(s.Has(t.Context(), blobOf(strings.Repeat("half", 1<<20)).Descriptor))(t); has {
		t.Error("half a blob counts as one")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := carry(t.Context(), t, from, to); err != nil {
		t.Fatal(err)
	}
	checkSame(t, b, to)
	if names := dirNames(t, to); !slices.Equal(names, []string{"blobs", "index.json", "oci-layout"}) {
		t.Errorf("the folder has %q", names)
	}
}

func TestKilledWhileWritingATar(t *testing.T) {
	b, from := written(t, testbundle.Options{})
	dir := t.TempDir()
	to := filepath.Join(dir, "out.tar")
	killChild(t, to, func() {
		// A second process does not take the first one's file for a left-over.
		s := sink(t, to, Options{})
		if names := dirNames(t, dir); len(names) != 2 {
			t.Errorf("the folder has %q", names)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	if names := dirNames(t, dir); len(names) != 1 {
		t.Fatalf("the child left %q", names)
	}
	if err := carry(t.Context(), t, from, to); err != nil {
		t.Fatal(err)
	}
	checkSame(t, b, to)
	if names := dirNames(t, dir); !slices.Equal(names, []string{"out.tar"}) {
		t.Errorf("the folder has %q", names)
	}
}

func TestDiskFull(t *testing.T) {
	b, from := written(t, testbundle.Options{Padding: bytes.Repeat([]byte("0123456789abcdef"), 400_000)}) // 6.4 MB
	for _, name := range []string{"out", "out.tar"} {
		dir := t.TempDir()
		if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
			t.Skipf("needs the right to mount a tmpfs (root): %v", err)
		}
		t.Cleanup(func() {
			if err := syscall.Unmount(dir, 0); err != nil {
				t.Error(err)
			}
		})
		to := filepath.Join(dir, name)
		if err := carry(t.Context(), t, from, to); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("%s: %v, want ENOSPC", name, err)
		}
		if src, err := OpenSource(t.Context(), to, Options{}); err == nil {
			t.Fatalf("%s: what did not fit opens: %v", name, src)
		}
		if left := dirNames(t, dir); name == "out.tar" && len(left) > 0 {
			t.Errorf("%s: %q is left", name, left)
		}
		if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=64m"); err != nil {
			t.Fatal(err)
		}
		if err := carry(t.Context(), t, from, to); err != nil {
			t.Fatalf("%s: with room: %v", name, err)
		}
		checkSame(t, b, to)
	}
}

// TestIndexFullDisk lets only index.json fail: the bundle that was there must stay.
func TestFullDiskKeepsTheOldIndex(t *testing.T) {
	old, fromOld := written(t, testbundle.Options{})
	_, from := written(t, testbundle.Options{Version: "v1.5.5", Padding: bytes.Repeat([]byte("0123456789abcdef"), 400_000)})
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Skipf("needs the right to mount a tmpfs (root): %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	to := filepath.Join(dir, "out")
	if err := carry(t.Context(), t, fromOld, to); err != nil {
		t.Fatal(err)
	}
	if err := carry(t.Context(), t, from, to); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("%v, want ENOSPC", err)
	}
	checkSame(t, old, to)
}

func TestTagMovesAndOrphansGo(t *testing.T) {
	old, fromOld := written(t, testbundle.Options{})
	now, fromNow := written(t, testbundle.Options{Content: "CAMERA_OFFSET=4\n"}) // the same version, built again
	keep, fromKeep := written(t, testbundle.Options{Version: "v1.5.3"})
	to := filepath.Join(t.TempDir(), "out")
	for _, from := range []string{fromKeep, fromOld, fromNow} {
		if err := carry(t.Context(), t, from, to); err != nil {
			t.Fatal(err)
		}
	}
	checkSame(t, now, to+":v1.5.4")
	checkSame(t, keep, to+":v1.5.3")
	src := source(t, to, Options{})
	if refs := must(src.Referrers(t.Context(), old.Root.Digest))(t); len(refs) > 0 {
		t.Errorf("what stood beside the old one is still listed: %+v", refs)
	}
	if n := len(src.(*layout).entries); n != 6 {
		t.Errorf("%d entries, want two bundles with two beside each", n)
	}
}

func TestSinkTags(t *testing.T) {
	b, from := written(t, testbundle.Options{Version: "v1.5.4+build.7"})
	to := filepath.Join(t.TempDir(), "out")
	for _, ref := range []string{to, to + ":mine"} {
		if err := carry(t.Context(), t, from, ref); err != nil {
			t.Fatal(err)
		}
	}
	checkSame(t, b, to+":v1.5.4_build.7")
	checkSame(t, b, to+":mine")
	checkSame(t, b, to) // two tags, one bundle
	s := sink(t, to, Options{})
	var bad *RefError
	if err := s.Commit(t.Context(), b.Root, "not a tag", nil); !errors.As(err, &bad) {
		t.Errorf("a bad tag: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// TestFolderPutHeals replaces a blob that was damaged on the disk.
func TestFolderPutHeals(t *testing.T) {
	blob := blobOf("as it should be")
	to := filepath.Join(t.TempDir(), "out")
	s := sink(t, to, Options{})
	put := func() error { return s.Put(t.Context(), blob.Descriptor, bytes.NewReader(blob.Data)) }
	if err := put(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(to, blobPath(blob.Digest)), bytes.ToUpper(blob.Data), 0o600); err != nil {
		t.Fatal(err)
	}
	var damaged *bundle.DamagedError
	if _, err := bundle.ReadBlob(t.Context(), s, blob.Descriptor, 99); !errors.As(err, &damaged) {
		t.Fatalf("it is not damaged: %v", err)
	}
	if err := put(); err != nil {
		t.Fatal(err)
	}
	must(bundle.ReadBlob(t.Context(), s, blob.Descriptor, 99))(t)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestConcurrentPuts(t *testing.T) {
	blobs := make([]testbundle.Blob, 20)
	for i := range blobs {
		blobs[i] = blobOf(strings.Repeat(string(rune('a'+i/2)), 100_000)) // each twice
	}
	for _, ref := range []string{filepath.Join(t.TempDir(), "out"), filepath.Join(t.TempDir(), "out.tar")} {
		s := sink(t, ref, Options{})
		var wg sync.WaitGroup
		for _, b := range blobs {
			wg.Go(func() {
				if err := s.Put(t.Context(), b.Descriptor, bytes.NewReader(b.Data)); err != nil {
					t.Error(err)
				}
				if _, err := bundle.ReadBlob(t.Context(), s, b.Descriptor, 1<<20); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestTarSinkIsReadableWhileItGrows(t *testing.T) {
	s := sink(t, filepath.Join(t.TempDir(), "out.tar"), Options{})
	blob := blobOf("a layer for the SBOM generator")
	broken := errors.New("the cable")
	long := blobOf(strings.Repeat("long", 1<<18))
	if err := s.Put(t.Context(), long.Descriptor, io.MultiReader(bytes.NewReader(long.Data[1:]), &failing{broken})); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	if fi := must(os.Stat(s.Path()))(t); fi.Size() != 0 {
		t.Errorf("a failed Put left %d bytes", fi.Size())
	}
	if err := s.Put(t.Context(), blob.Descriptor, bytes.NewReader(blob.Data)); err != nil {
		t.Fatal(err)
	}
	f := must(os.Open(s.Path()))(t)
	tr := tar.NewReader(f)
	h := must(tr.Next())(t)
	if data := must(io.ReadAll(tr))(t); h.Name != blobPath(blob.Digest) || !bytes.Equal(data, blob.Data) {
		t.Errorf("%s: %q", h.Name, data)
	}
	if h, err := tr.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("what a failed Put left: %v, %v", h, err)
	}
	if h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.Mode != 0o644 || h.ModTime.Unix() != 0 || h.Format != tar.FormatUSTAR {
		t.Errorf("header %+v", h)
	}
	if err := errors.Join(f.Close(), s.Close()); err != nil {
		t.Error(err)
	}
}

// TestTarBeyondOctal is a blob above 8 GiB, which ustar cannot say; a sparse disk file stands for it.
func TestTarBeyondOctal(t *testing.T) {
	const size = 9 << 30
	path := filepath.Join(t.TempDir(), "big.tar")
	f := must(os.Create(path))(t)
	var header bytes.Buffer
	name := blobPath(digest.FromString("big"))
	if err := tar.NewWriter(&header).WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: filePerm}); err != nil {
		t.Fatal(err)
	}
	must(f.Write(header.Bytes()))(t)
	if err := f.Truncate(int64(header.Len()) + size + 1024); err != nil {
		t.Fatal(err)
	}
	files := must(scanTar(t.Context(), f, int64(header.Len())+size+1024))(t)
	if s := files[name]; s.size != size || s.offset != int64(header.Len()) {
		t.Errorf("section %+v", s)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

func TestTarHoldsOneBundle(t *testing.T) {
	_, from := written(t, testbundle.Options{})
	s := sink(t, filepath.Join(t.TempDir(), "out.tar"), Options{})
	src := source(t, from, Options{})
	if err := Copy(t.Context(), s, src, nil, 0); err != nil {
		t.Fatal(err)
	}
	if err := Copy(t.Context(), s, src, nil, 0); err == nil {
		t.Error("a second Commit")
	}
	blob := blobOf("late")
	if err := s.Put(t.Context(), blob.Descriptor, bytes.NewReader(blob.Data)); err == nil {
		t.Error("a Put behind the end")
	}
	if !strings.HasSuffix(s.Path(), "out.tar") {
		t.Errorf("path %s", s.Path())
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	must(source(t, s.Path(), Options{}).Root(t.Context()))(t)
}
