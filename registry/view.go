package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Release is a release that the relay keeps.
type Release struct {
	Part   *Part
	Active bool // its tags are served; manifests, blobs and what refers to them are served by digest in any case
	Yields bool // a tag that an active release before it has is left to that one, instead of being a conflict
}

// View is what a set of releases serves. It never changes and is safe for concurrent use.
//
// It has no tables of its own but the names: a digest is looked up in the sorted tables of the parts. Making a view of
// fifty releases with twenty thousand blobs costs little more than reading the parts.
type View struct {
	repos map[string]*repository
	names []string            // of repos, sorted
	hosts map[string][]string // the upstreams, each as the value of a header
}

type repository struct {
	name     string
	parts    []placed // the active ones first
	active   int      // of parts
	tags     map[string]tagged
	tagNames []string // sorted
	made     func() map[digest.Digest]string
}

// placed is the repository in one release.
type placed struct {
	part *Part
	here *partRepository
}

// tagged is a tag of an active release.
type tagged struct {
	manifest
	part *Part
}

// manifest is what a response about a manifest says.
type manifest struct {
	digest    digest.Digest
	size      int64
	mediaType []string // one, as the value of a header
	made      []byte   // the bytes, of an index of the referrers tag schema: those alone are not in the store
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

// NewView computes what the releases serve together. It reads nothing. It fails with *ConflictError when two active
// releases disagree about a tag.
func NewView(releases []Release) (*View, error) {
	v := &View{repos: make(map[string]*repository), hosts: make(map[string][]string)}
	seen := make(map[digest.Digest]bool, len(releases))
	for _, active := range []bool{true, false} {
		for _, r := range releases {
			switch {
			case r.Part == nil:
				return nil, errors.New("view: a release without its part")
			case r.Active != active, seen[r.Part.Bundle()]:
				continue
			}
			seen[r.Part.Bundle()] = true
			if err := v.add(r.Part, active, r.Yields); err != nil {
				return nil, fmt.Errorf("view of %s: %w", r.Part, err)
			}
		}
	}
	v.names = slices.Sorted(maps.Keys(v.repos))
	for _, repo := range v.repos {
		repo.tagNames = slices.Sorted(maps.Keys(repo.tags))
		repo.made = sync.OnceValue(repo.makeFallbacks)
	}
	return v, nil
}

func (v *View) add(p *Part, active, yields bool) error {
	for i := range p.repos {
		here := &p.repos[i]
		repo := v.repos[here.name]
		if repo == nil {
			repo = &repository{name: here.name, tags: make(map[string]tagged)}
			v.repos[here.name] = repo
			if host, _, ok := strings.Cut(here.name, "/"); ok && isHost(host) && v.hosts[host] == nil {
				v.hosts[host] = []string{host}
			}
		}
		repo.parts = append(repo.parts, placed{p, here})
		if !active {
			continue
		}
		repo.active++
		for _, t := range here.tags {
			m := tagged{p.manifest(here.manifests[t.manifest]), p}
			if have, taken := repo.tags[t.name]; taken && have.digest != m.digest && !yields {
				return &ConflictError{
					Repository: repo.name, Tag: t.name,
					Bundles: [2]string{have.part.String(), p.String()},
					Digests: [2]digest.Digest{have.digest, m.digest},
				}
			} else if !taken {
				repo.tags[t.name] = m
			}
		}
	}
	return nil
}

// Repositories gives the full names of all repositories, sorted, those without a tag included.
func (v *View) Repositories() []string { return slices.Clone(v.names) }

// Hosts gives the upstreams that the repositories belong to, sorted: ghcr.io, docker.io.
func (v *View) Hosts() []string { return slices.Sorted(maps.Keys(v.hosts)) }

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
	m, ok := manifest{}, false
	if looksLikeDigest(reference) {
		if s, known, _ := parseSum(reference); known {
			m, ok = repo.byDigest(reference, &s)
		}
	} else {
		m, ok = repo.byTag(reference)
	}
	if !ok {
		return ocispec.Descriptor{}, false
	}
	return ocispec.Descriptor{MediaType: m.mediaType[0], Digest: m.digest, Size: m.size}, true
}

// namespace gives the value of a header for a host that a client sent.
func (v *View) namespace(ns string) []string {
	if value := v.hosts[ns]; value != nil {
		return value
	}
	return []string{ns}
}

// byTag follows the active releases. Two kinds of tags stand for a digest and are served, though not listed, as long as
// that digest is: the indexes of the referrers tag schema, and cosign's names. A robot on an older release could not
// verify what it pulls without them.
func (r *repository) byTag(tag string) (manifest, bool) {
	if t, ok := r.tags[tag]; ok {
		return t.manifest, true
	}
	if prefix, ok := fallbackSubject(tag); ok {
		return r.fallback(prefix)
	}
	subject, ok := namedDigest(tag)
	if !ok || r.isActive(subject) {
		return manifest{}, false
	}
	for _, p := range r.parts[r.active:] {
		if t, ok := p.here.tag(tag); ok {
			return p.part.manifest(p.here.manifests[t.manifest]), true
		}
	}
	return manifest{}, false
}

// byDigest finds a manifest of any release; text is s as the client wrote it.
func (r *repository) byDigest(text string, s *sum) (manifest, bool) {
	for _, p := range r.parts {
		if m, ok := p.manifest(s); ok {
			return manifest{digest: digest.Digest(text), size: p.part.content.sizes[m.content], mediaType: p.part.mediaType(m)}, true
		}
	}
	if subject, ok := r.made()[digest.Digest(text)]; ok {
		return r.fallback(subject)
	}
	return manifest{}, false
}

// blob gives the size of a config or layer of any release.
func (r *repository) blob(s *sum) (size int64, ok bool) {
	for _, p := range r.parts {
		if i, ok := p.part.content.find(s); ok && p.here.hasBlob(i) {
			return p.part.content.sizes[i], true
		}
	}
	return 0, false
}

// referrers gives the descriptors of distribution-spec 1.1 "Listing Referrers", sorted by digest: those of the active
// releases, and for a subject that only kept releases have, theirs.
func (r *repository) referrers(subject string) []ocispec.Descriptor {
	list := listReferrers(r.parts[:r.active], subject)
	if len(list) > 0 || r.isActive(subject) {
		return list
	}
	return listReferrers(r.parts[r.active:], subject)
}

// isActive reports whether an active release has a manifest: then what only older releases say of it was withdrawn.
func (r *repository) isActive(subject string) bool {
	s, known, _ := parseSum(subject)
	return known && slices.ContainsFunc(r.parts[:r.active], func(p placed) bool {
		_, ok := p.manifest(&s)
		return ok
	})
}

func listReferrers(parts []placed, subject string) []ocispec.Descriptor {
	var list []ocispec.Descriptor
	for _, p := range parts {
		for _, ref := range p.here.referrersOf(subject) {
			list = append(list, p.part.referrer(p.here, ref))
		}
	}
	return sortReferrers(list)
}

// fallback makes the index of the referrers tag schema for the subject that starts with prefix. Of sha512 the tag has only
// half of the digits; they name one digest all the same.
func (r *repository) fallback(prefix string) (manifest, bool) {
	for _, p := range r.parts {
		subject, ok := p.here.subject(prefix)
		if !ok {
			continue
		}
		list := r.referrers(subject)
		if len(list) == 0 || len(firstPage(list)) < len(list) {
			return manifest{}, false // no client would read so large an index, and a tag has no next page
		}
		raw, err := json.Marshal(referrersIndex(list))
		if err != nil {
			return manifest{}, false
		}
		return manifest{digest: digest.FromBytes(raw), size: int64(len(raw)), mediaType: indexType, made: raw}, true
	}
	return manifest{}, false
}

// makeFallbacks gives the subjects of the indexes of the referrers tag schema by the digests of the indexes: a client that
// found one by its tag may ask for it by digest. It runs once, when a client asks for a manifest that no release has.
func (r *repository) makeFallbacks() map[digest.Digest]string {
	subjects := make(map[digest.Digest]string)
	for _, p := range r.parts {
		for _, ref := range p.here.referrers {
			if m, ok := r.fallback(ref.subject); ok {
				subjects[m.digest] = ref.subject
			}
		}
	}
	return subjects
}

func (p placed) manifest(s *sum) (partManifest, bool) {
	i, ok := p.part.content.find(s)
	if !ok {
		return partManifest{}, false
	}
	return p.here.manifest(i)
}
