package sbom

import (
	"fmt"
	"mime"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// Format is a family of SBOM documents.
type Format string

// The formats that count as "the image brought an SBOM".
const (
	FormatSPDX      Format = "spdx"
	FormatCycloneDX Format = "cyclonedx"
)

// Candidate is a manifest that may carry an SBOM of an image: a referrer, a legacy tag, or a neighbour in its index.
type Candidate struct {
	Descriptor ocispec.Descriptor // as a referrers list or an index gives it, with artifactType and annotations
	Tag        string             // the legacy tag that names it: sha256-<hex>.sbom or sha256-<hex>.att; or ""
	Manifest   []byte             // its bytes; may be nil for a referrer whose descriptor says enough
}

// Found is an SBOM that an image brought.
type Found struct {
	Format   Format
	Manifest ocispec.Descriptor // the candidate
	Layer    ocispec.Descriptor // the layer with the document or its attestation; zero when the candidate's manifest was not given
}

// What others write. See the OCI image specification 1.1, cosign's specifications and BuildKit's attestation storage.
const (
	annotationInTotoPredicate    = "in-toto.io/predicate-type"
	annotationCosignPredicate    = "predicateType"
	annotationSigstorePredicate  = "dev.sigstore.bundle.predicateType"
	annotationBuildKitType       = "vnd.docker.reference.type"
	annotationBuildKitSubject    = "vnd.docker.reference.digest"
	buildKitAttestation          = "attestation-manifest"
	suffixSBOM, suffixAttachment = ".sbom", ".att"
)

// Brought lists the SBOMs among candidates that speak of the manifest subject. A candidate that speaks of something
// else, or of nothing that can be told, is not listed: generating one SBOM too many does no harm.
func Brought(subject digest.Digest, candidates []Candidate) ([]Found, error) {
	if err := subject.Validate(); err != nil {
		return nil, fmt.Errorf("SBOM subject %q: %w", subject, err)
	}
	var found []Found
	for _, c := range candidates {
		var m ocispec.Manifest
		if c.Manifest != nil {
			if len(c.Manifest) > bundle.MaxManifest {
				return nil, fmt.Errorf("manifest %s: %d bytes, the limit is %d", c.Descriptor.Digest, len(c.Manifest), bundle.MaxManifest)
			}
			if err := strictjson.Unmarshal(c.Manifest, &m); err != nil {
				return nil, fmt.Errorf("manifest %s: %w", c.Descriptor.Digest, err)
			}
		}
		if c.speaksOf(subject, m) {
			found = append(found, c.documents(m)...)
		}
	}
	return found, nil
}

func (c Candidate) speaksOf(subject digest.Digest, m ocispec.Manifest) bool {
	if m.Subject != nil {
		return m.Subject.Digest == subject
	}
	if c.Tag != "" {
		legacy := subject.Algorithm().String() + "-" + subject.Encoded()
		return c.Tag == legacy+suffixSBOM || c.Tag == legacy+suffixAttachment
	}
	if c.Descriptor.Annotations[annotationBuildKitType] == buildKitAttestation {
		return c.Descriptor.Annotations[annotationBuildKitSubject] == subject.String()
	}
	// Without a manifest to look into, the registry that listed it as a referrer is believed.
	return c.Manifest == nil
}

func (c Candidate) documents(m ocispec.Manifest) []Found {
	whole := artifactFormat(c.Descriptor.ArtifactType, c.Descriptor.Annotations)
	if whole == "" {
		whole = artifactFormat(m.ArtifactType, m.Annotations)
	}
	if whole == "" && m.ArtifactType == "" {
		whole = artifactFormat(m.Config.MediaType, nil)
	}
	if c.Manifest == nil {
		if whole == "" {
			return nil
		}
		return []Found{{Format: whole, Manifest: c.Descriptor}}
	}
	var found []Found
	for _, layer := range m.Layers {
		format := artifactFormat(layer.MediaType, layer.Annotations)
		// What the manifest says of itself counts for its only layer; of several, only those count that say it.
		if format == "" && len(m.Layers) == 1 {
			format = whole
		}
		if format != "" && layer.Size > 0 {
			found = append(found, Found{Format: format, Manifest: c.Descriptor, Layer: layer})
		}
	}
	return found
}

// artifactFormat tells the format by a media type or by the predicate type in annotations.
func artifactFormat(mediaType string, annotations map[string]string) Format {
	if format := mediaTypeFormat(mediaType); format != "" {
		return format
	}
	for _, key := range []string{annotationInTotoPredicate, annotationCosignPredicate, annotationSigstorePredicate} {
		if format := predicateFormat(annotations[key]); format != "" {
			return format
		}
	}
	return ""
}

func mediaTypeFormat(text string) Format {
	base, _, err := mime.ParseMediaType(text)
	if err != nil {
		return ""
	}
	kind, encoding, _ := strings.Cut(base, "+")
	switch encoding {
	case "", "json", "xml", "yaml":
	default:
		return ""
	}
	switch kind {
	case "application/spdx", "text/spdx":
		return FormatSPDX
	case "application/vnd.cyclonedx":
		return FormatCycloneDX
	}
	return ""
}

// predicateFormat accepts the type itself and versions of it: https://spdx.dev/Document/v2.3.
func predicateFormat(predicate string) Format {
	for base, format := range map[string]Format{PredicateSPDX: FormatSPDX, PredicateCycloneDX: FormatCycloneDX} {
		if predicate == base || strings.HasPrefix(predicate, base+"/") {
			return format
		}
	}
	return ""
}
