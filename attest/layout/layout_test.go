package layout_test

import (
	"bytes"
	"crypto"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	intoto "github.com/in-toto/in-toto-golang/in_toto"
	"github.com/opencontainers/go-digest"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/attest/layout"
)

func TestVerify(t *testing.T) {
	for _, dsse := range []bool{false, true} {
		w := newWorld(t)
		if dsse {
			w = newEnvelopes(t)
		}
		v, err := w.verify(t)
		if err != nil {
			t.Fatal(err)
		}
		names, err := v.CheckSubject(root)
		if err != nil || len(names) != 1 || names[0] != rootName {
			t.Errorf("%q, %v", names, err)
		}
		doc, folder := w.files(t)
		if steps := v.Steps(); len(steps) != 2 || steps[0].Name != "build" || steps[0].Signers[0] != w.alice.id() || steps[1].Signers[0] != w.bob.id() ||
			steps[0].Links[0].OtherCommand || steps[0].Links[0].Digest != digest.FromBytes(folder[w.file("build", w.alice)].Data) {
			t.Errorf("%+v", steps)
		}
		if v.Expires() != time.Date(2026, 12, 31, 0, 0, 0, 0, time.UTC) || v.Layout() != digest.FromBytes(doc) {
			t.Error(v.Expires(), v.Layout())
		}
		for _, other := range []digest.Digest{digest.FromString("another"), digest.FromString("source"), "sha512:" + digest.Digest(strings.Repeat("0", 128))} {
			var denied *layout.DeniedError
			if _, err := v.CheckSubject(other); !errors.As(err, &denied) || denied.Reason != layout.WrongSubject {
				t.Errorf("%s: %v", other, err)
			}
		}
		if _, err := v.CheckSubject("sha256:"); err == nil {
			t.Error("a digest that is none")
		}
	}
}

// A supply chain of two, who both must have built, and of two owners.
func TestThresholds(t *testing.T) {
	w := newWorld(t)
	w.layout.Steps[0].Threshold = 2
	l := w.links[w.file("build", w.alice)]
	second := w.put(w.bob, l)
	w.owners = []person{w.owner, w.carol}
	w.opts.Owners = []crypto.PublicKey{w.carol.pub, w.owner.pub, w.owner.pub}
	v, err := w.verify(t)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(v.Steps()[0].Signers); n != 2 {
		t.Errorf("%d signers", n)
	}
	// Twice the same functionary is one.
	w.by[second] = w.alice
	if _, err := w.verify(t); !refused(err, layout.WrongFunctionary) {
		t.Error(err)
	}
}

func refused(err error, want layout.Reason) bool {
	var denied *layout.DeniedError
	return errors.As(err, &denied) && denied.Reason == want
}

// change makes an attack; file is a link's, or "layout".
func change(file, from, to string) func(w *world) {
	return func(w *world) {
		w.edit = func(name string, data []byte) []byte {
			if strings.HasPrefix(name, file) {
				if !bytes.Contains(data, []byte(from)) {
					panic(from + " is not in " + string(data))
				}
				return bytes.Replace(data, []byte(from), []byte(to), 1)
			}
			return data
		}
	}
}

func TestRefused(t *testing.T) {
	build := func(w *world) *intoto.Step { return &w.layout.Steps[0] }
	relink := func(w *world, step string, by person, fn func(l *intoto.Link)) {
		file := w.file(step, by)
		l := w.links[file]
		fn(&l)
		w.links[file] = l
	}
	for _, c := range []struct {
		name   string
		attack func(w *world)
		want   layout.Reason
		text   string
	}{
		{"an inspection", func(w *world) {
			w.layout.Inspect = []intoto.Inspection{{Type: "inspection", Run: []string{"true"}, SupplyChainItem: intoto.SupplyChainItem{Name: "look"}}}
		}, layout.HasInspections, ""},
		{"an inspection that says nothing", func(w *world) { w.layout.Inspect = []intoto.Inspection{{}} }, layout.HasInspections, ""},
		{"expired", func(w *world) { w.opts.Now = time.Date(2026, 12, 31, 0, 0, 1, 0, time.UTC) }, layout.Expired, "2026-12-31"},
		{"an expiry that is no time", func(w *world) { w.layout.Expires = "never" }, layout.Malformed, ""},
		{"an expiry with a zone", func(w *world) { w.layout.Expires = "2026-12-31T00:00:00+14:00" }, layout.Malformed, ""},
		{"signed by a stranger", func(w *world) { w.owners = []person{w.stranger} }, layout.UnknownSigner, ""},
		{"signed by a functionary", func(w *world) { w.owners = []person{w.alice} }, layout.UnknownSigner, ""},
		{"signed by one of two owners", func(w *world) { w.opts.Owners = append(w.opts.Owners, w.carol.pub) }, layout.UnknownSigner, attest.KeyID(newPerson(t, 4, true).pub)},
		{"a stranger under the owner's id", func(w *world) { w.stranger.key.KeyID = w.owner.id(); w.owners = []person{w.stranger} }, layout.UnknownSigner, ""},
		{"a later expiry", change("layout", "2026-12-31", "2036-12-31"), layout.UnknownSigner, ""},
		{"a rule taken away", change("layout", `["DISALLOW","*"]`, `["ALLOW","*"]`), layout.UnknownSigner, ""},
		{"two signatures by one key", func(w *world) { w.owners = []person{w.owner, w.owner} }, layout.Malformed, "a second one"},
		{"no signature", change("layout", `"signatures":[`, `"signatures":[],"x":[`), layout.Malformed, ""},
		{"a link in the place of the layout", func(w *world) {
			w.edit = func(name string, data []byte) []byte {
				if name == "layout" {
					return w.write(t, w.links[w.file("build", w.alice)], w.owner)
				}
				return data
			}
		}, layout.Malformed, "a link, want a layout"},

		{"a missing link", func(w *world) { delete(w.links, w.file("pack", w.bob)) }, layout.MissingLink, "pack." + newPerson(t, 3, false).id()[:8] + ".link"},
		{"a link by who may not", func(w *world) { w.by[w.file("pack", w.bob)] = w.alice }, layout.WrongFunctionary, ""},
		{"a link by a stranger", func(w *world) { w.by[w.file("build", w.alice)] = w.stranger }, layout.WrongFunctionary, ""},
		{"a link by a stranger under a functionary's id", func(w *world) {
			w.stranger.key.KeyID = w.alice.id()
			w.by[w.file("build", w.alice)] = w.stranger
		}, layout.WrongFunctionary, ""},
		{"a link with the name of who may not", func(w *world) {
			delete(w.links, w.file("pack", w.bob))
			w.put(w.alice, link("pack", nil, nil))
		}, layout.MissingLink, ""},
		{"a changed link", change("pack.", digest.FromString("app").Encoded(), digest.FromString("bad").Encoded()), layout.WrongFunctionary, ""},
		{"a threshold that is not reached", func(w *world) { build(w).Threshold = 2 }, layout.Threshold, "1 of 2"},
		{"functionaries who saw different things", func(w *world) {
			build(w).Threshold = 2
			w.put(w.bob, link("build", map[string]intoto.HashObj{"src/main.go": artifact("source")},
				map[string]intoto.HashObj{"src/main.go": artifact("source"), "app": artifact("another app")}))
		}, layout.LinksDiffer, ""},
		{"swapped names of links", func(w *world) {
			// Bob may do both steps.
			delete(w.links, w.file("build", w.alice))
			l := w.links[w.file("pack", w.bob)]
			w.links[w.file("build", w.bob)], w.by[w.file("build", w.bob)] = l, w.bob
		}, layout.WrongStep, `"pack"`},

		{"a link of another run", func(w *world) {
			relink(w, "build", w.alice, func(l *intoto.Link) { l.Products = map[string]intoto.HashObj{"app": artifact("yesterday's app")} })
		}, layout.RuleViolated, "app"},
		{"a product that is disallowed", func(w *world) {
			relink(w, "build", w.alice, func(l *intoto.Link) { l.Products["app-debug"] = artifact("x") })
		}, layout.RuleViolated, "app-debug"},
		{"a material that is disallowed", func(w *world) {
			relink(w, "build", w.alice, func(l *intoto.Link) { l.Materials["/etc/passwd"] = artifact("x") })
		}, layout.RuleViolated, "/etc/passwd"},
		{"a product that is required", func(w *world) {
			relink(w, "pack", w.bob, func(l *intoto.Link) { delete(l.Products, rootName) })
		}, layout.RuleViolated, "REQUIRE"},
		{"a product that was not created", func(w *world) {
			relink(w, "build", w.alice, func(l *intoto.Link) { l.Materials["app"] = artifact("app") })
			build(w).ExpectedMaterials = [][]string{{"ALLOW", "*"}}
		}, layout.RuleViolated, ""},
		{"a file that was changed by the way", func(w *world) {
			build(w).ExpectedProducts = [][]string{{"CREATE", "app"}, {"DISALLOW", "app"}, {"MATCH", "src/*", "WITH", "MATERIALS", "FROM", "build"}, {"DISALLOW", "*"}}
			relink(w, "build", w.alice, func(l *intoto.Link) { l.Products["src/main.go"] = artifact("infected") })
		}, layout.RuleViolated, "src/main.go"},
		{"two artifacts of one name", func(w *world) {
			relink(w, "build", w.alice, func(l *intoto.Link) { l.Products["./app"] = artifact("x") })
		}, layout.Malformed, "one name"},
		{"another spelling of a name", func(w *world) {
			relink(w, "build", w.alice, func(l *intoto.Link) { l.Products["app/../app-debug"] = artifact("x") })
		}, layout.RuleViolated, "app-debug"},
		{"an artifact without digests", func(w *world) {
			relink(w, "build", w.alice, func(l *intoto.Link) { l.Products["app"] = intoto.HashObj{} })
		}, layout.Malformed, "no sha256"},
		{"an artifact by MD5", func(w *world) {
			relink(w, "build", w.alice, func(l *intoto.Link) { l.Products["app"] = intoto.HashObj{"md5": strings.Repeat("0", 32)} })
		}, layout.Malformed, "no sha256"},
		{"half a digest", func(w *world) {
			relink(w, "build", w.alice, func(l *intoto.Link) { l.Products["app"]["sha256"] = "00" })
		}, layout.Malformed, "1 bytes"},

		{"a sublayout", func(w *world) {
			w.edit = func(name string, data []byte) []byte {
				if name == w.file("build", w.alice) {
					sub := w.layout
					sub.Inspect = []intoto.Inspection{{Type: "inspection", Run: []string{"true"}, SupplyChainItem: intoto.SupplyChainItem{Name: "look"}}}
					return w.write(t, sub, w.alice)
				}
				return data
			}
		}, layout.Sublayout, ""},
		{"a certificate authority", func(w *world) { w.layout.RootCas = map[string]intoto.Key{w.alice.id(): w.alice.public()} }, layout.Certificates, ""},
		{"an intermediate authority", func(w *world) { w.layout.IntermediateCas = map[string]intoto.Key{w.alice.id(): w.alice.public()} }, layout.Certificates, ""},
		{"a step by certificates", func(w *world) {
			build(w).CertificateConstraints = []intoto.CertificateConstraint{{CommonName: "*", Roots: []string{"*"}}}
		}, layout.Certificates, ""},
		{"a certificate in a signature", change("build.", `"keyid":`, `"cert":"","keyid":`), layout.Malformed, "cert"},

		{"no steps", func(w *world) { w.layout.Steps = []intoto.Step{} }, layout.Malformed, "0 steps"},
		{"a threshold of nobody", func(w *world) { build(w).Threshold = 0; delete(w.links, w.file("build", w.alice)) }, layout.Malformed, "threshold"},
		{"a threshold below nobody", func(w *world) { build(w).Threshold = -1 }, layout.Malformed, "threshold"},
		{"a threshold of more than there are", func(w *world) { build(w).Threshold = 3 }, layout.Malformed, "threshold"},
		{"one key under two ids", func(w *world) {
			twin := w.alice.public()
			twin.KeyID = strings.Repeat("ab", 32)
			w.layout.Keys[twin.KeyID] = twin
			build(w).PubKeys = append(build(w).PubKeys, twin.KeyID)
		}, layout.Malformed, "the same"},
		{"one key twice", func(w *world) { build(w).PubKeys = []string{w.alice.id(), w.alice.id()}; build(w).Threshold = 2 }, layout.Malformed, "begin with"},
		{"a key that is not there", func(w *world) { delete(w.layout.Keys, w.bob.id()) }, layout.Malformed, "not among"},
		{"a short key", func(w *world) {
			k := w.alice.public()
			k.KeyVal.Public = "00"
			w.layout.Keys[k.KeyID] = k
		}, layout.Malformed, "1 bytes"},
		{"a key of another type", func(w *world) {
			k := w.bob.public()
			k.KeyType, k.Scheme = "rsa", "rsassa-pss-sha256"
			w.layout.Keys[k.KeyID] = k
		}, layout.Malformed, "ECDSA key"},
		{"a private key", func(w *world) { w.layout.Keys[w.alice.id()] = w.alice.key }, layout.Malformed, ""},

		{"a step outside", func(w *world) { build(w).Name = "../build" }, layout.Malformed, "want a name"},
		{"a step with a root", func(w *world) { build(w).Name = "/etc/passwd" }, layout.Malformed, "want a name"},
		{"a step of Windows", func(w *world) { build(w).Name = `..\build` }, layout.Malformed, "want a name"},
		{"a step that is a pattern", func(w *world) { build(w).Name = "b*" }, layout.Malformed, "want a name"},
		{"a step that is hidden", func(w *world) { build(w).Name = ".build" }, layout.Malformed, "want a name"},
		{"a step with a zero byte", func(w *world) { build(w).Name = "build\x00" }, layout.Malformed, "want a name"},
		{"a step with a line", func(w *world) { build(w).Name = "build\n" }, layout.Malformed, "want a name"},
		{"a step without a name", func(w *world) { build(w).Name = "" }, layout.Malformed, ""},
		{"two steps of one name", func(w *world) { build(w).Name = "pack" }, layout.Malformed, ""},
		{"two steps that differ in case", func(w *world) { build(w).Name = "PACK" }, layout.Malformed, "two steps"},

		{"an empty rule", func(w *world) { build(w).ExpectedProducts = [][]string{{}} }, layout.Malformed, "empty rule"},
		{"an unknown rule", func(w *world) { build(w).ExpectedProducts = [][]string{{"PERHAPS", "*"}} }, layout.Malformed, ""},
		{"a rule that forbids nothing", func(w *world) { build(w).ExpectedProducts = [][]string{{"DISALLOW", "[*"}} }, layout.Malformed, "pattern"},
		{"a rule without a pattern", func(w *world) { build(w).ExpectedProducts = [][]string{{"DISALLOW", ""}} }, layout.Malformed, "pattern"},
		{"a rule about no step", func(w *world) {
			build(w).ExpectedMaterials = [][]string{{"MATCH", "*", "WITH", "PRODUCTS", "FROM", "biuld"}}
		}, layout.Malformed, "biuld"},
		{"a rule about nothing", func(w *world) {
			build(w).ExpectedMaterials = [][]string{{"MATCH", "*", "WITH", "COMMANDS", "FROM", "pack"}}
		}, layout.Malformed, "commands"},
		{"a parameter without a value", func(w *world) { build(w).ExpectedProducts = [][]string{{"DISALLOW", "{what}"}} }, layout.MissingParameter, "{what}"},
		{"too many rules", func(w *world) {
			for range layout.MaxRules {
				build(w).ExpectedProducts = append(build(w).ExpectedProducts, []string{"ALLOW", "*"})
			}
		}, layout.Malformed, "rules"},

		{"a duplicate key", change("layout", `"expires":`, `"expires":"2036-12-31T00:00:00Z","expires":`), layout.Malformed, "duplicate"},
		{"a duplicate key in another case", change("layout", `"expires":`, `"Expires":"2036-12-31T00:00:00Z","expires":`), layout.Malformed, "duplicate"},
		{"a key in another case", change("layout", `"threshold":`, `"Threshold":`), layout.Malformed, "Threshold"},
		{"a duplicate artifact", change("pack.", `"products":{`, `"products":{"app":{},`), layout.Malformed, "duplicate"},
		{"a duplicate digest", change("pack.", `"sha256":`, `"sha256":"00","sha256":`), layout.Malformed, "duplicate"},
		{"an unknown field", change("pack.", `"command":`, `"commands":[],"command":`), layout.Malformed, "commands"},
		{"a missing field", change("pack.", `,"environment":{}`, ``), layout.Malformed, "environment"},
		{"bytes behind", change("layout", `{"signed"`, `{} {"signed"`), layout.Malformed, ""},
		{"two payloads", change("layout", `{"signed"`, `{"payloadType":"application/vnd.in-toto+json","signed"`), layout.Malformed, ""},
		{"null", change("pack.", `{"signed":`, `null {"signed":`), layout.Malformed, ""},
		{"a fraction", change("pack.", `"return-value":0`, `"return-value":0.5`), layout.WrongFunctionary, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			c.attack(w)
			v, err := w.verify(t)
			if !refused(err, c.want) || !strings.Contains(err.Error(), c.text) || v != nil {
				t.Errorf("%v, want %s: %s", err, c.want, c.text)
			}
		})
	}
}

// In a DSSE envelope the bytes are signed, not what they mean: here the owner's own tool wrote what could be misread.
func TestEnvelope(t *testing.T) {
	payload := func(fn func(string) string) func(w *world) {
		return func(w *world) {
			w.edit = func(name string, data []byte) []byte {
				if name != "layout" {
					return data
				}
				i := bytes.Index(data, []byte(`"payload":"`)) + len(`"payload":"`)
				j := i + bytes.IndexByte(data[i:], '"')
				raw, err := base64.StdEncoding.DecodeString(string(data[i:j]))
				if err != nil {
					panic(err)
				}
				return []byte(string(data[:i]) + base64.StdEncoding.EncodeToString([]byte(fn(string(raw)))) + string(data[j:]))
			}
		}
	}
	replace := func(from, to string) func(w *world) {
		return payload(func(s string) string {
			if !strings.Contains(s, from) {
				panic(from)
			}
			return strings.Replace(s, from, to, 1)
		})
	}
	for _, c := range []struct {
		name   string
		attack func(w *world)
		want   layout.Reason
	}{
		{"changed", replace("2026-12-31", "2036-12-31"), layout.UnknownSigner},
		{"white space", replace(`"expires":`, ` "expires":`), layout.UnknownSigner},
		{"a duplicate key", replace(`"expires":`, `"expires":"2036-12-31T00:00:00Z","expires":`), layout.Malformed},
		{"a key in another case", replace(`"threshold":`, `"Threshold":`), layout.Malformed},
		{"an inspection", replace(`"inspect":[]`, `"inspect":[{"_type":"inspection","run":["true"],"name":"x","expected_materials":[],"expected_products":[]}]`), layout.HasInspections},
		{"an unknown field", replace(`"expires":`, `"extra":1,"expires":`), layout.Malformed},
		{"another payload type", change("layout", "vnd.in-toto+json", "json"), layout.Malformed},
		{"a line in the payload", change("layout", `"payload":"`, `"payload":"\n`), layout.Malformed},
		{"signed by a stranger", func(w *world) { w.owners = []person{w.stranger} }, layout.UnknownSigner},
		{"a link by a stranger", func(w *world) { w.by[w.file("build", w.alice)] = w.stranger }, layout.WrongFunctionary},
	} {
		w := newEnvelopes(t)
		c.attack(w)
		if _, err := w.verify(t); !refused(err, c.want) {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
	}
}

func TestParameters(t *testing.T) {
	w := newWorld(t)
	w.layout.Steps[0].ExpectedProducts = [][]string{{"ALLOW", "{name}"}, {"ALLOW", "src/*"}, {"DISALLOW", "*"}}
	w.layout.Steps[0].ExpectedCommand = []string{"make", "{goal}"}
	w.opts.Parameters = map[string]string{"name": "app", "goal": "build", "unused": "x"}
	v, err := w.verify(t)
	if err != nil || v.Steps()[0].Links[0].OtherCommand {
		t.Fatal(err)
	}
	w.opts.Parameters = map[string]string{"name": "app", "goal": "install"}
	if v, err = w.verify(t); err != nil || !v.Steps()[0].Links[0].OtherCommand {
		t.Error(err)
	}
	w.opts.Parameters["name"] = "other"
	if _, err := w.verify(t); !refused(err, layout.RuleViolated) {
		t.Error(err)
	}
	w.opts.Parameters["name"] = "{goal}" // values are not looked into
	if _, err := w.verify(t); !refused(err, layout.MissingParameter) {
		t.Error(err)
	}
	for _, bad := range []map[string]string{{"a b": "x"}, {"name": "a\nb"}, {"name": strings.Repeat("x", layout.MaxParameter+1)}, {"name": "\xff"}} {
		w.opts.Parameters = bad
		var parameter *layout.ParameterError
		if _, err := w.verify(t); !errors.As(err, &parameter) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestOptions(t *testing.T) {
	w := newWorld(t)
	w.opts.Now = time.Time{}
	if _, err := w.verify(t); err == nil {
		t.Error("no time was given")
	}
	w = newWorld(t)
	w.opts.Owners = nil
	var key *attest.KeyError
	if _, err := w.verify(t); !errors.As(err, &key) {
		t.Error(err)
	}
	w = newWorld(t)
	w.opts.Owners = []crypto.PublicKey{w.bob.pub, "a string"}
	if _, err := w.verify(t); !errors.As(err, &key) {
		t.Error(err)
	}
	// ECDSA keys own layouts, too, and the last moment counts.
	w = newWorld(t)
	w.owners, w.opts.Owners = []person{w.bob}, []crypto.PublicKey{w.bob.pub}
	w.opts.Now = time.Date(2026, 12, 31, 0, 0, 0, 0, time.UTC)
	if _, err := w.verify(t); err != nil {
		t.Error(err)
	}
	// A name in another spelling is the same artifact.
	w = newWorld(t)
	l := w.links[w.file("build", w.alice)]
	l.Products["./app"] = l.Products["app"]
	delete(l.Products, "app")
	if _, err := w.verify(t); err != nil {
		t.Error(err)
	}
}

// A folder is not believed: what is large, no file, or leads out of it.
func TestFolder(t *testing.T) {
	w := newWorld(t)
	doc, files := w.files(t)
	write := func(t *testing.T) (string, *os.Root) {
		dir := t.TempDir()
		for name, f := range files {
			if err := os.WriteFile(filepath.Join(dir, name), f.Data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		r, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close() })
		return dir, r
	}
	name := w.file("build", w.alice)
	t.Run("good", func(t *testing.T) {
		_, r := write(t)
		if _, err := layout.Verify(t.Context(), doc, r.FS(), w.opts); err != nil {
			t.Error(err)
		}
	})
	t.Run("a pipe", func(t *testing.T) {
		dir, r := write(t)
		if err := errors.Join(os.Remove(filepath.Join(dir, name)), syscall.Mkfifo(filepath.Join(dir, name), 0o600)); err != nil {
			t.Fatal(err)
		}
		if _, err := layout.Verify(t.Context(), doc, r.FS(), w.opts); !refused(err, layout.Malformed) {
			t.Error(err)
		}
	})
	t.Run("a link out of it", func(t *testing.T) {
		dir, r := write(t)
		other := filepath.Join(t.TempDir(), "x")
		if err := errors.Join(os.Rename(filepath.Join(dir, name), other), os.Symlink(other, filepath.Join(dir, name))); err != nil {
			t.Fatal(err)
		}
		if _, err := layout.Verify(t.Context(), doc, r.FS(), w.opts); err == nil {
			t.Error("a file outside of the folder was read")
		}
	})
	t.Run("large", func(t *testing.T) {
		large := fstest.MapFS{name: {Data: append(bytes.Repeat([]byte(" "), layout.MaxLink), files[name].Data...)}}
		if _, err := layout.Verify(t.Context(), doc, large, w.opts); !refused(err, layout.Malformed) {
			t.Error(err)
		}
		if _, err := layout.Verify(t.Context(), append(bytes.Repeat([]byte(" "), layout.MaxLayout), doc...), files, w.opts); !refused(err, layout.Malformed) {
			t.Error(err)
		}
	})
	t.Run("broken", func(t *testing.T) {
		_, err := layout.Verify(t.Context(), doc, brokenFS{}, w.opts)
		var denied *layout.DeniedError
		if !errors.Is(err, syscall.EIO) || errors.As(err, &denied) {
			t.Errorf("%v: what cannot be read is no verdict", err)
		}
	})
}

type brokenFS struct{}

func (brokenFS) Open(string) (fs.File, error) { return nil, syscall.EIO }

// All links together are bounded.
func TestManyLinks(t *testing.T) {
	if testing.Short() {
		t.Skip("32 MiB of links")
	}
	w := newWorld(t)
	folder := fstest.MapFS{}
	w.layout.Steps = nil
	for i := range layout.MaxLinks/layout.MaxLink + 2 {
		l := link(fmt.Sprintf("step-%d", i), map[string]intoto.HashObj{}, map[string]intoto.HashObj{})
		w.layout.Steps = append(w.layout.Steps, step(l.Name, 1, []person{w.alice}, [][]string{}, [][]string{}))
		data := w.write(t, l, w.alice)
		folder[w.file(l.Name, w.alice)] = &fstest.MapFile{Data: append(data, bytes.Repeat([]byte(" "), layout.MaxLink-len(data))...)}
	}
	w.links = nil
	doc, _ := w.files(t)
	if _, err := layout.Verify(t.Context(), doc, folder, w.opts); !refused(err, layout.Malformed) || !strings.Contains(err.Error(), "too large") {
		t.Error(err)
	}
}
