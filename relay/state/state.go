// Package state keeps what a relay has decided: a few small documents, each read and written whole, in a folder of its own
// (Dir) or in an S3 bucket that it shares with other relays (Bucket).
//
// Documents have versions, so that of two relays that change one at the same time the second is told: it must look again
// at what the first did. Lock keeps that from happening often; the versions keep it from doing harm.
package state

import (
	"context"
	"fmt"
)

// MaxDocument bounds a document, in bytes. The largest is a release record, with what travels beside the release.
const MaxDocument = 16 << 20

// Documents is where the documents are. Names are slash-separated paths of at most one folder: "active.json",
// "releases/<hex>.json". It is safe for concurrent use.
type Documents interface {
	// Read gives a document; without one the error is fs.ErrNotExist.
	Read(ctx context.Context, name string) (Document, error)

	// Write replaces the version that was read, None if there was none, and makes the new one durable. The error is a
	// *ChangedError when there is another version: nothing was written. After any other error either version may be there.
	Write(ctx context.Context, name string, data []byte, replaces Version) (Version, error)

	// Remove removes a document, if it is there, whatever its version.
	Remove(ctx context.Context, name string) error

	// List gives the names of the documents in a folder, with the folder, sorted.
	List(ctx context.Context, folder string) ([]string, error)

	// Lock waits until nobody else has the lock. It tells waiting, if not nil, once, when it has to. The lock goes with
	// the process. Held says whether it is still there: a relay that was cut off for long may have lost it to another.
	Lock(ctx context.Context, waiting func()) (Lock, error)
}

// Lock is the right to change what is kept.
type Lock interface {
	Held() error
	Unlock() error
}

// Document is the content of a document, and which version of it.
type Document struct {
	Data    []byte
	Version Version
}

// Version tells versions of one document apart. It means nothing by itself.
type Version string

// None is the version of a document that is not there; Any is whatever there is.
const (
	None Version = ""
	Any  Version = "*"
)

// ChangedError says that a document is not the one any more that was read.
type ChangedError struct{ Name string }

func (e *ChangedError) Error() string {
	return fmt.Sprintf("%s: another process has changed it meanwhile", e.Name)
}

// Checker is a place of documents that may turn out to be of no use for them.
type Checker interface {
	Check(ctx context.Context) error
}

// Holder is a place of documents whose lock can be lost. Held says whether the one that this process has, if any, is
// still its own: whoever is about to delete what another could need asks again.
type Holder interface {
	Held() error
}

// Watcher is a place of documents that are changed from elsewhere, of which nobody tells. Changed asks whether there is
// another version than the one that is known, None for none, without reading it.
type Watcher interface {
	Changed(ctx context.Context, name string, have Version) (bool, error)
}

// Held says whether what the process holds in a place is still its own; see Holder.
func Held(d Documents) error {
	if h, ok := d.(Holder); ok {
		return h.Held()
	}
	return nil
}
