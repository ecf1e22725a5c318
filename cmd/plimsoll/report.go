package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/plimsoll/plimsoll/builder"
	"github.com/plimsoll/plimsoll/builder/closure"
	"github.com/plimsoll/plimsoll/builder/findings"
	"github.com/plimsoll/plimsoll/cmd/internal/cli"
	"github.com/plimsoll/plimsoll/internal/durable"
)

// reportFlags say how the outcome of a build is told.
type reportFlags struct {
	json, addMissing bool
	sarif            string
}

func (f *reportFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.BoolVar(&f.json, "json", false, "print the result as JSON, what is missing included")
	flags.BoolVar(&f.addMissing, "add-missing", false, "when something is missing, print what to add to bundle.yaml")
	flags.StringVar(&f.sarif, "sarif", "", "write what the completeness proof found to this file (SARIF 2.1.0)")
	cobra.CheckErr(cmd.MarkFlagFilename("sarif", "sarif", "json"))
}

// outcome is what --json prints.
type outcome struct {
	Name     string           `json:"name"`
	Version  string           `json:"version"`
	Output   string           `json:"output,omitempty"`
	Bundle   any              `json:"bundle,omitempty"` // descriptor of the index
	Items    int              `json:"items"`
	Bytes    int64            `json:"bytes"`
	Signed   bool             `json:"signed"`
	Complete bool             `json:"complete"` // proved to be
	Needs    int              `json:"needs"`    // that were found by rendering
	Gaps     []gap            `json:"gaps"`
	Secrets  []closure.Secret `json:"secrets"`
	Unused   []string         `json:"unusedAllowExternal"`
}

type gap struct {
	Kind       string          `json:"kind"`
	Ref        string          `json:"ref"`
	Chart      string          `json:"chart,omitempty"`
	Version    string          `json:"version,omitempty"`
	Places     []closure.Place `json:"places"`
	Suggestion string          `json:"suggestion"`
	Add        string          `json:"add,omitempty"`
}

// finish tells the outcome of a build in every way that was asked for, and gives the build's error back.
func (f *reportFlags) finish(cmd *cobra.Command, file, output string, o builder.Options, res *builder.Result, failure error) error {
	var incomplete *builder.IncompleteError
	verdict := (*closure.Verdict)(nil)
	switch {
	case res != nil:
		verdict = res.Verdict
	case errors.As(failure, &incomplete):
		verdict = incomplete.Verdict
	default:
		return failure
	}
	list := found(verdict, file)
	out := newOutcome(output, o, res, verdict)
	if err := f.writeFiles(o, res, verdict, out, list); err != nil {
		return errors.Join(failure, err)
	}
	if f.json {
		return errors.Join(failure, cli.PrintJSON(cmd, out))
	}
	if len(list) > 0 {
		if err := findings.Table(cmd.ErrOrStderr(), list); err != nil {
			return errors.Join(failure, err)
		}
	}
	if failure != nil {
		if f.addMissing {
			printAdditions(cmd.OutOrStdout(), verdict)
		}
		return failure
	}
	proof := "not proved to be complete"
	if verdict != nil {
		proof = fmt.Sprintf("complete: %d renderings need %d things, all are there", len(verdict.Closure.Renderings), len(verdict.Closure.Needs))
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n  bundle  %s\n  items   %d, %s\n  closure %s\n  output  %s\n", out.Name, out.Version,
		res.Root.Digest, out.Items, cli.Bytes(out.Bytes), proof, output)
	return nil
}

func newOutcome(output string, o builder.Options, res *builder.Result, v *closure.Verdict) outcome {
	out := outcome{
		Name: o.Spec.Metadata.Name, Version: o.Spec.Metadata.Version, Signed: len(o.Release) > 0,
		Gaps: []gap{}, Secrets: []closure.Secret{}, Unused: []string{},
	}
	if res != nil {
		out.Output, out.Bundle, out.Items, out.Bytes = output, res.Root, len(res.Lock.Items), res.Lock.Bytes
	}
	if v == nil {
		return out
	}
	out.Complete, out.Needs, out.Secrets = len(v.Gaps) == 0, len(v.Closure.Needs)+len(v.Gaps), append(out.Secrets, v.Secrets...)
	for _, g := range v.Gaps {
		out.Gaps = append(out.Gaps, gap{g.Kind, g.Ref, g.Chart, g.Version, g.Places, g.Suggestion, g.Add})
	}
	for _, e := range v.Unused {
		out.Unused = append(out.Unused, e.Ref)
	}
	return out
}

// found makes findings of a verdict: errors for gaps, warnings for secrets, notes for allowances that nothing needs.
func found(v *closure.Verdict, file string) []findings.Finding {
	if v == nil {
		return nil
	}
	var list []findings.Finding
	for _, g := range v.Gaps {
		noun := g.Kind
		if g.Kind == closure.KindGit {
			noun = "Git repository"
		}
		rule, message := "missing-"+g.Kind, "the site needs this "+noun+" and the bundle does not carry it"
		if g.Kind == closure.KindRendering {
			rule, message = "not-rendered", g.Reason
		}
		list = append(list, findings.Finding{
			Rule: rule, Level: findings.Error, Message: message, Ref: g.Display(), Places: g.Places, Suggestion: g.Suggestion,
		})
	}
	for _, s := range v.Secrets {
		list = append(list, findings.Finding{
			Rule: "secret", Level: findings.Warning, Message: s.What + " in a release that many can read", Ref: s.What,
			Places: []closure.Place{s.Place}, Suggestion: "keep it at the site, or encrypt it (SOPS, Sealed Secrets)",
		})
	}
	for _, e := range v.Unused {
		list = append(list, findings.Finding{
			Rule: "unused-allowance", Level: findings.Note, Message: "closure.allowExternal allows what nothing needs", Ref: e.Ref,
			Places: []closure.Place{{File: filepath.Base(file)}}, Suggestion: "remove it",
		})
	}
	return list
}

// writeFiles writes the SARIF file, and the summary where GitHub Actions shows it.
func (f *reportFlags) writeFiles(o builder.Options, res *builder.Result, v *closure.Verdict, out outcome, list []findings.Finding) error {
	if f.sarif != "" {
		var buf bytes.Buffer
		if err := findings.SARIF(&buf, version, list); err != nil {
			return err
		}
		if err := durable.WriteFile(f.sarif, buf.Bytes(), 0o644); err != nil {
			return err
		}
	}
	summary := os.Getenv("GITHUB_STEP_SUMMARY")
	if summary == "" {
		return nil
	}
	s := findings.Summary{Name: out.Name, Version: out.Version, Bytes: out.Bytes, Signed: out.Signed, Items: map[string]int{}}
	if res != nil {
		s.Digest = res.Root.Digest.String()
		for _, it := range res.Lock.Items {
			s.Items[string(it.Kind)]++
		}
	}
	if v != nil {
		s.Closure = counts(v)
	}
	file, err := os.OpenFile(summary, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	return errors.Join(findings.Markdown(file, "Plimsoll "+o.Spec.Metadata.Name+" "+o.Spec.Metadata.Version, s, list), file.Close())
}

func counts(v *closure.Verdict) *findings.Counts {
	c := &findings.Counts{Renderings: len(v.Closure.Renderings), References: len(v.Closure.Needs) + len(v.Gaps), Missing: len(v.Gaps)}
	for _, r := range v.Closure.Renderings {
		c.Objects += r.Objects
	}
	for _, n := range v.Closure.Needs {
		if n.Item != "" {
			c.Satisfied++
		} else {
			c.Allowed++
		}
	}
	return c
}

// printAdditions proposes what closes the gaps, as it stands in bundle.yaml.
func printAdditions(w io.Writer, v *closure.Verdict) {
	sections := make(map[string][]string)
	for _, g := range v.Gaps {
		if g.Add != "" && !slices.Contains(sections[g.Section], g.Add) {
			sections[g.Section] = append(sections[g.Section], g.Add)
		}
	}
	if len(sections) == 0 {
		return
	}
	fmt.Fprintln(w, "# add to bundle.yaml:\nspec:")
	for _, section := range []string{"images", "charts", "git"} {
		if len(sections[section]) == 0 {
			continue
		}
		fmt.Fprintf(w, "  %s:\n", section)
		for _, add := range sections[section] {
			fmt.Fprintf(w, "    %s\n", strings.ReplaceAll(add, "\n", "\n    "))
		}
	}
}
