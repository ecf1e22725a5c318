package allowlist_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/attest/allowlist"
	"github.com/plimsoll/plimsoll/attest/receipt"
)

func TestAttacksOnTheEnvelope(t *testing.T) {
	data := sign(t, sample(), key(1))
	statement := payload(t, data)
	text := string(data)
	replace := func(old, with string) []byte {
		if !strings.Contains(text, old) {
			t.Fatalf("%q is not in it", old)
		}
		return []byte(strings.Replace(text, old, with, 1))
	}
	other := sign(t, sample(), key(2))
	rc := &receipt.Receipt{
		Relay: receipt.Relay{Name: "r"}, Made: "2026-03-01T10:00:00Z", Software: "v1", Clock: receipt.Clock{Now: "2026-03-01T10:00:00Z"},
	}
	ofReceipt, err := receipt.Sign(rc, key(1))
	if err != nil {
		t.Fatal(err)
	}
	rawSignature := base64.StdEncoding.EncodeToString(ed25519.Sign(key(1), statement)) // not over DSSE's encoding
	_, signature, _ := strings.Cut(strings.TrimSuffix(text, "\"}]}\n"), `"sig":"`)
	for name, bad := range map[string][]byte{
		"nothing":                   nil,
		"empty object":              []byte("{}"),
		"cut off":                   data[:len(data)/2],
		"no line end":               data[:len(data)-1],
		"two line ends":             append(bytes.Clone(data), '\n'),
		"two lists":                 append(bytes.Clone(data), data...),
		"other key":                 other,
		"other key, our id":         []byte(strings.Replace(string(other), attest.KeyID(key(2).Public()), attest.KeyID(key(1).Public()), 1)),
		"our statement, other sig":  envelope(key(2), statement),
		"key id in capitals":        replace(attest.KeyID(key(1).Public()), strings.ToUpper(attest.KeyID(key(1).Public()))),
		"no key id":                 replace(attest.KeyID(key(1).Public()), ""),
		"a receipt of the relay":    ofReceipt,
		"signed without DSSE":       replace(signature, rawSignature),
		"two signatures":            replace(`]}`, `,{"keyid":"","sig":""}]}`),
		"second payload":            replace(`"signatures"`, `"payload":"e30=","signatures"`),
		"white space":               replace(`,"signatures"`, `, "signatures"`),
		"escape in the payloadType": replace(`vnd.in-toto`, `vnd.in\u002dtoto`),
		"other payloadType":         replace(`vnd.in-toto+json`, `vnd.other+json`),
		"line end in base64":        replace(`"payload":"`, "\"payload\":\""+"\n"),
		"base64 without padding":    []byte(strings.Replace(text, `=","signatures`, `","signatures`, 1) + " "),
		"huge":                      bytes.Repeat([]byte("A"), allowlist.MaxList+1),
		"huge payload": []byte(`{"payloadType":"application/vnd.in-toto+json","payload":"` + strings.Repeat("A", allowlist.MaxList) +
			`","signatures":[]}` + "\n"),
	} {
		if v, err := allowlist.Verify(bad, public(key(1))); err == nil {
			t.Errorf("%s: accepted, %+v", name, v.List())
		}
	}
	if _, err := allowlist.Verify(data, nil); !errors.As(err, new(*allowlist.DeniedError)) {
		t.Errorf("no key: %v", err)
	}
	if _, err := allowlist.Verify(data, []ed25519.PublicKey{{1, 2, 3}}); err == nil {
		t.Error("a key of three bytes")
	}
}

// Each bit of a list counts.
func TestEachFlippedByteIsFound(t *testing.T) {
	data := sign(t, sample(), key(1))
	for i := range data {
		for _, bit := range []byte{1, 0x20, 0x80} {
			bad := bytes.Clone(data)
			bad[i] ^= bit
			if _, err := allowlist.Verify(bad, public(key(1))); err == nil {
				t.Fatalf("byte %d of %d, %q for %q", i, len(data), bad[i], data[i])
			}
		}
	}
}

// Statements that the relay's own key signed, and that break a rule: two readers must not find different things.
func TestAttacksOnTheStatement(t *testing.T) {
	statement := string(payload(t, sign(t, sample(), key(1))))
	swap := func(old, with string) string {
		if !strings.Contains(statement, old) {
			t.Fatalf("%q is not in %s", old, statement)
		}
		return strings.Replace(statement, old, with, 1)
	}
	one, two := string(d("amd64 v2")), string(d("index v2"))
	weak := digest.Digest("md5:d41d8cd98f00b204e9800998ecf8427e")
	for name, bad := range map[string]string{
		"not JSON":                 "x",
		"null":                     "null",
		"no predicate":             `{"_type":"https://in-toto.io/Statement/v1","subject":[],"predicateType":"` + allowlist.PredicateType + `","predicate":null}`,
		"other predicate type":     swap("allowlist/v1", "allowlist/v2"),
		"predicate type of others": swap(allowlist.PredicateType, receipt.PredicateType),
		"other statement type":     swap("Statement/v1", "Statement/v0.1"),
		"duplicate generation":     swap(`"generation":7`, `"generation":7,"generation":9`),
		"generation in capitals":   swap(`"generation":7`, `"generation":7,"Generation":9`),
		"generation with exponent": swap(`"generation":7`, `"generation":7e0`),
		"negative generation":      swap(`"generation":7`, `"generation":-7`),
		"generation beyond JSON":   swap(`"generation":7`, `"generation":9007199254740993`),
		"generation 0":             swap(`"generation":7`, `"generation":0`),
		"unknown field":            swap(`"generation":7`, `"generation":7,"admin":true`),
		"duplicate site":           swap(`"site":"plant-7"`, `"site":"plant-7","site":"plant-8"`),
		"site with a space":        swap(`"site":"plant-7"`, `"site":"plant 7"`),
		"no site":                  swap(`"site":"plant-7"`, `"site":""`),
		"white space":              swap(`"site":`, `"site": `),
		"trailing data":            statement + "{}",
		"escaped letter":           swap(`plant-7`, `plant\u002d7`),
		"invalid UTF-8":            swap(`plant-7`, "plant\xff7"),
		"other key inside":         swap(`"key":"`+attest.KeyID(key(1).Public()), `"key":"`+attest.KeyID(key(2).Public())),
		"other subject":            swap(`"sha256":"`+attest.KeyID(key(1).Public()), `"sha256":"`+attest.KeyID(key(2).Public())),
		"two subjects":             swap(`}}],"predicateType"`, `}},{"name":"x","digest":{"sha256":"`+d("x").Encoded()+`"}}],"predicateType"`),
		"weak digest":              swap(one, string(weak)),
		"no algorithm":             swap(one, d("amd64 v2").Encoded()),
		"digest in capitals":       swap(one, strings.ToUpper(one)),
		"digest of half a size":    swap(one, one[:40]),
		"digest twice":             swap(one, two),
		"active and kept":          swap(string(d("index v1")), one),
		"repository twice":         swap(app, camera),
		"repository of any case":   swap(app, "ghcr.io/acme/Robot-app"),
		"host not canonical":       swap(camera, "index.docker.io/library/camera"),
		"no host":                  swap(camera, "library/camera"),
		"path climbing":            swap(camera, "docker.io/library/../camera"),
		"repositories null":        `{"_type":"https://in-toto.io/Statement/v1"` + statement[strings.Index(statement, `,"subject"`):strings.Index(statement, `"repositories":`)] + `"repositories":null}}`,
		"empty repository":         swap(`"repositories":[`, `"repositories":[{"name":"a.io/a"},`),
		"made in another zone":     swap("2026-03-01T10:00:00Z", "2026-03-01T10:00:00+00:00"),
		"made with fractions":      swap("2026-03-01T10:00:00Z", "2026-03-01T10:00:00.5Z"),
		"over before it was made":  swap("2026-04-01T10:00:00Z", "2026-02-01T10:00:00Z"),
		"deeply nested":            swap(`"repositories":[`, `"repositories":[`+strings.Repeat("[", 100)),
		"too many values":          swap(`"active":[`, `"active":[`+strings.Repeat(`"",`, 200_000)),
	} {
		v, err := allowlist.Verify(envelope(key(1), []byte(bad)), public(key(1)))
		if err == nil {
			t.Errorf("%s: accepted, %+v", name, v.List())
		} else if !errors.As(err, new(*allowlist.FormatError)) {
			t.Errorf("%s: %T %v", name, err, err)
		}
	}
	if _, err := allowlist.Verify(envelope(key(1), []byte(statement)), public(key(1))); err != nil {
		t.Errorf("the statement itself: %v", err) // else nothing above means anything
	}
}

func TestSignRefusesWhatVerifyWould(t *testing.T) {
	for name, change := range map[string]func(*allowlist.List){
		"relay":      func(l *allowlist.List) { l.Relay.Name = "a\nb" },
		"site":       func(l *allowlist.List) { l.Site = "-" },
		"made":       func(l *allowlist.List) { l.Made = "yesterday" },
		"weak":       func(l *allowlist.List) { l.Repositories[0].Active = []digest.Digest{"md5:00"} },
		"unsorted":   func(l *allowlist.List) { l.Repositories[0], l.Repositories[1] = l.Repositories[1], l.Repositories[0] },
		"nil":        func(l *allowlist.List) { l.Repositories = nil },
		"generation": func(l *allowlist.List) { l.Generation = 1 << 60 },
		"too many": func(l *allowlist.List) {
			l.Repositories = nil
			for i := range allowlist.MaxRepositories + 1 {
				l.Repositories = append(l.Repositories, allowlist.Repository{Name: fmt.Sprintf("a.io/%06d", i), Active: []digest.Digest{d("x")}})
			}
		},
	} {
		l := sample()
		change(l)
		if _, err := allowlist.Sign(l, key(1)); !errors.As(err, new(*allowlist.FormatError)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The largest list that the limits allow can be made and read.
func TestLargestList(t *testing.T) {
	l := sample()
	var images []allowlist.Image
	for i := range allowlist.MaxDigests {
		images = append(images, allowlist.Image{Repository: fmt.Sprintf("ghcr.io/acme/app-%04d", i%allowlist.MaxRepositories), Digest: d(fmt.Sprint(i)), Active: i%2 == 0})
	}
	l.Repositories = allowlist.Collect(images)
	v := verified(t, l, key(1))
	if n := v.List().Digests(); n != allowlist.MaxDigests {
		t.Errorf("%d digests", n)
	}
}

func FuzzVerify(f *testing.F) {
	data := sign(f, sample(), key(1))
	f.Add(data, payload(f, data))
	f.Add(data[:100], []byte(`{"_type":"https://in-toto.io/Statement/v1"}`))
	f.Add([]byte{}, []byte(`null`))
	f.Fuzz(func(t *testing.T, data, statement []byte) {
		for _, in := range [][]byte{data, envelope(key(1), statement)} {
			v, err := allowlist.Verify(in, public(key(1)))
			if err != nil {
				continue
			}
			if again := sign(t, v.List(), key(1)); !bytes.Equal(again, in) {
				t.Errorf("accepted %q, which encodes to %q", in, again)
			}
		}
	})
}

func FuzzParseReference(f *testing.F) {
	for _, seed := range []string{app + ":v1", app + "@" + string(d("x")), "relay:5000/ghcr.io/a/b", "", "a", "a.io/__"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		ref, err := allowlist.ParseReference(name)
		if err != nil {
			return
		}
		if !allowlist.IsRepository(ref.Repository) {
			t.Errorf("%q: repository %q", name, ref.Repository)
		}
		text := ref.Repository
		if ref.Tag != "" {
			text += ":" + ref.Tag
		}
		if ref.Digest != "" {
			text += "@" + string(ref.Digest)
		}
		if again, err := allowlist.ParseReference(text); err != nil || again != ref {
			t.Errorf("%q: %+v, and %q: %+v, %v", name, ref, text, again, err)
		}
	})
}

func FuzzParseSeen(f *testing.F) {
	seen, _, err := allowlist.Seen{}.With(verified(f, sample(), key(1)))
	if err != nil {
		f.Fatal(err)
	}
	data, err := seen.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"apiVersion":"plimsoll.allowlist-seen.v1","highest":[]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := allowlist.ParseSeen(data)
		if err != nil {
			return
		}
		if again, err := s.Encode(); err != nil || !bytes.Equal(again, data) {
			t.Errorf("accepted %q, which encodes to %q, %v", data, again, err)
		}
	})
}

func BenchmarkVerify1000(b *testing.B) {
	l := sample()
	var images []allowlist.Image
	for i := range 1000 {
		images = append(images, allowlist.Image{Repository: fmt.Sprintf("ghcr.io/acme/app-%02d", i%50), Digest: d(fmt.Sprint(i)), Active: i%2 == 0})
	}
	l.Repositories = allowlist.Collect(images)
	data := sign(b, l, key(1))
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		v, err := allowlist.Verify(data, public(key(1)))
		if err == nil {
			_, err = v.Allows("ghcr.io/acme/app-00", d("0"))
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}
