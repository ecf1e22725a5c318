package images_test

import (
	"archive/tar"
	"context"
	"debug/buildinfo"
	"debug/elf"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/plimsoll/plimsoll/examples/demo/images"
)

func build(t *testing.T, f func() (v1.ImageIndex, error)) v1.ImageIndex {
	t.Helper()
	idx, err := f()
	if err != nil {
		t.Fatal(err)
	}
	// As others see it: through an OCI layout.
	written, err := layout.Write(t.TempDir(), idx)
	if err != nil {
		t.Fatal(err)
	}
	read, err := written.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(read); err != nil {
		t.Fatal(err)
	}
	return read
}

func robotApp(t *testing.T, version string) v1.ImageIndex {
	t.Helper()
	return build(t, func() (v1.ImageIndex, error) { return images.RobotApp(t.Context(), version, "") })
}

func digestOf(t *testing.T, d interface{ Digest() (v1.Hash, error) }) v1.Hash {
	t.Helper()
	h, err := d.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// of gives the image of a platform.
func of(t *testing.T, idx v1.ImageIndex, arch string) v1.Image {
	t.Helper()
	m, err := idx.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, desc := range m.Manifests {
		if desc.Platform.String() == "linux/"+arch {
			img, err := idx.Image(desc.Digest)
			if err != nil {
				t.Fatal(err)
			}
			return img
		}
	}
	t.Fatalf("no image for linux/%s in %v", arch, m.Manifests)
	return nil
}

func layers(t *testing.T, img v1.Image) []v1.Layer {
	t.Helper()
	list, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// extract reads one file of an image.
func extract(t *testing.T, img v1.Image, name string) []byte {
	t.Helper()
	content := mutate.Extract(img)
	defer content.Close() //nolint:errcheck // read to its end
	archive := tar.NewReader(content)
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			t.Fatalf("no %s", name)
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Name == name {
			data, err := io.ReadAll(archive)
			if err != nil {
				t.Fatal(err)
			}
			return data
		}
	}
}

func TestRobotApp(t *testing.T) {
	idx := robotApp(t, "v1.5.4")
	if mt, _ := idx.MediaType(); mt != types.OCIImageIndex {
		t.Errorf("media type %s", mt)
	}
	machines := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}
	for _, arch := range images.Architectures() {
		img := of(t, idx, arch)
		config, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if config.Architecture != arch || config.OS != "linux" || config.Config.User != "65532" ||
			!slices.Equal(config.Config.Entrypoint, []string{"/usr/bin/robot-app"}) ||
			config.Config.Labels["org.opencontainers.image.version"] != "v1.5.4" || len(config.History) != 2 {
			t.Errorf("%s: config %+v", arch, config)
		}
		path := filepath.Join(t.TempDir(), "robot-app")
		if err := os.WriteFile(path, extract(t, img, "usr/bin/robot-app"), 0o600); err != nil {
			t.Fatal(err)
		}
		program, err := elf.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if program.Machine != machines[arch] {
			t.Errorf("%s: program for %s", arch, program.Machine)
		}
		if err := program.Close(); err != nil {
			t.Fatal(err)
		}
		if info, err := buildinfo.ReadFile(path); err != nil || info.Path != "acme.example/robot-app" {
			t.Errorf("%s: build information %+v, %v", arch, info, err)
		}
	}
}

// TestOnlyTheProgramChanges: equal versions are equal bytes, and a new version shares its base layer with the old one.
func TestOnlyTheProgramChanges(t *testing.T) {
	one, again, next := robotApp(t, "v1.5.4"), robotApp(t, "v1.5.4"), robotApp(t, "v1.5.5")
	if digestOf(t, one) != digestOf(t, again) {
		t.Error("the same version has another digest")
	}
	for _, arch := range images.Architectures() {
		a, b := layers(t, of(t, one, arch)), layers(t, of(t, next, arch))
		if len(a) != 2 || len(b) != 2 || digestOf(t, a[0]) != digestOf(t, b[0]) || digestOf(t, a[1]) == digestOf(t, b[1]) {
			t.Errorf("%s: want an equal base and another program", arch)
		}
	}
}

func TestRobotAppSaysWhatIsWrong(t *testing.T) {
	if _, err := images.RobotApp(t.Context(), "v1 -X main.evil=1", ""); err == nil || !strings.Contains(err.Error(), "version") {
		t.Errorf("got %v", err)
	}
	if _, err := images.RobotApp(t.Context(), "v1", filepath.Join(t.TempDir(), "no-go")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := images.RobotApp(ctx, "v1", ""); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestCameraCalibration(t *testing.T) {
	idx := build(t, func() (v1.ImageIndex, error) { return images.CameraCalibration(t.Context(), "v2.1.0") })
	again := build(t, func() (v1.ImageIndex, error) { return images.CameraCalibration(t.Context(), "v2.1.0") })
	if digestOf(t, idx) != digestOf(t, again) {
		t.Error("the same version has another digest")
	}
	for _, arch := range images.Architectures() {
		img := of(t, idx, arch)
		if status := string(extract(t, img, "var/lib/dpkg/status")); !strings.Contains(status, "Package: acme-camera-tables\n") ||
			!strings.Contains(status, "Version: 2.1.0\n") || !strings.Contains(status, "Architecture: "+arch+"\n") {
			t.Errorf("%s: dpkg status\n%s", arch, status)
		}
		if release := string(extract(t, img, "etc/os-release")); !strings.Contains(release, "ID=acme-robot-os\n") {
			t.Errorf("%s: os-release %q", arch, release)
		}
	}
}
