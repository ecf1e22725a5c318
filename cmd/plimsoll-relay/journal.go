package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/plimsoll/plimsoll/cmd/internal/cli"
	"github.com/plimsoll/plimsoll/internal/durable"
	"github.com/plimsoll/plimsoll/relay"
	"github.com/plimsoll/plimsoll/relay/identity"
	"github.com/plimsoll/plimsoll/relay/journal"
)

var _ relay.Journal = (*journal.Journal)(nil)

// followPoll is how often 'journal show --follow' looks for new records.
const followPoll = time.Second

// openJournal opens a relay's journal, and makes its key, to write to it.
func openJournal(data string) (*journal.Journal, error) {
	id, err := identity.Open(filepath.Join(data, identity.Folder))
	if err != nil {
		return nil, err
	}
	return journal.Open(filepath.Join(data, journal.Folder), journal.Options{Identity: id})
}

// explainJournal knows the errors of the journal and of the relay's key.
func explainJournal(err error) (code int, hint string, ok bool) {
	var (
		corrupt    *journal.CorruptError
		fork       *journal.ForkError
		checkpoint *journal.CheckpointError
		proof      *journal.ProofError
		none       *journal.RangeError
		key        *identity.KeyError
	)
	switch {
	case errors.As(err, &corrupt):
		return cli.ExitDamaged, "keep the folder for whoever looks into it, then run 'plimsoll-relay journal repair': it puts the journal aside and begins a new one", true
	case errors.As(err, &fork):
		return cli.ExitDamaged, "an old copy of the data folder was restored, or history was rewritten", true
	case errors.As(err, &proof):
		return cli.ExitDamaged, "what it claims was never recorded, or the file is not what the relay wrote", true
	case errors.As(err, &checkpoint):
		return cli.ExitDenied, "check that the key is this relay's, as 'plimsoll-relay journal key' prints it there", true
	case errors.As(err, &none):
		return cli.ExitFailed, "see 'plimsoll-relay journal show'", true
	case errors.As(err, &key):
		return cli.ExitFailed, "bring the relay's key back from a backup; without it the relay becomes another one", true
	}
	return 0, "", false
}

func newJournal(data *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "journal",
		Short: "Show, verify and prove what the relay recorded",
		Long: `The journal in DATA/journal is the record of what the relay accepted, refused and did. It is a hash tree that the relay
signs with a key of its own: a record that is changed, dropped or moved is found, and a checkpoint that left the site,
say with a receipt, shows later whether anything before it was rewritten.`,
		Args: cobra.NoArgs,
	}
	cmd.AddCommand(newJournalShow(data), newJournalVerify(data), newJournalProve(data), newJournalCheckpoint(data), newJournalKey(data),
		newJournalRepair(data))
	return cmd
}

type journalShow struct {
	since          string
	kinds          []string
	limit          int
	follow, asJSON bool
}

func newJournalShow(data *string) *cobra.Command {
	var f journalShow
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Show records",
		Long: `show prints records, the latest last. Times are the relay's clock's, which may have been wrong; the order is not. show
does not verify: 'journal verify' does.`,
		Example: `  plimsoll-relay journal show --since 7d --kind import,import-refused
  plimsoll-relay journal show --follow
  plimsoll-relay journal show --limit 0 --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd, *data, time.Now()) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.since, "since", "", "only what is not older: 90m, 24h, 7d, or a time like 2026-03-01T10:00:00Z")
	flags.StringSliceVar(&f.kinds, "kind", nil, "only these kinds")
	flags.IntVar(&f.limit, "limit", 100, "the latest so many; 0 for all")
	flags.BoolVar(&f.follow, "follow", false, "go on with new records until interrupted")
	flags.BoolVar(&f.asJSON, "json", false, "print JSON, one object in a line, as it was recorded")
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("since", cobra.FixedCompletions([]string{"1h", "24h", "7d", "30d"}, cobra.ShellCompDirectiveNoFileComp)))
	for _, name := range []string{"kind", "limit"} {
		cobra.CheckErr(cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions))
	}
	return cmd
}

func (f *journalShow) run(cmd *cobra.Command, data string, now time.Time) error {
	if f.limit < 0 {
		return cli.Usagef("--limit %d: want 0 or more", f.limit)
	}
	since, err := parseSince(f.since, now)
	if err != nil {
		return err
	}
	if _, err := os.Stat(data); err != nil {
		return fmt.Errorf("data folder: %w", err)
	}
	matches := func(e journal.Entry) bool {
		return !e.Time.Before(since) && (len(f.kinds) == 0 || slices.Contains(f.kinds, e.Kind))
	}
	dir := filepath.Join(data, journal.Folder)
	var latest []journal.Entry // at most twice the limit
	next, left := int64(0), 0
	var damaged error // said after what could be read
	for e, err := range journal.Entries(dir, 0, -1) {
		if err != nil {
			damaged = err
			break
		}
		next = e.Index + 1
		if !matches(e) {
			continue
		}
		if latest = append(latest, e); f.limit > 0 && len(latest) == 2*f.limit {
			left += f.limit
			latest = append(latest[:0], latest[f.limit:]...)
		}
	}
	if f.limit > 0 && len(latest) > f.limit {
		left += len(latest) - f.limit
		latest = latest[len(latest)-f.limit:]
	}
	if left > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "%d earlier records are left out; --limit 0 shows all\n", left)
	}
	out := &rows{json: f.asJSON, out: cmd.OutOrStdout(), head: "INDEX\tTIME\tKIND\tDETAIL"}
	for _, e := range latest {
		if err := addEntry(out, e); err != nil {
			return err
		}
	}
	if len(latest) == 0 && damaged == nil && !f.follow {
		fmt.Fprintln(cmd.ErrOrStderr(), "nothing is recorded that matches")
	}
	if err := out.flush(); err != nil || damaged != nil || !f.follow {
		return errors.Join(damaged, err)
	}
	return followJournal(cmd.Context(), dir, next, out, matches)
}

func followJournal(ctx context.Context, dir string, next int64, out *rows, matches func(journal.Entry) bool) error {
	ticker := time.NewTicker(followPoll)
	defer ticker.Stop()
	for {
		for e, err := range journal.Entries(dir, next, -1) {
			if err != nil {
				return err
			}
			next = e.Index + 1
			if matches(e) {
				if err := addEntry(out, e); err != nil {
					return err
				}
			}
		}
		if err := out.flush(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil // the usual end
		case <-ticker.C:
		}
	}
}

func addEntry(out *rows, e journal.Entry) error {
	return out.add(e, strconv.FormatInt(e.Index, 10), stamp(e.Time), e.Kind, oneLine(string(e.Detail)))
}

const maxDetailCell = 160 // runes

// oneLine makes a detail fit to be printed: what is not printable, say a character that turns the line around, is escaped.
func oneLine(detail string) string {
	var b strings.Builder
	n := 0
	for _, r := range detail {
		if n++; n > maxDetailCell {
			b.WriteString("…")
			break
		}
		if unicode.IsPrint(r) {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

type journalVerify struct {
	checkpoints []string
	proof, key  string
	asJSON      bool
}

func newJournalVerify(data *string) *cobra.Command {
	var f journalVerify
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Verify the journal, or a proof",
		Long: `verify reads every record and compares the tree over them with what the relay signed. It names the first record that
was changed, dropped or moved. With --checkpoint it also tells whether the journal goes on from what it was then.

An auditor needs no relay: a copy of DATA/journal and the relay's public key will do, and for --proof the proof alone.`,
		Example: `  plimsoll-relay journal verify
  plimsoll-relay journal verify --checkpoint last-year.checkpoint
  plimsoll-relay journal verify --data /media/copy --key relay.pub
  plimsoll-relay journal verify --proof record-17.json --key relay.pub`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd, *data) },
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&f.checkpoints, "checkpoint", nil, "an older checkpoint; may be given more than once")
	flags.StringVar(&f.proof, "proof", "", "verify this proof and not the journal")
	flags.StringVar(&f.key, "key", "", "the relay's public key (default: the one in the data folder)")
	flags.BoolVar(&f.asJSON, "json", false, "print the result as JSON")
	for _, name := range []string{"checkpoint", "proof", "key"} {
		cobra.CheckErr(cmd.MarkFlagFilename(name))
	}
	cmd.MarkFlagsMutuallyExclusive("proof", "checkpoint")
	return cmd
}

func (f *journalVerify) run(cmd *cobra.Command, data string) error {
	key, err := f.publicKey(data)
	if err != nil {
		return err
	}
	if f.proof != "" {
		return f.verifyProof(cmd, key)
	}
	dir := filepath.Join(data, journal.Folder)
	if _, err := os.Stat(dir); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	var older []journal.Checkpoint
	for _, path := range f.checkpoints {
		signed, err := readAtMost(path, journal.MaxCheckpoint)
		if err != nil {
			return err
		}
		c, err := journal.ParseCheckpoint(signed, key)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		older = append(older, c)
	}
	report, err := journal.Verify(cmd.Context(), dir, key, older...)
	if err != nil {
		return err
	}
	if f.asJSON {
		return cli.PrintJSON(cmd, verifiedJournal{
			Records: report.Records, Unsigned: report.Unsigned, Torn: report.Torn, HashesDamaged: report.HashesDamaged,
			Relay: report.Checkpoint.Origin, Root: report.Checkpoint.Hash.String(),
		})
	}
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "%d records are as %s signed them\n", report.Checkpoint.Size, report.Checkpoint.Origin)
	for i, c := range older {
		fmt.Fprintf(out, "the first %d are those of %s\n", c.Size, f.checkpoints[i])
	}
	if report.Unsigned > 0 {
		fmt.Fprintf(out, "%d more are not signed yet: an append was cut short, or this is a copy of a journal in use\n", report.Unsigned)
	}
	if report.Torn > 0 {
		fmt.Fprintf(out, "%d bytes of a record that was not written to its end follow; the next record replaces them\n", report.Torn)
	}
	if report.HashesDamaged {
		fmt.Fprintln(out, "the derived file of hashes is damaged; it is made anew when it is needed")
	}
	return nil
}

// verifiedJournal is the output of 'journal verify --json'.
type verifiedJournal struct {
	Relay         string `json:"relay"`
	Records       int64  `json:"records"`
	Root          string `json:"root"` // over all but the unsigned ones
	Unsigned      int64  `json:"unsigned"`
	Torn          int64  `json:"tornBytes"`
	HashesDamaged bool   `json:"hashesDamaged"`
}

func (f *journalVerify) publicKey(data string) (ed25519.PublicKey, error) {
	if f.key != "" {
		return identity.ReadPublicKey(f.key)
	}
	key, err := identity.ReadOwnPublicKey(filepath.Join(data, identity.Folder))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, cli.Usagef("%s has no relay's key: give its public key with --key", data)
	}
	return key, err
}

func (f *journalVerify) verifyProof(cmd *cobra.Command, key ed25519.PublicKey) error {
	data, err := readAtMost(f.proof, journal.MaxProof)
	if err != nil {
		return err
	}
	p, err := journal.ParseProof([]byte(strings.TrimSuffix(string(data), "\n")))
	if err != nil {
		return fmt.Errorf("%s: %w", f.proof, err)
	}
	proven, err := p.Verify(key)
	if err != nil {
		return fmt.Errorf("%s: %w", f.proof, err)
	}
	out, c := cmd.OutOrStdout(), proven.Checkpoint
	switch {
	case proven.Record == nil:
		fmt.Fprintf(out, "the journal of %s with %d records goes on from the one with %d\n", c.Origin, c.Size, proven.Older.Size)
	case f.asJSON:
		return (&rows{json: true, out: out}).add(proven.Record)
	default:
		e := proven.Record
		fmt.Fprintf(out, "record %d of %d is in the journal of %s:\n%s %s %s\n", e.Index, c.Size, c.Origin, stamp(e.Time), e.Kind, oneLine(string(e.Detail)))
	}
	return nil
}

func newJournalProve(data *string) *cobra.Command {
	var output, older string
	cmd := &cobra.Command{
		Use:   "prove INDEX",
		Short: "Prove a record to somebody who has the relay's public key only",
		Long: `prove writes a proof that a record is in the journal of the present checkpoint, or with --checkpoint that the journal
goes on from an older one. 'plimsoll-relay journal verify --proof' reads it, anywhere.`,
		Example: `  plimsoll-relay journal prove 17 -o record-17.json
  plimsoll-relay journal prove --checkpoint last-year.checkpoint -o since.json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (len(args) == 1) == (older != "") {
				return cli.Usagef("want the INDEX of a record, or --checkpoint")
			}
			j, err := journalThere(*data)
			if err != nil {
				return err
			}
			p, err := prove(cmd.Context(), j, args, older)
			if err != nil {
				return err
			}
			text, err := p.Marshal()
			if err != nil {
				return err
			}
			return writeTo(cmd.OutOrStdout(), output, append(text, '\n'))
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "write to this file (default: the standard output)")
	cmd.Flags().StringVar(&older, "checkpoint", "", "prove that the journal goes on from this older checkpoint")
	cobra.CheckErr(cmd.MarkFlagFilename("output"))
	cobra.CheckErr(cmd.MarkFlagFilename("checkpoint"))
	return cmd
}

func prove(ctx context.Context, j *journal.Journal, args []string, older string) (*journal.Proof, error) {
	if older != "" {
		signed, err := readAtMost(older, journal.MaxCheckpoint)
		if err != nil {
			return nil, err
		}
		return j.ProveOlder(ctx, signed)
	}
	index, err := strconv.ParseInt(args[0], 10, 64)
	if err != nil || index < 0 {
		return nil, cli.Usagef("record %q: want the number in the first column of 'journal show'", args[0])
	}
	return j.Prove(ctx, index)
}

func newJournalCheckpoint(data *string) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "checkpoint",
		Short: "Print the signed checkpoint of the journal",
		Long: `checkpoint prints the number of records and the root of the tree over them, signed. Kept elsewhere, it shows later with
'journal verify --checkpoint' whether any of these records was touched.`,
		Example: "  plimsoll-relay journal checkpoint -o /media/usb/plant-7.checkpoint",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			j, err := journalThere(*data)
			if err != nil {
				return err
			}
			signed, err := j.Checkpoint(cmd.Context())
			if err != nil {
				return err
			}
			return writeTo(cmd.OutOrStdout(), output, signed)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "write to this file (default: the standard output)")
	cobra.CheckErr(cmd.MarkFlagFilename("output"))
	return cmd
}

func newJournalKey(data *string) *cobra.Command {
	var asNote bool
	cmd := &cobra.Command{
		Use:   "key",
		Short: "Print the relay's own public key",
		Long: `key prints the public key with which the journal and receipts are verified. The relay makes its key when it needs it
first. It vouches for the relay, never for a release.`,
		Example: "  plimsoll-relay journal key > relay.pub",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := os.Stat(*data); err != nil {
				return fmt.Errorf("data folder: %w", err)
			}
			id, err := identity.Open(filepath.Join(*data, identity.Folder))
			if err != nil {
				return err
			}
			text := id.PublicKeyPEM()
			if asNote {
				line, err := id.NoteVerifierKey()
				if err != nil {
					return err
				}
				text = []byte(line + "\n")
			}
			_, err = cmd.OutOrStdout().Write(text)
			return err
		},
	}
	cmd.Flags().BoolVar(&asNote, "note", false, "in the form that verifiers of signed notes take: name+hash+key")
	return cmd
}

func newJournalRepair(data *string) *cobra.Command {
	return &cobra.Command{
		Use:   "repair",
		Short: "Put a damaged journal aside and begin a new one",
		Long: `A relay records nothing in a journal that lost records, or whose checkpoint its key did not sign: it goes on serving, and
refuses to import and to activate. If the key was lost, bring it back from a backup first. repair moves such a journal to DATA/journal/damaged-N, where it stays, and begins a new
one, whose first record says so. A journal that is as it was signed is left alone.`,
		Example: "  plimsoll-relay journal repair",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := os.Stat(filepath.Join(*data, journal.Folder)); err != nil {
				return fmt.Errorf("journal: %w", err)
			}
			j, err := openJournal(*data)
			if err != nil {
				return err
			}
			aside, err := j.Repair(cmd.Context())
			if err != nil {
				return err
			}
			if aside == nil {
				fmt.Fprintln(cmd.OutOrStdout(), "the journal is as it was signed; nothing to repair")
				return nil
			}
			fmt.Fprintf(cmd.OutOrStdout(), "put aside: %s (%s)\na new journal begins; take 'plimsoll-relay journal checkpoint' off the site\n",
				filepath.Join(*data, journal.Folder, aside.Folder), aside.Reason)
			return nil
		},
	}
}

// journalThere opens a journal that is there, with its key. To look at one must not make one in a folder given by mistake,
// and no new key in the place of one that was lost.
func journalThere(data string) (*journal.Journal, error) {
	if _, err := os.Stat(filepath.Join(data, journal.Folder)); err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	if _, err := identity.ReadOwnPublicKey(filepath.Join(data, identity.Folder)); err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	return openJournal(data)
}

func writeTo(out io.Writer, path string, data []byte) error {
	if path == "" {
		_, err := out.Write(data)
		return err
	}
	return durable.WriteFile(path, data, 0o644)
}

// readAtMost reads a file, and a byte more than it may have, so that the parser says that it is too large.
func readAtMost(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read from
	return io.ReadAll(io.LimitReader(f, most+1))
}
