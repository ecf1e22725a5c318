package diff

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/testbundle"
)

func load(t *testing.T, tb *testbundle.Bundle) Side {
	t.Helper()
	b, err := bundle.Load(t.Context(), tb, tb.Root)
	if err != nil {
		t.Fatal(err)
	}
	return Side{Bundle: b, Source: tb}
}

func TestTheSameBundle(t *testing.T) {
	a, b := load(t, testbundle.New(t, testbundle.Options{})), load(t, testbundle.New(t, testbundle.Options{}))
	a.Source, b.Source = nil, nil // nothing is read
	d := mustCompare(t, Options{Commits: true}, a, b)
	if want := (Diff{A: d.A, B: d.B}); !d.Equal() || toJSON(t, d) != toJSON(t, want) {
		t.Errorf("got %s", toJSON(t, d))
	}
}

func TestImageChanges(t *testing.T) {
	a := load(t, testbundle.New(t, testbundle.Options{}))
	b := load(t, testbundle.New(t, testbundle.Options{Version: "v1.5.5", Content: "CAMERA_OFFSET=4\n"}))
	d := mustCompare(t, Options{}, a, b)
	if d.Equal() || len(d.Added)+len(d.Removed) != 0 || len(d.Changed) != 1 || d.Unchanged != 4 {
		t.Fatalf("got %s", toJSON(t, d))
	}
	c := d.Changed[0]
	if c.New.Name != "robot-app" || c.Same || c.Old.Digest == c.New.Digest || len(c.Platforms) != 2 || c.Platforms[0].Platform != "linux/amd64" {
		t.Errorf("got %s", toJSON(t, c))
	}
	// The two layers of the image, one for each platform; camera's and the other items' are on both sides.
	if c.Layers.New.Blobs != 2 || c.Layers.Gone.Blobs != 2 || c.Layers.Shared.Blobs != 0 || len(c.NewLayers) != 2 || d.Layers.New != c.Layers.New {
		t.Errorf("layers %s, in all %s", toJSON(t, c.Layers), toJSON(t, d.Layers))
	}
	if want := []Field{{Name: "source", Old: "ghcr.io/acme/robot-app:v1.5.4", New: "ghcr.io/acme/robot-app:v1.5.5"}}; !slices.Equal(c.Fields, want) {
		t.Errorf("fields %v", c.Fields)
	}
	if want := []Field{{Name: "version", Old: "v1.5.4", New: "v1.5.5"}}; !slices.Equal(d.Metadata, want) {
		t.Errorf("metadata %v", d.Metadata)
	}
	if (d.Referrers != Referrers{Added: 1, Removed: 1}) {
		t.Errorf("referrers %+v", d.Referrers)
	}
}

// What is to be carried is what a copy to a place that has A must bring: counted here blob by blob.
func TestBytesToCarry(t *testing.T) {
	one := testbundle.New(t, testbundle.Options{})
	two := testbundle.New(t, testbundle.Options{Version: "v1.5.5", Content: "x\n", Padding: []byte(strings.Repeat("p", 10_000))})
	var want Share
	visit := func(tb *testbundle.Bundle, fn func(d digest.Digest, size int64)) {
		b := load(t, tb).Bundle
		seen := make(map[digest.Digest]bool)
		if err := b.Walk(t.Context(), tb, func(n bundle.Node) error {
			if !seen[n.Descriptor.Digest] {
				seen[n.Descriptor.Digest] = true
				fn(n.Descriptor.Digest, n.Descriptor.Size)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	visit(two, func(d digest.Digest, size int64) {
		if one.Data(d) != nil {
			want.Shared.add(size)
		} else {
			want.New.add(size)
		}
	})
	visit(one, func(d digest.Digest, size int64) {
		if two.Data(d) == nil {
			want.Gone.add(size)
		}
	})
	d := mustCompare(t, Options{Shallow: true}, load(t, one), load(t, two))
	if d.Blobs != want || d.Blobs.New.Bytes < 10_000 {
		t.Errorf("got %+v, want %+v", d.Blobs, want)
	}
}

func TestTagsMove(t *testing.T) {
	build := func(version string, fn func(d *draft)) Side {
		d := newDraft(t, version)
		d.file("always", "x")
		fn(d)
		return d.side()
	}
	a := build("v1", func(d *draft) {
		d.image("ghcr.io/acme/app", "v1.5.4", map[string]any{"config": map[string]any{"Env": []string{"A=1"}, "User": "1000"}}, "base", "app 4")
		d.image("ghcr.io/acme/many", "a", "a", "a")
		d.image("ghcr.io/acme/many", "b", "b", "b")
		d.image("ghcr.io/acme/gone", "v1", "c", "gone")
		d.image("ghcr.io/acme/retagged", "v1", "r", "r")
	})
	b := build("v2", func(d *draft) {
		d.image("ghcr.io/acme/app", "v1.5.5", map[string]any{"config": map[string]any{"Env": []string{"A=2"}, "User": "1000"}}, "base", "app 5")
		d.image("ghcr.io/acme/many", "c", "c", "c")
		d.image("ghcr.io/acme/came", "v1", "d", "came", "base")
		d.image("ghcr.io/acme/retagged", "v2", "r", "r")
	})
	d := mustCompare(t, Options{}, a, b)
	names := func(items []Item) string {
		var all []string
		for _, it := range items {
			all = append(all, it.Name)
		}
		return strings.Join(all, " ")
	}
	// Of the repository with many, nobody can say which became which.
	if got := names(d.Removed); got != "ghcr.io/acme/gone:v1 ghcr.io/acme/many:a ghcr.io/acme/many:b" {
		t.Errorf("removed %s", got)
	}
	if got := names(d.Added); got != "ghcr.io/acme/came:v1 ghcr.io/acme/many:c" {
		t.Errorf("added %s", got)
	}
	if s := d.Added[0].Layers; s.Shared.Blobs != 1 || s.New.Blobs != 1 {
		t.Errorf("of the image that came, one layer of two is at the site: %+v", s)
	}
	if len(d.Changed) != 3 {
		t.Fatalf("changed %s", toJSON(t, d.Changed))
	}
	app := d.Changed[0]
	if app.Old.Name != "ghcr.io/acme/app:v1.5.4" || app.New.Name != "ghcr.io/acme/app:v1.5.5" || app.Layers.Shared.Blobs != 1 || app.Layers.New.Blobs != 1 {
		t.Errorf("app %s", toJSON(t, app))
	}
	if want := []Field{{Name: "config.Env", Old: `["A=1"]`, New: `["A=2"]`}}; len(app.Platforms) != 1 || !slices.Equal(app.Platforms[0].Config, want) {
		t.Errorf("platforms %s", toJSON(t, app.Platforms))
	}
	if r := d.Changed[1]; !r.Same || r.New.Tags[0] != "v2" || r.Old.Tags[0] != "v1" || r.Platforms != nil {
		t.Errorf("retagged %s", toJSON(t, r))
	}
	if f := d.Changed[2]; !f.Same || f.New.Name != "files/always:v2" {
		t.Errorf("file %s", toJSON(t, f))
	}
}

func TestChart(t *testing.T) {
	chart := func(version string, files map[string]string) Side {
		d := newDraft(t, version)
		d.chart("1.2."+version, archive(t, "robot-app/", files))
		return d.side()
	}
	common := map[string]string{"templates/service.yaml": "kind: Service\n", "logo.png": "\x00\x01"}
	with := func(more map[string]string) map[string]string {
		all := map[string]string{}
		for _, m := range []map[string]string{common, more} {
			for name, text := range m {
				all[name] = text
			}
		}
		return all
	}
	a := chart("1", with(map[string]string{"values.yaml": "a: 1\nb: 2\n", "old.yaml": "x\n", "big.txt": strings.Repeat("x", MaxText+1)}))
	b := chart("2", with(map[string]string{"values.yaml": "a: 1\nb: 3\n", "templates/new.yaml": "y\n", "big.txt": strings.Repeat("x", MaxText+2)}))
	d := mustCompare(t, Options{}, a, b)
	if len(d.Changed) != 1 {
		t.Fatalf("changed %s", toJSON(t, d.Changed))
	}
	c := d.Changed[0]
	if want := []Field{{Name: "chart.version", Old: "1.2.1", New: "1.2.2"}}; !slices.Equal(c.Fields, want) {
		t.Errorf("fields %v", c.Fields)
	}
	want := []FileChange{
		{Path: "big.txt", Status: Changed, OldBytes: MaxText + 1, NewBytes: MaxText + 2},
		{Path: "old.yaml", Status: Removed, OldBytes: 2, Patch: "--- a/old.yaml\n+++ /dev/null\n@@ -1,1 +0,0 @@\n-x\n"},
		{Path: "templates/new.yaml", Status: Added, NewBytes: 2, Patch: "--- /dev/null\n+++ b/templates/new.yaml\n@@ -0,0 +1,1 @@\n+y\n"},
		{Path: "values.yaml", Status: Changed, OldBytes: 10, NewBytes: 10, Patch: "--- a/values.yaml\n+++ b/values.yaml\n@@ -1,2 +1,2 @@\n a: 1\n-b: 2\n+b: 3\n"},
	}
	if !slices.Equal(c.Files, want) {
		t.Errorf("files %s", toJSON(t, c.Files))
	}
	if d.Spec == nil || !strings.Contains(d.Spec.Patch, "-# bundle.yaml of 1\n+# bundle.yaml of 2\n") {
		t.Errorf("spec %s", toJSON(t, d.Spec))
	}
}

func TestFilesAndFolders(t *testing.T) {
	build := func(version, text, robot string) Side {
		d := newDraft(t, version)
		d.file("note.md", text)
		d.file("blob", "\x00"+text)
		d.folder("robots", map[string]string{"001/conf": robot, "002/conf": "same\n"})
		return d.side()
	}
	d := mustCompare(t, Options{}, build("1", "one\n", "x\n"), build("2", "two\n", "y\n"))
	files := make(map[string]string)
	for _, c := range d.Changed {
		for _, f := range c.Files {
			files[f.Path] = f.Patch
		}
	}
	if len(files) != 3 || !strings.HasSuffix(files["note.md"], "-one\n+two\n") || files["blob"] != "" || !strings.HasSuffix(files["001/conf"], "-x\n+y\n") {
		t.Errorf("got %q", files)
	}
}

// Hostile content leaves a note, damage and gaps are errors.
func TestUnreadableContent(t *testing.T) {
	build := func(version string, content []byte) *draft {
		d := newDraft(t, version)
		d.chart("1.0.0", content)
		return d
	}
	sound := archive(t, "c/", map[string]string{"values.yaml": "a\n"})
	odd := map[string][]byte{
		"gzip: invalid header": []byte("a chart is no archive"),
		"unexpected EOF":       sound[:len(sound)/2],
		"a path of 2000 bytes": archive(t, "", map[string]string{strings.Repeat("p", 2000): ""}),
	}
	many := make(map[string]string)
	for i := range MaxFiles + 1 {
		many[fmt.Sprint(i)] = ""
	}
	odd["more than 20000 files"] = archive(t, "c/", many)
	for want, content := range odd {
		d := mustCompare(t, Options{}, build("1", sound).side(), build("2", content).side())
		if notes := d.Changed[0].Notes; len(notes) != 1 || !strings.Contains(notes[0], want) {
			t.Errorf("notes %q, want %q", notes, want)
		}
	}
	b := build("2", archive(t, "c/", map[string]string{"values.yaml": "b\n"}))
	side := b.side()
	layer := side.Bundle.Lock.Items[0].Descriptor
	m, err := (&inventory{source: b}).manifest(t.Context(), layer)
	if err != nil {
		t.Fatal(err)
	}
	content := b.blobs[m.Layers[0].Digest]
	b.blobs[m.Layers[0].Digest] = append(slices.Clone(content[:len(content)-1]), content[len(content)-1]^1)
	var damaged *bundle.DamagedError
	if _, err := Compare(t.Context(), build("1", sound).side(), side); !errors.As(err, &damaged) {
		t.Errorf("damaged: %v", err)
	}
	delete(b.blobs, m.Layers[0].Digest)
	var missing *bundle.MissingError
	if _, err := Compare(t.Context(), build("1", sound).side(), side); !errors.As(err, &missing) {
		t.Errorf("missing: %v", err)
	}
}

func TestGit(t *testing.T) {
	r := newRepository(t)
	r.commit("main", "", "First", map[string]string{"robots/001.yaml": "tag: v1.5.4\n", "keep": "x\n", "gone": "y\n"})
	r.git(nil, "tag", "v1.5.4", "main")
	r.commit("canary", "refs/heads/main", "Try", map[string]string{"robots/001.yaml": "tag: canary\n"})
	g, data := r.pack()
	one := newDraft(t, "v1.5.4")
	one.git(g, data)
	a := one.side()

	r.commit("main", "refs/heads/main^0", "Second \x1b[31m"+strings.Repeat("long ", 100), map[string]string{"robots/001.yaml": "tag: v1.5.5\n"})
	r.commit("main", "refs/heads/main^0", "Third", map[string]string{"räume/\"new\"": "z"})
	r.git(nil, "-c", "user.name=x", "-c", "user.email=x", "tag", "-m", "annotated", "v1.5.5", "main")
	r.git(nil, "branch", "-D", "canary")
	r.commit("canary", "refs/heads/main^0^{commit}", "Aside", map[string]string{"c": "c\n"})
	g, data = r.pack()
	two := newDraft(t, "v1.5.5")
	two.git(g, data)
	b := two.side()

	temp := t.TempDir()
	d := mustCompare(t, Options{Commits: true, TempDir: temp}, a, b)
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("scratch is left: %v %v", left, err)
	}
	c := d.Changed[0]
	if len(c.Refs) != 3 || len(c.Notes) > 0 {
		t.Fatalf("got %s", toJSON(t, c))
	}
	canary, main, tag := c.Refs[0], c.Refs[1], c.Refs[2]
	if canary.Name != "refs/heads/canary" || canary.Lost != 1 || len(canary.Commits) != 3 || canary.Commits[0].Subject != "Aside" {
		t.Errorf("canary %s", toJSON(t, canary))
	}
	want := strings.Fields(string(r.git(nil, "rev-list", "main", "^v1.5.4")))
	if main.Name != "refs/heads/main" || main.Lost != 0 || len(main.Commits) != 2 || main.Commits[0].ID != want[0] || main.Commits[1].ID != want[1] ||
		main.Commits[0].Subject != "Third" || main.Commits[0].Author != "Robo Tics" || main.Commits[0].Time != "2026-01-10T03:06:40Z" || len(main.Commits[1].Subject) > maxGitText+10 {
		t.Errorf("main %s", toJSON(t, main))
	}
	if tag.Name != "refs/tags/v1.5.5" || tag.Status != Added || tag.New != want[0] || len(tag.Commits) != 2 {
		t.Errorf("tag %s", toJSON(t, tag))
	}
	files := make(map[string]FileChange)
	for _, f := range c.Files {
		files[f.Path] = f
	}
	if f := files["main:robots/001.yaml"]; !strings.HasSuffix(f.Patch, "-tag: v1.5.4\n+tag: v1.5.5\n") || f.OldBytes != 12 {
		t.Errorf("files %s", toJSON(t, c.Files))
	}
	if f := files[`main:räume/"new"`]; f.Status != Added || f.NewBytes != 1 {
		t.Errorf("files %s", toJSON(t, c.Files))
	}
	// Without the option only the refs are told.
	if d := mustCompare(t, Options{}, a, b); len(d.Changed[0].Refs) != 3 || d.Changed[0].Refs[1].Commits != nil || d.Changed[0].Files != nil {
		t.Errorf("got %s", toJSON(t, d.Changed[0]))
	}
}

// A layer that builds on another bundle is read when the other side has the base, and is a note when it has not.
func TestGitOnABase(t *testing.T) {
	r := newRepository(t)
	r.commit("main", "", "First", map[string]string{"f": strings.Repeat("line\n", 1000)})
	g, base := r.pack()
	one := newDraft(t, "1")
	one.git(g, base)
	r.git(nil, "tag", "base", "main")
	r.commit("main", "refs/heads/main^0", "Second", map[string]string{"f": strings.Repeat("line\n", 1000) + "end\n"})
	r.git(nil, "tag", "-d", "base")
	g2, more := r.pack("^main~1")
	two := newDraft(t, "2")
	two.git(g2, more)
	d := mustCompare(t, Options{Commits: true}, one.side(), two.side())
	if c := d.Changed[0]; len(c.Refs) != 1 || len(c.Refs[0].Commits) != 1 || len(c.Files) != 1 || !strings.HasSuffix(c.Files[0].Patch, "+end\n") {
		t.Errorf("got %s", toJSON(t, c))
	}
	d = mustCompare(t, Options{Commits: true}, two.side(), newGit(t, r, "3", "Third"))
	if c := d.Changed[0]; len(c.Refs) != 1 || len(c.Refs[0].Commits) != 1 {
		// The newer side has the whole history, so it has the base as well.
		t.Errorf("got %s", toJSON(t, c))
	}
	alone := newDraft(t, "4")
	r.commit("main", "refs/heads/main^0", "Fourth", map[string]string{"g": "g\n"})
	g4, last := r.pack("^main~1")
	alone.git(g4, last)
	d = mustCompare(t, Options{Commits: true}, two.side(), alone.side())
	if c := d.Changed[0]; len(c.Refs) != 1 || len(c.Notes) != 1 || !strings.Contains(c.Notes[0], "commits cannot be listed") {
		t.Errorf("got %s", toJSON(t, c))
	}
}

func newGit(t *testing.T, r *repository, version, subject string) Side {
	r.commit("main", "refs/heads/main^0", subject, map[string]string{"more": subject})
	g, data := r.pack()
	d := newDraft(t, version)
	d.git(g, data)
	return d.side()
}

func TestHostileGitLayers(t *testing.T) {
	r := newRepository(t)
	r.commit("main", "", "First", map[string]string{"f": "x\n"})
	g, sound := r.pack()
	one := newDraft(t, "1")
	one.git(g, sound)
	a := one.side()
	r.commit("main", "refs/heads/main^0", "Second", map[string]string{"f": "y\n"})
	g2, next := r.pack()
	pack := strings.Index(string(next), "PACK")
	huge := slices.Clone(next)
	copy(huge[pack+8:], "\xff\xff\xff\xff")
	flipped := slices.Clone(next)
	flipped[len(flipped)-30] ^= 1
	for name, layer := range map[string][]byte{
		"do not fit": huge, "not a git bundle": []byte("hello\n\n"), "index-pack": flipped, "cut short": next[:20], "no pack": next[:pack],
	} {
		d := newDraft(t, "2")
		d.git(g2, layer)
		got := mustCompare(t, Options{Commits: true}, a, d.side())
		if c := got.Changed[0]; len(c.Refs) != 1 || len(c.Notes) != 1 || !strings.Contains(c.Notes[0], name) {
			t.Errorf("%s: notes %q", name, c.Notes)
		}
	}
}

// Every byte that differs is named: also an annotation of the index, and fields that only the lock has.
func TestMetadata(t *testing.T) {
	build := func(fn func(d *draft)) Side {
		d := newDraft(t, "v1")
		d.file("f", "x")
		fn(d)
		return d.side()
	}
	a := build(func(*draft) {})
	d := mustCompare(t, Options{}, a, build(func(d *draft) { d.lock.Builder.Version = "other" }))
	if want := []Field{{Name: "builder.version", Old: "test", New: "other"}}; !slices.Equal(d.Metadata, want) || d.Unchanged != 1 {
		t.Errorf("got %s", toJSON(t, d))
	}
	need := bundle.Need{Kind: "image", Ref: "ghcr.io/acme/app:v1", Reason: "the site has it", Count: 1, Places: []bundle.Place{{Item: "files/f:v1"}}}
	d = mustCompare(t, Options{}, a, build(func(d *draft) {
		d.lock.Closure = &bundle.Closure{Renderings: []bundle.Rendering{}, Needs: []bundle.Need{need}}
	}))
	if d.Closure == nil || len(d.Closure.Added) != 1 || d.Closure.Added[0].Reason != "the site has it" || len(d.Metadata) != 0 {
		t.Errorf("got %s", toJSON(t, d))
	}
	var index ocispec.Index
	if err := json.Unmarshal(a.Bundle.Raw, &index); err != nil {
		t.Fatal(err)
	}
	index.Annotations = map[string]string{"org.opencontainers.image.revision": "abc"}
	other := a.Source.(*draft)
	root := other.putJSON(ocispec.MediaTypeImageIndex, index)
	b, err := bundle.Load(t.Context(), other, root)
	if err != nil {
		t.Fatal(err)
	}
	d = mustCompare(t, Options{}, a, Side{Bundle: b, Source: other})
	if want := []Field{{Name: "index.annotations.org.opencontainers.image.revision", New: "abc"}}; !slices.Equal(d.Metadata, want) {
		t.Errorf("got %s", toJSON(t, d.Metadata))
	}
}

// Two locks are compared without any blob, and say the same of the items.
func TestLocks(t *testing.T) {
	a := load(t, testbundle.New(t, testbundle.Options{}))
	b := load(t, testbundle.New(t, testbundle.Options{Version: "v1.5.5", Content: "x\n"}))
	d, whole := Locks(a.Bundle.Lock, b.Bundle.Lock), mustCompare(t, Options{Shallow: true}, a, b)
	if len(d.Changed) != 1 || toJSON(t, d.Changed[0].Platforms) != toJSON(t, whole.Changed[0].Platforms) ||
		toJSON(t, d.Metadata) != toJSON(t, whole.Metadata) || d.Referrers != whole.Referrers || d.Unchanged != whole.Unchanged {
		t.Errorf("got %s, want what %s says of the items", toJSON(t, d), toJSON(t, whole))
	}
	if d := Locks(a.Bundle.Lock, a.Bundle.Lock); len(d.Metadata)+len(d.Changed)+len(d.Added)+len(d.Removed) > 0 {
		t.Errorf("a lock differs from itself: %s", toJSON(t, d))
	}
}

// A side that names the same manifests again and again does not make the comparison endless.
func TestInventoryIsBounded(t *testing.T) {
	d := newDraft(t, "v1")
	for i := range 10 {
		d.image("ghcr.io/acme/app", fmt.Sprint("t", i), i, "one", "two", "three")
	}
	// The lock with two layers and a config, and of each image the manifest, its config and three layers.
	const visits = 4 + 10*5
	if _, err := takeInventory(t.Context(), d.side(), visits); err != nil {
		t.Error(err)
	}
	if _, err := takeInventory(t.Context(), d.side(), visits-1); err == nil || !strings.Contains(err.Error(), "too many blobs") {
		t.Errorf("got %v", err)
	}
}
