package gitmirror

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plimsoll/plimsoll/bundle"
)

func TestPrepareIsIdempotent(t *testing.T) {
	t.Parallel()
	s, source, site := newSite(t, Options{})
	m := site.m
	g := s.state(source)
	head := filepath.Join(m.generationDir(1), place+".git", "HEAD")
	before, err := os.Stat(head)
	if err != nil {
		t.Fatal(err)
	}
	prepare(t, m, 1, g)
	after, err := os.Stat(head)
	if err != nil || !os.SameFile(before, after) {
		t.Errorf("the same generation was written again, %v", err)
	}
	// Another content under the same number, and every kind of damage: written anew.
	for name, damage := range map[string]func() error{
		"other refs":  func() error { g.Refs = g.Refs[:2]; return nil },
		"a file more": func() error { return os.WriteFile(filepath.Join(filepath.Dir(head), "refs", "x"), nil, 0o600) },
		"a file less": func() error { return os.Remove(head) },
		"a cut file":  func() error { return os.Truncate(head, 3) },
		"no folder":   func() error { return os.RemoveAll(filepath.Join(filepath.Dir(head), "refs")) },
		"a link": func() error {
			return errors.Join(os.Remove(head), os.Symlink("packed-refs", head))
		},
	} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		prepare(t, m, 1, g)
		if same, err := m.onDisk(mustGeneration(t, 1, g)); !same || err != nil {
			t.Errorf("%s: not repaired, %v", name, err)
		}
	}
	stored(t, m) // and the quarantine is empty
}

func mustGeneration(t *testing.T, n uint64, g bundle.Git) *Generation {
	t.Helper()
	gen, err := NewGeneration(n, []Repository{{Path: place, Git: g}})
	if err != nil {
		t.Fatal(err)
	}
	return gen
}

func TestPrepareRefuses(t *testing.T) {
	t.Parallel()
	s, source, site := newSite(t, Options{})
	g := s.state(source)
	absent := g
	absent.Refs = append([]bundle.GitRef(nil), g.Refs...)
	absent.Refs[0].OID = strings.Repeat("0", 39) + "1"
	var incomplete *IncompleteError
	if _, err := site.m.Prepare(context.Background(), 2, []Repository{{Path: place, Git: absent}}); !errors.As(err, &incomplete) {
		t.Errorf("an object that was never admitted: %v", err)
	}
	for name, repos := range map[string][]Repository{
		"climbing":        {{Path: "../../etc", Git: g}},
		"climbing inside": {{Path: "github.com/../x", Git: g}},
		"twice":           {{Path: place, Git: g}, {Path: "GitHub.com/acme/robot-deployment", Git: g}},
		"nested":          {{Path: "github.com/acme", Git: g}, {Path: "github.com/acme.git/x", Git: g}},
		"HEAD":            {{Path: place, Git: bundle.Git{Head: "refs/heads/x\n[core]", Refs: g.Refs}}},
		"no refs":         {{Path: place, Git: bundle.Git{Head: g.Head}}},
	} {
		var refused *RefusedError
		if _, err := site.m.Prepare(context.Background(), 2, repos); !errors.As(err, &refused) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := os.Stat(site.m.generationDir(2)); err == nil {
		t.Error("a refused generation was written")
	}
	if gen, err := site.m.Prepare(context.Background(), 2, nil); err != nil || len(gen.Repositories()) != 0 || gen.Number() != 2 {
		t.Errorf("a generation without repositories: %v, %v", gen, err)
	}
}

func TestPrune(t *testing.T) {
	t.Parallel()
	s, source, site := newSite(t, Options{})
	m := site.m
	g := s.state(source)
	for n := uint64(2); n <= 5; n++ {
		prepare(t, m, n, g)
	}
	release := m.use(3)
	if err := m.Prune(context.Background(), 1, 5); err != nil {
		t.Fatal(err)
	}
	there := func() string {
		found, err := filepath.Glob(m.path("gen-*"))
		if err != nil {
			t.Fatal(err)
		}
		for i := range found {
			found[i] = filepath.Base(found[i])
		}
		return strings.Join(found, " ")
	}
	if got := there(); got != "gen-1 gen-3 gen-5" {
		t.Errorf("left: %s; generation 3 is being read", got)
	}
	release()
	if err := m.Prune(context.Background(), 1); err != nil {
		t.Fatal(err)
	}
	if got := there(); got != "gen-1" {
		t.Errorf("left: %s", got)
	}
	s.Git(s.Home, "ls-remote", site.url())
}

// TestMirrorMoves: the folder works in another place, as after a restore, and when it belongs to another user.
func TestMirrorMoves(t *testing.T) {
	t.Parallel()
	s, source, site := newSite(t, Options{})
	moved := filepath.Join(t.TempDir(), "moved")
	if err := os.Rename(site.m.dir, moved); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() == 0 {
		err := filepath.WalkDir(moved, func(path string, _ os.DirEntry, err error) error {
			return errors.Join(err, os.Lchown(path, 12345, 12345))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	m := open(t, moved, Options{})
	g := s.state(source)
	again := serve(t, m, prepare(t, m, 1, g))
	s.Git(s.Home, "clone", "--quiet", again.url(), filepath.Join(t.TempDir(), "clone"))
	s.Commit(source, "x", "x")
	admit(t, m, s.state(source), s.layer(source))
}
