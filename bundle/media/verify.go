package media

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
)

// copyBuffer is all that is held in memory of a blob under way, in bytes.
const copyBuffer = 256 << 10

// VerifyReader checks a blob while it is read. It gives the last bytes only after size and digest matched, so that who
// copies from it, the body of an upload for example, never completes a damaged blob.
type VerifyReader struct {
	r    io.Reader
	desc ocispec.Descriptor
	hash hash.Hash
	n    int64 // bytes read so far
	err  error // what every further Read returns
}

// NewVerifyReader reads desc from r. desc must have passed bundle.CheckDescriptor.
func NewVerifyReader(r io.Reader, desc ocispec.Descriptor) *VerifyReader {
	return &VerifyReader{r: r, desc: desc, hash: desc.Digest.Algorithm().Hash()}
}

// Read fails with *bundle.DamagedError when the blob is shorter, longer or another one.
func (v *VerifyReader) Read(p []byte) (int, error) {
	if v.err != nil || len(p) == 0 {
		return 0, v.err
	}
	left := v.desc.Size - v.n
	if left == 0 { // only an empty blob comes here
		v.err = v.finish()
		return 0, v.err
	}
	n, err := v.r.Read(p[:min(int64(len(p)), left)])
	v.hash.Write(p[:n])
	v.n += int64(n)
	switch {
	case v.n == v.desc.Size:
		// An error beside the last bytes does not matter: they are checked.
		if v.err = v.finish(); !errors.Is(v.err, io.EOF) {
			return 0, v.err
		}
		return n, nil
	case errors.Is(err, io.EOF):
		v.err = &bundle.DamagedError{Descriptor: v.desc, Size: v.n}
		return n, v.err
	}
	v.err = err
	return n, err
}

// Err is the error that ended the reading, nil while it goes on and after a good end.
func (v *VerifyReader) Err() error {
	if errors.Is(v.err, io.EOF) {
		return nil
	}
	return v.err
}

// maxEmptyReads is how often a reader may give nothing without an error before it is taken to be stuck.
const maxEmptyReads = 100

// finish gives io.EOF when everything is as it should be.
func (v *VerifyReader) finish() error {
	var more [1]byte
	for range maxEmptyReads {
		n, err := v.r.Read(more[:])
		if n > 0 {
			return &bundle.DamagedError{Descriptor: v.desc, Size: v.n + 1}
		}
		if err == nil {
			continue
		}
		// A connection that breaks behind the last byte has done its duty.
		if got := digest.NewDigest(v.desc.Digest.Algorithm(), v.hash); got != v.desc.Digest {
			return &bundle.DamagedError{Descriptor: v.desc, Digest: got, Size: v.n}
		}
		return io.EOF
	}
	return io.ErrNoProgress
}

// CopyBlob copies desc from r to w with a fixed buffer and fails with *bundle.DamagedError when it is shorter, longer or
// another blob; part of it may have been written then.
func CopyBlob(ctx context.Context, w io.Writer, r io.Reader, desc ocispec.Descriptor) error {
	if err := bundle.CheckDescriptor(desc); err != nil {
		return err
	}
	buf := make([]byte, min(copyBuffer, desc.Size+1))
	// A writer's own ReadFrom would bring a buffer of its own.
	n, err := io.CopyBuffer(struct{ io.Writer }{w}, &contextReader{ctx, NewVerifyReader(r, desc)}, buf)
	if err == nil && n != desc.Size {
		err = io.ErrShortWrite
	}
	return err
}

type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// putError says where a Put failed. The error of a damaged blob names the blob itself.
func putError(place string, desc ocispec.Descriptor, err error) error {
	var damaged *bundle.DamagedError
	if errors.As(err, &damaged) {
		return fmt.Errorf("%s: %w", place, err)
	}
	return fmt.Errorf("%s: put blob %s: %w", place, desc.Digest, err)
}
