package spec

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// Parse reads a bundle.yaml. name is the file's name: it stands in errors, and Bundle.Path resolves against its folder.
// The error is an ErrorList.
func Parse(name string, data []byte) (*Bundle, error) {
	p := &parser{file: name, positions: make(map[string]Position)}
	b := &Bundle{File: name}
	if root := p.document(data); root != nil {
		p.inspect(root, 0)
		p.value(root, "", reflect.ValueOf(b).Elem(), "")
		p.validate(b)
	}
	if len(p.errs) > 0 {
		return nil, p.list()
	}
	return b, nil
}

// parser collects errors instead of stopping at the first, so that one run shows all that is to be done.
type parser struct {
	file      string
	errs      []*Error
	positions map[string]Position // of every field that was read without an error, by its path
}

func (p *parser) fail(at Position, reason string) {
	at.Field = visible(at.Field)
	p.errs = append(p.errs, &Error{Position: at, Reason: visible(reason)})
}

// visible writes out what a terminal would obey: escapes in YAML put any character into a name or a tag.
func visible(s string) string {
	if printable(s) {
		return s
	}
	quoted := strconv.Quote(s)
	return strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
}

func (p *parser) failf(n *yaml.Node, field, format string, args ...any) {
	p.fail(Position{File: p.file, Line: n.Line, Column: n.Column, Field: field}, fmt.Sprintf(format, args...))
}

func (p *parser) list() ErrorList {
	slices.SortStableFunc(p.errs, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	if more := len(p.errs) - MaxErrors; more > 0 {
		last := p.errs[MaxErrors]
		p.errs = append(p.errs[:MaxErrors:MaxErrors], &Error{
			Position: Position{File: last.File, Line: last.Line, Column: last.Column},
			Reason:   fmt.Sprintf("and %d more errors from here on", more),
		})
	}
	return p.errs
}

var yamlErrorPattern = regexp.MustCompile(`^(?:yaml: )?line ([0-9]+): (.*)$`)

// document gives the root node of the only YAML document in data.
func (p *parser) document(data []byte) *yaml.Node {
	at := Position{File: p.file}
	if len(data) > MaxSize {
		p.fail(at, fmt.Sprintf("%d bytes, the limit is %d", len(data), MaxSize))
		return nil
	}
	if i := badText(data); i >= 0 {
		at.Line = 1 + bytes.Count(data[:i], []byte("\n"))
		at.Column = 1 + utf8.RuneCount(data[bytes.LastIndexByte(data[:i], '\n')+1:i])
		p.fail(at, fmt.Sprintf("byte 0x%02x, want UTF-8 text without control characters", data[i]))
		return nil
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc yaml.Node
	if err := dec.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			p.fail(at, "the file is empty, want a bundle that starts with apiVersion: "+APIVersion)
			return nil
		}
		p.fail(p.syntax(err))
		return nil
	}
	var second yaml.Node
	switch err := dec.Decode(&second); {
	case err == nil:
		p.failf(&second, "", "a second YAML document starts here, want one bundle in a file")
	case !errors.Is(err, io.EOF):
		p.fail(p.syntax(err))
	}
	if len(doc.Content) != 1 {
		p.fail(at, "the file is empty, want a bundle that starts with apiVersion: "+APIVersion)
		return nil
	}
	return doc.Content[0]
}

// badText finds the first byte that is not part of UTF-8 text, or gives -1. The YAML parser says only that there is one.
func badText(data []byte) int {
	for i := 0; i < len(data); {
		r, size := utf8.DecodeRune(data[i:])
		switch {
		case r == utf8.RuneError && size <= 1, // not UTF-8
			r < ' ' && r != '\n' && r != '\r' && r != '\t', r >= 0x7f && r <= 0x9f, // control characters
			r == 0xfffe, r == 0xffff, r == 0xfeff && i > 0: // not characters; a byte order mark is none within the text
			return i
		}
		i += size
	}
	return -1
}

// syntax takes the line out of the text of a YAML error, which has it nowhere else.
func (p *parser) syntax(err error) (Position, string) {
	at, text := Position{File: p.file, Line: 1}, strings.TrimPrefix(err.Error(), "yaml: ") // of line 1 it says nothing
	if m := yamlErrorPattern.FindStringSubmatch(err.Error()); m != nil {
		at.Line, _ = strconv.Atoi(m[1])
		text = m[2]
	}
	return at, "not valid YAML: " + text
}

// inspect refuses what makes YAML mean something else than it seems to: anchors and aliases (which can also make a small
// file huge), merge keys, tags, and endless depth.
func (p *parser) inspect(n *yaml.Node, depth int) {
	if depth > MaxDepth {
		p.failf(n, "", "lists and mappings in each other deeper than %d", MaxDepth)
		n.Content = nil
		return
	}
	switch {
	case n.Kind == yaml.AliasNode:
		p.failf(n, "", "alias *%s: anchors and aliases are not allowed, want the value itself", n.Value)
	case n.Anchor != "":
		p.failf(n, "", "anchor &%s: anchors and aliases are not allowed", n.Anchor)
	case n.Style&yaml.TaggedStyle != 0:
		p.failf(n, "", "tag %s: tags are not allowed", n.Tag)
	case len(n.Value) > MaxValue:
		p.failf(n, "", "a value of %d bytes, the limit is %d", len(n.Value), MaxValue)
		n.Value = ""
	}
	for _, child := range n.Content {
		p.inspect(child, depth+1)
	}
}

// value reads n into v, which is a string, a time, a list of strings or structs, or a struct with yaml tags.
func (p *parser) value(n *yaml.Node, field string, v reflect.Value, shorthand string) {
	if n.Kind == yaml.AliasNode {
		return // inspect said it
	}
	p.positions[field] = Position{File: p.file, Line: n.Line, Column: n.Column, Field: field}
	switch {
	case v.Type() == reflect.TypeFor[time.Time]():
		p.time(n, field, v)
	case v.Kind() == reflect.String:
		p.text(n, field, v)
	case v.Kind() == reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			p.failf(n, field, "%s, want a list", what(n))
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
		for i, item := range n.Content {
			p.value(item, fmt.Sprintf("%s[%d]", field, i), v.Index(i), shorthandOf(v.Type().Elem()))
		}
	default:
		if n.Kind == yaml.ScalarNode && n.Tag == "!!str" && shorthand != "" {
			n = &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Line: n.Line, Column: n.Column, Content: []*yaml.Node{
				{Kind: yaml.ScalarNode, Tag: "!!str", Value: shorthand, Line: n.Line, Column: n.Column}, n,
			}}
		}
		p.mapping(n, field, v)
	}
}

func (p *parser) text(n *yaml.Node, field string, v reflect.Value) {
	switch {
	case n.Kind == yaml.ScalarNode && n.Tag == "!!str" && n.Value != "":
		v.SetString(n.Value)
	case n.Kind == yaml.ScalarNode && n.Tag != "!!str" && n.Tag != "!!null":
		p.failf(n, field, "%s, want text: write it in quotes, %q", what(n), n.Value)
		v.SetString(n.Value)
	default:
		p.failf(n, field, "%s, want text", what(n))
	}
}

func (p *parser) time(n *yaml.Node, field string, v reflect.Value) {
	t, err := time.Parse(time.RFC3339, n.Value)
	if n.Kind != yaml.ScalarNode || err != nil || t.Nanosecond() != 0 || t.Year() < 1970 {
		p.failf(n, field, "%s, want a time as in 2026-01-31T08:00:00Z, whole seconds, 1970 or later", what(n))
		return
	}
	v.Set(reflect.ValueOf(t.UTC()))
}

func (p *parser) mapping(n *yaml.Node, field string, v reflect.Value) {
	if n.Kind != yaml.MappingNode {
		p.failf(n, field, "%s, want a mapping with %s", what(n), strings.Join(fieldNames(v.Type()), ", "))
		return
	}
	known := fieldNames(v.Type())
	seen := make(map[string]*yaml.Node)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		path := strings.TrimPrefix(field+"."+key.Value, ".")
		index := slices.Index(known, key.Value)
		switch {
		case key.Kind == yaml.AliasNode:
		case key.Tag == "!!merge":
			p.failf(key, field, "merge key <<: not allowed, want the fields themselves")
		case key.Kind != yaml.ScalarNode:
			p.failf(key, field, "%s as the name of a field, want one of %s", what(key), strings.Join(known, ", "))
		case index < 0:
			p.failf(key, path, "unknown field, want %s", suggest(key.Value, known))
		case seen[key.Value] != nil:
			p.failf(key, path, "written twice, want it once: the first is in line %d", seen[key.Value].Line)
		default:
			seen[key.Value] = key
			p.value(value, path, fieldOf(v, known[index]), "")
		}
	}
	for _, f := range reflect.VisibleFields(v.Type()) {
		name, required, _ := tag(f)
		if required && seen[name] == nil {
			p.failf(n, strings.TrimPrefix(field+"."+name, "."), "missing, want it here")
		}
	}
}

// what says what stands in the file where something else is wanted.
func what(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Kind == yaml.AliasNode:
		return "an alias"
	case n.Tag == "!!null" || n.Value == "":
		return "empty"
	case n.Tag == "!!int" || n.Tag == "!!float":
		return "the number " + n.Value
	case n.Tag == "!!bool":
		return "the truth value " + n.Value
	case n.Tag == "!!timestamp":
		return "the time " + n.Value
	default:
		return strconv.Quote(n.Value)
	}
}

// tag reads the yaml tag of a struct field: its name ("" when it is not in the file) and its options.
func tag(f reflect.StructField) (name string, required, shorthand bool) {
	parts := strings.Split(f.Tag.Get("yaml"), ",")
	if parts[0] == "-" {
		return "", false, false
	}
	return parts[0], slices.Contains(parts, "required"), slices.Contains(parts, "shorthand")
}

func fieldNames(t reflect.Type) []string {
	var names []string
	for _, f := range reflect.VisibleFields(t) {
		if name, _, _ := tag(f); name != "" {
			names = append(names, name)
		}
	}
	return names
}

func fieldOf(v reflect.Value, name string) reflect.Value {
	for _, f := range reflect.VisibleFields(v.Type()) {
		if n, _, _ := tag(f); n == name {
			return v.FieldByIndex(f.Index)
		}
	}
	panic("spec: no field " + name + " in " + v.Type().String()) // fieldNames gave the name
}

// shorthandOf is the field for which a plain string stands in a list of t, or "".
func shorthandOf(t reflect.Type) string {
	if t.Kind() != reflect.Struct {
		return ""
	}
	for _, f := range reflect.VisibleFields(t) {
		if name, _, shorthand := tag(f); shorthand {
			return name
		}
	}
	return ""
}

// suggest names the fields that are possible, the likely one first.
func suggest(written string, known []string) string {
	best, distance := "", 1+max(1, len(written)/3)
	for _, name := range known {
		if d := editDistance(strings.ToLower(written), strings.ToLower(name), distance); d < distance {
			best, distance = name, d
		}
	}
	all := "one of " + strings.Join(known, ", ")
	if best == "" {
		return all
	}
	return fmt.Sprintf("%s: did you mean %q?", all, best)
}

// editDistance is the Levenshtein distance of a and b in bytes, or limit when it is not below limit.
func editDistance(a, b string, limit int) int {
	if max(len(a)-len(b), len(b)-len(a)) >= limit {
		return limit
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		left := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := left
			if a[i] != b[j] {
				cost = 1 + min(left, row[j], row[j+1])
			}
			left, row[j+1] = row[j+1], cost
		}
	}
	return min(row[len(b)], limit)
}
