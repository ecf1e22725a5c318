package gitops

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"text/template"

	"github.com/valyala/fasttemplate"
	"sigs.k8s.io/yaml"
)

const (
	maxTemplate = 256 << 10 // bytes of one template
	maxOutput   = 1 << 20   // bytes that one gives
)

// engine fills the templates of one ApplicationSet in.
type engine struct {
	goTemplate bool
	options    []string
	work       work
	funcs      template.FuncMap
	compiled   map[string]*template.Template // by text and options
}

func newEngine(goTemplate bool, options []string) *engine {
	e := &engine{goTemplate: goTemplate, options: options, work: work{all: maxWork}, compiled: make(map[string]*template.Template)}
	e.funcs = functions(&e.work)
	return e
}

var templated = regexp.MustCompile(`{{.*}}`)

// replace fills one string in.
func (e *engine) replace(text string, params map[string]any) (string, error) {
	return e.replaceWith(text, params, e.options)
}

func (e *engine) replaceWith(text string, params map[string]any, options []string) (string, error) {
	if !strings.Contains(text, "{{") {
		return text, nil
	}
	if len(text) > maxTemplate {
		return "", fmt.Errorf("template of %d bytes, the limit is %d", len(text), maxTemplate)
	}
	w := &limitedWriter{work: &e.work}
	e.work.once = maxWorkOnce
	if !e.goTemplate {
		err := fast(w, text, params)
		return w.buf.String(), err
	}
	key := strings.Join(options, "\x00") + "\x00" + text
	t := e.compiled[key]
	if t == nil {
		var err error
		if t, err = compile(text, options, e.funcs); err != nil {
			return "", err
		}
		e.compiled[key] = t
	}
	err := execute(t, w, params)
	return w.buf.String(), err
}

// execute turns a panic of a template function's library into an error: a manifest must not end the whole proof.
func execute(t *template.Template, w io.Writer, params map[string]any) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("template: %v", r)
		}
	}()
	return t.Execute(w, params)
}

// fast fills {{name}} in; what is no parameter stays as it is.
func fast(w *limitedWriter, text string, params map[string]any) error {
	if !templated.MatchString(text) {
		_, err := w.Write([]byte(text))
		return err
	}
	t, err := fasttemplate.NewTemplate(text, "{{", "}}")
	if err != nil {
		return err
	}
	_, err = t.ExecuteFunc(w, func(_ io.Writer, tag string) (int, error) {
		name := strings.TrimSpace(tag)
		if v, ok := params[name].(string); ok && name != "" {
			return w.Write([]byte(v))
		}
		return w.Write([]byte("{{" + tag + "}}"))
	})
	return err
}

// limitedWriter keeps what a template gives, up to maxOutput.
type limitedWriter struct {
	buf  bytes.Buffer
	work *work
}

func (w *limitedWriter) Write(p []byte) (int, error) {
	if w.buf.Len()+len(p) > maxOutput {
		return 0, fmt.Errorf("the template gives more than %d bytes", maxOutput)
	}
	if err := w.work.spend(len(p) * costOfOutput); err != nil {
		return 0, err
	}
	return w.buf.Write(p)
}

// fill fills every string in v in, keys of maps included.
func (e *engine) fill(v any, params map[string]any) (any, error) {
	switch v := v.(type) {
	case string:
		return e.replace(v, params)
	case []any:
		out := make([]any, len(v))
		for i, c := range v {
			var err error
			if out[i], err = e.fill(c, params); err != nil {
				return nil, err
			}
		}
		return out, nil
	case map[string]any:
		out := make(map[string]any, len(v))
		for _, k := range slices.Sorted(maps.Keys(v)) {
			c, err := e.fill(v[k], params)
			if err != nil {
				return nil, err
			}
			key, err := e.replace(k, params)
			if err != nil {
				return nil, err
			}
			out[key] = c
		}
		return out, nil
	}
	return v, nil
}

// missingKey reports whether a template failed because a parameter is not there (yet).
func missingKey(err error) bool {
	var exec template.ExecError
	return errors.As(err, &exec) && (strings.Contains(err.Error(), "map has no entry for key") || strings.Contains(err.Error(), "can't evaluate field"))
}

var notInName = regexp.MustCompile(`[^-a-z0-9.]`)

// normalize makes a name that Kubernetes accepts, as Argo CD does for basenameNormalized.
func normalize(name string) string {
	name = notInName.ReplaceAllString(strings.ToLower(name), "-")
	return strings.Trim(name[:min(len(name), 253)], "-.")
}

var (
	notInSlug = regexp.MustCompile(`[^a-z0-9-]`)
	dashes    = regexp.MustCompile(`-+`)
)

// slugify makes a word for a URL: slugify [length [cut at a dash]] name.
func slugify(args ...any) (string, error) {
	limit, smart, name := 50, true, ""
	for i, a := range args {
		ok := true
		switch {
		case i == len(args)-1:
			name, ok = a.(string)
		case i == 0:
			limit, ok = a.(int)
		case i == 1:
			smart, ok = a.(bool)
		}
		if !ok {
			return "", fmt.Errorf("slugify: argument %d is a %T, want a length, true or false, and a name", i+1, a)
		}
	}
	s := normalize(name)
	if !smart && len(s) >= limit {
		if limit < 0 {
			return "", fmt.Errorf("slugify: length %d", limit)
		}
		s = s[:limit]
	}
	s = strings.Trim(dashes.ReplaceAllString(notInSlug.ReplaceAllString(s, "-"), "-"), "-")
	if limit <= 0 || !smart || len(s) <= limit {
		return s, nil
	}
	if cut := strings.LastIndexByte(s[:limit+1], '-'); cut >= 0 {
		return s[:cut], nil
	}
	return s[:limit], nil
}

var wide = regexp.MustCompile(`%[^a-zA-Z%]*[0-9]{4}`)

// printf refuses widths that would fill the memory with blanks.
func printf(format string, args ...any) (string, error) {
	if wide.MatchString(format) {
		return "", errValue
	}
	return fmt.Sprintf(format, args...), nil
}

func toYAML(v any) (string, error) {
	data, err := yaml.Marshal(v)
	return strings.TrimSuffix(string(data), "\n"), err
}

func fromYAML(s string) (map[string]any, error) {
	m := map[string]any{}
	return m, yaml.Unmarshal([]byte(s), &m)
}

func fromYAMLArray(s string) ([]any, error) {
	a := []any{}
	return a, yaml.Unmarshal([]byte(s), &a)
}

func sortedKeys(dicts ...map[string]any) []string {
	var out []string
	for _, d := range dicts {
		out = append(out, slices.Sorted(maps.Keys(d))...)
	}
	return out
}

func sortedValues(dict map[string]any) []any {
	out := []any{}
	for _, k := range slices.Sorted(maps.Keys(dict)) {
		out = append(out, dict[k])
	}
	return out
}

// flatten gives the parameters as one level of names: cluster.name, list.0.
func flatten(out map[string]string, prefix string, v any) {
	next := func(key string, v any) {
		if prefix != "" {
			key = prefix + "." + key
		}
		switch v := v.(type) {
		case map[string]any, []any, map[string]string:
			flatten(out, key, v)
		default:
			out[key] = fmt.Sprint(v)
		}
	}
	switch v := v.(type) {
	case map[string]any:
		for k, c := range sorted(v) { // {a.b: 1, a: {b: 2}} has the same name twice
			next(k, c)
		}
	case map[string]string:
		for k, c := range sorted(v) {
			next(k, c)
		}
	case []any:
		for i, c := range v {
			next(fmt.Sprint(i), c)
		}
	}
}

// patch applies a strategic merge patch. The types of Argo CD name no keys to merge lists by, so a list is replaced.
func patch(dst, src map[string]any) (map[string]any, error) {
	switch src["$patch"] {
	case nil, "merge":
	case "replace":
		out := maps.Clone(src)
		delete(out, "$patch")
		return out, nil
	case "delete":
		return map[string]any{}, nil
	default:
		return nil, fmt.Errorf("$patch: %v, want merge, replace or delete", src["$patch"])
	}
	out := maps.Clone(dst)
	if out == nil {
		out = make(map[string]any)
	}
	if keep, ok := src["$retainKeys"].([]any); ok {
		maps.DeleteFunc(out, func(k string, _ any) bool { return !slices.Contains(keep, any(k)) })
	}
	for k, v := range sorted(src) {
		below, isMap := v.(map[string]any)
		switch {
		case strings.HasPrefix(k, "$"):
		case v == nil:
			delete(out, k)
		case isMap:
			old, _ := out[k].(map[string]any)
			merged, err := patch(old, below)
			if err != nil {
				return nil, err
			}
			out[k] = merged
		default:
			out[k] = v
		}
	}
	return out, nil
}

// parsePatch reads what a templatePatch became: JSON or YAML, nothing at all, or a map.
func parsePatch(text string) (map[string]any, error) {
	if strings.HasPrefix(strings.TrimSpace(text), "{") && json.Valid([]byte(text)) {
		var v any
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			return nil, err
		}
		m, err := plain(v, 0)
		if err != nil {
			return nil, err
		}
		return m.(map[string]any), nil
	}
	return parseYAMLMap([]byte(text))
}
