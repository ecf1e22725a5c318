package gitmirror

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/gittest"
)

const place = "github.com/acme/robot-deployment"

// sandbox runs git as a client would.
type sandbox struct{ *gittest.Sandbox }

func newSandbox(t testing.TB) *sandbox {
	t.Helper()
	return &sandbox{gittest.New(t, "Robot")}
}

// source makes a deployment repository: branches main and canary, an annotated tag and a light one.
func (s *sandbox) source() string {
	s.T.Helper()
	dir := filepath.Join(s.T.TempDir(), "source")
	s.Git(s.Home, "init", "--quiet", dir)
	s.Commit(dir, "charts/robot-app/Chart.yaml", "name: robot-app\nversion: 1.5.3\n")
	s.Commit(dir, "robot-values/robot-001.yaml", "ssid: factory\n"+strings.Repeat("offset: 1\n", 200))
	s.Commit(dir, "charts/robot-app/Chart.yaml", "name: robot-app\nversion: 1.5.4\n")
	s.Git(dir, "tag", "-a", "v1.5.4", "-m", "release")
	s.Git(dir, "tag", "light", "main~1")
	s.Git(dir, "branch", "canary")
	return dir
}

// state is what a lock would say of a repository.
func (s *sandbox) state(dir string) bundle.Git {
	s.T.Helper()
	g := bundle.Git{Head: s.Git(dir, "symbolic-ref", "HEAD"), Version: "test"}
	for line := range strings.SplitSeq(s.Git(dir, "show-ref", "--dereference"), "\n") {
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
	s.T.Helper()
	if len(revs) == 0 {
		revs = []string{"--branches", "--tags"}
	}
	file := filepath.Join(s.T.TempDir(), "layer.bundle")
	s.Git(dir, append([]string{"bundle", "create", "--quiet", file}, revs...)...)
	data, err := os.ReadFile(file)
	if err != nil {
		s.T.Fatal(err)
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
