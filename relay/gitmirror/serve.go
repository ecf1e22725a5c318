package gitmirror

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/plimsoll/plimsoll/internal/gitcmd"
)

const (
	requestType = "application/x-git-upload-pack-request"
	resultType  = "application/x-git-upload-pack-result"
	advertType  = "application/x-git-upload-pack-advertisement"
)

// ServeGeneration answers Git's smart HTTP protocol (gitprotocol-http(5)), versions 0, 1 and 2, for the repositories of g:
//
//	/git/<host>/<path>[.git]/info/refs?service=git-upload-pack    and …/git-upload-pack
//	/<host>/<path>[.git]/…
//	/<path>[.git]/…                                               when the Host header is <host>
//
// Everything else is refused in plain text: 403 for pushes and the dumb protocol, 404 for what is unknown. It never
// redirects, because go-git takes a redirect for an error, and never sends HTML, because kustomize takes a 200 for a file.
func (m *Mirror) ServeGeneration(w http.ResponseWriter, r *http.Request, g *Generation) {
	h := w.Header()
	h.Set("Expires", "Fri, 01 Jan 1980 00:00:00 GMT")
	h.Set("Pragma", "no-cache")
	h.Set("Cache-Control", "no-cache, max-age=0, must-revalidate")
	h.Set("X-Content-Type-Options", "nosniff")
	repo, e, ok := g.route(r.Host, r.URL.Path)
	if !ok {
		refuse(w, http.StatusNotFound, "there is no such Git repository here")
		return
	}
	defer m.use(g.number)()
	dir := filepath.Join(m.generationDir(g.number), filepath.FromSlash(repo.Path)+".git")
	get := r.Method == http.MethodGet || r.Method == http.MethodHead
	switch service := r.URL.Query().Get("service"); {
	case e == endpointReceivePack || e == endpointRefs && service == "git-receive-pack":
		refuse(w, http.StatusForbidden, "this mirror is read-only")
	case e == endpointFiles || e == endpointRefs && service != "git-upload-pack":
		refuse(w, http.StatusForbidden, "this mirror speaks Git's smart protocol only")
	case e == endpointNone:
		refuse(w, http.StatusNotFound, "this is a Git repository: use git clone")
	case e == endpointRefs && !get:
		h.Set("Allow", "GET, HEAD")
		refuse(w, http.StatusMethodNotAllowed, "use GET")
	case e == endpointUploadPack && r.Method != http.MethodPost:
		h.Set("Allow", "POST")
		refuse(w, http.StatusMethodNotAllowed, "use POST")
	case e == endpointRefs:
		m.serveRefs(w, r, dir)
	default:
		m.serveUploadPack(w, r, dir)
	}
}

func refuse(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text+"\n") // a client that is gone does not read the refusal either
}

func (m *Mirror) serveRefs(w http.ResponseWriter, r *http.Request, dir string) {
	w.Header().Set("Content-Type", advertType)
	if r.Method == http.MethodHead {
		return
	}
	leave, ok := m.enter(w, r, m.adverts)
	if !ok {
		return
	}
	defer leave()
	version, protocol := protocolVersion(r.Header.Values("Git-Protocol"))
	prefix := ""
	if version < 2 {
		prefix = "001e# service=git-upload-pack\n0000"
	}
	m.run(w, r, dir, prefix, protocol, nil, "--advertise-refs")
}

func (m *Mirror) serveUploadPack(w http.ResponseWriter, r *http.Request, dir string) {
	if ct, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || ct != requestType {
		refuse(w, http.StatusUnsupportedMediaType, "want Content-Type "+requestType)
		return
	}
	// The whole request is taken before a process is started, so that a slow client holds no slot, and before anything
	// is answered, because net/http drops what was not read of a request once the answer begins.
	body, err := m.readBody(w, r)
	if err != nil {
		var be *bodyError
		if !errors.As(err, &be) {
			be = &bodyError{status: http.StatusInternalServerError, text: "the request could not be kept"}
		}
		refuse(w, be.status, be.text)
		return
	}
	defer body.Close()
	leave, ok := m.enter(w, r, m.packs)
	if !ok {
		return
	}
	defer leave()
	_, protocol := protocolVersion(r.Header.Values("Git-Protocol"))
	w.Header().Set("Content-Type", resultType)
	m.run(w, r, dir, "", protocol, body.r)
}

func (m *Mirror) enter(w http.ResponseWriter, r *http.Request, g *gate) (leave func(), ok bool) {
	leave, err := g.enter(r.Context())
	if errors.Is(err, errQueueFull) {
		w.Header().Set("Retry-After", "5")
		refuse(w, http.StatusServiceUnavailable, err.Error())
	}
	return leave, err == nil
}

// protocolVersion reads the Git-Protocol header. Only what names a known version is handed on: the value becomes an
// environment variable.
func protocolVersion(values []string) (version int, protocol string) {
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

// run answers with what upload-pack says.
func (m *Mirror) run(w http.ResponseWriter, r *http.Request, dir, prefix, protocol string, stdin io.Reader, args ...string) {
	args = append(append([]string{"upload-pack", "--strict", "--stateless-rpc"}, args...), dir)
	cmd := m.git.command(r.Context(), dir, args...)
	if protocol != "" {
		cmd.Env = append(cmd.Env, "GIT_PROTOCOL="+protocol)
	}
	out := &answer{w: w, rc: http.NewResponseController(w), prefix: prefix, stall: m.opts.StallTimeout}
	var stderr gitcmd.Tail
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, out, &stderr
	err := cmd.Run()
	out.done()
	switch {
	case err == nil:
	case r.Context().Err() != nil:
	case !out.started:
		refuse(w, http.StatusInternalServerError, "the mirror cannot read this repository")
	case cmd.ProcessState == nil || !cmd.ProcessState.Exited() || out.failed:
		// A process that was killed, or a client that stopped reading: break the connection, or the answer would look
		// whole. (When upload-pack itself gives up it has told the client why, in the protocol.)
		panic(http.ErrAbortHandler)
	}
}

// answer sends upload-pack's output as it comes, progress included, and gives up on a client that takes nothing.
type answer struct {
	w       http.ResponseWriter
	rc      *http.ResponseController
	prefix  string
	stall   time.Duration
	started bool
	failed  bool
}

func (a *answer) Write(p []byte) (int, error) {
	// Not every ResponseWriter has deadlines, and none is needed where there is no connection.
	_ = a.rc.SetWriteDeadline(time.Now().Add(a.stall))
	if !a.started {
		a.started = true
		if _, err := io.WriteString(a.w, a.prefix); err != nil {
			a.failed = true
			return 0, err
		}
	}
	n, err := a.w.Write(p)
	if err == nil {
		if err = a.rc.Flush(); errors.Is(err, http.ErrNotSupported) {
			err = nil
		}
	}
	a.failed = a.failed || err != nil
	return n, err
}

// done takes the deadline back: it would hit the next request on the connection.
func (a *answer) done() { _ = a.rc.SetWriteDeadline(time.Time{}) }

// bodyError is a request body that is refused.
type bodyError struct {
	status int
	text   string
}

func (e *bodyError) Error() string { return e.text }

// requestBody is a whole request body, in memory when it is small and else in a file.
type requestBody struct {
	r    io.Reader
	file *os.File
}

func (b *requestBody) Close() error {
	if b.file == nil {
		return nil
	}
	return b.file.Close()
}

// maxInMemory is what a body may take of memory; a first clone's is a few hundred bytes.
const maxInMemory = 64 << 10

func (m *Mirror) readBody(w http.ResponseWriter, r *http.Request) (*requestBody, error) {
	rc := http.NewResponseController(w)
	defer func() { _ = rc.SetReadDeadline(time.Time{}) }()
	raw := &bodyReader{r: http.MaxBytesReader(w, r.Body, m.opts.MaxBody), arm: func() {
		_ = rc.SetReadDeadline(time.Now().Add(m.opts.StallTimeout)) // as for the write deadline
	}}
	var in io.Reader = raw
	switch encoding := r.Header.Get("Content-Encoding"); encoding {
	case "", "identity":
	case "gzip", "x-gzip":
		gz, err := gzip.NewReader(raw)
		if err != nil {
			return nil, refuseBody(err)
		}
		in = gz
	default:
		return nil, &bodyError{http.StatusUnsupportedMediaType, fmt.Sprintf("content encoding %.50q is not supported", encoding)}
	}
	in = io.LimitReader(in, m.opts.MaxInflated+1)
	var small bytes.Buffer
	n, err := io.CopyN(&small, in, maxInMemory+1)
	if errors.Is(err, io.EOF) {
		if n > m.opts.MaxInflated {
			return nil, errTooLarge()
		}
		return &requestBody{r: &small}, nil
	}
	if err != nil {
		return nil, refuseBody(err)
	}
	return m.spoolBody(&small, in)
}

func (m *Mirror) spoolBody(head, rest io.Reader) (*requestBody, error) {
	f, err := os.CreateTemp(m.path(spoolName), "body-")
	if err != nil {
		return nil, err
	}
	body := &requestBody{r: f, file: f}
	n, err := m.fillSpool(f, head, rest)
	if err == nil && n > m.opts.MaxInflated {
		err = errTooLarge()
	}
	if err != nil {
		return nil, errors.Join(err, body.Close())
	}
	return body, nil
}

func (m *Mirror) fillSpool(f *os.File, head, rest io.Reader) (int64, error) {
	if err := os.Remove(f.Name()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, err
	}
	n, err := io.Copy(f, io.MultiReader(head, rest))
	if err != nil {
		var pe *os.PathError
		if errors.As(err, &pe) { // our disk, not the client
			return n, err
		}
		return n, refuseBody(err)
	}
	_, err = f.Seek(0, io.SeekStart)
	return n, err
}

func errTooLarge() error {
	return &bodyError{http.StatusRequestEntityTooLarge, "the request is too large"}
}

func refuseBody(err error) error {
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return errTooLarge()
	case errors.Is(err, context.Canceled), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, syscall.ECONNRESET):
		return &bodyError{http.StatusRequestTimeout, "the request did not arrive"}
	}
	return &bodyError{http.StatusBadRequest, "the request body is broken: " + strconv.Quote(err.Error())}
}

// bodyReader gives a client new time with each read.
type bodyReader struct {
	r   io.Reader
	arm func()
}

func (b *bodyReader) Read(p []byte) (int, error) {
	b.arm()
	return b.r.Read(p)
}
