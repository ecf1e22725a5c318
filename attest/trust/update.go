package trust

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"

	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// State is what a verifier remembers between updates: the metadata that it accepted, byte for byte. It has one encoding
// (Marshal), so that a relay can keep it as one of its documents.
type State struct {
	Root      []byte            `json:"root"`                // the newest version that was accepted
	Timestamp []byte            `json:"timestamp,omitempty"` // nothing until the first Update
	Snapshot  []byte            `json:"snapshot,omitempty"`
	Targets   []byte            `json:"targets,omitempty"`
	Channels  map[string][]byte `json:"channels,omitempty"` // by name; the newest that came along
}

// MaxState bounds the bytes of an encoded State.
const MaxState = (MaxRoot+MaxTimestamp+MaxSnapshot+MaxTargets+MaxChannels*MaxChannel)*4/3 + 1<<20

// Marshal encodes the state as canonical JSON.
func (s State) Marshal() ([]byte, error) { return strictjson.Marshal(s) }

// ParseState decodes what Marshal gave, and refuses everything else. The metadata in it is judged when it is used.
func ParseState(data []byte) (State, error) {
	if len(data) > MaxState {
		return State{}, formatErrorf("(state)", "%d bytes, the limit is %d", len(data), MaxState)
	}
	var s State
	if err := strictjson.UnmarshalCanonical(data, &s); err != nil {
		return State{}, &FormatError{File: "(state)", Err: err}
	}
	return s, nil
}

// Pin starts at a version of the root, of any number, that came by a way the site trusts. It must be signed by its own
// keys; whether it has expired counts at the first Update.
func Pin(root []byte) (State, error) {
	if _, err := openRoot(root); err != nil {
		return State{}, err
	}
	return State{Root: bytes.Clone(root)}, nil
}

// openRoot trusts a root that is known already.
func openRoot(root []byte) (*trustedmetadata.TrustedMetadata, error) {
	const file = "root.json"
	m, err := ParseRoot(file, root)
	if err != nil {
		return nil, err
	}
	tm, err := trustedmetadata.New(root)
	if err != nil {
		return nil, refused(file, err, rootSignatures(file, &m.Signed, m, "itself"))
	}
	return tm, nil
}

// Update judges metadata that came along with a release, at the time now, against what was accepted before:
//
//	roots, one after the other, each signed by the one before and by itself
//	→ the final root has not expired
//	→ old timestamp → new timestamp → old snapshot → new snapshot → targets → channels
//
// An old file whose keys the new root no longer names is forgotten: that is how one recovers from a stolen key that
// signed a version beyond all others. Files of the same version are a normal answer. Roots older than the one that is
// trusted are not looked at.
//
// The new state is to be kept together with whatever the caller decides by the result. When Update fails, the state has
// the newest root that was verified nevertheless, and is otherwise the old one: that keys were replaced is to be known,
// even from a medium that has expired. The errors are *FormatError, *KeysError, *KeyReuseError, *SignatureError,
// *RollbackError, *MismatchError, *MissingError, *ExpiredError. A channel whose own metadata has expired does not stop
// the others: Verified.Channel says it.
func Update(state State, offered Files, now time.Time) (State, *Verified, error) {
	if now.IsZero() {
		return state, nil, errors.New("update trust: no time is given")
	}
	return update(state, offered, now)
}

// Open gives what the state says, without judging expiry: for revocations that travel alone, and for releases that came
// without metadata, where the caller asks CheckExpiry. Before the first Update it fails with *MissingError.
func Open(state State) (*Verified, error) {
	offered := Files{FileTimestamp: state.Timestamp, FileSnapshot: state.Snapshot, FileTargets: state.Targets}
	maps.DeleteFunc(offered, func(_ string, data []byte) bool { return len(data) == 0 })
	_, v, err := update(State{Root: state.Root, Channels: state.Channels}, offered, time.Time{})
	return v, err
}

// walk is one Update.
type walk struct {
	old     State
	new     State
	offered Files
	now     time.Time // zero: nothing expires
	tm      *trustedmetadata.TrustedMetadata
	v       *Verified
}

func update(state State, offered Files, now time.Time) (State, *Verified, error) {
	if err := offered.Check(); err != nil {
		return state, nil, err
	}
	tm, err := openRoot(state.Root)
	if err != nil {
		return state, nil, err
	}
	tm.RefTime = now
	w := &walk{old: state, new: state, offered: offered, now: now, tm: tm,
		v: &Verified{versions: make(map[string]int64), channels: make(map[string]channel)}}
	w.new.Channels = maps.Clone(state.Channels)
	if err := w.roots(); err != nil {
		return w.rootOnly(), nil, err
	}
	for _, step := range []func() error{w.timestamp, w.snapshot, w.targets, w.channels} {
		if err := step(); err != nil {
			return w.rootOnly(), nil, err
		}
	}
	return w.new, w.v, nil
}

// rootOnly is the state when a later step failed.
func (w *walk) rootOnly() State {
	s := w.old
	s.Root = w.new.Root
	return s
}

func (w *walk) roots() error {
	trusted := w.tm.Root.Signed.Version
	newest := trusted
	for name := range w.offered {
		if v, ok := RootVersion(name); ok {
			newest = max(newest, v)
		}
	}
	for v := trusted + 1; v <= newest; v++ {
		file := RootFile(v)
		data, ok := w.offered[file]
		if !ok {
			return &MissingError{File: file}
		}
		m, err := ParseRoot(file, data)
		if err != nil {
			return err
		}
		before := w.tm.Root
		if _, err := w.tm.UpdateRoot(data); err != nil {
			cause := rootSignatures(file, &before.Signed, m, fmt.Sprintf("root %d", v-1))
			if cause == nil {
				cause = rootSignatures(file, &m.Signed, m, fmt.Sprintf("root %d, itself", v))
			}
			return refused(file, err, cause)
		}
		w.new.Root = bytes.Clone(data)
	}
	root := &w.tm.Root.Signed
	w.v.root = root.Version
	return w.accept(RootFile(root.Version), RoleRoot, root.Version, root.Expires, root.UnrecognizedFields)
}

func (w *walk) timestamp() error {
	data, ok := w.offered[FileTimestamp]
	if !ok {
		return &MissingError{File: FileTimestamp}
	}
	m, err := ParseTimestamp(data)
	if err != nil {
		return err
	}
	if len(w.old.Timestamp) > 0 {
		if _, err := ParseTimestamp(w.old.Timestamp); err != nil {
			return err
		}
		// Unless its keys were replaced it is loaded, expired or not.
		_, _ = w.tm.UpdateTimestamp(w.old.Timestamp)
	}
	before := w.tm.Timestamp
	switch _, err := w.tm.UpdateTimestamp(data); {
	case err == nil, errors.Is(err, &metadata.ErrExpiredMetadata{}):
		w.new.Timestamp = bytes.Clone(data)
	case errors.Is(err, &metadata.ErrEqualVersionNumber{}):
	case errors.Is(err, &metadata.ErrBadVersionNumber{}) && before != nil:
		if have := before.Signed.Version; m.Signed.Version < have {
			return &RollbackError{File: FileTimestamp, Role: RoleTimestamp, Have: have, Offered: m.Signed.Version}
		}
		return &RollbackError{File: FileTimestamp, Role: RoleSnapshot, Have: before.Signed.Meta[FileSnapshot].Version,
			Offered: m.Signed.Meta[FileSnapshot].Version}
	default:
		return refused(FileTimestamp, err, w.signatures(FileTimestamp, RoleTimestamp, m))
	}
	s := &w.tm.Timestamp.Signed
	return w.accept(FileTimestamp, RoleTimestamp, s.Version, s.Expires, s.UnrecognizedFields)
}

func (w *walk) snapshot() error {
	data, ok := w.offered[FileSnapshot]
	if !ok {
		return &MissingError{File: FileSnapshot}
	}
	m, err := ParseSnapshot(data)
	if err != nil {
		return err
	}
	if len(w.old.Snapshot) > 0 {
		if _, err := ParseSnapshot(w.old.Snapshot); err != nil {
			return err
		}
		_, _ = w.tm.UpdateSnapshot(w.old.Snapshot, true)
	}
	before := w.tm.Snapshot
	switch _, err := w.tm.UpdateSnapshot(data, false); {
	case err == nil, errors.Is(err, &metadata.ErrExpiredMetadata{}):
	case errors.Is(err, &metadata.ErrLengthOrHashMismatch{}):
		return &MismatchError{File: FileSnapshot, Reason: "not the one that the timestamp names"}
	default:
		if err := wentBack(before, m); err != nil {
			return err
		}
		if want := w.tm.Timestamp.Signed.Meta[FileSnapshot].Version; m.Signed.Version != want {
			return &MismatchError{File: FileSnapshot, Reason: fmt.Sprintf("version %d, the timestamp names %d", m.Signed.Version, want)}
		}
		return refused(FileSnapshot, err, w.signatures(FileSnapshot, RoleSnapshot, m))
	}
	w.new.Snapshot = bytes.Clone(data)
	s := &w.tm.Snapshot.Signed
	return w.accept(FileSnapshot, RoleSnapshot, s.Version, s.Expires, s.UnrecognizedFields)
}

// wentBack finds the file whose version a new snapshot sets back, or that it no longer names.
func wentBack(before, offered *metadata.Metadata[metadata.SnapshotType]) error {
	if before == nil {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(before.Signed.Meta)) {
		have, now := before.Signed.Meta[name].Version, int64(0)
		if m := offered.Signed.Meta[name]; m != nil {
			now = m.Version
		}
		if now < have {
			return &RollbackError{File: FileSnapshot, Role: name[:len(name)-len(".json")], Have: have, Offered: now}
		}
	}
	return nil
}

func (w *walk) targets() error {
	data, ok := w.offered[FileTargets]
	if !ok {
		return &MissingError{File: FileTargets}
	}
	m, err := ParseTargets(data)
	if err != nil {
		return err
	}
	if _, err := w.tm.UpdateTargets(data); err != nil && !errors.Is(err, &metadata.ErrExpiredMetadata{}) {
		return w.refusedTargets(FileTargets, RoleTargets, err, rootKeys(&w.tm.Root.Signed, RoleTargets), fmt.Sprintf("root %d", w.v.root), m)
	}
	if err := w.notOlder(FileTargets, RoleTargets, w.old.Targets, m, func(old *metadata.Metadata[metadata.TargetsType]) error {
		return w.tm.Root.VerifyDelegate(RoleTargets, old)
	}); err != nil {
		return err
	}
	if err := w.accept(FileTargets, RoleTargets, m.Signed.Version, m.Signed.Expires, m.Signed.UnrecognizedFields); err != nil {
		return err
	}
	roles, err := DelegatedKeys(&m.Signed)
	if err != nil {
		return err
	}
	all, err := RootKeys(RootFile(w.v.root), &w.tm.Root.Signed)
	if err != nil {
		return err
	}
	maps.Copy(all, roles)
	if err := CheckApart(all); err != nil {
		return err
	}
	w.new.Targets = bytes.Clone(data)
	w.v.attestation, w.v.revocation = roles[RoleAttestation], roles[RoleRevocation]
	for role, keys := range roles {
		if name, ok := ChannelOf(role + ".json"); ok {
			w.v.channels[name] = channel{Channel: Channel{Name: name, Release: keys}, err: &MissingError{File: ChannelFile(name)}}
		}
	}
	return nil
}

func (w *walk) channels() error {
	for _, name := range w.offered.Names() {
		if ch, ok := ChannelOf(name); ok {
			if _, known := w.v.channels[ch]; !known {
				return &MismatchError{File: name, Reason: "the targets delegate to no such role"}
			}
		}
	}
	for _, name := range w.v.Channels() {
		file := ChannelFile(name)
		meta := w.tm.Snapshot.Signed.Meta[file]
		data, ok := w.offered[file]
		if !ok {
			// What came along earlier is good if it is what the snapshot still names.
			data = w.old.Channels[name]
			if len(data) == 0 || meta == nil || meta.VerifyLengthHashes(data) != nil {
				continue
			}
		}
		if meta == nil {
			return &MismatchError{File: file, Reason: "the snapshot does not name it"}
		}
		if err := w.channel(name, data); err != nil {
			return err
		}
	}
	// What nobody may release on any more says nothing.
	maps.DeleteFunc(w.new.Channels, func(name string, _ []byte) bool { _, known := w.v.channels[name]; return !known })
	return nil
}

func (w *walk) channel(name string, data []byte) error {
	file, role := ChannelFile(name), ChannelRole(name)
	c := w.v.channels[name]
	m, err := ParseChannel(name, data)
	if err != nil {
		return err
	}
	targets := w.tm.Targets[RoleTargets]
	_, err = w.tm.UpdateDelegatedTargets(data, role, RoleTargets)
	expired := errors.Is(err, &metadata.ErrExpiredMetadata{})
	if err != nil && !expired {
		return w.refusedTargets(file, role, err, c.Release, fmt.Sprintf("targets %d", targets.Signed.Version), m)
	}
	if err := w.notOlder(file, role, w.old.Channels[name], m, func(old *metadata.Metadata[metadata.TargetsType]) error {
		return targets.VerifyDelegate(role, old)
	}); err != nil {
		return err
	}
	if w.new.Channels == nil {
		w.new.Channels = make(map[string][]byte)
	}
	w.new.Channels[name] = bytes.Clone(data)
	c.Version, c.Expires = m.Signed.Version, m.Signed.Expires.UTC()
	if target := m.Signed.Targets[TargetPath(name)]; target != nil {
		c.Bundle, c.Size = digest.NewDigestFromBytes(digest.SHA256, target.Hashes["sha256"]), target.Length
	}
	c.err = Expiry{Role: role, Expires: c.Expires}.check(w.now)
	w.v.channels[name] = c
	w.v.versions[role] = c.Version
	if c.err == nil {
		return w.signed(file, m.Signed.UnrecognizedFields)
	}
	return nil
}

// refusedTargets gives the error of go-tuf for targets as one of ours.
func (w *walk) refusedTargets(file, role string, err error, keys Keys, by string, m *metadata.Metadata[metadata.TargetsType]) error {
	switch {
	case errors.Is(err, &metadata.ErrLengthOrHashMismatch{}):
		return &MismatchError{File: file, Reason: "not the one that the snapshot names"}
	case errors.Is(err, &metadata.ErrBadVersionNumber{}):
		return &MismatchError{File: file, Reason: fmt.Sprintf("version %d, the snapshot names %d", m.Signed.Version, w.tm.Snapshot.Signed.Meta[role+".json"].Version)}
	}
	return refused(file, err, tooFew(file, by, keys, m))
}

// notOlder compares with the version of a role that was accepted before. TUF leaves that to the snapshots; when those were
// forgotten because the export key was replaced, it is what still stands against an old release.
func (w *walk) notOlder(file, role string, old []byte, m *metadata.Metadata[metadata.TargetsType], verify func(*metadata.Metadata[metadata.TargetsType]) error) error {
	if len(old) == 0 {
		return nil
	}
	before, err := parse[metadata.TargetsType](file, MaxTargets, old)
	if err != nil {
		return err
	}
	if verify(before) != nil {
		return nil // its keys were replaced
	}
	if have := before.Signed.Version; m.Signed.Version < have {
		return &RollbackError{File: file, Role: role, Have: have, Offered: m.Signed.Version}
	} else if m.Signed.Version > have {
		return nil
	}
	a, err := SignedBytes(before)
	if err != nil {
		return err
	}
	b, err := SignedBytes(m)
	if err != nil {
		return err
	}
	if !bytes.Equal(a, b) {
		return &MismatchError{File: file, Reason: fmt.Sprintf("version %d says something else than the version %d that was accepted before", m.Signed.Version, m.Signed.Version)}
	}
	return nil
}

// accept notes what a verified file says of itself, unless it has expired.
func (w *walk) accept(file, role string, version int64, expires time.Time, unknown map[string]any) error {
	e := Expiry{Role: role, Expires: expires.UTC()}
	if err := e.check(w.now); err != nil {
		return err
	}
	w.v.expiry = append(w.v.expiry, e)
	w.v.versions[role] = version
	return w.signed(file, unknown)
}

func (w *walk) signed(file string, unknown map[string]any) error {
	t, err := issued(file, unknown)
	if err == nil && t.After(w.v.signed) {
		w.v.signed = t
	}
	return err
}

// refused prefers an error that says what is missing to go-tuf's.
func refused(file string, err, better error) error {
	if better != nil {
		return better
	}
	return &FormatError{File: file, Err: err}
}

func rootKeys(root *metadata.RootType, role string) Keys {
	roles, _ := RootKeys("", root) // was checked when it was parsed
	return roles[role]
}

func rootSignatures(file string, by *metadata.RootType, m *metadata.Metadata[metadata.RootType], name string) error {
	return tooFew(file, name, rootKeys(by, RoleRoot), m)
}

func (w *walk) signatures(file, role string, m any) error {
	by := fmt.Sprintf("root %d", w.v.root)
	switch m := m.(type) {
	case *metadata.Metadata[metadata.TimestampType]:
		return tooFew(file, by, rootKeys(&w.tm.Root.Signed, role), m)
	case *metadata.Metadata[metadata.SnapshotType]:
		return tooFew(file, by, rootKeys(&w.tm.Root.Signed, role), m)
	}
	return nil
}

// tooFew is *SignatureError when a file is not signed by enough of the keys, else nil.
func tooFew[T metadata.Roles](file, by string, keys Keys, m *metadata.Metadata[T]) error {
	message, err := SignedBytes(m)
	if err != nil {
		return &FormatError{File: file, Err: err}
	}
	if have := len(Signers(keys, message, m.Signatures)); have < keys.Threshold {
		return &SignatureError{File: file, By: by, Have: have, Want: keys.Threshold}
	}
	return nil
}
