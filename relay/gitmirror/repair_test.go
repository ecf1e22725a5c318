package gitmirror

import (
	"context"
	"crypto/sha1"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func (h *history) kept() []Kept {
	return []Kept{
		{Repository: h.repo(1), Layers: layersOf(h.layers[1]), Served: true},
		{Repository: h.repo(0), Layers: layersOf(h.layers[0])},
	}
}

// verify looks at everything, as a scrub does.
func verify(t *testing.T, m *Mirror, kept []Kept) (bad []BadPack) {
	t.Helper()
	packs, err := m.Packs()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range packs {
		b, flaky, err := m.CheckPack(t.Context(), name, nil)
		if err != nil || flaky {
			t.Fatalf("%s: flaky %v, %v", name, flaky, err)
		}
		if b != nil {
			bad = append(bad, *b)
		}
	}
	if len(bad) == 0 {
		if bad, err = m.CheckWhole(t.Context(), kept); err != nil {
			t.Fatal(err)
		}
	}
	return bad
}

func mustBeSound(t *testing.T, m *Mirror, kept []Kept) {
	t.Helper()
	if bad := verify(t, m, kept); len(bad) != 0 {
		t.Errorf("%+v", bad)
	}
}

func edit(t *testing.T, path string, change func([]byte) []byte) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(path), os.WriteFile(path, change(data), 0o444)); err != nil {
		t.Fatal(err)
	}
}

func flipMiddle(data []byte) []byte {
	data[len(data)/2] ^= 8
	return data
}

// resum makes the checksum right again: as if the file had been written wrong.
func resum(data []byte) []byte {
	sum := sha1.Sum(data[:len(data)-sha1.Size])
	return append(data[:len(data)-sha1.Size], sum[:]...)
}

func (s *sandbox) mustClone(url string) {
	s.T.Helper()
	clone := filepath.Join(s.T.TempDir(), "clone")
	s.Git(s.Home, "clone", "--quiet", url, clone)
	s.Git(clone, "fsck", "--full", "--strict")
}

func TestRepair(t *testing.T) {
	remove := func(t *testing.T, path string) {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	h := newHistory(t)
	origin, gen := h.mirror(t, filepath.Join(t.TempDir(), "git"))
	if err := origin.Bitmap(t.Context(), gen); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		damage func(t *testing.T, dir, hash string)
		found  string // the name's begin
		reason string
		packs  int  // that are made anew
		keeps  bool // what was damaged, for who wants to look at it
	}{
		"a bit of a pack": {func(t *testing.T, dir, hash string) {
			edit(t, filepath.Join(dir, "pack-"+hash+".pack"), flipMiddle)
		}, "pack-", "checksum", 2, true},
		"a bit in the last bytes of a pack": {func(t *testing.T, dir, hash string) {
			edit(t, filepath.Join(dir, "pack-"+hash+".pack"), func(b []byte) []byte { b[len(b)-1] ^= 1; return b })
		}, "pack-", "checksum", 2, true},
		"a pack of other bytes": {func(t *testing.T, dir, hash string) {
			edit(t, filepath.Join(dir, "pack-"+hash+".pack"), func(b []byte) []byte { return resum(flipMiddle(b)) })
		}, "pack-", "its bytes are those of", 2, true},
		"half a pack": {func(t *testing.T, dir, hash string) {
			edit(t, filepath.Join(dir, "pack-"+hash+".pack"), func(b []byte) []byte { return b[:len(b)/2] })
		}, "pack-", "checksum", 2, true},
		"an empty pack": {func(t *testing.T, dir, hash string) {
			edit(t, filepath.Join(dir, "pack-"+hash+".pack"), func([]byte) []byte { return nil })
		}, "pack-", "0 bytes only", 2, true},
		"a folder for a pack": {func(t *testing.T, dir, hash string) {
			remove(t, filepath.Join(dir, "pack-"+hash+".pack"))
			if err := os.Mkdir(filepath.Join(dir, "pack-"+hash+".pack"), 0o755); err != nil {
				t.Fatal(err)
			}
		}, "pack-", "is no file", 2, false},
		"a bit of an index": {func(t *testing.T, dir, hash string) {
			edit(t, filepath.Join(dir, "pack-"+hash+".idx"), flipMiddle)
		}, "pack-", "idx: its checksum", 2, true},
		"an index that was written wrong": {func(t *testing.T, dir, hash string) {
			edit(t, filepath.Join(dir, "pack-"+hash+".idx"), func(b []byte) []byte { return resum(flipMiddle(b)) })
		}, "pack-", "index-pack", 2, true},
		"no pack for an index": {func(t *testing.T, dir, hash string) {
			remove(t, filepath.Join(dir, "pack-"+hash+".pack"))
		}, "pack-", "pack: is lost", 2, false},
		"no index": {func(t *testing.T, dir, hash string) {
			remove(t, filepath.Join(dir, "pack-"+hash+".idx"))
		}, "", "", 2, false},
		"no pack at all": {func(t *testing.T, dir, hash string) {
			remove(t, filepath.Join(dir, "pack-"+hash+".idx"))
			remove(t, filepath.Join(dir, "pack-"+hash+".pack"))
		}, "", "", 2, false},
		"a bit of the index of packs": {func(t *testing.T, dir, _ string) {
			edit(t, filepath.Join(dir, midxName), flipMiddle)
		}, midxName, "checksum", 0, true},
		"an index of packs that was written wrong": {func(t *testing.T, dir, _ string) {
			edit(t, filepath.Join(dir, midxName), func(b []byte) []byte { return resum(flipMiddle(b)) })
		}, midxName, "multi-pack-index", 0, true},
		"a bit of the bitmaps": {func(t *testing.T, dir, _ string) {
			all, err := filepath.Glob(filepath.Join(dir, "*.bitmap"))
			if err != nil || len(all) != 1 {
				t.Fatal(all, err)
			}
			edit(t, all[0], flipMiddle)
		}, midxName + "-", "checksum", 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "git")
			copyTree(t, origin.dir, dir)
			m, other := open(t, dir, Options{}), open(t, dir, Options{}) // the latter as a relay that serves meanwhile
			mustBeSound(t, m, h.kept())
			if !other.Admitted(place, h.states[1]) {
				t.Fatal("nothing is there")
			}
			packs, err := m.packs()
			if err != nil || len(packs) != 2 {
				t.Fatal(packs, err)
			}
			c.damage(t, m.packDir(), packs[0])
			bad := verify(t, m, h.kept())
			if c.found == "" { // the other one may have its objects; but the index of packs knows it
				bad = append(bad, BadPack{Name: storeName})
			} else if len(bad) != 1 || !strings.HasPrefix(bad[0].Name, c.found) || !strings.Contains(bad[0].Reason, c.reason) {
				t.Fatalf("%+v", bad)
			} else if c.found == "pack-" && bad[0].Name != "pack-"+packs[0] {
				t.Errorf("found %s", bad[0].Name)
			}
			done, err := m.Repair(t.Context(), bad, h.kept())
			if err != nil {
				t.Fatal(err)
			}
			if c.found != "" && (done == nil || done.Packs != c.packs || len(done.Left) != 0) {
				t.Errorf("%+v", done)
			}
			mustBeSound(t, m, h.kept())
			h.mustBeClosed(t, m)
			if _, err := os.ReadDir(m.path(damagedName)); c.keeps && err != nil {
				t.Errorf("nothing is kept of what was damaged: %v", err)
			}
			gen := prepare(t, open(t, dir, Options{}), 2, h.states[1]) // as the relay does then
			if err := m.Bitmap(t.Context(), gen); err != nil {
				t.Fatal(err)
			}
			mustBeSound(t, m, h.kept())
			h.s.mustClone(serve(t, other, gen).url())
			for _, m := range []*Mirror{m, other} {
				if !m.Admitted(place, h.states[1]) {
					t.Error("what is served is not known to be here")
				}
			}
			stored(t, m) // the quarantine is empty
			// A second look finds nothing to do.
			if done, err := m.Repair(t.Context(), []BadPack{{Name: "pack-" + packs[0]}, {Name: storeName}, {Name: midxName}}, h.kept()); done != nil || err != nil {
				t.Errorf("%+v, %v", done, err)
			}
		})
	}
}

// thin is a repository whose second layer rests on the first.
func thin(t *testing.T) (s *sandbox, m *Mirror, kept []Kept, base string) {
	t.Helper()
	s = newSandbox(t)
	source := s.source()
	old := s.Git(source, "rev-parse", "HEAD")
	layers := [][]byte{s.layer(source)}
	m = open(t, filepath.Join(t.TempDir(), "git"), Options{})
	admit(t, m, s.state(source), layers...)
	packs, err := m.packs()
	if err != nil || len(packs) != 1 {
		t.Fatal(packs, err)
	}
	s.Commit(source, "robot-values/robot-001.yaml", "ssid: yard\n"+strings.Repeat("offset: 1\n", 200))
	layers = append(layers, s.layer(source, "main", "^"+old))
	g := s.state(source)
	admit(t, m, g, layers...)
	prepare(t, m, 1, g)
	return s, m, []Kept{{Repository: Repository{Path: place, Git: g}, Layers: layersOf(layers...), Served: true}}, packs[0]
}

// What rests on a lost pack is still found by its id: nothing may take it for whole, and it is whole again.
func TestRepairOfAHole(t *testing.T) {
	s, m, kept, base := thin(t)
	gen := prepare(t, m, 1, kept[0].Git)
	for _, ext := range []string{".idx", ".pack"} {
		if err := os.Remove(filepath.Join(m.packDir(), "pack-"+base+ext)); err != nil {
			t.Fatal(err)
		}
	}
	m = open(t, m.dir, Options{})
	bad := verify(t, m, kept)
	if len(bad) != 1 || bad[0].Name != storeName || bad[0].Reason == "" {
		t.Fatalf("%+v", bad)
	}
	if done, err := m.Repair(t.Context(), bad, kept); err != nil || done == nil || done.Packs != 2 {
		t.Fatalf("%+v, %v", done, err)
	}
	mustBeSound(t, m, kept)
	s.mustClone(serve(t, m, gen).url())
}

func TestCheckWholeMissesWhatIsServed(t *testing.T) {
	_, m, kept, _ := thin(t)
	if err := os.RemoveAll(m.packDir()); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(m.packDir(), 0o755); err != nil {
		t.Fatal(err)
	}
	if bad := verify(t, m, kept); len(bad) != 1 || !strings.Contains(bad[0].Reason, "is missing") {
		t.Errorf("%+v", bad)
	}
	kept[0].Served = false
	mustBeSound(t, m, kept)
}

// What cannot be made again stays as it is: what is damaged still gives most of its objects.
func TestRepairWithoutLayers(t *testing.T) {
	h := newHistory(t)
	m, _ := h.mirror(t, filepath.Join(t.TempDir(), "git"))
	packs, err := m.packs()
	if err != nil {
		t.Fatal(err)
	}
	edit(t, filepath.Join(m.packDir(), "pack-"+packs[0]+".pack"), flipMiddle)
	before := stored(t, m)
	bad := verify(t, m, h.kept())
	lost := errors.New("the blob is lost")
	gone := []Layer{{Name: "gone", Open: func() (io.ReadCloser, error) { return nil, lost }}}
	full := []Layer{{Name: "full", Open: func() (io.ReadCloser, error) { return nil, unix.ENOSPC }}}
	kept := h.kept()
	for i, layers := range [][]Layer{gone, full, full} {
		kept[i%2].Layers = layers
		done, err := m.Repair(t.Context(), bad, kept)
		if done != nil || !errors.Is(err, lost) && !errors.Is(err, unix.ENOSPC) {
			t.Errorf("%+v, %v", done, err)
		}
		if stored(t, m) != before {
			t.Error("the store changed")
		}
		kept = h.kept()
	}
	// Of what is only kept it is told.
	kept[1].Layers = gone
	done, err := m.Repair(t.Context(), bad, kept)
	if err != nil || done == nil || len(done.Left) != 1 || !strings.Contains(done.Left[0], lost.Error()) {
		t.Fatalf("%+v, %v", done, err)
	}
	mustBeSound(t, m, kept)
	h.mustBeClosed(t, m)
	if m.Admitted(place, h.states[0]) || !m.Admitted(place, h.states[1]) {
		t.Error("what is here is not what is known to be")
	}
	admit(t, m, h.states[0], h.layers[0])
	h.mustBeClosed(t, m)
}

// A process that dies at any moment of a repair leaves a mirror that is damaged as it was, or whole; another repair ends it.
func TestRepairKilledAtEachPoint(t *testing.T) {
	h := newHistory(t)
	dir := filepath.Join(t.TempDir(), "git")
	m, gen := h.mirror(t, dir)
	if err := m.Bitmap(t.Context(), gen); err != nil {
		t.Fatal(err)
	}
	packs, err := m.packs()
	if err != nil {
		t.Fatal(err)
	}
	edit(t, filepath.Join(m.packDir(), "pack-"+packs[0]+".pack"), flipMiddle)
	bad := verify(t, m, h.kept())
	root := t.TempDir()
	var points []string
	m.at = func(point string) {
		points = append(points, point)
		copyTree(t, dir, filepath.Join(root, fmt.Sprint(len(points))))
	}
	if _, err := m.Repair(t.Context(), bad, h.kept()); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"remade", "linked.pack", "linked.idx", "swapped", "decided", "removed", "renewed"} {
		if !slices.Contains(points, want) {
			t.Errorf("no point %q in %v", want, points)
		}
	}
	for i, point := range points {
		t.Run(fmt.Sprintf("%d %s", i, point), func(t *testing.T) {
			m := open(t, filepath.Join(root, fmt.Sprint(i+1)), Options{})
			gen := prepare(t, m, 2, h.states[1]) // as a start does
			if bad := verify(t, m, h.kept()); len(bad) > 0 {
				if _, err := m.Repair(t.Context(), bad, h.kept()); err != nil {
					t.Fatal(err)
				}
			}
			mustBeSound(t, m, h.kept())
			h.mustBeClosed(t, m)
			h.s.mustClone(serve(t, m, gen).url())
			stored(t, m)
		})
	}
}

// Who reads what is not damaged notices nothing.
func TestRepairBesideReaders(t *testing.T) {
	h := newHistory(t)
	m, gen := h.mirror(t, filepath.Join(t.TempDir(), "git"))
	site := serve(t, open(t, m.dir, Options{}), gen)
	packs, err := m.packs()
	if err != nil {
		t.Fatal(err)
	}
	for _, hash := range packs { // that with two megabytes which no one asks for
		path := filepath.Join(m.packDir(), "pack-"+hash+".pack")
		if fi, err := os.Stat(path); err != nil || fi.Size() < 2<<20 {
			continue
		}
		edit(t, path, func(b []byte) []byte { b[len(b)-1] ^= 1; return b })
	}
	ctx, cancel := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	began := make(chan struct{}, 3)
	root := t.TempDir()
	for i := range 3 {
		readers.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				if _, err := h.s.Try(h.s.Home, "clone", "--quiet", site.url(), filepath.Join(root, fmt.Sprint(i, n))); err != nil {
					t.Error(err)
				}
				if n == 0 {
					began <- struct{}{}
				}
			}
		})
	}
	for range 3 {
		<-began
	}
	bad := verify(t, m, h.kept())
	if _, err := m.Repair(t.Context(), bad, h.kept()); err != nil || len(bad) != 1 {
		t.Errorf("%+v, %v", bad, err)
	}
	cancel()
	readers.Wait()
	mustBeSound(t, m, h.kept())
}

func TestCheckPackPaces(t *testing.T) {
	h := newHistory(t)
	m, _ := h.mirror(t, filepath.Join(t.TempDir(), "git"))
	names, err := m.Packs()
	if err != nil || len(names) != 2 {
		t.Fatal(names, err)
	}
	sum, want := int64(0), int64(0)
	for _, name := range names {
		if _, _, err := m.CheckPack(t.Context(), name, func(_ context.Context, n int) error { sum += int64(n); return nil }); err != nil {
			t.Fatal(err)
		}
		for _, ext := range []string{".pack", ".idx"} {
			fi, err := os.Stat(filepath.Join(m.packDir(), name+ext))
			if err != nil {
				t.Fatal(err)
			}
			want += fi.Size()
		}
	}
	if sum != want {
		t.Errorf("%d bytes at the caller's pace, want %d", sum, want)
	}
	// It ends with the caller's word, and takes that for no damage.
	if bad, _, err := m.CheckPack(t.Context(), names[0], func(context.Context, int) error { return fs.ErrClosed }); bad != nil || !errors.Is(err, fs.ErrClosed) {
		t.Errorf("%+v, %v", bad, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if bad, _, err := m.CheckPack(ctx, names[0], nil); bad != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("%+v, %v", bad, err)
	}
	if bad, err := m.CheckWhole(ctx, h.kept()); bad != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("%+v, %v", bad, err)
	}
	// What was collected is not damaged, and nothing else is looked at than packs.
	if bad, flaky, err := m.CheckPack(t.Context(), "pack-"+strings.Repeat("a", 40), nil); bad != nil || flaky || err != nil {
		t.Errorf("%+v, %v, %v", bad, flaky, err)
	}
	if _, _, err := m.CheckPack(t.Context(), "../x", nil); err == nil {
		t.Error("a name that is none was taken")
	}
}

func TestTrimDamaged(t *testing.T) {
	dir := t.TempDir()
	for i := range maxDamaged + 3 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%03d", i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	trimDamaged(dir)
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != maxDamaged || left[0].Name() != "003" {
		t.Errorf("%v, %v", left, err)
	}
}
