package gitmirror

import (
	"strings"
	"testing"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/relay/smarthttp"
)

func routes(t testing.TB, paths ...string) *Generation {
	t.Helper()
	var repos []Repository
	for _, p := range paths {
		repos = append(repos, Repository{Path: p, Git: bundle.Git{Head: "refs/heads/main",
			Refs: []bundle.GitRef{{Name: "refs/heads/main", OID: strings.Repeat("a", 40)}}}})
	}
	g, err := NewGeneration(1, repos)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestRoute(t *testing.T) {
	g := routes(t, "github.com/acme/robot", "github.com/git/git", "gitlab.example.com/a/b/c", "git.local:3000/acme/robot", "github.com/Acme/Robot")
	for _, tc := range []struct {
		host, path string
		want       string // path of the repository, empty when there is none
		endpoint   smarthttp.Endpoint
	}{
		{"relay", "/git/github.com/acme/robot/info/refs", "github.com/acme/robot", smarthttp.EndpointRefs},
		{"relay", "/git/github.com/acme/robot.git/info/refs", "github.com/acme/robot", smarthttp.EndpointRefs},
		{"relay:8443", "/github.com/acme/robot.git/git-upload-pack", "github.com/acme/robot", smarthttp.EndpointUploadPack},
		{"relay", "/github.com/acme/robot/git-receive-pack", "github.com/acme/robot", smarthttp.EndpointReceivePack},
		{"github.com", "/acme/robot/info/refs", "github.com/acme/robot", smarthttp.EndpointRefs},
		{"github.com:443", "/acme/robot.git/info/refs", "github.com/acme/robot", smarthttp.EndpointRefs},
		{"GitHub.com.", "/acme/robot.git", "github.com/acme/robot", smarthttp.EndpointNone},
		{"github.com", "/git/git/info/refs", "github.com/git/git", smarthttp.EndpointRefs},
		{"github.com", "/git/github.com/acme/robot/info/refs", "github.com/acme/robot", smarthttp.EndpointRefs},
		{"relay", "/git/GITHUB.com/Acme/Robot/info/refs", "github.com/Acme/Robot", smarthttp.EndpointRefs},
		{"relay", "/git/github.com/ACME/robot/info/refs", "", smarthttp.EndpointRefs},
		{"git.local:3000", "/acme/robot/info/refs", "git.local:3000/acme/robot", smarthttp.EndpointRefs},
		{"relay", "/git/git.local:3000/acme/robot/info/refs", "git.local:3000/acme/robot", smarthttp.EndpointRefs},
		{"git.local", "/acme/robot/info/refs", "", smarthttp.EndpointRefs},
		{"relay", "/gitlab.example.com/a/b/c/info/refs", "gitlab.example.com/a/b/c", smarthttp.EndpointRefs},
		{"relay", "/gitlab.example.com/a/b/info/refs", "", smarthttp.EndpointRefs},
		{"relay", "/acme/robot/info/refs", "", smarthttp.EndpointRefs},
		{"", "/acme/robot/info/refs", "", smarthttp.EndpointRefs},
		{"relay", "/github.com/acme/robot.git/HEAD", "github.com/acme/robot", smarthttp.EndpointFiles},
		{"relay", "/github.com/acme/robot/objects/info/packs", "github.com/acme/robot", smarthttp.EndpointFiles},
		{"relay", "/github.com/acme/robot.git.git/info/refs", "", smarthttp.EndpointRefs},
		{"relay", "/github.com/acme/robot/", "github.com/acme/robot", smarthttp.EndpointNone},
		{"relay", "/github.com/acme/../acme/robot/info/refs", "", smarthttp.EndpointRefs},
		{"relay", "//github.com/acme/robot/info/refs", "", smarthttp.EndpointRefs},
		{"relay", "github.com/acme/robot/info/refs", "", smarthttp.EndpointNone},
		{"relay", "", "", smarthttp.EndpointNone},
		{"relay", "/" + strings.Repeat("x/", 2000), "", smarthttp.EndpointNone},
		{"github.com/acme", "/robot/info/refs", "github.com/acme/robot", smarthttp.EndpointRefs}, // net/http refuses such a host
	} {
		repo, e, ok := g.route(tc.host, tc.path)
		if repo.Path != tc.want || ok != (tc.want != "") || e != tc.endpoint {
			t.Errorf("host %q, path %.80q: %q, %d, want %q, %d", tc.host, tc.path, repo.Path, e, tc.want, tc.endpoint)
		}
		if found, ok := g.Lookup(tc.host, tc.path); ok != (tc.want != "") || found.Path != tc.want {
			t.Errorf("Lookup(%q, %.80q) = %q", tc.host, tc.path, found.Path)
		}
	}
}
