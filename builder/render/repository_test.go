package render

import (
	"errors"
	"io/fs"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/plimsoll/plimsoll/builder/closure"
)

// TestResolve: a revision means what Argo CD and Flux take it for.
func TestResolve(t *testing.T) {
	dir := t.TempDir()
	git := func(args ...string) string {
		cmd := exec.Command("git", append([]string{"-c", "user.name=a", "-c", "user.email=a@b"}, args...)...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	git("init", "-q", "-b", "main", ".")
	r := closure.Repository{Item: "r", URLs: []string{"https://github.com/acme/r.git"}, GitDir: filepath.Join(dir, ".git"), Head: "refs/heads/main"}
	var commits []string
	for _, name := range []string{"old", "refs/tags/v1.0.0", "refs/tags/v1.2.0", "refs/tags/v2.0.0", "refs/heads/canary", "refs/heads/main", "refs/tags/main"} {
		git("commit", "-q", "--allow-empty", "-m", name)
		commits = append(commits, git("rev-parse", "HEAD"))
		if strings.HasPrefix(name, "refs/") {
			r.Revisions = append(r.Revisions, closure.Revision{Name: name, Commit: commits[len(commits)-1]})
		}
	}
	path := must2(exec.LookPath("git"))
	repo := must2(openRepository(t.Context(), r, path, t.TempDir()))
	defer func() {
		if err := repo.close(); err != nil {
			t.Error(err)
		}
	}()
	rs := repositories{repo}
	for rev, want := range map[string]string{
		"": "refs/heads/main", "HEAD": "refs/heads/main", "main": "refs/heads/main", "refs/tags/main": "refs/tags/main", "heads/canary": "refs/heads/canary",
		"v1.0.0": "refs/tags/v1.0.0", "1.x": "refs/tags/v1.2.0", ">=1.0.0": "refs/tags/v2.0.0", "~1.0": "refs/tags/v1.0.0",
		commits[1]: "refs/tags/v1.0.0", commits[1][:8]: "refs/tags/v1.0.0", commits[0]: commits[0], commits[0][:10]: commits[0],
		"none": "", "3.x": "", strings.Repeat("0", 40): "", "-x": "", "main^{tree}": "", "a\nb": "",
	} {
		got, err := rs.find("git@github.com:acme/r", rev)
		if want == "" {
			if !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%q: %v, %v", rev, got, err)
			}
			continue
		}
		if err != nil || got.name != want {
			t.Errorf("%q: %v, %v, want %s", rev, got, err, want)
		}
	}
	if _, err := repo.at("x", commits[0]+"\nHEAD"); err == nil {
		t.Error("a commit of two lines was read")
	}
	if _, err := rs.Tree("https://github.com/acme/other", ""); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("another repository: %v", err)
	}
}

// TestTreeIsFS: what gitops walks is a proper file system.
func TestTreeIsFS(t *testing.T) {
	tree := newTree()
	contents := map[string]string{"a/b/c.yaml": "x: 1\n", "a/d.yaml": "", "e.yaml": "e"}
	for _, dir := range []string{"a", "a/b"} {
		must2(tree.add(filepath.Dir(dir), filepath.Base(dir), fs.ModeDir, ""))
	}
	for name := range contents {
		must2(tree.add(filepath.Dir(name), filepath.Base(name), 0, name))
	}
	tree.read = func(n *node) ([]byte, error) { return []byte(contents[n.path]), nil }
	tree.seal()
	if err := fstest.TestFS(strictTree{tree}, "a/b/c.yaml", "a/d.yaml", "e.yaml"); err != nil {
		t.Error(err)
	}
}

// TestLinks are followed inside of a tree only.
func TestLinks(t *testing.T) {
	tree := newTree()
	targets := map[string]string{"in": "dir/file", "up": "../x", "dir/back": "../in", "self": "self", "abs": "/etc/passwd", "folder": "dir", "empty": ""}
	must2(tree.add(".", "dir", fs.ModeDir, ""))
	must2(tree.add("dir", "file", 0, ""))
	for name := range targets {
		must2(tree.add(filepath.Dir(name), filepath.Base(name), fs.ModeSymlink, ""))
	}
	tree.read = func(n *node) ([]byte, error) { return []byte(targets[n.path]), nil }
	tree.seal()
	for name, want := range map[string]string{
		"in": "dir/file", "dir/back": "dir/file", "folder/file": "dir/file", "folder/back": "dir/file", "folder": "dir", "dir/../in": "dir/file",
		"up": "", "self": "", "abs": "", "empty": "", "in/x": "", "none": "", "../dir": "",
	} {
		n, err := tree.find(name)
		if want == "" && err == nil || want != "" && (err != nil || n.path != want) {
			t.Errorf("%s: %v, %v, want %q", name, n, err, want)
		}
	}
}

func TestParseRemote(t *testing.T) {
	for text, want := range map[string]remote{
		"https://github.com/acme/lib//a/b?ref=v1":           {url: "https://github.com/acme/lib", revision: "v1", path: "a/b"},
		"https://github.com/acme/lib/a/b?version=v1":        {url: "https://github.com/acme/lib", revision: "v1", path: "a/b"},
		"https://user:pw@git.example.com/acme/lib.git/a":    {url: "https://git.example.com/acme/lib.git", path: "a"},
		"https://git.example.com/deep/er/lib.git?ref=main":  {url: "https://git.example.com/deep/er/lib.git", revision: "main"},
		"github.com/acme/lib":                               {url: "https://github.com/acme/lib"},
		"git::https://github.com/acme/lib//x?ref=a":         {url: "https://github.com/acme/lib", revision: "a", path: "x"},
		"git@github.com:acme/lib.git//x/?ref=v2&timeout=3s": {url: "git@github.com:acme/lib.git", revision: "v2", path: "x"},
		"git@github.com:acme/lib/x":                         {url: "git@github.com:acme/lib", path: "x"},
		"ssh://git@host:2222/org/r.git/sub":                 {url: "ssh://git@host:2222/org/r.git", path: "sub"},
		"https://me@dev.azure.com/o/p/_git/repo/sub?ref=x":  {url: "https://dev.azure.com/o/p/_git/repo", revision: "x", path: "sub"},
		"https://example.com/dir/install.yaml":              {url: "https://example.com/dir/install.yaml", file: true},
		"https://u:p@example.com/install.yml":               {url: "https://example.com/install.yml", file: true},
		"https://github.com/acme/lib//x.yaml?ref=v1":        {url: "https://github.com/acme/lib", revision: "v1", path: "x.yaml"},
		"https://github.com/acme/lib//../../etc":            {url: "https://github.com/acme/lib", path: "etc"},
	} {
		if !isRemote(text) {
			t.Errorf("%s is taken for a file", text)
		}
		if got := parseRemote(text); got != want {
			t.Errorf("%s:\n got %+v\nwant %+v", text, got, want)
		}
	}
	for _, local := range []string{"../base", "base", "./github.com/x", "a/b.yaml", "c:d", "x@y/z", "gith.yaml", "httpd/base", "git/base", "ssh/base"} {
		if isRemote(local) && local != "x@y/z" { // kustomize takes that for a user at a host
			t.Errorf("%s is taken for a URL", local)
		}
	}
}
