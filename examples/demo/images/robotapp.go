package images

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/plimsoll/plimsoll/examples"
)

var versionPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`) // goes into -ldflags, which splits at spaces

// RobotApp compiles examples/robot-app with the go command and makes an image of it: a base layer that is the same in
// each version and one layer with the program. goCommand is the go command; empty: the one in PATH.
func RobotApp(ctx context.Context, version, goCommand string) (v1.ImageIndex, error) {
	if !versionPattern.MatchString(version) {
		return nil, fmt.Errorf("build robot-app: version %q, want letters, digits, '.', '_' and '-'", version)
	}
	dir, err := os.MkdirTemp("", "robot-app-*")
	if err != nil {
		return nil, fmt.Errorf("build robot-app: %w", err)
	}
	defer os.RemoveAll(dir) //nolint:errcheck // scratch
	if err := writeModule(dir); err != nil {
		return nil, fmt.Errorf("build robot-app: %w", err)
	}
	base, err := layer(baseFiles())
	if err != nil {
		return nil, fmt.Errorf("build robot-app: base layer: %w", err)
	}
	idx, err := index(ctx, labels("robot-app", version), func(ctx context.Context, arch string) (v1.Image, error) {
		program, err := compile(ctx, cmp.Or(goCommand, "go"), dir, arch, version)
		if err != nil {
			return nil, err
		}
		app, err := layer([]file{{name: "usr/bin/robot-app", mode: 0o755, data: program}})
		if err != nil {
			return nil, err
		}
		config := v1.Config{
			User:         strconv.Itoa(user),
			Env:          []string{"PATH=/usr/bin", "SSL_CERT_DIR=/etc/ssl/certs"},
			Entrypoint:   []string{"/usr/bin/robot-app"},
			ExposedPorts: map[string]struct{}{"8080/tcp": {}},
			Labels:       labels("robot-app", version),
			WorkingDir:   "/",
		}
		return image(arch, config, part{base, "base of the robot images"}, part{app, "go build robot-app " + version})
	})
	if err != nil {
		return nil, fmt.Errorf("build robot-app %s: %w", version, err)
	}
	return idx, nil
}

// baseFiles do not change from version to version, so that an update carries the program only.
func baseFiles() []file {
	return []file{
		{name: "etc/passwd", mode: 0o644, data: fmt.Appendf(nil, "root:x:0:0:root:/:/sbin/nologin\nrobot:x:%d:%d:robot:/:/sbin/nologin\n", user, user)},
		{name: "etc/group", mode: 0o644, data: fmt.Appendf(nil, "root:x:0:\nrobot:x:%d:\n", user)},
		{name: "etc/nsswitch.conf", mode: 0o644, data: []byte("hosts: files dns\n")},
		{name: "etc/ssl/certs/", mode: 0o755}, // a site mounts its CA here
		{name: "tmp/", mode: 0o1777},
	}
}

// writeModule writes the program's source as a module of its own: the demo runs anywhere, not only in a checkout.
func writeModule(dir string) error {
	source, err := fs.ReadFile(examples.Files, "robot-app/main.go")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "main.go"), source, 0o600); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module acme.example/robot-app\n\ngo 1.26\n"), 0o600)
}

func compile(ctx context.Context, goCommand, dir, arch, version string) ([]byte, error) {
	program := filepath.Join(dir, "robot-app-"+arch)
	cmd := exec.CommandContext(ctx, goCommand, "build", "-trimpath", "-buildvcs=false",
		"-ldflags", "-s -w -buildid= -X main.version="+version, "-o", program, ".")
	cmd.Dir = dir
	// Settings of the developer's machine would show in the program, and with it in the digest.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOAMD64=v1", "GOARM64=v8.0",
		"GO111MODULE=on", "GOWORK=off", "GOFLAGS=", "GOEXPERIMENT=", "GOFIPS140=off", "GOTOOLCHAIN=local", "GOPROXY=off")
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("go build for linux/%s: %w\n%s", arch, err, output.Bytes())
	}
	return os.ReadFile(program)
}
