package release

import (
	"github.com/opencontainers/go-digest"

	"github.com/plimsoll/plimsoll/attest"
)

// PredicateApproval is the in-toto predicate type of a site owner's approval.
const PredicateApproval = "https://plimsoll.dev/approval/v1"

// Approval says that the owner of a site agrees to one bundle at one place of a channel. The bundle's index is the only
// subject of its statement.
type Approval struct {
	Channel  string   `json:"channel"`            //
	Sequence uint64   `json:"sequence,omitempty"` // of the release that is approved; 0: it has none
	IssuedAt string   `json:"issuedAt"`           // RFC 3339, UTC, whole seconds
	UseBy    string   `json:"useBy,omitempty"`    // the last second in which the approval counts; empty: for ever
	Sites    []string `json:"sites,omitempty"`    // names, sorted; empty: every site that trusts the owner's key
}

// Validate reports the first rule of the format that the approval breaks, as *FormatError.
func (a *Approval) Validate() error {
	c := checker{document: "approval"}
	c.channel(a.Channel)
	c.number("sequence", a.Sequence)
	c.period(a.IssuedAt, "useBy", a.UseBy)
	c.sites(a.Sites)
	return c.verdict()
}

// Encode gives the canonical predicate.
func (a *Approval) Encode() ([]byte, error) { return encode(a) }

// ParseApproval reads a canonical predicate; the error is a *FormatError.
func ParseApproval(predicate []byte) (*Approval, error) {
	return parse[Approval](predicate, "approval")
}

// Statement is what attest/sign signs: the approval of the bundle of this name whose index has this digest.
func (a *Approval) Statement(name string, bundle digest.Digest) (attest.Statement, error) {
	return newStatement(a, PredicateApproval, name, bundle)
}
