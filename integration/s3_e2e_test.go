//go:build e2e

package integration

import (
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/plimsoll/plimsoll/internal/s3server"
)

// A relay whose blobs are in an S3 bucket does the main job, streams blobs or sends robots to the bucket, and finds
// everything again after a restart.
func TestRelayOnS3(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "relay"), 0o755); err != nil {
		t.Fatal(err)
	}
	server, err := s3server.Start(dir, t.TempDir(), "plimsoll-test", "plimsoll-secret")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	t.Setenv("AWS_ACCESS_KEY_ID", "plimsoll-test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "plimsoll-secret")
	s := newSite(t)
	own := *s.fixture
	own.env = append(append([]string{}, s.env...), "AWS_ACCESS_KEY_ID=plimsoll-test", "AWS_SECRET_ACCESS_KEY=plimsoll-secret")
	s.fixture = &own
	at := "s3://relay/site7?region=us-east-1&path-style=true&endpoint=" + url.QueryEscape(server.URL)
	s.must("import", s.bundle("v1.5.4"), "--storage", at)
	if _, err := os.Stat(filepath.Join(s.data, "storage.json")); err != nil {
		t.Error(err)
	}
	if out, err := s.run("plimsoll-relay", "import", s.bundle("v1.5.4"), "--data", s.data, "--storage", strings.Replace(at, "site7", "site8", 1)); err == nil {
		t.Errorf("another bucket was taken: %s", out)
	}
	s.start()
	s.follow(1)
	first := s.pullAll("v1.5.4")
	s.must("import", s.bundle("v1.5.5")) // where the blobs are is remembered
	s.follow(2)
	s.pullAll("v1.5.5")
	s.must("rollback")
	s.follow(3)
	s.kill(syscall.SIGKILL)
	s.start("--storage-redirect")
	if again := s.pullAll("v1.5.4"); again != first {
		t.Errorf("after a restart %+v, before %+v", again, first)
	}
	img, _, err := s.relay.PullImage(t.Context(), app+":v1.5.4", linux("amd64"))
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	here := *s.relay.HTTP()
	here.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := here.Get(s.relay.URL("/v2/" + app + "/blobs/" + config.String()))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // not read
	if resp.StatusCode != http.StatusTemporaryRedirect || !strings.HasPrefix(resp.Header.Get("Location"), server.URL) {
		t.Errorf("%s to %q", resp.Status, resp.Header.Get("Location"))
	}
}
