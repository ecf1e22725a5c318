package render_test

import (
	"context"
	"errors"
	"reflect"
	"testing"

	"github.com/plimsoll/plimsoll/builder/closure"
	"github.com/plimsoll/plimsoll/builder/render"
)

// TestFieldsAndIgnore: what the user says about custom resources and about folders that nobody renders.
func TestFieldsAndIgnore(t *testing.T) {
	repo := folder(t, "r", parse(`
-- a/robot.yaml --
apiVersion: acme.dev/v1
kind: Robot
metadata: {name: r1}
spec:
  runtime: {rt: "ghcr.io/acme/rt:1"}
  tools: [{pkg: "x"}, {pkg: "no ref"}]
-- examples/deep/pod.yaml --
apiVersion: v1
kind: Pod
spec: {containers: [{image: "example:1"}]}
-- docs/kustomization.yaml --
resources: [nowhere.yaml]
-- test/chart/Chart.yaml --
name: broken
-- b/list.json --
{
	"apiVersion": "v1", "kind": "List",
	"items": [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "json"}, "spec": {"containers": [{"image": "json:1"}]}}]
}
-- broken.yaml --
kind: Pod
apiVersion: v1
spec:
  image: {{ .Values.x }}
-- notmine.yaml --
{{ not yaml
`))
	req := closure.Request{
		Repositories: []closure.Repository{repo}, ImageFields: []string{"Robot.spec.runtime.rt", "spec.tools[].pkg"},
		Ignore: []string{"examples", "docs/**", "**/chart"},
	}
	a := answer(t, req)
	same(t, "references", references(a), `
image ghcr.io/acme/rt:1 | r a/robot.yaml:5 [Robot r1] spec.runtime.rt
image json:1 | r b/list.json:3 [Pod json] spec.containers[0].image
image x | r a/robot.yaml:6 [Robot r1] spec.tools[0].pkg
`)
	same(t, "problems", problems(a), `
"no ref" is not an image reference | r a/robot.yaml:6 [Robot r1] spec.tools[1].pkg
yaml: invalid map key: map[interface {}]interface {}{".Values.x":interface {}(nil)} | r broken.yaml:1
`)
	for _, bad := range []closure.Request{
		{Ignore: []string{"a["}}, {Ignore: []string{""}}, {ImageFields: []string{"."}}, {KubeVersion: "new"},
		{Repositories: []closure.Repository{{Item: "x"}}}, {Repositories: []closure.Repository{{Item: "x", Dir: "a", GitDir: "b"}}},
		{Repositories: []closure.Repository{{Item: "x", Dir: "/nowhere"}}},
	} {
		var failure *render.RequestError
		if _, err := render.Run(t.Context(), bad, render.Options{}); !errors.As(err, &failure) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := render.Run(ctx, req, render.Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestEmpty: nothing needs nothing, and lists are lists.
func TestEmpty(t *testing.T) {
	if got, want := answer(t, closure.Request{}), (&closure.Answer{Renderings: []closure.Rendering{}, References: []closure.Reference{}}); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
}
