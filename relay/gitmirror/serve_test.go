package gitmirror

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/plimsoll/plimsoll/relay/smarthttp"
)

func (s *site) do(t *testing.T, method, path string, header http.Header, body io.Reader) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.server.URL+path, body)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		req.Header[k] = v
	}
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(text)
}

func pkt(text string) string { return smarthttp.PktLine(text) }

// lsRefsAll is the v2 request of ls-remote.
var lsRefsAll = pkt("command=ls-refs\n") + "0001" + pkt("symrefs\n") + "0000"

// TestClients20PlainAnswers: whatever is not there, or not allowed, is refused in plain text, never by a redirect, and never
// with a page that a tool could take for content.
func TestClients20PlainAnswers(t *testing.T) {
	t.Parallel()
	_, _, site := newSite(t, Options{})
	base := "/git/" + place
	post := http.Header{"Content-Type": {smarthttp.UploadPack.RequestType()}, "Git-Protocol": {"version=2"}}
	for _, tc := range []struct {
		method, path string
		header       http.Header
		body         string
		status       int
		contentType  string
	}{
		{"GET", base + "/info/refs?service=git-upload-pack", nil, "", 200, smarthttp.UploadPack.AdvertisementType()},
		{"HEAD", base + "/info/refs?service=git-upload-pack", nil, "", 200, smarthttp.UploadPack.AdvertisementType()},
		{"POST", base + "/git-upload-pack", post, lsRefsAll, 200, smarthttp.UploadPack.ResultType()},
		{"GET", base + "/info/refs?service=git-receive-pack", nil, "", 403, ""},
		{"POST", base + "/git-receive-pack", nil, "", 403, ""},
		{"GET", base + "/info/refs", nil, "", 403, ""},
		{"GET", base + "/info/refs?service=git-upload-archive", nil, "", 403, ""},
		{"GET", base + ".git/HEAD", nil, "", 403, ""},
		{"GET", base + ".git/objects/info/packs", nil, "", 403, ""},
		{"GET", base + "/objects/aa/" + strings.Repeat("a", 38), nil, "", 403, ""},
		{"GET", base, nil, "", 404, ""},
		{"GET", base + "/", nil, "", 404, ""},
		{"GET", base + ".git?ref=main", nil, "", 404, ""},
		{"GET", base + "/config", nil, "", 404, ""},
		{"GET", "/git/github.com/acme/other/info/refs?service=git-upload-pack", nil, "", 404, ""},
		{"GET", "/git/github.com/acme/../acme/robot-deployment/info/refs?service=git-upload-pack", nil, "", 404, ""},
		{"GET", "/git//" + place + "/info/refs?service=git-upload-pack", nil, "", 404, ""},
		{"GET", "/", nil, "", 404, ""},
		{"POST", base + "/info/refs?service=git-upload-pack", nil, "", 405, ""},
		{"GET", base + "/git-upload-pack", nil, "", 405, ""},
		{"PUT", base + "/git-upload-pack", nil, "", 405, ""},
		{"POST", base + "/git-upload-pack", http.Header{"Content-Type": {"application/json"}}, lsRefsAll, 415, ""},
		{"POST", base + "/git-upload-pack", http.Header{"Content-Type": {smarthttp.UploadPack.RequestType()}, "Content-Encoding": {"br"}}, lsRefsAll, 415, ""},
		{"POST", base + "/git-upload-pack", http.Header{"Content-Type": {smarthttp.UploadPack.RequestType()}, "Content-Encoding": {"gzip"}}, lsRefsAll, 400, ""},
	} {
		resp, text := site.do(t, tc.method, tc.path, tc.header, strings.NewReader(tc.body))
		want := tc.contentType
		if want == "" {
			want = "text/plain; charset=utf-8"
		}
		if resp.StatusCode != tc.status || resp.Header.Get("Content-Type") != want {
			t.Errorf("%s %s: %d %s, want %d %s", tc.method, tc.path, resp.StatusCode, resp.Header.Get("Content-Type"), tc.status, want)
		}
		if !strings.Contains(resp.Header.Get("Cache-Control"), "no-cache") || strings.Contains(text, "<") && tc.status != 200 {
			t.Errorf("%s %s: Cache-Control %q, text %q", tc.method, tc.path, resp.Header.Get("Cache-Control"), text)
		}
	}
}

// TestServeAdvertisement: version 2 has no service line (gitprotocol-v2(5)), which the git CLI would let pass.
func TestServeAdvertisement(t *testing.T) {
	t.Parallel()
	_, _, site := newSite(t, Options{})
	for protocol, want := range map[string]string{
		"": pkt("# service=git-upload-pack\n") + "0000", "version=1": pkt("# service=git-upload-pack\n") + "0000" + pkt("version 1\n"),
		"version=2": pkt("version 2\n"),
	} {
		_, text := site.do(t, "GET", "/git/"+place+"/info/refs?service=git-upload-pack", http.Header{"Git-Protocol": {protocol}}, nil)
		if !strings.HasPrefix(text, want) || !strings.HasSuffix(text, "0000") {
			t.Errorf("%q: %q", protocol, text)
		}
	}
}

// stuckGit is a git that answers nothing to clients: it says its process id into a pipe and then waits.
func stuckGit(t *testing.T) (path string, started func() (pid string)) {
	t.Helper()
	dir := t.TempDir()
	fifo := filepath.Join(dir, "started")
	if out, err := exec.Command("mkfifo", fifo).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	git, err := exec.LookPath("git") // by its path: the mirror puts the folder of its git first
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(dir, "git")
	script := "#!/bin/sh\nif [ \"$1\" != upload-pack ]; then exec " + git + " \"$@\"; fi\nsleep 1000 &\necho $! > " + fifo + "\nwait\n"
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return path, func() string {
		pid, err := os.ReadFile(fifo)
		if err != nil {
			t.Error(err)
		}
		return strings.TrimSpace(string(pid))
	}
}

// TestClients16KilledOnDisconnect: a client that goes takes the processes that work for it along, children included.
func TestClients16KilledOnDisconnect(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	source := s.source()
	git, started := stuckGit(t)
	m := open(t, t.TempDir(), Options{Git: git})
	g := s.state(source)
	admit(t, m, g, s.layer(source))
	site := serve(t, m, prepare(t, m, 1, g))
	for _, request := range []func(ctx context.Context) *http.Request{
		func(ctx context.Context) *http.Request {
			req, _ := http.NewRequestWithContext(ctx, "GET", site.url()+"/info/refs?service=git-upload-pack", nil)
			return req
		},
		func(ctx context.Context) *http.Request {
			req, _ := http.NewRequestWithContext(ctx, "POST", site.url()+"/git-upload-pack", strings.NewReader(lsRefsAll))
			req.Header.Set("Content-Type", smarthttp.UploadPack.RequestType())
			return req
		},
	} {
		ctx, cancel := context.WithCancel(context.Background())
		result := make(chan error, 1)
		go func() {
			resp, err := http.DefaultClient.Do(request(ctx))
			if err == nil {
				err = resp.Body.Close()
			}
			result <- err
		}()
		pid := started()
		cancel()
		if err := <-result; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		http.DefaultClient.CloseIdleConnections()
		waitGone(t, pid)
	}
	site.server.Close() // returns when all handlers have
	if m.busy(1) {
		t.Error("the generation is still in use")
	}
}

// waitGone looks at a process that is no child of ours, so that nothing else tells of its end, until it has ended.
func waitGone(t *testing.T, pid string) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		stat, err := os.ReadFile("/proc/" + pid + "/stat")
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("process %s still runs: %s", pid, stat)
		case <-tick.C:
		}
	}
}

// TestServeReportsFailure: a repository that cannot be read is an error of the server, not an empty repository.
func TestServeReportsFailure(t *testing.T) {
	t.Parallel()
	_, _, site := newSite(t, Options{})
	if err := os.RemoveAll(site.m.generationDir(1)); err != nil {
		t.Fatal(err)
	}
	resp, text := site.do(t, "GET", "/git/"+place+"/info/refs?service=git-upload-pack", nil, nil)
	if resp.StatusCode != 500 || resp.Header.Get("Content-Type") != "text/plain; charset=utf-8" {
		t.Errorf("%d %q", resp.StatusCode, text)
	}
}
