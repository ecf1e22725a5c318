package store

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"strings"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

const (
	// objectsDir is the folder of small objects, beside blobs/ and ingest/.
	objectsDir = "site/"
	// objectTime bounds a request for a small object, with what the SDK tries again.
	objectTime = time.Minute
	// settleTime is how long a server may have an object's tag before its bytes.
	settleTime = 100 * time.Millisecond
	// maxObjects bounds a listing of small objects.
	maxObjects = 100_000
)

// NoObject and AnyObject are what Put may replace beside an object whose tag is known.
const (
	NoObject  = ""
	AnyObject = "*"
)

// ErrPrecondition says that S3 has not put an object, because the one that is there is not the one to be replaced.
var ErrPrecondition = errors.New("another object is there than the one to be replaced")

// Objects are small objects beside the blobs of a store in S3, below <prefix>/site/. Each is put and got whole. They have
// tags (S3's ETags), and a Put that names the tag which it replaces is done by S3 in one step or not at all: several
// processes can agree by that. It is safe for concurrent use.
type Objects struct {
	b      *bucket
	opaque atomic.Bool // the server's ETags are no MD5 sums, or one was not lately
}

// Objects gives the small objects beside the blobs, nil where there are none: on a disk.
func (s *Store) Objects() *Objects {
	b, ok := s.place.(*bucket)
	if !ok {
		return nil
	}
	return &Objects{b: b}
}

var objectPattern = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}(/[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}){0,3}$`)

func (o *Objects) key(name string) (string, error) {
	if !objectPattern.MatchString(name) {
		return "", fmt.Errorf("object %q: not a name", name)
	}
	return o.b.at.prefix + objectsDir + name, nil
}

// Get reads an object of up to limit bytes. The error of one that is not there is fs.ErrNotExist.
//
// Servers that keep tags apart from bytes (versitygw with --sidecar) can give the tag of what is just being put with the
// bytes from before: whoever believed that would miss the change for ever. So, where a tag could be the MD5 sum of the
// bytes and is not, the object is got until two answers agree.
func (o *Objects) Get(ctx context.Context, name string, limit int64) (data []byte, tag string, err error) {
	key, err := o.key(name)
	if err != nil {
		return nil, "", err
	}
	ctx, cancel := context.WithTimeoutCause(context.WithValue(ctx, blobKey{}, true), objectTime, ErrStalled)
	defer cancel()
	for first := true; ; first = false {
		again, newTag, err := o.get(ctx, key, limit)
		if err != nil {
			return nil, "", o.b.fail(ctx, "get", key, err)
		}
		switch same := !first && tag == newTag && bytes.Equal(again, data); {
		case tagOf(again) == newTag:
			o.opaque.Store(false)
			return again, newTag, nil
		case same:
			o.opaque.Store(true) // encryption can be the reason
			return again, newTag, nil
		case o.opaque.Load(), !md5Pattern.MatchString(newTag):
			return again, newTag, nil
		}
		data, tag = again, newTag
		select {
		case <-ctx.Done():
			return nil, "", o.b.fail(ctx, "get", key, ctx.Err())
		case <-time.After(settleTime):
		}
	}
}

var md5Pattern = regexp.MustCompile(`^"[0-9a-f]{32}"$`)

func tagOf(data []byte) string {
	sum := md5.Sum(data)
	return `"` + hex.EncodeToString(sum[:]) + `"`
}

func (o *Objects) get(ctx context.Context, key string, limit int64) (data []byte, tag string, err error) {
	out, err := o.b.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &o.b.at.bucket, Key: &key})
	if err != nil {
		return nil, "", err
	}
	data, err = io.ReadAll(io.LimitReader(out.Body, limit+1))
	err = errors.Join(err, out.Body.Close())
	switch {
	case err != nil:
	case int64(len(data)) > limit:
		err = fmt.Errorf("more than %d bytes", limit)
	case out.ContentLength != nil && *out.ContentLength != int64(len(data)):
		err = io.ErrUnexpectedEOF
	case aws.ToString(out.ETag) == "":
		err = errors.New("an answer without an ETag")
	}
	return data, aws.ToString(out.ETag), err
}

// Tag gives the tag of an object without its bytes. The error of one that is not there is fs.ErrNotExist.
func (o *Objects) Tag(ctx context.Context, name string) (string, error) {
	key, err := o.key(name)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, objectTime, ErrStalled)
	defer cancel()
	out, err := o.b.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &o.b.at.bucket, Key: &key})
	if err == nil && aws.ToString(out.ETag) == "" {
		err = errors.New("an answer without an ETag")
	}
	if err != nil {
		return "", o.b.fail(ctx, "head", key, err)
	}
	return *out.ETag, nil
}

// Put writes an object in place of the one with the tag replaces, NoObject if there must be none, AnyObject whatever is
// there, and gives its tag. The error is ErrPrecondition when something else is there; it may then be this very object,
// put by a request whose answer was lost. After any other error it may be there, or come to be there later.
func (o *Objects) Put(ctx context.Context, name string, data []byte, replaces string) (tag string, err error) {
	key, err := o.key(name)
	if err != nil {
		return "", err
	}
	in := &s3.PutObjectInput{
		Bucket: &o.b.at.bucket, Key: &key, ContentType: aws.String(octets),
		Body: bytes.NewReader(data), ContentLength: aws.Int64(int64(len(data))), ContentMD5: contentMD5(data),
	}
	switch replaces {
	case NoObject:
		in.IfNoneMatch = aws.String("*")
	case AnyObject:
	default:
		in.IfMatch = &replaces
	}
	ctx, cancel := context.WithTimeoutCause(ctx, objectTime, ErrStalled)
	defer cancel()
	out, err := o.b.client.PutObject(ctx, in)
	if err == nil && aws.ToString(out.ETag) == "" {
		err = errors.New("an answer without an ETag")
	}
	err = o.b.fail(ctx, "put", key, err)
	if replaces != AnyObject && errors.Is(err, fs.ErrNotExist) { // the one to be replaced is gone
		return "", errors.Join(ErrPrecondition, err)
	}
	if err != nil {
		return "", err
	}
	return *out.ETag, nil
}

// Delete removes an object, if it is there.
func (o *Objects) Delete(ctx context.Context, name string) error {
	key, err := o.key(name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, objectTime, ErrStalled)
	defer cancel()
	if err := o.b.delete(ctx, key); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// List gives the names of the objects in a folder, with the folder, in S3's order. What is not a name is left out.
func (o *Objects) List(ctx context.Context, folder string) ([]string, error) {
	key, err := o.key(folder)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, objectTime, ErrStalled)
	defer cancel()
	in := &s3.ListObjectsV2Input{Bucket: &o.b.at.bucket, Prefix: aws.String(key + "/"), Delimiter: aws.String("/")}
	var names []string
	for {
		out, err := o.b.list(ctx, in)
		if err != nil {
			return nil, o.b.fail(ctx, "list", *in.Prefix, err)
		}
		for _, object := range out.Contents {
			rest, ok := strings.CutPrefix(aws.ToString(object.Key), *in.Prefix)
			if !ok || strings.Contains(rest, "/") || !objectPattern.MatchString(rest) {
				continue
			}
			if names = append(names, folder+"/"+rest); len(names) > maxObjects {
				return nil, o.b.fail(ctx, "list", *in.Prefix, fmt.Errorf("more than %d objects", maxObjects))
			}
		}
		if !aws.ToBool(out.IsTruncated) {
			return names, nil
		}
		next := aws.ToString(out.NextContinuationToken)
		if next == "" || next == aws.ToString(in.ContinuationToken) {
			return nil, o.b.fail(ctx, "list", *in.Prefix, errors.New("a listing that does not go on"))
		}
		in.ContinuationToken = &next
	}
}
