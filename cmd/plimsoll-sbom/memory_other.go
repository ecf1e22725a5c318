//go:build !linux

package main

import "runtime/debug"

// limitMemory makes the collector work harder; this system has no limit for the process that the runtime could bear.
func limitMemory(bytes int64) error {
	if bytes > 0 {
		debug.SetMemoryLimit(bytes)
	}
	return nil
}
