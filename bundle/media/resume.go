package media

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/plimsoll/plimsoll/bundle"
)

const (
	resumeAttempts = 5                      // without a byte between them
	resumeBackoff  = 200 * time.Millisecond // doubled each time
)

// Resume opens a blob for one pass from its first byte to its last over a link that breaks: where reading fails and f is
// a RangeOpener, it goes on at that place. It gives up after five attempts in a row that bring nothing, with the last
// error. What it reads is not verified.
func Resume(ctx context.Context, f bundle.Fetcher, desc ocispec.Descriptor) (io.ReadCloser, error) {
	rc, err := f.Open(ctx, desc)
	if err != nil {
		return nil, err
	}
	opener, ok := f.(RangeOpener)
	if !ok {
		return rc, nil
	}
	return &resumeReader{ctx: ctx, from: opener, desc: desc, rc: rc}, nil
}

// ResumeAt is Resume from an offset in bytes.
func ResumeAt(ctx context.Context, f RangeOpener, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	rc, err := f.OpenAt(ctx, desc, offset)
	if err != nil {
		return nil, err
	}
	return &resumeReader{ctx: ctx, from: f, desc: desc, rc: rc, offset: offset}, nil
}

type resumeReader struct {
	ctx      context.Context
	from     RangeOpener
	desc     ocispec.Descriptor
	rc       io.ReadCloser // nil between a break and the next attempt
	offset   int64
	attempts int   // since the last byte
	cause    error // of the last break
}

func (r *resumeReader) Read(p []byte) (int, error) {
	for {
		if r.rc == nil {
			if err := r.reopen(); err != nil {
				return 0, err
			}
			if r.rc == nil {
				continue
			}
		}
		n, err := r.rc.Read(p)
		r.offset += int64(n)
		if n > 0 {
			r.attempts = 0
		}
		if errors.Is(err, io.EOF) && r.offset < r.desc.Size {
			err = io.ErrUnexpectedEOF
		}
		switch {
		case err == nil || errors.Is(err, io.EOF):
			return n, err
		case final(r.ctx, err):
			return n, err
		}
		r.broke(errors.Join(err, r.rc.Close()))
		if n > 0 {
			return n, nil
		}
	}
}

func (r *resumeReader) broke(err error) {
	r.rc, r.cause = nil, err
	r.attempts++
}

// reopen leaves rc nil when it may be called again.
func (r *resumeReader) reopen() error {
	if r.attempts > resumeAttempts {
		return fmt.Errorf("broke off at byte %d of %d: %w", r.offset, r.desc.Size, r.cause)
	}
	if r.attempts > 1 { // the first attempt is made at once: most breaks are of the connection, not of the registry
		timer := time.NewTimer(resumeBackoff << (r.attempts - 2))
		defer timer.Stop()
		select {
		case <-r.ctx.Done():
			return r.ctx.Err()
		case <-timer.C:
		}
	}
	rc, err := r.from.OpenAt(r.ctx, r.desc, r.offset)
	switch {
	case err == nil:
		r.rc = rc
	case final(r.ctx, err):
		return err
	default:
		r.broke(err)
	}
	return nil
}

func (r *resumeReader) Close() error {
	if r.rc == nil {
		return nil
	}
	return r.rc.Close()
}

// final reports whether trying again is in vain: the bytes are missing or wrong, the registry refuses, or nobody waits.
func final(ctx context.Context, err error) bool {
	var damaged *bundle.DamagedError
	var refused *errcode.ErrorResponse
	if errors.As(err, &refused) {
		return refused.StatusCode < http.StatusInternalServerError &&
			refused.StatusCode != http.StatusRequestTimeout && refused.StatusCode != http.StatusTooManyRequests
	}
	return ctx.Err() != nil || errors.As(err, &damaged) || errors.Is(err, fs.ErrNotExist)
}
