package sign

import (
	"crypto"
	"fmt"
	"io"

	"github.com/sigstore/sigstore/pkg/signature"
)

// MaxTUFMessage bounds the bytes of trust metadata that are signed.
const MaxTUFMessage = 4 << 20

// TUF gives the signer in the shape that TUF metadata is signed by.
func (s *Signer) TUF() signature.Signer { return tufSigner{s} }

type tufSigner struct{ s *Signer }

// PublicKey implements signature.PublicKeyProvider.
func (t tufSigner) PublicKey(...signature.PublicKeyOption) (crypto.PublicKey, error) {
	return t.s.Public(), nil
}

// SignMessage implements signature.Signer. The options are of no use to keys that sign in one way.
func (t tufSigner) SignMessage(message io.Reader, _ ...signature.SignOption) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(message, MaxTUFMessage+1))
	if err != nil {
		return nil, err
	}
	if len(data) > MaxTUFMessage {
		return nil, fmt.Errorf("sign trust metadata: more than %d bytes", MaxTUFMessage)
	}
	return t.s.sign(data)
}
