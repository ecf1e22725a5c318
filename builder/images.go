package builder

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/builder/origin"
	"github.com/plimsoll/plimsoll/builder/spec"
	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/progress"
	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// image is a packed image that is to be described and vouched for.
type image struct {
	item        string
	repository  string
	root        ocispec.Descriptor
	index       *ocispec.Index     // nil for an image of one platform
	manifests   []platformManifest // carried, without attestation manifests
	attestation []ocispec.Descriptor
	referrers   []origin.Referrer
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

func (a *assembly) addImage(ctx context.Context, im spec.Image) error {
	ref, err := name.ParseReference(im.Reference.String())
	if err != nil {
		return err
	}
	repo, err := a.o.Registries.Repository(ctx, ref)
	if err != nil {
		return err
	}
	itemName := im.Repository
	if im.Tag != "" {
		itemName += ":" + im.Tag
	}
	a.o.Progress.Report(progress.Event{Stage: "resolve", Name: im.Ref})
	desc, raw, err := repo.Resolve(ctx, ref)
	if err != nil {
		return err
	}
	// By tag and digest both: the tag says where it is served, the digest what it is.
	if want := im.Reference.Digest; want != "" && desc.Digest.String() != want {
		return &bundle.DamagedError{Item: itemName, Descriptor: ocispec.Descriptor{Digest: digest.Digest(want)}, Digest: desc.Digest}
	}
	a.o.Progress.Report(progress.Event{Stage: "resolve", Name: im.Ref, End: true, Note: desc.Digest.String()})
	packed := &image{item: itemName, repository: im.Repository, root: desc}
	it := bundle.Item{Name: itemName, Kind: bundle.KindImage, Source: im.Ref, Descriptor: desc, Repository: im.Repository}
	if im.Tag != "" {
		it.Tags = []string{im.Tag}
	}
	roots, index := []ocispec.Descriptor{desc}, bundle.IsIndex(desc.MediaType)
	if index {
		if roots, err = a.selectPlatforms(packed, &it, raw, im.Platforms); err != nil {
			return err
		}
	} else if err := a.singlePlatform(ctx, repo, packed, &it, raw, im.Platforms); err != nil {
		return err
	}
	if it.Bytes, err = a.copyGraph(ctx, itemName, repo, roots...); err != nil {
		return inItem(itemName, err)
	}
	if index {
		if err := a.putIndex(ctx, desc, raw); err != nil {
			return inItem(itemName, err)
		}
		it.Bytes += desc.Size
	}
	a.add(it, roots...)
	a.images = append(a.images, packed)
	return a.carryReferrers(ctx, repo, packed)
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
func (a *assembly) carryReferrers(ctx context.Context, repo *origin.Repository, packed *image) error {
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
		referrers, err := repo.Referrers(ctx, subject)
		if err != nil {
			return inItem(packed.item, err)
		}
		for _, ref := range referrers {
			if bundle.IsIndex(ref.MediaType) {
				return inItem(packed.item, fmt.Errorf("%s refers to %s and is an index; only manifests that refer to others can be carried", ref.Digest, subject))
			}
			n, err := a.copyGraph(ctx, packed.item, repo, ref.Descriptor)
			if err != nil {
				return inItem(packed.item, err)
			}
			a.addReferrer(packed, subject, ref, n)
			packed.referrers = append(packed.referrers, ref)
			subjects = append(subjects, ref.Digest)
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
