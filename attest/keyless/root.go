package keyless

import (
	"fmt"

	"github.com/opencontainers/go-digest"
	"github.com/sigstore/sigstore-go/pkg/root"

	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// MaxTrustedRoot bounds a trusted_root.json, in bytes; the one of the public good instance has 7 KiB.
const MaxTrustedRoot = 1 << 20

// TrustedRoot is whose certificates, logs and timestamps are believed.
type TrustedRoot struct {
	digest   digest.Digest
	material *root.TrustedRoot
}

// RootError says what is wrong with a trusted_root.json.
type RootError struct {
	Reason string
	Err    error // the cause, if there is one
}

func (e *RootError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("trusted root: %s: %v", e.Reason, e.Err)
	}
	return "trusted root: " + e.Reason
}

// Unwrap gives the cause.
func (e *RootError) Unwrap() error { return e.Err }

// ParseTrustedRoot reads a Sigstore trusted root of media type application/vnd.dev.sigstore.trustedroot+json;version=0.1.
// It must name at least one certificate authority. The error is a *RootError.
func ParseTrustedRoot(data []byte) (*TrustedRoot, error) {
	if len(data) > MaxTrustedRoot {
		return nil, &RootError{Reason: fmt.Sprintf("%d bytes, the limit is %d", len(data), MaxTrustedRoot)}
	}
	if err := strictjson.Check(data); err != nil {
		return nil, &RootError{Reason: "JSON", Err: err}
	}
	material, err := root.NewTrustedRootFromJSON(data)
	if err != nil {
		return nil, &RootError{Reason: "content", Err: err}
	}
	if len(material.FulcioCertificateAuthorities()) == 0 {
		return nil, &RootError{Reason: "no certificate authority: nobody's identity could be verified by it"}
	}
	return &TrustedRoot{digest: digest.FromBytes(data), material: material}, nil
}

// Digest names the bytes of the file.
func (r *TrustedRoot) Digest() digest.Digest { return r.digest }
