// Package builder makes bundles: it resolves what a bundle.yaml names, copies it byte for byte, describes and signs it,
// and writes one index over all of it.
package builder

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/attest/sign"
	"github.com/plimsoll/plimsoll/builder/chartrepo"
	"github.com/plimsoll/plimsoll/builder/closure"
	"github.com/plimsoll/plimsoll/builder/origin"
	"github.com/plimsoll/plimsoll/builder/pins"
	"github.com/plimsoll/plimsoll/builder/spec"
	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/bundle/media"
	"github.com/plimsoll/plimsoll/internal/progress"
	"github.com/plimsoll/plimsoll/internal/strictjson"
	"github.com/plimsoll/plimsoll/sbom"
)

// Options say what to build and with what.
type Options struct {
	Spec     *spec.Bundle
	SpecData []byte       // the bytes of bundle.yaml, which travel in the bundle
	Pins     *pins.Pins   // what tags and branches resolve to; nil: what their places say now
	Since    *Predecessor // whose Git layers are reused; nil: Git layers are full

	Registries  *origin.Registries
	Charts      *chartrepo.Client // nil: one with default settings
	Render      Render            // renders what the site will; nil: completeness is not proved
	Bare        bool              // make nothing that travels beside the bundle: its own signatures and provenance
	Release     sign.Signers      // each signs the bundle, and the images it vouches for; none: unsigned
	Attestation *sign.Signer      // signs SBOMs and provenance; nil: SBOMs are attached unsigned, provenance is left out
	SBOM        SBOMGenerator     // nil: images that bring no SBOM get none

	Created  time.Time     // when Spec does not say; zero: the time of the newest packed Git commit
	Version  string        // of the builder
	TempDir  string        // for Git clones; the system's if empty
	Git      string        // the git executable; found in PATH if empty
	Workers  int           // blobs copied at once; 4 if zero
	Progress progress.Func // may be nil
}

// Render runs plimsoll-render, or does what it does.
type Render func(ctx context.Context, r closure.Request) (*closure.Answer, error)

// SBOMGenerator makes an SPDX document for one platform manifest whose blobs are in the sink.
type SBOMGenerator func(ctx context.Context, sink media.Sink, manifest ocispec.Descriptor, subject sbom.Subject) ([]byte, error)

// NoTimeError says that a bundle has no time that does not depend on the clock, which would make each build another one.
type NoTimeError struct {
	File string // bundle.yaml
}

func (e *NoTimeError) Error() string {
	return e.File + ": metadata.created is not set, SOURCE_DATE_EPOCH is not set, and no Git commit is packed: the bundle has no time"
}

// Result is a finished bundle.
type Result struct {
	Root    ocispec.Descriptor
	Tag     string
	Lock    *bundle.Lock
	Beside  []media.Referrer // signatures and attestations of the bundle itself
	Verdict *closure.Verdict // of the completeness proof; nil when it was not made
}

// IncompleteError says that the site will need what the bundle does not carry.
type IncompleteError struct {
	Verdict *closure.Verdict
}

func (e *IncompleteError) Error() string {
	if n := len(e.Verdict.Gaps); n != 1 {
		return fmt.Sprintf("the bundle is incomplete: %d things that the site will need are not in it", n)
	}
	return "the bundle is incomplete: something that the site will need is not in it: " + e.Verdict.Gaps[0].Display()
}

// Build resolves everything that the spec names into sink and commits it there.
func Build(ctx context.Context, sink media.Sink, o Options) (*Result, error) {
	o = o.withDefaults()
	a := &assembly{
		o: o, sink: sink, created: o.Spec.Metadata.Created,
		counted: make(map[digest.Digest]struct{}), placed: make(map[string]struct{}),
	}
	defer a.close()
	if a.created.IsZero() {
		a.created = o.Created
	}
	if a.created.IsZero() && len(o.Spec.Spec.Git) == 0 {
		return nil, &NoTimeError{File: o.Spec.File}
	}
	if err := a.collect(ctx); err != nil {
		return nil, err
	}
	if a.created.IsZero() {
		a.created = a.newestCommit
	}
	a.created = a.created.UTC().Truncate(time.Second)
	if err := a.describe(ctx); err != nil {
		return nil, err
	}
	return a.finish(ctx)
}

func (o Options) withDefaults() Options {
	if o.Workers == 0 {
		o.Workers = 4
	}
	if o.Registries == nil {
		o.Registries = &origin.Registries{}
	}
	if o.Charts == nil {
		o.Charts = &chartrepo.Client{Registries: o.Registries}
	}
	return o
}

// assembly is one build under way.
type assembly struct {
	o       Options
	sink    media.Sink
	created time.Time

	items        []bundle.Item
	referrers    []bundle.Item          // go behind all other items
	entries      [][]ocispec.Descriptor // of items; referrers have one each, their own
	indexes      []ocispec.Descriptor   // raw upstream indexes, as layers of the lock artifact
	images       []*image               // and charts and artifacts of registries
	packedCharts []packedChart          // all charts
	packedGit    []*packedGit           // until the proof is made
	newestCommit time.Time
	verdict      *closure.Verdict

	counted map[digest.Digest]struct{} // for bytes
	bytes   int64
	placed  map[string]struct{} // referrers by repository and digest
}

// collect reads first what is small: manifests, charts and Git repositories. When these prove that nothing is missing, the
// large blobs are copied.
func (a *assembly) collect(ctx context.Context) error {
	s := a.o.Spec.Spec
	for _, im := range s.Images {
		if err := a.resolve(ctx, source{bundle.KindImage, im.Ref, im.Reference, im.Local, im.Repository, im.Tag, im.Platforms}); err != nil {
			return im.Position.Wrap("", err)
		}
	}
	for _, c := range s.Charts {
		if err := a.addChart(ctx, c); err != nil {
			return c.Position.Wrap("", err)
		}
	}
	for _, g := range s.Git {
		if err := a.addGit(ctx, g); err != nil {
			return g.Position.Wrap("", err)
		}
	}
	for _, r := range s.Artifacts {
		if err := a.resolve(ctx, source{kind: bundle.KindArtifact, written: r.Ref, reference: r.Reference, repository: r.Repository, tag: r.Tag}); err != nil {
			return r.Position.Wrap("", err)
		}
	}
	if err := a.prove(ctx); err != nil {
		return err
	}
	for _, im := range a.images {
		if im.kind == bundle.KindChart {
			continue // copied already
		}
		if err := a.carry(ctx, im); err != nil {
			return inItem(im.item, err)
		}
	}
	for _, f := range s.Files {
		if err := a.addFile(ctx, f); err != nil {
			return f.Position.Wrap("", err)
		}
	}
	return nil
}

// close gives back what the sources hold. Nothing of it is needed any more, so that errors do not matter.
func (a *assembly) close() {
	for _, im := range a.images {
		_ = im.from.Close()
	}
	for _, g := range a.packedGit {
		_ = g.Close()
	}
}

// add appends an item; descs are its entries in the index.
func (a *assembly) add(it bundle.Item, descs ...ocispec.Descriptor) {
	it.Descriptor = plain(it.Descriptor)
	a.items = append(a.items, it)
	a.entries = append(a.entries, descs)
}

// finish writes lock and index, signs the index and commits.
func (a *assembly) finish(ctx context.Context) (*Result, error) {
	lock := &bundle.Lock{
		APIVersion: bundle.LockVersion,
		Name:       a.o.Spec.Metadata.Name,
		Version:    a.o.Spec.Metadata.Version,
		Created:    a.created.Format(time.RFC3339),
		Builder:    bundle.Tool{Name: "plimsoll", Version: a.o.Version},
		Spec:       digest.FromBytes(a.o.SpecData),
		SBOM:       a.o.SBOM != nil,
		Bytes:      a.bytes,
		Items:      append(slices.Clone(a.items), a.referrers...),
	}
	if a.verdict != nil {
		lock.Closure = a.verdict.Closure
	}
	lockManifest, err := a.putLock(ctx, lock)
	if err != nil {
		return nil, err
	}
	index := ocispec.Index{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    ocispec.MediaTypeImageIndex,
		ArtifactType: bundle.ArtifactTypeBundle,
		Manifests:    []ocispec.Descriptor{entry(lockManifest, bundle.ItemLock)},
		Annotations: map[string]string{
			ocispec.AnnotationTitle:   lock.Name,
			ocispec.AnnotationVersion: lock.Version,
			ocispec.AnnotationCreated: lock.Created,
		},
	}
	if src := a.o.Spec.Spec.Source; src.URL != "" {
		index.Annotations[ocispec.AnnotationSource] = src.URL
		if src.Revision != "" {
			index.Annotations[ocispec.AnnotationRevision] = src.Revision
		}
	}
	for i, it := range a.items {
		for _, d := range a.entries[i] {
			index.Manifests = append(index.Manifests, entry(d, it.Name))
		}
	}
	for _, it := range a.referrers {
		index.Manifests = append(index.Manifests, entry(it.Descriptor, it.Name))
	}
	root, err := a.putJSON(ctx, ocispec.MediaTypeImageIndex, index)
	if err != nil {
		return nil, err
	}
	beside, err := a.vouch(ctx, root, lock)
	if err != nil {
		return nil, err
	}
	res := &Result{Root: root, Tag: a.o.Spec.Tag(), Lock: lock, Beside: beside, Verdict: a.verdict}
	return res, a.sink.Commit(ctx, root, res.Tag, beside)
}

func (a *assembly) putLock(ctx context.Context, lock *bundle.Lock) (ocispec.Descriptor, error) {
	data, err := lock.Encode()
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	layer, err := a.put(ctx, bundle.MediaTypeLock, data)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	written, err := a.put(ctx, bundle.MediaTypeSpec, a.o.SpecData)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return a.putArtifact(ctx, bundle.ArtifactTypeLock, nil, append([]ocispec.Descriptor{layer, written}, a.indexes...), nil)
}

func entry(d ocispec.Descriptor, item string) ocispec.Descriptor {
	d = plain(d)
	d.Annotations = map[string]string{bundle.AnnotationItem: item}
	return d
}

func plain(d ocispec.Descriptor) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
}

// count adds blobs to the bundle's total, each digest once.
func (a *assembly) count(descs ...ocispec.Descriptor) {
	for _, d := range descs {
		if _, ok := a.counted[d.Digest]; !ok {
			a.counted[d.Digest] = struct{}{}
			a.bytes += d.Size
		}
	}
}

// putArtifact writes an OCI artifact manifest (image-spec 1.1, "Guidelines for Artifact Usage"). A nil config is the
// empty descriptor.
func (a *assembly) putArtifact(ctx context.Context, artifactType string, config *ocispec.Descriptor, layers []ocispec.Descriptor, annotations map[string]string) (ocispec.Descriptor, error) {
	if config == nil {
		empty, err := a.put(ctx, ocispec.MediaTypeEmptyJSON, []byte("{}"))
		if err != nil {
			return empty, err
		}
		config = &empty
	}
	return a.putJSON(ctx, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    ocispec.MediaTypeImageManifest,
		ArtifactType: artifactType,
		Config:       *config,
		Layers:       layers,
		Annotations:  annotations,
	})
}

func (a *assembly) putJSON(ctx context.Context, mediaType string, v any) (ocispec.Descriptor, error) {
	data, err := strictjson.Marshal(v)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return a.put(ctx, mediaType, data)
}

// meter turns byte counts of several workers into progress events.
type meter struct {
	mu    sync.Mutex
	event progress.Event
	send  progress.Func
}

func (m *meter) add(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.event.Done += n
	m.send.Report(m.event)
}

func (m *meter) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.event.End = true
	m.send.Report(m.event)
}

func inItem(name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("item %s: %w", name, err)
}
