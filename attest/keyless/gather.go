package keyless

import (
	"context"
	"errors"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/bundle/media"
	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// search collects what is found beside one subject.
type search struct {
	fetcher  bundle.Fetcher
	subject  digest.Digest
	rule     *rule
	accepted []Signature
	seen     []Finding
	broken   []error // of the fetcher
}

func (s *search) examine(ctx context.Context, ref media.Referrer) {
	form := attest.FormBundle
	if ref.Tag != "" {
		form = attest.FormSimpleSigning
	}
	at := Finding{Manifest: ref.Digest, Form: form}
	raw, err := s.read(ctx, ref.Descriptor, bundle.MaxManifest)
	if err != nil {
		s.note(at, err)
		return
	}
	var m ocispec.Manifest
	if err := strictjson.Unmarshal(raw, &m); err != nil {
		s.note(at, refuse(Malformed, "manifest: %w", err))
		return
	}
	if m.MediaType != ocispec.MediaTypeImageManifest {
		s.note(at, refuse(Malformed, "manifest: media type %q, want %q", m.MediaType, ocispec.MediaTypeImageManifest))
		return
	}
	if form == attest.FormSimpleSigning {
		s.examineLegacy(ctx, at, m)
		return
	}
	if m.ArtifactType != attest.MediaTypeBundle || len(m.Layers) != 1 || m.Layers[0].MediaType != attest.MediaTypeBundle {
		return // some other referrer
	}
	at.Layer = m.Layers[0].Digest
	if m.Subject == nil || m.Subject.Digest != s.subject {
		s.note(at, refuse(Malformed, "the manifest is attached to something else"))
		return
	}
	data, err := s.read(ctx, m.Layers[0], s.limit())
	if err != nil {
		s.note(at, err)
		return
	}
	sig, err := s.judgeBundle(data)
	s.settle(at, sig, err)
}

// examineLegacy looks at every layer of the manifest at the legacy tag: cosign appends a layer per signature.
func (s *search) examineLegacy(ctx context.Context, at Finding, m ocispec.Manifest) {
	if len(m.Layers) > attest.MaxLayers {
		s.note(at, refuse(Malformed, "manifest: %d layers, the limit is %d", len(m.Layers), attest.MaxLayers))
		return
	}
	for _, layer := range m.Layers {
		if layer.MediaType != attest.MediaTypeSimpleSigning {
			continue
		}
		at.Layer = layer.Digest
		payload, err := s.read(ctx, layer, attest.MaxPayload)
		if err != nil {
			s.note(at, err)
			continue
		}
		sig, err := s.judgeLegacy(layer.Annotations, payload)
		s.settle(at, sig, err)
	}
}

// limit of a Sigstore bundle: attestations are larger than signatures.
func (s *search) limit() int64 {
	if s.rule.Predicate == attest.PredicateSign {
		return attest.MaxSignature
	}
	return attest.MaxAttestation
}

func (s *search) settle(at Finding, sig *Signature, err error) {
	if err != nil {
		s.note(at, err)
		return
	}
	sig.Form, sig.Manifest, sig.Layer = at.Form, at.Manifest, at.Layer
	s.accepted = append(s.accepted, *sig)
}

// note keeps a finding, or the error of a fetcher that could not read.
func (s *search) note(at Finding, err error) {
	var bad *refusal
	if !errors.As(err, &bad) {
		s.broken = append(s.broken, err)
		return
	}
	at.Reason, at.Identity, at.Issuer, at.Detail, at.Err = bad.reason, bad.identity, bad.issuer, bad.detail, bad.err
	s.seen = append(s.seen, at)
}

// read separates what is wrong with the bytes, which is a *refusal, from what is wrong with the fetcher.
func (s *search) read(ctx context.Context, desc ocispec.Descriptor, limit int64) ([]byte, error) {
	if err := bundle.CheckDescriptor(desc); err != nil {
		return nil, refuse(Malformed, "%w", err)
	}
	if desc.Size > limit {
		return nil, refuse(Malformed, "blob %s: %d bytes, the limit is %d", desc.Digest, desc.Size, limit)
	}
	data, err := bundle.ReadBlob(ctx, s.fetcher, desc, limit)
	var missing *bundle.MissingError
	var damaged *bundle.DamagedError
	if errors.As(err, &missing) || errors.As(err, &damaged) {
		return nil, refuse(Malformed, "%w", err)
	}
	return data, err
}
