package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/plimsoll/plimsoll/bundle/media"
	"github.com/plimsoll/plimsoll/cmd/internal/cli"
	"github.com/plimsoll/plimsoll/relay"
)

// listedBlobs is how many blobs are printed for people.
const listedBlobs = 20

// healPatience bounds how long a serving relay waits for a registry that it would heal from.
const healPatience = time.Minute

type scrubFlags struct {
	now, json bool
	rate      cli.ByteRate
	progress  cli.ProgressFlag
}

func newScrub(data *string) *cobra.Command {
	var f scrubFlags
	cmd := &cobra.Command{
		Use:   "scrub",
		Short: "Read the blobs again to find what the disk has damaged",
		Long: `scrub reads the blobs of the store from the disk and compares them with their digests. What is damaged is put aside, so
that it is not served any more, and is brought anew by 'plimsoll-relay heal' or the next import that has it. Behind the
last blob come the packs of the Git mirror: what is damaged of it is made again at once, of layers that are blobs.

A serving relay does this by itself, slowly and within the quiet hours of 'plimsoll-relay settings'. This command goes on
where that stopped, by the same rules; with --now it reads everything, at once and as fast as it can.`,
		Example: `  plimsoll-relay scrub --now
  plimsoll-relay scrub --now --rate 50MB --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd, *data) },
	}
	flags := cmd.Flags()
	flags.BoolVar(&f.now, "now", false, "read everything now, whatever the settings say")
	flags.Var(&f.rate, "rate", "read at most this fast, in bytes a second (50MB)")
	flags.BoolVar(&f.json, "json", false, "print the result as JSON")
	f.progress.Register(cmd)
	return cmd
}

func (f *scrubFlags) run(cmd *cobra.Command, data string) error {
	draw, err := f.progress.Open()
	if err != nil {
		return err
	}
	defer draw.Close()
	r, err := openRelay(cmd.Context(), data, relay.Options{Progress: draw.Func})
	if err != nil {
		return err
	}
	o := relay.ScrubOptions{All: f.now, Rate: int64(f.rate)}
	if !f.now {
		s, err := r.Settings(cmd.Context())
		if err != nil {
			return err
		}
		until, quiet := s.Scrub.Quiet(time.Now())
		if !quiet {
			fmt.Fprintf(cmd.OutOrStdout(), "the quiet hours are %s to %s; nothing was read\n", s.Scrub.From, s.Scrub.To)
			return nil
		}
		if o.Until = until; o.Rate == 0 {
			o.Rate = s.Scrub.BytesPerSecond()
		}
	}
	res, err := r.Scrub(cmd.Context(), o)
	if f.json {
		err = errors.Join(err, cli.PrintJSON(cmd, res))
	} else {
		printScrub(cmd.OutOrStdout(), res)
	}
	if !res.Healthy() {
		err = errors.Join(&relay.UnhealthyError{Result: res}, err)
	}
	return err
}

func printScrub(w io.Writer, res *relay.ScrubResult) {
	fmt.Fprintf(w, "%d blobs, %s were read again\n", res.Checked, cli.Bytes(res.Bytes))
	if !res.Whole {
		fmt.Fprintln(w, "  the others are still to be read")
	}
	if res.Flaky > 0 {
		fmt.Fprintf(w, "  %d were wrong once and then right: look at the memory and the cables of this machine\n", res.Flaky)
	}
	printBad(w, "damaged", res.Damaged)
	printBad(w, "unreadable", res.Unreadable)
	printBad(w, "missing", res.Missing)
	printGitScrub(w, &res.Git)
	if res.Healthy() && res.Whole {
		fmt.Fprintln(w, "  all are what they should be")
	}
}

func printGitScrub(w io.Writer, g *relay.GitScrub) {
	if g.Checked == 0 && len(g.Damaged) == 0 {
		return
	}
	fmt.Fprintf(w, "%d Git packs, %s were read again\n", g.Checked, cli.Bytes(g.Bytes))
	if g.Flaky > 0 {
		fmt.Fprintf(w, "  %d were wrong once and then right: look at the memory and the cables of this machine\n", g.Flaky)
	}
	for i, bad := range g.Damaged {
		if i == listedBlobs {
			fmt.Fprintf(w, "  … and %d more\n", len(g.Damaged)-i)
			break
		}
		fmt.Fprintf(w, "  %-10s %s  %s\n", "damaged", bad.Name, bad.Reason)
	}
	switch {
	case g.Repaired:
		fmt.Fprintln(w, "  the mirror was repaired; the disk that damaged it was not")
	case len(g.Damaged) > 0:
		fmt.Fprintf(w, "  the mirror is not repaired: %s\n", g.Reason)
	}
	for _, left := range g.Left {
		fmt.Fprintf(w, "  of a release that is only kept: %s\n", left)
	}
}

func printBad(w io.Writer, what string, all []relay.BadBlob) {
	for i, bad := range all {
		if i == listedBlobs {
			fmt.Fprintf(w, "  … and %d more\n", len(all)-i)
			return
		}
		fmt.Fprintf(w, "  %-10s %s  %s\n", what, bad.Digest, cli.Bytes(bad.Size))
		for _, use := range bad.Uses {
			fmt.Fprintf(w, "             of %s  %s\n", use.Release, strings.Join(use.Items, ", "))
		}
	}
}

type healFlags struct {
	plainHTTP, json bool
	caFile          string
	progress        cli.ProgressFlag
}

func newHeal(data *string) *cobra.Command {
	var f healFlags
	cmd := &cobra.Command{
		Use:   "heal SOURCE",
		Short: "Bring back missing blobs from any source that has them",
		Long: `heal copies what is missing of the releases that are here, and nothing else: each blob is named by a release and proved
by its digest. SOURCE needs no signature. It may be any bundle that has the blobs: the same one on another medium, an
older or a newer one of the same stack. Nothing is activated.`,
		Example: `  plimsoll-relay heal /media/usb/robot-stack.tar
  plimsoll-relay heal oci://registry.example.com/releases/robot-stack:v1.5.5`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, *data, args[0]) },
	}
	flags := cmd.Flags()
	flags.BoolVar(&f.plainHTTP, "plain-http", false, "speak HTTP without TLS to the registry of the bundle")
	flags.StringVar(&f.caFile, "ca-file", "", "trust this CA for the registry of the bundle")
	flags.BoolVar(&f.json, "json", false, "print the result as JSON")
	f.progress.Register(cmd)
	return cmd
}

func (f *healFlags) run(cmd *cobra.Command, data, ref string) error {
	ctx := cmd.Context()
	draw, err := f.progress.Open()
	if err != nil {
		return err
	}
	defer draw.Close()
	r, err := openRelay(ctx, data, relay.Options{Progress: draw.Func})
	if err != nil {
		return err
	}
	src, err := media.OpenSource(ctx, ref, media.Options{PlainHTTP: f.plainHTTP, CAFile: f.caFile, UserAgent: "plimsoll-relay/" + version, Progress: draw.Func})
	if err != nil {
		return err
	}
	defer src.Close() //nolint:errcheck // only read from
	res, err := r.Heal(ctx, src, relay.HealOptions{From: ref})
	if res == nil {
		return err
	}
	if f.json {
		err = errors.Join(err, cli.PrintJSON(cmd, res))
	} else {
		fmt.Fprintf(cmd.OutOrStdout(), "%d blobs, %s were healed\n", len(res.Healed), cli.Bytes(res.Bytes))
		printBad(cmd.OutOrStdout(), "missing", res.Left)
	}
	if err == nil && len(res.Left) > 0 {
		err = &relay.StillMissingError{Left: res.Left}
	}
	return err
}

// explainStore knows the errors of scrub and heal, and those of the disk.
func explainStore(err error) (code int, hint string, ok bool) {
	var sick *relay.UnhealthyError
	var left *relay.StillMissingError
	switch {
	case errors.As(err, &sick):
		return cli.ExitDamaged, "run 'plimsoll-relay heal' with any source that has these blobs, and see to the disk", true
	case errors.As(err, &left):
		return cli.ExitIncomplete, "repeat it with another source; what was healed stays", true
	case errors.Is(err, syscall.EROFS):
		return cli.ExitFailed, "the disk of the data folder is read-only; the relay goes on serving what it can read. Mount it writable again", true
	case errors.Is(err, syscall.EIO):
		return cli.ExitFailed, "a disk or medium does not give or take its bytes; see the kernel's log", true
	}
	return 0, "", false
}
