package access

import (
	"encoding/base64"
	"slices"
	"strings"
	"testing"
)

func basic(userPass string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(userPass))
}

func TestParseAuthorization(t *testing.T) {
	for name, c := range map[string]struct {
		in   []string
		want credentials
	}{
		"none":               {nil, credentials{}},
		"basic":              {[]string{basic("agv-17:pass:word")}, credentials{scheme: ByBasic, user: "agv-17", password: "pass:word"}},
		"case of the scheme": {[]string{"bAsIc YTpi"}, credentials{scheme: ByBasic, user: "a", password: "b"}},
		"empty password":     {[]string{basic("a:")}, credentials{scheme: ByBasic, user: "a"}},
		"empty user":         {[]string{basic(":token")}, credentials{scheme: ByBasic, password: "token"}},
		"not UTF-8":          {[]string{basic("a:\xff")}, credentials{scheme: ByBasic, user: "a", password: "\xff"}},
		"bearer":             {[]string{"Bearer plimsoll_a-._~+/b=="}, credentials{scheme: ByBearer, password: "plimsoll_a-._~+/b=="}},
		"digest":             {[]string{`Digest username="a", realm="b"`}, credentials{unknown: true}},
		"negotiate":          {[]string{"Negotiate YTpi"}, credentials{unknown: true}},
		"scheme alone":       {[]string{"NTLM"}, credentials{unknown: true}},
	} {
		if got, err := parseAuthorization(c.in); err != nil || got != c.want {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	for name, in := range map[string][]string{
		"two headers":            {basic("a:b"), basic("a:b")},
		"two kinds":              {basic("a:b"), "Bearer abc"},
		"empty":                  {""},
		"basic alone":            {"Basic"},
		"basic and a space":      {"Basic "},
		"two spaces":             {"Basic  YTpi"},
		"a tab":                  {"Basic\tYTpi"},
		"trailing space":         {"Basic YTpi "},
		"no colon":               {basic("ab")},
		"no padding":             {"Basic YTo"},
		"loose padding":          {"Basic YTp="},
		"trailing bits":          {"Basic YTpiYx=="},
		"URL alphabet":           {"Basic YTr_-w=="},
		"a line end":             {"Basic YT\npi"},
		"two credentials":        {"Basic YTpi, Basic YTpi"},
		"a zero byte inside":     {basic("a:b\x00c")},
		"a line end inside":      {basic("a\n:b")},
		"a delete inside":        {basic("a:\x7f")},
		"bearer alone":           {"Bearer "},
		"bearer with a space":    {"Bearer a b"},
		"bearer of padding":      {"Bearer =="},
		"bearer, padding inside": {"Bearer a=b"},
		"a name for a scheme":    {"Bäsic YTpi"},
		"too long":               {"Bearer " + strings.Repeat("a", maxAuthorization)},
	} {
		if got, err := parseAuthorization(in); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// Whatever is understood is written back to the header that it came from: no two readings.
func FuzzParseAuthorization(f *testing.F) {
	for _, seed := range []string{"", "Basic YTpi", "basic YTo=", "Basic YT\npi", "Bearer abc==", "Digest a=b", "Bearer a=b"} {
		f.Add(seed, "")
	}
	f.Add("Basic YTpi", "Basic YTpi")
	f.Fuzz(func(t *testing.T, one, two string) {
		values := []string{one}
		if two != "" {
			values = append(values, two)
		}
		got, err := parseAuthorization(values)
		if err != nil {
			if got != (credentials{}) {
				t.Errorf("%q: %+v with an error", values, got)
			}
			return
		}
		if len(values) != 1 || slices.ContainsFunc([]byte(got.user+got.password), func(c byte) bool { return c < 0x20 || c == 0x7f }) {
			t.Fatalf("%q: %+v", values, got)
		}
		again := ""
		switch got.scheme {
		case ByBasic:
			again = basic(got.user + ":" + got.password)
		case ByBearer:
			again = "Bearer " + got.password
		default:
			if !got.unknown {
				t.Fatalf("%q: neither known nor unknown", values)
			}
			return
		}
		if len(again) != len(one) || !strings.EqualFold(again[:6], one[:6]) || again[6:] != one[6:] {
			t.Errorf("%q is read as %q", one, again)
		}
	})
}
