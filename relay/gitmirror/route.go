package gitmirror

import (
	"net"
	"strings"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/relay/smarthttp"
)

// The longest URL path that is looked at: a repository's path and what may stand around it.
const maxURLPath = bundle.MaxPath + 256

// places lists what a place in a URL may name, the most explicit first: /git/<host>/<path>, /<host>/<path>, and
// /<path> when the client reached us by the repository's own host name.
func places(host, place string) []string {
	var list []string
	if rest, ok := strings.CutPrefix(place, "/git/"); ok {
		list = append(list, rest)
	}
	list = append(list, strings.TrimPrefix(place, "/"))
	if host != "" {
		list = append(list, host+place)
		if name, _, err := net.SplitHostPort(host); err == nil && name != "" {
			list = append(list, name+place)
		}
	}
	return list
}

// routeKey is a repository's path with its host in lower case: DNS names do not distinguish case, paths do.
func routeKey(path string) string {
	host, rest, ok := strings.Cut(path, "/")
	if !ok {
		return path
	}
	return strings.TrimSuffix(strings.ToLower(host), ".") + "/" + rest
}

// Lookup finds the repository that a request names by its Host header and its URL path, whatever it asks of it.
func (g *Generation) Lookup(host, urlPath string) (Repository, bool) {
	repo, _, ok := g.route(host, urlPath)
	return repo, ok
}

func (g *Generation) route(host, urlPath string) (Repository, smarthttp.Endpoint, bool) {
	if len(urlPath) > maxURLPath || !strings.HasPrefix(urlPath, "/") {
		return Repository{}, smarthttp.EndpointNone, false
	}
	place, e := smarthttp.SplitPath(urlPath)
	for _, path := range places(host, place) {
		if repo, ok := g.routes[routeKey(path)]; ok {
			return repo, e, true
		}
	}
	return Repository{}, e, false
}
