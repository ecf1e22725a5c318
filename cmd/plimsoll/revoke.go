package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/attest/release"
	"github.com/plimsoll/plimsoll/attest/sign"
	"github.com/plimsoll/plimsoll/bundle/media"
	"github.com/plimsoll/plimsoll/cmd/internal/cli"
)

type revokeFlags struct {
	bundles, images, publics []string
	epoch                    uint64
	keys                     []string
	previous, output         string
	first, json              bool
	trusted                  trustedKeys
	road                     roadFlags
}

func newRevoke() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "revoke",
		Short: "Revoke bundles, images, keys and security epochs, in a file that travels alone",
		Long: `revoke makes a revocation document: a small signed file that reaches a relay beside a bundle or alone on a stick. It only
takes rights away. Its number rises, and a later one holds everything of the one before: a relay refuses one that does
not. So each is made from the one before, --previous, which --trusted-key verifies; the very first is made with --first.

When a threshold of keys is asked for, give --key several times, or let the others sign the same file with 'plimsoll
revoke sign'. No network is needed.`,
		Example: `  plimsoll revoke bundle sha256:6b86… --first --key revocation.key -o revocation-1.sigstore.jsonl
  plimsoll revoke key old-release.pub --previous revocation-1.sigstore.jsonl --trusted-key revocation.pub \
    --key revocation.key -o revocation-2.sigstore.jsonl
  plimsoll revoke sign revocation-2.sigstore.jsonl --key second.key
  plimsoll revoke verify revocation-2.sigstore.jsonl --key revocation.pub --key second.pub --threshold 2`,
		Args: cobra.NoArgs,
	}
	cmd.AddCommand(newRevokeBundle(), newRevokeImage(), newRevokeKey(), newRevokeEpoch(),
		newCountersign("revocation", release.PredicateRevocation), newShow("revocation", release.PredicateRevocation), newRevokeVerify())
	return cmd
}

func newRevokeBundle() *cobra.Command {
	var f revokeFlags
	cmd := f.command(&cobra.Command{
		Use:     "bundle BUNDLE|DIGEST…",
		Short:   "Revoke bundles, by digest or where one is",
		Example: "  plimsoll revoke bundle sha256:6b86… out/ --previous revocation-1.sigstore.jsonl --trusted-key revocation.pub \\\n    --key revocation.key -o revocation-2.sigstore.jsonl",
	}, func(args []string) error {
		f.bundles = append(f.bundles, args...)
		return nil
	})
	f.road.register(cmd)
	return cmd
}

func newRevokeImage() *cobra.Command {
	var f revokeFlags
	return f.command(&cobra.Command{
		Use:     "image [NAME@]DIGEST…",
		Short:   "Revoke images by the digest of their index or manifest: every bundle with one of them is revoked",
		Example: "  plimsoll revoke image ghcr.io/acme/robot-app@sha256:6b86… --first --key revocation.key -o revocation-1.sigstore.jsonl",
	}, func(args []string) error {
		f.images = append(f.images, args...)
		return nil
	})
}

func newRevokeKey() *cobra.Command {
	var f revokeFlags
	return f.command(&cobra.Command{
		Use:     "key PUB|ID…",
		Short:   "Revoke keys: nothing that they signed counts any more, whenever they did",
		Example: "  plimsoll revoke key stolen.pub --first --key revocation.key -o revocation-1.sigstore.jsonl",
	}, func(args []string) error {
		f.publics = append(f.publics, args...)
		return nil
	})
}

func newRevokeEpoch() *cobra.Command {
	var f revokeFlags
	return f.command(&cobra.Command{
		Use:     "epoch N",
		Short:   "Revoke every release of a security epoch below N",
		Example: "  plimsoll revoke epoch 4 --first --key revocation.key -o revocation-1.sigstore.jsonl",
	}, func(args []string) error {
		n, err := strconv.ParseUint(args[0], 10, 64)
		if len(args) != 1 || err != nil || n == 0 {
			return cli.Usagef("epoch %q: want one number from 1", strings.Join(args, " "))
		}
		f.epoch = max(f.epoch, n)
		return nil
	})
}

func (f *revokeFlags) command(cmd *cobra.Command, take func(args []string) error) *cobra.Command {
	cmd.Args = cobra.MinimumNArgs(1)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := take(args); err != nil {
			return err
		}
		return f.run(cmd)
	}
	cmd.Long = cmd.Short + `.

The document says all that the one before said (--previous) and this; --and-… put more into the same one. 'plimsoll
revoke --help' tells how revocations follow each other.

` + keyHelp
	flags := cmd.Flags()
	flags.StringArrayVar(&f.bundles, "and-bundle", nil, "revoke this BUNDLE or DIGEST in the same document (repeatable)")
	flags.StringArrayVar(&f.images, "and-image", nil, "revoke this image DIGEST in the same document (repeatable)")
	flags.StringArrayVar(&f.publics, "and-key", nil, "revoke this public key, a file or an id, in the same document (repeatable)")
	flags.Uint64Var(&f.epoch, "and-epoch", 0, "revoke what is below this security epoch in the same document")
	flags.StringArrayVar(&f.keys, "key", nil, "revocation KEY that signs (repeatable)")
	flags.StringVar(&f.previous, "previous", "", "FILE of the revocation before this one")
	flags.BoolVar(&f.first, "first", false, "there is no revocation before this one, anywhere")
	flags.StringVarP(&f.output, "output", "o", "", "FILE"+attest.ExtensionStatementFile+" for the document; one that is there is replaced only if the new one holds all of it")
	flags.BoolVar(&f.json, "json", false, "print the result as JSON")
	f.trusted.register(cmd, "trusted-key", "threshold", "public revocation key that verifies --previous")
	for _, name := range []string{"key", "output"} {
		cobra.CheckErr(cmd.MarkFlagRequired(name))
	}
	cmd.MarkFlagsOneRequired("previous", "first")
	cmd.MarkFlagsMutuallyExclusive("previous", "first")
	return cmd
}

// NothingNewError says that all of it is revoked already.
type NothingNewError struct{ Number uint64 }

func (e *NothingNewError) Error() string {
	return fmt.Sprintf("nothing was written: revocation %d revokes all of it already", e.Number)
}

// OlderRevocationError says that a revocation comes before the one that it should follow.
type OlderRevocationError struct{ Have, Offered uint64 }

func (e *OlderRevocationError) Error() string {
	return fmt.Sprintf("revocation %d is not newer than revocation %d", e.Offered, e.Have)
}

// BackwardsError says that the machine's clock is behind the revocation that a new one follows.
type BackwardsError struct{ Now, Before string }

func (e *BackwardsError) Error() string {
	return fmt.Sprintf("the clock says %s, and the revocation before was made at %s", e.Now, e.Before)
}

// explainRevoke knows what revoke alone refuses.
func explainRevoke(err error) (code int, hint string, ok bool) {
	var nothing *NothingNewError
	var older *OlderRevocationError
	var backwards *BackwardsError
	var forgotten *release.ForgottenError
	var fork *release.ForkError
	var denied *attest.DeniedError
	switch {
	case errors.As(err, &nothing):
		return cli.ExitFailed, "the revocation before is the one to carry; 'plimsoll revoke sign' adds signatures to it", true
	case errors.As(err, &older):
		return cli.ExitOlder, "give the newest revocation with --previous: relays keep to the highest number that they saw", true
	case errors.As(err, &backwards):
		return cli.ExitFailed, "set the clock of this machine: what is signed with a wrong time confuses the clocks of relays", true
	case errors.As(err, &forgotten):
		return cli.ExitDenied, "make it again from that revocation, with --previous: what is revoked stays revoked", true
	case errors.As(err, &fork):
		return cli.ExitDenied, "somebody made two different documents of one number; find out who signed the other one", true
	case errors.As(err, &denied) && denied.Wanted == release.PredicateRevocation:
		if denied.Reason == attest.NotEnough {
			return cli.ExitDenied, "let the others sign the same file: 'plimsoll revoke sign FILE --key KEY'", true
		}
		return cli.ExitDenied, "check that the keys are revocation keys (public) and that the file was not changed", true
	}
	return 0, "", false
}

// revokeResult is what revoke prints.
type revokeResult struct {
	File     string              `json:"file"`
	Document *release.Revocation `json:"document"`
	Added    []string            `json:"added"` // kind and name of each
	Signers  []string            `json:"signers"`
}

func (f *revokeFlags) run(cmd *cobra.Command) error {
	ctx := cmd.Context()
	if err := checkOutput(f.output); err != nil {
		return err
	}
	trusted, err := f.trusted.read()
	if err != nil {
		return err
	}
	if f.previous != "" && len(trusted.Keys) == 0 {
		return cli.Usagef("--previous needs --trusted-key: whoever can exchange the file could make it forget something")
	}
	var before *release.Revocation
	if f.previous != "" {
		if before, err = readRevocation(f.previous, trusted); err != nil {
			return err
		}
	}
	r, added, err := f.document(ctx, before, time.Now())
	if err != nil {
		return err
	}
	st, err := r.Statement()
	if err != nil {
		return err
	}
	signers, err := openSigners(ctx, f.keys)
	if err != nil {
		return err
	}
	if err := checkNotRevoked(before, signers); err != nil {
		return err
	}
	data, err := signAlone(f.output, release.PredicateRevocation, st, signers)
	if err != nil {
		return err
	}
	err = writeStatement(f.output, data, func(old []byte) error {
		if len(trusted.Keys) == 0 {
			return errors.New("without --trusted-key nobody knows what it is")
		}
		there, err := verifyStatement(f.output, old, release.PredicateRevocation, trusted)
		if err != nil {
			return err
		}
		return follows(there.Document.(*release.Revocation), r)
	})
	if err != nil {
		return err
	}
	warnSelfRevoked(cmd, r, signers)
	return f.print(cmd, &revokeResult{File: f.output, Document: r, Added: added, Signers: idsOf(signers)})
}

func (f *revokeFlags) print(cmd *cobra.Command, res *revokeResult) error {
	if f.json {
		return cli.PrintJSON(cmd, res)
	}
	w, r := cmd.OutOrStdout(), res.Document
	fmt.Fprintf(w, "revocation %d  %s\n", r.Number, res.File)
	for _, line := range res.Added {
		fmt.Fprintf(w, "  + %s\n", line)
	}
	if kept := len(revokedBy(r)) - len(res.Added); kept > 0 {
		fmt.Fprintf(w, "  and %d revoked before\n", kept)
	}
	for _, id := range res.Signers {
		fmt.Fprintf(w, "  by      %s\n", id)
	}
	return nil
}

// document is the revocation that follows another one, or the first; added is what is new in it.
func (f *revokeFlags) document(ctx context.Context, before *release.Revocation, now time.Time) (r *release.Revocation, added []string, err error) {
	r = &release.Revocation{}
	if before != nil {
		*r = *before
	}
	r.Number++
	if now = now.UTC().Truncate(time.Second); before != nil {
		if last, err := time.Parse(time.RFC3339, before.IssuedAt); err != nil || now.Before(last) {
			return nil, nil, &BackwardsError{Now: now.Format(time.RFC3339), Before: before.IssuedAt}
		}
	}
	r.IssuedAt = now.Format(time.RFC3339)
	var bundles, images []digest.Digest
	for _, ref := range f.bundles {
		d, _, err := bundleDigest(ctx, ref, f.road.options())
		if err != nil {
			return nil, nil, err
		}
		bundles = append(bundles, d)
	}
	for _, ref := range f.images {
		d := digest.Digest(ref[strings.LastIndexByte(ref, '@')+1:])
		if d.Validate() != nil {
			return nil, nil, cli.Usagef("image %q: want its digest, sha256:…; 'plimsoll inspect' lists those of a bundle", ref)
		}
		images = append(images, d)
	}
	var keys []string
	for _, ref := range f.publics {
		id, err := keyIDOf(ref)
		if err != nil {
			return nil, nil, err
		}
		keys = append(keys, id)
	}
	r.Bundles, r.Images, r.Keys = union(r.Bundles, bundles), union(r.Images, images), union(r.Keys, keys)
	r.Epoch = max(r.Epoch, f.epoch)
	held := make(map[string]bool)
	if before != nil {
		for _, line := range revokedBy(before) {
			held[line] = true
		}
	}
	added = slices.DeleteFunc(revokedBy(r), func(line string) bool { return held[line] })
	if len(added) == 0 {
		return nil, nil, &NothingNewError{Number: r.Number - 1}
	}
	return r, added, r.Validate()
}

// revokedBy has a line for each thing that is revoked.
func revokedBy(r *release.Revocation) []string {
	lines := []string{}
	for _, d := range r.Bundles {
		lines = append(lines, "bundle  "+d.String())
	}
	for _, d := range r.Images {
		lines = append(lines, "image   "+d.String())
	}
	for _, id := range r.Keys {
		lines = append(lines, "key     "+id)
	}
	if r.Epoch > 0 {
		lines = append(lines, fmt.Sprintf("epoch   below %d", r.Epoch))
	}
	return lines
}

func union[T ~string](a, b []T) []T {
	return slices.Compact(slices.Sorted(slices.Values(slices.Concat(a, b))))
}

// readRevocation reads a revocation that enough of the keys signed.
func readRevocation(path string, keys release.Keys) (*release.Revocation, error) {
	data, err := readStatementFile(path)
	if err != nil {
		return nil, err
	}
	f, err := verifyStatement(path, data, release.PredicateRevocation, keys)
	if err != nil {
		return nil, err
	}
	return f.Document.(*release.Revocation), nil
}

// follows refuses a revocation that a relay which has another one would not take in its place.
func follows(before, r *release.Revocation) error {
	if before.Newer(r) {
		return &OlderRevocationError{Have: before.Number, Offered: r.Number}
	}
	_, err := release.Merge(before, r)
	return err
}

// checkNotRevoked refuses a signature that no relay will count.
func checkNotRevoked(before *release.Revocation, signers sign.Signers) error {
	for _, s := range signers {
		if before.RevokesKey(s.KeyID()) {
			return cli.Usagef("key %s was revoked by revocation %d: nothing that it signs counts", s.KeyID(), before.Number)
		}
	}
	return nil
}

// warnSelfRevoked tells whoever signs a revocation of the own key: that is a last word, and a good one for a stolen key.
func warnSelfRevoked(cmd *cobra.Command, r *release.Revocation, signers sign.Signers) {
	for _, id := range idsOf(signers) {
		if r.RevokesKey(id) {
			fmt.Fprintf(cmd.ErrOrStderr(), "plimsoll: key %s revokes itself: nothing that it signs counts after this document\n", id)
		}
	}
}

func idsOf(signers sign.Signers) []string {
	ids := []string{}
	for _, s := range signers {
		ids = append(ids, s.KeyID())
	}
	return ids
}

var keyIDPattern = regexp.MustCompile(`^[0-9a-f]{64}$`)

// keyIDOf names a public key that is given as a file or by its whole id.
func keyIDOf(ref string) (string, error) {
	if keyIDPattern.MatchString(ref) {
		return ref, nil
	}
	if !exists(ref) {
		return "", cli.Usagef("key %q: neither a file nor an id of 64 hex digits; 'plimsoll keys show' prints ids", ref)
	}
	return trustKeyID(ref)
}

// bundleDigest is the digest of a bundle that is given by it or by where it is; then the bundle is given too.
func bundleDigest(ctx context.Context, ref string, o media.Options) (digest.Digest, *target, error) {
	d := digest.Digest(ref)
	if d.Validate() == nil {
		return d, nil, nil
	}
	if strings.HasPrefix(ref, "sha256:") {
		return "", nil, cli.Usagef("bundle %q: not a digest, which has 64 hex digits", ref)
	}
	t, err := openReadOnly(ctx, ref, o)
	if err != nil {
		return "", nil, err
	}
	if err := t.src.Close(); err != nil {
		return "", nil, err
	}
	if t.bundle == nil {
		return "", nil, cli.Usagef("%s is not a bundle", ref)
	}
	return t.root.Digest, t, nil
}

// openReadOnly is openTarget for those who put nothing beside it: a tar and a medium that is write-protected will do.
func openReadOnly(ctx context.Context, ref string, o media.Options) (*target, error) {
	src, err := media.OpenSource(ctx, ref, o)
	if err != nil {
		return nil, err
	}
	t := &target{src: src, ref: ref, opts: o}
	if err := t.load(ctx); err != nil {
		return nil, errors.Join(err, src.Close())
	}
	return t, nil
}

func newRevokeVerify() *cobra.Command {
	var trusted trustedKeys
	var previous string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "verify FILE --key PUB [--threshold N]",
		Short: "Check who signed a revocation, and that it forgets nothing",
		Long: `verify checks that enough revocation keys signed the document and prints it. With --previous it checks too that a relay
which has that one would take this one: a higher number, and everything that was revoked.`,
		Example: "  plimsoll revoke verify revocation-2.sigstore.jsonl --key revocation.pub --previous revocation-1.sigstore.jsonl",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			keys, err := trusted.read()
			if err != nil {
				return err
			}
			data, err := readStatementFile(args[0])
			if err != nil {
				return err
			}
			f, err := verifyStatement(args[0], data, release.PredicateRevocation, keys)
			if err != nil {
				return err
			}
			if previous != "" {
				before, err := readRevocation(previous, keys)
				if err != nil {
					return err
				}
				if err := follows(before, f.Document.(*release.Revocation)); err != nil {
					return err
				}
			}
			return f.print(cmd, asJSON)
		},
	}
	trusted.register(cmd, "key", "threshold", "public revocation key")
	cmd.Flags().StringVar(&previous, "previous", "", "FILE of the revocation that it should follow")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print it as JSON")
	cobra.CheckErr(cmd.MarkFlagRequired("key"))
	return cmd
}
