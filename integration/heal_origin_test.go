package integration

import (
	"context"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// A serving relay heals from the registry that the release came from in the way that the import reached it: without TLS,
// or by a CA of the site's own, which was named from another folder.
func TestServingRelayHealsFromARegistry(t *testing.T) {
	f := releases(t)
	if out, err := f.run("plimsoll", "copy", f.bundle("v1.5.4"), "oci://"+f.upstream+"/releases/heals:v1.5.4", "--to-plain-http"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	target, err := url.Parse("http://" + f.upstream)
	if err != nil {
		t.Fatal(err)
	}
	for name, secure := range map[string]bool{"plain HTTP": false, "own CA": true} {
		t.Run(name, func(t *testing.T) {
			var asked atomic.Int64
			proxy := httputil.NewSingleHostReverseProxy(target)
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked.Add(1)
				proxy.ServeHTTP(w, r)
			}))
			var flags []string
			if secure {
				server.StartTLS()
				ca := filepath.Join(t.TempDir(), "ca.pem")
				data := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
				if err := os.WriteFile(ca, data, 0o644); err != nil {
					t.Fatal(err)
				}
				here, err := os.Getwd()
				if err == nil {
					ca, err = filepath.Rel(here, ca)
				}
				if err != nil {
					t.Fatal(err)
				}
				flags = []string{"--ca-file", ca}
			} else {
				server.Start()
				flags = []string{"--plain-http"}
			}
			defer server.Close()
			_, host, _ := strings.Cut(server.URL, "://")

			s := siteOn(t, t.TempDir())
			s.must(append([]string{"import", "oci://" + host + "/releases/heals:v1.5.4"}, flags...)...)
			s.start()
			s.follow(1)
			path, file := s.layer()
			before := asked.Load()
			if err := os.Truncate(file, 100); err != nil {
				t.Fatal(err)
			}
			if code, err := s.fetch(path); err == nil && code == http.StatusOK {
				t.Error("half a layer was served")
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			waitFor(ctx, t, "the layer is back", func() bool {
				code, err := s.fetch(path)
				return err == nil && code == http.StatusOK
			})
			if asked.Load() == before {
				t.Error("it did not come from the registry")
			}
			s.must("scrub", "--now")
		})
	}
}
