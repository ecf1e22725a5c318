package integration

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Images that CI has just built stand in no registry: an OCI layout as a folder and as a tar, and what docker save wrote,
// next to an image of a registry. A site serves them all the same way.
func TestImagesOnThisMachine(t *testing.T) {
	world := t.TempDir()
	e := &example{fixture: releases(t), t: t, name: "local", dir: filepath.Join(world, "local")}
	edit(t, filepath.Join(e.dir, "bundle.yaml"), write(`apiVersion: plimsoll.dev/v1
kind: Bundle
metadata: {name: local, version: v1}
spec:
  images:
    - ghcr.io/acme/pulled:v1
    - {ref: "oci:images/layout:v1", as: "ghcr.io/acme/folder:v1"}
    - {ref: "oci-archive:images/layout.tar:v1", as: "ghcr.io/acme/archive:v1"}
    - {ref: "docker-archive:images/saved.tar", as: "ghcr.io/acme/saved:v1"}
  git:
    - url: https://github.com/acme/pods.git
      refs: [main]
`))
	edit(t, filepath.Join(e.dir, "git", "pods", "pods.yaml"), write(`apiVersion: v1
kind: Pod
metadata: {name: pods}
spec:
  containers:
    - {name: a, image: "ghcr.io/acme/pulled:v1"}
    - {name: b, image: "ghcr.io/acme/folder:v1"}
    - {name: c, image: "ghcr.io/acme/archive:v1"}
    - {name: d, image: "ghcr.io/acme/saved:v1"}
`))
	edit(t, filepath.Join(e.dir, "git", "pods", "README.md"), write("Pods\n"))
	e.open(world)
	e.publish()
	index := e.writeLocalImages()

	out, first := e.mustBuild()
	if needs := first.needs(); len(needs) != 4 {
		t.Errorf("needs %v", needs)
	}
	for _, item := range []string{"ghcr.io/acme/folder:v1", "ghcr.io/acme/archive:v1"} {
		if got := first.item(t, item).Descriptor.Digest.String(); got != index.String() {
			t.Errorf("%s is %s, want %s", item, got, index)
		}
	}
	checkElsewhere(t, e, first)
	checkRebuild(t, e, out)

	s := newSite(t)
	s.must("import", out)
	s.start()
	s.follow(1)
	for _, tc := range []struct{ image, content string }{
		{"pulled", "software of ghcr.io/acme/pulled:v1"}, {"folder", "layout"}, {"archive", "layout"}, {"saved", "saved"},
	} {
		img, _, err := s.relay.PullImage(t.Context(), "ghcr.io/acme/"+tc.image+":v1", linux("amd64"))
		if err != nil {
			t.Fatal(err)
		}
		got, want := diffIDs(t, img), diffIDs(t, tinyImage(t, "amd64", tc.content))
		if !slices.Equal(got, want) {
			t.Errorf("%s has layers %v, want %v", tc.image, got, want)
		}
	}

	edit(t, filepath.Join(e.dir, "bundle.yaml"), replace("images/layout:v1", "images/layout:v2"))
	if r := e.build(filepath.Join(t.TempDir(), "out")); r.code == 0 || !strings.Contains(r.stderr, "bundle.yaml:7:") || !strings.Contains(r.stderr, "v1") {
		t.Errorf("a tag that is not there: exit code %d, want the line and what there is\n%s", r.code, r.stderr)
	}
}

// writeLocalImages writes what bundle.yaml names, and gives the digest of the index in the layout.
func (e *example) writeLocalImages() v1.Hash {
	e.t.Helper()
	images := filepath.Join(e.dir, "images")
	e.check(os.Mkdir(images, 0o755))
	idx := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arch := range []string{"amd64", "arm64"} {
		idx = mutate.AppendManifests(idx, mutate.IndexAddendum{
			Add: tinyImage(e.t, arch, "layout"), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
	}
	dir := filepath.Join(images, "layout")
	written, err := layout.Write(dir, empty.Index)
	e.check(err)
	e.check(written.AppendIndex(idx, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": "v1"})))
	e.tar(dir, filepath.Join(images, "layout.tar"))
	tag, err := name.NewTag("acme/saved:v1")
	e.check(err)
	e.check(tarball.WriteToFile(filepath.Join(images, "saved.tar"), tag, tinyImage(e.t, "amd64", "saved")))
	digest, err := idx.Digest()
	e.check(err)
	return digest
}

func diffIDs(t *testing.T, img v1.Image) []v1.Hash {
	t.Helper()
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	return config.RootFS.DiffIDs
}
