package rego_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/plimsoll/plimsoll/attest/policy"
	"github.com/plimsoll/plimsoll/attest/policy/rego"
)

func facts() *policy.Facts {
	i := policy.Image{Name: "app", Digest: "sha256:00"}
	i.SBOM.Status, i.Provenance.Status = policy.Missing, policy.OK
	i.Provenance.Builder = "https://ci.example"
	return &policy.Facts{Now: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC), Images: []policy.Image{i}}
}

func parse(t *testing.T, text string) (*rego.Policy, error) {
	t.Helper()
	return rego.Parse(t.Context(), rego.Module{Name: "p.rego", Data: []byte(text)})
}

func TestDecide(t *testing.T) {
	p, err := parse(t, `package plimsoll

deny contains msg if {
	some i in input.images
	i.sbom.status != "ok"
	msg := sprintf("%s has no SBOM", [i.name])
}

deny contains "old" if time.parse_rfc3339_ns(input.now) < 0

deny contains "another builder" if {
	some i in input.images
	not i.provenance.builder in {"https://ci.example"}
}
`)
	if err != nil {
		t.Fatal(err)
	}
	f := facts()
	got, err := p.Decide(t.Context(), f)
	if err != nil || !slices.Equal(got, []string{"app has no SBOM"}) {
		t.Errorf("%q, %v", got, err)
	}
	f.Images[0].SBOM.Status = policy.OK
	if got, err := p.Decide(t.Context(), f); err != nil || len(got) != 0 {
		t.Errorf("%q, %v", got, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Decide(ctx, f); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// What reaches out, or knows what the input does not say, does not compile.
func TestWithheld(t *testing.T) {
	for _, expr := range []string{
		`http.send({"method": "GET", "url": "http://127.0.0.1:1"}).status_code == 200`, `net.lookup_ip_addr("localhost")`,
		`net.cidr_contains("10.0.0.0/8", "10.0.0.1")`, `opa.runtime().env.HOME`, `time.now_ns() > 0`, `rand.intn("a", 5) == 1`,
		`uuid.rfc4122("a") != ""`, `time.clock([0, "Europe/Berlin"])[0] > 0`, `rego.parse_module("a", "package a")`,
	} {
		_, err := parse(t, "package plimsoll\n\ndeny contains \"x\" if "+expr+"\n")
		var bad *rego.Error
		if !errors.As(err, &bad) || !strings.Contains(err.Error(), "p.rego:3") {
			t.Errorf("%s: %v", expr, err)
		}
	}
}

func TestErrors(t *testing.T) {
	for name, text := range map[string]string{
		"empty": "", "syntax": "package plimsoll\n\ndeny contains {", "another package": "package other\n\ndeny contains \"x\" if true\n",
		"no deny": "package plimsoll\n\nallow := true\n", "Rego v0": "package plimsoll\n\ndeny[msg] { msg := \"x\" }\n",
	} {
		var bad *rego.Error
		if _, err := parse(t, text); !errors.As(err, &bad) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, text := range map[string]string{
		"a truth value":         "package plimsoll\n\ndeny if true\n",
		"numbers":               "package plimsoll\n\ndeny contains 5 if true\n",
		"an error in a builtin": "package plimsoll\n\ndeny contains \"x\" if to_number(\"x\") == 5\n",
		"undefined":             "package plimsoll\n\ndeny := {\"x\"} if input.absent\n",
	} {
		p, err := parse(t, text)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var bad *rego.Error
		if got, err := p.Decide(t.Context(), facts()); !errors.As(err, &bad) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}
