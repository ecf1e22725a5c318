// Package store keeps blobs by their digest, on a local disk, on any distribution/v3 storage driver, or in an S3 bucket.
//
// Admit is the only way in: what OpenBlob gives was hashed on its way into the store, so that a blob is there whole or not
// at all, and only after its digest matched. Reading does not hash again.
//
// # On a disk
//
// The filesystem driver lays it out as blobs/<algorithm>/<first two hex digits>/<hex> and keeps unfinished blobs in
// ingest/<algorithm>-<hex>. Of distribution v3.1.2 the driver's Writer syncs the file on Commit, but Move syncs neither
// the folder that it renames into nor the folders that it makes; Admit does both, so that the promise outlives a power
// cut. Any number of processes may admit at one time: one copies a blob, the others wait for it.
//
// # In S3
//
// Names are the same, below the prefix. A blob is the one object that a PUT makes (up to the chunk size) or that
// completing a multipart upload makes (above it); S3 shows neither before it is whole, and Admit asks for it only after
// the digest matched. Nothing is copied or moved afterwards, so that neither the 5 GiB limit of a copy nor a copy that
// dies half way can matter. ingest/<algorithm>-<hex> says how far an unfinished upload is: the hash up to the last whole
// part, a digest over the parts' ETags, and the bytes behind them. What holds:
//
//   - After kill -9 a blob goes on behind the last whole chunk, after any other error at the very byte.
//   - Several processes may admit at one time. They do not wait for each other and may copy one blob twice; who is later
//     may take over, or end, the upload of the other, which then starts once more or finds the blob there. What becomes
//     visible is still only what one of them hashed: parts are named by their ETags, and a part that another has
//     overwritten makes S3 refuse the upload. A server that does not compare ETags would void this, and only this.
//   - Admit, OpenBlob and Size never rely on a listing. Walk does, and with a server that lists late it leaves out blobs
//     that were just admitted.
//   - Multipart uploads that nobody continues are ended by the next Admit of the same blob that starts from its first
//     byte. What is left of blobs that nobody ever asks for again needs a lifecycle rule of the bucket
//     (AbortIncompleteMultipartUpload; expiry of ingest/).
//   - Whoever may write to the bucket can put anything into it, as with a disk.
//
// distribution's s3-aws driver is not used: its FileWriter, taken up again behind a part below 5 MiB, completes the
// upload and so shows half a blob; Move leaves its upload behind when a part fails; Stat answers a refused HEAD with a
// listing; and neither a certificate authority nor a time limit can be given to its client.
package store

import (
	"cmp"
	"context"
	_ "crypto/sha256" // go-digest hashes only with what is linked
	_ "crypto/sha512"
	"errors"
	"fmt"
	"hash"
	"io"

	storagedriver "github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Store holds blobs by digest (sha256 and sha512, OCI image-spec 1.1 "Digests"). It is safe for concurrent use.
type Store struct {
	place place
	busy  keyLocks // one Admit per digest in this process
}

// place is where a Store has its blobs. Its methods expect valid digests. Errors of a blob that is not there are
// fs.ErrNotExist.
type place interface {
	stat(ctx context.Context, d digest.Digest) (int64, error)
	partial(ctx context.Context, d digest.Digest) (int64, error)
	open(ctx context.Context, d digest.Digest) (*Blob, error)
	walk(ctx context.Context, alg digest.Algorithm, fn func(d digest.Digest, size int64) error) error
	redirect(ctx context.Context, d digest.Digest) (url string, ok bool, err error)
	// lock keeps other processes from admitting d, where the place can.
	lock(ctx context.Context, d digest.Digest) (unlock func(), err error)
	// settle makes a blob that was found durable.
	settle(d digest.Digest) error
	// discard removes what an unfinished Admit left.
	discard(ctx context.Context, d digest.Digest) error
	// ingest waits until there is memory for one more Admit.
	ingest(ctx context.Context, desc ocispec.Descriptor) (ingest, error)
}

// ingest is the unfinished copy of one blob, in the hands of one Admit. The hash that it is given is the admission's: it
// always stands behind the bytes that were written so far.
type ingest interface {
	// resume feeds the hash what an earlier Admit left; it is not usable when that is nothing, or is of no use.
	resume(ctx context.Context, h hash.Hash, advance func(n int64)) (usable bool, err error)
	// begin makes it ready for bytes behind the first have ones; 0 throws away what is left.
	begin(ctx context.Context, h hash.Hash, have int64) error
	// room is how many bytes the next write may have: a place that needs the hash at certain bytes says so.
	room() int64
	// write comes after the same bytes went into the hash.
	write(ctx context.Context, p []byte) error
	// commit makes the blob visible and durable. After an error it has kept what can be trusted and nothing else.
	commit(ctx context.Context) error
	// keep leaves what was written for the next Admit; broken says that a write failed.
	keep(ctx context.Context, broken bool) error
	// drop removes what was written.
	drop(ctx context.Context) error
	// close gives back memory and files.
	close()
}

// Open opens the store in a folder on the local disk, and makes the folder if need be. Several processes may have the
// same folder open.
func Open(dir string) (*Store, error) {
	f, err := openFiles(dir)
	if err != nil {
		return nil, err
	}
	return &Store{place: f}, nil
}

// New gives a store on any storage driver. Durability is then the driver's, and only one process may admit at a time.
func New(driver storagedriver.StorageDriver) *Store {
	return &Store{place: newFiles(driver)}
}

// Open opens a blob for reading; it implements bundle.Fetcher. What it gives was verified when it was admitted, not now.
func (s *Store) Open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	b, err := s.OpenBlob(ctx, desc.Digest)
	if err != nil {
		return nil, err
	}
	return b.ReadSeekCloser, nil
}

// OpenBlob opens an admitted blob at its first byte. It fails with an error for which errors.Is(err, fs.ErrNotExist)
// holds when there is none.
func (s *Store) OpenBlob(ctx context.Context, d digest.Digest) (*Blob, error) {
	if err := checkDigest(d); err != nil {
		return nil, err
	}
	b, err := s.place.open(ctx, d)
	if err != nil {
		return nil, fmt.Errorf("open blob %s: %w", d, err)
	}
	return b, nil
}

// Redirect gives a URL from which a client can GET an admitted blob without any credentials of its own, for a bounded
// time: Options.RedirectLife, or less when the credentials that sign it end before. ok is false when the store has no
// such URLs. It does not ask whether the blob is there.
func (s *Store) Redirect(ctx context.Context, d digest.Digest) (url string, ok bool, err error) {
	if err := checkDigest(d); err != nil {
		return "", false, err
	}
	url, ok, err = s.place.redirect(ctx, d)
	if err != nil {
		return "", false, fmt.Errorf("redirect to blob %s: %w", d, err)
	}
	return url, ok, nil
}

// Size gives the size of an admitted blob in bytes, or an error for which errors.Is(err, fs.ErrNotExist) holds.
func (s *Store) Size(ctx context.Context, d digest.Digest) (int64, error) {
	if err := checkDigest(d); err != nil {
		return 0, err
	}
	size, err := s.place.stat(ctx, d)
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
	size, err := s.place.partial(ctx, d)
	if err != nil {
		return 0
	}
	return size
}

// Walk calls fn for every admitted blob, in the order of algorithm and digest, until fn fails. A blob that is admitted
// meanwhile may be left out. What the disk does not give is passed over, and named by an *UnlistedError at the end.
func (s *Store) Walk(ctx context.Context, fn func(d digest.Digest, size int64) error) error {
	var unlisted UnlistedError
	for _, alg := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		err := s.place.walk(ctx, alg, fn)
		var some *UnlistedError
		if errors.As(err, &some) {
			unlisted.Paths, unlisted.Err = append(unlisted.Paths, some.Paths...), cmp.Or(unlisted.Err, some.Err)
		} else if err != nil {
			return err
		}
	}
	return unlisted.orNil()
}

// UnlistedError says that Walk went past folders or files that the disk did not give.
type UnlistedError struct {
	Paths []string // below the store's folder
	Err   error    // of the first one
}

func (e *UnlistedError) Error() string {
	return fmt.Sprintf("walk store: %d folders or files cannot be read, the first is %s: %v", len(e.Paths), e.Paths[0], e.Err)
}

func (e *UnlistedError) Unwrap() error { return e.Err }

func (e *UnlistedError) add(path string, err error) {
	e.Paths, e.Err = append(e.Paths, path), cmp.Or(e.Err, err)
}

func (e *UnlistedError) orNil() error {
	if len(e.Paths) == 0 {
		return nil
	}
	return e
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
