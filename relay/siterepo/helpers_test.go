package siterepo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// sandbox runs git as an operator would, in a home of its own.
type sandbox struct {
	t    testing.TB
	home string
	tick atomic.Int64
}

func newSandbox(t testing.TB) *sandbox {
	t.Helper()
	s := &sandbox{t: t, home: t.TempDir()}
	s.write(s.home, ".gitconfig", "[user]\n\tname = Alice\n\temail = alice@example.com\n[init]\n\tdefaultBranch = main\n"+
		"[advice]\n\tdetachedHead = false\n[safe]\n\tdirectory = *\n[gc]\n\tauto = 0\n[core]\n\tfsync = none\n")
	return s
}

func (s *sandbox) command(dir string, args ...string) *exec.Cmd {
	date := fmt.Sprintf("%d +0000", 1_700_000_000+s.tick.Add(60))
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + s.home, "GIT_CONFIG_NOSYSTEM=1", "LC_ALL=C", "GIT_TERMINAL_PROMPT=0",
		"GIT_AUTHOR_DATE=" + date, "GIT_COMMITTER_DATE=" + date,
	}
	return cmd
}

// try may be called from any goroutine.
func (s *sandbox) try(dir string, args ...string) (string, error) {
	cmd := s.command(dir, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("git %s: %w: %s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(string(out)), err
}

func (s *sandbox) git(dir string, args ...string) string {
	s.t.Helper()
	out, err := s.try(dir, args...)
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

func (s *sandbox) write(dir, name, content string) {
	s.t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

func (s *sandbox) commit(dir, name, content string) string {
	s.t.Helper()
	s.write(dir, name, content)
	s.git(dir, "add", "--all")
	s.git(dir, "commit", "--quiet", "-m", "change "+name)
	return s.git(dir, "rev-parse", "HEAD")
}

// clone gives a clone in which git says that it is who.
func (s *sandbox) clone(url, who string) string {
	s.t.Helper()
	dir := filepath.Join(s.t.TempDir(), "clone")
	s.git(s.home, "-c", "http.extraHeader="+whoHeader+": "+who, "clone", "--quiet", url, dir)
	s.git(dir, "config", "http.extraHeader", whoHeader+": "+who)
	return dir
}

// refused expects a push that is refused with these words.
func (s *sandbox) refused(dir string, words string, args ...string) {
	s.t.Helper()
	out, err := s.try(dir, append([]string{"push"}, args...)...)
	if err == nil || !strings.Contains(err.Error(), words) {
		s.t.Errorf("git push %s: %s, %v; want %q", strings.Join(args, " "), out, err, words)
	}
}

// whoHeader stands for the authentication that the relay does: those whose name starts with a capital may only read.
const whoHeader = "X-Who"

func identify(r *http.Request) Identity {
	name := r.Header.Get(whoHeader)
	return Identity{Name: name, Write: name != "" && strings.ToLower(name) == name}
}

// site is a set behind an HTTP server.
type site struct {
	*Set
	dir    string
	server *httptest.Server

	mu      sync.Mutex
	told    []Push
	answers []Answer
	deaf    bool // Pushed gives an error
}

func (s *site) pushed(p Push) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.deaf {
		return errors.New("deaf")
	}
	s.told = append(s.told, p)
	return nil
}

func newSite(t testing.TB, o Options) *site {
	t.Helper()
	return openSite(t, filepath.Join(t.TempDir(), "site"), o)
}

func openSite(t testing.TB, dir string, o Options) *site {
	t.Helper()
	s := &site{dir: dir}
	if o.Pushed == nil {
		o.Pushed = s.pushed
	}
	if o.Problem == nil {
		o.Problem = func(name string, err error) { t.Errorf("problem in %s: %v", name, err) }
	}
	set, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	s.Set = set
	s.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.Serves(r.Host, r.URL.Path) {
			http.NotFound(w, r)
			return
		}
		a := s.Serve(w, r, identify(r))
		s.mu.Lock()
		defer s.mu.Unlock()
		s.answers = append(s.answers, a)
	}))
	t.Cleanup(s.server.Close)
	return s
}

func (s *site) url() string { return s.server.URL + "/site/" + DefaultName }

func (s *site) repo() string { return s.repositories[DefaultName].git() }

// last is the answer to the last request. An answer is noted after the client has it.
func (s *site) errs() []error {
	s.server.Close() // waits for the handlers
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, a := range s.answers {
		if a.Err != nil {
			errs = append(errs, a.Err)
		}
	}
	return errs
}

// sound checks a repository, and that its history says what it is.
func (s *site) sound(sb *sandbox) {
	sb.t.Helper()
	sb.git(s.repo(), "fsck", "--full", "--strict", "--no-dangling")
	checkHistory(sb, s.Set)
}

func checkHistory(sb *sandbox, set *Set) []Push {
	sb.t.Helper()
	log, err := set.Log(context.Background(), DefaultName)
	if err != nil {
		sb.t.Fatal(err)
	}
	refs := make(map[string]string)
	for i, p := range log {
		if p.Seq != uint64(i)+1 || p.Repository != DefaultName || refs[p.Ref] != p.Old {
			sb.t.Errorf("push %d is %+v, after %q", i+1, p, refs[p.Ref])
		}
		if refs[p.Ref] = p.New; p.New == "" {
			delete(refs, p.Ref)
		}
	}
	have := make(map[string]string)
	for line := range strings.Lines(sb.git(set.repositories[DefaultName].git(), "for-each-ref", "--format=%(objectname) %(refname)")) {
		oid, ref, _ := strings.Cut(strings.TrimSpace(line), " ")
		have[ref] = oid
	}
	if fmt.Sprint(have) != fmt.Sprint(refs) {
		sb.t.Errorf("the history leads to %v, there is %v", refs, have)
	}
	return log
}
