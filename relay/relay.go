// Package relay is the appliance at a site: it accepts verified releases, activates them at one commit point, and
// serves the generation that follows from them.
package relay

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plimsoll/plimsoll/internal/durable"
	"github.com/plimsoll/plimsoll/internal/progress"
	"github.com/plimsoll/plimsoll/registry/store"
	"github.com/plimsoll/plimsoll/relay/gitmirror"
	"github.com/plimsoll/plimsoll/relay/smarthttp"
)

// Options are the relay's settings. The zero value works.
type Options struct {
	Git      string        // the git executable; found in PATH if empty
	Progress progress.Func // receives the progress of imports and activations
	Workers  int           // blobs copied at once; 4 if zero

	Storage  string // where blobs are, as store.OpenURL takes it; empty: where they were at first, by default in the folder
	Redirect bool   // send robots to the storage for blobs, where it can take them

	GitHTTP smarthttp.Options // how Git requests are answered: queues and times
}

// Relay is a data folder and what is in it. Several processes may have one open: changes are made under a lock, and a
// process that serves follows the commit point.
type Relay struct {
	dir     string
	options Options
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
	st, remote, err := openStore(ctx, dir, o)
	if err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	mirror, err := gitmirror.Open(filepath.Join(dir, "git"), gitmirror.Options{Git: o.Git, HTTP: o.GitHTTP})
	if err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	return &Relay{dir: dir, options: o, store: st, remote: remote, mirror: mirror}, nil
}

// SiteDir is the folder of the site's own repositories in a data folder.
func SiteDir(dir string) string { return filepath.Join(dir, "site") }

// Dir is the data folder.
func (r *Relay) Dir() string { return r.dir }

// change runs fn while no other process changes the data folder; a second import queues here.
func (r *Relay) change(ctx context.Context, fn func() error) (err error) {
	f, err := os.OpenFile(filepath.Join(r.dir, "apply.lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	// Closing the file releases the lock, as the death of the process does.
	defer func() { err = errors.Join(err, f.Close()) }()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for waiting := false; ; {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return fn()
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("apply.lock: %w", err)
		}
		if !waiting {
			waiting = true
			r.options.Progress.Report(progress.Event{Stage: "wait", Note: "another import or activation is running; waiting for it"})
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}
