package origin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// Annotations of other tools in index.json.
const (
	containerdName = "io.containerd.image.name" // repository:tag, by docker save since version 25 and by ctr
	cosignKind     = "kind"                     // by cosign save: what of one image the entry is
	cosignSigs     = "dev.cosignproject.cosign/sigs"
	cosignAtts     = "dev.cosignproject.cosign/atts"
)

// blobs is where a layout has its blobs.
type blobs interface {
	// open fails with fs.ErrNotExist. It gives the size that is there.
	open(d digest.Digest) (io.ReadSeekCloser, int64, error)
	Close() error
}

func blobPath(d digest.Digest) string {
	return ocispec.ImageBlobsDir + "/" + d.Algorithm().String() + "/" + d.Encoded()
}

// folderBlobs are in a folder. os.Root keeps symbolic links and everything else inside it.
type folderBlobs struct{ root *os.Root }

func (b folderBlobs) open(d digest.Digest) (io.ReadSeekCloser, int64, error) {
	return openRegular(b.root.OpenFile, blobPath(d))
}

func (b folderBlobs) Close() error { return b.root.Close() }

// tarBlobs are in a tar of a layout.
type tarBlobs struct {
	*tarIndex
	io.Closer
}

func (b tarBlobs) open(d digest.Digest) (io.ReadSeekCloser, int64, error) {
	e, err := b.regular(blobPath(d))
	if err != nil {
		return nil, 0, err
	}
	return section{b.tarIndex.open(e)}, e.size, nil
}

// section is a part of a file that stays open.
type section struct{ io.ReadSeeker }

func (section) Close() error { return nil }

// readFolder reads what a layout in a folder says of itself.
func readFolder(root *os.Root) ([]ocispec.Descriptor, error) {
	var small [2][]byte
	for i, n := range []string{ocispec.ImageLayoutFile, ocispec.ImageIndexFile} {
		f, size, err := openRegular(root.OpenFile, n)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("not an OCI image layout: it has no file %s", n)
		}
		if err != nil {
			return nil, err
		}
		limit := []int64{maxLayoutFile, bundle.MaxManifest}[i]
		if size > limit {
			return nil, errors.Join(fmt.Errorf("%s: %d bytes, the limit is %d", n, size, limit), f.Close())
		}
		small[i], err = io.ReadAll(io.LimitReader(f, size))
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
	}
	return parseLayout(small[0], small[1])
}

// readArchive is readFolder in a tar.
func readArchive(t *tarIndex) ([]ocispec.Descriptor, error) {
	var small [2][]byte
	for i, n := range []string{ocispec.ImageLayoutFile, ocispec.ImageIndexFile} {
		e, err := t.regular(n)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("not a tar of an OCI image layout: it has no file %s", n)
		}
		if err == nil {
			small[i], err = t.readSmall(e, n, []int64{maxLayoutFile, bundle.MaxManifest}[i])
		}
		if err != nil {
			return nil, err
		}
	}
	return parseLayout(small[0], small[1])
}

func parseLayout(layoutFile, indexFile []byte) ([]ocispec.Descriptor, error) {
	var l ocispec.ImageLayout
	if err := strictjson.Unmarshal(layoutFile, &l); err != nil {
		return nil, fmt.Errorf("%s: %w", ocispec.ImageLayoutFile, err)
	}
	if l.Version != ocispec.ImageLayoutVersion {
		return nil, fmt.Errorf("%s: version %q, want %q", ocispec.ImageLayoutFile, visible(l.Version, maxErrorDetail), ocispec.ImageLayoutVersion)
	}
	entries, err := parseIndex(indexFile)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ocispec.ImageIndexFile, err)
	}
	return entries, nil
}

// parseIndex gives the entries of an index: the one of a layout, or a list of referrers.
func parseIndex(data []byte) ([]ocispec.Descriptor, error) {
	if len(data) > bundle.MaxManifest {
		return nil, fmt.Errorf("more than %d bytes", bundle.MaxManifest)
	}
	var index ocispec.Index
	if err := strictjson.Unmarshal(data, &index); err != nil {
		return nil, err
	}
	if index.SchemaVersion != 2 || index.MediaType != "" && index.MediaType != ocispec.MediaTypeImageIndex {
		return nil, fmt.Errorf("schema version %d and media type %q, want 2 and %s", index.SchemaVersion,
			visible(index.MediaType, maxErrorDetail), ocispec.MediaTypeImageIndex)
	}
	if len(index.Manifests) > maxIndexEntries {
		return nil, fmt.Errorf("%d entries, the limit is %d", len(index.Manifests), maxIndexEntries)
	}
	for _, d := range index.Manifests {
		if err := bundle.CheckDescriptor(d); err != nil {
			return nil, err
		}
	}
	return index.Manifests, nil
}

// choose finds the entry that a reference names.
func (l *Local) choose(ctx context.Context) (ocispec.Descriptor, error) {
	var found []ocispec.Descriptor
	for _, d := range l.entries {
		if !bundle.IsManifest(d.MediaType) || isBeside(d) || l.ref.Digest != "" && d.Digest != l.ref.Digest ||
			l.ref.Image != "" && !l.isNamed(d) {
			continue
		}
		if !slices.ContainsFunc(found, func(f ocispec.Descriptor) bool { return f.Digest == d.Digest && f.Size == d.Size }) {
			found = append(found, d)
		}
	}
	if len(found) > 1 && l.ref.Image == "" && l.ref.Digest == "" {
		var err error
		if found, err = l.withoutReferrers(ctx, found); err != nil {
			return ocispec.Descriptor{}, err
		}
	}
	switch len(found) {
	case 1:
		return plain(found[0]), nil
	case 0:
		return ocispec.Descriptor{}, l.ref.errorf("its index.json has no such image%s", l.listed(l.entries))
	}
	return ocispec.Descriptor{}, l.ref.errorf("%d images fit, name one%s", len(found), l.listed(found))
}

// isNamed compares as containers-transports(5) says: the whole name in a layout, a normalized docker reference in a
// docker-archive.
func (l *Local) isNamed(d ocispec.Descriptor) bool {
	refName, containerd := d.Annotations[ocispec.AnnotationRefName], d.Annotations[containerdName]
	if l.ref.Transport != TransportDockerArchive {
		return refName == l.ref.Image || containerd == l.ref.Image
	}
	if containerd != "" {
		return sameTag(containerd, l.ref.Image)
	}
	return sameTag(refName, l.ref.Image)
}

// sameTag compares repository:tag as docker does, for which app is docker.io/library/app:latest.
func sameTag(a, b string) bool {
	x, err := name.NewTag(a)
	if err != nil {
		return false
	}
	y, err := name.NewTag(b)
	return err == nil && x.Name() == y.Name()
}

// isBeside reports whether an entry is there for another one: a signature, an attestation, or a list of referrers.
func isBeside(d ocispec.Descriptor) bool {
	if kind := d.Annotations[cosignKind]; kind == cosignSigs || kind == cosignAtts {
		return true
	}
	tag := d.Annotations[ocispec.AnnotationRefName]
	for _, suffix := range legacySuffixes {
		tag = strings.TrimSuffix(tag, suffix)
	}
	algorithm, encoded, ok := strings.Cut(tag, "-")
	return ok && digest.NewDigestFromEncoded(digest.Algorithm(algorithm), encoded).Validate() == nil
}

func (l *Local) withoutReferrers(ctx context.Context, found []ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	var kept []ocispec.Descriptor
	for _, d := range found {
		s, err := l.statement(ctx, d)
		if err != nil {
			return nil, err
		}
		if s.subject == "" {
			kept = append(kept, d)
		}
	}
	return kept, nil
}

// listed gives the references of entries, for an error.
func (l *Local) listed(entries []ocispec.Descriptor) string {
	var refs []string
	for _, d := range entries {
		if !bundle.IsManifest(d.MediaType) || isBeside(d) {
			continue
		}
		r := LocalRef{Transport: l.ref.Transport, Path: l.ref.Path}
		image := d.Annotations[ocispec.AnnotationRefName]
		if l.ref.Transport == TransportDockerArchive {
			image = d.Annotations[containerdName]
		}
		if r.Image = image; !validRefName(image) {
			r.Image, r.Digest = "", d.Digest
		}
		refs = append(refs, r.String())
	}
	return listedNames(refs)
}

func listedNames(refs []string) string {
	slices.Sort(refs)
	refs = slices.Compact(refs)
	switch {
	case len(refs) == 0:
		return "; there is none"
	case len(refs) > maxListed:
		refs = append(refs[:maxListed:maxListed], "…")
	}
	return "; there are " + strings.Join(refs, ", ")
}
