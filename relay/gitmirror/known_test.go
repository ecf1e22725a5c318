package gitmirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plimsoll/plimsoll/bundle"
)

// countedGit is git that writes the name of each command into a file.
func countedGit(t testing.TB) (path string, ran func() string) {
	t.Helper()
	dir := t.TempDir()
	git, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(dir, "log")
	path = filepath.Join(dir, "git")
	if err := os.WriteFile(path, []byte("#!/bin/sh\necho $1 >> "+log+"\nexec "+git+" \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path, func() string {
		data, err := os.ReadFile(log)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
		if err := os.RemoveAll(log); err != nil {
			t.Error(err)
		}
		return strings.Join(strings.Fields(string(data)), " ")
	}
}

func unread(t *testing.T) []Layer {
	return []Layer{{Name: "unread", Open: func() (io.ReadCloser, error) {
		t.Error("a layer was opened")
		return nil, os.ErrInvalid
	}}}
}

// TestStartRunsNoGit: a relay that starts with what it had runs no process; nor does one that goes back, or on to a
// generation of which nothing is new.
func TestStartRunsNoGit(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	source := s.source()
	git, ran := countedGit(t)
	dir := t.TempDir()
	first, layer := s.state(source), s.layer(source)
	base := s.Git(source, "rev-parse", "main")
	s.Commit(source, "x", "x")
	second, more := s.state(source), s.layer(source, "main", "^"+base)
	m := open(t, dir, Options{Git: git})
	if got := ran(); got != "" {
		t.Errorf("Open of nothing ran git %s", got)
	}
	admit(t, m, first, layer)
	prepare(t, m, 1, first)
	admit(t, m, second, layer, more)
	prepare(t, m, 2, second)
	if got := ran(); !strings.HasPrefix(got, "version cat-file ") || !strings.Contains(got, "index-pack") {
		t.Errorf("the first import ran git %s", got)
	}

	for name, g := range map[string]bundle.Git{"as it was": second, "back": first} {
		for _, n := range map[string][]uint64{"as it was": {2, 3}, "back": {1, 4, 5}}[name] {
			m := open(t, dir, Options{Git: git})
			if !m.Admitted(place, g) {
				t.Errorf("%s: not known", name)
			}
			if err := m.Admit(context.Background(), place, g, unread(t)); err != nil {
				t.Error(err)
			}
			prepare(t, m, n, g)
			if got := ran(); got != "" {
				t.Errorf("%s, generation %d: ran git %s", name, n, got)
			}
		}
	}
	absent := second
	absent.Refs = append([]bundle.GitRef(nil), second.Refs...)
	absent.Refs[0].OID = strings.Repeat("0", 39) + "1"
	m = open(t, dir, Options{Git: git})
	if m.Admitted(place, absent) || m.Admitted("github.com/acme/another", first) {
		t.Error("a state that was never admitted is known")
	}
	var incomplete *IncompleteError
	if _, err := m.Prepare(context.Background(), 1, []Repository{{Path: place, Git: absent}}); !errors.As(err, &incomplete) {
		t.Errorf("got %v", err)
	}
}

// TestLostObjects: what generations say of the store is believed only as long as the store is the one they were made with.
func TestLostObjects(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	source := s.source()
	g, layer := s.state(source), s.layer(source)
	for name, lose := range map[string]func(m *Mirror) error{
		"the store": func(m *Mirror) error { return os.RemoveAll(m.path(storeName)) },
		"a pack and its index": func(m *Mirror) error {
			return errors.Join(os.RemoveAll(m.packDir()), os.Mkdir(m.packDir(), 0o755))
		},
		"an index": func(m *Mirror) error {
			found, err := filepath.Glob(filepath.Join(m.packDir(), "*.idx"))
			if len(found) != 1 {
				return fmt.Errorf("%v, %w", found, err)
			}
			return os.Remove(found[0])
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			m := open(t, dir, Options{})
			admit(t, m, g, layer)
			prepare(t, m, 1, g)
			if err := lose(m); err != nil {
				t.Fatal(err)
			}
			m = open(t, dir, Options{})
			var incomplete *IncompleteError
			if _, err := m.Prepare(context.Background(), 1, []Repository{{Path: place, Git: g}}); !errors.As(err, &incomplete) {
				t.Errorf("prepared without objects: %v", err)
			}
			if name == "the store" {
				if gens, err := filepath.Glob(m.path("gen-*")); len(gens) > 0 || err != nil {
					t.Errorf("a new store has generations: %v, %v", gens, err)
				}
			}
			admit(t, m, g, layer) // what the relay does at its start: the objects come back
			site := serve(t, m, prepare(t, m, 1, g))
			s.Git(s.Home, "clone", "--quiet", site.url(), filepath.Join(t.TempDir(), "clone"))
		})
	}
}

// TestOpenWithoutGit: a git that is missing is told at once, one that is none when it is asked for.
func TestOpenWithoutGit(t *testing.T) {
	t.Parallel()
	if _, err := Open(t.TempDir(), Options{Git: "/nonexistent/git"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no git: %v", err)
	}
	for version, ok := range map[string]bool{
		"git version 2.31.0": true, "git version 2.49.0.windows.1": true, "git version 3.0": true,
		"git version 2.30.9": false, "git version 1.99.0": false, "hello": false, "": false,
	} {
		path := filepath.Join(t.TempDir(), "git")
		if err := os.WriteFile(path, []byte("#!/bin/sh\necho '"+version+"'\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		m := open(t, t.TempDir(), Options{Git: path})
		if err := m.CheckGit(context.Background()); (err == nil) != ok {
			t.Errorf("%q: %v", version, err)
		}
		if g := (bundle.Git{Head: "refs/heads/main", Refs: []bundle.GitRef{{Name: "refs/heads/main", OID: strings.Repeat("a", 40)}}}); !ok {
			if err := m.Admit(context.Background(), place, g, unread(t)); err == nil || !strings.Contains(err.Error(), "version") {
				t.Errorf("%q: admit says %v", version, err)
			}
		}
	}
}
