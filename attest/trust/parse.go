package trust

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/cjson"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// IssuedField is the signed field, unknown to TUF, that says when metadata was made: RFC 3339, UTC, whole seconds.
const IssuedField = "issued"

// parse reads a metadata file so that go-tuf, which decodes leniently, cannot read anything else in it than another
// parser would:
//   - duplicate keys, null, fields beside "signed" and "signatures", and too many signatures are refused;
//   - what go-tuf understood must encode to what is written, so that other spellings of a field, of a time or of a number
//     are refused.
//
// Unknown fields inside "signed" are allowed, as TUF wants it: they are signed, and they mean nothing here. Outside they
// would be nobody's word, and are refused.
func parse[T metadata.Roles](file string, limit int, data []byte) (*metadata.Metadata[T], error) {
	if len(data) > limit {
		return nil, formatErrorf(file, "%d bytes, the limit is %d", len(data), limit)
	}
	if err := strictjson.Check(data); err != nil {
		return nil, &FormatError{File: file, Err: err}
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var doc map[string]any
	if err := dec.Decode(&doc); err != nil {
		return nil, &FormatError{File: file, Err: err}
	}
	if err := checkEnvelope(doc); err != nil {
		return nil, &FormatError{File: file, Err: err}
	}
	m, err := (&metadata.Metadata[T]{}).FromBytes(data)
	if err != nil {
		return nil, &FormatError{File: file, Err: err}
	}
	written, err := cjson.EncodeCanonical(doc["signed"])
	if err != nil {
		return nil, &FormatError{File: file, Err: err}
	}
	understood, err := SignedBytes(m)
	if err != nil {
		return nil, &FormatError{File: file, Err: err}
	}
	if !bytes.Equal(written, understood) {
		return nil, formatErrorf(file, "what is written is not what TUF's form of it would be")
	}
	return m, nil
}

func checkEnvelope(doc map[string]any) error {
	for name := range doc {
		if name != "signed" && name != "signatures" {
			return fmt.Errorf("field %s is not signed", shorten(name))
		}
	}
	if hasNull(doc) {
		return errors.New("null is no value of TUF")
	}
	if _, ok := doc["signed"].(map[string]any); !ok {
		return errors.New("signed: not an object")
	}
	signatures, ok := doc["signatures"].([]any)
	if !ok {
		return errors.New("signatures: not a list")
	}
	if len(signatures) > MaxSignatures {
		return fmt.Errorf("%d signatures, the limit is %d", len(signatures), MaxSignatures)
	}
	for i, s := range signatures {
		object, _ := s.(map[string]any)
		_, hasID := object["keyid"].(string)
		_, hasSig := object["sig"].(string)
		if !hasID || !hasSig || len(object) != 2 {
			return fmt.Errorf("signatures[%d]: want keyid and sig, and nothing else", i)
		}
	}
	return nil
}

// hasNull finds null anywhere: in Go it becomes a nil pointer, which go-tuf follows.
func hasNull(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case []any:
		for _, e := range v {
			if hasNull(e) {
				return true
			}
		}
	case map[string]any:
		for _, e := range v {
			if hasNull(e) {
				return true
			}
		}
	}
	return false
}

// SignedBytes are the bytes that are signed: the canonical JSON of the signed part.
func SignedBytes[T metadata.Roles](m *metadata.Metadata[T]) ([]byte, error) {
	return cjson.EncodeCanonical(m.Signed)
}

// ParseRoot reads a version of the root strictly, checks the rules of its format, and judges no signature. It fails with
// *FormatError, *KeysError or *KeyReuseError.
func ParseRoot(file string, data []byte) (*metadata.Metadata[metadata.RootType], error) {
	m, err := parse[metadata.RootType](file, MaxRoot, data)
	if err != nil {
		return nil, err
	}
	return m, CheckRoot(file, &m.Signed)
}

// CheckRoot is the rules for what a root says.
func CheckRoot(file string, root *metadata.RootType) error {
	if err := checkCommon(file, root.SpecVersion, root.Version, root.Expires, root.UnrecognizedFields); err != nil {
		return err
	}
	_, err := RootKeys(file, root)
	return err
}

// ParseTimestamp is ParseRoot for the timestamp.
func ParseTimestamp(data []byte) (*metadata.Metadata[metadata.TimestampType], error) {
	m, err := parse[metadata.TimestampType](FileTimestamp, MaxTimestamp, data)
	if err != nil {
		return nil, err
	}
	s := &m.Signed
	if err := checkCommon(FileTimestamp, s.SpecVersion, s.Version, s.Expires, s.UnrecognizedFields); err != nil {
		return nil, err
	}
	if len(s.Meta) != 1 || s.Meta[FileSnapshot] == nil {
		return nil, formatErrorf(FileTimestamp, "meta: want %s and nothing else", FileSnapshot)
	}
	return m, checkMeta(FileTimestamp, s.Meta)
}

// ParseSnapshot is ParseRoot for the snapshot.
func ParseSnapshot(data []byte) (*metadata.Metadata[metadata.SnapshotType], error) {
	m, err := parse[metadata.SnapshotType](FileSnapshot, MaxSnapshot, data)
	if err != nil {
		return nil, err
	}
	s := &m.Signed
	if err := checkCommon(FileSnapshot, s.SpecVersion, s.Version, s.Expires, s.UnrecognizedFields); err != nil {
		return nil, err
	}
	if s.Meta[FileTargets] == nil {
		return nil, formatErrorf(FileSnapshot, "meta: no %s", FileTargets)
	}
	if len(s.Meta) > MaxChannels+1 {
		return nil, formatErrorf(FileSnapshot, "meta: %d files, the limit is %d", len(s.Meta), MaxChannels+1)
	}
	return m, checkMeta(FileSnapshot, s.Meta)
}

// checkMeta wants length and hash of each file: TUF has them optional, and without them a file of the same version and
// other content could be mixed in.
func checkMeta(file string, meta map[string]*metadata.MetaFiles) error {
	for name, m := range meta {
		limit := Limit(name)
		switch _, root := RootVersion(name); {
		case limit == 0 || root || name == FileTimestamp || (name == FileSnapshot) != (file == FileTimestamp):
			return formatErrorf(file, "meta: %s does not belong there", shorten(name))
		case m.Version < 1 || m.Version > MaxVersion:
			return formatErrorf(file, "meta: %s: version %d", name, m.Version)
		case m.Length < 1 || m.Length > limit:
			return formatErrorf(file, "meta: %s: length %d, want 1 to %d", name, m.Length, limit)
		case len(m.Hashes) != 1 || len(m.Hashes["sha256"]) != 32:
			return formatErrorf(file, "meta: %s: want a sha256 and no other hash", name)
		}
	}
	return nil
}

// ParseTargets is ParseRoot for the top-level targets: they delegate, and list nothing themselves.
func ParseTargets(data []byte) (*metadata.Metadata[metadata.TargetsType], error) {
	m, err := parse[metadata.TargetsType](FileTargets, MaxTargets, data)
	if err != nil {
		return nil, err
	}
	return m, CheckTargets(&m.Signed)
}

// CheckTargets is the rules for what the top-level targets say.
func CheckTargets(targets *metadata.TargetsType) error {
	if err := checkCommon(FileTargets, targets.SpecVersion, targets.Version, targets.Expires, targets.UnrecognizedFields); err != nil {
		return err
	}
	if len(targets.Targets) > 0 {
		return formatErrorf(FileTargets, "lists targets itself; only a channel's role lists releases")
	}
	_, err := DelegatedKeys(targets)
	return err
}

// ParseChannel is ParseRoot for a channel's metadata: it lists at most one release, and delegates nothing.
func ParseChannel(channel string, data []byte) (*metadata.Metadata[metadata.TargetsType], error) {
	m, err := parse[metadata.TargetsType](ChannelFile(channel), MaxChannel, data)
	if err != nil {
		return nil, err
	}
	return m, CheckChannel(channel, &m.Signed)
}

// CheckChannel is the rules for what a channel's metadata says.
func CheckChannel(channel string, targets *metadata.TargetsType) error {
	file := ChannelFile(channel)
	if err := checkCommon(file, targets.SpecVersion, targets.Version, targets.Expires, targets.UnrecognizedFields); err != nil {
		return err
	}
	if targets.Delegations != nil {
		return formatErrorf(file, "delegates; a channel cannot pass on its right")
	}
	for name, target := range targets.Targets {
		switch {
		case name != TargetPath(channel):
			return formatErrorf(file, "lists %s, want %s and nothing else", shorten(name), TargetPath(channel))
		case len(target.Hashes) != 1 || len(target.Hashes["sha256"]) != 32:
			return formatErrorf(file, "%s: want a sha256 and no other hash", name)
		case target.Length < 1 || target.Length > MaxBundleIndex:
			return formatErrorf(file, "%s: length %d, want 1 to %d", name, target.Length, MaxBundleIndex)
		}
	}
	return nil
}

// TargetPath is the name under which a channel's metadata lists its release.
func TargetPath(channel string) string { return "releases/" + channel }

func checkCommon(file, spec string, version int64, expires time.Time, unknown map[string]any) error {
	switch {
	case len(spec) < 2 || spec[:2] != "1.":
		return formatErrorf(file, "TUF version %s, want 1", shorten(spec))
	case version < 1 || version > MaxVersion:
		return formatErrorf(file, "version %d", version)
	case expires.IsZero():
		return formatErrorf(file, "expires: absent")
	}
	if v, root := RootVersion(file); root && v != version {
		return &MismatchError{File: file, Reason: fmt.Sprintf("holds version %d", version)}
	}
	_, err := issued(file, unknown)
	return err
}

// issued gives when metadata was made, or the zero time when it does not say.
func issued(file string, unknown map[string]any) (time.Time, error) {
	value, ok := unknown[IssuedField]
	if !ok {
		return time.Time{}, nil
	}
	text, _ := value.(string)
	t, err := time.Parse(time.RFC3339, text)
	if err != nil || t.UTC().Format(time.RFC3339) != text {
		return time.Time{}, formatErrorf(file, "%s: want a time like 2026-01-31T12:00:00Z", IssuedField)
	}
	return t, nil
}
