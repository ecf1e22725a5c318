package builder_test

import (
	"context"
	"errors"
	"fmt"
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
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/builder"
	"github.com/plimsoll/plimsoll/builder/origin"
	"github.com/plimsoll/plimsoll/builder/pins"
	"github.com/plimsoll/plimsoll/builder/spec"
	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/bundle/media"
	"github.com/plimsoll/plimsoll/internal/upstream"
)

// upstreamOf runs a registry that stands for ghcr.io.
func upstreamOf(t *testing.T) *upstream.Registry {
	t.Helper()
	r, err := upstream.Start(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() }) //nolint:errcheck // not what is tested
	return r
}

// options reads a bundle.yaml whose spec is given.
func options(t *testing.T, r *upstream.Registry, dir, text string) builder.Options {
	t.Helper()
	data := []byte("apiVersion: plimsoll.dev/v1\nkind: Bundle\nmetadata: {name: test, version: v1, created: 2026-11-21T00:00:00Z}\nspec:\n" + text)
	b, err := spec.Parse(filepath.Join(dir, "bundle.yaml"), data)
	if err != nil {
		t.Fatal(err)
	}
	return builder.Options{
		Spec: b, SpecData: data, TempDir: t.TempDir(),
		Registries: &origin.Registries{Mirrors: map[string]string{"ghcr.io": r.URL()}},
	}
}

// build makes a bundle in a folder and opens it.
func build(t *testing.T, o builder.Options) (*bundle.Bundle, media.Source) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "out")
	if err := buildInto(t.Context(), dir, o); err != nil {
		t.Fatal(err)
	}
	src, err := media.OpenSource(t.Context(), dir, media.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { src.Close() }) //nolint:errcheck // only read from
	root, err := src.Root(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b, err := bundle.Load(t.Context(), src, root)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Walk(t.Context(), src, func(n bundle.Node) error {
		_, err := bundle.ReadBlob(t.Context(), src, n.Descriptor, 1<<20)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return b, src
}

func buildInto(ctx context.Context, dir string, o builder.Options) error {
	sink, err := media.OpenSink(ctx, dir, media.Options{})
	if err != nil {
		return err
	}
	_, err = builder.Build(ctx, sink, o)
	return errors.Join(err, sink.Close())
}

func image(t *testing.T, platform, content string) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1),
		static.NewLayer([]byte(content), types.OCILayer))
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config.OS, config.Architecture, _ = strings.Cut(platform, "/")
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatal(err)
	}
	return img
}

func push(t *testing.T, r *upstream.Registry, ref string, what remote.Taggable) digest.Digest {
	t.Helper()
	to, err := name.ParseReference(r.Host() + "/" + ref)
	if err != nil {
		t.Fatal(err)
	}
	switch what := what.(type) {
	case v1.Image:
		err = remote.Write(to, what)
	case v1.ImageIndex:
		err = remote.WriteIndex(to, what)
	}
	if err != nil {
		t.Fatal(err)
	}
	return digestOf(t, what)
}

func digestOf(t *testing.T, what remote.Taggable) digest.Digest {
	t.Helper()
	raw, err := what.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	return digest.FromBytes(raw)
}

// referrer is an artifact that speaks of another manifest.
func referrer(t *testing.T, subject partial.Describable, content string) v1.Image {
	t.Helper()
	desc, err := partial.Descriptor(subject)
	if err != nil {
		t.Fatal(err)
	}
	img := image(t, "linux/amd64", content)
	with, ok := mutate.Subject(mutate.ConfigMediaType(img, "application/vnd.example.claim"), *desc).(v1.Image)
	if !ok {
		t.Fatal("not an image")
	}
	return with
}

func legacy(d digest.Digest, suffix string) string { return "sha256-" + d.Encoded() + suffix }

// TestAllThatRefersTravels: every way in which something can speak of an image or of one of its platforms.
func TestAllThatRefersTravels(t *testing.T) {
	r := upstreamOf(t)
	amd, arm := image(t, "linux/amd64", "amd64"), image(t, "linux/arm64", "arm64")
	attestation := image(t, "unknown/unknown", "buildkit")
	index := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex),
		mutate.IndexAddendum{Add: amd, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}},
		mutate.IndexAddendum{Add: arm, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "arm64"}}},
		mutate.IndexAddendum{Add: attestation, Descriptor: v1.Descriptor{
			Platform:    &v1.Platform{OS: "unknown", Architecture: "unknown"},
			Annotations: map[string]string{"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": digestOf(t, amd).String()},
		}})
	push(t, r, "acme/app:v1", index)
	ofIndex := referrer(t, index, "of the index")
	ofPlatform := referrer(t, amd, "of a platform")
	ofReferrer := referrer(t, ofIndex, "of a referrer")
	want := map[string]digest.Digest{
		"BuildKit attestation":       digestOf(t, attestation),
		"referrer of the index":      push(t, r, "acme/app@"+digestOf(t, ofIndex).String(), ofIndex),
		"referrer of a platform":     push(t, r, "acme/app@"+digestOf(t, ofPlatform).String(), ofPlatform),
		"referrer of a referrer":     push(t, r, "acme/app@"+digestOf(t, ofReferrer).String(), ofReferrer),
		"signature of the index":     push(t, r, "acme/app:"+legacy(digestOf(t, index), ".sig"), image(t, "linux/amd64", "sig")),
		"attestation of the index":   push(t, r, "acme/app:"+legacy(digestOf(t, index), ".att"), image(t, "linux/amd64", "att")),
		"SBOM of a platform":         push(t, r, "acme/app:"+legacy(digestOf(t, amd), ".sbom"), image(t, "linux/amd64", "sbom")),
		"signature of the signature": push(t, r, "acme/app:"+legacy(digestOf(t, image(t, "linux/amd64", "sig")), ".sig"), image(t, "linux/amd64", "sigsig")),
	}
	notWanted := push(t, r, "acme/app:"+legacy(digestOf(t, arm), ".sig"), image(t, "linux/amd64", "of a platform that does not travel"))

	b, src := build(t, options(t, r, t.TempDir(), "  images: [{ref: ghcr.io/acme/app:v1, platforms: [linux/amd64]}]\n"))
	there := make(map[digest.Digest]bool)
	for _, m := range b.Index.Manifests {
		there[m.Digest] = true
	}
	for what, d := range want {
		if !there[d] {
			t.Errorf("%s, %s, is not in the bundle", what, d)
		}
	}
	if there[notWanted] || there[digestOf(t, arm)] {
		t.Error("what belongs to a platform that was not asked for travels")
	}
	it := b.Lock.Items[0]
	layer, ok := b.IndexLayer(it)
	if !ok || !it.Sparse || it.Descriptor.Digest != digestOf(t, index) {
		t.Fatalf("item %+v", it)
	}
	raw, err := bundle.ReadBlob(t.Context(), src, layer, bundle.MaxManifest)
	if err != nil || digest.FromBytes(raw) != digestOf(t, index) {
		t.Errorf("the raw index: %v", err)
	}
	var tags []string
	for _, it := range b.Lock.Items {
		if it.Kind == bundle.KindReferrer {
			tags = append(tags, it.Tags...)
		}
	}
	if !slices.Contains(tags, legacy(digestOf(t, index), ".att")) || len(tags) != 4 {
		t.Errorf("legacy tags %v", tags)
	}
}

func TestMissingPlatformIsNamed(t *testing.T) {
	r := upstreamOf(t)
	push(t, r, "acme/app:v1", image(t, "linux/amd64", "x"))
	o := options(t, r, t.TempDir(), "  images: [{ref: ghcr.io/acme/app:v1, platforms: [linux/riscv64]}]\n")
	err := buildInto(t.Context(), filepath.Join(t.TempDir(), "out"), o)
	if err == nil || !strings.Contains(err.Error(), "platform linux/riscv64 is not in ghcr.io/acme/app:v1; there is linux/amd64") ||
		!strings.Contains(err.Error(), "bundle.yaml:5:12") {
		t.Errorf("got %v", err)
	}
}

func TestEveryKindOfSource(t *testing.T) {
	r := upstreamOf(t)
	dir := t.TempDir()
	local := image(t, "linux/amd64", "local")
	path, err := layout.Write(filepath.Join(dir, "layout"), empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := path.AppendImage(local, layout.WithAnnotations(map[string]string{ocispec.AnnotationRefName: "v1"})); err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag("acme/saved:v2")
	if err != nil {
		t.Fatal(err)
	}
	saved, err := tarball.LayerFromFile(tarFile(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	withTar, err := mutate.AppendLayers(empty.Image, saved)
	if err != nil {
		t.Fatal(err)
	}
	config, _ := withTar.ConfigFile()
	config.OS, config.Architecture = "linux", "amd64"
	if withTar, err = mutate.ConfigFile(withTar, config); err != nil {
		t.Fatal(err)
	}
	if err := tarball.WriteToFile(filepath.Join(dir, "saved.tar"), tag, withTar); err != nil {
		t.Fatal(err)
	}
	model := push(t, r, "acme/models/grasp:v3", mutate.ConfigMediaType(image(t, "x/y", "model"), "application/vnd.example.model"))
	folder := filepath.Join(dir, "firmware", "arm")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "flash.sh"), []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	b, _ := build(t, options(t, r, dir, `
  images:
    - {ref: "oci:layout:v1", as: "ghcr.io/acme/local:v1"}
    - {ref: "docker-archive:saved.tar", as: "ghcr.io/acme/saved:v2"}
  artifacts: [ghcr.io/acme/models/grasp:v3]
  files: [{path: firmware}]
`))
	var got []string
	for _, it := range b.Lock.Items {
		got = append(got, fmt.Sprintf("%s %s %s", it.Kind, it.Name, it.Source))
	}
	want := []string{
		"image ghcr.io/acme/local:v1 oci:layout:v1", "image ghcr.io/acme/saved:v2 docker-archive:saved.tar",
		"artifact ghcr.io/acme/models/grasp:v3 ghcr.io/acme/models/grasp:v3", "file plimsoll/test/files/firmware:v1 firmware",
	}
	if !slices.Equal(got, want) {
		t.Errorf("items\n%s", strings.Join(got, "\n"))
	}
	items := b.Lock.Items
	if items[0].Descriptor.Digest != digestOf(t, local) || items[2].Descriptor.Digest != model || !items[3].File.Folder {
		t.Errorf("items %+v", items)
	}
}

// tarFile is a layer as docker save has it.
func tarFile(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "layer.tar")
	if err := os.WriteFile(path, make([]byte, 1024), 0o644); err != nil { // an empty archive
		t.Fatal(err)
	}
	return path
}

// TestPinnedBuildAsksNoTag: a tag that moved after the lock was written changes nothing; a source that is not locked is
// an error.
func TestPinnedBuildAsksNoTag(t *testing.T) {
	r := upstreamOf(t)
	push(t, r, "acme/app:v1", image(t, "linux/amd64", "first"))
	const text = "  images: [ghcr.io/acme/app:v1]\n"
	o := options(t, r, t.TempDir(), text)
	p, err := builder.Resolve(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	first, _ := build(t, options(t, r, t.TempDir(), text))
	push(t, r, "acme/app:v1", image(t, "linux/amd64", "second"))
	o = options(t, r, t.TempDir(), text)
	o.Pins = p
	if again, _ := build(t, o); again.Root.Digest != first.Root.Digest {
		t.Errorf("pinned %s, want %s", again.Root.Digest, first.Root.Digest)
	}
	if moved, _ := build(t, options(t, r, t.TempDir(), text)); moved.Root.Digest == first.Root.Digest {
		t.Error("the tag did not move")
	}
	o = options(t, r, t.TempDir(), "  images: [ghcr.io/acme/app:v1, ghcr.io/acme/app:v2]\n")
	o.Pins = p
	var missing *pins.MissingError
	if err := buildInto(t.Context(), filepath.Join(t.TempDir(), "out"), o); !errors.As(err, &missing) || missing.Source != "ghcr.io/acme/app:v2" {
		t.Errorf("got %v", err)
	}
}

// TestRebuildIgnoresLaterSignatures: what was attached upstream after a release was built does not change its rebuild.
func TestRebuildIgnoresLaterSignatures(t *testing.T) {
	r := upstreamOf(t)
	app := image(t, "linux/amd64", "app")
	push(t, r, "acme/app:v1", app)
	early := referrer(t, app, "early")
	push(t, r, "acme/app@"+digestOf(t, early).String(), early)
	push(t, r, "acme/app:"+legacy(digestOf(t, app), ".sig"), image(t, "linux/amd64", "one signature"))
	const text = "  images: [ghcr.io/acme/app:v1]\n"
	b, src := build(t, options(t, r, t.TempDir(), text))
	if len(b.Lock.Items) != 3 {
		t.Fatalf("%d items", len(b.Lock.Items))
	}

	late := referrer(t, app, "late")
	push(t, r, "acme/app@"+digestOf(t, late).String(), late)
	push(t, r, "acme/app:"+legacy(digestOf(t, app), ".sig"), image(t, "linux/amd64", "two signatures"))
	if now, _ := build(t, options(t, r, t.TempDir(), text)); now.Root.Digest == b.Root.Digest || len(now.Lock.Items) != 4 {
		t.Error("a new build does not see what is new")
	}
	o := options(t, r, t.TempDir(), text)
	o.Pins, o.Since = pins.FromLock(b.Lock), &builder.Predecessor{Bundle: b, Source: src, Same: true}
	if again, _ := build(t, o); again.Root.Digest != b.Root.Digest {
		t.Errorf("rebuilt %s, want %s", again.Root.Digest, b.Root.Digest)
	}
}
