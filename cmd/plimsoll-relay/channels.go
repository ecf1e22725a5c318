package main

import (
	"fmt"
	"strings"
	"time"

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
			r, err := openRelay(cmd.Context(), *data, relay.Options{})
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
	r, err := openRelay(cmd.Context(), data, relay.Options{})
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

// settingsFlags are what can be set; those that were given are.
type settingsFlags struct {
	keep  int
	scrub bool
	rate  cli.ByteRate
	every time.Duration
	hours string
	json  bool
}

func newSettings(data *string) *cobra.Command {
	var f settingsFlags
	cmd := &cobra.Command{
		Use:   "settings",
		Short: "Show or change how many releases are kept, and when blobs are read again",
		Example: `  plimsoll-relay settings
  plimsoll-relay settings --keep 5
  plimsoll-relay settings --scrub-hours 22:00-05:00 --scrub-rate 40MB --scrub-every 336h`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd, *data) },
	}
	flags := cmd.Flags()
	flags.IntVar(&f.keep, "keep", 0, "releases of each channel that are kept, the active one among them")
	flags.BoolVar(&f.scrub, "scrub", true, "read blobs again while serving, to find what the disk has damaged")
	flags.Var(&f.rate, "scrub-rate", "how fast, in bytes a second (16MiB)")
	flags.DurationVar(&f.every, "scrub-every", 0, "how old a blob's last check may become (720h)")
	flags.StringVar(&f.hours, "scrub-hours", "", "quiet hours by the box's clock, 22:00-05:00; empty: at any time")
	flags.BoolVar(&f.json, "json", false, "print the settings as JSON")
	return cmd
}

func (f *settingsFlags) run(cmd *cobra.Command, data string) error {
	r, err := openRelay(cmd.Context(), data, relay.Options{})
	if err != nil {
		return err
	}
	given := false
	for _, name := range []string{"keep", "scrub", "scrub-rate", "scrub-every", "scrub-hours"} {
		given = given || cmd.Flags().Changed(name)
	}
	s, err := r.Settings(cmd.Context())
	if err == nil && given {
		s, err = r.ChangeSettings(cmd.Context(), func(s *relay.Settings) error { return f.apply(cmd, s) })
	}
	if err != nil {
		return err
	}
	if f.json {
		return cli.PrintJSON(cmd, s)
	}
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "keeps %d releases of each channel\n", s.KeepReleases())
	if s.Scrub.Off {
		fmt.Fprintln(out, "does not read blobs again")
		return nil
	}
	fmt.Fprintf(out, "reads blobs again every %s, %s a second", s.Scrub.Interval(), cli.Bytes(s.Scrub.BytesPerSecond()))
	if s.Scrub.From != "" {
		fmt.Fprintf(out, ", from %s to %s", s.Scrub.From, s.Scrub.To)
	}
	fmt.Fprintln(out)
	return nil
}

func (f *settingsFlags) apply(cmd *cobra.Command, s *relay.Settings) error {
	set := cmd.Flags().Changed
	if set("keep") {
		s.Keep = f.keep
	}
	if set("scrub") {
		s.Scrub.Off = !f.scrub
	}
	if set("scrub-rate") {
		s.Scrub.Rate = int64(f.rate)
	}
	if set("scrub-every") {
		s.Scrub.Every = f.every.String()
	}
	if set("scrub-hours") {
		from, to, ok := strings.Cut(f.hours, "-")
		if f.hours != "" && !ok {
			return cli.Usagef("--scrub-hours %q: want 22:00-05:00", f.hours)
		}
		s.Scrub.From, s.Scrub.To = from, to
	}
	return nil
}
