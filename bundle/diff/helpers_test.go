package diff

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// draft is a bundle under construction, with its blobs in memory.
type draft struct {
	t       testing.TB
	blobs   map[digest.Digest][]byte
	lock    bundle.Lock
	spec    string
	entries []ocispec.Descriptor
	indexes []ocispec.Descriptor // layers of the lock
}

func newDraft(t testing.TB, version string) *draft {
	return &draft{t: t, blobs: make(map[digest.Digest][]byte), spec: "# bundle.yaml of " + version + "\n", lock: bundle.Lock{
		APIVersion: bundle.LockVersion, Name: "robot-stack", Version: version, Created: "2026-01-02T03:04:05Z",
		Builder: bundle.Tool{Name: "plimsoll", Version: "test"},
	}}
}

func (d *draft) Open(_ context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	data, ok := d.blobs[desc.Digest]
	if !ok {
		return nil, fmt.Errorf("%s: %w", desc.Digest, fs.ErrNotExist)
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

func (d *draft) put(mediaType string, data []byte) ocispec.Descriptor {
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	d.blobs[desc.Digest] = data
	return desc
}

func (d *draft) putJSON(mediaType string, v any) ocispec.Descriptor {
	d.t.Helper()
	data, err := strictjson.Marshal(v)
	if err != nil {
		d.t.Fatal(err)
	}
	return d.put(mediaType, data)
}

// manifest puts an artifact; a zero config is the empty one.
func (d *draft) manifest(m ocispec.Manifest) ocispec.Descriptor {
	d.t.Helper()
	m.Versioned, m.MediaType = specs.Versioned{SchemaVersion: 2}, ocispec.MediaTypeImageManifest
	if m.Config.Digest == "" {
		m.Config = d.put(ocispec.MediaTypeEmptyJSON, []byte("{}"))
	}
	return d.putJSON(ocispec.MediaTypeImageManifest, m)
}

// add lists an item under its manifest.
func (d *draft) add(it bundle.Item, desc ocispec.Descriptor) {
	it.Descriptor, it.Bytes = desc, desc.Size
	d.lock.Items = append(d.lock.Items, it)
	desc.Annotations = map[string]string{bundle.AnnotationItem: it.Name}
	d.entries = append(d.entries, desc)
}

// image adds an image of one platform with the layers.
func (d *draft) image(repository, tag string, config any, layers ...string) ocispec.Descriptor {
	d.t.Helper()
	m := ocispec.Manifest{Config: d.putJSON(ocispec.MediaTypeImageConfig, config)}
	for _, l := range layers {
		m.Layers = append(m.Layers, d.put(ocispec.MediaTypeImageLayer, []byte(l)))
	}
	desc := d.manifest(m)
	d.add(bundle.Item{
		Name: repository + ":" + tag, Kind: bundle.KindImage, Source: repository + ":" + tag, Repository: repository, Tags: []string{tag},
		Platforms: []bundle.Platform{{Platform: "linux/arm64", Digest: desc.Digest}},
	}, desc)
	return desc
}

// index adds an image whose index has one platform and an attestation manifest, as BuildKit writes them.
func (d *draft) index(repository string, platform, attestation ocispec.Descriptor) {
	platform.Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}
	attestation.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
	attestation.Annotations = map[string]string{
		"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": platform.Digest.String(),
	}
	layer := d.putJSON(bundle.MediaTypeIndexLayer, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{platform, attestation},
	})
	d.indexes = append(d.indexes, layer)
	it := bundle.Item{
		Name: repository, Kind: bundle.KindImage, Repository: repository, Tags: []string{"latest"}, Descriptor: layer,
		Platforms: []bundle.Platform{{Platform: "linux/amd64", Digest: platform.Digest}, {Platform: "unknown", Digest: attestation.Digest}},
	}
	it.Descriptor.MediaType = ocispec.MediaTypeImageIndex
	d.lock.Items = append(d.lock.Items, it)
	for _, m := range []ocispec.Descriptor{platform, attestation} {
		m = plain(m)
		m.Annotations = map[string]string{bundle.AnnotationItem: repository}
		d.entries = append(d.entries, m)
	}
}

// referrer adds what speaks of an image.
func (d *draft) referrer(repository string, subject ocispec.Descriptor, desc ocispec.Descriptor) {
	d.add(bundle.Item{
		Name: repository + "/referrers/" + desc.Digest.Encoded()[:16], Kind: bundle.KindReferrer, Repository: repository, Subject: subject.Digest,
	}, desc)
}

func (d *draft) file(path, content string) {
	layer := d.put(bundle.MediaTypeFileLayer, []byte(content))
	layer.Annotations = map[string]string{ocispec.AnnotationTitle: path}
	d.add(bundle.Item{
		Name: "files/" + path + ":" + d.lock.Version, Kind: bundle.KindFile, Repository: "files/" + path, Tags: []string{d.lock.Version},
		File: &bundle.File{Path: path, Mode: 0o644},
	}, d.manifest(ocispec.Manifest{ArtifactType: bundle.ArtifactTypeFile, Layers: []ocispec.Descriptor{layer}}))
}

func (d *draft) folder(path string, files map[string]string) {
	layer := d.put(bundle.MediaTypeFolder, archive(d.t, "", files))
	layer.Annotations = map[string]string{ocispec.AnnotationTitle: path}
	d.add(bundle.Item{
		Name: "files/" + path, Kind: bundle.KindFile, Repository: "files/" + path, Tags: []string{"latest"},
		File: &bundle.File{Path: path, Mode: 0o755, Folder: true},
	}, d.manifest(ocispec.Manifest{ArtifactType: bundle.ArtifactTypeFile, Layers: []ocispec.Descriptor{layer}}))
}

func (d *draft) chart(version string, content []byte) {
	config := d.putJSON(mediaTypeChartConfig, map[string]string{"apiVersion": "v2", "name": "robot-app", "version": version})
	d.add(bundle.Item{
		Name: "ghcr.io/acme/charts/robot-app:" + version, Kind: bundle.KindChart, Repository: "ghcr.io/acme/charts/robot-app", Tags: []string{version},
	}, d.manifest(ocispec.Manifest{Config: config, Layers: []ocispec.Descriptor{d.put(mediaTypeChart, content)}}))
}

func (d *draft) git(g bundle.Git, layers ...[]byte) {
	m := ocispec.Manifest{ArtifactType: bundle.ArtifactTypeGit, Config: d.putJSON(bundle.MediaTypeGitConfig, g)}
	for _, l := range layers {
		m.Layers = append(m.Layers, d.put(bundle.MediaTypeGitLayer, l))
	}
	d.add(bundle.Item{Name: "github.com/acme/deploy", Kind: bundle.KindGit, Repository: "github.com/acme/deploy", Git: &g}, d.manifest(m))
}

// side finishes the bundle and loads it as everybody does.
func (d *draft) side() Side {
	d.t.Helper()
	spec := d.put(bundle.MediaTypeSpec, []byte(d.spec))
	d.lock.Spec = spec.Digest
	data, err := d.lock.Encode()
	if err != nil {
		d.t.Fatal(err)
	}
	lock := d.manifest(ocispec.Manifest{ArtifactType: bundle.ArtifactTypeLock, Layers: append([]ocispec.Descriptor{d.put(bundle.MediaTypeLock, data), spec}, d.indexes...)})
	lock.Annotations = map[string]string{bundle.AnnotationItem: bundle.ItemLock}
	root := d.putJSON(ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, ArtifactType: bundle.ArtifactTypeBundle,
		Manifests: append([]ocispec.Descriptor{lock}, d.entries...),
	})
	b, err := bundle.Load(d.t.Context(), d, root)
	if err != nil {
		d.t.Fatal(err)
	}
	return Side{Bundle: b, Source: d}
}

// archive makes a gzipped tar; names are put into the folder.
func archive(t testing.TB, folder string, files map[string]string) []byte {
	t.Helper()
	var buf bytes.Buffer
	zw := gzip.NewWriter(&buf)
	tw := tar.NewWriter(zw)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: folder + name, Mode: 0o644, Size: int64(len(files[name]))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(tw, files[name]); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// repository is a real one, filled by `git fast-import`.
type repository struct {
	t   testing.TB
	dir string
	at  int64
}

func newRepository(t testing.TB) *repository {
	r := &repository{t: t, dir: filepath.Join(t.TempDir(), "r.git"), at: 1_768_000_000}
	r.git(nil, "init", "--quiet", "--bare", "--initial-branch=main", r.dir)
	return r
}

func (r *repository) git(stdin []byte, args ...string) []byte {
	r.t.Helper()
	cmd := exec.CommandContext(r.t.Context(), "git", args...)
	cmd.Dir = filepath.Dir(r.dir)
	if len(args) > 0 && args[0] != "init" {
		cmd.Dir = r.dir
	}
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "GIT_") }),
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL="+os.DevNull, "LC_ALL=C")
	cmd.Stdin = bytes.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		r.t.Fatalf("git %v: %v\n%s", args, err, stderr.Bytes())
	}
	return out
}

// commit adds a commit to a branch; from is its parent if the branch is new, and may be "".
func (r *repository) commit(branch, from, subject string, files map[string]string) {
	r.t.Helper()
	r.at += 3600
	var s bytes.Buffer
	fmt.Fprintf(&s, "commit refs/heads/%s\ncommitter Robo Tics <robo@acme.example> %d +0000\ndata %d\n%s\n", branch, r.at, len(subject), subject)
	if from != "" {
		fmt.Fprintf(&s, "from %s\n", from)
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		fmt.Fprintf(&s, "M 100644 inline %s\ndata %d\n%s\n", name, len(files[name]), files[name])
	}
	r.git(s.Bytes(), "fast-import", "--quiet", "--force", "--date-format=raw")
}

// pack gives the refs and a real Git bundle of what follows the exclusions.
func (r *repository) pack(exclude ...string) (bundle.Git, []byte) {
	r.t.Helper()
	g := bundle.Git{Head: "refs/heads/main", Version: "test"}
	for line := range strings.Lines(string(r.git(nil, "for-each-ref", "--format=%(refname) %(objectname) %(*objectname)"))) {
		f := strings.Fields(line)
		ref := bundle.GitRef{Name: f[0], OID: f[1]}
		if len(f) == 3 {
			ref.Peeled = f[2]
		}
		g.Refs = append(g.Refs, ref)
	}
	return g, r.git(nil, append([]string{"bundle", "create", "--quiet", "-", "--all"}, exclude...)...)
}

func toJSON(t testing.TB, v any) string {
	t.Helper()
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func mustCompare(t *testing.T, o Options, a, b Side) *Diff {
	t.Helper()
	d, err := o.Compare(t.Context(), a, b)
	if err != nil {
		t.Fatal(err)
	}
	again, err := o.Compare(t.Context(), a, b)
	if err != nil {
		t.Fatal(err)
	}
	if one, two := toJSON(t, d), toJSON(t, again); one != two {
		t.Errorf("two comparisons differ:\n%s\n%s", one, two)
	}
	return d
}
