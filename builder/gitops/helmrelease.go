package gitops

import (
	"cmp"
	"fmt"
	"path"
	"strings"

	"helm.sh/helm/v3/pkg/strvals"
)

func (x *expander) helmRelease(s *source) {
	spec := s.node("spec")
	charts := s.releaseCharts(spec)
	if len(charts) == 0 {
		return
	}
	target := spec.str("targetNamespace")
	release := spec.str("releaseName")
	if release == "" {
		release = s.name
		if target != "" {
			release = target + "-" + s.name
		}
	}
	install := spec.child("install")
	values := s.releaseValues(spec)
	for _, c := range charts {
		t := c.Task
		t.Helm = &Helm{
			Release: release, Namespace: cmp.Or(target, s.namespace),
			ValueFiles: c.valueFiles, ReplaceDefaults: len(c.valueFiles) > 0,
			SkipCRDs: install.boolean("skipCRDs") || install.str("crds") == "Skip", PostRender: s.postRenderers(spec),
		}
		if len(values) > 0 {
			t.Helm.Values = []map[string]any{values}
		}
		s.task(t)
	}
}

// releaseCharts gives the chart of a HelmRelease, one for each object that its source can be.
func (s *source) releaseCharts(spec node) []chart {
	if !spec.has("chartRef") {
		charts := s.charts(spec.child("chart").child("spec"), s.namespace)
		for _, c := range charts {
			c.refer(&s.scope)
		}
		return charts
	}
	ref := spec.child("chartRef")
	namespace := cmp.Or(ref.str("namespace"), s.namespace)
	var out []chart
	for _, from := range s.sources(ref, namespace, "OCIRepository", "HelmChart") {
		if from.kind == "HelmChart" {
			out = append(out, from.charts(from.node("spec"), from.namespace)...)
			continue
		}
		url, version := ociSource(from)
		if strings.HasPrefix(url, "oci://") { // what is wrong is reported with the OCIRepository
			out = append(out, chart{Task: Task{URL: url, Revision: version, Chart: path.Base(url)}})
		}
	}
	return out
}

// releaseValues gives the values of a HelmRelease: those of ConfigMaps and Secrets in their order, over them its own, and
// over all of them what is set at a path.
func (s *source) releaseValues(spec node) map[string]any {
	var out map[string]any
	var atPaths []func(values map[string]any) error
	var fields []string
	elements := 0
	for _, from := range spec.children("valuesFrom") {
		content, err := s.valuesFrom(from)
		if err == nil && from.str("targetPath") != "" {
			atPaths, fields = append(atPaths, func(m map[string]any) error { return setAtPath(from, content, m, &elements) }), append(fields, from.path)
			continue
		}
		var values map[string]any
		if err == nil {
			values, err = parseYAMLMap([]byte(content))
		}
		if err != nil {
			if !from.boolean("optional") || !isMissing(err) {
				s.problem(from.path, "%s: %v", from.path, err)
			}
			continue
		}
		out = overlay(out, values)
	}
	out, _ = clone(overlay(out, spec.child("values").m)).(map[string]any)
	for i, set := range atPaths {
		if err := set(out); err != nil {
			s.problem(fields[i], "%s: %v", fields[i], err)
		}
	}
	return out
}

// valuesFrom gives the content of one key of a ConfigMap or Secret.
func (s *source) valuesFrom(from node) (string, error) {
	kind, name := from.str("kind"), from.str("name")
	data, err := s.data(kind, name)
	if err != nil {
		return "", err
	}
	key := cmp.Or(from.str("valuesKey"), "values.yaml")
	content, ok := data[key]
	if !ok {
		return "", missingError(fmt.Sprintf("%s has no %s", describe(kind, s.namespace, name), key))
	}
	return content, nil
}

// setAtPath puts content at the targetPath, as the value of --set, or as text when it is literal or in quotes.
func setAtPath(from node, content string, values map[string]any, elements *int) error {
	parse := strvals.ParseInto
	quoted := len(content) > 1 && strings.ContainsAny(content[:1], `'"`) && content[0] == content[len(content)-1]
	switch {
	case from.boolean("literal"):
		content, parse = literal(content), strvals.ParseIntoString
	case quoted:
		content, parse = strings.Trim(content, `'"`), strvals.ParseIntoString
	}
	line := from.str("targetPath") + "=" + content
	if *elements += listElements(line); *elements > maxElements {
		return fmt.Errorf("targetPath makes lists of more than %d elements", maxElements)
	}
	return parse(line, values)
}

// literal escapes what has a meaning in the value of --set.
func literal(value string) string {
	return strings.NewReplacer(`\`, `\\`, `,`, `\,`, `[`, `\[`, `]`, `\]`, `{`, `\{`, `}`, `\}`).Replace(value)
}

// postRenderers puts all of them into one: kustomize applies the patches before the images.
func (s *source) postRenderers(spec node) *Kustomize {
	fields := make(map[string]any)
	for _, r := range spec.children("postRenderers") {
		for k, v := range sorted(r.m) {
			if k != "kustomize" && v != nil {
				s.problem(r.field(k), "%s: what it renders is only known at the site", r.field(k))
			}
		}
		fluxPatches(r.child("kustomize"), fields)
	}
	if len(fields) == 0 {
		return nil
	}
	return &Kustomize{Fields: fields}
}
