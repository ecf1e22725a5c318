package relay

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/relay/state"
)

var keepAll = retention{keep: maxKeep}

func release(version, content string) Release {
	return Release{Name: "stack", Version: version, Bundle: ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromString(content), Size: int64(len(content)),
	}}
}

func mustAccept(t *testing.T, a Active, name string, r Release) Active {
	t.Helper()
	next, err := a.accept(name, r, NewerVersion, keepAll)
	if err != nil {
		t.Fatal(err)
	}
	return next
}

func TestAcceptAndRollback(t *testing.T) {
	a := Active{APIVersion: activeVersion}
	v1, v2, v3 := release("v1.0.0", "1"), release("v1.1.0", "2"), release("v1.10.0", "3")
	a = mustAccept(t, a, "stack", v1)
	if a.Generation != 1 {
		t.Errorf("generation %d", a.Generation)
	}
	if again := mustAccept(t, a, "stack", v1); again.Generation != 1 {
		t.Error("activating the active release made a generation")
	}
	a = mustAccept(t, mustAccept(t, a, "stack", v2), "stack", v3)
	if got := a.Channels[0]; !got.Release.same(v3) || len(got.Previous) != 2 || !got.Previous[0].same(v2) {
		t.Errorf("%+v", got)
	}

	// Older ones, and others of the same version, are refused: by import and by activate.
	for _, r := range []Release{v1, v2, release("v1.10.0", "forged"), release("1.9.99", "x")} {
		var older *OlderError
		if _, err := a.accept("stack", r, NewerVersion, keepAll); !errors.As(err, &older) {
			t.Errorf("%s: %v", r.Version, err)
		}
	}

	back, err := a.rollback("stack", "", keepAll)
	if err != nil || !back.Channels[0].Release.same(v2) || back.Generation != 4 {
		t.Errorf("%+v, %v", back, err)
	}
	// The newest stays known, and the way to it stays open.
	if _, err := back.accept("stack", v1, NewerVersion, keepAll); err == nil {
		t.Error("after a roll-back an older release is accepted")
	}
	if forth, err := back.accept("stack", v3, NewerVersion, keepAll); err != nil || !forth.Channels[0].Release.same(v3) {
		t.Errorf("%v", err)
	}
	// A second roll-back goes further back, not forward.
	if back, err = back.rollback("stack", "", keepAll); err != nil || !back.Channels[0].Release.same(v1) {
		t.Errorf("%+v, %v", back, err)
	}
	var none *NoReleaseError
	if _, err = back.rollback("stack", "", keepAll); !errors.As(err, &none) {
		t.Errorf("before the first: %v", err)
	}
	if _, err = back.rollback("stack", "v9", keepAll); !errors.As(err, &none) || len(none.Present) != 2 {
		t.Errorf("unknown: %v", err)
	}
	if to, err := back.rollback("stack", v3.Bundle.Digest.String(), keepAll); err != nil || !to.Channels[0].Release.same(v3) {
		t.Errorf("by digest: %v", err)
	}
	if _, err = back.rollback("other", "", keepAll); !errors.As(err, &none) {
		t.Errorf("unknown stream: %v", err)
	}
}

func TestChannelsAreSorted(t *testing.T) {
	a := Active{APIVersion: activeVersion}
	for _, name := range []string{"m", "z", "a"} {
		a = mustAccept(t, a, name, release("v1", name))
	}
	if a.Channels[0].Name != "a" || a.Channels[1].Name != "m" || a.Channels[2].Name != "z" || a.Generation != 3 {
		t.Errorf("%+v", a)
	}
}

// Versions that have no order can only be told apart.
func TestUnorderedVersions(t *testing.T) {
	a := mustAccept(t, Active{APIVersion: activeVersion}, "vulndb", release("2026-11-21", "1"))
	a = mustAccept(t, a, "vulndb", release("2026-11-22", "2"))
	if _, err := a.accept("vulndb", release("2026-11-22", "other"), NewerVersion, keepAll); err == nil {
		t.Error("the same version with other content was accepted")
	}
	if back, err := a.rollback("vulndb", "", keepAll); err != nil || back.Channels[0].Release.Version != "2026-11-21" {
		t.Errorf("%v", err)
	}
}

func TestActiveFile(t *testing.T) {
	dir := t.TempDir()
	docs := state.Dir(dir)
	if a, _, err := readActive(t.Context(), docs); err != nil || a.Generation != 0 {
		t.Errorf("%+v, %v", a, err)
	}
	want := mustAccept(t, Active{APIVersion: activeVersion}, "stack", release("v1", "1"))
	if err := writeActive(t.Context(), docs, want, state.None); err != nil {
		t.Fatal(err)
	}
	got, version, err := readActive(t.Context(), docs)
	if err != nil || got.Generation != 1 || !got.Channels[0].Release.same(want.Channels[0].Release) {
		t.Errorf("%+v, %v", got, err)
	}
	// Who read an older one does not overwrite what came since.
	var changed *state.ChangedError
	if err := writeActive(t.Context(), docs, want, state.None); !errors.As(err, &changed) {
		t.Errorf("written over what was never read: %v", err)
	}
	if err := writeActive(t.Context(), docs, mustAccept(t, got, "stack", release("v2", "2")), version); err != nil {
		t.Error(err)
	}
	if err := writeActive(t.Context(), docs, want, version); !errors.As(err, &changed) {
		t.Errorf("written over another version: %v", err)
	}
	for _, bad := range []string{`{}`, `{"apiVersion":"plimsoll.active.v9","generation":1,"channels":[]}`, `{"apiVersion":"plimsoll.active.v2","generation":1,"channels":[],"x":1}`, ``} {
		if err := os.WriteFile(filepath.Join(dir, activeFile), []byte(bad), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, _, err := readActive(t.Context(), docs); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

// Retention keeps the latest, and what is held; a roll-back reaches what is kept.
func TestRetention(t *testing.T) {
	held := release("v1.2.0", "2")
	keep := retention{keep: 3, held: func(d digest.Digest) bool { return d == held.Bundle.Digest }}
	a := Active{APIVersion: activeVersion}
	for i := range 8 {
		var err error
		if a, err = a.accept("stack", release(fmt.Sprintf("v1.%d.0", i), strconv.Itoa(i)), NewerVersion, keep); err != nil {
			t.Fatal(err)
		}
	}
	versions := func(a Active) (all []string) {
		for _, r := range a.Releases() {
			all = append(all, r.Version)
		}
		return all
	}
	if got := versions(a); !slices.Equal(got, []string{"v1.7.0", "v1.6.0", "v1.5.0", "v1.2.0"}) {
		t.Errorf("kept: %v", got)
	}
	back, err := a.rollback("stack", "v1.2.0", keep)
	if got := versions(back); err != nil || !slices.Equal(got, []string{"v1.2.0", "v1.7.0", "v1.6.0"}) {
		t.Errorf("after a roll-back: %v, %v", got, err)
	}
	pinned := a.pin(Pin{Bundle: held.Bundle.Digest, Since: "x"}).pin(Pin{Bundle: "sha256:0"}).pin(Pin{Bundle: held.Bundle.Digest, Since: "y"})
	if len(pinned.Pins) != 2 || !pinned.Pinned(held.Bundle.Digest) || len(a.Pins) != 0 || pinned.unpin(held.Bundle.Digest).Pinned(held.Bundle.Digest) {
		t.Errorf("pins: %+v", pinned.Pins)
	}
}

// A channel has one bundle.
func TestOtherBundle(t *testing.T) {
	a := mustAccept(t, Active{APIVersion: activeVersion}, "stable", release("v1", "1"))
	other := release("v2", "2")
	other.Name = "vulndb"
	var refused *OtherBundleError
	if _, err := a.accept("stable", other, NewerVersion, keepAll); !errors.As(err, &refused) {
		t.Errorf("%v", err)
	}
}

// Channels in the precedence come first and yield to one another; all others yield to nobody.
func TestRanked(t *testing.T) {
	a := Active{APIVersion: activeVersion}
	for _, name := range []string{"a", "b", "c", "d"} {
		a = mustAccept(t, a, name, release("v1", name))
	}
	a.Precedence = []string{"gone", "c", "a"}
	channels, yields := a.ranked()
	var names []string
	for _, c := range channels {
		names = append(names, c.Name)
	}
	if !slices.Equal(names, []string{"c", "a", "b", "d"}) || !slices.Equal(yields, []bool{false, true, false, false}) {
		t.Errorf("%v %v", names, yields)
	}
}
