package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/plimsoll/plimsoll/cmd/internal/cli"
	"github.com/plimsoll/plimsoll/relay"
)

func newChannels(data *string) *cobra.Command {
	channels := &cobra.Command{Use: "channels", Short: "Say how channels go together", Args: cobra.NoArgs}
	channels.AddCommand(&cobra.Command{
		Use:   "precedence [CHANNEL…]",
		Short: "Say whose tag or Git repository is served when channels differ",
		Long: `Two channels may not serve one tag, or one Git repository, with different content: an import that would make them do so
is refused. Unless both are named here: then it is the one of the earlier channel. Without a CHANNEL nothing is allowed any
more.`,
		Example: "  plimsoll-relay channels precedence stable canary",
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := relay.Open(cmd.Context(), *data, relay.Options{})
			if err != nil {
				return err
			}
			active, err := r.SetPrecedence(cmd.Context(), args)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "precedence %v, generation %d\n", active.Precedence, active.Generation)
			return nil
		},
	})
	return channels
}

func newPin(data *string) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:     "pin NAME VERSION|DIGEST",
		Short:   "Keep a release until it is unpinned",
		Example: "  plimsoll-relay pin robot-stack v1.5.2 --reason 'audit of 2026'",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return holdRelease(cmd, *data, "pinned", func(r *relay.Relay) (relay.Release, error) {
				return r.Pin(cmd.Context(), args[0], args[1], reason)
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for those who come later")
	return cmd
}

func newUnpin(data *string) *cobra.Command {
	return &cobra.Command{
		Use:     "unpin NAME VERSION|DIGEST",
		Short:   "Leave a pinned release to retention again",
		Example: "  plimsoll-relay unpin robot-stack v1.5.2",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return holdRelease(cmd, *data, "not pinned", func(r *relay.Relay) (relay.Release, error) {
				return r.Unpin(cmd.Context(), args[0], args[1])
			})
		},
	}
}

func holdRelease(cmd *cobra.Command, data, now string, change func(*relay.Relay) (relay.Release, error)) error {
	r, err := relay.Open(cmd.Context(), data, relay.Options{})
	if err != nil {
		return err
	}
	rel, err := change(r)
	if err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s is %s\n", rel, now)
	return nil
}

func newSettings(data *string) *cobra.Command {
	var asJSON bool
	var keep int
	cmd := &cobra.Command{
		Use:   "settings",
		Short: "Show or change how many releases are kept",
		Example: `  plimsoll-relay settings
  plimsoll-relay settings --keep 5`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := relay.Open(cmd.Context(), *data, relay.Options{})
			if err != nil {
				return err
			}
			s, err := r.Settings(cmd.Context())
			if err == nil && cmd.Flags().Changed("keep") {
				s, err = r.ChangeSettings(cmd.Context(), func(s *relay.Settings) error {
					s.Keep = keep
					return nil
				})
			}
			if err != nil {
				return err
			}
			if asJSON {
				return cli.PrintJSON(cmd, s)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "keeps %d releases of each channel\n", s.KeepReleases())
			return nil
		},
	}
	cmd.Flags().IntVar(&keep, "keep", 0, "releases of each channel that are kept, the active one among them")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the settings as JSON")
	return cmd
}
