//go:build bench

package integration

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/internal/loadgen"
)

// What the measurements serve: one release with the image that robots pull, one with a single large layer, and a Git
// repository.
const (
	servedImage = "robot"    // 85 MB in five layers
	servedLarge = "model"    // one layer of 500 MB
	servedGit   = "manifest" // 18,000 objects
	peerPrefix  = "acme/"
)

var served struct {
	sync.Once
	data, www, git string
}

// serveSite gives a site with the release of the measurements. It is made once.
func serveSite(t *testing.T) *site {
	t.Helper()
	f := releases(t)
	served.Do(func() {
		dir := f.path("serve")
		served.data, served.www, served.git = filepath.Join(dir, "data"), filepath.Join(dir, "www"), filepath.Join(dir, "git")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		const mb = 1_000_000
		var layers []v1.Layer
		for i, size := range []int64{45 * mb, 20 * mb, 12 * mb, 6 * mb, 2 * mb} {
			layers = append(layers, randomLayer(t, filepath.Join(dir, fmt.Sprintf("layer-%d.tar", i)), byte(100+i), size))
		}
		pushIndex(t, f.upstream+"/acme/"+servedImage+":v1", layers...)
		pushIndex(t, f.upstream+"/acme/"+servedLarge+":v1", randomLayer(t, filepath.Join(dir, "large.tar"), 99, 500*mb))
		makeRepository(t, f, f.path("git", servedGit+".git"))
		spec := filepath.Join(dir, "bundle.yaml")
		text := "apiVersion: plimsoll.dev/v1\nkind: Bundle\nmetadata: {name: serve, version: v1, created: 2026-11-21T00:00:00Z}\nspec:\n" +
			"  images: [\"ghcr.io/acme/" + servedImage + ":v1\", \"ghcr.io/acme/" + servedLarge + ":v1\"]\n" +
			"  git:\n    - url: https://github.com/acme/" + servedGit + ".git\n      refs: [\"*\", \"v*\"]\n"
		if err := os.WriteFile(spec, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		s := &site{fixture: f, t: t, data: served.data}
		for _, args := range [][]string{
			{"plimsoll", "build", "-f", spec, "--registry-mirror", "ghcr.io=http://" + f.upstream, "--no-sbom", "-o", filepath.Join(dir, "out"),
				"--sign", f.path("keys", "release.key"), "--attest", f.path("keys", "attest.key")},
			{"plimsoll-relay", "trust", "add", f.path("keys", "release.pub"), "--data", served.data},
			{"plimsoll-relay", "import", filepath.Join(dir, "out"), "--data", served.data},
		} {
			start := time.Now()
			if _, err := f.run(args[0], args[1:]...); err != nil {
				t.Fatal(err)
			}
			t.Logf("%s %s: %.1f s", args[0], args[1], time.Since(start).Seconds())
		}
		s.exportStatic()
	})
	if served.data == "" {
		t.Fatal("the release of the measurements could not be made")
	}
	return &site{fixture: f, t: t, data: served.data}
}

// pushIndex pushes an image for one platform under an index, as most images are.
func pushIndex(t *testing.T, reference string, layers ...v1.Layer) {
	t.Helper()
	img, err := mutate.AppendLayers(mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1), layers...)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config.OS, config.Architecture = "linux", "amd64"
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatal(err)
	}
	index := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex),
		mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}})
	ref, err := name.ParseReference(reference)
	if err == nil {
		err = remote.WriteIndex(ref, index)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// exportStatic writes what the relay answers as files for nginx: manifests as copies, blobs as links to the relay's own
// files, so that both send the same pages of the same cache.
func (s *site) exportStatic() {
	s.t.Helper()
	relay := s.startRelay()
	defer relay.stop()
	for _, image := range []string{servedImage, servedLarge} {
		dir := filepath.Join(served.www, "v2", filepath.FromSlash(relayPrefix), image)
		var index ocispec.Index
		var manifest ocispec.Manifest
		s.fetchManifest(relay, image, "v1", dir, &index)
		s.fetchManifest(relay, image, index.Manifests[0].Digest.String(), dir, &manifest)
		if err := os.MkdirAll(filepath.Join(dir, "blobs"), 0o755); err != nil {
			s.t.Fatal(err)
		}
		for _, blob := range append(manifest.Layers, manifest.Config) {
			hex := blob.Digest.Encoded()
			stored := filepath.Join(s.data, "store", "blobs", "sha256", hex[:2], hex)
			readAll(s.t, stored)
			if err := os.Symlink(stored, filepath.Join(dir, "blobs", blob.Digest.String())); err != nil {
				s.t.Fatal(err)
			}
		}
	}
	if err := filepath.WalkDir(s.path("upstream"), func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Name() == "data" {
			readAll(s.t, path)
		}
		return err
	}); err != nil {
		s.t.Fatal(err)
	}
}

// readAll brings a file into the page cache.
func readAll(t testing.TB, path string) {
	t.Helper()
	file, err := os.Open(path)
	if err == nil {
		_, err = io.Copy(struct{ io.Writer }{io.Discard}, file)
		err = errors.Join(err, file.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (s *site) fetchManifest(relay *process, image, reference, dir string, into any) {
	s.t.Helper()
	data := get(s.t, "http://"+relay.addr+"/v2/"+relayPrefix+image+"/manifests/"+reference)
	err := json.Unmarshal(data, into)
	if err == nil {
		err = os.MkdirAll(filepath.Join(dir, "manifests"), 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "manifests", reference), data, 0o644)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

const nginxConfig = `worker_processes 2;
daemon off;
pid %[1]s/nginx.pid;
error_log %[1]s/error.log;
worker_rlimit_nofile 16384;
events { worker_connections 8192; }
http {
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000; default_type application/octet-stream;
  client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/fastcgi;
  uwsgi_temp_path %[1]s/uwsgi; scgi_temp_path %[1]s/scgi;
  server { listen %[2]s backlog=4096; root %[3]s; }
  server {
    listen %[4]s ssl backlog=4096; root %[3]s;
    ssl_protocols TLSv1.3; ssl_certificate %[1]s/server.pem; ssl_certificate_key %[1]s/server.pem;
  }
}
`

// startNginx serves the static files over plain HTTP and over TLS, by one nginx.
func (s *site) startNginx() (plain, encrypted *process) {
	s.t.Helper()
	program, err := exec.LookPath("nginx")
	if err != nil {
		s.t.Skip("nginx is not installed (Debian: apt-get install nginx-light)")
	}
	dir := s.t.TempDir()
	s.letRead()
	writeCertificate(s.t, dir)
	http, https := freeAddress(s.t), freeAddress(s.t)
	config := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, nginxConfig, dir, http, served.www, https), 0o644); err != nil {
		s.t.Fatal(err)
	}
	plain = startProcess(s.t, "nginx", http, exec.Command(program, "-c", config, "-e", filepath.Join(dir, "error.log")))
	plain.repository = relayPrefix
	return plain, &process{t: s.t, name: "nginx", cmd: plain.cmd, addr: https, ca: filepath.Join(dir, "server.crt"), repository: relayPrefix}
}

// letRead opens the folders on the way to the blobs, all of them ours, to the user that nginx has for its workers.
func (s *site) letRead() {
	s.t.Helper()
	for _, dir := range []string{s.dir, s.path("serve"), s.data, filepath.Join(s.data, "store"), filepath.Join(s.data, "store", "blobs")} {
		if err := os.Chmod(dir, 0o755); err != nil {
			s.t.Fatal(err)
		}
	}
}

// writeCertificate makes a certificate of the kind that the relay's CA issues.
func writeCertificate(t testing.TB, dir string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "nginx"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		BasicConstraintsValid: true, IsCA: true, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "server.pem"), append(keyPEM, certPEM...), 0o600),
		os.WriteFile(filepath.Join(dir, "server.crt"), certPEM, 0o644)); err != nil {
		t.Fatal(err)
	}
}

// startDistribution serves the same images by distribution/v3, in a process of its own.
func (s *site) startDistribution() *process {
	s.t.Helper()
	p := startProcess(s.t, "distribution", "", exec.Command(s.loadgen(s.t), "registry", s.path("upstream")))
	p.repository = peerPrefix
	return p
}

// sample is one turn of one contender.
type sample struct {
	*loadgen.Result
	cpu time.Duration // of the server
}

// turns lets contenders do the same plan one after the other, several times: what else the machine does in that time
// hits all of them. The first turn of each is not counted.
func (f *fixture) turns(n int, plan func(*process) loadgen.Plan, contenders ...*process) map[*process][]sample {
	samples := make(map[*process][]sample)
	for turn := range n + 1 {
		for _, p := range contenders {
			before := p.cpu()
			res := f.load(p, plan(p))
			if res.Errors > 0 {
				p.t.Errorf("%s: %d errors, the first: %s\n%s", p.name, res.Errors, res.First, p.log.String())
			}
			if turn > 0 {
				samples[p] = append(samples[p], sample{res, p.cpu() - before})
			}
		}
	}
	return samples
}

// middle is the median of a figure of samples.
func middle(samples []sample, figure func(sample) float64) float64 {
	var all []float64
	for _, s := range samples {
		all = append(all, figure(s))
	}
	slices.Sort(all)
	return all[len(all)/2]
}

func rate(s sample) float64       { return s.Rate() / 1e6 }
func cpuPerGB(s sample) float64   { return s.cpu.Seconds() / (float64(s.Bytes) / 1e9) }
func perSecond(s sample) float64  { return float64(len(s.Durations)) / s.Wall.Seconds() }
func cpuPerMany(s sample) float64 { return s.cpu.Seconds() / float64(len(s.Durations)) * 1e3 }

func percentile(p int) func(sample) float64 {
	return func(s sample) float64 { return s.Percentile(p).Seconds() }
}

// passes says of a figure whether it keeps to its bar.
func passes(t *testing.T, what string, figure float64, sign string, bar float64) {
	t.Helper()
	ok := figure >= bar
	if sign == "<=" {
		ok = figure <= bar
	}
	t.Logf("%s  %-70s %8.2f  (bar: %s %.2f)", map[bool]string{true: "PASS", false: "MISS"}[ok], what, figure, sign, bar)
}

// table prints rows under a title in one entry of the log.
func table(t *testing.T, title string, rows ...string) {
	t.Helper()
	t.Logf("%s\n  %s", title, strings.Join(rows, "\n  "))
}

const mib = 1 << 20

// tick is the unit of /proc/PID/stat: USER_HZ, 100 on all that Go runs on.
const tick = 10 * time.Millisecond

// cpu is what the process and its children have used, those that have ended included (git runs as a child).
func (p *process) cpu() (total time.Duration) {
	p.t.Helper()
	for _, pid := range p.family() {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue // a child that ended
		}
		_, after, _ := bytes.Cut(data, []byte(") "))
		fields := strings.Fields(string(after))
		for _, field := range fields[11:15] { // utime, stime, cutime, cstime: proc(5)
			n, err := strconv.ParseInt(field, 10, 63)
			if err != nil {
				p.t.Fatalf("%q: %v", data, err)
			}
			total += time.Duration(n) * tick
		}
	}
	return total
}

// startRelayTLS runs plimsoll-relay serve with more flags. Whoever asks is answered.
func (s *site) startRelayTLS(args ...string) *process {
	s.t.Helper()
	p := s.startServe(append(args, "--insecure-anonymous")...)
	p.ca = filepath.Join(s.data, "tls", "ca.crt")
	return p
}

// lsRemoteV0 is what go-git sends, as Argo CD does every minute or so.
func lsRemoteV0(path string) []loadgen.Request {
	return []loadgen.Request{{Method: "GET", Path: path + "/info/refs?service=git-upload-pack"}}
}

// fetchV2 is the request for a pack in a clone.
func fetchV2(path, want string, more ...string) loadgen.Request {
	lines := []string{"command=fetch", "agent=git/2.39.5", "object-format=sha1", "|", "thin-pack\n", "no-progress\n", "include-tag\n", "ofs-delta\n"}
	lines = append(append(lines, more...), "want "+want+"\n", "done\n", "")
	return loadgen.Request{Method: "POST", Path: path + "/git-upload-pack", Headers: gitV2 + uploadPackBody, Body: pktLines(lines...)}
}
