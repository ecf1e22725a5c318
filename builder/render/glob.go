package render

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
)

// globs are patterns of paths, with ** for any number of folders. One that matches a folder matches all in it.
type globs []string

func parseGlobs(patterns []string) (globs, error) {
	var g globs
	for _, p := range patterns {
		p = strings.TrimPrefix(strings.TrimSuffix(p, "/"), "/")
		if p == "" || !doublestar.ValidatePattern(p) {
			return nil, fmt.Errorf("%q is not a pattern of paths", p)
		}
		g = append(g, p)
	}
	return g, nil
}

func (g globs) match(name string) bool {
	return slices.ContainsFunc(g, func(p string) bool {
		for at := name; at != "." && at != "/"; at = path.Dir(at) {
			if doublestar.MatchUnvalidated(p, at) {
				return true
			}
		}
		return false
	})
}

func isPattern(s string) bool { return strings.ContainsAny(s, "*?[{") }

// expand gives the files of a tree that a pattern matches, sorted.
func (t *tree) expand(pattern string) []string {
	var found []string
	for name, n := range t.nodes {
		if !n.mode.IsDir() && doublestar.MatchUnvalidated(path.Clean(pattern), name) && t.isFile(name) {
			found = append(found, name)
		}
	}
	slices.Sort(found)
	return found
}

// walk visits all below the folder dir in the order of names, without following links. skip leaves out a folder.
func (t *tree) walk(dir string, visit func(n *node) (skip bool)) {
	n := t.nodes[dir]
	if n == nil || !n.mode.IsDir() {
		return
	}
	for _, name := range n.children {
		child := t.nodes[path.Join(dir, name)]
		if !visit(child) && child.mode.IsDir() {
			t.walk(child.path, visit)
		}
	}
}

// anyPath matches as Argo CD does: * stands for any text, slashes too.
func anyPath(pattern, name string) bool {
	flat := strings.NewReplacer("/", "\x01", "**", "*")
	return doublestar.MatchUnvalidated(flat.Replace(pattern), flat.Replace(name))
}
