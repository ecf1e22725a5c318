package registry

import (
	"cmp"
	"iter"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Part is what a view needs to know of one release: its repositories, tags, manifests, referrers, and all content with
// sizes. Describe makes it from a bundle; MarshalBinary keeps it for the next start, which then reads no manifest. It
// never changes and is safe for concurrent use.
type Part struct {
	root    ocispec.Descriptor // of the bundle's index
	name    string
	version string
	content contents
	types   []string         // media types and artifact types, sorted
	repos   []partRepository // sorted by name
}

// contents are digests with sizes. The digests of an algorithm are one string, so that a part has few pointers and a
// lookup is a binary search in what was read from the disk.
type contents struct {
	sha256 string  // 32 bytes each, sorted
	sha512 string  // 64 bytes each, sorted
	sizes  []int64 // in bytes, of both
}

type partRepository struct {
	name      string         // canonical
	manifests []partManifest // sorted by content; image indexes, whose bytes are layers of the lock, are among them
	blobs     []uint32       // of content, sorted: configs and layers of the manifests
	tags      []partTag      // sorted by name
	referrers []partReferrer // sorted by subject, then by manifest
}

type partManifest struct {
	content   uint32
	mediaType uint32 // in types
}

type partTag struct {
	name     string
	manifest uint32 // in manifests
}

type partReferrer struct {
	subject      string // a digest, of which the release may have nothing
	manifest     uint32 // in manifests
	artifactType uint32 // in types, from 1; 0 means none
	annotations  []annotation
}

type annotation struct{ key, value string }

// Bundle is the digest of the bundle's index.
func (p *Part) Bundle() digest.Digest { return p.root.Digest }

// Name is the bundle's name.
func (p *Part) Name() string { return p.name }

// Version is the bundle's version.
func (p *Part) Version() string { return p.version }

// String gives name and version.
func (p *Part) String() string { return p.name + " " + p.version }

// Blobs gives all content of the release with its size in bytes, sorted by digest: everything under the bundle's index,
// Git layers too, and the index itself. A relay that serves the release must have all of it.
func (p *Part) Blobs() iter.Seq2[digest.Digest, int64] {
	return func(yield func(digest.Digest, int64) bool) {
		for i, size := range p.content.sizes {
			if !yield(p.content.digest(uint32(i)), size) {
				return
			}
		}
	}
}

func (c *contents) digest(i uint32) digest.Digest {
	n := uint32(len(c.sha256) / 32)
	if i < n {
		return sumText(c.sha256[i*32:][:32])
	}
	return sumText(c.sha512[(i-n)*64:][:64])
}

// find gives the place of a digest.
func (c *contents) find(s *sum) (uint32, bool) {
	text, base := c.sha256, 0
	if s.n == 64 {
		text, base = c.sha512, len(c.sha256)/32
	}
	low, high := 0, len(text)/s.n
	for low < high {
		if mid := int(uint(low+high) >> 1); text[mid*s.n:][:s.n] < string(s.raw[:s.n]) {
			low = mid + 1
		} else {
			high = mid
		}
	}
	if low*s.n == len(text) || text[low*s.n:][:s.n] != string(s.raw[:s.n]) {
		return 0, false
	}
	return uint32(base + low), true
}

func (p *Part) manifest(m partManifest) manifest {
	return manifest{digest: p.content.digest(m.content), size: p.content.sizes[m.content], mediaType: p.mediaType(m)}
}

// mediaType gives a manifest's media type as the value of a header, without making a slice.
func (p *Part) mediaType(m partManifest) []string {
	return p.types[m.mediaType : m.mediaType+1 : m.mediaType+1]
}

// referrer describes a manifest as distribution-spec 1.1 "Listing Referrers" asks for.
func (p *Part) referrer(here *partRepository, ref partReferrer) ocispec.Descriptor {
	m := p.manifest(here.manifests[ref.manifest])
	d := ocispec.Descriptor{MediaType: m.mediaType[0], Digest: m.digest, Size: m.size}
	if ref.artifactType > 0 {
		d.ArtifactType = p.types[ref.artifactType-1]
	}
	if len(ref.annotations) > 0 {
		d.Annotations = make(map[string]string, len(ref.annotations))
		for _, a := range ref.annotations {
			d.Annotations[a.key] = a.value
		}
	}
	return d
}

func (r *partRepository) manifest(content uint32) (partManifest, bool) {
	i, ok := slices.BinarySearchFunc(r.manifests, content, func(m partManifest, c uint32) int { return cmp.Compare(m.content, c) })
	if !ok {
		return partManifest{}, false
	}
	return r.manifests[i], true
}

func (r *partRepository) hasBlob(content uint32) bool {
	_, ok := slices.BinarySearch(r.blobs, content)
	return ok
}

func (r *partRepository) tag(name string) (partTag, bool) {
	i, ok := slices.BinarySearchFunc(r.tags, name, func(t partTag, n string) int { return strings.Compare(t.name, n) })
	if !ok {
		return partTag{}, false
	}
	return r.tags[i], true
}

func (r *partRepository) referrersOf(subject string) []partReferrer {
	first, _ := slices.BinarySearchFunc(r.referrers, subject, func(ref partReferrer, s string) int { return strings.Compare(ref.subject, s) })
	end := first
	for end < len(r.referrers) && r.referrers[end].subject == subject {
		end++
	}
	return r.referrers[first:end]
}

// subject gives the first subject that starts with prefix.
func (r *partRepository) subject(prefix string) (string, bool) {
	i, _ := slices.BinarySearchFunc(r.referrers, prefix, func(ref partReferrer, s string) int { return strings.Compare(ref.subject, s) })
	if i == len(r.referrers) || !strings.HasPrefix(r.referrers[i].subject, prefix) {
		return "", false
	}
	return r.referrers[i].subject, true
}
