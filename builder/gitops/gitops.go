// Package gitops reads what Argo CD and Flux will do at a site out of their own objects: which chart, kustomization or
// folder of which revision they render, and with what. It renders nothing itself.
package gitops

import (
	"io/fs"

	"github.com/plimsoll/plimsoll/builder/closure"
)

// Object is one Kubernetes object with the place that it was found at.
type Object struct {
	Value map[string]any
	Place closure.Place
}

// Lookup finds what the bundle carries.
type Lookup interface {
	// Tree gives the files of a revision (branch, tag, commit, HEAD, empty) of the repository that a URL names.
	// fs.ErrNotExist when it is not in the bundle.
	Tree(url, revision string) (Tree, error)
}

// Tree is the content of one revision.
type Tree struct {
	FS       fs.FS
	Item     string // of the repository
	Revision string // full ref name, or the commit
}

// Task is something that Argo CD or Flux renders.
type Task struct {
	By    string        // Application argocd/robot-001
	Place closure.Place // of the object that asks

	// What: a folder of a repository (URL, Revision, Path), or a chart (Chart set: URL is that of a classic repository or
	// starts with oci://, Revision its version or a constraint).
	URL      string
	Revision string
	Path     string
	Chart    string

	Helm      *Helm      // how, when it is a chart; nil: defaults
	Kustomize *Kustomize // how, when it is a kustomization; nil: as it is
	Directory *Directory // force plain manifests, and which; nil: what the folder's files say it is
	// PlainKustomize says that a folder without a kustomization.yaml is one of all manifests in it, as Flux sees it.
	PlainKustomize bool
	Substitute     map[string]string // Flux postBuild: ${name} in what came out; nil: no substitution
}

// Helm is how a chart is rendered.
type Helm struct {
	Release, Namespace string
	ValueFiles         []ValueFile
	Values             []map[string]any // behind the files, in this order
	SkipCRDs           bool
	KubeVersion        string
	APIVersions        []string
	PostRender         *Kustomize // Flux postRenderers
}

// ValueFile is a values file of a task.
type ValueFile struct {
	URL, Revision string // of the repository; empty: the one of the task
	Path          string // from the root of the repository
	Optional      bool   // leave it out when it is not there
}

// Kustomize is what is added to a kustomization before it is built: fields of a kustomization.yaml (images, patches,
// components, namePrefix, namespace …), as they would stand there.
type Kustomize struct {
	Fields map[string]any
}

// Directory is which files of a folder are manifests.
type Directory struct {
	Recurse          bool
	Include, Exclude string // globs of Argo CD
}

// Found is what a set of objects means.
type Found struct {
	Tasks      []Task
	References []closure.Reference // charts and Git repositories that will be fetched
	Problems   []closure.Problem   // what cannot be known before the site, or is not understood
}
