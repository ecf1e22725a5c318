package store

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

const (
	childEnv  = "PLIMSOLL_TEST_STORE_CHILD" // the folder or URL in which the test binary admits the large blob and exits
	largeBlob = 48 << 20
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		if err := admitLarge(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// numbers is a blob that exists only as a formula: it can be opened anywhere and any two blocks of it differ.
type numbers struct{ off, size int64 }

func (r *numbers) Read(p []byte) (int, error) {
	if r.off == r.size {
		return 0, io.EOF
	}
	n := 0
	for n < len(p) && r.off < r.size {
		var word [8]byte
		binary.LittleEndian.PutUint64(word[:], uint64(r.off/8+1)*0x9e3779b97f4a7c15)
		k := copy(p[n:min(len(p), n+int(r.size-r.off))], word[r.off%8:])
		n += k
		r.off += int64(k)
	}
	return n, nil
}

func openNumbers(size int64) OpenFrom {
	return func(offset int64) (io.ReadCloser, error) {
		return io.NopCloser(&numbers{off: offset, size: size}), nil
	}
}

var largeDesc = sync.OnceValue(func() ocispec.Descriptor {
	d, err := digest.FromReader(&numbers{size: largeBlob})
	if err != nil {
		panic(err) // numbers does not fail
	}
	return ocispec.Descriptor{Digest: d, Size: largeBlob}
})

// admitLarge says on stdout how many bytes are in place after each block.
func admitLarge(dir string) error {
	s, err := OpenURL(context.Background(), dir, Options{})
	if err != nil {
		return err
	}
	defer fmt.Println("end")
	var write error
	var sum int64
	err = s.Admit(context.Background(), largeDesc(), openNumbers(largeBlob), func(n int64) {
		sum += n
		if _, err := fmt.Println(sum); err != nil {
			write = err
		}
	})
	return errors.Join(err, write)
}

func child(t *testing.T, dir string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), childEnv+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, bufio.NewScanner(out)
}

// A process that is killed while it admits leaves the whole blob or none, and the next Admit goes on where it stopped.
func TestAdmitKilled(t *testing.T) {
	const rounds = 9
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	var whole, partial int
	for round := range rounds {
		dir := t.TempDir()
		killAt := rnd.Int64N(largeBlob + 1)
		if round%3 > 0 {
			killAt = largeBlob // while it syncs
		}
		cmd, lines := child(t, dir)
		for lines.Scan() {
			n, err := strconv.ParseInt(lines.Text(), 10, 64)
			if err != nil || n >= killAt { // "end" is no number
				break
			}
		}
		if round%3 == 2 { // while it renames
			place := filepath.Join(dir, filepath.FromSlash(blobPath(largeDesc().Digest)))
			if round%2 == 0 {
				place = filepath.Dir(place)
			}
			waitFor(t, place)
		}
		if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Fatal(err)
		}
		_ = cmd.Wait() // "signal: killed" is what was asked for

		s, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		left := s.Partial(t.Context(), largeDesc().Digest)
		switch size, err := s.Size(t.Context(), largeDesc().Digest); {
		case err == nil && size == largeBlob && left == 0:
			whole++
			checkLarge(t, s)
		case errors.Is(err, fs.ErrNotExist):
			partial++
			admitRest(t, s, left)
		default:
			t.Fatalf("killed at %d: blob of %d bytes, %v, and %d unfinished bytes", killAt, size, err, left)
		}
	}
	t.Logf("%d times the whole blob, %d times none", whole, partial)
	if partial == 0 || whole == 0 {
		t.Error("no child was killed before, or none after the rename: the test proves too little")
	}
}

// waitFor returns as soon as path exists: any pause in between would miss the moment that it announces.
func waitFor(t *testing.T, path string) {
	t.Helper()
	for limit := time.Now().Add(time.Minute); time.Now().Before(limit); runtime.Gosched() {
		if _, err := os.Stat(path); err == nil {
			return
		}
	}
	t.Fatalf("%s did not appear", path)
}

func admitRest(t *testing.T, s *Store, left int64) {
	t.Helper()
	opened := int64(-1)
	err := s.Admit(t.Context(), largeDesc(), func(offset int64) (io.ReadCloser, error) {
		opened = offset
		return openNumbers(largeBlob)(offset)
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if left < largeBlob && opened != left {
		t.Errorf("%d bytes were left, the source was opened at %d", left, opened)
	}
	checkLarge(t, s)
}

func checkLarge(t *testing.T, s *Store) {
	t.Helper()
	b, err := s.OpenBlob(t.Context(), largeDesc().Digest)
	if err != nil {
		t.Fatal(err)
	}
	got, err := digest.FromReader(b)
	if err := errors.Join(err, b.Close()); err != nil {
		t.Fatal(err)
	}
	if got != largeDesc().Digest || b.Size != largeBlob {
		t.Fatalf("blob hashes to %s and has %d bytes, want %s and %d", got, b.Size, largeDesc().Digest, largeBlob)
	}
}

func TestAdmitFromSeveralProcesses(t *testing.T) {
	dir := t.TempDir()
	var running []*exec.Cmd
	var copied []*bufio.Scanner
	for range 4 {
		cmd, lines := child(t, dir)
		running, copied = append(running, cmd), append(copied, lines)
	}
	working := 0
	for i, cmd := range running {
		var lines []string
		for copied[i].Scan() {
			lines = append(lines, copied[i].Text())
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("process %d: %v", i, err)
		}
		if len(lines) > 2 { // one that finds the blob says its size and "end"
			working++
		}
	}
	if working != 1 {
		t.Errorf("%d processes copied the blob, want 1", working)
	}
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	checkLarge(t, s)
	if left, err := os.ReadDir(dir + "/ingest"); err != nil || len(left) != 0 {
		t.Errorf("ingest holds %v, %v", left, err)
	}
}

func TestAdmitOnFullDisk(t *testing.T) {
	dir := t.TempDir()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount a small tmpfs")
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Skipf("needs the right to mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	const size = 8 << 20
	d, err := digest.FromReader(&numbers{size: size})
	if err != nil {
		t.Fatal(err)
	}
	desc := ocispec.Descriptor{Digest: d, Size: size}
	err = s.Admit(t.Context(), desc, openNumbers(size), nil)
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), d.String()) {
		t.Fatalf("%v; want ENOSPC and the digest", err)
	}
	mustNotHave(t, s, d)
	left := s.Partial(t.Context(), d)
	if left == 0 || left >= size {
		t.Fatalf("%d bytes were kept", left)
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT, "size=32m"); err != nil {
		t.Fatal(err)
	}
	opened := int64(-1)
	err = s.Admit(t.Context(), desc, func(offset int64) (io.ReadCloser, error) {
		opened = offset
		return openNumbers(size)(offset)
	}, nil)
	if err != nil || opened != left {
		t.Fatalf("%v; opened at %d, want %d", err, opened, left)
	}
}
