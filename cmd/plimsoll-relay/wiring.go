package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/plimsoll/plimsoll/relay"
	"github.com/plimsoll/plimsoll/relay/access"
	"github.com/plimsoll/plimsoll/relay/admin"
	"github.com/plimsoll/plimsoll/relay/hooks"
	"github.com/plimsoll/plimsoll/relay/seen"
	"github.com/plimsoll/plimsoll/relay/siteca"
	"github.com/plimsoll/plimsoll/relay/siterepo"
	"github.com/plimsoll/plimsoll/relay/smarthttp"
	"github.com/plimsoll/plimsoll/relay/traffic"
)

// What a client may hold of a connection before it has asked for anything, so that slow ones cost little.
const (
	headerTime = 10 * time.Second
	idleTime   = 2 * time.Minute
	maxHeader  = 32 << 10
	maxStreams = 64 // of one HTTP/2 connection
)

// gcPercent spends a little of the time that a relay has on the memory that its box has not: what five hundred robots
// hold are connections, and little garbage comes of serving them.
const gcPercent = 50

// wiring is a serving relay: everything that lives as long as the process.
type wiring struct {
	flags *serveFlags
	data  string
	log   *slog.Logger
	out   io.Writer

	journal relay.Journal
	relay   *relay.Relay
	server  *relay.Server
	guard   *access.Guard
	keeper  *siteca.Keeper // nil without TLS
	traffic *traffic.Control
	packs   *traffic.Queue
	adverts *traffic.Queue
	seen    *seen.DB // may be nil
	metrics *admin.Metrics
	hooks   *hooks.Runner
	scrubs  *relay.Scrubber

	robots, admins net.Listener // admins may be nil
}

// open makes everything that can fail before the first robot is answered.
func (w *wiring) open(ctx context.Context) error {
	f := w.flags
	w.traffic = traffic.New(traffic.Limits{
		Rate: int64(f.rate), ClientRate: int64(f.clientRate), Blobs: f.blobs, ClientBlobs: f.blobsOfOne(),
		Connections: f.connections, ClientConnections: f.clientConns,
	})
	w.adverts, w.packs = gitQueue(f.gitProcesses), gitQueue(f.gitProcesses)
	git := smarthttp.Options{
		Adverts: w.adverts, Packs: w.packs,
		Failed: func(r *http.Request, err error) {
			w.log.Warn("a Git request failed", "path", r.URL.Path, "address", r.RemoteAddr, "error", err)
		},
	}
	var err error
	if w.relay, err = relay.Open(ctx, w.data, relay.Options{Storage: f.storage, Redirect: f.redirect, GitHTTP: git}); err != nil {
		return err
	}
	w.journal = journalOf(w.data)
	w.relay.SetJournal(w.journal)
	accounts, err := access.Open(w.data)
	if err != nil {
		return err
	}
	w.guard, err = access.NewGuard(accounts, access.GuardOptions{
		Anonymous:  f.anonymous,
		CustomerCA: func(root *x509.Certificate) bool { return w.keeper != nil && w.keeper.CustomerCA(root) },
		Log:        w.log,
	})
	if err != nil {
		return err
	}
	if all, err := accounts.Accounts(); err == nil && len(all) == 0 && !f.anonymous {
		w.log.Warn("no robot has an account: nobody can pull; see 'plimsoll-relay robot add'")
	}
	if !f.noHistory {
		if w.seen, err = seen.Open(filepath.Join(w.data, seen.FileName), seen.Options{Log: w.log}); err != nil {
			return err
		}
	}
	w.metrics = admin.NewMetrics(admin.MetricsOptions{Version: version, Kinds: relay.Kinds()})
	w.scrubs = w.relay.NewScrubber(relay.ScrubberOptions{Log: w.log, Metrics: w.metrics, Open: openOrigin})
	site, err := w.openSite(ctx, git)
	if err != nil {
		return err
	}
	w.server, err = w.relay.NewServer(ctx, relay.ServerOptions{
		Log: w.log, AccessLog: f.accessLog, Guard: w.guard, Traffic: w.traffic, Seen: w.seen, Metrics: w.metrics,
		Site: site, Hosts: f.hosts, Swapped: w.swapped, Suspect: w.scrubs.Suspect,
	})
	if err != nil {
		return err
	}
	if w.hooks, err = w.newRunner(); err != nil {
		return err
	}
	return w.listen(ctx)
}

// gitQueue is where requests wait that need a git process. One robot never gets all of them.
func gitQueue(processes int) *traffic.Queue {
	if processes <= 0 {
		processes = max(4, 2*runtime.NumCPU())
	}
	return traffic.NewQueue(traffic.QueueOptions{Slots: processes, PerClient: max(1, processes/2)})
}

func (w *wiring) openSite(ctx context.Context, git smarthttp.Options) (*siterepo.Set, error) {
	return siterepo.Open(relay.SiteDir(w.data), siterepo.Options{
		Names: w.flags.siteRepositories, AllowForce: w.flags.siteForce, HTTP: git,
		Pushed:     func(p siterepo.Push) error { return w.journal.Append(ctx, "site-push", p) },
		MirrorHost: func(host string) bool { return w.server != nil && w.server.MirrorsHost(host) },
		Problem: func(repository string, err error) {
			w.log.Warn("a site repository has a problem", "repository", repository, "error", err)
		},
	})
}

// listen opens the addresses, and TLS on them.
func (w *wiring) listen(ctx context.Context) error {
	f := w.flags
	inner, err := net.Listen("tcp", f.listen)
	if err != nil {
		return err
	}
	w.robots = w.traffic.Listener(inner)
	if !f.plainHTTP {
		if err := w.openTLS(ctx, inner.Addr()); err != nil {
			return err
		}
		w.robots = tls.NewListener(w.robots, w.keeper.TLSConfig())
	}
	if f.adminListen == "" {
		return nil
	}
	if w.admins, err = net.Listen("tcp", f.adminListen); err != nil {
		return err
	}
	// Credentials must not cross a network in the clear.
	if tcp, ok := w.admins.Addr().(*net.TCPAddr); ok && !tcp.IP.IsLoopback() {
		if w.keeper == nil {
			return fmt.Errorf("--admin-listen %s: an address that is not loopback needs TLS; leave out --insecure-plain-http", f.adminListen)
		}
		w.admins = tls.NewListener(w.admins, w.keeper.TLSConfig())
	}
	return nil
}

func (w *wiring) openTLS(ctx context.Context, listening net.Addr) error {
	f := w.flags
	site := f.site
	if site == "" {
		host, err := os.Hostname()
		if err != nil {
			return err
		}
		site = host
	}
	names, err := f.certificateNames(listening, w.server.Generation().Hosts())
	if err != nil {
		return err
	}
	if _, err := openCA(ctx, w.data, site); err != nil {
		return err
	}
	w.keeper, err = siteca.NewKeeper(caDir(w.data), site, siteca.KeeperOptions{
		Names: names, CertFile: f.certFile, KeyFile: f.keyFile, ClientCAFile: f.clientCA, Log: w.log,
	})
	return err
}

// nameServed puts the upstream names of a new generation into the server certificate.
func (w *wiring) nameServed(gen *relay.Generation) {
	if w.keeper == nil {
		return
	}
	names, err := w.flags.certificateNames(w.robots.Addr(), gen.Hosts())
	if err == nil {
		err = w.keeper.SetNames(names)
	}
	if err != nil {
		w.log.Error("the server certificate lacks names of the new generation", "error", err)
	}
}

// run is the relay's goroutines: each says here who it is and what ends it.
func (w *wiring) run(ctx context.Context) error {
	handler, err := w.adminHandler()
	if err != nil {
		return err
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	g, ctx := errgroup.WithContext(ctx)
	robots := &http.Server{
		Handler:           w.server,
		ReadHeaderTimeout: headerTime,
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    maxHeader,
		ConnState:         w.traffic.ConnState,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
		ErrorLog:          slog.NewLogLogger(w.log.Handler(), slog.LevelDebug),
	}
	w.serve(ctx, g, robots, w.robots)
	if w.admins != nil {
		admins := &http.Server{
			Handler: handler, ReadHeaderTimeout: headerTime, ReadTimeout: time.Minute, IdleTimeout: idleTime,
			MaxHeaderBytes: maxHeader, ErrorLog: robots.ErrorLog,
		}
		w.log.Info("administration", "address", w.admins.Addr().String())
		w.serve(ctx, g, admins, w.admins)
	}
	g.Go(func() error { return w.server.Follow(ctx) })
	g.Go(func() error { return w.hooks.Run(ctx) })
	g.Go(func() error { return w.scrubs.Run(ctx) })
	if w.keeper != nil {
		g.Go(func() error { return w.keeper.Run(ctx) })
	}
	if w.seen != nil {
		g.Go(func() error { return w.seen.Run(ctx) })
	}
	g.Go(func() error { return w.reloadOnSignal(ctx) })
	g.Go(func() error {
		w.server.CheckStore(ctx)
		debug.FreeOSMemory() // a start reads much that is never needed again
		return nil
	})
	scheme := "https"
	if w.flags.plainHTTP {
		scheme = "http"
	}
	fmt.Fprintf(w.out, "%s://%s\n", scheme, w.robots.Addr())
	return g.Wait()
}

// serve answers on a listener until ctx ends, and then drains: the last pulls are resumed by their clients.
func (w *wiring) serve(ctx context.Context, g *errgroup.Group, s *http.Server, l net.Listener) {
	g.Go(func() error {
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), w.flags.drain)
		defer cancel()
		if err := s.Shutdown(drain); err != nil {
			return s.Close()
		}
		return nil
	})
}

// reload reads certificates and accounts again; what cannot be read stays as it was.
func (w *wiring) reload() error {
	err := w.server.ReloadAccounts()
	if w.keeper != nil {
		err = errors.Join(err, w.keeper.Reload())
	}
	return err
}

func (w *wiring) reloadOnSignal(ctx context.Context) error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP)
	defer signal.Stop(signals)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-signals:
			if err := w.reload(); err != nil {
				w.log.Error("reload", "error", err)
			} else {
				w.log.Info("certificates and accounts were read again")
			}
		}
	}
}

func (w *wiring) close() {
	for _, l := range []net.Listener{w.robots, w.admins} {
		if l != nil {
			l.Close() //nolint:errcheck // a server that ran has closed it
		}
	}
}
