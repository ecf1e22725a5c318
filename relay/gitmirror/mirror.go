// Package gitmirror serves the Git repositories of releases, read-only, over Git's smart HTTP protocol.
//
// Objects live in one append-only object store, which they enter only after they were checked (Admit). What clients see
// is a generation (Prepare): per repository a tiny, write-once folder with HEAD and packed-refs that borrows its objects
// from the store. Which generation is served is the caller's choice, made anew for each request (ServeGeneration), so
// switching one costs nothing and needs no write here.
//
// The folder:
//
//	store.git/                         objects only, and bitmaps of the newest refs; no refs; only Collect and Repair take
//	                                   objects out
//	gen-<n>/<host>/<path>.git/         HEAD, config, packed-refs, objects/info/alternates
//	gen-<n>/.packs                     the packs of store.git that its refs were checked against
//	quarantine/<random>/               unfinished Admits, Prepares and Repairs, and what Prune is removing; never served
//	spool/                             large request bodies; unlinked as soon as they are created
//	home/                              the empty HOME of every git process
//	damaged/                           copies of packs that the disk has damaged, for who wants to know; nothing reads them
//	collecting                         packs that a Collect has begun to remove; until they are gone, store.git is not closed
//	import.lock                        held shared by importers, exclusively by who sweeps, collects or repairs; its time
//	                                   changes when packs were removed
package gitmirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/plimsoll/plimsoll/internal/durable"
	"github.com/plimsoll/plimsoll/relay/smarthttp"
)

// Options of a mirror; the zero value works.
type Options struct {
	Git  string            // the git executable; empty: "git" from PATH
	HTTP smarthttp.Options // how requests are served; Tool and Spool are set by Open
}

// Mirror is the folder of repositories. Its methods are safe for concurrent use, also by several processes.
type Mirror struct {
	dir  string
	git  *smarthttp.Tool
	http *smarthttp.Server

	mu    sync.Mutex     // guards what follows
	inUse map[uint64]int // requests that read a generation, so that Prune leaves it
	known known

	at func(point string) // called at the moments that crash tests stop at
}

// Layer is one Git bundle file.
type Layer struct {
	Name string                        // for error texts: a digest or a file name
	Open func() (io.ReadCloser, error) //
}

const (
	storeName      = "store.git"
	quarantineName = "quarantine"
	spoolName      = "spool"
	homeName       = "home"
	lockName       = "import.lock"
	collectingName = "collecting"
	generationName = "gen-"
)

// Open makes dir a mirror if it is none, and sweeps what a crash left unless another process is importing. It runs no
// git; CheckGit does.
func Open(dir string, o Options) (*Mirror, error) {
	abs, err := filepath.Abs(dir) // git processes run in other folders
	if err != nil {
		return nil, fmt.Errorf("open git mirror: %w", err)
	}
	m := &Mirror{dir: abs, inUse: make(map[uint64]int), at: func(string) {}}
	if m.git, err = smarthttp.NewTool(o.Git, m.path(homeName)); err != nil {
		return nil, fmt.Errorf("open git mirror: %w", err)
	}
	o.HTTP.Tool, o.HTTP.Spool = m.git, m.path(spoolName)
	m.http = smarthttp.New(o.HTTP)
	for _, sub := range []string{quarantineName, spoolName, homeName} {
		if err := durable.MkdirAll(m.path(sub), 0o755); err != nil {
			return nil, fmt.Errorf("open git mirror: %w", err)
		}
	}
	if err := m.sweep(); err != nil {
		return nil, fmt.Errorf("open git mirror: %w", err)
	}
	if err := m.initStore(); err != nil {
		return nil, fmt.Errorf("open git mirror: %w", err)
	}
	return m, nil
}

// CheckGit reports whether git is there and new enough. Whatever runs git asks first; a server asks when it starts.
func (m *Mirror) CheckGit(ctx context.Context) error { return m.git.Ready(ctx) }

func (m *Mirror) path(elem ...string) string {
	return filepath.Join(append([]string{m.dir}, elem...)...)
}

func (m *Mirror) packDir() string { return m.path(storeName, "objects", "pack") }

// initStore makes the store if there is none: beside its place and then renamed, so that a crash leaves no half-made one.
// Generations go first: they say of objects that they are there.
func (m *Mirror) initStore() error {
	there := func() (bool, error) {
		_, err := os.Stat(m.path(storeName))
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		return true, err
	}
	if yes, err := there(); yes || err != nil {
		return err
	}
	f, err := m.openLock()
	if err != nil {
		return err
	}
	defer f.Close()
	// Another process may be at the same; its generations must not go.
	if err := flock(f, unix.LOCK_EX); err != nil {
		return err
	}
	if yes, err := there(); yes || err != nil {
		return err
	}
	for _, n := range m.generations() {
		if err := m.discard(n); err != nil {
			return err
		}
	}
	tmp, err := os.MkdirTemp(m.path(quarantineName), "store-")
	if err != nil {
		return err
	}
	if err := errors.Join(writeRepository(tmp, storeFiles(), storeFolders()), syncTree(tmp)); err != nil {
		return errors.Join(err, os.RemoveAll(tmp))
	}
	if err := os.Rename(tmp, m.path(storeName)); err != nil {
		return err
	}
	return durable.SyncDir(m.dir)
}

// lockImport keeps every sweeper out until the returned function is called. If nobody else is importing it sweeps first,
// so that what a killed import left does not pile up in a process that runs for years.
func (m *Mirror) lockImport() (unlock func(), err error) {
	for {
		if err := m.sweep(); err != nil {
			return nil, err
		}
		f, err := m.openLock()
		if err != nil {
			return nil, err
		}
		// Blocks while somebody sweeps, which is short, or collects.
		if err := flock(f, unix.LOCK_SH); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		if _, err := os.Lstat(m.path(collectingName)); errors.Is(err, fs.ErrNotExist) {
			return func() { _ = f.Close() }, nil
		}
		// Whoever collected died while this process waited: what it left must be swept before anything rests on it.
		if err := f.Close(); err != nil {
			return nil, err
		}
	}
}

func (m *Mirror) openLock() (*os.File, error) {
	return durable.OpenLock(m.path(lockName), 0o644)
}

func flock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// sweep removes what a crash left, unless somebody is importing.
func (m *Mirror) sweep() error {
	f, err := m.openLock()
	if err != nil {
		return err
	}
	defer f.Close()
	if err := flock(f, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil
		}
		return err
	}
	return m.clean()
}

// clean removes what a crash left. The caller holds the lock exclusively.
func (m *Mirror) clean() error {
	left, err := os.ReadDir(m.path(quarantineName))
	if err != nil {
		return err
	}
	for _, e := range left {
		// A git process that outlived a killed relay may still be writing here; what it leaves goes next time.
		_ = os.RemoveAll(m.path(quarantineName, e.Name()))
	}
	if err := m.finishCollection(); err != nil {
		return err
	}
	m.doubt()
	return m.sweepPacks()
}

// packHash gives the hash in the name of a pack's file with the given extension. It is asked of every file at each start.
func packHash(name, ext string) (hash string, ok bool) {
	hash, ok = strings.CutPrefix(name, "pack-")
	if !ok {
		return "", false
	}
	hash, ok = strings.CutSuffix(hash, ext)
	if !ok || len(hash) != 40 || strings.Trim(hash, "0123456789abcdef") != "" {
		return "", false
	}
	return hash, true
}

// sweepPacks removes packs that were never completed by their index, which git does not see, and what else a killed git
// left.
func (m *Mirror) sweepPacks() error {
	names, err := m.packFiles()
	if err != nil {
		return err
	}
	removed := false
	packs := completePacks(names)
	whole := make(map[string]bool, len(names)) // both files of each pack
	for _, hash := range packs {
		whole["pack-"+hash+".idx"], whole["pack-"+hash+".pack"] = true, true
	}
	for _, name := range names {
		if whole[name] || midxFile.MatchString(name) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(m.packDir(), name)); errors.Is(err, unix.EROFS) {
			continue // it goes when the disk can be written again; git does not see it
		} else if err != nil {
			return err
		}
		removed = true
	}
	m.mu.Lock()
	m.known.packs = packs
	m.mu.Unlock()
	if !removed {
		return nil
	}
	return durable.SyncDir(m.packDir())
}

// Prune removes every generation but those named and those that a request of this process is reading.
func (m *Mirror) Prune(ctx context.Context, keep ...uint64) error {
	unlock, err := m.lockImport()
	if err != nil {
		return fmt.Errorf("prune git generations: %w", err)
	}
	defer unlock()
	kept := make(map[uint64]bool, len(keep))
	for _, n := range keep {
		kept[n] = true
	}
	for _, n := range m.generations() {
		if kept[n] || m.busy(n) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := m.discard(n); err != nil {
			return fmt.Errorf("prune git generation %d: %w", n, err)
		}
	}
	return durable.SyncDir(m.dir)
}

// discard takes a generation out of its place in one step before it deletes it: a half-deleted one is never in place.
func (m *Mirror) discard(n uint64) error {
	tmp, err := os.MkdirTemp(m.path(quarantineName), "old-")
	if err != nil {
		return err
	}
	if err := os.Rename(m.generationDir(n), filepath.Join(tmp, "gen")); err != nil {
		return errors.Join(err, os.RemoveAll(tmp))
	}
	return os.RemoveAll(tmp)
}

func (m *Mirror) generationDir(n uint64) string {
	return m.path(generationName + strconv.FormatUint(n, 10))
}

func parseGeneration(name string) (uint64, bool) {
	digits, ok := strings.CutPrefix(name, generationName)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	return n, err == nil && strconv.FormatUint(n, 10) == digits
}

func (m *Mirror) use(n uint64) (release func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.inUse[n]++
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.inUse[n]--; m.inUse[n] == 0 {
			delete(m.inUse, n)
		}
	}
}

func (m *Mirror) busy(n uint64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.inUse[n] > 0
}
