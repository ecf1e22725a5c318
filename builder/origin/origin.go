// Package origin reads images and artifacts from the places that they come from, byte for byte: OCI registries, OCI image
// layouts in folders and tars, and the archives of docker save. What it gives keeps its digest, and nothing is unpacked
// or converted.
package origin

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
)

// Limits of what a place may say before its bytes are verified.
const (
	maxReferrers    = 1024     // manifests that may refer to one manifest
	maxListingPages = 64       // of the referrers of one manifest
	maxTag          = 128      // bytes (OCI distribution-spec 1.1, "Pulling manifests")
	maxIndexEntries = 16_384   // of index.json
	maxLayoutFile   = 4 << 10  // bytes of oci-layout
	maxErrorBody    = 16 << 10 // bytes of a registry's error
	maxListed       = 20       // names in an error
)

// Origin is an image or artifact in the place where it comes from. It is safe for concurrent use.
type Origin interface {
	bundle.Fetcher // what it opens is not verified
	// OpenAt is Open from an offset in bytes, which is at most desc.Size.
	OpenAt(ctx context.Context, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error)
	// Root gives the index or manifest that the reference names: media type, digest and size, and its verified bytes.
	Root(ctx context.Context) (ocispec.Descriptor, []byte, error)
	// Referrers lists what speaks of a digest here, without duplicates, sorted by tag and digest. They are claims of the
	// place, not verified.
	Referrers(ctx context.Context, subject digest.Digest) ([]Referrer, error)
	Close() error
}

// Referrer is a manifest that refers to another one, by its subject field or, with Tag set, by a legacy tag.
type Referrer struct {
	ocispec.Descriptor
	Tag string
}

// Origin opens what a reference names: a local one in the sense of ParseLocal, or host/repository:tag of a registry.
func (rs *Registries) Origin(ctx context.Context, ref string) (Origin, error) {
	if IsLocal(ref) {
		return OpenLocal(ctx, ref)
	}
	parsed, err := name.ParseReference(ref)
	if err != nil {
		return nil, err
	}
	repo, err := rs.Repository(ctx, parsed)
	if err != nil {
		return nil, err
	}
	return repo.At(parsed), nil
}

// legacySuffixes are those of the tags under which cosign keeps what speaks of a manifest.
var legacySuffixes = [...]string{".sig", ".att", ".sbom"}

// legacyTag is sha256-<hex>.sig and the like, or "" where no tag can be so long.
func legacyTag(subject digest.Digest, suffix string) string {
	tag := subject.Algorithm().String() + "-" + subject.Encoded() + suffix
	if len(tag) > maxTag {
		return ""
	}
	return tag
}

// fallbackTag is the tag of the index of referrers in a place without a referrers API (OCI distribution-spec 1.1,
// "Referrers Tag Schema").
func fallbackTag(subject digest.Digest) string {
	algorithm, encoded := subject.Algorithm().String(), subject.Encoded()
	return algorithm[:min(len(algorithm), 32)] + "-" + encoded[:min(len(encoded), 64)]
}

// referrers gathers what several lists say of one subject.
type referrers struct {
	subject digest.Digest
	found   map[referrerKey]Referrer
}

// referrerKey is what makes two referrers the same one.
type referrerKey struct {
	digest digest.Digest
	tag    string
}

func (l *referrers) add(d ocispec.Descriptor, tag string) error {
	if err := bundle.CheckDescriptor(d); err != nil {
		return err
	}
	switch {
	case !bundle.IsManifest(d.MediaType):
		return fmt.Errorf("%s has media type %q, which cannot be carried", d.Digest, d.MediaType)
	case d.Digest == l.subject:
		return fmt.Errorf("%s is said to refer to itself", d.Digest)
	case len(d.ArtifactType) > bundle.MaxName:
		return fmt.Errorf("%s: artifact type of %d bytes, the limit is %d", d.Digest, len(d.ArtifactType), bundle.MaxName)
	}
	key := referrerKey{d.Digest, tag}
	r, dup := l.found[key]
	if dup && r.Size != d.Size {
		return fmt.Errorf("%s is listed with %d and with %d bytes", d.Digest, r.Size, d.Size)
	}
	if !dup && len(l.found) >= maxReferrers {
		return fmt.Errorf("more than %d", maxReferrers)
	}
	if l.found == nil {
		l.found = make(map[referrerKey]Referrer)
	}
	artifactType := cmp.Or(d.ArtifactType, r.ArtifactType)
	r = Referrer{Descriptor: plain(d), Tag: tag}
	r.ArtifactType = artifactType
	l.found[key] = r
	return nil
}

func (l *referrers) sorted() []Referrer {
	list := make([]Referrer, 0, len(l.found))
	for _, r := range l.found {
		list = append(list, r)
	}
	slices.SortFunc(list, func(a, b Referrer) int {
		return cmp.Or(cmp.Compare(a.Tag, b.Tag), cmp.Compare(a.Digest, b.Digest))
	})
	return list
}

// plain drops what a descriptor says beyond the bytes that it names.
func plain(d ocispec.Descriptor) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
}
