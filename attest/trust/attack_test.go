package trust_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/plimsoll/plimsoll/attest/trust"
)

// attack is one of those that the TUF specification names, in one form.
type attack struct {
	name string
	// offer gives what the attacker offers to a relay that has seen version 2 of everything, and the time.
	offer func(t *testing.T, v *vendor, seen trust.Files) (trust.Files, time.Time)
	check func(err error) bool
}

func refuses[E error](f func(E) bool) func(error) bool {
	return func(err error) bool {
		var e E
		return errors.As(err, &e) && (f == nil || f(e))
	}
}

func with(files trust.Files, name string, data []byte) trust.Files {
	files = maps.Clone(files)
	files[name] = data
	return files
}

// newer is what the vendor publishes next.
func newer(v *vendor) trust.Files {
	v.bump()
	v.release["stable"] = digest.FromString("stable 2")
	return v.publish()
}

func attacks() []attack {
	thief := func(v *vendor, role string, n int) { // the attacker has n of the keys of a role
		h := v.roles[role]
		h.threshold = n
		v.roles[role] = h
	}
	return []attack{
		// Arbitrary installation: what no key of the role signed.
		{name: "arbitrary installation: release by a foreign key", offer: func(t *testing.T, v *vendor, _ trust.Files) (trust.Files, time.Time) {
			v.bump()
			v.onTarget = nil
			files := v.publish()
			m := metadata.Targets(v.expires["channel-stable"])
			m.Signed.Version = 2
			return with(files, "channel-stable.json", sign(t, m, newKeys(t, 2)...)), start
		}, check: refuses(func(e *trust.MismatchError) bool { return e.File == "channel-stable.json" })},
		{name: "arbitrary installation: release by a foreign key, with the export key's help", offer: func(t *testing.T, v *vendor, _ trust.Files) (trust.Files, time.Time) {
			files := newer(v)
			m := metadata.Targets(v.expires["channel-stable"])
			m.Signed.Version = 2
			files["channel-stable.json"] = sign(t, m, newKeys(t, 2)...)
			v.reexport(files)
			return files, start
		}, check: refuses(func(e *trust.SignatureError) bool {
			return e.File == "channel-stable.json" && e.Have == 0 && e.Want == 2
		})},
		{name: "arbitrary installation: targets by the release keys", offer: func(t *testing.T, v *vendor, _ trust.Files) (trust.Files, time.Time) {
			v.bump()
			files := v.publish()
			m, err := metadata.Targets(start).FromBytes(files[trust.FileTargets])
			if err != nil {
				t.Fatal(err)
			}
			m.ClearSignatures()
			files[trust.FileTargets] = sign(t, m, v.roles["channel-stable"].keys...)
			v.reexport(files)
			return files, start
		}, check: refuses(func(e *trust.SignatureError) bool { return e.File == trust.FileTargets && e.Have == 0 })},
		{name: "arbitrary installation: another channel's release keys", offer: func(t *testing.T, v *vendor, _ trust.Files) (trust.Files, time.Time) {
			files := newer(v)
			files["channel-stable.json"] = files["channel-beta.json"]
			v.reexport(files)
			return files, start
		}, check: refuses[*trust.FormatError](nil)},
		{name: "arbitrary installation: timestamp by a foreign key", offer: func(t *testing.T, v *vendor, _ trust.Files) (trust.Files, time.Time) {
			v.roles[trust.RoleTimestamp] = holders{newKeys(t, 1), 1}
			return newer(v), start
		}, check: refuses(func(e *trust.SignatureError) bool { return e.File == trust.FileTimestamp })},
		{name: "arbitrary installation: snapshot by a foreign key", offer: func(t *testing.T, v *vendor, _ trust.Files) (trust.Files, time.Time) {
			v.roles[trust.RoleSnapshot] = holders{newKeys(t, 1), 1}
			return newer(v), start
		}, check: refuses(func(e *trust.SignatureError) bool { return e.File == trust.FileSnapshot })},
		{name: "arbitrary installation: a root of the attacker's own", offer: func(t *testing.T, v *vendor, _ trust.Files) (trust.Files, time.Time) {
			own := newVendor(t)
			own.rotate(nil)
			return own.publish(), start
		}, check: refuses(func(e *trust.SignatureError) bool { return e.File == "2.root.json" && e.By == "root 1" })},

		// Endless data.
		{name: "endless data: timestamp", offer: oversize(trust.FileTimestamp, trust.MaxTimestamp), check: refuses[*trust.FormatError](nil)},
		{name: "endless data: snapshot", offer: oversize(trust.FileSnapshot, trust.MaxSnapshot), check: refuses[*trust.FormatError](nil)},
		{name: "endless data: targets", offer: oversize(trust.FileTargets, trust.MaxTargets), check: refuses[*trust.FormatError](nil)},
		{name: "endless data: channel", offer: oversize("channel-stable.json", trust.MaxChannel), check: refuses[*trust.FormatError](nil)},
		{name: "endless data: root", offer: oversize("2.root.json", trust.MaxRoot), check: refuses[*trust.FormatError](nil)},
		{name: "endless data: roots without end", offer: func(_ *testing.T, v *vendor, seen trust.Files) (trust.Files, time.Time) {
			files := maps.Clone(seen)
			for n := range int64(trust.MaxRoots + 1) {
				files[trust.RootFile(n+1)] = v.roots[1]
			}
			return files, start
		}, check: refuses(func(e *trust.FormatError) bool { return strings.Contains(e.Error(), "the limit is 1024") })},
		{name: "endless data: channels without end", offer: func(_ *testing.T, _ *vendor, seen trust.Files) (trust.Files, time.Time) {
			files := maps.Clone(seen)
			for n := range trust.MaxChannels {
				files[trust.ChannelFile(fmt.Sprint("x", n))] = []byte("{}")
			}
			return files, start
		}, check: refuses(func(e *trust.FormatError) bool { return strings.Contains(e.Error(), "the limit is 256") })},
		{name: "endless data: signatures without end", offer: func(_ *testing.T, v *vendor, seen trust.Files) (trust.Files, time.Time) {
			many := strings.Repeat(`{"keyid":"x","sig":"00"},`, trust.MaxSignatures)
			data := bytes.Replace(newer(v)[trust.FileTimestamp], []byte(`"signatures":[`), []byte(`"signatures":[`+many), 1)
			return with(seen, trust.FileTimestamp, data), start
		}, check: refuses[*trust.FormatError](nil)},
		{name: "endless data: nested without end", offer: func(_ *testing.T, _ *vendor, seen trust.Files) (trust.Files, time.Time) {
			return with(seen, trust.FileTimestamp, []byte(strings.Repeat("[", 60000))), start
		}, check: refuses[*trust.FormatError](nil)},

		// Extraneous dependencies: what is offered beside what is asked for.
		{name: "extraneous: a channel that nobody delegates to", offer: func(_ *testing.T, v *vendor, seen trust.Files) (trust.Files, time.Time) {
			return with(seen, "channel-evil.json", seen["channel-beta.json"]), start
		}, check: refuses(func(e *trust.MismatchError) bool { return e.File == "channel-evil.json" })},
		{name: "extraneous: another file", offer: func(_ *testing.T, _ *vendor, seen trust.Files) (trust.Files, time.Time) {
			return with(seen, "../../etc/passwd", []byte("x")), start
		}, check: refuses[*trust.FormatError](nil)},
		{name: "extraneous: a channel lists another channel's release", offer: target(func(role string, m *metadata.Metadata[metadata.TargetsType]) {
			if role == "channel-beta" {
				m.Signed.Targets["releases/stable"] = m.Signed.Targets["releases/beta"]
			}
		}), check: refuses(func(e *trust.FormatError) bool { return e.File == "channel-beta.json" })},
		{name: "extraneous: a channel delegates", offer: target(func(role string, m *metadata.Metadata[metadata.TargetsType]) {
			if role == "channel-beta" {
				m.Signed.Delegations = &metadata.Delegations{Keys: map[string]*metadata.Key{}, Roles: []metadata.DelegatedRole{}}
			}
		}), check: refuses(func(e *trust.FormatError) bool { return e.File == "channel-beta.json" })},
		{name: "extraneous: a delegation over more than its channel", offer: target(func(role string, m *metadata.Metadata[metadata.TargetsType]) {
			if role == trust.RoleTargets {
				m.Signed.Delegations.Roles[1].Paths = []string{"releases/*"}
			}
		}), check: refuses(func(e *trust.FormatError) bool { return e.File == trust.FileTargets })},
		{name: "extraneous: the targets role lists a release", offer: target(func(role string, m *metadata.Metadata[metadata.TargetsType]) {
			if role == trust.RoleTargets {
				m.Signed.Targets["releases/stable"] = &metadata.TargetFiles{Length: 1, Hashes: metadata.Hashes{"sha256": make([]byte, 32)}}
			}
		}), check: refuses(func(e *trust.FormatError) bool { return e.File == trust.FileTargets })},

		// Fast-forward is in TestFastForward. Indefinite freeze:
		{name: "freeze: timestamp expired", offer: later(30 * day), check: refuses(func(e *trust.ExpiredError) bool { return e.Role == trust.RoleTimestamp })},
		{name: "freeze: snapshot expired", offer: func(_ *testing.T, v *vendor, _ trust.Files) (trust.Files, time.Time) {
			v.expires[trust.RoleTimestamp] = start.Add(90 * day)
			return newer(v), start.Add(31 * day)
		}, check: refuses(func(e *trust.ExpiredError) bool { return e.Role == trust.RoleSnapshot })},
		{name: "freeze: targets expired", offer: func(_ *testing.T, v *vendor, _ trust.Files) (trust.Files, time.Time) {
			v.expires[trust.RoleTargets] = start.Add(day)
			return newer(v), start.Add(day)
		}, check: refuses(func(e *trust.ExpiredError) bool { return e.Role == trust.RoleTargets })},
		{name: "freeze: root expired", offer: func(_ *testing.T, v *vendor, _ trust.Files) (trust.Files, time.Time) {
			v.expires[trust.RoleRoot] = start.Add(day)
			v.rotate(nil)
			return newer(v), start.Add(2 * day)
		}, check: refuses(func(e *trust.ExpiredError) bool { return e.Role == trust.RoleRoot })},
		{name: "freeze: the timestamp that was accepted, when it has expired", offer: func(_ *testing.T, _ *vendor, seen trust.Files) (trust.Files, time.Time) {
			return seen, start.Add(30 * day)
		}, check: refuses(func(e *trust.ExpiredError) bool { return e.Role == trust.RoleTimestamp })},

		// Mix-and-match.
		{name: "mix-and-match: old channel in a new snapshot", offer: mix("channel-stable.json"), check: refuses[*trust.MismatchError](nil)},
		{name: "mix-and-match: old targets in a new snapshot", offer: mix(trust.FileTargets), check: refuses[*trust.MismatchError](nil)},
		{name: "mix-and-match: old snapshot under a new timestamp", offer: mix(trust.FileSnapshot), check: refuses[*trust.MismatchError](nil)},
		{name: "mix-and-match: new channel in the old snapshot", offer: func(_ *testing.T, v *vendor, seen trust.Files) (trust.Files, time.Time) {
			return with(seen, "channel-stable.json", newer(v)["channel-stable.json"]), start
		}, check: refuses[*trust.MismatchError](nil)},
		{name: "mix-and-match: a second version 1", offer: func(_ *testing.T, v *vendor, _ trust.Files) (trust.Files, time.Time) {
			v.version[trust.RoleTimestamp]++
			v.version[trust.RoleSnapshot]++
			v.release["stable"] = digest.FromString("another one")
			return v.publish(), start
		}, check: refuses(func(e *trust.MismatchError) bool { return strings.Contains(e.Reason, "says something else") })},
		{name: "mix-and-match: a snapshot without hashes", offer: func(_ *testing.T, v *vendor, _ trust.Files) (trust.Files, time.Time) {
			v.onSnap = func(m *metadata.Metadata[metadata.SnapshotType]) { m.Signed.Meta["channel-stable.json"].Hashes = nil }
			return newer(v), start
		}, check: refuses(func(e *trust.FormatError) bool { return e.File == trust.FileSnapshot })},
		{name: "mix-and-match: a channel that the snapshot does not name", offer: func(_ *testing.T, v *vendor, seen trust.Files) (trust.Files, time.Time) {
			v.roles["channel-nightly"] = holders{newKeys(v.t, 1), 1}
			v.expires["channel-nightly"] = start.Add(day)
			v.onSnap = func(m *metadata.Metadata[metadata.SnapshotType]) { delete(m.Signed.Meta, "channel-nightly.json") }
			return newer(v), start
		}, check: refuses(func(e *trust.MismatchError) bool { return e.File == "channel-nightly.json" })},

		// Rollback.
		{name: "rollback: the old medium", offer: nil, check: refuses(func(e *trust.RollbackError) bool {
			return e.Role == trust.RoleTimestamp && e.Have == 2 && e.Offered == 1
		})},
		{name: "rollback: snapshot version", offer: func(_ *testing.T, v *vendor, _ trust.Files) (trust.Files, time.Time) {
			v.version[trust.RoleTimestamp] = 9
			v.version[trust.RoleSnapshot] = 1
			return v.publish(), start
		}, check: refuses(func(e *trust.RollbackError) bool {
			return e.Role == trust.RoleSnapshot && e.Have == 2 && e.Offered == 1
		})},
		{name: "rollback: channel version in the snapshot", offer: func(_ *testing.T, v *vendor, _ trust.Files) (trust.Files, time.Time) {
			v.bump()
			v.version["channel-stable"] = 1
			return v.publish(), start
		}, check: refuses(func(e *trust.RollbackError) bool { return e.Role == "channel-stable" && e.Have == 2 && e.Offered == 1 })},
		{name: "rollback: targets version in the snapshot", offer: func(_ *testing.T, v *vendor, _ trust.Files) (trust.Files, time.Time) {
			v.bump()
			v.version[trust.RoleTargets] = 1
			return v.publish(), start
		}, check: refuses(func(e *trust.RollbackError) bool { return e.Role == trust.RoleTargets })},
		{name: "rollback: a channel vanishes from the snapshot", offer: func(_ *testing.T, v *vendor, _ trust.Files) (trust.Files, time.Time) {
			v.onSnap = func(m *metadata.Metadata[metadata.SnapshotType]) { delete(m.Signed.Meta, "channel-beta.json") }
			return newer(v), start
		}, check: refuses(func(e *trust.RollbackError) bool { return e.Role == "channel-beta" && e.Offered == 0 })},
		{name: "rollback: an old channel under a new export key", offer: func(t *testing.T, v *vendor, _ trust.Files) (trust.Files, time.Time) {
			v.rotate(func() {
				export := holders{newKeys(t, 1), 1}
				v.roles[trust.RoleTimestamp], v.roles[trust.RoleSnapshot] = export, export
			})
			v.version["channel-stable"] = 1
			return v.publish(), start
		}, check: refuses(func(e *trust.RollbackError) bool {
			return e.Role == "channel-stable" && e.File == "channel-stable.json"
		})},
		{name: "rollback: a root that calls itself newer", offer: func(_ *testing.T, v *vendor, seen trust.Files) (trust.Files, time.Time) {
			return with(seen, "2.root.json", v.roots[1]), start
		}, check: refuses(func(e *trust.MismatchError) bool { return e.File == "2.root.json" })},

		// Key compromise: one key less than the threshold.
		{name: "key compromise: 1 of 2 root keys", offer: func(t *testing.T, v *vendor, _ trust.Files) (trust.Files, time.Time) {
			stolen := v.roles[trust.RoleRoot].keys[0]
			v.roles[trust.RoleRoot] = holders{[]key{stolen}, 1}
			v.rootSignedBy(stolen)
			return newer(v), start
		}, check: refuses(func(e *trust.SignatureError) bool {
			return e.File == "2.root.json" && e.By == "root 1" && e.Have == 1 && e.Want == 2
		})},
		{name: "key compromise: 1 of 2 release keys, and the export key", offer: func(_ *testing.T, v *vendor, _ trust.Files) (trust.Files, time.Time) {
			v.bump()
			files := v.publish()
			m, err := metadata.Targets(start).FromBytes(files["channel-stable.json"])
			if err != nil {
				v.t.Fatal(err)
			}
			m.ClearSignatures()
			files["channel-stable.json"] = sign(v.t, m, v.roles["channel-stable"].keys[0])
			v.reexport(files)
			return files, start
		}, check: refuses(func(e *trust.SignatureError) bool {
			return e.File == "channel-stable.json" && e.Have == 1 && e.Want == 2
		})},
		{name: "key compromise: 1 of 2 targets keys, and the export key", offer: func(_ *testing.T, v *vendor, _ trust.Files) (trust.Files, time.Time) {
			thief(v, trust.RoleTargets, 1)
			return newer(v), start
		}, check: refuses(func(e *trust.SignatureError) bool { return e.File == trust.FileTargets && e.Have == 1 })},
		{name: "key compromise: one key's signature twice", offer: func(_ *testing.T, v *vendor, _ trust.Files) (trust.Files, time.Time) {
			thief(v, trust.RoleTargets, 1)
			files := newer(v)
			files[trust.FileTargets] = duplicateSignature(v.t, files[trust.FileTargets], func(id string) string { return id })
			v.reexport(files)
			return files, start
		}, check: refuses(func(e *trust.FormatError) bool { return e.File == trust.FileTargets })},
		{name: "key compromise: one key's signature under another key's name", offer: func(t *testing.T, v *vendor, _ trust.Files) (trust.Files, time.Time) {
			thief(v, trust.RoleTargets, 1)
			files := newer(v)
			other, err := v.tufKey(v.roles[trust.RoleTargets].keys[1]).ID()
			if err != nil {
				t.Fatal(err)
			}
			files[trust.FileTargets] = duplicateSignature(t, files[trust.FileTargets], func(string) string { return other })
			v.reexport(files)
			return files, start
		}, check: refuses(func(e *trust.SignatureError) bool { return e.File == trust.FileTargets && e.Have == 1 })},

		// Roots.
		{name: "root: one in the chain is missing", offer: func(_ *testing.T, v *vendor, _ trust.Files) (trust.Files, time.Time) {
			for range 3 {
				v.rotate(nil)
			}
			files := newer(v)
			delete(files, "3.root.json")
			return files, start
		}, check: refuses(func(e *trust.MissingError) bool { return e.File == "3.root.json" })},
		{name: "root: signed by the new keys only", offer: func(t *testing.T, v *vendor, _ trust.Files) (trust.Files, time.Time) {
			v.roles[trust.RoleRoot] = holders{newKeys(t, 3), 2}
			v.rootSignedBy(v.roles[trust.RoleRoot].keys...)
			return newer(v), start
		}, check: refuses(func(e *trust.SignatureError) bool { return e.By == "root 1" && e.Have == 0 })},
		{name: "root: signed by the old keys only", offer: func(t *testing.T, v *vendor, _ trust.Files) (trust.Files, time.Time) {
			old := v.roles[trust.RoleRoot].keys
			v.roles[trust.RoleRoot] = holders{newKeys(t, 3), 2}
			v.rootSignedBy(old...)
			return newer(v), start
		}, check: refuses(func(e *trust.SignatureError) bool { return e.By == "root 2, itself" && e.Have == 0 })},
		{name: "root: a threshold of 0", offer: rootWith(func(m *metadata.RootType) { m.Roles[trust.RoleTargets].Threshold = 0 }), check: refuses[*trust.KeysError](nil)},
		{name: "root: a threshold beyond its keys", offer: rootWith(func(m *metadata.RootType) { m.Roles[trust.RoleTargets].Threshold = 9 }), check: refuses[*trust.KeysError](nil)},
		{name: "root: a role without keys", offer: rootWith(func(m *metadata.RootType) { m.Roles[trust.RoleTargets].KeyIDs = []string{} }), check: refuses[*trust.KeysError](nil)},
		{name: "root: without a role", offer: rootWith(func(m *metadata.RootType) { delete(m.Roles, trust.RoleTargets) }), check: refuses[*trust.FormatError](nil)},
		{name: "root: a key id twice", offer: rootWith(func(m *metadata.RootType) {
			r := m.Roles[trust.RoleTargets]
			r.KeyIDs = append(r.KeyIDs, r.KeyIDs[0])
		}), check: refuses(func(e *trust.KeysError) bool { return e.Reason == "given twice" })},
		{name: "root: a key under two names", offer: rootWith(func(m *metadata.RootType) {
			r := m.Roles[trust.RoleTargets]
			again := *m.Keys[r.KeyIDs[0]]
			again = metadata.Key{Type: metadata.KeyTypeECDSA_SHA2_P256_COMPAT, Scheme: again.Scheme, Value: again.Value}
			id, _ := again.ID()
			m.Keys[id] = &again
			r.KeyIDs = append(r.KeyIDs, id)
		}), check: refuses(func(e *trust.KeysError) bool { return e.Reason == "given twice" })},
		{name: "root: a key under a name that is not its own", offer: rootWith(func(m *metadata.RootType) {
			r := m.Roles[trust.RoleTargets]
			m.Keys["innocent"] = m.Keys[r.KeyIDs[0]]
			r.KeyIDs[0] = "innocent"
		}), check: refuses[*trust.KeysError](nil)},
		{name: "root: an RSA key", offer: foreignKey(func(t *testing.T) any {
			k, err := rsa.GenerateKey(rand.Reader, 2048)
			if err != nil {
				t.Fatal(err)
			}
			return &k.PublicKey
		}), check: refuses[*trust.KeysError](nil)},
		{name: "root: a P-384 key", offer: foreignKey(func(t *testing.T) any {
			k, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			return &k.PublicKey
		}), check: refuses[*trust.KeysError](nil)},
		{name: "root: an Ed25519 key of 31 bytes", offer: rootWith(func(m *metadata.RootType) {
			k := &metadata.Key{Type: "ed25519", Scheme: "ed25519", Value: metadata.KeyVal{PublicKey: strings.Repeat("00", 31)}}
			id, _ := k.ID()
			m.Keys[id] = k
			m.Roles[trust.RoleTargets].KeyIDs[0] = id
		}), check: refuses[*trust.KeysError](nil)},

		// Keys that must be apart.
		{name: "key reuse: release and attestation", offer: reuse("channel-stable", trust.RoleAttestation), check: refuses(func(e *trust.KeyReuseError) bool {
			return e.Roles == [2]string{trust.RoleAttestation, "channel-stable"}
		})},
		{name: "key reuse: release and revocation", offer: reuse("channel-beta", trust.RoleRevocation), check: refuses[*trust.KeyReuseError](nil)},
		{name: "key reuse: attestation and export", offer: reuse(trust.RoleTimestamp, trust.RoleAttestation), check: refuses[*trust.KeyReuseError](nil)},
		{name: "key reuse: release and targets", offer: reuse(trust.RoleTargets, "channel-stable"), check: refuses[*trust.KeyReuseError](nil)},
		{name: "key reuse: export and root", offer: rootReuse(trust.RoleTimestamp, trust.RoleRoot), check: refuses[*trust.KeyReuseError](nil)},

		// Wrong types.
		{name: "wrong type: snapshot as timestamp", offer: instead(trust.FileTimestamp, trust.FileSnapshot), check: refuses[*trust.FormatError](nil)},
		{name: "wrong type: timestamp as snapshot", offer: instead(trust.FileSnapshot, trust.FileTimestamp), check: refuses[*trust.FormatError](nil)},
		{name: "wrong type: channel as targets", offer: instead(trust.FileTargets, "channel-stable.json"), check: refuses[*trust.FormatError](nil)},
		{name: "wrong type: targets as channel", offer: instead("channel-stable.json", trust.FileTargets), check: refuses[*trust.FormatError](nil)},
		{name: "wrong type: targets as root", offer: instead("2.root.json", trust.FileTargets), check: refuses[*trust.FormatError](nil)},

		// Missing files.
		{name: "missing: timestamp", offer: without(trust.FileTimestamp), check: refuses(func(e *trust.MissingError) bool { return e.File == trust.FileTimestamp })},
		{name: "missing: snapshot", offer: without(trust.FileSnapshot), check: refuses(func(e *trust.MissingError) bool { return e.File == trust.FileSnapshot })},
		{name: "missing: targets", offer: without(trust.FileTargets), check: refuses(func(e *trust.MissingError) bool { return e.File == trust.FileTargets })},
	}
}

// Every attack against a relay that has accepted the vendor's second medium. The state must stay what it was, but for roots.
func TestAttacks(t *testing.T) {
	for _, a := range attacks() {
		t.Run(a.name, func(t *testing.T) {
			v := newVendor(t)
			first := v.publish()
			state, _ := accept(t, pin(t, v.roots[1]), first, start)
			v.bump()
			second := v.publish()
			state, _ = accept(t, state, second, start)
			offered, now := first, start
			if a.offer != nil {
				offered, now = a.offer(t, v, second)
			}
			after, got, err := trust.Update(state, offered, now)
			if err == nil || got != nil {
				t.Fatalf("accepted: %+v", got)
			}
			if !a.check(err) {
				t.Errorf("refused for another reason: %T %v", err, err)
			}
			after.Root = state.Root
			if !reflect.DeepEqual(after, state) {
				t.Error("the state changed")
			}
		})
	}
}

// reexport signs snapshot and timestamp over files that were exchanged: the attacker has the export key, too.
func (v *vendor) reexport(files trust.Files) {
	snapshot, err := metadata.Snapshot(start).FromBytes(files[trust.FileSnapshot])
	if err != nil {
		v.t.Fatal(err)
	}
	snapshot.ClearSignatures()
	for name, m := range snapshot.Signed.Meta {
		snapshot.Signed.Meta[name] = meta(m.Version, files[name])
	}
	v.export(files, snapshot)
}

func oversize(name string, limit int) func(*testing.T, *vendor, trust.Files) (trust.Files, time.Time) {
	return func(_ *testing.T, _ *vendor, seen trust.Files) (trust.Files, time.Time) {
		data := append(bytes.Clone(seen[name]), bytes.Repeat([]byte(" "), limit)...)
		return with(seen, name, data), start
	}
}

func target(change func(string, *metadata.Metadata[metadata.TargetsType])) func(*testing.T, *vendor, trust.Files) (trust.Files, time.Time) {
	return func(_ *testing.T, v *vendor, _ trust.Files) (trust.Files, time.Time) {
		v.onTarget = change
		return newer(v), start
	}
}

func later(d time.Duration) func(*testing.T, *vendor, trust.Files) (trust.Files, time.Time) {
	return func(_ *testing.T, v *vendor, _ trust.Files) (trust.Files, time.Time) { return newer(v), start.Add(d) }
}

func mix(name string) func(*testing.T, *vendor, trust.Files) (trust.Files, time.Time) {
	return func(_ *testing.T, v *vendor, seen trust.Files) (trust.Files, time.Time) {
		return with(newer(v), name, seen[name]), start
	}
}

func instead(name, of string) func(*testing.T, *vendor, trust.Files) (trust.Files, time.Time) {
	return func(_ *testing.T, v *vendor, _ trust.Files) (trust.Files, time.Time) {
		files := newer(v)
		files[name] = files[of]
		if _, root := trust.RootVersion(name); !root && name != trust.FileTimestamp && name != trust.FileSnapshot {
			v.reexport(files)
		}
		return files, start
	}
}

func without(name string) func(*testing.T, *vendor, trust.Files) (trust.Files, time.Time) {
	return func(_ *testing.T, v *vendor, _ trust.Files) (trust.Files, time.Time) {
		files := newer(v)
		delete(files, name)
		return files, start
	}
}

func rootWith(change func(*metadata.RootType)) func(*testing.T, *vendor, trust.Files) (trust.Files, time.Time) {
	return func(_ *testing.T, v *vendor, _ trust.Files) (trust.Files, time.Time) {
		v.onRoot = func(m *metadata.Metadata[metadata.RootType]) { change(&m.Signed) }
		v.rotate(nil)
		return newer(v), start
	}
}

func foreignKey(make func(*testing.T) any) func(*testing.T, *vendor, trust.Files) (trust.Files, time.Time) {
	return func(t *testing.T, v *vendor, seen trust.Files) (trust.Files, time.Time) {
		k, err := metadata.KeyFromPublicKey(make(t))
		if err != nil {
			t.Fatal(err)
		}
		id, err := k.ID()
		if err != nil {
			t.Fatal(err)
		}
		return rootWith(func(m *metadata.RootType) {
			m.Keys[id] = k
			m.Roles[trust.RoleTargets].KeyIDs[0] = id
		})(t, v, seen)
	}
}

func reuse(role, again string) func(*testing.T, *vendor, trust.Files) (trust.Files, time.Time) {
	return func(_ *testing.T, v *vendor, _ trust.Files) (trust.Files, time.Time) {
		h := v.roles[again]
		h.keys = append(slices.Clone(h.keys), v.roles[role].keys[0])
		v.roles[again] = h
		return newer(v), start
	}
}

func rootReuse(role, again string) func(*testing.T, *vendor, trust.Files) (trust.Files, time.Time) {
	return func(_ *testing.T, v *vendor, _ trust.Files) (trust.Files, time.Time) {
		v.rotate(func() {
			h := v.roles[again]
			h.keys = append(slices.Clone(h.keys), v.roles[role].keys[0])
			v.roles[again] = h
		})
		return newer(v), start
	}
}

func duplicateSignature(t testing.TB, data []byte, name func(string) string) []byte {
	t.Helper()
	var doc struct {
		Signatures []map[string]string `json:"signatures"`
		Signed     json.RawMessage     `json:"signed"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	first := doc.Signatures[0]
	doc.Signatures = append(doc.Signatures, map[string]string{"keyid": name(first["keyid"]), "sig": first["sig"]})
	data, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// A thief of the export key signs the largest versions that there are. The vendor replaces the key, and goes on where he
// was: relays forget what the stolen key signed.
func TestFastForward(t *testing.T) {
	v := newVendor(t)
	honest := maps.Clone(v.version)
	v.version[trust.RoleTimestamp], v.version[trust.RoleSnapshot] = trust.MaxVersion, trust.MaxVersion
	state, _ := accept(t, pin(t, v.roots[1]), v.publish(), start)

	v.version = honest
	v.bump()
	var back *trust.RollbackError
	if _, _, err := trust.Update(state, v.publish(), start); !errors.As(err, &back) {
		t.Fatalf("the attack had no effect: %v", err)
	}
	v.rotate(func() {
		export := holders{newKeys(t, 1), 1}
		v.roles[trust.RoleTimestamp], v.roles[trust.RoleSnapshot] = export, export
	})
	_, got := accept(t, state, v.publish(), start)
	if got.Version(trust.RoleTimestamp) != 2 {
		t.Errorf("timestamp %d", got.Version(trust.RoleTimestamp))
	}
	// A version beyond what all JSON parsers read is none.
	v.version[trust.RoleTimestamp] = trust.MaxVersion + 1
	if _, _, err := trust.Update(state, v.publish(), start); err == nil {
		t.Error("version 1<<53 + 1")
	}
}

// Each file with one bit flipped, and cut: nothing but the same content may be accepted.
func TestDamagedMetadata(t *testing.T) {
	v := newVendor(t)
	v.rotate(nil)
	files := v.publish()
	state := pin(t, v.roots[1])
	_, want := accept(t, state, files, start)
	for _, name := range files.Names() {
		if name == "1.root.json" {
			continue // known; not looked at
		}
		data := files[name]
		for i := 0; i < len(data); i += 1 + len(data)/20 {
			flipped := bytes.Clone(data)
			flipped[i] ^= 1 << (i % 7)
			refuse(t, state, want, with(files, name, flipped), fmt.Sprintf("%s: byte %d", name, i))
			refuse(t, state, want, with(files, name, data[:i]), fmt.Sprintf("%s: cut at %d", name, i))
		}
	}
}

func refuse(t *testing.T, state trust.State, want *trust.Verified, files trust.Files, what string) {
	t.Helper()
	_, got, err := trust.Update(state, files, start)
	if err == nil && !reflect.DeepEqual(got, want) {
		t.Errorf("%s: accepted with another content", what)
	}
}
