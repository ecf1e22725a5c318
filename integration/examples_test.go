package integration

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/plimsoll/plimsoll/bundle"
)

// exampleNeeds are the folders of examples/ that hold a bundle.yaml, with what the completeness proof must find in each.
var exampleNeeds = map[string][]string{
	"robot-stack": {
		"image ghcr.io/acme/camera-calibration:v2.1.0",
		"image ghcr.io/acme/robot-app:v1.5.4",
	},
	"ros-stack": {
		"image ghcr.io/acme/ros/map-server:v3.1.5",
		"image ghcr.io/acme/ros/micro-ros-agent:jazzy-2",
		"image ghcr.io/acme/ros/navigation:v3.2.0",
		"image ghcr.io/acme/ros/perception:v3.2.0",
		"image ghcr.io/acme/ros/ros-core:jazzy-4",
		"image ghcr.io/acme/ros/slam:v3.1.5",
		"image ghcr.io/acme/ros/telemetry:v0.9.2",
		"image ghcr.io/acme/ros/web-ui:v1.12.0",
	},
	"kustomize-overlays": {
		"image ghcr.io/acme/camera-streamer:0.9.1",
		"image ghcr.io/acme/fleet-agent:v2.3.0",
		"image ghcr.io/acme/fleet-agent:v2.4.0",
		"image ghcr.io/acme/mqtt-bridge:1.2.0",
		"image ghcr.io/acme/robot-firmware:5.1.0",
	},
	"app-of-apps": {
		"chart oci://ghcr.io/acme/charts/node-monitor 1.4.0",
		"chart oci://ghcr.io/acme/charts/node-monitor 1.4.x",
		"git https://github.com/acme/fleet-flux.git main",
		"git https://github.com/acme/fleet.git main",
		"image ghcr.io/acme/amr-controller:v3.1.0",
		"image ghcr.io/acme/arm-controller:v2.0.1",
		"image ghcr.io/acme/gripper-driver:v0.4.0",
		"image ghcr.io/acme/site-gateway:v1.8.0",
		"image ghcr.io/acme/site-gateway:v1.9.0",
		"image quay.io/acme/node-monitor:v1.4.0",
	},
	"third-party-charts": {
		"image alpine:3.22",
		"image busybox:1.37.0",
		"image eclipse-mosquitto:2.0.22",
		"image quay.io/prometheus/node-exporter:v1.10.2",
	},
	"k3s": nil, // what k3s starts by itself stands in no manifest
}

// Each folder of examples/ that has a bundle.yaml builds, complete, and is made again to the byte: by another user in
// another place at another time from sources that lie differently, and by an auditor out of the bundle's own lock.
func TestExamples(t *testing.T) {
	specs, err := filepath.Glob("../examples/*/bundle.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if len(specs) != len(exampleNeeds) {
		t.Errorf("%d examples, %d are known here", len(specs), len(exampleNeeds))
	}
	for _, file := range specs {
		name := filepath.Base(filepath.Dir(file))
		t.Run(name, func(t *testing.T) {
			e := newExample(t, name)
			out, first := e.mustBuild()
			if first.Lock.Closure == nil {
				t.Fatal("no completeness proof in the lock")
			}
			if got := first.needs(); !slices.Equal(got, exampleNeeds[name]) {
				t.Errorf("needs\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(exampleNeeds[name], "\n"))
			}
			for _, n := range first.Lock.Closure.Needs {
				if n.Item == "" && n.Reason == "" || len(n.Places) == 0 || n.Places[0].File == "" || n.Places[0].Line == 0 {
					t.Errorf("need without an item, or without a place: %+v", n)
				}
			}
			for _, im := range e.spec().Spec.Images {
				used := slices.ContainsFunc(first.Lock.Closure.Needs, func(n bundle.Need) bool { return n.Item == im.Repository+":"+im.Tag })
				if !used && name != "k3s" {
					t.Errorf("%s is carried, and nothing needs it", im.Ref)
				}
			}
			if e.sbom != "" && first.item(t, e.sbom).Kind != bundle.KindReferrer {
				t.Errorf("the SBOM %s that came with an image does not travel", e.sbom)
			}
			checkSaysNothingOfThisMachine(t, out, filepath.Dir(e.dir))
			checkElsewhere(t, e, first)
			checkRebuild(t, e, out)
		})
	}
}

// checkSaysNothingOfThisMachine looks for the date, the host's name and folders of this machine in a bundle.
func checkSaysNothingOfThisMachine(t *testing.T, out, world string) {
	t.Helper()
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	words := []string{time.Now().UTC().Format(time.DateOnly), time.Now().Format(time.DateOnly), world, os.TempDir() + "/"}
	if len(host) > 8 {
		words = append(words, host)
	}
	blobs, err := filepath.Glob(filepath.Join(out, "blobs", "sha256", "*"))
	if err != nil || len(blobs) == 0 {
		t.Fatalf("blobs of %s: %v", out, err)
	}
	for _, blob := range append(blobs, filepath.Join(out, "index.json")) {
		data, err := os.ReadFile(blob)
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range words {
			if strings.Contains(string(data), word) {
				t.Errorf("%s says %q", blob, word)
			}
		}
	}
}

// checkElsewhere builds again where everything differs that must not matter.
func checkElsewhere(t *testing.T, e *example, first inspected) {
	t.Helper()
	o := e.elsewhere()
	tar := filepath.Join(t.TempDir(), "again.tar")
	if r := o.build(tar); r.code != 0 {
		t.Fatalf("second build: exit code %d\n%s", r.code, r.stderr)
	}
	if again := o.inspect(tar); again.Bundle.Digest != first.Bundle.Digest {
		out := filepath.Join(t.TempDir(), "first")
		e.build(out)
		t.Errorf("the second build is %s, the first %s\n%s", again.Bundle.Digest, first.Bundle.Digest, o.plimsoll("diff", "--patch", out, tar).stdout)
	}
}

// elsewhere is the same example for another user on another day: other folders, file times, modes, time zone, locale and
// home, another registry that got the images in another order, and Git repositories that are packed differently.
func (e *example) elsewhere() *example {
	e.t.Helper()
	world := filepath.Join(e.t.TempDir(), "a different", "and much longer path")
	o := &example{
		fixture: e.fixture, t: e.t, name: e.name, dir: filepath.Join(world, e.name),
		git: filepath.Join(world, "mirrors"), packed: e.packed, shell: "umask 077",
		env: []string{"HOME=" + e.t.TempDir(), "TZ=Pacific/Kiritimati", "LC_ALL=tr_TR.UTF-8", "TMPDIR=" + e.t.TempDir(), "GOMAXPROCS=1", "USER=mallory"},
	}
	copyTree(e.t, filepath.Dir(e.dir), world)
	long := time.Date(2001, 2, 3, 4, 5, 6, 7, time.UTC)
	e.check(filepath.WalkDir(world, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if err := os.Chmod(path, info.Mode().Perm()&0o700); err != nil { // as under umask 077
			return err
		}
		return os.Chtimes(path, long, long)
	}))
	repositories, err := filepath.Glob(filepath.Join(e.git, "*.git"))
	e.check(err)
	for _, bare := range repositories {
		mirror := filepath.Join(o.git, filepath.Base(bare))
		e.gitIn(e.git, "clone", "--quiet", "--mirror", "--no-local", bare, mirror)
		e.gitIn(mirror, "repack", "-adfq", "--depth=0", "--window=0")
	}
	o.startRegistry()
	o.serveCharts()
	e.copyRegistry(o.registry)
	return o
}

// checkRebuild lets an auditor make the bundle again, who has no private key.
func checkRebuild(t *testing.T, e *example, out string) {
	t.Helper()
	args := []string{
		"rebuild", out, "--verify", "-C", e.dir, "--key", e.path("keys", "release.pub"), "--attestation-key", e.path("keys", "attest.pub"), "--progress", "none",
	}
	if r := e.plimsoll(append(args, e.mirrors()...)...); r.code != 0 || !strings.Contains(r.stdout, "the same, to the byte") {
		t.Errorf("rebuild --verify: exit code %d\n%s%s", r.code, r.stdout, r.stderr)
	}
}
