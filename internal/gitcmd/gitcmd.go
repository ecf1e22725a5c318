// Package gitcmd runs the git executable: closed off from the machine's and the user's configuration, as a process group
// that ends with its context, with output that is bounded and errors that say what git said.
package gitcmd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// MaxLines bounds what Lines takes of a command's output: a listing may come from a stranger.
const MaxLines = 4 << 20

// Error says that a git process gave up, and what it said.
type Error struct {
	Command string // the git subcommand
	Stderr  string // the end of what it said
	Err     error
}

func (e *Error) Error() string {
	if e.Stderr == "" {
		return fmt.Sprintf("git %s: %v", e.Command, e.Err)
	}
	return fmt.Sprintf("git %s: %s (%v)", e.Command, e.Stderr, e.Err)
}

// Unwrap gives what ended the process.
func (e *Error) Unwrap() error { return e.Err }

// Find gives the absolute path of the executable: git in PATH if the name is empty.
func Find(git string) (string, error) {
	if git == "" {
		git = "git"
	}
	path, err := exec.LookPath(git)
	if err != nil {
		return "", err
	}
	return filepath.Abs(path)
}

// ClosedEnv is an environment in which only the repository and git's version decide what comes out. home is an empty
// folder: the user's attributes and ignores would change packs.
func ClosedEnv(git, home string) []string {
	return []string{
		"PATH=" + filepath.Dir(git) + ":/usr/local/bin:/usr/bin:/bin",
		"HOME=" + home,
		"XDG_CONFIG_HOME=" + home,
		"LC_ALL=C",
		"GIT_CONFIG_NOSYSTEM=1",
		"GIT_CONFIG_GLOBAL=/dev/null",
		"GIT_ATTR_NOSYSTEM=1",
		"GIT_NO_REPLACE_OBJECTS=1", // a replace ref must not show an object other than the one that was checked
		"GIT_NO_LAZY_FETCH=1",
		"GIT_ALLOW_PROTOCOL=none",
		"GIT_TERMINAL_PROMPT=0",
	}
}

// FormFlaws are the findings of fsck that old, public repositories carry in their history and that do no harm: builder
// and relay warn of them and refuse every other.
func FormFlaws() []string {
	return []string{"badTimezone", "missingNameBeforeEmail", "missingSpaceBeforeDate", "missingSpaceBeforeEmail", "zeroPaddedFilemode"}
}

// Command prepares git for a repository. Its session of its own has no terminal, on which ssh would wait for a password,
// and ends as a whole with ctx: upload-pack's pack-objects would otherwise go on packing for a client that is gone.
func Command(ctx context.Context, git, repo string, env []string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, git, args...)
	cmd.Dir = repo
	cmd.Env = append(append([]string(nil), env...), "GIT_DIR="+repo)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// Lines runs a command and hands each line of its output to fn; name is the subcommand, for errors. The error is ctx's,
// fn's or an *Error.
func Lines(ctx context.Context, cmd *exec.Cmd, name string, stdin io.Reader, fn func(line string) error) error {
	var stderr Tail
	cmd.Stdin, cmd.Stderr = stdin, &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return &Error{Command: name, Err: err}
	}
	s := bufio.NewScanner(out)
	var fnErr error
	for n := 0; fnErr == nil && s.Scan(); n++ {
		if n == MaxLines {
			fnErr = fmt.Errorf("git %s: more than %d lines", name, MaxLines)
			break
		}
		fnErr = fn(s.Text())
	}
	if fnErr = errors.Join(fnErr, s.Err()); fnErr != nil {
		cmd.Cancel() //nolint:errcheck // or git would wait for a reader; it may have ended already
	}
	return Wait(ctx, cmd, name, &stderr, fnErr)
}

// Wait waits for a started command and gives the error that explains its end: ctx's, the cause, or an *Error.
func Wait(ctx context.Context, cmd *exec.Cmd, name string, stderr *Tail, cause error) error {
	err := cmd.Wait()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case cause != nil:
		return cause
	case err != nil:
		return &Error{Command: name, Stderr: stderr.String(), Err: err}
	}
	return nil
}

// Tail keeps the end of what a process said on stderr: there stands the reason.
type Tail struct{ buf []byte }

const maxTail = 2 << 10 // bytes

func (t *Tail) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p[max(0, len(p)-maxTail):]...)
	if over := len(t.buf) - maxTail; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(p), nil
}

// String gives one line of printable text: it may repeat what a stranger sent.
func (t *Tail) String() string {
	text := strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\r':
			return ';'
		case r < 0x20 || r == 0x7f || r == '\uFFFD':
			return '?'
		}
		return r
	}, strings.TrimSpace(string(t.buf)))
	return strings.Trim(text, ";")
}
