package relay

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func release(version, content string) Release {
	return Release{Version: version, Bundle: ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromString(content), Size: int64(len(content)),
	}}
}

func mustAccept(t *testing.T, a Active, name string, r Release) Active {
	t.Helper()
	next, err := a.accept(name, r)
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
	if got := a.Streams[0]; !got.Release.same(v3) || len(got.Previous) != 2 || !got.Previous[0].same(v2) {
		t.Errorf("%+v", got)
	}

	// Older ones, and others of the same version, are refused: by import and by activate.
	for _, r := range []Release{v1, v2, release("v1.10.0", "forged"), release("1.9.99", "x")} {
		var older *OlderError
		if _, err := a.accept("stack", r); !errors.As(err, &older) {
			t.Errorf("%s: %v", r.Version, err)
		}
	}

	back, err := a.rollback("stack", "")
	if err != nil || !back.Streams[0].Release.same(v2) || back.Generation != 4 {
		t.Errorf("%+v, %v", back, err)
	}
	// The newest stays known, and the way to it stays open.
	if _, err := back.accept("stack", v1); err == nil {
		t.Error("after a roll-back an older release is accepted")
	}
	if forth, err := back.accept("stack", v3); err != nil || !forth.Streams[0].Release.same(v3) {
		t.Errorf("%v", err)
	}
	// A second roll-back goes further back, not forward.
	if back, err = back.rollback("stack", ""); err != nil || !back.Streams[0].Release.same(v1) {
		t.Errorf("%+v, %v", back, err)
	}
	var none *NoReleaseError
	if _, err = back.rollback("stack", ""); !errors.As(err, &none) {
		t.Errorf("before the first: %v", err)
	}
	if _, err = back.rollback("stack", "v9"); !errors.As(err, &none) || len(none.Present) != 2 {
		t.Errorf("unknown: %v", err)
	}
	if to, err := back.rollback("stack", v3.Bundle.Digest.String()); err != nil || !to.Streams[0].Release.same(v3) {
		t.Errorf("by digest: %v", err)
	}
	if _, err = back.rollback("other", ""); !errors.As(err, &none) {
		t.Errorf("unknown stream: %v", err)
	}
}

func TestStreamsAreSorted(t *testing.T) {
	a := Active{APIVersion: activeVersion}
	for _, name := range []string{"m", "z", "a"} {
		a = mustAccept(t, a, name, release("v1", name))
	}
	if a.Streams[0].Name != "a" || a.Streams[1].Name != "m" || a.Streams[2].Name != "z" || a.Generation != 3 {
		t.Errorf("%+v", a)
	}
}

// Versions that have no order can only be told apart.
func TestUnorderedVersions(t *testing.T) {
	a := mustAccept(t, Active{APIVersion: activeVersion}, "vulndb", release("2026-11-21", "1"))
	a = mustAccept(t, a, "vulndb", release("2026-11-22", "2"))
	if _, err := a.accept("vulndb", release("2026-11-22", "other")); err == nil {
		t.Error("the same version with other content was accepted")
	}
	if back, err := a.rollback("vulndb", ""); err != nil || back.Streams[0].Release.Version != "2026-11-21" {
		t.Errorf("%v", err)
	}
}

func TestActiveFile(t *testing.T) {
	dir := t.TempDir()
	if a, err := readActive(dir); err != nil || a.Generation != 0 {
		t.Errorf("%+v, %v", a, err)
	}
	want := mustAccept(t, Active{APIVersion: activeVersion}, "stack", release("v1", "1"))
	if err := writeActive(dir, want); err != nil {
		t.Fatal(err)
	}
	got, err := readActive(dir)
	if err != nil || got.Generation != 1 || !got.Streams[0].Release.same(want.Streams[0].Release) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{`{}`, `{"apiVersion":"plimsoll.active.v9","generation":1,"streams":[]}`, `{"apiVersion":"plimsoll.active.v1","generation":1,"streams":[],"x":1}`, ``} {
		if err := os.WriteFile(filepath.Join(dir, activeFile), []byte(bad), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := readActive(dir); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}
