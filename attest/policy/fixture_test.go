package policy_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/plimsoll/plimsoll/attest/policy"
)

const fixture = `apiVersion: plimsoll.policy-fixture.v1
name: one image without a scan
facts:
  now: 2026-03-01T12:00:00Z
  images:
    - name: app
      sbom: {status: ok, format: spdx, version: "2.3", packages: 3, time: "2026-02-01T00:00:00Z"}
expect:
  allowed: false
  rules: {r: denied}
`

func TestFixture(t *testing.T) {
	f, err := policy.ParseFixture("f.yaml", []byte(fixture))
	if err != nil {
		t.Fatal(err)
	}
	differences, _, err := f.Run(t.Context(), parse(t, one("images.all(i, i.vuln.ok)")))
	if err != nil || len(differences) != 0 {
		t.Errorf("%v %v", differences, err)
	}
	differences, _, err = f.Run(t.Context(), parse(t, one("images.all(i, i.sbom.packages == 3)")))
	if err != nil || fmt.Sprint(differences) != "[allowed is true, want false rule r is passed, want denied]" {
		t.Errorf("%v %v", differences, err)
	}
	other := strings.Replace(one("false"), "name: r", "name: other", 1)
	differences, _, err = f.Run(t.Context(), parse(t, other))
	if err != nil || fmt.Sprint(differences) != "[there is no rule r]" {
		t.Errorf("%v %v", differences, err)
	}
	for name, c := range map[string][3]string{
		"an unknown field":       {"packages: 3", "package: 3", "line 7: field package not found"},
		"an unknown status":      {"status: ok", "status: fine", `status "fine"`},
		"an unknown outcome":     {"r: denied", "r: no", "want passed, denied or error"},
		"no time":                {"now: 2026-03-01T12:00:00Z", "{}", "f.yaml"},
		"no verdict":             {"allowed: false", "", "allowed is missing"},
		"another version":        {"fixture.v1", "fixture.v9", "apiVersion"},
		"an alias":               {"name: app", "name: &a app", "anchors"},
		"another document":       {"expect:", "---\nexpect:", "f.yaml"},
		"a text for a number":    {"packages: 3", "packages: many", "cannot unmarshal"},
		"a time that is no time": {"2026-02-01T00:00:00Z", "yesterday", "f.yaml"},
	} {
		_, err := policy.ParseFixture("f.yaml", []byte(strings.Replace(fixture, c[0], c[1], 1)))
		if err == nil || !strings.Contains(err.Error(), c[2]) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The facts of a bundle, as JSON, are a fixture's facts.
func TestFactsRoundTrip(t *testing.T) {
	k := newKeys(t)
	w := newWorld()
	image := w.image("app")
	w.index("other", "linux/amd64", "linux/arm64")
	for _, s := range [][2]string{{typeSPDX, spdx}, {typeProvenance, provenance}, {typeCosignVuln, trivy}, {typeVEX, vex}, {typeTest, test}, {typeVSA, vsa}} {
		w.carry(image, k.attestation.attest(t, s[0], s[1], image))
	}
	want := w.gather(t, k)
	data, err := json.Marshal(map[string]any{"apiVersion": policy.FixtureVersion, "facts": want, "expect": map[string]any{"allowed": true}})
	if err != nil {
		t.Fatal(err)
	}
	f, err := policy.ParseFixture("f.json", data)
	if err != nil {
		t.Fatal(err)
	}
	again, err := json.Marshal(f.Facts)
	if err != nil {
		t.Fatal(err)
	}
	first, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if string(again) != string(first) {
		t.Errorf("got  %s\nwant %s", again, first)
	}
}

func FuzzFixture(f *testing.F) {
	f.Add([]byte(fixture))
	f.Add([]byte(`{"apiVersion":"plimsoll.policy-fixture.v1","facts":{"now":"2026-03-01T12:00:00Z"},"expect":{"allowed":true}}`))
	p := parse(f, one("images.all(i, i.vuln.ok && age(i.sbom) < duration('1h'))"))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := policy.ParseFixture("f.yaml", data)
		if err != nil {
			return
		}
		if _, _, err := got.Run(t.Context(), p); err != nil {
			t.Error(err)
		}
	})
}
