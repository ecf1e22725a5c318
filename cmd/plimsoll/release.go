package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/attest/release"
	"github.com/plimsoll/plimsoll/attest/sign"
	"github.com/plimsoll/plimsoll/builder/channel"
	"github.com/plimsoll/plimsoll/bundle/media"
	"github.com/plimsoll/plimsoll/cmd/internal/cli"
)

type releaseFlags struct {
	channel, useBy, minRelay string
	sequence, epoch          uint64
	byVersion, json          bool
	keys, cosigners, sites   []string
	road                     roadFlags
}

func newRelease() *cobra.Command {
	var f releaseFlags
	cmd := &cobra.Command{
		Use:   "release BUNDLE --channel stable --key release.key",
		Short: "Release a bundle to a channel: its place there, until when, for which sites",
		Long: `release puts a signed release statement beside a bundle: the channel, its place (sequence) there, when it was made, until
when it may be imported, its security epoch and, if that is wanted, the only sites that may take it. A relay will go by it:
who has the statement cannot replay an older one, and a bundle without one is nobody's release.

In a registry the next sequence is taken from the channel's tags (CHANNEL.SEQUENCE.DIGEST, which release sets, and CHANNEL
itself for the newest). Two jobs never get one sequence: one of them is refused and is repeated. In a folder give the
sequence, or let the semantic version be the order (--by-version). To go back on purpose, release the old bundle again: it
gets the next sequence.

When a threshold of keys is asked for, each signer runs release on the same bundle and channel, with --cosigner for the
public keys of those who signed before: the same statement is signed, and the other flags say nothing then.

` + keyHelp,
		Example: `  plimsoll release oci://registry.example.com/releases/robot-stack:v1.5.4 --channel stable --key release.key --use-by 90d
  plimsoll release out/ --channel stable --sequence 12 --key release.key --site plant-7 --site plant-9
  plimsoll release oci://registry.example.com/releases/robot-stack:v1.5.4 --channel stable --key second.key --cosigner release.pub`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, args[0]) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.channel, "channel", "", "the channel")
	flags.StringArrayVar(&f.keys, "key", nil, "release KEY that signs (repeatable)")
	flags.StringArrayVar(&f.cosigners, "cosigner", nil, "public key of another signer: what it signed is signed too (repeatable)")
	flags.Uint64Var(&f.sequence, "sequence", 0, "place in the channel (default in a registry: the next one)")
	flags.BoolVar(&f.byVersion, "by-version", false, "no sequence: the semantic version is the order")
	flags.StringVar(&f.useBy, "use-by", "", "last moment to import it: a date, a time (RFC 3339), or days from now such as 90d")
	flags.Uint64Var(&f.epoch, "epoch", 0, "security epoch: a relay that took it takes none of a lower epoch")
	flags.StringArrayVar(&f.sites, "site", nil, "a site that may take it (repeatable; default: any)")
	flags.StringVar(&f.minRelay, "min-relay", "", "version of the oldest plimsoll-relay that may take it")
	flags.BoolVar(&f.json, "json", false, "print the result as JSON")
	f.road.register(cmd)
	cobra.CheckErr(cmd.MarkFlagRequired("key"))
	cobra.CheckErr(cmd.MarkFlagRequired("channel"))
	cmd.MarkFlagsMutuallyExclusive("sequence", "by-version")
	return cmd
}

// explainRelease knows what release alone refuses.
func explainRelease(err error) (code int, hint string, ok bool) {
	var race *channel.RaceError
	var older *channel.OlderError
	var ahead *channel.AheadError
	var format *release.FormatError
	switch {
	case errors.As(err, &race):
		return cli.ExitFailed, "repeat the command: it takes the next sequence", true
	case errors.As(err, &older):
		return cli.ExitOlder, "leave out --sequence to take the next one", true
	case errors.As(err, &ahead):
		return cli.ExitDenied, "whoever set this tag did not release: remove it in the registry, or give --cosigner if another key signed it", true
	case errors.As(err, &format):
		return cli.ExitUsage, "attest/release/FORMAT.md describes the statements", true
	}
	return 0, "", false
}

// releaseResult is what release prints.
type releaseResult struct {
	Name    string           `json:"name"`
	Bundle  digest.Digest    `json:"bundle"`
	Release *release.Release `json:"release"`
	Added   []madeStatement  `json:"added"` // empty when the keys had signed it before
	Signers []string         `json:"signers"`
}

func (f *releaseFlags) run(cmd *cobra.Command, ref string) error {
	ctx := cmd.Context()
	useBy, err := parseUseBy(f.useBy, time.Now())
	if err != nil {
		return err
	}
	others, err := readKeys(f.cosigners)
	if err != nil {
		return err
	}
	t, err := openTarget(ctx, ref, f.road.options())
	if err != nil {
		return err
	}
	defer t.src.Close() //nolint:errcheck // only read from
	if t.bundle == nil {
		return cli.Usagef("%s is not a bundle: only bundles are released", ref)
	}
	signers, err := openSigners(ctx, f.keys)
	if err != nil {
		return err
	}
	if err := t.checkRelease(ctx, signers); err != nil {
		return err
	}
	r := &releasing{target: t, channel: f.channel, keys: release.Keys{Keys: append(keysOf(signers...), others...)}}
	rel := &release.Release{
		Channel: f.channel, Version: t.bundle.Lock.Version, IssuedAt: time.Now().UTC().Format(time.RFC3339), UseBy: useBy,
		Epoch: f.epoch, MinRelay: f.minRelay, Sites: slices.Compact(slices.Sorted(slices.Values(f.sites))), Sequence: f.sequence,
	}
	res, err := f.release(ctx, r, rel, signers)
	if err != nil {
		return err
	}
	if f.json {
		return cli.PrintJSON(cmd, res)
	}
	res.print(cmd)
	return nil
}

func (f *releaseFlags) release(ctx context.Context, r *releasing, rel *release.Release, signers sign.Signers) (*releaseResult, error) {
	remote := strings.HasPrefix(r.ref, "oci://")
	if !remote && rel.Sequence == 0 {
		f.byVersion = true
	}
	// What is wrong must be found before a place in the channel is taken for it.
	tried := *rel
	if !f.byVersion && tried.Sequence == 0 {
		tried.Sequence = 1
	}
	if _, err := tried.Statement(r.name, r.root.Digest); err != nil {
		return nil, err
	}
	if remote && !f.byVersion {
		var err error
		if rel.Sequence, err = channel.Next(ctx, r, f.channel, r.root.Digest, rel.Sequence); err != nil {
			return nil, err
		}
	}
	before, err := r.before(ctx, rel.Sequence)
	if err != nil {
		return nil, err
	}
	res := &releaseResult{Name: r.name, Bundle: r.root.Digest, Release: rel, Added: []madeStatement{}}
	if before != nil {
		res.Release, res.Signers = before.Release(), before.KeyIDs()
	}
	statement, err := res.Release.Statement(r.name, r.root.Digest)
	if err != nil {
		return nil, err
	}
	var artifacts []sign.Artifact
	for _, s := range signers {
		if slices.Contains(res.Signers, s.KeyID()) {
			continue
		}
		a, err := s.Attest(statement, r.root)
		if err != nil {
			return nil, err
		}
		artifacts = append(artifacts, a)
		res.Added = append(res.Added, madeStatement{s.KeyID(), a.Manifest.Digest})
		res.Signers = append(res.Signers, s.KeyID())
	}
	slices.Sort(res.Signers)
	if err := r.attach(ctx, artifacts); err != nil {
		return nil, err
	}
	if remote {
		err = r.moveHead(ctx)
	}
	return res, err
}

func (res *releaseResult) print(cmd *cobra.Command) {
	w, rel := cmd.OutOrStdout(), res.Release
	what := "released"
	if len(res.Added) == 0 {
		what = "was released before"
	}
	place := "by its version"
	if rel.Sequence > 0 {
		place = fmt.Sprintf("as sequence %d", rel.Sequence)
	}
	fmt.Fprintf(w, "%s %s  %s to %s %s\n  %s\n", res.Name, rel.Version, what, rel.Channel, place, res.Bundle)
	if rel.UseBy != "" {
		fmt.Fprintf(w, "  use by  %s\n", rel.UseBy)
	}
	if rel.Epoch > 0 {
		fmt.Fprintf(w, "  epoch   %d\n", rel.Epoch)
	}
	if len(rel.Sites) > 0 {
		fmt.Fprintf(w, "  sites   %s\n", strings.Join(rel.Sites, ", "))
	}
	for _, id := range res.Signers {
		fmt.Fprintf(w, "  by      %s\n", id)
	}
}

// releasing is a bundle that is being released, and for package channel the repository where it is.
type releasing struct {
	*target
	channel string
	keys    release.Keys // whose release statements count
}

// Tags is of channel.Repository.
func (r *releasing) Tags(ctx context.Context) ([]string, error) {
	return media.Tags(ctx, r.ref, r.opts)
}

// Tag is of channel.Repository.
func (r *releasing) Tag(ctx context.Context, tag string) error {
	sink, err := media.OpenSink(ctx, placeOf(r.ref)+":"+tag, r.opts)
	if err != nil {
		return err
	}
	return errors.Join(sink.Commit(ctx, r.root, "", nil), sink.Close())
}

// Signed is of channel.Repository.
func (r *releasing) Signed(ctx context.Context, tag, channel string) ([]uint64, error) {
	src, err := media.OpenSource(ctx, placeOf(r.ref)+":"+tag, r.opts)
	if err != nil {
		return nil, err
	}
	defer src.Close() //nolint:errcheck // only read from
	root, err := src.Root(ctx)
	if err != nil {
		return nil, err
	}
	all, err := r.statements(ctx, src, root)
	var sequences []uint64
	for _, v := range all {
		sequences = append(sequences, v.Release().Sequence)
	}
	return sequences, err
}

// statements are the release statements to the channel that are signed by keys which count; none is no error.
func (r *releasing) statements(ctx context.Context, ev attest.Evidence, root ocispec.Descriptor) ([]*release.VerifiedRelease, error) {
	v, err := release.VerifyRelease(ctx, ev, root, r.keys)
	var denied *attest.DeniedError
	if errors.As(err, &denied) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(v.Releases(), func(v *release.VerifiedRelease) bool { return v.Release().Channel != r.channel }), nil
}

// before is the statement that this release was made by already.
func (r *releasing) before(ctx context.Context, sequence uint64) (*release.VerifiedRelease, error) {
	all, err := r.statements(ctx, r, r.root)
	if err != nil {
		return nil, err
	}
	for _, v := range slices.Backward(all) {
		if v.Release().Sequence == sequence {
			return v, nil
		}
	}
	return nil, nil
}

// moveHead sets the channel's own tag, for people and for `plimsoll copy`, when no later release has come meanwhile.
func (r *releasing) moveHead(ctx context.Context) error {
	tags, err := r.Tags(ctx)
	if err != nil {
		return err
	}
	var last channel.Claim
	for _, tag := range tags {
		if c, ok := channel.ParseClaim(tag); ok && c.Channel == r.channel && c.Sequence > last.Sequence {
			last = c
		}
	}
	if last.Sequence > 0 && last != channel.NewClaim(r.channel, last.Sequence, r.root.Digest) {
		return nil
	}
	return r.Tag(ctx, r.channel)
}

// parseUseBy reads --use-by. A date means its last second.
func parseUseBy(text string, now time.Time) (string, error) {
	if text == "" {
		return "", nil
	}
	var at time.Time
	if days, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil || n == 0 {
			return "", cli.Usagef("--use-by %q: want a number of days such as 90d", text)
		}
		at = now.AddDate(0, 0, int(n))
	} else if day, err := time.Parse(time.DateOnly, text); err == nil {
		at = day.AddDate(0, 0, 1).Add(-time.Second)
	} else if at, err = time.Parse(time.RFC3339, text); err != nil {
		return "", cli.Usagef("--use-by %q: want a date such as 2027-01-31, a time such as 2027-01-31T12:00:00Z, or days such as 90d", text)
	}
	if !at.After(now) {
		return "", cli.Usagef("--use-by %s is over", at.UTC().Format(time.RFC3339))
	}
	return at.UTC().Truncate(time.Second).Format(time.RFC3339), nil
}
