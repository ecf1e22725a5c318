package origin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/upstream"
)

// ociImage is an image with packed layers of an architecture, with OCI media types.
func ociImage(t *testing.T, arch string, layers int) v1.Image {
	t.Helper()
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	for range layers {
		img = must(mutate.AppendLayers(img, must(random.Layer(10_000, types.OCILayer))))
	}
	config := must(img.ConfigFile()).DeepCopy()
	config.OS, config.Architecture = "linux", arch
	return must(mutate.ConfigFile(img, config))
}

// rawIndex is an index with the very bytes that skopeo 1.9 would write: it keeps no others.
type rawIndex []byte

func (r rawIndex) RawManifest() ([]byte, error)        { return r, nil }
func (r rawIndex) MediaType() (types.MediaType, error) { return types.OCIImageIndex, nil }

// pushIndex writes an image of two platforms.
func pushIndex(t *testing.T, tag name.Tag) digest.Digest {
	t.Helper()
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex}
	index.SchemaVersion = 2
	for _, arch := range []string{"amd64", "arm64"} {
		img := ociImage(t, arch, 2)
		d := digestOf(t, img)
		if err := remote.Write(tag.Digest(d.String()), img); err != nil {
			t.Fatal(err)
		}
		index.Manifests = append(index.Manifests, ocispec.Descriptor{
			MediaType: ocispec.MediaTypeImageManifest, Digest: d, Size: must(img.Size()), Platform: &ocispec.Platform{OS: "linux", Architecture: arch},
		})
	}
	raw := rawIndex(must(json.Marshal(index)))
	if err := remote.Put(tag, raw); err != nil {
		t.Fatal(err)
	}
	return digest.FromBytes(raw)
}

func digestOf(t *testing.T, of interface{ Digest() (v1.Hash, error) }) digest.Digest {
	t.Helper()
	return digest.Digest(must(of.Digest()).String())
}

func skopeo(t *testing.T, args ...string) {
	t.Helper()
	if _, err := exec.LookPath("skopeo"); err != nil {
		t.Skip("skopeo is not installed (Debian: apt-get install skopeo)")
	}
	if out, err := exec.CommandContext(t.Context(), "skopeo", append([]string{"--insecure-policy"}, args...)...).CombinedOutput(); err != nil {
		t.Fatalf("skopeo %v: %v\n%s", args, err, out)
	}
}

// readAll walks everything under the root and hashes it, and gives the number of blobs.
func readAll(t *testing.T, o Origin) (blobs int) {
	t.Helper()
	root, raw, err := o.Root(t.Context())
	if err != nil || digest.FromBytes(raw) != root.Digest {
		t.Fatalf("root %s (%v)", root.Digest, err)
	}
	err = bundle.Walk(t.Context(), o, root, func(n bundle.Node) error {
		blobs++
		for _, offset := range []int64{0, n.Descriptor.Size / 3, n.Descriptor.Size} {
			rc, err := o.OpenAt(t.Context(), n.Descriptor, offset)
			if err != nil {
				return err
			}
			data, err := io.ReadAll(rc)
			if err := errors.Join(err, rc.Close()); err != nil {
				return err
			}
			if int64(len(data)) != n.Descriptor.Size-offset || offset == 0 && n.Descriptor.Digest.Algorithm().FromBytes(data) != n.Descriptor.Digest {
				t.Errorf("%s from %d: %d other bytes", n.Descriptor.Digest, offset, len(data))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return blobs
}

func openLocal(t *testing.T, ref string) *Local {
	t.Helper()
	l, err := OpenLocal(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() }) //nolint:errcheck // only read from
	return l
}

// What skopeo writes from a real registry keeps its digests.
func TestLayoutsOfSkopeo(t *testing.T) {
	r, err := upstream.Start(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close() //nolint:errcheck // scratch
	tag := must(name.NewTag(r.Host() + "/acme/app:v1"))
	want := pushIndex(t, tag)
	dir := t.TempDir()
	for _, ref := range []string{"oci:" + dir + "/layout:v1", "oci-archive:" + dir + "/layout.tar:acme/app:v1"} {
		skopeo(t, "copy", "--all", "--src-tls-verify=false", "docker://"+tag.String(), ref)
		path := strings.Join(strings.SplitN(ref, ":", 3)[:2], ":")
		for _, ref := range []string{ref, path, path + "@" + want.String(), ref + "@" + want.String()} {
			o, err := (&Registries{}).Origin(t.Context(), ref)
			if err != nil {
				t.Fatal(err)
			}
			if root, _, err := o.Root(t.Context()); err != nil || root.Digest != want || root.MediaType != ocispec.MediaTypeImageIndex {
				t.Errorf("%s: %+v (%v)", ref, root, err)
			}
			if n := readAll(t, o); n != 1+2*(1+1+2) {
				t.Errorf("%s: %d blobs", ref, n)
			}
			if refs, err := o.Referrers(t.Context(), want); err != nil || len(refs) != 0 {
				t.Errorf("%v (%v)", refs, err)
			}
			if err := o.Close(); err != nil {
				t.Error(err)
			}
		}
		_, err = OpenLocal(t.Context(), path+":v2")
		needError(t, err, "no such image; there are "+ref)
		_, err = OpenLocal(t.Context(), path+"@"+digest.FromString("x").String())
		needError(t, err, "no such image; there are "+ref)
	}
}

// The manifest that is made for an archive of docker save is one that skopeo takes, for the same unpacked layers.
func TestDockerArchiveOfSkopeo(t *testing.T) {
	r, err := upstream.Start(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close() //nolint:errcheck // scratch
	img := ociImage(t, "amd64", 3)
	tag := must(name.NewTag(r.Host() + "/acme/app:v1"))
	if err := remote.Write(tag, img); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := dir + "/saved.tar"
	skopeo(t, "copy", "--src-tls-verify=false", "docker://"+tag.String(), "docker-archive:"+file+":acme/app:v1")
	l := openLocal(t, "docker-archive:"+file+":docker.io/acme/app:v1")
	again := openLocal(t, "docker-archive:"+file)
	if l.root.Digest != again.root.Digest || l.root.MediaType != ocispec.MediaTypeImageManifest {
		t.Errorf("two digests, %+v and %+v", l.root, again.root)
	}
	if n := readAll(t, l); n != 1+1+3 {
		t.Errorf("%d blobs", n)
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(l.raw, &m); err != nil {
		t.Fatal(err)
	}
	config := must(img.ConfigFile())
	for i, d := range config.RootFS.DiffIDs {
		if m.Layers[i].Digest.String() != d.String() || m.Layers[i].MediaType != ocispec.MediaTypeImageLayer {
			t.Errorf("layer %d is %+v, want %s", i, m.Layers[i], d)
		}
	}
	if m.Config.Digest.String() != must(img.ConfigName()).String() {
		t.Errorf("config %s, upstream %s", m.Config.Digest, must(img.ConfigName()))
	}
	// There and back by another tool.
	copyOut(t, l, dir+"/made")
	skopeo(t, "copy", "--preserve-digests", "--dest-tls-verify=false", "oci:"+dir+"/made:x", "docker://"+r.Host()+"/acme/back:v1")
	if back := must(remote.Head(must(name.NewTag(r.Host() + "/acme/back:v1")))); back.Digest.String() != l.root.Digest.String() {
		t.Errorf("%s came back as %s", l.root.Digest, back.Digest)
	}
	_, err = OpenLocal(t.Context(), "docker-archive:"+file+":acme/other:v1")
	needError(t, err, "no such image; there are docker-archive:"+file+":docker.io/acme/app:v1")
	_, err = OpenLocal(t.Context(), "docker-archive:"+file+"@"+digest.FromString("x").String())
	needError(t, err, "there is "+l.root.Digest.String())
	openLocal(t, "docker-archive:"+file+"@"+l.root.Digest.String())
}

// copyOut writes an image as a layout, under the name x.
func copyOut(t *testing.T, o Origin, dir string) {
	t.Helper()
	root, _, err := o.Root(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	err = bundle.Walk(t.Context(), o, root, func(n bundle.Node) error {
		data, err := bundle.ReadBlob(t.Context(), o, n.Descriptor, 1<<20)
		write(t, filepath.Join(dir, blobPath(n.Descriptor.Digest)), data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	root.Annotations = map[string]string{ocispec.AnnotationRefName: "x"}
	writeLayout(t, dir, root)
}

func writeLayout(t *testing.T, dir string, entries ...ocispec.Descriptor) {
	t.Helper()
	index := ocispec.Index{Manifests: entries}
	index.SchemaVersion = 2
	write(t, filepath.Join(dir, "index.json"), must(json.Marshal(index)))
	write(t, filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`))
}

// stocked is a layout with an image and all kinds of things that speak of it.
func stocked(t *testing.T) (dir string, image digest.Digest) {
	t.Helper()
	dir = t.TempDir()
	p, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	img := ociImage(t, "amd64", 1)
	image = digestOf(t, img)
	desc := v1.Descriptor{MediaType: types.OCIManifestSchema1, Digest: must(img.Digest()), Size: must(img.Size())}
	add := func(img v1.Image, annotations map[string]string) {
		if err := p.AppendImage(img, layout.WithAnnotations(annotations)); err != nil {
			t.Fatal(err)
		}
	}
	add(img, map[string]string{ocispec.AnnotationRefName: "v1"})
	about := func(n int) v1.Image {
		return mutate.Subject(mutate.ConfigMediaType(ociImage(t, fmt.Sprint(n), 0), "application/vnd.test.x"), desc).(v1.Image)
	}
	add(about(1), nil)
	add(about(2), map[string]string{ocispec.AnnotationRefName: "note"})
	add(ociImage(t, "sig", 0), map[string]string{ocispec.AnnotationRefName: legacyTag(image, ".sig")})
	add(ociImage(t, "sbom", 0), map[string]string{ocispec.AnnotationRefName: legacyTag(image, ".sbom")})
	add(ociImage(t, "other", 0), map[string]string{ocispec.AnnotationRefName: legacyTag(subject, ".att")})
	listed := about(3)
	if err := p.WriteImage(listed); err != nil {
		t.Fatal(err)
	}
	list := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), mutate.IndexAddendum{Add: listed})
	if err := p.AppendIndex(list, layout.WithAnnotations(map[string]string{ocispec.AnnotationRefName: fallbackTag(image)})); err != nil {
		t.Fatal(err)
	}
	return dir, image
}

func TestReferrersInLayout(t *testing.T) {
	dir, image := stocked(t)
	l := openLocal(t, "oci:"+dir) // of all these entries, one is an image
	if l.root.Digest != image {
		t.Fatalf("%s was taken for the image", l.root.Digest)
	}
	refs, err := l.Referrers(t.Context(), image)
	if err != nil {
		t.Fatal(err)
	}
	var tags []string
	for _, r := range refs {
		tags = append(tags, strings.TrimPrefix(r.Tag, "sha256-"+image.Encoded()))
		if raw, err := bundle.ReadBlob(t.Context(), l, r.Descriptor, bundle.MaxManifest); err != nil || r.Tag == "" && !strings.Contains(string(raw), image.String()) {
			t.Errorf("%+v (%v)", r, err)
		}
	}
	if got := strings.Join(tags, ","); got != ",,,.sbom,.sig" {
		t.Errorf("%s", got)
	}
	if refs, err := l.Referrers(t.Context(), digest.FromString("else")); err != nil || len(refs) != 0 {
		t.Errorf("%v (%v)", refs, err)
	}
	// One that cannot be read may be the one that is asked for.
	if err := os.Remove(filepath.Join(dir, blobPath(l.entries[1].Digest))); err != nil {
		t.Fatal(err)
	}
	l.statements = map[digest.Digest]statement{}
	if _, err := l.Referrers(t.Context(), image); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

// cosign save marks what is what by an annotation of its own, and writes no tags.
func TestLayoutOfCosign(t *testing.T) {
	dir := t.TempDir()
	p, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	img, sig, att := ociImage(t, "amd64", 1), ociImage(t, "sig", 1), ociImage(t, "att", 1)
	for kind, img := range map[string]v1.Image{"dev.cosignproject.cosign/image": img, cosignSigs: sig, cosignAtts: att} {
		if err := p.AppendImage(img, layout.WithAnnotations(map[string]string{cosignKind: kind})); err != nil {
			t.Fatal(err)
		}
	}
	l := openLocal(t, "oci:"+dir)
	refs, err := l.Referrers(t.Context(), digestOf(t, img))
	if err != nil || len(refs) != 2 || l.root.Digest != digestOf(t, img) {
		t.Fatalf("%s: %v (%v)", l.root.Digest, refs, err)
	}
	if !strings.HasSuffix(refs[0].Tag, ".att") || refs[0].Digest != digestOf(t, att) || !strings.HasSuffix(refs[1].Tag, ".sig") {
		t.Errorf("%+v", refs)
	}
}

func TestLayoutsThatCannotBe(t *testing.T) {
	dir := t.TempDir()
	one, two := digest.FromString("1"), digest.FromString("2")
	entry := func(d digest.Digest, name string) ocispec.Descriptor {
		return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: d, Size: 2, Annotations: map[string]string{ocispec.AnnotationRefName: name}}
	}
	for _, d := range []digest.Digest{one, two} {
		write(t, filepath.Join(dir, "two", blobPath(d)), []byte("{}"))
	}
	writeLayout(t, dir+"/two", entry(one, "a"), entry(two, "a"))
	writeLayout(t, dir+"/missing", entry(one, "a"))
	writeLayout(t, dir+"/empty")
	write(t, dir+"/size/"+blobPath(one), []byte("{} "))
	writeLayout(t, dir+"/size", entry(one, "a"))
	write(t, dir+"/huge/oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	write(t, dir+"/huge/index.json", nil)
	if err := os.Truncate(dir+"/huge/index.json", 1<<40); err != nil {
		t.Fatal(err)
	}
	writeLayout(t, dir+"/version")
	write(t, dir+"/version/oci-layout", []byte(`{"imageLayoutVersion":"2.0.0"}`))
	writeLayout(t, dir+"/outside", entry(one, "a"))
	write(t, dir+"/secret", []byte("{}"))
	if err := os.MkdirAll(dir+"/outside/blobs/sha256", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../../../secret", dir+"/outside/"+blobPath(one)); err != nil {
		t.Fatal(err)
	}
	for ref, want := range map[string]string{
		"two:a":              "2 images fit, name one",
		"two:b":              "no such image",
		"missing":            "is missing",
		"empty":              "no image in its index.json",
		"size":               "size 3, want 2",
		"huge":               "the limit is",
		"version":            "version",
		"outside":            "escapes",
		"nowhere":            "there is no such file or folder",
		"secret":             "not a folder; a tar is named with oci-archive:",
		"two/blobs":          "it has no file oci-layout",
		"two@" + string(one): "is damaged", // named, found, and not the bytes
	} {
		_, err := OpenLocal(t.Context(), "oci:"+dir+"/"+ref)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", ref, err, want)
		}
	}
	_, err := OpenLocal(t.Context(), "oci-archive:"+dir+"/two")
	needError(t, err, "not a file; a folder is named with oci:")
}

func TestParseLocal(t *testing.T) {
	d := digest.FromString("x")
	for ref, want := range map[string]LocalRef{
		"oci:dir":                        {Transport: "oci", Path: "dir"},
		"oci:/a/b:v1":                    {Transport: "oci", Path: "/a/b", Image: "v1"},
		"oci:dir@" + d.String():          {Transport: "oci", Path: "dir", Digest: d},
		"oci-archive:../x.tar:a/b:v1":    {Transport: "oci-archive", Path: "../x.tar", Image: "a/b:v1"},
		"oci-archive:x@y.tar":            {Transport: "oci-archive", Path: "x@y.tar"},
		"docker-archive:x.tar:app":       {Transport: "docker-archive", Path: "x.tar", Image: "app"},
		"docker-archive:x:h:5000/app:v1": {Transport: "docker-archive", Path: "x", Image: "h:5000/app:v1"},
	} {
		if got, err := ParseLocal(ref); err != nil || got != want || got.String() != ref {
			t.Errorf("%s: %+v (%v)", ref, got, err)
		}
	}
	for _, ref := range []string{
		"", "dir", "docker://x", "oci://h/x:v1", "oci:", "oci::v1", "oci:dir:", "oci:dir:@0", "oci:dir:v 1", "oci:d\x00r", "oci:dir@sha256:12",
		"docker-archive:x.tar:UPPER", "docker-archive:x.tar:a@b", "oci:dir:@" + d.String(), "oci:" + strings.Repeat("x", 2000),
		"ghcr.io/acme/app:v1",
	} {
		var refErr *RefError
		if got, err := ParseLocal(ref); !errors.As(err, &refErr) {
			t.Errorf("%q: %+v (%v)", ref, got, err)
		}
	}
}
