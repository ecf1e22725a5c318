package gitops

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestPathspec compares with git itself.
func TestPathspec(t *testing.T) {
	dir := t.TempDir()
	git := func(args ...string) string {
		t.Helper()
		cmd := exec.Command("git", args...)
		cmd.Dir = dir
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "GIT_CONFIG_NOSYSTEM=1", "LC_ALL=C.UTF-8"}
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			if strings.Contains(stderr.String(), "is outside repository") {
				return ""
			}
			t.Fatalf("git %q: %v: %s", args, err, stderr.String())
		}
		return string(out)
	}
	var all []string
	for _, name := range []string{
		"config.json", "a/config.json", "a/b/config.json", "a/b/c/config.yaml", "a/b.json", "ab/config.json", "a*/x", "a-b/x",
		"[x]/y", "x/y", "robots/robot_001.yaml", "robots/robot_002.yml", "robots/.hidden/config.json", "ü/x.json", "b]/x", "a.b/c", "-/x", "z/9",
	} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		all = append(all, name)
	}
	slices.Sort(all)
	git("init", "--quiet")
	git("add", "--all")
	for _, pattern := range []string{
		"config.json", "*", "**", "*.json", "**/config.json", "a", "a/", "a/*", "a/**", "a/**/config.json", "a/*/config.json", "./a/*", "a//b",
		"a?b/x", "a*", "a*/x", `a\*/x`, "[x]/y", `\[x\]/y`, "[xz]/y", "[!x]/y", "[^a-w]/[0-9x-z]", "[[:alpha:]]/y", "[]b]]/x", "[a-]*/x", "[-a]/x",
		"robots/robot_00[12].*", "robots/*.ya?ml", "robots/*.y*ml", "robots/*", "{a,b}/x", "none", "a/b/c/config.yaml/", "[x", `x\`, "a[/]b", "ü/*", "?*/x.json",
		"/a", "../a", ".", "", "a/../x", "[!-a]/x", `[\]b]]/x`, "a.b/c", "*/", "a*/",
	} {
		asked := pattern
		if asked == "" {
			asked = "." // as Argo CD does
		}
		want := strings.FieldsFunc(git("ls-files", "--full-name", "-z", "--", asked), func(r rune) bool { return r == 0 })
		slices.Sort(want)
		match, err := gitPathspec(pattern)
		if err != nil {
			t.Errorf("%q: %v", pattern, err)
			continue
		}
		var got []string
		for _, f := range below(all, pattern) {
			if match(f) {
				got = append(got, f)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q: got %q, git says %q", pattern, got, want)
		}
	}
	if _, err := gitPathspec(":(glob)**"); err == nil {
		t.Error("a signature is no error")
	}
}
