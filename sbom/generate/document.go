package generate

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/anchore/syft/syft/format/common/spdxhelpers"
	"github.com/anchore/syft/syft/pkg"
	syftsbom "github.com/anchore/syft/syft/sbom"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spdx/tools-golang/spdx/v2/common"
	"github.com/spdx/tools-golang/spdx/v2/v2_3"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/sbom"
)

// document takes the packages from syft's document and nothing else: its namespace holds a random UUID, its date is the
// wall clock, its creator is fixed, and its files have invented checksums when no content was hashed.
func document(found *syftsbom.SBOM, img v1.Image, subject sbom.Subject) ([]byte, error) {
	theirs := spdxhelpers.ToFormatModel(*found)
	root, err := rootElement(theirs)
	if err != nil {
		return nil, err
	}
	image, err := imagePackage(img, subject)
	if err != nil {
		return nil, err
	}
	doc := sbom.NewDocument(subject, Tool)
	doc.CreationInfo.LicenseListVersion = theirs.CreationInfo.LicenseListVersion
	doc.DocumentComment = unread(found)
	doc.OtherLicenses = theirs.OtherLicenses
	doc.Packages = append(doc.Packages, image)

	maintained := maintainers(found)
	elements := map[common.ElementID]common.ElementID{root: sbom.ElementImage, doc.SPDXIdentifier: doc.SPDXIdentifier}
	for _, p := range theirs.Packages {
		if p.PackageSPDXIdentifier == root {
			continue
		}
		if _, dup := elements[p.PackageSPDXIdentifier]; dup {
			continue // two names that differ only in characters which an SPDX identifier cannot hold
		}
		elements[p.PackageSPDXIdentifier] = p.PackageSPDXIdentifier
		p.FilesAnalyzed, p.PackageVerificationCode, p.PackageLicenseInfoFromFiles = false, nil, nil
		if p.PackageSupplier == nil || p.PackageSupplier.Supplier == "NOASSERTION" {
			id := string(p.PackageSPDXIdentifier) // Package-<type>-<name>-<syft's identifier>
			if name := maintained[id[strings.LastIndex(id, "-")+1:]]; name != "" {
				p.PackageSupplier = &common.Supplier{SupplierType: "Person", Supplier: name}
			}
		}
		doc.Packages = append(doc.Packages, p)
	}
	for _, r := range theirs.Relationships {
		a, okA := elements[r.RefA.ElementRefID]
		b, okB := elements[r.RefB.ElementRefID]
		if !okA || !okB {
			continue // an end is a file
		}
		ours := sbom.Relate(a, r.Relationship, b)
		ours.RelationshipComment = r.RelationshipComment
		doc.Relationships = append(doc.Relationships, ours)
	}
	return sbom.EncodeSPDX(doc)
}

var maintainerPattern = regexp.MustCompile(`^([^<>()]+) <([^<>()@\s]+@[^<>()@\s]+)>$`)

// maintainers gives, by syft's identifier, who maintains the packages of Debian and Alpine. Syft leaves them out when the
// address has a host of three labels, which is two thirds of Debian.
func maintainers(found *syftsbom.SBOM) map[string]string {
	names := make(map[string]string)
	for p := range found.Artifacts.Packages.Enumerate() {
		var text string
		switch m := p.Metadata.(type) {
		case pkg.DpkgDBEntry:
			text = m.Maintainer
		case pkg.DpkgArchiveEntry:
			text = m.Maintainer
		case pkg.ApkDBEntry:
			text = m.Maintainer
		}
		if parts := maintainerPattern.FindStringSubmatch(oneLine(text)); parts != nil {
			names[string(p.ID())] = parts[1] + " (" + parts[2] + ")"
		}
	}
	return names
}

func rootElement(doc *v2_3.Document) (common.ElementID, error) {
	for _, r := range doc.Relationships {
		if r.Relationship == common.TypeRelationshipDescribe && r.RefA.ElementRefID == doc.SPDXIdentifier {
			return r.RefB.ElementRefID, nil
		}
	}
	return "", fmt.Errorf("catalog: %s describes no image", Tool)
}

// imagePackage is the package of the image itself. Labels of the config are not asked for the vendor: an image inherits
// them from its base, and Debian did not supply what somebody built on it. Annotations of the manifest are its own.
func imagePackage(img v1.Image, subject sbom.Subject) (*v2_3.Package, error) {
	manifest, err := img.Manifest()
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", subject.Digest, err)
	}
	if subject.Platform == "" || subject.Platform == "unknown" {
		config, err := img.ConfigFile()
		if err != nil {
			return nil, fmt.Errorf("image %s: config: %w", subject.Digest, err)
		}
		claimed := subject
		claimed.Platform = strings.TrimSuffix(config.OS+"/"+config.Architecture+"/"+config.Variant, "/")
		if claimed.Validate() == nil {
			subject = claimed
		}
	}
	p := sbom.ImagePackage(sbom.ElementImage, subject)
	if vendor := oneLine(manifest.Annotations[ocispec.AnnotationVendor]); vendor != "" {
		p.PackageSupplier = &common.Supplier{SupplierType: "Organization", Supplier: vendor}
	}
	return p, nil
}

// oneLine gives text back if it can stand in a field of one line as it is. Quotes and backslashes are refused, too: the
// library that most tools read SPDX with leaves the JSON escapes in suppliers.
func oneLine(text string) string {
	text = strings.TrimSpace(text)
	bad := func(r rune) bool {
		return !unicode.IsPrint(r) || slices.Contains([]rune{'"', '\\', unicode.ReplacementChar}, r)
	}
	if len(text) > bundle.MaxName || strings.ContainsFunc(text, bad) {
		return ""
	}
	return text
}
