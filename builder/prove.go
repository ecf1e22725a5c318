package builder

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/plimsoll/plimsoll/builder/chartpack"
	"github.com/plimsoll/plimsoll/builder/closure"
	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/gitcmd"
	"github.com/plimsoll/plimsoll/internal/progress"
)

// prove renders what the site will render and compares what comes out with what the bundle will carry.
func (a *assembly) prove(ctx context.Context) (err error) {
	if a.o.Render == nil {
		return nil
	}
	scratch, err := os.MkdirTemp(a.o.TempDir, "plimsoll-closure-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch) //nolint:errcheck // scratch
	a.o.Progress.Report(progress.Event{Stage: "prove", Name: a.o.Spec.Metadata.Name})
	request, err := a.closureRequest(ctx, scratch)
	if err != nil {
		return err
	}
	answer := &closure.Answer{}
	if len(request.Charts)+len(request.Repositories) > 0 {
		if answer, err = a.o.Render(ctx, request); err != nil {
			return err
		}
	}
	o := closure.Options{Items: a.closureItems(), Reachable: func(item, commit string) bool { return a.hasCommit(ctx, item, commit) }}
	for _, e := range a.o.Spec.Spec.Closure.AllowExternal {
		o.External = append(o.External, closure.External{Ref: e.Ref, Reason: e.Reason})
	}
	a.verdict = closure.Prove(answer, o)
	a.o.Progress.Report(progress.Event{Stage: "prove", Name: a.o.Spec.Metadata.Name, End: true,
		Note: fmt.Sprintf("%d renderings, %d needs", len(answer.Renderings), len(a.verdict.Closure.Needs)+len(a.verdict.Gaps))})
	if len(a.verdict.Gaps) > 0 {
		return &IncompleteError{Verdict: a.verdict}
	}
	return nil
}

func (a *assembly) closureRequest(ctx context.Context, scratch string) (closure.Request, error) {
	c := a.o.Spec.Spec.Closure
	r := closure.Request{ImageFields: c.ImageFields, Ignore: c.Ignore, KubeVersion: c.KubeVersion, APIVersions: c.APIVersions}
	dir, err := filepath.Abs(filepath.Dir(a.o.Spec.File))
	if err != nil {
		return r, err
	}
	for i, chart := range a.packedCharts {
		archive, err := bundle.ReadBlob(ctx, a.sink, plain(chart.archive), chartpack.MaxChart)
		if err != nil {
			return r, inItem(chart.item, err)
		}
		path := filepath.Join(scratch, fmt.Sprintf("%d.tgz", i))
		if err := os.WriteFile(path, archive, 0o600); err != nil {
			return r, err
		}
		values, err := a.valuesFiles(chart.spec)
		if err != nil {
			return r, chart.spec.Position.Wrap("", err)
		}
		r.Charts = append(r.Charts, closure.Chart{
			Item: chart.item, Name: chart.name, Version: chart.version, Sources: chart.sources(), Archive: path, Dir: dir, Values: values,
		})
	}
	for _, g := range a.packedGit {
		repository := closure.Repository{Item: g.spec.Repository, URLs: []string{"https://" + g.spec.Repository}, GitDir: g.Repo, Head: g.Git.Head}
		if !g.spec.Local {
			repository.URLs = append(repository.URLs, g.spec.URL)
		}
		for _, ref := range g.Git.Refs {
			commit := ref.OID
			if ref.Peeled != "" {
				commit = ref.Peeled
			}
			repository.Revisions = append(repository.Revisions, closure.Revision{Name: ref.Name, Commit: commit})
		}
		for _, render := range g.spec.Renders {
			repository.Renders = append(repository.Renders, closure.Render(render))
		}
		r.Repositories = append(r.Repositories, repository)
	}
	return r, nil
}

// sources are the names by which manifests ask for the chart.
func (c packedChart) sources() []string {
	list := []string{"oci://" + c.repository}
	switch {
	case c.spec.URL != "":
		list = append(list, c.spec.URL)
	case c.spec.Ref != "" && c.spec.Reference.Repository != c.repository:
		list = append(list, "oci://"+c.spec.Reference.Repository)
	}
	return list
}

// closureItems is what the bundle will carry, as needs are compared with it.
func (a *assembly) closureItems() []closure.Item {
	charts := make(map[string]packedChart)
	for _, c := range a.packedCharts {
		charts[c.item] = c
	}
	items := make([]closure.Item, 0, len(a.items))
	for _, it := range a.items {
		item := closure.Item{
			Name: it.Name, Kind: it.Kind, Repository: it.Repository, Tags: it.Tags, Git: it.Git,
			Digests: []string{it.Descriptor.Digest.String()}, Source: it.Source,
		}
		for _, p := range it.Platforms {
			item.Digests = append(item.Digests, p.Digest.String())
		}
		if c, ok := charts[it.Name]; ok {
			item.Chart, item.Version = c.name, c.version
			if c.spec.URL != "" {
				item.Source = c.spec.URL
			}
		}
		items = append(items, item)
	}
	return items
}

// hasCommit asks the fetched repository, which holds nothing that its refs do not lead to.
func (a *assembly) hasCommit(ctx context.Context, item, commit string) bool {
	for _, g := range a.packedGit {
		if g.spec.Repository != item {
			continue
		}
		git, err := gitcmd.Find(a.o.Git)
		if err != nil {
			return false
		}
		cmd := gitcmd.Command(ctx, git, g.Repo, gitcmd.ClosedEnv(git, g.Repo), "cat-file", "-e", commit+"^{commit}")
		return cmd.Run() == nil
	}
	return false
}
