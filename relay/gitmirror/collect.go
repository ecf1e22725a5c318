package gitmirror

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plimsoll/plimsoll/internal/durable"
)

// Packs are rebuilt only when that frees enough: it reads and writes everything that is kept.
const (
	minCollectBytes = 1 << 20
	minCollectShare = 4 // at least one of so many bytes
)

// Collection is what a Collect removed, or would remove.
type Collection struct {
	Packs int   // packs that go
	Bytes int64 // how much smaller the packs become

	// NoRoom says that nothing was removed: the disk has no room for the pack that would take the place of the others.
	NoRoom bool
}

// Collect takes those objects out of the store that no ref of these repositories leads to, if that frees enough. What is
// kept goes into one new pack, is found whole there, and only then the old packs go. Repositories whose objects were never
// admitted may be among those to keep. Generations that have anything else go too.
//
// Requests go on meanwhile; Admit and Prepare wait. Interrupted or killed at any moment, the store is what it was before
// or what it is after, for all who look at it through this package; another Collect makes it smaller.
func (m *Mirror) Collect(ctx context.Context, keep []Repository, dryRun bool) (Collection, error) {
	c := &collector{m: m, keep: keep}
	run := c.run
	if dryRun {
		run = c.look
	}
	if err := run(ctx); err != nil {
		return c.result, fmt.Errorf("collect git objects: %w", err)
	}
	return c.result, nil
}

type collector struct {
	m      *Mirror
	keep   []Repository
	old    []string // hashes of the packs that there are
	tips   []string // of what is kept, as far as the store has them
	need   int64    // bytes of the objects that they lead to
	result Collection
}

// look finds out what a collection would free.
func (c *collector) look(ctx context.Context) error {
	var err error
	if c.old, err = c.m.packs(); err != nil || len(c.old) == 0 {
		return err
	}
	var have int64
	for _, hash := range c.old {
		fi, err := os.Stat(filepath.Join(c.m.packDir(), "pack-"+hash+".pack"))
		if err != nil {
			return err
		}
		have += fi.Size()
	}
	if have < minCollectBytes {
		return nil
	}
	if err := c.findTips(ctx); err != nil {
		return err
	}
	if len(c.tips) > 0 {
		err := c.m.git.Lines(ctx, c.m.path(storeName), c.revs(), func(line string) error {
			c.need, err = strconv.ParseInt(line, 10, 64)
			return err
		}, "rev-list", "--objects", "--use-bitmap-index", "--disk-usage", "--stdin")
		if err != nil {
			return err
		}
	}
	if freed := have - c.need; freed >= minCollectBytes && freed >= have/minCollectShare {
		c.result.Packs, c.result.Bytes = len(c.old), freed
	}
	return nil
}

// findTips lists the objects of the refs to keep. A store is closed: one that is there has all that it leads to.
func (c *collector) findTips(ctx context.Context) error {
	asked := make(map[string]bool)
	var all []string
	for _, repo := range c.keep {
		if err := checkGit(repo.Path, repo.Git); err != nil {
			return err
		}
		for _, ref := range repo.Git.Refs {
			if !asked[ref.OID] {
				asked[ref.OID] = true
				all = append(all, ref.OID)
			}
		}
	}
	return c.m.lookUp(ctx, c.m.path(storeName), all, func(oid string, o object) error {
		if o.kind != "" {
			c.tips = append(c.tips, oid)
		}
		return nil
	})
}

func (c *collector) revs() *strings.Reader {
	return strings.NewReader(strings.Join(c.tips, "\n") + "\n")
}

func (c *collector) run(ctx context.Context) error {
	m := c.m
	unlock, err := m.lockCollect(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := m.clean(); err != nil {
		return err
	}
	if err := c.look(ctx); err != nil || c.result.Packs == 0 {
		return err
	}
	remove := c.old
	if len(c.tips) > 0 {
		fresh, err := c.rebuild(ctx)
		if err != nil {
			room, statErr := m.room()
			if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) && (statErr != nil || room >= c.need) || ctx.Err() != nil {
				return err
			}
			fresh = ""
		}
		if fresh == "" {
			c.result = Collection{NoRoom: true}
			return nil
		}
		remove = slices.DeleteFunc(slices.Clone(c.old), func(hash string) bool { return hash == fresh })
	}
	m.at("rebuilt")
	// From here on the store is not closed over what is in the old packs, until the last of them is gone: a crash must not
	// let an object be found whose history is not there.
	if err := durable.WriteFile(m.path(collectingName), []byte(packsText(remove)), 0o644); err != nil {
		return err
	}
	m.at("decided")
	staying, err := c.discardGenerations()
	if err != nil {
		return err
	}
	if err := m.finishCollection(); err != nil {
		return err
	}
	m.at("collected")
	return c.renewPacks(staying)
}

// lockCollect waits until nobody is importing.
func (m *Mirror) lockCollect(ctx context.Context) (unlock func(), err error) {
	f, err := m.openLock()
	if err != nil {
		return nil, err
	}
	if err := durable.Lock(ctx, f, nil); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { _ = f.Close() }, nil
}

// room is how many bytes the disk takes.
func (m *Mirror) room() (int64, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(m.dir, &fs); err != nil {
		return 0, err
	}
	return int64(fs.Bavail) * fs.Bsize, nil
}

// rebuild puts what the tips lead to into one pack of the store; no hash when there is no room for it.
func (c *collector) rebuild(ctx context.Context) (hash string, err error) {
	m := c.m
	room, err := m.room()
	if err != nil || room < c.need+c.need/4+minCollectBytes { // with an index, and deltas whose bases go
		return "", err
	}
	q, err := m.newQuarantine("collection")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(q.root)
	err = m.git.Lines(ctx, q.repo, c.revs(), func(line string) error {
		hash = line
		return nil
	}, "pack-objects", "--revs", "--quiet", "--delta-base-offset", filepath.Join(q.repo, "objects", "pack", "pack"))
	if err != nil {
		return "", err
	}
	if !sha1Pattern.MatchString(hash) {
		return "", errors.New("git pack-objects named no pack")
	}
	m.at("packed")
	// The proof that the new pack needs none of the old: git walks it where it sees nothing else.
	if err := os.Remove(filepath.Join(q.repo, "objects", "info", "alternates")); err != nil {
		return "", err
	}
	if err := m.git.Lines(ctx, q.repo, c.revs(), func(string) error { return nil }, "rev-list", "--objects", "--quiet", "--stdin"); err != nil {
		return "", err
	}
	if slices.Contains(c.old, hash) { // the very same bytes
		return hash, nil
	}
	q.packs = []string{hash}
	return hash, q.link()
}

// discardGenerations removes those that have a repository in a state that is not kept, and gives the others.
func (c *collector) discardGenerations() (staying []uint64, err error) {
	kept := make(map[string]bool)
	for _, repo := range c.keep {
		files, _ := repo.layout()
		dir := repo.Path + ".git"
		kept[dir+"\n"+files[dir+"/HEAD"]+files[dir+"/packed-refs"]] = true
	}
	for _, n := range c.m.generations() {
		stays, err := generationIn(c.m.generationDir(n), kept)
		switch {
		case err != nil:
			return nil, err
		case stays:
			staying = append(staying, n)
		case !c.m.busy(n):
			if err := c.m.discard(n); err != nil {
				return nil, fmt.Errorf("generation %d: %w", n, err)
			}
		}
	}
	return staying, nil
}

// generationIn reports whether all repositories of a generation are among the kept ones.
func generationIn(root string, kept map[string]bool) (bool, error) {
	stays := true
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !d.IsDir() || !strings.HasSuffix(path, ".git") {
			return nil
		}
		dir, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		head, headErr := os.ReadFile(filepath.Join(path, "HEAD"))
		refs, refsErr := os.ReadFile(filepath.Join(path, "packed-refs"))
		if headErr != nil || refsErr != nil || !kept[filepath.ToSlash(dir)+"\n"+string(head)+string(refs)] {
			stays = false
			return fs.SkipAll
		}
		return fs.SkipDir
	})
	return stays, err
}

// finishCollection removes the packs that a collection has decided to remove. It needs no room. A list that the disk has
// damaged says nothing about what the store lacks: then all packs go, and are made anew from the releases' layers.
func (m *Mirror) finishCollection() error {
	data, err := os.ReadFile(m.path(collectingName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	packs, err := m.packs()
	if err != nil {
		return err
	}
	if listed, ok := parsePacks(string(data)); ok {
		packs = listed
	}
	if err := m.forget(); err != nil {
		return err
	}
	if err := m.dropBitmap(); err != nil {
		return err
	}
	for _, hash := range packs {
		for _, ext := range []string{".idx", ".pack"} { // git sees a pack by its index
			if err := os.RemoveAll(filepath.Join(m.packDir(), "pack-"+hash+ext)); err != nil {
				return err
			}
			m.at("removed" + ext)
		}
	}
	if err := durable.SyncDir(m.packDir()); err != nil {
		return err
	}
	m.at("removed")
	// Once more: between the two somebody may have found refs whole whose packs were still there.
	if err := m.forget(); err != nil {
		return err
	}
	if _, err := m.packs(); err != nil {
		return err
	}
	if err := os.Remove(m.path(collectingName)); err != nil {
		return err
	}
	return durable.SyncDir(m.dir)
}

// renewPacks tells generations that stay which packs they rest on now. One that is not told is checked again when it is
// loaded.
func (c *collector) renewPacks(generations []uint64) error {
	packs, err := c.m.packs()
	if err != nil || len(generations) == 0 {
		return err
	}
	tmp, err := os.MkdirTemp(c.m.path(quarantineName), "packs-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	for _, n := range generations {
		file := filepath.Join(tmp, strconv.FormatUint(n, 10))
		if err := os.WriteFile(file, []byte(packsText(packs)), 0o644); err != nil {
			return err
		}
		if err := os.Rename(file, filepath.Join(c.m.generationDir(n), packsFile)); err != nil {
			return err
		}
		c.m.at("renewed")
	}
	return nil
}

// forget tells every process that has the mirror open to look again at what is in the store. The time of a file says so
// on a full disk too; it only ever rises, whatever the clock does.
func (m *Mirror) forget() error {
	fi, err := os.Stat(m.path(lockName))
	if err != nil {
		return err
	}
	now := time.Now()
	if !now.After(fi.ModTime()) {
		now = fi.ModTime().Add(time.Millisecond)
	}
	return os.Chtimes(m.path(lockName), now, now)
}

// doubt drops what this process knows when somebody has removed packs since. It gives as of when the rest is known.
func (m *Mirror) doubt() time.Time {
	fi, err := os.Stat(m.path(lockName))
	m.mu.Lock()
	defer m.mu.Unlock()
	if err == nil && !m.known.asOf.Equal(fi.ModTime()) {
		m.known = known{asOf: fi.ModTime()}
	}
	return m.known.asOf
}
