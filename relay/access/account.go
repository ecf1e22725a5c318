package access

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// Limits of the store: a file beyond them is refused.
const (
	maxFile         = 16 << 20 // bytes
	maxAccounts     = 10_000
	maxTokens       = 16 // of one account
	maxCertificates = 16 // of one account
)

// Account is one robot, operator or administrator.
type Account struct {
	Name         string        `json:"name"`
	Role         Role          `json:"role"`
	Group        string        `json:"group,omitempty"`
	Password     string        `json:"password,omitempty"` // see SetPassword; never the password itself
	Tokens       []Token       `json:"tokens,omitempty"`
	Certificates []Certificate `json:"certificates,omitempty"`
	Created      time.Time     `json:"created"`
	Disabled     bool          `json:"disabled,omitempty"` // none of its credentials counts
}

// Token is a secret that an account may send as a Bearer token (RFC 6750), or as its password.
type Token struct {
	ID      string    `json:"id"`     // names it for people
	SHA256  string    `json:"sha256"` // of the token, hex
	Created time.Time `json:"created"`
}

// Certificate is a client certificate of the site's authority. Removing it from its account is how it is revoked.
type Certificate struct {
	SHA256  string    `json:"sha256"` // of the certificate (DER), hex
	Created time.Time `json:"created"`
	Ends    time.Time `json:"ends"`
}

// NewAccount is an account without credentials.
func NewAccount(name string, role Role, group string, now time.Time) Account {
	return Account{Name: name, Role: role, Group: group, Created: stamp(now)}
}

// SetPassword sets a password that somebody chose. Its bcrypt hash is kept.
func (a *Account) SetPassword(password string) error {
	if err := checkPassword(password); err != nil {
		return fmt.Errorf("account %s: %w", a.Name, err)
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcryptCost)
	if err != nil {
		return fmt.Errorf("account %s: password: %w", a.Name, err)
	}
	a.Password = string(hash)
	return nil
}

// GeneratePassword sets a random password of 160 bits and gives it. Its SHA-256 is kept: nobody can try 2^160 passwords,
// so a slow hash would protect nothing, and five hundred robots that come back after a power cut would wait for it in
// turn.
func (a *Account) GeneratePassword() string {
	password := newSecret()
	a.Password = sumPrefix + sum(password)
	return password
}

// AddToken gives the account a new token of 160 random bits.
func (a *Account) AddToken(now time.Time) (Token, string, error) {
	if len(a.Tokens) >= maxTokens {
		return Token{}, "", fmt.Errorf("account %s: it has %d tokens already; remove one first", a.Name, len(a.Tokens))
	}
	secret := tokenPrefix + newSecret()
	t := Token{ID: newSecret()[:idLength], SHA256: sum(secret), Created: stamp(now)}
	a.Tokens = append(slices.Clone(a.Tokens), t)
	return t, secret, nil
}

// RemoveToken withdraws the token with an id.
func (a *Account) RemoveToken(id string) error {
	i := slices.IndexFunc(a.Tokens, func(t Token) bool { return t.ID == id })
	if i < 0 {
		return fmt.Errorf("account %s: it has no token %.80q", a.Name, id)
	}
	a.Tokens = slices.Delete(slices.Clone(a.Tokens), i, i+1)
	return nil
}

// AddCertificate lets the account prove itself with a certificate of the site's authority, whose CommonName must be its
// name.
func (a *Account) AddCertificate(cert *x509.Certificate, now time.Time) error {
	if cert.Subject.CommonName != a.Name {
		return fmt.Errorf("account %s: the certificate is %q's", a.Name, cert.Subject.CommonName)
	}
	if len(a.Certificates) >= maxCertificates {
		return fmt.Errorf("account %s: it has %d certificates already; revoke one first", a.Name, len(a.Certificates))
	}
	c := Certificate{SHA256: CertificateID(cert), Created: stamp(now), Ends: stamp(cert.NotAfter)}
	a.Certificates = append(slices.Clone(a.Certificates), c)
	return nil
}

// RevokeCertificate withdraws the one certificate whose id begins with a prefix of at least 8 digits.
func (a *Account) RevokeCertificate(prefix string) error {
	var found []int
	for i, c := range a.Certificates {
		if len(prefix) >= 8 && strings.HasPrefix(c.SHA256, prefix) {
			found = append(found, i)
		}
	}
	if len(found) != 1 {
		return fmt.Errorf("account %s: %d certificates begin with %.80q, want one, named by 8 digits or more", a.Name, len(found), prefix)
	}
	a.Certificates = slices.Delete(slices.Clone(a.Certificates), found[0], found[0]+1)
	return nil
}

// HasCertificate reports whether the account lists a certificate.
func (a *Account) HasCertificate(cert *x509.Certificate) bool {
	id := CertificateID(cert)
	return slices.ContainsFunc(a.Certificates, func(c Certificate) bool { return c.SHA256 == id })
}

// CertificateID is the SHA-256 of a certificate (DER), hex.
func CertificateID(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return hex.EncodeToString(sum[:])
}

// stamp is a time as the store keeps it: what reading and writing does not change.
func stamp(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }

var (
	hexSum   = regexp.MustCompile(`^[0-9a-f]{64}$`)
	tokenID  = regexp.MustCompile(`^[a-z2-7]{8}$`)
	errOrder = errors.New("not sorted by name")
)

// checkAccounts is what access.json must be beside JSON of the right shape. Anything that two readers could take for two
// accounts, and anything that no command writes, is an error.
func checkAccounts(accounts []Account) error {
	if len(accounts) > maxAccounts {
		return fmt.Errorf("%d accounts, at most %d are read", len(accounts), maxAccounts)
	}
	names := make(map[string]bool, len(accounts))
	sums := make(map[string]bool)
	for i := range accounts {
		a := &accounts[i]
		if err := a.check(); err != nil {
			return fmt.Errorf("account %.80q: %w", a.Name, err)
		}
		if i > 0 && accounts[i-1].Name >= a.Name {
			return fmt.Errorf("account %q: %w", a.Name, errOrder)
		}
		if folded := strings.ToLower(a.Name); names[folded] {
			return fmt.Errorf("account %q: another one's name differs in case only", a.Name)
		}
		names[strings.ToLower(a.Name)] = true
		for _, s := range a.sums() {
			if sums[s] {
				return fmt.Errorf("account %q: %s proves two accounts", a.Name, s)
			}
			sums[s] = true
		}
	}
	return nil
}

func (a *Account) check() error {
	if err := CheckName(a.Name); err != nil {
		return err
	}
	if a.Role.rank() == 0 {
		return fmt.Errorf("role %.80q: want robot, operator or admin", a.Role)
	}
	if a.Group != "" {
		if err := CheckName(a.Group); err != nil {
			return fmt.Errorf("group: %w", err)
		}
	}
	if err := checkHash(a.Password); err != nil {
		return err
	}
	if len(a.Tokens) > maxTokens || len(a.Certificates) > maxCertificates {
		return fmt.Errorf("%d tokens and %d certificates, at most %d of each", len(a.Tokens), len(a.Certificates), maxTokens)
	}
	times := []time.Time{a.Created}
	for _, t := range a.Tokens {
		if !tokenID.MatchString(t.ID) {
			return fmt.Errorf("token %.80q: not an id", t.ID)
		}
		times = append(times, t.Created)
	}
	for _, c := range a.Certificates {
		times = append(times, c.Created, c.Ends)
	}
	for _, s := range a.sums() {
		if !hexSum.MatchString(s) {
			return fmt.Errorf("sha256 %.80q: want 64 hex digits", s)
		}
	}
	for _, t := range times {
		if !t.Equal(stamp(t)) || t.Location() != time.UTC {
			return fmt.Errorf("time %s: want UTC and whole seconds", t.Format(time.RFC3339Nano))
		}
	}
	return nil
}

// sums are the digests of the account's tokens and certificates.
func (a *Account) sums() []string {
	var all []string
	for _, t := range a.Tokens {
		all = append(all, t.SHA256)
	}
	for _, c := range a.Certificates {
		all = append(all, c.SHA256)
	}
	return all
}
