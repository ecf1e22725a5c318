package gitmirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/plimsoll/plimsoll/bundle"
)

// noise is what no delta makes smaller.
func noise(seed uint64, n int) string {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return string(b)
}

// history is a repository in two states: the second lacks a branch with two megabytes of its own.
type history struct {
	s      *sandbox
	states [2]bundle.Git
	layers [2][]byte
}

func newHistory(t *testing.T) *history {
	t.Helper()
	s := newSandbox(t)
	source := s.source()
	h := &history{s: s}
	s.Git(source, "checkout", "--quiet", "-b", "trial")
	s.Commit(source, "trial/map-1.bin", noise(1, 1<<20))
	s.Commit(source, "trial/map-2.bin", noise(2, 1<<20))
	s.Git(source, "checkout", "--quiet", "main")
	h.states[0], h.layers[0] = s.state(source), s.layer(source)
	s.Git(source, "branch", "-D", "trial")
	s.Commit(source, "robot-values/robot-002.yaml", "ssid: line-2\n"+noise(3, 100<<10))
	h.states[1], h.layers[1] = s.state(source), s.layer(source)
	return h
}

func (h *history) repo(i int) Repository { return Repository{Path: place, Git: h.states[i]} }

// mirror has both states, as generations 1 and 2.
func (h *history) mirror(t *testing.T, dir string) (*Mirror, *Generation) {
	t.Helper()
	m := open(t, dir, Options{})
	admit(t, m, h.states[0], h.layers[0])
	prepare(t, m, 1, h.states[0])
	admit(t, m, h.states[1], h.layers[1])
	return m, prepare(t, m, 2, h.states[1])
}

// mustBeClosed holds the store against what all of this package rests on: an object that is there has all that it leads to.
func (h *history) mustBeClosed(t *testing.T, m *Mirror) {
	t.Helper()
	present := h.s.Git(m.path(storeName), "cat-file", "--batch-check=%(objectname)", "--batch-all-objects", "--unordered")
	if present == "" {
		return
	}
	cmd := h.s.Command(m.path(storeName), "rev-list", "--objects", "--quiet", "--stdin")
	cmd.Stdin = strings.NewReader(present + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("the store has a hole: %v: %s", err, out)
	}
}

func TestCollect(t *testing.T) {
	h := newHistory(t)
	m, gen := h.mirror(t, filepath.Join(t.TempDir(), "git"))
	if err := m.Bitmap(t.Context(), gen); err != nil {
		t.Fatal(err)
	}
	other := open(t, m.dir, Options{}) // as a relay that serves meanwhile
	for i := range h.states {
		if !other.Admitted(place, h.states[i]) {
			t.Fatal("nothing is there")
		}
	}
	before := stored(t, m)
	would, err := m.Collect(t.Context(), []Repository{h.repo(1)}, true)
	if err != nil || would.Packs != 2 || would.Bytes < 2<<20 || would.Bytes > 2<<20+10<<10 {
		t.Errorf("%+v, %v", would, err)
	}
	if stored(t, m) != before {
		t.Error("a dry run changed the store")
	}
	did, err := m.Collect(t.Context(), []Repository{h.repo(1)}, false)
	if err != nil || did != would {
		t.Errorf("%+v, %v; announced was %+v", did, err, would)
	}
	if packs, err := m.packs(); err != nil || len(packs) != 1 {
		t.Errorf("packs %v, %v", packs, err)
	}
	h.mustBeClosed(t, m)
	for _, m := range []*Mirror{m, other, open(t, m.dir, Options{})} {
		if got := m.generations(); !slices.Equal(got, []uint64{2}) {
			t.Errorf("generations %v", got)
		}
		if m.Admitted(place, h.states[0]) || !m.Admitted(place, h.states[1]) {
			t.Error("what is here is not what is known to be")
		}
		if same, err := m.onDisk(gen); !same || err != nil {
			t.Errorf("the generation that stays must be prepared again: %v", err)
		}
	}
	site := serve(t, m, gen)
	clone := filepath.Join(t.TempDir(), "clone")
	h.s.Git(h.s.Home, "clone", "--quiet", site.url(), clone)
	h.s.Git(clone, "fsck", "--full", "--strict")

	// What was dropped comes back by its layers, also to those who have known it before.
	admit(t, other, h.states[0], h.layers[0])
	prepare(t, other, 3, h.states[0])
	h.mustBeClosed(t, m)
	if !m.Admitted(place, h.states[0]) {
		t.Error("it is not found again")
	}
}

// Little garbage is left where it is, and nothing at all is done when everything is kept.
func TestCollectOnlyWhatIsWorthIt(t *testing.T) {
	h := newHistory(t)
	m, _ := h.mirror(t, filepath.Join(t.TempDir(), "git"))
	before := stored(t, m)
	for _, keep := range [][]Repository{{h.repo(0)}, {h.repo(0), h.repo(1)}} {
		if c, err := m.Collect(t.Context(), keep, false); err != nil || c != (Collection{}) {
			t.Errorf("%+v, %v", c, err)
		}
	}
	if stored(t, m) != before {
		t.Error("the store changed")
	}
}

func TestCollectEverything(t *testing.T) {
	h := newHistory(t)
	m, _ := h.mirror(t, filepath.Join(t.TempDir(), "git"))
	never := bundle.Git{Head: "refs/heads/main", Refs: []bundle.GitRef{{Name: "refs/heads/main", OID: strings.Repeat("ab", 20)}}}
	c, err := m.Collect(t.Context(), []Repository{{Path: place, Git: never}}, false)
	if err != nil || c.Packs != 2 || c.Bytes < 2<<20 {
		t.Errorf("%+v, %v", c, err)
	}
	if packs, err := m.packs(); err != nil || len(packs) != 0 || len(m.generations()) != 0 {
		t.Errorf("%v, %v, %v", packs, m.generations(), err)
	}
	admit(t, m, h.states[0], h.layers[0])
	h.mustBeClosed(t, m)
}

func TestCollectNothing(t *testing.T) {
	m := open(t, filepath.Join(t.TempDir(), "git"), Options{})
	if c, err := m.Collect(t.Context(), nil, false); err != nil || c != (Collection{}) {
		t.Errorf("%+v, %v", c, err)
	}
}

// A process that dies at any moment of a collection leaves a mirror in which what is kept can be served, and what is not
// kept is either whole or not there at all: never an object without its history.
func TestCollectKilledAtEachPoint(t *testing.T) {
	h := newHistory(t)
	dir := filepath.Join(t.TempDir(), "git")
	m, gen := h.mirror(t, dir)
	if err := m.Bitmap(t.Context(), gen); err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	var points []string
	m.at = func(point string) {
		points = append(points, point)
		copyTree(t, dir, filepath.Join(root, fmt.Sprint(len(points))))
	}
	if _, err := m.Collect(t.Context(), []Repository{h.repo(1)}, false); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"packed", "linked.pack", "linked.idx", "rebuilt", "decided", "removed.idx", "removed.pack", "removed", "collected", "renewed"} {
		if !slices.Contains(points, want) {
			t.Errorf("no point %q in %v", want, points)
		}
	}
	for i, point := range points {
		t.Run(fmt.Sprintf("%d %s", i, point), func(t *testing.T) {
			dir := filepath.Join(root, fmt.Sprint(i+1))
			m := open(t, dir, Options{})
			h.mustBeClosed(t, m)
			if _, err := os.Stat(m.path(collectingName)); err == nil {
				t.Error("a collection is left unfinished")
			}
			gen := prepare(t, m, 2, h.states[1]) // as a start does; nothing may be missing
			site := serve(t, m, gen)
			clone := filepath.Join(t.TempDir(), "clone")
			h.s.Git(h.s.Home, "clone", "--quiet", site.url(), clone)
			h.s.Git(clone, "fsck", "--full", "--strict")
			if _, err := m.Collect(t.Context(), []Repository{h.repo(1)}, false); err != nil {
				t.Fatal(err)
			}
			admit(t, m, h.states[0], h.layers[0])
			h.mustBeClosed(t, m)
			stored(t, m) // the quarantine is empty
		})
	}
}

// An importer that waits for a collector which dies does not rest on what that left half done.
func TestImportAfterAKilledCollector(t *testing.T) {
	h := newHistory(t)
	m, _ := h.mirror(t, filepath.Join(t.TempDir(), "git"))
	unlock, err := m.lockCollect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	packs, err := m.packs()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(m.path(collectingName), []byte(packsText(packs)), 0o644); err != nil {
		t.Fatal(err)
	}
	other := open(t, m.dir, Options{})
	locked := make(chan error)
	go func() {
		free, err := other.lockImport() // finds the lock taken, and waits
		if err == nil {
			free()
		}
		locked <- err
	}()
	unlock()
	if err := <-locked; err != nil {
		t.Fatal(err)
	}
	if left, err := m.packs(); err != nil || len(left) != 0 {
		t.Errorf("%v, %v", left, err)
	}
}

// A list that the disk has damaged must not leave a store with holes that nobody knows of.
func TestDamagedCollectionList(t *testing.T) {
	h := newHistory(t)
	m, _ := h.mirror(t, filepath.Join(t.TempDir(), "git"))
	packs, err := m.packs()
	if err != nil {
		t.Fatal(err)
	}
	text := packsText(packs)
	for _, bad := range []string{"", text[:len(text)-1], text[:50], "x" + text[1:], "../../x\nend"} {
		if _, ok := parsePacks(bad); ok {
			t.Errorf("%q was read", bad)
		}
	}
	if err := os.WriteFile(m.path(collectingName), []byte(text[:50]), 0o644); err != nil {
		t.Fatal(err)
	}
	m = open(t, m.dir, Options{})
	h.mustBeClosed(t, m)
	if m.Admitted(place, h.states[1]) {
		t.Error("packs of which nobody knows whether they are whole are believed")
	}
	admit(t, m, h.states[1], h.layers[1])
}

func TestCollectWaitsForImportsAndEndsWithItsContext(t *testing.T) {
	m := open(t, filepath.Join(t.TempDir(), "git"), Options{})
	unlock, err := m.lockImport()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := m.Collect(ctx, nil, false)
		done <- err
	}()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	unlock()
	if _, err := m.Collect(t.Context(), nil, false); err != nil {
		t.Error(err)
	}
}

func FuzzParsePacks(f *testing.F) {
	f.Add(packsText(nil))
	f.Add(packsText([]string{strings.Repeat("a", 40), strings.Repeat("b", 40)}))
	f.Add("end \n")
	f.Fuzz(func(t *testing.T, text string) {
		packs, ok := parsePacks(text)
		if ok && packsText(packs) != text {
			t.Errorf("%q is read as %v", text, packs)
		}
	})
}

func copyTree(t *testing.T, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		dst := filepath.Join(to, rel)
		if d.IsDir() {
			return os.MkdirAll(dst, 0o755)
		}
		in, err := os.Open(path)
		if err != nil {
			return err
		}
		defer in.Close()
		fi, err := in.Stat()
		if err != nil {
			return err
		}
		out, err := os.Create(dst)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, in)
		return errors.Join(err, out.Close(), os.Chtimes(dst, fi.ModTime(), fi.ModTime()))
	})
	if err != nil {
		t.Fatal(err)
	}
}
