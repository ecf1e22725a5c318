//go:build e2e

package store

import "testing"

func TestE2EObjects(t *testing.T) {
	r := startS3(t, t.TempDir())
	testObjects(t, mustOpen(t, r.storageURL(""), Options{}).Objects())
	testObjectsRace(t, mustOpen(t, r.storageURL(""), Options{}).Objects(), 8, 25)
}
