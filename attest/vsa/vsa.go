// Package vsa writes and reads SLSA verification summaries: the statement of a verifier that an artifact was verified, by
// which policy and from which attestations, so that those who trust the verifier need not repeat it.
//
// The predicate is https://slsa.dev/verification_summary/v1, narrowed to what Plimsoll says: one result, PASSED, always
// with a time, a policy's digest and the digests of the input. A summary of a failure is never written: what was not
// accepted is not in a bundle.
package vsa

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// PredicateType is the predicate type of a verification summary v1.
const PredicateType = "https://slsa.dev/verification_summary/v1"

// Passed is the only verificationResult that is written and read.
const Passed = "PASSED"

// Limits, enforced before anything is decoded or, for lists, before anything is believed.
const (
	MaxPredicate = 256 << 10 // bytes
	MaxInputs    = 256
	MaxLevels    = 32
	MaxText      = 2048 // bytes of a URI, a level or a version
	MaxTools     = 16   // versions of the verifier's parts
)

// Summary says that one artifact was verified.
type Summary struct {
	VerifierID      string            // URI of who verified
	VerifierVersion map[string]string // of its programs, by name; may be empty
	TimeVerified    time.Time         // UTC, whole seconds; the caller's: the release's time, so that a build can be repeated
	ResourceURI     string            // of the artifact, as a consumer knows it
	PolicyURI       string            // may be empty
	PolicyDigest    digest.Digest     // of the policy that was fulfilled
	Inputs          []Input           // what was verified, at least one; sorted by Statement
	Levels          []string          // SLSA_BUILD_LEVEL_…, or others that do not begin with SLSA_; at least one; sorted by Statement
}

// Input is one attestation or signature that was verified.
type Input struct {
	URI    string // where it is found; may be empty
	Digest digest.Digest
}

// FormatError says which rule of its format a summary breaks.
type FormatError struct {
	Field  string // as in the predicate; empty for the whole
	Reason string
	Err    error // the cause, if there is one
}

func (e *FormatError) Error() string {
	text := "verification summary: "
	if e.Field != "" {
		text += e.Field + ": "
	}
	text += e.Reason
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

// Unwrap gives the cause.
func (e *FormatError) Unwrap() error { return e.Err }

type predicate struct {
	Verifier           verifier   `json:"verifier"`
	TimeVerified       string     `json:"timeVerified"`
	ResourceURI        string     `json:"resourceUri"`
	Policy             resource   `json:"policy"`
	InputAttestations  []resource `json:"inputAttestations"`
	VerificationResult string     `json:"verificationResult"`
	VerifiedLevels     []string   `json:"verifiedLevels"`
	SLSAVersion        string     `json:"slsaVersion"`
}

type verifier struct {
	ID      string            `json:"id"`
	Version map[string]string `json:"version,omitempty"`
}

type resource struct {
	URI    string            `json:"uri,omitempty"`
	Digest map[string]string `json:"digest"`
}

// slsaVersion is the version of the specification whose levels are named.
const slsaVersion = "1.0"

var (
	levelPattern = regexp.MustCompile(`^[A-Z][A-Z0-9_]*$`)
	slsaLevels   = []string{"SLSA_BUILD_LEVEL_UNEVALUATED", "SLSA_BUILD_LEVEL_0", "SLSA_BUILD_LEVEL_1", "SLSA_BUILD_LEVEL_2", "SLSA_BUILD_LEVEL_3"}
)

// Statement gives the summary as a statement that is ready for Signer.Attest by the attestation key: the same bytes for
// the same summary. It has no subject; Attest takes the artifact. The error is a *FormatError.
func (s Summary) Statement() (attest.Statement, error) {
	s.Inputs, s.Levels = slices.Clone(s.Inputs), slices.Clone(s.Levels)
	slices.SortFunc(s.Inputs, compareInputs)
	slices.Sort(s.Levels)
	if err := s.check(); err != nil {
		return attest.Statement{}, err
	}
	p := predicate{
		Verifier:           verifier{ID: s.VerifierID, Version: s.VerifierVersion},
		TimeVerified:       s.TimeVerified.Format(time.RFC3339),
		ResourceURI:        s.ResourceURI,
		Policy:             resource{URI: s.PolicyURI, Digest: digestSet(s.PolicyDigest)},
		VerificationResult: Passed,
		VerifiedLevels:     s.Levels,
		SLSAVersion:        slsaVersion,
	}
	for _, in := range s.Inputs {
		p.InputAttestations = append(p.InputAttestations, resource{URI: in.URI, Digest: digestSet(in.Digest)})
	}
	data, err := strictjson.Marshal(p)
	if err != nil {
		return attest.Statement{}, &FormatError{Reason: "encode", Err: err}
	}
	if len(data) > MaxPredicate {
		return attest.Statement{}, &FormatError{Reason: fmt.Sprintf("%d bytes, the limit is %d", len(data), MaxPredicate)}
	}
	return attest.Statement{PredicateType: PredicateType, Predicate: data}, nil
}

// Parse reads the predicate of a verified statement that Statement wrote. Summaries of other writers are refused: what
// they say beyond this format would be passed over unread. The error is a *FormatError.
func Parse(statement attest.Statement) (Summary, error) {
	if statement.PredicateType != PredicateType {
		return Summary{}, &FormatError{Reason: fmt.Sprintf("predicate type %.200q, want %q", statement.PredicateType, PredicateType)}
	}
	if len(statement.Predicate) > MaxPredicate {
		return Summary{}, &FormatError{Reason: fmt.Sprintf("%d bytes, the limit is %d", len(statement.Predicate), MaxPredicate)}
	}
	var p predicate
	if err := strictjson.UnmarshalCanonical(statement.Predicate, &p); err != nil {
		return Summary{}, &FormatError{Reason: "JSON", Err: err}
	}
	if p.VerificationResult != Passed {
		return Summary{}, &FormatError{Field: "verificationResult", Reason: fmt.Sprintf("%.40q, want %q", p.VerificationResult, Passed)}
	}
	if p.SLSAVersion != slsaVersion {
		return Summary{}, &FormatError{Field: "slsaVersion", Reason: fmt.Sprintf("%.40q, want %q", p.SLSAVersion, slsaVersion)}
	}
	at, err := time.Parse(time.RFC3339, p.TimeVerified)
	if err != nil {
		return Summary{}, &FormatError{Field: "timeVerified", Reason: "time", Err: err}
	}
	at = at.UTC()
	if at.Format(time.RFC3339) != p.TimeVerified {
		return Summary{}, &FormatError{Field: "timeVerified", Reason: fmt.Sprintf("%.40q, want UTC and whole seconds", p.TimeVerified)}
	}
	s := Summary{VerifierID: p.Verifier.ID, VerifierVersion: p.Verifier.Version, TimeVerified: at, ResourceURI: p.ResourceURI,
		PolicyURI: p.Policy.URI, Levels: p.VerifiedLevels}
	if s.PolicyDigest, err = parseDigestSet(p.Policy.Digest); err != nil {
		return Summary{}, &FormatError{Field: "policy.digest", Reason: "digest", Err: err}
	}
	if len(p.InputAttestations) > MaxInputs {
		return Summary{}, &FormatError{Field: "inputAttestations", Reason: fmt.Sprintf("%d, the limit is %d", len(p.InputAttestations), MaxInputs)}
	}
	for i, in := range p.InputAttestations {
		d, err := parseDigestSet(in.Digest)
		if err != nil {
			return Summary{}, &FormatError{Field: fmt.Sprintf("inputAttestations[%d].digest", i), Reason: "digest", Err: err}
		}
		s.Inputs = append(s.Inputs, Input{URI: in.URI, Digest: d})
	}
	if err := s.check(); err != nil {
		return Summary{}, err
	}
	if !slices.IsSortedFunc(s.Inputs, compareInputs) || !slices.IsSorted(s.Levels) {
		return Summary{}, &FormatError{Reason: "lists are not sorted"}
	}
	return s, nil
}

// check applies the rules that both directions share.
func (s Summary) check() error {
	bad := func(field, format string, args ...any) error {
		return &FormatError{Field: field, Reason: fmt.Sprintf(format, args...)}
	}
	for _, u := range []struct {
		field, value string
		optional     bool
	}{{"verifier.id", s.VerifierID, false}, {"resourceUri", s.ResourceURI, false}, {"policy.uri", s.PolicyURI, true}} {
		if u.optional && u.value == "" {
			continue
		}
		if err := checkURI(u.value); err != nil {
			return &FormatError{Field: u.field, Reason: "URI", Err: err}
		}
	}
	if len(s.VerifierVersion) > MaxTools {
		return bad("verifier.version", "%d programs, the limit is %d", len(s.VerifierVersion), MaxTools)
	}
	for name, version := range s.VerifierVersion {
		if checkText(name) != nil || checkText(version) != nil {
			return bad("verifier.version", "%.40q: %.40q, want printable ASCII of 1 to %d bytes", name, version, MaxText)
		}
	}
	if at := s.TimeVerified; at.IsZero() || at.Location() != time.UTC || at.Nanosecond() != 0 || at.Year() < 1 || at.Year() > 9999 {
		return bad("timeVerified", "%v, want a time in UTC with whole seconds", at)
	}
	if err := checkDigest(s.PolicyDigest); err != nil {
		return &FormatError{Field: "policy.digest", Reason: "digest", Err: err}
	}
	if len(s.Inputs) == 0 || len(s.Inputs) > MaxInputs {
		return bad("inputAttestations", "%d, want 1 to %d", len(s.Inputs), MaxInputs)
	}
	for i, in := range s.Inputs {
		field := fmt.Sprintf("inputAttestations[%d]", i)
		if err := checkDigest(in.Digest); err != nil {
			return &FormatError{Field: field, Reason: "digest", Err: err}
		}
		if in.URI != "" {
			if err := checkURI(in.URI); err != nil {
				return &FormatError{Field: field, Reason: "URI", Err: err}
			}
		}
		if i > 0 && s.Inputs[i-1] == in {
			return bad(field, "named twice")
		}
	}
	return s.checkLevels()
}

func (s Summary) checkLevels() error {
	bad := func(format string, args ...any) error {
		return &FormatError{Field: "verifiedLevels", Reason: fmt.Sprintf(format, args...)}
	}
	if len(s.Levels) == 0 || len(s.Levels) > MaxLevels {
		return bad("%d, want 1 to %d", len(s.Levels), MaxLevels)
	}
	build := 0
	for i, level := range s.Levels {
		switch {
		case len(level) > MaxText || !levelPattern.MatchString(level):
			return bad("%.80q, want upper-case letters, digits and '_'", level)
		case level == "FAILED":
			return bad("FAILED next to %s", Passed)
		case slices.Contains(slsaLevels, level):
			build++
		case strings.HasPrefix(level, "SLSA_"):
			return bad("%.80q is no level of SLSA %s, and SLSA_ is for those only", level, slsaVersion)
		}
		if i > 0 && s.Levels[i-1] == level {
			return bad("%.80q is named twice", level)
		}
	}
	if build > 1 {
		return bad("%d levels of the build track, want the highest only", build)
	}
	return nil
}

func compareInputs(a, b Input) int {
	if c := strings.Compare(string(a.Digest), string(b.Digest)); c != 0 {
		return c
	}
	return strings.Compare(a.URI, b.URI)
}

func checkURI(s string) error {
	if err := checkText(s); err != nil {
		return err
	}
	u, err := url.Parse(s)
	if err != nil {
		return err
	}
	if u.Scheme == "" || u.Host == "" && u.Opaque == "" {
		return fmt.Errorf("%.200q is not absolute", s)
	}
	return nil
}

func checkText(s string) error {
	if s == "" || len(s) > MaxText {
		return fmt.Errorf("%d bytes, want 1 to %d", len(s), MaxText)
	}
	if i := strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r > '~' }); i >= 0 {
		return fmt.Errorf("%.200q is not printable ASCII", s)
	}
	return nil
}

func checkDigest(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("%.120q: %w", d, err)
	}
	if d.Algorithm() != digest.SHA256 {
		return fmt.Errorf("%.120q, want sha256", d)
	}
	return nil
}

func digestSet(d digest.Digest) map[string]string {
	return map[string]string{d.Algorithm().String(): d.Encoded()}
}

func parseDigestSet(set map[string]string) (digest.Digest, error) {
	if hex, ok := set[digest.SHA256.String()]; ok && len(set) == 1 {
		return digest.NewDigestFromEncoded(digest.SHA256, hex), nil
	}
	return "", fmt.Errorf("%d algorithms, want sha256 alone", len(set))
}
