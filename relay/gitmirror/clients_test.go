package gitmirror

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	gogit "github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/storage/memory"
)

// These tests are git and go-git against the handler over HTTP. Their numbers are those of the points of the notes on what
// real clients do.

// TestClients13URLForms: every form of a URL is answered directly, in every version.
func TestClients13URLForms(t *testing.T) {
	t.Parallel()
	s, source, site := newSite(t, Options{})
	want := s.Git(source, "show-ref", "--dereference")
	want = strings.ReplaceAll(want, " ", "\t")
	for _, version := range []string{"0", "1", "2"} {
		got := s.Git(s.Home, "-c", "protocol.version="+version, "ls-remote", "--heads", "--tags", site.url())
		if got != want {
			t.Errorf("version %s:\n%s\nwant\n%s", version, got, want)
		}
		head := s.Git(s.Home, "-c", "protocol.version="+version, "ls-remote", "--symref", site.url(), "HEAD")
		if !strings.HasPrefix(head, "ref: refs/heads/main\tHEAD\n") {
			t.Errorf("version %s: HEAD is %q", version, head)
		}
	}
	for _, path := range []string{
		"/git/" + place, "/git/" + place + ".git", "/" + place, "/" + place + ".git", "/git/GitHub.com/acme/robot-deployment",
	} {
		if got := s.Git(s.Home, "ls-remote", "--heads", "--tags", site.server.URL+path); got != want {
			t.Errorf("%s: %s", path, got)
		}
	}
	// As through DNS: the client asks for github.com and reaches the mirror.
	host := strings.TrimPrefix(site.server.URL, "http://")
	_, port, _ := strings.Cut(host, ":")
	for _, path := range []string{"/acme/robot-deployment", "/acme/robot-deployment.git"} {
		got := s.Git(s.Home, "-c", "http.curloptResolve=github.com:"+port+":127.0.0.1", "ls-remote", "--heads", "--tags",
			"http://github.com:"+port+path)
		if got != want {
			t.Errorf("Host github.com, %s: %s", path, got)
		}
	}
}

// goGitList lists refs as Argo CD does: with go-git, which speaks version 0, and takes a redirect for an error.
func goGitList(t *testing.T, url string) map[string]string {
	t.Helper()
	remote := gogit.NewRemote(memory.NewStorage(), &config.RemoteConfig{Name: "origin", URLs: []string{url}})
	refs, err := remote.ListContext(t.Context(), &gogit.ListOptions{PeelingOption: gogit.AppendPeeled})
	if err != nil {
		t.Fatalf("%s: %v", url, err)
	}
	list := make(map[string]string, len(refs))
	for _, ref := range refs {
		list[ref.Name().String()] = ref.Hash().String()
		if ref.Type() == plumbing.SymbolicReference {
			list[ref.Name().String()] = ref.Target().String()
		}
	}
	return list
}

// TestClients13GoGitLists: in all forms of a URL, and what is listed is what the source has.
func TestClients13GoGitLists(t *testing.T) {
	t.Parallel()
	s, source, site := newSite(t, Options{})
	want := map[string]string{"HEAD": "refs/heads/main"}
	for line := range strings.Lines(s.Git(source, "show-ref", "--dereference")) {
		oid, name, _ := strings.Cut(strings.TrimSpace(line), " ")
		want[name] = oid
	}
	for _, path := range []string{"/git/" + place, "/git/" + place + ".git", "/" + place, "/" + place + ".git"} {
		for range 2 { // the second from what is kept
			if got := goGitList(t, site.server.URL+path); !maps.Equal(got, want) {
				t.Errorf("%s: %v, want %v", path, got, want)
			}
		}
	}
}

// TestClients14Flux clones with go-git, of one commit and whole.
func TestClients14Flux(t *testing.T) {
	t.Parallel()
	s, source, site := newSite(t, Options{})
	head := s.Git(source, "rev-parse", "main")
	for depth, commits := range map[int]int{1: 1, 0: 3} {
		repo, err := gogit.CloneContext(t.Context(), memory.NewStorage(), nil, &gogit.CloneOptions{
			URL: site.url(), Depth: depth, SingleBranch: depth > 0, ReferenceName: plumbing.NewBranchReferenceName("main"),
			Tags: gogit.NoTags,
		})
		if err != nil {
			t.Fatalf("depth %d: %v", depth, err)
		}
		log, err := repo.Log(&gogit.LogOptions{})
		if err != nil {
			t.Fatal(err)
		}
		seen := 0
		for {
			c, err := log.Next()
			if err != nil { // io.EOF, or the end of what a shallow clone has
				break
			}
			if seen == 0 && c.Hash.String() != head {
				t.Errorf("depth %d: main is %s, want %s", depth, c.Hash, head)
			}
			seen++
			file, err := c.File("charts/robot-app/Chart.yaml")
			if err != nil {
				t.Errorf("depth %d: %s: %v", depth, c.Hash, err)
			} else if text, err := file.Contents(); err != nil || !strings.HasPrefix(text, "name: robot-app\n") {
				t.Errorf("depth %d: %q, %v", depth, text, err)
			}
		}
		if seen != commits {
			t.Errorf("depth %d: %d commits, want %d", depth, seen, commits)
		}
	}
}

// TestClients15AnyObject: what refs lead to is handed out by its id in every version, shallow and with a filter.
func TestClients15AnyObject(t *testing.T) {
	t.Parallel()
	s, source, site := newSite(t, Options{})
	for _, version := range []string{"0", "1", "2"} {
		t.Run("v"+version, func(t *testing.T) {
			v, dir := "protocol.version="+version, t.TempDir()
			shallow := filepath.Join(dir, "shallow")
			s.Git(s.Home, "-c", v, "clone", "--quiet", "--depth=1", site.url(), shallow)
			if n := s.Git(shallow, "rev-list", "--count", "HEAD"); n != "1" {
				t.Errorf("a shallow clone has %s commits", n)
			}
			s.Git(shallow, "-c", v, "fetch", "--quiet", "--unshallow")
			if n := s.Git(shallow, "rev-list", "--count", "HEAD"); n != "3" {
				t.Errorf("after unshallow there are %s commits", n)
			}
			byID := filepath.Join(dir, "id")
			s.Git(s.Home, "init", "--quiet", byID)
			for _, rev := range []string{"main~2", "v1.5.4", "main~2:charts/robot-app/Chart.yaml"} { // no ref shows the first and the last
				id := s.Git(source, "rev-parse", rev)
				s.Git(byID, "-c", v, "fetch", "--quiet", "--depth=1", site.url(), id)
				if got := s.Git(byID, "rev-parse", "FETCH_HEAD"); got != id {
					t.Errorf("%s: fetched %s, want %s", rev, got, id)
				}
			}
			partial := filepath.Join(dir, "partial")
			s.Git(s.Home, "-c", v, "clone", "--quiet", "--no-checkout", "--filter=blob:none", site.url(), partial)
			missing := s.Git(partial, "rev-list", "--objects", "--all", "--missing=print")
			if !strings.Contains(missing, "\n?") {
				t.Error("a blobless clone has blobs")
			}
			s.Git(partial, "-c", v, "checkout", "--quiet", "main") // fetches blobs by id
		})
	}
}

// TestClients19ByteExact: a mirror clone is the source, signed commits and tags included, and its signatures hold.
func TestClients19ByteExact(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	source := s.source()
	key := filepath.Join(s.Home, "key")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "robot", "-f", key).CombinedOutput(); err != nil {
		t.Skipf("no ssh-keygen to sign with: %v: %s", err, out)
	}
	public, err := os.ReadFile(key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	s.Write(s.Home, "signers", "robot@example.com "+string(public))
	for _, kv := range [][2]string{{"gpg.format", "ssh"}, {"user.signingKey", key}, {"gpg.ssh.allowedSignersFile", filepath.Join(s.Home, "signers")}} {
		s.Git(s.Home, "config", "--global", kv[0], kv[1])
	}
	s.Write(source, "signed", "signed")
	s.Git(source, "add", "--all")
	s.Git(source, "commit", "--quiet", "-S", "-m", "signed")
	s.Git(source, "tag", "-s", "v1.5.5", "-m", "a signed release")
	g := s.state(source)
	m := open(t, t.TempDir(), Options{})
	admit(t, m, g, s.layer(source))
	site := serve(t, m, prepare(t, m, 1, g))

	objects := func(dir string) string {
		all := s.Git(dir, "rev-list", "--objects", "--all", "--no-object-names")
		return s.pipe(dir, all+"\n", "cat-file", "--batch") // with their content
	}
	for _, version := range []string{"0", "1", "2"} {
		clone := filepath.Join(t.TempDir(), "clone")
		s.Git(s.Home, "-c", "protocol.version="+version, "clone", "--quiet", "--mirror", site.url(), clone)
		s.Git(clone, "fsck", "--full", "--strict")
		if objects(clone) != objects(source) || s.Git(clone, "show-ref", "--dereference") != s.Git(source, "show-ref", "--dereference") {
			t.Errorf("version %s: a mirror clone is not what the source is", version)
		}
		s.Git(clone, "verify-tag", "v1.5.5")
		s.Git(clone, "verify-commit", "main")
		if kind := s.Git(clone, "cat-file", "-t", "v1.5.4"); kind != "tag" {
			t.Errorf("version %s: the annotated tag came as a %s", version, kind)
		}
	}
}

// TestClients13ArgoCD does what Argo CD does at each refresh: it lists refs with go-git, and then runs git.
func TestClients13ArgoCD(t *testing.T) {
	t.Parallel()
	s, source, site := newSite(t, Options{})
	argo := filepath.Join(t.TempDir(), "argo")
	s.Git(s.Home, "init", "--quiet", argo)
	s.Git(argo, "remote", "add", "origin", site.url())
	s.Git(argo, "fetch", "origin", "--tags", "--force", "--prune")
	base := s.Git(source, "rev-parse", "main")

	next := s.Commit(source, "robot-values/robot-001.yaml", "ssid: line-2\n")
	s.Git(source, "tag", "-a", "v1.5.5", "-m", "release")
	s.Git(source, "branch", "--quiet", "-D", "canary")
	g := s.state(source)
	admit(t, site.m, g, s.layer(source, "main", "v1.5.5", "^"+base))
	site.active.Store(prepare(t, site.m, 2, g))

	if got := goGitList(t, site.url())["refs/heads/main"]; got != next {
		t.Errorf("go-git lists main at %s, want %s", got, next)
	}
	s.Git(argo, "fetch", "origin", "--tags", "--force", "--prune")
	if got := s.Git(argo, "rev-parse", "origin/main"); got != next {
		t.Errorf("main is %s, want %s", got, next)
	}
	if got := s.Git(argo, "rev-parse", "v1.5.5^{}"); got != next {
		t.Errorf("the tag leads to %s, want %s", got, next)
	}
	if out, err := s.Try(argo, "rev-parse", "--verify", "origin/canary"); err == nil {
		t.Errorf("canary is still there: %s", out)
	}
	s.Git(argo, "fetch", "origin", base, "--tags", "--force", "--prune", "--depth=1")
	s.Git(argo, "checkout", "--quiet", "--force", next)
	s.Git(argo, "clean", "-ffdx")
	if data, err := os.ReadFile(filepath.Join(argo, "robot-values/robot-001.yaml")); string(data) != "ssid: line-2\n" {
		t.Errorf("%q, %v", data, err)
	}
	// A client that saw the old refs gets what it then asks for.
	late := filepath.Join(t.TempDir(), "late")
	s.Git(s.Home, "init", "--quiet", late)
	s.Git(late, "-c", "protocol.version=0", "fetch", "--quiet", "--depth=1", site.url(), base)
}

// TestClients16ManyAtOnce: a hundred pollers as Argo CD's and ten clones at once, and nobody is sent away.
func TestClients16ManyAtOnce(t *testing.T) {
	t.Parallel()
	s, source, site := newSite(t, Options{})
	head := s.Git(source, "rev-parse", "main")
	dir := t.TempDir()
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			for range 3 {
				if i%2 == 0 {
					if _, text := site.do(t, "GET", "/git/"+place+"/info/refs?service=git-upload-pack", nil, nil); !strings.Contains(text, head+" HEAD\x00") {
						t.Errorf("refs: %.200q", text)
					}
				} else if a := site.post(t, place, lsRefsAll); !strings.Contains(a.body, head+" HEAD symref-target:refs/heads/main\n") {
					t.Errorf("refs: %v", a)
				}
			}
		})
	}
	for i := range 10 {
		wg.Go(func() {
			clone := filepath.Join(dir, fmt.Sprint(i))
			args := []string{"-c", "protocol.version=" + strconv.Itoa(i%3), "clone", "--quiet", "--bare", site.url(), clone}
			if i%2 == 0 {
				args = append(args, "--depth=1")
			}
			if _, err := s.Try(dir, args...); err != nil {
				t.Error(err)
			} else if got, err := s.Try(clone, "rev-parse", "main"); got != head || err != nil {
				t.Errorf("cloned %s, %v", got, err)
			}
		})
	}
	wg.Wait()
}

// TestClients16CannotPush: nothing that is pushed gets in.
func TestClients16CannotPush(t *testing.T) {
	t.Parallel()
	s, source, site := newSite(t, Options{})
	s.Commit(source, "x", "x")
	before := stored(t, site.m)
	out, err := s.Try(source, "push", site.url(), "main")
	if err == nil || !strings.Contains(err.Error(), "read-only") && !strings.Contains(err.Error(), "403") {
		t.Errorf("push: %s, %v", out, err)
	}
	if stored(t, site.m) != before {
		t.Error("a push changed the store")
	}
}

// TestClients16LargeNegotiation sends a request that git compresses and that does not stay in memory.
func TestClients16LargeNegotiation(t *testing.T) {
	t.Parallel()
	s, source, site := newSite(t, Options{})
	clone := filepath.Join(t.TempDir(), "clone")
	s.Git(s.Home, "clone", "--quiet", site.url(), clone)
	base := s.Git(source, "rev-parse", "main")
	// History of the client's own, which it offers as "have" lines.
	cmd := s.Command(clone, "fast-import", "--quiet")
	var stream strings.Builder
	for i := range 6000 {
		stream.WriteString("commit refs/heads/own\ncommitter R <r@example.com> 17000" + string(rune('0'+i%10)) + "0000 +0000\ndata 1\nx\n")
		if i == 0 {
			stream.WriteString("from " + base + "\n")
		}
		stream.WriteString("\n")
	}
	cmd.Stdin = strings.NewReader(stream.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	next := s.Commit(source, "y", "y")
	g := s.state(source)
	admit(t, site.m, g, s.layer(source, "main", "^"+base))
	site.active.Store(prepare(t, site.m, 2, g))
	for _, version := range []string{"0", "2"} {
		s.Git(clone, "update-ref", "-d", "refs/remotes/origin/main")
		s.Git(clone, "-c", "protocol.version="+version, "-c", "fetch.negotiationAlgorithm=consecutive", "fetch", "--quiet", "origin")
		if got := s.Git(clone, "rev-parse", "origin/main"); got != next {
			t.Errorf("version %s: main is %s, want %s", version, got, next)
		}
	}
}
