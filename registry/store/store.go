// Package store keeps blobs by their digest on a distribution/v3 storage driver.
//
// Admit is the only way in: what OpenBlob gives was hashed on its way to the disk, synced and then renamed, so that a
// blob is there whole or not at all, also after a power cut.
//
// The filesystem driver lays it out as blobs/<algorithm>/<first two hex digits>/<hex> and keeps unfinished blobs in
// ingest/<algorithm>-<hex>. Of distribution v3.1.2 the driver's Writer syncs the file on Commit, but Move syncs neither
// the folder that it renames into nor the folders that it makes; Admit does both.
package store

import (
	"context"
	_ "crypto/sha256" // go-digest hashes only with what is linked
	_ "crypto/sha512"
	"errors"
	"fmt"
	"io"
	"io/fs"
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

// Store holds blobs by digest (sha256 and sha512, OCI image-spec 1.1 "Digests"). It is safe for concurrent use.
type Store struct {
	driver storagedriver.StorageDriver
	dir    string   // of the filesystem driver; empty for all others
	busy   keyLocks // one Admit per digest in this process
	shards sync.Map // folders known to survive a power cut

	syncDir func(dir string) error // durable.SyncDir; tests watch it, because only a power cut would show that it is missing
}

// Open opens the store in a folder on the local disk, and makes the folder if need be. Several processes may have the
// same folder open.
func Open(dir string) (*Store, error) {
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
	s := New(filesystem.New(filesystem.DriverParameters{RootDirectory: dir, MaxThreads: maxThreads}))
	s.dir = dir
	return s, nil
}

// New gives a store on any storage driver. Durability is then the driver's, and only one process may admit at a time.
func New(driver storagedriver.StorageDriver) *Store {
	return &Store{driver: driver, syncDir: durable.SyncDir}
}

// Open opens a blob for reading; it implements bundle.Fetcher. What it gives was verified when it was admitted, not now.
func (s *Store) Open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	b, err := s.OpenBlob(ctx, desc.Digest)
	if err != nil {
		return nil, err
	}
	return b.ReadSeekCloser, nil
}

// Size gives the size of an admitted blob in bytes, or an error for which errors.Is(err, fs.ErrNotExist) holds.
func (s *Store) Size(ctx context.Context, d digest.Digest) (int64, error) {
	if err := checkDigest(d); err != nil {
		return 0, err
	}
	size, err := s.stat(ctx, blobPath(d))
	if err != nil {
		return 0, fmt.Errorf("stat blob %s: %w", d, err)
	}
	return size, nil
}

// Partial gives how many bytes of an unfinished Admit are kept, 0 if none. They are not verified yet.
func (s *Store) Partial(ctx context.Context, d digest.Digest) int64 {
	if checkDigest(d) != nil {
		return 0
	}
	size, err := s.stat(ctx, ingestPath(d))
	if err != nil {
		return 0
	}
	return size
}

// Walk calls fn for every admitted blob, in the order of algorithm and digest, until fn fails. A blob that is admitted
// meanwhile may be left out.
func (s *Store) Walk(ctx context.Context, fn func(d digest.Digest, size int64) error) error {
	for _, alg := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		shards, err := s.list(ctx, "/blobs/"+alg.String())
		if err != nil {
			return fmt.Errorf("walk store: %w", err)
		}
		for _, shard := range shards {
			if err := s.walkShard(ctx, alg, shard, fn); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Store) walkShard(ctx context.Context, alg digest.Algorithm, shard string, fn func(digest.Digest, int64) error) error {
	files, err := s.list(ctx, shard)
	if err != nil {
		return fmt.Errorf("walk store: %w", err)
	}
	for _, file := range files {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("walk store: %w", err)
		}
		d := digest.NewDigestFromEncoded(alg, path.Base(file))
		// A file that a person or a file system left here is not a blob: a digest made from its name could not be opened.
		if checkDigest(d) != nil || blobPath(d) != file {
			continue
		}
		size, err := s.stat(ctx, file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("walk store: %w", err)
		}
		if err := fn(d, size); err != nil {
			return err
		}
	}
	return nil
}

func checkDigest(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("digest %q: %w", d, err)
	}
	if alg := d.Algorithm(); alg != digest.SHA256 && alg != digest.SHA512 {
		return fmt.Errorf("digest %q: %w", d, digest.ErrDigestUnsupported)
	}
	return nil
}

// blobPath and ingestPath expect a valid digest, whose hex digits cannot leave the folder.
func blobPath(d digest.Digest) string {
	return "/blobs/" + d.Algorithm().String() + "/" + d.Encoded()[:2] + "/" + d.Encoded()
}

func ingestPath(d digest.Digest) string {
	return "/ingest/" + d.Algorithm().String() + "-" + d.Encoded()
}

func (s *Store) stat(ctx context.Context, p string) (int64, error) {
	fi, err := s.driver.Stat(ctx, p)
	if err != nil {
		return 0, cause(err)
	}
	return fi.Size(), nil
}

// list gives the sorted children of a folder; a folder that is not there has none.
func (s *Store) list(ctx context.Context, p string) ([]string, error) {
	children, err := s.driver.List(ctx, p)
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
