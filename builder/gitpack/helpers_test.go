package gitpack

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// sandbox runs git as a user would, in a home of its own.
type sandbox struct {
	t    *testing.T
	home string
	tick int
}

func newSandbox(t *testing.T) *sandbox {
	t.Helper()
	home := t.TempDir()
	config := "[user]\n\tname = Robot\n\temail = robot@example.com\n[init]\n\tdefaultBranch = main\n[protocol \"file\"]\n\tallow = always\n"
	if err := os.WriteFile(filepath.Join(home, ".gitconfig"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return &sandbox{t: t, home: home}
}

func (s *sandbox) env() []string {
	s.tick++
	date := fmt.Sprintf("%d +0000", 1_700_000_000+s.tick*60)
	return []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + s.home, "GIT_CONFIG_NOSYSTEM=1", "LC_ALL=C",
		"GIT_AUTHOR_DATE=" + date, "GIT_COMMITTER_DATE=" + date,
	}
}

func (s *sandbox) git(dir string, args ...string) string {
	s.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir, cmd.Env = dir, s.env()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		s.t.Fatalf("git %s: %v: %s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(string(out))
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

// repository makes a deployment repository with branches main and canary, an annotated tag, a tag of that tag, a light
// tag, a tag of a file, and a history long enough for deltas.
func (s *sandbox) repository() string {
	s.t.Helper()
	dir := filepath.Join(s.t.TempDir(), "robot-deployment")
	s.git(s.home, "init", "--quiet", dir)
	var values strings.Builder
	for i := range 12 {
		for j := range 20 {
			fmt.Fprintf(&values, "robot-%03d: {ssid: factory, offset: %d}\n", 20*i+j, i*j*j)
		}
		s.commit(dir, "robot-values/robots.yaml", values.String())
	}
	s.commit(dir, "charts/robot-app/Chart.yaml", "name: robot-app\nversion: 1.5.4\n")
	s.git(dir, "tag", "-a", "v1.5.4", "-m", "release")
	s.git(dir, "tag", "-a", "nested", "-m", "tag of a tag", "v1.5.4")
	s.git(dir, "tag", "light")
	s.git(dir, "tag", "file", "HEAD:charts/robot-app/Chart.yaml")
	s.git(dir, "checkout", "--quiet", "-b", "canary")
	s.commit(dir, "robot-values/robots.yaml", values.String()+"canary: true\n")
	s.git(dir, "branch", "feature/arm")
	s.git(dir, "checkout", "--quiet", "main")
	return dir
}

func (s *sandbox) pack(o Options) (*Packed, error) {
	s.t.Helper()
	if o.Dir == "" {
		o.Dir = s.t.TempDir()
	}
	if o.Env == nil {
		o.Env = s.env()
	}
	p, err := Pack(context.Background(), o)
	if err == nil {
		s.t.Cleanup(func() {
			if err := p.Close(); err != nil {
				s.t.Error(err)
			}
		})
	}
	left, _ := os.ReadDir(o.Dir)
	if err != nil && len(left) > 0 {
		s.t.Errorf("Pack left %s in the scratch folder", left[0].Name())
	}
	return p, err
}

func (s *sandbox) mustPack(o Options) *Packed {
	s.t.Helper()
	p, err := s.pack(o)
	if err != nil {
		s.t.Fatal(err)
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
