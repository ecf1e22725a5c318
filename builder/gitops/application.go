package gitops

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/plimsoll/plimsoll/builder/closure"
)

func (x *expander) argoApplication(s *source) { x.application(&s.scope, s.node("spec"), s.name) }

// appSource is one source of an Application.
type appSource struct {
	node
	app                             *app
	url, revision, path, chart, ref string
}

// app is what all sources of an Application share.
type app struct {
	name, namespace, project string
	sources                  []*appSource
}

// application reads the spec of an Application.
func (x *expander) application(s *scope, spec node, name string) {
	a := &app{name: name, namespace: spec.child("destination").str("namespace"), project: spec.str("project")}
	add := func(n node, url, revision, folder string) {
		a.sources = append(a.sources, &appSource{
			node: n, app: a, url: url, revision: revision, path: folder, chart: n.str("chart"), ref: n.str("ref"),
		})
	}
	switch {
	case spec.has("sourceHydrator"):
		// What is rendered from the dry source is committed to the branch that is synced. Both are fetched.
		h := spec.child("sourceHydrator")
		dry, sync := h.child("drySource"), h.child("syncSource")
		url := dry.str("repoURL")
		add(dry, url, dry.str("targetRevision"), dry.str("path"))
		if other := sync.str("repoURL"); other != "" {
			url = other
		}
		add(sync, url, sync.str("targetBranch"), sync.str("path"))
	case len(spec.list("sources")) > 0:
		for _, n := range spec.children("sources") {
			add(n, n.str("repoURL"), n.str("targetRevision"), n.str("path"))
		}
	case spec.has("source"):
		n := spec.child("source")
		add(n, n.str("repoURL"), n.str("targetRevision"), n.str("path"))
	default:
		s.problem(spec.path, "%s: no source", spec.path)
	}
	for _, src := range a.sources {
		src.expand()
	}
}

// isOCI reports whether the source is an OCI artifact: an oci:// URL, or a chart in a repository without a scheme.
func (a *appSource) isOCI() bool {
	return strings.HasPrefix(a.url, "oci://") || a.chart != "" && !strings.Contains(a.url, "://")
}

// expand gives the task and the reference of a source.
func (a *appSource) expand() {
	if a.url == "" {
		a.s.problem(a.path0(), "%s: no repoURL", a.path0())
		return
	}
	t := Task{URL: a.url, Revision: a.revision}
	switch {
	case a.isOCI():
		if t = a.oci(); t.Chart == "" {
			return
		}
	case a.chart != "":
		a.s.refer(a.field("chart"), closure.Reference{Kind: closure.KindChart, Ref: a.url, Chart: a.chart, Version: a.revision})
		t.Chart = a.chart
	default:
		a.s.refer(a.field("repoURL"), closure.Reference{Kind: closure.KindGit, Ref: a.url, Version: a.revision})
		if a.path == "" {
			if a.ref == "" {
				a.s.problem(a.path0(), "%s: neither path nor chart nor ref", a.path0())
			}
			return
		}
		folder, ok := inside("", a.path)
		if !ok || strings.HasPrefix(a.path, "/") {
			a.s.problem(a.field("path"), "%s: %q, want a path in the repository", a.field("path"), a.path)
			return
		}
		t.Path = folder
		a.overrides(folder)
	}
	if a.options(&t) {
		a.s.task(t)
	}
}

// path0 is where the source stands in the object.
func (a *appSource) path0() string { return a.node.path }

// oci gives the reference of an OCI artifact, and the task when it can be a chart.
func (a *appSource) oci() Task {
	ref := "oci://" + strings.Trim(strings.TrimPrefix(a.url, "oci://"), "/")
	if a.chart != "" {
		ref += "/" + a.chart
	}
	a.s.refer(a.field("repoURL"), closure.Reference{Kind: closure.KindChart, Ref: ref, Version: a.revision})
	if folder, ok := inside("", a.path); !ok || folder != "" {
		a.s.problem(a.field("path"), "%s: the manifests in an OCI artifact are not rendered, only charts", a.field("path"))
		return Task{}
	}
	return Task{URL: ref, Revision: a.revision, Chart: path.Base(ref)}
}

// overrides merges the files into the source by which the folder itself changes it: Argo CD's image updater writes them.
func (a *appSource) overrides(folder string) {
	t, err := a.s.x.tree(a.url, a.revision)
	if err != nil {
		return // the reference says that it is missing
	}
	for _, name := range []string{".argocd-source.yaml", ".argocd-source-" + a.app.name + ".yaml"} {
		file := path.Join(folder, name)
		if strings.Contains(name, "/") || !fs.ValidPath(file) {
			continue
		}
		if info, err := fs.Stat(t.FS, file); err != nil || info.IsDir() {
			continue
		}
		data, err := t.readFile(file)
		var change map[string]any
		if err == nil {
			change, err = parseYAMLMap(data)
		}
		if err != nil {
			a.s.problem(a.field("path"), "%s: %v", file, err)
			continue
		}
		for _, fixed := range []string{"repoURL", "path", "chart", "targetRevision", "ref"} {
			delete(change, fixed)
		}
		a.m = mergePatch(a.m, change)
	}
}

// mergePatch is a JSON merge patch: null deletes.
func mergePatch(dst, src map[string]any) map[string]any {
	out := overlay(dst, nil)
	for k, v := range src {
		switch v := v.(type) {
		case nil:
			delete(out, k)
		case map[string]any:
			old, _ := out[k].(map[string]any)
			out[k] = mergePatch(old, v)
		default:
			out[k] = v
		}
	}
	return out
}

// options reads how the source is rendered. It is false when it is rendered by something that is not here.
func (a *appSource) options(t *Task) bool {
	helm, kustomize, directory := a.child("helm"), a.child("kustomize"), a.child("directory")
	if a.has("plugin") {
		a.s.problem(a.field("plugin"), "%s: what a config management plugin renders is only known at the site", a.field("plugin"))
		return false
	}
	explicit := 0
	for _, n := range []node{helm, kustomize, directory} {
		if !isZero(n.m) {
			explicit++
		}
	}
	if explicit > 1 {
		a.s.problem(a.path0(), "%s: more than one of helm, kustomize and directory: Argo CD refuses it", a.path0())
		return false
	}
	t.Helm = a.helm(helm)
	t.Kustomize = a.kustomize(kustomize, *t)
	if !isZero(directory.m) {
		t.Directory = &Directory{
			Recurse: directory.boolean("recurse"), Include: directory.str("include"), Exclude: directory.str("exclude"),
		}
		if !isZero(directory.child("jsonnet").m) {
			a.s.problem(directory.field("jsonnet"), "%s: jsonnet is not rendered", directory.field("jsonnet"))
		}
	}
	if t.Chart == "" && explicit == 0 || t.Directory != nil {
		a.jsonnet(*t)
	}
	return true
}

// isZero reports whether options say nothing, however many empty maps they are made of.
func isZero(v any) bool {
	if m, ok := v.(map[string]any); ok {
		for _, c := range m {
			if !isZero(c) {
				return false
			}
		}
		return true
	}
	return isEmpty(v)
}

// jsonnet reports the files that Argo CD would evaluate in a folder of plain manifests.
func (a *appSource) jsonnet(t Task) {
	tree, err := a.s.x.tree(t.URL, t.Revision)
	if err != nil || tree.list() != nil {
		return
	}
	prefix := ""
	if t.Path != "" {
		prefix = t.Path + "/"
	}
	files := below(tree.files, prefix)
	if t.Directory == nil && has(files, prefix, "Chart.yaml", "kustomization.yaml", "kustomization.yml", "Kustomization") {
		return
	}
	for _, f := range files {
		rest, ok := strings.CutPrefix(f, prefix)
		if !ok || !strings.HasSuffix(f, ".jsonnet") || strings.Contains(rest, "/") && (t.Directory == nil || !t.Directory.Recurse) {
			continue
		}
		a.s.problem(a.field("path"), "%s: jsonnet is not rendered", f)
	}
}

func has(files []string, prefix string, names ...string) bool {
	for _, n := range names {
		if found := below(files, prefix+n); len(found) > 0 && found[0] == prefix+n {
			return true
		}
	}
	return false
}

// unknownRevision are the build variables that stand for the commit, which a branch only has at the site.
var unknownRevision = map[string]bool{
	"ARGOCD_APP_REVISION": true, "ARGOCD_APP_REVISION_SHORT": true, "ARGOCD_APP_REVISION_SHORT_8": true,
}

// env fills Argo CD's build environment in: $ARGOCD_APP_NAME and the like. Other variables are empty, as they are there.
func (a *appSource) env(field, s string) string {
	if !strings.Contains(s, "$") {
		return s
	}
	variables := map[string]string{
		"$": "$", "ARGOCD_APP_NAME": a.app.name, "ARGOCD_APP_NAMESPACE": a.app.namespace, "ARGOCD_APP_PROJECT_NAME": a.app.project,
		"ARGOCD_APP_SOURCE_REPO_URL": a.url, "ARGOCD_APP_SOURCE_PATH": a.path, "ARGOCD_APP_SOURCE_TARGET_REVISION": a.revision,
	}
	return os.Expand(s, func(name string) string {
		if unknownRevision[name] {
			a.s.problem(field, "%s: $%s is only known at the site", field, name)
		}
		return variables[name]
	})
}

// tree looks up the files that belong to a task of the source: of the repository, not of a chart.
func (a *appSource) tree(url, revision string) (*tree, error) {
	if url == "" {
		if a.chart != "" || a.isOCI() {
			return nil, fmt.Errorf("the files of a chart from a repository are not at hand")
		}
		url, revision = a.url, a.revision
	}
	return a.s.x.tree(url, revision)
}
