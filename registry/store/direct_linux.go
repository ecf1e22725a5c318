package store

import (
	"context"
	"errors"
	"hash"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// readAgain reads a file with O_DIRECT: the bytes come from the disk, and the page cache neither gives them nor keeps
// them. Where that is not possible (tmpfs, some network file systems) the cache is told to forget them before and after.
func (f *files) readAgain(ctx context.Context, d digest.Digest, h hash.Hash, pace Pace) (Sighting, error) {
	path := f.blobFile(d)
	// The name may be a pipe's or a device's, which would block an open, or worse.
	if fi, err := os.Stat(path); err != nil {
		return Sighting{}, err
	} else if !fi.Mode().IsRegular() {
		return Sighting{Size: fi.Size(), file: fi}, &NotFileError{Path: path, Mode: fi.Mode()}
	}
	direct := true
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECT, 0)
	if errors.Is(err, unix.EINVAL) {
		direct = false
		file, err = os.Open(path)
	}
	if err != nil {
		return Sighting{}, err
	}
	defer file.Close() //nolint:errcheck // only read from
	fi, err := file.Stat()
	if err != nil {
		return Sighting{}, err
	}
	seen := Sighting{Size: fi.Size(), file: fi}
	if seen.Size == 0 {
		return seen, nil
	}
	// Pages of the process's own are aligned as O_DIRECT wants it.
	buf, err := unix.Mmap(-1, 0, checkBuffer, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return seen, err
	}
	defer unix.Munmap(buf) //nolint:errcheck // of what was mapped
	r := &directReader{file: file, direct: direct, size: seen.Size}
	if !direct {
		r.forget(0, 0)
	}
	for r.at < seen.Size {
		if err := pace(ctx, int(min(seen.Size-r.at, checkBuffer))); err != nil {
			return seen, err
		}
		n, err := r.read(buf)
		h.Write(buf[:n])
		if errors.Is(err, io.EOF) {
			break // the digest says that something is missing
		}
		if err != nil {
			return seen, err
		}
	}
	return seen, nil
}

// directReader reads from the disk. It gives no more bytes than the file had when it was opened: to ask behind an end that
// is not aligned is an error on some file systems.
type directReader struct {
	file   *os.File
	direct bool
	size   int64
	at     int64
}

func (r *directReader) read(buf []byte) (int, error) {
	n, err := r.file.ReadAt(buf[:min(int64(len(buf)), roundUp(r.size-r.at))], r.at)
	if r.direct && n == 0 && errors.Is(err, unix.EINVAL) {
		flags, ferr := unix.FcntlInt(r.file.Fd(), unix.F_GETFL, 0)
		if ferr == nil {
			_, ferr = unix.FcntlInt(r.file.Fd(), unix.F_SETFL, flags&^unix.O_DIRECT)
		}
		if ferr != nil {
			return 0, ferr
		}
		r.direct = false
		r.forget(r.at, 0)
		return r.read(buf)
	}
	n = int(min(int64(n), r.size-r.at))
	if !r.direct {
		r.forget(r.at, int64(n))
	}
	r.at += int64(n)
	if n > 0 && errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

// roundUp gives the next whole sector: O_DIRECT reads nothing smaller.
func roundUp(n int64) int64 { return (n + 4095) &^ 4095 }

func (r *directReader) forget(offset, n int64) {
	// It is advice: a cache that does not take it costs others some of theirs and nothing else.
	_ = unix.Fadvise(int(r.file.Fd()), offset, n, unix.FADV_DONTNEED)
}

// changed is when a file's name, links or content changed last; a rename counts.
func changed(fi fs.FileInfo) time.Time {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return time.Time{}
	}
	return time.Unix(st.Ctim.Unix())
}
