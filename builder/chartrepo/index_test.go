package chartrepo

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/Masterminds/semver/v3"
	"helm.sh/helm/v3/pkg/repo"
)

// texts are the versions of chart x in an index, with a mark on those that cannot be used.
func texts(text, chart string) ([]string, error) {
	versions, err := (&index{raw: []byte(text)}).versions(chart)
	var all []string
	for _, v := range versions {
		mark := ""
		if v.bad != nil {
			mark = "!"
		}
		all = append(all, v.text+mark)
	}
	return all, err
}

func TestForms(t *testing.T) {
	for _, tc := range []struct{ name, index, want string }{
		{"as helm writes", "apiVersion: v1\nentries:\n  x:\n  - version: 1.0.0\n    urls:\n    - a\n  - version: 2.0.0\n    urls:\n    - b\n  y:\n  - version: 3.0.0\n    urls: [c]\ngenerated: \"now\"\n", "[1.0.0 2.0.0]"},
		{"items further in", "entries:\n    x:\n        - version: 1.0.0\n          urls: [a]\n\n        # between\n        - urls: [a]\n          version: 2.0.0\n", "[1.0.0 2.0.0]"},
		{"the end of a file without one", "entries:\n  x:\n  - version: 1.0.0\n    urls: [a]", "[1.0.0]"},
		{"Windows", "\xef\xbb\xbfentries:\r\n  x:\r\n  - version: 1.0.0\r\n    urls:\r\n    - a\r\n", "[1.0.0]"},
		{"quoted", "\"entries\":\n  'x': # this\n  - \"version\": \"1.0.0\"\n    urls: ['a']\n", "[1.0.0]"},
		{"a document", "%YAML 1.1\n---\nentries:\n  x:\n  - {version: 1.0.0, urls: [a]}\n---\nentries:\n  x:\n  - {version: 9.0.0, urls: [a]}\n", "[1.0.0]"},
		{"text that looks like it", "entries:\n  y:\n  - version: 9.0.0\n    description: |\n      entries:\n        x:\n        - version: 9.0.0\n    urls: [a]\n  x:\n  - description: |-\n      - version: 9.0.0\n    version: 1.0.0\n    urls: [a]\n", "[1.0.0]"},
		{"list below the name of another key", "publicKeys:\n- one\n- two\nentries:\n  x:\n  - version: 1.0.0\n    urls: [a]\n", "[1.0.0]"},
		{"flow", "{entries: {x: [{version: 1.0.0, urls: [a]}], y: []}}", "[1.0.0]"},
		{"half flow", "entries: {x: [{version: 1.0.0, urls: [a]}]}", "[1.0.0]"},
		{"alias", "entries:\n  y: &y\n  - version: 1.0.0\n    urls: [a]\n  x: *y\n", "[1.0.0]"},
		{"alias over versions", "entries:\n  x:\n  - version: 1.0.0\n    urls: &u [a]\n  - version: 2.0.0\n    urls: *u\n", "[1.0.0 2.0.0]"},
		{"text over lines that are not indented", "entries:\n  x:\n  - description: \"one\n  - two\"\n    version: 1.0.0\n    urls: [a]\n", "[1.0.0]"},
		{"JSON", `{"apiVersion":"v1","entries":{"y":[{"version":"3.0.0"}],"x":[{"version":"1.0.0","urls":["a"]},{"version":2},null]}}`, "[1.0.0 ! !]"},
		{"JSON over lines", "\n {\"entries\":\n{\"x\":\n[{\"version\":\"1.0.0\",\"urls\":[\"a\"]}]}}\n", "[1.0.0]"},
		{"numbers", "entries:\n  x:\n  - version: 1.10\n    urls: [a]\n", "[1.10]"},
		{"fields that are missing", "entries:\n  x:\n  - version: 1.0.0\n  - urls: [a]\n  - null\n  - version: [1]\n  - just text\n  - version: one\n    urls: [a]\n  - version: 2.0.0\n    urls: [a]\n", "[1.0.0! ! ! ! ! one! 2.0.0]"},
		{"a field twice", "entries:\n  x:\n  - version: 1.0.0\n    version: 2.0.0\n    urls: [a]\n", "[2.0.0!]"},
		{"no versions", "entries:\n  x: []\n  y:\n", "[]"},
		{"nothing below", "entries:\n  x:\n  y:\n  - version: 1.0.0\n", "[]"},
		{"empty", "", "it has no entries"},
		{"a page", "<!DOCTYPE html>\n<html><body>Sign in</body></html>", "it has no entries"},
		{"no entries", "apiVersion: v1\n", "it has no entries"},
		{"empty entries", "entries: {}\n", "no such chart"},
		{"another chart", "entries:\n  xyz:\n  - version: 1.0.0\n  a:\n", "no such chart; the nearest are xyz, a"},
		{"the chart twice", "entries:\n  x:\n  - version: 1.0.0\n  x:\n  - version: 1.0.0\n", "it has the chart twice"},
		{"the chart twice in JSON", `{"entries":{"x":[],"x":[]}}`, "it has the chart twice"},
		{"entries twice", "entries: {}\nentries:\n  x:\n", "entries twice"},
		{"entries twice in JSON", `{"entries":{},"entries":{}}`, "entries twice"},
		{"no list", "entries:\n  x:\n    version: 1.0.0\n", "want a list of versions"},
		{"no YAML", "entries:\n  x:\n  - version: [\n", "did not find expected"},
		{"names at two depths", "entries:\n    y: []\n  x:\n  - version: 1.0.0\n", "yaml: "},
		{"half JSON", `{"entries":{"x":[{"version":"1.0.0"`, "yaml: "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := texts(tc.index, "x")
			if text := fmt.Sprint(got, err); err == nil && fmt.Sprint(got) != tc.want || !strings.Contains(text, tc.want) {
				t.Errorf("got %v, %v, want %s", got, err, tc.want)
			}
		})
	}
}

// TestChoosesAsHelmDoes compares with Helm's own reading of the same file.
func TestChoosesAsHelmDoes(t *testing.T) {
	versions := []string{
		"1.0.0", "1.2.0", "1.10.0", "2.0.0-rc.1", "2.0.0-rc.2", "0.9.9", "v1.3.0", "1.2.0+build", "3.0.0-alpha", "1.2.3", "one", "1.0.0",
	}
	text := "apiVersion: v1\ngenerated: \"2024-05-04T03:02:01Z\"\nentries:\n  x:\n"
	for i, v := range versions {
		text += fmt.Sprintf("  - apiVersion: v2\n    name: x\n    version: %s\n    urls: [x-%d.tgz]\n", v, i)
	}
	path := filepath.Join(t.TempDir(), "index.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	helm, err := repo.LoadIndexFile(path)
	if err != nil {
		t.Fatal(err)
	}
	all, err := (&index{raw: []byte(text)}).versions("x")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"", "*", "1.x", "^1.2", "~1.2.0", ">=1.0 <1.10", "1.0.0", "1.3.0", "v1.3.0", "v1.0.0", "1.2", "<1", "2.0.0-rc.1", ">=2.0.0-0", ">1.10.0-0", "^2",
		"3.0.0", "=1.2.3", "1.0 - 1.2", "0.9.9 || 1.0.0", "!=1.10.0", "4.x", "nonsense", ">", "1.2.0+build", "3.0.0-alpha",
	} {
		v, err := choose(all, want)
		theirs, helmErr := helm.Get("x", want)
		switch {
		case (err == nil) != (helmErr == nil):
			t.Errorf("%q: %v, Helm says %v", want, err, helmErr)
		case err == nil && v.text != theirs.Version && !v.parsed.Equal(semver.MustParse(theirs.Version)):
			t.Errorf("%q: %s, Helm takes %s", want, v.text, theirs.Version)
		}
	}
}

func TestNotFound(t *testing.T) {
	var all []*version
	for _, text := range []string{"1.0.0", "1.1.0", "1.2.0", "1.3.0", "2.0.0", "2.1.0", "3.0.0", "3.1.0", "4.1.0-rc.1"} {
		all = append(all, (&version{text: text, urls: []string{"x"}}).checked())
	}
	all = append(all, (&version{text: "5.0.0"}).checked())
	for _, tc := range []struct {
		want    string
		near    []string
		message string
	}{
		{"1.4.0", []string{"3.0.0", "2.1.0", "2.0.0", "1.3.0", "1.2.0", "1.1.0"}, "no such version; the nearest are 3.0.0, 2.1.0"},
		{"0.1.x", []string{"2.1.0", "2.0.0", "1.3.0", "1.2.0", "1.1.0", "1.0.0"}, "no such version"},
		{">9", []string{"4.1.0-rc.1", "3.1.0", "3.0.0", "2.1.0", "2.0.0", "1.3.0"}, "no such version"},
		{"latest", []string{"4.1.0-rc.1", "3.1.0", "3.0.0", "2.1.0", "2.0.0", "1.3.0"}, "improper constraint"},
		{"4.x", []string{"4.1.0-rc.1", "3.1.0", "3.0.0", "2.1.0", "2.0.0", "1.3.0"}, "only pre-releases match, for example 4.1.0-rc.1; ask for it by its name, or for >=4.1.0-rc.1"},
	} {
		_, err := choose(all, tc.want)
		var notFound *NotFoundError
		if !errors.As(err, &notFound) || !slices.Equal(notFound.Versions, tc.near) || !strings.Contains(err.Error(), tc.message) {
			t.Errorf("%s: got %v, want %v", tc.want, err, tc.near)
		}
	}
	if _, err := choose(all, "5.0.0"); err == nil || err.Error() != "the index has it, but it has no urls" {
		t.Errorf("got %v", err)
	}
	if _, err := choose(nil, "*"); err == nil || !strings.Contains(err.Error(), "no usable version") {
		t.Errorf("got %v", err)
	}
}

// TestOrderDoesNotMatter: servers write their indexes in different orders from one day to the next.
func TestOrderDoesNotMatter(t *testing.T) {
	var all []*version
	for _, text := range []string{"1.0.0+a", "1.0.0+c", "1.0.0+b", "0.9.0"} {
		all = append(all, (&version{text: text, urls: []string{"x"}}).checked())
	}
	for range len(all) {
		all = append(all[1:], all[0])
		if v, err := choose(all, "^1"); err != nil || v.text != "1.0.0+c" {
			t.Errorf("got %v, %v", v, err)
		}
	}
}

// TestLargeIndex: 20,000 entries, 20 MB; only those of one chart may cost memory.
func TestLargeIndex(t *testing.T) {
	var b strings.Builder
	b.WriteString("apiVersion: v1\nentries:\n")
	for c := range 200 {
		fmt.Fprintf(&b, "  chart-%d:\n", c)
		for v := range 100 {
			fmt.Fprintf(&b, "  - annotations:\n      images: |\n%s    name: chart-%d\n    urls:\n    - chart.tgz\n    version: 1.%d.0\n",
				strings.Repeat("        - name: image\n          image: docker.io/example/image:1.0.0\n", 16), c, v)
		}
	}
	x := &index{raw: []byte(b.String())}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	all, err := x.versions("chart-177")
	runtime.ReadMemStats(&after)
	if err != nil || len(all) != 100 {
		t.Fatalf("%d versions, %v", len(all), err)
	}
	if used := after.TotalAlloc - before.TotalAlloc; len(x.raw) < 20<<20 || used > 8<<20 {
		t.Errorf("an index of %d bytes takes %d more", len(x.raw), used)
	}
}

// TestIndexBombs: aliases, depth, nodes, and sheer numbers.
func TestIndexBombs(t *testing.T) {
	aliases := "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n"
	for i := 1; i < 12; i++ {
		aliases += fmt.Sprintf("a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d,", i-1), 10), ","))
	}
	for _, tc := range []struct{ name, index, want string }{
		{"aliases before entries", aliases + "entries:\n  x:\n  - version: 1.0.0\n    urls: [a]\n", "[1.0.0]"},
		{"aliases as urls", aliases + "entries: {x: [{version: 1.0.0, urls: *a11}]}\n", "[1.0.0]"},
		{"a long text many times", "entries: {x: [{version: 1.0.0, a: &a \"" + strings.Repeat("x", 400_000) + "\", urls: [" + strings.Repeat("*a,", 100_000) + "]}]}", "[1.0.0!]"},
		{"an alias of itself", "entries: &e {x: *e}\n", "want a list of versions"},
		{"depth", "entries:\n  x:\n  - version: 1.0.0\n    urls: " + strings.Repeat("[", 100_000) + "\n", "exceeded max depth"},
		{"depth in JSON", `{"entries":{"x":[` + strings.Repeat("[", 100_000), "exceeded max depth"},
		{"one version of 2 MiB", "entries:\n  x:\n  - a: [" + strings.Repeat("x,", 1<<20) + "]\n", "limit is 1048576"},
		{"another layout of 2 MiB", "entries: {x: [" + strings.Repeat("x,", 1<<20) + "]}\n", "not laid out as `helm repo index` does; the limit for others is 1048576 bytes"},
		{"versions without end", "entries:\n  x:\n" + strings.Repeat("  -\n", maxVersions+1), "more than 50000 versions"},
		{"names without end", "entries:\n" + strings.Repeat("  y:\n", 1<<20), "no such chart"},
		{"urls without end", "entries:\n  x:\n  - version: 1.0.0\n    urls: [" + strings.Repeat("a,", 17) + "]\n", "[1.0.0!]"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			got, err := texts(tc.index, "x")
			runtime.ReadMemStats(&after)
			if text := fmt.Sprint(got, err); !strings.Contains(text, tc.want) {
				t.Errorf("got %.200s, want %s", text, tc.want)
			}
			if used := (after.TotalAlloc - before.TotalAlloc) >> 20; used > 700 {
				t.Errorf("took %d MiB", used)
			}
		})
	}
}

// FuzzIndex: whatever an index says, what comes out can be asked for, and asking twice gives the same.
func FuzzIndex(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte, chart, want string) {
		x := &index{raw: data}
		all, err := x.versions(chart)
		again, errAgain := x.versions(chart)
		if !reflect.DeepEqual(written(all), written(again)) || fmt.Sprint(err) != fmt.Sprint(errAgain) {
			t.Fatal("read differently the second time")
		}
		if err != nil {
			return
		}
		v, err := choose(all, want)
		if err != nil {
			return
		}
		if v.bad != nil || v.parsed == nil || len(v.urls) == 0 {
			t.Fatalf("chose %+v", v)
		}
		constraint, err := semver.NewConstraint(cmp.Or(want, "*"))
		if v.text != want && (err != nil || !constraint.Check(v.parsed)) {
			t.Fatalf("chose %s for %q", v.text, want)
		}
		u, err := parseRepository("https://charts.example.com/stable?token=s")
		if err != nil {
			t.Fatal(err)
		}
		e, err := v.entry(u, chart, u.String())
		if err != nil {
			return
		}
		for _, text := range e.URLs {
			if _, err := resolve(u, text); err != nil {
				t.Fatalf("%s: %v", text, err)
			}
		}
	})
}

func written(all []*version) (texts []string) {
	for _, v := range all {
		texts = append(texts, fmt.Sprint(v.text, v.urls, v.digest, v.bad))
	}
	return texts
}
