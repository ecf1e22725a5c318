package origin

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/plimsoll/plimsoll/internal/upstream"
)

// authority signs certificates for a test.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t}
	a.cert, a.key, a.pem, _ = a.issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	return a
}

func (a *authority) issue(template *x509.Certificate) (cert *x509.Certificate, key *ecdsa.PrivateKey, certPEM, keyPEM []byte) {
	a.t.Helper()
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	key = must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der := must(x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer))
	certPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(key))})
	return must(x509.ParseCertificate(der)), key, certPEM, keyPEM
}

// serve runs a TLS server that wants client certificates of the authority.
func (a *authority) serve(h http.Handler, auth tls.ClientAuthType) *httptest.Server {
	a.t.Helper()
	_, _, certPEM, keyPEM := a.issue(&x509.Certificate{
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"registry.lan"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	s := httptest.NewUnstartedServer(h)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{must(tls.X509KeyPair(certPEM, keyPEM))}, ClientAuth: auth, ClientCAs: pool}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	a.t.Cleanup(s.Close)
	return s
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestMutualTLS(t *testing.T) {
	target, index := startRegistry(t)
	a := newAuthority(t)
	var elsewhere atomic.Int64 // certificates that were shown there
	other := a.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		elsewhere.Add(int64(len(r.TLS.PeerCertificates)))
		_, _ = io.WriteString(w, "the blob")
	}), tls.RequestClientCert)
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: target})
	s := a.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, blobOf("the blob").Digest.String()) {
			http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
			return
		}
		proxy.ServeHTTP(w, r)
	}), tls.RequireAndVerifyClientCert)
	host := strings.TrimPrefix(s.URL, "https://")
	_, _, clientCert, clientKey := a.issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: "builder"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	connect := func(dirs ...string) error {
		rs := &Registries{CertsDirs: dirs, Keychain: authn.NewMultiKeychain()}
		repo, err := rs.Repository(t.Context(), reference(t, host+"/acme/app:v1"))
		if err != nil {
			return err
		}
		desc, _, err := repo.Resolve(t.Context(), reference(t, host+"/acme/app:v1"))
		if err == nil && desc.Digest != index {
			t.Errorf("%s", desc.Digest)
		}
		if err != nil {
			return err
		}
		_, err = repo.Open(t.Context(), blobOf("the blob"))
		return err
	}
	empty, caOnly, all, half := t.TempDir(), t.TempDir(), t.TempDir(), t.TempDir()
	write(t, filepath.Join(caOnly, host, "ca.crt"), a.pem)
	for name, data := range map[string][]byte{"ca.crt": a.pem, "client.cert": clientCert, "client.key": clientKey, "README": nil} {
		write(t, filepath.Join(all, host, name), data)
	}
	write(t, filepath.Join(half, host, "client.cert"), clientCert)
	// The minute of patience is for what passes; the test would notice.
	needError(t, connect(empty), "certificate signed by unknown authority")
	needError(t, connect(caOnly), "tls: certificate required")
	needError(t, connect(half), "there is no client.key beside it")
	write(t, filepath.Join(half, host, "ca.crt"), []byte("nothing"))
	needError(t, connect(half), "ca.crt: there is no certificate in it")
	// All of it, in the first folder that has something for the host. The other host has no folder.
	needError(t, connect(empty, all, half), "certificate signed by unknown authority")
	write(t, filepath.Join(all, strings.TrimPrefix(other.URL, "https://"), "ca.crt"), a.pem)
	if err := connect(empty, all, half); err != nil {
		t.Error(err)
	}
	if n := elsewhere.Load(); n != 0 {
		t.Errorf("the client certificate was shown to the place of the blobs")
	}
}

func TestCertsDirOfHost(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a.example.com", "b.example.com:443", "c.example.com:5000", "docker.io"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for host, want := range map[string]string{
		"a.example.com": "a.example.com", "a.example.com:443": "a.example.com", "a.example.com:5000": "",
		"b.example.com": "b.example.com:443", "c.example.com:5000": "c.example.com:5000", "c.example.com": "",
		"index.docker.io": "docker.io", "..": "", ".": "", "": "", "../x": "",
	} {
		got, err := certsDir([]string{dir}, host)
		if want != "" {
			want = filepath.Join(dir, want)
		}
		if err != nil || got != want {
			t.Errorf("%q: %q (%v), want %q", host, got, err, want)
		}
	}
}

// Without TLS only where it was said.
func TestPlainHTTP(t *testing.T) {
	r, err := upstream.Start(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close() //nolint:errcheck // scratch
	all := &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, r.Host())
	}}
	defer all.CloseIdleConnections()
	for _, c := range []struct{ host, plain, want string }{
		{"registry.lan:5000", "registry.lan:5000", ""},
		{"registry.lan", "registry.lan:80", ""},
		{"10.1.2.3:5000", "10.1.2.3:5000", ""},
		{"registry.lan:5000", "registry.lan", "server gave HTTP response to HTTPS client"},
		{"registry.lan:5000", "", "server gave HTTP response to HTTPS client"},
		// The library below would fall back to plain HTTP for these.
		{"10.1.2.3:5000", "", "plain HTTP to 10.1.2.3:5000 was not allowed"},
		{"registry.localhost:5000", "", "plain HTTP to registry.localhost:5000 was not allowed"},
	} {
		rs := &Registries{Transport: all, Keychain: authn.NewMultiKeychain()}
		if c.plain != "" {
			rs.PlainHTTP = []string{c.plain}
		}
		_, err := rs.Repository(t.Context(), reference(t, c.host+"/a/b:v1"))
		if c.want == "" && err != nil {
			t.Errorf("%s: %v", c.host, err)
		} else if c.want != "" {
			needError(t, err, c.want)
		}
	}
}

// The environment's proxy is asked for hosts that are not of this machine. net/http reads the environment once, so this
// test runs itself again.
func TestProxyOfEnvironment(t *testing.T) {
	const name = "registry.example.com:5000"
	if os.Getenv("ORIGIN_TEST_PROXY") != "" {
		rs := &Registries{PlainHTTP: []string{name}, Keychain: authn.NewMultiKeychain()}
		repo, ref := open(t, rs, name+"/acme/app:v1")
		if _, _, err := repo.Resolve(t.Context(), ref); err != nil {
			t.Fatal(err)
		}
		return
	}
	target, _ := startRegistry(t)
	var asked atomic.Int64
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodConnect || r.Host != name {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		asked.Add(1)
		httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: target}).ServeHTTP(w, r)
	}))
	defer proxy.Close()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestProxyOfEnvironment$", "-test.count=1")
	cmd.Env = append(os.Environ(), "ORIGIN_TEST_PROXY=1", "HTTP_PROXY="+proxy.URL, "HTTPS_PROXY="+proxy.URL, "NO_PROXY=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if asked.Load() < 2 {
		t.Errorf("the proxy was asked %d times", asked.Load())
	}
}
