package gitmirror

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// gitTool runs git so that nothing of the machine, the user or the client reaches it.
type gitTool struct {
	path string
	env  []string
}

// The oldest git that takes configuration from GIT_CONFIG_COUNT.
const (
	minGitMajor = 2
	minGitMinor = 31
)

// versionTimeout ends an Open that was given something other than git.
const versionTimeout = 30 * time.Second

var gitVersion = regexp.MustCompile(`^git version ([0-9]{1,4})\.([0-9]{1,4})`)

func newGitTool(git, home string) (gitTool, error) {
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
	t := gitTool{path: path, env: []string{
		"PATH=" + filepath.Dir(path) + ":/usr/local/bin:/usr/bin:/bin",
		"HOME=" + home,
		"XDG_CONFIG_HOME=" + home,
		"LC_ALL=C",
		"GIT_CONFIG_NOSYSTEM=1",
		"GIT_CONFIG_GLOBAL=/dev/null",
		"GIT_ATTR_NOSYSTEM=1",
		"GIT_TERMINAL_PROMPT=0",
		"GIT_NO_REPLACE_OBJECTS=1", // a replace ref must not show an object other than the one that was checked
		"GIT_NO_LAZY_FETCH=1",
		"GIT_ALLOW_PROTOCOL=none",
	}}
	t.env = append(t.env, configEnv(
		"safe.directory", "*", // the folder may belong to another user than the relay runs as
		"core.hooksPath", "/dev/null",
		"gc.auto", "0",
		"maintenance.auto", "false",
		"pack.threads", "1", // concurrency is between clients; a clone that takes all cores starves them
		"pack.writeReverseIndex", "false",
		"core.bigFileThreshold", "32m", // blobs beyond it are streamed, not loaded
		"pack.windowMemory", "64m",
	)...)
	ctx, cancel := context.WithTimeout(context.Background(), versionTimeout)
	defer cancel()
	out, err := t.command(ctx, "/", "version").Output()
	if err != nil {
		return gitTool{}, fmt.Errorf("%s version: %w", path, err)
	}
	v := gitVersion.FindStringSubmatch(string(out))
	if v == nil {
		return gitTool{}, fmt.Errorf("%s version: %q is not a version", path, out)
	}
	major, _ := strconv.Atoi(v[1])
	minor, _ := strconv.Atoi(v[2])
	if major < minGitMajor || major == minGitMajor && minor < minGitMinor {
		return gitTool{}, fmt.Errorf("%s: version %d.%d, want %d.%d or newer", path, major, minor, minGitMajor, minGitMinor)
	}
	return t, nil
}

// configEnv hands configuration to git with the rank of the command line, which safe.directory needs.
func configEnv(pairs ...string) []string {
	env := []string{"GIT_CONFIG_COUNT=" + strconv.Itoa(len(pairs)/2)}
	for i := 0; i+1 < len(pairs); i += 2 {
		n := strconv.Itoa(i / 2)
		env = append(env, "GIT_CONFIG_KEY_"+n+"="+pairs[i], "GIT_CONFIG_VALUE_"+n+"="+pairs[i+1])
	}
	return env
}

// command prepares git in a session of its own, which ends as a whole when ctx does: upload-pack's pack-objects would
// otherwise go on packing for a client that is gone.
func (t gitTool) command(ctx context.Context, dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, t.path, args...)
	cmd.Dir = dir
	cmd.Env = append(append([]string(nil), t.env...), "GIT_DIR="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// lines runs git in the repository dir and hands each line of its output to fn. The error is ctx's, fn's or a *GitError.
func (t gitTool) lines(ctx context.Context, dir string, stdin io.Reader, fn func(line string) error, args ...string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := t.command(ctx, dir, args...)
	var stderr tail
	cmd.Stdin, cmd.Stderr = stdin, &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return &GitError{Command: args[0], Err: err}
	}
	s := bufio.NewScanner(out)
	var fnErr error
	for fnErr == nil && s.Scan() {
		fnErr = fn(s.Text())
	}
	if fnErr = errors.Join(fnErr, s.Err()); fnErr != nil {
		cancel() // or git would wait for a reader
	}
	err = cmd.Wait()
	switch {
	case fnErr != nil:
		return fnErr
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return &GitError{Command: args[0], Stderr: stderr.String(), Err: err}
	}
	return nil
}

// refusedInput reports whether git itself gave up, as it does on bad input, and was not killed.
func refusedInput(err error) (*GitError, bool) {
	var ge *GitError
	var exit *exec.ExitError
	if errors.As(err, &ge) && errors.As(ge.Err, &exit) && exit.Exited() {
		return ge, true
	}
	return nil, false
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

// String gives one line of printable text: it may repeat names out of hostile objects.
func (t *tail) String() string {
	text := strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\r':
			return ';'
		case r < 0x20 || r == 0x7f || r == '\uFFFD':
			return '?'
		}
		return r
	}, string(t.buf))
	return strings.Trim(strings.TrimSpace(text), ";")
}
