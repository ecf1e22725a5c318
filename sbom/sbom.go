// Package sbom makes and reads the software bills of materials of images: SPDX 2.3 documents.
//
// What is inside an image is found by catalogers that parse hostile content. They run in a process of their own, the
// executable plimsoll-sbom, which Generator starts; this package links none of them.
//
// Documents are deterministic: the same image, subject and versions give the same bytes. They name packages and how
// packages depend on each other; they do not list files. A file entry in SPDX 2.3 needs a SHA-1 of the content, a
// distribution image owns tens of thousands of files, and their entries would make documents of 30 MB that say less
// than the layer digests already do. The path in which a package was found is in its sourceInfo.
package sbom

import (
	"fmt"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/anchore/packageurl-go"
	"github.com/opencontainers/go-digest"

	"github.com/plimsoll/plimsoll/bundle"
)

// PredicateSPDX is the in-toto predicate type of an SPDX document.
const PredicateSPDX = "https://spdx.dev/Document"

// PredicateCycloneDX is the in-toto predicate type of a CycloneDX document.
const PredicateCycloneDX = "https://cyclonedx.org/bom"

// MediaTypeSPDX is the media type of a document that this package makes.
const MediaTypeSPDX = "application/spdx+json"

// namespaceBase begins the documentNamespace of the documents that Plimsoll makes.
const namespaceBase = "https://plimsoll.dev/spdx/"

// Subject is the manifest that a document describes, and what else goes into the document without being in the image.
type Subject struct {
	Repository string        // ghcr.io/acme/robot-app
	Digest     digest.Digest // of the platform manifest, or of the index for IndexDocument
	Platform   string        // os/arch[/variant]; "" or "unknown" when nobody says it
	Created    time.Time     // becomes the document's date; never the wall clock, or no document could be made twice
	Creator    string        // the calling tool and its version, plimsoll-v1.5.4; "" is "plimsoll-devel"
}

// defaultCreator stands in a document when the caller does not say what it is.
const defaultCreator = "plimsoll-devel"

var (
	platformPattern = regexp.MustCompile(`^[a-z0-9]+/[a-z0-9_]+(/[A-Za-z0-9_.-]+)?$`)
	creatorPattern  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,127}$`)
)

// Validate reports the first field that no document can be made of.
func (s Subject) Validate() error {
	if err := bundle.CheckRepository(s.Repository); err != nil {
		return fmt.Errorf("SBOM subject: %w", err)
	}
	if err := s.Digest.Validate(); err != nil {
		return fmt.Errorf("SBOM subject %s: digest %q: %w", s.Repository, s.Digest, err)
	}
	if s.Platform != "" && s.Platform != "unknown" && !platformPattern.MatchString(s.Platform) {
		return fmt.Errorf("SBOM subject %s: platform %q: want os/arch[/variant]", s.Repository, s.Platform)
	}
	if s.Created.IsZero() || s.Created.Year() > 9999 || s.Created.Year() < 0 {
		return fmt.Errorf("SBOM subject %s: no date of creation", s.Repository)
	}
	if s.Creator != "" && !creatorPattern.MatchString(s.Creator) {
		return fmt.Errorf("SBOM subject %s: creator %q: want name-version", s.Repository, s.Creator)
	}
	return nil
}

// Namespace is the documentNamespace of the document about s: an identifier, not a place to fetch it from.
func (s Subject) Namespace() string { return namespaceBase + s.Digest.Encoded() }

// CreatedText is s.Created as SPDX writes it: UTC, whole seconds.
func (s Subject) CreatedText() string { return s.Created.UTC().Format("2006-01-02T15:04:05Z") }

// PURL is the package URL of the image, type "oci" of the purl specification. The specification knows no qualifiers
// for the operating system and the variant; "os" and "variant" are understood as in the OCI image index.
func (s Subject) PURL() string {
	q := packageurl.Qualifiers{{Key: "repository_url", Value: s.Repository}}
	for i, part := range s.platformParts() {
		q = append(q, packageurl.Qualifier{Key: []string{"os", "arch", "variant"}[i], Value: part})
	}
	purl := packageurl.PackageURL{Type: "oci", Name: path.Base(s.Repository), Version: s.Digest.String(), Qualifiers: q}
	return purl.ToString()
}

func (s Subject) platformParts() []string {
	if s.Platform == "" || s.Platform == "unknown" {
		return nil
	}
	return strings.SplitN(s.Platform, "/", 3)
}

func (s Subject) creator() string {
	if s.Creator == "" {
		return defaultCreator
	}
	return s.Creator
}
