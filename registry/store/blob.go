package store

import (
	"context"
	"fmt"
	"io"
	"io/fs"
)

// Blob is an opened blob. From the filesystem driver its ReadSeekCloser is the *os.File itself: hand that field to
// http.ServeContent, not the Blob, so that the kernel can send the file without copying it through the process. From S3
// it asks for bytes only when it is read, from the offset where it is read, and anew only after a Seek to another one.
type Blob struct {
	io.ReadSeekCloser
	Size int64 // in bytes, as it is in the store
}

// openAt opens a stream that starts at an offset below the blob's size.
type openAt func(ctx context.Context, offset int64) (io.ReadCloser, error)

// reopener makes a stream seekable by opening it again at the new offset, and only when it is read there.
type reopener struct {
	ctx    context.Context // of OpenBlob: io.Reader and io.Seeker have no place for one
	open   openAt
	size   int64
	off    int64 // where the next Read reads
	rc     io.ReadCloser
	at     int64 // where rc stands, if there is one
	closed bool
}

func (r *reopener) Read(p []byte) (int, error) {
	if r.closed {
		return 0, fs.ErrClosed
	}
	if r.off >= r.size {
		return 0, io.EOF // some servers refuse to open at the end
	}
	if r.rc != nil && r.at != r.off {
		if err := r.drop(); err != nil {
			return 0, err
		}
	}
	if r.rc == nil {
		rc, err := r.open(r.ctx, r.off)
		if err != nil {
			return 0, err
		}
		r.rc, r.at = rc, r.off
	}
	n, err := r.rc.Read(p)
	r.off += int64(n)
	r.at = r.off
	return n, err
}

// Seek costs nothing: http.ServeContent seeks to the end and back before it reads.
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
	r.off = offset
	return offset, nil
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
