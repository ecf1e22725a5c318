package shadow

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// What one file may hold: its aliases can make a small file huge, and deep ones end the stack.
const (
	maxNodes     = 200_000 // values, with the aliases followed
	maxDepth     = 100
	maxDocuments = 1000
)

// kind says what a value is.
type kind uint8

const (
	null kind = iota
	boolean
	number
	text
	tagged // a scalar with a tag of its own
	list
	mapping
)

// value is a YAML value as Helm sees it: aliases and merges followed, the last of two equal keys taken.
type value struct {
	kind   kind
	text   string // of a scalar, in one form: true, 1, the text itself
	items  []*value
	keys   []string // in the order of the file
	fields map[string]field
	size   int // values in it, itself included
}

// field is what a mapping has under a key. The line is where the key stands.
type field struct {
	value *value
	line  int
}

// field is nil when there is none.
func (v *value) field(key string) *value {
	if v == nil || v.kind != mapping {
		return nil
	}
	return v.fields[key].value
}

// merges reports whether the keys of a map lie over the keys of v one by one: over nothing, and over a map.
func (v *value) merges() bool { return v == nil || v.kind == mapping || v.kind == null }

// equal compares what values mean. Nothing is equal to nothing only.
func equal(a, b *value) bool {
	if a == nil || b == nil || a == b {
		return a == b
	}
	if a.kind != b.kind || a.text != b.text || len(a.items) != len(b.items) || len(a.fields) != len(b.fields) {
		return false
	}
	for i := range a.items {
		if !equal(a.items[i], b.items[i]) {
			return false
		}
	}
	for key, f := range a.fields {
		other, ok := b.fields[key]
		if !ok || !equal(f.value, other.value) {
			return false
		}
	}
	return true
}

// document is one YAML document of a file that is not empty.
type document struct {
	root *value
	line int
	id   string // kind/namespace/name of a Kubernetes object, else empty
}

// name says which document it is, of several.
func (d document) name(i int) string {
	if d.id != "" {
		return d.id
	}
	return fmt.Sprintf("document %d", i+1)
}

// syntaxError is a file that is not YAML, or more YAML than is read.
type syntaxError struct {
	line   int // 0: not known
	reason string
}

func (e *syntaxError) Error() string { return fmt.Sprintf("line %d: %s", e.line, e.reason) }

func failAt(n *yaml.Node, format string, args ...any) *syntaxError {
	return &syntaxError{line: n.Line, reason: fmt.Sprintf(format, args...)}
}

// yamlLine takes the line out of the text of a YAML error, which has it nowhere else, and has none for line 1. Of these
// errors yaml.v3 counts the lines from 0.
var (
	yamlLine   = regexp.MustCompile(`^(?:yaml: )?line ([0-9]+): ((?s).*)$`)
	countedAs0 = regexp.MustCompile(`^did not find expected (?:<|node content|key|'-' indicator|',' or )`)
)

func yamlError(err error) *syntaxError {
	e := &syntaxError{line: 1, reason: strings.TrimPrefix(err.Error(), "yaml: ")}
	if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
		e.line, _ = strconv.Atoi(m[1])
		e.reason = m[2]
		if countedAs0.MatchString(e.reason) {
			e.line++
		}
	}
	e.reason = "not valid YAML: " + printable(e.reason)
	return e
}

// checkText refuses what is not UTF-8, of which the YAML parser does not say where it is.
func checkText(data []byte) *syntaxError {
	if len(data) > MaxFile {
		return &syntaxError{reason: fmt.Sprintf("%d bytes, the limit is %d", len(data), MaxFile)}
	}
	for i := 0; i < len(data); {
		r, size := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && size <= 1 {
			return &syntaxError{line: 1 + bytes.Count(data[:i], []byte("\n")), reason: fmt.Sprintf("byte 0x%02x, want UTF-8 text", data[i])}
		}
		i += size
	}
	return nil
}

// parse reads all documents of a file.
func parse(data []byte) ([]document, *syntaxError) {
	if bad := checkText(data); bad != nil {
		return nil, bad
	}
	var docs []document
	r := &reader{done: make(map[*yaml.Node]*value)}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for n := 0; ; n++ {
		var node yaml.Node
		err := dec.Decode(&node)
		if errors.Is(err, io.EOF) {
			return docs, nil
		}
		if err != nil {
			return nil, yamlError(err)
		}
		if n == maxDocuments {
			return nil, failAt(&node, "more than %d documents", maxDocuments)
		}
		if len(node.Content) == 0 {
			continue
		}
		root, bad := r.value(node.Content[0], 0)
		if bad != nil {
			return nil, bad
		}
		if root.kind != null {
			docs = append(docs, document{root: root, line: node.Content[0].Line, id: identity(root)})
		}
	}
}

// identity names a Kubernetes object.
func identity(v *value) string {
	var parts []string
	for _, p := range []*value{v.field("kind"), v.field("metadata").field("namespace"), v.field("metadata").field("name")} {
		if p != nil && p.kind == text && p.text != "" {
			parts = append(parts, cut(printable(p.text)))
		}
	}
	if len(parts) < 2 {
		return ""
	}
	return strings.Join(parts, "/")
}

// reader turns nodes into values. What aliases share stays shared.
type reader struct {
	done map[*yaml.Node]*value // nil: being read
	made int                   // values, over all documents of the file
}

func (r *reader) value(n *yaml.Node, depth int) (v *value, bad *syntaxError) {
	if depth > maxDepth {
		return nil, failAt(n, "nested deeper than %d", maxDepth)
	}
	if n.Kind == yaml.AliasNode {
		return r.value(n.Alias, depth+1)
	}
	if known, ok := r.done[n]; ok {
		if known == nil {
			return nil, failAt(n, "an alias leads back to itself")
		}
		return known, nil
	}
	r.done[n] = nil
	v = &value{size: 1}
	switch n.Kind {
	case yaml.ScalarNode:
		v.kind, v.text = scalar(n)
	case yaml.SequenceNode:
		v.kind = list
		for _, c := range n.Content {
			item, bad := r.value(c, depth+1)
			if bad != nil {
				return nil, bad
			}
			v.items = append(v.items, item)
			if v.size += item.size; v.size > maxNodes {
				return nil, tooMany(n)
			}
		}
	case yaml.MappingNode:
		if bad := r.mapping(v, n, depth); bad != nil {
			return nil, bad
		}
	default:
		return nil, failAt(n, "not a value")
	}
	if r.made++; r.made > maxNodes {
		return nil, tooMany(n)
	}
	r.done[n] = v
	return v, nil
}

func tooMany(n *yaml.Node) *syntaxError {
	return failAt(n, "more than %d values, its aliases followed", maxNodes)
}

func (r *reader) mapping(v *value, n *yaml.Node, depth int) *syntaxError {
	v.kind, v.fields = mapping, make(map[string]field, len(n.Content)/2)
	var merges []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, content := n.Content[i], n.Content[i+1]
		if key.Tag == "!!merge" {
			merges = append(merges, key, content)
			continue
		}
		name := key
		for hops := 0; name.Kind == yaml.AliasNode; hops++ {
			if hops > maxDepth {
				return failAt(key, "an alias leads back to itself")
			}
			name = name.Alias
		}
		if name.Kind != yaml.ScalarNode {
			return failAt(key, "a key that is not text")
		}
		item, bad := r.value(content, depth+1)
		if bad != nil {
			return bad
		}
		if bad := v.set(n, name.Value, field{item, key.Line}, true); bad != nil {
			return bad
		}
	}
	for i := 0; i < len(merges); i += 2 {
		if bad := r.merge(v, merges[i], merges[i+1], depth); bad != nil {
			return bad
		}
	}
	return nil
}

// merge adds the fields of one map, or of the maps of a list, that v does not have itself (yaml.org/type/merge.html).
func (r *reader) merge(v *value, key, content *yaml.Node, depth int) *syntaxError {
	from, bad := r.value(content, depth+1)
	if bad != nil {
		return bad
	}
	maps := []*value{from}
	if from.kind == list {
		maps = from.items
	}
	for _, m := range maps {
		if m.kind != mapping {
			return failAt(key, "a merge of what is no map")
		}
		if r.made += 1 + len(m.keys); r.made > maxNodes { // the same large map may be merged again and again
			return tooMany(key)
		}
		for _, name := range m.keys {
			if bad := v.set(key, name, field{m.fields[name].value, key.Line}, false); bad != nil {
				return bad
			}
		}
	}
	return nil
}

func (v *value) set(n *yaml.Node, name string, f field, replace bool) *syntaxError {
	old, dup := v.fields[name]
	if dup && !replace {
		return nil
	}
	if dup {
		v.size -= old.value.size
	} else {
		v.keys = append(v.keys, name)
	}
	v.fields[name] = f
	if v.size += f.value.size; v.size > maxNodes {
		return tooMany(n)
	}
	return nil
}

// scalar gives the one form of what is written in many: 0x10 and 16, True and yes. Helm reads YAML 1.1.
func scalar(n *yaml.Node) (kind, string) {
	switch tag := n.ShortTag(); tag {
	case "!!null":
		return null, ""
	case "!!bool":
		return boolean, strings.ToLower(n.Value)
	case "!!int", "!!float":
		return number, canonicalNumber(n)
	case "!!str", "!!timestamp":
		if n.Style == 0 {
			switch n.Value {
			case "yes", "Yes", "YES", "on", "On", "ON":
				return boolean, "true"
			case "no", "No", "NO", "off", "Off", "OFF":
				return boolean, "false"
			}
		}
		return text, n.Value
	default:
		return tagged, tag + " " + n.Value
	}
}

// canonicalNumber writes whole numbers without fraction and exponent, so that 1, 1.0 and 1e0 are the same.
func canonicalNumber(n *yaml.Node) string {
	var v any
	if err := n.Decode(&v); err != nil {
		return n.Value
	}
	switch v := v.(type) {
	case int:
		return strconv.Itoa(v)
	case int64:
		return strconv.FormatInt(v, 10)
	case uint64:
		return strconv.FormatUint(v, 10)
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return strings.ToLower(strconv.FormatFloat(v, 'g', -1, 64))
		}
		if v == math.Trunc(v) && math.Abs(v) < 1e21 {
			whole, _ := big.NewFloat(v).Int(nil)
			return whole.String()
		}
		return strconv.FormatFloat(v, 'g', -1, 64)
	}
	return n.Value
}
