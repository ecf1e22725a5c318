package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/plimsoll/plimsoll/cmd/internal/cli"
	"github.com/plimsoll/plimsoll/relay"
)

func newGC(data *string) *cobra.Command {
	var o relay.GCOptions
	var asJSON bool
	var progress cli.ProgressFlag
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "Delete what no release needs any more",
		Long: `gc deletes the blobs, Git packs and records that no release needs which is active, kept, pinned, promised by a
receipt, or staged. Robots are served meanwhile; imports wait. It may be interrupted and repeated, and it works on a disk
without a free byte. What an import has left that was cut stays for a week, unless --unfinished says otherwise; whole blobs
of it go.`,
		Example: `  plimsoll-relay gc --dry-run
  plimsoll-relay gc
  plimsoll-relay drop robot-stack v1.5.2 && plimsoll-relay gc`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			yield()
			draw, err := progress.Open()
			if err != nil {
				return err
			}
			defer draw.Close()
			r, err := openRelay(cmd.Context(), *data, relay.Options{Progress: draw.Func})
			if err != nil {
				return err
			}
			res, err := r.GC(cmd.Context(), o)
			if err != nil {
				return err
			}
			if asJSON {
				return cli.PrintJSON(cmd, res)
			}
			printGC(cmd.OutOrStdout(), res, o.DryRun)
			return nil
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&o.DryRun, "dry-run", false, "list what would be deleted, and delete nothing")
	flags.BoolVar(&o.Unfinished, "unfinished", false, "delete all that cut imports have left, not only what is older than a week")
	flags.BoolVar(&asJSON, "json", false, "print the result as JSON")
	progress.Register(cmd)
	return cmd
}

// background is the nice value of work that can wait.
const background = 15

// yield lets robots go first on a small box: a serving relay needs the same cores. Git processes inherit it. Where it is not
// possible the command only is less polite.
func yield() {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return
	}
	for _, e := range tasks { // a priority is a thread's
		if id, err := strconv.Atoi(e.Name()); err == nil {
			_ = unix.Setpriority(unix.PRIO_PROCESS, id, background)
		}
	}
}

func printGC(w io.Writer, res *relay.GCResult, dryRun bool) {
	for _, b := range res.List {
		fmt.Fprintf(w, "  %s  %s\n", b.Digest, cli.Bytes(b.Size))
	}
	for _, rel := range res.Releases {
		fmt.Fprintf(w, "  release  %s  %s\n", rel, rel.Bundle.Digest)
	}
	for _, name := range res.LeftoverFiles {
		fmt.Fprintf(w, "  %s\n", name)
	}
	row := func(kind string, n int, what string, size int64) {
		if n > 0 {
			fmt.Fprintf(w, "  %-8s %d %s, %s\n", kind, n, what, cli.Bytes(size))
		}
	}
	row("store", res.Blobs, "blobs", res.Bytes)
	row("cut", res.Unfinished, "unfinished blobs", res.UnfinishedBytes)
	row("git", res.Packs, "packs put together anew", res.PackBytes)
	if res.Leftovers > 0 {
		fmt.Fprintf(w, "  %-8s %d files of writes that were cut\n", "left", res.Leftovers)
	}
	if res.PacksNoRoom {
		fmt.Fprintf(w, "  git      there is no room to put the packs together; run it again when there is\n")
	}
	for _, p := range res.Problems {
		fmt.Fprintf(w, "  problem  %s\n", p)
	}
	total := cli.Bytes(res.Bytes + res.UnfinishedBytes + res.PackBytes)
	if dryRun {
		fmt.Fprintf(w, "would free %s\n", total)
	} else {
		fmt.Fprintf(w, "freed %s\n", total)
	}
}

func newDrop(data *string) *cobra.Command {
	var o relay.DropOptions
	cmd := &cobra.Command{
		Use:   "drop NAME VERSION|DIGEST",
		Short: "Let go of a staged or kept release",
		Long: `drop lets go of a release that is staged, or kept from before. It does not touch what is active, pinned, or promised by
a receipt. The room comes with the next 'plimsoll-relay gc'.`,
		Example: "  plimsoll-relay drop robot-stack v1.5.2",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := openRelay(cmd.Context(), *data, relay.Options{})
			if err != nil {
				return err
			}
			rel, err := r.Drop(cmd.Context(), args[0], args[1], o)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is not kept any more; 'plimsoll-relay gc' frees its room\n", rel)
			return nil
		},
	}
	cmd.Flags().BoolVar(&o.BreakPromise, "break-promise", false,
		"also what the last receipt said to be here: transfers that are built on it will lack their base")
	return cmd
}

// explainGC knows the errors of gc and drop.
func explainGC(err error) (code int, hint string, ok bool) {
	var (
		held       *relay.HeldError
		unreadable *relay.UnreadableReleaseError
	)
	switch {
	case errors.As(err, &held) && held.Promised:
		return cli.ExitDenied, "a new receipt takes the promise back; --break-promise breaks it", true
	case errors.As(err, &held) && held.Pinned:
		return cli.ExitDenied, "run 'plimsoll-relay unpin' first", true
	case errors.As(err, &held):
		return cli.ExitDenied, "activate or roll back to another release first", true
	case errors.As(err, &unreadable):
		return cli.ExitDamaged, "bring back what is missing with 'plimsoll-relay heal', or let go of the release with 'plimsoll-relay drop'", true
	}
	return 0, "", false
}
