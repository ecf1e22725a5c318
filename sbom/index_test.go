package sbom_test

import (
	"bytes"
	"crypto/sha1"
	"encoding/hex"
	"testing"

	"github.com/spdx/tools-golang/spdx/v2/common"

	"github.com/plimsoll/plimsoll/sbom"
)

func TestIndexDocument(t *testing.T) {
	index, arm, amd, brought := subject("index"), subject("arm"), subject("amd"), subject("brought")
	amd.Platform, brought.Platform = "linux/amd64", "linux/arm/v7"
	document := valid(t)
	children := []sbom.Child{{Subject: arm, Document: document}, {Subject: amd, Document: document}, {Subject: brought}}
	data, err := sbom.IndexDocument(index, children)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := sbom.ParseSPDX(data)
	if err != nil {
		t.Fatal(err)
	}
	if doc.DocumentNamespace != "https://plimsoll.dev/spdx/"+index.Digest.Encoded() || len(doc.Packages) != 4 {
		t.Errorf("namespace %s, %d packages", doc.DocumentNamespace, len(doc.Packages))
	}
	sum := sha1.Sum(document)
	refs := make(map[common.DocumentID]bool)
	for _, ref := range doc.ExternalDocumentReferences {
		refs[ref.DocumentRefID] = true
		if ref.Checksum != (common.Checksum{Algorithm: common.SHA1, Value: hex.EncodeToString(sum[:])}) ||
			ref.URI != subject("manifest").Namespace() {
			t.Errorf("reference %+v", ref)
		}
	}
	variants, described := 0, 0
	for _, r := range doc.Relationships {
		switch {
		case r.Relationship == "VARIANT_OF" && r.RefB.ElementRefID == "Index":
			variants++
		case r.Relationship == "DESCRIBED_BY" && refs[r.RefB.DocumentRefID] && r.RefB.ElementRefID == "DOCUMENT":
			described++
		}
	}
	if len(refs) != 2 || variants != 3 || described != 2 {
		t.Errorf("%d references, %d variants, %d described in %s", len(refs), variants, described, data)
	}
	children[0], children[2] = children[2], children[0]
	if again, err := sbom.IndexDocument(index, children); err != nil || !bytes.Equal(again, data) {
		t.Errorf("another order gives another document: %v", err)
	}
}

func TestIndexDocumentRefuses(t *testing.T) {
	for name, children := range map[string][]sbom.Child{
		"no children":         nil,
		"the same twice":      {{Subject: subject("arm")}, {Subject: subject("arm")}},
		"child not described": {{}},
		"document is none":    {{Subject: subject("arm"), Document: []byte("{}")}},
	} {
		if _, err := sbom.IndexDocument(subject("index"), children); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
