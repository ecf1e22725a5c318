package shadow

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/plimsoll/plimsoll/internal/gitcmd"
)

// MaxTree is how many files of a commit are known; a commit with more cannot be opened.
const MaxTree = 200_000

// Git is how git is run.
type Git struct {
	Path string // an absolute path
	Home string // an empty folder, its HOME
}

// Commit is a Tree: a commit of a Git repository on disk. It is read by one git process, which Close ends. It is not safe
// for concurrent use, except for Close.
type Commit struct {
	ID    string // of the commit
	files map[string]blob

	cmd    *exec.Cmd
	cancel context.CancelFunc
	in     io.WriteCloser
	out    *bufio.Reader
	stderr gitcmd.Tail
	once   sync.Once
	broken error // once an answer of git was not understood, no other is
}

type blob struct {
	id   string
	size int64
}

// What OpenCommit takes for a revision: nothing that git could take for an option or an expression.
var revision = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64}|refs/(heads|tags)/[A-Za-z0-9_][A-Za-z0-9._/+-]*)$`)

// OpenCommit opens the commit that a full ref name or an object id leads to, in the repository dir. The error is one for
// which errors.Is(err, fs.ErrNotExist) holds when there is none. The process lives until Close, or until ctx ends.
func OpenCommit(ctx context.Context, g Git, dir, rev string) (*Commit, error) {
	if !revision.MatchString(rev) || strings.Contains(rev, "..") {
		return nil, fmt.Errorf("revision %.200q: want a full ref name or an object id", rev)
	}
	ctx, cancel := context.WithCancel(ctx)
	c := &Commit{files: make(map[string]blob), cancel: cancel}
	if err := c.open(ctx, g, dir, rev); err != nil {
		cancel()
		return nil, err
	}
	return c, nil
}

func gitEnv(g Git) []string {
	return append(gitcmd.ClosedEnv(g.Path, g.Home),
		"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*") // it may belong to another user
}

func (c *Commit) open(ctx context.Context, g Git, dir, rev string) error {
	env := gitEnv(g)
	ask := gitcmd.Command(ctx, g.Path, dir, env, "cat-file", "--batch-check=%(objectname) %(objecttype)")
	err := gitcmd.Lines(ctx, ask, "cat-file", strings.NewReader(rev+"^{commit}\n"), func(line string) error {
		id, kind, _ := strings.Cut(line, " ")
		if kind == "commit" {
			c.ID = id
		}
		return nil
	})
	if err != nil {
		return err
	}
	if c.ID == "" {
		return &fs.PathError{Op: "open", Path: rev, Err: fs.ErrNotExist}
	}
	if err := c.list(ctx, gitcmd.Command(ctx, g.Path, dir, env, "ls-tree", "-r", "-z", "--long", "--full-tree", c.ID)); err != nil {
		return err
	}
	c.cmd = gitcmd.Command(ctx, g.Path, dir, env, "cat-file", "--batch")
	c.cmd.Stderr = &c.stderr
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	c.out = bufio.NewReader(out)
	if err := c.cmd.Start(); err != nil {
		return &gitcmd.Error{Command: "cat-file", Err: err}
	}
	return nil
}

// list reads the names of the files. Links and submodules are left out: they lead elsewhere.
func (c *Commit) list(ctx context.Context, cmd *exec.Cmd) error {
	var stderr gitcmd.Tail
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return &gitcmd.Error{Command: "ls-tree", Err: err}
	}
	s := bufio.NewScanner(out)
	s.Split(scanNul)
	var cause error
	for n := 0; cause == nil && s.Scan(); n++ {
		if n == MaxTree {
			cause = fmt.Errorf("git ls-tree: more than %d files in commit %s", MaxTree, c.ID)
			break
		}
		cause = c.entry(s.Text())
	}
	if cause = errors.Join(cause, s.Err()); cause != nil {
		_ = cmd.Cancel() // or git would wait for a reader
	}
	return gitcmd.Wait(ctx, cmd, "ls-tree", &stderr, cause)
}

func scanNul(data []byte, atEOF bool) (int, []byte, error) {
	if i := bytes.IndexByte(data, 0); i >= 0 {
		return i + 1, data[:i], nil
	}
	if atEOF && len(data) > 0 {
		return 0, nil, io.ErrUnexpectedEOF
	}
	return 0, nil, nil
}

// entry takes a line of ls-tree: mode, type, object, size, a tab, and the path.
func (c *Commit) entry(line string) error {
	meta, name, ok := strings.Cut(line, "\t")
	fields := strings.Fields(meta)
	if !ok || len(fields) != 4 {
		return fmt.Errorf("git ls-tree: %.200q is no entry", line)
	}
	if fields[0] != "100644" && fields[0] != "100755" && fields[0] != "100664" { // the last one: old repositories
		return nil
	}
	size, err := strconv.ParseInt(fields[3], 10, 64)
	if err != nil {
		return fmt.Errorf("git ls-tree: %.200q is no entry", line)
	}
	c.files[name] = blob{id: fields[2], size: size}
	return nil
}

// Files implements Tree.
func (c *Commit) Files() iter.Seq[string] {
	return func(yield func(string) bool) {
		for name := range c.files {
			if !yield(name) {
				return
			}
		}
	}
}

// ReadFile implements Tree.
func (c *Commit) ReadFile(name string) ([]byte, error) {
	b, ok := c.files[name]
	switch {
	case !ok:
		return nil, &fs.PathError{Op: "read", Path: name, Err: fs.ErrNotExist}
	case b.size > MaxFile:
		return nil, &TooLargeError{Path: name, Size: b.size}
	case c.broken != nil:
		return nil, c.broken
	}
	data, err := c.ask(b)
	if err != nil {
		if said := c.stderr.String(); said != "" {
			err = &gitcmd.Error{Command: "cat-file", Stderr: said, Err: err}
		}
		c.broken = fmt.Errorf("%s of commit %s: %w", name, c.ID, err)
		return nil, c.broken
	}
	return data, nil
}

func (c *Commit) ask(b blob) ([]byte, error) {
	if _, err := io.WriteString(c.in, b.id+"\n"); err != nil {
		return nil, err
	}
	head, err := c.out.ReadString('\n')
	if err != nil {
		return nil, err
	}
	if want := fmt.Sprintf("%s blob %d\n", b.id, b.size); head != want {
		return nil, fmt.Errorf("git cat-file: %.200q, want %q", head, want)
	}
	data := make([]byte, b.size+1)
	if _, err := io.ReadFull(c.out, data); err != nil {
		return nil, err
	}
	return data[:b.size], nil
}

// Close ends the process.
func (c *Commit) Close() error {
	c.once.Do(func() {
		_ = c.in.Close()
		c.cancel() // it has nothing to lose
		_ = c.cmd.Wait()
	})
	return nil
}
