package origin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"strings"

	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// Limits of a list of tags.
const (
	MaxTags     = 50_000
	maxTagPages = 1000
)

// errNoList says that a registry does not have a list.
var errNoList = errors.New("the registry has no such list")

// Tags lists the tags of the repository (OCI distribution-spec 1.1, "Listing Tags"), in the registry's order.
func (r *Repository) Tags(ctx context.Context) ([]string, error) {
	var tags []string
	err := r.pages(ctx, r.url("tags", "list"), "application/json", maxTagPages, func(_ *http.Response, raw []byte) error {
		var page struct {
			Tags []string `json:"tags"`
		}
		if err := strictjson.Check(raw); err != nil {
			return err
		}
		if err := json.Unmarshal(raw, &page); err != nil {
			return err
		}
		if len(tags)+len(page.Tags) > MaxTags {
			return fmt.Errorf("more than %d", MaxTags)
		}
		tags = append(tags, page.Tags...)
		return nil
	})
	if errors.Is(err, errNoList) {
		err = errors.Join(fs.ErrNotExist, err)
	}
	if err != nil {
		return nil, fmt.Errorf("tags of %s: %w", r.repo, err)
	}
	return tags, nil
}

// pages reads a list page by page. The error is errNoList when there is none.
func (r *Repository) pages(ctx context.Context, page *url.URL, accept string, limit int, each func(*http.Response, []byte) error) error {
	what := page.Path
	seen := make(map[string]bool)
	for n := 0; page != nil; n++ {
		if n == limit {
			return fmt.Errorf("more than %d pages", limit)
		}
		if seen[page.String()] {
			return errors.New("the pages of the list go round in a circle")
		}
		seen[page.String()] = true
		resp, err := r.get(ctx, page, accept, 0)
		if err != nil {
			return err
		}
		switch resp.StatusCode {
		case http.StatusOK:
		case http.StatusNotFound, http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusNotAcceptable, http.StatusNotImplemented:
			if n == 0 {
				return errors.Join(errNoList, resp.Body.Close())
			}
			return r.unexpected(resp, what)
		default:
			return r.unexpected(resp, what)
		}
		raw, err := readDocument(resp)
		if err != nil {
			return err
		}
		if err := each(resp, raw); err != nil {
			return err
		}
		if page, err = r.nextPage(page, resp.Header.Values("Link")); err != nil {
			return err
		}
	}
	return nil
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
