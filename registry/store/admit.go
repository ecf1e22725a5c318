package store

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"path/filepath"

	storagedriver "github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/durable"
)

// copyBuffer is all the memory that one Admit holds of a blob, in bytes.
const copyBuffer = 256 << 10

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
// the disk is full: errors.Is(err, syscall.ENOSPC)) keeps what came so far for the next try. Admits of one digest at the
// same time wait for each other, across goroutines and, with the filesystem driver, across processes.
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
	if s.has(ctx, desc) {
		if err := s.settle(desc.Digest); err != nil {
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

func (s *Store) has(ctx context.Context, desc ocispec.Descriptor) bool {
	size, err := s.stat(ctx, blobPath(desc.Digest))
	return err == nil && size == desc.Size
}

// admission is one Admit that holds the lock of its digest.
type admission struct {
	store    *Store
	desc     ocispec.Descriptor
	open     OpenFrom
	progress func(int64)
	buf      []byte
	hash     hash.Hash
	have     int64 // bytes hashed and in the unfinished file
	whole    bool  // the source is read from its first byte: no byte is from an earlier Admit
}

func (a *admission) run(ctx context.Context) error {
	s, d := a.store, a.desc.Digest
	if s.has(ctx, a.desc) { // by whoever had the lock before
		a.setHave(a.desc.Size)
		return errors.Join(s.settle(d), s.discard(ctx, d))
	}
	a.buf = make([]byte, min(copyBuffer, a.desc.Size+1))
	if err := a.resume(ctx); err != nil {
		return err
	}
	err := a.fill(ctx)
	var damaged *bundle.DamagedError
	if !a.whole && errors.As(err, &damaged) {
		// A power cut can leave an unfinished file of the right length with wrong bytes. The source must not be
		// called damaged for that: only bytes that it gave from the first to the last one count against it.
		a.reset()
		err = a.fill(ctx)
	}
	if err != nil {
		return err
	}
	return s.publish(ctx, d)
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
	left := a.store.Partial(ctx, a.desc.Digest)
	if left == 0 || left > a.desc.Size {
		return nil
	}
	rc, err := a.store.driver.Reader(ctx, ingestPath(a.desc.Digest), 0)
	if err != nil {
		return cause(err)
	}
	for a.have < left && err == nil {
		if err = ctx.Err(); err != nil {
			break
		}
		var n int
		n, err = rc.Read(a.buf[:min(int64(len(a.buf)), left-a.have)])
		a.hash.Write(a.buf[:n])
		a.setHave(a.have + int64(n))
	}
	closeErr := rc.Close()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if a.have < left || closeErr != nil {
		a.reset() // a disk that cannot read it back will not serve it either
	}
	return nil
}

// fill completes the unfinished file, compares it with the descriptor and syncs it.
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
	w, err := a.store.driver.Writer(ctx, ingestPath(a.desc.Digest), !a.whole)
	if err != nil {
		return cause(err)
	}
	if src != nil {
		if err := a.copy(ctx, w, src); err != nil {
			return a.giveUp(ctx, w, err)
		}
	}
	if got := digest.NewDigest(a.desc.Digest.Algorithm(), a.hash); got != a.desc.Digest {
		return a.giveUp(ctx, w, &bundle.DamagedError{Descriptor: a.desc, Digest: got, Size: a.have})
	}
	if err := w.Commit(ctx); err != nil {
		// After a failed sync the kernel takes the lost pages for clean: the file must not be trusted again.
		return errors.Join(cause(err), cause(w.Cancel(ctx)))
	}
	return cause(w.Close())
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
func (a *admission) giveUp(ctx context.Context, w storagedriver.FileWriter, reason error) error {
	ctx = context.WithoutCancel(ctx) // a cancelled Admit must clean up too
	var damaged *bundle.DamagedError
	if errors.As(reason, &damaged) && a.whole {
		return errors.Join(reason, cause(w.Cancel(ctx)))
	}
	// Otherwise damaged bytes stay until run fills the file again: removing it here would let another process make and
	// lock a new one under the same name while this one goes on writing to it.
	var write *writeError
	if err := w.Close(); err != nil && !errors.As(reason, &write) {
		// The sync failed; see fill. (After a failed write Close only repeats its error and has not synced.)
		return errors.Join(reason, cause(err), a.store.discard(ctx, a.desc.Digest))
	}
	return reason
}

// writeError is an error of the store's own disk rather than of the source.
type writeError struct{ err error }

func (e *writeError) Error() string { return e.err.Error() }
func (e *writeError) Unwrap() error { return e.err }

// copy moves the rest of the blob and stops one byte after the declared size.
func (a *admission) copy(ctx context.Context, w io.Writer, src io.Reader) error {
	empty := 0
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, readErr := src.Read(a.buf[:min(int64(len(a.buf)), a.desc.Size+1-a.have)])
		if a.have+int64(n) > a.desc.Size {
			return &bundle.DamagedError{Descriptor: a.desc, Size: a.have + int64(n)}
		}
		if n > 0 {
			empty = 0
			if _, err := w.Write(a.buf[:n]); err != nil {
				return &writeError{cause(err)}
			}
			a.hash.Write(a.buf[:n])
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

// publish renames a synced, verified file to its place and makes the rename durable.
func (s *Store) publish(ctx context.Context, d digest.Digest) error {
	if err := s.settle(d); err != nil {
		return err
	}
	if err := s.driver.Move(ctx, ingestPath(d), blobPath(d)); err != nil {
		return cause(err)
	}
	if s.dir == "" {
		return nil
	}
	if err := s.syncDir(s.shard(d)); err != nil {
		// The blob has its name but may lose it again: the next Admit, which finds it, must not trust the folder.
		s.shards.Delete(s.shard(d))
		return err
	}
	return nil
}

func (s *Store) shard(d digest.Digest) string {
	return filepath.Dir(filepath.Join(s.dir, filepath.FromSlash(blobPath(d))))
}

// settle makes the folder of a blob durable, with the names in it, once per process. That the folder or the blob is there
// proves nothing: a process that was killed between making it and syncing its folder leaves it to the next power cut.
func (s *Store) settle(d digest.Digest) error {
	if s.dir == "" {
		return nil
	}
	shard := s.shard(d)
	if _, known := s.shards.Load(shard); known {
		return nil
	}
	if err := durable.MkdirAll(shard, 0o755); err != nil {
		return err
	}
	for _, dir := range []string{filepath.Dir(shard), shard} {
		if err := s.syncDir(dir); err != nil {
			return err
		}
	}
	s.shards.Store(shard, struct{}{})
	return nil
}

// discard removes an unfinished file, if there is one.
func (s *Store) discard(ctx context.Context, d digest.Digest) error {
	err := cause(s.driver.Delete(ctx, ingestPath(d)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
