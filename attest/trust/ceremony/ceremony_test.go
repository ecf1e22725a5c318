package ceremony_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/attest/trust"
	"github.com/plimsoll/plimsoll/attest/trust/ceremony"
)

const day = 24 * time.Hour

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

type key struct {
	pub    crypto.PublicKey
	id     string
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
	return key{private.Public(), attest.KeyID(private.Public()), signer}
}

func keysOf(threshold int, keys ...key) trust.Keys {
	k := trust.Keys{Threshold: threshold}
	for _, key := range keys {
		k.Public = append(k.Public, key.pub)
	}
	return k
}

// office has the people of a ceremony and the folder at head office.
type office struct {
	t                       *testing.T
	dir                     string
	alice, bob, carol       key // root and targets, 2 of 3
	release, release2       key
	export, attestation, ci key
}

func newOffice(t *testing.T) *office {
	t.Helper()
	o := &office{t: t, dir: filepath.Join(t.TempDir(), "trust"),
		alice: newKey(t, "ecdsa"), bob: newKey(t, "ed25519"), carol: newKey(t, "ecdsa"),
		release: newKey(t, "ecdsa"), release2: newKey(t, "ed25519"), export: newKey(t, "ecdsa"),
		attestation: newKey(t, "ecdsa"), ci: newKey(t, "ed25519")}
	if _, err := ceremony.Init(o.dir, ceremony.Plan{
		Root: keysOf(2, o.alice, o.bob, o.carol), Export: keysOf(1, o.export), Now: start, Expires: start.Add(5 * 365 * day),
	}); err != nil {
		t.Fatal(err)
	}
	return o
}

// ready is an office whose root is published, with channel stable and its first release exported.
func ready(t *testing.T) *office {
	t.Helper()
	o := newOffice(t)
	o.edit(func(f *ceremony.Folder) error {
		return f.Delegate("stable", keysOf(1, o.release), ceremony.Edit{Now: start})
	})
	o.edit(func(f *ceremony.Folder) error {
		return f.AddKeys(trust.RoleAttestation, []crypto.PublicKey{o.attestation.pub}, ceremony.Edit{Now: start})
	})
	o.sign(o.dir, o.alice)
	o.sign(o.dir, o.bob)
	o.setRelease("one", start.Add(365*day))
	o.sign(o.dir, o.release)
	o.exportAt(start)
	return o
}

func (o *office) open(dir string) *ceremony.Folder {
	o.t.Helper()
	f, err := ceremony.Open(dir)
	if err != nil {
		o.t.Fatal(err)
	}
	return f
}

func (o *office) edit(change func(*ceremony.Folder) error) {
	o.t.Helper()
	if err := change(o.open(o.dir)); err != nil {
		o.t.Fatal(err)
	}
}

func (o *office) setRelease(content string, expires time.Time) {
	o.t.Helper()
	o.edit(func(f *ceremony.Folder) error {
		return f.SetRelease("stable", digest.FromString(content), 1234, ceremony.Edit{Now: start, Expires: expires})
	})
}

func shown(ceremony.Item, []string) error { return nil }

func (o *office) sign(dir string, k key) ceremony.Result {
	o.t.Helper()
	r, err := o.open(dir).Sign(k.signer, shown)
	if err != nil {
		o.t.Fatal(err)
	}
	return r
}

func (o *office) exportAt(now time.Time) *trust.Verified {
	o.t.Helper()
	v, err := o.open(o.dir).Export(ceremony.Edit{Now: now, Expires: now.Add(90 * day)}, o.export.signer)
	if err != nil {
		o.t.Fatal(err)
	}
	return v
}

// carry copies the folder to a stick.
func (o *office) carry() string {
	o.t.Helper()
	dir := filepath.Join(o.t.TempDir(), "trust")
	if err := os.CopyFS(dir, os.DirFS(o.dir)); err != nil {
		o.t.Fatal(err)
	}
	return dir
}

// content is everything in a folder, to see that nothing was written.
func content(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	if err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		all[strings.TrimPrefix(path, dir)] = string(data)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

func sameContent(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for name, data := range a {
		if b[name] != data {
			return false
		}
	}
	return true
}

func TestFromInitToRelay(t *testing.T) {
	o := ready(t)
	files, v, err := o.open(o.dir).Verify(start.Add(day))
	if err != nil {
		t.Fatal(err)
	}
	c, err := v.Channel("stable")
	if err != nil || c.Bundle != digest.FromString("one") || c.Release.IDs()[0] != o.release.id {
		t.Errorf("%+v, %v", c, err)
	}
	if !v.SignedAt().Equal(start) || !v.UseBy().Equal(start.Add(90*day)) {
		t.Errorf("signed %v, use by %v", v.SignedAt(), v.UseBy())
	}
	if len(files) != 5 {
		t.Errorf("files %v", files.Names())
	}
	// The same release once more is nothing to sign.
	before := content(t, o.dir)
	o.edit(func(f *ceremony.Folder) error {
		return f.SetRelease("stable", digest.FromString("one"), 1234, ceremony.Edit{Now: start})
	})
	if !sameContent(before, content(t, o.dir)) {
		t.Error("the same release made a new version")
	}
	// A second release, seen by a relay that had the first.
	state, err := trust.Pin(files["1.root.json"])
	if err != nil {
		t.Fatal(err)
	}
	if state, _, err = trust.Update(state, files, start); err != nil {
		t.Fatal(err)
	}
	o.setRelease("two", time.Time{})
	o.sign(o.dir, o.release)
	o.exportAt(start.Add(day))
	files, _, err = o.open(o.dir).Verify(start.Add(day))
	if err != nil {
		t.Fatal(err)
	}
	_, v, err = trust.Update(state, files, start.Add(day))
	if err != nil {
		t.Fatal(err)
	}
	if c, _ := v.Channel("stable"); c.Bundle != digest.FromString("two") || c.Version != 2 {
		t.Errorf("%+v", c)
	}
}

// Prepared at head office, signed by three people on machines of their own, merged: a root with two of three replaced.
func TestCeremonyOnThreeFolders(t *testing.T) {
	o := ready(t)
	dave := newKey(t, "ed25519")
	o.edit(func(f *ceremony.Folder) error {
		return f.Rotate(trust.RoleRoot, o.carol.id[:12], dave.pub, ceremony.Edit{Now: start.Add(day)})
	})
	o.edit(func(f *ceremony.Folder) error {
		return f.Rotate(trust.RoleTargets, o.carol.id, dave.pub, ceremony.Edit{Now: start.Add(day)})
	})
	atAlice, atBob, atDave := o.carry(), o.carry(), o.carry()
	// Meanwhile exports go on with what is published.
	if v := o.exportAt(start.Add(2 * day)); v.RootVersion() != 1 {
		t.Errorf("exported root %d", v.RootVersion())
	}
	if r := o.sign(atAlice, o.alice); len(r.Signed) != 1 || len(r.Published) != 0 {
		t.Errorf("alice: %+v", r)
	}
	if r := o.sign(atDave, dave); !slices.Equal(r.Signed, []string{"2.root.json"}) || len(r.Published) != 0 {
		t.Errorf("dave: %+v", r)
	}
	r, err := o.open(o.dir).Merge(o.open(atAlice), o.open(atDave))
	if err != nil {
		t.Fatal(err)
	}
	// Two of the new keys signed, but only one of the old: carol is gone, bob must.
	if len(r.Published) != 0 {
		t.Fatalf("published by one of the old keys: %+v", r)
	}
	o.sign(atBob, o.bob)
	if r, err = o.open(o.dir).Merge(o.open(atBob)); err != nil || !slices.Equal(r.Published, []string{"2.root.json"}) {
		t.Fatalf("%+v, %v", r, err)
	}
	if r, err = o.open(o.dir).Merge(o.open(atBob), o.open(atAlice)); err != nil || len(r.Signed) != 0 || len(r.Published) != 0 {
		t.Errorf("merged again: %+v, %v", r, err)
	}
	if v := o.exportAt(start.Add(3 * day)); v.RootVersion() != 2 {
		t.Errorf("exported root %d", v.RootVersion())
	}
	if _, err := os.Stat(filepath.Join(o.dir, "pending", "2.root.json")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("still pending: %v", err)
	}
}

// When the targets role gets keys of which too few signed the targets, these want signatures again; without them nothing
// is exported that relays would refuse.
func TestTargetsAreSignedAgain(t *testing.T) {
	o := ready(t)
	dave, erin := newKey(t, "ecdsa"), newKey(t, "ecdsa")
	e := ceremony.Edit{Now: start.Add(day)}
	o.edit(func(f *ceremony.Folder) error { return f.Rotate(trust.RoleTargets, o.alice.id, dave.pub, e) })
	o.edit(func(f *ceremony.Folder) error { return f.Rotate(trust.RoleTargets, o.bob.id, erin.pub, e) })
	o.sign(o.dir, o.alice)
	if r := o.sign(o.dir, o.bob); !slices.Equal(r.Published, []string{"2.root.json"}) {
		t.Fatalf("%+v", r)
	}
	before := content(t, o.dir)
	var few *trust.SignatureError
	if _, err := o.open(o.dir).Export(ceremony.Edit{Now: start, Expires: start.Add(day)}, o.export.signer); !errors.As(err, &few) || few.File != trust.FileTargets {
		t.Errorf("exported targets by keys that were replaced: %v", err)
	}
	if !sameContent(before, content(t, o.dir)) {
		t.Error("a refused export wrote something")
	}
	o.sign(o.dir, dave)
	o.sign(o.dir, erin)
	o.exportAt(start.Add(2 * day))
}

func TestMergeRefuses(t *testing.T) {
	o := ready(t)
	e := ceremony.Edit{Now: start.Add(day)}
	stick := o.carry() // of the time before the change
	o.edit(func(f *ceremony.Folder) error { return f.SetThreshold(trust.RoleRoot, 3, e) })

	// An old copy has nothing new, and no contradiction.
	if r, err := o.open(o.dir).Merge(o.open(stick)); err != nil || len(r.Signed) != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	// Another version 2, made elsewhere and signed.
	other, err := ceremony.Open(stick)
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Renew(trust.RoleRoot, ceremony.Edit{Now: start.Add(day), Expires: start.Add(9 * 365 * day)}); err != nil {
		t.Fatal(err)
	}
	o.sign(stick, o.alice)
	before := content(t, o.dir)
	var conflict *ceremony.ConflictError
	if _, err := o.open(o.dir).Merge(o.open(stick)); !errors.As(err, &conflict) || conflict.File != "2.root.json" {
		t.Errorf("another root 2: %v", err)
	}
	// A copy that is ahead.
	ahead := o.carry()
	f := o.open(ahead)
	if err := f.Renew(trust.RoleTargets, ceremony.Edit{Now: start, Expires: start.Add(9 * 365 * day)}); err != nil {
		t.Fatal(err)
	}
	if _, err := o.open(o.dir).Merge(o.open(ahead)); !errors.As(err, &conflict) || conflict.File != trust.FileTargets {
		t.Errorf("a copy that is ahead: %v", err)
	}
	// A signature that is not valid.
	bad := o.carry()
	o.sign(bad, o.alice)
	path := filepath.Join(bad, "pending", "2.root.json")
	m, err := metadata.Root(start).FromFile(path)
	if err != nil {
		t.Fatal(err)
	}
	m.Signatures[0].Signature[9] ^= 1
	if err := m.ToFile(path, true); err != nil {
		t.Fatal(err)
	}
	var invalid *ceremony.BadSignatureError
	if _, err := o.open(o.dir).Merge(o.open(bad)); !errors.As(err, &invalid) || invalid.KeyID != o.alice.id {
		t.Errorf("an invalid signature: %v", err)
	}
	if !sameContent(before, content(t, o.dir)) {
		t.Error("a refused merge wrote something")
	}
	// Signatures by somebody who is not asked are not taken.
	foreign := o.carry()
	path = filepath.Join(foreign, "pending", "2.root.json")
	if m, err = metadata.Root(start).FromFile(path); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Sign(o.ci.signer); err != nil {
		t.Fatal(err)
	}
	if err := m.ToFile(path, true); err != nil {
		t.Fatal(err)
	}
	if r, err := o.open(o.dir).Merge(o.open(foreign)); err != nil || len(r.Signed) != 0 {
		t.Errorf("a foreign signature: %+v, %v", r, err)
	}
}

func TestSignRefuses(t *testing.T) {
	o := newOffice(t)
	var nothing *ceremony.NothingToSignError
	if _, err := o.open(o.dir).Sign(o.ci.signer, shown); !errors.As(err, &nothing) {
		t.Errorf("a key without a role: %v", err)
	}
	before := content(t, o.dir)
	refused := errors.New("no")
	if _, err := o.open(o.dir).Sign(o.alice.signer, func(ceremony.Item, []string) error { return refused }); !errors.Is(err, refused) {
		t.Errorf("not shown: %v", err)
	}
	if !sameContent(before, content(t, o.dir)) {
		t.Error("signed what was refused")
	}
	o.sign(o.dir, o.alice)
	if _, err := o.open(o.dir).Sign(o.alice.signer, shown); !errors.As(err, &nothing) {
		t.Errorf("signed twice: %v", err)
	}
	var pending *ceremony.PendingError
	err := o.open(o.dir).SetThreshold(trust.RoleRoot, 3, ceremony.Edit{Now: start})
	if !errors.As(err, &pending) || pending.Signatures != 1 {
		t.Errorf("changed what was signed: %v", err)
	}
	if err := o.open(o.dir).Discard("targets.json"); err != nil {
		t.Error(err)
	}
	if err := o.open(o.dir).Discard("targets.json"); err == nil {
		t.Error("discarded twice")
	}
}

// What a person would not see is not signed.
func TestUnshowable(t *testing.T) {
	for name, change := range map[string]func(*metadata.RootType){
		"a field":                func(r *metadata.RootType) { r.UnrecognizedFields["x-hidden"] = "also trust mallory" },
		"a role":                 func(r *metadata.RootType) { r.Roles["mallory"] = &metadata.Role{KeyIDs: []string{"x"}, Threshold: 1} },
		"a key of no role":       func(r *metadata.RootType) { r.Keys["x"] = &metadata.Key{Type: "x"} },
		"a field of a role":      func(r *metadata.RootType) { r.Roles["root"].UnrecognizedFields = map[string]any{"x": 1} },
		"a field of a timestamp": func(r *metadata.RootType) { r.Roles["timestamp"].UnrecognizedFields = map[string]any{"x": 1} },
	} {
		o := newOffice(t)
		path := filepath.Join(o.dir, "pending", "1.root.json")
		m, err := metadata.Root(start).FromFile(path)
		if err != nil {
			t.Fatal(err)
		}
		change(&m.Signed)
		if err := m.ToFile(path, true); err != nil {
			t.Fatal(err)
		}
		var hidden *ceremony.UnshowableError
		if _, err := o.open(o.dir).Sign(o.alice.signer, shown); !errors.As(err, &hidden) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What is shown says everything that changed.
func TestShown(t *testing.T) {
	o := ready(t)
	o.edit(func(f *ceremony.Folder) error {
		return f.Rotate(trust.RoleRoot, o.carol.id, o.ci.pub, ceremony.Edit{Now: start.Add(day)})
	})
	var text string
	if _, err := o.open(o.dir).Sign(o.alice.signer, func(i ceremony.Item, lines []string) error {
		if i.File != "2.root.json" || i.Version != 2 || !i.Pending {
			t.Errorf("%+v", i)
		}
		text = strings.Join(lines, "\n")
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"+ version 2", "- version 1", "+ root: key " + o.ci.id + " (Ed25519)", "- root: key " + o.carol.id + " (ECDSA P-256)",
		"  root: 2 of 3 keys", "  timestamp: key " + o.export.id + " (ECDSA P-256)"} {
		if !strings.Contains("\n"+text+"\n", "\n"+line+"\n") {
			t.Errorf("no line %q in\n%s", line, text)
		}
	}
}

func TestEditsRefused(t *testing.T) {
	o := ready(t)
	e := ceremony.Edit{Now: start}
	for name, change := range map[string]func(*ceremony.Folder) error{
		"an attestation key that releases": func(f *ceremony.Folder) error { return f.AddKeys("channel-stable", pubs(o.attestation), e) },
		"a release key that attests":       func(f *ceremony.Folder) error { return f.AddKeys(trust.RoleAttestation, pubs(o.release), e) },
		"an export key that is root":       func(f *ceremony.Folder) error { return f.AddKeys(trust.RoleRoot, pubs(o.export), e) },
		"a root key that revokes":          func(f *ceremony.Folder) error { return f.AddKeys(trust.RoleRevocation, pubs(o.alice), e) },
		"a release key that exports":       func(f *ceremony.Folder) error { return f.AddKeys(ceremony.RoleExport, pubs(o.release), e) },
		"a key that has the role":          func(f *ceremony.Folder) error { return f.AddKeys(trust.RoleRoot, pubs(o.bob), e) },
		"a key twice":                      func(f *ceremony.Folder) error { return f.AddKeys(trust.RoleRoot, pubs(o.ci, o.ci), e) },
		"a channel that is there":          func(f *ceremony.Folder) error { return f.Delegate("stable", keysOf(1, o.release2), e) },
		"a channel with a bad name":        func(f *ceremony.Folder) error { return f.Delegate("../stable", keysOf(1, o.release2), e) },
		"a channel without keys":           func(f *ceremony.Folder) error { return f.Delegate("beta", trust.Keys{}, e) },
		"a key for no channel":             func(f *ceremony.Folder) error { return f.AddKeys("channel-beta", pubs(o.release2), e) },
		"a role that is none":              func(f *ceremony.Folder) error { return f.AddKeys("king", pubs(o.ci), e) },
		"threshold 0":                      func(f *ceremony.Folder) error { return f.SetThreshold(trust.RoleRoot, 0, e) },
		"threshold 4 of 3":                 func(f *ceremony.Folder) error { return f.SetThreshold(trust.RoleRoot, 4, e) },
		"the threshold that it has":        func(f *ceremony.Folder) error { return f.SetThreshold(trust.RoleRoot, 2, e) },
		"too few keys left":                func(f *ceremony.Folder) error { return f.RemoveKey("channel-stable", o.release.id, e) },
		"a key that has it not":            func(f *ceremony.Folder) error { return f.RemoveKey(trust.RoleRoot, o.ci.id, e) },
		"a beginning that is short":        func(f *ceremony.Folder) error { return f.RemoveKey(trust.RoleRoot, o.alice.id[:7], e) },
		"rotate to a key that has it":      func(f *ceremony.Folder) error { return f.Rotate(trust.RoleRoot, o.alice.id, o.bob.pub, e) },
		"renew into the past": func(f *ceremony.Folder) error {
			return f.Renew(trust.RoleRoot, ceremony.Edit{Now: start, Expires: start})
		},
		"renew without a time": func(f *ceremony.Folder) error { return f.Renew(trust.RoleRoot, e) },
		"renew a timestamp": func(f *ceremony.Folder) error {
			return f.Renew("timestamp", ceremony.Edit{Now: start, Expires: start.Add(day)})
		},
		"a release for no channel": func(f *ceremony.Folder) error {
			return f.SetRelease("beta", digest.FromString("x"), 1, ceremony.Edit{Now: start, Expires: start.Add(day)})
		},
		"a release without a digest": func(f *ceremony.Folder) error { return f.SetRelease("stable", "x", 1, e) },
		"a release of no size":       func(f *ceremony.Folder) error { return f.SetRelease("stable", digest.FromString("x"), 0, e) },
		"a release by sha512":        func(f *ceremony.Folder) error { return f.SetRelease("stable", digest.SHA512.FromString("x"), 1, e) },
		"an edit without a time":     func(f *ceremony.Folder) error { return f.SetThreshold(trust.RoleRoot, 1, ceremony.Edit{}) },
		"an RSA-like key":            func(f *ceremony.Folder) error { return f.AddKeys(trust.RoleRoot, []crypto.PublicKey{"no key"}, e) },
		"an export by a root key": func(f *ceremony.Folder) error {
			_, err := f.Export(ceremony.Edit{Now: start, Expires: start.Add(day)}, o.alice.signer)
			return err
		},
		"an export by nobody": func(f *ceremony.Folder) error {
			_, err := f.Export(ceremony.Edit{Now: start, Expires: start.Add(day)})
			return err
		},
		"an export that has expired": func(f *ceremony.Folder) error {
			_, err := f.Export(ceremony.Edit{Now: start, Expires: start}, o.export.signer)
			return err
		},
		"an export after the root's expiry": func(f *ceremony.Folder) error {
			at := start.Add(6 * 365 * day)
			_, err := f.Export(ceremony.Edit{Now: at, Expires: at.Add(day)}, o.export.signer)
			return err
		},
		"a root of trust where there is one": func(*ceremony.Folder) error { _, err := ceremony.Init(o.dir, ceremony.Plan{}); return err },
	} {
		before := content(t, o.dir)
		if err := change(o.open(o.dir)); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if !sameContent(before, content(t, o.dir)) {
			t.Fatalf("%s: refused, but something was written", name)
		}
	}
}

func pubs(keys ...key) []crypto.PublicKey { return keysOf(1, keys...).Public }

// A stop at each point of publishing leaves a folder that goes on.
func TestStopWhilePublishing(t *testing.T) {
	o := ready(t)
	o.edit(func(f *ceremony.Folder) error { return f.SetThreshold(trust.RoleRoot, 3, ceremony.Edit{Now: start}) })
	o.sign(o.dir, o.alice)
	o.sign(o.dir, o.bob)
	pending, err := os.ReadFile(filepath.Join(o.dir, "pending", "2.root.json"))
	if err != nil {
		t.Fatal(err)
	}
	o.sign(o.dir, o.carol)
	// As if the power had gone before the pending file was removed.
	if err := os.WriteFile(filepath.Join(o.dir, "pending", "2.root.json"), pending, 0o644); err != nil {
		t.Fatal(err)
	}
	o.edit(func(f *ceremony.Folder) error { return f.SetThreshold(trust.RoleRoot, 2, ceremony.Edit{Now: start}) })
	s, err := o.open(o.dir).Status(start)
	if err != nil || s.Root != 2 {
		t.Fatalf("%+v, %v", s, err)
	}
	// A snapshot that no timestamp names yet: the next export counts on from it.
	data, err := os.ReadFile(filepath.Join(o.dir, trust.FileTimestamp))
	if err != nil {
		t.Fatal(err)
	}
	o.exportAt(start)
	if err := os.WriteFile(filepath.Join(o.dir, trust.FileTimestamp), data, 0o644); err != nil {
		t.Fatal(err)
	}
	if s, err := o.open(o.dir).Status(start); err != nil || s.Problem == "" {
		t.Errorf("no problem is seen: %+v, %v", s, err)
	}
	if v := o.exportAt(start); v.Version(trust.RoleSnapshot) != 3 {
		t.Errorf("snapshot %d", v.Version(trust.RoleSnapshot))
	}
}

func TestOpenRefuses(t *testing.T) {
	if _, err := ceremony.Open(filepath.Join(t.TempDir(), "absent")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent: %v", err)
	}
	for name, damage := range map[string]func(dir string) error{
		"no root": func(dir string) error { return os.Remove(filepath.Join(dir, "1.root.json")) },
		"damaged": func(dir string) error { return os.WriteFile(filepath.Join(dir, "targets.json"), []byte("{"), 0o644) },
		"root 3 of none": func(dir string) error {
			return os.Rename(filepath.Join(dir, "1.root.json"), filepath.Join(dir, "3.root.json"))
		},
		"a huge file": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "targets.json"), bytes.Repeat([]byte(" "), trust.MaxTargets+1), 0o644)
		},
		"a pending version beyond the next": func(dir string) error {
			data, err := os.ReadFile(filepath.Join(dir, "targets.json"))
			if err != nil {
				return err
			}
			data = bytes.Replace(data, []byte(`"version": 1`), []byte(`"version": 7`), 1)
			return errors.Join(os.MkdirAll(filepath.Join(dir, "pending"), 0o755), os.WriteFile(filepath.Join(dir, "pending", "targets.json"), data, 0o644))
		},
	} {
		o := ready(t)
		if err := damage(o.dir); err != nil {
			t.Fatal(err)
		}
		if _, err := ceremony.Open(o.dir); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
	// What is none of ours is left alone.
	o := ready(t)
	if err := os.WriteFile(filepath.Join(o.dir, "README"), []byte("hello"), 0o644); err != nil {
		t.Fatal(err)
	}
	o.open(o.dir)
}
