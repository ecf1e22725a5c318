package keyless

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	intoto "github.com/in-toto/attestation/go/v1"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// statementType01 is of the attestations that cosign 2 makes. It has the fields of v1 and the same meaning.
const statementType01 = "https://in-toto.io/Statement/v0.1"

// checkStatement accepts a signed statement iff it is of the type that the rule wants and speaks of the subject. read is
// what sigstore-go read in payload. The error is a *refusal.
func (s *search) checkStatement(payload []byte, read *intoto.Statement, who string) error {
	// protojson takes other spellings of the names, for which other verifiers would read another statement.
	if _, err := object(payload, "_type", "subject", "predicateType", "predicate"); err != nil {
		return refuse(Malformed, "statement: %w", err)
	}
	subjects := read.GetSubject()
	switch {
	case read.GetType() != attest.StatementType && (read.GetType() != statementType01 || s.rule.Predicate == attest.PredicateSign):
		return refuse(Malformed, "statement: _type %q, want %q", read.GetType(), attest.StatementType)
	case len(subjects) == 0 || len(subjects) > attest.MaxSubjects:
		return refuse(Malformed, "statement: %d subjects, want 1 to %d", len(subjects), attest.MaxSubjects)
	case read.GetPredicateType() != s.rule.Predicate:
		return refuse(WrongPredicate, "%s signed a statement of type %q, want %q", who, read.GetPredicateType(), s.rule.Predicate)
	case s.rule.Predicate == attest.PredicateSign && len(subjects) != 1:
		// A signature is for one manifest: with a list, "which of them did they mean" has no answer.
		return refuse(WrongSubject, "%s signed %d subjects, want exactly 1", who, len(subjects))
	}
	algorithm, hex := s.subject.Algorithm().String(), s.subject.Encoded()
	covers := func(d *intoto.ResourceDescriptor) bool { return d.GetDigest()[algorithm] == hex }
	if !slices.ContainsFunc(subjects, covers) {
		return refuse(WrongSubject, "%s signed %v", who, subjects[0].GetDigest())
	}
	if s.rule.Predicate == attest.PredicateSign && len(subjects[0].GetDigest()) != 1 {
		return refuse(WrongSubject, "%s signed %d digests in one subject, want exactly 1", who, len(subjects[0].GetDigest()))
	}
	return nil
}

// object splits a JSON object into its fields and refuses names other than those given. encoding/json alone would take
// "Payload" for "payload".
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
