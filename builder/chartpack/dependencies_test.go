package chartpack_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/opencontainers/go-digest"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/cli"
	"helm.sh/helm/v3/pkg/downloader"
	"helm.sh/helm/v3/pkg/getter"

	"github.com/plimsoll/plimsoll/builder/chartpack"
	"github.com/plimsoll/plimsoll/builder/chartrepo"
	"github.com/plimsoll/plimsoll/internal/upstream"
)

// repository serves charts with an index as `helm repo index` writes it, and gives its URL.
func repository(t *testing.T, charts ...*chartpack.Chart) string {
	t.Helper()
	dir := t.TempDir()
	byName := make(map[string]string)
	for _, c := range charts {
		file := c.Name + "-" + c.Version + ".tgz"
		if err := os.WriteFile(filepath.Join(dir, file), c.Archive, 0o600); err != nil {
			t.Fatal(err)
		}
		byName[c.Name] += fmt.Sprintf("  - apiVersion: v2\n    created: \"2024-05-04T03:02:01Z\"\n    digest: %x\n    name: %s\n    urls:\n    - %s\n    version: %s\n",
			sha256.Sum256(c.Archive), c.Name, file, c.Version)
	}
	index := "apiVersion: v1\nentries:\n"
	for name, entries := range byName {
		index += "  " + name + ":\n" + entries
	}
	if err := os.WriteFile(filepath.Join(dir, "index.yaml"), []byte(index+"generated: \"2024-05-04T03:02:01Z\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.FileServer(http.Dir(dir)))
	t.Cleanup(server.Close)
	return server.URL
}

func leaf(t *testing.T, name, version string) *chartpack.Chart {
	t.Helper()
	return pack(t, write(t, map[string]string{
		"Chart.yaml": "apiVersion: v2\nname: " + name + "\nversion: " + version + "\n", "templates/a.yaml": "kind: Pod # " + version + "\n",
	}))
}

// umbrella is a chart's folder with dependencies, each a line of flow YAML.
func umbrella(dependencies ...string) map[string]string {
	text := "apiVersion: v2\nname: umbrella\nversion: 1.0.0\ndependencies:\n"
	for _, d := range dependencies {
		text += "- {" + d + "}\n"
	}
	return map[string]string{"Chart.yaml": text, "templates/a.yaml": "kind: Pod\n", "values.yaml": "a: 1\n"}
}

func resolver() chartpack.Options {
	return chartpack.Options{Dependencies: &chartrepo.Client{Keychain: authn.NewMultiKeychain()}}
}

func packWith(t *testing.T, dir string, o chartpack.Options) *chartpack.Chart {
	t.Helper()
	before := snapshot(t, dir)
	c, err := chartpack.PackWith(t.Context(), dir, o)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(before, snapshot(t, dir)) {
		t.Error("the folder was written to")
	}
	return c
}

// snapshot is all that is in a folder.
func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			all[path] = "folder"
			return err
		}
		data, err := os.ReadFile(path)
		all[path] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// loads wants Helm to load a packed chart and to find its dependencies there, and gives them with their versions, sorted.
func loads(t *testing.T, c *chartpack.Chart) []string {
	t.Helper()
	loaded, err := loader.LoadArchive(bytes.NewReader(c.Archive))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, d := range loaded.Dependencies() {
		names = append(names, d.Name()+" "+d.Metadata.Version)
	}
	// As `helm install` checks it, and then selects by version and names by alias.
	wanted := make(map[string]string)
	for _, d := range loaded.Metadata.Dependencies {
		if !slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, d.Name+" ") }) {
			t.Errorf("Helm misses %s", d.Name)
		}
		wanted[cmp.Or(d.Alias, d.Name)] = d.Version
	}
	if err := chartutil.ProcessDependenciesWithMerge(loaded, loaded.Values); err != nil {
		t.Fatal(err)
	}
	for _, d := range loaded.Dependencies() {
		if want, ok := wanted[d.Name()]; !ok || !chartutil.IsCompatibleRange(want, d.Metadata.Version) {
			t.Errorf("Helm selects %s %s", d.Name(), d.Metadata.Version)
		}
		delete(wanted, d.Name())
	}
	if len(wanted) > 0 {
		t.Errorf("Helm selects nothing for %v", wanted)
	}
	slices.Sort(names)
	return names
}

// inside gives a file of a packed chart.
func inside(t *testing.T, c *chartpack.Chart, name string) []byte {
	t.Helper()
	files, err := loader.LoadArchiveFiles(bytes.NewReader(c.Archive))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if f.Name == name {
			return f.Data
		}
	}
	t.Fatalf("%s is not in the chart", name)
	return nil
}

func TestDependenciesAreVendored(t *testing.T) {
	newest := leaf(t, "nginx", "15.2.0+b")
	classic := repository(t, leaf(t, "nginx", "15.1.0"), newest, leaf(t, "nginx", "16.0.0"), leaf(t, "redis", "1.0.0"), leaf(t, "redis", "2.0.0"))
	registry, err := upstream.Start(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer registry.Close() //nolint:errcheck // scratch
	library := leaf(t, "library", "0.3.1")
	push(t, registry.Host()+"/charts/library", library)
	files := umbrella(
		"name: nginx, version: 15.x, repository: '"+classic+"', condition: nginx.enabled, tags: [web]",
		"name: redis, version: ^1, repository: '"+classic+"', alias: cache",
		"name: redis, version: ^2, repository: '"+classic+"/', alias: queue",
		"name: library, version: '>=0.1', repository: 'oci://"+registry.Host()+"/charts'",
		"name: own, version: 0.1.0",
	)
	files["charts/own/Chart.yaml"] = "apiVersion: v2\nname: own\nversion: 0.1.0\n"
	files[".helmignore"] = "charts/*.tgz\n"
	c := packWith(t, write(t, files), resolver())
	if got, want := loads(t, c), []string{"library 0.3.1", "nginx 15.2.0+b", "own 0.1.0", "redis 1.0.0", "redis 2.0.0"}; !slices.Equal(got, want) {
		t.Errorf("packed %v, want %v", got, want)
	}
	if !bytes.Equal(inside(t, c, "charts/nginx-15.2.0+b.tgz"), newest.Archive) || !bytes.Equal(inside(t, c, "charts/library-0.3.1.tgz"), library.Archive) {
		t.Error("a .tgz is not kept byte for byte")
	}
	want := []chartpack.Resolved{
		{Name: "nginx", Version: "15.2.0+b", Repository: classic, Digest: digest.FromBytes(newest.Archive)},
		{Name: "redis", Version: "1.0.0", Repository: classic}, {Name: "redis", Version: "2.0.0", Repository: classic + "/"},
		{Name: "library", Version: "0.3.1", Repository: "oci://" + registry.Host() + "/charts", Digest: digest.FromBytes(library.Archive)},
	}
	for i, r := range c.Dependencies {
		if i < len(want) && want[i].Digest == "" {
			want[i].Digest = r.Digest
		}
	}
	if !slices.Equal(c.Dependencies, want) {
		t.Errorf("resolved %+v", c.Dependencies)
	}
	again := packWith(t, write(t, files), resolver())
	if !reflect.DeepEqual(c, again) {
		t.Error("packed differently the second time")
	}
	if _, err := chartpack.Pack(t.Context(), write(t, files)); !errors.As(err, new(*chartpack.MissingDependenciesError)) {
		t.Errorf("without a resolver: %v", err)
	}
}

// helm is Helm's own dependency manager for a chart's folder.
func helm(t *testing.T, dir string) *downloader.Manager {
	t.Helper()
	home := t.TempDir()
	return &downloader.Manager{
		Out: io.Discard, ChartPath: dir, Getters: getter.All(cli.New()), SkipUpdate: false,
		RepositoryConfig: filepath.Join(home, "repositories.yaml"), RepositoryCache: filepath.Join(home, "cache"),
	}
}

// TestAsHelmDoes: with a lock that `helm dependency update` made, our chart is the one of the folder that it filled; with
// one that it made for another repository, neither works.
func TestAsHelmDoes(t *testing.T) {
	for _, old := range []bool{false, true} {
		t.Run(fmt.Sprintf("v1 %v", old), func(t *testing.T) {
			first := leaf(t, "nginx", "15.1.0")
			address := repository(t, first)
			dependencies := "- {name: nginx, version: 15.x, repository: '" + address + "', import-values: [{child: a, parent: b}], tags: [x]}\n"
			files := umbrella("name: nginx, version: 15.x, repository: '" + address + "', import-values: [{child: a, parent: b}], tags: [x]")
			lock := "Chart.lock"
			if old {
				lock = "requirements.lock"
				files["Chart.yaml"] = "apiVersion: v1\nname: umbrella\nversion: 1.0.0\n"
				files["requirements.yaml"] = "dependencies:\n" + dependencies
			}
			byHelm := write(t, files)
			if err := helm(t, byHelm).Update(); err != nil {
				t.Fatal(err)
			}
			made, err := os.ReadFile(filepath.Join(byHelm, lock))
			if err != nil {
				t.Fatal(err)
			}
			files[lock] = string(made)

			// Helm packs the same bytes; nothing is missing there.
			ours, theirs := packWith(t, write(t, files), resolver()), packWith(t, byHelm, resolver())
			if !bytes.Equal(ours.Archive, theirs.Archive) || len(theirs.Dependencies) != 0 || len(ours.Dependencies) != 1 {
				t.Error("the charts of Helm's `dependency update` differ from ours")
			}
			loads(t, ours)

			// Also the repository's URL is in the digest.
			moved := repository(t, first)
			for name := range files {
				files[name] = strings.ReplaceAll(files[name], address, moved)
			}
			stale := write(t, files)
			_, err = chartpack.PackWith(t.Context(), stale, resolver())
			var staleErr *chartpack.StaleLockError
			if !errors.As(err, &staleErr) || staleErr.Lock != lock || !strings.Contains(err.Error(), "run `helm dependency update`") {
				t.Errorf("with a stale lock: %v", err)
			}
			if err := helm(t, stale).Build(); err == nil || !strings.Contains(err.Error(), "out of sync") {
				t.Errorf("Helm with a stale lock: %v", err)
			}
		})
	}
}

// counted is a Resolver that knows what it was asked for.
type counted struct {
	chartpack.Resolver
	asked []string
}

func (c *counted) Chart(ctx context.Context, repository, name, version string) (*chartpack.Chart, error) {
	c.asked = append(c.asked, name+" "+version)
	return c.Resolver.Chart(ctx, repository, name, version)
}

func TestLockHolds(t *testing.T) {
	dir := t.TempDir()
	first, second := leaf(t, "nginx", "15.1.0"), leaf(t, "nginx", "15.9.0")
	index := func(charts ...*chartpack.Chart) {
		text := "apiVersion: v1\nentries:\n  nginx:\n"
		for _, c := range charts {
			text += "  - apiVersion: v2\n    name: nginx\n    version: " + c.Version + "\n    urls: [" + c.Version + ".tgz]\n"
			if err := os.WriteFile(filepath.Join(dir, c.Version+".tgz"), c.Archive, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, "index.yaml"), []byte(text+"generated: \"2024-05-04T03:02:01Z\"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	server := httptest.NewServer(http.FileServer(http.Dir(dir)))
	defer server.Close()
	index(first)
	files := umbrella("name: nginx, version: 15.x, repository: '" + server.URL + "'")
	byHelm := write(t, files)
	if err := helm(t, byHelm).Update(); err != nil {
		t.Fatal(err)
	}
	lock, err := os.ReadFile(filepath.Join(byHelm, "Chart.lock"))
	if err != nil {
		t.Fatal(err)
	}
	index(first, second)
	if got := loads(t, packWith(t, write(t, files), resolver())); !slices.Equal(got, []string{"nginx 15.9.0"}) {
		t.Errorf("without a lock: %v", got)
	}
	files["Chart.lock"] = string(lock)
	o := resolver()
	asked := &counted{Resolver: o.Dependencies}
	o.Dependencies = asked
	if got := loads(t, packWith(t, write(t, files), o)); !slices.Equal(got, []string{"nginx 15.1.0"}) || !slices.Equal(asked.asked, []string{"nginx 15.1.0"}) {
		t.Errorf("with a lock: %v, asked for %v", got, asked.asked)
	}
	for name, text := range map[string]string{
		"another digest":       strings.Replace(string(lock), "digest: sha256:", "digest: sha256:0", 1),
		"another version":      strings.Replace(string(lock), "15.1.0", "15.9.0", 1),
		"no dependencies":      "digest: " + digest.FromString(`[[],null]`).String() + "\n",
		"empty dependencies":   "dependencies: [null]\ndigest: sha256:00\n",
		"no lock worth a name": "{}",
	} {
		files["Chart.lock"] = text
		if _, err := chartpack.PackWith(t.Context(), write(t, files), resolver()); !errors.As(err, new(*chartpack.StaleLockError)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPinned(t *testing.T) {
	first, second := leaf(t, "nginx", "15.1.0"), leaf(t, "nginx", "15.9.0")
	address := repository(t, first, second)
	dir := write(t, umbrella("name: nginx, version: 15.x, repository: '"+address+"'"))
	o := resolver()
	right := chartpack.Resolved{Name: "nginx", Version: "15.1.0", Repository: address, Digest: digest.FromBytes(first.Archive)}
	o.Pinned = []chartpack.Resolved{right}
	if c := packWith(t, dir, o); !slices.Equal(c.Dependencies, o.Pinned) {
		t.Errorf("took %+v", c.Dependencies)
	}
	other := right
	other.Digest = digest.FromBytes(second.Archive)
	elsewhere := right
	elsewhere.Repository = "https://elsewhere.example.com"
	for _, tc := range []struct {
		pins []chartpack.Resolved
		want string
	}{
		{[]chartpack.Resolved{}, "nginx 15.x of " + address + " is not pinned"},
		{[]chartpack.Resolved{elsewhere}, "is not pinned"},
		{[]chartpack.Resolved{{Name: "nginx", Version: "14.0.0", Repository: address}}, "is not pinned"},
		{[]chartpack.Resolved{other}, "nginx 15.1.0 of " + address + " is " + right.Digest.String() + ", pinned is " + other.Digest.String()},
	} {
		o.Pinned = tc.pins
		_, err := chartpack.PackWith(t.Context(), dir, o)
		if !errors.As(err, new(*chartpack.PinError)) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("got %v, want %s", err, tc.want)
		}
	}
	// What was resolved once is found again, in a chart and in a local one that asks for less.
	both := map[string]string{}
	for name, text := range umbrella("name: nginx, version: 15.x, repository: '"+address+"'", "name: near, version: 1.x, repository: 'file://../near'") {
		both["app/"+name] = text
	}
	both["near/Chart.yaml"] = "apiVersion: v2\nname: near\nversion: 1.0.0\ndependencies: [{name: nginx, version: '<15.5', repository: '" + address + "'}]\n"
	dir = filepath.Join(write(t, both), "app")
	o = resolver()
	want := packWith(t, dir, o)
	if len(want.Dependencies) != 3 {
		t.Errorf("resolved %+v", want.Dependencies)
	}
	o.Pinned = want.Dependencies
	if got := packWith(t, dir, o); !reflect.DeepEqual(got, want) {
		t.Error("with its own pins it is another chart")
	}
}

func TestDependenciesThatAreRefused(t *testing.T) {
	large := leaf(t, "large", "1.0.0")
	large.Archive = append(large.Archive, make([]byte, chartpack.MaxFile)...) // after the end of the gzip stream
	address := repository(t, leaf(t, "nginx", "15.1.0"), leaf(t, "incomplete", "1.0.0"), large)
	for _, tc := range []struct{ name, dependency, want string }{
		{"alias", "name: nginx, version: 15.x, repository: '@stable'", `dependency nginx: repository "@stable" is a name that only one machine's Helm configuration knows, want its URL`},
		{"long alias", "name: nginx, version: 15.x, repository: 'alias:stable'", "want its URL"},
		{"no URL", "name: nginx, version: 15.x, repository: stable", `repository "stable", want https://…`},
		{"other scheme", "name: nginx, version: 15.x, repository: 's3://charts'", "want https://…"},
		{"no such version", "name: nginx, version: 16.x, repository: '" + address + "'", "no such version; the nearest are 15.1.0"},
		{"no such chart", "name: ngin, version: 16.x, repository: '" + address + "'", "no such chart; the nearest are nginx"},
		{"no constraint", "name: nginx, version: latest, repository: '" + address + "'", "improper constraint"},
		{"no repository", "name: nginx, version: 15.x", "nginx; run `helm dependency build`"},
		{"too large for Helm", "name: large, version: 1.x, repository: '" + address + "'", "Helm reads files of a chart up to 5242880"},
		{"absolute", "name: nginx, version: 15.x, repository: 'file:///charts/nginx'", "is absolute"},
		{"nowhere", "name: nginx, version: 15.x, repository: 'file://nowhere'", "file://nowhere: no such file"},
		{"a file", "name: nginx, version: 15.x, repository: 'file://values.yaml'", "is not a folder"},
		{"far away", "name: nginx, version: 15.x, repository: 'file://../../../../../../../../etc'", "leaves the folder that local dependencies must be in"},
		{"itself", "name: umbrella, version: 1.x, repository: 'file://.'", "depends on itself"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := chartpack.PackWith(t.Context(), write(t, umbrella(tc.dependency)), resolver())
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %s", err, tc.want)
			}
		})
	}
	files := umbrella("name: nginx, version: 15.x, repository: '" + address + "'")
	files["charts/nginx/Chart.yaml"] = "apiVersion: v2\nname: nginx\nversion: 14.0.0\n"
	_, err := chartpack.PackWith(t.Context(), write(t, files), resolver())
	if !errors.As(err, new(*chartpack.VersionError)) || !strings.Contains(err.Error(), "charts/ has nginx 14.0.0, want 15.x") {
		t.Errorf("got %v", err)
	}
	var many []string
	for i := range 257 {
		many = append(many, fmt.Sprintf("name: nginx, alias: a%d, version: 15.x, repository: '%s'", i, address))
	}
	if _, err := chartpack.PackWith(t.Context(), write(t, umbrella(many...)), resolver()); err == nil || !strings.Contains(err.Error(), "257 dependencies, the limit is 256") {
		t.Errorf("got %v", err)
	}
}

// TestLocalDependencies: a chart beside the chart, with a dependency of its own.
func TestLocalDependencies(t *testing.T) {
	address := repository(t, leaf(t, "nginx", "15.1.0"))
	files := map[string]string{
		"libs/common/Chart.yaml":       "apiVersion: v2\nname: common\nversion: 0.2.0\ntype: library\ndependencies: [{name: nginx, version: 15.x, repository: '" + address + "'}]\n",
		"libs/common/templates/_a.tpl": "{{ define \"a\" }}{{ end }}\n",
		"libs/common/key.secret":       "x",
		"libs/common/.helmignore":      "*.secret\n",
		"outside/Chart.yaml":           "apiVersion: v2\nname: outside\nversion: 1.0.0\n",
		"tree/x":                       "",
	}
	for name, text := range umbrella("name: common, version: 0.x, repository: 'file://../../libs/common'") {
		files["charts/app/"+name] = text
	}
	dir := write(t, files)
	app := filepath.Join(dir, "charts", "app")
	_, err := chartpack.PackWith(t.Context(), app, resolver())
	if err == nil || !strings.Contains(err.Error(), "leaves the folder") {
		t.Errorf("without a Git work tree: %v", err)
	}
	o := resolver()
	o.Within = dir
	c := packWith(t, app, o)
	if got := loads(t, c); !slices.Equal(got, []string{"common 0.2.0"}) {
		t.Errorf("packed %v", got)
	}
	if err := os.WriteFile(filepath.Join(dir, ".git"), nil, 0o600); err != nil { // as in a work tree of its own
		t.Fatal(err)
	}
	if again := packWith(t, app, resolver()); !reflect.DeepEqual(again, c) {
		t.Error("in a Git work tree it is another chart")
	}
	loaded, err := loader.LoadArchive(bytes.NewReader(inside(t, c, "charts/common-0.2.0.tgz")))
	if err != nil || len(loaded.Dependencies()) != 1 || slices.ContainsFunc(loaded.Raw, func(f *chart.File) bool { return f.Name == "key.secret" }) {
		t.Errorf("the local chart is %+v, %v", loaded, err)
	}
	if len(c.Dependencies) != 2 || c.Dependencies[0].Repository != "file://../../libs/common" || c.Dependencies[1].Name != "nginx" {
		t.Errorf("resolved %+v", c.Dependencies)
	}

	// A link in the work tree does not lead out of it.
	outside := write(t, map[string]string{"Chart.yaml": "apiVersion: v2\nname: outside\nversion: 1.0.0\n"})
	link(t, outside, dir, "linked")
	linked := umbrella("name: outside, version: 1.x, repository: 'file://../../linked'")
	if err := os.WriteFile(filepath.Join(app, "Chart.yaml"), []byte(linked["Chart.yaml"]), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := chartpack.PackWith(t.Context(), app, resolver()); err == nil || !strings.Contains(err.Error(), "file://../../linked: path escapes") {
		t.Errorf("by a link: %v", err)
	}
}

func TestLocalDependenciesInACircle(t *testing.T) {
	one := "apiVersion: v2\nname: %s\nversion: 1.0.0\ndependencies: [{name: %s, version: 1.x, repository: 'file://../%[2]s'}]\n"
	files := map[string]string{"a/Chart.yaml": fmt.Sprintf(one, "a", "b"), "b/Chart.yaml": fmt.Sprintf(one, "b", "a")}
	for i := range 12 {
		files[fmt.Sprintf("c%d/Chart.yaml", i)] = fmt.Sprintf(one, fmt.Sprintf("c%d", i), fmt.Sprintf("c%d", i+1))
	}
	dir := write(t, files)
	for name, want := range map[string]string{"a": "file://../a depends on itself", "c0": "local dependencies of each other deeper than 8"} {
		_, err := chartpack.PackWith(t.Context(), filepath.Join(dir, name), resolver())
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}
