package render_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/plimsoll/plimsoll/builder/closure"
)

const deployment = `
-- plain/init.yaml --
apiVersion: apps/v1
kind: Deployment
metadata: {name: robot-app, namespace: robots}
spec:
  template:
    spec:
      initContainers:
        - name: calibrate
          image: ghcr.io/acme/gap-init:1
      containers:
        - name: app
          image: ghcr.io/acme/robot-app:v1
-- plain/cron.yaml --
apiVersion: v1
kind: ConfigMap
metadata: {name: other}
data: {image: "ghcr.io/acme/not-this:1"}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: nightly}
spec:
  jobTemplate:
    spec:
      template:
        spec:
          containers:
            - name: nightly
              image: ghcr.io/acme/gap-cron:2
-- plain/robot.yaml --
apiVersion: robots.acme.dev/v1
kind: Robot
metadata: {name: r1}
spec:
  runtime:
    image: ghcr.io/acme/gap-digest@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
-- charts/robot/Chart.yaml --
apiVersion: v2
name: robot
version: 1.0.0
-- charts/robot/values.yaml --
image:
  repository: ghcr.io/acme/robot-app
  tag: v1
camera: {}
-- charts/robot/templates/deployment.yaml --
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ .Release.Name }}
spec:
  template:
    spec:
      containers:
        - name: app
          image: "{{ .Values.image.repository }}:{{ .Values.image.tag }}"
        {{- with .Values.camera.image }}
        - name: camera
          image: {{ . }}
        {{- end }}
-- charts/robot/templates/hook.yaml --
apiVersion: batch/v1
kind: Job
metadata:
  name: migrate
  annotations:
    helm.sh/hook: pre-upgrade
spec:
  template:
    spec:
      containers:
        - name: migrate
          image: ghcr.io/acme/gap-hook:3
-- charts/robot/templates/NOTES.txt --
image: ghcr.io/acme/notes:1
-- robot-values/robot-001.yaml --
name: one
-- robot-values/robot-002.yaml --
name: two
camera:
  image: ghcr.io/acme/gap-robot:4
`

// TestPlantedGaps: what people forget is found, with the place where it stands.
func TestPlantedGaps(t *testing.T) {
	main := parse(deployment)
	canary := parse(deployment)
	canary["plain/canary.yaml"] = "apiVersion: v1\nkind: Pod\nmetadata: {name: canary}\nspec:\n  containers:\n  - image: ghcr.io/acme/gap-canary:5\n"
	repo := repository(t, "github.com/acme/robot-deployment", map[string]files{"refs/heads/main": main, "refs/heads/canary": canary, "refs/tags/v0": parse("-- old.yaml --\napiVersion: v1\nkind: Pod\nspec: {containers: [{image: old:1}]}\n")})
	repo.Renders = []closure.Render{{Chart: "charts/robot", Values: []string{"robot-values/*.yaml"}, Release: "robot"}}
	a := answer(t, closure.Request{Repositories: []closure.Repository{repo}})
	same(t, "problems", problems(a), "")
	var mains []string
	for _, line := range references(a) {
		if !slices.Contains(mains, line) && !strings.Contains(line, "@heads/canary ") {
			mains = append(mains, line)
		}
	}
	same(t, "references of main", mains, `
image ghcr.io/acme/gap-cron:2 | github.com/acme/robot-deployment@heads/main plain/cron.yaml:16 [CronJob nightly] spec.jobTemplate.spec.template.spec.containers[0].image
image ghcr.io/acme/gap-digest@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef | github.com/acme/robot-deployment@heads/main plain/robot.yaml:6 [Robot r1] spec.runtime.image
image ghcr.io/acme/gap-hook:3 | github.com/acme/robot-deployment@heads/main charts/robot/templates/hook.yaml:12 [Job migrate] spec.template.spec.containers[0].image values=robot-values/robot-001.yaml
image ghcr.io/acme/gap-hook:3 | github.com/acme/robot-deployment@heads/main charts/robot/templates/hook.yaml:12 [Job migrate] spec.template.spec.containers[0].image values=robot-values/robot-002.yaml
image ghcr.io/acme/gap-init:1 | github.com/acme/robot-deployment@heads/main plain/init.yaml:9 [Deployment robots/robot-app] spec.template.spec.initContainers[0].image
image ghcr.io/acme/gap-robot:4 | github.com/acme/robot-deployment@heads/main robot-values/robot-002.yaml:3 [Deployment robot] spec.template.spec.containers[1].image values=robot-values/robot-002.yaml
image ghcr.io/acme/robot-app:v1 | github.com/acme/robot-deployment@heads/main charts/robot/values.yaml:2 [Deployment robot] spec.template.spec.containers[0].image values=robot-values/robot-001.yaml
image ghcr.io/acme/robot-app:v1 | github.com/acme/robot-deployment@heads/main charts/robot/values.yaml:2 [Deployment robot] spec.template.spec.containers[0].image values=robot-values/robot-002.yaml
image ghcr.io/acme/robot-app:v1 | github.com/acme/robot-deployment@heads/main plain/init.yaml:12 [Deployment robots/robot-app] spec.template.spec.containers[0].image
`)
	canaries := 0
	for _, r := range a.References {
		if r.Place.Revision == "refs/heads/canary" {
			canaries++
		}
		if r.Ref == "ghcr.io/acme/gap-canary:5" && placed(r.Place) != "github.com/acme/robot-deployment@heads/canary plain/canary.yaml:6 [Pod canary] spec.containers[0].image" {
			t.Errorf("the image of canary is at %s", placed(r.Place))
		}
	}
	if canaries != len(mains)+1 {
		t.Errorf("%d references of canary, want %d", canaries, len(mains)+1)
	}
	same(t, "renderings", renderings(a), `
helm github.com/acme/robot-deployment refs/heads/canary charts/robot robot-values/robot-001.yaml 2
helm github.com/acme/robot-deployment refs/heads/canary charts/robot robot-values/robot-002.yaml 2
manifests github.com/acme/robot-deployment refs/heads/canary plain 5
helm github.com/acme/robot-deployment refs/heads/main charts/robot robot-values/robot-001.yaml 2
helm github.com/acme/robot-deployment refs/heads/main charts/robot robot-values/robot-002.yaml 2
manifests github.com/acme/robot-deployment refs/heads/main plain 4
`)
}
