package render

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"sigs.k8s.io/kustomize/api/types"
	kyaml "sigs.k8s.io/yaml"

	"github.com/plimsoll/plimsoll/builder/closure"
)

// madeFile is how the names of files start that take the place of charts.
const madeFile = ".plimsoll-chart-"

// inflation is one element of helmCharts.
type inflation struct {
	types.HelmChart
	home string // folder of charts, from that of the kustomization
}

// helmCharts gives those of a kustomization.
func (k *kustomization) helmCharts() []inflation {
	if k.value["helmCharts"] == nil && k.value["helmChartInflationGenerator"] == nil {
		return nil
	}
	data, err := json.Marshal(map[string]any{
		"helmCharts": k.value["helmCharts"], "helmGlobals": k.value["helmGlobals"],
		"helmChartInflationGenerator": k.value["helmChartInflationGenerator"],
	})
	var z types.Kustomization
	if err != nil || json.Unmarshal(data, &z) != nil {
		return nil // left in place, kustomize says what is wrong with it
	}
	z.FixKustomization()
	home := types.HelmDefaultHome
	if z.HelmGlobals != nil && z.HelmGlobals.ChartHome != "" {
		home = z.HelmGlobals.ChartHome
	}
	var found []inflation
	for _, c := range z.HelmCharts {
		found = append(found, inflation{c, home})
	}
	return found
}

// files are the values files.
func (c inflation) files() []string {
	var names []string
	if c.ValuesFile != "" {
		names = append(names, c.ValuesFile)
	}
	return append(names, c.AdditionalValuesFiles...)
}

// folders are where kustomize looks for the chart before it fetches it.
func (c inflation) folders() []string {
	if c.Version != "" && c.Repo != "" {
		return []string{path.Join(c.home, c.Name+"-"+c.Version, c.Name), path.Join(c.home, c.Name)}
	}
	return []string{path.Join(c.home, c.Name)}
}

// chartFolders are those of all charts that are rendered with the kustomization.
func (k *kustomization) chartFolders() []string {
	var names []string
	for _, c := range k.helmCharts() {
		for _, folder := range c.folders() {
			names = append(names, path.Join(k.dir, folder))
		}
	}
	return names
}

// inflate puts what helmCharts make in their place: kustomize would run helm, and helm would fetch them.
func (k *kustomizer) inflate(z *mountedKustomization, change *rewrite) {
	charts := z.helmCharts()
	if len(charts) == 0 {
		return
	}
	resources, _ := change.done()["resources"].([]any)
	clear(change.gone)
	for i, c := range charts {
		at := fieldPath{{key: "helmCharts"}, {index: i}}
		place := closure.Place{Item: z.mount.item, Revision: z.mount.revision, File: z.file, Line: z.line(at), Field: at.String()}
		namespace, _ := change.value["namespace"].(string)
		made := k.inflateOne(z, c, namespace, place)
		if len(made) == 0 {
			continue
		}
		name := fmt.Sprintf("%s%d.yaml", madeFile, i)
		k.files.made[path.Join(z.mount.at, z.dir, name)] = made
		resources = append(resources, name)
	}
	if resources == nil {
		resources = []any{}
	}
	change.value["resources"], change.changed = resources, true
	for _, field := range []string{"helmCharts", "helmGlobals", "helmChartInflationGenerator"} {
		delete(change.value, field)
	}
}

// inflateOne renders one chart.
func (k *kustomizer) inflateOne(z *mountedKustomization, c inflation, namespace string, place closure.Place) []byte {
	chart, from, err := k.chartOf(z, c, place)
	if err != nil {
		k.absent = true
		if !errors.Is(err, errNotCarried) {
			k.r.problem(place, "chart %s: %v", c.Name, err)
		}
		return nil
	}
	j := &helmJob{
		chart: chart, release: c.ReleaseName, namespace: c.Namespace, skipCRDs: !c.IncludeCRDs, skipHooks: c.SkipHooks, skipTests: c.SkipTests,
		kubeVersion: c.KubeVersion, apiVersions: append(k.s.apiVersions[:len(k.s.apiVersions):len(k.s.apiVersions)], c.ApiVersions...),
	}
	if j.release == "" {
		j.release = "release-name"
	}
	if j.namespace == "" {
		j.namespace = namespace
	}
	if j.kubeVersion == "" {
		j.kubeVersion = k.s.kubeVersion
	}
	here := owner{z.mount.item, z.mount.revision}
	if here.item == "" {
		here.item = ofRendering
	}
	for _, file := range c.files() {
		data, err := z.mount.tree.ReadFile(path.Join(z.dir, file))
		var v *valuesFile
		if err == nil {
			v, err = newValuesFile(path.Join(z.dir, file), here.item, here.revision, path.Join(z.dir, file), data)
		}
		if err != nil {
			k.r.problem(place, "values file %s: %v", file, pathless(err))
			return nil
		}
		j.values = append(j.values, v)
	}
	j.inlineValues(c, here, place)
	return k.inflated(j.run(k.lease, k.s.fields), from)
}

// inlineValues puts valuesInline over or under the files.
func (j *helmJob) inlineValues(c inflation, here owner, place closure.Place) {
	if len(c.ValuesInline) == 0 {
		return
	}
	files := j.merged()
	switch c.ValuesMerge {
	case "merge":
		j.mergedValues = merge(c.ValuesInline, files)
	case "replace":
		j.mergedValues = c.ValuesInline
		j.values = nil
	default:
		j.mergedValues = merge(files, c.ValuesInline)
	}
	s := &source{item: here.item, revision: here.revision, file: place.File, byPath: make(map[string]int)}
	s.putValue(c.ValuesInline, "", "", place.Line)
	j.inline = append(j.inline, s)
}

// owner is what the files of a chart are in.
type owner struct{ item, revision string }

// ofRendering is the item of a values file that is in the tree of the kustomization, and not in the chart.
const ofRendering = "\x00"

// fill names the owner in a place of a result that says nothing else.
func (o owner) fill(p closure.Place) closure.Place {
	switch p.Item {
	case "":
		p.Item, p.Revision = o.item, o.revision
	case ofRendering:
		p.Item, p.Revision = "", ""
	}
	return p
}

// inflated takes over what a chart made as text, and where its images are chosen. The images themselves are found in what
// kustomize makes of them.
func (k *kustomizer) inflated(r *result, from owner) []byte {
	for _, p := range r.problems {
		p.Place = from.fill(p.Place)
		k.r.problems = append(k.r.problems, p)
	}
	for _, s := range r.secrets {
		s.Place = from.fill(s.Place)
		k.r.secrets = append(k.r.secrets, s)
	}
	for _, files := range r.texts {
		owned := slices.Clone(files)
		for i, f := range owned {
			p := from.fill(closure.Place{Item: f.item, Revision: f.revision})
			owned[i].item, owned[i].revision = p.Item, p.Revision
		}
		k.r.texts = append(k.r.texts, owned)
	}
	for _, ref := range r.refs {
		k.charts[ref.Ref] = from.fill(ref.Place)
	}
	if !r.ran {
		k.absent = true
	}
	var b bytes.Buffer
	for _, o := range r.objects {
		data, err := kyaml.Marshal(o.value)
		if err != nil {
			continue // it was YAML a moment ago
		}
		b.WriteString("---\n")
		b.Write(data)
	}
	return b.Bytes()
}

// chartOf finds a chart of helmCharts: in the repository, else among the charts of the bundle.
func (k *kustomizer) chartOf(z *mountedKustomization, c inflation, place closure.Place) (*chartFiles, owner, error) {
	here := owner{z.mount.item, z.mount.revision}
	for _, folder := range c.folders() {
		dir := path.Join(z.dir, folder)
		if z.mount.tree.isFile(path.Join(dir, "Chart.yaml")) {
			chart, err := k.s.folderChart(z.mount.tree, dir)
			return chart, here, err
		}
	}
	if c.Repo == "" {
		return nil, here, fmt.Errorf("is not in %s, and no repo is named", path.Join(z.dir, c.home))
	}
	ref := chartReference(c.Repo, c.Name, c.Version)
	ref.Place = place
	k.r.refs = append(k.r.refs, ref)
	item, err := k.s.carriedChart(ref.Ref, ref.Chart, ref.Version)
	if err != nil {
		return nil, here, err
	}
	k.s.covered[key(item.Item)] = true
	chart, err := k.s.itemChart(item)
	return chart, owner{item: item.Item}, err
}

// chartReference names a chart as closure.Reference does: one in an OCI registry by its whole repository.
func chartReference(repository, name, version string) closure.Reference {
	ref := closure.Reference{Kind: closure.KindChart, Ref: strings.TrimSuffix(withoutUser(repository), "/"), Chart: name, Version: version}
	if strings.HasPrefix(repository, "oci://") {
		ref.Ref, ref.Chart = ref.Ref+"/"+name, ""
	}
	return ref
}
