package access

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/bcrypt"
)

const (
	secretBytes = 20 // 160 bits
	idLength    = 8  // characters

	// tokenPrefix lets scanners for leaked secrets know a token when they see one.
	tokenPrefix = "plimsoll_"

	// sumPrefix marks the hash of a generated password; that of a chosen one is bcrypt's, which begins with "$2a$".
	sumPrefix = "sha256:"

	// bcryptCost is the cost of every chosen password's hash. One cost for all of them: otherwise the time that a wrong
	// password takes would tell whose it is not.
	bcryptCost = bcrypt.DefaultCost

	minPassword = 8  // characters of a chosen password
	maxPassword = 72 // bytes; bcrypt does not see more
)

var bcryptHash = regexp.MustCompile(`^\$2a\$10\$[./A-Za-z0-9]{53}$`)

// newSecret is 160 random bits as 32 lower-case letters and digits, none of which looks like another.
func newSecret() string {
	b := make([]byte, secretBytes)
	rand.Read(b) //nolint:errcheck // it never fails (crypto/rand.Read)
	return strings.ToLower(base32.StdEncoding.EncodeToString(b))
}

func sum(secret string) string {
	s := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(s[:])
}

// checkPassword reports why a chosen password cannot be one: the Basic scheme carries no control characters (RFC 7617,
// section 2), and bcrypt would take a longer one for its own beginning.
func checkPassword(password string) error {
	switch {
	case len(password) > maxPassword:
		return fmt.Errorf("password: %d bytes, at most %d count", len(password), maxPassword)
	case !utf8.ValidString(password), strings.ContainsFunc(password, unicode.IsControl):
		return errors.New("password: not UTF-8, or with control characters in it")
	case utf8.RuneCountInString(password) < minPassword:
		return fmt.Errorf("password: want at least %d characters", minPassword)
	}
	return nil
}

// checkHash reports what is wrong with a stored password hash; an account may have none.
func checkHash(hash string) error {
	if hash == "" {
		return nil
	}
	if s, ok := strings.CutPrefix(hash, sumPrefix); ok {
		if !hexSum.MatchString(s) {
			return errors.New("password: want 64 hex digits")
		}
		return nil
	}
	if !bcryptHash.MatchString(hash) {
		return fmt.Errorf("password: neither bcrypt's hash of cost %d nor a SHA-256", bcryptCost)
	}
	return nil
}
