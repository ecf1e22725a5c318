package attest

import (
	"context"
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/bundle/media"
)

// Limits of a search for statements, enforced before anything is read.
const (
	MaxBeside         = 1024     // manifests beside one subject that are opened to see what they claim to be
	MaxBesideManifest = 64 << 10 // bytes of such a manifest
)

// StatementQuery says which statements are wanted and whose signatures count. Its zero value trusts nobody.
type StatementQuery struct {
	PredicateType string             // exactly this one
	Keys          []crypto.PublicKey // ECDSA P-256 or Ed25519; the same key twice is one key
	Revoked       []string           // KeyID of keys whose signatures do not count any more, although they are among Keys
	MaxBytes      int64              // of one Sigstore bundle; 0 means MaxSignature
}

func (q StatementQuery) maxBytes() int64 {
	if q.MaxBytes == 0 {
		return MaxSignature
	}
	return q.MaxBytes
}

// SignedStatement is a statement with all those who signed exactly these bytes. Only this package makes one.
type SignedStatement struct {
	statement  Statement
	payload    []byte
	signatures []Signature
}

// Statement is what was signed. It has no KeyID, since several keys may have signed; it is not to be changed.
func (s *SignedStatement) Statement() Statement { return s.statement }

// Payload is the statement byte for byte as it was signed.
func (s *SignedStatement) Payload() []byte { return slices.Clone(s.payload) }

// Digest is the SHA-256 of the payload: it names the statement whoever signed it.
func (s *SignedStatement) Digest() digest.Digest { return digest.FromBytes(s.payload) }

// Signatures are the valid signatures, sorted by key, then by what carries them. One key may be there several times.
func (s *SignedStatement) Signatures() []Signature { return slices.Clone(s.signatures) }

// KeyIDs are the keys that signed it, each once, sorted. Their number is what a threshold is compared with.
func (s *SignedStatement) KeyIDs() []string {
	var ids []string
	for _, sig := range s.signatures {
		ids = append(ids, sig.KeyID)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// Statements is what a search found: what a trusted key signed, and why the rest does not count.
type Statements struct {
	Subject digest.Digest      // beside which was searched; empty for a file
	Query   StatementQuery     //
	Found   []*SignedStatement // by at least one trusted key each, sorted by digest
	Seen    []Finding          // what did not count, in the order of the evidence
	Others  int                // Sigstore bundles that claim to be of another predicate type; they were not looked into
	Unread  int                // further candidates beyond the limits
	Trusted []string           // KeyID of the keys of the query
	most    int                // signatures of the statement that had too few
	need    int                // of them
	broken  []error            // of the evidence
}

// FindStatements gives every statement of one predicate type that a trusted key signed about a manifest, with all its
// signers. Statements of other types, unsigned ones and those that speak of something else are findings, no errors. It
// fails only when the list of referrers could not be read or the query has no sense; Err is the verdict when nothing of
// what was found can be accepted.
func FindStatements(ctx context.Context, ev Evidence, subject ocispec.Descriptor, q StatementQuery) (*Statements, error) {
	if err := bundle.CheckDescriptor(subject); err != nil {
		return nil, fmt.Errorf("find statements: %w", err)
	}
	if subject.Digest.Algorithm() != digest.SHA256 {
		return nil, fmt.Errorf("find statements about %s: only sha256 digests can be signed", subject.Digest)
	}
	c, err := newCollector(q)
	if err != nil {
		return nil, fmt.Errorf("find statements about %s: %w", subject.Digest, err)
	}
	c.fetcher, c.subject = ev, subject.Digest
	refs, err := ev.Referrers(ctx, subject.Digest)
	if err != nil {
		return nil, fmt.Errorf("find statements about %s: list referrers: %w", subject.Digest, err)
	}
	candidates := c.claimants(ctx, refs)
	for _, candidate := range candidates[:min(len(candidates), MaxReferrers)] {
		if err := c.examineStatement(ctx, candidate); err != nil {
			c.refuse(candidate.manifest, FormBundle, err)
		}
	}
	c.unread += max(0, len(candidates)-MaxReferrers)
	return c.result(), nil
}

// collector groups valid signatures by what was signed.
type collector struct {
	search
	query  StatementQuery
	groups map[[sha256.Size]byte]*SignedStatement
	others int
}

func newCollector(q StatementQuery) (*collector, error) {
	if q.PredicateType == "" {
		return nil, errors.New("no predicate type")
	}
	keys, err := newKeyring(q.Keys)
	if err != nil {
		return nil, err
	}
	return &collector{search: search{keys: keys}, query: q, groups: make(map[[sha256.Size]byte]*SignedStatement)}, nil
}

// claimant is a referrer that may carry a wanted statement.
type claimant struct {
	manifest digest.Digest
	about    digest.Digest // subject field of the manifest
	layer    ocispec.Descriptor
}

// claimants are the Sigstore bundles beside the subject that claim to be of the wanted type, then those that claim
// nothing. One that claims another type is passed by: whoever could write a false claim could as well leave it out, and
// a hundred SBOMs must not crowd out the release statement.
func (c *collector) claimants(ctx context.Context, refs []media.Referrer) []claimant {
	var sure, maybe []claimant
	seen := make(map[digest.Digest]struct{})
	for _, ref := range c.candidates(refs) {
		if _, again := seen[ref.Digest]; again || ref.Tag != "" {
			continue
		}
		if len(seen) == MaxBeside {
			c.unread++
			continue
		}
		seen[ref.Digest] = struct{}{}
		if ref.Size > MaxBesideManifest {
			c.refuse(ref.Digest, FormBundle, malformed("manifest: %d bytes, the limit is %d", ref.Size, MaxBesideManifest))
			continue
		}
		m, err := readManifest(ctx, c.fetcher, ref.Descriptor)
		if err != nil {
			c.refuse(ref.Digest, FormBundle, err)
			if ctx.Err() != nil {
				return nil
			}
			continue
		}
		if !isBundleManifest(m) {
			continue // some other referrer
		}
		layer := m.Layers[0]
		found := claimant{manifest: ref.Digest, layer: ocispec.Descriptor{MediaType: layer.MediaType, Digest: layer.Digest, Size: layer.Size}}
		if m.Subject != nil {
			found.about = m.Subject.Digest
		}
		switch m.Annotations[AnnotationPredicateType] {
		case c.query.PredicateType:
			sure = append(sure, found)
		case "":
			maybe = append(maybe, found)
		default:
			c.others++
		}
	}
	return append(sure, maybe...)
}

func (c *collector) examineStatement(ctx context.Context, from claimant) error {
	data, err := readBounded(ctx, c.fetcher, from.layer, c.query.maxBytes())
	if err != nil {
		return err
	}
	if _, err := checkBundleForm(data); err != nil {
		return err
	}
	return c.take(data, Signature{Form: FormBundle, Manifest: from.manifest}, func(st *Statement) string {
		switch {
		case !st.Covers(c.subject):
			return "a statement that does not speak of " + c.subject.String()
		case from.about != c.subject:
			return "a statement whose manifest is attached to something else"
		}
		return ""
	})
}

// take verifies one Sigstore bundle and counts its signature. The function says what is wrong with the subjects.
func (c *collector) take(data []byte, sig Signature, wrongSubject func(*Statement) string) error {
	verified, err := verifyBundle(data, c.keys)
	if err != nil {
		return err
	}
	st, err := parseStatement(verified.data)
	if err != nil {
		bad := malformed("statement: %w", err)
		bad.keyID = verified.keyID
		return bad
	}
	bad := &badEvidence{keyID: verified.keyID, predicate: st.PredicateType}
	if st.PredicateType != c.query.PredicateType {
		bad.reason = WrongPredicate
		bad.detail = fmt.Sprintf("key %s signed a statement of type %q", verified.keyID, st.PredicateType)
		return bad
	}
	if wrong := wrongSubject(st); wrong != "" {
		bad.reason, bad.detail = WrongSubject, fmt.Sprintf("key %s signed %s", verified.keyID, wrong)
		return bad
	}
	if slices.Contains(c.query.Revoked, verified.keyID) {
		bad.reason, bad.detail = RevokedKey, fmt.Sprintf("signed by key %s, which was revoked", verified.keyID)
		return bad
	}
	sum := sha256.Sum256(verified.data)
	group, ok := c.groups[sum]
	if !ok {
		group = &SignedStatement{statement: *st, payload: verified.data}
		c.groups[sum] = group
	}
	sig.KeyID = verified.keyID
	group.signatures = append(group.signatures, sig)
	return nil
}

func (c *collector) result() *Statements {
	s := &Statements{Subject: c.subject, Query: c.query, Seen: c.seen, Others: c.others, Unread: c.unread,
		Trusted: c.keys.ids(), broken: c.broken}
	for _, group := range c.groups {
		slices.SortFunc(group.signatures, func(a, b Signature) int {
			return strings.Compare(a.KeyID+string(a.Manifest), b.KeyID+string(b.Manifest))
		})
		s.Found = append(s.Found, group)
	}
	slices.SortFunc(s.Found, func(a, b *SignedStatement) int { return strings.Compare(string(a.Digest()), string(b.Digest())) })
	return s
}

// CheckThreshold refuses a number of keys that can never be met, or that is met by nobody: 2 of one key that was given
// twice. The error is a *KeyError.
func CheckThreshold(keys []crypto.PublicKey, threshold int) error {
	ring, err := newKeyring(keys)
	if err != nil {
		return err
	}
	if threshold < 1 || threshold > len(ring) {
		return &KeyError{Reason: fmt.Sprintf("a threshold of %d, with %s", threshold, plural(len(ring), "different key"))}
	}
	return nil
}

// Require keeps the statements that at least so many different keys signed; the others become findings with the reason
// NotEnough. Signatures over different statements are not added up: whoever signs says all of it.
func (s *Statements) Require(threshold int) {
	s.Found = slices.DeleteFunc(s.Found, func(st *SignedStatement) bool {
		have := len(st.KeyIDs())
		if have >= threshold {
			return false
		}
		s.most, s.need = max(s.most, have), threshold
		s.add(st, NotEnough, fmt.Sprintf("%d of %d signatures", have, threshold), nil)
		return true
	})
}

// Refuse turns a statement into findings, for a reason that only its reader knows; a nil error means that it stays.
func (s *Statements) Refuse(judge func(*SignedStatement) (Reason, error)) {
	s.Found = slices.DeleteFunc(s.Found, func(st *SignedStatement) bool {
		reason, err := judge(st)
		if err != nil {
			s.add(st, reason, err.Error(), err)
		}
		return err != nil
	})
}

func (s *Statements) add(st *SignedStatement, reason Reason, detail string, err error) {
	for _, sig := range st.signatures {
		s.Seen = append(s.Seen, Finding{Manifest: sig.Manifest, Form: sig.Form, Reason: reason, KeyID: sig.KeyID,
			Predicate: st.statement.PredicateType, Detail: detail, Err: err})
	}
}

// Err is the verdict: nil when something was found, else *DeniedError. Evidence that could not be read is no verdict:
// then it is the error of the evidence.
func (s *Statements) Err() error {
	if len(s.Found) > 0 {
		return nil
	}
	if len(s.broken) > 0 {
		return fmt.Errorf("find statements about %s: %w", s.Subject, errors.Join(s.broken...))
	}
	e := &DeniedError{Subject: s.Subject, Reason: NoSignature, Wanted: s.Query.PredicateType, Seen: s.Seen, Others: s.Others,
		Unread: s.Unread, Have: s.most, Need: s.need, Trusted: s.Trusted}
	e.settle()
	return e
}
