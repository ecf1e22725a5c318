package trust_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/plimsoll/plimsoll/attest/trust"
)

const day = 24 * time.Hour

// start is the day on which the vendor of the tests begins.
var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// key is a key pair of somebody.
type key struct {
	pub    crypto.PublicKey
	signer signature.Signer
}

func newKey(t testing.TB, kind string) key {
	t.Helper()
	var private crypto.Signer
	var err error
	if kind == "ed25519" {
		_, private, err = ed25519.GenerateKey(rand.Reader)
	} else {
		private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	signer, err := signature.LoadSigner(private, crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	return key{private.Public(), signer}
}

func newKeys(t testing.TB, n int) []key {
	kinds := []string{"ecdsa", "ed25519"}
	keys := make([]key, n)
	for i := range keys {
		keys[i] = newKey(t, kinds[i%2])
	}
	return keys
}

// holders are the keys of a role.
type holders struct {
	keys      []key
	threshold int
}

func (h holders) public() trust.Keys {
	k := trust.Keys{Threshold: h.threshold}
	for _, key := range h.keys {
		k.Public = append(k.Public, key.pub)
	}
	return k
}

// vendor makes metadata with go-tuf, with all means that somebody has who holds its keys. Each field may be changed between
// two calls of publish.
type vendor struct {
	t     testing.TB
	roles map[string]holders // top-level and delegated roles
	roots map[int64][]byte
	// versions and expiry, by role
	version  map[string]int64
	expires  map[string]time.Time
	release  map[string]digest.Digest // by channel
	issued   time.Time
	onRoot   func(*metadata.Metadata[metadata.RootType])
	onTarget func(role string, m *metadata.Metadata[metadata.TargetsType])
	onSnap   func(*metadata.Metadata[metadata.SnapshotType])
	onTime   func(*metadata.Metadata[metadata.TimestampType])
}

func newVendor(t testing.TB) *vendor {
	export := holders{newKeys(t, 1), 1}
	v := &vendor{
		t: t,
		roles: map[string]holders{
			trust.RoleRoot: {newKeys(t, 3), 2}, trust.RoleTargets: {newKeys(t, 3), 2},
			trust.RoleTimestamp: export, trust.RoleSnapshot: export,
			"channel-stable": {newKeys(t, 3), 2}, "channel-beta": {newKeys(t, 1), 1},
			trust.RoleAttestation: {newKeys(t, 1), 1}, trust.RoleRevocation: {newKeys(t, 2), 2},
		},
		roots: map[int64][]byte{}, version: map[string]int64{}, expires: map[string]time.Time{},
		release: map[string]digest.Digest{"stable": digest.FromString("stable 1"), "beta": digest.FromString("beta 1")},
	}
	for role := range v.roles {
		v.expires[role] = start.Add(365 * day)
	}
	v.expires[trust.RoleRoot] = start.Add(10 * 365 * day)
	for _, role := range []string{trust.RoleTimestamp, trust.RoleSnapshot} {
		v.expires[role] = start.Add(30 * day)
	}
	v.rotate(nil)
	v.bump()
	return v
}

// bump makes everything but the root newer.
func (v *vendor) bump() {
	for role := range v.roles {
		if role != trust.RoleRoot {
			v.version[role]++
		}
	}
}

// rotate makes the next root, signed by those keys of the old and of the new one, after a change.
func (v *vendor) rotate(change func()) {
	old := v.roles[trust.RoleRoot]
	if change != nil {
		change()
	}
	v.rootSignedBy(slices.Concat(old.keys[:old.threshold], v.roles[trust.RoleRoot].keys[:v.roles[trust.RoleRoot].threshold])...)
}

func (v *vendor) rootSignedBy(keys ...key) {
	v.version[trust.RoleRoot]++
	m := metadata.Root(v.expires[trust.RoleRoot])
	m.Signed.Version = v.version[trust.RoleRoot]
	for _, role := range metadata.TOP_LEVEL_ROLE_NAMES {
		h := v.roles[role]
		m.Signed.Roles[role].Threshold = h.threshold
		for _, k := range h.keys {
			if err := m.Signed.AddKey(v.tufKey(k), role); err != nil {
				v.t.Fatal(err)
			}
		}
	}
	if v.onRoot != nil {
		v.onRoot(m)
	}
	v.roots[v.version[trust.RoleRoot]] = sign(v.t, m, keys...)
}

func (v *vendor) tufKey(k key) *metadata.Key {
	tk, err := metadata.KeyFromPublicKey(k.pub)
	if err != nil {
		v.t.Fatal(err)
	}
	return tk
}

func sign[T metadata.Roles](t testing.TB, m *metadata.Metadata[T], keys ...key) []byte {
	t.Helper()
	seen := map[string]bool{}
	for _, k := range keys {
		tk, err := metadata.KeyFromPublicKey(k.pub)
		if err != nil {
			t.Fatal(err)
		}
		id, err := tk.ID()
		if err != nil {
			t.Fatal(err)
		}
		if seen[id] {
			continue
		}
		seen[id] = true
		if _, err := m.Sign(k.signer); err != nil {
			t.Fatal(err)
		}
	}
	data, err := m.ToBytes(false)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func (v *vendor) signers(role string) []key {
	h := v.roles[role]
	return h.keys[:min(h.threshold, len(h.keys))]
}

func delegated(role string) bool {
	_, ok := trust.PathsOf(role)
	return ok
}

func (v *vendor) stamp(unknown *map[string]any) {
	if !v.issued.IsZero() {
		*unknown = map[string]any{trust.IssuedField: v.issued.UTC().Format(time.RFC3339)}
	}
}

// publish gives all files as they travel.
func (v *vendor) publish() trust.Files {
	v.t.Helper()
	files := trust.Files{}
	for n, data := range v.roots {
		files[trust.RootFile(n)] = data
	}
	targets := metadata.Targets(v.expires[trust.RoleTargets])
	targets.Signed.Version = v.version[trust.RoleTargets]
	targets.Signed.Delegations = &metadata.Delegations{Keys: map[string]*metadata.Key{}}
	snapshot := metadata.Snapshot(v.expires[trust.RoleSnapshot])
	snapshot.Signed.Version = v.version[trust.RoleSnapshot]
	for _, role := range slices.Sorted(maps.Keys(v.roles)) {
		if !delegated(role) {
			continue
		}
		paths, _ := trust.PathsOf(role)
		r := metadata.DelegatedRole{Name: role, Threshold: v.roles[role].threshold, Terminating: true, Paths: paths, KeyIDs: []string{}}
		targets.Signed.Delegations.Roles = append(targets.Signed.Delegations.Roles, r)
		for _, k := range v.roles[role].keys {
			if err := targets.Signed.AddKey(v.tufKey(k), role); err != nil {
				v.t.Fatal(err)
			}
		}
		channel, ok := trust.ChannelOf(role + ".json")
		if !ok {
			continue
		}
		m := metadata.Targets(v.expires[role])
		m.Signed.Version = v.version[role]
		if d := v.release[channel]; d != "" {
			sum := sha256.Sum256([]byte("unused"))
			copy(sum[:], mustHex(v.t, d.Encoded()))
			m.Signed.Targets[trust.TargetPath(channel)] = &metadata.TargetFiles{Length: 1234, Hashes: metadata.Hashes{"sha256": sum[:]}}
		}
		v.stamp(&m.Signed.UnrecognizedFields)
		if v.onTarget != nil {
			v.onTarget(role, m)
		}
		files[trust.ChannelFile(channel)] = sign(v.t, m, v.signers(role)...)
		snapshot.Signed.Meta[trust.ChannelFile(channel)] = meta(m.Signed.Version, files[trust.ChannelFile(channel)])
	}
	v.stamp(&targets.Signed.UnrecognizedFields)
	if v.onTarget != nil {
		v.onTarget(trust.RoleTargets, targets)
	}
	files[trust.FileTargets] = sign(v.t, targets, v.signers(trust.RoleTargets)...)
	snapshot.Signed.Meta[trust.FileTargets] = meta(targets.Signed.Version, files[trust.FileTargets])
	v.export(files, snapshot)
	return files
}

// export makes snapshot and timestamp.
func (v *vendor) export(files trust.Files, snapshot *metadata.Metadata[metadata.SnapshotType]) {
	v.stamp(&snapshot.Signed.UnrecognizedFields)
	if v.onSnap != nil {
		v.onSnap(snapshot)
	}
	files[trust.FileSnapshot] = sign(v.t, snapshot, v.signers(trust.RoleSnapshot)...)
	timestamp := metadata.Timestamp(v.expires[trust.RoleTimestamp])
	timestamp.Signed.Version = v.version[trust.RoleTimestamp]
	timestamp.Signed.Meta[trust.FileSnapshot] = meta(snapshot.Signed.Version, files[trust.FileSnapshot])
	v.stamp(&timestamp.Signed.UnrecognizedFields)
	if v.onTime != nil {
		v.onTime(timestamp)
	}
	files[trust.FileTimestamp] = sign(v.t, timestamp, v.signers(trust.RoleTimestamp)...)
}

func meta(version int64, data []byte) *metadata.MetaFiles {
	sum := sha256.Sum256(data)
	return &metadata.MetaFiles{Version: version, Length: int64(len(data)), Hashes: metadata.Hashes{"sha256": sum[:]}}
}

func mustHex(t testing.TB, s string) []byte {
	t.Helper()
	var out []byte
	for i := 0; i < len(s); i += 2 {
		out = append(out, hexDigit(s[i])<<4|hexDigit(s[i+1]))
	}
	return out
}

func hexDigit(c byte) byte {
	if c >= 'a' {
		return c - 'a' + 10
	}
	return c - '0'
}

func pin(t testing.TB, root []byte) trust.State {
	t.Helper()
	s, err := trust.Pin(root)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// accept updates, and takes the state through its encoding, as a relay does.
func accept(t testing.TB, s trust.State, files trust.Files, now time.Time) (trust.State, *trust.Verified) {
	t.Helper()
	s, v, err := trust.Update(s, files, now)
	if err != nil {
		t.Fatalf("update: %v", err)
	}
	data, err := s.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if s, err = trust.ParseState(data); err != nil {
		t.Fatal(err)
	}
	return s, v
}
