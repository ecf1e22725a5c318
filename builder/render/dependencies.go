package render

import (
	"bytes"
	"errors"
	"path"
	"strings"

	"helm.sh/helm/v3/pkg/chart"

	"github.com/plimsoll/plimsoll/builder/closure"
)

// maxFileDependencies is how deep charts may depend on charts in other folders of the repository.
const maxFileDependencies = 10

// complete gives a chart with the dependencies that are not in its charts/: those in other folders of the repository, and
// those that the site fetches, each of which is a reference. t is nil for a chart of the bundle.
func (s *session) complete(t *tree, c *chartFiles, depth int) *chartFiles {
	if len(c.missing) == 0 {
		return c
	}
	id := key("complete", c.folder, c.id)
	if t != nil {
		id = key("complete", c.folder, t.id)
	}
	if l := s.loaded[id]; l != nil {
		return l.chart
	}
	whole := &chartFiles{
		chart: clone(c.chart), folder: c.folder, id: id, defaults: make(map[string]stack), elsewhere: make(map[string]string),
		refs: c.refs, problems: c.problems,
	}
	s.loaded[id] = &loadedChart{chart: whole} // before the recursion, which may come back
	file := "Chart.yaml"
	if c.chart.Metadata.APIVersion == chart.APIVersionV1 && rawFile(c.chart, "requirements.yaml") != nil {
		file = "requirements.yaml"
	}
	list := parseKustomization("", file, rawFile(c.chart, file)) // of which only the lines are used
	for _, d := range c.missing {
		at := fieldPath{{key: "dependencies"}}
		for i, other := range c.chart.Metadata.Dependencies {
			if other == d {
				at = at.item(i)
			}
		}
		place := closure.Place{File: c.path(file), Line: list.line(at), Field: at.String()}
		sub, err := s.dependency(t, c, d, whole, place, depth)
		if err != nil {
			if !errors.Is(err, errNotCarried) {
				whole.problems = append(whole.problems, closure.Problem{Reason: oneLine("dependency " + d.Name + ": " + err.Error()), Place: place})
			}
			continue
		}
		whole.chart.AddDependency(clone(sub.chart))
		whole.id = key(whole.id, sub.id)
	}
	sortSubcharts(whole.chart)
	return whole
}

// dependency finds one chart that is not in charts/.
func (s *session) dependency(t *tree, c *chartFiles, d *chart.Dependency, whole *chartFiles, place closure.Place, depth int) (*chartFiles, error) {
	switch {
	case d.Repository == "":
		return nil, errors.New("is not in charts/, and no repository is named")
	case strings.HasPrefix(d.Repository, "file://"):
		dir := path.Join(c.folder, strings.TrimPrefix(d.Repository, "file://"))
		if t == nil || path.IsAbs(strings.TrimPrefix(d.Repository, "file://")) || dir == ".." || strings.HasPrefix(dir, "../") {
			return nil, errors.New("is outside of what is packed: " + d.Repository)
		}
		if depth >= maxFileDependencies {
			return nil, errors.New("charts depend on each other without end")
		}
		sub, err := s.folderChart(t, dir)
		if err != nil {
			return nil, err
		}
		whole.elsewhere[d.Name] = "/" + dir
		sub = s.complete(t, sub, depth+1)
		whole.refs, whole.problems = append(whole.refs, sub.refs...), append(whole.problems, sub.problems...)
		return sub, nil
	case strings.HasPrefix(d.Repository, "@"), strings.HasPrefix(d.Repository, "alias:"):
		return nil, errors.New("the repository " + d.Repository + " is a name on somebody's machine, want its URL")
	}
	ref := chartReference(d.Repository, d.Name, lockedVersion(c.chart, d))
	ref.Place = place
	whole.refs = append(whole.refs, ref)
	item, err := s.carriedChart(ref.Ref, ref.Chart, ref.Version)
	if err != nil {
		return nil, err
	}
	sub, err := s.itemChart(item)
	if err != nil {
		return nil, err
	}
	s.covered[key(item.Item)] = true
	whole.elsewhere[d.Name] = "charts/" + d.Name + "-" + sub.chart.Metadata.Version + ".tgz"
	return s.complete(nil, sub, depth+1), nil
}

// lockedVersion is what Chart.lock says, which is what gets fetched, else what Chart.yaml asks for.
func lockedVersion(c *chart.Chart, d *chart.Dependency) string {
	if c.Lock != nil {
		for _, l := range c.Lock.Dependencies {
			if l != nil && l.Name == d.Name && l.Repository == d.Repository && l.Version != "" {
				return l.Version
			}
		}
	}
	return d.Version
}

// equalFile reports a file of a chart that is also in its parent.
func equalFile(parent *chart.Chart, name string, data []byte) bool {
	return bytes.Equal(rawFile(parent, name), data)
}
