package sign

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// NotRecordedError says that a bundle holds no signature over what is to be signed: what was rebuilt is not what was
// signed.
type NotRecordedError struct {
	KeyID string
}

func (e *NotRecordedError) Error() string {
	return fmt.Sprintf("the bundle holds no signature by key %.16s over this: what was rebuilt is not what was signed", e.KeyID)
}

// recording is a key of which only signatures are known. It stands where a private key would.
type recording struct {
	public     crypto.PublicKey
	signatures map[[sha256.Size]byte][]byte // by the SHA-256 of the message
}

func (r *recording) Public() crypto.PublicKey { return r.public }

func (r *recording) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("a recording signs messages, not digests")
}

func (r *recording) lookup(message []byte) ([]byte, error) {
	if sig, ok := r.signatures[sha256.Sum256(message)]; ok {
		return sig, nil
	}
	return nil, &NotRecordedError{KeyID: attest.KeyID(r.public)}
}

// add keeps a signature that is the key's over the message, and drops all others.
func (r *recording) add(message, signature []byte) (valid bool) {
	sum := sha256.Sum256(message)
	switch key := r.public.(type) {
	case *ecdsa.PublicKey:
		valid = ecdsa.VerifyASN1(key, sum[:], signature)
	case ed25519.PublicKey:
		valid = ed25519.Verify(key, message, signature)
	}
	if valid {
		r.signatures[sum] = signature
	}
	return valid
}

// Recorded gives a signer that has no private key: it repeats the signatures of public which a bundle holds, each
// verified, and fails with *NotRecordedError over anything else. With it an auditor rebuilds a signed bundle to the byte.
func Recorded(ctx context.Context, f bundle.Fetcher, b *bundle.Bundle, public crypto.PublicKey) (*Signer, error) {
	r := newRecording(public)
	if err := r.readBundle(ctx, f, b); err != nil {
		return nil, err
	}
	return newSigner(&r)
}

func newRecording(public crypto.PublicKey) recording {
	return recording{public: public, signatures: make(map[[sha256.Size]byte][]byte)}
}

// readBundle reads everything in a bundle that may be a signature.
func (r *recording) readBundle(ctx context.Context, f bundle.Fetcher, b *bundle.Bundle) error {
	for _, it := range b.Lock.Items {
		if it.Kind != bundle.KindReferrer {
			continue
		}
		if err := r.read(ctx, f, it.Descriptor); err != nil {
			return fmt.Errorf("item %s: %w", it.Name, err)
		}
	}
	return nil
}

func (r *recording) read(ctx context.Context, f bundle.Fetcher, manifest ocispec.Descriptor) error {
	raw, err := bundle.ReadBlob(ctx, f, manifest, bundle.MaxManifest)
	if err != nil {
		return err
	}
	var m ocispec.Manifest
	if err := strictjson.Unmarshal(raw, &m); err != nil {
		return err
	}
	for _, layer := range m.Layers {
		switch layer.MediaType {
		case attest.MediaTypeBundle:
			data, err := bundle.ReadBlob(ctx, f, layer, attest.MaxAttestation)
			if err != nil {
				return err
			}
			r.addEnvelope(data)
		case attest.MediaTypeSimpleSigning:
			sig, err := base64.StdEncoding.DecodeString(layer.Annotations[attest.AnnotationSignature])
			if err != nil {
				continue // somebody else's
			}
			message, err := bundle.ReadBlob(ctx, f, layer, attest.MaxPayload)
			if err != nil {
				return err
			}
			r.add(message, sig)
		}
	}
	return nil
}

// addEnvelope reads a Sigstore bundle as far as the signature needs it. One that is not understood is somebody else's.
func (r *recording) addEnvelope(data []byte) {
	var b struct {
		Envelope struct {
			Payload     []byte `json:"payload"`
			PayloadType string `json:"payloadType"`
			Signatures  []struct {
				Sig []byte `json:"sig"`
			} `json:"signatures"`
		} `json:"dsseEnvelope"`
	}
	if strictjson.Unmarshal(data, &b) != nil || b.Envelope.PayloadType != attest.PayloadTypeInToto {
		return
	}
	message := dsse.PAE(b.Envelope.PayloadType, b.Envelope.Payload)
	for _, s := range b.Envelope.Signatures {
		r.add(message, s.Sig)
	}
}
