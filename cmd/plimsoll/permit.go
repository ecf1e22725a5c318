package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/attest/release"
	"github.com/plimsoll/plimsoll/cmd/internal/cli"
)

type permitFlags struct {
	site, relay, reason, notAfter, name, output string
	overrides, keys                             []string
	json                                        bool
	road                                        roadFlags
}

func newPermit() *cobra.Command {
	var f permitFlags
	cmd := &cobra.Command{
		Use:   "permit BUNDLE|DIGEST --site plant-7 --override older --reason TEXT --not-after 8h --key owner.key -o FILE",
		Short: "Break the glass: let one bundle pass named checks at one site, once",
		Long: `permit is for emergencies: the owner of a site lets a relay import one bundle although named checks say no. It goes alone
in a file, is used up by one import, and is kept in the relay's journal with its reason. No permit overrides a signature,
a threshold or a revocation. The checks are:
  approval  the owner's own approval is missing
  channel   the release is for another channel
  clock     the relay's clock is suspicious
  epoch     below the security epoch
  expired   behind the use-by of the release or of the trust metadata
  older     a lower sequence or version than was accepted
  policy    the site's policy says no
  relay     the relay is older than the release wants
  site      the release is for other sites

Name as few as will do. No network is needed.

` + keyHelp,
		Example: `  plimsoll permit /media/usb/robot-stack --site plant-7 --override expired,older --reason "line 3 stands still, ticket 4711" \
    --not-after 8h --key owner.key -o permit.sigstore.jsonl
  plimsoll permit verify permit.sigstore.jsonl --key owner.pub --site plant-7 --bundle /media/usb/robot-stack --override older`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, args[0], time.Now()) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.site, "site", "", "the site that may use it")
	flags.StringVar(&f.relay, "relay", "", "the only relay that may use it: its public key in a file, or the key's id (default: any of the site)")
	flags.StringSliceVar(&f.overrides, "override", nil, "checks that do not count, with commas between them (repeatable)")
	flags.StringVar(&f.reason, "reason", "", "why, for those who read the journal")
	flags.StringVar(&f.notAfter, "not-after", "", "last moment to use it: a date, a time (RFC 3339), or from now such as 8h or 3d; at most 90 days")
	flags.StringVar(&f.name, "name", "", "name of the bundle, when its digest is given")
	flags.StringArrayVar(&f.keys, "key", nil, "owner KEY that signs (repeatable)")
	flags.StringVarP(&f.output, "output", "o", "", "FILE"+attest.ExtensionStatementFile+" for the permit")
	flags.BoolVar(&f.json, "json", false, "print the result as JSON")
	f.road.register(cmd)
	for _, name := range []string{"site", "override", "reason", "not-after", "key", "output"} {
		cobra.CheckErr(cmd.MarkFlagRequired(name))
	}
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("override", cobra.FixedCompletions(checkNames(), cobra.ShellCompDirectiveNoFileComp)))
	cmd.AddCommand(newCountersign("permit", release.PredicatePermit), newShow("permit", release.PredicatePermit), newPermitVerify())
	return cmd
}

func checkNames() []string {
	var names []string
	for _, c := range release.Checks() {
		names = append(names, string(c))
	}
	return names
}

// explainPermit knows what permit alone refuses.
func explainPermit(err error) (code int, hint string, ok bool) {
	var permit *release.PermitError
	var denied *attest.DeniedError
	switch {
	case errors.As(err, &permit):
		return cli.ExitDenied, "a permit is for one bundle, one site and the checks that it names, for a short time: have the owner make another one", true
	case errors.As(err, &denied) && denied.Wanted == release.PredicatePermit:
		if denied.Reason == attest.NotEnough {
			return cli.ExitDenied, "let the other owners sign the same file: 'plimsoll permit sign FILE --key KEY'", true
		}
		return cli.ExitDenied, "check that the keys are the owner's (public) and that the file was not changed", true
	}
	return 0, "", false
}

func (f *permitFlags) run(cmd *cobra.Command, ref string, now time.Time) error {
	ctx := cmd.Context()
	if err := checkOutput(f.output); err != nil {
		return err
	}
	// Each permit has an id of its own: none extends another.
	if exists(f.output) {
		return &KeptError{File: f.output}
	}
	notAfter, err := parseNotAfter(f.notAfter, now)
	if err != nil {
		return err
	}
	checks, err := parseChecks(f.overrides)
	if err != nil {
		return err
	}
	p := &release.Permit{Site: f.site, Overrides: checks, Reason: f.reason, IssuedAt: now.UTC().Format(time.RFC3339), NotAfter: notAfter}
	if f.relay != "" {
		if p.Relay, err = keyIDOf(f.relay); err != nil {
			return err
		}
	}
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return err
	}
	p.ID = hex.EncodeToString(id)
	subject, name, err := f.subject(ctx, ref)
	if err != nil {
		return err
	}
	st, err := p.Statement(name, subject)
	var wrong *release.SubjectError
	if errors.As(err, &wrong) {
		return &cli.UsageError{Err: err}
	}
	if err != nil {
		return err
	}
	signers, err := openSigners(ctx, f.keys)
	if err != nil {
		return err
	}
	data, err := signAlone(f.output, release.PredicatePermit, st, signers)
	if err != nil {
		return err
	}
	if err := writeStatement(f.output, data, nil); err != nil {
		return err
	}
	made := &statementFile{File: f.output, Kind: "permit", Name: name, Subject: subject, Document: p, Verified: true, Signers: idsOf(signers)}
	return made.print(cmd, f.json)
}

// subject is the bundle that the permit is for. Its name is for people; the digest decides.
func (f *permitFlags) subject(ctx context.Context, ref string) (digest.Digest, string, error) {
	d, t, err := bundleDigest(ctx, ref, f.road.options())
	switch {
	case err != nil:
		return "", "", err
	case t == nil && f.name == "":
		return "", "", cli.Usagef("%s: say with --name which bundle this is, for those who read the permit", ref)
	case t == nil:
		return d, f.name, nil
	case f.name != "" && f.name != t.name:
		return "", "", cli.Usagef("--name %s: the bundle is %s", f.name, t.name)
	}
	return d, t.name, nil
}

func parseChecks(names []string) ([]release.Check, error) {
	var checks []release.Check
	for _, name := range names {
		c := release.Check(strings.TrimSpace(name))
		if !slices.Contains(release.Checks(), c) {
			return nil, cli.Usagef("--override %q: want some of %s", name, strings.Join(checkNames(), ", "))
		}
		checks = append(checks, c)
	}
	slices.Sort(checks)
	return slices.Compact(checks), nil
}

var shortSpan = regexp.MustCompile(`^([1-9][0-9]{0,3})([hd])$`)

// parseNotAfter reads --not-after. A date means its last second.
func parseNotAfter(text string, now time.Time) (string, error) {
	var at time.Time
	if m := shortSpan.FindStringSubmatch(text); m != nil {
		n, err := strconv.Atoi(m[1])
		if err != nil {
			return "", err
		}
		if at = now.Add(time.Duration(n) * time.Hour); m[2] == "d" {
			at = now.AddDate(0, 0, n)
		}
	} else if day, err := time.Parse(time.DateOnly, text); err == nil {
		at = day.AddDate(0, 0, 1).Add(-time.Second)
	} else if at, err = time.Parse(time.RFC3339, text); err != nil {
		return "", cli.Usagef("--not-after %q: want a date such as 2027-01-31, a time such as 2027-01-31T12:00:00Z, or from now such as 8h or 3d", text)
	}
	if at = at.UTC().Truncate(time.Second); !at.After(now) {
		return "", cli.Usagef("--not-after %s is over", at.Format(time.RFC3339))
	}
	if at.Sub(now.Truncate(time.Second)) > release.MaxPermitLife {
		return "", cli.Usagef("--not-after %s: a permit lasts for %d days at most", at.Format(time.RFC3339), int(release.MaxPermitLife.Hours())/24)
	}
	return at.Format(time.RFC3339), nil
}

func writePermit(w io.Writer, p *release.Permit) {
	fmt.Fprintf(w, "  site    %s\n", p.Site)
	if p.Relay != "" {
		fmt.Fprintf(w, "  relay   %s\n", p.Relay)
	}
	names := make([]string, len(p.Overrides))
	for i, c := range p.Overrides {
		names[i] = string(c)
	}
	fmt.Fprintf(w, "  passes  %s\n  reason  %s\n  from    %s\n  until   %s\n", strings.Join(names, ", "), p.Reason, p.IssuedAt, p.NotAfter)
}

type permitVerifyFlags struct {
	owners                  trustedKeys
	bundle, site, relay, at string
	overrides               []string
	json                    bool
	road                    roadFlags
}

func newPermitVerify() *cobra.Command {
	var f permitVerifyFlags
	cmd := &cobra.Command{
		Use:   "verify FILE --key PUB [--threshold N]",
		Short: "Check who signed a permit, and what it is good for",
		Long: `verify checks that enough owner keys signed the permit and that it can be used at this time. With --bundle, --site,
--relay and --override it judges as a relay does. Whether it was used up, only the relay knows.`,
		Example: `  plimsoll permit verify permit.sigstore.jsonl --key owner.pub --site plant-7 --bundle out/ --override older`,
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return f.run(cmd, args[0]) },
	}
	f.owners.register(cmd, "key", "threshold", "public owner key")
	flags := cmd.Flags()
	flags.StringVar(&f.bundle, "bundle", "", "BUNDLE or DIGEST that it should be for")
	flags.StringVar(&f.site, "site", "", "site that wants to use it")
	flags.StringVar(&f.relay, "relay", "", "relay that wants to use it: its public key in a file, or the key's id")
	flags.StringSliceVar(&f.overrides, "override", nil, "checks that it should override, with commas between them (repeatable)")
	flags.StringVar(&f.at, "at", "", "judge as of this time, RFC 3339 (default: now)")
	flags.BoolVar(&f.json, "json", false, "print it as JSON")
	f.road.register(cmd)
	cobra.CheckErr(cmd.MarkFlagRequired("key"))
	return cmd
}

func (f *permitVerifyFlags) run(cmd *cobra.Command, path string) error {
	now, err := parseAt(f.at)
	if err != nil {
		return err
	}
	owners, err := f.owners.read()
	if err != nil {
		return err
	}
	checks, err := parseChecks(f.overrides)
	if err != nil {
		return err
	}
	data, err := readStatementFile(path)
	if err != nil {
		return err
	}
	file, err := verifyStatement(path, data, release.PredicatePermit, owners)
	if err != nil {
		return err
	}
	// What nobody asks about is taken from the permit; the rest is judged as a relay does.
	p := file.permit.Permit()
	use := release.Use{Site: p.Site, Relay: p.Relay, Bundle: file.Subject, Now: now}
	if f.site != "" {
		use.Site = f.site
	}
	if f.relay != "" {
		if use.Relay, err = keyIDOf(f.relay); err != nil {
			return err
		}
	}
	if f.bundle != "" {
		if use.Bundle, _, err = bundleDigest(cmd.Context(), f.bundle, f.road.options()); err != nil {
			return err
		}
	}
	if len(checks) == 0 {
		checks = p.Overrides
	}
	for _, use.Check = range checks {
		if err := file.permit.Covers(use); err != nil {
			return err
		}
	}
	return file.print(cmd, f.json)
}
