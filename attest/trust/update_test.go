package trust_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/attest/trust"
)

func TestUpdate(t *testing.T) {
	v := newVendor(t)
	v.issued = start
	files := v.publish()
	state, got := accept(t, pin(t, v.roots[1]), files, start.Add(day))
	if got.Level() != 2 || got.RootVersion() != 1 || got.Version(trust.RoleTimestamp) != 1 || got.Version("channel-stable") != 1 {
		t.Errorf("level %d, root %d", got.Level(), got.RootVersion())
	}
	if names := got.Channels(); !slices.Equal(names, []string{"beta", "stable"}) {
		t.Errorf("channels %v", names)
	}
	c, err := got.Channel("stable")
	if err != nil {
		t.Fatal(err)
	}
	if c.Bundle != v.release["stable"] || c.Size != 1234 || c.Version != 1 || !c.Expires.Equal(v.expires["channel-stable"]) {
		t.Errorf("channel %+v", c)
	}
	sameKeys(t, "release", c.Release, v.roles["channel-stable"])
	sameKeys(t, "attestation", got.Attestation(), v.roles[trust.RoleAttestation])
	sameKeys(t, "revocation", got.Revocation(), v.roles[trust.RoleRevocation])
	if !got.UseBy().Equal(start.Add(30*day)) || !got.SignedAt().Equal(start) {
		t.Errorf("use by %v, signed at %v", got.UseBy(), got.SignedAt())
	}
	if err := c.Lists(v.release["stable"]); err != nil {
		t.Error(err)
	}
	var other *trust.NotListedError
	if err := c.Lists(v.release["beta"]); !errors.As(err, &other) || other.Listed != v.release["stable"] {
		t.Errorf("the release of another channel: %v", err)
	}
	var unknown *trust.UnknownChannelError
	if _, err := got.Channel("nightly"); !errors.As(err, &unknown) {
		t.Errorf("a channel that nobody has: %v", err)
	}

	// The same medium once more, and the next one.
	state, got = accept(t, state, files, start.Add(2*day))
	if got.Version(trust.RoleTimestamp) != 1 {
		t.Error("the same medium is another one")
	}
	v.bump()
	v.release["stable"] = digest.FromString("stable 2")
	state, got = accept(t, state, v.publish(), start.Add(3*day))
	if c, _ := got.Channel("stable"); c.Bundle != digest.FromString("stable 2") {
		t.Errorf("channel %+v", c)
	}

	// What was accepted can be opened whatever the time, and says when it expired.
	open, err := trust.Open(state)
	if err != nil {
		t.Fatal(err)
	}
	sameKeys(t, "revocation", open.Revocation(), v.roles[trust.RoleRevocation])
	if c, err := open.Channel("beta"); err != nil || c.Bundle != v.release["beta"] {
		t.Errorf("opened: %+v, %v", c, err)
	} else if c.CheckExpiry(start) != nil || c.CheckExpiry(v.expires["channel-beta"]) == nil {
		t.Error("the expiry of a channel")
	}
	if err := open.CheckExpiry(start.Add(29 * day)); err != nil {
		t.Error(err)
	}
	var expired *trust.ExpiredError
	if err := open.CheckExpiry(start.Add(30 * day)); !errors.As(err, &expired) || expired.Role != trust.RoleTimestamp {
		t.Errorf("opened after its time: %v", err)
	}
}

func sameKeys(t *testing.T, what string, got trust.Keys, want holders) {
	t.Helper()
	if !slices.Equal(got.IDs(), want.public().IDs()) || got.Threshold != want.threshold {
		t.Errorf("%s: %d of %v", what, got.Threshold, got.IDs())
	}
}

func TestPinnedIsLevelOne(t *testing.T) {
	release, attestation := newKeys(t, 2), newKeys(t, 1)
	v, err := trust.Pinned{
		Release: holders{release, 0}.public(), Attestation: holders{attestation, 0}.public(), Revocation: holders{release[:1], 0}.public(),
	}.Verified()
	if err != nil {
		t.Fatal(err)
	}
	c, err := v.Channel("any")
	if err != nil || c.Release.Threshold != 1 || len(c.Release.Public) != 2 {
		t.Errorf("channel %+v, %v", c, err)
	}
	if err := c.Lists(digest.FromString("any")); err != nil {
		t.Error(err)
	}
	if v.Level() != 1 || v.RootVersion() != 0 || !v.UseBy().IsZero() || v.CheckExpiry(start.Add(9999*day)) != nil {
		t.Errorf("level %d", v.Level())
	}
	if (&trust.Verified{}).Level() != 0 {
		t.Error("the zero value has a level")
	}
	if _, err := (&trust.Verified{}).Channel("any"); err == nil {
		t.Error("the zero value trusts somebody")
	}
}

func TestPinnedRefused(t *testing.T) {
	a, b := newKey(t, "ecdsa"), newKey(t, "ed25519")
	one := func(k key) trust.Keys { return holders{[]key{k}, 1}.public() }
	var reuse *trust.KeyReuseError
	for name, p := range map[string]trust.Pinned{
		"release key attests":    {Release: one(a), Attestation: one(a)},
		"revocation key attests": {Release: one(a), Attestation: one(b), Revocation: one(b)},
	} {
		if _, err := p.Verified(); !errors.As(err, &reuse) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var keys *trust.KeysError
	for name, p := range map[string]trust.Pinned{
		"no key":                 {},
		"threshold beyond keys":  {Release: holders{[]key{a, b}, 3}.public()},
		"threshold below 0":      {Release: holders{[]key{a, b}, -1}.public()},
		"the same key twice":     {Release: holders{[]key{a, a}, 2}.public()},
		"threshold, but no keys": {Release: one(a), Revocation: trust.Keys{Threshold: 1}},
		"attestation threshold":  {Release: one(a), Attestation: holders{newKeys(t, 2), 2}.public()},
	} {
		if _, err := p.Verified(); !errors.As(err, &keys) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A relay that slept for three years: root 1 → 5, all keys of a 2-of-3 replaced one after the other, the export key, too.
func TestCatchUpAfterThreeYears(t *testing.T) {
	v := newVendor(t)
	first := v.roots[1]
	firstKeys := v.roles[trust.RoleRoot]
	state, _ := accept(t, pin(t, first), v.publish(), start)
	year := 365 * day
	for i := range 3 {
		v.expires[trust.RoleRoot] = start.Add(time.Duration(i+2) * year)
		v.rotate(func() {
			h := v.roles[trust.RoleRoot]
			h.keys = slices.Concat(h.keys[1:], newKeys(t, 1))
			v.roles[trust.RoleRoot] = h
		})
	}
	v.rotate(func() {
		export := holders{newKeys(t, 1), 1}
		v.roles[trust.RoleTimestamp], v.roles[trust.RoleSnapshot] = export, export
		v.roles[trust.RoleTargets] = holders{newKeys(t, 3), 2}
	})
	now := start.Add(3 * year)
	for role := range v.roles {
		if role != trust.RoleRoot {
			v.expires[role] = now.Add(30 * day)
		}
	}
	v.bump()
	v.release["stable"] = digest.FromString("stable 9")
	files := v.publish()
	after, got := accept(t, state, files, now)
	if got.RootVersion() != 5 {
		t.Errorf("root %d", got.RootVersion())
	}
	if c, err := got.Channel("stable"); err != nil || c.Bundle != digest.FromString("stable 9") {
		t.Errorf("%+v, %v", c, err)
	}
	if !bytes.Equal(after.Root, v.roots[5]) {
		t.Error("the state has another root")
	}
	// The keys of the first root are worth nothing now: they cannot sign a sixth.
	v.roles[trust.RoleRoot] = firstKeys
	v.rootSignedBy(firstKeys.keys...)
	var few *trust.SignatureError
	if _, _, err := trust.Update(after, v.publish(), now); !errors.As(err, &few) || few.Have != 0 || few.Want != 2 || few.By != "root 5" {
		t.Errorf("a root by keys that were replaced: %v", err)
	}
}

// One of three keys is lost: the other two replace it.
func TestLostKeyReplaced(t *testing.T) {
	v := newVendor(t)
	state, _ := accept(t, pin(t, v.roots[1]), v.publish(), start)
	old := v.roles[trust.RoleRoot].keys
	added := newKey(t, "ecdsa")
	v.roles[trust.RoleRoot] = holders{[]key{old[1], old[2], added}, 2}
	v.rootSignedBy(old[1], old[2])
	v.bump()
	if _, got := accept(t, state, v.publish(), start); got.RootVersion() != 2 {
		t.Errorf("root %d", got.RootVersion())
	}
}

// New roots are remembered though the medium has expired: which keys were replaced is to be known.
func TestRootsAreKeptWhenTheRestFails(t *testing.T) {
	v := newVendor(t)
	state, _ := accept(t, pin(t, v.roots[1]), v.publish(), start)
	v.rotate(nil)
	v.bump()
	after, got, err := trust.Update(state, v.publish(), start.Add(31*day))
	var expired *trust.ExpiredError
	if !errors.As(err, &expired) || expired.Role != trust.RoleTimestamp || got != nil ||
		!expired.Expires.Equal(start.Add(30*day)) || !expired.Now.Equal(start.Add(31*day)) {
		t.Fatalf("%v, %v", got, err)
	}
	if !bytes.Equal(after.Root, v.roots[2]) || !bytes.Equal(after.Timestamp, state.Timestamp) {
		t.Error("the state is not the old one with the new root")
	}
}

// One channel that was given up does not stop the others.
func TestExpiredChannelIsAlone(t *testing.T) {
	v := newVendor(t)
	v.expires["channel-beta"] = start.Add(day)
	_, got := accept(t, pin(t, v.roots[1]), v.publish(), start.Add(2*day))
	if _, err := got.Channel("stable"); err != nil {
		t.Error(err)
	}
	var expired *trust.ExpiredError
	if _, err := got.Channel("beta"); !errors.As(err, &expired) || expired.Role != "channel-beta" {
		t.Errorf("beta: %v", err)
	}
}

// A medium need not carry other channels' metadata; what came earlier counts while the snapshot still names it.
func TestOtherChannelsMayStayAtHome(t *testing.T) {
	v := newVendor(t)
	state, _ := accept(t, pin(t, v.roots[1]), v.publish(), start)
	v.version[trust.RoleTimestamp]++
	v.version[trust.RoleSnapshot]++
	v.version["channel-stable"]++
	files := v.publish()
	// ECDSA signatures of Go's differ each time: the snapshot must name the file that the relay has.
	delete(files, "channel-beta.json")
	v.onSnap = func(m *metadata.Metadata[metadata.SnapshotType]) {
		m.Signed.Meta["channel-beta.json"] = meta(1, state.Channels["beta"])
	}
	snapshot := metadata.Snapshot(v.expires[trust.RoleSnapshot])
	snapshot.Signed.Version = v.version[trust.RoleSnapshot]
	for _, name := range []string{trust.FileTargets, "channel-stable.json"} {
		version := int64(1)
		if name != trust.FileTargets {
			version = 2
		}
		snapshot.Signed.Meta[name] = meta(version, files[name])
	}
	v.export(files, snapshot)
	next, got := accept(t, state, files, start)
	if c, err := got.Channel("beta"); err != nil || c.Bundle != v.release["beta"] {
		t.Errorf("beta: %+v, %v", c, err)
	}
	// A newer one that did not come along is missing, and only that.
	v.onSnap = nil
	v.bump()
	files = v.publish()
	delete(files, "channel-beta.json")
	_, got = accept(t, next, files, start)
	var missing *trust.MissingError
	if _, err := got.Channel("beta"); !errors.As(err, &missing) || missing.File != "channel-beta.json" {
		t.Errorf("beta: %v", err)
	}
	if _, err := got.Channel("stable"); err != nil {
		t.Error(err)
	}
}

// Unknown fields inside the signed part are TUF's way to grow: they are allowed, and signed.
func TestUnknownFields(t *testing.T) {
	v := newVendor(t)
	v.onTarget = func(_ string, m *metadata.Metadata[metadata.TargetsType]) {
		m.Signed.UnrecognizedFields = map[string]any{"x-future": map[string]any{"a": []any{"b", 7}}}
	}
	v.onTime = func(m *metadata.Metadata[metadata.TimestampType]) {
		m.Signed.UnrecognizedFields = map[string]any{"x-future": true}
	}
	files := v.publish()
	accept(t, pin(t, v.roots[1]), files, start)
	for name, change := range map[string][2]string{
		"signed value changed":       {`"x-future":true`, `"x-future":false`},
		"unsigned field added":       {`{"signatures":`, `{"x-more":1,"signatures":`},
		"unsigned field in sig":      {`{"keyid":`, `{"x-more":1,"keyid":`},
		"null":                       {`"x-future":true`, `"x-future":null`},
		"twice":                      {`"x-future":true`, `"x-future":true,"x-future":true`},
		"other case":                 {`"version":1`, `"Version":1`},
		"other case, both":           {`"x-future":true`, `"x-future":true,"Version":2`},
		"float":                      {`"version":1`, `"version":1.0`},
		"time in another zone":       {`"expires":"2026-03-31T12:00:00Z"`, `"expires":"2026-03-31T14:00:00+02:00"`},
		"fraction of a second":       {`"expires":"2026-03-31T12:00:00Z"`, `"expires":"2026-03-31T12:00:00.0Z"`},
		"trailing bytes":             {`}`, `} x`},
		"issued that is no time":     {`"x-future":true`, `"issued":"tomorrow"`},
		"spec version 2":             {`"spec_version":"1.`, `"spec_version":"2.`},
		"version beyond what counts": {`"version":1`, `"version":9007199254740993`},
	} {
		changed := bytes.Clone(files[trust.FileTimestamp])
		if name == "trailing bytes" {
			changed = append(changed, " x"...)
		} else {
			changed = bytes.Replace(changed, []byte(change[0]), []byte(change[1]), 1)
		}
		if bytes.Equal(changed, files[trust.FileTimestamp]) {
			t.Fatalf("%s: nothing changed in %s", name, changed)
		}
		with := trust.Files{}
		for n, data := range files {
			with[n] = data
		}
		with[trust.FileTimestamp] = changed
		if _, _, err := trust.Update(pin(t, v.roots[1]), with, start); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// A second timestamp of the same version, good for longer, changes nothing: the first one stands.
func TestEqualTimestampExtendsNothing(t *testing.T) {
	v := newVendor(t)
	files := v.publish()
	state, _ := accept(t, pin(t, v.roots[1]), files, start)
	m, err := metadata.Timestamp(start).FromBytes(files[trust.FileTimestamp])
	if err != nil {
		t.Fatal(err)
	}
	m.ClearSignatures()
	m.Signed.Expires = start.Add(900 * day)
	longer := with(files, trust.FileTimestamp, sign(t, m, v.signers(trust.RoleTimestamp)...))
	after, got := accept(t, state, longer, start.Add(day))
	if !bytes.Equal(after.Timestamp, state.Timestamp) || !got.UseBy().Equal(start.Add(30*day)) {
		t.Errorf("use by %v", got.UseBy())
	}
	var expired *trust.ExpiredError
	if _, _, err := trust.Update(state, longer, start.Add(31*day)); !errors.As(err, &expired) {
		t.Errorf("after the first one's time: %v", err)
	}
	// Nor may somebody sign an equal version who has no right to.
	m.ClearSignatures()
	var few *trust.SignatureError
	if _, _, err := trust.Update(state, with(files, trust.FileTimestamp, sign(t, m, newKey(t, "ecdsa"))), start); !errors.As(err, &few) {
		t.Errorf("by a foreign key: %v", err)
	}
}

func TestOpenBeforeTheFirstUpdate(t *testing.T) {
	v := newVendor(t)
	var missing *trust.MissingError
	if _, err := trust.Open(pin(t, v.roots[1])); !errors.As(err, &missing) {
		t.Errorf("got %v", err)
	}
	if _, _, err := trust.Update(pin(t, v.roots[1]), v.publish(), time.Time{}); err == nil {
		t.Error("an update without a time: nothing would ever expire")
	}
	if _, err := trust.Pin([]byte("{}")); err == nil {
		t.Error("pinned nothing")
	}
	if attest.KeyID(v.roles[trust.RoleRoot].keys[0].pub) == "" {
		t.Error("no key id")
	}
}
