package journal

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
)

const manyRecords = 100_000

// large is a journal of 100,000 records, written without a sync for each.
func large(b *testing.B) *Journal {
	b.Helper()
	dir := b.TempDir()
	j := &Journal{dir: dir, options: Options{Identity: newIdentity(b)}}
	records, err := os.Create(filepath.Join(dir, recordsFile))
	if err != nil {
		b.Fatal(err)
	}
	hashes, err := os.Create(filepath.Join(dir, hashesFile))
	if err != nil {
		b.Fatal(err)
	}
	w, wh := bufio.NewWriter(records), bufio.NewWriter(hashes)
	t := &tree{}
	for i := range int64(manyRecords) {
		detail := fmt.Sprintf(`{"from":"oci://registry.example/acme/stack:v1.%d","reason":"%064x"}`, i, i)
		line, err := encodeRecord(Entry{Index: i, Time: then, Kind: "import-refused", Detail: []byte(detail)})
		if err != nil {
			b.Fatal(err)
		}
		w.Write(append(line, '\n')) //nolint:errcheck // Flush says it
		for _, h := range t.add(tlog.RecordHash(line)) {
			wh.Write(h[:]) //nolint:errcheck // Flush says it
		}
	}
	c, err := j.sign(t)
	if err != nil {
		b.Fatal(err)
	}
	for _, err := range []error{w.Flush(), wh.Flush(), records.Sync(), records.Close(), hashes.Close(), j.writeNext(c),
		os.Rename(j.path(nextCheckpoint), j.path(checkpointFile))} {
		if err != nil {
			b.Fatal(err)
		}
	}
	return reopen(b, dir, j.options.Identity)
}

func BenchmarkAppend(b *testing.B) {
	j := large(b)
	for i := 0; b.Loop(); i++ {
		add(b, j, i)
	}
}

func BenchmarkVerify(b *testing.B) {
	j := large(b)
	for b.Loop() {
		if err := j.Verify(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerifyNoHashes(b *testing.B) {
	j := large(b)
	if err := os.Remove(j.path(hashesFile)); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := Verify(b.Context(), j.dir, j.key()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRebuild(b *testing.B) {
	j := large(b)
	for b.Loop() {
		if err := os.Truncate(j.path(hashesFile), 5000); err != nil {
			b.Fatal(err)
		}
		if _, err := j.Checkpoint(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkProve(b *testing.B) {
	j := large(b)
	for b.Loop() {
		if _, err := j.Prove(b.Context(), rand.Int64N(manyRecords)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	j := large(b)
	for b.Loop() {
		reopen(b, j.dir, j.options.Identity)
	}
}
