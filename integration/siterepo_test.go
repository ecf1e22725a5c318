package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plimsoll/plimsoll/internal/clients"
)

const overrides = "$URL/site/site-overrides"

// An operator keeps the site's own values beside the release: robots read them, nobody else writes them, an import
// leaves them alone and says which of them hide what the new release changed.
func TestSiteOverrides(t *testing.T) {
	s := newSite(t)
	operator := s.secret("operator", "add", "jane")
	s.must("import", s.bundle("v1.5.4"))
	s.start()
	robots, jane := s.relay, s.relay.As("jane", operator)
	dir := t.TempDir()
	work := filepath.Join(dir, "work")
	git := func(as *clients.Relay, sub string, args ...string) string {
		t.Helper()
		out, err := as.Git(t.Context(), filepath.Join(dir, sub), args...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	// v1.5.5 changes the image's tag in the values of each robot.
	file := filepath.Join("robot-values", "robot-001.yaml")
	git(jane, "", "init", "-q", "-b", "main", "work")
	if err := os.MkdirAll(filepath.Dir(filepath.Join(work, file)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(work, file), []byte("robot:\n  wifiSSID: annex\nimage:\n  tag: v1.5.4-site\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	git(jane, "work", "add", ".")
	git(jane, "work", "-c", "user.name=Jane", "-c", "user.email=jane@plant7.example", "commit", "-q", "-m", "Our own value")
	if _, err := robots.Git(t.Context(), work, "push", "-q", overrides, "main"); err == nil || !strings.Contains(err.Error(), "operators") {
		t.Errorf("a robot pushed: %v", err)
	}
	git(jane, "work", "push", "-q", overrides, "main")
	git(robots, "", "clone", "-q", overrides, "read")
	if got := git(robots, "read", "rev-parse", "HEAD"); got != git(jane, "work", "rev-parse", "HEAD") {
		t.Errorf("robots read %s", got)
	}
	if _, err := jane.Git(t.Context(), work, "push", "-q", repo, "main"); err == nil || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("an operator pushed into the mirror: %v", err)
	}
	out := s.must("import", s.bundle("v1.5.5"))
	if !strings.Contains(out, "robot-values/robot-001.yaml:4: image.tag") || !strings.Contains(out, "v1.5.4-site") || strings.Contains(out, "wifiSSID") {
		t.Errorf("the import does not say that image.tag, and nothing else, is hidden:\n%s", out)
	}
	s.follow(2)
	if got := git(robots, "read", "ls-remote", "-q", overrides, "main"); !strings.HasPrefix(got, git(jane, "work", "rev-parse", "HEAD")) {
		t.Errorf("after the import robots read %s", got)
	}
	if log := s.must("site", "log"); !strings.Contains(log, "jane") || !strings.Contains(log, "refs/heads/main") {
		t.Errorf("who pushed: %s", log)
	}
	if log := s.must("journal", "show", "--kind", "site-push"); !strings.Contains(log, "jane") || strings.Count(log, "site-push") != 1 {
		t.Errorf("the journal of pushes: %s", log)
	}
	if again := s.must("site", "shadows", "robot-stack"); !strings.Contains(again, "image.tag") {
		t.Errorf("site shadows: %s", again)
	}
}
