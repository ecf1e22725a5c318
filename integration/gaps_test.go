package integration

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/plimsoll/plimsoll/builder/closure"
)

// gap is what plimsoll build --json says about something that is missing.
type gap struct {
	Kind       string          `json:"kind"`
	Ref        string          `json:"ref"`
	Chart      string          `json:"chart"`
	Version    string          `json:"version"`
	Places     []closure.Place `json:"places"`
	Suggestion string          `json:"suggestion"`
	Add        string          `json:"add"`
}

func (g gap) String() string {
	return strings.TrimSpace(g.Kind + " " + g.Ref + " " + g.Chart + " " + g.Version)
}

// gaps builds, and gives what is missing.
func (e *example) gaps(args ...string) []gap {
	e.t.Helper()
	r := e.build(filepath.Join(e.t.TempDir(), "bundle"), append(args, "--json")...)
	var out struct {
		Complete bool  `json:"complete"`
		Gaps     []gap `json:"gaps"`
	}
	if err := json.Unmarshal([]byte(r.stdout), &out); err != nil {
		e.t.Fatalf("build --json: exit code %d, %v\n%s%s", r.code, err, r.stdout, r.stderr)
	}
	if wantCode := map[bool]int{true: 0, false: 3}[len(out.Gaps) == 0]; r.code != wantCode || out.Complete != (wantCode == 0) {
		e.t.Errorf("exit code %d, complete %v with %d gaps\n%s", r.code, out.Complete, len(out.Gaps), r.stderr)
	}
	return out.Gaps
}

const digestA = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

// replace is a change of a file for edit and commit.
func replace(old, with string) func(string) string {
	return func(s string) string { return strings.Replace(s, old, with, 1) }
}

func write(text string) func(string) string { return func(string) string { return text } }

// Things that people forget, each planted in a copy of an example: each is found, alone, and the report says where.
func TestPlantedGaps(t *testing.T) {
	for _, tc := range []struct {
		name, example, branch string
		changes               map[string]func(string) string // in the example's first Git repository
		ref                   string
		place                 closure.Place // of one of the gap's places; Line is found by text
		text                  string        // of that line
	}{
		{
			name: "init container", example: "kustomize-overlays", branch: "main",
			changes: map[string]func(string) string{"base/mqtt-bridge.yaml": replace("      containers:\n",
				"      initContainers:\n        - name: wait\n          image: ghcr.io/acme/wait-for:1.0\n      containers:\n")},
			ref: "ghcr.io/acme/wait-for:1.0",
			place: closure.Place{
				Item: "github.com/acme/plants", Revision: "refs/heads/main", File: "base/mqtt-bridge.yaml",
				Object: "Deployment plant-north/mqtt-bridge", Field: "spec.template.spec.initContainers[0].image",
			},
			text: "ghcr.io/acme/wait-for:1.0",
		},
		{
			name: "CronJob", example: "ros-stack", branch: "main",
			changes: map[string]func(string) string{"charts/robot-base/templates/backup.yaml": write(`apiVersion: batch/v1
kind: CronJob
metadata:
  name: backup
spec:
  schedule: "0 3 * * *"
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: Never
          containers:
            - name: backup
              image: {{ .Values.registry }}/backup:v2
`)},
			ref: "ghcr.io/acme/ros/backup:v2",
			place: closure.Place{
				Item: "github.com/acme/ros-deployment", Revision: "refs/heads/main", File: "charts/robot-base/templates/backup.yaml",
				Object: "CronJob backup", Field: "spec.jobTemplate.spec.template.spec.containers[0].image", Values: []string{"robots/amr-02.yaml"},
			},
			text: "/backup:v2",
		},
		{
			name: "digest in a custom resource", example: "kustomize-overlays", branch: "main",
			changes: map[string]func(string) string{"overlays/north/robots.yaml": replace("ghcr.io/acme/robot-firmware:5.1.0", "ghcr.io/acme/robot-firmware@"+digestA)},
			ref:     "ghcr.io/acme/robot-firmware@" + digestA,
			place: closure.Place{
				Item: "github.com/acme/plants", Revision: "refs/heads/main", File: "overlays/north/robots.yaml",
				Object: "Robot plant-north/welder-1", Field: "spec.firmware.container",
			},
			text: digestA,
		},
		{
			name: "one robot's values file", example: "ros-stack", branch: "main",
			changes: map[string]func(string) string{"robots/arm-01.yaml": func(s string) string { return s + "perception:\n  tag: v3.3.0-rc1\n" }},
			ref:     "ghcr.io/acme/ros/perception:v3.3.0-rc1",
			place: closure.Place{
				Item: "github.com/acme/ros-deployment", Revision: "refs/heads/main", File: "robots/arm-01.yaml",
				Object: "Deployment autonomy", Field: "spec.template.spec.containers[1].image", Values: []string{"robots/arm-01.yaml"},
			},
			text: "v3.3.0-rc1",
		},
		{
			name: "only canary", example: "ros-stack", branch: "canary",
			changes: map[string]func(string) string{"charts/autonomy/values.yaml": replace("image: ghcr.io/acme/ros/slam:v3.1.5", "image: ghcr.io/acme/ros/slam:v4.0.0")},
			ref:     "ghcr.io/acme/ros/slam:v4.0.0",
			place: closure.Place{
				Item: "github.com/acme/ros-deployment", Revision: "refs/heads/canary", File: "charts/autonomy/values.yaml",
				Object: "Deployment autonomy", Field: "spec.template.spec.containers[2].image", Values: []string{"robots/amr-01.yaml"},
			},
			text: "ghcr.io/acme/ros/slam:v4.0.0",
		},
		{
			name: "Helm hook", example: "app-of-apps", branch: "main",
			changes: map[string]func(string) string{"charts/site-gateway/templates/migrate.yaml": write(`apiVersion: batch/v1
kind: Job
metadata:
  name: migrate
  annotations:
    helm.sh/hook: post-upgrade
spec:
  template:
    spec:
      restartPolicy: Never
      containers:
        - name: migrate
          image: ghcr.io/acme/gateway-migrate:v1
`)},
			ref: "ghcr.io/acme/gateway-migrate:v1",
			place: closure.Place{
				Item: "github.com/acme/fleet", Revision: "refs/heads/main", File: "charts/site-gateway/templates/migrate.yaml",
				Object: "Job migrate", Field: "spec.template.spec.containers[0].image", By: "Application argocd/gateway-plant-7 of ApplicationSet argocd/sites",
			},
			text: "ghcr.io/acme/gateway-migrate:v1",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := newExample(t, tc.example)
			repository := strings.TrimPrefix(tc.place.Item, "github.com/acme/")
			e.commit(repository, tc.branch, tc.changes)
			tc.place.Line = e.lineOf(repository, tc.branch, tc.place.File, tc.text)
			gaps := e.gaps()
			if len(gaps) != 1 || gaps[0].Kind != "image" || gaps[0].Ref != tc.ref {
				t.Fatalf("gaps %v, want image %s alone", gaps, tc.ref)
			}
			if !slices.ContainsFunc(gaps[0].Places, func(p closure.Place) bool { return samePlace(p, tc.place) }) {
				t.Errorf("no place %+v in\n%+v", tc.place, gaps[0].Places)
			}
			for _, p := range gaps[0].Places {
				if p.File != tc.place.File || p.Line != tc.place.Line || p.Revision != tc.place.Revision || tc.name == "one robot's values file" && !samePlace(p, tc.place) {
					t.Errorf("also at %+v", p)
				}
			}
			e.checkTable(tc.ref, tc.place)
			e.closeGap(gaps[0])
		})
	}
}

func samePlace(a, b closure.Place) bool {
	equal := slices.Equal(a.Values, b.Values)
	a.Values, b.Values = nil, nil
	if b.By == "" {
		a.By = ""
	}
	return equal && a.Item == b.Item && a.Revision == b.Revision && a.File == b.File && a.Line == b.Line && a.Object == b.Object && a.Field == b.Field && a.By == b.By
}

// lineOf finds the line of a text in a file of a branch.
func (e *example) lineOf(repository, branch, file, text string) int {
	e.t.Helper()
	content := e.gitIn(filepath.Join(e.git, repository+".git"), "show", branch+":"+file)
	for i, line := range strings.Split(content, "\n") {
		if strings.Contains(line, text) {
			return i + 1
		}
	}
	e.t.Fatalf("%s: no line with %q\n%s", file, text, content)
	return 0
}

// checkTable looks at what people see.
func (e *example) checkTable(ref string, p closure.Place) {
	e.t.Helper()
	r := e.build(filepath.Join(e.t.TempDir(), "bundle"))
	if r.code != 3 {
		e.t.Errorf("exit code %d, want 3", r.code)
	}
	for _, want := range append([]string{ref, p.File, p.Object}, p.Values...) {
		if !strings.Contains(r.stderr, want) {
			e.t.Errorf("the table does not say %s:\n%s", want, r.stderr)
		}
	}
}

// closeGap does what --add-missing proposes, with which the bundle is complete. An image that nobody can make, because
// only its digest is known, is allowed instead.
func (e *example) closeGap(g gap) {
	e.t.Helper()
	r := e.build(filepath.Join(e.t.TempDir(), "bundle"), "--add-missing")
	if !strings.Contains(r.stdout, "  images:\n    - "+g.Ref+"\n") {
		e.t.Errorf("--add-missing does not propose %s:\n%s", g.Ref, r.stdout)
	}
	file := filepath.Join(e.dir, "bundle.yaml")
	if strings.Contains(g.Ref, "@") {
		edit(e.t, file, replace("  closure:\n", "  closure:\n    allowExternal:\n      - {ref: \""+g.Ref+"\", reason: the maker's technician brings it}\n"))
	} else {
		edit(e.t, file, replace("  images:\n", "  images:\n    - "+g.Ref+"\n"))
		e.push(g.Ref, g.Ref)
	}
	if gaps := e.gaps(); len(gaps) != 0 {
		e.t.Errorf("still missing: %v", gaps)
	}
}
