package origin

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// Limits of an archive of docker save.
const (
	maxArchiveImages = 4096
	maxArchiveLayers = 1024     // of one image
	maxUnpackedLayer = 64 << 30 // bytes
)

const dockerManifestFile = "manifest.json"

// archiveImage is an entry of manifest.json.
type archiveImage struct {
	Config   string
	RepoTags []string
	Layers   []string // the lowest first
}

// dockerImage is the OCI image that stands for an archiveImage. Its config and layers are entries of the tar, byte for
// byte; its manifest is made, and is the same for the same entries.
type dockerImage struct {
	root   ocispec.Descriptor
	raw    []byte
	places map[digest.Digest]place
}

// place is an entry of the tar, or bytes that were made.
type place struct {
	tarEntry
	raw []byte
}

// dockerBlobs are the manifest, config and layers of one image.
type dockerBlobs struct {
	io.Closer
	index  *tarIndex
	places map[digest.Digest]place
}

func (b dockerBlobs) open(d digest.Digest) (io.ReadSeekCloser, int64, error) {
	p, ok := b.places[d]
	switch {
	case !ok:
		return nil, 0, fs.ErrNotExist
	case p.raw != nil:
		return section{bytes.NewReader(p.raw)}, int64(len(p.raw)), nil
	}
	return section{b.index.open(p.tarEntry)}, p.size, nil
}

func readDockerArchive(ctx context.Context, t *tarIndex, ref LocalRef) (*dockerImage, error) {
	e, err := t.regular(dockerManifestFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("not an archive of docker save: it has no file %s", dockerManifestFile)
	}
	if err != nil {
		return nil, err
	}
	data, err := t.readSmall(e, dockerManifestFile, bundle.MaxManifest)
	if err != nil {
		return nil, err
	}
	images, err := parseDockerManifest(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dockerManifestFile, err)
	}
	image, err := chooseArchived(images, ref)
	if err != nil {
		return nil, err
	}
	return convert(ctx, t, image)
}

func parseDockerManifest(data []byte) ([]archiveImage, error) {
	var images []archiveImage
	if err := strictjson.Unmarshal(data, &images); err != nil {
		return nil, err
	}
	if len(images) == 0 || len(images) > maxArchiveImages {
		return nil, fmt.Errorf("%d images, want 1 to %d", len(images), maxArchiveImages)
	}
	for i, im := range images {
		if im.Config == "" {
			return nil, fmt.Errorf("image %d: no config", i)
		}
		if len(im.Layers) > maxArchiveLayers {
			return nil, fmt.Errorf("image %d: %d layers, the limit is %d", i, len(im.Layers), maxArchiveLayers)
		}
	}
	return images, nil
}

// chooseArchived takes an image that has the name; without a name there must be one image. With only a digest it must be
// that one, because the digest of a manifest that is yet to be made cannot be looked for.
func chooseArchived(images []archiveImage, ref LocalRef) (archiveImage, error) {
	var found []archiveImage
	var tags []string
	for _, im := range images {
		fits := ref.Image == ""
		for _, tag := range im.RepoTags {
			fits = fits || sameTag(tag, ref.Image)
			tags = append(tags, LocalRef{Transport: ref.Transport, Path: ref.Path, Image: visible(tag, maxErrorDetail)}.String())
		}
		if fits {
			found = append(found, im)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return archiveImage{}, ref.errorf("its %s has no such image%s", dockerManifestFile, listedNames(tags))
	}
	return archiveImage{}, ref.errorf("%d images fit, name one%s", len(found), listedNames(tags))
}

func convert(ctx context.Context, t *tarIndex, image archiveImage) (*dockerImage, error) {
	config, err := t.follow(image.Config)
	if err != nil {
		return nil, fmt.Errorf("config %w", err)
	}
	raw, err := t.readSmall(config, image.Config, bundle.MaxManifest)
	if err != nil {
		return nil, err
	}
	diffIDs, err := parseDockerConfig(image, raw)
	if err != nil {
		return nil, fmt.Errorf("config %s: %w", visible(image.Config, maxErrorDetail), err)
	}
	out := &dockerImage{places: make(map[digest.Digest]place)}
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(raw), Size: int64(len(raw))},
		Layers: make([]ocispec.Descriptor, 0, len(diffIDs)),
	}
	out.places[m.Config.Digest] = place{tarEntry: config}
	packed := make(map[tarEntry]ocispec.Descriptor) // that were hashed
	for i, diffID := range diffIDs {
		name := visible(image.Layers[i], maxErrorDetail)
		e, err := t.follow(image.Layers[i])
		if err != nil {
			return nil, fmt.Errorf("layer %d: %w", i, err)
		}
		layer, err := describeLayer(ctx, t, e, diffID, packed)
		if err != nil {
			return nil, fmt.Errorf("layer %d, %s: %w", i, name, err)
		}
		if other, dup := out.places[layer.Digest]; dup && other.size != layer.Size {
			return nil, fmt.Errorf("layer %d, %s: %s is there with %d and with %d bytes", i, name, layer.Digest, other.size, layer.Size)
		} else if !dup {
			out.places[layer.Digest] = place{tarEntry: e}
		}
		m.Layers = append(m.Layers, layer)
	}
	if out.raw, err = strictjson.Marshal(m); err != nil {
		return nil, err
	}
	out.root = ocispec.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(out.raw), Size: int64(len(out.raw))}
	out.places[out.root.Digest] = place{raw: out.raw}
	return out, nil
}

// parseDockerConfig gives the digests of the unpacked layers. A config that is named after its digest must have it.
func parseDockerConfig(image archiveImage, raw []byte) ([]digest.Digest, error) {
	base := strings.TrimPrefix(strings.TrimSuffix(path.Base(image.Config), ".json"), "sha256:")
	if want := digest.NewDigestFromEncoded(digest.SHA256, base); want.Validate() == nil && digest.FromBytes(raw) != want {
		return nil, &bundle.DamagedError{Descriptor: ocispec.Descriptor{Digest: want, Size: int64(len(raw))},
			Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	}
	var config struct {
		RootFS struct {
			Type    string          `json:"type"`
			DiffIDs []digest.Digest `json:"diff_ids"`
		} `json:"rootfs"`
	}
	if err := strictjson.Unmarshal(raw, &config); err != nil {
		return nil, err
	}
	if config.RootFS.Type != "layers" || len(config.RootFS.DiffIDs) != len(image.Layers) {
		return nil, fmt.Errorf("rootfs of type %q with %d diff_ids, want layers and %d, as %s has them",
			visible(config.RootFS.Type, maxErrorDetail), len(config.RootFS.DiffIDs), len(image.Layers), dockerManifestFile)
	}
	for _, d := range config.RootFS.DiffIDs {
		if err := d.Validate(); err != nil {
			return nil, fmt.Errorf("diff_id %q: %w", visible(d.String(), maxErrorDetail), err)
		}
	}
	return config.RootFS.DiffIDs, nil
}

// describeLayer takes an unpacked layer's diff_id for its digest, which whoever reads the layer verifies. Docker packs
// none; for those of tools that do, the packed bytes are hashed here, and what is in them compared with the diff_id.
func describeLayer(ctx context.Context, t *tarIndex, e tarEntry, diffID digest.Digest, known map[tarEntry]ocispec.Descriptor) (ocispec.Descriptor, error) {
	switch name, undo := packing(t.r, e.offset); {
	case name == "" || e.size == 0:
		return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: diffID, Size: e.size}, nil
	case name != "gzip":
		return ocispec.Descriptor{}, fmt.Errorf("compressed with %s, want a plain tar (%s) or gzip", name, undo)
	}
	if d, ok := known[e]; ok {
		return d, nil
	}
	packed, unpacked := digest.SHA256.Digester(), diffID.Algorithm().Digester()
	tee := io.TeeReader(&contextReader{ctx, t.open(e)}, packed.Hash())
	z, err := gzip.NewReader(tee)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	n, err := io.Copy(unpacked.Hash(), io.LimitReader(z, maxUnpackedLayer+1))
	if err == nil && n > maxUnpackedLayer {
		err = fmt.Errorf("more than %d bytes when unpacked", int64(maxUnpackedLayer))
	}
	if err == nil {
		_, err = io.Copy(io.Discard, tee) // what gzip did not need
	}
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if got := unpacked.Digest(); got != diffID {
		return ocispec.Descriptor{}, fmt.Errorf("unpacked it hashes to %s, its diff_id is %s", got, diffID)
	}
	known[e] = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: packed.Digest(), Size: e.size}
	return known[e], nil
}

// contextReader ends a long reading when nobody waits for it.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (r *contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}
