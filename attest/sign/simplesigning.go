package sign

import (
	"context"
	"crypto"
	"encoding/base64"
	"fmt"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sigstore/sigstore/pkg/signature/payload"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// simpleSigning writes the manifest of `cosign sign` before bundles, as cosign 2.6 does: the layers that are there, and
// one more by each signer, all of them with the same payload.
func simpleSigning(subject ocispec.Descriptor, repository string, signers Signers, there []ocispec.Descriptor) (Artifact, error) {
	message, err := strictjson.Marshal(payload.SimpleContainerImage{
		Critical: payload.Critical{
			Identity: payload.Identity{DockerReference: repository},
			Image:    payload.Image{DockerManifestDigest: subject.Digest.String()},
			Type:     payload.CosignSignatureType,
		},
	})
	if err != nil {
		return Artifact{}, err
	}
	if n := len(there) + len(signers); n > attest.MaxLayers {
		return Artifact{}, fmt.Errorf("%d signatures at the tag %s, the limit is %d", n, attest.LegacyTag(subject.Digest), attest.MaxLayers)
	}
	signed := newBlob(attest.MediaTypeSimpleSigning, message)
	layers := append([]ocispec.Descriptor(nil), there...)
	for _, s := range signers {
		sig, err := s.sign(message)
		if err != nil {
			return Artifact{}, err
		}
		layer := signed.Descriptor
		layer.Annotations = map[string]string{attest.AnnotationSignature: base64.StdEncoding.EncodeToString(sig)}
		layers = append(layers, layer)
	}
	if len(layers) == 1 {
		signed.Descriptor = layers[0] // the blob of a single signature carries it
	}
	config, err := simpleSigningConfig(layers)
	if err != nil {
		return Artifact{}, err
	}
	a, err := newArtifact(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    config.Descriptor,
		Layers:    layers,
	}, config, signed)
	a.Tag = attest.LegacyTag(subject.Digest)
	return a, err
}

// simpleSigningConfig is the image config that go-containerregistry, and so cosign, makes up for signatures. Its times
// are the zero time.
func simpleSigningConfig(layers []ocispec.Descriptor) (Blob, error) {
	type history struct {
		Created string `json:"created"`
	}
	type rootFS struct {
		Type    string          `json:"type"`
		DiffIDs []digest.Digest `json:"diff_ids"`
	}
	const never = "0001-01-01T00:00:00Z"
	diffIDs, made := make([]digest.Digest, len(layers)), make([]history, len(layers))
	for i, layer := range layers {
		diffIDs[i], made[i].Created = layer.Digest, never
	}
	data, err := strictjson.Marshal(struct {
		Architecture string    `json:"architecture"`
		Created      string    `json:"created"`
		History      []history `json:"history"`
		OS           string    `json:"os"`
		RootFS       rootFS    `json:"rootfs"`
		Config       struct{}  `json:"config"`
	}{
		Created: never,
		History: made,
		RootFS:  rootFS{Type: "layers", DiffIDs: diffIDs},
	})
	if err != nil {
		return Blob{}, err
	}
	return newBlob(ocispec.MediaTypeImageConfig, data), nil
}

// legacyLayers are those of the manifest at a subject's legacy tag; none when there is no such manifest. One that is not
// understood is an error: what replaces it would drop what somebody signed.
func legacyLayers(ctx context.Context, ev attest.Evidence, subject ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	refs, err := ev.Referrers(ctx, subject.Digest)
	if err != nil {
		return nil, err
	}
	tag := attest.LegacyTag(subject.Digest)
	for _, ref := range refs {
		if ref.Tag != tag {
			continue
		}
		raw, err := bundle.ReadBlob(ctx, ev, ref.Descriptor, bundle.MaxManifest)
		var m ocispec.Manifest
		if err == nil {
			err = strictjson.Unmarshal(raw, &m)
		}
		if err == nil && (m.MediaType != ocispec.MediaTypeImageManifest || m.ArtifactType != "" || m.Subject != nil || len(m.Annotations) > 0) {
			err = fmt.Errorf("not a manifest as cosign writes it: media type %q, artifact type %q", m.MediaType, m.ArtifactType)
		}
		if err != nil {
			return nil, fmt.Errorf("the signatures at the tag %s: %w", tag, err)
		}
		return m.Layers, nil
	}
	return nil, nil
}

func keysOf(signers ...*Signer) []crypto.PublicKey {
	keys := make([]crypto.PublicKey, len(signers))
	for i, s := range signers {
		keys[i] = s.Public()
	}
	return keys
}
