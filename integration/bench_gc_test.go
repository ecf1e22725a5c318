//go:build bench

package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/plimsoll/plimsoll/internal/loadgen"
)

const garbageBlobs = 20_000

// A collection of 20,000 blobs, and what robots notice of it.
func TestBenchGC(t *testing.T) {
	s := newSite(t)
	s.must("import", s.bundle("v1.5.4"))
	relay := s.startRelay()
	base := "http://" + relay.addr + "/v2/" + relay.repository + "robot-app/manifests/"
	var index ocispec.Index
	var manifest ocispec.Manifest
	err := json.Unmarshal(get(t, base+"v1.5.4"), &index)
	if err == nil {
		err = json.Unmarshal(get(t, base+index.Manifests[0].Digest.String()), &manifest)
	}
	if err != nil {
		t.Fatal(err)
	}
	name := "/v2/" + relay.repository + "robot-app"
	plan := loadgen.Plan{Repeat: &loadgen.Repeat{Clients: 100, Every: 200 * time.Millisecond, For: 3 * time.Second, Exchange: []loadgen.Request{
		{Method: "GET", Path: name + "/manifests/v1.5.4", Headers: "Accept: " + ocispec.MediaTypeImageIndex + "\r\n"},
		{Method: "GET", Path: name + "/blobs/" + manifest.Layers[0].Digest.String()},
	}}}
	s.load(relay, plan) // warms up
	var quiet, busy []float64
	var took []time.Duration
	for range 3 {
		s.litter(garbageBlobs)
		quiet = append(quiet, s.load(relay, plan).Percentile(99).Seconds()*1e3)
		took = append(took, s.collectGarbage())

		s.litter(garbageBlobs)
		loaded := make(chan *loadgen.Result)
		go func() { loaded <- s.load(relay, plan) }()
		under := s.collectGarbage()
		res := <-loaded
		busy = append(busy, res.Percentile(99).Seconds()*1e3)
		t.Logf("gc of %d blobs: %.2f s alone, %.2f s under load; p99 %.2f ms without it, %.2f ms with it", garbageBlobs,
			took[len(took)-1].Seconds(), under.Seconds(), quiet[len(quiet)-1], busy[len(busy)-1])
		if res.Errors > 0 {
			t.Errorf("%d errors while garbage was collected, the first: %s", res.Errors, res.First)
		}
	}
	slices.Sort(quiet)
	slices.Sort(busy)
	passes(t, "gc of 20,000 blobs, s", median(took).Seconds(), "<=", 2)
	passes(t, "p99 while garbage is collected, as a multiple of p99 without", busy[len(busy)/2]/quiet[len(quiet)/2], "<=", 1.2)
}

// collectGarbage says how long the command took.
func (s *site) collectGarbage() time.Duration {
	s.t.Helper()
	start := time.Now()
	var res struct{ Blobs int }
	if err := json.Unmarshal([]byte(s.secret("gc", "--json", "--progress", "none")), &res); err != nil {
		s.t.Fatal(err)
	}
	if res.Blobs != garbageBlobs {
		s.t.Errorf("%d blobs were collected, want %d", res.Blobs, garbageBlobs)
	}
	return time.Since(start)
}

// litter puts blobs into the store that nothing refers to.
func (s *site) litter(n int) {
	s.t.Helper()
	data := make([]byte, 4096)
	for i := range n {
		hex := digest.FromString(fmt.Sprint("garbage ", i)).Encoded()
		dir := filepath.Join(s.data, "store", "blobs", "sha256", hex[:2])
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, hex), data, 0o644)); err != nil {
			s.t.Fatal(err)
		}
	}
	unix.Sync() // what it leaves to be written must not be measured
}
