package media

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	ggcrlayout "github.com/google/go-containerregistry/pkg/v1/layout"
	ggcr "github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/oci"
	orasremote "oras.land/oras-go/v2/registry/remote"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/testbundle"
)

// ours is a bundle as our own sinks write it.
func ours(t *testing.T) (b *testbundle.Bundle, folder, tarFile string) {
	t.Helper()
	b, from := written(t, testbundle.Options{})
	dir := t.TempDir()
	folder, tarFile = filepath.Join(dir, "folder"), filepath.Join(dir, "bundle.tar")
	for _, to := range []string{folder, tarFile} {
		if err := carry(t.Context(), t, from, to); err != nil {
			t.Fatal(err)
		}
	}
	return b, folder, tarFile
}

func TestGoContainerRegistryReadsOurFolder(t *testing.T) {
	b, folder, _ := ours(t)
	top := must(must(ggcrlayout.FromPath(folder))(t).ImageIndex())(t)
	root := must(top.ImageIndex(v1.Hash{Algorithm: "sha256", Hex: b.Root.Digest.Encoded()}))(t)
	if got := must(root.Digest())(t); got.String() != b.Root.Digest.String() {
		t.Fatalf("digest %s, want %s", got, b.Root.Digest)
	}
	// Its deep validation asks every manifest for the layers of a container image, so it is for the images; Fast is for
	// the bundle, whose other entries are artifacts.
	for _, m := range b.Image.Manifests {
		app := must(root.Image(v1.Hash{Algorithm: "sha256", Hex: m.Digest.Encoded()}))(t)
		if err := validate.Image(app); err != nil {
			t.Errorf("the image: %v", err)
		}
	}
	if err := validate.Index(root, validate.Fast); err != nil {
		t.Errorf("the bundle: %v", err)
	}
	// And crane, which pushes with this, moves it.
	host := registryHost(t)
	ref := must(name.NewTag(host+"/by/crane:"+b.Tag, name.Insecure))(t)
	if err := ggcr.WriteIndex(ref, root); err != nil {
		t.Fatal(err)
	}
	src := source(t, "oci://"+host+"/by/crane:"+b.Tag, plainHTTP)
	if got := must(src.Root(t.Context()))(t); got.Digest != b.Root.Digest {
		t.Errorf("root %s, want %s", got.Digest, b.Root.Digest)
	}
}

// checkGraph reads the bundle itself, without what stands beside it.
func checkGraph(t *testing.T, b *testbundle.Bundle, ref string) {
	t.Helper()
	src := source(t, ref, plainHTTP)
	root := must(src.Root(t.Context()))(t)
	if root.Digest != b.Root.Digest {
		t.Fatalf("%s: root %s, want %s", ref, root.Digest, b.Root.Digest)
	}
	loaded := must(bundle.Load(t.Context(), src, root))(t)
	err := loaded.Walk(t.Context(), src, func(n bundle.Node) error {
		_, err := bundle.ReadBlob(t.Context(), src, n.Descriptor, 64<<20)
		return err
	})
	if err != nil {
		t.Fatalf("%s: %v", ref, err)
	}
}

func TestOrasReadsAndCopiesOurs(t *testing.T) {
	b, folder, tarFile := ours(t)
	ctx := t.Context()
	host := registryHost(t)
	for what, from := range map[string]oras.ReadOnlyTarget{
		"folder": must(oci.NewFromFS(ctx, os.DirFS(folder)))(t), "tar": must(oci.NewFromTar(ctx, tarFile))(t),
	} {
		repo := must(orasremote.NewRepository(host + "/oras/" + what))(t)
		repo.PlainHTTP = true
		desc := must(oras.Copy(ctx, from, b.Tag, repo, "", oras.DefaultCopyOptions))(t)
		if desc.Digest != b.Root.Digest {
			t.Errorf("%s → registry: %s, want %s", what, desc.Digest, b.Root.Digest)
		}
		checkGraph(t, b, "oci://"+host+"/oras/"+what+":"+b.Tag)
		second := t.TempDir()
		desc = must(oras.Copy(ctx, from, b.Tag, must(oci.New(second))(t), "", oras.DefaultCopyOptions))(t)
		if desc.Digest != b.Root.Digest {
			t.Errorf("%s → layout: %s, want %s", what, desc.Digest, b.Root.Digest)
		}
		checkGraph(t, b, second)
		checkGraph(t, b, second+":"+b.Tag)
	}
}

// TestOrasCopiesWhatStandsBeside is `oras copy -r`, which knows subjects and not legacy tags.
func TestOrasCopiesWhatStandsBeside(t *testing.T) {
	b, folder, _ := ours(t)
	ctx := t.Context()
	second := t.TempDir()
	from := must(oci.NewFromFS(ctx, os.DirFS(folder)))(t)
	if _, err := oras.ExtendedCopy(ctx, from, b.Tag, must(oci.New(second))(t), b.Tag, oras.DefaultExtendedCopyOptions); err != nil {
		t.Fatal(err)
	}
	refs := must(source(t, second, Options{}).Referrers(ctx, b.Root.Digest))(t)
	if len(refs) != 1 || refs[0].Digest != b.Beside[0].Digest {
		t.Errorf("beside: %+v, want %s", refs, b.Beside[0].Digest)
	}
}

// TestOurPushTellsOrasAboutSubjects checks the fallback tag that distribution, which has no referrers API, needs.
func TestOurPushTellsOrasAboutSubjects(t *testing.T) {
	b, folder, _ := ours(t)
	host := registryHost(t)
	if err := carry(t.Context(), t, folder, "oci://"+host+"/app"); err != nil {
		t.Fatal(err)
	}
	repo := must(orasremote.NewRepository(host + "/app"))(t)
	repo.PlainHTTP = true
	// The index of an image is not a manifest of the bundle's repository, what refers to it is.
	image := b.Lock.Items[0].Descriptor
	for _, c := range []struct{ subject, want ocispec.Descriptor }{
		{must(repo.Resolve(t.Context(), b.Root.Digest.String()))(t), b.Beside[0].Descriptor},
		{image, b.Lock.Items[len(b.Lock.Items)-1].Descriptor},
	} {
		refs := must(repo.Predecessors(t.Context(), c.subject))(t)
		if len(refs) != 1 || refs[0].Digest != c.want.Digest {
			t.Errorf("referrers of %s: %+v, want %s", c.subject.Digest, refs, c.want.Digest)
		}
	}
	_, rc, err := repo.FetchReference(t.Context(), b.Beside[1].Tag)
	if err != nil {
		t.Fatalf("legacy tag: %v", err)
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(must(io.ReadAll(rc))(t), &m); err != nil || m.Layers[0].Annotations["dev.cosignproject.cosign/signature"] == "" {
		t.Errorf("legacy tag: %+v, %v", m, err)
	}
	if err := rc.Close(); err != nil {
		t.Error(err)
	}
	if refs, err := repo.Manifests().Resolve(t.Context(), legacyTag(image.Digest)); err == nil {
		t.Errorf("an image has a legacy tag that nobody gave it: %+v", refs)
	}
}
