package chartrepo

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"helm.sh/helm/v3/pkg/repo"

	"github.com/plimsoll/plimsoll/builder/chartpack"
	"github.com/plimsoll/plimsoll/bundle"
)

// packed is a chart of one template.
func packed(t *testing.T, name, version string) *chartpack.Chart {
	t.Helper()
	dir := t.TempDir()
	for file, text := range map[string]string{
		"Chart.yaml":        "apiVersion: v2\nname: " + name + "\nversion: " + version + "\n",
		"templates/pod.yml": "kind: Pod # " + version + "\n",
	} {
		path := filepath.Join(dir, file)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	c, err := chartpack.Pack(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func sum(data []byte) string {
	s := sha256.Sum256(data)
	return hex.EncodeToString(s[:])
}

// files is a web server's folder.
type files map[string][]byte

// publish adds charts and an index as `helm repo index` writes it.
func (f files) publish(t *testing.T, dir string, charts ...*chartpack.Chart) {
	t.Helper()
	index := "apiVersion: v1\nentries:\n"
	last := ""
	for _, c := range charts {
		if c.Name != last {
			index += "  " + c.Name + ":\n"
			last = c.Name
		}
		file := c.Name + "-" + c.Version + ".tgz"
		f[dir+file] = c.Archive
		index += "  - apiVersion: v2\n    created: \"2024-05-04T03:02:01.000000001Z\"\n    description: |\n      Of many\n\n      lines: yes\n" +
			"    digest: " + sum(c.Archive) + "\n    name: " + c.Name + "\n    urls:\n    - " + file + "\n    version: " + c.Version + "\n"
	}
	f[dir+"index.yaml"] = []byte(index + "generated: \"2024-05-04T03:02:01.000000001Z\"\n")
}

func (f files) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	data, ok := f[r.URL.Path]
	if !ok {
		http.NotFound(w, r)
		return
	}
	http.ServeContent(w, r, filepath.Base(r.URL.Path), time.Time{}, bytes.NewReader(data))
}

func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

// client has no credentials of the machine's, and no patience.
func client() *Client {
	return &Client{Keychain: keychain{}, Pause: time.Millisecond}
}

type keychain map[string][2]string

func (k keychain) Resolve(r authn.Resource) (authn.Authenticator, error) {
	if pair, ok := k[r.RegistryStr()]; ok {
		return &authn.Basic{Username: pair[0], Password: pair[1]}, nil
	}
	return authn.Anonymous, nil
}

func TestFetchesAsPackDoes(t *testing.T) {
	f, want := files{}, packed(t, "nginx", "15.1.0+build.2")
	f.publish(t, "/stable/charts/", packed(t, "nginx", "15.0.2"), want, packed(t, "other", "1.0.0"))
	f["/stable/charts/nginx-15.1.0+build.2.tgz.prov"] = []byte("-----BEGIN PGP SIGNED MESSAGE-----\r\nsigned\n\n")
	base := serve(t, f)
	for _, address := range []string{base + "/stable/charts", base + "/stable/charts/"} {
		c := client()
		e, err := c.Find(t.Context(), address, "nginx", "15.x")
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.Fetch(t.Context(), e)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Archive, want.Archive) || string(got.Provenance) != string(f["/stable/charts/nginx-15.1.0+build.2.tgz.prov"]) ||
			got.Digest != e.Digest || got.Version != want.Version || got.URL != base+"/stable/charts/nginx-15.1.0+build.2.tgz" {
			t.Errorf("fetched %s %s of %s", got.Version, got.Digest, got.URL)
		}
		fetched, err := got.Chart(e)
		if err != nil {
			t.Fatal(err)
		}
		// The artifact is the one of the same .tgz and .prov on disk.
		path := filepath.Join(t.TempDir(), "nginx.tgz")
		if err := errors.Join(os.WriteFile(path, got.Archive, 0o600), os.WriteFile(path+".prov", got.Provenance, 0o600)); err != nil {
			t.Fatal(err)
		}
		local, err := chartpack.Pack(t.Context(), path)
		if err != nil || !reflect.DeepEqual(local, fetched) {
			t.Errorf("fetched and packed differ: %v", err)
		}
	}
}

func TestURLsOfEntries(t *testing.T) {
	for _, tc := range []struct{ repository, url, want string }{
		{"https://h/charts", "x.tgz", "https://h/charts/x.tgz"},
		{"https://h/charts/", "sub/x.tgz", "https://h/charts/sub/x.tgz"},
		{"https://h/charts", "/x.tgz", "https://h/x.tgz"},
		{"https://h/charts", "../x.tgz", "https://h/x.tgz"},
		{"https://h/charts?token=s", "x.tgz", "https://h/charts/x.tgz?token=s"},
		{"https://h/charts?token=s", "x.tgz?a=b", "https://h/charts/x.tgz?a=b"},
		{"https://h/charts?token=s", "//other/x.tgz", "https://other/x.tgz"},
		{"https://h/charts?token=s", "https://other/x.tgz", "https://other/x.tgz"},
		{"https://h/charts", "https://other/x%2Fy.tgz#top", "https://other/x%2Fy.tgz"},
		{"https://h/charts", "oci://other/x:1.0.0", "oci://other/x:1.0.0"},
		{"http://h", "http://other/x.tgz", "http://other/x.tgz"},
		{"https://h", "http://other/x.tgz", "without TLS, and the index has no digest"},
		{"https://h", "https://me:pw@other/x.tgz", "credentials in it"},
		{"https://h", "file:///etc/passwd", "is not https://"},
		{"https://h", "ftp://other/x.tgz", "is not https://"},
		{"https://h", ":", "is not a URL"},
	} {
		u, err := url.Parse(tc.repository)
		if err != nil {
			t.Fatal(err)
		}
		v := (&version{text: "1.0.0", urls: []string{tc.url}}).checked()
		e, err := v.entry(u, "x", tc.repository)
		if got := fmt.Sprint(e, err); !strings.Contains(got, tc.want) || err == nil && e.URLs[0] != tc.want {
			t.Errorf("%s in %s: got %v, %v, want %s", tc.url, tc.repository, e, err, tc.want)
		}
		if err != nil || strings.Contains(tc.repository, "?") || strings.Contains(tc.url, "#") {
			continue
		}
		if helm, err := repo.ResolveReferenceURL(tc.repository, tc.url); err != nil || helm != tc.want {
			t.Errorf("%s in %s: Helm makes %s of it, %v", tc.url, tc.repository, helm, err)
		}
	}
}

func TestRepositoriesThatAreRefused(t *testing.T) {
	for address, want := range map[string]string{
		"charts.example.com": "want https://…", "https:///charts": "want https://…", "file:///charts": "want https://…",
		"https://me:secret@h/charts": "the URL has credentials in it", "https://h/#x": "fragment", "%": "not a URL",
	} {
		_, err := client().Find(t.Context(), address, "x", "1.0.0")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", address, err, want)
		}
	}
}

// TestTLSAndPassword: only the repository's own host gets the password, by no detour.
func TestTLSAndPassword(t *testing.T) {
	f, chart := files{}, packed(t, "x", "1.0.0")
	f.publish(t, "/", chart)
	var elsewhere atomic.Int32
	other := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" || r.Header.Get("Referer") != "" || strings.Contains(r.URL.String(), "token") {
			t.Errorf("the other host got %v of %s", r.Header, r.URL)
		}
		elsewhere.Add(1)
		f.ServeHTTP(w, r)
	}))
	defer other.Close()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, ok := r.BasicAuth(); !ok || user != "me" || password != "secret" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if r.URL.Path == "/x-1.0.0.tgz" {
			http.Redirect(w, r, other.URL+r.URL.Path, http.StatusFound)
			return
		}
		f.ServeHTTP(w, r)
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // of the handshake that is refused below
	server.StartTLS()
	defer server.Close()

	c := client()
	c.Transport = server.Client().Transport
	if _, err := c.Chart(t.Context(), server.URL, "x", ""); err == nil || !strings.Contains(err.Error(), "401 Unauthorized") {
		t.Errorf("without a password: %v", err)
	}
	address := strings.TrimPrefix(server.URL, "https://")
	c.Keychain = keychain{address: {"me", "secret"}, strings.TrimPrefix(other.URL, "https://"): {"other", "password"}}
	got, err := c.Chart(t.Context(), server.URL+"?token=s", "x", "")
	if err != nil || !bytes.Equal(got.Archive, chart.Archive) {
		t.Errorf("after a redirect: %v", err)
	}
	// And by a URL in the index.
	f["/index.yaml"] = []byte("entries:\n  x:\n  - version: 1.0.0\n    urls: [" + other.URL + "/x-1.0.0.tgz]\n")
	c.indexes = nil
	if got, err = c.Chart(t.Context(), server.URL, "x", ""); err != nil || !bytes.Equal(got.Archive, chart.Archive) {
		t.Errorf("by a URL: %v", err)
	}
	if elsewhere.Load() != 3 { // after the redirect the .tgz, by its URL the .tgz and the .prov
		t.Errorf("the other host was asked %d times", elsewhere.Load())
	}

	c = client() // does not know the certificate
	if _, err := c.Find(t.Context(), server.URL, "x", ""); err == nil || !strings.Contains(err.Error(), "certificate") || strings.Contains(err.Error(), "attempts") {
		t.Errorf("with an unknown certificate: %v", err)
	}
}

// TestMirror: also the password is that of the mirror.
func TestMirror(t *testing.T) {
	f, chart := files{}, packed(t, "x", "1.0.0")
	f.publish(t, "/cache/charts/", chart)
	address := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, password, _ := r.BasicAuth(); password != "of the mirror" {
			t.Errorf("password %q", password)
		}
		f.ServeHTTP(w, r)
	}))
	c := client()
	c.Mirrors = map[string]string{"charts.example.com": address + "/cache"}
	c.Keychain = keychain{"charts.example.com": {"me", "of the site"}, strings.TrimPrefix(address, "http://"): {"me", "of the mirror"}}
	e, err := c.Find(t.Context(), "https://charts.example.com/charts", "x", "")
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.Fetch(t.Context(), e)
	if err != nil || !bytes.Equal(got.Archive, chart.Archive) || got.URL != "https://charts.example.com/charts/x-1.0.0.tgz" {
		t.Errorf("got %+v, %v", got, err)
	}
}

// TestBadDays: breaks, overload, and a server that comes back.
func TestBadDays(t *testing.T) {
	f, chart := files{}, packed(t, "x", "1.0.0")
	f.publish(t, "/", chart)
	var asked sync.Map
	address := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := asked.LoadOrStore(r.URL.Path, new(atomic.Int32))
		switch n.(*atomic.Int32).Add(1) {
		case 1:
			w.WriteHeader(http.StatusServiceUnavailable)
		case 2: // a link that breaks in the middle
			w.Header().Set("Content-Length", "100000")
			_, _ = w.Write(make([]byte, 50000))
			panic(http.ErrAbortHandler)
		case 3:
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusTooManyRequests)
		default:
			f.ServeHTTP(w, r)
		}
	}))
	got, err := client().Chart(t.Context(), address, "x", "")
	if err != nil || !bytes.Equal(got.Archive, chart.Archive) {
		t.Errorf("got %v", err)
	}

	var requests atomic.Int32
	address = serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		requests.Add(1)
		w.WriteHeader(http.StatusBadGateway)
	}))
	_, err = client().Find(t.Context(), address, "x", "")
	var status *StatusError
	if !errors.As(err, &status) || status.Status != 502 || requests.Load() != 4 || !strings.Contains(err.Error(), "(4 attempts)") {
		t.Errorf("after %d requests: %v", requests.Load(), err)
	}
	_, err = client().Find(t.Context(), serve(t, files{}), "x", "")
	if !errors.Is(err, fs.ErrNotExist) || strings.Contains(err.Error(), "attempts") {
		t.Errorf("without an index: %v", err)
	}
}

func TestURLsInOrder(t *testing.T) {
	chart, wrong := packed(t, "x", "1.0.0"), packed(t, "x", "1.0.1")
	f := files{"/right.tgz": chart.Archive, "/wrong.tgz": wrong.Archive}
	var asked []string
	address := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.Path)
		f.ServeHTTP(w, r)
	}))
	index := func(urls string) {
		asked = nil
		f["/index.yaml"] = []byte("entries:\n  x:\n  - version: 1.0.0\n    digest: sha256:" + strings.ToUpper(sum(chart.Archive)) + "\n    urls: [" + urls + "]\n")
	}
	index("none.tgz, right.tgz, wrong.tgz")
	if _, err := client().Chart(t.Context(), address, "x", "1.0.0"); err != nil ||
		!slices.Equal(asked, []string{"/index.yaml", "/none.tgz", "/right.tgz", "/right.tgz.prov"}) {
		t.Errorf("asked for %v: %v", asked, err)
	}
	index("wrong.tgz, right.tgz")
	_, err := client().Chart(t.Context(), address, "x", "1.0.0")
	var damaged *bundle.DamagedError
	if !errors.As(err, &damaged) || damaged.Descriptor.Digest.Encoded() != sum(chart.Archive) || damaged.Digest.Encoded() != sum(wrong.Archive) || slices.Contains(asked, "/right.tgz") {
		t.Errorf("asked for %v: %v", asked, err)
	}
	index("none.tgz, neither.tgz")
	_, err = client().Chart(t.Context(), address, "x", "1.0.0")
	if err == nil || !strings.Contains(err.Error(), "/none.tgz: 404") || !strings.Contains(err.Error(), "/neither.tgz: 404") {
		t.Errorf("got %v", err)
	}
}

// TestAnotherChart: the archive is not what the index says, and the index has no digest to tell.
func TestAnotherChart(t *testing.T) {
	f := files{"/x.tgz": packed(t, "why", "1.0.0").Archive}
	f["/index.yaml"] = []byte("entries:\n  x:\n  - version: 1.0.0\n    urls: [x.tgz]\n")
	_, err := client().Chart(t.Context(), serve(t, f), "x", "1.0.0")
	if err == nil || !strings.Contains(err.Error(), "its Chart.yaml says why 1.0.0") {
		t.Errorf("got %v", err)
	}
}

func TestProvenance(t *testing.T) {
	chart := packed(t, "x", "1.0.0")
	for _, tc := range []struct {
		name, contentType, body string
		status                  int
		want, wantErr           string
	}{
		{"there", "text/plain", "signed", 200, "signed", ""},
		{"there as HTML", "text/html; charset=utf-8", "-----BEGIN PGP SIGNED MESSAGE-----", 200, "-----BEGIN PGP SIGNED MESSAGE-----", ""},
		{"a page", "text/html", "<h1>Not found</h1>", 200, "", ""},
		{"none", "", "", 404, "", ""},
		{"none in an object store", "", "", 403, "", ""},
		{"unknown", "", "", 500, "", "500 Internal Server Error"},
		{"large", "text/plain", strings.Repeat("x", chartpack.MaxProvenance+1), 200, "", "too large"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := files{}
			f.publish(t, "/", chart)
			got, err := client().Chart(t.Context(), serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if !strings.HasSuffix(r.URL.Path, ".prov") {
					f.ServeHTTP(w, r)
					return
				}
				w.Header().Set("Content-Type", tc.contentType)
				w.WriteHeader(tc.status)
				_, _ = w.Write([]byte(tc.body))
			})), "x", "")
			if tc.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tc.wantErr) {
					t.Errorf("got %v, want %s", err, tc.wantErr)
				}
				return
			}
			if err != nil || string(got.Provenance) != tc.want || (got.Provenance == nil) != (tc.want == "") {
				t.Errorf("got %q, %v", got.Provenance, err)
			}
		})
	}
}

func TestIndexIsFetchedOnce(t *testing.T) {
	f := files{}
	f.publish(t, "/", packed(t, "x", "1.0.0"), packed(t, "why", "1.0.0"))
	var asked atomic.Int32
	address := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		f.ServeHTTP(w, r)
	}))
	c := client()
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			if _, err := c.Find(t.Context(), address+strings.Repeat("/", i%2), []string{"x", "why"}[i/4], "1.x"); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if asked.Load() != 1 {
		t.Errorf("asked %d times", asked.Load())
	}
}

func TestRedirects(t *testing.T) {
	f := files{}
	f.publish(t, "/5/", packed(t, "x", "1.0.0"))
	plain := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for i := range 5 {
			if strings.HasPrefix(r.URL.Path, fmt.Sprintf("/%d/", i)) {
				http.Redirect(w, r, fmt.Sprintf("/%d/%s", i+1, r.URL.Path[3:]), http.StatusFound)
				return
			}
		}
		if strings.HasPrefix(r.URL.Path, "/loop/") {
			http.Redirect(w, r, r.URL.Path, http.StatusFound)
			return
		}
		f.ServeHTTP(w, r)
	}))
	if _, err := client().Chart(t.Context(), plain+"/0", "x", ""); err != nil {
		t.Errorf("five redirects: %v", err)
	}
	_, err := client().Find(t.Context(), plain+"/loop", "x", "")
	if err == nil || !strings.Contains(err.Error(), "redirect: more than 5") || strings.Contains(err.Error(), "attempts") {
		t.Errorf("got %v", err)
	}
	secure := httptest.NewTLSServer(http.RedirectHandler(plain+"/5/index.yaml?secret", http.StatusFound))
	defer secure.Close()
	c := client()
	c.Transport = secure.Client().Transport
	_, err = c.Find(t.Context(), secure.URL, "x", "")
	if err == nil || !strings.Contains(err.Error(), "redirect from https to "+plain) || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v", err)
	}
}

// TestEndlessIndex: one that says so, and one that does not.
func TestEndlessIndex(t *testing.T) {
	for _, announced := range []string{"99999999999", ""} {
		address := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if announced != "" {
				w.Header().Set("Content-Length", announced)
			}
			piece := bytes.Repeat([]byte("# and so on\n"), 1<<16)
			for r.Context().Err() == nil {
				if _, err := w.Write(piece); err != nil {
					return
				}
			}
		}))
		_, err := client().Find(t.Context(), address, "x", "")
		if err == nil || !strings.Contains(err.Error(), "too large") || !strings.Contains(err.Error(), "67108864") || strings.Contains(err.Error(), "attempts") {
			t.Errorf("got %v", err)
		}
	}
}

// silent is a server that stops in the middle.
type silent struct{ asked int }

func (s *silent) RoundTrip(req *http.Request) (*http.Response, error) {
	s.asked++
	return &http.Response{StatusCode: http.StatusOK, ContentLength: 100, Body: &silentBody{done: req.Context().Done()}}, nil
}

type silentBody struct {
	read bool
	done <-chan struct{}
}

func (b *silentBody) Read(p []byte) (int, error) {
	if !b.read {
		b.read = true
		return copy(p, "entries:"), nil
	}
	<-b.done
	return 0, errors.New("connection closed")
}

func (b *silentBody) Close() error { return nil }

func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := new(silent)
		_, err := (&Client{Keychain: keychain{}, Transport: server}).Find(t.Context(), "https://h", "x", "")
		if err == nil || !strings.Contains(err.Error(), "GET https://h/index.yaml: no byte for 1m0s (4 attempts)") || server.asked != 4 {
			t.Errorf("got %v after %d requests", err, server.asked)
		}
	})
}
