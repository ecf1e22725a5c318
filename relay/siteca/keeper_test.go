package siteca

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// today is a time at which clocks that are right stand.
func today() time.Time { return time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC) }

func at(now time.Time) func() time.Time { return func() time.Time { return now } }

func pool(certs ...*x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range certs {
		p.AddCert(c)
	}
	return p
}

func clientPair(t *testing.T, ca *CA, name string, now time.Time) tls.Certificate {
	t.Helper()
	c, err := ca.Client(name, ClientLife, now)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(c.CertPEM, c.KeyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// handshake shakes hands over a pipe and gives both ends' views, or the server's or client's error.
func handshake(server, client *tls.Config) (s, c tls.ConnectionState, err error) {
	a, b := net.Pipe()
	defer a.Close() //nolint:errcheck // a pipe
	defer b.Close() //nolint:errcheck // a pipe
	sc, cc := tls.Server(a, server), tls.Client(b, client)
	failed := make(chan error, 1)
	go func() {
		err := sc.Handshake()
		if err == nil {
			_, err = sc.Write([]byte{1}) // the client learns with it whether the server took its certificate
		}
		if err != nil {
			a.Close() //nolint:errcheck // a pipe
		}
		failed <- err
	}()
	if err = cc.Handshake(); err == nil {
		_, err = io.ReadFull(cc, make([]byte, 1))
	}
	if err != nil {
		b.Close() //nolint:errcheck // a pipe
	}
	if serverErr := <-failed; serverErr != nil && err == nil {
		err = serverErr
	}
	return sc.ConnectionState(), cc.ConnectionState(), err
}

// Ten years pass; the certificate is renewed in time, again and again, and clients with the same CA notice nothing.
func TestKeeperRenewsForTenYears(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		now := func() time.Time { return today().Add(time.Since(begin)) }
		k, err := NewKeeper(dir, "plant-7", KeeperOptions{Names: []string{"relay.plant7.example", "ghcr.io"}, Now: now})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var done sync.WaitGroup
		done.Go(func() {
			if err := k.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		server, roots := k.TLSConfig(), pool(k.CA().Certificate())
		serials := make(map[string]bool)
		for now().Before(today().AddDate(10, 0, 0)) {
			time.Sleep(30 * 24 * time.Hour)
			synctest.Wait()
			_, c, err := handshake(server, &tls.Config{RootCAs: roots, ServerName: "ghcr.io", Time: now})
			if err != nil {
				t.Fatalf("%v: %v", now(), err)
			}
			serials[c.PeerCertificates[0].SerialNumber.String()] = true
			if left := k.Ends().Sub(now()); left < renewAhead-renewInterval {
				t.Fatalf("%v: the certificate ends in %v", now(), left)
			}
		}
		if len(serials) < 6 || len(serials) > 8 {
			t.Errorf("%d certificates in ten years", len(serials))
		}
		cancel()
		done.Wait()
	})
}

// Whatever the relay's clock says, clients whose clocks are right are served, and robots are known by their certificates.
func TestWrongClocks(t *testing.T) {
	names := []string{"ghcr.io"}
	for name, wrong := range map[string]time.Time{"1970": time.Unix(0, 0), "2099": time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC)} {
		for made, clock := range map[string]time.Time{"made then": wrong, "made before": today()} {
			t.Run(name+" "+made, func(t *testing.T) {
				dir := t.TempDir()
				ca, err := Open(dir, "plant-7", clock)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := ca.Server(names, clock); err != nil {
					t.Fatal(err)
				}
				robot := clientPair(t, ca, "agv-17", clock)
				now := wrong
				k, err := NewKeeper(dir, "plant-7", KeeperOptions{Names: names, Now: func() time.Time { return now }})
				if err != nil {
					t.Fatal(err)
				}
				server := k.TLSConfig()
				serial := ""
				for _, step := range []time.Time{wrong, wrong.Add(30 * 24 * time.Hour), today(), today().AddDate(5, 0, 0), wrong} {
					now = step
					if err := k.Reload(); err != nil {
						t.Fatal(err)
					}
					for _, right := range []time.Time{today(), today().AddDate(5, 0, 0)} {
						s, _, err := handshake(server, &tls.Config{
							RootCAs: pool(ca.Certificate()), ServerName: "ghcr.io", Certificates: []tls.Certificate{robot}, Time: at(right),
						})
						if err != nil || len(s.VerifiedChains) == 0 || s.VerifiedChains[0][0].Subject.CommonName != "agv-17" {
							t.Fatalf("relay at %v, client at %v: %v, chains %d", step, right, err, len(s.VerifiedChains))
						}
					}
					if step.Equal(wrong) && serial != "" {
						if again := k.current.Load().site.Leaf.SerialNumber.String(); again != serial {
							t.Error("a wrong clock renews the certificate over and over")
						}
					}
					serial = k.current.Load().site.Leaf.SerialNumber.String()
				}
			})
		}
	}
}

// serveHTTP serves as the relay does, and says in each answer whose certificate it saw and whether TLS was resumed.
func serveHTTP(t *testing.T, config *tls.Config) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, chain := range r.TLS.VerifiedChains {
			w.Header().Set("Robot", chain[0].Subject.CommonName)
		}
	})}
	var done sync.WaitGroup
	done.Go(func() { server.Serve(tls.NewListener(listener, config)) }) //nolint:errcheck // closed below
	t.Cleanup(func() {
		server.Close() //nolint:errcheck // a test's
		done.Wait()
	})
	return "https://" + listener.Addr().String()
}

// A session that is resumed keeps the robot's identity, in TLS 1.2 and 1.3, also over a renewal of the certificate.
func TestResumption(t *testing.T) {
	now := today()
	k, err := NewKeeper(t.TempDir(), "plant-7", KeeperOptions{Names: []string{"127.0.0.1"}, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	url := serveHTTP(t, k.TLSConfig())
	robot := clientPair(t, k.CA(), "agv-17", today())
	for _, c := range []struct {
		name    string
		version uint16
		certs   []tls.Certificate
		want    string
	}{
		{"TLS 1.2", tls.VersionTLS12, nil, ""},
		{"TLS 1.3", tls.VersionTLS13, nil, ""},
		{"TLS 1.2 with certificate", tls.VersionTLS12, []tls.Certificate{robot}, "agv-17"},
		{"TLS 1.3 with certificate", tls.VersionTLS13, []tls.Certificate{robot}, "agv-17"},
	} {
		for _, http2 := range []bool{false, true} {
			config := &tls.Config{
				RootCAs: pool(k.CA().Certificate()), MinVersion: c.version, MaxVersion: c.version, Certificates: c.certs,
				ClientSessionCache: tls.NewLRUClientSessionCache(8), Time: at(today()),
			}
			for i := range 3 {
				if i == 2 { // the handshake's configuration is replaced
					k.mu.Lock()
					k.swap(k.current.Load().site, k.current.Load().customer)
					k.mu.Unlock()
				}
				transport := &http.Transport{TLSClientConfig: config, Protocols: new(http.Protocols)}
				transport.Protocols.SetHTTP2(true)
				transport.Protocols.SetHTTP1(!http2) // who can speak both speaks HTTP/1.1
				resp, err := (&http.Client{Transport: transport}).Get(url)
				if err != nil {
					t.Fatalf("%s: %v", c.name, err)
				}
				io.Copy(io.Discard, resp.Body) //nolint:errcheck // empty
				resp.Body.Close()              //nolint:errcheck // read
				transport.CloseIdleConnections()
				if resp.TLS.DidResume != (i > 0) || resp.Header.Get("Robot") != c.want || resp.ProtoMajor == 2 != http2 || resp.TLS.Version != c.version {
					t.Errorf("%s, connection %d: resumed %v, robot %q, %s", c.name, i, resp.TLS.DidResume, resp.Header.Get("Robot"), resp.Proto)
				}
			}
		}
	}
}

// A release from a registry that none came from before is served under that name, too, without a restart.
func TestNamesChange(t *testing.T) {
	k, err := NewKeeper(t.TempDir(), "plant-7", KeeperOptions{Names: []string{"ghcr.io"}, Now: at(today())})
	if err != nil {
		t.Fatal(err)
	}
	server, roots := k.TLSConfig(), pool(k.CA().Certificate())
	serial := func(name string) string {
		_, c, err := handshake(server, &tls.Config{RootCAs: roots, ServerName: name, Time: at(today())})
		if err != nil {
			return err.Error()
		}
		return c.PeerCertificates[0].SerialNumber.String()
	}
	first := serial("ghcr.io")
	if err := k.SetNames([]string{"ghcr.io", "quay.io"}); err != nil {
		t.Fatal(err)
	}
	second := serial("quay.io")
	if second == first || serial("ghcr.io") != second {
		t.Errorf("certificate %s, then %s", first, second)
	}
	if err := k.SetNames([]string{"a b"}); err == nil {
		t.Error("a bad name was taken")
	}
	if err := k.SetNames([]string{"ghcr.io"}); err != nil || serial("quay.io") != second {
		t.Errorf("a certificate that is good for all names was replaced (%v)", err)
	}
}

func TestOldVersionsAreRefused(t *testing.T) {
	k, err := NewKeeper(t.TempDir(), "plant-7", KeeperOptions{Names: []string{"ghcr.io"}})
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = handshake(k.TLSConfig(), &tls.Config{RootCAs: pool(k.CA().Certificate()), ServerName: "ghcr.io", MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11})
	if err == nil {
		t.Error("TLS 1.1 is spoken")
	}
}

// corporate writes a server certificate for names, its key and its authority into dir, as a customer would bring them.
func corporate(t *testing.T, dir string, ends time.Time, names ...string) *CA {
	t.Helper()
	ca, err := Open(filepath.Join(t.TempDir(), "corporate"), "corporate", today())
	if err != nil {
		t.Fatal(err)
	}
	cert, signer, err := ca.issue(&x509.Certificate{
		NotBefore: notBefore(), NotAfter: ends, DNSNames: names, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err != nil {
		t.Fatal(err)
	}
	key, err := keyPEM(signer)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "tls.crt"), certPEM(cert), 0o644)
	write(t, filepath.Join(dir, "tls.key"), key, 0o600)
	write(t, filepath.Join(dir, "robots.crt"), ca.PEM(), 0o644)
	return ca
}

func write(t *testing.T, path string, data []byte, perm os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, data, perm); err != nil {
		t.Fatal(err)
	}
}

func customerOptions(dir string, log *slog.Logger) KeeperOptions {
	return KeeperOptions{
		Names:    []string{"relay.plant7.example", "ghcr.io"},
		CertFile: filepath.Join(dir, "tls.crt"), KeyFile: filepath.Join(dir, "tls.key"), ClientCAFile: filepath.Join(dir, "robots.crt"),
		Log: log, Now: at(today()),
	}
}

// The customer's certificate answers for its names, the site's for those that nobody would certify to a customer.
func TestCustomersCertificate(t *testing.T) {
	dir := t.TempDir()
	theirs := corporate(t, dir, today().AddDate(0, 6, 0), "relay.plant7.example")
	var log bytes.Buffer
	k, err := NewKeeper(filepath.Join(dir, "tls"), "plant-7", customerOptions(dir, slog.New(slog.NewTextHandler(&log, nil))))
	if err != nil {
		t.Fatal(err)
	}
	if text := log.String(); !strings.Contains(text, "not good for ghcr.io") || strings.Contains(text, "ends on") {
		t.Errorf("log: %s", text)
	}
	for name, want := range map[string]*x509.Certificate{
		"relay.plant7.example": theirs.Certificate(), "ghcr.io": k.CA().Certificate(), "other.example": theirs.Certificate(), "": theirs.Certificate(),
	} {
		_, c, err := handshake(k.TLSConfig(), &tls.Config{ServerName: name, InsecureSkipVerify: true})
		if err != nil || c.PeerCertificates[0].CheckSignatureFrom(want) != nil {
			t.Errorf("%q: not from %s (%v)", name, want.Subject, err)
		}
	}
	if got := k.Ends(); !got.Equal(today().AddDate(0, 6, 0)) {
		t.Errorf("ends %v", got)
	}

	ours, robot, stranger := clientPair(t, k.CA(), "agv-1", today()), clientPair(t, theirs, "agv-2", today()), clientPair(t, corporate(t, t.TempDir(), today().AddDate(1, 0, 0), "x.example"), "agv-3", today())
	for _, c := range []struct {
		pair     tls.Certificate
		ok       bool
		customer bool
	}{{ours, true, false}, {robot, true, true}, {stranger, false, false}} {
		// A client sends a certificate of an authority that the server did not ask for only when made to.
		s, _, err := handshake(k.TLSConfig(), &tls.Config{ServerName: "ghcr.io", InsecureSkipVerify: true, Time: at(today()),
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c.pair, nil }})
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", c.pair.Leaf.Issuer, err)
			continue
		}
		if c.ok {
			chain := s.VerifiedChains[0]
			if got := k.CustomerCA(chain[len(chain)-1]); got != c.customer {
				t.Errorf("%s: the customer's: %v", c.pair.Leaf.Subject, got)
			}
		}
	}
}

// A certificate for servers is none for clients.
func TestServerCertificateAsClients(t *testing.T) {
	k, err := NewKeeper(t.TempDir(), "plant-7", KeeperOptions{Names: []string{"agv-17"}, Now: at(today())})
	if err != nil {
		t.Fatal(err)
	}
	pair := *k.current.Load().site
	if _, _, err := handshake(k.TLSConfig(), &tls.Config{ServerName: "agv-17", InsecureSkipVerify: true, Certificates: []tls.Certificate{pair}}); err == nil {
		t.Error("the server's certificate passes for a robot's")
	}
}

// What the customer replaces is served within seconds; what is broken is told of once and not served.
func TestCustomersFilesChange(t *testing.T) {
	dir := t.TempDir()
	corporate(t, dir, today().AddDate(0, 6, 0), "relay.plant7.example", "ghcr.io")
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		k, err := NewKeeper(filepath.Join(dir, "tls"), "plant-7", customerOptions(dir, slog.New(slog.NewTextHandler(&log, nil))))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var done sync.WaitGroup
		done.Go(func() { k.Run(ctx) }) //nolint:errcheck // it has none
		wait := func(d time.Duration) {
			time.Sleep(d)
			synctest.Wait()
		}
		first := k.Ends()

		key, err := os.ReadFile(filepath.Join(dir, "tls.key"))
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, "tls.key"), []byte("half a k"), 0o600)
		wait(time.Hour)
		if !k.Ends().Equal(first) || strings.Count(log.String(), "level=ERROR") != 1 || k.Reload() == nil {
			t.Errorf("a broken key: ends %v, log:\n%s", k.Ends(), &log)
		}
		write(t, filepath.Join(dir, "tls.key"), key, 0o600)
		corporate(t, dir, today().AddDate(0, 0, 20), "relay.plant7.example", "ghcr.io")
		wait(2 * reloadInterval)
		if k.Ends().Equal(first) || !strings.Contains(log.String(), "the certificate ends on 2027-03-21") {
			t.Errorf("a new pair: ends %v, log:\n%s", k.Ends(), &log)
		}
		corporate(t, dir, today().AddDate(0, 0, -1), "relay.plant7.example")
		wait(2 * reloadInterval)
		if !strings.Contains(log.String(), "the certificate ended on 2027-02-28") {
			t.Errorf("an old pair: log:\n%s", &log)
		}
		if _, _, err := handshake(k.TLSConfig(), &tls.Config{ServerName: "relay.plant7.example", InsecureSkipVerify: true}); err != nil {
			t.Errorf("an old certificate stopped serving: %v", err)
		}
		log.Reset()
		wait(time.Hour)
		if log.Len() > 0 {
			t.Errorf("what was said is said again:\n%s", &log)
		}
		cancel()
		done.Wait()
	})
}

func TestCustomersFilesRefused(t *testing.T) {
	dir := t.TempDir()
	corporate(t, dir, today().AddDate(1, 0, 0), "relay.plant7.example")
	site := filepath.Join(dir, "tls")
	ca, err := Open(site, "plant-7", today())
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := os.ReadFile(filepath.Join(dir, "tls.crt"))
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(o *KeeperOptions){
		"no key":              func(o *KeeperOptions) { o.KeyFile = "" },
		"absent":              func(o *KeeperOptions) { o.CertFile = filepath.Join(dir, "none") },
		"another's key":       func(o *KeeperOptions) { o.KeyFile = filepath.Join(site, "ca.pem") },
		"site CA for clients": func(o *KeeperOptions) { o.ClientCAFile = CertFile(site) },
		"no CA":               func(o *KeeperOptions) { o.ClientCAFile = filepath.Join(dir, "tls.crt") },
		"a key for clients":   func(o *KeeperOptions) { o.ClientCAFile = filepath.Join(dir, "tls.key") },
		"rubbish": func(o *KeeperOptions) {
			write(t, filepath.Join(dir, "r"), append(ca.PEM(), "x"...), 0o600)
			o.ClientCAFile = filepath.Join(dir, "r")
		},
		"too much": func(o *KeeperOptions) {
			write(t, filepath.Join(dir, "m"), bytes.Repeat(leaf, 2000), 0o600)
			o.CertFile = filepath.Join(dir, "m")
		},
		"no names":   func(o *KeeperOptions) { o.Names = nil },
		"a bad name": func(o *KeeperOptions) { o.Names = []string{"a b"} },
	} {
		o := customerOptions(dir, nil)
		change(&o)
		if _, err := NewKeeper(site, "plant-7", o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
