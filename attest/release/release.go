// Package release knows the statements by which people decide what may run at a site: a release, a site owner's
// approval, a revocation, a permit. It parses them strictly, verifies who signed them, and judges them.
//
// It reads no clock, keeps nothing and opens no connection: the time, what was accepted before and the site's name are
// parameters. A verified statement is a value that only this package makes. The formats are in bundle/FORMAT.md.
package release

import (
	"github.com/opencontainers/go-digest"

	"github.com/plimsoll/plimsoll/attest"
)

// PredicateRelease is the in-toto predicate type of a release statement.
const PredicateRelease = "https://plimsoll.dev/release/v1"

// Release says that a bundle is released to a channel. The bundle's index is the only subject of its statement.
type Release struct {
	Channel    string        `json:"channel"`              //
	Sequence   uint64        `json:"sequence,omitempty"`   // place in the channel, from 1; 0: ordered by semantic version
	Version    string        `json:"version"`              // of the bundle, as its lock says
	IssuedAt   string        `json:"issuedAt"`             // RFC 3339, UTC, whole seconds
	UseBy      string        `json:"useBy,omitempty"`      // the last second in which it may be imported; empty: for ever
	Epoch      uint64        `json:"epoch,omitempty"`      // security epoch: who accepted a higher one takes it no more
	MinRelay   string        `json:"minRelay,omitempty"`   // semantic version, without v, of the oldest plimsoll-relay that may take it
	Sites      []string      `json:"sites,omitempty"`      // names, sorted; empty: any site
	Supersedes digest.Digest `json:"supersedes,omitempty"` // the release before it, SHA-256
}

// Validate reports the first rule of the format that the release breaks, as *FormatError.
func (r *Release) Validate() error {
	c := checker{document: "release"}
	c.channel(r.Channel)
	c.number("sequence", r.Sequence)
	c.want(versionPattern.MatchString(r.Version), "version %.140q: want 1 to 128 letters, digits and any of ._+-", r.Version)
	// Without a number only the version says which of two releases is older; without an order old ones could return.
	c.want(r.Sequence > 0 || isSemantic(r.Version), "version %.140q is not semantic, and there is no sequence to order by", r.Version)
	c.period(r.IssuedAt, "useBy", r.UseBy)
	c.number("epoch", r.Epoch)
	c.want(r.MinRelay == "" || isCanonicalVersion(r.MinRelay), "minRelay %.140q: want a semantic version like 1.2.3", r.MinRelay)
	c.sites(r.Sites)
	c.want(r.Supersedes == "" || isSHA256(r.Supersedes), "supersedes %.80q: want a SHA-256 digest", r.Supersedes)
	return c.verdict()
}

// Encode gives the canonical predicate.
func (r *Release) Encode() ([]byte, error) { return encode(r) }

// ParseRelease reads a canonical predicate; the error is a *FormatError.
func ParseRelease(predicate []byte) (*Release, error) { return parse[Release](predicate, "release") }

// Statement is what attest/sign signs: the release of the bundle of this name whose index has this digest.
func (r *Release) Statement(name string, bundle digest.Digest) (attest.Statement, error) {
	st, err := newStatement(r, PredicateRelease, name, bundle)
	if err == nil && bundle == r.Supersedes {
		return attest.Statement{}, &FormatError{Document: "release", Reason: "it supersedes itself"}
	}
	return st, err
}
