package gitops

import (
	"fmt"
	"strings"
)

// applicationSet is one ApplicationSet that is expanded.
type applicationSet struct {
	*source
	spec     node
	engine   *engine
	template map[string]any
	patch    string
	names    map[string]bool // of the Applications that were generated
}

func (x *expander) applicationSet(s *source) {
	spec := s.node("spec")
	set := &applicationSet{source: s, spec: spec, names: make(map[string]bool)}
	set.engine = newEngine(spec.boolean("goTemplate"), spec.strings("goTemplateOptions"))
	set.template = spec.child("template").m
	set.patch = spec.str("templatePatch")
	for _, g := range spec.children("generators") {
		for _, kind := range generatorKinds {
			if !g.has(kind) {
				continue
			}
			own := g.child(kind)
			template := fillEmpty(own.child("template").m, set.template)
			sets := set.generate(g, kind, nil, 0)
			for _, params := range sets.list {
				if x.applications == 0 {
					set.problem(g.path, "more than %d Applications are generated: the others are left out", MaxApplications)
					return
				}
				x.applications--
				set.application(template, params, sets.partial)
			}
		}
		if unknown := unknownGenerator(g); unknown != "" {
			set.problem(g.path, "%s: what the generator %s gives is only known at the site", g.path, unknown)
		}
	}
}

// unknownGenerator names a generator that this package has never heard of.
func unknownGenerator(g node) string {
	for k, v := range sorted(g.m) {
		if v != nil && k != "selector" && !isGenerator(k) {
			return k
		}
	}
	return ""
}

// application makes one Application of a set of parameters and reads it.
func (set *applicationSet) application(template, params map[string]any, partial bool) {
	app, err := set.fill(template, params)
	if err != nil {
		// A cluster of which only the name is known lacks what the template asks for: that was reported already.
		if !partial {
			set.problem("spec.template", "template with %s: %v", summary(params), err)
		}
		return
	}
	n := node{app, "spec.template", &scope{set.x, set.by, set.place}}
	name := n.child("metadata").str("name")
	if name == "" {
		set.problem("spec.template.metadata.name", "template with %s: gives an Application without a name", summary(params))
		return
	}
	if set.names[name] {
		set.problem("spec.template.metadata.name", "Application %s is generated twice: Argo CD refuses both", name)
	}
	set.names[name] = true
	n.s.by = describe("Application", set.namespace, name) + " of " + set.by
	set.x.application(n.s, n.child("spec"), name)
}

func (set *applicationSet) fill(template, params map[string]any) (map[string]any, error) {
	if len(params) > 0 {
		params, _ = clone(params).(map[string]any) // functions of templates change what they are given
		filled, err := set.engine.fill(template, params)
		if err != nil {
			return nil, err
		}
		template, _ = filled.(map[string]any)
	}
	if set.patch == "" {
		return template, nil
	}
	text, err := set.engine.replace(set.patch, params)
	if err != nil {
		return nil, fmt.Errorf("templatePatch: %w", err)
	}
	change, err := parsePatch(text)
	if err == nil {
		template, err = patch(template, change)
	}
	if err != nil {
		return nil, fmt.Errorf("templatePatch: %w", err)
	}
	return template, nil
}

// summary says which parameters they are, for a person who looks for one robot among many.
func summary(params map[string]any) string {
	const most = 200
	s := text(params)
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + " …"
	}
	return "parameters " + s
}
