package release

import (
	"fmt"
	"maps"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/opencontainers/go-digest"
	"golang.org/x/mod/semver"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// Limits, enforced before anything is decoded or, for lists, before anything is believed.
const (
	MaxStatement           = 256 << 10 // bytes of a release, approval or permit, as a statement
	MaxRevocationStatement = 5 << 19   // bytes of a revocation, as a statement
	MaxSites               = 1024      // of one release or approval
	MaxReason              = 1024      // bytes of a permit's reason
	MaxNumber              = 1<<53 - 1 // the largest number that every JSON parser reads exactly
)

const keyDigits = 64 // of attest.KeyID

var (
	namePattern    = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,253}[a-z0-9])?$`) // of a bundle, as in its lock
	channelPattern = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,127}$`)
	versionPattern = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._+-]{0,127}$`)
	// One spelling of each name: no other case, no dot at the end, nothing beyond ASCII that looks like it.
	sitePattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,126}[a-z0-9])?$`)
)

const siteRule = "want 1 to 128 of a-z, 0-9, '-', '.', '_', the first and the last a letter or digit"

// CheckSiteName says what is wrong with a site's name.
func CheckSiteName(name string) error {
	if !sitePattern.MatchString(name) {
		return fmt.Errorf("site %.140q: %s", name, siteRule)
	}
	return nil
}

// FormatError says which rule of its format a statement breaks.
type FormatError struct {
	Document string // release, approval, revocation, permit
	Reason   string
	Err      error // the cause, if there is one
}

func (e *FormatError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("%s: %s: %v", e.Document, e.Reason, e.Err)
	}
	return e.Document + ": " + e.Reason
}

// Unwrap gives the cause.
func (e *FormatError) Unwrap() error { return e.Err }

// SubjectError says that a statement speaks of something else than it must.
type SubjectError struct {
	Document string
	Reason   string
}

func (e *SubjectError) Error() string { return e.Document + ": " + e.Reason }

// document is a pointer to one of the predicates.
type document[T any] interface {
	*T
	Validate() error
}

type validator interface{ Validate() error }

func encode(d validator) ([]byte, error) {
	if err := d.Validate(); err != nil {
		return nil, err
	}
	return strictjson.Marshal(d)
}

func parse[T any, P document[T]](predicate []byte, name string) (P, error) {
	if len(predicate) > MaxRevocationStatement {
		return nil, &FormatError{Document: name, Reason: fmt.Sprintf("%d bytes, the limit is %d", len(predicate), MaxRevocationStatement)}
	}
	d := P(new(T))
	if err := strictjson.UnmarshalCanonical(predicate, d); err != nil {
		return nil, &FormatError{Document: name, Reason: "predicate", Err: err}
	}
	if err := d.Validate(); err != nil {
		return nil, err
	}
	return d, nil
}

// newStatement is a statement with one subject. Its predicate is canonical, so that all signers sign the same bytes.
func newStatement(d validator, predicateType, name string, subject digest.Digest) (attest.Statement, error) {
	predicate, err := encode(d)
	if err != nil {
		return attest.Statement{}, err
	}
	if !namePattern.MatchString(name) || !isSHA256(subject) {
		return attest.Statement{}, &SubjectError{Document: kindOf(predicateType), Reason: fmt.Sprintf("subject %.140q %.80q: want a name and a SHA-256 digest", name, subject)}
	}
	return attest.Statement{
		PredicateType: predicateType,
		Subjects:      []attest.Subject{{Name: name, Digest: map[string]string{"sha256": subject.Encoded()}}},
		Predicate:     predicate,
	}, nil
}

func kindOf(predicateType string) string {
	name, _, _ := strings.Cut(strings.TrimPrefix(predicateType, "https://plimsoll.dev/"), "/")
	return name
}

// signed is a statement as it stands in the signed bytes, in the order in which attest/sign writes it.
type signed[P any] struct {
	Type          string           `json:"_type"`
	Subject       []attest.Subject `json:"subject"`
	PredicateType string           `json:"predicateType"`
	Predicate     P                `json:"predicate"`
}

// open reads a whole statement strictly: it has one encoding, from the first byte to the last.
func open[T any, P document[T]](payload []byte, predicateType string) (P, attest.Subject, error) {
	kind := kindOf(predicateType)
	var st signed[P]
	if err := strictjson.UnmarshalCanonical(payload, &st); err != nil {
		return nil, attest.Subject{}, &FormatError{Document: kind, Reason: "statement", Err: err}
	}
	switch {
	case st.Type != attest.StatementType:
		return nil, attest.Subject{}, &FormatError{Document: kind, Reason: fmt.Sprintf("_type %.80q, want %q", st.Type, attest.StatementType)}
	case st.PredicateType != predicateType:
		return nil, attest.Subject{}, &FormatError{Document: kind, Reason: fmt.Sprintf("predicateType %.80q, want %q", st.PredicateType, predicateType)}
	case st.Predicate == nil:
		return nil, attest.Subject{}, &FormatError{Document: kind, Reason: "no predicate"}
	// With a list, "which of them did they mean" has no answer.
	case len(st.Subject) != 1:
		return nil, attest.Subject{}, &SubjectError{Document: kind, Reason: fmt.Sprintf("%d subjects, want exactly 1", len(st.Subject))}
	}
	if err := st.Predicate.Validate(); err != nil {
		return nil, attest.Subject{}, err
	}
	if err := checkSubject(st.Subject[0]); err != nil {
		return nil, attest.Subject{}, &SubjectError{Document: kind, Reason: err.Error()}
	}
	return st.Predicate, attest.Subject{Name: st.Subject[0].Name, Digest: maps.Clone(st.Subject[0].Digest)}, nil
}

func checkSubject(s attest.Subject) error {
	if !namePattern.MatchString(s.Name) {
		return fmt.Errorf("subject's name %.140q: want lower-case letters, digits, '.', '_' and '-'", s.Name)
	}
	if len(s.Digest) != 1 || !isHex(s.Digest["sha256"], 64) {
		return fmt.Errorf("subject %s: want one SHA-256 digest and no other", s.Name)
	}
	return nil
}

// checker keeps the first thing that is wrong.
type checker struct {
	document string
	err      *FormatError
}

func (c *checker) want(ok bool, format string, args ...any) {
	if !ok && c.err == nil {
		c.err = &FormatError{Document: c.document, Reason: fmt.Sprintf(format, args...)}
	}
}

func (c *checker) verdict() error {
	if c.err != nil {
		return c.err
	}
	return nil
}

func (c *checker) channel(name string) {
	c.want(channelPattern.MatchString(name), "channel %.140q: want 1 to 128 of a-z, 0-9, '-', '.', '_', the first a letter or digit", name)
}

func (c *checker) number(what string, n uint64) {
	c.want(n <= MaxNumber, "%s %d: the limit is %d", what, n, uint64(MaxNumber))
}

// period checks when a statement was made and until when it counts, which may be empty.
func (c *checker) period(issuedAt, what, until string) {
	c.want(!instant(issuedAt).IsZero(), "issuedAt %.40q: want RFC 3339 in UTC with whole seconds", issuedAt)
	if until != "" {
		c.want(!instant(until).IsZero(), "%s %.40q: want RFC 3339 in UTC with whole seconds", what, until)
		c.want(instant(until).After(instant(issuedAt)), "%s %s is not after issuedAt %s", what, until, issuedAt)
	}
}

func (c *checker) sites(names []string) {
	c.want(len(names) <= MaxSites, "%d sites, the limit is %d", len(names), MaxSites)
	c.want(ascending(names), "sites are not sorted, or named twice")
	for _, name := range names {
		c.want(sitePattern.MatchString(name), "site %.140q: %s", name, siteRule)
	}
}

// instant reads a time in its one accepted form; any other text gives the zero time, which no statement may have.
func instant(text string) time.Time {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil || t.UTC().Format(time.RFC3339) != text {
		return time.Time{}
	}
	return t.UTC()
}

func ascending[T ~string](list []T) bool {
	for i := 1; i < len(list); i++ {
		if list[i-1] >= list[i] {
			return false
		}
	}
	return true
}

// isHex tells whether s is n lower-case hex digits.
func isHex(s string, n int) bool {
	if len(s) != n {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func isSHA256(d digest.Digest) bool {
	hex, ok := strings.CutPrefix(string(d), "sha256:")
	return ok && isHex(hex, 64)
}

func isSHA512(d digest.Digest) bool {
	hex, ok := strings.CutPrefix(string(d), "sha512:")
	return ok && isHex(hex, 128)
}

// printable keeps out what would move the cursor of a terminal, or turn its text around.
func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(c rune) bool { return !unicode.IsPrint(c) })
}

// withV is a version as golang.org/x/mod/semver wants it.
func withV(version string) string { return "v" + strings.TrimPrefix(version, "v") }

func isSemantic(version string) bool { return semver.IsValid(withV(version)) }

func isCanonicalVersion(version string) bool {
	return len(version) <= 128 && semver.IsValid("v"+version) && semver.Canonical("v"+version) == "v"+version
}
