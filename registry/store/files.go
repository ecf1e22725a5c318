package store

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"math"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sync"

	storagedriver "github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/internal/durable"
)

// maxThreads bounds the driver's calls that run at once; an opened blob does not count.
const maxThreads = 100

// files is the place of a storage driver that can append to files and rename them: the local disk, or memory.
type files struct {
	driver storagedriver.StorageDriver
	dir    string   // of the filesystem driver; empty for all others
	shards sync.Map // folders known to survive a power cut

	distrusted sync.Map // digest → fs.FileInfo of a damaged file that the disk does not let go of; see Quarantine

	syncDir func(dir string) error // durable.SyncDir; tests watch it, because only a power cut would show that it is missing
}

func newFiles(driver storagedriver.StorageDriver) *files {
	return &files{driver: driver, syncDir: durable.SyncDir}
}

func openFiles(dir string) (*files, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	blobs := filepath.Join(dir, "blobs")
	for _, sub := range []string{filepath.Join(blobs, "sha256"), filepath.Join(blobs, "sha512"), filepath.Join(dir, "ingest")} {
		if err := durable.MkdirAll(sub, 0o755); err != nil {
			return nil, fmt.Errorf("open store %s: %w", dir, err)
		}
	}
	// A folder that is already there may be the work of a process that died before it synced the parent.
	for _, parent := range []string{blobs, dir, filepath.Dir(dir)} {
		if err := durable.SyncDir(parent); err != nil {
			return nil, fmt.Errorf("open store %s: %w", dir, err)
		}
	}
	f := newFiles(filesystem.New(filesystem.DriverParameters{RootDirectory: dir, MaxThreads: maxThreads}))
	f.dir = dir
	return f, nil
}

func (f *files) stat(ctx context.Context, d digest.Digest) (int64, error) {
	if f.isDistrusted(d, nil) {
		return 0, &fs.PathError{Op: "stat", Path: blobPath(d), Err: fs.ErrNotExist}
	}
	return f.size(ctx, blobPath(d))
}

func (f *files) partial(ctx context.Context, d digest.Digest) (int64, error) {
	return f.size(ctx, ingestPath(d))
}

func (f *files) size(ctx context.Context, p string) (int64, error) {
	fi, err := f.driver.Stat(ctx, p)
	if err != nil {
		return 0, cause(err)
	}
	return fi.Size(), nil
}

func (f *files) redirect(context.Context, digest.Digest) (string, bool, error) { return "", false, nil }

func (f *files) open(ctx context.Context, d digest.Digest) (*Blob, error) {
	p := blobPath(d)
	rc, err := f.driver.Reader(ctx, p, 0)
	if err != nil {
		return nil, cause(err)
	}
	if file, ok := rc.(*os.File); ok {
		fi, err := file.Stat()
		if err != nil {
			return nil, errors.Join(err, file.Close())
		}
		if f.isDistrusted(d, fi) {
			return nil, errors.Join(&fs.PathError{Op: "open", Path: p, Err: fs.ErrNotExist}, file.Close())
		}
		return &Blob{ReadSeekCloser: file, Size: fi.Size()}, nil
	}
	size, err := f.size(ctx, p)
	if err := errors.Join(err, rc.Close()); err != nil {
		return nil, err
	}
	return &Blob{ReadSeekCloser: &reopener{ctx: ctx, size: size, open: f.openAt(p)}, Size: size}, nil
}

func (f *files) openAt(p string) openAt {
	return func(ctx context.Context, offset int64) (io.ReadCloser, error) {
		rc, err := f.driver.Reader(ctx, p, offset)
		return rc, cause(err)
	}
}

func (f *files) walk(ctx context.Context, alg digest.Algorithm, fn func(digest.Digest, int64) error) error {
	shards, err := f.list(ctx, "/blobs/"+alg.String())
	if err != nil {
		return fmt.Errorf("walk store: %w", err)
	}
	var unlisted UnlistedError
	for _, shard := range shards {
		if err := f.walkShard(ctx, alg, shard, &unlisted, fn); err != nil {
			return err
		}
	}
	return unlisted.orNil()
}

func (f *files) walkShard(ctx context.Context, alg digest.Algorithm, shard string, unlisted *UnlistedError, fn func(digest.Digest, int64) error) error {
	names, err := f.list(ctx, shard)
	if err != nil {
		unlisted.add(shard, err)
		return ctx.Err()
	}
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("walk store: %w", err)
		}
		d := digest.NewDigestFromEncoded(alg, path.Base(name))
		// A file that a person or a file system left here is not a blob: a digest made from its name could not be opened.
		if checkDigest(d) != nil || blobPath(d) != name {
			continue
		}
		size, err := f.size(ctx, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			unlisted.add(name, err)
			continue
		}
		if err := fn(d, size); err != nil {
			return err
		}
	}
	return nil
}

// list gives the sorted children of a folder; a folder that is not there has none.
func (f *files) list(ctx context.Context, p string) ([]string, error) {
	children, err := f.driver.List(ctx, p)
	err = cause(err)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(children) == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	slices.Sort(children)
	return children, nil
}

func (f *files) shard(d digest.Digest) string {
	return filepath.Dir(filepath.Join(f.dir, filepath.FromSlash(blobPath(d))))
}

// settle makes the folder of a blob durable, with the names in it, once per process. That the folder or the blob is there
// proves nothing: a process that was killed between making it and syncing its folder leaves it to the next power cut.
func (f *files) settle(d digest.Digest) error {
	if f.dir == "" {
		return nil
	}
	shard := f.shard(d)
	if _, known := f.shards.Load(shard); known {
		return nil
	}
	if err := durable.MkdirAll(shard, 0o755); err != nil {
		return err
	}
	for _, dir := range []string{filepath.Dir(shard), shard} {
		if err := f.syncDir(dir); err != nil {
			return err
		}
	}
	f.shards.Store(shard, struct{}{})
	return nil
}

// publish renames a synced, verified file to its place and makes the rename durable.
func (f *files) publish(ctx context.Context, d digest.Digest) error {
	if err := f.settle(d); err != nil {
		return err
	}
	if err := f.move(ctx, d); err != nil {
		return cause(err)
	}
	if f.dir == "" {
		return nil
	}
	if err := f.syncDir(f.shard(d)); err != nil {
		// The blob has its name but may lose it again: the next Admit, which finds it, must not trust the folder.
		f.shards.Delete(f.shard(d))
		return err
	}
	return nil
}

// move renames a verified file to its place. A folder that has its name goes: it would keep the blob out for ever.
func (f *files) move(ctx context.Context, d digest.Digest) error {
	err := f.driver.Move(ctx, ingestPath(d), blobPath(d))
	if err == nil || f.dir == "" {
		return err
	}
	fi, statErr := os.Lstat(f.blobFile(d))
	if statErr != nil || !fi.IsDir() {
		return err
	}
	if _, statErr = f.quarantine(d, Sighting{file: fi}); statErr != nil {
		return errors.Join(err, statErr)
	}
	return f.driver.Move(ctx, ingestPath(d), blobPath(d))
}

// discard removes an unfinished file, if there is one.
func (f *files) discard(ctx context.Context, d digest.Digest) error {
	err := cause(f.driver.Delete(ctx, ingestPath(d)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (f *files) ingest(_ context.Context, desc ocispec.Descriptor) (ingest, error) {
	return &fileIngest{files: f, desc: desc}, nil
}

// fileIngest is an unfinished file. In a folder its lock is held.
type fileIngest struct {
	files *files
	desc  ocispec.Descriptor
	w     storagedriver.FileWriter // nil outside of begin … commit, keep, drop
}

// resume reads back what an earlier Admit left.
func (i *fileIngest) resume(ctx context.Context, h hash.Hash, advance func(int64)) (usable bool, err error) {
	left, err := i.files.partial(ctx, i.desc.Digest)
	if err != nil || left == 0 || left > i.desc.Size {
		return false, nil
	}
	rc, err := i.files.driver.Reader(ctx, ingestPath(i.desc.Digest), 0)
	if err != nil {
		return false, cause(err)
	}
	buf := make([]byte, min(copyBuffer, left))
	for left > 0 && err == nil {
		if err = ctx.Err(); err != nil {
			break
		}
		var n int
		n, err = rc.Read(buf[:min(int64(len(buf)), left)])
		h.Write(buf[:n])
		advance(int64(n))
		left -= int64(n)
	}
	closeErr := rc.Close()
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	return left == 0 && closeErr == nil, nil // a disk that cannot read it back will not serve it either
}

func (i *fileIngest) begin(ctx context.Context, _ hash.Hash, have int64) error {
	w, err := i.files.driver.Writer(ctx, ingestPath(i.desc.Digest), have > 0)
	if err != nil {
		return cause(err)
	}
	i.w = w
	return nil
}

func (i *fileIngest) room() int64 { return math.MaxInt64 }

func (i *fileIngest) write(_ context.Context, p []byte) error {
	_, err := i.w.Write(p)
	return cause(err)
}

func (i *fileIngest) commit(ctx context.Context) error {
	if err := i.w.Commit(ctx); err != nil {
		// After a failed sync the kernel takes the lost pages for clean: the file must not be trusted again.
		return errors.Join(cause(err), cause(i.w.Cancel(ctx)))
	}
	if err := i.w.Close(); err != nil {
		return cause(err)
	}
	return i.files.publish(ctx, i.desc.Digest)
}

func (i *fileIngest) keep(ctx context.Context, broken bool) error {
	if err := i.w.Close(); err != nil && !broken {
		// The sync failed; see commit. (After a failed write Close only repeats its error and has not synced.)
		return errors.Join(cause(err), i.files.discard(ctx, i.desc.Digest))
	}
	return nil
}

func (i *fileIngest) drop(ctx context.Context) error {
	if i.w == nil {
		return i.files.discard(ctx, i.desc.Digest)
	}
	return cause(i.w.Cancel(ctx))
}

func (i *fileIngest) close() {}

// cause gives the error that the driver met. The drivers wrap it in a type without Unwrap, which would hide from callers
// that the disk is full or that a blob is not there.
func cause(err error) error {
	var wrapped storagedriver.Error
	for errors.As(err, &wrapped) && wrapped.Detail != nil {
		err = wrapped.Detail
	}
	var missing storagedriver.PathNotFoundError
	if errors.As(err, &missing) {
		return &fs.PathError{Op: "open", Path: missing.Path, Err: fs.ErrNotExist}
	}
	return err
}
