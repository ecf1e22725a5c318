package gitmirror

import (
	"fmt"
	"strings"

	"github.com/plimsoll/plimsoll/relay/smarthttp"
)

// MissingBaseError says that a layer builds on commits that neither the store nor an earlier layer has.
type MissingBaseError struct {
	Repository string   // as given to Admit
	Layer      string   // its name
	OIDs       []string // of the missing commits, in the layer's order
}

func (e *MissingBaseError) Error() string {
	const show = 5
	list := strings.Join(e.OIDs[:min(show, len(e.OIDs))], ", ")
	if len(e.OIDs) > show {
		list += fmt.Sprintf(" and %d more", len(e.OIDs)-show)
	}
	return fmt.Sprintf("git %s: layer %s needs commits that are not here: %s", e.Repository, e.Layer, list)
}

// DamagedError says that a layer is not a sound Git bundle: its header, its pack or an object in it is broken or unsafe.
type DamagedError struct {
	Repository string
	Layer      string
	Reason     string
	Err        error // may be nil
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("git %s: layer %s is damaged: %s", e.Repository, e.Layer, e.Reason)
}

func (e *DamagedError) Unwrap() error { return e.Err }

// RefusedError says that sound content is not what the lock allows: another ref, another object, or objects that no ref
// of the lock leads to.
type RefusedError struct {
	Repository string
	Reason     string
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("git %s: refused: %s", e.Repository, e.Reason)
}

// IncompleteError says that a ref of the lock leads to an object that is not there.
type IncompleteError struct {
	Repository string
	Ref        string
	OID        string
}

func (e *IncompleteError) Error() string {
	return fmt.Sprintf("git %s: %s: object %s is missing", e.Repository, e.Ref, e.OID)
}

// GitError says that a git process could not do its work for a reason other than its input: killed, no memory, no disk.
type GitError = smarthttp.GitError
