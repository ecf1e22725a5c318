// Package diff says what changed between two bundles: items, their manifests and layers, and what is inside charts, files,
// Git repositories and SBOMs.
//
// Nothing that it reads is trusted, and nothing that it says is a verdict: signatures are not looked at. What is inside
// an item and cannot be read (an archive that is none, an SBOM of another format) is a note in the result; a blob that is
// missing or damaged is an error, as everywhere.
package diff

import (
	"context"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
)

// Limits, enforced before anything is allocated. What is beyond a limit of a listing is counted.
const (
	MaxText    = 256 << 10 // bytes of a text file that is compared line by line
	MaxFiles   = 20_000    // files in a chart archive or between two commits
	MaxPatches = 200       // text differences of one item
	MaxCommits = 1000      // of one ref
	MaxNames   = 5000      // packages of one list, needs of the proof, refs of one repository that are looked into
	MaxValue   = 1 << 10   // bytes of a field's value; a longer one is cut
)

// Side is one of the two bundles, and where its blobs are.
type Side struct {
	Bundle *bundle.Bundle
	Source bundle.Fetcher
}

// Options say how deep to look. The zero value compares everything but what is inside Git layers.
type Options struct {
	// Commits lists commits and changed files between the refs of Git repositories. It fetches the Git layers of both
	// sides whole and indexes them in a scratch repository.
	Commits bool
	Git     string // the git executable; empty: git from PATH
	TempDir string // where the scratch folder is made; empty: the system's
	Shallow bool   // compare names, digests and layers only: nothing but manifests is read
}

// Diff is what changed from bundle A to bundle B. Lists are sorted. It is empty when A and B are one bundle.
type Diff struct {
	A         Release      `json:"a"`
	B         Release      `json:"b"`
	Metadata  []Field      `json:"metadata,omitempty"` // of lock and index
	Spec      *FileChange  `json:"spec,omitempty"`     // bundle.yaml
	Closure   *ClosureDiff `json:"closure,omitempty"`  // the completeness proof
	Added     []Item       `json:"added,omitempty"`
	Removed   []Item       `json:"removed,omitempty"`
	Changed   []Change     `json:"changed,omitempty"`
	Unchanged int          `json:"unchanged,omitempty"` // items, without referrers
	Referrers Referrers    `json:"referrers,omitzero"`
	Layers    Share        `json:"layers,omitzero"` // content of items: without manifests and configs
	Blobs     Share        `json:"blobs,omitzero"`  // everything below the index, and the index; New is to be carried when the site has A
}

// Equal reports whether both are the same bundle, to the byte.
func (d *Diff) Equal() bool { return d.A.Digest == d.B.Digest }

// Release names a bundle.
type Release struct {
	Name    string        `json:"name"`
	Version string        `json:"version"`
	Digest  digest.Digest `json:"digest"`
}

// Field is a value that changed. Its name is a path: builder.version. A value that is not there is empty.
type Field struct {
	Name string `json:"name"`
	Old  string `json:"old,omitempty"`
	New  string `json:"new,omitempty"`
}

// Item is an item that one side has.
type Item struct {
	Name      string        `json:"name"`
	Kind      bundle.Kind   `json:"kind"`
	Tags      []string      `json:"tags,omitempty"`
	Digest    digest.Digest `json:"digest"`
	Bytes     int64         `json:"bytes"`
	Platforms []string      `json:"platforms,omitempty"`
	Layers    *Share        `json:"layers,omitempty"` // shared with any item of the other side
}

// Change is an item that both sides have and that is not the same.
type Change struct {
	Kind      bundle.Kind      `json:"kind"`
	Old       Item             `json:"old"`
	New       Item             `json:"new"`            // of another name when its tag moved
	Same      bool             `json:"same,omitempty"` // the digest is the same: only what the lock says of the item changed
	Platforms []PlatformChange `json:"platforms,omitempty"`
	Fields    []Field          `json:"fields,omitempty"` // of the item in the lock; of a chart also of its Chart.yaml, as chart.…
	Layers    Share            `json:"layers,omitzero"`
	NewLayers []Blob           `json:"newLayers,omitempty"` // those that no item of A has
	Files     []FileChange     `json:"files,omitempty"`     // in a chart archive; of a file item, itself; between the commits of a repository's refs
	Refs      []RefChange      `json:"refs,omitempty"`
	SBOM      []PackageDiff    `json:"sbom,omitempty"`
	Omitted   int              `json:"omitted,omitempty"` // files and refs beyond the limits of the lists
	Notes     []string         `json:"notes,omitempty"`   // what could not be compared, and why
}

// PlatformChange is a manifest of an image. Old is empty when the platform came, New when it went.
type PlatformChange struct {
	Platform string        `json:"platform"`
	Old      digest.Digest `json:"old,omitempty"`
	New      digest.Digest `json:"new,omitempty"`
	Config   []Field       `json:"config,omitempty"` // of the image's configuration, without its layers
}

// Referrers counts what refers to items: signatures, attestations, SBOMs. They follow their subjects, so they are only
// counted.
type Referrers struct {
	Added   int `json:"added"`
	Removed int `json:"removed"`
	Kept    int `json:"kept"`
}

// Share counts blobs by digest.
type Share struct {
	Shared Count `json:"shared"` // on both sides
	New    Count `json:"new"`    // B has, A has not
	Gone   Count `json:"gone"`   // A has, B has not
}

// Count is a number of blobs, each digest once.
type Count struct {
	Blobs int   `json:"blobs"`
	Bytes int64 `json:"bytes"`
}

func (c *Count) add(size int64) {
	c.Blobs++
	c.Bytes += size
}

// Blob is a digest with its size.
type Blob struct {
	Digest digest.Digest `json:"digest"`
	Bytes  int64         `json:"bytes"`
}

// Status says what happened to a file, a ref or a package.
type Status string

// The statuses.
const (
	Added   Status = "added"
	Removed Status = "removed"
	Changed Status = "changed"
)

// FileChange is a file that is not the same on both sides.
type FileChange struct {
	Path     string `json:"path"`
	Status   Status `json:"status"`
	OldBytes int64  `json:"oldBytes,omitempty"`
	NewBytes int64  `json:"newBytes,omitempty"`
	Patch    string `json:"patch,omitempty"` // unified, of texts up to MaxText
}

// RefChange is a branch or tag of a Git repository.
type RefChange struct {
	Name    string   `json:"name"`
	Status  Status   `json:"status"`
	Old     string   `json:"old,omitempty"`     // object id, of an annotated tag the commit it leads to
	New     string   `json:"new,omitempty"`     //
	Commits []Commit `json:"commits,omitempty"` // in New and not in Old; of a new ref: on no ref of A. Newest first.
	More    bool     `json:"more,omitempty"`    // there are more than MaxCommits
	Lost    int      `json:"lost,omitempty"`    // commits in Old and not in New: the ref was moved back or aside; at most MaxCommits
}

// Commit is one commit between two refs.
type Commit struct {
	ID      string `json:"id"`
	Time    string `json:"time"` // of the committer, RFC 3339, UTC
	Author  string `json:"author"`
	Subject string `json:"subject"`
}

// PackageDiff compares the SPDX documents of one image for platforms at which the same packages changed.
type PackageDiff struct {
	Platforms []string  `json:"platforms"`
	Packages  []Package `json:"packages"`
	Omitted   int       `json:"omitted,omitempty"`
}

// Package is a package whose versions in an image are not the same on both sides.
type Package struct {
	Name   string   `json:"name"`
	Type   string   `json:"type,omitempty"` // of its package URL: deb, golang, npm …
	Status Status   `json:"status"`         // Changed: upgraded or downgraded
	Old    []string `json:"old,omitempty"`  // versions that only A has
	New    []string `json:"new,omitempty"`  // versions that only B has
}

// Compare is Options{}.Compare.
func Compare(ctx context.Context, a, b Side) (*Diff, error) { return Options{}.Compare(ctx, a, b) }

// Compare says what changed from a to b. Its errors are those of reading blobs (*bundle.MissingError,
// *bundle.DamagedError), of the scratch folder, and ctx's.
func (o Options) Compare(ctx context.Context, a, b Side) (*Diff, error) {
	d := &Diff{A: release(a.Bundle), B: release(b.Bundle)}
	if d.Equal() {
		return d, nil
	}
	pairs := d.compareLocks(a.Bundle.Lock, b.Bundle.Lock)
	d.compareIndexes(a.Bundle, b.Bundle)
	old, err := takeInventory(ctx, a, bundle.MaxBlobs)
	if err != nil {
		return nil, fmt.Errorf("bundle %s: %w", d.A.Digest, err)
	}
	now, err := takeInventory(ctx, b, bundle.MaxBlobs)
	if err != nil {
		return nil, fmt.Errorf("bundle %s: %w", d.B.Digest, err)
	}
	d.share(old, now)
	if o.Shallow {
		return d, nil
	}
	if err := d.compareSpecs(ctx, a, b); err != nil {
		return nil, err
	}
	c := &comparer{o: o, a: old, b: now}
	for i, pair := range pairs {
		if err := c.look(ctx, &d.Changed[i], pair); err != nil {
			return nil, fmt.Errorf("compare item %s: %w", pair.now.Name, err)
		}
	}
	return d, nil
}

// Locks compares what locks alone say: metadata, proof and items, without layers and without what is inside. No digest of
// a bundle is known then, so that Equal says nothing.
func Locks(a, b *bundle.Lock) *Diff {
	d := &Diff{A: Release{Name: a.Name, Version: a.Version}, B: Release{Name: b.Name, Version: b.Version}}
	d.compareLocks(a, b)
	return d
}

func release(b *bundle.Bundle) Release {
	return Release{Name: b.Lock.Name, Version: b.Lock.Version, Digest: b.Root.Digest}
}

// comparer looks into items.
type comparer struct {
	o    Options
	a, b *inventory
}

func (c *comparer) look(ctx context.Context, change *Change, p pair) error {
	if change.Same && p.now.Kind != bundle.KindImage {
		return nil
	}
	switch p.now.Kind {
	case bundle.KindImage:
		if err := c.lookImage(ctx, change, p); err != nil {
			return err
		}
		return c.lookSBOM(ctx, change, p)
	case bundle.KindGit:
		return c.lookGit(ctx, change, p)
	}
	return c.lookContent(ctx, change, p)
}

// manifest reads the manifest of an item or a platform.
func (inv *inventory) manifest(ctx context.Context, desc ocispec.Descriptor) (*ocispec.Manifest, error) {
	raw, err := bundle.ReadBlob(ctx, inv.source, desc, bundle.MaxManifest)
	if err != nil {
		return nil, err
	}
	return parseManifest(raw)
}
