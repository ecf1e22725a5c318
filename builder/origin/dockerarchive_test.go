package origin

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
)

// entry is one of a tar that a test writes.
type entry struct {
	name, data, link string
	kind             byte
}

func writeTar(t *testing.T, entries ...entry) (path string) {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Linkname: e.link, Typeflag: e.kind, Size: int64(len(e.data)), Mode: 0o644}
		if e.kind == 0 {
			h.Typeflag = tar.TypeReg
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e.data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "x.tar")
	write(t, path, buf.Bytes())
	return path
}

// layerTar is a layer with one file.
func layerTar(t *testing.T, name string) string {
	t.Helper()
	return string(must(os.ReadFile(writeTar(t, entry{name: name, data: name}))))
}

// configOf gives a config and the name that docker save gives it.
func configOf(layers ...string) entry {
	diffIDs := []digest.Digest{}
	for _, l := range layers {
		diffIDs = append(diffIDs, digest.FromString(l))
	}
	data := must(json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux", "rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs},
	}))
	return entry{name: digest.FromBytes(data).Encoded() + ".json", data: string(data)}
}

func manifestJSON(images ...archiveImage) entry {
	return entry{name: dockerManifestFile, data: string(must(json.Marshal(images)))}
}

// Docker before version 25 writes a layer once, and links where another image or layer has the same.
func TestDockerArchiveWithLinks(t *testing.T) {
	a, b := layerTar(t, "a"), layerTar(t, "BZh-is-no-magic-here")
	config := configOf(a, b, a, b)
	file := writeTar(t,
		entry{name: "1/", kind: tar.TypeDir}, entry{name: "1/layer.tar", data: a}, entry{name: "1/VERSION", data: "1.0"},
		entry{name: "2/layer.tar", kind: tar.TypeLink, link: "b.tar"}, entry{name: "b.tar", data: b},
		entry{name: "3/layer.tar", kind: tar.TypeSymlink, link: "../1/layer.tar"},
		entry{name: "4/layer.tar", kind: tar.TypeSymlink, link: "../2/layer.tar"},
		entry{name: "unused", kind: tar.TypeChar},
		config,
		manifestJSON(
			archiveImage{Config: config.name, RepoTags: []string{"acme/app:v1"}, Layers: []string{"1/layer.tar", "2/layer.tar", "3/layer.tar", "4/layer.tar"}},
			archiveImage{Config: config.name, RepoTags: []string{"acme/app:v2", "app"}, Layers: []string{"1/layer.tar", "2/layer.tar", "1/layer.tar", "2/layer.tar"}},
		),
	)
	one, two := openLocal(t, "docker-archive:"+file+":acme/app:v1"), openLocal(t, "docker-archive:"+file+":docker.io/library/app:latest")
	if n := readAll(t, one); n != 1+1+2 || one.root.Digest != two.root.Digest {
		t.Errorf("%d blobs, %s, %s", n, one.root.Digest, two.root.Digest)
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(one.raw, &m); err != nil || len(m.Layers) != 4 || m.Layers[0].Digest != digest.FromString(a) {
		t.Errorf("%s (%v)", one.raw, err)
	}
	if refs, err := one.Referrers(t.Context(), one.root.Digest); err != nil || len(refs) != 0 {
		t.Errorf("%v (%v)", refs, err)
	}
	_, err := OpenLocal(t.Context(), "docker-archive:"+file)
	needError(t, err, "2 images fit, name one; there are docker-archive:"+file+":acme/app:v1, ")
}

// Tools that are not docker pack the layers. Then their digests are those of the registry.
func TestDockerArchiveWithPackedLayers(t *testing.T) {
	img := ociImage(t, "amd64", 2)
	file := filepath.Join(t.TempDir(), "crane.tar")
	tag := must(name.NewTag("ghcr.io/acme/app:v1"))
	if err := tarball.WriteToFile(file, tag, img); err != nil {
		t.Fatal(err)
	}
	l := openLocal(t, "docker-archive:"+file+":ghcr.io/acme/app:v1")
	readAll(t, l)
	var m ocispec.Manifest
	if err := json.Unmarshal(l.raw, &m); err != nil {
		t.Fatal(err)
	}
	for i, layer := range must(img.Manifest()).Layers {
		if m.Layers[i].Digest.String() != layer.Digest.String() || m.Layers[i].MediaType != ocispec.MediaTypeImageLayerGzip {
			t.Errorf("layer %d is %+v, upstream %+v", i, m.Layers[i], layer)
		}
	}
}

// Docker since version 25 writes an OCI layout with manifest.json beside it: the digests stay.
func TestDockerArchiveWithLayout(t *testing.T) {
	img := ociImage(t, "amd64", 2)
	raw := must(img.RawManifest())
	other := ociImage(t, "arm64", 0)
	entries := []entry{{name: "oci-layout", data: `{"imageLayoutVersion":"1.0.0"}`}, manifestJSON(archiveImage{Config: "ignored"})}
	index := ocispec.Index{}
	index.SchemaVersion = 2
	for i, raw := range [][]byte{raw, must(other.RawManifest())} {
		index.Manifests = append(index.Manifests, ocispec.Descriptor{
			MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(raw), Size: int64(len(raw)), Annotations: map[string]string{
				containerdName: fmt.Sprintf("docker.io/acme/app:v%d", i+1), ocispec.AnnotationRefName: fmt.Sprintf("v%d", i+1),
			},
		})
		entries = append(entries, entry{name: blobPath(digest.FromBytes(raw)), data: string(raw)})
	}
	entries = append(entries, entry{name: "index.json", data: string(must(json.Marshal(index)))},
		entry{name: blobPath(digest.Digest(must(img.ConfigName()).String())), data: string(must(img.RawConfigFile()))})
	for _, l := range must(img.Layers()) {
		var buf bytes.Buffer
		rc := must(l.Compressed())
		must(buf.ReadFrom(rc))
		entries = append(entries, entry{name: blobPath(digest.Digest(must(l.Digest()).String())), data: buf.String()})
	}
	file := writeTar(t, entries...)
	for _, ref := range []string{":acme/app:v1", ":docker.io/acme/app:v1@" + digestOf(t, img).String(), "@" + digestOf(t, img).String()} {
		l := openLocal(t, "docker-archive:"+file+ref)
		if l.root.Digest != digestOf(t, img) {
			t.Errorf("%s: %s", ref, l.root.Digest)
		}
		readAll(t, l)
	}
	_, err := OpenLocal(t.Context(), "docker-archive:"+file+":acme/app")
	needError(t, err, "no such image; there are docker-archive:"+file+":docker.io/acme/app:v1, docker-archive:"+file+":docker.io/acme/app:v2")
}

func TestDockerArchivesThatCannotBe(t *testing.T) {
	a, b := layerTar(t, "a"), layerTar(t, "b")
	config := configOf(a)
	image := archiveImage{Config: config.name, Layers: []string{"a.tar"}}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	must(z.Write([]byte(b)))
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	layer := func(e entry) []entry {
		e.name = "a.tar"
		return []entry{config, manifestJSON(image), e}
	}
	for want, entries := range map[string][]entry{
		"it has no file manifest.json":                     {config},
		"an entry of type":                                 layer(entry{kind: tar.TypeFifo}),
		"a link to \"../../etc/passwd\"":                   layer(entry{kind: tar.TypeSymlink, link: "../../etc/passwd"}),
		"a link to \"/etc/passwd\"":                        layer(entry{kind: tar.TypeSymlink, link: "/etc/passwd"}),
		"more than 8 links":                                layer(entry{kind: tar.TypeSymlink, link: "a.tar"}),
		"b.tar: file does not exist":                       layer(entry{kind: tar.TypeLink, link: "b.tar"}),
		"unpacked it hashes to":                            layer(entry{data: packed.String()}),
		"compressed with zstd":                             layer(entry{data: "\x28\xb5\x2f\xfd........"}),
		"compressed with bzip2":                            layer(entry{data: "BZh91AY&SY......"}),
		"unexpected EOF":                                   layer(entry{data: packed.String()[:packed.Len()-4]}),
		"is there twice":                                   append(layer(entry{data: a}), entry{name: "./a.tar", data: a}),
		"the name leads outside":                           {{name: "../x"}},
		"damaged":                                          {{name: config.name, data: configOf(b).data}, manifestJSON(image), {name: "a.tar", data: a}},
		"want layers and 2":                                {config, manifestJSON(archiveImage{Config: config.name, Layers: []string{"a.tar", "a.tar"}})},
		"layers, the limit is 1024":                        {config, manifestJSON(archiveImage{Config: config.name, Layers: slices.Repeat([]string{"a.tar"}, 1025)})},
		"0 images":                                         {manifestJSON()},
		"manifest.json: an entry of type":                  {{name: dockerManifestFile, kind: tar.TypeSymlink, link: config.name}},
		fmt.Sprintf("the limit is %d", bundle.MaxManifest): {{name: dockerManifestFile, data: strings.Repeat(" ", bundle.MaxManifest+1)}},
		"is there with":                                    {configOf(a, a), {name: "a.tar", data: a}, {name: "b.tar", data: b + "more"}, manifestJSON(archiveImage{Config: configOf(a, a).name, Layers: []string{"a.tar", "b.tar"}})},
	} {
		_, err := OpenLocal(t.Context(), "docker-archive:"+writeTar(t, entries...))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// A layer that is not what its diff_id says is found by whoever reads it, as every blob is.
func TestDockerArchiveWithDamagedLayer(t *testing.T) {
	a, b := layerTar(t, "a"), layerTar(t, "b")
	config := configOf(a)
	l := openLocal(t, "docker-archive:"+writeTar(t, config, manifestJSON(archiveImage{Config: config.name, Layers: []string{"a.tar"}}), entry{name: "a.tar", data: b}))
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromString(a), Size: int64(len(b))}
	_, err := bundle.ReadBlob(t.Context(), l, desc, 1<<20)
	needDamaged(t, err)
}

func TestTarsThatCannotBe(t *testing.T) {
	dir := t.TempDir()
	whole := must(os.ReadFile(writeTar(t, entry{name: "oci-layout", data: strings.Repeat("x", 5000)})))
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	must(z.Write(whole))
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	write(t, dir+"/packed", packed.Bytes())
	write(t, dir+"/zstd", []byte("\x28\xb5\x2f\xfd........"))
	write(t, dir+"/text", []byte(strings.Repeat("no tar", 200)))
	write(t, dir+"/cut", whole[:2000])
	write(t, dir+"/nothing", nil)
	for name, want := range map[string]string{
		"packed": "compressed with gzip; it is read in place, so gunzip it first", "zstd": "so unzstd it first", "text": "not a tar",
		"cut": "5000 bytes declared", "nothing": "not a tar of an OCI image layout: it has no file oci-layout",
	} {
		_, err := OpenLocal(t.Context(), "oci-archive:"+dir+"/"+name)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	d := digest.FromString("x")
	index := `{"schemaVersion":2,"manifests":[{"mediaType":"` + ocispec.MediaTypeImageManifest + `","digest":"` + d.String() + `","size":1}]}`
	for _, kind := range []byte{tar.TypeSymlink, tar.TypeLink, tar.TypeFifo} {
		file := writeTar(t, entry{name: "oci-layout", data: `{"imageLayoutVersion":"1.0.0"}`}, entry{name: "./index.json", data: index},
			entry{name: "x", data: "x"}, entry{name: blobPath(d), kind: kind, link: "x"})
		_, err := OpenLocal(t.Context(), "oci-archive:"+file)
		needError(t, err, "want a regular file")
	}
}

func TestTarOfTooManyEntries(t *testing.T) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for i := range maxTarEntries + 1 {
		if err := w.WriteHeader(&tar.Header{Name: fmt.Sprint(i), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
	}
	_, err := indexTar(t.Context(), bytes.NewReader(buf.Bytes()), int64(buf.Len()))
	needError(t, err, fmt.Sprintf("more than %d entries", maxTarEntries))
}
