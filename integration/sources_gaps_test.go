package integration

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Charts and repositories that the site will fetch are needs too, and a folder that cannot be rendered is no proof.
func TestMissingSources(t *testing.T) {
	for _, tc := range []struct {
		name, example, repository string
		changes                   map[string]func(string) string
		bundle                    func(string) string // change of bundle.yaml; nil: none
		want                      []string            // kind, reference, chart, version
		file                      string              // of the first gap's first place
	}{
		{
			name: "chart that an ApplicationSet and a HelmRelease ask for", example: "app-of-apps",
			bundle: func(s string) string {
				before, after, _ := strings.Cut(s, "  charts:\n")
				_, after, _ = strings.Cut(after, "  git:\n")
				return before + "  git:\n" + after
			},
			want: []string{"chart oci://ghcr.io/acme/charts/node-monitor  1.4.0", "chart oci://ghcr.io/acme/charts/node-monitor  1.4.x"},
			file: "apps/monitoring.yaml",
		},
		{
			name: "repository of an Application", example: "app-of-apps", repository: "fleet",
			changes: map[string]func(string) string{"root.yaml": replace("acme/fleet.git", "acme/elsewhere.git")},
			want:    []string{"git https://github.com/acme/elsewhere.git  main"}, file: "root.yaml",
		},
		{
			name: "branch that is not packed", example: "app-of-apps", repository: "fleet",
			changes: map[string]func(string) string{"root.yaml": replace("targetRevision: main", "targetRevision: canary")},
			want:    []string{"git https://github.com/acme/fleet.git  canary"}, file: "root.yaml",
		},
		{
			name: "remote base of a kustomization", example: "kustomize-overlays", repository: "plants",
			changes: map[string]func(string) string{"overlays/south/kustomization.yaml": replace("  - ../../base\n",
				"  - ../../base\n  - https://github.com/acme/shared//monitoring?ref=v2\n")},
			want: []string{"git https://github.com/acme/shared  v2"}, file: "overlays/south/kustomization.yaml",
		},
		{
			name: "dependency of a chart in Git", example: "ros-stack", repository: "ros-deployment",
			changes: map[string]func(string) string{"charts/robot-base/Chart.yaml": func(s string) string {
				return s + "dependencies:\n  - {name: mqtt-broker, version: ~2.4, repository: https://charts.example.com}\n"
			}},
			want: []string{"chart https://charts.example.com mqtt-broker ~2.4"}, file: "charts/robot-base/Chart.yaml",
		},
		{
			name: "template that does not render", example: "ros-stack", repository: "ros-deployment",
			changes: map[string]func(string) string{"charts/robot-base/templates/web-ui.yaml": replace("{{ .Values.registry }}", "{{ required \"no registry\" .Values.absent }}")},
			want:    []string{"rendering github.com/acme/ros-deployment/charts/robot-base/templates/web-ui.yaml"}, file: "charts/robot-base/templates/web-ui.yaml",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := newExample(t, tc.example)
			if tc.bundle != nil {
				edit(t, filepath.Join(e.dir, "bundle.yaml"), tc.bundle)
			}
			if tc.changes != nil {
				e.commit(tc.repository, "main", tc.changes)
			}
			gaps := e.gaps()
			var got []string
			for _, g := range gaps {
				got = append(got, strings.TrimSpace(g.Kind+" "+g.Ref+" "+g.Chart+" "+g.Version))
			}
			if !slices.Equal(got, tc.want) {
				t.Fatalf("gaps\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tc.want, "\n"))
			}
			if p := gaps[0].Places[0]; p.File != tc.file || p.Line == 0 || gaps[0].Suggestion == "" {
				t.Errorf("%+v, want a line of %s and a suggestion", gaps[0], tc.file)
			}
		})
	}
}

// What looks secret is named, its value is not; the build goes on.
func TestSecretsAreNamed(t *testing.T) {
	e := newExample(t, "ros-stack")
	const secret = "correct-horse-battery-staple"
	e.commit("ros-deployment", "main", map[string]func(string) string{"robots/arm-01.yaml": func(s string) string {
		return s + "telemetry:\n  password: " + secret + "\n"
	}})
	r := e.build(filepath.Join(t.TempDir(), "bundle"))
	if r.code != 0 {
		t.Errorf("exit code %d\n%s", r.code, r.stderr)
	}
	if !strings.Contains(r.stderr, "robots/arm-01.yaml:7") || !strings.Contains(r.stderr, "password") {
		t.Errorf("the warning does not name the place:\n%s", r.stderr)
	}
	if strings.Contains(r.stdout+r.stderr, secret) {
		t.Errorf("the secret itself is printed:\n%s%s", r.stdout, r.stderr)
	}
}

// Without the proof an incomplete bundle builds, and its lock claims nothing.
func TestInsecureIncomplete(t *testing.T) {
	e := newExample(t, "kustomize-overlays")
	edit(t, filepath.Join(e.dir, "bundle.yaml"), replace("    - ghcr.io/acme/mqtt-bridge:1.2.0\n", ""))
	if gaps := e.gaps(); len(gaps) != 1 {
		t.Fatalf("gaps %v", gaps)
	}
	if _, i := e.mustBuild("--insecure-incomplete"); i.Lock.Closure != nil {
		t.Error("the lock has a proof")
	}
	out := filepath.Join(t.TempDir(), "bundle")
	if r := e.build(out); r.code != 3 {
		t.Errorf("exit code %d", r.code)
	}
	if _, err := os.Stat(filepath.Join(out, "index.json")); err == nil {
		t.Error("an incomplete bundle was written")
	}
}
