package gitops

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"helm.sh/helm/v3/pkg/strvals"
)

// helm reads the helm options of a source. Precedence is that of Argo CD: value files, then values, then parameters.
func (a *appSource) helm(n node) *Helm {
	h := &Helm{
		Release: a.app.name, Namespace: a.app.namespace,
		SkipCRDs: n.boolean("skipCrds"), KubeVersion: n.str("kubeVersion"), APIVersions: n.strings("apiVersions"),
	}
	if v := n.str("releaseName"); v != "" {
		h.Release = v
	}
	if v := n.str("namespace"); v != "" {
		h.Namespace = v
	}
	h.ValueFiles = a.valueFiles(n)
	values := n.child("valuesObject").m
	if inline := n.str("values"); values == nil && inline != "" {
		var err error
		if values, err = parseYAMLMap([]byte(inline)); err != nil {
			a.s.problem(n.field("values"), "%s: %v", n.field("values"), err)
		}
	}
	if len(values) > 0 {
		h.Values = append(h.Values, values)
	}
	a.parameters(n, h)
	return h
}

// fileAt is a values file as it was written, and where it stands.
type fileAt struct {
	ValueFile
	written string
}

func (f fileAt) isGlob() bool { return strings.ContainsAny(f.Path, "*?[") }

// valueFiles resolves the value files of a source: from its folder, from the root, or from another source.
func (a *appSource) valueFiles(n node) []ValueFile {
	optional := n.boolean("ignoreMissingValueFiles")
	var files []fileAt
	var explicit []ValueFile
	for i, written := range n.strings("valueFiles") {
		field := fmt.Sprintf("%s[%d]", n.field("valueFiles"), i)
		f, err := a.file(field, written)
		if err != nil {
			a.s.problem(field, "%s: %v", field, err)
			continue
		}
		f.Optional = optional
		files = append(files, fileAt{f, field})
		if !files[len(files)-1].isGlob() {
			explicit = append(explicit, f)
		}
	}
	var out []ValueFile
	for _, f := range files {
		found := []ValueFile{f.ValueFile}
		if f.isGlob() {
			var err error
			if found, err = a.glob(f.ValueFile); err != nil {
				a.s.problem(f.written, "%s: %v", f.written, err)
			}
			// A file that is also named itself has its place there.
			found = slices.DeleteFunc(found, func(f ValueFile) bool { return slices.Contains(explicit, f) })
		}
		for _, f := range found {
			if !slices.Contains(out, f) {
				out = append(out, f)
			}
		}
	}
	return out
}

// file resolves the name of a file in helm options.
func (a *appSource) file(field, written string) (f ValueFile, err error) {
	base, name := a.path, written
	if ref, rest, _ := strings.Cut(written, "/"); strings.HasPrefix(ref, "$") {
		other, err := a.referenced(ref[1:])
		if err != nil {
			return f, err
		}
		if other != nil {
			base, name = "", rest
			f.URL, f.Revision = other.url, other.revision
		}
	}
	name = a.env(field, name)
	if strings.Contains(name, "://") {
		return f, fmt.Errorf("%q is fetched at the site, and only known there", name)
	}
	if a.chart != "" || a.isOCI() {
		if f.URL == "" {
			base = ""
		}
	}
	p, ok := inside(base, name)
	if !ok || p == "" {
		return f, fmt.Errorf("%q, want a file in the repository", written)
	}
	f.Path = p
	return f, nil
}

// referenced gives the source that $name stands for, nil for a variable of the build environment.
func (a *appSource) referenced(name string) (*appSource, error) {
	for _, other := range a.app.sources {
		if other.ref != name || name == "" {
			continue
		}
		if other.chart != "" || other.isOCI() {
			return nil, fmt.Errorf("$%s is a chart, want a Git repository", name)
		}
		return other, nil
	}
	if strings.HasPrefix(strings.Trim(name, "{}"), "ARGOCD_") {
		return nil, nil
	}
	return nil, fmt.Errorf("no source of the Application has ref: %s", name)
}

// glob gives the files that a values file with wildcards means, in the order in which they are stacked.
func (a *appSource) glob(f ValueFile) ([]ValueFile, error) {
	t, err := a.tree(f.URL, f.Revision)
	if err == nil {
		err = t.list()
	}
	var match matcher
	if err == nil {
		match, err = newGlob(f.Path)
	}
	if err != nil {
		return nil, fmt.Errorf("%q: %w", f.Path, err)
	}
	var out []ValueFile
	for _, name := range below(t.files, f.Path) {
		if match(name) {
			found := f
			found.Path = name
			out = append(out, found)
		}
	}
	if len(out) == 0 && !f.Optional {
		return nil, fmt.Errorf("%q matches no file", f.Path)
	}
	return out, nil
}

var listIndex = regexp.MustCompile(`\[([0-9]+)\]`)

// maxElements of the lists that parameters make: a[65536] makes that many.
const maxElements = 100_000

func listElements(line string) int {
	n := 0
	for _, index := range listIndex.FindAllStringSubmatch(line, -1) {
		i, err := strconv.Atoi(index[1])
		if err != nil || n+i >= maxElements {
			return maxElements + 1
		}
		n += i + 1
	}
	return n
}

// parameters reads what Argo CD hands to helm as --set, --set-string and --set-file. A parameter that names an element
// of a list changes the list that the values have, so it has to wait for the values files.
func (a *appSource) parameters(n node, h *Helm) {
	values, elements := make(map[string]any), 0
	set := func(field, name, value string, asString bool) {
		line := name + "=" + value
		n := listElements(line)
		if elements+n > maxElements {
			a.s.problem(field, "%s: the parameters make lists of more than %d elements", field, maxElements)
			return
		}
		elements += n
		parse := strvals.ParseInto
		if asString {
			parse = strvals.ParseIntoString
		}
		into := values
		if strings.Contains(name, "[") {
			into = make(map[string]any)
		}
		if err := parse(line, into); err != nil {
			a.s.problem(field, "%s: %s: %v", field, name, err)
		} else if strings.Contains(name, "[") {
			h.Set = append(h.Set, Set{Line: line, String: asString})
		}
	}
	list := n.children("parameters")
	for _, forceString := range []bool{false, true} {
		for _, p := range list {
			if p.boolean("forceString") == forceString {
				set(p.path, p.str("name"), escaped(a.env(p.field("value"), p.str("value"))), forceString)
			}
		}
	}
	for _, p := range n.children("fileParameters") {
		content, err := a.content(p.field("path"), p.str("path"))
		if err != nil {
			a.s.problem(p.path, "%s: %v", p.path, err)
			continue
		}
		set(p.path, p.str("name"), literal(content), true)
	}
	if len(values) > 0 {
		h.Values = append(h.Values, values)
	}
}

// escaped keeps the commas in a value, unless it is a list {a,b}.
func escaped(value string) string {
	if strings.HasPrefix(value, "{") && strings.HasSuffix(value, "}") {
		return value
	}
	var b strings.Builder
	for i, r := range value {
		if r == ',' && (i == 0 || value[i-1] != '\\') {
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return b.String()
}

// content reads the file of a file parameter.
func (a *appSource) content(field, written string) (string, error) {
	f, err := a.file(field, written)
	if err != nil {
		return "", err
	}
	t, err := a.tree(f.URL, f.Revision)
	if err != nil {
		return "", err
	}
	data, err := t.readFile(path.Clean(f.Path))
	return string(data), err
}

// Merge gives the values that Helm gets: files are the contents of ValueFiles, then come Values, then Set.
func (h *Helm) Merge(files []map[string]any) (map[string]any, error) {
	out := make(map[string]any)
	for _, m := range slices.Concat(files, h.Values) {
		out = overlay(out, m)
	}
	if len(h.Set) == 0 {
		return out, nil
	}
	out, _ = clone(out).(map[string]any) // what --set changes may belong to a file of another task
	for _, s := range h.Set {
		parse := strvals.ParseInto
		if s.String {
			parse = strvals.ParseIntoString
		}
		if err := parse(s.Line, out); err != nil {
			return nil, fmt.Errorf("set %s: %w", s.Line, err)
		}
	}
	return out, nil
}
