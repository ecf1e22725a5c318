package media

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
)

// Resume opens a blob for one pass from its first byte to its last over a link that breaks: where reading fails and f is
// a RangeOpener, it goes on at that place. When nothing came through for as long as f is Patient, it gives up with
// *GaveUpError. What it reads is not verified.
func Resume(ctx context.Context, f bundle.Fetcher, desc ocispec.Descriptor) (io.ReadCloser, error) {
	rc, err := f.Open(ctx, desc)
	if err != nil {
		return nil, err
	}
	opener, ok := f.(RangeOpener)
	if !ok {
		return rc, nil
	}
	return resumed(ctx, opener, desc, rc, 0), nil
}

// ResumeAt is Resume from an offset in bytes.
func ResumeAt(ctx context.Context, f RangeOpener, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	rc, err := f.OpenAt(ctx, desc, offset)
	if err != nil {
		return nil, err
	}
	return resumed(ctx, f, desc, rc, offset), nil
}

func resumed(ctx context.Context, f RangeOpener, desc ocispec.Descriptor, rc io.ReadCloser, offset int64) io.ReadCloser {
	if r, ok := rc.(*resumeReader); ok {
		return r // a registry's readers are so by themselves
	}
	l := &link{patience: DefaultPatience}
	if p, ok := f.(Patient); ok {
		l.patience = p.Patience()
	}
	l.reached.Store(true) // it was opened
	open := func(ctx context.Context, offset int64) (io.ReadCloser, error) { return f.OpenAt(ctx, desc, offset) }
	return &resumeReader{ctx: ctx, open: open, link: l, size: desc.Size, rc: rc, offset: offset}
}

type resumeReader struct {
	ctx    context.Context
	open   func(ctx context.Context, offset int64) (io.ReadCloser, error)
	link   *link
	size   int64         // of the whole blob
	rc     io.ReadCloser // nil between a break and the next attempt
	offset int64
	wait   *wait // since the last byte; nil while bytes come
	tries  int   // since the last byte
	cause  error // of the last break
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
			r.wait, r.tries = nil, 0
		}
		if errors.Is(err, io.EOF) && r.offset < r.size {
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
	r.tries++
	if r.wait == nil {
		r.wait = &wait{link: r.link, since: time.Now(), pause: firstPause}
	}
}

// reopen leaves rc nil when it may be called again.
func (r *resumeReader) reopen() error {
	if r.tries > 1 { // the first attempt is made at once: most breaks are of the connection, not of the registry
		if err := r.wait.next(r.ctx, r.cause, 0); err != nil {
			return r.brokeOff(err)
		}
	}
	rc, err := r.open(waitingSince(r.ctx, r.wait), r.offset)
	switch {
	case err == nil:
		r.rc = rc
	case final(r.ctx, err):
		return r.brokeOff(err)
	default:
		r.broke(err)
	}
	return nil
}

func (r *resumeReader) brokeOff(err error) error {
	if r.cause == nil {
		return err // it was never open
	}
	return fmt.Errorf("broke off at byte %d of %d: %w", r.offset, r.size, err)
}

func (r *resumeReader) Close() error {
	if r.rc == nil {
		return nil
	}
	return r.rc.Close()
}
