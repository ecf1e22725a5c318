//go:build bench

package integration

import (
	"fmt"
	"testing"
	"time"

	"github.com/plimsoll/plimsoll/internal/loadgen"
)

// shapedFor is how long bytes are counted at the receivers.
const shapedFor = 8 * time.Second

func (s *site) shaped(flag, limit string, clients int) *loadgen.Result {
	s.t.Helper()
	relay := s.startRelay(flag, limit)
	defer relay.stop()
	return s.load(relay, loadgen.Plan{Repeat: &loadgen.Repeat{
		Clients: clients, For: shapedFor, Cut: true, Exchange: []loadgen.Request{{Method: "GET", Path: s.largeBlob(relay)}},
	}})
}

// All clients together, and each client, get what they were given: within 5 %, counted where it arrives.
func TestBenchServeShaping(t *testing.T) {
	s := serveSite(t)
	const mb = 1_000_000
	within := func(what string, bytes int64, wall time.Duration, limit float64) {
		passes(t, what+", share of the limit", float64(bytes)/wall.Seconds()/limit, "<=", 1.05)
		passes(t, what+", share of the limit", float64(bytes)/wall.Seconds()/limit, ">=", 0.95)
	}
	for _, megabytes := range []int{5, 20, 100} {
		res := s.shaped("--limit-rate", fmt.Sprintf("%dMB", megabytes), 8)
		within(fmt.Sprintf("8 clients, --limit-rate %dMB", megabytes), res.Bytes, res.Wall, float64(megabytes*mb))
		least, most := res.PerClient[0], res.PerClient[0]
		for _, n := range res.PerClient {
			least, most = min(least, n), max(most, n)
		}
		t.Logf("the clients got from %.1f to %.1f MB", float64(least)/mb, float64(most)/mb)
		if res.Errors > 0 {
			t.Errorf("%d errors, the first: %s", res.Errors, res.First)
		}
	}
	for _, megabytes := range []int{2, 20} {
		res := s.shaped("--limit-rate-client", fmt.Sprintf("%dMB", megabytes), 3)
		for i, n := range res.PerClient {
			within(fmt.Sprintf("client %d, --limit-rate-client %dMB", i, megabytes), n, res.Wall, float64(megabytes*mb))
		}
		if res.Errors > 0 {
			t.Errorf("%d errors, the first: %s", res.Errors, res.First)
		}
	}
}
