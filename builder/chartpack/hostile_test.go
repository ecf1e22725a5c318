package chartpack_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/chart/loader"

	"github.com/plimsoll/plimsoll/builder/chartpack"
)

const meta = "apiVersion: v2\nname: robot\nversion: 1.0.0\n"

// entry is one entry of a hostile archive.
type entry struct {
	tar.Header
	data string
}

func file(name, data string) entry { return entry{tar.Header{Name: name, Typeflag: tar.TypeReg}, data} }

// zipped writes entries with nothing checked.
func zipped(t *testing.T, entries ...entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	archive := tar.NewWriter(z)
	for _, e := range entries {
		if e.Typeflag != tar.TypeXGlobalHeader {
			e.Mode, e.Size = 0o644, int64(len(e.data))
		}
		err := archive.WriteHeader(&e.Header)
		if err == nil && e.data != "" {
			_, err = archive.Write([]byte(e.data))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(archive.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// refused wants both ways in to refuse an archive, for little memory.
func refused(t *testing.T, archive []byte, want string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "robot.tgz")
	if err := os.WriteFile(path, archive, 0o600); err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := chartpack.FromArchive(archive, nil)
	runtime.ReadMemStats(&after)
	_, errPack := chartpack.Pack(t.Context(), path)
	for _, err := range []error{err, errPack} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	if used := (after.TotalAlloc - before.TotalAlloc) >> 20; used > 64 {
		t.Errorf("it took %d MiB", used)
	}
}

func TestArchiveWithPathTraversal(t *testing.T) {
	for _, name := range []string{"robot/../../etc/cron.d/x", "../x", "robot/templates/../../../x", `robot\..\..\x`, `robot/..\x`} {
		refused(t, zipped(t, file("robot/Chart.yaml", meta), file(name, "x")), "leaves the folder of the chart")
	}
}

func TestArchiveWithAbsoluteNames(t *testing.T) {
	for _, name := range []string{"/etc/passwd", "//x", `\x`, `C:\x`, "c:/x"} {
		refused(t, zipped(t, file("robot/Chart.yaml", meta), file(name, "x")), "an absolute name")
	}
	refused(t, zipped(t, file("robot/Chart.yaml", meta), file("robot//etc/passwd", "x")), "absolute path")
	refused(t, zipped(t, file("robot/Chart.yaml", meta), file("robot/c:/x", "x")), "illegally named")
}

func TestArchiveWithLinksAndDevices(t *testing.T) {
	for kind, want := range map[byte]string{
		tar.TypeSymlink: "robot/templates/x is a symbolic link, want files only", tar.TypeLink: "is a hard link", tar.TypeChar: "is a device",
		tar.TypeBlock: "is a device", tar.TypeFifo: "is a named pipe", tar.TypeCont: "is of tar type '7'",
	} {
		refused(t, zipped(t, file("robot/Chart.yaml", meta), entry{tar.Header{Name: "robot/templates/x", Typeflag: kind, Linkname: "/etc/passwd"}, ""}), want)
	}
}

func TestArchiveIsABomb(t *testing.T) {
	var buf bytes.Buffer
	z, err := gzip.NewWriterLevel(&buf, gzip.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	archive := tar.NewWriter(z)
	piece := make([]byte, chartpack.MaxFile)
	for i := range 30 { // 150 MiB
		if err := archive.WriteHeader(&tar.Header{Name: fmt.Sprintf("robot/%d", i), Mode: 0o644, Size: int64(len(piece))}); err != nil {
			t.Fatal(err)
		}
		if _, err := archive.Write(piece); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(archive.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	refused(t, buf.Bytes(), "more than 104857600 bytes when it is unpacked")
}

// TestArchiveIsABombOfFolders: data that no file has, here of folders, is in no file's size.
func TestArchiveIsABombOfFolders(t *testing.T) {
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	archive := tar.NewWriter(z)
	records := map[string]string{"PLIMSOLL.padding": strings.Repeat("x", 1<<19)}
	for range 400 {
		if err := archive.WriteHeader(&tar.Header{Name: "robot/x/", Typeflag: tar.TypeDir, PAXRecords: records}); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(archive.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "robot.tgz")
	if err := os.WriteFile(path, buf.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := chartpack.Pack(t.Context(), path); err == nil || !strings.Contains(err.Error(), "more than 104857600 bytes when it is unpacked") {
		t.Errorf("got %v", err)
	}
}

func TestArchiveWithALargeFile(t *testing.T) {
	refused(t, zipped(t, file("robot/Chart.yaml", meta), file("robot/big", strings.Repeat("x", chartpack.MaxFile+1))), "big has more than 5242880 bytes")
}

func TestArchiveWithAMillionEntries(t *testing.T) {
	for kind, count := range map[byte]int{tar.TypeReg: 1_000_000, tar.TypeDir: 20_000} {
		var buf bytes.Buffer
		z, err := gzip.NewWriterLevel(&buf, gzip.BestSpeed)
		if err != nil {
			t.Fatal(err)
		}
		archive := tar.NewWriter(z)
		for i := range count {
			if err := archive.WriteHeader(&tar.Header{Name: fmt.Sprintf("robot/%d", i), Typeflag: kind}); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(archive.Close(), z.Close()); err != nil {
			t.Fatal(err)
		}
		refused(t, buf.Bytes(), "more than 10000 files")
	}
}

func TestArchiveWithTwoChartYAML(t *testing.T) {
	refused(t, zipped(t, file("robot/Chart.yaml", meta), file("robot/Chart.yaml", "apiVersion: v2\nname: other\n")), "Chart.yaml is there twice, with different bytes")
	refused(t, zipped(t, file("robot/Chart.yaml", meta), file("other/./Chart.yaml", meta+"type: library\n")), "Chart.yaml is there twice")
	// The same bytes twice mean the same whoever reads them.
	if _, err := chartpack.FromArchive(zipped(t, file("robot/Chart.yaml", meta), file("robot/Chart.yaml", meta)), nil); err != nil {
		t.Error(err)
	}
}

// TestArchiveWithNamesThatDifferInCase: they are different files, for Helm and at the site.
func TestArchiveWithNamesThatDifferInCase(t *testing.T) {
	archive := zipped(t, file("robot/chart.yaml", "apiVersion: v2\nname: other\nversion: 9.9.9\n"), file("robot/Chart.yaml", meta),
		file("robot/templates/a.yaml", "kind: Pod"), file("robot/templates/A.yaml", "kind: Job"))
	c, err := chartpack.FromArchive(archive, nil)
	if err != nil || c.Name != "robot" || c.Version != "1.0.0" {
		t.Errorf("got %+v, %v", c, err)
	}
	if loaded, err := loader.LoadArchive(bytes.NewReader(archive)); err != nil || loaded.Name() != "robot" || len(loaded.Templates) != 2 {
		t.Errorf("Helm loads %+v, %v", loaded, err)
	}
}

func TestArchivesInArchives(t *testing.T) {
	deep := zipped(t, file("robot/Chart.yaml", meta))
	for range 20 {
		deep = zipped(t, file("robot/Chart.yaml", meta), file("robot/charts/robot-1.0.0.tgz", string(deep)))
	}
	refused(t, deep, "archives in each other deeper than 8")

	// 40 × 4 MiB, each within its own bounds.
	part := zipped(t, file("robot/Chart.yaml", meta), file("robot/zeros", strings.Repeat("\x00", 4<<20)))
	var parts []entry
	for i := range 40 {
		parts = append(parts, file(fmt.Sprintf("robot/charts/a/charts/%d.tgz", i), string(part)))
	}
	refused(t, zipped(t, append(parts, file("robot/Chart.yaml", meta))...), "tgz: more than 104857600 bytes when it is unpacked")

	refused(t, zipped(t, file("robot/Chart.yaml", meta), file("robot/charts/x.tgz", "PK")), "charts/x.tgz: ")
	// What Helm does not unpack may be anything.
	for _, name := range []string{"robot/files/x.tgz", "robot/charts/_x.tgz", "robot/charts/.d/charts/x.tgz"} {
		if _, err := chartpack.FromArchive(zipped(t, file("robot/Chart.yaml", meta), file(name, "PK")), nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestArchiveWithDeepFolders(t *testing.T) {
	refused(t, zipped(t, file("robot/Chart.yaml", meta), file("robot/"+strings.Repeat("charts/a/", 20_000)+"Chart.yaml", meta)), "a name of more than 4096 bytes")
	refused(t, zipped(t, file("robot/Chart.yaml", meta), file("robot/"+strings.Repeat("charts/a/", 20)+"Chart.yaml", meta)), "folders in each other deeper than 32")
}

// TestYAMLBombs: 120 kB of this become 770 MiB in Helm's loader.
func TestYAMLBombs(t *testing.T) {
	long := "a: &a " + strings.Repeat("x", 20_000) + "\nb: [" + strings.Repeat("*a,", 5000) + "]\n"
	for _, name := range []string{"values.yaml", "Chart.lock", "charts/sub/values.yaml", "requirements.yaml"} {
		refused(t, zipped(t, file("robot/Chart.yaml", meta), file("robot/"+name, long)), name+": more than 4194304 bytes are to be parsed")
	}
	refused(t, zipped(t, file("robot/Chart.yaml", meta+long)), "Chart.yaml: more than 4194304 bytes")
	refused(t, zipped(t, file("robot/Chart.yaml", meta), file("robot/values.yaml", "a: ["+strings.Repeat("x,", 1<<20)+"]")), "the limit for a file that is parsed is 1048576")
	var many []entry
	for i := range 8 {
		many = append(many, file(fmt.Sprintf("robot/charts/%d/values.yaml", i), "a: ["+strings.Repeat("x,", 1<<18)+"]"))
	}
	refused(t, zipped(t, append(many, file("robot/Chart.yaml", meta), file("robot/values.yaml", "a: ["+strings.Repeat("x,", 1<<18)+"]"))...), "more than 4194304 bytes")

	// Also in folders, where a Git repository may bring it.
	_, err := chartpack.Pack(t.Context(), write(t, map[string]string{"Chart.yaml": meta, "values.yaml": long}))
	if err == nil || !strings.Contains(err.Error(), "values.yaml: more than 4194304 bytes are to be parsed") {
		t.Errorf("got %v", err)
	}
	// Anchors as people use them are fine.
	c := pack(t, write(t, map[string]string{"Chart.yaml": meta, "values.yaml": "a: &a {x: 1}\nb: *a\nc:\n  <<: *a\n"}))
	if c.Name != "robot" {
		t.Errorf("got %+v", c)
	}
}

func TestFolderWithBackslash(t *testing.T) {
	_, err := chartpack.Pack(t.Context(), write(t, map[string]string{"Chart.yaml": meta, `files/..\..\x`: ""}))
	if err == nil || !strings.Contains(err.Error(), "a name with a backslash") {
		t.Errorf("got %v", err)
	}
}

func TestFromArchive(t *testing.T) {
	want := zipped(t, entry{tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "of git archive"}}, ""},
		entry{tar.Header{Name: "robot/", Typeflag: tar.TypeDir}, ""}, file("robot/Chart.yaml", meta), file(`robot\templates\a.yaml`, "kind: Pod"))
	c, err := chartpack.FromArchive(want, []byte("signed"))
	if err != nil || !bytes.Equal(c.Archive, want) || string(c.Provenance) != "signed" || c.Name != "robot" {
		t.Errorf("got %+v, %v", c, err)
	}
	for _, tc := range []struct {
		archive, provenance []byte
		want                string
	}{
		{[]byte("PK"), nil, "not a .tgz"},
		{make([]byte, chartpack.MaxChart+1), nil, "the limit for a chart is 104857600"},
		{want, make([]byte, chartpack.MaxProvenance+1), "provenance: 1048577 bytes"},
		{want[:len(want)/2], nil, "unexpected EOF"},
		{zipped(t, file("robot/Chart.yaml", meta+"dependencies: [{name: sub, version: 1.x}]")), nil, "sub; run `helm dependency build`"},
	} {
		if _, err := chartpack.FromArchive(tc.archive, tc.provenance); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("got %v, want %s", err, tc.want)
		}
	}
}
