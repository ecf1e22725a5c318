package render

import (
	"cmp"
	"path"
	"slices"

	"github.com/plimsoll/plimsoll/builder/closure"
	"github.com/plimsoll/plimsoll/builder/gitops"
)

// candidate is a chart or kustomization that nothing has rendered yet.
type candidate struct {
	branch *branch // nil: a chart of the bundle
	dir    string
	helm   bool
	item   *closure.Chart
	result *result // with its defaults
}

func (c *candidate) key() string {
	if c.item != nil {
		return key(c.item.Item)
	}
	return key(c.branch.repo.Item, c.branch.name, c.dir)
}

// rest renders, with their defaults, the charts and kustomizations that no object asks for. Some of these hold objects
// which ask for others: an app of apps that somebody starts by hand. They come first, and what they ask for is not
// rendered with its defaults.
func (s *session) rest(branches []*branch) error {
	left := s.candidates(branches)
	for {
		left = slices.DeleteFunc(left, func(c *candidate) bool { return s.covered[c.key()] })
		if len(left) == 0 {
			return nil
		}
		asked := make(map[string]bool)
		for _, c := range left {
			if err := s.try(c, asked); err != nil {
				return err
			}
		}
		// A chart may have turned out to be a part of another one while that was tried.
		left = slices.DeleteFunc(left, func(c *candidate) bool { return s.covered[c.key()] })
		now := slices.DeleteFunc(slices.Clone(left), func(c *candidate) bool { return asked[c.key()] })
		if len(now) == 0 {
			now = slices.Clone(left[:min(1, len(left))]) // they ask for each other
		}
		for _, c := range now {
			if err := s.settle(c); err != nil {
				return err
			}
		}
		left = slices.DeleteFunc(left, func(c *candidate) bool { return slices.Contains(now, c) })
		if err := s.follow(); err != nil {
			return err
		}
	}
}

func (s *session) candidates(branches []*branch) []*candidate {
	var all []*candidate
	for _, b := range branches {
		for _, dir := range b.contents.kustomizations {
			all = append(all, &candidate{branch: b, dir: dir})
		}
		for _, dir := range b.contents.charts {
			if !b.contents.localCharts[dir] && !isLibrary(b.tree, dir) {
				all = append(all, &candidate{branch: b, dir: dir, helm: true})
			}
		}
	}
	for i := range s.charts {
		if len(s.charts[i].Values) == 0 {
			all = append(all, &candidate{item: &s.charts[i]})
		}
	}
	return all
}

// try renders a candidate and notes what its objects ask for, but for itself.
func (s *session) try(c *candidate, asked map[string]bool) error {
	if c.result == nil {
		var err error
		if c.result, err = s.defaults(c); err != nil {
			return err
		}
	}
	if !slices.ContainsFunc(c.result.objects, func(o object) bool { return asksGitOps(o.value) }) {
		return nil
	}
	w := &world{done: make(map[string]bool)}
	r := report{result: c.result}
	if c.branch != nil {
		w.objects = slices.Clone(c.branch.world.objects)
		r.item, r.revision = c.branch.repo.Item, c.branch.name
	} else {
		r.item = c.item.Item
	}
	before := gitops.Expand(w.objects, s.repos)
	known := make(map[string]bool)
	for _, t := range before.Tasks {
		known[key(t)] = true
	}
	s.see(w, r)
	for _, t := range gitops.Expand(w.objects, s.repos).Tasks {
		if at := s.target(t); at != "" && at != c.key() && !known[key(t)] {
			asked[at] = true
		}
	}
	return nil
}

// target is what a task renders, as candidate.key says it.
func (s *session) target(t gitops.Task) string {
	if t.Chart != "" {
		if c, err := s.carriedChart(t.URL, t.Chart, t.Revision); err == nil {
			return key(c.Item)
		}
		return ""
	}
	rev, err := s.repos.find(t.URL, t.Revision)
	if err != nil {
		return ""
	}
	n, err := rev.tree.find(path.Clean(cmp.Or(t.Path, ".")))
	if err != nil {
		return ""
	}
	return key(rev.repo.Item, rev.name, n.path)
}

// defaults renders a candidate as it is.
func (s *session) defaults(c *candidate) (*result, error) {
	if c.item != nil {
		loaded, err := s.itemChart(c.item)
		if err != nil {
			r := &result{}
			r.problem(closure.Place{}, "%v", err)
			return r, nil
		}
		chart := s.complete(nil, loaded, 0)
		if isLibraryChart(chart) {
			return &result{}, nil
		}
		return s.helm(describeRendering(c.item.Item, "", ""), &helmJob{chart: chart, release: chart.chart.Name(), namespace: "default"}, nil)
	}
	rev := c.branch.revision
	what := describeRendering(rev.repo.Item, rev.name, c.dir)
	if !c.helm {
		return s.kustomize(what, &kustomizeJob{tree: rev.tree, dir: c.dir})
	}
	loaded, err := s.folderChart(rev.tree, c.dir)
	if err != nil {
		r := &result{}
		r.problem(closure.Place{File: path.Join(c.dir, "Chart.yaml")}, "%v", err)
		return r, nil
	}
	chart := s.complete(rev.tree, loaded, 0)
	return s.helm(what, &helmJob{chart: chart, release: chart.chart.Name(), namespace: "default"}, nil)
}

// settle keeps what a candidate gave with its defaults.
func (s *session) settle(c *candidate) error {
	if c.item != nil {
		w := &world{item: c.item.Item, done: make(map[string]bool)}
		s.worlds = append(s.worlds, w)
		s.take(w, report{item: c.item.Item, result: c.result})
		return nil
	}
	s.take(c.branch.world, report{item: c.branch.repo.Item, revision: c.branch.name, result: c.result})
	return nil
}

// plain reports the manifests of a branch that no task has applied, each folder as one rendering.
func (s *session) plain(b *branch) {
	folders := make(map[string]*result)
	var order []string
	for _, name := range b.contents.manifests {
		if s.covered[key(b.repo.Item, b.name, name)] {
			continue
		}
		dir := path.Dir(name)
		if folders[dir] == nil {
			folders[dir] = &result{engine: "manifests", path: dir, ran: true}
			order = append(order, dir)
		}
		folders[dir].add(b.files[name])
	}
	for _, dir := range order {
		s.reports = append(s.reports, report{item: b.repo.Item, revision: b.name, result: folders[dir]})
	}
}
