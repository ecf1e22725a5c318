package integration

import (
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/plimsoll/plimsoll/internal/clients"
	"github.com/plimsoll/plimsoll/relay/hooks"
)

// receiver is somebody who is told, and who at once fetches what he is told of.
type receiver struct {
	t     *testing.T
	site  *site
	relay atomic.Pointer[clients.Relay] // nil: the receiver is down
	calls chan hooks.Payload
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	relay := r.relay.Load()
	if relay == nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return
	}
	var p hooks.Payload
	if err := json.Unmarshal(body, &p); err != nil {
		r.t.Errorf("%s: %v", body, err)
	}
	for _, repo := range p.Repositories {
		refs, err := relay.Git(req.Context(), "", "ls-remote", "$URL/"+repo.Repository)
		if err != nil {
			r.t.Error(err)
		}
		for _, ref := range repo.Refs {
			if ref.After != "" && !strings.Contains(refs, ref.After+"\t"+ref.Ref) {
				r.t.Errorf("generation %d: told of %s %s %s, which is not there yet:\n%s", p.Generation, repo.Repository, ref.Ref, ref.After, refs)
			}
		}
	}
	r.calls <- p
}

// start starts the relay, and then the receiver.
func (r *receiver) start() {
	r.t.Helper()
	r.relay.Store(nil)
	r.site.start()
	r.relay.Store(r.site.relay)
}

func (r *receiver) next() hooks.Payload {
	r.t.Helper()
	select {
	case p := <-r.calls:
		return p
	case <-time.After(2 * time.Minute):
		r.t.Fatalf("nobody was told\n%s", r.site.log.String())
		return hooks.Payload{}
	}
}

// settled waits until the relay has taken down that its hook was told of a generation: killed before, it tells it again.
func (r *receiver) settled(generation uint64) {
	r.t.Helper()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for timeout := time.After(time.Minute); ; {
		all, err := hooks.ReadStatus(r.site.data)
		if err != nil {
			r.t.Fatal(err)
		}
		if all[0].State == hooks.Told && all[0].Generation == generation {
			return
		}
		select {
		case <-ticker.C:
		case <-timeout:
			r.t.Fatalf("generation %d is not told: %+v\n%s", generation, all, r.site.log.String())
		}
	}
}

// A hook is told when what it is told of can be fetched; of what was activated while it was down, or while the relay was
// killed, it is told later, and of nothing twice.
func TestHooksAreTold(t *testing.T) {
	s := newSite(t)
	r := &receiver{t: t, site: s, calls: make(chan hooks.Payload, 16)}
	server := httptest.NewTLSServer(r)
	t.Cleanup(server.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(secret, []byte("correct horse battery\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.must("hooks", "add", "mes", "--type", "webhook", "--url", server.URL+"/in", "--ca-file", ca, "--secret-file", secret)
	r.relay.Store(&clients.Relay{})
	if out := s.must("hooks", "test", "mes"); !strings.Contains(out, "was heard") || r.next().Event != "test" {
		t.Error(out)
	}
	r.start()
	s.must("import", s.bundle("v1.5.4"))
	if p := r.next(); p.Relay != "test" || p.Generation != 1 || p.Version != "v1.5.4" || p.Previous != nil || len(p.Repositories) == 0 {
		t.Errorf("%+v", p)
	}
	s.must("import", s.bundle("v1.5.5"))
	if p := r.next(); p.Generation != 2 || p.Version != "v1.5.5" || p.Previous == nil || p.Previous.Version != "v1.5.4" {
		t.Errorf("%+v", p)
	}
	r.settled(2)

	// The hook is down: the roll-back stands, and the relay is killed before it could tell.
	r.relay.Store(nil)
	s.must("rollback")
	s.follow(3)
	s.kill(syscall.SIGKILL)
	if out := s.must("status"); !strings.Contains(out, "generation 3") {
		t.Error(out)
	}
	r.start()
	if p := r.next(); p.Generation != 3 || p.Version != "v1.5.4" || p.Previous == nil || p.Previous.Version != "v1.5.5" {
		t.Errorf("%+v", p)
	}
	r.settled(3)
	// Restarted once more, it has nothing to say; what comes next is the next news.
	s.kill(syscall.SIGTERM)
	r.start()
	s.must("rollback", "--to", "v1.5.5")
	if p := r.next(); p.Generation != 4 || p.Previous == nil || p.Previous.Version != "v1.5.4" {
		t.Errorf("%+v", p)
	}
	r.settled(4)
	s.kill(syscall.SIGTERM)
	if out := s.must("hooks", "status"); !strings.Contains(out, "told") || !strings.Contains(out, " 4 ") {
		t.Error(out)
	}
	if strings.Contains(s.log.String(), "correct horse") {
		t.Error("the log has the secret")
	}
}
