package main

import (
	"crypto"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/plimsoll/plimsoll/attest/receipt"
	"github.com/plimsoll/plimsoll/cmd/internal/cli"
)

func newReceipt() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "receipt",
		Short: "Read what a relay says that it has",
		Long: `A receipt is a signed statement by a relay: 'plimsoll-relay receipt' makes it. It says which releases are at the site, what
is there of them, and what robots pulled.`,
		Args: cobra.NoArgs,
	}
	cmd.AddCommand(newReceiptShow(), newReceiptVerify())
	return cmd
}

func newReceiptShow() *cobra.Command {
	var keys []string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show FILE",
		Short: "Show what a receipt says",
		Long: `show prints a receipt. With --key it checks first that the relay signed it, as verify does; without, anybody may have
written it, and it says so.`,
		Example: `  plimsoll receipt show plant-7.receipt --key relay.pub
  plimsoll receipt show plant-7.receipt --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			says, err := openReceipt(args[0], keys)
			if err != nil {
				return err
			}
			if len(keys) == 0 {
				fmt.Fprintln(cmd.ErrOrStderr(), "the signature was not checked: --key relay.pub checks it")
			}
			if asJSON {
				return cli.PrintJSON(cmd, says)
			}
			return printReceipt(cmd.OutOrStdout(), says)
		},
	}
	cmd.Flags().StringArrayVar(&keys, "key", nil, "public key of a relay, one of which must have signed (repeatable)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print it as JSON")
	return cmd
}

func newReceiptVerify() *cobra.Command {
	var keys []string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "verify FILE --key relay.pub",
		Short: "Check that a relay signed a receipt",
		Long: `verify checks that one of the keys signed the receipt, that nothing of it was changed, and that it keeps the rules of its
format. A relay's key is what 'plimsoll-relay journal key' prints there; it must come to you by a way that you trust. How
old a receipt is, it says itself: verify asks no clock.`,
		Example: "  plimsoll receipt verify plant-7.receipt --key relay.pub",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			says, err := openReceipt(args[0], keys)
			if err != nil {
				return err
			}
			if asJSON {
				return cli.PrintJSON(cmd, says)
			}
			w := cmd.OutOrStdout()
			fmt.Fprintf(w, "receipt of %s, made %s\n", says.Relay.Name, says.Made)
			fmt.Fprintf(w, "  signed by %s\n", says.Relay.Key)
			fmt.Fprintf(w, "  generation %d, %s\n", says.Generation, countBundles(says))
			return nil
		},
	}
	cmd.Flags().StringArrayVar(&keys, "key", nil, "public key of a relay, one of which must have signed (repeatable)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print what the receipt says as JSON")
	cobra.CheckErr(cmd.MarkFlagRequired("key"))
	return cmd
}

// openReceipt reads a receipt, and verifies it if there are keys.
func openReceipt(path string, keyFiles []string) (*receipt.Receipt, error) {
	keys, err := readKeys(keyFiles)
	if err != nil {
		return nil, err
	}
	data, err := readReceipt(path)
	if err != nil {
		return nil, err
	}
	says, err := parseReceipt(data, keys)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return says, nil
}

func parseReceipt(data []byte, keys []crypto.PublicKey) (*receipt.Receipt, error) {
	if len(keys) == 0 {
		return receipt.Read(data)
	}
	v, err := receipt.Verify(data, keys)
	if err != nil {
		return nil, err
	}
	return v.Receipt(), nil
}

// readReceipt reads a file and not more of it than a receipt can have.
func readReceipt(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read from
	return io.ReadAll(io.LimitReader(f, receipt.MaxReceipt+1))
}

// explainReceipt knows the errors of receipts.
func explainReceipt(err error) (code int, hint string, ok bool) {
	var denied *receipt.DeniedError
	var format *receipt.FormatError
	switch {
	case errors.As(err, &denied):
		return cli.ExitDenied, "check that the key is this relay's ('plimsoll-relay journal key' prints it there) and that the file was not replaced", true
	case errors.As(err, &format):
		return cli.ExitDamaged, "this is not a whole receipt; have it made or copied again", true
	}
	return 0, "", false
}

func countBundles(r *receipt.Receipt) string {
	whole := 0
	for _, b := range r.Bundles {
		if b.Whole {
			whole++
		}
	}
	promise := "no promise to keep them"
	if r.Promise {
		promise = "kept until the next receipt that promises"
	}
	return fmt.Sprintf("%d bundles, %d whole, %s", len(r.Bundles), whole, promise)
}

func printReceipt(out io.Writer, r *receipt.Receipt) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "%s  generation %d\n", r.Relay.Name, r.Generation)
	fmt.Fprintf(w, "  made\t%s by plimsoll-relay %s\n", r.Made, r.Software)
	fmt.Fprintf(w, "  key\t%s\n", r.Relay.Key)
	fmt.Fprintf(w, "  clock\t%s%s\n", r.Clock.Now, prefixed(", not before ", r.Clock.Floor))
	fmt.Fprintf(w, "  store\t%d blobs, %s; %s of %s are free\n", r.Store.Blobs, cli.Bytes(r.Store.Bytes), cli.Bytes(r.Room.Free), cli.Bytes(r.Room.Total))
	if lines := strings.Split(r.Journal, "\n"); len(lines) > 2 {
		fmt.Fprintf(w, "  journal\t%s records, root %s\n", lines[1], lines[2])
	}
	fmt.Fprintf(w, "  bundles\t%s\n", countBundles(r))
	for _, c := range r.Channels {
		printBundle(w, r, "  channel "+c.Name, "active", c.Active)
		for _, d := range c.Previous {
			printBundle(w, r, "", "kept", d)
		}
	}
	for _, d := range r.Staged {
		printBundle(w, r, "  no channel", "staged", d)
	}
	for _, repo := range r.Site {
		for _, ref := range repo.Refs {
			fmt.Fprintf(w, "  site\t%s %s %.12s\n", repo.Name, ref.Name, ref.OID)
		}
	}
	for _, robot := range r.Robots {
		got := "nothing lately"
		if p := robot.Last; p != nil {
			got = fmt.Sprintf("%s%s %s", p.Repository, prefixed(":", p.Reference), p.Time)
		}
		fmt.Fprintf(w, "  robot\t%s, seen %s at generation %d, %d pulls, the latest %s\n", robot.Name, robot.Seen, robot.Generation, robot.Pulls, got)
	}
	for _, p := range r.Problems {
		fmt.Fprintf(w, "  problem\t%s\n", p)
	}
	return w.Flush()
}

func printBundle(w io.Writer, r *receipt.Receipt, label, state string, d digest.Digest) {
	b, _ := r.Bundle(d)
	refs := 0
	for _, g := range b.Git {
		refs += len(g.Refs)
	}
	whole := "whole"
	if !b.Whole {
		whole = fmt.Sprintf("NOT WHOLE, %d blobs are missing", len(b.Missing))
	}
	if slices.Contains(r.Pinned, d) {
		state += ", pinned"
	}
	fmt.Fprintf(w, "%s\t%s %s  %.12s  %s, %s; %d layers, %d refs\n", label, b.Name, b.Version, d.Encoded(), state, whole, len(b.Layers), refs)
}

// prefixed puts something before a text that may be absent.
func prefixed(prefix, text string) string {
	if text == "" {
		return ""
	}
	return prefix + text
}
