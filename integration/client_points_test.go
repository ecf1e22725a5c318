package integration

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing/transport/client"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"
	"golang.org/x/sync/errgroup"

	"github.com/plimsoll/plimsoll/internal/clients"
)

// CLIENTS 6: with one blob at a time for all, twenty robots that pull at once all get their image, and none is turned
// away.
func TestClients06CrowdWaits(t *testing.T) {
	s := newSite(t)
	s.must("import", s.bundle("v1.5.4"))
	s.start("--max-blobs", "1", "--max-connections-client", "4")
	var g errgroup.Group
	for range 20 {
		g.Go(func() error {
			c, err := clients.New(s.relay.Addr, s.relay.CAFile)
			if err != nil {
				return err
			}
			_, _, err = c.As(robot, s.password).PullImage(t.Context(), app+":v1.5.4", linux("amd64"))
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}

// CLIENTS 2 and 21: robots that are led to the relay by DNS keep every public URL: git and go-git ask github.com, OCI
// clients ask ghcr.io. DNS is played by curl's and the dialer's own tables.
func TestClients21PublicNames(t *testing.T) {
	address := publicAddress(t)
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	s := newSite(t)
	s.must("import", s.bundle("v1.5.4"))
	s.start("--listen", address) // no --name: what the release is served for is in the certificate
	url := "https://" + robot + ":" + s.password + "@github.com/acme/robot-deployment"
	for _, u := range []string{url, url + ".git"} {
		out, err := s.relay.Git(t.Context(), t.TempDir(), "-c", "http.curloptResolve=github.com:443:"+host, "ls-remote", "-q", u, "main")
		if err != nil || !strings.Contains(out, "refs/heads/main") {
			t.Errorf("git: %q %v", out, err)
		}
	}
	led := s.ledTo(address)
	client.InstallProtocol("https", githttp.NewClient(&http.Client{Transport: led}))
	t.Cleanup(func() { client.InstallProtocol("https", githttp.DefaultClient) })
	cloned, err := git.PlainClone(t.TempDir(), true, &git.CloneOptions{
		URL: "https://github.com/acme/robot-deployment", Auth: &githttp.BasicAuth{Username: robot, Password: s.password}, Depth: 1,
	})
	if err != nil {
		t.Fatalf("go-git: %v", err)
	}
	if _, err := cloned.Head(); err != nil {
		t.Errorf("go-git: %v", err)
	}
	for _, path := range []string{"/v2/acme/robot-app/manifests/v1.5.4", "/v2/acme/charts/robot-app/tags/list"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://ghcr.io"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth(robot, s.password)
		resp, err := (&http.Client{Transport: led}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close() //nolint:errcheck // not read
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
}

// ledTo is a transport for which every name is the relay's address.
func (s *site) ledTo(address string) *http.Transport {
	s.t.Helper()
	pem, err := os.ReadFile(s.relay.CAFile)
	if err != nil {
		s.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, address)
		},
	}
}

// CLIENTS 12: verifiers that run as pods know the relay by its own name or, with DNS and the CA, by the public one. Under
// both an image has the same digest, the same referrers and the same .sig tag.
func TestClients12OneImageUnderBothNames(t *testing.T) {
	s := newSite(t)
	s.must("import", s.bundle("v1.5.4"))
	s.start()
	led := &http.Client{Transport: s.ledTo(s.relay.Addr)}
	get := func(url string) string {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth(robot, s.password)
		resp, err := led.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close() //nolint:errcheck // only read from
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s (%v)", url, resp.Status, err)
		}
		return string(body)
	}
	_, digest, err := s.relay.PullImage(t.Context(), app+":v1.5.4", linux("amd64"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/manifests/v1.5.4", "/referrers/" + digest, "/manifests/" + strings.Replace(digest, ":", "-", 1) + ".sig"} {
		own := get("https://127.0.0.1/v2/" + app + path)
		public := get("https://ghcr.io/v2/" + strings.TrimPrefix(app, "ghcr.io/") + path)
		if own != public || own == "" {
			t.Errorf("%s: %d bytes under the relay's name, %d others under the public one", path, len(own), len(public))
		}
	}
}

// CLIENTS 22: the first poll after an activation sees the new release; nothing says that an answer may be kept.
func TestClients22PollSeesTheNewRelease(t *testing.T) {
	s := newSite(t)
	s.must("import", s.bundle("v1.5.4"))
	s.start()
	poll := func() string {
		t.Helper()
		out, err := s.relay.Git(t.Context(), t.TempDir(), "ls-remote", "-q", repo, "main")
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	before := poll()
	s.must("import", s.bundle("v1.5.5"))
	s.follow(2)
	if poll() == before {
		t.Error("main is where it was")
	}
	resp, err := s.relay.HTTP().Get(s.relay.URL("/git/github.com/acme/robot-deployment/info/refs?service=git-upload-pack"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // not read
	if cache := resp.Header.Get("Cache-Control"); !strings.Contains(cache, "no-cache") {
		t.Errorf("Cache-Control: %q", cache)
	}
}

// CLIENTS 23: while the relay is down clients get an error, and afterwards the same answer as before: nothing to repair.
func TestClients23ComesBackByItself(t *testing.T) {
	s := newSite(t)
	s.must("import", s.bundle("v1.5.4"))
	address := freeAddress(t)
	s.start("--listen", address)
	poll := func() (string, error) { return s.relay.Git(t.Context(), t.TempDir(), "ls-remote", "-q", repo) }
	before, err := poll()
	if err != nil {
		t.Fatal(err)
	}
	s.kill(syscall.SIGKILL)
	if _, err := poll(); err == nil {
		t.Fatal("a relay that is down answered")
	}
	s.start("--listen", address)
	if after, err := poll(); err != nil || after != before {
		t.Errorf("%v\n%s", err, after)
	}
}

// Stock command-line clients, where they are installed, pull with an account.
func TestStockClientsPull(t *testing.T) {
	s := newSite(t)
	s.must("import", s.bundle("v1.5.4"))
	s.start()
	dir := t.TempDir()
	certs := filepath.Join(dir, "certs") // as in /etc/containers/certs.d/<host>
	if err := os.Mkdir(certs, 0o755); err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(s.relay.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(certs, "ca.crt"), ca, 0o644); err != nil {
		t.Fatal(err)
	}
	image := "docker://" + s.relay.Addr + "/" + app + ":v1.5.4"
	for _, args := range [][]string{
		{"skopeo", "--insecure-policy", "copy", "--all", "--src-cert-dir", certs, "--src-creds", robot + ":" + s.password, image, "oci:" + filepath.Join(dir, "copy") + ":v1"},
		{"skopeo", "inspect", "--raw", "--cert-dir", certs, "--creds", robot + ":" + s.password, image},
		{"podman", "--root", filepath.Join(dir, "podman"), "--runroot", filepath.Join(dir, "run"), "--storage-driver", "vfs", "pull", "-q",
			"--cert-dir", certs, "--creds", robot + ":" + s.password, s.relay.Addr + "/" + app + ":v1.5.4"},
	} {
		t.Run(args[0]+" "+args[1], func(t *testing.T) {
			if _, err := exec.LookPath(args[0]); err != nil {
				t.Skipf("%s is not installed (Debian: apt-get install %s)", args[0], args[0])
			}
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			if out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// Without an account nobody reads, and a change of the accounts counts at once.
func TestAccountsAreAskedFor(t *testing.T) {
	s := newSite(t)
	s.must("import", s.bundle("v1.5.4"))
	s.start()
	nobody := s.relay.As("", "")
	for _, path := range []string{"/v2/", "/v2/" + app + "/manifests/v1.5.4", "/git/github.com/acme/robot-deployment/info/refs?service=git-upload-pack"} {
		resp, err := http.DefaultClient.Do(s.request(path))
		if err == nil {
			resp.Body.Close() //nolint:errcheck // not read
			t.Fatal("a client that does not know the CA was served")
		}
		req := s.request(path)
		resp, err = s.ledTo(s.relay.Addr).RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close() //nolint:errcheck // not read
		if resp.StatusCode != http.StatusUnauthorized || !strings.HasPrefix(resp.Header.Get("WWW-Authenticate"), "Basic ") {
			t.Errorf("%s: %s, %q", path, resp.Status, resp.Header.Get("WWW-Authenticate"))
		}
	}
	if _, _, err := nobody.PullImage(t.Context(), app+":v1.5.4", linux("amd64")); err == nil {
		t.Error("somebody without an account pulled")
	}
	late := s.relay.As("late", s.secret("robot", "add", "late"))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	waitFor(ctx, t, "the new robot is let in", func() bool {
		_, _, err := late.PullImage(ctx, app+":v1.5.4", linux("amd64"))
		return err == nil
	})
}

func (s *site) request(path string) *http.Request {
	s.t.Helper()
	u, err := url.Parse(fmt.Sprintf("https://%s%s", s.relay.Addr, path))
	if err != nil {
		s.t.Fatal(err)
	}
	return (&http.Request{Method: http.MethodGet, URL: u, Header: http.Header{}}).WithContext(s.t.Context())
}
