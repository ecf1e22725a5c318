package release

import (
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/plimsoll/plimsoll/attest"
)

// PredicatePermit is the in-toto predicate type of a permit.
const PredicatePermit = "https://plimsoll.dev/permit/v1"

// MaxPermitLife bounds how long after its making a permit can be used: one that lasts for years is a rule, not an
// emergency.
const MaxPermitLife = 90 * 24 * time.Hour

// Check names a check that a permit may override.
type Check string

// The checks that a permit may override. Signatures, thresholds and revocations are not among them, on purpose.
const (
	CheckNameApproval Check = "approval" // the owner's own approval is missing
	CheckNameChannel  Check = "channel"  // the release is for another channel
	CheckNameClock    Check = "clock"    // the relay's clock is suspicious
	CheckNameEpoch    Check = "epoch"    // below the security epoch
	CheckNameExpired  Check = "expired"  // behind the use-by of the release or of the trust metadata
	CheckNameOlder    Check = "older"    // a lower sequence or version than was accepted
	CheckNamePolicy   Check = "policy"   // the site's policy says no
	CheckNameRelay    Check = "relay"    // the relay is older than the release wants
	CheckNameSite     Check = "site"     // the release is for other sites
)

// Checks are all checks that a permit may override, sorted.
func Checks() []Check {
	return []Check{CheckNameApproval, CheckNameChannel, CheckNameClock, CheckNameEpoch, CheckNameExpired, CheckNameOlder,
		CheckNamePolicy, CheckNameRelay, CheckNameSite}
}

// Permit breaks the glass: the owner of a site lets one bundle pass named checks, once. The bundle's index is the only
// subject of its statement.
type Permit struct {
	ID        string  `json:"id"`              // 32 random lower-case hex digits; a relay uses each id up
	Site      string  `json:"site"`            // name
	Relay     string  `json:"relay,omitempty"` // attest.KeyID of the only relay that may use it; empty: any of the site
	Overrides []Check `json:"overrides"`       // sorted, at least one
	Reason    string  `json:"reason"`          // for people, printable, up to MaxReason bytes
	IssuedAt  string  `json:"issuedAt"`        // RFC 3339, UTC, whole seconds
	NotAfter  string  `json:"notAfter"`        // the last second in which it may be used
}

// Validate reports the first rule of the format that the permit breaks, as *FormatError.
func (p *Permit) Validate() error {
	c := checker{document: "permit"}
	c.want(isHex(p.ID, 32), "id %.80q: want 32 hex digits", p.ID)
	c.want(sitePattern.MatchString(p.Site), "site %.140q: %s", p.Site, siteRule)
	c.want(p.Relay == "" || isHex(p.Relay, keyDigits), "relay %.80q: want the id of its key, 64 hex digits", p.Relay)
	c.want(len(p.Overrides) > 0, "it overrides nothing")
	known := Checks()
	c.want(len(p.Overrides) <= len(known), "%d checks, only %d are known", len(p.Overrides), len(known))
	c.want(ascending(p.Overrides), "overrides are not sorted, or named twice")
	for _, check := range p.Overrides {
		c.want(slices.Contains(known, check), "a check %.40q that no permit can override", check)
	}
	c.want(len(p.Reason) > 0 && len(p.Reason) <= MaxReason && printable(p.Reason), "reason: want 1 to %d printable bytes", MaxReason)
	c.want(p.NotAfter != "", "no notAfter")
	c.period(p.IssuedAt, "notAfter", p.NotAfter)
	if c.err == nil {
		from, to := instant(p.IssuedAt), instant(p.NotAfter)
		c.want(to.Sub(from) <= MaxPermitLife, "it lasts from %s to %s, the limit is %d days", p.IssuedAt, p.NotAfter, int(MaxPermitLife.Hours())/24)
	}
	return c.verdict()
}

// Encode gives the canonical predicate.
func (p *Permit) Encode() ([]byte, error) { return encode(p) }

// ParsePermit reads a canonical predicate; the error is a *FormatError.
func ParsePermit(predicate []byte) (*Permit, error) { return parse[Permit](predicate, "permit") }

// Statement is what attest/sign signs: the permit for the bundle of this name whose index has this digest.
func (p *Permit) Statement(name string, bundle digest.Digest) (attest.Statement, error) {
	return newStatement(p, PredicatePermit, name, bundle)
}
