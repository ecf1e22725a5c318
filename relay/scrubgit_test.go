package relay

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/gittest"
)

// gitDepot is a depot whose active release has a Git repository that is one, and a server of it.
type gitDepot struct {
	*depot
	git   *gittest.Sandbox
	url   string
	layer []byte
	notes *notes
}

func newGitDepot(t *testing.T) *gitDepot {
	t.Helper()
	d := &gitDepot{depot: newDepot(t, 1), git: gittest.New(t, "Robot"), notes: new(notes)}
	source := filepath.Join(t.TempDir(), "source")
	d.git.Git(d.git.Home, "init", "--quiet", source)
	d.git.Commit(source, "values.yaml", strings.Repeat("offset: 1\n", 300))
	oid := d.git.Commit(source, "Chart.yaml", "version: 1.5.4\n")
	branch := d.git.Git(source, "symbolic-ref", "HEAD")
	file := filepath.Join(t.TempDir(), "layer.bundle")
	d.git.Git(source, "bundle", "create", "--quiet", file, "--branches")
	var err error
	if d.layer, err = os.ReadFile(file); err != nil {
		t.Fatal(err)
	}

	d.serve(3, 0)
	state := bundle.Git{Head: branch, Refs: []bundle.GitRef{{Name: branch, OID: oid}}, Version: "test"}
	p, err := d.part(t.Context(), d.releases[0])
	if err != nil {
		t.Fatal(err)
	}
	p.git = []gitPart{{Name: "robot-deployment", Repository: "github.com/acme/robot-deployment", Git: state, Descriptor: d.artifact()}}
	data, err := p.encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.partFile(d.releases[0]), data, 0o644); err != nil {
		t.Fatal(err)
	}
	gen, err := d.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { d.mirror.ServeGeneration(w, r, gen.Git) }))
	t.Cleanup(server.Close)
	d.url = server.URL + "/git/github.com/acme/robot-deployment"
	d.options.Journal = d.notes
	return d
}

// artifact stores the Git item with its layer.
func (d *gitDepot) artifact() ocispec.Descriptor {
	d.Helper()
	d.admit([]byte("{}"))
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: bundle.ArtifactTypeGit,
		Config: ocispec.Descriptor{MediaType: bundle.MediaTypeGitConfig, Digest: digest.FromString("{}"), Size: 2},
		Layers: []ocispec.Descriptor{{MediaType: bundle.MediaTypeGitLayer, Digest: d.admit(d.layer), Size: int64(len(d.layer))}},
	}
	data, err := json.Marshal(m)
	if err != nil {
		d.Fatal(err)
	}
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: d.admit(data), Size: int64(len(data))}
}

// flipPack changes one bit in the middle of the one pack of the mirror.
func (d *gitDepot) flipPack() {
	d.Helper()
	packs, err := filepath.Glob(filepath.Join(d.dir, "git", "store.git", "objects", "pack", "*.pack"))
	if err != nil || len(packs) != 1 {
		d.Fatal(packs, err)
	}
	data, err := os.ReadFile(packs[0])
	if err != nil {
		d.Fatal(err)
	}
	data[len(data)/2] ^= 8
	if err := errors.Join(os.Remove(packs[0]), os.WriteFile(packs[0], data, 0o444)); err != nil {
		d.Fatal(err)
	}
}

func (d *gitDepot) clone() error {
	dir := filepath.Join(d.TempDir(), "clone")
	if _, err := d.git.Try(d.git.Home, "clone", "--quiet", d.url, dir); err != nil {
		return err
	}
	_, err := d.git.Try(dir, "fsck", "--full", "--strict")
	return err
}

// A damaged pack of the mirror is found, recorded, and made again by itself.
func TestScrubRepairsGit(t *testing.T) {
	d := newGitDepot(t)
	if err := d.clone(); err != nil {
		t.Fatal(err)
	}
	res := d.mustScrub(t, ScrubOptions{})
	if !res.Whole || !res.Healthy() || res.Git.Checked != 1 || res.Git.Bytes == 0 || len(d.notes.all()) != 0 {
		t.Fatalf("%+v, %q", res, d.notes.all())
	}
	d.flipPack()
	if err := d.clone(); err == nil {
		t.Fatal("the damage does no harm: this tests nothing")
	}
	res = d.mustScrub(t, ScrubOptions{})
	if !res.Whole || !res.Healthy() || len(res.Git.Damaged) != 1 || !res.Git.Repaired || len(res.Git.Left) != 0 {
		t.Fatalf("%+v", res)
	}
	if want := []string{"git-damaged", "git-healed"}; !slices.Equal(d.notes.all(), want) {
		t.Errorf("journal %q, want %q", d.notes.all(), want)
	}
	if err := d.clone(); err != nil {
		t.Error(err)
	}
	if res = d.mustScrub(t, ScrubOptions{}); !res.Healthy() || len(res.Git.Damaged) != 0 || res.Git.Checked != 1 {
		t.Errorf("%+v", res)
	}
}

// While a layer is damaged too, the mirror waits for it, and is made again as soon as it is healed.
func TestScrubRepairsGitOnceItsLayersAreHere(t *testing.T) {
	d := newGitDepot(t)
	d.flipPack()
	layer := digest.FromBytes(d.layer)
	if err := os.Remove(d.blobFile(layer)); err != nil {
		t.Fatal(err)
	}
	res := d.mustScrub(t, ScrubOptions{})
	if !res.Whole || res.Healthy() || res.Git.Repaired || !strings.Contains(res.Git.Reason, layer.String()) {
		t.Fatalf("%+v", res)
	}
	if text := (&UnhealthyError{Result: res}).Error(); !strings.Contains(text, "git mirror: damaged") {
		t.Errorf("%q says nothing of the mirror", text)
	}
	s := d.NewScrubber(ScrubberOptions{})
	s.healGit(t.Context())
	if len(d.readScrubState().GitBad) != 1 {
		t.Error("it is forgotten")
	}
	d.admit(d.layer)
	s.healGit(t.Context()) // an hour did not pass
	if len(d.readScrubState().GitBad) != 1 || d.clone() == nil {
		t.Error("it is tried again at once")
	}
	d.NewScrubber(ScrubberOptions{}).healGit(t.Context())
	if len(d.readScrubState().GitBad) != 0 {
		t.Error("it is not repaired")
	}
	if err := d.clone(); err != nil {
		t.Error(err)
	}
	if want := []string{"git-damaged", "git-healed"}; !slices.Equal(d.notes.all(), want) {
		t.Errorf("journal %q, want %q", d.notes.all(), want)
	}
}

// The mirror has its turn when the time is over behind each blob, and when the blobs are in a bucket.
func TestScrubGitInTime(t *testing.T) {
	d := newGitDepot(t)
	d.flipPack()
	res := new(ScrubResult)
	for passes, over := 0, time.Now().Add(-time.Hour); len(res.Git.Damaged) == 0; passes++ {
		if res = d.mustScrub(t, ScrubOptions{Until: over}); res.Checked > 1 || passes > 50 {
			t.Fatalf("%+v", res)
		}
	}
	if res.Checked != 0 || !res.Whole || !res.Git.Repaired {
		t.Errorf("%+v", res)
	}
	d.flipPack()
	if res = d.mustScrub(t, ScrubOptions{gitOnly: true}); res.Checked != 0 || !res.Git.Repaired {
		t.Errorf("%+v", res)
	}
	if err := d.clone(); err != nil {
		t.Error(err)
	}
}
