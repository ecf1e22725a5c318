package sbom_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/sbom"
)

const (
	layerDigest = "sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
	emptyConfig = `"config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":"` + layerDigest + `","size":2}`
)

// manifest is an image manifest with one layer; more is further fields with a comma behind.
func manifest(more, layerType, layerMore string) []byte {
	if !strings.Contains(more, `"config"`) {
		more += emptyConfig + ","
	}
	return fmt.Appendf(nil, `{"schemaVersion":2,%s"layers":[{"mediaType":%q,"digest":%q,"size":3%s}]}`, more, layerType, layerDigest, layerMore)
}

func about(d digest.Digest) string {
	return fmt.Sprintf(`"subject":{"mediaType":%q,"digest":%q,"size":1},`, ocispec.MediaTypeImageManifest, d)
}

func TestBrought(t *testing.T) {
	subject, other := digest.FromString("image"), digest.FromString("other image")
	tag := "sha256-" + subject.Encoded()
	buildKit := func(d digest.Digest) ocispec.Descriptor {
		return ocispec.Descriptor{Annotations: map[string]string{
			"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": d.String(),
		}}
	}
	inToto := func(predicate string) string {
		return fmt.Sprintf(`,"annotations":{"in-toto.io/predicate-type":%q}`, predicate)
	}
	for name, test := range map[string]struct {
		candidate sbom.Candidate
		want      sbom.Format
	}{
		"listed referrer": {sbom.Candidate{Descriptor: ocispec.Descriptor{ArtifactType: "application/spdx+json"}}, sbom.FormatSPDX},
		"listed CycloneDX with a version": {sbom.Candidate{Descriptor: ocispec.Descriptor{
			ArtifactType: "application/vnd.cyclonedx+json; version=1.6"}}, sbom.FormatCycloneDX},
		"listed Sigstore bundle": {sbom.Candidate{Descriptor: ocispec.Descriptor{ArtifactType: "application/vnd.dev.sigstore.bundle.v0.3+json",
			Annotations: map[string]string{"dev.sigstore.bundle.predicateType": "https://spdx.dev/Document"}}}, sbom.FormatSPDX},
		"listed signature": {sbom.Candidate{Descriptor: ocispec.Descriptor{ArtifactType: "application/vnd.dev.sigstore.bundle.v0.3+json",
			Annotations: map[string]string{"dev.sigstore.bundle.predicateType": "https://sigstore.dev/cosign/sign/v1"}}}, ""},
		"referrer": {sbom.Candidate{Manifest: manifest(`"artifactType":"text/spdx+json",`+about(subject), "text/spdx+json", "")}, sbom.FormatSPDX},
		"referrer of another image": {sbom.Candidate{Descriptor: ocispec.Descriptor{ArtifactType: "application/spdx+json"},
			Manifest: manifest(`"artifactType":"application/spdx+json",`+about(other), "application/spdx+json", "")}, ""},
		"referrer typed by its config": {sbom.Candidate{Manifest: manifest(about(subject)+
			`"config":{"mediaType":"application/vnd.cyclonedx+json","digest":"`+layerDigest+`","size":2},`, "application/octet-stream", "")}, sbom.FormatCycloneDX},
		"in-toto referrer": {sbom.Candidate{Manifest: manifest(`"artifactType":"application/vnd.in-toto+json",`+about(subject),
			"application/vnd.in-toto+json", inToto("https://cyclonedx.org/bom/v1.4"))}, sbom.FormatCycloneDX},
		"manifest of no subject":                {sbom.Candidate{Manifest: manifest("", "application/spdx+json", "")}, ""},
		"cosign attach sbom":                    {sbom.Candidate{Tag: tag + ".sbom", Manifest: manifest("", "text/spdx", "")}, sbom.FormatSPDX},
		"cosign attach sbom, syft's own format": {sbom.Candidate{Tag: tag + ".sbom", Manifest: manifest("", "application/vnd.syft+json", "")}, ""},
		"cosign attest": {sbom.Candidate{Tag: tag + ".att", Manifest: manifest("", "application/vnd.dsse.envelope.v1+json",
			`,"annotations":{"predicateType":"https://spdx.dev/Document"}`)}, sbom.FormatSPDX},
		"cosign attest, provenance": {sbom.Candidate{Tag: tag + ".att", Manifest: manifest("", "application/vnd.dsse.envelope.v1+json",
			`,"annotations":{"predicateType":"https://slsa.dev/provenance/v1"}`)}, ""},
		"cosign tag of another image": {sbom.Candidate{Tag: "sha256-" + other.Encoded() + ".sbom", Manifest: manifest("", "text/spdx", "")}, ""},
		"cosign signature":            {sbom.Candidate{Tag: tag + ".sig", Manifest: manifest("", "text/spdx", "")}, ""},
		"BuildKit": {sbom.Candidate{Descriptor: buildKit(subject), Manifest: manifest("", "application/vnd.in-toto+json",
			inToto("https://spdx.dev/Document"))}, sbom.FormatSPDX},
		"BuildKit, provenance only": {sbom.Candidate{Descriptor: buildKit(subject), Manifest: manifest("", "application/vnd.in-toto+json",
			inToto("https://slsa.dev/provenance/v0.2"))}, ""},
		"BuildKit of another platform": {sbom.Candidate{Descriptor: buildKit(other), Manifest: manifest("", "application/vnd.in-toto+json",
			inToto("https://spdx.dev/Document"))}, ""},
		"predicate that only begins alike": {sbom.Candidate{Descriptor: buildKit(subject), Manifest: manifest("", "application/vnd.in-toto+json",
			inToto("https://spdx.dev/Documents"))}, ""},
		"empty layer": {sbom.Candidate{Tag: tag + ".sbom",
			Manifest: []byte(strings.Replace(string(manifest("", "text/spdx", "")), `"size":3`, `"size":0`, 1))}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			found, err := sbom.Brought(subject, []sbom.Candidate{test.candidate})
			if err != nil {
				t.Fatal(err)
			}
			if test.want == "" {
				if len(found) > 0 {
					t.Fatalf("found %+v", found)
				}
				return
			}
			if len(found) != 1 || found[0].Format != test.want {
				t.Fatalf("found %+v, want one %s", found, test.want)
			}
			if test.candidate.Manifest != nil && found[0].Layer.Digest != layerDigest {
				t.Errorf("layer %+v", found[0].Layer)
			}
		})
	}
}

// BuildKit puts SBOM and provenance into one manifest.
func TestBroughtPicksTheLayer(t *testing.T) {
	subject := digest.FromString("image")
	both := fmt.Sprintf(`{"schemaVersion":2,%s,%s"layers":[
		{"mediaType":"application/vnd.in-toto+json","digest":%q,"size":3,"annotations":{"in-toto.io/predicate-type":"https://slsa.dev/provenance/v1"}},
		{"mediaType":"application/vnd.in-toto+json","digest":%q,"size":5,"annotations":{"in-toto.io/predicate-type":"https://spdx.dev/Document"}}]}`,
		emptyConfig, about(subject), layerDigest, digest.FromString("sbom"))
	found, err := sbom.Brought(subject, []sbom.Candidate{{Manifest: []byte(both)}})
	if err != nil || len(found) != 1 || found[0].Layer.Digest != digest.FromString("sbom") {
		t.Errorf("%+v, %v", found, err)
	}
}

func TestBroughtRefuses(t *testing.T) {
	subject := digest.FromString("image")
	for name, data := range map[string][]byte{
		"not JSON": []byte("{"), "duplicate key": []byte(`{"layers":[],"layers":[]}`), "too big": make([]byte, bundle.MaxManifest+1),
	} {
		if _, err := sbom.Brought(subject, []sbom.Candidate{{Manifest: data}}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := sbom.Brought("sha256:no", nil); err == nil {
		t.Error("a bad subject was accepted")
	}
}

func FuzzBrought(f *testing.F) {
	requireCorpus(f, "FuzzBrought")
	subject := digest.FromString("image")
	f.Add(manifest(`"artifactType":"application/spdx+json",`+about(subject), "application/spdx+json", ""), "", "", "")
	f.Add(manifest("", "text/spdx", ""), "sha256-"+subject.Encoded()+".sbom", "", "")
	f.Fuzz(func(t *testing.T, data []byte, tag, artifactType, predicate string) {
		found, err := sbom.Brought(subject, []sbom.Candidate{{Tag: tag, Manifest: data, Descriptor: ocispec.Descriptor{
			ArtifactType: artifactType, Annotations: map[string]string{"in-toto.io/predicate-type": predicate}}}})
		if err != nil {
			return
		}
		for _, sbomFound := range found {
			if sbomFound.Format != sbom.FormatSPDX && sbomFound.Format != sbom.FormatCycloneDX || data != nil && sbomFound.Layer.Size <= 0 {
				t.Errorf("found %+v", sbomFound)
			}
		}
	})
}
