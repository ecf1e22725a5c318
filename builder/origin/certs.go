package origin

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
)

const (
	maxCertFile  = 4 << 20 // bytes
	maxCertFiles = 256     // in the folder of a host

	maxHeader = 256 << 10 // bytes of the headers of an answer
	// headerTimeout is how long a registry may think: one that caches fetches a blob before it says anything.
	headerTimeout = 2 * time.Minute
)

func newTransport() *http.Transport {
	return &http.Transport{
		Proxy:       http.ProxyFromEnvironment,
		DialContext: (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext, ForceAttemptHTTP2: true,
		MaxIdleConnsPerHost: 16, IdleConnTimeout: 90 * time.Second, TLSHandshakeTimeout: 10 * time.Second,
		ResponseHeaderTimeout: headerTimeout, MaxResponseHeaderBytes: maxHeader,
		// Bytes are asked for as they are: an encoding would hide their length.
		DisableCompression: true,
		TLSClientConfig:    &tls.Config{MinVersion: tls.VersionTLS12},
	}
}

// hosts chooses certificates by the host that is really asked, so that neither a CA nor a client certificate counts for
// the place to which a registry redirects.
type hosts struct {
	base http.RoundTripper
	dirs []string

	mu     sync.Mutex
	byHost map[string]http.RoundTripper // of hosts that have a folder
}

func (h *hosts) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" || len(h.dirs) == 0 {
		return h.base.RoundTrip(req)
	}
	t, err := h.transport(req.URL.Host)
	if err != nil {
		return nil, &refusedError{err.Error()}
	}
	return t.RoundTrip(req)
}

func (h *hosts) transport(host string) (http.RoundTripper, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if t, ok := h.byHost[host]; ok {
		return t, nil
	}
	dir, err := certsDir(h.dirs, host)
	if err != nil || dir == "" {
		return h.base, err
	}
	base, ok := h.base.(*http.Transport)
	if !ok {
		return nil, fmt.Errorf("certificates %s: the transport is a %T, which takes none", dir, h.base)
	}
	t := base.Clone()
	if t.TLSClientConfig == nil {
		t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if err := addCerts(t.TLSClientConfig, dir); err != nil {
		return nil, fmt.Errorf("certificates %s: %w", dir, err)
	}
	if h.byHost == nil {
		h.byHost = make(map[string]http.RoundTripper)
	}
	h.byHost[host] = t
	return t, nil
}

// certsDir finds the folder of a host, or "".
func certsDir(dirs []string, host string) (string, error) {
	names := []string{host}
	if bare, ok := strings.CutSuffix(host, ":443"); ok {
		names = append(names, bare)
	} else if _, _, err := net.SplitHostPort(host); err != nil {
		names = append(names, host+":443")
	}
	if host == name.DefaultRegistry {
		names = append(names, "docker.io") // as people write it
	}
	for _, dir := range dirs {
		for _, n := range names {
			// A redirect may name any host, and a host is not a way through folders.
			if n == "" || n == "." || n == ".." || !filepath.IsLocal(n) || strings.ContainsAny(n, `/\`) {
				continue
			}
			fi, err := os.Stat(filepath.Join(dir, n))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return "", err
			}
			if fi.IsDir() {
				return filepath.Join(dir, n), nil
			}
		}
	}
	return "", nil
}

// addCerts reads a folder as containers-certs.d(5) says. Files with other endings are not looked at.
func addCerts(config *tls.Config, dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	if len(entries) > maxCertFiles {
		return fmt.Errorf("%d files, the limit is %d", len(entries), maxCertFiles)
	}
	has := make(map[string]bool)
	for _, e := range entries {
		has[e.Name()] = true
	}
	for _, e := range entries {
		stem, ext := strings.TrimSuffix(e.Name(), filepath.Ext(e.Name())), filepath.Ext(e.Name())
		switch ext {
		case ".crt":
			err = addCA(config, filepath.Join(dir, e.Name()))
		case ".cert":
			if !has[stem+".key"] {
				return fmt.Errorf("%s: there is no %s.key beside it; a CA is named *.crt", e.Name(), stem)
			}
			err = addClient(config, filepath.Join(dir, stem))
		case ".key":
			if !has[stem+".cert"] {
				return fmt.Errorf("%s: there is no %s.cert beside it", e.Name(), stem)
			}
		}
		if err != nil {
			return fmt.Errorf("%s: %w", e.Name(), err)
		}
	}
	return nil
}

func addCA(config *tls.Config, path string) error {
	pem, err := readCert(path)
	if err != nil {
		return err
	}
	if config.RootCAs == nil {
		if config.RootCAs, err = x509.SystemCertPool(); err != nil { // a machine without CAs still has the given ones
			config.RootCAs = x509.NewCertPool()
		}
	} else {
		config.RootCAs = config.RootCAs.Clone()
	}
	if !config.RootCAs.AppendCertsFromPEM(pem) {
		return errors.New("there is no certificate in it")
	}
	return nil
}

func addClient(config *tls.Config, stem string) error {
	cert, err := readCert(stem + ".cert")
	if err != nil {
		return err
	}
	key, err := readCert(stem + ".key")
	if err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return err
	}
	config.Certificates = append(config.Certificates[:len(config.Certificates):len(config.Certificates)], pair)
	return nil
}

func readCert(path string) ([]byte, error) {
	f, size, err := openRegular(os.OpenFile, path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read from
	if size > maxCertFile {
		return nil, fmt.Errorf("%d bytes, the limit is %d", size, maxCertFile)
	}
	return io.ReadAll(io.LimitReader(f, size))
}
