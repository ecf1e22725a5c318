//go:build bench

package integration

import (
	"bufio"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	startStreams  = 5
	startVersions = 10 // of each stream: one is active, the others are kept
	startImages   = 35 // of each release; with signatures and attestations about 400 blobs
)

// manyReleases imports 50 releases with 20,000 blobs.
func (s *site) manyReleases() (blobs int) {
	s.t.Helper()
	dir := s.t.TempDir()
	s.must("settings", "--keep", fmt.Sprint(startVersions))
	for stream := range startStreams {
		for version := range startVersions {
			release := filepath.Join(dir, "release")
			layout := filepath.Join(release, "layout")
			layoutImages(s.t, layout, fmt.Sprintf("%d.%d", stream, version), startImages)
			var text strings.Builder
			fmt.Fprintf(&text, "apiVersion: plimsoll.dev/v1\nkind: Bundle\nmetadata: {name: plant-%d, version: v1.%d.0, created: 2026-11-21T00:00:00Z}\nspec:\n  images:\n", stream, version)
			for i := range startImages {
				fmt.Fprintf(&text, "    - {ref: \"oci:%s:app-%02d\", as: \"ghcr.io/plant-%d/app-%02[2]d:v1.%[4]d.0\"}\n", layout, i, stream, version)
			}
			spec, out := filepath.Join(release, "bundle.yaml"), filepath.Join(release, "out")
			if err := os.WriteFile(spec, []byte(text.String()), 0o644); err != nil {
				s.t.Fatal(err)
			}
			if _, err := s.run("plimsoll", "build", "-f", spec, "-o", out, "--no-sbom", "--sign", s.path("keys", "release.key"), "--attest", s.path("keys", "attest.key")); err != nil {
				s.t.Fatal(err)
			}
			s.must("import", out)
			if err := os.RemoveAll(release); err != nil {
				s.t.Fatal(err)
			}
		}
	}
	err := filepath.WalkDir(filepath.Join(s.data, "store", "blobs"), func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			blobs++
		}
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return blobs
}

// answers asks once, and reports whether there was an answer.
func answers(addr string) bool {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return false
	}
	defer conn.Close() //nolint:errcheck // after the answer
	_, err = conn.Write([]byte("GET /v2/ HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\r\n"))
	if err != nil {
		return false
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	return err == nil && strings.Contains(line, " 200 ")
}

// A relay with 50 releases of 400 blobs each is started again: how long until it answers, and what does it hold?
func TestBenchServeStart(t *testing.T) {
	s := newSite(t)
	start := time.Now()
	blobs := s.manyReleases()
	t.Logf("%d releases, %d blobs imported in %.0f s", startStreams*startVersions, blobs, time.Since(start).Seconds())
	var ready, cpu []time.Duration
	var idle int64
	for turn := range 12 {
		addr := freeAddress(t)
		start := time.Now()
		p := s.beginServe(addr)
		for !answers(addr) {
			if time.Since(start) > time.Minute {
				t.Fatalf("the relay does not answer\n%s", p.log.String())
			}
			<-time.After(200 * time.Microsecond)
		}
		if took := time.Since(start); turn > 0 { // the first one may still write what the later ones read
			ready = append(ready, took)
		} else {
			t.Logf("first start: %v", took)
		}
		idle = max(idle, p.settled())
		cmd := p.cmd
		p.stop()
		cpu = append(cpu, cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime())
	}
	slices.Sort(ready)
	t.Logf("from exec to the first answer: %v to %v, median %v; CPU time of starting and stopping: %v", ready[0], ready[len(ready)-1], median(ready), median(cpu))
	passes(t, "ready after start, ms", float64(median(ready).Microseconds())/1e3, "<=", 100)
	passes(t, "RSS when idle, MiB", float64(idle)/mib, "<=", 40)
	fi, err := os.Stat(filepath.Join(s.bin, "plimsoll-relay"))
	if err != nil {
		t.Fatal(err)
	}
	passes(t, "size of plimsoll-relay, MB", float64(fi.Size())/1e6, "<=", 45)
	if idle > 40*mib {
		t.Errorf("%d bytes resident when idle, the bar is 40 MiB", idle)
	}
}

// beginServe starts a relay and does not wait for it.
func (s *site) beginServe(addr string) *process {
	s.t.Helper()
	args := []string{"serve", "--data", s.data, "--listen", addr, "--admin-listen", freeAddress(s.t), "--site", "test", "--insecure-plain-http", "--insecure-anonymous"}
	p := &process{t: s.t, name: "relay", addr: addr, cmd: s.command("plimsoll-relay", args...).Cmd}
	p.cmd.Stderr = &p.log
	if err := p.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(p.stop)
	return p
}

// settled is what is resident after a second without a request.
func (p *process) settled() int64 {
	<-time.After(time.Second)
	return p.memory("VmRSS")
}
