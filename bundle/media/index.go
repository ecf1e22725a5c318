package media

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// Limits of what a layout or a registry may say before its bytes are verified.
const (
	maxIndex     = bundle.MaxManifest // bytes of index.json
	maxLayout    = 4 << 10            // bytes of oci-layout
	maxReferrers = 1024               // beside one subject
)

const layoutVersion = `{"imageLayoutVersion":"` + ocispec.ImageLayoutVersion + `"}`

// parseLayoutFile checks the file oci-layout (OCI image-layout, "oci-layout file").
func parseLayoutFile(data []byte) error {
	var l ocispec.ImageLayout
	if err := strictjson.Unmarshal(data, &l); err != nil {
		return fmt.Errorf("%s: %w", ocispec.ImageLayoutFile, err)
	}
	if l.Version != ocispec.ImageLayoutVersion {
		return fmt.Errorf("%s: version %q, want %q", ocispec.ImageLayoutFile, l.Version, ocispec.ImageLayoutVersion)
	}
	return nil
}

// parseIndexFile gives the entries of index.json. Fields of other tools are ignored, ambiguity is not.
func parseIndexFile(data []byte) ([]ocispec.Descriptor, error) {
	if len(data) > maxIndex {
		return nil, fmt.Errorf("%s: more than %d bytes", ocispec.ImageIndexFile, maxIndex)
	}
	var index ocispec.Index
	if err := strictjson.Unmarshal(data, &index); err != nil {
		return nil, fmt.Errorf("%s: %w", ocispec.ImageIndexFile, err)
	}
	if index.SchemaVersion != 2 || index.MediaType != "" && index.MediaType != ocispec.MediaTypeImageIndex {
		return nil, fmt.Errorf("%s: schema version %d and media type %q, want 2 and %s", ocispec.ImageIndexFile,
			index.SchemaVersion, index.MediaType, ocispec.MediaTypeImageIndex)
	}
	for _, d := range index.Manifests {
		if err := bundle.CheckDescriptor(d); err != nil {
			return nil, fmt.Errorf("%s: %w", ocispec.ImageIndexFile, err)
		}
	}
	return index.Manifests, nil
}

// encodeIndexFile gives the bytes of index.json.
func encodeIndexFile(entries []ocispec.Descriptor) ([]byte, error) {
	data, err := strictjson.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: entries,
	})
	if err == nil && len(data) > maxIndex {
		err = fmt.Errorf("%s: %d bytes, the limit is %d", ocispec.ImageIndexFile, len(data), maxIndex)
	}
	return data, err
}

func tagOf(d ocispec.Descriptor) string { return d.Annotations[ocispec.AnnotationRefName] }

// plain drops what a descriptor says beyond the bytes that it names.
func plain(d ocispec.Descriptor) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
}

// mergeEntries adds entries to those of an index.json. An added entry takes its tag from whatever had it; a digest needs
// no untagged entry beside a tagged one. The result is sorted, bundles first, then by tag, digest and size, so that equal
// content gives equal bytes whatever the order in which it came.
func mergeEntries(have, add []ocispec.Descriptor) []ocispec.Descriptor {
	tags := make(map[string]bool)            // that are added
	tagged := make(map[digest.Digest]bool)   // whose entries need no untagged twin
	untagged := make(map[digest.Digest]bool) // that are in the result already
	for _, d := range add {
		if t := tagOf(d); t != "" {
			tags[t], tagged[d.Digest] = true, true
		}
	}
	kept := make([]ocispec.Descriptor, 0, len(have)+len(add))
	for _, d := range have {
		if t := tagOf(d); t != "" && !tags[t] {
			tagged[d.Digest] = true
		}
	}
	for i, d := range slices.Concat(have, add) {
		t := tagOf(d)
		switch {
		case t == "" && (tagged[d.Digest] || untagged[d.Digest]), t != "" && i < len(have) && tags[t]:
			continue
		case t == "":
			untagged[d.Digest] = true
		}
		kept = append(kept, d)
	}
	slices.SortStableFunc(kept, func(a, b ocispec.Descriptor) int {
		rank := func(d ocispec.Descriptor) int {
			if d.ArtifactType == bundle.ArtifactTypeBundle {
				return 0
			}
			return 1
		}
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(tagOf(a), tagOf(b)),
			cmp.Compare(a.Digest, b.Digest), cmp.Compare(a.Size, b.Size))
	})
	return slices.CompactFunc(kept, func(a, b ocispec.Descriptor) bool {
		return tagOf(a) != "" && tagOf(a) == tagOf(b) && a.Digest == b.Digest && a.Size == b.Size
	})
}

// entry is what index.json says of a manifest.
func entry(d ocispec.Descriptor, artifactType, tag string) ocispec.Descriptor {
	d = plain(d)
	d.ArtifactType = artifactType
	if tag != "" {
		d.Annotations = map[string]string{ocispec.AnnotationRefName: tag}
	}
	return d
}

// statement is what a manifest says of itself.
type statement struct {
	ArtifactType string
	Subject      digest.Digest
}

// parseStatement reads it from verified bytes. The artifact type of a manifest without one is its config's media type
// (OCI distribution-spec 1.1, "Listing Referrers").
func parseStatement(desc ocispec.Descriptor, raw []byte) (statement, error) {
	var m struct {
		ArtifactType string              `json:"artifactType"`
		Config       *ocispec.Descriptor `json:"config"`
		Subject      *ocispec.Descriptor `json:"subject"`
	}
	if err := strictjson.Unmarshal(raw, &m); err != nil {
		return statement{}, fmt.Errorf("manifest %s: %w", desc.Digest, err)
	}
	s := statement{ArtifactType: m.ArtifactType}
	if s.ArtifactType == "" && m.Config != nil {
		s.ArtifactType = m.Config.MediaType
	}
	if m.Subject != nil {
		s.Subject = m.Subject.Digest
	}
	return s, nil
}

func sortReferrers(refs []Referrer) []Referrer {
	slices.SortFunc(refs, func(a, b Referrer) int {
		return cmp.Or(cmp.Compare(a.Tag, b.Tag), cmp.Compare(a.Digest, b.Digest))
	})
	return slices.CompactFunc(refs, func(a, b Referrer) bool { return a.Tag == b.Tag && a.Digest == b.Digest })
}
