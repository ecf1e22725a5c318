package media

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
)

const (
	maxPEMFile  = 4 << 20 // bytes
	dialTimeout = 15 * time.Second
	// maxRedirects is what a registry may need to hand a blob over to its storage.
	maxRedirects = 10
	// headerTimeout is how long a registry may think; a large upload ends with it hashing or moving the blob.
	headerTimeout = 10 * time.Minute
)

// keepAlive finds out in 45 seconds that a peer is gone that is only waited for.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 10 * time.Second, Count: 3}

// dialed are the connections to a registry, and to where it redirects. Only the registry is shown the client certificate.
type dialed struct {
	host      string // of the registry
	registry  *http.Transport
	elsewhere *http.Transport
}

func newDialed(host string, o Options) (*dialed, error) {
	t := &http.Transport{
		Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 16, IdleConnTimeout: 90 * time.Second,
		DialContext:         (&net.Dialer{Timeout: dialTimeout, KeepAliveConfig: keepAlive}).DialContext,
		TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: headerTimeout, ExpectContinueTimeout: 2 * time.Second,
		// Bytes are asked for as they are: an encoding would hide their length.
		DisableCompression: true,
		TLSClientConfig:    &tls.Config{MinVersion: tls.VersionTLS12},
	}
	if o.CAFile != "" {
		pem, err := readPEM(o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("CA file: %w", err)
		}
		pool, err := x509.SystemCertPool()
		if err != nil { // a machine without CAs of its own still has the given ones
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("CA file %s: there is no certificate in it", o.CAFile)
		}
		t.TLSClientConfig.RootCAs = pool
	}
	d := &dialed{host: host, registry: t, elsewhere: t.Clone()}
	cert, err := clientCertificate(o)
	if err != nil {
		return nil, err
	}
	if cert != nil {
		t.TLSClientConfig.Certificates = []tls.Certificate{*cert}
	}
	return d, nil
}

func clientCertificate(o Options) (*tls.Certificate, error) {
	if o.CertFile == "" && o.KeyFile == "" {
		return nil, nil
	}
	if o.CertFile == "" || o.KeyFile == "" {
		return nil, errors.New("client certificate: certificate file and key file go together, only one is given")
	}
	certPEM, err := readPEM(o.CertFile)
	if err != nil {
		return nil, fmt.Errorf("client certificate: %w", err)
	}
	keyPEM, err := readPEM(o.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("client certificate: %w", err)
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("client certificate %s with key %s: %w", o.CertFile, o.KeyFile, err)
	}
	return &cert, nil
}

func readPEM(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	pem, err := io.ReadAll(io.LimitReader(f, maxPEMFile))
	return pem, errors.Join(err, f.Close())
}

// RoundTrip sends one request, once.
func (d *dialed) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Host == d.host {
		return d.registry.RoundTrip(req)
	}
	return d.elsewhere.RoundTrip(req)
}

// CloseIdleConnections is what http.Client asks its transport for.
func (d *dialed) CloseIdleConnections() {
	d.registry.CloseIdleConnections()
	d.elsewhere.CloseIdleConnections()
}

type uploadKey struct{} // marks the context of requests that are not redirected

// checkRedirect lets a download be redirected and an upload not: its bytes and its way back are the registry's.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if req.Context().Value(uploadKey{}) != nil {
		return http.ErrUseLastResponse
	}
	if len(via) >= maxRedirects {
		return fmt.Errorf("the registry redirects for ever: stopped after %d redirects", maxRedirects)
	}
	return nil
}

func dockerCredentials(path string) (auth.CredentialFunc, error) {
	if path != "" {
		if _, err := os.Stat(path); err != nil { // oras-go takes a missing file for an empty one
			return nil, fmt.Errorf("registry credentials: %w", err)
		}
		store, err := credentials.NewStore(path, credentials.StoreOptions{})
		if err != nil {
			return nil, fmt.Errorf("registry credentials %s: %w", path, err)
		}
		return credentials.Credential(store), nil
	}
	store, err := credentials.NewStoreFromDocker(credentials.StoreOptions{})
	if err == nil {
		return credentials.Credential(store), nil
	}
	if _, homeErr := os.UserHomeDir(); homeErr != nil {
		return nil, nil // a service without a home has nothing there, and asks as nobody
	}
	return nil, fmt.Errorf("registry credentials: %w", err)
}
