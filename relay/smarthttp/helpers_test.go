package smarthttp

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/plimsoll/plimsoll/relay/traffic"
)

// clientHeader lets a test say which client a request counts under.
const clientHeader = "Test-Client"

// served is a repository behind a server: /r.git, with pushes allowed.
type served struct {
	*Server
	url    string
	dir    string // of the repository
	failed chan error
	ended  chan struct{} // receives when a handler has returned
}

func serve(t *testing.T, git string, o Options) *served {
	t.Helper()
	root := t.TempDir()
	tool, err := NewTool(git, root)
	if err != nil {
		t.Fatal(err)
	}
	s := &served{dir: filepath.Join(root, "r.git"), failed: make(chan error, 100), ended: make(chan struct{}, 100)}
	o.Tool, o.Spool = tool, t.TempDir()
	o.Failed = func(_ *http.Request, err error) { s.failed <- err }
	if err := os.Mkdir(s.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s.Server = New(o)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() { s.ended <- struct{}{} }()
		if name := r.Header.Get(clientHeader); name != "" {
			r = r.WithContext(traffic.WithClient(r.Context(), name))
		}
		NoCache(w.Header())
		_, e := SplitPath(r.URL.Path)
		service, advertise, refusal := Asked(r, e)
		q := Request{Service: service, Dir: s.dir}
		switch {
		case refusal != nil:
			refusal.ServeHTTP(w, r)
		case advertise:
			_ = s.Advertise(w, r, q)
		default:
			_ = s.Serve(w, r, q)
		}
	}))
	t.Cleanup(server.Close)
	s.url = server.URL + "/r.git"
	return s
}

// answered is what a client saw.
type answered struct {
	status int
	header http.Header
	body   string
	err    error
}

func do(req *http.Request) (a answered) {
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return answered{err: err}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answered{resp.StatusCode, resp.Header, string(body), err}
}

func (s *served) request(t *testing.T, service Service, client string, body io.Reader) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "POST", s.url+"/"+string(service), body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", service.RequestType())
	req.Header.Set("Git-Protocol", "version=2")
	req.Header.Set(clientHeader, client)
	return req
}

func (s *served) list(t *testing.T, service Service) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", s.url+"/info/refs?service="+string(service), nil)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// script is an executable that says it is git and else runs the lines, with the environment variable D naming a folder
// that holds the named pipes.
func script(t *testing.T, lines string, pipes ...string) (path, dir string) {
	t.Helper()
	dir = t.TempDir()
	for _, p := range pipes {
		if out, err := exec.Command("mkfifo", filepath.Join(dir, p)).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	path = filepath.Join(dir, "git")
	text := "#!/bin/sh\nif [ \"$1\" = version ]; then echo git version 2.39.5; exit; fi\nD=" + dir + "\n" + lines + "\n"
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path, dir
}

// hear reads what is written into a named pipe, until it is closed.
func hear(t *testing.T, dir, pipe string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, pipe))
	if err != nil {
		t.Error(err)
	}
	return strings.TrimSpace(string(data))
}

// tell lets a reader of the pipe go on.
func tell(t *testing.T, dir, pipe string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, pipe), []byte("go\n"), 0); err != nil {
		t.Error(err)
	}
}

// until waits for something that no event tells of.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("still not: %s", what)
		case <-tick.C:
		}
	}
}

// gone reports whether a process has ended.
func gone(pid string) bool {
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	return err != nil || strings.Contains(string(stat), ") Z ")
}

// git runs git as a client would.
func git(t *testing.T, dir string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "GIT_CONFIG_NOSYSTEM=1", "LC_ALL=C", "GIT_TERMINAL_PROMPT=0",
		"GIT_AUTHOR_NAME=R", "GIT_AUTHOR_EMAIL=r@example.com", "GIT_COMMITTER_NAME=R", "GIT_COMMITTER_EMAIL=r@example.com",
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return stderr.String(), err
	}
	return strings.TrimSpace(string(out)), nil
}

func mustGit(t *testing.T, dir string, args ...string) string {
	t.Helper()
	out, err := git(t, dir, args...)
	if err != nil {
		t.Fatalf("git %v: %v: %s", args, err, out)
	}
	return out
}
