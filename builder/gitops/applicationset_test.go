package gitops

import (
	"fmt"
	"strings"
	"testing"
)

var fleet = shelf{
	{"https://git.example.com/acme/robot-deployment.git", "HEAD"}: files(`-- robots/robot_001/config.json --
{"name": "robot-001", "site": {"name": "berlin", "zone": 3}, "list": ["a", "b"], "labels": {"canary": "true"}}
-- robots/robot_002/config.yaml --
name: robot-002
site: {name: paris, zone: 1000000}
-- robots/robot_003/many.yaml --
- {name: robot-003, site: {name: rome}}
- {name: robot-004, site: {name: oslo}}
-- robots/old/deep/config.json --
{"name": "old", "site": {"name": "x"}}
-- robots/.hidden/config.json --
{"name": "hidden", "site": {"name": "x"}}
-- charts/robot-app/Chart.yaml --
name: robot-app
version: 1.0.0
-- charts/camera/Chart.yaml --
name: camera
version: 1.0.0
-- charts/camera/templates/x.yaml --
x
-- charts/.git-hidden/x --
x
-- README.md --
x
`),
}

func TestGitDirectories(t *testing.T) {
	check(t, `
apiVersion: argoproj.io/v1alpha1
kind: ApplicationSet
metadata: {name: charts, namespace: argocd}
spec:
  generators:
  - git:
      repoURL: https://git.example.com/acme/robot-deployment
      revision: HEAD
      directories:
      - path: charts/*
      - path: charts/camera
        exclude: true
      - path: robots/robot_*
      values: {where: '{{path[0]}}-{{ path.basename }}'}
  template:
    metadata: {name: '{{path.basenameNormalized}}', labels: {'{{path.basename}}': x}}
    spec:
      source:
        repoURL: https://git.example.com/acme/robot-deployment
        targetRevision: HEAD
        path: '{{path}}'
        helm: {releaseName: '{{values.where}}', values: 'unknown: "{{nobody.knows}}"'}
      destination: {namespace: '{{path[1]}}'}
`, fleet, `
task Application argocd/robot-app of ApplicationSet argocd/charts: https://git.example.com/acme/robot-deployment@HEAD path=charts/robot-app release=robot-app/charts-robot-app values={"unknown":"{{nobody.knows}}"}
task Application argocd/robot-001 of ApplicationSet argocd/charts: https://git.example.com/acme/robot-deployment@HEAD path=robots/robot_001 release=robot_001/robots-robot_001 values={"unknown":"{{nobody.knows}}"}
task Application argocd/robot-002 of ApplicationSet argocd/charts: https://git.example.com/acme/robot-deployment@HEAD path=robots/robot_002 release=robot_002/robots-robot_002 values={"unknown":"{{nobody.knows}}"}
task Application argocd/robot-003 of ApplicationSet argocd/charts: https://git.example.com/acme/robot-deployment@HEAD path=robots/robot_003 release=robot_003/robots-robot_003 values={"unknown":"{{nobody.knows}}"}
git https://git.example.com/acme/robot-deployment @HEAD for ApplicationSet argocd/charts spec.generators[0].git.repoURL
git https://git.example.com/acme/robot-deployment @HEAD for Application argocd/robot-app of ApplicationSet argocd/charts spec.template.spec.source.repoURL
git https://git.example.com/acme/robot-deployment @HEAD for Application argocd/robot-001 of ApplicationSet argocd/charts spec.template.spec.source.repoURL
git https://git.example.com/acme/robot-deployment @HEAD for Application argocd/robot-002 of ApplicationSet argocd/charts spec.template.spec.source.repoURL
git https://git.example.com/acme/robot-deployment @HEAD for Application argocd/robot-003 of ApplicationSet argocd/charts spec.template.spec.source.repoURL
`)
}

// generated expands an ApplicationSet whose template makes Applications of charts, and gives what each is called, which
// chart it is of and which release, a line for each.
func generated(t *testing.T, look Lookup, spec string) string {
	t.Helper()
	found := Expand(objects(t, "apiVersion: argoproj.io/v1alpha1\nkind: ApplicationSet\nmetadata: {name: set}\nspec:\n"+spec), look)
	var b strings.Builder
	for _, task := range found.Tasks {
		name := strings.TrimSuffix(strings.TrimPrefix(task.By, "Application "), " of ApplicationSet set")
		fmt.Fprintf(&b, "%s %s@%s %s\n", name, task.Chart, task.Revision, task.Helm.Release)
	}
	for _, p := range found.Problems {
		fmt.Fprintf(&b, "problem %s\n", p.Reason)
	}
	return b.String()
}

func wantGenerated(t *testing.T, look Lookup, spec, want string) {
	t.Helper()
	got, want := sortedLines(generated(t, look, spec)), sortedLines(want)
	if got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestGitFiles(t *testing.T) {
	const template = `
  template:
    metadata: {name: '%s'}
    spec: {source: {repoURL: oci://ghcr.io/acme/robot, targetRevision: '%s', helm: {releaseName: '%s'}}}
`
	const git = `
  generators:
  - git:
      repoURL: git@git.example.com:acme/robot-deployment.git
      revision: HEAD
`
	wantGenerated(t, fleet, `  goTemplate: true
  goTemplateOptions: ["missingkey=error"]`+git+`
      files: [{path: "robots/*"}, {path: robots/old, exclude: true}]
      values: {zone: '{{ dig "zone" "none" .site }}'}
    selector: {matchExpressions: [{key: site.name, operator: NotIn, values: [oslo]}, {key: values.zone, operator: Exists}]}
`+fmt.Sprintf(template, "{{.name}}", `{{index .path.segments 1}}.{{.path.filename | upper}}`,
		"{{.values.zone}}-{{.path.basenameNormalized}}-{{.path.filenameNormalized}}"), `
hidden robot@.hidden.CONFIG.JSON none-hidden-config.json
robot-001 robot@robot_001.CONFIG.JSON 3-robot-001-config.json
robot-002 robot@robot_002.CONFIG.YAML 1e+06-robot-002-config.yaml
robot-003 robot@robot_003.MANY.YAML none-robot-003-many.yaml`)

	wantGenerated(t, fleet, git+`
      files: [{path: "robots/robot_00[12]/*.*"}]
      pathParamPrefix: where
      values: {zone: '{{site.zone}}'}
    selector: {matchLabels: {values.zone: "3"}}
`+fmt.Sprintf(template, "{{name}}", "{{where.path.filename}}.{{list.1}}.{{list[1]}}", "{{where.path[1]}}-{{labels.canary}}-{{values.zone}}"), `
robot-001 robot@config.json.b.{{list[1]}} robot_001-true-3`)
}

func TestGitFilesOfBothSettings(t *testing.T) {
	look := shelf{{"https://git.example.com/a/b", ""}: files(`-- x/config.json --
{"name": "zero"}
-- x/y/config.json --
{"name": "one"}
-- x/y/z/config.json --
{"name": "two"}
-- x/broken/config.json --
{"name": [
-- x/word/config.json --
word
`)}
	const spec = `
  generators: [{git: {repoURL: "https://git.example.com/a/b", files: [{path: "%s"}]}}]
  template: {metadata: {name: "{{name}}"}, spec: {source: {repoURL: "oci://ghcr.io/acme/robot"}}}
`
	wantGenerated(t, look, fmt.Sprintf(spec, "x/y/**/config.json"), "one robot@ one\ntwo robot@ two")
	wantGenerated(t, look, fmt.Sprintf(spec, "x/y/*.json"), "one robot@ one\ntwo robot@ two")
	wantGenerated(t, look, fmt.Sprintf(spec, "x/{y,z}/config.json"), "one robot@ one")
	wantGenerated(t, look, fmt.Sprintf(spec, "x/y"), "one robot@ one\ntwo robot@ two")
	got := generated(t, look, fmt.Sprintf(spec, "./x/*/config.json"))
	for _, want := range []string{"one robot@ one", "x/broken/config.json: ", "x/word/config.json: a string, want a map or a list of maps"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in %s", want, got)
		}
	}
}

func TestListGenerator(t *testing.T) {
	wantGenerated(t, shelf{}, `
  goTemplate: true
  generators:
  - list:
      elements:
      - {name: robot-001, chart: {name: robot, version: 1.0.0}}
      - {name: robot-002, chart: {name: robot}}
      elementsYaml: |
        - {name: robot-003, chart: {name: camera, version: 2.0.0}}
      template:
        metadata: {}
        spec: {source: {helm: {releaseName: 'own-{{ .name | trunc 7 }}'}}}
  template:
    metadata: {name: '{{.name}}'}
    spec: {source: {repoURL: "https://charts.example.com", chart: '{{.chart.name}}', targetRevision: '{{.chart.version | default "*"}}'}}
`, `
robot-003 camera@2.0.0 own-robot-0
robot-002 robot@* own-robot-0
robot-001 robot@1.0.0 own-robot-0`)

	wantGenerated(t, shelf{}, `
  generators:
  - list:
      elements:
      - {name: robot-001, values: {chart: robot}}
      - {name: robot-001, values: {chart: camera}}
      - {name: 7}
  template:
    metadata: {name: '{{name}}'}
    spec: {source: {repoURL: "https://charts.example.com", chart: '{{ values.chart }}'}}
`, `
robot-001 camera@ robot-001
robot-001 robot@ robot-001
problem spec.generators[0].list.elements[2].name: a number, want a string
problem template with parameters {"name":""}: gives an Application without a name
problem Application robot-001 is generated twice: Argo CD refuses both`)
}

func TestMatrixGenerator(t *testing.T) {
	wantGenerated(t, fleet, `
  goTemplate: true
  goTemplateOptions: ["missingkey=error"]
  generators:
  - matrix:
      generators:
      - list: {elements: [{robot: robot_001, stage: a}, {robot: robot_003, stage: b}]}
      - git:
          repoURL: https://git.example.com/acme/robot-deployment.git
          revision: HEAD
          files: [{path: "robots/{{ .robot }}/*"}]
          values: {stage: '{{.stage}}', name: '{{.path.basenameNormalized}}'}
  template:
    metadata: {name: '{{.stage}}-{{.name}}'}
    spec: {source: {repoURL: oci://ghcr.io/acme/robot, targetRevision: '{{.robot}}', helm: {releaseName: '{{.values.stage}}-{{.values.name}}'}}}
`, `
a-robot-001 robot@robot_001 a-robot-001
b-robot-003 robot@robot_003 b-robot-003
b-robot-004 robot@robot_003 b-robot-003`)

	wantGenerated(t, shelf{}, `
  generators:
  - matrix:
      generators:
      - list: {elements: [{robot: "1", zone: x}, {robot: "2", zone: z}]}
      - matrix:
          generators:
          - list: {elements: [{app: camera}, {app: robot}]}
          - list: {elements: [{zone: x}]}
            selector: {matchLabels: {zone: x}}
  template:
    metadata: {name: '{{robot}}-{{app}}'}
    spec: {source: {repoURL: "https://charts.example.com", chart: '{{app}}'}}
`, `
1-camera camera@ 1-camera
1-robot robot@ 1-robot
problem spec.generators[0].matrix: both generators give zone: "z" and "x"`)

	wantGenerated(t, shelf{}, `
  generators:
  - matrix: {generators: [{list: {elements: []}}]}
  - matrix: {generators: [{list: {elements: []}, git: {}}, {list: {}}]}
  - matrix: {generators: [{list: {elements: [{a: b}]}}, {matrix: {generators: [{list: {elements: [{c: d}]}}, {matrix: {generators: []}}]}}]}
  - robots: {}
`, `
problem spec.generators[0].matrix: 1 generators, want 2
problem spec.generators[1].matrix: spec.generators[1].matrix.generators[0] has 2 generators, want 1
problem spec.generators[2].matrix.generators[1].matrix.generators[1].matrix: nested deeper than 2
problem spec.generators[3]: what the generator robots gives is only known at the site`)
}

func TestMergeGenerator(t *testing.T) {
	for _, goTemplate := range []bool{true, false} {
		wantGenerated(t, shelf{}, fmt.Sprintf(`
  goTemplate: %t
  generators:
  - merge:
      mergeKeys: [name]
      generators:
      - list: {elements: [{name: a, version: "1"}, {name: b, version: "1"}]}
      - list: {elements: [{name: b, version: "2"}, {name: c, version: "3"}]}
      - list: {elements: [{name: b, extra: x}]}
  template:
    metadata: {name: '{{%[2]sname}}'}
    spec: {source: {repoURL: oci://ghcr.io/acme/robot, targetRevision: '{{%[2]sversion}}'}}
`, goTemplate, map[bool]string{true: "."}[goTemplate]), "a robot@1 a\nb robot@2 b")
	}
	wantGenerated(t, shelf{}, `
  generators:
  - merge: {mergeKeys: [name], generators: [{list: {elements: [{name: a, x: "1"}, {name: a, x: "2"}]}}, {list: {elements: []}}]}
  - merge: {generators: [{list: {elements: []}}, {list: {elements: []}}]}
  - merge: {mergeKeys: [a], generators: [{list: {elements: []}}]}
  template: {metadata: {name: '{{name}}'}, spec: {source: {repoURL: "oci://ghcr.io/acme/robot", targetRevision: "{{x}}"}}}
`, `
a robot@1 a
problem spec.generators[0].merge.generators[0]: two sets of parameters have [name] = ["a"]
problem spec.generators[1].merge: no mergeKeys
problem spec.generators[2].merge: 1 generators, want at least 2`)
}

func TestClusterGenerator(t *testing.T) {
	const known = "which clusters there are is only known at the site"
	wantGenerated(t, shelf{}, `
  goTemplate: true
  generators:
  - clusters: {values: {version: "1.0"}}
  - clusters: {selector: {matchLabels: {site: berlin}}}
  - clusters: {flatList: true, template: {metadata: {name: 'flat-{{(index .clusters 0).name}}'}}}
  - clusters: {template: {metadata: {name: '{{.metadata.labels.site}}'}}}
  - pullRequest: {github: {owner: acme}}
  goTemplateOptions: [missingkey=error]
  template:
    metadata: {name: '{{.name}}'}
    spec: {source: {repoURL: oci://ghcr.io/acme/robot, targetRevision: '{{ dig "values" "version" "none" (fromYaml (toYaml .)) }}'}}
`, `
flat-in-cluster robot@none flat-in-cluster
in-cluster robot@1.0 in-cluster
problem spec.generators[0].clusters: `+known+`
problem spec.generators[1].clusters: `+known+`
problem spec.generators[2].clusters: `+known+`
problem spec.generators[3].clusters: `+known+`
problem spec.generators[4].pullRequest: what the generator pullRequest gives is only known at the site`)
}

func TestTemplatePatch(t *testing.T) {
	check(t, `
apiVersion: argoproj.io/v1alpha1
kind: ApplicationSet
metadata: {name: set}
spec:
  goTemplate: true
  generators: [{list: {elements: [{name: a, files: [x.yaml, z.yaml]}, {name: b}, {name: c, drop: true}]}}]
  template:
    metadata: {name: '{{.name}}'}
    spec:
      destination: {namespace: robots}
      source: {repoURL: "https://git.example.com/a/b", path: chart, helm: {valueFiles: [values.yaml], valuesObject: {deep: {keep: 1}}}}
  templatePatch: |
    spec:
      source:
        helm:
          {{- with .files }}
          valueFiles:
          {{- range $f := . }}
          - {{ $f }}
          {{- end }}
          {{- end }}
          valuesObject: {deep: {name: {{ .name }}}}
          {{- if .drop }}
          $patch: delete
      destination: null
          {{- end }}
`, shelf{}, `
task Application a of ApplicationSet set: https://git.example.com/a/b@ path=chart release=robots/a file=chart/x.yaml file=chart/z.yaml values={"deep":{"keep":1,"name":"a"}}
task Application b of ApplicationSet set: https://git.example.com/a/b@ path=chart release=robots/b file=chart/values.yaml values={"deep":{"keep":1,"name":"b"}}
task Application c of ApplicationSet set: https://git.example.com/a/b@ path=chart release=/c
git https://git.example.com/a/b @ for Application a of ApplicationSet set spec.template.spec.source.repoURL
git https://git.example.com/a/b @ for Application b of ApplicationSet set spec.template.spec.source.repoURL
git https://git.example.com/a/b @ for Application c of ApplicationSet set spec.template.spec.source.repoURL
`)
}

func TestGitGeneratorOutsideOfTheBundle(t *testing.T) {
	check(t, `
apiVersion: argoproj.io/v1alpha1
kind: ApplicationSet
metadata: {name: set, namespace: argocd}
spec:
  generators:
  - git: {repoURL: "https://token:x@git.example.com/none/none.git", revision: main, directories: [{path: '*'}]}
  - git: {repoURL: "https://git.example.com/acme/robot-deployment.git", revision: HEAD}
  template: {metadata: {name: x}}
`, fleet, `
git https://git.example.com/none/none.git @main for ApplicationSet argocd/set spec.generators[0].git.repoURL
git https://git.example.com/acme/robot-deployment.git @HEAD for ApplicationSet argocd/set spec.generators[1].git.repoURL
problem ApplicationSet argocd/set | spec.generators[0].git: spec.generators[0].git: what it generates is not known: https://git.example.com/none/none.git at main is not in the bundle
problem ApplicationSet argocd/set | spec.generators[1].git: spec.generators[1].git: neither directories nor files
`)
}

// TestTooManyApplications: a matrix of 150 × 150 stops at the limit and says so.
func TestTooManyApplications(t *testing.T) {
	elements := func(key string) string {
		var b strings.Builder
		for i := range 150 {
			fmt.Fprintf(&b, "{%s: n%d},", key, i)
		}
		return "[" + strings.TrimSuffix(b.String(), ",") + "]"
	}
	spec := fmt.Sprintf(`
  generators: [{matrix: {generators: [{list: {elements: %s}}, {list: {elements: %s}}]}}]
  template: {metadata: {name: "{{a}}-{{b}}"}, spec: {source: {repoURL: "oci://ghcr.io/acme/robot"}}}
`, elements("a"), elements("b"))
	got := generated(t, shelf{}, spec)
	if n := strings.Count(got, "robot@"); n != MaxApplications {
		t.Errorf("%d Applications, want %d", n, MaxApplications)
	}
	if !strings.Contains(got, fmt.Sprintf("more than %d", MaxApplications)) {
		t.Error("nothing says that there are more")
	}
}
