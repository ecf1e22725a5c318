package gitops

import (
	"fmt"
	"slices"
)

// selector is a label selector over parameters. Unlike labels their values may be anything, the URL of a cluster too.
type selector []requirement

type requirement struct {
	key, operator string
	values        []string
}

func newSelector(n node) (selector, error) {
	var s selector
	for k, v := range sorted(n.stringMap("matchLabels")) {
		s = append(s, requirement{k, "In", []string{v}})
	}
	for _, e := range n.children("matchExpressions") {
		r := requirement{e.str("key"), e.str("operator"), e.strings("values")}
		switch r.operator {
		case "In", "NotIn":
			if len(r.values) == 0 {
				return nil, fmt.Errorf("%s: %s without values", e.path, r.operator)
			}
		case "Exists", "DoesNotExist":
			if len(r.values) > 0 {
				return nil, fmt.Errorf("%s: %s with values", e.path, r.operator)
			}
		default:
			return nil, fmt.Errorf("%s: operator %q, want In, NotIn, Exists or DoesNotExist", e.path, r.operator)
		}
		s = append(s, r)
	}
	return s, nil
}

func (s selector) matches(params map[string]string) bool {
	for _, r := range s {
		v, ok := params[r.key]
		switch r.operator {
		case "In":
			ok = ok && slices.Contains(r.values, v)
		case "NotIn":
			ok = !ok || !slices.Contains(r.values, v)
		case "DoesNotExist":
			ok = !ok
		}
		if !ok {
			return false
		}
	}
	return true
}
