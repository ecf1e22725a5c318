package origin

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plimsoll/plimsoll/bundle"
)

// needCorpus fails when the committed seeds are lost: a fuzz target without them tests nothing in CI.
func needCorpus(f *testing.F) {
	f.Helper()
	if entries, err := os.ReadDir(filepath.Join("testdata", "fuzz", f.Name())); err != nil || len(entries) == 0 {
		f.Fatalf("no seed corpus: %v", err)
	}
}

func FuzzLocalRef(f *testing.F) {
	needCorpus(f)
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParseLocal(text)
		if err != nil {
			return
		}
		if again, err := ParseLocal(r.String()); err != nil || again != r || !IsLocal(text) {
			t.Fatalf("%q is %+v, written again it is %+v (%v)", text, r, again, err)
		}
		if r.Path == "" || strings.ContainsAny(r.Path, ":\x00") || r.Digest != "" && r.Digest.Validate() != nil {
			t.Fatalf("%q is %+v", text, r)
		}
	})
}

func FuzzIndex(f *testing.F) {
	needCorpus(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		entries, err := parseIndex(data)
		if err != nil {
			return
		}
		list := &referrers{subject: subject}
		for _, d := range entries {
			if err := bundle.CheckDescriptor(d); err != nil {
				t.Fatal(err)
			}
			if p := blobPath(d.Digest); !filepath.IsLocal(p) || strings.Count(p, "/") != 2 {
				t.Fatalf("the digest %q became the path %q", d.Digest, p)
			}
			_ = isBeside(d)
			_ = list.add(d, "")
		}
		if n := len(list.sorted()); n > maxReferrers || n > len(entries) {
			t.Fatalf("%d referrers", n)
		}
	})
}

func FuzzTarIndex(f *testing.F) {
	needCorpus(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		index, err := indexTar(t.Context(), bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return
		}
		for name, e := range index.entries {
			if !filepath.IsLocal(name) {
				t.Fatalf("name %q", name)
			}
			if e.offset < 0 || e.size < 0 || e.offset > int64(len(data)) || e.size > int64(len(data))-e.offset {
				t.Fatalf("%q is at %+v of %d bytes", name, e, len(data))
			}
			if at, err := index.follow(name); err == nil && at.kind != tar.TypeReg {
				t.Fatalf("%q leads to %+v", name, at)
			}
		}
	})
}

// FuzzDockerArchive reads manifest.json and the config it names, over a tar that has two layers.
func FuzzDockerArchive(f *testing.F) {
	needCorpus(f)
	f.Fuzz(func(t *testing.T, manifest, config []byte) {
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		for _, e := range []struct {
			name string
			data []byte
		}{{"manifest.json", manifest}, {"c.json", config}, {"a/layer.tar", []byte("layer a")}, {"b/layer.tar", []byte("layer b")}} {
			if err := w.WriteHeader(&tar.Header{Name: e.name, Size: int64(len(e.data)), Mode: 0o644}); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(e.data); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.WriteHeader(&tar.Header{Name: "link.tar", Typeflag: tar.TypeSymlink, Linkname: "a/layer.tar"}); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		index, err := indexTar(t.Context(), bytes.NewReader(buf.Bytes()), int64(buf.Len()))
		if err != nil {
			t.Fatal(err)
		}
		image, err := readDockerArchive(t.Context(), index, LocalRef{Transport: TransportDockerArchive, Path: "x"})
		if err != nil {
			return
		}
		again, err := readDockerArchive(t.Context(), index, LocalRef{Transport: TransportDockerArchive, Path: "x"})
		if err != nil || !bytes.Equal(image.raw, again.raw) {
			t.Fatalf("two manifests of one archive: %s, %s (%v)", image.raw, again.raw, err)
		}
		for d, p := range image.places {
			if d.Validate() != nil || p.raw == nil && p.kind != tar.TypeReg {
				t.Fatalf("%q at %+v", d, p)
			}
		}
	})
}
