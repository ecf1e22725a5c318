package gitpack

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"

	"github.com/plimsoll/plimsoll/internal/gitcmd"
)

// objectReader is a running `git cat-file --batch`.
type objectReader struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	stderr gitcmd.Tail
}

func (p *packer) openObjects(ctx context.Context) (*objectReader, error) {
	r := &objectReader{cmd: p.git.command(ctx, p.repo, p.git.closed, "cat-file", "--batch=%(objectname) %(objecttype) %(objectsize)")}
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
func (r *objectReader) ask(name string) (id objectID, kind string, size int64, err error) {
	if _, err := io.WriteString(r.in, name+"\n"); err != nil {
		return id, "", 0, err
	}
	line, err := r.out.ReadString('\n')
	if err != nil {
		return id, "", 0, err
	}
	fields := strings.Fields(line)
	if len(fields) == 2 && fields[0] == name {
		return id, "", 0, fmt.Errorf("object %s: %w", name, errNoObject)
	}
	if len(fields) != 3 {
		return id, "", 0, fmt.Errorf("git cat-file: line %.100q", line)
	}
	raw, err := hex.DecodeString(fields[0])
	if err != nil || copy(id[:], raw) != len(id) || len(raw) != len(id) {
		return id, "", 0, fmt.Errorf("git cat-file: line %.100q", line)
	}
	size, err = strconv.ParseInt(fields[2], 10, 64)
	return id, fields[1], size, err
}

type objectID [20]byte

func (id objectID) String() string { return hex.EncodeToString(id[:]) }

type treeEntry struct {
	mode, name string
	id         objectID
}

// sizeError says that a tree is bigger than MaxTree.
type sizeError struct{ size int64 }

func (e *sizeError) Error() string {
	return fmt.Sprintf("a tree of %d bytes, the limit is %d", e.size, MaxTree)
}

// tree reads the entries of a tree object, of which each is: mode SP name NUL id.
func (r *objectReader) tree(name string) (objectID, []treeEntry, error) {
	id, kind, size, err := r.ask(name)
	if err != nil {
		return id, nil, err
	}
	if kind != "tree" {
		return id, nil, fmt.Errorf("object %s: a %s, want a tree", name, kind)
	}
	if size > MaxTree {
		return id, nil, fmt.Errorf("object %s: %w", name, &sizeError{size})
	}
	data := make([]byte, size+1)
	if _, err := io.ReadFull(r.out, data); err != nil {
		return id, nil, err
	}
	entries, err := parseTree(data[:size])
	if err != nil {
		return id, nil, fmt.Errorf("object %s: %w", name, err)
	}
	return id, entries, nil
}

func parseTree(data []byte) ([]treeEntry, error) {
	var entries []treeEntry
	for rest := string(data); len(rest) > 0; { // the names are parts of this one string
		mode, behind, ok := strings.Cut(rest, " ")
		file, behind, ok2 := strings.Cut(behind, "\x00")
		e := treeEntry{mode: mode, name: file}
		if !ok || !ok2 || copy(e.id[:], behind) < len(e.id) {
			return nil, errors.New("not a tree")
		}
		entries = append(entries, e)
		rest = behind[len(e.id):]
	}
	return entries, nil
}

// setsLFS reports whether a .gitattributes file (gitattributes(5)) has a line with filter=lfs.
func (r *objectReader) setsLFS(oid string) (bool, error) {
	_, kind, size, err := r.ask(oid)
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
