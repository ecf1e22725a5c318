package attest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
)

// ExtensionStatementFile is how the name of a statement file ends. A statement file lets a statement travel alone, for
// example a revocation on a stick: JSON lines, each a Sigstore bundle v0.3 with one signature, all over the same payload.
const ExtensionStatementFile = ".sigstore.jsonl"

// Limits of a statement file.
const (
	MaxStatementFile  = 32 << 20 // bytes
	MaxStatementLines = MaxKeys  // more signatures than trusted keys cannot count
)

// StatementFileError says why bytes are no statement file.
type StatementFileError struct {
	Line   int // from 1; 0 for the whole file
	Reason string
	Err    error // the cause, if there is one
}

func (e *StatementFileError) Error() string {
	text := "statement file: "
	if e.Line > 0 {
		text += fmt.Sprintf("line %d: ", e.Line)
	}
	return text + e.Reason
}

func (e *StatementFileError) Unwrap() error { return e.Err }

// VerifyStatementFile gives the statement of a statement file with those who signed it, as FindStatements does for what
// stands beside a subject: at most one is found. A file that is damaged or in another form, or whose lines carry different
// payloads, is refused whole with *StatementFileError; lines by other keys are findings. What the statement speaks of is
// for the caller to compare.
func VerifyStatementFile(data []byte, q StatementQuery) (*Statements, error) {
	c, err := newCollector(q)
	if err != nil {
		return nil, fmt.Errorf("verify statement file: %w", err)
	}
	lines, _, err := splitStatementFile(data, q.maxBytes())
	if err != nil {
		return nil, err
	}
	for i, line := range lines {
		sig := Signature{Form: FormFile, Manifest: digest.FromBytes(line)}
		if err := c.take(line, sig, func(*Statement) string { return "" }); err != nil {
			c.refuse(sig.Manifest, FormFile, err)
			c.seen[len(c.seen)-1].Line = i + 1 // nothing is fetched: every error is a finding
		}
	}
	return c.result(), nil
}

// PeekStatementFile gives the payload of a statement file, and what it says, without asking who signed it: to show it, or
// to sign the same bytes with a further key. It fails with *StatementFileError.
func PeekStatementFile(data []byte) (*Statement, []byte, error) {
	_, payload, err := splitStatementFile(data, MaxSignature)
	if err != nil {
		return nil, nil, err
	}
	st, err := parseStatement(payload)
	if err != nil {
		return nil, nil, &StatementFileError{Reason: "statement: " + err.Error(), Err: err}
	}
	return st, payload, nil
}

// MergeStatementFiles makes one file of several that carry the same payload, signed on different machines: each line
// once, sorted. It verifies no signature. It fails with *StatementFileError.
func MergeStatementFiles(files ...[]byte) ([]byte, error) {
	var all, first [][]byte
	var payload []byte
	for _, data := range files {
		lines, p, err := splitStatementFile(data, MaxSignature)
		if err != nil {
			return nil, err
		}
		if first == nil {
			first, payload = lines, p
		}
		if !bytes.Equal(p, payload) {
			return nil, &StatementFileError{Reason: "the files carry different statements"}
		}
		all = append(all, lines...)
	}
	slices.SortFunc(all, bytes.Compare)
	all = slices.CompactFunc(all, bytes.Equal)
	switch {
	case len(all) == 0:
		return nil, &StatementFileError{Reason: "nothing to merge"}
	case len(all) > MaxStatementLines:
		return nil, &StatementFileError{Reason: fmt.Sprintf("%d signatures, the limit is %d", len(all), MaxStatementLines)}
	}
	merged := append(bytes.Join(all, []byte("\n")), '\n')
	if len(merged) > MaxStatementFile {
		return nil, &StatementFileError{Reason: fmt.Sprintf("%d bytes, the limit is %d", len(merged), MaxStatementFile)}
	}
	return merged, nil
}

// splitStatementFile gives the lines of a statement file, without their ends, and the payload that all of them carry.
func splitStatementFile(data []byte, maxLine int64) (lines [][]byte, payload []byte, err error) {
	switch {
	case len(data) > MaxStatementFile:
		return nil, nil, &StatementFileError{Reason: fmt.Sprintf("%d bytes, the limit is %d", len(data), MaxStatementFile)}
	case len(data) == 0:
		return nil, nil, &StatementFileError{Reason: "empty"}
	case data[len(data)-1] != '\n':
		return nil, nil, &StatementFileError{Reason: "the last line does not end: the file is cut off"}
	case bytes.Count(data, []byte("\n")) > MaxStatementLines:
		return nil, nil, &StatementFileError{Reason: fmt.Sprintf("more than %d lines", MaxStatementLines)}
	}
	for line := range bytes.Lines(data) {
		n := len(lines) + 1
		line = line[:len(line)-1]
		// Other white space would make two files of one: JSON allows it around a value.
		if len(line) == 0 || line[0] != '{' || line[len(line)-1] != '}' {
			return nil, nil, &StatementFileError{Line: n, Reason: "not a JSON object and nothing else"}
		}
		if int64(len(line)) > maxLine {
			return nil, nil, &StatementFileError{Line: n, Reason: fmt.Sprintf("%d bytes, the limit is %d", len(line), maxLine)}
		}
		carried, err := checkBundleForm(line)
		if err != nil {
			var bad *badEvidence
			errors.As(err, &bad)
			return nil, nil, &StatementFileError{Line: n, Reason: bad.detail, Err: bad.err}
		}
		if n == 1 {
			payload = carried
		}
		if !bytes.Equal(carried, payload) {
			return nil, nil, &StatementFileError{Line: n, Reason: "another payload than line 1 carries"}
		}
		lines = append(lines, line)
	}
	return lines, payload, nil
}
