package spec

import (
	"errors"
	"strings"
	"testing"

	"github.com/plimsoll/plimsoll/bundle"
)

// FuzzParse: Parse never panics, every refusal is a list of places in the file, and what it accepts can be served.
func FuzzParse(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := Parse("dir/bundle.yaml", data)
		if err != nil {
			checkRefusal(t, err)
			return
		}
		for _, i := range b.Spec.Images {
			if err := bundle.CheckRepository(i.Repository); err != nil || i.Tag == "" && i.Reference.Digest == "" {
				t.Errorf("image %+v: %v", i, err)
			}
		}
		for _, c := range b.Spec.Charts {
			if err := bundle.CheckRepository(b.ChartRepository(c, "x")); err != nil {
				t.Errorf("chart %+v: %v", c, err)
			}
		}
		for _, g := range b.Spec.Git {
			if err := bundle.CheckGitPath(g.Repository); err != nil || strings.HasPrefix(g.URL, "-") || strings.Contains(g.URL, "::") {
				t.Errorf("git %+v: %v", g, err)
			}
		}
		for _, file := range b.Spec.Files {
			if err := bundle.CheckRepository(file.Repository); err != nil || strings.Contains(file.Name, "/") {
				t.Errorf("file %+v: %v", file, err)
			}
		}
	})
}

func checkRefusal(t *testing.T, err error) {
	t.Helper()
	var list ErrorList
	if !errors.As(err, &list) || len(list) == 0 {
		t.Fatalf("refused with %T", err)
	}
	for i, e := range list {
		if e.File == "" || e.Reason == "" || e.Line == 0 && len(list) > 1 {
			t.Errorf("error without a place: %+v", e)
		}
		if i > 0 && list[i-1].Line > e.Line {
			t.Errorf("errors out of order: line %d before line %d", list[i-1].Line, e.Line)
		}
		if strings.ContainsFunc(e.Error(), func(r rune) bool { return r < ' ' || r == 0x7f }) {
			t.Errorf("control characters in %q", e.Error())
		}
	}
}
