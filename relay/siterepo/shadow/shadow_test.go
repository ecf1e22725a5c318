package shadow

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"strings"
	"testing"
)

const repo = "github.com/acme/robot-deployment"

// find compares one file of a Git repository.
func find(t *testing.T, over, before, after string) *Report {
	t.Helper()
	return findAll(t, Files{"f.yaml": []byte(over)}, Base{
		Name: "base", Repository: repo, Before: Files{"f.yaml": []byte(before)}, After: Files{"f.yaml": []byte(after)},
	})
}

func findAll(t *testing.T, over Tree, bases ...Base) *Report {
	t.Helper()
	r, err := Find(context.Background(), over, bases)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// lines writes a report in short: document key: override, before -> after.
func lines(r *Report) string {
	var list []string
	for _, s := range r.Shadows {
		text := fmt.Sprintf("%s: %s, %s -> %s", s.Key, s.Override, s.Before, s.After)
		if s.Document != "" {
			text = s.Document + " " + text
		}
		if s.Same {
			text += " same"
		}
		list = append(list, text)
	}
	return strings.Join(list, "\n")
}

func TestKeys(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, over, before, after, want string }{
		{"nothing changed", "a: 1", "a: 2", "a: 2", ""},
		{"written differently", "a: 1", "a: 16\nb: 'x'", "{\"b\": \"x\", a: 0x10}", ""},
		{"1.0 is 1", "a: 2", "a: 1", "a: 1.0", ""},
		{"yes is true", "a: 2", "a: yes", "a: True", ""},
		{"'yes' is text", "a: 2", "a: 'yes'", "a: true", `a: 2, "yes" -> true`},
		{"'1' is text", "a: 2", "a: '1'", "a: 1", `a: 2, "1" -> 1`},
		{"changed", "a: 1", "a: 2", "a: 3", "a: 1, 2 -> 3"},
		{"changed to what the site sets", "a: 3", "a: 2", "a: 3", "a: 3, 2 -> 3 same"},
		{"added", "a: 1", "b: 2", "b: 2\na: 2", "a: 1,  -> 2"},
		{"removed", "a: 1", "a: 2", "{}", "a: 1, 2 -> "},
		{"another key changed", "a: 1", "a: 2\nb: 1", "a: 2\nb: 2", ""},
		{"below", "a: {b: {c: 1}}", "a: {b: {c: 2, d: 1}}", "a: {b: {c: 3, d: 2}}", "a.b.c: 1, 2 -> 3"},
		{"a map that came", "a: {b: {c: 1}}", "", "a: {b: {c: 3}}", "a.b.c: 1,  -> 3"},
		{"a map that is only null", "a: {b: 1}", "a:", "a: {b: 2}", "a.b: 1,  -> 2"},
		{"lists are one value", "a: [1, 2]", "a: [1]", "a: [1, 3]", "a: [1,2], [1] -> [1,3]"},
		{"lists in another order", "a: [9]", "a: [1, 2]", "a: [2, 1]", "a: [9], [1,2] -> [2,1]"},
		{"maps in another order", "a: [9]", "a: [{b: 1, c: 2}]", "a: [{c: 2, b: 1}]", ""},
		{"a map over text", "a: {b: 1, c: 1}", "a: x", "a: y", `a: {"b":1,"c":1}, "x" -> "y"`},
		{"a map over what becomes one", "a: {b: 1, c: 1}", "a: x", "a: {b: 2}", `a: {"b":1,"c":1}, "x" -> {"b":2}`},
		{"text over a map", "a: x", "a: {b: 1}", "a: {b: 2}", `a: "x", {"b":1} -> {"b":2}`},
		{"null takes a key away", "a: null", "a: 1", "a: 2", "a: null, 1 -> 2"},
		{"an empty map sets nothing below", "a: {}", "a: {b: 1}", "a: {b: 2}", `a: {}, {"b":1} -> {"b":2}`},
		{"the last of two", "a: 1\na: 2", "a: 3", "a: 4", "a: 2, 3 -> 4"},
		{"aliases", "x: &x {b: 1}\na: *x", "a: {b: 2}", "z: &z 3\na: {b: *z}", "a.b: 1, 2 -> 3"},
		{"merges", "x: &x {b: 1, c: 1}\na: {<<: *x, c: 7}", "a: {b: 2, c: 1}", "a: {b: 3, c: 2}", "a.b: 1, 2 -> 3\na.c: 7, 1 -> 2"},
		{"merges of a list", "a: {<<: [{b: 1}, {b: 2, c: 3}]}", "a: {b: 0, c: 0}", "a: {b: 9, c: 9}", "a.b: 1, 0 -> 9\na.c: 3, 0 -> 9"},
		{"odd keys", "a.b: {'': 1, \"x\\n\": 2, 3: 4, true: 5}", "a.b: {}", "a.b: {'': 0, \"x\\n\": 0, 3: 0, true: 0}",
			"\"a.b\".\"\": 1,  -> 0\n\"a.b\".\"x\\n\": 2,  -> 0\n\"a.b\".3: 4,  -> 0\n\"a.b\".true: 5,  -> 0"},
		{"a whole file of a list", "[1]", "[2]", "[3]", ": [1], [2] -> [3]"},
		{"an empty override", "# nothing\n", "a: 1", "a: 2", ""},
		{"no value", "---\n", "a: 1", "a: 2", ""},
		{"dates are text", "a: 1", "a: 2024-01-01", "a: '2024-01-01'", ""},
		{"tags", "a: 1", "a: !x y", "a: !z y", `a: 1, "!x y" -> "!z y"`},
		{"large numbers", "a: 1", "a: 12345678901234567890", "a: 12345678901234567891", "a: 1, 12345678901234567890 -> 12345678901234567891"},
		{"odd numbers", "a: 1", "a: .nan", "a: -.inf", "a: 1, nan -> -inf"},
		{"fractions", "a: 1", "a: 1.50", "a: 15e-1", ""},
	} {
		r := find(t, tc.over, tc.before, tc.after)
		if got := lines(r); got != tc.want || len(r.Problems) > 0 || r.Cut {
			t.Errorf("%s:\n%s\nwant\n%s\n%v", tc.name, got, tc.want, r.Problems)
		}
	}
}

func TestDocuments(t *testing.T) {
	t.Parallel()
	object := func(kind, name, spec string) string {
		return "---\napiVersion: v1\nkind: " + kind + "\nmetadata: {name: " + name + ", namespace: robots}\nspec: " + spec + "\n"
	}
	for _, tc := range []struct{ name, over, before, after, want string }{
		{"by name", object("Deployment", "b", "1") + object("Deployment", "a", "1"),
			object("Deployment", "a", "2") + object("Service", "a", "2") + object("Deployment", "b", "2"),
			object("Service", "a", "3") + object("Deployment", "b", "2") + object("Deployment", "a", "3"),
			"Deployment/robots/a spec: 1, 2 -> 3"},
		{"by order", "a: 1\n---\na: 1\n", "a: 2\n---\n# comment\n---\na: 2\n", "a: 2\n---\na: 3\n", "document 2 a: 1, 2 -> 3"},
		{"one that came", "a: 1\n---\nb: 1\n", "a: 2\n", "a: 2\n---\nb: 2\n", "document 2 b: 1,  -> 2"},
		{"alone, with another name", object("Deployment", "new", "1"), object("Deployment", "old", "2"), object("Deployment", "old", "3"), "spec: 1, 2 -> 3"},
		{"two of a name", object("Job", "a", "1") + object("Job", "a", "1"), object("Job", "a", "2") + object("Job", "a", "2"),
			object("Job", "a", "2") + object("Job", "a", "3"), "Job/robots/a spec: 1, 2 -> 3"},
	} {
		if got := lines(find(t, tc.over, tc.before, tc.after)); got != tc.want {
			t.Errorf("%s:\n%s\nwant\n%s", tc.name, got, tc.want)
		}
	}
}

func TestPlaces(t *testing.T) {
	t.Parallel()
	tree := func(value string) Files {
		return Files{"robot-values/line-2.yaml": []byte("a: " + value), "charts/robot-app/values.yaml": []byte("a: " + value), "x.txt": []byte("a: " + value)}
	}
	values := func(value string) Files { return Files{"values.yaml": []byte("a: " + value)} }
	bases := []Base{
		{Name: repo, Repository: repo, Before: tree("1"), After: tree("2")},
		{Name: repo + "/sub", Repository: repo + "/sub", Before: tree("1"), After: tree("2")},
		{Name: "gone", Repository: "example.com/gone", Before: tree("1")},
		{Name: "fresh", Repository: "example.com/fresh", After: tree("2")},
		{Name: "chart robot-app", Chart: "robot-app", Before: values("1"), After: values("2")},
	}
	for name, want := range map[string]string{
		"robot-values/line-2.yaml":                       repo + ": robot-values/line-2.yaml, " + repo + "/sub: robot-values/line-2.yaml, gone: robot-values/line-2.yaml, fresh: robot-values/line-2.yaml",
		repo + "/robot-values/line-2.yaml":               repo + ": robot-values/line-2.yaml",
		repo + "/sub/robot-values/line-2.yaml":           repo + "/sub: robot-values/line-2.yaml",
		"example.com/gone/robot-values/line-2.yaml":      "gone: robot-values/line-2.yaml",
		"example.com/goner/robot-values/line-2.yaml":     "",
		"robot-app/values.yaml":                          "chart robot-app: values.yaml",
		"example.com/fresh/charts/robot-app/values.yaml": "fresh: charts/robot-app/values.yaml",
		"charts/robot-app/values.yaml": repo + ": charts/robot-app/values.yaml, " + repo + "/sub: charts/robot-app/values.yaml, " +
			"gone: charts/robot-app/values.yaml, fresh: charts/robot-app/values.yaml, chart robot-app: values.yaml",
		"charts/other/values.yaml":   "",
		"robot-app/values.yml":       "",
		"x/robot-app/values.yaml":    "",
		"values.yaml":                "",
		"x.txt":                      "",
		"../robot-app/values.yaml":   "",
		"/robot-values/line-2.yaml":  "",
		"robot-values/line-2.yaml/x": "",
	} {
		r := findAll(t, Files{name: []byte("a: 0")}, bases...)
		var got []string
		for _, s := range r.Shadows {
			got = append(got, s.Source)
		}
		if strings.Join(got, ", ") != want {
			t.Errorf("%s lies over %v, want %s", name, got, want)
		}
	}
}

func TestSecretsAreHidden(t *testing.T) {
	t.Parallel()
	const mine, old, fresh = "mine-0815", "old-4711", "fresh-42"
	for _, key := range []string{
		"password", "dbPassword", "DB_PASSWD", "token", "api-token", "apiKey", "key", "tls.key", "privateKey", "secret", "clientSecret", "wifiPSK",
		"passphrase", "credentials", "ssh_keys", "PIN", "adminPwd",
	} {
		for _, format := range []string{"%q: %s", "{%q: {user: {name: %s}}}", "a: {b: {%q: %s}}", "a: [{%q: %s}]", "env: [{name: %q, value: %s}]", "a: [{x: {%q: [%s]}}]"} {
			yaml := func(value string) string { return fmt.Sprintf(format, key, value) }
			r := find(t, yaml(mine), yaml(old), yaml(fresh))
			text := fmt.Sprintf("%+v", r)
			if len(r.Shadows) != 1 || strings.Contains(text, mine) || strings.Contains(text, old) || strings.Contains(text, fresh) {
				t.Errorf("%s: %s", yaml(mine), text)
			}
			if strings.Count(text, Hidden) != 3 {
				t.Errorf("%s: %s", yaml(mine), text)
			}
		}
	}
	for _, value := range []string{
		"https://user:hunter2@example.com", "ghp_0123456789", "glpat-0123", "-----BEGIN RSA PRIVATE KEY-----", "eyJhbGciOiJIUzI1NiJ9.x", "AKIA0123",
	} {
		r := find(t, "a: 1", "a: 2", "a: "+fmt.Sprintf("%q", value))
		if got := lines(r); got != "a: 1, 2 -> "+Hidden {
			t.Errorf("%s: %s", value, got)
		}
	}
	// That it came or went is seen.
	if got := lines(find(t, "token: a", "", "token: b")); got != "token: (hidden),  -> (hidden)" {
		t.Error(got)
	}
	for _, key := range []string{"replicas", "image", "tokenizer.x", "ssid", "camera", "keyboard", "passengers"} {
		shown := key != "tokenizer.x" // rather hidden than shown
		if got := lines(find(t, key+": 1", key+": 2", key+": 3")); strings.Contains(got, "2 -> 3") != shown {
			t.Error(got)
		}
	}
}

func TestValuesAreCut(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("ä", 5000)
	for _, yaml := range []string{"a: " + long, "a: [" + strings.Repeat(long[:20]+", ", 500) + "]", "a: [{" + long[:600] + ": " + long + "}]", "a: \"" + strings.Repeat(`\u0001`, 5000) + `"`} {
		r := find(t, yaml, "a: 1", "a: 2")
		if len(r.Shadows) != 1 || len(r.Shadows[0].Override) > 1000 || !strings.HasSuffix(r.Shadows[0].Override, "…") {
			t.Errorf("%d: %+v", len(yaml), r.Shadows)
		}
	}
}

func TestProblems(t *testing.T) {
	t.Parallel()
	bomb := "a0: &a0 [x]\n"
	for i := 1; i < 10; i++ {
		bomb += fmt.Sprintf("a%d: &a%d [%s*a%d]\n", i, i, strings.Repeat(fmt.Sprintf("*a%d, ", i-1), 9), i-1)
	}
	merges := "a0: &a0 {x0: 1}\n"
	for i := 1; i < 30; i++ {
		merges += fmt.Sprintf("a%d: &a%d {b: *a%d, c: *a%d}\n", i, i, i-1, i-1)
	}
	var again strings.Builder
	again.WriteString("a: &a {")
	for i := range 1000 {
		fmt.Fprintf(&again, "k%d: 1, ", i)
	}
	again.WriteString("}\nb: {<<: [" + strings.Repeat("*a, ", 100_000) + "]}\n")
	for name, tc := range map[string]struct {
		over   string
		line   int
		reason string
	}{
		"merged again":    {again.String(), 2, "more than 200000 values"},
		"syntax":          {"a: 1\nb: [1\nc: 2\n", 2, "not valid YAML"},
		"a flow":          {"a: {b: 1\n", 2, "not valid YAML"},
		"indented":        {"a:\n  b: 1\n c: 2\n", 3, "not valid YAML"},
		"a list":          {"a:\n- b\n- c\n d\n-e\n", 5, "not valid YAML"},
		"a tab":           {"a:\n\tb: 1\n", 2, "not valid YAML"},
		"not UTF-8":       {"a: 1\nb: \xff\n", 2, "byte 0xff, want UTF-8"},
		"undefined alias": {"a: *x\n", 1, "not valid YAML: unknown anchor"},
		"circle":          {"a: 1\nb: &b [*b]\n", 2, "leads back to itself"},
		"circle of maps":  {"b: &b {<<: *b}\n", 1, "leads back to itself"},
		"bomb":            {bomb, 0, "more than 200000 values"},
		"bomb of maps":    {merges, 0, "more than 200000 values"},
		"deep":            {"a: " + strings.Repeat("[", 150) + strings.Repeat("]", 150), 1, "nested deeper"},
		"odd key":         {"a: 1\n? [1]\n: 2\n", 2, "a key that is not text"},
		"odd merge":       {"a: 1\nb: {<<: 1}\n", 2, "a merge of what is no map"},
		"documents":       {strings.Repeat("---\na: 1\n", maxDocuments+1), 0, "more than 1000 documents"},
		"large":           {"a: " + strings.Repeat("x", MaxFile), 0, "bytes, the limit is"},
		"many values":     {"a: [" + strings.Repeat("1,", maxNodes+1) + "]", 0, "more than 200000 values"},
		"the second one":  {"a: 1\n---\nb: [\n", 0, "not valid YAML"},
	} {
		r := find(t, tc.over, "a: 1", "a: 2")
		if len(r.Problems) != 1 || len(r.Shadows) > 0 {
			t.Errorf("%s: %+v", name, r)
			continue
		}
		p := r.Problems[0]
		if p.File != "f.yaml" || p.Source != "" || !strings.Contains(p.Reason, tc.reason) || tc.line > 0 && p.Line != tc.line {
			t.Errorf("%s: %s", name, p)
		}
		// Below it keeps nothing else from being compared.
		if len(tc.over) > MaxFile {
			continue
		}
		below := Files{"f.yaml": []byte(tc.over), "g.yaml": []byte("a: 1")}
		r = findAll(t, Files{"f.yaml": []byte("a: 1"), "g.yaml": []byte("a: 0")},
			Base{Name: "base", Repository: repo, Before: below, After: Files{"f.yaml": []byte("a: 1"), "g.yaml": []byte("a: 2")}})
		if len(r.Problems) != 1 || r.Problems[0].Source != "base: f.yaml" || len(r.Shadows) != 1 {
			t.Errorf("%s, below: %+v", name, r)
		}
	}
	// What lies over nothing may be anything.
	if r := findAll(t, Files{"other.yaml": []byte("[")}, Base{Name: "base", Before: Files{}, After: Files{}}); len(r.Problems) > 0 {
		t.Error(r.Problems)
	}
	// A file below that is too large counts as not there.
	r := find(t, "a: 1", "a: "+strings.Repeat("x", MaxFile), "a: 2")
	if len(r.Problems) != 1 || r.Problems[0].Source == "" || len(r.Shadows) != 1 {
		t.Errorf("%+v", r)
	}
	for _, p := range []Problem{{File: "f", Line: 2, Reason: "r"}, {File: "f", Reason: "r"}, {File: "f", Source: "s", Reason: "r"}} {
		if !strings.HasPrefix(p.String(), "f:") || !strings.HasSuffix(p.String(), "r") {
			t.Error(p)
		}
	}
}

func TestReportIsBounded(t *testing.T) {
	t.Parallel()
	var over, before, after strings.Builder
	for i := range MaxShadows + 1 {
		fmt.Fprintf(&over, "a%d: 0\n", i)
		fmt.Fprintf(&before, "a%d: 1\n", i)
		fmt.Fprintf(&after, "a%d: 2\n", i)
	}
	if r := find(t, over.String(), before.String(), after.String()); len(r.Shadows) != MaxShadows || !r.Cut {
		t.Errorf("%d, %v", len(r.Shadows), r.Cut)
	}
	files := make(Files)
	for i := range MaxFiles + 1 {
		files[fmt.Sprintf("f%d.yaml", i)] = nil
	}
	if r := findAll(t, files); !r.Cut {
		t.Error("not cut")
	}
}

// brokenTree has a file that cannot be read.
type brokenTree struct{ Tree }

var errBroken = errors.New("the disk is broken")

func (brokenTree) ReadFile(string) ([]byte, error) { return nil, errBroken }

func TestErrors(t *testing.T) {
	t.Parallel()
	good := Files{"f.yaml": []byte("a: 1")}
	broken := brokenTree{good}
	for i, tc := range []struct {
		over          Tree
		before, after Tree
	}{{broken, good, Files{}}, {good, broken, good}, {good, good, broken}} {
		_, err := Find(context.Background(), tc.over, []Base{{Name: "base", Before: tc.before, After: tc.after}})
		if !errors.Is(err, errBroken) || !strings.Contains(err.Error(), "f.yaml") {
			t.Errorf("%d: %v", i, err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Find(ctx, good, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

var _ Tree = Files(nil)

func TestFiles(t *testing.T) {
	t.Parallel()
	if _, err := (Files{}).ReadFile("x"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	next, stop := iter.Pull(Files{"a": nil, "b": nil}.Files())
	if _, ok := next(); !ok {
		t.Error("no file")
	}
	stop()
}
