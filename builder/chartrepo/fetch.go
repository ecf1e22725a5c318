package chartrepo

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/builder/chartpack"
	"github.com/plimsoll/plimsoll/bundle"
)

// fetch tries the URLs in turn. Wrong bytes end the search: whoever changed them must not be hidden by the next one.
func (c *Client) fetch(ctx context.Context, e *Entry) (*Fetched, error) {
	repository, err := parseRepository(e.Repository)
	if err != nil {
		return nil, err
	}
	var reasons []error
	for _, text := range e.URLs {
		u, err := url.Parse(text)
		if err != nil {
			return nil, err
		}
		var f *Fetched
		if u.Scheme == schemeOCI {
			f, err = c.fetchOCI(ctx, u)
		} else {
			f, err = c.fetchHTTP(ctx, repository, u)
		}
		var damaged *bundle.DamagedError
		if errors.As(err, &damaged) || ctx.Err() != nil {
			return nil, err
		}
		if err != nil {
			reasons = append(reasons, err)
			continue
		}
		f.Version, f.Digest = e.Version, digest.FromBytes(f.Archive)
		if e.Digest != "" && f.Digest != e.Digest {
			return nil, &bundle.DamagedError{
				Item: shownURL(u), Descriptor: ocispec.Descriptor{Digest: e.Digest, Size: int64(len(f.Archive))}, Digest: f.Digest,
			}
		}
		return f, nil
	}
	if reasons == nil {
		return nil, errors.New("no URL to fetch it from")
	}
	return nil, errors.Join(reasons...)
}

func (c *Client) fetchHTTP(ctx context.Context, repository, u *url.URL) (*Fetched, error) {
	archive, _, err := c.get(ctx, request{url: u, repository: repository, limit: chartpack.MaxChart})
	if err != nil {
		return nil, err
	}
	f := &Fetched{Archive: archive, URL: u.String()}
	beside := *u
	beside.Path, beside.RawPath = u.Path+".prov", ""
	if u.RawPath != "" {
		beside.RawPath = u.RawPath + ".prov"
	}
	provenance, header, err := c.get(ctx, request{url: &beside, repository: repository, limit: chartpack.MaxProvenance})
	var status *StatusError
	switch {
	case errors.As(err, &status) && absent(status.Status):
	case err != nil:
		return nil, err
	case isPage(header, provenance):
	default:
		f.Provenance = provenance
	}
	return f, nil
}

// absent tells the answers for a file that is not there; object stores that do not let everybody list say 403.
func absent(status int) bool {
	return status == http.StatusNotFound || status == http.StatusGone || status == http.StatusForbidden
}

// isPage tells a page that says "not found", which some servers send with the status 200, from a .prov file.
func isPage(header http.Header, data []byte) bool {
	return strings.HasPrefix(header.Get("Content-Type"), "text/html") && !bytes.Contains(data, []byte("BEGIN PGP SIGNED MESSAGE"))
}
