package registry

import (
	"errors"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
)

func TestViewOfActiveAndKept(t *testing.T) {
	f := newFixture(t)
	oldDesc, newDesc := f.putImage(f.image(1)), f.putImage(f.image(1))
	oldSBOM := f.artifact("application/spdx+json", "old", &oldDesc, nil)
	referrer := item("sbom", bundle.KindReferrer, oldSBOM, "ghcr.io/acme/app")
	referrer.item.Subject = oldDesc.Digest
	old := f.release("1", item("app", bundle.KindImage, oldDesc, "ghcr.io/acme/app", "latest", "v1"),
		item("gone", bundle.KindImage, oldDesc, "ghcr.io/acme/gone", "v1"), referrer)
	next := f.release("2", item("app", bundle.KindImage, newDesc, "ghcr.io/acme/app", "latest", "v2"))

	for name, releases := range map[string][]Release{
		"kept first": {f.kept(old), f.active(next)},
		"kept last":  {f.active(next), f.kept(old)},
	} {
		t.Run(name, func(t *testing.T) {
			v := f.view(releases...)
			if got, want := v.Tags("ghcr.io/acme/app"), []string{"latest", "v2"}; !slices.Equal(got, want) {
				t.Errorf("tags %v, want %v", got, want)
			}
			if d, ok := v.Resolve("ghcr.io/acme/app", "latest"); !ok || d.Digest != newDesc.Digest {
				t.Errorf("latest is %+v, %v", d, ok)
			}
			for _, d := range []digest.Digest{oldDesc.Digest, newDesc.Digest, oldSBOM.Digest} {
				if got, ok := v.Resolve("ghcr.io/acme/app", d.String()); !ok || got.Digest != d || got.Size == 0 {
					t.Errorf("%s is %+v, %v", d, got, ok)
				}
			}
			if _, ok := v.Resolve("ghcr.io/acme/app", "v1"); ok {
				t.Error("a tag of a release that is not active is served")
			}
			// Nothing active has the subject: a robot on the old release can still verify it.
			if refs := v.repos["ghcr.io/acme/app"].referrers(oldDesc.Digest.String()); len(refs) != 1 || refs[0].Digest != oldSBOM.Digest {
				t.Errorf("referrers of the kept release: %v", refs)
			}
			if got := v.Repositories(); !slices.Equal(got, []string{"ghcr.io/acme/app", "ghcr.io/acme/gone"}) {
				t.Errorf("repositories %v", got)
			}
			if got := v.Tags("ghcr.io/acme/gone"); len(got) != 0 {
				t.Errorf("tags %v of a repository that no active release has", got)
			}
		})
	}
	// The release that was only kept becomes the active one, next to the same content as kept.
	v := f.view(f.kept(old), f.active(old))
	if refs := v.repos["ghcr.io/acme/app"].referrers(oldDesc.Digest.String()); len(refs) != 1 {
		t.Errorf("referrers %v, want one", refs)
	}
	if got := v.Hosts(); !slices.Equal(got, []string{"ghcr.io"}) {
		t.Errorf("hosts %v", got)
	}
}

// What an older release said of a manifest counts until a newer one has the manifest too and says something else.
func TestViewOfWithdrawnReferrers(t *testing.T) {
	f := newFixture(t)
	desc := f.putImage(f.image(1))
	tag := "sha256-" + desc.Digest.Encoded()
	sbom := f.artifact("application/spdx+json", "old", &desc, nil)
	legacy := f.artifact("", "legacy", nil, nil)
	refs := []entry{item("sbom", bundle.KindReferrer, sbom, "ghcr.io/acme/app"), item("sig", bundle.KindReferrer, legacy, "ghcr.io/acme/app", tag+".sig")}
	refs[0].item.Subject, refs[1].item.Subject = desc.Digest, desc.Digest
	app := item("app", bundle.KindImage, desc, "ghcr.io/acme/app", "v1")
	old := f.release("1", append([]entry{app}, refs...)...)
	without := f.release("2", app)
	other := f.release("3", item("app", bundle.KindImage, f.putImage(f.image(1)), "ghcr.io/acme/app", "v1"))
	for name, c := range map[string]struct {
		releases []Release
		want     bool
	}{
		"active":             {[]Release{f.active(old), f.kept(without)}, true},
		"subject withdrawn":  {[]Release{f.kept(old), f.active(other)}, true},
		"referrer withdrawn": {[]Release{f.kept(old), f.active(without)}, false},
	} {
		v := f.view(c.releases...)
		repo := v.repos["ghcr.io/acme/app"]
		if got := len(repo.referrers(desc.Digest.String())) == 1; got != c.want {
			t.Errorf("%s: referrers listed: %v", name, got)
		}
		for _, tag := range []string{tag, tag + ".sig"} {
			if _, got := v.Resolve("ghcr.io/acme/app", tag); got != c.want {
				t.Errorf("%s: %s is there: %v", name, tag, got)
			}
		}
		if _, there := v.Resolve("ghcr.io/acme/app", sbom.Digest.String()); !there {
			t.Errorf("%s: the referrer is not pullable by digest", name)
		}
	}
}

func TestViewConflict(t *testing.T) {
	f := newFixture(t)
	one, two := f.putImage(f.image(1)), f.putImage(f.image(1))
	a := f.release("1", item("app", bundle.KindImage, one, "docker.io/library/app", "v1"))
	b := f.release("2", item("app", bundle.KindImage, two, "docker.io/app", "v1")) // the same repository, spelled differently
	same := f.release("3", item("other", bundle.KindImage, one, "docker.io/library/app", "v1"))
	_, err := NewView([]Release{f.active(a), f.active(b)})
	var conflict *ConflictError
	if !errors.As(err, &conflict) {
		t.Fatalf("%v; want *ConflictError", err)
	}
	want := ConflictError{"docker.io/library/app", "v1", [2]string{"robot-stack 1", "robot-stack 2"}, [2]digest.Digest{one.Digest, two.Digest}}
	if *conflict != want {
		t.Errorf("%+v, want %+v", *conflict, want)
	}
	for _, releases := range [][]Release{{f.active(a), f.kept(b)}, {f.active(a), f.active(same)}} {
		if _, err := NewView(releases); err != nil {
			t.Errorf("%v", err)
		}
	}
}

// One release carries one platform of an image, the other both: all that is there must be served, in either order.
func TestViewSparseAndWhole(t *testing.T) {
	f := newFixture(t)
	amd, arm := f.imageFor("amd64", 1), f.imageFor("arm64", 2)
	idx := f.index(amd, arm)
	images := []ocispec.Descriptor{f.putImage(amd), f.putImage(arm)}
	desc := f.put(ocispec.MediaTypeImageIndex, must(idx.RawManifest())(t))
	part := item("app", bundle.KindImage, desc, "ghcr.io/acme/app", "v1")
	part.item.Sparse, part.item.Platforms = true, []bundle.Platform{{Platform: "linux/amd64", Digest: images[0].Digest}}
	part.entries = images[:1]
	sparse := f.release("1", part)
	all := item("app", bundle.KindImage, desc, "ghcr.io/acme/app", "v1")
	all.item.Platforms = []bundle.Platform{{Platform: "linux/amd64", Digest: images[0].Digest}, {Platform: "linux/arm64", Digest: images[1].Digest}}
	all.entries = images
	whole := f.release("2", all)
	for _, c := range []struct {
		releases []Release
		arm      bool
	}{
		{[]Release{f.active(sparse)}, false},
		{[]Release{f.active(sparse), f.active(whole)}, true},
		{[]Release{f.kept(whole), f.active(sparse)}, true},
		{[]Release{f.kept(sparse), f.active(whole)}, true},
	} {
		v := f.view(c.releases...)
		for ref, want := range map[string]bool{
			"v1": true, desc.Digest.String(): true, images[0].Digest.String(): true, images[1].Digest.String(): c.arm,
		} {
			if _, ok := v.Resolve("ghcr.io/acme/app", ref); ok != want {
				t.Errorf("%+v: Resolve(%s) = %v, want %v", c.releases, ref, ok, want)
			}
		}
	}
}

func TestViewOfNothing(t *testing.T) {
	if v, err := NewView(nil); err != nil || len(v.Repositories()) != 0 || len(v.Hosts()) != 0 {
		t.Errorf("no release: %v", err)
	}
	if _, err := NewView([]Release{{}}); err == nil {
		t.Error("a release without a part was accepted")
	}
}
