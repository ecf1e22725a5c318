package render

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
)

// folderTree reads the names of all files below a folder of this disk. os.Root does not let it leave the folder.
func folderTree(root *os.Root) (*tree, error) {
	t := newTree()
	t.read = func(n *node) ([]byte, error) {
		if n.mode&fs.ModeSymlink != 0 {
			target, err := root.Readlink(n.path)
			return []byte(target), pathless(err)
		}
		return readAtMost(root, n.path, maxFile)
	}
	for stack := []string{"."}; len(stack) > 0; {
		at := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if strings.Count(at, "/") >= maxTreeDepth {
			return nil, fmt.Errorf("%.200s: folders in each other deeper than %d", at, maxTreeDepth)
		}
		listed, err := fs.ReadDir(root.FS(), at)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", at, pathless(err))
		}
		for _, entry := range listed {
			kind := entry.Type() & (fs.ModeDir | fs.ModeSymlink)
			if entry.Name() == ".git" || entry.Type()&^(fs.ModeDir|fs.ModeSymlink) != 0 {
				continue // sockets and the like
			}
			n, err := t.add(at, entry.Name(), kind, "")
			if err != nil {
				return nil, err
			}
			if n != nil && kind == fs.ModeDir {
				stack = append(stack, n.path)
			}
		}
	}
	t.seal()
	return t, t.identify()
}

// identify gives each file the digest of its content, so that equal folders are rendered once. Files that are too big
// are never read, so that their name is enough.
func (t *tree) identify() error {
	for name, n := range t.nodes {
		if n.mode.IsDir() {
			continue
		}
		data, err := t.read(n)
		if err != nil && !errors.Is(err, errTooBig) {
			return fmt.Errorf("%s: %w", name, err)
		}
		sum := sha256.Sum256(data)
		n.id = hex.EncodeToString(sum[:])
	}
	t.id = t.digest(".")
	return nil
}

func readAtMost(root *os.Root, name string, limit int64) ([]byte, error) {
	f, err := root.Open(name)
	if err != nil {
		return nil, pathless(err)
	}
	defer f.Close() //nolint:errcheck // only read
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, pathless(err)
	}
	if int64(len(data)) > limit {
		return nil, errTooBig
	}
	return data, nil
}

// pathless takes the path off an error, which says it already, or which is one of this machine.
func pathless(err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err
	}
	return err
}

// within gives the path of name as seen from the folder dir, and whether it is in it.
func within(dir, name string) (string, bool) {
	if dir == "." || dir == "" {
		return name, true
	}
	if name == dir {
		return ".", true
	}
	return strings.CutPrefix(name, path.Clean(dir)+"/")
}
