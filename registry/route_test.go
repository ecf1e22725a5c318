package registry

import (
	"strings"
	"testing"
)

// known are upstreams for a view that has these hosts, and one further name.
func known(hosts ...string) upstreams {
	v := &View{hosts: make(map[string][]string)}
	for _, host := range hosts {
		v.hosts[host] = []string{host}
	}
	return upstreams{v, map[string]string{"images.plant7.example": "ghcr.io", "docker.io": "ghcr.io"}}
}

func TestResolveName(t *testing.T) {
	u := known("ghcr.io", "docker.io", "localhost:5000", "127.0.0.1")
	for _, c := range []struct{ name, ns, host, want string }{
		{"acme/app", "", "", "acme/app"},
		{"app", "", "", "app"},
		{"acme/app", "", "relay.lan", "acme/app"},
		{"ghcr.io/acme/app", "", "relay.lan:5000", "ghcr.io/acme/app"},
		{"acme/app", "ghcr.io", "relay.lan", "ghcr.io/acme/app"},
		{"acme/app", "GHCR.IO", "relay.lan", "ghcr.io/acme/app"},
		{"ghcr.io/acme/app", "ghcr.io", "relay.lan", "ghcr.io/acme/app"},
		{"library/nginx", "docker.io", "", "docker.io/library/nginx"},
		{"nginx", "docker.io", "", "docker.io/library/nginx"},
		{"docker.io/nginx", "docker.io", "", "docker.io/library/nginx"},
		{"docker.io/acme/app", "registry-1.docker.io", "", "docker.io/acme/app"},
		{"index.docker.io/acme/app", "docker.io", "", "docker.io/acme/app"},
		{"docker.io/nginx", "", "", "docker.io/library/nginx"},
		{"registry-1.docker.io/library/nginx", "", "", "docker.io/library/nginx"},
		{"acme/app", "unknown.example", "ghcr.io", "unknown.example/acme/app"}, // ns wins, and nothing is served
		{"quay.io/acme/app", "ghcr.io", "", "ghcr.io/quay.io/acme/app"},
		{"acme/app", "localhost:5000", "", "localhost:5000/acme/app"},
		{"localhost:5000/acme/app", "localhost:5000", "", "localhost:5000/acme/app"},
		{"acme/app", "", "ghcr.io", "ghcr.io/acme/app"},
		{"acme/app", "", "ghcr.io:8443", "ghcr.io/acme/app"},
		{"ghcr.io/acme/app", "", "ghcr.io", "ghcr.io/acme/app"},
		{"nginx", "", "index.docker.io", "docker.io/library/nginx"},
		{"acme/app", "", "localhost:5000", "localhost:5000/acme/app"},
		{"acme/app", "", "localhost:6000", "acme/app"},
		{"acme/app", "", "127.0.0.1:5000", "127.0.0.1/acme/app"},
		{"ghcr.io/acme/app", "", "127.0.0.1:5000", "ghcr.io/acme/app"}, // a path that names an upstream wins
		{"acme/app", "", "[::1]:5000", "acme/app"},
		{"ghcr.io", "", "ghcr.io", "ghcr.io/ghcr.io"},
		{"ghcr.io", "", "", "ghcr.io"},
		{"acme/app", "images.plant7.example", "", "ghcr.io/acme/app"},
		{"acme/app", "", "images.plant7.example:8443", "ghcr.io/acme/app"},
		{"images.plant7.example/acme/app", "", "", "ghcr.io/acme/app"},
		{"images.plant7.example/acme/app", "ghcr.io", "", "ghcr.io/acme/app"},
		{"ghcr.io/acme/app", "images.plant7.example", "", "ghcr.io/acme/app"},
		{"nginx", "docker.io", "", "docker.io/library/nginx"}, // the further name of an upstream that is there is not used
		{"acme/app", "", "ghcr.io.", "ghcr.io/acme/app"},
		{"acme/app", "ghcr.io.", "", "ghcr.io/acme/app"},
		{"acme/app", ".", "", ""},
		{"./app", "", "", ""},

		{"", "", "", ""},
		{"../etc", "", "", ""},
		{"acme/../app", "ghcr.io", "", ""},
		{"../acme/app", "", "", ""},
		{"Acme/App", "", "", ""},
		{"acme/app/", "", "", ""},
		{"/acme/app", "", "", ""},
		{"acme//app", "", "", ""},
		{"acme/app", "..", "", ""},
		{"acme/app", "a..b", "", ""},
		{"acme/app", "ghcr.io/x", "", ""},
		{"acme/app", "https://ghcr.io", "", ""},
		{"acme/app", "-x", "", ""},
		{"a", strings.Repeat("a.", 130) + "io", "", ""},
		{strings.Repeat("a/", 125) + "a", "ghcr.io", "", ""},
	} {
		got, err := u.resolve(c.name, c.ns, c.host)
		if c.want == "" && err == nil || c.want != "" && (got != c.want || err != nil) {
			t.Errorf("resolve(%q, ns %q, host %q) = %q, %v; want %q", c.name, c.ns, c.host, got, err, c.want)
		}
	}
}

func FuzzResolveName(f *testing.F) {
	u := known("ghcr.io", "docker.io", "localhost:5000", "127.0.0.1")
	f.Add("nginx", "registry-1.docker.io", "relay.lan:443")
	f.Fuzz(func(t *testing.T, name, ns, host string) {
		full, err := u.resolve(name, ns, host)
		if err != nil {
			return
		}
		if strings.Contains(full, "..") || strings.HasPrefix(full, "/") || strings.ContainsAny(full, "\\\x00 ?#%") {
			t.Fatalf("resolve(%q, %q, %q) = %q", name, ns, host, full)
		}
		again, err := u.resolve(full, ns, host)
		if err != nil || again != full {
			t.Fatalf("resolve(%q, %q, %q) = %q, and of that %q, %v", name, ns, host, full, again, err)
		}
		if ns != "" && !strings.HasPrefix(full, u.canonical(ns)+"/") {
			t.Fatalf("ns %q led to %q", ns, full)
		}
	})
}

func TestParsePath(t *testing.T) {
	for _, c := range []struct {
		path string
		want route
		ok   bool
	}{
		{"/v2", route{kind: KindPing}, true},
		{"/v2/", route{kind: KindPing}, true},
		{"/v2/_catalog", route{kind: KindCatalog}, true},
		{"/v2/a/manifests/v1", route{KindManifest, "a", "v1"}, true},
		{"/v2/a/b/blobs/sha256:1", route{KindBlob, "a/b", "sha256:1"}, true},
		{"/v2/a/tags/list", route{KindTags, "a", "list"}, true},
		{"/v2/a/referrers/sha256:1", route{KindReferrers, "a", "sha256:1"}, true},
		{"/v2/a/blobs/uploads", route{kindUpload, "a", "uploads"}, true},
		{"/v2/a/blobs/uploads/", route{kindUpload, "a/blobs", ""}, true},
		{"/v2/a/blobs/uploads/1", route{kindUpload, "a/blobs", "1"}, true},
		{"/v2/acme/blobs/manifests/v1", route{KindManifest, "acme/blobs", "v1"}, true},
		{"/v2/acme/tags/list/tags/list", route{KindTags, "acme/tags/list", "list"}, true},
		{"/v2/blobs/uploads/manifests/v1", route{KindManifest, "blobs/uploads", "v1"}, true},
		{"/v2/a/manifests/", route{KindManifest, "a", ""}, true},
		{"/v2/manifests/v1", route{}, false},
		{"/v2/a", route{}, false},
		{"/v2/a/b/c", route{}, false},
		{"/v2/a/tags/lists", route{}, false},
		{"/v2x", route{}, false},
		{"/", route{}, false},
		{"", route{}, false},
	} {
		got, ok := parsePath(c.path)
		if ok != c.ok || ok && got != c.want {
			t.Errorf("parsePath(%q) = %+v, %v; want %+v, %v", c.path, got, ok, c.want, c.ok)
		}
	}
}

func FuzzParsePath(f *testing.F) {
	f.Add("/v2/acme/app/manifests/latest")
	f.Fuzz(func(t *testing.T, p string) {
		rt, ok := parsePath(p)
		if !ok || rt.name == "" {
			return
		}
		if !strings.HasPrefix(p, "/v2/"+rt.name+"/") || !strings.HasSuffix(p, "/"+rt.reference) {
			t.Fatalf("parsePath(%q) = %+v", p, rt)
		}
	})
}
