package siteca

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// How often a keeper looks whether something is due. Files are looked at, not watched: the folders of certificates are
// replaced as a whole, by links and by mounts, and a missed event would show a year later.
const (
	renewInterval  = time.Hour
	reloadInterval = 10 * time.Second
)

// KeeperOptions are a keeper's settings. Names must be set.
type KeeperOptions struct {
	Names        []string         // DNS names, also with "*" as the first label, and IP addresses by which clients reach the relay
	CertFile     string           // PEM: the customer's own certificate, leaf first; empty if there is none
	KeyFile      string           // PEM: its key
	ClientCAFile string           // PEM: the customer's authorities for client certificates; empty if there are none
	Log          *slog.Logger     // told of renewals and of what is wrong with the customer's files; may be nil
	Now          func() time.Time // the clock; time.Now if nil
}

// Keeper has the certificates that the relay serves with: it renews the site's own while it serves, and reads the
// customer's again when their files change. It is safe for concurrent use.
type Keeper struct {
	ca      *CA
	options KeeperOptions
	log     *slog.Logger
	now     func() time.Time

	mu      sync.Mutex // held while something is changed
	names   []string   // in normal form
	told    []string   // the problems that the log was last told of
	toldOn  string     // on which day
	current atomic.Pointer[served]
}

// served is what is served at one time; it never changes.
type served struct {
	site     *tls.Certificate
	customer *customer
	config   *tls.Config
}

// NewKeeper opens the authority in dir, or makes one for the named site, and loads or issues the server certificate.
// Customer's files that cannot be read are an error here; later they leave what was read before in force.
func NewKeeper(dir, site string, o KeeperOptions) (*Keeper, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if (o.CertFile == "") != (o.KeyFile == "") {
		return nil, errors.New("server certificate: a certificate and its key come together")
	}
	ca, err := Open(dir, site, o.Now())
	if err != nil {
		return nil, err
	}
	return newKeeper(ca, o)
}

func newKeeper(ca *CA, o KeeperOptions) (*Keeper, error) {
	names, err := normalNames(o.Names)
	if err != nil {
		return nil, fmt.Errorf("server certificate: %w", err)
	}
	k := &Keeper{ca: ca, options: o, log: o.Log, now: o.Now, names: names}
	brought, err := ca.readCustomer(o.CertFile, o.KeyFile, o.ClientCAFile)
	if err != nil {
		return nil, fmt.Errorf("the customer's certificates: %w", err)
	}
	cert, err := ca.server(names, o.Now())
	if cert == nil {
		return nil, fmt.Errorf("server certificate: %w", err)
	}
	if err != nil {
		k.log.Error("the server certificate was not stored; it is made anew at the next start", "error", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.swap(cert, brought)
	k.tell(brought)
	return k, nil
}

// CA is the authority.
func (k *Keeper) CA() *CA { return k.ca }

// Ends is when the first of the server certificates in use ends.
func (k *Keeper) Ends() time.Time {
	now := k.current.Load()
	ends := now.site.Leaf.NotAfter
	if c := now.customer.cert; c != nil && c.Leaf.NotAfter.Before(ends) {
		ends = c.Leaf.NotAfter
	}
	return ends
}

// CustomerCA reports whether a certificate is one of the customer's authorities for client certificates.
func (k *Keeper) CustomerCA(root *x509.Certificate) bool {
	return slices.ContainsFunc(k.current.Load().customer.cas, root.Equal)
}

// TLSConfig is the configuration of a listener: TLS 1.2 and 1.3, HTTP/1.1 and HTTP/2, session tickets, and client
// certificates of the site's and the customer's authorities, verified, from clients that send one. Each handshake goes by
// what the keeper has then.
func (k *Keeper) TLSConfig() *tls.Config {
	config := k.current.Load().config.Clone()
	// The session ticket keys stay those of the configuration that the listener has, so a session survives a renewal.
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return k.current.Load().config, nil }
	return config
}

// GetCertificate is for tls.Config: the customer's certificate for those names that it is good for, and for clients of
// which nothing better is known; the site's own for the other names, which no public authority would certify to a
// customer, such as ghcr.io. A client that names nobody has asked for the address that it reached (RFC 6066, 3).
func (k *Keeper) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	return k.current.Load().certificate(hello)
}

func (s *served) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name, brought := hello.ServerName, s.customer.cert
	if name == "" && hello.Conn != nil {
		name, _, _ = net.SplitHostPort(hello.Conn.LocalAddr().String()) // without a port it stays empty
	}
	if brought == nil || name != "" && brought.Leaf.VerifyHostname(name) != nil && s.site.Leaf.VerifyHostname(name) == nil {
		return s.site, nil
	}
	return brought, nil
}

// Run renews and reloads until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	interval := renewInterval
	if k.options.CertFile != "" || k.options.ClientCAFile != "" {
		interval = reloadInterval
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for lastText := ""; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		text := ""
		if err := k.Reload(); err != nil {
			text = err.Error()
		}
		if text != "" && text != lastText { // not every ten seconds
			k.log.Error("what was served before is served on", "error", text)
		}
		lastText = text
	}
}

// SetNames changes the names that the site's certificate is for, when what the relay serves has changed: a new release
// may come from a registry that none came from before. A certificate that is good for all of them stays.
func (k *Keeper) SetNames(names []string) error {
	normal, err := normalNames(names)
	if err != nil {
		return fmt.Errorf("server certificate: %w", err)
	}
	k.mu.Lock()
	k.names = normal
	k.mu.Unlock()
	return k.Reload()
}

// Reload renews the site's certificate when that is due and reads the customer's files again. Each part that fails leaves
// what was there before in force.
func (k *Keeper) Reload() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	was := k.current.Load()
	site, brought := was.site, was.customer
	var failed []error
	if k.ca.due(site.Leaf, k.names, now) {
		renewed, err := k.ca.server(k.names, now)
		if err != nil {
			failed = append(failed, fmt.Errorf("server certificate: %w", err))
		}
		if renewed != nil {
			site = renewed
			k.log.Info("the server certificate was renewed", "ends", site.Leaf.NotAfter.Format(time.DateOnly))
		}
	}
	read, err := k.ca.readCustomer(k.options.CertFile, k.options.KeyFile, k.options.ClientCAFile)
	switch {
	case err != nil:
		failed = append(failed, fmt.Errorf("the customer's certificates: %w", err))
	case !bytes.Equal(read.files, brought.files):
		brought = read
		k.log.Info("the customer's certificates were read again")
	}
	if site != was.site || brought != was.customer {
		k.swap(site, brought)
	}
	k.tell(brought)
	return errors.Join(failed...)
}

// tell logs the problems of the customer's certificate when there are new ones, and once a day.
func (k *Keeper) tell(brought *customer) {
	now := k.now()
	problems, day := brought.problems(k.names, now, k.ca.wrong(now)), now.Format(time.DateOnly)
	if slices.Equal(problems, k.told) && (day == k.toldOn || len(problems) == 0) {
		return
	}
	k.told, k.toldOn = problems, day
	for _, problem := range problems {
		k.log.Warn("the customer's certificate", "file", k.options.CertFile, "problem", problem)
	}
}

func (k *Keeper) swap(site *tls.Certificate, brought *customer) {
	s := &served{site: site, customer: brought}
	pool := x509.NewCertPool()
	pool.AddCert(k.ca.cert)
	inUse := slices.Clone(brought.cas)
	for _, ca := range brought.cas {
		pool.AddCert(ca)
	}
	if brought.cert != nil {
		inUse = append(inUse, brought.cert.Leaf)
	}
	s.config = &tls.Config{
		MinVersion: tls.VersionTLS12,
		// The server's order counts (RFC 7301, 3.2): a blob takes half the time of a core over HTTP/1.1. HTTP/2 is for
		// clients that speak nothing else.
		NextProtos:     []string{"http/1.1", "h2"},
		GetCertificate: s.certificate,
		ClientAuth:     tls.VerifyClientCertIfGiven,
		ClientCAs:      pool,
		Time:           func() time.Time { return k.ca.believed(k.now(), inUse) },
	}
	k.current.Store(s)
}
