package release

import (
	"cmp"
	"context"
	"crypto"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/attest"
)

// Keys are those who may sign one kind of statement. The zero value trusts nobody.
type Keys struct {
	Keys      []crypto.PublicKey // ECDSA P-256 or Ed25519; a key that is given twice is one key
	Threshold int                // so many different keys must sign the same bytes; 0 means 1
	Revoked   []string           // attest.KeyID of keys whose signatures do not count any more
}

// Without gives the keys after a revocation, which may be nil. The threshold stays: with too few keys left, nothing is
// accepted until new ones are trusted.
func (k Keys) Without(r *Revocation) Keys {
	if r != nil {
		k.Revoked = slices.Concat(k.Revoked, r.Keys)
	}
	return k
}

func (k Keys) threshold() int { return cmp.Or(k.Threshold, 1) }

// Verified is a bundle index with its release statements that enough trusted keys signed. Only this package makes one.
type Verified struct {
	root     ocispec.Descriptor
	releases []*VerifiedRelease
	findings []attest.Finding
}

// Root is the bundle index that is released: media type, digest and size. The statements cover the digest; media type
// and size are as the caller gave them and are checked when the bytes are read.
func (v *Verified) Root() ocispec.Descriptor { return v.root }

// Releases are all valid release statements, at least one, sorted by channel, sequence, issuedAt and digest. A bundle has
// several when it was released to several channels, or again.
func (v *Verified) Releases() []*VerifiedRelease { return slices.Clone(v.releases) }

// Findings are what did not count.
func (v *Verified) Findings() []attest.Finding { return slices.Clone(v.findings) }

// For gives the statement that governs a channel: the last of Releases for it. It fails with *ChannelError.
func (v *Verified) For(channel string) (*VerifiedRelease, error) {
	var last *VerifiedRelease
	var others []string
	for _, r := range v.releases {
		if r.document.Channel == channel {
			last = r
		} else if !slices.Contains(others, r.document.Channel) {
			others = append(others, r.document.Channel)
		}
	}
	if last == nil {
		return nil, &ChannelError{Want: channel, Have: others}
	}
	return last, nil
}

// verified is what all kinds of verified statements have.
type verified[P any] struct {
	document P
	name     string
	subject  digest.Digest
	proof    *attest.SignedStatement
}

// Name is the name of the subject: of the bundle, or RevocationName.
func (v *verified[P]) Name() string { return v.name }

// Subject is the digest that the statement speaks of: of the bundle index, or of the revocation itself.
func (v *verified[P]) Subject() digest.Digest { return v.subject }

// KeyIDs are the keys that signed it, each once, sorted.
func (v *verified[P]) KeyIDs() []string { return v.proof.KeyIDs() }

// Proof is the statement with its signatures, for the record.
func (v *verified[P]) Proof() *attest.SignedStatement { return v.proof }

// VerifiedRelease is a release statement that enough trusted keys signed.
type VerifiedRelease struct{ verified[*Release] }

// Release is a copy of what was signed.
func (v *VerifiedRelease) Release() *Release {
	r := *v.document
	r.Sites = slices.Clone(r.Sites)
	return &r
}

// VerifiedApproval is a site owner's approval that enough trusted keys signed.
type VerifiedApproval struct{ verified[*Approval] }

// Approval is a copy of what was signed.
func (v *VerifiedApproval) Approval() *Approval {
	a := *v.document
	a.Sites = slices.Clone(a.Sites)
	return &a
}

// VerifiedRevocation is a revocation that enough trusted keys signed.
type VerifiedRevocation struct{ verified[*Revocation] }

// Revocation is a copy of what was signed.
func (v *VerifiedRevocation) Revocation() *Revocation {
	r := *v.document
	r.Bundles, r.Images, r.Keys = slices.Clone(r.Bundles), slices.Clone(r.Images), slices.Clone(r.Keys)
	return &r
}

// VerifiedPermit is a permit that enough trusted keys signed.
type VerifiedPermit struct{ verified[*Permit] }

// Permit is a copy of what was signed.
func (v *VerifiedPermit) Permit() *Permit {
	p := *v.document
	p.Overrides = slices.Clone(p.Overrides)
	return &p
}

// VerifyRelease gives the release statements of a bundle index that enough release keys signed. A plain signature of the
// index is none: without the statement nobody knows its channel, its place there and its use-by. It fails with
// *attest.DeniedError, or with the error of ev when that could not be read and nothing was accepted.
func VerifyRelease(ctx context.Context, ev attest.Evidence, root ocispec.Descriptor, keys Keys) (*Verified, error) {
	s, err := beside(ctx, ev, root, PredicateRelease, keys)
	if err != nil {
		return nil, fmt.Errorf("release: %w", err)
	}
	found, err := accept[Release](s, root.Digest, keys)
	if err != nil {
		return nil, err
	}
	return newVerified(root, found, s), nil
}

// VerifyReleaseFile is VerifyRelease for a statement file: a release statement that comes after the bundle.
func VerifyReleaseFile(data []byte, root ocispec.Descriptor, keys Keys) (*Verified, error) {
	s, err := alone(data, PredicateRelease, keys)
	if err != nil {
		return nil, fmt.Errorf("release: %w", err)
	}
	found, err := accept[Release](s, root.Digest, keys)
	if err != nil {
		return nil, err
	}
	return newVerified(root, found, s), nil
}

func newVerified(root ocispec.Descriptor, found []verified[*Release], s *attest.Statements) *Verified {
	v := &Verified{root: ocispec.Descriptor{MediaType: root.MediaType, Digest: root.Digest, Size: root.Size}, findings: s.Seen}
	for _, f := range found {
		v.releases = append(v.releases, &VerifiedRelease{f})
	}
	slices.SortFunc(v.releases, func(a, b *VerifiedRelease) int {
		return cmp.Or(strings.Compare(a.document.Channel, b.document.Channel), cmp.Compare(a.document.Sequence, b.document.Sequence),
			strings.Compare(a.document.IssuedAt, b.document.IssuedAt), strings.Compare(string(a.proof.Digest()), string(b.proof.Digest())))
	})
	return v
}

// VerifyApprovals gives the approvals beside a bundle index that enough owner keys signed, sorted by digest, at least
// one. It fails like VerifyRelease.
func VerifyApprovals(ctx context.Context, ev attest.Evidence, root ocispec.Descriptor, keys Keys) ([]*VerifiedApproval, error) {
	s, err := beside(ctx, ev, root, PredicateApproval, keys)
	if err != nil {
		return nil, fmt.Errorf("approval: %w", err)
	}
	found, err := accept[Approval](s, root.Digest, keys)
	return wrap(found, func(v verified[*Approval]) *VerifiedApproval { return &VerifiedApproval{v} }), err
}

// VerifyApprovalFile gives the approval in a statement file iff enough owner keys signed it. Which bundle it is for, its
// Subject says. It fails with *attest.DeniedError or *attest.StatementFileError.
func VerifyApprovalFile(data []byte, keys Keys) (*VerifiedApproval, error) {
	v, err := verifyFile[Approval](data, PredicateApproval, keys)
	if err != nil {
		return nil, err
	}
	return &VerifiedApproval{*v}, nil
}

// VerifyPermits gives the permits beside a bundle index that enough owner keys signed, sorted by digest, at least one. It
// fails like VerifyRelease.
func VerifyPermits(ctx context.Context, ev attest.Evidence, root ocispec.Descriptor, keys Keys) ([]*VerifiedPermit, error) {
	s, err := beside(ctx, ev, root, PredicatePermit, keys)
	if err != nil {
		return nil, fmt.Errorf("permit: %w", err)
	}
	found, err := accept[Permit](s, root.Digest, keys)
	return wrap(found, func(v verified[*Permit]) *VerifiedPermit { return &VerifiedPermit{v} }), err
}

// VerifyPermitFile gives the permit in a statement file iff enough owner keys signed it. Which bundle it is for, its
// Subject says. It fails with *attest.DeniedError or *attest.StatementFileError.
func VerifyPermitFile(data []byte, keys Keys) (*VerifiedPermit, error) {
	v, err := verifyFile[Permit](data, PredicatePermit, keys)
	if err != nil {
		return nil, err
	}
	return &VerifiedPermit{*v}, nil
}

// VerifyRevocationFile gives the revocation in a statement file iff enough revocation keys signed it. It fails with
// *attest.DeniedError or *attest.StatementFileError. Merge says whether it replaces the one that is in force.
func VerifyRevocationFile(data []byte, keys Keys) (*VerifiedRevocation, error) {
	v, err := verifyFile[Revocation](data, PredicateRevocation, keys)
	if err != nil {
		return nil, err
	}
	return &VerifiedRevocation{*v}, nil
}

func verifyFile[T any, P document[T]](data []byte, predicateType string, keys Keys) (*verified[P], error) {
	s, err := alone(data, predicateType, keys)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", kindOf(predicateType), err)
	}
	found, err := accept[T, P](s, "", keys)
	if err != nil {
		return nil, err
	}
	return &found[0], nil // a file carries one payload
}

func beside(ctx context.Context, ev attest.Evidence, root ocispec.Descriptor, predicateType string, keys Keys) (*attest.Statements, error) {
	q, err := keys.query(predicateType)
	if err != nil {
		return nil, err
	}
	return attest.FindStatements(ctx, ev, root, q)
}

func alone(data []byte, predicateType string, keys Keys) (*attest.Statements, error) {
	q, err := keys.query(predicateType)
	if err != nil {
		return nil, err
	}
	return attest.VerifyStatementFile(data, q)
}

// query refuses a threshold that the keys can never meet. No keys at all are no mistake: then nobody is trusted, and
// whoever signed is told so.
func (k Keys) query(predicateType string) (attest.StatementQuery, error) {
	if len(k.Keys) > 0 || k.Threshold < 0 {
		if err := attest.CheckThreshold(k.Keys, k.threshold()); err != nil {
			return attest.StatementQuery{}, err
		}
	}
	limit := MaxStatement
	if predicateType == PredicateRevocation {
		limit = MaxRevocationStatement
	}
	// Base64 makes four bytes of three; the rest of a Sigstore bundle is small, also with what a transparency log adds.
	return attest.StatementQuery{PredicateType: predicateType, Keys: k.Keys, Revoked: k.Revoked, MaxBytes: int64(limit/3*4 + 64<<10)}, nil
}

// accept gives the statements that are in canonical form, speak of the subject (if it is given), and have enough
// signatures. What is wrong with the others becomes findings of s.
func accept[T any, P document[T]](s *attest.Statements, subject digest.Digest, keys Keys) ([]verified[P], error) {
	read := make(map[*attest.SignedStatement]verified[P])
	s.Refuse(func(st *attest.SignedStatement) (attest.Reason, error) {
		v, err := readStatement[T, P](st, s.Query.PredicateType)
		if err == nil && subject != "" && v.subject != subject {
			err = &SubjectError{Document: kindOf(s.Query.PredicateType), Reason: fmt.Sprintf("it speaks of %s", v.subject)}
		}
		var wrong *SubjectError
		if errors.As(err, &wrong) {
			return attest.WrongSubject, err
		}
		read[st] = v
		return attest.Malformed, err
	})
	s.Require(keys.threshold())
	var found []verified[P]
	for _, st := range s.Found {
		found = append(found, read[st])
	}
	return found, s.Err()
}

func readStatement[T any, P document[T]](st *attest.SignedStatement, predicateType string) (verified[P], error) {
	doc, subject, err := open[T, P](st.Payload(), predicateType)
	if err != nil {
		return verified[P]{}, err
	}
	v := verified[P]{document: doc, name: subject.Name, subject: digest.NewDigestFromEncoded(digest.SHA256, subject.Digest["sha256"]), proof: st}
	return v, checkOwnSubject(doc, v.name, v.subject)
}

// checkOwnSubject compares a predicate with the subject of its own statement.
func checkOwnSubject(doc any, name string, subject digest.Digest) error {
	switch d := doc.(type) {
	case *Revocation:
		predicate, err := d.Encode()
		if err != nil {
			return err
		}
		if want := digest.FromBytes(predicate); name != RevocationName || subject != want {
			return &SubjectError{Document: "revocation", Reason: fmt.Sprintf("subject %s %s, want %s %s", name, subject, RevocationName, want)}
		}
	case *Release:
		if d.Supersedes == subject {
			return &FormatError{Document: "release", Reason: "it supersedes itself"}
		}
	}
	return nil
}

func wrap[From, To any](list []From, fn func(From) To) []To {
	var all []To
	for _, x := range list {
		all = append(all, fn(x))
	}
	return all
}
