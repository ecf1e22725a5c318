// Package chartpack makes a Helm chart, a folder or a .tgz, into the OCI artifact that Helm pulls. The same files give
// the same bytes, whoever packs them, when and where.
package chartpack

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"

	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// Media types of Helm's OCI artifacts (helm.sh/docs/topics/registries).
const (
	MediaTypeConfig     = "application/vnd.cncf.helm.config.v1+json"
	MediaTypeArchive    = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
	MediaTypeProvenance = "application/vnd.cncf.helm.chart.provenance.v1.prov"
)

// Limits in bytes. Helm reads charts whole, into memory, with the same two limits; charts are kilobytes in practice.
const (
	MaxFile       = 5 << 20   // one file of a chart
	MaxChart      = 100 << 20 // all files of a chart, and its .tgz
	MaxProvenance = 1 << 20   // a .prov file
	maxFiles      = 10_000    // of a folder
	maxDepth      = 32        // of folders in folders
)

// Chart is a packed chart.
type Chart struct {
	Name        string
	Version     string // as in Chart.yaml; the tag is Tag
	Description string
	Meta        []byte // Chart.yaml as JSON, byte for byte what `helm push` writes
	Archive     []byte // the .tgz
	Provenance  []byte // the .prov file beside a .tgz, or nil
	// Dependencies are those that PackWith added, also to local dependencies, sorted. What charts/ had already is not
	// among them.
	Dependencies []Resolved
}

// Blob is one blob of the artifact.
type Blob struct {
	ocispec.Descriptor
	Data []byte
}

// Error says which chart cannot be packed.
type Error struct {
	Path string // as given to Pack
	Err  error  // why
}

func (e *Error) Error() string { return "pack chart " + e.Path + ": " + e.Err.Error() }

// Unwrap gives the reason.
func (e *Error) Unwrap() error { return e.Err }

// MissingDependenciesError names the dependencies in Chart.yaml that the chart does not have in charts/. At the site
// there is nowhere to get them from.
type MissingDependenciesError struct {
	Chart string
	Names []string // sorted
}

func (e *MissingDependenciesError) Error() string {
	return fmt.Sprintf("dependencies of %s are not in its folder charts/: %s; run `helm dependency build`", e.Chart, strings.Join(e.Names, ", "))
}

// LinkError is a symbolic link in a chart folder that cannot be followed: out of the folder, nowhere, or in a circle.
type LinkError struct {
	Link   string // relative to the folder
	Target string // as it is written in the link
	Reason string
}

func (e *LinkError) Error() string {
	return fmt.Sprintf("symbolic link %s to %s %s", e.Link, e.Target, e.Reason)
}

// Pack is PackWith without Options: a chart must have its dependencies with it.
func Pack(ctx context.Context, path string) (*Chart, error) { return PackWith(ctx, path, Options{}) }

// PackWith reads a chart folder, leaving out what its .helmignore names and adding the .tgz of dependencies that charts/
// lacks, or a .tgz, which is kept byte for byte. It writes nothing. The error is an *Error.
func PackWith(ctx context.Context, path string, o Options) (*Chart, error) {
	c, err := pack(ctx, path, o)
	if err != nil {
		return nil, &Error{Path: path, Err: err}
	}
	return c, nil
}

func pack(ctx context.Context, path string, o Options) (*Chart, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, reason(err)
	}
	if !info.IsDir() {
		return packArchive(path)
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, reason(err)
	}
	defer root.Close() //nolint:errcheck // only read
	v := &vendor{Options: o}
	at, err := v.locate(path)
	if err != nil {
		return nil, err
	}
	c, err := v.folder(ctx, root, at)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(v.resolved, func(a, b Resolved) int {
		return cmp.Or(cmp.Compare(a.Repository, b.Repository), cmp.Compare(a.Name, b.Name),
			cmp.Compare(a.Version, b.Version), cmp.Compare(a.Digest, b.Digest))
	})
	c.Dependencies = slices.Compact(v.resolved)
	return c, nil
}

// folder packs the chart in root, which is the folder at.
func (v *vendor) folder(ctx context.Context, root *os.Root, at string) (*Chart, error) {
	files, err := readFolder(ctx, root)
	if err != nil {
		return nil, err
	}
	loaded, err := load(files)
	if err != nil {
		return nil, err
	}
	if v.Options.Dependencies != nil {
		v.above = append(v.above, at)
		if files, err = v.add(ctx, at, loaded, files); err != nil {
			return nil, err
		}
		v.above = v.above[:len(v.above)-1]
		if loaded, err = load(files); err != nil {
			return nil, err
		}
	}
	c, err := newChart(loaded)
	if err != nil {
		return nil, err
	}
	c.Archive, err = writeArchive(c.Name, files)
	return c, err
}

// reason takes the path, which Error says already, off an error of the file system.
func reason(err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err
	}
	return err
}

// checkRequirements refuses what the loader only prints a warning about, to the standard logger of the process.
func checkRequirements(files []*loader.BufferedFile) error {
	old := slices.IndexFunc(files, func(f *loader.BufferedFile) bool {
		return f.Name == "requirements.yaml" || f.Name == "requirements.lock"
	})
	if old < 0 {
		return nil
	}
	for _, f := range files {
		if f.Name != "Chart.yaml" {
			continue
		}
		c, err := loader.LoadFiles([]*loader.BufferedFile{{Name: f.Name, Data: f.Data}})
		if err == nil && c.Metadata.APIVersion != chart.APIVersionV1 {
			return fmt.Errorf("%s next to apiVersion %s, want the dependencies in Chart.yaml", files[old].Name, c.Metadata.APIVersion)
		}
	}
	return nil
}

func packArchive(path string) (*Chart, error) {
	archive, err := readFile(path, MaxChart)
	if err != nil {
		return nil, err
	}
	if !isZipped(archive) {
		return nil, errors.New("neither a folder nor a .tgz")
	}
	provenance, err := readFile(path+".prov", MaxProvenance)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return FromArchive(archive, provenance)
}

func isZipped(archive []byte) bool { return bytes.HasPrefix(archive, []byte("\x1f\x8b\x08")) }

// FromArchive gives the chart in a .tgz, which is kept byte for byte. provenance is its .prov file, or nil.
func FromArchive(archive, provenance []byte) (*Chart, error) {
	if len(archive) > MaxChart {
		return nil, fmt.Errorf("%d bytes, the limit for a chart is %d", len(archive), MaxChart)
	}
	if len(provenance) > MaxProvenance {
		return nil, fmt.Errorf("provenance: %d bytes, the limit is %d", len(provenance), MaxProvenance)
	}
	if !isZipped(archive) {
		return nil, errors.New("not a .tgz")
	}
	if err := newBounds().checkArchive(archive, 0); err != nil {
		return nil, err
	}
	files, err := loader.LoadArchiveFiles(bytes.NewReader(archive))
	if err != nil {
		return nil, err
	}
	loaded, err := parse(files)
	if err != nil {
		return nil, err
	}
	c, err := newChart(loaded)
	if err != nil {
		return nil, err
	}
	c.Archive, c.Provenance = archive, provenance
	return c, nil
}

func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, reason(err)
	}
	defer f.Close() //nolint:errcheck // only read
	return readAtMost(f, path, limit)
}

func readAtMost(r io.Reader, name string, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s has more than %d bytes", name, limit)
	}
	return data, nil
}

func newChart(loaded *chart.Chart) (*Chart, error) {
	m := loaded.Metadata
	have := make(map[string]struct{})
	for _, dependency := range loaded.Dependencies() {
		have[dependency.Name()] = struct{}{}
	}
	missing := &MissingDependenciesError{Chart: m.Name}
	for _, dependency := range m.Dependencies {
		if _, ok := have[dependency.Name]; !ok {
			missing.Names = append(missing.Names, dependency.Name)
		}
	}
	if missing.Names != nil {
		slices.Sort(missing.Names)
		missing.Names = slices.Compact(missing.Names)
		return nil, missing
	}
	meta, err := json.Marshal(m) // like Helm, so that both make the same config blob
	if err != nil {
		return nil, err
	}
	return &Chart{Name: m.Name, Version: m.Version, Description: m.Description, Meta: meta}, nil
}

// Tag is the version as an OCI tag. Helm writes '+', which tags cannot have, as '_' and reads it back.
func (c *Chart) Tag() string { return strings.ReplaceAll(c.Version, "+", "_") }

// Blobs are the blobs that the manifest names, the config first.
func (c *Chart) Blobs() []Blob {
	blobs := []Blob{newBlob(MediaTypeConfig, c.Meta), newBlob(MediaTypeArchive, c.Archive)}
	if c.Provenance != nil {
		blobs = append(blobs, newBlob(MediaTypeProvenance, c.Provenance))
	}
	return blobs
}

func newBlob(mediaType string, data []byte) Blob {
	return Blob{
		Descriptor: ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))},
		Data:       data,
	}
}

// Manifest is the OCI image manifest of the chart. Unlike the one of `helm push` it does not say when it was made, so
// that the same chart has the same digest in every release.
func (c *Chart) Manifest() ([]byte, error) {
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Annotations: map[string]string{
			ocispec.AnnotationTitle:   c.Name,
			ocispec.AnnotationVersion: c.Version,
		},
	}
	if c.Description != "" {
		m.Annotations[ocispec.AnnotationDescription] = c.Description
	}
	for i, blob := range c.Blobs() {
		if i == 0 {
			m.Config = blob.Descriptor
		} else {
			m.Layers = append(m.Layers, blob.Descriptor)
		}
	}
	return strictjson.Marshal(m)
}
