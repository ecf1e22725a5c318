package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/plimsoll/plimsoll/attest/allowlist"
	"github.com/plimsoll/plimsoll/cmd/internal/cli"
	"github.com/plimsoll/plimsoll/internal/durable"
	"github.com/plimsoll/plimsoll/relay"
	"github.com/plimsoll/plimsoll/relay/identity"
)

type allowlistFlags struct {
	output, site string
	validFor     time.Duration
}

func newAllowlist(data *string) *cobra.Command {
	var f allowlistFlags
	cmd := &cobra.Command{
		Use:   "allowlist",
		Short: "Say, signed, which images robots may run",
		Long: `allowlist prints the digests of all images of the releases that are active or kept here, with the repositories that
they are served in, signed with the relay's own key. plimsoll-image-verifier on a robot refuses to containerd what the
list does not have. Make a new one after each activation: a robot accepts no list of an older generation than it saw.`,
		Example: `  plimsoll-relay allowlist --site plant-7 -o /srv/robots/allowlist.json
  plimsoll-relay allowlist --site plant-7 --valid-for 720h`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd, *data) },
	}
	flags := cmd.Flags()
	flags.StringVarP(&f.output, "output", "o", "", "write the list to this file (default: the standard output)")
	flags.StringVar(&f.site, "site", "", "the site's name, which the robots' verifiers want (default: the host name)")
	flags.DurationVar(&f.validFor, "valid-for", 0, "robots refuse the list after this time (default: it has no end)")
	cobra.CheckErr(cmd.MarkFlagFilename("output"))
	return cmd
}

func (f *allowlistFlags) run(cmd *cobra.Command, data string) error {
	if f.validFor < 0 || f.validFor > 0 && f.validFor < time.Second {
		return cli.Usagef("--valid-for %s: want a second or more", f.validFor)
	}
	if f.site == "" {
		host, err := os.Hostname()
		if err != nil {
			return err
		}
		f.site = strings.ToLower(host)
	}
	if !allowlist.IsSite(f.site) {
		return cli.Usagef("site %q: want lower-case letters, digits, dots, dashes and underscores; give one with --site", f.site)
	}
	id, err := identity.Open(filepath.Join(data, identity.Folder))
	if err != nil {
		return err
	}
	r, err := relay.Open(cmd.Context(), data, relay.Options{})
	if err != nil {
		return err
	}
	allowed, err := r.Allowed(cmd.Context())
	if err != nil {
		return err
	}
	list, nameless := newList(allowed, id.Name(), f.site, time.Now(), f.validFor)
	signed, err := allowlist.Sign(list, id.Signer())
	if err != nil {
		return err
	}
	for _, p := range append(allowed.Problems, nameless...) {
		fmt.Fprintf(cmd.ErrOrStderr(), "left out: %s\n", p)
	}
	if f.output == "" {
		_, err := cmd.OutOrStdout().Write(signed)
		return err
	}
	// By a rename: a robot that fetches it meanwhile gets the old one or this one.
	if err := durable.WriteFile(f.output, signed, 0o644); err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "allow-list of %s for %s, generation %d: %d images in %d repositories: %s\n",
		list.Relay.Name, list.Site, list.Generation, list.Digests(), len(list.Repositories), f.output)
	return nil
}

// newList is a list of what the relay has, before it is signed, and what cannot stand in one: what has no host in its name
// has no name by which containerd could ask for it.
func newList(allowed relay.Allowed, name, site string, now time.Time, validFor time.Duration) (l *allowlist.List, nameless []string) {
	images := make([]allowlist.Image, 0, len(allowed.Images))
	for _, img := range allowed.Images {
		if !allowlist.IsRepository(allowlist.Canonical(img.Repository)) {
			nameless = append(nameless, fmt.Sprintf("%s@%s: its repository's name has no host", img.Repository, img.Digest))
			continue
		}
		images = append(images, allowlist.Image(img))
	}
	stamp := func(t time.Time) string { return t.UTC().Truncate(time.Second).Format(time.RFC3339) }
	l = &allowlist.List{
		Relay: allowlist.Relay{Name: name}, Site: site, Generation: allowed.Generation, Made: stamp(now), Repositories: allowlist.Collect(images),
	}
	if validFor > 0 {
		l.NotAfter = stamp(now.Add(validFor))
	}
	return l, nameless
}
