package gitops

import (
	"cmp"
	"path"
	"slices"
	"strings"

	"github.com/plimsoll/plimsoll/builder/closure"
)

// fleetGitRepo reads a GitRepo of Rancher Fleet: each of its paths is a chart, a kustomization, or manifests with all
// folders below. A fleet.yaml can make anything of it and is not read.
func (x *expander) fleetGitRepo(s *source) {
	spec := s.node("spec")
	url, revision := spec.str("repo"), cmp.Or(spec.str("revision"), spec.str("branch"), "master")
	if url == "" {
		s.problem("spec.repo", "%s: no repo", s.by)
		return
	}
	s.refer("spec.repo", closure.Reference{Kind: closure.KindGit, Ref: url, Version: revision})
	if len(spec.list("bundles")) > 0 {
		s.problem("spec.bundles", "%s: bundles are not rendered", s.by)
	}
	t, err := x.tree(url, revision)
	if err == nil {
		err = t.list()
	}
	if err != nil {
		s.problem("spec.repo", "%s: what it holds is not known: %v", s.by, err)
		return
	}
	paths := spec.strings("paths")
	if len(paths) == 0 {
		paths = []string{"/"}
	}
	for _, pattern := range paths {
		folders, err := fleetFolders(t, pattern)
		if err != nil {
			s.problem("spec.paths", "spec.paths: %q: %v", pattern, err)
		}
		for _, folder := range folders {
			s.fleetFolder(t, Task{URL: url, Revision: revision, Path: folder})
		}
	}
}

func fleetFolders(t *tree, pattern string) ([]string, error) {
	clean, ok := inside("", pattern)
	if !ok {
		return nil, errOutside
	}
	if !strings.ContainsAny(clean, `*?[`) {
		return []string{clean}, nil
	}
	var out []string
	for _, d := range below(t.dirs, clean) {
		ok, err := path.Match(clean, d)
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, d)
		}
	}
	return out, nil
}

func (s *source) fleetFolder(t *tree, task Task) {
	prefix := ""
	if task.Path != "" {
		prefix = task.Path + "/"
	}
	files := below(t.files, prefix)
	if i := slices.IndexFunc(files, func(f string) bool { return path.Base(f) == "fleet.yaml" }); i >= 0 {
		s.problem("spec.paths", "%s: a fleet.yaml is not read: what it makes of the folder is only known at the site", files[i])
		return
	}
	task.Helm = &Helm{Release: s.name, Namespace: s.node("spec").str("targetNamespace")}
	if !has(files, prefix, "Chart.yaml", "kustomization.yaml", "kustomization.yml", "Kustomization") {
		task.Directory = &Directory{Recurse: true}
	}
	s.task(task)
}
