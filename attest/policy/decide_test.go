package policy_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/plimsoll/plimsoll/attest/policy"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// good is evidence that a test makes worse.
func good(at time.Time) policy.Evidence {
	return policy.Evidence{Status: policy.OK, Signers: []string{"aa"}, Time: at}
}

// app is an image with good evidence of every kind.
func app(name string) policy.Image {
	at := now.Add(-24 * time.Hour)
	return policy.Image{
		Name: name, Digest: digest.FromString(name).String(), Repository: "ghcr.io/acme/" + name, Platform: "linux/amd64",
		SBOM:       policy.SBOM{Evidence: good(at), Format: "spdx", Version: "2.3", Packages: 12},
		Provenance: policy.Provenance{Evidence: good(at), Builder: "https://ci.acme.example", BuildType: "https://t", Source: "https://git.acme.example/app"},
		Vuln:       policy.Vuln{Evidence: good(at), Scanner: "pkg:trivy", Counted: true, High: 2},
		VEX:        policy.VEX{Evidence: good(at), Author: "acme"},
		Test:       policy.Test{Evidence: good(time.Time{}), Result: "PASSED", Passed: 3},
		VSA:        policy.VSA{Evidence: good(at), Verifier: "https://v", Result: "PASSED", Levels: []string{"SLSA_BUILD_LEVEL_3"}},
	}
}

func facts(images ...policy.Image) *policy.Facts {
	b := app("robot-stack")
	b.Platform = ""
	return &policy.Facts{Now: now, Bundle: b, Images: images,
		Release: policy.Release{Name: "robot-stack", Version: "v1.5.4", Channel: "stable", Sequence: 41, Signers: []string{"bb"}}}
}

func one(expr string) string {
	return "apiVersion: plimsoll.policy.v1\nname: t\nrules:\n  - name: r\n    message: no\n    expr: |-\n      " + expr + "\n"
}

func parse(t testing.TB, text string) *policy.Policy {
	t.Helper()
	p, err := policy.Parse("t.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func decide(t testing.TB, p *policy.Policy, f *policy.Facts) *policy.Decision {
	t.Helper()
	d, err := p.Decide(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// bad is the same image with evidence of one kind in a status.
func bad(i policy.Image, k policy.Kind, s policy.Status) policy.Image {
	e := policy.Evidence{Status: s, Detail: "because"}
	switch k {
	case policy.KindSBOM:
		i.SBOM = policy.SBOM{Evidence: e}
	case policy.KindProvenance:
		i.Provenance = policy.Provenance{Evidence: e}
	case policy.KindVuln:
		i.Vuln = policy.Vuln{Evidence: e}
	case policy.KindVEX:
		i.VEX = policy.VEX{Evidence: e}
	case policy.KindTest:
		i.Test = policy.Test{Evidence: e}
	case policy.KindVSA:
		i.VSA = policy.VSA{Evidence: e}
	}
	return i
}

// Every kind in every status: ok says it, content is an error that names image, kind and status, and denies.
func TestEveryStatus(t *testing.T) {
	content := map[policy.Kind]string{
		policy.KindSBOM: `i.sbom.format != "x"`, policy.KindProvenance: `i.provenance.builder != "evil"`, policy.KindVuln: "i.vuln.critical == 0",
		policy.KindVEX: "i.vex.affected == 0", policy.KindTest: "i.test.failed == 0", policy.KindVSA: `i.vsa.result != "FAILED"`,
	}
	for _, k := range policy.Kinds() {
		okRule := parse(t, one(fmt.Sprintf("images.all(i, i.%s.ok)", k)))
		contentRule := parse(t, one(fmt.Sprintf("images.all(i, %s)", content[k])))
		for _, s := range []policy.Status{policy.OK, policy.Missing, policy.WrongSigner, policy.WrongSubject, policy.Malformed, policy.Stale} {
			t.Run(fmt.Sprintf("%s %s", k, s), func(t *testing.T) {
				image := app("app")
				if s != policy.OK {
					image = bad(image, k, s)
				}
				f := facts(app("fine"), image)
				d, c := decide(t, okRule, f), decide(t, contentRule, f)
				if s == policy.OK {
					if !d.Allowed || !c.Allowed {
						t.Errorf("good evidence is denied: %+v %+v", d.Rules, c.Rules)
					}
					return
				}
				if d.Allowed || d.Rules[0].Outcome != policy.Denied || c.Allowed || c.Rules[0].Outcome != policy.Errored {
					t.Fatalf("%s, %s: %+v %+v", k, s, d.Rules, c.Rules)
				}
				for _, r := range []policy.RuleResult{d.Rules[0], c.Rules[0]} {
					if len(r.Causes) != 1 {
						t.Fatalf("causes: %v", r.Causes)
					}
					got := r.Causes[0]
					if got.Subject != "app (linux/amd64)" || got.Kind != k || got.Status != s || got.Detail != "because" || got.Digest != image.Digest {
						t.Errorf("cause: %+v", got)
					}
				}
				for _, want := range []string{"app (linux/amd64)", string(k), string(s)} {
					if !strings.Contains(c.Rules[0].Error, want) {
						t.Errorf("error %q does not say %q", c.Rules[0].Error, want)
					}
				}
			})
		}
	}
}

func TestRules(t *testing.T) {
	old, ahead, silent, uncounted := app("app"), app("app"), app("app"), app("app")
	old.Vuln.Time = now.Add(-200 * time.Hour)
	ahead.Vuln.Time = now.Add(72 * time.Hour)
	silent.Provenance.Source, silent.Provenance.Time = "", time.Time{}
	uncounted.Vuln.Counted = false
	for _, c := range []struct {
		name, expr string
		facts      *policy.Facts
		want       policy.Outcome
		says       string // in error or causes
	}{
		{"age", `images.all(i, age(i.vuln) < duration("168h"))`, facts(app("app")), policy.Passed, ""},
		{"too old", `images.all(i, age(i.vuln) < duration("168h"))`, facts(old), policy.Denied, "app (linux/amd64): vuln: stale: 8 days old"},
		{"dated in the future", `images.all(i, age(i.vuln) < duration("168h"))`, facts(ahead), policy.Errored, "after the trusted time"},
		{"age of nothing", `images.all(i, age(i.provenance) < duration("1h"))`, facts(silent), policy.Errored, "time is not known"},
		{"age of tests, which have no time", `images.all(i, age(i.test) < duration("1h"))`, facts(app("app")), policy.Errored, "time is not known"},
		{"a builder", `images.all(i, i.provenance.builder in ["https://ci.acme.example"])`, facts(app("app")), policy.Passed, ""},
		{"another builder", `images.all(i, i.provenance.builder in ["https://x"])`, facts(app("app")), policy.Denied, `builder is "https://ci.acme.example"`},
		{"a source that is not said", `images.all(i, i.provenance.source != "https://evil")`, facts(silent), policy.Errored, "source is not known"},
		{"counts that could not be read", `images.all(i, i.vuln.critical == 0)`, facts(uncounted), policy.Errored, "not understood"},
		{"counts", `images.all(i, i.vuln.critical == 0 && i.vuln.high < 2)`, facts(app("app")), policy.Denied, "high is 2"},
		{"has", `images.all(i, has(i.provenance.source) || i.name == "app")`, facts(silent), policy.Passed, ""},
		{"a release field", `release.channel == "stable" && release.sequence > 40`, facts(), policy.Passed, ""},
		{"a release field that is not known", `release.site != "evil"`, facts(), policy.Errored, "site is not known"},
		{"no signers, all of whom are good", `release.signers.all(s, s == "bb")`, &policy.Facts{Now: now}, policy.Errored, "signers is not known"},
		{"the bundle", `bundle.provenance.ok`, &policy.Facts{Now: now}, policy.Denied, "bundle: provenance: missing"},
		{"now", `now < timestamp("2026-03-02T00:00:00Z")`, facts(), policy.Passed, ""},
		{"division by zero", `1 / (size(images) - size(images)) == 0`, facts(), policy.Errored, "division by zero"},
		{"an index that is not there", `images[7].sbom.ok`, facts(), policy.Errored, "7"},
		{"an error beside a truth", `images.all(i, i.provenance.source == "x" || true)`, facts(silent), policy.Passed, ""},
		{"strings", `images.all(i, i.repository.startsWith("ghcr.io/acme/"))`, facts(app("app")), policy.Passed, ""},
		{"signers of evidence", `images.all(i, i.sbom.signers.exists(s, s == "aa"))`, facts(app("app")), policy.Passed, ""},
		{"release is not an image", `images.exists(i, i.name == "b")`, facts(app("a")), policy.Denied, "a (linux/amd64)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := decide(t, parse(t, one(c.expr)), c.facts)
			r := d.Rules[0]
			if r.Outcome != c.want || d.Allowed != (c.want == policy.Passed) {
				t.Fatalf("%+v, want %s", r, c.want)
			}
			text := r.Error
			for _, cause := range r.Causes {
				text += "\n" + cause.String()
			}
			if !strings.Contains(text, c.says) {
				t.Errorf("%q does not say %q", text, c.says)
			}
		})
	}
}

// A policy cannot keep a relay busy: the cost ends it, and it is denied.
func TestCost(t *testing.T) {
	var images []policy.Image
	for i := range 150 {
		images = append(images, app(fmt.Sprintf("app-%d", i)))
	}
	f := facts(images...)
	p := parse(t, one(`images.all(a, images.all(b, images.all(c, a.name + b.name + c.name != "")))`))
	d := decide(t, p, f)
	if d.Allowed || d.Rules[0].Outcome != policy.Errored || !strings.Contains(d.Rules[0].Error, "cost limit") {
		t.Errorf("%.300v", d.Rules[0])
	}
	if _, err := policy.Parse("t.yaml", []byte(one(`images.all(a, images.all(b, images.all(c, images.all(d, true))))`))); err == nil {
		t.Error("four comprehensions in each other were accepted")
	}
	// What doubles a text in each step ends, too.
	much := "x" // 1024 times, in a shape that the limit of recursion lets through
	for range 10 {
		much = "(" + much + "+" + much + ")"
	}
	p = parse(t, one(`["abcdefgh"].map(x, `+much+`).map(x, `+much+`).map(x, `+much+`)[0] != ""`))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	d = decide(t, p, f)
	runtime.ReadMemStats(&after)
	if made := after.TotalAlloc - before.TotalAlloc; d.Allowed || made > 1<<30 {
		t.Errorf("%.200s, %d bytes were made", d.Rules[0].Error, made)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Decide(ctx, f); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestProfiles(t *testing.T) {
	unsigned := facts(app("app"))
	unsigned.Release.Signers = nil
	noBundle := facts(app("app"))
	noBundle.Bundle = policy.Image{Name: "robot-stack"}
	old := app("app")
	old.Vuln.Time = now.Add(-8 * 24 * time.Hour)
	undated := app("app")
	undated.Vuln.Time = time.Time{}
	vouched := bad(app("app"), policy.KindProvenance, policy.Missing)
	level1 := vouched
	level1.VSA.Levels = []string{"SLSA_BUILD_LEVEL_1"}
	failed := vouched
	failed.VSA.Result = "FAILED"
	for _, c := range []struct {
		profile, name string
		facts         *policy.Facts
		allowed       bool
	}{
		{"signed", "signed", facts(), true},
		{"signed", "nobody", unsigned, false},
		{"slsa-l2", "provenance", facts(app("app")), true},
		{"slsa-l2", "a summary in its place", facts(vouched), true},
		{"slsa-l2", "a summary of too little", facts(level1), false},
		{"slsa-l2", "a summary that failed", facts(failed), false},
		{"slsa-l2", "neither", facts(bad(vouched, policy.KindVSA, policy.Missing)), false},
		{"slsa-l2", "wrong signer", facts(bad(bad(app("app"), policy.KindVSA, policy.WrongSigner), policy.KindProvenance, policy.WrongSigner)), false},
		{"slsa-l2", "the bundle's is missing", noBundle, false},
		{"sbom-required", "all", facts(app("app"), app("b")), true},
		{"sbom-required", "one without", facts(app("app"), bad(app("b"), policy.KindSBOM, policy.Missing)), false},
		{"sbom-required", "one malformed", facts(bad(app("b"), policy.KindSBOM, policy.Malformed)), false},
		{"vuln-fresh", "fresh", facts(app("app")), true},
		{"vuln-fresh", "old", facts(app("b"), old), false},
		{"vuln-fresh", "undated", facts(undated), false},
		{"vuln-fresh", "none", facts(bad(app("app"), policy.KindVuln, policy.Missing)), false},
	} {
		t.Run(c.profile+" "+c.name, func(t *testing.T) {
			p, err := policy.Profile(c.profile)
			if err != nil {
				t.Fatal(err)
			}
			if d := decide(t, p, c.facts); d.Allowed != c.allowed {
				t.Errorf("%+v", d.Rules)
			}
		})
	}
	if got := policy.Profiles(); !slices.Equal(got, []string{"sbom-required", "signed", "slsa-l2", "vuln-fresh"}) {
		t.Errorf("profiles: %v", got)
	}
	var unknown *policy.UnknownProfileError
	if _, err := policy.Profile("../facts"); !errors.As(err, &unknown) {
		t.Errorf("%v", err)
	}
}

// A policy takes profiles in, with ages of its own; its facts stay as they were.
func TestIncludes(t *testing.T) {
	old := app("app")
	old.Vuln.Time = now.Add(-8 * 24 * time.Hour)
	f := facts(old)
	text := "apiVersion: plimsoll.policy.v1\nname: t\nmaxAge: {sbom: 1h}\nprofiles:\n  - signed\n  - name: vuln-fresh\n    maxAge: {vuln: %s}\n" +
		"rules:\n  - {name: r, message: no, expr: 'images.all(i, i.vuln.ok)', explain: 'images.filter(i, !i.sbom.ok).map(i, i.name + \" is undescribed\")'}\n  - {name: s, message: no, expr: 'images.all(i, i.sbom.ok)', explain: 'images.filter(i, !i.sbom.ok).map(i, i.name + \" is undescribed\")'}\n"
	d := decide(t, parse(t, fmt.Sprintf(text, "14d")), f)
	want := []policy.Outcome{policy.Passed, policy.Passed, policy.Passed, policy.Denied}
	for i, r := range d.Rules {
		if r.Outcome != want[i] {
			t.Errorf("%s: %+v", r.Rule, r)
		}
	}
	if got := d.Rules[3]; len(got.Explain) != 1 || got.Explain[0] != "app is undescribed" || got.Causes[0].Status != policy.Stale {
		t.Errorf("%+v", got)
	}
	d = decide(t, parse(t, fmt.Sprintf(text, "2d")), f)
	if d.Allowed || d.Rules[1].Rule != "vuln-fresh/scans-are-fresh" || d.Rules[1].Outcome != policy.Denied || d.Rules[2].Outcome != policy.Passed {
		t.Errorf("%+v", d.Rules)
	}
	if f.Images[0].Vuln.Status != policy.OK || f.Images[0].SBOM.Status != policy.OK {
		t.Error("the facts were changed")
	}
	if len(d.Includes) != 2 || d.Includes[1].Profile != "vuln-fresh" || d.Digest == "" {
		t.Errorf("%+v", d)
	}
}

// Of many subjects some are listed and all are counted; the same facts give the same decision.
func TestManyCauses(t *testing.T) {
	var images []policy.Image
	for i := range 100 {
		images = append(images, bad(app(fmt.Sprintf("app-%02d", i)), policy.KindSBOM, policy.Missing))
	}
	p := parse(t, one("images.all(i, i.sbom.ok)"))
	d := decide(t, p, facts(images...))
	if r := d.Rules[0]; len(r.Causes) != 20 || r.More != 80 {
		t.Errorf("%d causes and %d more", len(r.Causes), r.More)
	}
	for range 5 {
		if again := decide(t, p, facts(images...)); fmt.Sprint(again) != fmt.Sprint(d) {
			t.Error("two decisions about the same")
		}
	}
}
