package attest

import (
	"errors"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Reason says why something was denied.
type Reason string

// The reasons, from the one that says least about a signature to the one that says most. A denial has the last of them
// that applies to anything that was seen.
const (
	NoSignature    Reason = "no signature"    // nothing that claims to be one
	Malformed      Reason = "malformed"       // it could not be parsed, is damaged, missing, or larger than allowed
	UnknownKey     Reason = "unknown key"     // well formed, but not by a trusted key: changed bytes look the same
	WrongSubject   Reason = "wrong subject"   // by a trusted key, for something else
	WrongPredicate Reason = "wrong predicate" // by a trusted key, but a statement of another kind
	RevokedKey     Reason = "revoked key"     // as it should be, but by a key that was revoked
	NotEnough      Reason = "not enough"      // as it should be, but by fewer keys than the threshold
)

// rank orders reasons by how much was verified before the refusal.
func (r Reason) rank() int {
	for i, known := range []Reason{NoSignature, Malformed, UnknownKey, WrongSubject, WrongPredicate, RevokedKey, NotEnough} {
		if r == known {
			return i
		}
	}
	return 0
}

// Finding is one thing that was looked into and did not count.
type Finding struct {
	Manifest  digest.Digest // that carried it; of the line in a statement file
	Line      int           // in a statement file, from 1; else 0
	Form      Form          //
	Reason    Reason        // NoSignature for an attestation by a key that is not trusted: it never claimed to be a signature
	KeyID     string        // of the trusted key that signed it; empty when none did
	Predicate string        // the predicate type; from signed bytes iff KeyID is set
	Detail    string        // for people
	Err       error         // the cause, if there is one: *bundle.MissingError, *bundle.DamagedError, a parse error
}

// DeniedError says that no signature by a trusted key was found, or too few.
type DeniedError struct {
	Subject digest.Digest // what should have been signed; empty for a statement file
	Reason  Reason        //
	Wanted  string        // the predicate type of the statement that was wanted; empty for a signature of a manifest
	Have    int           // keys that signed the same statement, iff Reason is NotEnough
	Need    int           // keys that should have, iff Reason is NotEnough
	Seen    []Finding     // in the order of the evidence
	Others  int           // statements that claim to be of another type than Wanted; not looked into
	Unread  int           // further candidates beyond MaxReferrers or MaxBeside
	Trusted []string      // KeyID of every key that would have been accepted
}

const maxListed = 8 // findings in the text of a DeniedError

// Error says what was wanted and, in short, what was found; Details lists it.
func (e *DeniedError) Error() string {
	subject := e.Subject.String()
	if subject == "" {
		subject = "statement file"
	}
	if e.Wanted != "" {
		return fmt.Sprintf("verify %s: %s", subject, e.summaryOfStatements())
	}
	return fmt.Sprintf("verify %s: %s", subject, e.summary())
}

// Details has a line for each thing that was looked into.
func (e *DeniedError) Details() []string {
	var lines []string
	for i, f := range e.Seen {
		if i == maxListed {
			lines = append(lines, fmt.Sprintf("and %d more", len(e.Seen)-i))
			break
		}
		where := f.Manifest.String()
		if f.Line > 0 {
			where = fmt.Sprintf("line %d", f.Line)
		}
		lines = append(lines, fmt.Sprintf("%s in %s: %s", f.Form, where, f.Detail))
	}
	if e.Unread > 0 {
		lines = append(lines, fmt.Sprintf("%d more were not read, the limit is %d", e.Unread, MaxReferrers))
	}
	return lines
}

func (e *DeniedError) trusted() string {
	if len(e.Trusted) == 0 {
		return "no key is trusted"
	}
	return "trusted: " + strings.Join(e.Trusted, ", ")
}

func (e *DeniedError) summaryOfStatements() string {
	found := fmt.Sprintf("%s of type %s found", plural(len(e.Seen), "statement"), e.Wanted)
	switch e.Reason {
	case NotEnough:
		return fmt.Sprintf("%d of %s over a statement of type %s (%s)", e.Have, plural(e.Need, "signature"), e.Wanted, e.trusted())
	case RevokedKey:
		return found + ", but its key was revoked"
	case UnknownKey:
		return fmt.Sprintf("%s, none by a trusted key (%s)", found, e.trusted())
	case WrongPredicate:
		return "a trusted key signed only statements of another type than " + e.Wanted
	case WrongSubject:
		return found + ", but a trusted key signed only what speaks of something else"
	case Malformed:
		return found + ", none that can be read"
	default:
		if e.Others > 0 {
			return fmt.Sprintf("no statement of type %s found, only %d of other types", e.Wanted, e.Others)
		}
		return fmt.Sprintf("no statement of type %s found", e.Wanted)
	}
}

func (e *DeniedError) summary() string {
	trusted := e.trusted()
	count, attestations := 0, 0
	for _, f := range e.Seen {
		if f.Reason == NoSignature {
			attestations++
		} else {
			count++
		}
	}
	found := plural(count, "signature") + " found"
	switch e.Reason {
	case UnknownKey:
		return fmt.Sprintf("%s, none by a trusted key (%s)", found, trusted)
	case WrongPredicate:
		return fmt.Sprintf("%s, but a trusted key signed only statements of another type than %s", found, PredicateSign)
	case WrongSubject:
		return found + ", but a trusted key signed only other subjects"
	case Malformed:
		return found + ", none that can be read"
	default:
		if attestations > 0 {
			return fmt.Sprintf("no signature found, only %s", plural(attestations, "attestation"))
		}
		return "no signature found"
	}
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
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

// denied is the verdict when nothing was accepted.
func (s *search) denied() *DeniedError {
	e := &DeniedError{Subject: s.subject, Reason: NoSignature, Seen: s.seen, Unread: s.unread, Trusted: s.keys.ids()}
	e.settle()
	return e
}

// settle makes the reason the one that says most of those that were found.
func (e *DeniedError) settle() {
	for _, f := range e.Seen {
		if f.Reason.rank() > e.Reason.rank() {
			e.Reason = f.Reason
		}
	}
}

// badEvidence is why one candidate does not count.
type badEvidence struct {
	reason    Reason
	keyID     string
	predicate string
	detail    string
	err       error
}

func (e *badEvidence) Error() string { return e.detail }
func (e *badEvidence) Unwrap() error { return e.err }

func malformed(format string, args ...any) *badEvidence {
	err := fmt.Errorf(format, args...)
	return &badEvidence{reason: Malformed, detail: err.Error(), err: errors.Unwrap(err)}
}

// claim tells an attestation by a foreign key from a signature by one, by what its manifest says of itself. The hint is
// unsigned and decides nothing but the wording of a refusal.
func claim(err error, m ocispec.Manifest) error {
	var bad *badEvidence
	hint := m.Annotations[AnnotationPredicateType]
	if errors.As(err, &bad) && bad.reason == UnknownKey && hint != "" && hint != PredicateSign {
		bad.reason, bad.predicate = NoSignature, hint
		bad.detail = fmt.Sprintf("an attestation of type %q, not by a trusted key", hint)
	}
	return err
}
