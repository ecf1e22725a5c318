package gitmirror

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/plimsoll/plimsoll/bundle"
)

// TestSwitchUnderClients: shallow clones go on while generations are switched a hundred times, with a new layer at every
// tenth. No client sees an error, and each gets a commit of the release that it saw.
func TestSwitchUnderClients(t *testing.T) {
	const clients, switches, news = 6, 100, 10
	s, source, site := newSite(t, Options{})
	m := site.m
	type release struct {
		g     bundle.Git
		layer []byte
	}
	releases := []release{{g: s.state(source), layer: s.layer(source)}}
	for i := range switches / news {
		base := s.git(source, "rev-parse", "main")
		s.commit(source, "robot-values/robot-001.yaml", fmt.Sprintf("ssid: line-%d\n", i))
		releases = append(releases, release{g: s.state(source), layer: s.layer(source, "main", "^"+base)})
	}
	known := make(map[string]bool)
	for _, r := range releases {
		known[r.g.Refs[1].OID] = true
	}

	var stop atomic.Bool
	var clones atomic.Int64
	var wg sync.WaitGroup
	dir := t.TempDir()
	for c := range clients {
		wg.Go(func() {
			version := []string{"protocol.version=0", "protocol.version=2"}[c%2]
			for n := 0; !stop.Load() || n == 0; n++ {
				clone := filepath.Join(dir, fmt.Sprintf("%d-%d", c, n))
				if _, err := s.try(dir, "-c", version, "clone", "--quiet", "--depth=1", "--no-tags", site.url(), clone); err != nil {
					t.Error(err)
					return
				}
				head, err := s.try(clone, "rev-parse", "HEAD")
				if err != nil || !known[head] {
					t.Errorf("HEAD %s, %v", head, err)
					return
				}
				clones.Add(1)
			}
		})
	}
	var layers [][]byte
	latest := -1
	for n := range switches {
		if n%news == 0 {
			latest++
			layers = append(layers, releases[latest].layer)
			admit(t, m, releases[latest].g, layers...)
		}
		number := uint64(n + 2)
		site.active.Store(prepare(t, m, number, releases[(n*7)%(latest+1)].g)) // also back to older ones
		if err := m.Prune(context.Background(), number, number-1, number-2); err != nil {
			t.Error(err)
		}
	}
	stop.Store(true)
	wg.Wait()
	t.Logf("%d clones during %d switches", clones.Load(), switches)
	if found, err := filepath.Glob(m.path("gen-*")); err != nil || len(found) > 5 {
		t.Errorf("generations left: %v, %v", strings.Join(found, " "), err)
	}
}
