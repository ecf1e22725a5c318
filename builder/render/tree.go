package render

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// errTooBig is a file that is there and not read.
var errTooBig = fmt.Errorf("more than %d bytes", maxFile)

// tree is the files of one revision. Names are in memory, bytes are read when they are asked for.
// Symbolic links are followed inside of it only.
type tree struct {
	id      string           // the same for the same content
	nodes   map[string]*node // by path; "." is the root
	read    func(*node) ([]byte, error)
	digests map[string]string // of folders, as they were asked for
	skipped []string          // names that no checkout could have
}

type node struct {
	path     string
	mode     fs.FileMode // fs.ModeDir, fs.ModeSymlink or 0
	id       string      // of the content
	children []string    // names in a folder, sorted
}

func newTree() *tree {
	return &tree{nodes: map[string]*node{".": {path: ".", mode: fs.ModeDir}}, digests: make(map[string]string)}
}

// usableName refuses what would mean something else to whatever resolves it: a file system, a URL, a terminal.
func usableName(name string) bool {
	return name != "" && name != "." && name != ".." && name != ".git" && utf8.ValidString(name) && len(name) <= 255 &&
		!strings.ContainsFunc(name, func(r rune) bool { return r == '/' || r == '\\' || r < 0x20 || r == 0x7f })
}

// add puts an entry into the folder dir, which is there.
func (t *tree) add(dir, name string, mode fs.FileMode, id string) (*node, error) {
	if !usableName(name) {
		t.skipped = append(t.skipped, fmt.Sprintf("%.80q", path.Join(dir, name)))
		return nil, nil
	}
	if len(t.nodes) >= maxTreeFiles {
		return nil, fmt.Errorf("more than %d files", maxTreeFiles)
	}
	n := &node{path: path.Join(dir, name), mode: mode, id: id}
	if t.nodes[n.path] != nil {
		t.skipped = append(t.skipped, fmt.Sprintf("%.80q a second time", n.path))
		return nil, nil
	}
	t.nodes[n.path] = n
	parent := t.nodes[dir]
	parent.children = append(parent.children, name)
	return n, nil
}

// seal sorts what add left in the order of its source, which for Git is not that of names.
func (t *tree) seal() {
	for _, n := range t.nodes {
		slices.Sort(n.children)
	}
	slices.Sort(t.skipped)
}

// find follows symbolic links to the node that a path names.
func (t *tree) find(name string) (*node, error) {
	rest, at := strings.Split(path.Clean(name), "/"), "."
	for links := 0; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		if part == "." {
			continue
		}
		if part == ".." {
			if at == "." {
				return nil, fmt.Errorf("%s leaves the repository: %w", name, fs.ErrNotExist)
			}
			at = path.Dir(at)
			continue
		}
		n := t.nodes[path.Join(at, part)]
		switch {
		case n == nil:
			return nil, fs.ErrNotExist
		case n.mode&fs.ModeSymlink == 0:
			at = n.path
			continue
		}
		if links++; links > maxLinks {
			return nil, fmt.Errorf("%s: more than %d symbolic links", name, maxLinks)
		}
		target, err := t.read(n)
		if err != nil {
			return nil, err
		}
		if path.IsAbs(string(target)) || len(target) == 0 || len(target) > 4096 {
			return nil, fmt.Errorf("%s: symbolic link %s leaves the repository: %w", name, n.path, fs.ErrNotExist)
		}
		rest = append(strings.Split(path.Clean(string(target)), "/"), rest...)
	}
	return t.nodes[at], nil
}

// isFile reports whether a path is a file.
func (t *tree) isFile(name string) bool {
	n, err := t.find(name)
	return err == nil && n.mode.IsRegular()
}

// ReadFile gives the content of a file. The bytes are shared: nobody changes them.
func (t *tree) ReadFile(name string) ([]byte, error) {
	n, err := t.find(name)
	if err == nil && !n.mode.IsRegular() {
		err = errors.New("is a folder")
	}
	var data []byte
	if err == nil {
		data, err = t.read(n)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "read", Path: name, Err: err}
	}
	return data, nil
}

// ReadDir gives what is in a folder, by name.
func (t *tree) ReadDir(name string) ([]fs.DirEntry, error) {
	n, err := t.find(name)
	if err == nil && !n.mode.IsDir() {
		err = errors.New("is no folder")
	}
	if err != nil {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: err}
	}
	entries := make([]fs.DirEntry, 0, len(n.children))
	for _, child := range n.children {
		entries = append(entries, fs.FileInfoToDirEntry(treeInfo{t, t.nodes[path.Join(n.path, child)], child}))
	}
	return entries, nil
}

// Stat describes what a path leads to.
func (t *tree) Stat(name string) (fs.FileInfo, error) {
	n, err := t.find(name)
	if err != nil {
		return nil, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	return treeInfo{t, n, path.Base(name)}, nil
}

// Open gives a file or a folder.
func (t *tree) Open(name string) (fs.File, error) {
	n, err := t.find(name)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	info := treeInfo{t, n, path.Base(name)}
	if n.mode.IsDir() {
		entries, err := t.ReadDir(name)
		return &openFolder{treeInfo: info, entries: entries}, err
	}
	data, err := t.read(n)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return &openFile{info, bytes.NewReader(data)}, nil
}

// digest is the same for two folders with the same files, in whatever revision, as long as both come from Git.
func (t *tree) digest(dir string) string {
	if d, ok := t.digests[dir]; ok {
		return d
	}
	n, err := t.find(dir)
	if err != nil {
		return ""
	}
	h := sha256.New()
	for _, child := range n.children {
		c := t.nodes[path.Join(n.path, child)]
		id := c.id
		switch {
		case c.mode.IsDir():
			id = t.digest(c.path)
		case c.mode&fs.ModeSymlink != 0:
			id = t.id + id // what it leads to is elsewhere in the tree
		}
		fmt.Fprintf(h, "%q %v %s\n", child, c.mode, id)
	}
	t.digests[dir] = hex.EncodeToString(h.Sum(nil))
	return t.digests[dir]
}

// strictTree is a tree for others: an fs.FS that takes no other paths than io/fs allows.
type strictTree struct{ tree *tree }

func strictly[T any](op, name string, do func(string) (T, error)) (T, error) {
	if !fs.ValidPath(name) {
		var none T
		return none, &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	return do(name)
}

func (s strictTree) Open(name string) (fs.File, error) { return strictly("open", name, s.tree.Open) }
func (s strictTree) Stat(name string) (fs.FileInfo, error) {
	return strictly("stat", name, s.tree.Stat)
}
func (s strictTree) ReadFile(name string) ([]byte, error) {
	return strictly("read", name, func(name string) ([]byte, error) {
		data, err := s.tree.ReadFile(name)
		return bytes.Clone(data), err
	})
}
func (s strictTree) ReadDir(name string) ([]fs.DirEntry, error) {
	return strictly("readdir", name, s.tree.ReadDir)
}

type treeInfo struct {
	tree *tree
	node *node
	name string
}

func (i treeInfo) Name() string       { return i.name }
func (i treeInfo) Mode() fs.FileMode  { return i.node.mode | 0o444 }
func (i treeInfo) ModTime() time.Time { return time.Time{} }
func (i treeInfo) IsDir() bool        { return i.node.mode.IsDir() }
func (i treeInfo) Sys() any           { return nil }

// Size is 0 for what cannot be read.
func (i treeInfo) Size() int64 {
	if !i.node.mode.IsRegular() {
		return 0
	}
	data, err := i.tree.read(i.node)
	if err != nil {
		return 0
	}
	return int64(len(data))
}

type openFile struct {
	treeInfo
	*bytes.Reader
}

func (f *openFile) Stat() (fs.FileInfo, error) { return f.treeInfo, nil }
func (f *openFile) Close() error               { return nil }
func (f *openFile) Size() int64                { return f.Reader.Size() }

type openFolder struct {
	treeInfo
	entries []fs.DirEntry
}

func (f *openFolder) Stat() (fs.FileInfo, error) { return f.treeInfo, nil }
func (f *openFolder) Close() error               { return nil }
func (f *openFolder) Read([]byte) (int, error)   { return 0, errors.New("is a folder") }

// ReadDir implements fs.ReadDirFile.
func (f *openFolder) ReadDir(n int) ([]fs.DirEntry, error) {
	if n <= 0 {
		all := f.entries
		f.entries = nil
		return all, nil
	}
	if len(f.entries) == 0 {
		return nil, io.EOF
	}
	some := f.entries[:min(n, len(f.entries))]
	f.entries = f.entries[len(some):]
	return some, nil
}
