package render_test

import (
	"strings"
	"testing"

	"github.com/plimsoll/plimsoll/builder/closure"
)

const appChart = `
-- charts/app/Chart.yaml --
apiVersion: v2
name: app
version: 1.0.0
-- charts/app/values.yaml --
image:
  repository: ghcr.io/acme/app
  tag: never-run
-- charts/app/templates/a.yaml --
apiVersion: v1
kind: Pod
metadata: {name: "{{ .Release.Name }}"}
spec:
  containers:
  - image: "{{ .Values.image.repository }}:{{ .Values.image.tag }}"
`

// TestArgo: an app of apps, values from another repository, parameters, kustomize images, plain folders, a tag.
func TestArgo(t *testing.T) {
	deploy := parse(appChart + `
-- root.yaml --
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: root, namespace: argocd}
spec:
  destination: {namespace: argocd}
  source: {repoURL: "git@github.com:acme/deploy.git", targetRevision: main, path: apps}
-- apps/Chart.yaml --
apiVersion: v2
name: apps
version: 1.0.0
-- apps/values.yaml --
robots: [r1, r2]
-- apps/templates/apps.yaml --
{{- range .Values.robots }}
---
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: "{{ . }}", namespace: argocd}
spec:
  destination: {namespace: robots}
  sources:
  - repoURL: https://github.com/acme/deploy
    targetRevision: main
    path: charts/app
    helm: {valueFiles: ["$values/robots/{{ . }}.yaml"]}
  - {repoURL: "https://github.com/acme/values.git", targetRevision: v1, ref: values}
{{- end }}
-- more/param.yaml --
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: param}
spec:
  source:
    repoURL: https://github.com/acme/deploy
    path: charts/app
    helm:
      parameters: [{name: image.tag, value: by-parameter}]
---
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: kust}
spec:
  source:
    repoURL: https://github.com/acme/deploy
    path: kust
    kustomize: {images: ["old=ghcr.io/acme/new:7"]}
---
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: folder}
spec: {source: {repoURL: "https://github.com/acme/deploy", targetRevision: v0.*, path: plain, directory: {recurse: true, exclude: "not/*"}}}
---
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: chart}
spec: {source: {repoURL: "https://charts.example.com", chart: cam, targetRevision: "1.*", helm: {valuesObject: {tag: inline}}}}
---
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: gone}
spec: {source: {repoURL: "https://github.com/acme/deploy", path: nowhere}}
-- kust/kustomization.yaml --
resources: [pod.yaml]
-- kust/pod.yaml --
apiVersion: v1
kind: Pod
metadata: {name: kust}
spec: {containers: [{name: c, image: "old:1"}]}
`)
	tagged := parse(`
-- plain/a/b.yaml --
apiVersion: v1
kind: Pod
metadata: {name: tagged}
spec: {containers: [{image: "tagged:1"}]}
-- plain/not/b.yaml --
apiVersion: v1
kind: Pod
spec: {containers: [{image: "never:1"}]}
`)
	cam := archive(t, "cam", files{"Chart.yaml": "apiVersion: v2\nname: cam\nversion: 1.5.0\n", "values.yaml": "tag: x\n",
		"templates/a.yaml": "apiVersion: v1\nkind: Pod\nmetadata: {name: cam}\nspec: {containers: [{image: 'ghcr.io/acme/cam:{{ .Values.tag }}'}]}\n"})
	a := answer(t, closure.Request{
		Repositories: []closure.Repository{
			repository(t, "github.com/acme/deploy", map[string]files{"refs/heads/main": deploy, "refs/tags/v0.1.0": {"x": "y"}, "refs/tags/v0.2.0": tagged}),
			repository(t, "github.com/acme/values", map[string]files{
				"refs/heads/main": {"x": "y"},
				"refs/tags/v1":    {"robots/r1.yaml": "image: {tag: one}\n", "robots/r2.yaml": "image:\n  tag: two\n"},
			}),
		},
		Charts: []closure.Chart{{Item: "cam:1.5.0", Name: "cam", Version: "1.5.0", Sources: []string{"https://charts.example.com/"}, Archive: cam}},
	})
	same(t, "problems", problems(a), `
Application gone: github.com/acme/deploy has no folder "nowhere" at refs/heads/main | github.com/acme/deploy@heads/main more/param.yaml:30 [Application gone]
`)
	var images []string
	for _, line := range references(a) {
		if strings.HasPrefix(line, "image ") {
			images = append(images, strings.ReplaceAll(line, "github.com/acme/", ""))
		}
	}
	same(t, "images", images, `
image ghcr.io/acme/app:by-parameter | deploy@heads/main more/param.yaml:9 [Pod param] spec.containers[0].image by=Application param
image ghcr.io/acme/app:one | values@tags/v1 robots/r1.yaml:1 [Pod r1] spec.containers[0].image values=robots/r1.yaml by=Application argocd/r1
image ghcr.io/acme/app:two | values@tags/v1 robots/r2.yaml:2 [Pod r2] spec.containers[0].image values=robots/r2.yaml by=Application argocd/r2
image ghcr.io/acme/cam:inline | deploy@heads/main more/param.yaml:28 [Pod cam] spec.containers[0].image by=Application chart
image ghcr.io/acme/new:7 | deploy@heads/main more/param.yaml:11 [Pod kust] spec.containers[0].image by=Application kust
image tagged:1 | deploy@tags/v0.2.0 plain/a/b.yaml:4 [Pod tagged] spec.containers[0].image by=Application folder
`)
	same(t, "renderings", renderings(a), `
helm cam:1.5.0 Application chart 1
manifests github.com/acme/deploy refs/heads/main 1
helm github.com/acme/deploy refs/heads/main apps Application argocd/root 2
helm github.com/acme/deploy refs/heads/main charts/app Application param 1
helm github.com/acme/deploy refs/heads/main charts/app robots/r1.yaml Application argocd/r1 1
helm github.com/acme/deploy refs/heads/main charts/app robots/r2.yaml Application argocd/r2 1
kustomize github.com/acme/deploy refs/heads/main kust Application kust 1
manifests github.com/acme/deploy refs/heads/main more 5
manifests github.com/acme/deploy refs/tags/v0.2.0 plain Application folder 1
`)
}

// TestAppOfAppsByHand: a chart of Applications that no object asks for is rendered first, and what it asks for is not
// rendered with its defaults.
func TestAppOfAppsByHand(t *testing.T) {
	a := only(t, parse(appChart+`
-- a-set/kustomization.yaml --
resources: [set.yaml]
-- a-set/set.yaml --
apiVersion: argoproj.io/v1alpha1
kind: ApplicationSet
metadata: {name: robots, namespace: argocd}
spec:
  generators: [{git: {repoURL: "https://example.com/repo.git", revision: HEAD, files: [{path: "robots/*.json"}]}}]
  goTemplate: true
  template:
    metadata: {name: "robot-{{ .name }}"}
    spec:
      source: {repoURL: "https://example.com/repo.git", path: "charts/app", helm: {valuesObject: {image: {tag: "{{ .tag }}"}}}}
-- robots/one.json --
{"name": "one", "tag": "t1"}
-- robots/two.json --
{"name": "two", "tag": "t2"}
-- charts/root/Chart.yaml --
apiVersion: v2
name: root
version: 1.0.0
-- charts/root/templates/set.yaml --
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: set}
spec: {source: {repoURL: "https://example.com/repo", path: a-set}}
`))
	same(t, "problems", problems(a), "")
	var images []string
	for _, r := range a.References {
		if r.Kind == closure.KindImage {
			images = append(images, r.Ref+" "+r.Place.By)
		}
	}
	same(t, "images", images, `
ghcr.io/acme/app:t1 Application argocd/robot-one of ApplicationSet argocd/robots
ghcr.io/acme/app:t2 Application argocd/robot-two of ApplicationSet argocd/robots
`)
	same(t, "renderings", renderings(a), `
kustomize example.com/repo a-set Application set 1
helm example.com/repo charts/app Application argocd/robot-one of ApplicationSet argocd/robots 1
helm example.com/repo charts/app Application argocd/robot-two of ApplicationSet argocd/robots 1
helm example.com/repo charts/root 1
`)
}

// TestFlux: a Kustomization of a folder without a kustomization.yaml, variables, HelmReleases with a post-renderer.
func TestFlux(t *testing.T) {
	a := only(t, parse(appChart+`
-- clusters/site/flux.yaml --
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: fleet, namespace: flux-system}
spec: {url: "https://example.com/repo", ref: {branch: main}}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: apps, namespace: flux-system}
spec:
  path: ./apps
  sourceRef: {kind: GitRepository, name: fleet}
  images: [{name: side, newTag: "9"}]
  postBuild: {substitute: {tag: v3, name: robot}}
-- apps/pod.yaml --
apiVersion: v1
kind: Pod
metadata: {name: "${name}"}
spec:
  containers:
  - {name: a, image: "ghcr.io/acme/a:${tag}"}
  - {name: b, image: "ghcr.io/acme/b:${absent:=fallback}"}
  - {name: c, image: "side:1"}
-- apps/release.yaml --
apiVersion: helm.toolkit.fluxcd.io/v2
kind: HelmRelease
metadata: {name: "${name}", namespace: robots}
spec:
  chart: {spec: {chart: ./charts/app, sourceRef: {kind: GitRepository, name: fleet, namespace: flux-system}}}
  values: {image: {tag: "${tag}"}}
  postRenderers: [{kustomize: {patches: [{target: {kind: Pod}, patch: '[{"op": "add", "path": "/spec/initContainers", "value": [{"name": "i", "image": "patched:1"}]}]'}]}}]
-- apps/sub/kustomization.yaml --
resources: [x.yaml]
-- apps/sub/x.yaml --
apiVersion: v1
kind: Pod
metadata: {name: sub}
spec: {containers: [{name: c, image: "sub:1"}]}
`))
	same(t, "problems", problems(a), "")
	var images []string
	for _, line := range references(a) {
		if strings.HasPrefix(line, "image ") {
			images = append(images, strings.ReplaceAll(line, "example.com/repo ", ""))
		}
	}
	same(t, "images", images, `
image ghcr.io/acme/a:v3 | apps/pod.yaml:6 [Pod robot] spec.containers[0].image by=Kustomization flux-system/apps
image ghcr.io/acme/app:v3 | apps/release.yaml:1 [Pod robot] spec.containers[0].image by=HelmRelease robots/robot
image ghcr.io/acme/b:fallback | apps/pod.yaml:7 [Pod robot] spec.containers[1].image by=Kustomization flux-system/apps
image patched:1 | apps/release.yaml:1 [Pod robot] spec.initContainers[0].image by=HelmRelease robots/robot
image side:9 | clusters/site/flux.yaml:6 [Pod robot] spec.containers[2].image by=Kustomization flux-system/apps
image sub:1 | apps/sub/x.yaml:4 [Pod sub] spec.containers[0].image by=Kustomization flux-system/apps
`)
	same(t, "renderings", renderings(a), `
kustomize example.com/repo apps Kustomization flux-system/apps 3
helm example.com/repo charts/app HelmRelease robots/robot 1
manifests example.com/repo clusters/site 2
`)
}

// TestEndlessApplications: Applications that make others are followed to a limit.
func TestEndlessApplications(t *testing.T) {
	a := only(t, parse(`
-- start.yaml --
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: n0}
spec: {source: {repoURL: "https://example.com/repo", path: loop, helm: {valuesObject: {count: 1}}}}
-- loop/Chart.yaml --
apiVersion: v2
name: loop
version: 1.0.0
-- loop/templates/a.yaml --
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: n{{ .Values.count }}}
spec: {source: {repoURL: "https://example.com/repo", path: loop, helm: {valuesObject: {count: {{ add1 .Values.count }}}}}}
`))
	same(t, "problems", problems(a), `
Application n8: it came out of Applications in each other deeper than 8, and is not rendered | example.com/repo loop/templates/a.yaml:0 [Application n8] by=Application n7
`)
}
