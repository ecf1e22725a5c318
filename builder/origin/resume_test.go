package origin

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/bundle/media"
)

// Both kinds of origin are what media.Resume takes up again, and a registry says for how long.
var (
	_ media.RangeOpener = Origin(nil)
	_ media.Patient     = (*Repository)(nil)
)

// A link that breaks in the middle of each blob costs no byte twice.
func TestBrokenLink(t *testing.T) {
	host, _ := startRegistry(t)
	target, err := url.Parse("http://" + host)
	if err != nil {
		t.Fatal(err)
	}
	var served atomic.Int64
	var ranges atomic.Int64
	proxy := httputil.NewSingleHostReverseProxy(target)
	cutter := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.URL.Path, "/blobs/") {
			proxy.ServeHTTP(w, r)
			return
		}
		if r.Header.Get("Range") != "" {
			ranges.Add(1)
		}
		proxy.ServeHTTP(&cut{ResponseWriter: w, left: 300_000, served: &served}, r)
	}))
	defer cutter.Close()
	rs := &Registries{Mirrors: map[string]string{"ghcr.io": cutter.URL}}
	repo, ref := open(t, rs, "ghcr.io/acme/app:v1")
	desc, _, err := repo.Resolve(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	err = bundle.Walk(t.Context(), repo, desc, func(n bundle.Node) error {
		if n.Manifest || n.Descriptor.Size < 1<<20 {
			return nil
		}
		served.Store(0)
		rc, err := media.Resume(t.Context(), repo, n.Descriptor)
		if err != nil {
			return err
		}
		var buf bytes.Buffer
		if _, err := io.Copy(&buf, rc); err != nil {
			return err
		}
		if digest.FromBytes(buf.Bytes()) != n.Descriptor.Digest {
			t.Error("other bytes came out of a resumed blob")
		}
		if got := served.Load(); got > n.Descriptor.Size*11/10 {
			t.Errorf("%d bytes for a blob of %d", got, n.Descriptor.Size)
		}
		return rc.Close()
	})
	if err != nil {
		t.Fatal(err)
	}
	if ranges.Load() < 6 {
		t.Errorf("%d ranges asked for", ranges.Load())
	}
}

// cut ends the connection after some bytes.
type cut struct {
	http.ResponseWriter
	left   int
	served *atomic.Int64
}

func (c *cut) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p[:min(len(p), c.left)])
	c.left -= n
	c.served.Add(int64(n))
	if c.left == 0 && err == nil {
		panic(http.ErrAbortHandler)
	}
	return n, err
}

func (c *cut) Unwrap() http.ResponseWriter { return c.ResponseWriter }
