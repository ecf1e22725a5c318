package policy

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync"
	"unicode/utf8"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	sigstore "github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/options"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/bundle/media"
	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// Package attest reads an envelope whole, some eight times over until its statement is parsed. That is right for what is
// small. Of a large one only the envelope around the payload is read here, by the same library. Its blob is held in one
// buffer and its payload in another, which are used again; or, of the largest, the payload passes by three times: to be
// found, to be verified, and to be scanned. Each time the blob's digest is checked, so that the three were the same.
const (
	largeLayer  = 64 << 10 // bytes of a Sigstore bundle from which on it is read here
	heldLayer   = 1 << 20  // bytes of a Sigstore bundle up to which it is held
	longText    = 32 << 10 // bytes of a JSON text that can only be the payload
	maxSkeleton = 1 << 20  // bytes of a Sigstore bundle without its payload
)

// refusal says why a statement does not count.
type refusal struct {
	status    Status
	predicate string // from signed bytes; or "" when nothing was verified
	detail    string
}

func (e *refusal) Error() string { return e.detail }

func malformedf(format string, args ...any) error {
	return &refusal{status: Malformed, detail: fmt.Sprintf(format, args...)}
}

// large is a Sigstore bundle whose payload was found and not read.
type large struct {
	f         bundle.Fetcher
	desc      ocispec.Descriptor
	at, n     int64 // of the base64 text of the payload in the blob
	signature []byte
	payload   int64 // bytes when decoded
	// of a bundle that is held
	blob    []byte
	message []byte // what is signed: the payload behind its prefix
}

// prefix is what DSSE signs before the payload.
func (l *large) prefix() string {
	return fmt.Sprintf("DSSEv1 %d %s %d ", len(attest.PayloadTypeInToto), attest.PayloadTypeInToto, l.payload)
}

// buffers are those of the bundles that are held, to be used again: two for each worker.
type buffers struct{ pool sync.Pool }

func (b *buffers) take(n int64) []byte {
	if old, _ := b.pool.Get().(*[]byte); old != nil && int64(cap(*old)) >= n {
		return (*old)[:n]
	}
	return make([]byte, n, max(n, heldLayer/2))
}

func (b *buffers) give(list ...[]byte) {
	for _, buf := range list {
		if buf != nil {
			b.pool.Put(&buf)
		}
	}
}

// hold reads a blob that is not too large for it, once.
func (l *large) hold(ctx context.Context, free *buffers) error {
	if l.desc.Size > heldLayer {
		return nil
	}
	r, done, err := l.open(ctx)
	if err != nil {
		return err
	}
	defer done() //nolint:errcheck // only read from
	blob := free.take(l.desc.Size)
	n, err := io.ReadFull(r, blob)
	if err == nil {
		_, err = io.Copy(io.Discard, r) // to its verified end
	}
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		err = &bundle.DamagedError{Descriptor: l.desc, Size: int64(n)}
	}
	if err != nil {
		free.give(blob)
		return l.failed(err)
	}
	l.blob = blob
	return nil
}

// decode decodes the payload of a bundle that is held.
func (l *large) decode(free *buffers) error {
	if l.blob == nil {
		return nil
	}
	prefix := l.prefix()
	l.message = free.take(int64(len(prefix)) + int64(base64.StdEncoding.DecodedLen(int(l.n))))
	copy(l.message, prefix)
	text := l.blob[l.at : l.at+l.n]
	n, err := base64.StdEncoding.Strict().Decode(l.message[len(prefix):], text)
	if err == nil && int64(n) != l.payload {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return malformedf("sigstore bundle: payload: %v", err)
	}
	l.message = l.message[:len(prefix)+n]
	return nil
}

// release gives the buffers back; what was read from them was copied.
func (l *large) release(free *buffers) {
	free.give(l.blob, l.message)
	l.blob, l.message = nil, nil
}

// errSmall says that a bundle has no long text in it: its payload is small, whatever makes it large.
var errSmall = errors.New("no long payload")

// openLarge finds the payload of a Sigstore bundle. Whatever it says, what it gives is to be released.
func openLarge(ctx context.Context, f bundle.Fetcher, desc ocispec.Descriptor, free *buffers) (*large, error) {
	l := &large{f: f, desc: desc}
	if err := l.hold(ctx, free); err != nil {
		return l, err
	}
	if err := l.openEnvelope(ctx); err != nil {
		return l, err
	}
	return l, l.decode(free)
}

// openEnvelope reads the envelope of a Sigstore bundle around its payload.
func (l *large) openEnvelope(ctx context.Context) error {
	desc := l.desc
	// The library reads an envelope with this in the payload's place. It is not known before the blob is, so that nobody
	// can write an envelope that has it elsewhere.
	stand := sha256.Sum256([]byte("payload of " + desc.Digest.String()))
	skeleton, err := l.skeleton(ctx, base64.StdEncoding.EncodeToString(stand[:]))
	if err != nil {
		return err
	}
	if err := strictjson.Check(skeleton); err != nil {
		return malformedf("sigstore bundle: %v", err)
	}
	var b sigstore.Bundle
	if err := b.UnmarshalJSON(skeleton); err != nil {
		return malformedf("sigstore bundle: %v", err)
	}
	if b.MediaType != attest.MediaTypeBundle {
		return malformedf("sigstore bundle: media type %q, want %q", b.MediaType, attest.MediaTypeBundle)
	}
	envelope, err := b.Envelope()
	if err != nil {
		return malformedf("sigstore bundle: %v", err)
	}
	if n := len(envelope.Signatures); n != 1 {
		return malformedf("sigstore bundle: %d signatures, want exactly 1", n)
	}
	if envelope.PayloadType != attest.PayloadTypeInToto {
		return malformedf("sigstore bundle: payload type %q, want %q", envelope.PayloadType, attest.PayloadTypeInToto)
	}
	if got, err := envelope.DecodeB64Payload(); err != nil || !bytes.Equal(got, stand[:]) {
		return malformedf("sigstore bundle: a long text that is not the payload")
	}
	material, err := b.VerificationContent()
	if err != nil {
		return malformedf("sigstore bundle: %v", err)
	}
	if material.PublicKey() == nil {
		return &refusal{status: WrongSigner, detail: "signed with a certificate, not with a key"}
	}
	if l.signature, err = base64.StdEncoding.DecodeString(envelope.Signatures[0].Sig); err != nil {
		return malformedf("sigstore bundle: signature: %v", err)
	}
	return nil
}

// open reads the blob, verified to its end.
func (l *large) open(ctx context.Context) (io.Reader, func() error, error) {
	if l.blob != nil {
		return bytes.NewReader(l.blob), func() error { return nil }, nil
	}
	rc, err := l.f.Open(ctx, l.desc)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, malformedf("%v", &bundle.MissingError{Descriptor: l.desc, Err: err})
	}
	if err != nil {
		return nil, nil, fmt.Errorf("blob %s: %w", l.desc.Digest, err)
	}
	return media.NewVerifyReader(rc, l.desc), rc.Close, nil
}

// skeleton gives the bytes of the bundle with stand in the place of its one long text, and remembers where that was.
func (l *large) skeleton(ctx context.Context, stand string) ([]byte, error) {
	r, done, err := l.open(ctx)
	if err != nil {
		return nil, err
	}
	defer done() //nolint:errcheck // only read from
	var (
		out             []byte
		inText, escaped bool
		begin           int // of the present text, in out
		long            bool
		offset          int64
		tail            [2]byte // the bytes before the present one: padding is at the end of base64
	)
	buf := make([]byte, 64<<10)
	for {
		n, err := r.Read(buf)
		for i := 0; i < n; i++ {
			if long {
				// The payload goes by in one step, but for its end. What of it is no base64 is found when it is decoded.
				rest := buf[i:n]
				if quote := bytes.IndexByte(rest, '"'); quote >= 0 {
					rest = rest[:quote]
				}
				if bytes.IndexByte(rest, '\n') >= 0 || bytes.IndexByte(rest, '\r') >= 0 { // which decoders pass over
					return nil, malformedf("sigstore bundle: a long text that is not standard base64")
				}
				if len(rest) >= len(tail) {
					tail = [2]byte(rest[len(rest)-2:])
				} else if len(rest) == 1 {
					tail = [2]byte{tail[1], rest[0]}
				}
				if i += len(rest); i == n {
					break
				}
			}
			c := buf[i]
			before := tail
			tail = [2]byte{before[1], c}
			switch {
			case long && c == '"':
				l.n = offset + int64(i) - l.at
				l.payload = l.n/4*3 - int64(bytes.Count(before[:], []byte("=")))
				long, inText = false, false
				out = append(append(out, stand...), c)
				continue
			case inText && escaped:
				escaped = false
			case inText && c == '\\':
				escaped = true
			case c == '"':
				inText = !inText
				begin = len(out) + 1
			}
			out = append(out, c)
			if inText && len(out)-begin > longText {
				if l.at > 0 {
					return nil, malformedf("sigstore bundle: two long texts")
				}
				for _, c := range out[begin:] {
					if !isBase64(c) {
						return nil, malformedf("sigstore bundle: a long text that is not standard base64")
					}
				}
				l.at = offset + int64(i) + 1 - int64(len(out)-begin)
				out, long = out[:begin], true
			}
			if len(out) > maxSkeleton {
				return nil, malformedf("sigstore bundle: more than %d bytes beside its payload", maxSkeleton)
			}
		}
		offset += int64(n)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, l.failed(err)
		}
	}
	if l.at == 0 {
		return nil, errSmall
	}
	return out, nil
}

func isBase64(c byte) bool {
	return c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '+' || c == '/' || c == '='
}

// failed tells what is wrong with the bytes from what is wrong with the fetcher.
func (l *large) failed(err error) error {
	var damaged *bundle.DamagedError
	if errors.As(err, &damaged) {
		return malformedf("%v", err)
	}
	return fmt.Errorf("blob %s: %w", l.desc.Digest, err)
}

// each hands the decoded payload to fn and reads the blob to its verified end.
func (l *large) each(ctx context.Context, fn func(payload io.Reader) error) error {
	r, done, err := l.open(ctx)
	if err != nil {
		return err
	}
	defer done() //nolint:errcheck // only read from
	src := &sourceReader{r: r}
	if _, err := io.CopyN(io.Discard, src, l.at); err != nil {
		return l.failed(err)
	}
	err = fn(base64.NewDecoder(base64.StdEncoding.Strict(), io.LimitReader(src, l.n)))
	if src.err != nil && !errors.Is(src.err, io.EOF) {
		return l.failed(src.err)
	}
	// The end is read whatever fn says: a digest that is wrong explains everything else.
	if _, rest := io.Copy(io.Discard, src); rest != nil {
		return l.failed(rest)
	}
	return err
}

// sourceReader remembers its reader's error, which decoders wrap and change.
type sourceReader struct {
	r   io.Reader
	err error
}

func (s *sourceReader) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil {
		s.err = err
	}
	return n, err
}

// verify gives the key that signed the payload.
func (l *large) verify(ctx context.Context, keys []crypto.PublicKey) (crypto.PublicKey, error) {
	prefix, whole := l.prefix(), l.message
	hash := sha256.New()
	var err error
	if whole != nil {
		hash.Write(whole)
	} else {
		hash.Write([]byte(prefix))
		err = l.each(ctx, func(payload io.Reader) error {
			_, err := io.Copy(hash, payload)
			return err
		})
	}
	if err != nil {
		return nil, decoding(err)
	}
	digest := hash.Sum(nil)
	for _, pub := range keys {
		switch key := pub.(type) {
		case *ecdsa.PublicKey:
			v, err := signature.LoadVerifier(key, crypto.SHA256)
			if err != nil {
				return nil, fmt.Errorf("key %s: %w", attest.KeyID(pub), err)
			}
			if v.VerifySignature(bytes.NewReader(l.signature), nil, options.WithDigest(digest)) == nil {
				return pub, nil
			}
		case ed25519.PublicKey:
			// Ed25519 signs messages, not digests: it takes one buffer of the message's size. The library would make more.
			if whole == nil {
				if whole, err = l.readMessage(ctx, prefix); err != nil {
					return nil, decoding(err)
				}
			}
			if len(l.signature) == ed25519.SignatureSize && ed25519.Verify(key, whole, l.signature) {
				return pub, nil
			}
		}
	}
	return nil, &refusal{status: WrongSigner, detail: "not by a trusted key"}
}

func decoding(err error) error {
	var corrupt base64.CorruptInputError
	if errors.As(err, &corrupt) || errors.Is(err, io.ErrUnexpectedEOF) {
		return malformedf("sigstore bundle: payload: %v", err)
	}
	return err
}

// readMessage gives what is signed, in one buffer.
func (l *large) readMessage(ctx context.Context, prefix string) ([]byte, error) {
	data := make([]byte, int64(len(prefix))+l.payload)
	copy(data, prefix)
	return data, l.each(ctx, func(payload io.Reader) error {
		_, err := io.ReadFull(payload, data[len(prefix):])
		return err
	})
}

// scan reads the statement. Only what verify accepted may come here.
func (l *large) scan(ctx context.Context, root *node) (*sketch, error) {
	x := &sketch{}
	var err error
	if l.message != nil {
		err = scanBytes(l.message[len(l.prefix()):], root, x)
	} else {
		err = l.each(ctx, func(payload io.Reader) error { return scan(payload, root, x) })
	}
	var read *readError
	switch {
	case errors.As(err, &read):
		return nil, err
	case err != nil:
		return nil, malformedf("statement: %v", err)
	case x.statementType != attest.StatementType:
		return nil, malformedf("statement: _type %q, want %q", x.statementType, attest.StatementType)
	case x.predicateType == "":
		return nil, malformedf("statement: no predicateType")
	case len(x.subjects) == 0:
		return nil, malformedf("statement: no subjects")
	}
	for i, digests := range x.subjects {
		if len(digests) == 0 {
			return nil, malformedf("statement: subject %d: no digests", i)
		}
	}
	return x, nil
}

const maxDigests = 32 // of one subject, as in package attest

// statementNode reads an in-toto Statement v1 with the rules of package attest.
func statementNode() *node {
	predicate := predicateNode()
	predicate.enter = func(_ *sketch, kind byte) error {
		if kind != '{' {
			return errors.New("predicate: not an object")
		}
		return nil
	}
	isText := func(name string) func(*sketch, byte) error {
		return func(_ *sketch, kind byte) error {
			if kind != '"' {
				return fmt.Errorf("%s: not a text", name)
			}
			return nil
		}
	}
	text := func(name string) *node {
		return &node{enter: isText(name), text: func(_ *sketch, s string) error {
			if !utf8.ValidString(s) || strings.ContainsRune(s, utf8.RuneError) {
				return fmt.Errorf("%s: not a valid Unicode string", name)
			}
			return nil
		}}
	}
	content := &node{enter: isText("content"), text: func(_ *sketch, s string) error {
		if _, err := base64.StdEncoding.DecodeString(s); err != nil {
			return fmt.Errorf("content: %w", err)
		}
		return nil
	}}
	hexes := &node{
		enter: func(_ *sketch, kind byte) error {
			if kind != '{' {
				return errors.New("subject: digest: not an object")
			}
			return nil
		},
		each: func(_ *sketch, algorithm string) *node {
			return &node{enter: isText("digest"), text: func(x *sketch, hex string) error {
				digests := x.subjects[len(x.subjects)-1]
				if len(digests) >= maxDigests {
					return fmt.Errorf("more than %d digests of one subject", maxDigests)
				}
				digests[algorithm] = hex
				return nil
			}}
		},
	}
	subject := &node{closed: true, enter: func(x *sketch, kind byte) error {
		if kind != '{' {
			return errors.New("subject: not an object")
		}
		if len(x.subjects) >= attest.MaxSubjects {
			return fmt.Errorf("more than %d subjects", attest.MaxSubjects)
		}
		x.subjects = append(x.subjects, make(map[string]string))
		return nil
	}, fields: map[string]*node{
		"name": text("name"), "uri": text("uri"), "downloadLocation": text("downloadLocation"), "mediaType": text("mediaType"),
		"content": content, "digest": hexes, "annotations": {enter: func(_ *sketch, kind byte) error {
			if kind != '{' {
				return errors.New("annotations: not an object")
			}
			return nil
		}},
	}}
	return &node{closed: true, enter: func(_ *sketch, kind byte) error {
		if kind != '{' {
			return errors.New("not an object")
		}
		return nil
	}, fields: map[string]*node{
		"_type":         {enter: isText("_type"), text: func(x *sketch, s string) error { x.statementType = s; return nil }},
		"predicateType": {enter: isText("predicateType"), text: func(x *sketch, s string) error { x.predicateType = s; return nil }},
		"subject":       {elem: subject},
		"predicate":     predicate,
	}}
}
