package sign

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/bundle"
)

// Signers sign the same thing, each with a key of its own. Make them with NewSigners: their order decides the bytes.
type Signers []*Signer

// SameKeyError says that one key is given twice, or for two purposes.
type SameKeyError struct {
	KeyID string
	Roles bool // it would sign releases and attestations
}

func (e *SameKeyError) Error() string {
	if e.Roles {
		return fmt.Sprintf("key %.16s is given as release key and as attestation key: verifiers would take an SBOM for a release", e.KeyID)
	}
	return fmt.Sprintf("key %.16s is given twice: a threshold counts keys, not signatures", e.KeyID)
}

// NewSigners puts signers into the order of their key ids, so that the order in which they are given does not matter. It
// fails with *SameKeyError.
func NewSigners(signers ...*Signer) (Signers, error) {
	sorted := slices.SortedFunc(slices.Values(signers), func(a, b *Signer) int { return cmp.Compare(a.id, b.id) })
	for i, s := range sorted[min(1, len(sorted)):] {
		if s.id == sorted[i].id {
			return nil, &SameKeyError{KeyID: s.id}
		}
	}
	return sorted, nil
}

// CheckRoles fails with *SameKeyError when a key is among the release keys and the attestation keys: for cosign, any
// attestation by a key is a signature by it.
func CheckRoles(release, attestation Signers) error {
	for _, r := range release {
		for _, a := range attestation {
			if r.id == a.id {
				return &SameKeyError{KeyID: r.id, Roles: true}
			}
		}
	}
	return nil
}

// Recall is Signer.Recall of each.
func (s Signers) Recall(ctx context.Context, f bundle.Fetcher, b *bundle.Bundle) error {
	for _, signer := range s {
		if err := signer.Recall(ctx, f, b); err != nil {
			return err
		}
	}
	return nil
}

// SignManifest signs the digest of a manifest in both forms, so that every verifier in the field finds one that it
// reads: a Sigstore bundle v0.3 referrer by each signer, then one simple-signing manifest for the tag sha256-<hex>.sig
// with a layer by each, as cosign has them. The repository, for example ghcr.io/acme/robot-app, is what the
// simple-signing payload claims as docker-reference.
func (s Signers) SignManifest(subject ocispec.Descriptor, repository string) ([]Artifact, error) {
	if len(s) == 0 {
		return nil, fmt.Errorf("sign %s: no key", subject.Digest)
	}
	return signManifest(subject, repository, s, s, nil)
}

// Missing is SignManifest without what is there already: each signer signs in the forms in which evidence holds no valid
// signature by it, and the layers of others at the legacy tag stay. Without anything to add there are no artifacts.
func (s Signers) Missing(ctx context.Context, ev attest.Evidence, subject ocispec.Descriptor, repository string) ([]Artifact, error) {
	if err := checkSubject(subject); err != nil {
		return nil, fmt.Errorf("sign %s: %w", subject.Digest, err)
	}
	var bundles, layers Signers
	for _, signer := range s {
		forms, err := signer.forms(ctx, ev, subject)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(forms, attest.FormBundle) {
			bundles = append(bundles, signer)
		}
		if !slices.Contains(forms, attest.FormSimpleSigning) {
			layers = append(layers, signer)
		}
	}
	var there []ocispec.Descriptor
	if len(layers) > 0 {
		var err error
		if there, err = legacyLayers(ctx, ev, subject); err != nil {
			return nil, fmt.Errorf("sign %s: %w", subject.Digest, err)
		}
	}
	return signManifest(subject, repository, bundles, layers, there)
}

// forms are those in which the signer has signed a manifest.
func (s *Signer) forms(ctx context.Context, ev attest.Evidence, subject ocispec.Descriptor) ([]attest.Form, error) {
	found, err := attest.VerifyManifestSignatures(ctx, ev, subject, attest.Policy{ReleaseKeys: keysOf(s)})
	var denied *attest.DeniedError
	if err != nil && !errors.As(err, &denied) {
		return nil, err
	}
	var forms []attest.Form
	for _, f := range found {
		forms = append(forms, f.Form)
	}
	return forms, nil
}
