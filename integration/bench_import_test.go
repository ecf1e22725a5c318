//go:build bench

package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"
)

// corpus builds a release of robot images with each version's own layer on top of common ones, and gives its folder.
func corpus(t *testing.T, f *fixture, dir, version string, images func(version string) string) string {
	t.Helper()
	spec, out := filepath.Join(dir, version+".yaml"), filepath.Join(dir, version)
	text := "apiVersion: plimsoll.dev/v1\nkind: Bundle\nmetadata: {name: corpus, version: " + version + ", created: 2026-11-21T00:00:00Z}\nspec:\n" + images(version)
	if err := os.WriteFile(spec, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := f.run("plimsoll", "build", "-f", spec, "-o", out, "--registry-mirror", "ghcr.io=http://"+f.upstream, "--no-sbom",
		"--sign", f.path("keys", "release.key"), "--attest", f.path("keys", "attest.key")); err != nil {
		t.Fatal(err)
	}
	return out
}

// importResult is what import --json prints.
type importResult struct {
	Bytes, Copied int64
}

// An import of 1.7 GB costs what copying and hashing costs; again it costs next to nothing; and the next release brings
// only what is new: the blobs that are here already are taken off its medium before.
func TestBenchImport(t *testing.T) {
	f := releases(t)
	dir := t.TempDir()
	const mb = 1_000_000
	var paths []string
	layer := func(seed byte, size int64) v1.Layer {
		path := filepath.Join(dir, fmt.Sprintf("layer-%d.tar", seed))
		paths = append(paths, path)
		return randomLayer(t, path, seed, size)
	}
	for i := range 4 {
		seed := byte(150 + 10*i)
		base, libraries := layer(seed, 160*mb), layer(seed+1, 180*mb)
		pushImage(t, fmt.Sprintf("%s/acme/corpus-%d:v1", f.upstream, i), base, libraries, layer(seed+2, 85*mb))
		pushImage(t, fmt.Sprintf("%s/acme/corpus-%d:v2", f.upstream, i), base, libraries, randomLayer(t, filepath.Join(dir, "new.tar"), seed+3, 10*mb))
	}
	images := func(version string) string {
		text := "  images:\n"
		for i := range 4 {
			text += fmt.Sprintf("    - ghcr.io/acme/corpus-%d:%s\n", i, version)
		}
		return text
	}
	first, next := corpus(t, f, dir, "v1", images), corpus(t, f, dir, "v2", images)
	fresh := func() string {
		data := filepath.Join(dir, "relay")
		if err := os.RemoveAll(data); err != nil {
			t.Fatal(err)
		}
		if _, err := f.run("plimsoll-relay", "trust", "add", f.path("keys", "release.pub"), "--data", data); err != nil {
			t.Fatal(err)
		}
		return data
	}
	var floors, imports []time.Duration
	var rss int64
	var data string
	for range 5 {
		data = fresh()
		floors = append(floors, measureFloor(t, paths...))
		resident, cpu := timed(t, f, "plimsoll-relay", "import", first, "--data", data)
		rss, imports = max(rss, resident), append(imports, cpu)
		t.Logf("import of %d bytes: %.2f CPU-s, %.1f MiB RSS", folderSize(t, first), cpu.Seconds(), float64(resident)/(1<<20))
	}
	passes(t, "import, CPU, as a multiple of copying and hashing", median(imports).Seconds()/median(floors).Seconds(), "<=", 1.5)
	passes(t, "import, MiB RSS", float64(rss)/(1<<20), "<=", 64)

	start := time.Now()
	again, err := f.run("plimsoll-relay", "import", "--json", "--progress", "none", first, "--data", data)
	if err != nil {
		t.Fatal(err)
	}
	passes(t, "the same import again, s", time.Since(start).Seconds(), "<=", 1)
	if got := parseImport(t, again); got.Copied != 0 {
		t.Errorf("the same import again copied %d bytes", got.Copied)
	}

	removed := 0
	for _, blob := range blobFiles(t, filepath.Join(data, "store", "blobs")) {
		fi, err := os.Stat(blob)
		if err != nil {
			t.Fatal(err)
		}
		onMedium := filepath.Join(next, "blobs", "sha256", filepath.Base(blob))
		if fi.Size() > mb && os.Remove(onMedium) == nil {
			removed++
		}
	}
	out, err := f.run("plimsoll-relay", "import", "--json", "--progress", "none", next, "--data", data)
	if err != nil {
		t.Fatal(err)
	}
	got := parseImport(t, out)
	passes(t, fmt.Sprintf("the next release of %d MB, without %d layers on the medium, MB copied", got.Bytes/mb, removed), float64(got.Copied)/mb, "<=", 42)
	if removed != 8 {
		t.Errorf("%d layers were taken off the medium, want 8", removed)
	}
}

func parseImport(t *testing.T, out string) (r importResult) {
	t.Helper()
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return r
}

func blobFiles(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, digest.SHA256.String(), "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

const (
	activateImages       = 200
	activateRepositories = 20
)

// A switch to a staged release of 200 images and 20 repositories, and the way back, as polling clients see it: from the
// start of the command to the first answer of the new generation.
func TestBenchActivate(t *testing.T) {
	s := newSite(t)
	dir := t.TempDir()
	for i := range activateRepositories {
		makeSmallRepository(t, s.fixture, s.path("git", fmt.Sprintf("fleet-%02d.git", i)))
	}
	for _, version := range []string{"v1", "v2"} {
		layout := filepath.Join(dir, "layout-"+version)
		layoutImages(t, layout, version, activateImages)
		s.must("import", "--stage", corpus(t, s.fixture, dir, version, func(version string) string {
			var text strings.Builder
			text.WriteString("  images:\n")
			for i := range activateImages {
				fmt.Fprintf(&text, "    - {ref: \"oci:%s:app-%02d\", as: \"ghcr.io/fleet/app-%02[2]d:%[3]s\"}\n", layout, i, version)
			}
			text.WriteString("  git:\n")
			for i := range activateRepositories {
				fmt.Fprintf(&text, "    - {url: \"https://github.com/acme/fleet-%02d.git\", refs: [\"*\"]}\n", i)
			}
			return text.String()
		}))
	}
	s.must("activate", "corpus", "v1")
	s.start()
	s.follow(1)
	var took []time.Duration
	for i := range 11 {
		start := time.Now()
		switched := s.poll(i + 2)
		if i%2 == 0 {
			s.must("activate", "corpus", "v2")
		} else {
			s.must("rollback")
		}
		at := <-switched
		took = append(took, at.Sub(start))
	}
	t.Logf("%d images, %d repositories; from the start of the command to the first answer: %v", activateImages, activateRepositories, took)
	passes(t, "activation or roll-back of a staged release, ms", median(took).Seconds()*1e3, "<=", 100)
}

// poll asks without a pause until a generation answers, and gives the moment.
func (s *site) poll(generation int) <-chan time.Time {
	at := make(chan time.Time, 1)
	go func() { // ends with the test
		if s.relay.WaitGeneration(s.t.Context(), strconv.Itoa(generation)) == nil {
			at <- time.Now()
		}
		close(at)
	}()
	return at
}

// makeSmallRepository makes a repository as those of a deployment are: some dozen commits and tags.
func makeSmallRepository(t testing.TB, f *fixture, dir string) {
	t.Helper()
	var stream strings.Builder
	for i := range 60 {
		content := fmt.Sprintf("%s %d\n", dir, i)
		fmt.Fprintf(&stream, "commit refs/heads/main\ncommitter R <r@example.com> %d +0000\ndata 1\nx\n", 1_700_000_000+i)
		fmt.Fprintf(&stream, "M 100644 inline values/%d.yaml\ndata %d\n%s\n", i%10, len(content), content)
		if i%6 == 0 {
			fmt.Fprintf(&stream, "tag v0.%d.0\nfrom refs/heads/main\ntagger R <r@example.com> %d +0000\ndata 1\nx\n", i/6, 1_700_000_000+i)
		}
	}
	f.git(t, "", "init", "--quiet", "--bare", "--initial-branch=main", dir)
	f.git(t, stream.String(), "-C", dir, "fast-import", "--quiet")
}
