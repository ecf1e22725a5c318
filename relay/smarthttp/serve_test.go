package smarthttp

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/plimsoll/plimsoll/relay/traffic"
)

// TestCloneAndPush: real git on both sides.
func TestCloneAndPush(t *testing.T) {
	s := serve(t, "", Options{})
	mustGit(t, s.dir, "init", "--quiet", "--bare", "--initial-branch=main", ".")
	work := filepath.Join(t.TempDir(), "work")
	mustGit(t, t.TempDir(), "init", "--quiet", "--initial-branch=main", work)
	if err := os.WriteFile(filepath.Join(work, "values.yaml"), []byte(strings.Repeat("ssid: x\n", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	mustGit(t, work, "add", "--all")
	mustGit(t, work, "commit", "--quiet", "-m", "first")
	// A bare repository refuses pushes over HTTP unless it is told to allow them; the request's configuration could too.
	mustGit(t, s.dir, "config", "http.receivepack", "true")
	for _, version := range []string{"0", "1", "2"} {
		mustGit(t, work, "-c", "protocol.version="+version, "push", "--quiet", s.url, "main:refs/heads/v"+version)
		clone := filepath.Join(t.TempDir(), "clone")
		mustGit(t, work, "-c", "protocol.version="+version, "clone", "--quiet", "--branch=v"+version, s.url, clone)
		if got, want := mustGit(t, clone, "rev-parse", "HEAD"), mustGit(t, work, "rev-parse", "main"); got != want {
			t.Errorf("version %s: cloned %s, want %s", version, got, want)
		}
	}
	if len(s.failed) > 0 {
		t.Errorf("failed: %v", <-s.failed)
	}
}

// TestEnvironment: git sees what the Tool gives it, the request's own additions, and the version. Nothing of the relay's
// environment and nothing else of the client's headers.
func TestEnvironment(t *testing.T) {
	for name, value := range map[string]string{
		"GIT_DIR": "/etc", "GIT_TRACE": "/tmp/trace", "GIT_SSH_COMMAND": "id", "GIT_CONFIG_PARAMETERS": "'core.x=y'", "LD_PRELOAD": "",
		"AWS_SECRET_ACCESS_KEY": "secret", "REMOTE_USER": "root", "HTTP_PROXY": "http://proxy", "GIT_OBJECT_DIRECTORY": "/tmp",
	} {
		t.Setenv(name, value)
	}
	path, _ := script(t, "exec env")
	s := serve(t, path, Options{})
	req := s.list(t, UploadPack)
	req.Header.Set("Git-Protocol", "version=2:x=$(id)")
	req.Header.Set("Proxy", "http://evil")
	req.Header.Set("User-Agent", "evil")
	a := do(req)
	allowed := map[string]bool{ // what the shell adds is PWD, OLDPWD, SHLVL and _
		"PATH": true, "HOME": true, "XDG_CONFIG_HOME": true, "LC_ALL": true, "PWD": true, "OLDPWD": true, "SHLVL": true, "_": true,
		"GIT_CONFIG_NOSYSTEM": true, "GIT_CONFIG_GLOBAL": true, "GIT_ATTR_NOSYSTEM": true, "GIT_NO_REPLACE_OBJECTS": true,
		"GIT_NO_LAZY_FETCH": true, "GIT_ALLOW_PROTOCOL": true, "GIT_TERMINAL_PROMPT": true, "GIT_ALLOC_LIMIT": true,
		"GIT_CONFIG_COUNT": true, "GIT_DIR": true, "GIT_PROTOCOL": true,
	}
	found := make(map[string]string)
	for line := range strings.Lines(a.body) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		found[name] = value
		if !allowed[name] && !strings.HasPrefix(name, "GIT_CONFIG_KEY_") && !strings.HasPrefix(name, "GIT_CONFIG_VALUE_") {
			t.Errorf("git sees %s", line)
		}
	}
	if found["GIT_DIR"] != s.dir || found["GIT_PROTOCOL"] != "version=2" || found["GIT_ALLOC_LIMIT"] == "" || found["HTTP_PROXY"] != "" {
		t.Errorf("got %v", found)
	}
}

// TestConfigOverrules: a request's configuration and environment reach git, behind the tool's.
func TestConfigOverrules(t *testing.T) {
	path, _ := script(t, "exec env")
	tool, err := NewTool(path, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	out, err := tool.Command(t.Context(), dir, []string{"receive.fsckObjects", "true"}, "x").Output()
	if err != nil {
		t.Fatal(err)
	}
	n := len(tool.config) / 2
	for _, want := range []string{
		"GIT_CONFIG_COUNT=" + string(rune('0'+n+1)), "GIT_CONFIG_KEY_" + string(rune('0'+n)) + "=receive.fsckObjects",
		"GIT_CONFIG_VALUE_" + string(rune('0'+n)) + "=true", "GIT_CONFIG_KEY_0=safe.directory",
	} {
		if !strings.Contains("\n"+string(out), "\n"+want+"\n") {
			t.Errorf("no %s in %s", want, out)
		}
	}
	if err := tool.Lines(t.Context(), dir, strings.NewReader(""), func(string) error { return nil }, "x"); err != nil {
		t.Error(err)
	}
}

// TestProgressIsSent: what git says before it goes on working reaches the client.
func TestProgressIsSent(t *testing.T) {
	path, dir := script(t, "printf first; read x < $D/go; printf second", "go")
	s := serve(t, path, Options{})
	resp, err := http.DefaultClient.Do(s.request(t, UploadPack, "", strings.NewReader("0000")))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	first := make([]byte, len("first"))
	if _, err := io.ReadFull(resp.Body, first); err != nil || string(first) != "first" {
		t.Fatalf("%q, %v", first, err)
	}
	tell(t, dir, "go")
	if rest, err := io.ReadAll(resp.Body); err != nil || string(rest) != "second" {
		t.Errorf("%q, %v", rest, err)
	}
}

// TestFailures: a git that says nothing is an error of the server, one that gives up has told the client, and one that is
// killed breaks the connection.
func TestFailures(t *testing.T) {
	for name, tc := range map[string]struct {
		lines  string
		status int
		body   string
		broken bool
	}{
		"nothing said":       {"echo bad object >&2; exit 128", 500, unreadable + "\n", false},
		"killed at once":     {"kill -9 $$", 500, unreadable + "\n", false},
		"gave up":            {"printf 'ERR no'; exit 128", 200, "ERR no", false},
		"killed in between":  {"printf begun; kill -9 $$", 0, "", true},
		"nothing, and well":  {"exit 0", 200, "", false},
		"more than a buffer": {"head -c 1000000 /dev/zero; exit 128", 200, strings.Repeat("\x00", 1_000_000), false},
	} {
		t.Run(name, func(t *testing.T) {
			path, _ := script(t, tc.lines)
			s := serve(t, path, Options{})
			a := do(s.request(t, UploadPack, "", strings.NewReader("0000")))
			if (a.err != nil) != tc.broken || !tc.broken && (a.status != tc.status || a.body != tc.body) {
				t.Errorf("%d %.100q %v", a.status, a.body, a.err)
			}
			<-s.ended
			if strings.HasSuffix(tc.lines, "exit 0") != (len(s.failed) == 0) {
				t.Errorf("%d failures were told", len(s.failed))
			}
		})
	}
	path, _ := script(t, "exit 0")
	s := serve(t, path, Options{})
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if a := do(s.list(t, UploadPack)); a.status != 500 {
		t.Errorf("without git: %d %q", a.status, a.body)
	}
	if err := <-s.failed; !errors.Is(err, os.ErrNotExist) {
		t.Errorf("told: %v", err)
	}
}

// TestTimeLimit: a process ends with its time.
func TestTimeLimit(t *testing.T) {
	path, dir := script(t, "sleep 1000 & echo $! > $D/started; wait", "started")
	s := serve(t, path, Options{TimeLimit: 50 * time.Millisecond})
	result := make(chan answered, 1)
	go func() { result <- do(s.request(t, UploadPack, "", strings.NewReader("0000"))) }()
	pid := hear(t, dir, "started")
	if a := <-result; a.status != 500 || a.err != nil {
		t.Errorf("%d %q %v", a.status, a.body, a.err)
	}
	until(t, "the process ended", func() bool { return gone(pid) })
	var ge *GitError
	if err := <-s.failed; !errors.As(err, &ge) {
		t.Errorf("told: %v", err)
	}
}

// TestPushOutlivesClient: git-receive-pack is neither killed nor cut off when the client goes, and is asked to end, not
// killed, when its time is up.
func TestPushOutlivesClient(t *testing.T) {
	path, dir := script(t, "echo > $D/started; read x < $D/go; printf more; printf more; echo finished > $D/done", "started", "go", "done")
	s := serve(t, path, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan answered, 1)
	go func() { result <- do(s.request(t, ReceivePack, "", strings.NewReader("0000")).WithContext(ctx)) }()
	hear(t, dir, "started")
	cancel()
	if a := <-result; !errors.Is(a.err, context.Canceled) {
		t.Errorf("the client got %v", a)
	}
	tell(t, dir, "go")
	if got := hear(t, dir, "done"); got != "finished" {
		t.Errorf("git %q", got)
	}
	<-s.ended

	path, dir = script(t, "trap 'echo asked > $D/done; exit 1' TERM; sleep 1000 & wait", "done")
	s = serve(t, path, Options{TimeLimit: 50 * time.Millisecond})
	go func() { result <- do(s.request(t, ReceivePack, "", strings.NewReader("0000"))) }()
	if got := hear(t, dir, "done"); got != "asked" {
		t.Errorf("git %q", got)
	}
	if a := <-result; a.status != 500 {
		t.Errorf("the client got %v", a)
	}
}

// TestQueue: as many run as may, the next one waits, and only when the queue is full a client is sent away. Listings do
// not wait behind packs.
func TestQueue(t *testing.T) {
	path, dir := script(t, `case "$*" in *advertise*) echo listed; exit;; esac; echo > $D/started; read x < $D/go; printf done`, "started", "go")
	packs := traffic.NewQueue(traffic.QueueOptions{Slots: 1, MaxWaiting: 1})
	s := serve(t, path, Options{Packs: packs})
	results := make(chan answered, 2)
	ask := func(client string) {
		req := s.request(t, UploadPack, client, strings.NewReader("0000"))
		go func() { results <- do(req) }()
	}
	ask("a")
	hear(t, dir, "started")
	ask("b")
	until(t, "one waits", func() bool { return packs.Stats().Waiting == 1 })
	if a := do(s.request(t, UploadPack, "c", strings.NewReader("0000"))); a.status != 503 || a.header.Get("Retry-After") == "" ||
		a.header.Get("Content-Type") != "text/plain; charset=utf-8" {
		t.Errorf("the third: %v", a)
	}
	if a := do(s.list(t, UploadPack)); a.status != 200 || a.body != ServiceLine(UploadPack)+"listed\n" {
		t.Errorf("a listing meanwhile: %v", a)
	}
	for i := range 2 {
		if i > 0 {
			hear(t, dir, "started")
		}
		tell(t, dir, "go")
		if a := <-results; a.status != 200 || a.body != "done" {
			t.Errorf("got %v", a)
		}
	}
	until(t, "nothing runs", func() bool { return packs.Stats().Running == 0 })
}

// TestCapture keeps a listing, within its limit.
func TestCapture(t *testing.T) {
	path, _ := script(t, "printf %s $GIT_PROTOCOL; printf 123")
	s := serve(t, path, Options{})
	req := s.list(t, UploadPack)
	q := Request{Service: UploadPack, Dir: s.dir}
	if data, err := s.Capture(req, q, "version=1", 12); err != nil || string(data) != "version=1123" {
		t.Errorf("%q, %v", data, err)
	}
	var large *LargeError
	if data, err := s.Capture(req, q, "version=1", 11); !errors.As(err, &large) || large.Limit != 11 || data != nil {
		t.Errorf("%q, %v", data, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Capture(req.WithContext(ctx), q, "", 100); !errors.Is(err, context.Canceled) {
		t.Errorf("of a client that went: %v", err)
	}
	path, _ = script(t, "echo no such object >&2; exit 1")
	var ge *GitError
	if _, err := serve(t, path, Options{}).Capture(req, q, "", 100); !errors.As(err, &ge) || ge.Stderr != "no such object" {
		t.Errorf("got %v", err)
	}
}
