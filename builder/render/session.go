package render

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"

	"github.com/plimsoll/plimsoll/builder/closure"
)

// session is one request under way.
type session struct {
	ctx         context.Context
	o           Options
	fields      imageFields
	ignored     globs
	repos       repositories
	charts      []closure.Chart
	kubeVersion string
	apiVersions []string

	contents  map[string]*contents    // of trees, by id
	loaded    map[string]*loadedChart // by folder content or item
	files     map[string]*valuesFile
	results   map[string]*result // by all that they depend on
	abandoned int

	worlds  []*world
	reports []report
	tasks   int
	covered map[string]bool // what a task rendered: charts, kustomizations and manifests by item, revision and path
	filled  map[string]bool // files in which Flux fills in variables
}

type loadedChart struct {
	chart *chartFiles
	err   error
}

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// contentsOf discovers a tree once.
func (s *session) contentsOf(t *tree) *contents {
	c, ok := s.contents[t.id]
	if !ok {
		c = discover(t, s.ignored)
		s.contents[t.id] = c
	}
	return c
}

// folderChart loads a chart of a repository once for all its renderings on all branches that have it unchanged.
func (s *session) folderChart(t *tree, dir string) (*chartFiles, error) {
	return s.load(key("folder", dir, t.digest(dir)), func() (*chartFiles, error) { return loadFolder(t, dir) })
}

// itemChart loads a chart of the bundle.
func (s *session) itemChart(c *closure.Chart) (*chartFiles, error) {
	return s.load(key("item", c.Item, c.Archive), func() (*chartFiles, error) {
		f, err := os.Open(c.Archive)
		if err != nil {
			return nil, pathless(err)
		}
		defer f.Close() //nolint:errcheck // only read
		return loadArchive(f, key(c.Item, c.Archive))
	})
}

func (s *session) load(id string, load func() (*chartFiles, error)) (*chartFiles, error) {
	l, ok := s.loaded[id]
	if !ok {
		l = &loadedChart{}
		l.chart, l.err = load()
		s.loaded[id] = l
	}
	return l.chart, l.err
}

// errNotCarried is a chart that is not in the bundle: the reference to it says so.
var errNotCarried = errors.New("is not in the bundle")

// carriedChart finds the chart of the bundle that a reference means.
func (s *session) carriedChart(repository, name, version string) (*closure.Chart, error) {
	var best *closure.Chart
	var bestVersion *semver.Version
	for i := range s.charts {
		c := &s.charts[i]
		same := slices.ContainsFunc(c.Sources, func(have string) bool {
			return strings.EqualFold(strings.TrimSuffix(have, "/"), strings.TrimSuffix(repository, "/"))
		})
		if !same || !strings.HasPrefix(repository, "oci://") && c.Name != name || !versionFits(version, c.Version) {
			continue
		}
		v, err := semver.NewVersion(c.Version)
		if best == nil || err == nil && (bestVersion == nil || v.GreaterThan(bestVersion)) {
			best, bestVersion = c, v
		}
	}
	if best == nil {
		return nil, errNotCarried
	}
	return best, nil
}

// versionFits compares a version, a tag or a constraint with the version of a chart.
func versionFits(want, have string) bool {
	if want == "" || want == have || strings.TrimPrefix(want, "v") == strings.TrimPrefix(have, "v") || strings.ReplaceAll(want, "_", "+") == have {
		return true
	}
	c, err := semver.NewConstraint(want)
	if err != nil {
		return false
	}
	v, err := semver.NewVersion(have)
	return err == nil && c.Check(v)
}

// treeValues reads a values file of a revision. home is the revision that is rendered, whose files need no name.
func (s *session) treeValues(rev, home *revision, name string) (*valuesFile, error) {
	item, revision := rev.repo.Item, rev.name
	if home != nil && rev.repo == home.repo && rev.name == home.name {
		item, revision = "", ""
	}
	data, err := rev.tree.ReadFile(name)
	if err != nil {
		return nil, pathless(err)
	}
	id := key(item, revision, name, digestOf(data))
	if v := s.files[id]; v != nil {
		return v, nil
	}
	v, err := newValuesFile(name, item, revision, name, data)
	if err != nil {
		return nil, err
	}
	s.files[id] = v
	return v, nil
}

// diskValues reads a values file of a chart item. What a Place says is its name as the request has it.
func (s *session) diskValues(c *closure.Chart, name string) (*valuesFile, error) {
	full := name
	if !filepath.IsAbs(name) {
		full = filepath.Join(c.Dir, filepath.FromSlash(name))
	}
	root, err := os.OpenRoot(filepath.Dir(full))
	if err != nil {
		return nil, pathless(err)
	}
	defer root.Close() //nolint:errcheck // only read
	data, err := readAtMost(root, filepath.Base(full), maxFile)
	if err != nil {
		return nil, err
	}
	return newValuesFile(name, "", "", name, data)
}

// helm renders a chart, or takes what the same rendering gave before.
func (s *session) helm(what string, j *helmJob, post *kustomizeJob) (*result, error) {
	if j.kubeVersion == "" {
		j.kubeVersion = s.kubeVersion
	}
	j.apiVersions = append(slices.Clip(s.apiVersions), j.apiVersions...)
	var files []any
	for _, v := range j.values {
		files = append(files, []any{v.shown, v.source.item, v.source.revision, v.id})
	}
	var inline []any
	for _, in := range j.inline {
		inline = append(inline, []any{in.item, in.revision, in.file, len(in.scalars), firstOf(in)})
	}
	id := key("helm", j.chart.folder, j.chart.id, j.release, j.namespace, files, j.mergedValues, inline, j.skipCRDs, j.kubeVersion, j.apiVersions, j.replaceDefaults, post.key())
	if r := s.results[id]; r != nil {
		return r, nil
	}
	empty := &result{engine: "helm", path: j.chart.folder, values: j.shown(), at: closure.Place{File: j.chart.path("Chart.yaml"), Values: j.shown()}}
	r, err := s.guarded(what, empty, func(l lease) *result {
		r := j.run(l, s.fields)
		if post != nil && r.ran {
			post.render(l, s, r)
		}
		return r
	})
	if err != nil {
		return nil, err
	}
	s.results[id] = r.settle()
	return r, nil
}

func firstOf(s *source) any {
	if len(s.scalars) == 0 {
		return nil
	}
	return s.scalars[0].line
}

// kustomize builds a kustomization, or takes what the same build gave before.
func (s *session) kustomize(what string, j *kustomizeJob) (*result, error) {
	id := key("kustomize", j.tree.id, j.key())
	if r := s.results[id]; r != nil {
		return r, nil
	}
	empty := &result{engine: "kustomize", path: j.dir, at: closure.Place{File: path.Join(j.dir, "kustomization.yaml")}}
	r, err := s.guarded(what, empty, func(l lease) *result { return j.run(l, s) })
	if err != nil {
		return nil, err
	}
	s.results[id] = r.settle()
	return r, nil
}

// key is what a build depends on besides its tree.
func (j *kustomizeJob) key() any {
	if j == nil {
		return nil
	}
	return []any{j.dir, j.extra, j.asker, j.plain, j.vars}
}

// manifests reads plain manifests of one folder or of several.
func (s *session) manifests(what string, t *tree, names []string, folder string) (*result, error) {
	all := &result{engine: "manifests", path: folder, ran: true, at: closure.Place{File: folder}}
	for _, name := range names {
		n, err := t.find(name)
		if err != nil {
			continue
		}
		id := key("manifest", name, n.id)
		r := s.results[id]
		if r == nil {
			empty := &result{engine: "manifests", at: closure.Place{File: name}}
			if r, err = s.guarded(what, empty, func(lease) *result { return manifestFile(t, name, s.fields) }); err != nil {
				return nil, err
			}
			s.results[id] = r.settle()
		}
		all.add(r)
	}
	return all, nil
}

// add appends what another result found.
func (r *result) add(o *result) {
	r.objects = append(r.objects, o.objects...)
	r.count += o.count
	r.refs = append(r.refs, o.refs...)
	r.problems = append(r.problems, o.problems...)
	r.secrets = append(r.secrets, o.secrets...)
	r.texts = append(r.texts, o.texts...)
	r.covers = append(r.covers, o.covers...)
}

// describeRendering names a rendering in messages about the whole run.
func describeRendering(item, revision, path string) string {
	return strings.TrimSuffix(fmt.Sprintf("%s %s", cmp.Or(path, "the root")+" of "+item, revision), " ")
}
