package admin

import (
	"runtime"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// otherKind counts what is none of MetricsOptions.Kinds.
const otherKind = "other"

// The reasons for which a client is not let in.
const (
	NoCredentials    = "no-credentials"    // the first request of a client that waits to be asked
	WrongCredentials = "wrong-credentials" // unknown name, wrong secret, certificate of somebody else
	Slowed           = "slowed"            // too many wrong ones from one address
	Forbidden        = "forbidden"         // known, and not allowed to do this
)

// MetricsOptions say what is known at the start. The zero value works.
type MetricsOptions struct {
	Version string
	Kinds   []string // of requests; all else is "other"
}

// Metrics counts what the relay does, in a registry of its own. Its methods may be called from everywhere at once, cost
// a fraction of a microsecond and allocate nothing.
type Metrics struct {
	registry *prometheus.Registry
	kinds    map[string]*kindMetrics // read only
	inFlight prometheus.Gauge
	refused  map[string]prometheus.Counter // read only
	store    prometheus.Counter

	scrubbed, scrubbedBytes, damaged, healed prometheus.Counter
	missing, scrubEnd                        prometheus.Gauge
}

// kindMetrics are the counters of one kind, found once: looking labels up takes longer than counting.
type kindMetrics struct {
	classes [5]prometheus.Counter // 1xx to 5xx
	bytes   prometheus.Counter
	seconds prometheus.Observer
}

// NewMetrics makes the registry.
func NewMetrics(o MetricsOptions) *Metrics {
	if o.Version == "" {
		o.Version = "devel"
	}
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		kinds:    make(map[string]*kindMetrics),
		refused:  make(map[string]prometheus.Counter),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "plimsoll_requests_in_flight", Help: "Requests of robots that are being answered."}),
		store: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "plimsoll_store_problems_total", Help: "Answers that failed because content which must be in the store was absent or unreadable."}),
		scrubbed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "plimsoll_scrubbed_blobs_total", Help: "Blobs that were read again to see whether the disk has kept them."}),
		scrubbedBytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "plimsoll_scrubbed_bytes_total", Help: "Bytes of them."}),
		damaged: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "plimsoll_damaged_blobs_total", Help: "Blobs that the disk has changed or does not give any more."}),
		healed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "plimsoll_healed_blobs_total", Help: "Missing blobs that the serving relay brought from where their releases came from."}),
		missing: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "plimsoll_missing_blobs", Help: "Blobs that releases which are here name and the store has not, when it was last looked."}),
		scrubEnd: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "plimsoll_scrub_end_timestamp_seconds", Help: "When all blobs had been read again, in seconds since 1970; 0 if not since the start."}),
	}
	var (
		requests = prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "plimsoll_requests_total", Help: "Answered requests of robots, by what was asked and the class of the HTTP status."}, []string{"kind", "code"})
		bytes = prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "plimsoll_response_bytes_total", Help: "Bytes of bodies sent to robots, by what was asked."}, []string{"kind"})
		seconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "plimsoll_request_duration_seconds",
			Help:    "Time from a request's header to the end of its answer, in seconds, by what was asked; with the time spent waiting for one's turn.",
			Buckets: []float64{0.005, 0.05, 0.5, 5, 60, 600}}, []string{"kind"})
		refused = prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "plimsoll_auth_refusals_total", Help: "Requests that were not let in, by reason. Many clients ask without credentials first."}, []string{"reason"})
		build = prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "plimsoll_build_info", Help: "Always 1; the labels say which program this is.",
			ConstLabels: prometheus.Labels{"version": o.Version, "goversion": runtime.Version()}})
	)
	build.Set(1)
	m.registry.MustRegister(requests, bytes, seconds, refused, build, m.inFlight, m.store,
		m.scrubbed, m.scrubbedBytes, m.damaged, m.healed, m.missing, m.scrubEnd,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for _, kind := range append(slices.Clone(o.Kinds), otherKind) {
		k := &kindMetrics{bytes: bytes.WithLabelValues(kind), seconds: seconds.WithLabelValues(kind)}
		for i, class := range []string{"1xx", "2xx", "3xx", "4xx", "5xx"} {
			k.classes[i] = requests.WithLabelValues(kind, class)
		}
		m.kinds[kind] = k
	}
	for _, reason := range []string{NoCredentials, WrongCredentials, Slowed, Forbidden, otherKind} {
		m.refused[reason] = refused.WithLabelValues(reason)
	}
	return m
}

// Begin counts a request that is being answered, until Observe counts it as answered.
func (m *Metrics) Begin() { m.inFlight.Inc() }

// Observe counts a request that Begin counted: what was asked, the HTTP status, the bytes of the body and the time that
// it took. A status that is none counts as 5xx.
func (m *Metrics) Observe(kind string, status int, bytes int64, took time.Duration) {
	k := m.kinds[kind]
	if k == nil {
		k = m.kinds[otherKind]
	}
	class := status/100 - 1
	if class < 0 || class >= len(k.classes) {
		class = len(k.classes) - 1
	}
	k.classes[class].Inc()
	k.bytes.Add(float64(max(bytes, 0)))
	k.seconds.Observe(max(took, 0).Seconds())
	m.inFlight.Dec()
}

// Refused counts a request that was not let in, for one of the reasons above.
func (m *Metrics) Refused(reason string) {
	c := m.refused[reason]
	if c == nil {
		c = m.refused[otherKind]
	}
	c.Inc()
}

// StoreProblem counts an answer that failed because of the store.
func (m *Metrics) StoreProblem() { m.store.Inc() }

// Scrubbed counts what was read again; whole says that it was the last of all blobs.
func (m *Metrics) Scrubbed(blobs int, bytes int64, whole bool) {
	m.scrubbed.Add(float64(blobs))
	m.scrubbedBytes.Add(float64(bytes))
	if whole {
		m.scrubEnd.SetToCurrentTime()
	}
}

// BlobDamaged counts a blob that the disk has not kept.
func (m *Metrics) BlobDamaged() { m.damaged.Inc() }

// BlobsHealed counts blobs that were missing and came back.
func (m *Metrics) BlobsHealed(n int) { m.healed.Add(float64(n)) }

// BlobsMissing says how many blobs are missing now.
func (m *Metrics) BlobsMissing(n int) { m.missing.Set(float64(n)) }
