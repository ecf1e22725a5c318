package render

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
	kyaml "sigs.k8s.io/yaml"
)

// document is one of the YAML documents of a file.
type document struct {
	text []byte
	line int // of the file, from 1, where text starts
}

// splitDocuments cuts a file at its lines with ---, as YAML prescribes them: nothing else can start a line with ---.
func splitDocuments(data []byte) ([]document, error) {
	var docs []document
	start, startLine, line := 0, 1, 1
	cut := func(end int) {
		if text := data[start:end]; hasContent(text) {
			docs = append(docs, document{text, startLine})
		}
	}
	for at := 0; at < len(data); line++ {
		next := len(data)
		if i := bytes.IndexByte(data[at:], '\n'); i >= 0 {
			next = at + i + 1
		}
		if marker := data[at:next]; bytes.HasPrefix(marker, []byte("---")) && (len(marker) == 3 || strings.IndexByte(" \t\r\n", marker[3]) >= 0) {
			cut(at)
			// What stands behind the marker belongs to the document.
			start, startLine = at+3, line
		}
		at = next
		if len(docs) > maxDocuments {
			return nil, fmt.Errorf("more than %d documents", maxDocuments)
		}
	}
	cut(len(data))
	return docs, nil
}

// hasContent is false for white space and comments.
func hasContent(text []byte) bool {
	for len(text) > 0 {
		line, rest, _ := bytes.Cut(text, []byte("\n"))
		if line = bytes.TrimSpace(line); len(line) > 0 && line[0] != '#' {
			return true
		}
		text = rest
	}
	return false
}

// parse reads a document with the lines of its nodes. The root is what the document holds.
func (d document) parse() (*yaml.Node, error) {
	var root yaml.Node
	if err := yaml.Unmarshal(d.text, &root); err != nil {
		return nil, err
	}
	if len(root.Content) == 0 {
		return &yaml.Node{}, nil
	}
	if err := checkSize(root.Content[0]); err != nil {
		return nil, err
	}
	return root.Content[0], nil
}

// at gives the line of a node in the file.
func (d document) at(n *yaml.Node) int { return d.line + n.Line - 1 }

// value reads a document as Kubernetes does.
func (d document) value() (any, error) {
	if bytes.HasPrefix(bytes.TrimSpace(d.text), []byte("{")) { // JSON may be indented with tabs, YAML may not
		var v any
		if json.Unmarshal(d.text, &v) == nil {
			return v, nil
		}
	}
	if bytes.IndexByte(d.text, '&') >= 0 {
		if _, err := d.parse(); err != nil { // before anything follows the aliases
			return nil, err
		}
	}
	var v any
	if err := kyaml.Unmarshal(d.text, &v); err != nil {
		return nil, errors.New(strings.TrimPrefix(err.Error(), "error converting YAML to JSON: "))
	}
	return v, nil
}

var (
	errCircle = errors.New("an alias of YAML leads back to itself")
	errNodes  = fmt.Errorf("more than %d YAML nodes, its aliases followed", maxNodes)
	errNested = fmt.Errorf("nested deeper than %d", maxNesting)
)

// checkSize refuses documents that are small on the disk and without end in memory.
func checkSize(root *yaml.Node) error {
	sizes := make(map[*yaml.Node]int)
	var size func(n *yaml.Node, depth int) (int, error)
	size = func(n *yaml.Node, depth int) (int, error) {
		if depth > maxNesting {
			return 0, errNested
		}
		if n.Kind == yaml.ScalarNode {
			return 1, nil
		}
		if known, ok := sizes[n]; ok {
			if known < 0 {
				return 0, errCircle
			}
			return known, nil
		}
		sizes[n] = -1
		total := 1
		children := n.Content
		if n.Kind == yaml.AliasNode {
			children = []*yaml.Node{n.Alias}
		}
		for _, c := range children {
			s, err := size(c, depth+1)
			if err != nil {
				return 0, err
			}
			if total += s; total > maxNodes {
				return 0, errNodes
			}
		}
		sizes[n] = total
		return total, nil
	}
	_, err := size(root, 0)
	return err
}

// child gives what a mapping has under a key, or a sequence at an index, behind aliases and merges.
func child(n *yaml.Node, s step) *yaml.Node {
	n = target(n)
	if n == nil {
		return nil
	}
	if s.key == "" {
		if n.Kind == yaml.SequenceNode && s.index >= 0 && s.index < len(n.Content) {
			return n.Content[s.index]
		}
		return nil
	}
	if n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == s.key {
			return n.Content[i+1]
		}
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Tag == "!!merge" {
			merged := target(n.Content[i+1])
			if merged == nil {
				continue
			}
			if merged.Kind != yaml.SequenceNode {
				merged = &yaml.Node{Kind: yaml.SequenceNode, Content: []*yaml.Node{merged}}
			}
			for _, m := range merged.Content {
				if found := child(m, s); found != nil {
					return found
				}
			}
		}
	}
	return nil
}

func target(n *yaml.Node) *yaml.Node {
	for i := 0; n != nil && n.Kind == yaml.AliasNode; i++ {
		if i > maxNesting {
			return nil
		}
		n = n.Alias
	}
	return n
}

// text gives the string under a path of keys, or "".
func text(n *yaml.Node, keys ...string) string {
	for _, k := range keys {
		n = child(n, step{key: k})
	}
	if n = target(n); n == nil || n.Kind != yaml.ScalarNode {
		return ""
	}
	return n.Value
}

// lineOf gives the line of the value at a path, or of the deepest part of the path that is there.
func (d document) lineOf(root *yaml.Node, p fieldPath) int {
	at := root
	for _, s := range p {
		next := child(at, s)
		if next == nil {
			break
		}
		at = next
	}
	return d.at(at)
}
