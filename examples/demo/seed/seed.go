// Package seed fills an upstream registry and a Git repository with what the robotics team of the example has when it
// has released a version.
package seed

import (
	"context"
	"fmt"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/examples/demo/images"
)

// Names under which the team publishes; bundle.yaml puts ghcr.io before those of the images and has the Git URL.
const (
	RobotApp           = "acme/robot-app"
	CameraCalibration  = "acme/camera-calibration"
	CalibrationVersion = "v2.1.0"
	GitURL             = "https://github.com/acme/robot-deployment.git"
)

// Seed publishes a version, v1.5.4 for example: it builds the images with the go command, pushes them to the registry
// host (127.0.0.1:40123), and makes or advances the Git repository robot-deployment.git in dir. The same versions in the
// same order give the same digests and commits; a version that is published already changes nothing.
func Seed(ctx context.Context, host, dir, version string) error {
	if err := bundle.CheckGitRef("refs/tags/" + version); err != nil {
		return fmt.Errorf("seed version %q: %w", version, err)
	}
	app, err := images.RobotApp(ctx, version, "")
	if err != nil {
		return fmt.Errorf("seed %s: %w", version, err)
	}
	calibration, err := images.CameraCalibration(ctx, CalibrationVersion)
	if err != nil {
		return fmt.Errorf("seed %s: %w", version, err)
	}
	if err := push(ctx, host+"/"+RobotApp+":"+version, app); err != nil {
		return fmt.Errorf("seed %s: %w", version, err)
	}
	if err := push(ctx, host+"/"+CameraCalibration+":"+CalibrationVersion, calibration); err != nil {
		return fmt.Errorf("seed %s: %w", version, err)
	}
	if err := publish(ctx, dir, version); err != nil {
		return fmt.Errorf("seed %s: %w", version, err)
	}
	return nil
}

func push(ctx context.Context, reference string, idx v1.ImageIndex) error {
	tag, err := name.NewTag(reference, name.StrictValidation)
	if err != nil {
		return err
	}
	if err := remote.WriteIndex(tag, idx, remote.WithContext(ctx)); err != nil {
		return fmt.Errorf("push %s: %w", reference, err)
	}
	return nil
}
