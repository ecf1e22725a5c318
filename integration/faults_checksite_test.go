package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/bundle/media"
	"github.com/plimsoll/plimsoll/relay"
)

// blobs are the digests of the layers of images that a release brings: they are read only when everything is.
func (w *faultReleases) blobs(t *testing.T, version string) map[digest.Digest]bool {
	t.Helper()
	src, err := media.OpenSource(t.Context(), w.bundle(version), media.Options{})
	if err != nil {
		t.Fatal(err)
	}
	root, err := src.Root(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b, err := bundle.Load(t.Context(), src, root)
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[digest.Digest]bool)
	if err := b.Walk(t.Context(), src, func(n bundle.Node) error {
		if strings.HasPrefix(n.Descriptor.MediaType, ocispec.MediaTypeImageLayer) {
			all[n.Descriptor.Digest] = true
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

// own gives the path of a blob that only one of the releases has.
func (w *faultReleases) own(t *testing.T, version string) string {
	t.Helper()
	others := make(map[digest.Digest]bool)
	for _, v := range []string{"v1", "v2", "v3"} {
		if v != version {
			for d := range w.blobs(t, v) {
				others[d] = true
			}
		}
	}
	for d := range w.blobs(t, version) {
		if !others[d] {
			return filepath.Join("store", "blobs", "sha256", d.Encoded()[:2], d.Encoded())
		}
	}
	t.Fatalf("%s has no blob of its own", version)
	return ""
}

func flipByte(t *testing.T, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.Chmod(path, 0o644); err != nil { // git's packs are read-only
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// Each kind of damage is found, named, and weighed by whether it is served.
func TestCheckSiteFindsDamage(t *testing.T) {
	w := newFaultWorld(t)
	base := w.base(t, []step{{"import", "v1"}, {"import", "v2"}, {"stage", "v3"}})
	remove := func(t *testing.T, path string) {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	packs := func(t *testing.T, data string, do func(*testing.T, string)) {
		found, err := filepath.Glob(filepath.Join(data, "git", "store.git", "objects", "pack", "*.pack"))
		if err != nil || len(found) == 0 {
			t.Fatalf("%v, %v", found, err)
		}
		do(t, found[0])
	}
	for name, tc := range map[string]struct {
		harm            func(t *testing.T, data string)
		want            relay.ViolationKind // "" for none
		warning, unread bool                // it is a warning; it is not found without reading
		read            bool                // where it is bad decides whether it is found without reading
	}{
		"nothing":                {harm: func(*testing.T, string) {}},
		"an active blob is gone": {harm: func(t *testing.T, data string) { remove(t, filepath.Join(data, w.own(t, "v2"))) }, want: relay.BlobMissing},
		"an active blob is bad":  {harm: func(t *testing.T, data string) { flipByte(t, filepath.Join(data, w.own(t, "v2"))) }, want: relay.BlobDamaged, unread: true},
		"a kept blob is gone":    {harm: func(t *testing.T, data string) { remove(t, filepath.Join(data, w.own(t, "v1"))) }, want: relay.BlobMissing, warning: true},
		"a staged blob is gone":  {harm: func(t *testing.T, data string) { remove(t, filepath.Join(data, w.own(t, "v3"))) }, want: relay.BlobMissing},
		"a pack is gone":         {harm: func(t *testing.T, data string) { packs(t, data, remove) }, want: relay.GitBroken, read: true}, // another may have all of it
		"a pack is bad":          {harm: func(t *testing.T, data string) { packs(t, data, flipByte) }, want: relay.GitBroken, read: true},
		"another release":        {harm: func(t *testing.T, data string) { edit(t, filepath.Join(data, "active.json"), replace(`"v2"`, `"v9"`)) }, want: relay.BundleBroken},
		"a ref is another": {harm: func(t *testing.T, data string) {
			edit(t, filepath.Join(data, "git/gen-2/github.com/acme/app.git/packed-refs"), replace("v2", "v9"))
		}, want: relay.GitUntrue, warning: true},
		"the generation is gone":   {harm: func(t *testing.T, data string) { must(t, os.RemoveAll(filepath.Join(data, "git/gen-2"))) }, want: relay.GitUntrue, warning: true},
		"an active record is gone": {harm: func(t *testing.T, data string) { removeRecord(t, data, `"v2"`) }, want: relay.NoRecord},
		"a kept record is gone":    {harm: func(t *testing.T, data string) { removeRecord(t, data, `"v1"`) }, want: relay.NoRecord, warning: true},
	} {
		t.Run(name, func(t *testing.T) {
			data := filepath.Join(t.TempDir(), "data")
			must(t, copyFolder(data, base))
			tc.harm(t, data)
			for _, hash := range []bool{true, false} {
				if tc.read && !hash {
					continue
				}
				r, err := openFaulty(t.Context(), data)
				must(t, err)
				rep := r.CheckSite(t.Context(), relay.CheckOptions{Hash: hash})
				found, other := rep.Violations, rep.Warnings
				if tc.warning {
					found, other = other, found
				}
				want := tc.want != "" && (hash || !tc.unread)
				if len(other) > 0 || want != (len(found) > 0) || want && found[0].Kind != tc.want {
					t.Errorf("hash %v: violations %v, warnings %v, want %q", hash, rep.Violations, rep.Warnings, tc.want)
				}
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// removeRecord removes the record of a release.
func removeRecord(t *testing.T, data, version string) {
	t.Helper()
	records, err := filepath.Glob(filepath.Join(data, "releases", "*.json"))
	must(t, err)
	for _, path := range records {
		text, err := os.ReadFile(path)
		must(t, err)
		if strings.Contains(string(text), `"version":`+version) || strings.Contains(string(text), `"version": `+version) {
			must(t, os.Remove(path))
			return
		}
	}
	t.Fatalf("no record of %s in %v", version, records)
}
