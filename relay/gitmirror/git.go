package gitmirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"strconv"
	"time"

	"github.com/plimsoll/plimsoll/internal/gitcmd"
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
	path, err := gitcmd.Find(git)
	if err != nil {
		return gitTool{}, err
	}
	t := gitTool{path: path, env: gitcmd.ClosedEnv(path, home)}
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

func (t gitTool) command(ctx context.Context, dir string, args ...string) *exec.Cmd {
	return gitcmd.Command(ctx, t.path, dir, t.env, args...)
}

// lines runs git in the repository dir and hands each line of its output to fn. The error is ctx's, fn's or a *GitError.
func (t gitTool) lines(ctx context.Context, dir string, stdin io.Reader, fn func(line string) error, args ...string) error {
	return gitcmd.Lines(ctx, t.command(ctx, dir, args...), args[0], stdin, fn)
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
