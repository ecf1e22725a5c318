package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

// ask sends one request as it would come from an address, with headers in pairs; Host among them.
func ask(h http.Handler, method, path, from string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, nil)
	r.RemoteAddr, r.Host = from, "127.0.0.1:9443"
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			r.Host = header[i+1]
			continue
		}
		r.Header.Add(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

const (
	here   = "127.0.0.1:4000"
	inside = "10.20.0.9:4000"
	beyond = "203.0.113.9:4000"
)

func options() Options {
	return Options{
		Metrics:  NewMetrics(MetricsOptions{Version: "v1.2.3"}),
		Ready:    func() (string, error) { return "robot-stack v1.5.5, generation 7", nil },
		Reload:   func() error { return nil },
		Networks: []netip.Prefix{netip.MustParsePrefix("10.20.0.0/16"), netip.MustParsePrefix("fd00:20::/32")},
		Names:    []string{"Relay.plant7.example"},
		Allow: func(r *http.Request) error {
			switch name, _, _ := r.BasicAuth(); name {
			case "admin":
				return nil
			case "":
				return errors.New("no credentials")
			default:
				return fmt.Errorf("%s: %w", name, ErrForbidden)
			}
		},
	}
}

func basic(name string) string {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.SetBasicAuth(name, "secret")
	return r.Header.Get("Authorization")
}

func TestPages(t *testing.T) {
	h := Handler(options())
	for _, c := range []struct {
		method, path string
		status       int
		says         string
	}{
		{"GET", "/", 200, "/metrics"},
		{"GET", "/healthz", 200, "ok\n"},
		{"HEAD", "/healthz", 200, ""},
		{"GET", "/readyz", 200, "robot-stack v1.5.5, generation 7\n"},
		{"GET", "/metrics", 200, `plimsoll_build_info{goversion="go1.`},
		{"POST", "/-/reload", 200, "reloaded"},
		{"GET", "/debug/pprof/", 200, "goroutine"},
		{"GET", "/debug/pprof/goroutine?debug=1", 200, "goroutine profile:"},
		{"GET", "/debug/pprof/heap?debug=1", 200, "heap profile:"},
		{"GET", "/debug/pprof/cmdline", 200, "admin.test"},
		{"GET", "/debug/pprof/symbol", 200, "num_symbols"},
		{"GET", "/debug/pprof/trace?seconds=0.01", 200, ""},
		{"GET", "/debug/pprof/profile?seconds=121", 400, "at most 120"},
		{"GET", "/debug/pprof/trace?seconds=1e9", 400, "at most 120"},
		{"GET", "/debug/pprof/heap?seconds=-1", 400, "at most 120"},
		{"GET", "/debug/pprof/heap?seconds=NaN", 400, "at most 120"},
		{"GET", "/debug/pprof/nothing", 404, ""},
		{"GET", "/debug/pprof", 404, ""},
		{"GET", "/metrics/", 404, ""},
		{"GET", "//metrics", 404, ""},
		{"GET", "/x/../metrics", 404, ""},
		{"GET", "/v2/", 404, ""},
		{"GET", "/-/reload", 405, ""},
		{"POST", "/metrics", 405, ""},
		{"POST", "/debug/pprof/profile", 405, ""},
		{"DELETE", "/", 405, ""},
	} {
		w := ask(h, c.method, c.path, here)
		if w.Code != c.status || !strings.Contains(w.Body.String(), c.says) {
			t.Errorf("%s %s: %d %.80q, want %d %q", c.method, c.path, w.Code, w.Body, c.status, c.says)
		}
	}
	if allow := ask(h, "GET", "/-/reload", here).Header().Get("Allow"); allow != "POST" {
		t.Errorf("Allow: %q", allow)
	}
}

// Whoever is on the machine may; networks see health, and the rest with credentials; nobody else sees anything.
func TestWhoMayAsk(t *testing.T) {
	o := options()
	h := Handler(o)
	o.Allow = nil
	closed := Handler(o)
	for _, c := range []struct {
		h          http.Handler
		path, from string
		as         string
		status     int
	}{
		{h, "/metrics", here, "", 200},
		{h, "/metrics", "[::1]:9", "", 200},
		{h, "/metrics", "[::ffff:127.0.0.1]:9", "", 200},
		{h, "/debug/pprof/", here, "", 200},
		{h, "/healthz", inside, "", 200},
		{h, "/readyz", inside, "", 200},
		{h, "/readyz", "[::ffff:10.20.0.9]:9", "", 200},
		{h, "/readyz", "[fd00:20::5%eth0]:9", "", 200},
		{h, "/", inside, "", 401},
		{h, "/metrics", inside, "", 401},
		{h, "/metrics", inside, "robot", 403},
		{h, "/metrics", inside, "admin", 200},
		{h, "/debug/pprof/heap", inside, "", 401},
		{h, "/debug/pprof/heap", inside, "robot", 403},
		{h, "/debug/pprof/heap", inside, "admin", 200},
		{h, "/nothing", inside, "", 401},
		{h, "/nothing", inside, "admin", 404},
		{h, "/-/reload", inside, "", 401},
		{closed, "/metrics", inside, "admin", 403},
		{closed, "/metrics", here, "", 200},
		{h, "/healthz", beyond, "", 403},
		{h, "/metrics", beyond, "admin", 403},
		{h, "/metrics", "[fd00:21::5]:9", "admin", 403},
		{h, "/healthz", "@", "", 403},
		{h, "/healthz", "", "", 403},
	} {
		var header []string
		if c.as != "" {
			header = []string{"Authorization", basic(c.as)}
		}
		w := ask(c.h, http.MethodGet, c.path, c.from, header...)
		if w.Code != c.status {
			t.Errorf("%s from %q as %q: %d %q, want %d", c.path, c.from, c.as, w.Code, w.Body, c.status)
		}
		if challenge := w.Header().Get("WWW-Authenticate"); (challenge != "") != (c.status == 401) {
			t.Errorf("%s from %q as %q: challenge %q with %d", c.path, c.from, c.as, challenge, w.Code)
		}
	}
	refused := options()
	refused.Refuse = func(w http.ResponseWriter, _ *http.Request, err error) {
		http.Error(w, "refused: "+err.Error(), http.StatusTeapot)
	}
	if w := ask(Handler(refused), "GET", "/metrics", inside); w.Code != http.StatusTeapot || w.Body.String() != "refused: no credentials\n" {
		t.Errorf("Refuse: %d %q", w.Code, w.Body)
	}
}

// What a proxy on this machine forwards is not from this machine.
func TestProxyOnThisMachine(t *testing.T) {
	h := Handler(options())
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "x-real-ip", "Via"} {
		if w := ask(h, "GET", "/debug/pprof/heap", here, name, "203.0.113.9"); w.Code != 401 {
			t.Errorf("with %s: %d", name, w.Code)
		}
	}
}

// A web page that makes a browser on this machine, or of an administrator, ask: under a name of its own (DNS rebinding),
// or under ours from its own.
func TestOtherSites(t *testing.T) {
	h := Handler(options())
	for host, status := range map[string]int{
		"127.0.0.1":                   200,
		"127.0.0.1:9443":              200,
		"[::1]:9443":                  200,
		"[::1]":                       200,
		"localhost:9443":              200,
		"LOCALHOST.":                  200,
		"relay.plant7.example":        200,
		"RELAY.plant7.example:9443":   200,
		"":                            200,
		"evil.example":                421,
		"evil.example:9443":           421,
		"127.0.0.1.evil.example":      421,
		"localhost.evil.example":      421,
		"relay.plant7.example.evil":   421,
		"localhost:evil.example":      421,
		"evil.example:9443:localhost": 421,
		"[evil.example]":              421,
	} {
		if w := ask(h, "GET", "/metrics", here, "Host", host); w.Code != status {
			t.Errorf("Host %q: %d, want %d", host, w.Code, status)
		}
	}
	for _, c := range []struct {
		header []string
		status int
	}{
		{nil, 200},
		{[]string{"Sec-Fetch-Site", "none"}, 200},
		{[]string{"Sec-Fetch-Site", "same-origin"}, 200},
		{[]string{"Sec-Fetch-Site", "same-site"}, 403},
		{[]string{"Sec-Fetch-Site", "cross-site"}, 403},
		{[]string{"Origin", "http://127.0.0.1:9443"}, 200},
		{[]string{"Origin", "https://127.0.0.1:9443"}, 200},
		{[]string{"Origin", "http://127.0.0.1:80"}, 403},
		{[]string{"Origin", "https://evil.example"}, 403},
		{[]string{"Origin", "null"}, 403},
	} {
		if w := ask(h, "POST", "/-/reload", here, c.header...); w.Code != c.status {
			t.Errorf("%v: %d, want %d", c.header, w.Code, c.status)
		}
	}
}

// Each answer, refusals too, tells browsers to do nothing with it.
func TestHeaders(t *testing.T) {
	h := Handler(options())
	for _, w := range []*httptest.ResponseRecorder{
		ask(h, "GET", "/debug/pprof/", here), ask(h, "GET", "/metrics", here), ask(h, "GET", "/nothing", here),
		ask(h, "GET", "/", beyond), ask(h, "GET", "/", inside), ask(h, "GET", "/", here, "Host", "evil.example"),
	} {
		for name, want := range map[string]string{
			"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer",
			"Cache-Control": "no-store", "Cross-Origin-Resource-Policy": "same-origin", "Content-Security-Policy": "default-src 'none';",
		} {
			if got := w.Header().Get(name); !strings.HasPrefix(got, want) {
				t.Errorf("status %d: %s: %q", w.Code, name, got)
			}
		}
		if got := w.Header().Get("Access-Control-Allow-Origin"); got != "" {
			t.Errorf("other sites may read: %q", got)
		}
	}
}

func TestTrouble(t *testing.T) {
	o := options()
	trouble := errors.New("no generation is served")
	o.Live = func() error { return trouble }
	o.Ready = func() (string, error) { return "", trouble }
	o.Reload = func() error { return errors.New("server.pem: no certificate") }
	h := Handler(o)
	for path, status := range map[string]int{"/healthz": 503, "/readyz": 503} {
		if w := ask(h, "GET", path, here); w.Code != status || w.Body.String() != "no generation is served\n" {
			t.Errorf("%s: %d %q", path, w.Code, w.Body)
		}
	}
	if w := ask(h, "POST", "/-/reload", here); w.Code != 500 || !strings.Contains(w.Body.String(), "server.pem: no certificate") {
		t.Errorf("reload: %d %q", w.Code, w.Body)
	}
	var nothing http.Handler = Handler(Options{})
	for path, status := range map[string]int{"/healthz": 200, "/readyz": 200, "/metrics": 404, "/-/reload": 404, "/": 200} {
		if w := ask(nothing, "GET", path, here); w.Code != status {
			t.Errorf("without options %s: %d, want %d", path, w.Code, status)
		}
	}
}

// Two reloads do not run at once, and one that nobody waits for any more does not run.
func TestReloadsOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := options()
		var running, most, ran atomic.Int32
		release := make(chan struct{})
		o.Reload = func() error {
			most.Store(max(most.Load(), running.Add(1)))
			ran.Add(1)
			<-release
			running.Add(-1)
			return nil
		}
		h := Handler(o)
		done := make(chan int)
		for range 3 {
			go func() { done <- ask(h, "POST", "/-/reload", here).Code }()
		}
		synctest.Wait()
		gone, leave := context.WithCancel(t.Context())
		left := make(chan struct{})
		go func() {
			r := httptest.NewRequestWithContext(gone, "POST", "/-/reload", nil)
			r.RemoteAddr, r.Host = here, "localhost"
			h.ServeHTTP(httptest.NewRecorder(), r)
			close(left)
		}()
		synctest.Wait()
		leave()
		<-left
		for range 3 {
			synctest.Wait()
			release <- struct{}{}
			if code := <-done; code != 200 {
				t.Errorf("reload: %d", code)
			}
		}
		if most.Load() != 1 || ran.Load() != 3 {
			t.Errorf("%d reloads, %d at once", ran.Load(), most.Load())
		}
	})
}

// Over a real connection, as Prometheus reads it.
func TestOverTheNetwork(t *testing.T) {
	server := httptest.NewServer(Handler(options()))
	defer server.Close()
	resp, err := server.Client().Get(server.URL + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"go_goroutines ", "process_resident_memory_bytes ", "plimsoll_requests_in_flight 0"} {
		if !strings.Contains(string(body), want) {
			t.Errorf("no %q in the metrics", want)
		}
	}
}
