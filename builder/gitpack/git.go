package gitpack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"

	"github.com/plimsoll/plimsoll/internal/gitcmd"
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

// MaxAllocation is how much memory git may take at once, in bytes. A delta of a few hundred bytes can ask for gigabytes;
// what needs more honestly is a repository of some fifteen million objects. Big files are streamed.
const MaxAllocation = 1 << 30

func newGitTool(o Options, home string) (gitTool, error) {
	path, err := gitcmd.Find(o.Git)
	if err != nil {
		return gitTool{}, err
	}
	env := o.Env
	if env == nil {
		env = os.Environ()
	}
	limit := o.maxAllocation
	if limit == 0 {
		limit = MaxAllocation
	}
	bound := fmt.Sprintf("GIT_ALLOC_LIMIT=%d", limit)
	return gitTool{path: path, user: append(userEnv(env), bound), closed: append(gitcmd.ClosedEnv(path, home), bound)}, nil
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
		"-c", "core.bigFileThreshold=" + bigFile,
	}
	for _, flaw := range gitcmd.FormFlaws() {
		args = append(args, "-c", "fetch.fsck."+flaw+"=warn")
	}
	return args
}

func (t gitTool) command(ctx context.Context, repo string, env []string, args ...string) *exec.Cmd {
	return gitcmd.Command(ctx, t.path, repo, env, args...)
}

// remote runs a command that reaches the source.
func (t gitTool) remote(ctx context.Context, repo string, stdin io.Reader, fn func(line string) error, args ...string) error {
	return gitcmd.Lines(ctx, t.command(ctx, repo, t.user, append(fetchConfig(), args...)...), args[0], stdin, fn)
}

// lines runs a command in the closed environment.
func (t gitTool) lines(ctx context.Context, repo string, stdin io.Reader, fn func(line string) error, args ...string) error {
	return gitcmd.Lines(ctx, t.command(ctx, repo, t.closed, args...), args[0], stdin, fn)
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
