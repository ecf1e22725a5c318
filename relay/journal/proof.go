package journal

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/plimsoll/plimsoll/internal/strictjson"
)

const (
	proofVersion = "plimsoll.journal-proof.v1"

	// MaxProof bounds a proof, in bytes of JSON.
	MaxProof = MaxRecord + 4*MaxCheckpoint

	maxProofHashes = 128 // a path in a tree of at most 2^63 leaves; consistency takes up to two
)

// Proof proves to somebody who has the relay's public key and no journal that a record is in it, or that it goes on from
// what it was at an older checkpoint. It is a document of its own.
type Proof struct {
	APIVersion string          `json:"apiVersion"`
	Record     json.RawMessage `json:"record,omitempty"` // the record's very bytes; or
	Older      string          `json:"older,omitempty"`  // the older checkpoint
	Hashes     []tlog.Hash     `json:"hashes"`           // RFC 6962: audit path, or consistency proof
	Checkpoint string          `json:"checkpoint"`
}

// Proven is what a proof proves.
type Proven struct {
	Record     *Entry      // is in the journal; or
	Older      *Checkpoint // is what the journal once was
	Checkpoint Checkpoint
}

// ProofError says why a proof proves nothing.
type ProofError struct{ Reason string }

func (e *ProofError) Error() string { return "proof: " + e.Reason }

// ParseProof reads a proof. It does not verify it. The error is a *ProofError.
func ParseProof(data []byte) (*Proof, error) {
	if len(data) > MaxProof {
		return nil, &ProofError{fmt.Sprintf("more than %d bytes", MaxProof)}
	}
	var p Proof
	if err := strictjson.UnmarshalCanonical(data, &p); err != nil {
		return nil, &ProofError{err.Error()}
	}
	switch {
	case p.APIVersion != proofVersion:
		return nil, &ProofError{fmt.Sprintf("apiVersion %.80q, want %q", p.APIVersion, proofVersion)}
	case (p.Record == nil) == (p.Older == ""):
		return nil, &ProofError{"want a record or an older checkpoint"}
	case len(p.Hashes) > maxProofHashes:
		return nil, &ProofError{fmt.Sprintf("%d hashes, want %d at most", len(p.Hashes), maxProofHashes)}
	}
	return &p, nil
}

// Marshal gives the document, in its one form.
func (p *Proof) Marshal() ([]byte, error) { return strictjson.Marshal(p) }

// Verify verifies the proof with the relay's key. Errors are *ProofError and *CheckpointError.
func (p *Proof) Verify(key ed25519.PublicKey) (Proven, error) {
	c, err := ParseCheckpoint([]byte(p.Checkpoint), key)
	if err != nil {
		return Proven{}, err
	}
	proven := Proven{Checkpoint: c}
	if p.Older != "" {
		older, err := ParseCheckpoint([]byte(p.Older), key)
		if err != nil {
			return Proven{}, fmt.Errorf("older %w", err)
		}
		proven.Older = &older
		return proven, checkConsistency(p.Hashes, c, older)
	}
	e, err := ParseRecord(p.Record)
	if err != nil {
		return Proven{}, &ProofError{"record: " + err.Error()}
	}
	if err := tlog.CheckRecord(p.Hashes, c.Size, c.Hash, e.Index, tlog.RecordHash(p.Record)); err != nil {
		return Proven{}, &ProofError{fmt.Sprintf("record %d is not in the journal of the checkpoint", e.Index)}
	}
	proven.Record = &e
	return proven, nil
}

func checkConsistency(proof tlog.TreeProof, c, older Checkpoint) error {
	empty := (&tree{}).root()
	switch {
	case older.Size == 0 && older.Hash == empty && len(proof) == 0:
		return nil // everything goes on from nothing
	case older.Size == 0 || older.Size > c.Size || tlog.CheckTree(proof, c.Size, c.Hash, older.Size, older.Hash) != nil:
		return &ProofError{fmt.Sprintf("the journal of %d records does not go on from the one of %d", c.Size, older.Size)}
	}
	return nil
}

// RangeError asks for a record, or for a size of the journal, that there is not.
type RangeError struct{ Asked, Records int64 }

func (e *RangeError) Error() string {
	return fmt.Sprintf("record or size %d: the journal has %d records", e.Asked, e.Records)
}

// Prove makes the proof that a record is in the journal of the present checkpoint.
func (j *Journal) Prove(ctx context.Context, index int64) (*Proof, error) {
	var p *Proof
	err := j.proving(ctx, func(h *head) error {
		proof, line, err := h.proveRecord(index, h.checkpoint.Size)
		p = &Proof{APIVersion: proofVersion, Record: line, Hashes: append([]tlog.Hash{}, proof...), Checkpoint: string(h.checkpoint.Note)}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("journal: prove record %d: %w", index, err)
	}
	return p, nil
}

// ProveOlder makes the proof that the journal of the present checkpoint goes on from an older one. It is a *ForkError if
// it does not.
func (j *Journal) ProveOlder(ctx context.Context, older []byte) (*Proof, error) {
	c, err := ParseCheckpoint(older, j.key())
	if err != nil {
		return nil, fmt.Errorf("journal: older %w", err)
	}
	var p *Proof
	err = j.proving(ctx, func(h *head) error {
		proof, err := h.proveOlder(c)
		p = &Proof{APIVersion: proofVersion, Older: string(older), Hashes: append([]tlog.Hash{}, proof...), Checkpoint: string(h.checkpoint.Note)}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	return p, nil
}

// CheckConsistency reports whether the journal goes on from what it was at an older checkpoint. The error is a *ForkError
// if it does not, a *CheckpointError if that is no checkpoint of this relay.
func (j *Journal) CheckConsistency(ctx context.Context, older []byte) error {
	_, err := j.ProveOlder(ctx, older)
	return err
}

// ProveRecord gives the audit path of a record in the tree over the first size records.
func (j *Journal) ProveRecord(ctx context.Context, index, size int64) (tlog.RecordProof, error) {
	var proof tlog.RecordProof
	err := j.proving(ctx, func(h *head) (err error) {
		proof, _, err = h.proveRecord(index, size)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("journal: prove record %d: %w", index, err)
	}
	return proof, nil
}

// ProveConsistency gives the proof that the tree over the first size records begins with that over the first older ones.
func (j *Journal) ProveConsistency(ctx context.Context, older, size int64) (tlog.TreeProof, error) {
	var proof tlog.TreeProof
	err := j.proving(ctx, func(h *head) error {
		if older < 1 || older > size || size > h.checkpoint.Size {
			return &RangeError{Asked: max(older, size), Records: h.checkpoint.Size}
		}
		hash, err := h.rootOf(older)
		if err != nil {
			return err
		}
		whole, err := h.rootOf(size)
		if err != nil {
			return err
		}
		if proof, err = tlog.ProveTree(size, older, hashReader{h.hashes}); err != nil {
			return &hashesError{err}
		}
		if err := tlog.CheckTree(proof, size, whole, older, hash); err != nil {
			return &hashesError{err}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("journal: prove %d records: %w", older, err)
	}
	return proof, nil
}

// hashesError says that hashes inside the tree are not what was signed.
type hashesError struct{ err error }

func (e *hashesError) Error() string { return hashesFile + ": " + e.err.Error() }
func (e *hashesError) Unwrap() error { return e.err }

// proving runs fn, which must check what it proves against the checkpoint. When the hash file turns out to be damaged it
// is made anew, and fn runs once more.
func (j *Journal) proving(ctx context.Context, fn func(*head) error) error {
	return j.locked(ctx, func(h *head) error {
		err := fn(h)
		var damaged *hashesError
		if !errors.As(err, &damaged) {
			return err
		}
		if err := j.rebuild(ctx, h); err != nil {
			return err
		}
		return fn(h)
	})
}

// rootOf gives the root over the first size records, proved by the checkpoint.
func (h *head) rootOf(size int64) (tlog.Hash, error) {
	c := h.checkpoint
	if size == c.Size {
		return c.Hash, nil
	}
	t, err := loadTree(size, hashReader{h.hashes})
	if err != nil {
		return tlog.Hash{}, &hashesError{err}
	}
	proof, err := tlog.ProveTree(c.Size, size, hashReader{h.hashes})
	if err == nil {
		err = tlog.CheckTree(proof, c.Size, c.Hash, size, t.root())
	}
	if err != nil {
		return tlog.Hash{}, &hashesError{err}
	}
	return t.root(), nil
}

func (h *head) proveRecord(index, size int64) (tlog.RecordProof, []byte, error) {
	if index < 0 || size < 1 || index >= size || size > h.checkpoint.Size {
		return nil, nil, &RangeError{Asked: max(index, size), Records: h.checkpoint.Size}
	}
	root, err := h.rootOf(size)
	if err != nil {
		return nil, nil, err
	}
	start, err := locate(h.records, h.tail.end, index)
	if err != nil {
		return nil, nil, err
	}
	line, _, err := newLineReader(h.records, start).next()
	if err != nil {
		return nil, nil, err
	}
	proof, err := tlog.ProveRecord(size, index, hashReader{h.hashes})
	if err == nil {
		err = tlog.CheckRecord(proof, size, root, index, tlog.RecordHash(line))
	}
	if err != nil {
		return nil, nil, &hashesError{err}
	}
	return proof, line, nil
}

func (h *head) proveOlder(older Checkpoint) (tlog.TreeProof, error) {
	if older.Size > h.checkpoint.Size {
		return nil, &ForkError{Older: older, Records: h.checkpoint.Size}
	}
	root := (&tree{}).root()
	var proof tlog.TreeProof
	var err error
	if older.Size > 0 {
		if root, err = h.rootOf(older.Size); err != nil {
			return nil, err
		}
		if proof, err = tlog.ProveTree(h.checkpoint.Size, older.Size, hashReader{h.hashes}); err != nil {
			return nil, &hashesError{err}
		}
	}
	if root != older.Hash {
		return nil, &ForkError{Older: older, Records: h.checkpoint.Size}
	}
	return proof, nil
}
