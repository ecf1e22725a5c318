package relay

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// HeldError says that a release cannot be let go of.
type HeldError struct {
	Release  Release
	Channel  string // of which it is the active one
	Pinned   bool
	Promised bool // by a receipt
}

func (e *HeldError) Error() string {
	by := "the active one of channel " + e.Channel
	switch {
	case e.Pinned:
		by = "pinned"
	case e.Promised:
		by = "promised by a receipt"
	}
	return fmt.Sprintf("release %s stays: it is %s", e.Release, by)
}

// DropOptions say how far Drop may go.
type DropOptions struct {
	BreakPromise bool // also what the last receipt said to be here: transfers that are built on it will lack their base
}

// Drop lets go of a release that is staged, or that a channel keeps from before: the one of that channel or bundle with
// the version or digest. Its bytes go with the next collection.
func (r *Relay) Drop(ctx context.Context, name, wanted string, o DropOptions) (Release, error) {
	var dropped Release
	err := r.change(ctx, func() (err error) {
		defer r.layBallast()
		dropped, err = r.drop(ctx, name, wanted, o)
		if isFull(err) && r.squeeze(dropped) {
			dropped, err = r.drop(ctx, name, wanted, o)
		}
		return err
	})
	return dropped, err
}

func (r *Relay) drop(ctx context.Context, name, wanted string, o DropOptions) (Release, error) {
	a, version, err := readActive(ctx, r.docs)
	if err != nil {
		return Release{}, err
	}
	rel, err := r.findKept(ctx, a, name, wanted)
	if err != nil {
		return Release{}, err
	}
	d, kept := rel.Bundle.Digest, false
	for _, c := range a.Channels {
		if c.Release.same(rel) {
			return rel, &HeldError{Release: rel, Channel: c.Name}
		}
		kept = kept || slices.ContainsFunc(c.Previous, rel.same)
	}
	if a.Pinned(d) {
		return rel, &HeldError{Release: rel, Pinned: true}
	}
	promised, err := r.promised(ctx)
	if err != nil {
		return rel, err
	}
	if slices.Contains(promised, d) && !o.BreakPromise {
		return rel, &HeldError{Release: rel, Promised: true}
	}
	if kept {
		err = r.commit(ctx, "drop", a, a.without(d), version)
	} else {
		err = r.record(ctx, "drop", rel)
	}
	if err != nil {
		return rel, err
	}
	if slices.Contains(promised, d) {
		if err := r.unpromise(ctx, d); err != nil {
			return rel, err
		}
	}
	// Last: a release whose record is there and that no channel keeps is staged, and can be dropped again.
	return rel, r.docs.Remove(ctx, recordName(d))
}

// findKept finds a release of which the record was lost, too.
func (r *Relay) findKept(ctx context.Context, a Active, name, wanted string) (Release, error) {
	rel, err := r.find(ctx, name, wanted)
	var absent *NoReleaseError
	if !errors.As(err, &absent) {
		return rel, err
	}
	for _, c := range a.Channels {
		for _, kept := range append([]Release{c.Release}, c.Previous...) {
			if (c.Name == name || kept.Name == name) && kept.is(wanted) {
				return kept, nil
			}
		}
	}
	return rel, err
}

// unpromise takes a release out of what the last receipt said to be here. The caller holds the lock.
func (r *Relay) unpromise(ctx context.Context, d digest.Digest) error {
	doc, err := r.docs.Read(ctx, promisedFile)
	if err != nil {
		return err
	}
	var p promises
	if err := strictjson.UnmarshalCanonical(doc.Data, &p); err != nil {
		return fmt.Errorf("%s: %w", promisedFile, err)
	}
	return r.promise(ctx, p.Receipt, slices.DeleteFunc(p.Bundles, func(b digest.Digest) bool { return b == d }))
}

// ballast is a file in derivedDir that is thrown out when the disk is full, so that the few documents by which an operator
// makes room can be written.
const (
	ballast      = "ballast"
	ballastBytes = 512 << 10
)

// layBallast makes the ballast when there is none and the disk has room for much more.
func (r *Relay) layBallast() {
	path := filepath.Join(r.dir, derivedDir, ballast)
	var fs unix.Statfs_t
	if _, err := os.Stat(path); err == nil || unix.Statfs(r.dir, &fs) != nil || int64(fs.Bavail)*fs.Bsize < 2*ballastBytes {
		return
	}
	if os.WriteFile(path, make([]byte, ballastBytes), 0o644) != nil {
		_ = os.Remove(path) // half of it helps nobody
	}
}

// squeeze makes a little room on a full disk: the ballast, and what was derived from the release that is to be let go of.
func (r *Relay) squeeze(gone Release) (made bool) {
	for _, name := range []string{ballast, gone.Bundle.Digest.Encoded() + ".part"} {
		made = os.Remove(filepath.Join(r.dir, derivedDir, name)) == nil || made
	}
	return made
}
