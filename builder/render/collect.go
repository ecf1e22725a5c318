package render

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// need is one image that an object names.
type need struct {
	ref   string
	field fieldPath // as people write it
	at    fieldPath // where the text of it stands
}

// needs is what one object needs.
type needs struct {
	images  []need
	invalid []need // of a pod, or of a field that the user named: no reference
	seen    map[string]bool
}

// collect finds the images that an object names. Precision counts: what is found here stops a release.
func collect(object map[string]any, fields imageFields) needs {
	n := needs{seen: make(map[string]bool)}
	kind, _ := object["kind"].(string)
	for _, at := range fields.find(kind, object) {
		n.named(at.value, at.path)
	}
	switch classify(object) {
	case classWorkload:
		n.pods(object, nil, true)
	case classCustom:
		for _, key := range slices.Sorted(maps.Keys(object)) {
			switch key {
			case "apiVersion", "kind", "metadata", "status":
			default:
				n.custom(object[key], fieldPath{{key: key}})
			}
		}
	}
	return n
}

type class int

const (
	classNone class = iota
	classWorkload
	classCustom
)

// workloads are the kinds of Kubernetes that run pods.
var workloads = map[string]bool{
	"Pod": true, "PodTemplate": true, "Deployment": true, "StatefulSet": true, "DaemonSet": true, "ReplicaSet": true,
	"ReplicationController": true, "Job": true, "CronJob": true,
}

// notRun are kinds of custom resources and files of tools that name images which no node pulls because of them: what
// Argo CD and Flux make of theirs is found where it is rendered.
var notRun = map[string][]string{
	"argoproj.io":             {"Application", "ApplicationSet", "AppProject"},
	"apps":                    nil,
	"autoscaling":             nil,
	"batch":                   nil,
	"extensions":              nil,
	"policy":                  nil,
	"kind.x-k8s.io":           nil,
	"k3d.io":                  nil,
	"ctlptl.dev":              nil,
	"tilt.dev":                nil,
	"skaffold":                nil,
	"backstage.io":            nil,
	"plimsoll.dev":            nil,
	"builtin":                 nil,
	"kyverno.io":              nil,
	"policies.kyverno.io":     nil,
	"policy.sigstore.dev":     nil,
	"templates.gatekeeper.sh": nil,
}

// classify says how an object is searched.
func classify(object map[string]any) class {
	kind, _ := object["kind"].(string)
	apiVersion, _ := object["apiVersion"].(string)
	group, _, grouped := strings.Cut(apiVersion, "/")
	if !grouped {
		group = ""
	}
	switch {
	case workloads[kind] && (group == "" || group == "apps" || group == "batch" || group == "extensions"):
		return classWorkload
	case group == "", strings.HasSuffix(group, ".k8s.io") && !ownedByUsers(group), strings.HasSuffix(group, ".fluxcd.io"):
		return classNone
	}
	kinds, known := notRun[group]
	if known && (kinds == nil || slices.Contains(kinds, kind)) || strings.HasSuffix(group, ".gatekeeper.sh") {
		return classNone
	}
	return classCustom
}

// ownedByUsers are groups below k8s.io whose objects are custom resources that run something.
func ownedByUsers(group string) bool {
	return strings.HasSuffix(group, ".x-k8s.io") && group != "kind.x-k8s.io" || group == "addons.k8s.io"
}

// pods searches for everything that looks like the specification of a pod.
func (n *needs) pods(value any, at fieldPath, strict bool) {
	if len(at) > maxNesting {
		return
	}
	switch v := value.(type) {
	case map[string]any:
		if _, ok := v["containers"].([]any); ok {
			n.podSpec(v, at, strict)
		}
		for _, key := range slices.Sorted(maps.Keys(v)) {
			n.pods(v[key], at.key(key), strict)
		}
	case []any:
		for i, e := range v {
			n.pods(e, at.item(i), strict)
		}
	}
}

// podSpec reads a map with a list of containers. strict says that each must name an image that exists.
func (n *needs) podSpec(spec map[string]any, at fieldPath, strict bool) {
	for _, list := range []string{"containers", "initContainers", "ephemeralContainers"} {
		containers, _ := spec[list].([]any)
		for i, c := range containers {
			container, _ := c.(map[string]any)
			path := at.key(list).item(i)
			if image, ok := container["image"].(string); ok {
				n.add(image, path.key("image"), strict)
			}
			n.env(container["env"], path.key("env"))
		}
	}
	volumes, _ := spec["volumes"].([]any)
	for i, volume := range volumes {
		v, _ := volume.(map[string]any)
		image, _ := v["image"].(map[string]any)
		if ref, ok := image["reference"].(string); ok {
			n.add(ref, at.key("volumes").item(i).key("image").key("reference"), strict)
		}
	}
}

// env finds the variables by which operators are told what to run.
func (n *needs) env(list any, at fieldPath) {
	vars, _ := list.([]any)
	for i, e := range vars {
		v, _ := e.(map[string]any)
		name, _ := v["name"].(string)
		value, _ := v["value"].(string)
		if !strings.HasSuffix(name, "_IMAGE") && !strings.HasPrefix(name, "RELATED_IMAGE_") {
			continue
		}
		if _, ok := parseFullImage(value); ok {
			n.add(value, at.item(i).key("value"), false)
		}
	}
}

// add takes a reference whose place says that it is one.
func (n *needs) add(ref string, at fieldPath, strict bool) {
	ref = strings.TrimSpace(ref)
	if ref == "" || isPlaceholder(ref) {
		return
	}
	if _, ok := parseImage(ref); !ok {
		if strict && !n.done(at) {
			n.invalid = append(n.invalid, need{ref, at, at})
		}
		return
	}
	n.found(ref, at, at)
}

func (n *needs) found(ref string, field, at fieldPath) {
	if !n.done(field) {
		n.images = append(n.images, need{ref, field, at})
	}
}

// done marks a field, of which one rule is enough.
func (n *needs) done(field fieldPath) bool {
	text := field.String()
	before := n.seen[text]
	n.seen[text] = true
	return before
}

// custom searches a part of a custom resource: pods, and fields whose name and content both say that they are images.
func (n *needs) custom(value any, at fieldPath) {
	if len(at) > maxNesting {
		return
	}
	switch v := value.(type) {
	case map[string]any:
		if _, ok := v["containers"].([]any); ok {
			n.podSpec(v, at, false)
		}
		composed := n.composed(v, at)
		n.env(v["env"], at.key("env"))
		for _, key := range slices.Sorted(maps.Keys(v)) {
			if key != "" && !slices.Contains(composed, key) {
				n.custom(v[key], at.key(key))
			}
		}
	case []any:
		for i, e := range v {
			n.custom(e, at.item(i))
		}
	case string:
		if strings.HasPrefix(v, "docker://") || isImageKey(at) {
			if _, ok := parseFullImage(withoutScheme(v)); ok {
				n.found(withoutScheme(v), at, at)
			}
		}
	}
}

// isImageKey looks at the name of a field: image, sidecarImage, base_image, imageName; or one in images: a list of
// strings or a map of them.
func isImageKey(at fieldPath) bool {
	named := func(key string, plural bool) bool {
		key = strings.ToLower(key)
		if plural {
			return strings.HasSuffix(key, "images")
		}
		return strings.HasSuffix(key, "image") || key == "imagename" || key == "imageref" || key == "imagereference"
	}
	last := at[len(at)-1]
	if last.key != "" && named(last.key, false) {
		return true
	}
	return len(at) > 1 && named(at[len(at)-2].key, true)
}

// composed takes a map that is an image in parts, and gives the keys that it used.
func (n *needs) composed(m map[string]any, at fieldPath) (used []string) {
	ref, key, used := compose(m, isImageKey(at))
	if _, ok := parseFullImage(ref); !ok {
		return nil
	}
	n.found(ref, at, at.key(key))
	return used
}

// compose makes one reference of the maps that charts made popular: {registry, repository, tag, digest}, {image, tag},
// {name, tag}. named says that the key of the map, image or the like, leaves no doubt. key is where the repository stands.
func compose(m map[string]any, named bool) (ref, key string, used []string) {
	part := func(key string) string {
		s := scalarText(m[key])
		if s != "" {
			used = append(used, key)
		}
		return s
	}
	tag, digest, registry := part("tag"), part("digest"), part("registry")
	repository, image, name := scalarText(m["repository"]), scalarText(m["image"]), scalarText(m["name"])
	parts := tag != "" || digest != "" || registry != ""
	switch r, ok := parseImage(image); {
	case repository != "" && (named || (tag != "" || digest != "") && !ofGit(m)):
		key = "repository"
	case image != "" && parts && ok && r.tag == "" && r.digest == "":
		key = "image"
	case name != "" && image == "" && named && parts:
		key = "name"
	default:
		return "", "", nil
	}
	ref = withoutScheme(part(key))
	if registry != "" {
		ref = strings.TrimSuffix(registry, "/") + "/" + ref
	}
	if digest == "" && strings.HasPrefix(tag, "sha256:") {
		tag, digest = "", tag
	}
	if tag != "" {
		ref += ":" + tag
	}
	if digest != "" {
		ref += "@" + digest
	}
	return ref, key, used
}

// ofGit reports a map that describes a Git repository, which has a repository and a tag too.
func ofGit(m map[string]any) bool {
	for _, key := range []string{"branch", "commit", "revision", "ref", "path", "git", "url", "semver"} {
		if _, ok := m[key]; ok {
			return true
		}
	}
	return false
}

// named takes the value of a field that the user named: a reference, a map of its parts, or a list of them.
func (n *needs) named(value any, at fieldPath) {
	switch v := value.(type) {
	case string:
		n.add(withoutScheme(v), at, true)
	case map[string]any:
		if ref, key, _ := compose(v, true); ref != "" && !isPlaceholder(ref) {
			if _, ok := parseImage(ref); ok {
				n.found(ref, at, at.key(key))
			} else if !n.done(at) {
				n.invalid = append(n.invalid, need{ref, at, at.key(key)})
			}
		}
	case []any:
		for i, e := range v {
			n.named(e, at.item(i))
		}
	}
}

// scalarText gives a string, or a number as people write it: a tag 1.20 without quotes is one.
func scalarText(v any) string {
	switch v := v.(type) {
	case string:
		return strings.TrimSpace(v)
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	case int, int64, uint64:
		return fmt.Sprint(v)
	}
	return ""
}
