package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/memory"
	orasremote "oras.land/oras-go/v2/registry/remote"

	"github.com/plimsoll/plimsoll/bundle"
)

func hostOf(srv *httptest.Server) string { return strings.TrimPrefix(srv.URL, "http://") }

func TestGoContainerRegistry(t *testing.T) {
	s := newStack(t)
	srv := s.serve(s.activeView())
	repo := must(name.NewRepository(hostOf(srv) + "/ghcr.io/acme/robot-app"))(t)
	idx := must(remote.Index(repo.Tag("v1.5.4"), remote.WithContext(t.Context())))(t)
	if got, want := must(idx.Digest())(t), must(s.app.Digest())(t); got != want {
		t.Errorf("index %s, want %s", got, want)
	}
	if err := validate.Index(idx); err != nil {
		t.Error(err)
	}
	dir := must(layout.Write(t.TempDir(), idx))(t)
	if err := validate.Index(must(dir.ImageIndex())(t)); err != nil {
		t.Error(err)
	}
	img := must(remote.Image(repo.Tag("latest"), remote.WithPlatform(v1.Platform{OS: "linux", Architecture: "arm64"})))(t)
	if err := validate.Image(img); err != nil || must(img.Digest())(t) != must(s.appImages[1].Digest())(t) {
		t.Errorf("arm64: %v", err)
	}
	nginx := must(remote.Image(must(name.ParseReference(hostOf(srv) + "/docker.io/library/nginx:stable"))(t)))(t)
	if err := validate.Image(nginx); err != nil {
		t.Error(err)
	}
	tools := must(name.ParseReference(hostOf(srv) + "/quay.io/acme/tools:2"))(t)
	if err := validate.Image(must(remote.Image(tools, remote.WithPlatform(v1.Platform{OS: "linux", Architecture: "amd64"})))(t)); err != nil {
		t.Errorf("carried platform of a sparse image: %v", err)
	}
	if _, err := remote.Image(tools, remote.WithPlatform(v1.Platform{OS: "linux", Architecture: "arm64"})); err == nil {
		t.Error("a platform that is not carried was pulled")
	}
	refs := must(must(remote.Referrers(repo.Digest(s.appDesc.Digest.String())))(t).IndexManifest())(t)
	if len(refs.Manifests) != 1 || refs.Manifests[0].Digest.String() != s.signature.Digest.String() {
		t.Errorf("referrers %+v", refs.Manifests)
	}
	sig := must(remote.Image(repo.Tag("sha256-" + s.appDesc.Digest.Encoded() + ".sig")))(t)
	if got := must(sig.Digest())(t).String(); got != s.legacy.Digest.String() {
		t.Errorf("legacy signature %s, want %s", got, s.legacy.Digest)
	}
	tags := must(remote.List(repo, remote.WithPageSize(1)))(t)
	if want := []string{"latest", "sha256-" + s.appDesc.Digest.Encoded() + ".sig", "v1.5.4"}; !slices.Equal(tags, want) {
		t.Errorf("tags %v, want %v", tags, want)
	}
	all := must(remote.Catalog(t.Context(), repo.Registry, remote.WithPageSize(2)))(t)
	if want := []string{"charts/robot-app", "docker.io/library/nginx", "ghcr.io/acme/robot-app", "quay.io/acme/tools"}; !slices.Equal(all, want) {
		t.Errorf("catalog %v, want %v", all, want)
	}
	if err := remote.Write(repo.Tag("new"), s.nginx); err == nil {
		t.Error("a push succeeded")
	}
	if err := remote.Delete(repo.Tag("latest")); err == nil {
		t.Error("a delete succeeded")
	}
}

// dnsTransport leads every host to the relay, as the DNS of a site does.
type dnsTransport struct{ addr string }

func (d dnsTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Host, req.URL.Scheme, req.URL.Host = req.URL.Host, "http", d.addr
	return http.DefaultTransport.RoundTrip(req)
}

func TestClientsThatFollowDNS(t *testing.T) {
	s := newStack(t)
	srv := s.serve(s.activeView())
	for ref, want := range map[string]string{
		"ghcr.io/acme/robot-app:v1.5.4": s.appDesc.Digest.String(),
		"nginx:stable":                  must(s.nginx.Digest())(t).String(), // asks index.docker.io
		"quay.io/acme/tools:2":          must(s.sparse.Digest())(t).String(),
	} {
		desc, err := remote.Get(must(name.ParseReference(ref))(t), remote.WithTransport(dnsTransport{hostOf(srv)}))
		if err != nil || desc.Digest.String() != want {
			t.Errorf("%s: %v, %v; want %s", ref, desc, err, want)
		}
	}
}

func TestORAS(t *testing.T) {
	s := newStack(t)
	srv := s.serve(s.activeView())
	repo := must(orasremote.NewRepository(hostOf(srv) + "/ghcr.io/acme/robot-app"))(t)
	repo.PlainHTTP = true
	repo.TagListPageSize = 1
	dst := memory.New()
	got := must(oras.Copy(t.Context(), repo, "v1.5.4", dst, "copy", oras.DefaultCopyOptions))(t)
	if got.Digest != s.appDesc.Digest || got.Size != s.appDesc.Size {
		t.Errorf("copied %+v, want %+v", got, s.appDesc)
	}
	for _, img := range s.appImages {
		for _, l := range must(img.Layers())(t) {
			desc := ocispec.Descriptor{Digest: digest.Digest(must(l.Digest())(t).String()), Size: must(l.Size())(t)}
			rc, err := repo.Blobs().Fetch(t.Context(), desc)
			if err != nil {
				t.Fatal(err)
			}
			rc.Close()
		}
	}
	var tags []string
	if err := repo.Tags(t.Context(), "", func(page []string) error { tags = append(tags, page...); return nil }); err != nil || len(tags) != 3 {
		t.Errorf("tags %v, %v", tags, err)
	}
	platform := descriptorOf(t, must(s.appImages[0].RawManifest())(t), ocispec.MediaTypeImageManifest)
	for _, useAPI := range []bool{true, false} { // false: by the referrers tag
		repo := must(orasremote.NewRepository(hostOf(srv) + "/ghcr.io/acme/robot-app"))(t)
		repo.PlainHTTP = true
		if err := repo.SetReferrersCapability(useAPI); err != nil {
			t.Fatal(err)
		}
		for artifactType, want := range map[string]int{"": 1, "application/spdx+json": 1, "application/other": 0} {
			var found []ocispec.Descriptor
			err := repo.Referrers(t.Context(), platform, artifactType, func(page []ocispec.Descriptor) error {
				found = append(found, page...)
				return nil
			})
			if err != nil || len(found) != want || want == 1 && found[0].Digest != s.sbom.Digest {
				t.Errorf("API %v, %q: %+v, %v", useAPI, artifactType, found, err)
			}
		}
	}
	// A resumed download seeks in the blob.
	layer := must(s.appImages[0].Layers())(t)[0]
	whole := must(io.ReadAll(must(layer.Compressed())(t)))(t)
	rc := must(repo.Blobs().Fetch(t.Context(), ocispec.Descriptor{Digest: digest.FromBytes(whole), Size: int64(len(whole))}))(t)
	defer rc.Close()
	seeker, ok := rc.(io.Seeker)
	if !ok {
		t.Fatal("oras found no ranges")
	}
	if _, err := seeker.Seek(1000, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if rest := must(io.ReadAll(rc))(t); !slices.Equal(rest, whole[1000:]) {
		t.Errorf("%d bytes from the middle, want %d equal ones", len(rest), len(whole)-1000)
	}
}

func TestConcurrentPulls(t *testing.T) {
	s := newStack(t)
	srv := s.serve(s.activeView())
	repo := must(name.NewRepository(hostOf(srv) + "/ghcr.io/acme/robot-app"))(t)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			idx, err := remote.Index(repo.Tag("v1.5.4"))
			if err == nil {
				err = validate.Index(idx)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// A robot's connection is cut again and again; it goes on with Range as containerd does and ends with the right bytes.
func TestResumeMidBlob(t *testing.T) {
	s := newStack(t)
	srv := s.serve(s.activeView())
	layer := must(s.nginx.Layers())(t)[0]
	want, size := must(layer.Digest())(t).String(), must(layer.Size())(t)
	url := srv.URL + "/v2/library/nginx/blobs/" + want + "?ns=docker.io"
	var got []byte
	for cuts := 0; int64(len(got)) < size; cuts++ {
		req := must(http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil))(t)
		if len(got) > 0 {
			req.Header.Set("Range", fmt.Sprintf("bytes=%d-", len(got)))
		}
		resp := must(http.DefaultTransport.RoundTrip(req))(t)
		if wantStatus := map[bool]int{false: 200, true: 206}[len(got) > 0]; resp.StatusCode != wantStatus {
			t.Fatalf("after %d bytes: %d, want %d", len(got), resp.StatusCode, wantStatus)
		}
		if cr := fmt.Sprintf("bytes %d-%d/%d", len(got), size-1, size); len(got) > 0 && resp.Header.Get("Content-Range") != cr {
			t.Fatalf("Content-Range %q, want %q", resp.Header.Get("Content-Range"), cr)
		}
		part, err := io.ReadAll(io.LimitReader(resp.Body, 100_000))
		if err := errors.Join(err, resp.Body.Close()); err != nil {
			t.Fatal(err)
		}
		got = append(got, part...)
	}
	if d := digest.FromBytes(got); d.String() != want {
		t.Errorf("the parts hash to %s, want %s", d, want)
	}
}

// watchedConn sees what net/http hands to the connection: only an *os.File can be sent by the kernel.
type watchedConn struct {
	*net.TCPConn
	sent *sentTypes
}

func (c watchedConn) ReadFrom(r io.Reader) (int64, error) {
	inner := r
	for {
		lr, ok := inner.(*io.LimitedReader)
		if !ok {
			break
		}
		inner = lr.R
	}
	n, err := c.TCPConn.ReadFrom(r)
	_, isFile := inner.(*os.File)
	c.sent.add(fmt.Sprintf("file=%v", isFile), n)
	return n, err
}

type watchedListener struct {
	net.Listener
	sent *sentTypes
}

func (l watchedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return watchedConn{c.(*net.TCPConn), l.sent}, nil
}

func TestBlobsAreSentFromTheFile(t *testing.T) {
	s := newStack(t)
	h, v := NewHandler(s.st), s.activeView()
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeView(w, r, v) }))
	sent := new(sentTypes)
	srv.Listener = watchedListener{srv.Listener, sent}
	srv.Start()
	t.Cleanup(srv.Close)
	layer := must(s.nginx.Layers())(t)[0]
	url := srv.URL + "/v2/docker.io/library/nginx/blobs/" + must(layer.Digest())(t).String()
	_, body := do(t, "GET", url)
	_, part := do(t, "GET", url, "Range", "bytes=1000-400000")
	const sniffed = 512 // net/http copies this much itself before it hands over
	want := int64(len(body) + len(part) - 2*sniffed)
	srv.Close() // waits for the handlers: the last byte arrives before ReadFrom returns and is counted
	if got := sent.get(); got["file=true"] < want || got["file=false"] != 0 {
		t.Errorf("bytes sent by the kind of source: %v; want at least %d from a file", got, want)
	}
}

// The same over TLS and HTTP/2, where nothing can be sent by the kernel.
func TestHTTP2(t *testing.T) {
	s := newStack(t)
	h, v := NewHandler(s.st), s.activeView()
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeView(w, r, v) }))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	repo := must(name.NewRepository(strings.TrimPrefix(srv.URL, "https://") + "/ghcr.io/acme/robot-app"))(t)
	if err := validate.Index(must(remote.Index(repo.Tag("latest"), remote.WithTransport(srv.Client().Transport)))(t)); err != nil {
		t.Error(err)
	}
	resp := must(srv.Client().Get(srv.URL + "/v2/"))(t)
	resp.Body.Close()
	if resp.ProtoMajor != 2 {
		t.Errorf("%s, want HTTP/2", resp.Proto)
	}
}

func benchServer(b *testing.B, size int64) (*httptest.Server, string) {
	f := newFixture(b)
	img := must(random.Image(size, 1))(b)
	desc := f.putImage(img)
	v := f.view(Release{Bundle: f.release("1", item("a", bundle.KindImage, desc, "ghcr.io/acme/a", "v1")), Active: true})
	return f.serve(v), must(must(img.Layers())(b)[0].Digest())(b).String()
}

func pull(ctx context.Context, url string) (int64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("status %s", resp.Status)
	}
	return io.Copy(io.Discard, resp.Body)
}

func BenchmarkManifestByTag(b *testing.B) {
	srv, _ := benchServer(b, 1000)
	for b.Loop() {
		if _, err := pull(b.Context(), srv.URL+"/v2/acme/a/manifests/v1?ns=ghcr.io"); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkManifestHandler is the share of the handler in BenchmarkManifestByTag.
func BenchmarkManifestHandler(b *testing.B) {
	f := newFixture(b)
	v := f.view(Release{Bundle: f.release("1", item("a", bundle.KindImage, f.putImage(f.image(1)), "ghcr.io/acme/a", "v1")), Active: true})
	h := NewHandler(f.st)
	req := httptest.NewRequest(http.MethodGet, "/v2/acme/a/manifests/v1?ns=ghcr.io", nil)
	for b.Loop() {
		rec := httptest.NewRecorder()
		if h.ServeView(rec, req, v); rec.Code != http.StatusOK {
			b.Fatal(rec.Code)
		}
	}
}

func BenchmarkBlob64MiB(b *testing.B) {
	const size = 64 << 20
	srv, layer := benchServer(b, size)
	b.SetBytes(size)
	for b.Loop() {
		if n, err := pull(b.Context(), srv.URL+"/v2/ghcr.io/acme/a/blobs/"+layer); err != nil || n < size {
			b.Fatal(n, err)
		}
	}
}
