package builder

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/builder/chartpack"
	"github.com/plimsoll/plimsoll/builder/pins"
	"github.com/plimsoll/plimsoll/builder/spec"
	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/progress"
	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// packedChart is a chart of the bundle, as the completeness proof needs it.
type packedChart struct {
	spec       spec.Chart
	item       string
	repository string             // under which the site serves it
	name       string             // in Chart.yaml
	version    string             // in Chart.yaml
	archive    ocispec.Descriptor // of its .tgz
}

func (a *assembly) addChart(ctx context.Context, c spec.Chart) error {
	switch {
	case c.Ref != "":
		return a.addRemoteChart(ctx, c)
	case c.URL != "":
		return a.addClassicChart(ctx, c)
	}
	a.o.Progress.Report(progress.Event{Stage: "pack", Name: c.Path})
	o := chartpack.Options{Dependencies: a.o.Charts}
	if a.o.Pins != nil {
		pin, err := a.o.Pins.Find(bundle.KindChart, c.Path, "")
		if err != nil {
			return err
		}
		o.Pinned = make([]chartpack.Resolved, 0, len(pin.Vendored))
		for _, d := range pin.Vendored {
			o.Pinned = append(o.Pinned, chartpack.Resolved(d))
		}
	}
	chart, err := chartpack.PackWith(ctx, a.o.Spec.Path(c.Path), o)
	if err != nil {
		return err
	}
	return a.putChart(ctx, c, chart, c.Path)
}

// classicSource is how the lock names a chart of a classic repository.
func classicSource(c spec.Chart) string { return c.URL + " " + c.Name + " " + c.Semver }

// addClassicChart fetches a chart from a repository with an index.yaml.
func (a *assembly) addClassicChart(ctx context.Context, c spec.Chart) error {
	source, version := classicSource(c), c.Semver
	var want digest.Digest
	if a.o.Pins != nil {
		pin, err := a.o.Pins.Find(bundle.KindChart, source, "")
		if err != nil {
			return err
		}
		version, want = pin.Version, pin.Digest
	}
	a.o.Progress.Report(progress.Event{Stage: "fetch", Name: source})
	e, err := a.o.Charts.Find(ctx, c.URL, c.Name, version)
	if err != nil {
		return err
	}
	fetched, err := a.o.Charts.Fetch(ctx, e)
	if err != nil {
		return err
	}
	if want != "" && fetched.Digest != want {
		return &pins.ChangedError{Source: source, Want: want, Got: fetched.Digest}
	}
	chart, err := fetched.Chart(e)
	if err != nil {
		return err
	}
	return a.putChart(ctx, c, chart, source)
}

// putChart writes a chart as the OCI artifact that Helm pulls.
func (a *assembly) putChart(ctx context.Context, c spec.Chart, chart *chartpack.Chart, source string) error {
	raw, err := chart.Manifest()
	if err != nil {
		return err
	}
	packed := packedChart{spec: c, name: chart.Name, version: chart.Version}
	bytes := int64(0)
	for _, blob := range chart.Blobs() {
		if err := a.putBytes(ctx, blob.Descriptor, blob.Data); err != nil {
			return err
		}
		a.count(blob.Descriptor)
		bytes += blob.Size
		if blob.MediaType == chartpack.MediaTypeArchive {
			packed.archive = blob.Descriptor
		}
	}
	desc, err := a.put(ctx, ocispec.MediaTypeImageManifest, raw)
	if err != nil {
		return err
	}
	a.count(desc)
	repository := a.o.Spec.ChartRepository(c, chart.Name)
	packed.item, packed.repository = repository+":"+chart.Tag(), repository
	it := bundle.Item{
		Name: packed.item, Kind: bundle.KindChart, Source: source, Descriptor: desc,
		Bytes: bytes + desc.Size, Repository: repository, Tags: []string{chart.Tag()},
	}
	for _, d := range chart.Dependencies {
		it.Vendored = append(it.Vendored, bundle.Dependency(d))
	}
	a.add(it, desc)
	a.packedCharts = append(a.packedCharts, packed)
	a.o.Progress.Report(progress.Event{Stage: "pack", Name: source, End: true, Note: chart.Name + " " + chart.Version})
	return nil
}

// addRemoteChart copies a chart that is an OCI artifact already.
func (a *assembly) addRemoteChart(ctx context.Context, c spec.Chart) error {
	err := a.resolve(ctx, source{kind: bundle.KindChart, written: c.Ref, reference: c.Reference, repository: c.Repository, tag: c.Reference.Tag})
	if err != nil {
		return err
	}
	im := a.images[len(a.images)-1]
	if err := a.carry(ctx, im); err != nil {
		return inItem(im.item, err)
	}
	packed := packedChart{spec: c, item: im.item, repository: im.repository, version: strings.ReplaceAll(c.Reference.Tag, "_", "+")}
	var m ocispec.Manifest
	if err := strictjson.Unmarshal(im.raw, &m); err != nil {
		return inItem(im.item, err)
	}
	i := slices.IndexFunc(m.Layers, func(d ocispec.Descriptor) bool { return d.MediaType == chartpack.MediaTypeArchive })
	if m.Config.MediaType != chartpack.MediaTypeConfig || i < 0 {
		return inItem(im.item, fmt.Errorf("config %q: not a Helm chart; other artifacts belong to artifacts", m.Config.MediaType))
	}
	packed.archive = m.Layers[i]
	data, err := bundle.ReadBlob(ctx, a.sink, plain(m.Config), chartpack.MaxFile)
	if err != nil {
		return inItem(im.item, err)
	}
	var meta struct{ Name, Version string }
	if err := strictjson.Unmarshal(data, &meta); err != nil {
		return inItem(im.item, fmt.Errorf("config %s: %w", m.Config.Digest, err))
	}
	packed.name, packed.version = meta.Name, cmp.Or(meta.Version, packed.version)
	a.packedCharts = append(a.packedCharts, packed)
	return nil
}

// valuesFiles expands the one pattern among the values files of a chart: each match makes one rendering. Names stay as
// they are written, relative to bundle.yaml.
func (a *assembly) valuesFiles(c spec.Chart) ([][]string, error) {
	stacks := [][]string{nil}
	for _, pattern := range c.Values {
		names := []string{pattern}
		if strings.Contains(pattern, "*") {
			dir := filepath.Dir(a.o.Spec.File)
			matches, err := filepath.Glob(a.o.Spec.Path(pattern))
			if err != nil {
				return nil, fmt.Errorf("values %s: %w", pattern, err)
			}
			names = names[:0]
			for _, match := range matches {
				name, err := filepath.Rel(dir, match)
				if err != nil {
					return nil, fmt.Errorf("values %s: %w", pattern, err)
				}
				names = append(names, filepath.ToSlash(name))
			}
			if len(names) == 0 {
				return nil, fmt.Errorf("values %s: no file matches", pattern)
			}
		}
		var longer [][]string
		for _, stack := range stacks {
			for _, name := range names {
				longer = append(longer, append(slices.Clone(stack), name))
			}
		}
		if stacks = longer; len(stacks) > maxRenderings {
			return nil, fmt.Errorf("values: more than %d combinations", maxRenderings)
		}
	}
	if len(c.Values) == 0 {
		return nil, nil
	}
	return stacks, nil
}

// maxRenderings bounds how often one chart is rendered.
const maxRenderings = 20_000
