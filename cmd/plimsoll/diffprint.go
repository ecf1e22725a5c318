package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/opencontainers/go-digest"

	"github.com/plimsoll/plimsoll/bundle/diff"
	"github.com/plimsoll/plimsoll/cmd/internal/cli"
)

// How much of a list people are shown; --json has all of it.
const (
	shownCommits  = 20
	shownPackages = 40
	shownFiles    = 60
	shownNeeds    = 40
)

// diffPrinter writes a difference for people. What comes from bundles is printed without control characters: a name or a
// line of text could otherwise rewrite the terminal.
type diffPrinter struct {
	w     io.Writer
	patch bool
}

func (p *diffPrinter) line(indent int, format string, args ...any) {
	fmt.Fprintf(p.w, "%s%s\n", strings.Repeat(" ", indent), printable(fmt.Sprintf(format, args...)))
}

// printable replaces what a terminal would act on, or what would change the direction of the text.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return '\uFFFD'
	}, text)
}

func (p *diffPrinter) print(d *diff.Diff) {
	p.head(d)
	if d.Equal() {
		return
	}
	if len(d.Metadata) > 0 || d.Spec != nil {
		p.title("Metadata")
		p.fields(2, d.Metadata)
		if d.Spec != nil {
			p.file(2, *d.Spec)
		}
	}
	p.closure(d.Closure)
	for _, group := range []struct {
		title string
		items []diff.Item
	}{{"Added", d.Added}, {"Removed", d.Removed}} {
		if len(group.items) == 0 {
			continue
		}
		p.title("%s: %d", group.title, len(group.items))
		for _, it := range group.items {
			p.line(2, "%-8s %s  %s", it.Kind, it.Name, cli.Bytes(it.Bytes))
			p.line(11, "%s", strings.Join(append([]string{short(it.Digest)}, it.Platforms...), "  "))
			if it.Layers != nil {
				p.line(11, "layers: %s", share(*it.Layers))
			}
		}
	}
	if len(d.Changed) > 0 {
		p.title("Changed: %d", len(d.Changed))
		for _, c := range d.Changed {
			p.change(c)
		}
	}
	p.title("Total")
	p.totals(d)
}

// stat prints totals only.
func (p *diffPrinter) stat(d *diff.Diff) {
	p.head(d)
	if d.Equal() {
		return
	}
	p.line(0, "")
	p.totals(d)
}

func (p *diffPrinter) head(d *diff.Diff) {
	if d.Equal() {
		p.line(0, "%s %s  %s", d.A.Name, d.A.Version, d.A.Digest)
		p.line(2, "the same bundle, to the byte")
		return
	}
	p.line(0, "A  %s %s  %s", d.A.Name, d.A.Version, d.A.Digest)
	p.line(0, "B  %s %s  %s", d.B.Name, d.B.Version, d.B.Digest)
}

func (p *diffPrinter) title(format string, args ...any) {
	fmt.Fprintln(p.w)
	p.line(0, format, args...)
}

func (p *diffPrinter) totals(d *diff.Diff) {
	p.line(2, "items      %d added, %d removed, %d changed, %d as before", len(d.Added), len(d.Removed), len(d.Changed), d.Unchanged)
	p.line(2, "referrers  %d added, %d removed, %d as before", d.Referrers.Added, d.Referrers.Removed, d.Referrers.Kept)
	p.line(2, "layers     %s", share(d.Layers))
	p.line(2, "to carry   %s in %d blobs, when the site has A; %s are there already", cli.Bytes(d.Blobs.New.Bytes), d.Blobs.New.Blobs,
		cli.Bytes(d.Blobs.Shared.Bytes))
}

func (p *diffPrinter) change(c diff.Change) {
	name, from := c.New.Name, ""
	if c.Old.Name != c.New.Name {
		from = "  (was " + strings.TrimPrefix(c.Old.Name, commonRepository(c.Old.Name, name)) + ")"
	}
	p.line(2, "%-8s %s%s", c.Kind, name, from)
	const in = 11
	if c.Same {
		p.line(in, "digest  %s, as before", short(c.New.Digest))
	} else {
		p.line(in, "digest  %s → %s", short(c.Old.Digest), short(c.New.Digest))
	}
	if old, now := strings.Join(c.Old.Tags, ", "), strings.Join(c.New.Tags, ", "); old != now {
		p.line(in, "tags    %s → %s", orNone(old), orNone(now))
	}
	for _, pc := range c.Platforms {
		p.line(in, "%-14s  %s → %s", pc.Platform, short(pc.Old), short(pc.New))
		p.fields(in+2, pc.Config)
	}
	p.fields(in, c.Fields)
	if c.Layers != (diff.Share{}) && !c.Same {
		p.line(in, "layers  %s", share(c.Layers))
	}
	for _, r := range c.Refs {
		p.ref(in, r)
	}
	for i, f := range c.Files {
		if i == shownFiles && !p.patch {
			p.line(in, "… and %d more files", len(c.Files)-i)
			break
		}
		p.file(in, f)
	}
	for _, s := range c.SBOM {
		p.packages(in, s)
	}
	if c.Omitted > 0 {
		p.line(in, "… and %d more that were not looked at", c.Omitted)
	}
	for _, note := range c.Notes {
		p.line(in, "note: %s", note)
	}
}

// commonRepository is what two names of one repository begin with.
func commonRepository(a, b string) string {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return a[:strings.LastIndexAny(a[:n], ":@")+1]
}

func (p *diffPrinter) fields(indent int, fields []diff.Field) {
	width := 0
	for _, f := range fields {
		width = max(width, min(len(f.Name), 40))
	}
	for _, f := range fields {
		show := value
		if f.Name == "file.mode" {
			show = octal
		}
		p.line(indent, "%-*s  %s → %s", width, f.Name, show(f.Old), show(f.New))
	}
}

// value fits into a line.
func value(text string) string {
	if d := digest.Digest(text); d.Validate() == nil {
		return short(d)
	}
	if runes := []rune(text); len(runes) > 60 {
		return string(runes[:59]) + "…"
	}
	return orNone(text)
}

// octal writes a file mode as people know it; the lock's JSON has no octal numbers.
func octal(text string) string {
	mode, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return value(text)
	}
	return fmt.Sprintf("%04o", mode)
}

func orNone(text string) string {
	if text == "" {
		return "(none)"
	}
	return text
}

// short is a digest as people compare them.
func short(d digest.Digest) string {
	if d.Validate() != nil {
		return "(none)"
	}
	return d.Algorithm().String() + ":" + d.Encoded()[:12]
}

func share(s diff.Share) string {
	return fmt.Sprintf("%d shared (%s), %d new (%s), %d gone (%s)", s.Shared.Blobs, cli.Bytes(s.Shared.Bytes),
		s.New.Blobs, cli.Bytes(s.New.Bytes), s.Gone.Blobs, cli.Bytes(s.Gone.Bytes))
}

var signs = map[diff.Status]string{diff.Added: "+", diff.Removed: "-", diff.Changed: "~"}

func (p *diffPrinter) ref(indent int, r diff.RefChange) {
	oid := func(s string) string { return s[:min(12, len(s))] }
	switch r.Status {
	case diff.Added:
		p.line(indent, "+ %s  %s", r.Name, oid(r.New))
	case diff.Removed:
		p.line(indent, "- %s  %s", r.Name, oid(r.Old))
	default:
		p.line(indent, "~ %s  %s → %s", r.Name, oid(r.Old), oid(r.New))
	}
	if r.Lost > 0 {
		p.line(indent+4, "%d commits are no longer on it", r.Lost)
	}
	for i, c := range r.Commits {
		if i == shownCommits {
			p.line(indent+4, "… and %d more commits", len(r.Commits)-i)
			break
		}
		day, _, _ := strings.Cut(c.Time, "T")
		p.line(indent+4, "%s  %s  %s  (%s)", oid(c.ID), day, c.Subject, c.Author)
	}
	if r.More {
		p.line(indent+4, "… and more")
	}
}

func (p *diffPrinter) file(indent int, f diff.FileChange) {
	size := ""
	if f.OldBytes != f.NewBytes {
		size = fmt.Sprintf("  %s → %s", cli.Bytes(f.OldBytes), cli.Bytes(f.NewBytes))
	}
	p.line(indent, "%s %s%s", signs[f.Status], f.Path, size)
	if !p.patch {
		return
	}
	for text := range strings.Lines(f.Patch) {
		p.line(indent+2, "%s", strings.TrimSuffix(text, "\n"))
	}
}

func (p *diffPrinter) packages(indent int, d diff.PackageDiff) {
	p.line(indent, "packages of %s", strings.Join(d.Platforms, ", "))
	for i, pkg := range d.Packages {
		if i == shownPackages {
			p.line(indent+2, "… and %d more packages", len(d.Packages)-i+d.Omitted)
			break
		}
		name := pkg.Name
		if pkg.Type != "" {
			name += " (" + pkg.Type + ")"
		}
		p.line(indent+2, "%s %s  %s → %s", signs[pkg.Status], name, orNone(strings.Join(pkg.Old, ", ")), orNone(strings.Join(pkg.New, ", ")))
	}
}

func (p *diffPrinter) closure(d *diff.ClosureDiff) {
	if d == nil {
		return
	}
	p.title("Completeness proof: %d renderings → %d", d.OldRenderings, d.NewRenderings)
	for _, group := range []struct {
		sign  string
		needs []diff.Need
	}{{"+", d.Added}, {"-", d.Removed}} {
		for i, n := range group.needs {
			if i == shownNeeds {
				p.line(2, "%s … and %d more", group.sign, len(group.needs)-i)
				break
			}
			by := "by " + n.Item
			if n.Item == "" {
				by = "allowed: " + n.Reason
			}
			what := slices.DeleteFunc([]string{n.Ref, n.Chart, n.Version}, func(s string) bool { return s == "" })
			p.line(2, "%s %-6s %s  %s", group.sign, n.Kind, strings.Join(what, " "), by)
		}
	}
	p.line(2, "needs as before: %d", d.Same)
}
