package store

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
)

// copyBuffer is the memory that one Admit copies with, in bytes. On a disk it holds no more of a blob; in S3 one chunk.
const copyBuffer = 256 << 10

// cleanUpTime bounds what an Admit that fails still does, where the store is at the other end of a network.
const cleanUpTime = 30 * time.Second

// maxEmptyReads is how often a source may give nothing without an error before it is taken to be stuck.
const maxEmptyReads = 100

// ErrNoRange is what an OpenFrom returns (wrapped or not) when it cannot start in the middle of the blob.
var ErrNoRange = errors.New("the source cannot start in the middle of a blob")

// OpenFrom opens the source of a blob at an offset in bytes. The offset is above 0 only when an unfinished Admit is
// continued; ErrNoRange then makes Admit ask again, for offset 0.
type OpenFrom func(offset int64) (io.ReadCloser, error)

// Admit brings a blob into the store: it copies from the source while it hashes, compares size and digest, and only then
// makes the blob visible, durably. It is the only way in.
//
// A blob that is already there with the right size is not opened again. An unfinished Admit of the same digest, also of a
// process that was killed, is continued: the bytes that it left are hashed again and only the rest is asked for. At most
// desc.Size+1 bytes are read from one opened source.
//
// Bytes that do not match give *bundle.DamagedError, and nothing is kept of them. Any other error (the source broke off,
// the disk or the bucket is full: errors.Is(err, syscall.ENOSPC); S3 did not do it: *S3Error) keeps what came so far for
// the next try. Admits of one digest at the same time wait for each other, across goroutines and, with the filesystem
// driver, across processes.
//
// progress, if not nil, is called from the calling goroutine with the number of bytes that have come into place since the
// last call, whether copied, hashed again or there already. It is negative when bytes turn out to be unusable. The calls
// add up to desc.Size when Admit succeeds and to 0 when it fails, so that a caller who tries again counts no byte twice.
func (s *Store) Admit(ctx context.Context, desc ocispec.Descriptor, open OpenFrom, progress func(n int64)) error {
	if err := checkDigest(desc.Digest); err != nil {
		return fmt.Errorf("admit blob: %w", err)
	}
	if desc.Size < 0 {
		return fmt.Errorf("admit blob %s: size %d", desc.Digest, desc.Size)
	}
	if progress == nil {
		progress = func(int64) {}
	}
	if has, err := s.has(ctx, desc); has || err != nil {
		if err == nil {
			err = s.place.settle(desc.Digest)
		}
		if err != nil {
			return fmt.Errorf("admit blob %s: %w", desc.Digest, err)
		}
		progress(desc.Size)
		return nil
	}
	unlock, err := s.lock(ctx, desc.Digest)
	if err != nil {
		return fmt.Errorf("admit blob %s: %w", desc.Digest, err)
	}
	defer unlock()
	a := &admission{store: s, desc: desc, open: open, progress: progress}
	err = a.run(ctx)
	if err == nil {
		return nil
	}
	a.setHave(0)
	var damaged *bundle.DamagedError
	if errors.As(err, &damaged) {
		return err
	}
	return fmt.Errorf("admit blob %s: %w", desc.Digest, err)
}

func (s *Store) has(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	size, err := s.place.stat(ctx, desc.Digest)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && size == desc.Size, err
}

// errOvertaken is the error of an ingest whose remains another process has taken away: ended, or made a blob of.
var errOvertaken = errors.New("another process has ended the upload")

// admission is one Admit that holds the lock of its digest.
type admission struct {
	store    *Store
	desc     ocispec.Descriptor
	open     OpenFrom
	progress func(int64)
	ingest   ingest
	buf      []byte
	hash     hash.Hash
	have     int64 // bytes hashed and in the unfinished copy
	whole    bool  // the source is read from its first byte: no byte is from an earlier Admit
}

func (a *admission) run(ctx context.Context) error {
	s, d := a.store, a.desc.Digest
	has, err := s.has(ctx, a.desc) // by whoever had the lock before
	if err != nil {
		return err
	}
	if has {
		a.setHave(a.desc.Size)
		return errors.Join(s.place.settle(d), s.place.discard(ctx, d))
	}
	if a.ingest, err = s.place.ingest(ctx, a.desc); err != nil {
		return err
	}
	defer a.ingest.close()
	a.buf = make([]byte, min(copyBuffer, a.desc.Size+1))
	if err := a.resume(ctx); err != nil {
		return err
	}
	err = a.fill(ctx)
	var damaged *bundle.DamagedError
	var write *writeError
	switch {
	case errors.Is(err, errOvertaken), errors.As(err, &write):
		// Where no lock keeps other processes away, the reason may be that one of them has made the blob meanwhile.
		if has, statErr := s.has(ctx, a.desc); has && statErr == nil {
			a.setHave(a.desc.Size)
			return s.place.discard(ctx, d)
		}
		if !errors.Is(err, errOvertaken) {
			return err
		}
	case !a.whole && errors.As(err, &damaged):
		// A power cut can leave an unfinished file of the right length with wrong bytes. The source must not be
		// called damaged for that: only bytes that it gave from the first to the last one count against it.
	default:
		return err
	}
	a.reset()
	return a.fill(ctx)
}

func (a *admission) reset() {
	a.setHave(0)
	a.hash = a.desc.Digest.Algorithm().Hash()
}

func (a *admission) setHave(n int64) {
	if n != a.have {
		a.progress(n - a.have)
	}
	a.have = n
}

// resume hashes what an earlier Admit left.
func (a *admission) resume(ctx context.Context) error {
	a.hash = a.desc.Digest.Algorithm().Hash()
	usable, err := a.ingest.resume(ctx, a.hash, func(n int64) { a.setHave(a.have + n) })
	if err != nil {
		return err
	}
	if !usable {
		a.reset()
	}
	return nil
}

// fill completes the unfinished copy, compares it with the descriptor and makes it visible.
func (a *admission) fill(ctx context.Context) error {
	var src io.ReadCloser
	if a.have < a.desc.Size {
		var err error
		if src, err = a.openSource(); err != nil {
			return fmt.Errorf("open source: %w", err)
		}
		// The bytes are judged by their digest, so that nothing the source says when it is closed can matter.
		defer src.Close()
	}
	a.whole = a.have == 0
	if err := a.ingest.begin(ctx, a.hash, a.have); err != nil {
		return err
	}
	if src != nil {
		if err := a.copy(ctx, src); err != nil {
			return a.giveUp(ctx, err)
		}
	}
	if got := digest.NewDigest(a.desc.Digest.Algorithm(), a.hash); got != a.desc.Digest {
		return a.giveUp(ctx, &bundle.DamagedError{Descriptor: a.desc, Digest: got, Size: a.have})
	}
	return a.ingest.commit(ctx)
}

func (a *admission) openSource() (io.ReadCloser, error) {
	src, err := a.open(a.have)
	if a.have > 0 && errors.Is(err, ErrNoRange) {
		a.reset()
		src, err = a.open(0)
	}
	return src, err
}

// giveUp ends a copy that cannot be finished: damaged bytes are removed, all others are kept for the next try.
func (a *admission) giveUp(ctx context.Context, reason error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTime) // a cancelled Admit must clean up too
	defer cancel()
	var damaged *bundle.DamagedError
	if errors.As(reason, &damaged) && a.whole {
		return errors.Join(reason, a.ingest.drop(ctx))
	}
	// Otherwise damaged bytes stay until run fills the file again: removing it here would let another process make and
	// lock a new one under the same name while this one goes on writing to it.
	var write *writeError
	if err := a.ingest.keep(ctx, errors.As(reason, &write)); err != nil {
		return errors.Join(reason, err)
	}
	return reason
}

// writeError is an error of the store's own disk rather than of the source.
type writeError struct{ err error }

func (e *writeError) Error() string { return e.err.Error() }
func (e *writeError) Unwrap() error { return e.err }

// copy moves the rest of the blob and stops one byte after the declared size.
func (a *admission) copy(ctx context.Context, src io.Reader) error {
	empty := 0
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, readErr := src.Read(a.buf[:min(int64(len(a.buf)), a.ingest.room(), a.desc.Size+1-a.have)])
		if a.have+int64(n) > a.desc.Size {
			return &bundle.DamagedError{Descriptor: a.desc, Size: a.have + int64(n)}
		}
		if n > 0 {
			empty = 0
			a.hash.Write(a.buf[:n])
			if err := a.ingest.write(ctx, a.buf[:n]); err != nil {
				return &writeError{err}
			}
			a.setHave(a.have + int64(n))
		} else if empty++; empty > maxEmptyReads {
			return fmt.Errorf("source at byte %d: %w", a.have, io.ErrNoProgress)
		}
		if errors.Is(readErr, io.EOF) {
			break
		}
		if readErr != nil {
			return fmt.Errorf("source at byte %d: %w", a.have, readErr)
		}
	}
	if a.have != a.desc.Size {
		return &bundle.DamagedError{Descriptor: a.desc, Size: a.have}
	}
	return nil
}
