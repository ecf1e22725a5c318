package journal

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/bits"
	"os"

	"golang.org/x/mod/sumdb/tlog"
)

// tree is the right edge of a hash tree: all that is needed to add to it. edge[l] is the hash of the complete subtree of
// height l, where n has bit l.
type tree struct {
	n    int64
	edge [64]tlog.Hash
}

// add adds a leaf and gives the hashes that are complete with it, as the hash file has them: the leaf first.
func (t *tree) add(leaf tlog.Hash) []tlog.Hash {
	stored := []tlog.Hash{leaf}
	level := 0
	for ; t.n>>level&1 == 1; level++ {
		leaf = tlog.NodeHash(t.edge[level], leaf)
		stored = append(stored, leaf)
	}
	t.edge[level] = leaf
	t.n++
	return stored
}

// root is the hash of the whole tree.
func (t *tree) root() tlog.Hash {
	if t.n == 0 {
		return sha256.Sum256(nil)
	}
	level := bits.TrailingZeros64(uint64(t.n))
	h := t.edge[level]
	for level++; t.n>>level != 0; level++ {
		if t.n>>level&1 == 1 {
			h = tlog.NodeHash(t.edge[level], h)
		}
	}
	return h
}

// loadTree reads the edge of the tree over the first n records from the hash file.
func loadTree(n int64, r tlog.HashReader) (*tree, error) {
	t := &tree{n: n}
	var indexes []int64
	for level := 0; n>>level != 0; level++ {
		if n>>level&1 == 1 {
			indexes = append(indexes, tlog.StoredHashIndex(level, n>>level-1))
		}
	}
	hashes, err := r.ReadHashes(indexes)
	if err != nil {
		return nil, err
	}
	for level := 0; n>>level != 0; level++ {
		if n>>level&1 == 1 {
			t.edge[level], hashes = hashes[0], hashes[1:]
		}
	}
	return t, nil
}

// hashReader reads a hash file.
type hashReader struct{ f io.ReaderAt }

func (r hashReader) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		if _, err := r.f.ReadAt(hashes[i][:], index*tlog.HashSize); err != nil {
			return nil, fmt.Errorf("hash %d: %w", index, err)
		}
	}
	return hashes, nil
}

// writeHashes writes the hashes that came with record n.
func writeHashes(f *os.File, n int64, hashes []tlog.Hash) error {
	buf := make([]byte, 0, len(hashes)*tlog.HashSize)
	for _, h := range hashes {
		buf = append(buf, h[:]...)
	}
	_, err := f.WriteAt(buf, tlog.StoredHashIndex(0, n)*tlog.HashSize)
	return err
}

// leafReader reads the hashes of records one after the other, and checks the hashes between them on the way.
type leafReader struct {
	r    io.Reader
	tree tree
	sane bool // the hashes between the leaves fit
}

// next gives the hash of the next record; false at the end of the file, or at what cannot be read.
func (l *leafReader) next() (tlog.Hash, bool) {
	var h, inner tlog.Hash
	if _, err := io.ReadFull(l.r, h[:]); err != nil {
		return h, false
	}
	for _, want := range l.tree.add(h)[1:] {
		if _, err := io.ReadFull(l.r, inner[:]); err != nil || inner != want {
			l.sane = false
		}
	}
	return h, true
}
