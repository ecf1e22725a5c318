package registry

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/opencontainers/go-digest"

	"github.com/plimsoll/plimsoll/bundle"
)

func bodyOf(size int, fill byte) func(context.Context) ([]byte, error) {
	return func(context.Context) ([]byte, error) { return []byte(strings.Repeat(string(fill), size)), nil }
}

func TestCacheIsBounded(t *testing.T) {
	var c cache
	name := func(i int) digest.Digest { return digest.FromString(strings.Repeat("x", i)) }
	const size, count = 100_000, 3 * maxCached / 100_000
	for i := range count {
		// The first one is asked for all the time, and stays.
		for _, n := range []int{0, i} {
			if e, err := c.get(t.Context(), name(n), bodyOf(size, 'x')); err != nil || len(e.body) != size || e.digest[0] != name(n).String() {
				t.Fatalf("entry %d: %v", n, err)
			}
		}
		if c.bytes > maxCached || int64(len(c.entries)*size) != c.bytes || len(c.queue) != len(c.entries) || len(c.loading) != 0 {
			t.Fatalf("after %d: %d bytes, %d entries, %d in the queue", i, c.bytes, len(c.entries), len(c.queue))
		}
	}
	if c.entries[name(0)] == nil || c.entries[name(1)] != nil || c.entries[name(count-1)] == nil {
		t.Error("not the one went that nobody asked for")
	}
}

// Five hundred robots that ask at once make one read, and a client that leaves ends nothing for the others.
func TestCacheReadsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c cache
		reads, release := 0, make(chan struct{})
		read := func(ctx context.Context) ([]byte, error) {
			reads++
			<-release
			return []byte("manifest"), ctx.Err()
		}
		var wg sync.WaitGroup
		first, leave := context.WithCancel(t.Context())
		for i := range 500 {
			ctx := t.Context()
			if i == 0 {
				ctx = first
			}
			wg.Go(func() {
				if e, err := c.get(ctx, "sha256:x", read); err != nil || string(e.body) != "manifest" {
					t.Error(err)
				}
			})
			if i == 0 {
				synctest.Wait() // it is the one that reads
			}
		}
		leave()
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := c.get(gone, "sha256:x", read); !errors.Is(err, context.Canceled) {
			t.Errorf("a client that is gone: %v", err)
		}
		synctest.Wait()
		close(release)
		wg.Wait()
		if reads != 1 {
			t.Errorf("%d reads, want 1", reads)
		}
	})
}

func TestCacheKeepsNoErrors(t *testing.T) {
	var c cache
	if _, err := c.get(t.Context(), "sha256:x", func(context.Context) ([]byte, error) { return nil, os.ErrNotExist }); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	func() {
		defer func() { _ = recover() }()
		_, _ = c.get(t.Context(), "sha256:x", func(context.Context) ([]byte, error) { panic("read") })
	}()
	if e, err := c.get(t.Context(), "sha256:x", bodyOf(1, 'x')); err != nil || string(e.body) != "x" || c.bytes != 1 {
		t.Errorf("%v, %d bytes", err, c.bytes)
	}
}

// A manifest that is too large for the memory comes from the file, with the same headers.
func TestLargeManifest(t *testing.T) {
	f := newFixture(t)
	desc := f.artifact("application/x", "x", nil, map[string]string{"long": strings.Repeat("x", maxManifest)})
	h := f.handler()
	srv := f.serveBy(h, f.view(f.active(f.release("1", item("a", bundle.KindArtifact, desc, "acme/a", "v1")))))
	checkRequest(t, srv.URL, "/v2/acme/a/manifests/v1", 200, desc.MediaType)
	checkRequest(t, srv.URL, "/v2/acme/a/manifests/"+desc.Digest.String(), 200, desc.MediaType)
	if h.cache.bytes != 0 {
		t.Errorf("%d bytes in memory", h.cache.bytes)
	}
}

// A manifest that changed on the disk is an error, not other bytes under the digest; one in memory needs no disk.
func TestDamagedManifest(t *testing.T) {
	f := newFixture(t)
	desc := f.putImage(f.image(1))
	v := f.view(f.active(f.release("1", item("a", bundle.KindImage, desc, "acme/a", "v1"))))
	file := filepath.Join(f.dir, "blobs", "sha256", desc.Digest.Encoded()[:2], desc.Digest.Encoded())
	raw := must(os.ReadFile(file))(t)
	damage := func(to []byte) {
		if err := os.WriteFile(file, to, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var reported []error
	h := NewHandler(f.st)
	h.Report = func(_ *http.Request, err error) { reported = append(reported, err) }
	damage([]byte(strings.Replace(string(raw), "sha256", "sha257", 1)))
	if status, code := serveOnce(t, h, v, "/v2/acme/a/manifests/v1"); status != 500 || code != "UNKNOWN" {
		t.Errorf("%d %s", status, code)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if status, code := serveOnce(t, h, v, "/v2/acme/a/manifests/v1"); status != 404 || code != "MANIFEST_UNKNOWN" {
		t.Errorf("removed: %d %s", status, code)
	}
	damage(raw)
	for range 2 {
		rec := httptest.NewRecorder()
		if h.ServeView(rec, httptest.NewRequest("GET", "/v2/acme/a/manifests/v1", nil), v); rec.Body.String() != string(raw) {
			t.Errorf("%d %s", rec.Code, rec.Body)
		}
		damage(nil)
	}
	var damaged *bundle.DamagedError
	if len(reported) != 2 || !errors.As(reported[0], &damaged) {
		t.Errorf("reported %v", reported)
	}
}

// The hot path makes no garbage of its own but the name, when ns is not in the path.
func TestManifestByTagAllocates(t *testing.T) {
	f := newFixture(t)
	desc := f.putImage(f.image(1))
	v := f.view(f.active(f.release("1", item("a", bundle.KindImage, desc, "ghcr.io/acme/a", "v1"))))
	h := f.handler()
	for target, most := range map[string]float64{
		"/v2/acme/a/manifests/v1?ns=ghcr.io": 1, "/v2/ghcr.io/acme/a/manifests/v1": 0, "/v2/ghcr.io/acme/a/manifests/" + desc.Digest.String(): 0,
	} {
		req, w := httptest.NewRequest("GET", target, nil), nothing{make(http.Header)}
		if n := testing.AllocsPerRun(100, func() { h.ServeView(w, req, v) }); n > most {
			t.Errorf("%s: %v allocations, want %v", target, n, most)
		}
	}
}
