package gitpack

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/progress"
)

func TestPackHoldsEverything(t *testing.T) {
	s := newSandbox(t)
	source := s.repository()
	var ended bool
	p := s.mustPack(Options{Source: source, Progress: func(e progress.Event) { ended = ended || e.End && e.Done > 0 }})
	if !ended {
		t.Error("no progress event says that the work has ended")
	}
	if p.Git.Head != "refs/heads/main" {
		t.Errorf("HEAD is %s", p.Git.Head)
	}
	if want := strings.TrimPrefix(s.Git(source, "version"), "git version "); p.Git.Version != want {
		t.Errorf("version is %q, want %q", p.Git.Version, want)
	}
	want := []bundle.GitRef{
		{Name: "refs/heads/canary", OID: s.Git(source, "rev-parse", "canary")},
		{Name: "refs/heads/feature/arm", OID: s.Git(source, "rev-parse", "canary")},
		{Name: "refs/heads/main", OID: s.Git(source, "rev-parse", "main")},
		{Name: "refs/tags/file", OID: s.Git(source, "rev-parse", "file")},
		{Name: "refs/tags/light", OID: s.Git(source, "rev-parse", "light")},
		{Name: "refs/tags/nested", OID: s.Git(source, "rev-parse", "nested"), Peeled: s.Git(source, "rev-parse", "nested^{}")},
		{Name: "refs/tags/v1.5.4", OID: s.Git(source, "rev-parse", "v1.5.4"), Peeled: s.Git(source, "rev-parse", "v1.5.4^{}")},
	}
	if !reflect.DeepEqual(p.Git.Refs, want) {
		t.Errorf("refs are\n%v\nwant\n%v", p.Git.Refs, want)
	}
	if at := s.Git(source, "log", "-1", "--format=%ct", "canary"); p.Newest.UTC().Format(time.RFC3339) !=
		mustUnix(t, at).Format(time.RFC3339) {
		t.Errorf("newest is %v, want %s", p.Newest, at)
	}

	// Stock git reads the file and finds what the source has.
	clone := filepath.Join(t.TempDir(), "clone")
	s.Git(s.Home, "clone", "--quiet", "--mirror", p.File, clone)
	s.Git(clone, "fsck", "--strict", "--full")
	for _, ref := range want {
		if got := s.Git(clone, "rev-parse", ref.Name); got != ref.OID {
			t.Errorf("%s is %s in the clone, want %s", ref.Name, got, ref.OID)
		}
	}
	objects := func(dir string) string { return s.Git(dir, "rev-list", "--objects", "--all", "--no-object-names") }
	if objects(clone) != objects(source) {
		t.Error("the clone has other objects than the source")
	}
	s.Git(s.Home, "clone", "--quiet", p.File, clone+"-work")
	if got := s.Git(clone+"-work", "symbolic-ref", "HEAD"); got != "refs/heads/main" {
		t.Errorf("a clone of the file is on %s", got)
	}
}

func mustUnix(t *testing.T, seconds string) time.Time {
	t.Helper()
	d, err := time.ParseDuration(seconds + "s")
	if err != nil {
		t.Fatal(err)
	}
	return time.Unix(0, 0).UTC().Add(d)
}

// TestPackIsReproducible packs the same refs out of a loose repository, one packed tightly and one packed badly, with
// different users' configurations and folders.
func TestPackIsReproducible(t *testing.T) {
	s := newSandbox(t)
	source := s.repository()
	first := read(t, s.mustPack(Options{Source: source}).File)

	tight := filepath.Join(t.TempDir(), "tight.git")
	s.Git(s.Home, "clone", "--quiet", "--mirror", "--no-local", source, tight)
	s.Git(tight, "-c", "pack.compression=9", "repack", "-adfq", "--window=250", "--depth=250")
	bad := filepath.Join(t.TempDir(), "somewhere", "else", "bad.git")
	s.Git(s.Home, "clone", "--quiet", "--mirror", "--no-local", source, bad)
	s.Git(bad, "-c", "pack.compression=0", "repack", "-adfq", "--window=0")
	s.Git(bad, "commit-graph", "write", "--reachable")
	s.Git(bad, "update-ref", "refs/pull/1/head", "refs/heads/canary")
	s.Git(bad, "repack", "-adbq")

	other := newSandbox(t)
	other.Write(other.Home, ".config/git/attributes", "* -delta\n")
	other.Write(other.Home, ".gitconfig", "[pack]\n\tthreads = 2\n\tcompression = 9\n\tdepth = 1\n[core]\n\tcompression = 0\n"+
		"[safe]\n\tdirectory = *\n[uploadpack]\n\tallowFilter = true\n")
	for name, o := range map[string]Options{
		"tight":             {Source: tight},
		"bad":               {Source: bad},
		"file URL":          {Source: "file://" + bad},
		"another user":      {Source: tight, Env: other.Env()},
		"the order of refs": {Source: tight, Refs: []string{"refs/tags/*", "main", "heads/*"}},
	} {
		if again := read(t, s.mustPack(o).File); !bytes.Equal(first, again) {
			t.Errorf("%s: another file: %d bytes, the first has %d", name, len(again), len(first))
		}
	}
	s.Git(source, "checkout", "--quiet", "canary")
	if again := read(t, s.mustPack(Options{Source: source}).File); bytes.Equal(first, again) {
		t.Error("the file does not say which branch HEAD names")
	}
}

func TestPackChoosesRefs(t *testing.T) {
	s := newSandbox(t)
	source := s.repository()
	for _, tc := range []struct {
		refs []string
		head string
		want string // short names and HEAD
	}{
		{[]string{"main"}, "", "heads/main HEAD=main"},
		{[]string{"main", "v*"}, "", "heads/main tags/v1.5.4 HEAD=main"},
		{[]string{"refs/tags/v1.?.4"}, "", "tags/v1.5.4 HEAD=main"},
		{[]string{"feature/*"}, "", "heads/feature/arm HEAD=feature/arm"},
		{[]string{"heads/*"}, "canary", "heads/canary heads/feature/arm heads/main HEAD=canary"},
		{[]string{"*"}, "refs/heads/canary", "heads/canary heads/feature/arm heads/main tags/file tags/light tags/nested tags/v1.5.4 HEAD=canary"},
	} {
		p := s.mustPack(Options{Source: source, Refs: tc.refs, Head: tc.head})
		var got []string
		for _, ref := range p.Git.Refs {
			got = append(got, strings.TrimPrefix(ref.Name, "refs/"))
		}
		got = append(got, "HEAD="+strings.TrimPrefix(p.Git.Head, "refs/heads/"))
		if text := strings.Join(got, " "); text != tc.want {
			t.Errorf("%v: got %s, want %s", tc.refs, text, tc.want)
		}
	}
	var none *NoRefsError
	if _, err := s.pack(Options{Source: source, Refs: []string{"main", "mian"}}); !errors.As(err, &none) || none.Pattern != "mian" ||
		!strings.Contains(err.Error(), "refs/heads/canary") {
		t.Errorf("a pattern without a match: %v", err)
	}
	var head *HeadError
	if _, err := s.pack(Options{Source: source, Refs: []string{"main"}, Head: "canary"}); !errors.As(err, &head) ||
		!strings.Contains(err.Error(), "refs/heads/main") {
		t.Errorf("a HEAD that is not packed: %v", err)
	}
	empty := filepath.Join(t.TempDir(), "empty.git")
	s.Git(s.Home, "init", "--quiet", "--bare", empty)
	if _, err := s.pack(Options{Source: empty}); !errors.As(err, &none) {
		t.Errorf("an empty repository: %v", err)
	}
}

func TestPackDetachedHead(t *testing.T) {
	s := newSandbox(t)
	source := s.repository()
	s.Git(source, "checkout", "--quiet", "--detach", "canary")
	if p := s.mustPack(Options{Source: source}); p.Git.Head != "refs/heads/canary" {
		t.Errorf("HEAD at canary's commit names %s", p.Git.Head)
	}
	s.Git(source, "checkout", "--quiet", "--detach", "main~3")
	if p := s.mustPack(Options{Source: source}); p.Git.Head != "refs/heads/main" {
		t.Errorf("HEAD at no branch's commit names %s", p.Git.Head)
	}
	if p := s.mustPack(Options{Source: source, Refs: []string{"feature/arm"}}); p.Git.Head != "refs/heads/feature/arm" {
		t.Errorf("HEAD with one branch names %s", p.Git.Head)
	}
}

func TestPackRefusesWhatItDoesNotCarry(t *testing.T) {
	s := newSandbox(t)
	t.Run("submodule", func(t *testing.T) {
		source := s.repository()
		s.Git(source, "submodule", "--quiet", "add", source, "vendor/robot")
		s.Git(source, "commit", "--quiet", "-m", "submodule")
		_, err := s.pack(Options{Source: source})
		var se *SubmoduleError
		if !errors.As(err, &se) || !reflect.DeepEqual(se.Places, []Place{{"refs/heads/main", "vendor/robot"}}) ||
			!strings.Contains(err.Error(), "Git item of its own") {
			t.Errorf("got %v", err)
		}
		s.mustPack(Options{Source: source, Refs: []string{"canary"}}) // which has none
		s.Git(source, "rm", "--quiet", "-f", "vendor/robot")
		s.Git(source, "commit", "--quiet", "-m", "no submodule")
		s.mustPack(Options{Source: source}) // the tips have none any more
	})
	t.Run("LFS", func(t *testing.T) {
		source := s.repository()
		s.Commit(source, "models/.gitattributes", "# filter=lfs\n*.bin filter=lfs diff=lfs merge=lfs -text\n")
		_, err := s.pack(Options{Source: source})
		var le *LFSError
		if !errors.As(err, &le) || !reflect.DeepEqual(le.Places, []Place{{"refs/heads/main", "models/.gitattributes"}}) ||
			!strings.Contains(err.Error(), "git lfs migrate export") {
			t.Errorf("got %v", err)
		}
		s.Commit(source, "models/.gitattributes", "# filter=lfs\n*.bin -text\n")
		s.mustPack(Options{Source: source})
	})
	t.Run("shallow", func(t *testing.T) {
		source := s.repository()
		shallow := filepath.Join(t.TempDir(), "shallow")
		s.Git(s.Home, "clone", "--quiet", "--depth=2", "file://"+source, shallow)
		_, err := s.pack(Options{Source: shallow})
		var se *ShallowError
		if !errors.As(err, &se) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("damaged", func(t *testing.T) {
		source := s.repository()
		oid := s.Git(source, "rev-parse", "main:charts/robot-app/Chart.yaml")
		path := filepath.Join(source, ".git", "objects", oid[:2], oid[2:])
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		_, err := s.pack(Options{Source: source})
		var ge *GitError
		if !errors.As(err, &ge) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("unsafe path", func(t *testing.T) {
		source := s.repository()
		blob := s.Git(source, "hash-object", "-w", "robot-values/robots.yaml")
		tree := s.mktree(source, "100644 blob "+blob+"\t.git\n")
		evil := s.Git(source, "commit-tree", "-m", "evil", tree)
		s.Git(source, "update-ref", "refs/heads/evil", evil)
		_, err := s.pack(Options{Source: source})
		var ge *GitError
		if !errors.As(err, &ge) || !strings.Contains(err.Error(), "hasDotgit") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("SHA-256", func(t *testing.T) {
		source := filepath.Join(t.TempDir(), "new")
		s.Git(s.Home, "init", "--quiet", "--object-format=sha256", source)
		s.Commit(source, "a", "a")
		_, err := s.pack(Options{Source: source})
		var se *SourceError
		if !errors.As(err, &se) {
			t.Errorf("got %v", err)
		}
	})
}

func (s *sandbox) mktree(dir, entries string) string {
	s.T.Helper()
	cmd := exec.Command("git", "mktree")
	cmd.Dir, cmd.Env, cmd.Stdin = dir, s.Env(), strings.NewReader(entries)
	out, err := cmd.Output()
	if err != nil {
		s.T.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

func TestPackRefusesSources(t *testing.T) {
	s := newSandbox(t)
	trap := filepath.Join(t.TempDir(), "trap")
	for _, source := range []string{
		"", "-u", "--upload-pack=touch " + trap, "ext::sh -c 'touch " + trap + "'", "fd::17", "https://example.com/a\nb",
		"no/such/folder", "origin", "ftp://example.com/x", "https://user:secret@example.com/x", strings.Repeat("x", 5000),
	} {
		_, err := s.pack(Options{Source: source})
		var se *SourceError
		if !errors.As(err, &se) {
			t.Errorf("source %.60q: %v", source, err)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("the error repeats a password: %v", err)
		}
	}
	// A rule of the user's that leads to a transport which runs commands.
	s.Write(s.Home, ".gitconfig", "[url \"ext::sh -c touch% "+trap+"% \"]\n\tinsteadOf = https://example.com/\n[protocol]\n\tallow = always\n")
	var ge *GitError
	if _, err := s.pack(Options{Source: "https://example.com/x"}); !errors.As(err, &ge) || !strings.Contains(err.Error(), "ext") {
		t.Errorf("ext through insteadOf: %v", err)
	}
	if _, err := s.pack(Options{Source: "ssh://-oProxyCommand=touch%20" + trap + "/x"}); !errors.As(err, &ge) {
		t.Errorf("an option as an ssh host: %v", err)
	}
	if _, err := os.Stat(trap); err == nil {
		t.Error("a command was run")
	}
}

// TestPackUsesTheUsersRules: insteadOf works for fetching, and variables of a surrounding git process do no harm.
func TestPackUsesTheUsersRules(t *testing.T) {
	s := newSandbox(t)
	source := s.repository()
	hook := filepath.Join(t.TempDir(), "hooks")
	s.Write(hook, "reference-transaction", "#!/bin/sh\nexit 1\n")
	if err := os.Chmod(filepath.Join(hook, "reference-transaction"), 0o755); err != nil {
		t.Fatal(err)
	}
	elsewhere := s.repository()
	want := read(t, s.mustPack(Options{Source: source}).File)
	s.Write(s.Home, ".gitconfig", "[url \""+filepath.Dir(source)+"/\"]\n\tinsteadOf = https://git.example.com/acme/\n"+
		"[core]\n\thooksPath = "+hook+"\n")
	env := append(s.Env(), "GIT_DIR="+elsewhere+"/.git", "GIT_INDEX_FILE="+elsewhere+"/.git/index",
		"GIT_OBJECT_DIRECTORY="+elsewhere+"/.git/objects", "GIT_WORK_TREE="+elsewhere, "GIT_NAMESPACE=x")
	before := s.Git(elsewhere, "for-each-ref")
	got := read(t, s.mustPack(Options{Source: "https://git.example.com/acme/robot-deployment", Env: env}).File)
	if !bytes.Equal(got, want) {
		t.Error("another file")
	}
	if after := s.Git(elsewhere, "for-each-ref"); after != before {
		t.Error("the surrounding repository was changed")
	}
}

// TestPackEndsWithItsContext: the whole group of processes goes, here a helper that never answers.
func TestPackEndsWithItsContext(t *testing.T) {
	s := newSandbox(t)
	dir := t.TempDir()
	fifo := filepath.Join(dir, "started")
	if out, err := exec.Command("mkfifo", fifo).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	ssh := filepath.Join(dir, "ssh")
	s.Write(dir, "ssh", "#!/bin/sh\necho $$ > "+fifo+"\nexec sleep 1000\n")
	if err := os.Chmod(ssh, 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	result := make(chan error, 1)
	go func() {
		_, err := Pack(ctx, Options{Source: "robot@example.com:x", Dir: t.TempDir(), Env: append(s.Env(), "GIT_SSH="+ssh)})
		result <- err
	}()
	pid := strings.TrimSpace(string(read(t, fifo))) // waits until the helper runs
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	// The helper held the pipe that Pack waited on, so it is gone or a zombie by now.
	if stat, err := os.ReadFile("/proc/" + pid + "/stat"); err == nil && !strings.Contains(string(stat), ") Z ") {
		t.Errorf("the helper still runs: %s", stat)
	}
}

func TestMatch(t *testing.T) {
	for _, tc := range []struct {
		pattern, name string
		want          bool
	}{
		{"main", "refs/heads/main", true}, {"main", "refs/tags/main", true}, {"main", "refs/heads/domain", false},
		{"heads/main", "refs/heads/main", true}, {"refs/heads/main", "refs/heads/main", true},
		{"*", "refs/heads/a/b", true}, {"v*", "refs/tags/v1", true}, {"v*", "refs/heads/dev", false},
		{"refs/tags/v*", "refs/heads/v1", false}, {"release/*/x", "refs/heads/release/1/2/x", true},
		{"v1.?", "refs/tags/v1.2", true}, {"v1.?", "refs/tags/v1.22", false}, {"", "refs/heads/main", false},
		{"**a*b", "refs/heads/aab", true}, {"[m]ain", "refs/heads/main", false},
	} {
		if got := Match(tc.pattern, tc.name); got != tc.want {
			t.Errorf("Match(%q, %q) = %v", tc.pattern, tc.name, got)
		}
	}
}

func TestHasLFSFilter(t *testing.T) {
	for text, want := range map[string]bool{
		"":                                      false,
		"*.bin filter=lfs":                      true,
		"a\n\"b c\" -text filter=lfs\n":         true,
		"[attr]big filter=lfs -text\n":          true,
		"# *.bin filter=lfs\n":                  false,
		"*.bin filter=lfsx -filter\nfilter=lfs": false,
		strings.Repeat("x", 10_000) + "\n* filter=lfs\n": true,
	} {
		if got, err := hasLFSFilter(strings.NewReader(text)); got != want || err != nil {
			t.Errorf("%.40q: got %v, %v", text, got, err)
		}
	}
}
