package gitops

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"path"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

// plain copies a value of a YAML or JSON document into what the API server would hand out: maps with string keys, lists,
// strings, booleans, numbers as float64, nil. Everything behind it can rely on these types, on MaxDepth and on nobody
// else changing the value.
func plain(v any, depth int) (any, error) {
	if depth > MaxDepth {
		return nil, fmt.Errorf("nested deeper than %d", MaxDepth)
	}
	switch v := v.(type) {
	case nil, string, bool:
		return v, nil
	case map[string]any:
		return plainMap(v, depth)
	case map[any]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			name, ok := k.(string)
			if !ok {
				return nil, errors.New("a key is not a string")
			}
			out[name] = e
		}
		return plainMap(out, depth)
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			var err error
			if out[i], err = plain(e, depth+1); err != nil {
				return nil, err
			}
		}
		return out, nil
	case time.Time:
		if v.Equal(v.Truncate(24 * time.Hour)) {
			return v.Format(time.DateOnly), nil
		}
		return v.Format(time.RFC3339Nano), nil
	}
	return plainNumber(v)
}

func plainMap(v map[string]any, depth int) (map[string]any, error) {
	out := make(map[string]any, len(v))
	for k, e := range sorted(v) {
		p, err := plain(e, depth+1)
		if err != nil {
			return nil, err
		}
		out[k] = p
	}
	return out, nil
}

func plainNumber(v any) (any, error) {
	var f float64
	switch v := v.(type) {
	case float64:
		f = v
	case float32:
		f = float64(v)
	case int:
		f = float64(v)
	case int64:
		f = float64(v)
	case int32:
		f = float64(v)
	case uint64:
		f = float64(v)
	case uint:
		f = float64(v)
	case json.Number:
		var err error
		if f, err = v.Float64(); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("%T is no value of JSON", v)
	}
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return nil, errors.New("a number is infinite or none")
	}
	return f, nil
}

// clone copies a value that plain made.
func clone(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			out[k] = clone(e)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = clone(e)
		}
		return out
	}
	return v
}

// parseYAML reads a document of at most MaxFileSize as the API server and Helm do.
func parseYAML(data []byte) (any, error) {
	if len(data) > MaxFileSize {
		return nil, fmt.Errorf("%d bytes, the limit is %d", len(data), MaxFileSize)
	}
	var v any
	if err := yaml.Unmarshal(data, &v); err != nil {
		return nil, err
	}
	return plain(v, 0)
}

// parseYAMLMap reads a document that is a map, or empty.
func parseYAMLMap(data []byte) (map[string]any, error) {
	v, err := parseYAML(data)
	if err != nil {
		return nil, err
	}
	m, ok := v.(map[string]any)
	if !ok && v != nil {
		return nil, fmt.Errorf("a %s, want a map", typeName(v))
	}
	return m, nil
}

// node is a map in an object. Its readers give the zero value for what is absent or null, and a Problem for what has
// another type: the API server refuses such an object, and whoever reads on would guess.
type node struct {
	m    map[string]any
	path string // spec.source.helm
	s    *scope
}

func (n node) field(key string) string {
	if n.path == "" {
		return key
	}
	return n.path + "." + key
}

func (n node) has(key string) bool { return n.m[key] != nil }

func (n node) wrong(key string, v any, want string) {
	n.s.problem(n.field(key), "%s: a %s, want a %s", n.field(key), typeName(v), want)
}

func typeName(v any) string {
	switch v.(type) {
	case map[string]any:
		return "map"
	case []any:
		return "list"
	case string:
		return "string"
	case bool:
		return "boolean"
	case float64:
		return "number"
	}
	return "null"
}

func (n node) str(key string) string {
	v, ok := n.m[key].(string)
	if !ok && n.has(key) {
		n.wrong(key, n.m[key], "string")
	}
	return v
}

func (n node) boolean(key string) bool {
	v, ok := n.m[key].(bool)
	if !ok && n.has(key) {
		n.wrong(key, n.m[key], "boolean")
	}
	return v
}

func (n node) child(key string) node {
	v, ok := n.m[key].(map[string]any)
	if !ok && n.has(key) {
		n.wrong(key, n.m[key], "map")
	}
	return node{v, n.field(key), n.s}
}

func (n node) list(key string) []any {
	v, ok := n.m[key].([]any)
	if !ok && n.has(key) {
		n.wrong(key, n.m[key], "list")
	}
	return v
}

func (n node) children(key string) []node {
	var out []node
	for i, e := range n.list(key) {
		at := fmt.Sprintf("%s[%d]", key, i)
		m, ok := e.(map[string]any)
		if !ok {
			n.wrong(at, e, "map")
			continue
		}
		out = append(out, node{m, n.field(at), n.s})
	}
	return out
}

func (n node) strings(key string) []string {
	var out []string
	for i, e := range n.list(key) {
		v, ok := e.(string)
		if !ok {
			n.wrong(fmt.Sprintf("%s[%d]", key, i), e, "string")
			continue
		}
		out = append(out, v)
	}
	return out
}

func (n node) stringMap(key string) map[string]string {
	c := n.child(key)
	if len(c.m) == 0 {
		return nil
	}
	out := make(map[string]string, len(c.m))
	for _, k := range slices.Sorted(maps.Keys(c.m)) {
		if v, ok := c.m[k].(string); ok {
			out[k] = v
		} else {
			c.wrong(k, c.m[k], "string")
		}
	}
	return out
}

var errOutside = errors.New("outside of the repository")

// inside gives a path from the root of a repository: name below base, or below the root when it starts with a slash. It
// is false for what leaves the repository.
func inside(base, name string) (string, bool) {
	if strings.HasPrefix(name, "/") {
		base = ""
	}
	p := path.Join(base, strings.TrimLeft(name, "/"))
	if p == ".." || strings.HasPrefix(p, "../") || strings.ContainsRune(p, 0) {
		return "", false
	}
	if p == "." {
		p = ""
	}
	return p, true
}

// overlay merges src over dst, maps into maps, as Helm and Argo CD do with values and parameters. It changes neither.
func overlay(dst, src map[string]any) map[string]any {
	out := maps.Clone(dst)
	if out == nil {
		out = make(map[string]any, len(src))
	}
	for k, v := range src {
		out[k] = overlaid(out[k], v)
	}
	return out
}

func overlaid(dst, src any) any {
	if a, ok := dst.(map[string]string); ok {
		if b, ok := src.(map[string]string); ok { // the values of two generators
			out := maps.Clone(a)
			maps.Copy(out, b)
			return out
		}
	}
	a, b := anyMap(dst), anyMap(src)
	if a == nil || b == nil {
		return src
	}
	return overlay(a, b)
}

func anyMap(v any) map[string]any {
	switch v := v.(type) {
	case map[string]any:
		return v
	case map[string]string:
		out := make(map[string]any, len(v))
		for k, s := range v {
			out[k] = s
		}
		return out
	}
	return nil
}

// fillEmpty merges src below dst: what dst has not, or empty, comes from src.
func fillEmpty(dst, src map[string]any) map[string]any {
	out := maps.Clone(dst)
	if out == nil {
		out = make(map[string]any, len(src))
	}
	for k, v := range src {
		have, isMap := out[k].(map[string]any)
		m, both := v.(map[string]any)
		switch {
		case isEmpty(out[k]):
			out[k] = v
		case isMap && both && k != "valuesObject": // which is one value to Argo CD
			out[k] = fillEmpty(have, m)
		}
	}
	return out
}

func isEmpty(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case string:
		return v == ""
	case bool:
		return !v
	case float64:
		return v == 0
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	}
	return false
}
