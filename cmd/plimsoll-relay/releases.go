package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/plimsoll/plimsoll/cmd/internal/cli"
	"github.com/plimsoll/plimsoll/relay"
)

func newTrust(data *string) *cobra.Command {
	trust := &cobra.Command{Use: "trust", Short: "Say whose releases this relay accepts", Args: cobra.NoArgs}
	trust.AddCommand(&cobra.Command{
		Use:     "add KEY.pub",
		Short:   "Accept releases signed with a release key",
		Example: "  plimsoll-relay trust add release.pub",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			pem, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			r, err := openRelay(cmd.Context(), *data, relay.Options{})
			if err != nil {
				return err
			}
			id, err := r.TrustKey(cmd.Context(), pem)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "releases signed by %s are accepted\n", id)
			return nil
		},
	})
	return trust
}

func newActivate(data *string) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "activate NAME VERSION|DIGEST",
		Short:   "Serve a staged release",
		Example: "  plimsoll-relay activate robot-stack v1.5.5",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return switchRelease(cmd, *data, args[0], asJSON, func(r *relay.Relay) (relay.Active, error) {
				return r.Activate(cmd.Context(), args[0], args[1])
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the active releases as JSON")
	return cmd
}

func newRollback(data *string) *cobra.Command {
	var asJSON bool
	var to string
	cmd := &cobra.Command{
		Use:   "rollback [CHANNEL]",
		Short: "Serve a kept release again: the one before, or the one named",
		Long: `rollback switches back in one step, without moving a byte. Without --to it goes to the latest release served
before that is not newer than the active one. CHANNEL may be left out when there is one only.`,
		Example: `  plimsoll-relay rollback
  plimsoll-relay rollback robot-stack --to v1.5.2`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := ""
			if len(args) == 1 {
				name = args[0]
			}
			return switchRelease(cmd, *data, name, asJSON, func(r *relay.Relay) (relay.Active, error) {
				return r.Rollback(cmd.Context(), name, to)
			})
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "version or digest of a kept release")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the active releases as JSON")
	return cmd
}

func switchRelease(cmd *cobra.Command, data, name string, asJSON bool, change func(*relay.Relay) (relay.Active, error)) error {
	r, err := openRelay(cmd.Context(), data, relay.Options{})
	if err != nil {
		return err
	}
	active, err := change(r)
	if err != nil {
		return err
	}
	if asJSON {
		return cli.PrintJSON(cmd, active)
	}
	for _, s := range active.Channels {
		if name == "" || s.Name == name {
			fmt.Fprintf(cmd.OutOrStdout(), "%s %s is active, generation %d\n", s.Name, s.Release.Version, active.Generation)
		}
	}
	return nil
}

func newStatus(data *string) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show which releases are active, kept and staged",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := relay.Open(cmd.Context(), *data, relay.Options{})
			if err != nil {
				return err
			}
			st, err := r.Status(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return cli.PrintJSON(cmd, st)
			}
			printStatus(cmd.OutOrStdout(), st)
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the status as JSON")
	return cmd
}

func printStatus(w io.Writer, st relay.Status) {
	if len(st.Channels) == 0 {
		fmt.Fprintf(w, "nothing is active\n")
	} else {
		fmt.Fprintf(w, "generation %d\n", st.Generation)
	}
	row := func(state string, rec relay.Record) {
		fmt.Fprintf(w, "  %-8s %s %s  %s  imported %s from %s\n", state, rec.Name, rec.Version,
			rec.Bundle.Digest.Encoded()[:12], rec.Imported, rec.From)
	}
	for _, s := range st.Channels {
		row("active", s.Active)
		for _, p := range s.Previous {
			row("kept", p)
		}
	}
	for _, rec := range st.Staged {
		row("staged", rec)
	}
	for _, p := range st.Pinned {
		fmt.Fprintf(w, "  pinned   %s since %s %s\n", p.Bundle.Encoded()[:12], p.Since, p.Reason)
	}
	if len(st.ReleaseKeys) == 0 {
		fmt.Fprintf(w, "no release key is trusted: nothing can be imported\n")
	}
	for _, id := range st.ReleaseKeys {
		fmt.Fprintf(w, "  trusts   %s\n", id)
	}
}
