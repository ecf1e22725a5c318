// Package admin is what the relay shows to those who run it: metrics, health, profiles and reloading, on a listener that
// is not the robots'.
package admin

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	runtimepprof "runtime/pprof"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const (
	maxReadings       = 4   // of the metrics at once
	maxProfileSeconds = 120 // of a profile or trace: each costs the robots time
)

// ErrForbidden is for Options.Allow to say: known, and not an administrator. The answer is 403 then, else 401.
var ErrForbidden = errors.New("administration needs the role admin")

// Options are what a Handler answers with and to whom. With the zero value it answers loopback only.
type Options struct {
	Metrics *Metrics
	Live    func() error                    // nil: alive as long as it answers
	Ready   func() (text string, err error) // text says what is served: robot-stack v1.5.5, generation 7
	Reload  func() error                    // reads certificates and credentials again

	// Allow says whether a client that is not on this machine may administer. Nil: nobody may.
	Allow func(*http.Request) error
	// Refuse answers what Allow did not. Nil: 401 with a Basic challenge, or 403 for ErrForbidden.
	Refuse func(w http.ResponseWriter, r *http.Request, err error)

	Networks []netip.Prefix // from which one may connect; loopback always may
	Names    []string       // by which the listener may be asked, besides IP addresses and localhost
}

type handler struct {
	Options
	names     map[string]bool
	metrics   http.Handler
	reloading chan struct{} // has an element while it is reloaded
}

// Handler answers GET /, /metrics, /healthz, /readyz, /debug/pprof/… and POST /-/reload.
//
// Who is on this machine needs no credentials. From Networks, /healthz and /readyz need none either, since load balancers
// have none; all else is up to Allow. A request that was forwarded by a proxy on this machine is not from this machine.
//
// The name in the Host header must be one of ours, and a browser must not have been sent by another site: else a web
// page that an administrator looks at could read what is here, or reload.
func Handler(o Options) http.Handler {
	h := &handler{Options: o, names: map[string]bool{"localhost": true}, reloading: make(chan struct{}, 1)}
	for _, name := range o.Names {
		h.names[canonicalName(name)] = true
	}
	if o.Metrics != nil {
		h.metrics = promhttp.HandlerFor(o.Metrics.registry, promhttp.HandlerOpts{MaxRequestsInFlight: maxReadings, ErrorHandling: promhttp.ContinueOnError})
	}
	return h
}

// access says who may ask for a page from beyond this machine.
type access int

const (
	anybody access = iota // in Networks
	administrators
)

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("X-Frame-Options", "DENY")

	here, known := h.origin(r)
	if !known {
		text(w, http.StatusForbidden, "administration is not for this address")
		return
	}
	if !h.ours(r.Host) {
		text(w, http.StatusMisdirectedRequest, "administration is reached by IP address, as localhost or by a configured name")
		return
	}
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" && site != "none" || foreignOrigin(r) {
		text(w, http.StatusForbidden, "administration is not for the pages of other sites")
		return
	}
	serve, method, who := h.route(r.URL.Path)
	if !here && (serve == nil || who == administrators) { // who may not read learns nothing of what there is
		if err := h.allow(r); err != nil {
			h.refuse(w, r, err)
			return
		}
	}
	if serve == nil {
		text(w, http.StatusNotFound, "not found")
		return
	}
	if r.Method != method && !(method == http.MethodGet && r.Method == http.MethodHead) {
		header.Set("Allow", method)
		text(w, http.StatusMethodNotAllowed, "only "+method)
		return
	}
	serve(w, r)
}

// route finds who answers a path; paths are compared byte by byte, nothing is cleaned and nothing redirected.
func (h *handler) route(path string) (serve http.HandlerFunc, method string, who access) {
	switch path {
	case "/":
		return h.index, http.MethodGet, administrators
	case "/healthz":
		return h.healthz, http.MethodGet, anybody
	case "/readyz":
		return h.readyz, http.MethodGet, anybody
	case "/metrics":
		if h.metrics != nil {
			return h.metrics.ServeHTTP, http.MethodGet, administrators
		}
	case "/-/reload":
		if h.Reload != nil {
			return h.reload, http.MethodPost, administrators
		}
	case "/debug/pprof/":
		return pprof.Index, http.MethodGet, administrators
	case "/debug/pprof/cmdline":
		return pprof.Cmdline, http.MethodGet, administrators
	case "/debug/pprof/symbol":
		return pprof.Symbol, http.MethodGet, administrators
	case "/debug/pprof/profile":
		return bounded(pprof.Profile), http.MethodGet, administrators
	case "/debug/pprof/trace":
		return bounded(pprof.Trace), http.MethodGet, administrators
	default:
		if name, ok := strings.CutPrefix(path, "/debug/pprof/"); ok && runtimepprof.Lookup(name) != nil {
			return bounded(pprof.Handler(name).ServeHTTP), http.MethodGet, administrators
		}
	}
	return nil, "", administrators
}

// origin says whether a request comes from this machine, and whether it may come from where it does.
func (h *handler) origin(r *http.Request) (here, known bool) {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return false, false
	}
	addr := from.Addr().Unmap().WithZone("")
	if addr.IsLoopback() {
		proxied := false
		for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Real-Ip", "Via"} {
			proxied = proxied || len(r.Header.Values(name)) > 0
		}
		return !proxied, true
	}
	for _, p := range h.Networks {
		if p.Contains(addr) {
			return false, true
		}
	}
	return false, false
}

// ours says whether a Host header names this listener. Any web page can make a browser send requests here under a name
// of its own by pointing that at this address, but not under ours.
func (h *handler) ours(host string) bool {
	if host == "" {
		return true // HTTP/1.0, which no browser speaks
	}
	name := host
	if n, port, err := net.SplitHostPort(host); err == nil {
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return false
		}
		name = n
	} else {
		name = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	}
	if _, err := netip.ParseAddr(name); err == nil {
		return true
	}
	return h.names[canonicalName(name)]
}

func canonicalName(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// foreignOrigin is for browsers that do not send Sec-Fetch-Site.
func foreignOrigin(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	return origin != "" && origin != "http://"+r.Host && origin != "https://"+r.Host
}

func (h *handler) allow(r *http.Request) error {
	if h.Allow == nil {
		return ErrForbidden
	}
	return h.Allow(r)
}

func (h *handler) refuse(w http.ResponseWriter, r *http.Request, err error) {
	switch {
	case h.Refuse != nil:
		h.Refuse(w, r, err)
	case errors.Is(err, ErrForbidden):
		text(w, http.StatusForbidden, ErrForbidden.Error())
	default:
		w.Header().Set("WWW-Authenticate", `Basic realm="plimsoll administration", charset="UTF-8"`)
		text(w, http.StatusUnauthorized, "administration needs credentials")
	}
}

func (h *handler) index(w http.ResponseWriter, _ *http.Request) {
	text(w, http.StatusOK, `GET  /healthz       does the process live
GET  /readyz        does it serve, and what
GET  /metrics       for Prometheus
GET  /debug/pprof/  profiles of the process
POST /-/reload      read certificates and credentials again`)
}

func (h *handler) healthz(w http.ResponseWriter, _ *http.Request) {
	if h.Live != nil {
		if err := h.Live(); err != nil {
			text(w, http.StatusServiceUnavailable, err.Error())
			return
		}
	}
	text(w, http.StatusOK, "ok")
}

func (h *handler) readyz(w http.ResponseWriter, _ *http.Request) {
	if h.Ready == nil {
		text(w, http.StatusOK, "ok")
		return
	}
	served, err := h.Ready()
	if err != nil {
		text(w, http.StatusServiceUnavailable, err.Error())
		return
	}
	text(w, http.StatusOK, served)
}

// reload runs once at a time: two at once could leave the older of two certificates in force.
func (h *handler) reload(w http.ResponseWriter, r *http.Request) {
	select {
	case h.reloading <- struct{}{}:
	case <-r.Context().Done():
		return
	}
	defer func() { <-h.reloading }()
	if err := h.Reload(); err != nil {
		text(w, http.StatusInternalServerError, fmt.Sprintf("not reloaded, what was in force stays: %v", err))
		return
	}
	text(w, http.StatusOK, "reloaded")
}

// bounded refuses to profile for longer than a person waits.
func bounded(serve http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.NoBody // or a form in it could say seconds, too
		if s := r.FormValue("seconds"); s != "" {
			if seconds, err := strconv.ParseFloat(s, 64); err != nil || !(seconds >= 0 && seconds <= maxProfileSeconds) {
				text(w, http.StatusBadRequest, fmt.Sprintf("seconds: want at most %d", maxProfileSeconds))
				return
			}
		}
		serve(w, r)
	}
}

func text(w http.ResponseWriter, status int, line string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	io.WriteString(w, line+"\n") //nolint:errcheck // the client is gone then
}
