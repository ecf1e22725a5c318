package gitpack

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// gitTool runs git in two environments: a closed one, in which only the repository and git's version decide what comes
// out, and that of the user, in which sources are reached.
type gitTool struct {
	path   string
	closed []string
	user   []string
}

// allowedProtocols leaves out ext, which runs commands, and every remote helper that someone installed.
const allowedProtocols = "file:git:http:https:ssh"

func newGitTool(git string, env []string, home string) (gitTool, error) {
	if git == "" {
		git = "git"
	}
	path, err := exec.LookPath(git)
	if err != nil {
		return gitTool{}, err
	}
	if path, err = filepath.Abs(path); err != nil {
		return gitTool{}, err
	}
	if env == nil {
		env = os.Environ()
	}
	t := gitTool{path: path, user: userEnv(env), closed: []string{
		"PATH=" + filepath.Dir(path) + ":/usr/local/bin:/usr/bin:/bin",
		"HOME=" + home, // empty but for the clone: the user's attributes and ignores would change packs
		"XDG_CONFIG_HOME=" + home,
		"LC_ALL=C",
		"GIT_CONFIG_NOSYSTEM=1",
		"GIT_CONFIG_GLOBAL=/dev/null",
		"GIT_ATTR_NOSYSTEM=1",
		"GIT_NO_REPLACE_OBJECTS=1",
		"GIT_NO_LAZY_FETCH=1",
		"GIT_ALLOW_PROTOCOL=none",
		"GIT_TERMINAL_PROMPT=0",
	}}
	return t, nil
}

// transportVariable matches the variables of git that say how to reach a source or where its configuration is. All
// others would point git to another repository, index or object store than the scratch one: Pack may run inside a hook.
var transportVariable = regexp.MustCompile(`^GIT_(SSH|SSH_COMMAND|SSH_VARIANT|ASKPASS|SSL_[A-Z_]+|PROXY_[A-Z_]+|HTTP_[A-Z_]+|` +
	`CURL_[A-Z_]+|TRACE[A-Z0-9_]*|EXEC_PATH|CONFIG_GLOBAL|CONFIG_SYSTEM|CONFIG_NOSYSTEM|CONFIG_COUNT|CONFIG_KEY_[0-9]+|CONFIG_VALUE_[0-9]+)$`)

func userEnv(env []string) []string {
	var kept []string
	for _, kv := range env {
		name, _, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, "GIT_") || transportVariable.MatchString(name) {
			kept = append(kept, kv)
		}
	}
	return append(kept, "LC_ALL=C", "GIT_TERMINAL_PROMPT=0", "GIT_ALLOW_PROTOCOL="+allowedProtocols,
		"GIT_NO_REPLACE_OBJECTS=1")
}

// fetchConfig overrules what of the user's configuration could change the outcome or run something of its own.
func fetchConfig() []string {
	args := []string{
		"-c", "core.hooksPath=/dev/null",
		"-c", "gc.auto=0",
		"-c", "maintenance.auto=false",
		"-c", "fetch.writeCommitGraph=false",
		"-c", "fetch.recurseSubmodules=false",
		"-c", "fetch.fsckObjects=true",
		"-c", "fetch.unpackLimit=1", // always a pack, always checked by index-pack
	}
	// Flaws of form that old, public repositories carry in their history; the relay lets the same ones through.
	for _, flaw := range []string{"badTimezone", "missingNameBeforeEmail", "missingSpaceBeforeDate", "missingSpaceBeforeEmail", "zeroPaddedFilemode"} {
		args = append(args, "-c", "fetch.fsck."+flaw+"=warn")
	}
	return args
}

func (t gitTool) command(ctx context.Context, repo string, env []string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, t.path, args...)
	cmd.Dir = repo
	cmd.Env = append(append([]string(nil), env...), "GIT_DIR="+repo)
	// A session of its own has no terminal, on which ssh would wait for a password, and ends as a whole with ctx.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// remote runs a command that reaches the source.
func (t gitTool) remote(ctx context.Context, repo string, stdin io.Reader, fn func(line string) error, args ...string) error {
	return run(ctx, t.command(ctx, repo, t.user, append(fetchConfig(), args...)...), args[0], stdin, fn)
}

// lines runs a command in the closed environment.
func (t gitTool) lines(ctx context.Context, repo string, stdin io.Reader, fn func(line string) error, args ...string) error {
	return run(ctx, t.command(ctx, repo, t.closed, args...), args[0], stdin, fn)
}

// maxLines bounds what is taken of a command's output: a listing comes from a stranger.
const maxLines = 4 << 20

func run(ctx context.Context, cmd *exec.Cmd, name string, stdin io.Reader, fn func(line string) error) error {
	var stderr tail
	cmd.Stdin, cmd.Stderr = stdin, &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return &GitError{Command: name, Err: err}
	}
	s := bufio.NewScanner(out)
	var fnErr error
	for n := 0; fnErr == nil && s.Scan(); n++ {
		if n == maxLines {
			fnErr = fmt.Errorf("git %s: more than %d lines", name, maxLines)
			break
		}
		fnErr = fn(s.Text())
	}
	if fnErr = errors.Join(fnErr, s.Err()); fnErr != nil {
		_ = cmd.Cancel() // or git would wait for a reader; it may have ended already
	}
	return waited(ctx, cmd, name, &stderr, fnErr)
}

func waited(ctx context.Context, cmd *exec.Cmd, name string, stderr *tail, cause error) error {
	err := cmd.Wait()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case cause != nil:
		return cause
	case err != nil:
		return &GitError{Command: name, Stderr: stderr.String(), Err: err}
	}
	return nil
}

func (t gitTool) version(ctx context.Context) (string, error) {
	var version string
	err := t.lines(ctx, "/", nil, func(line string) error {
		if version == "" {
			version = strings.TrimPrefix(line, "git version ")
		}
		return nil
	}, "version")
	if err == nil && (version == "" || len(version) > 100) {
		err = errors.New("git version: " + strconv.Quote(version))
	}
	return version, err
}

// tail keeps the end of what a process said on stderr: there stands the reason.
type tail struct{ buf []byte }

const maxTail = 2 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p[max(0, len(p)-maxTail):]...)
	if over := len(t.buf) - maxTail; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(p), nil
}

// String gives one line of printable text: it may repeat what a stranger sent.
func (t *tail) String() string {
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
