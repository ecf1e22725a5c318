package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/attest/policy"
	"github.com/plimsoll/plimsoll/attest/policy/rego"
	"github.com/plimsoll/plimsoll/builder/findings"
	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/bundle/media"
	"github.com/plimsoll/plimsoll/cmd/internal/cli"
	"github.com/plimsoll/plimsoll/internal/durable"
)

func newPolicy() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Rules about what may run, over signed evidence",
		Long: `A policy is a file of rules in CEL, about what attestation keys signed of a bundle and its images: SBOMs, provenance,
vulnerability scans, test results. docs/policy.md describes the file and the facts. The builder evaluates it before a
release, the relay before an activation.`,
		Args: cobra.NoArgs,
	}
	cmd.AddCommand(newPolicyCheck(), newPolicyTest(), newPolicyLint(), newPolicyShow(), newPolicyLayout())
	return cmd
}

// policyDenied says that a bundle was denied.
type policyDenied struct{ bundle, why string }

func (e *policyDenied) Error() string {
	return fmt.Sprintf("%s: denied by policy: %s", e.bundle, e.why)
}

// fixtureError says that a policy does not decide as its tests want.
type fixtureError struct{ failed, all int }

func (e *fixtureError) Error() string {
	return fmt.Sprintf("%d of %d policy tests went wrong", e.failed, e.all)
}

// explainPolicy knows the errors of policies.
func explainPolicy(err error) (code int, hint string, ok bool) {
	var (
		denied   *policyDenied
		fixtures *fixtureError
		list     policy.ErrorList
		profile  *policy.UnknownProfileError
		both     *policy.KeyError
		module   *rego.Error
	)
	switch {
	case errors.As(err, &denied):
		return cli.ExitDenied, "the lines above say which evidence; 'plimsoll attest' adds what is missing, signed with an attestation key", true
	case errors.As(err, &fixtures):
		return cli.ExitDenied, "correct the rules, or the fixtures' expect", true
	case errors.As(err, &list), errors.As(err, &profile), errors.As(err, &module):
		return cli.ExitUsage, "docs/policy.md describes policies and the facts that they see", true
	case errors.As(err, &both):
		return cli.ExitUsage, "releases and attestations need keys of their own", true
	}
	return explainLayout(err)
}

type policyFlags struct {
	policies, modules, keys, attestKeys []string
	at, channel, site, sarif, facts     string
	json                                bool
	road                                roadFlags
}

func newPolicyCheck() *cobra.Command {
	var f policyFlags
	cmd := &cobra.Command{
		Use:   "check BUNDLE --policy FILE|PROFILE --attestation-key attest.pub",
		Short: "Say whether a policy allows a bundle, and why not",
		Long: `check verifies the statements that travel in a bundle and beside it, and evaluates policies over them. Only what an
attestation key signed is evidence. With --key it is known, too, who signed the release. A denial exits with 4 and says for
each rule which image lacks what: missing, wrong signer, wrong subject, malformed, stale.`,
		Example: `  plimsoll policy check robot-stack.tar --policy sbom-required --attestation-key attest.pub
  plimsoll policy check out/ --policy fleet.yaml --key release.pub --attestation-key attest.pub --sarif policy.sarif
  plimsoll policy check out/ --rego site.rego --attestation-key attest.pub --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, args[0]) },
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&f.policies, "policy", nil, "policy file, or the name of a built-in profile (repeatable)")
	flags.StringArrayVar(&f.modules, "rego", nil, "Rego file; all of them are one policy, whose data.plimsoll.deny must be empty (repeatable)")
	flags.StringArrayVar(&f.keys, "key", nil, "public release key; one of several must have signed (repeatable)")
	flags.StringArrayVar(&f.attestKeys, "attestation-key", nil, "public key whose attestations count (repeatable)")
	flags.StringVar(&f.at, "at", "", "measure ages against this time (RFC 3339) and not against the clock")
	flags.StringVar(&f.channel, "channel", "", "the channel that rules see")
	flags.StringVar(&f.site, "site", "", "the site that rules see")
	flags.StringVar(&f.facts, "facts", "", "write the facts to this file (JSON), to make a fixture of")
	flags.StringVar(&f.sarif, "sarif", "", "write what was denied to this file (SARIF 2.1.0)")
	flags.BoolVar(&f.json, "json", false, "print the decision as JSON")
	f.road.register(cmd)
	cobra.CheckErr(cmd.MarkFlagRequired("attestation-key"))
	cmd.MarkFlagsOneRequired("policy", "rego")
	return cmd
}

// policyVerdict is what policy check --json prints.
type policyVerdict struct {
	Name      string             `json:"name"`
	Version   string             `json:"version"`
	Bundle    digest.Digest      `json:"bundle"`
	At        time.Time          `json:"at"`
	Allowed   bool               `json:"allowed"`
	Decisions []*policy.Decision `json:"decisions"`
	Rego      *regoVerdict       `json:"rego,omitempty"`
}

type regoVerdict struct {
	Digest digest.Digest `json:"digest"`
	Deny   []string      `json:"deny"`
	Error  string        `json:"error,omitempty"`
}

func (f *policyFlags) run(cmd *cobra.Command, ref string) error {
	ctx := cmd.Context()
	now := time.Now().UTC().Truncate(time.Second)
	if f.at != "" {
		var err error
		if now, err = time.Parse(time.RFC3339, f.at); err != nil {
			return cli.Usagef("--at %q: want a time like 2026-01-31T08:00:00Z", f.at)
		}
	}
	policies, module, err := f.load(ctx)
	if err != nil {
		return err
	}
	facts, root, err := f.gather(ctx, ref, now)
	if err != nil {
		return err
	}
	if f.facts != "" {
		data, err := json.MarshalIndent(facts, "", "  ")
		if err != nil {
			return err
		}
		if err := durable.WriteFile(f.facts, append(data, '\n'), 0o644); err != nil {
			return err
		}
	}
	v := &policyVerdict{Name: facts.Release.Name, Version: facts.Release.Version, Bundle: root, At: facts.Now, Allowed: true,
		Decisions: []*policy.Decision{}}
	if err := v.decide(ctx, policies, module, facts); err != nil {
		return err
	}
	if f.sarif != "" {
		if err := v.writeSARIF(f.sarif); err != nil {
			return err
		}
	}
	if f.json {
		err = cli.PrintJSON(cmd, v)
	} else {
		v.print(cmd.OutOrStdout())
	}
	if err == nil && !v.Allowed {
		err = &policyDenied{bundle: v.Name + " " + v.Version, why: v.why()}
	}
	return err
}

func (f *policyFlags) load(ctx context.Context) ([]*policy.Policy, *rego.Policy, error) {
	var policies []*policy.Policy
	for _, name := range f.policies {
		p, err := openPolicy(name)
		if err != nil {
			return nil, nil, err
		}
		policies = append(policies, p)
	}
	if len(f.modules) == 0 {
		return policies, nil, nil
	}
	var modules []rego.Module
	for _, name := range f.modules {
		data, err := readLimited(name, rego.MaxFile)
		if err != nil {
			return nil, nil, err
		}
		modules = append(modules, rego.Module{Name: name, Data: data})
	}
	module, err := rego.Parse(ctx, modules...)
	return policies, module, err
}

// openPolicy reads a policy file, or gives the profile of that name. What has a dot or a slash in it is a file.
func openPolicy(name string) (*policy.Policy, error) {
	if !strings.ContainsAny(name, "./\\") {
		return policy.Profile(name)
	}
	data, err := readLimited(name, policy.MaxFile)
	if err != nil {
		return nil, err
	}
	return policy.Parse(name, data)
}

// readLimited reads a file of at most limit bytes; of a larger one it gives one more, which parsers refuse.
func readLimited(name string, limit int64) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close() //nolint:errcheck // only read from
	return io.ReadAll(io.LimitReader(file, limit+1))
}

func (f *policyFlags) gather(ctx context.Context, ref string, now time.Time) (*policy.Facts, digest.Digest, error) {
	var keys policy.Keys
	var err error
	if keys.Release, err = readKeys(f.keys); err != nil {
		return nil, "", err
	}
	if keys.Attestation, err = readKeys(f.attestKeys); err != nil {
		return nil, "", err
	}
	src, err := media.OpenSource(ctx, ref, f.road.options())
	if err != nil {
		return nil, "", err
	}
	defer src.Close() //nolint:errcheck // only read from
	root, err := src.Root(ctx)
	if err != nil {
		return nil, "", err
	}
	var signers []string
	if len(keys.Release) > 0 {
		verified, err := attest.VerifyRelease(ctx, src, root, attest.Policy{ReleaseKeys: keys.Release})
		if err != nil {
			return nil, "", err
		}
		for _, s := range verified.Signatures() {
			if !slices.Contains(signers, s.KeyID) {
				signers = append(signers, s.KeyID)
			}
		}
		slices.Sort(signers)
	}
	b, err := bundle.Load(ctx, src, root)
	if err != nil {
		return nil, "", err
	}
	facts, err := policy.Gather(ctx, src, b, keys, now)
	if err != nil {
		return nil, "", err
	}
	facts.Release.Signers, facts.Release.Channel, facts.Release.Site = signers, f.channel, f.site
	return facts, b.Root.Digest, nil
}

func (v *policyVerdict) decide(ctx context.Context, policies []*policy.Policy, module *rego.Policy, facts *policy.Facts) error {
	for _, p := range policies {
		d, err := p.Decide(ctx, facts)
		if err != nil {
			return err
		}
		v.Allowed = v.Allowed && d.Allowed
		v.Decisions = append(v.Decisions, d)
	}
	if module == nil {
		return nil
	}
	v.Rego = &regoVerdict{Digest: module.Digest, Deny: []string{}}
	deny, err := module.Decide(ctx, facts)
	var bad *rego.Error
	switch {
	case errors.As(err, &bad): // a policy that cannot be evaluated denies
		v.Rego.Error = bad.Error()
	case err != nil:
		return err
	default:
		v.Rego.Deny = deny
	}
	v.Allowed = v.Allowed && v.Rego.Error == "" && len(v.Rego.Deny) == 0
	return nil
}

// why names the rules that did not pass.
func (v *policyVerdict) why() string {
	var rules []string
	for _, d := range v.Decisions {
		for _, r := range d.Rules {
			if r.Outcome != policy.Passed {
				rules = append(rules, d.Policy+": "+r.Rule)
			}
		}
	}
	if v.Rego != nil && (v.Rego.Error != "" || len(v.Rego.Deny) > 0) {
		rules = append(rules, "Rego")
	}
	return strings.Join(rules, ", ")
}

func (v *policyVerdict) print(w io.Writer) {
	fmt.Fprintf(w, "%s %s  %s\n", v.Name, v.Version, v.Bundle)
	for _, d := range v.Decisions {
		printDecision(w, d, "  ")
	}
	if v.Rego == nil {
		return
	}
	fmt.Fprintf(w, "  Rego  %s\n", v.Rego.Digest)
	if v.Rego.Error != "" {
		fmt.Fprintf(w, "    error   %s\n", oneLine(v.Rego.Error))
	}
	for _, m := range v.Rego.Deny {
		fmt.Fprintf(w, "    denied  %s\n", oneLine(m))
	}
}

// oneLine shows a text of a stranger.
func oneLine(s string) string { return strings.Trim(fmt.Sprintf("%+q", s), `"`) }

func printDecision(w io.Writer, d *policy.Decision, indent string) {
	fmt.Fprintf(w, "%spolicy %s  %s\n", indent, d.Policy, d.Digest)
	for _, r := range d.Rules {
		fmt.Fprintf(w, "%s  %-7s %s\n", indent, r.Outcome, r.Rule)
		if r.Outcome == policy.Passed {
			continue
		}
		fmt.Fprintf(w, "%s          %s\n", indent, r.Message)
		if r.Error != "" {
			fmt.Fprintf(w, "%s          %s\n", indent, r.Error)
		}
		for _, c := range r.Causes {
			fmt.Fprintf(w, "%s          - %s\n", indent, c)
		}
		if r.More > 0 {
			fmt.Fprintf(w, "%s          - and %d more\n", indent, r.More)
		}
		for _, line := range r.Explain {
			fmt.Fprintf(w, "%s          %s\n", indent, line)
		}
	}
}

// writeSARIF writes each subject that a rule denied as a finding.
func (v *policyVerdict) writeSARIF(path string) error {
	var all []findings.Finding
	for _, d := range v.Decisions {
		for _, r := range d.Rules {
			if r.Outcome == policy.Passed {
				continue
			}
			rule := "policy/" + d.Policy + "/" + r.Rule
			for _, c := range r.Causes {
				all = append(all, findings.Finding{Rule: rule, Level: findings.Error, Ref: c.Subject, Message: r.Message + ": " + c.String()})
			}
			if len(r.Causes) == 0 || r.More > 0 {
				text := r.Message
				if r.Error != "" {
					text += ": " + r.Error
				}
				all = append(all, findings.Finding{Rule: rule, Level: findings.Error, Message: text})
			}
		}
	}
	if v.Rego != nil {
		for _, m := range append(slices.Clone(v.Rego.Deny), v.Rego.Error) {
			if m != "" {
				all = append(all, findings.Finding{Rule: "policy/rego", Level: findings.Error, Message: m})
			}
		}
	}
	var b strings.Builder
	if err := findings.SARIF(&b, version, all); err != nil {
		return err
	}
	return durable.WriteFile(path, []byte(b.String()), 0o644)
}

func newPolicyTest() *cobra.Command {
	var dir string
	var verbose bool
	cmd := &cobra.Command{
		Use:   "test FILE... [--fixtures DIR]",
		Short: "Test policies with made-up facts",
		Long: `test evaluates each policy over fixtures: YAML or JSON files with facts, and with what the policy must decide of them.
Without --fixtures they are in the folder NAME_test beside NAME.yaml. It prints like 'go test' and exits with 4 when a
policy decides otherwise. 'policy check --facts' writes the facts of a real bundle.`,
		Example: `  plimsoll policy test fleet.yaml
  plimsoll policy test fleet.yaml site.yaml --fixtures fixtures/ -v`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			failed, all := 0, 0
			for _, name := range args {
				from := dir
				if from == "" {
					from = strings.TrimSuffix(name, filepath.Ext(name)) + "_test"
				}
				f, n, err := testPolicy(cmd.Context(), cmd.OutOrStdout(), name, from, verbose)
				if err != nil {
					return err
				}
				failed, all = failed+f, all+n
			}
			if failed > 0 {
				return &fixtureError{failed: failed, all: all}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "fixtures", "", "the folder with the fixtures")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "show every test and what was decided")
	return cmd
}

func testPolicy(ctx context.Context, w io.Writer, name, dir string, verbose bool) (failed, all int, err error) {
	p, err := openPolicy(name)
	if err != nil {
		return 0, 0, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, 0, err
	}
	for _, e := range entries {
		if !slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(e.Name())) || e.IsDir() {
			continue
		}
		path := filepath.Join(dir, e.Name())
		data, err := readLimited(path, policy.MaxFixture)
		if err != nil {
			return 0, 0, err
		}
		fixture, err := policy.ParseFixture(path, data)
		if err != nil {
			return 0, 0, &cli.UsageError{Err: err}
		}
		differences, d, err := fixture.Run(ctx, p)
		if err != nil {
			return 0, 0, err
		}
		verdict := "PASS"
		if all++; len(differences) > 0 {
			failed++
			verdict = "FAIL"
		}
		if verbose || len(differences) > 0 {
			fmt.Fprintf(w, "--- %s: %s/%s\n", verdict, p.Name, strings.TrimSuffix(e.Name(), filepath.Ext(e.Name())))
			for _, line := range differences {
				fmt.Fprintf(w, "    %s: %s\n", path, line)
			}
			printDecision(w, d, "    ")
		}
	}
	switch {
	case all == 0:
		// A test that tests nothing must not look like one that passes.
		return 0, 0, cli.Usagef("%s: no fixtures in %s", name, dir)
	case failed > 0:
		fmt.Fprintf(w, "FAIL\t%s\t%d of %d fixtures\n", name, failed, all)
	default:
		fmt.Fprintf(w, "ok  \t%s\t%d fixtures\n", name, all)
	}
	return failed, all, nil
}

func newPolicyLint() *cobra.Command {
	return &cobra.Command{
		Use:   "lint FILE...",
		Short: "Check policy files without evaluating them",
		Long: `lint reads policy files and compiles their rules: unknown fields, misspelt facts and wrong types are errors with line and
column. Files that end in .rego are compiled as one Rego policy.`,
		Example: `  plimsoll policy lint fleet.yaml`,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var errs []error
			var modules []rego.Module
			for _, name := range args {
				if filepath.Ext(name) == ".rego" {
					data, err := readLimited(name, rego.MaxFile)
					if err != nil {
						return err
					}
					modules = append(modules, rego.Module{Name: name, Data: data})
					continue
				}
				p, err := openPolicy(name)
				if err != nil {
					errs = append(errs, err)
					continue
				}
				fmt.Fprintf(cmd.OutOrStdout(), "ok  \t%s\t%d rules\t%s\n", name, len(p.Rules()), p.Digest)
			}
			if len(modules) > 0 {
				p, err := rego.Parse(cmd.Context(), modules...)
				if err != nil {
					errs = append(errs, err)
				} else {
					fmt.Fprintf(cmd.OutOrStdout(), "ok  \tRego\t%d files\t%s\n", len(modules), p.Digest)
				}
			}
			return errors.Join(errs...)
		},
	}
}

func newPolicyShow() *cobra.Command {
	return &cobra.Command{
		Use:     "show [PROFILE]",
		Short:   "Print a built-in profile, or list them",
		Long:    `show prints the policy file of a built-in profile, to read, to copy and to change. Without a name it lists the profiles.`,
		Example: `  plimsoll policy show vuln-fresh`,
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			w := cmd.OutOrStdout()
			if len(args) == 1 {
				data, ok := policy.ProfileSource(args[0])
				if !ok {
					return &policy.UnknownProfileError{Name: args[0]}
				}
				_, err := w.Write(data)
				return err
			}
			for _, name := range policy.Profiles() {
				p, err := policy.Profile(name)
				if err != nil {
					return err
				}
				fmt.Fprintf(w, "%-14s %s\n", name, p.Description)
			}
			return nil
		},
	}
}
