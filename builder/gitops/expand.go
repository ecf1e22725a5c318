package gitops

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/plimsoll/plimsoll/builder/closure"
)

// Expand reads Argo CD's and Flux's objects among objects and gives what they will render and fetch. Other objects are
// left alone, but for the ConfigMaps and Secrets that Flux takes values from. It never fails: what is not understood is a
// Problem.
func Expand(objects []Object, look Lookup) Found {
	x := &expander{look: look, trees: make(map[[2]string]*tree), byName: make(map[string][]*source), applications: MaxApplications}
	var todo []*source
	for _, o := range objects {
		apiVersion, _ := o.Value["apiVersion"].(string)
		kind, _ := o.Value["kind"].(string)
		group, _, _ := strings.Cut(apiVersion, "/")
		read := readers[group][kind]
		if read == nil && !(apiVersion == "v1" && (kind == "ConfigMap" || kind == "Secret")) {
			continue
		}
		if s := x.source(o, kind, read); s != nil {
			x.byName[kind+"/"+s.name] = append(x.byName[kind+"/"+s.name], s)
			todo = append(todo, s)
		}
	}
	for _, s := range todo {
		if s.read != nil {
			s.read(x, s)
		}
	}
	return x.result()
}

// readers say what is done with an object, by API group (all versions of it: fields that a version lacks are absent) and
// kind.
var readers = map[string]map[string]func(*expander, *source){
	"argoproj.io": {
		"Application":    (*expander).argoApplication,
		"ApplicationSet": (*expander).applicationSet,
	},
	"source.toolkit.fluxcd.io": {
		"GitRepository":  (*expander).gitRepository,
		"OCIRepository":  (*expander).ociRepository,
		"HelmRepository": (*expander).helmRepository,
		"HelmChart":      (*expander).helmChart,
		"Bucket":         (*expander).notCarried,
	},
	"kustomize.toolkit.fluxcd.io": {"Kustomization": (*expander).fluxKustomization},
	"helm.toolkit.fluxcd.io":      {"HelmRelease": (*expander).helmRelease},
	"fluxcd.controlplane.io":      {"ResourceSet": (*expander).notCarried},
	"source.extensions.fluxcd.io": {"ArtifactGenerator": (*expander).notCarried},
	"fleet.cattle.io":             {"GitRepo": (*expander).fleetGitRepo},
}

// source is one object that is read.
type source struct {
	scope
	kind, namespace, name string
	value                 map[string]any
	read                  func(*expander, *source)
}

// node gives a field of the object.
func (s *source) node(key string) node { return node{s.value, "", &s.scope}.child(key) }

// scope is what stands in every message: the object, and where it was found.
type scope struct {
	x     *expander
	by    string // Application argocd/robot-001
	place closure.Place
}

func (s *scope) at(field string) closure.Place {
	p := s.place
	p.Object, p.Field = s.by, field
	return p
}

func (s *scope) problem(field, format string, args ...any) {
	s.x.found.Problems = append(s.x.found.Problems, closure.Problem{Reason: bounded(fmt.Sprintf(format, args...)), Place: s.at(field)})
}

func (s *scope) refer(field string, r closure.Reference) {
	r.Place = s.at(field)
	r.Ref = withoutUser(r.Ref)
	s.x.found.References = append(s.x.found.References, r)
}

func (s *scope) task(t Task) {
	t.By, t.Place = s.by, s.at("")
	t.URL = withoutUser(t.URL)
	for i := range t.helmValueFiles() {
		t.Helm.ValueFiles[i].URL = withoutUser(t.Helm.ValueFiles[i].URL)
	}
	s.x.found.Tasks = append(s.x.found.Tasks, t)
}

func (t Task) helmValueFiles() []ValueFile {
	if t.Helm == nil {
		return nil
	}
	return t.Helm.ValueFiles
}

const maxReason = 2000

// bounded cuts a message short: templates put whole files into theirs.
func bounded(s string) string {
	if len(s) <= maxReason {
		return s
	}
	return strings.ToValidUTF8(s[:maxReason], "") + " …"
}

// expander is one call of Expand.
type expander struct {
	look         Lookup
	found        Found
	trees        map[[2]string]*tree
	byName       map[string][]*source // Kind/name
	applications int                  // that may still be generated
}

func (x *expander) source(o Object, kind string, read func(*expander, *source)) *source {
	s := &source{kind: kind, read: read}
	s.scope = scope{x: x, place: o.Place, by: kind}
	value, err := plain(o.Value, 0)
	if err != nil {
		if read != nil { // or it is a ConfigMap, which most likely nobody takes values from
			s.problem("", "%s: %v", kind, err)
		}
		return nil
	}
	s.value, _ = value.(map[string]any)
	meta := node{s.value, "", &s.scope}.child("metadata")
	s.namespace, s.name = meta.str("namespace"), meta.str("name")
	s.by = describe(kind, s.namespace, s.name)
	return s
}

// describe names an object as messages do: Application argocd/robot-001.
func describe(kind, namespace, name string) string {
	if namespace != "" {
		return kind + " " + namespace + "/" + name
	}
	return kind + " " + name
}

// find gives the objects that a reference of s to kind, namespace and name can mean. Manifests often leave the namespace
// to whoever applies them, and one revision holds the manifests of many sites, each with an object of that name: the
// nearest ones win, and objects that are equal count once.
func (s *source) find(kind, namespace, name string) []*source {
	var best []*source
	top := -1
	for _, c := range s.x.byName[kind+"/"+name] {
		points := 0
		switch {
		case c.namespace == namespace:
			points = 2 << 20
		case c.namespace == "" || namespace == "":
			points = 1 << 20
		default:
			continue
		}
		if c.place.Item == s.place.Item && c.place.By == s.place.By {
			points += 1 << 19
		}
		points += min(sharedFolders(c.place.File, s.place.File), 1<<18)
		if points < top {
			continue
		}
		if points > top {
			best, top = best[:0], points
		}
		if !slices.ContainsFunc(best, func(b *source) bool { return text(b.value) == text(c.value) }) {
			best = append(best, c)
		}
	}
	return best
}

// sharedFolders counts the folders that two paths have in common from the root on.
func sharedFolders(a, b string) int {
	x, y := strings.Split(a, "/"), strings.Split(b, "/")
	n := 0
	for n < len(x)-1 && n < len(y)-1 && x[n] == y[n] {
		n++
	}
	return n
}

func (x *expander) notCarried(s *source) {
	s.problem("", "%s: what a %s holds is only known at the site", s.by, s.kind)
}

// tree is a revision, with what was found out about it.
type tree struct {
	Tree
	err   error
	files []string // all, sorted
	dirs  []string // that are not hidden and not below hidden ones
	read  error    // of files and dirs
	done  bool
}

// tree looks a revision up. The error says in words what is missing.
func (x *expander) tree(url, revision string) (*tree, error) {
	key := [2]string{url, revision}
	t := x.trees[key]
	if t == nil {
		t = &tree{}
		t.Tree, t.err = x.look.Tree(url, revision)
		if t.err == nil && t.FS == nil {
			t.err = fs.ErrNotExist
		}
		if errors.Is(t.err, fs.ErrNotExist) {
			t.err = fmt.Errorf("%s at %s is not in the bundle", withoutUser(url), cmp.Or(revision, "HEAD"))
		}
		x.trees[key] = t
	}
	return t, t.err
}

var errTooManyFiles = fmt.Errorf("more than %d files and folders", MaxFiles)

// list walks the tree once.
func (t *tree) list() error {
	if t.done {
		return t.read
	}
	t.done = true
	n := 0
	t.read = fs.WalkDir(t.FS, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if n++; n > MaxFiles {
			return errTooManyFiles
		}
		if !d.IsDir() {
			t.files = append(t.files, name)
		} else if name != "." && !strings.HasPrefix(name, ".") && !strings.Contains(name, "/.") {
			t.dirs = append(t.dirs, name)
		}
		return nil
	})
	slices.Sort(t.files)
	slices.Sort(t.dirs)
	return t.read
}

// readFile reads one file of bounded size.
func (t *tree) readFile(name string) ([]byte, error) {
	if !fs.ValidPath(name) {
		return nil, fmt.Errorf("%s: %w", name, fs.ErrInvalid)
	}
	info, err := fs.Stat(t.FS, name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", name)
	}
	if info.Size() > MaxFileSize {
		return nil, fmt.Errorf("%s: %d bytes, the limit is %d", name, info.Size(), MaxFileSize)
	}
	return fs.ReadFile(t.FS, name)
}

func (x *expander) result() Found {
	f := x.found
	sortUnique(&f.Tasks, func(t Task) string {
		return strings.Join([]string{t.URL, t.Revision, t.Path, t.Chart, t.By}, "\x00")
	})
	sortUnique(&f.References, func(r closure.Reference) string {
		return strings.Join([]string{r.Kind, r.Ref, r.Chart, r.Version}, "\x00")
	})
	sortUnique(&f.Problems, func(p closure.Problem) string {
		return strings.Join([]string{p.Place.Item, p.Place.Revision, p.Place.File, p.Place.Object, p.Place.Field, p.Reason}, "\x00")
	})
	return f
}

// sortUnique sorts by key, then by everything, and drops what is there twice.
func sortUnique[T any](list *[]T, key func(T) string) {
	type entry struct {
		key, all string
		value    T
	}
	entries := make([]entry, len(*list))
	for i, v := range *list {
		entries[i] = entry{key(v), text(v), v}
	}
	slices.SortFunc(entries, func(a, b entry) int { return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.all, b.all)) })
	entries = slices.CompactFunc(entries, func(a, b entry) bool { return a.key == b.key && a.all == b.all })
	out := make([]T, len(entries))
	for i, e := range entries {
		out[i] = e.value
	}
	if len(out) == 0 {
		out = nil
	}
	*list = out
}

// text is a value as one string, the same for equal values.
func text(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprintf("%#v", v) // fmt sorts the keys of maps too
	}
	return string(data)
}
