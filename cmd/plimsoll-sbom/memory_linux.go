package main

import (
	"fmt"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// limitMemory makes the process die rather than the machine swap when an image was built to exhaust it. The collector
// works harder from three quarters of it on.
func limitMemory(bytes int64) error {
	if bytes <= 0 {
		return nil
	}
	debug.SetMemoryLimit(bytes / 4 * 3)
	// RLIMIT_DATA and not RLIMIT_AS: the runtime reserves much more addresses than it ever uses.
	if err := unix.Setrlimit(unix.RLIMIT_DATA, &unix.Rlimit{Cur: uint64(bytes), Max: uint64(bytes)}); err != nil {
		return fmt.Errorf("--max-memory %d: %w", bytes, err)
	}
	return nil
}
