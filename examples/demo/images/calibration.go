package images

import (
	"context"
	"crypto/md5" //nolint:gosec // what dpkg writes
	"fmt"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// CameraCalibration makes an image without a program: tables for the cameras, installed by a package manager, so that
// there is something to see in its SBOM.
func CameraCalibration(ctx context.Context, version string) (v1.ImageIndex, error) {
	if !versionPattern.MatchString(version) {
		return nil, fmt.Errorf("build camera-calibration: version %q, want letters, digits, '.', '_' and '-'", version)
	}
	idx, err := index(ctx, labels("camera-calibration", version), func(_ context.Context, arch string) (v1.Image, error) {
		os, err := layer([]file{
			{name: "etc/os-release", mode: 0o644, data: []byte("ID=acme-robot-os\nID_LIKE=debian\nNAME=\"Acme Robot OS\"\nPRETTY_NAME=\"Acme Robot OS 12\"\nVERSION_ID=\"12\"\n")},
		})
		if err != nil {
			return nil, err
		}
		data, err := layer(calibrationFiles(arch, strings.TrimPrefix(version, "v")))
		if err != nil {
			return nil, err
		}
		config := v1.Config{User: fmt.Sprint(user), Env: []string{"PATH=/usr/bin"}, Labels: labels("camera-calibration", version), WorkingDir: "/"}
		return image(arch, config, part{os, "base of Acme Robot OS"}, part{data, "install of camera-calibration " + version})
	})
	if err != nil {
		return nil, fmt.Errorf("build camera-calibration %s: %w", version, err)
	}
	return idx, nil
}

// pkg is a package that is installed in the image.
type pkg struct {
	name, version, arch, description string
	files                            []file
}

func calibrationFiles(arch, version string) []file {
	table := func(lens string, k1, k2 float64) file {
		return file{
			name: "opt/acme/calibration/" + lens + ".json", mode: 0o644,
			data: fmt.Appendf(nil, "{\"lens\":%q,\"version\":%q,\"k1\":%g,\"k2\":%g}\n", lens, version, k1, k2),
		}
	}
	packages := []pkg{
		{"acme-camera-tables", version, "all", "Distortion tables of the robots' lenses", []file{
			table("wide-120", -0.2817, 0.0731), table("wide-90", -0.1943, 0.0402), table("tele-30", -0.0127, 0.0008),
		}},
		{"acme-camera-firmware", "4.2-1", arch, "Firmware of the stereo camera", []file{
			{name: "usr/lib/firmware/acme/stereo-" + arch + ".bin", mode: 0o644, data: []byte(strings.Repeat("acme stereo camera 4.2 "+arch+"\n", 512))},
		}},
	}
	var all []file
	var status strings.Builder
	for _, p := range packages {
		fmt.Fprintf(&status, "Package: %s\nStatus: install ok installed\nPriority: optional\nSection: misc\nMaintainer: Acme Robotics <robots@acme.example>\nArchitecture: %s\nVersion: %s\nDescription: %s\n\n",
			p.name, p.arch, p.version, p.description)
		var list, sums strings.Builder
		for _, f := range p.files {
			fmt.Fprintf(&list, "/%s\n", f.name)
			fmt.Fprintf(&sums, "%x  %s\n", md5.Sum(f.data), f.name) //nolint:gosec // what dpkg writes
		}
		info := "var/lib/dpkg/info/" + p.name
		all = append(all, p.files...)
		all = append(all, file{info + ".list", 0o644, []byte(list.String())}, file{info + ".md5sums", 0o644, []byte(sums.String())})
	}
	return append(all, file{"var/lib/dpkg/status", 0o644, []byte(status.String())})
}
