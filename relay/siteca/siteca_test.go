package siteca

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/plimsoll/plimsoll/internal/durable"
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

func TestNames(t *testing.T) {
	ca, err := Open(t.TempDir(), "plant-7", today())
	if err != nil {
		t.Fatal(err)
	}
	names := []string{"*.plant7.example", "Relay.Example.", "127.0.0.1", "::1", "FD00::0001", "my_box", "127.0.0.1", "xn--bcher-kva.example"}
	cert, err := ca.Server(names, today())
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{
		"a.plant7.example": true, "a.b.plant7.example": false, "plant7.example": false, "relay.example": true, "fd00::1": true, "my_box": true, "ghcr.io": false,
	} {
		if got := cert.Leaf.VerifyHostname(name) == nil; got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
	again, err := ca.Server(names, today())
	if err != nil || again.Leaf.SerialNumber.Cmp(cert.Leaf.SerialNumber) != 0 {
		t.Errorf("the same names made a new certificate (%v)", err)
	}
	for _, bad := range []string{"", "a b", "*", "a.*.example", "*a.example", "bücher.example", "a..b", "-a.example", "https://a", "a:443", strings.Repeat("a", 64), strings.Repeat("a.", 127) + "aa"} {
		if _, err := ca.Server([]string{bad}, today()); err == nil {
			t.Errorf("%q is in a certificate", bad)
		}
	}
	if _, err := ca.Server(nil, today()); err == nil {
		t.Error("a certificate without a name")
	}
	if _, err := ca.Server(make([]string, maxNames+1), today()); err == nil {
		t.Error("any number of names")
	}
}

func TestClientCertificate(t *testing.T) {
	ca, err := Open(t.TempDir(), strings.Repeat("a site with a long name ", 5), today())
	if err != nil {
		t.Fatal(err)
	}
	if n := len(ca.Certificate().Subject.CommonName); n > 64 {
		t.Errorf("CommonName of %d bytes", n)
	}
	for life, want := range map[time.Duration]time.Time{
		30 * 24 * time.Hour: today().AddDate(0, 0, 30),
		ClientLife:          today().Add(ClientLife),
		3 * caLife:          ca.Certificate().NotAfter,
	} {
		c, err := ca.Client("agv-17", life, today())
		if err != nil {
			t.Fatal(err)
		}
		if !c.Certificate.NotAfter.Equal(want) {
			t.Errorf("%v: ends %v, want %v", life, c.Certificate.NotAfter, want)
		}
		roots := pool(ca.Certificate())
		for usage, ok := range map[x509.ExtKeyUsage]bool{x509.ExtKeyUsageClientAuth: true, x509.ExtKeyUsageServerAuth: false} {
			_, err := c.Certificate.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: today(), KeyUsages: []x509.ExtKeyUsage{usage}})
			if (err == nil) != ok {
				t.Errorf("usage %v: %v", usage, err)
			}
		}
		if _, err := tls.X509KeyPair(c.CertPEM, c.KeyPEM); err != nil || c.Certificate.Subject.CommonName != "agv-17" {
			t.Errorf("%s: %v", c.Certificate.Subject, err)
		}
	}
	for name, life := range map[string]time.Duration{"": time.Hour, strings.Repeat("a", 65): time.Hour, "agv-17": 0} {
		if _, err := ca.Client(name, life, today()); err == nil {
			t.Errorf("%q for %v: issued", name, life)
		}
	}
}

// Keys that a restored backup left readable are closed again, what a crash left behind included.
func TestModesAreMended(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tls")
	ca, err := Open(dir, "plant-7", today())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ca.Server([]string{"ghcr.io"}, today()); err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(dir, ".server.pem.tmp-1")
	write(t, left, nil, 0o600)
	want := map[string]os.FileMode{dir: 0o700, left: 0o600}
	for _, name := range []string{"ca.pem", "server.pem"} {
		want[filepath.Join(dir, name)] = 0o600
	}
	for path := range want {
		if err := os.Chmod(path, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Open(dir, "plant-7", today()); err != nil {
		t.Fatal(err)
	}
	want[CertFile(dir)] = 0o644
	for path, mode := range want {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: mode %v, want %o (%v)", path, info.Mode(), mode, err)
		}
	}
}

// A crash at any write, before it or after it, leaves an authority that opens, and one that robots already trust stays.
func TestCrashAtEachWrite(t *testing.T) {
	crash := errors.New("crash")
	for k := 1; ; k++ {
		for _, after := range []bool{false, true} {
			dir := t.TempDir()
			writes := 0
			failing := func(path string, data []byte, perm os.FileMode) error {
				if writes++; writes < k {
					return durable.WriteFile(path, data, perm)
				}
				if after {
					if err := durable.WriteFile(path, data, perm); err != nil {
						t.Fatal(err)
					}
				}
				return crash
			}
			ca, err := open(dir, "plant-7", today(), failing)
			if err == nil {
				_, err = ca.Server([]string{"ghcr.io"}, today())
			}
			if err == nil {
				if k != 5 {
					t.Errorf("%d writes, want 4: ca.pem, ca.crt, server.pem, server.crt", k-1)
				}
				return
			}
			if !errors.Is(err, crash) {
				t.Fatalf("write %d: %v", k, err)
			}
			again, err := Open(dir, "plant-7", today())
			if err != nil {
				t.Fatalf("write %d, after %v: %v", k, after, err)
			}
			if ca != nil && !ca.Certificate().Equal(again.Certificate()) {
				t.Errorf("write %d, after %v: another authority", k, after)
			}
			cert, err := again.Server([]string{"ghcr.io"}, today())
			if err != nil || cert.Leaf.CheckSignatureFrom(again.Certificate()) != nil {
				t.Errorf("write %d, after %v: %v", k, after, err)
			}
			for _, base := range []string{"ca", "server"} {
				pair, _, err := readPair(dir, base)
				if err != nil {
					t.Fatal(err)
				}
				if copied, err := os.ReadFile(filepath.Join(dir, base+".crt")); err != nil || !bytes.Equal(copied, certPEM(pair)) {
					t.Errorf("write %d, after %v: %s.crt is not the copy (%v)", k, after, base, err)
				}
			}
		}
	}
}

// A full disk, or a server certificate that it damaged, does not stop serving.
func TestServingWithoutRoom(t *testing.T) {
	dir := t.TempDir()
	full := errors.New("full")
	if _, err := Open(dir, "plant-7", today()); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "server.pem"), []byte("torn"), 0o600)
	ca, err := open(dir, "plant-7", today(), func(string, []byte, os.FileMode) error { return full })
	if err != nil {
		t.Fatalf("opening writes what is there: %v", err)
	}
	var log bytes.Buffer
	now := today()
	k, err := newKeeper(ca, KeeperOptions{Names: []string{"ghcr.io"}, Now: func() time.Time { return now }, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	now = now.Add(serverLife)
	if err := k.Reload(); !errors.Is(err, full) || !strings.Contains(log.String(), "was not stored") {
		t.Errorf("got %v, log: %s", err, &log)
	}
	if _, _, err := handshake(k.TLSConfig(), &tls.Config{RootCAs: pool(ca.Certificate()), ServerName: "ghcr.io", Time: at(now)}); err != nil {
		t.Error(err)
	}
}

// A damaged authority is not replaced: robots would trust none of what it issues.
func TestDamagedAuthority(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "ca.pem"), []byte("torn"), 0o600)
	if _, err := Open(dir, "plant-7", today()); err == nil {
		t.Error("a new authority was made")
	}
}

func TestTwoProcessesMakeOneAuthority(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tls")
	serials := make(chan string, 8)
	for range cap(serials) {
		go func() {
			ca, err := Open(dir, "plant-7", today())
			if err != nil {
				serials <- err.Error()
				return
			}
			serials <- ca.Certificate().SerialNumber.String()
		}()
	}
	first := <-serials
	for range cap(serials) - 1 {
		if got := <-serials; got != first {
			t.Errorf("%s and %s", first, got)
		}
	}
}
