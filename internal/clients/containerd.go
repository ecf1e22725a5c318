package clients

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Containerd is a containerd daemon of its own, with a hosts.toml for each upstream that names only the relay.
type Containerd struct {
	dir string
	cmd *exec.Cmd
	log *os.File
}

// ContainerdMissing says what keeps a containerd from being started here, or nothing.
func ContainerdMissing() string {
	for _, bin := range []string{"containerd", "ctr"} {
		if _, err := exec.LookPath(bin); err != nil {
			return bin + " is not installed (Debian: apt-get install containerd)"
		}
	}
	if os.Geteuid() != 0 {
		return "containerd needs root"
	}
	return ""
}

// StartContainerd starts a containerd below dir that finds its registries in certs.d there.
func (r *Relay) StartContainerd(ctx context.Context, dir string) (*Containerd, error) {
	config := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\n  address = %q\n",
		filepath.Join(dir, "root"), filepath.Join(dir, "state"), filepath.Join(dir, "c.sock"))
	configFile := filepath.Join(dir, "config.toml")
	if err := os.WriteFile(configFile, []byte(config), 0o644); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "containerd.log"))
	if err != nil {
		return nil, err
	}
	c := &Containerd{dir: dir, log: log, cmd: exec.Command("containerd", "--config", configFile)}
	c.cmd.Stdout, c.cmd.Stderr = log, log
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		if _, err := c.Ctr(ctx, "version"); err == nil {
			return c, nil
		}
		select {
		case <-ctx.Done():
			c.Close()
			return nil, fmt.Errorf("containerd does not answer; its log is %s: %w", log.Name(), ctx.Err())
		case <-ticker.C:
		}
	}
}

// Ctr runs the ctr command.
func (c *Containerd) Ctr(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "ctr", append([]string{"--address", filepath.Join(c.dir, "c.sock")}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("ctr %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// Pull pulls an image under its public name, such as ghcr.io/acme/robot-app:v1.5.4, and gives the digest that
// containerd recorded.
func (c *Containerd) Pull(ctx context.Context, image string) (string, error) {
	if _, err := c.Ctr(ctx, "images", "pull", "--snapshotter", "native", "--hosts-dir", filepath.Join(c.dir, "certs.d"),
		"--platform", "linux/amd64", image); err != nil {
		return "", err
	}
	out, err := c.Ctr(ctx, "images", "ls", "name=="+image)
	if err != nil {
		return "", err
	}
	for _, field := range strings.Fields(out) {
		if strings.HasPrefix(field, "sha256:") {
			return field, nil
		}
	}
	return "", fmt.Errorf("ctr images ls: no digest in %q", out)
}

// Run runs the program of an image that was pulled, in a container of its own, until it ends or ctx does, and gives what
// it printed. Env are NAME=value.
func (c *Containerd) Run(ctx context.Context, image, id string, env ...string) (string, error) {
	args := []string{"run", "--rm", "--snapshotter", "native", "--platform", "linux/amd64", "--net-host"}
	for _, e := range env {
		args = append(args, "--env", e)
	}
	return c.Ctr(ctx, append(args, image, id)...)
}

// Close stops the daemon.
func (c *Containerd) Close() {
	// It may have ended by itself; then both calls say so, and that is what was wanted.
	c.cmd.Process.Signal(syscall.SIGTERM) //nolint:errcheck
	c.cmd.Wait()                          //nolint:errcheck
	c.log.Close()                         //nolint:errcheck
}
