package attest

import (
	"bytes"
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// StatementType is the _type of an in-toto Statement v1.
const StatementType = "https://in-toto.io/Statement/v1"

const maxDigests = 32 // of one subject

// Statement is an in-toto Statement v1 that a trusted key signed.
type Statement struct {
	PredicateType string          // what kind of statement: https://spdx.dev/Document, https://slsa.dev/provenance/v1 …
	Subjects      []Subject       // what it speaks of
	Predicate     json.RawMessage // the bytes as they were signed; nil when the statement has none
	KeyID         string          // of the key that signed it
}

// Subject is one thing that a statement speaks of.
type Subject struct {
	Name   string            `json:"name,omitempty"`
	Digest map[string]string `json:"digest"` // algorithm to lower-case hex
}

// Covers reports whether d is one of the subjects.
func (s *Statement) Covers(d digest.Digest) bool {
	if d.Validate() != nil {
		return false
	}
	return slices.ContainsFunc(s.Subjects, func(sub Subject) bool { return sub.Digest[d.Algorithm().String()] == d.Encoded() })
}

// VerifyAttestation reads the Sigstore bundle that an attestation manifest carries and gives its statement iff one of
// the keys signed it and it speaks of the manifest's subject. It fails with *DeniedError, whose Subject is the
// manifest's subject, or the manifest itself when that could not be read; and with the error of f.
func VerifyAttestation(ctx context.Context, f bundle.Fetcher, manifest ocispec.Descriptor, keys []crypto.PublicKey) (*Statement, error) {
	ring, err := newKeyring(keys)
	if err != nil {
		return nil, fmt.Errorf("verify attestation %s: %w", manifest.Digest, err)
	}
	subject, statement, err := openAttestation(ctx, f, manifest, ring)
	var bad *badEvidence
	if errors.As(err, &bad) {
		s := search{subject: subject, keys: ring}
		s.refuse(manifest.Digest, FormBundle, bad)
		return nil, s.denied()
	}
	if err != nil {
		return nil, fmt.Errorf("verify attestation %s: %w", manifest.Digest, err)
	}
	return statement, nil
}

func openAttestation(ctx context.Context, f bundle.Fetcher, desc ocispec.Descriptor, keys keyring) (digest.Digest, *Statement, error) {
	m, err := readManifest(ctx, f, desc)
	if err != nil {
		return desc.Digest, nil, err
	}
	if !isBundleManifest(m) || m.Subject == nil {
		return desc.Digest, nil, malformed("manifest: artifact type %q, not one Sigstore bundle with a subject", m.ArtifactType)
	}
	subject := m.Subject.Digest
	verified, err := openBundle(ctx, f, m, keys, MaxAttestation)
	if err != nil {
		return subject, nil, err
	}
	st, err := parseStatement(verified.data)
	if err != nil {
		bad := malformed("statement: %w", err)
		bad.keyID = verified.keyID
		return subject, nil, bad
	}
	st.KeyID = verified.keyID
	if !st.Covers(subject) {
		return subject, nil, &badEvidence{reason: WrongSubject, keyID: st.KeyID, predicate: st.PredicateType,
			detail: fmt.Sprintf("key %s signed a statement that does not speak of %s", st.KeyID, subject)}
	}
	return subject, st, nil
}

// checkSignStatement accepts a payload iff it says, of this subject and nothing else, that it is signed.
func checkSignStatement(v *verifiedPayload, m ocispec.Manifest, subject digest.Digest) error {
	st, err := parseStatement(v.data)
	if err != nil {
		bad := malformed("statement: %w", err)
		bad.keyID = v.keyID
		return bad
	}
	if st.PredicateType != PredicateSign {
		return &badEvidence{reason: WrongPredicate, keyID: v.keyID, predicate: st.PredicateType,
			detail: fmt.Sprintf("key %s signed a statement of type %q", v.keyID, st.PredicateType)}
	}
	wrong := &badEvidence{reason: WrongSubject, keyID: v.keyID, predicate: st.PredicateType}
	switch {
	// A release is one digest: with a list, "which of them did they mean to release" has no answer.
	case len(st.Subjects) != 1:
		wrong.detail = fmt.Sprintf("key %s signed %d subjects, want exactly 1", v.keyID, len(st.Subjects))
	case len(st.Subjects[0].Digest) != 1 || !st.Covers(subject):
		wrong.detail = fmt.Sprintf("key %s signed %v", v.keyID, st.Subjects[0].Digest)
	case m.Subject == nil || m.Subject.Digest != subject:
		wrong.detail = "the manifest is attached to something else"
	default:
		return nil
	}
	return wrong
}

// parseStatement reads an in-toto Statement v1 strictly.
func parseStatement(data []byte) (*Statement, error) {
	top, err := object(data, "_type", "subject", "predicateType", "predicate")
	if err != nil {
		return nil, err
	}
	var kind string
	var subjects []json.RawMessage
	st := &Statement{}
	if err := errors.Join(text(top["_type"], &kind), text(top["predicateType"], &st.PredicateType),
		unmarshal(top["subject"], &subjects)); err != nil {
		return nil, err
	}
	switch {
	case kind != StatementType:
		return nil, fmt.Errorf("_type %q, want %q", kind, StatementType)
	case st.PredicateType == "":
		return nil, errors.New("no predicateType")
	case len(subjects) == 0 || len(subjects) > MaxSubjects:
		return nil, fmt.Errorf("%d subjects: want 1 to %d", len(subjects), MaxSubjects)
	}
	for i, raw := range subjects {
		sub, err := parseSubject(raw)
		if err != nil {
			return nil, fmt.Errorf("subject %d: %w", i, err)
		}
		st.Subjects = append(st.Subjects, sub)
	}
	if raw := top["predicate"]; len(raw) > 0 {
		if raw[0] != '{' {
			return nil, errors.New("predicate: not an object")
		}
		st.Predicate = raw
	}
	return st, nil
}

// parseSubject reads an in-toto ResourceDescriptor; of its fields only name and digest are kept, but all are checked.
func parseSubject(raw json.RawMessage) (Subject, error) {
	var sub Subject
	fields, err := object(raw, "name", "digest", "uri", "content", "downloadLocation", "mediaType", "annotations")
	if err != nil {
		return sub, err
	}
	var ignored string
	for name, to := range map[string]*string{"name": &sub.Name, "uri": &ignored, "downloadLocation": &ignored, "mediaType": &ignored} {
		if value, ok := fields[name]; ok {
			if err := text(value, to); err != nil {
				return sub, fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	var content []byte
	if value, ok := fields["content"]; ok {
		if err := unmarshal(value, &content); err != nil {
			return sub, fmt.Errorf("content: %w", err)
		}
	}
	if value, ok := fields["annotations"]; ok && value[0] != '{' {
		return sub, errors.New("annotations: not an object")
	}
	var digests map[string]json.RawMessage
	if err := unmarshal(fields["digest"], &digests); err != nil {
		return sub, fmt.Errorf("digest: %w", err)
	}
	if len(digests) == 0 || len(digests) > maxDigests {
		return sub, fmt.Errorf("%d digests: want 1 to %d", len(digests), maxDigests)
	}
	sub.Digest = make(map[string]string, len(digests))
	for algorithm, value := range digests {
		var hex string
		if err := text(value, &hex); err != nil {
			return sub, fmt.Errorf("digest %s: %w", algorithm, err)
		}
		sub.Digest[algorithm] = hex
	}
	return sub, nil
}

// text decodes a string that must be there. encoding/json replaces a lone surrogate by U+FFFD where other parsers fail.
func text(raw json.RawMessage, s *string) error {
	if err := unmarshal(raw, s); err != nil {
		return err
	}
	if strings.ContainsRune(*s, utf8.RuneError) {
		return errors.New("not a valid Unicode string")
	}
	return nil
}

// unmarshal decodes a value that must be there and must not be null.
func unmarshal(raw json.RawMessage, v any) error {
	if len(raw) == 0 || string(raw) == "null" {
		return errors.New("a value is missing")
	}
	return json.Unmarshal(raw, v)
}

// object splits a JSON object into its fields and refuses names other than those given. encoding/json alone would take
// "Subject" for "subject", so that two verifiers could read two statements in the same signed bytes.
func object(data []byte, names ...string) (map[string]json.RawMessage, error) {
	if err := strictjson.Check(data); err != nil {
		return nil, err
	}
	if data = bytes.TrimSpace(data); data[0] != '{' {
		return nil, errors.New("not an object")
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(data, &fields); err != nil {
		return nil, err
	}
	for name := range fields {
		if !slices.Contains(names, name) {
			return nil, fmt.Errorf("unknown field %q", name)
		}
	}
	return fields, nil
}
