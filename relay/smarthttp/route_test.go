package smarthttp

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestSplitPath(t *testing.T) {
	for path, want := range map[string]struct {
		place    string
		endpoint Endpoint
	}{
		"/a/b/info/refs":              {"/a/b", EndpointRefs},
		"/a/b.git/info/refs":          {"/a/b", EndpointRefs},
		"/a/b.git/git-upload-pack":    {"/a/b", EndpointUploadPack},
		"/a/b/git-receive-pack":       {"/a/b", EndpointReceivePack},
		"/a/b.git":                    {"/a/b", EndpointNone},
		"/a/b/":                       {"/a/b", EndpointNone},
		"/a/b.git/":                   {"/a/b", EndpointNone},
		"/a/b.git.git":                {"/a/b.git", EndpointNone},
		"/a/b/HEAD":                   {"/a/b", EndpointFiles},
		"/a/b.git/objects/info/packs": {"/a/b", EndpointFiles},
		"/a/b/objects/aa/" + strings.Repeat("a", 38): {"/a/b", EndpointFiles},
		"/a/b/objects/aa/" + strings.Repeat("a", 39): {"/a/b/objects/aa/" + strings.Repeat("a", 39), EndpointNone},
		"/info/refs":                            {"", EndpointRefs},
		"":                                      {"", EndpointNone},
		"/a/objects/info/packs/git-upload-pack": {"/a/objects/info/packs", EndpointUploadPack},
		"/a/git-upload-pack/info/refs/git-upload-pack": {"/a/git-upload-pack/info/refs", EndpointUploadPack},
	} {
		if place, e := SplitPath(path); place != want.place || e != want.endpoint {
			t.Errorf("%s: %q, %d, want %q, %d", path, place, e, want.place, want.endpoint)
		}
	}
}

func TestAsked(t *testing.T) {
	for _, tc := range []struct {
		method, target string
		service        Service
		advertise      bool
		status         int // of the refusal, if it is one
	}{
		{"GET", "/r/info/refs?service=git-upload-pack", UploadPack, true, 0},
		{"HEAD", "/r/info/refs?service=git-receive-pack", ReceivePack, true, 0},
		{"POST", "/r/git-upload-pack", UploadPack, false, 0},
		{"POST", "/r/git-receive-pack", ReceivePack, false, 0},
		{"POST", "/r/info/refs?service=git-upload-pack", UploadPack, true, 405},
		{"GET", "/r/git-receive-pack", ReceivePack, false, 405},
		{"GET", "/r/info/refs", "", true, 403},
		{"GET", "/r/info/refs?service=git-upload-archive", "", true, 403},
		{"GET", "/r/info/refs?service=upload-pack", "", true, 403},
		{"GET", "/r/HEAD", "", false, 403},
		{"GET", "/r", "", false, 404},
	} {
		r := httptest.NewRequest(tc.method, tc.target, nil)
		_, e := SplitPath(r.URL.Path)
		service, advertise, refusal := Asked(r, e)
		status := 0
		if refusal != nil {
			rec := httptest.NewRecorder()
			refusal.ServeHTTP(rec, r)
			status = rec.Code
			if ct := rec.Header().Get("Content-Type"); ct != "text/plain; charset=utf-8" || (status == 405) != (rec.Header().Get("Allow") != "") {
				t.Errorf("%s %s: refused with %v", tc.method, tc.target, rec.Header())
			}
		}
		if service != tc.service || advertise != tc.advertise && e == EndpointRefs || status != tc.status {
			t.Errorf("%s %s: %q, %t, %d", tc.method, tc.target, service, advertise, status)
		}
	}
	var refusal *Refusal
	if err := error(&Refusal{Text: "x"}); !errors.As(err, &refusal) || err.Error() != "x" {
		t.Errorf("as an error: %v", err)
	}
}

func TestProtocol(t *testing.T) {
	for _, tc := range []struct {
		values  []string
		version int
		value   string
	}{
		{nil, 0, ""},
		{[]string{"version=2"}, 2, "version=2"},
		{[]string{"version=1:version=2"}, 2, "version=1:version=2"},
		{[]string{"version=2:version=0"}, 2, "version=2:version=0"},
		{[]string{"version=3"}, 0, ""},
		{[]string{"version=2\nX=1"}, 0, ""},
		{[]string{"version=2:evil=$(id)"}, 2, "version=2"},
		{[]string{"version=2", "version=1"}, 0, ""},
		{[]string{strings.Repeat("version=2:", 100)}, 0, ""},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header = http.Header{"Git-Protocol": tc.values}
		if version, value := Protocol(r); version != tc.version || value != tc.value {
			t.Errorf("%q: %d %q", tc.values, version, value)
		}
	}
}
