// Package gittest runs git in tests as somebody would who has nothing to do with the machine: in a home of its own, at
// times that are the same in each run. Only tests use it.
package gittest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// Sandbox is somebody with a home. Its methods fail the test, except Command and Try, which any goroutine may call.
type Sandbox struct {
	T    testing.TB
	Home string
	tick atomic.Int64 // minutes since the time of the first command
}

// config is in force in every sandbox.
const config = "[init]\n\tdefaultBranch = main\n[advice]\n\tdetachedHead = false\n[safe]\n\tdirectory = *\n"

// New gives somebody a home. Settings are lines of their .gitconfig.
func New(t testing.TB, name string, settings ...string) *Sandbox {
	t.Helper()
	s := &Sandbox{T: t, Home: t.TempDir()}
	user := fmt.Sprintf("[user]\n\tname = %s\n\temail = %s@example.com\n", name, strings.ToLower(name))
	s.Write(s.Home, ".gitconfig", config+user+strings.Join(settings, "\n")+"\n")
	return s
}

// Env is the environment of one command. Each is a minute later than the one before.
func (s *Sandbox) Env() []string {
	date := fmt.Sprintf("%d +0000", 1_700_000_000+60*s.tick.Add(1))
	return []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + s.Home, "GIT_CONFIG_NOSYSTEM=1", "LC_ALL=C", "GIT_TERMINAL_PROMPT=0",
		"GIT_AUTHOR_DATE=" + date, "GIT_COMMITTER_DATE=" + date,
	}
}

// Command prepares git in a folder.
func (s *Sandbox) Command(dir string, args ...string) *exec.Cmd {
	cmd := exec.Command("git", args...)
	cmd.Dir, cmd.Env = dir, s.Env()
	return cmd
}

// Try runs git in a folder and gives what it printed. The error has what it complained of.
func (s *Sandbox) Try(dir string, args ...string) (string, error) {
	cmd := s.Command(dir, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("git %s: %w: %s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(string(out)), err
}

// Git is Try that must succeed.
func (s *Sandbox) Git(dir string, args ...string) string {
	s.T.Helper()
	out, err := s.Try(dir, args...)
	if err != nil {
		s.T.Fatal(err)
	}
	return out
}

// Write writes a file below a folder.
func (s *Sandbox) Write(dir, name, content string) {
	s.T.Helper()
	path := filepath.Join(dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		s.T.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		s.T.Fatal(err)
	}
}

// Commit commits a file with all else that has changed, and gives the commit.
func (s *Sandbox) Commit(dir, name, content string) string {
	s.T.Helper()
	s.Write(dir, name, content)
	s.Git(dir, "add", "--all")
	s.Git(dir, "commit", "--quiet", "-m", "change "+name)
	return s.Git(dir, "rev-parse", "HEAD")
}
