package admin

import (
	"cmp"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Sources are asked when metrics are read. What is nil is left out.
type Sources struct {
	Queues         map[string]func() Queue // by what waits in them: blobs, git
	Connections    func() Connections
	GitProcesses   func() int
	Generation     func() uint64
	Releases       func() []Release
	CertificateEnd func() time.Time // of the certificate shown to robots; zero if there is none
	CAEnd          func() time.Time // of the site's CA; zero if there is none
	Recording      func() Recording
	Hooks          func() []Hook
}

// Queue is the state of a queue.
type Queue struct{ Running, Waiting int }

// Connections is the state of the listener for robots.
type Connections struct{ Open, Parked int }

// Release is an active release.
type Release struct{ Name, Version, Digest string }

// Recording is the state of package seen.
type Recording struct {
	Recorded, Dropped uint64
	Paused            bool
}

// Hook is the state of one who is told of new generations.
type Hook struct {
	Name         string
	Pending      bool // it has not been told of what is served
	Told, Failed uint64
}

// Watch adds what others know. It is called once, at the start.
func (m *Metrics) Watch(s Sources) { m.registry.MustRegister(newWatched(s)) }

// watched asks Sources anew for each reading, so that nobody has to keep gauges up to date.
type watched struct {
	sources                                    Sources
	running, waiting, connections, parked, git *prometheus.Desc
	generation, release, certificate, ca       *prometheus.Desc
	recorded, dropped, paused                  *prometheus.Desc
	hookTold, hookFailed, hookPending          *prometheus.Desc
}

func newWatched(s Sources) *watched {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("plimsoll_"+name, help, labels, nil)
	}
	return &watched{
		sources:     s,
		running:     desc("queue_running", "Requests that have their turn, by queue.", "queue"),
		waiting:     desc("queue_waiting", "Requests that wait for their turn, by queue.", "queue"),
		connections: desc("connections", "Open connections of robots."),
		parked:      desc("connections_parked", "Connections of robots that wait to be accepted."),
		git:         desc("git_processes", "Git processes that run."),
		generation:  desc("generation", "Number of the generation that is served; 0 before the first activation."),
		release:     desc("active_release_info", "Always 1; the labels say which releases are active.", "name", "version", "digest"),
		certificate: desc("certificate_not_after_timestamp_seconds", "End of the certificate that robots see, in seconds since 1970."),
		ca:          desc("ca_not_after_timestamp_seconds", "End of the site's CA, in seconds since 1970."),
		recorded:    desc("history_events_total", "Events recorded in the history of pulls."),
		dropped:     desc("history_dropped_events_total", "Events lost to the history of pulls, because its queue was full or its file could not be written."),
		hookTold:    desc("hook_told_total", "News that a hook answered, since the start.", "hook"),
		hookFailed:  desc("hook_failed_attempts_total", "Attempts to tell a hook that went wrong, since the start.", "hook"),
		hookPending: desc("hook_pending", "1 while a hook has not been told of what is served, else 0.", "hook"),
		paused:      desc("history_paused", "1 while the history of pulls cannot be written, else 0."),
	}
}

// Describe tells the registry what there is, for it to refuse the same name twice.
func (w *watched) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{w.running, w.waiting, w.connections, w.parked, w.git, w.generation, w.release,
		w.certificate, w.ca, w.recorded, w.dropped, w.paused, w.hookTold, w.hookFailed, w.hookPending} {
		ch <- d
	}
}

// Collect asks everybody.
func (w *watched) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v uint64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v))
	}
	s := &w.sources
	if s.Hooks != nil {
		for _, h := range s.Hooks() {
			pending := 0.0
			if h.Pending {
				pending = 1
			}
			gauge(w.hookPending, pending, h.Name)
			ch <- prometheus.MustNewConstMetric(w.hookTold, prometheus.CounterValue, float64(h.Told), h.Name)
			ch <- prometheus.MustNewConstMetric(w.hookFailed, prometheus.CounterValue, float64(h.Failed), h.Name)
		}
	}
	for name, ask := range s.Queues {
		q := ask()
		gauge(w.running, float64(q.Running), name)
		gauge(w.waiting, float64(q.Waiting), name)
	}
	if s.Connections != nil {
		c := s.Connections()
		gauge(w.connections, float64(c.Open))
		gauge(w.parked, float64(c.Parked))
	}
	if s.GitProcesses != nil {
		gauge(w.git, float64(s.GitProcesses()))
	}
	if s.Generation != nil {
		gauge(w.generation, float64(s.Generation()))
	}
	if s.Releases != nil {
		releases := slices.Clone(s.Releases())
		// The registry refuses a whole reading for one thing that is there twice.
		slices.SortFunc(releases, func(a, b Release) int {
			return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Version, b.Version), cmp.Compare(a.Digest, b.Digest))
		})
		for _, r := range slices.Compact(releases) {
			gauge(w.release, 1, r.Name, r.Version, r.Digest)
		}
	}
	for _, e := range []struct {
		desc *prometheus.Desc
		ask  func() time.Time
	}{{w.certificate, s.CertificateEnd}, {w.ca, s.CAEnd}} {
		if e.ask == nil {
			continue
		}
		if end := e.ask(); !end.IsZero() {
			gauge(e.desc, float64(end.Unix()))
		}
	}
	if s.Recording != nil {
		r := s.Recording()
		counter(w.recorded, r.Recorded)
		counter(w.dropped, r.Dropped)
		paused := 0.0
		if r.Paused {
			paused = 1
		}
		gauge(w.paused, paused)
	}
}
