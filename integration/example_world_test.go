package integration

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	helmregistry "helm.sh/helm/v3/pkg/registry"
	helmrepo "helm.sh/helm/v3/pkg/repo"

	"github.com/plimsoll/plimsoll/builder/spec"
	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/examples/demo/seed"
	"github.com/plimsoll/plimsoll/internal/upstream"
)

// hosts are the registries that the examples name; all of them are one registry on this machine.
var hosts = []string{"docker.io", "ghcr.io", "quay.io", "registry.example.com:5000"}

// example is a copy of one folder of examples/, and the world that its bundle.yaml names: a registry, Git repositories
// and a repository of charts.
type example struct {
	*fixture
	t            *testing.T
	name         string
	dir          string   // of bundle.yaml
	git          string   // folder of NAME.git, for https://github.com/acme/NAME.git
	sbom         string   // digest of one that came with an image
	packed       string   // folder with an index.yaml and the charts of upstream/charts
	registry     string   // host:port
	repositories []string // in the registry
	charts       string   // URL of a server of packed
	env          []string
	shell        string // run before plimsoll: umask 077
}

// newExample copies the example and publishes what it needs.
func newExample(t *testing.T, name string) *example {
	t.Helper()
	world := t.TempDir()
	dir := filepath.Join(world, name)
	copyTree(t, filepath.Join("..", "examples", name), dir)
	e := &example{fixture: releases(t), t: t, name: name, dir: dir}
	switch name {
	case "robot-stack":
		copyTree(t, filepath.Join("..", "examples", "robot-deployment"), filepath.Join(world, "robot-deployment"))
		e.open(world)
		e.check(seed.Seed(t.Context(), e.registry, e.git, "v1.5.4"))
		e.repositories = append(e.repositories, seed.RobotApp, seed.CameraCalibration)
		return e
	case "k3s":
		e.download()
	}
	e.open(world)
	e.publish()
	return e
}

// open starts the world of an example.
func (e *example) open(world string) {
	e.t.Helper()
	e.git, e.packed = filepath.Join(world, "upstream-git"), filepath.Join(world, "packed")
	e.startRegistry()
	e.packCharts()
	e.serveCharts()
}

// publish makes the Git repositories and images of an example.
func (e *example) publish() {
	e.t.Helper()
	repositories, err := filepath.Glob(filepath.Join(e.dir, "git", "*"))
	e.check(err)
	for _, dir := range repositories {
		e.publishGit(dir)
	}
	e.publishImages()
}

func (e *example) check(err error) {
	e.t.Helper()
	if err != nil {
		e.t.Fatal(err)
	}
}

func (e *example) startRegistry() {
	registry, err := upstream.Start(e.t.Context(), e.t.TempDir())
	e.check(err)
	e.registry = registry.Host()
}

// spec reads the bundle.yaml.
func (e *example) spec() *spec.Bundle {
	e.t.Helper()
	file := filepath.Join(e.dir, "bundle.yaml")
	data, err := os.ReadFile(file)
	e.check(err)
	b, err := spec.Parse(file, data)
	e.check(err)
	return b
}

// publishImages pushes an image for each that bundle.yaml names in a registry, and the artifacts.
func (e *example) publishImages() {
	e.t.Helper()
	b := e.spec()
	for _, im := range b.Spec.Images {
		if im.Local.Transport == "" {
			e.push(im.Reference.String(), "software of "+im.Ref)
		}
	}
	for _, a := range b.Spec.Artifacts {
		e.pushArtifact(a.Reference.String(), "weights")
	}
	// One image comes with an SBOM of its own, which travels and keeps the build from making one.
	if i := slices.IndexFunc(b.Spec.Images, func(im spec.Image) bool { return strings.Contains(im.Ref, "ros-core") }); i >= 0 {
		e.sbom = e.attachSBOM(b.Spec.Images[i].Reference.String()).String()
	}
}

// at is where a reference of the example is in the registry.
func (e *example) at(ref string) name.Reference {
	e.t.Helper()
	_, rest, _ := strings.Cut(ref, "/")
	parsed, err := name.ParseReference(e.registry + "/" + rest)
	e.check(err)
	e.repositories = append(e.repositories, parsed.Context().RepositoryStr())
	return parsed
}

// push publishes an image for two platforms. The same content gives the same digest.
func (e *example) push(ref, content string) v1.Hash {
	e.t.Helper()
	idx := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arch := range []string{"amd64", "arm64"} {
		idx = mutate.AppendManifests(idx, mutate.IndexAddendum{
			Add: tinyImage(e.t, arch, content), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
	}
	e.check(remote.WriteIndex(e.at(ref), idx, remote.WithContext(e.t.Context())))
	digest, err := idx.Digest()
	e.check(err)
	return digest
}

// tinyImage is an image of one layer with one file.
func tinyImage(t *testing.T, arch, content string) v1.Image {
	t.Helper()
	var buf bytes.Buffer
	archive := tar.NewWriter(&buf)
	when := time.Date(2026, 1, 15, 9, 0, 0, 0, time.UTC)
	err := archive.WriteHeader(&tar.Header{Name: "software", Mode: 0o755, Size: int64(len(content)), ModTime: when, Typeflag: tar.TypeReg})
	if err == nil {
		_, err = archive.Write([]byte(content))
	}
	if err = errors.Join(err, archive.Close()); err != nil {
		t.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(buf.Bytes())), nil
	}, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		t.Fatal(err)
	}
	base, err := mutate.ConfigFile(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON),
		&v1.ConfigFile{OS: "linux", Architecture: arch, Created: v1.Time{Time: when}, RootFS: v1.RootFS{Type: "layers"}})
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.Append(base, mutate.Addendum{Layer: layer, MediaType: types.OCILayer})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// pushArtifact publishes what is no image: a model.
func (e *example) pushArtifact(ref, content string) {
	e.t.Helper()
	e.check(remote.Write(e.at(ref), artifact(e.t, "application/vnd.acme.model.v1", content), remote.WithContext(e.t.Context())))
}

func artifact(t *testing.T, mediaType types.MediaType, content string) v1.Image {
	t.Helper()
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), mediaType)
	img, err := mutate.Append(base, mutate.Addendum{Layer: static.NewLayer([]byte(content), mediaType), MediaType: mediaType})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// attachSBOM publishes an SPDX document that refers to an image, and gives its digest.
func (e *example) attachSBOM(ref string) v1.Hash {
	e.t.Helper()
	subject, err := remote.Head(e.at(ref), remote.WithContext(e.t.Context()))
	e.check(err)
	document := `{"spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT", "name": "upstream's own"}`
	sbom := mutate.Subject(artifact(e.t, "application/spdx+json", document), *subject).(v1.Image)
	digest, err := sbom.Digest()
	e.check(err)
	e.check(remote.Write(e.at(ref).Context().Digest(digest.String()), sbom, remote.WithContext(e.t.Context())))
	return digest
}

// packCharts packs upstream/charts as other teams do: with Helm, once into a classic repository, once into the registry.
func (e *example) packCharts() {
	e.t.Helper()
	e.check(os.MkdirAll(e.packed, 0o755))
	folders, err := filepath.Glob(filepath.Join(e.dir, "upstream", "charts", "*"))
	e.check(err)
	client, err := helmregistry.NewClient(helmregistry.ClientOptPlainHTTP(), helmregistry.ClientOptWriter(io.Discard))
	e.check(err)
	for _, folder := range folders {
		c, err := loader.LoadDir(folder)
		e.check(err)
		if _, err := os.Stat(filepath.Join(e.packed, c.Name()+"-"+c.Metadata.Version+".tgz")); err == nil {
			continue // published already; Helm would write the time of day into it again
		}
		archive, err := chartutil.Save(c, e.packed)
		e.check(err)
		data, err := os.ReadFile(archive)
		e.check(err)
		_, err = client.Push(data, e.registry+"/acme/charts/"+c.Name()+":"+c.Metadata.Version,
			helmregistry.PushOptCreationTime("2026-01-15T09:00:00Z"))
		e.check(err)
		e.repositories = append(e.repositories, "acme/charts/"+c.Name())
	}
	index, err := helmrepo.IndexDirectory(e.packed, "")
	e.check(err)
	e.check(index.WriteFile(filepath.Join(e.packed, "index.yaml"), 0o644))
}

func (e *example) serveCharts() {
	server := httptest.NewServer(http.FileServer(http.Dir(e.packed)))
	e.t.Cleanup(server.Close)
	e.charts = server.URL
}

// download stands for the CI job that k3s/bundle.yaml describes. What is in the files does not matter here.
func (e *example) download() {
	e.t.Helper()
	dir := filepath.Join(e.dir, "download")
	e.check(os.Mkdir(dir, 0o755))
	var list strings.Builder
	for _, im := range e.spec().Spec.Images {
		list.WriteString(im.Ref + "\n")
	}
	for file, content := range map[string]string{
		"k3s": "\x7fELF amd64", "k3s-arm64": "\x7fELF arm64", "install.sh": "#!/bin/sh\n", "k3s-images.txt": list.String(),
	} {
		mode := os.FileMode(0o755)
		if strings.HasSuffix(file, ".txt") {
			mode = 0o644
		}
		e.check(os.WriteFile(filepath.Join(dir, file), []byte(content), mode))
	}
}

// publishGit makes a repository of a folder: main with a tag, and canary with one commit more.
func (e *example) publishGit(dir string) {
	e.t.Helper()
	bare := filepath.Join(e.git, filepath.Base(dir)+".git")
	work := filepath.Join(e.t.TempDir(), "work")
	copyTree(e.t, dir, work)
	e.gitIn(work, "init", "--quiet", "--initial-branch=main")
	e.gitIn(work, "add", "--all")
	e.gitIn(work, "commit", "--quiet", "--message=First")
	e.gitIn(work, "tag", "--annotate", "--message=First", "v1.0.0")
	e.gitIn(work, "clone", "--quiet", "--bare", work, bare)
	e.gitIn(bare, "branch", "canary")
	e.commit(filepath.Base(dir), "canary", map[string]func(string) string{"README.md": func(s string) string { return s + "\nThis is canary.\n" }})
}

// commit changes files on a branch of a published repository. A file that is not there is empty before.
func (e *example) commit(repository, branch string, changes map[string]func(string) string) {
	e.t.Helper()
	bare := filepath.Join(e.git, repository+".git")
	work := filepath.Join(e.t.TempDir(), "work")
	e.gitIn(bare, "clone", "--quiet", "--branch", branch, bare, work)
	for file, change := range changes {
		edit(e.t, filepath.Join(work, filepath.FromSlash(file)), change)
	}
	e.gitIn(work, "add", "--all")
	e.gitIn(work, "commit", "--quiet", "--message=Change "+branch)
	e.gitIn(work, "push", "--quiet", "origin", "HEAD:refs/heads/"+branch)
}

// edit changes a file, or makes it.
func edit(t *testing.T, file string, change func(string) string) {
	t.Helper()
	before, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	after := change(string(before))
	if after == string(before) {
		t.Fatalf("%s: nothing was changed", file)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(after), 0o644); err != nil {
		t.Fatal(err)
	}
}

// gitIn runs git without the settings of this machine, at a fixed time.
func (e *example) gitIn(dir string, args ...string) string {
	e.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "GIT_") }),
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_AUTHOR_NAME=Acme", "GIT_AUTHOR_EMAIL=robots@acme.example",
		"GIT_COMMITTER_NAME=Acme", "GIT_COMMITTER_EMAIL=robots@acme.example",
		"GIT_AUTHOR_DATE=2026-03-01T10:00:00Z", "GIT_COMMITTER_DATE=2026-03-01T10:00:00Z")
	out, err := cmd.CombinedOutput()
	if err != nil {
		e.t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// copyTree copies a folder with the modes of its files.
func copyTree(t *testing.T, from, to string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

// mirrors are the arguments that lead to the world of the example.
func (e *example) mirrors() []string {
	args := []string{"--registry-mirror", "charts.example.com=" + e.charts}
	for _, host := range hosts {
		args = append(args, "--registry-mirror", host+"=http://"+e.registry)
	}
	return args
}

// result is how a program ended.
type result struct {
	stdout, stderr string
	code           int
}

// plimsoll runs plimsoll with the Git repositories of the example in the place of GitHub.
func (e *example) plimsoll(args ...string) result {
	e.t.Helper()
	cmd := e.command("plimsoll", args...).Cmd
	if e.shell != "" {
		cmd = exec.Command("sh", append([]string{"-c", e.shell + ` && exec "$0" "$@"`}, cmd.Args...)...)
	}
	cmd.Env = slices.DeleteFunc(append(slices.Clone(e.fixture.env), e.env...), func(s string) bool {
		return strings.HasPrefix(s, "GIT_CONFIG_") || strings.HasPrefix(s, "SOURCE_DATE_EPOCH=")
	})
	cmd.Env = append(cmd.Env, "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=url."+e.git+"/.insteadOf", "GIT_CONFIG_VALUE_0=https://github.com/acme/")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		e.t.Fatal(err)
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// build builds the example's bundle.yaml, or another file, into a new place. SBOMs are made only for the robot stack,
// whose images hold programs.
func (e *example) build(out string, args ...string) result {
	e.t.Helper()
	all := []string{
		"build", "-f", filepath.Join(e.dir, "bundle.yaml"), "-o", out, "--sign", e.path("keys", "release.key"),
		"--attest", e.path("keys", "attest.key"), "--progress", "none",
	}
	if e.name != "robot-stack" {
		all = append(all, "--no-sbom")
	}
	return e.plimsoll(append(append(all, e.mirrors()...), args...)...)
}

// mustBuild builds into a folder and gives its path and lock.
func (e *example) mustBuild(args ...string) (string, inspected) {
	e.t.Helper()
	out := filepath.Join(e.t.TempDir(), "bundle")
	if r := e.build(out, args...); r.code != 0 {
		e.t.Fatalf("build %s: exit code %d\n%s%s", e.name, r.code, r.stdout, r.stderr)
	}
	return out, e.inspect(out)
}

// inspected is what plimsoll inspect --json prints.
type inspected struct {
	Bundle ocispec.Descriptor `json:"bundle"`
	Lock   bundle.Lock        `json:"lock"`
}

func (e *example) inspect(ref string) inspected {
	e.t.Helper()
	r := e.plimsoll("inspect", "--json", ref)
	if r.code != 0 {
		e.t.Fatalf("inspect %s: %s", ref, r.stderr)
	}
	var i inspected
	e.check(json.Unmarshal([]byte(r.stdout), &i))
	return i
}

// needs gives what the completeness proof found, as people read it: "image ghcr.io/acme/x:1".
func (i inspected) needs() []string {
	if i.Lock.Closure == nil {
		return nil
	}
	var list []string
	for _, n := range i.Lock.Closure.Needs {
		s := n.Kind + " " + n.Ref
		if n.Chart != "" {
			s += " " + n.Chart
		}
		if n.Version != "" {
			s += " " + n.Version
		}
		list = append(list, s)
	}
	return list
}

// item finds an item by the end of its name, or by its digest.
func (i inspected) item(t *testing.T, name string) bundle.Item {
	t.Helper()
	for _, it := range i.Lock.Items {
		if strings.HasSuffix(it.Name, name) || it.Descriptor.Digest.String() == name {
			return it
		}
	}
	t.Fatalf("no item %s", name)
	return bundle.Item{}
}

// copyRegistry fills another registry with all that the example put into this one, the last repository first.
func (e *example) copyRegistry(to string) {
	e.t.Helper()
	for _, repository := range slices.Backward(slices.Compact(slices.Sorted(slices.Values(e.repositories)))) {
		from, err := name.NewRepository(e.registry + "/" + repository)
		e.check(err)
		tags, err := remote.List(from, remote.WithContext(e.t.Context()))
		e.check(err)
		for _, tag := range tags {
			desc, err := remote.Get(from.Tag(tag), remote.WithContext(e.t.Context()))
			e.check(err)
			target, err := name.NewTag(to + "/" + repository + ":" + tag)
			e.check(err)
			if idx, err := desc.ImageIndex(); desc.MediaType.IsIndex() {
				e.check(err)
				e.check(remote.WriteIndex(target, idx, remote.WithContext(e.t.Context())))
				continue
			}
			img, err := desc.Image()
			e.check(err)
			e.check(remote.Write(target, img, remote.WithContext(e.t.Context())))
		}
	}
}

// tar packs a folder as skopeo writes an oci-archive.
func (e *example) tar(dir, file string) {
	e.t.Helper()
	out, err := os.Create(file)
	e.check(err)
	w := tar.NewWriter(out)
	e.check(w.AddFS(os.DirFS(dir)))
	e.check(errors.Join(w.Close(), out.Close()))
}

// noise is text that no compression makes small, the same each time.
func noise(n int) string {
	buf := make([]byte, n)
	rand.NewChaCha8([32]byte{}).Read(buf) //nolint:errcheck // never fails
	return string(buf)
}

func sorted(lines string) string {
	list := strings.Split(lines, "\n")
	slices.Sort(list)
	return strings.Join(list, "\n")
}
