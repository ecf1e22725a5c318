package media

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/errdef"
	orasremote "oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
	"oras.land/oras-go/v2/registry/remote/errcode"
	"oras.land/oras-go/v2/registry/remote/retry"

	"github.com/plimsoll/plimsoll/bundle"
)

const (
	maxCAFile       = 4 << 20  // bytes
	maxErrorBody    = 16 << 10 // bytes of a registry's error
	maxListingPages = 64       // of referrers
	defaultStall    = time.Minute
	// headerTimeout is how long a registry may think; a large upload ends with it hashing or moving the blob.
	headerTimeout = 10 * time.Minute
)

// remote is one repository of an OCI registry, for reading and for writing. Requests that fail with 429 or 5xx are
// repeated by the client when their body can be sent again.
type remote struct {
	ref   reference
	name  string // for errors: oci://host/repository
	repo  *orasremote.Repository
	http  *auth.Client
	stall time.Duration
}

func openRemote(r reference, o Options) (*remote, error) {
	transport, err := newTransport(o)
	if err != nil {
		return nil, err
	}
	creds, err := dockerCredentials(o.DockerConfig)
	if err != nil {
		return nil, err
	}
	agent := o.UserAgent
	if agent == "" {
		agent = "plimsoll"
	}
	client := &auth.Client{
		Client: &http.Client{Transport: retry.NewTransport(transport)},
		Header: http.Header{"User-Agent": {agent}},
		Cache:  auth.NewCache(), Credential: creds,
	}
	repo := &orasremote.Repository{
		Client: client, Reference: r.repo, PlainHTTP: o.PlainHTTP,
		MaxMetadataBytes: bundle.MaxManifest, ReferrerListMaxPages: maxListingPages,
		// Most registries forbid deletions, and the index of referrers that was replaced does no harm.
		SkipReferrersGC: true,
	}
	stall := o.StallTimeout
	if stall <= 0 {
		stall = defaultStall
	}
	name := remoteScheme + r.repo.Registry + "/" + r.repo.Repository
	return &remote{ref: r, name: name, repo: repo, http: client, stall: stall}, nil
}

func newTransport(o Options) (*http.Transport, error) {
	t := &http.Transport{
		Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 16, IdleConnTimeout: 90 * time.Second,
		TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: headerTimeout,
		// Bytes are asked for as they are: an encoding would hide their length.
		DisableCompression: true,
		TLSClientConfig:    &tls.Config{MinVersion: tls.VersionTLS12},
	}
	if o.CAFile == "" {
		return t, nil
	}
	f, err := os.Open(o.CAFile)
	if err != nil {
		return nil, err
	}
	pem, err := io.ReadAll(io.LimitReader(f, maxCAFile))
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	pool, err := x509.SystemCertPool()
	if err != nil { // a machine without CAs of its own still has the given ones
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("CA file %s: there is no certificate in it", o.CAFile)
	}
	t.TLSClientConfig.RootCAs = pool
	return t, nil
}

func dockerCredentials(path string) (auth.CredentialFunc, error) {
	if path != "" {
		if _, err := os.Stat(path); err != nil { // oras-go takes a missing file for an empty one
			return nil, fmt.Errorf("registry credentials: %w", err)
		}
		store, err := credentials.NewStore(path, credentials.StoreOptions{})
		if err != nil {
			return nil, fmt.Errorf("registry credentials %s: %w", path, err)
		}
		return credentials.Credential(store), nil
	}
	store, err := credentials.NewStoreFromDocker(credentials.StoreOptions{})
	if err == nil {
		return credentials.Credential(store), nil
	}
	if _, homeErr := os.UserHomeDir(); homeErr != nil {
		return nil, nil // a service without a home has nothing there, and asks as nobody
	}
	return nil, fmt.Errorf("registry credentials: %w", err)
}

func (r *remote) Root(ctx context.Context) (ocispec.Descriptor, error) {
	name := r.ref.tag
	if r.ref.digest != "" {
		name = r.ref.digest.String()
	}
	desc, rc, err := r.repo.Manifests().FetchReference(ctx, name)
	if errors.Is(err, errdef.ErrNotFound) {
		return ocispec.Descriptor{}, r.ref.errorf("the registry has no %s there", name)
	}
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("%s: %w", r.name, err)
	}
	if err := rc.Close(); err != nil {
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
	var refs []Referrer
	err := r.repo.Referrers(ctx, ocispec.Descriptor{Digest: subject}, "", func(page []ocispec.Descriptor) error {
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
	})
	if err != nil && !errors.Is(err, errdef.ErrNotFound) {
		return nil, fmt.Errorf("%s: referrers of %s: %w", r.name, subject, err)
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

func (r *remote) Open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	return r.OpenAt(ctx, desc, 0)
}

func (r *remote) OpenAt(ctx context.Context, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	if err := bundle.CheckDescriptor(desc); err != nil {
		return nil, fmt.Errorf("%s: %w", r.name, err)
	}
	if offset < 0 || offset > desc.Size {
		return nil, fmt.Errorf("%s: blob %s: offset %d of %d", r.name, desc.Digest, offset, desc.Size)
	}
	if offset == desc.Size && offset > 0 {
		return io.NopCloser(strings.NewReader("")), nil // no range says this
	}
	// The context ends the response when it stalls, so it lives as long as the body.
	ctx, cancel := context.WithCancelCause(ctx)
	body, err := r.get(ctx, desc, offset)
	if err != nil {
		cancel(nil)
		return nil, fmt.Errorf("%s: blob %s: %w", r.name, desc.Digest, err)
	}
	s := &stallReader{ctx: ctx, body: body, timeout: r.stall, cancel: cancel}
	s.r = io.LimitReader(body, desc.Size-offset+1) // one more, so that too much is seen
	s.timer = time.AfterFunc(r.stall, func() { cancel(errStalled) })
	s.timer.Stop()
	return s, nil
}

// get asks for a manifest or a blob from offset on. oras-go's own fetch cannot begin in the middle.
func (r *remote) get(ctx context.Context, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	kind := "blobs"
	if bundle.IsManifest(desc.MediaType) {
		kind = "manifests"
	}
	u := url.URL{Scheme: "https", Host: r.repo.Reference.Host(), Path: "/v2/" + r.repo.Reference.Repository + "/" + kind + "/" + desc.Digest.String()}
	if r.repo.PlainHTTP {
		u.Scheme = "http"
	}
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
		return nil, err
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
		return fmt.Errorf("the registry answered %q to a range from %d", header, offset)
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

// errStalled is a net.Error that is a time-out, for those who ask whether it is worth trying again.
var errStalled = fmt.Errorf("the registry sent nothing for too long: %w", os.ErrDeadlineExceeded)

// stallReader cuts a body that brings nothing while somebody waits for it. TCP alone waits for hours for a peer that is
// gone.
type stallReader struct {
	ctx     context.Context
	r       io.Reader
	body    io.Closer
	timeout time.Duration
	timer   *time.Timer
	cancel  context.CancelCauseFunc
}

func (s *stallReader) Read(p []byte) (int, error) {
	s.timer.Reset(s.timeout)
	n, err := s.r.Read(p)
	s.timer.Stop()
	if err != nil && !errors.Is(err, io.EOF) && errors.Is(context.Cause(s.ctx), errStalled) {
		err = errStalled
	}
	return n, err
}

func (s *stallReader) Close() error {
	s.timer.Stop()
	s.cancel(nil)
	return s.body.Close()
}
