package render

import (
	"path"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"sigs.k8s.io/kustomize/api/konfig"
)

// kustomization is one kustomization.yaml.
type kustomization struct {
	dir, file string
	doc       document
	root      *yaml.Node
	value     map[string]any
	err       error // why it cannot be read
}

// readKustomization reads the one in a folder; nil when there is none.
func readKustomization(t *tree, dir string) *kustomization {
	for _, name := range konfig.RecognizedKustomizationFileNames() {
		file := path.Join(dir, name)
		if !t.isFile(file) {
			continue
		}
		data, err := t.ReadFile(file)
		k := parseKustomization(dir, file, data)
		if err != nil {
			k.err = pathless(err)
		}
		return k
	}
	return nil
}

func parseKustomization(dir, file string, data []byte) *kustomization {
	k := &kustomization{dir: dir, file: file, doc: document{line: 1}, root: &yaml.Node{}}
	docs, err := splitDocuments(data)
	if err == nil && len(docs) > 0 {
		k.doc = docs[0]
		if k.root, err = k.doc.parse(); err != nil {
			k.root = &yaml.Node{}
		}
	}
	var value any
	if err == nil && len(docs) > 0 {
		value, err = k.doc.value()
	}
	k.value, _ = value.(map[string]any)
	k.err = err
	return k
}

// foreign reports a file of that name which is an object of another tool: Flux has a kind Kustomization too.
func (k *kustomization) foreign() bool {
	apiVersion, _ := k.value["apiVersion"].(string)
	return apiVersion != "" && !strings.HasPrefix(apiVersion, "kustomize.config.k8s.io/")
}

func (k *kustomization) component() bool { return k.value["kind"] == "Component" }

// Lists of a kustomization that name files, or folders, or hold text.
var (
	folderLists = []string{"resources", "bases", "components", "generators", "transformers", "validators", "configurations"}
	fileLists   = []string{"crds", "patchesStrategicMerge"}
	pathLists   = []string{"patches", "patchesJson6902", "replacements"}
)

// entry is a value that names a file or folder.
type entry struct {
	text  string
	field fieldPath
}

func (k *kustomization) list(field string) (found []entry) {
	list, _ := k.value[field].([]any)
	for i, e := range list {
		if s, ok := e.(string); ok && !strings.Contains(s, "\n") {
			found = append(found, entry{s, fieldPath{{key: field}, {index: i}}})
		}
	}
	return found
}

// entries gives everything that names a file, a folder or a URL.
func (k *kustomization) entries() []entry {
	var found []entry
	for _, field := range slices.Concat(folderLists, fileLists) {
		found = append(found, k.list(field)...)
	}
	add := func(value any, at fieldPath) {
		if s, ok := value.(string); ok && s != "" && !strings.Contains(s, "\n") {
			found = append(found, entry{s, at})
		}
	}
	for _, field := range pathLists {
		list, _ := k.value[field].([]any)
		for i, e := range list {
			m, _ := e.(map[string]any)
			add(m["path"], fieldPath{{key: field}, {index: i}, {key: "path"}})
		}
	}
	for _, field := range []string{"configMapGenerator", "secretGenerator"} {
		list, _ := k.value[field].([]any)
		for i, e := range list {
			m, _ := e.(map[string]any)
			at := fieldPath{{key: field}, {index: i}}
			add(m["env"], at.key("env"))
			for _, sub := range []string{"files", "envs"} {
				files, _ := m[sub].([]any)
				for j, f := range files {
					s, _ := f.(string)
					if _, file, ok := strings.Cut(s, "="); ok && sub == "files" {
						s = file
					}
					add(s, at.key(sub).item(j))
				}
			}
		}
	}
	openapi, _ := k.value["openapi"].(map[string]any)
	add(openapi["path"], fieldPath{{key: "openapi"}, {key: "path"}})
	for i, c := range k.helmCharts() {
		for _, f := range c.files() {
			add(f, fieldPath{{key: "helmCharts"}, {index: i}})
		}
	}
	return found
}

// local gives the names of files and folders in the same tree.
func (k *kustomization) local() []string {
	var names []string
	for _, e := range k.entries() {
		if !isRemote(e.text) && !path.IsAbs(e.text) {
			names = append(names, e.text)
		}
	}
	return names
}

// line of a field in the file.
func (k *kustomization) line(at fieldPath) int { return k.doc.lineOf(k.root, at) }

// images are the entries of images: what name becomes.
type kustomImage struct {
	name, newName, newTag, digest string
	line                          int
}

func (k *kustomization) images() []kustomImage {
	var found []kustomImage
	for _, field := range []string{"images", "imageTags"} {
		list, _ := k.value[field].([]any)
		for i, e := range list {
			m, _ := e.(map[string]any)
			at := fieldPath{{key: field}, {index: i}}
			img := kustomImage{scalarText(m["name"]), scalarText(m["newName"]), scalarText(m["newTag"]), scalarText(m["digest"]), 0}
			switch {
			case img.digest != "":
				at = at.key("digest")
			case img.newTag != "":
				at = at.key("newTag")
			default:
				at = at.key("newName")
			}
			img.line = k.line(at)
			found = append(found, img)
		}
	}
	return found
}

// makes reports whether the entry gives the image its name, tag or digest.
func (i kustomImage) makes(image imageRef) bool {
	name := i.newName
	if name == "" {
		name = i.name
	}
	if name != image.repository {
		return false
	}
	return i.digest != "" && i.digest == image.digest || i.digest == "" && i.newTag != "" && i.newTag == image.tag ||
		i.digest == "" && i.newTag == "" && i.newName != ""
}
