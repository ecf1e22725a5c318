package keyless_test

import (
	"errors"
	"regexp"
	"strings"
	"testing"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	"github.com/sigstore/sigstore-go/pkg/root"

	"github.com/plimsoll/plimsoll/attest/keyless"
)

func TestNewPolicyRefuses(t *testing.T) {
	w := newWorld(t)
	trusted := w.root(t)
	pattern := func(p string) func(*keyless.Rule) {
		return func(r *keyless.Rule) { r.Identities[0].Pattern = p }
	}
	match := func(m string) func(*keyless.Rule) { return func(r *keyless.Rule) { r.Match = m } }
	for name, c := range map[string]struct {
		change func(*keyless.Rule)
		text   string
	}{
		"no glob":                      {match(""), "0 bytes"},
		"a host alone":                 {match("ghcr.io"), "no repository"},
		"a host with a wildcard":       {match("*.io/acme"), "anybody can register"},
		"a host that goes on":          {match("ghcr.io*"), "no repository"},
		"no host":                      {match("acme/*"), "docker.io"},
		"an upper-case host":           {match("GHCR.io/acme/*"), "registry"},
		"an upper-case repository":     {match("ghcr.io/Acme/*"), "repository"},
		"a tag":                        {match("ghcr.io/acme/app:v1"), "no tag"},
		"a digest":                     {match("ghcr.io/acme/app@sha256"), "no tag"},
		"a short name of docker.io":    {match("docker.io/nginx"), "docker.io/library/nginx"},
		"another name of docker.io":    {match("index.docker.io/library/nginx"), "called docker.io"},
		"two stars":                    {match("ghcr.io/**"), "'**'"},
		"an empty part":                {match("ghcr.io//acme"), "empty part"},
		"no root":                      {func(r *keyless.Rule) { r.Root = nil }, "no trusted root"},
		"no identity":                  {func(r *keyless.Rule) { r.Identities = nil }, "no identity"},
		"no issuer":                    {func(r *keyless.Rule) { r.Identities[0].Issuer = "" }, "no issuer"},
		"a name and a pattern":         {func(r *keyless.Rule) { r.Identities[0].Name = alice }, "exactly one"},
		"neither name nor pattern":     {pattern(""), "exactly one"},
		"a pattern that is none":       {pattern("("), "missing closing"},
		"a pattern out of its bracket": {pattern("a)|(.*"), "unexpected )"},
		"a pattern for anybody":        {pattern(".*"), "matches anybody"},
		"a pattern for any workflow":   {pattern("https://.+"), "matches anybody"},
		"a pattern for any address":    {pattern(`.+@.+`), "matches anybody"},
		"an alternative for anybody":   {pattern(`https://github\.com/acme/.*|`), "matches anybody"},
		"an identity twice":            {func(r *keyless.Rule) { r.Identities = append(r.Identities, r.Identities[0]) }, "twice"},
		"more than there are":          {func(r *keyless.Rule) { r.Need = 2 }, "2 of 1"},
		"fewer than none":              {func(r *keyless.Rule) { r.Need = -1 }, "-1 of 1"},
		"an unknown log rule":          {func(r *keyless.Rule) { r.Log = "maybe" }, "maybe"},
		"nothing that tells the time":  {func(r *keyless.Rule) { r.Log = keyless.LogNotRequired }, "when it was signed"},
	} {
		t.Run(name, func(t *testing.T) {
			rule := acme(trusted)
			c.change(&rule)
			_, err := keyless.NewPolicy([]keyless.Rule{rule})
			var bad *keyless.PolicyError
			if !errors.As(err, &bad) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v, want a *PolicyError with %q", err, c.text)
			}
		})
	}
	wide, narrow := acme(trusted), acme(trusted)
	narrow.Match = "ghcr.io/acme/robot-*"
	var bad *keyless.PolicyError
	if _, err := keyless.NewPolicy([]keyless.Rule{wide, narrow}); !errors.As(err, &bad) || bad.Rule != 1 {
		t.Errorf("a rule that is never reached: %v", err)
	}
	if _, err := keyless.NewPolicy([]keyless.Rule{narrow, wide}); err != nil {
		t.Errorf("the narrow one first: %v", err)
	}
}

func TestPolicyCovers(t *testing.T) {
	trusted := newWorld(t).root(t)
	for glob, names := range map[string]map[string]bool{
		"ghcr.io/acme/*":       {"ghcr.io/acme/app": true, "ghcr.io/acme/deep/app": true, "ghcr.io/acme": false, "ghcr.io/acme-evil/app": false, "evil.example/ghcr.io/acme/app": false},
		"ghcr.io/acme/*-app":   {"ghcr.io/acme/robot-app": true, "ghcr.io/acme/robot-app2": false},
		"ghcr.io/*/app":        {"ghcr.io/acme/app": true, "ghcr.io/app": false, "ghcr.io/a/b/app": true},
		"docker.io/library/*":  {"docker.io/library/nginx": true, "docker.io/acme/nginx": false},
		"localhost:5000/app":   {"localhost:5000/app": true, "localhost:5000/app2": false},
		"ghcr.io/a*b*c":        {"ghcr.io/abc": true, "ghcr.io/a-b-b-c": true, "ghcr.io/acb": false},
		"ghcr.io/acme/app*app": {"ghcr.io/acme/app": false, "ghcr.io/acme/appapp": true},
		"*":                    {"ghcr.io/acme/app": true},
	} {
		rule := acme(trusted)
		rule.Match = glob
		p := newPolicy(t, rule)
		for name, want := range names {
			if got, err := p.Covers(name); err != nil && want || got != want {
				t.Errorf("%s covers %s: %v, %v; want %v", glob, name, got, err, want)
			}
		}
	}
	// What is no name of a repository must not pass as one without a rule.
	p := newPolicy(t, acme(trusted))
	for _, name := range []string{"", "*", "acme/app", "ghcr.io/Acme/app", "ghcr.io/acme/app:v1", "ghcr.io/acme/*", "docker.io/nginx", "ghcr.io/acme/app/"} {
		if got, err := p.Covers(name); err == nil || got {
			t.Errorf("%q: %v, %v", name, got, err)
		}
		if _, err := p.Verify(t.Context(), newEvidence(), name, image("app")); err == nil || errors.As(err, new(*keyless.DeniedError)) {
			t.Errorf("verify %q: %v", name, err)
		}
	}
}

func TestPolicyDigestNamesEverything(t *testing.T) {
	w := newWorld(t)
	trusted, other := w.root(t), newWorld(t).root(t)
	seen := map[string]string{}
	for name, change := range map[string]func(*keyless.Rule){
		"as it is": func(*keyless.Rule) {},
		"match":    func(r *keyless.Rule) { r.Match = "ghcr.io/acme/robot*" },
		"name":     func(r *keyless.Rule) { r.Identities[0] = keyless.Identity{Issuer: issuer, Name: workflow} },
		"pattern":  func(r *keyless.Rule) { r.Identities[0] = keyless.Identity{Issuer: issuer, Pattern: workflow} },
		"issuer":   func(r *keyless.Rule) { r.Identities[0].Issuer = "https://accounts.example" },
		"need": func(r *keyless.Rule) {
			r.Identities, r.Need = append(r.Identities, keyless.Identity{Issuer: issuer, Name: alice}), 2
		},
		"need 1 of 2": func(r *keyless.Rule) {
			r.Identities = append(r.Identities, keyless.Identity{Issuer: issuer, Name: alice})
		},
		"log":       func(r *keyless.Rule) { r.Log = keyless.LogProof },
		"timestamp": func(r *keyless.Rule) { r.SignedTimestamp = true },
		"predicate": func(r *keyless.Rule) { r.Predicate = "https://slsa.dev/provenance/v1" },
		"root":      func(r *keyless.Rule) { r.Root = other },
	} {
		rule := acme(trusted)
		change(&rule)
		p := newPolicy(t, rule)
		if again := newPolicy(t, rule); again.Digest() != p.Digest() {
			t.Errorf("%s: two digests", name)
		}
		if first, taken := seen[p.Digest().String()]; taken {
			t.Errorf("%s and %s have the same digest", name, first)
		}
		seen[p.Digest().String()] = name
	}
}

// A proof may be in a bundle and yet not be of the entry that was verified.
func TestVerifyDeniesTheProofOfAnUnknownLog(t *testing.T) {
	w, stranger, subject := newWorld(t), newWorld(t), image("app")
	foreign := stranger.proto(t, subject, signing{}).VerificationMaterial.TlogEntries[0]
	ev := newEvidence()
	ev.addBundle(t, subject, w.bundle(t, subject, signing{noProof: true, change: func(b *protobundle.Bundle) {
		b.VerificationMaterial.TlogEntries = append(b.VerificationMaterial.TlogEntries, foreign)
	}}))
	v, err := newPolicy(t, acme(w.root(t))).Verify(t.Context(), ev, repository, subject)
	wantDenied(t, v, err, keyless.NoLogEntry, "inclusion proof")
}

// The first alternative matches less than the whole, the second all of it.
func TestPatternIsForTheWholeName(t *testing.T) {
	w, subject := newWorld(t), image("app")
	rule := acme(w.root(t))
	rule.Identities[0].Pattern = regexp.QuoteMeta(workflow[:40]) + "|" + regexp.QuoteMeta(workflow)
	ev := newEvidence()
	ev.addBundle(t, subject, w.bundle(t, subject, signing{}))
	_, err := newPolicy(t, rule).Verify(t.Context(), ev, repository, subject)
	must(t, err)
}

func TestParseTrustedRootRefuses(t *testing.T) {
	good := string(newWorld(t).trustedRoot(t, false))
	empty, err := root.NewTrustedRoot(root.TrustedRootMediaType01, nil, nil, nil, nil)
	must(t, err)
	nobody, err := empty.MarshalJSON()
	must(t, err)
	for name, give := range map[string]string{
		"nothing":           "",
		"no object":         "[]",
		"trailing bytes":    good + "{}",
		"a duplicate key":   strings.Replace(good, "{", `{"MediaType":"x",`, 1),
		"an unknown field":  strings.Replace(good, "{", `{"more":"x",`, 1),
		"another version":   strings.Replace(good, "version=0.1", "version=9.9", 1),
		"no authority":      string(nobody),
		"too long":          good + strings.Repeat(" ", keyless.MaxTrustedRoot),
		"a bad certificate": strings.Replace(good, `"rawBytes":"MII`, `"rawBytes":"AAA`, 1),
	} {
		var bad *keyless.RootError
		if r, err := keyless.ParseTrustedRoot([]byte(give)); !errors.As(err, &bad) {
			t.Errorf("%s: %v, %v", name, r, err)
		}
	}
}
