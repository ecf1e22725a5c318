package gitpack

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/plimsoll/plimsoll/bundle"
)

// TestPackPinned: whatever became of the source since, the same bytes come out while the objects are to be had.
func TestPackPinned(t *testing.T) {
	onward := func(s *sandbox, dir string) { // nothing is lost, all has moved
		s.Git(dir, "merge", "--quiet", "--no-ff", "-m", "merge", "canary")
		s.Commit(dir, "new", "new\n")
		s.Git(dir, "branch", "line-2")
		s.Git(dir, "branch", "-D", "canary", "feature/arm")
		s.Git(dir, "branch", "feature/arm/left") // where the lock has feature/arm
		s.Git(dir, "tag", "-d", "light")
	}
	for _, tc := range []struct {
		name   string
		change func(s *sandbox, dir string)
		v0     bool // a server that gives only what its refs name
	}{
		{"nothing", func(*sandbox, string) {}, false},
		{"moved on", onward, false},
		{"moved on, an old server", onward, true},
		{"forced, and not yet collected", func(s *sandbox, dir string) {
			s.Git(dir, "branch", "-D", "canary", "feature/arm")
			s.Git(dir, "commit", "--quiet", "--amend", "-m", "another message")
		}, false},
		{"no refs any more", func(s *sandbox, dir string) {
			s.Git(dir, "checkout", "--quiet", "--detach")
			s.Git(dir, "branch", "-D", "canary", "feature/arm", "main")
			s.Git(dir, "tag", "-d", "file", "light", "nested", "v1.5.4")
		}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newSandbox(t)
			source := s.repository()
			base := &Base{Refs: []bundle.GitRef{{Name: "refs/heads/main", OID: s.Git(source, "rev-parse", "main~4")}}}
			first := s.mustPack(Options{Source: source})
			layer := read(t, s.mustPack(Options{Source: source, Base: base}).File)
			tc.change(s, source)
			if tc.v0 {
				s.Write(s.Home, ".gitconfig", string(read(t, s.Home+"/.gitconfig"))+"[protocol]\n\tversion = 0\n")
			}
			again := s.mustPack(Options{Source: "file://" + source, Pinned: first.Git.Refs, Head: first.Git.Head})
			if !reflect.DeepEqual(again.Git, first.Git) || !bytes.Equal(read(t, again.File), read(t, first.File)) {
				t.Errorf("got %v, want %v", again.Git, first.Git)
			}
			if got, want := s.Git(again.Repo, "for-each-ref"), s.Git(first.Repo, "for-each-ref"); got != want {
				t.Errorf("the repository has\n%s\nwant\n%s", got, want)
			}
			if again.Newest != first.Newest {
				t.Errorf("newest is %v, want %v", again.Newest, first.Newest)
			}
			onBase := s.mustPack(Options{Source: source, Pinned: first.Git.Refs, Head: first.Git.Head, Base: base})
			if onBase.Full || !bytes.Equal(read(t, onBase.File), layer) {
				t.Error("another layer on the base")
			}
		})
	}
}

func TestPackPinnedGone(t *testing.T) {
	for _, version := range []string{"0", "2"} {
		s := newSandbox(t)
		source := s.repository()
		first := s.mustPack(Options{Source: source})
		s.Git(source, "branch", "-D", "canary", "feature/arm")
		s.Git(source, "reflog", "expire", "--expire=now", "--all")
		s.Git(source, "gc", "--quiet", "--prune=now")
		s.Write(s.Home, ".gitconfig", string(read(t, s.Home+"/.gitconfig"))+"[protocol]\n\tversion = "+version+"\n")
		_, err := s.pack(Options{Source: "file://" + source, Pinned: first.Git.Refs, Head: first.Git.Head})
		var gone *GoneError
		if !errors.As(err, &gone) || gone.Ref != "refs/heads/canary" || gone.OID != first.Git.Refs[0].OID {
			t.Errorf("protocol %s: %v", version, err)
		}
		// A source that does not answer has not lost anything.
		s.Write(s.Home, ".gitconfig", string(read(t, s.Home+"/.gitconfig"))+"[uploadpack]\n\tpackObjectsHook = false\n")
		var ge *GitError
		_, err = s.pack(Options{Source: "file://" + source, Pinned: first.Git.Refs[2:3], Head: "main"})
		if errors.As(err, &gone) || !errors.As(err, &ge) {
			t.Errorf("protocol %s, a broken source: %v", version, err)
		}
	}
}

func TestPackPinnedHead(t *testing.T) {
	s := newSandbox(t)
	source := s.repository()
	tags := s.mustPack(Options{Source: source, Refs: []string{"v*"}})
	if tags.Git.Head != "refs/heads/main" {
		t.Fatalf("HEAD is %s", tags.Git.Head)
	}
	s.Git(source, "checkout", "--quiet", "canary")
	s.Git(source, "branch", "-D", "main")
	if again := s.mustPack(Options{Source: source, Pinned: tags.Git.Refs, Head: tags.Git.Head}); !reflect.DeepEqual(again.Git, tags.Git) {
		t.Errorf("got %v, want %v", again.Git, tags.Git)
	}
	canary := []bundle.GitRef{{Name: "refs/heads/canary", OID: s.Git(source, "rev-parse", "canary")}}
	var head *HeadError
	if _, err := s.pack(Options{Source: source, Pinned: canary, Head: "refs/heads/main"}); !errors.As(err, &head) {
		t.Errorf("a HEAD that is not pinned: %v", err)
	}
}

func TestPackRefusesPins(t *testing.T) {
	s := newSandbox(t)
	source := s.repository()
	main := s.Git(source, "rev-parse", "main")
	for name, pins := range map[string][]bundle.GitRef{
		"an option":            {{Name: "--upload-pack=x", OID: main}},
		"a name that climbs":   {{Name: "refs/heads/../../config", OID: main}},
		"a line feed":          {{Name: "refs/heads/a\n+refs/heads/*:refs/heads/*", OID: main}},
		"a name as object id":  {{Name: "refs/heads/a", OID: "refs/heads/main"}},
		"SHA-256":              {{Name: "refs/heads/a", OID: strings.Repeat("a", 64)}},
		"the same name twice":  {{Name: "refs/heads/a", OID: main}, {Name: "refs/heads/a", OID: main}},
		"a name in its folder": {{Name: "refs/heads/a", OID: main}, {Name: "refs/heads/a/b", OID: main}},
	} {
		if _, err := s.pack(Options{Source: source, Pinned: pins}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	tag := bundle.GitRef{Name: "refs/tags/v1.5.4", OID: s.Git(source, "rev-parse", "v1.5.4"), Peeled: strings.Repeat("a", 40)}
	if _, err := s.pack(Options{Source: source, Pinned: []bundle.GitRef{tag}}); err == nil || !strings.Contains(err.Error(), tag.Peeled) {
		t.Errorf("a tag that peels to something else: %v", err)
	}
}
