package hooks

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// listen serves with TLS under a CA of its own, which it writes to a file.
func listen(t *testing.T, handler http.Handler) (s *httptest.Server, caFile string) {
	t.Helper()
	s = httptest.NewUnstartedServer(handler)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	s.StartTLS()
	t.Cleanup(s.Close)
	caFile = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return s, caFile
}

// told sends a hook what changed between sample and after.
func told(ctx context.Context, h Hook) error {
	channels, refs := difference(sample(), after()).resolve(h, after())
	all, _, err := options().requests(h, news{after(), channels, refs})
	if err != nil {
		return err
	}
	return options().send(ctx, h, all, make(map[string]bool))
}

func TestSendWithTLS(t *testing.T) {
	var got http.Request
	var body []byte
	s, ca := listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = *r
		body, _ = io.ReadAll(r.Body)
		w.WriteHeader(http.StatusNoContent)
	}))
	h := webhook("mes", s.URL+"/in?plant=7")
	if err := told(t.Context(), h); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("an unknown CA was trusted: %v", err)
	}
	if got.Method != "" {
		t.Fatal("it was told without trust")
	}
	h.CAFile = ca
	if err := told(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	if got.Method != "POST" || got.RequestURI != "/in?plant=7" || got.Header.Get(SignatureHeader) != "sha256="+signature(testSecret, body) {
		t.Errorf("%s %s %v", got.Method, got.RequestURI, got.Header)
	}
	for name, content := range map[string]string{"absent.pem": "", "empty.pem": "x"} {
		h.CAFile = filepath.Join(t.TempDir(), name)
		if content != "" {
			if err := os.WriteFile(h.CAFile, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := told(t.Context(), h); err == nil || !strings.Contains(err.Error(), "caFile") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What the other side answers, and where it sends us, brings no secret out.
func TestErrorsHaveNoSecrets(t *testing.T) {
	const capability = "/hook/f00dfeed"
	s, ca := listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		echo := r.RequestURI + " " + r.Header.Get("Authorization") + " " + testSecret
		switch r.Header.Get("X-Mode") {
		default:
			w.Header().Set("Location", "http://%zz"+echo)
			w.WriteHeader(http.StatusTemporaryRedirect)
		case "":
			http.Error(w, echo, http.StatusForbidden)
		}
	}))
	hooks := []Hook{
		{Name: "a", Type: Webhook, URL: Secret(s.URL + capability), Secret: testSecret, Token: testToken, CAFile: ca},
		{Name: "b", Type: FluxReceiver, URL: Secret("https://127.0.0.1:1" + capability), Secret: testSecret},
		{Name: "c", Type: ArgoCDRefresh, URL: Secret(s.URL + capability), Token: testToken, CAFile: ca, Applications: []string{"x"}},
		{Name: "d", Type: FluxReceiver, URL: "https://no-such-host.invalid" + capability},
	}
	for _, h := range hooks {
		for _, mode := range []string{"", "redirect"} {
			all, _, err := options().requests(h, activation(h))
			if err != nil {
				t.Fatal(err)
			}
			for i := range all {
				if mode != "" {
					all[i].header.Set("X-Mode", mode)
				}
			}
			err = options().send(t.Context(), h, all, make(map[string]bool))
			var refused *DeliveryError
			if !errors.As(err, &refused) {
				t.Fatalf("%s: %v", h.Name, err)
			}
			for _, secret := range []string{testSecret, testToken, "f00dfeed"} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("%s %s: %v", h.Name, mode, err)
				}
			}
			if !strings.Contains(err.Error(), "hook "+h.Name+": "+h.Place()) {
				t.Errorf("%v does not say who and where", err)
			}
		}
	}
}

func TestRedirects(t *testing.T) {
	var elsewhere atomic.Int32
	other, _ := listen(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	var there atomic.Int32
	s, ca := listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/same":
			http.Redirect(w, r, "/there", http.StatusPermanentRedirect)
		case "/get":
			http.Redirect(w, r, "/there", http.StatusFound)
		case "/other":
			http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
		case "/plain":
			http.Redirect(w, r, "http://"+r.Host+"/there", http.StatusTemporaryRedirect)
		case "/loop":
			http.Redirect(w, r, "/loop", http.StatusTemporaryRedirect)
		case "/there":
			body, _ := io.ReadAll(r.Body)
			if r.Method == http.MethodPost && r.Header.Get(SignatureHeader) == "sha256="+signature(testSecret, body) {
				there.Add(1)
			}
		}
	}))
	for path, ok := range map[string]bool{"/same": true, "/get": false, "/other": false, "/plain": false, "/loop": false} {
		there.Store(0)
		h := webhook("mes", s.URL+path)
		h.CAFile = ca
		err := told(t.Context(), h)
		if (err == nil) != ok || (there.Load() == 1) != ok {
			t.Errorf("%s: %v, arrived %d times", path, err, there.Load())
		}
	}
	if elsewhere.Load() > 0 {
		t.Error("another host was told")
	}
}

// An endless answer is not read to its end, and its status counts.
func TestAnswersAreBounded(t *testing.T) {
	sent := make(chan int64, 1)
	s, ca := listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var n int64
		for r.Context().Err() == nil {
			m, err := w.Write(make([]byte, 32<<10))
			if n += int64(m); err != nil {
				break
			}
		}
		sent <- n
	}))
	h := webhook("mes", s.URL)
	h.CAFile = ca
	if err := told(t.Context(), h); err != nil {
		t.Error(err)
	}
	if n := <-sent; n > 64<<20 {
		t.Errorf("%d bytes were taken", n)
	}
}

// One application that is not there does not keep the others from being refreshed, and only it is asked for again; a
// server that is down is asked once.
func TestPartsOfAHook(t *testing.T) {
	var asked []string
	status := map[string]int{"/api/v1/applications/b": http.StatusNotFound}
	s, ca := listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.Path[len("/api/v1/applications/"):])
		if code := status[r.URL.Path]; code != 0 {
			w.Header().Set("Retry-After", "17")
			w.WriteHeader(code)
		}
	}))
	h := Hook{Name: "argo", Type: ArgoCDRefresh, URL: Secret(s.URL), Token: testToken, CAFile: ca, Applications: []string{"a", "b", "c"}}
	all := mustRequests(t, options(), h, activation(h))
	done := make(map[string]bool)
	var refused *DeliveryError
	if err := options().send(t.Context(), h, all, done); !errors.As(err, &refused) || refused.Status != 404 || refused.Subject != "application b" {
		t.Errorf("%v", err)
	}
	status["/api/v1/applications/b"] = http.StatusServiceUnavailable
	if err := options().send(t.Context(), h, all, done); !errors.As(err, &refused) || refused.after != 17*time.Second {
		t.Errorf("%v", err)
	}
	if got := strings.Join(asked, ""); got != "abcb" {
		t.Errorf("asked for %s", got)
	}
	asked, done = nil, make(map[string]bool)
	status["/api/v1/applications/a"] = http.StatusBadGateway
	if err := options().send(t.Context(), h, all, done); !errors.As(err, &refused) || strings.Join(asked, "") != "a" {
		t.Errorf("%v, asked for %v", err, asked)
	}
}

func TestProbe(t *testing.T) {
	var events []string
	code := http.StatusOK
	s, ca := listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		events = append(events, r.Header.Get(EventHeader))
		w.WriteHeader(code)
	}))
	h := webhook("mes", s.URL)
	h.CAFile = ca
	if err := Test(t.Context(), h, options()); err != nil {
		t.Error(err)
	}
	code = http.StatusUnauthorized
	var refused *DeliveryError
	if err := Test(t.Context(), h, options()); !errors.As(err, &refused) || refused.Status != code {
		t.Errorf("%v", err)
	}
	if strings.Join(events, ",") != "test,test" {
		t.Errorf("%v", events)
	}
	h.URL = "ftp://x"
	if err := Test(t.Context(), h, options()); err == nil {
		t.Error("an impossible hook was tested")
	}
}

func TestRetryAfter(t *testing.T) {
	for value, want := range map[string]time.Duration{"": 0, "0": 0, "7": 7 * time.Second, "65535": lastWait, "99999999": 0, "-1": 0, "Wed, 21 Oct 2026 07:28:00 GMT": 0} {
		if got := retryAfter(value); got != want {
			t.Errorf("%q: %v, want %v", value, got, want)
		}
	}
	if got := backoff(1, &DeliveryError{after: 7 * time.Second}); got != 7*time.Second {
		t.Error(got)
	}
	if got := backoff(100, errors.New("x")); got != lastWait {
		t.Error(got)
	}
}
