package layout_test

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"testing/fstest"

	"bytes"

	intoto "github.com/in-toto/in-toto-golang/in_toto"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/attest/layout"
)

// sealed signs any bytes, so that what is behind the signatures meets them, too.
func sealed(seed byte, id, payload string) []byte {
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
	sig := ed25519.Sign(key, dsse.PAE(intoto.PayloadType, []byte(payload)))
	return fmt.Appendf(nil, `{"payload":%q,"payloadType":%q,"signatures":[{"keyid":%q,"sig":%q}]}`,
		base64.StdEncoding.EncodeToString([]byte(payload)), intoto.PayloadType, id, base64.StdEncoding.EncodeToString(sig))
}

func text(t testing.TB, v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// What owners and functionaries sign may be anything: it is judged without a panic, and what is accepted has no
// inspections and is fresh.
func FuzzSigned(f *testing.F) {
	w := newEnvelopes(f)
	build, pack := w.links[w.file("build", w.alice)], w.links[w.file("pack", w.bob)]
	f.Add(text(f, w.layout), text(f, build), text(f, pack))
	odd := w.layout
	odd.Inspect = []intoto.Inspection{{Type: "inspection", Run: []string{"true"}}}
	f.Add(text(f, odd), text(f, w.layout), `{"_type":"link"}`)
	f.Add(`{"_type":"layout","steps":[{"_type":"step","name":"build","threshold":0,"expected_products":[[]]}],"inspect":null,"keys":{},"expires":"2999-01-01T00:00:00Z","readme":""}`, `null`, `[]`)
	f.Fuzz(func(t *testing.T, doc, one, two string) {
		folder := fstest.MapFS{
			w.file("build", w.alice): {Data: sealed(2, w.alice.id(), one)},
			w.file("pack", w.bob):    {Data: sealed(3, w.bob.id(), two)},
		}
		check(t, sealed(1, w.owner.id(), doc), folder, w.opts)
	})
}

// FuzzVerify takes the bytes as they are.
func FuzzVerify(f *testing.F) {
	for _, w := range []*world{newWorld(f), newEnvelopes(f)} {
		doc, folder := w.files(f)
		files := slices.Sorted(maps.Keys(folder))
		f.Add(doc, folder[files[0]].Data, folder[files[1]].Data)
	}
	w := newWorld(f)
	f.Fuzz(func(t *testing.T, doc, one, two []byte) {
		check(t, doc, fstest.MapFS{w.file("build", w.alice): {Data: one}, w.file("pack", w.bob): {Data: two}}, w.opts)
	})
}

func check(t *testing.T, doc []byte, folder fstest.MapFS, o layout.Options) {
	v, err := layout.Verify(context.Background(), doc, folder, o)
	var denied *layout.DeniedError
	var key *attest.KeyError
	switch {
	case err != nil:
		if v != nil || !errors.As(err, &denied) && !errors.As(err, &key) {
			t.Errorf("%T: %v", err, err)
		}
		return
	case v.Expires().Before(o.Now):
		t.Error("an expired layout")
	}
	for _, s := range v.Steps() {
		if len(s.Signers) == 0 || len(s.Links) != len(s.Signers) {
			t.Errorf("%+v", s)
		}
	}
}
