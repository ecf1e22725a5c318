package durable

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// lockFile gives a file by which a lock is held and another, as another process would have it.
func lockFile(t *testing.T) (held, other *os.File) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "apply.lock")
	var files [2]*os.File
	for i := range files {
		f, err := OpenLock(path, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		files[i] = f
	}
	if err := Lock(t.Context(), files[0], func() { t.Error("waits for a lock that nobody holds") }); err != nil {
		t.Fatal(err)
	}
	return files[0], files[1]
}

func TestLockWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		held, other := lockFile(t)
		const life = time.Minute
		start, told := time.Now(), 0
		time.AfterFunc(life, func() { _ = held.Close() })
		if err := Lock(t.Context(), other, func() { told++ }); err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(start); waited < life || waited > life+lastLockPoll {
			t.Errorf("waited %v for a lock that was held for %v", waited, life)
		}
		if told != 1 {
			t.Errorf("told %d times that it waits", told)
		}
	})
}

// A lock that is held for milliseconds costs no more than that.
func TestLockIsTriedSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		held, other := lockFile(t)
		const life = 5 * time.Millisecond
		start := time.Now()
		time.AfterFunc(life, func() { _ = held.Close() })
		if err := Lock(t.Context(), other, nil); err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(start); waited > 2*life+firstLockPoll {
			t.Errorf("waited %v for a lock that was held for %v", waited, life)
		}
	})
}

func TestLockGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, other := lockFile(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		err := Lock(ctx, other, nil)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "apply.lock") {
			t.Errorf("got %v", err)
		}
		if waited := time.Since(start); waited != time.Minute {
			t.Errorf("gave up after %v", waited)
		}
	})
}

// Even a context that has ended takes a lock that nobody holds: what is done under it decides what to do about that.
func TestLockThatIsFree(t *testing.T) {
	held, other := lockFile(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Lock(ctx, other, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("a held one: %v", err)
	}
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	if err := Lock(ctx, other, nil); err != nil {
		t.Errorf("a free one: %v", err)
	}
}

func TestTryLock(t *testing.T) {
	held, other := lockFile(t)
	if locked, err := TryLock(other); locked || err != nil {
		t.Errorf("a held one: %v, %v", locked, err)
	}
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	if locked, err := TryLock(other); !locked || err != nil {
		t.Errorf("a free one: %v, %v", locked, err)
	}
	var wrong *os.PathError
	if locked, err := TryLock(held); locked || !errors.Is(err, syscall.EBADF) || !errors.As(err, &wrong) {
		t.Errorf("a closed file: %v, %v", locked, err)
	}
	if err := Lock(t.Context(), held, nil); !errors.Is(err, syscall.EBADF) {
		t.Errorf("a closed file: %v", err)
	}
}
