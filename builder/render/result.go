package render

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/plimsoll/plimsoll/builder/closure"
)

// result is what one rendering gave. It may be reported for several revisions and askers: a Place without an Item is in
// whatever is reported, and none has a By.
type result struct {
	engine   string
	path     string
	at       closure.Place // of what has no better one
	values   []string
	objects  []object // after settle those that may mean something to Argo CD or Flux
	count    int      // of all objects
	refs     []closure.Reference
	problems []closure.Problem
	secrets  []closure.Secret
	texts    [][]textFile
	covers   []string // folders and files of the same tree that were rendered with it
	ran      bool     // objects is what came out, even if it is nothing
}

type object struct {
	value map[string]any
	place closure.Place
}

func (r *result) problem(p closure.Place, format string, args ...any) {
	r.problems = append(r.problems, closure.Problem{Reason: oneLine(fmt.Sprintf(format, args...)), Place: p})
}

// settle forgets the objects that nobody will ask for again. There may be thousands of renderings.
func (r *result) settle() *result {
	r.count = len(r.objects)
	r.objects = slices.DeleteFunc(r.objects, func(o object) bool {
		kind := o.value["kind"]
		return classify(o.value) != classCustom && kind != "ConfigMap" && kind != "Secret" && !asksGitOps(o.value)
	})
	r.objects = slices.Clip(slices.Clone(r.objects))
	return r
}

// oneLine makes the text of a library's error, which may quote hostile content, printable and short.
func oneLine(s string) string {
	s = strings.Join(strings.Fields(strings.ToValidUTF8(s, "?")), " ")
	s = strings.Map(func(r rune) rune {
		if r < 0x20 || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
	if len(s) > maxReason { // what was done stands in front, the cause at the end
		s = strings.ToValidUTF8(s[:maxReason/3], "") + " … " + strings.ToValidUTF8(s[len(s)-maxReason/3*2:], "")
	}
	return s
}

// objectName is an object as people name it: Deployment robots/robot-app.
func objectName(value map[string]any) string {
	kind, _ := value["kind"].(string)
	metadata, _ := value["metadata"].(map[string]any)
	name, _ := metadata["name"].(string)
	if name == "" {
		if name, _ = metadata["generateName"].(string); name != "" {
			name += "*"
		}
	}
	if namespace, _ := metadata["namespace"].(string); namespace != "" {
		name = namespace + "/" + name
	}
	return bounded(strings.TrimSpace(kind+" "+name), 512)
}

func bounded(s string, limit int) string {
	s = strings.ToValidUTF8(s, "?")
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "")
	}
	return s
}

// isObject reports what Kubernetes would take: a map with apiVersion and kind.
func isObject(value map[string]any) bool {
	apiVersion, _ := value["apiVersion"].(string)
	kind, _ := value["kind"].(string)
	return apiVersion != "" && kind != ""
}

// unlist gives the elements of a List in its place, with the way to each.
func unlist(value map[string]any) (found []located) {
	kind, _ := value["kind"].(string)
	items, ok := value["items"].([]any)
	if !ok || !strings.HasSuffix(kind, "List") {
		return []located{{value: value}}
	}
	for i, e := range items {
		item, ok := e.(map[string]any)
		if !ok {
			continue
		}
		if kind != "List" && !isObject(item) { // the elements of a PodList do not say again what they are
			own := make(map[string]any, len(item)+2)
			for k, v := range item {
				own[k] = v
			}
			own["kind"], own["apiVersion"] = strings.TrimSuffix(kind, "List"), value["apiVersion"]
			item = own
		}
		found = append(found, located{item, fieldPath{{key: "items"}, {index: i}}})
	}
	return found
}

// key makes one text of what a rendering depends on.
func key(parts ...any) string {
	data, err := json.Marshal(parts)
	if err != nil { // a value that JSON does not know: NaN out of YAML
		return fmt.Sprintf("%#v", parts)
	}
	return string(data)
}
