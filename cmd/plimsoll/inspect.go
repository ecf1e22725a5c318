package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/bundle/media"
	"github.com/plimsoll/plimsoll/cmd/internal/cli"
)

func newInspect() *cobra.Command {
	var road roadFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "inspect BUNDLE",
		Short: "Show what a bundle carries, and where a site serves it",
		Long: `inspect reads the index and the lock of a bundle. It checks their digests and that they agree, but no
signature and no other bytes: that is what verify is for.`,
		Example: `  plimsoll inspect robot-stack.tar
  plimsoll inspect oci://registry.example.com/releases/robot-stack:v1.5.4 --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			src, b, err := openBundle(cmd.Context(), args[0], road.options())
			if err != nil {
				return err
			}
			defer src.Close() //nolint:errcheck // only read from
			if asJSON {
				return cli.PrintJSON(cmd, map[string]any{"bundle": b.Root, "lock": b.Lock})
			}
			beside, err := listBeside(cmd.Context(), src, b)
			if err == nil {
				printTree(cmd.OutOrStdout(), b, beside)
			}
			return err
		},
	}
	road.register(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the bundle's descriptor and its lock as JSON")
	return cmd
}

func openBundle(ctx context.Context, ref string, o media.Options) (media.Source, *bundle.Bundle, error) {
	src, err := media.OpenSource(ctx, ref, o)
	if err != nil {
		return nil, nil, err
	}
	root, err := src.Root(ctx)
	if err == nil {
		var b *bundle.Bundle
		if b, err = bundle.Load(ctx, src, root); err == nil {
			return src, b, nil
		}
	}
	src.Close() //nolint:errcheck // only read from
	return nil, nil, err
}

func printTree(w io.Writer, b *bundle.Bundle, beside []string) {
	l := b.Lock
	fmt.Fprintf(w, "%s %s  %s\n  created %s by %s %s\n  %d items, %s\n", l.Name, l.Version, b.Root.Digest,
		l.Created, l.Builder.Name, l.Builder.Version, len(l.Items), cli.Bytes(l.Bytes))
	for _, group := range []struct {
		kind  bundle.Kind
		title string
	}{{bundle.KindImage, "Images"}, {bundle.KindChart, "Charts"}, {bundle.KindGit, "Git repositories"}, {bundle.KindFile, "Files"}} {
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

func printItem(w io.Writer, l *bundle.Lock, it bundle.Item) {
	fmt.Fprintf(w, "  %s  %s\n    %s\n", it.Name, cli.Bytes(it.Bytes), it.Descriptor.Digest)
	for _, p := range it.Platforms {
		fmt.Fprintf(w, "    %-14s %s%s\n", p.Platform, p.Digest, refersTo(l, it, p))
	}
	if it.Sparse {
		fmt.Fprintf(w, "    (the other platforms of the index are not carried)\n")
	}
	if it.Git != nil {
		for _, ref := range it.Git.Refs {
			fmt.Fprintf(w, "    %-24s %s\n", strings.TrimPrefix(ref.Name, "refs/"), ref.OID)
		}
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

// listBeside says what travels with the bundle and speaks of it: claims, which verify checks.
func listBeside(ctx context.Context, src media.Source, b *bundle.Bundle) ([]string, error) {
	referrers, err := src.Referrers(ctx, b.Root.Digest)
	if err != nil {
		return nil, err
	}
	lines := make([]string, 0, len(referrers))
	for _, r := range referrers {
		what := "signature (simple signing)"
		if r.Tag == "" {
			if what, err = attest.PredicateHint(ctx, src, r.Descriptor); err != nil {
				return nil, err
			}
			switch what {
			case "":
				what = r.MediaType
			case attest.PredicateSign:
				what = "signature (Sigstore bundle)"
			default:
				what = "attestation " + what
			}
		}
		lines = append(lines, fmt.Sprintf("%-46s %s", what, r.Digest))
	}
	return lines, nil
}
