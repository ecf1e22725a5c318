package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/plimsoll/plimsoll/examples/demo/seed"
	"github.com/plimsoll/plimsoll/internal/clients"
	"github.com/plimsoll/plimsoll/internal/upstream"
)

const (
	app        = "ghcr.io/acme/robot-app"
	repository = "github.com/acme/robot-deployment"
)

func (d *demo) seedFirst(ctx context.Context) error {
	var err error
	if d.upstream, err = upstream.Start(ctx, d.path("upstream")); err != nil {
		return err
	}
	if err := d.seed(ctx, "v1.5.4"); err != nil {
		return err
	}
	d.say("registry  http://%s: acme/robot-app:v1.5.4, acme/camera-calibration:v2.1.0 (linux/amd64, linux/arm64)", d.upstream.Host())
	d.say("git       upstream-git/robot-deployment.git: branches main and canary, tag v1.5.4")
	return nil
}

func (d *demo) seed(ctx context.Context, version string) error {
	return seed.Seed(ctx, d.upstream.Host(), d.path("upstream-git"), version)
}

func (d *demo) buildFirst(ctx context.Context) error {
	if err := d.show(ctx, "plimsoll", "keys", "generate", "-o", d.path("keys")); err != nil {
		return err
	}
	if err := d.build(ctx, "bundle.yaml", "v1.5.4"); err != nil {
		return err
	}
	return d.show(ctx, "plimsoll", "inspect", d.path("v1.5.4"))
}

func (d *demo) build(ctx context.Context, file, version string) error {
	return d.show(ctx, "plimsoll", "build", "-f", filepath.Join("examples", "robot-stack", file), "-o", d.path(version),
		"--registry-mirror", "ghcr.io=http://"+d.upstream.Host(), "--sign", d.path("keys", "release.key"),
		"--attest", d.path("keys", "attest.key"), "--progress", "none")
}

func (d *demo) verifyAndTamper(ctx context.Context) error {
	release, attest := d.path("keys", "release.pub"), d.path("keys", "attest.pub")
	if err := d.show(ctx, "plimsoll", "verify", d.path("v1.5.4"), "--key", release, "--attestation-key", attest, "--progress", "none"); err != nil {
		return err
	}
	blob, err := d.largestLayer()
	if err != nil {
		return err
	}
	path := d.path("v1.5.4", "blobs", "sha256", blob)
	saved := d.path("saved-blob")
	if err := copyFile(path, saved); err != nil {
		return err
	}
	if err := flipByte(path); err != nil {
		return err
	}
	d.say("one flipped byte:")
	if err := d.refused(ctx, 6, "plimsoll", "verify", d.path("v1.5.4"), "--key", release); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil {
		return err
	}
	d.say("a missing blob:")
	if err := d.refused(ctx, 3, "plimsoll", "verify", d.path("v1.5.4"), "--key", release); err != nil {
		return err
	}
	if err := os.Rename(saved, path); err != nil {
		return err
	}
	d.say("another key (here the attestation key, whose signatures are in the bundle too):")
	return d.refused(ctx, 4, "plimsoll", "verify", d.path("v1.5.4"), "--key", attest)
}

// largestLayer finds the blob to damage.
func (d *demo) largestLayer() (string, error) {
	entries, err := os.ReadDir(d.path("v1.5.4", "blobs", "sha256"))
	if err != nil {
		return "", err
	}
	var name string
	var size int64
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return "", err
		}
		if info.Size() > size {
			name, size = e.Name(), info.Size()
		}
	}
	return name, nil
}

func flipByte(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	var b [1]byte
	_, err = f.ReadAt(b[:], 1000)
	if err == nil {
		b[0] ^= 1
		_, err = f.WriteAt(b[:], 1000)
	}
	return errors.Join(err, f.Close())
}

func (d *demo) artifact(version string) string {
	return "oci://" + d.upstream.Host() + "/releases/robot-stack:" + version
}

func (d *demo) carry(ctx context.Context) error {
	if err := d.show(ctx, "plimsoll", "copy", d.path("v1.5.4"), d.artifact("v1.5.4"), "--to-plain-http", "--progress", "none"); err != nil {
		return err
	}
	return d.show(ctx, "plimsoll", "copy", d.path("v1.5.4"), d.path("robot-stack-v1.5.4.tar"), "--progress", "none")
}

func (d *demo) importFirst(ctx context.Context) error {
	data := d.path("relay")
	if err := d.show(ctx, "plimsoll-relay", "trust", "add", d.path("keys", "release.pub"), "--data", data); err != nil {
		return err
	}
	if err := d.show(ctx, "plimsoll-relay", "import", d.artifact("v1.5.4"), "--plain-http", "--data", data, "--progress", "none"); err != nil {
		return err
	}
	if err := d.addRobot(ctx); err != nil {
		return err
	}
	if err := d.startRelay(ctx); err != nil {
		return err
	}
	d.say("$ plimsoll-relay serve")
	d.say("  https://%s, certificate by the site's own CA", d.relay.Addr)
	// From here on the upstream is gone: what clients get, they get from the relay.
	err := d.upstream.Close()
	d.upstream = nil
	d.say("the upstream registry is stopped")
	return err
}

func (d *demo) pullFirst(ctx context.Context) error {
	if err := d.pull(ctx, "v1.5.4", "1"); err != nil {
		return err
	}
	if reason := clients.ContainerdMissing(); reason != "" {
		d.say("containerd           left out: %s", reason)
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	dir := d.path("containerd")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := d.show(ctx, "plimsoll-relay", "robot-config", "--address", d.relay.Addr, "-o", dir, "--robot", robot,
		"--ca-path", filepath.Join(dir, "ca.crt"), "--client-cert-path", filepath.Join(dir, "client.crt"), "--client-key-path", filepath.Join(dir, "client.key"),
		"--data", d.path("relay")); err != nil {
		return err
	}
	c, err := d.relay.StartContainerd(ctx, dir)
	if err != nil {
		return err
	}
	defer c.Close()
	digest, err := c.Pull(ctx, app+":v1.5.4")
	if err != nil {
		return err
	}
	d.say("containerd           %s:v1.5.4 through hosts.toml, with the robot's certificate  %s", app, digest)
	return nil
}

// pull does what robots and their controllers do, and checks that images and Git are of one release.
func (d *demo) pull(ctx context.Context, version, generation string) error {
	if err := d.follow(ctx, generation); err != nil {
		return err
	}
	for _, arch := range []string{"amd64", "arm64"} {
		img, digest, err := d.relay.PullImage(ctx, app+":"+version, v1.Platform{OS: "linux", Architecture: arch})
		if err != nil {
			return err
		}
		config, err := img.ConfigFile()
		if err != nil {
			return err
		}
		d.digests[version] = digest
		d.say("go-containerregistry %s:%s linux/%s, every layer checked  %s", app, version, config.Architecture, digest)
	}
	desc, err := d.relay.OrasCopy(ctx, app, version)
	if err != nil {
		return err
	}
	referrers, err := d.relay.OrasReferrers(ctx, app, desc)
	if err != nil {
		return err
	}
	d.say("oras-go              %s:%s and %d referrers (signatures, SBOM)", app, version, len(referrers))
	chart, err := d.chartVersion(version)
	if err != nil {
		return err
	}
	got, archive, err := d.relay.HelmPull("ghcr.io/acme/charts/robot-app:" + chart)
	if err != nil {
		return err
	}
	d.say("Helm                 ghcr.io/acme/charts/robot-app %s, %d bytes", got, len(archive))
	return d.git(ctx, version)
}

func (d *demo) chartVersion(version string) (string, error) {
	out, err := os.ReadFile(filepath.Join("examples", "robot-deployment", "charts", "robot-app", "Chart.yaml"))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(out)) {
		if v, ok := strings.CutPrefix(line, "version:"); ok {
			return strings.Trim(strings.TrimSpace(v), `"`), nil
		}
	}
	return "", fmt.Errorf("chart of %s: Chart.yaml has no version", version)
}

func (d *demo) git(ctx context.Context, version string) error {
	dir, err := os.MkdirTemp(d.dir, "git-")
	if err != nil {
		return err
	}
	url := "$URL/git/" + repository
	if _, err := d.relay.Git(ctx, dir, "clone", "-q", url, "full"); err != nil {
		return err
	}
	head, err := d.relay.Git(ctx, filepath.Join(dir, "full"), "rev-parse", "HEAD")
	if err != nil {
		return err
	}
	tagged, err := d.relay.Git(ctx, filepath.Join(dir, "full"), "describe", "--tags", "--exact-match", "HEAD")
	if err != nil {
		return err
	}
	if tagged != version {
		return fmt.Errorf("git: main is at %s, want %s", tagged, version)
	}
	d.commits[version] = head
	refs, err := d.relay.Git(ctx, dir, "ls-remote", "-q", url)
	if err != nil {
		return err
	}
	if _, err := d.relay.Git(ctx, dir, "clone", "-q", "--depth", "1", "--branch", "canary", url, "shallow"); err != nil {
		return err
	}
	if _, err := d.relay.Git(ctx, dir, "init", "-q", "bysha"); err != nil {
		return err
	}
	if _, err := d.relay.Git(ctx, filepath.Join(dir, "bysha"), "fetch", "-q", "--depth", "1", url, head); err != nil {
		return err
	}
	d.say("git                  clone, ls-remote (%d refs), shallow, by SHA: main is %s (%s)", strings.Count(refs, "\n")+1, head[:12], tagged)
	return nil
}

func (d *demo) upgrade(ctx context.Context) error {
	var err error
	if d.upstream, err = upstream.Start(ctx, d.path("upstream")); err != nil {
		return err
	}
	if err := d.seed(ctx, "v1.5.5"); err != nil {
		return err
	}
	if err := d.build(ctx, "bundle-v1.5.5.yaml", "v1.5.5"); err != nil {
		return err
	}
	if err := d.show(ctx, "plimsoll", "copy", d.path("v1.5.5"), d.path("robot-stack-v1.5.5.tar"), "--progress", "none"); err != nil {
		return err
	}
	err = d.upstream.Close()
	d.upstream = nil
	if err != nil {
		return err
	}
	if err := d.show(ctx, "plimsoll-relay", "import", d.path("robot-stack-v1.5.5.tar"), "--data", d.path("relay"), "--progress", "none"); err != nil {
		return err
	}
	d.say("an older release is refused while a newer one was accepted:")
	if err := d.refused(ctx, 5, "plimsoll-relay", "import", d.path("robot-stack-v1.5.4.tar"), "--data", d.path("relay")); err != nil {
		return err
	}
	return d.pull(ctx, "v1.5.5", "2")
}

func (d *demo) rollback(ctx context.Context) error {
	if err := d.show(ctx, "plimsoll-relay", "rollback", "--data", d.path("relay")); err != nil {
		return err
	}
	if err := d.pull(ctx, "v1.5.4", "3"); err != nil {
		return err
	}
	// The tag of the newer release is gone, its bytes are not: a robot in the middle of a pull finishes it.
	if _, _, err := d.relay.PullImage(ctx, app+":v1.5.5", v1.Platform{OS: "linux", Architecture: "amd64"}); err == nil {
		return errors.New("after the roll-back the tag v1.5.5 is still served")
	}
	if _, _, err := d.relay.PullImage(ctx, app+"@"+d.digests["v1.5.5"], v1.Platform{OS: "linux", Architecture: "amd64"}); err != nil {
		return err
	}
	d.say("the tag v1.5.5 is gone; by digest it stays pullable for robots that are in the middle of a pull")
	if err := d.show(ctx, "plimsoll-relay", "status", "--data", d.path("relay")); err != nil {
		return err
	}
	return d.show(ctx, "plimsoll-relay", "pulls", "--robot", robot, "--limit", "5", "--data", d.path("relay"))
}
