// Package relay is the appliance at a site: it accepts verified releases, activates them at one commit point, and
// serves the generation that follows from them.
package relay

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/plimsoll/plimsoll/internal/durable"
	"github.com/plimsoll/plimsoll/internal/progress"
	"github.com/plimsoll/plimsoll/registry/store"
	"github.com/plimsoll/plimsoll/relay/gitmirror"
	"github.com/plimsoll/plimsoll/relay/smarthttp"
	"github.com/plimsoll/plimsoll/relay/state"
)

// Options are the relay's settings. The zero value works.
type Options struct {
	Git      string        // the git executable; found in PATH if empty
	Progress progress.Func // receives the progress of imports and activations
	Workers  int           // blobs copied at once; 4 if zero

	Storage  string // where blobs are, as store.OpenURL takes it; empty: where they were at first, by default in the folder
	Redirect bool   // send robots to the storage for blobs, where it can take them

	GitHTTP smarthttp.Options // how Git requests are answered: queues and times

	Journal Journal // what is done is recorded there; may be nil
}

// Journal is where a relay records what it accepts, refuses and does. An error of Append keeps what would be done from
// being done.
type Journal interface {
	Append(ctx context.Context, kind string, detail any) error
}

// Relay is a data folder and what is in it. Several processes may have one open: changes are made under a lock, and a
// process that serves follows the commit point.
type Relay struct {
	dir     string
	options Options
	docs    state.Documents
	store   *store.Store
	remote  bool // the store is not on the disk of the data folder
	mirror  *gitmirror.Mirror
}

// Open opens a data folder, and makes it if it is not there.
func Open(ctx context.Context, dir string, o Options) (*Relay, error) {
	if o.Workers == 0 {
		o.Workers = 4
	}
	for _, sub := range []string{"", releasesDir, trustDir, derivedDir} {
		if err := durable.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, fmt.Errorf("data folder: %w", err)
		}
	}
	st, docs, remote, err := openStore(ctx, dir, o)
	if err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	mirror, err := gitmirror.Open(filepath.Join(dir, "git"), gitmirror.Options{Git: o.Git, HTTP: o.GitHTTP})
	if err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	return &Relay{dir: dir, options: o, docs: docs, store: st, remote: remote, mirror: mirror}, nil
}

// SiteDir is the folder of the site's own repositories in a data folder.
func SiteDir(dir string) string { return filepath.Join(dir, "site") }

// Dir is the data folder.
func (r *Relay) Dir() string { return r.dir }

// change runs fn while nobody else changes what the relay has decided; a second import queues here.
func (r *Relay) change(ctx context.Context, fn func() error) error {
	lock, err := r.docs.Lock(ctx, func() {
		r.options.Progress.Report(progress.Event{Stage: "wait", Note: "another import or activation is running, here or at another relay; waiting for it"})
	})
	if err != nil {
		return err
	}
	return errors.Join(fn(), lock.Unlock())
}

// SetJournal says where what is done is recorded, before anything is.
func (r *Relay) SetJournal(j Journal) { r.options.Journal = j }

// record writes to the journal, if there is one.
func (r *Relay) record(ctx context.Context, kind string, detail any) error {
	if r.options.Journal == nil {
		return nil
	}
	if err := r.options.Journal.Append(ctx, kind, detail); err != nil {
		return &JournalError{Err: err}
	}
	return nil
}

// note writes to the journal what happened already, or was refused: that this cannot be recorded does not change it.
func (r *Relay) note(ctx context.Context, kind string, detail any) {
	if err := r.record(ctx, kind, detail); err != nil {
		r.options.Progress.Report(progress.Event{Stage: "journal", End: true, Note: err.Error()})
	}
}

// JournalError says that something was not done, because it could not be recorded.
type JournalError struct{ Err error }

func (e *JournalError) Error() string { return "journal: " + e.Err.Error() }
func (e *JournalError) Unwrap() error { return e.Err }
