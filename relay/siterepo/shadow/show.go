package shadow

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Hidden stands for a value that looks like a secret: a report is printed, kept and sent on.
const Hidden = "(hidden)"

// maxShown is what is shown of a value, in characters.
const maxShown = 200

// plainKey is a part of a key path that needs no quotes.
var plainKey = regexp.MustCompile(`^[A-Za-z0-9_/@-]+$`)

func keyPath(at []string) string {
	var b strings.Builder
	for i, part := range at {
		if i > 0 {
			b.WriteByte('.')
		}
		if !plainKey.MatchString(part) {
			part = strconv.Quote(part)
		}
		b.WriteString(part)
	}
	return b.String()
}

// show writes a value as JSON on one line; nothing is "".
func show(v *value, hide bool) string {
	if v == nil {
		return ""
	}
	if hide && v.kind != null {
		return Hidden
	}
	var b strings.Builder
	write(&b, v)
	return cut(b.String())
}

// cut ends a text that is too long to be read.
func cut(s string) string {
	if len(s) <= maxShown {
		return s
	}
	n := 0
	for at := range s {
		if n++; n > maxShown {
			return s[:at] + "…"
		}
	}
	return s
}

// write stops where cut would: a value may be large, and is shared by aliases.
func write(b *strings.Builder, v *value) {
	const enough = maxShown * utf8.UTFMax
	if b.Len() > enough {
		return
	}
	switch v.kind {
	case null:
		b.WriteString("null")
	case boolean, number:
		b.WriteString(printable(v.text))
	case text, tagged:
		if secretText(v.text) {
			b.WriteString(Hidden)
			return
		}
		s := v.text
		if len(s) > enough {
			s = strings.ToValidUTF8(s[:enough], "")
		}
		b.WriteString(strconv.Quote(s))
	case list:
		b.WriteByte('[')
		for i, item := range v.items {
			if b.Len() > enough {
				break
			}
			if i > 0 {
				b.WriteByte(',')
			}
			write(b, item)
		}
		b.WriteByte(']')
	case mapping:
		writeMap(b, v, enough)
	}
}

func writeMap(b *strings.Builder, v *value, enough int) {
	// An environment variable: {name: DB_PASSWORD, value: …}.
	name := v.field("name")
	secretValue := name != nil && name.kind == text && secretName(name.text)
	b.WriteByte('{')
	for i, key := range v.keys {
		if b.Len() > enough {
			break
		}
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.Quote(cut(key)))
		b.WriteByte(':')
		field := v.fields[key].value
		if field.kind != null && (secretName(key) || secretValue && key == "value") {
			b.WriteString(Hidden)
			continue
		}
		write(b, field)
	}
	b.WriteByte('}')
}

// secretWords stand somewhere in the names of secrets, secretEnds at their end.
var (
	secretWords = []string{"password", "passwd", "passphrase", "passcode", "secret", "token", "credential", "psk"}
	secretEnds  = []string{"key", "keys", "pass", "pwd", "pw", "pin"}
)

// secretName reports a key whose value may be a secret: dbPassword, API_TOKEN, wifi-psk, tls.key. It would rather hide the
// name of a Secret, or a key of a keyboard, than show what is secret.
func secretName(key string) bool {
	squeezed := strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return unicode.ToLower(r)
		}
		return -1
	}, key)
	return slices.ContainsFunc(secretWords, func(w string) bool { return strings.Contains(squeezed, w) }) ||
		slices.ContainsFunc(secretEnds, func(w string) bool { return strings.HasSuffix(squeezed, w) })
}

// secretForm is what says by its form that it is a secret: keys, URLs with a password, tokens of well-known makers.
var secretForm = regexp.MustCompile(`PRIVATE KEY|://[^/@\s]*:[^/@\s]+@|\b(?:gh[pousr]_|github_pat_|glpat-|xox[abeoprs]-|AKIA|ASIA|eyJ[A-Za-z0-9_-]{10,}\.)`)

func secretText(s string) bool { return secretForm.MatchString(s) }

// printable writes out what a terminal would obey.
func printable(s string) string {
	for _, r := range s {
		if !unicode.IsPrint(r) {
			quoted := strconv.Quote(s)
			return quoted[1 : len(quoted)-1]
		}
	}
	return s
}
