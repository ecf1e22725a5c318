// Package bundle is the release format: an OCI image index whose digest covers every byte of a release.
//
// FORMAT.md beside this file is its specification.
package bundle

import (
	"context"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Media types and artifact types of Plimsoll's own documents.
const (
	ArtifactTypeBundle = "application/vnd.plimsoll.bundle.v1+json"
	ArtifactTypeLock   = "application/vnd.plimsoll.lock.v1+json"
	ArtifactTypeGit    = "application/vnd.plimsoll.git.v1+json"
	ArtifactTypeFile   = "application/vnd.plimsoll.file.v1+json"

	MediaTypeLock      = "application/vnd.plimsoll.lock.v1+json" // the first layer of the lock artifact
	MediaTypeGitConfig = "application/vnd.plimsoll.git.config.v1+json"
	MediaTypeGitLayer  = "application/vnd.plimsoll.git.layer.v1" // one `git bundle` file, format v2 or v3
	MediaTypeFileLayer = "application/octet-stream"
	MediaTypeFolder    = "application/vnd.oci.image.layer.v1.tar+gzip"
	MediaTypeSpec      = "application/vnd.plimsoll.spec.v1+yaml" // the second layer of the lock artifact: bundle.yaml

	// MediaTypeIndexLayer is a further layer of the lock artifact: the raw bytes of an image index. As a plain layer it
	// passes tools that cannot copy an index in an index, and registries that refuse one with absent children.
	MediaTypeIndexLayer = "application/vnd.plimsoll.image-index.v1+json"
)

// AnnotationItem is the annotation of a descriptor in the bundle index: the item's name in the lock.
const AnnotationItem = "dev.plimsoll.item"

// ItemLock is the AnnotationItem of the lock artifact.
const ItemLock = "lock"

// Limits, enforced before anything is allocated.
const (
	MaxManifest = 4 << 20  // bytes of an index or a manifest
	MaxLock     = 64 << 20 // bytes
	MaxItems    = 65_536   //
	MaxDepth    = 1        // of indexes in indexes: manifests are the children of the bundle index
	MaxName     = 255      // bytes of a name
	MaxPath     = 1024     // bytes of a path
	MaxGitRefs  = 65_536   // per repository
	MaxBlobs    = 1 << 20  // descriptors in one bundle
)

// Fetcher opens the bytes of a descriptor. What it gives is not verified; ReadBlob and the store verify.
type Fetcher interface {
	// Open fails with an error for which errors.Is(err, fs.ErrNotExist) holds when there is no such blob.
	Open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error)
}

// MissingError says that a bundle names something that its source does not have: the bundle is incomplete.
type MissingError struct {
	Item       string             // the lock's name of the item, if known
	Descriptor ocispec.Descriptor //
	Err        error              // what the source said
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("%sblob %s (%d bytes) is missing", itemPrefix(e.Item), e.Descriptor.Digest, e.Descriptor.Size)
}

func (e *MissingError) Unwrap() error { return e.Err }

// DamagedError says that bytes are not the ones that their digest or size names.
type DamagedError struct {
	Item       string             // the lock's name of the item, if known
	Descriptor ocispec.Descriptor // what was asked for
	Digest     digest.Digest      // what came; empty when the size already differed
	Size       int64              // what came, in bytes; may be less than all when there was too much
}

func (e *DamagedError) Error() string {
	if e.Digest == "" {
		return fmt.Sprintf("%sblob %s is damaged: size %d, want %d", itemPrefix(e.Item), e.Descriptor.Digest, e.Size, e.Descriptor.Size)
	}
	return fmt.Sprintf("%sblob %s is damaged: its bytes hash to %s", itemPrefix(e.Item), e.Descriptor.Digest, e.Digest)
}

func itemPrefix(item string) string {
	if item == "" {
		return ""
	}
	return "item " + item + ": "
}

// CheckDescriptor refuses descriptors that nothing may be read by: no media type, a bad digest, a negative size.
func CheckDescriptor(d ocispec.Descriptor) error {
	if d.MediaType == "" || len(d.MediaType) > MaxName {
		return fmt.Errorf("descriptor %s: media type %q", d.Digest, d.MediaType)
	}
	if err := d.Digest.Validate(); err != nil {
		return fmt.Errorf("descriptor: digest %q: %w", d.Digest, err)
	}
	if d.Size < 0 {
		return fmt.Errorf("descriptor %s: size %d", d.Digest, d.Size)
	}
	return nil
}

// IsManifest reports whether a media type names a document with descriptors in it: an index or a manifest.
func IsManifest(mediaType string) bool { return IsIndex(mediaType) || isImageManifest(mediaType) }

// IsIndex reports whether a media type names an OCI index or a Docker manifest list.
func IsIndex(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == "application/vnd.docker.distribution.manifest.list.v2+json"
}

func isImageManifest(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageManifest || mediaType == "application/vnd.docker.distribution.manifest.v2+json"
}
