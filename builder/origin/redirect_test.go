package origin

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
)

func TestRedirectLoop(t *testing.T) {
	var asked atomic.Int64
	s := server(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
	})
	repo, ref := connectTo(t, s.URL)
	_, _, err := repo.Resolve(t.Context(), ref)
	needError(t, err, "more than 10 redirects")
	_, err = repo.Open(t.Context(), blobOf("a config"))
	needError(t, err, "more than 10 redirects")
	_, err = repo.Referrers(t.Context(), digest.FromString("subject"))
	needError(t, err, "more than 10 redirects")
	if n := asked.Load(); n > 33 {
		t.Errorf("%d requests", n)
	}
}

func TestRedirectLoopOfPingAndToken(t *testing.T) {
	var asked atomic.Int64
	for _, looping := range []string{"/v2/", "/token"} {
		var s *httptest.Server
		s = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked.Add(1)
			if r.URL.Path == looping {
				http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
				return
			}
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+s.URL+`/token",service="x"`)
			w.WriteHeader(http.StatusUnauthorized)
		}))
		rs := &Registries{Patience: -1, Keychain: authn.NewMultiKeychain()}
		_, err := rs.Repository(t.Context(), reference(t, strings.TrimPrefix(s.URL, "http://")+"/a/b:v1"))
		needError(t, err, "10 redirects")
		s.Close()
	}
	if n := asked.Load(); n > 30 {
		t.Errorf("%d requests", n)
	}
}

// A registry may keep its blobs elsewhere, and credentials are for the registry.
func TestRedirectElsewhereWithoutCredentials(t *testing.T) {
	const data = "the blob"
	var elsewhere atomic.Pointer[http.Header]
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := r.Header.Clone()
		elsewhere.Store(&h)
		_, _ = io.WriteString(w, data)
	}))
	defer other.Close()
	for _, scheme := range []string{"Basic", "Bearer"} {
		t.Run(scheme, func(t *testing.T) {
			var s *httptest.Server
			s = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/token" {
					_, _ = io.WriteString(w, `{"token":"secret"}`)
					return
				}
				if r.Header.Get("Authorization") == "" {
					w.Header().Set("WWW-Authenticate", scheme+` realm="`+s.URL+`/token",service="x"`)
					w.WriteHeader(http.StatusUnauthorized)
					return
				}
				if r.URL.Path != "/v2/" {
					http.Redirect(w, r, other.URL+r.URL.Path+"?X-Amz-Signature=secret", http.StatusTemporaryRedirect)
				}
			}))
			defer s.Close()
			host := strings.TrimPrefix(s.URL, "http://")
			rs := &Registries{Patience: -1, Keychain: keychain{host: authn.AuthConfig{Username: "u", Password: "p"}}}
			repo, _ := open(t, rs, host+"/a/b:v1")
			rc, err := repo.Open(t.Context(), blobOf(data))
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(rc); err != nil || string(got) != data {
				t.Errorf("%q (%v)", got, err)
			}
			if h := elsewhere.Load(); h == nil || h.Get("Authorization") != "" || h.Get("Cookie") != "" {
				t.Errorf("headers elsewhere: %v", h)
			}
		})
	}
}

// Addresses of object stores are as good as passwords for an hour.
func TestErrorsCarryNoSignedAddress(t *testing.T) {
	gone := httptest.NewServer(http.NotFoundHandler())
	for _, target := range []string{gone.URL, "http://127.0.0.1:1"} {
		s := server(t, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, target+"/x?X-Amz-Signature=secret", http.StatusTemporaryRedirect)
		})
		repo, _ := connectTo(t, s.URL)
		_, err := repo.Open(t.Context(), blobOf("a config"))
		if err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%v", err)
		}
	}
	gone.Close()
}

func TestDowngradeRefused(t *testing.T) {
	var reached atomic.Bool
	plain := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Store(true) }))
	defer plain.Close()
	for _, from := range []string{"/v2/", "/v2/a/b/manifests/v1", "/v2/a/b/blobs/" + blobOf("x").Digest.String()} {
		s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == from {
				http.Redirect(w, r, plain.URL+r.URL.Path, http.StatusTemporaryRedirect)
			}
		}))
		// The server's own client finds it under the name example.com.
		rs := &Registries{Patience: -1, Keychain: authn.NewMultiKeychain(), Transport: s.Client().Transport}
		ref := name.MustParseReference("example.com/a/b:v1")
		repo, err := rs.Repository(t.Context(), ref)
		if err == nil {
			if _, _, err = repo.Resolve(t.Context(), ref); !strings.Contains(from, "manifests") {
				_, err = repo.Open(t.Context(), blobOf("x"))
			}
		}
		needError(t, err, "example.com redirects from https to http://")
		s.Close()
	}
	if reached.Load() {
		t.Error("the plain server was asked")
	}
}

type keychain map[string]authn.AuthConfig

func (k keychain) Resolve(r authn.Resource) (authn.Authenticator, error) {
	if c, ok := k[r.RegistryStr()]; ok {
		return authn.FromConfig(c), nil
	}
	return authn.Anonymous, nil
}
