package builder

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/name"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/builder/chartpack"
	"github.com/plimsoll/plimsoll/builder/gitpack"
	"github.com/plimsoll/plimsoll/builder/spec"
	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/progress"
	"github.com/plimsoll/plimsoll/internal/strictjson"
)

func (a *assembly) addChart(ctx context.Context, c spec.Chart) error {
	if c.Path == "" {
		return a.addRemoteChart(ctx, c)
	}
	a.o.Progress.Report(progress.Event{Stage: "pack", Name: c.Path})
	chart, err := chartpack.Pack(ctx, a.o.Spec.Path(c.Path))
	if err != nil {
		return err
	}
	raw, err := chart.Manifest()
	if err != nil {
		return err
	}
	desc, bytes := ocispec.Descriptor{}, int64(0)
	for _, blob := range chart.Blobs() {
		if err := a.putBytes(ctx, blob.Descriptor, blob.Data); err != nil {
			return err
		}
		a.count(blob.Descriptor)
		bytes += blob.Size
	}
	if desc, err = a.put(ctx, ocispec.MediaTypeImageManifest, raw); err != nil {
		return err
	}
	a.count(desc)
	repository := a.o.Spec.ChartRepository(c, chart.Name)
	a.add(bundle.Item{
		Name: repository + ":" + chart.Tag(), Kind: bundle.KindChart, Source: c.Path, Descriptor: desc,
		Bytes: bytes + desc.Size, Repository: repository, Tags: []string{chart.Tag()},
	}, desc)
	a.o.Progress.Report(progress.Event{Stage: "pack", Name: c.Path, End: true, Note: chart.Name + " " + chart.Version})
	return nil
}

// addRemoteChart copies a chart that is an OCI artifact already.
func (a *assembly) addRemoteChart(ctx context.Context, c spec.Chart) error {
	ref, err := name.ParseReference(c.Reference.String())
	if err != nil {
		return err
	}
	repo, err := a.o.Registries.Repository(ctx, ref)
	if err != nil {
		return err
	}
	desc, _, err := repo.Resolve(ctx, ref)
	if err != nil {
		return err
	}
	if bundle.IsIndex(desc.MediaType) {
		return fmt.Errorf("%s is an index, not a chart", c.Ref)
	}
	it := bundle.Item{
		Name: c.Repository + "@" + desc.Digest.Encoded()[:16], Kind: bundle.KindChart, Source: c.Ref, Descriptor: desc, Repository: c.Repository,
	}
	if c.Reference.Tag != "" {
		it.Name, it.Tags = c.Repository+":"+c.Reference.Tag, []string{c.Reference.Tag}
	}
	if it.Bytes, err = a.copyGraph(ctx, it.Name, repo, desc); err != nil {
		return inItem(it.Name, err)
	}
	a.add(it, desc)
	return a.carryReferrers(ctx, repo, &image{item: it.Name, repository: it.Repository, root: desc})
}

func (a *assembly) addGit(ctx context.Context, g spec.Git) error {
	source := g.URL
	if g.Local {
		source = a.o.Spec.Path(g.URL)
	}
	packed, err := gitpack.Pack(ctx, gitpack.Options{
		Source: source, Refs: g.Refs, Head: g.Head, Dir: a.o.TempDir, Git: a.o.Git, Progress: a.o.Progress,
	})
	if err != nil {
		return err
	}
	defer packed.Close() //nolint:errcheck // scratch
	if packed.Newest.After(a.newestCommit) {
		a.newestCommit = packed.Newest
	}
	layer, err := a.putFile(ctx, packed.File, bundle.MediaTypeGitLayer, g.Repository)
	if err != nil {
		return err
	}
	data, err := strictjson.Marshal(packed.Git)
	if err != nil {
		return err
	}
	config, err := a.put(ctx, bundle.MediaTypeGitConfig, data)
	if err != nil {
		return err
	}
	desc, err := a.putArtifact(ctx, bundle.ArtifactTypeGit, &config, []ocispec.Descriptor{layer},
		map[string]string{ocispec.AnnotationTitle: g.Repository})
	if err != nil {
		return err
	}
	a.count(layer, config, desc)
	a.add(bundle.Item{
		Name: g.Repository, Kind: bundle.KindGit, Source: g.URL, Descriptor: desc,
		Bytes: layer.Size + config.Size + desc.Size, Repository: g.Repository, Git: &packed.Git,
	}, desc)
	return nil
}

func (a *assembly) addFile(ctx context.Context, f spec.File) error {
	path := a.o.Spec.Path(f.Path)
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", path)
	}
	title := f.Name
	if title == "" {
		title = filepath.Base(path)
	}
	layer, err := a.putFile(ctx, path, bundle.MediaTypeFileLayer, title)
	if err != nil {
		return err
	}
	layer.Annotations = map[string]string{ocispec.AnnotationTitle: title}
	desc, err := a.putArtifact(ctx, bundle.ArtifactTypeFile, nil, []ocispec.Descriptor{layer}, nil)
	if err != nil {
		return err
	}
	a.count(layer, desc, ocispec.DescriptorEmptyJSON)
	// Of the mode only what a checkout keeps too travels: who may execute it. The rest depends on the builder's umask.
	mode := uint32(0o644)
	if info.Mode()&0o111 != 0 {
		mode = 0o755
	}
	a.add(bundle.Item{
		Name: f.Repository + ":" + a.o.Spec.Tag(), Kind: bundle.KindFile, Source: f.Path, Descriptor: desc,
		Bytes: layer.Size + desc.Size + ocispec.DescriptorEmptyJSON.Size, Repository: f.Repository,
		Tags: []string{a.o.Spec.Tag()}, File: &bundle.File{Path: title, Mode: mode},
	}, desc)
	return nil
}
