package admin

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

func everything() Sources {
	return Sources{
		Queues: map[string]func() Queue{
			"blobs": func() Queue { return Queue{Running: 3, Waiting: 4} },
			"git":   func() Queue { return Queue{} },
		},
		Connections:  func() Connections { return Connections{Open: 7, Parked: 1} },
		GitProcesses: func() int { return 2 },
		Generation:   func() uint64 { return 9 },
		Releases: func() []Release {
			return []Release{{"stack", "v1", "sha256:1"}, {"maps", "v3", ""}, {"stack", "v1", "sha256:1"}}
		},
		CertificateEnd: func() time.Time { return time.Unix(2_000_000_000, 0) },
		CAEnd:          func() time.Time { return time.Time{} },
		Recording:      func() Recording { return Recording{Recorded: 10, Dropped: 1, Paused: true} },
	}
}

func TestMetrics(t *testing.T) {
	m := NewMetrics(MetricsOptions{Version: "v1.2.3", Kinds: []string{"manifest", "blob"}})
	m.Watch(everything())
	for range 4 {
		m.Begin()
	}
	m.Observe("blob", 206, 1000, time.Second)
	m.Observe("surprise", 404, 10, time.Millisecond)
	m.Observe("manifest", 0, -1, -1)
	m.Refused(WrongCredentials)
	m.Refused("surprise")
	m.Scrubbed(5, 6, false)
	m.BlobDamaged()
	m.BlobsHealed(2)
	m.BlobsMissing(3)
	m.StoreProblem()
	want := `
# HELP plimsoll_active_release_info Always 1; the labels say which releases are active.
# TYPE plimsoll_active_release_info gauge
plimsoll_active_release_info{digest="",name="maps",version="v3"} 1
plimsoll_active_release_info{digest="sha256:1",name="stack",version="v1"} 1
# HELP plimsoll_auth_refusals_total Requests that were not let in, by reason. Many clients ask without credentials first.
# TYPE plimsoll_auth_refusals_total counter
plimsoll_auth_refusals_total{reason="forbidden"} 0
plimsoll_auth_refusals_total{reason="no-credentials"} 0
plimsoll_auth_refusals_total{reason="other"} 1
plimsoll_auth_refusals_total{reason="slowed"} 0
plimsoll_auth_refusals_total{reason="wrong-credentials"} 1
# HELP plimsoll_certificate_not_after_timestamp_seconds End of the certificate that robots see, in seconds since 1970.
# TYPE plimsoll_certificate_not_after_timestamp_seconds gauge
plimsoll_certificate_not_after_timestamp_seconds 2e+09
# HELP plimsoll_connections Open connections of robots.
# TYPE plimsoll_connections gauge
plimsoll_connections 7
# HELP plimsoll_connections_parked Connections of robots that wait to be accepted.
# TYPE plimsoll_connections_parked gauge
plimsoll_connections_parked 1
# HELP plimsoll_damaged_blobs_total Blobs that the disk has changed or does not give any more.
# TYPE plimsoll_damaged_blobs_total counter
plimsoll_damaged_blobs_total 1
# HELP plimsoll_generation Number of the generation that is served; 0 before the first activation.
# TYPE plimsoll_generation gauge
plimsoll_generation 9
# HELP plimsoll_git_processes Git processes that run.
# TYPE plimsoll_git_processes gauge
plimsoll_git_processes 2
# HELP plimsoll_healed_blobs_total Missing blobs that the serving relay brought from where their releases came from.
# TYPE plimsoll_healed_blobs_total counter
plimsoll_healed_blobs_total 2
# HELP plimsoll_history_dropped_events_total Events lost to the history of pulls, because its queue was full or its file could not be written.
# TYPE plimsoll_history_dropped_events_total counter
plimsoll_history_dropped_events_total 1
# HELP plimsoll_history_events_total Events recorded in the history of pulls.
# TYPE plimsoll_history_events_total counter
plimsoll_history_events_total 10
# HELP plimsoll_history_paused 1 while the history of pulls cannot be written, else 0.
# TYPE plimsoll_history_paused gauge
plimsoll_history_paused 1
# HELP plimsoll_missing_blobs Blobs that releases which are here name and the store has not, when it was last looked.
# TYPE plimsoll_missing_blobs gauge
plimsoll_missing_blobs 3
# HELP plimsoll_queue_running Requests that have their turn, by queue.
# TYPE plimsoll_queue_running gauge
plimsoll_queue_running{queue="blobs"} 3
plimsoll_queue_running{queue="git"} 0
# HELP plimsoll_queue_waiting Requests that wait for their turn, by queue.
# TYPE plimsoll_queue_waiting gauge
plimsoll_queue_waiting{queue="blobs"} 4
plimsoll_queue_waiting{queue="git"} 0
# HELP plimsoll_requests_in_flight Requests of robots that are being answered.
# TYPE plimsoll_requests_in_flight gauge
plimsoll_requests_in_flight 1
# HELP plimsoll_requests_total Answered requests of robots, by what was asked and the class of the HTTP status.
# TYPE plimsoll_requests_total counter
plimsoll_requests_total{code="1xx",kind="blob"} 0
plimsoll_requests_total{code="1xx",kind="manifest"} 0
plimsoll_requests_total{code="1xx",kind="other"} 0
plimsoll_requests_total{code="2xx",kind="blob"} 1
plimsoll_requests_total{code="2xx",kind="manifest"} 0
plimsoll_requests_total{code="2xx",kind="other"} 0
plimsoll_requests_total{code="3xx",kind="blob"} 0
plimsoll_requests_total{code="3xx",kind="manifest"} 0
plimsoll_requests_total{code="3xx",kind="other"} 0
plimsoll_requests_total{code="4xx",kind="blob"} 0
plimsoll_requests_total{code="4xx",kind="manifest"} 0
plimsoll_requests_total{code="4xx",kind="other"} 1
plimsoll_requests_total{code="5xx",kind="blob"} 0
plimsoll_requests_total{code="5xx",kind="manifest"} 1
plimsoll_requests_total{code="5xx",kind="other"} 0
# HELP plimsoll_response_bytes_total Bytes of bodies sent to robots, by what was asked.
# TYPE plimsoll_response_bytes_total counter
plimsoll_response_bytes_total{kind="blob"} 1000
plimsoll_response_bytes_total{kind="manifest"} 0
plimsoll_response_bytes_total{kind="other"} 10
# HELP plimsoll_scrub_end_timestamp_seconds When all blobs had been read again, in seconds since 1970; 0 if not since the start.
# TYPE plimsoll_scrub_end_timestamp_seconds gauge
plimsoll_scrub_end_timestamp_seconds 0
# HELP plimsoll_scrubbed_blobs_total Blobs that were read again to see whether the disk has kept them.
# TYPE plimsoll_scrubbed_blobs_total counter
plimsoll_scrubbed_blobs_total 5
# HELP plimsoll_scrubbed_bytes_total Bytes of them.
# TYPE plimsoll_scrubbed_bytes_total counter
plimsoll_scrubbed_bytes_total 6
# HELP plimsoll_store_problems_total Answers that failed because content which must be in the store was absent or unreadable.
# TYPE plimsoll_store_problems_total counter
plimsoll_store_problems_total 1
`
	var got strings.Builder
	for line := range strings.Lines(ask(Handler(Options{Metrics: m}), "GET", "/metrics", here).Body.String()) {
		if strings.Contains(line, "plimsoll_") && !strings.Contains(line, "plimsoll_build_info") && !strings.Contains(line, "plimsoll_request_duration_seconds") {
			got.WriteString(line)
		}
	}
	if got.String() != want[1:] {
		t.Errorf("metrics:\n%s\nwant\n%s", got.String(), want[1:])
	}
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "plimsoll_request_duration_seconds" {
			continue
		}
		for _, metric := range f.GetMetric() {
			if h := metric.GetHistogram(); h.GetSampleCount() != 1 || math.IsNaN(h.GetSampleSum()) || h.GetSampleSum() < 0 {
				t.Errorf("%v: %d with sum %v", metric.GetLabel(), h.GetSampleCount(), h.GetSampleSum())
			}
		}
	}
}

// Whoever reads a metric is told what it is and, by its name or its help, in which unit; promtool finds nothing to say.
func TestHelps(t *testing.T) {
	m := NewMetrics(MetricsOptions{})
	m.Watch(everything())
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	for name, help := range helps(t, m) {
		if !strings.HasPrefix(name, "plimsoll_") {
			continue
		}
		if strings.HasSuffix(name, "_seconds") && !strings.Contains(help, "seconds") || strings.HasSuffix(name, "bytes_total") && !strings.Contains(help, "ytes") {
			t.Errorf("%s does not say its unit: %s", name, help)
		}
	}
}

// A source that is not there is left out and does not fail the reading.
func TestWatchNothing(t *testing.T) {
	m := NewMetrics(MetricsOptions{})
	m.Watch(Sources{})
	for name := range helps(t, m) {
		if strings.HasPrefix(name, "plimsoll_generation") || strings.HasPrefix(name, "plimsoll_queue") {
			t.Errorf("%s without a source", name)
		}
	}
}

func helps(t *testing.T, m *Metrics) map[string]string {
	t.Helper()
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	helps := make(map[string]string)
	for _, f := range families {
		helps[f.GetName()] = f.GetHelp()
	}
	return helps
}

func TestObserveAllocatesNothing(t *testing.T) {
	m := NewMetrics(MetricsOptions{Kinds: []string{"blob"}})
	if n := testing.AllocsPerRun(1000, func() {
		m.Begin()
		m.Observe("blob", 200, 1<<20, time.Second)
		m.Refused(NoCredentials)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkObserve(b *testing.B) {
	m := NewMetrics(MetricsOptions{Kinds: []string{"ping", "tags", "manifest", "blob"}})
	b.ReportAllocs()
	for b.Loop() {
		m.Begin()
		m.Observe("manifest", 200, 1234, 300*time.Microsecond)
	}
}

func BenchmarkObserveParallel(b *testing.B) {
	m := NewMetrics(MetricsOptions{Kinds: []string{"ping", "tags", "manifest", "blob"}})
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			m.Begin()
			m.Observe("manifest", 200, 1234, 300*time.Microsecond)
		}
	})
}
