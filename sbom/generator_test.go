//go:build unix

package sbom_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/sbom"
)

// script is an executable that stands for plimsoll-sbom where it must misbehave; the real one is tested with package
// generate.
func script(t *testing.T, body string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "plimsoll-sbom")
	if err := os.WriteFile(name, []byte("#!/bin/sh\n"+body+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return name
}

func generate(t *testing.T, ctx context.Context, g sbom.Generator) ([]byte, error) {
	t.Helper()
	g.TempDir = t.TempDir()
	s := subject("manifest")
	data, err := g.Generate(ctx, "some/bundle", ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: s.Digest, Size: 7}, s)
	if left, _ := os.ReadDir(g.TempDir); len(left) > 0 {
		t.Errorf("left in the scratch folder: %v", left)
	}
	return data, err
}

func minimal(namespace string) string {
	return fmt.Sprintf(`{"spdxVersion":"SPDX-2.3","documentNamespace":%q}`, namespace)
}

func TestGeneratorPassesOnlyItsArguments(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://proxy.invalid")
	out := filepath.Join(t.TempDir(), "seen")
	path := script(t, `{ printf '%s\n' "$@"; export -p; touch "$TMPDIR/left-behind"; } > `+out+"\nprintf '%s' '"+minimal(subject("manifest").Namespace())+"'")
	data, err := generate(t, t.Context(), sbom.Generator{Path: path})
	if err != nil || string(data) != minimal(subject("manifest").Namespace()) {
		t.Fatalf("%s, %v", data, err)
	}
	seen, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	here, err := filepath.Abs("some/bundle")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"--source=" + here + "\n", "--digest=" + subject("manifest").Digest.String() + "\n", "--size=7\n",
		"--media-type=application/vnd.oci.image.manifest.v1+json\n", "--repository=ghcr.io/acme/robot-app\n", "--platform=linux/arm64\n",
		"--created=2026-03-01T12:00:00Z\n", "--creator=plimsoll-devel\n", "--temp-dir="} {
		if !strings.Contains(string(seen), want) {
			t.Errorf("no %q in %s", want, seen)
		}
	}
	if strings.Contains(string(seen), "PROXY") {
		t.Errorf("the environment was passed on: %s", seen)
	}
}

func TestGeneratorErrors(t *testing.T) {
	for name, test := range map[string]struct {
		path string
		code int
		says string
	}{
		"exit code":         {script(t, `echo 'the layer is bad' >&2; exit 1`), 1, "the layer is bad"},
		"terminal controls": {script(t, `printf 'a\033[31mred\n\001' >&2; exit 3`), 3, "a [31mred"},
		"long stderr":       {script(t, `i=0; while [ $i -lt 3000 ]; do echo "line $i" >&2; i=$((i+1)); done; exit 1`), 1, "line 2999"},
		"killed":            {script(t, `kill -9 $$`), -1, "signal: killed"},
		"no document":       {script(t, `true`), 0, "SPDX document"},
		"other namespace":   {script(t, `echo '`+minimal("https://plimsoll.dev/spdx/other")+`'`), 0, "documentNamespace"},
		"not executable":    {filepath.Join(t.TempDir(), "nowhere"), -1, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := generate(t, t.Context(), sbom.Generator{Path: test.path})
			var failure *sbom.GeneratorError
			if !errors.As(err, &failure) {
				t.Fatalf("error %v", err)
			}
			if failure.ExitCode != test.code || !strings.Contains(err.Error(), test.says) || len(failure.Stderr) > 8<<10 {
				t.Errorf("exit code %d, want %d; %v", failure.ExitCode, test.code, err)
			}
			if strings.ContainsAny(err.Error(), "\x1b\x01") {
				t.Errorf("control characters in %q", err)
			}
		})
	}
}

func TestGeneratorKillsTheWholeGroup(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "pid")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	path := script(t, `sleep 600 & echo $! > `+fifo+`; wait`)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	child := make(chan int, 1)
	go func() {
		data, _ := os.ReadFile(fifo) // until the script has written the process id of its child
		pid, _ := strconv.Atoi(strings.TrimSpace(string(data)))
		child <- pid
		cancel()
	}()
	_, err := generate(t, ctx, sbom.Generator{Path: path})
	var failure *sbom.GeneratorError
	if !errors.As(err, &failure) || !errors.Is(err, context.Canceled) || failure.ExitCode != -1 {
		t.Errorf("error %v", err)
	}
	// Nobody may be left to wait for the child in a container, so a zombie counts as dead.
	pid := <-child
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err == nil && !strings.Contains(string(stat), ") Z") {
		t.Errorf("process %d lives: %s", pid, stat)
	}
}

func TestGeneratorTimesOut(t *testing.T) {
	_, err := generate(t, t.Context(), sbom.Generator{Path: script(t, `sleep 600`), Timeout: 50 * time.Millisecond})
	var failure *sbom.GeneratorError
	if !errors.As(err, &failure) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}

func TestGeneratorRefusesAnotherSubject(t *testing.T) {
	other := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: subject("other").Digest, Size: 7}
	if _, err := (sbom.Generator{Path: "true"}).Generate(t.Context(), ".", other, subject("manifest")); err == nil {
		t.Error("no error")
	}
}
