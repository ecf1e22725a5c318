package durable

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// A lock is tried again soon, because most are held for milliseconds, then less and less often: who waits for an import
// waits for minutes. Doubling keeps the wait below twice the time that the lock was held.
const (
	firstLockPoll = 2 * time.Millisecond
	lastLockPoll  = 50 * time.Millisecond
)

// OpenLock opens a file to be locked, and makes it if need be. On a disk that became read-only it opens what is there: to
// lock a file it need not be written, and who only reads must be able to start from such a disk.
func OpenLock(path string, perm os.FileMode) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, perm)
	if errors.Is(err, syscall.EROFS) {
		if f, readErr := os.Open(path); readErr == nil {
			return f, nil
		}
	}
	return f, err
}

// Lock waits until nobody else holds the exclusive lock of an open file, and takes it. Closing the file lets go of it, as
// the death of the process does. If waiting is not nil it is called once, when somebody else holds the lock. The error
// names the file; it wraps ctx's when the wait was given up. The file stays open.
func Lock(ctx context.Context, f *os.File, waiting func()) error {
	var timer *time.Timer
	for poll := firstLockPoll; ; poll = min(2*poll, lastLockPoll) {
		locked, err := TryLock(f)
		if locked || err != nil {
			return err
		}
		if timer == nil {
			if waiting != nil {
				waiting()
			}
			timer = time.NewTimer(poll)
			defer timer.Stop()
		} else {
			timer.Reset(poll)
		}
		// flock(2) itself cannot be cancelled.
		select {
		case <-ctx.Done():
			return lockError(f, fmt.Errorf("somebody else holds it: %w", ctx.Err()))
		case <-timer.C:
		}
	}
}

// TryLock takes the exclusive lock of an open file unless somebody else holds it.
func TryLock(f *os.File) (locked bool, err error) {
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return true, nil
		case errors.Is(err, syscall.EWOULDBLOCK):
			return false, nil
		case !errors.Is(err, syscall.EINTR):
			return false, lockError(f, err)
		}
	}
}

func lockError(f *os.File, err error) error {
	return &os.PathError{Op: "lock", Path: f.Name(), Err: err}
}
