package siterepo

import (
	"net"
	"net/http"
	"strings"

	"github.com/plimsoll/plimsoll/relay/smarthttp"
)

// Identity is who asks, as the caller has proved it.
type Identity struct {
	Name  string // stands in the history
	Write bool   // may push
}

// Answer says what was asked, for logs.
type Answer struct {
	Repository string // its name; empty when there is none
	Service    string // git-upload-pack or git-receive-pack; empty for what is not Git's smart protocol
	Protocol   string // GIT_PROTOCOL as the client asked for it
	Pushes     []Push // what a push changed
	Err        error  // why a push was refused or did not end well: *RefusedError, *NoRoomError, *GitError, …
}

// place is where URLs of the site's repositories start, behind an optional /git/.
const place = "/site/"

// Serves reports whether a request is for one of the site's repositories: /site/<name>[.git]/… or
// /git/site/<name>[.git]/…. Of a mirrored host's own name (Options.MirrorHost) only the second is.
func (s *Set) Serves(host, urlPath string) bool {
	r, _ := s.route(host, urlPath)
	return r != nil
}

func (s *Set) route(host, urlPath string) (*repository, smarthttp.Endpoint) {
	if len(urlPath) > len("/git/site/.git/git-receive-pack")+MaxName+64 { // 64: an object of the dumb protocol
		return nil, smarthttp.EndpointNone
	}
	where, e := smarthttp.SplitPath(urlPath)
	name, ok := strings.CutPrefix(where, "/git"+place)
	if !ok {
		if name, ok = strings.CutPrefix(where, place); !ok || s.opts.MirrorHost(hostName(host)) {
			return nil, e
		}
	}
	return s.repositories[name], e
}

// hostName is a Host header without port, in lower case.
func hostName(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return strings.TrimSuffix(strings.ToLower(host), ".")
}

// Serve answers Git's smart HTTP protocol (gitprotocol-http(5)), versions 0, 1 and 2, for the site's repositories. It
// refuses in plain text: 403 for a push by who may only read, 404 for what is unknown. It panics with
// http.ErrAbortHandler when an answer breaks off that would otherwise look whole.
func (s *Set) Serve(w http.ResponseWriter, req *http.Request, who Identity) Answer {
	smarthttp.NoCache(w.Header())
	r, e := s.route(req.Host, req.URL.Path)
	if r == nil {
		smarthttp.Refuse(w, http.StatusNotFound, "there is no such Git repository here")
		return Answer{}
	}
	service, advertise, refusal := smarthttp.Asked(req, e)
	_, protocol := smarthttp.Protocol(req)
	a := Answer{Repository: r.name, Service: string(service), Protocol: protocol}
	if service == smarthttp.ReceivePack {
		if text := whyNot(who); text != "" {
			refusal = &smarthttp.Refusal{Status: http.StatusForbidden, Text: text}
		}
	}
	if refusal != nil {
		refusal.ServeHTTP(w, req)
		return a
	}
	switch {
	case service == smarthttp.UploadPack && advertise:
		a.Err = s.read.Advertise(w, req, r.reading())
	case service == smarthttp.UploadPack:
		a.Err = s.read.Serve(w, req, r.reading())
	case advertise:
		s.advertisePush(w, req, r, &a)
	default:
		s.servePush(w, req, r, who, &a)
	}
	return a
}

// whyNot says why somebody may not push.
func whyNot(who Identity) string {
	switch {
	case !who.Write && who.Name == "":
		return "this repository is written by operators of the site only: push with an operator's credentials"
	case !who.Write:
		return "this repository is written by operators of the site only: " + printable(who.Name) + " may read it"
	case who.Name == "" || len(who.Name) > maxWho || printable(who.Name) != who.Name:
		return "who pushes must have a name that can be written down"
	}
	return ""
}

// printable leaves out what a terminal would obey.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r >= 0x7f && r <= 0x9f || r == '\uFFFD' || r == '\u2028' || r == '\u2029' {
			return -1
		}
		return r
	}, s)
}

// reading lets a client finish what it began before a push, as the mirror does.
func (r *repository) reading() smarthttp.Request {
	return smarthttp.Request{Service: smarthttp.UploadPack, Dir: r.git(), Config: []string{
		"uploadpack.allowAnySHA1InWant", "true",
		"uploadpack.allowFilter", "true",
	}}
}

func (s *Set) advertisePush(w http.ResponseWriter, req *http.Request, r *repository, a *Answer) {
	// Git shows its user the text of a refusal here, and not that of one at the push itself.
	if err := checkRoom(r.dir, 0); err != nil {
		a.Err = err
		smarthttp.Refuse(w, http.StatusInsufficientStorage, err.Error())
		return
	}
	a.Err = s.write.Advertise(w, req, smarthttp.Request{Service: smarthttp.ReceivePack, Dir: r.git(), Config: s.writing(false)})
}
