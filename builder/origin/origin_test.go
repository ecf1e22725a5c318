package origin

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/bundle/media"
	"github.com/plimsoll/plimsoll/internal/upstream"
)

// registry is a real one with acme/app:v1 of one 1 MiB layer, and a legacy signature tag.
func registry(t *testing.T) (host string, index digest.Digest) {
	t.Helper()
	r, err := upstream.Start(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() }) //nolint:errcheck // scratch
	idx, err := random.Index(1<<20, 1, 2)
	if err != nil {
		t.Fatal(err)
	}
	hash, err := idx.Digest()
	if err != nil {
		t.Fatal(err)
	}
	index = digest.Digest(hash.String())
	tag, err := name.NewTag(r.Host() + "/acme/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(tag, idx); err != nil {
		t.Fatal(err)
	}
	sig, err := random.Image(10, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tag.Context().Tag("sha256-"+index.Encoded()+".sig"), sig); err != nil {
		t.Fatal(err)
	}
	return r.Host(), index
}

func open(t *testing.T, rs *Registries, ref string) (*Repository, name.Reference) {
	t.Helper()
	parsed, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	repo, err := rs.Repository(t.Context(), parsed)
	if err != nil {
		t.Fatal(err)
	}
	return repo, parsed
}

func TestThroughMirror(t *testing.T) {
	host, want := registry(t)
	rs := &Registries{Mirrors: map[string]string{"ghcr.io": "http://" + host}}
	repo, ref := open(t, rs, "ghcr.io/acme/app:v1")
	desc, raw, err := repo.Resolve(t.Context(), ref)
	if err != nil || desc.Digest != want || digest.FromBytes(raw) != want {
		t.Fatalf("%s, want %s (%v)", desc.Digest, want, err)
	}
	if desc, _, err := repo.Resolve(t.Context(), ref.Context().Digest(want.String())); err != nil || desc.Digest != want {
		t.Errorf("by digest: %s (%v)", desc.Digest, err)
	}
	var bytes int64
	err = bundle.Walk(t.Context(), repo, desc, func(n bundle.Node) error {
		bytes += n.Descriptor.Size
		if n.Manifest {
			return nil
		}
		rc, err := repo.Open(t.Context(), n.Descriptor)
		if err != nil {
			return err
		}
		got, err := n.Descriptor.Digest.Algorithm().FromReader(rc)
		if err != nil || got != n.Descriptor.Digest {
			t.Errorf("blob %s: hashes to %s (%v)", n.Descriptor.Digest, got, err)
		}
		return rc.Close()
	})
	if err != nil || bytes < 2<<20 {
		t.Errorf("%d bytes (%v)", bytes, err)
	}
	refs, err := repo.Referrers(t.Context(), want)
	if err != nil || len(refs) != 1 || !strings.HasSuffix(refs[0].Tag, ".sig") {
		t.Errorf("referrers: %v (%v)", refs, err)
	}
}

func TestSaysWhatIsMissing(t *testing.T) {
	host, index := registry(t)
	repo, ref := open(t, &Registries{}, host+"/acme/app:v2")
	if _, _, err := repo.Resolve(t.Context(), ref); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "acme/app@v2") {
		t.Errorf("tag: %v", err)
	}
	desc := bundle.Node{}.Descriptor
	desc.MediaType, desc.Digest, desc.Size = "application/octet-stream", digest.FromString("absent"), 6
	if _, err := repo.Open(t.Context(), desc); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("blob: %v", err)
	}
	if refs, err := repo.Referrers(t.Context(), digest.FromString("absent")); err != nil || len(refs) != 0 {
		t.Errorf("referrers: %v (%v)", refs, err)
	}
	_ = index
	bad := &Registries{Mirrors: map[string]string{"ghcr.io": "ftp://x"}}
	if _, err := bad.Repository(t.Context(), name.MustParseReference("ghcr.io/a/b:c")); err == nil {
		t.Error("an ftp mirror was accepted")
	}
}

// A link that breaks in the middle of each blob costs no byte twice.
func TestBrokenLink(t *testing.T) {
	host, _ := registry(t)
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
