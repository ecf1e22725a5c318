package keyless

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// Limits of a policy.
const (
	MaxRules      = 256  // of one policy
	MaxIdentities = 64   // of one rule
	MaxIdentity   = 2048 // bytes of an issuer, a name or a pattern
)

// Log says which evidence of a transparency log a rule wants.
type Log string

// The zero value wants an entry of a known log.
const (
	LogEntry Log = ""      // with an inclusion proof in a Sigstore bundle; in the legacy form the log's signed promise, all that it has
	LogProof Log = "proof" // with an inclusion proof: no signature of the legacy form can fulfil it
	// LogNotRequired believes a signature that nobody can find in a log: its identity cannot notice a theft. For private
	// instances without a log; it needs SignedTimestamp.
	LogNotRequired Log = "insecure-not-required"
)

// Identity is who may sign. Exactly one of Name and Pattern is set.
type Identity struct {
	Issuer  string // OpenID Connect issuer, exactly: https://token.actions.githubusercontent.com
	Name    string // subject alternative name of the certificate, exactly
	Pattern string // regular expression (RE2) for the whole of it
}

// Rule says who must have signed the images of some repositories.
type Rule struct {
	Match           string       // glob of repositories: ghcr.io/acme/*; '*' stands for any text, '/' included; "*" is all
	Identities      []Identity   //
	Need            int          // identities that must have signed; 0 means 1
	Log             Log          //
	SignedTimestamp bool         // an RFC 3161 timestamp is wanted too
	Predicate       string       // predicate type of the statement; empty means attest.PredicateSign, and that simple signing counts
	Root            *TrustedRoot //
}

// Policy is a list of rules, of which the first that matches a repository holds.
type Policy struct {
	rules  []*rule
	digest digest.Digest
}

type rule struct {
	Rule
	need     int
	patterns []*regexp.Regexp // nil for an exact name
}

// PolicyError says what is wrong with a rule.
type PolicyError struct {
	Rule   int // from 0
	Match  string
	Reason string
	Err    error // the cause, if there is one
}

func (e *PolicyError) Error() string {
	text := fmt.Sprintf("keyless policy: rule %d (%.80q): %s", e.Rule+1, e.Match, e.Reason)
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

// Unwrap gives the cause.
func (e *PolicyError) Unwrap() error { return e.Err }

// NewPolicy checks rules. The error is a *PolicyError.
func NewPolicy(rules []Rule) (*Policy, error) {
	p := &Policy{}
	if len(rules) > MaxRules {
		return nil, &PolicyError{Rule: MaxRules, Match: rules[MaxRules].Match, Reason: fmt.Sprintf("%d rules, the limit is %d", len(rules), MaxRules)}
	}
	for i, given := range rules {
		r, err := compile(given)
		if err != nil {
			err.Rule, err.Match = i, given.Match
			return nil, err
		}
		for _, earlier := range p.rules {
			// The first rule that matches holds. One that can never hold is a mistake that would be found too late.
			if matchGlob(earlier.Match, r.Match) {
				return nil, &PolicyError{Rule: i, Match: r.Match, Reason: fmt.Sprintf("never reached: %q before it matches the same and more", earlier.Match)}
			}
		}
		p.rules = append(p.rules, r)
	}
	var err error
	if p.digest, err = digestRules(p.rules); err != nil {
		return nil, err
	}
	return p, nil
}

// Digest names the policy: the rules, and what they trust. It is the same on every machine.
func (p *Policy) Digest() digest.Digest { return p.digest }

// Covers reports whether the policy has a rule for a repository. The error says that the name is none.
func (p *Policy) Covers(repository string) (bool, error) {
	r, err := p.find(repository)
	return r != nil, err
}

func (p *Policy) find(repository string) (*rule, error) {
	// A name in another spelling would match no rule, and its image would pass as one that needs no signature.
	if err := checkGlob(repository); err != nil || strings.Contains(repository, "*") {
		return nil, fmt.Errorf("verify keyless signatures: repository %.200q: %w", repository, orWildcard(err))
	}
	for _, r := range p.rules {
		if matchGlob(r.Match, repository) {
			return r, nil
		}
	}
	return nil, nil
}

func compile(given Rule) (*rule, *PolicyError) {
	bad := func(format string, args ...any) *PolicyError {
		return &PolicyError{Reason: fmt.Sprintf(format, args...)}
	}
	if err := checkGlob(given.Match); err != nil {
		return nil, &PolicyError{Reason: "match", Err: err}
	}
	r := &rule{Rule: given, need: max(given.Need, 1)}
	r.Identities = append([]Identity(nil), given.Identities...)
	if r.Predicate == "" {
		r.Predicate = attest.PredicateSign
	}
	switch {
	case given.Root == nil:
		return nil, bad("no trusted root")
	case len(given.Identities) == 0:
		return nil, bad("no identity")
	case len(given.Identities) > MaxIdentities:
		return nil, bad("%d identities, the limit is %d", len(given.Identities), MaxIdentities)
	case given.Need < 0 || r.need > len(given.Identities):
		return nil, bad("%d of %d identities", given.Need, len(given.Identities))
	case given.Log != LogEntry && given.Log != LogProof && given.Log != LogNotRequired:
		return nil, bad("log %q, want nothing, %q or %q", given.Log, LogProof, LogNotRequired)
	case given.Log == LogNotRequired && !given.SignedTimestamp:
		return nil, bad("neither a log entry nor a signed timestamp: nothing would tell when it was signed")
	case given.Log != LogNotRequired && len(given.Root.material.RekorLogs()) == 0:
		return nil, bad("a log entry is required, but the trusted root names no log")
	case given.SignedTimestamp && len(given.Root.material.TimestampingAuthorities()) == 0:
		return nil, bad("a signed timestamp is required, but the trusted root names no authority")
	}
	seen := make(map[Identity]struct{})
	for i, id := range given.Identities {
		if _, again := seen[id]; again {
			return nil, bad("identity %d is written twice", i+1)
		}
		seen[id] = struct{}{}
		re, err := compileIdentity(id)
		if err != nil {
			return nil, &PolicyError{Reason: fmt.Sprintf("identity %d", i+1), Err: err}
		}
		r.patterns = append(r.patterns, re)
	}
	return r, nil
}

func compileIdentity(id Identity) (*regexp.Regexp, error) {
	switch {
	case id.Issuer == "":
		return nil, fmt.Errorf("no issuer: anybody who runs one could give out the name")
	case len(id.Issuer) > MaxIdentity || len(id.Name) > MaxIdentity || len(id.Pattern) > MaxIdentity:
		return nil, fmt.Errorf("longer than %d bytes", MaxIdentity)
	case (id.Name == "") == (id.Pattern == ""):
		return nil, fmt.Errorf("want exactly one of a name and a pattern")
	case id.Name != "":
		return nil, nil
	}
	re, err := regexp.Compile(id.Pattern)
	if err != nil {
		return nil, err
	}
	re.Longest()
	// A pattern for everybody whom the issuer knows is a forgotten one: GitHub's issuer knows every workflow of the world.
	for _, anybody := range []string{"", "x", "x@y.example", "https://y.example/x"} {
		if whole(re, anybody) {
			return nil, fmt.Errorf("pattern %.200q matches anybody, for example %q", id.Pattern, anybody)
		}
	}
	return re, nil
}

// whole reports whether a pattern matches all of a text. The pattern is not wrapped into ^(?:…)$: what is valid inside
// such a wrapping need not be so alone, and "a)|(b" would get out of it. Leftmost-longest finds the whole if there is one.
func whole(re *regexp.Regexp, text string) bool {
	at := re.FindStringIndex(text)
	return at != nil && at[0] == 0 && at[1] == len(text)
}

// identify gives the place of the first identity that a certificate's name and issuer match, or the reason why none does.
func (r *rule) identify(issuer, name string) (int, Reason) {
	reason := WrongIssuer
	for i, id := range r.Identities {
		if id.Issuer != issuer {
			continue
		}
		reason = WrongIdentity
		if r.patterns[i] == nil && id.Name == name || r.patterns[i] != nil && whole(r.patterns[i], name) {
			return i, ""
		}
	}
	return 0, reason
}

func digestRules(rules []*rule) (digest.Digest, error) {
	type identity struct {
		Issuer  string `json:"issuer"`
		Name    string `json:"name,omitempty"`
		Pattern string `json:"pattern,omitempty"`
	}
	type encoded struct {
		Match           string        `json:"match"`
		Identities      []identity    `json:"identities"`
		Need            int           `json:"need"`
		Log             Log           `json:"log,omitempty"`
		SignedTimestamp bool          `json:"signedTimestamp,omitempty"`
		Predicate       string        `json:"predicate"`
		Root            digest.Digest `json:"root"`
	}
	list := []encoded{}
	for _, r := range rules {
		e := encoded{Match: r.Match, Need: r.need, Log: r.Log, SignedTimestamp: r.SignedTimestamp, Predicate: r.Predicate, Root: r.Root.Digest()}
		for _, id := range r.Identities {
			e.Identities = append(e.Identities, identity(id))
		}
		list = append(list, e)
	}
	data, err := strictjson.Marshal(list)
	if err != nil {
		return "", fmt.Errorf("keyless policy: %w", err)
	}
	return digest.FromBytes(data), nil
}
