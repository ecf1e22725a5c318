// Package render renders what a site will render, with the libraries of the field, and finds every image, chart and Git
// repository that it needs. It opens no connection, reads nothing that the request does not name, and runs nothing but
// git on the bare repositories that the request names.
//
// Templates are programs of strangers. A rendering that has no end is given up and goes on in the background, and one may
// take all memory: package render is for a process of its own, plimsoll-render.
package render

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"time"

	"helm.sh/helm/v3/pkg/chartutil"

	"github.com/plimsoll/plimsoll/builder/closure"
	"github.com/plimsoll/plimsoll/internal/gitcmd"
)

// Options of Run. The zero value works.
type Options struct {
	Git              string            // executable; empty: git in PATH. It is looked for when a repository is bare
	TempDir          string            // for an empty home of git; empty: the system's
	RenderingTimeout time.Duration     // of one rendering; 0: DefaultRenderingTimeout
	Current          func(what string) // is told what is rendered next
}

// RequestError is a request that cannot be answered, unlike content of which some cannot be rendered.
type RequestError struct{ Err error }

func (e *RequestError) Error() string { return "request: " + e.Err.Error() }

// Unwrap gives the reason.
func (e *RequestError) Unwrap() error { return e.Err }

// Run answers a request. The error is a *RequestError, ctx's, an *AbandonedError, or one of reading a repository.
func Run(ctx context.Context, req closure.Request, o Options) (_ *closure.Answer, err error) {
	s := &session{
		ctx: ctx, o: o, charts: slices.Clone(req.Charts), kubeVersion: req.KubeVersion, apiVersions: req.APIVersions,
		contents: make(map[string]*contents), loaded: make(map[string]*loadedChart), files: make(map[string]*valuesFile),
		results: make(map[string]*result), covered: make(map[string]bool), filled: make(map[string]bool),
	}
	if s.fields, err = parseImageFields(req.ImageFields); err != nil {
		return nil, &RequestError{err}
	}
	if s.ignored, err = parseGlobs(req.Ignore); err != nil {
		return nil, &RequestError{fmt.Errorf("ignore: %w", err)}
	}
	if req.KubeVersion != "" {
		if _, err := chartutil.ParseKubeVersion(req.KubeVersion); err != nil {
			return nil, &RequestError{fmt.Errorf("kubeVersion %q: %w", req.KubeVersion, err)}
		}
	}
	home, err := os.MkdirTemp(o.TempDir, "plimsoll-render-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(home)) }()
	if err := s.open(req.Repositories, home); err != nil {
		return nil, errors.Join(err, s.repos.close())
	}
	answer, err := s.run()
	if err = errors.Join(err, s.repos.close()); err != nil {
		return nil, err
	}
	return answer, nil
}

func (s *session) open(list []closure.Repository, home string) error {
	git := ""
	for _, r := range list {
		if r.GitDir != "" && git == "" {
			var err error
			if git, err = gitcmd.Find(s.o.Git); err != nil {
				return err
			}
		}
		repo, err := openRepository(s.ctx, r, git, home)
		if err != nil {
			return &RequestError{err}
		}
		s.repos = append(s.repos, repo)
	}
	slices.SortStableFunc(s.repos, func(a, b *repository) int { return cmp.Compare(a.Item, b.Item) })
	slices.SortStableFunc(s.charts, func(a, b closure.Chart) int { return cmp.Compare(a.Item, b.Item) })
	return nil
}

// branch is a revision that is rendered completely.
type branch struct {
	*revision
	world    *world
	contents *contents
	files    map[string]*result // plain manifests by name
}

// run renders everything: first what stands in the repositories and is said in bundle.yaml, then what that asks for, then
// the charts and kustomizations that nothing of it has rendered.
func (s *session) run() (*closure.Answer, error) {
	branches, err := s.branches()
	if err != nil {
		return nil, err
	}
	for _, r := range s.repos {
		if err := s.renders(r, branches); err != nil {
			return nil, err
		}
	}
	if err := s.chartsWithValues(); err != nil {
		return nil, err
	}
	if err := s.follow(); err != nil {
		return nil, err
	}
	if err := s.rest(branches); err != nil {
		return nil, err
	}
	for _, b := range branches {
		s.plain(b)
	}
	return s.conclude()
}

// branches reads all branches and the manifests in them.
func (s *session) branches() ([]*branch, error) {
	var all []*branch
	for _, r := range s.repos {
		for _, at := range r.branches() {
			rev, err := r.at(at.Name, at.Commit)
			if err != nil {
				return nil, fmt.Errorf("%s: %s: %w", r.Item, at.Name, err)
			}
			b := &branch{revision: rev, world: &world{item: r.Item, revision: rev.name, done: make(map[string]bool)}, files: make(map[string]*result)}
			s.worlds = append(s.worlds, b.world)
			for i, name := range rev.tree.skipped {
				if i == 20 {
					break
				}
				s.trouble(b.world, closure.Place{}, "the entry %s has a name that no checkout could have: it is left out", name)
			}
			b.contents = s.contentsOf(rev.tree)
			for _, name := range b.contents.manifests {
				found, err := s.manifests(describeRendering(r.Item, rev.name, name), rev.tree, []string{name}, path.Dir(name))
				if err != nil {
					return nil, err
				}
				b.files[name] = found
				s.see(b.world, report{item: r.Item, revision: rev.name, result: found})
			}
			all = append(all, b)
		}
	}
	return all, nil
}

// trouble is a problem of a world that belongs to no rendering.
func (s *session) trouble(w *world, place closure.Place, format string, args ...any) {
	r := &result{}
	r.problem(place, format, args...)
	s.reports = append(s.reports, report{item: w.item, revision: w.revision, result: r})
}

// renders renders the charts of a repository with the values files that bundle.yaml names.
func (s *session) renders(r *repository, branches []*branch) error {
	for _, want := range r.Renders {
		dir := path.Clean(cmp.Or(want.Chart, "."))
		met := false
		for _, b := range branches {
			if b.repo != r || !b.tree.isFile(path.Join(dir, "Chart.yaml")) {
				continue
			}
			met = true
			if err := s.renderBranch(b, dir, want); err != nil {
				return err
			}
		}
		if !met {
			s.trouble(&world{item: r.Item}, closure.Place{File: dir}, "no branch has a chart in %s", dir)
		}
	}
	return nil
}

func (s *session) renderBranch(b *branch, dir string, want closure.Render) error {
	s.covered[key(b.repo.Item, b.name, dir)] = true
	loaded, err := s.folderChart(b.tree, dir)
	if err != nil {
		s.trouble(b.world, closure.Place{File: path.Join(dir, "Chart.yaml")}, "%v", err)
		return nil
	}
	chart := s.complete(b.tree, loaded, 0)
	stacks, problem := s.stacks(b, want.Values)
	if problem != "" {
		s.trouble(b.world, closure.Place{File: dir, Values: want.Values}, "%s", problem)
	}
	for _, files := range stacks {
		j := &helmJob{chart: chart, release: cmp.Or(want.Release, chart.chart.Name()), namespace: cmp.Or(want.Namespace, "default"), values: files}
		found, err := s.helm(describeRendering(b.repo.Item, b.name, dir), j, nil)
		if err != nil {
			return err
		}
		s.take(b.world, report{item: b.repo.Item, revision: b.name, result: found})
	}
	return nil
}

// stacks gives the values files of each rendering: a name stands in all of them, a pattern makes one for each file.
func (s *session) stacks(b *branch, names []string) (stacks [][]*valuesFile, problem string) {
	stacks = [][]*valuesFile{nil}
	for _, name := range names {
		name = path.Clean(name)
		files := []string{name}
		if isPattern(name) && !b.tree.isFile(name) {
			if files = b.tree.expand(name); len(files) == 0 {
				return nil, fmt.Sprintf("no file matches %s", name)
			}
		}
		var next [][]*valuesFile
		for _, stack := range stacks {
			for _, file := range files {
				v, err := s.treeValues(b.revision, b.revision, file)
				if err != nil {
					problem = fmt.Sprintf("values file %s: %v", file, err)
					continue
				}
				next = append(next, append(stack[:len(stack):len(stack)], v))
			}
		}
		if stacks = next; len(stacks) > maxTasks {
			return nil, fmt.Sprintf("the patterns make more than %d renderings", maxTasks)
		}
	}
	return stacks, problem
}

// chartsWithValues renders the charts of the bundle for which bundle.yaml names values files.
func (s *session) chartsWithValues() error {
	for i := range s.charts {
		c := &s.charts[i]
		if len(c.Values) == 0 {
			continue
		}
		s.covered[key(c.Item)] = true
		if err := s.item(c, c.Values); err != nil {
			return err
		}
	}
	return nil
}

// item renders a chart of the bundle, once for each list of values files.
func (s *session) item(c *closure.Chart, lists [][]string) error {
	w := &world{item: c.Item, done: make(map[string]bool)}
	s.worlds = append(s.worlds, w)
	loaded, err := s.itemChart(c)
	if err != nil {
		s.trouble(w, closure.Place{}, "%v", err)
		return nil
	}
	chart := s.complete(nil, loaded, 0)
	for _, names := range lists {
		j := &helmJob{chart: chart, release: chart.chart.Name(), namespace: "default"}
		for _, name := range names {
			v, err := s.diskValues(c, name)
			if err != nil {
				s.trouble(w, closure.Place{File: name, Values: names}, "values file %s: %v", name, err)
				j = nil
				break
			}
			j.values = append(j.values, v)
		}
		if j == nil {
			continue
		}
		found, err := s.helm(describeRendering(c.Item, "", ""), j, nil)
		if err != nil {
			return err
		}
		s.take(w, report{item: c.Item, result: found})
	}
	return nil
}
