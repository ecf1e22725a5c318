// Package rego evaluates Rego policies over the facts of package policy, for sites that have such policies already.
//
// It belongs to the builder: OPA is larger than the rest of a relay. A policy sees the facts as input, in the form of
// their JSON, and denies by messages in data.plimsoll.deny. It has no network, no environment and no clock but input.now.
package rego

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/opencontainers/go-digest"

	"github.com/plimsoll/plimsoll/attest/policy"
)

// Query is what a policy must define: a set or a list of messages. None of them means yes.
const Query = "data.plimsoll.deny"

// Limits of a policy and its evaluation.
const (
	MaxFile    = 1 << 20          // bytes of one module
	maxResults = 1000             // messages
	maxTime    = 10 * time.Second // of an evaluation; Rego has no count of its steps
)

// withheld are builtins by which an answer would depend on more than the input, or that could use up a machine.
var withheld = []string{"http.send", "opa.runtime", "rego.parse_module", "trace", "print",
	"time.now_ns", "rand.intn", "uuid.rfc4122", "io.jwt.decode_verify", "json.verify_schema", "json.match_schema"}

// withheldFamilies are withheld whole: the network, other languages that fetch, and time zones, which are files.
var withheldFamilies = []string{"net.", "graphql.", "providers.", "time.date", "time.clock", "time.weekday", "time.format", "time.diff", "time.add_date"}

// capabilities are OPA's without what is withheld, and without hosts.
func capabilities() *ast.Capabilities {
	c := ast.CapabilitiesForThisVersion()
	c.Builtins = slices.DeleteFunc(c.Builtins, func(b *ast.Builtin) bool {
		return slices.Contains(withheld, b.Name) ||
			slices.ContainsFunc(withheldFamilies, func(f string) bool { return strings.HasPrefix(b.Name, f) }) || b.Nondeterministic
	})
	c.AllowNet = []string{}
	return c
}

// Module is one Rego file.
type Module struct {
	Name string
	Data []byte
}

// Policy is a compiled Rego policy.
type Policy struct {
	Digest  digest.Digest // of the modules' names and bytes, in the given order
	prepare rego.PreparedEvalQuery
}

// Error says what is wrong with a Rego policy: a syntax error, a builtin that is withheld, no deny.
type Error struct{ Err error }

func (e *Error) Error() string { return "Rego policy: " + e.Err.Error() }

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Parse compiles modules of Rego v1. Its error is *Error, with file and line in the text.
func Parse(ctx context.Context, modules ...Module) (*Policy, error) {
	hash := digest.Canonical.Digester()
	opts := []func(*rego.Rego){
		rego.Query(Query), rego.Capabilities(capabilities()), rego.StrictBuiltinErrors(true), rego.Strict(true),
		rego.SetRegoVersion(ast.RegoV1), rego.EnablePrintStatements(false),
	}
	if len(modules) == 0 {
		return nil, &Error{errors.New("no module")}
	}
	defined := false
	for _, m := range modules {
		if len(m.Data) > MaxFile {
			return nil, &Error{fmt.Errorf("%s: %d bytes, the limit is %d", m.Name, len(m.Data), MaxFile)}
		}
		parsed, err := ast.ParseModuleWithOpts(m.Name, string(m.Data), ast.ParserOptions{RegoVersion: ast.RegoV1, Capabilities: capabilities()})
		if err != nil {
			return nil, &Error{err}
		}
		if parsed == nil {
			return nil, &Error{fmt.Errorf("%s: empty", m.Name)}
		}
		if parsed.Package.Path.String() == "data.plimsoll" {
			defined = defined || slices.ContainsFunc(parsed.Rules, func(r *ast.Rule) bool { return strings.HasPrefix(r.Head.Ref().String(), "deny") })
		}
		opts = append(opts, rego.ParsedModule(parsed))
		fmt.Fprintf(hash.Hash(), "%d %s %d ", len(m.Name), m.Name, len(m.Data))
		hash.Hash().Write(m.Data)
	}
	// A policy that defines no deny, perhaps by a slip in its package, would allow everything.
	if !defined {
		return nil, &Error{errors.New("no rule deny in package plimsoll")}
	}
	q, err := rego.New(opts...).PrepareForEval(ctx)
	if err != nil {
		return nil, &Error{err}
	}
	return &Policy{Digest: hash.Digest(), prepare: q}, nil
}

// Decide gives the messages of deny, sorted; none means that the policy allows. It fails with *Error when the policy
// could not be evaluated, which is a denial.
func (p *Policy) Decide(ctx context.Context, facts *policy.Facts) ([]string, error) {
	data, err := json.Marshal(facts)
	if err != nil {
		return nil, &Error{err}
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var input any
	if err := dec.Decode(&input); err != nil {
		return nil, &Error{err}
	}
	limited, cancel := context.WithTimeout(ctx, maxTime)
	defer cancel()
	// The time that builtins may see is the trusted one.
	results, err := p.prepare.Eval(limited, rego.EvalInput(input), rego.EvalTime(facts.Now), rego.EvalSeed(bytes.NewReader(make([]byte, 64))))
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err != nil {
		return nil, &Error{err}
	}
	if len(results) != 1 || len(results[0].Expressions) != 1 {
		return nil, &Error{errors.New("deny is undefined")}
	}
	list, ok := results[0].Expressions[0].Value.([]any)
	if !ok {
		return nil, &Error{fmt.Errorf("deny is %T, want a set of messages", results[0].Expressions[0].Value)}
	}
	if len(list) > maxResults {
		return nil, &Error{fmt.Errorf("more than %d messages", maxResults)}
	}
	messages := []string{}
	for _, m := range list {
		text, ok := m.(string)
		if !ok {
			return nil, &Error{fmt.Errorf("a message of deny is %T, want text", m)}
		}
		messages = append(messages, text)
	}
	slices.Sort(messages)
	return messages, nil
}
