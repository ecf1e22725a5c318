package main

import (
	"context"
	"crypto"
	"encoding/json"
	"fmt"
	"net/url"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/attest/sign"
	"github.com/plimsoll/plimsoll/cmd/internal/cli"
	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// maxPredicate bounds a predicate's file, in bytes: in a Sigstore bundle it takes a third more.
const maxPredicate = attest.MaxAttestation / 4 * 3

type attestFlags struct {
	keys            []string
	predicate, kind string
	json            bool
	road            roadFlags
}

func newAttest() *cobra.Command {
	var f attestFlags
	cmd := &cobra.Command{
		Use:   "attest BUNDLE --predicate FILE --type URI --key attest.key",
		Short: "Sign a statement about a bundle: test results, a review, a scan",
		Long: `attest signs an in-toto statement about a bundle, or another image index, and puts it beside it as OCI referrer, where
'plimsoll verify --attestation-key' and 'cosign verify-attestation' find it. It travels with the bundle. The predicate is
a JSON object in a file, of any type; what it means is agreed between those who sign and those who read it.

Attestations have keys of their own: for cosign any attestation by a key is a signature by it. A key that signed the
bundle is refused. The statements by which releases are made, approved and revoked have commands of their own.

The place is a folder or a registry. A tar is not changed: unpack it with 'plimsoll copy'.

` + keyHelp,
		Example: `  plimsoll attest out/ --predicate tests.json --type https://in-toto.io/attestation/test-result/v0.1 --key attest.key
  plimsoll attest oci://registry.example.com/releases/robot-stack:v1.5.4 --predicate scan.json \
    --type https://cosign.sigstore.dev/attestation/vuln/v1 --key env://ATTEST_KEY`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, args[0]) },
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&f.keys, "key", nil, "attestation KEY that signs (repeatable)")
	flags.StringVar(&f.predicate, "predicate", "", "FILE with the predicate, a JSON object")
	flags.StringVar(&f.kind, "type", "", "predicate type, a URI")
	flags.BoolVar(&f.json, "json", false, "print the result as JSON")
	f.road.register(cmd)
	for _, name := range []string{"key", "predicate", "type"} {
		cobra.CheckErr(cmd.MarkFlagRequired(name))
	}
	cobra.CheckErr(cmd.MarkFlagFilename("predicate", "json"))
	return cmd
}

// attestResult is what attest prints.
type attestResult struct {
	Subject       digest.Digest   `json:"subject"`
	PredicateType string          `json:"predicateType"`
	Attestations  []madeStatement `json:"attestations"`
}

type madeStatement struct {
	KeyID    string        `json:"keyid"`
	Manifest digest.Digest `json:"manifest"`
}

func (f *attestFlags) run(cmd *cobra.Command, ref string) error {
	ctx := cmd.Context()
	predicate, err := f.statement()
	if err != nil {
		return err
	}
	t, err := openTarget(ctx, ref, f.road.options())
	if err != nil {
		return err
	}
	defer t.src.Close() //nolint:errcheck // only read from
	signers, err := openSigners(ctx, f.keys)
	if err != nil {
		return err
	}
	if err := t.checkAttestation(ctx, signers); err != nil {
		return err
	}
	res, err := f.attest(ctx, t, signers, predicate)
	if err != nil {
		return err
	}
	if f.json {
		return cli.PrintJSON(cmd, res)
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s  attested %s\n", res.Subject, res.PredicateType)
	for _, a := range res.Attestations {
		fmt.Fprintf(cmd.OutOrStdout(), "  by %s\n", a.KeyID)
	}
	return nil
}

func (f *attestFlags) attest(ctx context.Context, t *target, signers sign.Signers, predicate json.RawMessage) (*attestResult, error) {
	st := attest.Statement{PredicateType: f.kind, Predicate: predicate, Subjects: []attest.Subject{
		{Name: t.name, Digest: map[string]string{t.root.Digest.Algorithm().String(): t.root.Digest.Encoded()}},
	}}
	res := &attestResult{Subject: t.root.Digest, PredicateType: f.kind}
	var artifacts []sign.Artifact
	for _, s := range signers {
		a, err := s.Attest(st, t.root)
		if err != nil {
			return nil, err
		}
		artifacts = append(artifacts, a)
		res.Attestations = append(res.Attestations, madeStatement{s.KeyID(), a.Manifest.Digest})
	}
	return res, t.attach(ctx, artifacts)
}

// statement reads the predicate, and refuses what would be a mistake: nothing may look like a release by accident.
func (f *attestFlags) statement() (json.RawMessage, error) {
	u, err := url.Parse(f.kind)
	switch {
	case err != nil || !u.IsAbs():
		return nil, cli.Usagef("--type %q: want a URI, such as https://in-toto.io/attestation/test-result/v0.1", f.kind)
	case f.kind == attest.PredicateSign:
		return nil, cli.Usagef("--type %s is a signature: use 'plimsoll sign'", f.kind)
	case releaseStatement(f.kind):
		return nil, cli.Usagef("--type %s: statements of Plimsoll's own are made by the commands for them", f.kind)
	}
	data, err := readBounded(f.predicate, maxPredicate)
	if err != nil {
		return nil, err
	}
	if err := strictjson.Check(data); err != nil {
		return nil, &cli.UsageError{Err: fmt.Errorf("%s: %w", f.predicate, err)}
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(data, &fields); err != nil || fields == nil {
		return nil, cli.Usagef("%s: a predicate is a JSON object", f.predicate)
	}
	if fields["_type"] != nil && fields["predicateType"] != nil {
		return nil, cli.Usagef("%s: this is a whole statement; give its predicate alone", f.predicate)
	}
	return data, nil
}

func keysOf(signers ...*sign.Signer) []crypto.PublicKey {
	keys := make([]crypto.PublicKey, len(signers))
	for i, s := range signers {
		keys[i] = s.Public()
	}
	return keys
}
