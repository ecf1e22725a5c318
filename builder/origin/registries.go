package origin

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

const (
	defaultPatience = time.Minute
	defaultStall    = time.Minute
)

// Registries is the way to upstream registries. The zero value uses the docker configuration's credentials over HTTPS,
// and plain HTTP for loopback hosts.
type Registries struct {
	// Mirrors maps a registry host (ghcr.io) to the base address to ask instead: http://127.0.0.1:5000 or
	// https://cache.example.com/prefix.
	Mirrors map[string]string
	// PlainHTTP names the hosts, host or host:port as in references, that may be spoken to without TLS.
	PlainHTTP []string
	// CertsDirs are folders in the manner of containers-certs.d(5): HOST[:PORT]/*.crt are CAs that are trusted beside the
	// system's, *.cert with *.key of the same name are client certificates. The first that has a folder for a host counts.
	CertsDirs []string
	// Patience is how long a request that fails with 429, 5xx or a connection error is repeated, counted from its first
	// failure; 0 is one minute, a negative one repeats nothing.
	Patience time.Duration
	// Stall is how long an answer may bring next to nothing before it is cut, to be resumed; 0 is one minute.
	Stall     time.Duration
	Keychain  authn.Keychain    // authn.DefaultKeychain if nil
	Transport http.RoundTripper // one with the environment's proxies if nil; CertsDirs need it to be an *http.Transport
	UserAgent string

	mu    sync.Mutex
	way   http.RoundTripper
	repos map[string]*connection
}

// connection is a Repository that may not be there yet. A registry that is slow to answer keeps nobody else waiting.
type connection struct {
	turn chan struct{} // holds one token
	repo *Repository
}

// Repository connects to the repository of a reference.
func (rs *Registries) Repository(ctx context.Context, ref name.Reference) (*Repository, error) {
	repo, err := rs.mirrored(ref.Context())
	if err != nil {
		return nil, err
	}
	c, way := rs.connection(repo)
	select {
	case c.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-c.turn }()
	if c.repo != nil {
		return c.repo, nil
	}
	if c.repo, err = rs.connect(ctx, repo, way); err != nil {
		return nil, fmt.Errorf("registry %s: %w", repo.RegistryStr(), err)
	}
	return c.repo, nil
}

func (rs *Registries) connection(repo name.Repository) (*connection, http.RoundTripper) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rs.way == nil {
		rs.way = transport.NewUserAgent(rs.newWay(), rs.UserAgent)
		rs.repos = make(map[string]*connection)
	}
	c := rs.repos[repo.Name()]
	if c == nil {
		c = &connection{turn: make(chan struct{}, 1)}
		rs.repos[repo.Name()] = c
	}
	return c, rs.way
}

func (rs *Registries) connect(ctx context.Context, repo name.Repository, way http.RoundTripper) (*Repository, error) {
	keychain := rs.Keychain
	if keychain == nil {
		keychain = authn.DefaultKeychain
	}
	auth, err := authn.Resolve(ctx, keychain, repo)
	if err != nil {
		return nil, fmt.Errorf("credentials: %w", tidy(err))
	}
	rt, err := transport.NewWithContext(ctx, repo.Registry, auth, way, []string{repo.Scope(transport.PullScope)})
	if err != nil {
		return nil, tidy(err)
	}
	return &Repository{repo: repo, client: &http.Client{Transport: rt, CheckRedirect: checkRedirect}, patience: rs.patience()}, nil
}

func (rs *Registries) patience() time.Duration {
	if rs.Patience == 0 {
		return defaultPatience
	}
	return max(0, rs.Patience)
}

// newWay is the chain of transports below the one that authenticates: repeat, guard, and choose certificates by host.
func (rs *Registries) newWay() http.RoundTripper {
	stall, base := rs.Stall, rs.Transport
	if stall <= 0 {
		stall = defaultStall
	}
	if base == nil {
		base = newTransport()
	}
	plain := make(map[string]bool)
	for _, host := range rs.PlainHTTP {
		plain[canonicalHost(host, "http")] = true
	}
	for _, address := range rs.Mirrors {
		if u, err := url.Parse(address); err == nil && u.Scheme == "http" {
			plain[canonicalHost(u.Host, "http")] = true
		}
	}
	return &repeater{patience: rs.patience(), next: &guard{
		plain: plain, stall: stall, next: &hosts{base: base, dirs: rs.CertsDirs},
	}}
}

// CertsTransport is a way to any web server with the certificates in dirs, as CertsDirs has them, and the environment's
// proxies.
func CertsTransport(dirs []string) http.RoundTripper { return &hosts{base: newTransport(), dirs: dirs} }

func (rs *Registries) mirrored(repo name.Repository) (name.Repository, error) {
	host := repo.RegistryStr()
	if host == name.DefaultRegistry {
		host = "docker.io" // as people write it
	}
	address, ok := rs.Mirrors[host]
	if !ok {
		for _, plain := range rs.PlainHTTP {
			if canonicalHost(plain, "http") == canonicalHost(repo.RegistryStr(), "http") {
				return name.NewRepository(repo.Name(), name.Insecure)
			}
		}
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
