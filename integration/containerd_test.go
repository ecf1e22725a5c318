package integration

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/plimsoll/plimsoll/internal/clients"
)

// startContainerd runs a containerd that proves itself to the relay with a robot's certificate.
func (s *site) startContainerd(ctx context.Context, name string) *clients.Containerd {
	s.t.Helper()
	if reason := clients.ContainerdMissing(); reason != "" {
		s.t.Skip(reason)
	}
	dir, err := os.MkdirTemp("", "ctrd") // Unix socket paths are short
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { os.RemoveAll(dir) }) //nolint:errcheck // scratch
	s.must("robot-config", "--address", s.relay.Addr, "-o", dir, "--robot", name, "--ca-path", filepath.Join(dir, "ca.crt"),
		"--client-cert-path", filepath.Join(dir, "client.crt"), "--client-key-path", filepath.Join(dir, "client.key"))
	c, err := s.relay.StartContainerd(ctx, dir)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(c.Close)
	return c
}

// CLIENTS 1, 3, 7, 10 and 11: containerd with the hosts.toml that we write pulls over mutual TLS, an image that no
// release has fails at once and blames the relay, the program runs, and it runs again while the relay is down.
func TestClients10And11ContainerdPullsAndRuns(t *testing.T) {
	s := newSite(t)
	s.must("robot", "add", "agv-7", "--no-password")
	s.must("import", s.bundle("v1.5.4"))
	s.start()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c := s.startContainerd(ctx, "agv-7")
	_, want, err := s.relay.PullImage(ctx, app+":v1.5.4", linux("amd64"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.Pull(ctx, app+":v1.5.4"); err != nil || got != want {
		t.Fatalf("containerd has %s, want %s (%v)", got, want, err)
	}
	if _, err := c.Pull(ctx, app+":v9.9.9"); err == nil || !strings.Contains(err.Error(), "not found") {
		t.Errorf("an image that no release has: %v", err)
	}
	if pulls := s.must("pulls", "--robot", "agv-7", "--json"); !strings.Contains(pulls, want) {
		s.kill(syscall.SIGTERM) // what was not written yet is written at the end
		if pulls = s.must("pulls", "--robot", "agv-7", "--json"); !strings.Contains(pulls, want) {
			t.Errorf("the pull of %s is not agv-7's in\n%s", want, pulls)
		}
	}
	s.kill(syscall.SIGTERM)
	// The program refuses this setting, and so ends by itself. The relay is gone: nothing is asked of it.
	out, err := c.Run(ctx, app+":v1.5.4", "once", "CAMERA_OFFSET=twelve")
	if reason := noContainers(err); reason != "" {
		t.Skip(reason)
	}
	if !strings.Contains(out, "want millimetres") {
		t.Errorf("the container said %q (%v)", out, err)
	}
}

// noContainers says why this machine cannot run containers, or nothing.
func noContainers(err error) string {
	for _, sign := range []string{"operation not permitted", "cgroup", "executable file not found", "mount"} {
		if err != nil && strings.Contains(err.Error(), sign) {
			return "this machine runs no containers: " + err.Error()
		}
	}
	return ""
}

// CLIENTS 7: a robot whose account is removed is shut out, certificate and all, without a restart.
func TestClients07RemovedRobotIsShutOut(t *testing.T) {
	s := newSite(t)
	s.must("robot", "add", "agv-8", "--no-password")
	s.must("import", s.bundle("v1.5.4"))
	s.start()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	dir := t.TempDir()
	s.must("robot", "cert", "agv-8", "-o", dir)
	git := func() error {
		_, err := s.relay.As("", "").Git(ctx, dir, "-c", "http.sslCert="+filepath.Join(dir, "client.crt"), "-c", "http.sslKey="+filepath.Join(dir, "client.key"),
			"ls-remote", "-q", repo)
		return err
	}
	if err := git(); err != nil {
		t.Fatalf("with its certificate: %v", err)
	}
	s.must("robot", "remove", "agv-8")
	waitFor(ctx, t, "the removed robot is still let in", func() bool { return git() != nil })
	s.must("robot", "add", "agv-8", "--no-password")
	waitFor(ctx, t, "another robot is let in", func() bool {
		_, err := s.relay.Git(ctx, dir, "ls-remote", "-q", repo)
		return err == nil
	})
	if err := git(); err == nil {
		t.Error("the certificate of the removed account is good for the new one of that name")
	}
}

// waitFor asks until something is so.
func waitFor(ctx context.Context, t *testing.T, what string, is func() bool) {
	t.Helper()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for !is() {
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, ctx.Err())
		case <-ticker.C:
		}
	}
}

// publicAddress is a place where a relay can have the port that public names have. Every address of 127.0.0.0/8 is this
// machine on Linux.
func publicAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.8.1:443")
	if err != nil {
		t.Skipf("port 443 is not to be had: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return "127.0.8.1:443"
}
