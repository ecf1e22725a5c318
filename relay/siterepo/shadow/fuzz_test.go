package shadow

import (
	"context"
	"strings"
	"testing"
)

// FuzzFind: whatever stands in the files, comparing ends, says nothing where nothing changed, and gives a report that can
// be printed.
func FuzzFind(f *testing.F) {
	f.Fuzz(func(t *testing.T, over, before, after string) {
		base := func(from, to string) []Base {
			return []Base{{Name: "b", Before: Files{"f.yaml": []byte(from)}, After: Files{"f.yaml": []byte(to)}}}
		}
		site := Files{"f.yaml": []byte(over)}
		r, err := Find(context.Background(), site, base(before, after))
		if err != nil {
			t.Fatal(err)
		}
		back, err := Find(context.Background(), site, base(after, before))
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Shadows) != len(back.Shadows) || len(r.Problems) != len(back.Problems) {
			t.Errorf("%d shadows and %d problems, the other way round %d and %d", len(r.Shadows), len(r.Problems), len(back.Shadows), len(back.Problems))
		}
		for _, s := range r.Shadows {
			all := s.Document + s.Key + s.Override + s.Before + s.After
			if printable(all) != all || len(all) > 10*4*maxShown+len(over)*10 {
				t.Errorf("%#v", s)
			}
			if s.Line < 1 || s.Line > strings.Count(over, "\n")+strings.Count(over, "\r")+strings.Count(over, "\u0085")+strings.Count(over, "\u2028")+strings.Count(over, "\u2029")+1 {
				t.Errorf("line %d", s.Line)
			}
		}
		for _, p := range r.Problems {
			if printable(p.String()) != p.String() {
				t.Errorf("%#v", p)
			}
		}
	})
}

// FuzzParse: a value is equal to itself read again, and within the bounds.
func FuzzParse(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		one, bad := parse(data)
		two, _ := parse(data)
		if bad != nil {
			if bad.reason == "" || printable(bad.reason) != bad.reason {
				t.Errorf("%#v", bad)
			}
			return
		}
		for i := range one {
			if !equal(one[i].root, two[i].root) {
				t.Errorf("document %d is not what it is", i)
			}
			if one[i].root.size > maxNodes {
				t.Errorf("%d values", one[i].root.size)
			}
			if s := show(one[i].root, false); s == "" || printable(s) != s || len(s) > 4*maxShown+len("…") {
				t.Errorf("shown as %q", s)
			}
		}
	})
}
