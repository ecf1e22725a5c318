package render_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/plimsoll/plimsoll/builder/closure"
	"github.com/plimsoll/plimsoll/builder/render"
)

// files are names and contents.
type files map[string]string

// parse reads files out of one text, in which lines "-- name --" start them.
func parse(text string) files {
	f := make(files)
	name := ""
	for line := range strings.Lines(text) {
		if n, ok := strings.CutPrefix(strings.TrimSpace(line), "-- "); ok && strings.HasSuffix(n, " --") {
			name = strings.TrimSuffix(n, " --")
			f[name] = ""
		} else if name != "" {
			f[name] += line
		}
	}
	return f
}

func (f files) write(t *testing.T, dir string) {
	t.Helper()
	for name, data := range f {
		file := filepath.Join(dir, filepath.FromSlash(name))
		must(t, os.MkdirAll(filepath.Dir(file), 0o755))
		must(t, os.WriteFile(file, []byte(data), 0o644))
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// gitIn runs real git.
func gitIn(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com",
		"GIT_AUTHOR_DATE=2026-01-01T00:00:00Z", "GIT_COMMITTER_DATE=2026-01-01T00:00:00Z")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// repository makes a bare repository with the refs (refs/heads/main, refs/tags/v1) and the files in each.
func repository(t *testing.T, item string, refs map[string]files) closure.Repository {
	t.Helper()
	work, bare := t.TempDir(), filepath.Join(t.TempDir(), "bare.git")
	gitIn(t, work, "init", "-q", "-b", "scratch")
	r := closure.Repository{Item: item, URLs: []string{"https://" + item + ".git"}, GitDir: bare, Head: "refs/heads/main"}
	for _, ref := range slices.Sorted(maps.Keys(refs)) {
		for _, entry := range must2(os.ReadDir(work)) {
			if entry.Name() != ".git" {
				must(t, os.RemoveAll(filepath.Join(work, entry.Name())))
			}
		}
		refs[ref].write(t, work)
		gitIn(t, work, "add", "-A", "-f")
		gitIn(t, work, "commit", "-q", "--allow-empty", "-m", ref)
		commit := gitIn(t, work, "rev-parse", "HEAD")
		gitIn(t, work, "update-ref", ref, commit)
		r.Revisions = append(r.Revisions, closure.Revision{Name: ref, Commit: commit})
	}
	gitIn(t, work, "clone", "-q", "--bare", "--mirror", work, bare)
	return r
}

func must2[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// folder makes a plain folder.
func folder(t *testing.T, item string, f files) closure.Repository {
	t.Helper()
	dir := t.TempDir()
	f.write(t, dir)
	return closure.Repository{Item: item, URLs: []string{"https://" + item + ".git"}, Dir: dir}
}

// archive packs a chart.
func archive(t *testing.T, name string, f files) string {
	t.Helper()
	var buf bytes.Buffer
	zipped := gzip.NewWriter(&buf)
	tw := tar.NewWriter(zipped)
	for _, file := range slices.Sorted(maps.Keys(f)) {
		must(t, tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name + "/" + file, Mode: 0o644, Size: int64(len(f[file]))}))
		_, err := tw.Write([]byte(f[file]))
		must(t, err)
	}
	must(t, tw.Close())
	must(t, zipped.Close())
	path := filepath.Join(t.TempDir(), name+".tgz")
	must(t, os.WriteFile(path, buf.Bytes(), 0o644))
	return path
}

func answer(t *testing.T, req closure.Request) *closure.Answer {
	t.Helper()
	a, err := render.Run(t.Context(), req, render.Options{TempDir: t.TempDir()})
	must(t, err)
	return a
}

func only(t *testing.T, f files) *closure.Answer {
	t.Helper()
	return answer(t, closure.Request{Repositories: []closure.Repository{folder(t, "example.com/repo", f)}})
}

// placed is a place as one line.
func placed(p closure.Place) string {
	s := p.Item
	if p.Revision != "" {
		s += "@" + strings.TrimPrefix(p.Revision, "refs/")
	}
	s += fmt.Sprintf(" %s:%d", p.File, p.Line)
	if p.Object != "" {
		s += " [" + p.Object + "]"
	}
	if p.Field != "" {
		s += " " + p.Field
	}
	if p.Values != nil {
		s += " values=" + strings.Join(p.Values, "+")
	}
	if p.By != "" {
		s += " by=" + p.By
	}
	return s
}

func references(a *closure.Answer) []string {
	var lines []string
	for _, r := range a.References {
		lines = append(lines, strings.TrimSpace(r.Kind+" "+r.Ref+" "+strings.TrimSpace(r.Chart+" "+r.Version))+" | "+placed(r.Place))
	}
	return lines
}

func problems(a *closure.Answer) []string {
	var lines []string
	for _, p := range a.Problems {
		lines = append(lines, p.Reason+" | "+placed(p.Place))
	}
	return lines
}

func renderings(a *closure.Answer) []string {
	var lines []string
	for _, r := range a.Renderings {
		lines = append(lines, strings.Join(strings.Fields(fmt.Sprintf("%s %s %s %s %s %s %d", r.Engine, r.Item, r.Revision, r.Path, strings.Join(r.Values, "+"), r.By, r.Objects)), " "))
	}
	return lines
}

func secrets(a *closure.Answer) []string {
	var lines []string
	for _, s := range a.Secrets {
		lines = append(lines, s.What+" | "+placed(s.Place))
	}
	return lines
}

// same compares lines.
func same(t *testing.T, what string, got []string, want string) {
	t.Helper()
	var wanted []string
	for line := range strings.Lines(want) {
		if line = strings.TrimSpace(line); line != "" {
			wanted = append(wanted, line)
		}
	}
	if !slices.Equal(got, wanted) {
		t.Errorf("%s:\n%s\nwant\n%s", what, strings.Join(got, "\n"), strings.Join(wanted, "\n"))
	}
}

func symlink(t *testing.T, target, name string) {
	t.Helper()
	must(t, os.Symlink(target, name))
}
