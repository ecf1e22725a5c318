package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/plimsoll/plimsoll/cmd/internal/cli"
	"github.com/plimsoll/plimsoll/relay"
)

func newSite(data *string) *cobra.Command {
	site := &cobra.Command{
		Use:   "site",
		Short: "Look at the site's own repositories",
		Long: `The site's own repositories (site-overrides, unless 'serve --site-repository' says others) hold what a site sets
itself beside the releases. Operators push to them at https://RELAY/site/NAME; no import touches them.`,
		Args: cobra.NoArgs,
	}
	site.AddCommand(newSiteLog(data), newSiteShadows(data))
	return site
}

func newSiteLog(data *string) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "log [NAME]",
		Short:   "Show who pushed what",
		Example: "  plimsoll-relay site log site-overrides",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := relay.Open(cmd.Context(), *data, relay.Options{})
			if err != nil {
				return err
			}
			pushes, err := r.SitePushes(cmd.Context(), append(args, "")[0])
			if err != nil {
				return err
			}
			if asJSON {
				return cli.PrintJSON(cmd, pushes)
			}
			for _, p := range pushes {
				fmt.Fprintf(cmd.OutOrStdout(), "%s  %s  %-16s %s  %.12s → %.12s\n", p.Time.Format(time.RFC3339), p.Repository, p.Who, p.Ref, or(p.Old), or(p.New))
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the pushes as JSON")
	return cmd
}

func or(oid string) string {
	if oid == "" {
		return "nothing"
	}
	return oid
}

func newSiteShadows(data *string) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "shadows NAME",
		Short: "Show which of the site's own values hide what a release changed",
		Long: `shadows compares the active release of a bundle with the one before it, and lists the keys that the site's own
repositories set and that the release changed below: the site does not see those changes. An import prints the same.`,
		Example: "  plimsoll-relay site shadows robot-stack",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := relay.Open(cmd.Context(), *data, relay.Options{})
			if err != nil {
				return err
			}
			shadows, err := r.Shadows(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return cli.PrintJSON(cmd, append([]relay.SiteShadows{}, shadows...))
			}
			printShadows(cmd.OutOrStdout(), shadows)
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print them as JSON")
	return cmd
}

func printShadows(w io.Writer, all []relay.SiteShadows) {
	for _, s := range all {
		for _, key := range s.Shadows {
			verdict := fmt.Sprintf("hides %s → %s of %s", value(key.Before), value(key.After), key.Source)
			if key.Same {
				verdict = fmt.Sprintf("is what %s now has too, and can go", key.Source)
			}
			fmt.Fprintf(w, "  %s %s:%d: %s = %s %s\n", s.Repository, key.File, key.Line, key.Key, value(key.Override), verdict)
		}
		for _, p := range s.Problems {
			fmt.Fprintf(w, "  %s %s\n", s.Repository, p)
		}
		if s.Cut {
			fmt.Fprintf(w, "  %s: and more\n", s.Repository)
		}
	}
}

func value(text string) string {
	if text == "" {
		return "nothing"
	}
	return text
}
