package layout

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	intoto "github.com/in-toto/in-toto-golang/in_toto"

	"github.com/plimsoll/plimsoll/attest"
)

// A step's name is part of a file's name: no separators, no patterns, nothing hidden.
var stepName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)

// shortID is how much of a key id stands in the name of a link.
const shortID = 8

func isKeyID(id string) bool {
	return len(id) >= shortID && len(id) <= 128 && strings.Trim(id, "0123456789abcdef") == ""
}

// checkOwners wants a signature by every owner. How key ids are made differs between the libraries of in-toto, and they
// are not signed: every signature is tried.
func checkOwners(doc intoto.Metadata, owners []crypto.PublicKey) error {
	for _, owner := range owners {
		key, err := ownerKey(owner)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(doc.Sigs(), func(s intoto.Signature) bool {
			key.KeyID = s.KeyID
			return intoto.VerifyLayoutSignatures(doc, map[string]intoto.Key{s.KeyID: key}) == nil
		}) {
			return &DeniedError{Reason: UnknownSigner, Detail: fmt.Sprintf("owner %s has not signed it", attest.KeyID(owner))}
		}
	}
	return nil
}

// ownerKey gives an owner's key the library's shape.
func ownerKey(pub crypto.PublicKey) (intoto.Key, error) {
	if k, ok := pub.(ed25519.PublicKey); ok {
		return intoto.Key{KeyType: "ed25519", Scheme: "ed25519", KeyVal: intoto.KeyVal{Public: hex.EncodeToString(k)}}, nil
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return intoto.Key{}, fmt.Errorf("layout: owner: %w", err)
	}
	return intoto.Key{KeyType: "ecdsa", Scheme: "ecdsa-sha2-nistp256",
		KeyVal: intoto.KeyVal{Public: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))}}, nil
}

func checkExpiry(l *intoto.Layout, now time.Time) (time.Time, error) {
	expires, err := time.Parse(intoto.ISO8601DateSchema, l.Expires)
	if err != nil {
		return expires, denied(Malformed, "", "", fmt.Errorf("expires: %w", err))
	}
	if now.After(expires) {
		return expires, &DeniedError{Reason: Expired, Detail: fmt.Sprintf("on %s; the trusted time is %s", expires.Format(time.RFC3339), now.UTC().Format(time.RFC3339))}
	}
	return expires, nil
}

// checkLayout refuses layouts with which the library's parts would be unsafe, or say less than they seem to. It gives
// the functionaries' keys.
func checkLayout(l *intoto.Layout) (map[string]intoto.Key, error) {
	bad := func(step, format string, args ...any) error {
		return &DeniedError{Reason: Malformed, Step: step, Detail: fmt.Sprintf(format, args...)}
	}
	if len(l.RootCas) > 0 || len(l.IntermediateCas) > 0 {
		return nil, &DeniedError{Reason: Certificates, Detail: "it names certificate authorities; only keys can be judged without a clock"}
	}
	if len(l.Keys) > MaxKeys {
		return nil, bad("", "%d keys, the limit is %d", len(l.Keys), MaxKeys)
	}
	// One key under two ids would be two functionaries, and fill a threshold of two.
	owner := make(map[string]string)
	keys := make(map[string]intoto.Key, len(l.Keys))
	for id, key := range l.Keys {
		if !isKeyID(id) {
			return nil, bad("", "key id %q", id)
		}
		pub, err := functionary(key)
		if err != nil {
			return nil, bad("", "key %s: %v", id, err)
		}
		if other, twice := owner[pub]; twice {
			return nil, bad("", "keys %s and %s are the same", min(id, other), max(id, other))
		}
		owner[pub], keys[id] = id, key
	}
	if len(l.Steps) == 0 || len(l.Steps) > MaxSteps {
		return nil, bad("", "%d steps: want 1 to %d", len(l.Steps), MaxSteps)
	}
	seen := make(map[string]bool)
	for _, s := range l.Steps {
		switch {
		case !stepName.MatchString(s.Name):
			return nil, bad("", "step %q: want a name of letters, digits, '.', '_' and '-'", s.Name)
		case seen[strings.ToLower(s.Name)]:
			return nil, bad(s.Name, "there are two steps of this name")
		case len(s.CertificateConstraints) > 0:
			return nil, &DeniedError{Reason: Certificates, Step: s.Name, Detail: "it may be done by certificates; only keys can be judged without a clock"}
		case s.Threshold < 1 || s.Threshold > len(s.PubKeys):
			return nil, bad(s.Name, "a threshold of %d, with %d keys", s.Threshold, len(s.PubKeys))
		case len(s.PubKeys) > MaxKeys:
			return nil, bad(s.Name, "%d keys, the limit is %d", len(s.PubKeys), MaxKeys)
		}
		seen[strings.ToLower(s.Name)] = true
		short := make(map[string]bool)
		for _, id := range s.PubKeys {
			if _, ok := keys[id]; !ok {
				return nil, bad(s.Name, "key %q is not among the layout's", id)
			}
			if short[id[:shortID]] {
				return nil, bad(s.Name, "two of its keys begin with %s: their links have one name", id[:shortID])
			}
			short[id[:shortID]] = true
		}
	}
	return keys, nil
}

// functionary names the public key that a layout gives someone. The library would panic at a key of another length or
// type than it says.
func functionary(k intoto.Key) (string, error) {
	if k.KeyVal.Certificate != "" || k.KeyVal.Private != "" {
		return "", errors.New("want a public key and nothing else")
	}
	if k.KeyType == "ed25519" {
		raw, err := hex.DecodeString(k.KeyVal.Public)
		if err == nil && len(raw) != ed25519.PublicKeySize {
			err = fmt.Errorf("an Ed25519 key of %d bytes", len(raw))
		}
		return "ed25519 " + hex.EncodeToString(raw), err
	}
	block, rest := pem.Decode([]byte(k.KeyVal.Public))
	if block == nil || block.Type != "PUBLIC KEY" || len(strings.TrimSpace(string(rest))) > 0 {
		return "", errors.New("want one PEM block \"PUBLIC KEY\"")
	}
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return "", err
	}
	switch p := pub.(type) {
	case *ecdsa.PublicKey:
		if k.KeyType != "ecdsa" || p.Curve == elliptic.P224() {
			return "", fmt.Errorf("an ECDSA key on %s as %q", p.Params().Name, k.KeyType)
		}
	case *rsa.PublicKey:
		if k.KeyType != "rsa" || p.N.BitLen() < 2048 || p.N.BitLen() > 8192 {
			return "", fmt.Errorf("an RSA key of %d bits as %q: want 2048 to 8192", p.N.BitLen(), k.KeyType)
		}
	default:
		return "", fmt.Errorf("a key of type %T", pub)
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	return string(der), err
}

var parameterName = regexp.MustCompile(`^[a-zA-Z0-9_-]+$`)

// substitute puts the given values into rules and expected commands.
func substitute(l intoto.Layout, parameters map[string]string) (intoto.Layout, error) {
	if len(parameters) > MaxParameters {
		return l, &ParameterError{Reason: fmt.Sprintf("%d are given, the limit is %d", len(parameters), MaxParameters)}
	}
	for name, value := range parameters {
		switch {
		case !parameterName.MatchString(name):
			return l, &ParameterError{Name: name, Reason: "want a name of letters, digits, '_' and '-'"}
		case len(value) > MaxParameter || !utf8.ValidString(value) || strings.ContainsFunc(value, unicode.IsControl):
			return l, &ParameterError{Name: name, Reason: fmt.Sprintf("want at most %d bytes of text in one line", MaxParameter)}
		}
	}
	l, err := intoto.SubstituteParameters(l, parameters)
	if err != nil {
		return l, &ParameterError{Reason: err.Error()}
	}
	return l, nil
}

var marker = regexp.MustCompile(`\{[a-zA-Z0-9_-]+\}`)

// checkRules refuses rules that the library would pass over: a DISALLOW whose pattern is wrong, or has a parameter
// without a value, forbids nothing.
func checkRules(l *intoto.Layout) error {
	count := 0
	steps := make(map[string]bool)
	for _, s := range l.Steps {
		steps[s.Name] = true
	}
	for _, s := range l.Steps {
		for _, rule := range slices.Concat(s.ExpectedMaterials, s.ExpectedProducts) {
			if count++; count > MaxRules {
				return &DeniedError{Reason: Malformed, Detail: fmt.Sprintf("more than %d rules", MaxRules)}
			}
			if m := marker.FindString(strings.Join(rule, "\n")); m != "" {
				return &DeniedError{Reason: MissingParameter, Step: s.Name, Detail: fmt.Sprintf("no value for %s in rule %q", m, rule)}
			}
			unpacked, err := intoto.UnpackRule(rule)
			if err != nil {
				return denied(Malformed, s.Name, "", fmt.Errorf("rule %q: %w", rule, err))
			}
			pattern := unpacked["pattern"]
			switch {
			case pattern == "":
				err = errors.New("no pattern")
			case !isPattern(pattern) || !isPattern(path.Clean(pattern)):
				err = errors.New("the pattern is wrong")
			case unpacked["type"] == "match" && !steps[unpacked["dstName"]]:
				err = fmt.Errorf("there is no step %q", unpacked["dstName"])
			case unpacked["type"] == "match" && unpacked["dstType"] != "materials" && unpacked["dstType"] != "products":
				err = fmt.Errorf("%q: want materials or products", unpacked["dstType"])
			}
			if err != nil {
				return denied(Malformed, s.Name, "", fmt.Errorf("rule %q: %w", rule, err))
			}
		}
	}
	return nil
}

// isPattern is the grammar of the library's patterns. At another one it prints a warning and matches nothing.
func isPattern(p string) bool {
	for len(p) > 0 {
		c := p[0]
		p = p[1:]
		switch c {
		case '\\':
			if p == "" {
				return false
			}
			p = p[1:]
		case '[':
			p = strings.TrimPrefix(p, "!")
			for n := 0; n == 0 || p[0] != ']'; n++ {
				var ok bool
				if p, ok = classRune(p); !ok {
					return false
				}
				if p[0] == '-' {
					if p, ok = classRune(p[1:]); !ok {
						return false
					}
				}
			}
			p = p[1:]
		}
	}
	return true
}

// classRune takes one character of a class; there must be something behind it.
func classRune(p string) (string, bool) {
	if p == "" || p[0] == '-' || p[0] == ']' {
		return "", false
	}
	if p = strings.TrimPrefix(p, `\`); p == "" {
		return "", false
	}
	r, n := utf8.DecodeRuneInString(p)
	return p[n:], len(p) > n && (r != utf8.RuneError || n > 1)
}

// hashBytes are the digests that make an artifact what it is. By others, or by none, two different ones would match.
var hashBytes = map[string]int{"sha256": 32, "sha384": 48, "sha512": 64}

// checkLink bounds a link.
func checkLink(l *intoto.Link) error {
	for kind, artifacts := range map[string]map[string]intoto.HashObj{"materials": l.Materials, "products": l.Products} {
		if len(artifacts) > MaxArtifacts {
			return fmt.Errorf("%d %s, the limit is %d", len(artifacts), kind, MaxArtifacts)
		}
		for name, hashes := range artifacts {
			if name == "" {
				return fmt.Errorf("%s: an artifact without a name", kind)
			}
			strong := false
			for algorithm, sum := range hashes {
				if strings.Trim(sum, "0123456789abcdef") != "" || len(sum)%2 != 0 || len(sum) == 0 {
					return fmt.Errorf("%s: %q: %s: not lower-case hex", kind, name, algorithm)
				}
				if n, known := hashBytes[algorithm]; known {
					if len(sum) != 2*n {
						return fmt.Errorf("%s: %q: %s of %d bytes", kind, name, algorithm, len(sum)/2)
					}
					strong = true
				}
			}
			if !strong {
				return fmt.Errorf("%s: %q: no sha256, sha384 or sha512", kind, name)
			}
		}
	}
	return nil
}
