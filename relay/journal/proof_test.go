package journal

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
)

// Every record of every size is proved, and the proof proves nothing else.
func TestProveEverything(t *testing.T) {
	j := filled(t, 33)
	key := j.key()
	roots := []tlog.Hash{(&tree{}).root()}
	var tr tree
	var records []tlog.Hash
	for _, e := range all(t, j) {
		line, err := encodeRecord(e)
		if err != nil {
			t.Fatal(err)
		}
		records = append(records, tlog.RecordHash(line))
		tr.add(records[len(records)-1])
		roots = append(roots, tr.root())
	}
	for size := int64(1); size <= 33; size++ {
		for i := range size {
			proof, err := j.ProveRecord(t.Context(), i, size)
			if err != nil {
				t.Fatal(err)
			}
			if err := tlog.CheckRecord(proof, size, roots[size], i, records[i]); err != nil {
				t.Fatalf("record %d of %d: %v", i, size, err)
			}
		}
		for older := int64(1); older <= size; older++ {
			proof, err := j.ProveConsistency(t.Context(), older, size)
			if err != nil {
				t.Fatal(err)
			}
			if err := tlog.CheckTree(proof, size, roots[size], older, roots[older]); err != nil {
				t.Fatalf("%d of %d: %v", older, size, err)
			}
		}
	}
	for i := range int64(33) {
		p, err := j.Prove(t.Context(), i)
		if err != nil {
			t.Fatal(err)
		}
		proven, err := carry(t, p).Verify(key)
		if err != nil || proven.Record == nil || proven.Record.Index != i || proven.Checkpoint.Size != 33 {
			t.Fatalf("record %d: %+v, %v", i, proven, err)
		}
	}
	var none *RangeError
	if _, err := j.Prove(t.Context(), 33); !errors.As(err, &none) || none.Records != 33 {
		t.Errorf("record 33: %v", err)
	}
	for _, c := range [][2]int64{{-1, 5}, {5, 5}, {0, 0}, {0, 34}, {40, 50}} {
		if _, err := j.ProveRecord(t.Context(), c[0], c[1]); !errors.As(err, &none) {
			t.Errorf("record %v: %v", c, err)
		}
	}
	for _, c := range [][2]int64{{0, 5}, {6, 5}, {-1, 5}, {1, 34}} {
		if _, err := j.ProveConsistency(t.Context(), c[0], c[1]); !errors.As(err, &none) {
			t.Errorf("sizes %v: %v", c, err)
		}
	}
}

// carry writes a proof and reads it again.
func carry(t *testing.T, p *Proof) *Proof {
	t.Helper()
	data, err := p.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseProof(data)
	if err != nil {
		t.Fatal(err)
	}
	return again
}

func TestProveOlder(t *testing.T) {
	j := filled(t, 0)
	var older [][]byte
	for i := range 12 {
		older = append(older, checkpoint(t, j).Note)
		add(t, j, i)
	}
	for size, note := range append(older, checkpoint(t, j).Note) {
		p, err := j.ProveOlder(t.Context(), note)
		if err != nil {
			t.Fatal(err)
		}
		proven, err := carry(t, p).Verify(j.key())
		if err != nil || proven.Older == nil || proven.Older.Size != int64(size) || proven.Checkpoint.Size != 12 {
			t.Errorf("%d: %+v, %v", size, proven, err)
		}
	}
	// The proof of one does not prove another.
	p, err := j.ProveOlder(t.Context(), older[5])
	if err != nil {
		t.Fatal(err)
	}
	for _, wrong := range [][]byte{older[4], older[6], older[0]} {
		q := *p
		q.Older = string(wrong)
		var bad *ProofError
		if _, err := q.Verify(j.key()); !errors.As(err, &bad) {
			t.Errorf("got %v", err)
		}
	}
	q := *p
	q.Older, q.Checkpoint = q.Checkpoint, q.Older
	var bad *ProofError
	if _, err := q.Verify(j.key()); !errors.As(err, &bad) {
		t.Errorf("backwards: %v", err)
	}
}

func TestForgedProofs(t *testing.T) {
	j := filled(t, 9)
	other := filled(t, 9)
	good, err := j.Prove(t.Context(), 4)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(p *Proof){
		"another record":     func(p *Proof) { p.Record = []byte(strings.Replace(string(p.Record), `"n":4`, `"n":5`, 1)) },
		"another index":      func(p *Proof) { p.Record = []byte(strings.Replace(string(p.Record), `:4,`, `:5,`, 1)) },
		"index out of range": func(p *Proof) { p.Record = []byte(strings.Replace(string(p.Record), `:4,`, `:99,`, 1)) },
		"a hash":             func(p *Proof) { p.Hashes[1][5] ^= 1 },
		"a hash too few":     func(p *Proof) { p.Hashes = p.Hashes[1:] },
		"a hash too many":    func(p *Proof) { p.Hashes = append(p.Hashes, p.Hashes[0]) },
		"its checkpoint":     func(p *Proof) { p.Checkpoint = strings.Replace(p.Checkpoint, "\n9\n", "\n8\n", 1) },
		"another's":          func(p *Proof) { p.Checkpoint = string(checkpoint(t, other).Note) },
		"no record":          func(p *Proof) { p.Record = []byte(`{}`) },
	} {
		p := *good
		p.Hashes = append([]tlog.Hash{}, good.Hashes...)
		change(&p)
		if proven, err := p.Verify(j.key()); err == nil || proven.Record != nil {
			t.Errorf("%s: %+v", name, proven)
		}
	}
	data, err := good.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"version": strings.Replace(string(data), ".v1", ".v2", 1),
		"neither": `{"apiVersion":"plimsoll.journal-proof.v1","hashes":[],"checkpoint":""}`,
		"both":    strings.Replace(string(data), `"hashes"`, `"older":"x","hashes"`, 1),
		"space":   string(data) + "\n",
		"large":   string(data) + strings.Repeat(" ", MaxProof),
		"hashes":  strings.Replace(string(data), `"hashes":[`, `"hashes":[`+strings.Repeat(`"`+tlog.Hash{}.String()+`",`, 200), 1),
	} {
		var bad *ProofError
		if _, err := ParseProof([]byte(text)); !errors.As(err, &bad) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Hashes inside the tree that are damaged are noticed by who needs them, and made anew.
func TestProofsHealHashes(t *testing.T) {
	j := filled(t, 64)
	older := checkpoint(t, j)
	for i := range 7 {
		add(t, j, i)
	}
	good := read(t, j.dir)
	for at := 0; at < len(good[hashesFile]); at += 37 {
		hashes := []byte(good[hashesFile])
		hashes[at] ^= 1
		for what, use := range map[string]func() error{
			"prove":       func() error { _, err := j.Prove(t.Context(), 20); return err },
			"consistency": func() error { return j.CheckConsistency(t.Context(), older.Note) },
			"verify":      func() error { return j.Verify(t.Context()) },
		} {
			good.with(hashesFile, string(hashes)).writeTo(t, j.dir)
			if err := use(); err != nil {
				t.Fatalf("%s, byte %d: %v", what, at, err)
			}
			if what == "verify" && read(t, j.dir)[hashesFile] != good[hashesFile] {
				t.Fatalf("byte %d: the hash file is not what it was", at)
			}
		}
	}
	// A changed record is not proved, and the good hash file not replaced.
	bad := good.with(recordsFile, strings.Replace(good[recordsFile], `"n":20`, `"n":21`, 1))
	bad.writeTo(t, j.dir)
	var corrupt *CorruptError
	if _, err := j.Prove(t.Context(), 20); !errors.As(err, &corrupt) || corrupt.Index != 20 || corrupt.Fault != Changed {
		t.Errorf("got %v", err)
	}
	if read(t, j.dir)[hashesFile] != good[hashesFile] {
		t.Error("the hash file was replaced")
	}
	if _, err := os.Stat(j.path(hashesFile + ".new")); err == nil {
		t.Error("left over")
	}
}
