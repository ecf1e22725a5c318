package policy

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"

	"github.com/plimsoll/plimsoll/attest"
)

// oneBlob is a source of one blob.
type oneBlob []byte

func (b oneBlob) Open(context.Context, ocispec.Descriptor) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(b)), nil
}

// judge reads a Sigstore bundle of some size.
func (l *large) judge(keys []crypto.PublicKey) (*sketch, error) {
	if _, err := l.verify(context.Background(), keys); err != nil {
		return nil, err
	}
	return l.scan(context.Background(), statementNode())
}

// What is held in memory is judged as what is streamed.
func FuzzHeld(f *testing.F) {
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
	for _, tail := range []string{"", " ", "  "} { // each padding of base64
		statement := fmt.Sprintf(`{"_type":%q,"subject":[{"digest":{"sha256":"00"}}],"predicateType":%q,"predicate":{"padding":%q}}%s`,
			attest.StatementType, predicateSPDX, strings.Repeat("x", longText), tail)
		data := fmt.Appendf(nil, `{"mediaType":%q,"verificationMaterial":{"publicKey":{"hint":""}},"dsseEnvelope":{"payload":%q,"payloadType":%q,"signatures":[{"sig":%q}]}}`,
			attest.MediaTypeBundle, base64.StdEncoding.EncodeToString([]byte(statement)), attest.PayloadTypeInToto,
			base64.StdEncoding.EncodeToString(ed25519.Sign(key, dsse.PAE(attest.PayloadTypeInToto, []byte(statement)))))
		f.Add(data, 0, "")
		f.Add(data, 1000, "=")
		f.Add(data, 20000, `"`)
		f.Add(data, len(data)-300, "\n")
		f.Add(data, bytes.Index(data, []byte(`","payloadType`)), "====")
	}
	keys := []crypto.PublicKey{key.Public()}
	f.Fuzz(func(t *testing.T, data []byte, at int, insert string) {
		if at = min(max(at, 0), len(data)); insert != "" {
			data = []byte(string(data[:at]) + insert + string(data[at:]))
		}
		desc := ocispec.Descriptor{MediaType: attest.MediaTypeBundle, Digest: digest.FromBytes(data), Size: int64(len(data))}
		var free buffers
		var x, y *sketch
		held, err := openLarge(context.Background(), oneBlob(data), desc, &free)
		if err == nil {
			x, err = held.judge(keys)
		}
		held.release(&free)
		streamed := &large{f: oneBlob(data), desc: desc}
		again := streamed.openEnvelope(context.Background())
		if again == nil {
			y, again = streamed.judge(keys)
		}
		if (err == nil) != (again == nil) || !reflect.DeepEqual(x, y) || errors.Is(err, errSmall) != errors.Is(again, errSmall) {
			t.Errorf("held: %v, streamed: %v", err, again)
		}
		var bad *refusal
		if err != nil && !errors.Is(err, errSmall) && !errors.As(err, &bad) {
			t.Errorf("no verdict: %v", err)
		}
	})
}
