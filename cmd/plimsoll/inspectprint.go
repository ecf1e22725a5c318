package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/cmd/internal/cli"
)

func printTree(w io.Writer, b *bundle.Bundle, beside []string) {
	l := b.Lock
	fmt.Fprintf(w, "%s %s  %s\n  created %s by %s %s\n  %d items, %s\n", l.Name, l.Version, b.Root.Digest,
		l.Created, printable(l.Builder.Name), printable(l.Builder.Version), len(l.Items), cli.Bytes(l.Bytes))
	printClosure(w, l.Closure)
	for _, group := range []struct {
		kind  bundle.Kind
		title string
	}{
		{bundle.KindImage, "Images"}, {bundle.KindChart, "Charts"}, {bundle.KindGit, "Git repositories"},
		{bundle.KindArtifact, "Artifacts"}, {bundle.KindFile, "Files"},
	} {
		first := true
		for _, it := range l.Items {
			if it.Kind != group.kind {
				continue
			}
			if first {
				fmt.Fprintf(w, "\n%s\n", group.title)
				first = false
			}
			printItem(w, l, it)
		}
	}
	if len(beside) > 0 {
		fmt.Fprintf(w, "\nBeside the bundle\n")
		for _, line := range beside {
			fmt.Fprintf(w, "  %s\n", line)
		}
	}
}

// printClosure counts what the completeness proof says.
func printClosure(w io.Writer, c *bundle.Closure) {
	if c == nil {
		fmt.Fprintf(w, "  no completeness proof\n")
		return
	}
	objects, allowed := 0, 0
	for _, r := range c.Renderings {
		objects += r.Objects
	}
	for _, n := range c.Needs {
		if n.Item == "" {
			allowed++
		}
	}
	fmt.Fprintf(w, "  complete: %d renderings with %d objects need %d things; %d are in the bundle, %d come from elsewhere by permission\n",
		len(c.Renderings), objects, len(c.Needs), len(c.Needs)-allowed, allowed)
	for _, n := range c.Needs {
		if n.Item == "" {
			fmt.Fprintf(w, "    %-9s %s  %s\n", n.Kind, printable(n.Ref), printable(n.Reason))
		}
	}
}

func printItem(w io.Writer, l *bundle.Lock, it bundle.Item) {
	fmt.Fprintf(w, "  %s  %s\n    %s\n", it.Name, cli.Bytes(it.Bytes), it.Descriptor.Digest)
	for _, p := range it.Platforms {
		fmt.Fprintf(w, "    %-14s %s%s\n", printable(p.Platform), p.Digest, refersTo(l, it, p))
	}
	if it.Sparse {
		fmt.Fprintf(w, "    (the other platforms of the index are not carried)\n")
	}
	if len(it.Vendored) > 0 {
		fmt.Fprintf(w, "    %d dependencies vendored\n", len(it.Vendored))
		for _, d := range it.Vendored {
			fmt.Fprintf(w, "      %s\n", printable(d.Name+" "+d.Version+"  "+d.Repository))
		}
	}
	if it.Git != nil {
		for _, ref := range it.Git.Refs {
			fmt.Fprintf(w, "    %-24s %s\n", printable(strings.TrimPrefix(ref.Name, "refs/")), ref.OID)
		}
	}
	if it.File != nil {
		what := ""
		if it.File.Folder {
			what = ", a folder"
		}
		fmt.Fprintf(w, "    %s, mode %04o%s\n", printable(it.File.Path), it.File.Mode, what)
	}
	if n := countReferrers(l, it.Repository, it.Descriptor.Digest.String()); n > 0 {
		fmt.Fprintf(w, "    %d signatures, attestations and SBOMs refer to it\n", n)
	}
}

func refersTo(l *bundle.Lock, it bundle.Item, p bundle.Platform) string {
	if n := countReferrers(l, it.Repository, p.Digest.String()); n > 0 && p.Digest != it.Descriptor.Digest {
		return fmt.Sprintf("  (%d refer to it)", n)
	}
	return ""
}

func countReferrers(l *bundle.Lock, repository, subject string) int {
	n := 0
	for _, it := range l.Items {
		if it.Kind == bundle.KindReferrer && it.Repository == repository && it.Subject.String() == subject {
			n++
		}
	}
	return n
}

// printTable prints a line for each item; what only refers to items is counted in the last one.
func printTable(w io.Writer, b *bundle.Bundle) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "KIND\tNAME\tVERSION\tPLATFORMS\tSIZE\tDIGEST")
	referrers := 0
	for _, it := range b.Lock.Items {
		if it.Kind == bundle.KindReferrer {
			referrers++
			continue
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\n", it.Kind, it.Repository, orDash(itemVersion(it)), orDash(itemPlatforms(it)),
			cli.Bytes(it.Bytes), short(it.Descriptor.Digest))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "and %d signatures, attestations and SBOMs\n", referrers)
	return err
}

// itemVersion is what an item is served as: tags, or the number of refs and the branch that HEAD names.
func itemVersion(it bundle.Item) string {
	if it.Git != nil {
		return printable(fmt.Sprintf("%s, %d refs", strings.TrimPrefix(it.Git.Head, "refs/heads/"), len(it.Git.Refs)))
	}
	return strings.Join(it.Tags, ",")
}

func itemPlatforms(it bundle.Item) string {
	var all []string
	for _, p := range it.Platforms {
		if p.Platform != "unknown" { // what BuildKit attests of a platform, not a platform
			all = append(all, printable(p.Platform))
		}
	}
	return strings.Join(all, ",")
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}
