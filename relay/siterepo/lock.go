package siterepo

import (
	"context"
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plimsoll/plimsoll/internal/durable"
)

// errLocked says that somebody else holds the lock of a repository.
var errLocked = errors.New("somebody is pushing")

// lockPoll is how often the lock is tried. Only another process makes it wait: pushes of one process are in a queue.
const lockPoll = 20 * time.Millisecond

// locker takes the lock file of a repository. The file is closed to let go; git, which inherits it, holds on until it
// ends, so that a git whose server was killed is not taken for a crash.
type locker func(ctx context.Context, path string) (*os.File, error)

// waitLock waits for the lock. The error is ctx's or that of the file.
func waitLock(ctx context.Context, path string) (*os.File, error) {
	tick := time.NewTicker(lockPoll)
	defer tick.Stop()
	for {
		f, err := tryLock(ctx, path)
		if !errors.Is(err, errLocked) {
			return f, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
	}
}

// tryLock does not wait: errLocked.
func tryLock(_ context.Context, path string) (*os.File, error) {
	f, err := durable.OpenLock(path, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = errLocked
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
