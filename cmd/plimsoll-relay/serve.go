package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/plimsoll/plimsoll/relay"
	"github.com/plimsoll/plimsoll/relay/siteca"
)

// drainTime is how long running pulls may take after the relay was told to stop.
const drainTime = 10 * time.Second

type serveFlags struct {
	listen, site string
	names        []string
	plainHTTP    bool
}

func newServe(data *string) *cobra.Command {
	var f serveFlags
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve the active releases: OCI registry and Git mirror on one address",
		Long: `serve answers robots: the OCI registry below /v2/, Git repositories everywhere else, over TLS with a
certificate of the site's own CA. The CA is made at the first start; robots must trust DATA/tls/ca.crt.

Releases are switched by import, activate and rollback while it runs.`,
		Example: `  plimsoll-relay serve --listen :443 --name relay.plant7.example --name ghcr.io --name github.com`,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return f.run(cmd, *data) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.listen, "listen", "127.0.0.1:8443", "address for robots")
	flags.StringArrayVar(&f.names, "name", nil, "DNS name or IP address by which robots reach the relay (repeatable)")
	flags.StringVar(&f.site, "site", "", "the site's name, for the CA (default: the host name)")
	flags.BoolVar(&f.plainHTTP, "insecure-plain-http", false, "serve without TLS")
	return cmd
}

// run wires the relay: one goroutine follows active.json, one serves HTTP, and the first to end ends the other.
func (f *serveFlags) run(cmd *cobra.Command, data string) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	r, err := relay.Open(data, relay.Options{})
	if err != nil {
		return err
	}
	server, err := r.NewServer(cmd.Context(), log)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", f.listen)
	if err != nil {
		return err
	}
	scheme := "http"
	if !f.plainHTTP {
		scheme = "https"
		config, err := f.tls(r, listener.Addr())
		if err != nil {
			return errors.Join(err, listener.Close())
		}
		listener = tls.NewListener(listener, config)
	}
	httpServer := &http.Server{
		Handler:           server,
		ReadHeaderTimeout: 30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s://%s\n", scheme, listener.Addr())
	g, ctx := errgroup.WithContext(cmd.Context())
	g.Go(func() error { return server.Follow(ctx) })
	g.Go(func() error {
		if err := httpServer.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
		defer cancel()
		if err := httpServer.Shutdown(drain); err != nil {
			return httpServer.Close() // the last pulls are resumed by their clients
		}
		return nil
	})
	return g.Wait()
}

func (f *serveFlags) tls(r *relay.Relay, addr net.Addr) (*tls.Config, error) {
	host, err := os.Hostname()
	if err != nil {
		return nil, err
	}
	if f.site == "" {
		f.site = host
	}
	now := time.Now()
	ca, err := siteca.Open(tlsDir(r), f.site, now)
	if err != nil {
		return nil, err
	}
	names := append(slices.Clone(f.names), "localhost", "127.0.0.1", "::1", host)
	if tcp, ok := addr.(*net.TCPAddr); ok && !tcp.IP.IsUnspecified() {
		names = append(names, tcp.IP.String())
	}
	cert, err := ca.Server(names, now)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		Certificates: []tls.Certificate{*cert},
		MinVersion:   tls.VersionTLS12,
		NextProtos:   []string{"h2", "http/1.1"},
	}, nil
}

// tlsDir is the folder of the site's CA.
func tlsDir(r *relay.Relay) string { return filepath.Join(r.Dir(), "tls") }
