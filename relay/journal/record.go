package journal

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/plimsoll/plimsoll/internal/strictjson"
)

const (
	// MaxRecord bounds a record, in bytes of its line.
	MaxRecord = 1 << 20

	// MaxDetail bounds a record's detail, in bytes of JSON.
	MaxDetail = MaxRecord - 512

	maxKind = 64
)

// The kinds of records that the journal writes itself.
const (
	KindRecovered = "journal-recovered" // the end of the file was cut off: half a record, of which nobody was told
	KindRestarted = "journal-restarted" // the journal before this one is damaged and was put aside
)

// Entry is one record.
type Entry struct {
	Index  int64           `json:"index"`
	Time   time.Time       `json:"time"` // by the relay's clock, which may lie; UTC, milliseconds
	Kind   string          `json:"kind"`
	Detail json.RawMessage `json:"detail"`
}

// KindError is a kind of record that cannot be.
type KindError struct{ Kind string }

func (e *KindError) Error() string {
	return fmt.Sprintf("kind %.80q: want 1 to %d lower-case letters, digits and dashes", e.Kind, maxKind)
}

func checkKind(kind string) error {
	if kind == "" || len(kind) > maxKind || kind[0] == '-' {
		return &KindError{kind}
	}
	for _, c := range []byte(kind) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return &KindError{kind}
		}
	}
	return nil
}

// encodeDetail never refuses what encoding/json can encode: what cannot be recorded cannot be done, and a bundle with
// many signatures, or with two paths that differ in case only, must not stop a relay.
func encodeDetail(detail any) (json.RawMessage, error) {
	raw, err := strictjson.Marshal(detail)
	if err != nil {
		return nil, err
	}
	if len(raw) <= MaxDetail && strictjson.Check(append([]byte(`{"detail":`), append(bytes.Clone(raw), '}')...)) != nil {
		// Two parsers could read it differently; as text they do not.
		if raw, err = strictjson.Marshal(struct {
			Text string `json:"text"`
		}{string(raw)}); err != nil {
			return nil, err
		}
	}
	if len(raw) <= MaxDetail {
		return raw, nil
	}
	sum := sha256.Sum256(raw)
	return strictjson.Marshal(struct {
		Bytes  int    `json:"omittedBytes"`
		SHA256 string `json:"sha256"`
	}{len(raw), hex.EncodeToString(sum[:])})
}

func encodeRecord(e Entry) ([]byte, error) {
	e.Time = e.Time.UTC().Truncate(time.Millisecond)
	line, err := strictjson.Marshal(e)
	if err != nil {
		return nil, err
	}
	// The journal must never hold a line that it would call damaged.
	if _, err := ParseRecord(line); err != nil {
		return nil, err
	}
	return line, nil
}

// ParseRecord reads a record's line, without its newline.
func ParseRecord(line []byte) (Entry, error) {
	var e Entry
	if len(line) > MaxRecord {
		return e, fmt.Errorf("more than %d bytes", MaxRecord)
	}
	if err := strictjson.UnmarshalCanonical(line, &e); err != nil {
		return Entry{}, err
	}
	switch {
	case e.Index < 0:
		return Entry{}, fmt.Errorf("index %d", e.Index)
	case e.Time.Location() != time.UTC || !e.Time.Equal(e.Time.Truncate(time.Millisecond)):
		return Entry{}, errors.New("time: want UTC, in milliseconds")
	}
	if err := checkKind(e.Kind); err != nil {
		return Entry{}, err
	}
	return e, nil
}

// indexOf reads the index of a line and nothing else of it.
func indexOf(line []byte) (int64, bool) {
	rest, ok := bytes.CutPrefix(line, []byte(`{"index":`))
	if !ok {
		return 0, false
	}
	digits, _, ok := bytes.Cut(rest[:min(len(rest), 20)], []byte(","))
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(string(digits), 10, 64)
	return n, err == nil && n >= 0 && strconv.FormatInt(n, 10) == string(digits)
}
