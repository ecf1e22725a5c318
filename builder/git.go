package builder

import (
	"context"
	"errors"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/builder/gitpack"
	"github.com/plimsoll/plimsoll/builder/spec"
	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// Predecessor is an earlier release whose Git layers a build reuses, so that a site gets only what is new.
type Predecessor struct {
	Bundle *bundle.Bundle
	Source bundle.Fetcher
	// Same says that the build repeats this very bundle: its last layers are made again, upon the ones before.
	Same bool
}

// maxGitLayers bounds a chain of incremental layers; then a full one starts another.
const maxGitLayers = 64

// packedGit is a Git repository of the bundle, as the completeness proof needs it.
type packedGit struct {
	*gitpack.Packed
	spec spec.Git
}

func (a *assembly) addGit(ctx context.Context, g spec.Git) error {
	o := a.gitOptions(g)
	if a.o.Pins != nil {
		pin, err := a.o.Pins.Find(bundle.KindGit, g.URL, g.Repository)
		if err != nil {
			return err
		}
		o.Pinned, o.Head = pin.Git.Refs, pin.Git.Head
	}
	chain, err := a.o.Since.gitLayers(ctx, g.Repository)
	if err != nil {
		return err
	}
	o.Base = chain.base
	packed, err := gitpack.Pack(ctx, o)
	if err != nil {
		return err
	}
	a.packedGit = append(a.packedGit, &packedGit{packed, g})
	if packed.Newest.After(a.newestCommit) {
		a.newestCommit = packed.Newest
	}
	layers, err := a.putGitLayers(ctx, g, packed, chain.layers)
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
	desc, err := a.putArtifact(ctx, bundle.ArtifactTypeGit, &config, layers, map[string]string{ocispec.AnnotationTitle: g.Repository})
	if err != nil {
		return err
	}
	a.count(append(layers, config, desc)...)
	bytes := config.Size + desc.Size
	for _, layer := range layers {
		bytes += layer.Size
	}
	a.add(bundle.Item{
		Name: g.Repository, Kind: bundle.KindGit, Source: g.URL, Descriptor: desc,
		Bytes: bytes, Repository: g.Repository, Git: &packed.Git,
	}, desc)
	return nil
}

func (a *assembly) gitOptions(g spec.Git) gitpack.Options {
	o := gitpack.Options{
		Source: g.URL, Refs: g.Refs, Head: g.Head, Dir: a.o.TempDir, Git: a.o.Git, Progress: a.o.Progress,
	}
	if g.Local {
		o.Source = a.o.Spec.Path(g.URL)
	}
	return o
}

// putGitLayers writes the new layer and, unless it stands alone, copies the earlier ones that it builds on.
func (a *assembly) putGitLayers(ctx context.Context, g spec.Git, packed *gitpack.Packed, earlier []ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	var layers []ocispec.Descriptor
	if !packed.Full {
		for _, layer := range earlier {
			m := &meter{send: a.o.Progress}
			m.event.Stage, m.event.Name, m.event.Total = "copy", g.Repository, layer.Size
			if err := a.copyBlob(ctx, a.o.Since.Source, layer, m); err != nil {
				return nil, inItem(g.Repository, err)
			}
			m.end()
			layers = append(layers, layer)
		}
	}
	if packed.Unchanged {
		return layers, nil
	}
	layer, err := a.putFile(ctx, packed.File, bundle.MediaTypeGitLayer, g.Repository)
	return append(layers, layer), err
}

type gitChain struct {
	layers []ocispec.Descriptor
	base   *gitpack.Base
}

// gitLayers gives the layers of a repository on which a new one is packed.
func (p *Predecessor) gitLayers(ctx context.Context, repository string) (gitChain, error) {
	if p == nil {
		return gitChain{}, nil
	}
	it, ok := p.Bundle.Lock.Item(repository)
	if !ok || it.Kind != bundle.KindGit {
		return gitChain{}, nil
	}
	chain, err := p.readChain(ctx, it)
	if err != nil {
		return gitChain{}, fmt.Errorf("%s %s: %w", p.Bundle.Lock.Name, p.Bundle.Lock.Version, inItem(it.Name, err))
	}
	return chain, nil
}

func (p *Predecessor) readChain(ctx context.Context, it bundle.Item) (gitChain, error) {
	raw, err := bundle.ReadBlob(ctx, p.Source, it.Descriptor, bundle.MaxManifest)
	if err != nil {
		return gitChain{}, err
	}
	var m ocispec.Manifest
	if err := strictjson.Unmarshal(raw, &m); err != nil {
		return gitChain{}, err
	}
	layers := m.Layers
	if p.Same && len(layers) > 0 {
		layers = layers[:len(layers)-1]
	}
	if len(layers) == 0 || !p.Same && len(layers) >= maxGitLayers {
		return gitChain{}, nil
	}
	for i, layer := range layers {
		if err := bundle.CheckDescriptor(layer); err != nil {
			return gitChain{}, err
		}
		layers[i] = plain(layer)
	}
	rc, err := p.Source.Open(ctx, layers[len(layers)-1])
	if err != nil {
		return gitChain{}, err
	}
	refs, _, err := gitpack.Header(rc)
	if err := errors.Join(err, rc.Close()); err != nil {
		return gitChain{}, err
	}
	return gitChain{layers: layers, base: &gitpack.Base{Refs: refs}}, nil
}
