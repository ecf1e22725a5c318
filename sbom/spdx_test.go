package sbom_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/spdx/tools-golang/spdx/v2/common"
	"github.com/spdx/tools-golang/spdx/v2/v2_3"

	"github.com/plimsoll/plimsoll/sbom"
)

var created = time.Date(2026, 3, 1, 13, 0, 0, 999, time.FixedZone("CET", 3600))

func subject(name string) sbom.Subject {
	return sbom.Subject{Repository: "ghcr.io/acme/robot-app", Digest: digest.FromString(name), Platform: "linux/arm64", Created: created}
}

// valid is a document with one of each thing, as EncodeSPDX writes it.
func valid(t testing.TB) []byte {
	t.Helper()
	s := subject("manifest")
	doc := sbom.NewDocument(s, "syft-v1.52.0")
	doc.Packages = []*v2_3.Package{
		{PackageName: "zlib", PackageSPDXIdentifier: "zlib", PackageVersion: "1.3", PackageDownloadLocation: "NOASSERTION"},
		sbom.ImagePackage(sbom.ElementImage, s),
	}
	doc.Relationships = []*v2_3.Relationship{
		sbom.Relate("Image", "CONTAINS", "zlib"), sbom.Relate("DOCUMENT", "DESCRIBES", "Image"), sbom.Relate("Image", "CONTAINS", "zlib"),
	}
	data, err := sbom.EncodeSPDX(doc)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestEncodeSPDXHasOneOrder(t *testing.T) {
	data := valid(t)
	doc, err := sbom.ParseSPDX(data)
	if err != nil {
		t.Fatal(err)
	}
	if len(doc.Relationships) != 2 {
		t.Errorf("%d relationships, want the double one once", len(doc.Relationships))
	}
	if doc.CreationInfo.Created != "2026-03-01T12:00:00Z" {
		t.Errorf("created %q", doc.CreationInfo.Created)
	}
	doc.Packages[0], doc.Packages[1] = doc.Packages[1], doc.Packages[0]
	doc.Relationships[0], doc.Relationships[1] = doc.Relationships[1], doc.Relationships[0]
	again, err := sbom.EncodeSPDX(doc)
	if err != nil || !bytes.Equal(again, data) {
		t.Errorf("%v\n%s\n%s", err, again, data)
	}
}

func TestParseSPDXRefuses(t *testing.T) {
	data := string(valid(t))
	for name, change := range map[string][2]string{
		"no namespace":            {`"documentNamespace":"https://plimsoll.dev/spdx/` + digest.FromString("manifest").Encoded() + `",`, ``},
		"relative namespace":      {`https://plimsoll.dev/spdx/`, `/spdx/`},
		"namespace with fragment": {`https://plimsoll.dev/spdx/`, `https://plimsoll.dev/#spdx/`},
		"older version":           {`SPDX-2.3`, `SPDX-2.2`},
		"version 3":               {`"spdxVersion":"SPDX-2.3"`, `"@context":"https://spdx.org/rdf/3.0.1/spdx-context.jsonld"`},
		"other licence of data":   {`CC0-1.0`, `MIT`},
		"other document id":       {`"SPDXID":"SPDXRef-DOCUMENT"`, `"SPDXID":"SPDXRef-DOC"`},
		"no name":                 {`"name":"ghcr.io/acme/robot-app","documentN`, `"name":"","documentN`},
		"no creators":             {`"creators":["Tool: plimsoll-devel","Tool: syft-v1.52.0"]`, `"creators":[]`},
		"creator of no type":      {`Tool: plimsoll-devel`, `Anchore: plimsoll`},
		"no date":                 {`2026-03-01T12:00:00Z`, `yesterday`},
		"supplier of no type":     {`"supplier":"NOASSERTION"`, `"supplier":"ACME"`},
		"null package":            {`"packages":[`, `"packages":[null,`},
		"null relationship":       {`"relationships":[`, `"relationships":[null,`},
		"same identifier twice":   {`"SPDXID":"SPDXRef-zlib"`, `"SPDXID":"SPDXRef-Image"`},
		"identifier of document":  {`"SPDXID":"SPDXRef-zlib"`, `"SPDXID":"SPDXRef-DOCUMENT"`},
		"identifier with space":   {`"SPDXID":"SPDXRef-zlib"`, `"SPDXID":"SPDXRef-z lib"`},
		"package without name":    {`"name":"zlib"`, `"name":""`},
		"package from nowhere":    {`"versionInfo":"1.3","downloadLocation":"NOASSERTION"`, `"versionInfo":"1.3","downloadLocation":""`},
		"end does not exist":      {`"relatedSpdxElement":"SPDXRef-zlib"`, `"relatedSpdxElement":"SPDXRef-gone"`},
		"end in no document":      {`"relatedSpdxElement":"SPDXRef-zlib"`, `"relatedSpdxElement":"DocumentRef-x:SPDXRef-zlib"`},
		"NONE contains something": {`"spdxElementId":"SPDXRef-Image"`, `"spdxElementId":"NONE"`},
		"describes nothing":       {`"relationshipType":"DESCRIBES"`, `"relationshipType":"OTHER"`},
		"duplicate key":           {`"dataLicense"`, `"SPDXID":"SPDXRef-DOCUMENT","dataLicense"`},
		"trailing bytes":          {`"relationships"`, `"x":1},{"relationships"`},
	} {
		t.Run(name, func(t *testing.T) {
			changed := strings.Replace(data, change[0], change[1], 1)
			if changed == data {
				t.Fatalf("%q is not in the document %s", change[0], data)
			}
			_, err := sbom.ParseSPDX([]byte(changed))
			var bad *sbom.DocumentError
			if !errors.As(err, &bad) {
				t.Errorf("error %v", err)
			}
		})
	}
	if _, err := sbom.ParseSPDX(make([]byte, sbom.MaxDocument+1)); err == nil {
		t.Error("too many bytes were accepted")
	}
}

func TestParseSPDXAcceptsExternalReferences(t *testing.T) {
	s := subject("manifest")
	doc := sbom.NewDocument(s)
	doc.Packages = []*v2_3.Package{sbom.ImagePackage(sbom.ElementImage, s)}
	doc.ExternalDocumentReferences = []v2_3.ExternalDocumentRef{{DocumentRefID: "base", URI: "https://example.com/base",
		Checksum: common.Checksum{Algorithm: common.SHA1, Value: strings.Repeat("0", 40)}}}
	built := sbom.Relate("Image", "DESCENDANT_OF", "Image")
	built.RefB.DocumentRefID = "base"
	none := sbom.Relate("Image", "CONTAINS", "")
	none.RefB.SpecialID = "NOASSERTION"
	doc.Relationships = []*v2_3.Relationship{sbom.Relate("DOCUMENT", "DESCRIBES", "Image"), built, none}
	data, err := sbom.EncodeSPDX(doc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sbom.ParseSPDX(data); err != nil {
		t.Error(err)
	}
}

func TestSubject(t *testing.T) {
	s := subject("manifest")
	hex := s.Digest.Encoded()
	for platform, want := range map[string]string{
		"linux/arm64":  "?arch=arm64&os=linux&repository_url=ghcr.io%2Facme%2Frobot-app",
		"linux/arm/v7": "?arch=arm&os=linux&repository_url=ghcr.io%2Facme%2Frobot-app&variant=v7",
		"unknown":      "?repository_url=ghcr.io%2Facme%2Frobot-app",
		"":             "?repository_url=ghcr.io%2Facme%2Frobot-app",
	} {
		s.Platform = platform
		if err := s.Validate(); err != nil {
			t.Error(err)
		}
		if got := s.PURL(); got != "pkg:oci/robot-app@sha256%3A"+hex+want {
			t.Errorf("%q: purl %s", platform, got)
		}
	}
	for name, change := range map[string]func(*sbom.Subject){
		"repository": func(s *sbom.Subject) { s.Repository = "ghcr.io/../x" },
		"digest":     func(s *sbom.Subject) { s.Digest = "sha256:1" },
		"platform":   func(s *sbom.Subject) { s.Platform = "linux" },
		"created":    func(s *sbom.Subject) { s.Created = time.Time{} },
		"creator":    func(s *sbom.Subject) { s.Creator = "a\nTool: b" },
	} {
		s := subject("manifest")
		change(&s)
		if s.Validate() == nil {
			t.Errorf("bad %s was accepted", name)
		}
	}
}

func FuzzParseSPDX(f *testing.F) {
	requireCorpus(f, "FuzzParseSPDX")
	f.Add(valid(f))
	f.Fuzz(func(t *testing.T, data []byte) {
		doc, err := sbom.ParseSPDX(data)
		if err != nil {
			return
		}
		if doc.DocumentNamespace == "" || doc.CreationInfo == nil || len(doc.Relationships) == 0 {
			t.Fatalf("accepted: %s", data)
		}
	})
}

func requireCorpus(f *testing.F, name string) {
	f.Helper()
	if seeds, err := filepath.Glob(filepath.Join("testdata", "fuzz", name, "*")); err != nil || len(seeds) == 0 {
		f.Fatalf("no seed corpus in testdata/fuzz/%s (%v)", name, err)
	}
	if _, err := os.Stat("testdata"); err != nil {
		f.Fatal(err)
	}
}
