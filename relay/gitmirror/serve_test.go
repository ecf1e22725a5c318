package gitmirror

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
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

func pkt(text string) string { return fmt.Sprintf("%04x%s", len(text)+4, text) }

// lsRefs is the v2 request of ls-remote.
var lsRefs = pkt("command=ls-refs\n") + "0001" + pkt("symrefs\n") + "0000"

func TestServeAnswers(t *testing.T) {
	_, _, site := newSite(t, Options{})
	base := "/git/" + place
	post := http.Header{"Content-Type": {requestType}, "Git-Protocol": {"version=2"}}
	for _, tc := range []struct {
		method, path string
		header       http.Header
		body         string
		status       int
		contentType  string
	}{
		{"GET", base + "/info/refs?service=git-upload-pack", nil, "", 200, advertType},
		{"HEAD", base + "/info/refs?service=git-upload-pack", nil, "", 200, advertType},
		{"POST", base + "/git-upload-pack", post, lsRefs, 200, resultType},
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
		{"POST", base + "/git-upload-pack", http.Header{"Content-Type": {"application/json"}}, lsRefs, 415, ""},
		{"POST", base + "/git-upload-pack", http.Header{"Content-Type": {requestType}, "Content-Encoding": {"br"}}, lsRefs, 415, ""},
		{"POST", base + "/git-upload-pack", http.Header{"Content-Type": {requestType}, "Content-Encoding": {"gzip"}}, lsRefs, 400, ""},
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

func TestServeProtocolVersion(t *testing.T) {
	for _, tc := range []struct {
		values   []string
		version  int
		protocol string
	}{
		{nil, 0, ""},
		{[]string{"version=2"}, 2, "version=2"},
		{[]string{"version=1:version=2"}, 2, "version=1:version=2"},
		{[]string{"version=2:version=0"}, 2, "version=2:version=0"},
		{[]string{"version=3"}, 0, ""},
		{[]string{"version=2\nX=1"}, 0, ""},
		{[]string{"version=2:evil=$(id)"}, 2, "version=2"},
		{[]string{"version=2", "version=1"}, 0, ""},
		{[]string{strings.Repeat("version=2:", 100)}, 0, ""},
	} {
		if version, protocol := protocolVersion(tc.values); version != tc.version || protocol != tc.protocol {
			t.Errorf("%q: %d %q", tc.values, version, protocol)
		}
	}
}

func gzipped(t *testing.T, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	gz := gzip.NewWriter(&b)
	if _, err := gz.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := gz.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestServeBoundsBodies(t *testing.T) {
	_, _, site := newSite(t, Options{MaxBody: 200 << 10, MaxInflated: 400 << 10})
	path := "/git/" + place + "/git-upload-pack"
	send := func(body []byte, zip bool) int {
		header := http.Header{"Content-Type": {requestType}, "Git-Protocol": {"version=2"}}
		if zip {
			header["Content-Encoding"] = []string{"gzip"}
		}
		resp, text := site.do(t, "POST", path, header, bytes.NewReader(body))
		if resp.StatusCode == 200 && !strings.Contains(text, "refs/heads/main") {
			t.Errorf("answered %q", text)
		}
		return resp.StatusCode
	}
	// ls-refs with as many ref-prefix lines as asked for, all of them harmless.
	request := func(size int) []byte {
		var b strings.Builder
		b.WriteString(pkt("command=ls-refs\n") + "0001")
		for range size / 2000 {
			b.WriteString(pkt("ref-prefix refs/heads/" + strings.Repeat("m", 1973) + "\n"))
		}
		return []byte(b.String() + pkt("ref-prefix refs/heads/main\n") + "0000")
	}
	for _, tc := range []struct {
		name string
		body []byte
		zip  bool
		want int
	}{
		{"small", request(0), false, 200},
		{"in a file", request(100_000), false, 200},
		{"too large", request(250_000), false, 413},
		{"compressed, in memory", gzipped(t, request(0)), true, 200},
		{"compressed, in a file", gzipped(t, request(350_000)), true, 200},
		{"a bomb", gzipped(t, make([]byte, 100<<20)), true, 413},
		{"a small bomb", gzipped(t, request(500_000)), true, 413},
		{"cut gzip", gzipped(t, request(100_000))[:300], true, 400},
	} {
		if got := send(tc.body, tc.zip); got != tc.want {
			t.Errorf("%s: %d, want %d", tc.name, got, tc.want)
		}
	}
	left, err := os.ReadDir(site.m.path(spoolName))
	if err != nil || len(left) > 0 {
		t.Errorf("spool: %v, %v", left, err)
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

// TestServeKillsOnDisconnect: a client that goes takes the processes that work for it along, children included.
func TestServeKillsOnDisconnect(t *testing.T) {
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
			req, _ := http.NewRequestWithContext(ctx, "POST", site.url()+"/git-upload-pack", strings.NewReader(lsRefs))
			req.Header.Set("Content-Type", requestType)
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
	_, _, site := newSite(t, Options{})
	if err := os.RemoveAll(site.m.generationDir(1)); err != nil {
		t.Fatal(err)
	}
	resp, text := site.do(t, "GET", "/git/"+place+"/info/refs?service=git-upload-pack", nil, nil)
	if resp.StatusCode != 500 || resp.Header.Get("Content-Type") != "text/plain; charset=utf-8" {
		t.Errorf("%d %q", resp.StatusCode, text)
	}
}

func TestServeDropsStalledClients(t *testing.T) {
	_, _, site := newSite(t, Options{StallTimeout: 50 * time.Millisecond})
	body, sender := io.Pipe()
	defer sender.Close()
	go func() { _, _ = io.WriteString(sender, lsRefs[:10]) }()
	req, err := http.NewRequestWithContext(t.Context(), "POST", site.url()+"/git-upload-pack", body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", requestType)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return // the connection was dropped: as good
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusRequestTimeout {
		t.Errorf("status %d", resp.StatusCode)
	}
}

func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(1, 2)
		leave, err := g.enter(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		order := make(chan int, 3)
		for i := range 2 {
			go func() {
				leave, err := g.enter(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				order <- i
				leave()
			}()
			synctest.Wait()
		}
		if _, err := g.enter(t.Context()); !errors.Is(err, errQueueFull) {
			t.Errorf("a third waiter: %v", err)
		}
		leave()
		synctest.Wait()
		if a, b := <-order, <-order; a != 0 || b != 1 {
			t.Errorf("served in the order %d, %d", a, b)
		}
		leave, err = g.enter(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		gone := make(chan error, 1)
		go func() {
			_, err := g.enter(ctx)
			gone <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-gone; !errors.Is(err, context.Canceled) {
			t.Errorf("a waiter that went: %v", err)
		}
		leave()
		if leave, err := g.enter(t.Context()); err != nil {
			t.Error(err)
		} else {
			leave()
		}
	})
}
