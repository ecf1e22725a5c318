package registry

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/registry/store"
)

// do sends one request without following redirects and gives the whole answer.
func do(t *testing.T, method, url string, header ...string) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
		if header[i] == "Host" {
			req.Host = header[i+1]
		}
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	return resp, body
}

// The read half of distribution-spec 1.1 and what is refused, request by request; HEAD is checked with every GET.
func TestRequests(t *testing.T) {
	s := newStack(t)
	srv := s.serve(s.activeView())
	app, layer := s.appDesc.Digest.String(), must(must(s.nginx.Layers())(t)[0].Digest())(t).String()
	absent := must(s.absent.Digest())(t).String()
	unknown := digest.FromString("unknown").String()
	const (
		index = ocispec.MediaTypeImageIndex
		plain = "application/octet-stream"
		jsonT = "application/json"
	)
	cases := []struct {
		path   string
		status int
		want   string // media type, or the code of an error
	}{
		{"/v2/", 200, jsonT},
		{"/v2", 200, jsonT},
		{"/v2/ghcr.io/acme/robot-app/manifests/v1.5.4", 200, index},
		{"/v2/ghcr.io/acme/robot-app/manifests/" + app, 200, index},
		{"/v2/ghcr.io/acme/robot-app/manifests/" + s.legacy.Digest.String(), 200, ocispec.MediaTypeImageManifest},
		{"/v2/docker.io/library/nginx/manifests/stable", 200, "application/vnd.docker.distribution.manifest.v2+json"},
		{"/v2/docker.io/library/nginx/blobs/" + layer, 200, plain},
		{"/v2/charts/robot-app/manifests/1.0.0_build.1", 200, ocispec.MediaTypeImageManifest},
		{"/v2/charts/robot-app/tags/list", 200, jsonT},
		{"/v2/_catalog", 200, jsonT},
		{"/v2/ghcr.io/acme/robot-app/referrers/" + app, 200, index},
		{"/v2/ghcr.io/acme/robot-app/referrers/" + unknown, 200, index},
		{"/v2/ghcr.io/acme/robot-app/manifests/sha256-" + s.appDesc.Digest.Encoded(), 200, index},
		{"/v2/ghcr.io/acme/robot-app/manifests/sha256-" + s.appDesc.Digest.Encoded() + ".sig", 200, ocispec.MediaTypeImageManifest},

		// containerd's ns, with and without the upstream in the path; the Host header; both kinds of official images
		{"/v2/acme/robot-app/manifests/latest?ns=ghcr.io", 200, index},
		{"/v2/ghcr.io/acme/robot-app/manifests/latest?ns=ghcr.io", 200, index},
		{"/v2/library/nginx/manifests/1?ns=docker.io", 200, "application/vnd.docker.distribution.manifest.v2+json"},
		{"/v2/nginx/manifests/1?ns=registry-1.docker.io", 200, "application/vnd.docker.distribution.manifest.v2+json"},
		{"/v2/acme/robot-app/manifests/latest", 404, "NAME_UNKNOWN"},
		{"/v2/acme/robot-app/manifests/latest?ns=quay.io", 404, "NAME_UNKNOWN"},
		{"/v2/charts/robot-app/manifests/1.0.0_build.1?ns=ghcr.io", 404, "NAME_UNKNOWN"},
		{"/v2/acme/robot-app/manifests/latest?ns=../../etc", 400, "NAME_INVALID"},

		// a sparse image: the index by tag and digest, the carried platform, and nothing of the other one
		{"/v2/quay.io/acme/tools/manifests/2", 200, index},
		{"/v2/quay.io/acme/tools/manifests/" + must(s.sparse.Digest())(t).String(), 200, index},
		{"/v2/quay.io/acme/tools/manifests/" + must(s.carried.Digest())(t).String(), 200, ocispec.MediaTypeImageManifest},
		{"/v2/quay.io/acme/tools/manifests/" + absent, 404, "MANIFEST_UNKNOWN"},

		{"/v2/ghcr.io/acme/robot-app/manifests/v9", 404, "MANIFEST_UNKNOWN"},
		{"/v2/ghcr.io/acme/robot-app/manifests/.INVALID_MANIFEST_NAME", 404, "MANIFEST_UNKNOWN"},
		{"/v2/ghcr.io/acme/robot-app/manifests/" + unknown, 404, "MANIFEST_UNKNOWN"},
		{"/v2/ghcr.io/acme/robot-app/manifests/sha256-" + digest.FromString("x").Encoded(), 404, "MANIFEST_UNKNOWN"},
		{"/v2/ghcr.io/acme/robot-app/manifests/sha256:short", 400, "DIGEST_INVALID"},
		{"/v2/ghcr.io/acme/robot-app/blobs/" + unknown, 404, "BLOB_UNKNOWN"},
		{"/v2/ghcr.io/acme/robot-app/blobs/" + layer, 404, "BLOB_UNKNOWN"}, // of another repository
		{"/v2/ghcr.io/acme/robot-app/blobs/SHA256:" + s.appDesc.Digest.Encoded(), 400, "DIGEST_INVALID"},
		{"/v2/ghcr.io/acme/robot-app/blobs/..%2F..%2Fetc", 404, "NAME_UNKNOWN"},
		{"/v2/ghcr.io/acme/robot-app/referrers/tag", 400, "DIGEST_INVALID"},
		{"/v2/nobody/knows/tags/list", 404, "NAME_UNKNOWN"},
		{"/v2/acme/UPPER/tags/list", 400, "NAME_INVALID"},
		{"/v2/a//b/tags/list", 400, "NAME_INVALID"},
		{"/v2/../acme/tags/list", 400, "NAME_INVALID"},
		{"/v2/what", 404, "NAME_UNKNOWN"},
		{"/v1/search", 404, "NAME_UNKNOWN"},
		{"/v2/charts/robot-app/tags/list?n=x", 400, "PAGINATION_NUMBER_INVALID"},
		{"/v2/charts/robot-app/tags/list?n=-1", 400, "PAGINATION_NUMBER_INVALID"},
		{"/v2/charts/robot-app/blobs/uploads/", 405, "UNSUPPORTED"},
		{"/v2/charts/robot-app/blobs/uploads/some-uuid", 405, "UNSUPPORTED"},
	}
	for _, c := range cases {
		checkRequest(t, srv.URL, c.path, c.status, c.want)
	}
}

func checkRequest(t *testing.T, server, path string, status int, want string) {
	t.Helper()
	resp, body := do(t, "GET", server+path)
	got := resp.Header.Get("Content-Type")
	if resp.StatusCode >= 400 {
		got = errorCode(t, resp, body)
	}
	if resp.StatusCode != status || got != want {
		t.Errorf("GET %s: %d %s, want %d %s", path, resp.StatusCode, got, status, want)
	}
	checkHeaders(t, path, resp, body)
	head, empty := do(t, "HEAD", server+path, "Accept", "text/html", "Accept-Encoding", "zstd, gzip")
	if len(empty) != 0 || head.StatusCode != resp.StatusCode || head.ContentLength != int64(len(body)) {
		t.Errorf("HEAD %s: %d, %d bytes announced, want %d and %d", path, head.StatusCode, head.ContentLength, resp.StatusCode, len(body))
	}
	for _, name := range []string{"Content-Type", "Docker-Content-Digest", "Etag", "Content-Encoding", "Link"} {
		if head.Header.Get(name) != resp.Header.Get(name) {
			t.Errorf("HEAD %s: %s %q, with GET %q", path, name, head.Header.Get(name), resp.Header.Get(name))
		}
	}
}

func checkHeaders(t *testing.T, path string, resp *http.Response, body []byte) {
	t.Helper()
	if resp.Header.Get("Docker-Distribution-API-Version") != "registry/2.0" || resp.Header.Get("Content-Encoding") != "" {
		t.Errorf("%s: header %v", path, resp.Header)
	}
	content := strings.Contains(path, "/manifests/") || strings.Contains(path, "/blobs/")
	if !content || resp.StatusCode != 200 {
		return
	}
	want := digest.FromBytes(body).String()
	if resp.Header.Get("Docker-Content-Digest") != want || resp.Header.Get("Etag") != `"`+want+`"` {
		t.Errorf("%s: digest %s and ETag %s for bytes that hash to %s", path, resp.Header.Get("Docker-Content-Digest"), resp.Header.Get("Etag"), want)
	}
	if again, cached := do(t, "GET", resp.Request.URL.String(), "If-None-Match", `"`+want+`"`); again.StatusCode != 304 || len(cached) != 0 {
		t.Errorf("%s: %d with If-None-Match, want 304", path, again.StatusCode)
	}
	if other, _ := do(t, "GET", resp.Request.URL.String(), "If-None-Match", `"sha256:other"`); other.StatusCode != 200 {
		t.Errorf("%s: %d with another If-None-Match, want 200", path, other.StatusCode)
	}
}

func TestHostHeader(t *testing.T) {
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

func TestNothingCanBeWritten(t *testing.T) {
	s := newStack(t)
	srv := s.serve(s.activeView())
	for _, method := range []string{"POST", "PUT", "PATCH", "DELETE", "OPTIONS"} {
		for _, path := range []string{
			"/v2/", "/v2/charts/robot-app/blobs/uploads/", "/v2/charts/robot-app/blobs/uploads/1?digest=" + s.chart.Digest.String(),
			"/v2/charts/robot-app/manifests/1.0.0_build.1", "/v2/new/name/manifests/latest",
			"/v2/charts/robot-app/blobs/" + s.chart.Digest.String(),
		} {
			resp, body := do(t, method, srv.URL+path)
			if resp.StatusCode != 405 || errorCode(t, resp, body) != "UNSUPPORTED" || resp.Header.Get("Allow") != "GET, HEAD" {
				t.Errorf("%s %s: %d %s", method, path, resp.StatusCode, body)
			}
		}
	}
}

func TestRanges(t *testing.T) {
	s := newStack(t)
	srv := s.serve(s.activeView())
	layer := must(s.nginx.Layers())(t)[0]
	whole := must(io.ReadAll(must(layer.Compressed())(t)))(t)
	size := len(whole)
	d := must(layer.Digest())(t).String()
	url := srv.URL + "/v2/library/nginx/blobs/" + d + "?ns=docker.io"
	for _, c := range []struct {
		header   []string
		status   int
		from, to int // of whole
	}{
		{[]string{"Range", "bytes=0-0"}, 206, 0, 1},
		{[]string{"Range", "bytes=100-299"}, 206, 100, 300},
		{[]string{"Range", "bytes=1000-"}, 206, 1000, size},
		{[]string{"Range", "bytes=-500"}, 206, size - 500, size},
		{[]string{"Range", "bytes=-99999999"}, 206, 0, size},
		{[]string{"Range", "bytes=10-99999999"}, 206, 10, size},
		{[]string{"Range", "bytes=100-299", "If-Range", `"` + d + `"`}, 206, 100, 300},
		{[]string{"Range", "bytes=100-299", "If-Range", `"other"`}, 200, 0, size},
		{[]string{"Range", "bytes=99999999-", "If-Range", `"other"`}, 200, 0, size},
		{[]string{"Range", "bytes=99999999-"}, 416, 0, 0},
		{[]string{"Range", "bytes=-0"}, 416, 0, 0},
		{[]string{"Range", "bytes=5-1"}, 416, 0, 0},
		{[]string{"Range", "bytes=x"}, 416, 0, 0},
		{[]string{"Range", "bytes=--5"}, 416, 0, 0},
		{[]string{"Range", "lines=1-2"}, 416, 0, 0},
		{[]string{"Range", "bytes=99999999999999999999-"}, 416, 0, 0},
		{[]string{"Range", "bytes=1-2", "If-None-Match", `"` + d + `"`}, 304, 0, 0},
	} {
		resp, body := do(t, "GET", url, c.header...)
		switch {
		case resp.StatusCode != c.status:
			t.Errorf("%v: %d, want %d", c.header, resp.StatusCode, c.status)
		case c.status == 416:
			if code := errorCode(t, resp, body); code != "RANGE_INVALID" || !strings.HasPrefix(resp.Header.Get("Content-Range"), "bytes */") {
				t.Errorf("%v: %s, %v", c.header, code, resp.Header)
			}
		case !bytes.Equal(body, whole[c.from:c.to]):
			t.Errorf("%v: %d bytes that are not %d to %d", c.header, len(body), c.from, c.to)
		case c.status == 206 && resp.Header.Get("Content-Type") != "application/octet-stream":
			t.Errorf("%v: Content-Type %s", c.header, resp.Header.Get("Content-Type"))
		}
	}
	if resp, body := do(t, "GET", url, "Range", "bytes=0-1,5-6"); resp.StatusCode != 206 || !strings.HasPrefix(resp.Header.Get("Content-Type"), "multipart/byteranges") {
		t.Errorf("two ranges: %d %v %q", resp.StatusCode, resp.Header, body)
	}
}

func TestPages(t *testing.T) {
	f := newFixture(t)
	desc := f.putImage(f.image(1))
	f2 := f.release("1", item("a", bundle.KindImage, desc, "ghcr.io/acme/a", "a", "b", "c", "d", "e"), item("b", bundle.KindImage, desc, "ghcr.io/acme/b", "x"))
	srv := f.serve(f.view(Release{Bundle: f2, Active: true}))
	for _, c := range []struct{ query, tags, link string }{
		{"", "a b c d e", ""},
		{"n=2", "a b", `</v2/acme/a/tags/list?last=b&n=2&ns=ghcr.io>; rel="next"`},
		{"n=2&last=b", "c d", `</v2/acme/a/tags/list?last=d&n=2&ns=ghcr.io>; rel="next"`},
		{"n=2&last=d", "e", ""},
		{"n=5", "a b c d e", ""},
		{"last=bb", "c d e", ""},
		{"last=z", "", ""},
		{"n=0", "", ""},
		{"n=2147483647", "a b c d e", ""},
	} {
		resp, body := do(t, "GET", srv.URL+"/v2/acme/a/tags/list?ns=ghcr.io&"+c.query)
		var got struct {
			Name string
			Tags []string
		}
		if err := json.Unmarshal(body, &got); err != nil || got.Tags == nil {
			t.Fatalf("%s: %s, %v", c.query, body, err)
		}
		if got.Name != "acme/a" || strings.Join(got.Tags, " ") != c.tags || resp.Header.Get("Link") != c.link {
			t.Errorf("%s: %s, Link %s", c.query, body, resp.Header.Get("Link"))
		}
	}
	resp, body := do(t, "GET", srv.URL+"/v2/_catalog?n=1")
	if string(body) != `{"repositories":["ghcr.io/acme/a"]}` || resp.Header.Get("Link") != `</v2/_catalog?last=ghcr.io%2Facme%2Fa&n=1>; rel="next"` {
		t.Errorf("catalog: %s, %v", body, resp.Header)
	}
}

func TestReferrers(t *testing.T) {
	s := newStack(t)
	srv := s.serve(s.activeView())
	platform := must(s.appImages[0].Digest())(t).String()
	get := func(path string) (ocispec.Index, *http.Response) {
		resp, body := do(t, "GET", srv.URL+"/v2/ghcr.io/acme/robot-app/"+path)
		var idx ocispec.Index
		if err := json.Unmarshal(body, &idx); err != nil || idx.MediaType != ocispec.MediaTypeImageIndex || idx.SchemaVersion != 2 || idx.Manifests == nil {
			t.Fatalf("%s: %s, %v", path, body, err)
		}
		return idx, resp
	}
	idx, resp := get("referrers/" + platform)
	if len(idx.Manifests) != 1 || resp.Header.Get("OCI-Filters-Applied") != "" {
		t.Fatalf("%+v", idx)
	}
	d := idx.Manifests[0]
	if d.Digest != s.sbom.Digest || d.Size != s.sbom.Size || d.ArtifactType != "application/spdx+json" || d.Annotations["org.opencontainers.image.created"] == "" {
		t.Errorf("%+v", d)
	}
	idx, resp = get("referrers/" + platform + "?artifactType=application/x")
	if len(idx.Manifests) != 0 || resp.Header.Get("OCI-Filters-Applied") != "artifactType" {
		t.Errorf("filtered: %+v", idx)
	}
	idx, _ = get("referrers/" + platform + "?artifactType=application/spdx%2Bjson")
	if len(idx.Manifests) != 1 {
		t.Errorf("filtered: %+v", idx)
	}
	// A legacy signature has no subject field: it has its tag, and no place in this list.
	if idx, _ = get("referrers/" + s.appDesc.Digest.String()); len(idx.Manifests) != 1 || idx.Manifests[0].Digest != s.signature.Digest {
		t.Errorf("%+v", idx)
	}
	byTag, resp := get("manifests/" + strings.Replace(platform, ":", "-", 1))
	if len(byTag.Manifests) != 1 || byTag.Manifests[0].Digest != s.sbom.Digest {
		t.Errorf("referrers tag: %+v", byTag)
	}
	if byDigest, _ := get("manifests/" + resp.Header.Get("Docker-Content-Digest")); len(byDigest.Manifests) != 1 {
		t.Errorf("referrers tag by digest: %+v", byDigest)
	}
}

// A client must not make the relay answer with more than it sent.
func TestErrorsAreShort(t *testing.T) {
	s := newStack(t)
	srv := s.serve(s.activeView())
	long := strings.Repeat("a", 200_000)
	for _, path := range []string{
		"/v2/" + long + "/tags/list", "/v2/" + long, "/v2/a/manifests/" + long, "/v2/a/tags/list?ns=" + long,
		"/v2/charts/robot-app/manifests/" + long, "/v2/charts/robot-app/tags/list?n=" + long,
	} {
		resp, body := do(t, "GET", srv.URL+path)
		if resp.StatusCode < 400 || resp.StatusCode > 499 || len(body) > 2000 {
			t.Errorf("%.40s…: %d with %d bytes", path, resp.StatusCode, len(body))
		}
		errorCode(t, resp, body)
	}
}

// What the disk lost must be an error at once: not a body shorter than announced, nor a blob of other bytes.
func TestDamagedStore(t *testing.T) {
	s := newStack(t)
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(s.dir)); err != nil {
		t.Fatal(err)
	}
	h := NewHandler(must(store.Open(dir))(t))
	var reported []error
	h.Report = func(_ *http.Request, err error) { reported = append(reported, err) }
	v := s.activeView()
	layer := must(must(s.nginx.Layers())(t)[0].Digest())(t)
	file := filepath.Join(dir, "blobs", "sha256", layer.Hex[:2], layer.Hex)
	path := "/v2/docker.io/library/nginx/blobs/" + layer.String()
	if err := os.Truncate(file, 10); err != nil {
		t.Fatal(err)
	}
	if status, code := serveOnce(t, h, v, path); status != 500 || code != "UNKNOWN" {
		t.Errorf("truncated: %d %s", status, code)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if status, code := serveOnce(t, h, v, path); status != 404 || code != "BLOB_UNKNOWN" {
		t.Errorf("removed: %d %s", status, code)
	}
	if len(reported) != 2 {
		t.Errorf("reported %v, want two errors", reported)
	}
	if status, code := serveOnce(t, h, nil, path); status != 404 || code != "NAME_UNKNOWN" {
		t.Errorf("without a view: %d %s", status, code)
	}
}
