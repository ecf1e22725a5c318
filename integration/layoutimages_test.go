package integration

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// layoutImages writes an OCI layout of small images, all of whose blobs are their own.
func layoutImages(t testing.TB, dir, seed string, images int) {
	t.Helper()
	put := func(mediaType string, data []byte) ocispec.Descriptor {
		desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
		path := filepath.Join(dir, "blobs", "sha256", desc.Digest.Encoded())
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, data, 0o644)); err != nil {
			t.Fatal(err)
		}
		return desc
	}
	object := func(mediaType string, v any) ocispec.Descriptor {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return put(mediaType, data)
	}
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for i := range images {
		var layers []ocispec.Descriptor
		config := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}}
		config.RootFS.Type = "layers"
		for j := range 4 {
			var layer bytes.Buffer
			content := fmt.Sprintf("%s %d %d\n", seed, i, j)
			tw := tar.NewWriter(&layer)
			err := tw.WriteHeader(&tar.Header{Name: "opt/app", Mode: 0o644, Size: int64(len(content))})
			if err == nil {
				_, err = tw.Write([]byte(content))
			}
			if err := errors.Join(err, tw.Close()); err != nil {
				t.Fatal(err)
			}
			layers = append(layers, put(ocispec.MediaTypeImageLayer, layer.Bytes()))
			config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, layers[j].Digest)
		}
		manifest := object(ocispec.MediaTypeImageManifest, ocispec.Manifest{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
			Config: object(ocispec.MediaTypeImageConfig, config), Layers: layers,
		})
		manifest.Annotations = map[string]string{ocispec.AnnotationRefName: fmt.Sprintf("app-%02d", i)}
		index.Manifests = append(index.Manifests, manifest)
	}
	data, err := json.Marshal(index)
	if err == nil {
		err = errors.Join(os.WriteFile(filepath.Join(dir, "index.json"), data, 0o644),
			os.WriteFile(filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644))
	}
	if err != nil {
		t.Fatal(err)
	}
}
