package chartpack

import (
	"bytes"
	"compress/gzip"
	"testing"

	"helm.sh/helm/v3/pkg/chart/loader"
)

// FuzzArchive takes a tar, not a .tgz, so that the fuzzer need not guess checksums of gzip. What passes the bounds is what
// Helm loads, and never more than they allow.
func FuzzArchive(f *testing.F) {
	f.Fuzz(func(t *testing.T, tarball []byte) {
		var buf bytes.Buffer
		z := gzip.NewWriter(&buf)
		if _, err := z.Write(tarball); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		c, err := FromArchive(buf.Bytes(), nil)
		if err != nil {
			return
		}
		loaded, err := loader.LoadArchive(bytes.NewReader(buf.Bytes()))
		if err != nil || loaded.Name() != c.Name || loaded.Metadata.Version != c.Version {
			t.Fatalf("Helm loads %+v, %v; want %s %s", loaded, err, c.Name, c.Version)
		}
		total := 0
		for _, file := range loaded.Raw {
			if total += len(file.Data); len(file.Data) > MaxFile || total > MaxChart {
				t.Fatalf("%s has %d bytes of %d", file.Name, len(file.Data), total)
			}
		}
	})
}

// FuzzLock: whatever Chart.lock says, it gives a version that Chart.yaml asks for, for each dependency, or an error.
func FuzzLock(f *testing.F) {
	f.Fuzz(func(t *testing.T, chartYAML, lock []byte, old bool) {
		name := "Chart.lock"
		if old {
			name = "requirements.lock"
		}
		loaded, err := load([]*loader.BufferedFile{{Name: "Chart.yaml", Data: chartYAML}, {Name: name, Data: lock}})
		if err != nil {
			return
		}
		versions, err := lockedVersions(loaded)
		if err != nil {
			return
		}
		if len(versions) != len(loaded.Metadata.Dependencies) {
			t.Fatalf("%d versions of %d dependencies", len(versions), len(loaded.Metadata.Dependencies))
		}
		for i, d := range loaded.Metadata.Dependencies {
			if loaded.Lock != nil && !satisfies(versions[i], d.Version) {
				t.Fatalf("%s: version %s, want %s", d.Name, versions[i], d.Version)
			}
		}
	})
}
