package layout

import (
	"io"
	"os"
	"strings"
	"testing"

	intoto "github.com/in-toto/in-toto-golang/in_toto"
)

// libraryTakes reports whether the library matches with a pattern without a warning, which is all that it says.
func libraryTakes(t *testing.T, pattern string) bool {
	out := os.Stdout
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close() //nolint:errcheck // a test's
	os.Stdout = file
	intoto.NewSet("a", "src/main.go", "").Filter(pattern)
	os.Stdout = out
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(file)
	if err != nil {
		t.Fatal(err)
	}
	return len(data) == 0
}

var patterns = []string{"", "*", "a", "a*b?c", "[", "]", "[a", "[a]", "[]", "[]a]", "[!]", "[!a]", "[!]a]", "[a-", "[a-]", "[-a]", "[a-z]", `[\]]`, `[\`,
	`\`, `\\`, `a\`, `\*`, "[*]", "[a]]", "[a[b]", "*[", "[é-ü]", "[\xff]", "[a-\xff]", "[\xffa]", "[a-z0-9_]*.go", "[[]*", `[a\-z]`, "[!!]", "[!-a]"}

func TestPatterns(t *testing.T) {
	good := 0
	for _, p := range patterns {
		ours := isPattern(p)
		if ours != libraryTakes(t, p) {
			t.Errorf("%q: we say %t", p, ours)
		}
		if ours {
			good++
		}
	}
	if good < 5 || good > len(patterns)-5 {
		t.Errorf("%d of %d are good", good, len(patterns))
	}
}

func FuzzPattern(f *testing.F) {
	for _, p := range patterns {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, p string) {
		// What the library does with a class of broken UTF-8 depends on what it is compared with.
		if len(p) > 200 || strings.ToValidUTF8(p, "") != p {
			return
		}
		if ours := isPattern(p); ours && !libraryTakes(t, p) {
			t.Errorf("%q: we take it, the library does not", p)
		}
	})
}
