package origin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"strings"

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

// listReferrers asks the API, page by page. A registry without it is none that fails.
func (r *Repository) listReferrers(ctx context.Context, list *referrers) error {
	page := r.url("referrers", list.subject.String())
	seen := make(map[string]bool)
	for n := 0; page != nil; n++ {
		if n == maxListingPages {
			return fmt.Errorf("more than %d pages", maxListingPages)
		}
		if seen[page.String()] {
			return errors.New("the pages of the list go round in a circle")
		}
		seen[page.String()] = true
		resp, err := r.get(ctx, page, ocispec.MediaTypeImageIndex, 0)
		if err != nil {
			return err
		}
		switch resp.StatusCode {
		case http.StatusOK:
		case http.StatusNotFound, http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusNotAcceptable, http.StatusNotImplemented:
			if n == 0 {
				return resp.Body.Close()
			}
			return r.unexpected(resp, list.subject.String())
		default:
			return r.unexpected(resp, list.subject.String())
		}
		raw, err := readDocument(resp)
		if err != nil {
			return err
		}
		if err := list.addPage(resp, raw); err != nil {
			return err
		}
		if page, err = r.nextPage(page, resp.Header.Values("Link")); err != nil {
			return err
		}
	}
	return nil
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

// nextPage gives the address of the page that follows, or nil. It must be on the same registry: the next request carries
// credentials.
func (r *Repository) nextPage(page *url.URL, links []string) (*url.URL, error) {
	target, err := nextLink(links)
	if err != nil || target == "" {
		return nil, err
	}
	u, err := page.Parse(target)
	if err != nil {
		return nil, fmt.Errorf("next page: %w", tidy(err))
	}
	if u.Host != page.Host || u.User != nil || !strings.HasPrefix(u.Path, "/v2/") {
		return nil, fmt.Errorf("next page: %q, want one of %s/v2/", visible(target, maxErrorDetail), page.Host)
	}
	return &url.URL{Scheme: page.Scheme, Host: page.Host, Path: u.Path, RawQuery: u.RawQuery}, nil
}

// nextLink finds <target>; rel="next" (RFC 8288, 3), or "".
func nextLink(links []string) (string, error) {
	var next string
	for _, rest := range links {
		for rest = strings.TrimSpace(rest); rest != ""; {
			target, params, ok := strings.Cut(strings.TrimPrefix(rest, "<"), ">")
			if !ok || rest[0] != '<' {
				return "", fmt.Errorf("header Link: %q, want <address>; rel=\"next\"", visible(rest, maxErrorDetail))
			}
			var relation string
			relation, rest = linkRelation(params)
			if relation != "next" {
				continue
			}
			if next != "" && next != target {
				return "", errors.New("header Link: two next pages")
			}
			next = target
		}
	}
	return next, nil
}

// linkRelation reads the parameters behind a target and gives rel and what is left behind the comma.
func linkRelation(params string) (relation, rest string) {
	quoted := false
	end := len(params)
	for i := range len(params) {
		if params[i] == '"' {
			quoted = !quoted
		}
		if params[i] == ',' && !quoted {
			end, rest = i, strings.TrimLeft(params[i+1:], ", \t")
			break
		}
	}
	for _, p := range strings.Split(params[:end], ";") {
		key, value, _ := strings.Cut(strings.TrimSpace(p), "=")
		if strings.EqualFold(strings.TrimSpace(key), "rel") && relation == "" {
			relation = strings.ToLower(strings.Trim(strings.TrimSpace(value), `"`))
		}
	}
	return relation, rest
}
