package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	storagedriver "github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/opencontainers/go-digest"
)

// Blob is an opened blob. From the filesystem driver its ReadSeekCloser is the *os.File itself: hand that field to
// http.ServeContent, not the Blob, so that the kernel can send the file without copying it through the process.
type Blob struct {
	io.ReadSeekCloser
	Size int64 // in bytes, as it is on the disk
}

// OpenBlob opens an admitted blob at its first byte. It fails with an error for which errors.Is(err, fs.ErrNotExist)
// holds when there is none.
func (s *Store) OpenBlob(ctx context.Context, d digest.Digest) (*Blob, error) {
	if err := checkDigest(d); err != nil {
		return nil, err
	}
	p := blobPath(d)
	rc, err := s.driver.Reader(ctx, p, 0)
	if err != nil {
		return nil, fmt.Errorf("open blob %s: %w", d, cause(err))
	}
	if file, ok := rc.(*os.File); ok {
		fi, err := file.Stat()
		if err != nil {
			return nil, errors.Join(fmt.Errorf("open blob %s: %w", d, err), file.Close())
		}
		return &Blob{ReadSeekCloser: file, Size: fi.Size()}, nil
	}
	size, err := s.stat(ctx, p)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open blob %s: %w", d, err), rc.Close())
	}
	return &Blob{ReadSeekCloser: &reopener{ctx: ctx, driver: s.driver, path: p, size: size, rc: rc}, Size: size}, nil
}

// reopener makes a driver's stream seekable by opening it again at the new offset, and only when it is read there.
type reopener struct {
	ctx    context.Context // of OpenBlob: io.Reader and io.Seeker have no place for one
	driver storagedriver.StorageDriver
	path   string
	size   int64
	off    int64
	rc     io.ReadCloser // open at off, or nil
	closed bool
}

func (r *reopener) Read(p []byte) (int, error) {
	if r.closed {
		return 0, fs.ErrClosed
	}
	if r.off >= r.size {
		return 0, io.EOF // some drivers refuse to open at the end
	}
	if r.rc == nil {
		rc, err := r.driver.Reader(r.ctx, r.path, r.off)
		if err != nil {
			return 0, cause(err)
		}
		r.rc = rc
	}
	n, err := r.rc.Read(p)
	r.off += int64(n)
	return n, err
}

func (r *reopener) Seek(offset int64, whence int) (int64, error) {
	if r.closed {
		return 0, fs.ErrClosed
	}
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		offset += r.off
	case io.SeekEnd:
		offset += r.size
	default:
		return 0, fmt.Errorf("seek: whence %d: %w", whence, fs.ErrInvalid)
	}
	if offset < 0 {
		return 0, fmt.Errorf("seek: offset %d: %w", offset, fs.ErrInvalid)
	}
	if offset == r.off {
		return offset, nil
	}
	r.off = offset
	return offset, r.drop()
}

func (r *reopener) Close() error {
	if r.closed {
		return fs.ErrClosed
	}
	r.closed = true
	return r.drop()
}

func (r *reopener) drop() error {
	if r.rc == nil {
		return nil
	}
	rc := r.rc
	r.rc = nil
	return rc.Close()
}
