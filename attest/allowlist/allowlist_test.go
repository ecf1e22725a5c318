package allowlist_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	intoto "github.com/in-toto/attestation/go/v1"
	"github.com/opencontainers/go-digest"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/attest/allowlist"
)

var update = flag.Bool("update", false, "write the golden file")

// key is the same key every time, and another one for each seed.
func key(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

func public(keys ...ed25519.PrivateKey) (all []ed25519.PublicKey) {
	for _, k := range keys {
		all = append(all, k.Public().(ed25519.PublicKey))
	}
	return all
}

func d(text string) digest.Digest { return digest.FromString(text) }

const (
	app    = "ghcr.io/acme/robot-app"
	camera = "docker.io/library/camera"
	site   = "plant-7"
)

// sample has something in every field. Each call gives another one.
func sample() *allowlist.List {
	return &allowlist.List{
		Relay: allowlist.Relay{Name: "plimsoll-relay-0a1b2c3d"}, Site: site, Generation: 7,
		Made: "2026-03-01T10:00:00Z", NotAfter: "2026-04-01T10:00:00Z",
		Repositories: allowlist.Collect([]allowlist.Image{
			{Repository: app, Digest: d("index v2"), Active: true}, {Repository: app, Digest: d("amd64 v2"), Active: true},
			{Repository: app, Digest: d("index v1")}, {Repository: app, Digest: d("amd64 v1")},
			{Repository: camera, Digest: d("camera"), Active: true}, {Repository: camera, Digest: digest.SHA512.FromString("camera")},
		}),
	}
}

func sign(t testing.TB, l *allowlist.List, k crypto.Signer) []byte {
	t.Helper()
	data, err := allowlist.Sign(l, k)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func verified(t testing.TB, l *allowlist.List, k ed25519.PrivateKey) *allowlist.Verified {
	t.Helper()
	v, err := allowlist.Verify(sign(t, l, k), public(k))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// payload is the signed statement of a list.
func payload(t testing.TB, data []byte) []byte {
	t.Helper()
	var e dsse.Envelope
	if err := json.Unmarshal(data, &e); err != nil {
		t.Fatal(err)
	}
	p, err := e.DecodeB64Payload()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// envelope signs any statement, by the DSSE library's rules and not by the code under test.
func envelope(k ed25519.PrivateKey, statement []byte) []byte {
	signature := ed25519.Sign(k, dsse.PAE(attest.PayloadTypeInToto, statement))
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Appendf(nil, `{"payloadType":"%s","payload":"%s","signatures":[{"keyid":"%s","sig":"%s"}]}`+"\n",
		attest.PayloadTypeInToto, b64(statement), attest.KeyID(k.Public()), b64(signature))
}

func TestListsComeBack(t *testing.T) {
	empty := &allowlist.List{Relay: allowlist.Relay{Name: "r"}, Site: "s", Made: "2026-03-01T10:00:00Z", Repositories: allowlist.Collect(nil)}
	for name, l := range map[string]*allowlist.List{"full": sample(), "empty": empty} {
		data := sign(t, l, key(1))
		v, err := allowlist.Verify(data, public(key(9), key(1)))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !reflect.DeepEqual(v.List(), l) || l.Relay.Key != attest.KeyID(key(1).Public()) {
			t.Errorf("%s: %+v", name, v.List())
		}
		if read, err := allowlist.Read(data); err != nil || !reflect.DeepEqual(read, l) {
			t.Errorf("%s: read %+v, %v", name, read, err)
		}
	}
}

// What stock libraries make of a list: a DSSE envelope with one signature over an in-toto statement about the relay.
func TestOthersReadLists(t *testing.T) {
	data := sign(t, sample(), key(1))
	if again := envelope(key(1), payload(t, data)); !bytes.Equal(again, data) {
		t.Errorf("DSSE makes of it\n%s\nand not\n%s", again, data)
	}
	var st intoto.Statement
	if err := protojson.Unmarshal(payload(t, data), &st); err != nil {
		t.Fatal(err)
	}
	if err := st.Validate(); err != nil {
		t.Error(err)
	}
	if st.PredicateType != allowlist.PredicateType || len(st.Subject) != 1 || st.Subject[0].Digest["sha256"] != attest.KeyID(key(1).Public()) {
		t.Errorf("%v %v", st.PredicateType, st.Subject)
	}
}

// The bytes of a list do not change by accident: robots in the field are older than their relay.
func TestGolden(t *testing.T) {
	path := filepath.Join("testdata", "allowlist.json")
	data := sign(t, sample(), key(1))
	if *update {
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(data, want) {
		t.Errorf("the encoding has changed:\n%s\nwant\n%s", payload(t, data), payload(t, want))
	}
}

func TestKeysTravelAsText(t *testing.T) {
	k := public(key(3))[0]
	if id := allowlist.KeyID(k); id != attest.KeyID(k) {
		t.Errorf("id %s, attest says %s", id, attest.KeyID(k))
	}
	text := allowlist.FormatKey(k)
	if back, err := allowlist.ParseKey(text); err != nil || !back.Equal(k) {
		t.Errorf("%x, %v", back, err)
	}
	for _, bad := range []string{"", "x", text[:40], text + "\n", text + text, " " + text, "-----BEGIN PUBLIC KEY-----", base64.StdEncoding.EncodeToString(k)} {
		if _, err := allowlist.ParseKey(bad); err == nil {
			t.Errorf("%q was taken for a key", bad)
		}
	}
}

func TestCollectSortsAndPrefersActive(t *testing.T) {
	got := allowlist.Collect([]allowlist.Image{
		{Repository: "Index.Docker.IO/library/b", Digest: "sha256:2"}, {Repository: "docker.io/library/b", Digest: "sha256:2", Active: true},
		{Repository: "a.io/x", Digest: "sha256:9"}, {Repository: "a.io/x", Digest: "sha256:1"}, {Repository: "a.io/x", Digest: "sha256:1"},
	})
	want := []allowlist.Repository{
		{Name: "a.io/x", Kept: []digest.Digest{"sha256:1", "sha256:9"}}, {Name: "docker.io/library/b", Active: []digest.Digest{"sha256:2"}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
}

func TestOnlyEd25519Signs(t *testing.T) {
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := allowlist.Sign(sample(), p256); err == nil {
		t.Error("an ECDSA key signed")
	}
}

func TestAllows(t *testing.T) {
	v := verified(t, sample(), key(1))
	for _, c := range []struct {
		repository string
		digest     digest.Digest
		active, ok bool
		elsewhere  string
	}{
		{app, d("index v2"), true, true, ""},
		{app, d("amd64 v2"), true, true, ""},
		{app, d("index v1"), false, true, ""},
		{camera, d("camera"), true, true, ""},
		{camera, digest.SHA512.FromString("camera"), false, true, ""},
		{app, d("stranger"), false, false, ""},
		{app, d("camera"), false, false, camera},                      // the digest is good, the name is another one's
		{app + "-evil", d("index v2"), false, false, app},             // a name that begins alike
		{"ghcr.io/acme", d("index v2"), false, false, app},            // the folder of the name
		{app, digest.SHA512.FromString("index v2"), false, false, ""}, // the same bytes, another algorithm
		{app, digest.Digest(strings.ToUpper(string(d("index v2")))), false, false, ""},
		{app, "", false, false, ""},
		{"", d("index v2"), false, false, app},
	} {
		active, err := v.Allows(c.repository, c.digest)
		var no *allowlist.NotListedError
		if active != c.active || (err == nil) != c.ok || err != nil && (!errors.As(err, &no) || no.Elsewhere != c.elsewhere) {
			t.Errorf("%s@%s: %v, %v", c.repository, c.digest, active, err)
		}
	}
}

func TestFitAndSeen(t *testing.T) {
	v := verified(t, sample(), key(1))
	good := time.Date(2026, 3, 15, 0, 0, 0, 0, time.UTC)
	seen, raised, err := allowlist.Seen{}.With(v)
	if err != nil || !raised {
		t.Fatal(raised, err)
	}
	if _, raised, err := seen.With(v); err != nil || raised {
		t.Error("the same list is news", err)
	}
	newer := sample()
	newer.Generation = 8
	later, raised, err := seen.With(verified(t, newer, key(1)))
	if err != nil || !raised || later.Generation(site, newer.Relay.Key) != 8 || seen.Generation(site, newer.Relay.Key) != 7 {
		t.Errorf("%+v after %+v, %v %v", later, seen, raised, err)
	}
	if again, raised, err := later.With(v); err != nil || raised || again.Generation(site, newer.Relay.Key) != 8 {
		t.Errorf("an older list lowers the mark to %+v, %v", again, err)
	}
	data, err := later.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if back, err := allowlist.ParseSeen(data); err != nil || !reflect.DeepEqual(back, later) {
		t.Errorf("%+v, %v", back, err)
	}
	for name, c := range map[string]struct {
		site string
		now  time.Time
		seen allowlist.Seen
		want any
	}{
		"good":                        {site, good, seen, nil},
		"nothing seen":                {site, good, allowlist.Seen{}, nil},
		"a clock of 1970":             {site, time.Unix(0, 0), seen, nil},
		"its last second":             {site, time.Date(2026, 4, 1, 10, 0, 0, 0, time.UTC), seen, nil},
		"other site":                  {"plant-8", good, seen, new(*allowlist.SiteError)},
		"older":                       {site, good, later, new(*allowlist.OlderError)},
		"over":                        {site, time.Date(2026, 4, 1, 10, 0, 1, 0, time.UTC), seen, new(*allowlist.ExpiredError)},
		"older, with a clock of 1970": {site, time.Unix(0, 0), later, new(*allowlist.OlderError)},
	} {
		err := v.Fit(c.site, c.now, c.seen)
		if c.want == nil && err != nil || c.want != nil && !errors.As(err, c.want) {
			t.Errorf("%s: %v, want %T", name, err, c.want)
		}
	}
	// Another relay has its own count, and another site with the same relay, too.
	if err := verified(t, sample(), key(2)).Fit(site, good, later); err != nil {
		t.Errorf("another relay: %v", err)
	}
}

func TestSeenIsNeverForgotten(t *testing.T) {
	var seen allowlist.Seen
	var err error
	for i := range 128 {
		l := sample()
		l.Site = fmt.Sprintf("site-%03d", i)
		if seen, _, err = seen.With(verified(t, l, key(1))); err != nil {
			t.Fatal(i, err)
		}
	}
	if next, raised, err := seen.With(verified(t, sample(), key(1))); err == nil || raised || len(next.Highest) != 128 {
		t.Errorf("one mark too many: %v, %d marks, %v", raised, len(next.Highest), err)
	}
	if data, err := seen.Encode(); err != nil || len(data) > allowlist.MaxSeen {
		t.Errorf("%d bytes, %v", len(data), err)
	}
	k := strings.Repeat("a", 64)
	for name, bad := range map[string]string{
		"empty":         ``,
		"no marks":      `{"apiVersion":"plimsoll.allowlist-seen.v1","highest":null}`,
		"version":       `{"apiVersion":"plimsoll.allowlist-seen.v2","highest":[]}`,
		"white space":   `{"apiVersion":"plimsoll.allowlist-seen.v1", "highest":[]}`,
		"duplicate key": `{"apiVersion":"plimsoll.allowlist-seen.v1","highest":[],"highest":[]}`,
		"twice":         `{"apiVersion":"plimsoll.allowlist-seen.v1","highest":[{"site":"a","key":"` + k + `","generation":9},{"site":"a","key":"` + k + `","generation":1}]}`,
		"unordered":     `{"apiVersion":"plimsoll.allowlist-seen.v1","highest":[{"site":"b","key":"` + k + `","generation":9},{"site":"a","key":"` + k + `","generation":1}]}`,
		"key":           `{"apiVersion":"plimsoll.allowlist-seen.v1","highest":[{"site":"a","key":"A","generation":9}]}`,
		"huge":          strings.Repeat(" ", allowlist.MaxSeen+1),
	} {
		if s, err := allowlist.ParseSeen([]byte(bad)); err == nil {
			t.Errorf("%s: %+v", name, s)
		}
	}
}

func TestParseReference(t *testing.T) {
	sum := string(d("x"))
	for name, want := range map[string]allowlist.Reference{
		app:                                {Repository: app},
		app + ":v1":                        {Repository: app, Tag: "v1"},
		app + "@" + sum:                    {Repository: app, Digest: d("x")},
		app + ":v1@" + sum:                 {Repository: app, Tag: "v1", Digest: d("x")},
		"relay:5000/ghcr.io/acme/app:v1":   {Repository: "relay:5000/ghcr.io/acme/app", Tag: "v1"},
		"10.0.0.5:5000/a/b":                {Repository: "10.0.0.5:5000/a/b"},
		"localhost/a__b/c---d/e.f":         {Repository: "localhost/a__b/c---d/e.f"},
		"GHCR.io./acme/app":                {Repository: "ghcr.io/acme/app"},
		"registry-1.docker.io/library/x:1": {Repository: "docker.io/library/x", Tag: "1"},
	} {
		if got, err := allowlist.ParseReference(name); err != nil || got != want {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	for _, bad := range []string{
		"", "app", "app:v1", "acme/app:v1", sum, "@" + sum, app + "@", app + "@" + sum[:20], app + "@md5:d41d8cd98f00b204e9800998ecf8427e", app + ":", app + ":v 1",
		app + "/", app + "//x", "ghcr.io/../app", "ghcr.io/acme/./app", "ghcr.io/Acme/app", "ghcr.io/acme/app_", "ghcr.io/a___b", "ghcr.io/a..b", "ghcr.io/a-_b",
		"https://ghcr.io/acme/app", "ghcr.io:/acme/app", "ghcr.io:123456/app", "ghcr.io:x/app", "-a.io/app", "a..io/app", "ghcr.io/acme/app\n", "ghcr.io/acme/\x1b[2J",
		app + ":v1@" + sum + "@" + sum, "ghcr.io/" + strings.Repeat("a", 1100),
	} {
		if got, err := allowlist.ParseReference(bad); err == nil {
			t.Errorf("%q: %+v", bad, got)
		} else if !errors.As(err, new(*allowlist.ReferenceError)) {
			t.Errorf("%q: %T", bad, err)
		}
	}
	for _, c := range []struct{ repository, host, want string }{
		{"relay:5000/ghcr.io/acme/app", "relay:5000", "ghcr.io/acme/app"},
		{"relay:5000/ghcr.io/acme/app", "relay", ""},
		{"relay:5000/acme/app", "relay:5000", ""},
		{"relay:5000/index.docker.io/x", "relay:5000", ""},
		{"relay.evil/ghcr.io/acme/app", "relay:5000", ""},
	} {
		if got, ok := allowlist.Within(c.repository, c.host); got != c.want || ok != (c.want != "") {
			t.Errorf("%s within %s: %q", c.repository, c.host, got)
		}
	}
}

// The component rule is written by hand; the specification has it as an expression.
func TestComponentsAreThoseOfTheSpecification(t *testing.T) {
	spec := regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*$`)
	letters := "a0._-A"
	var try func(s string)
	try = func(s string) {
		if s != "" && allowlist.IsRepository("ghcr.io/"+s) != spec.MatchString(s) {
			t.Errorf("%q: %v", s, !spec.MatchString(s))
		}
		if len(s) < 6 {
			for _, c := range letters {
				try(s + string(c))
			}
		}
	}
	try("")
}

// It is linked into a program that runs at each pull and must not be able to open a connection.
func TestNothingOfANetworkIsLinked(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".", "../../cmd/plimsoll-image-verifier").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for dep := range strings.FieldsSeq(string(out)) {
		if dep == "net" || strings.HasPrefix(dep, "net/") || strings.HasPrefix(dep, "crypto/x509") || strings.Contains(dep, "sigstore") {
			t.Errorf("it links %s", dep)
		}
	}
	if !slices.Contains(strings.Fields(string(out)), "crypto/ed25519") {
		t.Errorf("go list says %s", out)
	}
}
