//go:build e2e

package integration

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The containerd that runs verifiers is 2.0 or newer; that of Debian 12 is not. Built once, see gotool.Install.
const (
	containerd2 = "github.com/containerd/containerd/v2/cmd/containerd@v2.2.9"
	ctr2        = "github.com/containerd/containerd/v2/cmd/ctr@v2.2.9"
)

// verifyingContainerd has our verifier in its bin_dir. Its root and state folders, its socket and its registries are below
// one folder.
const verifyingContainerd = `version = 3
root = %[1]q
state = %[2]q
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.internal.v1.opt"]
[grpc]
  address = %[3]q
[plugins."io.containerd.image-verifier.v1.bindir"]
  bin_dir = %[4]q
  max_verifiers = 10
  per_verifier_timeout = "10s"
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
  platform = "linux/amd64"
  snapshotter = "native"
  differ = "walking"
`

// CLIENTS 12: a real containerd asks the verifier before it pulls.
func TestRealContainerdAsksTheVerifier(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("containerd needs root")
	}
	daemon, ctr := install(t, containerd2), install(t, ctr2)
	s := newSite(t)
	s.must("robot", "add", "agv-9", "--no-password")
	s.must("import", s.bundle("v1.5.4"))
	s.start()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	v := s.newImageVerifier()

	dir, err := os.MkdirTemp("", "ctrd") // Unix socket paths are short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) }) //nolint:errcheck // scratch
	at := func(name string) string { return filepath.Join(dir, name) }
	s.must("robot-config", "--address", s.relay.Addr, "-o", dir, "--robot", "agv-9", "--ca-path", at("ca.crt"),
		"--client-cert-path", at("client.crt"), "--client-key-path", at("client.key"))
	config := fmt.Sprintf(verifyingContainerd, at("root"), at("state"), at("c.sock"), v.path("bin"))
	if err := os.WriteFile(at("config.toml"), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	var log logBuffer
	server := exec.Command(daemon, "--config", at("config.toml"))
	server.Stdout, server.Stderr = &log, &log
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		server.Process.Signal(syscall.SIGTERM) //nolint:errcheck // it may have ended by itself
		server.Wait()                          //nolint:errcheck // likewise
		if t.Failed() {
			t.Logf("containerd says\n%s", log.String())
		}
	})
	run := func(args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, ctr, append([]string{"--address", at("c.sock")}, args...)...)
		var warnings bytes.Buffer // of this machine's old cgroups, too
		cmd.Stderr = &warnings
		out, err := cmd.Output()
		if err != nil {
			err = fmt.Errorf("ctr %s: %w: %s%s", strings.Join(args, " "), err, out, warnings.Bytes())
		}
		return string(out), err
	}
	waitFor(ctx, t, "containerd does not answer", func() bool { _, err := run("version"); return err == nil })
	pull := func(image string) error {
		_, err := run("images", "pull", "--snapshotter", "native", "--hosts-dir", at("certs.d"), "--platform", "linux/amd64", image)
		return err
	}
	pulls := func(image string) {
		t.Helper()
		if err := pull(image); err != nil {
			t.Error(err)
		}
		if out, err := run("images", "ls", "-q", "name=="+image); err != nil || strings.TrimSpace(out) != image {
			t.Errorf("containerd has %q (%v)", out, err)
		}
	}
	refused := func(image, reason string) {
		t.Helper()
		// containerd says which verifier refused, and what we said.
		if err := pull(image); err == nil || !strings.Contains(err.Error(), "blocked pull") || !strings.Contains(err.Error(), "plimsoll: refused: ") ||
			!strings.Contains(err.Error(), reason) {
			t.Errorf("%s: %v, want %q", image, err, reason)
		}
	}

	refused(app+":v1.5.4", "no such file")
	one := v.give()
	pulls(app + ":v1.5.4")

	// The relay serves the next release, of which the robot's list knows nothing.
	s.must("import", s.bundle("v1.5.5"))
	s.follow(2)
	refused(app+":v1.5.5", "no release at this site has "+app)
	if out, err := run("images", "ls", "-q", "name=="+app+":v1.5.5"); err != nil || strings.TrimSpace(out) != "" {
		t.Errorf("containerd has %q (%v)", out, err)
	}
	two := v.give()
	pulls(app + ":v1.5.5")

	v.put(one)
	refused(app+":v1.5.5", "generation 1 is older than generation 2")
	v.put(bytes.Replace(two, []byte(`"sig":"`), []byte(`"sig":"A`), 1))
	refused(app+":v1.5.5", "allow-list")
	v.put(two)
	pulls(app + ":v1.5.5")
}
