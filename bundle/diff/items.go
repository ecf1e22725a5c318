package diff

import (
	"cmp"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/plimsoll/plimsoll/bundle"
)

// pair is one item on both sides.
type pair struct{ old, now bundle.Item }

// compareLocks fills in what the locks say and gives the pairs of d.Changed, in its order.
func (d *Diff) compareLocks(a, b *bundle.Lock) []pair {
	// A list of items is compared item by item.
	d.Metadata = compareFields(fieldsOf(a), fieldsOf(b), "", "items", "closure.", "bytes")
	d.Closure = compareClosures(a.Closure, b.Closure)
	d.countReferrers(a, b)
	gone, came, pairs := matchNames(a, b)
	moved, gone, came := matchMoved(gone, came)
	var changed []pair
	for _, p := range append(pairs, moved...) {
		if c, differs := compareItem(p); differs {
			d.Changed = append(d.Changed, c)
			changed = append(changed, p)
		} else {
			d.Unchanged++
		}
	}
	for _, it := range gone {
		d.Removed = append(d.Removed, describe(it))
	}
	for _, it := range came {
		d.Added = append(d.Added, describe(it))
	}
	byName := func(x, y Item) int { return cmp.Or(compareKinds(x.Kind, y.Kind), cmp.Compare(x.Name, y.Name)) }
	slices.SortFunc(d.Removed, byName)
	slices.SortFunc(d.Added, byName)
	slices.SortFunc(d.Changed, func(x, y Change) int { return byName(x.New, y.New) })
	slices.SortFunc(changed, func(x, y pair) int { return byName(describe(x.now), describe(y.now)) })
	return changed
}

// kindOrder is the order in which a bundle lists its items; kinds that are not in it come behind.
var kindOrder = [...]bundle.Kind{bundle.KindImage, bundle.KindChart, bundle.KindGit, bundle.KindArtifact, bundle.KindFile}

func compareKinds(a, b bundle.Kind) int {
	place := func(k bundle.Kind) int {
		if i := slices.Index(kindOrder[:], k); i >= 0 {
			return i
		}
		return len(kindOrder)
	}
	return cmp.Or(cmp.Compare(place(a), place(b)), cmp.Compare(a, b))
}

func matchNames(a, b *bundle.Lock) (gone, came []bundle.Item, pairs []pair) {
	old := make(map[string]bundle.Item, len(a.Items))
	for _, it := range a.Items {
		if it.Kind != bundle.KindReferrer {
			old[it.Name] = it
		}
	}
	for _, it := range b.Items {
		if it.Kind == bundle.KindReferrer {
			continue
		}
		if o, ok := old[it.Name]; ok && o.Kind == it.Kind {
			pairs = append(pairs, pair{o, it})
			delete(old, it.Name)
		} else {
			came = append(came, it)
		}
	}
	for _, it := range a.Items {
		if _, left := old[it.Name]; left && it.Kind != bundle.KindReferrer {
			gone = append(gone, it)
		}
	}
	return gone, came, pairs
}

// matchMoved pairs an item that went with one that came, when they are the only ones of their kind in their repository:
// its tag moved.
func matchMoved(gone, came []bundle.Item) (pairs []pair, stillGone, stillCame []bundle.Item) {
	type place struct {
		kind       bundle.Kind
		repository string
	}
	at := func(it bundle.Item) place { return place{it.Kind, it.Repository} }
	left, arrived := make(map[place][]bundle.Item), make(map[place]int)
	for _, it := range gone {
		left[at(it)] = append(left[at(it)], it)
	}
	for _, it := range came {
		arrived[at(it)]++
	}
	for _, it := range came {
		if len(left[at(it)]) == 1 && arrived[at(it)] == 1 {
			pairs = append(pairs, pair{left[at(it)][0], it})
		} else {
			stillCame = append(stillCame, it)
		}
	}
	for _, it := range gone {
		if len(left[at(it)]) != 1 || arrived[at(it)] != 1 {
			stillGone = append(stillGone, it)
		}
	}
	return pairs, stillGone, stillCame
}

// compareItem says what the lock says of the change. Fields that the lock will have one day are compared too.
func compareItem(p pair) (Change, bool) {
	c := Change{Kind: p.now.Kind, Old: describe(p.old), New: describe(p.now), Same: p.old.Descriptor.Digest == p.now.Descriptor.Digest}
	old, now := fieldsOf(p.old), fieldsOf(p.now)
	if len(compareFields(old, now, "")) == 0 {
		return c, false
	}
	c.Fields = compareFields(old, now, "", "name", "bytes", "descriptor.", "tags", "platforms", "git.refs")
	c.Platforms = comparePlatforms(p.old.Platforms, p.now.Platforms)
	if p.old.Git != nil && p.now.Git != nil {
		c.Refs = compareRefs(p.old.Git.Refs, p.now.Git.Refs)
	}
	return c, true
}

func describe(it bundle.Item) Item {
	d := Item{Name: it.Name, Kind: it.Kind, Tags: it.Tags, Digest: it.Descriptor.Digest, Bytes: it.Bytes}
	for _, p := range it.Platforms {
		if p.Platform != "unknown" { // what BuildKit attests of a platform, not a platform
			d.Platforms = append(d.Platforms, p.Platform)
		}
	}
	return d
}

// comparePlatforms pairs the manifests of a platform when there is one on each side; else they went and came.
func comparePlatforms(old, now []bundle.Platform) []PlatformChange {
	byPlatform := func(list, other []bundle.Platform) map[string][]digest.Digest {
		m := make(map[string][]digest.Digest)
		for _, p := range list {
			if !slices.Contains(other, p) {
				m[p.Platform] = append(m[p.Platform], p.Digest)
			}
		}
		return m
	}
	gone, came := byPlatform(old, now), byPlatform(now, old)
	var changes []PlatformChange
	for platform, digests := range gone {
		if len(digests) == 1 && len(came[platform]) == 1 {
			changes = append(changes, PlatformChange{Platform: platform, Old: digests[0], New: came[platform][0]})
			delete(came, platform)
			continue
		}
		for _, d := range digests {
			changes = append(changes, PlatformChange{Platform: platform, Old: d})
		}
	}
	for platform, digests := range came {
		for _, d := range digests {
			changes = append(changes, PlatformChange{Platform: platform, New: d})
		}
	}
	slices.SortFunc(changes, func(a, b PlatformChange) int {
		return cmp.Or(cmp.Compare(a.Platform, b.Platform), cmp.Compare(a.Old, b.Old), cmp.Compare(a.New, b.New))
	})
	return changes
}

// compareRefs merges two sorted lists.
func compareRefs(old, now []bundle.GitRef) []RefChange {
	target := func(r bundle.GitRef) string {
		if r.Peeled != "" {
			return r.Peeled
		}
		return r.OID
	}
	var changes []RefChange
	for len(old)+len(now) > 0 {
		switch {
		case len(now) == 0 || len(old) > 0 && old[0].Name < now[0].Name:
			changes = append(changes, RefChange{Name: old[0].Name, Status: Removed, Old: target(old[0])})
			old = old[1:]
		case len(old) == 0 || now[0].Name < old[0].Name:
			changes = append(changes, RefChange{Name: now[0].Name, Status: Added, New: target(now[0])})
			now = now[1:]
		default:
			if old[0] != now[0] {
				changes = append(changes, RefChange{Name: now[0].Name, Status: Changed, Old: target(old[0]), New: target(now[0])})
			}
			old, now = old[1:], now[1:]
		}
	}
	return changes
}

// countReferrers counts by place and digest: their names say no more.
func (d *Diff) countReferrers(a, b *bundle.Lock) {
	keys := func(l *bundle.Lock) map[string]struct{} {
		m := make(map[string]struct{})
		for _, it := range l.Items {
			if it.Kind == bundle.KindReferrer {
				m[it.Repository+"@"+it.Descriptor.Digest.String()+" "+strings.Join(it.Tags, " ")] = struct{}{}
			}
		}
		return m
	}
	old, now := keys(a), keys(b)
	for key := range old {
		if _, kept := now[key]; kept {
			d.Referrers.Kept++
		} else {
			d.Referrers.Removed++
		}
	}
	d.Referrers.Added = len(now) - d.Referrers.Kept
}

// compareIndexes names what differs beyond the locks: two digests that differ without a reason would be a riddle.
func (d *Diff) compareIndexes(a, b *bundle.Bundle) {
	const entries = "manifests"
	d.Metadata = append(d.Metadata, compareFields(fields(a.Raw), fields(b.Raw), "index.", entries,
		"annotations.org.opencontainers.image.title", "annotations.org.opencontainers.image.version",
		"annotations.org.opencontainers.image.created")...)
	if d.Closure != nil || len(d.Metadata)+len(d.Added)+len(d.Removed)+len(d.Changed)+d.Referrers.Added+d.Referrers.Removed > 0 {
		return
	}
	lock := func(b *bundle.Bundle) map[string]string { return fieldsOf(b.LockManifest) }
	if d.Metadata = compareFields(lock(a), lock(b), "lock."); len(d.Metadata) == 0 {
		d.Metadata = compareFields(fields(a.Raw), fields(b.Raw), "index.")
	}
}
