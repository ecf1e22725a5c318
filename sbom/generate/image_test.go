package generate_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/sbom"
	"github.com/plimsoll/plimsoll/sbom/generate"
)

var created = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// entry is a file of a layer.
type entry struct {
	name string
	body string
	mode int64
	head func(*tar.Header) // to make it a strange one
}

// layer is a tar of entries, deterministic.
func layer(t *testing.T, entries ...entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, e := range entries {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: e.name, Mode: 0o644 | e.mode, Size: int64(len(e.body)), ModTime: created, Format: tar.FormatPAX}
		if e.head != nil {
			e.head(h)
		}
		must(t, tw.WriteHeader(h))
		if h.Typeflag == tar.TypeReg {
			_, err := io.WriteString(tw, e.body)
			must(t, err)
		}
	}
	must(t, tw.Close())
	return buf.Bytes()
}

func zipped(t *testing.T, data []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	zw := gzip.NewWriter(&buf)
	_, err := zw.Write(data)
	must(t, err)
	must(t, zw.Close())
	return buf.Bytes()
}

// blob is a layer as it is stored and what the config says that it unpacks to.
type blob struct {
	mediaType string
	data      []byte
	diffID    digest.Digest
}

func gzipLayer(t *testing.T, entries ...entry) blob {
	t.Helper()
	unpacked := layer(t, entries...)
	return blob{ocispec.MediaTypeImageLayerGzip, zipped(t, unpacked), digest.FromBytes(unpacked)}
}

// layout writes an image into an OCI layout without an index.json: what a bundle looks like while it is built.
func layout(t *testing.T, dir string, layers ...blob) ocispec.Descriptor {
	t.Helper()
	must(t, os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755))
	put := func(mediaType string, data []byte) ocispec.Descriptor {
		d := digest.FromBytes(data)
		must(t, os.WriteFile(filepath.Join(dir, "blobs", "sha256", d.Encoded()), data, 0o644))
		return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
	}
	config := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}}
	config.RootFS.Type = "layers"
	config.Config.Labels = map[string]string{ocispec.AnnotationVendor: "The maker of the base image"}
	manifest := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Annotations: map[string]string{
		ocispec.AnnotationVendor: "ACME Robotics GmbH",
	}}
	manifest.SchemaVersion = 2
	for _, l := range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, l.diffID)
		manifest.Layers = append(manifest.Layers, put(l.mediaType, l.data))
	}
	manifest.Config = put(ocispec.MediaTypeImageConfig, encode(t, config))
	return put(ocispec.MediaTypeImageManifest, encode(t, manifest))
}

func encode(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	must(t, err)
	return data
}

func subjectOf(desc ocispec.Descriptor) sbom.Subject {
	return sbom.Subject{Repository: "ghcr.io/acme/robot-app", Digest: desc.Digest, Platform: "linux/arm64/v8",
		Created: created, Creator: "plimsoll-v0.1.0"}
}

const dpkgStatus = `Package: libc6
Status: install ok installed
Priority: optional
Section: libs
Installed-Size: 12988
Maintainer: GNU Libc Maintainers "quoted\backslash" <debian-glibc@lists.debian.org>
Architecture: arm64
Multi-Arch: same
Source: glibc
Version: 2.36-9+deb12u7
Description: GNU C Library: Shared libraries
 Contains the standard libraries that are used by nearly all programs.

Package: openssl
Status: install ok installed
Section: utils
Maintainer: Debian OpenSSL Team <pkg-openssl-devel@alioth-lists.debian.net>
Architecture: arm64
Version: 3.0.14-1~deb12u2
Depends: libc6 (>= 2.34)
Description: Secure Sockets Layer toolkit

`

const osRelease = `PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"
NAME="Debian GNU/Linux"
VERSION_ID="12"
VERSION="12 (bookworm)"
ID=debian
`

// robotImage has one package of each kind that robots are made of.
func robotImage(t *testing.T, dir string) ocispec.Descriptor {
	t.Helper()
	return layout(t, dir,
		gzipLayer(t,
			entry{name: "etc/os-release", body: osRelease},
			entry{name: "var/lib/dpkg/status", body: dpkgStatus},
			entry{name: "bin", head: func(h *tar.Header) { h.Typeflag, h.Linkname = tar.TypeSymlink, "../../usr/bin" }},
		),
		gzipLayer(t,
			entry{name: "app/robot", body: string(goBinary), mode: 0o755},
			entry{name: "app/node_modules/left-pad/package.json", body: `{"name":"left-pad","version":"1.3.0","license":"WTFPL"}`},
			entry{name: "usr/lib/python3/dist-packages/requests-2.31.0.dist-info/METADATA",
				body: "Metadata-Version: 2.1\nName: requests\nVersion: 2.31.0\nLicense: Apache 2.0\nAuthor: Kenneth Reitz\n\n"},
			entry{name: "usr/lib/python3/dist-packages/requests-2.31.0.dist-info/RECORD", body: "requests/__init__.py,,\n"},
		))
}

// scratch makes a fresh folder the process's temporary one, and checks afterwards that it was left empty.
func scratch(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	t.Cleanup(func() {
		if left := files(t, dir); len(left) > 0 {
			t.Errorf("left in the scratch folder: %v", left)
		}
	})
	return dir
}

func files(t *testing.T, dir string) []string {
	t.Helper()
	var found []string
	must(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if path != dir {
			found = append(found, path)
		}
		return err
	}))
	return found
}

func inProcess(t *testing.T, source string, desc ocispec.Descriptor, o generate.Options) ([]byte, error) {
	t.Helper()
	blobs, err := generate.OpenBlobs(source)
	must(t, err)
	defer blobs.Close()
	img, err := generate.FromFetcher(t.Context(), blobs, desc)
	if err != nil {
		return nil, err
	}
	return generate.Image(t.Context(), img, subjectOf(desc), o)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
