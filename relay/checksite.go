package relay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/bundle/media"
	"github.com/plimsoll/plimsoll/internal/durable"
	"github.com/plimsoll/plimsoll/registry"
)

// CheckOptions say how thoroughly a data folder is checked. The zero value compares sizes.
type CheckOptions struct {
	Hash bool // read every blob and every Git object
}

// Verifier is a Journal that can tell whether it is consistent.
type Verifier interface {
	Verify(ctx context.Context) error
}

// SiteReport is what a check of a data folder found.
type SiteReport struct {
	Generation uint64 `json:"generation"`
	Releases   int    `json:"releases"` // active, kept and staged
	Blobs      int    `json:"blobs"`    // of those, each once
	Bytes      int64  `json:"bytes"`    // of those
	GitRefs    int    `json:"gitRefs"`  // of the active releases
	Hashed     bool   `json:"hashed"`

	Violations []Violation `json:"violations"` // what is promised does not hold
	Warnings   []Violation `json:"warnings"`   // a kept release, or what is made again by itself, is not whole
	Leftovers  []string    `json:"leftovers"`  // of work that was cut; they take room and do nothing
}

// ViolationKind names an invariant of a data folder.
type ViolationKind string

// The invariants. Of a release that is only kept, and of what is computed again at the next start, they are warnings.
const (
	BadDocument    ViolationKind = "document"    // active.json, a record, and every other document is whole and well-formed
	NoRecord       ViolationKind = "record"      // each release says how it came here
	BlobMissing    ViolationKind = "blob"        // every blob of a release is there, with its size
	BlobDamaged    ViolationKind = "damage"      // a blob is what its digest says
	BundleBroken   ViolationKind = "bundle"      // index, lock and manifests of a release agree
	TagUnserved    ViolationKind = "tag"         // each tag that a lock names is served, as the lock says
	GitBroken      ViolationKind = "git"         // each ref leads to objects that are all there
	GitUntrue      ViolationKind = "generation"  // the folder of the generation says what the locks say
	JournalBroken  ViolationKind = "journal"     // no record of the journal is changed, dropped or reordered
	IngestBroken   ViolationKind = "ingest"      // what an import that was cut left can be continued
	Stray          ViolationKind = "stray"       // nothing else is in the folder
	PinnedNothing  ViolationKind = "pin"         // what is pinned or promised is here
	StorageTrouble ViolationKind = "unreachable" // the check could not read something: it is not known whether it holds
)

// Violation is one invariant that does not hold.
type Violation struct {
	Kind    ViolationKind `json:"kind"`
	Object  string        `json:"object"`            // a digest, a tag, a ref, a file
	Release string        `json:"release,omitempty"` // name and version
	Reason  string        `json:"reason"`
}

func (v Violation) String() string {
	of := ""
	if v.Release != "" {
		of = " of " + v.Release
	}
	return fmt.Sprintf("%s: %s%s: %s", v.Kind, v.Object, of, v.Reason)
}

// BrokenSiteError says that a data folder does not keep what it promises.
type BrokenSiteError struct{ Report *SiteReport }

func (e *BrokenSiteError) Error() string {
	return fmt.Sprintf("data folder: %d violations, the first is %s", len(e.Report.Violations), e.Report.Violations[0])
}

// Err is a *BrokenSiteError if there are violations.
func (rep *SiteReport) Err() error {
	if len(rep.Violations) == 0 {
		return nil
	}
	return &BrokenSiteError{rep}
}

// checkTries is how often a check starts again because the site changed under it.
const checkTries = 3

// CheckSite verifies everything that a data folder promises. It changes nothing and takes no lock: what it finds while
// something else changes the folder is looked at again.
func (r *Relay) CheckSite(ctx context.Context, o CheckOptions) *SiteReport {
	for try := 1; ; try++ {
		before := r.lastChange(ctx)
		c := &siteCheck{relay: r, options: o, checked: make(map[digest.Digest]*Violation)}
		c.report = &SiteReport{Hashed: o.Hash, Violations: []Violation{}, Warnings: []Violation{}, Leftovers: []string{}}
		c.run(ctx)
		if len(c.report.Violations) == 0 || try == checkTries || r.lastChange(ctx) == before {
			return c.report
		}
	}
}

// lastChange tells states of the documents apart.
func (r *Relay) lastChange(ctx context.Context) string {
	names, _ := r.docs.List(ctx, releasesDir)
	var b strings.Builder
	for _, name := range append(names, activeFile, promisedFile) {
		doc, _ := r.docs.Read(ctx, name)
		b.WriteString(name + " " + string(doc.Version) + "\n")
	}
	return b.String()
}

// siteCheck is one check.
type siteCheck struct {
	relay   *Relay
	options CheckOptions
	report  *SiteReport
	checked map[digest.Digest]*Violation // blobs; nil if one is as it should be
	active  Active
	bundles map[digest.Digest]*bundle.Bundle // of the active releases
}

func (c *siteCheck) violate(kind ViolationKind, object, release string, reason error) {
	c.report.Violations = append(c.report.Violations, Violation{kind, object, release, reason.Error()})
}

func (c *siteCheck) warn(kind ViolationKind, object, release string, reason error) {
	c.report.Warnings = append(c.report.Warnings, Violation{kind, object, release, reason.Error()})
}

func (c *siteCheck) run(ctx context.Context) {
	r := c.relay
	var err error
	if c.active, _, err = readActive(ctx, r.docs); err != nil {
		c.violate(BadDocument, activeFile, "", err)
	}
	c.report.Generation = c.active.Generation
	if _, err := r.Settings(ctx); err != nil {
		c.violate(BadDocument, settingsFile, "", err)
	}
	promised, err := r.promised(ctx)
	if err != nil {
		c.violate(BadDocument, promisedFile, "", err)
	}
	records := c.records(ctx)
	c.releases(ctx, records)
	for _, p := range c.active.Pins {
		if _, ok := records[p.Bundle]; !ok {
			c.violate(PinnedNothing, p.Bundle.String(), "", errors.New("is pinned and not here"))
		}
	}
	for _, d := range promised {
		if _, ok := records[d]; !ok {
			c.violate(PinnedNothing, d.String(), "", errors.New("was promised by a receipt and is not here"))
		}
	}
	c.tags(ctx)
	c.git(ctx)
	if v, ok := r.options.Journal.(Verifier); ok {
		if err := v.Verify(ctx); err != nil {
			c.violate(JournalBroken, "journal", "", err)
		}
	}
	c.files()
	slices.Sort(c.report.Leftovers)
}

// records reads how the releases came here.
func (c *siteCheck) records(ctx context.Context) map[digest.Digest]Record {
	all := make(map[digest.Digest]Record)
	names, err := c.relay.docs.List(ctx, releasesDir)
	if err != nil {
		c.violate(StorageTrouble, releasesDir, "", err)
	}
	for _, name := range names {
		hex, ok := strings.CutSuffix(filepath.Base(name), ".json")
		if !ok {
			c.warn(Stray, name, "", errors.New("is no release record"))
			continue
		}
		rec, err := c.relay.Record(ctx, digest.NewDigestFromEncoded(digest.SHA256, hex))
		switch {
		case errors.Is(err, fs.ErrNotExist): // removed meanwhile
		case err != nil:
			c.violate(BadDocument, name, "", err)
		default:
			all[rec.Bundle.Digest] = rec
		}
	}
	return all
}

// releases checks that every release is whole: the active ones, those that are kept, those that are staged. A staged one
// has its record only when its bytes are there.
func (c *siteCheck) releases(ctx context.Context, records map[digest.Digest]Record) {
	c.bundles = make(map[digest.Digest]*bundle.Bundle)
	done := make(map[digest.Digest]bool)
	check := func(rel Release, report func(ViolationKind, string, string, error)) *bundle.Bundle {
		if done[rel.Bundle.Digest] {
			return nil
		}
		done[rel.Bundle.Digest] = true
		c.report.Releases++
		rec, ok := records[rel.Bundle.Digest]
		if !ok {
			report(NoRecord, recordName(rel.Bundle.Digest), rel.String(), fs.ErrNotExist)
		}
		return c.release(ctx, rel, rec, report)
	}
	for _, ch := range c.active.Channels {
		if b := check(ch.Release, c.violate); b != nil {
			c.bundles[ch.Release.Bundle.Digest] = b
		}
	}
	for _, rel := range c.active.Releases() {
		check(rel, c.warn)
	}
	for _, rec := range records {
		check(rec.Release(), c.violate)
	}
}

// release checks one release with all that travels beside it. Without a bundle in it that can be read it gives nil.
func (c *siteCheck) release(ctx context.Context, rel Release, rec Record, report func(ViolationKind, string, string, error)) *bundle.Bundle {
	st := c.relay.store
	blob := func(n bundle.Node) error {
		if v := c.blob(ctx, n.Descriptor); v != nil {
			report(v.Kind, v.Object, rel.String(), errors.New(v.Reason))
		}
		return nil
	}
	broken := func(err error) {
		var missing *bundle.MissingError
		var damaged *bundle.DamagedError
		switch {
		case errors.As(err, &missing):
			report(BlobMissing, missing.Descriptor.Digest.String(), rel.String(), err)
		case errors.As(err, &damaged):
			report(BlobDamaged, damaged.Descriptor.Digest.String(), rel.String(), err)
		default:
			report(BundleBroken, rel.Bundle.Digest.String(), rel.String(), err)
		}
	}
	b, err := bundle.Load(ctx, st, rel.Bundle)
	if err != nil {
		broken(err)
		return nil
	}
	if b.Lock.Name != rel.Name || b.Lock.Version != rel.Version {
		report(BundleBroken, rel.Bundle.Digest.String(), rel.String(), fmt.Errorf("its lock is of %s %s", b.Lock.Name, b.Lock.Version))
	}
	if err := b.Walk(ctx, st, blob); err != nil {
		broken(err)
	}
	for _, beside := range rec.Beside {
		if err := bundle.Walk(ctx, st, beside.Manifest, blob); err != nil {
			broken(err)
		}
	}
	return b
}

// blob checks one blob, once.
func (c *siteCheck) blob(ctx context.Context, desc ocispec.Descriptor) *Violation {
	if v, known := c.checked[desc.Digest]; known {
		return v
	}
	c.report.Blobs++
	c.report.Bytes += desc.Size
	v := c.readBlob(ctx, desc)
	c.checked[desc.Digest] = v
	return v
}

func (c *siteCheck) readBlob(ctx context.Context, desc ocispec.Descriptor) *Violation {
	fail := func(kind ViolationKind, err error) *Violation {
		return &Violation{Kind: kind, Object: desc.Digest.String(), Reason: err.Error()}
	}
	size, err := c.relay.store.Size(ctx, desc.Digest)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fail(BlobMissing, err)
	case err != nil:
		return fail(StorageTrouble, err)
	case size != desc.Size:
		return fail(BlobMissing, fmt.Errorf("has %d bytes, want %d", size, desc.Size))
	case !c.options.Hash:
		return nil
	}
	rc, err := c.relay.store.Open(ctx, desc)
	if err != nil {
		return fail(StorageTrouble, err)
	}
	defer rc.Close() //nolint:errcheck // only read from
	if err := media.CopyBlob(ctx, noWriter{}, rc, desc); err != nil {
		return fail(BlobDamaged, err)
	}
	return nil
}

type noWriter struct{}

func (noWriter) Write(p []byte) (int, error) { return len(p), nil }

// tags checks that the view of the active releases resolves every tag of their locks.
func (c *siteCheck) tags(ctx context.Context) {
	channels, yields := c.active.ranked()
	wanted := make(map[[2]string]digest.Digest)
	var releases []registry.Release
	for i, ch := range channels {
		b := c.bundles[ch.Release.Bundle.Digest]
		if b == nil { // a violation already, or the same release in two channels
			continue
		}
		part, err := registry.Describe(ctx, c.relay.store, b)
		if err != nil {
			c.violate(BundleBroken, ch.Release.Bundle.Digest.String(), ch.Release.String(), err)
			continue
		}
		releases = append(releases, registry.Release{Part: part, Active: true, Yields: yields[i]})
		for _, it := range b.Lock.Items {
			for _, tag := range it.Tags {
				key := [2]string{it.Repository, tag}
				if _, taken := wanted[key]; !taken {
					wanted[key] = it.Descriptor.Digest
				}
			}
		}
	}
	view, err := registry.NewView(releases)
	if err != nil {
		c.violate(TagUnserved, activeFile, "", err)
		return
	}
	for key, want := range wanted {
		name := key[0] + ":" + key[1]
		if got, ok := view.Resolve(key[0], key[1]); !ok {
			c.violate(TagUnserved, name, "", errors.New("is not served"))
		} else if got.Digest != want {
			c.violate(TagUnserved, name, "", fmt.Errorf("is %s, want %s", got.Digest, want))
		}
	}
}

// files looks for what does not belong into the folder.
func (c *siteCheck) files() {
	top, err := os.ReadDir(c.relay.dir)
	if err != nil {
		c.violate(StorageTrouble, c.relay.dir, "", err)
		return
	}
	for _, e := range top {
		switch {
		case durable.IsTemporary(e.Name()):
			c.report.Leftovers = append(c.report.Leftovers, e.Name())
		case !slices.Contains(siteNames, strings.TrimSuffix(strings.TrimSuffix(e.Name(), "-wal"), "-shm")):
			c.warn(Stray, e.Name(), "", errors.New("is nothing of the relay's"))
		}
	}
	c.folder(derivedDir, func(name string) bool {
		return strings.HasSuffix(name, ".part") || name == scrubFile || name == ballast
	})
	c.folder(releasesDir, func(name string) bool { return strings.HasSuffix(name, ".json") })
	if c.relay.remote {
		return
	}
	c.folder("store/ingest", func(name string) bool {
		alg, hex, _ := strings.Cut(name, "-")
		d := digest.NewDigestFromEncoded(digest.Algorithm(alg), hex)
		if d.Validate() != nil {
			return false
		}
		c.report.Leftovers = append(c.report.Leftovers, "store/ingest/"+name)
		return true
	})
	for _, alg := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		c.shards(alg)
	}
}

// siteNames are what a data folder has at its top.
var siteNames = []string{
	"store", "git", "site", "tls", "identity", "journal", releasesDir, trustDir, derivedDir, "apply.lock",
	activeFile, settingsFile, promisedFile, storageFile, "access.json", "access.lock", "hooks.json", "hooks.lock", "hooks-state.json", "state.db", "state.db-journal",
	"lost+found",
}

func (c *siteCheck) folder(dir string, belongs func(name string) bool) {
	entries, err := os.ReadDir(filepath.Join(c.relay.dir, filepath.FromSlash(dir)))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.violate(StorageTrouble, dir, "", err)
	}
	for _, e := range entries {
		switch {
		case durable.IsTemporary(e.Name()):
			c.report.Leftovers = append(c.report.Leftovers, dir+"/"+e.Name())
		case !belongs(e.Name()):
			c.violate(Stray, dir+"/"+e.Name(), "", errors.New("does not belong here"))
		}
	}
}

func (c *siteCheck) shards(alg digest.Algorithm) {
	dir := "store/blobs/" + alg.String()
	c.folder(dir, func(shard string) bool {
		c.folder(dir+"/"+shard, func(hex string) bool {
			return digest.NewDigestFromEncoded(alg, hex).Validate() == nil && strings.HasPrefix(hex, shard)
		})
		return len(shard) == 2
	})
}
