package media

import (
	"errors"
	"fmt"
	"io"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// feed gives an upload the bytes of a blob from wherever the registry wants them. What is read for the first time is
// verified, so that the last bytes of a damaged blob never come out; what is read again is the registry's to compare.
// It is not safe for concurrent use.
type feed struct {
	open  func(offset int64) (io.ReadCloser, error) // the first call is from 0
	desc  ocispec.Descriptor
	first *VerifyReader // the first pass; it is at first.n
	rc    io.Closer     // of the first pass
	again io.ReadCloser // a pass over what was read before; nil when pos is first.n
	pos   int64
	err   error // of the source
}

// seek goes to an offset that the registry names.
func (f *feed) seek(offset int64) error {
	if f.first == nil {
		rc, err := f.open(0)
		if err != nil {
			return f.failed(err)
		}
		f.rc, f.first = rc, NewVerifyReader(rc, f.desc)
	}
	if offset < 0 || offset > f.first.n {
		return f.failed(fmt.Errorf("seek to byte %d, %d were read", offset, f.first.n))
	}
	if offset == f.pos {
		return nil
	}
	if err := f.leave(); err != nil {
		return err
	}
	f.pos = offset
	if offset == f.first.n {
		return nil
	}
	rc, err := f.open(offset)
	if err != nil {
		return f.failed(err)
	}
	f.again = rc
	return nil
}

// leave ends a pass over what was read before.
func (f *feed) leave() error {
	if f.again == nil {
		return nil
	}
	rc := f.again
	f.again = nil
	return f.failed(rc.Close())
}

func (f *feed) failed(err error) error {
	if err != nil && f.err == nil {
		f.err = err
	}
	return err
}

// read is how far the blob was read.
func (f *feed) read() int64 {
	if f.first == nil {
		return 0
	}
	return f.first.n
}

// Read ends with io.EOF at the end of the blob.
func (f *feed) Read(p []byte) (int, error) {
	if f.err != nil {
		return 0, f.err
	}
	if f.again == nil {
		n, err := f.first.Read(p)
		f.pos += int64(n)
		if err != nil && !errors.Is(err, io.EOF) {
			return n, f.failed(err)
		}
		return n, err
	}
	n, err := f.again.Read(p[:min(int64(len(p)), f.first.n-f.pos)])
	f.pos += int64(n)
	switch {
	case f.pos == f.first.n:
		err = f.leave()
	case errors.Is(err, io.EOF):
		err = f.failed(fmt.Errorf("reading again at byte %d: %w", f.pos, io.ErrUnexpectedEOF))
	case err != nil:
		err = f.failed(err)
	}
	return n, err
}

// Close ends all passes.
func (f *feed) Close() error {
	err := f.leave()
	if f.rc != nil {
		err = errors.Join(err, f.rc.Close())
	}
	return err
}
