package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/bundle/media"
	"github.com/plimsoll/plimsoll/cmd/internal/cli"
)

// inspectOutputs are the values of inspect --output.
var inspectOutputs = []string{"tree", "table", "json"}

func newInspect() *cobra.Command {
	var road roadFlags
	var output string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "inspect BUNDLE",
		Short: "Show what a bundle carries, and where a site serves it",
		Long: `inspect reads the index and the lock of a bundle. It checks their digests and that they agree, but no
signature and no other bytes: that is what verify is for.`,
		Example: `  plimsoll inspect robot-stack.tar
  plimsoll inspect robot-stack.tar --output table
  plimsoll inspect oci://registry.example.com/releases/robot-stack:v1.5.4 --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if asJSON {
				if cmd.Flags().Changed("output") && output != "json" {
					return cli.Usagef("--json and --output %s make no sense together", output)
				}
				output = "json"
			}
			if !slices.Contains(inspectOutputs, output) {
				return cli.Usagef("--output %q: want %s", output, strings.Join(inspectOutputs, ", "))
			}
			src, b, err := openBundle(cmd.Context(), args[0], road.options())
			if err != nil {
				return err
			}
			defer src.Close() //nolint:errcheck // only read from
			switch output {
			case "json":
				return cli.PrintJSON(cmd, map[string]any{"bundle": b.Root, "lock": b.Lock})
			case "table":
				return printTable(cmd.OutOrStdout(), b)
			}
			beside, err := listBeside(cmd.Context(), src, b)
			if err == nil {
				printTree(cmd.OutOrStdout(), b, beside)
			}
			return err
		},
	}
	road.register(cmd)
	cmd.Flags().StringVar(&output, "output", "tree", "how to show it: "+strings.Join(inspectOutputs, ", "))
	cmd.Flags().BoolVar(&asJSON, "json", false, "short for --output json: the bundle's descriptor and its lock")
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(inspectOutputs, cobra.ShellCompDirectiveNoFileComp)))
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
