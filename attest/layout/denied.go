package layout

import (
	"fmt"
	"strings"
)

// Reason is why a layout is refused.
type Reason string

// The reasons.
const (
	Malformed        Reason = "malformed"         // layout or link: not what the specification says, or beyond the limits
	HasInspections   Reason = "has inspections"   // the layout has commands for whoever verifies it
	Certificates     Reason = "certificates"      // the layout trusts certificates, whose validity only a wall clock knows
	UnknownSigner    Reason = "unknown signer"    // an owner has not signed the layout
	Expired          Reason = "expired"           //
	MissingParameter Reason = "missing parameter" // a rule has a {NAME} for which no value is given
	MissingLink      Reason = "missing link"      // there is no link of a step
	Threshold        Reason = "threshold"         // there are too few links of a step
	WrongFunctionary Reason = "wrong functionary" // too few links of a step are signed by those who may do it
	WrongStep        Reason = "wrong step"        // a link is about another step than its name says
	Sublayout        Reason = "sublayout"         // a layout stands in the place of a link
	LinksDiffer      Reason = "links differ"      // functionaries of one step saw different artifacts
	RuleViolated     Reason = "rule violated"     // of materials or products
	WrongSubject     Reason = "wrong subject"     // what is judged is not among the final products
)

// DeniedError says why a layout, or its evidence, is refused.
type DeniedError struct {
	Reason Reason
	Step   string // or ""
	File   string // of a link, or ""
	Detail string // for people
	Err    error  // the cause, if there is one
}

func (e *DeniedError) Error() string {
	var b strings.Builder
	b.WriteString("layout: ")
	if e.Step != "" {
		fmt.Fprintf(&b, "step %s: ", e.Step)
	}
	if e.File != "" {
		fmt.Fprintf(&b, "%s: ", e.File)
	}
	b.WriteString(string(e.Reason))
	if e.Detail != "" {
		b.WriteString(": " + e.Detail)
	}
	return b.String()
}

func (e *DeniedError) Unwrap() error { return e.Err }

// ParameterError says that a given parameter cannot be used.
type ParameterError struct{ Name, Reason string }

func (e *ParameterError) Error() string {
	return fmt.Sprintf("layout: parameter %q: %s", e.Name, e.Reason)
}

// maxDetail bounds what a refusal quotes: the library writes every artifact of a link into its errors.
const maxDetail = 1000

func denied(r Reason, step, file string, err error) *DeniedError {
	detail := err.Error()
	if len(detail) > maxDetail {
		detail = strings.ToValidUTF8(detail[:maxDetail], "") + "…"
	}
	return &DeniedError{Reason: r, Step: step, File: file, Detail: detail, Err: err}
}
