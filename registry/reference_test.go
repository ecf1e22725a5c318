package registry

import (
	"regexp"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/plimsoll/plimsoll/bundle"
)

// The checks by hand and the patterns of package bundle and of the specification say the same.
func FuzzReference(f *testing.F) {
	tag := regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
	grammar := regexp.MustCompile(`^[a-z0-9]+([+._-][a-z0-9]+)*:[a-zA-Z0-9=_-]+$`)
	f.Add("ghcr.io/acme/robot-app")
	f.Fuzz(func(t *testing.T, s string) {
		if got, want := checkedName(s), bundle.CheckRepository(s) == nil && !strings.Contains(s, ".."); got != want {
			t.Errorf("checkedName(%q) = %v, want %v", s, got, want)
		}
		if got, want := isTag(s), tag.MatchString(s); got != want {
			t.Errorf("isTag(%q) = %v, want %v", s, got, want)
		}
		v, known, valid := parseSum(s)
		_, isErr := digest.Parse(s)
		switch registered := strings.HasPrefix(s, "sha256:") || strings.HasPrefix(s, "sha512:"); {
		case registered && (known != (isErr == nil) || valid != known):
			t.Errorf("parseSum(%q) = %v, %v; go-digest: %v", s, known, valid, isErr)
		case !registered && (known || valid != (len(s) <= bundle.MaxName && grammar.MatchString(s))):
			t.Errorf("parseSum(%q) = %v, %v", s, known, valid)
		}
		if known && string(sumText(string(v.raw[:v.n]))) != s {
			t.Errorf("sumText of %q is another digest", s)
		}
		if prefix, ok := fallbackSubject(s); ok && (!isTag(s) || fallbackTag(prefix) != s) {
			t.Errorf("fallbackSubject(%q) = %q", s, prefix)
		}
		if valid && known {
			if prefix, ok := fallbackSubject(fallbackTag(s)); !ok || !strings.HasPrefix(s, prefix) {
				t.Errorf("the tag of %q leads to %q, %v", s, prefix, ok)
			}
		}
	})
}

// fallbackTag is the tag of distribution-spec 1.1 "Referrers Tag Schema": algorithm and encoded part, cut to 32 and 64
// characters.
func fallbackTag(subject string) string {
	algorithm, encoded, _ := strings.Cut(subject, ":")
	return algorithm + "-" + encoded[:min(len(encoded), 64)]
}

func TestParseSum(t *testing.T) {
	sha256, sha512 := digest.FromString("x").String(), digest.SHA512.FromString("x").String()
	for _, c := range []struct {
		text         string
		known, valid bool
	}{
		{sha256, true, true},
		{sha512, true, true},
		{strings.ToUpper(sha256), false, false},
		{"sha256:" + strings.ToUpper(sha256[7:]), false, false},
		{sha256[:70], false, false},
		{sha256 + "0", false, false},
		{"sha512:" + sha256[7:], false, false},
		{"sha384:" + sha256[7:], false, true},
		{"blake3+x.y-z_1:AB_c=-", false, true},
		{"x+:y", false, false},
		{"+x:y", false, false},
		{"x++z:y", false, false},
		{"x:", false, false},
		{":x", false, false},
		{"x:y:z", false, false},
		{"x", false, false},
		{"", false, false},
	} {
		if _, known, valid := parseSum(c.text); known != c.known || valid != c.valid {
			t.Errorf("parseSum(%q) = %v, %v; want %v, %v", c.text, known, valid, c.known, c.valid)
		}
	}
}

func TestNamedDigest(t *testing.T) {
	hex := strings.Repeat("0a", 32)
	for tag, want := range map[string]string{
		"sha256-" + hex + ".sig": "sha256:" + hex, "sha256-" + hex + ".att": "sha256:" + hex, "sha512-" + hex + ".sbom": "sha512:" + hex,
		"sha256-" + hex: "", "sha256-" + hex + ".sig.sig": "", "sha256-" + hex[1:] + ".sig": "", "v1.sig": "", ".sig": "", "sha256-" + hex + "0.sig": "",
		"sha256-" + strings.ToUpper(hex) + ".sig": "",
	} {
		if got, ok := namedDigest(tag); got != want || ok != (want != "") {
			t.Errorf("namedDigest(%q) = %q, %v; want %q", tag, got, ok, want)
		}
	}
}
