// Package chartrepo fetches Helm charts from chart repositories: classic ones, which are an index.yaml on a web server,
// and OCI registries. Helm's own client of them links half of Kubernetes.
package chartrepo

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"

	"github.com/plimsoll/plimsoll/builder/chartpack"
	"github.com/plimsoll/plimsoll/builder/origin"
)

// Client is the way to chart repositories. The zero value works: it has the docker configuration's credentials. A
// repository's index is fetched once in a Client's life, so that one build sees one state of it. It is safe for
// concurrent use.
type Client struct {
	// Registries is the way to OCI repositories. What is not set here is taken from there.
	Registries *origin.Registries
	// Mirrors maps a host (charts.example.com, with :port if the URL has one) to the base address to ask instead:
	// http://127.0.0.1:8080 or https://cache.example.com/prefix. Those of OCI hosts are in Registries.
	Mirrors map[string]string
	// Keychain has the user and password for the host of a repository, which are sent to no other host; as a last resort
	// authn.DefaultKeychain.
	Keychain  authn.Keychain
	Transport http.RoundTripper // as a last resort remote.DefaultTransport
	UserAgent string
	// Pause is before the first repetition of a request; it doubles for each further one. 1 s if 0.
	Pause time.Duration

	mu         sync.Mutex
	indexes    map[string]*cachedIndex // by the repository's URL
	indexBytes int                     // of all of them
	own        *origin.Registries      // when Registries is nil
}

// Entry is one version of a chart in a repository.
type Entry struct {
	Repository string // as it was given to Find
	Name       string
	Version    string
	URLs       []string      // where its archive is, absolute: https, http or oci; to be tried in order
	Digest     digest.Digest // of its archive, if the index has one
}

// Fetched is a chart as it came, byte for byte.
type Fetched struct {
	Archive    []byte        // the .tgz
	Provenance []byte        // its .prov file, or nil
	Digest     digest.Digest // of Archive
	URL        string        // where it was, without mirror and redirects
	Version    string        // as the repository names it
}

// Error says which chart, or which repository if Name is empty, could not be had.
type Error struct {
	Repository, Name, Version string
	Err                       error
}

func (e *Error) Error() string {
	what := strings.TrimSpace(e.Name + " " + e.Version)
	if what == "" {
		return fmt.Sprintf("chart repository %s: %v", visible(e.Repository), e.Err)
	}
	return fmt.Sprintf("chart %s in %s: %v", visible(what), visible(e.Repository), e.Err)
}

// Unwrap gives the reason.
func (e *Error) Unwrap() error { return e.Err }

// Find looks up a chart. version is a version or a constraint (15.x, ^1.2, ">=1.0 <2.0"; empty for any), of which the
// newest match is taken, as Helm does: a pre-release only where the constraint names one. *NotFoundError says which
// versions there are.
func (c *Client) Find(ctx context.Context, repository, name, version string) (*Entry, error) {
	e, err := c.find(ctx, repository, name, version)
	if err != nil {
		return nil, &Error{Repository: repository, Name: name, Version: version, Err: err}
	}
	return e, nil
}

func (c *Client) find(ctx context.Context, repository, name, version string) (*Entry, error) {
	u, err := parseRepository(repository)
	if err != nil {
		return nil, err
	}
	if u.Scheme == schemeOCI {
		return c.findOCI(ctx, repository, name, version)
	}
	idx, err := c.index(ctx, u)
	if err != nil {
		return nil, err
	}
	versions, err := idx.versions(name)
	if err != nil {
		return nil, err
	}
	v, err := choose(versions, version)
	if err != nil {
		return nil, err
	}
	return v.entry(u, name, repository)
}

const schemeOCI = "oci"

// parseRepository checks the URL of a repository.
func parseRepository(repository string) (*url.URL, error) {
	u, err := url.Parse(repository)
	switch {
	case err != nil:
		return nil, fmt.Errorf("not a URL, want https://…, http://… or oci://…")
	case u.User != nil:
		// It would be written into the lock, for everybody to read.
		return nil, fmt.Errorf("the URL has credentials in it, want them in the docker configuration")
	case u.Host == "" || u.Scheme != "https" && u.Scheme != "http" && u.Scheme != schemeOCI:
		return nil, fmt.Errorf("want https://…, http://… or oci://…")
	case u.Fragment != "":
		return nil, fmt.Errorf("the URL has a fragment #%s", visible(u.Fragment))
	}
	return u, nil
}

// Fetch gets the archive that an entry names, and its provenance when there is one. Bytes that do not have the digest of
// the entry are refused with *bundle.DamagedError.
func (c *Client) Fetch(ctx context.Context, e *Entry) (*Fetched, error) {
	f, err := c.fetch(ctx, e)
	if err != nil {
		return nil, &Error{Repository: e.Repository, Name: e.Name, Version: e.Version, Err: err}
	}
	return f, nil
}

// Chart finds, fetches and reads a chart. It implements chartpack.Resolver.
func (c *Client) Chart(ctx context.Context, repository, name, version string) (*chartpack.Chart, error) {
	e, err := c.Find(ctx, repository, name, version)
	if err != nil {
		return nil, err
	}
	f, err := c.Fetch(ctx, e)
	if err != nil {
		return nil, err
	}
	return f.Chart(e)
}

// Chart reads a fetched chart and checks that it is the one that the entry names.
func (f *Fetched) Chart(e *Entry) (*chartpack.Chart, error) {
	chart, err := chartpack.FromArchive(f.Archive, f.Provenance)
	if err == nil && (chart.Name != e.Name || !sameVersion(chart.Version, e.Version)) {
		err = fmt.Errorf("its Chart.yaml says %s %s", chart.Name, chart.Version)
	}
	if err != nil {
		where, _, _ := strings.Cut(f.URL, "?")
		return nil, &Error{Repository: e.Repository, Name: e.Name, Version: e.Version, Err: fmt.Errorf("%s: %w", visible(where), err)}
	}
	return chart, nil
}

// settings are the Client's own, or where it has none those of its Registries.
func (c *Client) settings() (authn.Keychain, http.RoundTripper, string) {
	rs := c.registries()
	keychain, way := c.Keychain, c.Transport
	if keychain == nil {
		keychain = rs.Keychain
	}
	if keychain == nil {
		keychain = authn.DefaultKeychain
	}
	if way == nil {
		way = rs.Transport
	}
	if way == nil {
		way = remote.DefaultTransport
	}
	return keychain, way, cmp.Or(c.UserAgent, rs.UserAgent, defaultUserAgent)
}

func (c *Client) registries() *origin.Registries {
	if c.Registries != nil {
		return c.Registries
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.own == nil {
		c.own = &origin.Registries{Keychain: c.Keychain, Transport: c.Transport, UserAgent: c.UserAgent}
	}
	return c.own
}
