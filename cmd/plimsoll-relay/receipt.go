package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/plimsoll/plimsoll/attest/receipt"
	"github.com/plimsoll/plimsoll/cmd/internal/cli"
	"github.com/plimsoll/plimsoll/internal/durable"
	"github.com/plimsoll/plimsoll/relay"
	"github.com/plimsoll/plimsoll/relay/identity"
	"github.com/plimsoll/plimsoll/relay/seen"
)

type receiptFlags struct {
	output          string
	promise, asJSON bool
}

func newReceipt(data *string) *cobra.Command {
	var f receiptFlags
	cmd := &cobra.Command{
		Use:   "receipt",
		Short: "Say, signed, what is here and what robots pulled",
		Long: `receipt prints a statement that is signed with the relay's own key: which releases are served, kept and staged, what is
here of them, the journal's checkpoint, the room on the disk, the clock, and what robots pulled. 'plimsoll receipt verify'
reads it; who builds the next transfer leaves out what it lists.

With --promise the relay keeps what the receipt lists until it makes another receipt with --promise: a transfer may build
on it. Use it for the receipt that leaves the site, not for one to look at.`,
		Example: `  plimsoll-relay receipt --promise -o /media/usb/plant-7.receipt
  plimsoll-relay receipt --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd, *data) },
	}
	flags := cmd.Flags()
	flags.StringVarP(&f.output, "output", "o", "", "write the receipt to this file (default: the standard output)")
	flags.BoolVar(&f.promise, "promise", false, "keep what the receipt lists until the next receipt with --promise")
	flags.BoolVar(&f.asJSON, "json", false, "print what the receipt says as JSON; the receipt itself goes to --output only")
	cobra.CheckErr(cmd.MarkFlagFilename("output"))
	return cmd
}

func (f *receiptFlags) run(cmd *cobra.Command, data string) error {
	if f.promise && f.asJSON && f.output == "" {
		return cli.Usagef("--promise with --json needs --output: nobody would get the receipt that promises")
	}
	o := relay.ReceiptOptions{SoftwareVersion: version, Promise: f.promise}
	deliver := func(signed []byte) error { return durable.WriteFile(f.output, signed, 0o644) }
	if f.output == "" {
		deliver = func(signed []byte) error {
			_, err := cmd.OutOrStdout().Write(signed)
			return err
		}
	}
	if f.promise {
		o.Deliver = deliver
	}
	signed, err := makeReceipt(cmd.Context(), cmd.ErrOrStderr(), data, o)
	if err != nil {
		return err
	}
	says, err := receipt.Read(signed)
	if err != nil {
		return err
	}
	if !f.promise && (f.output != "" || !f.asJSON) {
		if err := deliver(signed); err != nil {
			return err
		}
	}
	if f.asJSON {
		return cli.PrintJSON(cmd, says)
	}
	if f.output != "" {
		f.print(cmd.OutOrStdout(), says)
	}
	return nil
}

// makeReceipt opens what a receipt speaks of. What cannot be opened is a problem in it, unless it is the relay itself.
func makeReceipt(ctx context.Context, stderr io.Writer, data string, o relay.ReceiptOptions) (signed []byte, err error) {
	id, err := identity.Open(filepath.Join(data, identity.Folder))
	if err != nil {
		return nil, err
	}
	j, err := openJournal(data)
	if err != nil {
		return nil, err
	}
	p, err := cli.NewProgress("plain", stderr, false)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	r, err := relay.Open(ctx, data, relay.Options{Journal: j, Progress: p.Func})
	if err != nil {
		return nil, err
	}
	o.Identity, o.Checkpoint = id, j.Checkpoint
	o.Seen, err = seen.OpenReader(filepath.Join(data, seen.FileName))
	switch {
	case err == nil:
		defer func() { err = errors.Join(err, o.Seen.Close()) }()
	case !errors.Is(err, fs.ErrNotExist):
		o.Problems = append(o.Problems, fmt.Sprintf("who pulled what: %v", err))
	}
	return r.Receipt(ctx, o)
}

func (f *receiptFlags) print(w io.Writer, says *receipt.Receipt) {
	fmt.Fprintf(w, "receipt of %s, generation %d, made %s: %s\n", says.Relay.Name, says.Generation, says.Made, f.output)
	whole := 0
	for _, b := range says.Bundles {
		if b.Whole {
			whole++
		}
	}
	fmt.Fprintf(w, "  %d bundles, %d whole; %d robots\n", len(says.Bundles), whole, len(says.Robots))
	for _, p := range says.Problems {
		fmt.Fprintf(w, "  problem: %s\n", p)
	}
	if says.Promise {
		fmt.Fprintf(w, "  they stay until the next receipt with --promise\n")
	}
}
