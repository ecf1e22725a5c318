package policy

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/ext"
)

// Limits of an expression. They hold when a policy is read and when it is evaluated, so that no policy can keep a relay
// busy, whatever the facts.
const (
	MaxExpr    = 16 << 10  // characters
	maxNesting = 3         // comprehensions in each other
	maxRegexp  = 1000      // instructions of a regular expression
	maxCost    = 1_000_000 // of one evaluation, in CEL's units: well below a second; a simple rule takes some ten for each image
)

const typePrefix = "plimsoll."

// The variables of rules.
const (
	varNow     = "now"
	varRelease = "release"
	varBundle  = "bundle"
	varImages  = "images"
	varIndexes = "indexes"
)

// newEnv is the environment of rules: the facts with their types, CEL's standard functions, sets, and age. Nothing in it
// knows the time, a file or the network. CEL's string extension is left out: its replace makes gigabytes at no cost.
func newEnv() (*cel.Env, error) {
	p, err := newProvider()
	if err != nil {
		return nil, err
	}
	image := p.typeOf(reflect.TypeFor[Image]())
	opts := []cel.EnvOption{
		cel.CustomTypeProvider(p),
		cel.CustomTypeAdapter(p),
		cel.Variable(varNow, cel.TimestampType),
		cel.Variable(varRelease, p.typeOf(reflect.TypeFor[Release]())),
		cel.Variable(varBundle, image),
		cel.Variable(varImages, cel.ListType(image)),
		cel.Variable(varIndexes, cel.ListType(image)),
		ext.Sets(),
		cel.DefaultUTCTimeZone(true),
		cel.ParserExpressionSizeLimit(MaxExpr),
		cel.ParserRecursionLimit(100),
		cel.ASTValidators(cel.ValidateComprehensionNestingLimit(maxNesting), cel.ValidateDurationLiterals(),
			cel.ValidateTimestampLiterals(), cel.ValidateRegexLiterals(), cel.ValidateRegexProgramSizeLimit(maxRegexp)),
	}
	var overloads []cel.FunctionOpt
	for _, k := range Kinds() {
		t := p.typeOf(contentType(k))
		overloads = append(overloads, cel.Overload("age_"+string(k), []*cel.Type{t}, cel.DurationType, cel.UnaryBinding(celAge)))
	}
	return cel.NewEnv(append(opts, cel.Function("age", overloads...))...)
}

// contentType is the Go type of a kind.
func contentType(k Kind) reflect.Type {
	f, _ := fieldOf(reflect.TypeFor[Image](), string(k))
	return f.Type
}

// fieldOf finds a field by its JSON name.
func fieldOf(t reflect.Type, name string) (reflect.StructField, bool) {
	for _, f := range reflect.VisibleFields(t) {
		if !f.Anonymous && jsonName(f) == name {
			return f, true
		}
	}
	return reflect.StructField{}, false
}

func jsonName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}

// celAge is the function age: how old evidence is against the trusted time.
func celAge(v ref.Val) ref.Val {
	o, ok := v.(*value)
	if !ok || o.evidence == nil {
		return types.NewErr("age: not evidence")
	}
	if err := o.readable("time"); err != nil {
		return types.WrapErr(err)
	}
	age, problem := o.evidence.age(o.now)
	if problem != "" {
		return types.WrapErr(&EvidenceError{Subject: o.subject, Kind: o.kind, Field: "time", Status: OK, Reason: problem})
	}
	return types.Duration{Duration: age}
}

// provider declares the structs of facts as CEL types, so that a misspelt field is an error when a policy is read. A
// field's name is its JSON name.
type provider struct {
	*types.Registry
	structs map[string]reflect.Type
	fields  map[reflect.Type]map[string]reflect.StructField // by JSON name
}

func newProvider() (*provider, error) {
	r, err := types.NewRegistry()
	if err != nil {
		return nil, err
	}
	p := &provider{Registry: r, structs: make(map[string]reflect.Type),
		fields: make(map[reflect.Type]map[string]reflect.StructField)}
	p.add(reflect.TypeFor[Image]())
	p.add(reflect.TypeFor[Release]())
	return p, nil
}

func (p *provider) add(t reflect.Type) {
	p.structs[typePrefix+t.Name()] = t
	byName := make(map[string]reflect.StructField)
	p.fields[t] = byName
	for _, f := range reflect.VisibleFields(t) {
		if !f.Anonymous {
			byName[jsonName(f)] = f
		}
		ft := f.Type
		if ft.Kind() == reflect.Slice {
			ft = ft.Elem()
		}
		if !f.Anonymous && ft.Kind() == reflect.Struct && ft != reflect.TypeFor[time.Time]() {
			p.add(ft)
		}
	}
}

func (p *provider) typeOf(t reflect.Type) *types.Type {
	switch {
	case t == reflect.TypeFor[time.Time]():
		return types.TimestampType
	case t.Kind() == reflect.Struct:
		return types.NewObjectType(typePrefix + t.Name())
	case t.Kind() == reflect.Slice:
		return types.NewListType(p.typeOf(t.Elem()))
	case t.Kind() == reflect.Int64:
		return types.IntType
	case t.Kind() == reflect.Bool:
		return types.BoolType
	}
	return types.StringType
}

// FindStructType implements types.Provider.
func (p *provider) FindStructType(name string) (*types.Type, bool) {
	if _, ok := p.structs[name]; ok {
		return types.NewTypeTypeWithParam(types.NewObjectType(name)), true
	}
	return p.Registry.FindStructType(name)
}

// FindStructFieldNames implements types.Provider.
func (p *provider) FindStructFieldNames(name string) ([]string, bool) {
	t, ok := p.structs[name]
	if !ok {
		return p.Registry.FindStructFieldNames(name)
	}
	var names []string
	for _, f := range reflect.VisibleFields(t) {
		if !f.Anonymous {
			names = append(names, jsonName(f))
		}
	}
	if isEvidence(t) {
		names = append(names, fieldOK)
	}
	return names, true
}

const fieldOK = "ok" // of evidence: its status is OK

func isEvidence(t reflect.Type) bool {
	_, ok := t.FieldByName("Evidence")
	return ok
}

// FindStructFieldType implements types.Provider.
func (p *provider) FindStructFieldType(name, field string) (*types.FieldType, bool) {
	t, ok := p.structs[name]
	if !ok {
		return p.Registry.FindStructFieldType(name, field)
	}
	get := func(target any) (any, error) {
		v, ok := target.(*value)
		if !ok {
			return nil, fmt.Errorf("%T has no field %s", target, field)
		}
		return v.field(field)
	}
	set := func(target any) bool {
		_, err := get(target)
		return err == nil
	}
	if field == fieldOK && isEvidence(t) {
		return &types.FieldType{Type: types.BoolType, IsSet: set, GetFrom: get}, true
	}
	f, ok := p.fields[t][field]
	if !ok {
		return nil, false
	}
	return &types.FieldType{Type: p.typeOf(f.Type), IsSet: set, GetFrom: get}, true
}

// NewValue implements types.Provider: a policy reads facts and makes none.
func (p *provider) NewValue(name string, fields map[string]ref.Val) ref.Val {
	if _, ok := p.structs[name]; ok {
		return types.NewErr("%s: a policy cannot make facts", name)
	}
	return p.Registry.NewValue(name, fields)
}

// value is a struct of facts in CEL.
type value struct {
	p        *provider
	v        reflect.Value // the struct
	subject  string        // for errors: Image.Title, or "release"
	now      time.Time
	kind     Kind      // of evidence
	evidence *Evidence // of evidence
	sealed   bool      // a part of evidence: a material
}

func (v *value) celType() *types.Type { return types.NewObjectType(typePrefix + v.v.Type().Name()) }

// field gives a field's value, or why there is none.
func (v *value) field(name string) (ref.Val, error) {
	if v.evidence != nil && name == fieldOK {
		return types.Bool(v.evidence.Status == OK), nil
	}
	f, ok := v.p.fields[v.v.Type()][name]
	if !ok {
		return nil, fmt.Errorf("no such field: %s", name)
	}
	if err := v.readable(name); err != nil {
		return nil, err
	}
	return v.wrap(name, v.v.FieldByIndex(f.Index))
}

// readable says why a field has no value. That is the heart of it: with the zero value in place of what is not known,
// `builder != "evil"` would be true of an image without provenance.
func (v *value) readable(name string) error {
	f := v.p.fields[v.v.Type()][name]
	tag := f.Tag.Get("policy")
	unknown := &EvidenceError{Subject: v.subject, Kind: v.kind, Field: name, Status: OK}
	switch {
	case tag == "always" || tag == "maybe":
		return nil
	case v.evidence != nil && v.evidence.Status != OK:
		unknown.Status, unknown.Reason = v.evidence.Status, v.evidence.Detail
		return unknown
	case v.sealed:
		return nil
	}
	field := v.v.FieldByIndex(f.Index)
	switch {
	case tag == "counted" && !v.v.FieldByName("Counted").Bool():
		unknown.Reason = "the scanner's result is in a form that is not understood, so " + name + " is not known"
		return unknown
	case name == "materials" && v.v.FieldByName("Truncated").Bool():
		unknown.Reason = fmt.Sprintf("more than %d materials", MaxMaterials)
		return unknown
	// A list that is empty makes every all() true.
	case field.IsZero() && (field.Kind() == reflect.String || field.Type() == reflect.TypeFor[time.Time]() || name == "signers"):
		unknown.Reason = name + " is not known"
		return unknown
	}
	return nil
}

// wrap makes a CEL value of a field's.
func (v *value) wrap(name string, field reflect.Value) (ref.Val, error) {
	switch x := field.Interface().(type) {
	case time.Time:
		return types.Timestamp{Time: x.UTC()}, nil
	case []string:
		return types.NewStringList(v.p, x), nil
	case []Material:
		list := make([]ref.Val, len(x))
		for i := range x {
			list[i] = &value{p: v.p, v: field.Index(i), subject: v.subject, kind: v.kind, sealed: true}
		}
		return types.NewRefValList(v.p, list), nil
	}
	switch field.Kind() {
	case reflect.String:
		return types.String(field.String()), nil
	case reflect.Int64:
		return types.Int(field.Int()), nil
	case reflect.Bool:
		return types.Bool(field.Bool()), nil
	case reflect.Struct:
		e, ok := field.Addr().Interface().(interface{ base() *Evidence })
		if !ok {
			break
		}
		return &value{p: v.p, v: field, subject: v.subject, now: v.now, kind: Kind(name), evidence: e.base()}, nil
	}
	return nil, fmt.Errorf("field %s: %s", name, field.Type())
}

// Get implements traits.Indexer.
func (v *value) Get(index ref.Val) ref.Val {
	name, ok := index.Value().(string)
	if !ok {
		return types.MaybeNoSuchOverloadErr(index)
	}
	got, err := v.field(name)
	if err != nil {
		return types.WrapErr(err)
	}
	return got
}

// IsSet implements traits.FieldTester: whether the field is known.
func (v *value) IsSet(field ref.Val) ref.Val {
	name, ok := field.Value().(string)
	if !ok {
		return types.MaybeNoSuchOverloadErr(field)
	}
	_, err := v.field(name)
	return types.Bool(err == nil)
}

// ConvertToNative implements ref.Val; facts do not leave.
func (v *value) ConvertToNative(reflect.Type) (any, error) {
	return nil, errors.New("facts cannot be converted")
}

// ConvertToType implements ref.Val.
func (v *value) ConvertToType(t ref.Type) ref.Val {
	switch t {
	case types.TypeType:
		return v.celType()
	case ref.Type(v.celType()):
		return v
	}
	return types.NewErr("facts cannot be converted to %s", t.TypeName())
}

// Equal implements ref.Val.
func (v *value) Equal(other ref.Val) ref.Val {
	o, ok := other.(*value)
	return types.Bool(ok && o.v.Type() == v.v.Type() && reflect.DeepEqual(o.v.Interface(), v.v.Interface()))
}

// Type implements ref.Val.
func (v *value) Type() ref.Type { return v.celType() }

// Value implements ref.Val: field getters are called with it.
func (v *value) Value() any { return v }

// activation gives rules the facts; with only the given images if there are any.
func (p *provider) activation(f *Facts, images []Image) map[string]any {
	wrap := func(i *Image) ref.Val {
		return &value{p: p, v: reflect.ValueOf(i).Elem(), subject: i.Title(), now: f.Now}
	}
	list := func(images []Image) ref.Val {
		vals := make([]ref.Val, len(images))
		for i := range images {
			vals[i] = wrap(&images[i])
		}
		return types.NewRefValList(p, vals)
	}
	return map[string]any{
		varNow:     types.Timestamp{Time: f.Now.UTC()},
		varRelease: &value{p: p, v: reflect.ValueOf(&f.Release).Elem(), subject: varRelease, now: f.Now},
		varBundle:  wrap(&f.Bundle),
		varImages:  list(images),
		varIndexes: list(f.Indexes),
	}
}

// NativeToValue implements types.Adapter.
func (p *provider) NativeToValue(v any) ref.Val {
	if own, ok := v.(*value); ok {
		return own
	}
	return p.Registry.NativeToValue(v)
}

// isKind reports whether a field of an image is evidence.
func isKind(field string) bool { return slices.Contains(Kinds(), Kind(field)) }
