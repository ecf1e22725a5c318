package main

import (
	"context"
	"crypto"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/bundle/media"
	"github.com/plimsoll/plimsoll/cmd/internal/cli"
	"github.com/plimsoll/plimsoll/internal/progress"
)

type verifyFlags struct {
	keys, attestKeys   []string
	metadataOnly, json bool
	road               roadFlags
	progress           cli.ProgressFlag
}

func newVerify() *cobra.Command {
	var f verifyFlags
	cmd := &cobra.Command{
		Use:   "verify BUNDLE --key release.pub",
		Short: "Check a bundle's signature, completeness and every byte",
		Long: `verify checks, in this order: that a release key signed the bundle; that index and lock agree and every
manifest is what its digest says; that every blob is there and undamaged; and, with --attestation-key, the SBOM and
provenance attestations. A bundle in a folder or tar is verified without any connection.`,
		Example: `  plimsoll verify robot-stack.tar --key release.pub
  plimsoll verify out/ --key release.pub --attestation-key attest.pub --json
  plimsoll verify oci://registry.example.com/releases/robot-stack:v1.5.4 --key release.pub --metadata-only`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, args[0]) },
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&f.keys, "key", nil, "public release key; one of several must have signed (repeatable)")
	flags.StringArrayVar(&f.attestKeys, "attestation-key", nil, "public attestation key: check the attestations too (repeatable)")
	flags.BoolVar(&f.metadataOnly, "metadata-only", false, "check signature, index, lock and manifests, but do not read the layers")
	flags.BoolVar(&f.json, "json", false, "print the result as JSON")
	f.road.register(cmd)
	f.progress.Register(cmd)
	cobra.CheckErr(cmd.MarkFlagRequired("key"))
	return cmd
}

// verdict is what verify found, as --json prints it.
type verdict struct {
	Name         string             `json:"name"`
	Version      string             `json:"version"`
	Bundle       digest.Digest      `json:"bundle"`
	Signatures   []attest.Signature `json:"signatures"`
	Attestations []attestation      `json:"attestations"`
	Blobs        int                `json:"blobs"`
	Bytes        int64              `json:"bytes"`
	AllBytes     bool               `json:"allBytes"` // false with --metadata-only
}

type attestation struct {
	PredicateType string        `json:"predicateType"`
	Subject       digest.Digest `json:"subject"`
	Item          string        `json:"item,omitempty"`
	KeyID         string        `json:"keyid"`
}

func (f *verifyFlags) run(cmd *cobra.Command, ref string) error {
	ctx := cmd.Context()
	release, err := readKeys(f.keys)
	if err != nil {
		return err
	}
	attesters, err := readKeys(f.attestKeys)
	if err != nil {
		return err
	}
	p, err := f.progress.Open()
	if err != nil {
		return err
	}
	v, err := f.open(ctx, ref, attest.Policy{ReleaseKeys: release}, attesters, p.Func)
	p.Close()
	if err != nil {
		return err
	}
	if f.json {
		return cli.PrintJSON(cmd, v)
	}
	v.print(cmd.OutOrStdout())
	return nil
}

func (f *verifyFlags) open(ctx context.Context, ref string, policy attest.Policy, attesters []crypto.PublicKey, p progress.Func) (*verdict, error) {
	o := f.road.options()
	o.Progress = p
	src, err := media.OpenSource(ctx, ref, o)
	if err != nil {
		return nil, err
	}
	defer src.Close() //nolint:errcheck // only read from
	return f.verify(ctx, src, policy, attesters, p)
}

func (f *verifyFlags) verify(ctx context.Context, src media.Source, policy attest.Policy, attesters []crypto.PublicKey, p progress.Func) (*verdict, error) {
	root, err := src.Root(ctx)
	if err != nil {
		return nil, err
	}
	verified, err := attest.VerifyRelease(ctx, src, root, policy)
	if err != nil {
		return nil, err
	}
	b, err := bundle.Load(ctx, src, verified.Root())
	if err != nil {
		return nil, err
	}
	v := &verdict{
		Name: b.Lock.Name, Version: b.Lock.Version, Bundle: b.Root.Digest, Signatures: verified.Signatures(),
		Attestations: []attestation{}, AllBytes: !f.metadataOnly,
	}
	if v.Blobs, v.Bytes, err = media.Check(ctx, src, b, media.CheckOptions{MetadataOnly: f.metadataOnly, Progress: p}); err != nil {
		return nil, err
	}
	if len(attesters) > 0 {
		err = v.checkAttestations(ctx, src, b, attesters)
	}
	return v, err
}

// checkAttestations checks each attestation that says it is one: those in the bundle and those beside it. What does not
// verify with the given keys is an error, so that nobody takes the rest for all.
func (v *verdict) checkAttestations(ctx context.Context, src media.Source, b *bundle.Bundle, keys []crypto.PublicKey) error {
	check := func(item string, subject digest.Digest, manifest media.Referrer) error {
		kind, err := attest.PredicateHint(ctx, src, manifest.Descriptor)
		if err != nil || kind == "" || kind == attest.PredicateSign {
			return err
		}
		st, err := attest.VerifyAttestation(ctx, src, manifest.Descriptor, keys)
		if err != nil {
			return err
		}
		v.Attestations = append(v.Attestations, attestation{PredicateType: st.PredicateType, Subject: subject, Item: item, KeyID: st.KeyID})
		return nil
	}
	beside, err := src.Referrers(ctx, b.Root.Digest)
	if err != nil {
		return err
	}
	for _, r := range beside {
		if r.Tag != "" {
			continue
		}
		if err := check("", b.Root.Digest, r); err != nil {
			return err
		}
	}
	for _, it := range b.Lock.Items {
		if it.Kind != bundle.KindReferrer || len(it.Tags) > 0 {
			continue
		}
		if err := check(it.Name, it.Subject, media.Referrer{Descriptor: it.Descriptor}); err != nil {
			return fmt.Errorf("item %s: %w", it.Name, err)
		}
	}
	return nil
}

func (v *verdict) print(w io.Writer) {
	fmt.Fprintf(w, "%s %s  %s\n", v.Name, v.Version, v.Bundle)
	for _, s := range v.Signatures {
		fmt.Fprintf(w, "  signed by %s (%s)\n", s.KeyID, s.Form)
	}
	for _, a := range v.Attestations {
		fmt.Fprintf(w, "  attested  %s for %s\n", a.PredicateType, a.Subject)
	}
	if v.AllBytes {
		fmt.Fprintf(w, "  whole and undamaged: %d blobs, %s\n", v.Blobs, cli.Bytes(v.Bytes))
	} else {
		fmt.Fprintf(w, "  metadata is whole; %d blobs, %s were not read\n", v.Blobs, cli.Bytes(v.Bytes))
	}
}

func readKeys(files []string) ([]crypto.PublicKey, error) {
	var all []crypto.PublicKey
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		keys, err := attest.ParsePublicKeys(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		all = append(all, keys...)
	}
	return all, nil
}
