package integration

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

const (
	app   = "ghcr.io/acme/robot-app"
	tool  = "ghcr.io/acme/camera-calibration"
	chart = "ghcr.io/acme/charts/robot-app"
	repo  = "$URL/git/github.com/acme/robot-deployment"
)

// The main job: import, pull with every client, import the next release, pull, roll back, pull.
func TestReleasesThroughRealClients(t *testing.T) {
	s := newSite(t)
	s.must("import", s.bundle("v1.5.4"))
	s.start()
	s.follow(1)
	first := s.pullAll("v1.5.4")
	s.must("import", s.bundle("v1.5.5"))
	s.follow(2)
	second := s.pullAll("v1.5.5")
	if first == second {
		t.Error("both releases have one image and one commit")
	}
	if _, _, err := s.relay.PullImage(t.Context(), app+":v1.5.4", linux("amd64")); err == nil {
		t.Error("the tag of the old release is still served")
	}
	if _, _, err := s.relay.PullImage(t.Context(), app+"@"+first.digest, linux("amd64")); err != nil {
		t.Errorf("the kept release cannot be pulled by digest: %v", err)
	}
	s.must("rollback")
	s.follow(3)
	if again := s.pullAll("v1.5.4"); again != first {
		t.Errorf("after the roll-back %+v, before %+v", again, first)
	}
	s.must("import", s.bundle("v1.5.5"))
	s.follow(4)
	s.pullAll("v1.5.5")
}

func linux(arch string) v1.Platform { return v1.Platform{OS: "linux", Architecture: arch} }

// seen is what clients saw of a release.
type seen struct{ digest, commit string }

func (s *site) pullAll(version string) seen {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*time.Minute)
	defer cancel()
	var got seen
	for _, image := range []string{app + ":" + version, tool + ":v2.1.0"} {
		for _, arch := range []string{"amd64", "arm64"} {
			img, digest, err := s.relay.PullImage(ctx, image, linux(arch))
			if err != nil {
				s.t.Fatalf("%s: %v", image, err)
			}
			config, err := img.ConfigFile()
			if err != nil || config.Architecture != arch {
				s.t.Errorf("%s: platform %v, want %s (%v)", image, config.Architecture, arch, err)
			}
			if strings.HasPrefix(image, app) {
				got.digest = digest
			}
		}
	}
	desc, err := s.relay.OrasCopy(ctx, app, version)
	if err != nil || desc.Digest.String() != got.digest {
		s.t.Fatalf("oras: %s, want %s (%v)", desc.Digest, got.digest, err)
	}
	referrers, err := s.relay.OrasReferrers(ctx, app, desc)
	if err != nil || len(referrers) < 2 {
		s.t.Errorf("oras: %d referrers, want a signature and an SBOM (%v)", len(referrers), err)
	}
	if _, archive, err := s.relay.HelmPull(chart + ":" + chartVersion(s.t)); err != nil || len(archive) == 0 {
		s.t.Errorf("Helm: %d bytes (%v)", len(archive), err)
	}
	got.commit = s.cloneAll(ctx, version)
	return got
}

func chartVersion(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "examples", "robot-deployment", "charts", "robot-app", "Chart.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if v, ok := strings.CutPrefix(line, "version:"); ok {
			return strings.Trim(strings.TrimSpace(v), `"`)
		}
	}
	t.Fatal("Chart.yaml has no version")
	return ""
}

// cloneAll gives the commit of main.
func (s *site) cloneAll(ctx context.Context, version string) string {
	s.t.Helper()
	dir := s.t.TempDir()
	git := func(sub string, args ...string) string {
		s.t.Helper()
		out, err := s.relay.Git(ctx, filepath.Join(dir, sub), args...)
		if err != nil {
			s.t.Fatal(err)
		}
		return out
	}
	git("", "clone", "-q", repo, "full")
	head := git("full", "rev-parse", "HEAD")
	if tag := git("full", "describe", "--tags", "--exact-match", "HEAD"); tag != version {
		s.t.Errorf("main is at %s, want %s", tag, version)
	}
	git("full", "fsck", "--full", "--strict")
	for _, protocol := range []string{"0", "2"} {
		refs := git("", "-c", "protocol.version="+protocol, "ls-remote", "-q", repo+".git")
		for _, ref := range []string{"refs/heads/main", "refs/heads/canary", "refs/tags/" + version + "^{}"} {
			if !strings.Contains(refs, ref) {
				s.t.Errorf("ls-remote v%s: no %s in\n%s", protocol, ref, refs)
			}
		}
		git("", "-c", "protocol.version="+protocol, "clone", "-q", "--depth", "1", "--branch", "canary", repo, "shallow"+protocol)
		git("", "init", "-q", "sha"+protocol)
		git("sha"+protocol, "-c", "protocol.version="+protocol, "fetch", "-q", "--depth", "1", repo, head)
	}
	return head
}

// Tools that know nothing of Plimsoll copy a bundle, and it is still whole and signed.
func TestStockToolsCopyBundles(t *testing.T) {
	f := releases(t)
	if _, err := exec.LookPath("skopeo"); err != nil {
		t.Skip("skopeo is not installed (Debian: apt-get install skopeo)")
	}
	dst := filepath.Join(t.TempDir(), "copy")
	out, err := exec.Command("skopeo", "--insecure-policy", "copy", "--all", "oci:"+f.bundle("v1.5.4")+":v1.5.4", "oci:"+dst+":v1.5.4").CombinedOutput()
	if err != nil {
		t.Fatalf("skopeo: %v\n%s", err, out)
	}
	want, err := f.run("plimsoll", "inspect", "--json", f.bundle("v1.5.4"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := f.run("plimsoll", "inspect", "--json", dst+":v1.5.4")
	if err != nil || got != want {
		t.Errorf("skopeo's copy is another bundle: %v\n%s", err, got)
	}
}
