package sbom

import (
	"crypto/sha1" //nolint:gosec // SPDX 2.3, clause 6.6, demands SHA-1; what protects the document is its signature
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spdx/tools-golang/spdx/v2/common"
	"github.com/spdx/tools-golang/spdx/v2/v2_3"
)

// Child is one platform manifest of an index.
type Child struct {
	Subject  Subject
	Document []byte // the SPDX document about it; nil when there is none, for example when the image brought another form
}

// elementIndex is the SPDX identifier of the index in the document about it.
const elementIndex common.ElementID = "Index"

// IndexDocument is the SPDX document about a multi-platform image: the index, its platform manifests as variants of it,
// and references to the documents about those. subject.Platform is not used.
func IndexDocument(subject Subject, children []Child) ([]byte, error) {
	subject.Platform = ""
	if err := subject.Validate(); err != nil {
		return nil, err
	}
	if len(children) == 0 {
		return nil, fmt.Errorf("SBOM of %s: an index without platform manifests", subject.Digest)
	}
	doc := NewDocument(subject)
	doc.Packages = append(doc.Packages, ImagePackage(elementIndex, subject))
	doc.Relationships = append(doc.Relationships, Relate(doc.SPDXIdentifier, common.TypeRelationshipDescribe, elementIndex))
	for _, c := range children {
		if err := c.Subject.Validate(); err != nil {
			return nil, err
		}
		label := c.label()
		id := common.ElementID("Image-" + label)
		doc.Packages = append(doc.Packages, ImagePackage(id, c.Subject))
		doc.Relationships = append(doc.Relationships, Relate(id, common.TypeRelationshipVariantOf, elementIndex))
		if c.Document == nil {
			continue
		}
		header, err := readHeader(c.Document)
		if err != nil {
			return nil, fmt.Errorf("SBOM of %s: %w", c.Subject.Digest, err)
		}
		sum := sha1.Sum(c.Document) //nolint:gosec // see the import
		ref := common.DocumentID(label)
		doc.ExternalDocumentReferences = append(doc.ExternalDocumentReferences, v2_3.ExternalDocumentRef{
			DocumentRefID: ref,
			URI:           header.DocumentNamespace,
			Checksum:      common.Checksum{Algorithm: common.SHA1, Value: hex.EncodeToString(sum[:])},
		})
		described := Relate(id, common.TypeRelationshipDescribeBy, documentElement.ElementRefID)
		described.RefB.DocumentRefID = ref
		doc.Relationships = append(doc.Relationships, described)
	}
	return EncodeSPDX(doc)
}

// label tells the children apart in identifiers; the digest is there because an index may list a platform twice.
func (c Child) label() string {
	short := c.Subject.Digest.Encoded()[:12]
	platform := strings.Join(c.Subject.platformParts(), "-")
	if platform == "" {
		return short
	}
	return strings.ReplaceAll(platform, "_", "-") + "-" + short
}

// header is what is read of a document that is only passed on, so that its packages never fill the memory.
type header struct {
	SPDXVersion       string `json:"spdxVersion"`
	DocumentNamespace string `json:"documentNamespace"`
}

func readHeader(document []byte) (header, error) {
	var h header
	if err := json.Unmarshal(document, &h); err != nil {
		return h, &DocumentError{Err: err}
	}
	if h.SPDXVersion != v2_3.Version {
		return h, badDocument("spdxVersion", "%q, want %q", h.SPDXVersion, v2_3.Version)
	}
	return h, checkNamespace("documentNamespace", h.DocumentNamespace)
}
