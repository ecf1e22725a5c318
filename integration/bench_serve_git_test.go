//go:build bench

package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/plimsoll/plimsoll/internal/loadgen"
)

// makeRepository makes a repository of 18,000 objects: 2,543 commits that each change two of 300 files in 10 folders,
// 34 branches and 170 tags.
func makeRepository(t testing.TB, f *fixture, dir string) {
	t.Helper()
	var stream strings.Builder
	for i := range 2543 {
		fmt.Fprintf(&stream, "commit refs/heads/main\ncommitter R <r@example.com> %d +0000\ndata 1\nx\n", 1_700_000_000+i)
		for j := range 2 {
			content := strings.Repeat(fmt.Sprintf("offset: %d\n", i*7+j), 100)
			fmt.Fprintf(&stream, "M 100644 inline values/%d/robot-%03d.conf\ndata %d\n%s\n", (i+5*j)%10, (i+j*150)%300, len(content), content)
		}
		if i%75 == 0 {
			fmt.Fprintf(&stream, "reset refs/heads/site-%02d\nfrom refs/heads/main\n\n", i/75)
		}
		if i%15 == 0 {
			fmt.Fprintf(&stream, "tag v0.%d.0\nfrom refs/heads/main\ntagger R <r@example.com> %d +0000\ndata 1\nx\n", i/15, 1_700_000_000+i)
		}
	}
	f.git(t, "", "init", "--quiet", "--bare", "--initial-branch=main", dir)
	f.git(t, stream.String(), "-C", dir, "fast-import", "--quiet")
	f.git(t, "", "-C", dir, "repack", "-adfq")
}

// startBackend serves the repository by git http-backend: as git clone left it, or after git gc, which writes a bitmap.
func (s *site) startBackend(gc bool) *process {
	s.t.Helper()
	name, root := "http-backend", filepath.Join(served.git, "plain")
	if gc {
		name, root = "http-backend, gc", filepath.Join(served.git, "gc")
	}
	if _, err := os.Stat(root); err != nil {
		dir := filepath.Join(root, servedGit+".git")
		s.git(s.t, "", "clone", "--quiet", "--bare", "--no-local", s.path("git", servedGit+".git"), dir)
		if gc {
			s.git(s.t, "", "-C", dir, "gc", "--quiet")
		}
	}
	p := startProcess(s.t, name, "", exec.Command(s.loadgen(s.t), "git-http-backend", root))
	p.repository = "/" + servedGit + ".git"
	return p
}

func (s *site) startGitRelay() *process {
	p := s.startRelay()
	p.repository = "/git/github.com/acme/" + servedGit
	return p
}

// What pollers ask, as git's protocol v2 and as go-git's v0.
func TestBenchServeLsRemote(t *testing.T) {
	s := serveSite(t)
	relay, backend := s.startGitRelay(), s.startBackend(true)
	for version, exchange := range map[string]func(string) []loadgen.Request{"v2": lsRemoteV2, "v0": lsRemoteV0} {
		samples := s.turns(3, func(p *process) loadgen.Plan {
			return loadgen.Plan{Repeat: &loadgen.Repeat{Clients: 16, For: 3 * time.Second, Fresh: true, Exchange: exchange(p.repository)}}
		}, backend, relay)
		rows := []string{fmt.Sprintf("%-14s %12s %8s %8s %18s", "", "ls-remote/s", "p50 ms", "p99 ms", "server CPU-s/1000")}
		for _, p := range []*process{backend, relay} {
			all := samples[p]
			rows = append(rows, fmt.Sprintf("%-14s %12.0f %8.1f %8.1f %18.2f", p.name, middle(all, perSecond), middle(all, percentile(50))*1e3,
				middle(all, percentile(99))*1e3, middle(all, cpuPerMany)))
		}
		table(t, "ls-remote, protocol "+version+", 205 refs, 16 clients", rows...)
		passes(t, "ls-remote/s of the relay, protocol "+version, middle(samples[relay], perSecond), ">=", 200)
	}
	var took []time.Duration
	for range 10 {
		start := time.Now()
		s.git(t, "", "ls-remote", "--quiet", "http://"+relay.addr+relay.repository)
		took = append(took, time.Since(start))
	}
	t.Logf("git ls-remote as a process: %v (median)", median(took))
}

// Clones by git itself, and the request that they send without git's own work on what arrives.
func TestBenchServeClone(t *testing.T) {
	s := serveSite(t)
	relay, plain, gc := s.startGitRelay(), s.startBackend(false), s.startBackend(true)
	head := s.git(t, "", "-C", s.path("git", servedGit+".git"), "rev-parse", "refs/heads/main")
	objects := s.git(t, "", "-C", s.path("git", servedGit+".git"), "rev-list", "--all", "--objects", "--count")
	for _, kind := range []struct {
		name        string
		args, lines []string
	}{
		{"shallow", []string{"--depth=1"}, []string{"deepen 1\n"}},
		{"full", nil, nil},
	} {
		took, cpu := s.clones(15, kind.args, plain, gc, relay)
		samples := s.turns(3, func(p *process) loadgen.Plan {
			return loadgen.Plan{Repeat: &loadgen.Repeat{Clients: 2, Rounds: 4, Exchange: []loadgen.Request{fetchV2(p.repository, head, kind.lines...)}}}
		}, plain, gc, relay)
		rows := []string{fmt.Sprintf("%-18s %14s %14s %18s %10s", "", "git clone ms", "server CPU ms", "pack request ms", "pack MB")}
		for _, p := range []*process{plain, gc, relay} {
			rows = append(rows, fmt.Sprintf("%-18s %14.1f %14.1f %18.1f %10.2f", p.name, took[p].Seconds()*1e3, cpu[p].Seconds()*1e3,
				middle(samples[p], percentile(50))*1e3, middle(samples[p], func(s sample) float64 { return float64(s.Bytes) / float64(len(s.Durations)) / 1e6 })))
		}
		table(t, fmt.Sprintf("%s clone of a repository with %s objects", kind.name, objects), rows...)
		for _, p := range []*process{plain, gc} {
			passes(t, kind.name+" clone: time, relay / "+p.name, took[relay].Seconds()/took[p].Seconds(), "<=", 1.1)
		}
		passes(t, kind.name+" clone: server's CPU, relay / "+gc.name, cpu[relay].Seconds()/cpu[gc].Seconds(), "<=", 1.1)
	}
}

// clones lets git clone from each server in turn, n times and once more that is not counted. It gives the median time of a
// clone, and the average CPU time of the server: the clock of that is too coarse for one clone.
func (s *site) clones(n int, args []string, from ...*process) (took, cpu map[*process]time.Duration) {
	s.t.Helper()
	all := make(map[*process][]time.Duration)
	took, cpu = make(map[*process]time.Duration), make(map[*process]time.Duration)
	dir := s.t.TempDir()
	for turn := range n + 1 {
		for _, p := range from {
			to := filepath.Join(dir, "clone")
			used, start := p.cpu(), time.Now()
			s.git(s.t, "", append(append([]string{"clone", "--quiet", "--bare"}, args...), "http://"+p.addr+p.repository, to)...)
			if turn > 0 {
				all[p] = append(all[p], time.Since(start))
				cpu[p] += (p.cpu() - used) / time.Duration(n)
			}
			if err := os.RemoveAll(to); err != nil {
				s.t.Fatal(err)
			}
		}
	}
	for _, p := range from {
		took[p] = median(all[p])
	}
	return took, cpu
}

// Pollers ask each second while fifty clones begin at once; nobody sees an error.
func TestBenchServePollersAndClones(t *testing.T) {
	s := serveSite(t)
	relay := s.startGitRelay()
	var clones atomic.Int64
	var g errgroup.Group
	for i := range 50 {
		g.Go(func() error {
			args := []string{"clone", "--quiet", "--bare"}
			if i%2 == 0 {
				args = append(args, "--depth=1")
			}
			out, err := s.gitCommand(append(args, "http://"+relay.addr+relay.repository, filepath.Join(t.TempDir(), "clone"))...).CombinedOutput()
			if err != nil {
				return fmt.Errorf("clone %d: %w\n%s", i, err, out)
			}
			clones.Add(1)
			return nil
		})
	}
	start := time.Now()
	res := s.load(relay, loadgen.Plan{Repeat: &loadgen.Repeat{
		Clients: 100, For: 15 * time.Second, Every: time.Second, Fresh: true, Exchange: lsRemoteV0(relay.repository),
	}})
	err := g.Wait()
	if err != nil || res.Errors > 0 {
		t.Errorf("%d errors of pollers (%s), clones: %v\n%s", res.Errors, res.First, err, relay.log.String())
	}
	t.Logf("100 pollers and 50 clones in %.1f s: %d polls, p50 %.0f ms, p99 %.0f ms; %d clones; peak RSS %.1f MiB", time.Since(start).Seconds(),
		len(res.Durations), res.Percentile(50).Seconds()*1e3, res.Percentile(99).Seconds()*1e3, clones.Load(), float64(relay.memory("VmHWM"))/mib)
	passes(t, "errors of 100 pollers and 50 clones", float64(res.Errors)+float64(50-clones.Load()), "<=", 0)
}
