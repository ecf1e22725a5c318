package diff

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	contextLines = 3
	// maxEdits bounds the search for the shortest difference, whose cost grows with its square. Texts that differ more
	// are shown as one piece replaced by another, which is right as well.
	maxEdits = 1000
)

// isText reports whether data is worth a line by line comparison.
func isText(data []byte) bool {
	return len(data) <= MaxText && utf8.Valid(data) && bytes.IndexByte(data, 0) < 0
}

// unified gives a unified difference as `diff -u` and git print it, "" when there is none. An empty name stands for a
// side that has no such file.
func unified(oldName, newName string, old, now []byte) string {
	a, b := lines(old), lines(now)
	ops := edits(a, b)
	var out strings.Builder
	for _, h := range hunks(ops) {
		if out.Len() == 0 {
			fmt.Fprintf(&out, "--- %s\n+++ %s\n", fileName("a/", oldName), fileName("b/", newName))
		}
		fmt.Fprintf(&out, "@@ -%s +%s @@\n", h.span(h.oldAt, ' ', '-'), h.span(h.newAt, ' ', '+'))
		for _, op := range h.ops {
			out.WriteByte(op.kind)
			out.WriteString(op.line)
			if !strings.HasSuffix(op.line, "\n") {
				out.WriteString("\n\\ No newline at end of file\n")
			}
		}
	}
	return out.String()
}

// fileName quotes a name that would not survive in a line.
func fileName(prefix, name string) string {
	if name == "" {
		return "/dev/null"
	}
	if strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == '"' || r == '\\' || r == 0x7f || r == utf8.RuneError }) {
		return fmt.Sprintf("%q", prefix+name)
	}
	return prefix + name
}

// lines splits behind each line feed; only the last line may have none.
func lines(data []byte) []string { return slices.Collect(strings.Lines(string(data))) }

// op is a line that stays (' '), goes ('-') or comes ('+').
type op struct {
	kind byte
	line string
}

// edits gives the whole of a and b as one list: what both begin and end with, and between them the shortest difference.
func edits(a, b []string) []op {
	head := 0
	for head < len(a) && head < len(b) && a[head] == b[head] {
		head++
	}
	tail := 0
	for tail < len(a)-head && tail < len(b)-head && a[len(a)-1-tail] == b[len(b)-1-tail] {
		tail++
	}
	ops := appendOps(nil, ' ', a[:head])
	ops = shortest(ops, a[head:len(a)-tail], b[head:len(b)-tail])
	return appendOps(ops, ' ', a[len(a)-tail:])
}

func appendOps(ops []op, kind byte, lines []string) []op {
	for _, line := range lines {
		ops = append(ops, op{kind, line})
	}
	return ops
}

// shortest appends a shortest difference between a and b, or all of both when that takes more than maxEdits.
func shortest(ops []op, a, b []string) []op {
	g := &grid{a: a, b: b}
	for d := 0; d <= min(maxEdits, len(a)+len(b)); d++ {
		if g.advance() {
			return append(ops, g.path()...)
		}
	}
	return appendOps(appendOps(ops, '-', a), '+', b)
}

// grid is the greedy algorithm of E. Myers, "An O(ND) difference algorithm and its variations" (1986). A point x,y says
// that x lines of a and y of b are done; it lies on diagonal x-y. Row d of reach says for each of the diagonals -d, -d+2
// … d how far into a one comes with d edits, -1 for none.
type grid struct {
	a, b  []string
	reach [][]int
}

// start is where d edits come to on diagonal k before equal lines follow, and whether the last of them took a line of a.
func (g *grid) start(d, k int) (x int, less bool) {
	at := func(k int) int {
		if k < 1-d || k > d-1 {
			return -1
		}
		return g.reach[d-1][(k+d-1)/2]
	}
	if d == 0 {
		return 0, false
	}
	x = -1
	if from := at(k + 1); from >= 0 && from-k <= len(g.b) {
		x = from
	}
	if from := at(k - 1); from >= x && from >= 0 && from < len(g.a) {
		return from + 1, true
	}
	return x, false
}

// advance allows one more edit and reports whether that reaches the end of both.
func (g *grid) advance() bool {
	d := len(g.reach)
	row := make([]int, d+1)
	for k := -d; k <= d; k += 2 {
		x, _ := g.start(d, k)
		for x >= 0 && x < len(g.a) && x-k < len(g.b) && g.a[x] == g.b[x-k] {
			x++
		}
		row[(k+d)/2] = x
		if x == len(g.a) && x-k == len(g.b) {
			g.reach = append(g.reach, row)
			return true
		}
	}
	g.reach = append(g.reach, row)
	return false
}

// path walks back from the end.
func (g *grid) path() []op {
	var back []op
	x, y := len(g.a), len(g.b)
	for d := len(g.reach) - 1; d >= 0; d-- {
		from, less := g.start(d, x-y)
		for ; x > from; x, y = x-1, y-1 {
			back = append(back, op{' ', g.a[x-1]})
		}
		switch {
		case d == 0:
		case less:
			x--
			back = append(back, op{'-', g.a[x]})
		default:
			y--
			back = append(back, op{'+', g.b[y]})
		}
	}
	slices.Reverse(back)
	return back
}

// hunk is a run of edits with the unchanged lines around them; oldAt and newAt are its first lines, from 0.
type hunk struct {
	oldAt, newAt int
	ops          []op
}

func hunks(ops []op) []hunk {
	var all []hunk
	oldAt, newAt, quiet := 0, 0, contextLines+1 // quiet: unchanged lines since the last edit
	for i, o := range ops {
		if o.kind != ' ' {
			if len(all) == 0 || quiet > 2*contextLines {
				before := 0
				for before < contextLines && before < i && ops[i-1-before].kind == ' ' {
					before++
				}
				all = append(all, hunk{oldAt: oldAt - before, newAt: newAt - before, ops: slices.Clone(ops[i-before : i])})
			} else {
				h := &all[len(all)-1]
				h.ops = append(h.ops, ops[i-max(0, quiet-contextLines):i]...)
			}
			h := &all[len(all)-1]
			h.ops = append(h.ops, o)
			quiet = 0
		} else {
			if quiet++; len(all) > 0 && quiet <= contextLines {
				h := &all[len(all)-1]
				h.ops = append(h.ops, o)
			}
		}
		if o.kind != '+' {
			oldAt++
		}
		if o.kind != '-' {
			newAt++
		}
	}
	return all
}

// span writes the first line and the number of lines of one side; for none, the line before.
func (h hunk) span(at int, kinds ...byte) string {
	n := 0
	for _, o := range h.ops {
		if slices.Contains(kinds, o.kind) {
			n++
		}
	}
	if n == 0 {
		return fmt.Sprintf("%d,0", at)
	}
	return fmt.Sprintf("%d,%d", at+1, n)
}
