//go:build bench

package integration

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/plimsoll/plimsoll/examples/demo/seed"
)

// maxBuild is the bar: CPU time of building a release, as a multiple of copying and hashing its bytes once.
const maxBuild = 1.5

// Building 1.7 GB of images, with the completeness proof of a Git repository that names them, costs what copying and
// hashing the bytes costs. The scratch folder has 64 MiB: a second copy would not fit.
func TestBenchBuild(t *testing.T) {
	f := releases(t)
	dir := t.TempDir()
	const mb = 1_000_000
	seedOf := byte(10)
	var paths []string
	layer := func(size int64) v1.Layer {
		seedOf++
		path := filepath.Join(dir, fmt.Sprintf("layer-%d.tar", seedOf))
		paths = append(paths, path)
		return randomLayer(t, path, seedOf, size)
	}
	images := ""
	for i := range 4 {
		base, libraries := layer(120*mb), layer(150*mb)
		pushImage(t, fmt.Sprintf("%s/acme/robot-%d:v1", f.upstream, i), base, libraries, layer(60*mb))
		pushImage(t, fmt.Sprintf("%s/acme/robot-%d:v2", f.upstream, i), base, libraries, layer(100*mb))
		images += fmt.Sprintf("    - ghcr.io/acme/robot-%d:v1\n    - ghcr.io/acme/robot-%[1]d:v2\n", i)
	}
	if err := seed.Seed(t.Context(), f.upstream, f.path("git"), "v1.5.4"); err != nil {
		t.Fatal(err)
	}
	spec := filepath.Join(dir, "bundle.yaml")
	text := "apiVersion: plimsoll.dev/v1\nkind: Bundle\nmetadata: {name: corpus, version: v1, created: 2026-11-21T00:00:00Z}\nspec:\n" +
		"  images:\n" + images + "    - {ref: ghcr.io/acme/robot-app:v1.5.4, platforms: [linux/amd64]}\n" +
		"    - {ref: ghcr.io/acme/camera-calibration:v2.1.0, platforms: [linux/amd64]}\n" +
		"  git:\n    - url: https://github.com/acme/robot-deployment.git\n      refs: [v1.5.4]\n"
	if err := os.WriteFile(spec, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	scratch := filepath.Join(dir, "scratch")
	if err := os.Mkdir(scratch, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", scratch, "tmpfs", 0, "size=64m"); err != nil {
		t.Skipf("a small file system cannot be mounted: %v", err)
	}
	t.Cleanup(func() { syscall.Unmount(scratch, 0) }) //nolint:errcheck // it was mounted

	out := filepath.Join(dir, "out")
	var rss, size int64
	var floors, builds []time.Duration
	for range 5 {
		floors = append(floors, measureFloor(t, paths...))
		resident, cpu := timed(t, f, "plimsoll", "build", "-f", spec, "-o", out, "--registry-mirror", "ghcr.io=http://"+f.upstream, "--tmpdir", scratch,
			"--no-sbom", "--sign", f.path("keys", "release.key"), "--attest", f.path("keys", "attest.key"))
		rss, size = max(rss, resident), folderSize(t, out)
		builds = append(builds, cpu)
		t.Logf("build of %d bytes: %.2f CPU-s, %.1f MiB RSS", size, cpu.Seconds(), float64(resident)/(1<<20))
		if err := os.RemoveAll(out); err != nil {
			t.Fatal(err)
		}
	}
	// Both write files whose memory the host of a virtual machine has to give first, which can cost more than the copy
	// itself, and not each time the same. So they take turns, and their medians are compared.
	ratio := median(builds).Seconds() / median(floors).Seconds()
	t.Logf("ratio: %.2f x floor, proof and signatures included; medians of %d runs", ratio, len(builds))
	if ratio > maxBuild {
		t.Errorf("%.2f x floor, the bar is %.1f", ratio, maxBuild)
	}
	if rss > maxRSS {
		t.Errorf("%d bytes resident, the bar is %d", rss, maxRSS)
	}
	if size > 1_780*mb {
		t.Errorf("%d bytes on disk for 1.72 GB", size)
	}
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

func folderSize(t *testing.T, dir string) (size int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		size += info.Size()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return size
}
