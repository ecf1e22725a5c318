package integration

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// Imports that run at once queue; one of them activates the release, all succeed.
func TestImportsQueue(t *testing.T) {
	s := newSite(t)
	var wg sync.WaitGroup
	var activated atomic.Int64
	for range 4 {
		wg.Go(func() {
			out, err := s.run("plimsoll-relay", "import", s.bundle("v1.5.4"), "--data", s.data)
			if err != nil {
				t.Error(err)
			}
			if strings.Contains(out, "  active, generation 1") {
				activated.Add(1)
			}
		})
	}
	wg.Wait()
	if activated.Load() != 1 {
		t.Errorf("%d imports activated the release", activated.Load())
	}
}

// Damage in a kept release is reported and left out; what is active is served.
func TestDamagedKeptRelease(t *testing.T) {
	s := newSite(t)
	s.must("import", s.bundle("v1.5.4"))
	s.must("import", s.bundle("v1.5.5"))
	lock := s.lockBlob("v1.5.4")
	if err := os.Remove(filepath.Join(s.data, "store", "blobs", "sha256", lock.Encoded()[:2], lock.Encoded())); err != nil {
		t.Fatal(err)
	}
	s.start()
	s.follow(2)
	s.pullAll("v1.5.5")
	if out, err := s.run("plimsoll-relay", "rollback", "--data", s.data); err == nil {
		t.Errorf("a release that is not whole was activated:\n%s", out)
	}
	s.follow(2)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	waitFor(ctx, t, "the log does not say it", func() bool { return strings.Contains(s.log.String(), "a release is not whole") })
}

// lockBlob finds the lock of a bundle in a folder.
func (f *fixture) lockBlob(version string) digest.Digest {
	read := func(d digest.Digest, v any) {
		data, err := os.ReadFile(filepath.Join(f.bundle(version), "blobs", "sha256", d.Encoded()))
		if err == nil {
			err = json.Unmarshal(data, v)
		}
		if err != nil {
			panic(err)
		}
	}
	out, err := f.run("plimsoll", "inspect", "--json", f.bundle(version))
	if err != nil {
		panic(err)
	}
	var inspected struct {
		Bundle struct{ Digest digest.Digest } `json:"bundle"`
	}
	if err := json.Unmarshal([]byte(out), &inspected); err != nil {
		panic(err)
	}
	var index struct {
		Manifests []struct{ Digest digest.Digest }
	}
	read(inspected.Bundle.Digest, &index)
	var manifest struct {
		Layers []struct{ Digest digest.Digest }
	}
	read(index.Manifests[0].Digest, &manifest)
	return manifest.Layers[0].Digest
}

// A link that breaks within each blob costs a tenth more bytes at most.
func TestImportOverBrokenLink(t *testing.T) {
	s := newSite(t)
	if _, err := s.run("plimsoll", "copy", s.bundle("v1.5.4"), "oci://"+s.upstream+"/releases/broken:v1.5.4", "--to-plain-http"); err != nil {
		t.Fatal(err)
	}
	target, err := url.Parse("http://" + s.upstream)
	if err != nil {
		t.Fatal(err)
	}
	var served, cuts atomic.Int64
	proxy := httputil.NewSingleHostReverseProxy(target)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/blobs/") {
			w = &cutter{ResponseWriter: w, left: 700_000, served: &served, cuts: &cuts}
		}
		proxy.ServeHTTP(w, r)
	}))
	defer server.Close()
	out := s.must("import", "oci://"+strings.TrimPrefix(server.URL, "http://")+"/releases/broken:v1.5.4", "--plain-http", "--json")
	var res struct{ Bytes int64 }
	if err := json.Unmarshal([]byte(out[strings.Index(out, "{\n"):]), &res); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if cuts.Load() < 5 {
		t.Errorf("the link broke %d times only", cuts.Load())
	}
	if got := served.Load(); got > res.Bytes*11/10 {
		t.Errorf("%d bytes travelled for a release of %d", got, res.Bytes)
	}
	t.Logf("%d breaks, %d bytes for %d", cuts.Load(), served.Load(), res.Bytes)
}

// cutter ends the connection after some bytes.
type cutter struct {
	http.ResponseWriter
	left         int
	served, cuts *atomic.Int64
}

func (c *cutter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p[:min(len(p), c.left)])
	c.left -= n
	c.served.Add(int64(n))
	if c.left == 0 && err == nil {
		c.cuts.Add(1)
		panic(http.ErrAbortHandler)
	}
	return n, err
}

func (c *cutter) Unwrap() http.ResponseWriter { return c.ResponseWriter }
