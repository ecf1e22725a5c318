//go:build linux

// Package faultfs is a file system for tests that lies as a bad disk does.
//
// It is mounted over a folder (Mount) and passes everything on. On the way it counts what changes the folder, makes one
// chosen change go wrong (Options.At, Options.Kind), and writes all changes down (Options.Record), so that Log.PowerCut can
// make the disk that a power cut at any of them would have left. It stands below every program at once, git's among them,
// so that no program needs a seam for it.
//
// A process must not use a mount that it serves itself: forking with a folder of the mount as the working folder, or
// touching mapped memory of it, stops the threads that would have to answer. Tests run what they test as another process.
package faultfs

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// Op is a kind of change.
type Op string

// The changes that are counted. Times, owners and extended attributes are passed on and not counted: nothing is decided by
// them that a disk could break.
const (
	Create   Op = "create"
	Write    Op = "write"
	Truncate Op = "truncate"
	Chmod    Op = "chmod"
	Mkdir    Op = "mkdir"
	Symlink  Op = "symlink"
	Link     Op = "link"
	Rename   Op = "rename"
	Unlink   Op = "unlink"
	Rmdir    Op = "rmdir"
	Sync     Op = "fsync"
	SyncDir  Op = "fsyncdir"
)

// grows tells whether a change may need room on the disk.
func (o Op) grows() bool {
	switch o {
	case Create, Write, Mkdir, Symlink, Link, Rename:
		return true
	}
	return false
}

// Kind is how a change goes wrong.
type Kind string

// The kinds.
const (
	Refuse Kind = "not applied"     // the error is given, nothing is done
	Lie    Kind = "though applied"  // it is done, and the error is given
	Short  Kind = "short write"     // half of a write is done, and from then on the disk is full
	Full   Kind = "full from there" // the disk is full, and stays so
	Dead   Kind = "dead from there" // this and every later change gives the error
	Kill   Kind = "killed after"    // it is done, then Options.Kill is called, and nothing changes the folder any more
)

// Options say what happens to one folder.
type Options struct {
	At     int           // the change that goes wrong, counted from 1; 0: none
	Kind   Kind          //
	Err    syscall.Errno // what the one who asks is told; EIO if 0
	Kill   func()        // of kind Kill
	Record bool          // write down every change
}

// Outcome says what happened to a folder.
type Outcome struct {
	Changes int    // that were asked for, those that could not be done included
	Ops     []Op   // of each of them
	Struck  string // what went wrong: "rename store/ingest/x"; empty if At was never reached
	Log     *Log   // nil without Record
}

// UnavailableError says that this machine does not let tests mount file systems.
type UnavailableError struct{ Err error }

func (e *UnavailableError) Error() string { return "FUSE is not available here: " + e.Err.Error() }
func (e *UnavailableError) Unwrap() error { return e.Err }

// Layer is a mounted file system.
type Layer struct {
	dir    string // below
	server *fuse.Server

	mu    sync.Mutex // held by one change at a time, so that their order is that of the log
	trial *trial
}

// trial is what happens to one folder, from Begin to End.
type trial struct {
	Options
	Outcome
	prefix     string // of the paths it is about
	full, dead bool
}

// Mount mounts the file system over dir at mnt. The error is an *UnavailableError where that is not allowed.
func Mount(dir, mnt string) (*Layer, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	below, err := fs.NewLoopbackRoot(dir)
	if err != nil {
		return nil, err
	}
	l := &Layer{dir: dir}
	none := time.Duration(0) // tests change what is below, too
	// The kernel ends a mount when the last one closes its end of the connection, which go-fuse leaves open to the programs
	// that this process starts: they would keep the mount, and everybody who looks at it, waiting for ever.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	l.server, err = fs.Mount(mnt, &node{LoopbackNode: below.(*fs.LoopbackNode), layer: l}, &fs.Options{
		MountOptions: fuse.MountOptions{
			FsName: "plimsoll-faults", Name: "faultfs", DirectMountStrict: true, DirectMountFlags: syscall.MS_NODEV | syscall.MS_NOSUID,
		},
		EntryTimeout: &none, AttrTimeout: &none, NegativeTimeout: &none, NullPermissions: true,
	})
	if err != nil {
		return nil, &UnavailableError{err}
	}
	return l, closeOnExec()
}

// closeOnExec keeps this process's connections to FUSE from those that it starts.
func closeOnExec() error {
	const fds = "/proc/self/fd"
	entries, err := os.ReadDir(fds)
	if err != nil {
		return err
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			return err
		}
		if to, err := os.Readlink(filepath.Join(fds, e.Name())); err == nil && to == "/dev/fuse" {
			syscall.CloseOnExec(fd)
		}
	}
	return nil
}

// Close unmounts it. A process that still has a file of it open keeps it there: an error.
func (l *Layer) Close() error { return l.server.Unmount() }

// Begin starts to count the changes below sub, a folder's path from the root of the layer. Until End everything else is
// read-only, and what is still about of an earlier trial gets EIO: a git process that outlived its relay, say.
func (l *Layer) Begin(sub string, o Options) error {
	if o.Err == 0 {
		o.Err = syscall.EIO
	}
	t := &trial{Options: o, prefix: filepath.Clean(sub)}
	if o.Record {
		var err error
		if t.Log, err = newLog(filepath.Join(l.dir, t.prefix)); err != nil {
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.trial != nil {
		return fmt.Errorf("faultfs: %s is still on trial", l.trial.prefix)
	}
	l.trial = t
	return nil
}

// Revive lets the folder be changed again after Kill, as it is: nothing was lost, and nothing became more durable either.
func (l *Layer) Revive() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.trial.dead = false
}

// End ends what Begin began.
func (l *Layer) End() Outcome {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := l.trial.Outcome
	l.trial = nil
	return out
}

func (t *trial) covers(path string) bool {
	return path == t.prefix || strings.HasPrefix(path, t.prefix+"/")
}

// change is one change that is asked for.
type change struct {
	op    Op
	path  string               // from the root of the layer
	apply func() syscall.Errno //
	half  func() syscall.Errno // of a write: does half of it; nil if there is no half
	entry *Entry               // what the log says of it
}

// do does a change, or not, or half.
func (l *Layer) do(c change) syscall.Errno {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.trial
	if t == nil || t.dead && t.Kind == Kill || !t.covers(c.path) {
		return syscall.EIO
	}
	t.Changes++
	t.Ops = append(t.Ops, c.op)
	struck := t.Changes == t.At && t.At > 0
	if struck {
		t.Struck = string(c.op) + " " + strings.TrimPrefix(strings.TrimPrefix(c.path, t.prefix), "/")
	}
	switch {
	case t.dead:
		return t.Err
	case t.full && c.op.grows():
		return syscall.ENOSPC
	case !struck:
		return t.run(c)
	}
	switch t.Kind {
	case Refuse:
		return t.Err
	case Lie:
		if errno := t.run(c); errno != 0 {
			return errno
		}
		return t.Err
	case Dead:
		t.dead = true
		return t.Err
	case Short, Full:
		t.full = true
		if t.Kind == Short && c.half != nil {
			return c.half()
		}
		if c.op.grows() {
			return syscall.ENOSPC
		}
		return t.run(c)
	case Kill:
		t.run(c)
		t.dead = true
		t.Options.Kill()
		return syscall.EIO
	}
	return syscall.EINVAL
}

// run does a change and writes it down.
func (t *trial) run(c change) syscall.Errno {
	errno := c.apply()
	if errno == 0 && t.Log != nil {
		c.entry.Op, c.entry.Path = c.op, strings.TrimPrefix(strings.TrimPrefix(c.path, t.prefix), "/")
		t.Log.add(c.entry)
	}
	return errno
}
