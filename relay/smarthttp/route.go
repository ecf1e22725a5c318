package smarthttp

import (
	"io"
	"net/http"
	"regexp"
	"strings"
)

// Endpoint is what a URL names of a repository.
type Endpoint int

// The endpoints of gitprotocol-http(5).
const (
	EndpointNone        Endpoint = iota // the repository's own URL: a browser, or a tool that tries it as a file
	EndpointRefs                        // …/info/refs
	EndpointUploadPack                  // …/git-upload-pack
	EndpointReceivePack                 // …/git-receive-pack
	EndpointFiles                       // …/HEAD, …/objects/…: the dumb protocol
)

// The files that a client of the dumb protocol reads (gitprotocol-http(5)).
var dumbFile = regexp.MustCompile(`/(HEAD|objects/(info/[^/]+|[0-9a-f]{2}/[0-9a-f]{38}|pack/pack-[0-9a-f]{40}\.(pack|idx)))$`)

// SplitPath takes the endpoint off a URL path. What is left is a repository's place without ".git". The caller bounds the
// length of the path.
func SplitPath(urlPath string) (place string, e Endpoint) {
	place = urlPath
	if cut, ok := strings.CutSuffix(urlPath, "/info/refs"); ok {
		place, e = cut, EndpointRefs
	} else if cut, ok := strings.CutSuffix(urlPath, "/git-upload-pack"); ok {
		place, e = cut, EndpointUploadPack
	} else if cut, ok := strings.CutSuffix(urlPath, "/git-receive-pack"); ok {
		place, e = cut, EndpointReceivePack
	} else if at := dumbFile.FindStringIndex(urlPath); at != nil {
		place, e = urlPath[:at[0]], EndpointFiles
	}
	return strings.TrimSuffix(strings.TrimSuffix(place, "/"), ".git"), e
}

// Refusal is an answer that is not what was asked for. It is text and never HTML: kustomize takes a 200 for a file.
type Refusal struct {
	Status     int
	Text       string // one line
	Allow      string // of a 405
	RetryAfter string // of a 503: seconds
}

func (e *Refusal) Error() string { return e.Text }

// ServeHTTP answers with the refusal.
func (e *Refusal) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	h := w.Header()
	if e.Allow != "" {
		h.Set("Allow", e.Allow)
	}
	if e.RetryAfter != "" {
		h.Set("Retry-After", e.RetryAfter)
	}
	Refuse(w, e.Status, e.Text)
}

// Refuse answers in plain text.
func Refuse(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text+"\n") // a client that is gone does not read the refusal either
}

// NoCache forbids caches between the server and git to keep the answer, as git's own server does.
func NoCache(h http.Header) {
	h.Set("Expires", "Fri, 01 Jan 1980 00:00:00 GMT")
	h.Set("Pragma", "no-cache")
	h.Set("Cache-Control", "no-cache, max-age=0, must-revalidate")
	h.Set("X-Content-Type-Options", "nosniff")
}

// Asked says which service a request wants at an endpoint of a repository that exists: its advertisement, or to be
// served. A *Refusal says that it wants neither, or not in the right way (nil otherwise); the service is still named if there is one, so
// that a caller can refuse it for reasons of its own first.
func Asked(r *http.Request, e Endpoint) (s Service, advertise bool, refusal *Refusal) {
	switch e {
	case EndpointUploadPack, EndpointReceivePack:
		s = UploadPack
		if e == EndpointReceivePack {
			s = ReceivePack
		}
		if r.Method != http.MethodPost {
			refusal = &Refusal{Status: http.StatusMethodNotAllowed, Text: "use POST", Allow: "POST"}
		}
		return s, false, refusal
	case EndpointRefs:
		switch s = Service(r.URL.Query().Get("service")); {
		case s != UploadPack && s != ReceivePack:
			return "", true, &Refusal{Status: http.StatusForbidden, Text: "only Git's smart protocol is spoken here"}
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			return s, true, &Refusal{Status: http.StatusMethodNotAllowed, Text: "use GET", Allow: "GET, HEAD"}
		}
		return s, true, nil
	case EndpointFiles:
		return "", false, &Refusal{Status: http.StatusForbidden, Text: "only Git's smart protocol is spoken here"}
	}
	return "", false, &Refusal{Status: http.StatusNotFound, Text: "this is a Git repository: use git clone"}
}

// Protocol reads a request's Git-Protocol header: the version, and the value for GIT_PROTOCOL. Only what names a known
// version is handed on: the value becomes an environment variable.
func Protocol(r *http.Request) (version int, value string) {
	values := r.Header.Values("Git-Protocol")
	var known []string
	if len(values) == 1 && len(values[0]) <= 256 {
		for _, token := range strings.Split(values[0], ":") {
			switch token {
			case "version=0", "version=1", "version=2":
				known = append(known, token)
				version = max(version, int(token[len(token)-1]-'0')) // git takes the highest, too
			}
		}
	}
	return version, strings.Join(known, ":")
}
