package gitmirror

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/plimsoll/plimsoll/bundle"
)

// switcher serves another generation at each request that comes, so that the refs a client was shown are never those of
// the generation it then asks.
type switcher struct {
	m        *Mirror
	releases []bundle.Git

	mu     sync.Mutex
	number uint64        // of switches
	enough chan struct{} // closed when there were switches enough
	kept   []*Generation // the last 16 that were prepared
}

const switches = 200

// next switches: at each fifth time to a new generation, mostly of the newest release so far, else to one before.
func (s *switcher) next() (*Generation, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.number == switches {
		return s.kept[0], nil
	}
	if s.number++; s.number == switches {
		close(s.enough)
	}
	if s.number%5 != 1 {
		return s.kept[s.number%uint64(len(s.kept))], nil
	}
	latest := int(s.number) * len(s.releases) / (switches + 1)
	if s.number%3 == 0 {
		latest /= 2
	}
	gen, err := s.m.Prepare(context.Background(), s.number, []Repository{{Path: place, Git: s.releases[latest]}})
	if err != nil {
		return nil, err
	}
	s.kept = append(s.kept, gen)
	s.kept = s.kept[max(0, len(s.kept)-16):]
	var keep []uint64
	for _, g := range s.kept {
		keep = append(keep, g.Number())
	}
	return gen, s.m.Prune(context.Background(), keep...)
}

// TestClients17SwitchUnderClients: shallow clones go on while generations are switched 200 times, once at every request of
// theirs. No client sees an error, and each gets a commit of a release. (The same of clients that ask by id: point 15.)
func TestClients17SwitchUnderClients(t *testing.T) {
	t.Parallel()
	const clients, news = 6, 10
	s := newSandbox(t)
	source := s.source()
	m := open(t, filepath.Join(t.TempDir(), "git"), Options{})
	sw := &switcher{m: m, enough: make(chan struct{})}
	layers := [][]byte{s.layer(source)}
	admit(t, m, s.state(source), layers...)
	sw.releases = append(sw.releases, s.state(source))
	known := make(map[string]bool)
	for i := range news {
		known[s.Git(source, "rev-parse", "main")] = true
		base := s.Git(source, "rev-parse", "main")
		s.Commit(source, "robot-values/robot-001.yaml", fmt.Sprintf("ssid: line-%d\n", i))
		layers = append(layers, s.layer(source, "main", "^"+base))
		admit(t, m, s.state(source), layers...)
		sw.releases = append(sw.releases, s.state(source))
	}
	known[s.Git(source, "rev-parse", "main")] = true

	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		gen, err := sw.next()
		if err != nil {
			t.Error(err)
			http.Error(w, "no generation", http.StatusInternalServerError)
			return
		}
		m.ServeGeneration(w, r, gen)
	}))
	t.Cleanup(server.Close)
	var wg sync.WaitGroup
	dir := t.TempDir()
	for c := range clients {
		wg.Go(func() {
			version := []string{"protocol.version=0", "protocol.version=2"}[c%2]
			for n := 0; ; n++ {
				clone := filepath.Join(dir, fmt.Sprintf("%d-%d", c, n))
				if _, err := s.Try(dir, "-c", version, "clone", "--quiet", "--depth=1", "--no-tags", server.URL+"/git/"+place, clone); err != nil {
					t.Error(err)
					return
				}
				head, err := s.Try(clone, "rev-parse", "HEAD")
				if err != nil || !known[head] {
					t.Errorf("HEAD %s, %v", head, err)
					return
				}
				select {
				case <-sw.enough:
					return
				default:
				}
			}
		})
	}
	wg.Wait()
	if found, err := filepath.Glob(m.path("gen-*")); err != nil || len(found) < 16 || len(found) > 25 { // a request may keep one
		t.Errorf("generations left: %v, %v", strings.Join(found, " "), err)
	}
}
