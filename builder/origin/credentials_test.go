package origin

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/opencontainers/go-digest"
)

// guarded is a real registry behind basic authentication.
func guarded(t *testing.T) (host string, index digest.Digest) {
	t.Helper()
	target, index := startRegistry(t)
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: target})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, ok := r.BasicAuth(); !ok || user != "builder" || password != "s3cret" {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://"), index
}

func docker(t *testing.T, dir, config string) {
	t.Helper()
	write(t, filepath.Join(dir, "docker", "config.json"), []byte(config))
	t.Setenv("DOCKER_CONFIG", filepath.Join(dir, "docker"))
}

// The default keychain reads what docker and podman log-ins leave, and runs docker's credential helpers.
func TestCredentials(t *testing.T) {
	host, index := guarded(t)
	config := fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, host, base64.StdEncoding.EncodeToString([]byte("builder:s3cret")))
	for _, c := range []struct {
		what    string
		prepare func(t *testing.T, dir string)
		want    string
	}{
		{"nobody", func(*testing.T, string) {}, "401"},
		{"docker config", func(t *testing.T, dir string) {
			docker(t, dir, config)
		}, ""},
		{"docker config in home", func(t *testing.T, dir string) { // docker's library looks for the home only once
			write(t, filepath.Join(dir, ".docker", "config.json"), []byte(config))
		}, ""},
		{"wrong password", func(t *testing.T, dir string) {
			wrong := strings.Replace(config, base64.StdEncoding.EncodeToString([]byte("builder:s3cret")), base64.StdEncoding.EncodeToString([]byte("builder:wrong")), 1)
			docker(t, dir, wrong)
		}, "401"},
		{"credential helper", func(t *testing.T, dir string) {
			docker(t, dir, fmt.Sprintf(`{"credHelpers":{%q:"origintest"}}`, host))
			helper := filepath.Join(dir, "bin", "docker-credential-origintest")
			write(t, helper, []byte("#!/bin/sh\nread server\n[ \"$1\" = get ] && [ \"$server\" = "+host+" ] && echo '{\"Username\":\"builder\",\"Secret\":\"s3cret\"}'\n"))
			if err := os.Chmod(helper, 0o700); err != nil {
				t.Fatal(err)
			}
			t.Setenv("PATH", filepath.Dir(helper)+":"+os.Getenv("PATH"))
		}, ""},
		{"missing helper", func(t *testing.T, dir string) {
			docker(t, dir, fmt.Sprintf(`{"credHelpers":{%q:"origintest-absent"}}`, host))
		}, "docker-credential-origintest-absent"},
		{"podman auth.json", func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "run", "containers", "auth.json"), []byte(config))
			t.Setenv("XDG_RUNTIME_DIR", filepath.Join(dir, "run"))
		}, ""},
		{"REGISTRY_AUTH_FILE", func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "auth.json"), []byte(config))
			t.Setenv("REGISTRY_AUTH_FILE", filepath.Join(dir, "auth.json"))
		}, ""},
	} {
		t.Run(c.what, func(t *testing.T) {
			dir := t.TempDir()
			t.Setenv("HOME", dir)
			for _, v := range []string{"DOCKER_CONFIG", "DOCKER_AUTH_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME"} {
				t.Setenv(v, "")
			}
			c.prepare(t, dir)
			rs := &Registries{}
			ref := reference(t, host+"/acme/app:v1")
			repo, err := rs.Repository(t.Context(), ref)
			if err == nil {
				desc, _, rerr := repo.Resolve(t.Context(), ref)
				if err = rerr; err == nil && desc.Digest != index {
					t.Errorf("%s", desc.Digest)
				}
			}
			if c.want != "" {
				needError(t, err, c.want)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
}

// A token that runs out in the middle of a build is renewed.
func TestTokenExpires(t *testing.T) {
	target, index := startRegistry(t)
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: target})
	var tokens, uses atomic.Int64
	var s *httptest.Server
	s = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			if user, _, _ := r.BasicAuth(); user != "builder" || r.URL.Query().Get("scope") != "repository:acme/app:pull" {
				w.WriteHeader(http.StatusForbidden)
				return
			}
			uses.Store(0)
			_, _ = fmt.Fprintf(w, `{"access_token":"t%d"}`, tokens.Add(1))
			return
		}
		if r.Header.Get("Authorization") != fmt.Sprintf("Bearer t%d", tokens.Load()) || uses.Add(1) > 2 {
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+s.URL+`/token",service="x",scope="repository:acme/app:pull"`)
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, `{"errors":[{"code":"UNAUTHORIZED"}]}`)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	defer s.Close()
	host := strings.TrimPrefix(s.URL, "http://")
	repo, ref := open(t, &Registries{Keychain: keychain{host: authn.AuthConfig{Username: "builder", Password: "p"}}}, host+"/acme/app:v1")
	for range 10 {
		if desc, _, err := repo.Resolve(t.Context(), ref); err != nil || desc.Digest != index {
			t.Fatalf("%s (%v)", desc.Digest, err)
		}
	}
	if n := tokens.Load(); n < 4 {
		t.Errorf("%d tokens", n)
	}
}
