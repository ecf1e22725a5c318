package access

import (
	"context"
	"slices"

	"github.com/plimsoll/plimsoll/relay/journal"
)

// The kinds of the journal's records about accounts. Each has another with -done or -refused after it, when the file was
// written or was not.
const (
	kindAdd    = "account-add"
	kindChange = "account-change"
	kindRemove = "account-remove"
)

// Journal is where a store records what it is about to change. An error of Append keeps it from being changed.
type Journal interface {
	Append(ctx context.Context, kind string, detail any) error
}

// SetJournal says where changes are recorded, before there is one. Without it they are not.
func (s *Store) SetJournal(j Journal) { s.journal = j }

// recordedAccount is what the journal says of a change. It has ids, and digests of certificates, which everybody may
// know, but nothing of a password or token: a digest of those would help to guess them.
type recordedAccount struct {
	Name     string   `json:"name"`
	Role     Role     `json:"role"`
	Group    string   `json:"group,omitempty"`
	Disabled bool     `json:"disabled"`
	Password bool     `json:"password"`          // it has one
	Changed  []string `json:"changed,omitempty"` // which of these fields, tokens and certificates are not what they were

	TokensAdded         []string `json:"tokensAdded,omitempty"`   // ids
	TokensRemoved       []string `json:"tokensRemoved,omitempty"` // ids
	CertificatesAdded   []string `json:"certificatesAdded,omitempty"`
	CertificatesRemoved []string `json:"certificatesRemoved,omitempty"`
}

// recorded runs write between two records of what it does to the account with a name.
func (s *Store) recorded(ctx context.Context, name string, before, after []Account, write func() error) error {
	kind, detail := compare(name, before, after)
	if s.journal == nil || kind == "" {
		return write()
	}
	return journal.Change(ctx, s.journal, kind, name, detail, write)
}

// compare says what a change does to one account; the kind is empty when it does nothing.
func compare(name string, before, after []Account) (kind string, detail recordedAccount) {
	var was, is, shown Account
	b, there := find(before, name)
	if there {
		was = before[b]
	}
	a, stays := find(after, name)
	if stays {
		is = after[a]
	}
	switch {
	case !there && !stays:
		return "", detail
	case !there:
		kind, shown = kindAdd, is
	case !stays:
		kind, shown = kindRemove, was
	default:
		kind, shown = kindChange, is
	}
	detail = recordedAccount{
		Name: shown.Name, Role: shown.Role, Group: shown.Group, Disabled: shown.Disabled, Password: shown.Password != "",
		TokensAdded: lacks(tokenIDs(was), tokenIDs(is)), TokensRemoved: lacks(tokenIDs(is), tokenIDs(was)),
		CertificatesAdded: lacks(certificateIDs(was), certificateIDs(is)), CertificatesRemoved: lacks(certificateIDs(is), certificateIDs(was)),
	}
	if kind != kindChange {
		return kind, detail
	}
	for _, field := range []struct {
		name  string
		other bool
	}{
		{"role", was.Role != is.Role},
		{"group", was.Group != is.Group},
		{"disabled", was.Disabled != is.Disabled},
		{"password", was.Password != is.Password},
		{"tokens", !slices.Equal(was.Tokens, is.Tokens)},
		{"certificates", !slices.Equal(was.Certificates, is.Certificates)},
	} {
		if field.other {
			detail.Changed = append(detail.Changed, field.name)
		}
	}
	if len(detail.Changed) == 0 {
		kind = ""
	}
	return kind, detail
}

// lacks gives what of all is not in have.
func lacks(have, all []string) (rest []string) {
	for _, s := range all {
		if !slices.Contains(have, s) {
			rest = append(rest, s)
		}
	}
	return rest
}

func tokenIDs(a Account) (ids []string) {
	for _, t := range a.Tokens {
		ids = append(ids, t.ID)
	}
	return ids
}

func certificateIDs(a Account) (ids []string) {
	for _, c := range a.Certificates {
		ids = append(ids, c.SHA256)
	}
	return ids
}
