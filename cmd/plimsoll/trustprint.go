package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/plimsoll/plimsoll/attest/trust"
	"github.com/plimsoll/plimsoll/attest/trust/ceremony"
	"github.com/plimsoll/plimsoll/cmd/internal/cli"
)

func printStatus(out io.Writer, s *ceremony.Status) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "ROLE\tSIGN\tKEYS\t\n")
	for _, r := range s.Roles {
		state := ""
		if r.Pending {
			state = "pending"
		}
		for i, id := range r.Keys {
			role, need := r.Role, fmt.Sprintf("%d of %d", r.Threshold, len(r.Keys))
			if i > 0 {
				role, need, state = "", "", ""
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", role, need, id, state)
		}
	}
	fmt.Fprintf(w, "\t\t\t\nFILE\tVERSION\tEXPIRES\tSTATE\n")
	for _, i := range s.Items {
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\n", i.File, i.Version, i.Expires.Format(time.RFC3339), itemState(i))
	}
	for _, e := range s.Export {
		fmt.Fprintf(w, "%s\t%d\t%s\tpublished\n", e.File, e.Version, e.Expires.Format(time.RFC3339))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	printMissing(out, s.Items)
	for _, channel := range sortedKeys(s.Releases) {
		fmt.Fprintf(out, "channel %s lists %s\n", channel, s.Releases[channel])
	}
	if s.Problem != "" {
		fmt.Fprintf(out, "no relay accepts what is published: %s\n", s.Problem)
	}
	return nil
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func itemState(i ceremony.Item) string {
	switch {
	case i.Pending:
		return "pending"
	case i.Complete():
		return "published"
	}
	return "published, wants signatures"
}

// printMissing says whose signatures are missing where.
func printMissing(w io.Writer, items []ceremony.Item) {
	for _, i := range items {
		for _, n := range i.Needs {
			if n.Satisfied() {
				continue
			}
			fmt.Fprintf(w, "%s version %d: %d of %d signatures by the keys of %s; missing is %d of:\n", i.File, i.Version, len(n.Signed), n.Threshold, n.By, n.Threshold-len(n.Signed))
			for _, id := range n.Missing {
				fmt.Fprintf(w, "  %s\n", id)
			}
		}
	}
}

func printPending(cmd *cobra.Command, folder *ceremony.Folder, now time.Time, err error) error {
	if err != nil {
		return err
	}
	s, err := folder.Status(now)
	if err != nil {
		return err
	}
	printMissing(cmd.OutOrStdout(), s.Items)
	return nil
}

func printResult(cmd *cobra.Command, folder *ceremony.Folder, r ceremony.Result) error {
	w := cmd.OutOrStdout()
	for _, file := range r.Signed {
		fmt.Fprintf(w, "%s has a new signature\n", file)
	}
	if len(r.Signed) == 0 {
		fmt.Fprintln(w, "no new signature")
	}
	for _, file := range r.Published {
		fmt.Fprintf(w, "%s is complete\n", file)
	}
	return printPending(cmd, folder, time.Now().UTC(), nil)
}

// explainTrust knows the errors of roots of trust.
func explainTrust(err error) (code int, hint string, ok bool) {
	var (
		signature *trust.SignatureError
		reuse     *trust.KeyReuseError
		expired   *trust.ExpiredError
		rollback  *trust.RollbackError
		mismatch  *trust.MismatchError
		format    *trust.FormatError
		keys      *trust.KeysError
		pending   *ceremony.PendingError
		conflict  *ceremony.ConflictError
		bad       *ceremony.BadSignatureError
		change    *ceremony.ChangeError
		nothing   *ceremony.NothingToSignError
		unshown   *ceremony.UnshowableError
	)
	switch {
	case errors.As(err, &reuse):
		return cli.ExitUsage, "a stolen key must not have two hands' rights: make another one with 'plimsoll keys generate'", true
	case errors.As(err, &keys), errors.As(err, &change):
		return cli.ExitUsage, "'plimsoll trust status' shows roles and keys", true
	case errors.As(err, &pending):
		return cli.ExitFailed, "let it be signed and published first, or take it back with 'plimsoll trust discard'", true
	case errors.As(err, &conflict):
		return cli.ExitFailed, "start from a copy of one folder; only signatures can be put together", true
	case errors.As(err, &nothing):
		return cli.ExitFailed, "'plimsoll trust status' shows what is missing", true
	case errors.As(err, &unshown):
		return cli.ExitDenied, "sign it with the version of plimsoll that made it, if that was plimsoll", true
	case errors.As(err, &bad), errors.As(err, &mismatch), errors.As(err, &signature):
		return cli.ExitDenied, "something was changed, or mixed, after it was signed; 'plimsoll trust status' shows what is missing", true
	case errors.As(err, &expired):
		return cli.ExitDenied, "renew it: 'plimsoll trust renew' and sign, or 'plimsoll trust export'", true
	case errors.As(err, &rollback):
		return cli.ExitOlder, "what was accepted before was newer; use the newest medium or folder", true
	case errors.As(err, &format):
		return cli.ExitDamaged, "this is not whole metadata of a root of trust; copy it again", true
	}
	return 0, "", false
}
