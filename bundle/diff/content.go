package diff

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/bundle/media"
)

// Helm's media types.
const (
	mediaTypeChart       = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
	mediaTypeChartConfig = "application/vnd.cncf.helm.config.v1+json" // Chart.yaml as JSON
)

// Limits of what is read of charts and configurations, in bytes.
const (
	maxArchive  = 1 << 30  // of a chart or a folder
	maxUnpacked = 4 << 30  // of its content
	maxTexts    = 16 << 20 // of the texts of one item that are kept for comparison
	maxConfig   = 4 << 20
)

// lookImage compares the configurations of platforms that both sides have.
func (c *comparer) lookImage(ctx context.Context, change *Change, p pair) error {
	old, now := c.a.platforms(p.old), c.b.platforms(p.now)
	for i := range change.Platforms {
		pc := &change.Platforms[i]
		a, inA := old[pc.Platform]
		b, inB := now[pc.Platform]
		if !inA || !inB || a.Digest != pc.Old || b.Digest != pc.New {
			continue
		}
		configA, err := c.a.config(ctx, a)
		if err != nil {
			return err
		}
		configB, err := c.b.config(ctx, b)
		if err != nil {
			return err
		}
		// Layers have digests of their own, and their history says them again.
		pc.Config = compareFields(configA, configB, "", "rootfs.", "history")
	}
	return nil
}

// config gives the fields of a manifest's configuration; of one that is too large, none.
func (inv *inventory) config(ctx context.Context, manifest ocispec.Descriptor) (map[string]string, error) {
	m, err := inv.manifest(ctx, manifest)
	if err != nil || m.Config.Size > maxConfig {
		return nil, err
	}
	data, err := bundle.ReadBlob(ctx, inv.source, m.Config, maxConfig)
	return fields(data), err
}

// lookContent compares items that are one manifest: charts, files, and kinds that this package does not know.
func (c *comparer) lookContent(ctx context.Context, change *Change, p pair) error {
	a, err := c.a.manifest(ctx, plain(p.old.Descriptor))
	if err != nil {
		return err
	}
	b, err := c.b.manifest(ctx, plain(p.now.Descriptor))
	if err != nil {
		return err
	}
	if p.now.Kind == bundle.KindChart {
		return c.lookChart(ctx, change, a, b)
	}
	if p.old.File != nil && p.now.File != nil && p.old.File.Folder && p.now.File.Folder {
		return c.lookArchives(ctx, change, a, b, bundle.MediaTypeFolder)
	}
	return c.lookFiles(ctx, change, a, b)
}

// lookFiles compares layers that have a title, as files have.
func (c *comparer) lookFiles(ctx context.Context, change *Change, a, b *ocispec.Manifest) error {
	old, err := c.a.files(ctx, a)
	if err != nil {
		return err
	}
	now, err := c.b.files(ctx, b)
	if err != nil {
		return err
	}
	change.compareFiles(old, now)
	return nil
}

func (inv *inventory) files(ctx context.Context, m *ocispec.Manifest) (map[string]file, error) {
	all := make(map[string]file)
	var texts int64
	for _, l := range m.Layers {
		title := l.Annotations[ocispec.AnnotationTitle]
		if title == "" {
			continue
		}
		f := file{size: l.Size, digest: l.Digest}
		if l.Size <= MaxText && texts+l.Size <= maxTexts {
			data, err := bundle.ReadBlob(ctx, inv.source, l, MaxText)
			if err != nil {
				return nil, err
			}
			f.keep(data)
			texts += l.Size
		}
		all[title] = f
	}
	return all, nil
}

// lookChart compares Chart.yaml, which Helm puts into the manifest's configuration, and the files of the archives.
func (c *comparer) lookChart(ctx context.Context, change *Change, a, b *ocispec.Manifest) error {
	old, err := c.a.chartFields(ctx, a)
	if err != nil {
		return err
	}
	now, err := c.b.chartFields(ctx, b)
	if err != nil {
		return err
	}
	change.Fields = append(change.Fields, compareFields(old, now, "chart.")...)
	return c.lookArchives(ctx, change, a, b, mediaTypeChart)
}

func (inv *inventory) chartFields(ctx context.Context, m *ocispec.Manifest) (map[string]string, error) {
	if m.Config.MediaType != mediaTypeChartConfig || m.Config.Size > maxConfig {
		return nil, nil
	}
	data, err := bundle.ReadBlob(ctx, inv.source, m.Config, maxConfig)
	return fields(data), err
}

// lookArchives compares the files in the layers of a media type. A layer that is no archive leaves a note.
func (c *comparer) lookArchives(ctx context.Context, change *Change, a, b *ocispec.Manifest, mediaType string) error {
	old, err := c.a.archive(ctx, a, mediaType)
	if err == nil {
		var now map[string]file
		if now, err = c.b.archive(ctx, b, mediaType); err == nil {
			change.compareFiles(old, now)
		}
	}
	var odd *contentError
	switch {
	case errors.As(err, &odd):
		change.Notes = append(change.Notes, fmt.Sprintf("an archive cannot be read: %v", odd))
	case err != nil:
		return err
	case len(change.Files) == 0:
		change.Notes = append(change.Notes, "the same files, in another archive or under another manifest")
	}
	return nil
}

// contentError says that the content of a sound blob is not what it should be: it cannot be compared.
type contentError struct{ err error }

func (e *contentError) Error() string { return e.err.Error() }
func (e *contentError) Unwrap() error { return e.err }

func unusable(format string, args ...any) error { return &contentError{fmt.Errorf(format, args...)} }

// archive reads the files of the layer of a media type; those of a chart without the folder that all of them are in.
func (inv *inventory) archive(ctx context.Context, m *ocispec.Manifest, mediaType string) (map[string]file, error) {
	i := slices.IndexFunc(m.Layers, func(d ocispec.Descriptor) bool { return d.MediaType == mediaType })
	if i < 0 {
		return nil, unusable("there is none")
	}
	if m.Layers[i].Size > maxArchive {
		return nil, unusable("%d bytes, the limit is %d", m.Layers[i].Size, maxArchive)
	}
	r, err := inv.open(ctx, m.Layers[i])
	if err != nil {
		return nil, err
	}
	files, err := readArchive(r, mediaType == mediaTypeChart)
	if err != nil {
		err = unusable("%w", err)
	}
	// A damaged archive can look like one with other content: whether the blob is sound is known at its end.
	if _, e := io.Copy(io.Discard, r); e != nil {
		err = e
	}
	return files, errors.Join(err, r.Close())
}

// open streams a blob and verifies it; every error after the last byte is known to be the blob's.
func (inv *inventory) open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if err := bundle.CheckDescriptor(desc); err != nil {
		return nil, err
	}
	rc, err := inv.source.Open(ctx, desc)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &bundle.MissingError{Descriptor: desc, Err: err}
	}
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", desc.Digest, err)
	}
	return struct {
		io.Reader
		io.Closer
	}{media.NewVerifyReader(rc, desc), rc}, nil
}

// file is what is known of a file; text is nil when it is not one, or too long.
type file struct {
	size   int64
	digest digest.Digest
	link   string // of a symbolic link
	text   []byte
}

func (f *file) keep(data []byte) {
	if isText(data) {
		f.text = append([]byte{}, data...) // not nil when it is empty
	}
}

// readArchive reads a gzipped tar from untrusted bytes.
func readArchive(r io.Reader, chart bool) (map[string]file, error) {
	zr, err := gzip.NewReader(r)
	if err != nil {
		return nil, err
	}
	all := make(map[string]file)
	unpacked := &io.LimitedReader{R: zr, N: maxUnpacked}
	texts := int64(0)
	for tr := tar.NewReader(unpacked); ; {
		h, err := tr.Next()
		switch {
		case unpacked.N == 0:
			return nil, fmt.Errorf("more than %d bytes in it", maxUnpacked)
		case errors.Is(err, io.EOF):
			return all, nil
		case err != nil:
			return nil, err
		case h.Typeflag == tar.TypeDir:
			continue
		case len(all) >= MaxFiles:
			return nil, fmt.Errorf("more than %d files in it", MaxFiles)
		case len(h.Name) > bundle.MaxPath:
			return nil, fmt.Errorf("a path of %d bytes in it", len(h.Name))
		}
		f := file{size: h.Size, link: h.Linkname}
		hash := digest.Canonical.Digester()
		var text bytes.Buffer
		into := io.Writer(hash.Hash())
		if h.Size <= MaxText && texts+h.Size <= maxTexts {
			into = io.MultiWriter(into, &text)
		}
		n, err := io.Copy(into, tr)
		if err != nil {
			return nil, err
		}
		if f.digest = hash.Digest(); int64(text.Len()) == n {
			f.keep(text.Bytes())
			texts += n
		}
		name := path.Clean(h.Name)
		if chart {
			name = withoutFolder(name)
		}
		all[strings.ToValidUTF8(name, "\uFFFD")] = f
	}
}

// withoutFolder drops the chart's name from the path: a chart that was renamed has the same files.
func withoutFolder(name string) string {
	if _, rest, ok := strings.Cut(name, "/"); ok {
		return rest
	}
	return name
}

// compareFiles lists what is not the same, with at most MaxPatches patches and MaxFiles files.
func (c *Change) compareFiles(old, now map[string]file) {
	for _, name := range sortedKeys(old) {
		a := old[name]
		b, both := now[name]
		switch {
		case !both:
			c.addFile(FileChange{Path: name, Status: Removed, OldBytes: a.size}, a, file{text: []byte{}})
		case a.digest != b.digest || a.link != b.link:
			c.addFile(FileChange{Path: name, Status: Changed, OldBytes: a.size, NewBytes: b.size}, a, b)
		}
	}
	for _, name := range sortedKeys(now) {
		if _, both := old[name]; !both {
			c.addFile(FileChange{Path: name, Status: Added, NewBytes: now[name].size}, file{text: []byte{}}, now[name])
		}
	}
	slices.SortFunc(c.Files, func(a, b FileChange) int { return cmp.Compare(a.Path, b.Path) })
}

func (c *Change) addFile(f FileChange, old, now file) {
	if len(c.Files) >= MaxFiles {
		c.Omitted++
		return
	}
	if old.text != nil && now.text != nil && len(c.Files) < MaxPatches {
		f.Patch = patch(f, old.text, now.text)
	}
	c.Files = append(c.Files, f)
}

func patch(f FileChange, old, now []byte) string {
	oldName, newName := f.Path, f.Path
	switch f.Status {
	case Added:
		oldName = ""
	case Removed:
		newName = ""
	}
	return unified(oldName, newName, old, now)
}
