package render

import (
	"bytes"
	"strings"
	"testing"
	"text/template/parse"
)

// FuzzSplitDocuments: nothing is lost but markers, white space and comments, and lines are where they are.
func FuzzSplitDocuments(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		docs, err := splitDocuments(data)
		if err != nil {
			return
		}
		rest, line := data, 1
		for _, d := range docs {
			at := bytes.Index(rest, d.text)
			if at < 0 {
				t.Fatalf("%q is not in %q", d.text, data)
			}
			if hasContent(bytes.ReplaceAll(rest[:at], []byte("---"), nil)) {
				t.Fatalf("%q was lost", rest[:at])
			}
			line += bytes.Count(rest[:at], []byte("\n"))
			if line != d.line {
				t.Fatalf("%q is at line %d, not %d", d.text, line, d.line)
			}
			line += bytes.Count(d.text, []byte("\n"))
			rest = rest[at+len(d.text):]
		}
	})
}

// FuzzCollect: every image that is found is one, and stands where the field says.
func FuzzCollect(f *testing.F) {
	fields, err := parseImageFields([]string{"spec.x", "*.*.y[]", "Robot.spec.*"})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		docs, err := splitDocuments(data)
		if err != nil {
			return
		}
		for _, d := range docs {
			value, err := d.value()
			m, ok := value.(map[string]any)
			if err != nil || !ok {
				continue
			}
			root, err := d.parse()
			for _, item := range unlist(m) {
				own := item.value.(map[string]any)
				found := collect(own, fields)
				for _, n := range found.images {
					if _, ok := parseImage(n.ref); !ok {
						t.Errorf("%q at %s", n.ref, n.field)
					}
					if !reaches(own, n.field) || !reaches(own, n.at) {
						t.Errorf("%s is not in %v", n.field, own)
					}
					if err != nil {
						continue
					}
					if line := d.lineOf(root, append(item.path, n.at...)); line < 1 || line > 1+bytes.Count(data, []byte("\n")) {
						t.Errorf("line %d", line)
					}
				}
				literalSecrets(own, func(string) bool { return true })
				objectName(own)
			}
			textFile{data: data, keys: true}.search()
			stack{newSource("x", data, "")}.locate("ghcr.io/acme/app:v1")
		}
	})
}

func reaches(value any, at fieldPath) bool {
	for _, s := range at {
		switch v := value.(type) {
		case map[string]any:
			next, ok := v[s.key]
			if !ok {
				return false
			}
			value = next
		case []any:
			if s.key != "" || s.index >= len(v) {
				return false
			}
			value = v[s.index]
		default:
			return false
		}
	}
	return true
}

// FuzzImageField: what is taken has steps, and finding with it ends.
func FuzzImageField(f *testing.F) {
	object := map[string]any{"kind": "Robot", "spec": map[string]any{"a": []any{map[string]any{"b": "c:1"}}, "": "x"}}
	f.Fuzz(func(t *testing.T, text string) {
		field, err := parseImageField(text)
		if err != nil {
			return
		}
		if len(field.steps) == 0 || len(field.steps) > maxFieldSteps {
			t.Errorf("%q has %d steps", text, len(field.steps))
		}
		for _, l := range (imageFields{field}).find("Robot", object) {
			if !reaches(object, l.path) {
				t.Errorf("%q finds %s", text, l.path)
			}
		}
	})
}

// FuzzEntries: a tree object gives entries or an error.
func FuzzEntries(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		tree := newTree()
		err := entries(data, func(mode, name, id string) error {
			if len(id) != 40 {
				t.Errorf("id %q", id)
			}
			_, err := tree.add(".", name, 0, id)
			return err
		})
		if err != nil {
			return
		}
		tree.seal()
		for name := range tree.nodes {
			if name != "." && !usableName(name) {
				t.Errorf("name %q", name)
			}
		}
	})
}

// FuzzSteady: a template that can be parsed can be parsed afterwards, and has as many lines.
func FuzzSteady(f *testing.F) {
	parses := func(text string) error {
		tree := parse.New("x")
		tree.Mode = parse.SkipFuncCheck
		_, err := tree.Parse(text, "", "", make(map[string]*parse.Tree))
		return err
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, changed := steady(text)
		if changed == (got == text) {
			t.Errorf("changed %v: %q", changed, got)
		}
		if strings.Count(got, "\n") != strings.Count(text, "\n") {
			t.Errorf("lines of %q", got)
		}
		if err := parses(text); err == nil {
			if err := parses(got); err != nil {
				t.Errorf("%q became %q: %v", text, got, err)
			}
		}
	})
}

// FuzzRemote: nothing that is no URL becomes one, and a path stays in the repository.
func FuzzRemote(f *testing.F) {
	f.Fuzz(func(t *testing.T, text string) {
		if !isRemote(text) {
			return
		}
		r := parseRemote(text)
		if strings.HasPrefix(r.path, "/") || r.path == ".." || strings.HasPrefix(r.path, "../") {
			t.Errorf("%q has the path %q", text, r.path)
		}
	})
}

// FuzzFillText: text without variables stays, and escaped ones lose their escape only.
func FuzzFillText(f *testing.F) {
	f.Fuzz(func(t *testing.T, text string) {
		got := fillText(text, map[string]string{"a": "1"})
		if !strings.Contains(text, "${") && got != text {
			t.Errorf("%q became %q", text, got)
		}
	})
}
