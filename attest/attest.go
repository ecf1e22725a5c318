// Package attest judges signatures: it decides whether a release, an image or an attestation was signed by a key that
// the caller trusts.
//
// It needs no network and no clock. What it reads is bounded, verified by digest and parsed strictly; a verdict is a
// value that only this package makes. The two forms of signature that it knows are the ones that cosign writes: a
// Sigstore bundle v0.3 as OCI 1.1 referrer, and the legacy simple-signing manifest at the tag sha256-<hex>.sig.
package attest

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/bundle/media"
	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// PredicateSign is the in-toto predicate type by which cosign says "this key signs this manifest". No other predicate
// type is a signature: a key that signs an SBOM has not approved a release.
const PredicateSign = "https://sigstore.dev/cosign/sign/v1"

// Media types, artifact types and annotations of the two forms of signature, as cosign 2.6 and 3.1 write them.
const (
	MediaTypeBundle        = "application/vnd.dev.sigstore.bundle.v0.3+json" // also the artifact type of the referrer
	MediaTypeSimpleSigning = "application/vnd.dev.cosign.simplesigning.v1+json"
	PayloadTypeInToto      = "application/vnd.in-toto+json" // of a DSSE envelope that holds an in-toto statement

	AnnotationSignature     = "dev.cosignproject.cosign/signature" // of a simple-signing layer: base64
	AnnotationContent       = "dev.sigstore.bundle.content"        // of a referrer manifest: ContentDSSE
	AnnotationPredicateType = "dev.sigstore.bundle.predicateType"  // of a referrer manifest; unsigned, a hint
	ContentDSSE             = "dsse-envelope"
)

// Limits, enforced before anything is read. Who attaches more than that to a release is refused, not obeyed.
const (
	MaxReferrers   = 64       // manifests beside one subject that are looked into
	MaxSignature   = 4 << 20  // bytes of a Sigstore bundle that signs a manifest
	MaxAttestation = 32 << 20 // bytes of a Sigstore bundle that carries an attestation: an SBOM of a large image is megabytes
	MaxPayload     = 64 << 10 // bytes of a simple-signing payload
	MaxLayers      = 32       // simple-signing layers of one manifest
	MaxKeys        = 64       // of one policy
	MaxSubjects    = 1024     // of one statement; sigstore-go has the same limit
)

// Policy says whose signatures count. Its zero value trusts nobody.
type Policy struct {
	ReleaseKeys []crypto.PublicKey // ECDSA P-256 (*ecdsa.PublicKey) or Ed25519 (ed25519.PublicKey)
}

// Evidence is where signatures are looked for; a media.Source is one. Nothing that it says is believed.
type Evidence interface {
	bundle.Fetcher
	// Referrers lists the manifests whose subject is the digest, and the one at its legacy tag.
	Referrers(ctx context.Context, subject digest.Digest) ([]media.Referrer, error)
}

// Form is one of the ways in which a signature travels: the two in which cosign attaches it, and alone in a file.
type Form string

// The forms of signatures.
const (
	FormBundle        Form = "sigstore-bundle" // Sigstore bundle v0.3, DSSE over an in-toto statement, OCI 1.1 referrer
	FormSimpleSigning Form = "simple-signing"  // legacy payload at the tag sha256-<hex>.sig
	FormFile          Form = "statement-file"  // Sigstore bundle v0.3, a line of a file *.sigstore.jsonl
)

// Signature is one valid signature by a trusted key.
type Signature struct {
	KeyID    string        // KeyID of the public key
	Form     Form          //
	Manifest digest.Digest // of the manifest that carries the signature; of its line in a statement file
}

// Verified is a release whose signature was accepted. Only VerifyRelease makes one; the zero value names no release.
type Verified struct {
	root       ocispec.Descriptor
	signatures []Signature
}

// Root is the bundle index that was signed: media type, digest and size. The signature covers the digest; media type
// and size are as the caller gave them and are checked when the bytes are read.
func (v *Verified) Root() ocispec.Descriptor { return v.root }

// Signatures are all valid signatures that were found, at least one.
func (v *Verified) Signatures() []Signature { return append([]Signature(nil), v.signatures...) }

// LegacyTag is the tag under which simple-signing signatures of a manifest are found: sha256-<hex>.sig.
func LegacyTag(subject digest.Digest) string {
	return strings.Replace(subject.String(), ":", "-", 1) + ".sig"
}

// VerifyRelease accepts a bundle index iff at least one release key signed its digest, in either form. It fails with
// *DeniedError when no such signature exists, and with the error of ev when ev could not be read and nothing else was
// accepted.
func VerifyRelease(ctx context.Context, ev Evidence, root ocispec.Descriptor, p Policy) (*Verified, error) {
	signatures, err := VerifyManifestSignatures(ctx, ev, root, p)
	if err != nil {
		return nil, err
	}
	return &Verified{
		root:       ocispec.Descriptor{MediaType: root.MediaType, Digest: root.Digest, Size: root.Size},
		signatures: signatures,
	}, nil
}

// VerifyManifestSignatures gives the valid signatures of any manifest, for example of an image that a release vouches
// for, by the rules and with the errors of VerifyRelease. A nil error means at least one signature.
func VerifyManifestSignatures(ctx context.Context, ev Evidence, manifest ocispec.Descriptor, p Policy) ([]Signature, error) {
	if err := bundle.CheckDescriptor(manifest); err != nil {
		return nil, fmt.Errorf("verify signatures: %w", err)
	}
	subject := manifest.Digest
	if subject.Algorithm() != digest.SHA256 {
		return nil, fmt.Errorf("verify signatures of %s: only sha256 digests can be signed", subject)
	}
	keys, err := newKeyring(p.ReleaseKeys)
	if err != nil {
		return nil, fmt.Errorf("verify signatures of %s: %w", subject, err)
	}
	refs, err := ev.Referrers(ctx, subject)
	if err != nil {
		return nil, fmt.Errorf("verify signatures of %s: list referrers: %w", subject, err)
	}
	s := search{fetcher: ev, subject: subject, keys: keys}
	refs = s.candidates(refs)
	for _, ref := range refs[:min(len(refs), MaxReferrers)] {
		s.examine(ctx, ref)
	}
	s.unread = max(0, len(refs)-MaxReferrers)
	if len(s.accepted) > 0 {
		return s.accepted, nil
	}
	if len(s.broken) > 0 {
		// Evidence that could not be read is no verdict: a network error must not look like an unsigned release.
		return nil, fmt.Errorf("verify signatures of %s: %w", subject, errors.Join(s.broken...))
	}
	return nil, s.denied()
}

// search collects what is found beside one subject.
type search struct {
	fetcher  bundle.Fetcher
	subject  digest.Digest
	keys     keyring
	accepted []Signature
	seen     []Finding
	unread   int
	broken   []error // of the fetcher
}

// candidates are the referrers that may be signatures, those first that say so. An artifact type that says otherwise is
// no reason to pass one by: registries that do not know the field list a Sigstore bundle under the media type of its
// config.
func (s *search) candidates(refs []media.Referrer) []media.Referrer {
	var sure, maybe []media.Referrer
	for _, ref := range refs {
		switch {
		case ref.Tag == LegacyTag(s.subject), ref.Tag == "" && ref.ArtifactType == MediaTypeBundle:
			sure = append(sure, ref)
		case ref.Tag == "":
			maybe = append(maybe, ref)
		}
	}
	return append(sure, maybe...)
}

func (s *search) examine(ctx context.Context, ref media.Referrer) {
	form := FormBundle
	if ref.Tag != "" {
		form = FormSimpleSigning
	}
	manifest, err := readManifest(ctx, s.fetcher, ref.Descriptor)
	if err != nil {
		s.refuse(ref.Digest, form, err)
		return
	}
	if form == FormSimpleSigning {
		s.examineSimpleSigning(ctx, ref.Digest, manifest)
		return
	}
	if !isBundleManifest(manifest) {
		return // some other referrer
	}
	verified, err := openBundle(ctx, s.fetcher, manifest, s.keys, MaxSignature)
	if err != nil {
		s.refuse(ref.Digest, form, claim(err, manifest))
		return
	}
	if err := checkSignStatement(verified, manifest, s.subject); err != nil {
		s.refuse(ref.Digest, form, err)
		return
	}
	s.accepted = append(s.accepted, Signature{KeyID: verified.keyID, Form: form, Manifest: ref.Digest})
}

// refuse keeps a finding, or the error of a fetcher that could not read.
func (s *search) refuse(manifest digest.Digest, form Form, err error) {
	var bad *badEvidence
	if !errors.As(err, &bad) {
		s.broken = append(s.broken, err)
		return
	}
	s.seen = append(s.seen, Finding{Manifest: manifest, Form: form, Reason: bad.reason, KeyID: bad.keyID,
		Predicate: bad.predicate, Detail: bad.detail, Err: bad.err})
}

// readManifest reads an image manifest; everything but an error of the fetcher is *badEvidence.
func readManifest(ctx context.Context, f bundle.Fetcher, desc ocispec.Descriptor) (ocispec.Manifest, error) {
	var m ocispec.Manifest
	raw, err := readBounded(ctx, f, desc, bundle.MaxManifest)
	if err != nil {
		return m, err
	}
	if err := strictjson.Unmarshal(raw, &m); err != nil {
		return m, malformed("manifest: %w", err)
	}
	if m.MediaType != ocispec.MediaTypeImageManifest {
		return m, malformed("manifest: media type %q, want %q", m.MediaType, ocispec.MediaTypeImageManifest)
	}
	return m, nil
}

// readBounded separates what is wrong with the bytes, which is *badEvidence, from what is wrong with the fetcher.
func readBounded(ctx context.Context, f bundle.Fetcher, desc ocispec.Descriptor, limit int64) ([]byte, error) {
	if err := bundle.CheckDescriptor(desc); err != nil {
		return nil, malformed("%w", err)
	}
	if desc.Size > limit {
		return nil, malformed("blob %s: %d bytes, the limit is %d", desc.Digest, desc.Size, limit)
	}
	data, err := bundle.ReadBlob(ctx, f, desc, limit)
	var missing *bundle.MissingError
	var damaged *bundle.DamagedError
	if errors.As(err, &missing) || errors.As(err, &damaged) {
		return nil, malformed("%w", err)
	}
	return data, err
}
