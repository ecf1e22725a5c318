package render_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/plimsoll/plimsoll/builder/closure"
)

const stackChart = `
-- charts/stack/Chart.yaml --
apiVersion: v2
name: stack
version: 1.0.0
appVersion: 9.9.9
dependencies:
- {name: redis, version: 1.x, repository: "https://charts.example.com", condition: redis.enabled}
- {name: common, version: 0.1.0, repository: "file://../common"}
- {name: missing, version: ">=2", repository: "oci://ghcr.io/acme/charts"}
- {name: off, version: 1.0.0, repository: "https://charts.example.com", alias: other, condition: other.enabled}
-- charts/stack/Chart.lock --
dependencies:
- {name: missing, version: 2.3.4, repository: "oci://ghcr.io/acme/charts"}
digest: x
generated: 2026-01-01T00:00:00Z
-- charts/stack/values.yaml --
registry: ghcr.io
robot:
  image:
    repository: acme/robot
    tag: v1
sidecar:
  image:
    repository: acme/robot
    tag: side
lidar:
  tag: l1
full: quay.io/acme/full:1
redis:
  enabled: true
  image:
    tag: from-parent
other: {enabled: false}
-- charts/stack/templates/_helpers.tpl --
{{- define "stack.image" -}}{{ .registry }}/{{ .image.repository }}:{{ .image.tag }}{{- end -}}
-- charts/stack/templates/pods.yaml --
apiVersion: v1
kind: Pod
metadata: {name: "{{ .Release.Name }}-{{ randAlphaNum 8 | lower }}-{{ now | unixEpoch }}", namespace: {{ .Release.Namespace }}}
spec:
  containers:
  - image: {{ include "stack.image" (dict "registry" .Values.registry "image" .Values.robot.image) }}
  - image: {{ include "stack.image" (dict "registry" .Values.registry "image" .Values.sidecar.image) }}
  - image: ghcr.io/acme/lidar:{{ .Values.lidar.tag }}
  - image: {{ .Values.full }}
  - image: {{ printf "ghcr.io/%s/app:%s" "acme" .Chart.AppVersion }}
  - image: {{ include "common.image" . }}
---
{{- if .Values.never }}
apiVersion: v1
kind: Pod
spec: {containers: [{image: never:1}]}
{{- end }}
-- charts/stack/templates/tests/test.yaml --
apiVersion: v1
kind: Pod
metadata: {name: test, annotations: {helm.sh/hook: test}}
spec: {containers: [{image: "ghcr.io/acme/test:1"}]}
-- charts/stack/charts/redis/Chart.yaml --
apiVersion: v2
name: redis
version: 1.2.3
-- charts/stack/charts/redis/values.yaml --
image:
  repository: redis
  tag: default
-- charts/stack/charts/redis/templates/redis.yaml --
apiVersion: v1
kind: Pod
metadata: {name: redis}
spec:
  containers:
  - image: "{{ .Values.image.repository }}:{{ .Values.image.tag }}"
  - image: literal:1
-- charts/stack/charts/off/Chart.yaml --
apiVersion: v2
name: off
version: 1.0.0
-- charts/stack/charts/off/templates/x.yaml --
apiVersion: v1
kind: Pod
spec: {containers: [{image: "off:1"}]}
-- charts/stack/crds/crd.yaml --
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: x}
-- charts/common/Chart.yaml --
apiVersion: v2
name: common
version: 0.1.0
type: library
-- charts/common/templates/_image.tpl --
{{- define "common.image" }}ghcr.io/acme/common:7{{ end }}
-- values/site.yaml --
robot: {image: {tag: v2}}
lidar:
  tag: l2
-- values/robots/a.yaml --
full: quay.io/acme/full:a
-- values/robots/b.yaml --
redis: {enabled: false}
other:
  enabled: true
`

// TestHelm: values, charts in charts and missing ones, and where each image was chosen.
func TestHelm(t *testing.T) {
	repo := folder(t, "github.com/acme/r", parse(stackChart))
	repo.Renders = []closure.Render{{Chart: "charts/stack/", Values: []string{"values/site.yaml", "values/robots/*.yaml"}, Namespace: "robots"}}
	item := closure.Chart{
		Item: "ghcr.io/acme/charts/missing:2.3.4", Name: "missing", Version: "2.3.4", Sources: []string{"oci://ghcr.io/acme/charts/missing"},
		Archive: archive(t, "missing", files{
			"Chart.yaml":      "apiVersion: v2\nname: missing\nversion: 2.3.4\n",
			"values.yaml":     "img: docker.io/acme/missing:1\n",
			"templates/a.yml": "apiVersion: v1\nkind: Pod\nspec:\n  containers:\n  - image: {{ .Values.img }}\n",
		}),
	}
	req := closure.Request{Repositories: []closure.Repository{repo}, Charts: []closure.Chart{item}}
	a := answer(t, req)
	same(t, "problems", problems(a), "")
	var lines []string
	for _, line := range references(a) {
		if line = strings.ReplaceAll(line, "github.com/acme/r ", ""); !strings.Contains(line, "values=values/site.yaml+values/robots/b.yaml") {
			lines = append(lines, strings.ReplaceAll(line, " values=values/site.yaml+values/robots/a.yaml", ""))
		}
	}
	const object = "[Pod robots/stack-xxxxxxxx-946684800]"
	same(t, "references of a", lines, strings.NewReplacer("POD", object).Replace(`
chart oci://ghcr.io/acme/charts/missing 2.3.4 | charts/stack/Chart.yaml:8 dependencies[2]
image docker.io/acme/missing:1 | charts/stack/charts/missing-2.3.4.tgz:1 [Pod] spec.containers[0].image
image ghcr.io/acme/app:9.9.9 | charts/stack/templates/pods.yaml:10 POD spec.containers[4].image
image ghcr.io/acme/common:7 | charts/stack/templates/pods.yaml:11 POD spec.containers[5].image
image ghcr.io/acme/lidar:l2 | values/site.yaml:3 POD spec.containers[2].image
image ghcr.io/acme/robot:side | charts/stack/values.yaml:8 POD spec.containers[1].image
image ghcr.io/acme/robot:v2 | values/site.yaml:1 POD spec.containers[0].image
image ghcr.io/acme/test:1 | charts/stack/templates/tests/test.yaml:4 [Pod test] spec.containers[0].image
image literal:1 | charts/stack/charts/redis/templates/redis.yaml:7 [Pod redis] spec.containers[1].image
image quay.io/acme/full:a | values/robots/a.yaml:1 POD spec.containers[3].image
image redis:from-parent | charts/stack/values.yaml:16 [Pod redis] spec.containers[0].image
`))
	same(t, "renderings", renderings(a), `
helm github.com/acme/r charts/stack values/site.yaml+values/robots/a.yaml 5
helm github.com/acme/r charts/stack values/site.yaml+values/robots/b.yaml 5
`)
	for _, r := range a.References {
		if strings.HasSuffix(strings.Join(r.Place.Values, "+"), "b.yaml") && (strings.HasPrefix(r.Ref, "redis") || r.Ref == "literal:1") {
			t.Errorf("the switched off chart needs %s", r.Ref)
		}
	}
	if again := answer(t, req); !reflect.DeepEqual(a, again) {
		t.Error("a second answer is another one")
	}
}

// TestChartItem: a .tgz with values files of the disk, and one that nobody gives any.
func TestChartItem(t *testing.T) {
	dir := t.TempDir()
	files{"site/one.yaml": "# the site\nimage: {tag: two}\n"}.write(t, dir)
	chart := archive(t, "app", files{
		"Chart.yaml": "apiVersion: v2\nname: app\nversion: 1.0.0\n", "values.yaml": "image:\n  repository: ghcr.io/acme/app\n  tag: one\n",
		"templates/a.yaml": "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{image: '{{ .Values.image.repository }}:{{ .Values.image.tag }}'}]}\n",
	})
	a := answer(t, closure.Request{Charts: []closure.Chart{
		{Item: "item-b", Name: "app", Version: "1.0.0", Archive: chart},
		{Item: "item-a", Name: "app", Version: "1.0.0", Archive: chart, Dir: dir, Values: [][]string{{"site/one.yaml"}, {"nowhere.yaml"}}},
	}})
	same(t, "references", references(a), `
image ghcr.io/acme/app:one | item-b values.yaml:2 [Pod p] spec.containers[0].image
image ghcr.io/acme/app:two | item-a site/one.yaml:2 [Pod p] spec.containers[0].image values=site/one.yaml
`)
	same(t, "problems", problems(a), `
values file nowhere.yaml: no such file or directory | item-a nowhere.yaml:0 values=nowhere.yaml
`)
}

// TestHelmProblems: what cannot be rendered is said with its place, and the rest goes on.
func TestHelmProblems(t *testing.T) {
	repo := folder(t, "r", parse(`
-- charts/bad/Chart.yaml --
apiVersion: v2
name: bad
version: 1.0.0
dependencies:
- {name: x, version: 1.0.0}
- {name: why, version: 1.0.0, repository: "@acme"}
- {name: z, version: 1.0.0, repository: "file://../../../etc"}
-- charts/bad/templates/a.yaml --
apiVersion: v1
kind: ConfigMap
metadata: {name: a}
data:
  a: {{ required "need a" .Values.a }}
-- charts/broken/Chart.yaml --
name: [
-- charts/lib/Chart.yaml --
apiVersion: v2
name: lib
version: 1.0.0
type: library
-- charts/yaml/Chart.yaml --
apiVersion: v2
name: yaml
version: 1.0.0
-- charts/yaml/templates/a.yaml --
apiVersion: v1
kind: Pod
metadata: {name: good}
spec: {containers: [{image: "good:1"}]}
---
apiVersion: v1
kind: Pod
  broken: {{ .Values.x }}
-- charts/yaml/templates/b.yaml --
just: text
-- charts/yaml/templates/c.yaml --
apiVersion: v1
kind: Pod
metadata: {name: c}
spec: {containers: [{image: "{{ .Values.repository }}:{{ .Values.tag }}"}]}
`))
	repo.Renders = []closure.Render{{Chart: "charts/none"}, {Chart: "charts/yaml", Values: []string{"nothing/*.yaml"}}, {Chart: "charts/yaml", Values: []string{"no.yaml"}}, {Chart: "charts/yaml"}}
	a := answer(t, closure.Request{Repositories: []closure.Repository{repo}})
	same(t, "problems", problems(a), `
dependency x: is not in charts/, and no repository is named | r charts/bad/Chart.yaml:5 dependencies[0]
dependency why: the repository @acme is a name on somebody's machine, want its URL | r charts/bad/Chart.yaml:6 dependencies[1]
dependency z: is outside of what is packed: file://../../../etc | r charts/bad/Chart.yaml:7 dependencies[2]
execution error at (bad/templates/a.yaml:5:8): need a | r charts/bad/templates/a.yaml:5
cannot load Chart.yaml: error converting YAML to JSON: yaml: line 1: did not find expected node content | r charts/broken/Chart.yaml:0
no branch has a chart in charts/none | r charts/none:0
values file no.yaml: file does not exist | r charts/yaml:0 values=no.yaml
no file matches nothing/*.yaml | r charts/yaml:0 values=nothing/*.yaml
what it makes is no YAML: yaml: line 4: mapping values are not allowed in this context | r charts/yaml/templates/a.yaml:0
what it makes has no apiVersion or kind | r charts/yaml/templates/b.yaml:0
":" is not an image reference | r charts/yaml/templates/c.yaml:4 [Pod c] spec.containers[0].image
`)
	same(t, "references", references(a), `image good:1 | r charts/yaml/templates/a.yaml:4 [Pod good] spec.containers[0].image`)
}

// TestSchema: values are compared with the schema of the chart, and nothing that it refers to is fetched.
func TestSchema(t *testing.T) {
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { asked++ }))
	defer server.Close()
	chart := func(schema string) files {
		return files{
			"c/Chart.yaml": "apiVersion: v2\nname: c\nversion: 1.0.0\n", "c/values.yaml": "replicas: 3\n", "c/values.schema.json": schema,
			"c/templates/a.yaml": "apiVersion: v1\nkind: Pod\nspec: {containers: [{image: 'a:{{ .Values.replicas }}'}]}\n",
		}
	}
	if got := problems(only(t, chart(`{"properties": {"replicas": {"type": "integer"}}}`))); got != nil {
		t.Errorf("problems %q", got)
	}
	for schema, want := range map[string]string{
		`{"properties": {"replicas": {"type": "string"}}}`:               "got number, want string",
		`{"properties": {"replicas": {"$ref": "` + server.URL + `/x"}}}`: "which the site cannot reach",
		`{"$ref": "file:///etc/passwd"}`:                                 "file:///etc/passwd, which the site cannot reach",
		`{`:                                                              "unexpected EOF",
	} {
		if got := strings.Join(problems(only(t, chart(schema))), "\n"); !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %s", schema, got, want)
		}
	}
	if asked > 0 {
		t.Errorf("the schema was fetched %d times", asked)
	}
}

// TestManyRobots: one chart with the values of 200 robots is a matter of seconds.
func TestManyRobots(t *testing.T) {
	f := parse(stackChart)
	for i := range 200 {
		f[fmt.Sprintf("values/robots/r%03d.yaml", i)] = fmt.Sprintf("full: quay.io/acme/full:r%d\n", i)
	}
	repo := repository(t, "r", map[string]files{"refs/heads/main": f, "refs/heads/canary": f})
	repo.Renders = []closure.Render{{Chart: "charts/stack", Values: []string{"values/site.yaml", "values/robots/*.yaml"}}}
	start := time.Now()
	a := answer(t, closure.Request{Repositories: []closure.Repository{repo}})
	t.Logf("%d references of %d renderings in %v", len(a.References), len(a.Renderings), time.Since(start))
	if len(a.Renderings) != 2*202 || time.Since(start) > 30*time.Second {
		t.Errorf("%d renderings in %v", len(a.Renderings), time.Since(start))
	}
}

// TestCapabilities: templates see the version and the APIs of the site, no cluster and no DNS.
func TestCapabilities(t *testing.T) {
	f := files{
		"c/Chart.yaml": "apiVersion: v2\nname: c\nversion: 1.0.0\nkubeVersion: '>=1.28-0'\n",
		"c/templates/a.yaml": `apiVersion: v1
kind: Pod
metadata: {name: "x{{ getHostByName "localhost" }}{{ len (lookup "v1" "Secret" "" "") }}"}
spec:
  containers:
  - image: k:{{ .Capabilities.KubeVersion.Version }}
  {{- if .Capabilities.APIVersions.Has "acme.dev/v1" }}
  - image: acme:1
  {{- end }}
`,
	}
	req := closure.Request{Repositories: []closure.Repository{folder(t, "r", f)}, KubeVersion: "1.30", APIVersions: []string{"acme.dev/v1"}}
	same(t, "references", references(answer(t, req)), `
image acme:1 | r c/templates/a.yaml:8 [Pod x0] spec.containers[1].image
image k:v1.30 | r c/templates/a.yaml:6 [Pod x0] spec.containers[0].image
`)
	req.KubeVersion = "1.27"
	same(t, "problems", problems(answer(t, req)), "the chart wants Kubernetes >=1.28-0, and the site has v1.27 | r c/Chart.yaml:0")
}

func TestHelmIgnoreAndLinks(t *testing.T) {
	dir := t.TempDir()
	files{
		"c/Chart.yaml": "apiVersion: v2\nname: c\nversion: 1.0.0\n", "c/.helmignore": "secret.yaml\n", "c/templates/secret.yaml": "{{ broken",
		"shared.yaml": "apiVersion: v1\nkind: Pod\nspec: {containers: [{image: 'shared:1'}]}\n",
	}.write(t, dir)
	symlink(t, "../../shared.yaml", filepath.Join(dir, "c/templates/link.yaml"))
	a := answer(t, closure.Request{Repositories: []closure.Repository{{Item: "r", URLs: []string{"x"}, Dir: dir}}, Ignore: []string{"shared.*"}})
	same(t, "references", references(a), "image shared:1 | r c/templates/link.yaml:3 [Pod] spec.containers[0].image")
	symlink(t, "/etc/passwd", filepath.Join(dir, "c/templates/out.yaml"))
	a = answer(t, closure.Request{Repositories: []closure.Repository{{Item: "r", URLs: []string{"x"}, Dir: dir}}, Ignore: []string{"shared.*"}})
	same(t, "problems", problems(a), "symbolic link templates/out.yaml: c/templates/out.yaml: symbolic link c/templates/out.yaml leaves the repository: file does not exist | r c/Chart.yaml:0")
}
