package gitpack

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/gitcmd"
)

// checkContents refuses what the repository only points to and a site could not get: submodules and files in Git LFS. It
// looks at the tree of each ref, and at each subtree once however many refs share it.
func (p *packer) checkContents(ctx context.Context, refs []bundle.GitRef) error {
	objects, err := p.openObjects(ctx)
	if err != nil {
		return fmt.Errorf("git %s: %w", p.o.Source, err)
	}
	w := &treeWalk{objects: objects, seen: make(map[string]bool), met: make(map[string]bool)}
	for _, ref := range refs {
		if err = w.walk(ref); err != nil {
			break
		}
	}
	if err = objects.close(ctx, err); err != nil {
		return fmt.Errorf("git %s: %w", p.o.Source, err)
	}
	if len(w.submodules) > 0 {
		return &SubmoduleError{Source: p.o.Source, Places: w.submodules}
	}
	if len(w.lfs) > 0 {
		return &LFSError{Source: p.o.Source, Places: w.lfs}
	}
	return nil
}

type treeWalk struct {
	objects    *objectReader
	seen       map[string]bool // trees and .gitattributes by object id
	met        map[string]bool // submodules by path
	submodules []Place
	lfs        []Place
}

// Modes of tree entries.
const (
	modeTree    = "40000"
	modeTreeOld = "040000" // as some old tools wrote it
	modeGitlink = "160000"
)

func (w *treeWalk) walk(ref bundle.GitRef) error {
	type folder struct{ object, path string }
	tip := ref.OID
	if ref.Peeled != "" {
		tip = ref.Peeled
	}
	for stack := []folder{{tip + "^{tree}", ""}}; len(stack) > 0; {
		at := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		entries, err := w.objects.tree(at.object)
		if errors.Is(err, errNoObject) && at.path == "" { // a tag of a file
			return nil
		}
		if err != nil {
			return err
		}
		for _, e := range entries {
			path := at.path + e.name
			switch {
			case e.mode == modeGitlink:
				if !w.met[path] && len(w.submodules) < MaxPlaces {
					w.met[path] = true
					w.submodules = append(w.submodules, Place{Ref: ref.Name, Path: path})
				}
			case w.seen[e.oid]:
			case e.mode == modeTree || e.mode == modeTreeOld:
				w.seen[e.oid] = true
				stack = append(stack, folder{e.oid, path + "/"})
			case e.name == ".gitattributes":
				w.seen[e.oid] = true
				lfs, err := w.objects.setsLFS(e.oid)
				if err != nil {
					return err
				}
				if lfs && len(w.lfs) < MaxPlaces {
					w.lfs = append(w.lfs, Place{Ref: ref.Name, Path: path})
				}
			}
		}
	}
	return nil
}

// objectReader is a running `git cat-file --batch`.
type objectReader struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	stderr gitcmd.Tail
}

func (p *packer) openObjects(ctx context.Context) (*objectReader, error) {
	r := &objectReader{cmd: p.git.command(ctx, p.repo, p.git.closed, "cat-file", "--batch=%(objecttype) %(objectsize)")}
	r.cmd.Stderr = &r.stderr
	var err error
	if r.in, err = r.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	r.out = bufio.NewReader(out)
	return r, r.cmd.Start()
}

func (r *objectReader) close(ctx context.Context, cause error) error {
	if cause != nil {
		_ = r.cmd.Cancel() // it may have ended already
	}
	_ = r.in.Close()
	return gitcmd.Wait(ctx, r.cmd, "cat-file", &r.stderr, cause)
}

var errNoObject = errors.New("no such object")

// ask sends a request; the object's bytes are next on r.out, followed by a line feed.
func (r *objectReader) ask(name string) (kind string, size int64, err error) {
	if _, err := io.WriteString(r.in, name+"\n"); err != nil {
		return "", 0, err
	}
	line, err := r.out.ReadString('\n')
	if err != nil {
		return "", 0, err
	}
	kind, digits, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
	if kind == name {
		return "", 0, fmt.Errorf("object %s: %w", name, errNoObject)
	}
	size, err = strconv.ParseInt(digits, 10, 64)
	return kind, size, err
}

type treeEntry struct{ mode, name, oid string }

const maxTree = 256 << 20 // bytes of one tree object

// tree reads the entries of a tree object, of which each is: mode SP name NUL id.
func (r *objectReader) tree(name string) ([]treeEntry, error) {
	kind, size, err := r.ask(name)
	if err != nil {
		return nil, err
	}
	if kind != "tree" || size > maxTree {
		return nil, fmt.Errorf("object %s: a %s of %d bytes, want a tree", name, kind, size)
	}
	data := make([]byte, size+1)
	if _, err := io.ReadFull(r.out, data); err != nil {
		return nil, err
	}
	entries, err := parseTree(data[:size])
	if err != nil {
		return nil, fmt.Errorf("object %s: %w", name, err)
	}
	return entries, nil
}

func parseTree(data []byte) ([]treeEntry, error) {
	var entries []treeEntry
	for len(data) > 0 {
		mode, rest, ok := bytes.Cut(data, []byte(" "))
		file, rest, ok2 := bytes.Cut(rest, []byte{0})
		if !ok || !ok2 || len(rest) < 20 {
			return nil, errors.New("not a tree")
		}
		entries = append(entries, treeEntry{string(mode), string(file), hex.EncodeToString(rest[:20])})
		data = rest[20:]
	}
	return entries, nil
}

// setsLFS reports whether a .gitattributes file (gitattributes(5)) has a line with filter=lfs.
func (r *objectReader) setsLFS(oid string) (bool, error) {
	kind, size, err := r.ask(oid)
	if err != nil {
		return false, err
	}
	found := false
	content := io.LimitReader(r.out, size)
	if kind == "blob" { // else a symbolic link's or another entry's object, which git does not read attributes from
		if found, err = hasLFSFilter(content); err != nil {
			return false, err
		}
	}
	if _, err := io.Copy(io.Discard, content); err != nil {
		return false, err
	}
	_, err = r.out.Discard(1)
	return found, err
}

// maxAttributeLine is where git stops reading a line of attributes.
const maxAttributeLine = 2048

func hasLFSFilter(r io.Reader) (bool, error) {
	br := bufio.NewReaderSize(r, 2*maxAttributeLine)
	for {
		line, err := br.ReadSlice('\n')
		if fields := strings.Fields(string(line)); len(fields) > 1 && !strings.HasPrefix(fields[0], "#") {
			for _, attribute := range fields[1:] {
				if attribute == "filter=lfs" {
					return true, nil
				}
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return false, nil
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return false, err
		}
	}
}
