//go:build bench

package integration

import (
	"archive/tar"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const layerSize = 1 << 30

// maxRSS is the bar: what build and import may hold with a 1 GiB layer.
const maxRSS = 64 << 20

// Build and import of an image with a layer of 1 GiB, as ratios to copying and hashing the same bytes in the same run.
func TestBenchLargeLayer(t *testing.T) {
	f := releases(t)
	dir := t.TempDir()
	pushLarge(t, f, dir)
	spec := filepath.Join(dir, "bundle.yaml")
	text := "apiVersion: plimsoll.dev/v1\nkind: Bundle\nmetadata: {name: large, version: v1, created: 2026-11-21T00:00:00Z}\nspec:\n  images: [\"ghcr.io/acme/large:v1\"]\n"
	if err := os.WriteFile(spec, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	floor := measureFloor(t, filepath.Join(dir, "layer.tar"))
	build := []string{"build", "-f", spec, "--registry-mirror", "ghcr.io=http://" + f.upstream, "--sign", f.path("keys", "release.key"), "--attest", f.path("keys", "attest.key")}
	out, packed, data := filepath.Join(dir, "out"), filepath.Join(dir, "out.tar"), filepath.Join(dir, "relay")
	artifact, second := "oci://"+f.upstream+"/releases/large:v1", filepath.Join(dir, "relay2")
	for _, d := range []string{data, second} {
		if _, err := f.run("plimsoll-relay", "trust", "add", f.path("keys", "release.pub"), "--data", d); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct {
		title   string
		bounded bool
		program string
		args    []string
	}{
		{"build to a folder, no SBOM", true, "plimsoll", append(build, "--no-sbom", "-o", out+"-plain")},
		{"build to a folder, with SBOM", false, "plimsoll", append(build, "-o", out)},
		{"build to a tar, no SBOM", true, "plimsoll", append(build, "--no-sbom", "-o", packed)},
		{"verify the folder", true, "plimsoll", []string{"verify", out, "--key", f.path("keys", "release.pub")}},
		{"import the folder", true, "plimsoll-relay", []string{"import", out, "--data", data}},
		{"copy to a registry", true, "plimsoll", []string{"copy", out, artifact, "--to-plain-http"}},
		{"import from the registry", true, "plimsoll-relay", []string{"import", artifact, "--plain-http", "--data", second}},
	} {
		start := time.Now()
		rss, cpu := timed(t, f, step.program, step.args...)
		wall := time.Since(start)
		t.Logf("%-30s %6.2f s wall, %5.2f CPU-s = %.2f x floor, %5.1f MiB RSS", step.title, wall.Seconds(), cpu.Seconds(),
			cpu.Seconds()/floor.Seconds(), float64(rss)/(1<<20))
		if step.bounded && rss > maxRSS {
			t.Errorf("%s: %d bytes resident, the bar is %d", step.title, rss, maxRSS)
		}
	}
}

// timed runs a program under /usr/bin/time, which is small: a child of this process would be charged for its memory
// too, until it executes the program.
func timed(t *testing.T, f *fixture, program string, args ...string) (rss int64, cpu time.Duration) {
	t.Helper()
	report := filepath.Join(t.TempDir(), "time")
	cmd := exec.Command("/usr/bin/time", append([]string{"-o", report, "-f", "%M %U %S", filepath.Join(f.bin, program)}, args...)...)
	cmd.Env = f.env
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v (needs /usr/bin/time, Debian: apt-get install time)\n%s", program, args, err, out)
	}
	data, err := os.ReadFile(report)
	if err != nil {
		t.Fatal(err)
	}
	var kib int64
	var user, system float64
	if _, err := fmt.Sscan(string(data), &kib, &user, &system); err != nil {
		t.Fatalf("%q: %v", data, err)
	}
	return kib << 10, time.Duration((user + system) * float64(time.Second))
}

func pushLarge(t *testing.T, f *fixture, dir string) {
	t.Helper()
	pushImage(t, f.upstream+"/acme/large:v1", randomLayer(t, filepath.Join(dir, "layer.tar"), 1, layerSize))
}

// randomLayer writes a tar with a file that cannot be compressed, so that the blob in the registry has the full size.
func randomLayer(t *testing.T, path string, seed byte, size int64) v1.Layer {
	t.Helper()
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	tw := tar.NewWriter(file)
	if err := tw.WriteHeader(&tar.Header{Name: "opt/model.bin", Mode: 0o644, Size: size}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(tw, rand.NewChaCha8([32]byte{seed}), size); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(tw.Close(), file.Close()); err != nil {
		t.Fatal(err)
	}
	layer, err := tarball.LayerFromFile(path, tarball.WithCompressionLevel(1), tarball.WithMediaType(types.OCILayer))
	if err != nil {
		t.Fatal(err)
	}
	return layer
}

func pushImage(t *testing.T, reference string, layers ...v1.Layer) {
	t.Helper()
	img, err := mutate.AppendLayers(mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1), layers...)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config.OS, config.Architecture = "linux", "amd64"
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(reference)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
}

// measureFloor is the CPU time of copying the bytes once and hashing them once. The copies stay until the end, as a build's
// output does.
func measureFloor(t *testing.T, paths ...string) time.Duration {
	t.Helper()
	before := cpuTime()
	total := copyAndHash(t, paths)
	floor := cpuTime() - before
	t.Logf("floor: copy and SHA-256 of %d bytes: %.2f CPU-s", total, floor.Seconds())
	return floor
}

func copyAndHash(t *testing.T, paths []string) (total int64) {
	t.Helper()
	buffer := make([]byte, 1<<20)
	for _, path := range paths {
		in, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		out, err := os.Create(path + ".copy")
		if err != nil {
			t.Fatal(err)
		}
		defer os.Remove(out.Name()) //nolint:errcheck // scratch
		n, err := io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(out, sha256.New())}, struct{ io.Reader }{in}, buffer)
		if err := errors.Join(err, out.Sync(), out.Close(), in.Close()); err != nil {
			t.Fatal(err)
		}
		total += n
	}
	return total
}

func cpuTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
