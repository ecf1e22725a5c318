package findings

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/plimsoll/plimsoll/builder/closure"
)

// Widths of the table, in characters. A reference stands alone in its line, so that it can be copied.
const (
	maxColumn = 48
	lineWidth = 116
)

// Table writes findings for people: for each reference the places that need it, with file and line, object, values file
// (or the object that asks for the rendering, which names the robot) and where all that is; below them what to do.
func Table(w io.Writer, all []Finding) error {
	out := &writer{w: w}
	list := arrange(all)
	widths := make([]int, len(header))
	rows := make([][][]string, len(list))
	for i, f := range list {
		rows[i] = placeRows(f)
		for _, row := range append(rows[i], header) {
			for col, cell := range row {
				widths[col] = max(widths[col], min(utf8.RuneCountInString(cell), maxColumn))
			}
		}
	}
	if len(list) > 0 {
		out.line("REFERENCE")
		out.row(widths, header)
	}
	for i, f := range list {
		out.line("")
		title := clean(f.Ref)
		if title == "" {
			title = clean(f.Message)
		}
		out.line(fmt.Sprintf("%s  [%s: %s]", title, f.Level, clean(f.Rule)))
		for _, row := range rows[i] {
			out.row(widths, row)
		}
		if more := len(f.Places) - len(rows[i]); more > 0 {
			out.line("  and " + count(more, "more place"))
		}
		if f.Ref != "" {
			out.wrapped("  ", clean(f.Message))
		}
		out.wrapped("  → ", clean(f.Suggestion))
	}
	return out.err
}

var header = []string{"FILE:LINE", "OBJECT", "VALUES OR ROBOT", "IN"}

// placeRows gives the cells of the first places.
func placeRows(f Finding) [][]string {
	var rows [][]string
	for _, p := range f.Places[:min(len(f.Places), shownPlaces)] {
		rows = append(rows, []string{dash(fileLine(p)), dash(clean(p.Object)), dash(values(p)), dash(source(p))})
	}
	return rows
}

func fileLine(p closure.Place) string {
	file := clean(p.File)
	if p.Line > 0 {
		file += ":" + strconv.Itoa(p.Line)
	}
	return file
}

// values is by what robot files or object a rendering is chosen.
func values(p closure.Place) string {
	if len(p.Values) > 0 {
		return clean(strings.Join(p.Values, ", "))
	}
	return clean(p.By)
}

func source(p closure.Place) string {
	if p.Revision == "" {
		return clean(p.Item)
	}
	return clean(p.Item + "@" + strings.TrimPrefix(strings.TrimPrefix(p.Revision, "refs/heads/"), "refs/tags/"))
}

func dash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// writer keeps the first error.
type writer struct {
	w   io.Writer
	err error
}

func (o *writer) line(text string) {
	if o.err == nil {
		_, o.err = io.WriteString(o.w, strings.TrimRight(text, " ")+"\n")
	}
}

// row writes cells below each other where they are too long.
func (o *writer) row(widths []int, cells []string) {
	lines := make([][]string, len(cells))
	height := 0
	for i, cell := range cells {
		lines[i] = wrap(cell, maxColumn)
		height = max(height, len(lines[i]))
	}
	for n := range height {
		var b strings.Builder
		for i, cell := range lines {
			text := ""
			if n < len(cell) {
				text = cell[n]
			}
			b.WriteString("  " + text + strings.Repeat(" ", max(0, widths[i]-utf8.RuneCountInString(text))))
		}
		o.line(b.String())
	}
}

// wrapped writes a text with an indent that counts as wide as it is.
func (o *writer) wrapped(first, text string) {
	if text == "" {
		return
	}
	for i, line := range wrap(text, lineWidth) {
		if i > 0 {
			first = strings.Repeat(" ", utf8.RuneCountInString(first))
		}
		o.line(first + line)
	}
}

// wrap breaks a text behind a space, a slash or a comma in the later half of a line, else where the line is full.
func wrap(text string, width int) []string {
	var lines []string
	runes := []rune(text)
	for len(runes) > width {
		cut := width
		for i := width; i > width/2; i-- {
			if strings.ContainsRune(" /,", runes[i-1]) {
				cut = i
				break
			}
		}
		lines = append(lines, strings.TrimRight(string(runes[:cut]), " "))
		runes = runes[cut:]
	}
	return append(lines, string(runes))
}
