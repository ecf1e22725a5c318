package attest

import (
	"context"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// PredicateHint says what kind of statement a manifest claims to carry, by its annotation; "" when it is not a Sigstore
// bundle. Nothing of it is signed: it only tells which manifests are worth a VerifyAttestation.
func PredicateHint(ctx context.Context, f bundle.Fetcher, manifest ocispec.Descriptor) (string, error) {
	raw, err := bundle.ReadBlob(ctx, f, manifest, bundle.MaxManifest)
	if err != nil {
		return "", err
	}
	var m ocispec.Manifest
	if err := strictjson.Unmarshal(raw, &m); err != nil {
		return "", err
	}
	if m.ArtifactType != MediaTypeBundle {
		return "", nil
	}
	return m.Annotations[AnnotationPredicateType], nil
}
