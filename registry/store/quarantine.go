package store

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/durable"
)

// What stays of damaged blobs, for those who want to know what the disk did to them. The oldest go first: a disk that
// dies must not fill itself with what nobody can use.
const (
	maxQuarantined     = 16
	maxQuarantineBytes = 1 << 30
)

const quarantineDir = "quarantine"

// checkBuffer is how many bytes Check reads at once; the first and every further one waits for its turn.
const checkBuffer = 1 << 20

// Pace waits until n more bytes may be read.
type Pace func(ctx context.Context, n int) error

// Sighting is the very file or object that Check read. The zero value is none.
type Sighting struct {
	Size int64 // in bytes
	file fs.FileInfo
	etag string
}

// NotFileError says that something else has the name of a blob.
type NotFileError struct {
	Path string
	Mode fs.FileMode
}

func (e *NotFileError) Error() string { return fmt.Sprintf("%s is no file but %s", e.Path, e.Mode) }

// IsDamage tells whether an error of Check is about the bytes of the blob: it was read, and it is not what it is called.
func IsDamage(err error) bool {
	var damaged *bundle.DamagedError
	var other *NotFileError
	return errors.As(err, &damaged) || errors.As(err, &other)
}

// Check reads a blob again and compares it with its digest; *bundle.DamagedError or *NotFileError when it is not what it
// should be. On a disk it goes past the page cache where the file system lets it: what is in memory says nothing about
// the disk, and what robots pull often stays in memory. pace may be nil.
func (s *Store) Check(ctx context.Context, d digest.Digest, pace Pace) (Sighting, error) {
	if err := checkDigest(d); err != nil {
		return Sighting{}, err
	}
	if pace == nil {
		pace = func(ctx context.Context, _ int) error { return ctx.Err() }
	}
	h := d.Algorithm().Hash()
	seen, err := s.readAgain(ctx, d, h, pace)
	if err != nil {
		return seen, fmt.Errorf("check blob %s: %w", d, err)
	}
	if got := digest.NewDigest(d.Algorithm(), h); got != d {
		return seen, &bundle.DamagedError{Descriptor: ocispec.Descriptor{Digest: d, Size: seen.Size}, Digest: got, Size: seen.Size}
	}
	return seen, nil
}

func (s *Store) readAgain(ctx context.Context, d digest.Digest, h hash.Hash, pace Pace) (Sighting, error) {
	switch place := s.place.(type) {
	case *files:
		if place.dir != "" {
			return place.readAgain(ctx, d, h, pace)
		}
	case *bucket:
		seen, err := place.sight(ctx, d)
		if err != nil {
			return seen, err
		}
		return seen, readBlob(ctx, place, d, h, pace)
	}
	size, err := s.place.stat(ctx, d)
	if err != nil {
		return Sighting{}, err
	}
	return Sighting{Size: size}, readBlob(ctx, s.place, d, h, pace)
}

// readBlob hashes a blob as those read it who pull it.
func readBlob(ctx context.Context, place place, d digest.Digest, h hash.Hash, pace Pace) error {
	b, err := place.open(ctx, d)
	if err != nil {
		return err
	}
	defer b.Close() //nolint:errcheck // only read from
	for left := b.Size; left > 0; {
		n := min(left, checkBuffer)
		if err := pace(ctx, int(n)); err != nil {
			return err
		}
		if _, err := io.CopyN(h, b, n); errors.Is(err, io.EOF) {
			return nil // the digest says that something is missing
		} else if err != nil {
			return err
		}
		left -= n
	}
	return nil
}

// Quarantine takes a blob out of the store that Check found damaged: nobody finds it any more, so that it is not served,
// and Admit copies it anew. A blob that has taken its place since then stays, and moved is false.
//
// When the disk does not let go of it (it is read-only), the error says so, and this process does not find it any more
// all the same.
func (s *Store) Quarantine(ctx context.Context, d digest.Digest, seen Sighting) (moved bool, err error) {
	if err := checkDigest(d); err != nil {
		return false, err
	}
	switch place := s.place.(type) {
	case *files:
		if place.dir == "" {
			err = cause(place.driver.Delete(ctx, blobPath(d)))
			moved = err == nil
		} else {
			moved, err = place.quarantine(d, seen)
		}
	case *bucket:
		moved, err = place.quarantine(ctx, d, seen)
	}
	if err != nil {
		return false, fmt.Errorf("quarantine blob %s: %w", d, err)
	}
	return moved, nil
}

// Quarantined is a blob in quarantine.
type Quarantined struct {
	Digest digest.Digest
	Size   int64     // in bytes
	Since  time.Time // by the box's clock
}

// Quarantined lists what is in quarantine, the oldest first.
func (s *Store) Quarantined() ([]Quarantined, error) {
	f, ok := s.place.(*files)
	if !ok || f.dir == "" {
		return nil, nil
	}
	return f.quarantined()
}

// ClearQuarantine removes what is in quarantine, and gives how many bytes that were.
func (s *Store) ClearQuarantine() (bytes int64, err error) {
	all, err := s.Quarantined()
	if err != nil || len(all) == 0 {
		return 0, err
	}
	dir := s.place.(*files).quarantineDir() //nolint:forcetypeassert // others have none
	for _, q := range all {
		if err := os.RemoveAll(filepath.Join(dir, quarantineName(q.Digest))); err != nil {
			return bytes, err
		}
		bytes += q.Size
	}
	return bytes, durable.SyncDir(dir)
}

func quarantineName(d digest.Digest) string { return d.Algorithm().String() + "-" + d.Encoded() }

func (f *files) quarantineDir() string { return filepath.Join(f.dir, quarantineDir) }

func (f *files) blobFile(d digest.Digest) string {
	return filepath.Join(f.dir, filepath.FromSlash(blobPath(d)))
}

func (f *files) quarantine(d digest.Digest, seen Sighting) (moved bool, err error) {
	path, dir := f.blobFile(d), f.quarantineDir()
	if there, err := f.still(path, seen); err != nil || !there {
		return false, err
	}
	to := filepath.Join(dir, quarantineName(d))
	err = durable.MkdirAll(dir, 0o755)
	if err == nil {
		err = os.RemoveAll(to)
	}
	if err == nil {
		err = os.Rename(path, to)
	}
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		// A new name needs room that a full disk does not have. That the blob goes matters more than that it is kept.
		if err = os.RemoveAll(path); err == nil {
			return true, f.syncDir(filepath.Dir(path))
		}
	}
	if err != nil {
		f.distrusted.Store(d, seen.file)
		return false, err
	}
	if same, err := f.still(to, seen); err == nil && !same {
		// Between the look and the rename another process made the blob anew.
		return false, errors.Join(unix.Renameat2(unix.AT_FDCWD, to, unix.AT_FDCWD, path, unix.RENAME_NOREPLACE), f.syncDir(filepath.Dir(path)))
	}
	err = errors.Join(f.syncDir(dir), f.syncDir(filepath.Dir(path)))
	return true, errors.Join(err, f.trimQuarantine(d))
}

// still tells whether a name is that of the file that was seen.
func (f *files) still(path string, seen Sighting) (bool, error) {
	fi, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return sameFile(fi, seen.file), nil
}

// sameFile is os.SameFile, for file systems that give a number again.
func sameFile(a, b fs.FileInfo) bool {
	return a != nil && b != nil && os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// isDistrusted tells whether a file is one that was found damaged and that the disk does not let go of.
func (f *files) isDistrusted(d digest.Digest, fi fs.FileInfo) bool {
	bad, ok := f.distrusted.Load(d)
	if !ok {
		return false
	}
	if fi == nil {
		fi, _ = os.Stat(f.blobFile(d)) // nil, which is the same as nothing
	}
	seen, _ := bad.(fs.FileInfo)
	return sameFile(fi, seen)
}

func (f *files) quarantined() ([]Quarantined, error) {
	entries, err := os.ReadDir(f.quarantineDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []Quarantined
	for _, e := range entries {
		alg, hex, _ := strings.Cut(e.Name(), "-")
		d := digest.NewDigestFromEncoded(digest.Algorithm(alg), hex)
		fi, err := e.Info()
		if err != nil || checkDigest(d) != nil {
			continue
		}
		since := fi.ModTime()
		if st := changed(fi); !st.IsZero() {
			since = st // when it was renamed
		}
		all = append(all, Quarantined{Digest: d, Size: fi.Size(), Since: since})
	}
	slices.SortStableFunc(all, func(a, b Quarantined) int { return a.Since.Compare(b.Since) })
	return all, nil
}

// trimQuarantine removes the oldest until the rest is within the bounds. The last one that came goes at once when it is
// larger than all that may be there.
func (f *files) trimQuarantine(newest digest.Digest) error {
	all, err := f.quarantined()
	if err != nil {
		return err
	}
	bytes := int64(0)
	for i, q := range all {
		if q.Digest == newest { // clocks lie
			all = append(slices.Delete(all, i, i+1), q)
			break
		}
	}
	for _, q := range all {
		bytes += q.Size
	}
	for len(all) > maxQuarantined || len(all) > 0 && bytes > maxQuarantineBytes {
		if err := os.RemoveAll(filepath.Join(f.quarantineDir(), quarantineName(all[0].Digest))); err != nil {
			return err
		}
		bytes -= all[0].Size
		all = all[1:]
	}
	return nil
}

// sight gives what tells an object from one that is written over it.
func (b *bucket) sight(ctx context.Context, d digest.Digest) (Sighting, error) {
	key := b.key(blobPath(d))
	out, err := b.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &b.at.bucket, Key: &key})
	if err != nil {
		return Sighting{}, b.fail(ctx, "head", key, err)
	}
	return Sighting{Size: aws.ToInt64(out.ContentLength), etag: aws.ToString(out.ETag)}, nil
}

// quarantine deletes the object: what happened to it only those can find out who run the storage, and a copy of up to
// 5 GiB would be made by the very servers that damaged it.
func (b *bucket) quarantine(ctx context.Context, d digest.Digest, seen Sighting) (moved bool, err error) {
	now, err := b.sight(ctx, d)
	if errors.Is(err, fs.ErrNotExist) || err == nil && now != seen {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, b.delete(ctx, b.key(blobPath(d)))
}
