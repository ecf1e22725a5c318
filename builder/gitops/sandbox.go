package gitops

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"text/template"
	"text/template/parse"

	"github.com/Masterminds/sprig/v3"
)

// Templates are programs of strangers. A program that never ends is stopped by work that runs out: every call of a
// function and every turn of a loop costs. What a call gives back is measured before the next one can double it.
const (
	maxWork      = 500_000_000 // for the templates of one ApplicationSet: some seconds
	maxWorkOnce  = 50_000_000  // for one execution
	maxValue     = 1 << 20     // bytes of strings and number of elements in one value
	maxProduct   = 4 << 20     // of what a function multiplies: repeat 1000 of a text
	costOfCall   = 50
	costOfOutput = 4  // a byte of it
	costOfMatch  = 20 // a file with a glob
)

var (
	errWork  = errors.New("it does too much and was stopped")
	errValue = fmt.Errorf("the template makes a value that is larger than %d or nested deeper than %d", maxValue, MaxDepth)
)

// work is what templates may still do.
type work struct{ all, once int }

func (w *work) spend(n int) error {
	w.once -= n
	if w.once < 0 {
		return errWork
	}
	return w.spendAll(n)
}

func (w *work) spendAll(n int) error {
	if w.all -= n; w.all < 0 {
		return errWork
	}
	return nil
}

// unknown are sprig's functions that give something else each time, ask the machine, or are built to be slow. What they
// give at the site cannot be known here.
var unknown = []string{
	"ago", "date", "date_in_zone", "date_modify", "dateInZone", "dateModify", "htmlDate", "htmlDateInZone", "must_date_modify",
	"mustDateModify", "mustToDate", "now", "toDate",
	"randAlphaNum", "randAlpha", "randAscii", "randNumeric", "randBytes", "randInt", "shuffle", "uuidv4",
	"bcrypt", "htpasswd", "genPrivateKey", "derivePassword", "buildCustomCert", "genCA", "genCAWithKey", "genSelfSignedCert",
	"genSelfSignedCertWithKey", "genSignedCert", "genSignedCertWithKey", "encryptAES", "decryptAES",
}

// multiplying are functions whose result can be as large as the product of their arguments.
var multiplying = map[string]bool{
	"repeat": true, "until": true, "untilStep": true, "seq": true, "replace": true, "join": true, "indent": true, "nindent": true,
	"wrap": true, "wrapWith": true, "printf": true, "splitn": true,
	"regexReplaceAll": true, "mustRegexReplaceAll": true, "regexReplaceAllLiteral": true, "mustRegexReplaceAllLiteral": true,
}

const tickName = "_tick"

// functions are those that Argo CD gives to templates, each of them measured by w.
func functions(w *work) template.FuncMap {
	all := sprig.GenericFuncMap()
	for _, name := range []string{"env", "expandenv", "getHostByName"} { // Argo CD does not have them either
		delete(all, name)
	}
	maps.Copy(all, map[string]any{
		"normalize": normalize, "slugify": slugify, "toYaml": toYAML, "fromYaml": fromYAML, "fromYamlArray": fromYAMLArray,
		// In the order of Go's maps these two would give another result each time.
		"keys": sortedKeys, "values": sortedValues,
		// The builtin ones would go unmeasured.
		"print": fmt.Sprint, "printf": printf, "println": fmt.Sprintln,
		"html": template.HTMLEscaper, "js": template.JSEscaper, "urlquery": template.URLQueryEscaper,
	})
	for name, fn := range all {
		all[name] = measured(w, multiplying[name], fn)
	}
	for _, name := range unknown {
		all[name] = func(...any) (string, error) {
			return "", fmt.Errorf("what the function %s gives is only known at the site", name)
		}
	}
	all[tickName] = func() (string, error) { return "", w.spend(2 * costOfCall) }
	return all
}

var errorType = reflect.TypeFor[error]()

// measured wraps a function: the same arguments, and an error when the work or the size is too much.
func measured(w *work, multiplies bool, fn any) any {
	f := reflect.ValueOf(fn)
	t := f.Type()
	var in []reflect.Type
	for p := range t.Ins() {
		in = append(in, p)
	}
	wrapped := reflect.FuncOf(in, []reflect.Type{t.Out(0), errorType}, t.IsVariadic())
	return reflect.MakeFunc(wrapped, func(args []reflect.Value) []reflect.Value {
		fail := func(err error) []reflect.Value {
			return []reflect.Value{reflect.Zero(t.Out(0)), reflect.ValueOf(&err).Elem()}
		}
		if err := admit(w, multiplies, args); err != nil {
			return fail(err)
		}
		var out []reflect.Value
		if t.IsVariadic() {
			out = f.CallSlice(args)
		} else {
			out = f.Call(args)
		}
		if len(out) == 2 && !out[1].IsNil() {
			return []reflect.Value{reflect.Zero(t.Out(0)), out[1]}
		}
		size, err := sizeOf(out[0], 0)
		if err == nil {
			err = w.spend(size)
		}
		if err != nil {
			return fail(err)
		}
		return []reflect.Value{out[0], reflect.Zero(errorType)}
	}).Interface()
}

// admit measures the arguments before the function sees them.
func admit(w *work, multiplies bool, args []reflect.Value) error {
	total, product := costOfCall, 1
	for _, a := range args {
		size, err := sizeOf(a, 0)
		if err != nil {
			return err
		}
		total += size
		for _, factor := range factors(a) {
			if multiplies && product <= maxProduct {
				product *= min(max(factor, 1), maxProduct+1)
			}
		}
	}
	if multiplies && product > maxProduct {
		return errValue
	}
	return w.spend(total)
}

// factors are the sizes of an argument, of each one when it is the list of variadic ones, and the value of an integer.
func factors(v reflect.Value) []int {
	for v.Kind() == reflect.Interface {
		v = v.Elem()
	}
	switch {
	case v.CanInt():
		n := v.Int()
		if n < 0 {
			n = -max(n, -maxProduct-1)
		}
		return []int{int(min(n, maxProduct+1))}
	case v.CanUint():
		return []int{int(min(v.Uint(), maxProduct+1))}
	case v.CanFloat():
		return []int{int(min(max(v.Float(), -v.Float()), maxProduct+1))}
	case v.Kind() == reflect.Slice && v.Len() < 16:
		var out []int
		for i := range v.Len() {
			out = append(out, factors(v.Index(i))...)
		}
		return out
	}
	size, _ := sizeOf(v, 0)
	return []int{size + 1}
}

// sizeOf measures a value as it would be printed: what it holds twice counts twice. A value that holds itself is too deep.
func sizeOf(v reflect.Value, depth int) (int, error) {
	for v.Kind() == reflect.Interface || v.Kind() == reflect.Pointer {
		if depth++; depth > MaxDepth {
			return 0, errValue
		}
		v = v.Elem()
	}
	size := 1
	add := func(e reflect.Value) error {
		n, err := sizeOf(e, depth+1)
		if size += n; err == nil && size > maxValue {
			err = errValue
		}
		return err
	}
	switch v.Kind() {
	case reflect.String:
		size += v.Len()
	case reflect.Slice, reflect.Array:
		if depth > MaxDepth {
			return 0, errValue
		}
		for i := range v.Len() {
			if err := add(v.Index(i)); err != nil {
				return size, err
			}
		}
	case reflect.Map:
		if depth > MaxDepth {
			return 0, errValue
		}
		for it := v.MapRange(); it.Next(); {
			if err := errors.Join(add(it.Key()), add(it.Value())); err != nil {
				return size, err
			}
		}
	}
	if size > maxValue {
		return size, errValue
	}
	return size, nil
}

// compile parses a template so that each turn of its loops and each template that it calls spends work.
func compile(text string, options []string, funcs template.FuncMap) (*template.Template, error) {
	t := template.New("template").Funcs(funcs)
	for _, o := range options {
		switch o {
		case "missingkey=default", "missingkey=invalid", "missingkey=zero", "missingkey=error":
			t = t.Option(o)
		default:
			return nil, fmt.Errorf("goTemplateOptions: %q, want missingkey=default, invalid, zero or error", o)
		}
	}
	t, err := t.Parse(text)
	if err != nil {
		return nil, err
	}
	tick, err := template.New("tick").Funcs(funcs).Parse("{{" + tickName + "}}")
	if err != nil {
		return nil, err
	}
	for _, defined := range t.Templates() {
		if defined.Tree != nil {
			meter(defined.Root, tick.Root.Nodes[0])
			prepend(defined.Root, tick.Root.Nodes[0])
		}
	}
	return t, nil
}

func prepend(list *parse.ListNode, n parse.Node) {
	list.Nodes = slices.Insert(list.Nodes, 0, n.Copy())
}

// meter puts tick into the body of every loop below n.
func meter(n parse.Node, tick parse.Node) {
	branch := func(b *parse.BranchNode) {
		for _, list := range []*parse.ListNode{b.List, b.ElseList} {
			if list != nil {
				meter(list, tick)
			}
		}
	}
	switch n := n.(type) {
	case *parse.ListNode:
		for _, c := range n.Nodes {
			meter(c, tick)
		}
	case *parse.IfNode:
		branch(&n.BranchNode)
	case *parse.WithNode:
		branch(&n.BranchNode)
	case *parse.RangeNode:
		branch(&n.BranchNode)
		prepend(n.List, tick)
	}
}
