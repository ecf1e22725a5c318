package findings

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/plimsoll/plimsoll/builder/closure"
)

// MaxMarkdown bounds the bytes of a summary. GitHub refuses more than 1 MiB for a step; a little is left for what others
// write to the same file.
const MaxMarkdown = 1<<20 - 16<<10

// Summary is what a build made, or would have made.
type Summary struct {
	Name    string         `json:"name"`
	Version string         `json:"version"`
	Digest  string         `json:"digest,omitempty"` // of the bundle; empty when none was written
	Items   map[string]int `json:"items"`            // by kind
	Bytes   int64          `json:"bytes"`
	Signed  bool           `json:"signed"`
	Closure *Counts        `json:"closure,omitempty"` // nil when completeness was not checked
}

// Counts says what a completeness check looked at.
type Counts struct {
	Renderings int `json:"renderings"` // charts, kustomizations and folders of manifests, each with its values
	Objects    int `json:"objects"`    // that came out
	References int `json:"references"` // distinct ones
	Satisfied  int `json:"satisfied"`  // by an item of the bundle
	Allowed    int `json:"allowed"`    // to come from elsewhere
	Missing    int `json:"missing"`
}

// Markdown writes a summary and the findings as GitHub-flavoured Markdown of at most MaxMarkdown bytes; what does not fit
// is counted.
func Markdown(w io.Writer, title string, s Summary, all []Finding) error {
	var b strings.Builder
	fmt.Fprintf(&b, "## %s\n\n", escape(clean(title)))
	writeSummary(&b, s)
	list := arrange(all)
	if len(list) > 0 {
		fmt.Fprintf(&b, "\n### %s\n\n| Level | Reference | Where | Object | Values or robot | What to do |\n| --- | --- | --- | --- | --- | --- |\n", headline(list))
	}
	const reserve = 200 // bytes for the last line
	for i, f := range list {
		row := findingRow(f)
		if b.Len()+len(row)+reserve > MaxMarkdown {
			fmt.Fprintf(&b, "\n%s left out: a summary is limited to 1 MiB.\n", count(len(list)-i, "more finding"))
			break
		}
		b.WriteString(row)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func headline(list []Finding) string {
	var parts []string
	for _, level := range levels {
		n := 0
		for _, f := range list {
			if f.Level == level {
				n++
			}
		}
		if n > 0 {
			parts = append(parts, count(n, string(level)))
		}
	}
	return strings.Join(parts, ", ")
}

const maxKinds = 32 // of items that are listed

func writeSummary(b *strings.Builder, s Summary) {
	row := func(name, value string) { fmt.Fprintf(b, "| %s | %s |\n", name, value) }
	b.WriteString("| | |\n| --- | --- |\n")
	row("Bundle", code(s.Name)+" "+code(s.Version))
	if s.Digest != "" {
		row("Digest", code(s.Digest))
	}
	var items []string
	for _, kind := range slices.Sorted(maps.Keys(s.Items)) {
		if len(items) == maxKinds {
			items = append(items, "…")
			break
		}
		items = append(items, fmt.Sprintf("%d %s", s.Items[kind], escape(clean(kind))))
	}
	row("Items", strings.Join(items, ", "))
	row("Size", fmt.Sprintf("%.1f MiB", float64(s.Bytes)/(1<<20)))
	row("Signed", map[bool]string{true: "yes", false: "**no**"}[s.Signed])
	if c := s.Closure; c == nil {
		row("Complete", "not checked")
	} else {
		row("Complete", fmt.Sprintf("%s with %s need %s: %d in the bundle, %d allowed to come from elsewhere, %d missing",
			count(c.Renderings, "rendering"), count(c.Objects, "object"), count(c.References, "reference"), c.Satisfied, c.Allowed, c.Missing))
	}
}

// findingRow is a line of the table.
func findingRow(f Finding) string {
	var where, objects, from []string
	for _, p := range f.Places[:min(len(f.Places), shownPlaces)] {
		where = append(where, placeText(p))
		objects = append(objects, escape(clean(p.Object)))
		from = append(from, escape(values(p)))
	}
	if more := len(f.Places) - len(where); more > 0 {
		where = append(where, "and "+count(more, "more place"))
	}
	what := code(f.Ref)
	if f.Ref == "" {
		what = escape(clean(f.Message))
	}
	todo := escape(clean(f.Suggestion))
	if f.Ref != "" && f.Message != "" {
		todo = strings.TrimSuffix(escape(clean(f.Message))+lineBreak+todo, lineBreak)
	}
	cells := []string{string(f.Level), what, strings.Join(where, lineBreak), strings.Join(objects, lineBreak), strings.Join(from, lineBreak), todo}
	return "| " + strings.Join(cells, " | ") + " |\n"
}

// lineBreak is, with the tags of code, the only HTML that is written.
const lineBreak = "<br>"

func placeText(p closure.Place) string {
	text := code(fileLine(p))
	if in := source(p); in != "" {
		text = strings.TrimSpace(text + " in " + escape(in))
	}
	return text
}

// escape writes every character that Markdown or HTML could read as more than itself as a numeric character reference:
// what those stand for is never syntax (CommonMark 0.31, 2.5).
func escape(text string) string {
	var b strings.Builder
	for i, r := range text {
		// GitHub makes links of www. without an address before it.
		if link := r == '.' && i >= 3 && strings.EqualFold(text[i-3:i], "www"); link || r < 0x80 && !plainRune(r) {
			fmt.Fprintf(&b, "&#%d;", r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// plainRune reports whether an ASCII character is text wherever it stands. A colon is not: it makes links of addresses.
func plainRune(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune(" ./,-", r)
}

// code writes a name so that it can be read and copied also in the source.
func code(text string) string {
	if text = clean(text); text == "" {
		return ""
	}
	for _, r := range text {
		if r >= 0x80 || !plainRune(r) && !strings.ContainsRune(":@+=_()", r) {
			return "<code>" + escape(text) + "</code>"
		}
	}
	return "`" + text + "`"
}
