package attest

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// simpleSigningType is the value of critical.type that cosign writes.
const simpleSigningType = "cosign container image signature"

// examineSimpleSigning looks at every layer of the manifest at the legacy tag: cosign appends a layer per signature.
func (s *search) examineSimpleSigning(ctx context.Context, manifest digest.Digest, m ocispec.Manifest) {
	if len(m.Layers) > MaxLayers {
		s.refuse(manifest, FormSimpleSigning, malformed("manifest: %d layers, the limit is %d", len(m.Layers), MaxLayers))
		return
	}
	for _, layer := range m.Layers {
		if layer.MediaType != MediaTypeSimpleSigning {
			continue
		}
		keyID, err := s.verifySimpleSigning(ctx, layer)
		if err != nil {
			s.refuse(manifest, FormSimpleSigning, err)
			continue
		}
		s.accepted = append(s.accepted, Signature{KeyID: keyID, Form: FormSimpleSigning, Manifest: manifest})
	}
}

func (s *search) verifySimpleSigning(ctx context.Context, layer ocispec.Descriptor) (keyID string, err error) {
	sig, err := base64.StdEncoding.Strict().DecodeString(layer.Annotations[AnnotationSignature])
	if err != nil {
		return "", malformed("simple signing: annotation %s: %w", AnnotationSignature, err)
	}
	if len(sig) == 0 {
		return "", malformed("simple signing: no annotation %s", AnnotationSignature)
	}
	payload, err := readBounded(ctx, s.fetcher, layer, MaxPayload)
	if err != nil {
		return "", err
	}
	for _, k := range s.keys {
		if k.verifier.VerifySignature(bytes.NewReader(sig), bytes.NewReader(payload)) != nil {
			continue
		}
		got, err := parseSimpleSigning(payload)
		if err != nil {
			bad := malformed("simple signing: payload: %w", err)
			bad.keyID = k.id
			return "", bad
		}
		if got != s.subject {
			return "", &badEvidence{reason: WrongSubject, keyID: k.id, detail: fmt.Sprintf("key %s signed %s", k.id, got)}
		}
		return k.id, nil
	}
	return "", &badEvidence{reason: UnknownKey, detail: "not by a trusted key"}
}

// parseSimpleSigning gives the digest that a verified payload names. The format is containers-signature(5) with the
// type that cosign uses; "optional" is ignored.
func parseSimpleSigning(payload []byte) (digest.Digest, error) {
	top, err := object(payload, "critical", "optional")
	if err != nil {
		return "", err
	}
	critical, err := object(top["critical"], "identity", "image", "type")
	if err != nil {
		return "", fmt.Errorf("critical: %w", err)
	}
	image, err := object(critical["image"], "docker-manifest-digest")
	if err != nil {
		return "", fmt.Errorf("critical.image: %w", err)
	}
	var kind, named string
	if err := errors.Join(text(critical["type"], &kind), text(image["docker-manifest-digest"], &named)); err != nil {
		return "", fmt.Errorf("critical: %w", err)
	}
	if kind != simpleSigningType {
		return "", fmt.Errorf("critical.type %q, want %q", kind, simpleSigningType)
	}
	d, err := digest.Parse(named)
	if err != nil {
		return "", fmt.Errorf("critical.image.docker-manifest-digest %q: %w", named, err)
	}
	return d, nil
}
