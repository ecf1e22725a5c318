package trust

import (
	"fmt"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// FormatError says that a metadata file is not one, or breaks a rule of its format.
type FormatError struct {
	File string
	Err  error
}

func (e *FormatError) Error() string { return fmt.Sprintf("trust metadata %s: %v", e.File, e.Err) }

// Unwrap gives the cause.
func (e *FormatError) Unwrap() error { return e.Err }

func formatErrorf(file, format string, args ...any) error {
	return &FormatError{File: file, Err: fmt.Errorf(format, args...)}
}

// KeysError says why the keys of a role cannot be used.
type KeysError struct {
	Role   string
	KeyID  string // attest.KeyID, when it is about one key
	Reason string
}

func (e *KeysError) Error() string {
	if e.KeyID != "" {
		return fmt.Sprintf("role %s: key %s: %s", e.Role, e.KeyID, e.Reason)
	}
	return fmt.Sprintf("role %s: %s", e.Role, e.Reason)
}

// KeyReuseError says that one key has two roles that must be apart.
type KeyReuseError struct {
	KeyID string // attest.KeyID
	Roles [2]string
}

func (e *KeyReuseError) Error() string {
	return fmt.Sprintf("key %s has the roles %s and %s, which must be apart", e.KeyID, e.Roles[0], e.Roles[1])
}

// ExpiredError says that metadata has expired: it may be genuine, and says nothing about what is newest today.
type ExpiredError struct {
	Role    string
	Expires time.Time // UTC
	Now     time.Time // UTC, as the caller gave it
}

func (e *ExpiredError) Error() string {
	return fmt.Sprintf("trust metadata of role %s expired %s, now is %s", e.Role, e.Expires.Format(time.RFC3339), e.Now.Format(time.RFC3339))
}

// RollbackError says that metadata is older than what was accepted before. The role is the one whose version went back;
// the file that says so may be the snapshot or the timestamp.
type RollbackError struct {
	File    string // that would have gone back
	Role    string
	Have    int64
	Offered int64 // 0 when it vanished
}

func (e *RollbackError) Error() string {
	if e.Offered == 0 {
		return fmt.Sprintf("trust metadata %s: %s was at version %d and is gone", e.File, e.Role, e.Have)
	}
	return fmt.Sprintf("trust metadata %s: version %d of %s, but %d was accepted before", e.File, e.Offered, e.Role, e.Have)
}

// SignatureError says that metadata is not signed by enough keys of its role.
type SignatureError struct {
	File string
	By   string // whose keys should have signed: "root 2", "targets 5"
	Have int    // distinct keys that signed
	Want int    // the threshold
}

func (e *SignatureError) Error() string {
	return fmt.Sprintf("trust metadata %s: signed by %d of the keys of %s, want %d", e.File, e.Have, e.By, e.Want)
}

// MismatchError says that a file is not the one that belongs to the others: metadata of different times was mixed.
type MismatchError struct {
	File   string
	Reason string
}

func (e *MismatchError) Error() string { return fmt.Sprintf("trust metadata %s: %s", e.File, e.Reason) }

// MissingError says that a metadata file did not come along.
type MissingError struct {
	File string
}

func (e *MissingError) Error() string { return fmt.Sprintf("trust metadata %s is missing", e.File) }

// UnknownChannelError says that the root of trust lets nobody release on a channel.
type UnknownChannelError struct {
	Channel string
	Known   []string
}

func (e *UnknownChannelError) Error() string {
	known := "it knows none"
	if len(e.Known) > 0 {
		known = "it knows " + strings.Join(e.Known, ", ")
	}
	return fmt.Sprintf("channel %s: not in the root of trust, %s", e.Channel, known)
}

// NotListedError says that a channel's role lists another bundle than the one that is offered.
type NotListedError struct {
	Channel string
	Bundle  digest.Digest
	Listed  digest.Digest // "" when it lists none
}

func (e *NotListedError) Error() string {
	if e.Listed == "" {
		return fmt.Sprintf("channel %s: lists no release, not even %s", e.Channel, e.Bundle)
	}
	return fmt.Sprintf("channel %s: lists %s, not %s", e.Channel, e.Listed, e.Bundle)
}
