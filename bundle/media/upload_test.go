package media

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/testbundle"
)

// observed counts what comes in.
type observed struct {
	next http.Handler
	// around may answer itself; it is told how many requests of that method came before.
	around func(w http.ResponseWriter, r *http.Request, n int, next http.Handler)

	mu     sync.Mutex
	count  map[string]int // by method, of uploads
	lens   []int64        // of PATCHes
	bodies int64          // bytes that were read
}

func (o *observed) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !strings.Contains(r.URL.Path, "/blobs/uploads/") {
		o.next.ServeHTTP(w, r)
		return
	}
	o.mu.Lock()
	if o.count == nil {
		o.count = make(map[string]int)
	}
	n := o.count[r.Method]
	o.count[r.Method]++
	if r.Method == http.MethodPatch {
		o.lens = append(o.lens, r.ContentLength)
	}
	o.mu.Unlock()
	body := r.Body
	r.Body = io.NopCloser(readerFunc(func(p []byte) (int, error) {
		n, err := body.Read(p)
		o.mu.Lock()
		o.bodies += int64(n)
		o.mu.Unlock()
		return n, err
	}))
	if o.around == nil {
		o.next.ServeHTTP(w, r)
		return
	}
	o.around(w, r, n, o.next)
}

func (o *observed) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return fmt.Sprintf("POST %d PATCH %d PUT %d GET %d, %d bytes", o.count["POST"], o.count["PATCH"], o.count["PUT"], o.count["GET"], o.bodies)
}

// tenMiB is a blob of three chunks.
func tenMiB() testbundle.Blob { return blobOf(strings.Repeat("0123456789abcdef", 10<<16)) }

// opener is what reads a blob from wherever it is asked to.
func opener(b testbundle.Blob) func(int64) (io.ReadCloser, error) {
	return func(offset int64) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Data[offset:])), nil }
}

// pushTo uploads a blob into a repository behind h.
func pushTo(t *testing.T, h http.Handler, b testbundle.Blob, o Options) error {
	t.Helper()
	o.PlainHTTP = true
	s := sink(t, "oci://"+front(t, h)+"/app", o)
	err := s.(*remote).putFrom(t.Context(), b.Descriptor, opener(b), nil)
	if err == nil {
		if got := must(bundle.ReadBlob(t.Context(), s, b.Descriptor, b.Size))(t); !bytes.Equal(got, b.Data) {
			t.Error("it is not what was sent")
		}
	}
	return errors.Join(err, s.Close())
}

func TestUploadsInChunks(t *testing.T) {
	blob := tenMiB()
	const MiB = 1 << 20
	// The registry takes so many bytes in one request, as GitHub's.
	atMost := func(limit int64) func(w http.ResponseWriter, r *http.Request, n int, next http.Handler) {
		return func(w http.ResponseWriter, r *http.Request, _ int, next http.Handler) {
			if r.Method == http.MethodPost {
				w.Header().Set("OCI-Chunk-Min-Length", strconv.Itoa(6*MiB))
			}
			if r.Method == http.MethodPatch && r.ContentLength > limit {
				w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
				return
			}
			next.ServeHTTP(w, r)
		}
	}
	failing := func(method string, status int) func(w http.ResponseWriter, r *http.Request, n int, next http.Handler) {
		return func(w http.ResponseWriter, r *http.Request, n int, next http.Handler) {
			if r.Method == method && n == 0 {
				w.WriteHeader(status)
				return
			}
			next.ServeHTTP(w, r)
		}
	}
	for name, tt := range map[string]struct {
		around func(w http.ResponseWriter, r *http.Request, n int, next http.Handler)
		want   string
		lens   []int64
	}{
		"plain":              {nil, "POST 1 PATCH 3 PUT 1 GET 0, 10485760 bytes", []int64{4 * MiB, 4 * MiB, 2 * MiB}},
		"at least 6 MiB":     {atMost(99 * MiB), "POST 1 PATCH 2 PUT 1 GET 0, 10485760 bytes", []int64{6 * MiB, 4 * MiB}},
		"at most 4 MiB":      {atMost(4 * MiB), "POST 1 PATCH 4 PUT 1 GET 1, 10485760 bytes", []int64{6 * MiB, 4 * MiB, 4 * MiB, 2 * MiB}},
		"no chunks at all":   {atMost(0), "POST 2 PATCH 2 PUT 1 GET 2, 10485760 bytes", []int64{6 * MiB, 4 * MiB}},
		"knows no PATCH":     {nil, "POST 2 PATCH 1 PUT 1 GET 0, 10485760 bytes", []int64{4 * MiB}},
		"busy":               {failing("PATCH", http.StatusServiceUnavailable), "POST 1 PATCH 4 PUT 1 GET 1, 10485760 bytes", nil},
		"the end is refused": {failing("PUT", http.StatusBadGateway), "POST 1 PATCH 3 PUT 2 GET 1, 10485760 bytes", nil},
		"the end is lost": {func(w http.ResponseWriter, r *http.Request, n int, next http.Handler) {
			if r.Method == http.MethodPut {
				next.ServeHTTP(httptest.NewRecorder(), r)
				panic(http.ErrAbortHandler)
			}
			next.ServeHTTP(w, r)
		}, "POST 1 PATCH 3 PUT 1 GET 1, 10485760 bytes", nil},
		"breaks, and expects nothing": {func(w http.ResponseWriter, r *http.Request, n int, next http.Handler) {
			if r.Header.Get("Expect") != "" {
				w.WriteHeader(http.StatusExpectationFailed)
				return
			}
			loseOne(w, r, n, next)
		}, "POST 1 PATCH 5 PUT 1 GET 1, 10485760 bytes", nil},
		"a session is forgotten": {func(w http.ResponseWriter, r *http.Request, n int, next http.Handler) {
			if r.Method == http.MethodPatch && n == 0 {
				_, _ = io.Copy(io.Discard, r.Body)
				w.WriteHeader(http.StatusNotFound)
				return
			}
			next.ServeHTTP(w, r)
		}, "POST 2 PATCH 4 PUT 1 GET 0, 14680064 bytes", nil},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "knows no PATCH" {
				tt.around = func(w http.ResponseWriter, r *http.Request, _ int, next http.Handler) {
					if r.Method == http.MethodPatch {
						w.WriteHeader(http.StatusMethodNotAllowed)
						return
					}
					next.ServeHTTP(w, r)
				}
			}
			o := &observed{next: proxyTo(registryHost(t)), around: tt.around}
			if err := pushTo(t, o, blob, Options{}); err != nil {
				t.Fatal(err)
			}
			if got := o.String(); withoutBytes(got) != withoutBytes(tt.want) || o.bodies < blob.Size {
				t.Errorf("%s, want %s", got, tt.want)
			}
			if tt.lens != nil && fmt.Sprint(o.lens) != fmt.Sprint(tt.lens) {
				t.Errorf("chunks %d, want %d", o.lens, tt.lens)
			}
		})
	}
}

func withoutBytes(s string) string { s, _, _ = strings.Cut(s, ","); return s }

// TestSmallUploads are sent in one piece, and begun again when that breaks.
func TestSmallUploads(t *testing.T) {
	for _, text := range []string{"", "x", strings.Repeat("x", smallBlob)} {
		o := &observed{next: proxyTo(registryHost(t)), around: func(w http.ResponseWriter, r *http.Request, n int, next http.Handler) {
			if r.Method == http.MethodPut && n < 2 {
				panic(http.ErrAbortHandler)
			}
			next.ServeHTTP(w, r)
		}}
		if err := pushTo(t, o, blobOf(text), Options{}); err != nil {
			t.Fatal(err)
		}
		if got := o.String(); withoutBytes(got) != "POST 3 PATCH 0 PUT 3 GET 0" {
			t.Errorf("%d bytes: %s", len(text), got)
		}
	}
}

// TestDamagedUpload must not become a blob, even where a chunk was sent twice.
func TestDamagedUpload(t *testing.T) {
	blob := tenMiB()
	blob.Data = append(bytes.Clone(blob.Data[:blob.Size-1]), 'x')
	host := registryHost(t)
	o := &observed{next: proxyTo(host), around: func(w http.ResponseWriter, r *http.Request, n int, next http.Handler) {
		if r.Method == http.MethodPatch && n == 1 {
			panic(http.ErrAbortHandler)
		}
		next.ServeHTTP(w, r)
	}}
	var damaged *bundle.DamagedError
	if err := pushTo(t, o, blob, Options{}); !errors.As(err, &damaged) {
		t.Errorf("%v, want a DamagedError", err)
	}
	if has := must(sink(t, "oci://"+host+"/app", plainHTTP).Has(t.Context(), blob.Descriptor))(t); has || o.count["PUT"] > 0 {
		t.Errorf("there %v, %s", has, o)
	}
	// What changes between two readings is found by the registry.
	blob = tenMiB()
	s := sink(t, "oci://"+front(t, &observed{next: proxyTo(host), around: loseOne})+"/app", plainHTTP)
	err := s.(*remote).putFrom(t.Context(), blob.Descriptor, func(offset int64) (io.ReadCloser, error) {
		if offset > 0 {
			return io.NopCloser(bytes.NewReader(bytes.ToUpper(blob.Data[offset:]))), nil
		}
		return opener(blob)(0)
	}, nil)
	var refused *errcode.ErrorResponse
	if !errors.As(err, &refused) || refused.StatusCode != http.StatusBadRequest {
		t.Errorf("%v, want 400", err)
	}
	if has := must(s.Has(t.Context(), blob.Descriptor))(t); has {
		t.Error("it was kept")
	}
}

// loseOne breaks the second chunk after a MiB of it, which is lost.
func loseOne(w http.ResponseWriter, r *http.Request, n int, next http.Handler) {
	if r.Method == http.MethodPatch && n == 1 {
		_, _ = io.CopyN(io.Discard, r.Body, 1<<20)
		panic(http.ErrAbortHandler)
	}
	next.ServeHTTP(w, r)
}

func TestSourceFailsInAnUpload(t *testing.T) {
	blob := tenMiB()
	for name, open := range map[string]func(int64) (io.ReadCloser, error){
		"opening": func(int64) (io.ReadCloser, error) { return nil, fs.ErrPermission },
		"reading": func(int64) (io.ReadCloser, error) {
			return io.NopCloser(io.MultiReader(bytes.NewReader(blob.Data[:5<<20]), &failing{fs.ErrPermission})), nil
		},
		"reading again": func(offset int64) (io.ReadCloser, error) {
			if offset > 0 {
				return nil, fs.ErrPermission
			}
			return opener(blob)(0)
		},
	} {
		o := &observed{next: proxyTo(registryHost(t))}
		if name == "reading again" {
			o.around = loseOne
		}
		s := sink(t, "oci://"+front(t, o)+"/app", plainHTTP)
		if err := s.(*remote).putFrom(t.Context(), blob.Descriptor, open, nil); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestTokenEndsInAnUpload has a registry whose tokens are good for three requests, and whose tokens say for what.
func TestTokenEndsInAnUpload(t *testing.T) {
	blob := tenMiB()
	next := proxyTo(registryHost(t))
	var mu sync.Mutex
	left := make(map[string]int)
	var scopes []string
	var patches int64
	var self string
	guard := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if r.URL.Path == "/token" {
			scopes = append(scopes, strings.Join(r.URL.Query()["scope"], " "))
			token := fmt.Sprintf("t%d", len(scopes))
			left[token] = 3
			_ = json.NewEncoder(w).Encode(map[string]string{"token": token})
			return
		}
		token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		if left[token]--; left[token] < 0 {
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+self+`/token",service="x",scope="repository:app:pull,push"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if r.Method == http.MethodPatch {
			patches += r.ContentLength
		}
		next.ServeHTTP(w, r)
	})
	self = front(t, guard)
	s := sink(t, "oci://"+self+"/app", plainHTTP)
	if err := s.(*remote).putFrom(t.Context(), blob.Descriptor, opener(blob), nil); err != nil {
		t.Fatal(err)
	}
	if patches != blob.Size || len(scopes) < 2 || !strings.Contains(scopes[0], "repository:app:pull,push") {
		t.Errorf("%d bytes, scopes %q", patches, scopes)
	}
	// A refusal with fresh credentials is one.
	var refused *errcode.ErrorResponse
	err := pushTo(t, &observed{next: next, around: func(w http.ResponseWriter, r *http.Request, n int, next http.Handler) {
		if r.Method == http.MethodPatch {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	}}, blob, Options{})
	if !errors.As(err, &refused) || refused.StatusCode != http.StatusUnauthorized {
		t.Errorf("%v, want 401", err)
	}
}

// TestHostileUploads are registries that lie; each must be told soon.
func TestHostileUploads(t *testing.T) {
	blob := tenMiB()
	var elsewhere atomic.Int64
	other := front(t, http.HandlerFunc(func(_ http.ResponseWriter, _ *http.Request) { elsewhere.Add(1) }))
	const session = "/v2/app/blobs/uploads/1"
	// answer makes a registry that opens an upload and then does as it is told.
	answer := func(location string, patch, status http.HandlerFunc) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPatch {
				_, _ = io.Copy(io.Discard, r.Body)
			}
			switch {
			case r.Method == http.MethodHead:
				w.WriteHeader(http.StatusNotFound)
			case r.Method == http.MethodPost:
				w.Header().Set("Location", location)
				w.WriteHeader(http.StatusAccepted)
			case r.Method == http.MethodPatch && patch != nil:
				patch(w, r)
			case r.Method == http.MethodGet && status != nil:
				status(w, r)
			default:
				w.WriteHeader(http.StatusTeapot)
			}
		})
	}
	say := func(status int, header ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			for i := 0; i < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(status)
		}
	}
	abort := func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	var n atomic.Int64
	seesaw := func(w http.ResponseWriter, r *http.Request) {
		say(http.StatusAccepted, "Range", fmt.Sprintf("0-%d", 4<<20-1-n.Add(1)))(w, r)
	}
	for name, tt := range map[string]struct {
		h    http.Handler
		want string
	}{
		"no location":            {answer("", nil, nil), "without a Location"},
		"another host":           {answer("http://"+other+session, nil, nil), "on another host"},
		"another port":           {answer("http://127.0.0.1:1"+session, nil, nil), "on another host"},
		"another host later":     {answer(session, say(202, "Location", "//"+other+session), nil), "on another host"},
		"another host in status": {answer(session, abort, say(204, "Range", "0-0", "Location", "http://"+other)), "on another host"},
		"opaque location":        {answer("mailto:x", nil, nil), "its Location is"},
		"long location":          {answer("/"+strings.Repeat("x", maxLocation), nil, nil), "the limit is"},
		"redirect":               {answer(session, say(307, "Location", "http://"+other+session), nil), "not followed"},
		"redirect of the POST":   {http.HandlerFunc(say(301, "Location", "http://"+other)), ""},
		"has more than was sent": {answer(session, abort, say(204, "Range", "0-9999999")), "10000000 bytes"},
		"confirms more":          {answer(session, say(202, "Range", "0-9999999"), nil), "10000000 bytes, 4194304 were sent"},
		"confirms nothing ever":  {answer(session, say(202, "Range", "0-0"), nil), "lost bytes"},
		"goes back for ever":     {answer(session, seesaw, nil), "lost bytes"},
		"forgets for ever":       {answer(session, say(404), nil), "forgot 4 uploads"},
		"forgets in status":      {answer(session, abort, say(404)), "forgot 4 uploads"},
		"range of garbage":       {answer(session, say(202, "Range", "bytes 0-x"), nil), "its Range is"},
		"range from the end":     {answer(session, say(202, "Range", "5-4"), nil), "its Range is"},
		"huge range":             {answer(session, say(202, "Range", "0-9223372036854775807"), nil), "its Range is"},
		"is a teapot":            {answer(session, nil, nil), "418"},
		"never gets on":          {answer(session, abort, say(204, "Range", "0-0")), "nothing came through"},
		"refuses each range":     {answer(session, say(416), say(204, "Range", "0-0")), "418"},
	} {
		t.Run(name, func(t *testing.T) {
			var requests atomic.Int64
			h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				requests.Add(1)
				tt.h.ServeHTTP(w, r)
			})
			patience := time.Minute // a busy machine is no reason to give up
			if tt.want == "nothing came through" {
				patience = 2 * time.Second
			}
			err := pushTo(t, h, blob, Options{Patience: patience})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
			if requests.Load() > 40 {
				t.Errorf("%d requests", requests.Load())
			}
		})
	}
	if n := elsewhere.Load(); n > 0 {
		t.Errorf("%d requests went to another host", n)
	}
}

// TestEndlessRedirects of a download end, and no credentials go along to another host.
func TestEndlessRedirects(t *testing.T) {
	blob := blobOf("x")
	var requests atomic.Int64
	host := front(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, fmt.Sprintf("/%d", requests.Add(1)), http.StatusTemporaryRedirect)
	}))
	_, err := source(t, "oci://"+host+"/app:v1", plainHTTP).Open(t.Context(), blob.Descriptor)
	if err == nil || !strings.Contains(err.Error(), "redirects for ever") || requests.Load() != maxRedirects {
		t.Errorf("%v after %d requests", err, requests.Load())
	}
}

func TestUploadStopsWithItsContext(t *testing.T) {
	blob := tenMiB()
	ctx, cancel := context.WithCancel(t.Context())
	host := front(t, &observed{next: proxyTo(registryHost(t)), around: func(w http.ResponseWriter, r *http.Request, n int, next http.Handler) {
		if r.Method == http.MethodPatch {
			cancel()
			panic(http.ErrAbortHandler)
		}
		next.ServeHTTP(w, r)
	}})
	s := sink(t, "oci://"+host+"/app", plainHTTP)
	if err := s.(*remote).putFrom(ctx, blob.Descriptor, opener(blob), nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func FuzzUploadAnswer(f *testing.F) {
	f.Fuzz(func(t *testing.T, location, text string) {
		from := &url.URL{Scheme: "https", Host: "registry.example.com:5000", Path: "/v2/a/blobs/uploads/"}
		if to, err := sameRegistry(from, location); err == nil && (to.Scheme != "https" || to.Host != from.Host || to.User != nil || to.Path == "") {
			t.Errorf("%q leads to %s", location, to)
		}
		if n, err := rangeEnd(text); err == nil && n < 0 {
			t.Errorf("%q is %d", text, n)
		}
	})
}
