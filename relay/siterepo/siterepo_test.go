package siterepo

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	gogit "github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/storage/memory"

	"github.com/plimsoll/plimsoll/relay/siterepo/shadow"
)

func TestNames(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"a", "0", "site-overrides", "line.2", "x_y", strings.Repeat("a", MaxName), "github.com"} {
		if err := CheckName(name); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{
		"", "-a", ".a", "_a", "A", "a/b", "a..b", "a.git", "a.lock", "a.", "a b", "ä", "a\n", "a%2fb", "..", strings.Repeat("a", MaxName+1),
	} {
		if err := CheckName(name); err == nil {
			t.Errorf("%q is taken", name)
		}
		if _, err := Open(t.TempDir(), Options{Names: []string{name}}); err == nil {
			t.Errorf("Open takes %q", name)
		}
	}
	if _, err := Open(t.TempDir(), Options{Names: []string{"a", "b", "a"}}); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("a name twice: %v", err)
	}
	for _, pattern := range []string{"", "*", "refs/*", "refs/notes/x", "heads/x", "refs/heads/[", "refs/headsx"} {
		if _, err := Open(t.TempDir(), Options{AllowForce: []string{pattern}}); err == nil {
			t.Errorf("Open takes the pattern %q", pattern)
		}
	}
	if _, err := Open(t.TempDir(), Options{Git: "/nonexistent/git"}); err == nil {
		t.Error("Open without git")
	}
}

func TestServes(t *testing.T) {
	t.Parallel()
	s := newSite(t, Options{
		Names:      []string{"site-overrides", "maps"},
		MirrorHost: func(host string) bool { return host == "github.com" },
	})
	for _, tc := range []struct {
		host, path string
		want       bool
	}{
		{"relay.example", "/site/maps", true},
		{"relay.example", "/site/maps/info/refs", true},
		{"relay.example:8443", "/site/maps.git/git-upload-pack", true},
		{"relay.example", "/site/maps.git/objects/00/00000000000000000000000000000000000000", true},
		{"relay.example", "/git/site/maps/git-receive-pack", true},
		{"github.com", "/git/site/maps/info/refs", true},
		{"github.com", "/site/maps/info/refs", false},
		{"GitHub.com.:443", "/site/maps/info/refs", false},
		{"", "/site/maps", true},
		{"relay.example", "/site/Maps", false},
		{"relay.example", "/Site/maps", false},
		{"relay.example", "/site/other", false},
		{"relay.example", "/site", false},
		{"relay.example", "/site/", false},
		{"relay.example", "/site//maps", false},
		{"relay.example", "/site/./maps", false},
		{"relay.example", "/site/maps/x", false},
		{"relay.example", "/site/maps/../maps", false},
		{"relay.example", "/site/maps.git.git", false},
		{"relay.example", "/maps", false},
		{"relay.example", "site/maps", false},
		{"relay.example", "/git/git/site/maps", false},
		{"relay.example", "/x/site/maps", false},
		{"relay.example", "/site/maps" + strings.Repeat("/", 1000), false},
	} {
		if got := s.Serves(tc.host, tc.path); got != tc.want {
			t.Errorf("%s%s: %v", tc.host, tc.path, got)
		}
	}
}

func TestServeRefusesOtherRequests(t *testing.T) {
	t.Parallel()
	s := newSite(t, Options{})
	for _, tc := range []struct {
		method, path string
		status       int
	}{
		{"GET", "", 404},
		{"GET", "/info/refs", 403},
		{"GET", "/HEAD", 403},
		{"GET", "/objects/info/packs", 403},
		{"GET", "/info/refs?service=git-upload-archive", 403},
		{"POST", "/info/refs?service=git-receive-pack", 405},
		{"GET", "/git-receive-pack", 405},
		{"PUT", "/git-upload-pack", 405},
		{"HEAD", "/info/refs?service=git-receive-pack", 200},
	} {
		resp := request(t, s, tc.method, tc.path, "alice", "", nil)
		if resp.status != tc.status || resp.status != 200 && !strings.HasPrefix(resp.kind, "text/plain") {
			t.Errorf("%s %s: %d %s", tc.method, tc.path, resp.status, resp.kind)
		}
	}
	resp, err := http.Get(s.server.URL + "/site/none/info/refs?service=git-upload-pack")
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil || resp.StatusCode != http.StatusNotFound {
		t.Errorf("%s, %v", resp.Status, err)
	}
	if a := s.Serve(discard{}, &http.Request{URL: resp.Request.URL, Host: "x"}, Identity{}); a.Repository != "" || a.Service != "" {
		t.Errorf("%+v", a)
	}
}

// discard is a client that is gone.
type discard struct{}

func (discard) Header() http.Header         { return http.Header{} }
func (discard) WriteHeader(int)             {}
func (discard) Write(p []byte) (int, error) { return 0, errors.New("gone") }

// TestOpenKeeps: a second Open changes nothing of what is there.
func TestOpenKeeps(t *testing.T) {
	t.Parallel()
	sb := newSandbox(t)
	dir := filepath.Join(t.TempDir(), "site")
	s := openSite(t, dir, Options{})
	clone := sb.clone(s.url(), "alice")
	want := sb.Commit(clone, "a", "1")
	sb.Git(clone, "push", "--quiet", "origin", "main")
	config := sb.Git(s.repo(), "config", "--file", "config", "--list")
	if !strings.Contains(config, "core.bare=true") {
		t.Error(config)
	}
	if left, err := os.ReadDir(filepath.Join(dir, newName)); err != nil || len(left) > 0 {
		t.Errorf("%v, %v", left, err)
	}
	s = openSite(t, dir, Options{Names: []string{"maps", DefaultName}})
	if got := strings.Join(s.Names(), " "); got != "maps site-overrides" {
		t.Error(got)
	}
	if got := sb.Git(sb.Home, "ls-remote", s.url(), "main"); got != want+"\trefs/heads/main" {
		t.Error(got)
	}
	if got := sb.Git(sb.Home, "ls-remote", s.server.URL+"/site/maps"); got != "" {
		t.Error(got)
	}
	// Objects of somebody else's would be lost when he cleans up.
	sb.Write(s.repo(), "objects/info/alternates", "/elsewhere/objects\n")
	var borrowed *AlternatesError
	if _, err := Open(dir, Options{}); !errors.As(err, &borrowed) {
		t.Errorf("alternates: %v", err)
	}
}

// TestGoGit reads and pushes as Argo CD's and Flux's library does: protocol v0.
func TestGoGit(t *testing.T) {
	t.Parallel()
	sb := newSandbox(t)
	s := newSite(t, Options{})
	dir := sb.clone(s.url(), "alice")
	first := sb.Commit(dir, "robot-values/line-2.yaml", "ssid: line-2\n")
	sb.Git(dir, "push", "--quiet", "origin", "main")
	refs, err := gogit.NewRemote(memory.NewStorage(), &config.RemoteConfig{Name: "origin", URLs: []string{s.url()}}).List(&gogit.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, ref := range refs {
		found = found || ref.Name() == plumbing.NewBranchReferenceName("main") && ref.Hash().String() == first
	}
	if !found {
		t.Errorf("%v", refs)
	}
	for _, depth := range []int{0, 1} {
		repo, err := gogit.Clone(memory.NewStorage(), nil, &gogit.CloneOptions{URL: s.url(), Depth: depth})
		if err != nil {
			t.Fatal(err)
		}
		head, err := repo.Head()
		if err != nil || head.Hash().String() != first {
			t.Errorf("depth %d: %v, %v", depth, head, err)
		}
	}
	// A push, which go-git cannot give a header: the right comes from the test's server.
	second := sb.Commit(dir, "robot-values/line-2.yaml", "ssid: line-3\n")
	repo, err := gogit.PlainOpen(dir)
	if err != nil {
		t.Fatal(err)
	}
	err = repo.Push(&gogit.PushOptions{RemoteURL: s.url(), RefSpecs: []config.RefSpec{"refs/heads/main:refs/heads/main"}})
	if err == nil || !strings.Contains(err.Error(), "authorization failed") {
		t.Errorf("push without the right: %v", err)
	}
	open := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.Serve(w, r, Identity{Name: "flux", Write: true})
	})}
	s.server.Config.Handler = open.Handler
	err = repo.Push(&gogit.PushOptions{RemoteURL: s.url(), RefSpecs: []config.RefSpec{"refs/heads/main:refs/heads/main"}})
	if err != nil {
		t.Error(err)
	}
	if got := sb.Git(sb.Home, "ls-remote", s.url(), "main"); got != second+"\trefs/heads/main" {
		t.Error(got)
	}
	err = repo.Push(&gogit.PushOptions{RemoteURL: s.url(), RefSpecs: []config.RefSpec{"refs/heads/main:refs/notes/x"}})
	if err == nil || !strings.Contains(err.Error(), "only branches and tags are kept here") {
		t.Errorf("another ref: %v", err)
	}
	s.sound(sb)
}

func TestTree(t *testing.T) {
	t.Parallel()
	sb := newSandbox(t)
	s := newSite(t, Options{})
	ctx := context.Background()
	if _, err := s.Tree(ctx, DefaultName, ""); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before the first push: %v", err)
	}
	var none *NoRepositoryError
	if _, err := s.Tree(ctx, "none", ""); !errors.As(err, &none) {
		t.Errorf("another repository: %v", err)
	}
	if _, err := s.Log(ctx, "none"); !errors.As(err, &none) {
		t.Errorf("another repository: %v", err)
	}
	dir := sb.clone(s.url(), "alice")
	sb.Commit(dir, "robot-app/values.yaml", "camera:\n  offset: 4\n")
	sb.Git(dir, "push", "--quiet", "origin", "main")
	tree, err := s.Tree(ctx, DefaultName, "")
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	report, err := shadow.Find(ctx, tree, []shadow.Base{{
		Name: "chart robot-app", Chart: "robot-app",
		Before: shadow.Files{"values.yaml": []byte("camera: {offset: 1}\n")},
		After:  shadow.Files{"values.yaml": []byte("camera: {offset: 2}\n")},
	}})
	if err != nil || len(report.Shadows) != 1 || report.Shadows[0].Key != "camera.offset" || report.Shadows[0].Line != 2 {
		t.Errorf("%+v, %v", report, err)
	}
}

// FuzzServes: whatever a client sends as host and path, it reaches a repository only by that repository's own name.
func FuzzServes(f *testing.F) {
	s := &Set{
		opts:         Options{MirrorHost: func(host string) bool { return host == "github.com" }},
		repositories: map[string]*repository{"site-overrides": {name: "site-overrides"}, "maps": {name: "maps"}},
	}
	f.Fuzz(func(t *testing.T, host, path string) {
		r, _ := s.route(host, path)
		if r == nil {
			return
		}
		rest, ok := strings.CutPrefix(strings.TrimPrefix(path, "/git"), "/site/"+r.name)
		if !ok || rest != "" && rest[0] != '/' && rest[0] != '.' || strings.Contains(path, "..") || strings.Contains(path, "\x00") {
			t.Errorf("host %q, path %q lead to %s", host, path, r.name)
		}
		if strings.EqualFold(host, "github.com") && !strings.HasPrefix(path, "/git/") {
			t.Errorf("host %q, path %q lead to %s", host, path, r.name)
		}
	})
}
