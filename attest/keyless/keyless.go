// Package keyless judges signatures that were made without a long-lived key: by a certificate of ten minutes that names
// who signed, and a transparency log or a timestamp authority that says when. It is for the builder, which vouches for
// what it accepted; a relay never sees it.
//
// It needs no network and no clock: what is trusted comes as the bytes of a trusted_root.json, and the time at which a
// certificate had to be valid comes from the log or the timestamp. Nothing of a signature is believed for saying so:
// intermediate certificates, for example, come from the trusted root only, whatever the chain annotation holds.
package keyless

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/bundle/media"
)

// TimeSource says who told the time of a signature.
type TimeSource string

// The sources of time.
const (
	TimeLog       TimeSource = "log"       // integrated time, in the log's signed entry timestamp
	TimeAuthority TimeSource = "authority" // RFC 3161 timestamp
)

// Signature is one valid signature by an identity that the rule names.
type Signature struct {
	Identity   string        // the certificate's only subject alternative name
	Issuer     string        // that vouched for the identity: OpenID Connect issuer
	SignedAt   time.Time     // UTC: the earliest time that was verified
	TimeSource TimeSource    // of SignedAt
	Logged     bool          // an entry of a transparency log was verified
	LogIndex   int64         // of that entry, iff Logged
	LogID      string        // hex, of the log, iff Logged
	Form       attest.Form   //
	Manifest   digest.Digest // that carries the signature
	Layer      digest.Digest // in it
	Predicate  string        // predicate type; empty for simple signing
	rank       int           // of the identity in the rule
}

// Verified is a manifest that enough identities signed. Only Policy.Verify makes one; the zero value names nothing.
type Verified struct {
	repository string
	subject    ocispec.Descriptor
	match      string
	root       digest.Digest
	signatures []Signature
}

// Repository is the name under which the rule was looked up.
func (v *Verified) Repository() string { return v.repository }

// Subject is the manifest that was signed. Media type and size are as the caller gave them.
func (v *Verified) Subject() ocispec.Descriptor { return v.subject }

// Match is the glob of the rule that was fulfilled.
func (v *Verified) Match() string { return v.match }

// Root is the digest of the trusted_root.json by which it was judged.
func (v *Verified) Root() digest.Digest { return v.root }

// Signatures are all that count, sorted by the identity's place in the rule, then by what carries them.
func (v *Verified) Signatures() []Signature { return slices.Clone(v.signatures) }

// Manifests are the signatures' manifests, each once, sorted: what a summary names as its input.
func (v *Verified) Manifests() []digest.Digest {
	var list []digest.Digest
	for _, s := range v.signatures {
		list = append(list, s.Manifest)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// Verify accepts a manifest of a repository iff enough identities of the repository's rule signed its digest. It fails
// with *DeniedError when they did not or when there is no rule, and with the error of ev when ev could not be read and
// what could be read is not enough.
func (p *Policy) Verify(ctx context.Context, ev attest.Evidence, repository string, subject ocispec.Descriptor) (*Verified, error) {
	if err := bundle.CheckDescriptor(subject); err != nil {
		return nil, fmt.Errorf("verify keyless signatures: %w", err)
	}
	if subject.Digest.Algorithm() != digest.SHA256 {
		return nil, fmt.Errorf("verify keyless signatures of %s: only sha256 digests can be signed", subject.Digest)
	}
	r, err := p.find(repository)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, &DeniedError{Repository: repository, Subject: subject.Digest, Reason: NoRule}
	}
	refs, err := ev.Referrers(ctx, subject.Digest)
	if err != nil {
		return nil, fmt.Errorf("verify keyless signatures of %s: list referrers: %w", subject.Digest, err)
	}
	s := &search{fetcher: ev, subject: subject.Digest, rule: r}
	refs = candidates(refs, subject.Digest)
	for _, ref := range refs[:min(len(refs), attest.MaxReferrers)] {
		s.examine(ctx, ref)
	}
	if have := s.have(); have < r.need {
		if len(s.broken) > 0 {
			// Evidence that could not be read is no verdict: a network error must not look like an unsigned image.
			return nil, fmt.Errorf("verify keyless signatures of %s: %w", subject.Digest, errors.Join(s.broken...))
		}
		return nil, s.denied(repository, have, max(0, len(refs)-attest.MaxReferrers))
	}
	slices.SortStableFunc(s.accepted, func(a, b Signature) int {
		if a.rank != b.rank {
			return a.rank - b.rank
		}
		if c := strings.Compare(string(a.Manifest), string(b.Manifest)); c != 0 {
			return c
		}
		return strings.Compare(string(a.Layer), string(b.Layer))
	})
	return &Verified{
		repository: repository,
		subject:    ocispec.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size},
		match:      r.Match,
		root:       r.Root.Digest(),
		signatures: s.accepted,
	}, nil
}

// candidates are the referrers that may be signatures, those first that say so.
func candidates(refs []media.Referrer, subject digest.Digest) []media.Referrer {
	var sure, maybe []media.Referrer
	for _, ref := range refs {
		switch {
		case ref.Tag == attest.LegacyTag(subject), ref.Tag == "" && ref.ArtifactType == attest.MediaTypeBundle:
			sure = append(sure, ref)
		case ref.Tag == "":
			maybe = append(maybe, ref)
		}
	}
	return append(sure, maybe...)
}

// have counts identities of the rule, not signatures: the same identity that signs twice is one. A signature that two
// overlapping identities match counts for the first only, so that one signer never fills a threshold of two.
func (s *search) have() int {
	seen := make(map[int]struct{})
	for _, sig := range s.accepted {
		seen[sig.rank] = struct{}{}
	}
	return len(seen)
}
