package release

import (
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/plimsoll/plimsoll/attest"
)

// PredicateRevocation is the in-toto predicate type of a revocation.
const PredicateRevocation = "https://plimsoll.dev/revocation/v1"

// RevocationName is the name of the only subject of a revocation; its digest is that of the predicate. The revoked
// digests are no subjects: any statement about an image, signed by a key that some verifier trusts, passes there for a
// signature of the image.
const RevocationName = "revocation"

// MaxRevoked bounds each list of a revocation.
const MaxRevoked = 8192

// Revocation takes rights away. A later one, by its number, holds everything that the one before it held.
type Revocation struct {
	Number   uint64          `json:"number"`            // from 1
	IssuedAt string          `json:"issuedAt"`          // RFC 3339, UTC, whole seconds
	Epoch    uint64          `json:"epoch,omitempty"`   // releases of a lower security epoch are revoked
	Bundles  []digest.Digest `json:"bundles,omitempty"` // of bundle indexes: SHA-256, sorted
	Images   []digest.Digest `json:"images,omitempty"`  // of image indexes and manifests: SHA-256 or SHA-512, sorted
	Keys     []string        `json:"keys,omitempty"`    // attest.KeyID, sorted
}

// Validate reports the first rule of the format that the revocation breaks, as *FormatError.
func (r *Revocation) Validate() error {
	c := checker{document: "revocation"}
	c.number("number", r.Number)
	c.want(r.Number > 0, "number 0: they count from 1")
	c.period(r.IssuedAt, "", "")
	c.number("epoch", r.Epoch)
	c.want(len(r.Bundles) <= MaxRevoked, "%d bundles, the limit is %d", len(r.Bundles), MaxRevoked)
	c.want(len(r.Images) <= MaxRevoked, "%d images, the limit is %d", len(r.Images), MaxRevoked)
	c.want(len(r.Keys) <= MaxRevoked, "%d keys, the limit is %d", len(r.Keys), MaxRevoked)
	c.want(ascending(r.Bundles), "bundles are not sorted, or named twice")
	c.want(ascending(r.Images), "images are not sorted, or named twice")
	c.want(ascending(r.Keys), "keys are not sorted, or named twice")
	for _, d := range r.Bundles {
		c.want(isSHA256(d), "bundle %.80q: want a SHA-256 digest", d)
	}
	for _, d := range r.Images {
		c.want(isSHA256(d) || isSHA512(d), "image %.150q: want a SHA-256 or SHA-512 digest", d)
	}
	for _, id := range r.Keys {
		c.want(isHex(id, keyDigits), "key %.80q: want its id, 64 hex digits", id)
	}
	return c.verdict()
}

// Encode gives the canonical predicate.
func (r *Revocation) Encode() ([]byte, error) { return encode(r) }

// ParseRevocation reads a canonical predicate; the error is a *FormatError.
func ParseRevocation(predicate []byte) (*Revocation, error) {
	return parse[Revocation](predicate, "revocation")
}

// Statement is what attest/sign signs.
func (r *Revocation) Statement() (attest.Statement, error) {
	predicate, err := r.Encode()
	if err != nil {
		return attest.Statement{}, err
	}
	return newStatement(r, PredicateRevocation, RevocationName, digest.FromBytes(predicate))
}

// Revokes tells whether a bundle or an image is revoked. A nil revocation revokes nothing.
func (r *Revocation) Revokes(d digest.Digest) bool {
	return r != nil && (has(r.Bundles, d) || has(r.Images, d))
}

// RevokesKey tells whether the signatures of a key, named by attest.KeyID, count no more.
func (r *Revocation) RevokesKey(id string) bool { return r != nil && has(r.Keys, id) }

// EpochFloor is the lowest security epoch that may still be imported.
func (r *Revocation) EpochFloor() uint64 {
	if r == nil {
		return 0
	}
	return r.Epoch
}

// Newer tells whether r has a higher number than other, which may be nil.
func (r *Revocation) Newer(other *Revocation) bool { return other == nil || r.Number > other.Number }

// Contains tells whether everything that other revokes is revoked by r, too.
func (r *Revocation) Contains(other *Revocation) bool { return len(r.forgets(other)) == 0 }

// forgets names what other revokes and r does not.
func (r *Revocation) forgets(other *Revocation) []string {
	if other == nil {
		return nil
	}
	forgotten := missing("bundle ", r.Bundles, other.Bundles)
	forgotten = append(forgotten, missing("image ", r.Images, other.Images)...)
	forgotten = append(forgotten, missing("key ", r.Keys, other.Keys)...)
	if r.Epoch < other.Epoch {
		forgotten = append(forgotten, fmt.Sprintf("epoch %d", other.Epoch))
	}
	return forgotten
}

func missing[T ~string](what string, have, want []T) []string {
	var gone []string
	for _, x := range want {
		if !has(have, x) {
			gone = append(gone, what+string(x))
		}
	}
	return gone
}

func has[T ~string](sorted []T, x T) bool {
	_, ok := slices.BinarySearch(sorted, x)
	return ok
}

// Merge gives what is in force at a site that has stored one revocation (or nil) and is offered another: the one with
// the higher number, if it holds all of the other. Whatever comes back revokes at least what was stored. It fails with
// *ForgottenError when the higher one lacks something, and with *ForkError when the same number was given to two
// documents; then what was stored stays.
func Merge(stored, offered *Revocation) (*Revocation, error) {
	if stored == nil {
		return offered, nil
	}
	high, low := stored, offered
	if offered.Newer(stored) {
		high, low = offered, stored
	}
	if high.Number == low.Number {
		if !sameRevocation(high, low) {
			return nil, &ForkError{Number: stored.Number}
		}
		return stored, nil
	}
	if forgotten := high.forgets(low); len(forgotten) > 0 {
		return nil, &ForgottenError{High: high.Number, Low: low.Number, Forgotten: forgotten}
	}
	return high, nil
}

func sameRevocation(a, b *Revocation) bool {
	return a.Number == b.Number && a.IssuedAt == b.IssuedAt && a.Epoch == b.Epoch && slices.Equal(a.Bundles, b.Bundles) &&
		slices.Equal(a.Images, b.Images) && slices.Equal(a.Keys, b.Keys)
}

// ForgottenError says that a revocation with a higher number lacks what one with a lower number revoked.
type ForgottenError struct {
	High, Low uint64   // numbers
	Forgotten []string // kind and name of each
}

func (e *ForgottenError) Error() string {
	more := ""
	if n := len(e.Forgotten); n > 1 {
		more = fmt.Sprintf(" and %d more", n-1)
	}
	return fmt.Sprintf("revocation %d lacks what revocation %d revoked: %s%s", e.High, e.Low, e.Forgotten[0], more)
}

// ForkError says that two different revocations have the same number.
type ForkError struct{ Number uint64 }

func (e *ForkError) Error() string {
	return fmt.Sprintf("revocation %d differs from the revocation %d that is stored", e.Number, e.Number)
}
