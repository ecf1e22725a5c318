package builder

import (
	"context"
	"errors"

	"github.com/opencontainers/go-digest"

	"github.com/plimsoll/plimsoll/builder/chartpack"
	"github.com/plimsoll/plimsoll/builder/gitpack"
	"github.com/plimsoll/plimsoll/builder/pins"
	"github.com/plimsoll/plimsoll/builder/spec"
	"github.com/plimsoll/plimsoll/bundle"
)

// Resolve asks the sources what their tags, branches and constraints mean now. It copies nothing but the charts of
// classic repositories and the dependencies of charts, whose digests nobody else knows.
func Resolve(ctx context.Context, o Options) (*pins.Pins, error) {
	a := &assembly{o: o.withDefaults()}
	a.o.Pins = nil
	p := &pins.Pins{APIVersion: pins.Version, Items: []pins.Pin{}}
	s := o.Spec.Spec
	for _, im := range s.Images {
		src := source{bundle.KindImage, im.Ref, im.Reference, im.Local, im.Repository, im.Tag, im.Platforms}
		if err := a.pinReference(ctx, p, src); err != nil {
			return nil, im.Position.Wrap("", err)
		}
	}
	for _, r := range s.Artifacts {
		src := source{kind: bundle.KindArtifact, written: r.Ref, reference: r.Reference}
		if err := a.pinReference(ctx, p, src); err != nil {
			return nil, r.Position.Wrap("", err)
		}
	}
	for _, c := range s.Charts {
		if err := a.pinChart(ctx, p, c); err != nil {
			return nil, c.Position.Wrap("", err)
		}
	}
	for _, g := range s.Git {
		git, err := gitpack.List(ctx, a.gitOptions(g))
		if err != nil {
			return nil, g.Position.Wrap("", err)
		}
		p.Items = append(p.Items, pins.Pin{Kind: bundle.KindGit, Source: g.URL, Place: g.Repository, Git: &pins.Git{Head: git.Head, Refs: git.Refs}})
	}
	p.Sort()
	return p, nil
}

func (a *assembly) pinReference(ctx context.Context, p *pins.Pins, src source) error {
	from, err := a.openOrigin(ctx, src)
	if err != nil {
		return err
	}
	desc, _, err := from.Root(ctx)
	if err := errors.Join(err, from.Close()); err != nil {
		return err
	}
	p.Items = append(p.Items, pins.Pin{Kind: src.kind, Source: src.written, Digest: desc.Digest})
	return nil
}

func (a *assembly) pinChart(ctx context.Context, p *pins.Pins, c spec.Chart) error {
	switch {
	case c.Ref != "":
		return a.pinReference(ctx, p, source{kind: bundle.KindChart, written: c.Ref, reference: c.Reference})
	case c.URL != "":
		chart, err := a.o.Charts.Chart(ctx, c.URL, c.Name, c.Semver)
		if err != nil {
			return err
		}
		p.Items = append(p.Items, pins.Pin{
			Kind: bundle.KindChart, Source: classicSource(c), Version: chart.Version, Digest: digest.FromBytes(chart.Archive),
		})
		return nil
	}
	chart, err := chartpack.PackWith(ctx, a.o.Spec.Path(c.Path), chartpack.Options{Dependencies: a.o.Charts})
	if err != nil {
		return err
	}
	pin := pins.Pin{Kind: bundle.KindChart, Source: c.Path}
	for _, d := range chart.Dependencies {
		pin.Vendored = append(pin.Vendored, bundle.Dependency(d))
	}
	p.Items = append(p.Items, pin)
	return nil
}
