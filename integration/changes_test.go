package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// One changed byte in a source is another bundle, and plimsoll diff says which item it is.
func TestOneChangedByte(t *testing.T) {
	for _, tc := range []struct {
		name, example string
		change        func(e *example)
		names         []string // in what diff says
	}{
		{
			"chart", "ros-stack",
			func(e *example) {
				flip(e, "git/ros-deployment/charts/robot-base/values.yaml", "so that a fork", "so that a Fork")
			},
			[]string{"ghcr.io/acme/charts/robot-base:1.4.0", "values.yaml"},
		},
		{
			"sub-chart", "ros-stack",
			func(e *example) { flip(e, "git/ros-deployment/charts/map-server/values.yaml", "again.", "again!") },
			[]string{"ghcr.io/acme/charts/autonomy:3.2.0", "ghcr.io/acme/charts/map-server:0.6.0"},
		},
		{
			"file in Git", "kustomize-overlays",
			func(e *example) {
				e.commit("plants", "main", map[string]func(string) string{"README.md": replace("one plant runs", "one plant Runs")})
			},
			[]string{"github.com/acme/plants", "refs/heads/main", "README.md"},
		},
		{
			"file in a folder", "third-party-charts",
			func(e *example) { flip(e, "dashboards/robots.json", "Battery", "Bbttery") },
			[]string{"plimsoll/site-services/files/dashboards:v3.0.1"},
		},
		{
			"plain file", "k3s",
			func(e *example) { flip(e, "download/install.sh", "#!/bin/sh", "#!/bin/sH") },
			[]string{"plimsoll/k3s/files/install.sh:v1.33.10_k3s1"},
		},
		{
			"permission to execute", "k3s",
			func(e *example) { e.check(os.Chmod(filepath.Join(e.dir, "download", "install.sh"), 0o644)) },
			[]string{"plimsoll/k3s/files/install.sh:v1.33.10_k3s1"},
		},
		{
			"image layer", "third-party-charts",
			func(e *example) {
				e.push("docker.io/library/busybox:1.37.0", "Software of docker.io/library/busybox:1.37.0")
			},
			[]string{"docker.io/library/busybox:1.37.0", "linux/amd64"},
		},
		{
			"artifact", "third-party-charts",
			func(e *example) { e.pushArtifact("ghcr.io/acme/models/grasp-net:v3", "Weights") },
			[]string{"ghcr.io/acme/models/grasp-net:v3"},
		},
		{
			"comment in bundle.yaml", "k3s",
			func(e *example) { flip(e, "bundle.yaml", "# A k3s cluster", "# a k3s cluster") },
			[]string{"bundle.yaml"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := newExample(t, tc.example)
			old, first := e.mustBuild()
			tc.change(e)
			changed, second := e.mustBuild()
			if first.Bundle.Digest == second.Bundle.Digest {
				t.Fatal("the digest is the same")
			}
			r := e.plimsoll("diff", "--exit-code", old, changed)
			if r.code != 1 {
				t.Errorf("diff --exit-code: exit code %d\n%s", r.code, r.stderr)
			}
			for _, name := range tc.names {
				if !strings.Contains(r.stdout, name) {
					t.Errorf("diff does not name %s:\n%s", name, r.stdout)
				}
			}
			if again := e.plimsoll("diff", "--exit-code", changed, changed); again.code != 0 {
				t.Errorf("diff of a bundle with itself: exit code %d\n%s", again.code, again.stdout)
			}
		})
	}
}

// flip changes one byte of a file and keeps its mode.
func flip(e *example, file, old, with string) {
	e.t.Helper()
	edit(e.t, filepath.Join(e.dir, filepath.FromSlash(file)), func(s string) string {
		if len(old) != len(with) || strings.Count(s, old) != 1 {
			e.t.Fatalf("%s: %q stands in it %d times", file, old, strings.Count(s, old))
		}
		return strings.Replace(s, old, with, 1)
	})
}
