package chartrepo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"strings"

	"github.com/Masterminds/semver/v3"
	"github.com/google/go-containerregistry/pkg/name"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/builder/chartpack"
	"github.com/plimsoll/plimsoll/builder/origin"
	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// legacyArchive is the media type that Helm wrote before 3.7 and still reads.
const legacyArchive = "application/tar+gzip"

// findOCI looks for the tag of a version. Without a constraint it does not list tags, which a registry may not allow.
func (c *Client) findOCI(ctx context.Context, repository, chart, want string) (*Entry, error) {
	place := strings.TrimSuffix(strings.TrimPrefix(repository, schemeOCI+"://"), "/") + "/" + chart
	repo, err := name.NewRepository(place)
	if err != nil {
		return nil, err
	}
	found := func(version string) *Entry {
		return &Entry{
			Repository: repository, Name: chart, Version: version, URLs: []string{schemeOCI + "://" + place + ":" + tag(version)},
		}
	}
	if _, err := semver.NewVersion(want); err == nil {
		err := c.exists(ctx, repo.Tag(tag(want)))
		if err == nil {
			return found(want), nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	versions, err := c.tags(ctx, repo)
	if err != nil {
		return nil, err
	}
	v, err := choose(versions, want)
	if err != nil {
		return nil, err
	}
	return found(v.text), nil
}

// tag is a version as Helm tags it.
func tag(version string) string { return strings.ReplaceAll(version, "+", "_") }

func (c *Client) exists(ctx context.Context, ref name.Reference) error {
	r, err := c.registries().Repository(ctx, ref)
	if err != nil {
		return err
	}
	_, _, err = r.Resolve(ctx, ref)
	return err
}

// fetchOCI pulls the chart that oci://host/repository/name:tag names.
func (c *Client) fetchOCI(ctx context.Context, u *url.URL) (*Fetched, error) {
	ref, err := name.ParseReference(u.Host+u.Path, name.StrictValidation)
	if err != nil {
		return nil, err
	}
	repo, err := c.registries().Repository(ctx, ref)
	if err != nil {
		return nil, err
	}
	desc, raw, err := repo.Resolve(ctx, ref)
	if err != nil {
		return nil, err
	}
	if bundle.IsIndex(desc.MediaType) {
		return nil, fmt.Errorf("%s is an index, not a chart", ref)
	}
	var manifest ocispec.Manifest
	if err := strictjson.Unmarshal(raw, &manifest); err != nil {
		return nil, fmt.Errorf("manifest %s: %w", ref, err)
	}
	f := &Fetched{URL: u.String()}
	for _, layer := range manifest.Layers {
		switch layer.MediaType {
		case chartpack.MediaTypeArchive, legacyArchive:
			err = once(ctx, repo, layer, chartpack.MaxChart, &f.Archive)
		case chartpack.MediaTypeProvenance:
			err = once(ctx, repo, layer, chartpack.MaxProvenance, &f.Provenance)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", ref, err)
		}
	}
	if f.Archive == nil {
		return nil, fmt.Errorf("%s is no chart: config %s, and no layer %s", ref, visible(shortened(manifest.Config.MediaType)), chartpack.MediaTypeArchive)
	}
	return f, nil
}

// once reads a layer of which a chart has one.
func once(ctx context.Context, repo *origin.Repository, layer ocispec.Descriptor, limit int64, into *[]byte) error {
	if *into != nil {
		return fmt.Errorf("two layers %s", layer.MediaType)
	}
	data, err := bundle.ReadBlob(ctx, repo, layer, limit)
	if err != nil {
		return err
	}
	*into = data
	return nil
}

// tags lists the versions that a repository has tags of. Like Helm it takes only tags that are semantic versions in full.
func (c *Client) tags(ctx context.Context, repo name.Repository) ([]*version, error) {
	r, err := c.registries().Repository(ctx, repo.Tag("latest")) // any reference stands for its repository
	if err != nil {
		return nil, err
	}
	tags, err := r.Tags(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		err = errors.Join(&NotFoundError{}, err)
	}
	if err != nil {
		return nil, err
	}
	var versions []*version
	for _, t := range tags {
		text := strings.ReplaceAll(t, "_", "+")
		if parsed, err := semver.StrictNewVersion(text); err == nil {
			versions = append(versions, &version{text: text, parsed: parsed})
		}
	}
	return versions, nil
}
