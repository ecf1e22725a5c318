package integration

import (
	"context"
	"crypto/x509"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/plimsoll/plimsoll/relay/siteca"
)

// The customer's own certificate is served for its names, and is read again on SIGHUP; the administration listener tells
// what is served.
func TestReloadAndAdministration(t *testing.T) {
	s := newSite(t)
	s.must("import", s.bundle("v1.5.4"))
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "relay.crt"), filepath.Join(dir, "relay.key")
	issue := func(ca string) *x509.Certificate {
		t.Helper()
		authority, err := siteca.Open(filepath.Join(dir, ca), ca, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := authority.Server([]string{"relay.plant7.example"}, time.Now()); err != nil {
			t.Fatal(err)
		}
		pair, err := os.ReadFile(filepath.Join(dir, ca, "server.pem")) // key and certificate
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{key, cert} {
			if err := os.WriteFile(path, pair, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return authority.Certificate()
	}
	admin := freeAddress(t)
	first := issue("one")
	s.start("--tls-cert", cert, "--tls-key", key, "--admin-listen", admin)
	ask := func(ca *x509.Certificate) error {
		led := s.ledTo(s.relay.Addr)
		led.TLSClientConfig.RootCAs = x509.NewCertPool()
		led.TLSClientConfig.RootCAs.AddCert(ca)
		defer led.CloseIdleConnections()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://relay.plant7.example/healthz", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := led.RoundTrip(req)
		if err == nil {
			err = resp.Body.Close()
		}
		return err
	}
	if err := ask(first); err != nil {
		t.Fatalf("the customer's certificate: %v", err)
	}
	if _, _, err := s.relay.PullImage(t.Context(), app+":v1.5.4", linux("amd64")); err != nil {
		t.Errorf("under the relay's other names: %v", err)
	}
	second := issue("two")
	if err := s.serve.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	waitFor(ctx, t, "the customer's new certificate is served", func() bool { return ask(second) == nil })
	get := func(path string) string {
		t.Helper()
		resp, err := http.Get("http://" + admin + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close() //nolint:errcheck // only read from
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %s (%v)", path, resp.Status, err)
		}
		return string(body)
	}
	if ready := get("/readyz"); !strings.Contains(ready, "generation 1") {
		t.Errorf("/readyz: %s", ready)
	}
	metrics := get("/metrics")
	for _, want := range []string{`plimsoll_active_release_info{`, `version="v1.5.4"`, `plimsoll_requests_total{code="2xx",kind="blob"}`, "plimsoll_generation 1", "plimsoll_certificate_not_after_timestamp_seconds"} {
		if !strings.Contains(metrics, want) {
			t.Errorf("/metrics has no %s", want)
		}
	}
}

// A relay that is told to stop lets a pull that runs finish.
func TestStopDrains(t *testing.T) {
	s := newSite(t)
	s.must("import", s.bundle("v1.5.4"))
	s.start("--limit-rate", "1MB", "--drain", "1m")
	img, _, err := s.relay.PullImage(t.Context(), app+":v1.5.4", linux("amd64"))
	if err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	digest, err := layers[len(layers)-1].Digest()
	if err != nil {
		t.Fatal(err)
	}
	size, err := layers[len(layers)-1].Size()
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.relay.HTTP().Get(s.relay.URL("/v2/" + app + "/blobs/" + digest.String()))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // only read from
	if err := s.serve.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, resp.Body); err != nil || n != size {
		t.Errorf("%d bytes of %d: %v", n, size, err)
	}
	if err := s.serve.Wait(); err != nil {
		t.Errorf("it ended with %v\n%s", err, s.log.String())
	}
	s.serve = nil
}
