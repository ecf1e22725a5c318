package render

import (
	"strconv"
	"strings"
)

// step is one part of the way to a value: a key, or an index when the key is empty.
type step struct {
	key   string
	index int
}

// fieldPath is the way to a value in an object.
type fieldPath []step

// String is the path as in closure.Place: spec.template.spec.containers[0].image.
func (p fieldPath) String() string {
	var b strings.Builder
	for i, s := range p {
		switch {
		case s.key == "":
			b.WriteString("[" + strconv.Itoa(s.index) + "]")
		case strings.ContainsAny(s.key, `.[]" `) || !printable(s.key):
			b.WriteString("[" + strconv.Quote(s.key) + "]")
		default:
			if i > 0 {
				b.WriteByte('.')
			}
			b.WriteString(s.key)
		}
	}
	return b.String()
}

// key and item give a longer path. The old one is not touched, however much room there is behind it.
func (p fieldPath) key(k string) fieldPath { return append(p[:len(p):len(p)], step{key: k}) }
func (p fieldPath) item(i int) fieldPath   { return append(p[:len(p):len(p)], step{index: i}) }

func (p fieldPath) lastKey() string {
	for i := len(p) - 1; i >= 0; i-- {
		if p[i].key != "" {
			return p[i].key
		}
	}
	return ""
}

func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return !strconv.IsPrint(r) })
}
