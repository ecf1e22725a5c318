//go:build linux

package faultfs

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Log is a folder as it was, taken to be wholly on the disk, and every change of it since.
type Log struct {
	start map[int]*inode // what there was; 0 is the folder itself
	ids   map[uint64]int // of what has this number below now
	next  int

	Entries []*Entry
}

// Entry is one change.
type Entry struct {
	Op   Op
	Path string // from the folder, when it was made; for people
	Time time.Time

	ID          int // of the file or folder: stays the same when it is renamed, and is never used again
	Dir, NewDir int // folders that lose or get an entry
	Name        string
	NewName     string // of Rename
	Target      string // of Symlink
	Mode        uint32 // permissions
	Off, Size   int64
	Data        []byte

	ino, dir, newDir uint64 // the numbers that ID, Dir and NewDir have below
}

// inode is a file, folder or symbolic link.
type inode struct {
	folder  bool
	mode    uint32 // permissions
	time    time.Time
	data    []byte
	target  string
	entries map[string]int // of a folder
}

// newLog reads a folder. All of it is held in memory.
func newLog(dir string) (*Log, error) {
	l := &Log{start: make(map[int]*inode), ids: make(map[uint64]int)}
	byPath := make(map[string]int)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		ino := info.Sys().(*syscall.Stat_t).Ino
		id, known := l.ids[ino] // a hard link
		if !known {
			id = l.next
			l.next++
			l.ids[ino] = id
			if l.start[id], err = readInode(path, info); err != nil {
				return err
			}
		}
		byPath[path] = id
		if path != dir {
			l.start[byPath[filepath.Dir(path)]].entries[d.Name()] = id
		}
		return nil
	})
	return l, err
}

func readInode(path string, info fs.FileInfo) (n *inode, err error) {
	n = &inode{folder: info.IsDir(), mode: uint32(info.Mode().Perm()), time: info.ModTime()}
	switch {
	case n.folder:
		n.entries = make(map[string]int)
	case info.Mode()&fs.ModeSymlink != 0:
		n.target, err = os.Readlink(path)
	default:
		n.data, err = os.ReadFile(path)
	}
	return n, err
}

// add appends a change that was made.
func (l *Log) add(e *Entry) {
	switch e.Op {
	case Create, Mkdir, Symlink: // the number may have been another's
		l.ids[e.ino] = l.next
		l.next++
	}
	e.ID, e.Dir, e.NewDir = l.ids[e.ino], l.ids[e.dir], l.ids[e.newDir]
	e.Time = time.Now()
	l.Entries = append(l.Entries, e)
}
