package registry

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// tagging is a ResponseWriter as a hook gives one.
type tagging struct {
	http.ResponseWriter
	bytes *int64
}

func (w tagging) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	*w.bytes += int64(n)
	return n, err
}

// The hook is passed by what has the bytes of a blob, and by nothing else.
func TestBlobsHook(t *testing.T) {
	s := newStack(t)
	v := s.activeView()
	layer := must(s.nginx.Layers())(t)[0]
	blob, size := "/v2/docker.io/library/nginx/blobs/"+must(layer.Digest())(t).String(), must(layer.Size())(t)
	etag := `"` + must(layer.Digest())(t).String() + `"`
	for _, c := range []struct {
		method, path string
		header       []string
		sent         int64 // through the hook; 0 means that it is not entered
	}{
		{"GET", blob, nil, size},
		{"GET", blob, []string{"Range", "bytes=10-19"}, 10},
		{"HEAD", blob, nil, 0},
		{"GET", blob, []string{"If-None-Match", etag}, 0},
		{"GET", blob, []string{"If-Match", `"x"`}, 0},
		{"GET", blob, []string{"Range", "bytes=99999999-"}, 0},
		{"GET", strings.Replace(blob, "nginx", "other", 1), nil, 0},
		{"GET", blob[:len(blob)-64] + strings.Repeat("0", 64), nil, 0},
		{"GET", blob[:len(blob)-1], nil, 0},
		{"GET", "/v2/docker.io/library/nginx/manifests/stable", nil, 0},
		{"PUT", blob, nil, 0},
	} {
		entered, left, sent := 0, 0, int64(0)
		h := s.handler()
		h.Blobs = func(w http.ResponseWriter, _ *http.Request) (http.ResponseWriter, func(), error) {
			entered++
			return tagging{w, &sent}, func() { left++ }, nil
		}
		rec, req := httptest.NewRecorder(), httptest.NewRequest(c.method, c.path, nil)
		for i := 0; i < len(c.header); i += 2 {
			req.Header.Add(c.header[i], c.header[i+1])
		}
		h.ServeView(rec, req, v)
		if want := min(c.sent, 1); int64(entered) != want || int64(left) != want || sent != c.sent {
			t.Errorf("%s %s %v: entered %d, left %d, %d bytes; want %d bytes", c.method, c.path, c.header, entered, left, sent, c.sent)
		}
	}
}

// A request whose turn does not come is not logged as one that was answered.
func TestBlobsHookRefuses(t *testing.T) {
	s := newStack(t)
	h := s.handler()
	h.Blobs = func(http.ResponseWriter, *http.Request) (http.ResponseWriter, func(), error) {
		return nil, nil, errors.New("full")
	}
	if status, code := serveOnce(t, h, s.activeView(), "/v2/charts/robot-app/blobs/"+digest.FromString("chart").String()); status != 503 || code != "TOOMANYREQUESTS" {
		t.Errorf("%d %s", status, code)
	}
}

// A file that becomes shorter while it is sent is the disk's fault: it is reported, and the client sees its connection
// end instead of a whole answer.
func TestBlobThatShrinks(t *testing.T) {
	s := newStack(t).alone()
	layer := must(must(s.nginx.Layers())(t)[0].Digest())(t)
	file := filepath.Join(s.dir, "blobs", "sha256", layer.Hex[:2], layer.Hex)
	reported := make(chan error, 1)
	h := NewHandler(s.st)
	h.Report = func(_ *http.Request, err error) { reported <- err }
	h.Blobs = func(w http.ResponseWriter, _ *http.Request) (http.ResponseWriter, func(), error) {
		return shrinking{w, file}, func() {}, nil
	}
	srv := s.serveBy(h, s.activeView())
	resp := must(http.Get(srv.URL + "/v2/docker.io/library/nginx/blobs/" + layer.String()))(t)
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err == nil {
		t.Error("the client read a whole blob")
	}
	if err := <-reported; !errors.Is(err, io.EOF) {
		t.Errorf("reported %v", err)
	}
}

// shrinking cuts the file when the header is sent, and hides io.ReaderFrom.
type shrinking struct {
	http.ResponseWriter
	file string
}

func (w shrinking) WriteHeader(status int) {
	w.ResponseWriter.WriteHeader(status)
	if err := os.Truncate(w.file, 1000); err != nil {
		panic(err)
	}
}

// elsewhere is a store that has its own server for some blobs.
type elsewhere struct {
	blobs map[digest.Digest]string
	err   error
}

func (e elsewhere) Redirect(_ context.Context, d digest.Digest) (string, bool, error) {
	url, ok := e.blobs[d]
	return url, ok, e.err
}

func TestRedirect(t *testing.T) {
	s := newStack(t)
	layers := must(s.appImages[1].Layers())(t)
	first, second := digest.Digest(must(layers[0].Digest())(t).String()), digest.Digest(must(layers[1].Digest())(t).String())
	const url = "https://s3.example/bucket/blob?X-Amz-Signature=a%2Fb&x=1"
	h := s.handler()
	h.redirect = elsewhere{blobs: map[digest.Digest]string{first: url, s.appDesc.Digest: url}}
	h.Blobs = func(w http.ResponseWriter, _ *http.Request) (http.ResponseWriter, func(), error) {
		return w, func() {}, nil
	}
	srv := s.serveBy(h, s.activeView())
	base := srv.URL + "/v2/ghcr.io/acme/robot-app"
	for _, c := range []struct {
		method, path string
		status       int
		header       []string
	}{
		{"GET", "/blobs/" + first.String(), 307, nil},
		{"GET", "/blobs/" + first.String(), 307, []string{"Range", "bytes=5-"}}, // the client repeats the range there
		{"HEAD", "/blobs/" + first.String(), 200, nil},
		{"GET", "/blobs/" + first.String(), 304, []string{"If-None-Match", `"` + first.String() + `"`}},
		{"GET", "/blobs/" + second.String(), 200, nil},
		{"GET", "/manifests/" + s.appDesc.Digest.String(), 200, nil},
		{"GET", "/blobs/" + digest.FromString("unknown").String(), 404, nil},
	} {
		resp, body := do(t, c.method, base+c.path, c.header...)
		if resp.StatusCode != c.status {
			t.Errorf("%s %s: %d, want %d", c.method, c.path, resp.StatusCode, c.status)
		}
		if c.status == 307 && (resp.Header.Get("Location") != url || len(body) != 0 || resp.Header.Get("Docker-Content-Digest") != first.String()) {
			t.Errorf("%s %s: %v, %q", c.method, c.path, resp.Header, body)
		}
	}
	// A store that cannot sign at the moment still has the bytes.
	var reported error
	h = NewHandler(s.st)
	h.Report = func(_ *http.Request, err error) { reported = err }
	h.redirect = elsewhere{err: errors.New("no credentials")}
	rec := httptest.NewRecorder()
	h.ServeView(rec, httptest.NewRequest("GET", "/v2/ghcr.io/acme/robot-app/blobs/"+first.String(), nil), s.activeView())
	if rec.Code != 200 || digest.FromBytes(rec.Body.Bytes()) != first || reported == nil {
		t.Errorf("%d, reported %v", rec.Code, reported)
	}
}

// What is told of a request is what it meant, and nothing that a client made up.
func TestAnswers(t *testing.T) {
	s := newStack(t)
	h, v := NewHandler(s.st), s.activeView()
	app, unknown := s.appDesc.Digest, digest.FromString("unknown")
	layer := digest.Digest(must(must(s.nginx.Layers())(t)[0].Digest())(t).String())
	const index, nginx = "application/vnd.oci.image.index.v1+json", "docker.io/library/nginx"
	for _, c := range []struct {
		method, target string
		want           Answer
		kind           string
	}{
		{"GET", "/v2/", Answer{Kind: KindPing, MediaType: "application/json"}, "ping"},
		{"GET", "/v2/_catalog", Answer{Kind: KindCatalog, MediaType: "application/json"}, "catalog"},
		{"GET", "/v2/acme/robot-app/manifests/latest?ns=ghcr.io", Answer{KindManifest, "ghcr.io/acme/robot-app", "latest", app, index}, "manifest"},
		{"HEAD", "/v2/ghcr.io/acme/robot-app/manifests/" + app.String(), Answer{KindManifest, "ghcr.io/acme/robot-app", app.String(), app, index}, "manifest"},
		{"GET", "/v2/nginx/blobs/" + layer.String() + "?ns=docker.io", Answer{KindBlob, nginx, layer.String(), layer, "application/octet-stream"}, "blob"},
		{"GET", "/v2/docker.io/library/nginx/tags/list", Answer{Kind: KindTags, Repository: nginx, MediaType: "application/json"}, "tags"},
		{"GET", "/v2/docker.io/nginx/referrers/" + unknown.String(), Answer{KindReferrers, nginx, unknown.String(), unknown, index}, "referrers"},
		{"GET", "/v2/docker.io/nginx/manifests/no", Answer{Kind: KindManifest, Repository: nginx, Reference: "no"}, "manifest"},
		{"GET", "/v2/docker.io/nginx/manifests/no%0Athing", Answer{Kind: KindManifest, Repository: nginx}, "manifest"},
		{"GET", "/v2/docker.io/nginx/blobs/" + unknown.String(), Answer{Kind: KindBlob, Repository: nginx, Reference: unknown.String()}, "blob"},
		{"GET", "/v2/docker.io/nginx/blobs/x", Answer{Kind: KindBlob, Repository: nginx}, "blob"},
		{"GET", "/v2/acme/none/manifests/latest?ns=ghcr.io", Answer{Kind: KindManifest, Repository: "ghcr.io/acme/none"}, "manifest"},
		{"GET", "/v2/acme/No/manifests/latest", Answer{Kind: KindManifest}, "manifest"},
		{"PUT", "/v2/docker.io/nginx/manifests/1", Answer{}, "none"},
		{"GET", "/v2/docker.io/nginx/blobs/uploads/1", Answer{}, "none"},
		{"GET", "/v2/what", Answer{}, "none"},
	} {
		rec := httptest.NewRecorder()
		if got := h.ServeView(rec, httptest.NewRequest(c.method, c.target, nil), v); got != c.want || got.Kind.String() != c.kind {
			t.Errorf("%s %s: %+v (%s), want %+v", c.method, c.target, got, got.Kind, c.want)
		}
	}
}
