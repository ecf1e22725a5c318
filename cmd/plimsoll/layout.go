package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/plimsoll/plimsoll/attest/layout"
	"github.com/plimsoll/plimsoll/cmd/internal/cli"
)

type layoutFlags struct {
	links, subject, at string
	keys, parameters   []string
	json               bool
}

func newPolicyLayout() *cobra.Command {
	var f layoutFlags
	cmd := &cobra.Command{
		Use:   "layout FILE --links DIR --key owner.pub --subject DIGEST",
		Short: "Verify an in-toto layout with the links of a build",
		Long: `layout verifies a supply chain layout of in-toto: every owner's key must have signed it, every step needs its
threshold of links by functionaries whom the layout names, materials and products must obey its rules, and the products of
the last step must contain the digest of --subject: of a bundle, or of an image in an OCI layout folder.

Nothing of a layout is run: one with inspections is refused, and so are sublayouts and certificates. Links are files
STEP.KEYID.link in a folder, KEYID being the first eight characters of the functionary's key id. A denial exits with 4.`,
		Example: `  plimsoll policy layout root.layout --links links/ --key owner.pub --subject sha256:9f86d081884c7d65…
  plimsoll policy layout root.layout --links links/ --key a.pub --key b.pub --param version=1.5.4 --subject sha256:9f86d08188…`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, args[0]) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.links, "links", "", "the folder with the links")
	flags.StringArrayVar(&f.keys, "key", nil, "public key of an owner; all of them must have signed (repeatable)")
	flags.StringVar(&f.subject, "subject", "", "digest that must be among the final products: sha256:…")
	flags.StringArrayVar(&f.parameters, "param", nil, "NAME=VALUE for {NAME} in the layout's rules (repeatable)")
	flags.StringVar(&f.at, "at", "", "measure the layout's expiry against this time (RFC 3339) and not against the clock")
	flags.BoolVar(&f.json, "json", false, "print the result as JSON")
	for _, name := range []string{"links", "key", "subject"} {
		cobra.CheckErr(cmd.MarkFlagRequired(name))
	}
	cobra.CheckErr(cmd.MarkFlagDirname("links"))
	return cmd
}

// explainLayout knows the errors of layouts.
func explainLayout(err error) (code int, hint string, ok bool) {
	var denied *layout.DeniedError
	var parameter *layout.ParameterError
	switch {
	case errors.As(err, &parameter):
		return cli.ExitUsage, "see 'plimsoll policy layout --help'", true
	case !errors.As(err, &denied):
		return 0, "", false
	}
	switch denied.Reason {
	case layout.HasInspections, layout.Sublayout, layout.Certificates:
		hint = "take them out of the layout and sign it again: commands of a layout are never run, and certificates need a clock"
	case layout.Expired:
		hint = "an owner must sign a layout with a later expiry"
	case layout.MissingParameter:
		hint = "give it with --param NAME=VALUE"
	case layout.MissingLink, layout.Threshold:
		hint = "the links of all functionaries belong into the folder of --links"
	case layout.WrongSubject:
		hint = "the links are of another build, or its last step did not record the bundle's folder as product"
	default:
		hint = "the layout's owners and the functionaries of the step can say what happened"
	}
	return cli.ExitDenied, hint, true
}

// layoutResult is what policy layout --json prints.
type layoutResult struct {
	Layout   digest.Digest `json:"layout"`
	Expires  time.Time     `json:"expires"`
	Subject  digest.Digest `json:"subject"`
	Products []string      `json:"products"` // that are the subject
	Steps    []layout.Step `json:"steps"`
}

func (f *layoutFlags) run(cmd *cobra.Command, file string) error {
	subject, err := digest.Parse(f.subject)
	if err != nil {
		return cli.Usagef("--subject %q: want a digest like sha256:9f86d081884c7d65…", f.subject)
	}
	o := layout.Options{Now: time.Now().UTC().Truncate(time.Second), Parameters: make(map[string]string)}
	if f.at != "" {
		if o.Now, err = time.Parse(time.RFC3339, f.at); err != nil {
			return cli.Usagef("--at %q: want a time like 2026-01-31T08:00:00Z", f.at)
		}
	}
	for _, p := range f.parameters {
		name, value, ok := strings.Cut(p, "=")
		if _, twice := o.Parameters[name]; !ok || twice {
			return cli.Usagef("--param %q: want NAME=VALUE, each name once", p)
		}
		o.Parameters[name] = value
	}
	if o.Owners, err = readKeys(f.keys); err != nil {
		return err
	}
	data, err := readLimited(file, layout.MaxLayout)
	if err != nil {
		return err
	}
	// A symbolic link in the folder does not lead out of it.
	links, err := os.OpenRoot(f.links)
	if err != nil {
		return err
	}
	defer links.Close() //nolint:errcheck // only read from
	v, err := layout.Verify(cmd.Context(), data, links.FS(), o)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	products, err := v.CheckSubject(subject)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	result := &layoutResult{Layout: v.Layout(), Expires: v.Expires(), Subject: subject, Products: products, Steps: v.Steps()}
	if f.json {
		return cli.PrintJSON(cmd, result)
	}
	result.print(cmd.OutOrStdout())
	return nil
}

func (r *layoutResult) print(w io.Writer) {
	fmt.Fprintf(w, "layout %s  expires %s\n", r.Layout, r.Expires.Format(time.RFC3339))
	for _, s := range r.Steps {
		fmt.Fprintf(w, "  step %s\n", s.Name)
		for i, l := range s.Links {
			fmt.Fprintf(w, "    by %.16s  %s\n", s.Signers[i], l.Digest)
			if l.OtherCommand {
				fmt.Fprintf(w, "    warning: its command is not the layout's: %s\n", oneLine(strings.Join(l.Command, " ")))
			}
		}
	}
	for _, name := range r.Products {
		fmt.Fprintf(w, "  product %s is %s\n", oneLine(name), r.Subject)
	}
}
