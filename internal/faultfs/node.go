//go:build linux

package faultfs

import (
	"context"
	"path/filepath"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// node is a file or folder. What does not change anything goes to the one that is embedded.
type node struct {
	*fs.LoopbackNode
	layer *Layer
}

// WrapChild makes every node one of this type.
func (n *node) WrapChild(_ context.Context, ops fs.InodeEmbedder) fs.InodeEmbedder {
	return &node{LoopbackNode: ops.(*fs.LoopbackNode), layer: n.layer}
}

// path is the node's, or its child's, from the root of the layer.
func (n *node) path(name ...string) string {
	return filepath.Join(append([]string{n.Path(n.Root())}, name...)...)
}

// ino is the number of what a path names below, 0 if there is nothing.
func (l *Layer) ino(path string) uint64 {
	var st syscall.Stat_t
	if syscall.Lstat(filepath.Join(l.dir, path), &st) != nil {
		return 0
	}
	return st.Ino
}

func (n *node) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (inode *fs.Inode, fh fs.FileHandle, fuseFlags uint32, errno syscall.Errno) {
	path := n.path(name)
	if n.layer.ino(path) != 0 && flags&syscall.O_EXCL != 0 {
		return nil, nil, 0, syscall.EEXIST
	}
	e := &Entry{dir: n.layer.ino(n.path()), Name: name, Mode: mode & 0o7777}
	errno = n.layer.do(change{op: Create, path: path, entry: e, apply: func() (errno syscall.Errno) {
		inode, fh, fuseFlags, errno = n.LoopbackNode.Create(ctx, name, flags, mode, out)
		e.ino = n.layer.ino(path)
		return errno
	}})
	lf, ok := fh.(*fs.LoopbackFile)
	if !ok {
		return nil, nil, 0, errno
	}
	if errno != 0 {
		lf.Release(ctx) //nolint:errcheck // of a file that nobody gets
		return nil, nil, 0, errno
	}
	return inode, &file{LoopbackFile: lf, node: n, at: path, ino: e.ino}, fuseFlags, 0
}

func (n *node) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	fh, fuseFlags, errno := n.LoopbackNode.Open(ctx, flags&^syscall.O_TRUNC)
	lf, ok := fh.(*fs.LoopbackFile)
	if errno != 0 || !ok {
		return nil, 0, errno
	}
	f := &file{LoopbackFile: lf, node: n, at: n.path(), ino: n.layer.ino(n.path())}
	if flags&syscall.O_TRUNC != 0 {
		var in fuse.SetAttrIn
		in.Valid, in.Size = fuse.FATTR_SIZE, 0
		if errno := n.Setattr(ctx, f, &in, new(fuse.AttrOut)); errno != 0 {
			lf.Release(ctx) //nolint:errcheck // of a file that nobody gets
			return nil, 0, errno
		}
	}
	return f, fuseFlags, 0
}

// Tmpfile is refused: the log knows only files with a name.
func (n *node) Tmpfile(context.Context, uint32, uint32, *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	return nil, nil, 0, syscall.ENOSYS
}

func (n *node) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (inode *fs.Inode, errno syscall.Errno) {
	path := n.path(name)
	e := &Entry{dir: n.layer.ino(n.path()), Name: name, Mode: mode & 0o7777}
	errno = n.layer.do(change{op: Mkdir, path: path, entry: e, apply: func() (errno syscall.Errno) {
		inode, errno = n.LoopbackNode.Mkdir(ctx, name, mode, out)
		e.ino = n.layer.ino(path)
		return errno
	}})
	return inode, errno
}

func (n *node) Symlink(ctx context.Context, target, name string, out *fuse.EntryOut) (inode *fs.Inode, errno syscall.Errno) {
	path := n.path(name)
	e := &Entry{dir: n.layer.ino(n.path()), Name: name, Target: target}
	errno = n.layer.do(change{op: Symlink, path: path, entry: e, apply: func() (errno syscall.Errno) {
		inode, errno = n.LoopbackNode.Symlink(ctx, target, name, out)
		e.ino = n.layer.ino(path)
		return errno
	}})
	return inode, errno
}

func (n *node) Link(ctx context.Context, target fs.InodeEmbedder, name string, out *fuse.EntryOut) (inode *fs.Inode, errno syscall.Errno) {
	path := n.path(name)
	e := &Entry{dir: n.layer.ino(n.path()), Name: name}
	errno = n.layer.do(change{op: Link, path: path, entry: e, apply: func() (errno syscall.Errno) {
		inode, errno = n.LoopbackNode.Link(ctx, target, name, out)
		e.ino = n.layer.ino(path)
		return errno
	}})
	return inode, errno
}

// Mknod is refused: nothing here makes devices or pipes.
func (n *node) Mknod(context.Context, string, uint32, uint32, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EPERM
}

func (n *node) Unlink(ctx context.Context, name string) syscall.Errno {
	e := &Entry{dir: n.layer.ino(n.path()), Name: name}
	return n.layer.do(change{op: Unlink, path: n.path(name), entry: e, apply: func() syscall.Errno {
		return n.LoopbackNode.Unlink(ctx, name)
	}})
}

func (n *node) Rmdir(ctx context.Context, name string) syscall.Errno {
	e := &Entry{dir: n.layer.ino(n.path()), Name: name}
	return n.layer.do(change{op: Rmdir, path: n.path(name), entry: e, apply: func() syscall.Errno {
		return n.LoopbackNode.Rmdir(ctx, name)
	}})
}

func (n *node) Rename(ctx context.Context, name string, newParent fs.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	to, ok := newParent.(*node)
	if !ok || flags > 1 { // RENAME_NOREPLACE; exchanging is nothing that the log could say
		return syscall.EINVAL
	}
	e := &Entry{dir: n.layer.ino(n.path()), Name: name, newDir: n.layer.ino(to.path()), NewName: newName}
	return n.layer.do(change{op: Rename, path: to.path(newName), entry: e, apply: func() syscall.Errno {
		e.ino = n.layer.ino(n.path(name))
		return n.LoopbackNode.Rename(ctx, name, newParent, newName, flags)
	}})
}

// Setattr counts what changes size or mode.
func (n *node) Setattr(ctx context.Context, fh fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	path, ino := n.path(), n.layer.ino(n.path())
	if f, ok := fh.(*file); ok {
		path, ino = f.at, f.ino
	}
	apply := func() syscall.Errno { return n.LoopbackNode.Setattr(ctx, fh, in, out) }
	if size, ok := in.GetSize(); ok {
		return n.layer.do(change{op: Truncate, path: path, entry: &Entry{ino: ino, Size: int64(size)}, apply: apply})
	}
	if mode, ok := in.GetMode(); ok {
		return n.layer.do(change{op: Chmod, path: path, entry: &Entry{ino: ino, Mode: mode & 0o7777}, apply: apply})
	}
	return apply()
}

// OpendirHandle gives a folder that can be synced.
func (n *node) OpendirHandle(_ context.Context, _ uint32) (fs.FileHandle, uint32, syscall.Errno) {
	ds, errno := fs.NewLoopbackDirStream(filepath.Join(n.layer.dir, n.path()))
	if errno != 0 {
		return nil, 0, errno
	}
	return &folder{DirStream: ds, node: n}, 0, 0
}

// folder is an open folder.
type folder struct {
	fs.DirStream
	node *node
}

func (f *folder) Fsyncdir(context.Context, uint32) syscall.Errno {
	path := f.node.path()
	return f.node.layer.do(change{op: SyncDir, path: path, entry: &Entry{ino: f.node.layer.ino(path)}, apply: func() syscall.Errno { return 0 }})
}

func (f *folder) Readdirent(ctx context.Context) (*fuse.DirEntry, syscall.Errno) {
	return f.DirStream.(fs.FileReaddirenter).Readdirent(ctx)
}

func (f *folder) Seekdir(ctx context.Context, off uint64) syscall.Errno {
	return f.DirStream.(fs.FileSeekdirer).Seekdir(ctx, off)
}

func (f *folder) Releasedir(context.Context, uint32) { f.Close() }

// file is an open file.
type file struct {
	*fs.LoopbackFile
	node *node
	at   string // its path when it was opened
	ino  uint64 // below
}

// PassthroughFd says no: the kernel would write past this layer.
func (f *file) PassthroughFd() (int, bool) { return 0, false }

func (f *file) Write(ctx context.Context, data []byte, off int64) (written uint32, errno syscall.Errno) {
	l := f.node.layer
	e := &Entry{ino: f.ino, Off: off, Data: append([]byte(nil), data...)}
	c := change{op: Write, path: f.at, entry: e, apply: func() (errno syscall.Errno) {
		written, errno = f.LoopbackFile.Write(ctx, data, off)
		return errno
	}}
	if len(data) > 1 {
		c.half = func() (errno syscall.Errno) {
			written, errno = f.LoopbackFile.Write(ctx, data[:len(data)/2], off)
			return errno
		}
	}
	errno = l.do(c)
	return written, errno
}

// Fsync syncs nothing below: what would survive is what the log says, not what the machine's own disk does.
func (f *file) Fsync(context.Context, uint32) syscall.Errno {
	return f.node.layer.do(change{op: Sync, path: f.at, entry: &Entry{ino: f.ino}, apply: func() syscall.Errno { return 0 }})
}

func (f *file) Allocate(context.Context, uint64, uint64, uint32) syscall.Errno {
	return syscall.ENOTSUP
}

// Ioctl is refused: cloning files is a change that would not be seen.
func (f *file) Ioctl(context.Context, uint32, uint64, []byte, []byte) (int32, syscall.Errno) {
	return 0, syscall.ENOTTY
}
