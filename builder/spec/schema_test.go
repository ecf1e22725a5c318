package spec

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

type schema = map[string]any

func readSchema(t *testing.T) schema {
	t.Helper()
	data, err := os.ReadFile("../../docs/bundle.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var s schema
	if err := json.Unmarshal(data, &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestSchemaHasTheFieldsOfTheStructs fails when a field is added to one of the two only.
func TestSchemaHasTheFieldsOfTheStructs(t *testing.T) {
	root := readSchema(t)
	compare(t, root, root, reflect.TypeFor[Bundle](), "bundle")
}

func compare(t *testing.T, root, s schema, typ reflect.Type, path string) {
	t.Helper()
	s = resolve(root, s)
	if typ == reflect.TypeFor[time.Time]() {
		if s["type"] != "string" || s["format"] != "date-time" {
			t.Errorf("%s: schema %v, want a date-time", path, s)
		}
		return
	}
	switch typ.Kind() {
	case reflect.String:
		if _, isConst := s["const"]; s["type"] != "string" && !isConst {
			t.Errorf("%s: schema %v, want a string", path, s)
		}
	case reflect.Slice:
		if s["type"] != "array" {
			t.Errorf("%s: schema %v, want an array", path, s)
			return
		}
		compare(t, root, s["items"].(schema), typ.Elem(), path+"[]")
	case reflect.Struct:
		if shorthandOf(typ) != "" {
			either := s["oneOf"].([]any)
			compare(t, root, either[0].(schema), reflect.TypeFor[string](), path+" (short)")
			s = either[1].(schema)
		}
		if s["type"] != "object" || s["additionalProperties"] != false {
			t.Errorf("%s: schema must be an object without other properties", path)
		}
		properties := s["properties"].(schema)
		var required []string
		for _, f := range reflect.VisibleFields(typ) {
			name, must, _ := tag(f)
			if name == "" {
				continue
			}
			if must {
				required = append(required, name)
			}
			if sub, ok := properties[name].(schema); ok {
				compare(t, root, sub, f.Type, path+"."+name)
			}
		}
		if got, want := slices.Sorted(maps.Keys(properties)), slices.Sorted(slices.Values(fieldNames(typ))); !slices.Equal(got, want) {
			t.Errorf("%s: schema has %v, the struct %v", path, got, want)
		}
		var listed []string
		for _, name := range asList(s["required"]) {
			listed = append(listed, name.(string))
		}
		if !slices.Equal(listed, required) {
			t.Errorf("%s: schema requires %v, the struct %v", path, listed, required)
		}
	default:
		t.Errorf("%s: %s has no rule here", path, typ)
	}
}

// TestSchemaAgreesWithParse checks documents with both. Rules that a schema cannot say are Parse's alone.
func TestSchemaAgreesWithParse(t *testing.T) {
	root := readSchema(t)
	for _, file := range exampleFiles(t) {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate(root, root, fromYAML(t, string(data)), "bundle"); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
	for _, tc := range []struct {
		src string
		ok  bool
	}{
		{"spec: {images: [a.b/c:1, {ref: a.b/d:1, as: x/y, platforms: [linux/arm/v7]}]}", true},
		{"spec: {charts: [{path: c}, {ref: oci://a.b/c:1, as: a.b/d}]}", true},
		{"spec: {git: [{url: ../r, as: a.b/c, refs: [main], head: main}], source: {url: https://a.b/c, revision: x}}", true},
		{"spec: {files: [{path: a, as: x/y, name: n}], platforms: []}", true},
		{"spec: {images: [1]}", false},
		{"spec: {images: [{as: x/y}]}", false},
		{"spec: {images: ['']}", false},
		{"spec: {images: a.b/c:1}", false},
		{"spec: {imagse: [a.b/c:1]}", false},
		{"spec: {charts: [{path: c, ref: oci://a.b/c:1}]}", false},
		{"spec: {charts: [{as: a.b/c}]}", false},
		{"spec: {git: [{as: a.b/c}]}", false},
		{"spec: {files: [{path: 1}]}", false},
		{"spec: {images: [a.b/c:1], platforms: [linux]}", false},
		{"spec: {images: [a.b/c:1], source: {revision: x}}", false},
		{"{}", false},
	} {
		src := head + tc.src
		_, err := Parse("b.yaml", []byte(src))
		if (err == nil) != tc.ok {
			t.Errorf("%s: Parse says %v", tc.src, err)
		}
		if tc.src == "{}" {
			src = "{}"
		}
		if err := validate(root, root, fromYAML(t, src), "bundle"); (err == nil) != tc.ok {
			t.Errorf("%s: the schema says %v", tc.src, err)
		}
	}
}

func fromYAML(t *testing.T, src string) any {
	t.Helper()
	var v any
	if err := yaml.Unmarshal([]byte(src), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func resolve(root, s schema) schema {
	if ref, ok := s["$ref"].(string); ok {
		return resolve(root, root["$defs"].(schema)[strings.TrimPrefix(ref, "#/$defs/")].(schema))
	}
	return s
}

func asList(v any) []any {
	list, _ := v.([]any)
	return list
}

// validate knows the keywords that the schema uses, and fails on any other: a rule that is written but not checked here
// would make the test above say more than it knows.
func validate(root, s schema, v any, path string) error {
	s = resolve(root, s)
	for keyword, arg := range s {
		if err := keywordHolds(root, s, keyword, arg, v, path); err != nil {
			return err
		}
	}
	return nil
}

func keywordHolds(root, s schema, keyword string, arg, v any, path string) error {
	object, _ := v.(map[string]any)
	list, _ := v.([]any)
	text, isText := v.(string)
	ok := true
	switch keyword {
	case "$schema", "$id", "$defs", "title", "description", "format":
	case "type":
		switch arg {
		case "object":
			ok = object != nil
		case "array":
			_, ok = v.([]any)
		case "string":
			ok = isText
		default:
			return fmt.Errorf("%s: type %v has no rule here", path, arg)
		}
	case "const":
		ok = v == arg
	case "required":
		for _, name := range asList(arg) {
			_, has := object[name.(string)]
			ok = ok && has
		}
	case "additionalProperties":
		for name := range object {
			_, has := s["properties"].(schema)[name]
			ok = ok && has
		}
	case "properties":
		for name, sub := range arg.(schema) {
			if value, has := object[name]; has {
				if err := validate(root, sub.(schema), value, path+"."+name); err != nil {
					return err
				}
			}
		}
	case "items":
		for i, item := range list {
			if err := validate(root, arg.(schema), item, fmt.Sprintf("%s[%d]", path, i)); err != nil {
				return err
			}
		}
	case "oneOf":
		matches := 0
		for _, sub := range asList(arg) {
			if validate(root, sub.(schema), v, path) == nil {
				matches++
			}
		}
		ok = matches == 1
	case "pattern":
		ok = !isText || regexp.MustCompile(arg.(string)).MatchString(text)
	case "minLength":
		ok = !isText || utf8.RuneCountInString(text) >= int(arg.(float64))
	case "maxLength":
		ok = !isText || utf8.RuneCountInString(text) <= int(arg.(float64))
	default:
		return fmt.Errorf("%s: keyword %s has no rule here", path, keyword)
	}
	if !ok {
		return fmt.Errorf("%s: %s %v does not hold for %v", path, keyword, arg, v)
	}
	return nil
}
