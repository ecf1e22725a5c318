package access

import (
	"encoding/base64"
	"errors"
	"strings"
)

// maxAuthorization bounds an Authorization header, in bytes. Foreign tokens that clients send along are far shorter.
const maxAuthorization = 8 << 10

// credentials are what an Authorization header claims.
type credentials struct {
	scheme   Means // ByBasic, ByBearer, or empty when there is no header
	user     string
	password string // or the token
	unknown  bool   // of a scheme that nobody has credentials for here
}

var errMalformed = errors.New("malformed Authorization header")

// parseAuthorization reads the Authorization headers of a request (RFC 9110, section 11.6.2; RFC 7617; RFC 6750). More
// than one header, and every form that two servers could read differently, is an error.
func parseAuthorization(values []string) (credentials, error) {
	if len(values) == 0 {
		return credentials{}, nil
	}
	if len(values) > 1 || len(values[0]) > maxAuthorization {
		return credentials{}, errMalformed
	}
	scheme, rest, _ := strings.Cut(values[0], " ")
	if !token(scheme) || hasControl(rest) {
		return credentials{}, errMalformed
	}
	switch strings.ToLower(scheme) {
	case "basic":
		return parseBasic(rest)
	case "bearer":
		if !token68(rest) {
			return credentials{}, errMalformed
		}
		return credentials{scheme: ByBearer, password: rest}, nil
	}
	return credentials{unknown: true}, nil
}

func parseBasic(encoded string) (credentials, error) {
	if hasControl(encoded) { // encoding/base64 would read over line ends
		return credentials{}, errMalformed
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if err != nil {
		return credentials{}, errMalformed
	}
	user, password, ok := strings.Cut(string(raw), ":")
	if !ok || hasControl(user) || hasControl(password) {
		return credentials{}, errMalformed
	}
	return credentials{scheme: ByBasic, user: user, password: password}, nil
}

// token reports whether s is one as RFC 9110, section 5.6.2, has it.
func token(s string) bool {
	for i := range len(s) {
		if c := s[i]; !alphanumeric(c) && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
			return false
		}
	}
	return s != ""
}

// token68 is what credentials look like on the wire (RFC 9110, section 11.2).
func token68(s string) bool {
	body := strings.TrimRight(s, "=")
	for i := range len(body) {
		if c := body[i]; !alphanumeric(c) && !strings.ContainsRune("-._~+/", rune(c)) {
			return false
		}
	}
	return body != ""
}

// hasControl reports whether s has an ASCII control character.
func hasControl(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] == 0x7f {
			return true
		}
	}
	return false
}
