package render

import (
	"encoding/base64"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"

	"github.com/plimsoll/plimsoll/builder/closure"
)

// What Secret.What can be.
const (
	whatSecret     = "Secret with data"
	whatPrivateKey = "private key"
	whatPassword   = "password"
	whatToken      = "token"
)

// literalSecrets finds a Secret whose data stands as text where everybody with the repository can read it. literal says
// whether a text does.
func literalSecrets(value map[string]any, literal func(text string) bool) []closure.Secret {
	if value["kind"] != "Secret" || value["apiVersion"] != "v1" {
		return nil
	}
	for _, field := range []string{"data", "stringData"} {
		entries, _ := value[field].(map[string]any)
		for _, name := range slices.Sorted(maps.Keys(entries)) {
			text, _ := entries[name].(string)
			plain := text
			if field == "data" {
				decoded, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(text), ""))
				if err != nil {
					continue
				}
				plain = string(decoded)
			}
			if strings.TrimSpace(plain) == "" || isPlaceholder(plain) || strings.Contains(text, "ENC[") || strings.Contains(plain, "ENC[") {
				continue
			}
			if literal(plain) || literal(text) {
				return []closure.Secret{{What: whatSecret, Place: closure.Place{Field: fieldPath{{key: field}, {key: name}}.String()}}}
			}
		}
	}
	return nil
}

// pemKey is the start of a private key, with at least one line of it: documentation has the first line alone.
var pemKey = regexp.MustCompile(`-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----(?:\s|\\n)+(?:[A-Za-z-]+: [^\n]*\s+)*[A-Za-z0-9+/=]{16,}`)

// tokens are credentials that say by their form what they are.
var tokens = regexp.MustCompile(`\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{50,}|glpat-[A-Za-z0-9_-]{20,}|(?:AKIA|ASIA)[A-Z0-9]{16}|` +
	`xox[abeoprs]-[A-Za-z0-9-]{20,}|AIza[A-Za-z0-9_-]{35}|sk_live_[A-Za-z0-9]{20,}|npm_[A-Za-z0-9]{36}|dckr_pat_[A-Za-z0-9_-]{20,}|` +
	`hvs\.[A-Za-z0-9_-]{24,}|pypi-[A-Za-z0-9_-]{60,}|SG\.[A-Za-z0-9_-]{20,}\.[A-Za-z0-9_-]{20,})`)

// textFile is a file that something was rendered from. Its text is searched once for each revision.
type textFile struct {
	item, revision string // empty: those of the rendering
	file           string
	data           []byte
	keys           bool // it is YAML, of which the keys say what is secret
}

// search finds secrets in a file.
func (f textFile) search() []closure.Secret {
	var found []closure.Secret
	lines := make(map[int]bool)
	add := func(what string, line int, field string) {
		if !lines[line] {
			lines[line] = true
			found = append(found, closure.Secret{What: what, Place: closure.Place{File: f.file, Line: line, Field: field}})
		}
	}
	content := string(f.data)
	lineAt := func(offset int) int { return 1 + strings.Count(content[:offset], "\n") }
	if strings.Contains(content, "PRIVATE KEY") {
		for _, at := range pemKey.FindAllStringIndex(content, maxSecrets) {
			add(whatPrivateKey, lineAt(at[0]), "")
		}
	}
	for _, at := range tokens.FindAllStringIndex(content, maxSecrets) {
		if !strings.Contains(content[at[0]:at[1]], "EXAMPLE") && varied(content[at[0]:at[1]]) {
			add(whatToken, lineAt(at[0]), "")
		}
	}
	if !f.keys {
		return found
	}
	docs, err := splitDocuments(f.data)
	if err != nil {
		return found
	}
	for _, d := range docs {
		root, err := d.parse()
		if err != nil || noKeys(text(root, "kind")) {
			continue
		}
		secretKeys(root, nil, 0, func(what string, n *yaml.Node, at fieldPath) { add(what, d.at(n), at.String()) })
	}
	return found
}

// noKeys are the kinds whose keys say nothing: schemas, Secrets, of which literalSecrets knows more, and what is encrypted
// or names a store.
func noKeys(kind string) bool {
	return kind == "CustomResourceDefinition" || strings.HasSuffix(kind, "Secret") || strings.HasSuffix(kind, "SecretStore")
}

// varied is false for XXXXXXXX and the like.
func varied(s string) bool {
	seen := make(map[rune]bool)
	for _, r := range s {
		seen[r] = true
	}
	return len(seen) > 10
}

// secretKeys visits values whose key says that they are secret and whose text says that they are not somewhere else.
func secretKeys(n *yaml.Node, at fieldPath, depth int, found func(what string, n *yaml.Node, at fieldPath)) {
	if depth > maxNesting {
		return
	}
	switch n.Kind {
	case yaml.SequenceNode:
		for i, e := range n.Content {
			secretKeys(e, at.item(i), depth+1, found)
		}
	case yaml.MappingNode:
		if name, value := text(n, "name"), child(n, step{key: "value"}); name != "" && value != nil && value.Kind == yaml.ScalarNode { // env
			if what := secretName(name); what != "" && isLiteral(what, value) {
				found(what, value, at.key("value"))
			}
		}
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, value := n.Content[i], n.Content[i+1]
			if key.Value == "" {
				continue
			}
			if value.Kind == yaml.ScalarNode {
				if what := secretName(key.Value); what != "" && isLiteral(what, value) {
					found(what, value, at.key(key.Value))
				}
				continue
			}
			if value.Kind != yaml.AliasNode { // found where the anchor is
				secretKeys(value, at.key(key.Value), depth+1, found)
			}
		}
	}
}

// secretName says what a key is the name of, by its end: dbPassword, API_TOKEN, client-secret. The name of a Secret, which
// is what existingSecret and tlsSecret hold, is no secret.
func secretName(key string) string {
	k := strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return unicode.ToLower(r)
		}
		return -1
	}, key)
	ends := func(words ...string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return strings.HasSuffix(k, w) })
	}
	switch {
	case ends("existingpassword"):
		return ""
	case ends("password", "passwd", "passphrase", "pwd"):
		return whatPassword
	case ends("privatekey", "secretkey", "secretaccesskey", "encryptionkey", "signingkey"):
		return "key"
	case ends("apikey", "apitoken", "accesstoken", "authtoken", "bearertoken", "refreshtoken", "bottoken") || k == "token":
		return whatToken
	case ends("clientsecret", "sharedsecret", "appsecret", "jwtsecret", "cookiesecret", "webhooksecret") || k == "secret":
		return "secret"
	}
	return ""
}

// nameLike is what Secrets and keys in them are called.
var nameLike = regexp.MustCompile(`^[a-z]+(?:[-./][a-z0-9]+)*$`)

var placeholders = regexp.MustCompile(`(?i)^(?:change[-_ ]?(?:me|it|this).*|replace[-_ ]?(?:me|this|with).*|your[-_ ].*|example.*|placeholder.*|todo.*|tbd|fixme|dummy|` +
	`redacted|none|null|nil|true|false|yes|no|x+|\*+|-+|\.+|secret|password|token)$`)

// isLiteral reports a text that is used as it stands.
func isLiteral(what string, n *yaml.Node) bool {
	s := strings.TrimSpace(n.Value)
	if n.Tag == "!!null" || n.Tag == "!!bool" || s == "" || isPlaceholder(s) || strings.Contains(s, "ENC[") || placeholders.MatchString(s) {
		return false
	}
	if strings.Contains(s, "://") && !strings.Contains(s, "@") || strings.HasPrefix(s, "vault:") || strings.HasPrefix(s, "ref+") || strings.HasPrefix(s, "/") {
		return false // a reference to a store, or the path of a file
	}
	if what != whatPassword && (len(s) < 8 || nameLike.MatchString(s)) {
		return false
	}
	return !strings.Contains(s, "\n") || !strings.HasPrefix(s, "-----BEGIN") // keys are found by their form
}
