package generate_test

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spdx/tools-golang/spdx/v2/common"
	"github.com/spdx/tools-golang/spdx/v2/v2_3"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/sbom"
	"github.com/plimsoll/plimsoll/sbom/generate"
)

// Both are built once, by TestMain: linking syft takes long.
var (
	executable string // plimsoll-sbom
	goBinary   []byte // a program with build information, for the image
)

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "plimsoll-sbom-test-")
		if err == nil {
			defer os.RemoveAll(dir)
			err = build(dir)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

func build(dir string) error {
	executable = filepath.Join(dir, "plimsoll-sbom")
	if out, err := exec.Command("go", "build", "-o", executable, "../../cmd/plimsoll-sbom").CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w: %s", err, out)
	}
	module := filepath.Join(dir, "robot")
	if err := errors.Join(os.Mkdir(module, 0o755),
		os.WriteFile(filepath.Join(module, "go.mod"), []byte("module example.com/robot\n\ngo 1.26\n"), 0o644),
		os.WriteFile(filepath.Join(module, "main.go"), []byte("package main\n\nfunc main() { println(`robot`) }\n"), 0o644)); err != nil {
		return err
	}
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", "robot.bin", ".")
	cmd.Dir = module
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH=arm64", "CGO_ENABLED=0", "GOWORK=off", "GOTOOLCHAIN=local", "GOFLAGS=-mod=mod")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w: %s", err, out)
	}
	var err error
	goBinary, err = os.ReadFile(filepath.Join(module, "robot.bin"))
	return err
}

func TestImageListsWhatIsInside(t *testing.T) {
	dir := t.TempDir()
	desc := robotImage(t, dir)
	temp := scratch(t)
	data, err := inProcess(t, dir, desc, generate.Options{TempDir: temp})
	must(t, err)
	doc, err := sbom.ParseSPDX(data)
	must(t, err)

	packages := make(map[string]*v2_3.Package)
	for _, p := range doc.Packages {
		packages[p.PackageName] = p
	}
	for name, want := range map[string]struct{ version, purl string }{
		"libc6":             {"2.36-9+deb12u7", "pkg:deb/debian/libc6@2.36-9%2Bdeb12u7?arch=arm64&distro=debian-12&upstream=glibc"},
		"openssl":           {"3.0.14-1~deb12u2", "pkg:deb/debian/openssl@3.0.14-1~deb12u2?arch=arm64&distro=debian-12"},
		"example.com/robot": {"", "pkg:golang/example.com/robot"},
		"stdlib":            {"", "pkg:golang/stdlib@"},
		"left-pad":          {"1.3.0", "pkg:npm/left-pad@1.3.0"},
		"requests":          {"2.31.0", "pkg:pypi/requests@2.31.0"},
	} {
		p := packages[name]
		if p == nil {
			t.Errorf("%s is not listed", name)
			continue
		}
		if want.version != "" && p.PackageVersion != want.version {
			t.Errorf("%s: version %q, want %q", name, p.PackageVersion, want.version)
		}
		if !slices.ContainsFunc(p.PackageExternalReferences, func(r *v2_3.PackageExternalReference) bool {
			return r.RefType == "purl" && strings.HasPrefix(r.Locator, want.purl)
		}) {
			t.Errorf("%s: no purl %s among %v", name, want.purl, p.PackageExternalReferences)
		}
		if p.FilesAnalyzed {
			t.Errorf("%s: filesAnalyzed, but no files are listed", name)
		}
	}
	if p := packages["libc6"]; p != nil && !strings.Contains(p.PackageSourceInfo, "/var/lib/dpkg/status") {
		t.Errorf("libc6: sourceInfo %q does not say where it was found", p.PackageSourceInfo)
	}
	if p := packages["openssl"]; p != nil && p.PackageSupplier.Supplier != "Debian OpenSSL Team (pkg-openssl-devel@alioth-lists.debian.net)" {
		t.Errorf("openssl: supplier %v", p.PackageSupplier)
	}
	checkHeader(t, doc, packages["ghcr.io/acme/robot-app"], desc.Digest.Encoded())
	checkRelationships(t, doc)
	for _, secret := range []string{temp, filepath.Base(temp), dir, "DocumentRoot", "anchore.com", "The maker of the base image"} {
		if bytes.Contains(data, []byte(secret)) {
			t.Errorf("the document contains %q", secret)
		}
	}
}

func checkHeader(t *testing.T, doc *v2_3.Document, root *v2_3.Package, hex string) {
	t.Helper()
	if root == nil {
		t.Fatal("the image itself is not a package")
	}
	want := []common.Creator{{CreatorType: "Tool", Creator: "plimsoll-v0.1.0"}, {CreatorType: "Tool", Creator: generate.Tool}}
	if !slices.Equal(doc.CreationInfo.Creators, want) || doc.CreationInfo.Created != "2026-03-01T12:00:00Z" {
		t.Errorf("creation info %v", doc.CreationInfo)
	}
	if doc.DocumentNamespace != "https://plimsoll.dev/spdx/"+hex || doc.DocumentName != "ghcr.io/acme/robot-app" {
		t.Errorf("namespace %q, name %q", doc.DocumentNamespace, doc.DocumentName)
	}
	if doc.DocumentComment != "" {
		t.Errorf("comment %q", doc.DocumentComment)
	}
	if got, want := root.PackageExternalReferences[0].Locator,
		"pkg:oci/robot-app@sha256%3A"+hex+"?arch=arm64&os=linux&repository_url=ghcr.io%2Facme%2Frobot-app&variant=v8"; got != want {
		t.Errorf("purl of the image\n got %s\nwant %s", got, want)
	}
	if root.PackageSupplier.Supplier != "ACME Robotics GmbH" || root.PackageSupplier.SupplierType != "Organization" {
		t.Errorf("supplier %v", root.PackageSupplier)
	}
	if len(root.PackageChecksums) != 1 || root.PackageChecksums[0] != (common.Checksum{Algorithm: common.SHA256, Value: hex}) {
		t.Errorf("checksums %v", root.PackageChecksums)
	}
}

func checkRelationships(t *testing.T, doc *v2_3.Document) {
	t.Helper()
	contained := 0
	for _, r := range doc.Relationships {
		if r.RefA.ElementRefID == sbom.ElementImage && r.Relationship == "CONTAINS" {
			contained++
		}
	}
	if contained != len(doc.Packages)-1 {
		t.Errorf("the image contains %d packages, the document lists %d", contained, len(doc.Packages)-1)
	}
	if len(doc.Files) > 0 {
		t.Errorf("%d files", len(doc.Files))
	}
	depends := sbom.Relate("", "DEPENDENCY_OF", "")
	for _, r := range doc.Relationships {
		if r.Relationship == depends.Relationship && strings.Contains(string(r.RefA.ElementRefID), "libc6") &&
			strings.Contains(string(r.RefB.ElementRefID), "openssl") {
			return
		}
	}
	t.Error("libc6 is not a dependency of openssl")
}

func TestImageIsDeterministic(t *testing.T) {
	var first []byte
	for range 3 {
		dir := t.TempDir()
		desc := robotImage(t, dir)
		data, err := inProcess(t, dir, desc, generate.Options{TempDir: scratch(t)})
		must(t, err)
		if first == nil {
			first = data
		}
		if !bytes.Equal(first, data) {
			t.Fatalf("another document:\n%s\n%s", first, data)
		}
	}
}

func TestImageWithoutPackagesOrLayers(t *testing.T) {
	for name, layers := range map[string][]blob{
		"no layers":   nil,
		"empty layer": {gzipLayer(t)},
		"plain tar":   {plainLayer(t, entry{name: "data", body: "x"})},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			data, err := inProcess(t, dir, layout(t, dir, layers...), generate.Options{TempDir: scratch(t)})
			must(t, err)
			doc, err := sbom.ParseSPDX(data)
			must(t, err)
			if len(doc.Packages) != 1 || doc.Packages[0].PackageSPDXIdentifier != sbom.ElementImage {
				t.Errorf("packages %v", doc.Packages)
			}
		})
	}
}

// A database that cannot be read must not look like one without packages.
func TestImageSaysWhatItCouldNotRead(t *testing.T) {
	dir := t.TempDir()
	desc := layout(t, dir, gzipLayer(t, entry{name: "app/node_modules/x/package.json", body: `{"name": [`}))
	data, err := inProcess(t, dir, desc, generate.Options{TempDir: scratch(t)})
	must(t, err)
	doc, err := sbom.ParseSPDX(data)
	must(t, err)
	if !strings.Contains(doc.DocumentComment, "/app/node_modules/x/package.json") {
		t.Errorf("comment %q does not name the unreadable file", doc.DocumentComment)
	}
}

func TestImageRefusesAnotherScratch(t *testing.T) {
	dir := t.TempDir()
	desc := robotImage(t, dir)
	scratch(t)
	for _, temp := range []string{"", t.TempDir()} {
		if _, err := inProcess(t, dir, desc, generate.Options{TempDir: temp}); err == nil {
			t.Errorf("TempDir %q was accepted", temp)
		}
	}
}

func TestImageMissingAndDamagedLayers(t *testing.T) {
	dir := t.TempDir()
	l := gzipLayer(t, entry{name: "a", body: strings.Repeat("a", 1<<16)})
	path := filepath.Join(dir, "blobs", "sha256", digestOf(l.data))
	desc := layout(t, dir, l)
	temp := scratch(t)

	must(t, os.WriteFile(path, append(bytes.Clone(l.data), 0), 0o644))
	var damaged *bundle.DamagedError
	if _, err := inProcess(t, dir, desc, generate.Options{TempDir: temp}); !errors.As(err, &damaged) {
		t.Errorf("a layer with one byte more: %v", err)
	}
	must(t, os.Remove(path))
	var missing *bundle.MissingError
	if _, err := inProcess(t, dir, desc, generate.Options{TempDir: temp}); !errors.As(err, &missing) {
		t.Errorf("a missing layer: %v", err)
	}
}

func TestToolIsTheLinkedVersion(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Version}}", "github.com/anchore/syft").Output()
	must(t, err)
	if got := "syft-" + strings.TrimSpace(string(out)); got != generate.Tool {
		t.Errorf("documents say %s, linked is %s", generate.Tool, got)
	}
}

func TestSQLiteDriverIsRegistered(t *testing.T) {
	if !slices.Contains(sql.Drivers(), "sqlite") {
		t.Errorf("drivers %v: RPM databases could not be read", sql.Drivers())
	}
}
