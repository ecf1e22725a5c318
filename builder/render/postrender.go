package render

import (
	"bytes"

	kyaml "sigs.k8s.io/yaml"

	"github.com/plimsoll/plimsoll/builder/closure"
)

// render changes what a chart made, as a post-renderer of Flux does.
func (j *kustomizeJob) render(l lease, s *session, r *result) {
	var all bytes.Buffer
	places := make(map[string]closure.Place)
	for _, o := range r.objects {
		data, err := kyaml.Marshal(o.value)
		if err != nil {
			continue // it was YAML a moment ago
		}
		all.WriteString("---\n")
		all.Write(data)
		places[o.place.Object] = o.place
	}
	empty := newTree()
	empty.id = "empty"
	k := &kustomizer{
		kustomizeJob: &kustomizeJob{tree: empty, dir: ".", extra: j.extra, asker: j.asker}, lease: l, s: s, files: newOverlay(),
		r: &result{}, ready: make(map[string]int), charts: make(map[string]closure.Place),
	}
	for _, ref := range r.refs {
		k.charts[ref.Ref] = ref.Place
	}
	m := k.files.mount(empty, "", "")
	const name = madeFile + "all.yaml"
	k.files.made[m.path(name)] = all.Bytes()
	k.prepare(m, parseKustomization(".", "kustomization.yaml", []byte("resources: ["+name+"]")), nil)
	if !k.stopped {
		k.build(m)
	}
	r.problems = append(r.problems, atAsker(k.r.problems, j.asker)...)
	if !k.r.ran {
		return // what the chart made is better than nothing
	}
	r.objects = r.objects[:0]
	for _, o := range k.r.objects {
		name := o.place.Object
		o.place = j.asker
		if p, ok := places[name]; ok {
			o.place = p
		}
		o.place.Object = name
		r.objects = append(r.objects, o)
	}
	r.takeImages(k.r.refs, places, j.asker)
}

// takeImages replaces the images of a result by those after a post-renderer.
func (r *result) takeImages(refs []closure.Reference, places map[string]closure.Place, asker closure.Place) {
	var kept []closure.Reference
	for _, ref := range r.refs {
		if ref.Kind != closure.KindImage {
			kept = append(kept, ref)
		}
	}
	for _, ref := range refs {
		if ref.Place.File == "kustomization.yaml" && ref.Place.Item == "" {
			object, field := ref.Place.Object, ref.Place.Field
			ref.Place = asker
			if p, ok := places[object]; ok {
				ref.Place = p
			}
			ref.Place.Object, ref.Place.Field = object, field
		}
		ref.Place.Values = r.values
		kept = append(kept, ref)
	}
	r.refs = kept
}

// atAsker gives problems of a build that has no file of its own the place of whoever asked for it.
func atAsker(problems []closure.Problem, asker closure.Place) []closure.Problem {
	for i := range problems {
		problems[i].Place = asker
	}
	return problems
}
