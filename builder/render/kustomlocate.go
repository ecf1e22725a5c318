package render

import (
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/plimsoll/plimsoll/builder/closure"
)

// kustomLocator finds the lines that the images of a build stand at.
type kustomLocator struct {
	k    *kustomizer
	docs []locatedDoc // of all files that were read
}

// locatedDoc is one document of a file that was read.
type locatedDoc struct {
	file       readFile
	kind, name string
	line       int
	source     *source
}

func newKustomLocator(k *kustomizer) *kustomLocator {
	l := &kustomLocator{k: k}
	for _, read := range k.files.reads {
		if _, made := k.files.made[read.mount.path(read.name)]; made {
			var err error
			if read.data, err = read.mount.tree.ReadFile(read.name); err != nil {
				continue
			}
		}
		k.r.texts = append(k.r.texts, []textFile{{read.mount.item, read.mount.revision, read.name, read.data, isYAML(read.name)}})
		if !isYAML(read.name) {
			l.docs = append(l.docs, locatedDoc{file: read})
			continue
		}
		docs, err := splitDocuments(read.data)
		if err != nil {
			continue
		}
		for _, d := range docs {
			root, err := d.parse()
			if err != nil {
				continue
			}
			s := &source{byPath: make(map[string]int)}
			s.node(d, root, "", "", 0)
			name := fillText(text(root, "metadata", "name"), k.vars)
			l.docs = append(l.docs, locatedDoc{read, text(root, "kind"), name, d.at(firstLine(root)), s})
		}
	}
	return l
}

func firstLine(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.MappingNode && len(n.Content) > 0 {
		return n.Content[0]
	}
	return n
}

func (d locatedDoc) place(line int) closure.Place {
	return closure.Place{Item: d.file.mount.item, Revision: d.file.mount.revision, File: d.file.name, Line: line}
}

// is reports the document that an object came from. Prefixes and suffixes may have been added to its name.
func (d locatedDoc) is(value map[string]any) bool {
	metadata, _ := value["metadata"].(map[string]any)
	name, _ := metadata["name"].(string)
	return d.kind != "" && d.kind == value["kind"] && d.name != "" && strings.Contains(name, d.name)
}

// object finds the document of an object; what a generator or a chart made is where the kustomization is.
func (l *kustomLocator) object(value map[string]any) closure.Place {
	place := closure.Place{File: l.k.all[0].file}
	for _, d := range l.docs {
		if d.is(value) {
			place = d.place(d.line)
			break
		}
	}
	place.Object = objectName(value)
	return place
}

// image finds where an image was chosen: by whoever asked for the build, in images of a kustomization, as text in the
// manifest of the object, else in a patch or any other file; or in a chart.
func (l *kustomLocator) image(n need, value map[string]any, object closure.Place) closure.Place {
	place := l.find(n, value)
	if place.File == "" {
		place = closure.Place{Item: object.Item, Revision: object.Revision, File: object.File, Line: object.Line}
	}
	place.Object, place.Field = object.Object, n.field.String()
	return place
}

func (l *kustomLocator) find(n need, value map[string]any) closure.Place {
	image, ok := parseImage(n.ref)
	if !ok {
		return closure.Place{}
	}
	if l.k.extra != nil {
		asked := (&kustomization{value: l.k.extra, root: &yaml.Node{}, doc: document{line: 1}}).images()
		if slices.ContainsFunc(asked, func(i kustomImage) bool { return i.makes(image) }) {
			return l.k.asker
		}
	}
	for _, z := range l.k.all {
		for _, i := range z.images() {
			if i.makes(image) {
				return closure.Place{Item: z.mount.item, Revision: z.mount.revision, File: z.file, Line: i.line}
			}
		}
	}
	if p, ok := l.k.charts[n.ref]; ok {
		p.Values = nil
		return p
	}
	for _, own := range []bool{true, false} {
		for _, d := range l.docs {
			if d.source == nil || d.is(value) != own {
				continue
			}
			for _, sc := range d.source.scalars {
				if sc.value == n.ref {
					return d.place(sc.line)
				}
			}
		}
	}
	if l.k.extra != nil && lineWith([]byte(key(l.k.extra)), n.ref) > 0 {
		return l.k.asker
	}
	return l.byText(n.ref, image)
}

// byText finds the image inside other text, an inline patch for example, or a part of it.
func (l *kustomLocator) byText(ref string, image imageRef) closure.Place {
	for _, text := range []string{ref, image.repository} {
		for _, d := range l.docs {
			if line := lineWith(d.file.data, text); line > 0 {
				return d.place(line)
			}
		}
	}
	return closure.Place{}
}
