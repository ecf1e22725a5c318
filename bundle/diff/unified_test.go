package diff

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func TestUnified(t *testing.T) {
	const old = "replicas: 1\nimage:\n  tag: v1.5.4\n  pullPolicy: Always\nport: 80\nlog: info\nend: true\n"
	now := strings.Replace(old, "v1.5.4", "v1.5.5", 1)
	want := `--- a/values.yaml
+++ b/values.yaml
@@ -1,6 +1,6 @@
 replicas: 1
 image:
-  tag: v1.5.4
+  tag: v1.5.5
   pullPolicy: Always
 port: 80
 log: info
`
	if got := unified("values.yaml", "values.yaml", []byte(old), []byte(now)); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := unified("a", "a", []byte(old), []byte(old)); got != "" {
		t.Errorf("nothing changed: %q", got)
	}
	if got, want := unified("", "new", nil, []byte("x")), "--- /dev/null\n+++ b/new\n@@ -0,0 +1,1 @@\n+x\n\\ No newline at end of file\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := unified("a\nb", "a\nb", []byte("1\n"), []byte("2\n")); !strings.HasPrefix(got, "--- \"a/a\\nb\"\n+++ \"b/a\\nb\"\n@@") {
		t.Errorf("a line feed in a name: %q", got)
	}
}

// A difference is one if git makes the new text of the old one with it, and as short as git's own.
func TestGitAppliesIt(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	text := func() string {
		var b strings.Builder
		for range random.IntN(40) {
			fmt.Fprintf(&b, "%c\n", 'a'+rune(random.IntN(6)))
		}
		if random.IntN(3) == 0 {
			b.WriteString("no end")
		}
		return b.String()
	}
	dir := t.TempDir()
	for i := range 60 {
		old, now := text(), text()
		if old == now || old == "" || now == "" { // git has other headers for files that come and go
			continue
		}
		p := unified("f", "f", []byte(old), []byte(now))
		write(t, filepath.Join(dir, "f"), old)
		write(t, filepath.Join(dir, "patch"), p)
		cmd := exec.CommandContext(t.Context(), "git", "apply", "patch")
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GIT_CEILING_DIRECTORIES="+filepath.Dir(dir))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%d: git apply: %v\n%s\n%s", i, err, out, p)
		}
		if got, err := os.ReadFile(filepath.Join(dir, "f")); err != nil || string(got) != now {
			t.Fatalf("%d: git made %q of %q, want %q (%v)\n%s", i, got, old, now, err, p)
		}
		if got, want := changedLines(p), shortestChange(lines([]byte(old)), lines([]byte(now))); got != want {
			t.Errorf("%d: %d changed lines, the fewest are %d\n%s", i, got, want, p)
		}
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func changedLines(patch string) int {
	n := 0
	for line := range strings.Lines(patch) {
		if (line[0] == '+' || line[0] == '-') && !strings.HasPrefix(line, "+++") && !strings.HasPrefix(line, "---") {
			n++
		}
	}
	return n
}

// shortestChange is the textbook's table of longest common subsequences.
func shortestChange(a, b []string) int {
	table := make([][]int, len(a)+1)
	for i := range table {
		table[i] = make([]int, len(b)+1)
		for j := range table[i] {
			switch {
			case i == 0 || j == 0:
			case a[i-1] == b[j-1]:
				table[i][j] = table[i-1][j-1] + 1
			default:
				table[i][j] = max(table[i-1][j], table[i][j-1])
			}
		}
	}
	return len(a) + len(b) - 2*table[len(a)][len(b)]
}

// Texts that have nothing in common are still compared, at a bounded cost.
func TestManyEdits(t *testing.T) {
	var old, now strings.Builder
	for i := range 20_000 {
		fmt.Fprintf(&old, "a%d\n", i)
		fmt.Fprintf(&now, "b%d\n", i)
	}
	p := unified("f", "f", []byte(old.String()), []byte(now.String()))
	if n := changedLines(p); n != 40_000 {
		t.Errorf("%d changed lines, want 40000", n)
	}
}

// FuzzUnified applies each difference by its own line numbers.
func FuzzUnified(f *testing.F) {
	f.Add([]byte("a\nb\nc\n"), []byte("a\nc\nd"))
	f.Fuzz(func(t *testing.T, old, now []byte) {
		if len(old)+len(now) > 1<<12 {
			return
		}
		if got := apply(t, string(old), unified("x", "x", old, now)); got != string(now) {
			t.Errorf("made %q of %q, want %q", got, old, now)
		}
	})
}

func apply(t *testing.T, old, patch string) string {
	a := lines([]byte(old))
	var out []string
	at := 0
	rest := lines([]byte(patch))
	for i, line := range rest {
		switch {
		case i < 2: // names
		case strings.HasPrefix(line, "@@ "):
			span, _, _ := strings.Cut(strings.TrimPrefix(line, "@@ -"), " ")
			first, count, _ := strings.Cut(span, ",")
			n, err := strconv.Atoi(first)
			if err != nil {
				t.Fatal(err)
			}
			if count != "0" {
				n--
			}
			out = append(out, a[at:n]...)
			at = n
		case line[0] == '\\': // looked at with the line before
		default:
			text := line[1:]
			if i+1 < len(rest) && rest[i+1][0] == '\\' {
				text = strings.TrimSuffix(text, "\n")
			}
			if line[0] != '+' {
				if a[at] != text {
					t.Fatalf("line %d is %q, the difference says %q", at, a[at], text)
				}
				at++
			}
			if line[0] != '-' {
				out = append(out, text)
			}
		}
	}
	return strings.Join(append(out, a[at:]...), "")
}
