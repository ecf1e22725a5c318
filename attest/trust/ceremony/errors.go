package ceremony

import (
	"fmt"
	"strings"
)

// ConflictError says that a version of a file contradicts another one.
type ConflictError struct {
	Folder  string // where it is, when it came from another folder
	File    string
	Version int64
	Reason  string
}

func (e *ConflictError) Error() string {
	where := ""
	if e.Folder != "" {
		where = e.Folder + ": "
	}
	return fmt.Sprintf("%s%s version %d: %s", where, e.File, e.Version, e.Reason)
}

// PendingError says that a version cannot be changed any more, because somebody has signed it.
type PendingError struct {
	File       string
	Version    int64
	Signatures int
}

func (e *PendingError) Error() string {
	return fmt.Sprintf("%s version %d waits for signatures and has %d: changing it would void them", e.File, e.Version, e.Signatures)
}

// ChangeError says why a change of a role makes no sense.
type ChangeError struct {
	Role   string
	Reason string
}

func (e *ChangeError) Error() string { return fmt.Sprintf("role %s: %s", e.Role, e.Reason) }

// NothingToSignError says that no signature of a key is missing.
type NothingToSignError struct {
	KeyID string // attest.KeyID
}

func (e *NothingToSignError) Error() string {
	return fmt.Sprintf("key %s: no signature of it is missing", e.KeyID)
}

// UnshowableError says that a file has parts which a person who is to sign it would not see.
type UnshowableError struct {
	File   string
	Fields []string
}

func (e *UnshowableError) Error() string {
	return fmt.Sprintf("%s is not signed: it says something that cannot be shown: %s", e.File, strings.Join(e.Fields, ", "))
}

// BadSignatureError says that a signature is not what it claims to be.
type BadSignatureError struct {
	Folder string
	File   string
	KeyID  string // attest.KeyID
}

func (e *BadSignatureError) Error() string {
	return fmt.Sprintf("%s: %s: the signature by key %s is not valid", e.Folder, e.File, e.KeyID)
}
