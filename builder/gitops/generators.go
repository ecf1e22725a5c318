package gitops

import (
	"fmt"
	"iter"
	"maps"
	"slices"
)

// generatorKinds in the order in which Argo CD asks them when one entry has several.
var generatorKinds = []string{
	"list", "clusters", "git", "scmProvider", "clusterDecisionResource", "pullRequest", "matrix", "merge", "plugin",
}

func isGenerator(kind string) bool { return slices.Contains(generatorKinds, kind) }

// maxNesting of generators: a matrix in a matrix holds plain ones.
const maxNesting = 2

// parameters are what a generator gives, one map for each Application.
type parameters struct {
	list    []map[string]any
	partial bool // more of them, or more in them, is only known at the site
}

// sorted gives the entries of a map in the order of its keys.
func sorted[V any](m map[string]V) iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if !yield(k, m[k]) {
				return
			}
		}
	}
}

// generate asks one generator of an entry and leaves out what the entry's selector does not select. outer are the
// parameters that the first generator of a matrix gave to this second one.
func (set *applicationSet) generate(entry node, kind string, outer map[string]any, depth int) parameters {
	g := entry.child(kind)
	if len(outer) > 0 {
		filled, err := set.interpolate(g, kind, outer)
		if err != nil {
			set.problem(g.path, "%s with %s: %v", g.path, summary(outer), err)
			return parameters{partial: true}
		}
		g.m = filled
	}
	var p parameters
	switch kind {
	case "list":
		p = set.listGenerator(g)
	case "git":
		p = set.gitGenerator(g)
	case "clusters":
		p = set.clusterGenerator(g)
	case "matrix":
		p = set.matrixGenerator(g, depth)
	case "merge":
		p = set.mergeGenerator(g, depth)
	default:
		set.problem(g.path, "%s: what the generator %s gives is only known at the site", g.path, kind)
		p.partial = true
	}
	if !entry.has("selector") {
		return p
	}
	chosen, err := newSelector(entry.child("selector"))
	if err != nil {
		set.problem(entry.field("selector"), "%s: %v", entry.field("selector"), err)
		return parameters{partial: true}
	}
	p.list = slices.DeleteFunc(p.list, func(params map[string]any) bool {
		flat := make(map[string]string)
		flatten(flat, "", params)
		return !chosen.matches(flat)
	})
	return p
}

// interpolate fills the parameters of a matrix's first generator into its second one. Its template is never used, and its
// values may name parameters of its own that are not there yet.
func (set *applicationSet) interpolate(g node, kind string, outer map[string]any) (map[string]any, error) {
	outer, _ = clone(outer).(map[string]any)
	rest := maps.Clone(g.m)
	delete(rest, "template")
	values, hasValues := rest["values"].(map[string]any)
	if hasValues && kind != "list" {
		delete(rest, "values")
	}
	filled, err := set.engine.fill(rest, outer)
	if err != nil {
		return nil, err
	}
	out, _ := filled.(map[string]any)
	if !hasValues || kind == "list" {
		return out, nil
	}
	resolved := make(map[string]any, len(values))
	for k, v := range sorted(values) {
		resolved[k] = v
		if text, ok := v.(string); ok {
			v, err := set.engine.replaceWith(text, outer, []string{"missingkey=error"})
			if err == nil {
				resolved[k] = v
			} else if !missingKey(err) {
				return nil, err
			}
		}
	}
	out["values"] = resolved
	return out, nil
}

func (set *applicationSet) listGenerator(g node) (p parameters) {
	for _, e := range g.children("elements") {
		if set.engine.goTemplate {
			p.list = append(p.list, e.m)
			continue
		}
		params := make(map[string]any)
		for k, v := range sorted(e.m) {
			if k != "values" {
				params[k] = e.str(k)
				continue
			}
			if _, ok := v.(map[string]any); !ok {
				e.wrong(k, v, "map")
			}
			for name, value := range e.stringMap(k) {
				params["values."+name] = value
			}
		}
		p.list = append(p.list, params)
	}
	text := g.str("elementsYaml")
	if text == "" {
		return p
	}
	v, err := parseYAML([]byte(text))
	elements, ok := v.([]any)
	if err == nil && !ok && v != nil {
		err = fmt.Errorf("a %s, want a list", typeName(v))
	}
	for _, e := range elements {
		m, ok := e.(map[string]any)
		if !ok && e != nil {
			err = fmt.Errorf("an element is a %s, want a map", typeName(e))
			break
		}
		p.list = append(p.list, m)
	}
	if err != nil {
		set.problem(g.field("elementsYaml"), "%s: %v", g.field("elementsYaml"), err)
		p.partial = true
	}
	return p
}

// clusterGenerator knows one cluster: the one that Argo CD runs in, which has no labels that a selector could match.
func (set *applicationSet) clusterGenerator(g node) parameters {
	set.problem(g.path, "%s: which clusters there are is only known at the site", g.path)
	p := parameters{partial: true}
	selector := g.child("selector")
	if len(selector.list("matchExpressions")) > 0 || len(selector.stringMap("matchLabels")) > 0 {
		return p
	}
	params := map[string]any{
		"name": "in-cluster", "nameNormalized": "in-cluster", "server": "https://kubernetes.default.svc", "project": "",
	}
	if err := set.addValues(g, params); err != nil {
		return p // of a real cluster's labels, most likely; reported above
	}
	if g.boolean("flatList") {
		params = map[string]any{"clusters": []any{params}}
	}
	p.list = append(p.list, params)
	return p
}

// addValues adds a generator's values, which may use its parameters but not each other.
func (set *applicationSet) addValues(g node, params map[string]any) error {
	filled := make(map[string]string)
	for k, v := range sorted(g.stringMap("values")) {
		text, err := set.engine.replace(v, params)
		if err != nil {
			return err
		}
		filled[k] = text
	}
	switch {
	case len(filled) == 0:
	case set.engine.goTemplate:
		params["values"] = filled
	default:
		for k, v := range filled {
			params["values."+k] = v
		}
	}
	return nil
}

// nested gives the entries of a matrix or merge, each with the one generator that it must have.
func (set *applicationSet) nested(g node, depth int) (entries []node, kinds []string, err error) {
	if depth >= maxNesting {
		return nil, nil, fmt.Errorf("nested deeper than %d", maxNesting)
	}
	for _, e := range g.children("generators") {
		var found []string
		for _, kind := range generatorKinds {
			if e.has(kind) {
				found = append(found, kind)
			}
		}
		if unknown := unknownGenerator(e); unknown != "" {
			found = append(found, unknown)
		}
		if len(found) != 1 {
			return nil, nil, fmt.Errorf("%s has %d generators, want 1", e.path, len(found))
		}
		entries, kinds = append(entries, e), append(kinds, found[0])
	}
	return entries, kinds, nil
}

func (set *applicationSet) matrixGenerator(g node, depth int) parameters {
	entries, kinds, err := set.nested(g, depth)
	if err == nil && len(entries) != 2 {
		err = fmt.Errorf("%d generators, want 2", len(entries))
	}
	if err != nil {
		set.problem(g.path, "%s: %v", g.path, err)
		return parameters{partial: true}
	}
	first := set.generate(entries[0], kinds[0], nil, depth+1)
	out := parameters{partial: first.partial}
	for _, a := range first.list {
		second := set.generate(entries[1], kinds[1], a, depth+1)
		out.partial = out.partial || second.partial
		for _, b := range second.list {
			if len(out.list) >= MaxApplications {
				set.problem(g.path, "%s: more than %d combinations", g.path, MaxApplications)
				out.partial = true
				return out
			}
			both, err := set.combine(a, b)
			if err != nil {
				set.problem(g.path, "%s: %v", g.path, err)
				out.partial = true
				continue
			}
			out.list = append(out.list, both)
		}
	}
	return out
}

// combine is one cell of a matrix. Where both have a parameter, the first generator's counts with goTemplate; without, it
// is an error when they differ.
func (set *applicationSet) combine(a, b map[string]any) (map[string]any, error) {
	if set.engine.goTemplate {
		return overlay(b, a), nil
	}
	out := make(map[string]any, len(a)+len(b))
	for k, v := range a {
		out[k] = fmt.Sprint(v)
	}
	for k, v := range sorted(b) {
		value := fmt.Sprint(v)
		if have, ok := out[k]; ok && have != value {
			return nil, fmt.Errorf("both generators give %s: %q and %q", k, have, value)
		}
		out[k] = value
	}
	return out, nil
}

func (set *applicationSet) mergeGenerator(g node, depth int) parameters {
	entries, kinds, err := set.nested(g, depth)
	keys := slices.Compact(slices.Sorted(slices.Values(g.strings("mergeKeys"))))
	switch {
	case err != nil:
	case len(entries) < 2:
		err = fmt.Errorf("%d generators, want at least 2", len(entries))
	case len(keys) == 0:
		err = fmt.Errorf("no mergeKeys")
	}
	if err != nil {
		set.problem(g.path, "%s: %v", g.path, err)
		return parameters{partial: true}
	}
	var out parameters
	var base map[string]map[string]any
	for i, e := range entries {
		p := set.generate(e, kinds[i], nil, depth+1)
		out.partial = out.partial || p.partial
		byKey, err := byMergeKey(keys, p.list)
		if err != nil {
			set.problem(g.path, "%s: %v", e.path, err)
			out.partial = true
		}
		if i == 0 {
			base = byKey
			continue
		}
		for key, params := range byKey {
			if have, ok := base[key]; !ok {
				continue
			} else if set.engine.goTemplate {
				base[key] = overlay(have, params)
			} else {
				base[key] = maps.Clone(have)
				maps.Copy(base[key], params)
			}
		}
	}
	for _, params := range sorted(base) {
		out.list = append(out.list, params)
	}
	return out
}

func byMergeKey(keys []string, list []map[string]any) (map[string]map[string]any, error) {
	out := make(map[string]map[string]any, len(list))
	var err error
	for _, params := range list {
		id := make([]any, len(keys))
		for i, k := range keys {
			id[i] = params[k]
		}
		key := text(id)
		if _, ok := out[key]; ok {
			err = fmt.Errorf("two sets of parameters have %v = %s", keys, key)
			continue
		}
		out[key] = params
	}
	return out, err
}
