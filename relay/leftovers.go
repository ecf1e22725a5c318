package relay

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/plimsoll/plimsoll/internal/durable"
)

// leftoverLife is how old a temporary file must be to be a leftover. A write takes moments; but who changes accounts or
// hooks does not wait for a collection.
const leftoverLife = 24 * time.Hour

// ownFolders are those, below the data folder, in which documents are written. What is below them is git's or the store's.
var ownFolders = []string{
	".", derivedDir, releasesDir, trustDir, "identity", "journal", "journal/damaged-*", "tls", "git", "site/repos/*",
}

// findLeftovers lists what cut writes of documents have left, some of it secret. No symbolic link is followed: what it
// leads to is not the relay's. A folder that cannot be read keeps nothing else from going.
func (s *survey) findLeftovers() {
	old := time.Now().Add(-leftoverLife)
	for _, folder := range ownFolders {
		var below []string
		if folder != "." {
			below = strings.Split(folder, "/")
		}
		if err := s.findLeftoversIn("", below, old); err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.problem("what cut writes left: %v", err)
		}
	}
}

// findLeftoversIn goes down from a folder by patterns of names.
func (s *survey) findLeftoversIn(folder string, below []string, old time.Time) error {
	entries, err := os.ReadDir(s.relay.path(folder))
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := path.Join(folder, e.Name())
		switch {
		case len(below) > 0:
			if ok, _ := path.Match(below[0], e.Name()); ok && e.IsDir() {
				err = errors.Join(err, s.findLeftoversIn(name, below[1:], old))
			}
		case e.Type().IsRegular() && durable.IsTemporary(e.Name()):
			if info, err := e.Info(); err == nil && info.ModTime().Before(old) {
				s.leftovers = append(s.leftovers, name)
			}
		}
	}
	return err
}

// sweepLeftovers needs no sync: what a power cut brings back goes the next time.
func (s *survey) sweepLeftovers(res *GCResult) {
	for _, name := range s.leftovers {
		if err := os.Remove(s.relay.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			res.Problems = append(res.Problems, fmt.Sprintf("what a cut write left: %v", err))
			continue
		}
		res.Leftovers++
	}
}

// path is where a file of the data folder is.
func (r *Relay) path(name string) string { return filepath.Join(r.dir, filepath.FromSlash(name)) }
