package policy_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/plimsoll/plimsoll/attest/policy"
)

// What is wrong is said with the line and the column.
func TestErrors(t *testing.T) {
	const head = "apiVersion: plimsoll.policy.v1\nname: t\n"
	rule := func(expr string) string {
		return head + "rules:\n  - name: r\n    message: no\n    expr: " + expr + "\n"
	}
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", "t.yaml: the file is empty"},
		{"not YAML", head + "rules: [\n", "not valid YAML"},
		{"a list", "- a\n", "t.yaml:1:1: policy: want a mapping"},
		{"another version", "apiVersion: v2\nname: t\nprofiles: [signed]\n", `t.yaml:1:13: apiVersion "v2"`},
		{"no version", "name: t\nprofiles: [signed]\n", "apiVersion is missing"},
		{"no rules", head, "no rules and no profiles"},
		{"an empty list of rules", head + "rules: []\n", "want a list of 1 to 256"},
		{"an unknown field", head + "rulez: []\nprofiles: [signed]\n", `t.yaml:3:1: policy: unknown field "rulez", want one of apiVersion`},
		{"an unknown field of a rule", rule("'true'") + "    level: high\n", `t.yaml:7:5: rule: unknown field "level"`},
		{"a field twice", head + "profiles: [signed]\nname: u\n", "t.yaml:4:1: policy: name is written twice"},
		{"a rule twice", rule("'true'") + "  - {name: r, message: m, expr: 'true'}\n", "t.yaml:7:5: rule r is written twice"},
		{"a profile twice", head + "profiles: [signed, signed]\n", "profile signed is written twice"},
		{"an unknown profile", head + "profiles: [singed]\n", `t.yaml:3:12: no profile "singed": want one of sbom-required, signed`},
		{"a path as profile", head + "profiles: [../../x]\n", `profile "../../x": want lower-case letters`},
		{"an alias", head + "description: &a x\nprofiles: [signed]\n", "t.yaml:3:14: anchors and aliases are not allowed"},
		{"a tag", head + "description: !!str x\nprofiles: [signed]\n", "tags are not allowed"},
		{"two documents", head + "profiles: [signed]\n---\na: b\n", "a second YAML document"},
		{"a number as text", head + "description: 5\nprofiles: [signed]\n", "t.yaml:3:14: description: want text"},
		{"no message", head + "rules:\n  - name: r\n    expr: 'true'\n", "rule: message is missing"},
		{"an age of tests", head + "maxAge: {test: 7d}\nprofiles: [signed]\n", `maxAge: unknown field "test"`},
		{"an age that is none", head + "maxAge: {vuln: soon}\nprofiles: [signed]\n", `"soon" is no duration`},
		{"a negative age", head + "maxAge: {vuln: -7d}\nprofiles: [signed]\n", "is no duration"},
		{"an age that the profile has not", head + "profiles:\n  - name: vuln-fresh\n    maxAge: {sbom: 7d}\n", "profile vuln-fresh has no maxAge of sbom"},
		{"a misspelt field", rule("images.all(i, i.sbon.ok)"), "t.yaml:6:26: rule r: undefined field 'sbon'"},
		{"a misspelt field in quotes", rule("'images.all(i, i.sbom.okay)'"), "t.yaml:6:32: rule r: undefined field 'okay'"},
		{"a misspelt field in a block", rule("|\n      images.all(i,\n        i.sbom.okay)"), "t.yaml:8:15: rule r: undefined field 'okay'"},
		{"a misspelt variable", rule("imags.all(i, true)"), "t.yaml:6:11: rule r: undeclared reference to 'imags'"},
		{"a syntax error", rule("'images.all('"), "t.yaml:6:2"},
		{"no truth value", rule("size(images)"), "it gives int, want bool"},
		{"a type error", rule(`'images.all(i, i.vuln.critical == "0")'`), "found no matching overload"},
		{"an age of a text", rule(`'age(release.name) < duration("1h")'`), "found no matching overload for 'age'"},
		{"a bad duration", rule(`'age(bundle.sbom) < duration("7d")'`), "invalid duration"},
		{"a bad pattern", rule(`'release.name.matches("(")'`), "invalid matches"},
		{"a time zone", rule(`'now.getHours("Europe/Berlin") > 6'`), "time zones differ"},
		{"made-up facts", rule(`'plimsoll.Release{name: "x"}.name == "x"'`), ""},
		{"a function of the network", rule(`'http.get("x") == ""'`), "undeclared reference"},
		{"too long an expression", rule("'" + strings.Repeat("true && ", 4000) + "true'"), "more than 16384 bytes"},
		{"an explanation that is a number", rule("'true'") + "    explain: '5'\n", "it gives int, want string"},
		{"controls", head + "description: \"a\\e[2J\"\nrulez: 1\nprofiles: [signed]\n", "unknown field"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := policy.Parse("t.yaml", []byte(c.text))
			if c.want == "" {
				// It compiles to something that can only deny.
				if err == nil && decide(t, p, facts()).Allowed {
					t.Error("allowed")
				}
				return
			}
			var list policy.ErrorList
			if !errors.As(err, &list) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v\nwant %s", err, c.want)
			}
		})
	}
	if _, err := policy.Parse("t.yaml", make([]byte, policy.MaxFile+1)); err == nil {
		t.Error("a huge file was accepted")
	}
}

func TestParseAge(t *testing.T) {
	for text, want := range map[string]time.Duration{"7d": 168 * time.Hour, "36h": 36 * time.Hour, "90m": 90 * time.Minute} {
		if d, err := policy.ParseAge(text); err != nil || d != want {
			t.Errorf("%s: %s, %v", text, d, err)
		}
	}
	for _, text := range []string{"", "d", "0d", "0h", "-1h", "1.5d", "99999d", "7 d", "7days", "1e9h"} {
		if d, err := policy.ParseAge(text); err == nil {
			t.Errorf("%q: %s", text, d)
		}
	}
}

func FuzzPolicy(f *testing.F) {
	for _, name := range policy.Profiles() {
		data, _ := policy.ProfileSource(name)
		f.Add(data)
	}
	f.Add([]byte(one("images.all(i, age(i.vuln) < duration('168h') && i.provenance.builder in ['a'])")))
	f.Add([]byte(one("images.all(i, i.sbon.ok)")))
	f.Add([]byte("apiVersion: plimsoll.policy.v1\nname: t\nprofiles: [{name: vuln-fresh, maxAge: {vuln: 1d}}]\n"))
	f.Add([]byte("a: &a [*a]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := policy.Parse("t.yaml", data)
		if err != nil {
			var list policy.ErrorList
			if !errors.As(err, &list) || len(list) == 0 {
				t.Errorf("%T: %v", err, err)
			}
			return
		}
		// Nothing is known here: only what does not ask for evidence can be allowed, and nothing may panic.
		d, err := p.Decide(t.Context(), facts(bad(app("app"), policy.KindProvenance, policy.Missing)))
		if err != nil || len(d.Rules) == 0 || len(d.Rules) != len(p.Rules()) {
			t.Errorf("%v, %v", d, err)
		}
	})
}
