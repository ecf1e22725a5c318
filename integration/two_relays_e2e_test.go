//go:build e2e

package integration

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/plimsoll/plimsoll/internal/s3server"
)

// relayDeaths are the objects at whose writes an import dies in TestTwoRelaysOneDies.
var relayDeaths = []string{"site7/site/lease.json", "site7/blobs/", "site7/site/releases/", "site7/site/active.json"}

// realStorage starts a real S3 server with the bucket of two relays.
func realStorage(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, bucketName), 0o755); err != nil {
		t.Fatal(err)
	}
	server, err := s3server.Start(dir, t.TempDir(), "relay", "plimsoll-secret")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	return storageURL(server.URL)
}

func TestTwoRelaysOnS3(t *testing.T) {
	storage := realStorage(t)
	testTwoRelays(t, bucketSite(t, "relay", storage), bucketSite(t, "relay", storage))
}

func TestTwoRelaysQueueOnS3(t *testing.T) {
	storage := realStorage(t)
	testQueue(t, bucketSite(t, "relay", storage), bucketSite(t, "relay", storage))
}
