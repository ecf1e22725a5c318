//go:build !e2e

package store

import "testing"

// heavyDrivers are the stores that only the e2e build has.
func heavyDrivers(*testing.T) map[string]func(*testing.T) *Store { return nil }
