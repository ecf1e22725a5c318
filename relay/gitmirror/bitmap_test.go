package gitmirror

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// bitmapFiles are git's index of all packs and what belongs to it.
func bitmapFiles(t *testing.T, m *Mirror) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(m.packDir(), midxName+"*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestBitmap: bitmaps are written when packs came, survive a sweep, and clones are whole with and without them.
func TestBitmap(t *testing.T) {
	t.Parallel()
	s, source, served := newSite(t, Options{})
	m, g := served.m, s.state(source)
	clones := 0
	clone := func(from *site) {
		t.Helper()
		clones++
		to := filepath.Join(s.Home, fmt.Sprintf("clone-%d", clones))
		s.Git(s.Home, "clone", "--quiet", "--mirror", from.url(), to)
		s.Git(to, "fsck", "--full", "--strict")
	}
	bitmap := func(m *Mirror, gen *Generation) os.FileInfo {
		t.Helper()
		if err := m.Bitmap(t.Context(), gen); err != nil {
			t.Fatal(err)
		}
		if got := len(bitmapFiles(t, m)); got != 2 {
			t.Fatalf("%d files: %v; want the index and its bitmaps", got, bitmapFiles(t, m))
		}
		info, err := os.Stat(filepath.Join(m.packDir(), midxName))
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	first := bitmap(m, prepare(t, m, 2, g))
	clone(served)
	if again := bitmap(m, prepare(t, m, 3, g)); !again.ModTime().Equal(first.ModTime()) {
		t.Error("bitmaps were written although no pack came")
	}

	s.Commit(source, "more", "more")
	newer := s.state(source)
	admit(t, m, newer, s.layer(source))
	gen := prepare(t, m, 4, newer)
	if again := bitmap(m, gen); again.ModTime().Equal(first.ModTime()) {
		t.Error("a pack came and the bitmaps do not know it")
	}
	clone(serve(t, m, gen))

	// What a killed git leaves is in the way of the next one.
	lock := filepath.Join(m.packDir(), midxName+".lock")
	if err := os.WriteFile(lock, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	m = open(t, m.dir, Options{})
	if _, err := os.Stat(lock); err == nil || len(bitmapFiles(t, m)) != 2 {
		t.Errorf("after a sweep: %v", bitmapFiles(t, m))
	}
	clone(serve(t, m, prepare(t, m, 4, newer)))

	// A pack is lost, and comes back with the next import.
	packs, err := m.packs()
	if err != nil {
		t.Fatal(err)
	}
	for _, hash := range packs {
		if err := os.Remove(filepath.Join(m.packDir(), "pack-"+hash+".idx")); err != nil {
			t.Fatal(err)
		}
	}
	m = open(t, m.dir, Options{})
	admit(t, m, newer, s.layer(source))
	gen = prepare(t, m, 5, newer)
	clone(serve(t, m, gen))
	bitmap(m, gen)
	clone(serve(t, m, gen))
}
