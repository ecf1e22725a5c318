// Package closure proves that a bundle is complete: that everything which the site will run or fetch is an item of the
// bundle, or is allowed by name to come from elsewhere.
//
// What the site will render is rendered by plimsoll-render, a process of its own (package render): templates are programs
// of strangers, without an end that anybody can prove. This package holds the request to it and its answer, runs it, and
// compares the answer with the items of the bundle.
package closure

import (
	"cmp"
	"slices"
)

// Request is what plimsoll-render reads, as one JSON document on its standard input.
type Request struct {
	Repositories []Repository `json:"repositories,omitempty"`
	Charts       []Chart      `json:"charts,omitempty"`
	ImageFields  []string     `json:"imageFields,omitempty"` // see spec.Closure
	Ignore       []string     `json:"ignore,omitempty"`      // globs of paths in repositories that the site never renders
	KubeVersion  string       `json:"kubeVersion,omitempty"` // .Capabilities.KubeVersion; empty: Helm's default
	APIVersions  []string     `json:"apiVersions,omitempty"` // more .Capabilities.APIVersions
}

// Repository is a packed Git repository, or a folder.
type Repository struct {
	Item      string     `json:"item"`             // the item's name in the bundle: github.com/acme/robot-deployment
	URLs      []string   `json:"urls"`             // by which manifests name it; compared as SameRepository does
	GitDir    string     `json:"gitDir,omitempty"` // a bare repository on this disk
	Dir       string     `json:"dir,omitempty"`    // or a plain folder, which is its only revision
	Head      string     `json:"head,omitempty"`   // refs/heads/main: what HEAD and an empty revision mean
	Revisions []Revision `json:"revisions,omitempty"`
	Renders   []Render   `json:"renders,omitempty"` // what the site renders that no manifest says
}

// Revision is a packed branch or tag. Everything is rendered on every branch; a tag only where a manifest asks for it.
type Revision struct {
	Name   string `json:"name"`   // refs/heads/main
	Commit string `json:"commit"` // hexadecimal object id
}

// Render says that the site renders a chart in a repository with values files, all relative to the repository's root.
type Render struct {
	Chart     string   `json:"chart"`            // folder: charts/robot-app
	Values    []string `json:"values,omitempty"` // stacked in this order; one with * makes one rendering for each match
	Release   string   `json:"release,omitempty"`
	Namespace string   `json:"namespace,omitempty"`
}

// Chart is a Helm chart that the bundle carries as an item.
type Chart struct {
	Item    string     `json:"item"`             // ghcr.io/acme/charts/robot-app:1.2.3
	Name    string     `json:"name"`             //
	Version string     `json:"version"`          // as in Chart.yaml
	Sources []string   `json:"sources"`          // where manifests say it comes from: oci://ghcr.io/acme/charts/robot-app, https://charts.example.com
	Archive string     `json:"archive"`          // path of its .tgz on this disk
	Dir     string     `json:"dir,omitempty"`    // folder on this disk that Values are relative to; it stands in no Place
	Values  [][]string `json:"values,omitempty"` // values files: one rendering for each list, stacked; as they stand in a Place
}

// Answer is what plimsoll-render writes, as one JSON document on its standard output. Lists are sorted and without
// duplicates: the same request over the same content gives the same bytes.
type Answer struct {
	Renderings []Rendering `json:"renderings"`
	References []Reference `json:"references"`
	Problems   []Problem   `json:"problems,omitempty"`
	Secrets    []Secret    `json:"secrets,omitempty"`
}

// Rendering is one thing that was rendered as the site will.
type Rendering struct {
	Item     string   `json:"item"`               // of the repository or chart
	Revision string   `json:"revision,omitempty"` // refs/heads/main
	Path     string   `json:"path,omitempty"`     // folder in the repository; empty: its root, or a chart item
	Engine   string   `json:"engine"`             // helm, kustomize, manifests
	Values   []string `json:"values,omitempty"`   // values files, stacked
	By       string   `json:"by,omitempty"`       // the object that asks for it: Application argocd/robot-001
	Objects  int      `json:"objects"`            // that came out
}

// What a reference names.
const (
	KindImage = "image"
	KindChart = "chart"
	KindGit   = "git"
)

// Reference is one place that needs something from outside.
type Reference struct {
	Kind    string `json:"kind"`              // KindImage, KindChart, KindGit
	Ref     string `json:"ref"`               // as written: an image; a Git URL; a chart's oci:// repository or the URL of a classic repository
	Chart   string `json:"chart,omitempty"`   // the name in a classic repository
	Version string `json:"version,omitempty"` // of a chart (a constraint is possible), or a Git revision
	Place   Place  `json:"place"`
}

// Place says where something stands, for a person who has to change it.
type Place struct {
	Item     string   `json:"item"`               // the repository or chart
	Revision string   `json:"revision,omitempty"` // refs/heads/main
	File     string   `json:"file,omitempty"`     // in the repository or chart: the values file, template or manifest
	Line     int      `json:"line,omitempty"`     // from 1; 0 when it is not known
	Object   string   `json:"object,omitempty"`   // Deployment robots/robot-app
	Field    string   `json:"field,omitempty"`    // spec.template.spec.initContainers[0].image
	Values   []string `json:"values,omitempty"`   // the values files of the rendering
	By       string   `json:"by,omitempty"`       // the object that asked for the rendering: Application argocd/robot-001
}

// Compare orders places by where a person would look for them.
func (p Place) Compare(q Place) int {
	return cmp.Or(cmp.Compare(p.Item, q.Item), cmp.Compare(p.Revision, q.Revision), cmp.Compare(p.File, q.File),
		cmp.Compare(p.Line, q.Line), cmp.Compare(p.Object, q.Object), cmp.Compare(p.Field, q.Field),
		slices.Compare(p.Values, q.Values), cmp.Compare(p.By, q.By))
}

// SortPlaces sorts in place and drops repetitions.
func SortPlaces(places []Place) []Place {
	slices.SortFunc(places, Place.Compare)
	return slices.CompactFunc(places, func(a, b Place) bool { return a.Compare(b) == 0 })
}

// Problem is something that could not be rendered: what it needs is not proved.
type Problem struct {
	Reason string `json:"reason"`
	Place  Place  `json:"place"`
}

// Secret is something in values or manifests that looks secret. What it is stands nowhere.
type Secret struct {
	What  string `json:"what"` // private key, Secret with data, password, token …
	Place Place  `json:"place"`
}
