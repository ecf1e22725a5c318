package render

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// overlay is the file system that kustomize sees: each tree below a folder of its own, and files that were made for the
// build. Nothing of this machine is in it.
type overlay struct {
	mounts []*mount
	made   map[string][]byte // by path
	reads  []readFile        // in the order in which kustomize asked
	seen   map[string]bool
}

// mount is one tree in an overlay, at /0, /1 and so on.
type mount struct {
	at             string
	tree           *tree
	item, revision string // empty for the tree that is rendered
}

// readFile is a file that the build read.
type readFile struct {
	mount *mount
	name  string // in the tree
	data  []byte
}

func newOverlay() *overlay {
	return &overlay{made: make(map[string][]byte), seen: make(map[string]bool)}
}

// mount adds a tree, once.
func (o *overlay) mount(t *tree, item, revision string) *mount {
	for _, m := range o.mounts {
		if m.tree == t && m.item == item && m.revision == revision {
			return m
		}
	}
	m := &mount{fmt.Sprintf("/%d", len(o.mounts)), t, item, revision}
	o.mounts = append(o.mounts, m)
	return m
}

func (m *mount) path(name string) string { return path.Join(m.at, name) }

// split gives the tree of a path and the name in it.
func (o *overlay) split(p string) (*mount, string) {
	p = path.Clean("/" + p)
	for _, m := range o.mounts {
		if name, ok := within(m.at, p); ok {
			return m, name
		}
	}
	return nil, ""
}

// find gives the path of a file or folder behind symbolic links.
func (o *overlay) find(p string) (clean string, dir bool, err error) {
	p = path.Clean("/" + p)
	if _, ok := o.made[p]; ok {
		return p, false, nil
	}
	m, name := o.split(p)
	if m == nil {
		return "", false, fs.ErrNotExist
	}
	n, err := m.tree.find(name)
	if err != nil {
		return "", false, err
	}
	if n.mode != 0 && !n.mode.IsDir() {
		return "", false, fs.ErrNotExist
	}
	return m.path(n.path), n.mode.IsDir(), nil
}

// CleanedAbs implements filesys.FileSystem.
func (o *overlay) CleanedAbs(p string) (filesys.ConfirmedDir, string, error) {
	clean, dir, err := o.find(p)
	if err != nil {
		return "", "", fmt.Errorf("%s: %w", p, err)
	}
	if dir {
		return filesys.ConfirmedDir(clean), "", nil
	}
	return filesys.ConfirmedDir(path.Dir(clean)), path.Base(clean), nil
}

// ReadFile implements filesys.FileSystem. YAML that is no harm to read is all that gets through: kustomize follows
// aliases without counting, and fetches the URLs in configurations of its own transformers.
func (o *overlay) ReadFile(p string) ([]byte, error) {
	p = path.Clean("/" + p)
	data, made := o.made[p]
	m, name := o.split(p)
	if !made {
		if m == nil {
			return nil, &fs.PathError{Op: "read", Path: p, Err: fs.ErrNotExist}
		}
		var err error
		if data, err = m.tree.ReadFile(name); err != nil {
			return nil, err
		}
		data = bytes.Clone(data) // shared, and kustomize need not know
	}
	if err := checkYAML(name, data); err != nil {
		return nil, err
	}
	if !o.seen[p] && m != nil {
		o.seen[p] = true
		o.reads = append(o.reads, readFile{m, name, data})
	}
	return data, nil
}

// checkYAML refuses a file that kustomize could not end with.
func checkYAML(name string, data []byte) error {
	aliases := bytes.IndexByte(data, '&') >= 0 && bytes.IndexByte(data, '*') >= 0
	plugin := bytes.Contains(data, []byte("builtin")) || bytes.IndexByte(data, '\\') >= 0 // "built\x69n" is the same
	if !aliases && !plugin {
		return nil
	}
	docs, err := splitDocuments(data)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	for _, d := range docs {
		root, err := d.parse()
		if errors.Is(err, errCircle) || errors.Is(err, errNodes) || errors.Is(err, errNested) {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err == nil && text(root, "apiVersion") == "builtin" {
			if url := remoteIn(root, 0); url != "" {
				return fmt.Errorf("%s: %w", name, &fetchError{url})
			}
		}
	}
	return nil
}

// fetchError is a file that would be fetched from the net.
type fetchError struct{ url string }

func (e *fetchError) Error() string {
	return fmt.Sprintf("%.300s would be fetched from the net, which cannot be carried", e.url)
}

// remoteIn gives a URL in a field of a plugin's configuration by which plugins load files.
func remoteIn(n *yaml.Node, depth int) string {
	n = target(n)
	if n == nil || depth > maxNesting {
		return ""
	}
	for i := 0; i+1 < len(n.Content) && n.Kind == yaml.MappingNode; i += 2 {
		value := target(n.Content[i+1])
		switch n.Content[i].Value {
		case "path", "paths", "files", "envs", "env", "valuesFile", "additionalValuesFiles", "chartHome":
			for _, e := range append([]*yaml.Node{value}, value.Content...) {
				_, file, _ := strings.Cut(e.Value, "=")
				if isRemote(e.Value) || isRemote(file) {
					return e.Value
				}
			}
		}
		if found := remoteIn(value, depth+1); found != "" {
			return found
		}
	}
	for _, e := range n.Content {
		if n.Kind == yaml.SequenceNode {
			if found := remoteIn(e, depth+1); found != "" {
				return found
			}
		}
	}
	return ""
}

// IsDir implements filesys.FileSystem.
func (o *overlay) IsDir(p string) bool {
	_, dir, err := o.find(p)
	return err == nil && dir
}

// Exists implements filesys.FileSystem.
func (o *overlay) Exists(p string) bool {
	_, _, err := o.find(p)
	return err == nil
}

// ReadDir implements filesys.FileSystem.
func (o *overlay) ReadDir(p string) ([]string, error) {
	m, name := o.split(p)
	if m == nil {
		return nil, &fs.PathError{Op: "readdir", Path: p, Err: fs.ErrNotExist}
	}
	entries, err := m.tree.ReadDir(name)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

// Glob implements filesys.FileSystem.
func (o *overlay) Glob(pattern string) ([]string, error) {
	var found []string
	names, err := o.ReadDir(path.Dir(pattern))
	if err != nil {
		return nil, nil // as filepath.Glob
	}
	for _, name := range names {
		ok, err := filepath.Match(path.Base(pattern), name)
		if err != nil {
			return nil, err
		}
		if ok {
			found = append(found, path.Join(path.Dir(pattern), name))
		}
	}
	return found, nil
}

var errReadOnly = errors.New("this file system is read-only")

// Walk, Open and what writes are asked for by no part of a build.
func (o *overlay) Walk(string, filepath.WalkFunc) error { return errReadOnly }
func (o *overlay) Open(string) (filesys.File, error)    { return nil, errReadOnly }
func (o *overlay) Create(string) (filesys.File, error)  { return nil, errReadOnly }
func (o *overlay) Mkdir(string) error                   { return errReadOnly }
func (o *overlay) MkdirAll(string) error                { return errReadOnly }
func (o *overlay) RemoveAll(string) error               { return errReadOnly }
func (o *overlay) WriteFile(string, []byte) error       { return errReadOnly }

var _ filesys.FileSystem = (*overlay)(nil)
