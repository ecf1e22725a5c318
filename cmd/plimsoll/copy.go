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
destination has is not copied again: an interrupted copy is continued by repeating it. A registry is asked to mount
blobs that it has in another repository: the source's when both are in one registry, those that the items came from,
and those that --mount-from names. While a link is down the copy waits for it, and goes on where it stopped.

--limit-rate and --jobs hold for each of two registries.`,
		Example: `  plimsoll copy out/ oci://registry.example.com/releases/robot-stack:v1.5.4
  plimsoll copy oci://registry.example.com/releases/robot-stack:v1.5.4 robot-stack.tar
  plimsoll copy robot-stack.tar oci://site.example.com/robot-stack --limit-rate 2M --patience 30m`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			draw, err := p.Open()
			if err != nil {
				return err
			}
			from.transferFlags = to.transferFlags
			err = copyRoads(cmd.Context(), args[0], args[1], from.options(), to.options(), draw.Func)
			draw.Close()
			if err == nil {
				fmt.Fprintf(cmd.OutOrStdout(), "copied %s to %s\n", args[0], args[1])
			}
			return err
		},
	}
	from.registerAs(cmd, "from-", "the source registry")
	to.registerAs(cmd, "to-", "the destination registry")
	to.registerPush(cmd)
	to.transferFlags.register(cmd)
	p.Register(cmd)
	return cmd
}

func copyBundle(ctx context.Context, from, to string, o media.Options, p progress.Func) error {
	return copyRoads(ctx, from, to, media.Options{}, o, p)
}

func copyRoads(ctx context.Context, from, to string, fromOptions, toOptions media.Options, p progress.Func) (err error) {
	fromOptions.Progress, toOptions.Progress = p, p
	src, err := media.OpenSource(ctx, from, fromOptions)
	if err != nil {
		return err
	}
	defer src.Close() //nolint:errcheck // only read from
	sink, err := media.OpenSink(ctx, to, toOptions)
	if err != nil {
		return err
	}
	err = media.Copy(ctx, sink, src, p, toOptions.Workers)
	if cerr := sink.Close(); err == nil {
		err = cerr
	}
	return err
}
