package origin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// Local is an image in a file or a folder. Its index is the one that was there when it was opened.
type Local struct {
	ref     LocalRef
	blobs   blobs
	entries []ocispec.Descriptor // of index.json; none in a docker-archive without one
	root    ocispec.Descriptor
	raw     []byte

	mu         sync.Mutex
	statements map[digest.Digest]statement // of manifests that were read
}

// statement is what a manifest says of its place among others.
type statement struct {
	artifactType string
	subject      digest.Digest
}

// OpenLocal opens an image for reading by a reference in the sense of ParseLocal. Tars are read in place. It fails with
// *RefError when there is nothing usable.
func OpenLocal(ctx context.Context, ref string) (*Local, error) {
	r, err := ParseLocal(ref)
	if err != nil {
		return nil, err
	}
	return r.Open(ctx)
}

// Open opens the image for reading, as OpenLocal.
func (r LocalRef) Open(ctx context.Context) (*Local, error) {
	l := &Local{ref: r, statements: make(map[digest.Digest]statement)}
	var err error
	if r.Transport == TransportOCI {
		err = l.openFolder()
	} else {
		err = l.openTar(ctx)
	}
	if err == nil && l.entries != nil {
		err = l.readRoot(ctx)
	}
	if err == nil && r.Digest != "" && l.root.Digest != r.Digest {
		err = r.errorf("there is %s", l.root.Digest)
	}
	if err != nil {
		if l.blobs != nil {
			err = errors.Join(err, l.blobs.Close())
		}
		var ref *RefError
		if !errors.As(err, &ref) {
			err = fmt.Errorf("%s: %w", r.Path, err)
		}
		return nil, err
	}
	return l, nil
}

func (l *Local) openFolder() error {
	root, err := os.OpenRoot(l.ref.Path)
	if err != nil {
		return l.unopened(err)
	}
	l.blobs = folderBlobs{root}
	l.entries, err = readFolder(root)
	return present(l.entries, err)
}

// unopened explains what is commonly mistaken.
func (l *Local) unopened(err error) error {
	fi, serr := os.Stat(l.ref.Path)
	switch {
	case errors.Is(serr, fs.ErrNotExist):
		return l.ref.errorf("there is no such file or folder")
	case serr == nil && fi.Mode().IsRegular() && l.ref.Transport == TransportOCI:
		return l.ref.errorf("not a folder; a tar is named with %s: or %s:", TransportOCIArchive, TransportDockerArchive)
	case serr == nil && fi.IsDir():
		return l.ref.errorf("not a file; a folder is named with %s:", TransportOCI)
	}
	return err
}

// present makes the list of a layout without entries differ from that of no layout.
func present(entries []ocispec.Descriptor, err error) error {
	if err == nil && len(entries) == 0 {
		return errors.New("there is no image in its index.json")
	}
	return err
}

func (l *Local) openTar(ctx context.Context) error {
	f, size, err := openRegular(os.OpenFile, l.ref.Path)
	if err != nil {
		return l.unopened(err)
	}
	t, err := indexTar(ctx, f, size)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	l.blobs = tarBlobs{t, f}
	if l.ref.Transport == TransportOCIArchive || t.has(ocispec.ImageLayoutFile) && t.has(ocispec.ImageIndexFile) {
		l.entries, err = readArchive(t)
		return present(l.entries, err)
	}
	image, err := readDockerArchive(ctx, t, l.ref)
	if err != nil {
		return err
	}
	l.root, l.raw = image.root, image.raw
	l.blobs = dockerBlobs{index: t, Closer: f, places: image.places}
	return nil
}

func (l *Local) readRoot(ctx context.Context) error {
	var err error
	if l.root, err = l.choose(ctx); err != nil {
		return err
	}
	l.raw, err = bundle.ReadBlob(ctx, l, l.root, bundle.MaxManifest)
	return err
}

// Ref gives the reference by which it was opened.
func (l *Local) Ref() LocalRef { return l.ref }

// Root implements Origin.
func (l *Local) Root(context.Context) (ocispec.Descriptor, []byte, error) { return l.root, l.raw, nil }

// Open implements bundle.Fetcher.
func (l *Local) Open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	return l.OpenAt(ctx, desc, 0)
}

// OpenAt implements Origin. It fails with *bundle.DamagedError when the blob has another size.
func (l *Local) OpenAt(ctx context.Context, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	// Only a digest that is valid becomes a path.
	if err := bundle.CheckDescriptor(desc); err != nil {
		return nil, fmt.Errorf("%s: %w", l.ref.Path, err)
	}
	if offset < 0 || offset > desc.Size {
		return nil, fmt.Errorf("%s: blob %s: offset %d of %d", l.ref.Path, desc.Digest, offset, desc.Size)
	}
	rc, size, err := l.blobs.open(desc.Digest)
	if err != nil {
		return nil, fmt.Errorf("%s: blob %s: %w", l.ref.Path, desc.Digest, err)
	}
	if size != desc.Size {
		return nil, errors.Join(&bundle.DamagedError{Descriptor: desc, Size: size}, rc.Close())
	}
	if _, err := rc.Seek(offset, io.SeekStart); err != nil {
		return nil, errors.Join(err, rc.Close())
	}
	return rc, nil
}

// Close closes the files. What was opened from a tar cannot be read any more.
func (l *Local) Close() error { return l.blobs.Close() }

// Referrers implements Origin. It reads every manifest that index.json lists, once: an entry does not say what its
// subject is. One that is missing or damaged is an error, because it could be the signature that is asked for.
func (l *Local) Referrers(ctx context.Context, subject digest.Digest) ([]Referrer, error) {
	if err := subject.Validate(); err != nil {
		return nil, fmt.Errorf("%s: referrers of %q: %w", l.ref.Path, subject, err)
	}
	list := &referrers{subject: subject}
	for _, d := range l.entries {
		if !bundle.IsManifest(d.MediaType) || d.Digest == subject {
			continue
		}
		if err := l.addEntry(ctx, list, d); err != nil {
			return nil, fmt.Errorf("%s: referrers of %s: %w", l.ref.Path, subject, err)
		}
	}
	return list.sorted(), nil
}

func (l *Local) addEntry(ctx context.Context, list *referrers, d ocispec.Descriptor) error {
	if tag := l.legacyTagOf(d, list.subject); tag != "" {
		return list.add(d, tag)
	}
	if d.Annotations[ocispec.AnnotationRefName] == fallbackTag(list.subject) {
		raw, err := bundle.ReadBlob(ctx, l, plain(d), bundle.MaxManifest)
		if err != nil {
			return err
		}
		return list.addIndex(d, raw)
	}
	s, err := l.statement(ctx, d)
	if err != nil || s.subject != list.subject {
		return err
	}
	d.ArtifactType = s.artifactType
	return list.add(d, "")
}

// legacyTagOf is the tag by which an entry speaks of a subject, or "". cosign save writes no tags, but says which entry
// is what for its one image.
func (l *Local) legacyTagOf(d ocispec.Descriptor, subject digest.Digest) string {
	kind := d.Annotations[cosignKind]
	for _, suffix := range legacySuffixes {
		tag := legacyTag(subject, suffix)
		if tag != "" && (d.Annotations[ocispec.AnnotationRefName] == tag || subject == l.root.Digest &&
			(suffix == ".sig" && kind == cosignSigs || suffix == ".att" && kind == cosignAtts)) {
			return tag
		}
	}
	return ""
}

// statement reads a manifest once and keeps what is needed of it.
func (l *Local) statement(ctx context.Context, d ocispec.Descriptor) (statement, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s, ok := l.statements[d.Digest]; ok {
		return s, nil
	}
	raw, err := bundle.ReadBlob(ctx, l, plain(d), bundle.MaxManifest)
	if err != nil {
		return statement{}, err
	}
	// The artifact type of a manifest without one is its config's media type (OCI distribution-spec 1.1, "Listing
	// Referrers").
	var m struct {
		ArtifactType string              `json:"artifactType"`
		Config       *ocispec.Descriptor `json:"config"`
		Subject      *ocispec.Descriptor `json:"subject"`
	}
	if err := strictjson.Unmarshal(raw, &m); err != nil {
		return statement{}, fmt.Errorf("manifest %s: %w", d.Digest, err)
	}
	s := statement{artifactType: m.ArtifactType}
	if s.artifactType == "" && m.Config != nil {
		s.artifactType = m.Config.MediaType
	}
	if m.Subject != nil {
		s.subject = m.Subject.Digest
	}
	l.statements[d.Digest] = s
	return s, nil
}
