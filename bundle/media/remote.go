package media

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/errdef"
	orasremote "oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/plimsoll/plimsoll/bundle"
)

const (
	maxErrorBody    = 16 << 10 // bytes of a registry's error
	maxListingPages = 64       // of referrers
	defaultStall    = time.Minute
)

// remote is one repository of an OCI registry, for reading and for writing. Its requests are repeated with patience.
type remote struct {
	ref     reference
	name    string // for errors: oci://host/repository
	repo    *orasremote.Repository
	http    *auth.Client
	link    *link
	workers int      // as the options say; 0 when they do not
	mounts  []string // repositories from which blobs may be mounted, as the options say

	mu       sync.Mutex
	mountsNo map[string]bool // repositories from which none can be
}

func openRemote(r reference, o Options) (*remote, error) {
	connections, err := newDialed(r.repo.Host(), o)
	if err != nil {
		return nil, err
	}
	creds, err := dockerCredentials(o.DockerConfig)
	if err != nil {
		return nil, err
	}
	if err := checkMounts(r, o.MountFrom); err != nil {
		return nil, err
	}
	agent, stall, patience := o.UserAgent, o.StallTimeout, o.Patience
	if agent == "" {
		agent = "plimsoll"
	}
	if stall <= 0 {
		stall = defaultStall
	}
	if patience == 0 {
		patience = DefaultPatience
	}
	l := &link{name: r.repo.Registry, patience: patience, progress: o.Progress}
	client := &auth.Client{
		Client: &http.Client{
			Transport:     &transport{next: connections, link: l, bucket: newBucket(o.Rate), stall: stall},
			CheckRedirect: checkRedirect,
		},
		Header: http.Header{"User-Agent": {agent}},
		Cache:  auth.NewCache(), Credential: creds,
	}
	repo := &orasremote.Repository{
		Client: client, Reference: r.repo, PlainHTTP: o.PlainHTTP,
		MaxMetadataBytes: bundle.MaxManifest, ReferrerListMaxPages: maxListingPages,
		// Most registries forbid deletions, and the index of referrers that was replaced does no harm.
		SkipReferrersGC: true,
	}
	return &remote{
		ref: r, name: remoteScheme + r.repo.Registry + "/" + r.repo.Repository, repo: repo, http: client, link: l,
		workers: o.Workers, mounts: o.MountFrom, mountsNo: make(map[string]bool),
	}, nil
}

// Patience is how long one goes on trying here while nothing comes through.
func (r *remote) Patience() time.Duration { return r.link.patience }

// patiently repeats what breaks in the middle of an answer. What breaks before is repeated by the transport.
func (r *remote) patiently(ctx context.Context, do func(context.Context) error) error {
	w := r.link.begin(ctx)
	for {
		err := do(waitingSince(ctx, w))
		var broken *brokenError
		if !errors.As(err, &broken) && !errors.Is(err, io.ErrUnexpectedEOF) || final(ctx, err) {
			return err
		}
		if err := w.next(ctx, err, 0); err != nil {
			return err
		}
	}
}

func (r *remote) Root(ctx context.Context) (ocispec.Descriptor, error) {
	name := r.ref.tag
	if r.ref.digest != "" {
		name = r.ref.digest.String()
	}
	var desc ocispec.Descriptor
	err := r.patiently(ctx, func(ctx context.Context) error {
		d, rc, err := r.repo.Manifests().FetchReference(ctx, name)
		if err != nil {
			return err
		}
		desc = d
		return rc.Close()
	})
	if errors.Is(err, errdef.ErrNotFound) {
		return ocispec.Descriptor{}, r.ref.errorf("the registry has no %s there", name)
	}
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("%s: %w", r.name, err)
	}
	switch {
	case r.ref.digest != "" && desc.Digest != r.ref.digest:
		return ocispec.Descriptor{}, &bundle.DamagedError{Descriptor: ocispec.Descriptor{Digest: r.ref.digest}, Digest: desc.Digest, Size: desc.Size}
	case desc.MediaType != ocispec.MediaTypeImageIndex:
		return ocispec.Descriptor{}, r.ref.errorf("it is not a bundle: media type %q", desc.MediaType)
	}
	return plain(desc), bundle.CheckDescriptor(desc)
}

func (r *remote) Referrers(ctx context.Context, subject digest.Digest) ([]Referrer, error) {
	if err := subject.Validate(); err != nil {
		return nil, fmt.Errorf("%s: referrers of %q: %w", r.name, subject, err)
	}
	refs, err := r.listReferrers(ctx, subject)
	if err != nil {
		return nil, err
	}
	tag := legacyTag(subject)
	desc, err := r.repo.Manifests().Resolve(ctx, tag)
	switch {
	case err == nil:
		refs = append(refs, Referrer{Descriptor: plain(desc), Tag: tag})
	case !errors.Is(err, errdef.ErrNotFound):
		return nil, fmt.Errorf("%s: tag %s: %w", r.name, tag, err)
	}
	return sortReferrers(refs), nil
}

// listReferrers gives the manifests whose subject it is.
func (r *remote) listReferrers(ctx context.Context, subject digest.Digest) ([]Referrer, error) {
	var refs []Referrer
	add := func(page []ocispec.Descriptor) error {
		for _, d := range page {
			if err := bundle.CheckDescriptor(d); err != nil {
				return err
			}
			if !bundle.IsManifest(d.MediaType) {
				continue // of a kind that this version cannot carry
			}
			ref := Referrer{Descriptor: plain(d)}
			ref.ArtifactType = d.ArtifactType
			refs = append(refs, ref)
		}
		if len(refs) > maxReferrers {
			return fmt.Errorf("more than %d", maxReferrers)
		}
		return nil
	}
	err := r.patiently(ctx, func(ctx context.Context) error {
		refs = nil
		return r.repo.Referrers(ctx, ocispec.Descriptor{Digest: subject}, "", add)
	})
	if err != nil && !errors.Is(err, errdef.ErrNotFound) {
		return nil, fmt.Errorf("%s: referrers of %s: %w", r.name, subject, err)
	}
	return refs, nil
}

func (r *remote) Open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	return r.OpenAt(ctx, desc, 0)
}

// OpenAt gives a reader that goes on where the link breaks.
func (r *remote) OpenAt(ctx context.Context, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	open := func(ctx context.Context, offset int64) (io.ReadCloser, error) { return r.openOnce(ctx, desc, offset) }
	rd := &resumeReader{ctx: ctx, open: open, link: r.link, size: desc.Size, offset: offset}
	// A break while a registry without ranges sends again what is there already is one in a blob.
	for rd.rc == nil {
		if err := rd.reopen(); err != nil {
			return nil, err
		}
	}
	return rd, nil
}

func (r *remote) openOnce(ctx context.Context, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	if err := bundle.CheckDescriptor(desc); err != nil {
		return nil, &finalError{fmt.Errorf("%s: %w", r.name, err)}
	}
	if offset < 0 || offset > desc.Size {
		return nil, &finalError{fmt.Errorf("%s: blob %s: offset %d of %d", r.name, desc.Digest, offset, desc.Size)}
	}
	if offset == desc.Size && offset > 0 {
		return io.NopCloser(strings.NewReader("")), nil // no range says this
	}
	body, err := r.get(ctx, desc, offset)
	if err != nil {
		return nil, fmt.Errorf("%s: blob %s: %w", r.name, desc.Digest, err)
	}
	// One more, so that too much is seen.
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(body, desc.Size-offset+1), body}, nil
}

// url is an address of the registry's API.
func (r *remote) url(repository, kind, name string) *url.URL {
	u := &url.URL{Scheme: "https", Host: r.repo.Reference.Host(), Path: "/v2/" + repository + "/" + kind + "/" + name}
	if r.repo.PlainHTTP {
		u.Scheme = "http"
	}
	return u
}

// get asks for a manifest or a blob from offset on. oras-go's own fetch cannot begin in the middle.
func (r *remote) get(ctx context.Context, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	kind := "blobs"
	if bundle.IsManifest(desc.MediaType) {
		kind = "manifests"
	}
	u := r.url(r.repo.Reference.Repository, kind, desc.Digest.String())
	ctx = auth.AppendRepositoryScope(ctx, r.repo.Reference, auth.ActionPull)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	if kind == "manifests" {
		req.Header.Set("Accept", desc.MediaType)
	}
	if offset > 0 {
		req.Header.Set("Range", "bytes="+strconv.FormatInt(offset, 10)+"-")
	}
	resp, err := r.http.Do(req)
	if err != nil {
		return nil, &finalError{err} // the transport was patient
	}
	if err := checkResponse(resp, desc, offset); err != nil {
		return nil, errors.Join(err, resp.Body.Close())
	}
	if offset > 0 && resp.StatusCode == http.StatusOK {
		// A registry that knows no ranges sends everything again; only the rest is asked for.
		if _, err := io.CopyN(io.Discard, resp.Body, offset); err != nil {
			return nil, errors.Join(err, resp.Body.Close())
		}
	}
	return resp.Body, nil
}

// checkResponse finds what is wrong with a response before its body is read.
func checkResponse(resp *http.Response, desc ocispec.Descriptor, offset int64) error {
	want := desc.Size
	switch {
	case resp.StatusCode == http.StatusOK:
	case resp.StatusCode == http.StatusPartialContent && offset > 0:
		want -= offset
		if err := checkContentRange(resp.Header.Get("Content-Range"), offset); err != nil {
			return err
		}
	case resp.StatusCode == http.StatusNotFound:
		return fmt.Errorf("%w: %s", fs.ErrNotExist, responseError(resp).Error())
	default:
		return responseError(resp)
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

// checkContentRange compares the start (RFC 9110, 14.4); the end is what the body's length says.
func checkContentRange(header string, offset int64) error {
	rest, ok := strings.CutPrefix(header, "bytes ")
	first, _, ok2 := strings.Cut(rest, "-")
	if n, err := strconv.ParseInt(first, 10, 64); !ok || !ok2 || err != nil || n != offset {
		return &finalError{fmt.Errorf("the registry answered %q to a range from %d", header, offset)}
	}
	return nil
}

func responseError(resp *http.Response) *errcode.ErrorResponse {
	var body struct {
		Errors errcode.Errors `json:"errors"`
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	if err != nil || json.Unmarshal(data, &body) != nil {
		body.Errors = nil // the status says enough
	}
	return &errcode.ErrorResponse{
		Method: resp.Request.Method, URL: resp.Request.URL, StatusCode: resp.StatusCode, Errors: body.Errors,
	}
}

func (r *remote) Path() string { return "" }

func (r *remote) Close() error {
	r.http.Client.CloseIdleConnections()
	return nil
}
