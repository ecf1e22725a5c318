package attest

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	sigstore "github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/verify"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// verifiedPayload is what a trusted key signed.
type verifiedPayload struct {
	keyID string
	data  []byte // an in-toto statement, not yet parsed
}

// isBundleManifest reports whether a manifest carries one Sigstore bundle v0.3, as cosign attaches it.
func isBundleManifest(m ocispec.Manifest) bool {
	return m.ArtifactType == MediaTypeBundle && len(m.Layers) == 1 && m.Layers[0].MediaType == MediaTypeBundle
}

// openBundle reads the Sigstore bundle of a manifest and gives its payload iff one of the keys signed it.
func openBundle(ctx context.Context, f bundle.Fetcher, m ocispec.Manifest, keys keyring, limit int64) (*verifiedPayload, error) {
	data, err := readBounded(ctx, f, m.Layers[0], limit)
	if err != nil {
		return nil, err
	}
	return verifyBundle(data, keys)
}

// verifyBundle parses a Sigstore bundle and gives the payload of its envelope iff one of the keys signed it. Every
// error is *badEvidence.
func verifyBundle(data []byte, keys keyring) (*verifiedPayload, error) {
	if err := strictjson.Check(data); err != nil {
		return nil, malformed("sigstore bundle: %w", err)
	}
	var b sigstore.Bundle
	if err := b.UnmarshalJSON(data); err != nil {
		return nil, malformed("sigstore bundle: %w", err)
	}
	if b.MediaType != MediaTypeBundle {
		return nil, malformed("sigstore bundle: media type %q, want %q", b.MediaType, MediaTypeBundle)
	}
	envelope, err := b.Envelope()
	if err != nil {
		return nil, malformed("sigstore bundle: %w", err)
	}
	// The Sigstore bundle specification allows exactly one. With more, verifiers differ in which of them they check.
	if n := len(envelope.Signatures); n != 1 {
		return nil, malformed("sigstore bundle: %d signatures, want exactly 1", n)
	}
	if envelope.PayloadType != PayloadTypeInToto {
		return nil, malformed("sigstore bundle: payload type %q, want %q", envelope.PayloadType, PayloadTypeInToto)
	}
	material, err := b.VerificationContent()
	if err != nil {
		return nil, malformed("sigstore bundle: %w", err)
	}
	hint := material.PublicKey()
	if hint == nil {
		return nil, &badEvidence{reason: UnknownKey, detail: "signed with a certificate, not with a key"}
	}
	payload, err := envelope.DecodeB64Payload()
	if err != nil {
		return nil, malformed("sigstore bundle: payload: %w", err)
	}
	for _, k := range keys {
		if verify.VerifySignature(envelope, material, k.material) == nil {
			return &verifiedPayload{keyID: k.id, data: payload}, nil
		}
	}
	return nil, &badEvidence{reason: UnknownKey, detail: fmt.Sprintf("not by a trusted key (its key hint: %q)", hint.Hint())}
}

// checkBundleForm refuses what protojson reads but other parsers read differently or not at all: unknown or snake-case
// names, and base64 in another alphabet, without padding or with line ends, of which many spell the same signed bytes. It
// gives the payload of the envelope, whose signature is still to be verified. Every error is *badEvidence.
func checkBundleForm(data []byte) ([]byte, error) {
	top, err := object(data, "mediaType", "verificationMaterial", "dsseEnvelope")
	if err != nil {
		return nil, malformed("sigstore bundle: %w", err)
	}
	if _, err := object(top["verificationMaterial"], "publicKey", "certificate", "x509CertificateChain", "tlogEntries",
		"timestampVerificationData"); err != nil {
		return nil, malformed("sigstore bundle: verificationMaterial: %w", err)
	}
	envelope, err := object(top["dsseEnvelope"], "payload", "payloadType", "signatures")
	if err != nil {
		return nil, malformed("sigstore bundle: dsseEnvelope: %w", err)
	}
	payload, err := strictBase64(envelope["payload"])
	if err != nil {
		return nil, malformed("sigstore bundle: payload: %w", err)
	}
	var signatures []json.RawMessage
	if err := unmarshal(envelope["signatures"], &signatures); err != nil {
		return nil, malformed("sigstore bundle: signatures: %w", err)
	}
	if n := len(signatures); n != 1 {
		return nil, malformed("sigstore bundle: %d signatures, want exactly 1", n)
	}
	signature, err := object(signatures[0], "sig", "keyid")
	if err != nil {
		return nil, malformed("sigstore bundle: signature: %w", err)
	}
	if _, err := strictBase64(signature["sig"]); err != nil {
		return nil, malformed("sigstore bundle: signature: %w", err)
	}
	return payload, nil
}

// strictBase64 decodes a JSON string in standard base64 with padding, which has one spelling for the same bytes. JSON's
// own escapes would be a second one.
func strictBase64(raw json.RawMessage) ([]byte, error) {
	if len(raw) < 2 || raw[0] != '"' {
		return nil, errors.New("not a string")
	}
	text := raw[1 : len(raw)-1]
	if i := bytes.IndexAny(text, "\r\n\\"); i >= 0 {
		return nil, base64.CorruptInputError(i)
	}
	if len(text) == 0 {
		return nil, errors.New("empty")
	}
	return base64.StdEncoding.Strict().AppendDecode(nil, text)
}
