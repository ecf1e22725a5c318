package access

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"strings"
	"sync/atomic"
)

// state is what a guard knows from one reading of the store. Only the memory of right and wrong passwords changes.
type state struct {
	accounts     map[string]*account // those that are not disabled, by name
	disabled     map[string]bool
	tokens       map[[sha256.Size]byte]*account
	certificates map[[sha256.Size]byte]*account
	wrong        wrongOnes
}

// account is an account ready for use.
type account struct {
	name, group string
	role        Role
	hash        string              // as stored
	bcrypt      []byte              // of a chosen password, or nil
	sum         *[sha256.Size]byte  // of a generated password, or nil
	proved      atomic.Pointer[mac] // the right password, once it was seen
}

func (a *account) identity(by Means) Identity {
	return Identity{Name: a.name, Group: a.group, Role: a.role, By: by}
}

// newState makes the accounts ready. A password that was right stays known where its hash is the same in old, which may
// be nil: adding one robot must not make five hundred others wait for their hashes.
func newState(accounts []Account, old *state) (*state, error) {
	st := &state{
		accounts:     make(map[string]*account, len(accounts)),
		disabled:     make(map[string]bool),
		tokens:       make(map[[sha256.Size]byte]*account),
		certificates: make(map[[sha256.Size]byte]*account),
	}
	for i := range accounts {
		stored := &accounts[i]
		if stored.Disabled {
			st.disabled[stored.Name] = true
			continue
		}
		a := &account{name: stored.Name, group: stored.Group, role: stored.Role, hash: stored.Password}
		if s, ok := strings.CutPrefix(stored.Password, sumPrefix); ok {
			raw, err := unhex(s)
			if err != nil {
				return nil, fmt.Errorf("account %s: %w", a.name, err)
			}
			a.sum = &raw
		} else if stored.Password != "" {
			a.bcrypt = []byte(stored.Password)
		}
		if old != nil {
			if before := old.accounts[a.name]; before != nil && before.hash == a.hash {
				a.proved.Store(before.proved.Load())
			}
		}
		for _, t := range stored.Tokens {
			raw, err := unhex(t.SHA256)
			if err != nil {
				return nil, fmt.Errorf("account %s: %w", a.name, err)
			}
			st.tokens[raw] = a
		}
		for _, c := range stored.Certificates {
			raw, err := unhex(c.SHA256)
			if err != nil {
				return nil, fmt.Errorf("account %s: %w", a.name, err)
			}
			st.certificates[raw] = a
		}
		st.accounts[a.name] = a
	}
	return st, nil
}

func unhex(s string) (raw [sha256.Size]byte, err error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(raw) {
		return raw, fmt.Errorf("sha256 %.80q: want 64 hex digits", s)
	}
	return [sha256.Size]byte(b), nil
}

// token gives the account that a token belongs to, or nil. What an attacker could learn from the time of the look-up is
// about the token's SHA-256, which leads nowhere.
func (st *state) token(token string) *account { return st.tokens[sha256.Sum256([]byte(token))] }

// secret reports whether a password is one of the account's random ones: the generated password, or a token.
func (st *state) secret(a *account, password string) bool {
	sum := sha256.Sum256([]byte(password))
	if a == nil {
		return false
	}
	return a.sum != nil && subtle.ConstantTimeCompare(a.sum[:], sum[:]) == 1 || st.tokens[sum] == a
}

// certificate gives the account that chains of certificates, which TLS verified, belong to, or nil.
func (st *state) certificate(chains [][]*x509.Certificate, customer func(*x509.Certificate) bool) *account {
	for _, chain := range chains {
		if len(chain) == 0 {
			continue
		}
		leaf, name := chain[0], chain[0].Subject.CommonName
		if a := st.certificates[sha256.Sum256(leaf.Raw)]; a != nil && a.name == name {
			return a
		}
		if customer != nil && len(chain) > 1 && customer(chain[len(chain)-1]) {
			if a := st.accounts[name]; a != nil {
				return a
			}
		}
	}
	return nil
}
