package diff

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// maxFields bounds how many values of one document are compared one by one.
const maxFields = 4096

// fields gives the values of a JSON object by their paths; lists are values. What is not a JSON object has none.
func fields(data []byte) map[string]string {
	if strictjson.Check(data) != nil {
		return nil
	}
	all := make(map[string]string)
	flatten(all, "", data)
	return all
}

func flatten(all map[string]string, path string, data json.RawMessage) {
	if len(all) >= maxFields {
		return
	}
	var object map[string]json.RawMessage
	if json.Unmarshal(data, &object) == nil && object != nil {
		for _, key := range slices.Sorted(maps.Keys(object)) {
			name := key
			if path != "" {
				name = path + "." + key
			}
			flatten(all, name, object[key])
		}
		return
	}
	if path == "" {
		return
	}
	var text string
	if json.Unmarshal(data, &text) != nil {
		text = string(data)
	}
	all[path] = text
}

// fieldsOf gives the fields of one of this program's own documents.
func fieldsOf(v any) map[string]string {
	data, err := strictjson.Marshal(v)
	if err != nil { // a type that JSON does not have
		panic(err)
	}
	return fields(data)
}

// compareFields lists the values that differ, without those under the names to leave out, which end in a dot for whole
// objects.
func compareFields(old, now map[string]string, prefix string, leaveOut ...string) []Field {
	names := make(map[string]struct{}, len(old)+len(now))
	for _, m := range []map[string]string{old, now} {
		for name := range m {
			names[name] = struct{}{}
		}
	}
	var changed []Field
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if old[name] == now[name] || slices.ContainsFunc(leaveOut, func(out string) bool {
			return name == out || strings.HasSuffix(out, ".") && strings.HasPrefix(name, out)
		}) {
			continue
		}
		f := Field{Name: prefix + name, Old: cut(old[name]), New: cut(now[name])}
		if f.Old == f.New { // they differ behind the cut
			f.Old, f.New = fmt.Sprintf("%s (%d bytes)", f.Old, len(old[name])), fmt.Sprintf("%s (%d bytes, another end)", f.New, len(now[name]))
		}
		changed = append(changed, f)
	}
	return changed
}

func cut(text string) string {
	if len(text) <= MaxValue {
		return text
	}
	end := MaxValue
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + "…"
}
