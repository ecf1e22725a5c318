// Package images builds the container images of the example, each for two platforms. The same version gives the same
// bytes, with the same release of Go.
package images

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"path"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Architectures are those of the images; the operating system is linux.
func Architectures() []string { return []string{"amd64", "arm64"} }

// created stands for all times in images and layers. The wall clock would give each build another digest.
var created = time.Date(2026, 1, 15, 9, 0, 0, 0, time.UTC)

// user runs the programs: nobody in particular, not root.
const user = 65532

// file is an entry of a layer. One whose name ends in a slash is a folder.
type file struct {
	name string // etc/passwd
	mode int64
	data []byte
}

// layer makes a layer of the files, in the order given, and of the folders that they are in.
func layer(files []file) (v1.Layer, error) {
	var buf bytes.Buffer
	archive := tar.NewWriter(&buf)
	written := make(map[string]struct{})
	var add func(f file) error
	add = func(f file) error {
		if _, done := written[f.name]; done {
			return nil
		}
		written[f.name] = struct{}{}
		if parent := path.Dir(strings.TrimSuffix(f.name, "/")); parent != "." {
			if err := add(file{name: parent + "/", mode: 0o755}); err != nil {
				return err
			}
		}
		header := &tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.data)), ModTime: created, Typeflag: tar.TypeReg}
		if strings.HasSuffix(f.name, "/") {
			header.Typeflag = tar.TypeDir
		}
		if err := archive.WriteHeader(header); err != nil {
			return err
		}
		_, err := archive.Write(f.data)
		return err
	}
	for _, f := range files {
		if err := add(f); err != nil {
			return nil, err
		}
	}
	if err := archive.Close(); err != nil {
		return nil, err
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil }
	return tarball.LayerFromOpener(open, tarball.WithMediaType(types.OCILayer), tarball.WithCompressedCaching)
}

// part is a layer and what made it.
type part struct {
	layer v1.Layer
	made  string
}

// image puts layers and configuration together, from scratch.
func image(arch string, config v1.Config, parts ...part) (v1.Image, error) {
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.ConfigFile(img, &v1.ConfigFile{
		OS: "linux", Architecture: arch, Created: v1.Time{Time: created}, Config: config,
		RootFS: v1.RootFS{Type: "layers"},
	})
	if err != nil {
		return nil, err
	}
	for _, p := range parts {
		img, err = mutate.Append(img, mutate.Addendum{
			Layer: p.layer, History: v1.History{Created: v1.Time{Time: created}, CreatedBy: p.made}, MediaType: types.OCILayer,
		})
		if err != nil {
			return nil, err
		}
	}
	return img, nil
}

// index makes one image of the ones that build gives for each architecture.
func index(ctx context.Context, annotations map[string]string, build func(ctx context.Context, arch string) (v1.Image, error)) (v1.ImageIndex, error) {
	idx := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arch := range Architectures() {
		img, err := build(ctx, arch)
		if err != nil {
			return nil, err
		}
		idx = mutate.AppendManifests(idx, mutate.IndexAddendum{
			Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
	}
	return mutate.Annotations(idx, annotations).(v1.ImageIndex), nil
}

func labels(title, version string) map[string]string {
	return map[string]string{
		"org.opencontainers.image.title":   title,
		"org.opencontainers.image.version": version,
		"org.opencontainers.image.source":  "https://github.com/acme/" + title,
	}
}
