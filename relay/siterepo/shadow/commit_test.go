package shadow

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func runGit(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", append([]string{"-c", "user.name=A", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"}, args...)...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "GIT_CONFIG_NOSYSTEM=1", "LC_ALL=C"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func testGit(t *testing.T) Git {
	t.Helper()
	path, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	return Git{Path: path, Home: t.TempDir()}
}

func TestCommit(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	runGit(t, dir, "init", "--quiet")
	odd := "d\u00e4/with space, \"quotes\" and\na line"
	files := map[string]string{
		"empty.yaml": "", "a/b/values.yaml": "a: 1\n", odd: "odd", "big": strings.Repeat("x", MaxFile+1), "limit": strings.Repeat("x", MaxFile),
		"binary": "\x00\n\xff", "run.sh": "#!/bin/sh\n",
	}
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Chmod(filepath.Join(dir, "run.sh"), 0o755), os.Symlink("/etc/passwd", filepath.Join(dir, "link"))); err != nil {
		t.Fatal(err)
	}
	runGit(t, dir, "add", "--all")
	runGit(t, dir, "update-index", "--add", "--cacheinfo", "160000,"+strings.Repeat("1", 40)+",sub")
	runGit(t, dir, "commit", "--quiet", "-m", "x")
	runGit(t, dir, "tag", "-a", "v1+x", "-m", "x")
	id := runGit(t, dir, "rev-parse", "HEAD")
	ctx := context.Background()
	for _, rev := range []string{id, "refs/heads/main", "refs/tags/v1+x"} {
		c, err := OpenCommit(ctx, testGit(t), filepath.Join(dir, ".git"), rev)
		if err != nil {
			t.Fatal(err)
		}
		names := slices.Sorted(c.Files())
		if want := "a/b/values.yaml big binary " + odd + " empty.yaml limit run.sh"; strings.Join(names, " ") != want || c.ID != id {
			t.Errorf("%s: %q", c.ID, names)
		}
		for range 2 {
			for _, name := range names {
				data, err := c.ReadFile(name)
				var large *TooLargeError
				if name == "big" {
					if !errors.As(err, &large) || large.Size != MaxFile+1 {
						t.Errorf("%s: %v", name, err)
					}
				} else if err != nil || string(data) != files[name] {
					t.Errorf("%s: %q, %v", name, data, err)
				}
			}
		}
		for _, name := range []string{"link", "sub", "none", "a", "a/b/../b/values.yaml", "/run.sh", ""} {
			if data, err := c.ReadFile(name); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %q, %v", name, data, err)
			}
		}
		if err := errors.Join(c.Close(), c.Close()); err != nil {
			t.Error(err)
		}
		if _, err := c.ReadFile("run.sh"); err == nil {
			t.Error("a closed commit is read")
		}
	}
	for _, rev := range []string{strings.Repeat("1", 40), "refs/heads/none", runGit(t, dir, "rev-parse", "HEAD^{tree}")} {
		if _, err := OpenCommit(ctx, testGit(t), filepath.Join(dir, ".git"), rev); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", rev, err)
		}
	}
	for _, rev := range []string{"", "HEAD", "main", "--all", "refs/heads/a..b", "refs/heads/-x", "refs/heads/a b", "refs/heads/main~1", "refs/heads/main\n", ":/x", "refs/notes/x"} {
		if _, err := OpenCommit(ctx, testGit(t), filepath.Join(dir, ".git"), rev); err == nil || !strings.Contains(err.Error(), "want a full ref name") {
			t.Errorf("%q: %v", rev, err)
		}
	}
	if _, err := OpenCommit(ctx, testGit(t), t.TempDir(), id); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no repository: %v", err)
	}
	if _, err := OpenCommit(ctx, Git{Path: "/nonexistent/git"}, dir, id); err == nil {
		t.Error("no git")
	}
}

// TestCommitIsDamaged: a file that is not there any more is an error, and not taken for another one.
func TestCommitIsDamaged(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	runGit(t, dir, "init", "--quiet")
	for i := range 3 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), []byte(fmt.Sprint(i)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	runGit(t, dir, "add", "--all")
	runGit(t, dir, "commit", "--quiet", "-m", "x")
	c, err := OpenCommit(context.Background(), testGit(t), filepath.Join(dir, ".git"), "refs/heads/main")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	oid := runGit(t, dir, "rev-parse", "HEAD:1")
	if err := os.Remove(filepath.Join(dir, ".git/objects", oid[:2], oid[2:])); err != nil {
		t.Fatal(err)
	}
	if data, err := c.ReadFile("0"); string(data) != "0" {
		t.Errorf("%q, %v", data, err)
	}
	for _, name := range []string{"1", "2"} {
		if data, err := c.ReadFile(name); err == nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "1 of commit") {
			t.Errorf("%s: %q, %v", name, data, err)
		}
	}
}
