package policy

import (
	"cmp"
	"context"
	"crypto"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/bundle/media"
	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// Keys says whose statements count. A release key is here to be recognised: what it signs is no evidence, and a key that
// is in both lists is refused.
type Keys struct {
	Release, Attestation []crypto.PublicKey
}

// KeyError says that a key cannot be a release key and an attestation key at once: who may describe a release could then
// release it.
type KeyError struct{ KeyID string }

func (e *KeyError) Error() string {
	return fmt.Sprintf("key %s is given as release key and as attestation key", e.KeyID)
}

const (
	minWorkers = 2        // statements that are verified at once on the smallest machine: one is read while one is judged
	maxWorkers = 8        // and on the largest
	inFlight   = 16 << 20 // bytes of Sigstore bundles that are verified at once, with a bundle read whole counted tenfold
	wholeCost  = 10       // what reading a Sigstore bundle whole takes, in its sizes
	maxWhole   = 1 << 20  // bytes of a Sigstore bundle that is read whole although it is large
	// vnd.docker.reference.type of an entry of an image index: BuildKit's attestations are no images.
	annotationReference = "vnd.docker.reference.type"
	referenceAttestion  = "attestation-manifest"
)

// Gather verifies every statement that travels in a bundle or beside its index and keeps what rules need. A statement
// counts for each image that it speaks of. It fails when something could not be read, which is no verdict: what is
// missing, damaged or not signed is a status in the facts. Of the release only name and version are filled in.
func Gather(ctx context.Context, ev attest.Evidence, b *bundle.Bundle, keys Keys, now time.Time) (*Facts, error) {
	g := &gatherer{ev: ev, keys: slices.Concat(keys.Attestation, keys.Release), release: make(map[string]bool),
		subjects: make(map[digest.Digest]*subject), room: semaphore.NewWeighted(inFlight),
		statementNode: statementNode(), predicateNode: predicateNode()}
	if len(g.keys) > 0 {
		// What package attest refuses for a small statement must not be passed over in silence for a large one.
		if err := attest.CheckThreshold(g.keys, 1); err != nil {
			return nil, err
		}
	}
	for _, k := range keys.Release {
		g.release[attest.KeyID(k)] = true
	}
	for _, k := range keys.Attestation {
		if g.release[attest.KeyID(k)] {
			return nil, &KeyError{KeyID: attest.KeyID(k)}
		}
	}
	if err := g.list(ctx, b); err != nil {
		return nil, fmt.Errorf("evidence of %s: %w", b.Root.Digest, err)
	}
	candidates, err := g.candidates(ctx, b)
	if err != nil {
		return nil, fmt.Errorf("evidence of %s: %w", b.Root.Digest, err)
	}
	found := make([]*statement, len(candidates))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(max(minWorkers, min(runtime.GOMAXPROCS(0), maxWorkers)))
	for i, c := range candidates {
		group.Go(func() error {
			var err error
			if found[i], err = g.read(ctx, c); err != nil {
				return fmt.Errorf("evidence of %s: %s: %w", b.Root.Digest, cmp.Or(c.item, c.desc.Digest.String()), err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	for _, st := range found {
		g.assign(st)
	}
	return g.facts(b, now), nil
}

type gatherer struct {
	ev      attest.Evidence
	keys    []crypto.PublicKey // all of them: the key that signed is looked at afterwards
	release map[string]bool    // ids
	room    *semaphore.Weighted
	free    buffers
	// What is wanted of a document. They hold no state of one.
	statementNode, predicateNode *node
	subjects                     map[digest.Digest]*subject
	indexes                      []digest.Digest
	images                       []place
}

// subject is something that statements may speak of.
type subject struct {
	found []*statement // good and bad ones, in the order of the bundle
}

// place is where an image stands in the bundle.
type place struct {
	image Image
	index digest.Digest // that it is in, or ""
}

// candidate is a manifest that may carry a statement.
type candidate struct {
	desc    ocispec.Descriptor
	subject digest.Digest // that it is attached to
	item    string        // in the lock
}

// statement is what one candidate turned out to be.
type statement struct {
	kind      Kind
	status    Status
	detail    string
	keyID     string
	predicate string
	manifest  digest.Digest
	covers    []digest.Digest // known subjects that it speaks of; if it is bad, the one that it is attached to
	content   *Image          // of a good one: the fields of its kind
}

// list finds the images, their indexes and the bundle.
func (g *gatherer) list(ctx context.Context, b *bundle.Bundle) error {
	g.subjects[b.Root.Digest] = &subject{}
	for _, it := range b.Lock.Items {
		if it.Kind != bundle.KindImage {
			continue
		}
		base := Image{Name: it.Name, Repository: it.Repository, Tags: it.Tags}
		g.subjects[it.Descriptor.Digest] = &subject{}
		if !bundle.IsIndex(it.Descriptor.MediaType) {
			base.Digest = it.Descriptor.Digest.String()
			if len(it.Platforms) == 1 && it.Platforms[0].Platform != unknownPlatform {
				base.Platform = it.Platforms[0].Platform
			}
			g.images = append(g.images, place{image: base})
			continue
		}
		others, err := g.noImages(ctx, b, it)
		if err != nil {
			return fmt.Errorf("item %s: %w", it.Name, err)
		}
		index := base
		index.Digest = it.Descriptor.Digest.String()
		g.indexes = append(g.indexes, it.Descriptor.Digest)
		g.images = append(g.images, place{image: index, index: it.Descriptor.Digest})
		for _, p := range it.Platforms {
			if others[p.Digest] {
				continue
			}
			g.subjects[p.Digest] = &subject{}
			m := base
			m.Digest, m.Index, m.Platform = p.Digest.String(), index.Digest, p.Platform
			g.images = append(g.images, place{image: m, index: it.Descriptor.Digest})
		}
	}
	return nil
}

const unknownPlatform = "unknown" // bundle.Platform of a manifest of which the index says none

// noImages are the manifests of an index that nothing can run: BuildKit's attestations. Only an entry that says so, and
// says that it is for no platform, is passed by.
func (g *gatherer) noImages(ctx context.Context, b *bundle.Bundle, it bundle.Item) (map[digest.Digest]bool, error) {
	if !slices.ContainsFunc(it.Platforms, func(p bundle.Platform) bool { return strings.HasPrefix(p.Platform, unknownPlatform) }) {
		return nil, nil
	}
	layer, ok := b.IndexLayer(it)
	if !ok {
		return nil, errors.New("its index is not among the layers of the lock")
	}
	raw, err := bundle.ReadBlob(ctx, g.ev, layer, bundle.MaxManifest)
	if err != nil {
		return nil, err
	}
	var index ocispec.Index
	if err := strictjson.Unmarshal(raw, &index); err != nil {
		return nil, err
	}
	others := make(map[digest.Digest]bool)
	for _, m := range index.Manifests {
		none := m.Platform != nil && m.Platform.OS == unknownPlatform && m.Platform.Architecture == unknownPlatform
		if none && m.Annotations[annotationReference] == referenceAttestion {
			others[m.Digest] = true
		}
	}
	return others, nil
}

// candidates are the referrers in the bundle and those beside its index. Legacy tags carry no statements of ours.
func (g *gatherer) candidates(ctx context.Context, b *bundle.Bundle) ([]candidate, error) {
	beside, err := g.ev.Referrers(ctx, b.Root.Digest)
	if err != nil {
		return nil, fmt.Errorf("list referrers: %w", err)
	}
	list, err := g.beside(ctx, b.Root.Digest, beside)
	if err != nil {
		return nil, err
	}
	for _, it := range b.Lock.Items {
		if it.Kind == bundle.KindReferrer && len(it.Tags) == 0 && g.subjects[it.Subject] != nil {
			list = append(list, candidate{desc: it.Descriptor, subject: it.Subject, item: it.Name})
		}
	}
	return list, nil
}

// beside chooses among the referrers of the bundle's index as package attest does: those that claim to be of a kind that is
// understood, then those that claim nothing. A thousand signatures or other statements must not crowd out the evidence.
func (g *gatherer) beside(ctx context.Context, subject digest.Digest, refs []media.Referrer) ([]candidate, error) {
	var sure, maybe []candidate
	seen := make(map[digest.Digest]bool)
	for _, r := range refs {
		if r.Tag != "" || seen[r.Digest] || r.Size > attest.MaxBesideManifest || len(seen) == attest.MaxBeside {
			continue
		}
		seen[r.Digest] = true
		m, err := g.manifest(ctx, r.Descriptor)
		if err != nil {
			return nil, err
		}
		if m == nil {
			continue
		}
		c := candidate{desc: r.Descriptor, subject: subject}
		switch hint := m.Annotations[attest.AnnotationPredicateType]; {
		case kindOf(hint) != "":
			sure = append(sure, c)
		case hint == "":
			maybe = append(maybe, c)
		}
	}
	list := append(sure, maybe...)
	return list[:min(len(list), attest.MaxReferrers)], nil
}

// manifest reads one that says that it carries a Sigstore bundle; nil for any other. What is missing or damaged is such:
// nobody knows what it was, and its absence shows.
func (g *gatherer) manifest(ctx context.Context, desc ocispec.Descriptor) (*ocispec.Manifest, error) {
	raw, err := bundle.ReadBlob(ctx, g.ev, desc, bundle.MaxManifest)
	var missing *bundle.MissingError
	var damaged *bundle.DamagedError
	if errors.As(err, &missing) || errors.As(err, &damaged) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var m ocispec.Manifest
	if strictjson.Unmarshal(raw, &m) != nil || m.ArtifactType != attest.MediaTypeBundle {
		return nil, nil
	}
	return &m, nil
}

// read verifies one candidate. It gives nil for what is no evidence of any kind: signatures, bare documents, statements
// of other types. Its error is that of the evidence's source.
func (g *gatherer) read(ctx context.Context, c candidate) (*statement, error) {
	m, err := g.manifest(ctx, c.desc)
	if err != nil || m == nil {
		return nil, err
	}
	hint := m.Annotations[attest.AnnotationPredicateType]
	if hint == attest.PredicateSign {
		return nil, nil
	}
	st := &statement{manifest: c.desc.Digest, predicate: hint, covers: []digest.Digest{c.subject}}
	subjects, x, err := g.verify(ctx, c, *m, st)
	var bad *refusal
	switch {
	case errors.As(err, &bad):
		st.status, st.detail, st.predicate = bad.status, bad.detail, cmp.Or(bad.predicate, hint)
	case err != nil:
		return nil, err
	default:
		g.judge(st, c, subjects, x)
	}
	if st.kind = kindOf(st.predicate); st.kind == "" {
		return nil, nil
	}
	return st, nil
}

// verify gives the subjects and the sketch of a statement by one of the keys; st gets its key and predicate type.
func (g *gatherer) verify(ctx context.Context, c candidate, m ocispec.Manifest, st *statement) ([]attest.Subject, *sketch, error) {
	if m.MediaType != ocispec.MediaTypeImageManifest {
		return nil, nil, malformedf("manifest: media type %q, want %q", m.MediaType, ocispec.MediaTypeImageManifest)
	}
	if len(m.Layers) != 1 || m.Subject == nil {
		return nil, nil, malformedf("manifest: not one Sigstore bundle with a subject")
	}
	if m.Subject.Digest != c.subject {
		return nil, nil, &refusal{status: WrongSubject, detail: fmt.Sprintf("it is attached to %s, the bundle says to %s", m.Subject.Digest, c.subject)}
	}
	layer := m.Layers[0]
	if err := bundle.CheckDescriptor(layer); err != nil || layer.Size > attest.MaxAttestation {
		return nil, nil, malformedf("Sigstore bundle of %d bytes: want at most %d", layer.Size, attest.MaxAttestation)
	}
	cost := layer.Size * wholeCost
	switch {
	case layer.Size < largeLayer:
	case layer.Size <= heldLayer:
		cost = 2 * layer.Size
	default:
		cost = layer.Size
	}
	cost = min(cost, inFlight)
	if err := g.room.Acquire(ctx, cost); err != nil {
		return nil, nil, err
	}
	defer g.room.Release(cost)
	if layer.Size >= largeLayer && layer.MediaType == attest.MediaTypeBundle {
		subjects, x, err := g.stream(ctx, layer, st)
		if !errors.Is(err, errSmall) {
			return subjects, x, err
		}
		if layer.Size > maxWhole {
			return nil, nil, malformedf("sigstore bundle: %d bytes around a small payload", layer.Size)
		}
	}
	return g.whole(ctx, c, st)
}

// whole lets package attest read a small statement.
func (g *gatherer) whole(ctx context.Context, c candidate, st *statement) ([]attest.Subject, *sketch, error) {
	signed, err := attest.VerifyAttestation(ctx, g.ev, c.desc, g.keys)
	var denied *attest.DeniedError
	if errors.As(err, &denied) {
		bad := &refusal{status: Malformed, detail: denied.Error()}
		if len(denied.Seen) > 0 {
			bad.detail = denied.Seen[0].Detail
			if denied.Seen[0].KeyID != "" {
				bad.predicate = denied.Seen[0].Predicate
			}
			if g.release[denied.Seen[0].KeyID] {
				return nil, nil, g.byReleaseKey(denied.Seen[0].KeyID, bad.predicate)
			}
		}
		switch denied.Reason {
		case attest.NoSignature, attest.UnknownKey: // attest calls a foreign attestation no signature at all
			bad.status, bad.detail = WrongSigner, "not by an attestation key"
		case attest.WrongSubject:
			bad.status = WrongSubject
		}
		return nil, nil, bad
	}
	if err != nil {
		return nil, nil, err
	}
	st.keyID, st.predicate = signed.KeyID, signed.PredicateType
	x := &sketch{}
	if len(signed.Predicate) == 0 || kindOf(signed.PredicateType) == "" {
		return signed.Subjects, x, nil
	}
	if err := scanBytes(signed.Predicate, g.predicateNode, x); err != nil {
		return nil, nil, &refusal{status: Malformed, predicate: signed.PredicateType, detail: "predicate: " + err.Error()}
	}
	return signed.Subjects, x, nil
}

// stream reads a large statement as it passes by.
func (g *gatherer) stream(ctx context.Context, layer ocispec.Descriptor, st *statement) ([]attest.Subject, *sketch, error) {
	l, err := openLarge(ctx, g.ev, layer, &g.free)
	defer l.release(&g.free)
	if err != nil {
		return nil, nil, err
	}
	key, err := l.verify(ctx, g.keys)
	if err != nil {
		return nil, nil, err
	}
	st.keyID = attest.KeyID(key)
	x, err := l.scan(ctx, g.statementNode)
	if err != nil {
		return nil, nil, err
	}
	st.predicate = x.predicateType
	subjects := make([]attest.Subject, len(x.subjects))
	for i, digests := range x.subjects {
		subjects[i].Digest = digests
	}
	return subjects, x, nil
}

func (g *gatherer) byReleaseKey(id, predicate string) *refusal {
	return &refusal{status: WrongSigner, predicate: predicate, detail: fmt.Sprintf("by release key %.16s…, which signs releases and is no evidence", id)}
}

// judge decides about a statement by a key that is known.
func (g *gatherer) judge(st *statement, c candidate, subjects []attest.Subject, x *sketch) {
	if g.release[st.keyID] {
		bad := g.byReleaseKey(st.keyID, st.predicate)
		st.status, st.detail = bad.status, bad.detail
		return
	}
	whole := attest.Statement{Subjects: subjects}
	if !whole.Covers(c.subject) {
		st.status, st.detail = WrongSubject, fmt.Sprintf("it does not speak of %s", c.subject)
		return
	}
	content, err := x.content(st.predicate)
	if err != nil {
		st.status, st.detail = Malformed, err.Error()
		return
	}
	st.status, st.content, st.covers = OK, content, st.covers[:0]
	for _, s := range subjects {
		for algorithm, hex := range s.Digest {
			d := digest.Digest(algorithm + ":" + hex)
			if g.subjects[d] != nil && !slices.Contains(st.covers, d) {
				st.covers = append(st.covers, d)
			}
		}
	}
}

func (g *gatherer) assign(st *statement) {
	if st == nil {
		return
	}
	for _, d := range st.covers {
		s := g.subjects[d]
		s.found = append(s.found, st)
	}
}

// facts puts together what was found for each image.
func (g *gatherer) facts(b *bundle.Bundle, now time.Time) *Facts {
	f := &Facts{Now: now.UTC(), Release: Release{Name: b.Lock.Name, Version: b.Lock.Version},
		Bundle: Image{Name: b.Lock.Name, Digest: b.Root.Digest.String()}, Images: []Image{}, Indexes: []Image{}}
	g.fill(&f.Bundle, b.Root.Digest, "")
	for _, p := range g.images {
		img := p.image
		if img.Digest == p.index.String() && p.index != "" {
			g.fill(&img, p.index, "")
			f.Indexes = append(f.Indexes, img)
			continue
		}
		g.fill(&img, digest.Digest(img.Digest), p.index)
		f.Images = append(f.Images, img)
	}
	return f
}

// fill gives an image its evidence: its own, and if there is no good one, its index's.
func (g *gatherer) fill(img *Image, own, index digest.Digest) {
	for _, k := range Kinds() {
		g.fillKind(img, k, own)
		if index == "" || img.evidence(k).Status == OK {
			continue
		}
		var other Image
		g.fillKind(&other, k, index)
		if rank(other.evidence(k).Status) > rank(img.evidence(k).Status) {
			img.take(k, &other)
		}
	}
}

func rank(s Status) int { return slices.Index(statuses, s) }

// take copies all of one kind.
func (i *Image) take(k Kind, from *Image) {
	switch k {
	case KindSBOM:
		i.SBOM = from.SBOM
	case KindProvenance:
		i.Provenance = from.Provenance
	case KindVuln:
		i.Vuln = from.Vuln
	case KindVEX:
		i.VEX = from.VEX
	case KindTest:
		i.Test = from.Test
	case KindVSA:
		i.VSA = from.VSA
	}
}

func (g *gatherer) fillKind(img *Image, k Kind, d digest.Digest) {
	e := img.evidence(k)
	e.Status = Missing
	var good []*statement
	for _, st := range g.subjects[d].found {
		switch {
		case st.kind != k:
		case st.status == OK:
			good = append(good, st)
		case rank(st.status) > rank(e.Status):
			e.Status, e.Detail, e.Subject, e.Manifest, e.Predicate = st.status, st.detail, d.String(), st.manifest.String(), st.predicate
		}
	}
	if len(good) == 0 {
		return
	}
	// The newest counts; the digest decides between equals, so that the order of a registry's answer does not.
	slices.SortStableFunc(good, func(a, b *statement) int {
		return cmp.Or(b.content.evidence(k).Time.Compare(a.content.evidence(k).Time), cmp.Compare(a.manifest, b.manifest))
	})
	first := good[0]
	img.take(k, first.content)
	*e = Evidence{Status: OK, Signers: []string{first.keyID}, Subject: d.String(), Manifest: first.manifest.String(),
		Predicate: first.predicate, Time: first.content.evidence(k).Time}
	for _, st := range good[1:] {
		if img.join(k, first.content, st.content) && !slices.Contains(e.Signers, st.keyID) {
			e.Signers = append(e.Signers, st.keyID)
		}
	}
	slices.Sort(e.Signers)
}

// join adds a further statement, and reports whether its signer stands for what the image now has: VEX documents and test
// results add up, of other kinds a statement must say the same as the first.
func (i *Image) join(k Kind, first, more *Image) bool {
	switch k {
	case KindVEX:
		i.VEX.NotAffected += more.VEX.NotAffected
		i.VEX.Affected += more.VEX.Affected
		i.VEX.Fixed += more.VEX.Fixed
		i.VEX.UnderInvestigation += more.VEX.UnderInvestigation
		return true
	case KindTest:
		if slices.Index(testResults, more.Test.Result) > slices.Index(testResults, i.Test.Result) {
			i.Test.Result = more.Test.Result
		}
		i.Test.Passed += more.Test.Passed
		i.Test.Warned += more.Test.Warned
		i.Test.Failed += more.Test.Failed
		i.Test.Suites = append(slices.Clone(i.Test.Suites), more.Test.Suites...)
		return true
	}
	return reflect.DeepEqual(first, more)
}
