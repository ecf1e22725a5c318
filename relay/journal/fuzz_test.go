package journal

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func FuzzParseRecord(f *testing.F) {
	for _, seed := range []string{
		`{"index":0,"time":"2026-03-01T09:00:00.123Z","kind":"import","detail":{"name":"<a>"}}`,
		`{"index":1,"time":"2026-03-01T09:00:00Z","kind":"a","detail":null}`,
		`{"index":1,"time":"2026-03-01T09:00:00+01:00","kind":"a","detail":null}`,
		`{"index":-1,"time":"0000-01-01T00:00:00Z","kind":"a","detail":{"a":1,"A":2}}`,
		`{"index":9223372036854775807,"time":"2026-03-01T09:00:00.1234567Z","kind":"A","detail":[[]]}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := ParseRecord(data)
		if err != nil {
			return
		}
		again, err := encodeRecord(e)
		if err != nil || !bytes.Equal(again, data) {
			t.Errorf("%q encodes to %q (%v)", data, again, err)
		}
		if n, ok := indexOf(data); !ok || n != e.Index {
			t.Errorf("%q: index %d, %v", data, n, ok)
		}
		if bytes.ContainsAny(data, "\n\r") {
			t.Errorf("%q is more than a line", data)
		}
	})
}

func FuzzParseCheckpoint(f *testing.F) {
	j := fixed(f)
	good := checkpoint(f, j)
	f.Add(good.Note)
	f.Add(signed(f, j, "x\n1\n\n"))
	f.Add([]byte("a\n1\n\n— a AAAA\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := ParseCheckpoint(data, j.key())
		var bad *CheckpointError
		if err != nil && !errors.As(err, &bad) {
			t.Fatalf("%T", err)
		}
		if err == nil && (c.Hash != good.Hash || c.Size != good.Size || c.Origin != good.Origin) {
			t.Errorf("%q was never signed", data)
		}
		if c, err := parseTree(string(data)); err == nil && formatTree(c) != string(data) {
			t.Errorf("%q is not canonical", data)
		}
	})
}

func FuzzParseProof(f *testing.F) {
	j := fixed(f)
	older := checkpoint(f, j)
	add(f, j, 7)
	for _, make := range []func() (*Proof, error){
		func() (*Proof, error) { return j.Prove(f.Context(), 4) },
		func() (*Proof, error) { return j.ProveOlder(f.Context(), older.Note) },
	} {
		p, err := make()
		if err != nil {
			f.Fatal(err)
		}
		data, err := p.Marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	var lines [][]byte
	for e := range j.Entries(0, -1) {
		line, err := encodeRecord(e)
		if err != nil {
			f.Fatal(err)
		}
		lines = append(lines, line)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := ParseProof(data)
		if err != nil {
			return
		}
		if again, err := p.Marshal(); err != nil || !bytes.Equal(again, data) {
			t.Errorf("%q encodes to %q (%v)", data, again, err)
		}
		proven, err := p.Verify(j.key())
		if err == nil && proven.Record != nil && !bytes.Equal(p.Record, lines[proven.Record.Index]) {
			t.Errorf("%q was never recorded", p.Record)
		}
	})
}

// Whatever the hash file holds, it is made anew, and everything works.
func FuzzHashFile(f *testing.F) {
	j := fixed(f)
	good := read(f, j.dir)
	f.Add([]byte(good[hashesFile]))
	f.Add([]byte{})
	f.Add(make([]byte, 32*17))
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := good.write(t)
		if err := os.WriteFile(filepath.Join(dir, hashesFile), data, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := Verify(t.Context(), dir, j.key()); err != nil {
			t.Fatal(err)
		}
		again := reopen(t, dir, j.options.Identity)
		add(t, again, 7)
		p, err := again.Prove(t.Context(), 3)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Verify(j.key()); err != nil {
			t.Fatal(err)
		}
	})
}

// Whatever the records file holds: either it has all that was signed, and Append goes on, or both refuse it.
func FuzzRecordsFile(f *testing.F) {
	j := fixed(f)
	good := read(f, j.dir)
	records := []byte(good[recordsFile])
	f.Add(records)
	f.Add(append(bytes.Clone(records), "{\"index\":7,"...))
	f.Add(append(bytes.Clone(records), 0, 0, '\n'))
	f.Add(records[:50])
	f.Add([]byte("\n\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := good.write(t)
		if err := os.WriteFile(filepath.Join(dir, recordsFile), data, 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := Verify(t.Context(), dir, j.key())
		var bad *CorruptError
		if err != nil && !errors.As(err, &bad) {
			t.Fatalf("%T: %v", err, err)
		}
		if (err == nil) != bytes.HasPrefix(data, records) && err == nil {
			t.Fatalf("%q is said to be what was signed", data)
		}
		for _, err := range Entries(dir, 0, -1) {
			_ = err // anything but a crash
		}
		again := reopen(t, dir, j.options.Identity)
		appendErr := again.Append(t.Context(), "test", nil)
		if err == nil && appendErr != nil {
			t.Fatalf("whole, and Append refuses: %v", appendErr)
		}
		if err != nil {
			return // Append may not see what is wrong before the end
		}
		if err := again.Verify(t.Context()); err != nil {
			t.Fatalf("after Append: %v", err)
		}
	})
}
