package render

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// imageFields are the fields of custom resources that the user says are images.
//
// One is written as a path of keys with dots between them:
//
//	spec.runtime.image         the key image in the map runtime in the map spec, in objects of every kind
//	Robot.spec.runtime.image   the same in objects of kind Robot: a first part with a capital letter is a kind
//	*.spec.modelRef            the same as spec.modelRef: * in the first place is every kind
//	spec.tools[].image         the key image in each element of the list tools; [][] is a list in a list
//	spec.models.*.image        in each value of the map models; * never stands for a list or for several keys
//	spec["acme.dev/app"].image a key with dots in it
//
// The value is a reference (a scheme oci:// or docker:// before it is taken off), a map {registry, repository, tag,
// digest}, or a list of these. Anything else is no image; a string that is no reference is a problem.
type imageFields []imageField

type imageField struct {
	kind  string // empty: every
	steps []fieldStep
}

type fieldStep struct {
	key     string
	anyKey  bool
	element bool // each element of the list
}

const (
	maxImageFields = 1000
	maxFieldSteps  = 64
)

func parseImageFields(texts []string) (imageFields, error) {
	if len(texts) > maxImageFields {
		return nil, fmt.Errorf("%d image fields, more than %d", len(texts), maxImageFields)
	}
	var fields imageFields
	for _, text := range texts {
		f, err := parseImageField(text)
		if err != nil {
			return nil, fmt.Errorf("image field %.200q: %w", text, err)
		}
		fields = append(fields, f)
	}
	return fields, nil
}

func parseImageField(text string) (imageField, error) {
	var f imageField
	rest := text
	for first := true; rest != ""; first = false {
		var s fieldStep
		var err error
		if s, rest, err = nextStep(rest, first); err != nil {
			return f, err
		}
		switch {
		case first && s.anyKey:
		case first && !s.element && s.key[0] >= 'A' && s.key[0] <= 'Z':
			f.kind = s.key
		default:
			f.steps = append(f.steps, s)
		}
		if len(f.steps) > maxFieldSteps {
			return f, fmt.Errorf("more than %d steps", maxFieldSteps)
		}
	}
	if len(f.steps) == 0 {
		return f, fmt.Errorf("names no field")
	}
	return f, nil
}

// nextStep cuts one step off the front of a path.
func nextStep(text string, first bool) (s fieldStep, rest string, err error) {
	if after, ok := strings.CutPrefix(text, "[]"); ok {
		if first {
			return s, "", fmt.Errorf("starts with [], want a key")
		}
		return fieldStep{element: true}, after, nil
	}
	if after, ok := strings.CutPrefix(text, `["`); ok {
		key, after, closed := strings.Cut(after, `"]`)
		if !closed || key == "" {
			return s, "", fmt.Errorf(`["…"] is not closed or empty`)
		}
		return fieldStep{key: key}, after, nil
	}
	if !first {
		var ok bool
		if text, ok = strings.CutPrefix(text, "."); !ok {
			return s, "", fmt.Errorf("%.20q, want a dot", text)
		}
	}
	end := strings.IndexAny(text, ".[")
	if end < 0 {
		end = len(text)
	}
	key := text[:end]
	switch {
	case key == "":
		return s, "", fmt.Errorf("a key is empty")
	case key == "*":
		return fieldStep{anyKey: true}, text[end:], nil
	case strings.ContainsAny(key, "*]\" \t\r\n"):
		return s, "", fmt.Errorf("%.40q is not a key", key)
	}
	return fieldStep{key: key}, text[end:], nil
}

// located is a value in an object.
type located struct {
	value any
	path  fieldPath
}

func (fs imageFields) find(kind string, object map[string]any) []located {
	var found []located
	for _, f := range fs {
		if f.kind == "" || f.kind == kind {
			found = append(found, f.find(object)...)
		}
	}
	return found
}

func (f imageField) find(object map[string]any) []located {
	at := []located{{value: object}}
	for _, s := range f.steps {
		var next []located
		for _, l := range at {
			switch v := l.value.(type) {
			case map[string]any:
				if s.anyKey {
					for _, key := range slices.Sorted(maps.Keys(v)) {
						if key == "" {
							continue
						}
						next = append(next, located{v[key], l.path.key(key)})
					}
				} else if value, ok := v[s.key]; ok && !s.element {
					next = append(next, located{value, l.path.key(s.key)})
				}
			case []any:
				if s.element {
					for i, e := range v {
						next = append(next, located{e, l.path.item(i)})
					}
				}
			}
		}
		at = next
	}
	return at
}
