package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/plimsoll/plimsoll/internal/durable"
)

// deleters is how many folders, or objects of a bucket, Delete works at in one moment: a file system puts syncs that wait
// together into one.
const deleters = 32

// Delete removes blobs, so that they do not come back after a power cut. One that is not there is no error, so that what
// was cut can be repeated; after an error some may be gone. On a disk it needs no room, and who has a blob open reads it
// to its end.
//
// It asks nobody whether a blob is needed, and an Admit at the same time may have found it there just before: the caller
// keeps away whoever relies on these blobs.
func (s *Store) Delete(ctx context.Context, blobs ...digest.Digest) error {
	for _, d := range blobs {
		if err := checkDigest(d); err != nil {
			return fmt.Errorf("delete blob: %w", err)
		}
	}
	var err error
	switch place := s.place.(type) {
	case *files:
		err = place.deleteBlobs(ctx, blobs)
	case *bucket:
		err = place.deleteBlobs(ctx, blobs)
	default:
		err = errors.ErrUnsupported
	}
	if err != nil {
		return fmt.Errorf("delete blobs: %w", err)
	}
	return nil
}

// deleteBlobs syncs each folder once, however many of its blobs go.
func (f *files) deleteBlobs(ctx context.Context, blobs []digest.Digest) error {
	shards := make(map[string][]digest.Digest)
	for _, d := range blobs {
		shards[path.Dir(blobPath(d))] = append(shards[path.Dir(blobPath(d))], d)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(deleters)
	for _, all := range shards {
		g.Go(func() error { return f.deleteShard(ctx, all) })
	}
	return g.Wait()
}

// deleteShard removes blobs of one folder.
func (f *files) deleteShard(ctx context.Context, blobs []digest.Digest) (err error) {
	if f.dir != "" {
		// Also when it is interrupted: what is gone is gone for good.
		defer func() { err = errors.Join(err, ignoreNotExist(f.syncDir(f.shard(blobs[0])))) }()
	}
	for _, d := range blobs {
		if err := ctx.Err(); err != nil {
			return err
		}
		if f.dir == "" {
			err = ignoreNotExist(cause(f.driver.Delete(ctx, blobPath(d))))
		} else {
			err = os.RemoveAll(filepath.Join(f.dir, filepath.FromSlash(blobPath(d)))) // a folder must not stay for having a blob's name
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// deleteBlobs asks for one object at a time: not every server takes a list.
func (b *bucket) deleteBlobs(ctx context.Context, blobs []digest.Digest) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(deleters)
	for _, d := range blobs {
		g.Go(func() error { return ignoreNotExist(b.delete(ctx, b.key(blobPath(d)))) })
	}
	return g.Wait()
}

// Unfinished is what an Admit has left that was cut.
type Unfinished struct {
	Digest digest.Digest
	Size   int64     // bytes that are kept
	Since  time.Time // when the last of them came, by the clock of the disk or of S3
}

// Unfinished lists what Admits have left that were cut, and those that are running, sorted by digest.
func (s *Store) Unfinished(ctx context.Context) ([]Unfinished, error) {
	var all []Unfinished
	var err error
	switch place := s.place.(type) {
	case *files:
		all, err = place.unfinished(ctx)
	case *bucket:
		all, err = place.unfinished(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("list unfinished blobs: %w", err)
	}
	slices.SortFunc(all, func(a, b Unfinished) int { return strings.Compare(string(a.Digest), string(b.Digest)) })
	return all, nil
}

// ingestDigest is ingestPath backwards. A name that a person or a file system left there is none.
func ingestDigest(name string) (digest.Digest, bool) {
	alg, hex, _ := strings.Cut(path.Base(name), "-")
	d := digest.NewDigestFromEncoded(digest.Algorithm(alg), hex)
	return d, checkDigest(d) == nil
}

func (f *files) unfinished(ctx context.Context) ([]Unfinished, error) {
	names, err := f.list(ctx, "/ingest")
	if err != nil {
		return nil, err
	}
	var all []Unfinished
	for _, name := range names {
		d, ok := ingestDigest(name)
		if !ok {
			continue
		}
		fi, err := f.driver.Stat(ctx, name)
		if err = cause(err); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, Unfinished{Digest: d, Size: fi.Size(), Since: fi.ModTime()})
	}
	return all, nil
}

// maxUnfinished bounds what is listed of a bucket; the next collection sees the rest.
const maxUnfinished = 100_000

func (b *bucket) unfinished(ctx context.Context) ([]Unfinished, error) {
	in := &s3.ListObjectsV2Input{Bucket: &b.at.bucket, Prefix: aws.String(b.key("/ingest/"))}
	var all []Unfinished
	for {
		out, err := b.list(ctx, in)
		if err != nil {
			return nil, b.fail(ctx, "list", *in.Prefix, err)
		}
		for _, object := range out.Contents {
			d, ok := ingestDigest(aws.ToString(object.Key))
			if !ok || aws.ToString(object.Key) != b.key(ingestPath(d)) || len(all) >= maxUnfinished {
				continue
			}
			u := Unfinished{Digest: d, Size: aws.ToInt64(object.Size), Since: aws.ToTime(object.LastModified)}
			if n, err := b.partial(ctx, d); err == nil {
				u.Size = n
			}
			all = append(all, u)
		}
		next := aws.ToString(out.NextContinuationToken)
		if !aws.ToBool(out.IsTruncated) || next == "" || next == aws.ToString(in.ContinuationToken) {
			return all, nil
		}
		in.ContinuationToken = &next
	}
}

// Discard removes what a cut Admit has left. It leaves one that is running alone, where that can be seen: on a disk.
func (s *Store) Discard(ctx context.Context, d digest.Digest) (gone bool, err error) {
	if err := checkDigest(d); err != nil {
		return false, fmt.Errorf("discard unfinished blob: %w", err)
	}
	switch place := s.place.(type) {
	case *files:
		if place.dir != "" {
			gone, err = place.discardIdle(d)
		} else {
			gone, err = true, place.discard(ctx, d)
		}
	case *bucket:
		gone, err = true, place.discardUpload(ctx, d)
	}
	if err != nil {
		return false, fmt.Errorf("discard unfinished blob %s: %w", d, err)
	}
	return gone, nil
}

// discardIdle removes a file that nobody has locked. It makes none, as lockFile would: the disk may be full.
func (f *files) discardIdle(d digest.Digest) (gone bool, err error) {
	name := filepath.Join(f.dir, filepath.FromSlash(ingestPath(d)))
	file, err := os.OpenFile(name, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer file.Close() // gives the lock back; nothing was written
	if idle, err := durable.TryLock(file); !idle || err != nil {
		return false, err
	}
	mine, err := file.Stat()
	if err != nil {
		return false, err
	}
	if named, err := os.Stat(name); err != nil || !os.SameFile(mine, named) {
		return false, ignoreNotExist(err) // its owner has made it a blob, or another file
	}
	if err := os.Remove(name); err != nil {
		return false, err
	}
	return true, f.syncDir(filepath.Dir(name))
}

// discardUpload ends the uploads of a blob before their state goes, by which one would find them again.
func (b *bucket) discardUpload(ctx context.Context, d digest.Digest) error {
	i := &s3Ingest{b: b, key: b.key(blobPath(d)), state: b.key(ingestPath(d))}
	s, _, body, err := b.openState(ctx, d)
	var bad *stateError
	switch {
	case err == nil:
		if err := body.Close(); err != nil {
			return err
		}
		i.upload = s.Upload
	case !errors.As(err, &bad) && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	i.saved = true
	if err := i.drop(ctx); err != nil {
		return err
	}
	return i.sweep(ctx)
}
