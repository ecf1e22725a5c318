//go:build unix

package store

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/plimsoll/plimsoll/internal/durable"
)

// lock makes the caller the only one who admits d, until it calls unlock.
func (s *Store) lock(ctx context.Context, d digest.Digest) (unlock func(), err error) {
	release, err := s.busy.lock(ctx, d)
	if err != nil {
		return nil, err
	}
	free, err := s.place.lock(ctx, d)
	if err != nil {
		release()
		return nil, err
	}
	return func() {
		free()
		release()
	}, nil
}

func (f *files) lock(ctx context.Context, d digest.Digest) (unlock func(), err error) {
	if f.dir == "" {
		return func() {}, nil
	}
	file, err := lockFile(ctx, filepath.Join(f.dir, filepath.FromSlash(ingestPath(d))))
	if err != nil {
		return nil, err
	}
	return func() { _ = file.Close() }, nil // gives the lock back, whatever it returns; nothing was written through it
}

// lockFile takes the flock(2) of the file at path and makes the file if need be. The lock belongs to the file and not to
// the name: when the holder has meanwhile renamed or removed the file, the next one locks whatever has the name now.
func lockFile(ctx context.Context, path string) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			return nil, err
		}
		if err := durable.Lock(ctx, f, nil); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		mine, err := f.Stat()
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		named, err := os.Stat(path)
		if err == nil && os.SameFile(mine, named) {
			return f, nil
		}
		if err := errors.Join(ignoreNotExist(err), f.Close()); err != nil {
			return nil, err
		}
	}
}

func ignoreNotExist(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// keyLocks are mutexes by digest whose waiting can be cancelled. The zero value works.
type keyLocks struct {
	mu   sync.Mutex
	held map[digest.Digest]*keyLock
}

type keyLock struct {
	token chan struct{} // holds one element while it is locked
	users int           // holder and waiting ones
}

func (k *keyLocks) lock(ctx context.Context, d digest.Digest) (unlock func(), err error) {
	k.mu.Lock()
	if k.held == nil {
		k.held = make(map[digest.Digest]*keyLock)
	}
	l := k.held[d]
	if l == nil {
		l = &keyLock{token: make(chan struct{}, 1)}
		k.held[d] = l
	}
	l.users++
	k.mu.Unlock()
	select {
	case l.token <- struct{}{}:
		return func() {
			<-l.token
			k.leave(d, l)
		}, nil
	case <-ctx.Done():
		k.leave(d, l)
		return nil, ctx.Err()
	}
}

// leave forgets a lock that nobody uses, so that the map does not grow with every digest ever admitted.
func (k *keyLocks) leave(d digest.Digest, l *keyLock) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if l.users--; l.users == 0 {
		delete(k.held, d)
	}
}
