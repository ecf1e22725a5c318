//go:build bench

package integration

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/internal/loadgen"
)

// maxServeRSS is the bar: what the relay may hold while 500 robots pull at once.
const maxServeRSS = 150 * mib

func pullPlan(robots int) func(*process) loadgen.Plan {
	return func(p *process) loadgen.Plan {
		return loadgen.Plan{Pull: &loadgen.Pull{Robots: robots, Parallel: 3, Repository: p.repository + servedImage, Tag: "v1"}}
	}
}

func pullRows(samples map[*process][]sample, peaks map[*process]int64, order ...*process) (rows []string) {
	rows = append(rows, fmt.Sprintf("%-14s %8s %8s %8s %12s %16s %6s", "", "MB/s", "p50 s", "p99 s", "peak RSS MiB", "server CPU-s/GB", "turns"))
	for _, p := range order {
		all := samples[p]
		rows = append(rows, fmt.Sprintf("%-14s %8.0f %8.2f %8.2f %12.1f %16.3f %6d", p.name, middle(all, rate), middle(all, percentile(50)),
			middle(all, percentile(99)), float64(peaks[p])/mib, middle(all, cpuPerGB), len(all)))
	}
	return rows
}

// Robots that all pull one image of 85 MB at the same moment, over plain HTTP.
func TestBenchServePull(t *testing.T) {
	for _, robots := range []int{50, 200, 500} {
		t.Run(fmt.Sprint(robots), func(t *testing.T) {
			s := serveSite(t)
			relay, distribution := s.startRelay(), s.startDistribution()
			nginx, _ := s.startNginx()
			// The first turn warms up and is not counted: distribution has one more turn, and with 500 robots, for which it
			// takes gigabytes of memory, this is its last.
			samples := s.turns(5, pullPlan(robots), nginx, relay)
			for p, more := range s.turns(1, pullPlan(robots), distribution) {
				samples[p] = more
			}
			peaks := make(map[*process]int64)
			for _, p := range []*process{nginx, relay, distribution} {
				peaks[p] = p.memory("VmHWM")
			}
			table(t, fmt.Sprintf("%d robots, 85 MB each, plain HTTP", robots), pullRows(samples, peaks, nginx, relay, distribution)...)
			passes(t, fmt.Sprintf("%d robots: MB/s, relay / nginx", robots), middle(samples[relay], rate)/middle(samples[nginx], rate), ">=", 0.9)
			passes(t, fmt.Sprintf("%d robots: peak RSS of the relay, MiB", robots), float64(peaks[relay])/mib, "<=", maxServeRSS/mib)
			if peaks[relay] > maxServeRSS {
				t.Errorf("%d bytes resident with %d robots, the bar is %d", peaks[relay], robots, maxServeRSS)
			}
		})
	}
}

// The same over TLS 1.3.
func TestBenchServePullTLS(t *testing.T) {
	s := serveSite(t)
	relay := s.startRelayTLS()
	_, nginx := s.startNginx()
	samples := s.turns(5, pullPlan(50), nginx, relay)
	peaks := map[*process]int64{nginx: nginx.memory("VmHWM"), relay: relay.memory("VmHWM")}
	table(t, "50 robots, 85 MB each, TLS 1.3, HTTP/1.1", pullRows(samples, peaks, nginx, relay)...)
	passes(t, "50 robots, TLS: MB/s, relay / nginx", middle(samples[relay], rate)/middle(samples[nginx], rate), ">=", 1)
}

// largeBlob is the path of the 500 MB layer.
func (s *site) largeBlob(p *process) string {
	s.t.Helper()
	var index ocispec.Index
	var manifest ocispec.Manifest
	base := "http://" + p.addr + "/v2/" + p.repository + servedLarge + "/manifests/"
	err := json.Unmarshal(get(s.t, base+"v1"), &index)
	if err == nil {
		err = json.Unmarshal(get(s.t, base+index.Manifests[0].Digest.String()), &manifest)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return "/v2/" + p.repository + servedLarge + "/blobs/" + manifest.Layers[0].Digest.String()
}

// One large blob on one connection, and on four.
func TestBenchServeBlob(t *testing.T) {
	s := serveSite(t)
	relay := s.startRelay()
	nginx, _ := s.startNginx()
	blob := s.largeBlob(relay)
	for _, clients := range []int{1, 4} {
		samples := s.turns(15, func(*process) loadgen.Plan {
			return loadgen.Plan{Repeat: &loadgen.Repeat{Clients: clients, Rounds: 4, Exchange: []loadgen.Request{{Method: "GET", Path: blob}}}}
		}, nginx, relay)
		rows := []string{fmt.Sprintf("%-14s %8s %16s", "", "MB/s", "server CPU-s/GB")}
		for _, p := range []*process{nginx, relay} {
			rows = append(rows, fmt.Sprintf("%-14s %8.0f %16.3f", p.name, middle(samples[p], rate), middle(samples[p], cpuPerGB)))
		}
		title := fmt.Sprintf("a blob of 500 MB, %d connections", clients)
		table(t, title, rows...)
		passes(t, title+": MB/s, relay / nginx", middle(samples[relay], rate)/middle(samples[nginx], rate), ">=", 0.9)
	}
}

// A manifest by its tag, on 64 connections that stay open.
func TestBenchServeManifest(t *testing.T) {
	s := serveSite(t)
	robot := s.account("bench-robot")
	relay, distribution := s.startRelay(), s.startDistribution()
	nginx, _ := s.startNginx()
	// The same relay, by a robot that proves who it is with each request.
	guarded := &process{t: t, name: "relay, Basic", cmd: relay.cmd, addr: relay.addr, repository: relayPrefix, headers: robot}
	samples := s.turns(5, func(p *process) loadgen.Plan {
		path := "/v2/" + p.repository + servedImage + "/manifests/v1"
		return loadgen.Plan{Repeat: &loadgen.Repeat{Clients: 64, For: 2 * time.Second, Exchange: []loadgen.Request{
			{Method: "GET", Path: path, Headers: "Accept: " + ocispec.MediaTypeImageIndex + "\r\n"},
		}}}
	}, nginx, relay, guarded, distribution)
	rows := []string{fmt.Sprintf("%-14s %10s %8s %8s %18s", "", "requests/s", "p50 ms", "p99 ms", "server CPU-s/1000")}
	for _, p := range []*process{nginx, relay, guarded, distribution} {
		all := samples[p]
		rows = append(rows, fmt.Sprintf("%-14s %10.0f %8.2f %8.2f %18.3f", p.name, middle(all, perSecond), middle(all, percentile(50))*1e3,
			middle(all, percentile(99))*1e3, middle(all, cpuPerMany)))
	}
	table(t, "GET of a manifest by tag, 64 connections", rows...)
	of := func(p *process) float64 { return middle(samples[relay], perSecond) / middle(samples[p], perSecond) }
	passes(t, "manifests/s, relay / nginx with a static file", of(nginx), ">=", 0.4)
	passes(t, "manifests/s, relay / distribution", of(distribution), ">=", 4)
	t.Logf("in CPU time of the server, relay / nginx: %.2f, nginx being 1", middle(samples[relay], cpuPerMany)/middle(samples[nginx], cpuPerMany))
}
