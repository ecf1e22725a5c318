package render_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/plimsoll/plimsoll/builder/closure"
)

const overlays = `
-- base/kustomization.yaml --
resources: [deploy.yaml, cron.yaml]
configMapGenerator:
- name: settings
  files: [settings.yaml]
-- base/settings.yaml --
apiVersion: v1
kind: Pod
spec: {containers: [{image: "inside-a-configmap:1"}]}
-- base/deploy.yaml --
apiVersion: apps/v1
kind: Deployment
metadata: {name: app}
spec:
  template:
    spec:
      containers:
      - name: app
        image: acme/app
      - name: side
        image: ghcr.io/acme/side:1
-- base/cron.yaml --
apiVersion: batch/v1
kind: CronJob
metadata: {name: cron}
spec:
  jobTemplate: {spec: {template: {spec: {containers: [{name: c, image: "ghcr.io/acme/cron:1"}]}}}}
-- components/debug/kustomization.yaml --
apiVersion: kustomize.config.k8s.io/v1alpha1
kind: Component
patches:
- target: {kind: Deployment}
  patch: |-
    - op: add
      path: /spec/template/spec/containers/-
      value: {name: debug, image: "ghcr.io/acme/debug:9"}
-- overlays/prod/kustomization.yaml --
namespace: robots
namePrefix: prod-
resources:
- ../../base
components:
- ../../components/debug
patches:
- path: side.yaml
images:
- name: acme/app
  newName: ghcr.io/acme/app
  newTag: v7
-- overlays/prod/side.yaml --
apiVersion: apps/v1
kind: Deployment
metadata: {name: app}
spec:
  template:
    spec:
      containers:
      - name: side
        image: ghcr.io/acme/side:prod
-- plain.yaml --
apiVersion: v1
kind: Pod
metadata: {name: plain}
spec: {containers: [{image: "plain:1"}]}
-- package.json --
{"name": "x", "apiVersion": 1}
-- values.yaml --
image: ghcr.io/acme/values:1
`

func TestKustomize(t *testing.T) {
	a := only(t, parse(overlays))
	same(t, "problems", problems(a), "")
	same(t, "references", references(a), `
image ghcr.io/acme/app:v7 | example.com/repo overlays/prod/kustomization.yaml:12 [Deployment robots/prod-app] spec.template.spec.containers[1].image
image ghcr.io/acme/cron:1 | example.com/repo base/cron.yaml:5 [CronJob robots/prod-cron] spec.jobTemplate.spec.template.spec.containers[0].image
image ghcr.io/acme/debug:9 | example.com/repo components/debug/kustomization.yaml:8 [Deployment robots/prod-app] spec.template.spec.containers[2].image
image ghcr.io/acme/side:prod | example.com/repo overlays/prod/side.yaml:9 [Deployment robots/prod-app] spec.template.spec.containers[0].image
image plain:1 | example.com/repo plain.yaml:4 [Pod plain] spec.containers[0].image
`)
	same(t, "renderings", renderings(a), `
manifests example.com/repo 1
kustomize example.com/repo overlays/prod 3
`)
}

// TestRemoteBases: each is a reference; one that the bundle carries is rendered in its place; nothing is fetched.
func TestRemoteBases(t *testing.T) {
	lib := repository(t, "github.com/acme/lib", map[string]files{
		"refs/heads/main": parse(overlays),
		"refs/tags/v1": parse(`
-- base/kustomization.yaml --
resources: [pod.yaml, "https://github.com/acme/deeper//x?ref=v3"]
-- base/pod.yaml --
apiVersion: v1
kind: Pod
metadata: {name: lib}
spec: {containers: [{name: c, image: "lib:old"}]}
`)})
	lib.Revisions[0].Name = "refs/heads/side" // main is rendered elsewhere in this file
	lib.Renders = nil
	site := folder(t, "github.com/acme/site", parse(`
-- a/kustomization.yaml --
resources:
- https://user:secret@github.com/acme/lib//base?ref=v1
- git@github.com:acme/absent.git//x/y?ref=v2&timeout=10s
- github.com/acme/absent/z
- https://example.com/install.yaml
images: [{name: lib, newTag: new}]
-- b/kustomization.yaml --
components: [ssh://git@git.example.com:2222/org/comp.git//c]
resources: [pod.yaml]
-- b/pod.yaml --
apiVersion: v1
kind: Pod
metadata: {name: b}
spec: {containers: [{name: c, image: "b:1"}]}
-- c/kustomization.yaml --
resources: ["https://github.com/acme/lib//nowhere?ref=v1"]
`))
	a := answer(t, closure.Request{Repositories: []closure.Repository{site, lib}, Ignore: []string{"overlays", "plain.yaml", "base"}})
	same(t, "references", references(a), `
git git@github.com:acme/absent.git v2 | github.com/acme/site a/kustomization.yaml:3 resources[1]
git https://github.com/acme/absent | github.com/acme/site a/kustomization.yaml:4 resources[2]
git https://github.com/acme/deeper v3 | github.com/acme/lib@tags/v1 base/kustomization.yaml:1 resources[1]
git https://github.com/acme/lib v1 | github.com/acme/site a/kustomization.yaml:2 resources[0]
git https://github.com/acme/lib v1 | github.com/acme/site c/kustomization.yaml:1 resources[0]
git ssh://git@git.example.com:2222/org/comp.git | github.com/acme/site b/kustomization.yaml:1 components[0]
image b:1 | github.com/acme/site b/pod.yaml:4 [Pod b] spec.containers[0].image
image lib:new | github.com/acme/site a/kustomization.yaml:6 [Pod lib] spec.containers[0].image
`)
	same(t, "problems", problems(a), `
https://example.com/install.yaml would be fetched from the net, which cannot be carried: put the file into the repository | github.com/acme/site a/kustomization.yaml:5 resources[3]
github.com/acme/lib has no folder "nowhere" at refs/tags/v1 | github.com/acme/site c/kustomization.yaml:1 resources[0]
`)
}

// TestNothingIsFetched: no field of a kustomization, nor of a plugin's configuration, makes kustomize ask the net.
func TestNothingIsFetched(t *testing.T) {
	var asked atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		fmt.Fprint(w, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: fetched}\n")
	}))
	defer server.Close()
	url := server.URL + "/x.yaml"
	pod := "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c, image: 'p:1'}]}\n"
	for name, k := range map[string]string{
		"resources": "resources: [pod.yaml, URL]", "bases": "resources: [pod.yaml]\nbases: [URL]", "git": "resources: [pod.yaml, URL/org/repo.git]",
		"forced git": "resources: [pod.yaml, 'git::URL/org/repo']", "file": "resources: [pod.yaml, 'file:///etc']",
		"space": "resources: [pod.yaml, ' URL']", "capitals": "resources: [pod.yaml, 'HTTP://" + strings.TrimPrefix(url, "http://") + "']",
		"components": "resources: [pod.yaml]\ncomponents: [URL]", "crds": "resources: [pod.yaml]\ncrds: [URL]",
		"configurations": "resources: [pod.yaml]\nconfigurations: [URL]", "generators": "resources: [pod.yaml]\ngenerators: [URL]",
		"transformers": "resources: [pod.yaml]\ntransformers: [URL]", "validators": "resources: [pod.yaml]\nvalidators: [URL]",
		"patches": "resources: [pod.yaml]\npatches: [{path: URL, target: {kind: Pod}}]", "merge": "resources: [pod.yaml]\npatchesStrategicMerge: [URL]",
		"json":         "resources: [pod.yaml]\npatchesJson6902: [{path: URL, target: {version: v1, kind: Pod, name: p}}]",
		"replacements": "resources: [pod.yaml]\nreplacements: [{path: URL}]", "openapi": "resources: [pod.yaml]\nopenapi: {path: URL}",
		"files": "resources: [pod.yaml]\nconfigMapGenerator: [{name: a, files: [URL, a=URL]}]", "envs": "resources: [pod.yaml]\nsecretGenerator: [{name: a, envs: [URL]}]",
		"env":    "resources: [pod.yaml]\nconfigMapGenerator: [{name: a, env: URL}]",
		"plugin": "resources: [pod.yaml]\ntransformers: [plugin.yaml]", "generator": "resources: [pod.yaml]\ngenerators: [generator.yaml]",
		"inline":         "resources: [pod.yaml]\ntransformers:\n- |-\n  apiVersion: builtin\n  kind: PatchTransformer\n  metadata: {name: x}\n  path: URL\n  target: {kind: Pod}",
		"folder":         "resources: [pod.yaml]\ntransformers: [plugins]",
		"helm":           "resources: [pod.yaml]\nhelmCharts: [{name: x, repo: 'URL', version: '1', valuesFile: URL}]",
		"helm generator": "resources: [pod.yaml]\ngenerators: [helm.yaml]", "helm field": "resources: [pod.yaml]\nhelmChartInflationGenerator: [{chartName: x, chartRepoUrl: URL}]",
	} {
		t.Run(name, func(t *testing.T) {
			f := files{
				"kustomization.yaml": strings.ReplaceAll(k, "URL", url), "pod.yaml": pod,
				"plugin.yaml":    "apiVersion: builtin\nkind: PatchTransformer\nmetadata: {name: x}\npath: " + url + "\ntarget: {kind: Pod}\n",
				"generator.yaml": "apiVersion: builtin\nkind: ConfigMapGenerator\nmetadata: {name: x}\nfiles: ['a=" + url + "']\n",
				"helm.yaml":      "apiVersion: builtin\nkind: HelmChartInflationGenerator\nmetadata: {name: x}\nname: x\nrepo: " + url + "\n",
			}
			f["plugins/kustomization.yaml"], f["plugins/plugin.yaml"] = "resources: [plugin.yaml]", f["plugin.yaml"]
			a := only(t, f)
			if n := asked.Swap(0); n > 0 {
				t.Errorf("%d requests were made", n)
			}
			if len(a.Problems) == 0 && !strings.Contains(strings.Join(references(a), " "), server.URL[7:]) {
				t.Errorf("neither a problem nor a reference: %q", references(a))
			}
		})
	}
}

// TestHelmCharts: charts in a kustomization are rendered from the bundle or from the repository.
func TestHelmCharts(t *testing.T) {
	chart := files{
		"Chart.yaml": "apiVersion: v2\nname: cam\nversion: 1.2.3\n", "values.yaml": "tag: none\nextra: x\n",
		"templates/a.yaml": "apiVersion: v1\nkind: Pod\nmetadata: {name: '{{ .Release.Name }}', namespace: '{{ .Release.Namespace }}'}\nspec: {containers: [{name: c, image: 'ghcr.io/acme/cam:{{ .Values.tag }}'}, {name: d, image: 'ghcr.io/acme/{{ .Values.extra }}'}]}\n",
	}
	f := parse(`
-- kustomization.yaml --
namespace: robots
helmCharts:
- name: cam
  repo: https://charts.example.com/
  version: 1.x
  releaseName: front
  valuesFile: cam.yaml
  valuesInline:
    extra: inline:1
- name: local
  releaseName: back
- name: absent
  repo: oci://ghcr.io/acme/charts
  version: 3.0.0
-- cam.yaml --
tag: v5
`)
	for name, data := range chart {
		f["charts/local/"+name] = data
	}
	a := answer(t, closure.Request{
		Repositories: []closure.Repository{folder(t, "r", f)},
		Charts:       []closure.Chart{{Item: "cam-item", Name: "cam", Version: "1.2.3", Sources: []string{"https://charts.example.com"}, Archive: archive(t, "cam", chart)}},
	})
	same(t, "problems", problems(a), "")
	same(t, "references", references(a), `
chart https://charts.example.com cam 1.x | r kustomization.yaml:3 helmCharts[0]
chart oci://ghcr.io/acme/charts/absent 3.0.0 | r kustomization.yaml:12 helmCharts[2]
image ghcr.io/acme/cam:none | r charts/local/values.yaml:1 [Pod robots/back] spec.containers[0].image
image ghcr.io/acme/cam:v5 | r cam.yaml:1 [Pod robots/front] spec.containers[0].image
image ghcr.io/acme/inline:1 | r kustomization.yaml:3 [Pod robots/front] spec.containers[1].image
image ghcr.io/acme/x | r charts/local/templates/a.yaml:4 [Pod robots/back] spec.containers[1].image
`)
	same(t, "renderings", renderings(a), "kustomize r 2")
}

// TestHostileKustomizations end, with a reason.
func TestHostileKustomizations(t *testing.T) {
	deep := files{"k1000/kustomization.yaml": "resources: [pod.yaml]", "k1000/pod.yaml": "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\n"}
	for i := range 1000 {
		deep[fmt.Sprintf("k%d/kustomization.yaml", i)] = fmt.Sprintf("resources: [../k%d]", i+1)
	}
	wide := files{"k20/kustomization.yaml": "resources: [pod.yaml]", "k20/pod.yaml": "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\n"}
	for i := range 20 {
		for _, side := range []string{"a", "b"} {
			wide[fmt.Sprintf("k%d%s/kustomization.yaml", i, side)] = fmt.Sprintf("namePrefix: %s\nresources: [../k%d]", side, i+1)
		}
		wide[fmt.Sprintf("k%d/kustomization.yaml", i)] = fmt.Sprintf("resources: [../k%da, ../k%db]", i, i)
	}
	bomb := "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
	for c := 'b'; c < 'j'; c++ {
		bomb += fmt.Sprintf("%c: &%c [%s]\n", c, c, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*%c, ", c-1), 10), ", "))
	}
	for name, tc := range map[string]struct {
		files files
		want  string
	}{
		"deep":          {deep, "kustomizations refer to each other deeper than 64"},
		"wide":          {wide, "reads kustomizations"},
		"circle":        {files{"a/kustomization.yaml": "resources: [../b]", "b/kustomization.yaml": "resources: [../a]"}, "in a circle: /0/a → /0/b → /0/a"},
		"itself":        {files{"a/kustomization.yaml": "resources: [.]"}, "in a circle"},
		"above":         {files{"a/kustomization.yaml": "resources: [../..]"}, "a/kustomization.yaml"},
		"file above":    {files{"a/kustomization.yaml": "resources: [../x.yaml]", "x.yaml": "apiVersion: v1\nkind: Pod\n"}, "is not in or below"},
		"absolute":      {files{"a/kustomization.yaml": "resources: [/etc/passwd]"}, "/etc/passwd"},
		"bomb":          {files{"kustomization.yaml": "resources: [x.yaml]", "x.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n" + bomb}, "YAML nodes"},
		"itself a bomb": {files{"kustomization.yaml": bomb}, "YAML nodes"},
		"plain bomb":    {files{"x.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n" + bomb}, "YAML nodes"},
		"values bomb":   {files{"c/Chart.yaml": "apiVersion: v2\nname: c\nversion: 1.0.0\n", "c/values.yaml": bomb}, "YAML nodes"},
		"alias circle":  {files{"x.yaml": "apiVersion: v1\nkind: ConfigMap\na: &a [*a]\n"}, "leads back to itself"},
		"nested":        {files{"x.yaml": "apiVersion: v1\nkind: ConfigMap\na: &a " + strings.Repeat("[", 5000) + strings.Repeat("]", 5000)}, "deep"},
		"not YAML":      {files{"kustomization.yaml": "resources: [\n"}, "did not find"},
		"unknown field": {files{"kustomization.yaml": "resource: [x]"}, "unknown field"},
		"two":           {files{"kustomization.yaml": "resources: []", "Kustomization": "resources: []"}, "multiple kustomization files"},
		"exec":          {files{"kustomization.yaml": "resources: []\ngenerators: [g.yaml]", "g.yaml": "apiVersion: v1\nkind: X\nmetadata:\n  name: x\n  annotations:\n    config.kubernetes.io/function: |\n      exec: {path: /bin/true}\n"}, "external plugins disabled"},
	} {
		t.Run(name, func(t *testing.T) {
			a := only(t, tc.files)
			if got := strings.Join(problems(a), "\n"); !strings.Contains(got, tc.want) {
				t.Errorf("got %q, want %s", got, tc.want)
			}
			for _, p := range a.Problems {
				if len(p.Reason) > 700 {
					t.Errorf("a reason of %d bytes", len(p.Reason))
				}
			}
		})
	}
}
