package siterepo

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"

	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plimsoll/plimsoll/relay/smarthttp"
)

// These tests are the git CLI against the handler over HTTP.

func TestPushAndClone(t *testing.T) {
	t.Parallel()
	sb := newSandbox(t)
	s := newSite(t, Options{})
	alice := sb.clone(s.url(), "alice")
	first := sb.Commit(alice, "robot-values/line-2.yaml", "ssid: line-2\n")
	sb.Git(alice, "push", "--quiet", "origin", "main")
	sb.Git(alice, "tag", "-a", "v1", "-m", "one")
	second := sb.Commit(alice, "robot-values/line-2.yaml", "ssid: line-3\n")
	sb.Git(alice, "push", "--quiet", "origin", "main", "v1", "main:line-3")
	for _, version := range []string{"0", "1", "2"} {
		for _, path := range []string{"/site/", "/git/site/"} {
			for _, end := range []string{"", ".git"} {
				got := sb.Git(sb.Home, "-c", "protocol.version="+version, "ls-remote", "--symref", s.server.URL+path+DefaultName+end)
				want := "ref: refs/heads/main\tHEAD\n" + second + "\tHEAD\n" + second + "\trefs/heads/line-3\n" + second + "\trefs/heads/main\n" +
					sb.Git(alice, "rev-parse", "v1") + "\trefs/tags/v1\n" + first + "\trefs/tags/v1^{}"
				if got != want {
					t.Errorf("version %s, %s: %s", version, path, got)
				}
			}
		}
	}
	robot := sb.clone(s.url(), "Robot-1")
	if data, err := os.ReadFile(filepath.Join(robot, "robot-values/line-2.yaml")); string(data) != "ssid: line-3\n" {
		t.Errorf("%q, %v", data, err)
	}
	// As Argo CD asks for a revision that no branch shows any more.
	byID := filepath.Join(t.TempDir(), "id")
	sb.Git(sb.Home, "init", "--quiet", byID)
	sb.Git(byID, "-c", "protocol.version=0", "fetch", "--quiet", "--depth=1", s.url(), first)
	s.sound(sb)

	var want []string
	for _, p := range checkHistory(sb, s.Set) {
		if p.Who != "alice" || p.Time.IsZero() {
			t.Errorf("%+v", p)
		}
		want = append(want, fmt.Sprint(p.Seq, p.Ref))
	}
	if got := strings.Join(want, " "); got != "1refs/heads/main 2refs/heads/line-3 3refs/heads/main 4refs/tags/v1" {
		t.Errorf("the history is %s", got)
	}
	if errs := s.errs(); len(errs) > 0 {
		t.Error(errs)
	}
	if log, _ := s.Log(context.Background(), DefaultName); fmt.Sprint(s.told) != fmt.Sprint(log) {
		t.Errorf("Pushed was told %v", s.told)
	}
	reflog, err := os.ReadFile(filepath.Join(s.repo(), "logs/refs/heads/main"))
	if err != nil || strings.Count(string(reflog), " alice <operator@site-overrides.invalid> ") != 2 {
		t.Errorf("reflog %s, %v", reflog, err)
	}
}

func TestPushIsProtected(t *testing.T) {
	t.Parallel()
	sb := newSandbox(t)
	s := newSite(t, Options{AllowForce: []string{"refs/heads/try-*", "refs/tags/tmp/"}})
	dir := sb.clone(s.url(), "alice")
	base := sb.Commit(dir, "a", "1")
	sb.Git(dir, "tag", "v1")
	sb.Git(dir, "tag", "tmp/x")
	sb.Git(dir, "push", "--quiet", "origin", "main", "main:other", "main:try-1", "v1", "tmp/x")
	sb.Commit(dir, "a", "2")
	sb.Git(dir, "push", "--quiet", "origin", "main")
	before := sb.Git(sb.Home, "ls-remote", s.url())

	sb.Git(dir, "reset", "--quiet", "--hard", base)
	next := sb.Commit(dir, "a", "3")
	sb.refused(dir, "non-fast-forward", "--force", "origin", "main")
	sb.refused(dir, "it is protected: it cannot be deleted", "--delete", "origin", "other")
	sb.refused(dir, "it is protected: it cannot be deleted", "--delete", "origin", "main")
	sb.refused(dir, "it is protected: it cannot be deleted", "--delete", "origin", "v1")
	sb.Git(dir, "tag", "--force", "v1", next)
	sb.refused(dir, "it is protected: a tag stays where it is", "--force", "origin", "v1")
	sb.refused(dir, "refused with refs/tags/v1", "--force", "origin", "v1", "main:fresh")
	sb.Git(dir, "notes", "add", "-m", "note")
	sb.refused(dir, "only branches and tags are kept here", "origin", "refs/notes/commits")
	sb.refused(dir, "only branches and tags are kept here", "origin", "main:refs/config/x")
	sb.refused(dir, "trying to write non-commit object", "origin", next+"^{tree}:refs/heads/tree")
	// A push of more than what may be forced is not forced.
	sb.refused(dir, "non-fast-forward", "--force", "--atomic", "origin", next+"~1:other", "main", "main:try-1")
	if got := sb.Git(sb.Home, "ls-remote", s.url()); got != before {
		t.Errorf("%s\nwas\n%s", got, before)
	}

	sb.Git(dir, "push", "--quiet", "origin", "main:try-1")
	sb.Git(dir, "push", "--quiet", "--force", "origin", base+":refs/heads/try-1")
	sb.Git(dir, "push", "--quiet", "origin", ":try-1", ":tmp/x")
	s.sound(sb)
	for _, p := range checkHistory(sb, s.Set) {
		if p.Who != "alice" {
			t.Errorf("%+v", p)
		}
	}
}

// TestPushGitHidesRefs: git itself refuses other refs, too, and does not show those that are there.
func TestPushGitHidesRefs(t *testing.T) {
	t.Parallel()
	sb := newSandbox(t)
	s := newSite(t, Options{})
	dir := sb.clone(s.url(), "alice")
	sb.Commit(dir, "a", "1")
	sb.Git(dir, "push", "--quiet", "origin", "main")
	sb.Git(s.repo(), "update-ref", "refs/internal/x", "main")
	resp := request(t, s, "GET", "/info/refs?service=git-receive-pack", "alice", "", nil)
	if resp.status != 200 || strings.Contains(resp.body, "refs/internal") || !strings.Contains(resp.body, "refs/heads/main") {
		t.Errorf("%d: %q", resp.status, resp.body)
	}
}

func TestPushNeedsTheRight(t *testing.T) {
	t.Parallel()
	sb := newSandbox(t)
	s := newSite(t, Options{})
	robot := sb.clone(s.url(), "Robot-1")
	sb.Commit(robot, "a", "1")
	sb.refused(robot, "remote: this repository is written by operators of the site only: Robot-1 may read it", "origin", "main")
	sb.Git(robot, "config", "--unset", "http.extraHeader")
	sb.refused(robot, "remote: this repository is written by operators of the site only: push with an operator's credentials", "origin", "main")
	for _, who := range []string{"Robot-1", "", strings.Repeat("x", maxWho+1), "a\x7fb"} {
		resp := request(t, s, "POST", "/git-receive-pack", who, "application/x-git-receive-pack-request", []byte("0000"))
		if resp.status != http.StatusForbidden || !strings.HasPrefix(resp.kind, "text/plain") {
			t.Errorf("%q: %d %s", who, resp.status, resp.kind)
		}
	}
	if out := sb.Git(sb.Home, "ls-remote", s.url()); out != "" {
		t.Errorf("there is %s", out)
	}
}

// TestPushNames: whatever an operator is called, git writes a name into the reflog, and the history has it exactly.
func TestPushNames(t *testing.T) {
	t.Parallel()
	sb := newSandbox(t)
	s := newSite(t, Options{})
	dir := sb.clone(s.url(), "alice")
	names := []string{"jörg müller", "a<b>c", "...", ".", "'x'", "cn=alice,o=acme", strings.Repeat("n", maxWho)}
	for i, name := range names {
		sb.Git(dir, "config", "http.extraHeader", whoHeader+": "+name)
		sb.Commit(dir, "a", fmt.Sprint(i))
		sb.Git(dir, "push", "--quiet", "origin", "main")
	}
	for i, p := range checkHistory(sb, s.Set) {
		if p.Who != names[i] {
			t.Errorf("%q stands in the history as %q", names[i], p.Who)
		}
	}
}

func TestPushBrokenObjects(t *testing.T) {
	t.Parallel()
	sb := newSandbox(t)
	s := newSite(t, Options{})
	dir := sb.clone(s.url(), "alice")
	blob := sb.Commit(dir, "a", "1")
	blob = sb.Git(dir, "rev-parse", blob+":a")
	object := func(kind, content string) string {
		cmd := sb.Command(dir, "hash-object", "-t", kind, "-w", "--literally", "--stdin")
		cmd.Stdin = strings.NewReader(content)
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(out))
	}
	raw := make([]byte, 0, 20)
	if _, err := fmt.Sscanf(blob, "%x", &raw); err != nil {
		t.Fatal(err)
	}
	for _, tree := range []string{"100644 .git\x00" + string(raw), "100644 a/b\x00" + string(raw), "100644 a\x00" + string(raw) + "100644 a\x00" + string(raw)} {
		c := object("commit", "tree "+object("tree", tree)+"\nauthor A <a@b> 1700000000 +0000\ncommitter A <a@b> 1700000000 +0000\n\nx\n")
		sb.refused(dir, "unpack", "origin", c+":refs/heads/broken")
	}
	c := object("commit", "tree "+sb.Git(dir, "rev-parse", "main^{tree}")+"\ncommitter A <a@b> 1700000000 +0000\n\nx\n")
	sb.refused(dir, "missingAuthor", "origin", c+":refs/heads/broken")
	if out := sb.Git(sb.Home, "ls-remote", s.url()); out != "" {
		t.Errorf("there is %s", out)
	}
	if n := sb.Git(s.repo(), "count-objects"); n != "0 objects, 0 kilobytes" {
		t.Errorf("what was refused is kept: %s", n)
	}
	sb.Git(dir, "push", "--quiet", "origin", "main")
	s.sound(sb)
}

// TestPushMissingObjects sends a pack that does not hold what its commit leads to.
func TestPushMissingObjects(t *testing.T) {
	t.Parallel()
	sb := newSandbox(t)
	s := newSite(t, Options{})
	dir := sb.clone(s.url(), "alice")
	c := sb.Commit(dir, "a", "1")
	cmd := sb.Command(dir, "pack-objects", "--stdout", "-q")
	cmd.Stdin = strings.NewReader(c + "\n")
	pack, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	head := smarthttp.PktLine(strings.Repeat("0", 40)+" "+c+" refs/heads/main\x00 report-status") + "0000"
	resp := request(t, s, "POST", "/git-receive-pack", "alice", "application/x-git-receive-pack-request", append([]byte(head), pack...))
	if resp.status != 200 || !strings.Contains(resp.body, "ng refs/heads/main") {
		t.Errorf("%d: %q", resp.status, resp.body)
	}
	s.sound(sb)
}

func noise(n int) string {
	data := make([]byte, n)
	_, _ = rand.Read(data) // never fails
	return string(data)
}

func TestPushTooLarge(t *testing.T) {
	t.Parallel()
	sb := newSandbox(t)
	s := newSite(t, Options{MaxPush: 64 << 10})
	dir := sb.clone(s.url(), "alice")
	sb.Commit(dir, "a", noise(100<<10))
	sb.refused(dir, "pack exceeds maximum allowed size", "origin", "main")
	sb.Commit(dir, "a", noise(3<<20))
	sb.refused(dir, "413", "origin", "main")
	if n := sb.Git(s.repo(), "count-objects"); n != "0 objects, 0 kilobytes" {
		t.Errorf("what was refused is kept: %s", n)
	}
	sb.Git(dir, "checkout", "--quiet", "--orphan", "small")
	sb.Commit(dir, "a", noise(40<<10))
	sb.Git(dir, "push", "--quiet", "origin", "small:main")
	s.sound(sb)
}

// TestPushManyObjects goes the way of a push that is kept as a pack, and of one that git sends in chunks.
func TestPushManyObjects(t *testing.T) {
	t.Parallel()
	sb := newSandbox(t)
	s := newSite(t, Options{})
	dir := sb.clone(s.url(), "alice")
	for i := range 600 {
		sb.Write(dir, fmt.Sprintf("d%d/f%d", i%30, i), noise(4<<10))
	}
	sb.Commit(dir, "a", "1")
	sb.Git(dir, "push", "--quiet", "origin", "main")
	s.sound(sb)
	if packs, _ := filepath.Glob(filepath.Join(s.repo(), "objects/pack/*.pack")); len(packs) != 1 {
		t.Errorf("packs %v", packs)
	}
}

// TestPushIsSynced: every name that a push makes is one that is synced before the client is told.
func TestPushIsSynced(t *testing.T) {
	t.Parallel()
	sb := newSandbox(t)
	s := newSite(t, Options{})
	dir := sb.clone(s.url(), "alice")
	push := func(files int, ref string) {
		t.Helper()
		before := map[string]bool{}
		walk(t, s.repo(), func(p string) { before[p] = true })
		for i := range files {
			sb.Write(dir, fmt.Sprint("f", i), noise(10))
		}
		sb.Commit(dir, "a", noise(10))
		var touched map[string]bool
		s.at = func(point string) {
			if point != "pushed" {
				return
			}
			r := s.repositories[DefaultName]
			refs, err := s.refs(context.Background(), r)
			if err == nil {
				touched, err = s.touched(context.Background(), r, changes(r.history.refs, refs))
			}
			if err != nil {
				t.Error(err)
			}
		}
		sb.Git(dir, "push", "--quiet", "origin", "main:"+ref)
		fresh := 0
		walk(t, s.repo(), func(p string) {
			if before[p] {
				return
			}
			if fresh++; !touched[filepath.Dir(p)] {
				t.Errorf("%s: its name is not synced", p)
			}
			if !strings.Contains(p, "/objects/") && !touched[p] {
				t.Errorf("%s is not synced", p)
			}
		})
		if fresh < 2 {
			t.Errorf("only %d files are new", fresh)
		}
	}
	push(3, "main")
	push(3, "refs/heads/line/2/b")
	push(90, "refs/heads/line/2/c")
	push(enoughFolders+1, "main")
}

func walk(t *testing.T, dir string, fn func(path string)) {
	t.Helper()
	err := filepath.WalkDir(dir, func(p string, _ os.DirEntry, err error) error {
		fn(p)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestPushRunsNothingOfTheRepository: hooks and settings that somebody put there do not count.
func TestPushRunsNothingOfTheRepository(t *testing.T) {
	t.Parallel()
	sb := newSandbox(t)
	s := newSite(t, Options{})
	dir := sb.clone(s.url(), "alice")
	mark := filepath.Join(t.TempDir(), "ran")
	for _, hook := range []string{"pre-receive", "update", "post-receive", "post-update", "reference-transaction", "proc-receive"} {
		path := filepath.Join(s.repo(), "hooks", hook)
		sb.Write(filepath.Dir(path), hook, "#!/bin/sh\necho x > '"+mark+"'\nexit 1\n")
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	sb.Git(s.repo(), "config", "receive.denyNonFastForwards", "false")
	sb.Git(s.repo(), "config", "receive.fsckObjects", "false")
	base := sb.Commit(dir, "a", "1")
	sb.Commit(dir, "a", "2")
	sb.Git(dir, "push", "--quiet", "origin", "main")
	sb.Git(dir, "reset", "--quiet", "--hard", base)
	sb.refused(dir, "non-fast-forward", "--force", "origin", "main")
	if _, err := os.Stat(mark); err == nil {
		t.Error("a hook of the repository ran")
	}
}

// TestPushTwoAtOnce: one of two pushes to the same branch wins; to different branches both do.
func TestPushTwoAtOnce(t *testing.T) {
	t.Parallel()
	sb := newSandbox(t)
	s := newSite(t, Options{})
	alice := sb.clone(s.url(), "alice")
	sb.Commit(alice, "a", "1")
	sb.Git(alice, "push", "--quiet", "origin", "main")
	bob := sb.clone(s.url(), "bob")
	both := func(aliceRef, bobRef string) (errs [2]error) {
		sb.Commit(alice, "a", noise(10))
		sb.Commit(bob, "b", noise(10))
		var arrived, done sync.WaitGroup
		arrived.Add(2)
		s.at = func(point string) {
			if point == "received" {
				arrived.Done()
				arrived.Wait()
			}
		}
		for i, args := range [][]string{{alice, aliceRef}, {bob, bobRef}} {
			done.Go(func() { _, errs[i] = sb.Try(args[0], "push", "--quiet", "origin", args[1]) })
		}
		done.Wait()
		return errs
	}
	if errs := both("main", "main"); (errs[0] == nil) == (errs[1] == nil) {
		t.Errorf("both pushed to main: %v, %v", errs[0], errs[1])
	} else if err := errors.Join(errs[0], errs[1]); !strings.Contains(err.Error(), "[remote rejected]") && !strings.Contains(err.Error(), "[remote failure]") {
		t.Error(err)
	}
	if errs := both("main:line-1", "main:line-2"); errs[0] != nil || errs[1] != nil {
		t.Errorf("each to a branch of its own: %v", errs)
	}
	s.sound(sb)
}

// TestCloneDuringPushes: a clone has the state before a push or after it, whole.
func TestCloneDuringPushes(t *testing.T) {
	t.Parallel()
	sb := newSandbox(t)
	s := newSite(t, Options{})
	dir := sb.clone(s.url(), "alice")
	sb.Commit(dir, "a", "0")
	sb.Git(dir, "push", "--quiet", "origin", "main")
	stop := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		defer close(stop)
		for i := range 5 {
			sb.Write(dir, fmt.Sprintf("f%d", i), noise(1000))
			for _, args := range [][]string{{"add", "--all"}, {"commit", "--quiet", "-m", "x"}, {"push", "--quiet", "origin", "main"}} {
				if out, err := sb.Try(dir, args...); err != nil {
					t.Errorf("%s, %v", out, err)
				}
			}
		}
	})
	clones := 0
	for running := true; running; clones++ {
		select {
		case <-stop:
			running = false
		default:
		}
		clone := filepath.Join(t.TempDir(), fmt.Sprint("c", clones))
		sb.Git(sb.Home, "-c", fmt.Sprintf("protocol.version=%d", 2*(clones%2)), "clone", "--quiet", s.url(), clone)
		sb.Git(clone, "fsck", "--full", "--strict")
		// Every state has one file more than the one before.
		commits := sb.Git(clone, "rev-list", "--count", "HEAD")
		files := sb.Git(clone, "ls-files")
		if got := fmt.Sprint(1 + strings.Count(files, "\n")); got != commits {
			t.Errorf("%s files after %s commits", got, commits)
		}
	}
	done.Wait()
	t.Logf("%d clones", clones)
	s.sound(sb)
}

type response struct {
	status int
	kind   string
	body   string
}

func request(t *testing.T, s *site, method, path, who, kind string, body []byte) response {
	t.Helper()
	req, err := http.NewRequest(method, s.url()+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header[whoHeader] = []string{who}
	if who == "a\x7fb" { // cannot be sent
		req.Header[whoHeader] = []string{"a\u0085b"}
	}
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response{resp.StatusCode, resp.Header.Get("Content-Type"), string(data)}
}

func TestPushRequests(t *testing.T) {
	t.Parallel()
	s := newSite(t, Options{})
	const kind = "application/x-git-receive-pack-request"
	zeros, oid := strings.Repeat("0", 40), strings.Repeat("a", 40)
	for _, tc := range []struct {
		name, body string
		status     int
		contains   string
	}{
		{"the question whether it may push", "0000", 200, ""},
		{"nothing", "", 400, "ends before its pack"},
		{"no pkt-line", "hello", 400, "pkt-line"},
		{"a certificate", smarthttp.PktLine("push-cert\x00report-status") + "0000", 400, "is no command"},
		{"no oid", smarthttp.PktLine("x y refs/heads/a\x00") + "0000", 400, "is no command"},
		{"a long name", smarthttp.PktLine(zeros+" "+oid+" refs/heads/"+strings.Repeat("a", 2000)+"\x00") + "0000", 400, "is no command"},
		{"many", strings.Repeat(smarthttp.PktLine(zeros+" "+oid+" refs/heads/a"), maxCommands+1) + "0000", 400, "more than"},
		{"a bad name", smarthttp.PktLine(zeros+" "+oid+" refs/heads/../x\x00 report-status") + "0000", 200, "ng refs/heads/../x "},
		{"no pack", smarthttp.PktLine(zeros+" "+oid+" refs/heads/a\x00 report-status") + "0000", 200, "ng refs/heads/a"},
		{"another ref", smarthttp.PktLine(zeros+" "+oid+" HEAD\x00 report-status") + "0000", 200, "ng HEAD only branches and tags"},
		{"another ref, by band", smarthttp.PktLine(zeros+" "+oid+" HEAD\x00 report-status side-band-64k") + "0000", 200, "\x01000eunpack ok\n"},
	} {
		resp := request(t, s, "POST", "/git-receive-pack", "alice", kind, []byte(tc.body))
		if resp.status != tc.status || !strings.Contains(resp.body, tc.contains) {
			t.Errorf("%s: %d %q", tc.name, resp.status, resp.body)
		}
		if resp.status == 200 && resp.kind != "application/x-git-receive-pack-result" || resp.status != 200 && !strings.HasPrefix(resp.kind, "text/plain") {
			t.Errorf("%s: content type %s", tc.name, resp.kind)
		}
	}
	if resp := request(t, s, "POST", "/git-receive-pack", "alice", "text/plain", nil); resp.status != http.StatusUnsupportedMediaType {
		t.Errorf("%+v", resp)
	}
	if entries, err := os.ReadDir(filepath.Join(s.dir, spoolName)); err != nil || len(entries) > 0 {
		t.Errorf("%v, %v", entries, err)
	}
}

// smallDisk mounts a file system of that many bytes.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("a small disk needs root to mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestPushToFullDisk(t *testing.T) {
	t.Parallel()
	disk := smallDisk(t, "32m")
	sb := newSandbox(t)
	s := openSite(t, filepath.Join(disk, "site"), Options{})
	dir := sb.clone(s.url(), "alice")
	sb.Commit(dir, "a", "1")
	sb.Git(dir, "push", "--quiet", "origin", "main")
	sb.Commit(dir, "big", noise(6<<20))
	sb.refused(dir, "the disk of the site's relay is full", "origin", "main")
	s.sound(sb)

	// The room goes while git writes.
	filler := filepath.Join(disk, "filler")
	sb.Git(dir, "reset", "--quiet", "--hard", "origin/main")
	sb.Commit(dir, "middle", noise(1<<20))
	s.at = func(point string) {
		if point == "started" {
			fill(t, filler)
		}
	}
	sb.refused(dir, "No space left on device", "origin", "main")
	s.at = func(string) {}
	s.sound(sb)
	// None is left from the start.
	sb.refused(dir, "remote: the disk of the site's relay is full", "origin", "main")
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	sb.Git(dir, "push", "--quiet", "origin", "main")
	s.sound(sb)
	var room *NoRoomError
	if errs := s.errs(); len(errs) != 3 || !errors.As(errs[0], &room) || !errors.Is(errs[0], unix.ENOSPC) || !errors.As(errs[2], &room) {
		t.Errorf("%v", errs)
	}
}

func fill(t *testing.T, path string) {
	f, err := os.Create(path)
	if err != nil {
		t.Error(err)
		return
	}
	defer f.Close()
	for _, block := range []int{1 << 20, 4 << 10} {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, block))
		}
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Error(err)
	}
}
