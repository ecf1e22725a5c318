package ceremony

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/attest/trust"
)

// Files gives what is published, as it travels beside a bundle. It is as good as the last Export: Verify says whether
// that is still so.
func (f *Folder) Files() (trust.Files, error) {
	files := maps.Clone(f.export)
	for v, d := range f.roots {
		data, err := readBounded(filepath.Join(f.dir, d.file), trust.MaxRoot)
		if err != nil {
			return nil, err
		}
		files[trust.RootFile(v)] = data
	}
	for name := range f.published {
		data, err := readBounded(filepath.Join(f.dir, name), trust.Limit(name))
		if err != nil {
			return nil, err
		}
		files[name] = data
	}
	return files, files.Check()
}

// Verify judges what is published as a relay will that trusts the first root and has seen nothing: who exports what no
// relay accepts learns it here.
func (f *Folder) Verify(now time.Time) (trust.Files, *trust.Verified, error) {
	files, err := f.Files()
	if err != nil {
		return nil, nil, err
	}
	v, err := verify(files, now)
	return files, v, err
}

func verify(files trust.Files, now time.Time) (*trust.Verified, error) {
	first, ok := files[trust.RootFile(1)]
	if !ok {
		return nil, &trust.MissingError{File: trust.RootFile(1)}
	}
	state, err := trust.Pin(first)
	if err != nil {
		return nil, err
	}
	_, v, err := trust.Update(state, files, now)
	return v, err
}

// Export makes a new snapshot and a new timestamp over what is published, signed by the export key, or by several keys if
// the root wants that. e.Expires is until when a medium with them may be used for an import. Nothing is written unless a
// relay would accept it.
func (f *Folder) Export(e Edit, signers ...signature.Signer) (*trust.Verified, error) {
	if e.Expires.IsZero() {
		return nil, &ChangeError{Role: RoleExport, Reason: "no time of expiry"}
	}
	root := f.root()
	if root == nil {
		return nil, &trust.MissingError{File: trust.RootFile(1)}
	}
	files, err := f.Files()
	if err != nil {
		return nil, err
	}
	snapshotVersion, timestampVersion, known, err := f.exported()
	if err != nil {
		return nil, err
	}
	snapshot := metadata.Snapshot(e.Expires)
	snapshot.Signed.Version = snapshotVersion + 1
	if snapshot.Signed.Expires, err = e.stamp(trust.RoleSnapshot, e.Expires, &snapshot.Signed.UnrecognizedFields); err != nil {
		return nil, err
	}
	snapshot.Signed.Meta = known // what was named once stays named: relays refuse a snapshot in which something vanished
	for name, d := range f.published {
		snapshot.Signed.Meta[name] = meta(d.version, files[name])
	}
	timestamp := metadata.Timestamp(e.Expires)
	timestamp.Signed.Version = timestampVersion + 1
	if timestamp.Signed.Expires, err = e.stamp(trust.RoleTimestamp, e.Expires, &timestamp.Signed.UnrecognizedFields); err != nil {
		return nil, err
	}
	snapshotData, err := sign(root, snapshot, trust.RoleSnapshot, signers)
	if err != nil {
		return nil, err
	}
	timestamp.Signed.Meta[trust.FileSnapshot] = meta(snapshot.Signed.Version, snapshotData)
	timestampData, err := sign(root, timestamp, trust.RoleTimestamp, signers)
	if err != nil {
		return nil, err
	}
	files[trust.FileSnapshot], files[trust.FileTimestamp] = snapshotData, timestampData
	v, err := verify(files, e.Now)
	if err != nil {
		return nil, err
	}
	// A power cut between the two leaves a snapshot that the timestamp does not name; the next export counts on from it.
	if err := store(write{filepath.Join(f.dir, trust.FileSnapshot), snapshotData}, write{filepath.Join(f.dir, trust.FileTimestamp), timestampData}); err != nil {
		return nil, err
	}
	f.export[trust.FileSnapshot], f.export[trust.FileTimestamp] = snapshotData, timestampData
	return v, nil
}

// exported gives the versions that were used, and what the last snapshot names.
func (f *Folder) exported() (snapshot, timestamp int64, known map[string]*metadata.MetaFiles, err error) {
	known = make(map[string]*metadata.MetaFiles)
	if data := f.export[trust.FileTimestamp]; data != nil {
		m, err := trust.ParseTimestamp(data)
		if err != nil {
			return 0, 0, nil, err
		}
		timestamp, snapshot = m.Signed.Version, m.Signed.Meta[trust.FileSnapshot].Version
	}
	if data := f.export[trust.FileSnapshot]; data != nil {
		m, err := trust.ParseSnapshot(data)
		if err != nil {
			return 0, 0, nil, err
		}
		snapshot, known = max(snapshot, m.Signed.Version), m.Signed.Meta
	}
	return snapshot, timestamp, known, nil
}

func meta(version int64, data []byte) *metadata.MetaFiles {
	sum := sha256.Sum256(data)
	return &metadata.MetaFiles{Version: version, Length: int64(len(data)), Hashes: metadata.Hashes{"sha256": sum[:]}}
}

// sign signs with those signers whose keys have the role.
func sign[T metadata.Roles](root *document, m *metadata.Metadata[T], role string, signers []signature.Signer) ([]byte, error) {
	roles, err := trust.RootKeys(root.file, root.root)
	if err != nil {
		return nil, err
	}
	keys := roles[role]
	message, err := trust.SignedBytes(m)
	if err != nil {
		return nil, err
	}
	m.Signatures = []metadata.Signature{}
	for _, s := range signers {
		pub, err := s.PublicKey()
		if err != nil {
			return nil, err
		}
		i := slices.Index(keys.IDs(), attest.KeyID(pub))
		if i < 0 {
			return nil, &ChangeError{Role: role, Reason: fmt.Sprintf("key %s has it not", attest.KeyID(pub))}
		}
		sig, err := s.SignMessage(bytes.NewReader(message))
		if err != nil {
			return nil, fmt.Errorf("sign %s: %w", role, err)
		}
		m.Signatures = append(m.Signatures, metadata.Signature{KeyID: keys.TUFIDs()[i], Signature: sig})
	}
	data, err := m.ToBytes(true)
	return append(data, '\n'), err
}

// Status is what a folder has and what it misses.
type Status struct {
	Root     int64             `json:"root"` // the published version; 0 before the first is complete
	Roles    []RoleStatus      `json:"roles"`
	Items    []Item            `json:"items"` // what is published and what is pending
	Export   []ExportStatus    `json:"export"`
	Releases map[string]string `json:"releases"`          // by channel: the digest of the bundle that is published
	Problem  string            `json:"problem,omitempty"` // why no relay would accept what is published
}

// RoleStatus is who has a role, by the newest versions that are published or pending.
type RoleStatus struct {
	Role      string   `json:"role"`
	Threshold int      `json:"threshold"`
	Keys      []string `json:"keys"` // attest.KeyID
	Pending   bool     `json:"pending"`
}

// ExportStatus is a file of the export key.
type ExportStatus struct {
	File    string    `json:"file"`
	Version int64     `json:"version"`
	Expires time.Time `json:"expires"`
}

// Status says what a folder has and what it misses at a time.
func (f *Folder) Status(now time.Time) (*Status, error) {
	s := &Status{Root: int64(len(f.roots)), Roles: []RoleStatus{}, Items: []Item{}, Export: []ExportStatus{}, Releases: map[string]string{}}
	for _, d := range []*document{f.lastRoot(), f.last(trust.FileTargets)} {
		if d == nil {
			continue
		}
		roles, err := f.roles(d)
		if err != nil {
			return nil, err
		}
		s.Roles = append(s.Roles, roles...)
	}
	for _, d := range f.documents() {
		s.Items = append(s.Items, f.item(d))
		for path, t := range d.targetFiles() {
			if channel, ok := trust.ChannelOf(d.file); ok && f.published[d.file] == d && path == trust.TargetPath(channel) {
				s.Releases[channel] = "sha256:" + t.Hashes["sha256"].String()
			}
		}
	}
	if data := f.export[trust.FileTimestamp]; data != nil {
		m, err := trust.ParseTimestamp(data)
		if err != nil {
			return nil, err
		}
		s.Export = append(s.Export, ExportStatus{trust.FileTimestamp, m.Signed.Version, m.Signed.Expires.UTC()})
	}
	if data := f.export[trust.FileSnapshot]; data != nil {
		m, err := trust.ParseSnapshot(data)
		if err != nil {
			return nil, err
		}
		s.Export = append(s.Export, ExportStatus{trust.FileSnapshot, m.Signed.Version, m.Signed.Expires.UTC()})
	}
	if _, _, err := f.Verify(now); err != nil {
		s.Problem = err.Error()
	}
	return s, nil
}

func (f *Folder) roles(d *document) ([]RoleStatus, error) {
	var roles map[string]trust.Keys
	var err error
	if d.root != nil {
		roles, err = trust.RootKeys(d.file, d.root)
	} else {
		roles, err = trust.DelegatedKeys(d.targets)
	}
	if err != nil {
		return nil, err
	}
	var list []RoleStatus
	for _, role := range slices.Sorted(maps.Keys(roles)) {
		list = append(list, RoleStatus{Role: role, Threshold: roles[role].Threshold, Keys: roles[role].IDs(), Pending: f.pending[d.file] == d})
	}
	return list, nil
}
