package render_test

import "testing"

// TestEqualValuesOfSubCharts: an image of a chart in a chart stands in that chart's values, also when the chart around it
// has the same text in its own.
func TestEqualValuesOfSubCharts(t *testing.T) {
	const template = `
apiVersion: v1
kind: Pod
metadata: {name: "{{ .Chart.Name }}"}
spec: {containers: [{image: "{{ .Values.image }}"}]}
`
	a := only(t, parse(`
-- Chart.yaml --
apiVersion: v2
name: outer
version: 1.0.0
dependencies: [{name: inner, version: 1.0.0}]
-- values.yaml --
image: ghcr.io/acme/slam:v1
-- templates/pod.yaml --`+template+`
-- charts/inner/Chart.yaml --
apiVersion: v2
name: inner
version: 1.0.0
-- charts/inner/values.yaml --
# the same image
image: ghcr.io/acme/slam:v1
-- charts/inner/templates/pod.yaml --`+template))
	got := make(map[string]string)
	for _, r := range a.References {
		got[r.Place.Object] = placed(r.Place)
	}
	if len(got) != 2 || a.References[0].Place.File == a.References[1].Place.File {
		t.Errorf("got %v", got)
	}
	for _, r := range a.References {
		want := map[string]string{"Pod outer": "values.yaml", "Pod inner": "charts/inner/values.yaml"}[r.Place.Object]
		if r.Place.File != want {
			t.Errorf("%s: got %s:%d, want %s", r.Place.Object, r.Place.File, r.Place.Line, want)
		}
	}
}
