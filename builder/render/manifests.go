package render

import (
	"bytes"
	"regexp"

	"go.yaml.in/yaml/v3"

	"github.com/plimsoll/plimsoll/builder/closure"
)

// manifestFile reads the objects of one file and finds what they need. The result has no engine of its own: files of one
// folder are one rendering.
func manifestFile(t *tree, name string, fields imageFields) *result {
	r := &result{engine: "manifests", covers: []string{name}, ran: true}
	here := closure.Place{File: name}
	data, err := t.ReadFile(name)
	if err != nil {
		r.problem(here, "%v", pathless(err))
		return r
	}
	r.texts = [][]textFile{{{file: name, data: data, keys: true}}}
	docs, err := splitDocuments(data)
	if err != nil {
		r.problem(here, "%v", err)
		return r
	}
	for _, d := range docs {
		value, err := d.value()
		if err != nil {
			if claimsObject(d.text) {
				here.Line = d.line + yamlErrorLine(err) - 1
				r.problem(here, "%v", err)
			}
			continue
		}
		m, _ := value.(map[string]any)
		if m == nil || !isObject(m) {
			continue
		}
		root, err := d.parse()
		if err != nil { // JSON with tabs
			root = nil
		}
		for _, item := range unlist(m) {
			if own := item.value.(map[string]any); isObject(own) {
				r.manifest(d, root, located{own, item.path}, here, fields)
			}
		}
	}
	return r
}

func (r *result) manifest(d document, root *yaml.Node, item located, place closure.Place, fields imageFields) {
	value := item.value.(map[string]any)
	line := func(p fieldPath) int {
		if root == nil {
			return d.line
		}
		return d.lineOf(root, append(item.path[:len(item.path):len(item.path)], p...))
	}
	place.Object, place.Line = objectName(value), line(nil)
	r.objects = append(r.objects, object{value, place})
	found := collect(value, fields)
	for _, n := range found.images {
		place.Field, place.Line = n.field.String(), line(n.at)
		r.refs = append(r.refs, closure.Reference{Kind: closure.KindImage, Ref: n.ref, Place: place})
	}
	for _, n := range found.invalid {
		place.Field, place.Line = n.field.String(), line(n.at)
		r.problem(place, "%.200q is not an image reference", n.ref)
	}
	for _, s := range literalSecrets(value, func(string) bool { return true }) {
		field := s.Place.Field
		s.Place = place
		s.Place.Field, s.Place.Line = field, line(nil)
		r.secrets = append(r.secrets, s)
	}
}

var (
	claimsVersion = regexp.MustCompile(`(?m)^(?:apiVersion|\s*"apiVersion")\s*:`)
	claimsKind    = regexp.MustCompile(`(?m)^(?:kind|\s*"kind")\s*:`)
)

// claimsObject reports a document that cannot be read and was meant to be an object.
func claimsObject(text []byte) bool {
	text = bytes.TrimLeft(text, "{ \t\r\n")
	return claimsVersion.Match(text) && claimsKind.Match(text)
}

var yamlLine = regexp.MustCompile(`line (\d+)`)

// yamlErrorLine gives the line that an error of a YAML parser names, from 1.
func yamlErrorLine(err error) int {
	m := yamlLine.FindStringSubmatch(err.Error())
	if m == nil {
		return 1
	}
	line := 0
	for _, digit := range m[1] {
		if line = line*10 + int(digit-'0'); line > maxFile {
			return 1
		}
	}
	return max(line, 1)
}
