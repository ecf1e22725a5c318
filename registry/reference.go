package registry

import (
	"encoding/hex"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/plimsoll/plimsoll/bundle"
)

// The names that a client sends are checked by hand: the patterns of package bundle, which say the same, cost more than
// everything else that a pull of a manifest takes here.

// checkedName reports what bundle.CheckRepository does, but for names with "..", which no path may have.
func checkedName(name string) bool {
	if len(name) > bundle.MaxName || strings.Contains(name, "..") {
		return false
	}
	first, rest, more := strings.Cut(name, "/")
	if !isComponent(first) && !(more && isHostPart(first)) {
		return false
	}
	for more {
		first, rest, more = strings.Cut(rest, "/")
		if !isComponent(first) {
			return false
		}
	}
	return true
}

// isComponent is a part of <name> of distribution-spec 1.1: letters and digits, with '.', '_', "__" or dashes between.
func isComponent(s string) bool {
	if s == "" || !isAlnum(s[0]) || !isAlnum(s[len(s)-1]) {
		return false
	}
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case isAlnum(c), c == '-' && (isAlnum(s[i-1]) || s[i-1] == '-'), c == '.' && isAlnum(s[i-1]):
		case c == '_' && (isAlnum(s[i-1]) || s[i-1] == '_' && isAlnum(s[i-2])): // s[0] is no '_'
		default:
			return false
		}
	}
	return true
}

// isHostPart is the first part of a repository's full name: a host with or without a port.
func isHostPart(s string) bool {
	host, port, hasPort := strings.Cut(s, ":")
	if hasPort && (len(port) == 0 || len(port) > 5 || strings.Trim(port, "0123456789") != "") {
		return false
	}
	for i := 0; i < len(host); i++ {
		if c := host[i]; !isAlnum(c) && !('A' <= c && c <= 'Z') && c != '.' && c != '-' {
			return false
		}
	}
	return host != ""
}

func isAlnum(c byte) bool { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' }

// isTag is <reference> as a tag of distribution-spec 1.1.
func isTag(s string) bool {
	if s == "" || len(s) > 128 || s[0] == '.' || s[0] == '-' {
		return false
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; !isAlnum(c) && !('A' <= c && c <= 'Z') && c != '.' && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

// looksLikeDigest tells a digest from a tag, which cannot have a colon.
func looksLikeDigest(reference string) bool { return strings.IndexByte(reference, ':') >= 0 }

// sum is a digest of an algorithm that the store has: sha256 with 32 bytes or sha512 with 64.
type sum struct {
	raw [64]byte
	n   int
}

// parseSum reads a digest. It is valid when it follows the grammar of image-spec 1.1 "Digests" and, for the registered
// algorithms, has the right length; known when the store could have such content.
func parseSum(d string) (s sum, known, valid bool) {
	algorithm, encoded, _ := strings.Cut(d, ":")
	switch algorithm {
	case "sha256":
		s.n = 32
	case "sha512":
		s.n = 64
	default:
		return s, false, otherDigest(algorithm, encoded)
	}
	if len(encoded) != 2*s.n {
		return s, false, false
	}
	for i := range s.n {
		high, low := hexDigit(encoded[2*i]), hexDigit(encoded[2*i+1])
		if high > 15 || low > 15 {
			return s, false, false
		}
		s.raw[i] = high<<4 | low
	}
	return s, true, true
}

// hexDigit gives the value of a lower-case digit, and 255 for everything else.
func hexDigit(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	}
	return 255
}

func otherDigest(algorithm, encoded string) bool {
	if encoded == "" || algorithm == "" || len(algorithm)+len(encoded) >= bundle.MaxName {
		return false
	}
	separator := true
	for i := 0; i < len(algorithm); i++ {
		c := algorithm[i]
		if !isAlnum(c) && (separator || strings.IndexByte("+._-", c) < 0) {
			return false
		}
		separator = !isAlnum(c)
	}
	for i := 0; i < len(encoded); i++ {
		if c := encoded[i]; !isAlnum(c) && !('A' <= c && c <= 'Z') && c != '=' && c != '_' && c != '-' {
			return false
		}
	}
	return !separator
}

// sumText is the digest of a sum's bytes, which are 32 or 64.
func sumText(raw string) digest.Digest {
	var buf [len("sha512:") + 128]byte
	text := append(buf[:0], "sha256:"...)
	if len(raw) == 64 {
		text = append(buf[:0], "sha512:"...)
	}
	return digest.Digest(hex.AppendEncode(text, []byte(raw)))
}

// fallbackSubject gives what the digest starts with whose referrers a tag of distribution-spec 1.1 "Referrers Tag Schema"
// lists. The tag has at most 64 characters of the digits: all of sha256, half of sha512.
func fallbackSubject(tag string) (prefix string, ok bool) {
	algorithm, encoded, _ := strings.Cut(tag, "-")
	if (algorithm != "sha256" && algorithm != "sha512") || len(encoded) != 64 {
		return "", false
	}
	for i := range len(encoded) {
		if hexDigit(encoded[i]) > 15 {
			return "", false
		}
	}
	return algorithm + ":" + encoded, true
}

// namedDigest gives what the digest starts with that a tag of cosign belongs to: sha256-<hex>.sig, .att or .sbom.
func namedDigest(tag string) (prefix string, ok bool) {
	stem, suffix, _ := strings.Cut(tag, ".")
	if suffix != "sig" && suffix != "att" && suffix != "sbom" {
		return "", false
	}
	return fallbackSubject(stem)
}
