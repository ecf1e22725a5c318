package chartpack_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"helm.sh/helm/v3/pkg/chart/loader"

	"github.com/plimsoll/plimsoll/builder/chartpack"
)

const example = "../../examples/robot-deployment/charts/robot-app"

var simple = map[string]string{
	"Chart.yaml":                  "apiVersion: v2\nname: robot\nversion: 1.2.3+build.7\ndescription: Moves & sees\n",
	"values.yaml":                 "a: 1\n",
	".helmignore":                 "# not for the site\n*.secret\nscratch/\n",
	"templates/one.yaml":          "kind: ConfigMap\n",
	"templates/.hidden":           "x",
	"key.secret":                  "x",
	"scratch/a":                   "x",
	"charts/sub/Chart.yaml":       "apiVersion: v2\nname: sub\nversion: 0.1.0\n",
	"charts/sub/templates/a.yaml": "kind: Pod\n",
	"files/" + strings.Repeat("long/", 30) + "name.txt": "deep", // a name that the oldest tar format cannot hold
	"README.md": "\xef\xbb\xbfWith a byte order mark",
}

func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, data := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func pack(t *testing.T, path string) *chartpack.Chart {
	t.Helper()
	c, err := chartpack.Pack(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestFolder(t *testing.T) {
	c := pack(t, write(t, simple))
	if c.Name != "robot" || c.Version != "1.2.3+build.7" || c.Tag() != "1.2.3_build.7" || c.Provenance != nil {
		t.Errorf("got %s %s %s", c.Name, c.Version, c.Tag())
	}
	zipped, err := gzip.NewReader(bytes.NewReader(c.Archive))
	if err != nil {
		t.Fatal(err)
	}
	if !zipped.ModTime.IsZero() || zipped.Name != "" || zipped.OS != 255 {
		t.Errorf("gzip header %+v", zipped.Header)
	}
	var names []string
	for archive := tar.NewReader(zipped); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
		if h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.Mode != 0o644 || h.ModTime.Unix() != 315532800 {
			t.Errorf("%s: header %+v", h.Name, h)
		}
	}
	want := []string{
		"robot/.helmignore", "robot/Chart.yaml", "robot/README.md", "robot/charts/sub/Chart.yaml", "robot/charts/sub/templates/a.yaml",
		"robot/files/" + strings.Repeat("long/", 30) + "name.txt", "robot/templates/one.yaml", "robot/values.yaml",
	}
	if !slices.Equal(names, want) {
		t.Errorf("packed\n%q\nwant\n%q", names, want)
	}
	loaded, err := loader.LoadArchive(bytes.NewReader(c.Archive))
	if err != nil {
		t.Fatal(err)
	}
	if loaded.Name() != "robot" || len(loaded.Templates) != 1 || len(loaded.Dependencies()) != 1 || loaded.Values["a"] != float64(1) {
		t.Errorf("Helm loads %+v", loaded)
	}
}

// TestSameBytes: neither times, permissions, the order of creation nor the folder's name may show in the digest.
func TestSameBytes(t *testing.T) {
	one, two := write(t, simple), write(t, simple)
	err := filepath.WalkDir(two, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !d.IsDir() {
			if err := os.Chmod(path, 0o755); err != nil {
				return err
			}
		}
		return os.Chtimes(path, time.Time{}, time.Unix(1e9, 0))
	})
	if err != nil {
		t.Fatal(err)
	}
	a, b := pack(t, one), pack(t, two)
	if !reflect.DeepEqual(a, b) {
		t.Error("two folders with the same files are packed differently")
	}
	// Pinned: when this changes, every chart in every site's next bundle gets a new digest. Change it knowingly.
	const want = "sha256:0017dc6f233acf872251d6d1f68f5423791afd26ddbed4dafdb40a0c9b6ef52a"
	if got := a.Blobs()[1].Digest.String(); got != want {
		t.Errorf("archive digest %s, want %s", got, want)
	}
}

func TestExampleChart(t *testing.T) {
	c := pack(t, example)
	loaded, err := loader.LoadArchive(bytes.NewReader(c.Archive))
	if err != nil {
		t.Fatal(err)
	}
	if c.Name != "robot-app" || len(loaded.Templates) != 3 {
		t.Errorf("%s %s has %d templates", c.Name, c.Version, len(loaded.Templates))
	}
}

func TestManifest(t *testing.T) {
	c := pack(t, write(t, simple))
	raw, err := c.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	blobs := c.Blobs()
	if m.SchemaVersion != 2 || m.MediaType != ocispec.MediaTypeImageManifest || len(m.Layers) != 1 ||
		!reflect.DeepEqual(m.Config, blobs[0].Descriptor) || !reflect.DeepEqual(m.Layers[0], blobs[1].Descriptor) {
		t.Errorf("manifest %s", raw)
	}
	want := map[string]string{
		"org.opencontainers.image.title": "robot", "org.opencontainers.image.version": "1.2.3+build.7",
		"org.opencontainers.image.description": "Moves & sees",
	}
	if !reflect.DeepEqual(m.Annotations, want) {
		t.Errorf("annotations %v", m.Annotations)
	}
	again, err := pack(t, write(t, simple)).Manifest()
	if err != nil || !bytes.Equal(raw, again) {
		t.Errorf("the manifest is not the same again: %v\n%s\n%s", err, raw, again)
	}
}

// TestArchiveIsKept: an archive of somebody else's, signed perhaps, keeps its bytes.
func TestArchiveIsKept(t *testing.T) {
	// Written as `helm package` does: its header, the present time, Chart.yaml first.
	var buf bytes.Buffer
	zipped := gzip.NewWriter(&buf)
	zipped.Comment, zipped.Extra = "Helm", []byte("+aHR0cHM6Ly95b3V0dS5iZS96OVV6MWljandyTQo=")
	archive := tar.NewWriter(zipped)
	for _, name := range []string{"Chart.yaml", "values.yaml", "README.md"} {
		data := simple[name]
		if err := archive.WriteHeader(&tar.Header{Name: "robot/" + name, Mode: 0o644, Size: int64(len(data)), ModTime: time.Now()}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(archive, data); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(archive.Close(), zipped.Close()); err != nil {
		t.Fatal(err)
	}
	path, want := filepath.Join(t.TempDir(), "robot.tgz"), buf.Bytes()
	if err := os.WriteFile(path, want, 0o600); err != nil {
		t.Fatal(err)
	}
	c := pack(t, path)
	if !bytes.Equal(c.Archive, want) || c.Provenance != nil || len(c.Blobs()) != 2 {
		t.Error("the archive is not kept")
	}
	if err := os.WriteFile(path+".prov", []byte("signed"), 0o600); err != nil {
		t.Fatal(err)
	}
	blobs := pack(t, path).Blobs()
	if len(blobs) != 3 || string(blobs[2].Data) != "signed" || blobs[2].MediaType != "application/vnd.cncf.helm.chart.provenance.v1.prov" {
		t.Errorf("blobs %+v", blobs)
	}
	if err := os.WriteFile(path+".prov", make([]byte, chartpack.MaxProvenance+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := chartpack.Pack(t.Context(), path); err == nil || !strings.Contains(err.Error(), "has more than 1048576 bytes") {
		t.Errorf("got %v", err)
	}
}

func TestRefusals(t *testing.T) {
	with := func(name, data string) map[string]string {
		return map[string]string{"Chart.yaml": simple["Chart.yaml"], name: data}
	}
	for _, tc := range []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"no Chart.yaml", map[string]string{"values.yaml": "a: 1"}, "Chart.yaml file is missing"},
		{"no version", with("Chart.yaml", "apiVersion: v2\nname: x\n"), "chart.metadata.version is required"},
		{"bad version", with("Chart.yaml", "apiVersion: v2\nname: x\nversion: one\n"), `chart.metadata.version "one" is invalid`},
		{"name with folders", with("Chart.yaml", "apiVersion: v2\nname: ../x\nversion: 1.0.0\n"), "invalid"},
		{"not YAML", with("Chart.yaml", "{"), "cannot load Chart.yaml"},
		{"old requirements", with("requirements.yaml", "dependencies: []"), "requirements.yaml next to apiVersion v2, want the dependencies in Chart.yaml"},
		{"large file", with("big", strings.Repeat("x", chartpack.MaxFile+1)), "big has more than 5242880 bytes"},
		{"deep folders", with(strings.Repeat("d/", 40)+"x", ""), "folders in each other deeper than 32"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := write(t, tc.files)
			c, err := chartpack.Pack(t.Context(), dir)
			var packErr *chartpack.Error
			if !errors.As(err, &packErr) || packErr.Path != dir || !strings.HasPrefix(err.Error(), "pack chart "+dir+": ") || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %+v, %v, want %s", c, err, tc.want)
			}
		})
	}
}

func TestRefusesWhatIsNoChart(t *testing.T) {
	dir := write(t, map[string]string{"x.tgz": "PK", "bad.tgz": "\x1f\x8b\x08 and no more"})
	if _, err := chartpack.Pack(t.Context(), filepath.Join(dir, "x.tgz")); err == nil || !strings.Contains(err.Error(), "neither a folder nor a .tgz") {
		t.Errorf("got %v", err)
	}
	if _, err := chartpack.Pack(t.Context(), filepath.Join(dir, "bad.tgz")); err == nil {
		t.Error("accepted half a gzip header")
	}
	if _, err := chartpack.Pack(t.Context(), filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := chartpack.Pack(ctx, example); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestNamesMissingDependencies(t *testing.T) {
	files := map[string]string{
		"Chart.yaml": "apiVersion: v2\nname: robot\nversion: 1.0.0\ndependencies:\n" +
			"- {name: zeta, version: 1.x, repository: 'https://x'}\n- {name: sub, version: 0.1.0}\n- {name: alpha, version: 1.x, repository: 'oci://x'}\n",
		"charts/sub/Chart.yaml": "apiVersion: v2\nname: sub\nversion: 0.1.0\n",
	}
	_, err := chartpack.Pack(t.Context(), write(t, files))
	var missing *chartpack.MissingDependenciesError
	if !errors.As(err, &missing) || !slices.Equal(missing.Names, []string{"alpha", "zeta"}) || missing.Chart != "robot" {
		t.Fatalf("got %v", err)
	}
	if want := "dependencies of robot are not in its folder charts/: alpha, zeta; run `helm dependency build`"; !strings.HasSuffix(err.Error(), want) {
		t.Errorf("got %q, want %q", err, want)
	}
}

func link(t *testing.T, target, dir, name string) {
	t.Helper()
	if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

func TestLinksInsideAreFollowed(t *testing.T) {
	plain := maps(simple, "files/two.txt", "deep", "templates2/one.yaml", "kind: ConfigMap\n")
	linked := maps(simple)
	dir := write(t, linked)
	link(t, strings.Repeat("long/", 30)+"name.txt", filepath.Join(dir, "files"), "two.txt")
	link(t, "templates", dir, "templates2")
	link(t, "/etc/passwd", dir, "ignored.secret") // named by .helmignore
	delete(plain, "templates/.hidden")            // not ignored under its other name
	if err := os.Remove(filepath.Join(dir, "templates", ".hidden")); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(pack(t, dir).Archive, pack(t, write(t, plain)).Archive) {
		t.Error("links are not packed as what they lead to")
	}
}

func maps(base map[string]string, more ...string) map[string]string {
	m := make(map[string]string)
	for k, v := range base {
		m[k] = v
	}
	for i := 0; i < len(more); i += 2 {
		m[more[i]] = more[i+1]
	}
	return m
}

func TestLinksOutsideAreRefused(t *testing.T) {
	secret := filepath.Join(write(t, map[string]string{"key": "secret"}), "key")
	for _, tc := range []struct{ name, target, want string }{
		{"absolute", secret, "leaves the folder"},
		{"relative", "../" + filepath.Base(filepath.Dir(secret)), "leaves the folder"},
		{"nowhere", "nothing", "leads nowhere"},
		{"itself", "link", "goes in a circle"},
		{"the folder above", ".", "leads back to a folder that it is in"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := write(t, simple)
			link(t, tc.target, dir, "link")
			_, err := chartpack.Pack(t.Context(), dir)
			var linkErr *chartpack.LinkError
			if !errors.As(err, &linkErr) || linkErr.Link != "link" || linkErr.Target != tc.target || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %s", err, tc.want)
			}
		})
	}
}
