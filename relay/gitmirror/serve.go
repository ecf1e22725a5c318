package gitmirror

import (
	"net/http"
	"path/filepath"
	"strconv"

	"github.com/plimsoll/plimsoll/relay/smarthttp"
)

// Answer says what a request was about, for logs and records.
type Answer struct {
	Repository string // its path; empty when there is none
	Service    string // "git-upload-pack", "git-receive-pack" or empty
	Protocol   string // "0", "1" or "2" of what was answered; empty when it was refused
	Cached     bool   // no git process ran for it
}

// ServeGeneration answers Git's smart HTTP protocol (gitprotocol-http(5)), versions 0, 1 and 2, for the repositories of g:
//
//	/git/<host>/<path>[.git]/info/refs?service=git-upload-pack    and …/git-upload-pack
//	/<host>/<path>[.git]/…
//	/<path>[.git]/…                                               when the Host header is <host>
//
// Everything else is refused in plain text: 403 for pushes and the dumb protocol, 404 for what is unknown. It never
// redirects, because go-git takes a redirect for an error, and never sends HTML, because kustomize takes a 200 for a file.
//
// It panics with http.ErrAbortHandler when an answer cannot be finished.
func (m *Mirror) ServeGeneration(w http.ResponseWriter, r *http.Request, g *Generation) (a Answer) {
	smarthttp.NoCache(w.Header())
	repo, e, ok := g.route(r.Host, r.URL.Path)
	if !ok {
		smarthttp.Refuse(w, http.StatusNotFound, "there is no such Git repository here")
		return a
	}
	defer m.use(g.number)()
	service, advertise, err := smarthttp.Asked(r, e)
	a = Answer{Repository: repo.Path, Service: string(service)}
	if service == smarthttp.ReceivePack {
		smarthttp.Refuse(w, http.StatusForbidden, "this mirror is read-only")
		return a
	}
	if err != nil {
		err.ServeHTTP(w, r)
		return a
	}
	q := smarthttp.Request{
		Service: service, Dir: filepath.Join(m.generationDir(g.number), filepath.FromSlash(repo.Path)+".git"),
	}
	version, _ := smarthttp.Protocol(r)
	a.Protocol = strconv.Itoa(version)
	if advertise {
		a.Cached = m.serveAdvert(w, r, g, repo.Path, q)
	} else {
		a.Cached = m.serveService(w, r, repo, q, version)
	}
	return a
}

// serveService answers POST …/git-upload-pack: a question for refs from the generation, everything else by git.
func (m *Mirror) serveService(w http.ResponseWriter, r *http.Request, repo Repository, q smarthttp.Request, version int) (cached bool) {
	body, err := m.http.Read(w, r, q.Service)
	if err != nil {
		err.ServeHTTP(w, r)
		return false
	}
	defer body.Close()
	if data, ok := body.Bytes(); ok && version == 2 {
		if ask, ok := parseLsRefs(data); ok {
			out, closeReply := m.http.Reply(w, q.Service.ResultType())
			defer closeReply()
			_ = ask.answer(out, repo.Git) // a client that is gone does not read it
			return true
		}
	}
	_ = m.http.Run(w, r, q, body) // what went wrong was told to Options.Failed
	return false
}
