package media

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// clientCert writes a certificate for clients that is its own CA.
func clientCert(t *testing.T) (cert *x509.Certificate, certFile, keyFile string) {
	t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "robot"}, NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<35, 0),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, IsCA: true, BasicConstraintsValid: true,
	}
	der := must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))(t)
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "client.crt"), filepath.Join(dir, "client.key")
	keyDER := must(x509.MarshalPKCS8PrivateKey(key))(t)
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return must(x509.ParseCertificate(der))(t), certFile, keyFile
}

// tlsFront is front with TLS. It gives its host and a file with its CA.
func tlsFront(t *testing.T, h http.Handler, config *tls.Config) (host, caFile string) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = config
	s.StartTLS()
	t.Cleanup(s.Close)
	caFile = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return strings.TrimPrefix(s.URL, "https://"), caFile
}

func TestClientCertificate(t *testing.T) {
	b, large, registry := published(t)
	cert, certFile, keyFile := clientCert(t)
	clients := x509.NewCertPool()
	clients.AddCert(cert)
	// The registry redirects blobs to a storage that would like to know who asks.
	var shown, asked atomic.Int64
	storage, _ := tlsFront(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		shown.Add(int64(len(r.TLS.PeerCertificates)))
		proxyTo(registry).ServeHTTP(w, r)
	}), &tls.Config{ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS12})
	next := proxyTo(registry)
	host, caFile := tlsFront(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if isBlob(r, large.Digest) {
			http.Redirect(w, r, "https://"+storage+r.URL.Path, http.StatusTemporaryRedirect)
			return
		}
		next.ServeHTTP(w, r)
	}), &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients, MinVersion: tls.VersionTLS12})

	ref := "oci://" + host + "/app:" + b.Tag
	// A refusal is not worth an hour.
	var gaveUp *GaveUpError
	_, err := source(t, ref, Options{CAFile: caFile, Patience: time.Hour}).Root(t.Context())
	if err == nil || !strings.Contains(err.Error(), "certificate") || errors.As(err, &gaveUp) {
		t.Errorf("without a certificate: %v", err)
	}
	o := Options{CAFile: caFile, CertFile: certFile, KeyFile: keyFile}
	to := filepath.Join(t.TempDir(), "out")
	if err := carryWith(t.Context(), t, ref, to, o); err != nil {
		t.Fatal(err)
	}
	checkSame(t, b, to)
	if asked.Load() != 1 || shown.Load() != 0 {
		t.Errorf("the storage was asked %d times and shown %d certificates", asked.Load(), shown.Load())
	}
	if err := carryWith(t.Context(), t, to, "oci://"+host+"/copy", o); err != nil {
		t.Error(err)
	}
	for name, bad := range map[string]Options{
		"no key": {CertFile: certFile}, "no certificate": {KeyFile: keyFile}, "exchanged": {CertFile: keyFile, KeyFile: certFile},
		"absent": {CertFile: certFile, KeyFile: keyFile + ".absent"},
	} {
		if _, err := OpenSource(t.Context(), ref, bad); err == nil || !strings.Contains(err.Error(), "client certificate") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestWorkersAreBounded counts how many blobs move at once.
func TestWorkersAreBounded(t *testing.T) {
	b, _, host := published(t)
	for _, workers := range []int{1, 2, 0} {
		var now, most atomic.Int64
		next := proxyTo(host)
		at := front(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !strings.Contains(r.URL.Path, "/blobs/") || r.Method == http.MethodHead {
				next.ServeHTTP(w, r)
				return
			}
			n := now.Add(1)
			defer now.Add(-1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			next.ServeHTTP(w, r)
		}))
		o := Options{PlainHTTP: true, Workers: workers}
		if err := carryWith(t.Context(), t, "oci://"+at+"/app:"+b.Tag, filepath.Join(t.TempDir(), "out"), o); err != nil {
			t.Fatal(err)
		}
		want := int64(workers)
		if workers == 0 {
			want = defaultWorkers
		}
		if most.Load() > want {
			t.Errorf("%d workers: %d requests at once", workers, most.Load())
		}
	}
	one, three := &remote{workers: 1}, &remote{workers: 3}
	if n := fewest(4, three, one, nil); n != 1 {
		t.Errorf("%d workers", n)
	}
	if n := fewest(4, &remote{}, nil); n != 4 {
		t.Errorf("%d workers", n)
	}
}

func TestNobodyThere(t *testing.T) {
	host := registryHost(t)
	var gaveUp *GaveUpError
	down := newBrokenLink(t, host, 0)
	_ = down.listener.Close()
	src := source(t, "oci://"+down.addr()+"/app:v1", Options{PlainHTTP: true, Patience: 300 * time.Millisecond})
	if _, err := src.Root(t.Context()); !errors.As(err, &gaveUp) {
		t.Errorf("%v, want a GaveUpError", err)
	}
	desc := blobOf("x").Descriptor
	desc.Digest = digest.FromString("y")
	if _, err := Resume(t.Context(), src, desc); !errors.As(err, &gaveUp) || strings.Count(err.Error(), "nothing came through") != 1 {
		t.Errorf("%v, want a GaveUpError", err)
	}
}
