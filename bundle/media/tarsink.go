package media

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/durable"
)

// tarSink writes an OCI layout into a tar: each blob once, in the order of Put, then index.json and oci-layout. It grows
// under a temporary name beside its own.
type tarSink struct {
	ref reference
	tmp string
	f   *os.File

	writing sync.Mutex // held by what appends; it guards the next two
	off     int64      // where the next entry goes
	broken  error      // why nothing more can be written

	mu        sync.RWMutex // guards the next two
	files     map[string]section
	committed bool
}

func openTarSink(r reference) (*tarSink, error) {
	dir, base := filepath.Dir(r.path), filepath.Base(r.path)
	if err := durable.MkdirAll(dir, folderPerm); err != nil {
		return nil, err
	}
	if err := removeStale(dir, base+".tmp-"); err != nil {
		return nil, fmt.Errorf("%s: %w", r.path, err)
	}
	f, err := os.CreateTemp(dir, base+".tmp-*")
	if err != nil {
		return nil, err
	}
	s := &tarSink{ref: r, tmp: f.Name(), f: f, files: make(map[string]section)}
	// The lock lasts as long as this process: it tells others that the file is no left-over.
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", s.tmp, err), s.Close())
	}
	return s, nil
}

// removeStale removes what killed processes left; the next try cannot use it and the room is needed.
func removeStale(dir, prefix string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), prefix) || !e.Type().IsRegular() {
			continue
		}
		name := filepath.Join(dir, e.Name())
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			continue // somebody else's
		}
		if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			err = os.Remove(name)
		}
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

func (s *tarSink) Path() string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.committed {
		return s.ref.path
	}
	return s.tmp
}

func (s *tarSink) section(name string) (section, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	sec, ok := s.files[name]
	return sec, ok
}

func (s *tarSink) Open(_ context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	return openBlob(s, s.ref.path, desc, 0)
}

func (s *tarSink) openAt(desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	sec, ok := s.section(blobPath(desc.Digest))
	if !ok {
		return nil, fmt.Errorf("blob %s: %w", desc.Digest, fs.ErrNotExist)
	}
	return openSection(s.f, desc, sec, offset)
}

func (s *tarSink) Has(_ context.Context, desc ocispec.Descriptor) (bool, error) {
	if err := bundle.CheckDescriptor(desc); err != nil {
		return false, err
	}
	sec, ok := s.section(blobPath(desc.Digest))
	return ok && sec.size == desc.Size, nil
}

// Put writes one blob at a time, others wait. A blob that is there is not read again. What a failed Put wrote is cut off
// again, so that it can be repeated.
func (s *tarSink) Put(ctx context.Context, desc ocispec.Descriptor, r io.Reader) error {
	if err := bundle.CheckDescriptor(desc); err != nil {
		return err
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	name := blobPath(desc.Digest)
	if sec, ok := s.section(name); ok {
		if sec.size != desc.Size {
			return &bundle.DamagedError{Descriptor: desc, Size: sec.size}
		}
		return nil
	}
	err := s.append(name, desc.Size, func(w io.Writer) error { return CopyBlob(ctx, w, r, desc) })
	if err != nil {
		return putError(s.ref.path, desc, err)
	}
	return nil
}

// append writes one entry and remembers where its content is. Every entry gets a tar.Writer of its own, because one that
// failed in the middle cannot go on.
func (s *tarSink) append(name string, size int64, fill func(io.Writer) error) error {
	if s.broken != nil {
		return s.broken
	}
	out := &offsetWriter{f: s.f, off: s.off}
	tw := tar.NewWriter(out)
	// No owner, no time: equal content gives equal bytes. Go writes ustar unless the size or the name needs PAX.
	err := tw.WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: name, Size: size, Mode: filePerm, ModTime: time.Unix(0, 0),
	})
	content := out.off
	if err == nil {
		err = fill(tw)
	}
	if err == nil {
		err = tw.Flush() // the padding
	}
	if err != nil {
		if terr := s.f.Truncate(s.off); terr != nil {
			s.broken = fmt.Errorf("%s: %w", s.tmp, terr)
		}
		return errors.Join(err, s.broken)
	}
	s.off = out.off
	s.mu.Lock()
	s.files[name] = section{content, size}
	s.mu.Unlock()
	return nil
}

type offsetWriter struct {
	f   *os.File
	off int64
}

func (w *offsetWriter) Write(p []byte) (int, error) {
	n, err := w.f.WriteAt(p, w.off)
	w.off += int64(n)
	return n, err
}

// errCommitted is what a Put gets that comes after Commit.
var errCommitted = errors.New("the tar is complete already")

// Commit writes the end of the tar and gives it its name. A tar holds one bundle: there is no second Commit.
func (s *tarSink) Commit(ctx context.Context, root ocispec.Descriptor, tag string, beside []Referrer) error {
	tag, err := s.ref.commitTag(tag)
	if err != nil {
		return err
	}
	entries, err := commitEntries(ctx, s, root, tag, beside)
	if err != nil {
		return fmt.Errorf("commit %s: %w", s.ref.path, err)
	}
	index, err := encodeIndexFile(entries)
	if err != nil {
		return fmt.Errorf("commit %s: %w", s.ref.path, err)
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.finish(index); err != nil {
		return fmt.Errorf("commit %s: %w", s.ref.path, err)
	}
	return nil
}

func (s *tarSink) finish(index []byte) error {
	put := func(name string, data []byte) error {
		return s.append(name, int64(len(data)), func(w io.Writer) error {
			_, err := io.Copy(w, bytes.NewReader(data))
			return err
		})
	}
	if err := put(ocispec.ImageIndexFile, index); err != nil {
		return err
	}
	if err := put(ocispec.ImageLayoutFile, []byte(layoutVersion)); err != nil {
		return err
	}
	s.broken = errCommitted
	if err := tar.NewWriter(&offsetWriter{f: s.f, off: s.off}).Close(); err != nil { // two empty blocks
		return err
	}
	if fi, err := s.f.Stat(); err != nil {
		return err
	} else if fi.Mode().Perm() != filePerm { // CreateTemp's mode is for secrets; FAT has no mode to change
		if err := s.f.Chmod(filePerm); err != nil && !errors.Is(err, fs.ErrPermission) {
			return err
		}
	}
	if err := s.f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(s.tmp, s.ref.path); err != nil {
		return err
	}
	s.mu.Lock()
	s.committed = true
	s.mu.Unlock()
	return durable.SyncDir(filepath.Dir(s.ref.path))
}

// Close without Commit removes the temporary file.
func (s *tarSink) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	if !s.committed {
		err = os.Remove(s.tmp)
	}
	return errors.Join(err, s.f.Close())
}
