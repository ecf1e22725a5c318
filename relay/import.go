package relay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/bundle/media"
	"github.com/plimsoll/plimsoll/internal/progress"
)

// ImportOptions say what to do with one bundle.
type ImportOptions struct {
	Policy    attest.Policy // who may release; without keys everything is denied
	From      string        // the reference as the operator gave it, for the record
	StageOnly bool          // verify and store, and leave the activation for later
}

// ImportResult says what an import did.
type ImportResult struct {
	Name       string             `json:"name"`
	Version    string             `json:"version"`
	Bundle     ocispec.Descriptor `json:"bundle"`
	Signatures []RecordSignature  `json:"signatures"`
	Blobs      int                `json:"blobs"`      // in the release
	Bytes      int64              `json:"bytes"`      // in the release
	Copied     int64              `json:"copied"`     // bytes that were not here yet
	Activated  bool               `json:"activated"`  // false when only staged, or when it was active already
	Generation uint64             `json:"generation"` // the one served from now on

	// Shadows are keys of the site's own repositories behind which changes of this release disappear. The release is
	// active whatever they say; ShadowsUnknown is why they could not be found out.
	Shadows        []SiteShadows `json:"shadows,omitempty"`
	ShadowsUnknown string        `json:"shadowsUnknown,omitempty"`
}

// NoRoomError says that the disk cannot take the release. Nothing was written.
type NoRoomError struct {
	Path       string
	Need, Free int64 // bytes
}

func (e *NoRoomError) Error() string {
	return fmt.Sprintf("no room in %s: %d bytes are needed, %d are free", e.Path, e.Need, e.Free)
}

// Import verifies a bundle, stores it and activates it. Cut anywhere, it can be repeated and continues; until its last
// step, the write of active.json, the relay serves what it served before.
func (r *Relay) Import(ctx context.Context, src media.Source, o ImportOptions) (*ImportResult, error) {
	var res *ImportResult
	err := r.change(ctx, func() (err error) {
		res, err = r.runImport(ctx, src, o)
		return err
	})
	return res, err
}

func (r *Relay) runImport(ctx context.Context, src media.Source, o ImportOptions) (*ImportResult, error) {
	if len(o.Policy.ReleaseKeys) == 0 {
		return nil, &NoTrustError{}
	}
	p := r.options.Progress
	p.Report(progress.Event{Stage: "verify", Name: o.From})
	root, err := src.Root(ctx)
	if err != nil {
		return nil, err
	}
	verified, err := attest.VerifyRelease(ctx, src, root, o.Policy)
	if err != nil {
		return nil, err
	}
	plan, err := r.plan(ctx, src, verified)
	if err != nil {
		return nil, err
	}
	lock := plan.bundle.Lock
	p.Report(progress.Event{Stage: "verify", Name: lock.Name + " " + lock.Version, End: true})

	// Refuse before the first write what the commit would refuse after the last one.
	active, err := readActive(r.dir)
	if err != nil {
		return nil, err
	}
	release := Release{Version: lock.Version, Bundle: plan.bundle.Root}
	if _, err := active.accept(lock.Name, release); err != nil {
		return nil, err
	}
	if err := r.preflight(plan); err != nil {
		return nil, err
	}
	if err := r.stage(ctx, src, plan); err != nil {
		return nil, err
	}
	rec := plan.record(verified, o.From)
	if err := r.writeRecord(rec); err != nil {
		return nil, fmt.Errorf("release record: %w", err)
	}
	res := &ImportResult{
		Name: lock.Name, Version: lock.Version, Bundle: plan.bundle.Root, Signatures: rec.Signatures,
		Blobs: len(plan.nodes), Bytes: plan.bytes, Copied: plan.missingBytes, Generation: active.Generation,
	}
	if o.StageOnly {
		return res, nil
	}
	next, err := active.accept(lock.Name, release)
	if err != nil {
		return nil, err
	}
	res.Activated = next.Generation != active.Generation
	res.Generation = next.Generation
	if err := r.commit(ctx, next); err != nil {
		return res, err
	}
	if i, found := active.find(lock.Name); found && res.Activated {
		if res.Shadows, err = r.shadows(ctx, active.Streams[i].Release, release); err != nil {
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

func (pl *plan) record(v *attest.Verified, from string) Record {
	rec := Record{
		APIVersion: recordVersion, Name: pl.bundle.Lock.Name, Version: pl.bundle.Lock.Version, Bundle: pl.bundle.Root,
		Imported: time.Now().UTC().Truncate(time.Second).Format(time.RFC3339), From: from,
		Signatures: []RecordSignature{}, Beside: pl.beside,
	}
	for _, s := range v.Signatures() {
		rec.Signatures = append(rec.Signatures, RecordSignature{KeyID: s.KeyID, Form: s.Form, Manifest: s.Manifest})
	}
	return rec
}

// reserve is the room that an import leaves, so that a full disk never stops the relay from writing its own small files.
const reserve = 16 << 20

func (r *Relay) preflight(pl *plan) error {
	if len(pl.missing) == 0 {
		return nil
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(r.dir, &fs); err != nil {
		return fmt.Errorf("%s: %w", r.dir, err)
	}
	free := int64(fs.Bavail) * fs.Bsize
	// A Git layer is stored as a blob, unpacked in quarantine and linked into the mirror.
	need := 2*pl.gitBytes + reserve
	if !r.remote {
		need += pl.missingBytes
	}
	if need > free {
		return &NoRoomError{Path: r.dir, Need: need, Free: free}
	}
	return nil
}
