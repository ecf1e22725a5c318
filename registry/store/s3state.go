package store

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/opencontainers/go-digest"

	"github.com/plimsoll/plimsoll/internal/strictjson"
)

const (
	stateVersion = 1
	// maxStateHead bounds the first line of a state, in bytes. Upload IDs of AWS have some 130.
	maxStateHead = 4096
	maxUploadID  = 1024
)

// state is the object in ingest/: a line of canonical JSON, and behind it the Tail bytes that follow the last whole part.
// It is believed only as far as the digest of the blob proves it in the end. That the parts are still the bytes that went
// into Hash is what ETags is for.
type state struct {
	Version int           `json:"version"`
	Digest  digest.Digest `json:"digest"`
	Size    int64         `json:"size"`   // of the whole blob, in bytes
	Chunk   int64         `json:"chunk"`  // bytes of a part
	Parts   int           `json:"parts"`  // whole parts in the upload
	Upload  string        `json:"upload"` // ID of the multipart upload; empty without one
	ETags   string        `json:"etags"`  // etagSum of the parts; empty without any
	Hash    []byte        `json:"hash"`   // state of the hash behind the parts, as the hash itself encodes it
	Tail    int64         `json:"tail"`   // bytes behind the line
}

// have is how many bytes of the blob are kept.
func (s *state) have() int64 { return int64(s.Parts)*s.Chunk + s.Tail }

// head is the line.
func (s *state) head() ([]byte, error) {
	line, err := strictjson.Marshal(s)
	return append(line, '\n'), err
}

// readState reads the line of a state; r, with a buffer of maxStateHead, then stands at the tail.
func readState(r *bufio.Reader) (*state, error) {
	line, err := r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) || errors.Is(err, io.EOF) {
		return nil, &stateError{"no line of JSON"}
	}
	if err != nil {
		return nil, err
	}
	var s state
	if err := strictjson.UnmarshalCanonical(bytes.TrimSuffix(line, []byte("\n")), &s); err != nil {
		return nil, &stateError{err.Error()}
	}
	switch {
	case s.Version != stateVersion:
		return nil, &stateError{fmt.Sprintf("version %d", s.Version)}
	case checkDigest(s.Digest) != nil, s.Size < 0, s.Chunk < minChunk, s.Chunk > maxChunk:
		return nil, &stateError{fmt.Sprintf("%q with %d bytes in parts of %d", s.Digest, s.Size, s.Chunk)}
	case s.Parts < 0, s.Parts > maxParts, s.Tail < 0, s.Tail > s.Chunk, s.have() > s.Size:
		return nil, &stateError{fmt.Sprintf("%d parts and %d bytes", s.Parts, s.Tail)}
	case len(s.Upload) > maxUploadID, s.Parts > 0 && s.Upload == "", (s.Parts > 0) != (s.ETags != ""):
		return nil, &stateError{"parts without an upload"}
	}
	return &s, nil
}

// stateError says that an object in ingest/ is no state; the blob is then copied from its first byte.
type stateError struct{ reason string }

func (e *stateError) Error() string { return "ingest state: " + e.reason }

// etagSum names the content of the first parts of an upload.
func etagSum(parts []types.CompletedPart) string {
	if len(parts) == 0 {
		return ""
	}
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d %q\n", aws.ToInt32(p.PartNumber), aws.ToString(p.ETag))
	}
	return hex.EncodeToString(h.Sum(nil))
}
