// Package gotool builds programs of other projects from their Go modules, once, for the heavy tests.
package gotool

import (
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
)

// Env names a folder with programs that were built before, for machines where modules cannot be had:
// $PLIMSOLL_TOOLS/<name>/<version>/<name>. What is missing there is built there.
const Env = "PLIMSOLL_TOOLS"

// Install gives the path of the program of a package, such as github.com/sigstore/cosign/v2/cmd/cosign@v2.6.5. It is
// built outside of this module, so that its own go.mod counts, and kept in the user's cache. That takes minutes.
func Install(pkg string) (string, error) {
	at, version, ok := strings.Cut(pkg, "@")
	if !ok {
		return "", fmt.Errorf("install %s: it has no version", pkg)
	}
	name := path.Base(at)
	cache := os.Getenv(Env)
	if cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("install %s: no cache folder, set %s: %w", pkg, Env, err)
		}
		cache = filepath.Join(dir, "plimsoll", "tools")
	}
	program := filepath.Join(cache, name, version, name)
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	if err := os.MkdirAll(filepath.Dir(program), 0o755); err != nil {
		return "", err
	}
	// Built beside its place and renamed, so that a run that is cut off leaves no half program behind.
	scratch, err := os.MkdirTemp(cache, "build-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(scratch) //nolint:errcheck // scratch
	cmd := exec.Command("go", "install", pkg)
	cmd.Dir = scratch
	cmd.Env = append(os.Environ(), "GOBIN="+scratch, "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go install %s: %w\n%s", pkg, err, out)
	}
	return program, os.Rename(filepath.Join(scratch, name), program)
}
