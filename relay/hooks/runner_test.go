package hooks

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// site is a network in memory with one web server, for the time of a bubble.
type site struct {
	t       *testing.T
	conns   chan net.Conn
	server  *http.Server
	journal results
	end     func() // stops the runner, if one runs

	mu    sync.Mutex
	calls []call
	reply func(host string, p Payload) int // the status; 0 answers never
}

// call is a request that arrived.
type call struct {
	host    string
	at      time.Duration // since the site was made
	payload Payload
}

type results struct {
	mu      sync.Mutex
	results []Result
	err     error
}

func (j *results) Append(_ context.Context, kind string, detail any) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.results = append(j.results, detail.(Result))
	if kind != JournalKind {
		return errors.New(kind)
	}
	return j.err
}

func newSite(t *testing.T) *site {
	s := &site{t: t, conns: make(chan net.Conn), end: func() {}}
	start := time.Now()
	s.server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		c := call{host: r.Host, at: time.Since(start)}
		if err := strictjson.UnmarshalCanonical(body, &c.payload); err != nil {
			t.Errorf("%s: %v", body, err)
		}
		s.mu.Lock()
		s.calls = append(s.calls, c)
		reply := s.reply
		s.mu.Unlock()
		status := http.StatusOK
		if reply != nil {
			status = reply(r.Host, c.payload)
		}
		if status == 0 {
			<-r.Context().Done()
			return
		}
		w.WriteHeader(status)
	})}
	go s.server.Serve(s) //nolint:errcheck // it ends with close
	return s
}

func (s *site) Accept() (net.Conn, error) {
	conn, ok := <-s.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return conn, nil
}
func (s *site) Close() error   { return nil }
func (s *site) Addr() net.Addr { return &net.TCPAddr{} }

func (s *site) close() {
	s.end()
	close(s.conns)
	if err := s.server.Close(); err != nil {
		s.t.Error(err)
	}
}

func (s *site) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case s.conns <- there:
		return here, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *site) answer(reply func(host string, p Payload) int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reply = reply
}

// took gives the requests since it was asked last.
func (s *site) took() []call {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	calls := s.calls
	s.calls = nil
	return calls
}

// run starts a runner over dir, which s.end stops.
func (s *site) run(dir string, first ...Served) *Runner {
	r := New(dir, Options{Relay: "plant7", Journal: &s.journal, dial: s.dial})
	for _, served := range first {
		r.Activated(served)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	s.end = func() {
		s.end = func() {}
		cancel()
		if err := <-done; err != nil {
			s.t.Error(err)
		}
	}
	return r
}

// inBubble runs a test in a bubble with a site; a runner that still runs in the end is stopped.
func inBubble(t *testing.T, fn func(t *testing.T, s *site)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		defer s.close()
		fn(t, s)
	})
}

func plain(name string) Hook {
	return Hook{Name: name, Type: Webhook, URL: Secret("http://" + name + ".example/in"), Secret: testSecret, InsecurePlain: true}
}

func folder(t *testing.T, hooks ...Hook) string {
	t.Helper()
	dir := t.TempDir()
	for _, h := range hooks {
		if err := Open(dir).Add(context.Background(), h); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// gen is a generation in which stable and canary have those releases, and one repository is at one of three commits.
func gen(n uint64, stable, canary string) Served {
	s := Served{Generation: n, Channels: []Channel{{"canary", Release{"stack", canary, "sha256:" + canary}}, {"stable", Release{"stack", stable, "sha256:" + stable}}}}
	s.Repositories = []Repository{{"github.com/acme/deploy", "refs/heads/main", []Ref{{"refs/heads/main", stable + canary}}}}
	return s
}

func one(t *testing.T, calls []call) Payload {
	t.Helper()
	if len(calls) != 1 {
		t.Fatalf("%d calls, want one: %+v", len(calls), calls)
	}
	return calls[0].payload
}

func TestToldOnce(t *testing.T) {
	dir := folder(t, plain("a"))
	inBubble(t, func(t *testing.T, s *site) {
		r := s.run(dir, gen(1, "v1", "c1"))
		if calls := s.took(); len(calls) != 2 || calls[0].payload.Previous != nil { // a new hook is told what is served
			t.Fatalf("%+v", calls)
		}
		r.Activated(gen(2, "v2", "c1"))
		p := one(t, s.took())
		if p.Relay != "plant7" || p.Generation != 2 || p.Channel != "stable" || p.Version != "v2" || p.Previous == nil || p.Previous.Version != "v1" ||
			len(p.Repositories) != 1 || p.Repositories[0].Refs[0] != (RefChange{"refs/heads/main", "v1c1", "v2c1"}) {
			t.Errorf("%+v", p)
		}
		// Another number, and nothing else.
		r.Activated(gen(3, "v2", "c1"))
		time.Sleep(time.Hour) // of the bubble
		if calls := s.took(); len(calls) > 0 {
			t.Errorf("told twice: %+v", calls)
		}
		s.end()
		// A restart tells nothing that was told, and what was activated while the relay was down.
		s.run(dir, gen(3, "v2", "c1"))
		if calls := s.took(); len(calls) > 0 {
			t.Errorf("told again after a restart: %+v", calls)
		}
		s.end()
		r = s.run(dir, gen(4, "v3", "c1"))
		if p := one(t, s.took()); p.Version != "v3" || p.Previous.Version != "v2" {
			t.Errorf("%+v", p)
		}
		if st := r.Status()[0]; st.State != Told || st.Generation != 4 || st.Successes != 1 || st.Failures != 0 {
			t.Errorf("%+v", st)
		}
		s.end()
		for _, res := range s.journal.results {
			if res.Result != "told" || res.Hook != "a" || res.Attempts != 1 {
				t.Errorf("%+v", res)
			}
		}
		if len(s.journal.results) != 3 {
			t.Errorf("%d records", len(s.journal.results))
		}
	})
}

func TestBackoff(t *testing.T) {
	dir := folder(t, plain("a"))
	inBubble(t, func(t *testing.T, s *site) {
		r := s.run(dir, gen(1, "v1", "c1"))
		s.took()
		s.answer(func(string, Payload) int { return http.StatusServiceUnavailable })
		begin := time.Now()
		r.Activated(gen(2, "v2", "c1"))
		time.Sleep(24 * time.Hour)
		var waits []time.Duration
		calls := s.took()
		for i := range calls[1:] {
			waits = append(waits, calls[i+1].at-calls[i].at)
		}
		want := []time.Duration{1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300, 300}
		if len(waits) != len(want) {
			t.Fatalf("%v", waits)
		}
		for i := range want {
			if waits[i] != want[i]*time.Second {
				t.Errorf("wait %d is %v, want %v s", i, waits[i], int(want[i]))
			}
		}
		st := r.Status()[0]
		if st.State != GaveUp || st.Attempts != maxAttempts || st.Generation != 1 || st.Failures != maxAttempts || !strings.Contains(st.Error, "503") {
			t.Errorf("%+v", st)
		}
		if all, err := ReadStatus(dir); err != nil || all[0].State != GaveUp || all[0].Error != st.Error {
			t.Errorf("%+v, %v", all, err)
		}
		if last := s.journal.results[len(s.journal.results)-1]; last.Result != "gave-up" || last.Attempts != maxAttempts || last.Generation != 2 || last.Error == "" {
			t.Errorf("%+v", last)
		}
		if time.Since(begin) < 24*time.Hour {
			t.Error("the clock stood still")
		}
		// The next generation tells also what it gave up on.
		s.answer(nil)
		r.Activated(gen(3, "v3", "c2"))
		if calls := s.took(); len(calls) != 2 || calls[1].payload.Previous.Version != "v1" || calls[1].payload.Version != "v3" {
			t.Errorf("%+v", calls)
		}
		if st := r.Status()[0]; st.State != Told || st.Error != "" || st.Attempts != 0 {
			t.Errorf("%+v", st)
		}
	})
}

// One that never answers holds up nobody else, and is left for the latest generation.
func TestLatestWins(t *testing.T) {
	dir := folder(t, plain("deaf"), plain("well"))
	inBubble(t, func(t *testing.T, s *site) {
		r := s.run(dir, gen(1, "v1", "c1"))
		s.took()
		s.answer(func(host string, p Payload) int {
			if host == "deaf.example" && p.Generation == 2 {
				return 0
			}
			return http.StatusOK
		})
		r.Activated(gen(2, "v2", "c1"))
		if calls := s.took(); len(calls) != 2 {
			t.Fatalf("%+v", calls)
		}
		if st := r.Status(); st[0].State != Waiting || st[1].State != Told {
			t.Errorf("%+v", st)
		}
		begin := time.Now()
		r.Activated(gen(3, "v1", "c1")) // a roll-back, which a hook that perhaps heard of v2 must hear of
		calls := s.took()
		if len(calls) != 2 || time.Since(begin) != 0 {
			t.Fatalf("%v: %+v", time.Since(begin), calls)
		}
		for _, c := range calls {
			previous := "v2"
			if c.host == "deaf.example" {
				previous = "v1"
			}
			if c.payload.Version != "v1" || c.payload.Previous.Version != previous {
				t.Errorf("%+v", c)
			}
		}
		time.Sleep(time.Hour)
		if calls := s.took(); len(calls) > 0 {
			t.Errorf("%+v", calls)
		}
	})
}

// Without an answer an attempt ends by itself.
func TestTimeout(t *testing.T) {
	dir := folder(t, plain("a"))
	inBubble(t, func(t *testing.T, s *site) {
		s.answer(func(string, Payload) int { return 0 })
		r := s.run(dir, gen(1, "v1", "c1"))
		time.Sleep(postTime + time.Millisecond)
		synctest.Wait()
		if st := r.Status()[0]; st.State != Failing || st.Attempts != 1 || !strings.Contains(st.Error, "no answer in time") {
			t.Errorf("%+v", st)
		}
	})
}

func TestChannels(t *testing.T) {
	h := plain("a")
	h.Channels = []string{"stable"}
	other := plain("b")
	other.Channels = []string{"vulndb"}
	dir := folder(t, h, other)
	inBubble(t, func(t *testing.T, s *site) {
		r := s.run(dir, gen(1, "v1", "c1"))
		if p := one(t, s.took()); p.Channel != "stable" {
			t.Errorf("%+v", p)
		}
		r.Activated(gen(2, "v1", "c2"))
		if calls := s.took(); len(calls) > 0 {
			t.Errorf("%+v", calls)
		}
		r.Activated(gen(3, "v2", "c2"))
		// What canary changed in the repositories in between is not news of stable.
		if p := one(t, s.took()); p.Repositories[0].Refs[0].Before != "v1c2" {
			t.Errorf("%+v", p)
		}
		if st := r.Status()[1]; st.State != Idle || st.Name != "b" {
			t.Errorf("%+v", st)
		}
	})
}

func TestHooksChangeMeanwhile(t *testing.T) {
	dir := folder(t, plain("a"))
	inBubble(t, func(t *testing.T, s *site) {
		r := s.run(dir, gen(1, "v1", "c1"))
		s.took()
		ctx := context.Background()
		if err := Open(dir).Add(ctx, plain("b")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(lookInterval)
		if calls := s.took(); len(calls) != 2 || calls[0].host != "b.example" {
			t.Fatalf("%+v", calls)
		}
		// A file that cannot be read leaves the hooks in force.
		path := filepath.Join(dir, File)
		before, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(lookInterval)
		r.Activated(gen(2, "v2", "c1"))
		if calls := s.took(); len(calls) != 2 {
			t.Errorf("%+v", calls)
		}
		if err := os.WriteFile(path, before, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Open(dir).Remove(ctx, "a"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(lookInterval)
		r.Activated(gen(3, "v3", "c1"))
		if calls := s.took(); len(calls) != 1 || calls[0].host != "b.example" {
			t.Errorf("%+v", calls)
		}
		// One that comes back has missed something; one of the same name elsewhere knows nothing.
		if err := Open(dir).Add(ctx, plain("a")); err != nil {
			t.Fatal(err)
		}
		elsewhere := plain("b")
		elsewhere.URL = "http://c.example/in"
		if err := errors.Join(Open(dir).Remove(ctx, "b"), Open(dir).Add(ctx, elsewhere)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(lookInterval)
		hosts := make(map[string]int)
		for _, c := range s.took() {
			hosts[c.host]++
			if c.payload.Previous != nil {
				t.Errorf("%+v", c)
			}
		}
		if hosts["a.example"] != 2 || hosts["c.example"] != 2 || len(hosts) != 2 {
			t.Errorf("%v", hosts)
		}
	})
}

// A change of the hook is a reason to try at once what it gave up on, and not one to tell what it has heard.
func TestChangedHookIsTriedAgain(t *testing.T) {
	dir := folder(t, plain("a"))
	inBubble(t, func(t *testing.T, s *site) {
		r := s.run(dir, gen(1, "v1", "c1"))
		s.took()
		change := func(secret Secret) {
			h := plain("a")
			h.Secret = secret
			if err := errors.Join(Open(dir).Remove(context.Background(), "a"), Open(dir).Add(context.Background(), h)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(lookInterval)
		}
		change("another")
		if calls := s.took(); len(calls) > 0 {
			t.Errorf("%+v", calls)
		}
		s.answer(func(string, Payload) int { return http.StatusForbidden })
		r.Activated(gen(2, "v2", "c1"))
		time.Sleep(24 * time.Hour)
		s.took()
		s.answer(nil)
		change("the right one")
		if p := one(t, s.took()); p.Version != "v2" || p.Previous.Version != "v1" {
			t.Errorf("%+v", p)
		}
	})
}
