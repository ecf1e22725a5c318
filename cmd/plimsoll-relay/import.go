package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/bundle/media"
	"github.com/plimsoll/plimsoll/cmd/internal/cli"
	"github.com/plimsoll/plimsoll/relay"
)

type importFlags struct {
	plainHTTP, stage, dryRun, makeRoom, json bool
	caFile, storage, channel                 string
	progress                                 cli.ProgressFlag
}

func newImport(data *string) *cobra.Command {
	var f importFlags
	cmd := &cobra.Command{
		Use:   "import BUNDLE",
		Short: "Verify a bundle, store it and activate it",
		Long: `import checks the signature of a bundle against the trusted release keys, copies what is not here yet, checks
that the release is whole, and switches to it in one step. Until that step the relay serves what it served before;
cut anywhere, the same command continues.`,
		Example: `  plimsoll-relay import /media/usb/robot-stack.tar
  plimsoll-relay import oci://registry.example.com/releases/robot-stack:v1.5.5
  plimsoll-relay import --dry-run /media/usb/robot-stack.tar
  plimsoll-relay import --channel canary oci://registry.example.com/releases/robot-stack:v1.6.0-rc1
  plimsoll-relay import --stage /media/usb/robot-stack.tar && plimsoll-relay activate robot-stack v1.5.5`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, *data, args[0]) },
	}
	flags := cmd.Flags()
	flags.BoolVar(&f.plainHTTP, "plain-http", false, "speak HTTP without TLS to the registry of the bundle")
	flags.StringVar(&f.caFile, "ca-file", "", "trust this CA for the registry of the bundle")
	flags.BoolVar(&f.stage, "stage", false, "verify and store only; activate later")
	flags.BoolVar(&f.dryRun, "dry-run", false, "verify, and print what would be copied, kept and let go, how much room that needs and how long it takes; leave nothing behind")
	flags.BoolVar(&f.makeRoom, "make-room", false, "collect garbage first if the release would not fit otherwise")
	flags.StringVar(&f.channel, "channel", "", "the channel that the release is for (default: the bundle's name)")
	flags.BoolVar(&f.json, "json", false, "print the result as JSON")
	flags.StringVar(&f.storage, "storage", "", storageHelp)
	f.progress.Register(cmd)
	return cmd
}

func (f *importFlags) run(cmd *cobra.Command, data, ref string) error {
	ctx := cmd.Context()
	draw, err := f.progress.Open()
	if err != nil {
		return err
	}
	defer draw.Close()
	r, err := openRelay(cmd.Context(), data, relay.Options{Progress: draw.Func, Storage: f.storage})
	if err != nil {
		return err
	}
	keys, err := r.TrustedKeys()
	if err != nil {
		return err
	}
	src, err := media.OpenSource(ctx, ref, media.Options{PlainHTTP: f.plainHTTP, CAFile: f.caFile, UserAgent: "plimsoll-relay/" + version, Progress: draw.Func})
	if err != nil {
		return err
	}
	defer src.Close() //nolint:errcheck // only read from
	options := relay.ImportOptions{
		Policy: attest.Policy{ReleaseKeys: keys}, From: ref, PlainHTTP: f.plainHTTP, CAFile: f.caFile,
		Channel: f.channel, StageOnly: f.stage, MakeRoom: f.makeRoom,
	}
	if f.dryRun {
		plan, err := r.PlanImport(ctx, src, options)
		if err != nil {
			return err
		}
		if f.json {
			return cli.PrintJSON(cmd, plan)
		}
		printPlan(cmd.OutOrStdout(), plan)
		return nil
	}
	res, err := r.Import(ctx, src, options)
	if err != nil {
		return err
	}
	if f.json {
		return cli.PrintJSON(cmd, res)
	}
	printImport(cmd.OutOrStdout(), res, f.stage)
	return nil
}

// openOrigin opens the place that a release came from, as the import did that brought it, for a relay that heals while it
// serves.
func openOrigin(ctx context.Context, o relay.Origin) (media.Source, error) {
	return media.OpenSource(ctx, o.From, media.Options{
		PlainHTTP: o.PlainHTTP, CAFile: o.CAFile, UserAgent: "plimsoll-relay/" + version, Patience: healPatience,
	})
}

func printPlan(w io.Writer, p *relay.ImportPlan) {
	fmt.Fprintf(w, "%s %s  %s  for channel %s\n", p.Name, p.Version, p.Bundle.Digest, p.Channel)
	for _, s := range p.Signatures {
		fmt.Fprintf(w, "  signed by %s (%s)\n", s.KeyID, s.Form)
	}
	fmt.Fprintf(w, "  %d blobs, %s\n", p.Blobs, cli.Bytes(p.Bytes))
	fmt.Fprintf(w, "  copies   %d blobs, %s\n", p.CopyBlobs, cli.Bytes(p.CopyBytes))
	if p.LeftBytes > 0 {
		fmt.Fprintf(w, "  goes on  behind %s that an import which was cut has left\n", cli.Bytes(p.LeftBytes))
	}
	fmt.Fprintf(w, "  skips    %d blobs that are here\n", p.Blobs-p.CopyBlobs)
	fmt.Fprintf(w, "  room     %s needed, %s free\n", cli.Bytes(p.Need), cli.Bytes(p.Free))
	if p.Need > p.Free {
		fmt.Fprintf(w, "  does not fit; 'plimsoll-relay gc' would free %s\n", cli.Bytes(p.Garbage))
	}
	printEstimate(w, p)
	for _, rel := range p.Drops {
		fmt.Fprintf(w, "  drops    %s\n", rel)
	}
	if p.Freed > 0 {
		fmt.Fprintf(w, "  then     'plimsoll-relay gc' would free %s\n", cli.Bytes(p.Freed))
	}
	if p.Active {
		fmt.Fprintf(w, "  is active already, generation %d\n", p.Generation)
	} else {
		fmt.Fprintf(w, "  would be active as generation %d\n", p.Generation)
	}
}

func printEstimate(w io.Writer, p *relay.ImportPlan) {
	e := p.Estimate
	if e == nil {
		if p.EstimateUnknown != "" {
			fmt.Fprintf(w, "  how long it takes is not known: %s\n", p.EstimateUnknown)
		}
		return
	}
	why := cli.Bytes(e.Sample) + " read from the source just now"
	switch {
	case e.Slower == relay.SlowerStore:
		why = cli.Bytes(e.Written) + " written to the store's disk just now; the source is faster"
	case e.Written == 0:
		why += "; the store's writing could not be tried"
	}
	fmt.Fprintf(w, "  takes    %s at %s/s, as %s\n", about(e.Seconds), cli.Bytes(e.BytesPerSecond), why)
}

// about says a time no more exactly than a short try can know it.
func about(seconds int64) string {
	minutes := (seconds + 30) / 60
	switch {
	case seconds <= 1:
		return "about a second"
	case seconds < 100:
		return fmt.Sprintf("about %d s", seconds)
	case minutes < 100:
		return fmt.Sprintf("about %d min", minutes)
	}
	return fmt.Sprintf("about %d h %d min", minutes/60, minutes%60)
}

func printImport(w io.Writer, res *relay.ImportResult, staged bool) {
	fmt.Fprintf(w, "%s %s  %s\n", res.Name, res.Version, res.Bundle.Digest)
	for _, s := range res.Signatures {
		fmt.Fprintf(w, "  signed by %s (%s)\n", s.KeyID, s.Form)
	}
	fmt.Fprintf(w, "  %d blobs, %s; %s were not here yet\n", res.Blobs, cli.Bytes(res.Bytes), cli.Bytes(res.Copied))
	switch {
	case staged:
		fmt.Fprintf(w, "  staged; activate it with: plimsoll-relay activate %s %s\n", res.Name, res.Version)
	case res.Activated:
		fmt.Fprintf(w, "  active, generation %d\n", res.Generation)
	default:
		fmt.Fprintf(w, "  was active already, generation %d\n", res.Generation)
	}
	for _, rel := range res.Drops {
		fmt.Fprintf(w, "  %s is not kept any more\n", rel)
	}
	printShadows(w, res.Shadows)
	if res.ShadowsUnknown != "" {
		fmt.Fprintf(w, "  the site's own repositories could not be compared: %s\n", res.ShadowsUnknown)
	}
}
