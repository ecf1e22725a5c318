package integration

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/plimsoll/plimsoll/examples/demo/seed"
	"github.com/plimsoll/plimsoll/internal/clients"
	"github.com/plimsoll/plimsoll/internal/upstream"
)

// fixture is what all tests share: the programs, keys, and the two releases of the example as folders.
type fixture struct {
	dir      string
	bin      string
	env      []string
	upstream string // host:port of the registry with the images
}

func (f *fixture) path(parts ...string) string {
	return filepath.Join(append([]string{f.dir}, parts...)...)
}

func (f *fixture) bundle(version string) string { return f.path("bundles", version) }

var shared struct {
	sync.Once
	fixture
	err error
}

// TestMain removes what the tests share.
func TestMain(m *testing.M) {
	code := m.Run()
	if shared.dir != "" {
		os.RemoveAll(shared.dir) //nolint:errcheck // scratch
	}
	os.Exit(code)
}

// releases builds the programs and both releases, once for all tests.
func releases(t *testing.T) *fixture {
	t.Helper()
	shared.Do(func() { shared.err = shared.build() })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return &shared.fixture
}

func (f *fixture) build() error {
	var err error
	if f.dir, err = os.MkdirTemp("", "plimsoll-integration-*"); err != nil {
		return err
	}
	f.bin = f.path("bin")
	build := exec.Command("go", "build", "-ldflags", "-s -w -X main.version=test", "-o", f.bin+"/", "./cmd/...")
	build.Dir = ".."
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	f.env = append(os.Environ(), "PATH="+f.bin+":"+os.Getenv("PATH"), "PLIMSOLL_KEY_PASSWORD=test", "HOME="+f.dir,
		"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=url."+f.path("git")+"/.insteadOf", "GIT_CONFIG_VALUE_0=https://github.com/acme/")
	// The registry lives as long as the test process.
	registry, err := upstream.Start(context.Background(), f.path("upstream"))
	if err != nil {
		return err
	}
	f.upstream = registry.Host()
	if _, err := f.run("plimsoll", "keys", "generate", "-o", f.path("keys")); err != nil {
		return err
	}
	for version, spec := range map[string]string{"v1.5.4": "bundle.yaml"} {
		if err := f.buildRelease(version, spec); err != nil {
			return err
		}
	}
	return f.buildRelease("v1.5.5", "bundle-v1.5.5.yaml")
}

func (f *fixture) buildRelease(version, spec string) error {
	if err := seed.Seed(context.Background(), f.upstream, f.path("git"), version); err != nil {
		return err
	}
	_, err := f.run("plimsoll", "build", "-f", filepath.Join("..", "examples", "robot-stack", spec), "-o", f.bundle(version),
		"--registry-mirror", "ghcr.io=http://"+f.upstream, "--sign", f.path("keys", "release.key"), "--attest", f.path("keys", "attest.key"))
	return err
}

// run runs one of the programs and gives what it printed.
func (f *fixture) run(name string, args ...string) (string, error) {
	return f.command(name, args...).output()
}

// git runs git without the settings of the machine.
func (f *fixture) git(t testing.TB, stdin string, args ...string) string {
	t.Helper()
	cmd := f.gitCommand(args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func (f *fixture) gitCommand(args ...string) *exec.Cmd {
	cmd := exec.Command("git", args...)
	cmd.Env = append(os.Environ(), "HOME="+f.dir, "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_TERMINAL_PROMPT=0")
	return cmd
}

type command struct{ *exec.Cmd }

func (f *fixture) command(name string, args ...string) command {
	cmd := exec.Command(filepath.Join(f.bin, name), args...)
	cmd.Env = f.env
	return command{cmd}
}

func (c command) output() (string, error) {
	out, err := c.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s: %w\n%s", strings.Join(c.Args, " "), err, out)
	}
	return string(out), nil
}

// site is a relay's data folder with a serving process.
type site struct {
	*fixture
	t     *testing.T
	data  string
	serve *exec.Cmd
	log   logBuffer
	relay *clients.Relay

	password string // of the account of robot
}

// robot is the account by which the clients of a site pull.
const robot = "robot-1"

// logBuffer is what the relay says, read while it speaks.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// newSite makes a data folder that trusts the release key.
func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{fixture: releases(t), t: t, data: t.TempDir()}
	s.must("trust", "add", s.path("keys", "release.pub"))
	s.password = s.secret("robot", "add", robot)
	return s
}

// must runs plimsoll-relay on the site's data folder.
func (s *site) must(args ...string) string {
	s.t.Helper()
	out, err := s.run("plimsoll-relay", append(args, "--data", s.data)...)
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

// secret runs plimsoll-relay on the site's data folder and gives what it printed on the standard output alone.
func (s *site) secret(args ...string) string {
	s.t.Helper()
	out, err := s.command("plimsoll-relay", append(args, "--data", s.data)...).Output()
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// start runs plimsoll-relay serve.
func (s *site) start(args ...string) {
	s.t.Helper()
	cmd := s.command("plimsoll-relay", append([]string{"serve", "--data", s.data, "--listen", "127.0.0.1:0", "--admin-listen", "", "--site", "test"}, args...)...)
	s.serve = cmd.Cmd
	s.serve.Stderr = &s.log
	stdout, err := s.serve.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.serve.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { s.kill(syscall.SIGKILL) })
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		s.kill(syscall.SIGKILL)
		s.t.Fatalf("serve: %v\n%s", err, s.log.String())
	}
	_, addr, _ := strings.Cut(strings.TrimSpace(line), "://")
	anybody, err := clients.New(addr, filepath.Join(s.data, "tls", "ca.crt"))
	if err != nil {
		s.t.Fatal(err)
	}
	s.relay = anybody.As(robot, s.password)
}

// kill ends the serving process with a signal and waits for it.
func (s *site) kill(signal syscall.Signal) {
	if s.serve == nil {
		return
	}
	s.serve.Process.Signal(signal) //nolint:errcheck // it may have ended
	s.serve.Wait()                 //nolint:errcheck // of the signal
	s.serve = nil
}

// follow waits until the relay serves a generation.
func (s *site) follow(generation int) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 30*time.Second)
	defer cancel()
	if err := s.relay.WaitGeneration(ctx, fmt.Sprint(generation)); err != nil {
		s.t.Fatalf("%v\n%s", err, s.log.String())
	}
}
