package gitpack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/relay/gitmirror"
)

// baseOf reads a layer's header as a later build would.
func baseOf(t *testing.T, file string) *Base {
	t.Helper()
	refs, _, err := Header(bytes.NewReader(read(t, file)))
	if err != nil {
		t.Fatal(err)
	}
	return &Base{Refs: refs}
}

// packedObjects counts what is in a layer's pack.
func packedObjects(t *testing.T, file string) uint32 {
	t.Helper()
	data := read(t, file)
	pack := data[bytes.Index(data, []byte("\n\n"))+2:]
	if len(pack) < 32 || string(pack[:4]) != "PACK" {
		t.Fatalf("%s: no pack", file)
	}
	return uint32(pack[8])<<24 | uint32(pack[9])<<16 | uint32(pack[10])<<8 | uint32(pack[11])
}

// site is a relay's mirror.
type site struct {
	t *testing.T
	m *gitmirror.Mirror
}

func newSite(t *testing.T) *site {
	t.Helper()
	m, err := gitmirror.Open(filepath.Join(t.TempDir(), "git"), gitmirror.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return &site{t, m}
}

func (s *site) admit(g bundle.Git, files ...string) error {
	var layers []gitmirror.Layer
	for _, file := range files {
		layers = append(layers, gitmirror.Layer{Name: file, Open: func() (io.ReadCloser, error) { return os.Open(file) }})
	}
	return s.m.Admit(context.Background(), "example.com/robot", g, layers)
}

func TestPackAgainstABase(t *testing.T) {
	const unchanged, empty, small, full = "unchanged", "an empty pack", "only what is new", "everything"
	for _, tc := range []struct {
		name   string
		change func(s *sandbox, dir string)
		want   string
		lost   string
	}{
		{"nothing", func(*sandbox, string) {}, unchanged, ""},
		{"another packing", func(s *sandbox, dir string) { s.Git(dir, "gc", "--quiet", "--aggressive") }, unchanged, ""},
		{"a commit", func(s *sandbox, dir string) { s.Commit(dir, "new", "new\n") }, small, ""},
		{"a merge", func(s *sandbox, dir string) { s.Git(dir, "merge", "--quiet", "--no-ff", "-m", "merge", "canary") }, small, ""},
		{"a new branch with a commit", func(s *sandbox, dir string) {
			s.Git(dir, "checkout", "--quiet", "-b", "line-2", "main~3")
			s.Commit(dir, "new", "new\n")
			s.Git(dir, "checkout", "--quiet", "main")
		}, small, ""},
		{"history of its own", func(s *sandbox, dir string) {
			s.Git(dir, "checkout", "--quiet", "--orphan", "pages")
			s.Commit(dir, "index", "new\n")
			s.Git(dir, "checkout", "--quiet", "main")
		}, small, ""},
		{"a revert to an old tree", func(s *sandbox, dir string) {
			s.Git(dir, "commit", "--quiet", "--allow-empty", "-m", "nothing")
			s.Git(dir, "revert", "--no-edit", "HEAD~1")
		}, small, ""},
		{"a tag on an old commit", func(s *sandbox, dir string) { s.Git(dir, "tag", "old", "main~5") }, empty, ""},
		{"an annotated tag on an old commit", func(s *sandbox, dir string) { s.Git(dir, "tag", "-a", "-m", "old", "old", "main~5") }, small, ""},
		{"a branch at an old commit", func(s *sandbox, dir string) { s.Git(dir, "branch", "old", "main~5") }, empty, ""},
		{"a tag of an old file", func(s *sandbox, dir string) { s.Git(dir, "tag", "old", "main~5:robot-values/robots.yaml") }, small, ""},
		{"another HEAD", func(s *sandbox, dir string) { s.Git(dir, "checkout", "--quiet", "canary") }, empty, ""},
		{"a branch deleted that another one holds", func(s *sandbox, dir string) { s.Git(dir, "branch", "-D", "feature/arm") }, empty, ""},
		{"a branch deleted after its merge", func(s *sandbox, dir string) {
			s.Git(dir, "merge", "--quiet", "--no-ff", "-m", "merge", "canary")
			s.Git(dir, "branch", "-D", "feature/arm", "canary")
		}, small, ""},
		{"a tag deleted that another tag holds", func(s *sandbox, dir string) { s.Git(dir, "tag", "-d", "v1.5.4") }, empty, ""},
		{"a branch deleted unmerged", func(s *sandbox, dir string) {
			s.Git(dir, "branch", "-D", "feature/arm", "canary")
		}, full, "refs/heads/canary refs/heads/feature/arm"},
		{"a branch forced", func(s *sandbox, dir string) {
			s.Git(dir, "tag", "-d", "light", "nested", "v1.5.4")
			s.Git(dir, "branch", "-D", "feature/arm", "canary")
			s.Git(dir, "commit", "--quiet", "--amend", "-m", "another message")
		}, full, "refs/heads/canary refs/heads/feature/arm refs/heads/main refs/tags/light refs/tags/nested refs/tags/v1.5.4"},
		{"a branch forced that a tag holds", func(s *sandbox, dir string) {
			s.Git(dir, "commit", "--quiet", "--amend", "-m", "another message")
		}, small, ""},
		{"an annotated tag moved", func(s *sandbox, dir string) {
			s.Git(dir, "tag", "-d", "nested")
			s.Git(dir, "tag", "-f", "-a", "-m", "again", "v1.5.4", "main~1")
		}, full, "refs/tags/nested refs/tags/v1.5.4"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newSandbox(t)
			source := s.repository()
			first := s.mustPack(Options{Source: source})
			if !first.Full || first.Unchanged {
				t.Errorf("without a base: %+v", first)
			}
			base := baseOf(t, first.File)
			tc.change(s, source)
			p := s.mustPack(Options{Source: source, Base: base})

			got := small
			switch {
			case p.Unchanged:
				got = unchanged
			case p.Full:
				got = full
			case packedObjects(t, p.File) == 0:
				got = empty
			}
			if got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
			var lost []string
			for _, ref := range p.Lost {
				lost = append(lost, ref.Name)
			}
			if text := strings.Join(lost, " "); text != tc.lost {
				t.Errorf("lost: %s, want %s", text, tc.lost)
			}
			if p.Unchanged {
				if p.File != "" || p.Full {
					t.Errorf("unchanged: %+v", p)
				}
				return
			}
			checkLayer(t, s, source, base, first, p)
		})
	}
}

// checkLayer: the header is the complete state, stock git and relays, new ones and those that have the base, take the
// layers and find what the source has.
func checkLayer(t *testing.T, s *sandbox, source string, base *Base, first, p *Packed) {
	t.Helper()
	refs, prerequisites, err := Header(bytes.NewReader(read(t, p.File)))
	if err != nil {
		t.Fatal(err)
	}
	if !(&Base{Refs: refs}).says(p.Git) {
		t.Errorf("the header says %v of %v", refs, p.Git)
	}
	if p.Full != (len(prerequisites) == 0) {
		t.Errorf("full %v with prerequisites %v", p.Full, prerequisites)
	}
	files := []string{first.File, p.File}
	if p.Full {
		files = files[1:]
	}
	clone := filepath.Join(t.TempDir(), "clone.git")
	s.Git(s.Home, "init", "--quiet", "--bare", clone)
	for _, file := range files {
		s.Git(clone, "bundle", "verify", "--quiet", file)
		s.Git(clone, "fetch", "--quiet", "--prune", file, "+refs/*:refs/*")
	}
	objects := func(dir string) string { return s.Git(dir, "rev-list", "--objects", "--all", "--no-object-names") }
	if objects(clone) != objects(source) {
		t.Error("the layers hold something else than the source")
	}
	s.Git(clone, "fsck", "--full", "--strict")
	if err := newSite(t).admit(p.Git, files...); err != nil {
		t.Errorf("a new site: %v", err)
	}
	old := newSite(t)
	if err := old.admit(first.Git, first.File); err != nil {
		t.Fatal(err)
	}
	if err := old.admit(p.Git, files...); err != nil {
		t.Errorf("a site with the base: %v", err)
	}
}

// TestChainOfReleases: three releases make three layers; a site that slept through the second takes the third.
func TestChainOfReleases(t *testing.T) {
	s := newSandbox(t)
	source := s.repository()
	var files []string
	var states []bundle.Git
	var base *Base
	for i := range 3 {
		p := s.mustPack(Options{Source: source, Base: base})
		files, states = append(files, p.File), append(states, p.Git)
		base = baseOf(t, p.File)
		s.Commit(source, "robot-values/robots.yaml", fmt.Sprintf("robot-%03d: {}\n", i))
		s.Git(source, "tag", fmt.Sprintf("v2.%d", i))
	}
	late := newSite(t)
	if err := late.admit(states[0], files[0]); err != nil {
		t.Fatal(err)
	}
	if err := late.admit(states[2], files...); err != nil {
		t.Errorf("a site that slept: %v", err)
	}
	if err := late.admit(states[1], files[:2]...); err != nil {
		t.Errorf("back to the second release: %v", err)
	}
	var missing *gitmirror.MissingBaseError
	if err := newSite(t).admit(states[2], files[2]); !errors.As(err, &missing) {
		t.Errorf("a new site with the last layer only: %v", err)
	}
}

// TestWhyABaseIsGivenUp: a relay that starts with a chain refuses what no ref of the release leads to.
func TestWhyABaseIsGivenUp(t *testing.T) {
	s := newSandbox(t)
	source := s.repository()
	first := s.mustPack(Options{Source: source})
	base := baseOf(t, first.File)
	base.Refs = slices.DeleteFunc(base.Refs, func(ref bundle.GitRef) bool { // a base that hides its unmerged branches
		return ref.Name == "refs/heads/canary" || ref.Name == "refs/heads/feature/arm"
	})
	s.Git(source, "branch", "-D", "canary", "feature/arm")
	s.Commit(source, "new", "new\n")
	p := s.mustPack(Options{Source: source, Base: base})
	if p.Full {
		t.Fatal("packed in full")
	}
	var refused *gitmirror.RefusedError
	if err := newSite(t).admit(p.Git, first.File, p.File); !errors.As(err, &refused) {
		t.Errorf("got %v", err)
	}
}

func TestPackAgainstABaseIsReproducible(t *testing.T) {
	s := newSandbox(t)
	source := s.repository()
	base := baseOf(t, s.mustPack(Options{Source: source}).File)
	s.Git(source, "merge", "--quiet", "--no-ff", "-m", "merge", "canary")
	s.Commit(source, "charts/robot-app/Chart.yaml", "name: robot-app\nversion: 1.5.5\n")
	s.Git(source, "tag", "-a", "v1.5.5", "-m", "release")
	first := read(t, s.mustPack(Options{Source: source, Base: base}).File)

	bad := filepath.Join(t.TempDir(), "bad.git")
	s.Git(s.Home, "clone", "--quiet", "--mirror", "--no-local", source, bad)
	s.Git(bad, "-c", "pack.compression=0", "repack", "-adfq", "--window=0")
	s.Git(bad, "commit-graph", "write", "--reachable")
	s.Git(bad, "update-ref", "refs/pull/1/head", "refs/heads/canary")
	s.Git(bad, "repack", "-adbq")
	shuffled := &Base{Refs: slices.Clone(base.Refs)}
	slices.Reverse(shuffled.Refs)
	other := newSandbox(t)
	other.Write(other.Home, ".gitconfig", "[pack]\n\tthreads = 2\n\tcompression = 9\n[safe]\n\tdirectory = *\n")
	for name, o := range map[string]Options{
		"again":           {Source: source, Base: base},
		"another packing": {Source: bad, Base: base},
		"another order":   {Source: "file://" + bad, Base: shuffled},
		"another user":    {Source: source, Base: base, Env: other.Env()},
	} {
		if again := read(t, s.mustPack(o).File); !bytes.Equal(first, again) {
			t.Errorf("%s: another file: %d bytes, the first has %d", name, len(again), len(first))
		}
	}
}

// TestPackNewCommitIsSmall: what a release costs does not grow with the history before it.
func TestPackNewCommitIsSmall(t *testing.T) {
	s := newSandbox(t)
	source := filepath.Join(t.TempDir(), "long")
	s.Git(s.Home, "init", "--quiet", source)
	var stream strings.Builder
	for i := range 2000 {
		content := fmt.Sprintf("robot: %d\nserial: %x\n", i, i*7919*104729)
		fmt.Fprintf(&stream, "commit refs/heads/main\ncommitter Robot <robot@example.com> %d +0000\ndata 6\ncommit\n", 1_600_000_000+i)
		fmt.Fprintf(&stream, "M 100644 inline robot-values/robot-%03d.yaml\ndata %d\n%s\n", i%200, len(content), content)
	}
	cmd := exec.Command("git", "fast-import", "--quiet")
	cmd.Dir, cmd.Env, cmd.Stdin = source, s.Env(), strings.NewReader(stream.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s.Git(source, "reset", "--quiet", "--hard")
	first := s.mustPack(Options{Source: source})
	base := baseOf(t, first.File)
	s.Commit(source, "robot-values/robot-001.yaml", "robot: 1\nserial: new\n")
	second := s.mustPack(Options{Source: source, Base: base})
	whole, layer := len(read(t, first.File)), len(read(t, second.File))
	t.Logf("2,000 commits: %d bytes; one more: %d bytes, %d objects", whole, layer, packedObjects(t, second.File))
	if layer > 10<<10 || packedObjects(t, second.File) != 4 {
		t.Errorf("the layer has %d bytes and %d objects", layer, packedObjects(t, second.File))
	}
}

func TestPackRefusesABase(t *testing.T) {
	s := newSandbox(t)
	source := s.repository()
	for _, ref := range []bundle.GitRef{
		{Name: "refs/heads/main", OID: "--all"}, {Name: "refs/heads/../x", OID: strings.Repeat("a", 40)},
		{Name: "refs/heads/main", OID: strings.Repeat("a", 40) + "\n--all"},
	} {
		if _, err := s.pack(Options{Source: source, Base: &Base{Refs: []bundle.GitRef{ref}}}); err == nil || !strings.Contains(err.Error(), "base") {
			t.Errorf("%v: %v", ref, err)
		}
	}
	unknown := &Base{Refs: []bundle.GitRef{{Name: "refs/heads/main", OID: strings.Repeat("a", 40)}}}
	if p := s.mustPack(Options{Source: source, Base: unknown}); !p.Full || len(p.Lost) != 1 {
		t.Errorf("a base of another repository: %+v", p)
	}
	if p := s.mustPack(Options{Source: source, Base: &Base{}}); !p.Full {
		t.Errorf("an empty base: %+v", p)
	}
}

// TestPackedRepository: the repository that stays until Close has the refs, HEAD and all objects, and nothing else.
func TestPackedRepository(t *testing.T) {
	s := newSandbox(t)
	source := s.repository()
	p := s.mustPack(Options{Source: source, Refs: []string{"canary", "v*"}})
	if got, want := s.Git(p.Repo, "show-ref"), s.Git(source, "show-ref", "canary", "v1.5.4"); got != want {
		t.Errorf("refs\n%s\nwant\n%s", got, want)
	}
	if head := s.Git(p.Repo, "symbolic-ref", "HEAD"); head != "refs/heads/canary" {
		t.Errorf("HEAD is %s", head)
	}
	s.Git(p.Repo, "fsck", "--full", "--strict")
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(p.Repo); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Close: %v", err)
	}
}
