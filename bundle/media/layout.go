package media

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
)

// blobStore is where a layout has its blobs: files of a folder or sections of a tar.
type blobStore interface {
	// openAt fails with fs.ErrNotExist, or with *bundle.DamagedError when the size differs. desc was checked.
	openAt(desc ocispec.Descriptor, offset int64) (io.ReadCloser, error)
	Close() error
}

// layout is an OCI image layout that is read. Its index is the one that was there when it was opened.
type layout struct {
	blobStore
	ref     reference
	entries []ocispec.Descriptor

	mu         sync.Mutex
	statements map[digest.Digest]statement // of entries that were read
}

const diskPatience = 3 * time.Second

func newLayout(r reference, blobs blobStore, layoutFile, indexFile []byte) (*layout, error) {
	if err := parseLayoutFile(layoutFile); err != nil {
		return nil, fmt.Errorf("%s: %w", r.path, err)
	}
	entries, err := parseIndexFile(indexFile)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.path, err)
	}
	return &layout{blobStore: blobs, ref: r, entries: entries, statements: make(map[digest.Digest]statement)}, nil
}

// Patience is short: a disk that fails goes on failing.
func (l *layout) Patience() time.Duration { return diskPatience }

func (l *layout) Open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	return l.OpenAt(ctx, desc, 0)
}

func (l *layout) OpenAt(ctx context.Context, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return openBlob(l.blobStore, l.ref.path, desc, offset)
}

// openBlob is the one door from a descriptor to a name on a disk: only a digest that is valid becomes a path.
func openBlob(blobs blobStore, name string, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	if err := bundle.CheckDescriptor(desc); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if offset < 0 || offset > desc.Size {
		return nil, fmt.Errorf("%s: blob %s: offset %d of %d", name, desc.Digest, offset, desc.Size)
	}
	rc, err := blobs.openAt(desc, offset)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return rc, nil
}

func blobPath(d digest.Digest) string {
	return ocispec.ImageBlobsDir + "/" + d.Algorithm().String() + "/" + d.Encoded()
}

// Root needs to read manifests only where another tool wrote the index.json, without artifact types.
func (l *layout) Root(ctx context.Context) (ocispec.Descriptor, error) {
	var found []ocispec.Descriptor
	for _, d := range l.entries {
		switch {
		case l.ref.digest != "" && d.Digest != l.ref.digest:
			continue
		case l.ref.digest == "" && l.ref.tag != "" && tagOf(d) != l.ref.tag:
			continue
		case l.ref.digest == "" && l.ref.tag == "":
			if ok, err := l.isBundle(ctx, d); err != nil {
				return ocispec.Descriptor{}, err
			} else if !ok {
				continue
			}
		}
		if !slices.ContainsFunc(found, func(f ocispec.Descriptor) bool { return f.Digest == d.Digest && f.Size == d.Size }) {
			found = append(found, d)
		}
	}
	switch {
	case len(found) == 0 && l.ref.digest == "" && l.ref.tag == "":
		return ocispec.Descriptor{}, l.ref.errorf("there is no bundle in it")
	case len(found) == 0:
		return ocispec.Descriptor{}, l.ref.errorf("its index.json has no such entry%s", l.known(ctx))
	case len(found) > 1:
		return ocispec.Descriptor{}, l.ref.errorf("%d entries fit, name one%s", len(found), list(l.ref.path, found))
	case found[0].MediaType != ocispec.MediaTypeImageIndex:
		return ocispec.Descriptor{}, l.ref.errorf("%s is not a bundle: media type %q", found[0].Digest, found[0].MediaType)
	}
	return plain(found[0]), nil
}

func (l *layout) isBundle(ctx context.Context, d ocispec.Descriptor) (bool, error) {
	if d.MediaType != ocispec.MediaTypeImageIndex || d.ArtifactType != "" {
		return d.MediaType == ocispec.MediaTypeImageIndex && d.ArtifactType == bundle.ArtifactTypeBundle, nil
	}
	s, err := l.statement(ctx, d)
	return s.ArtifactType == bundle.ArtifactTypeBundle, err
}

// known lists the bundles that could be named, for an error.
func (l *layout) known(ctx context.Context) string {
	var bundles []ocispec.Descriptor
	for _, d := range l.entries {
		if ok, err := l.isBundle(ctx, d); err == nil && ok {
			bundles = append(bundles, d)
		}
	}
	if len(bundles) == 0 {
		return ""
	}
	return "; it has" + list(l.ref.path, bundles)
}

// maxListed bounds the length of an error.
const maxListed = 20

func list(path string, entries []ocispec.Descriptor) string {
	var b strings.Builder
	for i, d := range entries {
		if i == maxListed {
			b.WriteString(", …")
			break
		}
		if t := tagOf(d); validTag(t) {
			fmt.Fprintf(&b, ", %s:%s", path, t)
		} else {
			fmt.Fprintf(&b, ", %s@%s", path, d.Digest)
		}
	}
	return ": " + strings.TrimPrefix(b.String(), ", ")
}

// statement reads a manifest once and keeps what is needed of it.
func (l *layout) statement(ctx context.Context, d ocispec.Descriptor) (statement, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return readStatement(ctx, l, d, l.statements)
}

func readStatement(ctx context.Context, f bundle.Fetcher, d ocispec.Descriptor, cache map[digest.Digest]statement) (statement, error) {
	if s, ok := cache[d.Digest]; ok {
		return s, nil
	}
	raw, err := bundle.ReadBlob(ctx, f, plain(d), bundle.MaxManifest)
	if err != nil {
		return statement{}, err
	}
	s, err := parseStatement(d, raw)
	if err == nil {
		cache[d.Digest] = s
	}
	return s, err
}

// Referrers reads every manifest that index.json lists, once: an entry does not say what its subject is. One that is
// missing or damaged is an error, because it could be the signature that is asked for.
func (l *layout) Referrers(ctx context.Context, subject digest.Digest) ([]Referrer, error) {
	if err := subject.Validate(); err != nil {
		return nil, fmt.Errorf("%s: referrers of %q: %w", l.ref.path, subject, err)
	}
	var refs []Referrer
	for _, d := range l.entries {
		if !bundle.IsManifest(d.MediaType) {
			continue
		}
		if tag := legacyTag(subject); tagOf(d) == tag {
			refs = append(refs, Referrer{Descriptor: plain(d), Tag: tag})
			continue
		}
		s, err := l.statement(ctx, d)
		if err != nil {
			return nil, fmt.Errorf("%s: referrers of %s: %w", l.ref.path, subject, err)
		}
		if s.Subject == subject {
			r := Referrer{Descriptor: plain(d)}
			r.ArtifactType = s.ArtifactType
			refs = append(refs, r)
		}
	}
	if len(refs) > maxReferrers {
		return nil, fmt.Errorf("%s: %d referrers of %s, the limit is %d", l.ref.path, len(refs), subject, maxReferrers)
	}
	return sortReferrers(refs), nil
}
