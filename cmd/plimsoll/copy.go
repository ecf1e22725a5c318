package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/plimsoll/plimsoll/bundle/media"
	"github.com/plimsoll/plimsoll/cmd/internal/cli"
	"github.com/plimsoll/plimsoll/internal/progress"
)

func newCopy() *cobra.Command {
	var from, to roadFlags
	var p cli.ProgressFlag
	cmd := &cobra.Command{
		Use:   "copy SOURCE DESTINATION",
		Short: "Carry a bundle with its signatures from one place to another",
		Long: `copy moves a bundle, byte for byte, with the signatures and attestations that travel beside it. What the
destination has is not copied again: an interrupted copy is continued by repeating it.`,
		Example: `  plimsoll copy out/ oci://registry.example.com/releases/robot-stack:v1.5.4
  plimsoll copy oci://registry.example.com/releases/robot-stack:v1.5.4 robot-stack.tar`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			draw, err := p.Open()
			if err != nil {
				return err
			}
			err = copyRoads(cmd.Context(), args[0], args[1], from.options(), to.options(), draw.Func)
			draw.Close()
			if err == nil {
				fmt.Fprintf(cmd.OutOrStdout(), "copied %s to %s\n", args[0], args[1])
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&from.plainHTTP, "from-plain-http", false, "speak HTTP without TLS to the source registry")
	cmd.Flags().StringVar(&from.caFile, "from-ca-file", "", "trust this CA for the source registry")
	cmd.Flags().BoolVar(&to.plainHTTP, "to-plain-http", false, "speak HTTP without TLS to the destination registry")
	cmd.Flags().StringVar(&to.caFile, "to-ca-file", "", "trust this CA for the destination registry")
	p.Register(cmd)
	return cmd
}

func copyBundle(ctx context.Context, from, to string, o media.Options, p progress.Func) error {
	return copyRoads(ctx, from, to, media.Options{}, o, p)
}

func copyRoads(ctx context.Context, from, to string, fromOptions, toOptions media.Options, p progress.Func) (err error) {
	src, err := media.OpenSource(ctx, from, fromOptions)
	if err != nil {
		return err
	}
	defer src.Close() //nolint:errcheck // only read from
	sink, err := media.OpenSink(ctx, to, toOptions)
	if err != nil {
		return err
	}
	err = media.Copy(ctx, sink, src, p, 0)
	if cerr := sink.Close(); err == nil {
		err = cerr
	}
	return err
}
