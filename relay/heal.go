package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/bundle/media"
	"github.com/plimsoll/plimsoll/internal/progress"
)

// HealOptions say what the record of a healing names.
type HealOptions struct {
	From string // the reference of the source
}

// HealResult is what a source could give.
type HealResult struct {
	Healed []digest.Digest `json:"healed"` // blobs that were missing and are here now
	Bytes  int64           `json:"bytes"`  // of them
	Left   []BadBlob       `json:"left"`   // those that are still missing
}

// healed is what the journal says.
type healed struct {
	From  string          `json:"from"`
	Blobs []digest.Digest `json:"blobs"`
}

// StillMissingError says that a source did not have all that is missing.
type StillMissingError struct{ Left []BadBlob }

func (e *StillMissingError) Error() string {
	text := fmt.Sprintf("%d blobs are still missing", len(e.Left))
	if len(e.Left) > 0 {
		text += fmt.Sprintf(", the first is %s: %s", e.Left[0].Digest, e.Left[0].Reason)
	}
	return text
}

// Heal brings what is missing of releases that are here from a source that has it: another medium, another registry,
// another version of the bundle. Only digests are asked for that the releases name, so that the source needs neither a
// signature nor trust. Nothing is activated; what is served grows whole again.
func (r *Relay) Heal(ctx context.Context, src media.Source, o HealOptions) (*HealResult, error) {
	h := &healing{relay: r, src: src, wanted: make(map[digest.Digest]bundle.Node), bad: make(map[digest.Digest]BadBlob)}
	if err := h.find(ctx); err != nil {
		return nil, err
	}
	if err := h.preflight(); err != nil {
		return nil, err
	}
	err := h.stage(ctx)
	res := &HealResult{Healed: []digest.Digest{}, Left: []BadBlob{}, Bytes: h.bytes}
	res.Healed = append(res.Healed, h.done...)
	slices.Sort(res.Healed)
	if len(h.bad) > 0 {
		uses := r.blobUses(ctx)
		for _, bad := range h.bad {
			bad.Uses = uses.of(bad.Digest)
			res.Left = append(res.Left, bad)
		}
	}
	slices.SortFunc(res.Left, func(a, b BadBlob) int { return strings.Compare(string(a.Digest), string(b.Digest)) })
	if len(res.Healed) > 0 {
		err = errors.Join(err, r.record(context.WithoutCancel(ctx), "blob-healed", healed{From: o.From, Blobs: res.Healed}))
	}
	return res, err
}

type healing struct {
	relay  *Relay
	src    media.Source
	wanted map[digest.Digest]bundle.Node // missing, and of known size

	mu    sync.Mutex
	done  []digest.Digest
	bytes int64
	bad   map[digest.Digest]BadBlob
}

// find lists what is missing. Manifests that are missing too come from the source: they say what else is.
func (h *healing) find(ctx context.Context) error {
	r := h.relay
	recs, err := r.kept(ctx)
	if err != nil {
		return err
	}
	either := &either{first: r.store, second: h.src}
	for _, rec := range recs {
		if part, err := r.part(ctx, rec.Release()); err == nil {
			for d, size := range part.Blobs() {
				if err := h.want(ctx, bundle.Node{Descriptor: ocispec.Descriptor{Digest: d, Size: size}}); err != nil {
					return err
				}
			}
		}
		broken, err := r.walkRelease(ctx, either, rec, func(n bundle.Node) error { return h.want(ctx, n) })
		if err != nil {
			return err
		}
		for _, err := range broken {
			if d := blobOf(err); d != "" {
				h.bad[d] = BadBlob{Digest: d, Reason: err.Error()}
			}
		}
	}
	return nil
}

func (h *healing) want(ctx context.Context, n bundle.Node) error {
	d := n.Descriptor.Digest
	if have, ok := h.wanted[d]; ok {
		if have.Descriptor.MediaType == "" {
			h.wanted[d] = n // now with a name
		}
		return nil
	}
	size, err := h.relay.store.Size(ctx, d)
	if err == nil && size == n.Descriptor.Size {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err // the store's disk
	}
	n.Raw = nil
	h.wanted[d] = n
	return nil
}

// preflight refuses before the first write when there is no room.
func (h *healing) preflight() error {
	pl := &plan{}
	for _, n := range h.wanted {
		pl.missing = append(pl.missing, n)
		pl.missingBytes += n.Descriptor.Size
	}
	need, free, err := h.relay.room(context.Background(), pl)
	if err != nil || need <= free {
		return err
	}
	return &NoRoomError{Path: h.relay.dir, Need: need, Free: free}
}

// stage copies what the source has. What it has not, or has damaged, is left for another one; trouble with the own disk
// ends it.
func (h *healing) stage(ctx context.Context) error {
	total := int64(0)
	for _, n := range h.wanted {
		total += n.Descriptor.Size
	}
	done := int64(0)
	g, copying := errgroup.WithContext(ctx)
	g.SetLimit(h.relay.options.Workers)
	for d, n := range h.wanted {
		g.Go(func() error {
			err := h.blob(copying, n, func(k int64) {
				h.mu.Lock()
				done += k
				sum := done
				h.mu.Unlock()
				h.relay.options.Progress.Report(progress.Event{Stage: "heal", Name: n.Item, Done: sum, Total: total})
			})
			h.mu.Lock()
			defer h.mu.Unlock()
			var missing *bundle.MissingError
			var damaged *bundle.DamagedError
			switch {
			case err == nil:
				delete(h.bad, d)
				h.done = append(h.done, d)
				h.bytes += n.Descriptor.Size
				return nil
			case copying.Err() != nil && ctx.Err() == nil:
				return nil // the error is another worker's
			}
			h.bad[d] = BadBlob{Digest: d, Size: n.Descriptor.Size, Reason: err.Error()}
			if errors.As(err, &missing) || errors.As(err, &damaged) {
				return nil
			}
			return err
		})
	}
	err := g.Wait()
	h.relay.options.Progress.Report(progress.Event{Stage: "heal", Done: total, Total: total, End: true})
	return err
}

// blob copies one blob. Of one that only the part of a release names it is not known what it is, and registries keep
// manifests and blobs in different places.
func (h *healing) blob(ctx context.Context, n bundle.Node, advance func(int64)) error {
	types := []string{n.Descriptor.MediaType}
	if types[0] == "" {
		types = []string{"application/octet-stream", ocispec.MediaTypeImageManifest}
	}
	var err error
	for _, t := range types {
		n.Descriptor.MediaType = t
		var missing *bundle.MissingError
		if err = h.relay.stageBlob(ctx, h.src, n, advance); !errors.As(err, &missing) {
			return err
		}
	}
	return err
}

// either gives a blob from the first place that has it.
type either struct{ first, second bundle.Fetcher }

func (e *either) Open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	rc, err := e.first.Open(ctx, desc)
	if errors.Is(err, fs.ErrNotExist) {
		return e.second.Open(ctx, desc)
	}
	return rc, err
}

// walkRelease visits what can be visited of a release and of what travels beside it, and gives an error for each manifest
// that stopped it: where bundle.Walk gives up at the first one, the other items are still to be looked at. An error of
// visit ends it.
func (r *Relay) walkRelease(ctx context.Context, f bundle.Fetcher, rec Record, visit func(bundle.Node) error) (broken []error, err error) {
	var stopped error
	walk := func(item string, root ocispec.Descriptor) {
		if stopped != nil {
			return
		}
		err := bundle.Walk(ctx, f, root, func(n bundle.Node) error {
			n.Item = item
			stopped = visit(n)
			return stopped
		})
		if err != nil && stopped == nil {
			broken = append(broken, err)
		}
	}
	if b, err := bundle.Load(ctx, f, rec.Bundle); err == nil {
		for _, e := range b.Index.Manifests {
			walk(e.Annotations[bundle.AnnotationItem], e)
		}
		if stopped == nil {
			stopped = visit(bundle.Node{Item: "index", Descriptor: rec.Bundle, Manifest: true})
		}
	} else {
		broken = append(broken, err)
		walk("", rec.Bundle)
	}
	for _, beside := range rec.Beside {
		walk("", beside.Manifest)
	}
	if stopped == nil {
		stopped = ctx.Err()
	}
	return broken, stopped
}

// blobOf gives the blob that an error is about, if it says.
func blobOf(err error) digest.Digest {
	var missing *bundle.MissingError
	var damaged *bundle.DamagedError
	switch {
	case errors.As(err, &missing):
		return missing.Descriptor.Digest
	case errors.As(err, &damaged):
		return damaged.Descriptor.Digest
	}
	return ""
}

// blobUses says which releases and items need a blob.
type blobUses struct{ all map[digest.Digest][]BlobUse }

func (u *blobUses) of(d digest.Digest) []BlobUse {
	if uses := u.all[d]; uses != nil {
		return uses
	}
	return []BlobUse{}
}

func (u *blobUses) add(rec Record, d digest.Digest, item string) {
	uses := u.all[d]
	if n := len(uses); n == 0 || uses[n-1].Bundle != rec.Bundle.Digest {
		uses = append(uses, BlobUse{Release: rec.Release().String(), Bundle: rec.Bundle.Digest, Items: []string{}})
	}
	last := &uses[len(uses)-1]
	if item != "" && !slices.Contains(last.Items, item) {
		last.Items = append(last.Items, item)
	}
	u.all[d] = uses
}

// blobUses reads the manifests of all releases that are here. What cannot be read has no names.
func (r *Relay) blobUses(ctx context.Context) *blobUses {
	u := &blobUses{all: make(map[digest.Digest][]BlobUse)}
	recs, err := r.kept(ctx)
	if err != nil {
		return u
	}
	for _, rec := range recs {
		if part, err := r.part(ctx, rec.Release()); err == nil {
			for d := range part.Blobs() {
				u.add(rec, d, "")
			}
		}
		broken, err := r.walkRelease(ctx, r.store, rec, func(n bundle.Node) error {
			u.add(rec, n.Descriptor.Digest, n.Item)
			return nil
		})
		if err != nil {
			return u
		}
		for _, err := range broken {
			if d := blobOf(err); d != "" {
				u.add(rec, d, "")
			}
		}
	}
	return u
}
