package media

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/testbundle"
)

// layoutFiles reads a folder as path → content.
func layoutFiles(t testing.TB, dir string) map[string][]byte {
	t.Helper()
	files := make(map[string][]byte)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel := must(filepath.Rel(dir, path))(t)
		files[rel], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func writeFolder(t testing.TB, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, data := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, data, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func writeTar(t testing.TB, files map[string][]byte) string {
	t.Helper()
	var headers []tar.Header
	for _, name := range slices.Sorted(maps.Keys(files)) {
		headers = append(headers, tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(files[name])), Mode: 0o644})
	}
	return writeHeaders(t, headers, files)
}

func writeHeaders(t testing.TB, headers []tar.Header, files map[string][]byte) string {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, h := range headers {
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			must(tw.Write(files[strings.TrimPrefix(h.Name, "./")]))(t)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "bundle.tar")
	if err := os.WriteFile(path, buf.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestDamagedBlobs changes one blob in a folder and in a tar; Copy must say which, and write nothing that is a bundle.
func TestDamagedBlobs(t *testing.T) {
	b, dir := written(t, testbundle.Options{})
	layer := blobPath(b.Layer.Digest)
	flip := func(data []byte) []byte { data = slices.Clone(data); data[len(data)/2] ^= 1; return data }
	tests := []struct {
		name    string
		path    string
		change  func([]byte) []byte // nil removes it
		missing bool
	}{
		{"flipped byte", layer, flip, false},
		{"truncated", layer, func(d []byte) []byte { return d[:len(d)-1] }, false},
		{"longer than declared", layer, func(d []byte) []byte { return append(slices.Clone(d), 0) }, false},
		{"missing", layer, nil, true},
		{"flipped byte in a manifest", blobPath(b.Image.Manifests[0].Digest), flip, false},
		{"missing manifest", blobPath(b.Image.Manifests[0].Digest), nil, true},
		{"flipped byte in the index", blobPath(b.Root.Digest), flip, false},
		{"flipped byte beside the bundle", blobPath(b.Beside[0].Digest), flip, false},
		{"missing beside the bundle", blobPath(b.Beside[1].Digest), nil, true},
	}
	for _, tt := range tests {
		files := layoutFiles(t, dir)
		if tt.change == nil {
			delete(files, tt.path)
		} else {
			files[tt.path] = tt.change(files[tt.path])
		}
		for road, from := range map[string]string{"folder": writeFolder(t, files), "tar": writeTar(t, files)} {
			for kind, to := range map[string]string{"folder": filepath.Join(t.TempDir(), "out"), "tar": filepath.Join(t.TempDir(), "out.tar")} {
				err := carry(t.Context(), t, from, to)
				var damaged *bundle.DamagedError
				var missing *bundle.MissingError
				switch {
				case tt.missing && (!errors.As(err, &missing) || !errors.Is(err, fs.ErrNotExist) || blobPath(missing.Descriptor.Digest) != tt.path):
					t.Errorf("%s, %s → %s: %v, want a MissingError of it", tt.name, road, kind, err)
				case !tt.missing && (!errors.As(err, &damaged) || blobPath(damaged.Descriptor.Digest) != tt.path):
					t.Errorf("%s, %s → %s: %v, want a DamagedError of it", tt.name, road, kind, err)
				case tt.path == layer && !strings.Contains(err.Error(), "robot-app"):
					t.Errorf("%s: the error does not name the item: %v", tt.name, err)
				}
				if src, err := OpenSource(t.Context(), to, Options{}); err == nil {
					t.Errorf("%s, %s → %s: what was cut opens as %T", tt.name, road, kind, src)
				}
			}
		}
	}
}

func TestFolderStaysInside(t *testing.T) {
	b, dir := written(t, testbundle.Options{})
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, b.Data(b.Layer.Digest), 0o600); err != nil {
		t.Fatal(err)
	}
	blob := filepath.Join(dir, blobPath(b.Layer.Digest))
	for name, target := range map[string]string{"absolute": outside, "relative": must(filepath.Rel(filepath.Dir(blob), outside))(t)} {
		if err := errors.Join(os.RemoveAll(blob), os.Symlink(target, blob)); err != nil {
			t.Fatal(err)
		}
		if rc, err := source(t, dir, Options{}).Open(t.Context(), b.Layer); err == nil {
			t.Errorf("%s link: opened %v", name, rc)
		}
	}
	// A link that stays inside is how some tools save room.
	if err := errors.Join(os.Rename(outside, filepath.Join(dir, "inside")), os.Remove(blob), os.Symlink("../../inside", blob)); err != nil {
		t.Fatal(err)
	}
	must(bundle.ReadBlob(t.Context(), source(t, dir, Options{}), b.Layer, 1<<20))(t)

	// blobs/ itself may be the link.
	files := layoutFiles(t, dir)
	linked := writeFolder(t, map[string][]byte{"oci-layout": files["oci-layout"], "index.json": files["index.json"]})
	if err := os.Symlink(filepath.Join(dir, "blobs"), filepath.Join(linked, "blobs")); err != nil {
		t.Fatal(err)
	}
	src := source(t, linked, Options{})
	if rc, err := src.Open(t.Context(), b.Layer); err == nil {
		t.Errorf("through a linked blobs/: %v", rc)
	}
	if s, err := OpenSink(t.Context(), linked, Options{}); err == nil {
		t.Errorf("a sink through a linked blobs/: %v", s)
	}
	// What is no file is not waited for.
	for _, name := range []string{blob, filepath.Join(dir, "index.json")} {
		if err := errors.Join(os.Remove(name), mkfifo(name)); err != nil {
			t.Fatal(err)
		}
	}
	if rc, err := must(os.OpenRoot(dir))(t).Open("."); err != nil {
		t.Fatal(err, rc)
	}
	if src, err := OpenSource(t.Context(), dir, Options{}); err == nil {
		t.Errorf("index.json is a pipe: %v", src)
	}
	root := must(os.OpenRoot(dir))(t)
	if rc, err := (folderBlobs{root}).openAt(b.Layer, 0); err == nil {
		t.Errorf("a blob is a pipe: %v", rc)
	}
	if err := root.Close(); err != nil {
		t.Error(err)
	}
}

func TestStrictLayoutFiles(t *testing.T) {
	b, dir := written(t, testbundle.Options{})
	good := layoutFiles(t, dir)
	root := fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, b.Root.MediaType, b.Root.Digest, b.Root.Size)
	tests := map[string]struct{ file, content, want string }{
		"duplicate key":     {"index.json", `{"schemaVersion":2,"manifests":[],"manifests":[` + root + `]}`, "duplicate key"},
		"other case":        {"index.json", `{"schemaVersion":2,"manifests":[],"Manifests":[` + root + `]}`, ""},
		"trailing bytes":    {"index.json", `{"schemaVersion":2,"manifests":[]}{}`, "data after"},
		"not JSON":          {"index.json", "PK\x03\x04", ""},
		"schema version":    {"index.json", `{"schemaVersion":1,"manifests":[]}`, "schema version 1"},
		"media type":        {"index.json", `{"schemaVersion":2,"mediaType":"a/b","manifests":[]}`, "a/b"},
		"bad digest":        {"index.json", `{"schemaVersion":2,"manifests":[{"mediaType":"a/b","digest":"sha256:../../x","size":1}]}`, "digest"},
		"unknown algorithm": {"index.json", `{"schemaVersion":2,"manifests":[{"mediaType":"a/b","digest":"md5:d41d8cd98f00b204e9800998ecf8427e","size":1}]}`, "digest"},
		"negative size":     {"index.json", strings.Replace(`{"schemaVersion":2,"manifests":[`+root+`]}`, `"size":`, `"size":-`, 1), "size"},
		"too large":         {"index.json", `{"schemaVersion":2,"manifests":[]` + strings.Repeat(" ", maxIndex) + `}`, "limit"},
		"layout version":    {"oci-layout", `{"imageLayoutVersion":"2.0.0"}`, "2.0.0"},
		"layout not JSON":   {"oci-layout", ``, "oci-layout"},
		"layout too large":  {"oci-layout", `{"imageLayoutVersion":"1.0.0"` + strings.Repeat(" ", maxLayout) + `}`, "limit"},
	}
	for name, tt := range tests {
		files := maps.Clone(good)
		files[tt.file] = []byte(tt.content)
		for _, ref := range []string{writeFolder(t, files), writeTar(t, files)} {
			if _, err := OpenSource(t.Context(), ref, Options{}); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s: %v, want %q", name, err, tt.want)
			}
		}
		if _, err := OpenSink(t.Context(), writeFolder(t, files), Options{}); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: sink: %v, want %q", name, err, tt.want)
		}
	}
	for _, missing := range []string{"index.json", "oci-layout"} {
		files := maps.Clone(good)
		delete(files, missing)
		for _, ref := range []string{writeFolder(t, files), writeTar(t, files)} {
			var bad *RefError
			if _, err := OpenSource(t.Context(), ref, Options{}); !errors.As(err, &bad) || !strings.Contains(bad.Reason, missing) {
				t.Errorf("without %s: %v", missing, err)
			}
		}
	}
}

func TestHostileTar(t *testing.T) {
	_, dir := written(t, testbundle.Options{})
	files := layoutFiles(t, dir)
	var good []tar.Header
	for _, name := range slices.Sorted(maps.Keys(files)) {
		good = append(good, tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(files[name])), Mode: 0o644})
	}
	first := good[0]
	dotted := first
	dotted.Name = "./" + first.Name
	tests := map[string]struct {
		add  tar.Header
		want string
	}{
		"duplicate":               {first, "twice"},
		"duplicate by other name": {dotted, "twice"},
		"path traversal":          {tar.Header{Typeflag: tar.TypeReg, Name: "blobs/../../etc/passwd"}, "outside"},
		"absolute":                {tar.Header{Typeflag: tar.TypeReg, Name: "/etc/passwd"}, "outside"},
		"backslash":               {tar.Header{Typeflag: tar.TypeReg, Name: `..\x`}, "outside"},
		"symbolic link":           {tar.Header{Typeflag: tar.TypeSymlink, Name: "x", Linkname: "/etc"}, "not allowed"},
		"hard link":               {tar.Header{Typeflag: tar.TypeLink, Name: "x", Linkname: "index.json"}, "not allowed"},
		"device":                  {tar.Header{Typeflag: tar.TypeChar, Name: "x"}, "not allowed"},
		"pipe":                    {tar.Header{Typeflag: tar.TypeFifo, Name: "x"}, "not allowed"},
	}
	for name, tt := range tests {
		path := writeHeaders(t, append(slices.Clone(good), tt.add), files)
		if _, err := OpenSource(t.Context(), path, Options{}); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
	// What other tools put into a tar is passed over.
	for _, h := range good {
		h.Name = "./" + h.Name
		good = append(good[1:], h)
	}
	good = append([]tar.Header{{Typeflag: tar.TypeDir, Name: "./", Mode: 0o755}, {Typeflag: tar.TypeDir, Name: "./blobs/", Mode: 0o755},
		{Typeflag: tar.TypeReg, Name: "./manifest.json", Size: 2}, {Typeflag: tar.TypeReg, Name: "blobs/sha256/README", Size: 0}}, good...)
	files["manifest.json"] = []byte("[]")
	b := testbundle.New(t, testbundle.Options{})
	checkSame(t, b, writeHeaders(t, good, files))
}

func TestSparseTar(t *testing.T) {
	digestName := blobPath(digest.FromString("x"))
	for name, h := range map[string]*tar.Header{
		"old GNU": {Typeflag: tar.TypeGNUSparse, Name: digestName},
		"PAX":     {Typeflag: tar.TypeReg, Name: digestName, PAXRecords: map[string]string{"GNU.sparse.major": "1"}},
	} {
		if got, err := entryName(h); err == nil {
			t.Errorf("%s: %q is allowed", name, got)
		}
	}
}

func TestBrokenTar(t *testing.T) {
	_, dir := written(t, testbundle.Options{})
	data := must(os.ReadFile(writeTar(t, layoutFiles(t, dir))))(t)
	write := func(data []byte) string {
		path := filepath.Join(t.TempDir(), "x.tar")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for cut := 1; cut < len(data); cut += 700 {
		src, err := OpenSource(t.Context(), write(data[:len(data)-cut]), Options{})
		if err == nil && cut > 1536 { // what stands behind the last content is optional: its padding and two empty blocks
			t.Fatalf("cut by %d: it opens: %v", cut, src)
		}
	}
	var bad *RefError
	for name, content := range map[string][]byte{
		"gzip": append([]byte("\x1f\x8b\x08\x00"), data...), "zstd": []byte("\x28\xb5\x2f\xfd______"), "text": bytes.Repeat([]byte("no tar "), 1000), "empty": nil,
	} {
		if _, err := OpenSource(t.Context(), write(content), Options{}); !errors.As(err, &bad) {
			t.Errorf("%s: %v, want a RefError", name, err)
		}
	}
}

// TestHugeDeclaredSizes declares an exabyte everywhere; nobody may allocate it.
func TestHugeDeclaredSizes(t *testing.T) {
	const huge = 1 << 60
	b, dir := written(t, testbundle.Options{})
	files := layoutFiles(t, dir)
	files["index.json"] = fmt.Appendf(nil, `{"schemaVersion":2,"manifests":[{"mediaType":%q,"digest":%q,"size":%d}]}`, b.Root.MediaType, b.Root.Digest, int64(huge))
	layer := b.Layer
	layer.Size = huge
	header := tar.Header{Typeflag: tar.TypeReg, Name: blobPath(b.Layer.Digest), Size: huge, Format: tar.FormatGNU}
	var lying bytes.Buffer
	if err := tar.NewWriter(&lying).WriteHeader(&header); err != nil {
		t.Fatal(err)
	}
	lyingTar := filepath.Join(t.TempDir(), "lying.tar")
	if err := os.WriteFile(lyingTar, lying.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for _, ref := range []string{writeFolder(t, files), writeTar(t, files)} {
		src := source(t, ref, Options{})
		if _, err := src.Root(t.Context()); err == nil {
			t.Error("a root of an exabyte")
		}
		var damaged *bundle.DamagedError
		if _, err := src.Open(t.Context(), layer); !errors.As(err, &damaged) {
			t.Errorf("Open: %v", err)
		}
	}
	for _, ref := range []string{filepath.Join(t.TempDir(), "out"), filepath.Join(t.TempDir(), "out.tar")} {
		s := sink(t, ref, Options{})
		var damaged *bundle.DamagedError
		if err := s.Put(t.Context(), layer, strings.NewReader("short")); !errors.As(err, &damaged) {
			t.Errorf("Put: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := OpenSource(t.Context(), lyingTar, Options{}); err == nil || !strings.Contains(err.Error(), "declared") {
		t.Errorf("a tar with an entry of an exabyte: %v", err)
	}
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 32<<20 {
		t.Errorf("%d bytes were allocated", grown)
	}
}

func TestOpenAt(t *testing.T) {
	b, dir := written(t, testbundle.Options{})
	host := registryHost(t)
	if err := carry(t.Context(), t, dir, "oci://"+host+"/a:v1"); err != nil {
		t.Fatal(err)
	}
	want := b.Data(b.Layer.Digest)
	for _, ref := range []string{dir, writeTar(t, layoutFiles(t, dir)), "oci://" + host + "/a:v1"} {
		src := source(t, ref, plainHTTP).(RangeOpener)
		for _, offset := range []int64{0, 1, b.Layer.Size - 1, b.Layer.Size} {
			rc := must(src.OpenAt(t.Context(), b.Layer, offset))(t)
			var got bytes.Buffer
			must(got.ReadFrom(rc))(t)
			if err := rc.Close(); err != nil {
				t.Error(err)
			}
			if !bytes.Equal(got.Bytes(), want[offset:]) {
				t.Errorf("%s from %d: %d bytes differ", ref, offset, got.Len())
			}
		}
		for _, offset := range []int64{-1, b.Layer.Size + 1} {
			if _, err := src.OpenAt(t.Context(), b.Layer, offset); err == nil {
				t.Errorf("%s from %d: opened", ref, offset)
			}
		}
		if _, err := src.OpenAt(t.Context(), ocispec.Descriptor{MediaType: "a/b", Digest: digest.FromString("absent"), Size: 9}, 3); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: absent blob: %v", ref, err)
		}
	}
}
