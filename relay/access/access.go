// Package access knows who asks the relay: robots, operators and administrators, by password, token or client
// certificate.
package access

import (
	"context"
	"fmt"
	"strings"
)

// Role is what an account may do.
type Role string

// The roles, each of which may do what those before it may.
const (
	RoleRobot    Role = "robot"    // reads images, charts and Git repositories
	RoleOperator Role = "operator" // pushes to the site's own Git repositories
	RoleAdmin    Role = "admin"    // uses the administration listener
)

// rank orders the roles; an unknown one may do nothing.
func (r Role) rank() int {
	switch r {
	case RoleRobot:
		return 1
	case RoleOperator:
		return 2
	case RoleAdmin:
		return 3
	}
	return 0
}

// May reports whether whoever has role r may do what needs a role.
func (r Role) May(need Role) bool { return r.rank() > 0 && need.rank() > 0 && r.rank() >= need.rank() }

// Means is how an identity was proved.
type Means string

// The means.
const (
	ByBasic       Means = "basic"       // RFC 7617
	ByBearer      Means = "bearer"      // RFC 6750
	ByCertificate Means = "certificate" // a verified TLS client certificate
	ByAnonymous   Means = "anonymous"   // nothing was proved, and nothing needs to be
)

// Identity is who asks, proved.
type Identity struct {
	Name  string // of the account; empty when anonymous
	Group string // of the account; may be empty
	Role  Role
	By    Means

	foreign bool // credentials came along that are nobody's here
}

type identityKey struct{}

// WithIdentity gives a context that carries who asks.
func WithIdentity(ctx context.Context, id Identity) context.Context {
	return context.WithValue(ctx, identityKey{}, id)
}

// From is the identity that WithIdentity put into ctx.
func From(ctx context.Context) (Identity, bool) {
	id, ok := ctx.Value(identityKey{}).(Identity)
	return id, ok
}

const maxName = 64 // bytes; what a certificate's CommonName holds (RFC 5280, ub-common-name)

// CheckName reports why a name cannot be an account's. Names are letters, digits and ".", "-", "_", "@", beginning and
// ending with a letter or digit: they go into headers, logs, certificates and file names as they are.
func CheckName(name string) error {
	switch {
	case name == "" || len(name) > maxName:
		return fmt.Errorf("name %.80q: want 1 to %d characters", name, maxName)
	case strings.EqualFold(name, string(ByAnonymous)):
		return fmt.Errorf("name %q is taken: requests without credentials are called so", name)
	case !alphanumeric(name[0]) || !alphanumeric(name[len(name)-1]):
		return fmt.Errorf("name %q: want a letter or digit at both ends", name)
	}
	for i := range len(name) {
		if c := name[i]; !alphanumeric(c) && !strings.ContainsRune(".-_@", rune(c)) {
			return fmt.Errorf(`name %q: want letters, digits, ".", "-", "_" and "@" only`, name)
		}
	}
	return nil
}

func alphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}
