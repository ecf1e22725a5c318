package origin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Referrers lists the manifests whose subject is the digest (OCI distribution-spec 1.1: the API and the fallback tag, for
// a registry that learned the API later can know a part by each), and those under the legacy cosign tags sha256-<hex>.sig,
// .att and .sbom, with their tag.
func (r *Repository) Referrers(ctx context.Context, subject digest.Digest) ([]Referrer, error) {
	if err := subject.Validate(); err != nil {
		return nil, fmt.Errorf("referrers of %q: %w", subject, err)
	}
	list := &referrers{subject: subject}
	if err := r.listReferrers(ctx, list); err != nil {
		return nil, fmt.Errorf("referrers of %s: %w", subject, err)
	}
	tag := fallbackTag(subject)
	desc, raw, err := r.resolve(ctx, tag)
	if err == nil {
		err = list.addIndex(desc, raw)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("referrers of %s: tag %s: %w", subject, tag, err)
	}
	for _, suffix := range legacySuffixes {
		tag := legacyTag(subject, suffix)
		if tag == "" {
			continue
		}
		desc, _, err := r.resolve(ctx, tag)
		if err == nil {
			err = list.add(desc, tag)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("referrers of %s: tag %s: %w", subject, tag, err)
		}
	}
	return list.sorted(), nil
}

// addIndex adds what a fallback tag names.
func (l *referrers) addIndex(desc ocispec.Descriptor, raw []byte) error {
	if desc.MediaType != ocispec.MediaTypeImageIndex {
		return fmt.Errorf("media type %q, want %s", desc.MediaType, ocispec.MediaTypeImageIndex)
	}
	entries, err := parseIndex(raw)
	if err != nil {
		return err
	}
	for _, d := range entries {
		if err := l.add(d, ""); err != nil {
			return err
		}
	}
	return nil
}

// listReferrers asks the API. A registry without it is none that fails.
func (r *Repository) listReferrers(ctx context.Context, list *referrers) error {
	err := r.pages(ctx, r.url("referrers", list.subject.String()), ocispec.MediaTypeImageIndex, maxListingPages, list.addPage)
	if errors.Is(err, errNoList) {
		return nil
	}
	return err
}

func (l *referrers) addPage(resp *http.Response, raw []byte) error {
	mediaType, _ := mediaTypeOf(resp)
	if mediaType != ocispec.MediaTypeImageIndex {
		return fmt.Errorf("media type %q, want %s%s", visible(resp.Header.Get("Content-Type"), maxErrorDetail),
			ocispec.MediaTypeImageIndex, webPage(mediaType))
	}
	// A list that leaves out what was not asked to be left out would lose signatures without a word.
	if filters := resp.Header.Get("OCI-Filters-Applied"); filters != "" {
		return fmt.Errorf("the registry left some out by the filter %q, all were asked for", visible(filters, maxErrorDetail))
	}
	return l.addIndex(ocispec.Descriptor{MediaType: mediaType}, raw)
}
