package hooks

import (
	"cmp"
	"slices"
	"strings"
)

// Served is what the relay serves in one generation, as far as hooks tell of it. It does not change.
type Served struct {
	Generation   uint64       `json:"generation"`
	Channels     []Channel    `json:"channels"`
	Repositories []Repository `json:"repositories"`
}

// Channel is a channel and its active release.
type Channel struct {
	Channel string  `json:"channel"`
	Release Release `json:"release"`
}

// Release names a release.
type Release struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Bundle  string `json:"bundle"` // digest of its index
}

// Repository is a mirrored Git repository.
type Repository struct {
	Path string `json:"path"` // host/path without .git: github.com/acme/robot-deployment
	Head string `json:"head"` // refs/heads/main
	Refs []Ref  `json:"refs"`
}

// Ref is a full ref name and the object it points to.
type Ref struct {
	Name string `json:"name"`
	OID  string `json:"oid"`
}

// pending is what a hook has not been told yet. It grows with each generation until the hook has answered: between a
// release that it may have heard of and one that it has, nobody knows where it stands.
type pending struct {
	All      bool         `json:"all,omitempty"`      // it was never told anything, or what it was told is not known
	Channels []changed    `json:"channels,omitempty"` // sorted by channel
	Refs     []changedRef `json:"refs,omitempty"`     // sorted by repository and name
}

// changed is a channel that has another release than the hook was told.
type changed struct {
	Channel  string   `json:"channel"`
	Previous *Release `json:"previous,omitempty"` // that it was told of; nil: of none
}

// changedRef is a ref that was moved, made or removed.
type changedRef struct {
	Repository string `json:"repository"`
	Ref        string `json:"ref"`
	Before     string `json:"before,omitempty"` // object id; empty: it was not there
}

// maxPendingRefs bounds what is remembered of each hook; of more, all refs count as changed.
const maxPendingRefs = 10_000

func compareChanged(a, b changed) int { return strings.Compare(a.Channel, b.Channel) }

func compareRef(a, b changedRef) int {
	return cmp.Or(strings.Compare(a.Repository, b.Repository), strings.Compare(a.Ref, b.Ref))
}

// difference gives what changed between two generations; nil if nothing did.
func difference(old, now Served) *pending {
	p := &pending{}
	was := make(map[string]Release, len(old.Channels))
	for _, c := range old.Channels {
		was[c.Channel] = c.Release
	}
	for _, c := range now.Channels {
		before, found := was[c.Channel]
		switch {
		case !found:
			p.Channels = append(p.Channels, changed{Channel: c.Channel})
		case before.Bundle != c.Release.Bundle:
			p.Channels = append(p.Channels, changed{c.Channel, &before})
		}
	}
	slices.SortFunc(p.Channels, compareChanged)
	p.Refs = differentRefs(old.Repositories, now.Repositories)
	if len(p.Channels) == 0 && len(p.Refs) == 0 {
		return nil
	}
	if len(p.Refs) > maxPendingRefs {
		p.All, p.Refs = true, nil
	}
	return p
}

func differentRefs(old, now []Repository) []changedRef {
	type key struct{ repository, ref string }
	was := make(map[key]string)
	head := make(map[string]string)
	for _, r := range old {
		head[r.Path] = r.Head
		for _, ref := range r.Refs {
			was[key{r.Path, ref.Name}] = ref.OID
		}
	}
	var refs []changedRef
	for _, r := range now {
		before, known := head[r.Path]
		for _, ref := range r.Refs {
			k := key{r.Path, ref.Name}
			oid, found := was[k]
			// Who follows HEAD has another commit when HEAD is another branch, though no branch moved.
			if !found || oid != ref.OID || known && before != r.Head && ref.Name == r.Head {
				refs = append(refs, changedRef{r.Path, ref.Name, oid})
			}
			delete(was, k)
		}
	}
	for k, oid := range was { // removed
		refs = append(refs, changedRef{k.repository, k.ref, oid})
	}
	slices.SortFunc(refs, compareRef)
	return refs
}

// concerns tells whether a hook is to be told of a change: of its channels, or when no channel changed, but refs did.
func (p *pending) concerns(h Hook) bool {
	return p != nil && (len(p.Channels) == 0 || slices.ContainsFunc(p.Channels, func(c changed) bool { return h.wants(c.Channel) }))
}

// merge adds a later change. What the hook was told last stays what was before.
func (p *pending) merge(later *pending) *pending {
	if p == nil {
		return later
	}
	if later == nil {
		return p
	}
	all := &pending{All: p.All || later.All}
	all.Channels = mergeSorted(p.Channels, later.Channels, compareChanged)
	if all.Refs = mergeSorted(p.Refs, later.Refs, compareRef); len(all.Refs) > maxPendingRefs {
		all.All = true
	}
	if all.All {
		all.Refs = nil
	}
	return all
}

// mergeSorted gives the elements of both; of equal ones the first list's.
func mergeSorted[T any](a, b []T, compare func(a, b T) int) []T {
	var out []T
	for len(a) > 0 && len(b) > 0 {
		c := compare(a[0], b[0])
		if c <= 0 {
			out, a = append(out, a[0]), a[1:]
		} else {
			out, b = append(out, b[0]), b[1:]
		}
		if c == 0 {
			b = b[1:]
		}
	}
	return append(append(out, a...), b...)
}

// everything is the change for a hook that knows nothing; nil while nothing of its channels is served.
func everything(h Hook, now Served) *pending {
	p := difference(Served{}, now)
	if p == nil || !p.concerns(h) {
		return nil
	}
	p.All, p.Refs = true, nil
	return p
}

// resolve completes a change for one hook from what is served now: only its channels, and all refs where all changed.
func (p *pending) resolve(h Hook, now Served) (channels []changed, refs []changedRef) {
	for _, c := range p.Channels {
		if h.wants(c.Channel) {
			channels = append(channels, c)
		}
	}
	if p.All {
		return channels, differentRefs(nil, now.Repositories)
	}
	return channels, p.Refs
}
