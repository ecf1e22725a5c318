package render

import "strings"

// substitutionOff is how an object says that Flux must leave it alone.
const substitutionOff = "kustomize.toolkit.fluxcd.io/substitute"

// substitute fills in ${name}, ${name:=default} and ${name:-default} as Flux does in what a Kustomization made. A name that
// has no value is nothing. $${name} stays as ${name}.
func substitute(value map[string]any, vars map[string]string) map[string]any {
	metadata, _ := value["metadata"].(map[string]any)
	for _, marks := range []string{"annotations", "labels"} {
		if m, _ := metadata[marks].(map[string]any); m[substitutionOff] == "disabled" {
			return value
		}
	}
	filled, _ := fill(value, vars, 0).(map[string]any)
	return filled
}

func fill(value any, vars map[string]string, depth int) any {
	if depth > maxNesting {
		return value
	}
	switch v := value.(type) {
	case map[string]any:
		own := make(map[string]any, len(v))
		for k, e := range v {
			own[k] = fill(e, vars, depth+1)
		}
		return own
	case []any:
		own := make([]any, len(v))
		for i, e := range v {
			own[i] = fill(e, vars, depth+1)
		}
		return own
	case string:
		return fillText(v, vars)
	}
	return value
}

func fillText(s string, vars map[string]string) string {
	if !strings.Contains(s, "${") {
		return s
	}
	var b strings.Builder
	for {
		before, rest, ok := strings.Cut(s, "${")
		if !ok {
			return b.String() + s
		}
		if escaped, ok := strings.CutSuffix(before, "$"); ok {
			b.WriteString(escaped + "${")
			s = rest
			continue
		}
		inside, after, closed := strings.Cut(rest, "}")
		if !closed {
			return b.String() + s
		}
		b.WriteString(before)
		name, fallback := inside, ""
		if i := strings.IndexAny(inside, ":=-"); i >= 0 {
			name, fallback = inside[:i], strings.TrimLeft(inside[i:], ":")
			fallback = strings.TrimPrefix(strings.TrimPrefix(fallback, "="), "-")
		}
		if value := vars[strings.TrimSpace(name)]; value != "" {
			b.WriteString(value)
		} else {
			b.WriteString(fallback)
		}
		s = after
	}
}
