package relay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/bundle/media"
	"github.com/plimsoll/plimsoll/internal/progress"
	"github.com/plimsoll/plimsoll/relay/state"
)

// ImportOptions say what to do with one bundle.
type ImportOptions struct {
	Policy    attest.Policy // who may release; without keys everything is denied
	From      string        // the reference as the operator gave it, for the record
	PlainHTTP bool          // how From is reached, likewise: without TLS
	CAFile    string        // likewise: the CA of its registry, made absolute for the record
	Channel   string        // that the release is for; empty: the bundle's name
	StageOnly bool          // verify and store, and leave the activation for later
	MakeRoom  bool          // collect garbage first when the release would not fit otherwise
	Accept    Acceptance    // which releases a channel may go on to; nil: NewerVersion
}

// ImportPlan is what an import would do.
type ImportPlan struct {
	Name       string             `json:"name"`
	Version    string             `json:"version"`
	Channel    string             `json:"channel"`
	Bundle     ocispec.Descriptor `json:"bundle"`
	Signatures []RecordSignature  `json:"signatures"`

	Blobs     int       `json:"blobs"`     // in the release
	Bytes     int64     `json:"bytes"`     // in the release
	CopyBlobs int       `json:"copyBlobs"` // that are not here
	CopyBytes int64     `json:"copyBytes"` // of those, without what an import that was cut left
	LeftBytes int64     `json:"leftBytes"` // what an import that was cut left of them
	Need      int64     `json:"need"`      // bytes of disk, with what is left free
	Free      int64     `json:"free"`      // bytes of disk
	Garbage   int64     `json:"garbage"`   // bytes that a collection of garbage would free now
	Drops     []Release `json:"drops"`     // that are not kept any more once this one is active
	Freed     int64     `json:"freed"`     // bytes that a collection of garbage would free then

	Estimate        *ImportEstimate `json:"estimate,omitempty"`        // how long the copying takes; nil when there is nothing to copy
	EstimateUnknown string          `json:"estimateUnknown,omitempty"` // why it could not be found out

	Active     bool   `json:"active"`     // it is served already
	Generation uint64 `json:"generation"` // that would be served
}

// ImportResult says what an import did.
type ImportResult struct {
	Name       string             `json:"name"`
	Version    string             `json:"version"`
	Channel    string             `json:"channel"`
	Bundle     ocispec.Descriptor `json:"bundle"`
	Signatures []RecordSignature  `json:"signatures"`
	Blobs      int                `json:"blobs"`      // in the release
	Bytes      int64              `json:"bytes"`      // in the release
	Copied     int64              `json:"copied"`     // bytes that were not here yet
	Activated  bool               `json:"activated"`  // false when only staged, or when it was active already
	Generation uint64             `json:"generation"` // the one served from now on
	Drops      []Release          `json:"drops"`      // that are not kept any more

	// Shadows are keys of the site's own repositories behind which changes of this release disappear. The release is
	// active whatever they say; ShadowsUnknown is why they could not be found out.
	Shadows        []SiteShadows `json:"shadows,omitempty"`
	ShadowsUnknown string        `json:"shadowsUnknown,omitempty"`
}

// NoRoomError says that the disk cannot take the release. Nothing was written.
type NoRoomError struct {
	Path             string
	Need, Free       int64 // bytes
	Garbage, Dropped int64 // bytes that collecting garbage frees now, and once the release is active
}

func (e *NoRoomError) Error() string {
	return fmt.Sprintf("no room in %s: %d bytes are needed, %d are free, and collecting garbage would free %d", e.Path, e.Need, e.Free, e.Garbage)
}

// Import verifies a bundle, stores it and activates it. Cut anywhere, it can be repeated and continues; until its last
// step, the write of active.json, the relay serves what it served before.
func (r *Relay) Import(ctx context.Context, src media.Source, o ImportOptions) (*ImportResult, error) {
	var res *ImportResult
	err := r.change(ctx, func() error {
		i, err := r.prepare(ctx, src, o)
		if err == nil {
			res, err = i.run(ctx)
		}
		if err != nil && ctx.Err() == nil {
			r.note(ctx, "import-refused", refusedImport{From: o.From, Reason: err.Error()})
		}
		return err
	})
	return res, err
}

// PlanImport verifies a bundle and says what an import would do, and how long it would take as a short try of source and
// disk says. It leaves nothing behind. A source that does not give what it names is an error, as it is for an import.
func (r *Relay) PlanImport(ctx context.Context, src media.Source, o ImportOptions) (*ImportPlan, error) {
	i, err := r.prepare(ctx, src, o)
	if err != nil {
		return nil, err
	}
	return i.describe(ctx)
}

// refusedImport is what the journal says of an import that ended early.
type refusedImport struct {
	From   string `json:"from"`
	Reason string `json:"reason"`
}

// importing is one import whose metadata is read and verified.
type importing struct {
	relay    *Relay
	src      media.Source
	options  ImportOptions
	verified *attest.Verified
	plan     *plan
	release  Release
	channel  string

	active, next Active
	version      state.Version // of active.json
}

// prepare reads and verifies all metadata and refuses what can be refused before the first write.
func (r *Relay) prepare(ctx context.Context, src media.Source, o ImportOptions) (*importing, error) {
	if len(o.Policy.ReleaseKeys) == 0 {
		return nil, &NoTrustError{}
	}
	if o.Accept == nil {
		o.Accept = NewerVersion
	}
	o, err := o.recordable()
	if err != nil {
		return nil, err
	}
	p := r.options.Progress
	p.Report(progress.Event{Stage: "verify", Name: o.From})
	root, err := src.Root(ctx)
	if err != nil {
		return nil, err
	}
	i := &importing{relay: r, src: src, options: o}
	if i.verified, err = attest.VerifyRelease(ctx, src, root, o.Policy); err != nil {
		return nil, err
	}
	if i.plan, err = r.plan(ctx, src, i.verified); err != nil {
		return nil, err
	}
	lock := i.plan.bundle.Lock
	p.Report(progress.Event{Stage: "verify", Name: lock.Name + " " + lock.Version, End: true})

	i.release = Release{Name: lock.Name, Version: lock.Version, Bundle: i.plan.bundle.Root}
	if i.channel = o.Channel; i.channel == "" {
		i.channel = lock.Name
	}
	if err := CheckChannel(i.channel); err != nil {
		return nil, err
	}
	if i.active, i.version, err = readActive(ctx, r.docs); err != nil {
		return nil, err
	}
	keep, err := r.retention(ctx, i.active)
	if err != nil {
		return nil, err
	}
	if i.next, err = i.active.accept(i.channel, i.release, o.Accept, keep); err != nil {
		return nil, err
	}
	return i, r.checkNames(ctx, i.next, i.release, lock)
}

// recordable gives the options with what a record may say of how the source is reached.
func (o ImportOptions) recordable() (ImportOptions, error) {
	if !isRegistry(o.From) {
		o.PlainHTTP, o.CAFile = false, ""
	}
	if o.CAFile == "" {
		return o, nil
	}
	path, err := filepath.Abs(o.CAFile) // the relay that serves runs in another folder
	if err == nil {
		err = checkCAFile(path)
	}
	if err != nil {
		return o, fmt.Errorf("CA file %.80q: %w", o.CAFile, err)
	}
	o.CAFile = path
	return o, nil
}

// run stores the release and, if that is wanted, activates it.
func (i *importing) run(ctx context.Context) (*ImportResult, error) {
	r, pl := i.relay, i.plan
	if err := i.preflight(ctx); err != nil {
		return nil, err
	}
	rec := pl.record(i)
	if err := r.record(ctx, "import", rec); err != nil {
		return nil, err
	}
	if err := r.stage(ctx, i.src, pl); err != nil {
		return nil, err
	}
	if err := r.writeRecord(ctx, rec); err != nil {
		return nil, fmt.Errorf("release record: %w", err)
	}
	res := &ImportResult{
		Name: i.release.Name, Version: i.release.Version, Channel: i.channel, Bundle: i.release.Bundle, Signatures: rec.Signatures,
		Blobs: len(pl.nodes), Bytes: pl.bytes, Copied: pl.missingBytes, Generation: i.active.Generation, Drops: []Release{},
	}
	if i.options.StageOnly {
		return res, nil
	}
	res.Activated = i.next.Generation != i.active.Generation
	res.Generation = i.next.Generation
	res.Drops = append(res.Drops, dropped(i.active, i.next)...)
	if !res.Activated { // but what was lost of it may have come back
		gen, err := r.generation(ctx, i.active)
		if err == nil {
			err = gen.check(ctx, r)
		}
		return res, err
	}
	if err := r.commit(ctx, "activate", i.active, i.next, i.version); err != nil {
		return res, err
	}
	if c, found := i.active.find(i.channel); found {
		var err error
		if res.Shadows, err = r.shadows(ctx, i.active.Channels[c].Release, i.release); err != nil {
			res.ShadowsUnknown = err.Error()
		}
	}
	return res, nil
}

// plan is what an import is going to store.
type plan struct {
	bundle       *bundle.Bundle
	beside       []BesideManifest
	nodes        []bundle.Node // every blob of the release and of what travels beside it, once; without bytes
	bytes        int64
	missing      []bundle.Node // those of nodes that the store does not have
	missingBytes int64
	gitBytes     int64 // of the Git layers that the store does not have
}

// plan reads and verifies all metadata. It writes nothing.
func (r *Relay) plan(ctx context.Context, src media.Source, v *attest.Verified) (*plan, error) {
	b, err := bundle.Load(ctx, src, v.Root())
	if err != nil {
		return nil, err
	}
	b.Root = plain(b.Root)
	pl := &plan{bundle: b}
	add := func(n bundle.Node) error {
		n.Raw = nil
		pl.nodes = append(pl.nodes, n)
		pl.bytes += n.Descriptor.Size
		size, err := r.store.Size(ctx, n.Descriptor.Digest)
		if err == nil && size == n.Descriptor.Size {
			return nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		pl.missing = append(pl.missing, n)
		pl.missingBytes += n.Descriptor.Size
		if n.Descriptor.MediaType == bundle.MediaTypeGitLayer {
			pl.gitBytes += n.Descriptor.Size
		}
		return nil
	}
	if err := b.Walk(ctx, src, add); err != nil {
		return nil, err
	}
	return pl, pl.addBeside(ctx, src, add)
}

// What travels beside a bundle is not covered by its signature, so that a medium could bring anything there: it is kept
// as evidence, within bounds.
const (
	maxBesideManifests = 256
	maxBesideBytes     = 256 << 20
)

func (pl *plan) addBeside(ctx context.Context, src media.Source, add func(bundle.Node) error) error {
	referrers, err := src.Referrers(ctx, pl.bundle.Root.Digest)
	if err != nil {
		return err
	}
	if len(referrers) > maxBesideManifests {
		return fmt.Errorf("%d manifests travel beside the bundle, the limit is %d", len(referrers), maxBesideManifests)
	}
	before := pl.bytes
	for _, ref := range referrers {
		err := bundle.Walk(ctx, src, ref.Descriptor, func(n bundle.Node) error {
			if pl.bytes-before+n.Descriptor.Size > maxBesideBytes {
				return fmt.Errorf("what travels beside the bundle: more than %d bytes, in %s", maxBesideBytes, ref.Digest)
			}
			return add(n)
		})
		if err != nil {
			return err
		}
		pl.beside = append(pl.beside, BesideManifest{Manifest: plain(ref.Descriptor), Tag: ref.Tag})
	}
	return nil
}

func plain(d ocispec.Descriptor) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
}

func (pl *plan) record(i *importing) Record {
	rec := Record{
		APIVersion: recordVersion, Name: i.release.Name, Version: i.release.Version, Channel: i.channel, Bundle: i.release.Bundle,
		Imported: now(), From: i.options.From, PlainHTTP: i.options.PlainHTTP, CAFile: i.options.CAFile,
		Signatures: []RecordSignature{}, Beside: pl.beside,
	}
	for _, s := range i.verified.Signatures() {
		rec.Signatures = append(rec.Signatures, RecordSignature{KeyID: s.KeyID, Form: s.Form, Manifest: s.Manifest})
	}
	return rec
}
