package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/plimsoll/plimsoll/bundle/diff"
	"github.com/plimsoll/plimsoll/cmd/internal/cli"
)

type diffFlags struct {
	json, exitCode, stat, patch, noCommits bool
	tmpdir                                 string
	from, to                               roadFlags
}

// errDiffer is the end of diff --exit-code when there is a difference.
var errDiffer = errors.New("the bundles differ")

func newDiff() *cobra.Command {
	var f diffFlags
	cmd := &cobra.Command{
		Use:   "diff A B",
		Short: "Show what changed between two bundles",
		Long: `diff compares two bundles: items that came, went or changed, their platforms and layers, files inside charts,
commits and files between the refs of Git repositories, packages of SBOMs, and how many bytes a site that has A
still needs for B. Signatures are not checked: that is what verify is for.

Commits need the Git layers of both bundles whole and git in PATH; leave them out with --no-commits.`,
		Example: `  plimsoll diff robot-stack-v1.5.4.tar robot-stack-v1.5.5.tar
  plimsoll diff oci://registry.example.com/releases/robot-stack:v1.5.4 out/ --stat
  plimsoll diff v1.5.4/ v1.5.5/ --patch
  plimsoll diff first/ second/ --exit-code && echo "the same bundle, to the byte"`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, args[0], args[1]) },
	}
	flags := cmd.Flags()
	flags.BoolVar(&f.json, "json", false, "print everything as JSON; with --stat what that reads")
	flags.BoolVar(&f.exitCode, "exit-code", false, "exit with 1 when the bundles differ, with 0 when they are the same")
	flags.BoolVar(&f.stat, "stat", false, "print totals only; reads nothing but manifests")
	flags.BoolVar(&f.patch, "patch", false, "show the text differences of bundle.yaml, charts, files and Git repositories")
	flags.BoolVar(&f.noCommits, "no-commits", false, "do not read Git layers: refs without the commits and files between them")
	flags.StringVar(&f.tmpdir, "tmpdir", "", "folder for scratch files (default: the system's)")
	f.from.registerAs(cmd, "from-", "the registry of A")
	f.to.registerAs(cmd, "to-", "the registry of B")
	return cmd
}

func (f *diffFlags) run(cmd *cobra.Command, a, b string) error {
	if f.stat && f.patch {
		return cli.Usagef("--stat and --patch make no sense together")
	}
	d, err := f.compare(cmd.Context(), a, b)
	if err != nil {
		return err
	}
	switch {
	case f.json:
		err = cli.PrintJSON(cmd, d)
	default:
		p := diffPrinter{w: cmd.OutOrStdout(), patch: f.patch}
		if f.stat {
			p.stat(d)
		} else {
			p.print(d)
		}
	}
	if err == nil && f.exitCode && !d.Equal() {
		err = errDiffer
	}
	return err
}

func (f *diffFlags) compare(ctx context.Context, a, b string) (*diff.Diff, error) {
	oldSource, old, err := openBundle(ctx, a, f.from.options())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", a, err)
	}
	defer oldSource.Close() //nolint:errcheck // only read from
	newSource, now, err := openBundle(ctx, b, f.to.options())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", b, err)
	}
	defer newSource.Close() //nolint:errcheck // only read from
	o := diff.Options{Commits: !f.noCommits, Shallow: f.stat, TempDir: f.tmpdir}
	return o.Compare(ctx, diff.Side{Bundle: old, Source: oldSource}, diff.Side{Bundle: now, Source: newSource})
}
