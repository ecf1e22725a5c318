package registry

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
)

func TestPartHasAllContent(t *testing.T) {
	s := newStack(t)
	p := s.describe(s.bundle)
	if p.Bundle() != s.bundle.Root.Digest || p.Name() != "robot-stack" || p.Version() != "v1.5.4" || p.String() != "robot-stack v1.5.4" {
		t.Errorf("%s: %s %q %q", p, p.Bundle(), p.Name(), p.Version())
	}
	want := make(map[digest.Digest]int64)
	err := s.bundle.Walk(t.Context(), s.st, func(n bundle.Node) error {
		want[n.Descriptor.Digest] = n.Descriptor.Size
		return nil
	})
	if got := maps.Collect(p.Blobs()); err != nil || !maps.Equal(got, want) {
		t.Errorf("%d blobs, want %d; %v", len(got), len(want), err)
	}
	last := digest.Digest("")
	for d := range p.Blobs() {
		if d <= last {
			t.Errorf("%s comes after %s", d, last)
		}
		if last = d; d > "sha256:8" {
			break // a caller may stop
		}
	}
}

// Every file that is not exactly what was written is refused: the relay then reads the manifests again.
func TestPartRefusesDamage(t *testing.T) {
	s := newStack(t)
	data := must(s.describe(s.bundle).MarshalBinary())(t)
	refused := func(what string, at int, bad []byte) {
		p := new(Part)
		if p.UnmarshalBinary(bad) == nil {
			t.Errorf("%s at %d: accepted", what, at)
		}
		if len(p.repos) > 0 || p.name != "" {
			t.Errorf("%s at %d: half of it is there", what, at)
		}
	}
	for i := range data {
		refused("cut", i, data[:i])
		bad := bytes.Clone(data)
		bad[i] ^= 1 << (i % 8)
		refused("flipped", i, bad)
	}
	refused("more", len(data), append(bytes.Clone(data), 0))
	// The caller may use its buffer again.
	buf, p := bytes.Clone(data), new(Part)
	if err := p.UnmarshalBinary(buf); err != nil {
		t.Fatal(err)
	}
	clear(buf)
	if again := must(p.MarshalBinary())(t); !bytes.Equal(again, data) {
		t.Error("the part changed with the buffer that it was read from")
	}
}

// sealed puts a body between magic and check sum.
func sealed(body []byte) []byte {
	data := append([]byte(partMagic), body...)
	check := sha256.Sum256(data)
	return append(data, check[:]...)
}

func unsealed(data []byte) []byte { return data[len(partMagic) : len(data)-sha256.Size] }

// smallPart has one of everything.
func smallPart() *Part {
	sha256, sha512 := make([]byte, 64), make([]byte, 64)
	for i := range sha512 {
		sha256[i], sha512[i] = byte(i), byte(0xff-i)
	}
	return &Part{
		root: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: sumText(string(sha512[:32])), Size: 300},
		name: "robot-stack", version: "v1.5.4",
		content: contents{sha256: string(sha256), sha512: string(sha512), sizes: []int64{1234, 0, 1 << 40}},
		types:   []string{"application/spdx+json", ocispec.MediaTypeImageManifest},
		repos: []partRepository{{name: "charts/a"}, {
			name: "ghcr.io/acme/a", manifests: []partManifest{{0, 1}, {2, 1}}, blobs: []uint32{0, 1},
			tags: []partTag{{"latest", 0}, {"v1", 1}},
			referrers: []partReferrer{
				{subject: "blake3:x", manifest: 0},
				{subject: string(sumText(string(sha512))), manifest: 1, artifactType: 1, annotations: []annotation{{"", "x"}, {"a", ""}}},
			},
		}},
	}
}

// What is accepted has one form, and a view of it answers whatever it says.
func FuzzPart(f *testing.F) {
	f.Add(unsealed(must(smallPart().MarshalBinary())(f)))
	f.Fuzz(func(t *testing.T, body []byte) {
		data, p := sealed(body), new(Part)
		if p.UnmarshalBinary(data) != nil {
			return
		}
		if again, err := p.MarshalBinary(); err != nil || !bytes.Equal(again, data) {
			t.Fatalf("written again: %x, %v", again, err)
		}
		sizes := maps.Collect(p.Blobs())
		for _, releases := range [][]Release{{{Part: p, Active: true}}, {{Part: p}}} {
			v, err := NewView(releases)
			if err != nil {
				t.Fatal(err)
			}
			for _, repo := range v.repos {
				for _, tag := range repo.tagNames {
					if m, ok := repo.byTag(tag); !ok || sizes[m.digest] != m.size {
						t.Fatalf("%s:%s is %+v", repo.name, tag, m)
					}
				}
				for _, ref := range repo.parts[0].here.referrers {
					for _, d := range repo.referrers(ref.subject) {
						if got, ok := v.Resolve(repo.name, d.Digest.String()); !ok || got.Size != d.Size {
							t.Fatalf("%s: referrer %+v is %+v", repo.name, d, got)
						}
					}
					repo.byTag(fallbackTag(ref.subject))
				}
				repo.byDigest("sha256:"+repo.name, &sum{n: 32})
			}
		}
	})
}

func TestDescribeOfIncompleteStore(t *testing.T) {
	s := newStack(t).alone()
	empty := newFixture(t)
	_, err := Describe(t.Context(), empty.st, s.bundle)
	var missing *bundle.MissingError
	if !errors.As(err, &missing) {
		t.Errorf("empty store: %v; want *bundle.MissingError", err)
	}
	file := func(d digest.Digest) string {
		return filepath.Join(s.dir, "blobs", "sha256", d.Encoded()[:2], d.Encoded())
	}
	layer := must(must(s.nginx.Layers())(t)[0].Digest())(t)
	if err := os.Remove(file(digest.Digest(layer.String()))); err != nil {
		t.Fatal(err)
	}
	if _, err := Describe(t.Context(), s.st, s.bundle); err != nil {
		t.Errorf("a layer was read: %v", err)
	}
	// The raw bytes of an index are served, so they are verified too.
	raw := bytes.Replace(must(s.app.RawManifest())(t), []byte("linux"), []byte("linuX"), 1)
	if err := os.WriteFile(file(s.appDesc.Digest), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	var damaged *bundle.DamagedError
	if _, err := Describe(t.Context(), s.st, s.bundle); !errors.As(err, &damaged) || damaged.Descriptor.Digest != s.appDesc.Digest {
		t.Errorf("changed index: %v; want *bundle.DamagedError", err)
	}
}

func TestDescribeConflict(t *testing.T) {
	f := newFixture(t)
	one, two := f.putImage(f.image(1)), f.putImage(f.image(1))
	b := f.release("1", item("a", bundle.KindImage, one, "docker.io/app", "v1"), item("b", bundle.KindImage, two, "docker.io/library/app", "v1"))
	_, err := Describe(t.Context(), f.st, b)
	var conflict *ConflictError
	if !errors.As(err, &conflict) || conflict.Repository != "docker.io/library/app" || conflict.Digests != [2]digest.Digest{one.Digest, two.Digest} {
		t.Errorf("%v; want *ConflictError", err)
	}
}

func TestDescribeRefuses(t *testing.T) {
	f := newFixture(t)
	desc := f.putImage(f.image(1))
	if _, err := Describe(t.Context(), f.st, f.release("1", item("a", bundle.KindImage, desc, "a..b/app", "v1"))); err == nil {
		t.Error("a repository was accepted that no request can name")
	}
	bad := f.artifact("application/x", "x", &ocispec.Descriptor{MediaType: "text/plain", Digest: "sha256:../..", Size: 1}, nil)
	if _, err := Describe(t.Context(), f.st, f.release("2", item("a", bundle.KindArtifact, bad, "acme/app", "v1"))); err == nil {
		t.Error("a subject was accepted that is not a digest")
	}
}

// An index that has a subject is a referrer too. Its artifact type is its own or none (distribution-spec 1.1 "Listing
// Referrers"); a subject may have any digest that the grammar allows.
func TestIndexAsReferrer(t *testing.T) {
	f := newFixture(t)
	image := f.putImage(f.image(1))
	plain := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{image}, Subject: &image}
	typed := plain
	typed.ArtifactType, typed.Annotations = "application/x", map[string]string{"b": "2", "a": "1"}
	odd := image
	odd.Digest = "blake3+x:AB_c="
	entries := []entry{item("app", bundle.KindImage, image, "acme/app", "v1"), item("odd", bundle.KindArtifact, f.artifact("application/o", "o", &odd, nil), "acme/app")}
	var want []ocispec.Descriptor
	for name, idx := range map[string]ocispec.Index{"plain": plain, "typed": typed} {
		desc := f.putJSON(ocispec.MediaTypeImageIndex, idx)
		e := item(name, bundle.KindArtifact, desc, "acme/app", name)
		e.item.Sparse, e.entries = true, []ocispec.Descriptor{}
		entries = append(entries, e)
		desc.ArtifactType, desc.Annotations = idx.ArtifactType, idx.Annotations
		want = append(want, desc)
	}
	repo := f.view(f.active(f.release("1", entries...))).repos["acme/app"]
	got := repo.referrers(image.Digest.String())
	if !slices.EqualFunc(got, sortReferrers(want), func(a, b ocispec.Descriptor) bool {
		return a.Digest == b.Digest && a.MediaType == b.MediaType && a.Size == b.Size && a.ArtifactType == b.ArtifactType && maps.Equal(a.Annotations, b.Annotations)
	}) {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := repo.referrers(odd.Digest.String()); len(got) != 1 {
		t.Errorf("referrers of %s: %v", odd.Digest, got)
	}
}

func TestStartOfALargeSite(t *testing.T) {
	files := syntheticParts(t, 50, 20_000)
	v := viewOf(t, files)
	blobs := make(map[digest.Digest]struct{})
	for _, p := range v.repos["ghcr.io/acme/robot-7"].parts {
		for d := range p.part.Blobs() {
			blobs[d] = struct{}{}
		}
	}
	if len(v.Repositories()) != 60 || len(blobs) < 20_000 {
		t.Errorf("%d repositories, %d blobs", len(v.Repositories()), len(blobs))
	}
	if tags := v.Tags("ghcr.io/acme/robot-7"); !slices.Equal(tags, []string{"latest", "v1.49.0"}) {
		t.Errorf("tags %v", tags)
	}
	// A few slices for each repository of each release, nothing for a blob.
	if n := testing.AllocsPerRun(1, func() { viewOf(t, files) }); n > 50*60*8 {
		t.Errorf("%v allocations", n)
	}
}
