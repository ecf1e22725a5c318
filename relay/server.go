package relay

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/plimsoll/plimsoll/registry"
)

// GenerationHeader names, in each response, the generation that it was answered from.
const GenerationHeader = "Plimsoll-Generation"

// followInterval bounds how long a change of active.json can go unnoticed when the kernel does not tell of it.
const followInterval = 2 * time.Second

// Server serves the active generation: the OCI registry below /v2/, Git everywhere else. It owns nothing that changes
// but one pointer, so registry tags and Git refs switch together.
type Server struct {
	relay    *Relay
	log      *slog.Logger
	registry *registry.Handler
	current  atomic.Pointer[Generation]
}

// NewServer loads the generation that active.json asks for.
func (r *Relay) NewServer(ctx context.Context, log *slog.Logger) (*Server, error) {
	s := &Server{relay: r, log: log, registry: registry.NewHandler(r.store)}
	s.registry.Report = func(req *http.Request, err error) { log.Error("a request failed", "path", req.URL.Path, "error", err) }
	gen, err := r.Load(ctx)
	if err != nil {
		return nil, err
	}
	s.swap(gen)
	return s, nil
}

// Generation is the number of the generation that is served now.
func (s *Server) Generation() uint64 { return s.current.Load().Number() }

// ServeHTTP answers one request from one generation.
func (s *Server) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	gen := s.current.Load()
	w.Header().Set(GenerationHeader, strconv.FormatUint(gen.Number(), 10))
	switch {
	case req.URL.Path == "/v2" || strings.HasPrefix(req.URL.Path, "/v2/"):
		s.registry.ServeView(w, req, gen.Registry)
	case req.URL.Path == "/healthz":
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprintf(w, "ok, generation %d\n", gen.Number())
	default:
		s.relay.mirror.ServeGeneration(w, req, gen.Git)
	}
}

// Follow swaps the generation whenever active.json changes, until ctx ends. An import runs in a process of its own and
// only writes the file; a generation that cannot be loaded leaves the one that is served in place.
func (s *Server) Follow(ctx context.Context) error {
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
			if filepath.Base(event.Name) != activeFile {
				continue
			}
		case err := <-watcher.Errors:
			s.log.Warn("watching the data folder", "error", err)
		case <-ticker.C:
		}
		s.reload(ctx)
	}
}

func (s *Server) reload(ctx context.Context) {
	active, err := readActive(s.relay.dir)
	if err == nil && active.Generation == s.Generation() {
		return
	}
	var gen *Generation
	if err == nil {
		gen, err = s.relay.generation(ctx, active)
	}
	if err != nil {
		s.log.Error("the new generation cannot be served; the old one stays", "serving", s.Generation(), "error", err)
		return
	}
	s.swap(gen)
}

func (s *Server) swap(gen *Generation) {
	for _, problem := range gen.Problems {
		s.log.Warn("a kept release is not whole", "problem", problem)
	}
	s.current.Store(gen)
	attrs := []any{"generation", gen.Number()}
	for _, stream := range gen.Active.Streams {
		attrs = append(attrs, stream.Name, stream.Release.Version)
	}
	s.log.Info("serving", attrs...)
}
