package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/plimsoll/plimsoll/registry"
	"github.com/plimsoll/plimsoll/relay/access"
	"github.com/plimsoll/plimsoll/relay/admin"
	"github.com/plimsoll/plimsoll/relay/seen"
	"github.com/plimsoll/plimsoll/relay/siterepo"
	"github.com/plimsoll/plimsoll/relay/state"
	"github.com/plimsoll/plimsoll/relay/traffic"
)

// GenerationHeader names, in each response, the generation that it was answered from.
const GenerationHeader = "Plimsoll-Generation"

// followInterval bounds how long a change of a file can go unnoticed when the kernel does not tell of it.
const followInterval = 2 * time.Second

// healInterval is how often a generation is loaded again that lacks a kept release.
const healInterval = time.Minute

// bodyTime is how long a request body may take that nobody reads.
const bodyTime = 15 * time.Second

// ServerOptions are what a server works with. The zero value serves everybody without bounds and remembers nobody.
type ServerOptions struct {
	Log       *slog.Logger
	AccessLog bool                // log each request
	Guard     *access.Guard       // says who asks; nil: everybody is anonymous
	Traffic   *traffic.Control    // keeps clients from hurting one another
	Seen      *seen.DB            // remembers who pulled what; may be nil
	Metrics   *admin.Metrics      // may be nil
	Site      *siterepo.Set       // the site's own repositories; may be nil
	Hosts     map[string]string   // further names of upstream registries; see registry.Handler
	Suspect   func(digest.Digest) // told of a blob that could not be sent; may be nil
	Swapped   func(*Generation)   // told of each generation that is served after the first one; may be nil
}

// Server serves the active generation: the OCI registry below /v2/, Git everywhere else. It owns nothing that changes
// but one pointer, so registry tags and Git refs switch together.
type Server struct {
	relay    *Relay
	options  ServerOptions
	log      *slog.Logger
	registry *registry.Handler
	current  atomic.Pointer[Generation]

	loaded   time.Time   // when the generation was; only for Follow
	trouble  string      // what the log was last told of a generation that cannot be served; only for Follow
	accounts os.FileInfo // when they were last read; only for Follow
}

// NewServer loads the generation that active.json asks for.
func (r *Relay) NewServer(ctx context.Context, o ServerOptions) (*Server, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Traffic == nil {
		o.Traffic = traffic.New(traffic.Limits{})
	}
	if err := r.mirror.CheckGit(ctx); err != nil {
		return nil, err
	}
	s := &Server{relay: r, options: o, log: o.Log, registry: registry.NewHandler(r.store)}
	s.registry.Hosts = o.Hosts
	s.registry.Blobs = o.Traffic.Blobs
	s.registry.Report = func(req *http.Request, err error) {
		s.log.Error("a request failed", "path", req.URL.Path, "error", err)
		if o.Metrics != nil {
			o.Metrics.StoreProblem()
		}
		if d, err := digest.Parse(path.Base(req.URL.Path)); err == nil && o.Suspect != nil {
			o.Suspect(d)
		}
	}
	gen, err := r.Load(ctx)
	if err != nil {
		return nil, err
	}
	s.swap(gen)
	return s, nil
}

// Kinds are the words for what requests ask for, in metrics and logs.
func Kinds() []string {
	return []string{
		"ping", "catalog", seen.KindManifest, seen.KindBlob, "tags", "referrers", "refs", seen.KindGit, "site", "health", "refused",
	}
}

// MirrorsHost reports whether the mirror serves repositories of a host.
func (s *Server) MirrorsHost(host string) bool {
	_, ok := s.current.Load().gitHosts[host]
	return ok
}

// Generation is what is served now.
func (s *Server) Generation() *Generation { return s.current.Load() }

// asked is what a request turned out to be, for records.
type asked struct {
	kind string
	registry.Answer
}

// ServeHTTP answers one request from one generation.
func (s *Server) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	start := time.Now()
	gen := s.current.Load()
	out := s.options.Traffic.Writer(w)
	out.Header()[GenerationHeader] = gen.header
	if s.options.Metrics != nil {
		s.options.Metrics.Begin()
	}
	if req.Method != http.MethodGet && req.Method != http.MethodHead {
		// Whoever is refused may go on sending, or say that he will: net/http waits for that. What reads bodies sets its
		// own times.
		_ = http.NewResponseController(w).SetReadDeadline(start.Add(bodyTime)) // not every writer has a connection
		if req.ProtoMajor == 1 && len(req.TransferEncoding) > 0 {
			// There may have been a Content-Length too, which net/http does not tell, and by which a proxy in front would
			// have found another end of this request (RFC 9112, 6.1).
			out.Header().Set("Connection", "close")
		}
	}
	var who access.Identity
	var a asked
	defer func() { s.record(req, out, gen, who, a, start) }() // also when an answer breaks off by a panic
	if req.URL.Path == "/healthz" {
		a.kind = "health"
		out.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprintf(out, "ok, generation %d\n", gen.Number())
		return
	}
	who, err := s.identify(req)
	if err != nil {
		a.kind = "refused"
		if s.options.Metrics != nil {
			s.options.Metrics.Refused(refusal(req, err))
		}
		s.options.Guard.Refuse(out, req, err)
		return
	}
	if who.Name != "" {
		req = req.WithContext(traffic.WithClient(req.Context(), who.Name))
	}
	s.answer(out, req, gen, who, &a)
}

func (s *Server) identify(req *http.Request) (access.Identity, error) {
	if s.options.Guard == nil {
		return access.Identity{Role: access.RoleRobot, By: access.ByAnonymous}, nil
	}
	who, err := s.options.Guard.Identify(req)
	if err != nil {
		return access.Identity{}, err
	}
	return who, s.options.Guard.Require(req, who, access.RoleRobot)
}

// refusal is why a request was not let in, for metrics.
func refusal(req *http.Request, err error) string {
	var denied *access.DeniedError
	switch {
	case errors.As(err, &denied) && denied.Status == http.StatusForbidden:
		return admin.Forbidden
	case errors.As(err, &denied) && denied.Status == http.StatusServiceUnavailable:
		return admin.Slowed
	case req.Header.Get("Authorization") == "" && (req.TLS == nil || len(req.TLS.PeerCertificates) == 0):
		return admin.NoCredentials
	}
	return admin.WrongCredentials
}

func (s *Server) answer(w http.ResponseWriter, req *http.Request, gen *Generation, who access.Identity, a *asked) {
	switch {
	case req.URL.Path == "/v2" || strings.HasPrefix(req.URL.Path, "/v2/"):
		a.Answer = s.registry.ServeView(w, req, gen.Registry)
		a.kind = a.Kind.String()
	case s.options.Site != nil && s.options.Site.Serves(req.Host, req.URL.Path):
		a.kind = "site"
		answer := s.options.Site.Serve(w, req, siterepo.Identity{Name: who.Name, Write: who.Role.May(access.RoleOperator)})
		if answer.Repository != "" {
			a.Repository = "site/" + answer.Repository
		}
		if answer.Err != nil {
			s.log.Warn("a request to a site repository failed", "repository", answer.Repository, "who", who.Name, "error", answer.Err)
		}
	default:
		a.kind = "refs"
		if req.Method == http.MethodPost { // packs share the rates with blobs
			var leave func()
			w, leave = s.options.Traffic.Shape(w, req)
			defer leave()
		}
		answer := s.relay.mirror.ServeGeneration(w, req, gen.Git)
		a.Repository = answer.Repository
		if req.Method == http.MethodPost && !answer.Cached {
			a.kind = seen.KindGit
		}
	}
}

// record tells metrics, the database of who pulled what, and the log.
func (s *Server) record(req *http.Request, out *traffic.Writer, gen *Generation, who access.Identity, a asked, start time.Time) {
	took := time.Since(start)
	o := &s.options
	if o.Metrics != nil {
		o.Metrics.Observe(a.kind, out.Status(), out.Bytes(), took)
	}
	if o.Seen != nil && a.kind != "health" && a.kind != "refused" {
		o.Seen.Record(seen.Event{
			Time: start, Robot: who.Name, Address: req.RemoteAddr, Agent: req.UserAgent(), Kind: a.kind,
			Repository: a.Repository, Reference: a.Reference, Digest: a.Digest, Generation: gen.Number(),
			Status: out.Status(), Bytes: out.Bytes(), Duration: took,
		})
	}
	if o.AccessLog {
		s.log.Info("request", "client", clientName(who, req), "method", req.Method, "host", req.Host, "path", req.URL.Path, "kind", a.kind,
			"status", out.Status(), "bytes", out.Bytes(), "took", took, "generation", gen.Number(), "agent", req.UserAgent())
	}
}

func clientName(who access.Identity, req *http.Request) string {
	if who.Name != "" {
		return who.Name
	}
	host, _, err := net.SplitHostPort(req.RemoteAddr)
	if err != nil {
		return req.RemoteAddr
	}
	return host
}

// Follow swaps the generation whenever active.json changes, and reads the accounts again when those change, until ctx
// ends. An import runs in a process of its own, or on another relay, and only writes the document; a generation that
// cannot be loaded leaves the one that is served in place.
func (s *Server) Follow(ctx context.Context) error {
	s.recordServing(ctx)
	g, ctx := errgroup.WithContext(ctx)
	remote, ok := s.relay.docs.(state.Watcher)
	if ok { // on its own: a bucket that does not answer must not keep the accounts from being read
		served := make(chan *Generation, 1)
		g.Go(func() error {
			defer close(served)
			s.followRemote(ctx, remote, served)
			return nil
		})
		g.Go(func() error {
			s.makeBitmaps(ctx, served)
			return nil
		})
	}
	g.Go(func() error { return s.followFolder(ctx, !ok) })
	return g.Wait()
}

// serving is what the journal says of a generation that is served from now on.
type serving struct {
	Generation uint64            `json:"generation"`
	Channels   map[string]string `json:"channels"` // to the digest of the active bundle
}

// recordServing writes to the journal what is served. Robots get it whether or not that is possible.
func (s *Server) recordServing(ctx context.Context) {
	gen := s.Generation()
	detail := serving{Generation: gen.Number(), Channels: make(map[string]string)}
	for _, c := range gen.Active.Channels {
		detail.Channels[c.Name] = c.Release.Bundle.Digest.String()
	}
	if err := s.relay.record(ctx, "serving", detail); err != nil && ctx.Err() == nil {
		s.log.Error("what is served cannot be recorded", "generation", gen.Number(), "error", err)
	}
}

// followFolder follows what is in the data folder: the accounts, and active.json if it is there.
func (s *Server) followFolder(ctx context.Context, active bool) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch %s: %w", activeFile, err)
	}
	defer watcher.Close() //nolint:errcheck // only read from
	if err := watcher.Add(s.relay.dir); err != nil {
		return fmt.Errorf("watch %s: %w", s.relay.dir, err)
	}
	ticker := time.NewTicker(followInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case event, ok := <-watcher.Events:
			if !ok {
				return nil
			}
			if name := filepath.Base(event.Name); name != activeFile && name != access.File {
				continue
			}
		case err := <-watcher.Errors:
			s.log.Warn("watching the data folder", "error", err)
		case <-ticker.C:
		}
		if active {
			before := s.Generation()
			if s.reload(ctx); s.Generation() != before {
				s.recordServing(ctx)
			}
		}
		s.followAccounts()
	}
}

// followRemote asks for the version of active.json again and again, and loads the generation of a new one. While that is
// not possible it tries again each time. Those that it serves it sends on, the latest one if they are not received.
func (s *Server) followRemote(ctx context.Context, docs state.Watcher, served chan *Generation) {
	ticker := time.NewTicker(followInterval)
	defer ticker.Stop()
	known := state.Any // no document has this version
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		changed, err := s.changed(ctx, docs, known)
		if err != nil {
			s.inTrouble(ctx, noAnswer, err)
			continue
		}
		if !changed {
			if s.trouble != "" {
				s.trouble = ""
				s.log.Info("the bucket answers again", "serving", s.Generation().Number())
			}
			continue
		}
		known = state.Any
		before := s.Generation().Number()
		version, ok := s.reload(ctx)
		if !ok {
			continue
		}
		known = version
		if gen := s.Generation(); gen.Number() != before {
			s.recordServing(ctx)
			s.prune(ctx, gen.Number())
			select {
			case <-served:
			default:
			}
			served <- gen
		}
	}
}

// prune removes the Git generations that no request can be reading any more. Where the import runs on this machine it has
// done that; here it was another relay's. It must not run while a generation is loaded.
func (s *Server) prune(ctx context.Context, n uint64) {
	keep := []uint64{n + 1} // an import on this machine may be about to commit it
	for ; n > 0 && len(keep) <= keptGenerations; n-- {
		keep = append(keep, n)
	}
	if err := s.relay.mirror.Prune(ctx, keep...); err != nil && ctx.Err() == nil {
		s.log.Warn("old Git generations are left", "error", err)
	}
}

// makeBitmaps lets git write bitmaps of what is served. It may take long, and the relay goes on following meanwhile.
func (s *Server) makeBitmaps(ctx context.Context, served <-chan *Generation) {
	for gen := range served {
		if err := s.relay.mirror.Bitmap(ctx, gen.Git); err != nil && ctx.Err() == nil {
			s.log.Warn("the Git mirror has no bitmaps", "generation", gen.Number(), "error", err)
		}
	}
}

// changed asks within the time that a relay may lag behind.
func (s *Server) changed(ctx context.Context, docs state.Watcher, known state.Version) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*followInterval)
	defer cancel()
	return docs.Changed(ctx, activeFile, known)
}

// followAccounts reads the accounts again when their file is another one.
func (s *Server) followAccounts() {
	fi, err := os.Stat(filepath.Join(s.relay.dir, access.File))
	if err != nil || s.accounts != nil && os.SameFile(fi, s.accounts) && fi.ModTime().Equal(s.accounts.ModTime()) {
		return
	}
	s.accounts = fi
	s.ReloadAccounts() //nolint:errcheck // it is logged
}

// CheckStore looks once whether every blob of the releases that are served and kept is in the store, with its size, and
// logs of each release the first that is not. It takes the time that a start must not take.
func (s *Server) CheckStore(ctx context.Context) {
	if s.relay.remote {
		return // a question for each blob, to a place that others look after
	}
	for _, part := range s.current.Load().parts {
		err := s.relay.checkPart(ctx, part)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			s.log.Error("a release is not whole", "release", part.Name()+" "+part.Version(), "error", err)
			if s.options.Metrics != nil {
				s.options.Metrics.StoreProblem()
			}
		}
	}
}

// ReloadAccounts reads who may ask again. When that is not possible, what was read before stays in force.
func (s *Server) ReloadAccounts() error {
	if s.options.Guard == nil {
		return nil
	}
	err := s.options.Guard.Reload()
	if err != nil {
		s.log.Error("the accounts cannot be read; those from before stay in force", "error", err)
	}
	return err
}

// reload serves what active.json says now, and gives its version. It is not ok when that cannot be served.
func (s *Server) reload(ctx context.Context) (version state.Version, ok bool) {
	active, version, err := readActive(ctx, s.relay.docs)
	if err == nil && version == state.None && s.Generation().Number() > 0 { // lost, not decided
		err = fmt.Errorf("%s is gone", activeFile)
	}
	// What was missing at a start, of a release that is only kept, may have come back.
	again := len(s.Generation().Problems) > 0 && time.Since(s.loaded) > healInterval
	if err == nil && active.Generation == s.Generation().Number() && !again {
		s.trouble = ""
		return version, true
	}
	var gen *Generation
	if err == nil {
		gen, err = s.relay.generation(ctx, active)
	}
	if err != nil {
		s.inTrouble(ctx, err.Error(), err)
		return version, false
	}
	s.trouble = ""
	s.swap(gen)
	if s.options.Swapped != nil {
		s.options.Swapped(gen)
	}
	return version, true
}

// noAnswer is the trouble of a bucket that does not answer: each error may have another text, as it names ports.
const noAnswer = "no answer"

// inTrouble logs why the server does not follow, unless that is what it said last.
func (s *Server) inTrouble(ctx context.Context, trouble string, err error) {
	if ctx.Err() == nil && trouble != s.trouble {
		s.trouble = trouble
		s.log.Error("a new generation cannot be served; the old one stays", "serving", s.Generation().Number(), "error", err)
	}
}

func (s *Server) swap(gen *Generation) {
	for _, problem := range gen.Problems {
		s.log.Warn("a release is not whole", "problem", problem)
	}
	s.current.Store(gen)
	s.loaded = time.Now()
	attrs := []any{"generation", gen.Number()}
	for _, c := range gen.Active.Channels {
		attrs = append(attrs, c.Name, c.Release.Version)
	}
	s.log.Info("serving", attrs...)
}
