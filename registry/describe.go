package registry

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// Describe reads what a view needs of a bundle. It reads every manifest and image index once through st and verifies it;
// configs and layers are not read. It fails with *bundle.MissingError or *bundle.DamagedError when st cannot give one,
// and with *ConflictError when the bundle itself has two contents for one tag.
func Describe(ctx context.Context, st bundle.Fetcher, b *bundle.Bundle) (*Part, error) {
	d := &describer{
		bundle:    b,
		sizes:     make(map[digest.Digest]int64),
		documents: make(map[digest.Digest]*document),
		repos:     make(map[string]*described),
	}
	p, err := d.describe(ctx, st)
	if err != nil {
		return nil, fmt.Errorf("describe %s %s: %w", b.Lock.Name, b.Lock.Version, err)
	}
	return p, nil
}

// document is what a view needs of an index or manifest, OCI's or Docker's.
type document struct {
	ArtifactType string               `json:"artifactType"`
	Config       *ocispec.Descriptor  `json:"config"`
	Layers       []ocispec.Descriptor `json:"layers"`
	Subject      *ocispec.Descriptor  `json:"subject"`
	Annotations  map[string]string    `json:"annotations"`
}

type describer struct {
	bundle    *bundle.Bundle
	sizes     map[digest.Digest]int64 // of all content
	documents map[digest.Digest]*document
	repos     map[string]*described
}

type described struct {
	manifests map[digest.Digest]string // media type
	blobs     map[digest.Digest]struct{}
	tags      map[string]digest.Digest
}

func (d *describer) describe(ctx context.Context, st bundle.Fetcher) (*Part, error) {
	// Walk visits each digest once, whichever repositories need it, so the repositories are filled afterwards.
	err := d.bundle.Walk(ctx, st, func(n bundle.Node) error {
		if a := n.Descriptor.Digest.Algorithm(); a != digest.SHA256 && a != digest.SHA512 {
			return fmt.Errorf("blob %s: %w", n.Descriptor.Digest, digest.ErrDigestUnsupported)
		}
		d.sizes[n.Descriptor.Digest] = n.Descriptor.Size
		if !n.Manifest {
			return nil
		}
		return d.document(n.Descriptor.Digest, n.Raw)
	})
	if err != nil {
		return nil, err
	}
	for _, layer := range d.bundle.LockManifest.Layers {
		if layer.MediaType != bundle.MediaTypeIndexLayer {
			continue
		}
		raw, err := bundle.ReadBlob(ctx, st, layer, bundle.MaxManifest)
		if err != nil {
			return nil, err
		}
		if err := d.document(layer.Digest, raw); err != nil {
			return nil, err
		}
	}
	if err := d.items(); err != nil {
		return nil, err
	}
	return d.part(), nil
}

func (d *describer) document(of digest.Digest, raw []byte) error {
	doc := new(document)
	if err := strictjson.Unmarshal(raw, doc); err != nil {
		return fmt.Errorf("manifest %s: %w", of, err)
	}
	if doc.Subject != nil {
		if _, _, valid := parseSum(string(doc.Subject.Digest)); !valid {
			return fmt.Errorf("manifest %s: subject %q is not a digest", of, doc.Subject.Digest)
		}
	}
	d.documents[of] = doc
	return nil
}

// items puts the items of the bundle into the repositories.
func (d *describer) items() error {
	entries := make(map[string][]ocispec.Descriptor, len(d.bundle.Lock.Items))
	for _, e := range d.bundle.Index.Manifests {
		item := e.Annotations[bundle.AnnotationItem]
		entries[item] = append(entries[item], e)
	}
	for _, it := range d.bundle.Lock.Items {
		if it.Kind == bundle.KindGit {
			continue
		}
		if !checkedName(canonicalName(it.Repository)) {
			return fmt.Errorf("item %s: no client can ask for repository %q", it.Name, it.Repository)
		}
		repo := d.repository(it.Repository)
		if bundle.IsIndex(it.Descriptor.MediaType) {
			// Its bytes are a layer of the lock; what it names and a sparse item does not carry is not served.
			if err := d.add(repo, it.Descriptor); err != nil {
				return err
			}
		}
		for _, e := range entries[it.Name] {
			if err := d.add(repo, e); err != nil {
				return err
			}
		}
		for _, tag := range it.Tags {
			if have, taken := repo.tags[tag]; taken && have != it.Descriptor.Digest {
				release := d.bundle.Lock.Name + " " + d.bundle.Lock.Version
				return &ConflictError{canonicalName(it.Repository), tag, [2]string{release, release}, [2]digest.Digest{have, it.Descriptor.Digest}}
			}
			repo.tags[tag] = it.Descriptor.Digest
		}
	}
	return nil
}

func (d *describer) repository(name string) *described {
	name = canonicalName(name)
	repo := d.repos[name]
	if repo == nil {
		repo = &described{make(map[digest.Digest]string), make(map[digest.Digest]struct{}), make(map[string]digest.Digest)}
		d.repos[name] = repo
	}
	return repo
}

// add serves a manifest, with its config and layers, in a repository.
func (d *describer) add(repo *described, desc ocispec.Descriptor) error {
	if _, ok := repo.manifests[desc.Digest]; ok {
		return nil
	}
	doc := d.documents[desc.Digest]
	if doc == nil {
		return &bundle.MissingError{Descriptor: ocispec.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size}}
	}
	repo.manifests[desc.Digest] = desc.MediaType
	if doc.Config != nil {
		repo.blobs[doc.Config.Digest] = struct{}{}
	}
	for _, layer := range doc.Layers {
		repo.blobs[layer.Digest] = struct{}{}
	}
	return nil
}

// part writes it all into tables.
func (d *describer) part() *Part {
	p := &Part{root: d.bundle.Root, name: d.bundle.Lock.Name, version: d.bundle.Lock.Version}
	p.root = ocispec.Descriptor{MediaType: p.root.MediaType, Digest: p.root.Digest, Size: p.root.Size}
	places := make(map[digest.Digest]uint32, len(d.sizes))
	var sha256, sha512 strings.Builder
	for i, of := range slices.Sorted(maps.Keys(d.sizes)) { // the text of digests sorts as their bytes
		places[of] = uint32(i)
		s, _, _ := parseSum(string(of)) // checked by describe
		if s.n == 32 {
			sha256.Write(s.raw[:32])
		} else {
			sha512.Write(s.raw[:64])
		}
		p.content.sizes = append(p.content.sizes, d.sizes[of])
	}
	p.content.sha256, p.content.sha512 = sha256.String(), sha512.String()
	types := make(map[string]uint32)
	for _, repo := range d.repos {
		for of, mediaType := range repo.manifests {
			types[mediaType] = 0
			if kind := d.documents[of].artifactType(); kind != "" && d.documents[of].Subject != nil {
				types[kind] = 0
			}
		}
	}
	for i, t := range slices.Sorted(maps.Keys(types)) {
		types[t] = uint32(i)
		p.types = append(p.types, t)
	}
	for _, name := range slices.Sorted(maps.Keys(d.repos)) {
		p.repos = append(p.repos, d.table(name, places, types))
	}
	return p
}

func (d *describer) table(name string, places map[digest.Digest]uint32, types map[string]uint32) partRepository {
	repo, t := d.repos[name], partRepository{name: name}
	manifests := make(map[digest.Digest]uint32, len(repo.manifests))
	for _, of := range slices.Sorted(maps.Keys(repo.manifests)) {
		manifests[of] = uint32(len(t.manifests))
		t.manifests = append(t.manifests, partManifest{places[of], types[repo.manifests[of]]})
		doc := d.documents[of]
		if doc.Subject == nil {
			continue
		}
		ref := partReferrer{subject: string(doc.Subject.Digest), manifest: manifests[of]}
		if kind := doc.artifactType(); kind != "" {
			ref.artifactType = types[kind] + 1
		}
		for _, key := range slices.Sorted(maps.Keys(doc.Annotations)) {
			ref.annotations = append(ref.annotations, annotation{key, doc.Annotations[key]})
		}
		t.referrers = append(t.referrers, ref)
	}
	for _, of := range slices.Sorted(maps.Keys(repo.blobs)) {
		t.blobs = append(t.blobs, places[of])
	}
	for _, tag := range slices.Sorted(maps.Keys(repo.tags)) {
		t.tags = append(t.tags, partTag{tag, manifests[repo.tags[tag]]})
	}
	slices.SortStableFunc(t.referrers, func(a, b partReferrer) int {
		return cmp.Or(strings.Compare(a.subject, b.subject), cmp.Compare(a.manifest, b.manifest))
	})
	return t
}

// artifactType is what distribution-spec 1.1 "Listing Referrers" says for a descriptor of the document.
func (doc *document) artifactType() string {
	if doc.ArtifactType == "" && doc.Config != nil {
		return doc.Config.MediaType
	}
	return doc.ArtifactType
}
