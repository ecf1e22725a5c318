package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/plimsoll/plimsoll/cmd/internal/cli"
	"github.com/plimsoll/plimsoll/relay"
	"github.com/plimsoll/plimsoll/relay/identity"
	"github.com/plimsoll/plimsoll/relay/journal"
)

func newCheck(data *string) *cobra.Command {
	var asJSON, fast bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Verify that the data folder is what it promises to be",
		Long: `check reads every blob of every release that is active, kept or staged and compares it with its digest, asks git
whether every ref leads to objects that are there and sound, and compares tags, records, journal and files. It changes
nothing, and a relay may serve and import meanwhile.

A violation is something that a relay promises and that does not hold: a blob of an active release that is missing, say. A
warning is the same of a release that is only kept, or what the next start makes again by itself. Leftovers are remains of
work that was cut; the next import or 'plimsoll-relay gc' takes them.`,
		Example: `  plimsoll-relay check
  plimsoll-relay check --fast --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := withJournal(*data)
			if err != nil {
				return err
			}
			r, err := relay.Open(cmd.Context(), *data, o)
			if err != nil {
				return err
			}
			rep := r.CheckSite(cmd.Context(), relay.CheckOptions{Hash: !fast})
			if err := cmd.Context().Err(); err != nil {
				return err
			}
			if asJSON {
				err = cli.PrintJSON(cmd, rep)
			} else {
				err = printCheck(cmd.OutOrStdout(), rep)
			}
			return errors.Join(rep.Err(), err)
		},
	}
	cmd.Flags().BoolVar(&fast, "fast", false, "compare sizes, and read neither blobs nor Git objects")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the report as JSON")
	return cmd
}

// withJournal opens the journal of a data folder, if it has one.
func withJournal(data string) (relay.Options, error) {
	var o relay.Options
	folder := filepath.Join(data, journal.Folder)
	if _, err := os.Stat(folder); errors.Is(err, fs.ErrNotExist) {
		return o, nil
	}
	id, err := identity.Open(filepath.Join(data, identity.Folder))
	if err != nil {
		return o, err
	}
	o.Journal, err = journal.Open(folder, journal.Options{Identity: id})
	return o, err
}

func printCheck(w io.Writer, rep *relay.SiteReport) error {
	for _, v := range rep.Violations {
		fmt.Fprintf(w, "violation  %s\n", v)
	}
	for _, v := range rep.Warnings {
		fmt.Fprintf(w, "warning    %s\n", v)
	}
	for _, name := range rep.Leftovers {
		fmt.Fprintf(w, "leftover   %s\n", name)
	}
	how := "read"
	if !rep.Hashed {
		how = "found"
	}
	_, err := fmt.Fprintf(w, "generation %d: %d releases, %d blobs with %d bytes %s, %d git refs: %d violations, %d warnings\n",
		rep.Generation, rep.Releases, rep.Blobs, rep.Bytes, how, rep.GitRefs, len(rep.Violations), len(rep.Warnings))
	return err
}

// explainCheck knows the error of a data folder that is not whole.
func explainCheck(err error) (code int, hint string, ok bool) {
	var broken *relay.BrokenSiteError
	if errors.As(err, &broken) {
		return cli.ExitDamaged, "import the release again, which brings what is missing or damaged", true
	}
	return 0, "", false
}
