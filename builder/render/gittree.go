package render

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os/exec"
	"path"
	"strconv"
	"strings"
	"sync"

	"github.com/plimsoll/plimsoll/internal/gitcmd"
)

// objects reads a bare repository through one `git cat-file --batch`.
type objects struct {
	ctx    context.Context
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	stderr gitcmd.Tail

	mu     sync.Mutex
	broken error
	kept   map[string][]byte // blobs by id: branches share most of them
	size   int               // of kept
}

var errNoObject = errors.New("no such object")

func openObjects(ctx context.Context, git, dir, home string) (*objects, error) {
	cmd := gitcmd.Command(ctx, git, dir, gitcmd.ClosedEnv(git, home), "cat-file", "--batch=%(objectname) %(objecttype) %(objectsize)")
	o := &objects{ctx: ctx, cmd: cmd, kept: make(map[string][]byte)}
	cmd.Stderr = &o.stderr
	var err error
	if o.in, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	o.out = bufio.NewReader(out)
	if err := cmd.Start(); err != nil {
		return nil, &gitcmd.Error{Command: "cat-file", Err: err}
	}
	return o, nil
}

func (o *objects) close() error {
	_ = o.in.Close()
	return gitcmd.Wait(o.ctx, o.cmd, "cat-file", &o.stderr, o.broken)
}

// get reads the object that a name (an id, or id^{tree}) means, if it is of the kind and not larger than limit.
func (o *objects) get(name, kind string, limit int64) (id string, data []byte, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.broken != nil {
		return "", nil, o.broken
	}
	id, data, err = o.ask(name, kind, limit)
	if err != nil && !errors.Is(err, errNoObject) && !errors.Is(err, errTooBig) {
		o.broken = err // request and answer may be out of step
	}
	return id, data, err
}

func (o *objects) ask(name, kind string, limit int64) (string, []byte, error) {
	if _, err := io.WriteString(o.in, name+"\n"); err != nil {
		return "", nil, fmt.Errorf("git cat-file: %w: %s", err, o.stderr.String())
	}
	line, err := o.out.ReadString('\n')
	if err != nil {
		return "", nil, fmt.Errorf("git cat-file: %w", err)
	}
	fields := strings.Fields(line)
	if len(fields) != 3 { // "<name> missing", "<name> ambiguous"
		return "", nil, fmt.Errorf("object %s: %w", name, errNoObject)
	}
	size, err := strconv.ParseInt(fields[2], 10, 64)
	if err != nil || size < 0 {
		return "", nil, fmt.Errorf("git cat-file: size %q", fields[2])
	}
	if fields[1] != kind || size > limit {
		if _, err := io.CopyN(io.Discard, o.out, size+1); err != nil {
			return "", nil, err
		}
		if fields[1] != kind {
			return "", nil, fmt.Errorf("object %s is a %s, want a %s: %w", name, fields[1], kind, errNoObject)
		}
		return fields[0], nil, errTooBig
	}
	data := make([]byte, size+1)
	if _, err := io.ReadFull(o.out, data); err != nil {
		return "", nil, err
	}
	return fields[0], data[:size:size], nil
}

// blob reads a file.
func (o *objects) blob(id string) ([]byte, error) {
	o.mu.Lock()
	data, ok := o.kept[id]
	o.mu.Unlock()
	if ok {
		return data, nil
	}
	_, data, err := o.get(id, "blob", maxFile)
	if err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.size += len(data); o.size > maxKept {
		clear(o.kept)
		o.size = len(data)
	}
	o.kept[id] = data
	return data, nil
}

// commitTree gives the id of the tree of a commit or tag.
func (o *objects) commitTree(commit string) (string, error) {
	id, _, err := o.get(commit+"^{tree}", "tree", maxTreeObject)
	return id, err
}

// Modes of tree entries (git-fast-import(1)).
const (
	gitFolder    = "40000"
	gitFolderOld = "040000" // as some old tools wrote it
	gitLink      = "120000"
	gitSubmodule = "160000"
)

// tree reads the names of all files below a tree object.
func (o *objects) tree(id string) (*tree, error) {
	t := newTree()
	t.id = id
	t.read = func(n *node) ([]byte, error) { return o.blob(n.id) }
	type folder struct{ id, path string }
	for stack := []folder{{id, "."}}; len(stack) > 0; {
		at := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if strings.Count(at.path, "/") >= maxTreeDepth {
			return nil, fmt.Errorf("%.200s: folders in each other deeper than %d", at.path, maxTreeDepth)
		}
		_, data, err := o.get(at.id, "tree", maxTreeObject)
		if err != nil {
			return nil, err
		}
		err = entries(data, func(mode, name, id string) error {
			kind := fs.FileMode(0)
			switch mode {
			case gitFolder, gitFolderOld, gitSubmodule:
				kind = fs.ModeDir
			case gitLink:
				kind = fs.ModeSymlink
			}
			n, err := t.add(at.path, name, kind, id)
			if err == nil && n != nil && kind == fs.ModeDir && mode != gitSubmodule {
				stack = append(stack, folder{id, path.Join(at.path, name)})
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	t.seal()
	return t, nil
}

// entries reads a tree object, of which each entry is: mode SP name NUL id.
func entries(data []byte, fn func(mode, name, id string) error) error {
	const idSize = 20 // SHA-1, which the format of bundles prescribes
	for len(data) > 0 {
		mode, rest, ok := bytes.Cut(data, []byte(" "))
		name, rest, ok2 := bytes.Cut(rest, []byte{0})
		if !ok || !ok2 || len(rest) < idSize {
			return errors.New("a damaged tree object")
		}
		if err := fn(string(mode), string(name), hex.EncodeToString(rest[:idSize])); err != nil {
			return err
		}
		data = rest[idSize:]
	}
	return nil
}
