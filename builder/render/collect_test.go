package render

import (
	"slices"
	"strings"
	"testing"
)

// TestOrdinaryReferences: each way in which people name an image is found, and nothing else.
func TestOrdinaryReferences(t *testing.T) {
	const digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	const manifests = `
apiVersion: v1
kind: Pod
metadata: {name: all, annotations: {image: ghcr.io/acme/not:1}}
spec:
  containers:
  - {name: a, image: nginx}
  - {name: b, image: "nginx:1.27"}
  - {name: c, image: "localhost:5000/c"}
  - {name: d, image: "ghcr.io/acme/d:v1@` + digest + `", args: ["--image=ghcr.io/acme/not:1"]}
  - name: e
    image: ghcr.io/acme/e@` + digest + `
    env:
    - {name: SIDECAR_IMAGE, value: "ghcr.io/acme/f:1"}
    - {name: RELATED_IMAGE_AGENT, value: "quay.io/acme/g@` + digest + `"}
    - {name: SOME_IMAGE, value: "large"}
    - {name: OTHER, value: "ghcr.io/acme/not:1"}
    - {name: PULL_IMAGE, valueFrom: {configMapKeyRef: {name: a, key: b}}}
  initContainers: [{image: "docker.io/library/h:1", imagePullPolicy: IfNotPresent}]
  ephemeralContainers: [{image: "i:1"}]
  volumes:
  - {name: v, image: {reference: "ghcr.io/acme/j:1", pullPolicy: Always}}
  - {name: w, configMap: {name: image}}
---
apiVersion: v1
kind: PodTemplate
metadata: {name: x}
template: {spec: {containers: [{image: "k:1"}]}}
---
apiVersion: apps/v1
kind: StatefulSet
spec: {template: {spec: {containers: [{image: "l:1"}]}}}
---
apiVersion: apps/v1
kind: DaemonSet
spec: {template: {spec: {containers: [{image: "m:1"}]}}}
---
apiVersion: apps/v1
kind: ReplicaSet
spec: {template: {spec: {containers: [{image: "n:1"}]}}}
---
apiVersion: v1
kind: ReplicationController
spec: {template: {spec: {containers: [{image: "o:1"}]}}}
---
apiVersion: batch/v1
kind: Job
spec: {template: {spec: {containers: [{image: "p:1"}]}}}
---
apiVersion: batch/v1
kind: CronJob
spec: {jobTemplate: {spec: {template: {spec: {containers: [{image: "q:1"}]}}}}}
---
apiVersion: apps/v1
kind: Deployment
spec: {template: {spec: {containers: [{image: "r:1"}, {image: "{{ .Values.image }}"}, {image: "${IMAGE}"}, {image: ""}, {image: null}, {image: true}]}}}
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Pod, spec: {containers: [{image: "s:1"}]}}
---
apiVersion: v1
kind: PodList
items:
- {spec: {containers: [{image: "t:1"}]}}
---
apiVersion: argoproj.io/v1alpha1
kind: Rollout
spec: {template: {spec: {containers: [{image: busybox, env: [{name: X_IMAGE, value: "u:1"}]}]}}}
---
apiVersion: argoproj.io/v1alpha1
kind: Workflow
spec: {templates: [{container: {image: "v:1"}}, {script: {image: "w:1"}}, {initContainers: [{image: "ghcr.io/acme/x:1"}]}]}
---
apiVersion: postgresql.cnpg.io/v1
kind: Cluster
spec: {imageName: "ghcr.io/cloudnative-pg/postgresql:17"}
---
apiVersion: acme.dev/v1
kind: Everything
metadata: {name: x, labels: {image: "ghcr.io/acme/not:1"}}
status: {image: "ghcr.io/acme/not:1"}
spec:
  image: {repository: acme/y, tag: 1.5}
  sidecarImage: {registry: quay.io, repository: acme/z, digest: "` + digest + `"}
  agent: {image: acme/aa, tag: v2, pullPolicy: Always}
  tool: {repository: ghcr.io/acme/bb, tag: v3}
  camera_image: ghcr.io/acme/cc:1
  baseimage: "dd:1"
  images: ["ghcr.io/acme/ee:1", {name: acme/ff, tag: v1}, "large"]
  moreImages: {one: "ghcr.io/acme/gg:1", two: 7}
  deep: [[{x: {lidarImage: "ghcr.io/acme/hh@` + digest + `"}}]]
  disk: {url: "docker://quay.io/acme/ii:1"}
  container: {image: {registry: ghcr.io, image: acme/jj, tag: "1"}}
  imageRef: "ghcr.io/acme/kk:1"
  # and what is none
  git: {repository: acme/robot-deployment, tag: v1, path: x}
  source: {repository: "https://github.com/acme/robot", tag: v1}
  icon: {image: "https://acme.dev/logo.png"}
  inline: {image: "data:image/png;base64,AAAA"}
  logo: {image: acme.dev/logo.png}
  vm: {image: ubuntu-22.04.qcow2, osImage: "Ubuntu 24.04", machineImage: projects/debian-cloud/global/images/family/debian-12}
  flags: {image: true, image2: "ghcr.io/acme/not:1", imagePullPolicy: Always, imagePullSecrets: [{name: a}], imageTag: v1, imageSize: "large"}
  policy: {image: "ghcr.io/acme/*", baseImage: "{{ x }}", otherImage: "$(IMAGE)"}
  plain: {image: large}
  name: {name: acme/robot, tag: v1}
---
apiVersion: operators.coreos.com/v1alpha1
kind: ClusterServiceVersion
spec: {relatedImages: [{name: a, image: "quay.io/acme/ll:1"}], icon: [{base64data: aaaa}]}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
spec: {versions: [{schema: {openAPIV3Schema: {properties: {image: {type: string, default: "ghcr.io/acme/not:1", example: {image: "ghcr.io/acme/not:1"}}, containers: [{image: "ghcr.io/acme/not:1"}]}}}}]}
---
apiVersion: v1
kind: ConfigMap
data: {image: "ghcr.io/acme/not:1", pod.yaml: "spec: {containers: [{image: 'ghcr.io/acme/not:1'}]}"}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
rules: [{apiGroups: [image.openshift.io], resources: [images], verbs: [get], image: "ghcr.io/acme/not:1"}]
---
apiVersion: argoproj.io/v1alpha1
kind: Application
spec: {source: {kustomize: {images: ["ghcr.io/acme/not:1"]}, helm: {valuesObject: {image: {repository: ghcr.io/acme/not, tag: v1}}}}}
---
apiVersion: image.toolkit.fluxcd.io/v1
kind: ImageRepository
spec: {image: ghcr.io/acme/not}
---
apiVersion: skaffold/v4beta11
kind: Config
build: {artifacts: [{image: ghcr.io/acme/not}]}
---
apiVersion: kind.x-k8s.io/v1alpha4
kind: Cluster
nodes: [{image: "kindest/node:v1.33"}]
---
apiVersion: kyverno.io/v1
kind: ClusterPolicy
spec: {rules: [{validate: {pattern: {spec: {containers: [{image: "ghcr.io/acme/not:1"}]}}}}]}
`
	want := strings.Fields(`nginx nginx:1.27 localhost:5000/c ghcr.io/acme/d:v1@` + digest + ` ghcr.io/acme/e@` + digest + ` ghcr.io/acme/f:1
		quay.io/acme/g@` + digest + ` docker.io/library/h:1 i:1 ghcr.io/acme/j:1 k:1 l:1 m:1 n:1 o:1 p:1 q:1 r:1 s:1 t:1 busybox u:1 v:1 w:1
		ghcr.io/acme/x:1 ghcr.io/cloudnative-pg/postgresql:17 acme/y:1.5 quay.io/acme/z@` + digest + ` acme/aa:v2 ghcr.io/acme/bb:v3
		ghcr.io/acme/cc:1 dd:1 ghcr.io/acme/ee:1 acme/ff:v1 ghcr.io/acme/gg:1 ghcr.io/acme/hh@` + digest + ` quay.io/acme/ii:1
		ghcr.io/acme/jj:1 ghcr.io/acme/kk:1 quay.io/acme/ll:1`)
	var got []string
	for _, d := range must2(splitDocuments([]byte(manifests))) {
		value := must2(d.value())
		for _, item := range unlist(value.(map[string]any)) {
			found := collect(item.value.(map[string]any), nil)
			for _, n := range found.images {
				got = append(got, n.ref)
			}
			if len(found.invalid) > 0 {
				t.Errorf("invalid: %+v", found.invalid)
			}
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if len(want) != 40 || !slices.Equal(got, want) {
		t.Errorf("%d references\n%s\nwant %d\n%s", len(got), strings.Join(got, "\n"), len(want), strings.Join(want, "\n"))
	}
}

func must2[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestInvalidImages(t *testing.T) {
	pod := map[string]any{"apiVersion": "v1", "kind": "Pod", "spec": map[string]any{"containers": []any{
		map[string]any{"image": "ghcr.io/Acme/App:1"}, map[string]any{"image": ":v1"}, map[string]any{"image": "a b"},
	}}}
	found := collect(pod, nil)
	if len(found.images) != 0 || len(found.invalid) != 3 || found.invalid[1].ref != ":v1" || found.invalid[2].field.String() != "spec.containers[2].image" {
		t.Errorf("found %+v", found)
	}
}

func TestImageFields(t *testing.T) {
	object := map[string]any{
		"apiVersion": "acme.dev/v1", "kind": "Robot", "metadata": map[string]any{"name": "x"},
		"spec": map[string]any{
			"runtime":      map[string]any{"rt": "ghcr.io/acme/rt"},
			"tools":        []any{map[string]any{"pkg": "a:1"}, map[string]any{"pkg": "b:1"}, "other"},
			"matrix":       []any{[]any{"c:1", "d:1"}},
			"models":       map[string]any{"one": map[string]any{"ref": "oci://ghcr.io/acme/m1:1"}, "two": map[string]any{"ref": "${MODEL}"}},
			"acme.dev/pkg": map[string]any{"repository": "acme/e"},
			"bad":          "no reference",
		},
	}
	for _, tc := range []struct{ field, want, invalid string }{
		{"spec.runtime.rt", "spec.runtime.rt=ghcr.io/acme/rt", ""},
		{"Robot.spec.runtime.rt", "spec.runtime.rt=ghcr.io/acme/rt", ""},
		{"Other.spec.runtime.rt", "", ""},
		{"*.spec.runtime.rt", "spec.runtime.rt=ghcr.io/acme/rt", ""},
		{"*.*.runtime.rt", "spec.runtime.rt=ghcr.io/acme/rt", ""},
		{"spec.tools[].pkg", "spec.tools[0].pkg=a:1 spec.tools[1].pkg=b:1", ""},
		{"spec.tools.pkg", "", ""},
		{"spec.matrix[][]", "spec.matrix[0][0]=c:1 spec.matrix[0][1]=d:1", ""},
		{"spec.matrix[]", "spec.matrix[0][0]=c:1 spec.matrix[0][1]=d:1", ""},
		{"spec.models.*.ref", "spec.models.one.ref=ghcr.io/acme/m1:1", ""},
		{`spec["acme.dev/pkg"]`, `spec["acme.dev/pkg"]=acme/e`, ""},
		{"spec.bad", "", "spec.bad"},
		{"spec.absent.x", "", ""},
	} {
		fields, err := parseImageFields([]string{tc.field})
		if err != nil {
			t.Errorf("%s: %v", tc.field, err)
			continue
		}
		found := collect(object, fields)
		var got, invalid []string
		for _, n := range found.images {
			got = append(got, n.field.String()+"="+n.ref)
		}
		for _, n := range found.invalid {
			invalid = append(invalid, n.field.String())
		}
		if strings.Join(got, " ") != tc.want || strings.Join(invalid, " ") != tc.invalid {
			t.Errorf("%s: got %q, invalid %q, want %q, %q", tc.field, got, invalid, tc.want, tc.invalid)
		}
	}
	for _, bad := range []string{"", "*", "Robot", "[]", ".spec", "spec.", "spec..x", "spec[0]", "spec[", `spec["x`, `spec[""]`, "spec.a*", "spec.x]", "spec []", strings.Repeat("a.", 70) + "a"} {
		if f, err := parseImageFields([]string{bad}); err == nil {
			t.Errorf("%q was taken as %+v", bad, f)
		}
	}
}

func TestSplitDocuments(t *testing.T) {
	for _, tc := range []struct {
		text, want string
	}{
		{"a: 1\n", "1:a: 1"},
		{"---\na: 1\n---\nb: 2\n", "1:\na: 1|3:\nb: 2"},
		{"# comment\n---\n# only\n--- # x\nc: 3", "4: # x\nc: 3"},
		{"a: |\n  ---\n  x\n---- no\n", "1:a: |\n  ---\n  x\n---- no"},
		{"--- {a: 1}\n---\r\nb: 2\r\n---", "1: {a: 1}|2:\r\nb: 2"},
		{"", ""}, {"---", ""}, {"\n\n---\n\n", ""},
	} {
		var got []string
		for _, d := range must2(splitDocuments([]byte(tc.text))) {
			got = append(got, string(rune('0'+d.line))+":"+strings.TrimRight(string(d.text), "\r\n"))
		}
		if strings.Join(got, "|") != tc.want {
			t.Errorf("%q: got %q, want %q", tc.text, strings.Join(got, "|"), tc.want)
		}
	}
	if _, err := splitDocuments([]byte(strings.Repeat("---\na\n", maxDocuments+2))); err == nil {
		t.Error("endless documents were taken")
	}
}

func TestSteady(t *testing.T) {
	for in, want := range map[string]string{
		`a now {{ now }} now`:                     `a now {{ (toDate "2006-01-02" "2000-01-01") }} now`,
		`{{ "now" }}{{ .now }}{{ $now }}{{nowx}}`: `{{ "now" }}{{ .now }}{{ $now }}{{nowx}}`,
		`{{/* now */}}{{ now | date "now" }}`:     `{{/* now */}}{{ (toDate "2006-01-02" "2000-01-01") | date "now" }}`,
		"{{ `now` }}{{ 'n' }}{{- uuidv4 -}}":      "{{ `now` }}{{ 'n' }}{{- (\"00000000-0000-4000-8000-000000000000\") -}}",
		`{{ now.Unix }}`:                          `{{ (toDate "2006-01-02" "2000-01-01").Unix }}`,
		`{{ randAlphaNum 5 | b64enc }}`:           `{{ include "plimsoll.text" 5 | b64enc }}`,
		`{{ "a\"}} now" }} {{ randInt 1 9`:        `{{ "a\"}} now" }} {{ min 1 9`,
		`{{`:                                      `{{`,
		`{{ "open`:                                `{{ "open`,
	} {
		if got, _ := steady(in); got != want {
			t.Errorf("%s\ngot  %s\nwant %s", in, got, want)
		}
	}
}
