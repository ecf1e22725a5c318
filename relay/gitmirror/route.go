package gitmirror

import (
	"net"
	"regexp"
	"strings"

	"github.com/plimsoll/plimsoll/bundle"
)

// endpoint is what a client asks of a repository.
type endpoint int

const (
	endpointNone        endpoint = iota // the repository's own URL: a browser, or a tool that tries it as a file
	endpointRefs                        // …/info/refs
	endpointUploadPack                  // …/git-upload-pack
	endpointReceivePack                 // …/git-receive-pack
	endpointFiles                       // …/HEAD, …/objects/…: the dumb protocol
)

// The longest URL path that is looked at: a repository's path and what may stand around it.
const maxURLPath = bundle.MaxPath + 256

// The files that a client of the dumb protocol reads (gitprotocol-http(5)).
var dumbFile = regexp.MustCompile(`/(HEAD|objects/(info/[^/]+|[0-9a-f]{2}/[0-9a-f]{38}|pack/pack-[0-9a-f]{40}\.(pack|idx)))$`)

// splitPath takes the endpoint off a URL path. What is left is a repository's place without ".git".
func splitPath(urlPath string) (place string, e endpoint) {
	place = urlPath
	if cut, ok := strings.CutSuffix(urlPath, "/info/refs"); ok {
		place, e = cut, endpointRefs
	} else if cut, ok := strings.CutSuffix(urlPath, "/git-upload-pack"); ok {
		place, e = cut, endpointUploadPack
	} else if cut, ok := strings.CutSuffix(urlPath, "/git-receive-pack"); ok {
		place, e = cut, endpointReceivePack
	} else if at := dumbFile.FindStringIndex(urlPath); at != nil {
		place, e = urlPath[:at[0]], endpointFiles
	}
	return strings.TrimSuffix(strings.TrimSuffix(place, "/"), ".git"), e
}

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

func (g *Generation) route(host, urlPath string) (Repository, endpoint, bool) {
	if len(urlPath) > maxURLPath || !strings.HasPrefix(urlPath, "/") {
		return Repository{}, endpointNone, false
	}
	place, e := splitPath(urlPath)
	for _, path := range places(host, place) {
		if repo, ok := g.routes[routeKey(path)]; ok {
			return repo, e, true
		}
	}
	return Repository{}, e, false
}
