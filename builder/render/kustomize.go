package render

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/resmap"
	"sigs.k8s.io/kustomize/api/types"
	kyaml "sigs.k8s.io/yaml"

	"github.com/plimsoll/plimsoll/builder/closure"
)

// kustomizeJob is one build.
type kustomizeJob struct {
	tree  *tree
	dir   string
	extra map[string]any    // fields that are added to the kustomization.yaml
	asker closure.Place     // where extra stands
	plain bool              // without a kustomization.yaml, all manifests in the folder are one
	vars  map[string]string // what Flux fills in; nil: nothing
}

// kustomizer is a build that is under way.
type kustomizer struct {
	*kustomizeJob
	lease   lease
	s       *session
	files   *overlay
	r       *result
	ready   map[string]int           // loads of each kustomization, by its path in files
	all     []*mountedKustomization  // in the order of prepare: the root first
	charts  map[string]closure.Place // of images that came out of helmCharts
	stopped bool                     // it cannot be built
	absent  bool                     // something remote was left out
}

type mountedKustomization struct {
	*kustomization
	mount *mount
}

// run builds a kustomization and finds what it needs.
func (j *kustomizeJob) run(l lease, s *session) *result {
	k := &kustomizer{
		kustomizeJob: j, lease: l, s: s, files: newOverlay(), r: &result{engine: "kustomize", path: j.dir},
		ready: make(map[string]int), charts: make(map[string]closure.Place),
	}
	m := k.files.mount(j.tree, "", "")
	root := readKustomization(j.tree, j.dir)
	if root != nil && root.foreign() {
		root = nil
	}
	if root == nil && j.plain {
		root = k.allManifests()
	}
	if root == nil {
		k.r.problem(closure.Place{File: j.dir}, "has no kustomization.yaml")
		return k.r
	}
	if loads := k.prepare(m, root, nil); loads > maxKustomLoads {
		k.r.problem(closure.Place{File: root.file}, "reads kustomizations %d times, more than %d", loads, maxKustomLoads)
		k.stopped = true
	}
	if !k.stopped {
		k.build(m)
	}
	for _, read := range k.files.reads {
		if read.mount == m {
			k.r.covers = append(k.r.covers, read.name)
		}
	}
	for _, z := range k.all {
		if z.mount == m {
			k.r.covers = append(k.r.covers, z.dir)
		}
	}
	slices.Sort(k.r.covers)
	k.r.covers = slices.Compact(k.r.covers)
	return k.r
}

// prepare looks through a kustomization and all that it refers to, leaves out what cannot be had or puts something in its
// place, and gives how many kustomizations are read for it, each as often as it is referred to.
func (k *kustomizer) prepare(m *mount, z *kustomization, above []string) int {
	at := m.path(z.dir)
	place := closure.Place{Item: m.item, Revision: m.revision, File: z.file}
	switch {
	case slices.Contains(above, at):
		k.stop(place, "kustomizations refer to each other in a circle: %s", strings.Join(append(above[slices.Index(above, at):], at), " → "))
		return 0
	case len(above) >= maxKustomize:
		k.stop(place, "kustomizations refer to each other deeper than %d", maxKustomize)
		return 0
	case z.err != nil:
		place.Line = z.doc.line + yamlErrorLine(z.err) - 1
		k.stop(place, "%v", z.err)
		return 0
	}
	if loads, ok := k.ready[at]; ok {
		return loads
	}
	own := &mountedKustomization{z, m}
	k.all = append(k.all, own)
	change := newRewrite(z.value)
	extended := *z
	if len(above) == 0 && k.extra != nil {
		change.extend(k.extra)
		extended.value, _ = deepCopy(change.value).(map[string]any)
	}
	loads := 1
	for _, e := range extended.entries() {
		sub, subMount := k.resolve(own, e, change)
		if sub != nil {
			loads = min(loads+k.prepare(subMount, sub, append(above[:len(above):len(above)], at)), maxKustomLoads+1)
		}
		if k.stopped {
			return loads
		}
	}
	k.inline(own, change)
	k.inflate(own, change)
	if change.changed {
		data, err := kyaml.Marshal(change.done())
		if err != nil {
			k.stop(place, "%v", err)
		}
		k.files.made[m.path(z.file)] = data
	}
	k.ready[at] = loads
	return loads
}

func (k *kustomizer) stop(place closure.Place, format string, args ...any) {
	if !k.stopped {
		k.r.problem(place, format, args...)
	}
	k.stopped = true
}

// resolve gives the kustomization that an entry refers to, if it does, and where it is.
func (k *kustomizer) resolve(z *mountedKustomization, e entry, change *rewrite) (*kustomization, *mount) {
	name := path.Join(z.dir, e.text)
	if web := strings.HasPrefix(strings.ToLower(e.text), "http"); isRemote(e.text) && (web || !z.mount.tree.isFile(name)) {
		return k.remote(z, e, change)
	}
	n, err := z.mount.tree.find(name)
	if err != nil || !n.mode.IsDir() {
		return nil, nil // a file, or kustomize will say that there is none
	}
	return readKustomization(z.mount.tree, n.path), z.mount
}

// remote reports what an entry would fetch. A folder of a repository that the bundle carries takes the place of the entry,
// all others are left out.
func (k *kustomizer) remote(z *mountedKustomization, e entry, change *rewrite) (*kustomization, *mount) {
	place := closure.Place{Item: z.mount.item, Revision: z.mount.revision, File: z.file, Line: z.line(e.field), Field: e.field.String()}
	r := parseRemote(e.text)
	if r.file || !slices.Contains([]string{"resources", "bases", "components", "generators", "transformers", "validators"}, e.field[0].key) {
		change.drop(e.field)
		k.absent = true
		k.r.problem(place, "%v: put the file into the repository", &fetchError{withoutUser(e.text)})
		return nil, nil
	}
	k.r.refs = append(k.r.refs, closure.Reference{Kind: closure.KindGit, Ref: r.url, Version: r.revision, Place: place})
	rev, err := k.s.repos.find(r.url, r.revision)
	if err != nil {
		change.drop(e.field)
		k.absent = true
		if !errors.Is(err, fs.ErrNotExist) {
			k.r.problem(place, "%v", err)
		}
		return nil, nil
	}
	m := k.files.mount(rev.tree, rev.repo.Item, rev.name)
	n, err := rev.tree.find(r.path)
	if err != nil || !n.mode.IsDir() {
		k.stop(place, "%s has no folder %q at %s", rev.repo.Item, r.path, rev.name)
		return nil, nil
	}
	relative, err := filepath.Rel(z.mount.path(z.dir), m.path(n.path))
	if err != nil {
		k.stop(place, "%v", err)
		return nil, nil
	}
	change.set(e.field, relative)
	return readKustomization(rev.tree, n.path), m
}

// inline leaves out the configurations of plugins that stand in the kustomization itself and would fetch something.
func (k *kustomizer) inline(z *mountedKustomization, change *rewrite) {
	for _, field := range []string{"generators", "transformers", "validators"} {
		list, _ := z.value[field].([]any)
		for i, e := range list {
			text, _ := e.(string)
			if err := checkYAML(z.file, []byte(text)); err != nil {
				at := fieldPath{{key: field}, {index: i}}
				change.drop(at)
				k.absent = true
				place := closure.Place{Item: z.mount.item, Revision: z.mount.revision, File: z.file, Line: z.line(at), Field: at.String()}
				k.r.problem(place, "%v", err)
			}
		}
	}
}

// allManifests makes the kustomization that Flux makes of a folder without one.
func (k *kustomizer) allManifests() *kustomization {
	var resources []any
	k.tree.walk(k.dir, func(n *node) bool {
		name, _ := within(k.dir, n.path)
		switch {
		case n.mode.IsDir():
			if z := readKustomization(k.tree, n.path); z != nil && !z.foreign() {
				resources = append(resources, name)
				return true
			}
		case n.mode.IsRegular() && isYAML(n.path) && isManifest(k.tree, n.path):
			resources = append(resources, name)
		}
		return false
	})
	data, err := kyaml.Marshal(map[string]any{
		"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": resources,
	})
	if err != nil {
		return nil
	}
	file := path.Join(k.dir, "kustomization.yaml")
	if k.tree.isFile(file) { // an object of Flux
		file = path.Join(k.dir, "kustomization.yml")
	}
	k.files.made["/0/"+file] = data
	return parseKustomization(k.dir, file, data)
}

// isManifest reports a file of which every document is an object.
func isManifest(t *tree, name string) bool {
	if !looksLikeManifest(t, name) {
		return false
	}
	data, _ := t.ReadFile(name)
	docs, err := splitDocuments(data)
	if err != nil {
		return true // let it be reported
	}
	for _, d := range docs {
		value, err := d.value()
		if m, _ := value.(map[string]any); err == nil && !isObject(m) {
			return false
		}
	}
	return len(docs) > 0
}

// build lets kustomize do its work.
func (k *kustomizer) build(m *mount) {
	file := k.all[0].file
	options := krusty.MakeDefaultOptions() // no plugins but the built-in ones, nothing from above a kustomization, as Argo CD
	if k.plain {
		options.LoadRestrictions = types.LoadRestrictionsNone // as Flux, which stays in the repository too
	}
	resources, err := krusty.MakeKustomizer(options).Run(k.files, m.path(k.dir))
	k.lease.check()
	if err != nil {
		reason := strings.ReplaceAll(err.Error(), m.at+"/", "")
		if k.absent {
			reason += " (something that it refers to is not in the bundle, so that it was left out)"
		}
		k.r.problem(k.errorPlace(reason, file), "%s", reason)
		return
	}
	k.r.ran = true
	k.take(resources)
}

// errorPlace finds the file that an error of kustomize names.
func (k *kustomizer) errorPlace(reason, file string) closure.Place {
	place := closure.Place{File: file}
	for _, read := range slices.Backward(k.files.reads) {
		if read.name != file && (strings.Contains(reason, "'"+path.Base(read.name)+"'") || strings.Contains(reason, read.name)) && !strings.HasPrefix(path.Base(read.name), madeFile) {
			return closure.Place{Item: read.mount.item, Revision: read.mount.revision, File: read.name}
		}
	}
	return place
}

// take finds what the objects of a build need.
func (k *kustomizer) take(resources resmap.ResMap) {
	l := newKustomLocator(k)
	for _, res := range resources.Resources() {
		value, err := plainObject(res)
		if err != nil {
			k.r.problem(closure.Place{File: k.all[0].file}, "%s: %v", res.CurId(), err)
			continue
		}
		if k.vars != nil {
			value = substitute(value, k.vars)
		}
		for _, item := range unlist(value) {
			own := item.value.(map[string]any)
			place := l.object(own)
			k.r.objects = append(k.r.objects, object{own, place})
			found := collect(own, k.s.fields)
			for _, n := range found.images {
				k.r.refs = append(k.r.refs, closure.Reference{Kind: closure.KindImage, Ref: n.ref, Place: l.image(n, own, place)})
			}
			for _, n := range found.invalid {
				k.r.problem(l.image(n, own, place), "%.200q is not an image reference", n.ref)
			}
			for _, s := range literalSecrets(own, func(text string) bool { return !strings.Contains(text, madeUp) }) {
				field := s.Place.Field
				s.Place = place
				s.Place.Field = field
				k.r.secrets = append(k.r.secrets, s)
			}
		}
	}
}

func plainObject(res json.Marshaler) (map[string]any, error) {
	data, err := res.MarshalJSON()
	if err != nil {
		return nil, err
	}
	var value map[string]any
	return value, json.Unmarshal(data, &value)
}

// rewrite changes a kustomization.
type rewrite struct {
	value   map[string]any
	changed bool
	gone    map[string]map[int]bool
}

func newRewrite(value map[string]any) *rewrite {
	own, _ := deepCopy(value).(map[string]any)
	if own == nil {
		own = make(map[string]any)
	}
	return &rewrite{value: own, gone: make(map[string]map[int]bool)}
}

// set gives the element of a list of strings another text.
func (w *rewrite) set(at fieldPath, text string) {
	if list, ok := w.value[at[0].key].([]any); ok {
		list[at[1].index], w.changed = text, true
	}
}

// drop leaves out the element of a list that a field is in, or a map.
func (w *rewrite) drop(at fieldPath) {
	w.changed = true
	field := at[0].key
	if at[1].key != "" {
		delete(w.value, field)
		return
	}
	if w.gone[field] == nil {
		w.gone[field] = make(map[int]bool)
	}
	w.gone[field][at[1].index] = true
}

// done gives what is left.
func (w *rewrite) done() map[string]any {
	for field, gone := range w.gone {
		list, _ := w.value[field].([]any)
		kept := []any{}
		for i, e := range list {
			if !gone[i] {
				kept = append(kept, e)
			}
		}
		w.value[field] = kept
	}
	return w.value
}

// extend adds fields as Argo CD and Flux do: lists get longer, except that images and replicas of the same name are
// replaced; maps are merged; text is replaced.
func (w *rewrite) extend(extra map[string]any) {
	w.changed = true
	for _, field := range slices.Sorted(maps.Keys(extra)) {
		switch more := deepCopy(extra[field]).(type) {
		case []any:
			list, _ := w.value[field].([]any)
			if field == "images" || field == "replicas" {
				list = slices.DeleteFunc(list, func(e any) bool { return slices.ContainsFunc(more, func(m any) bool { return sameName(e, m) }) })
			}
			w.value[field] = append(list, more...)
		case map[string]any:
			under, _ := w.value[field].(map[string]any)
			w.value[field] = merge(under, more)
		default:
			w.value[field] = more
		}
	}
}

func sameName(a, b any) bool {
	x, _ := a.(map[string]any)
	y, _ := b.(map[string]any)
	return x["name"] != nil && fmt.Sprint(x["name"]) == fmt.Sprint(y["name"])
}
