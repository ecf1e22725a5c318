package diff

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// inventory is all that one side has, by digest.
type inventory struct {
	bundle  *bundle.Bundle
	source  bundle.Fetcher
	entries map[string][]ocispec.Descriptor // of the bundle index, by item
	blobs   map[digest.Digest]int64         // everything, with its size
	layers  map[digest.Digest]int64         // content of items: neither manifests nor their configs
	items   map[string][]digest.Digest      // the layers of each item, without duplicates
	left    int                             // visits before there are too many
}

// takeInventory reads every manifest, with at most limit blobs in them. It walks item by item: bundle.Walk names only the first item that needs a blob.
func takeInventory(ctx context.Context, s Side, limit int) (*inventory, error) {
	inv := &inventory{
		bundle: s.Bundle, source: s.Source, left: limit, entries: make(map[string][]ocispec.Descriptor),
		blobs:  map[digest.Digest]int64{s.Bundle.Root.Digest: s.Bundle.Root.Size},
		layers: make(map[digest.Digest]int64), items: make(map[string][]digest.Digest),
	}
	for i, e := range s.Bundle.Index.Manifests {
		item := e.Annotations[bundle.AnnotationItem]
		if i > 0 { // the first is the lock
			inv.entries[item] = append(inv.entries[item], e)
		}
		if err := inv.walk(ctx, item, e, i > 0); err != nil {
			return nil, fmt.Errorf("item %s: %w", item, err)
		}
	}
	for item, list := range inv.items {
		slices.Sort(list)
		inv.items[item] = slices.Compact(list)
	}
	return inv, nil
}

func (inv *inventory) walk(ctx context.Context, item string, root ocispec.Descriptor, content bool) error {
	var blobs []ocispec.Descriptor // of the manifest that comes next
	return bundle.Walk(ctx, inv.source, root, func(n bundle.Node) error {
		// The same blob in many items is counted each time: a small index can name large manifests again and again.
		if inv.left--; inv.left < 0 {
			return errors.New("too many blobs in its manifests")
		}
		d := n.Descriptor
		if size, ok := inv.blobs[d.Digest]; ok && size != d.Size {
			return fmt.Errorf("blob %s: declared with %d and with %d bytes", d.Digest, size, d.Size)
		}
		inv.blobs[d.Digest] = d.Size
		if !content {
			return nil
		}
		if !n.Manifest {
			blobs = append(blobs, d)
			return nil
		}
		m, err := parseManifest(n.Raw)
		if err != nil {
			return fmt.Errorf("manifest %s: %w", d.Digest, err)
		}
		for _, b := range blobs {
			if b.Digest != m.Config.Digest {
				inv.layers[b.Digest] = b.Size
				inv.items[item] = append(inv.items[item], b.Digest)
			}
		}
		blobs = nil
		return nil
	})
}

func parseManifest(raw []byte) (*ocispec.Manifest, error) {
	var m ocispec.Manifest
	if err := strictjson.Unmarshal(raw, &m); err != nil {
		return nil, err
	}
	return &m, nil
}

// share fills in which bytes are on both sides.
func (d *Diff) share(a, b *inventory) {
	d.Blobs = shareOf(a.blobs, b.blobs)
	d.Layers = shareOf(a.layers, b.layers)
	for i := range d.Added {
		d.Added[i].Layers = b.against(a, d.Added[i].Name, func(s *Share) *Count { return &s.New })
	}
	for i := range d.Removed {
		d.Removed[i].Layers = a.against(b, d.Removed[i].Name, func(s *Share) *Count { return &s.Gone })
	}
	for i := range d.Changed {
		c := &d.Changed[i]
		c.Layers = *b.against(a, c.New.Name, func(s *Share) *Count { return &s.New })
		c.Layers.Gone = a.against(b, c.Old.Name, func(s *Share) *Count { return &s.Gone }).Gone
		for _, l := range b.items[c.New.Name] {
			if _, shared := a.layers[l]; !shared {
				c.NewLayers = append(c.NewLayers, Blob{l, b.layers[l]})
			}
		}
	}
}

// against counts the layers of an item that the other side has anywhere, and those it has not.
func (inv *inventory) against(other *inventory, item string, missing func(*Share) *Count) *Share {
	s := &Share{}
	for _, l := range inv.items[item] {
		if _, shared := other.layers[l]; shared {
			s.Shared.add(inv.layers[l])
		} else {
			missing(s).add(inv.layers[l])
		}
	}
	return s
}

func shareOf(a, b map[digest.Digest]int64) Share {
	var s Share
	for l, size := range b {
		if _, shared := a[l]; shared {
			s.Shared.add(size)
		} else {
			s.New.add(size)
		}
	}
	for l, size := range a {
		if _, shared := b[l]; !shared {
			s.Gone.add(size)
		}
	}
	return s
}

// platforms gives the manifests of an image's platforms, without attestations.
func (inv *inventory) platforms(it bundle.Item) map[string]ocispec.Descriptor {
	m := make(map[string]ocispec.Descriptor)
	for _, p := range it.Platforms {
		for _, e := range inv.entries[it.Name] {
			if _, dup := m[p.Platform]; !dup && e.Digest == p.Digest && p.Platform != "unknown" {
				m[p.Platform] = plain(e)
			}
		}
	}
	return m
}

func plain(d ocispec.Descriptor) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
