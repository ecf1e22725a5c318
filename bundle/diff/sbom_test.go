package diff

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spdx/tools-golang/spdx/v2/common"
	"github.com/spdx/tools-golang/spdx/v2/v2_3"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/attest/sign"
	"github.com/plimsoll/plimsoll/sbom"
)

// document is a real SPDX document; a package is type/name@version.
func document(t testing.TB, subject digest.Digest, packages ...string) []byte {
	t.Helper()
	s := sbom.Subject{Repository: "ghcr.io/acme/app", Digest: subject, Platform: "linux/arm64", Created: time.Unix(1_700_000_000, 0)}
	doc := sbom.NewDocument(s)
	doc.Packages = append(doc.Packages, sbom.ImagePackage(sbom.ElementImage, s))
	doc.Relationships = append(doc.Relationships, sbom.Relate("DOCUMENT", common.TypeRelationshipDescribe, sbom.ElementImage))
	for i, p := range packages {
		_, rest, _ := strings.Cut(p, "/")
		name, version, _ := strings.Cut(rest, "@")
		doc.Packages = append(doc.Packages, &v2_3.Package{
			PackageName: name, PackageSPDXIdentifier: common.ElementID(fmt.Sprintf("p%d", i)), PackageVersion: version,
			PackageDownloadLocation: "NOASSERTION", PackageExternalReferences: []*v2_3.PackageExternalReference{
				{Category: common.CategoryPackageManager, RefType: common.TypePackageManagerPURL, Locator: "pkg:" + p},
			},
		})
	}
	data, err := sbom.EncodeSPDX(doc)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func signer(t testing.TB) *sign.Signer {
	t.Helper()
	keys, err := sign.GenerateKey([]byte("test"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := sign.LoadSigner(keys.Private, []byte("test"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var wantPackages = []Package{
	{Name: "busybox", Type: "deb", Status: Removed, Old: []string{"1"}},
	{Name: "requests", Type: "deb", Status: Added, New: []string{"9"}},
	{Name: "two", Type: "npm", Status: Changed, Old: []string{"1"}, New: []string{"3"}},
	{Name: "zlib", Type: "deb", Status: Changed, Old: []string{"1.2"}, New: []string{"1.3"}},
}

var (
	oldPackages = []string{"deb/zlib@1.2", "deb/busybox@1", "pypi/requests@2", "npm/two@1", "npm/two@2"}
	newPackages = []string{"deb/zlib@1.3", "deb/requests@9", "pypi/requests@2", "npm/two@2", "npm/two@3"}
)

// TestSBOM compares documents in each of the ways in which they travel.
func TestSBOM(t *testing.T) {
	key := signer(t)
	const repository = "ghcr.io/acme/app"
	statement := func(doc []byte) []byte {
		data, err := json.Marshal(map[string]any{"_type": attest.StatementType, "predicateType": sbom.PredicateSPDX, "predicate": json.RawMessage(doc)})
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	ways := map[string]func(d *draft, image ocispec.Descriptor, doc []byte){
		"signed by plimsoll build": func(d *draft, image ocispec.Descriptor, doc []byte) {
			artifact, err := key.Attest(attest.Statement{PredicateType: sbom.PredicateSPDX, Predicate: doc}, image)
			if err != nil {
				t.Fatal(err)
			}
			for _, blob := range artifact.Blobs {
				d.put(blob.MediaType, blob.Data)
			}
			d.referrer(repository, image, plain(artifact.Manifest))
		},
		"bare": func(d *draft, image ocispec.Descriptor, doc []byte) {
			d.referrer(repository, image, d.manifest(ocispec.Manifest{
				ArtifactType: sbom.MediaTypeSPDX, Subject: &image, Layers: []ocispec.Descriptor{d.put(sbom.MediaTypeSPDX, doc)},
			}))
		},
		"in a DSSE envelope": func(d *draft, image ocispec.Descriptor, doc []byte) {
			layer := d.putJSON("application/vnd.dsse.envelope.v1+json", map[string]any{
				"payloadType": attest.PayloadTypeInToto, "payload": statement(doc), "signatures": []any{},
			})
			layer.Annotations = map[string]string{"predicateType": sbom.PredicateSPDX}
			d.referrer(repository, image, d.manifest(ocispec.Manifest{Subject: &image, Layers: []ocispec.Descriptor{layer}}))
		},
	}
	for name, attach := range ways {
		t.Run(name, func(t *testing.T) {
			build := func(version string, packages []string) Side {
				d := newDraft(t, version)
				image := d.image(repository, "v1", "config", "app "+version)
				attach(d, image, document(t, image.Digest, packages...))
				return d.side()
			}
			d := mustCompare(t, Options{}, build("1", oldPackages), build("2", newPackages))
			check(t, d, "linux/arm64")
		})
	}
	t.Run("in the index", func(t *testing.T) {
		build := func(version string, packages []string) Side {
			d := newDraft(t, version)
			image := d.manifest(ocispec.Manifest{Layers: []ocispec.Descriptor{d.put(ocispec.MediaTypeImageLayer, []byte(version))}})
			layer := d.put("application/vnd.in-toto+json", statement(document(t, image.Digest, packages...)))
			layer.Annotations = map[string]string{"in-toto.io/predicate-type": sbom.PredicateSPDX}
			d.index(repository, image, d.manifest(ocispec.Manifest{Layers: []ocispec.Descriptor{layer}}))
			return d.side()
		}
		d := mustCompare(t, Options{}, build("1", oldPackages), build("2", newPackages))
		check(t, d, "linux/amd64")
	})
}

func check(t *testing.T, d *Diff, platform string) {
	t.Helper()
	if len(d.Changed) != 1 || len(d.Changed[0].SBOM) != 1 || len(d.Changed[0].Notes) > 0 {
		t.Fatalf("got %s", toJSON(t, d))
	}
	got := d.Changed[0].SBOM[0]
	if !slices.Equal(got.Platforms, []string{platform}) || toJSON(t, got.Packages) != toJSON(t, wantPackages) {
		t.Errorf("got %s, want %s", toJSON(t, got), toJSON(t, wantPackages))
	}
}

func TestUnreadableSBOM(t *testing.T) {
	build := func(version string, artifactType string, data []byte) Side {
		d := newDraft(t, version)
		image := d.image("ghcr.io/acme/app", "v1", "config", "app "+version)
		d.referrer("ghcr.io/acme/app", image, d.manifest(ocispec.Manifest{
			ArtifactType: artifactType, Subject: &image, Layers: []ocispec.Descriptor{d.put(artifactType, data)},
		}))
		return d.side()
	}
	sound := build("1", sbom.MediaTypeSPDX, document(t, digest.FromString("x"), "deb/a@1"))
	for want, other := range map[string]Side{
		"its format is cyclonedx": build("2", "application/vnd.cyclonedx+json", []byte("{}")),
		"neither an SPDX":         build("2", sbom.MediaTypeSPDX, []byte("{}")),
		"spdxVersion":             build("2", sbom.MediaTypeSPDX, []byte(`{"spdxVersion":"SPDX-2.2"}`)),
		"invalid character":       build("2", sbom.MediaTypeSPDX, []byte("no JSON")),
	} {
		d := mustCompare(t, Options{}, sound, other)
		if c := d.Changed[0]; len(c.SBOM) > 0 || len(c.Notes) != 1 || !strings.Contains(c.Notes[0], want) {
			t.Errorf("notes %q, want %q", c.Notes, want)
		}
	}
}

// What two platforms have in common is told once.
func TestPlatformsWithTheSameChanges(t *testing.T) {
	var c Change
	d := PackageDiff{Packages: wantPackages}
	c.addPackages("linux/amd64", d)
	c.addPackages("linux/arm64", d)
	c.addPackages("linux/riscv64", PackageDiff{Packages: wantPackages[:1]})
	if len(c.SBOM) != 2 || !slices.Equal(c.SBOM[0].Platforms, []string{"linux/amd64", "linux/arm64"}) {
		t.Errorf("got %s", toJSON(t, c.SBOM))
	}
}

// FuzzDocument must not panic, and what it accepts has names.
func FuzzDocument(f *testing.F) {
	requireCorpus(f, "FuzzDocument")
	f.Fuzz(func(t *testing.T, data []byte) {
		doc, err := parseDocument(data)
		if err != nil {
			return
		}
		for key, list := range versions(doc) {
			if key.name == "" || !slices.IsSorted(list) {
				t.Errorf("package %v has the versions %q", key, list)
			}
		}
	})
}

// FuzzArchive must not panic, and accepts nothing beyond the limits.
func FuzzArchive(f *testing.F) {
	requireCorpus(f, "FuzzArchive")
	f.Fuzz(func(t *testing.T, data []byte) {
		files, err := readArchive(strings.NewReader(string(data)), true)
		if err != nil {
			return
		}
		for name, file := range files {
			if file.digest.Validate() != nil || len(file.text) > MaxText || file.text != nil && int64(len(file.text)) != file.size {
				t.Errorf("file %q: %s, %d bytes of text, size %d", name, file.digest, len(file.text), file.size)
			}
		}
	})
}

// FuzzFields must not panic and gives each path once.
func FuzzFields(f *testing.F) {
	requireCorpus(f, "FuzzFields")
	f.Fuzz(func(t *testing.T, data []byte) {
		all := fields(data)
		if changed := compareFields(all, all, ""); len(changed) > 0 {
			t.Errorf("differs from itself: %v", changed)
		}
		for _, change := range compareFields(all, nil, "") {
			if len(change.Old) > MaxValue+100 {
				t.Errorf("a value of %d bytes", len(change.Old))
			}
		}
	})
}

// requireCorpus fails when the committed seeds are not there: without them the target tests nothing in `make test`.
func requireCorpus(f *testing.F, name string) {
	f.Helper()
	entries, err := os.ReadDir(filepath.Join("testdata", "fuzz", name))
	if err != nil || len(entries) == 0 {
		f.Fatalf("no seed corpus: %v", err)
	}
}
