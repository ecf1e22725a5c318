package registry

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"

	"github.com/plimsoll/plimsoll/bundle"
)

// Kind says what a request asked for.
type Kind uint8

// The kinds of requests. KindNone is everything that this registry does not answer, whatever is written included.
const (
	KindNone      Kind = iota
	KindPing           // GET /v2/
	KindCatalog        // /v2/_catalog
	KindManifest       // /v2/<name>/manifests/<reference>
	KindBlob           // /v2/<name>/blobs/<digest>
	KindTags           // /v2/<name>/tags/list
	KindReferrers      // /v2/<name>/referrers/<digest>

	kindUpload // /v2/<name>/blobs/uploads/…, a path of the half of the API that is not here
)

// String gives a word for logs and metrics, "none" for KindNone.
func (k Kind) String() string {
	switch k {
	case KindPing:
		return "ping"
	case KindCatalog:
		return "catalog"
	case KindManifest:
		return "manifest"
	case KindBlob:
		return "blob"
	case KindTags:
		return "tags"
	case KindReferrers:
		return "referrers"
	}
	return "none"
}

// route is what a path asks for. Name and reference are not checked yet.
type route struct {
	kind      Kind
	name      string
	reference string
}

// parseRequest gives the route of a request. A slash that was sent as %2F belongs to a name or a reference, where none is
// allowed: it must not become a separator that a proxy before the relay did not see.
func parseRequest(r *http.Request) (route, bool) {
	if raw := r.URL.RawPath; raw != "" && (strings.Contains(raw, "%2F") || strings.Contains(raw, "%2f")) {
		return route{}, false
	}
	return parsePath(r.URL.Path)
}

// parsePath splits a path of distribution-spec 1.1 "Endpoints". It reads from the end, because a repository may be called
// acme/blobs or acme/tags/list.
func parsePath(p string) (route, bool) {
	if len(p) > bundle.MaxPath {
		return route{}, false // nothing that is served has such a path, and errors repeat parts of it
	}
	rest, ok := strings.CutPrefix(p, "/v2/")
	if !ok {
		return route{kind: KindPing}, p == "/v2"
	}
	switch rest {
	case "":
		return route{kind: KindPing}, true
	case "_catalog":
		return route{kind: KindCatalog}, true
	}
	i := strings.LastIndexByte(rest, '/')
	j := strings.LastIndexByte(rest[:max(i, 0)], '/')
	if j < 0 {
		return route{}, false
	}
	rt := route{name: rest[:j], reference: rest[i+1:]}
	switch word := rest[j+1 : i]; {
	case word == "manifests":
		rt.kind = KindManifest
	case word == "referrers":
		rt.kind = KindReferrers
	case word == "tags" && rt.reference == "list":
		rt.kind = KindTags
	case word == "blobs" && rt.reference == "uploads", word == "uploads" && strings.HasSuffix(rt.name, "/blobs"):
		rt.kind = kindUpload
	case word == "blobs":
		rt.kind = KindBlob
	default:
		return route{}, false
	}
	return rt, true
}

// dockerHub is the host in the names of Docker Hub's images; requests for them go to other hosts.
const dockerHub = "docker.io"

var hostPattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*(:[0-9]{1,5})?$`)

// upstreams are the registries that the relay stands in for, and the names by which clients call them.
type upstreams struct {
	view  *View
	names map[string]string // Handler.Hosts
}

func (u upstreams) known(host string) bool {
	if u.view == nil {
		return false
	}
	_, ok := u.view.hosts[host]
	return ok
}

// canonical gives the one spelling of a host: lower case, Docker Hub as docker.io, further names resolved. A further name
// cannot hide an upstream that the view has: what is signed for one host would be served for another.
func (u upstreams) canonical(host string) string {
	host = canonicalHost(host)
	if other, ok := u.names[host]; ok && !u.known(host) {
		return canonicalHost(other)
	}
	return host
}

// errNotAName does not repeat the name: what a client sends must not come back multiplied by its escaping.
var errNotAName = errors.New("not a repository name")

// resolve gives the full name of the repository that a request means: name as it is in the path, ns and host as the
// client sent them.
//
//  1. ns names the upstream. containerd sends it with every request to a mirror, also when the mirror's path has the
//     upstream in it, so a name that already starts with it is left alone.
//  2. A path that starts with an upstream that the view has is the full name.
//  3. A Host header that is such an upstream names it: the client was led here by DNS and never heard of mirrors.
//  4. Otherwise the path is the name.
func (u upstreams) resolve(name, ns, host string) (string, error) {
	// Before any rule, so that no rule can turn a bad name into a good one.
	if !checkedName(name) {
		return "", errNotAName
	}
	upstream, err := u.upstream(name, ns, host)
	if err != nil {
		return "", err
	}
	full := name
	first, rest, more := strings.Cut(name, "/")
	switch {
	case upstream == "":
		if more && isHost(first) {
			full = join(u.canonical(first), rest, name)
		}
	case more && u.canonical(first) == upstream:
		full = join(upstream, rest, name)
	default:
		full = join(upstream, name, "")
	}
	if full != name && !checkedName(full) {
		return "", errNotAName
	}
	return full, nil
}

// upstream gives the host that a request names, "" when it names none.
func (u upstreams) upstream(name, ns, host string) (string, error) {
	if ns != "" {
		if len(ns) > bundle.MaxName {
			return "", fmt.Errorf("ns has %d bytes, the limit is %d", len(ns), bundle.MaxName)
		}
		upstream := u.canonical(ns)
		if !u.known(upstream) && !hostPattern.MatchString(upstream) {
			return "", fmt.Errorf("ns %q is not a host", ns)
		}
		return upstream, nil
	}
	if first, _, more := strings.Cut(name, "/"); more && isHost(first) {
		if upstream := u.canonical(first); u.known(upstream) {
			return upstream, nil
		}
	}
	for _, h := range [2]string{host, withoutPort(host)} {
		if upstream := u.canonical(h); u.known(upstream) {
			return upstream, nil
		}
	}
	return "", nil
}

// join puts a name under an upstream; have is the whole name if it may be that already.
func join(upstream, rest, have string) string {
	if upstream == dockerHub && strings.IndexByte(rest, '/') < 0 {
		return upstream + "/library/" + rest
	}
	if len(have) == len(upstream)+1+len(rest) && strings.HasPrefix(have, upstream) {
		return have
	}
	return upstream + "/" + rest
}

// canonicalName gives the one spelling of a repository's full name under which a view knows it: host in lower case,
// Docker Hub as docker.io, its official images under library/.
func canonicalName(name string) string {
	host, rest, more := strings.Cut(name, "/")
	if !more || !isHost(host) {
		return name
	}
	return join(canonicalHost(host), rest, name)
}

// isHost tells a host from the first part of a repository name the way that the reference grammar of Docker does.
func isHost(part string) bool {
	return strings.ContainsAny(part, ".:") || part == "localhost"
}

func canonicalHost(host string) string {
	host = strings.TrimSuffix(strings.ToLower(host), ".") // "ghcr.io." is how resolvers are told not to search
	switch host {
	case "registry-1.docker.io", "index.docker.io", "registry.hub.docker.com":
		return dockerHub
	}
	return host
}

func withoutPort(host string) string {
	if i := strings.LastIndexByte(host, ':'); i >= 0 {
		return host[:i]
	}
	return host
}
