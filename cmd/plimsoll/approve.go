package main

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/attest/release"
	"github.com/plimsoll/plimsoll/attest/sign"
	"github.com/plimsoll/plimsoll/cmd/internal/cli"
)

type approveFlags struct {
	channel, useBy, output string
	sequence               uint64
	exact                  bool // the sequence was given
	keys, cosigners, sites []string
	release                trustedKeys
	json                   bool
	road                   roadFlags
}

func newApprove() *cobra.Command {
	var f approveFlags
	cmd := &cobra.Command{
		Use:   "approve BUNDLE --channel stable --release-key release.pub --key owner.key",
		Short: "Approve a release as the owner of a site",
		Long: `approve is the countersignature of a site's owner. It reads the release statement beside the bundle, verifies it by the
release keys, and approves exactly its place: this bundle, this channel, this sequence. Another sequence of the same bundle
needs another approval. With --sequence it is refused unless the release has that one.

The approval is put beside the bundle, in a folder or a registry. With -o it is written alone into a file and nothing else
is: for a bundle in a tar, or on a stick that only can be read. Index, lock and release statement are checked; 'plimsoll
verify' checks every byte.

When several owners must sign, the others run 'plimsoll approve sign' on the file, or approve the same place with
--cosigner for the public keys of those who signed before.

` + keyHelp,
		Example: `  plimsoll approve /media/usb/robot-stack --channel stable --release-key release.pub --key owner.key -o approval.sigstore.jsonl
  plimsoll approve out/ --channel stable --sequence 12 --release-key release.pub --key owner.key --site plant-7 --use-by 30d
  plimsoll approve verify approval.sigstore.jsonl --key owner.pub --bundle out/ --release-key release.pub --channel stable --site plant-7`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f.exact = cmd.Flags().Changed("sequence")
			return f.run(cmd, args[0])
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.channel, "channel", "", "the channel of the release")
	flags.StringArrayVar(&f.keys, "key", nil, "owner KEY that signs (repeatable)")
	flags.StringArrayVar(&f.cosigners, "cosigner", nil, "public key of another owner: what it signed for this place is signed too (repeatable)")
	flags.Uint64Var(&f.sequence, "sequence", 0, "refuse unless the release has this sequence; 0 is a release without one")
	flags.StringArrayVar(&f.sites, "site", nil, "the only site that it is for (repeatable; default: each that trusts the owner's key)")
	flags.StringVar(&f.useBy, "use-by", "", "last moment in which it counts: a date, a time (RFC 3339), or days from now such as 90d")
	flags.StringVarP(&f.output, "output", "o", "", "write it alone to FILE"+attest.ExtensionStatementFile)
	f.release.register(cmd, "release-key", "release-threshold", "public release key")
	flags.BoolVar(&f.json, "json", false, "print the result as JSON")
	f.road.register(cmd)
	for _, name := range []string{"key", "channel", "release-key"} {
		cobra.CheckErr(cmd.MarkFlagRequired(name))
	}
	cmd.AddCommand(newCountersign("approval", release.PredicateApproval), newShow("approval", release.PredicateApproval), newApproveVerify())
	return cmd
}

// PlaceError says that a release has another place than the one that is approved.
type PlaceError struct {
	Channel    string
	Want, Have uint64
}

func (e *PlaceError) Error() string {
	return fmt.Sprintf("the release has %s in channel %s, not %s", sequenceText(e.Have), e.Channel, sequenceText(e.Want))
}

func sequenceText(n uint64) string {
	if n == 0 {
		return "no sequence"
	}
	return fmt.Sprintf("sequence %d", n)
}

// OwnReleaseError says that one key would release and approve.
type OwnReleaseError struct{ KeyID string }

func (e *OwnReleaseError) Error() string {
	return fmt.Sprintf("key %s is a release key and an owner's: who steals it would release and approve", e.KeyID)
}

// explainApprove knows what approve alone refuses.
func explainApprove(err error) (code int, hint string, ok bool) {
	var place *PlaceError
	var own *OwnReleaseError
	var channel *release.ChannelError
	var content *release.ContentError
	var site *release.SiteError
	var expired *release.ExpiredError
	var approval *release.ApprovalError
	var denied *attest.DeniedError
	var format *release.FormatError
	switch {
	case errors.As(err, &own):
		return cli.ExitUsage, "an owner's key is made by the owner, 'plimsoll keys generate -o DIR owner', and stays at the site", true
	case errors.As(err, &approval):
		return cli.ExitDenied, "an approval is for one bundle at one place of one channel: approve what is offered now", true
	case errors.As(err, &place):
		return cli.ExitDenied, "a relay goes by the highest sequence of the bundle in the channel: look at what is offered, and approve that", true
	case errors.As(err, &channel):
		return cli.ExitDenied, "approve it for a channel that it is released to", true
	case errors.As(err, &content):
		return cli.ExitDenied, "the statement was made for another bundle: ask those who released it", true
	case errors.As(err, &site):
		return cli.ExitDenied, "the sites of a release and of an approval are those that a relay compares its own with", true
	case errors.As(err, &expired):
		return cli.ExitDenied, "have it released, or approved, again", true
	case errors.As(err, &denied) && denied.Wanted == release.PredicateApproval:
		if denied.Reason == attest.NotEnough {
			return cli.ExitDenied, "let the other owners sign the same file: 'plimsoll approve sign FILE --key KEY'", true
		}
		return cli.ExitDenied, "check that the keys are the owner's (public) and that the file was not changed", true
	case errors.As(err, &denied) && denied.Wanted == release.PredicateRelease:
		return cli.ExitDenied, "check that the key is the publisher's release key, and that the bundle was released ('plimsoll release') and not only signed", true
	// Last, because a denial may have one for a cause.
	case errors.As(err, &format) && format.Document != "release" && denied == nil:
		return cli.ExitUsage, "attest/release/FORMAT.md describes approvals, revocations and permits, and their limits", true
	}
	return 0, "", false
}

// approveResult is what approve prints.
type approveResult struct {
	Name     string            `json:"name"`
	Bundle   digest.Digest     `json:"bundle"`
	Approval *release.Approval `json:"approval"`
	File     string            `json:"file,omitempty"` // when it was written alone
	Added    []string          `json:"added"`          // keys that signed now; empty when all of them had signed before
	Signers  []string          `json:"signers"`
}

func (f *approveFlags) run(cmd *cobra.Command, ref string) error {
	ctx, now := cmd.Context(), time.Now()
	useBy, err := parseUseBy(f.useBy, now)
	if err != nil {
		return err
	}
	open := openTarget
	if f.output != "" {
		if err := checkOutput(f.output); err != nil {
			return err
		}
		open = openReadOnly
	}
	keys, err := f.release.read()
	if err != nil {
		return err
	}
	t, err := open(ctx, ref, f.road.options())
	if err != nil {
		return err
	}
	defer t.src.Close() //nolint:errcheck // only read from
	rel, err := f.released(ctx, t, keys, now)
	if err != nil {
		return err
	}
	signers, err := openSigners(ctx, f.keys)
	if err != nil {
		return err
	}
	if err := t.checkRelease(ctx, signers); err != nil {
		return err
	}
	a := &release.Approval{
		Channel: rel.Release().Channel, Sequence: rel.Release().Sequence, IssuedAt: now.UTC().Format(time.RFC3339), UseBy: useBy,
		Sites: slices.Compact(slices.Sorted(slices.Values(f.sites))),
	}
	for _, s := range signers {
		if slices.ContainsFunc(keys.Keys, func(k crypto.PublicKey) bool { return attest.KeyID(k) == s.KeyID() }) {
			return &OwnReleaseError{KeyID: s.KeyID()}
		}
	}
	res, err := f.approve(ctx, t, rel, a, signers, now)
	if err != nil {
		return err
	}
	if f.json {
		return cli.PrintJSON(cmd, res)
	}
	res.print(cmd.OutOrStdout())
	return nil
}

// released is the release statement that governs the bundle in the channel. What a relay would refuse is not approved:
// its owner would think that it is on its way.
func (f *approveFlags) released(ctx context.Context, t *target, keys release.Keys, now time.Time) (*release.VerifiedRelease, error) {
	rel, err := releasedIn(ctx, t, keys, f.channel)
	if err != nil {
		return nil, err
	}
	return rel, f.check(rel.Release(), now)
}

func (f *approveFlags) check(r *release.Release, now time.Time) error {
	if f.exact && r.Sequence != f.sequence {
		return &PlaceError{Channel: r.Channel, Want: f.sequence, Have: r.Sequence}
	}
	for _, site := range f.sites {
		if err := release.CheckSite(r, site); err != nil {
			return err
		}
	}
	return release.CheckUseBy(r, now)
}

func releasedIn(ctx context.Context, t *target, keys release.Keys, channel string) (*release.VerifiedRelease, error) {
	if t.bundle == nil {
		return nil, cli.Usagef("%s is not a bundle: only bundles are released", t.ref)
	}
	v, err := release.VerifyRelease(ctx, t, t.root, keys)
	if err != nil {
		return nil, err
	}
	rel, err := v.For(channel)
	if err != nil {
		return nil, err
	}
	return rel, release.CheckContent(rel, t.bundle.Lock.Name, t.bundle.Lock.Version)
}

func (f *approveFlags) approve(ctx context.Context, t *target, rel *release.VerifiedRelease, a *release.Approval, signers sign.Signers, now time.Time) (*approveResult, error) {
	res := &approveResult{Name: t.name, Bundle: t.root.Digest, Approval: a, File: f.output, Added: []string{}, Signers: []string{}}
	before, err := f.before(ctx, t, rel, a, signers, now)
	if err != nil {
		return nil, err
	}
	if before != nil {
		res.Approval, res.Signers = before.Approval(), before.KeyIDs()
	}
	st, err := res.Approval.Statement(t.name, t.root.Digest)
	if err != nil {
		return nil, err
	}
	missing := slices.DeleteFunc(slices.Clone(signers), func(s *sign.Signer) bool { return slices.Contains(res.Signers, s.KeyID()) })
	res.Added = idsOf(missing)
	if res.Signers = append(res.Signers, res.Added...); f.output != "" {
		slices.Sort(res.Signers)
		return res, f.write(st, missing)
	}
	slices.Sort(res.Signers)
	var artifacts []sign.Artifact
	for _, s := range missing {
		artifact, err := s.Attest(st, t.root)
		if err != nil {
			return nil, err
		}
		artifacts = append(artifacts, artifact)
	}
	return res, t.attach(ctx, artifacts)
}

func (f *approveFlags) write(st attest.Statement, missing sign.Signers) error {
	if len(missing) == 0 {
		return nil
	}
	data, err := signAlone(f.output, release.PredicateApproval, st, missing)
	if err != nil {
		return err
	}
	return writeStatement(f.output, data, nil)
}

// before is the approval that says the same already, by one of the signers or of those who sign with them: then its very
// bytes are signed, so that the signatures add up. What cosigners agreed on holds for whoever says nothing else.
func (f *approveFlags) before(ctx context.Context, t *target, rel *release.VerifiedRelease, a *release.Approval, signers sign.Signers, now time.Time) (*release.VerifiedApproval, error) {
	others, err := readKeys(f.cosigners)
	if err != nil {
		return nil, err
	}
	keys := release.Keys{Keys: append(keysOf(signers...), others...)}
	found, err := f.there(ctx, t, keys)
	if err != nil {
		return nil, err
	}
	var last *release.VerifiedApproval
	for _, v := range found {
		have := v.Approval()
		byOther := slices.ContainsFunc(others, func(k crypto.PublicKey) bool { return slices.Contains(v.KeyIDs(), attest.KeyID(k)) })
		switch {
		case v.Subject() != rel.Subject() || v.Name() != rel.Name() || have.Channel != a.Channel || have.Sequence != a.Sequence:
		case !slices.Equal(have.Sites, a.Sites) && (!byOther || len(f.sites) > 0):
		case have.UseBy != a.UseBy && (!byOther || f.useBy != ""):
		case release.CheckUseBy(&release.Release{UseBy: have.UseBy}, now) != nil:
		case last == nil || have.IssuedAt > last.Approval().IssuedAt:
			last = v
		}
	}
	return last, nil
}

// there are the approvals by these keys in the file that is to be written, or beside the bundle.
func (f *approveFlags) there(ctx context.Context, t *target, keys release.Keys) ([]*release.VerifiedApproval, error) {
	var denied *attest.DeniedError
	if f.output == "" {
		found, err := release.VerifyApprovals(ctx, t, t.root, keys)
		if errors.As(err, &denied) {
			return nil, nil
		}
		return found, err
	}
	if !exists(f.output) {
		return nil, nil
	}
	data, err := readStatementFile(f.output)
	if err != nil {
		return nil, err
	}
	v, err := verifyStatement(f.output, data, release.PredicateApproval, keys)
	switch {
	case errors.As(err, &denied):
		return nil, nil // writing will say what is wrong with it
	case err != nil:
		return nil, &KeptError{File: f.output, Err: err}
	}
	return []*release.VerifiedApproval{v.approval}, nil
}

func (res *approveResult) print(w io.Writer) {
	what := "approved"
	if len(res.Added) == 0 {
		what = "was approved before"
	}
	if res.File != "" {
		what += " in " + res.File
	}
	fmt.Fprintf(w, "%s  %s\n  %s\n", res.Name, what, res.Bundle)
	writeApproval(w, res.Approval)
	for _, id := range res.Signers {
		fmt.Fprintf(w, "  by      %s\n", id)
	}
}

func writeApproval(w io.Writer, a *release.Approval) {
	fmt.Fprintf(w, "  place   %s of channel %s\n", sequenceText(a.Sequence), a.Channel)
	if sites := strings.Join(a.Sites, ", "); sites != "" {
		fmt.Fprintf(w, "  sites   %s\n", sites)
	} else {
		fmt.Fprintln(w, "  sites   each that trusts the owner's key")
	}
	if a.UseBy != "" {
		fmt.Fprintf(w, "  use by  %s\n", a.UseBy)
	}
}

type approveVerifyFlags struct {
	owners, release           trustedKeys
	bundle, channel, site, at string
	json                      bool
	road                      roadFlags
}

func newApproveVerify() *cobra.Command {
	var f approveVerifyFlags
	cmd := &cobra.Command{
		Use:   "verify FILE --key PUB [--threshold N]",
		Short: "Check who signed an approval, and whether it fits a release",
		Long: `verify checks that enough owner keys signed the approval, that it counts at this time, and with --site that it is for that
site. With --bundle it judges as a relay does: whether it is for this bundle, at the place that its release has.`,
		Example: `  plimsoll approve verify approval.sigstore.jsonl --key owner.pub --bundle out/ --release-key release.pub --channel stable --site plant-7`,
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return f.run(cmd, args[0]) },
	}
	f.owners.register(cmd, "key", "threshold", "public owner key")
	flags := cmd.Flags()
	flags.StringVar(&f.bundle, "bundle", "", "BUNDLE that it should be for")
	f.release.register(cmd, "release-key", "release-threshold", "public release key of --bundle")
	flags.StringVar(&f.channel, "channel", "", "channel in which --bundle is offered")
	flags.StringVar(&f.site, "site", "", "site that it should be for")
	flags.StringVar(&f.at, "at", "", "judge as of this time, RFC 3339 (default: now)")
	flags.BoolVar(&f.json, "json", false, "print it as JSON")
	f.road.register(cmd)
	cobra.CheckErr(cmd.MarkFlagRequired("key"))
	cmd.MarkFlagsRequiredTogether("bundle", "release-key", "channel")
	return cmd
}

func (f *approveVerifyFlags) run(cmd *cobra.Command, path string) error {
	ctx := cmd.Context()
	now, err := parseAt(f.at)
	if err != nil {
		return err
	}
	owners, err := f.owners.read()
	if err != nil {
		return err
	}
	keys, err := f.release.read()
	if err != nil {
		return err
	}
	data, err := readStatementFile(path)
	if err != nil {
		return err
	}
	file, err := verifyStatement(path, data, release.PredicateApproval, owners)
	if err != nil {
		return err
	}
	a := file.approval.Approval()
	if f.bundle != "" {
		t, err := openReadOnly(ctx, f.bundle, f.road.options())
		if err != nil {
			return err
		}
		defer t.src.Close() //nolint:errcheck // only read from
		rel, err := releasedIn(ctx, t, keys, f.channel)
		if err != nil {
			return err
		}
		if f.site == "" && len(a.Sites) > 0 {
			f.site = a.Sites[0] // which site is not the question then
		}
		if _, err := release.FindApproval([]*release.VerifiedApproval{file.approval}, rel, f.site, now); err != nil {
			return err
		}
		return file.print(cmd, f.json)
	}
	as := &release.Release{Sites: a.Sites, UseBy: a.UseBy}
	if f.site != "" {
		if err := release.CheckSite(as, f.site); err != nil {
			return err
		}
	}
	if err := release.CheckUseBy(as, now); err != nil {
		return err
	}
	return file.print(cmd, f.json)
}

// parseAt reads --at.
func parseAt(text string) (time.Time, error) {
	if text == "" {
		return time.Now(), nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return at, cli.Usagef("--at %q: want a time such as 2027-01-31T12:00:00Z", text)
	}
	return at, nil
}
