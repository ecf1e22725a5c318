package main

import (
	"context"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/plimsoll/plimsoll/cmd/internal/cli"
	"github.com/plimsoll/plimsoll/relay/siteca"
)

type serveFlags struct {
	listen, adminListen         string
	adminNetworks               []string
	site                        string
	names                       []string
	hosts                       map[string]string
	plainHTTP, anonymous        bool
	certFile, keyFile, clientCA string
	rate, clientRate            cli.ByteRate
	blobs, clientBlobs          int
	connections, clientConns    int
	gitProcesses                int
	siteRepositories            []string
	siteForce                   []string
	storage                     string
	redirect                    bool
	logFormat                   string
	accessLog, noHistory        bool
	drain                       time.Duration
}

func newServe(data *string) *cobra.Command {
	var f serveFlags
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve the active releases: OCI registry and Git mirror on one address",
		Long: `serve answers robots: the OCI registry below /v2/, Git repositories everywhere else, over TLS with a
certificate of the site's own CA. The CA is made at the first start; robots must trust DATA/tls/ca.crt.

Only robots with an account are answered ('plimsoll-relay robot add'), by password, token or client certificate. Operators
('plimsoll-relay operator add') may also push to the site's own repositories, by default /site/site-overrides.

Releases are switched by import, activate and rollback while it runs; accounts and certificates are read again when they
change, or on SIGHUP.`,
		Example: `  plimsoll-relay serve --listen :443 --name relay.plant7.example
  plimsoll-relay serve --listen :443 --name relay.plant7.example --limit-rate 80MB --limit-rate-client 20MB
  plimsoll-relay serve --listen :443 --tls-cert relay.crt --tls-key relay.key --client-ca plant-ca.crt`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd, *data) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.listen, "listen", "127.0.0.1:8443", "address for robots")
	flags.StringVar(&f.adminListen, "admin-listen", "127.0.0.1:9443", "address for metrics, health, profiles and reloading; empty: none")
	flags.StringArrayVar(&f.adminNetworks, "admin-network", nil, "network from which administrators connect, besides this machine (CIDR, repeatable)")
	flags.StringArrayVar(&f.names, "name", nil, "DNS name or IP address by which robots reach the relay (repeatable)")
	flags.StringToStringVar(&f.hosts, "alias", nil, "further name of an upstream registry: images.plant7.example=ghcr.io (repeatable)")
	flags.StringVar(&f.site, "site", "", "the site's name, for the CA (default: the host name)")
	flags.BoolVar(&f.plainHTTP, "insecure-plain-http", false, "serve without TLS")
	flags.BoolVar(&f.anonymous, "insecure-anonymous", false, "let everybody on the network read, without an account")
	flags.StringVar(&f.certFile, "tls-cert", "", "serve with this certificate chain (PEM) for the names that it has")
	flags.StringVar(&f.keyFile, "tls-key", "", "its key (PEM)")
	flags.StringVar(&f.clientCA, "client-ca", "", "also accept client certificates of these authorities (PEM), whose common name is an account")
	flags.Var(&f.rate, "limit-rate", "send blobs at most this fast to all robots together, in bytes a second (80MB)")
	flags.Var(&f.clientRate, "limit-rate-client", "send blobs at most this fast to one robot")
	flags.IntVar(&f.blobs, "max-blobs", 0, "blobs sent at one time; further ones wait their turn (0: no limit)")
	flags.IntVar(&f.clientBlobs, "max-blobs-client", 0, "of them, those to one robot (0: a quarter, so that a slow one does not hold all)")
	flags.IntVar(&f.connections, "max-connections", 4096, "connections served at one time; further ones wait their turn")
	flags.IntVar(&f.clientConns, "max-connections-client", 256, "of them, those of one address")
	flags.IntVar(&f.gitProcesses, "git-processes", 0, "git processes at one time (0: twice the CPUs, at least 4)")
	flags.StringArrayVar(&f.siteRepositories, "site-repository", []string{"site-overrides"}, "name of a repository of the site's own (repeatable)")
	flags.StringArrayVar(&f.siteForce, "site-allow-force", nil, "refs of them that may be rewritten and deleted (pattern, repeatable)")
	flags.StringVar(&f.storage, "storage", "", storageHelp)
	flags.BoolVar(&f.redirect, "storage-redirect", false, "send robots to the S3 storage for blobs")
	flags.StringVar(&f.logFormat, "log-format", "json", "json or text, on standard error")
	flags.BoolVar(&f.accessLog, "access-log", false, "log each request")
	flags.BoolVar(&f.noHistory, "no-history", false, "do not remember who pulled what")
	flags.DurationVar(&f.drain, "drain", 10*time.Second, "how long running pulls may take after the relay was told to stop")
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("log-format", cobra.FixedCompletions([]string{"json", "text"}, cobra.ShellCompDirectiveNoFileComp)))
	for _, name := range []string{"tls-cert", "tls-key", "client-ca"} {
		cobra.CheckErr(cmd.MarkFlagFilename(name))
	}
	cmd.MarkFlagsRequiredTogether("tls-cert", "tls-key")
	cmd.MarkFlagsMutuallyExclusive("insecure-plain-http", "tls-cert")
	cmd.MarkFlagsMutuallyExclusive("insecure-plain-http", "client-ca")
	return cmd
}

const storageHelp = "keep blobs in this S3 bucket (s3://BUCKET/PREFIX?region=…&endpoint=…) instead of the data folder; remembered"

func (f *serveFlags) logger() (*slog.Logger, error) {
	switch f.logFormat {
	case "json":
		return slog.New(slog.NewJSONHandler(os.Stderr, nil)), nil
	case "text":
		return slog.New(slog.NewTextHandler(os.Stderr, nil)), nil
	}
	return nil, cli.Usagef("--log-format %q: want json or text", f.logFormat)
}

// blobsOfOne is how many blobs one robot gets at a time.
func (f *serveFlags) blobsOfOne() int {
	if f.clientBlobs == 0 && f.blobs > 0 {
		return max(1, f.blobs/4)
	}
	return f.clientBlobs
}

func (f *serveFlags) networks() ([]netip.Prefix, error) {
	var all []netip.Prefix
	for _, text := range f.adminNetworks {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, cli.Usagef("--admin-network %q: want a network such as 10.7.0.0/24", text)
		}
		all = append(all, p)
	}
	return all, nil
}

// certificateNames are what robots may call the relay by: what the operator said, what this machine is called, and the
// upstream names that robots are led here by.
func (f *serveFlags) certificateNames(listener net.Addr, served []string) ([]string, error) {
	host, err := os.Hostname()
	if err != nil {
		return nil, err
	}
	names := append(append([]string{}, f.names...), "localhost", "127.0.0.1", "::1")
	led := append(slices.Collect(maps.Keys(f.hosts)), host)
	if tcp, ok := listener.(*net.TCPAddr); ok && !tcp.IP.IsUnspecified() {
		led = append(led, tcp.IP.String())
	}
	for _, upstream := range served {
		name, _, _ := strings.Cut(upstream, ":") // a certificate has no ports
		led = append(led, name)
		if name == "docker.io" {
			led = append(led, "registry-1.docker.io", "index.docker.io")
		}
	}
	for _, name := range led {
		// Nobody typed these: what no certificate can name must not keep the relay from starting.
		if siteca.CheckName(name) == nil {
			names = append(names, name)
		}
	}
	return names, nil
}

func (f *serveFlags) run(cmd *cobra.Command, data string) error {
	log, err := f.logger()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	w := &wiring{flags: f, data: data, log: log, out: cmd.OutOrStdout()}
	defer w.close()
	if err := w.open(ctx); err != nil {
		return err
	}
	return w.run(ctx)
}
