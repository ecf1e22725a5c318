package gitmirror

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/plimsoll/plimsoll/bundle"
)

const place = "github.com/acme/robot-deployment"

// sandbox runs git as a client would, in a home of its own.
type sandbox struct {
	t    testing.TB
	home string
	tick atomic.Int64
}

func newSandbox(t testing.TB) *sandbox {
	t.Helper()
	s := &sandbox{t: t, home: t.TempDir()}
	s.write(s.home, ".gitconfig", "[user]\n\tname = Robot\n\temail = robot@example.com\n[init]\n\tdefaultBranch = main\n"+
		"[advice]\n\tdetachedHead = false\n[safe]\n\tdirectory = *\n")
	return s
}

func (s *sandbox) command(dir string, args ...string) *exec.Cmd {
	date := fmt.Sprintf("%d +0000", 1_700_000_000+s.tick.Add(60))
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + s.home, "GIT_CONFIG_NOSYSTEM=1", "LC_ALL=C", "GIT_TERMINAL_PROMPT=0",
		"GIT_AUTHOR_DATE=" + date, "GIT_COMMITTER_DATE=" + date,
	}
	return cmd
}

// try may be called from any goroutine.
func (s *sandbox) try(dir string, args ...string) (string, error) {
	cmd := s.command(dir, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("git %s: %w: %s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(string(out)), err
}

func (s *sandbox) git(dir string, args ...string) string {
	s.t.Helper()
	out, err := s.try(dir, args...)
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

func (s *sandbox) write(dir, name, content string) {
	s.t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

func (s *sandbox) commit(dir, name, content string) string {
	s.t.Helper()
	s.write(dir, name, content)
	s.git(dir, "add", "--all")
	s.git(dir, "commit", "--quiet", "-m", "change "+name)
	return s.git(dir, "rev-parse", "HEAD")
}

// source makes a deployment repository: branches main and canary, an annotated tag and a light one.
func (s *sandbox) source() string {
	s.t.Helper()
	dir := filepath.Join(s.t.TempDir(), "source")
	s.git(s.home, "init", "--quiet", dir)
	s.commit(dir, "charts/robot-app/Chart.yaml", "name: robot-app\nversion: 1.5.3\n")
	s.commit(dir, "robot-values/robot-001.yaml", "ssid: factory\n"+strings.Repeat("offset: 1\n", 200))
	s.commit(dir, "charts/robot-app/Chart.yaml", "name: robot-app\nversion: 1.5.4\n")
	s.git(dir, "tag", "-a", "v1.5.4", "-m", "release")
	s.git(dir, "tag", "light", "main~1")
	s.git(dir, "branch", "canary")
	return dir
}

// state is what a lock would say of a repository.
func (s *sandbox) state(dir string) bundle.Git {
	s.t.Helper()
	g := bundle.Git{Head: s.git(dir, "symbolic-ref", "HEAD"), Version: "test"}
	for line := range strings.SplitSeq(s.git(dir, "show-ref", "--dereference"), "\n") {
		oid, name, _ := strings.Cut(line, " ")
		if strings.HasSuffix(name, "^{}") {
			g.Refs[len(g.Refs)-1].Peeled = oid
		} else if strings.HasPrefix(name, "refs/heads/") || strings.HasPrefix(name, "refs/tags/") {
			g.Refs = append(g.Refs, bundle.GitRef{Name: name, OID: oid})
		}
	}
	return g
}

// layer makes a Git bundle as `git bundle create` does; without revs of everything.
func (s *sandbox) layer(dir string, revs ...string) []byte {
	s.t.Helper()
	if len(revs) == 0 {
		revs = []string{"--branches", "--tags"}
	}
	file := filepath.Join(s.t.TempDir(), "layer.bundle")
	s.git(dir, append([]string{"bundle", "create", "--quiet", file}, revs...)...)
	data, err := os.ReadFile(file)
	if err != nil {
		s.t.Fatal(err)
	}
	return data
}

func layersOf(data ...[]byte) []Layer {
	var layers []Layer
	for i, d := range data {
		layers = append(layers, Layer{Name: fmt.Sprintf("layer-%d", i+1), Open: func() (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(d)), nil
		}})
	}
	return layers
}

func open(t testing.TB, dir string, o Options) *Mirror {
	t.Helper()
	m, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func admit(t testing.TB, m *Mirror, g bundle.Git, data ...[]byte) {
	t.Helper()
	if err := m.Admit(context.Background(), place, g, layersOf(data...)); err != nil {
		t.Fatal(err)
	}
}

func prepare(t testing.TB, m *Mirror, n uint64, g bundle.Git) *Generation {
	t.Helper()
	gen, err := m.Prepare(context.Background(), n, []Repository{{Path: place, Git: g}})
	if err != nil {
		t.Fatal(err)
	}
	return gen
}

// site is a mirror behind an HTTP server, with the generation in an atomic pointer as the relay has it.
type site struct {
	m      *Mirror
	active atomic.Pointer[Generation]
	server *httptest.Server
}

func serve(t testing.TB, m *Mirror, g *Generation) *site {
	t.Helper()
	s := &site{m: m}
	s.active.Store(g)
	s.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.ServeGeneration(w, r, s.active.Load())
	}))
	t.Cleanup(s.server.Close)
	return s
}

func (s *site) url() string { return s.server.URL + "/git/" + place }

// newSite admits and serves everything of a fresh source.
func newSite(t *testing.T, o Options) (*sandbox, string, *site) {
	t.Helper()
	s := newSandbox(t)
	source := s.source()
	m := open(t, filepath.Join(t.TempDir(), "git"), o)
	g := s.state(source)
	admit(t, m, g, s.layer(source))
	return s, source, serve(t, m, prepare(t, m, 1, g))
}

// stored lists the files of the object store with their sizes.
func stored(t *testing.T, m *Mirror) string {
	t.Helper()
	var list strings.Builder
	err := filepath.WalkDir(m.path(storeName), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		fmt.Fprintln(&list, path, info.Size())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(m.path(quarantineName))
	if err != nil || len(left) > 0 {
		t.Errorf("quarantine: %v, %v", left, err)
	}
	return list.String()
}
