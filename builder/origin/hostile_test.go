package origin

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
)

// server plays a registry: pings succeed, the handler does the rest.
func server(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v2/" {
			h(w, r)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

// connectTo is the repository a/b of a server, asked without patience.
func connectTo(t *testing.T, url string) (*Repository, name.Reference) {
	t.Helper()
	rs := &Registries{Patience: -1, Stall: 200 * time.Millisecond, Keychain: authn.NewMultiKeychain()}
	return open(t, rs, strings.TrimPrefix(url, "http://")+"/a/b:v1")
}

func blobOf(data string) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: "application/octet-stream", Digest: digest.FromString(data), Size: int64(len(data))}
}

func manifestOf(data string) ocispec.Descriptor {
	d := blobOf(data)
	d.MediaType = ocispec.MediaTypeImageManifest
	return d
}

func needError(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Fatalf("error %v, want %q in it", err, want)
	}
	if len(err.Error()) > 4096 {
		t.Errorf("an error of %d bytes", len(err.Error()))
	}
}

func needDamaged(t *testing.T, err error) {
	t.Helper()
	var damaged *bundle.DamagedError
	if !errors.As(err, &damaged) {
		t.Fatalf("error %v, want a DamagedError", err)
	}
}

// endless writes until the other side does not want more, which must be soon.
type endless struct{ served atomic.Int64 }

func (e *endless) serve(w http.ResponseWriter) {
	chunk := []byte(strings.Repeat(" ", 64<<10))
	for {
		n, err := w.Write(chunk)
		if e.served.Add(int64(n)); err != nil || e.served.Load() > 1<<30 {
			return
		}
	}
}

// check allows what was asked for and what the kernel holds between the two.
func (e *endless) check(t *testing.T, closeServer func()) {
	t.Helper()
	closeServer() // waits for the handler
	if n := e.served.Load(); n == 0 || n > 64<<20 {
		t.Errorf("%d bytes were taken", n)
	}
}

func TestLiesAboutManifestDigest(t *testing.T) {
	const raw = `{"schemaVersion":2}`
	s := server(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
		if strings.HasSuffix(r.URL.Path, "/v1") {
			w.Header().Set("Docker-Content-Digest", digest.FromString("other").String())
		}
		_, _ = io.WriteString(w, raw)
	})
	repo, ref := connectTo(t, s.URL)
	_, _, err := repo.Resolve(t.Context(), ref)
	needDamaged(t, err)
	_, _, err = repo.Resolve(t.Context(), ref.Context().Digest(digest.FromString("what was asked for").String()))
	needDamaged(t, err)
	if desc, _, err := repo.Resolve(t.Context(), ref.Context().Tag("honest")); err != nil || desc.Digest != digest.FromString(raw) {
		t.Errorf("%s (%v)", desc.Digest, err)
	}
}

func TestLiesAboutManifestLength(t *testing.T) {
	s := server(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
		w.Header().Set("Content-Length", "1000")
		_, _ = io.WriteString(w, `{"schemaVersion":2}`)
	})
	repo, ref := connectTo(t, s.URL)
	if _, _, err := repo.Resolve(t.Context(), ref); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%v", err)
	}
}

func TestLiesAboutBlob(t *testing.T) {
	const data = "twenty bytes of data"
	desc := blobOf(data)
	for _, c := range []struct {
		what   string
		answer func(w http.ResponseWriter)
	}{
		{"length", func(w http.ResponseWriter) { _, _ = io.WriteString(w, data[1:]) }},
		{"digest header", func(w http.ResponseWriter) {
			w.Header().Set("Docker-Content-Digest", digest.FromString("other").String())
			_, _ = io.WriteString(w, data)
		}},
		{"bytes", func(w http.ResponseWriter) { _, _ = io.WriteString(w, strings.ToUpper(data)) }},
		{"more", func(w http.ResponseWriter) {
			_, _ = io.WriteString(w, data)
			w.(http.Flusher).Flush() // without a length
			_, _ = io.WriteString(w, data)
		}},
		{"less", func(w http.ResponseWriter) {
			w.(http.Flusher).Flush()
			_, _ = io.WriteString(w, data[1:])
		}},
	} {
		t.Run(c.what, func(t *testing.T) {
			s := server(t, func(w http.ResponseWriter, _ *http.Request) { c.answer(w) })
			repo, _ := connectTo(t, s.URL)
			_, err := bundle.ReadBlob(t.Context(), repo, desc, 100)
			needDamaged(t, err)
		})
	}
}

func TestLiesAboutRange(t *testing.T) {
	desc := blobOf(strings.Repeat("x", 100))
	s := server(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Range", "bytes 20-99/100")
		w.WriteHeader(http.StatusPartialContent)
		_, _ = io.WriteString(w, strings.Repeat("x", 80))
	})
	repo, _ := connectTo(t, s.URL)
	_, err := repo.OpenAt(t.Context(), desc, 10)
	needError(t, err, "to a range from 10")
	_, err = repo.OpenAt(t.Context(), desc, 0) // no range was asked for
	needError(t, err, "206")
}

func TestRangeUnknownToRegistry(t *testing.T) {
	data := strings.Repeat("x", 60) + strings.Repeat("y", 40)
	s := server(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, data) })
	repo, _ := connectTo(t, s.URL)
	rc, err := repo.OpenAt(t.Context(), blobOf(data), 60)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(rc)
	if err != nil || string(got) != data[60:] {
		t.Errorf("%q (%v)", got, err)
	}
}

func TestEndlessManifest(t *testing.T) {
	var e endless
	s := server(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
		e.serve(w)
	})
	repo, ref := connectTo(t, s.URL)
	_, _, err := repo.Resolve(t.Context(), ref)
	needError(t, err, fmt.Sprintf("more than %d bytes", bundle.MaxManifest))
	_, err = bundle.ReadBlob(t.Context(), repo, manifestOf("{}"), 100)
	needDamaged(t, err)
	e.check(t, s.Close)
}

func TestEndlessReferrers(t *testing.T) {
	var e endless
	s := server(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
		e.serve(w)
	})
	repo, _ := connectTo(t, s.URL)
	_, err := repo.Referrers(t.Context(), digest.FromString("subject"))
	needError(t, err, fmt.Sprintf("more than %d bytes", bundle.MaxManifest))
	e.check(t, s.Close)
}

func TestEndlessErrors(t *testing.T) {
	for _, status := range []int{http.StatusNotFound, http.StatusForbidden, http.StatusInternalServerError, http.StatusTooManyRequests} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			var e endless
			s := server(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(status)
				e.serve(w)
			})
			repo, ref := connectTo(t, s.URL)
			_, _, err := repo.Resolve(t.Context(), ref)
			needError(t, err, fmt.Sprint(status))
			big := blobOf("")
			big.Size = 1 << 40
			_, err = repo.Open(t.Context(), big)
			needError(t, err, fmt.Sprint(status))
			e.check(t, s.Close)
		})
	}
}

func TestEndlessPing(t *testing.T) {
	var e endless
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/" {
			e.serve(w)
			return
		}
		http.NotFound(w, r)
	}))
	defer s.Close()
	repo, ref := connectTo(t, s.URL)
	_, _, err := repo.Resolve(t.Context(), ref)
	needError(t, err, "404")
	e.check(t, s.Close)
}

func TestEndlessToken(t *testing.T) {
	var e endless
	var s *httptest.Server
	s = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			_, _ = io.WriteString(w, `{"token":"`)
			e.serve(w)
			return
		}
		w.Header().Set("WWW-Authenticate", `Bearer realm="`+s.URL+`/token",service="x"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer s.Close()
	rs := &Registries{Patience: -1, Keychain: authn.NewMultiKeychain()}
	_, err := rs.Repository(t.Context(), reference(t, strings.TrimPrefix(s.URL, "http://")+"/a/b:v1"))
	needError(t, err, "registry 127.0.0.1")
	e.check(t, s.Close)
}

func TestEndlessHeaders(t *testing.T) {
	s := server(t, func(w http.ResponseWriter, _ *http.Request) {
		for i := range 1000 {
			w.Header().Set(fmt.Sprintf("X-%d", i), strings.Repeat("x", 1000))
		}
	})
	repo, ref := connectTo(t, s.URL)
	_, _, err := repo.Resolve(t.Context(), ref)
	needError(t, err, "header")
}

func TestErrorsCarryNoControlCharacters(t *testing.T) {
	s := server(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, `{"errors":[{"code":"DENIED","message":"\u001b[2Jall is well`+strings.Repeat("!", 10_000)+`"}]}`)
	})
	repo, ref := connectTo(t, s.URL)
	_, _, err := repo.Resolve(t.Context(), ref)
	needError(t, err, `\x1b[2Jall is well!!!`)
	if strings.Contains(err.Error(), "\x1b") {
		t.Errorf("%q", err)
	}
}

func TestWebPageInsteadOfRegistry(t *testing.T) {
	s := server(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = io.WriteString(w, "<html>please log in</html>")
	})
	repo, ref := connectTo(t, s.URL)
	_, _, err := repo.Resolve(t.Context(), ref)
	needError(t, err, "it is a web page")
	_, err = repo.Open(t.Context(), blobOf("a config"))
	needError(t, err, "it is a web page")
	_, err = repo.Referrers(t.Context(), digest.FromString("subject"))
	needError(t, err, "it is a web page")
}

// layered are manifests by digest, as a registry serves them.
type layered map[string]string

func (l layered) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	raw, ok := l[r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]]
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
	_, _ = io.WriteString(w, raw)
}

func indexOf(d digest.Digest, size int) string {
	return fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%[1]q,"digest":%q,"size":%d}]}`,
		ocispec.MediaTypeImageIndex, d, size)
}

func TestIndexBomb(t *testing.T) {
	const depth = 1000
	content := layered{}
	raw := indexOf(digest.FromString("bottom"), 6)
	for range depth {
		content[digest.FromString(raw).String()] = raw
		raw = indexOf(digest.FromString(raw), len(raw))
	}
	content["v1"], content[digest.FromString(raw).String()] = raw, raw
	var asked atomic.Int64
	s := server(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		content.ServeHTTP(w, r)
	})
	repo, ref := connectTo(t, s.URL)
	desc, _, err := repo.Resolve(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	err = bundle.Walk(t.Context(), repo, desc, func(bundle.Node) error { return nil })
	needError(t, err, "nested deeper")
	if n := asked.Load(); n > 5 {
		t.Errorf("%d requests", n)
	}
}

// An index cannot hold its own digest, so one that seems to is a lie about the bytes.
func TestIndexThatNamesItself(t *testing.T) {
	self := digest.FromString("self")
	raw := indexOf(self, len(indexOf(self, 100)))
	content := layered{"v1": raw, self.String(): raw, digest.FromString(raw).String(): raw}
	s := server(t, content.ServeHTTP)
	repo, ref := connectTo(t, s.URL)
	desc, _, err := repo.Resolve(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	err = bundle.Walk(t.Context(), repo, desc, func(bundle.Node) error { return nil })
	needDamaged(t, err)
}

func TestStalledManifest(t *testing.T) {
	s := server(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
		_, _ = io.WriteString(w, `{"schemaVersion":`)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	repo, ref := connectTo(t, s.URL)
	_, _, err := repo.Resolve(t.Context(), ref)
	needError(t, err, "next to nothing for too long")
}

func TestStalledBlob(t *testing.T) {
	s := server(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "10000000")
		_, _ = w.Write(make([]byte, 100_000))
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	repo, _ := connectTo(t, s.URL)
	desc := blobOf("")
	desc.Size = 10_000_000
	rc, err := repo.Open(t.Context(), desc)
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close() //nolint:errcheck // broken
	n, err := io.Copy(io.Discard, rc)
	needError(t, err, "next to nothing for too long")
	if n != 100_000 {
		t.Errorf("%d bytes", n)
	}
}

// One byte now and then is no progress, however regular.
func TestDrippingBlob(t *testing.T) {
	s := server(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "10000000")
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-r.Context().Done():
				return
			case <-tick.C:
			}
			_, _ = w.Write([]byte{0})
			w.(http.Flusher).Flush()
		}
	})
	repo, _ := connectTo(t, s.URL)
	desc := blobOf("")
	desc.Size = 10_000_000
	rc, err := repo.Open(t.Context(), desc)
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close() //nolint:errcheck // broken
	_, err = io.Copy(io.Discard, rc)
	needError(t, err, "next to nothing for too long")
}
