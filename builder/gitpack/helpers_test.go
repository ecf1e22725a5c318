package gitpack

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plimsoll/plimsoll/internal/gittest"
)

// sandbox runs git as a user would.
type sandbox struct{ *gittest.Sandbox }

func newSandbox(t *testing.T) *sandbox {
	t.Helper()
	return &sandbox{gittest.New(t, "Robot", "[protocol \"file\"]", "\tallow = always")}
}

// repository makes a deployment repository with branches main and canary, an annotated tag, a tag of that tag, a light
// tag, a tag of a file, and a history long enough for deltas.
func (s *sandbox) repository() string {
	s.T.Helper()
	dir := filepath.Join(s.T.TempDir(), "robot-deployment")
	s.Git(s.Home, "init", "--quiet", dir)
	var values strings.Builder
	for i := range 12 {
		for j := range 20 {
			fmt.Fprintf(&values, "robot-%03d: {ssid: factory, offset: %d}\n", 20*i+j, i*j*j)
		}
		s.Commit(dir, "robot-values/robots.yaml", values.String())
	}
	s.Commit(dir, "charts/robot-app/Chart.yaml", "name: robot-app\nversion: 1.5.4\n")
	s.Git(dir, "tag", "-a", "v1.5.4", "-m", "release")
	s.Git(dir, "tag", "-a", "nested", "-m", "tag of a tag", "v1.5.4")
	s.Git(dir, "tag", "light")
	s.Git(dir, "tag", "file", "HEAD:charts/robot-app/Chart.yaml")
	s.Git(dir, "checkout", "--quiet", "-b", "canary")
	s.Commit(dir, "robot-values/robots.yaml", values.String()+"canary: true\n")
	s.Git(dir, "branch", "feature/arm")
	s.Git(dir, "checkout", "--quiet", "main")
	return dir
}

func (s *sandbox) pack(o Options) (*Packed, error) {
	s.T.Helper()
	if o.Dir == "" {
		o.Dir = s.T.TempDir()
	}
	if o.Env == nil {
		o.Env = s.Env()
	}
	p, err := Pack(context.Background(), o)
	if err == nil {
		s.T.Cleanup(func() {
			if err := p.Close(); err != nil {
				s.T.Error(err)
			}
		})
	}
	left, _ := os.ReadDir(o.Dir)
	if err != nil && len(left) > 0 {
		s.T.Errorf("Pack left %s in the scratch folder", left[0].Name())
	}
	return p, err
}

func (s *sandbox) mustPack(o Options) *Packed {
	s.T.Helper()
	p, err := s.pack(o)
	if err != nil {
		s.T.Fatal(err)
	}
	return p
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
