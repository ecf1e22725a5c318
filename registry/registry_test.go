package registry

import (
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
		{"/v2/charts/robot-app/tags/list?n=x", 400, "UNSUPPORTED"},
		{"/v2/charts/robot-app/tags/list?n=-1", 400, "UNSUPPORTED"},
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

// There is no route that writes: every method but GET and HEAD is refused on every path, before the path is looked at,
// and so are the addresses at which another registry would take uploads.
func TestNothingCanBeWritten(t *testing.T) {
	s := newStack(t)
	srv := s.serve(s.activeView())
	d := s.chart.Digest.String()
	for _, method := range []string{"POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"} {
		for _, path := range []string{
			"/v2/", "/v2/_catalog", "/v2/charts/robot-app/blobs/uploads/", "/v2/charts/robot-app/blobs/uploads/?digest=" + d,
			"/v2/charts/robot-app/blobs/uploads/?mount=" + d + "&from=other", "/v2/charts/robot-app/blobs/uploads/1?digest=" + d,
			"/v2/charts/robot-app/manifests/1.0.0_build.1", "/v2/charts/robot-app/manifests/" + d, "/v2/new/name/manifests/latest",
			"/v2/charts/robot-app/blobs/" + d, "/v2/charts/robot-app/tags/list", "/v2/charts/robot-app/referrers/" + d, "/v2/..//x",
		} {
			resp, body := do(t, method, srv.URL+path)
			if resp.StatusCode != 405 || errorCode(t, resp, body) != "UNSUPPORTED" || resp.Header.Get("Allow") != "GET, HEAD" {
				t.Errorf("%s %s: %d %s", method, path, resp.StatusCode, body)
			}
		}
	}
	for _, path := range []string{"uploads", "uploads/", "uploads/some-uuid", "uploads/some-uuid?digest=" + d} {
		resp, body := do(t, "GET", srv.URL+"/v2/charts/robot-app/blobs/"+path)
		if allow, ok := resp.Header["Allow"]; resp.StatusCode != 405 || errorCode(t, resp, body) != "UNSUPPORTED" || !ok || allow[0] != "" {
			t.Errorf("GET %s: %d %s, Allow %v", path, resp.StatusCode, body, resp.Header["Allow"])
		}
	}
}

// A body that nobody will read does not keep the client waiting.
func TestWriteIsRefusedBeforeTheBody(t *testing.T) {
	s := newStack(t)
	srv := s.serve(s.activeView())
	body, client := io.Pipe() // has no end
	defer client.Close()
	req := must(http.NewRequestWithContext(t.Context(), http.MethodPatch, srv.URL+"/v2/charts/robot-app/blobs/uploads/1", body))(t)
	resp := must(http.DefaultTransport.RoundTrip(req))(t)
	defer resp.Body.Close()
	if resp.StatusCode != 405 {
		t.Errorf("%d", resp.StatusCode)
	}
}

// Tricks with paths lead to an error of the API and never to a repository that was not named.
func TestPathTricks(t *testing.T) {
	s := newStack(t)
	srv := s.serve(s.activeView())
	app := s.appDesc.Digest.String()
	for path, want := range map[string]int{
		"/v2/ghcr.io/acme/robot-app/manifests/latest":                                 200,
		"/v2/ghcr.io/acme/robot-app/manifests/%6Catest":                               200,
		"/v2/ghcr.io/acme/robot-app/manifests/sha256%3A" + app[7:]:                    200, // some clients write the colon so
		"/v2/ghcr.io/acme%2Frobot-app/manifests/latest":                               404,
		"/v2/ghcr.io%2facme/robot-app/manifests/latest":                               404,
		"/v2%2Fghcr.io/acme/robot-app/manifests/latest":                               404,
		"/v2/ghcr.io/acme/robot-app%2Fmanifests/latest":                               404,
		"/v2/ghcr.io/acme/./robot-app/manifests/latest":                               400,
		"/v2/ghcr.io/acme/x/../robot-app/manifests/latest":                            400,
		"/v2/ghcr.io/acme/%2e%2e/acme/robot-app/manifests/latest":                     400,
		"/v2/ghcr.io/acme//robot-app/manifests/latest":                                400,
		"/v2//ghcr.io/acme/robot-app/manifests/latest":                                400,
		"/v2/ghcr.io/acme/robot-app//manifests/latest":                                400,
		"/v2/ghcr.io/acme/robot-app/manifests//latest":                                404,
		"/v2/ghcr.io/acme/robot-app/manifests/latest/":                                404,
		"/v2/ghcr.io/acme/robot-app/manifests/../manifests/latest":                    400,
		"/v2/ghcr.io/acme/robot-app/manifests/latest%00":                              404,
		"/v2/ghcr.io/acme/robot-app/manifests/latest%0d%0aX:%20y":                     400,
		"/v2/ghcr.io/acme%5Crobot-app/manifests/latest":                               400,
		"/v2/ghcr.io/acme/robot-app/manifests/" + strings.Repeat("x", 129):            404,
		"/v2/" + strings.Repeat("a/", 200) + "a/manifests/latest":                     400,
		"/v2/" + strings.Repeat("a", 256) + "/manifests/latest":                       400,
		"/v2/ghcr.io/acme/robot-app/manifests/latest?" + strings.Repeat("x=y&", 5000): 200,
		"/v2/ghcr.io/acme/robot-app/tags/list?last=%00%ff&n=00001":                    200,
		"/v2/ghcr.io/acme/robot-app/tags/list?n=99999999999999999999":                 200,
		"/v2/ghcr.io/acme/robot-app/tags/list?n=1e3":                                  400,
		"/V2/ghcr.io/acme/robot-app/manifests/latest":                                 404,
	} {
		resp, body := do(t, "GET", srv.URL+path)
		if resp.StatusCode != want {
			t.Errorf("%.100s: %d, want %d", path, resp.StatusCode, want)
		}
		if want >= 400 {
			errorCode(t, resp, body)
		}
		if resp.Header.Get("X") != "" || resp.Header.Get("Location") != "" {
			t.Errorf("%.100s: %v", path, resp.Header)
		}
	}
}

func TestPages(t *testing.T) {
	f := newFixture(t)
	desc := f.putImage(f.image(1))
	f2 := f.release("1", item("a", bundle.KindImage, desc, "ghcr.io/acme/a", "a", "b", "c", "d", "e"), item("b", bundle.KindImage, desc, "ghcr.io/acme/b", "x"))
	srv := f.serve(f.view(f.active(f2)))
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
	s := newStack(t).alone()
	dir, h := s.dir, NewHandler(s.st)
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
