package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/plimsoll/plimsoll/bundle"
)

// kept is a blob that is in the store.
func kept(t *testing.T, s *Store, n int) (ocispec.Descriptor, []byte) {
	t.Helper()
	data := testBytes(n)
	desc := describe(data)
	if err := s.Admit(t.Context(), desc, (&source{data: data}).open, nil); err != nil {
		t.Fatal(err)
	}
	return desc, data
}

// Sizes around those at which a disk is read in pieces.
func TestCheckReadsEveryByte(t *testing.T) {
	drivers(t, func(t *testing.T, s *Store) {
		for _, n := range []int{0, 1, 511, 512, 4095, 4096, 4097, checkBuffer - 1, checkBuffer, checkBuffer + 1, 2*checkBuffer + 4096, 3*checkBuffer - 7} {
			desc, data := kept(t, s, n)
			paced := 0
			pace := func(_ context.Context, k int) error {
				paced += k
				return nil
			}
			if seen, err := s.Check(t.Context(), desc.Digest, pace); err != nil || seen.Size != desc.Size || paced != n {
				t.Errorf("%d bytes: %d seen, %d paced, %v", n, seen.Size, paced, err)
			}
			if n == 0 {
				continue
			}
			for _, at := range []int{0, n / 2, n - 1} { // one bit, at the edges
				bad := bytes.Clone(data)
				bad[at] ^= 0x10
				plant(t, s, blobPath(desc.Digest), bad)
				_, err := s.Check(t.Context(), desc.Digest, nil)
				var damaged *bundle.DamagedError
				if !errors.As(err, &damaged) || !IsDamage(err) || damaged.Digest != digest.FromBytes(bad) {
					t.Errorf("%d bytes, flipped at %d: %v", n, at, err)
				}
			}
			plant(t, s, blobPath(desc.Digest), data[:n-1])
			if _, err := s.Check(t.Context(), desc.Digest, nil); !IsDamage(err) {
				t.Errorf("%d bytes, one is missing: %v", n, err)
			}
		}
		if _, err := s.Check(t.Context(), digest.FromString("absent"), nil); !errors.Is(err, fs.ErrNotExist) || IsDamage(err) {
			t.Errorf("absent: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		desc, _ := kept(t, s, 100)
		if _, err := s.Check(ctx, desc.Digest, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
	})
}

// A damaged blob is found by nobody; the next Admit makes it anew, and a second Quarantine of what was seen before does
// not take the new one away.
func TestQuarantine(t *testing.T) {
	drivers(t, func(t *testing.T, s *Store) {
		desc, data := kept(t, s, 5000)
		bad := bytes.Clone(data)
		bad[77] ^= 1
		plant(t, s, blobPath(desc.Digest), bad)
		seen, err := s.Check(t.Context(), desc.Digest, nil)
		if !IsDamage(err) {
			t.Fatal(err)
		}
		if moved, err := s.Quarantine(t.Context(), desc.Digest, seen); err != nil || !moved {
			t.Fatalf("%v, %v", moved, err)
		}
		mustNotHave(t, s, desc.Digest)
		if err := s.Admit(t.Context(), desc, (&source{data: data}).open, nil); err != nil {
			t.Fatal(err)
		}
		mustHave(t, s, desc.Digest, data)
		if _, ok := s.place.(*files); ok && folder(s) == "" {
			return // memory has no sightings
		}
		if moved, err := s.Quarantine(t.Context(), desc.Digest, seen); err != nil || moved {
			t.Errorf("again: %v, %v", moved, err)
		}
		mustHave(t, s, desc.Digest, data)
		if folder(s) == "" {
			return
		}
		left, err := os.ReadFile(filepath.Join(folder(s), quarantineDir, quarantineName(desc.Digest)))
		if err != nil || !bytes.Equal(left, bad) {
			t.Errorf("in quarantine are %d bytes, %v", len(left), err)
		}
		all, err := s.Quarantined()
		if err != nil || len(all) != 1 || all[0].Digest != desc.Digest || all[0].Size != 5000 {
			t.Errorf("%v, %v", all, err)
		}
		if n, err := s.ClearQuarantine(); n != 5000 || err != nil {
			t.Errorf("cleared %d, %v", n, err)
		}
		if all, err := s.Quarantined(); err != nil || len(all) != 0 {
			t.Errorf("%v, %v", all, err)
		}
	})
}

// damage makes a blob that Check finds damaged.
func damage(t *testing.T, s *Store, n int) (ocispec.Descriptor, []byte, Sighting) {
	t.Helper()
	desc, data := kept(t, s, n)
	bad := bytes.Clone(data)
	bad[0] ^= 1
	plant(t, s, blobPath(desc.Digest), bad)
	seen, err := s.Check(t.Context(), desc.Digest, nil)
	if !IsDamage(err) {
		t.Fatal(err)
	}
	return desc, data, seen
}

// A disk that dies must not fill itself with what nobody can use.
func TestQuarantineIsBounded(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var last digest.Digest
	for i := range maxQuarantined + 5 {
		desc, _, seen := damage(t, s, 100+i)
		if moved, err := s.Quarantine(t.Context(), desc.Digest, seen); err != nil || !moved {
			t.Fatal(moved, err)
		}
		last = desc.Digest
	}
	all, err := s.Quarantined()
	if err != nil || len(all) != maxQuarantined || !containsDigest(all, last) {
		t.Errorf("%d are left, %v", len(all), err)
	}
	// One that is larger than all that may be there: sparse, so that the test's disk does not mind.
	desc, _, _ := damage(t, s, 4000)
	path := filepath.Join(folder(s), filepath.FromSlash(blobPath(desc.Digest)))
	if err := os.Truncate(path, maxQuarantineBytes+1); err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if moved, err := s.Quarantine(t.Context(), desc.Digest, Sighting{file: fi}); err != nil || !moved {
		t.Fatal(moved, err)
	}
	mustNotHave(t, s, desc.Digest)
	if all, err := s.Quarantined(); err != nil || len(all) != 0 {
		t.Errorf("%d are left, %v", len(all), err)
	}
}

func containsDigest(all []Quarantined, d digest.Digest) bool {
	for _, q := range all {
		if q.Digest == d {
			return true
		}
	}
	return false
}

// What is no file is damage, too, and does not keep the blob out.
func TestFolderInPlaceOfABlob(t *testing.T) {
	for _, quarantined := range []bool{true, false} {
		s, err := Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		desc, data := kept(t, s, 3000)
		path := filepath.Join(folder(s), filepath.FromSlash(blobPath(desc.Digest)))
		if err := errors.Join(os.Remove(path), os.MkdirAll(filepath.Join(path, "sub"), 0o755)); err != nil {
			t.Fatal(err)
		}
		seen, err := s.Check(t.Context(), desc.Digest, nil)
		var other *NotFileError
		if !errors.As(err, &other) || !other.Mode.IsDir() || !IsDamage(err) {
			t.Fatal(err)
		}
		if quarantined {
			if moved, err := s.Quarantine(t.Context(), desc.Digest, seen); err != nil || !moved {
				t.Fatal(moved, err)
			}
		}
		if err := s.Admit(t.Context(), desc, (&source{data: data}).open, nil); err != nil {
			t.Fatal(err)
		}
		mustHave(t, s, desc.Digest, data)
	}
}

// smallDisk mounts a tmpfs.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("needs the right to mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// On a disk that became read-only a damaged blob cannot be moved. This process does not give it to anybody all the same,
// until it is there anew.
func TestQuarantineOnReadOnlyDisk(t *testing.T) {
	dir := smallDisk(t, "8m")
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	desc, data, seen := damage(t, s, 6000)
	good, content := kept(t, s, 6001)
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if moved, err := s.Quarantine(t.Context(), desc.Digest, seen); !errors.Is(err, unix.EROFS) || moved {
		t.Errorf("%v, %v", moved, err)
	}
	mustNotHave(t, s, desc.Digest)
	mustHave(t, s, good.Digest, content)
	if err := s.Admit(t.Context(), desc, (&source{data: data}).open, nil); !errors.Is(err, unix.EROFS) {
		t.Errorf("admitted: %v", err)
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT, ""); err != nil {
		t.Fatal(err)
	}
	if err := s.Admit(t.Context(), desc, (&source{data: data}).open, nil); err != nil {
		t.Fatal(err)
	}
	mustHave(t, s, desc.Digest, data)
}

// On a full disk there is no room for a new name: then the damaged blob is deleted, which makes some.
func TestQuarantineOnFullDisk(t *testing.T) {
	dir := smallDisk(t, "1m,nr_inodes=20")
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	desc, data, seen := damage(t, s, 6000)
	for i := 0; ; i++ {
		err := os.Mkdir(filepath.Join(dir, fmt.Sprint("ballast", i)), 0o755)
		if errors.Is(err, unix.ENOSPC) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if moved, err := s.Quarantine(t.Context(), desc.Digest, seen); err != nil || !moved {
		t.Fatal(moved, err)
	}
	mustNotHave(t, s, desc.Digest)
	if err := s.Admit(t.Context(), desc, (&source{data: data}).open, nil); err != nil {
		t.Fatal(err)
	}
	mustHave(t, s, desc.Digest, data)
}

// Check reads the disk, and what robots have in the page cache stays there.
func TestCheckLeavesThePageCacheAlone(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	desc, _ := kept(t, s, 4*checkBuffer)
	path := filepath.Join(folder(s), filepath.FromSlash(blobPath(desc.Digest)))
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if d, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECT, 0); err != nil {
		t.Skipf("no O_DIRECT here: %v", err)
	} else {
		d.Close()
	}
	if _, err := f.ReadAt(make([]byte, 2*checkBuffer), 0); err != nil {
		t.Fatal(err)
	}
	before := resident(t, f, 4*checkBuffer)
	if _, err := s.Check(t.Context(), desc.Digest, nil); err != nil {
		t.Fatal(err)
	}
	if after := resident(t, f, 4*checkBuffer); after != before || before == 0 {
		t.Errorf("%d pages were in memory before, %d after", before, after)
	}
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
	before = resident(t, f, 4*checkBuffer)
	if _, err := s.Check(t.Context(), desc.Digest, nil); err != nil {
		t.Fatal(err)
	}
	if after := resident(t, f, 4*checkBuffer); after > before {
		t.Errorf("the check left %d pages in memory, before were %d", after, before)
	}
}

// resident is how many pages of a file are in memory.
func resident(t *testing.T, f *os.File, size int) (n int) {
	t.Helper()
	m, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(m)
	in := make([]byte, (size+4095)/4096)
	if err := mincore(m, in); err != nil {
		t.Skip(err)
	}
	for _, b := range in {
		n += int(b & 1)
	}
	return n
}

func BenchmarkCheck(b *testing.B) {
	s, err := Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	data := testBytes(64 << 20)
	desc := describe(data)
	if err := s.Admit(b.Context(), desc, (&source{data: data}).open, nil); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(desc.Size)
	for b.Loop() {
		if _, err := s.Check(b.Context(), desc.Digest, nil); err != nil {
			b.Fatal(err)
		}
	}
}

func mincore(m, in []byte) error {
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&m[0])), uintptr(len(m)), uintptr(unsafe.Pointer(&in[0])))
	if errno != 0 {
		return errno
	}
	return nil
}
