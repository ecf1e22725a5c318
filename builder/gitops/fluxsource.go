package gitops

import (
	"cmp"
	"path"
	"strings"

	"github.com/plimsoll/plimsoll/builder/closure"
)

// gitSource gives URL and revision of a GitRepository. A commit counts before a name, a semver range, a tag, a branch.
func gitSource(s *source) (url, revision string) {
	spec := s.node("spec")
	ref := spec.child("ref")
	return spec.str("url"), cmp.Or(ref.str("commit"), ref.str("name"), ref.str("semver"), ref.str("tag"), ref.str("branch"), "master")
}

func (x *expander) gitRepository(s *source) {
	url, revision := gitSource(s)
	if url == "" {
		s.problem("spec.url", "%s: no url", s.by)
		return
	}
	s.refer("spec.url", closure.Reference{Kind: closure.KindGit, Ref: url, Version: revision})
	if len(s.node("spec").list("include")) > 0 {
		s.problem("spec.include", "%s: what is put together of several repositories is only known at the site", s.by)
	}
}

// ociSource gives URL and version of an OCIRepository. A digest counts before a semver range, and that before a tag.
func ociSource(s *source) (url, version string) {
	spec := s.node("spec")
	ref := spec.child("ref")
	return strings.TrimRight(spec.str("url"), "/"), cmp.Or(ref.str("digest"), ref.str("semver"), ref.str("tag"), "latest")
}

func (x *expander) ociRepository(s *source) {
	url, version := ociSource(s)
	if !strings.HasPrefix(url, "oci://") {
		s.problem("spec.url", "%s: url %q, want oci://…", s.by, url)
		return
	}
	s.refer("spec.url", closure.Reference{Kind: closure.KindChart, Ref: url, Version: version})
}

// helmRepository alone fetches nothing that a chart of it does not name.
func (x *expander) helmRepository(s *source) {
	if url := s.node("spec").str("url"); url == "" {
		s.problem("spec.url", "%s: no url", s.by)
	}
}

func (x *expander) helmChart(s *source) {
	for _, c := range s.charts(s.node("spec"), s.namespace) {
		c.refer(&s.scope)
	}
}

// chart is what a HelmChart, or the template of one in a HelmRelease, comes down to.
type chart struct {
	Task
	field      string // where the chart is named
	valueFiles []ValueFile
	fromGit    bool
}

// refer gives the reference of a chart in a Helm repository. For one in a Git repository the GitRepository gives it.
func (c chart) refer(s *scope) {
	if c.fromGit {
		return
	}
	r := closure.Reference{Kind: closure.KindChart, Ref: c.URL, Chart: c.Chart, Version: c.Revision}
	if strings.HasPrefix(c.URL, "oci://") {
		r.Chart = ""
	}
	s.refer(c.field, r)
}

// charts resolves the spec of a HelmChart, one result for each object that its source can be.
func (s *source) charts(spec node, namespace string) []chart {
	name, version := spec.str("chart"), spec.str("version")
	ref := spec.child("sourceRef")
	kind := ref.str("kind")
	if name == "" {
		s.problem(spec.field("chart"), "%s: no chart", spec.path)
		return nil
	}
	if ns := ref.str("namespace"); ns != "" {
		namespace = ns
	}
	found := s.sources(ref, namespace, "HelmRepository", "GitRepository")
	var out []chart
	for _, f := range found {
		c := chart{field: spec.field("chart")}
		url := strings.TrimRight(f.node("spec").str("url"), "/")
		switch {
		case url == "":
			continue // reported with the source
		case kind == "GitRepository":
			folder, _ := inside("", path.Clean("/"+name)) // Flux keeps inside what climbs out
			c.fromGit = true
			c.URL, c.Revision = gitSource(f)
			c.Path = folder
		case strings.HasPrefix(url, "oci://"):
			c.URL, c.Chart, c.Revision = url+"/"+name, path.Base(name), version
		default:
			c.URL, c.Chart, c.Revision = url, name, version
		}
		c.valueFiles = valuesFiles(spec)
		out = append(out, c)
	}
	return out
}

// valuesFiles are relative to the root of the repository or chart.
func valuesFiles(spec node) []ValueFile {
	files := spec.strings("valuesFiles")
	if old := spec.str("valuesFile"); old != "" { // of v2beta1
		files = append(files, old)
	}
	var out []ValueFile
	for _, f := range files {
		p, _ := inside("", path.Clean("/"+f))
		out = append(out, ValueFile{Path: p, Optional: spec.boolean("ignoreMissingValuesFiles")})
	}
	return out
}

// sources finds what a sourceRef names among the objects, if it is of one of the kinds.
func (s *source) sources(ref node, namespace string, kinds ...string) []*source {
	kind, name := ref.str("kind"), ref.str("name")
	for _, k := range kinds {
		if k != kind {
			continue
		}
		found := s.find(kind, namespace, name)
		if len(found) == 0 {
			s.problem(ref.path, "%s: %s is not among the manifests", ref.path, describe(kind, namespace, name))
		}
		return found
	}
	s.problem(ref.path, "%s: what %s gives is only known at the site", ref.path, describe(kind, namespace, name))
	return nil
}
