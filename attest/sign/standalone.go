package sign

import (
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"

	"github.com/plimsoll/plimsoll/attest"
)

// SignStatement signs an in-toto Statement v1 that travels alone and gives its line of a statement file
// (*.sigstore.jsonl): a Sigstore bundle v0.3 and a line end. A file with the lines of several signers is what
// attest.MergeStatementFiles makes of theirs. The statement needs at least one subject with a SHA-256 digest as the
// first; its KeyID is not used. It is deterministic, so that signers who agree about the statement sign the same bytes.
func (s *Signer) SignStatement(statement attest.Statement) ([]byte, error) {
	if len(statement.Subjects) == 0 {
		return nil, errors.New("sign statement: no subject")
	}
	first := digest.NewDigestFromEncoded(digest.SHA256, statement.Subjects[0].Digest[digest.SHA256.String()])
	if err := first.Validate(); err != nil {
		return nil, fmt.Errorf("sign statement: subject %q: %w", statement.Subjects[0].Name, err)
	}
	payload, err := encodeStatement(statement, first)
	if err != nil {
		return nil, fmt.Errorf("sign statement of type %q: %w", statement.PredicateType, err)
	}
	return s.line(payload)
}

// Countersign adds this signer's signature to a statement file, over the very bytes that the file carries. It does not
// ask who signed them before: read what attest.PeekStatementFile gives and agree to it first. A second signature by the
// same key changes nothing.
func (s *Signer) Countersign(file []byte) ([]byte, error) {
	_, payload, err := attest.PeekStatementFile(file)
	if err != nil {
		return nil, fmt.Errorf("countersign: %w", err)
	}
	line, err := s.line(payload)
	if err != nil {
		return nil, err
	}
	merged, err := attest.MergeStatementFiles(file, line)
	if err != nil {
		return nil, fmt.Errorf("countersign: %w", err)
	}
	return merged, nil
}

func (s *Signer) line(payload []byte) ([]byte, error) {
	sigstoreBundle, err := s.envelope(payload)
	if err != nil {
		return nil, fmt.Errorf("sign statement: %w", err)
	}
	// What verifiers will not read must not be written.
	if len(sigstoreBundle) > attest.MaxSignature {
		return nil, fmt.Errorf("sign statement: Sigstore bundle of %d bytes, the limit is %d", len(sigstoreBundle), attest.MaxSignature)
	}
	return append(sigstoreBundle, '\n'), nil
}
