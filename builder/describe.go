package builder

import (
	"context"
	"fmt"
	"regexp"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/attest/sign"
	"github.com/plimsoll/plimsoll/builder/origin"
	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/bundle/media"
	"github.com/plimsoll/plimsoll/internal/progress"
	"github.com/plimsoll/plimsoll/sbom"
)

// builderID is the SLSA v1 builder.id of a build on whatever machine the key's owner runs it.
const builderID = "https://plimsoll.dev/builder"

// describe gives each image an SBOM, unless it brought one, and signs each image index and platform manifest.
func (a *assembly) describe(ctx context.Context) error {
	for _, im := range a.images {
		if im.kind != bundle.KindImage {
			continue
		}
		if err := a.describeImage(ctx, im); err != nil {
			return inItem(im.item, err)
		}
		if len(a.o.Release) == 0 {
			continue
		}
		a.o.Progress.Report(progress.Event{Stage: "sign", Name: im.item})
		subjects := []ocispec.Descriptor{im.root}
		for _, m := range im.manifests {
			if m.Digest != im.root.Digest {
				subjects = append(subjects, m.Descriptor)
			}
		}
		for _, subject := range subjects {
			artifacts, err := a.o.Release.SignManifest(plain(subject), im.repository)
			if err != nil {
				return inItem(im.item, err)
			}
			for _, artifact := range artifacts {
				if err := a.attach(ctx, im, subject, artifact); err != nil {
					return inItem(im.item, err)
				}
			}
		}
		a.o.Progress.Report(progress.Event{Stage: "sign", Name: im.item, End: true})
	}
	return nil
}

func (a *assembly) describeImage(ctx context.Context, im *image) error {
	if a.o.SBOM == nil {
		return nil
	}
	brought, err := a.broughtSBOM(ctx, im)
	if err != nil || brought {
		return err
	}
	var children []sbom.Child
	for _, m := range im.manifests {
		a.o.Progress.Report(progress.Event{Stage: "sbom", Name: im.item, Note: m.platform})
		subject := sbom.Subject{Repository: im.repository, Digest: m.Digest, Platform: m.platform, Created: a.created, Creator: a.creator()}
		doc, err := a.o.SBOM(ctx, a.sink, m.Descriptor, subject)
		if err != nil {
			return fmt.Errorf("SBOM of %s: %w", m.platform, err)
		}
		if err := a.attachSBOM(ctx, im, m.Descriptor, doc); err != nil {
			return err
		}
		children = append(children, sbom.Child{Subject: subject, Document: doc})
		a.o.Progress.Report(progress.Event{Stage: "sbom", Name: im.item, End: true, Note: m.platform})
	}
	if im.index == nil {
		return nil
	}
	doc, err := sbom.IndexDocument(sbom.Subject{Repository: im.repository, Digest: im.root.Digest, Created: a.created, Creator: a.creator()}, children)
	if err != nil {
		return err
	}
	return a.attachSBOM(ctx, im, im.root, doc)
}

// attachSBOM adds an SPDX document as a signed in-toto attestation, or bare when there is no attestation key.
func (a *assembly) attachSBOM(ctx context.Context, im *image, subject ocispec.Descriptor, doc []byte) error {
	if a.o.Attestation == nil {
		layer, err := a.put(ctx, sbom.MediaTypeSPDX, doc)
		if err != nil {
			return err
		}
		desc, err := a.putReferrer(ctx, sbom.MediaTypeSPDX, subject, layer)
		if err != nil {
			return err
		}
		a.count(layer, desc, ocispec.DescriptorEmptyJSON)
		a.addReferrer(im, subject.Digest, origin.Referrer{Descriptor: desc}, layer.Size+desc.Size+ocispec.DescriptorEmptyJSON.Size)
		return nil
	}
	artifact, err := a.o.Attestation.Attest(attest.Statement{PredicateType: sbom.PredicateSPDX, Predicate: doc}, plain(subject))
	if err != nil {
		return err
	}
	return a.attach(ctx, im, subject, artifact)
}

// attach stores what was made by signing and lists it in the bundle.
func (a *assembly) attach(ctx context.Context, im *image, subject ocispec.Descriptor, artifact sign.Artifact) error {
	bytes, err := a.putSigned(ctx, artifact)
	if err != nil {
		return err
	}
	a.addReferrer(im, subject.Digest, origin.Referrer{Descriptor: artifact.Manifest, Tag: artifact.Tag}, bytes)
	return nil
}

func (a *assembly) putSigned(ctx context.Context, artifact sign.Artifact) (int64, error) {
	var bytes int64
	for _, blob := range artifact.Blobs {
		if err := a.putBytes(ctx, blob.Descriptor, blob.Data); err != nil {
			return 0, err
		}
		a.count(blob.Descriptor)
		bytes += blob.Size
	}
	return bytes, nil
}

// vouch signs the bundle's index with the release keys and attests its provenance with the attestation key. Both travel
// beside the bundle: they speak of its digest.
func (a *assembly) vouch(ctx context.Context, root ocispec.Descriptor, lock *bundle.Lock) ([]media.Referrer, error) {
	var artifacts []sign.Artifact
	if a.o.Bare {
		return nil, nil
	}
	if len(a.o.Release) > 0 {
		a.o.Progress.Report(progress.Event{Stage: "sign", Name: lock.Name + " " + lock.Version})
		signed, err := a.o.Release.SignManifest(root, lock.Name)
		if err != nil {
			return nil, err
		}
		artifacts = append(artifacts, signed...)
	}
	if a.o.Attestation != nil {
		statement, err := a.provenance(lock)
		if err != nil {
			return nil, err
		}
		artifact, err := a.o.Attestation.Attest(statement, root)
		if err != nil {
			return nil, err
		}
		artifacts = append(artifacts, artifact)
	}
	beside := make([]media.Referrer, 0, len(artifacts))
	for _, artifact := range artifacts {
		if _, err := a.putSigned(ctx, artifact); err != nil {
			return nil, err
		}
		beside = append(beside, media.Referrer{Descriptor: artifact.Manifest, Tag: artifact.Tag})
	}
	if len(artifacts) > 0 {
		a.o.Progress.Report(progress.Event{Stage: "sign", Name: lock.Name + " " + lock.Version, End: true})
	}
	return beside, nil
}

var commitPattern = regexp.MustCompile(`^[0-9a-f]{40}$`)

// provenance says what went in: FORMAT.md lists the parameters.
func (a *assembly) provenance(lock *bundle.Lock) (attest.Statement, error) {
	b := sign.Build{
		BuilderID: builderID, BuilderName: lock.Builder.Name, BuilderVersion: lock.Builder.Version,
		Spec: lock.Spec, Name: lock.Name, Version: lock.Version,
	}
	if src := a.o.Spec.Spec.Source; src.URL != "" {
		d := sign.Dependency{Name: "source", URI: "git+" + src.URL, Digest: map[string]string{}}
		if commitPattern.MatchString(src.Revision) {
			d.Digest["gitCommit"] = src.Revision
		} else if src.Revision != "" {
			d.URI += "@" + src.Revision
		}
		b.Dependencies = append(b.Dependencies, d)
	}
	for _, it := range lock.Items {
		switch {
		case it.Source == "":
		case it.Git == nil:
			b.Dependencies = append(b.Dependencies, sign.Dependency{
				Name: it.Name, URI: it.Source, Digest: map[string]string{it.Descriptor.Digest.Algorithm().String(): it.Descriptor.Digest.Encoded()},
			})
		default:
			for _, ref := range it.Git.Refs {
				commit := ref.OID
				if ref.Peeled != "" {
					commit = ref.Peeled
				}
				b.Dependencies = append(b.Dependencies, sign.Dependency{
					Name: it.Name + "@" + ref.Name, URI: it.Source, Digest: map[string]string{"gitCommit": commit},
				})
			}
		}
	}
	return sign.Provenance(b)
}

// broughtSBOM reports whether the image, or any of its manifests, came with an SBOM of its own: that one is kept, and no
// second opinion is put beside it.
func (a *assembly) broughtSBOM(ctx context.Context, im *image) (bool, error) {
	candidates := make([]sbom.Candidate, 0, len(im.referrers)+len(im.attestation))
	add := func(d ocispec.Descriptor, tag string) error {
		raw, err := bundle.ReadBlob(ctx, a.sink, plain(d), bundle.MaxManifest)
		candidates = append(candidates, sbom.Candidate{Descriptor: d, Tag: tag, Manifest: raw})
		return err
	}
	for _, r := range im.referrers {
		if err := add(r.Descriptor, r.Tag); err != nil {
			return false, err
		}
	}
	for _, d := range im.attestation {
		if err := add(d, ""); err != nil {
			return false, err
		}
	}
	subjects := []ocispec.Descriptor{im.root}
	for _, m := range im.manifests {
		subjects = append(subjects, m.Descriptor)
	}
	for _, subject := range subjects {
		found, err := sbom.Brought(subject.Digest, candidates)
		if err != nil || len(found) > 0 {
			return len(found) > 0, err
		}
	}
	return false, nil
}

// putReferrer writes an artifact manifest with a subject.
func (a *assembly) putReferrer(ctx context.Context, artifactType string, subject, layer ocispec.Descriptor) (ocispec.Descriptor, error) {
	empty, err := a.put(ctx, ocispec.MediaTypeEmptyJSON, []byte("{}"))
	if err != nil {
		return empty, err
	}
	subject = plain(subject)
	return a.putJSON(ctx, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    ocispec.MediaTypeImageManifest,
		ArtifactType: artifactType,
		Config:       empty,
		Layers:       []ocispec.Descriptor{layer},
		Subject:      &subject,
	})
}

// creator is the tool that SBOMs name.
func (a *assembly) creator() string {
	if a.o.Version == "" {
		return ""
	}
	return "plimsoll-" + a.o.Version
}
