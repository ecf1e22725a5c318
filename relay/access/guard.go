package access

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/plimsoll/plimsoll/relay/traffic"
)

// challenge is what a 401 asks for. Bearer is not offered: registry clients would look for a token server.
const challenge = `Basic realm="plimsoll"`

// DeniedError says why a request is not answered.
type DeniedError struct {
	Status int    // 401: who is it; 403: not that one; 503: credentials cannot be verified at the moment
	Name   string // the account, when one was proved
	Reason string // for the log: a client is told no more than the status
}

func (e *DeniedError) Error() string {
	if e.Name != "" {
		return fmt.Sprintf("denied to %s: %s", e.Name, e.Reason)
	}
	return "denied: " + e.Reason
}

// GuardOptions are a guard's settings. The zero value lets in only who has an account.
type GuardOptions struct {
	Anonymous bool // whoever proves nothing may read as a robot

	// CustomerCA reports whether a certificate, the end of a chain that TLS verified, is an authority of the customer's
	// own, whose certificates name accounts by CommonName. Certificates of all other authorities count only where the
	// account lists them. Nil: there is none.
	CustomerCA func(root *x509.Certificate) bool

	Log *slog.Logger // told once of each burst of wrong credentials; may be nil
}

// GuardStats are what a guard counts, for metrics.
type GuardStats struct {
	Wrong   uint64 // requests with wrong credentials, since the start
	Delayed int    // answers to such requests that are held back now
	Hashing traffic.QueueStats
}

// Guard says who asks. It is safe for concurrent use.
type Guard struct {
	store     *Store
	options   GuardOptions
	log       *slog.Logger
	reloading sync.Mutex
	state     atomic.Pointer[state]
	passwords *passwords
	guessers  *guessers
	wrong     atomic.Uint64
}

// NewGuard reads the store and makes a guard for it.
func NewGuard(s *Store, o GuardOptions) (*Guard, error) {
	g := &Guard{store: s, options: o, log: o.Log, passwords: newPasswords(), guessers: newGuessers()}
	if g.log == nil {
		g.log = slog.New(slog.DiscardHandler)
	}
	if err := g.Reload(); err != nil {
		return nil, err
	}
	return g, nil
}

// Reload reads the store again: all of it takes effect, or, when it cannot be read, what was read before stays in force.
func (g *Guard) Reload() error {
	g.reloading.Lock() // or an older reading could replace a newer one
	defer g.reloading.Unlock()
	accounts, err := g.store.Accounts()
	if err != nil {
		return err
	}
	st, err := newState(accounts, g.state.Load())
	if err != nil {
		return err
	}
	g.state.Store(st)
	return nil
}

// Stats are the guard's counts.
func (g *Guard) Stats() GuardStats {
	return GuardStats{Wrong: g.wrong.Load(), Delayed: g.guessers.waiting(), Hashing: g.passwords.queue.Stats()}
}

// Identify says who sent a request. The error is a *DeniedError; for wrong credentials it comes late, and later with each
// one from the same address.
//
// An Authorization header decides. When that proves nothing, a client certificate does, and then Anonymous: clients send
// along what they have for the public host whose name they use for the relay, and need not be refused for it where they
// may read anyway.
func (g *Guard) Identify(r *http.Request) (Identity, error) {
	st := g.state.Load()
	claim, err := parseAuthorization(r.Header["Authorization"])
	if err != nil {
		return Identity{}, &DeniedError{Status: http.StatusUnauthorized, Reason: err.Error()}
	}
	a, denied := g.claimed(r, st, claim)
	if a != nil {
		return a.identity(claim.scheme), nil
	}
	offered := claim != credentials{}
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		if a := st.certificate(r.TLS.VerifiedChains, g.options.CustomerCA); a != nil {
			id := a.identity(ByCertificate)
			id.foreign = offered
			return id, nil
		}
		if !offered {
			name := r.TLS.VerifiedChains[0][0].Subject.CommonName
			denied.Reason = fmt.Sprintf("the client certificate of %.80q is no account's", name)
		}
	}
	if g.options.Anonymous {
		return Identity{Role: RoleRobot, By: ByAnonymous, foreign: offered}, nil
	}
	if offered && denied.Status == http.StatusUnauthorized {
		g.slow(r, denied.Reason)
	}
	return Identity{}, denied
}

// claimed verifies the credentials of an Authorization header: it gives an account, or why there is none.
func (g *Guard) claimed(r *http.Request, st *state, claim credentials) (*account, *DeniedError) {
	denied := &DeniedError{Status: http.StatusUnauthorized}
	switch {
	case claim.unknown:
		denied.Reason = "credentials of an unknown scheme"
	case claim.scheme == ByBearer:
		if a := st.token(claim.password); a != nil {
			return a, nil
		}
		denied.Reason = "a token that is no account's"
	case claim.scheme == ByBasic:
		a := st.accounts[claim.user]
		if st.secret(a, claim.password) {
			return a, nil
		}
		right, err := g.passwords.verify(r.Context(), st, a, claim.user, claim.password, traffic.ClientOf(r))
		switch {
		case err != nil:
			return nil, &DeniedError{Status: http.StatusServiceUnavailable, Reason: err.Error()}
		case right:
			return a, nil
		case a != nil:
			denied.Reason = "a wrong password for " + a.name
		case st.disabled[claim.user]:
			denied.Reason = claim.user + ", which is disabled"
		default:
			// The name is not logged: people type passwords there.
			denied.Reason = "a name that is no account's"
		}
	default:
		denied.Reason = "no credentials"
	}
	return nil, denied
}

// slow counts and logs wrong credentials and holds their answer back.
func (g *Guard) slow(r *http.Request, reason string) {
	g.wrong.Add(1)
	var addr netip.Addr
	if ap, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		addr = ap.Addr().Unmap()
	}
	count, delay, done := g.guessers.wrong(addr, time.Now())
	defer done()
	if count == 1 {
		g.log.Warn("wrong credentials; more of them from there are counted, not logged", "address", addr.String(), "offered", reason)
	}
	sleep(r.Context(), delay)
}

// Require reports, as a *DeniedError, that an identity that Identify gave for a request may not do what needs a role.
func (g *Guard) Require(r *http.Request, id Identity, need Role) error {
	if id.Role.May(need) {
		return nil
	}
	denied := &DeniedError{Status: http.StatusUnauthorized, Name: id.Name, Reason: fmt.Sprintf("it has role %s, this needs %s", id.Role, need)}
	switch {
	case id.foreign:
		g.slow(r, "credentials that are no account's")
	case id.By == ByBasic, id.By == ByBearer:
		denied.Status = http.StatusForbidden // a 401 would make clients ask for the same password again
	}
	return denied
}

// Refuse answers a request that Identify or Require denied, in the form that registry clients read below /v2/
// (distribution-spec, error codes), and as plain text elsewhere.
func (g *Guard) Refuse(w http.ResponseWriter, r *http.Request, err error) {
	status, code, text := http.StatusUnauthorized, "UNAUTHORIZED", "authentication required"
	var denied *DeniedError
	if errors.As(err, &denied) {
		status = denied.Status
	}
	h := w.Header()
	switch status {
	case http.StatusForbidden:
		code, text = "DENIED", "this account may not do that"
	case http.StatusServiceUnavailable:
		code, text = "TOOMANYREQUESTS", "try again"
		h.Set("Retry-After", "1")
	default:
		h.Set("WWW-Authenticate", challenge)
	}
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	body := text + "\n"
	if r.URL.Path == "/v2" || strings.HasPrefix(r.URL.Path, "/v2/") {
		h.Set("Content-Type", "application/json")
		h.Set("Docker-Distribution-API-Version", "registry/2.0")
		body = registryError(code, text)
	} else {
		h.Set("Content-Type", "text/plain; charset=utf-8")
	}
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		io.WriteString(w, body) //nolint:errcheck // the client is gone
	}
}

func registryError(code, text string) string {
	type item struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	data, err := json.Marshal(map[string][]item{"errors": {{code, text}}})
	if err != nil {
		return ""
	}
	return string(data)
}
