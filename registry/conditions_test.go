package registry

import (
	"bytes"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

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
		{[]string{"Range", "bytes=99999999999999999999-"}, 416, 0, 0},
		{[]string{"Range", "bytes=10-99999999999999999999"}, 206, 10, size},
		{[]string{"Range", "Bytes=1-2"}, 206, 1, 3}, // RFC 9110, 14.1
		{[]string{"Range", "lines=1-2"}, 200, 0, size},
		{[]string{"Range", "bytes=0-0", "Range", "bytes=1-1"}, 200, 0, size},
		{[]string{"Range", "bytes=0-,1-"}, 200, 0, size}, // more than all of it
		{[]string{"Range", "bytes=0-0" + strings.Repeat(",2-2", maxRanges)}, 200, 0, size},
		{[]string{"Range", "bytes=7-7,99999999-"}, 206, 7, 8},
		{[]string{"Range", "bytes=0-0", "If-Range", `W/"` + d + `"`}, 200, 0, size},
		{[]string{"If-Match", `"` + d + `"`}, 200, 0, size},
		{[]string{"If-Match", "*"}, 200, 0, size},
		{[]string{"If-None-Match", `"x", W/"` + d + `"`}, 304, 0, 0},
		{[]string{"If-None-Match", `"x"`, "If-None-Match", "*"}, 304, 0, 0},
		{[]string{"If-Modified-Since", "Fri, 31 Dec 2100 23:59:59 GMT"}, 200, 0, size},
		{[]string{"Range", "bytes=1-2", "If-None-Match", `"` + d + `"`}, 304, 0, 0},
	} {
		resp, body := do(t, "GET", url, c.header...)
		switch {
		case resp.StatusCode != c.status:
			t.Errorf("%v: %d, want %d", c.header, resp.StatusCode, c.status)
		case c.status == 416:
			if code := errorCode(t, resp, body); code != "SIZE_INVALID" || !strings.HasPrefix(resp.Header.Get("Content-Range"), "bytes */") {
				t.Errorf("%v: %s, %v", c.header, code, resp.Header)
			}
		case !bytes.Equal(body, whole[c.from:c.to]):
			t.Errorf("%v: %d bytes that are not %d to %d", c.header, len(body), c.from, c.to)
		case c.status == 206 && resp.Header.Get("Content-Type") != "application/octet-stream":
			t.Errorf("%v: Content-Type %s", c.header, resp.Header.Get("Content-Type"))
		}
	}
	// RFC 9110, 14.2: a range of a HEAD does not count.
	if resp, _ := do(t, "HEAD", url, "Range", "bytes=0-0"); resp.StatusCode != 200 || resp.ContentLength != int64(size) || resp.Header.Get("Accept-Ranges") != "bytes" {
		t.Errorf("HEAD with a range: %d, %v", resp.StatusCode, resp.Header)
	}
	if resp, body := do(t, "GET", url, "If-Match", `"other"`); resp.StatusCode != 412 || errorCode(t, resp, body) != "UNSUPPORTED" {
		t.Errorf("If-Match of other content: %d %s", resp.StatusCode, body)
	}
}

// Several ranges in one answer: what lazy image loaders ask for.
func TestMultipartRanges(t *testing.T) {
	s := newStack(t)
	srv := s.serve(s.activeView())
	layer := must(s.nginx.Layers())(t)[0]
	whole := must(io.ReadAll(must(layer.Compressed())(t)))(t)
	url := srv.URL + "/v2/docker.io/library/nginx/blobs/" + must(layer.Digest())(t).String()
	resp, body := do(t, "GET", url, "Range", "bytes=0-1, 500-99999 ,-3,99999999-")
	mediaType, params, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil || resp.StatusCode != 206 || mediaType != "multipart/byteranges" || resp.ContentLength != int64(len(body)) {
		t.Fatalf("%d %v: %v", resp.StatusCode, resp.Header, err)
	}
	parts := multipart.NewReader(bytes.NewReader(body), params["boundary"])
	for _, want := range []span{{0, 2}, {500, 99500}, {int64(len(whole)) - 3, 3}} {
		part := must(parts.NextPart())(t)
		got := must(io.ReadAll(part))(t)
		if !bytes.Equal(got, whole[want.first:want.first+want.length]) || part.Header.Get("Content-Type") != "application/octet-stream" ||
			part.Header.Get("Content-Range") != want.contentRange(int64(len(whole))) {
			t.Errorf("part %v: %d bytes, want %v", part.Header, len(got), want)
		}
	}
	if _, err := parts.NextPart(); err != io.EOF {
		t.Errorf("after the last part: %v", err)
	}
}

func FuzzMatches(f *testing.F) {
	f.Add(`"a", W/"sha256:1" , *`, `"sha256:1"`)
	f.Fuzz(func(t *testing.T, header, tag string) {
		etag := `"` + strings.Map(func(r rune) rune {
			if r <= ' ' || r == '"' || r > '~' {
				return -1
			}
			return r
		}, tag) + `"`
		rec := httptest.NewRecorder()
		rec.Header().Set("Etag", etag)
		req := httptest.NewRequest(http.MethodGet, "/", nil)
		req.Header.Set("If-None-Match", header)
		http.ServeContent(rec, req, "", time.Time{}, strings.NewReader("x"))
		if got, want := header != "" && matches([]string{header}, etag, true), rec.Code == http.StatusNotModified; got != want && !strings.ContainsAny(header, "\r\n") {
			t.Fatalf("matches(%q, %s) = %v, net/http says %v", header, etag, got, want)
		}
		if matches([]string{header}, etag, false) && !matches([]string{header}, etag, true) {
			t.Fatalf("%q matches %s strongly and not weakly", header, etag)
		}
	})
}

// What is answered to a range must be what net/http answers, but for the differences that are named here.
func FuzzParseRange(f *testing.F) {
	f.Add("bytes=0-", uint8(10))
	f.Fuzz(func(t *testing.T, header string, size uint8) {
		spans, ok := parseRange(header, int64(size))
		total := int64(0)
		for _, s := range spans {
			if s.first < 0 || s.length < 1 || s.first+s.length > int64(size) {
				t.Fatalf("parseRange(%q, %d) has %+v", header, size, s)
			}
			total += s.length
		}
		if total > int64(size) || len(spans) > maxRanges || !ok && spans != nil {
			t.Fatalf("parseRange(%q, %d) = %+v, %v", header, size, spans, ok)
		}
		list, isBytes := strings.CutPrefix(header, "bytes=")
		if !isBytes || strings.Count(list, ",") >= maxRanges || strings.Trim(list, "0123456789-, ") != "" || odd(list) {
			return // another unit, more ranges, or what net/http reads differently
		}
		rec := httptest.NewRecorder()
		req := httptest.NewRequest(http.MethodGet, "/", nil)
		req.Header.Set("Range", header)
		http.ServeContent(rec, req, "", time.Time{}, strings.NewReader(strings.Repeat("x", int(size))))
		want := map[int]string{200: "all", 206: "spans", 416: "none"}[rec.Code]
		got := "none"
		if ok {
			got = map[bool]string{true: "all", false: "spans"}[spans == nil]
		}
		if got != want {
			t.Fatalf("parseRange(%q, %d) = %+v, %v; net/http answers %d", header, size, spans, ok, rec.Code)
		}
		if len(spans) == 1 && rec.Header().Get("Content-Range") != spans[0].contentRange(int64(size)) {
			t.Fatalf("parseRange(%q, %d) = %+v; net/http answers %s", header, size, spans, rec.Header().Get("Content-Range"))
		}
	})
}

// odd reports whether a list has numbers that net/http does not read, or the last 0 bytes, which it sends.
func odd(list string) bool {
	for spec := range strings.SplitSeq(list, ",") {
		from, to, _ := strings.Cut(strings.TrimSpace(spec), "-")
		if len(from) > 18 || len(to) > 18 || from == "" && strings.Trim(to, "0 ") == "" {
			return true
		}
	}
	return false
}
