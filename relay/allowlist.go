package relay

import (
	"context"
	"fmt"

	"github.com/opencontainers/go-digest"

	"github.com/plimsoll/plimsoll/bundle"
)

// Allowed is what the robots of this site may run, by one state of active.json.
type Allowed struct {
	Generation uint64
	Images     []AllowedImage // in no order; one may be there several times
	Problems   []string       // kept releases that could not be read, and so are left out
}

// AllowedImage is the index or a manifest of an image, or of another artifact that containerd can mount, in the repository
// in which the relay serves it.
type AllowedImage struct {
	Repository string // as the lock has it: ghcr.io/acme/robot-app
	Digest     digest.Digest
	Active     bool // its release is active, not only kept to go back to
}

// Allowed lists the images of the active and the kept releases. What an index names and its release does not carry is not
// among them. An active release that cannot be read is an error, because robots would be kept from what they should run.
func (r *Relay) Allowed(ctx context.Context) (Allowed, error) {
	active, _, err := readActive(ctx, r.docs)
	if err != nil {
		return Allowed{}, err
	}
	all := Allowed{Generation: active.Generation}
	for _, c := range active.Channels {
		for _, release := range append([]Release{c.Release}, c.Previous...) {
			isActive := release.same(c.Release)
			images, err := r.allowedImages(ctx, release, isActive)
			switch {
			case err == nil:
				all.Images = append(all.Images, images...)
			case ctx.Err() != nil: // it would look like trouble of the disk
				return Allowed{}, ctx.Err()
			case isActive:
				return Allowed{}, fmt.Errorf("channel %s: release %s: %w", c.Name, release, err)
			default:
				all.Problems = append(all.Problems, fmt.Sprintf("channel %s: kept release %s: %v", c.Name, release, err))
			}
		}
	}
	return all, nil
}

func (r *Relay) allowedImages(ctx context.Context, release Release, active bool) ([]AllowedImage, error) {
	b, err := bundle.Load(ctx, r.store, release.Bundle)
	if err != nil {
		return nil, err
	}
	var all []AllowedImage
	repositories := make(map[string]string) // by item
	for _, it := range b.Lock.Items {
		if it.Kind == bundle.KindImage || it.Kind == bundle.KindArtifact {
			repositories[it.Name] = it.Repository
			all = append(all, AllowedImage{it.Repository, it.Descriptor.Digest, active})
		}
	}
	for _, e := range b.Index.Manifests[1:] { // the first is the lock
		if repository, ok := repositories[e.Annotations[bundle.AnnotationItem]]; ok {
			all = append(all, AllowedImage{repository, e.Digest, active})
		}
	}
	return all, nil
}
