package store

import (
	"bufio"
	"bytes"
	"context"
	"crypto/md5"
	"encoding"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// s3Ingest is an unfinished upload. Parts go to the multipart upload of the blob's own key, which shows nothing until it
// is completed; a blob of up to one chunk goes as one object.
type s3Ingest struct {
	b     *bucket
	desc  ocispec.Descriptor
	key   string // of the blob
	state string // key of the state
	chunk int64
	hash  hash.Hash

	frame  []byte // room for a state's line, and for buf behind it
	buf    []byte // the bytes behind the parts; its capacity is what the memory bound counts
	mark   []byte // state of the hash behind the parts
	next   []byte // state of the hash behind buf, when buf is a whole part
	upload string
	parts  []types.CompletedPart
	saved  bool // there is, or may be, a state in the bucket
}

// chunkFor is the size of a part: the chunk size, or more where a blob would have too many parts.
func (b *bucket) chunkFor(size int64) int64 {
	const step = 1 << 20
	least := (size + maxParts - 1) / maxParts
	return max(b.at.chunk, (least+step-1)/step*step)
}

func (b *bucket) ingest(ctx context.Context, desc ocispec.Descriptor) (ingest, error) {
	chunk := b.chunkFor(desc.Size)
	need := min(chunk, desc.Size)
	if need > b.at.memory {
		return nil, fmt.Errorf("%d bytes go in parts of %d, more than upload-memory has: %d", desc.Size, chunk, b.at.memory)
	}
	if err := b.memory.Acquire(ctx, need); err != nil {
		return nil, err
	}
	frame := make([]byte, maxStateHead+need)
	return &s3Ingest{
		b: b, desc: desc, chunk: chunk, frame: frame, buf: frame[maxStateHead:maxStateHead],
		key: b.key(blobPath(desc.Digest)), state: b.key(ingestPath(desc.Digest)),
	}, nil
}

func (i *s3Ingest) close() {
	i.b.memory.Release(int64(cap(i.buf)))
	i.frame, i.buf = nil, nil
}

func (b *bucket) partial(ctx context.Context, d digest.Digest) (int64, error) {
	s, _, body, err := b.openState(ctx, d)
	if err != nil {
		return 0, err
	}
	return s.have(), body.Close()
}

// openState opens the state of a blob behind its first line.
func (b *bucket) openState(ctx context.Context, d digest.Digest) (*state, io.Reader, io.Closer, error) {
	body, err := b.get(ctx, b.key(ingestPath(d)), 0, -1)
	if err != nil {
		return nil, nil, nil, err
	}
	r := bufio.NewReaderSize(body, maxStateHead)
	s, err := readState(r)
	if err == nil && s.Digest != d {
		err = &stateError{"of another blob"}
	}
	if err != nil {
		return nil, nil, nil, errors.Join(err, body.Close())
	}
	return s, r, body, nil
}

func (b *bucket) discard(ctx context.Context, d digest.Digest) error {
	return b.delete(ctx, b.key(ingestPath(d)))
}

func (i *s3Ingest) resume(ctx context.Context, h hash.Hash, advance func(int64)) (usable bool, err error) {
	s, r, body, err := i.b.openState(ctx, i.desc.Digest)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	i.saved = true
	var bad *stateError
	if errors.As(err, &bad) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	i.upload = s.Upload // whatever comes, drop and begin know it
	fits := s.Size == i.desc.Size && s.Chunk == i.chunk && s.Tail <= int64(cap(i.buf))
	if !fits {
		return false, body.Close()
	}
	i.buf = i.buf[:s.Tail]
	_, err = io.ReadFull(r, i.buf)
	if err := errors.Join(err, body.Close()); err != nil {
		i.buf = i.buf[:0]
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) && ctx.Err() == nil {
			return false, nil
		}
		return false, err
	}
	if usable, err = i.resumeParts(ctx, s, h); !usable || err != nil {
		i.buf = i.buf[:0]
		return false, err
	}
	advance(int64(s.Parts) * i.chunk)
	h.Write(i.buf)
	advance(s.Tail)
	return true, i.markFull(h)
}

// resumeParts compares the parts with what the state says, and puts the hash behind them.
func (i *s3Ingest) resumeParts(ctx context.Context, s *state, h hash.Hash) (usable bool, err error) {
	if s.Parts > 0 {
		parts, err := i.b.listParts(ctx, i.key, s.Upload, s.Parts, i.chunk)
		if errors.Is(err, errOvertaken) {
			i.upload = ""
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if len(parts) != s.Parts || etagSum(parts) != s.ETags {
			return false, nil
		}
		i.parts = parts
	}
	un, ok := h.(encoding.BinaryUnmarshaler)
	if !ok || un.UnmarshalBinary(s.Hash) != nil { // another Go version's
		i.parts = nil
		return false, nil
	}
	// The hash may have taken the state and still not be where the parts are. Then the digest will not match.
	i.mark = s.Hash
	return true, nil
}

// listParts gives the first n parts of an upload, or less when one is missing or is not a whole chunk.
func (b *bucket) listParts(ctx context.Context, key, upload string, n int, chunk int64) ([]types.CompletedPart, error) {
	in := &s3.ListPartsInput{Bucket: &b.at.bucket, Key: &key, UploadId: &upload}
	var parts []types.CompletedPart
	for {
		out, err := b.client.ListParts(ctx, in)
		if err != nil {
			return nil, b.fail(ctx, "list parts", key, err)
		}
		for _, p := range out.Parts {
			if len(parts) == n {
				return parts, nil
			}
			if int(aws.ToInt32(p.PartNumber)) != len(parts)+1 || aws.ToInt64(p.Size) != chunk {
				return parts, nil
			}
			parts = append(parts, types.CompletedPart{PartNumber: p.PartNumber, ETag: p.ETag})
		}
		marker := aws.ToString(out.NextPartNumberMarker)
		if !aws.ToBool(out.IsTruncated) || marker == "" || marker == aws.ToString(in.PartNumberMarker) {
			return parts, nil
		}
		in.PartNumberMarker = &marker
	}
}

func (i *s3Ingest) begin(ctx context.Context, h hash.Hash, have int64) error {
	i.hash = h
	if have > 0 {
		return nil
	}
	if err := i.drop(ctx); err != nil {
		return err
	}
	if i.desc.Size > i.chunk {
		if err := i.sweep(ctx); err != nil {
			return err
		}
	}
	var err error
	i.mark, err = marshalHash(h)
	return err
}

// sweep ends uploads of this blob that no state knows: a process died between beginning one and saying so.
func (i *s3Ingest) sweep(ctx context.Context) error {
	out, err := i.b.client.ListMultipartUploads(ctx, &s3.ListMultipartUploadsInput{Bucket: &i.b.at.bucket, Prefix: &i.key})
	if err != nil {
		err = i.b.fail(ctx, "list uploads", i.key, err)
		if errors.Is(err, fs.ErrPermission) {
			return nil // without this right the bucket's lifecycle rule has to do it
		}
		var e *S3Error
		if errors.As(err, &e) && (e.Code == "NotImplemented" || e.Code == "MethodNotAllowed") {
			return nil
		}
		return err
	}
	for _, u := range out.Uploads { // up to 1000: the next sweep takes the rest
		if aws.ToString(u.Key) == i.key && u.UploadId != nil {
			if err := i.abort(ctx, *u.UploadId); err != nil {
				return err
			}
		}
	}
	return nil
}

func (i *s3Ingest) abort(ctx context.Context, upload string) error {
	_, err := i.b.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &i.b.at.bucket, Key: &i.key, UploadId: &upload})
	err = i.b.fail(ctx, "end upload", i.key, err)
	if errors.Is(err, errOvertaken) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (i *s3Ingest) room() int64 {
	return i.chunk - int64(len(i.buf))%i.chunk
}

func (i *s3Ingest) write(ctx context.Context, p []byte) error {
	if int64(len(i.buf)) == i.chunk {
		if err := i.flush(ctx); err != nil {
			return err
		}
	}
	i.buf = append(i.buf, p...)
	return i.markFull(i.hash)
}

// markFull keeps the state of the hash at the end of a whole part. The part is sent only when more follows: the last one
// goes with commit, after the digest was compared.
func (i *s3Ingest) markFull(h hash.Hash) (err error) {
	if int64(len(i.buf)) == i.chunk {
		i.next, err = marshalHash(h)
	}
	return err
}

// flush sends a whole part and says so in the state.
func (i *s3Ingest) flush(ctx context.Context) error {
	if i.upload == "" {
		out, err := i.b.client.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{
			Bucket: &i.b.at.bucket, Key: &i.key, ContentType: aws.String(octets),
		})
		if err != nil {
			return i.b.fail(ctx, "begin upload", i.key, err)
		}
		if i.upload = aws.ToString(out.UploadId); i.upload == "" {
			return i.b.fail(ctx, "begin upload", i.key, errors.New("an answer without an upload ID"))
		}
		// Before the first part, so that a process that is killed leaves no upload that nobody knows.
		if err := i.save(ctx, 0); err != nil {
			return err
		}
	}
	if err := i.sendPart(ctx); err != nil {
		return err
	}
	i.mark = i.next
	return i.save(ctx, 0)
}

func (i *s3Ingest) sendPart(ctx context.Context) error {
	number := aws.Int32(int32(len(i.parts)) + 1)
	out, err := i.b.client.UploadPart(ctx, &s3.UploadPartInput{
		Bucket: &i.b.at.bucket, Key: &i.key, UploadId: &i.upload, PartNumber: number,
		Body: bytes.NewReader(i.buf), ContentLength: aws.Int64(int64(len(i.buf))), ContentMD5: contentMD5(i.buf),
	})
	if err != nil {
		return i.b.fail(ctx, "put part", i.key, err)
	}
	if aws.ToString(out.ETag) == "" {
		return i.b.fail(ctx, "put part", i.key, errors.New("an answer without an ETag"))
	}
	i.parts = append(i.parts, types.CompletedPart{PartNumber: number, ETag: out.ETag})
	i.buf = i.buf[:0]
	return nil
}

// save writes the state: the parts, and the first tail bytes of buf behind them.
func (i *s3Ingest) save(ctx context.Context, tail int) error {
	s := &state{
		Version: stateVersion, Digest: i.desc.Digest, Size: i.desc.Size, Chunk: i.chunk, Parts: len(i.parts),
		Upload: i.upload, ETags: etagSum(i.parts), Hash: i.mark, Tail: int64(tail),
	}
	head, err := s.head()
	if err != nil {
		return err
	}
	if len(head) > maxStateHead {
		return fmt.Errorf("ingest state of %d bytes", len(head))
	}
	// The line is put right in front of the tail: a copy of both would take a second chunk of memory.
	from := maxStateHead - len(head)
	copy(i.frame[from:], head)
	i.saved = true
	return i.b.put(ctx, i.state, i.frame[from:maxStateHead+tail])
}

func (i *s3Ingest) commit(ctx context.Context) error {
	if i.upload == "" {
		if err := i.b.put(ctx, i.key, i.buf); err != nil {
			return err
		}
	} else if err := i.complete(ctx); err != nil {
		return err
	}
	if i.saved {
		// The blob is there, whether this succeeds or not. A state that stays is a few bytes that nobody asks for again.
		_ = i.b.delete(ctx, i.state)
	}
	return nil
}

// complete makes the upload a blob. When the answer is lost the next Admit goes on with what the state says.
func (i *s3Ingest) complete(ctx context.Context) error {
	if len(i.buf) > 0 {
		if err := i.sendPart(ctx); err != nil {
			return err
		}
	}
	_, err := i.b.client.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
		Bucket: &i.b.at.bucket, Key: &i.key, UploadId: &i.upload,
		MultipartUpload: &types.CompletedMultipartUpload{Parts: i.parts},
	})
	if err != nil {
		err = i.b.fail(ctx, "complete upload", i.key, err)
		var e *S3Error
		if errors.As(err, &e) && (e.Code == "InvalidPart" || e.Code == "InvalidPartOrder") {
			// Another process has written into this upload: none of its parts is known any more.
			return errors.Join(&S3Error{Op: e.Op, Bucket: e.Bucket, Key: e.Key, Status: e.Status, Code: e.Code, Err: errOvertaken}, i.drop(ctx))
		}
		return err
	}
	size, err := i.b.stat(ctx, i.desc.Digest)
	if err == nil && size != i.desc.Size {
		err = fmt.Errorf("the blob has %d bytes after its upload, not %d", size, i.desc.Size)
		return errors.Join(i.b.fail(ctx, "complete upload", i.key, err), i.b.delete(ctx, i.key), i.b.delete(ctx, i.state))
	}
	return err
}

func (i *s3Ingest) keep(ctx context.Context, broken bool) error {
	if broken || len(i.buf) == 0 {
		return nil // the last state stands
	}
	return i.save(ctx, len(i.buf))
}

func (i *s3Ingest) drop(ctx context.Context) error {
	if i.upload != "" {
		if err := i.abort(ctx, i.upload); err != nil {
			return err
		}
	}
	if i.saved {
		if err := i.b.delete(ctx, i.state); err != nil {
			return err
		}
	}
	i.upload, i.parts, i.buf, i.saved = "", nil, i.buf[:0], false
	return nil
}

// put writes a whole object.
func (b *bucket) put(ctx context.Context, key string, body []byte) error {
	_, err := b.client.PutObject(ctx, &s3.PutObjectInput{
		Bucket: &b.at.bucket, Key: &key, ContentType: aws.String(octets),
		Body: bytes.NewReader(body), ContentLength: aws.Int64(int64(len(body))), ContentMD5: contentMD5(body),
	})
	return b.fail(ctx, "put", key, err)
}

// contentMD5 lets S3 refuse bytes that changed on the way. It guards against accidents only: the request is signed too.
func contentMD5(p []byte) *string {
	sum := md5.Sum(p)
	return aws.String(base64.StdEncoding.EncodeToString(sum[:]))
}

func marshalHash(h hash.Hash) ([]byte, error) {
	m, ok := h.(encoding.BinaryMarshaler)
	if !ok {
		return nil, fmt.Errorf("hash %T cannot be kept", h)
	}
	return m.MarshalBinary()
}
