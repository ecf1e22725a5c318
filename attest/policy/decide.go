package policy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"github.com/opencontainers/go-digest"
)

// Outcome is what became of a rule.
type Outcome string

// The outcomes. Only Passed allows.
const (
	Passed  Outcome = "passed"
	Denied  Outcome = "denied"
	Errored Outcome = "error" // it could not be evaluated: evidence is missing, or it costs too much
)

// Decision is the verdict of a policy over facts.
type Decision struct {
	Allowed  bool          `json:"allowed"`
	Policy   string        `json:"policy"`             // its name
	Digest   digest.Digest `json:"digest"`             // of its file
	Includes []Include     `json:"includes,omitempty"` //
	Rules    []RuleResult  `json:"rules"`              // each rule, in order
}

// RuleResult is what became of one rule.
type RuleResult struct {
	Rule    string   `json:"rule"` // NAME, or PROFILE/NAME
	Outcome Outcome  `json:"outcome"`
	Message string   `json:"message,omitempty"` // the rule's, unless it passed
	Error   string   `json:"error,omitempty"`   // why it could not be evaluated
	Causes  []Cause  `json:"causes,omitempty"`  // the evidence that is to blame, by subject
	More    int      `json:"more,omitempty"`    // further subjects that are not in Causes
	Explain []string `json:"explain,omitempty"` // the rule's own explanation
}

// Cause is one subject whose evidence made a rule fail.
type Cause struct {
	Subject string `json:"subject"`          // the image, as Image.Title; "bundle", "release"
	Digest  string `json:"digest,omitempty"` //
	Kind    Kind   `json:"kind,omitempty"`   //
	Status  Status `json:"status,omitempty"` // ok: the evidence is good, what it says is not allowed
	Detail  string `json:"detail,omitempty"` //
}

func (c Cause) String() string {
	text := c.Subject
	if c.Kind != "" {
		text += ": " + string(c.Kind)
	}
	if c.Status != "" && c.Status != OK {
		text += ": " + string(c.Status)
	}
	if c.Detail != "" {
		text += ": " + c.Detail
	}
	return visible(text)
}

// maxCauses bounds the subjects that are listed for one rule.
const maxCauses = 20

// Decide evaluates all rules. Its only error is that of ctx: what goes wrong in a rule denies.
func (p *Policy) Decide(ctx context.Context, facts *Facts) (*Decision, error) {
	d := &Decision{Allowed: true, Policy: p.Name, Digest: p.Digest, Includes: p.Includes, Rules: []RuleResult{}}
	if err := facts.normalize(); err != nil {
		return nil, err
	}
	for _, u := range p.units {
		f := facts.aged(u.maxAge)
		for _, r := range u.rules {
			result := r.decide(ctx, p.provider, f)
			if err := ctx.Err(); err != nil {
				return nil, fmt.Errorf("policy %s: %w", p.Name, err)
			}
			d.Allowed = d.Allowed && result.Outcome == Passed
			d.Rules = append(d.Rules, result)
		}
	}
	// No rule means that nobody decided.
	d.Allowed = d.Allowed && len(d.Rules) > 0
	return d, nil
}

// rule is a compiled rule.
type rule struct {
	id, message string
	program     cel.Program
	explain     cel.Program
	images      bool              // it looks at images
	bundle      bool              //
	fields      map[Kind][]string // the evidence that it looks at, with the fields
	aged        map[Kind]bool     // of which it asks the age
}

// compiler makes rules of text.
type compiler struct {
	env      *cel.Env
	provider *provider
}

func newCompiler() (*compiler, error) {
	env, err := newEnv()
	if err != nil {
		return nil, fmt.Errorf("policy environment: %w", err)
	}
	p, ok := env.CELTypeProvider().(*provider)
	if !ok {
		return nil, fmt.Errorf("policy environment: type provider %T", env.CELTypeProvider())
	}
	return &compiler{env: env, provider: p}, nil
}

// compile makes a rule, or says in the file's lines why not.
func (r *reader) compile(c *compiler, t ruleText, profile string) *rule {
	out := &rule{id: t.name.text, message: t.message.text, fields: make(map[Kind][]string), aged: make(map[Kind]bool)}
	if profile != "" {
		out.id = profile + "/" + out.id
	}
	checked, program := r.program(c, out.id, t.expr, types.BoolType)
	if program == nil {
		return nil
	}
	out.program = program
	out.inspect(checked)
	if t.explain.text != "" {
		if _, out.explain = r.program(c, out.id, t.explain, types.StringType, types.NewListType(types.StringType)); out.explain == nil {
			return nil
		}
	}
	return out
}

func (r *reader) program(c *compiler, rule string, w written, want ...*types.Type) (*ast.AST, cel.Program) {
	fail := func(line, column int, reason string) {
		at := &Error{File: r.file, Line: w.line + line - 1, Rule: rule, Reason: reason}
		switch {
		case line == 1 && w.column > 0:
			at.Column = w.column + column
		case w.indent > 0:
			at.Column = w.indent + column + 1
		}
		r.errs = append(r.errs, at)
	}
	checked, issues := c.env.Compile(w.text)
	if issues.Err() != nil {
		for _, e := range issues.Errors() {
			fail(max(1, e.Location.Line()), max(0, e.Location.Column()), e.Message)
		}
		return nil, nil
	}
	if !slices.ContainsFunc(want, func(t *types.Type) bool { return checked.OutputType().IsExactType(t) }) {
		fail(1, 0, fmt.Sprintf("it gives %s, want %s", checked.OutputType(), want[0]))
		return nil, nil
	}
	// Names of time zones are looked up in files of the machine.
	for _, reference := range checked.NativeRep().ReferenceMap() {
		for _, id := range reference.OverloadIDs {
			if strings.HasSuffix(id, "_with_tz") {
				fail(1, 0, "time zones differ between machines, want UTC")
				return nil, nil
			}
		}
	}
	program, err := c.env.Program(checked, cel.CostLimit(maxCost), cel.InterruptCheckFrequency(1000), cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		fail(1, 0, err.Error())
		return nil, nil
	}
	return checked.NativeRep(), program
}

// inspect finds out what an expression looks at, for explanations.
func (r *rule) inspect(checked *ast.AST) {
	image := typePrefix + "Image"
	typeName := func(e ast.Expr) string { return checked.GetType(e.ID()).TypeName() }
	add := func(k Kind, field string) {
		if !slices.Contains(r.fields[k], field) && field != "" {
			r.fields[k] = append(r.fields[k], field)
		} else if r.fields[k] == nil {
			r.fields[k] = []string{}
		}
	}
	ast.PreOrderVisit(checked.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		switch e.Kind() {
		case ast.IdentKind:
			r.images = r.images || e.AsIdent() == varImages
			r.bundle = r.bundle || e.AsIdent() == varBundle
		case ast.SelectKind:
			s := e.AsSelect()
			if typeName(s.Operand()) == image && isKind(s.FieldName()) {
				add(Kind(s.FieldName()), "")
			}
			if op := s.Operand(); op.Kind() == ast.SelectKind && typeName(op.AsSelect().Operand()) == image && isKind(op.AsSelect().FieldName()) {
				add(Kind(op.AsSelect().FieldName()), s.FieldName())
			}
		case ast.CallKind:
			if call := e.AsCall(); call.FunctionName() == "age" && len(call.Args()) == 1 {
				for _, k := range Kinds() {
					if typeName(call.Args()[0]) == typePrefix+contentType(k).Name() {
						r.aged[k] = true
					}
				}
			}
		}
	}))
}

func (r *rule) eval(ctx context.Context, program cel.Program, p *provider, f *Facts, images []Image) (v ref.Val, err error) {
	// An error of the evaluator is a denial, whatever its form.
	defer func() {
		if caught := recover(); caught != nil {
			v, err = nil, fmt.Errorf("evaluation: %v", caught)
		}
	}()
	v, _, err = program.ContextEval(ctx, p.activation(f, images))
	return v, err
}

func (r *rule) decide(ctx context.Context, p *provider, f *Facts) RuleResult {
	result := RuleResult{Rule: r.id, Outcome: Passed}
	v, err := r.eval(ctx, r.program, p, f, f.Images)
	switch {
	case err != nil:
		result.Outcome, result.Error = Errored, visible(reason(err))
	case v != types.True:
		result.Outcome = Denied
	default:
		return result
	}
	result.Message = r.message
	r.blame(ctx, p, f, &result, err)
	if r.explain != nil {
		result.Explain = r.explanation(ctx, p, f)
	}
	return result
}

// reason takes the evidence's own words out of an error of CEL.
func reason(err error) string {
	var e *EvidenceError
	if errors.As(err, &e) {
		return e.Error()
	}
	return err.Error()
}

func (r *rule) explanation(ctx context.Context, p *provider, f *Facts) []string {
	v, err := r.eval(ctx, r.explain, p, f, f.Images)
	if err != nil {
		return []string{visible("no explanation: " + reason(err))}
	}
	var lines []string
	switch x := v.Value().(type) {
	case string:
		lines = []string{x}
	case []ref.Val:
		for _, e := range x {
			lines = append(lines, fmt.Sprint(e.Value()))
		}
	case []string:
		lines = x
	}
	for i := range lines {
		lines[i] = visible(lines[i])
	}
	return lines[:min(len(lines), maxCauses)]
}

// blame finds the subjects because of which a rule failed: the rule is asked again about each image alone.
func (r *rule) blame(ctx context.Context, p *provider, f *Facts, result *RuleResult, failure error) {
	add := func(causes []Cause) {
		if len(result.Causes) >= maxCauses && len(causes) > 0 {
			result.More++
			return
		}
		result.Causes = append(result.Causes, causes...)
	}
	if r.bundle {
		add(r.causes(&f.Bundle, varBundle, f, false))
	}
	if r.images {
		for i := range f.Images {
			if ctx.Err() != nil {
				return
			}
			img := &f.Images[i]
			v, err := r.eval(ctx, r.program, p, f, f.Images[i:i+1])
			if err == nil && v == types.True {
				continue
			}
			// A rule that is false even without an image says nothing about one.
			add(r.causes(img, img.Title(), f, !r.bundle))
		}
	}
	var e *EvidenceError
	if len(result.Causes) == 0 && errors.As(failure, &e) {
		add([]Cause{{Subject: e.Subject, Kind: e.Kind, Status: e.Status, Detail: e.Reason}})
	}
}

// causes are what is wrong with the evidence that the rule looks at; if nothing is and the subject failed alone, what
// the evidence says.
func (r *rule) causes(img *Image, title string, f *Facts, alone bool) []Cause {
	var bad, good []Cause
	for _, k := range Kinds() {
		fields, looked := r.fields[k]
		if !looked {
			continue
		}
		e := img.evidence(k)
		c := Cause{Subject: title, Digest: img.Digest, Kind: k, Status: e.Status, Detail: e.Detail}
		if e.Status != OK {
			bad = append(bad, c)
			continue
		}
		c.Detail = r.says(img, k, fields)
		if r.aged[k] {
			age, problem := e.age(f.Now)
			old := cmp.Or(problem, fmt.Sprintf("%s old, of %s", days(age), e.Time.UTC().Format(time.RFC3339)))
			// With nothing but its age in question, it is too old.
			if c.Detail == "" {
				c.Status, c.Detail = Stale, old
			} else {
				c.Detail = old + ", " + c.Detail
			}
		}
		good = append(good, c)
	}
	switch {
	case len(bad) > 0:
		return bad
	case alone && len(good) > 0:
		return good
	case alone:
		return []Cause{{Subject: title, Digest: img.Digest}}
	}
	return nil
}

// says lists what evidence says in the fields that a rule looks at.
func (r *rule) says(img *Image, k Kind, fields []string) string {
	var parts []string
	image := reflect.ValueOf(img).Elem()
	at, _ := fieldOf(image.Type(), string(k))
	v := image.FieldByIndex(at.Index)
	for _, name := range fields {
		f, ok := fieldOf(v.Type(), name)
		if !ok || name == "status" {
			continue
		}
		value := v.FieldByIndex(f.Index).Interface()
		if text, ok := value.(string); ok {
			value = strconv.Quote(text)
		}
		if reflect.TypeOf(value).Kind() != reflect.Struct {
			parts = append(parts, fmt.Sprintf("%s is %v", name, value))
		}
	}
	return strings.Join(parts, ", ")
}
