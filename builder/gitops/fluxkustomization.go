package gitops

import (
	"encoding/base64"
	"fmt"
	"path"
	"regexp"
	"strings"

	"sigs.k8s.io/yaml"
)

func (x *expander) fluxKustomization(s *source) {
	spec := s.node("spec")
	ref := spec.child("sourceRef")
	namespace := s.namespace
	if ns := ref.str("namespace"); ns != "" {
		namespace = ns
	}
	for _, from := range s.sources(ref, namespace, "GitRepository", "OCIRepository") {
		if from.kind == "OCIRepository" {
			s.problem(ref.path, "%s: the manifests in an OCI artifact are not rendered, only charts", ref.path)
			continue
		}
		t := Task{PlainKustomize: true}
		if t.URL, t.Revision = gitSource(from); t.URL == "" {
			continue // reported with the GitRepository
		}
		t.Path, _ = inside("", path.Clean("/"+spec.str("path"))) // Flux keeps inside what climbs out
		t.Kustomize = s.fluxKustomize(spec, t)
		t.Substitute = s.substitute(spec.child("postBuild"))
		s.task(t)
	}
}

// fluxKustomize gives what a Kustomization adds to the kustomization.yaml.
func (s *source) fluxKustomize(spec node, t Task) *Kustomize {
	fields := make(map[string]any)
	for key, as := range map[string]string{"targetNamespace": "namespace", "namePrefix": "namePrefix", "nameSuffix": "nameSuffix"} {
		if v := spec.str(key); v != "" {
			fields[as] = v
		}
	}
	fluxPatches(spec, fields)
	setList(fields, "components", s.components(spec, t))
	common := spec.child("commonMetadata")
	if labels := anyMap(common.stringMap("labels")); len(labels) > 0 {
		fields["labels"] = []any{map[string]any{"pairs": labels, "includeSelectors": false}}
	}
	if annotations := anyMap(common.stringMap("annotations")); len(annotations) > 0 {
		fields["commonAnnotations"] = annotations
	}
	if len(fields) == 0 {
		return nil
	}
	return &Kustomize{Fields: fields}
}

// fluxPatches adds the patches and images of a Kustomization or a post-renderer to fields.
func fluxPatches(n node, fields map[string]any) {
	add := func(key string, list []any) {
		have, _ := fields[key].([]any)
		setList(fields, key, append(have, list...))
	}
	add("patches", patchList(n))
	var merges, json6902, images []any
	for i, p := range n.list("patchesStrategicMerge") {
		if _, ok := p.(map[string]any); !ok {
			n.wrong(fmt.Sprintf("patchesStrategicMerge[%d]", i), p, "map")
			continue
		}
		inline, err := yaml.Marshal(p)
		if err == nil {
			merges = append(merges, string(inline))
		}
	}
	add("patchesStrategicMerge", merges)
	for _, p := range n.children("patchesJson6902") {
		json6902 = append(json6902, map[string]any{"patch": text(p.list("patch")), "target": stringsOf(p.child("target"))})
	}
	add("patchesJson6902", json6902)
	for _, i := range n.children("images") {
		image := make(map[string]any)
		for _, key := range []string{"name", "newName", "newTag", "digest"} {
			if v := i.str(key); v != "" {
				image[key] = v
			}
		}
		if _, both := image["digest"]; both {
			delete(image, "newTag") // Flux lets the digest win
		}
		images = append(images, image)
	}
	add("images", images)
}

var variableName = regexp.MustCompile(`^[_[:alpha:]][_[:alpha:][:digit:]]*$`)

// substitute gives the variables of a Kustomization: those of ConfigMaps and Secrets, in their order, then its own.
func (s *source) substitute(post node) map[string]string {
	vars := make(map[string]string)
	for _, from := range post.children("substituteFrom") {
		kind, name := from.str("kind"), from.str("name")
		data, err := s.data(kind, name)
		if err != nil {
			if !from.boolean("optional") || !isMissing(err) {
				s.problem(from.path, "%s: %v", from.path, err)
			}
			continue
		}
		for k, v := range data {
			vars[k] = v
		}
	}
	for k, v := range post.stringMap("substitute") {
		vars[k] = v
	}
	for k, v := range sorted(vars) {
		vars[k] = strings.ReplaceAll(v, "\n", "")
		if !variableName.MatchString(k) {
			s.problem(post.path, "%s: variable %q, want letters, digits and _", post.path, k)
			delete(vars, k)
		}
	}
	if len(vars) == 0 && post.str("substituteStrategy") != "Always" {
		return nil
	}
	return vars
}

// missingError says that an object which Flux reads is not among the manifests.
type missingError string

func (e missingError) Error() string { return string(e) }

func isMissing(err error) bool { _, ok := err.(missingError); return ok }

// data gives the content of the ConfigMap or Secret of a name in the namespace of s.
func (s *source) data(kind, name string) (map[string]string, error) {
	if kind != "ConfigMap" && kind != "Secret" {
		return nil, fmt.Errorf("kind %q, want ConfigMap or Secret", kind)
	}
	title := describe(kind, s.namespace, name)
	found := s.find(kind, s.namespace, name)
	switch {
	case len(found) == 0:
		return nil, missingError(title + " is not among the manifests")
	case len(found) > 1:
		return nil, fmt.Errorf("%d different ones are %s: which one the site has is not known", len(found), title)
	}
	object := node{found[0].value, "", &s.scope}
	if object.has("sops") {
		return nil, fmt.Errorf("%s is encrypted: what it holds is only known at the site", title)
	}
	out := object.stringMap("data")
	if out == nil {
		out = make(map[string]string)
	}
	if kind == "ConfigMap" {
		return out, nil
	}
	for k, v := range sorted(out) {
		plain, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(v), ""))
		if err != nil {
			return nil, fmt.Errorf("%s: data.%s is not base64", title, k)
		}
		out[k] = string(plain)
	}
	for k, v := range object.stringMap("stringData") {
		out[k] = v
	}
	return out, nil
}
