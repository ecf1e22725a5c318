package generate_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/sbom"
	"github.com/plimsoll/plimsoll/sbom/generate"
)

// tarOf packs a folder, with a path prefix as some tools write it.
func tarOf(t *testing.T, dir, prefix string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "layout.tar")
	f, err := os.Create(name)
	must(t, err)
	tw := tar.NewWriter(f)
	for _, path := range files(t, dir) {
		info, err := os.Stat(path)
		must(t, err)
		if info.IsDir() {
			continue
		}
		rel, err := filepath.Rel(dir, path)
		must(t, err)
		data, err := os.ReadFile(path)
		must(t, err)
		must(t, tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: prefix + rel, Mode: 0o644, Size: int64(len(data))}))
		_, err = tw.Write(data)
		must(t, err)
	}
	must(t, tw.Flush()) // no end of the archive: the bundle is still being written
	must(t, f.Close())
	return name
}

func TestExecutable(t *testing.T) {
	dir := t.TempDir()
	desc := robotImage(t, dir)
	want, err := inProcess(t, dir, desc, generate.Options{TempDir: scratch(t)})
	must(t, err)
	for name, source := range map[string]string{
		"folder": dir, "unfinished tar": tarOf(t, dir, ""), "tar with ./": tarOf(t, dir, "./"),
	} {
		t.Run(name, func(t *testing.T) {
			temp := scratch(t)
			g := sbom.Generator{Path: executable, TempDir: temp}
			got, err := g.Generate(t.Context(), source, desc, subjectOf(desc))
			must(t, err)
			if !bytes.Equal(got, want) {
				t.Errorf("another document than in process:\n%s\n%s", got, want)
			}
		})
	}
}

func TestExecutableRefuses(t *testing.T) {
	dir := t.TempDir()
	desc := layout(t, dir, gzipLayer(t, entry{name: "../escaped", body: "x"}))
	temp := scratch(t)
	g := sbom.Generator{Path: executable, TempDir: temp}
	_, err := g.Generate(t.Context(), dir, desc, subjectOf(desc))
	var failure *sbom.GeneratorError
	if !errors.As(err, &failure) || failure.ExitCode != 1 || !strings.Contains(failure.Stderr, generate.ErrOutside.Error()) {
		t.Errorf("error %#v", err)
	}
	if strings.Contains(fmt.Sprint(err), temp) {
		t.Errorf("the error names the scratch folder: %v", err)
	}
	_, err = g.Generate(t.Context(), filepath.Join(dir, "nowhere"), desc, subjectOf(desc))
	if !errors.As(err, &failure) || failure.ExitCode != 1 {
		t.Errorf("no source: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = g.Generate(ctx, dir, desc, subjectOf(desc)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestExecutableDiesOfTooMuchMemory(t *testing.T) {
	dir := t.TempDir()
	desc := robotImage(t, dir)
	out, code := execute(t, dir, desc, "--max-memory=33554432")
	if code == 0 {
		t.Errorf("exit code 0 with 32 MiB: %.200s", out)
	}
}

func TestExecutableExitCodes(t *testing.T) {
	dir := t.TempDir()
	desc := robotImage(t, dir)
	for _, test := range []struct {
		flag string
		code int
		says string
	}{
		{"--version", 0, generate.Tool},
		{"--help", 0, "helper of 'plimsoll build'"},
		{"--nonsense", 2, "not defined"},
		{"extra", 2, "unexpected argument"},
		{"--source=", 2, "--source"},
		{"--created=yesterday", 2, "--created"},
		{"--digest=sha256:12", 2, "digest"},
		{"--size=-1", 2, "--size"},
		{"--repository=ghcr.io/NOT OK", 2, "repository"},
		{"--platform=a;b", 2, "platform"},
		{"--media-type=application/vnd.oci.image.index.v1+json", 1, "not an image manifest"},
		{"--size=3", 1, "damaged"},
		{"--digest=sha256:" + strings.Repeat("0", 64), 1, "missing"},
	} {
		out, code := execute(t, dir, desc, test.flag)
		if code != test.code || !strings.Contains(out, test.says) {
			t.Errorf("%s: exit code %d, want %d with %q: %.400s", test.flag, code, test.code, test.says, out)
		}
	}
}

// execute runs plimsoll-sbom with good flags and one more, which wins.
func execute(t *testing.T, dir string, desc ocispec.Descriptor, last string) (string, int) {
	t.Helper()
	cmd := exec.Command(executable, "--source="+dir, "--digest="+desc.Digest.String(), fmt.Sprint("--size=", desc.Size),
		"--repository=ghcr.io/acme/robot-app", "--created=2026-03-01T12:00:00Z", "--temp-dir="+t.TempDir(), last)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}
