package access

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/plimsoll/plimsoll/relay/siteca"
	"github.com/plimsoll/plimsoll/relay/traffic"
)

// world is a relay with one account of each kind.
type world struct {
	store                     *Store
	guard                     *Guard
	generated, token, disable string
}

const chosen = "correct horse battery"

var chosenHash = sync.OnceValue(func() string {
	a := robot("any")
	if err := a.SetPassword(chosen); err != nil {
		panic(err)
	}
	return a.Password
})

func newWorld(t testing.TB, o GuardOptions) *world {
	t.Helper()
	w := &world{}
	agv, anna, boss, off, bare := robot("agv-1"), NewAccount("anna", RoleOperator, "shift-2", day()), NewAccount("boss", RoleAdmin, "", day()), robot("agv-off"), robot("agv-bare")
	w.generated, w.disable = agv.GeneratePassword(), off.GeneratePassword()
	off.Disabled = true
	var err error
	if _, w.token, err = agv.AddToken(day()); err != nil {
		t.Fatal(err)
	}
	anna.Password, boss.Password = chosenHash(), chosenHash()
	w.store = newStore(t, agv, anna, boss, off, bare)
	if w.guard, err = NewGuard(w.store, o); err != nil {
		t.Fatal(err)
	}
	return w
}

func request(authorization ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/v2/", nil)
	for _, a := range authorization {
		r.Header.Add("Authorization", a)
	}
	return r
}

func (w *world) hashed() uint64 { return w.guard.Stats().Hashing.Entered }

// Wrong credentials are slowed, so these tests have a clock of their own.
func TestIdentify(t *testing.T) { synctest.Test(t, testIdentify) }

func testIdentify(t *testing.T) {
	w := newWorld(t, GuardOptions{})
	anna, agv := Identity{Name: "anna", Group: "shift-2", Role: RoleOperator, By: ByBasic}, Identity{Name: "agv-1", Role: RoleRobot, By: ByBasic}
	bearer := agv
	bearer.By = ByBearer
	for name, c := range map[string]struct {
		authorization string
		want          Identity
	}{
		"chosen password":      {basic("anna:" + chosen), anna},
		"generated password":   {basic("agv-1:" + w.generated), agv},
		"token for password":   {basic("agv-1:" + w.token), agv},
		"token":                {"Bearer " + w.token, bearer},
		"scheme in lower case": {"bearer " + w.token, bearer},
	} {
		if got, err := w.guard.Identify(request(c.authorization)); err != nil || got != c.want {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	for name, authorization := range map[string][]string{
		"nothing":              nil,
		"wrong password":       {basic("anna:" + chosen + "!")},
		"empty password":       {basic("agv-bare:")},
		"unknown name":         {basic("nobody:" + chosen)},
		"another's password":   {basic("anna:" + w.generated)},
		"another's token":      {basic("anna:" + w.token)},
		"a name's other case":  {basic("Anna:" + chosen)},
		"disabled":             {basic("agv-off:" + w.disable)},
		"the hash":             {basic("anna:" + w.guard.state.Load().accounts["anna"].hash)},
		"the sum":              {basic("agv-1:" + w.guard.state.Load().accounts["agv-1"].hash)},
		"password for a token": {"Bearer " + w.generated},
		"unknown token":        {"Bearer abc"},
		"unknown scheme":       {"Negotiate abc"},
		"malformed":            {"Basic !"},
		"two headers":          {basic("anna:" + chosen), basic("anna:" + chosen)},
	} {
		got, err := w.guard.Identify(request(authorization...))
		var denied *DeniedError
		if !errors.As(err, &denied) || denied.Status != http.StatusUnauthorized || got != (Identity{}) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

// Guesses at names that are nobody's, at accounts without a password and at generated passwords take the same hash as one
// at a chosen password: the time says nothing about who is there. And no password is hashed twice.
func TestHashingTellsNothing(t *testing.T) {
	w := newWorld(t, GuardOptions{Anonymous: true})
	hashes := func(authorization string) uint64 {
		before := w.hashed()
		if _, err := w.guard.Identify(request(authorization)); err != nil {
			t.Errorf("%s: %v", authorization, err)
		}
		return w.hashed() - before
	}
	for _, name := range []string{"anna", "agv-1", "agv-bare", "agv-off", "nobody", ""} {
		if n := hashes(basic(name + ":wrong")); n != 1 {
			t.Errorf("%q: %d hashes for a wrong password", name, n)
		}
		if n := hashes(basic(name + ":wrong")); n != 0 {
			t.Errorf("%q: %d hashes for the same wrong password", name, n)
		}
	}
	for _, c := range []struct {
		authorization string
		want          uint64
	}{
		{basic("anna:" + chosen), 1}, {basic("anna:" + chosen), 0}, {basic("agv-1:" + w.generated), 0}, {"Bearer " + w.token, 0}, {"Bearer abc", 0}, {"Negotiate abc", 0},
	} {
		if n := hashes(c.authorization); n != c.want {
			t.Errorf("%s: %d hashes, want %d", c.authorization, n, c.want)
		}
	}
}

// bcrypt sees 72 bytes only: what is longer is refused, though it begins as the password does.
func TestLongPassword(t *testing.T) { synctest.Test(t, testLongPassword) }

func testLongPassword(t *testing.T) {
	w := newWorld(t, GuardOptions{})
	long := strings.Repeat("a", maxPassword)
	if err := w.store.Update(t.Context(), "anna", func(a *Account) error { return a.SetPassword(long) }); err != nil {
		t.Fatal(err)
	}
	if err := w.guard.Reload(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		password string
		ok       bool
	}{{long, true}, {long + "b", false}, {strings.Repeat("a", 4000), false}, {long, true}} {
		if _, err := w.guard.Identify(request(basic("anna:" + c.password))); (err == nil) != c.ok {
			t.Errorf("%d bytes: %v", len(c.password), err)
		}
	}
}

func TestReload(t *testing.T) { synctest.Test(t, testReload) }

func testReload(t *testing.T) {
	w := newWorld(t, GuardOptions{})
	try := func(authorization string) bool {
		_, err := w.guard.Identify(request(authorization))
		return err == nil
	}
	change := func(name string, fn func(*Account) error) {
		t.Helper()
		if err := w.store.Update(t.Context(), name, fn); err != nil {
			t.Fatal(err)
		}
		if err := w.guard.Reload(); err != nil {
			t.Fatal(err)
		}
	}
	if !try(basic("anna:" + chosen)) {
		t.Fatal("anna is not known")
	}
	before := w.hashed()
	change("agv-1", func(a *Account) error { a.Tokens = nil; return nil })
	if try("Bearer "+w.token) || try(basic("agv-1:"+w.token)) {
		t.Error("a withdrawn token counts")
	}
	if !try(basic("anna:"+chosen)) || w.hashed() != before+1 { // one hash for the token as a wrong password
		t.Errorf("a change of one account made others wait for %d hashes", w.hashed()-before)
	}
	change("anna", func(a *Account) error { return a.SetPassword("another horse") })
	if try(basic("anna:"+chosen)) || !try(basic("anna:another horse")) {
		t.Error("an old password counts, or the new one does not")
	}
	change("anna", func(a *Account) error { return a.SetPassword(chosen) })
	if !try(basic("anna:" + chosen)) {
		t.Error("a password that was wrong before its time stays wrong")
	}
	change("anna", func(a *Account) error { a.Disabled = true; return nil })
	if try(basic("anna:" + chosen)) {
		t.Error("a disabled account is let in")
	}

	// What is broken takes no effect.
	if err := os.WriteFile(w.store.path(), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := w.guard.Reload(); err == nil {
		t.Error("a broken file was loaded")
	}
	if !try(basic("agv-1:" + w.generated)) {
		t.Error("a broken file locked everybody out")
	}
	if _, err := NewGuard(w.store, GuardOptions{}); err == nil {
		t.Error("a guard was made from a broken file")
	}
}

// When all that may wait for a hash wait, the next one is told to come again, not that it is wrong; and whoever needs no
// hash does not wait.
func TestHashingIsBounded(t *testing.T) {
	w := newWorld(t, GuardOptions{})
	if _, err := w.guard.Identify(request(basic("boss:" + chosen))); err != nil {
		t.Fatal(err)
	}
	w.guard.passwords.queue = traffic.NewQueue(traffic.QueueOptions{Slots: 1, MaxWaiting: 1})
	leave, err := w.guard.passwords.queue.Enter(t.Context(), "guesser")
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		waiting := make(chan error)
		go func() {
			_, err := w.guard.Identify(request(basic("anna:" + chosen)).WithContext(ctx))
			waiting <- err
		}()
		synctest.Wait()
		_, err := w.guard.Identify(request(basic("anna:" + chosen)))
		var denied *DeniedError
		if !errors.As(err, &denied) || denied.Status != http.StatusServiceUnavailable {
			t.Errorf("one too many: %v", err)
		}
		for _, authorization := range []string{basic("boss:" + chosen), basic("agv-1:" + w.generated), "Bearer " + w.token} {
			if _, err := w.guard.Identify(request(authorization)); err != nil {
				t.Errorf("%s: %v", authorization, err)
			}
		}
		cancel()
		if err := <-waiting; !errors.As(err, &denied) || denied.Status != http.StatusServiceUnavailable {
			t.Errorf("a client that went away: %v", err)
		}
	})
	leave()
	if _, err := w.guard.Identify(request(basic("anna:" + chosen))); err != nil {
		t.Errorf("when there is room again: %v", err)
	}
	if n := w.guard.Stats().Wrong; n != 0 {
		t.Errorf("%d counted as wrong", n)
	}
}

// With --insecure-anonymous, credentials for the public host whose name a client uses do no harm, and give nothing.
func TestAnonymous(t *testing.T) {
	w := newWorld(t, GuardOptions{Anonymous: true})
	for _, authorization := range [][]string{nil, {basic("robot$acme:ghp_abc")}, {"Bearer ghp_abc"}, {"Negotiate abc"}} {
		id, err := w.guard.Identify(request(authorization...))
		if err != nil || id.Role != RoleRobot || id.By != ByAnonymous || id.Name != "" {
			t.Errorf("%q: %+v, %v", authorization, id, err)
		}
		var denied *DeniedError
		if err := w.guard.Require(request(), id, RoleOperator); !errors.As(err, &denied) || denied.Status != http.StatusUnauthorized {
			t.Errorf("%q: may push: %v", authorization, err)
		}
	}
	if id, err := w.guard.Identify(request(basic("anna:" + chosen))); err != nil || id.Name != "anna" {
		t.Errorf("%+v, %v", id, err)
	}
	if _, err := w.guard.Identify(request("Basic !")); err == nil {
		t.Error("a malformed header is let in")
	}
}

func TestRequire(t *testing.T) {
	g := newWorld(t, GuardOptions{}).guard
	for _, c := range []struct {
		role, need Role
		by         Means
		want       int
	}{
		{RoleRobot, RoleRobot, ByBasic, 0}, {RoleRobot, RoleOperator, ByBasic, 403}, {RoleRobot, RoleOperator, ByBearer, 403}, {RoleRobot, RoleOperator, ByCertificate, 401},
		{RoleRobot, RoleOperator, ByAnonymous, 401}, {RoleOperator, RoleRobot, ByBasic, 0}, {RoleOperator, RoleOperator, ByBasic, 0}, {RoleOperator, RoleAdmin, ByBasic, 403},
		{RoleAdmin, RoleOperator, ByCertificate, 0}, {RoleAdmin, RoleAdmin, ByBearer, 0}, {"", RoleRobot, ByBasic, 403}, {RoleAdmin, "god", ByBasic, 403}, {"", "", "", 401},
	} {
		err := g.Require(request(), Identity{Name: "x", Role: c.role, By: c.by}, c.need)
		var denied *DeniedError
		if c.want == 0 && err != nil || c.want != 0 && (!errors.As(err, &denied) || denied.Status != c.want) {
			t.Errorf("%s by %s for %s: %v, want %d", c.role, c.by, c.need, err, c.want)
		}
	}
}

func TestRefuse(t *testing.T) {
	g := newWorld(t, GuardOptions{}).guard
	secret := &DeniedError{Status: 401, Name: "anna", Reason: "a wrong password for anna"}
	for _, c := range []struct {
		method, path string
		err          error
		status       int
		code         string
	}{
		{"GET", "/v2/", secret, 401, "UNAUTHORIZED"},
		{"HEAD", "/v2/ghcr.io/acme/app/manifests/v1", secret, 401, ""},
		{"PUT", "/v2/acme/app/manifests/v1", &DeniedError{Status: 403}, 403, "DENIED"},
		{"GET", "/v2", &DeniedError{Status: 503}, 503, "TOOMANYREQUESTS"},
		{"GET", "/acme/deploy.git/info/refs", secret, 401, ""},
		{"GET", "/v2x", fmt.Errorf("wrapped: %w", &DeniedError{Status: 403}), 403, ""},
		{"GET", "/v2/", errors.New("something else"), 401, "UNAUTHORIZED"},
	} {
		w := httptest.NewRecorder()
		g.Refuse(w, httptest.NewRequest(c.method, c.path, nil), c.err)
		body := w.Body.String()
		if w.Code != c.status || (w.Header().Get("WWW-Authenticate") == `Basic realm="plimsoll"`) != (c.status == 401) || strings.Contains(body, "anna") {
			t.Errorf("%s %s: %d %v %s", c.method, c.path, w.Code, w.Header(), body)
		}
		var parsed struct {
			Errors []struct{ Code, Message string }
		}
		err := json.Unmarshal(w.Body.Bytes(), &parsed)
		switch {
		case c.method == "HEAD":
			if body != "" {
				t.Errorf("%s: a body: %s", c.path, body)
			}
		case c.code == "":
			if err == nil || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/plain") {
				t.Errorf("%s: %s", c.path, body)
			}
		case err != nil || len(parsed.Errors) != 1 || parsed.Errors[0].Code != c.code || parsed.Errors[0].Message == "":
			t.Errorf("%s: %s (%v)", c.path, body, err)
		}
	}
}

func TestContext(t *testing.T) {
	if _, ok := From(t.Context()); ok {
		t.Error("an identity from nowhere")
	}
	want := Identity{Name: "agv-1", Role: RoleRobot, By: ByBasic}
	if got, ok := From(WithIdentity(t.Context(), want)); !ok || got != want {
		t.Errorf("%+v, %v", got, ok)
	}
}

// Certificates of the site's CA count while the account lists them, those of the customer's CA by their name; both also
// over connections that were opened before, and over resumed sessions.
func TestCertificates(t *testing.T) {
	w := newWorld(t, GuardOptions{})
	dir, now := t.TempDir(), time.Now()
	theirs, err := siteca.Open(filepath.Join(dir, "corporate"), "corporate", now)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "robots.crt"), theirs.PEM(), 0o644); err != nil {
		t.Fatal(err)
	}
	k, err := siteca.NewKeeper(filepath.Join(dir, "tls"), "plant-7", siteca.KeeperOptions{Names: []string{"127.0.0.1"}, ClientCAFile: filepath.Join(dir, "robots.crt")})
	if err != nil {
		t.Fatal(err)
	}
	g, err := NewGuard(w.store, GuardOptions{CustomerCA: k.CustomerCA})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, err := g.Identify(r)
		if err != nil {
			g.Refuse(w, r, err)
			return
		}
		fmt.Fprintf(w, "%s by %s", id.Name, id.By)
	}))
	server.TLS = k.TLSConfig()
	server.StartTLS()
	defer server.Close()

	client := func(ca *siteca.CA, name string) (*http.Client, *x509.Certificate) {
		c, err := ca.Client(name, time.Hour, now)
		if err != nil {
			t.Fatal(err)
		}
		pair, err := tls.X509KeyPair(c.CertPEM, c.KeyPEM)
		if err != nil {
			t.Fatal(err)
		}
		roots := x509.NewCertPool()
		roots.AddCert(k.CA().Certificate())
		config := &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}, ClientSessionCache: tls.NewLRUClientSessionCache(4)}
		return &http.Client{Transport: &http.Transport{TLSClientConfig: config}}, c.Certificate
	}
	get := func(c *http.Client, authorization string) (answer string, resumed bool) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		if authorization != "" {
			req.Header.Set("Authorization", authorization)
		}
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close() //nolint:errcheck // read to its end
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != http.StatusOK {
			return resp.Status, resp.TLS.DidResume
		}
		return string(body), resp.TLS.DidResume
	}
	const refused = "401 Unauthorized"
	check := func(what string, c *http.Client, want string) {
		t.Helper()
		for range 2 { // over an open connection, and over a new one, which is resumed
			if got, _ := get(c, ""); got != want {
				t.Errorf("%s: %s, want %s", what, got, want)
			}
			c.CloseIdleConnections()
		}
	}

	ours, cert := client(k.CA(), "agv-1")
	check("not listed", ours, refused)
	update := func(fn func(*Account) error) {
		t.Helper()
		if err := w.store.Update(t.Context(), "agv-1", fn); err != nil {
			t.Fatal(err)
		}
		if err := g.Reload(); err != nil {
			t.Fatal(err)
		}
	}
	update(func(a *Account) error { return a.AddCertificate(cert, now) })
	check("listed", ours, "agv-1 by certificate")
	if _, resumed := get(ours, ""); !resumed {
		t.Error("the session was not resumed")
	}
	if got, _ := get(ours, basic("anna:"+chosen)); got != "anna by basic" {
		t.Errorf("with credentials: %s", got)
	}
	if got, _ := get(ours, basic("robot$acme:ghp_abc")); got != "agv-1 by certificate" {
		t.Errorf("with another host's credentials: %s", got)
	}
	update(func(a *Account) error { a.Disabled = true; return nil })
	check("disabled", ours, refused)
	update(func(a *Account) error { a.Disabled = false; return a.RevokeCertificate(CertificateID(cert)) })
	check("revoked", ours, refused)

	robot, _ := client(theirs, "agv-1")
	check("the customer's", robot, "agv-1 by certificate")
	nobody, _ := client(theirs, "agv-99")
	check("the customer's, without an account", nobody, refused)
	update(func(a *Account) error { a.Disabled = true; return nil })
	check("the customer's, disabled", robot, refused)

	if err := robotNamed("agv-2").AddCertificate(cert, now); err == nil {
		t.Error("a certificate of agv-1 was given to agv-2")
	}
}

func robotNamed(name string) *Account {
	a := robot(name)
	return &a
}

// A request without credentials is the first half of each client's dance (docs/clients.md 7): it is neither wrong nor slow.
func TestMissingCredentialsAreNotWrong(t *testing.T) {
	var log bytes.Buffer
	w := newWorld(t, GuardOptions{Log: slog.New(slog.NewTextHandler(&log, nil))})
	for range 1000 {
		if _, err := w.guard.Identify(request()); err == nil {
			t.Fatal("let in")
		}
	}
	if s := w.guard.Stats(); s.Wrong != 0 || s.Hashing.Entered != 0 || log.Len() > 0 {
		t.Errorf("%+v, log %s", s, &log)
	}
}

func benchmark(b *testing.B, w *world, r *http.Request, want bool) {
	if _, err := w.guard.Identify(r); (err == nil) != want {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		w.guard.Identify(r) //nolint:errcheck // checked before
	}
}

func BenchmarkNoCredentials(b *testing.B) {
	benchmark(b, newWorld(b, GuardOptions{}), request(), false)
}

func BenchmarkChosenPassword(b *testing.B) {
	benchmark(b, newWorld(b, GuardOptions{}), request(basic("anna:"+chosen)), true)
}

func BenchmarkGeneratedPassword(b *testing.B) {
	w := newWorld(b, GuardOptions{})
	benchmark(b, w, request(basic("agv-1:"+w.generated)), true)
}

func BenchmarkToken(b *testing.B) {
	w := newWorld(b, GuardOptions{})
	benchmark(b, w, request("Bearer "+w.token), true)
}

func BenchmarkForeignCredentials(b *testing.B) {
	benchmark(b, newWorld(b, GuardOptions{Anonymous: true}), request(basic("robot$acme:ghp_abc")), true)
}

func BenchmarkCertificate(b *testing.B) {
	w := newWorld(b, GuardOptions{})
	ca, err := siteca.Open(b.TempDir(), "plant-7", time.Now())
	if err != nil {
		b.Fatal(err)
	}
	c, err := ca.Client("agv-1", time.Hour, time.Now())
	if err != nil {
		b.Fatal(err)
	}
	if err := w.store.Update(b.Context(), "agv-1", func(a *Account) error { return a.AddCertificate(c.Certificate, time.Now()) }); err != nil {
		b.Fatal(err)
	}
	if err := w.guard.Reload(); err != nil {
		b.Fatal(err)
	}
	r := request()
	r.TLS = &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{c.Certificate, ca.Certificate()}}}
	benchmark(b, w, r, true)
}
