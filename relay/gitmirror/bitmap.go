package gitmirror

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// midxName is git's one index of all packs. Beside it stand files of its own for bitmaps, which tell what a ref leads to,
// so that a clone of a large history need not walk through it.
const midxName = "multi-pack-index"

var midxFile = regexp.MustCompile(`^multi-pack-index(-[0-9a-f]{40}\.(bitmap|rev))?$`)

// Bitmap lets git write the bitmaps of g's refs, if the store has packs that they do not know. It may take long for a long
// history. Everything is served without them, only slower: a caller need not fail when this does.
func (m *Mirror) Bitmap(ctx context.Context, g *Generation) error {
	unlock, err := m.lockImport()
	if err != nil {
		return fmt.Errorf("git bitmaps: %w", err)
	}
	defer unlock()
	if known, err := m.bitmapKnows(); err != nil || known || len(g.repos) == 0 {
		return err
	}
	var tips strings.Builder
	for _, repo := range g.repos {
		for _, ref := range repo.Git.Refs {
			tips.WriteString(ref.OID + "\n")
		}
	}
	dir, err := os.MkdirTemp(m.path(quarantineName), "tips-")
	if err != nil {
		return fmt.Errorf("git bitmaps: %w", err)
	}
	defer os.RemoveAll(dir)
	snapshot := filepath.Join(dir, "refs")
	if err := os.WriteFile(snapshot, []byte(tips.String()), 0o644); err != nil {
		return fmt.Errorf("git bitmaps: %w", err)
	}
	return m.git.Run(ctx, m.path(storeName), "multi-pack-index", "write", "--bitmap", "--refs-snapshot="+snapshot)
}

// dropBitmap removes the index of all packs before packs come: they may replace one that was lost, for which git would go
// on looking. Bitmaps without the index are nothing to git; it removes them when it writes the next.
func (m *Mirror) dropBitmap() error {
	err := os.Remove(filepath.Join(m.packDir(), midxName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// bitmapKnows reports whether the index is younger than every pack.
func (m *Mirror) bitmapKnows() (bool, error) {
	names, err := m.packFiles()
	if err != nil {
		return false, err
	}
	var packs, index time.Time
	for _, name := range names {
		_, isPack := packHash(name, ".pack")
		if !isPack && name != midxName {
			continue
		}
		info, err := os.Stat(filepath.Join(m.packDir(), name))
		if err != nil {
			return false, err
		}
		if !isPack {
			index = info.ModTime()
		} else if info.ModTime().After(packs) {
			packs = info.ModTime()
		}
	}
	return index.After(packs) || packs.IsZero(), nil
}
