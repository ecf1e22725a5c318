package siteca

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestServerCertificate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tls")
	now := time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC)
	ca, err := Open(dir, "plant-7", now)
	if err != nil {
		t.Fatal(err)
	}
	names := []string{"relay.plant7.example", "ghcr.io", "127.0.0.1"}
	cert, err := ca.Server(names, now)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pem, err := os.ReadFile(CertFile(dir))
	if err != nil || !pool.AppendCertsFromPEM(pem) {
		t.Fatalf("ca.crt: %v", err)
	}
	for _, name := range names {
		if _, err := cert.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: pool, CurrentTime: now}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := cert.Leaf.Verify(x509.VerifyOptions{DNSName: "evil.example", Roots: pool, CurrentTime: now}); err == nil {
		t.Error("evil.example is accepted")
	}
	for path, want := range map[string]os.FileMode{"ca.pem": 0o600, "server.pem": 0o600, "ca.crt": 0o644} {
		info, err := os.Stat(filepath.Join(dir, path))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: mode %v, want %o (%v)", path, info.Mode(), want, err)
		}
	}

	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.TLS = &tls.Config{Certificates: []tls.Certificate{*cert}}
	server.StartTLS()
	defer server.Close()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, Time: func() time.Time { return now }}}}
	resp, err := client.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close() //nolint:errcheck // nothing in it
}

func TestServerIsKeptUntilItMustChange(t *testing.T) {
	dir := t.TempDir()
	now := time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC)
	serial := func(now time.Time, names ...string) string {
		t.Helper()
		ca, err := Open(dir, "plant-7", now)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := ca.Server(names, now)
		if err != nil {
			t.Fatal(err)
		}
		return cert.Leaf.SerialNumber.String()
	}
	first := serial(now, "a.example", "b.example")
	if got := serial(now.AddDate(0, 1, 0), "b.example"); got != first {
		t.Error("a restart made a new certificate")
	}
	if got := serial(now.AddDate(2, 0, 0), "a.example"); got == first {
		t.Error("a certificate near its end was kept")
	}
	if got := serial(now, "c.example"); got == first {
		t.Error("a certificate without the name was kept")
	}
}

// A box whose clock lost its battery must make certificates that hold once the clock is right, and today.
func TestClockAt1970(t *testing.T) {
	ca, err := Open(t.TempDir(), "plant-7", time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Server([]string{"a.example"}, time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	if when := time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC); when.Before(cert.Leaf.NotBefore) || when.After(cert.Leaf.NotAfter) {
		t.Errorf("not valid on %v: %v to %v", when, cert.Leaf.NotBefore, cert.Leaf.NotAfter)
	}
}

func TestCrashBetweenPairAndCopy(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	if _, err := Open(dir, "plant-7", now); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(CertFile(dir)); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, "plant-7", now); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(CertFile(dir)); err != nil {
		t.Error(err)
	}
}
