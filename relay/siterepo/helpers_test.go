package siterepo

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/plimsoll/plimsoll/internal/gittest"
)

// sandbox runs git as an operator would.
type sandbox struct{ *gittest.Sandbox }

func newSandbox(t testing.TB) *sandbox {
	t.Helper()
	return &sandbox{gittest.New(t, "Alice", "[gc]", "\tauto = 0", "[core]", "\tfsync = none")}
}

// clone gives a clone in which git says that it is who.
func (s *sandbox) clone(url, who string) string {
	s.T.Helper()
	dir := filepath.Join(s.T.TempDir(), "clone")
	s.Git(s.Home, "-c", "http.extraHeader="+whoHeader+": "+who, "clone", "--quiet", url, dir)
	s.Git(dir, "config", "http.extraHeader", whoHeader+": "+who)
	return dir
}

// refused expects a push that is refused with these words.
func (s *sandbox) refused(dir string, words string, args ...string) {
	s.T.Helper()
	out, err := s.Try(dir, append([]string{"push"}, args...)...)
	if err == nil || !strings.Contains(err.Error(), words) {
		s.T.Errorf("git push %s: %s, %v; want %q", strings.Join(args, " "), out, err, words)
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
	sb.T.Helper()
	sb.Git(s.repo(), "fsck", "--full", "--strict", "--no-dangling")
	checkHistory(sb, s.Set)
}

func checkHistory(sb *sandbox, set *Set) []Push {
	sb.T.Helper()
	log, err := set.Log(context.Background(), DefaultName)
	if err != nil {
		sb.T.Fatal(err)
	}
	refs := make(map[string]string)
	for i, p := range log {
		if p.Seq != uint64(i)+1 || p.Repository != DefaultName || refs[p.Ref] != p.Old {
			sb.T.Errorf("push %d is %+v, after %q", i+1, p, refs[p.Ref])
		}
		if refs[p.Ref] = p.New; p.New == "" {
			delete(refs, p.Ref)
		}
	}
	have := make(map[string]string)
	for line := range strings.Lines(sb.Git(set.repositories[DefaultName].git(), "for-each-ref", "--format=%(objectname) %(refname)")) {
		oid, ref, _ := strings.Cut(strings.TrimSpace(line), " ")
		have[ref] = oid
	}
	if fmt.Sprint(have) != fmt.Sprint(refs) {
		sb.T.Errorf("the history leads to %v, there is %v", refs, have)
	}
	return log
}
