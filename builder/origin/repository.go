package origin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
)

// maxBuffered is the size in bytes up to which a blob is read whole before it is handed on: for a config it is not worth
// to be resumed, and those who read one do not know how.
const maxBuffered = 1 << 20

// Repository is one repository of one registry. It is a bundle.Fetcher.
type Repository struct {
	repo   name.Repository
	client *http.Client
	// patience is for those who take up a broken download, after that of each request.
	patience time.Duration
}

// Patience says how long to go on trying when a download breaks and nothing comes through (media.Patient).
func (r *Repository) Patience() time.Duration { return r.patience }

// At is the Origin of a reference in the repository. The reference may name the registry that a mirror stands for.
func (r *Repository) At(ref name.Reference) Origin { return &named{Repository: r, ref: ref} }

type named struct {
	*Repository
	ref name.Reference
}

func (n *named) Root(ctx context.Context) (ocispec.Descriptor, []byte, error) {
	return n.Resolve(ctx, n.ref)
}

// Close leaves the connections to others: Registries share them.
func (n *named) Close() error { return nil }

// Resolve asks for the manifest that a reference names and gives its descriptor with the bytes.
func (r *Repository) Resolve(ctx context.Context, ref name.Reference) (ocispec.Descriptor, []byte, error) {
	desc, raw, err := r.resolve(ctx, ref.Identifier())
	if err != nil {
		return ocispec.Descriptor{}, nil, fmt.Errorf("manifest %s: %w", ref, err)
	}
	return desc, raw, nil
}

func (r *Repository) resolve(ctx context.Context, id string) (ocispec.Descriptor, []byte, error) {
	resp, err := r.get(withLimit(ctx, bundle.MaxManifest), r.url("manifests", id), manifestTypes, 0)
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return ocispec.Descriptor{}, nil, r.unexpected(resp, id)
	}
	raw, err := readDocument(resp)
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	mediaType, err := mediaTypeOf(resp)
	if err != nil || !bundle.IsManifest(mediaType) {
		return ocispec.Descriptor{}, nil, fmt.Errorf("media type %q, want an OCI or Docker index or manifest (schema 2)%s",
			visible(resp.Header.Get("Content-Type"), maxErrorDetail), webPage(mediaType))
	}
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	for _, said := range []string{resp.Header.Get("Docker-Content-Digest"), id} {
		want := digest.Digest(said)
		if want.Validate() != nil {
			continue // a tag, or nothing
		}
		if got := want.Algorithm().FromBytes(raw); got != want {
			return ocispec.Descriptor{}, nil, &bundle.DamagedError{
				Descriptor: ocispec.Descriptor{MediaType: mediaType, Digest: want, Size: desc.Size}, Digest: got, Size: desc.Size}
		}
		if said == id {
			desc.Digest = want
		}
	}
	return desc, raw, nil
}

// readDocument reads an answer that the guard has read already.
func readDocument(resp *http.Response) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(resp.Body, bundle.MaxManifest+1))
	if err == nil && len(raw) > bundle.MaxManifest {
		err = fmt.Errorf("more than %d bytes", bundle.MaxManifest)
	}
	return raw, errors.Join(err, resp.Body.Close())
}

func mediaTypeOf(resp *http.Response) (string, error) {
	mediaType, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	return mediaType, err
}

// webPage explains the commonest wrong answer.
func webPage(mediaType string) string {
	if mediaType == "text/html" {
		return "; it is a web page: is there a log-in or a proxy in the way?"
	}
	return ""
}

// Open implements bundle.Fetcher.
func (r *Repository) Open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	return r.OpenAt(ctx, desc, 0)
}

// OpenAt opens a blob at an offset in bytes, so that a broken connection can be taken up again where it broke.
func (r *Repository) OpenAt(ctx context.Context, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	if err := bundle.CheckDescriptor(desc); err != nil {
		return nil, err
	}
	if offset < 0 || offset > desc.Size {
		return nil, fmt.Errorf("blob %s: offset %d of %d", desc.Digest, offset, desc.Size)
	}
	if offset == desc.Size && offset > 0 {
		return io.NopCloser(strings.NewReader("")), nil // no range says this
	}
	kind, accept, limit := "blobs", "", int64(streamed)
	if bundle.IsManifest(desc.MediaType) {
		kind, accept, limit = "manifests", manifestTypes, bundle.MaxManifest
	} else if desc.Size <= maxBuffered {
		limit = maxBuffered
	}
	resp, err := r.get(withLimit(ctx, limit), r.url(kind, desc.Digest.String()), accept, offset)
	if err != nil {
		return nil, err
	}
	if err := r.checkAnswer(resp, desc, offset); err != nil {
		return nil, errors.Join(err, resp.Body.Close())
	}
	if offset > 0 && resp.StatusCode == http.StatusOK {
		// A registry that knows no ranges sends everything again; only the rest is asked for.
		if _, err := io.CopyN(io.Discard, resp.Body, offset); err != nil {
			return nil, errors.Join(err, resp.Body.Close())
		}
	}
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(resp.Body, desc.Size-offset+1), resp.Body}, nil // one more, so that too much is seen
}

// checkAnswer finds what is wrong with an answer before its body is read.
func (r *Repository) checkAnswer(resp *http.Response, desc ocispec.Descriptor, offset int64) error {
	want := desc.Size
	switch {
	case resp.StatusCode == http.StatusOK:
	case resp.StatusCode == http.StatusPartialContent && offset > 0:
		want -= offset
		if err := checkContentRange(resp.Header.Get("Content-Range"), offset); err != nil {
			return fmt.Errorf("blob %s: %w", desc.Digest, err)
		}
	default:
		return r.unexpected(resp, desc.Digest.String())
	}
	if mediaType, _ := mediaTypeOf(resp); mediaType == "text/html" && resp.ContentLength != want {
		return fmt.Errorf("blob %s: the answer is %q%s", desc.Digest, mediaType, webPage(mediaType))
	}
	if n := resp.ContentLength; n >= 0 && n != want {
		return &bundle.DamagedError{Descriptor: desc, Size: n + desc.Size - want}
	}
	// RFC 9530 is younger than this header of the distribution specification.
	got := digest.Digest(resp.Header.Get("Docker-Content-Digest"))
	if got.Validate() == nil && got.Algorithm() == desc.Digest.Algorithm() && got != desc.Digest {
		return &bundle.DamagedError{Descriptor: desc, Digest: got, Size: desc.Size}
	}
	return nil
}

// checkContentRange compares the start (RFC 9110, 14.4); the end is what the length says.
func checkContentRange(header string, offset int64) error {
	rest, ok := strings.CutPrefix(header, "bytes ")
	first, _, ok2 := strings.Cut(rest, "-")
	if n, err := strconv.ParseInt(first, 10, 64); !ok || !ok2 || err != nil || n != offset {
		return fmt.Errorf("the registry answered %q to a range from %d", visible(header, maxErrorDetail), offset)
	}
	return nil
}

var manifestTypes = strings.Join([]string{
	ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest,
	"application/vnd.docker.distribution.manifest.list.v2+json", "application/vnd.docker.distribution.manifest.v2+json",
}, ", ")

func (r *Repository) url(kind, id string) *url.URL {
	return &url.URL{Scheme: r.repo.Scheme(), Host: r.repo.RegistryStr(), Path: "/v2/" + r.repo.RepositoryStr() + "/" + kind + "/" + id}
}

// get gives an answer of any status.
func (r *Repository) get(ctx context.Context, u *url.URL, accept string, offset int64) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	if offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, tidy(err)
	}
	return resp, nil
}

// unexpected is the error of an answer that has another status than those that were asked for.
func (r *Repository) unexpected(resp *http.Response, id string) error {
	err := errors.Join(responseError(resp), resp.Body.Close())
	if resp.StatusCode == http.StatusNotFound {
		err = fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	return fmt.Errorf("%s/%s@%s: %w", r.repo.RegistryStr(), r.repo.RepositoryStr(), id, err)
}
