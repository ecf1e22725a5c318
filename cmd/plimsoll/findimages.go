package main

import (
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/plimsoll/plimsoll/builder/closure"
	"github.com/plimsoll/plimsoll/cmd/internal/cli"
)

type findFlags struct {
	json, all           bool
	charts, values      []string
	imageFields, ignore []string
	kubeVersion         string
	renderer, tmpdir    string
}

func newFindImages() *cobra.Command {
	var f findFlags
	cmd := &cobra.Command{
		Use:   "find-images PATH",
		Short: "Show the images, charts and repositories that a folder needs",
		Long: `find-images renders what is in a folder (Helm charts, kustomizations, manifests, Argo CD and Flux objects) as
'plimsoll build' does for its completeness proof, and prints what comes out, with the file and line where it stands.
Nothing is fetched. Objects that need another repository or chart are reported as what they need.`,
		Example: `  plimsoll find-images robot-deployment/
  plimsoll find-images robot-deployment/ --chart charts/robot-app --values 'robot-values/*.yaml' --all
  plimsoll find-images robot-deployment/ --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, args[0]) },
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&f.charts, "chart", nil, "folder of a chart in PATH to render with --values (default: with its own)")
	flags.StringArrayVar(&f.values, "values", nil, "values file in PATH, stacked; one with * makes one rendering for each match (repeatable)")
	flags.StringArrayVar(&f.imageFields, "image-field", nil, "field of custom resources that names images: Robot.spec.runtime.image (repeatable)")
	flags.StringArrayVar(&f.ignore, "ignore", nil, "paths that the site never renders; ** stands for any folders (repeatable)")
	flags.StringVar(&f.kubeVersion, "kube-version", "", "the Kubernetes version of the site's clusters")
	flags.BoolVar(&f.all, "all", false, "print every place, not only the first")
	flags.StringVar(&f.renderer, "renderer", "", "the plimsoll-render executable (default: beside plimsoll, then in PATH)")
	flags.StringVar(&f.tmpdir, "tmpdir", "", "folder for scratch files (default: the system's)")
	flags.BoolVar(&f.json, "json", false, "print everything as JSON")
	return cmd
}

func (f *findFlags) run(cmd *cobra.Command, dir string) error {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	info, err := os.Stat(abs)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return cli.Usagef("%s is not a folder", dir)
	}
	if len(f.values) > 0 && len(f.charts) == 0 {
		return cli.Usagef("--values without --chart: want the chart that they belong to")
	}
	render, err := renderer(f.renderer, f.tmpdir, "")
	if err != nil {
		return err
	}
	r := closure.Repository{Item: filepath.Base(abs), URLs: []string{}, Dir: abs}
	for _, chart := range f.charts {
		r.Renders = append(r.Renders, closure.Render{Chart: path.Clean(chart), Values: f.values})
	}
	answer, err := render(cmd.Context(), closure.Request{
		Repositories: []closure.Repository{r}, ImageFields: f.imageFields, Ignore: f.ignore, KubeVersion: f.kubeVersion,
	})
	if err != nil {
		return err
	}
	if f.json {
		return cli.PrintJSON(cmd, answer)
	}
	for _, p := range answer.Problems {
		fmt.Fprintf(cmd.ErrOrStderr(), "not rendered: %s: %s\n", at(p.Place), p.Reason)
	}
	return f.print(cmd.OutOrStdout(), answer)
}

func (f *findFlags) print(w io.Writer, answer *closure.Answer) error {
	tw := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintf(tw, "KIND\tREFERENCE\tWHERE\tOBJECT\n")
	last := ""
	for _, r := range answer.References {
		name := closure.Gap{Kind: r.Kind, Ref: r.Ref, Chart: r.Chart, Version: r.Version}.Display()
		if r.Kind+name == last && !f.all {
			continue
		}
		last = r.Kind + name
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", r.Kind, name, at(r.Place), r.Place.Object)
	}
	return tw.Flush()
}

// at is a place as editors jump to.
func at(p closure.Place) string {
	if p.Line > 0 {
		return fmt.Sprintf("%s:%d", p.File, p.Line)
	}
	return p.File
}
