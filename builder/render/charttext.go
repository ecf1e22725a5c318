package render

import "strings"

// Templates may make something else each time: a password, a certificate, the time. None of it is ever an image, but it
// gets into names and labels, and the same request must give the same answer; and keys take seconds to make. So these
// functions are replaced by others that take the same arguments, before the templates are parsed.
var steadyFunctions = map[string]string{
	"now":                      `(toDate "2006-01-02" "2000-01-01")`,
	"uuidv4":                   `("00000000-0000-4000-8000-000000000000")`,
	"randAlphaNum":             `include "` + steadyText + `"`,
	"randAlpha":                `include "` + steadyText + `"`,
	"randAscii":                `include "` + steadyText + `"`,
	"randBytes":                `include "` + steadyText + `"`,
	"randNumeric":              `include "` + steadyDigits + `"`,
	"randInt":                  `min`,
	"shuffle":                  `toString`,
	"bcrypt":                   `toString`,
	"htpasswd":                 `printf "%s:%s"`,
	"encryptAES":               `printf "%.0s%s"`,
	"genPrivateKey":            `printf "` + madeUp + `%.0s"`,
	"genCA":                    madeUpPair,
	"genCAWithKey":             madeUpPair,
	"genSelfSignedCert":        madeUpPair,
	"genSelfSignedCertWithKey": madeUpPair,
	"genSignedCert":            madeUpPair,
	"genSignedCertWithKey":     madeUpPair,
}

const (
	steadyText   = "plimsoll.text"
	steadyDigits = "plimsoll.digits"
	madeUp       = "plimsoll-made-this-up"
	madeUpPair   = `dict "Cert" "` + madeUp + `" "Key" "` + madeUp + `"`

	// steadyTemplate is beside the templates of each chart that needs it.
	steadyTemplate = `{{ define "` + steadyText + `" }}{{ repeat (int .) "x" }}{{ end }}{{ define "` + steadyDigits + `" }}{{ repeat (int .) "1" }}{{ end }}`
)

// steady replaces the functions in the actions of a template. Text, strings and comments stay as they are, and lines
// keep their numbers.
func steady(template string) (string, bool) {
	var b strings.Builder
	changed := false
	for {
		before, action, ok := strings.Cut(template, "{{")
		b.WriteString(before)
		if !ok {
			return b.String(), changed
		}
		b.WriteString("{{")
		end := 0
		for end < len(action) && !strings.HasPrefix(action[end:], "}}") {
			n := token(action[end:])
			word := action[end : end+n]
			free := end == 0 || !strings.ContainsRune(".$", rune(action[end-1]))
			chained := strings.HasPrefix(action[end+n:], ".") // now.Year, of which the new text must be a whole
			if other, ok := steadyFunctions[word]; ok && free && (!chained || other[0] == '(') {
				word, changed = other, true
			}
			b.WriteString(word)
			end += n
		}
		template = action[end:]
	}
}

// token gives the length of the comment, string, word or byte that an action goes on with.
func token(s string) int {
	quoted := func(quote byte, escapes bool) int {
		for i := 1; i < len(s); i++ {
			switch {
			case escapes && s[i] == '\\':
				i++
			case s[i] == quote:
				return i + 1
			case escapes && s[i] == '\n':
				return i // not closed: the parser will say so
			}
		}
		return len(s)
	}
	switch {
	case strings.HasPrefix(s, "/*"):
		if i := strings.Index(s, "*/"); i >= 0 {
			return i + 2
		}
		return len(s)
	case s[0] == '"' || s[0] == '\'':
		return quoted(s[0], true)
	case s[0] == '`':
		return quoted('`', false)
	}
	n := 0
	for n < len(s) && (s[n] == '_' || '0' <= s[n] && s[n] <= '9' || 'a' <= s[n]|0x20 && s[n]|0x20 <= 'z' || s[n] >= 0x80) {
		n++
	}
	return max(n, 1)
}
