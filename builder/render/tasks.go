package render

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/plimsoll/plimsoll/builder/closure"
	"github.com/plimsoll/plimsoll/builder/gitops"
)

// task renders what Argo CD or Flux renders because of one object. The error is one that ends the run.
func (s *session) task(w *world, t gitops.Task) error {
	if t.Chart != "" {
		return s.chartTask(w, t)
	}
	rev, err := s.repos.find(t.URL, t.Revision)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the reference to it says so
	}
	if err != nil {
		s.complain(w, t, "%s: %v", withoutUser(t.URL), err)
		return nil
	}
	dir := path.Clean(strings.TrimPrefix(cmp.Or(t.Path, "."), "/"))
	n, err := rev.tree.find(dir)
	if err != nil || !n.mode.IsDir() {
		s.complain(w, t, "%s has no folder %q at %s", rev.repo.Item, dir, cmp.Or(rev.name, "all"))
		return nil
	}
	var r *result
	switch engine := engineOf(t, rev.tree, n.path); engine {
	case "helm":
		return s.folderTask(w, t, rev, n.path)
	case "kustomize":
		j := &kustomizeJob{tree: rev.tree, dir: n.path, plain: t.PlainKustomize, vars: t.Substitute}
		if t.Kustomize != nil {
			j.extra, j.asker = t.Kustomize.Fields, asker(t)
		}
		r, err = s.kustomize(describeRendering(rev.repo.Item, rev.name, n.path)+" for "+t.By, j)
	default:
		r, err = s.manifests(describeRendering(rev.repo.Item, rev.name, n.path)+" for "+t.By, rev.tree, directory(rev.tree, n.path, t.Directory), n.path)
	}
	if err != nil {
		return err
	}
	if t.Substitute != nil {
		for _, name := range r.covers {
			if data, err := rev.tree.ReadFile(name); err == nil && strings.Contains(string(data), "${") {
				s.filled[key(rev.repo.Item, rev.name, name)] = true
			}
		}
	}
	s.take(w, report{rev.repo.Item, rev.name, t.By, t.Place, r})
	return nil
}

// asker is the place of the object that asks, as the place of what stands in it.
func asker(t gitops.Task) closure.Place {
	return closure.Place{Item: t.Place.Item, Revision: t.Place.Revision, File: t.Place.File, Line: t.Place.Line}
}

// engineOf says what a folder is. What a task says about Helm counts when it is a chart. Argo CD takes a folder with both
// files for a kustomization unless there are options for Helm; a HelmRelease has nothing but charts.
func engineOf(t gitops.Task, in *tree, dir string) string {
	k := readKustomization(in, dir)
	kustomization, chart := k != nil && !k.foreign(), in.isFile(path.Join(dir, "Chart.yaml"))
	optioned := t.Helm != nil && (len(t.Helm.ValueFiles) > 0 || len(t.Helm.Values) > 0 || len(t.Helm.Set) > 0)
	switch {
	case t.Directory != nil:
		return "manifests"
	case strings.HasPrefix(t.By, "HelmRelease "):
		return "helm"
	case t.PlainKustomize, t.Kustomize != nil, kustomization && !(chart && optioned):
		return "kustomize"
	case chart:
		return "helm"
	}
	return "manifests"
}

// directory gives the manifests of a folder that Argo CD applies.
func directory(t *tree, dir string, d *gitops.Directory) []string {
	if d == nil {
		d = &gitops.Directory{}
	}
	var names []string
	t.walk(dir, func(n *node) bool {
		if n.mode.IsDir() {
			return !d.Recurse
		}
		name, _ := within(dir, n.path)
		if isYAML(n.path) && t.isFile(n.path) && (d.Include == "" || anyPath(d.Include, name)) && (d.Exclude == "" || !anyPath(d.Exclude, name)) {
			names = append(names, n.path)
		}
		return false
	})
	return names
}

// folderTask renders a chart of a repository.
func (s *session) folderTask(w *world, t gitops.Task, rev *revision, dir string) error {
	chart, err := s.folderChart(rev.tree, dir)
	if err != nil {
		s.complain(w, t, "chart %s of %s: %v", dir, rev.repo.Item, err)
		s.covered[key(rev.repo.Item, rev.name, dir)] = true
		return nil
	}
	read := func(name string) (*valuesFile, error) { return s.treeValues(rev, rev, name) }
	return s.helmTask(w, t, s.complete(rev.tree, chart, 0), owner{rev.repo.Item, rev.name}, rev, read)
}

// chartTask renders a chart of the bundle.
func (s *session) chartTask(w *world, t gitops.Task) error {
	c, err := s.carriedChart(t.URL, t.Chart, t.Revision)
	if err != nil {
		return nil // the reference to it says so
	}
	s.covered[key(c.Item)] = true
	chart, err := s.itemChart(c)
	if err != nil {
		s.complain(w, t, "chart %s: %v", c.Item, err)
		return nil
	}
	read := func(name string) (*valuesFile, error) {
		data := rawFile(chart.chart, path.Clean(name))
		if data == nil {
			return nil, fs.ErrNotExist
		}
		return newValuesFile(name, "", "", name, data)
	}
	return s.helmTask(w, t, s.complete(nil, chart, 0), owner{item: c.Item}, nil, read)
}

// helmTask renders a chart with the values of a task. read reads a file beside the chart.
func (s *session) helmTask(w *world, t gitops.Task, chart *chartFiles, of owner, home *revision, read func(string) (*valuesFile, error)) error {
	h := t.Helm
	if h == nil {
		h = &gitops.Helm{}
	}
	j := &helmJob{
		chart: chart, release: h.Release, namespace: h.Namespace, skipCRDs: h.SkipCRDs, kubeVersion: h.KubeVersion,
		apiVersions: h.APIVersions, replaceDefaults: h.ReplaceDefaults,
	}
	if j.release == "" {
		asker, _, _ := strings.Cut(t.By, " of ")
		j.release = asker[strings.LastIndexAny(asker, " /")+1:]
	}
	var contents []map[string]any
	for _, f := range h.ValueFiles {
		v, err := s.valueFile(f, home, read)
		if errors.Is(err, fs.ErrNotExist) && f.Optional {
			continue
		}
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				err = errors.New("is not there")
			}
			s.complain(w, t, "values file %s: %v", f.Path, err)
			s.covered[key(of.item, of.revision, chart.folder)] = true
			return nil
		}
		j.values, contents = append(j.values, v), append(contents, v.values)
	}
	merged, err := h.Merge(contents)
	if err != nil {
		s.complain(w, t, "values: %v", err)
		return nil
	}
	j.mergedValues = merged
	j.inline = s.inlineOf(t, h)
	var post *kustomizeJob
	if h.PostRender != nil {
		post = &kustomizeJob{extra: h.PostRender.Fields, asker: asker(t)}
	}
	r, err := s.helm(describeRendering(of.item, of.revision, chart.folder)+" for "+t.By, j, post)
	if err != nil {
		return err
	}
	s.take(w, report{of.item, of.revision, t.By, t.Place, r})
	return nil
}

func (s *session) valueFile(f gitops.ValueFile, home *revision, read func(string) (*valuesFile, error)) (*valuesFile, error) {
	if f.URL == "" {
		return read(f.Path)
	}
	rev, err := s.repos.find(f.URL, f.Revision)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s at %s is not in the bundle", withoutUser(f.URL), cmp.Or(f.Revision, "HEAD"))
	}
	if err != nil {
		return nil, err
	}
	return s.treeValues(rev, home, f.Path)
}

// inlineOf gives the values that stand in the object that asks, at the lines where they stand as far as that is known.
func (s *session) inlineOf(t gitops.Task, h *gitops.Helm) []*source {
	var data []byte
	if t.Place.Line > 0 {
		for _, r := range s.repos {
			if rev, err := r.resolve(t.Place.Revision); r.Item == t.Place.Item && err == nil {
				data, _ = rev.tree.ReadFile(t.Place.File)
			}
		}
	}
	var found []*source
	add := func(put func(*source)) {
		own := &source{item: t.Place.Item, revision: t.Place.Revision, file: t.Place.File, byPath: make(map[string]int)}
		put(own)
		for i := range own.scalars {
			if line := lineFrom(data, own.scalars[i].value, t.Place.Line); line > 0 {
				own.scalars[i].line = line
			}
		}
		found = append(found, own)
	}
	for _, values := range h.Values {
		add(func(own *source) { own.putValue(values, "", "", t.Place.Line) })
	}
	for _, set := range h.Set {
		name, value, _ := strings.Cut(set.Line, "=")
		add(func(own *source) {
			parent, k := "", name
			if i := strings.LastIndex(name, "."); i >= 0 {
				parent, k = name[:i+1], name[i+1:]
			}
			own.put(scalar{parent, k, value, t.Place.Line})
		})
	}
	return found
}

// lineFrom gives the first line with a text, from a line on.
func lineFrom(data []byte, text string, from int) int {
	if len(data) == 0 || text == "" {
		return 0
	}
	rest, line := string(data), 1
	for line < from {
		_, after, ok := strings.Cut(rest, "\n")
		if !ok {
			return 0
		}
		rest, line = after, line+1
	}
	if found := lineWith([]byte(rest), text); found > 0 {
		return found + from - 1
	}
	return 0
}
