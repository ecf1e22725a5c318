package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go/logging"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/semaphore"
)

// octets is the media type of every object: what a presigned URL serves must not be taken for a page.
const octets = "application/octet-stream"

// bucket is the place of blobs in S3.
type bucket struct {
	at      location
	client  *s3.Client
	presign *s3.PresignClient // nil: no redirects
	life    time.Duration     // of presigned URLs
	memory  *semaphore.Weighted
	stall   time.Duration
}

func openS3(ctx context.Context, at location, o Options) (*Store, error) {
	b, err := newBucket(ctx, at, o, stallTimeout)
	if err != nil {
		return nil, err
	}
	if err := b.check(ctx); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	return &Store{place: b}, nil
}

func newBucket(ctx context.Context, at location, o Options, stall time.Duration) (*bucket, error) {
	cfg, err := config.LoadDefaultConfig(ctx, config.WithRegion(at.region), config.WithLogger(logging.Nop{}))
	if err != nil {
		return nil, fmt.Errorf("open store: AWS configuration: %w", err)
	}
	if cfg.Credentials == nil {
		return nil, &CredentialsError{errors.New("no source")}
	}
	if _, err := cfg.Credentials.Retrieve(ctx); err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("open store: %w", ctx.Err())
		}
		return nil, &CredentialsError{err}
	}
	base, ok := cfg.HTTPClient.(*awshttp.BuildableClient)
	if !ok {
		base = awshttp.NewBuildableClient()
	}
	b := &bucket{at: at, life: o.RedirectLife, memory: semaphore.NewWeighted(at.memory), stall: stall}
	client, err := httpClient(base, at.caFile, b.stall)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	options := func(so *s3.Options) {
		so.HTTPClient = client
		so.UsePathStyle = at.pathStyle
		if at.endpoint != "" {
			so.BaseEndpoint = aws.String(at.endpoint)
		}
		// Parts go with a Content-MD5, which every server knows; the newer trailing checksums some refuse.
		so.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
		so.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
		so.DisableLogOutputChecksumValidationSkipped = true
	}
	b.client = s3.NewFromConfig(cfg, options)
	if o.Redirect {
		if b.life == 0 {
			b.life = defaultRedirectLife
		}
		b.presign = s3.NewPresignClient(s3.NewFromConfig(cfg, options, func(so *s3.Options) {
			if at.redirectEndpoint != "" {
				so.BaseEndpoint = aws.String(at.redirectEndpoint)
			}
		}))
	}
	return b, nil
}

// check asks for a listing of one name: other than HEAD its answer says what is wrong, and without the right to list S3
// answers "refused" for a blob that is not there.
func (b *bucket) check(ctx context.Context) error {
	_, err := b.list(ctx, &s3.ListObjectsV2Input{
		Bucket: &b.at.bucket, Prefix: aws.String(b.at.prefix + "blobs/"), MaxKeys: aws.Int32(1),
	})
	return b.fail(ctx, "list", "", err)
}

func (b *bucket) list(ctx context.Context, in *s3.ListObjectsV2Input) (*s3.ListObjectsV2Output, error) {
	out, err := b.client.ListObjectsV2(ctx, in)
	if err == nil && out.IsTruncated == nil {
		return nil, errors.New("the answer is no listing") // as the page of a proxy, which the SDK takes for an empty one
	}
	return out, err
}

// key gives the object's name for a path that begins with a slash.
func (b *bucket) key(p string) string { return b.at.prefix + p[1:] }

func (b *bucket) stat(ctx context.Context, d digest.Digest) (int64, error) {
	key := b.key(blobPath(d))
	out, err := b.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &b.at.bucket, Key: &key})
	if err != nil {
		return 0, b.fail(ctx, "head", key, err)
	}
	if out.ContentLength == nil {
		return 0, b.fail(ctx, "head", key, errors.New("an answer without a length"))
	}
	return *out.ContentLength, nil
}

func (b *bucket) open(ctx context.Context, d digest.Digest) (*Blob, error) {
	size, err := b.stat(ctx, d)
	if err != nil {
		return nil, err
	}
	key := b.key(blobPath(d))
	open := func(ctx context.Context, offset int64) (io.ReadCloser, error) { return b.get(ctx, key, offset, size) }
	return &Blob{ReadSeekCloser: &reopener{ctx: ctx, size: size, open: open}, Size: size}, nil
}

// get opens an object at an offset below its size, which is -1 when it is not known. An answer with other bytes is an
// error: they would be sent to a robot as the blob's.
func (b *bucket) get(ctx context.Context, key string, offset, size int64) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancelCause(context.WithValue(ctx, blobKey{}, true))
	in := &s3.GetObjectInput{Bucket: &b.at.bucket, Key: &key}
	if offset > 0 {
		in.Range = aws.String(fmt.Sprintf("bytes=%d-", offset))
	}
	out, err := b.client.GetObject(ctx, in)
	if err != nil {
		err = b.fail(ctx, "get", key, err)
		cancel(nil)
		return nil, err
	}
	if size < 0 && out.ContentLength != nil {
		size = *out.ContentLength
	}
	want := ""
	if offset > 0 {
		want = fmt.Sprintf("bytes %d-%d/%d", offset, size-1, size)
	}
	if got := aws.ToString(out.ContentRange); got != want || out.ContentLength == nil || *out.ContentLength != size-offset {
		err := fmt.Errorf("asked for bytes %d to %d, the answer has %d bytes, range %q", offset, size, aws.ToInt64(out.ContentLength), clean(got))
		err = b.fail(ctx, "get", key, err)
		cancel(nil)
		return nil, errors.Join(err, out.Body.Close())
	}
	timer := time.AfterFunc(b.stall, func() { cancel(ErrStalled) })
	timer.Stop()
	return &blobBody{
		body: out.Body, left: size - offset, stall: b.stall, cancel: cancel, timer: timer,
		fail: func(err error) error { return b.fail(ctx, "get", key, err) },
	}, nil
}

// walk lists names and sizes a thousand at a time.
func (b *bucket) walk(ctx context.Context, alg digest.Algorithm, fn func(digest.Digest, int64) error) error {
	in := &s3.ListObjectsV2Input{Bucket: &b.at.bucket, Prefix: aws.String(b.key("/blobs/" + alg.String() + "/"))}
	var last digest.Digest
	for {
		out, err := b.list(ctx, in)
		if err != nil {
			return fmt.Errorf("walk store: %w", b.fail(ctx, "list", *in.Prefix, err))
		}
		for _, object := range out.Contents {
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("walk store: %w", err)
			}
			key := aws.ToString(object.Key)
			d := digest.NewDigestFromEncoded(alg, path.Base(key))
			// An object that a person put here is not a blob: a digest made from its name could not be opened.
			if checkDigest(d) != nil || b.key(blobPath(d)) != key || object.Size == nil {
				continue
			}
			if d <= last {
				// A server that gives one page again and again would never let this end.
				return fmt.Errorf("walk store: %w", b.fail(ctx, "list", *in.Prefix, fmt.Errorf("%s comes after %s", d, last)))
			}
			last = d
			if err := fn(d, *object.Size); err != nil {
				return err
			}
		}
		if !aws.ToBool(out.IsTruncated) {
			return nil
		}
		next := aws.ToString(out.NextContinuationToken)
		if next == "" || next == aws.ToString(in.ContinuationToken) {
			return fmt.Errorf("walk store: %w", b.fail(ctx, "list", *in.Prefix, errors.New("a listing that does not go on")))
		}
		in.ContinuationToken = &next
	}
}

func (b *bucket) redirect(ctx context.Context, d digest.Digest) (string, bool, error) {
	if b.presign == nil {
		return "", false, nil
	}
	key := b.key(blobPath(d))
	req, err := b.presign.PresignGetObject(ctx, &s3.GetObjectInput{
		Bucket: &b.at.bucket, Key: &key, ResponseContentType: aws.String(octets),
	}, s3.WithPresignExpires(b.life))
	if err != nil {
		return "", false, b.fail(ctx, "presign", key, err)
	}
	return req.URL, true, nil
}

// lock is held against no other process: S3 has no lock that dies with its holder. See the package comment.
func (b *bucket) lock(context.Context, digest.Digest) (func(), error) { return func() {}, nil }

// settle has nothing to do: what S3 has answered for is durable.
func (b *bucket) settle(digest.Digest) error { return nil }

func (b *bucket) delete(ctx context.Context, key string) error {
	_, err := b.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &b.at.bucket, Key: &key})
	return b.fail(ctx, "delete", key, err)
}
