package render

import (
	"bytes"
	"path"
	"slices"
	"strings"

	"sigs.k8s.io/kustomize/api/konfig"
)

// contents is what a tree holds that a site could render.
type contents struct {
	charts         []string        // folders
	kustomizations []string        // folders that no other kustomization refers to
	manifests      []string        // files that belong to neither
	localCharts    map[string]bool // folders of charts that are rendered with something else
}

// discover looks through a tree. What ignored matches is left out.
func discover(t *tree, ignored globs) *contents {
	c := &contents{localCharts: make(map[string]bool)}
	var files []string
	kustomizations := make(map[string]*kustomization)
	t.walk(".", func(n *node) bool {
		if n.mode.IsDir() {
			return ignored.match(n.path)
		}
		if ignored.match(n.path) {
			return false
		}
		switch base := path.Base(n.path); {
		case base == "Chart.yaml" && n.mode.IsRegular():
			c.charts = append(c.charts, path.Dir(n.path))
		case slices.Contains(konfig.RecognizedKustomizationFileNames(), base):
			if k := readKustomization(t, path.Dir(n.path)); k != nil && !k.foreign() {
				kustomizations[k.dir] = k
				return false
			}
			files = append(files, n.path)
		case n.mode.IsRegular() && isYAML(base):
			files = append(files, n.path)
		}
		return false
	})
	c.charts = slices.DeleteFunc(slices.Clone(c.charts), c.vendored)
	used := c.roots(t, kustomizations)
	for _, dir := range c.charts {
		c.dependencies(t, dir)
	}
	for _, name := range files {
		if !used[name] && !c.inChart(name) && looksLikeManifest(t, name) {
			c.manifests = append(c.manifests, name)
		}
	}
	c.kustomizations = slices.DeleteFunc(c.kustomizations, func(dir string) bool { return c.inChart(path.Join(dir, "kustomization.yaml")) })
	return c
}

func isYAML(name string) bool {
	switch path.Ext(name) {
	case ".yaml", ".yml", ".json":
		return true
	}
	return false
}

// vendored reports a chart below the charts/ of another.
func (c *contents) vendored(dir string) bool {
	return slices.ContainsFunc(c.charts, func(parent string) bool {
		below, ok := within(parent, dir)
		return ok && dir != parent && strings.HasPrefix(below, "charts/")
	})
}

// inChart reports a file that belongs to a chart. A chart in the root of a repository does not own everything in it.
func (c *contents) inChart(name string) bool {
	return slices.ContainsFunc(c.charts, func(dir string) bool {
		if dir != "." {
			_, ok := within(dir, name)
			return ok
		}
		first, _, nested := strings.Cut(name, "/")
		return nested && slices.Contains([]string{"templates", "crds", "charts", "files", "ci"}, first) ||
			!nested && (strings.HasPrefix(name, "Chart.") || strings.HasPrefix(name, "values"))
	})
}

// roots finds the kustomizations that are rendered for themselves, and gives the files that all of them use. Where they
// refer to each other in a circle, the first is taken, so that the circle is reported.
func (c *contents) roots(t *tree, all map[string]*kustomization) map[string]bool {
	used := make(map[string]bool) // files and folders
	for _, k := range all {
		for _, entry := range k.local() {
			if name := path.Join(k.dir, entry); !strings.HasPrefix(name, "../") {
				used[name] = true
				if n, err := t.find(name); err == nil {
					used[n.path] = true
				}
			}
		}
		for _, home := range k.chartFolders() {
			c.localCharts[home] = true
		}
	}
	reached := make(map[string]bool)
	var reach func(dir string)
	reach = func(dir string) {
		k := all[dir]
		if k == nil || reached[dir] {
			return
		}
		reached[dir] = true
		for _, entry := range k.local() {
			reach(path.Join(dir, entry))
		}
	}
	dirs := make([]string, 0, len(all))
	for dir, k := range all {
		if !k.component() {
			dirs = append(dirs, dir)
		}
	}
	slices.Sort(dirs)
	for _, dir := range dirs {
		if !used[dir] {
			c.kustomizations = append(c.kustomizations, dir)
			reach(dir)
		}
	}
	for _, dir := range dirs {
		if !reached[dir] {
			c.kustomizations = append(c.kustomizations, dir)
			reach(dir)
		}
	}
	slices.Sort(c.kustomizations)
	return used
}

// dependencies marks the charts of the repository that a chart depends on: they are rendered with it.
func (c *contents) dependencies(t *tree, dir string) {
	for _, file := range []string{"Chart.yaml", "requirements.yaml"} {
		data, err := t.ReadFile(path.Join(dir, file))
		if err != nil {
			continue
		}
		list, _ := parseKustomization(dir, file, data).value["dependencies"].([]any)
		for _, e := range list {
			d, _ := e.(map[string]any)
			repository, _ := d["repository"].(string)
			if below, ok := strings.CutPrefix(repository, "file://"); ok {
				c.localCharts[path.Join(dir, below)] = true
			}
		}
	}
}

// isLibrary reports a chart that is only rendered in others.
func isLibrary(t *tree, dir string) bool {
	data, err := t.ReadFile(path.Join(dir, "Chart.yaml"))
	kind, _ := parseKustomization(dir, "Chart.yaml", data).value["type"].(string)
	return err == nil && strings.EqualFold(kind, "library")
}

// looksLikeManifest tells the manifests from all other YAML before anything is parsed.
func looksLikeManifest(t *tree, name string) bool {
	data, err := t.ReadFile(name)
	return err == nil && bytes.Contains(data, []byte("apiVersion")) && bytes.Contains(data, []byte("kind"))
}
