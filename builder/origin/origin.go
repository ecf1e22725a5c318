// Package origin reads images and artifacts from the OCI registries that they come from, byte for byte: what it gives
// keeps its digest, and nothing is unpacked or converted.
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
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// maxReferrers bounds how many manifests may refer to one manifest.
const maxReferrers = 1024

// Registries is the way to upstream registries. The zero value uses the docker configuration's credentials over HTTPS,
// and plain HTTP for loopback hosts.
type Registries struct {
	// Mirrors maps a registry host (ghcr.io) to the base address to ask instead: http://127.0.0.1:5000 or
	// https://cache.example.com/prefix.
	Mirrors   map[string]string
	Keychain  authn.Keychain    // authn.DefaultKeychain if nil
	Transport http.RoundTripper // remote.DefaultTransport if nil
	UserAgent string

	mu    sync.Mutex
	repos map[string]*Repository
}

// Repository is one repository of one registry. It is a bundle.Fetcher.
type Repository struct {
	repo   name.Repository
	client *http.Client
	opts   []remote.Option
}

// Repository connects to the repository of a reference.
func (rs *Registries) Repository(ctx context.Context, ref name.Reference) (*Repository, error) {
	repo, err := rs.mirrored(ref.Context())
	if err != nil {
		return nil, err
	}
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if r, ok := rs.repos[repo.Name()]; ok {
		return r, nil
	}
	keychain, base := rs.Keychain, rs.Transport
	if keychain == nil {
		keychain = authn.DefaultKeychain
	}
	if base == nil {
		base = remote.DefaultTransport
	}
	auth, err := authn.Resolve(ctx, keychain, repo)
	if err != nil {
		return nil, fmt.Errorf("registry %s: credentials: %w", repo.RegistryStr(), err)
	}
	rt, err := transport.NewWithContext(ctx, repo.Registry, auth, transport.NewRetry(transport.NewUserAgent(base, rs.UserAgent)),
		[]string{repo.Scope(transport.PullScope)})
	if err != nil {
		return nil, fmt.Errorf("registry %s: %w", repo.RegistryStr(), err)
	}
	r := &Repository{
		repo:   repo,
		client: &http.Client{Transport: rt},
		opts:   []remote.Option{remote.WithTransport(rt), remote.WithAuth(auth)},
	}
	if rs.repos == nil {
		rs.repos = make(map[string]*Repository)
	}
	rs.repos[repo.Name()] = r
	return r, nil
}

func (rs *Registries) mirrored(repo name.Repository) (name.Repository, error) {
	host := repo.RegistryStr()
	if host == name.DefaultRegistry {
		host = "docker.io" // as people write it
	}
	address, ok := rs.Mirrors[host]
	if !ok {
		return repo, nil
	}
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return repo, fmt.Errorf("mirror of %s: %q: want http://host[:port][/prefix] or https://…", host, address)
	}
	var opts []name.Option
	if u.Scheme == "http" {
		opts = append(opts, name.Insecure)
	}
	path := strings.Trim(u.Path+"/"+repo.RepositoryStr(), "/")
	return name.NewRepository(u.Host+"/"+path, opts...)
}

// Resolve asks for the manifest that a reference names and gives its descriptor with the bytes.
func (r *Repository) Resolve(ctx context.Context, ref name.Reference) (ocispec.Descriptor, []byte, error) {
	resp, err := r.get(ctx, "manifests", ref.Identifier(), 0)
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, bundle.MaxManifest+1))
	if err != nil {
		return ocispec.Descriptor{}, nil, fmt.Errorf("manifest %s: %w", ref, err)
	}
	if len(raw) > bundle.MaxManifest {
		return ocispec.Descriptor{}, nil, fmt.Errorf("manifest %s: more than %d bytes", ref, bundle.MaxManifest)
	}
	mediaType, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil || !bundle.IsManifest(mediaType) {
		return ocispec.Descriptor{}, nil, fmt.Errorf("manifest %s: media type %q, want an OCI or Docker index or manifest (schema 2)",
			ref, resp.Header.Get("Content-Type"))
	}
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	if want, err := digest.Parse(ref.Identifier()); err == nil {
		if got := want.Algorithm().FromBytes(raw); got != want {
			return ocispec.Descriptor{}, nil, &bundle.DamagedError{Descriptor: ocispec.Descriptor{Digest: want}, Digest: got}
		}
		desc.Digest = want
	}
	return desc, raw, nil
}

// Open implements bundle.Fetcher.
func (r *Repository) Open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	return r.OpenAt(ctx, desc, 0)
}

// OpenAt opens a blob at an offset in bytes, so that a broken connection can be taken up again where it broke.
func (r *Repository) OpenAt(ctx context.Context, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	kind := "blobs"
	if bundle.IsManifest(desc.MediaType) {
		kind = "manifests"
	}
	resp, err := r.get(ctx, kind, desc.Digest.String(), offset)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// Referrers lists the manifests whose subject is the digest (OCI distribution-spec 1.1, with the tag fallback), and
// those under the legacy cosign tags sha256-<hex>.sig, .att and .sbom, with their tag.
func (r *Repository) Referrers(ctx context.Context, subject digest.Digest) ([]Referrer, error) {
	index, err := remote.Referrers(r.repo.Digest(subject.String()), append(r.opts, remote.WithContext(ctx))...)
	if err != nil {
		return nil, fmt.Errorf("referrers of %s: %w", subject, err)
	}
	raw, err := index.RawManifest()
	if err != nil {
		return nil, fmt.Errorf("referrers of %s: %w", subject, err)
	}
	var list struct {
		Manifests []ocispec.Descriptor `json:"manifests"`
	}
	if err := strictjson.Unmarshal(raw, &list); err != nil {
		return nil, fmt.Errorf("referrers of %s: %w", subject, err)
	}
	if len(list.Manifests) > maxReferrers {
		return nil, fmt.Errorf("referrers of %s: %d, the limit is %d", subject, len(list.Manifests), maxReferrers)
	}
	referrers := make([]Referrer, 0, len(list.Manifests))
	for _, d := range list.Manifests {
		referrers = append(referrers, Referrer{Descriptor: d})
	}
	for _, suffix := range []string{"sig", "att", "sbom"} {
		tag := fmt.Sprintf("%s-%s.%s", subject.Algorithm(), subject.Encoded(), suffix)
		desc, _, err := r.Resolve(ctx, r.repo.Tag(tag))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("tag %s: %w", tag, err)
		}
		referrers = append(referrers, Referrer{Descriptor: desc, Tag: tag})
	}
	return referrers, nil
}

// Referrer is a manifest that refers to another one, by its subject field or, with Tag set, by a legacy tag.
type Referrer struct {
	ocispec.Descriptor
	Tag string
}

var manifestTypes = strings.Join([]string{
	ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest,
	"application/vnd.docker.distribution.manifest.list.v2+json", "application/vnd.docker.distribution.manifest.v2+json",
}, ", ")

func (r *Repository) get(ctx context.Context, kind, id string, offset int64) (*http.Response, error) {
	u := url.URL{Scheme: r.repo.Scheme(), Host: r.repo.RegistryStr(), Path: "/v2/" + r.repo.RepositoryStr() + "/" + kind + "/" + id}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	want := http.StatusOK
	if kind == "manifests" {
		req.Header.Set("Accept", manifestTypes)
	}
	if offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
		want = http.StatusPartialContent
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == want {
		return resp, nil
	}
	defer resp.Body.Close()
	err = transport.CheckError(resp, want)
	if resp.StatusCode == http.StatusNotFound {
		err = errors.Join(fs.ErrNotExist, err)
	}
	return nil, fmt.Errorf("%s/%s@%s: %w", r.repo.RegistryStr(), r.repo.RepositoryStr(), id, err)
}
