//go:build linux

package faultfs

import (
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// page is what a disk writes at once of what it was not asked to sync.
const page = 4096

// PowerCut writes into dst, which it makes, the folder as a disk may have it on which the power failed after the first n
// changes. Which of the many possible ones is the seed's.
//
// The disk keeps what it promised and nothing else: the content of a file as of its last fsync, and the entries of a folder
// as of its last fsyncdir. Of what came later it has nothing, or all, or a part. Parts of a file are its first writes, or
// any pages of them, with zeros between. Of the changes of one folder's entries the first ones survive, in their order; of
// several folders each has its own. A rename, also one between two folders, is done or not. So a file that was renamed
// before it was synced may be empty, and one that was synced may be gone when its folder was not.
func (l *Log) PowerCut(dst string, n int, seed uint64) error {
	c := &cut{
		log: l.Entries[:n], random: rand.New(rand.NewPCG(seed, uint64(n))),
		inodes: make(map[int]*inode, len(l.start)),
	}
	for id, in := range l.start {
		copied := *in
		copied.entries = maps.Clone(in.entries)
		c.inodes[id] = &copied
	}
	c.names()
	c.contents()
	return c.write(dst, 0)
}

// cut is a disk in the making.
type cut struct {
	log    []*Entry
	random *rand.Rand
	inodes map[int]*inode
}

// survivors are what of something unsynced survives.
type survivors int

const (
	none survivors = iota
	all
	first // the first ones
	some  // of each folder, or any pages
)

// names does those changes of entries that survive.
func (c *cut) names() {
	upTo := make(map[int]int) // of each folder: how many of the changes of the log survive at least
	for i, e := range c.log {
		if e.Op == SyncDir {
			upTo[e.ID] = i
		}
	}
	switch survivors(c.random.IntN(4)) {
	case all:
		c.raise(upTo, func(int) int { return len(c.log) })
	case first:
		n := c.random.IntN(len(c.log) + 1)
		c.raise(upTo, func(int) int { return n })
	case some:
		c.raise(upTo, func(int) int { return c.random.IntN(len(c.log) + 1) })
	}
	// A change of two folders takes with it all that came before it in either. Going backwards finds every such change
	// before what it takes along.
	for i := len(c.log) - 1; i >= 0; i-- {
		if a, b, ok := c.log[i].folders(); ok && (i < upTo[a] || i < upTo[b]) {
			upTo[a], upTo[b] = max(upTo[a], i+1), max(upTo[b], i+1)
		}
	}
	for i, e := range c.log {
		switch e.Op {
		case Create:
			c.inodes[e.ID] = &inode{mode: e.Mode, time: e.Time}
		case Symlink:
			c.inodes[e.ID] = &inode{target: e.Target, time: e.Time}
		case Mkdir:
			c.inodes[e.ID] = &inode{folder: true, mode: e.Mode, time: e.Time, entries: make(map[string]int)}
		}
		if a, _, ok := e.folders(); !ok || i >= upTo[a] {
			continue
		}
		dir := c.inodes[e.Dir].entries
		switch e.Op {
		case Create, Symlink, Mkdir, Link:
			dir[e.Name] = e.ID
		case Unlink, Rmdir:
			delete(dir, e.Name)
		case Rename:
			delete(dir, e.Name)
			c.inodes[e.NewDir].entries[e.NewName] = e.ID
		}
	}
}

// raise gives every folder whose entries change what at least survives of them.
func (c *cut) raise(upTo map[int]int, to func(folder int) int) {
	seen := make(map[int]bool)
	for _, e := range c.log {
		a, b, ok := e.folders()
		for _, id := range []int{a, b} {
			if ok && !seen[id] {
				seen[id] = true
				upTo[id] = max(upTo[id], to(id))
			}
		}
	}
}

// folders are the two, often the same, whose entries a change changes.
func (e *Entry) folders() (a, b int, ok bool) {
	switch e.Op {
	case Create, Symlink, Mkdir, Link, Unlink, Rmdir:
		return e.Dir, e.Dir, true
	case Rename:
		return e.Dir, e.NewDir, true
	}
	return 0, 0, false
}

// contents does those changes of files that survive.
func (c *cut) contents() {
	synced := make(map[int]int) // of each file: how many of the changes of the log
	unsynced := make(map[int]int)
	for i, e := range c.log {
		switch e.Op {
		case Sync, SyncDir:
			synced[e.ID], unsynced[e.ID] = i, 0
		case Write, Truncate, Chmod:
			unsynced[e.ID]++
		}
	}
	policy := survivors(c.random.IntN(4))
	fate := make(map[int]survivors)
	left := make(map[int]int) // of fate first: how many survive
	for i, e := range c.log {
		if e.Op != Write && e.Op != Truncate && e.Op != Chmod {
			continue
		}
		in := c.inodes[e.ID]
		if i < synced[e.ID] {
			in.apply(e)
			continue
		}
		f, known := fate[e.ID]
		if !known {
			if f = policy; policy == some { // each file has its own
				f = survivors(c.random.IntN(4))
			}
			fate[e.ID], left[e.ID] = f, c.random.IntN(unsynced[e.ID]+1)
		}
		switch f {
		case all:
			in.apply(e)
		case first:
			if left[e.ID]--; left[e.ID] >= 0 {
				in.apply(e)
			}
		case some:
			c.pages(in, e)
		}
	}
}

// apply does a change of a file.
func (in *inode) apply(e *Entry) {
	in.time = e.Time
	switch e.Op {
	case Chmod:
		in.mode = e.Mode
	case Truncate:
		in.resize(e.Size)
	case Write:
		end := e.Off + int64(len(e.Data))
		in.resize(max(end, int64(len(in.data))))
		copy(in.data[e.Off:], e.Data)
	}
}

// resize never changes bytes that another disk made from the same log has.
func (in *inode) resize(size int64) {
	data := make([]byte, size)
	copy(data, in.data)
	in.data = data
}

// pages does any pages of a write, and any other change or not.
func (c *cut) pages(in *inode, e *Entry) {
	if e.Op != Write {
		if c.random.IntN(2) == 0 {
			in.apply(e)
		}
		return
	}
	if c.random.IntN(2) == 0 { // the size was known to the disk before the bytes
		in.resize(max(e.Off+int64(len(e.Data)), int64(len(in.data))))
	}
	for from := int64(0); from < int64(len(e.Data)); {
		to := min(int64(len(e.Data)), (e.Off+from)/page*page+page-e.Off)
		if c.random.IntN(2) == 0 {
			part := *e
			part.Off, part.Data = e.Off+from, e.Data[from:to]
			in.apply(&part)
		}
		from = to
	}
}

// write makes a file or folder on a real disk.
func (c *cut) write(path string, id int) error {
	in := c.inodes[id]
	switch {
	case in.folder:
		if err := os.Mkdir(path, 0o700); err != nil {
			return err
		}
		for name, child := range in.entries {
			if err := c.write(filepath.Join(path, name), child); err != nil {
				return err
			}
		}
	case in.target != "":
		return os.Symlink(in.target, path)
	default:
		if err := os.WriteFile(path, in.data, 0o600); err != nil {
			return err
		}
	}
	if err := os.Chmod(path, os.FileMode(in.mode)); err != nil {
		return err
	}
	return os.Chtimes(path, in.time, in.time)
}
