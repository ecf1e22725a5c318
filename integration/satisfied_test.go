package integration

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/rogpeppe/go-internal/txtar"
)

// Of forty references that are satisfied none is reported, and nothing that only looks like one. Take any image away, and
// that one is reported, alone.
func TestSatisfiedReferences(t *testing.T) {
	e := newSatisfied(t)
	_, built := e.mustBuild()
	images := e.spec().Spec.Images
	if len(images) != 40 {
		t.Fatalf("%d images, want 40", len(images))
	}
	for _, im := range images {
		wanted := 0
		for _, n := range built.Lock.Closure.Needs {
			if n.Item == im.Repository+":"+im.Tag {
				wanted++
			}
		}
		if wanted != 1 {
			t.Errorf("%s satisfies %d needs, want 1", im.Ref, wanted)
		}
	}
	needs := built.needs()
	for _, n := range []string{
		"chart oci://ghcr.io/acme/charts/from-oci 1.0.0", "chart https://charts.example.com from-classic 2.x",
		"git https://github.com/acme/other.git main", "git https://github.com/acme/other.git v1.0.0",
	} {
		if !slices.Contains(needs, n) {
			t.Errorf("no %s among the needs", n)
		}
	}
	if len(needs) != 44 {
		t.Errorf("%d needs, want 44:\n%s", len(needs), strings.Join(needs, "\n"))
	}
	for _, n := range needs {
		if strings.Contains(n, "decoy") {
			t.Errorf("reported: %s", n)
		}
	}
	for _, im := range images {
		t.Run("without "+im.Ref, func(t *testing.T) { e.checkWithout(t, im.Ref, built) })
	}
}

// checkWithout builds without one image.
func (e *example) checkWithout(t *testing.T, ref string, built inspected) {
	t.Helper()
	o := *e
	o.t, o.dir = t, filepath.Join(t.TempDir(), "without")
	data, err := os.ReadFile(filepath.Join(e.dir, "bundle.yaml"))
	o.check(err)
	edit(t, filepath.Join(o.dir, "bundle.yaml"), func(string) string { return strings.Replace(string(data), "    - "+ref+"\n", "", 1) })
	var want string
	for _, n := range built.Lock.Closure.Needs {
		if n.Item == ref {
			want = n.Ref
		}
	}
	gaps := o.gaps()
	if len(gaps) != 1 || gaps[0].Kind != "image" || gaps[0].Ref != want {
		t.Fatalf("gaps %v, want image %s alone", gaps, want)
	}
	if p := gaps[0].Places[0]; p.File == "" || p.Line == 0 || p.Object == "" {
		t.Errorf("place %+v", p)
	}
}

// newSatisfied publishes what testdata/satisfied.txtar says.
func newSatisfied(t *testing.T) *example {
	t.Helper()
	archive, err := txtar.ParseFile(filepath.Join("testdata", "satisfied.txtar"))
	if err != nil {
		t.Fatal(err)
	}
	world := t.TempDir()
	e := &example{fixture: releases(t), t: t, name: "satisfied", dir: filepath.Join(world, "satisfied")}
	e.check(txtar.Write(archive, e.dir))
	e.open(world)
	index := e.push("ghcr.io/acme/by-index-digest:1", "software of ghcr.io/acme/by-index-digest:1")
	e.push("ghcr.io/acme/by-platform-digest:1", "software of ghcr.io/acme/by-platform-digest:1")
	platforms, err := remote.Index(e.at("ghcr.io/acme/by-platform-digest:1"), remote.WithContext(t.Context()))
	e.check(err)
	manifest, err := platforms.IndexManifest()
	e.check(err)
	filled := strings.NewReplacer("INDEX_DIGEST", index.String(), "PLATFORM_DIGEST", manifest.Manifests[1].Digest.String())
	e.check(filepath.WalkDir(filepath.Join(e.dir, "git"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(path, []byte(filled.Replace(string(data))), 0o644)
	}))
	e.publish()
	return e
}
