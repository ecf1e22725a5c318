package gitops

import (
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"sigs.k8s.io/yaml"

	"github.com/plimsoll/plimsoll/builder/closure"
)

// shelf is a bundle in memory: repositories by URL and revision.
type shelf map[[2]string]fstest.MapFS

func (s shelf) Tree(url, revision string) (Tree, error) {
	for key, files := range s {
		if closure.SameRepository(key[0], url) && key[1] == revision {
			return Tree{FS: files, Item: key[0], Revision: revision}, nil
		}
	}
	return Tree{}, fs.ErrNotExist
}

// files makes a file system of a text in which each file starts with a line -- name --.
func files(text string) fstest.MapFS {
	out := fstest.MapFS{}
	for _, part := range strings.Split("\n"+text, "\n-- ")[1:] {
		name, content, _ := strings.Cut(strings.TrimSuffix(part, "\n")+"\n", " --\n")
		out[name] = &fstest.MapFile{Data: []byte(content), Mode: 0o644}
	}
	return out
}

// objects reads manifests. The place of each is its number.
func objects(t testing.TB, manifests string) []Object {
	t.Helper()
	var out []Object
	for i, doc := range strings.Split("\n"+manifests, "\n---\n") {
		var value map[string]any
		if err := yaml.Unmarshal([]byte(doc), &value); err != nil {
			t.Fatalf("document %d: %v", i+1, err)
		}
		out = append(out, Object{Value: value, Place: closure.Place{Item: "test", File: fmt.Sprintf("%d.yaml", i+1)}})
	}
	return out
}

// dump writes what was found as lines that a person can compare with the manifests.
func dump(f Found) string {
	var b strings.Builder
	for _, t := range f.Tasks {
		fmt.Fprintf(&b, "task %s: %s@%s", t.By, t.URL, t.Revision)
		line := func(name string, v any, there bool) {
			if there {
				fmt.Fprintf(&b, " %s=%s", name, strings.Trim(text(v), `"`))
			}
		}
		line("path", t.Path, t.Path != "")
		line("chart", t.Chart, t.Chart != "")
		if h := t.Helm; h != nil {
			fmt.Fprintf(&b, " release=%s/%s", h.Namespace, h.Release)
			for _, f := range h.ValueFiles {
				b.WriteString(" file=")
				if f.URL != "" {
					fmt.Fprintf(&b, "%s@%s:", f.URL, f.Revision)
				}
				b.WriteString(f.Path)
				if f.Optional {
					b.WriteByte('?')
				}
			}
			line("replace", true, h.ReplaceDefaults)
			for _, v := range h.Values {
				line("values", v, true)
			}
			for _, s := range h.Set {
				line("set", s.Line, !s.String)
				line("set-string", s.Line, s.String)
			}
			line("skipcrds", true, h.SkipCRDs)
			line("kube", h.KubeVersion, h.KubeVersion != "")
			line("apis", h.APIVersions, len(h.APIVersions) > 0)
			if h.PostRender != nil {
				line("post", h.PostRender.Fields, true)
			}
		}
		if t.Kustomize != nil {
			line("kustomize", t.Kustomize.Fields, true)
		}
		line("directory", t.Directory, t.Directory != nil)
		line("plain", true, t.PlainKustomize)
		line("substitute", t.Substitute, t.Substitute != nil)
		b.WriteByte('\n')
	}
	for _, r := range f.References {
		fmt.Fprintf(&b, "%s %s %s@%s for %s %s\n", r.Kind, r.Ref, r.Chart, r.Version, r.Place.Object, r.Place.Field)
	}
	for _, p := range f.Problems {
		fmt.Fprintf(&b, "problem %s | %s: %s\n", p.Place.Object, p.Place.Field, p.Reason)
	}
	return b.String()
}

// check compares what manifests mean with what is wanted, in any order: TestExpandOrder is about that.
func check(t *testing.T, manifests string, look Lookup, want string) {
	t.Helper()
	got := strings.Split(sortedLines(dump(Expand(objects(t, manifests), look))), "\n")
	wanted := strings.Split(sortedLines(want), "\n")
	for _, line := range got {
		if !slices.Contains(wanted, line) {
			t.Errorf("not wanted: %s", line)
		}
	}
	for _, line := range wanted {
		if !slices.Contains(got, line) {
			t.Errorf("missing:    %s", line)
		}
	}
	if len(got) != len(wanted) {
		t.Errorf("%d lines, want %d", len(got), len(wanted))
	}
}

func sortedLines(text string) string {
	lines := slices.DeleteFunc(strings.Split(text, "\n"), func(line string) bool { return line == "" })
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
