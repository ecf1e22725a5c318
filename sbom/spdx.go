package sbom

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spdx/tools-golang/spdx/v2/common"
	"github.com/spdx/tools-golang/spdx/v2/v2_3"

	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// Limits of documents, enforced before they are decoded.
const (
	MaxDocument = 256 << 20 // bytes
	MaxElements = 1 << 20   // packages, files or relationships, each
)

const noAssertion = "NOASSERTION"

// DocumentError says what is wrong with an SPDX document.
type DocumentError struct {
	Element string // the field or the SPDX identifier
	Reason  string
	Err     error // of the decoder, if it was that
}

func (e *DocumentError) Error() string {
	text := "SPDX document"
	if e.Element != "" {
		text += ": " + e.Element
	}
	if e.Err != nil {
		return text + ": " + e.Err.Error()
	}
	return text + ": " + e.Reason
}

func (e *DocumentError) Unwrap() error { return e.Err }

func badDocument(element, reason string, args ...any) error {
	return &DocumentError{Element: element, Reason: fmt.Sprintf(reason, args...)}
}

// ParseSPDX reads an SPDX 2.3 JSON document from untrusted bytes. Beyond the library's decoder it requires what the
// specification requires and the library does not check: version, namespace, data licence, creation info, unique
// identifiers, relationships whose ends exist, and something that the document describes.
//
// Suppliers and originators come as they stand in the JSON text: the library does not undo its escapes in them.
func ParseSPDX(data []byte) (*v2_3.Document, error) {
	if len(data) > MaxDocument {
		return nil, badDocument("", "%d bytes, the limit is %d", len(data), MaxDocument)
	}
	if err := strictjson.Check(data); err != nil {
		return nil, &DocumentError{Err: err}
	}
	if err := checkShape(data); err != nil {
		return nil, err
	}
	var doc v2_3.Document
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, &DocumentError{Err: err}
	}
	if err := checkDocument(&doc); err != nil {
		return nil, err
	}
	return &doc, nil
}

// present tells whether an element of a list is there at all: the library dereferences a null.
type present bool

// UnmarshalJSON is called for null as well.
func (p *present) UnmarshalJSON(data []byte) error {
	*p = present(!bytes.Equal(data, []byte("null")))
	return nil
}

// checkShape refuses what the library would panic on or spend too much memory on.
func checkShape(data []byte) error {
	var shape struct {
		SPDXVersion   string    `json:"spdxVersion"`
		Packages      []present `json:"packages"`
		Files         []present `json:"files"`
		Relationships []present `json:"relationships"`
		Licenses      []present `json:"hasExtractedLicensingInfos"`
		Annotations   []present `json:"annotations"`
	}
	if err := json.Unmarshal(data, &shape); err != nil {
		return &DocumentError{Err: err}
	}
	if shape.SPDXVersion != v2_3.Version {
		return badDocument("spdxVersion", "%q, this version reads %q", shape.SPDXVersion, v2_3.Version)
	}
	for _, list := range []struct {
		name  string
		items []present
	}{
		{"packages", shape.Packages}, {"files", shape.Files}, {"relationships", shape.Relationships},
		{"hasExtractedLicensingInfos", shape.Licenses}, {"annotations", shape.Annotations},
	} {
		if len(list.items) > MaxElements {
			return badDocument(list.name, "%d entries, the limit is %d", len(list.items), MaxElements)
		}
		if i := slices.Index(list.items, false); i >= 0 {
			return badDocument(list.name, "entry %d is null", i)
		}
	}
	return nil
}

var elementPattern = regexp.MustCompile(`^[A-Za-z0-9.-]+$`) // SPDX 2.3, clause 7.2: [idstring]

func checkDocument(doc *v2_3.Document) error {
	if err := checkHeader(doc); err != nil {
		return err
	}
	known := map[common.ElementID]struct{}{doc.SPDXIdentifier: {}}
	add := func(id common.ElementID) error {
		if !elementPattern.MatchString(string(id)) {
			return badDocument(string(id), "not an SPDX identifier")
		}
		if _, dup := known[id]; dup {
			return badDocument(string(id), "the identifier is used twice")
		}
		known[id] = struct{}{}
		return nil
	}
	for _, p := range doc.Packages {
		if err := add(p.PackageSPDXIdentifier); err != nil {
			return err
		}
		if p.PackageName == "" || p.PackageDownloadLocation == "" {
			return badDocument(string(p.PackageSPDXIdentifier), "a package needs a name and a downloadLocation")
		}
	}
	for _, f := range doc.Files {
		if err := add(f.FileSPDXIdentifier); err != nil {
			return err
		}
		if f.FileName == "" || len(f.Checksums) == 0 {
			return badDocument(string(f.FileSPDXIdentifier), "a file needs a name and a checksum")
		}
	}
	for _, s := range doc.Snippets {
		if err := add(s.SnippetSPDXIdentifier); err != nil {
			return err
		}
	}
	return checkRelationships(doc, known)
}

func checkHeader(doc *v2_3.Document) error {
	switch {
	case doc.DataLicense != v2_3.DataLicense:
		return badDocument("dataLicense", "%q, want %q", doc.DataLicense, v2_3.DataLicense)
	case doc.SPDXIdentifier != "DOCUMENT":
		return badDocument("SPDXID", "%q, want SPDXRef-DOCUMENT", doc.SPDXIdentifier)
	case doc.DocumentName == "":
		return badDocument("name", "missing")
	case doc.CreationInfo == nil:
		return badDocument("creationInfo", "missing")
	case len(doc.CreationInfo.Creators) == 0:
		return badDocument("creationInfo", "no creators")
	}
	if err := checkNamespace("documentNamespace", doc.DocumentNamespace); err != nil {
		return err
	}
	for _, c := range doc.CreationInfo.Creators {
		if c.Creator == "" || c.CreatorType != "Tool" && c.CreatorType != "Person" && c.CreatorType != "Organization" {
			return badDocument("creationInfo", "creator %q: want Tool, Person or Organization", c.CreatorType+": "+c.Creator)
		}
	}
	if _, err := time.Parse(time.RFC3339, doc.CreationInfo.Created); err != nil {
		return &DocumentError{Element: "created", Err: err}
	}
	return nil
}

// checkNamespace applies SPDX 2.3, clause 6.5: an absolute URI without a fragment.
func checkNamespace(field, text string) error {
	if text == "" {
		return badDocument(field, "missing")
	}
	u, err := url.Parse(text)
	if err != nil || !u.IsAbs() || strings.Contains(text, "#") {
		return badDocument(field, "%q is not an absolute URI without a fragment", text)
	}
	return nil
}

func checkRelationships(doc *v2_3.Document, known map[common.ElementID]struct{}) error {
	external := make(map[common.DocumentID]struct{}, len(doc.ExternalDocumentReferences))
	for _, ref := range doc.ExternalDocumentReferences {
		if err := checkNamespace("DocumentRef-"+string(ref.DocumentRefID), ref.URI); err != nil {
			return err
		}
		if ref.DocumentRefID == "" || ref.Checksum.Value == "" {
			return badDocument("externalDocumentRefs", "%s has no identifier or no checksum", ref.URI)
		}
		external[ref.DocumentRefID] = struct{}{}
	}
	check := func(id common.DocElementID, special bool) error {
		switch {
		case id.SpecialID != "":
			if !special {
				return badDocument("relationships", "%s on the left side", id.SpecialID)
			}
			return nil
		case id.ElementRefID == "":
			return badDocument("relationships", "an end without an identifier")
		case id.DocumentRefID != "":
			if _, ok := external[id.DocumentRefID]; !ok {
				return badDocument("relationships", "no external document %s", id.DocumentRefID)
			}
			return nil
		}
		if _, ok := known[id.ElementRefID]; !ok {
			return badDocument("relationships", "no element %s", id.ElementRefID)
		}
		return nil
	}
	described := false
	for _, r := range doc.Relationships {
		if r.Relationship == "" {
			return badDocument("relationships", "one without a type")
		}
		if err := check(r.RefA, false); err != nil {
			return err
		}
		if err := check(r.RefB, true); err != nil {
			return err
		}
		described = described ||
			r.Relationship == common.TypeRelationshipDescribe && r.RefA == documentElement && r.RefB.SpecialID == "" ||
			r.Relationship == common.TypeRelationshipDescribeBy && r.RefB == documentElement
	}
	if !described {
		return badDocument("relationships", "nothing says what the document describes")
	}
	return nil
}

var documentElement = common.DocElementID{ElementRefID: "DOCUMENT"}

// EncodeSPDX brings a document into the one order that its content has, encodes it, and checks that ParseSPDX reads
// it: content of an image must not end in a document that consumers refuse.
func EncodeSPDX(doc *v2_3.Document) ([]byte, error) {
	arrange(doc)
	data, err := strictjson.Marshal(doc)
	if err != nil {
		return nil, &DocumentError{Err: err}
	}
	if _, err := ParseSPDX(data); err != nil {
		return nil, err
	}
	return data, nil
}

func arrange(doc *v2_3.Document) {
	slices.SortFunc(doc.Packages, func(a, b *v2_3.Package) int {
		return cmp.Compare(a.PackageSPDXIdentifier, b.PackageSPDXIdentifier)
	})
	for _, p := range doc.Packages {
		slices.SortFunc(p.PackageExternalReferences, func(a, b *v2_3.PackageExternalReference) int {
			return cmp.Or(cmp.Compare(a.Category, b.Category), cmp.Compare(a.RefType, b.RefType),
				cmp.Compare(a.Locator, b.Locator), cmp.Compare(a.ExternalRefComment, b.ExternalRefComment))
		})
		slices.SortFunc(p.PackageChecksums, func(a, b common.Checksum) int {
			return cmp.Or(cmp.Compare(a.Algorithm, b.Algorithm), cmp.Compare(a.Value, b.Value))
		})
	}
	slices.SortFunc(doc.Files, func(a, b *v2_3.File) int { return cmp.Compare(a.FileSPDXIdentifier, b.FileSPDXIdentifier) })
	slices.SortFunc(doc.OtherLicenses, func(a, b *v2_3.OtherLicense) int {
		return cmp.Or(cmp.Compare(a.LicenseIdentifier, b.LicenseIdentifier), cmp.Compare(a.ExtractedText, b.ExtractedText))
	})
	slices.SortFunc(doc.ExternalDocumentReferences, func(a, b v2_3.ExternalDocumentRef) int {
		return cmp.Compare(a.DocumentRefID, b.DocumentRefID)
	})
	slices.SortFunc(doc.Relationships, compareRelationships)
	doc.Relationships = slices.CompactFunc(doc.Relationships, func(a, b *v2_3.Relationship) bool { return *a == *b })
}

func compareRelationships(a, b *v2_3.Relationship) int {
	return cmp.Or(
		strings.Compare(common.RenderDocElementID(a.RefA), common.RenderDocElementID(b.RefA)),
		strings.Compare(a.Relationship, b.Relationship),
		strings.Compare(common.RenderDocElementID(a.RefB), common.RenderDocElementID(b.RefB)),
		strings.Compare(a.RelationshipComment, b.RelationshipComment))
}

// NewDocument begins a document about s: all but what is inside. tools are creators besides the caller, name-version.
func NewDocument(s Subject, tools ...string) *v2_3.Document {
	creators := []common.Creator{{CreatorType: "Tool", Creator: s.creator()}}
	for _, tool := range tools {
		creators = append(creators, common.Creator{CreatorType: "Tool", Creator: tool})
	}
	return &v2_3.Document{
		SPDXVersion:       v2_3.Version,
		DataLicense:       v2_3.DataLicense,
		SPDXIdentifier:    documentElement.ElementRefID,
		DocumentName:      s.Repository,
		DocumentNamespace: s.Namespace(),
		CreationInfo:      &v2_3.CreationInfo{Creators: creators, Created: s.CreatedText()},
	}
}

// ElementImage is the SPDX identifier of the image itself in the document about a platform manifest.
const ElementImage common.ElementID = "Image"

// ImagePackage is the package that stands for an image or an index: no statement about its files or licences.
func ImagePackage(id common.ElementID, s Subject) *v2_3.Package {
	return &v2_3.Package{
		PackageName:             s.Repository,
		PackageSPDXIdentifier:   id,
		PackageVersion:          s.Digest.String(),
		PackageSupplier:         &common.Supplier{Supplier: noAssertion},
		PackageDownloadLocation: noAssertion,
		PackageChecksums: []common.Checksum{{
			Algorithm: common.ChecksumAlgorithm(strings.ToUpper(string(s.Digest.Algorithm()))), Value: s.Digest.Encoded(),
		}},
		PackageLicenseConcluded: noAssertion,
		PackageLicenseDeclared:  noAssertion,
		PackageCopyrightText:    noAssertion,
		PackageExternalReferences: []*v2_3.PackageExternalReference{
			{Category: common.CategoryPackageManager, RefType: common.TypePackageManagerPURL, Locator: s.PURL()},
		},
		PrimaryPackagePurpose: "CONTAINER",
	}
}

// Relate is a relationship between two elements of one document.
func Relate(a common.ElementID, kind string, b common.ElementID) *v2_3.Relationship {
	return &v2_3.Relationship{
		RefA: common.DocElementID{ElementRefID: a}, Relationship: kind, RefB: common.DocElementID{ElementRefID: b},
	}
}
