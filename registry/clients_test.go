package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
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

// docs/clients.md 1: containerd names the upstream in ns, and may have it in the path too. A name is never prefixed twice, and
// upstreams never mix.
func TestClients01RouteByNS(t *testing.T) {
	s := newStack(t)
	other := s.putImage(s.image(1)) // acme/robot-app of another upstream
	mixed := s.release("2", s.appEntry("latest"), item("nginx", bundle.KindImage, other, "docker.io/library/nginx", "1"),
		item("other", bundle.KindImage, other, "quay.io/acme/robot-app", "latest"))
	srv := s.serve(s.view(s.active(mixed)))
	for _, c := range []struct {
		path, host string
		want       digest.Digest // "" is 404
	}{
		{"acme/robot-app/manifests/latest?ns=ghcr.io", "", s.appDesc.Digest},
		{"acme/robot-app/manifests/latest?ns=quay.io", "", other.Digest},
		{"ghcr.io/acme/robot-app/manifests/latest?ns=ghcr.io", "", s.appDesc.Digest},
		{"quay.io/acme/robot-app/manifests/latest?ns=quay.io", "", other.Digest},
		{"acme/robot-app/manifests/latest?ns=quay.io", "ghcr.io", other.Digest}, // ns wins over Host
		{"quay.io/acme/robot-app/manifests/latest?ns=ghcr.io", "", ""},
		{"acme/robot-app/manifests/latest?ns=docker.io", "", ""},
		{"acme/robot-app/manifests/latest", "", ""},
		{"ghcr.io/ghcr.io/acme/robot-app/manifests/latest?ns=ghcr.io", "", ""},
		{"library/nginx/manifests/1?ns=docker.io", "", other.Digest},
		{"docker.io/library/nginx/manifests/1?ns=docker.io", "", other.Digest},
		{"nginx/manifests/1?ns=registry-1.docker.io", "", other.Digest},
		{"index.docker.io/nginx/manifests/1?ns=docker.io", "", other.Digest},
		{"library/library/nginx/manifests/1?ns=docker.io", "", ""},
		{"acme/robot-app/manifests/" + other.Digest.String() + "?ns=ghcr.io", "", ""}, // nor by digest
		{"acme/robot-app/manifests/latest?x=1&ns=ghcr%2Eio", "", s.appDesc.Digest},
	} {
		resp, _ := do(t, "GET", srv.URL+"/v2/"+c.path, "Host", c.host)
		if got := resp.Header.Get("Docker-Content-Digest"); got != c.want.String() || c.want == "" && resp.StatusCode != 404 {
			t.Errorf("%s, Host %q: %d %s, want %q", c.path, c.host, resp.StatusCode, got, c.want)
		}
		if _, ns, ok := strings.Cut(c.path, "?ns="); ok && c.want != "" && resp.Header.Get("OCI-Namespace") != ns {
			t.Errorf("%s: OCI-Namespace %q", c.path, resp.Header.Get("OCI-Namespace"))
		}
	}
}

// docs/clients.md 2: Helm, Flux and Argo CD reach the relay by DNS and never heard of mirrors.
func TestClients02RouteByHost(t *testing.T) {
	s := newStack(t)
	srv := s.serve(s.activeView())
	for _, c := range []struct {
		host, path string
		status     int
	}{
		{"ghcr.io", "/v2/acme/robot-app/manifests/latest", 200},
		{"GHCR.io:443", "/v2/acme/robot-app/manifests/latest", 200},
		{"ghcr.io:5000", "/v2/ghcr.io/acme/robot-app/manifests/latest", 200},
		{"registry-1.docker.io", "/v2/library/nginx/manifests/1", 200},
		{"index.docker.io", "/v2/nginx/manifests/1", 200},
		{"ghcr.io", "/v2/library/nginx/manifests/1", 404},
		{"ghcr.io", "/v2/charts/robot-app/tags/list", 404},
		{"relay.factory.lan", "/v2/charts/robot-app/tags/list", 200},
		{"relay.factory.lan", "/v2/acme/robot-app/manifests/latest", 404},
		{"ghcr.io", "/v2/acme/tools/manifests/2?ns=quay.io", 200},
	} {
		if resp, body := do(t, "GET", srv.URL+c.path, "Host", c.host); resp.StatusCode != c.status {
			t.Errorf("Host %s, GET %s: %d, want %d: %s", c.host, c.path, resp.StatusCode, c.status, body)
		}
	}
}

// Further names of an upstream count wherever its own name does, and never hide an upstream.
func TestFurtherHosts(t *testing.T) {
	s := newStack(t)
	h := s.handler()
	h.Hosts = map[string]string{"images.plant7.example": "ghcr.io", "hub.plant7.example": "registry-1.docker.io", "quay.io": "ghcr.io"}
	srv := s.serveBy(h, s.activeView())
	for _, c := range []struct {
		host, path string
		status     int
	}{
		{"images.plant7.example", "acme/robot-app/manifests/latest", 200},
		{"Images.Plant7.example:8443", "ghcr.io/acme/robot-app/manifests/latest", 200},
		{"relay.lan", "acme/robot-app/manifests/latest?ns=images.plant7.example", 200},
		{"relay.lan", "images.plant7.example/acme/robot-app/manifests/latest", 200},
		{"relay.lan", "images.plant7.example/acme/robot-app/manifests/latest?ns=images.plant7.example", 200},
		{"hub.plant7.example", "nginx/manifests/1", 200},
		{"quay.io", "acme/tools/manifests/2", 200},
		{"quay.io", "acme/robot-app/manifests/latest", 404},
		{"other.plant7.example", "acme/robot-app/manifests/latest", 404},
	} {
		if resp, body := do(t, "GET", srv.URL+"/v2/"+c.path, "Host", c.host); resp.StatusCode != c.status {
			t.Errorf("Host %s, GET %s: %d, want %d: %s", c.host, c.path, resp.StatusCode, c.status, body)
		}
	}
}

// docs/clients.md 3: HEAD of the tag, GET of the index and of the platform's manifest by digest, then config and layers, without
// a ping, and the headers that containerd insists on. docs/clients.md 5: everything beneath a tag is there, and in the list by
// which a relay knows that it is.
func TestClients03And05TagPull(t *testing.T) {
	s := newStack(t)
	part := s.describe(s.bundle)
	v := s.view(Release{Part: part, Active: true})
	srv := s.serve(v)
	all := maps.Collect(part.Blobs())
	for _, repo := range v.Repositories() {
		for _, tag := range v.Tags(repo) {
			head, _ := do(t, "HEAD", srv.URL+"/v2/"+repo+"/manifests/"+tag)
			d := digest.Digest(head.Header.Get("Docker-Content-Digest"))
			if head.StatusCode != 200 || d.Validate() != nil || head.ContentLength <= 0 || head.Header.Get("Content-Type") == "" {
				t.Fatalf("HEAD %s:%s: %d, %v", repo, tag, head.StatusCode, head.Header)
			}
			pullManifest(t, srv.URL+"/v2/"+repo, d, head, all)
		}
	}
}

func pullManifest(t *testing.T, base string, d digest.Digest, head *http.Response, all map[digest.Digest]int64) {
	t.Helper()
	resp, body := do(t, "GET", base+"/manifests/"+d.String())
	if digest.FromBytes(body) != d || int64(len(body)) != all[d] || head != nil && (head.ContentLength != resp.ContentLength ||
		head.Header.Get("Content-Type") != resp.Header.Get("Content-Type")) {
		t.Fatalf("%s: %d with %d bytes, %v", d, resp.StatusCode, len(body), resp.Header)
	}
	var m struct {
		Config    *ocispec.Descriptor
		Layers    []ocispec.Descriptor
		Manifests []ocispec.Descriptor
	}
	if err := json.Unmarshal(body, &m); err != nil {
		t.Fatal(err)
	}
	for _, child := range m.Manifests {
		if _, carried := all[child.Digest]; carried {
			pullManifest(t, base, child.Digest, nil, all)
		} else if resp, _ := do(t, "GET", base+"/manifests/"+child.Digest.String()); resp.StatusCode != 404 {
			t.Errorf("%s, which is not carried: %d", child.Digest, resp.StatusCode)
		}
	}
	if m.Config != nil {
		m.Layers = append(m.Layers, *m.Config)
	}
	for _, blob := range m.Layers {
		resp, body := do(t, "GET", base+"/blobs/"+blob.Digest.String(), "Accept-Encoding", "zstd, gzip")
		if resp.StatusCode != 200 || digest.FromBytes(body) != blob.Digest || resp.Header.Get("Content-Encoding") != "" || all[blob.Digest] != blob.Size {
			t.Errorf("blob %s: %d with %d bytes, %v", blob.Digest, resp.StatusCode, len(body), resp.Header)
		}
	}
}

// docs/clients.md 8: Flux asks for referrers, then for the two tags. Argo CD and Helm page through tags; + is _ in a tag.
func TestClients08SignaturesAndTags(t *testing.T) {
	s := newStack(t)
	srv := s.serve(s.activeView())
	base, hex := srv.URL+"/v2/ghcr.io/acme/robot-app", s.appDesc.Digest.Encoded()
	for _, path := range []string{"/referrers/sha256:" + hex, "/manifests/sha256-" + hex} {
		_, body := do(t, "GET", base+path)
		var idx ocispec.Index
		if err := json.Unmarshal(body, &idx); err != nil || len(idx.Manifests) != 1 || idx.Manifests[0].Digest != s.signature.Digest {
			t.Errorf("%s: %s, %v", path, body, err)
		}
	}
	if resp, _ := do(t, "GET", base+"/manifests/sha256-"+hex+".sig"); resp.Header.Get("Docker-Content-Digest") != s.legacy.Digest.String() {
		t.Errorf(".sig: %d, %v", resp.StatusCode, resp.Header)
	}
	var all []string
	for next := "/v2/acme/robot-app/tags/list?n=1&ns=ghcr.io"; next != ""; {
		resp, body := do(t, "GET", srv.URL+next)
		var page struct{ Tags []string }
		if err := json.Unmarshal(body, &page); err != nil || len(page.Tags) > 1 {
			t.Fatalf("%s: %s, %v", next, body, err)
		}
		all = append(all, page.Tags...)
		next, _, _ = strings.Cut(strings.TrimPrefix(resp.Header.Get("Link"), "<"), ">")
	}
	if want := []string{"latest", "sha256-" + hex + ".sig", "v1.5.4"}; !slices.Equal(all, want) {
		t.Errorf("tags %v, want %v", all, want)
	}
	chart := must(orasremote.NewRepository(hostOf(srv) + "/charts/robot-app"))(t)
	chart.PlainHTTP = true
	if desc, err := chart.Resolve(t.Context(), "1.0.0_build.1"); err != nil || desc.Digest != s.chart.Digest {
		t.Errorf("chart: %v, %v", desc, err)
	}
}

// dnsTransport leads every host to the relay, as the DNS of a site does.
type dnsTransport struct{ addr string }

func (d dnsTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Host, req.URL.Scheme, req.URL.Host = req.URL.Host, "http", d.addr
	return http.DefaultTransport.RoundTrip(req)
}

func TestClients02FollowDNS(t *testing.T) {
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

// docs/clients.md 4: a robot's connection is cut again and again; it goes on with Range as containerd does and ends with the right bytes.
func TestClients04ResumeMidBlob(t *testing.T) {
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

// docs/clients.md 9: no buffer of this process stands between the file and the socket.
func TestClients09SentFromTheFile(t *testing.T) {
	s := newStack(t)
	h, v := s.handler(), s.activeView()
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

// docs/clients.md 7: a private CA, HTTP/2; nothing can be sent by the kernel there. (Credentials are not the registry's.)
func TestClients07HTTP2AndPrivateCA(t *testing.T) {
	s := newStack(t)
	h, v := s.handler(), s.activeView()
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
