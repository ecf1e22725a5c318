package gitmirror

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/relay/smarthttp"
)

// benchSite serves a repository of 3,600 commits and 300 files: 18,000 objects.
func benchSite(b *testing.B) (s *sandbox, m *Mirror, g bundle.Git, layer []byte, site *site) {
	b.Helper()
	s = newSandbox(b)
	source := filepath.Join(b.TempDir(), "source")
	s.Git(s.Home, "init", "--quiet", source)
	var stream strings.Builder
	for i := range 3600 {
		content := strings.Repeat(fmt.Sprintf("offset: %d\n", i), 100)
		fmt.Fprintf(&stream, "commit refs/heads/main\ncommitter R <r@example.com> %d +0000\ndata 1\nx\n", 1_700_000_000+i)
		fmt.Fprintf(&stream, "M 100644 inline values/%d/robot-%03d.yaml\ndata %d\n%s\n", i%10, i%300, len(content), content)
	}
	s.pipe(source, stream.String(), "fast-import", "--quiet")
	g, layer = s.state(source), s.layer(source)
	m = open(b, b.TempDir(), Options{})
	admit(b, m, g, layer)
	return s, m, g, layer, serve(b, m, prepare(b, m, 1, g))
}

// httpBackend serves the generation's folder as git itself would.
func httpBackend(b *testing.B, s *sandbox, m *Mirror) (url string) {
	b.Helper()
	server := httptest.NewServer(&cgi.Handler{
		Path: filepath.Join(s.Git(s.Home, "--exec-path"), "git-http-backend"),
		Env: []string{
			"GIT_PROJECT_ROOT=" + m.generationDir(1), "GIT_HTTP_EXPORT_ALL=1", "HOME=" + s.Home, "GIT_CONFIG_NOSYSTEM=1", "LC_ALL=C",
		},
	})
	b.Cleanup(server.Close)
	return server.URL + "/" + place + ".git"
}

// cpuTime is what this process and the children it has waited for have taken of the processors. On a machine that others
// use it says more than the clock.
func cpuTime(b *testing.B) (sum time.Duration) {
	b.Helper()
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var u unix.Rusage
		if err := unix.Getrusage(who, &u); err != nil {
			b.Fatal(err)
		}
		sum += time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	return sum
}

// beside does two things in turn, so that both meet the same machine, and reports the medians of their times and the
// ratios: above 1 the second is better.
func beside(b *testing.B, ours, theirs func()) {
	b.Helper()
	var took, cpu [2][]time.Duration
	for i := 0; b.Loop(); i++ {
		for j := range 2 {
			which := (i + j) % 2
			start, before := time.Now(), cpuTime(b)
			[]func(){ours, theirs}[which]()
			took[which] = append(took[which], time.Since(start))
			cpu[which] = append(cpu[which], cpuTime(b)-before)
		}
	}
	a, t := median(took[0]), median(took[1])
	b.ReportMetric(float64(a.Microseconds())/1000, "ours-ms")
	b.ReportMetric(float64(t.Microseconds())/1000, "http-backend-ms")
	b.ReportMetric(float64(a)/float64(t), "ratio")
	b.ReportMetric(float64(median(cpu[0]))/float64(median(cpu[1])), "cpu-ratio")
}

// fetchRequest is what `git clone` posts, of one commit or of all.
func fetchRequest(oid string, depth int) string {
	pkt := smarthttp.PktLine
	text := pkt("command=fetch") + pkt("agent=git/2.39.5") + pkt("object-format=sha1") + "0001" +
		pkt("thin-pack") + pkt("no-progress") + pkt("ofs-delta")
	if depth > 0 {
		text += pkt(fmt.Sprintf("deepen %d", depth))
	}
	return text + pkt("want "+oid+"\n") + pkt("done\n") + "0000"
}

func request(b *testing.B, method, url, protocol, body string) []byte {
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		b.Error(err)
		return nil
	}
	if protocol != "" {
		req.Header.Set("Git-Protocol", protocol)
	}
	if body != "" {
		req.Header.Set("Content-Type", smarthttp.UploadPack.RequestType())
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		b.Error(err)
		return nil
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		b.Error(resp.Status, err)
	}
	return data
}

// BenchmarkPack is the work of the server alone: the request for a pack, without a client that indexes it.
func BenchmarkPack(b *testing.B) {
	s, m, g, _, site := benchSite(b)
	theirs := httpBackend(b, s, m)
	for _, depth := range []int{0, 1} {
		body := fetchRequest(g.Refs[0].OID, depth)
		b.Run([]string{"full", "depth 1"}[depth], func(b *testing.B) {
			var ours []byte
			beside(b,
				func() { ours = request(b, "POST", site.url()+"/git-upload-pack", "version=2", body) },
				func() {
					got := request(b, "POST", theirs+"/git-upload-pack", "version=2", body)
					if d := len(got) - len(ours); ours != nil && max(d, -d) > len(ours)/100 { // packets differ in where they end
						b.Errorf("%d bytes, ours has %d", len(got), len(ours))
					}
				})
			b.ReportMetric(float64(len(ours)), "pack-bytes")
		})
	}
}

// BenchmarkPackLarge is one file of 48 MiB that does not compress: how fast bytes come through.
func BenchmarkPackLarge(b *testing.B) {
	s := newSandbox(b)
	source := s.source()
	noise := make([]byte, 48<<20)
	if _, err := rand.Read(noise); err != nil {
		b.Fatal(err)
	}
	s.Commit(source, "noise", string(noise))
	g := s.state(source)
	m := open(b, b.TempDir(), Options{})
	admit(b, m, g, s.layer(source))
	site := serve(b, m, prepare(b, m, 1, g))
	body := fetchRequest(g.Refs[1].OID, 0)
	theirs := httpBackend(b, s, m)
	b.SetBytes(2 * int64(len(noise)))
	beside(b, func() { drain(b, site.url(), body) }, func() { drain(b, theirs, body) })
}

// drain takes an answer without keeping it.
func drain(b *testing.B, url, body string) {
	req, err := http.NewRequest("POST", url+"/git-upload-pack", strings.NewReader(body))
	if err != nil {
		b.Error(err)
		return
	}
	req.Header.Set("Git-Protocol", "version=2")
	req.Header.Set("Content-Type", smarthttp.UploadPack.RequestType())
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		b.Error(err)
		return
	}
	defer resp.Body.Close()
	if n, err := io.Copy(io.Discard, resp.Body); err != nil || n < 48<<20 {
		b.Error(n, err)
	}
}

// BenchmarkClone is `git clone`, client and server on the same cores.
func BenchmarkClone(b *testing.B) {
	s, m, _, _, site := benchSite(b)
	theirs := httpBackend(b, s, m)
	for name, args := range map[string][]string{"full": {"--bare"}, "depth 1": {"--bare", "--depth=1"}, "blobless": {"--filter=blob:none", "--bare"}} {
		b.Run(name, func(b *testing.B) {
			dir, n := b.TempDir(), 0
			clone := func(url string) func() {
				return func() {
					n++
					s.Git(s.Home, append(append([]string{"clone", "--quiet"}, args...), url, filepath.Join(dir, fmt.Sprint(n)))...)
				}
			}
			beside(b, clone(site.url()), clone(theirs))
		})
	}
}

// BenchmarkLsRemote asks for refs as clients do: go-git with one request of version 0, git with two of version 2.
func BenchmarkLsRemote(b *testing.B) {
	s, m, _, _, site := benchSite(b)
	all := lsRefsRequests()["ls-remote"]
	poll := map[string]func(b *testing.B, url string){
		"v0": func(b *testing.B, url string) {
			request(b, "GET", url+"/info/refs?service=git-upload-pack", "", "")
		},
		"v2": func(b *testing.B, url string) {
			request(b, "GET", url+"/info/refs?service=git-upload-pack", "version=2", "")
			request(b, "POST", url+"/git-upload-pack", "version=2", all)
		},
	}
	for who, url := range map[string]string{"ours": site.url(), "http-backend": httpBackend(b, s, m)} {
		for version, poll := range poll {
			b.Run(version+"/"+who, func(b *testing.B) {
				b.SetParallelism(4)
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						poll(b, url)
					}
				})
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "polls/s")
			})
		}
	}
	b.Run("git ls-remote", func(b *testing.B) { // with the client's process
		theirs := httpBackend(b, s, m)
		beside(b, func() { s.Git(s.Home, "ls-remote", site.url()) }, func() { s.Git(s.Home, "ls-remote", theirs) })
	})
}

// BenchmarkLsRemoteManyRefs: 5,000 refs.
func BenchmarkLsRemoteManyRefs(b *testing.B) {
	_, site, _ := manyStates(b)
	url := site.server.URL + "/git/example.com/many"
	for version, body := range map[string]string{"v0": "", "v2": lsRefsRequests()["ls-remote"]} {
		b.Run(version, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if version == "v0" {
					b.SetBytes(int64(len(request(b, "GET", url+"/info/refs?service=git-upload-pack", "", ""))))
				} else {
					b.SetBytes(int64(len(request(b, "POST", url+"/git-upload-pack", "version=2", body))))
				}
			}
		})
	}
}

// BenchmarkPollersAndClones: a hundred pollers, each asking twice in both versions, while fifty robots clone.
func BenchmarkPollersAndClones(b *testing.B) {
	s, _, _, _, site := benchSite(b)
	all := lsRefsRequests()["ls-remote"]
	for round := 0; b.Loop(); round++ {
		var wg sync.WaitGroup
		dir := b.TempDir()
		for range 100 {
			wg.Go(func() {
				for range 2 {
					request(b, "GET", site.url()+"/info/refs?service=git-upload-pack", "", "")
					request(b, "GET", site.url()+"/info/refs?service=git-upload-pack", "version=2", "")
					request(b, "POST", site.url()+"/git-upload-pack", "version=2", all)
				}
			})
		}
		for i := range 50 {
			wg.Go(func() {
				args := []string{"clone", "--quiet", "--bare", site.url(), filepath.Join(dir, fmt.Sprint(i))}
				if i%2 == 0 {
					args = append(args, "--depth=1")
				}
				if _, err := s.Try(s.Home, args...); err != nil {
					b.Error(err)
				}
			})
		}
		wg.Wait()
	}
}

func BenchmarkAdmit(b *testing.B) {
	_, m, g, layer, _ := benchSite(b)
	b.Run("new", func(b *testing.B) {
		for b.Loop() {
			admit(b, open(b, b.TempDir(), Options{}), g, layer)
		}
		b.SetBytes(int64(len(layer)))
	})
	b.Run("again", func(b *testing.B) {
		for b.Loop() {
			admit(b, m, g, layer)
		}
	})
	b.Run("prepare", func(b *testing.B) {
		for i := uint64(2); b.Loop(); i++ {
			prepare(b, m, i, g)
		}
	})
}

// BenchmarkStart is Open, Admit and Prepare of 20 repositories that are there, as a relay does when it starts; and the
// two git processes for each that were run before generations were believed.
func BenchmarkStart(b *testing.B) {
	s := newSandbox(b)
	source := s.source()
	g, layer := s.state(source), s.layer(source)
	dir := b.TempDir()
	m := open(b, dir, Options{})
	var repos []Repository
	for i := range 20 {
		repos = append(repos, Repository{Path: fmt.Sprintf("github.com/acme/app-%02d", i), Git: g})
	}
	admit(b, m, g, layer)
	ctx := context.Background()
	if _, err := m.Prepare(ctx, 1, repos); err != nil {
		b.Fatal(err)
	}
	for i := range 2000 { // of releases before
		for _, ext := range []string{".idx", ".pack"} {
			s.Write(m.packDir(), fmt.Sprintf("pack-%040x%s", i, ext), "")
		}
	}
	b.Run("known", func(b *testing.B) {
		before := cpuTime(b)
		defer func() { b.ReportMetric(float64((cpuTime(b)-before).Microseconds())/1000/float64(b.N), "cpu-ms/op") }()
		for b.Loop() {
			m := open(b, dir, Options{})
			for _, repo := range repos {
				if err := m.Admit(ctx, repo.Path, repo.Git, nil); err != nil {
					b.Fatal(err)
				}
			}
			if _, err := m.Prepare(ctx, 1, repos); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("git version", func(b *testing.B) {
		for b.Loop() {
			if err := exec.Command(m.git.Path(), "version").Run(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func median(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}
