package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/attest/sign"
	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/bundle/media"
	"github.com/plimsoll/plimsoll/cmd/internal/cli"
	"github.com/plimsoll/plimsoll/internal/strictjson"
)

type signFlags struct {
	keys       []string
	images     bool
	repository string
	json       bool
	road       roadFlags
}

func newSign() *cobra.Command {
	var f signFlags
	cmd := &cobra.Command{
		Use:   "sign BUNDLE --key release.key",
		Short: "Sign a bundle, or an image index, that is there already",
		Long: `sign puts a signature by each key beside a bundle, in both forms that verifiers in the field read: a Sigstore bundle as
OCI referrer, and cosign's tag sha256-….sig. The bundle stays as it is. Signatures of others stay too, and a key that has
signed is not asked again. Index and lock are checked first; 'plimsoll verify' checks every byte. Such a signature is what
cosign, Flux or Kyverno look for; what place in which channel a bundle has is said by 'plimsoll release'.

With --images the images of the bundle are signed too, where they are, each index and each platform. These signatures are
for those who pull from there: they are not part of the bundle, and a copy of it leaves them behind. A relay serves the
ones that 'plimsoll build --sign' puts into the bundle.

The place is a folder or a registry. A tar is not changed: unpack it with 'plimsoll copy'.

` + keyHelp,
		Example: `  plimsoll sign out/ --key release-2.key
  plimsoll sign oci://registry.example.com/releases/robot-stack:v1.5.4 --key release.key --key yubikey://slot-9c
  plimsoll sign oci://registry.example.com/base/ros@sha256:… --key release.key --repository registry.example.com/base/ros`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, args[0]) },
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&f.keys, "key", nil, "release KEY that signs (repeatable)")
	flags.BoolVar(&f.images, "images", false, "sign the images of the bundle too, where they are")
	flags.StringVar(&f.repository, "repository", "", "the name that cosign's form of a signature says (default: the bundle's, or where it is in a registry)")
	flags.BoolVar(&f.json, "json", false, "print the result as JSON")
	f.road.register(cmd)
	cobra.CheckErr(cmd.MarkFlagRequired("key"))
	return cmd
}

// signedManifest is what was put beside one manifest, as --json prints it.
type signedManifest struct {
	Subject digest.Digest `json:"subject"`
	Item    string        `json:"item,omitempty"`
	Added   []attached    `json:"added"` // empty when the keys had signed it before
}

type attached struct {
	Manifest digest.Digest `json:"manifest"`
	Tag      string        `json:"tag,omitempty"`
}

// signResult is what sign prints.
type signResult struct {
	Keys   []string         `json:"keys"`
	Signed []signedManifest `json:"signed"`
}

// toSign is one manifest that sign signs.
type toSign struct {
	item, repository string
	subject          ocispec.Descriptor
}

func (f *signFlags) run(cmd *cobra.Command, ref string) error {
	ctx := cmd.Context()
	t, err := openTarget(ctx, ref, f.road.options())
	if err != nil {
		return err
	}
	defer t.src.Close() //nolint:errcheck // only read from
	subjects, err := f.subjects(t)
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
	res := signResult{Signed: []signedManifest{}}
	for _, s := range signers {
		res.Keys = append(res.Keys, s.KeyID())
	}
	var artifacts []sign.Artifact
	for _, s := range subjects {
		made, err := signers.Missing(ctx, t, s.subject, s.repository)
		if err != nil {
			return err
		}
		one := signedManifest{Subject: s.subject.Digest, Item: s.item, Added: []attached{}}
		for _, a := range made {
			one.Added = append(one.Added, attached{a.Manifest.Digest, a.Tag})
		}
		res.Signed = append(res.Signed, one)
		artifacts = append(artifacts, made...)
	}
	if err := t.attach(ctx, artifacts); err != nil {
		return err
	}
	if f.json {
		return cli.PrintJSON(cmd, res)
	}
	for _, s := range res.Signed {
		what := "signed"
		if len(s.Added) == 0 {
			what = "was signed before"
		}
		fmt.Fprintln(cmd.OutOrStdout(), strings.TrimSpace(fmt.Sprintf("%s  %s %s", s.Subject, what, s.Item)))
	}
	for _, id := range res.Keys {
		fmt.Fprintf(cmd.OutOrStdout(), "  by %s\n", id)
	}
	return nil
}

// subjects are what sign signs: the bundle, and its images if that is wanted.
func (f *signFlags) subjects(t *target) ([]toSign, error) {
	name := f.repository
	if name == "" {
		name = t.name
	}
	if name == "" {
		return nil, cli.Usagef("it is not a bundle and says no name of itself: give one with --repository")
	}
	all := []toSign{{repository: name, subject: t.root}}
	if !f.images {
		return all, nil
	}
	if t.bundle == nil {
		return nil, cli.Usagef("--images is for bundles: sign each image of its own")
	}
	sizes := make(map[digest.Digest]ocispec.Descriptor)
	for _, d := range t.bundle.Index.Manifests {
		sizes[d.Digest] = ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
	}
	for _, it := range t.bundle.Lock.Items {
		if it.Kind != bundle.KindImage {
			continue
		}
		all = append(all, toSign{it.Name, it.Repository, it.Descriptor})
		for _, p := range it.Platforms {
			if d, ok := sizes[p.Digest]; ok && p.Digest != it.Descriptor.Digest {
				all = append(all, toSign{it.Name, it.Repository, d})
			}
		}
	}
	return all, nil
}

// target is something that signatures and attestations are put beside. It is the evidence of what is there already: for
// an image in a bundle that is also what the bundle carries.
type target struct {
	src    media.Source
	ref    string
	opts   media.Options
	root   ocispec.Descriptor
	bundle *bundle.Bundle // nil when it is another index
	name   string         // of the bundle, or of the repository in a registry
}

func openTarget(ctx context.Context, ref string, o media.Options) (*target, error) {
	if fi, err := os.Stat(placeOf(ref)); err == nil && fi.Mode().IsRegular() {
		return nil, cli.Usagef("%s: nothing is put beside a bundle in a tar: unpack it with 'plimsoll copy %s FOLDER', and copy it back", ref, ref)
	}
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

func (t *target) load(ctx context.Context) error {
	var err error
	if t.root, err = t.src.Root(ctx); err != nil {
		return err
	}
	raw, err := bundle.ReadBlob(ctx, t.src, t.root, bundle.MaxManifest)
	if err != nil {
		return err
	}
	var index ocispec.Index
	if err := strictjson.Unmarshal(raw, &index); err != nil {
		return fmt.Errorf("%s: %w", t.root.Digest, err)
	}
	if index.ArtifactType == bundle.ArtifactTypeBundle {
		// Whoever signs says that it is whole, as far as its own documents say so.
		if t.bundle, err = bundle.Load(ctx, t.src, t.root); err != nil {
			return err
		}
		t.name = t.bundle.Lock.Name
		return nil
	}
	if at, ok := strings.CutPrefix(placeOf(t.ref), "oci://"); ok {
		t.name = at
	}
	return nil
}

// Open is of bundle.Fetcher.
func (t *target) Open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	return t.src.Open(ctx, desc)
}

// Referrers is of attest.Evidence.
func (t *target) Referrers(ctx context.Context, subject digest.Digest) ([]media.Referrer, error) {
	refs, err := t.src.Referrers(ctx, subject)
	if err != nil || t.bundle == nil {
		return refs, err
	}
	for _, it := range t.bundle.Lock.Items {
		if it.Kind != bundle.KindReferrer || it.Subject != subject || slices.ContainsFunc(refs, func(r media.Referrer) bool { return r.Digest == it.Descriptor.Digest }) {
			continue
		}
		ref := media.Referrer{Descriptor: it.Descriptor}
		if tag := attest.LegacyTag(subject); slices.Contains(it.Tags, tag) {
			// A newer one that is at the tag already has these signatures in it.
			if ref.Tag = tag; slices.ContainsFunc(refs, func(r media.Referrer) bool { return r.Tag == tag }) {
				continue
			}
		}
		refs = append(refs, ref)
	}
	return refs, nil
}

// checkRelease refuses to sign a release with a key that made attestations of it, and the other way round: see
// sign.CheckRoles. What it cannot read is none of its business.
func (t *target) checkRelease(ctx context.Context, signers sign.Signers) error {
	refs, err := t.src.Referrers(ctx, t.root.Digest)
	if err != nil {
		return err
	}
	for _, r := range refs[:min(len(refs), attest.MaxReferrers)] {
		kind, err := attest.PredicateHint(ctx, t.src, r.Descriptor)
		if err != nil || kind == "" || releaseStatement(kind) {
			continue
		}
		for _, s := range signers {
			st, err := attest.VerifyAttestation(ctx, t.src, r.Descriptor, keysOf(s))
			if err == nil && !releaseStatement(st.PredicateType) {
				return &cli.UsageError{Err: &sign.SameKeyError{KeyID: s.KeyID(), Roles: true}}
			}
		}
	}
	return nil
}

func (t *target) checkAttestation(ctx context.Context, signers sign.Signers) error {
	for _, s := range signers {
		_, err := attest.VerifyManifestSignatures(ctx, t.src, t.root, attest.Policy{ReleaseKeys: keysOf(s)})
		var denied *attest.DeniedError
		switch {
		case err == nil:
			return &cli.UsageError{Err: &sign.SameKeyError{KeyID: s.KeyID(), Roles: true}}
		case !errors.As(err, &denied):
			return err
		}
	}
	return nil
}

// ownStatements is how the predicate types of statements begin that have commands of their own.
const ownStatements = "https://plimsoll.dev/"

// releaseStatement reports whether a statement is one of those that release keys sign.
func releaseStatement(predicateType string) bool {
	return predicateType == attest.PredicateSign || strings.HasPrefix(predicateType, ownStatements)
}

// attach puts artifacts beside the target.
func (t *target) attach(ctx context.Context, artifacts []sign.Artifact) error {
	if len(artifacts) == 0 {
		return nil
	}
	place := placeOf(t.ref)
	if !strings.HasPrefix(place, "oci://") {
		place += ":" // the last part of a path may have a colon of its own
	}
	sink, err := media.OpenSink(ctx, place, t.opts)
	if err != nil {
		return err
	}
	var beside []media.Referrer
	for _, a := range artifacts {
		for _, b := range a.Blobs {
			if err := sink.Put(ctx, b.Descriptor, bytes.NewReader(b.Data)); err != nil {
				return errors.Join(err, sink.Close())
			}
		}
		beside = append(beside, media.Referrer{Descriptor: a.Manifest, Tag: a.Tag})
	}
	err = sink.Commit(ctx, t.root, "", beside)
	return errors.Join(err, sink.Close())
}

// placeOf is a reference without tag and digest: what is put beside something moves no tag of it.
func placeOf(ref string) string {
	if i := strings.LastIndexByte(ref, '@'); i >= 0 && digest.Digest(ref[i+1:]).Validate() == nil {
		ref = ref[:i]
	}
	if i := strings.LastIndexByte(ref, ':'); i > strings.LastIndexByte(ref, '/') {
		ref = ref[:i]
	}
	return ref
}
