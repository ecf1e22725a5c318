package gittest

import (
	"strings"
	"testing"
)

// What the machine and its user have set decides nothing, and each run makes the same commits.
func TestCommitIsTheSameEachTime(t *testing.T) {
	commit := func() string {
		s := New(t, "Robot", "[core]", "\tabbrev = 40")
		dir := s.Home + "/r"
		s.Git(s.Home, "init", "--quiet", dir)
		s.Commit(dir, "a/b", "1\n")
		id := s.Commit(dir, "a/b", "2\n")
		if got := s.Git(dir, "log", "-1", "--format=%h %an <%ae> %at %D"); got != id+" Robot <robot@example.com> 1700000360 HEAD -> main" {
			t.Errorf("got %s", got)
		}
		return id
	}
	first := commit()
	for _, name := range []string{"GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME", "GIT_DIR", "XDG_CONFIG_HOME"} {
		t.Setenv(name, "/elsewhere")
	}
	if again := commit(); again != first {
		t.Errorf("%s, and then %s", first, again)
	}
}

func TestTrySaysWhatGitSaid(t *testing.T) {
	s := New(t, "Robot")
	if out, err := s.Try(s.Home, "no-such-command"); err == nil || !strings.Contains(err.Error(), "not a git command") {
		t.Errorf("%s, %v", out, err)
	}
}
