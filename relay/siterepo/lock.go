package siterepo

import (
	"context"
	"errors"
	"os"

	"github.com/plimsoll/plimsoll/internal/durable"
)

// errLocked says that somebody else holds the lock of a repository.
var errLocked = errors.New("somebody is pushing")

// locker takes the lock file of a repository. The file is closed to let go; git, which inherits it, holds on until it
// ends, so that a git whose server was killed is not taken for a crash.
type locker func(ctx context.Context, path string) (*os.File, error)

// waitLock waits for the lock, which only another process makes it do: pushes of one process are in a queue. The error is
// ctx's or that of the file.
func waitLock(ctx context.Context, path string) (*os.File, error) {
	return withLock(path, func(f *os.File) error { return durable.Lock(ctx, f, nil) })
}

// tryLock does not wait: errLocked.
func tryLock(_ context.Context, path string) (*os.File, error) {
	return withLock(path, func(f *os.File) error {
		locked, err := durable.TryLock(f)
		if err == nil && !locked {
			return errLocked
		}
		return err
	})
}

func withLock(path string, lock func(*os.File) error) (*os.File, error) {
	f, err := durable.OpenLock(path, 0o644)
	if err != nil {
		return nil, err
	}
	if err := lock(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
