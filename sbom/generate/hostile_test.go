package generate_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/sbom/generate"
)

func plainLayer(t *testing.T, entries ...entry) blob {
	t.Helper()
	unpacked := layer(t, entries...)
	return blob{ocispec.MediaTypeImageLayer, unpacked, digest.FromBytes(unpacked)}
}

func digestOf(data []byte) string { return digest.FromBytes(data).Encoded() }

// lying is a tar whose only entry declares far more than follows.
func lying(t *testing.T) []byte {
	t.Helper()
	var buf bytes.Buffer
	must(t, tar.NewWriter(&buf).WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "big", Size: 1 << 50, Format: tar.FormatGNU}))
	return append(buf.Bytes(), "little"...)
}

func TestHostileLayers(t *testing.T) {
	raw := func(mediaType string, data []byte) blob { return blob{mediaType, data, digest.FromBytes(data)} }
	link := func(kind byte, to string) func(*tar.Header) {
		return func(h *tar.Header) { h.Typeflag, h.Linkname = kind, to }
	}
	for name, test := range map[string]struct {
		layer   blob
		options generate.Options
		want    error // nil: any
	}{
		"entry climbs out":             {gzipLayer(t, entry{name: "../../../../../../tmp/escaped", body: "x"}), generate.Options{}, generate.ErrOutside},
		"entry climbs out deeper in":   {gzipLayer(t, entry{name: "a/../../escaped", body: "x"}), generate.Options{}, generate.ErrOutside},
		"absolute entry climbs out":    {gzipLayer(t, entry{name: "/../escaped", body: "x"}), generate.Options{}, generate.ErrOutside},
		"hard link climbs out":         {gzipLayer(t, entry{name: "shadow", head: link(tar.TypeLink, "../../etc/shadow")}), generate.Options{}, generate.ErrOutside},
		"declares a huge entry":        {raw(ocispec.MediaTypeImageLayerGzip, zipped(t, lying(t))), generate.Options{}, nil},
		"says gzip, is text":           {raw(ocispec.MediaTypeImageLayerGzip, []byte(strings.Repeat("not gzip ", 200))), generate.Options{}, nil},
		"says gzip, is cut short":      {raw(ocispec.MediaTypeImageLayerGzip, zipped(t, layer(t, entry{name: "a", body: "x"}))[:40]), generate.Options{}, nil},
		"says zstd, is gzip of text":   {raw(ocispec.MediaTypeImageLayerZstd, zipped(t, []byte("text"))), generate.Options{}, nil},
		"not a layer":                  {raw("application/vnd.cncf.helm.chart.content.v1.tar+gzip", zipped(t, layer(t))), generate.Options{}, nil},
		"unpacks to something else":    {blob{ocispec.MediaTypeImageLayerGzip, zipped(t, layer(t)), digest.FromString("else")}, generate.Options{}, generate.ErrWrongBytes},
		"unpacks to more than allowed": {gzipLayer(t, entry{name: "zeros", body: strings.Repeat("\x00", 4<<20)}), generate.Options{MaxUnpacked: 1 << 20}, generate.ErrTooBig},
		"more entries than allowed":    {gzipLayer(t, entry{name: "a"}, entry{name: "b"}, entry{name: "c"}), generate.Options{MaxEntries: 2}, generate.ErrTooMany},
		"endless name":                 {gzipLayer(t, entry{name: strings.Repeat("d/", 4096) + "f"}), generate.Options{}, generate.ErrLongName},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			desc := layout(t, dir, gzipLayer(t, entry{name: "etc/os-release", body: osRelease}), test.layer)
			test.options.TempDir = scratch(t)
			before := files(t, filepath.Dir(test.options.TempDir))
			_, err := inProcess(t, dir, desc, test.options)
			if err == nil || test.want != nil && !errors.Is(err, test.want) {
				t.Errorf("error %v, want %v", err, test.want)
			}
			if err != nil && strings.Contains(err.Error(), test.options.TempDir) {
				t.Errorf("the error names the scratch folder: %v", err)
			}
			if after := files(t, filepath.Dir(test.options.TempDir)); len(after) != len(before) {
				t.Errorf("files before %v, after %v", before, after)
			}
		})
	}
	if _, err := os.Lstat("/tmp/escaped"); err == nil {
		t.Error("an entry escaped")
	}
}

// Links that leave the image and links in circles are resolved inside it.
func TestLinksStayInside(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "status")
	must(t, os.WriteFile(secret, []byte(dpkgStatus), 0o644))
	dir := t.TempDir()
	link := func(to string) func(*tar.Header) {
		return func(h *tar.Header) { h.Typeflag, h.Linkname = tar.TypeSymlink, to }
	}
	desc := layout(t, dir, gzipLayer(t,
		entry{name: "etc/os-release", body: osRelease},
		entry{name: "var/lib/dpkg/status", head: link(strings.Repeat("../", 20) + strings.TrimPrefix(secret, "/"))},
		entry{name: "var/lib/dpkg/status.d", head: link("status.d")},
		entry{name: "loop/a", head: link("b")},
		entry{name: "loop/b", head: link("a")},
	))
	data, err := inProcess(t, dir, desc, generate.Options{TempDir: scratch(t)})
	must(t, err)
	if bytes.Contains(data, []byte("libc6")) {
		t.Error("a file of this machine was read through a link in the image")
	}
}

func TestImageRefusesManifestsThatAreNone(t *testing.T) {
	dir := t.TempDir()
	scratchDir := scratch(t)
	put := func(text string) ocispec.Descriptor {
		data := []byte(text)
		must(t, os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, "blobs", "sha256", digestOf(data)), data, 0o644))
		return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(data), Size: int64(len(data))}
	}
	for name, text := range map[string]string{
		"not JSON":         "{",
		"says it is index": `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`,
		"no config":        `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json"}`,
		"climbing digest":  `{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:../../../../etc/passwd","size":1}}`,
		"config too big":   `{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:` + strings.Repeat("a", 64) + `","size":1099511627776}}`,
		"duplicate key":    `{"schemaVersion":2,"config":{},"config":{}}`,
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := inProcess(t, dir, put(text), generate.Options{TempDir: scratchDir}); err == nil {
				t.Error("no error")
			}
		})
	}
}
