package policy_test

import (
	"crypto"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/attest/policy"
)

func at(s string) time.Time {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		panic(err)
	}
	return t.UTC()
}

// What each kind of statement says arrives in the facts.
func TestContent(t *testing.T) {
	k := newKeys(t)
	w := newWorld()
	image := w.image("app")
	for _, s := range [][2]string{{typeSPDX, spdx}, {typeProvenance, provenance}, {typeCosignVuln, trivy}, {typeVEX, vex}, {typeTest, test}, {typeVSA, vsa}} {
		w.carry(image, k.attestation.attest(t, s[0], s[1], image))
	}
	w.carry(w.b.Root, k.attestation.attest(t, typeProvenance, provenance, w.b.Root))
	f := w.gather(t, k)
	if f.Bundle.Provenance.Status != policy.OK || f.Bundle.SBOM.Status != policy.Missing || f.Release.Version != "v1.5.4" || !f.Now.Equal(now) {
		t.Errorf("bundle: %+v", f.Bundle)
	}
	i := f.Images[0]
	for _, kind := range policy.Kinds() {
		e := reflect.ValueOf(i).FieldByNameFunc(func(n string) bool { return strings.EqualFold(n, string(kind)) }).FieldByName("Evidence").Interface().(policy.Evidence)
		if e.Status != policy.OK || !slices.Equal(e.Signers, []string{k.attestation.KeyID()}) || e.Subject != image.Digest.String() || e.Manifest == "" || e.Predicate == "" {
			t.Errorf("%s: %+v", kind, e)
		}
	}
	i.SBOM.Evidence, i.Provenance.Evidence, i.Vuln.Evidence = policy.Evidence{Time: i.SBOM.Time}, policy.Evidence{Time: i.Provenance.Time}, policy.Evidence{Time: i.Vuln.Time}
	i.VEX.Evidence, i.Test.Evidence, i.VSA.Evidence = policy.Evidence{Time: i.VEX.Time}, policy.Evidence{}, policy.Evidence{Time: i.VSA.Time}
	want := policy.Image{Name: "app", Digest: image.Digest.String(), Repository: "ghcr.io/acme/app", Platform: "linux/amd64",
		SBOM: policy.SBOM{Evidence: policy.Evidence{Time: at("2026-02-01T00:00:00Z")}, Format: "spdx", Version: "2.3", Packages: 2},
		Provenance: policy.Provenance{Evidence: policy.Evidence{Time: at("2026-02-03T00:00:00Z")}, Builder: "https://ci.example", BuildType: "https://ci.example/t",
			Source: "https://git.example/app", Revision: "abc", Materials: []policy.Material{
				{URI: "git+https://git.example/app@refs/heads/main", Digest: "gitCommit:abc"}, {Name: "base", URI: "pkg:docker/base", Digest: "sha256:00"},
				{URI: "git+https://git.example/lib", Digest: "gitCommit:def"}}},
		Vuln: policy.Vuln{Evidence: policy.Evidence{Time: at("2026-02-04T01:00:00Z")}, Scanner: "https://trivy.dev", Version: "0.60",
			Database: at("2026-02-03T00:00:00Z"), Counted: true, Critical: 1, High: 2, Unknown: 2},
		VEX:  policy.VEX{Evidence: policy.Evidence{Time: at("2026-02-06T00:00:00Z")}, Author: "acme", NotAffected: 2, Fixed: 1},
		Test: policy.Test{Result: "PASSED", Passed: 2, Suites: []string{"unit"}},
		VSA: policy.VSA{Evidence: policy.Evidence{Time: at("2026-02-07T00:00:00Z")}, Verifier: "https://verifier", Policy: "https://p", Result: "PASSED",
			Levels: []string{"SLSA_BUILD_LEVEL_2"}},
	}
	if !reflect.DeepEqual(i, want) {
		t.Errorf("got  %+v\nwant %+v", i, want)
	}
}

func TestOtherForms(t *testing.T) {
	k := newKeys(t)
	for _, c := range []struct {
		name, predicate, content string
		check                    func(i policy.Image) bool
	}{
		{"CycloneDX", typeCycloneDX, cyclonedx, func(i policy.Image) bool {
			return i.SBOM.Format == "cyclonedx" && i.SBOM.Version == "1.6" && i.SBOM.Packages == 3 && i.SBOM.Time.Equal(at("2026-02-01T23:00:00Z"))
		}},
		{"CycloneDX with its version", typeCycloneDX + "/v1.6", cyclonedx, func(i policy.Image) bool { return i.SBOM.Status == policy.OK }},
		{"Grype", typeCosignVuln, grype, func(i policy.Image) bool { return i.Vuln.Counted && i.Vuln.Medium == 1 && i.Vuln.Low == 1 }},
		{"in-toto vulns", typeVulns, vulns, func(i policy.Image) bool { return i.Vuln.Critical == 1 && i.Vuln.Low == 1 && i.Vuln.Unknown == 1 }},
		{"a report that is not understood", typeCosignVuln, strings.Replace(grype, "matches", "runs", 1), func(i policy.Image) bool { return i.Vuln.Status == policy.OK && !i.Vuln.Counted }},
		{"two repositories and no hint", typeProvenance, strings.Replace(provenance, "workflow", "other", 1), func(i policy.Image) bool {
			return i.Provenance.Status == policy.OK && i.Provenance.Source == "" && len(i.Provenance.Materials) == 3
		}},
		{"more materials than are kept", typeProvenance, strings.Replace(provenance, `{"name":"base"`, strings.Repeat(`{"name":"x"},`, 2000)+`{"name":"base"`, 1), func(i policy.Image) bool {
			return i.Provenance.Status == policy.OK && i.Provenance.Truncated && len(i.Provenance.Materials) == 0
		}},
	} {
		w := newWorld()
		image := w.image("app")
		w.carry(image, k.attestation.attest(t, c.predicate, c.content, image))
		if f := w.gather(t, k); !c.check(f.Images[0]) {
			t.Errorf("%s: %+v", c.name, f.Images[0])
		}
	}
}

// pad makes a statement large, so that it is streamed; JSON ignores the field.
func pad(predicate string) string { return padding(predicate, 8000) }

// padMore makes a statement too large to be held.
func padMore(predicate string) string { return padding(predicate, 46000) }

func padding(predicate string, n int) string {
	return `{"padding":[` + strings.Repeat(`"0123456789abcdef",`, n) + `0],` + predicate[1:]
}

// Evidence that must not count, small and large, and what it is called.
func TestBadEvidence(t *testing.T) {
	k := newKeys(t)
	for _, c := range []struct {
		name string
		put  func(t *testing.T, w *world, image, other ocispec.Descriptor, sbom string)
		want policy.Status
		says string
	}{
		{"none", func(*testing.T, *world, ocispec.Descriptor, ocispec.Descriptor, string) {}, policy.Missing, ""},
		{"by a stranger", func(t *testing.T, w *world, image, _ ocispec.Descriptor, sbom string) {
			w.carry(image, k.stranger.attest(t, typeSPDX, sbom, image))
		}, policy.WrongSigner, ""},
		{"by a release key", func(t *testing.T, w *world, image, _ ocispec.Descriptor, sbom string) {
			w.carry(image, k.release.attest(t, typeSPDX, sbom, image))
		}, policy.WrongSigner, "release key"},
		{"about another image", func(t *testing.T, w *world, image, other ocispec.Descriptor, sbom string) {
			a := k.attestation.attest(t, typeSPDX, sbom, other)
			for _, b := range a.Blobs {
				w.blobs[b.Digest] = b.Data
			}
			w.manifest(t, image, typeSPDX, a.Blobs[1].Descriptor)
		}, policy.WrongSubject, ""},
		{"attached to another image", func(t *testing.T, w *world, image, other ocispec.Descriptor, sbom string) {
			a := k.attestation.attest(t, typeSPDX, sbom, other)
			for _, b := range a.Blobs {
				w.blobs[b.Digest] = b.Data
			}
			w.refer(image, a.Manifest, "")
		}, policy.WrongSubject, "attached to"},
		{"of another kind under this one's name", func(t *testing.T, w *world, image, _ ocispec.Descriptor, sbom string) {
			a := k.attestation.attest(t, "https://example.com/other", sbom, image)
			for _, b := range a.Blobs {
				w.blobs[b.Digest] = b.Data
			}
			w.manifest(t, image, typeSPDX, a.Blobs[1].Descriptor)
		}, policy.Missing, ""},
		{"a signature", func(t *testing.T, w *world, image, _ ocispec.Descriptor, _ string) {
			artifacts, err := k.attestation.SignManifest(image, "ghcr.io/acme/app")
			if err != nil {
				t.Fatal(err)
			}
			w.carry(image, artifacts[0])
			w.carry(image, artifacts[1])
		}, policy.Missing, ""},
		{"no SPDX document", func(t *testing.T, w *world, image, _ ocispec.Descriptor, sbom string) {
			w.carry(image, k.attestation.attest(t, typeSPDX, strings.Replace(sbom, "spdxVersion", "version", 1), image))
		}, policy.Malformed, "no spdxVersion"},
		{"no time", func(t *testing.T, w *world, image, _ ocispec.Descriptor, sbom string) {
			w.carry(image, k.attestation.attest(t, typeSPDX, strings.Replace(sbom, "2026-02-01T00:00:00Z", "yesterday", 1), image))
		}, policy.Malformed, `"yesterday" is no time`},
		{"damaged", func(t *testing.T, w *world, image, _ ocispec.Descriptor, sbom string) {
			a := k.attestation.attest(t, typeSPDX, sbom, image)
			w.carry(image, a)
			d := a.Blobs[1].Digest
			w.blobs[d] = slices.Clone(w.blobs[d])
			w.blobs[d][len(w.blobs[d])/2] ^= 1
		}, policy.Malformed, ""},
		{"missing bytes", func(t *testing.T, w *world, image, _ ocispec.Descriptor, sbom string) {
			a := k.attestation.attest(t, typeSPDX, sbom, image)
			w.carry(image, a)
			delete(w.blobs, a.Blobs[1].Digest)
		}, policy.Malformed, "missing"},
		{"changed and hashed again", func(t *testing.T, w *world, image, _ ocispec.Descriptor, sbom string) {
			data := slices.Clone(k.attestation.attest(t, typeSPDX, sbom, image).Blobs[1].Data)
			i := len(data) / 2
			if data[i]++; data[i] == '{' || data[i] == '[' {
				data[i] = 'A'
			}
			w.raw(t, image, typeSPDX, data)
		}, policy.WrongSigner, ""},
		{"two signatures", func(t *testing.T, w *world, image, _ ocispec.Descriptor, sbom string) {
			data := string(k.attestation.attest(t, typeSPDX, sbom, image).Blobs[1].Data)
			i := strings.Index(data, `[{"sig"`)
			sig := strings.TrimSuffix(data[i+1:], "]}}")
			w.raw(t, image, typeSPDX, []byte(data[:i+1]+sig+","+sig+"]}}"))
		}, policy.Malformed, "2 signatures"},
		{"no signature", func(t *testing.T, w *world, image, _ ocispec.Descriptor, sbom string) {
			data := string(k.attestation.attest(t, typeSPDX, sbom, image).Blobs[1].Data)
			w.raw(t, image, typeSPDX, []byte(data[:strings.Index(data, `[{"sig"`)]+"[]}}"))
		}, policy.Malformed, ""},
		{"another payload type", func(t *testing.T, w *world, image, _ ocispec.Descriptor, sbom string) {
			data := string(k.attestation.attest(t, typeSPDX, sbom, image).Blobs[1].Data)
			w.raw(t, image, typeSPDX, []byte(strings.Replace(data, attest.PayloadTypeInToto, "text/plain", 1)))
		}, policy.Malformed, "payload type"},
		{"data behind it", func(t *testing.T, w *world, image, _ ocispec.Descriptor, sbom string) {
			data := k.attestation.attest(t, typeSPDX, sbom, image).Blobs[1].Data
			w.raw(t, image, typeSPDX, append(slices.Clone(data), "{}"...))
		}, policy.Malformed, ""},
		{"a payload twice", func(t *testing.T, w *world, image, _ ocispec.Descriptor, sbom string) {
			data := string(k.attestation.attest(t, typeSPDX, sbom, image).Blobs[1].Data)
			i := strings.Index(data, `"payload"`)
			w.raw(t, image, typeSPDX, []byte(data[:i]+`"payload":"e30=",`+data[i:]))
		}, policy.Malformed, "duplicate key"},
		{"duplicate keys in a signed statement", func(t *testing.T, w *world, image, _ ocispec.Descriptor, sbom string) {
			st := fmt.Sprintf(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":"%s"}}],"predicateType":"%s","predicate":%s}`,
				image.Digest.Encoded(), typeSPDX, strings.Replace(sbom, `"spdxVersion"`, `"SpdxVersion":"SPDX-2.2","spdxVersion"`, 1))
			w.raw(t, image, typeSPDX, envelope(t, k.attestation, st))
		}, policy.Malformed, "duplicate key"},
		{"an unknown field in a signed statement", func(t *testing.T, w *world, image, _ ocispec.Descriptor, sbom string) {
			st := fmt.Sprintf(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":"%s"}}],"Subject_":1,"predicateType":"%s","predicate":%s}`,
				image.Digest.Encoded(), typeSPDX, sbom)
			w.raw(t, image, typeSPDX, envelope(t, k.attestation, st))
		}, policy.Malformed, "unknown field"},
		{"an old statement type", func(t *testing.T, w *world, image, _ ocispec.Descriptor, sbom string) {
			st := fmt.Sprintf(`{"_type":"https://in-toto.io/Statement/v0.1","subject":[{"digest":{"sha256":"%s"}}],"predicateType":"%s","predicate":%s}`,
				image.Digest.Encoded(), typeSPDX, sbom)
			w.raw(t, image, typeSPDX, envelope(t, k.attestation, st))
		}, policy.Malformed, "_type"},
		{"two layers", func(t *testing.T, w *world, image, _ ocispec.Descriptor, sbom string) {
			layer := k.attestation.attest(t, typeSPDX, sbom, image).Blobs[1]
			w.blobs[layer.Digest] = layer.Data
			w.manifest(t, image, typeSPDX, layer.Descriptor, layer.Descriptor)
		}, policy.Malformed, "not one Sigstore bundle"},
		{"too large", func(t *testing.T, w *world, image, _ ocispec.Descriptor, sbom string) {
			layer := k.attestation.attest(t, typeSPDX, sbom, image).Blobs[1].Descriptor
			layer.Size = attest.MaxAttestation + 1
			w.manifest(t, image, typeSPDX, layer)
		}, policy.Malformed, "at most"},
	} {
		sizes := map[string]string{"small": spdx, "large": pad(spdx), "huge": padMore(spdx)}
		if raced() || testing.Short() {
			delete(sizes, "huge") // it takes minutes
		}
		for size, sbom := range sizes {
			t.Run(c.name+" "+size, func(t *testing.T) {
				w := newWorld()
				image, other := w.image("app"), w.image("other")
				c.put(t, w, image, other, sbom)
				e := w.gather(t, k).Images[0].SBOM.Evidence
				if e.Status != c.want || !strings.Contains(e.Detail, c.says) {
					t.Errorf("%s: %s, want %s: %s", e.Status, e.Detail, c.want, c.says)
				}
				if len(e.Signers) > 0 || !e.Time.IsZero() {
					t.Errorf("%+v", e)
				}
			})
		}
	}
}

// Small and large, by either kind of key: the same facts.
func TestLargeIsTheSame(t *testing.T) {
	k := newKeys(t)
	for _, s := range [][2]string{{typeSPDX, spdx}, {typeCycloneDX, cyclonedx}, {typeProvenance, provenance}, {typeCosignVuln, trivy}, {typeVEX, vex}, {typeTest, test}, {typeVSA, vsa}} {
		for _, by := range []signer{k.attestation, k.second} {
			var got [3]policy.Image
			for n, predicate := range []string{s[1], pad(s[1]), padMore(s[1])} {
				w := newWorld()
				image := w.image("app")
				w.carry(image, by.attest(t, s[0], predicate, image))
				got[n] = w.gather(t, k).Images[0]
				for _, e := range []*policy.Evidence{&got[n].SBOM.Evidence, &got[n].Provenance.Evidence, &got[n].Vuln.Evidence, &got[n].VEX.Evidence, &got[n].Test.Evidence, &got[n].VSA.Evidence} {
					e.Manifest = ""
				}
			}
			if !reflect.DeepEqual(got[0], got[1]) || !reflect.DeepEqual(got[0], got[2]) || reflect.DeepEqual(got[0], policy.Image{}) {
				t.Errorf("%s: small %+v\nlarge %+v\nhuge %+v", s[0], got[0], got[1], got[2])
			}
		}
	}
}

// A source that gives other bytes the second time, or the third, changes nothing.
func TestChangingSource(t *testing.T) {
	k := newKeys(t)
	for i := range 4 {
		n, pad0, pad := i, pad, padMore
		if i == 3 { // what is held is opened once
			n, pad = 0, pad0
		}
		evil := strings.Replace(pad(spdx), `"SPDX-2.3"`, `"SPDX-6.6"`, 1)
		w := newWorld()
		image := w.image("app")
		a := k.attestation.attest(t, typeSPDX, pad(spdx), image)
		w.carry(image, a)
		honest, lie := a.Blobs[1].Data, k.attestation.attest(t, typeSPDX, evil, image).Blobs[1].Data
		lies := [][]byte{honest, honest, honest}
		lies[n] = lie
		w.lie[a.Blobs[1].Digest] = lies
		if e := w.gather(t, k).Images[0].SBOM; e.Status != policy.Malformed || e.Version != "" {
			t.Errorf("opening %d: %+v", n, e)
		}
	}
}

// A source that cannot be read is no verdict.
func TestBrokenSource(t *testing.T) {
	k := newKeys(t)
	broken := errors.New("connection reset")
	for _, predicate := range []string{spdx, pad(spdx), padMore(spdx)} {
		for n := range 3 {
			w := newWorld()
			image := w.image("app")
			a := k.attestation.attest(t, typeSPDX, predicate, image)
			w.carry(image, a)
			if n < 2 {
				w.fail[a.Blobs[n+1].Digest] = broken
			} else {
				w.list = broken
			}
			if _, err := policy.Gather(t.Context(), w, w.b, k.trusted(), now); !errors.Is(err, broken) {
				t.Errorf("%d: %v", n, err)
			}
		}
	}
}

// What an index has counts for its manifests, unless they have better; what nothing can run is no image.
func TestIndexes(t *testing.T) {
	k := newKeys(t)
	w := newWorld()
	index, manifests := w.index("app", "linux/amd64", "linux/arm64", "unknown", "unknown2")
	w.carry(index, k.attestation.attest(t, typeProvenance, provenance, index))
	w.carry(manifests[0], k.attestation.attest(t, typeSPDX, spdx, manifests[0]))
	w.carry(manifests[0], k.stranger.attest(t, typeProvenance, provenance, manifests[0]))
	f := w.gather(t, k)
	if len(f.Indexes) != 1 || len(f.Images) != 3 {
		t.Fatalf("%d indexes, %d images", len(f.Indexes), len(f.Images))
	}
	amd, arm, hidden := f.Images[0], f.Images[1], f.Images[2]
	if amd.Provenance.Status != policy.OK || amd.Provenance.Subject != index.Digest.String() || amd.SBOM.Status != policy.OK || amd.Index != index.Digest.String() {
		t.Errorf("%+v", amd)
	}
	if arm.Provenance.Status != policy.OK || arm.SBOM.Status != policy.Missing || arm.Title() != "app (linux/arm64)" {
		t.Errorf("%+v", arm)
	}
	if hidden.Digest != manifests[3].Digest.String() || hidden.SBOM.Status != policy.Missing {
		t.Errorf("an image without a platform that calls itself an attestation: %+v", hidden)
	}
	if f.Indexes[0].SBOM.Status != policy.Missing || f.Indexes[0].Provenance.Status != policy.OK {
		t.Errorf("%+v", f.Indexes[0])
	}
}

// The newest of several counts; results add up to the worst; one statement may speak of many; and their order is nothing.
func TestSeveral(t *testing.T) {
	k := newKeys(t)
	newer := strings.ReplaceAll(strings.Replace(trivy, "CRITICAL", "LOW", 1), "2026-02-04T01", "2026-02-20T01")
	failed := `{"result":"FAILED","configuration":[{"name":"e2e"}],"failedTests":["x"]}`
	for _, turn := range []bool{false, true} {
		w := newWorld()
		image, other := w.image("app"), w.image("other")
		puts := []func(){
			func() { w.carry(image, k.attestation.attest(t, typeCosignVuln, trivy, image)) },
			func() { w.carry(image, k.attestation.attest(t, typeCosignVuln, newer, image)) },
			func() { w.carry(image, k.second.attest(t, typeCosignVuln, newer, image)) },
			func() { w.carry(image, k.stranger.attest(t, typeCosignVuln, newer, image)) },
			func() { w.carry(image, k.attestation.attest(t, typeTest, test, image)) },
			func() { w.carry(image, k.second.attest(t, typeTest, failed, image)) },
			func() { w.carry(w.b.Root, k.attestation.attest(t, typeVEX, vex, w.b.Root, image, other)) },
			func() { w.carry(image, k.second.attest(t, typeVEX, vex, image)) },
		}
		if turn {
			slices.Reverse(puts)
		}
		for _, put := range puts {
			put()
		}
		f := w.gather(t, k)
		i := f.Images[0]
		both := []string{k.attestation.KeyID(), k.second.KeyID()}
		slices.Sort(both)
		if i.Vuln.Critical != 0 || i.Vuln.Low != 1 || !slices.Equal(i.Vuln.Signers, both) {
			t.Errorf("vuln: %+v", i.Vuln)
		}
		if i.Test.Result != "FAILED" || i.Test.Passed != 2 || i.Test.Failed != 1 || len(i.Test.Suites) != 2 {
			t.Errorf("test: %+v", i.Test)
		}
		if i.VEX.NotAffected != 4 || f.Images[1].VEX.NotAffected != 2 || f.Bundle.VEX.NotAffected != 2 {
			t.Errorf("vex: %+v", i.VEX)
		}
	}
}

// Old evidence is good, and stale for a policy that wants newer; a policy without age takes it.
func TestStale(t *testing.T) {
	k := newKeys(t)
	w := newWorld()
	image := w.image("app")
	w.carry(image, k.attestation.attest(t, typeCosignVuln, trivy, image))
	f := w.gather(t, k)
	p, err := policy.Profile("vuln-fresh")
	if err != nil {
		t.Fatal(err)
	}
	d := decide(t, p, f)
	if d.Allowed || d.Rules[0].Causes[0].Status != policy.Stale || !strings.Contains(d.Rules[0].Causes[0].String(), "25 days old") {
		t.Errorf("%+v", d.Rules)
	}
	if d := decide(t, parse(t, one("images.all(i, i.vuln.ok)")), f); !d.Allowed {
		t.Errorf("%+v", d.Rules)
	}
}

func TestKeyForBoth(t *testing.T) {
	k := newKeys(t)
	w := newWorld()
	keys := k.trusted()
	keys.Attestation = append(keys.Attestation, k.release.Public())
	var both *policy.KeyError
	if _, err := policy.Gather(t.Context(), w, w.b, keys, now); !errors.As(err, &both) || both.KeyID != k.release.KeyID() {
		t.Errorf("%v", err)
	}
	// Nobody is trusted: nothing counts.
	image := w.image("app")
	w.carry(image, k.attestation.attest(t, typeSPDX, spdx, image))
	for _, keys := range []policy.Keys{{}, {Release: []crypto.PublicKey{k.release.Public()}}} {
		f, err := policy.Gather(t.Context(), w, w.b, keys, now)
		if err != nil || f.Images[0].SBOM.Status != policy.WrongSigner {
			t.Errorf("%v %+v", err, f)
		}
	}
}

// A key that package attest does not take is refused, whatever there is to verify.
func TestUnusableKey(t *testing.T) {
	w := newWorld()
	var key *attest.KeyError
	if _, err := policy.Gather(t.Context(), w, w.b, policy.Keys{Attestation: []crypto.PublicKey{"a string"}}, now); !errors.As(err, &key) {
		t.Error(err)
	}
}

// Other statements beside a bundle do not crowd out its evidence, whatever the order.
func TestCrowd(t *testing.T) {
	k := newKeys(t)
	w := newWorld()
	for i := range attest.MaxReferrers + 10 {
		w.raw(t, w.b.Root, "https://example.com/other", fmt.Appendf(nil, "%d", i))
		w.raw(t, w.b.Root, "", fmt.Appendf(nil, "nothing %d", i))
	}
	w.carry(w.b.Root, k.attestation.attest(t, typeTest, test, w.b.Root))
	if e := w.gather(t, k).Bundle.Test; e.Status != policy.OK {
		t.Errorf("%+v", e)
	}
}

// All that package attest reads of a subject is read of a large statement, too.
func TestSubjectFields(t *testing.T) {
	k := newKeys(t)
	for content, want := range map[string]policy.Status{`"AAAA"`: policy.OK, `"%"`: policy.Malformed, `1`: policy.Malformed, `null`: policy.Malformed} {
		for _, predicate := range []string{spdx, pad(spdx), padMore(spdx)} {
			w := newWorld()
			image := w.image("app")
			w.raw(t, image, typeSPDX, envelope(t, k.attestation, fmt.Sprintf(`{"_type":%q,"subject":[{"name":"app","uri":"u","mediaType":"m","downloadLocation":"d","annotations":{},"content":%s,"digest":{"sha256":%q}}],"predicateType":%q,"predicate":%s}`,
				attest.StatementType, content, image.Digest.Encoded(), typeSPDX, predicate)))
			if e := w.gather(t, k).Images[0].SBOM; e.Status != want {
				t.Errorf("content %s, %d bytes: %s: %s, want %s", content, len(predicate), e.Status, e.Detail, want)
			}
		}
	}
}
