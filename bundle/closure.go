package bundle

import (
	"fmt"
	"slices"
)

// Closure is the completeness proof: what was rendered as the site will, and each thing that came out needing something,
// with the item that satisfies it or the reason why the bundle does not carry it. Both lists are sorted.
type Closure struct {
	Renderings []Rendering `json:"renderings"`
	Needs      []Need      `json:"needs"`
}

// Rendering is one chart, kustomization or set of manifests as the site renders it.
type Rendering struct {
	Item     string   `json:"item"`               // the Git repository or chart that it is in
	Revision string   `json:"revision,omitempty"` // refs/heads/main
	Path     string   `json:"path,omitempty"`     // folder in the repository
	Engine   string   `json:"engine"`             // helm, kustomize, manifests
	Values   []string `json:"values,omitempty"`   // values files, stacked
	By       string   `json:"by,omitempty"`       // the object that asks for it: Application argocd/robot-001
	Objects  int      `json:"objects"`            // that came out
}

// Need is something that the site will run or fetch. Exactly one of Item and Reason is set.
type Need struct {
	Kind    string  `json:"kind"`              // image, chart, git; rendering: what could not be rendered, always with a reason
	Ref     string  `json:"ref"`               // as it is written where it is needed
	Chart   string  `json:"chart,omitempty"`   // the name in a classic repository
	Version string  `json:"version,omitempty"` // of a chart, or a Git revision
	Item    string  `json:"item,omitempty"`    // that satisfies it
	Reason  string  `json:"reason,omitempty"`  // why it is allowed to be missing
	Count   int     `json:"count"`             // of the places that need it
	Places  []Place `json:"places"`            // the first MaxPlaces of them
}

// MaxPlaces is how many places of one need the lock names.
const MaxPlaces = 20

// Place says where a need stands.
type Place struct {
	Item     string   `json:"item"`               // Git repository or chart
	Revision string   `json:"revision,omitempty"` // refs/heads/main
	File     string   `json:"file,omitempty"`     //
	Line     int      `json:"line,omitempty"`     // from 1
	Object   string   `json:"object,omitempty"`   // Deployment robots/robot-app
	Field    string   `json:"field,omitempty"`    // spec.template.spec.containers[0].image
	Values   []string `json:"values,omitempty"`   // of the rendering
	By       string   `json:"by,omitempty"`       // of the rendering
}

func (c *Closure) validate(l *Lock) error {
	if c == nil {
		return nil
	}
	items := make(map[string]bool, len(l.Items))
	for _, it := range l.Items {
		items[it.Name] = true
	}
	for _, r := range c.Renderings {
		if !items[r.Item] {
			return fmt.Errorf("lock: closure: rendering of %q, which is not an item", r.Item)
		}
	}
	for _, n := range c.Needs {
		switch {
		case !slices.Contains([]string{"image", "chart", "git", "rendering"}, n.Kind) || n.Kind == "rendering" && n.Item != "":
			return fmt.Errorf("lock: closure: need %q of unknown kind %q", n.Ref, n.Kind)
		case (n.Item == "") == (n.Reason == ""):
			return fmt.Errorf("lock: closure: need %q: want either the item that satisfies it or a reason", n.Ref)
		case n.Item != "" && !items[n.Item]:
			return fmt.Errorf("lock: closure: need %q is satisfied by %q, which is not an item", n.Ref, n.Item)
		case len(n.Places) == 0 || len(n.Places) > MaxPlaces || n.Count < len(n.Places):
			return fmt.Errorf("lock: closure: need %q has %d of %d places", n.Ref, len(n.Places), n.Count)
		}
	}
	return nil
}
