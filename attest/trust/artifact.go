package trust

import (
	"context"
	"fmt"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// ArtifactType is of the OCI 1.1 referrer that carries trust metadata beside a bundle index; MediaTypeMetadata is of its
// layers, one for each file, titled with the file's name.
const (
	ArtifactType      = "application/vnd.plimsoll.trust.v1"
	MediaTypeMetadata = "application/vnd.plimsoll.trust.metadata.v1+json"
)

// maxLayers is how many files can travel together.
const maxLayers = MaxRoots + MaxChannels + 3

// Blob is a descriptor with its bytes.
type Blob struct {
	ocispec.Descriptor
	Data []byte
}

// Artifact is a manifest with everything that it names.
type Artifact struct {
	Manifest ocispec.Descriptor // with its artifact type
	Blobs    []Blob             // in the order in which they can be pushed: the manifest is the last
}

// Pack makes the artifact that carries metadata beside a bundle index. The same files and subject give the same bytes. It
// does not judge the metadata.
func Pack(files Files, subject ocispec.Descriptor) (Artifact, error) {
	if err := files.Check(); err != nil {
		return Artifact{}, err
	}
	if err := bundle.CheckDescriptor(subject); err != nil {
		return Artifact{}, fmt.Errorf("pack trust metadata for %s: %w", subject.Digest, err)
	}
	config := newBlob(ocispec.MediaTypeEmptyJSON, []byte("{}"))
	m := ocispec.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    ocispec.MediaTypeImageManifest,
		ArtifactType: ArtifactType,
		Config:       config.Descriptor,
		Layers:       []ocispec.Descriptor{},
		Subject:      &ocispec.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size},
	}
	a := Artifact{Blobs: []Blob{config}}
	pushed := make(map[digest.Digest]struct{})
	for _, name := range files.Names() {
		if len(files[name]) == 0 {
			return Artifact{}, formatErrorf(name, "is empty")
		}
		layer := newBlob(MediaTypeMetadata, files[name])
		if _, dup := pushed[layer.Digest]; !dup {
			pushed[layer.Digest] = struct{}{}
			a.Blobs = append(a.Blobs, layer)
		}
		layer.Annotations = map[string]string{ocispec.AnnotationTitle: name}
		m.Layers = append(m.Layers, layer.Descriptor)
	}
	data, err := strictjson.Marshal(m)
	if err != nil {
		return Artifact{}, fmt.Errorf("pack trust metadata for %s: %w", subject.Digest, err)
	}
	manifest := newBlob(m.MediaType, data)
	manifest.ArtifactType = ArtifactType
	a.Manifest = manifest.Descriptor
	a.Blobs = append(a.Blobs, manifest)
	return a, nil
}

// Unpack reads the artifact back. Number and sizes of the files are bounded before they are read; what is in them is not
// judged. It fails with *FormatError for a manifest that Pack would not have made, and with the errors of
// bundle.ReadBlob.
func Unpack(ctx context.Context, f bundle.Fetcher, manifest ocispec.Descriptor, subject digest.Digest) (Files, error) {
	where := "artifact " + shorten(manifest.Digest.String())
	data, err := bundle.ReadBlob(ctx, f, manifest, bundle.MaxManifest)
	if err != nil {
		return nil, fmt.Errorf("trust metadata of %s: %w", subject, err)
	}
	var m ocispec.Manifest
	if err := strictjson.UnmarshalCanonical(data, &m); err != nil {
		return nil, &FormatError{File: where, Err: err}
	}
	switch {
	case m.MediaType != ocispec.MediaTypeImageManifest || m.ArtifactType != ArtifactType || m.Config.MediaType != ocispec.MediaTypeEmptyJSON:
		return nil, formatErrorf(where, "not an artifact of type %s", ArtifactType)
	case m.Subject == nil || m.Subject.Digest != subject:
		return nil, formatErrorf(where, "does not refer to %s", subject)
	case len(m.Layers) > maxLayers:
		return nil, formatErrorf(where, "%d files, the limit is %d", len(m.Layers), maxLayers)
	}
	files := make(Files, len(m.Layers))
	var total int64
	for _, layer := range m.Layers {
		name := layer.Annotations[ocispec.AnnotationTitle]
		limit := Limit(name)
		total += layer.Size
		switch {
		case layer.MediaType != MediaTypeMetadata || limit == 0:
			return nil, formatErrorf(where, "%s is not the name of a metadata file", shorten(name))
		case files[name] != nil:
			return nil, formatErrorf(where, "%s twice", name)
		case layer.Size < 1 || layer.Size > limit || total > MaxFiles:
			return nil, formatErrorf(where, "%s: %d bytes, %d so far; the limits are %d and %d", name, layer.Size, total, limit, MaxFiles)
		}
		if files[name], err = bundle.ReadBlob(ctx, f, layer, limit); err != nil {
			return nil, fmt.Errorf("trust metadata %s: %w", name, err)
		}
	}
	if err := files.Check(); err != nil {
		return nil, err
	}
	again, err := Pack(files, *m.Subject)
	if err != nil {
		return nil, err
	}
	if again.Manifest.Digest != manifest.Digest {
		return nil, formatErrorf(where, "not in its canonical form")
	}
	return files, nil
}

func newBlob(mediaType string, data []byte) Blob {
	return Blob{
		Descriptor: ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))},
		Data:       data,
	}
}
