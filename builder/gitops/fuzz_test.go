package gitops

import (
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/plimsoll/plimsoll/builder/closure"
)

// FuzzExpand: whatever manifests say, Expand ends, keeps inside the repositories, says where a problem is, and gives the
// same for the same objects in another order.
func FuzzExpand(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		var list []Object
		for i, doc := range strings.Split("\n"+string(data), "\n---\n") {
			var value map[string]any
			if err := yaml.Unmarshal([]byte(doc), &value); err != nil {
				continue
			}
			list = append(list, Object{Value: value, Place: closure.Place{Item: "fuzz", File: fmt.Sprint(i)}})
		}
		before := text(list)
		found := Expand(list, fleet)
		if text(list) != before {
			t.Error("the objects were changed")
		}
		for _, task := range found.Tasks {
			checkTask(t, task)
		}
		for _, r := range found.References {
			if r.Ref == "" || r.Kind != closure.KindGit && r.Kind != closure.KindChart || r.Place.Object == "" || r.Place.Item != "fuzz" {
				t.Errorf("reference %+v", r)
			}
		}
		for _, p := range found.Problems {
			if p.Reason == "" || p.Place.Object == "" || len(p.Reason) > maxReason+10 {
				t.Errorf("problem %+v", p)
			}
		}
		slices.Reverse(list)
		if again := Expand(list, fleet); text(again) != text(found) {
			t.Errorf("in another order:\n%s\n%s", dump(again), dump(found))
		}
	})
}

func checkTask(t *testing.T, task Task) {
	t.Helper()
	inside := func(p string) bool { return p == "" || fs.ValidPath(p) && path.Clean(p) == p && p != "." }
	if task.URL == "" || task.By == "" || task.Chart == "" && strings.HasPrefix(task.URL, "oci://") {
		t.Errorf("task %+v", task)
	}
	if !inside(task.Path) {
		t.Errorf("path %q", task.Path)
	}
	if task.Helm == nil {
		return
	}
	for _, v := range task.Helm.ValueFiles {
		if !inside(v.Path) {
			t.Errorf("values file %q", v.Path)
		}
	}
	if _, err := task.Helm.Merge(nil); err != nil && len(task.Helm.Set) == 0 {
		t.Errorf("values: %v", err)
	}
}

// FuzzTemplate: a template of either language ends, stays small, and gives the same each time.
func FuzzTemplate(f *testing.F) {
	f.Fuzz(func(t *testing.T, template, params string, goTemplate bool) {
		values, err := parseYAMLMap([]byte(params))
		if err != nil {
			return
		}
		run := func() (string, error) {
			copied, _ := clone(values).(map[string]any)
			return newEngine(goTemplate, nil).replace(template, copied)
		}
		first, err := run()
		if len(first) > maxOutput && len(template) <= maxOutput {
			t.Errorf("%d bytes", len(first))
		}
		second, again := run()
		if first != second || (err == nil) != (again == nil) {
			t.Errorf("%q, %v and then %q, %v", first, err, second, again)
		}
	})
}

// FuzzPattern: no pattern panics, and looking only at the files that start as it does loses none that it matches.
func FuzzPattern(f *testing.F) {
	f.Fuzz(func(t *testing.T, pattern, file string) {
		if !fs.ValidPath(file) {
			return
		}
		for _, compile := range []func(string) (matcher, error){gitPathspec, newGlob} {
			match, err := compile(pattern)
			if err == nil && match(file) && len(below([]string{file}, pattern)) == 0 {
				t.Errorf("%q matches %q, but is not asked", pattern, file)
			}
		}
	})
}
