package relay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/plimsoll/plimsoll/attest/receipt"
	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/strictjson"
)

const (
	layerReaders = 8        // images whose configs are read at one time: a store may be far away
	maxConfig    = 16 << 20 // bytes of an image's config
)

// addLayers says of each bundle which layers of its images are here. Images are those of the bundles, in their order.
func (w *receiptWriter) addLayers(ctx context.Context, images [][]ocispec.Descriptor) {
	w.readLayers(ctx, images)
	for i := range w.Bundles {
		b := &w.Bundles[i]
		diffIDs := make(map[digest.Digest]digest.Digest)
		for _, m := range images[i] {
			for _, l := range w.layers[m.Digest] {
				if have, ok := diffIDs[l.Digest]; ok && have != l.DiffID {
					l.DiffID = "" // two images say that one blob is two things: neither is believed
				}
				diffIDs[l.Digest] = l.DiffID
			}
		}
		for _, d := range slices.Sorted(maps.Keys(diffIDs)) {
			if _, gone := slices.BinarySearch(b.Missing, d); !gone && diffIDs[d] != "" {
				b.Layers = append(b.Layers, receipt.Layer{Digest: d, DiffID: diffIDs[d]})
			}
		}
	}
}

// images lists the manifests of a release's images.
func (w *receiptWriter) images(ctx context.Context, release Release) ([]ocispec.Descriptor, error) {
	b, err := bundle.Load(ctx, w.relay.store, release.Bundle)
	if err != nil {
		return nil, err
	}
	isImage := make(map[string]bool)
	for _, it := range b.Lock.Items {
		isImage[it.Name] = it.Kind == bundle.KindImage
	}
	var all []ocispec.Descriptor
	for _, e := range b.Index.Manifests[1:] { // the first is the lock
		if isImage[e.Annotations[bundle.AnnotationItem]] {
			all = append(all, plain(e))
		}
	}
	return all, nil
}

// readLayers reads what the layers of images are uncompressed, each image once.
func (w *receiptWriter) readLayers(ctx context.Context, images [][]ocispec.Descriptor) {
	var mu sync.Mutex
	var g errgroup.Group
	g.SetLimit(layerReaders)
	for _, m := range slices.Concat(images...) {
		mu.Lock()
		_, done := w.layers[m.Digest]
		if !done {
			w.layers[m.Digest] = nil // it is being read
		}
		mu.Unlock()
		if done {
			continue
		}
		g.Go(func() error {
			layers, err := w.imageLayers(ctx, m)
			mu.Lock()
			defer mu.Unlock()
			w.layers[m.Digest] = layers
			if err != nil && !errors.Is(err, fs.ErrNotExist) { // what is gone is in the list of what is missing
				w.problem("image %s: %v", m.Digest, err)
			}
			return nil
		})
	}
	_ = g.Wait() // problems have their place
}

// imageLayers pairs the layers of an image with the diff-ids of its config (OCI image-spec, "rootfs.diff_ids"). It gives
// none for what only looks like an image: an attestation's layers are no file systems.
func (w *receiptWriter) imageLayers(ctx context.Context, desc ocispec.Descriptor) ([]receipt.Layer, error) {
	raw, err := bundle.ReadBlob(ctx, w.relay.store, desc, bundle.MaxManifest)
	if err != nil {
		return nil, err
	}
	var m ocispec.Manifest
	if err := strictjson.Unmarshal(raw, &m); err != nil {
		return nil, err
	}
	if m.Config.MediaType != ocispec.MediaTypeImageConfig && m.Config.MediaType != dockerConfig {
		return nil, nil
	}
	raw, err = bundle.ReadBlob(ctx, w.relay.store, m.Config, maxConfig)
	if err != nil {
		return nil, err
	}
	var config struct {
		RootFS struct {
			DiffIDs []digest.Digest `json:"diff_ids"`
		} `json:"rootfs"`
	}
	if err := strictjson.Unmarshal(raw, &config); err != nil {
		return nil, fmt.Errorf("config %s: %w", m.Config.Digest, err)
	}
	if len(config.RootFS.DiffIDs) != len(m.Layers) {
		return nil, nil
	}
	var all []receipt.Layer
	for i, l := range m.Layers {
		id := config.RootFS.DiffIDs[i]
		if isLayer(l.MediaType) && receipt.CheckDigest(id) == nil && receipt.CheckDigest(l.Digest) == nil {
			all = append(all, receipt.Layer{Digest: l.Digest, DiffID: id})
		}
	}
	return all, nil
}

const dockerConfig = "application/vnd.docker.container.image.v1+json"

// isLayer tells whether a media type is that of a file system's layer.
func isLayer(mediaType string) bool {
	return strings.HasPrefix(mediaType, "application/vnd.oci.image.layer.") ||
		strings.HasPrefix(mediaType, "application/vnd.docker.image.rootfs.")
}
