package registry

import (
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"github.com/plimsoll/plimsoll/bundle"
)

type routeKind int

const (
	routePing routeKind = iota
	routeCatalog
	routeManifest
	routeBlob
	routeUpload
	routeTags
	routeReferrers
)

// route is what a path asks for. Name and reference are not checked yet.
type route struct {
	kind      routeKind
	name      string
	reference string
}

// parsePath splits a path of distribution-spec 1.1 "Endpoints". It reads from the end, because a repository may be called
// acme/blobs or acme/tags/list.
func parsePath(p string) (route, bool) {
	if len(p) > bundle.MaxPath {
		return route{}, false // nothing that is served has such a path, and errors repeat parts of it
	}
	rest, ok := strings.CutPrefix(p, "/v2/")
	if !ok {
		return route{kind: routePing}, p == "/v2"
	}
	switch rest {
	case "":
		return route{kind: routePing}, true
	case "_catalog":
		return route{kind: routeCatalog}, true
	}
	parts := strings.Split(rest, "/")
	n := len(parts)
	if n < 3 {
		return route{}, false
	}
	rt := route{name: strings.Join(parts[:n-2], "/"), reference: parts[n-1]}
	switch {
	case parts[n-2] == "manifests":
		rt.kind = routeManifest
	case parts[n-2] == "referrers":
		rt.kind = routeReferrers
	case parts[n-2] == "tags" && parts[n-1] == "list":
		rt.kind = routeTags
	case parts[n-2] == "blobs" && parts[n-1] == "uploads", parts[n-2] == "uploads" && parts[n-3] == "blobs" && n > 3:
		rt.kind = routeUpload
	case parts[n-2] == "blobs":
		rt.kind = routeBlob
	default:
		return route{}, false
	}
	return rt, true
}

// dockerHub is the host in the names of Docker Hub's images; requests for them go to other hosts.
const dockerHub = "docker.io"

var hostPattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*(:[0-9]{1,5})?$`)

// resolveName gives the full name of the repository that a request means: name as it is in the path, ns and host as the
// client sent them, known for the upstream hosts that the view has.
//
//  1. ns names the upstream. containerd sends it with every request to a mirror, also when the mirror's path has the
//     upstream in it, so a name that already starts with it is left alone.
//  2. A path that starts with an upstream that the view has is the full name.
//  3. A Host header that is such an upstream names it: the client was led here by DNS and never heard of mirrors.
//  4. Otherwise the path is the name.
func resolveName(name, ns, host string, known func(host string) bool) (string, error) {
	// Before any rule, so that no rule can turn a bad name into a good one.
	if err := checkName(name); err != nil {
		return "", err
	}
	full := canonicalName(name)
	switch first, _, _ := strings.Cut(full, "/"); {
	case ns != "":
		if len(ns) > bundle.MaxName {
			return "", fmt.Errorf("ns has %d bytes, the limit is %d", len(ns), bundle.MaxName)
		}
		upstream := canonicalHost(ns)
		if !hostPattern.MatchString(upstream) {
			return "", fmt.Errorf("ns %q is not a host", ns)
		}
		full = inUpstream(upstream, name)
	case first != full && known(first):
	case known(canonicalHost(host)):
		full = inUpstream(canonicalHost(host), name)
	case known(canonicalHost(withoutPort(host))):
		full = inUpstream(canonicalHost(withoutPort(host)), name)
	}
	return full, checkName(full)
}

func checkName(name string) error {
	if strings.Contains(name, "..") {
		return fmt.Errorf("repository %q: \"..\" is not allowed", name)
	}
	return bundle.CheckRepository(name)
}

// inUpstream puts a name under an upstream host, once.
func inUpstream(upstream, name string) string {
	if first, rest, ok := strings.Cut(name, "/"); ok && canonicalHost(first) == upstream {
		name = rest
	}
	return canonicalName(upstream + "/" + name)
}

// canonicalName gives the one spelling of a repository name under which a view knows it: host in lower case, Docker Hub
// as docker.io, its official images under library/.
func canonicalName(name string) string {
	host, rest, ok := strings.Cut(name, "/")
	if !ok || !isHost(host) {
		return name
	}
	host = canonicalHost(host)
	if host == dockerHub && !strings.Contains(rest, "/") {
		rest = "library/" + rest
	}
	return host + "/" + rest
}

// isHost tells a host from the first part of a repository name the way that the reference grammar of Docker does.
func isHost(part string) bool {
	return strings.ContainsAny(part, ".:") || part == "localhost"
}

func canonicalHost(host string) string {
	host = strings.ToLower(host)
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

// isDigest tells a digest from a tag, which cannot have a colon.
func isDigest(reference string) bool { return strings.Contains(reference, ":") }

// rangeCounts reports whether the Range header, if any, is meant for the content with this ETag (RFC 9110, 13.1.5).
func rangeCounts(r *http.Request, etag string) bool {
	cond := r.Header.Get("If-Range")
	return r.Header.Get("Range") != "" && (cond == "" || cond == etag)
}

// rangeFits reports whether at least one of the ranges has a byte in size bytes (RFC 9110, 14.1.2). It only decides what
// is answered with 416 and a JSON body; net/http, which would answer in plain text, cuts the ranges.
func rangeFits(header string, size int64) bool {
	list, ok := strings.CutPrefix(header, "bytes=")
	if !ok {
		return false
	}
	fits := size == 0 // net/http then ignores the header
	for spec := range strings.SplitSeq(list, ",") {
		spec = strings.Trim(spec, " \t")
		if spec == "" {
			continue
		}
		from, to, ok := strings.Cut(spec, "-")
		from, to = strings.Trim(from, " \t"), strings.Trim(to, " \t")
		if !ok || from == "" && to == "" {
			return false
		}
		first, err1 := parseOffset(from)
		last, err2 := parseOffset(to)
		switch {
		case err1 != nil || err2 != nil, from != "" && to != "" && first > last:
			return false
		case from == "":
			fits = fits || last > 0
		default:
			fits = fits || first < size
		}
	}
	return fits
}

// parseOffset reads decimal digits; nothing is 0.
func parseOffset(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 10, 63)
	return int64(n), err
}
