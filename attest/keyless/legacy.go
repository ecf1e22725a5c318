package keyless

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	sigstore "github.com/sigstore/sigstore-go/pkg/bundle"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// Annotations of a simple-signing layer that is signed with a certificate, as cosign 1 and 2 write them. A third,
// dev.sigstore.cosign/chain, is not read: who may vouch for a certificate is said by the trusted root alone.
const (
	AnnotationCertificate = "dev.sigstore.cosign/certificate"      // PEM
	AnnotationBundle      = "dev.sigstore.cosign/bundle"           // JSON: the log's entry and its signed entry timestamp
	AnnotationTimestamp   = "dev.sigstore.cosign/rfc3161timestamp" // JSON: an RFC 3161 timestamp
)

// Limits of the annotations, in bytes.
const (
	maxSignatureText = 4 << 10
	maxCertificate   = 64 << 10
	maxLogBundle     = 256 << 10
	maxTimestamp     = 64 << 10
)

// mediaTypeLegacy is the version of the Sigstore bundle that holds what the annotations hold: a log entry with a signed
// promise and without a proof.
const mediaTypeLegacy = "application/vnd.dev.sigstore.bundle+json;version=0.1"

const simpleSigningType = "cosign container image signature"

// judgeLegacy judges a simple-signing payload by the annotations beside it. They are not signed, each may be of another
// signature; what belongs together is found out by verifying.
func (s *search) judgeLegacy(annotations map[string]string, payload []byte) (*Signature, error) {
	b, err := legacyBundle(annotations, payload)
	if err != nil {
		return nil, err
	}
	if s.rule.Log == LogProof {
		return nil, refuse(NoLogEntry, "the legacy form has no inclusion proof, which the rule wants")
	}
	sig, err := s.judge(b, payload)
	if err != nil {
		return nil, err
	}
	bad := func(reason Reason, format string, args ...any) error {
		r := refuse(reason, format, args...)
		r.identity, r.issuer = sig.Identity, sig.Issuer
		return r
	}
	if s.rule.Predicate != attest.PredicateSign {
		return nil, bad(WrongPredicate, "%s made a signature, not a statement of type %q", sig.Identity, s.rule.Predicate)
	}
	named, err := parsePayload(payload)
	if err != nil {
		return nil, bad(Malformed, "payload: %w", err)
	}
	if named != s.subject {
		return nil, bad(WrongSubject, "%s signed %s", sig.Identity, named)
	}
	return sig, nil
}

// legacyBundle makes a Sigstore bundle of a payload and its annotations. The error is a *refusal.
func legacyBundle(annotations map[string]string, payload []byte) (*sigstore.Bundle, error) {
	text := annotations[attest.AnnotationSignature]
	if len(text) > maxSignatureText {
		return nil, refuse(Malformed, "annotation %s: %d bytes, the limit is %d", attest.AnnotationSignature, len(text), maxSignatureText)
	}
	signature, err := decode64(text)
	if err != nil {
		return nil, refuse(Malformed, "annotation %s: %w", attest.AnnotationSignature, err)
	}
	certificate, written := annotations[AnnotationCertificate]
	if !written {
		return nil, refuse(NotKeyless, "signed with a key, not with a certificate")
	}
	der, err := parseCertificate(certificate)
	if err != nil {
		return nil, refuse(Malformed, "annotation %s: %w", AnnotationCertificate, err)
	}
	material := &protobundle.VerificationMaterial{
		Content: &protobundle.VerificationMaterial_Certificate{Certificate: &protocommon.X509Certificate{RawBytes: der}},
	}
	if written, ok := annotations[AnnotationBundle]; ok {
		entry, err := parseLogBundle(written)
		if err != nil {
			return nil, refuse(Malformed, "annotation %s: %w", AnnotationBundle, err)
		}
		material.TlogEntries = []*protorekor.TransparencyLogEntry{entry}
	}
	if written, ok := annotations[AnnotationTimestamp]; ok {
		timestamp, err := parseTimestamp(written)
		if err != nil {
			return nil, refuse(Malformed, "annotation %s: %w", AnnotationTimestamp, err)
		}
		material.TimestampVerificationData = &protobundle.TimestampVerificationData{
			Rfc3161Timestamps: []*protocommon.RFC3161SignedTimestamp{{SignedTimestamp: timestamp}},
		}
	}
	sum := sha256.Sum256(payload)
	b, err := sigstore.NewBundle(&protobundle.Bundle{
		MediaType:            mediaTypeLegacy,
		VerificationMaterial: material,
		Content: &protobundle.Bundle_MessageSignature{MessageSignature: &protocommon.MessageSignature{
			MessageDigest: &protocommon.HashOutput{Algorithm: protocommon.HashAlgorithm_SHA2_256, Digest: sum[:]},
			Signature:     signature,
		}},
	})
	if err != nil {
		return nil, refuse(Malformed, "annotations: %w", err)
	}
	return b, nil
}

// parseCertificate reads exactly one PEM certificate with nothing around it, and gives its DER.
func parseCertificate(text string) ([]byte, error) {
	if len(text) > maxCertificate {
		return nil, fmt.Errorf("%d bytes, the limit is %d", len(text), maxCertificate)
	}
	trimmed := bytes.TrimSpace([]byte(text))
	block, rest := pem.Decode(trimmed)
	switch {
	case block == nil || !bytes.HasPrefix(trimmed, []byte("-----BEGIN CERTIFICATE-----")) || block.Type != "CERTIFICATE" || len(block.Headers) > 0:
		return nil, errors.New("not a PEM certificate")
	case len(bytes.TrimSpace(rest)) > 0:
		return nil, errors.New("more than one certificate")
	}
	return block.Bytes, nil
}

// parseLogBundle reads cosign's RekorBundle: an entry with the log's promise to include it.
func parseLogBundle(text string) (*protorekor.TransparencyLogEntry, error) {
	if len(text) > maxLogBundle {
		return nil, fmt.Errorf("%d bytes, the limit is %d", len(text), maxLogBundle)
	}
	top, err := object([]byte(text), "SignedEntryTimestamp", "Payload")
	if err != nil {
		return nil, err
	}
	payload, err := object(top["Payload"], "body", "integratedTime", "logIndex", "logID")
	if err != nil {
		return nil, fmt.Errorf("payload: %w", err)
	}
	var promise, body, logID string
	var integrated, index int64
	for name, field := range map[string]struct {
		raw json.RawMessage
		to  any
	}{
		"SignedEntryTimestamp": {top["SignedEntryTimestamp"], &promise}, "body": {payload["body"], &body}, "logID": {payload["logID"], &logID},
		"integratedTime": {payload["integratedTime"], &integrated}, "logIndex": {payload["logIndex"], &index},
	} {
		if len(field.raw) == 0 || string(field.raw) == "null" {
			return nil, fmt.Errorf("no %s", name)
		}
		if err := json.Unmarshal(field.raw, field.to); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	set, err := decode64(promise)
	if err != nil {
		return nil, fmt.Errorf("SignedEntryTimestamp: %w", err)
	}
	// The log signed the text of the body: of two texts for the same bytes only one can be verified.
	canonical, err := decode64(body)
	if err != nil {
		return nil, fmt.Errorf("body: %w", err)
	}
	id, err := hex.DecodeString(logID)
	if err != nil || hex.EncodeToString(id) != logID || len(id) != sha256.Size {
		return nil, fmt.Errorf("logID %.80q, want %d lower-case hex digits", logID, 2*sha256.Size)
	}
	var kind struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
	}
	if err := strictjson.Unmarshal(canonical, &kind); err != nil {
		return nil, fmt.Errorf("body: %w", err)
	}
	return &protorekor.TransparencyLogEntry{
		LogIndex:          index,
		LogId:             &protocommon.LogId{KeyId: id},
		KindVersion:       &protorekor.KindVersion{Kind: kind.Kind, Version: kind.APIVersion},
		IntegratedTime:    integrated,
		InclusionPromise:  &protorekor.InclusionPromise{SignedEntryTimestamp: set},
		CanonicalizedBody: canonical,
	}, nil
}

// parseTimestamp reads cosign's RFC3161Timestamp.
func parseTimestamp(text string) ([]byte, error) {
	if len(text) > maxTimestamp {
		return nil, fmt.Errorf("%d bytes, the limit is %d", len(text), maxTimestamp)
	}
	top, err := object([]byte(text), "SignedRFC3161Timestamp")
	if err != nil {
		return nil, err
	}
	var encoded string
	if err := json.Unmarshal(top["SignedRFC3161Timestamp"], &encoded); err != nil {
		return nil, fmt.Errorf("SignedRFC3161Timestamp: %w", err)
	}
	return decode64(encoded)
}

// parsePayload gives the digest that a verified simple-signing payload names: containers-signature(5) with cosign's type.
func parsePayload(payload []byte) (digest.Digest, error) {
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
	if err := errors.Join(json.Unmarshal(critical["type"], &kind), json.Unmarshal(image["docker-manifest-digest"], &named)); err != nil {
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

// decode64 reads standard base64 with padding, which has one spelling for the same bytes.
func decode64(text string) ([]byte, error) {
	if text == "" {
		return nil, errors.New("empty")
	}
	if i := bytes.IndexAny([]byte(text), "\r\n"); i >= 0 {
		return nil, base64.CorruptInputError(i)
	}
	return base64.StdEncoding.Strict().DecodeString(text)
}
