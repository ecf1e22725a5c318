package builder

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/builder/origin"
	"github.com/plimsoll/plimsoll/builder/spec"
	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/progress"
	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// image is an image, or another OCI artifact, on its way into the bundle.
type image struct {
	item        string
	kind        bundle.Kind
	slot        int // in assembly.items
	from        origin.Origin
	repository  string
	root        ocispec.Descriptor
	raw         []byte               // of root
	carried     []ocispec.Descriptor // the manifests that travel
	index       *ocispec.Index       // nil for an image of one platform
	manifests   []platformManifest   // carried, without attestation manifests
	attestation []ocispec.Descriptor
	referrers   []origin.Referrer // brought, copied
}

type platformManifest struct {
	ocispec.Descriptor
	platform string
}

// dockerReferenceDigest is BuildKit's annotation of an attestation manifest in an index: the manifest it speaks of.
const (
	dockerReferenceType   = "vnd.docker.reference.type"
	dockerReferenceDigest = "vnd.docker.reference.digest"
)

// source is where an image or artifact comes from.
type source struct {
	kind            bundle.Kind
	written         string // in bundle.yaml
	reference       spec.Reference
	local           origin.LocalRef
	repository, tag string   // at the site
	platforms       []string // of an image; empty: all
}

// resolve opens the place of an image or artifact, reads its manifest and lists it as an item. Its blobs are copied later,
// by carry: what is missing shall be found before gigabytes are moved.
func (a *assembly) resolve(ctx context.Context, src source) error {
	a.o.Progress.Report(progress.Event{Stage: "resolve", Name: src.written})
	from, err := a.openOrigin(ctx, src)
	if err != nil {
		return err
	}
	desc, raw, err := from.Root(ctx)
	if err != nil {
		return errors.Join(err, from.Close())
	}
	itemName := src.repository
	if src.tag != "" {
		itemName += ":" + src.tag
	}
	packed := &image{item: itemName, kind: src.kind, slot: len(a.items), from: from, repository: src.repository, root: desc, raw: raw}
	a.images = append(a.images, packed)
	// By tag and digest both: the tag says where it is served, the digest what it is.
	if want := src.reference.Digest; want != "" && desc.Digest.String() != want {
		return &bundle.DamagedError{Item: itemName, Descriptor: ocispec.Descriptor{Digest: digest.Digest(want)}, Digest: desc.Digest}
	}
	a.o.Progress.Report(progress.Event{Stage: "resolve", Name: src.written, End: true, Note: desc.Digest.String()})
	it := bundle.Item{Name: itemName, Kind: src.kind, Source: src.written, Descriptor: desc, Repository: src.repository}
	if src.tag != "" {
		it.Tags = []string{src.tag}
	}
	packed.carried = []ocispec.Descriptor{desc}
	switch {
	case bundle.IsIndex(desc.MediaType) && src.kind == bundle.KindChart:
		err = fmt.Errorf("%s is an index, not a chart", src.written)
	case bundle.IsIndex(desc.MediaType):
		packed.carried, err = a.selectPlatforms(packed, &it, raw, src.platforms)
	case src.kind == bundle.KindImage:
		err = a.singlePlatform(ctx, from, packed, &it, raw, src.platforms)
	}
	if err != nil {
		return err
	}
	a.add(it, packed.carried...)
	return nil
}

// openOrigin opens the place of an image; when the build is pinned, by the digest that the tag had.
func (a *assembly) openOrigin(ctx context.Context, src source) (origin.Origin, error) {
	want := digest.Digest("")
	if a.o.Pins != nil {
		pin, err := a.o.Pins.Find(src.kind, src.written, "")
		if err != nil {
			return nil, err
		}
		want = pin.Digest
	}
	switch {
	case src.local.Transport != "":
		local := src.local
		local.Path = a.o.Spec.Path(local.Path)
		if local.Digest == "" {
			local.Digest = want
		}
		return local.Open(ctx)
	case want != "":
		return a.o.Registries.Origin(ctx, src.reference.Repository+"@"+want.String())
	}
	return a.o.Registries.Origin(ctx, src.reference.String())
}

// carry copies the blobs of an image and all that refers to it.
func (a *assembly) carry(ctx context.Context, im *image) error {
	bytes, err := a.copyGraph(ctx, im.item, im.from, im.carried...)
	if err != nil {
		return err
	}
	if bundle.IsIndex(im.root.MediaType) {
		if err := a.putIndex(ctx, im.root, im.raw); err != nil {
			return err
		}
		bytes += im.root.Size
	}
	a.items[im.slot].Bytes = bytes
	return a.carryReferrers(ctx, im)
}

// selectPlatforms chooses the manifests of an index that travel, and lists them in the lock as the bundle index lists
// them. The index itself never changes: it travels as a layer of the lock.
func (a *assembly) selectPlatforms(packed *image, it *bundle.Item, raw []byte, wanted []string) ([]ocispec.Descriptor, error) {
	var index ocispec.Index
	if err := strictjson.Unmarshal(raw, &index); err != nil {
		return nil, fmt.Errorf("index %s: %w", it.Descriptor.Digest, err)
	}
	packed.index = &index
	var carried []ocispec.Descriptor
	var exist []string
	found := make(map[string]bool)
	chosen := make(map[string]bool) // digests
	for _, m := range index.Manifests {
		if bundle.IsIndex(m.MediaType) {
			return nil, fmt.Errorf("index %s: %s is an index itself; only indexes of image manifests can be carried", it.Descriptor.Digest, m.Digest)
		}
		if m.Annotations[dockerReferenceType] != "" {
			continue
		}
		p := platformString(m.Platform)
		exist = append(exist, p)
		if len(wanted) > 0 && !slices.Contains(wanted, p) {
			continue
		}
		found[p] = true
		chosen[m.Digest.String()] = true
		carried = append(carried, m)
		packed.manifests = append(packed.manifests, platformManifest{m, p})
	}
	for _, p := range wanted {
		if !found[p] {
			return nil, fmt.Errorf("platform %s is not in %s; there are %s", p, it.Source, strings.Join(exist, ", "))
		}
	}
	for _, m := range index.Manifests {
		if m.Annotations[dockerReferenceType] != "" && (len(wanted) == 0 || chosen[m.Annotations[dockerReferenceDigest]]) {
			carried = append(carried, m)
			packed.attestation = append(packed.attestation, m)
		}
	}
	for _, m := range packed.manifests {
		it.Platforms = append(it.Platforms, bundle.Platform{Platform: m.platform, Digest: m.Digest})
	}
	it.Sparse = len(carried) < len(index.Manifests)
	for _, m := range packed.attestation {
		it.Platforms = append(it.Platforms, bundle.Platform{Platform: "unknown", Digest: m.Digest})
	}
	return carried, nil
}

// singlePlatform handles an image that is one manifest: its platform stands in its config.
func (a *assembly) singlePlatform(ctx context.Context, from bundle.Fetcher, packed *image, it *bundle.Item, raw []byte, wanted []string) error {
	var m ocispec.Manifest
	if err := strictjson.Unmarshal(raw, &m); err != nil {
		return fmt.Errorf("manifest %s: %w", it.Descriptor.Digest, err)
	}
	data, err := bundle.ReadBlob(ctx, from, m.Config, bundle.MaxManifest)
	if err != nil {
		return err
	}
	// A config that is not an image's, or says nothing, has no platform to check.
	var config ocispec.Platform
	if err := strictjson.Unmarshal(data, &config); err != nil {
		return fmt.Errorf("config %s: %w", m.Config.Digest, err)
	}
	p := platformString(&config)
	if len(wanted) > 0 && !slices.Contains(wanted, p) {
		return fmt.Errorf("platform %s is not in %s; there is %s", strings.Join(wanted, ", "), it.Source, p)
	}
	packed.manifests = []platformManifest{{it.Descriptor, p}}
	it.Platforms = []bundle.Platform{{Platform: p, Digest: it.Descriptor.Digest}}
	return nil
}

func platformString(p *ocispec.Platform) string {
	if p == nil || p.OS == "" || p.Architecture == "" {
		return "unknown"
	}
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

func (a *assembly) putIndex(ctx context.Context, desc ocispec.Descriptor, raw []byte) error {
	layer := ocispec.Descriptor{MediaType: bundle.MediaTypeIndexLayer, Digest: desc.Digest, Size: desc.Size}
	if slices.ContainsFunc(a.indexes, func(d ocispec.Descriptor) bool { return d.Digest == desc.Digest }) {
		return nil
	}
	a.count(layer)
	a.indexes = append(a.indexes, layer)
	return a.putBytes(ctx, layer, raw)
}

// carryReferrers copies what refers to an image and to each of its carried manifests, and what refers to that in turn.
func (a *assembly) carryReferrers(ctx context.Context, packed *image) error {
	subjects := []digest.Digest{packed.root.Digest}
	for _, m := range packed.manifests {
		if m.Digest != packed.root.Digest {
			subjects = append(subjects, m.Digest)
		}
	}
	seen := make(map[digest.Digest]struct{})
	for len(subjects) > 0 {
		subject := subjects[0]
		subjects = subjects[1:]
		if _, dup := seen[subject]; dup {
			continue
		}
		seen[subject] = struct{}{}
		referrers, err := a.referrersOf(ctx, packed, subject)
		if err != nil {
			return err
		}
		if len(packed.referrers)+len(referrers) > maxReferrers {
			return fmt.Errorf("more than %d manifests refer to it, or to what refers to it", maxReferrers)
		}
		for _, ref := range referrers {
			if bundle.IsIndex(ref.MediaType) {
				return fmt.Errorf("%s refers to %s and is an index; only manifests that refer to others can be carried", ref.Digest, subject)
			}
			n, err := a.copyGraph(ctx, packed.item, packed.from, ref.Descriptor)
			if err == nil {
				err = a.checkSubject(ctx, ref, subject)
			}
			if err != nil {
				return err
			}
			a.addReferrer(packed, subject, ref, n)
			packed.referrers = append(packed.referrers, ref)
			subjects = append(subjects, ref.Digest)
		}
	}
	return a.checkReferrers(ctx, packed)
}

// referrersOf lists what speaks of a subject in the place where the image comes from. A build that repeats a bundle takes
// what the bundle has: since then somebody may have signed the image once more, or moved a legacy tag. What that place
// does not have is the build's own work, which is done again.
func (a *assembly) referrersOf(ctx context.Context, packed *image, subject digest.Digest) ([]origin.Referrer, error) {
	if a.o.Since == nil || !a.o.Since.Same {
		return packed.from.Referrers(ctx, subject)
	}
	var referrers []origin.Referrer
	for _, it := range a.o.Since.Bundle.Lock.Items {
		if it.Kind != bundle.KindReferrer || it.Repository != packed.repository || it.Subject != subject {
			continue
		}
		rc, err := packed.from.Open(ctx, it.Descriptor)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = rc.Close()
		}
		if err != nil {
			return nil, err
		}
		if len(it.Tags) == 0 {
			referrers = append(referrers, origin.Referrer{Descriptor: it.Descriptor})
		}
		for _, tag := range it.Tags {
			referrers = append(referrers, origin.Referrer{Descriptor: it.Descriptor, Tag: tag})
		}
	}
	return referrers, nil
}

// maxReferrers bounds what a registry may invent about one image.
const maxReferrers = 1024

// checkSubject refuses a manifest that a registry lists as a referrer and that speaks of something else.
func (a *assembly) checkSubject(ctx context.Context, ref origin.Referrer, subject digest.Digest) error {
	if ref.Tag != "" {
		return nil // found by its name
	}
	raw, err := bundle.ReadBlob(ctx, a.sink, plain(ref.Descriptor), bundle.MaxManifest)
	if err != nil {
		return err
	}
	var m struct {
		Subject struct{ Digest digest.Digest } `json:"subject"`
	}
	if err := strictjson.Unmarshal(raw, &m); err != nil {
		return fmt.Errorf("referrer %s: %w", ref.Digest, err)
	}
	if m.Subject.Digest != subject {
		return fmt.Errorf("referrer %s: the registry lists it under %s, its subject is %q", ref.Digest, subject, m.Subject.Digest)
	}
	return nil
}

// checkReferrers proves that what spoke of the image upstream is in the bundle, byte for byte: it reads it back.
func (a *assembly) checkReferrers(ctx context.Context, packed *image) error {
	for _, ref := range packed.referrers {
		listed := slices.ContainsFunc(a.referrers, func(it bundle.Item) bool {
			return it.Repository == packed.repository && it.Descriptor.Digest == ref.Digest && (ref.Tag == "" || slices.Contains(it.Tags, ref.Tag))
		})
		if !listed {
			return fmt.Errorf("%s speaks of it upstream and is not listed in the bundle", ref.Digest)
		}
		err := bundle.Walk(ctx, a.sink, plain(ref.Descriptor), func(n bundle.Node) error {
			has, err := a.sink.Has(ctx, n.Descriptor)
			if err == nil && !has {
				err = &bundle.MissingError{Item: packed.item, Descriptor: n.Descriptor}
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// addReferrer lists a manifest that speaks of another one. The same manifest under two tags of one repository is one
// item.
func (a *assembly) addReferrer(packed *image, subject digest.Digest, ref origin.Referrer, bytes int64) {
	key := packed.repository + "@" + ref.Digest.String()
	var tags []string
	if ref.Tag != "" {
		tagKey := packed.repository + ":" + ref.Tag
		if _, taken := a.placed[tagKey]; !taken {
			a.placed[tagKey] = struct{}{}
			tags = []string{ref.Tag}
		}
	}
	if _, dup := a.placed[key]; dup {
		for i := range a.referrers {
			if it := &a.referrers[i]; it.Repository == packed.repository && it.Descriptor.Digest == ref.Digest {
				it.Tags = append(it.Tags, tags...)
				slices.Sort(it.Tags)
			}
		}
		return
	}
	a.placed[key] = struct{}{}
	a.referrers = append(a.referrers, bundle.Item{
		Name:       fmt.Sprintf("%s/referrers/%s", packed.item, ref.Digest.Encoded()[:16]),
		Kind:       bundle.KindReferrer,
		Descriptor: plain(ref.Descriptor),
		Bytes:      bytes,
		Repository: packed.repository,
		Tags:       tags,
		Subject:    subject,
	})
}
