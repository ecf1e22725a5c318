package chartrepo

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"helm.sh/helm/v3/pkg/registry"

	"github.com/plimsoll/plimsoll/builder/origin"
	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/upstream"
)

// start runs a registry and gives Helm's client of it.
func start(t *testing.T) (host string, helm *registry.Client) {
	t.Helper()
	server, err := upstream.Start(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() }) //nolint:errcheck // scratch
	helm, err = registry.NewClient(registry.ClientOptPlainHTTP(), registry.ClientOptWriter(io.Discard),
		registry.ClientOptCredentialsFile(filepath.Join(t.TempDir(), "none.json")))
	if err != nil {
		t.Fatal(err)
	}
	return server.Host(), helm
}

func TestOCI(t *testing.T) {
	host, helm := start(t)
	archives := make(map[string][]byte)
	for _, version := range []string{"1.0.0", "1.2.0+build.7", "1.10.0", "2.0.0-rc.1"} {
		archives[version] = packed(t, "robot", version).Archive
		if _, err := helm.Push(archives[version], host+"/charts/robot:"+version, registry.PushOptProvData([]byte("signed "+version))); err != nil {
			t.Fatal(err)
		}
	}
	for _, through := range []string{"oci://" + host + "/charts", "oci://" + host + "/charts/", "oci://charts.example.com/charts"} {
		c := client()
		c.Registries = &origin.Registries{Mirrors: map[string]string{"charts.example.com": "http://" + host}, Keychain: keychain{}}
		for want, version := range map[string]string{
			"1.0.0": "1.0.0", "1.2.0+build.7": "1.2.0+build.7", "1.x": "1.10.0", "": "1.10.0", "<1.10": "1.2.0+build.7", ">=2.0.0-0": "2.0.0-rc.1", "1.2": "1.2.0+build.7",
		} {
			e, err := c.Find(t.Context(), through, "robot", want)
			if err != nil {
				t.Errorf("%q: %v", want, err)
				continue
			}
			f, err := c.Fetch(t.Context(), e)
			if err != nil {
				t.Errorf("%q: %v", want, err)
				continue
			}
			if f.Version != version || !bytes.Equal(f.Archive, archives[version]) || string(f.Provenance) != "signed "+version {
				t.Errorf("%q: got %s %q", want, f.Version, f.Provenance)
			}
			if _, err := f.Chart(e); err != nil {
				t.Errorf("%q: %v", want, err)
			}
		}
		_, err := c.Find(t.Context(), through, "robot", "3.0.0")
		var notFound *NotFoundError
		if !errors.As(err, &notFound) || !slices.Equal(notFound.Versions, []string{"2.0.0-rc.1", "1.10.0", "1.2.0+build.7", "1.0.0"}) {
			t.Errorf("got %v", err)
		}
		_, err = c.Find(t.Context(), through, "none", "1.x")
		if !errors.As(err, &notFound) || !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("got %v", err)
		}
	}
}

// TestOCIInAnIndex: some classic repositories have only the index left; the charts are in a registry.
func TestOCIInAnIndex(t *testing.T) {
	host, helm := start(t)
	chart := packed(t, "robot", "1.0.0")
	if _, err := helm.Push(chart.Archive, host+"/charts/robot:1.0.0"); err != nil {
		t.Fatal(err)
	}
	f := files{}
	index := "entries:\n  robot:\n  - version: 1.0.0\n    digest: %s\n    urls:\n    - oci://" + host + "/charts/robot:1.0.0\n"
	f["/index.yaml"] = fmt.Appendf(nil, index, sum(chart.Archive))
	address := serve(t, f)
	if got, err := client().Chart(t.Context(), address, "robot", "1.x"); err != nil || !bytes.Equal(got.Archive, chart.Archive) {
		t.Errorf("got %v", err)
	}
	f["/index.yaml"] = fmt.Appendf(nil, index, sum(nil))
	_, err := client().Chart(t.Context(), address, "robot", "1.x")
	var damaged *bundle.DamagedError
	if !errors.As(err, &damaged) {
		t.Errorf("got %v", err)
	}
}

// TestRegistryThatLies: the next URL, which has the right bytes, must not hide it.
func TestRegistryThatLies(t *testing.T) {
	host, helm := start(t)
	chart := packed(t, "robot", "1.0.0")
	if _, err := helm.Push(chart.Archive, host+"/charts/robot:1.0.0"); err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: host})
	liar := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/blobs/sha256:"+sum(chart.Archive)) {
			_, _ = w.Write(bytes.Repeat([]byte{1}, len(chart.Archive)))
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	f := files{"/robot.tgz": chart.Archive}
	f["/index.yaml"] = []byte("entries:\n  robot:\n  - version: 1.0.0\n    urls:\n    - oci://" +
		strings.TrimPrefix(liar, "http://") + "/charts/robot:1.0.0\n    - robot.tgz\n")
	_, err := client().Chart(t.Context(), serve(t, f), "robot", "1.x")
	var damaged *bundle.DamagedError
	if !errors.As(err, &damaged) || damaged.Descriptor.Digest.Encoded() != sum(chart.Archive) {
		t.Errorf("got %v", err)
	}
}

func TestWhatIsNoChart(t *testing.T) {
	host, _ := start(t)
	image, err := random.Image(100, 1)
	if err != nil {
		t.Fatal(err)
	}
	both, err := random.Index(100, 1, 1)
	if err != nil {
		t.Fatal(err)
	}
	tag := func(text string) name.Tag {
		t.Helper()
		parsed, err := name.NewTag(host + "/charts/" + text)
		if err != nil {
			t.Fatal(err)
		}
		return parsed
	}
	if err := errors.Join(remote.Write(tag("image:1.0.0"), image), remote.WriteIndex(tag("index:1.0.0"), both)); err != nil {
		t.Fatal(err)
	}
	for chart, want := range map[string]string{"image": "is no chart: config application/vnd.docker", "index": "is an index, not a chart"} {
		_, err := client().Chart(t.Context(), "oci://"+host+"/charts", chart, "1.0.0")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", chart, err, want)
		}
	}
}

// TestManyTags: in pages, of which the registry gives 100 at once whatever is asked.
func TestManyTags(t *testing.T) {
	host, helm := start(t)
	chart := packed(t, "robot", "1.0.0")
	if _, err := helm.Push(chart.Archive, host+"/charts/robot:1.0.0"); err != nil {
		t.Fatal(err)
	}
	first, err := name.NewTag(host + "/charts/robot:1.0.0")
	if err != nil {
		t.Fatal(err)
	}
	desc, err := remote.Get(first)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 250 {
		if err := remote.Tag(first.Context().Tag(fmt.Sprintf("1.%d.0", i)), desc); err != nil {
			t.Fatal(err)
		}
	}
	pages := 0
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(&url.URL{Scheme: "http", Host: host})
		if strings.HasSuffix(r.In.URL.Path, "/tags/list") {
			pages++
			query := r.In.URL.Query()
			query.Set("n", "100")
			r.Out.URL.RawQuery = query.Encode()
		}
	}}
	e, err := client().Find(t.Context(), "oci://"+strings.TrimPrefix(serve(t, proxy), "http://")+"/charts", "robot", "1.x")
	if err != nil || e.Version != "1.249.0" || pages != 3 {
		t.Errorf("got %+v, %v in %d pages", e, err, pages)
	}
}

// TestEndlessTags: pages without end, the same page again and again, and a page without end.
func TestEndlessTags(t *testing.T) {
	pages := 0
	for name, want := range map[string]string{"pages": "more than 1000 pages", "circle": "go round in a circle", "page": "more than 4194304 bytes"} {
		address := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !strings.HasSuffix(r.URL.Path, "/tags/list") {
				w.WriteHeader(http.StatusOK)
				return
			}
			if name != "page" {
				if name == "pages" {
					pages++
				}
				w.Header().Set("Link", fmt.Sprintf("<%s?last=%d>; rel=\"next\"", r.URL.Path, pages))
				_, _ = io.WriteString(w, `{"name":"charts/robot","tags":["1.0.0"]}`)
				return
			}
			_, _ = io.WriteString(w, `{"name":"charts/robot","tags":["1.0.0"`)
			piece := []byte(strings.Repeat(`,"1.0.0"`, 1<<13))
			for r.Context().Err() == nil {
				if _, err := w.Write(piece); err != nil {
					return
				}
			}
		}))
		_, err := client().Find(t.Context(), "oci://"+strings.TrimPrefix(address, "http://")+"/charts", "robot", "1.x")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
