package gitops

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"helm.sh/helm/v3/pkg/cli/values"
	"sigs.k8s.io/yaml"
)

// TestExpandOrder: the order of the manifests, and manifests that are there twice, change nothing.
func TestExpandOrder(t *testing.T) {
	list := objects(t, fluxSources+`
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: apps, namespace: flux-system}
spec: {path: apps, sourceRef: {kind: GitRepository, name: fleet}}
---
apiVersion: argoproj.io/v1alpha1
kind: ApplicationSet
metadata: {name: robots, namespace: argocd}
spec:
  generators:
  - git: {repoURL: "https://git.example.com/acme/robot-deployment.git", revision: HEAD, directories: [{path: '*/*'}]}
  - clusters: {}
  template:
    metadata: {name: '{{path.basename}}'}
    spec: {source: {repoURL: "https://git.example.com/acme/robot-deployment.git", path: '{{path}}', helm: {valueFiles: ['{{path[0]}}.yaml', 7]}}}
---
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: one}
spec: {source: {repoURL: "https://charts.example.com", chart: x, targetRevision: 1.0.0}}
`)
	want := text(Expand(list, fleet))
	if found := Expand(list, fleet); len(found.Tasks) < 5 || len(found.References) < 5 || len(found.Problems) < 2 {
		t.Fatalf("too little to compare:\n%s", dump(found))
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		list = append(list, list[random.IntN(len(list))])
		random.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		// An ApplicationSet that is there twice is expanded twice, and that is all.
		if got := text(Expand(list, fleet)); got != want {
			t.Fatalf("got %s\nwant %s", got, want)
		}
	}
}

// TestMerge compares with Helm itself, which reads files and --set.
func TestMerge(t *testing.T) {
	files := []string{
		"image: {tag: '1', pull: Always}\ncontainers: [{name: a, image: x}, {name: b}]\nports: [1, 2]\n",
		"image: {tag: '2'}\nports: [3]\nnothing: ~\n",
	}
	opts := values.Options{
		Values:       []string{"containers[0].image=y", "containers[2].name=c", "ports[1]=9", "image.tag=3"},
		StringValues: []string{"containers[1].count=7"},
	}
	h := &Helm{
		Values: []map[string]any{{"image": map[string]any{"tag": int64(3)}}},
		Set:    []Set{{"containers[0].image=y", false}, {"containers[2].name=c", false}, {"ports[1]=9", false}, {"containers[1].count=7", true}},
	}
	var contents []map[string]any
	for i, content := range files {
		name := filepath.Join(t.TempDir(), string(rune('a'+i)))
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		opts.ValueFiles = append(opts.ValueFiles, name)
		var m map[string]any
		if err := yaml.Unmarshal([]byte(content), &m); err != nil {
			t.Fatal(err)
		}
		contents = append(contents, m)
	}
	before := text(contents)
	want, err := opts.MergeValues(nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := h.Merge(contents)
	if err != nil {
		t.Fatal(err)
	}
	if text(got) != text(want) {
		t.Errorf("got  %s\nwant %s", text(got), text(want))
	}
	if text(contents) != before {
		t.Error("the contents of the files were changed")
	}
}
