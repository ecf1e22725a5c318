package gitops

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/plimsoll/plimsoll/builder/closure"
)

// gitGenerator gives one set of parameters for each folder, or for each file or element of a file, of a revision.
func (set *applicationSet) gitGenerator(g node) (p parameters) {
	url, revision := g.str("repoURL"), g.str("revision")
	if url == "" {
		set.problem(g.path, "%s: no repoURL", g.path)
		return parameters{partial: true}
	}
	set.refer(g.field("repoURL"), closure.Reference{Kind: closure.KindGit, Ref: url, Version: revision})
	t, err := set.x.tree(url, revision)
	if err == nil {
		err = t.list()
	}
	if err != nil {
		set.problem(g.path, "%s: what it generates is not known: %v", g.path, err)
		return parameters{partial: true}
	}
	var list []map[string]any
	switch {
	case len(g.list("directories")) > 0:
		list, err = set.directories(g, t)
	case len(g.list("files")) > 0:
		list, err = set.files(g, t)
	default:
		err = fmt.Errorf("neither directories nor files")
	}
	if err != nil {
		set.problem(g.path, "%s: %v", g.path, err)
		p.partial = true
	}
	for _, params := range list {
		if err := set.addValues(g, params); err != nil {
			set.problem(g.field("values"), "%s with %s: %v", g.field("values"), summary(params), err)
			p.partial = true
			continue
		}
		p.list = append(p.list, params)
	}
	return p
}

// patterns splits the items of a git generator into those that take in and those that take out.
func patterns(items []node) (include, exclude []string) {
	for _, i := range items {
		if i.boolean("exclude") {
			exclude = append(exclude, i.str("path"))
		} else {
			include = append(include, i.str("path"))
		}
	}
	return include, exclude
}

func (set *applicationSet) directories(g node, t *tree) ([]map[string]any, error) {
	include, exclude := patterns(g.children("directories"))
	for _, pattern := range append(slices.Clone(include), exclude...) {
		if _, err := path.Match(pattern, ""); err != nil {
			return nil, fmt.Errorf("%q: %w", pattern, err)
		}
	}
	matches := func(patterns []string, dir string) bool {
		return slices.ContainsFunc(patterns, func(p string) bool { ok, _ := path.Match(p, dir); return ok })
	}
	chosen := make(map[string]bool)
	for _, pattern := range include {
		dirs := below(t.dirs, pattern)
		if err := set.engine.work.spendAll(len(dirs) * costOfMatch * (1 + len(exclude))); err != nil {
			return nil, err
		}
		for _, dir := range dirs {
			if matches([]string{pattern}, dir) && !matches(exclude, dir) {
				chosen[dir] = true
			}
		}
	}
	var out []map[string]any
	for dir := range sorted(chosen) {
		if len(out) == MaxApplications {
			return out, fmt.Errorf("more than %d folders", MaxApplications)
		}
		params := make(map[string]any)
		set.addPath(g, params, dir, "")
		out = append(out, params)
	}
	return out, nil
}

// addPath adds the parameters that describe where a folder, or a file in it, stands.
func (set *applicationSet) addPath(g node, params map[string]any, dir, file string) {
	prefix := g.str("pathParamPrefix")
	segments := strings.Split(dir, "/")
	about := map[string]any{"path": dir, "basename": path.Base(dir), "basenameNormalized": normalize(path.Base(dir))}
	if file != "" {
		about["filename"], about["filenameNormalized"] = file, normalize(file)
	}
	if set.engine.goTemplate {
		list := make([]any, len(segments))
		for i, s := range segments {
			list[i] = s
		}
		about["segments"] = list
		if prefix != "" {
			params[prefix] = map[string]any{"path": about}
		} else {
			params["path"] = about
		}
		return
	}
	name := "path"
	if prefix != "" {
		name = prefix + ".path"
	}
	for k, v := range about {
		if k == "path" {
			params[name] = v
		} else {
			params[name+"."+k] = v
		}
	}
	for i, s := range segments {
		params[fmt.Sprintf("%s[%d]", name, i)] = s
	}
}

// files reads the files that are chosen. How a pattern matches depends on a setting of the controller at the site, so
// what either setting chooses counts.
func (set *applicationSet) files(g node, t *tree) ([]map[string]any, error) {
	include, exclude := patterns(g.children("files"))
	chosen := make(map[string]bool)
	for _, compile := range []func(string) (matcher, error){gitPathspec, newGlob} {
		in, err := compileAll(include, compile)
		if err != nil {
			return nil, err
		}
		out, err := compileAll(exclude, compile)
		if err != nil {
			return nil, err
		}
		for i, pattern := range include {
			files := below(t.files, pattern)
			if err := set.engine.work.spendAll(len(files) * costOfMatch * (1 + len(out))); err != nil {
				return nil, err
			}
			for _, f := range files {
				if in[i](f) && !out.any(f) {
					chosen[f] = true
				}
			}
		}
	}
	var list []map[string]any
	for f := range sorted(chosen) {
		elements, err := fileElements(t, f)
		if err != nil {
			// One broken file stops the whole generator at the site. Here the others still tell what they need.
			set.problem(g.field("files"), "%s: %s: %v", g.field("files"), f, err)
			continue
		}
		for _, e := range elements {
			if len(list) == MaxApplications {
				return list, fmt.Errorf("more than %d sets of parameters", MaxApplications)
			}
			params := make(map[string]any)
			if set.engine.goTemplate {
				maps.Copy(params, e)
			} else {
				flat := make(map[string]string)
				flatten(flat, "", e)
				for k, v := range flat {
					params[k] = v
				}
			}
			set.addPath(g, params, path.Dir(f), path.Base(f))
			list = append(list, params)
		}
	}
	return list, nil
}

// fileElements reads a file of parameters: one map, a list of them, or nothing, which is one empty map.
func fileElements(t *tree, name string) ([]map[string]any, error) {
	data, err := t.readFile(name)
	if err != nil {
		return nil, err
	}
	v, err := parseYAML(data)
	if err != nil {
		return nil, err
	}
	switch v := v.(type) {
	case nil:
		return []map[string]any{{}}, nil
	case map[string]any:
		return []map[string]any{v}, nil
	case []any:
		var out []map[string]any
		for i, e := range v {
			m, ok := e.(map[string]any)
			if !ok && e != nil {
				return nil, fmt.Errorf("element %d is a %s, want a map", i, typeName(e))
			}
			out = append(out, m)
		}
		return out, nil
	}
	return nil, fmt.Errorf("a %s, want a map or a list of maps", typeName(v))
}
