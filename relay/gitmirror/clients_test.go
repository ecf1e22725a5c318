package gitmirror

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// These tests are the git CLI against the handler over HTTP.

func TestClientsSeeTheRefs(t *testing.T) {
	s, source, site := newSite(t, Options{})
	want := s.git(source, "show-ref", "--dereference")
	want = strings.ReplaceAll(want, " ", "\t")
	for _, version := range []string{"0", "1", "2"} {
		got := s.git(s.home, "-c", "protocol.version="+version, "ls-remote", "--heads", "--tags", site.url())
		if got != want {
			t.Errorf("version %s:\n%s\nwant\n%s", version, got, want)
		}
		head := s.git(s.home, "-c", "protocol.version="+version, "ls-remote", "--symref", site.url(), "HEAD")
		if !strings.HasPrefix(head, "ref: refs/heads/main\tHEAD\n") {
			t.Errorf("version %s: HEAD is %q", version, head)
		}
	}
	for _, path := range []string{
		"/git/" + place, "/git/" + place + ".git", "/" + place, "/" + place + ".git", "/git/GitHub.com/acme/robot-deployment",
	} {
		if got := s.git(s.home, "ls-remote", "--heads", "--tags", site.server.URL+path); got != want {
			t.Errorf("%s: %s", path, got)
		}
	}
	// As through DNS: the client asks for github.com and reaches the mirror.
	host := strings.TrimPrefix(site.server.URL, "http://")
	_, port, _ := strings.Cut(host, ":")
	for _, path := range []string{"/acme/robot-deployment", "/acme/robot-deployment.git"} {
		got := s.git(s.home, "-c", "http.curloptResolve=github.com:"+port+":127.0.0.1", "ls-remote", "--heads", "--tags",
			"http://github.com:"+port+path)
		if got != want {
			t.Errorf("Host github.com, %s: %s", path, got)
		}
	}
}

func TestClientsClone(t *testing.T) {
	s, source, site := newSite(t, Options{})
	dir := t.TempDir()
	objects := func(dir string) string { return s.git(dir, "rev-list", "--objects", "--all", "--no-object-names") }
	for _, version := range []string{"0", "2"} {
		t.Run("v"+version, func(t *testing.T) {
			v := "protocol.version=" + version
			full := filepath.Join(dir, "full"+version)
			s.git(s.home, "-c", v, "clone", "--quiet", "--mirror", site.url(), full)
			s.git(full, "fsck", "--full", "--strict")
			if objects(full) != objects(source) || s.git(full, "show-ref", "-d") != s.git(source, "show-ref", "-d") {
				t.Error("a mirror clone is not what the source is")
			}
			shallow := filepath.Join(dir, "shallow"+version)
			s.git(s.home, "-c", v, "clone", "--quiet", "--depth=1", site.url(), shallow)
			if n := s.git(shallow, "rev-list", "--count", "HEAD"); n != "1" {
				t.Errorf("a shallow clone has %s commits", n)
			}
			s.git(shallow, "-c", v, "fetch", "--quiet", "--unshallow")
			if n := s.git(shallow, "rev-list", "--count", "HEAD"); n != "3" {
				t.Errorf("after unshallow there are %s commits", n)
			}
			// A commit that no ref shows.
			old := s.git(source, "rev-parse", "main~2")
			byID := filepath.Join(dir, "id"+version)
			s.git(s.home, "init", "--quiet", byID)
			s.git(byID, "-c", v, "fetch", "--quiet", "--depth=1", site.url(), old)
			if got := s.git(byID, "rev-parse", "FETCH_HEAD"); got != old {
				t.Errorf("fetched %s, want %s", got, old)
			}
			partial := filepath.Join(dir, "partial"+version)
			s.git(s.home, "-c", v, "clone", "--quiet", "--no-checkout", "--filter=blob:none", site.url(), partial)
			missing := s.git(partial, "rev-list", "--objects", "--all", "--missing=print")
			if !strings.Contains(missing, "\n?") {
				t.Error("a blobless clone has blobs")
			}
			s.git(partial, "-c", v, "checkout", "--quiet", "main") // fetches blobs by id
			tag := s.git(full, "cat-file", "-t", "v1.5.4")
			if tag != "tag" {
				t.Errorf("the annotated tag came as a %s", tag)
			}
		})
	}
}

// TestClientsFollow does what Argo CD does at each refresh.
func TestClientsFollow(t *testing.T) {
	s, source, site := newSite(t, Options{})
	argo := filepath.Join(t.TempDir(), "argo")
	s.git(s.home, "init", "--quiet", argo)
	s.git(argo, "remote", "add", "origin", site.url())
	s.git(argo, "fetch", "origin", "--tags", "--force", "--prune")
	base := s.git(source, "rev-parse", "main")

	next := s.commit(source, "robot-values/robot-001.yaml", "ssid: line-2\n")
	s.git(source, "tag", "-a", "v1.5.5", "-m", "release")
	s.git(source, "branch", "--quiet", "-D", "canary")
	g := s.state(source)
	admit(t, site.m, g, s.layer(source, "main", "v1.5.5", "^"+base))
	site.active.Store(prepare(t, site.m, 2, g))

	s.git(argo, "fetch", "origin", "--tags", "--force", "--prune")
	if got := s.git(argo, "rev-parse", "origin/main"); got != next {
		t.Errorf("main is %s, want %s", got, next)
	}
	if got := s.git(argo, "rev-parse", "v1.5.5^{}"); got != next {
		t.Errorf("the tag leads to %s, want %s", got, next)
	}
	if out, err := s.try(argo, "rev-parse", "--verify", "origin/canary"); err == nil {
		t.Errorf("canary is still there: %s", out)
	}
	s.git(argo, "fetch", "origin", base, "--tags", "--force", "--prune", "--depth=1")
	s.git(argo, "checkout", "--quiet", "--force", next)
	s.git(argo, "clean", "-ffdx")
	if data, err := os.ReadFile(filepath.Join(argo, "robot-values/robot-001.yaml")); string(data) != "ssid: line-2\n" {
		t.Errorf("%q, %v", data, err)
	}
	// A client that saw the old refs gets what it then asks for.
	late := filepath.Join(t.TempDir(), "late")
	s.git(s.home, "init", "--quiet", late)
	s.git(late, "-c", "protocol.version=0", "fetch", "--quiet", "--depth=1", site.url(), base)
}

func TestClientsCannotPush(t *testing.T) {
	s, source, site := newSite(t, Options{})
	s.commit(source, "x", "x")
	before := stored(t, site.m)
	out, err := s.try(source, "push", site.url(), "main")
	if err == nil || !strings.Contains(err.Error(), "read-only") && !strings.Contains(err.Error(), "403") {
		t.Errorf("push: %s, %v", out, err)
	}
	if stored(t, site.m) != before {
		t.Error("a push changed the store")
	}
}

// TestClientsLargeNegotiation sends a request that git compresses and that does not stay in memory.
func TestClientsLargeNegotiation(t *testing.T) {
	s, source, site := newSite(t, Options{})
	clone := filepath.Join(t.TempDir(), "clone")
	s.git(s.home, "clone", "--quiet", site.url(), clone)
	base := s.git(source, "rev-parse", "main")
	// History of the client's own, which it offers as "have" lines.
	cmd := s.command(clone, "fast-import", "--quiet")
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
	next := s.commit(source, "y", "y")
	g := s.state(source)
	admit(t, site.m, g, s.layer(source, "main", "^"+base))
	site.active.Store(prepare(t, site.m, 2, g))
	for _, version := range []string{"0", "2"} {
		s.git(clone, "update-ref", "-d", "refs/remotes/origin/main")
		s.git(clone, "-c", "protocol.version="+version, "-c", "fetch.negotiationAlgorithm=consecutive", "fetch", "--quiet", "origin")
		if got := s.git(clone, "rev-parse", "origin/main"); got != next {
			t.Errorf("version %s: main is %s, want %s", version, got, next)
		}
	}
}
