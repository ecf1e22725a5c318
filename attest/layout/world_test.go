package layout_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"
	"time"

	intoto "github.com/in-toto/in-toto-golang/in_toto"
	"github.com/opencontainers/go-digest"

	"github.com/plimsoll/plimsoll/attest/layout"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// person has a key that a test derives from one byte, so that failures repeat.
type person struct {
	key intoto.Key
	pub crypto.PublicKey
}

func (p person) id() string { return p.key.KeyID }

func newPerson(t testing.TB, seed byte, ed bool) person {
	t.Helper()
	var key crypto.Signer = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
	if !ed {
		k, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), bytes.Repeat([]byte{seed}, 32))
		if err != nil {
			t.Fatal(err)
		}
		key = k
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	p := person{pub: key.Public()}
	if err := p.key.LoadKeyReaderDefaults(bytes.NewReader(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))); err != nil {
		t.Fatal(err)
	}
	return p
}

// public is what a layout says of a functionary.
func (p person) public() intoto.Key {
	k := p.key
	k.KeyVal.Private = ""
	return k
}

// world is a supply chain: alice builds, bob packs, and a bundle comes out. Tests change it before it is signed.
type world struct {
	owner, alice, bob, carol, stranger person

	layout intoto.Layout
	links  map[string]intoto.Link // by file
	by     map[string]person      // who signs which file
	owners []person               // who sign the layout
	dsse   bool
	edit   func(file string, data []byte) []byte // after signing
	opts   layout.Options
}

const rootName = "out/blobs/sha256/root"

var root = digest.FromString("the bundle index")

func artifact(content string) intoto.HashObj {
	return intoto.HashObj{"sha256": digest.FromString(content).Encoded()}
}

func step(name string, threshold int, by []person, materials, products [][]string) intoto.Step {
	s := intoto.Step{Type: "step", Threshold: threshold, ExpectedCommand: []string{"make", name},
		SupplyChainItem: intoto.SupplyChainItem{Name: name, ExpectedMaterials: materials, ExpectedProducts: products}}
	for _, p := range by {
		s.PubKeys = append(s.PubKeys, p.id())
	}
	return s
}

func link(name string, materials, products map[string]intoto.HashObj) intoto.Link {
	return intoto.Link{Type: "link", Name: name, Materials: materials, Products: products, Command: []string{"make", name},
		ByProducts: map[string]any{"return-value": 0}, Environment: map[string]any{}}
}

func newWorld(t testing.TB) *world { return makeWorld(t, newPerson(t, 3, false)) }

// newEnvelopes writes DSSE envelopes. In those the library's own writer makes broken JSON of a PEM block, with bare line
// ends in a text, which no reader takes; Ed25519 keys are hex.
func newEnvelopes(t testing.TB) *world {
	w := makeWorld(t, newPerson(t, 3, true))
	w.dsse = true
	return w
}

func makeWorld(t testing.TB, bob person) *world {
	w := &world{owner: newPerson(t, 1, true), alice: newPerson(t, 2, true), bob: bob, carol: newPerson(t, 4, true),
		stranger: newPerson(t, 5, true), links: map[string]intoto.Link{}, by: map[string]person{}}
	w.owners = []person{w.owner}
	w.layout = intoto.Layout{Type: "layout", Expires: "2026-12-31T00:00:00Z", Inspect: []intoto.Inspection{}, Readme: "",
		Keys: map[string]intoto.Key{},
		Steps: []intoto.Step{
			step("build", 1, []person{w.alice, w.bob}, [][]string{{"ALLOW", "src/*"}, {"DISALLOW", "*"}}, [][]string{{"CREATE", "app"}, {"DISALLOW", "app*"}, {"ALLOW", "src/*"}, {"DISALLOW", "*"}}),
			step("pack", 1, []person{w.bob}, [][]string{{"MATCH", "app", "WITH", "PRODUCTS", "FROM", "build"}, {"DISALLOW", "*"}},
				[][]string{{"REQUIRE", rootName}, {"ALLOW", "out/*"}, {"MATCH", "app", "WITH", "PRODUCTS", "FROM", "build"}, {"DISALLOW", "*"}}),
		}}
	for _, p := range []person{w.alice, w.bob, w.carol} {
		w.layout.Keys[p.id()] = p.public()
	}
	w.put(w.alice, link("build", map[string]intoto.HashObj{"src/main.go": artifact("source")},
		map[string]intoto.HashObj{"src/main.go": artifact("source"), "app": artifact("app")}))
	w.put(w.bob, link("pack", map[string]intoto.HashObj{"app": artifact("app")},
		map[string]intoto.HashObj{"app": artifact("app"), rootName: {"sha256": root.Encoded()}}))
	w.opts = layout.Options{Owners: []crypto.PublicKey{w.owner.pub}, Now: now}
	return w
}

func (w *world) put(by person, l intoto.Link) string {
	file := layout.LinkName(l.Name, by.id())
	w.links[file], w.by[file] = l, by
	return file
}

func (w *world) file(step string, p person) string { return layout.LinkName(step, p.id()) }

// write signs with the library and gives the bytes that it writes.
func (w *world) write(t testing.TB, payload any, by ...person) []byte {
	t.Helper()
	var m intoto.Metadata = &intoto.Metablock{Signed: payload}
	if w.dsse {
		e := &intoto.Envelope{}
		if err := e.SetPayload(payload); err != nil {
			t.Fatal(err)
		}
		m = e
	}
	for _, p := range by {
		if err := m.Sign(p.key); err != nil {
			t.Fatal(err)
		}
	}
	if w.dsse { // its Sign replaces the signatures; several are put together here
		return w.envelope(t, m, by)
	}
	data, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func (w *world) envelope(t testing.TB, m intoto.Metadata, by []person) []byte {
	t.Helper()
	var all map[string]any
	for _, p := range by {
		if err := m.Sign(p.key); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "envelope")
		if err := m.Dump(file); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var one map[string]any
		if err := json.Unmarshal(data, &one); err != nil {
			t.Fatal(err)
		}
		if all != nil {
			one["signatures"] = append(all["signatures"].([]any), one["signatures"].([]any)...)
		}
		all = one
	}
	data, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// files are the layout and the folder of links.
func (w *world) files(t testing.TB) ([]byte, fstest.MapFS) {
	t.Helper()
	doc := w.write(t, w.layout, w.owners...)
	folder := fstest.MapFS{}
	for file, l := range w.links {
		data := w.write(t, l, w.by[file])
		if w.edit != nil {
			data = w.edit(file, data)
		}
		folder[file] = &fstest.MapFile{Data: data}
	}
	if w.edit != nil {
		doc = w.edit("layout", doc)
	}
	return doc, folder
}

func (w *world) verify(t testing.TB) (*layout.Verified, error) {
	t.Helper()
	doc, folder := w.files(t)
	return layout.Verify(t.Context(), doc, folder, w.opts)
}
