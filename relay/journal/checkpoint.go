package journal

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/plimsoll/plimsoll/relay/identity"
)

// MaxCheckpoint bounds a checkpoint, in bytes. One signature takes about 200; witnesses may add theirs.
const MaxCheckpoint = 16 << 10

// maxSize keeps the offset of every hash within an int64.
const maxSize = math.MaxInt64 >> 8

// Checkpoint says what the journal was at some moment.
type Checkpoint struct {
	Origin string    // the relay's name
	Size   int64     // the number of records
	Hash   tlog.Hash // the root of the tree over them
	Note   []byte    // as it was signed
}

// CheckpointError says why a checkpoint counts for nothing.
type CheckpointError struct{ Reason string }

func (e *CheckpointError) Error() string { return "checkpoint: " + e.Reason }

// ParseCheckpoint reads a checkpoint and verifies that the key signed it. The error is a *CheckpointError.
func ParseCheckpoint(data []byte, key ed25519.PublicKey) (Checkpoint, error) {
	if len(data) > MaxCheckpoint {
		return Checkpoint{}, &CheckpointError{fmt.Sprintf("more than %d bytes", MaxCheckpoint)}
	}
	n, err := note.Open(data, identity.Verifiers(key))
	if err != nil {
		return Checkpoint{}, &CheckpointError{whyNot(err)}
	}
	c, err := parseTree(n.Text)
	if err != nil {
		return Checkpoint{}, &CheckpointError{err.Error()}
	}
	if len(n.Sigs) != 1 || n.Sigs[0].Name != c.Origin {
		return Checkpoint{}, &CheckpointError{fmt.Sprintf("of %q, signed by %q", c.Origin, n.Sigs[0].Name)}
	}
	c.Note = data
	return c, nil
}

func whyNot(err error) string {
	var (
		unverified *note.UnverifiedNoteError
		invalid    *note.InvalidSignatureError
	)
	switch {
	case errors.As(err, &unverified):
		return "signed by another key than this relay's"
	case errors.As(err, &invalid):
		return "the signature does not fit"
	}
	return "no signed note"
}

// parseTree reads the text of a checkpoint: exactly three lines, each in the only form that formatTree gives.
func parseTree(text string) (Checkpoint, error) {
	lines := strings.Split(text, "\n")
	if len(lines) != 4 || lines[3] != "" {
		return Checkpoint{}, errors.New("want three lines: name, number of records, root")
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 || size > maxSize || strconv.FormatInt(size, 10) != lines[1] {
		return Checkpoint{}, fmt.Errorf("number of records %.30q", lines[1])
	}
	c := Checkpoint{Origin: lines[0], Size: size}
	raw, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(raw) != tlog.HashSize {
		return Checkpoint{}, fmt.Errorf("root %.60q", lines[2])
	}
	copy(c.Hash[:], raw)
	if formatTree(c) != text {
		return Checkpoint{}, errors.New("not in canonical form")
	}
	return c, nil
}

func formatTree(c Checkpoint) string {
	return c.Origin + "\n" + strconv.FormatInt(c.Size, 10) + "\n" + c.Hash.String() + "\n"
}

// sign makes the checkpoint of a tree.
func (j *Journal) sign(t *tree) (Checkpoint, error) {
	signer := j.options.Identity.NoteSigner()
	c := Checkpoint{Origin: signer.Name(), Size: t.n, Hash: t.root()}
	var err error
	c.Note, err = note.Sign(&note.Note{Text: formatTree(c)}, signer)
	return c, err
}

// readCheckpoint reads a file; without one the error is fs.ErrNotExist.
func readCheckpoint(path string, key ed25519.PublicKey) (Checkpoint, error) {
	f, err := os.Open(path)
	if err != nil {
		return Checkpoint{}, err
	}
	defer f.Close() //nolint:errcheck // only read from
	data, err := io.ReadAll(io.LimitReader(f, MaxCheckpoint+1))
	if err != nil {
		return Checkpoint{}, err
	}
	return ParseCheckpoint(data, key)
}
