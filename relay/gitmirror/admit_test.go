package gitmirror

import (
	"bytes"
	"compress/zlib"
	"context"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/plimsoll/plimsoll/bundle"
)

func TestAdmitInLayers(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	source := s.source()
	first, state1 := s.layer(source), s.state(source)
	base := s.Git(source, "rev-parse", "main")
	s.Commit(source, "robot-values/robot-001.yaml", "ssid: line-2\n"+strings.Repeat("offset: 1\n", 200))
	s.Git(source, "tag", "-a", "v1.5.5", "-m", "release")
	second, state2 := s.layer(source, "main", "v1.5.5", "^"+base), s.state(source)

	t.Run("both at once", func(t *testing.T) {
		m := open(t, t.TempDir(), Options{})
		admit(t, m, state2, first, second)
		s.Git(m.path(storeName), "fsck", "--full", "--strict")
	})
	t.Run("one after the other", func(t *testing.T) {
		m := open(t, t.TempDir(), Options{})
		admit(t, m, state1, first)
		admit(t, m, state2, first, second)
		s.Git(m.path(storeName), "fsck", "--full", "--strict")
		packs, err := filepath.Glob(filepath.Join(m.packDir(), "*.pack"))
		if err != nil || len(packs) != 2 {
			t.Errorf("packs: %v, %v", packs, err)
		}
		before := stored(t, m)
		// What is here is not read again, and going back needs nothing.
		for _, g := range []bundle.Git{state2, state1} {
			err := m.Admit(context.Background(), place, g, []Layer{{Name: "unread", Open: func() (io.ReadCloser, error) {
				t.Error("a layer was opened again")
				return nil, os.ErrInvalid
			}}})
			if err != nil {
				t.Error(err)
			}
		}
		if stored(t, m) != before {
			t.Error("the store changed")
		}
	})
	t.Run("without the base", func(t *testing.T) {
		m := open(t, t.TempDir(), Options{})
		before := stored(t, m)
		err := m.Admit(context.Background(), place, state2, layersOf(second))
		var missing *MissingBaseError
		if !errors.As(err, &missing) || len(missing.OIDs) != 1 || missing.OIDs[0] != base || !strings.Contains(err.Error(), base) {
			t.Errorf("got %v", err)
		}
		if stored(t, m) != before {
			t.Error("the store changed")
		}
	})
	t.Run("in the wrong order", func(t *testing.T) {
		m := open(t, t.TempDir(), Options{})
		var missing *MissingBaseError
		if err := m.Admit(context.Background(), place, state2, layersOf(second, first)); !errors.As(err, &missing) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("no layers", func(t *testing.T) {
		m := open(t, t.TempDir(), Options{})
		var incomplete *IncompleteError
		if err := m.Admit(context.Background(), place, state2, nil); !errors.As(err, &incomplete) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a history rewritten", func(t *testing.T) {
		m := open(t, t.TempDir(), Options{})
		admit(t, m, state2, first, second)
		s.Git(source, "reset", "--quiet", "--hard", base)
		s.Commit(source, "z", "another way")
		s.Git(source, "tag", "-d", "v1.5.5")
		admit(t, m, s.state(source), s.layer(source))
		s.Git(m.path(storeName), "fsck", "--full", "--strict")
	})
}

// TestAdmitRefuses: each hostile or broken layer is refused with its own kind of error and leaves the store as it was.
func TestAdmitRefuses(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	source := s.source()
	good, state := s.layer(source), s.state(source)
	at := bytes.Index(good, []byte("\n\nPACK")) + 2
	header, pack := string(good[:at]), good[at:]
	main := s.Git(source, "rev-parse", "main")
	with := func(change func(g *bundle.Git)) bundle.Git {
		g := state
		g.Refs = append([]bundle.GitRef(nil), state.Refs...)
		change(&g)
		return g
	}
	m := open(t, t.TempDir(), Options{})
	// Something is in the store already, which must stay as it is.
	other := s.source()
	s.Commit(other, "other", "other")
	admit(t, m, s.state(other), s.layer(other))
	before := stored(t, m)

	for _, tc := range []struct {
		name  string
		g     bundle.Git
		layer []byte
		want  error
	}{
		{"no bundle", state, []byte("hello\n"), &DamagedError{}},
		{"nothing", state, nil, &DamagedError{}},
		{"a later version", state, []byte(strings.Replace(string(good), "# v2", "# v4", 1)), &DamagedError{}},
		{"a cut header", state, good[:at-30], &DamagedError{}},
		{"no pack", state, good[:at], &DamagedError{}},
		{"a cut pack", state, good[:len(good)-30], &DamagedError{}},
		{"a pack without its last byte", state, good[:len(good)-1], &DamagedError{}},
		{"a flipped bit", state, flip(good, len(good)/2+at/2), &DamagedError{}},
		{"a flipped check sum", state, flip(good, len(good)-1), &DamagedError{}},
		{"bytes after the pack", state, append(bytes.Clone(good), "more"...), &DamagedError{}},
		{"a count of 2^32-1 objects", state, recount(header, pack, 0xffffffff), &DamagedError{}},
		{"one object too few", state, recount(header, pack, uint32(pack[11])-1), &DamagedError{}},
		{"a ref that climbs", state, []byte(header[:len(header)-1] + main + " refs/heads/../../config\n\n" + string(pack)), &DamagedError{}},
		{"a ref outside of branches and tags", state, []byte(header[:len(header)-1] + main + " refs/replace/x\n\n" + string(pack)), &DamagedError{}},
		{"a header that names absent objects", with(func(g *bundle.Git) { g.Refs[0].OID = strings.Repeat("1", 40) }),
			[]byte(strings.Replace(string(good), main+" refs/heads/canary", strings.Repeat("1", 40)+" refs/heads/canary", 1)), &DamagedError{}},
		{"a ref that the lock does not name", with(func(g *bundle.Git) { g.Refs = g.Refs[1:] }), good, &RefusedError{}},
		{"a ref elsewhere", with(func(g *bundle.Git) { g.Refs[0].OID = s.Git(source, "rev-parse", "main~1") }), good, &RefusedError{}},
		{"a tag that peels elsewhere", with(func(g *bundle.Git) { g.Refs[3].Peeled = s.Git(source, "rev-parse", "main~1") }), good, &RefusedError{}},
		{"an annotated tag without its peeled id", with(func(g *bundle.Git) { g.Refs[3].Peeled = "" }), good, &RefusedError{}},
		{"a light tag with a peeled id", with(func(g *bundle.Git) { g.Refs[2].Peeled = main }), good, &RefusedError{}},
		{"a branch that is a tag", with(func(g *bundle.Git) {
			g.Refs = append(g.Refs[:2:2], append([]bundle.GitRef{{Name: "refs/heads/zzz", OID: g.Refs[3].OID}}, g.Refs[2:]...)...)
		}), good, &RefusedError{}},
		{"a ref whose object is not there", with(func(g *bundle.Git) {
			g.Refs = append(g.Refs, bundle.GitRef{Name: "refs/tags/zzz", OID: strings.Repeat("2", 40)})
		}), good, &IncompleteError{}},
		{"a lock with a ref that climbs", with(func(g *bundle.Git) { g.Refs[0].Name = "refs/heads/../../config" }), good, &RefusedError{}},
		{"a lock with an option for an object", with(func(g *bundle.Git) { g.Refs[0].OID = "--all" }), good, &RefusedError{}},
		{"a lock with SHA-256", with(func(g *bundle.Git) { g.Refs[0].OID = strings.Repeat("a", 64) }), good, &RefusedError{}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := m.Admit(context.Background(), place, tc.g, layersOf(tc.layer))
			checkKind(t, err, tc.want)
			if stored(t, m) != before {
				t.Error("the store changed")
			}
		})
	}
	admit(t, m, state, good)
}

func checkKind(t *testing.T, err, want error) {
	t.Helper()
	ok := false
	switch want.(type) {
	case *DamagedError:
		var e *DamagedError
		ok = errors.As(err, &e)
	case *RefusedError:
		var e *RefusedError
		ok = errors.As(err, &e)
	case *IncompleteError:
		var e *IncompleteError
		ok = errors.As(err, &e)
	}
	if !ok {
		t.Errorf("got %T %v, want %T", err, err, want)
	}
}

func flip(data []byte, at int) []byte {
	out := bytes.Clone(data)
	out[at] ^= 0x10
	return out
}

// recount gives the pack another object count and a check sum that fits.
func recount(header string, pack []byte, n uint32) []byte {
	out := bytes.Clone(pack[:len(pack)-20])
	out[8], out[9], out[10], out[11] = byte(n>>24), byte(n>>16), byte(n>>8), byte(n)
	sum := sha1.Sum(out)
	return append([]byte(header), append(out, sum[:]...)...)
}

// TestClients18Quarantine: packs that are sound and hold what no client may get.
func TestClients18Quarantine(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	for _, tc := range []struct {
		name string
		make func(source string) (g bundle.Git, layer []byte)
		want error
	}{
		{"an object that no ref leads to", func(source string) (bundle.Git, []byte) {
			g := s.state(source)
			secret := s.hashObject(source, "blob", "a secret")
			return g, s.rawLayer(source, g, s.Git(source, "rev-list", "--objects", "--all", "--no-object-names")+"\n"+secret)
		}, &RefusedError{}},
		{"a path .git", func(source string) (bundle.Git, []byte) {
			blob := s.hashObject(source, "blob", "[core]\n\tfsmonitor = touch /tmp/x\n")
			sub := s.mktree(source, "100644 blob "+blob+"\tconfig\n")
			return s.evil(source, s.mktree(source, "040000 tree "+sub+"\t.git\n"))
		}, &DamagedError{}},
		{"a path ..", func(source string) (bundle.Git, []byte) {
			blob := s.hashObject(source, "blob", "x")
			sub := s.mktree(source, "100644 blob "+blob+"\tx\n")
			return s.evil(source, s.mktree(source, "040000 tree "+sub+"\t..\n"))
		}, &DamagedError{}},
		{"a submodule URL that is an option", func(source string) (bundle.Git, []byte) {
			blob := s.hashObject(source, "blob", "[submodule \"x\"]\n\tpath = x\n\turl = -u./payload\n")
			return s.evil(source, s.mktree(source, "100644 blob "+blob+"\t.gitmodules\n"))
		}, &DamagedError{}},
		{"a link .gitmodules", func(source string) (bundle.Git, []byte) {
			blob := s.hashObject(source, "blob", "/etc/passwd")
			return s.evil(source, s.mktree(source, "120000 blob "+blob+"\t.gitmodules\n"))
		}, &DamagedError{}},
		{"a tree without its file", func(source string) (bundle.Git, []byte) {
			blob := s.hashObject(source, "blob", "to be left out")
			g, _ := s.evil(source, s.mktree(source, "100644 blob "+blob+"\tx\n"))
			objects := s.Git(source, "rev-list", "--objects", "--all", "--no-object-names")
			return g, s.rawLayer(source, g, strings.ReplaceAll(objects+"\n", blob+"\n", ""))
		}, &DamagedError{}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := open(t, t.TempDir(), Options{})
			before := stored(t, m)
			g, layer := tc.make(s.source())
			err := m.Admit(context.Background(), place, g, layersOf(layer))
			checkKind(t, err, tc.want)
			if stored(t, m) != before {
				t.Error("the store changed")
			}
		})
	}
}

// TestAdmitBoundsMemory: a delta of a few bytes asks for gigabytes.
func TestAdmitBoundsMemory(t *testing.T) {
	t.Parallel()
	var pack bytes.Buffer
	pack.WriteString("PACK\x00\x00\x00\x02\x00\x00\x00\x02")
	deflate := func(data []byte) {
		z := zlib.NewWriter(&pack)
		if _, err := z.Write(data); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
	}
	base := []byte("0123456789")
	pack.WriteByte(3<<4 | byte(len(base))) // a blob
	deflate(base)
	// A copy of the base, to become an object of 3 GiB.
	delta := append([]byte{byte(len(base))}, binary.AppendUvarint(nil, 3<<30)...)
	delta = append(delta, 0x90, byte(len(base)))
	id := sha1.Sum(append([]byte("blob 10\x00"), base...))
	pack.WriteByte(7<<4 | byte(len(delta))) // a delta to the object id
	pack.Write(id[:])
	deflate(delta)
	sum := sha1.Sum(pack.Bytes())
	pack.Write(sum[:])
	oid := strings.Repeat("a", 40)
	g := bundle.Git{Head: "refs/heads/main", Refs: []bundle.GitRef{{Name: "refs/heads/main", OID: oid}}}
	layer := append([]byte("# v2 git bundle\n"+oid+" refs/heads/main\n\n"), pack.Bytes()...)
	m := open(t, t.TempDir(), Options{})
	err := m.Admit(context.Background(), place, g, layersOf(layer))
	var damaged *DamagedError
	if !errors.As(err, &damaged) || !strings.Contains(damaged.Reason, "over limit") {
		t.Errorf("got %v", err)
	}
}

func (s *sandbox) pipe(dir, stdin string, args ...string) string {
	s.T.Helper()
	cmd := s.Command(dir, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		s.T.Fatalf("git %v: %v: %s", args, err, stderr.String())
	}
	return string(out)
}

func (s *sandbox) hashObject(dir, kind, content string) string {
	return strings.TrimSpace(s.pipe(dir, content, "hash-object", "-w", "--stdin", "--literally", "-t", kind))
}

func (s *sandbox) mktree(dir, entries string) string {
	return strings.TrimSpace(s.pipe(dir, entries, "mktree"))
}

// evil makes a branch with a tree and a layer of everything.
func (s *sandbox) evil(dir, tree string) (bundle.Git, []byte) {
	s.T.Helper()
	s.Git(dir, "update-ref", "refs/heads/evil", s.Git(dir, "commit-tree", "-m", "evil", tree))
	return s.state(dir), s.layer(dir)
}

// rawLayer packs exactly the objects listed.
func (s *sandbox) rawLayer(dir string, g bundle.Git, objects string) []byte {
	s.T.Helper()
	var b strings.Builder
	b.WriteString("# v2 git bundle\n")
	for _, ref := range g.Refs {
		b.WriteString(ref.OID + " " + ref.Name + "\n")
	}
	b.WriteString("\n" + s.pipe(dir, objects, "pack-objects", "--stdout", "--quiet"))
	return []byte(b.String())
}

// TestAdmitPassesReadErrorsOn: what the source of a layer says is not made the layer's fault.
func TestAdmitPassesReadErrorsOn(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	source := s.source()
	layer, g := s.layer(source), s.state(source)
	m := open(t, t.TempDir(), Options{})
	before := stored(t, m)
	broken := errors.New("the stick was pulled out")
	for _, n := range []int{0, 10, len(layer) / 2, len(layer) - 1} {
		err := m.Admit(context.Background(), place, g, []Layer{{Name: "l", Open: func() (io.ReadCloser, error) {
			return io.NopCloser(io.MultiReader(bytes.NewReader(layer[:n]), iotest.ErrReader(broken))), nil
		}}})
		var damaged *DamagedError
		if !errors.Is(err, broken) || errors.As(err, &damaged) {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := m.Admit(ctx, place, g, layersOf(layer)); !errors.Is(err, context.Canceled) {
		t.Errorf("with a cancelled context: %v", err)
	}
	if stored(t, m) != before {
		t.Error("the store changed")
	}
}

// TestOpenSweeps: leftovers go, but not while somebody imports.
func TestOpenSweeps(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := newSandbox(t)
	m := open(t, dir, Options{})
	stale := []string{
		m.path(quarantineName, "admit-123", "q.git", "HEAD"),
		filepath.Join(m.packDir(), "pack-"+strings.Repeat("a", 40)+".pack"),
		filepath.Join(m.packDir(), "pack-"+strings.Repeat("b", 40)+".idx"),
		filepath.Join(m.packDir(), "tmp_pack_x"),
	}
	for _, path := range stale {
		s.Write(filepath.Dir(path), filepath.Base(path), "stale")
	}
	unlock, err := m.lockImport()
	if err != nil {
		t.Fatal(err)
	}
	// lockImport swept, nobody was importing; now somebody is.
	for _, path := range stale {
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s is still there", path)
		}
		s.Write(filepath.Dir(path), filepath.Base(path), "in use")
	}
	open(t, dir, Options{})
	for _, path := range stale {
		if _, err := os.Stat(path); err != nil {
			t.Errorf("swept under an import: %v", err)
		}
	}
	unlock()
	open(t, dir, Options{})
	for _, path := range stale {
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s is still there", path)
		}
	}
}
