package main

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// limitData is the last resort. RLIMIT_DATA and not RLIMIT_AS: the runtime reserves much more addresses than it ever
// uses.
func limitData(bytes int64) error {
	if err := unix.Setrlimit(unix.RLIMIT_DATA, &unix.Rlimit{Cur: uint64(bytes), Max: uint64(bytes)}); err != nil {
		return fmt.Errorf("--max-memory %d: %w", bytes, err)
	}
	return nil
}
