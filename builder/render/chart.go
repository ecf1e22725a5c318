package render

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/ignore"

	"github.com/plimsoll/plimsoll/builder/closure"
)

// chartFiles is a chart as it was loaded, once for all its renderings.
type chartFiles struct {
	chart    *chart.Chart
	folder   string // in the repository; empty for an archive
	id       string // the same for the same content
	missing  []*chart.Dependency
	defaults map[string]stack // of its values, by the charts in it that are used
	texts    []textFile       // all its files; filled by the first rendering

	// Of dependencies that are not in charts/:
	elsewhere map[string]string // where they come from, by name; with a slash before a folder of the repository
	refs      []closure.Reference
	problems  []closure.Problem
}

// loadFolder reads the chart in a folder of a tree, leaving out what its .helmignore names.
func loadFolder(t *tree, dir string) (*chartFiles, error) {
	rules := ignore.Empty()
	if data, err := t.ReadFile(path.Join(dir, ignore.HelmIgnore)); err == nil {
		if rules, err = ignore.Parse(bytes.NewReader(data)); err != nil {
			return nil, fmt.Errorf("%s: %w", ignore.HelmIgnore, err)
		}
	}
	rules.AddDefaults()
	r := &chartReader{tree: t, rules: rules, left: maxChartBytes}
	if err := r.walk(dir, "", 0); err != nil {
		return nil, err
	}
	c, err := newChart(r.files)
	if err != nil {
		return nil, err
	}
	c.folder, c.id = dir, t.digest(dir)
	return c, nil
}

type chartReader struct {
	tree  *tree
	rules *ignore.Rules
	files []*loader.BufferedFile
	left  int
}

func (r *chartReader) walk(dir, below string, depth int) error {
	if depth > maxTreeDepth {
		return fmt.Errorf("%s: folders in each other deeper than %d", below, maxTreeDepth)
	}
	entries, err := r.tree.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		name, full := path.Join(below, entry.Name()), path.Join(dir, entry.Name())
		info, err := r.tree.Stat(full)
		if err != nil {
			if info, err := entry.Info(); err == nil && r.rules.Ignore(name, info) {
				continue
			}
			return fmt.Errorf("symbolic link %s: %w", name, pathless(err))
		}
		if r.rules.Ignore(name, info) {
			continue
		}
		if info.IsDir() {
			if err := r.walk(full, name, depth+1); err != nil {
				return err
			}
			continue
		}
		if err := r.read(full, name); err != nil {
			return err
		}
	}
	return nil
}

func (r *chartReader) read(full, name string) error {
	data, err := r.tree.ReadFile(full)
	if err != nil {
		return fmt.Errorf("%s: %w", name, pathless(err))
	}
	if r.left -= len(data); r.left < 0 || len(r.files) >= maxChartFiles {
		return fmt.Errorf("more than %d files or %d bytes", maxChartFiles, maxChartBytes)
	}
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	r.files = append(r.files, &loader.BufferedFile{Name: name, Data: slices.Clone(data)})
	return nil
}

// loadArchive reads a .tgz. Helm's reader bounds it and refuses names that leave the chart.
func loadArchive(r io.Reader, id string) (*chartFiles, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxChartBytes+1))
	if err != nil {
		return nil, pathless(err)
	}
	if len(data) > maxChartBytes {
		return nil, fmt.Errorf("more than %d bytes", maxChartBytes)
	}
	files, err := loader.LoadArchiveFiles(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	if len(files) > maxChartFiles {
		return nil, fmt.Errorf("more than %d files", maxChartFiles)
	}
	c, err := newChart(files)
	if err != nil {
		return nil, err
	}
	c.id = id
	return c, nil
}

func newChart(files []*loader.BufferedFile) (*chartFiles, error) {
	for _, f := range files {
		if strings.HasSuffix(f.Name, ".yaml") && !strings.Contains(f.Name, "templates/") && bytes.IndexByte(f.Data, '&') >= 0 {
			if docs, err := splitDocuments(f.Data); err != nil {
				return nil, fmt.Errorf("%s: %w", f.Name, err)
			} else if len(docs) > 0 {
				if _, err := docs[0].parse(); errors.Is(err, errNodes) || errors.Is(err, errCircle) || errors.Is(err, errNested) {
					return nil, fmt.Errorf("%s: %w", f.Name, err)
				}
			}
		}
	}
	loaded, err := loader.LoadFiles(files)
	if err != nil {
		return nil, err
	}
	c := &chartFiles{chart: loaded, missing: missingDependencies(loaded), defaults: make(map[string]stack)}
	if makeSteady(loaded) {
		loaded.Templates = append(loaded.Templates, &chart.File{Name: "templates/_plimsoll.tpl", Data: []byte(steadyTemplate)})
	}
	sortSubcharts(loaded)
	return c, nil
}

// sortSubcharts undoes the order of a map, in which Helm's loader adds them.
func sortSubcharts(c *chart.Chart) {
	sub := slices.Clone(c.Dependencies())
	slices.SortStableFunc(sub, func(a, b *chart.Chart) int {
		return strings.Compare(a.Name()+"\x00"+a.Metadata.Version, b.Name()+"\x00"+b.Metadata.Version)
	})
	c.SetDependencies(sub...)
	for _, s := range sub {
		sortSubcharts(s)
	}
}

func makeSteady(c *chart.Chart) bool {
	changed := false
	for _, t := range c.Templates {
		if text, ok := steady(string(t.Data)); ok {
			t.Data, changed = []byte(text), true
		}
	}
	for _, sub := range c.Dependencies() {
		changed = makeSteady(sub) || changed
	}
	return changed
}

// missingDependencies are those that Chart.yaml names and charts/ does not have.
func missingDependencies(c *chart.Chart) []*chart.Dependency {
	var missing []*chart.Dependency
	for _, d := range c.Metadata.Dependencies {
		if d == nil {
			continue
		}
		if !slices.ContainsFunc(c.Dependencies(), func(have *chart.Chart) bool { return have.Name() == d.Name }) {
			missing = append(missing, d)
		}
	}
	return missing
}

// clone gives a chart that Helm may change, which it does while it renders. Files are shared.
func clone(c *chart.Chart) *chart.Chart {
	metadata := *c.Metadata
	metadata.Dependencies = make([]*chart.Dependency, 0, len(c.Metadata.Dependencies))
	for _, d := range c.Metadata.Dependencies {
		if d == nil {
			continue
		}
		own := *d
		own.ImportValues = slices.Clone(d.ImportValues)
		metadata.Dependencies = append(metadata.Dependencies, &own)
	}
	if c.Metadata.Dependencies == nil {
		metadata.Dependencies = nil
	}
	own := &chart.Chart{Raw: c.Raw, Metadata: &metadata, Lock: c.Lock, Templates: c.Templates, Schema: c.Schema, Files: c.Files}
	own.Values, _ = deepCopy(c.Values).(map[string]any)
	for _, sub := range c.Dependencies() {
		own.AddDependency(clone(sub))
	}
	return own
}

func deepCopy(v any) any {
	switch v := v.(type) {
	case map[string]any:
		if v == nil {
			return v
		}
		own := make(map[string]any, len(v))
		for k, e := range v {
			own[k] = deepCopy(e)
		}
		return own
	case []any:
		own := make([]any, len(v))
		for i, e := range v {
			own[i] = deepCopy(e)
		}
		return own
	}
	return v
}

// merge puts values over others, as Helm does with one values file behind another.
func merge(under, over map[string]any) map[string]any {
	out := make(map[string]any, len(under)+len(over))
	for k, v := range under {
		out[k] = v
	}
	for k, v := range over {
		if upper, ok := v.(map[string]any); ok {
			if lower, ok := out[k].(map[string]any); ok {
				out[k] = merge(lower, upper)
				continue
			}
		}
		out[k] = v
	}
	return out
}

// rawFile gives the bytes of a file of a chart as they were before anything was replaced.
func rawFile(c *chart.Chart, name string) []byte {
	for _, f := range c.Raw {
		if f.Name == name {
			return f.Data
		}
	}
	return nil
}

// origin finds the file that a name in Helm's messages and output means: robot/charts/redis/templates/x.yaml. Helm makes
// it of the names of charts, or of their aliases in used, which need not be those of their folders. For a file in an
// archive in charts/ it is the archive; the bytes are those of the file.
func (c *chartFiles) origin(used *chart.Chart, named string) (name string, data []byte) {
	in, tail := used, named
	_, tail, _ = strings.Cut(tail, "/")
	rest := tail
	for {
		sub, below, ok := strings.Cut(strings.TrimPrefix(tail, "charts/"), "/")
		i := slices.IndexFunc(in.Dependencies(), func(d *chart.Chart) bool { return d.Name() == sub })
		if !ok || i < 0 || !strings.HasPrefix(tail, "charts/") {
			break
		}
		in, tail = in.Dependencies()[i], below
	}
	data = rawFile(in, tail)
	if data == nil || in == used {
		return rest, data
	}
	if equalFile(c.chart, rest, data) {
		return rest, data
	}
	if first, _, _ := strings.Cut(strings.TrimPrefix(rest, "charts/"), "/"); c.elsewhere[first] != "" {
		if from := c.elsewhere[first]; strings.HasSuffix(from, ".tgz") {
			return from, data
		} else if below, ok := strings.CutPrefix(rest, "charts/"+first+"/"); ok {
			return from + "/" + below, data
		}
	}
	for _, f := range c.chart.Raw {
		if strings.HasPrefix(f.Name, "charts/") && strings.HasSuffix(f.Name, "/"+tail) && bytes.Equal(f.Data, data) {
			return f.Name, data
		}
	}
	for _, f := range c.chart.Raw {
		if strings.HasPrefix(f.Name, "charts/") && strings.HasSuffix(f.Name, "-"+in.Metadata.Version+".tgz") {
			return f.Name, data
		}
	}
	return rest, data
}

// path gives the name of a file of the chart as it is in the repository.
func (c *chartFiles) path(name string) string {
	if c.folder == "" {
		return name
	}
	if rooted, ok := strings.CutPrefix(name, "/"); ok {
		return path.Clean(rooted)
	}
	return path.Join(c.folder, name)
}
