package render

import (
	"cmp"
	"maps"
	"path"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// scalar is one value of a YAML file.
type scalar struct {
	parent string // the path of the map or list that it is in, with a dot at the end
	key    string
	value  string
	line   int
}

// source is a file or a part of an object in which values stand.
type source struct {
	item, revision string // of the repository or chart; empty: those of the rendering
	file           string
	scalars        []scalar
	byPath         map[string]int // parent+key → index
}

// newSource reads the scalars of the first document of a values file. prefix is what they are below when they are the
// defaults of a chart in a chart.
func newSource(file string, data []byte, prefix string) *source {
	s := &source{file: file, byPath: make(map[string]int)}
	docs, err := splitDocuments(data)
	if err != nil || len(docs) == 0 {
		return s
	}
	root, err := docs[0].parse()
	if err != nil {
		return s
	}
	s.node(docs[0], root, prefix, "", 0)
	return s
}

func (s *source) node(d document, n *yaml.Node, parent, key string, depth int) {
	line := d.at(n)
	n = target(n)
	if n == nil || depth > maxNesting || len(s.scalars) > maxNodes {
		return
	}
	below := parent
	if key != "" {
		below = parent + key + "."
	}
	switch n.Kind {
	case yaml.ScalarNode:
		if n.Tag != "!!null" {
			s.put(scalar{parent, key, n.Value, line})
		}
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Tag == "!!merge" {
				s.node(d, n.Content[i+1], parent, key, depth+1)
				continue
			}
			s.node(d, n.Content[i+1], below, n.Content[i].Value, depth+1)
		}
	case yaml.SequenceNode:
		for i, e := range n.Content {
			s.node(d, e, below, fieldPath{{index: i}}.String(), depth+1)
		}
	}
}

func (s *source) put(sc scalar) {
	if _, ok := s.byPath[sc.parent+sc.key]; !ok {
		s.byPath[sc.parent+sc.key] = len(s.scalars)
		s.scalars = append(s.scalars, sc)
	}
}

// putValue adds values that stand in no file of their own: those inside an Application.
func (s *source) putValue(value any, parent, key string, line int) {
	below := parent
	if key != "" {
		below = parent + key + "."
	}
	switch v := value.(type) {
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			s.putValue(v[k], below, k, line)
		}
	case []any:
		for i, e := range v {
			s.putValue(e, below, fieldPath{{index: i}}.String(), line)
		}
	default:
		if t := scalarText(v); t != "" {
			s.put(scalar{parent, key, t, line})
		}
	}
}

// stack is what values of a rendering come from, the weakest first.
type stack []*source

// effective gives the value at a path that wins, and whose it is.
func (st stack) effective(at string) (scalar, int) {
	for i := len(st) - 1; i >= 0; i-- {
		if j, ok := st[i].byPath[at]; ok {
			return st[i].scalars[j], i
		}
	}
	return scalar{}, -1
}

// below gives of all sources what a chart in the chart sees: its own values, and the global ones.
func (st stack) below(prefix string) stack {
	out := make(stack, 0, len(st))
	for _, s := range st {
		part := &source{item: s.item, revision: s.revision, file: s.file, byPath: make(map[string]int)}
		for _, sc := range s.scalars {
			if at := sc.parent + sc.key; strings.HasPrefix(at, prefix) || strings.HasPrefix(at, "global.") {
				part.put(sc)
			}
		}
		out = append(out, part)
	}
	return out
}

// spot is a line of a source.
type spot struct {
	source *source
	line   int
}

// locate finds where an image of the rendering was chosen: the strongest source that sets its text, its repository, its
// tag or its digest.
func (st stack) locate(ref string) (spot, bool) {
	for i := len(st) - 1; i >= 0; i-- {
		for _, sc := range st[i].scalars {
			if sc.value == ref || strings.HasSuffix(ref, "/"+sc.value) && strings.ContainsAny(sc.value, ":@") {
				if _, winner := st.effective(sc.parent + sc.key); winner == i {
					return spot{st[i], sc.line}, true
				}
			}
		}
	}
	image, ok := parseImage(ref)
	if !ok {
		return spot{}, false
	}
	if found, ok := st.locateParts(image); ok {
		return found, true
	}
	return st.locateVersion(image)
}

// locateParts finds the map whose repository and tag make the image.
func (st stack) locateParts(image imageRef) (spot, bool) {
	best, bestScore, bestAt := spot{}, 0, ""
	for i := range st {
		for _, sc := range st[i].scalars {
			if !namesRepository(sc, image.repository) {
				continue
			}
			if _, winner := st.effective(sc.parent + sc.key); winner != i {
				continue
			}
			found, score := spot{st[i], sc.line}, 1+len(sc.value)
			strongest := i
			for _, other := range st.siblings(sc.parent) {
				value, winner := st.effective(other)
				if isVersionOf(value, image) {
					score += 1000
					if winner > strongest {
						found, strongest = spot{st[winner], value.line}, winner
					}
				}
			}
			if at := sc.parent + sc.key; score > bestScore || score == bestScore && at < bestAt {
				best, bestScore, bestAt = found, score, at
			}
		}
	}
	return best, bestScore > 0
}

// siblings gives the paths of all scalars that any source has in a map.
func (st stack) siblings(parent string) []string {
	var paths []string
	for _, s := range st {
		for _, key := range []string{"tag", "imageTag", "version", "digest", "sha", "imageDigest"} {
			if _, ok := s.byPath[parent+key]; ok && !slices.Contains(paths, parent+key) {
				paths = append(paths, parent+key)
			}
		}
	}
	return paths
}

func isVersionOf(sc scalar, image imageRef) bool {
	return sc.value != "" && (sc.value == image.tag || sc.value == image.digest || sc.value == strings.TrimPrefix(image.digest, "sha256:"))
}

// namesRepository reports a value that the repository is, or that it ends with behind a registry.
func namesRepository(sc scalar, repository string) bool {
	if sc.value == "" || sc.value != repository && !strings.HasSuffix(repository, "/"+sc.value) {
		return false
	}
	key := strings.ToLower(sc.key)
	return strings.Contains(sc.value, "/") || strings.Contains(key, "repo") || strings.Contains(key, "image") || key == "name"
}

// locateVersion finds the tag or digest of an image whose repository is no value but stands in the template.
func (st stack) locateVersion(image imageRef) (spot, bool) {
	type candidate struct {
		scalar
		source int
		like   bool // the path sounds like the image
	}
	name := flatten(path.Base(image.repository))
	var found []candidate
	for i := range st {
		for _, sc := range st[i].scalars {
			key := strings.ToLower(sc.key)
			if !isVersionOf(sc, image) || !strings.HasSuffix(key, "tag") && !strings.HasSuffix(key, "version") && !strings.HasSuffix(key, "digest") && !strings.HasSuffix(key, "sha") {
				continue
			}
			if _, winner := st.effective(sc.parent + sc.key); winner == i {
				found = append(found, candidate{sc, i, strings.Contains(flatten(sc.parent+sc.key), name)})
			}
		}
	}
	if len(found) == 0 {
		return spot{}, false
	}
	best := slices.MaxFunc(found, func(a, b candidate) int {
		if a.like != b.like {
			if a.like {
				return 1
			}
			return -1
		}
		return cmp.Or(cmp.Compare(a.source, b.source), cmp.Compare(b.line, a.line), cmp.Compare(b.parent+b.key, a.parent+a.key))
	})
	return spot{st[best.source], best.line}, true
}

// flatten makes robot-app, robotApp and robot_app the same.
func flatten(s string) string {
	return strings.ToLower(strings.NewReplacer("-", "", "_", "", ".", "").Replace(s))
}

// lineWith gives the first line, from 1, that has a text as a word of its own; 0 when none has.
func lineWith(data []byte, text string) int {
	if text == "" {
		return 0
	}
	line := 1
	for rest := string(data); ; {
		i := strings.Index(rest, text)
		if i < 0 {
			return 0
		}
		line += strings.Count(rest[:i], "\n")
		end := i + len(text)
		if (i == 0 || !refByte(rest[i-1])) && (end == len(rest) || !refByte(rest[end]) || rest[end] == ':' || rest[end] == '@') {
			return line
		}
		line += strings.Count(rest[i:end], "\n")
		rest = rest[end:]
	}
}

// refByte reports what goes on with the same reference.
func refByte(c byte) bool {
	return c == '/' || c == '-' || c == '_' || c == '.' || c == ':' || c == '@' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}
