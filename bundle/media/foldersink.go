package media

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/durable"
)

const (
	ingestDir  = ".ingest" // of files that are not complete yet, in the layout's folder so that a rename moves them
	folderPerm = 0o755
	filePerm   = 0o644 // given when a file is made: FAT file systems refuse a chmod
	// syncNow is the size in bytes from which a blob is made durable under its name at once: after a power cut it is
	// worth having. The names of smaller ones become durable with Commit or Close.
	syncNow = 1 << 20
)

// folderSink writes an OCI layout into a folder. Blobs appear under their names complete and synced, so that a repeated
// copy finds them; index.json, which makes them a bundle, is written last.
type folderSink struct {
	folderBlobs
	ref  reference
	lock *os.File // the folder itself, locked: two writers would lose each other's entries of index.json
	seq  atomic.Int64

	mu   sync.Mutex
	dirs map[string]struct{} // made or changed here, to be synced
}

func openFolderSink(r reference) (*folderSink, error) {
	if err := durable.MkdirAll(r.path, folderPerm); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(r.path)
	if err != nil {
		return nil, err
	}
	s := &folderSink{folderBlobs: folderBlobs{root}, ref: r, dirs: map[string]struct{}{".": {}}}
	if err := s.prepare(); err != nil {
		return nil, errors.Join(err, s.release())
	}
	return s, nil
}

func (s *folderSink) prepare() (err error) {
	if s.lock, err = s.root.Open("."); err != nil {
		return err
	}
	err = syscall.Flock(int(s.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return s.ref.errorf("another process is writing to it")
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", s.ref.path, err)
	}
	if err := s.checkFolder(); err != nil {
		return err
	}
	if _, err := s.entries(); err != nil {
		return err
	}
	// What a killed process left: nobody else is at work here.
	if err := s.root.RemoveAll(ingestDir); err != nil {
		return fmt.Errorf("%s: %w", s.ref.path, err)
	}
	return nil
}

// checkFolder keeps a mistyped destination from scattering blobs among somebody's files.
func (s *folderSink) checkFolder() error {
	names, err := s.lock.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("%s: %w", s.ref.path, err)
	}
	ours := len(names) == 0
	for _, name := range names {
		ours = ours || name == ocispec.ImageLayoutFile || name == ocispec.ImageBlobsDir || name == ingestDir
	}
	if !ours {
		return s.ref.errorf("the folder is neither empty nor an OCI image layout; name a folder of its own for the bundle")
	}
	return s.noteFolders()
}

// noteFolders has the folders synced that are there already: a process that was killed may have left names in them that
// are not durable, and Has will say that those blobs are there.
func (s *folderSink) noteFolders() error {
	blobs, err := s.root.Open(ocispec.ImageBlobsDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", s.ref.path, err)
	}
	entries, err := blobs.ReadDir(-1)
	if err := errors.Join(err, blobs.Close()); err != nil {
		return fmt.Errorf("%s: %w", s.ref.path, err)
	}
	s.dirs[ocispec.ImageBlobsDir] = struct{}{}
	for _, e := range entries {
		if e.IsDir() {
			s.dirs[ocispec.ImageBlobsDir+"/"+e.Name()] = struct{}{}
		}
	}
	return nil
}

// entries gives what index.json lists now.
func (s *folderSink) entries() ([]ocispec.Descriptor, error) {
	data, err := readSmall(s.root, ocispec.ImageLayoutFile, maxLayout)
	if err == nil {
		err = parseLayoutFile(data)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", s.ref.path, err)
	}
	if data, err = readSmall(s.root, ocispec.ImageIndexFile, maxIndex); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var entries []ocispec.Descriptor
	if err == nil {
		entries, err = parseIndexFile(data)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.ref.path, err)
	}
	return entries, nil
}

func (s *folderSink) Path() string { return s.ref.path }

func (s *folderSink) Open(_ context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	return openBlob(s.folderBlobs, s.ref.path, desc, 0)
}

func (s *folderSink) Has(_ context.Context, desc ocispec.Descriptor) (bool, error) {
	if err := bundle.CheckDescriptor(desc); err != nil {
		return false, err
	}
	fi, err := s.root.Stat(blobPath(desc.Digest))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("%s: %w", s.ref.path, err)
	}
	return fi.Mode().IsRegular() && fi.Size() == desc.Size, nil
}

// Put replaces a blob that is there, which heals one that was damaged on the disk.
func (s *folderSink) Put(ctx context.Context, desc ocispec.Descriptor, r io.Reader) error {
	if err := bundle.CheckDescriptor(desc); err != nil {
		return err
	}
	name := blobPath(desc.Digest)
	err := s.write(name, desc.Size >= syncNow, func(w io.Writer) error { return CopyBlob(ctx, w, r, desc) })
	if err != nil {
		return putError(s.ref.path, desc, err)
	}
	return nil
}

// write makes a file appear under name, complete and synced, or not at all.
func (s *folderSink) write(name string, syncDir bool, fill func(io.Writer) error) error {
	dir := path.Dir(name)
	for _, d := range []string{ingestDir, dir} {
		if err := s.mkdir(d); err != nil {
			return err
		}
	}
	tmp := ingestDir + "/" + strconv.FormatInt(s.seq.Add(1), 10)
	f, err := s.root.OpenFile(tmp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, filePerm)
	if err != nil {
		return err
	}
	err = fill(f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = s.root.Rename(tmp, name)
	}
	if err != nil {
		return errors.Join(err, s.root.Remove(tmp))
	}
	if syncDir {
		return s.sync(dir)
	}
	return nil
}

func (s *folderSink) mkdir(dir string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.dirs[dir]; ok {
		return nil
	}
	if err := s.root.MkdirAll(dir, folderPerm); err != nil {
		return err
	}
	for ; dir != "."; dir = path.Dir(dir) {
		s.dirs[dir] = struct{}{}
	}
	return nil
}

func (s *folderSink) sync(dir string) error {
	d, err := s.root.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// syncAll makes every name durable that was written so far, and clears away the place of unfinished files.
func (s *folderSink) syncAll() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.dirs[ingestDir]; ok {
		if err := s.root.RemoveAll(ingestDir); err != nil {
			return err
		}
		delete(s.dirs, ingestDir)
	}
	for dir := range s.dirs {
		if err := s.sync(dir); err != nil {
			return err
		}
	}
	return nil
}

// Commit writes index.json: what it listed before, with this bundle. A tag moves to this bundle; the entries of what
// travelled beside a bundle that lost its last entry so go with it, its blobs stay.
func (s *folderSink) Commit(ctx context.Context, root ocispec.Descriptor, tag string, beside []Referrer) error {
	tag, err := s.ref.commitTag(tag)
	if err != nil {
		return err
	}
	add, err := commitEntries(ctx, s, root, tag, beside)
	if err != nil {
		return fmt.Errorf("commit %s: %w", s.ref.path, err)
	}
	have, err := s.entries()
	if err != nil {
		return err
	}
	merged, err := s.dropOrphans(ctx, have, mergeEntries(have, add))
	if err != nil {
		return fmt.Errorf("commit %s: %w", s.ref.path, err)
	}
	if err := s.writeIndex(merged); err != nil {
		return fmt.Errorf("commit %s: %w", s.ref.path, err)
	}
	return nil
}

func (s *folderSink) writeIndex(entries []ocispec.Descriptor) error {
	data, err := encodeIndexFile(entries)
	if err != nil {
		return err
	}
	if err := s.syncAll(); err != nil { // the blobs before what names them
		return err
	}
	put := func(name string, data []byte) error {
		return s.write(name, true, func(w io.Writer) error {
			_, err := io.Copy(w, bytes.NewReader(data))
			return err
		})
	}
	if _, err := s.root.Stat(ocispec.ImageLayoutFile); errors.Is(err, fs.ErrNotExist) {
		if err := put(ocispec.ImageLayoutFile, []byte(layoutVersion)); err != nil {
			return err
		}
	}
	if err := put(ocispec.ImageIndexFile, data); err != nil {
		return err
	}
	return s.syncAll()
}

// commitEntries gives the entries of index.json for a bundle, with artifact types that come from the manifests
// themselves: a descriptor from a registry may lack them, and the same bundle shall give the same bytes by any road.
func commitEntries(ctx context.Context, f bundle.Fetcher, root ocispec.Descriptor, tag string, beside []Referrer) ([]ocispec.Descriptor, error) {
	cache := make(map[digest.Digest]statement)
	s, err := readStatement(ctx, f, root, cache)
	if err != nil {
		return nil, err
	}
	entries := []ocispec.Descriptor{entry(root, s.ArtifactType, tag)}
	for _, r := range beside {
		if s, err = readStatement(ctx, f, r.Descriptor, cache); err != nil {
			return nil, err
		}
		entries = append(entries, entry(r.Descriptor, s.ArtifactType, r.Tag))
	}
	return mergeEntries(nil, entries), nil
}

// dropOrphans removes what refers to a bundle that was in index.json and is no more.
func (s *folderSink) dropOrphans(ctx context.Context, have, now []ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	gone := make(map[digest.Digest]bool)
	for _, d := range have {
		if d.ArtifactType == bundle.ArtifactTypeBundle {
			gone[d.Digest] = true
		}
	}
	for _, d := range now {
		delete(gone, d.Digest)
	}
	if len(gone) == 0 {
		return now, nil
	}
	tags := make(map[string]bool, len(gone))
	for d := range gone {
		tags[legacyTag(d)] = true
	}
	cache := make(map[digest.Digest]statement)
	kept := make([]ocispec.Descriptor, 0, len(now))
	for _, d := range now {
		if tags[tagOf(d)] {
			continue
		}
		if bundle.IsManifest(d.MediaType) && tagOf(d) == "" {
			st, err := readStatement(ctx, s, d, cache)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
			if gone[st.Subject] {
				continue
			}
		}
		kept = append(kept, d)
	}
	return kept, nil
}

// Close keeps the blobs for the next try.
func (s *folderSink) Close() error {
	err := s.syncAll()
	return errors.Join(err, s.release())
}

func (s *folderSink) release() error {
	var err error
	if s.lock != nil {
		err = s.lock.Close()
	}
	return errors.Join(err, s.root.Close())
}
