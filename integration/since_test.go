package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A build on top of an earlier bundle carries that bundle's Git layers as they are and one more with the new commits.
// A site gets the same repository by it, whether it has the earlier bundle or not, and an auditor the same bundle.
func TestIncrementalGit(t *testing.T) {
	e := newExample(t, "ros-stack")
	const item = "github.com/acme/ros-deployment"
	// Some megabytes that do not compress, so that a full layer is not small by itself.
	e.commit("ros-deployment", "main", map[string]func(string) string{"maps/warehouse.pgm": write(noise(4 << 20))})
	full, before := e.mustBuild()
	first := e.gitLayers(full, before, item)

	e.commit("ros-deployment", "main", map[string]func(string) string{"robots/amr-01.yaml": replace("warehouse-a", "warehouse-c")})
	edit(t, filepath.Join(e.dir, "bundle.yaml"), replace("version: 2026.1.0", "version: 2026.1.1"))
	next, after := e.mustBuild("--since", full)
	layers := e.gitLayers(next, after, item)
	if len(first) != 1 || len(layers) != 2 || layers[0].Digest != first[0].Digest {
		t.Fatalf("layers %v, then %v, want the first one kept and one more", first, layers)
	}
	if first[0].Size < 4<<20 || layers[1].Size > 4<<10 {
		t.Errorf("a commit that changes one word needs %d bytes after %d, want at most 4 KiB", layers[1].Size, first[0].Size)
	}
	checkRebuild(t, e, next)

	// A tag alone needs no objects.
	bare := filepath.Join(e.git, "ros-deployment.git")
	e.gitIn(bare, "tag", "v1.1.0", "main")
	edit(t, filepath.Join(e.dir, "bundle.yaml"), replace("version: 2026.1.1", "version: 2026.1.2"))
	tagged, tagLock := e.mustBuild("--since", next)
	if got := e.gitLayers(tagged, tagLock, item); len(got) != 3 || got[1].Digest != layers[1].Digest || got[2].Size > 4<<10 {
		t.Errorf("layers %v, want those before and a small one for the tag", got)
	}

	asTagged := filepath.Join(t.TempDir(), "as-tagged.git")
	e.gitIn(bare, "clone", "--quiet", "--mirror", bare, asTagged)

	// A branch that was rewritten: what it lost must not travel on, so that a new chain starts.
	e.gitIn(bare, "update-ref", "refs/heads/canary", "refs/heads/main")
	edit(t, filepath.Join(e.dir, "bundle.yaml"), replace("version: 2026.1.2", "version: 2026.1.3"))
	last, lastLock := e.mustBuild("--since", tagged)
	if got := e.gitLayers(last, lastLock, item); len(got) != 1 || got[0].Digest == first[0].Digest {
		t.Errorf("layers %v, want another one alone", got)
	}

	checkRebuild(t, e, last)

	for name, bundles := range map[string][]string{"site with all releases": {full, next, tagged, last}, "site with two": {full, tagged}, "new site": {tagged}} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			for _, b := range bundles {
				s.must("import", b)
			}
			s.start()
			s.follow(len(bundles))
			if bundles[len(bundles)-1] == last {
				e.checkMirror(t, s, item, bare)
			} else {
				e.checkMirror(t, s, item, asTagged)
			}
		})
	}
}

// checkMirror compares what a site serves with the repository: every ref, and every object that they lead to.
func (e *example) checkMirror(t *testing.T, s *site, item, bare string) {
	t.Helper()
	dir := t.TempDir()
	git := func(sub string, args ...string) string {
		out, err := s.relay.Git(t.Context(), filepath.Join(dir, sub), args...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	url := "$URL/git/" + item
	if got, want := git("", "ls-remote", "--quiet", url), e.gitIn(dir, "ls-remote", "--quiet", bare); got != want {
		t.Errorf("refs of the site\n%s\nwant\n%s", got, want)
	}
	git("", "clone", "--quiet", "--mirror", url, "mirror")
	git("mirror", "fsck", "--full", "--strict")
	list := []string{"rev-list", "--all", "--objects", "--no-object-names"}
	if got, want := sorted(git("mirror", list...)), sorted(e.gitIn(bare, list...)); got != want {
		t.Errorf("%d objects, want %d", strings.Count(got, "\n"), strings.Count(want, "\n"))
	}
}

// gitLayers are the layers of a Git item, as its manifest in a folder has them.
func (e *example) gitLayers(dir string, i inspected, item string) []ocispec.Descriptor {
	e.t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "blobs", "sha256", i.item(e.t, item).Descriptor.Digest.Encoded()))
	e.check(err)
	var m ocispec.Manifest
	e.check(json.Unmarshal(data, &m))
	return m.Layers
}

// bundle.lock.json keeps what tags meant when it was written, until it is told otherwise.
func TestLockedBuild(t *testing.T) {
	e := newExample(t, "third-party-charts")
	lock := func(args ...string) result {
		return e.plimsoll(append(append([]string{"lock", "-f", filepath.Join(e.dir, "bundle.yaml"), "--progress", "none"}, args...), e.mirrors()...)...)
	}
	if r := lock(); r.code != 0 || !strings.Contains(r.stdout, "+ image docker.io/library/busybox:1.37.0") {
		t.Fatalf("lock: exit code %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	_, first := e.mustBuild("--locked")
	if _, plain := e.mustBuild(); plain.Bundle.Digest != first.Bundle.Digest {
		t.Errorf("--locked gives %s, without %s", first.Bundle.Digest, plain.Bundle.Digest)
	}

	moved := e.push("docker.io/library/busybox:1.37.0", "busybox, patched")
	edit(t, filepath.Join(e.dir, "upstream", "charts", "mqtt-broker", "Chart.yaml"), replace("version: 2.4.1", "version: 2.4.2"))
	e.packCharts()
	if _, locked := e.mustBuild("--locked"); locked.Bundle.Digest != first.Bundle.Digest {
		t.Error("--locked follows a tag or a constraint")
	}
	if r := lock(); r.code != 0 || !strings.Contains(r.stdout, "nothing changed") {
		t.Errorf("lock moved something: exit code %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	r := lock("--update")
	for _, want := range []string{"~ image docker.io/library/busybox:1.37.0", "~ chart https://charts.example.com mqtt-broker ~2.4", moved.String(), "2.4.2"} {
		if r.code != 0 || !strings.Contains(r.stdout, want) {
			t.Errorf("lock --update: exit code %d, want %s in\n%s%s", r.code, want, r.stdout, r.stderr)
		}
	}
	_, updated := e.mustBuild("--locked")
	if updated.Bundle.Digest == first.Bundle.Digest || updated.item(t, "mqtt-broker:2.4.2").Descriptor.Digest == "" {
		t.Error("after lock --update the old chart or image is in the bundle")
	}

	edit(t, filepath.Join(e.dir, "bundle.yaml"), replace("  images:\n", "  images:\n    - quay.io/acme/new:1\n"))
	if r := e.build(filepath.Join(t.TempDir(), "out"), "--locked"); r.code == 0 || !strings.Contains(r.stderr, "quay.io/acme/new:1 is not in bundle.lock.json") {
		t.Errorf("an image that is not locked: exit code %d\n%s", r.code, r.stderr)
	}
}
