package diff

import (
	"cmp"
	"context"
	"slices"

	"github.com/plimsoll/plimsoll/bundle"
)

// ClosureDiff says how the completeness proof changed: what the site needs now and did not need, or no longer needs.
type ClosureDiff struct {
	OldRenderings int    `json:"oldRenderings"`
	NewRenderings int    `json:"newRenderings"`
	Added         []Need `json:"added,omitempty"`
	Removed       []Need `json:"removed,omitempty"`
	Same          int    `json:"same"`              // needs on both sides
	Omitted       int    `json:"omitted,omitempty"` // needs beyond MaxNames
}

// Need is something that the site runs or fetches, with the item that satisfies it or the reason why nothing has to.
type Need struct {
	Kind    string `json:"kind"`
	Ref     string `json:"ref"`
	Chart   string `json:"chart,omitempty"`
	Version string `json:"version,omitempty"`
	Item    string `json:"item,omitempty"`
	Reason  string `json:"reason,omitempty"`
}

// compareClosures gives nil when neither the needs nor the renderings differ.
func compareClosures(a, b *bundle.Closure) *ClosureDiff {
	old, now := needs(a), needs(b)
	d := &ClosureDiff{OldRenderings: renderings(a), NewRenderings: renderings(b)}
	for n := range old {
		if now[n] {
			d.Same++
		} else {
			d.Removed = append(d.Removed, n)
		}
	}
	for n := range now {
		if !old[n] {
			d.Added = append(d.Added, n)
		}
	}
	same := (a == nil) == (b == nil) && len(d.Added)+len(d.Removed) == 0
	if same && len(compareFields(fieldsOf(a), fieldsOf(b), "")) == 0 {
		return nil
	}
	for _, list := range []*[]Need{&d.Added, &d.Removed} {
		slices.SortFunc(*list, func(a, b Need) int {
			return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Ref, b.Ref), cmp.Compare(a.Chart, b.Chart),
				cmp.Compare(a.Version, b.Version), cmp.Compare(a.Item, b.Item), cmp.Compare(a.Reason, b.Reason))
		})
		if over := len(*list) - MaxNames; over > 0 {
			*list = (*list)[:MaxNames]
			d.Omitted += over
		}
	}
	return d
}

func needs(c *bundle.Closure) map[Need]bool {
	m := make(map[Need]bool)
	if c != nil {
		for _, n := range c.Needs {
			m[Need{n.Kind, n.Ref, n.Chart, n.Version, n.Item, n.Reason}] = true
		}
	}
	return m
}

func renderings(c *bundle.Closure) int {
	if c == nil {
		return 0
	}
	return len(c.Renderings)
}

// compareSpecs compares the bundle.yaml of both, which travels in the lock artifact.
func (d *Diff) compareSpecs(ctx context.Context, a, b Side) error {
	if a.Bundle.Lock.Spec == b.Bundle.Lock.Spec {
		return nil
	}
	old, err := a.Bundle.Spec(ctx, a.Source)
	if err != nil {
		return err
	}
	now, err := b.Bundle.Spec(ctx, b.Source)
	if err != nil {
		return err
	}
	d.Spec = &FileChange{Path: "bundle.yaml", Status: Changed, OldBytes: int64(len(old)), NewBytes: int64(len(now))}
	if isText(old) && isText(now) {
		d.Spec.Patch = patch(*d.Spec, old, now)
	}
	return nil
}
