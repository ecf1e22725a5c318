package policy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"go.yaml.in/yaml/v3"
)

// FixtureVersion is the value of apiVersion in a fixture.
const FixtureVersion = "plimsoll.policy-fixture.v1"

// MaxFixture bounds the bytes of a fixture.
const MaxFixture = 8 << 20

// Fixture is a test of a policy: facts, and what the policy must say of them. It is YAML or JSON.
type Fixture struct {
	APIVersion string `yaml:"apiVersion"` // FixtureVersion
	Name       string `yaml:"name"`       //
	Facts      Facts  `yaml:"facts"`      // evidence that is not written is missing
	Expect     Expect `yaml:"expect"`     //
}

// Expect is what a policy must decide.
type Expect struct {
	Allowed *bool              `yaml:"allowed"` // required
	Rules   map[string]Outcome `yaml:"rules"`   // by the rule's id; rules that are not listed may do anything
}

// ParseFixture reads a fixture strictly: unknown fields are errors, with their line.
func ParseFixture(name string, data []byte) (*Fixture, error) {
	fail := func(err error) error { return fmt.Errorf("%s: %s", name, visible(err.Error())) }
	if len(data) > MaxFixture {
		return nil, fail(fmt.Errorf("%d bytes, the limit is %d", len(data), MaxFixture))
	}
	// Aliases make a small file huge.
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return nil, fail(err)
	}
	r := &reader{file: name}
	for _, n := range doc.Content {
		r.inspect(n, 0)
	}
	if len(r.errs) > 0 {
		return nil, r.list()
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	var f Fixture
	if err := dec.Decode(&f); err != nil {
		return nil, fail(err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, fail(errors.New("a second YAML document"))
	}
	switch {
	case f.APIVersion != FixtureVersion:
		return nil, fail(fmt.Errorf("apiVersion %q, want %s", f.APIVersion, FixtureVersion))
	case f.Expect.Allowed == nil:
		return nil, fail(errors.New("expect.allowed is missing"))
	case f.Facts.Now.IsZero():
		return nil, fail(errors.New("facts.now is missing: a policy has no clock"))
	}
	for rule, o := range f.Expect.Rules {
		if !slices.Contains([]Outcome{Passed, Denied, Errored}, o) {
			return nil, fail(fmt.Errorf("expect.rules: %s: %q, want passed, denied or error", rule, o))
		}
	}
	if err := f.Facts.normalize(); err != nil {
		return nil, fail(err)
	}
	return &f, nil
}

// Run evaluates a policy over a fixture. The texts say where they differ; none means that the test passed.
func (f *Fixture) Run(ctx context.Context, p *Policy) (differences []string, d *Decision, err error) {
	d, err = p.Decide(ctx, &f.Facts)
	if err != nil {
		return nil, nil, err
	}
	if d.Allowed != *f.Expect.Allowed {
		differences = append(differences, fmt.Sprintf("allowed is %t, want %t", d.Allowed, *f.Expect.Allowed))
	}
	ids := p.Rules()
	for _, rule := range d.Rules {
		if want, ok := f.Expect.Rules[rule.Rule]; ok && want != rule.Outcome {
			differences = append(differences, fmt.Sprintf("rule %s is %s, want %s", rule.Rule, rule.Outcome, want))
		}
	}
	var unknown []string
	for id := range f.Expect.Rules {
		if !slices.Contains(ids, id) {
			unknown = append(unknown, fmt.Sprintf("there is no rule %s", id))
		}
	}
	slices.Sort(unknown)
	return append(differences, unknown...), d, nil
}
