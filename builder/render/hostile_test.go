package render_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/plimsoll/plimsoll/builder/closure"
	"github.com/plimsoll/plimsoll/builder/render"
)

var built struct {
	once sync.Once
	dir  string
	err  error
}

// executable builds plimsoll-render, once and only when a test needs the process: fuzzing starts many of this one.
func executable(t *testing.T) string {
	t.Helper()
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "plimsoll-render-test-"); built.err != nil {
			return
		}
		out, err := exec.Command("go", "build", "-o", built.dir, "../../cmd/plimsoll-render").CombinedOutput()
		if err != nil {
			built.err = fmt.Errorf("%w\n%s", err, out)
		}
	})
	must(t, built.err)
	return filepath.Join(built.dir, "plimsoll-render")
}

func TestMain(m *testing.M) {
	code := m.Run()
	if built.dir != "" {
		os.RemoveAll(built.dir) //nolint:errcheck // the system's own folder
	}
	os.Exit(code)
}

// TestExecutable: the process gives the same answer, without PATH and from another folder.
func TestExecutable(t *testing.T) {
	path := executable(t)
	t.Chdir(t.TempDir())
	files{"folder/x.yaml": "apiVersion: v1\nkind: Pod\nspec: {containers: [{image: 'x:1'}]}\n", "folder/kustomization.yml": "bases: []\ncommonLabels: {a: b}\n"}.write(t, ".")
	req := closure.Request{Repositories: []closure.Repository{
		{Item: "folder", URLs: []string{"x"}, Dir: "folder"},
		repository(t, "github.com/acme/r", map[string]files{"refs/heads/main": parse(deployment)}),
	}}
	want := answer(t, req)
	temp := t.TempDir()
	got, err := closure.Runner{Path: path, TempDir: temp}.Run(t.Context(), req)
	must(t, err)
	same(t, "references", references(got), strings.Join(references(want), "\n"))
	same(t, "problems", problems(got), strings.Join(problems(want), "\n"))
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestRunErrors(t *testing.T) {
	var failure *closure.RunError
	_, err := closure.Runner{Path: executable(t)}.Run(t.Context(), closure.Request{ImageFields: []string{"["}})
	if !errors.As(err, &failure) || failure.ExitCode != 1 || !strings.Contains(failure.Stderr, `image field "["`) {
		t.Errorf("bad field: %v", err)
	}
	_, err = closure.Runner{Path: executable(t)}.Run(t.Context(), closure.Request{Repositories: []closure.Repository{{Item: "r", GitDir: t.TempDir(), Revisions: []closure.Revision{{Name: "refs/heads/main", Commit: strings.Repeat("a", 40)}}}}})
	if !errors.As(err, &failure) || !strings.Contains(err.Error(), "cat-file") {
		t.Errorf("no repository: %v", err)
	}
	_, err = closure.Runner{Path: filepath.Join(t.TempDir(), "none")}.Run(t.Context(), closure.Request{})
	if !errors.As(err, &failure) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no executable: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = (closure.Runner{Path: executable(t)}).Run(ctx, closure.Request{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	for _, input := range []string{"", "{", "[]", `{"unknown": 1}`, "{} {}", `{"ignore": ["a"], "ignore": ["b"]}`} {
		cmd := exec.Command(executable(t))
		cmd.Stdin = strings.NewReader(input)
		if out, err := cmd.CombinedOutput(); cmd.ProcessState.ExitCode() != 2 || !strings.Contains(string(out), "request") {
			t.Errorf("%s: %v, %s", input, err, out)
		}
	}
}

func chartWith(template string) files {
	return files{
		"a/Chart.yaml": "apiVersion: v2\nname: a\nversion: 1.0.0\n", "a/templates/x.yaml": template,
		"z.yaml": "apiVersion: v1\nkind: Pod\nspec: {containers: [{image: 'after:1'}]}\n",
	}
}

// endless counts to 10 to the 30: no memory, no end.
func endless() string {
	t := strings.Repeat("{{ range until 1000 }}", 10) + strings.Repeat("{{ end }}", 10)
	return "apiVersion: v1\nkind: X\n" + t
}

// TestEndlessTemplate: a template without an end is a problem, and the rest goes on.
func TestEndlessTemplate(t *testing.T) {
	r := closure.Runner{Path: executable(t), RenderingTimeout: time.Second, Timeout: time.Minute}
	a, err := r.Run(t.Context(), closure.Request{Repositories: []closure.Repository{folder(t, "r", chartWith(endless()))}})
	must(t, err)
	same(t, "problems", problems(a), "not rendered after 1s: a template or what it includes may have no end | r a/Chart.yaml:0")
	same(t, "references", references(a), "image after:1 | r z.yaml:3 [Pod] spec.containers[0].image")
}

// TestManyEndlessTemplates: the run is given up before all processors are busy for nothing.
func TestManyEndlessTemplates(t *testing.T) {
	f := chartWith(endless())
	for _, name := range []string{"b", "c", "d"} {
		f[name+"/Chart.yaml"], f[name+"/templates/x.yaml"] = f["a/Chart.yaml"], f["a/templates/x.yaml"]
	}
	r := closure.Runner{Path: executable(t), RenderingTimeout: 300 * time.Millisecond}
	_, err := r.Run(t.Context(), closure.Request{Repositories: []closure.Repository{folder(t, "r", f)}})
	if err == nil || !strings.Contains(err.Error(), "3 renderings had no end, the last one was c of r") {
		t.Errorf("got %v", err)
	}
}

// TestTimeout: the process is ended, with what it started.
func TestTimeout(t *testing.T) {
	r := closure.Runner{Path: executable(t), Timeout: 2 * time.Second}
	_, err := r.Run(t.Context(), closure.Request{Repositories: []closure.Repository{folder(t, "r", chartWith(endless()))}})
	var failure *closure.RunError
	if !errors.As(err, &failure) || !errors.Is(err, context.DeadlineExceeded) || failure.ExitCode != -1 || !strings.Contains(err.Error(), "not done after 2s") {
		t.Errorf("got %v", err)
	}
}

// TestMemoryBomb: the process ends itself, and says what it was at.
func TestMemoryBomb(t *testing.T) {
	bomb := `{{ $x := repeat 1000000 "x" }}{{ range until 100000 }}{{ $x = print $x (repeat 1000000 "x") }}{{ end }}`
	r := closure.Runner{Path: executable(t), Memory: 512 << 20, Timeout: time.Minute}
	_, err := r.Run(t.Context(), closure.Request{Repositories: []closure.Repository{folder(t, "r", chartWith(bomb))}})
	var failure *closure.RunError
	if !errors.As(err, &failure) || failure.ExitCode == 0 || !strings.Contains(failure.Stderr, "memory") {
		t.Fatalf("got %v", err)
	}
	t.Log(err)
}

// TestTemplateErrors of a hostile kind end by themselves.
func TestTemplateErrors(t *testing.T) {
	for template, want := range map[string]string{
		`{{ define "a" }}{{ include "a" . }}{{ end }}{{ include "a" . }}`:   "nested reference name",
		`{{ define "a" }}{{ template "a" . }}{{ end }}{{ template "a" . }}`: "exceeded maximum template depth",
		`{{ tpl "{{ tpl .Values.x . }}" (dict "Values" (dict "x" "{{")) }}`: "tpl",
		`{{ repeat -1 "x" }}`: "negative Repeat count",
		`{{ .Files.Get "../../../etc/passwd" }}{{ env "HOME" }}`: `function "env" not defined`,
		`{{ index (list) 5 }}`:           "out of range",
		"{{":                             "unclosed action",
		"apiVersion: v1\nkind: X\n\t- [": "no YAML",
	} {
		if got := strings.Join(problems(only(t, chartWith(template))), "\n"); !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %s", template, got, want)
		}
	}
}

// TestHostileArchives: nothing of an archive gets out of it.
func TestHostileArchives(t *testing.T) {
	chart := tar.Header{Typeflag: tar.TypeReg, Name: "c/Chart.yaml"}
	for name, tc := range map[string]struct {
		entry tar.Header
		want  string
	}{
		"parent":   {tar.Header{Typeflag: tar.TypeReg, Name: "c/../../x"}, "parent directory"},
		"absolute": {tar.Header{Typeflag: tar.TypeReg, Name: "c//etc/passwd"}, "absolute"},
		"huge":     {tar.Header{Typeflag: tar.TypeReg, Name: "c/templates/big", Size: 6 << 20}, "larger than"},
		"link":     {tar.Header{Typeflag: tar.TypeSymlink, Name: "c/templates/x.yaml", Linkname: "/etc/passwd"}, ""},
		"drive":    {tar.Header{Typeflag: tar.TypeReg, Name: "c/c:/x"}, "illegally named"},
	} {
		t.Run(name, func(t *testing.T) {
			var buf bytes.Buffer
			zipped := gzip.NewWriter(&buf)
			tw := tar.NewWriter(zipped)
			data := []byte("apiVersion: v2\nname: c\nversion: 1.0.0\n")
			chart.Size = int64(len(data))
			must(t, tw.WriteHeader(&chart))
			_, err := tw.Write(data)
			must(t, err)
			must(t, tw.WriteHeader(&tc.entry))
			_, err = tw.Write(make([]byte, tc.entry.Size))
			must(t, err)
			must(t, tw.Close())
			must(t, zipped.Close())
			path := filepath.Join(t.TempDir(), "c.tgz")
			must(t, os.WriteFile(path, buf.Bytes(), 0o644))
			a := answer(t, closure.Request{Charts: []closure.Chart{{Item: "c", Name: "c", Version: "1.0.0", Archive: path}}})
			if got := strings.Join(problems(a), "\n"); !strings.Contains(got, tc.want) || (tc.want == "") != (got == "") {
				t.Errorf("got %q, want %s", got, tc.want)
			}
		})
	}
	a := answer(t, closure.Request{Charts: []closure.Chart{{Item: "c", Archive: filepath.Join(t.TempDir(), "none.tgz")}}})
	same(t, "problems", problems(a), "no such file or directory | c :0")
}

// TestMaliciousNames: a Git tree with names that no checkout could have is read without them.
func TestMaliciousNames(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "bare.git")
	gitIn(t, t.TempDir(), "init", "-q", "--bare", dir)
	object := func(kind string, data []byte) string {
		cmd := exec.Command("git", "hash-object", "--literally", "-w", "-t", kind, "--stdin")
		cmd.Dir, cmd.Stdin = dir, bytes.NewReader(data)
		return strings.TrimSpace(string(must2(cmd.Output())))
	}
	raw := func(id string) string {
		var b []byte
		for i := 0; i < len(id); i += 2 {
			var c byte
			fmt.Sscanf(id[i:i+2], "%02x", &c)
			b = append(b, c)
		}
		return string(b)
	}
	pod := object("blob", []byte("apiVersion: v1\nkind: Pod\nspec: {containers: [{image: 'x:1'}]}\n"))
	etc := object("blob", []byte("/etc/passwd"))
	up := object("blob", []byte("../../../../etc/passwd"))
	self := object("blob", []byte("self.yaml"))
	kust := object("blob", []byte("resources: [etc.yaml, up.yaml, self.yaml, ../../x.yaml]\n"))
	sub := object("tree", []byte("100644 kustomization.yaml\x00"+raw(kust)+"120000 etc.yaml\x00"+raw(etc)+"120000 self.yaml\x00"+raw(self)+"120000 up.yaml\x00"+raw(up)))
	tree := object("tree", []byte("100644 ../../evil.yaml\x00"+raw(pod)+"100644 ..\x00"+raw(pod)+"40000 .\x00"+raw(sub)+"40000 .git\x00"+raw(sub)+
		"100644 a\nb.yaml\x00"+raw(pod)+"100644 \xff.yaml\x00"+raw(pod)+"100644 good.yaml\x00"+raw(pod)+"100644 good.yaml\x00"+raw(pod)+"40000 sub\x00"+raw(sub)+"160000 module\x00"+raw(sub)))
	commit := object("commit", []byte("tree "+tree+"\nauthor a <a@b> 0 +0000\ncommitter a <a@b> 0 +0000\n\nx\n"))
	a := answer(t, closure.Request{Repositories: []closure.Repository{{Item: "r", URLs: []string{"x"}, GitDir: dir, Revisions: []closure.Revision{{Name: "refs/heads/main", Commit: commit}}}}})
	same(t, "references", references(a), "image x:1 | r@heads/main good.yaml:3 [Pod] spec.containers[0].image")
	got := strings.Join(problems(a), "\n")
	if strings.Count(got, "no checkout could have") != 7 || !strings.Contains(got, "sub/kustomization.yaml") || strings.Contains(got, "root:") {
		t.Errorf("problems:\n%s", got)
	}
	// A tree in itself is not possible, but one that is there 10 to the 12 times is.
	bomb := sub
	for range 12 {
		var entries string
		for i := range 10 {
			entries += fmt.Sprintf("40000 d%d\x00%s", i, raw(bomb))
		}
		bomb = object("tree", []byte(entries))
	}
	commit = object("commit", []byte("tree "+bomb+"\nauthor a <a@b> 0 +0000\ncommitter a <a@b> 0 +0000\n\nx\n"))
	_, err := render.Run(t.Context(), closure.Request{Repositories: []closure.Repository{{Item: "r", URLs: []string{"x"}, GitDir: dir, Revisions: []closure.Revision{{Name: "refs/heads/main", Commit: commit}}}}}, render.Options{})
	if err == nil || !strings.Contains(err.Error(), "more than 200000 files") {
		t.Errorf("a bomb of trees: %v", err)
	}
}

// TestBigFiles are known and not read.
func TestBigFiles(t *testing.T) {
	big := "apiVersion: v1\nkind: Pod\n" + strings.Repeat("# x\n", 6<<18)
	a := answer(t, closure.Request{Repositories: []closure.Repository{repository(t, "r", map[string]files{"refs/heads/main": {
		"big.yaml": big, "k/kustomization.yaml": "resources: [big.yaml]", "k/big.yaml": big, "c/Chart.yaml": "apiVersion: v2\nname: c\nversion: 1.0.0\n", "c/files/model.bin": big,
	}})}})
	got := strings.Join(problems(a), "\n")
	if strings.Count(got, "more than 5242880 bytes") < 2 {
		t.Errorf("problems:\n%s", got)
	}
}
