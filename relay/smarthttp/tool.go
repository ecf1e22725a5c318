package smarthttp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/plimsoll/plimsoll/internal/gitcmd"
)

// GitError says that a git process gave up, and what it said.
type GitError = gitcmd.Error

// Tool runs git so that nothing of the machine, the user or the client reaches it.
type Tool struct {
	path   string
	env    []string
	config []string // key, value, key, value

	mu    sync.Mutex
	ready bool // the version was found to be right
}

// MaxAllocation is how much memory a git process may take at once, in bytes: a delta of a few hundred bytes can ask for
// gigabytes. It is what the builder allows, too. Big files are streamed.
const MaxAllocation = 1 << 30

// The oldest git that takes configuration from GIT_CONFIG_COUNT.
const (
	minGitMajor = 2
	minGitMinor = 31
)

// versionTimeout ends a check of something other than git.
const versionTimeout = 30 * time.Second

var gitVersion = regexp.MustCompile(`^git version ([0-9]{1,4})\.([0-9]{1,4})`)

// NewTool finds git: an executable, or "git" in PATH when it is empty. home is an empty folder that is its HOME. No
// process is started before one is needed.
func NewTool(git, home string) (*Tool, error) {
	path, err := gitcmd.Find(git)
	if err != nil {
		return nil, err
	}
	return &Tool{
		path: path,
		env:  append(gitcmd.ClosedEnv(path, home), fmt.Sprintf("GIT_ALLOC_LIMIT=%d", MaxAllocation)),
		config: []string{
			"safe.directory", "*", // the folder may belong to another user than the relay runs as
			"core.hooksPath", "/dev/null",
			"gc.auto", "0",
			"maintenance.auto", "false",
			"pack.threads", "1", // concurrency is between clients; a clone that takes all cores starves them
			"pack.writeReverseIndex", "false",
			"core.bigFileThreshold", "32m", // blobs beyond it are streamed, not loaded
			"pack.windowMemory", "64m",
		},
	}, nil
}

// Path is the executable.
func (t *Tool) Path() string { return t.path }

// Ready runs git once, if that was not done, to see its version: an error says that it is no git or too old. What this
// package runs checks this first; a caller that wants to know early asks at start.
func (t *Tool) Ready(ctx context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ready {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	out, err := t.Command(ctx, "/", nil, "version").Output()
	if err != nil {
		return fmt.Errorf("%s version: %w", t.path, err)
	}
	v := gitVersion.FindStringSubmatch(string(out))
	if v == nil {
		return fmt.Errorf("%s version: %.100q is not a version", t.path, out)
	}
	major, _ := strconv.Atoi(v[1])
	minor, _ := strconv.Atoi(v[2])
	if major < minGitMajor || major == minGitMajor && minor < minGitMinor {
		return fmt.Errorf("%s: version %d.%d, want %d.%d or newer", t.path, major, minor, minGitMajor, minGitMinor)
	}
	t.ready = true
	return nil
}

// Command prepares git for the repository dir, an absolute path. config is key, value, key, value and overrules the
// tool's own and the repository's configuration. The process and its children end with ctx. Whoever starts the command
// calls Ready first.
func (t *Tool) Command(ctx context.Context, dir string, config []string, args ...string) *exec.Cmd {
	env := append(append([]string(nil), t.env...), configEnv(append(append([]string(nil), t.config...), config...))...)
	return gitcmd.Command(ctx, t.path, dir, env, args...)
}

// configEnv hands configuration to git with the rank of the command line, which safe.directory needs.
func configEnv(pairs []string) []string {
	env := []string{"GIT_CONFIG_COUNT=" + strconv.Itoa(len(pairs)/2)}
	for i := 0; i+1 < len(pairs); i += 2 {
		n := strconv.Itoa(i / 2)
		env = append(env, "GIT_CONFIG_KEY_"+n+"="+pairs[i], "GIT_CONFIG_VALUE_"+n+"="+pairs[i+1])
	}
	return env
}

// Lines runs git in the repository dir and hands each line of its output to fn. The error is ctx's, fn's or a *GitError.
func (t *Tool) Lines(ctx context.Context, dir string, stdin io.Reader, fn func(line string) error, args ...string) error {
	if err := t.Ready(ctx); err != nil {
		return err
	}
	return gitcmd.Lines(ctx, t.Command(ctx, dir, nil, args...), args[0], stdin, fn)
}

// Run runs git in the repository dir for its effect. The error is ctx's or a *GitError.
func (t *Tool) Run(ctx context.Context, dir string, args ...string) error {
	return t.Lines(ctx, dir, strings.NewReader(""), func(string) error { return nil }, args...)
}

// RefusedInput reports whether git itself gave up, as it does on bad input, and was not killed.
func RefusedInput(err error) (*GitError, bool) {
	var ge *GitError
	var exit *exec.ExitError
	if errors.As(err, &ge) && errors.As(ge.Err, &exit) && exit.Exited() {
		return ge, true
	}
	return nil, false
}
