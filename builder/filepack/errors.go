package filepack

import "fmt"

// RefusedError says why something in a folder is not packed.
type RefusedError struct {
	Dir    string // the folder, as it was given
	Path   string // in the folder, slash-separated
	Reason string
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("pack folder %s: %q: %s", e.Dir, e.Path, e.Reason)
}

// ChangedError says that a file changed while it was packed, so that nobody can say what was.
type ChangedError struct {
	Dir    string // the folder, as it was given
	Path   string // in the folder, slash-separated
	Reason string
}

func (e *ChangedError) Error() string {
	return fmt.Sprintf("pack folder %s: %q changed while it was read: %s", e.Dir, e.Path, e.Reason)
}
