package media

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/testbundle"
)

// proxyTo passes requests to a registry as if they had come to it.
func proxyTo(host string) http.Handler {
	return &httputil.ReverseProxy{
		ErrorLog: log.New(io.Discard, "", 0), // clients that stop reading are part of the tests
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: host})
			r.Out.Host = r.In.Host // uploads answer with an address that is made of it
			r.SetXForwarded()
		},
	}
}

// front starts a server and gives its host.
func front(t testing.TB, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// published is a bundle with a big layer in a registry.
func published(t testing.TB) (b *testbundle.Bundle, big ocispec.Descriptor, host string) {
	t.Helper()
	padding := bytes.Repeat([]byte("0123456789abcdef"), 128<<10) // 2 MiB
	b, dir := written(t, testbundle.Options{Padding: padding})
	host = registryHost(t)
	if err := carry(t.Context(), t, dir, "oci://"+host+"/app"); err != nil {
		t.Fatal(err)
	}
	return b, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromBytes(padding), Size: int64(len(padding))}, host
}

func isBlob(r *http.Request, d digest.Digest) bool {
	return r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/blobs/"+d.String())
}

// cutter passes only so many bytes of a body on and then breaks the connection.
type cutter struct {
	http.ResponseWriter
	left int
}

func (c *cutter) Write(p []byte) (int, error) {
	if len(p) > c.left {
		_, _ = c.ResponseWriter.Write(p[:c.left])
		_ = http.NewResponseController(c.ResponseWriter).Flush()
		panic(http.ErrAbortHandler)
	}
	c.left -= len(p)
	return c.ResponseWriter.Write(p)
}

func TestConnectionCutInsideABlob(t *testing.T) {
	b, big, host := published(t)
	for name, ranges := range map[string]bool{"with ranges": true, "without ranges": false} {
		t.Run(name, func(t *testing.T) {
			next := proxyTo(host)
			var mu sync.Mutex
			var asked []string
			cut := front(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if !isBlob(r, big.Digest) {
					next.ServeHTTP(w, r)
					return
				}
				mu.Lock()
				asked = append(asked, r.Header.Get("Range"))
				n := len(asked)
				mu.Unlock()
				limit := 600_000
				if !ranges {
					r.Header.Del("Range")
					limit *= n // otherwise it would never come to its end
				}
				next.ServeHTTP(&cutter{w, limit}, r)
			}))
			to := filepath.Join(t.TempDir(), "out")
			if err := carry(t.Context(), t, "oci://"+cut+"/app:"+b.Tag, to); err != nil {
				t.Fatal(err)
			}
			checkSame(t, b, to)
			if len(asked) != 4 || asked[0] != "" {
				t.Fatalf("asked %q", asked)
			}
			for _, r := range asked[1:] {
				var offset int
				if _, err := fmt.Sscanf(r, "bytes=%d-", &offset); err != nil || offset == 0 {
					t.Errorf("range %q", r)
				}
			}
		})
	}
}

func TestStalledDownloadIsResumed(t *testing.T) {
	b, big, host := published(t)
	next := proxyTo(host)
	var stalled atomic.Int64
	slow := front(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if isBlob(r, big.Digest) && stalled.Add(1) == 1 {
			w.Header().Set("Content-Length", fmt.Sprint(big.Size))
			_, _ = w.Write(b.Data(big.Digest)[:1000])
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done() // until the client has had enough
			return
		}
		next.ServeHTTP(w, r)
	}))
	src := source(t, "oci://"+slow+"/app:"+b.Tag, Options{PlainHTTP: true, StallTimeout: 300 * time.Millisecond})
	rc := must(Resume(t.Context(), src, big))(t)
	got := must(io.ReadAll(rc))(t)
	if err := rc.Close(); err != nil {
		t.Error(err)
	}
	if !bytes.Equal(got, b.Data(big.Digest)) || stalled.Load() < 2 {
		t.Errorf("%d bytes after %d requests", len(got), stalled.Load())
	}
}

func TestLyingRegistry(t *testing.T) {
	b, big, host := published(t)
	next := proxyTo(host)
	other := bytes.Repeat([]byte("x"), int(big.Size))
	manifest := b.Image.Manifests[0]
	answer := func(data []byte, header ...string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
			for i := 0; i < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			_, _ = w.Write(data)
		}
	}
	tests := map[string]struct {
		about  ocispec.Descriptor
		answer func(http.ResponseWriter)
	}{
		"other bytes":             {big, answer(other)},
		"other bytes, true label": {big, answer(other, "Docker-Content-Digest", big.Digest.String())},
		"true bytes, other label": {big, answer(b.Data(big.Digest), "Docker-Content-Digest", digest.FromBytes(other).String())},
		"too short":               {big, answer(other[:100], "Content-Length", "100")},
		"too long":                {big, answer(append(b.Data(big.Digest), 'x'))},
		"another manifest":        {manifest, answer(b.Data(b.Image.Manifests[1].Digest))},
		"another root":            {b.Root, answer(b.Data(manifest.Digest))},
	}
	for name, tt := range tests {
		lying := front(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/"+tt.about.Digest.String()) {
				tt.answer(w)
				return
			}
			next.ServeHTTP(w, r)
		}))
		to := filepath.Join(t.TempDir(), "out")
		err := carry(t.Context(), t, "oci://"+lying+"/app:"+b.Tag, to)
		var damaged *bundle.DamagedError
		if !errors.As(err, &damaged) || damaged.Descriptor.Digest != tt.about.Digest {
			t.Fatalf("%s: %v, want a DamagedError of %s", name, err, tt.about.Digest)
		}
		if tt.about.Digest == big.Digest && (damaged.Item != "robot-app" || !strings.HasPrefix(err.Error(), "item robot-app: ")) {
			t.Errorf("%s: item %q in %v", name, damaged.Item, err)
		}
		if has := must(sink(t, to, Options{}).Has(t.Context(), tt.about))(t); has {
			t.Errorf("%s: it was kept", name)
		}
	}
	// A digest in the reference binds the root.
	lying := front(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.URL.Path = strings.Replace(r.URL.Path, b.Root.Digest.String(), b.Tag, 1)
		r.URL.Path = strings.Replace(r.URL.Path, digest.FromString("else").String(), b.Tag, 1)
		next.ServeHTTP(w, r)
	}))
	if root, err := source(t, "oci://"+lying+"/app@"+digest.FromString("else").String(), plainHTTP).Root(t.Context()); err == nil {
		t.Errorf("another root than the one that was named: %+v", root)
	}
}

func TestBadAnswersToARange(t *testing.T) {
	data := []byte("0123456789")
	desc := ocispec.Descriptor{MediaType: "a/b", Digest: digest.FromBytes(data), Size: 10}
	for _, header := range []string{"bytes 4-9/10", "bytes 6-9/10", "items 5-9/10", "", "bytes x-9/10"} {
		host := front(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Range", header)
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(data[5:])
		}))
		if _, err := source(t, "oci://"+host+"/a:b", plainHTTP).(RangeOpener).OpenAt(t.Context(), desc, 5); err == nil {
			t.Errorf("%q is an answer to a range from 5", header)
		}
	}
}

func TestRemoteErrors(t *testing.T) {
	b, big, host := published(t)
	var bad *RefError
	for _, ref := range []string{"/app:v9", "/none:v1", "/app@" + digest.FromString("x").String(), "/app:" + b.Beside[1].Tag} {
		if _, err := source(t, "oci://"+host+ref, plainHTTP).Root(t.Context()); !errors.As(err, &bad) {
			t.Errorf("%s: %v, want a RefError", ref, err)
		}
	}
	src := source(t, "oci://"+host+"/app:"+b.Tag, plainHTTP)
	for _, mediaType := range []string{ocispec.MediaTypeImageLayer, ocispec.MediaTypeImageManifest} {
		if _, err := src.Open(t.Context(), ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromString("x"), Size: 1}); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v, want fs.ErrNotExist", mediaType, err)
		}
	}
	// Without the option nobody speaks plain HTTP, not even on the loopback interface.
	if _, err := source(t, "oci://"+host+"/app:"+b.Tag, Options{}).Root(t.Context()); err == nil {
		t.Error("plain HTTP without the option")
	}
	forbidding := front(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, `{"errors":[{"code":"DENIED","message":"not you"}]}`)
	}))
	var refused *errcode.ErrorResponse
	_, err := Resume(t.Context(), source(t, "oci://"+forbidding+"/app:v1", plainHTTP), big)
	if !errors.As(err, &refused) || refused.StatusCode != http.StatusForbidden || !strings.Contains(err.Error(), "not you") {
		t.Errorf("forbidden: %v", err)
	}
}

func TestTLSAndCAFile(t *testing.T) {
	b, _, host := published(t)
	s := httptest.NewUnstartedServer(proxyTo(host))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	ref := "oci://" + strings.TrimPrefix(s.URL, "https://") + "/app:" + b.Tag
	if _, err := source(t, ref, Options{}).Root(t.Context()); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("without the CA: %v", err)
	}
	src := source(t, ref, Options{CAFile: ca})
	if root := must(src.Root(t.Context()))(t); root.Digest != b.Root.Digest {
		t.Errorf("root %s", root.Digest)
	}
	to := sink(t, strings.Replace(ref, "/app:", "/copy:", 1), Options{CAFile: ca})
	if err := errors.Join(Copy(t.Context(), to, src, nil, 0), to.Close()); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(ca, []byte("no PEM"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{ca, ca + ".absent"} {
		if _, err := OpenSource(t.Context(), ref, Options{CAFile: file}); err == nil {
			t.Errorf("%s: accepted", file)
		}
	}
}

func TestCredentialsAndUserAgent(t *testing.T) {
	b, _, host := published(t)
	next := proxyTo(host)
	var agents sync.Map
	guarded := front(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		agents.Store(r.UserAgent(), true)
		if user, password, ok := r.BasicAuth(); !ok || user != "robot" || password != "s3cret" {
			w.Header().Set("WWW-Authenticate", `Basic realm="robots"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	}))
	config := func(password string) string {
		path := filepath.Join(t.TempDir(), "config.json")
		login := base64.StdEncoding.EncodeToString([]byte("robot:" + password))
		if err := os.WriteFile(path, fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, guarded, login), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	o := Options{PlainHTTP: true, DockerConfig: config("s3cret"), UserAgent: "test/1"}
	src := source(t, "oci://"+guarded+"/app:"+b.Tag, o)
	dst := sink(t, "oci://"+guarded+"/copy", o)
	if err := errors.Join(Copy(t.Context(), dst, src, nil, 0), dst.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := source(t, "oci://"+guarded+"/app:"+b.Tag, Options{PlainHTTP: true, DockerConfig: config("wrong")}).Root(t.Context()); err == nil {
		t.Error("a wrong password was accepted")
	}
	if _, ok := agents.Load("test/1"); !ok {
		t.Error("the user agent was not sent")
	}
	if _, err := OpenSource(t.Context(), "oci://"+guarded+"/app:v1", Options{DockerConfig: filepath.Join(t.TempDir(), "absent")}); err == nil {
		t.Error("a config that is not there was accepted")
	}
}

func TestDockerConfigByDefault(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("DOCKER_CONFIG", "")
	if creds := must(dockerCredentials(""))(t); creds == nil {
		t.Error("no credentials function")
	}
	if err := errors.Join(os.Mkdir(filepath.Join(home, ".docker"), 0o700), os.WriteFile(filepath.Join(home, ".docker", "config.json"), []byte("{"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := dockerCredentials(""); err == nil {
		t.Error("a broken config was accepted")
	}
	t.Setenv("HOME", "")
	if _, err := dockerCredentials(""); err != nil {
		t.Errorf("without a home: %v", err)
	}
}

// busy answers 503 to the first two requests that match, having read their bodies.
func busy(next http.Handler, match func(*http.Request) bool) (http.Handler, *atomic.Int64) {
	var n atomic.Int64
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if match(r) && n.Add(1) <= 2 {
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		next.ServeHTTP(w, r)
	}), &n
}

func TestBusyRegistry(t *testing.T) {
	b, big, host := published(t)
	for name, match := range map[string]func(*http.Request) bool{
		"manifest": func(r *http.Request) bool {
			return r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/manifests/")
		},
		"small blob": func(r *http.Request) bool {
			return r.Method == http.MethodPut && r.URL.Query().Get("digest") == b.Layer.Digest.String()
		},
		"large blob": func(r *http.Request) bool {
			return r.Method == http.MethodPut && r.URL.Query().Get("digest") == big.Digest.String()
		},
		"reading": func(r *http.Request) bool { return isBlob(r, big.Digest) },
	} {
		handler, n := busy(proxyTo(host), match)
		h := front(t, handler)
		// Two names of one registry: nothing is mounted.
		from, to := "oci://"+host+"/app:"+b.Tag, "oci://"+h+"/copy/"+strings.ReplaceAll(name, " ", "-")
		if name == "reading" {
			from, to = "oci://"+h+"/app:"+b.Tag, "oci://"+host+"/copy/reading"
		}
		if err := carry(t.Context(), t, from, to); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if n.Load() < 3 {
			t.Errorf("%s: %d requests", name, n.Load())
		}
		checkSame(t, b, to+":"+b.Tag)
	}
}

// TestReferrersAPI is a registry that has it, and abuses it.
func TestReferrersAPI(t *testing.T) {
	b, _, host := published(t)
	next := proxyTo(host)
	tests := map[string]struct {
		page func(w http.ResponseWriter, n int) []ocispec.Descriptor
		ok   bool
	}{
		"pages": {func(w http.ResponseWriter, n int) []ocispec.Descriptor {
			if n == 0 {
				w.Header().Set("Link", `</v2/app/referrers/`+b.Root.Digest.String()+`?page=2>; rel="next"`)
				return nil
			}
			d := b.Beside[0].Descriptor
			d.ArtifactType = "application/vnd.dev.sigstore.bundle.v0.3+json"
			return []ocispec.Descriptor{d, d, {MediaType: "application/unknown", Digest: d.Digest, Size: 1}}
		}, true},
		"endless": {func(w http.ResponseWriter, n int) []ocispec.Descriptor {
			w.Header().Set("Link", fmt.Sprintf(`</v2/app/referrers/%s?page=%d>; rel="next"`, b.Root.Digest, n))
			return nil
		}, false},
		"too many": {func(http.ResponseWriter, int) []ocispec.Descriptor {
			many := make([]ocispec.Descriptor, maxReferrers+1)
			for i := range many {
				many[i] = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(fmt.Sprint(i)), Size: 1}
			}
			return many
		}, false},
		"bad digest": {func(http.ResponseWriter, int) []ocispec.Descriptor {
			return []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageManifest, Digest: "sha256:../x", Size: 1}}
		}, false},
	}
	for name, tt := range tests {
		var n atomic.Int64
		api := front(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !strings.Contains(r.URL.Path, "/referrers/") {
				next.ServeHTTP(w, r)
				return
			}
			w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
			page := tt.page(w, int(n.Add(1)-1))
			data := must(json.Marshal(ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: page}))(t)
			_, _ = w.Write(data)
		}))
		ref := "oci://" + api + "/app:" + b.Tag
		if tt.ok {
			checkSame(t, b, ref)
			continue
		}
		if refs, err := source(t, ref, plainHTTP).Referrers(t.Context(), b.Root.Digest); err == nil {
			t.Errorf("%s: %d referrers", name, len(refs))
		}
	}
}

// TestRepeatedPushMendsTheFallbackTag cuts a push between a referrer and the list it must be entered in.
func TestRepeatedPushMendsTheFallbackTag(t *testing.T) {
	b, dir := written(t, testbundle.Options{})
	host := registryHost(t)
	next := proxyTo(host)
	list := "sha256-" + b.Root.Digest.Encoded()
	broken := front(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, list) {
			panic(http.ErrAbortHandler)
		}
		next.ServeHTTP(w, r)
	}))
	var gaveUp *GaveUpError
	if err := carryWith(t.Context(), t, dir, "oci://"+broken+"/app", Options{PlainHTTP: true, Patience: time.Second}); !errors.As(err, &gaveUp) {
		t.Fatalf("the push was not cut: %v", err)
	}
	var bad *RefError
	if _, err := source(t, "oci://"+host+"/app:"+b.Tag, plainHTTP).Root(t.Context()); !errors.As(err, &bad) {
		t.Errorf("the tag of a push that was cut: %v", err)
	}
	if err := carry(t.Context(), t, dir, "oci://"+host+"/app"); err != nil {
		t.Fatal(err)
	}
	checkSame(t, b, "oci://"+host+"/app:"+b.Tag)
}
