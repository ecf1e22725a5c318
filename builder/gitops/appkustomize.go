package gitops

import (
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"strconv"
	"strings"
)

// kustomize reads the kustomize options of a source into the fields of a kustomization.yaml.
func (a *appSource) kustomize(n node, t Task) *Kustomize {
	fields := make(map[string]any)
	for _, key := range []string{"namePrefix", "nameSuffix", "namespace"} {
		if v := n.str(key); v != "" {
			fields[key] = v
		}
	}
	a.labels(n, fields)
	var images []any
	for i, written := range n.strings("images") {
		field := fmt.Sprintf("%s[%d]", n.field("images"), i)
		image, err := imageOverride(a.env(field, written))
		if err != nil {
			a.s.problem(field, "%s: %v", field, err)
			continue
		}
		images = append(images, image)
	}
	setList(fields, "images", images)
	var replicas []any
	for _, r := range n.children("replicas") {
		count, ok := r.m["count"].(float64)
		if text, isText := r.m["count"].(string); isText {
			parsed, err := strconv.Atoi(text)
			count, ok = float64(parsed), err == nil
		}
		if !ok || count != float64(int64(count)) {
			a.s.problem(r.field("count"), "%s: want a whole number", r.field("count"))
			continue
		}
		replicas = append(replicas, map[string]any{"name": r.str("name"), "count": int64(count)})
	}
	setList(fields, "replicas", replicas)
	setList(fields, "patches", patchList(n))
	setList(fields, "components", a.s.components(n, t))
	if len(fields) == 0 {
		return nil
	}
	return &Kustomize{Fields: fields}
}

func setList(fields map[string]any, key string, list []any) {
	if len(list) > 0 {
		fields[key] = list
	}
}

func (a *appSource) labels(n node, fields map[string]any) {
	labels := make(map[string]any)
	for k, v := range n.stringMap("commonLabels") {
		labels[k] = a.env(n.field("commonLabels"), v)
	}
	switch {
	case len(labels) == 0:
	case n.boolean("labelWithoutSelector"):
		entry := map[string]any{"pairs": labels, "includeSelectors": false}
		if n.boolean("labelIncludeTemplates") {
			entry["includeTemplates"] = true
		}
		fields["labels"] = []any{entry}
	default:
		fields["commonLabels"] = labels
	}
	annotations := make(map[string]any)
	for k, v := range n.stringMap("commonAnnotations") {
		if n.boolean("commonAnnotationsEnvsubst") {
			v = a.env(n.field("commonAnnotations"), v)
		}
		annotations[k] = v
	}
	if len(annotations) > 0 {
		fields["commonAnnotations"] = annotations
	}
}

// patchList gives the patches of Argo CD or Flux, which have the form of those in a kustomization.yaml.
func patchList(n node) []any {
	var out []any
	for _, p := range n.children("patches") {
		entry := make(map[string]any)
		for _, key := range []string{"path", "patch"} {
			if v := p.str(key); v != "" {
				entry[key] = v
			}
		}
		if target := stringsOf(p.child("target")); len(target) > 0 {
			entry["target"] = target
		}
		options := make(map[string]any)
		for k := range sorted(p.child("options").m) {
			if p.child("options").boolean(k) {
				options[k] = true
			}
		}
		if len(options) > 0 {
			entry["options"] = options
		}
		out = append(out, entry)
	}
	return out
}

// stringsOf gives the selector of a patch.
func stringsOf(n node) map[string]any {
	out := make(map[string]any)
	for _, k := range []string{"group", "version", "kind", "name", "namespace", "labelSelector", "annotationSelector"} {
		if v := n.str(k); v != "" {
			out[k] = v
		}
	}
	return out
}

// components gives the components of a kustomization. Those that may be missing are looked for.
func (s *scope) components(n node, t Task) []any {
	var out []any
	missing := n.boolean("ignoreMissingComponents")
	for _, c := range n.strings("components") {
		if missing && !s.exists(t, c) {
			continue
		}
		out = append(out, c)
	}
	return out
}

func (s *scope) exists(t Task, component string) bool {
	tree, err := s.x.tree(t.URL, t.Revision)
	if err != nil {
		return true // it cannot be known: the reference to the repository is reported
	}
	p := path.Join(t.Path, component)
	if !fs.ValidPath(p) {
		return false
	}
	_, err = fs.Stat(tree.FS, p)
	return err == nil
}

var imageDigest = regexp.MustCompile(`^(.*)@(sha(?:256|512):[0-9a-fA-F]+)$`)

// imageOverride reads what "kustomize edit set image" takes: name=newName:tag@digest, of which all but the name may be
// left out. A * stands for what is there already.
func imageOverride(written string) (map[string]any, error) {
	name, rest, renamed := strings.Cut(written, "=")
	if !renamed {
		rest = written
	}
	newName, tag, digest := rest, "", ""
	if m := imageDigest.FindStringSubmatch(rest); m != nil {
		newName, digest = m[1], m[2]
	}
	if colon := strings.LastIndexByte(newName, ':'); colon > strings.LastIndexByte(newName, '/') {
		newName, tag = newName[:colon], newName[colon+1:]
	}
	out := make(map[string]any)
	add := func(key, value string) {
		if value != "" && value != "*" {
			out[key] = value
		}
	}
	if renamed {
		add("newName", newName)
	} else {
		name = newName
	}
	add("newTag", tag)
	add("digest", digest)
	if name == "" || len(out) == 0 {
		return nil, fmt.Errorf("%q, want name=newName:tag@digest with at least a name and what is new", written)
	}
	out["name"] = name
	return out, nil
}
