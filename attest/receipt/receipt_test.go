package receipt_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	intoto "github.com/in-toto/attestation/go/v1"
	"github.com/opencontainers/go-digest"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/attest/receipt"
)

var update = flag.Bool("update", false, "write the golden file")

// key is the same key every time, and another one for each seed.
func key(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

func d(text string) digest.Digest { return digest.FromString(text) }

const oid = "0123456789abcdef0123456789abcdef01234567"

// sample has something in every field. Each call gives another one.
func sample() *receipt.Receipt {
	r := &receipt.Receipt{
		Relay: receipt.Relay{Name: "plimsoll-relay-0a1b2c3d"}, Made: "2026-03-01T10:00:00Z", Software: "v1.2.3", Promise: true, Generation: 7,
		Pinned: []digest.Digest{d("v1")}, Staged: []digest.Digest{d("v3")},
		Channels: []receipt.Channel{{Name: "stable", Active: d("v2"), Previous: []digest.Digest{d("v1")}}},
		Bundles: []receipt.Bundle{
			{Digest: d("v1"), Name: "robot-stack", Version: "v1", Missing: []digest.Digest{d("gone")}},
			{
				Digest: d("v2"), Name: "robot-stack", Version: "v2", Imported: "2026-02-28T09:00:00Z", From: "/media/stick <&> é", Whole: true,
				Layers: []receipt.Layer{{Digest: d("l"), DiffID: d("unpacked")}},
				Git: []receipt.Repository{{Name: "github.com/acme/deploy", Refs: []receipt.Ref{
					{Name: "refs/heads/main", OID: oid}, {Name: "refs/tags/v2", OID: strings.Repeat("a", 64)},
				}}},
			},
			{Digest: d("v3"), Name: "robot-stack", Version: "v3", Whole: true},
		},
		Journal:  "plimsoll.dev/journal/x\n12\nbase64=\n\n— plimsoll-relay-0a1b2c3d AAAA\n",
		Store:    receipt.Store{Blobs: 3, Bytes: 1 << 40},
		Room:     receipt.Room{Free: 5, Total: 6},
		Encoders: map[string]string{"go-gzip-6": d("output").String(), "pgzip": "1"},
		Clock:    receipt.Clock{Now: "1970-01-01T00:00:07Z", Floor: "2026-03-01T10:00:00Z"},
		Robots: []receipt.Robot{
			{Name: "10.0.0.7", Anonymous: true, Seen: "2026-03-01T09:59:00Z", Generation: 6},
			{Name: "agv-17", Seen: "2026-03-01T09:59:59Z", Generation: 7, Pulls: 2, Bytes: 99, Last: &receipt.Pull{
				Time: "2026-03-01T09:59:58Z", Repository: "ghcr.io/acme/app", Reference: "v2", Digest: d("manifest"),
			}},
		},
		Site:     []receipt.Repository{{Name: "site-overrides", Refs: []receipt.Ref{{Name: "refs/heads/main", OID: oid}}}},
		Problems: []string{"release robot-stack v1: a blob is gone"},
	}
	slices.SortFunc(r.Bundles, func(a, b receipt.Bundle) int { return strings.Compare(string(a.Digest), string(b.Digest)) })
	return r
}

func sign(t testing.TB, r *receipt.Receipt, k crypto.Signer) []byte {
	t.Helper()
	data, err := receipt.Sign(r, k)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func public(keys ...crypto.Signer) (all []crypto.PublicKey) {
	for _, k := range keys {
		all = append(all, k.Public())
	}
	return all
}

// payload is the signed statement of a receipt.
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

// envelope signs any statement, by the DSSE library and not by the code under test.
func envelope(k ed25519.PrivateKey, statement []byte) []byte {
	signature := ed25519.Sign(k, dsse.PAE(attest.PayloadTypeInToto, statement))
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Appendf(nil, `{"payloadType":"%s","payload":"%s","signatures":[{"keyid":"%s","sig":"%s"}]}`+"\n",
		attest.PayloadTypeInToto, b64(statement), attest.KeyID(k.Public()), b64(signature))
}

func TestReceiptsComeBack(t *testing.T) {
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	empty := &receipt.Receipt{
		Relay: receipt.Relay{Name: "r"}, Made: "2026-03-01T10:00:00Z", Software: "devel", Clock: receipt.Clock{Now: "2026-03-01T10:00:00Z"},
	}
	for name, r := range map[string]*receipt.Receipt{"full": sample(), "empty": empty} {
		for _, k := range []crypto.Signer{key(1), p256} {
			data := sign(t, r, k)
			v, err := receipt.Verify(data, public(key(9), k))
			if err != nil {
				t.Fatalf("%s, %T: %v", name, k, err)
			}
			if !reflect.DeepEqual(v.Receipt(), r) || v.KeyID() != attest.KeyID(k.Public()) {
				t.Errorf("%s, %T: %+v", name, k, v.Receipt())
			}
			if read, err := receipt.Read(data); err != nil || !reflect.DeepEqual(read, r) {
				t.Errorf("%s, %T: read %+v, %v", name, k, read, err)
			}
		}
	}
}

// What stock libraries make of a receipt: a DSSE envelope with one signature over an in-toto statement.
func TestOthersReadReceipts(t *testing.T) {
	data := sign(t, sample(), key(1))
	var e dsse.Envelope
	if err := json.Unmarshal(data, &e); err != nil {
		t.Fatal(err)
	}
	verifier, err := dsse.NewEnvelopeVerifier(verifier{key(1).Public().(ed25519.PublicKey)})
	if err != nil {
		t.Fatal(err)
	}
	if accepted, err := verifier.Verify(t.Context(), &e); err != nil || len(accepted) != 1 {
		t.Errorf("%v, %v", accepted, err)
	}
	var st intoto.Statement
	if err := protojson.Unmarshal(payload(t, data), &st); err != nil {
		t.Fatal(err)
	}
	if err := st.Validate(); err != nil {
		t.Error(err)
	}
	if st.PredicateType != receipt.PredicateType || len(st.Subject) != 4 || st.Subject[0].Digest["sha256"] != attest.KeyID(key(1).Public()) {
		t.Errorf("%v %v", st.PredicateType, st.Subject)
	}
}

type verifier struct{ ed25519.PublicKey }

func (v verifier) Verify(_ context.Context, data, sig []byte) error {
	if !ed25519.Verify(v.PublicKey, data, sig) {
		return errors.New("no")
	}
	return nil
}
func (v verifier) KeyID() (string, error)   { return attest.KeyID(v.PublicKey), nil }
func (v verifier) Public() crypto.PublicKey { return v.PublicKey }

// The bytes of a receipt do not change by accident: a relay in the field writes them for a builder of years later.
func TestGolden(t *testing.T) {
	path := filepath.Join("testdata", "receipt.json")
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
	says := sample()
	says.Relay.Key = attest.KeyID(key(1).Public())
	if v, err := receipt.Verify(want, public(key(1))); err != nil || !reflect.DeepEqual(v.Receipt(), says) {
		t.Errorf("%v", err)
	}
}

func TestDenied(t *testing.T) {
	data := sign(t, sample(), key(1))
	var denied *receipt.DeniedError
	if _, err := receipt.Verify(data, nil); !errors.As(err, &denied) || !strings.Contains(err.Error(), "no key is trusted") {
		t.Errorf("no key: %v", err)
	}
	if _, err := receipt.Verify(data, public(key(2))); !errors.As(err, &denied) || !strings.Contains(err.Error(), "not trusted") {
		t.Errorf("another key: %v", err)
	}
	// Whoever changes what was signed has no signature for it.
	forged := bytes.Replace(payload(t, data), []byte(`"generation":7`), []byte(`"generation":8`), 1)
	lie := envelope(key(2), forged)
	id := func(seed byte) []byte { return []byte(attest.KeyID(key(seed).Public())) }
	lie = bytes.Replace(lie, id(2), id(1), 1) // and claims to be the relay
	if _, err := receipt.Verify(lie, public(key(1))); !errors.As(err, &denied) || !strings.Contains(err.Error(), "did not sign this") {
		t.Errorf("changed: %v", err)
	}
	// One trusted relay must not speak for another: the statement says which key is its own.
	var format *receipt.FormatError
	if _, err := receipt.Verify(envelope(key(2), payload(t, data)), public(key(1), key(2))); !errors.As(err, &format) || !strings.Contains(err.Error(), "says that its key is") {
		t.Errorf("another relay's statement: %v", err)
	}
}

func TestKeysOfOtherKinds(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	data := sign(t, sample(), key(1))
	for _, k := range []crypto.Signer{p384, rsaKey} {
		if _, err := receipt.Sign(sample(), k); err == nil {
			t.Errorf("signed with %T", k)
		}
		if _, err := receipt.Verify(data, public(k)); err == nil {
			t.Errorf("verified with %T", k)
		}
	}
}

// Each change of a single byte of a receipt is found.
func TestEveryByteCounts(t *testing.T) {
	data := sign(t, sample(), key(1))
	for i := range data {
		changed := bytes.Clone(data)
		changed[i] ^= []byte{1, 0x20, 0x80}[i%3]
		if _, err := receipt.Verify(changed, public(key(1))); err == nil {
			t.Fatalf("byte %d: %q instead of %q was accepted", i, changed[i], data[i])
		}
		if _, err := receipt.Verify(data[:i], public(key(1))); err == nil {
			t.Fatalf("cut after %d bytes, it was accepted", i)
		}
	}
}

// An envelope has one form; base64 decoders take several.
func TestEnvelopeHasOneForm(t *testing.T) {
	good := string(sign(t, sample(), key(1)))
	cut, ok := strings.CutSuffix(good, "\"}]}\n")
	if !ok {
		t.Fatal("the end is not what it was")
	}
	for name, bad := range map[string]string{
		"no line end":        strings.TrimSuffix(good, "\n"),
		"two line ends":      good + "\n",
		"white space":        " " + good,
		"line in payload":    strings.Replace(good, `"payload":"`, `"payload":"`+"\n", 1),
		"return in payload":  strings.Replace(good, `"payload":"`, `"payload":"`+"\r", 1),
		"line in signature":  cut + "\n\"}]}\n",
		"two signatures":     cut + `"},{"keyid":"","sig":"` + "\"}]}\n",
		"another type":       strings.Replace(good, "in-toto", "in-tota", 1),
		"long signature":     cut + strings.Repeat("A", 400) + "\"}]}\n",
		"empty":              "",
		"a bare statement":   string(payload(t, []byte(good))),
		"other trailer bits": strings.Replace(good, "==\"}]}", "=\"}]}", 1),
	} {
		if bad == good {
			t.Errorf("%s: nothing was changed", name)
		}
		var format *receipt.FormatError
		if _, err := receipt.Verify([]byte(bad), public(key(1))); !errors.As(err, &format) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLimits(t *testing.T) {
	var format *receipt.FormatError
	if _, err := receipt.Read(make([]byte, receipt.MaxReceipt+1)); !errors.As(err, &format) {
		t.Errorf("too large: %v", err)
	}
	// Small bytes that become large values are refused before they do.
	objects := `{"_type":"x","subject":[` + strings.Repeat(`{},`, receipt.MaxObjects) + `{}]}`
	values := `{"_type":"x","subject":[` + strings.Repeat(`0,`, receipt.MaxValues) + `0]}`
	for _, statement := range []string{objects, values} {
		if _, err := receipt.Read(envelope(key(1), []byte(statement))); !errors.As(err, &format) || !strings.Contains(err.Error(), "the limits are") {
			t.Errorf("%.100v", err)
		}
	}
	// Commas and braces in texts are text.
	r := sample()
	r.Problems = []string{strings.Repeat(`,{["\`, 200)}
	if _, err := receipt.Verify(sign(t, r, key(1)), public(key(1))); err != nil {
		t.Error(err)
	}
	big := sample()
	for n := range 60_000 {
		name := fmt.Sprintf("refs/heads/%s%06d", strings.Repeat("x", 900), n)
		big.Site[0].Refs = append(big.Site[0].Refs, receipt.Ref{Name: name, OID: oid})
	}
	slices.SortFunc(big.Site[0].Refs, func(a, b receipt.Ref) int { return strings.Compare(a.Name, b.Name) })
	var large *receipt.TooLargeError
	if _, err := receipt.Sign(big, key(1)); !errors.As(err, &large) {
		t.Errorf("%v", err)
	}
	big.Site[0].Refs = big.Site[0].Refs[:20_000]
	data := sign(t, big, key(1))
	if v, err := receipt.Verify(data, public(key(1))); err != nil || len(v.Receipt().Site[0].Refs) != 20_000 {
		t.Errorf("a receipt of %d bytes: %v", len(data), err)
	}
}

// A site with fifty releases of large images: what its receipt costs.
func BenchmarkVerify(b *testing.B) {
	r := sample()
	for i := range r.Bundles {
		r.Bundles[i].Layers, r.Bundles[i].Missing = nil, nil
		for n := range 10_000 {
			r.Bundles[i].Layers = append(r.Bundles[i].Layers, receipt.Layer{Digest: digest.Digest(fmt.Sprintf("sha256:%064x", n)), DiffID: d("x")})
		}
	}
	data := sign(b, r, key(1))
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := receipt.Verify(data, public(key(1))); err != nil {
			b.Fatal(err)
		}
	}
}

// Rules that a signed statement can break. Each is broken alone, by Sign's check and by a relay that does not check.
func TestRules(t *testing.T) {
	statement := string(payload(t, sign(t, sample(), key(1))))
	for name, change := range map[string][2]string{
		"type":                  {`"_type":"https://in-toto.io/Statement/v1"`, `"_type":"https://in-toto.io/Statement/v2"`},
		"predicate type":        {receipt.PredicateType, "https://plimsoll.dev/attestation/receipt/v2"},
		"another subject":       {`"name":"robot-stack v2"`, `"name":"robot-stack v9"`},
		"unknown field":         {`"promise":true`, `"promise":true,"more":1`},
		"duplicate field":       {`"promise":true`, `"promise":true,"promise":true`},
		"white space":           {`"promise":true`, `"promise": true`},
		"null list":             {`"site":[`, `"staged":null,"site":[`},
		"made":                  {`"made":"2026-03-01T10:00:00Z"`, `"made":"2026-03-01T10:00:00+00:00"`},
		"made with fraction":    {`"made":"2026-03-01T10:00:00Z"`, `"made":"2026-03-01T10:00:00.5Z"`},
		"relay name":            {`"name":"plimsoll-relay-0a1b2c3d","key"`, `"name":"two words","key"`},
		"generation":            {`"generation":7,"channels"`, `"generation":9007199254740993,"channels"`},
		"no generation":         {`"generation":7,"channels"`, `"generation":0,"channels"`},
		"negative":              {`"blobs":3`, `"blobs":-3`},
		"fraction":              {`"blobs":3`, `"blobs":3.0`},
		"channel's name":        {`"name":"stable"`, `"name":"Stable"`},
		"unlisted active":       {`"active":"` + string(d("v2")), `"active":"` + string(d("v9"))},
		"active twice":          {`"previous":["` + string(d("v1")), `"previous":["` + string(d("v2"))},
		"staged in a channel":   {`"staged":["` + string(d("v3")), `"staged":["` + string(d("v2"))},
		"unlisted pin":          {`"pinned":["` + string(d("v1")), `"pinned":["` + string(d("v9"))},
		"digest":                {`"layers":[{"digest":"sha256:`, `"layers":[{"digest":"md5:`},
		"diff-id":               {`"diffId":"sha256:`, `"diffId":"sha256:0`},
		"whole and missing":     {`"whole":false,"missing"`, `"whole":true,"missing"`},
		"ref":                   {`"name":"refs/heads/main"`, `"name":"main"`},
		"unsorted refs":         {`"name":"refs/tags/v2"`, `"name":"refs/heads/a"`},
		"object id":             {oid, oid[1:]},
		"control character":     {`"release robot-stack v1: a blob is gone"`, `"\u001b[2J"`},
		"turned text":           {`"release robot-stack v1: a blob is gone"`, `"` + "\u202e" + `"`},
		"lone surrogate":        {`"release robot-stack v1: a blob is gone"`, `"\ud800"`},
		"escaped":               {`"release robot-stack v1: a blob is gone"`, `"\u0061"`},
		"robots out of order":   {`"name":"agv-17"`, `"name":"0"`},
		"robot's time":          {`"seen":"2026-03-01T09:59:59Z"`, `"seen":"yesterday"`},
		"pull's digest":         {`"digest":"` + string(d("manifest")), `"digest":"sha256:00`},
		"clock":                 {`"now":"1970-01-01T00:00:07Z"`, `"now":""`},
		"checkpoint":            {`"journal":"plimsoll`, `"journal":"\u0000plimsoll`},
		"long text":             {`"software":"v1.2.3"`, `"software":"` + strings.Repeat("x", receipt.MaxText+1) + `"`},
		"no software":           {`"software":"v1.2.3"`, `"software":""`},
		"no robot":              {`"robots":[`, `"robots":[{},`},
		"key of another format": {`"key":"`, `"key":"0`},
	} {
		bad := strings.Replace(statement, change[0], change[1], 1)
		if bad == statement {
			t.Errorf("%s: nothing was changed", name)
		}
		var format *receipt.FormatError
		if _, err := receipt.Verify(envelope(key(1), []byte(bad)), public(key(1))); !errors.As(err, &format) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := receipt.Verify(envelope(key(1), []byte(statement)), public(key(1))); err != nil {
		t.Errorf("unchanged: %v", err)
	}
	for name, change := range map[string]func(*receipt.Receipt){
		"unsorted bundles": func(r *receipt.Receipt) { slices.Reverse(r.Bundles) },
		"a bundle twice":   func(r *receipt.Receipt) { r.Bundles = append(r.Bundles, r.Bundles[2]) },
		"too many bundles": func(r *receipt.Receipt) { r.Bundles = make([]receipt.Bundle, receipt.MaxBundles+1) },
		"missing layer": func(r *receipt.Receipt) {
			for i := range r.Bundles {
				r.Bundles[i].Whole, r.Bundles[i].Missing = false, []digest.Digest{d("l")}
			}
		},
		"too many problems": func(r *receipt.Receipt) { r.Problems = slices.Repeat([]string{"p"}, receipt.MaxProblems+1) },
		"long checkpoint":   func(r *receipt.Receipt) { r.Journal = strings.Repeat("x", receipt.MaxCheckpoint+1) },
		"encoder":           func(r *receipt.Receipt) { r.Encoders["a\nb"] = "1" },
	} {
		r := sample()
		change(r)
		var format *receipt.FormatError
		if _, err := receipt.Sign(r, key(1)); !errors.As(err, &format) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestText(t *testing.T) {
	for in, want := range map[string]string{
		"plain é →":                          "plain é →",
		"a\x1b[2Jb\n":                        "a?[2Jb?",
		"\xff\u202e":                         "??",
		strings.Repeat("x", 5000):            strings.Repeat("x", receipt.MaxText-3) + "…",
		"y" + strings.Repeat("é", 5000):      "y" + strings.Repeat("é", (receipt.MaxText-4)/2) + "…",
		strings.Repeat("x", receipt.MaxText): strings.Repeat("x", receipt.MaxText),
	} {
		if got := receipt.Text(in); got != want || len(got) > receipt.MaxText {
			t.Errorf("%.20q: %q, want %q", in, got, want)
		}
	}
}

// FORMAT.md names the fields that the code has, in its order.
func TestFormatNamesTheFields(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "bundle", "FORMAT.md"))
	if err != nil {
		t.Fatal(err)
	}
	for heading, typ := range map[string]reflect.Type{
		"| field of a receipt | meaning |":          reflect.TypeFor[receipt.Receipt](),
		"| field of a receipt's bundle | meaning |": reflect.TypeFor[receipt.Bundle](),
		"| field of a receipt's robot | meaning |":  reflect.TypeFor[receipt.Robot](),
	} {
		_, table, ok := strings.Cut(string(page), heading+"\n")
		if !ok {
			t.Errorf("FORMAT.md has no table %q", heading)
			continue
		}
		table, _, _ = strings.Cut(table, "\n\n")
		var documented, fields []string
		for line := range strings.Lines(table) {
			cell, _, _ := strings.Cut(strings.TrimPrefix(line, "|"), "|")
			for _, m := range regexp.MustCompile("`([a-zA-Z]+)(\\[\\])?`").FindAllStringSubmatch(cell, -1) {
				documented = append(documented, m[1])
			}
		}
		for i := range typ.NumField() {
			name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
			fields = append(fields, name)
		}
		if !slices.Equal(documented, fields) {
			t.Errorf("%s: FORMAT.md names %v, the code has %v", typ, documented, fields)
		}
	}
	if !strings.Contains(string(page), "`"+receipt.PredicateType+"`") {
		t.Error("FORMAT.md does not name the predicate type")
	}
}

// What is read as a receipt has one form, and means the same to the in-toto library.
func FuzzRead(f *testing.F) {
	full := sign(f, sample(), key(1))
	f.Add(full)
	f.Add(envelope(key(1), payload(f, full)[1:]))
	f.Add([]byte(`{"payloadType":"application/vnd.in-toto+json","payload":"","signatures":[{"keyid":"","sig":""}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := receipt.Read(data)
		if err != nil {
			return
		}
		claimed := r.Relay.Key
		again := payload(t, sign(t, r, key(1)))
		if back := bytes.ReplaceAll(again, []byte(r.Relay.Key), []byte(claimed)); r.Relay.Key != claimed && bytes.Count(again, []byte(r.Relay.Key)) == 2 {
			again = back // only the relay's key was replaced by the test's
		} else if r.Relay.Key != claimed {
			return
		}
		if !bytes.Equal(again, payload(t, data)) {
			t.Errorf("read %q, which encodes to %q", payload(t, data), again)
		}
		var st intoto.Statement
		if err := protojson.Unmarshal(again, &st); err != nil {
			t.Errorf("in-toto: %v", err)
		} else if err := st.Validate(); err != nil {
			t.Errorf("in-toto: %v", err)
		}
	})
}

// Statements are fuzzed behind a signature that is right, so that mutations reach the parser.
func FuzzStatement(f *testing.F) {
	f.Add(payload(f, sign(f, sample(), key(1))))
	f.Add([]byte(`{"_type":"https://in-toto.io/Statement/v1","subject":[],"predicateType":"` + receipt.PredicateType + `","predicate":{}}`))
	f.Add([]byte(`{"predicate":null}`))
	f.Fuzz(func(t *testing.T, statement []byte) {
		v, err := receipt.Verify(envelope(key(1), statement), public(key(1)))
		if err != nil {
			return
		}
		if again := payload(t, sign(t, v.Receipt(), key(1))); !bytes.Equal(again, statement) {
			t.Errorf("%q was accepted and encodes to %q", statement, again)
		}
	})
}
