package origin

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/plimsoll/plimsoll/bundle"
)

// script answers one request after the other, the last one for ever.
type script struct {
	steps []func(*http.Request) (*http.Response, error)
	asked int
}

func (s *script) RoundTrip(r *http.Request) (*http.Response, error) {
	step := s.steps[min(s.asked, len(s.steps)-1)]
	s.asked++
	return step(r)
}

func status(code int, retryAfter string) func(*http.Request) (*http.Response, error) {
	return func(*http.Request) (*http.Response, error) {
		h := http.Header{}
		if retryAfter != "" {
			h.Set("Retry-After", retryAfter)
		}
		return &http.Response{StatusCode: code, Header: h, Body: http.NoBody}, nil
	}
}

func failure(err error) func(*http.Request) (*http.Response, error) {
	return func(*http.Request) (*http.Response, error) { return nil, err }
}

func TestPatience(t *testing.T) {
	refused := &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	type steps = []func(*http.Request) (*http.Response, error)
	for _, c := range []struct {
		what     string
		steps    steps
		status   int // 0: an error
		asked    int // 0: often
		min, max time.Duration
	}{
		{"success", steps{status(200, "")}, 200, 1, 0, 0},
		{"is not there", steps{status(404, "")}, 404, 1, 0, 0},
		{"not allowed", steps{status(401, "")}, 401, 1, 0, 0},
		{"not implemented", steps{status(501, "")}, 501, 1, 0, 0},
		{"passes", steps{status(503, ""), failure(refused), failure(io.ErrUnexpectedEOF), status(200, "")}, 200, 4, 300 * time.Millisecond, 2 * time.Second},
		{"asks to wait", steps{status(429, "7"), status(200, "")}, 200, 2, 7 * time.Second, 7 * time.Second},
		{"asks to wait until", steps{status(503, "Sat, 01 Jan 2000 00:00:30 GMT"), status(200, "")}, 200, 2, 30 * time.Second, 30 * time.Second},
		{"asks to wait too long", steps{status(429, "3600"), status(200, "")}, 429, 1, 0, 0},
		{"asks to wait absurdly", steps{status(429, "99999999999999999999"), status(200, "")}, 200, 2, 0, time.Second},
		{"does not pass", steps{status(500, "")}, 500, 0, time.Minute, time.Minute},
		{"never came", steps{failure(refused)}, 0, 0, firstContact, firstContact},
		{"went away", steps{status(503, ""), failure(refused)}, 0, 0, time.Minute, time.Minute},
		{"unknown name", steps{failure(&net.DNSError{IsNotFound: true})}, 0, 1, 0, 0},
		{"no certificate", steps{failure(&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}})}, 0, 1, 0, 0},
		{"refused here", steps{failure(refusef("no"))}, 0, 1, 0, 0},
	} {
		t.Run(c.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{steps: c.steps}
				rt := &repeater{next: s, patience: defaultPatience}
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://registry.example.com/v2/", nil)
				if err != nil {
					t.Fatal(err)
				}
				start := time.Now()
				resp, err := rt.RoundTrip(req)
				if took := time.Since(start); took < c.min || took > c.max {
					t.Errorf("it took %s", took)
				}
				if err != nil && c.status != 0 || err == nil && resp.StatusCode != c.status {
					t.Errorf("%v (%v), want %d", resp, err, c.status)
				}
				if c.asked != 0 && s.asked != c.asked || c.asked == 0 && (s.asked < 5 || s.asked > 30) {
					t.Errorf("asked %d times", s.asked)
				}
			})
		})
	}
}

func TestPatienceEndsWithTheBuild(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeoutCause(t.Context(), 5*time.Second, errors.New("the build ends"))
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://registry.example.com/v2/", nil)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		rt := &repeater{next: &script{steps: []func(*http.Request) (*http.Response, error){status(503, "20")}}, patience: time.Minute}
		if _, err := rt.RoundTrip(req); err == nil || err.Error() != "the build ends" || time.Since(start) != 5*time.Second {
			t.Errorf("%v after %s", err, time.Since(start))
		}
	})
}

// A token is asked for with a body, which must come again.
func TestPatienceSendsTheBodyAgain(t *testing.T) {
	var bodies []string
	record := func(code int) func(*http.Request) (*http.Response, error) {
		return func(r *http.Request) (*http.Response, error) {
			data, err := io.ReadAll(r.Body)
			bodies = append(bodies, string(data))
			if err != nil {
				return nil, err
			}
			return status(code, "")(r)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://auth.example.com/token", strings.NewReader("grant"))
		if err != nil {
			t.Fatal(err)
		}
		rt := &repeater{next: &script{steps: []func(*http.Request) (*http.Response, error){record(503), record(200)}}, patience: time.Minute}
		if resp, err := rt.RoundTrip(req); err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("%v (%v)", resp, err)
		}
	})
	if strings.Join(bodies, ",") != "grant,grant" {
		t.Errorf("%q", bodies)
	}
}

// Everything that is asked of a registry fails at first, in another way each time: the ping, the token, the manifest in
// its middle, the config, the lists of referrers.
func TestFlakyRegistry(t *testing.T) {
	host, index := startRegistry(t)
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: host})
	var mu sync.Mutex
	asked := make(map[string]bool)
	var s *httptest.Server
	s = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		again, way := asked[r.URL.Path], len(asked)%3
		asked[r.URL.Path] = true
		mu.Unlock()
		switch {
		case !again && way == 0:
			w.WriteHeader(http.StatusServiceUnavailable)
		case !again && way == 1:
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusTooManyRequests)
		case !again:
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, "the beginning") // and the connection breaks
		case r.URL.Path == "/token":
			_, _ = io.WriteString(w, `{"token":"good"}`)
		case r.Header.Get("Authorization") != "Bearer good":
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+s.URL+`/token",service="x"`)
			w.WriteHeader(http.StatusUnauthorized)
		default:
			proxy.ServeHTTP(w, r)
		}
	}))
	defer s.Close()
	repo, ref := open(t, &Registries{Keychain: authn.NewMultiKeychain()}, strings.TrimPrefix(s.URL, "http://")+"/acme/app:v1")
	desc, _, err := repo.Resolve(t.Context(), ref)
	if err != nil || desc.Digest != index {
		t.Fatalf("%s (%v)", desc.Digest, err)
	}
	err = bundle.Walk(t.Context(), repo, desc, func(n bundle.Node) error {
		if n.Manifest || n.Descriptor.Size > maxBuffered {
			return nil
		}
		_, err := bundle.ReadBlob(t.Context(), repo, n.Descriptor, maxBuffered)
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if refs, err := repo.Referrers(t.Context(), index); err != nil || len(refs) != 1 {
		t.Errorf("%v (%v)", refs, err)
	}
	if !asked["/v2/"] || !asked["/token"] || len(asked) < 10 {
		t.Errorf("%v", asked)
	}
}

// A registry that restarts refuses connections for a while.
func TestRegistryAway(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host := listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v2/" {
			w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
			_, _ = io.WriteString(w, "{}")
		}
	}))
	defer s.Close()
	var dials atomic.Int64
	var back sync.Once
	rs := &Registries{Keychain: authn.NewMultiKeychain(), Transport: &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			if dials.Add(1) > 5 {
				back.Do(func() {
					if s.Listener, err = net.Listen("tcp", host); err == nil {
						s.Start()
					}
				})
			}
			return (&net.Dialer{}).DialContext(ctx, network, address)
		},
	}}
	repo, ref := open(t, rs, host+"/a/b:v1")
	if _, _, err := repo.Resolve(t.Context(), ref); err != nil {
		t.Error(err)
	}
}
