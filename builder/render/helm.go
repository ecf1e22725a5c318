package render

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"

	"github.com/plimsoll/plimsoll/builder/closure"
)

// defaultKubeVersion is what the released Helm of the version in go.mod takes; the library alone says 1.20.
const defaultKubeVersion = "v1.37.0"

// helmJob is one rendering of a chart.
type helmJob struct {
	chart              *chartFiles
	release, namespace string
	values             []*valuesFile  // stacked
	mergedValues       map[string]any // what they and everything else make; nil: the files one over the other
	inline             []*source      // values that stand in no file, behind the files, for the place of an image
	skipCRDs           bool
	skipTests          bool
	skipHooks          bool
	kubeVersion        string
	apiVersions        []string
	replaceDefaults    bool // the values files take the place of the chart's own values.yaml
}

// valuesFile is one values file, read once for all renderings that it is in.
type valuesFile struct {
	shown  string // in Rendering.Values
	id     string // of its content
	data   []byte
	values map[string]any
	source *source
}

func newValuesFile(shown, item, revision, file string, data []byte) (*valuesFile, error) {
	v := &valuesFile{shown: shown, data: data, id: digestOf(data)}
	docs, err := splitDocuments(data)
	if err != nil {
		return nil, err
	}
	if len(docs) > 0 {
		value, err := docs[0].value()
		if err != nil {
			return nil, err
		}
		var ok bool
		if v.values, ok = value.(map[string]any); !ok && value != nil {
			return nil, errors.New("holds no map of values")
		}
	}
	v.source = newSource(file, data, "")
	v.source.item, v.source.revision = item, revision
	return v, nil
}

func (j *helmJob) shown() []string {
	var names []string
	for _, v := range j.values {
		names = append(names, v.shown)
	}
	return names
}

// merged gives the values that are over those of the chart.
func (j *helmJob) merged() map[string]any {
	if j.mergedValues != nil {
		return j.mergedValues
	}
	vals := map[string]any{}
	for _, v := range j.values {
		vals = merge(vals, v.values)
	}
	return vals
}

// capabilities are what templates ask about the cluster.
func (j *helmJob) capabilities() (*chartutil.Capabilities, error) {
	caps := chartutil.DefaultCapabilities.Copy()
	version := j.kubeVersion
	if version == "" {
		version = defaultKubeVersion
	}
	v, err := chartutil.ParseKubeVersion(version)
	if err != nil {
		return nil, fmt.Errorf("version %q of Kubernetes: %w", version, err)
	}
	caps.KubeVersion = *v
	caps.APIVersions = append(slices.Clip(caps.APIVersions), j.apiVersions...)
	if asked := j.chart.chart.Metadata.KubeVersion; j.kubeVersion != "" && asked != "" && !chartutil.IsCompatibleRange(asked, v.Version) {
		return nil, fmt.Errorf("the chart wants Kubernetes %s, and the site has %s", asked, v.Version)
	}
	return caps, nil
}

// execute gives the text of each template that made one, and the chart as it was after its conditions.
func (j *helmJob) execute() (map[string]string, *chart.Chart, error) {
	if isLibraryChart(j.chart) {
		return nil, nil, errors.New("a library chart is not installable")
	}
	caps, err := j.capabilities()
	if err != nil {
		return nil, nil, err
	}
	c := clone(j.chart.chart)
	if j.replaceDefaults {
		c.Values = map[string]any{}
	}
	values, _ := deepCopy(j.merged()).(map[string]any)
	if err := chartutil.ProcessDependenciesWithMerge(c, values); err != nil {
		return nil, nil, err
	}
	release := chartutil.ReleaseOptions{Name: j.release, Namespace: j.namespace, Revision: 1, IsInstall: true}
	top, err := chartutil.ToRenderValuesWithSchemaValidation(c, values, release, caps, true)
	if err != nil {
		return nil, nil, err
	}
	if err := validate(c, top["Values"]); err != nil {
		return nil, c, err
	}
	rendered, err := engine.Engine{}.Render(c, top) // without a cluster and without DNS
	return rendered, c, err
}

func isLibraryChart(c *chartFiles) bool { return strings.EqualFold(c.chart.Metadata.Type, "library") }

// run renders a chart and finds what it needs.
func (j *helmJob) run(l lease, fields imageFields) *result {
	r := &result{engine: "helm", path: j.chart.folder, values: j.shown(), covers: []string{j.chart.folder}}
	here := closure.Place{File: j.chart.path("Chart.yaml"), Values: r.values}
	r.refs, r.problems = slices.Clone(j.chart.refs), slices.Clone(j.chart.problems)
	rendered, c, err := j.execute()
	l.check()
	j.texts(r)
	if err != nil {
		r.problem(j.errorPlace(c, err.Error(), here), "%v", err)
		return r
	}
	r.ran = true
	lo := &helmLocator{job: j, used: c, stack: j.stack(c), rendered: rendered}
	if !j.skipCRDs {
		for _, crd := range c.CRDObjects() {
			lo.documents(r, crd.Filename, string(crd.File.Data), fields)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(rendered)) {
		if base := path.Base(name); base == "NOTES.txt" || strings.HasPrefix(base, "_") {
			continue
		}
		lo.documents(r, name, rendered[name], fields)
	}
	return r
}

// texts are the files that people wrote for the rendering. Of those, values are YAML, and templates are not yet.
func (j *helmJob) texts(r *result) {
	if j.chart.texts == nil {
		for _, f := range j.chart.chart.Raw {
			j.chart.texts = append(j.chart.texts, textFile{file: j.chart.path(f.Name), data: f.Data, keys: path.Base(f.Name) == "values.yaml"})
		}
	}
	r.texts = append(r.texts, j.chart.texts)
	for _, v := range j.values {
		r.texts = append(r.texts, []textFile{{v.source.item, v.source.revision, v.source.file, v.data, true}})
	}
}

// helmLocator finds the lines that images and problems of one rendering stand at.
type helmLocator struct {
	job      *helmJob
	used     *chart.Chart // as it was after its conditions
	stack    stack
	rendered map[string]string
	below    map[string]stack   // by the prefix of a chart in the chart
	known    map[[2]string]spot // by that prefix and image
}

// documents reads what one template made.
func (l *helmLocator) documents(r *result, template, text string, fields imageFields) {
	file, data := l.job.chart.origin(l.used, template)
	place := closure.Place{File: l.job.chart.path(file), Values: r.values}
	docs, err := splitDocuments([]byte(text))
	if err != nil {
		r.problem(place, "what it makes: %v", err)
		return
	}
	for _, d := range docs {
		value, err := d.value()
		if err != nil {
			r.problem(place, "what it makes is no YAML: %v", err)
			continue
		}
		m, _ := value.(map[string]any)
		if m == nil {
			continue
		}
		if !isObject(m) {
			r.problem(place, "what it makes has no apiVersion or kind")
			continue
		}
		for _, item := range unlist(m) {
			l.object(r, item.value.(map[string]any), place, template, data, fields)
		}
	}
}

func (l *helmLocator) object(r *result, value map[string]any, place closure.Place, template string, data []byte, fields imageFields) {
	if hook := hookKinds(value); l.job.skipHooks && hook != "" || l.job.skipTests && strings.HasPrefix(hook, "test") {
		return
	}
	place.Object = objectName(value)
	r.objects = append(r.objects, object{value, place})
	found := collect(value, fields)
	for _, n := range found.images {
		p := l.place(n, place, template, data)
		r.refs = append(r.refs, closure.Reference{Kind: closure.KindImage, Ref: n.ref, Place: p})
	}
	for _, n := range found.invalid {
		r.problem(l.place(n, place, template, data), "%.200q is not an image reference", n.ref)
	}
	for _, s := range literalSecrets(value, func(text string) bool { return l.literal(text, data) }) {
		field := s.Place.Field
		s.Place = place
		s.Place.Field, s.Place.Line = field, lineWith(data, "Secret")
		if lines := linesWith(string(data), field[strings.LastIndex(field, ".")+1:]+":"); len(lines) > 0 {
			s.Place.Line = lines[0]
		}
		r.secrets = append(r.secrets, s)
	}
}

func hookKinds(value map[string]any) string {
	metadata, _ := value["metadata"].(map[string]any)
	annotations, _ := metadata["annotations"].(map[string]any)
	hook, _ := annotations["helm.sh/hook"].(string)
	return hook
}

// literal reports a text that stands in the template or in the values, and was not made up.
func (l *helmLocator) literal(text string, template []byte) bool {
	if len(text) < 4 || strings.Contains(text, madeUp) {
		return false
	}
	if strings.Contains(string(template), text) {
		return true
	}
	for _, s := range l.stack {
		for _, sc := range s.scalars {
			if sc.value == text {
				return true
			}
		}
	}
	return false
}

// place finds the values file, else the template, in which an image was chosen.
func (l *helmLocator) place(n need, place closure.Place, template string, data []byte) closure.Place {
	place.Field = n.field.String()
	prefix := valuesPrefix(template)
	key := [2]string{prefix, n.ref}
	found, ok := l.known[key]
	if !ok {
		if l.known == nil {
			l.known, l.below = make(map[[2]string]spot), make(map[string]stack)
		}
		found = l.locate(prefix, n.ref)
		l.known[key] = found
	}
	if found.source != nil {
		place.Item, place.Revision, place.File, place.Line = found.source.item, found.source.revision, found.source.file, found.line
		return place
	}
	place.Line = templateLine(data, l.rendered[template], n)
	return place
}

// locate looks first at what the template's own chart sees: the chart around it may have an equal value of its own.
func (l *helmLocator) locate(prefix, ref string) spot {
	if prefix != "" {
		if _, ok := l.below[prefix]; !ok {
			l.below[prefix] = l.stack.below(prefix)
		}
		if found, ok := l.below[prefix].locate(ref); ok {
			return found
		}
	}
	found, _ := l.stack.locate(ref)
	return found
}

// valuesPrefix is where the values of a template's chart stand among those of the chart around it: a.b. for
// chart/charts/a/charts/b/templates/x.yaml.
func valuesPrefix(template string) string {
	parts := strings.Split(template, "/")
	prefix := ""
	for i := 1; i+1 < len(parts) && parts[i] == "charts"; i += 2 {
		prefix += parts[i+1] + "."
	}
	return prefix
}

// templateLine finds an image in the text of a template: its reference, its repository, or the field that it is the
// value of, which is the same one from the top as in what the template made.
func templateLine(template []byte, made string, n need) int {
	if line := lineWith(template, n.ref); line > 0 {
		return line
	}
	if image, ok := parseImage(n.ref); ok {
		if line := lineWith(template, image.repository); line > 0 {
			return line
		}
	}
	name := n.at.lastKey() + ":"
	lines := linesWith(string(template), name)
	if len(lines) == 0 {
		return 0
	}
	madeLines := strings.Split(made, "\n")
	for i, line := range linesWith(made, name) {
		if i < len(lines) && strings.Contains(madeLines[line-1], n.ref) {
			return lines[i]
		}
	}
	return lines[0]
}

// linesWith gives the lines, from 1, that have a key: at their start, or inside braces.
func linesWith(text, name string) []int {
	var lines []int
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimLeft(line, " -")
		if strings.HasPrefix(line, name) || strings.Contains(line, "{"+name) || strings.Contains(line, " "+name) {
			lines = append(lines, i+1)
		}
	}
	return lines
}

// stack gives what the values of the rendering come from: the defaults of the charts in the chart, its own, the values
// files, and what stands in an Application.
func (j *helmJob) stack(used *chart.Chart) stack {
	var st stack
	if !j.replaceDefaults {
		st = j.chart.defaultValues(used)
	}
	for _, v := range j.values {
		st = append(st, v.source)
	}
	return append(st, j.inline...)
}

func (c *chartFiles) defaultValues(used *chart.Chart) stack {
	var names []string
	var visit func(in *chart.Chart, prefix string, read func(in *chart.Chart, prefix string))
	visit = func(in *chart.Chart, prefix string, read func(in *chart.Chart, prefix string)) {
		for _, sub := range in.Dependencies() {
			visit(sub, prefix+sub.Name()+".", read)
		}
		read(in, prefix)
	}
	visit(used, "", func(_ *chart.Chart, prefix string) { names = append(names, prefix) })
	id := strings.Join(names, "\n")
	st, ok := c.defaults[id]
	if !ok {
		visit(used, "", func(in *chart.Chart, prefix string) {
			if data := rawFile(in, "values.yaml"); data != nil {
				name, _ := c.origin(used, in.ChartFullPath()+"/values.yaml")
				st = append(st, newSource(c.path(name), data, prefix))
			}
		})
		c.defaults[id] = slices.Clip(st)
	}
	return slices.Clip(st)
}

// templateAt finds the template and line that Helm's errors name.
var templateAt = regexp.MustCompile(`([A-Za-z0-9][\w.+-]*/[\w./+-]+\.[A-Za-z]+):(\d+)`)

func (j *helmJob) errorPlace(used *chart.Chart, text string, place closure.Place) closure.Place {
	if used == nil {
		used = j.chart.chart
	}
	for _, m := range templateAt.FindAllStringSubmatch(text, -1) {
		if file, data := j.chart.origin(used, m[1]); data != nil {
			place.File = j.chart.path(file)
			place.Line, _ = strconv.Atoi(m[2])
			break
		}
	}
	return place
}
