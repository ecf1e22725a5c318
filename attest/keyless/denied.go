package keyless

import (
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/plimsoll/plimsoll/attest"
)

// Reason says why something was denied.
type Reason string

// The reasons, from the one that says least about a signature to the one that says most. A denial has the last of them
// that applies to anything that was seen.
const (
	NoRule         Reason = "no rule"         // for the repository
	NoSignature    Reason = "no signature"    // nothing that claims to be one
	Malformed      Reason = "malformed"       // it could not be parsed, is damaged, missing, or larger than allowed
	NotKeyless     Reason = "not keyless"     // signed with a key, not with a certificate
	UnknownRoot    Reason = "unknown root"    // the certificate is by an authority that the trusted root does not name
	BadSignature   Reason = "bad signature"   // not by the certificate's key, over these bytes
	NoLogEntry     Reason = "no log entry"    // of a transparency log, of the kind that the rule wants
	BadLogEntry    Reason = "bad log entry"   // of an unknown log, not signed by it, or about another signature
	NoTimestamp    Reason = "no timestamp"    // that can be believed
	Expired        Reason = "expired"         // the certificate was not valid when it was signed
	NoTransparency Reason = "no transparency" // the certificate is in no certificate log that the trusted root names
	NoIdentity     Reason = "no identity"     // the certificate has no subject alternative name, or several
	WrongIssuer    Reason = "wrong issuer"    // a valid signature by an identity of an issuer that the rule does not name
	WrongIdentity  Reason = "wrong identity"  // a valid signature by somebody else whom the issuer knows
	WrongSubject   Reason = "wrong subject"   // by an identity of the rule, for something else
	WrongPredicate Reason = "wrong predicate" // by an identity of the rule, but a statement of another kind
	NotEnough      Reason = "not enough"      // as it should be, but by fewer identities than the rule wants
)

// reasons in their order.
func reasons() []Reason {
	return []Reason{NoRule, NoSignature, Malformed, NotKeyless, UnknownRoot, BadSignature, NoLogEntry, BadLogEntry, NoTimestamp,
		Expired, NoTransparency, NoIdentity, WrongIssuer, WrongIdentity, WrongSubject, WrongPredicate, NotEnough}
}

func (r Reason) rank() int { return slices.Index(reasons(), r) }

// Finding is one thing that was looked into and did not count.
type Finding struct {
	Manifest digest.Digest // that carried it
	Layer    digest.Digest // in it; empty when the manifest itself is wrong
	Form     attest.Form   //
	Reason   Reason        //
	Identity string        // verified; empty when no certificate was accepted
	Issuer   string        // verified
	Detail   string        // for people
	Err      error         // the cause, if there is one
}

// DeniedError says that a manifest was not signed as its rule wants.
type DeniedError struct {
	Repository string
	Match      string // of the rule; empty when there is none
	Subject    digest.Digest
	Reason     Reason
	Have       int        // identities of the rule that signed
	Need       int        // that should have
	Wanted     []Identity // of the rule
	Seen       []Finding  // in the order of the evidence
	Unread     int        // further candidates beyond attest.MaxReferrers
}

const maxListed = 8 // findings in Details

// Error says what was wanted and, in short, what was found; Details lists it.
func (e *DeniedError) Error() string {
	where := fmt.Sprintf("verify keyless signatures of %s@%s", e.Repository, e.Subject)
	switch e.Reason {
	case NoRule:
		return where + ": no rule for this repository"
	case NoSignature:
		return where + ": no signature found"
	case NotEnough:
		return fmt.Sprintf("%s: signed by %d of %d identities that %q wants", where, e.Have, e.Need, e.Match)
	}
	found := "1 signature found"
	if len(e.Seen) > 1 {
		found = fmt.Sprintf("%d signatures found", len(e.Seen))
	}
	text := fmt.Sprintf("%s: %s, none counts: %s", where, found, e.Reason)
	for _, f := range e.Seen {
		if f.Reason == e.Reason && f.Detail != "" {
			return text + ": " + f.Detail
		}
	}
	return text
}

// Details has a line for each thing that was looked into.
func (e *DeniedError) Details() []string {
	var lines []string
	for i, f := range e.Seen {
		if i == maxListed {
			lines = append(lines, fmt.Sprintf("and %d more", len(e.Seen)-i))
			break
		}
		lines = append(lines, fmt.Sprintf("%s in %s: %s: %s", f.Form, f.Manifest, f.Reason, f.Detail))
	}
	if e.Unread > 0 {
		lines = append(lines, fmt.Sprintf("%d more were not read, the limit is %d", e.Unread, attest.MaxReferrers))
	}
	return lines
}

// Unwrap gives the causes of the findings, so that a missing or damaged signature can be told from a foreign one.
func (e *DeniedError) Unwrap() []error {
	var causes []error
	for _, f := range e.Seen {
		if f.Err != nil {
			causes = append(causes, f.Err)
		}
	}
	return causes
}

func (s *search) denied(repository string, have, unread int) *DeniedError {
	e := &DeniedError{Repository: repository, Match: s.rule.Match, Subject: s.subject, Reason: NoSignature, Have: have,
		Need: s.rule.need, Wanted: slices.Clone(s.rule.Identities), Seen: s.seen, Unread: unread}
	for _, f := range e.Seen {
		if f.Reason.rank() > e.Reason.rank() {
			e.Reason = f.Reason
		}
	}
	if have > 0 {
		e.Reason = NotEnough
	}
	return e
}

// refusal is why one candidate does not count.
type refusal struct {
	reason           Reason
	identity, issuer string
	detail           string
	err              error
}

func (r *refusal) Error() string { return r.detail }

func (r *refusal) Unwrap() error { return r.err }

func refuse(reason Reason, format string, args ...any) *refusal {
	err := fmt.Errorf(format, args...)
	return &refusal{reason: reason, detail: err.Error(), err: err}
}
