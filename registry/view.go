package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
)

// Release is a bundle that the relay keeps.
type Release struct {
	Bundle *bundle.Bundle
	Active bool // its tags and referrers are served; manifests and blobs are served by digest in any case
}

// View is what a set of releases serves. It never changes and is safe for concurrent use.
type View struct {
	repos map[string]*repository
	names []string // of repos, sorted
	hosts map[string]struct{}
}

type repository struct {
	name      string
	tags      map[string]ocispec.Descriptor
	tagNames  []string // sorted
	manifests map[digest.Digest]served
	indexes   map[digest.Digest]ocispec.Descriptor // image indexes, whose bytes are layers of locks; manifests has them too in the end
	blobs     map[digest.Digest]int64              // size
	referrers map[digest.Digest][]ocispec.Descriptor
	// fallback has the indexes of the referrers tag schema by tag and made has their bytes: they are the only manifests
	// that are not in the store.
	fallback map[string]ocispec.Descriptor
	made     map[digest.Digest][]byte
}

// served is a manifest of a repository.
type served struct {
	desc   ocispec.Descriptor // media type, digest and size
	active bool               // an active release has it
}

// ConflictError says that two active releases serve one tag with different content, so that neither can be right.
type ConflictError struct {
	Repository string
	Tag        string
	Bundles    [2]string        // name and version, in the order in which they were given
	Digests    [2]digest.Digest // of the tag, in the same order
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("serve %s:%s: it is %s in %s and %s in %s", e.Repository, e.Tag,
		e.Digests[0], e.Bundles[0], e.Digests[1], e.Bundles[1])
}

// NewView computes what the releases serve together. It reads every manifest once through st and verifies it; configs and
// layers are not read. It fails with *ConflictError when two active releases disagree about a tag, and with
// *bundle.MissingError or *bundle.DamagedError when st cannot give a manifest.
func NewView(ctx context.Context, st bundle.Fetcher, releases []Release) (*View, error) {
	b := &viewBuilder{
		view:    &View{repos: make(map[string]*repository), hosts: make(map[string]struct{})},
		graph:   make(map[digest.Digest]*manifest),
		origins: make(map[string]string),
	}
	for _, r := range releases {
		if err := b.read(ctx, st, r.Bundle); err != nil {
			return nil, fmt.Errorf("view of %s: %w", releaseName(r.Bundle), err)
		}
		if err := b.serve(r); err != nil {
			return nil, fmt.Errorf("view of %s: %w", releaseName(r.Bundle), err)
		}
	}
	return b.view, b.finish()
}

func releaseName(b *bundle.Bundle) string { return b.Lock.Name + " " + b.Lock.Version }

// Repositories gives the full names of all repositories, sorted, those without a tag included.
func (v *View) Repositories() []string { return slices.Clone(v.names) }

// Tags gives the tags of a repository, sorted.
func (v *View) Tags(repository string) []string {
	repo := v.repos[canonicalName(repository)]
	if repo == nil {
		return nil
	}
	return slices.Clone(repo.tagNames)
}

// Resolve gives the manifest that a tag or a digest names in a repository.
func (v *View) Resolve(repository, reference string) (ocispec.Descriptor, bool) {
	repo := v.repos[canonicalName(repository)]
	if repo == nil {
		return ocispec.Descriptor{}, false
	}
	desc, _, ok := repo.resolve(reference)
	return desc, ok
}

func (v *View) knows(host string) bool {
	_, ok := v.hosts[host]
	return ok
}

// resolve gives the manifest of a tag or digest, and its bytes if they are not in the store.
func (r *repository) resolve(reference string) (desc ocispec.Descriptor, made []byte, ok bool) {
	if isDigest(reference) {
		d := digest.Digest(reference)
		if m, ok := r.manifests[d]; ok {
			return m.desc, nil, true
		}
		if raw, ok := r.made[d]; ok {
			return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: d, Size: int64(len(raw))}, raw, true
		}
		return ocispec.Descriptor{}, nil, false
	}
	if desc, ok := r.tags[reference]; ok {
		return desc, nil, true
	}
	desc, ok = r.fallback[reference]
	return desc, r.made[desc.Digest], ok
}

// manifest is what a view needs of an index or manifest, OCI's or Docker's.
type manifest struct {
	ArtifactType string               `json:"artifactType"`
	Config       *ocispec.Descriptor  `json:"config"`
	Layers       []ocispec.Descriptor `json:"layers"`
	Manifests    []ocispec.Descriptor `json:"manifests"`
	Subject      *ocispec.Descriptor  `json:"subject"`
	Annotations  map[string]string    `json:"annotations"`
}

type viewBuilder struct {
	view    *View
	graph   map[digest.Digest]*manifest
	origins map[string]string // repository:tag → release
}

// read puts the manifests of a bundle into the graph. Walk visits each digest once per bundle, whichever repositories
// need it, so the repositories are filled from the graph afterwards.
func (b *viewBuilder) read(ctx context.Context, st bundle.Fetcher, bdl *bundle.Bundle) error {
	return bdl.Walk(ctx, st, func(n bundle.Node) error {
		if !n.Manifest || b.graph[n.Descriptor.Digest] != nil {
			return nil
		}
		m := new(manifest)
		if err := json.Unmarshal(n.Raw, m); err != nil { // strictly parsed by Walk
			return fmt.Errorf("manifest %s: %w", n.Descriptor.Digest, err)
		}
		b.graph[n.Descriptor.Digest] = m
		return nil
	})
}

// serve adds the items of a release to the repositories.
func (b *viewBuilder) serve(r Release) error {
	entries := make(map[string][]ocispec.Descriptor, len(r.Bundle.Lock.Items))
	for _, e := range r.Bundle.Index.Manifests {
		item := e.Annotations[bundle.AnnotationItem]
		entries[item] = append(entries[item], e)
	}
	for _, it := range r.Bundle.Lock.Items {
		if it.Kind == bundle.KindGit {
			continue
		}
		repo := b.repository(it.Repository)
		if bundle.IsIndex(it.Descriptor.MediaType) {
			// Its bytes are a layer of the lock; what it names and a sparse item does not carry is not served.
			repo.indexes[it.Descriptor.Digest] = bare(it.Descriptor)
		}
		for _, e := range entries[it.Name] {
			if err := b.add(repo, e, r.Active); err != nil {
				return err
			}
		}
		if !r.Active {
			continue
		}
		for _, tag := range it.Tags {
			if err := b.tag(repo, tag, it.Descriptor, releaseName(r.Bundle)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *viewBuilder) tag(repo *repository, tag string, desc ocispec.Descriptor, release string) error {
	place := repo.name + ":" + tag
	if have, ok := repo.tags[tag]; ok && have.Digest != desc.Digest {
		return &ConflictError{
			Repository: repo.name, Tag: tag,
			Bundles: [2]string{b.origins[place], release},
			Digests: [2]digest.Digest{have.Digest, desc.Digest},
		}
	}
	if _, ok := repo.tags[tag]; !ok {
		repo.tags[tag] = bare(desc)
		b.origins[place] = release
	}
	return nil
}

func (b *viewBuilder) repository(name string) *repository {
	name = canonicalName(name)
	repo := b.view.repos[name]
	if repo == nil {
		repo = &repository{
			name:      name,
			tags:      make(map[string]ocispec.Descriptor),
			manifests: make(map[digest.Digest]served),
			indexes:   make(map[digest.Digest]ocispec.Descriptor),
			blobs:     make(map[digest.Digest]int64),
			referrers: make(map[digest.Digest][]ocispec.Descriptor),
			fallback:  make(map[string]ocispec.Descriptor),
			made:      make(map[digest.Digest][]byte),
		}
		b.view.repos[name] = repo
		if host, _, ok := strings.Cut(name, "/"); ok && isHost(host) {
			b.view.hosts[host] = struct{}{}
		}
	}
	return repo
}

// add serves a manifest and everything under it in a repository.
func (b *viewBuilder) add(repo *repository, desc ocispec.Descriptor, active bool) error {
	if have, ok := repo.manifests[desc.Digest]; ok && (have.active || !active) {
		return nil
	}
	m := b.graph[desc.Digest]
	if m == nil {
		return &bundle.MissingError{Descriptor: bare(desc)}
	}
	repo.manifests[desc.Digest] = served{desc: bare(desc), active: active}
	if m.Config != nil {
		repo.blobs[m.Config.Digest] = m.Config.Size
	}
	for _, layer := range m.Layers {
		repo.blobs[layer.Digest] = layer.Size
	}
	if m.Subject == nil || !active {
		return nil
	}
	if err := m.Subject.Digest.Validate(); err != nil {
		return fmt.Errorf("manifest %s: subject %q: %w", desc.Digest, m.Subject.Digest, err)
	}
	repo.referrers[m.Subject.Digest] = append(repo.referrers[m.Subject.Digest], m.asReferrer(desc))
	return nil
}

// asReferrer describes a manifest as distribution-spec 1.1 "Listing Referrers" asks for.
func (m *manifest) asReferrer(desc ocispec.Descriptor) ocispec.Descriptor {
	d := bare(desc)
	d.Annotations = m.Annotations
	d.ArtifactType = m.ArtifactType
	if d.ArtifactType == "" && m.Config != nil {
		d.ArtifactType = m.Config.MediaType
	}
	return d
}

// finish sorts, so that the order of the releases makes no difference, and makes the indexes of the referrers tag schema.
func (b *viewBuilder) finish() error {
	b.view.names = slices.Sorted(maps.Keys(b.view.repos))
	for _, repo := range b.view.repos {
		repo.tagNames = slices.Sorted(maps.Keys(repo.tags))
		for d, desc := range repo.indexes {
			repo.manifests[d] = served{desc: desc}
		}
		for subject, list := range repo.referrers {
			slices.SortFunc(list, func(a, c ocispec.Descriptor) int { return strings.Compare(string(a.Digest), string(c.Digest)) })
			tag := fallbackTag(subject)
			if _, taken := repo.tags[tag]; taken {
				continue
			}
			raw, err := json.Marshal(referrersIndex(list))
			if err != nil {
				return fmt.Errorf("referrers of %s: %w", subject, err)
			}
			d := digest.FromBytes(raw)
			repo.made[d] = raw
			repo.fallback[tag] = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: d, Size: int64(len(raw))}
		}
	}
	return nil
}

// fallbackTag is the tag of distribution-spec 1.1 "Referrers Tag Schema": algorithm and hex, cut to 32 and 64 characters.
func fallbackTag(subject digest.Digest) string {
	hex := subject.Encoded()
	return subject.Algorithm().String() + "-" + hex[:min(len(hex), 64)]
}

func referrersIndex(list []ocispec.Descriptor) ocispec.Index {
	return ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: append([]ocispec.Descriptor{}, list...), // never null
	}
}

// bare leaves only what identifies content.
func bare(d ocispec.Descriptor) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
}
