package seed_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/plimsoll/plimsoll/examples/demo/seed"
	"github.com/plimsoll/plimsoll/internal/upstream"
)

// published is what there is after a run, read as others read it.
type published struct {
	robotApp, calibration v1.Hash
	repository            string
	main, canary          string // commits
}

func run(t *testing.T, host, dir, version string) published {
	t.Helper()
	if err := seed.Seed(t.Context(), host, dir, version); err != nil {
		t.Fatal(err)
	}
	p := published{
		robotApp:    pull(t, host+"/"+seed.RobotApp+":"+version),
		calibration: pull(t, host+"/"+seed.CameraCalibration+":v2.1.0"),
		repository:  filepath.Join(dir, "robot-deployment.git"),
	}
	p.main, p.canary = git(t, "-C", p.repository, "rev-parse", "main"), git(t, "-C", p.repository, "rev-parse", "canary")
	return p
}

func start(t *testing.T) string {
	t.Helper()
	r, err := upstream.Start(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r.Host()
}

func git(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", args...)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "GIT_") })
	cmd.Env = append(cmd.Env, "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL="+os.DevNull)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestTwoVersions(t *testing.T) {
	t.Setenv("GIT_DIR", filepath.Join(t.TempDir(), "none")) // as in a hook: Seed must not look there
	hostA, hostB := start(t), start(t)
	dirA, dirB := filepath.Join(t.TempDir(), "new"), t.TempDir()
	first := run(t, hostA, dirA, "v1.5.4")
	if again := run(t, hostA, dirA, "v1.5.4"); again != first {
		t.Errorf("published twice:\n%+v\n%+v", first, again)
	}
	second := run(t, hostA, dirA, "v1.5.5")
	if second.robotApp == first.robotApp || second.main == first.main || second.calibration != first.calibration || second.canary == first.canary {
		t.Errorf("v1.5.5 changed the wrong things:\n%+v\n%+v", first, second)
	}
	run(t, hostB, dirB, "v1.5.4")
	other := run(t, hostB, dirB, "v1.5.5")
	other.repository = second.repository
	if other != second {
		t.Errorf("another run of the same versions gives something else:\n%+v\n%+v", second, other)
	}
	checkGit(t, first, second)

	if again := pull(t, hostA+"/"+seed.RobotApp+":v1.5.4"); again != first.robotApp {
		t.Errorf("v1.5.4 became %s", again)
	}
}

func pull(t *testing.T, reference string) v1.Hash {
	t.Helper()
	ref, err := name.ParseReference(reference)
	if err != nil {
		t.Fatal(err)
	}
	idx, err := remote.Index(ref, remote.WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(idx); err != nil {
		t.Errorf("%s: %v", reference, err)
	}
	digest, err := idx.Digest()
	if err != nil {
		t.Fatal(err)
	}
	m, err := idx.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	var platforms []string
	for _, desc := range m.Manifests {
		platforms = append(platforms, desc.Platform.String())
	}
	if got := strings.Join(platforms, " "); got != "linux/amd64 linux/arm64" {
		t.Errorf("%s has platforms %s", reference, got)
	}
	return digest
}

func checkGit(t *testing.T, first, second published) {
	t.Helper()
	bare := second.repository
	git(t, "-C", bare, "fsck", "--strict", "--no-dangling")
	for _, tc := range []struct{ args, want string }{
		{"symbolic-ref HEAD", "refs/heads/main"},
		{"for-each-ref --format=%(refname)=%(objecttype)", "refs/heads/canary=commit\nrefs/heads/main=commit\nrefs/tags/v1.5.4=tag\nrefs/tags/v1.5.5=tag"},
		{"log --format=%s main", "Update the robots to robot-app v1.5.5\nAdd robot-002\nDeploy robot-app to robot-001"},
		{"log --format=%s main..canary", "Try robot-app v1.5.5\nTry another camera offset on robot-002"},
		{"log -1 --format=%an|%ce|%aI v1.5.4", "Acme Robotics|robots@acme.example|2026-01-15T10:00:00+00:00"},
		{"rev-parse v1.5.4^{commit}", first.main},
		{"rev-parse v1.5.5^{commit}", second.main},
		{"rev-parse canary", second.canary},
		{"diff --stat=80 --format= v1.5.4 v1.5.5 -- charts", ""},
		{"diff --name-only v1.5.4 v1.5.5", "robot-values/robot-001.yaml\nrobot-values/robot-002.yaml"},
		{"diff --name-only v1.5.4 " + first.canary, "robot-values/robot-002.yaml"},
		{"diff --name-only v1.5.5 canary", "robot-values/robot-002.yaml"},
	} {
		if got := git(t, append([]string{"-C", bare}, strings.Fields(tc.args)...)...); got != tc.want {
			t.Errorf("git %s:\n%s\nwant\n%s", tc.args, got, tc.want)
		}
	}
	// What is tagged v1.5.4 is the folder of the example.
	clone := filepath.Join(t.TempDir(), "clone")
	git(t, "clone", "--quiet", "--branch", "v1.5.4", "-c", "advice.detachedHead=false", bare, clone)
	git(t, "-C", clone, "--git-dir="+filepath.Join(clone, ".git"), "--work-tree="+examplePath(t), "diff", "--exit-code", "HEAD")
	for _, robot := range []string{"robot-001", "robot-002"} {
		if values := git(t, "-C", bare, "show", "main:robot-values/"+robot+".yaml"); !strings.Contains(values, "tag: v1.5.5") {
			t.Errorf("%s:\n%s", robot, values)
		}
	}
}

func examplePath(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs("../../robot-deployment")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRefusesAVersionThatIsNoTag(t *testing.T) {
	for _, version := range []string{"", "v1..2", "v1 2", "-x:y"} {
		if err := seed.Seed(t.Context(), "127.0.0.1:1", t.TempDir(), version); err == nil {
			t.Errorf("%q was published", version)
		}
	}
}
