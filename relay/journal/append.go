package journal

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/plimsoll/plimsoll/internal/durable"
)

// head is the end of the journal, as the process that holds the lock sees it.
type head struct {
	records, hashes *os.File
	blocked         error // why nothing can be written; nil if it can
	tail            tail
	signed          bool // there is a checkpoint
	checkpoint      Checkpoint
	tree            *tree // over the records of the checkpoint
}

func (h *head) close() error { return errors.Join(h.records.Close(), h.hashes.Close()) }

// count is the number of whole records.
func (h *head) count() int64 { return h.tail.index + 1 }

// open looks at the end of the journal: the checkpoint, the last record, the edge of the tree. What is before was checked
// when it was appended and is looked at by Verify. It changes no record.
func (j *Journal) open(ctx context.Context) (h *head, err error) {
	h = &head{}
	h.checkpoint, err = readCheckpoint(j.path(checkpointFile), j.key())
	h.signed = err == nil
	var bad *CheckpointError
	if errors.As(err, &bad) {
		return nil, &CorruptError{Index: -1, Fault: BadCheckpoint, Reason: bad.Reason}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	h.records, err = h.openFile(j.path(recordsFile), h.checkpoint.Size == 0)
	if errors.Is(err, fs.ErrNotExist) && h.checkpoint.Size > 0 {
		return nil, lost(0, h.checkpoint.Size)
	}
	if err != nil {
		return nil, err
	}
	if h.hashes, err = h.openFile(j.path(hashesFile), true); err != nil {
		return nil, errors.Join(err, h.records.Close())
	}
	if err := j.inspect(ctx, h); err != nil {
		return nil, errors.Join(err, h.close())
	}
	return h, nil
}

// openFile opens a file for reading where the disk lets it not be written.
func (h *head) openFile(path string, create bool) (*os.File, error) {
	flags := os.O_RDWR
	if create {
		flags |= os.O_CREATE
	}
	f, err := os.OpenFile(path, flags, 0o644)
	if refusesWrites(err) {
		h.blocked = err
		if f, readErr := os.Open(path); readErr == nil {
			return f, nil
		}
	}
	return f, err
}

func (j *Journal) inspect(ctx context.Context, h *head) error {
	fi, err := h.records.Stat()
	if err != nil {
		return err
	}
	if h.tail, err = readTail(h.records, fi.Size()); err != nil {
		return j.nameIt(ctx, err)
	}
	size := h.checkpoint.Size
	switch {
	case h.count() < size && bytes.HasSuffix(h.tail.torn, []byte("\n")) && h.count() == size-1:
		return &CorruptError{Index: h.count(), Fault: Changed, Reason: "is no record"}
	case h.count() < size:
		return lost(h.count(), size)
	case !h.signed && h.count() > 0:
		return &CorruptError{Index: -1, Fault: BadCheckpoint, Reason: fmt.Sprintf("is missing, and there are %d records", h.count())}
	}
	if h.tree, err = loadTree(size, hashReader{h.hashes}); err == nil && h.fits() {
		return nil
	}
	return j.rebuild(ctx, h)
}

// fits reports whether the edge of the tree is what was signed, and the last record is its last leaf.
func (h *head) fits() bool {
	size := h.checkpoint.Size
	if size == 0 {
		return true
	}
	if h.tree.root() != h.checkpoint.Hash {
		return false
	}
	if h.count() != size {
		return true
	}
	leaf, err := hashReader{h.hashes}.ReadHashes([]int64{tlog.StoredHashIndex(0, size-1)})
	return err == nil && leaf[0] == tlog.RecordHash(h.tail.last)
}

// nameIt looks for the first bad record, when something is known to be wrong.
func (j *Journal) nameIt(ctx context.Context, err error) error {
	if _, named := verify(ctx, j.dir, j.key(), nil); named != nil {
		return named
	}
	return err
}

// rebuild makes the hash file anew from the records, if these are what was signed. The file is not synced: a power cut
// that damages it has it made once more.
func (j *Journal) rebuild(ctx context.Context, h *head) (err error) {
	if h.blocked != nil {
		return fmt.Errorf("%s is damaged and cannot be made anew: %w", hashesFile, h.blocked)
	}
	fresh, err := os.OpenFile(j.path(hashesFile+".new"), os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	t, err := rehash(ctx, h, fresh)
	if err == nil && h.checkpoint.Size > 0 && t.root() != h.checkpoint.Hash {
		err = &CorruptError{Index: -1, Fault: Changed, Reason: "the records are not those that were signed"}
	}
	var corrupt *CorruptError
	if errors.As(err, &corrupt) {
		err = j.nameIt(ctx, err)
	}
	if err == nil {
		err = os.Rename(fresh.Name(), j.path(hashesFile))
	}
	if err != nil {
		return errors.Join(err, fresh.Close(), os.Remove(fresh.Name()))
	}
	err = h.hashes.Close()
	h.hashes, h.tree = fresh, t
	return err
}

// rehash writes the hashes of the records that are signed.
func rehash(ctx context.Context, h *head, to *os.File) (*tree, error) {
	w := bufio.NewWriterSize(to, 64<<10)
	t := &tree{}
	lines := newLineReader(h.records, 0)
	for t.n < h.checkpoint.Size {
		if t.n%1024 == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		line, whole, err := lines.next()
		if errors.Is(err, io.EOF) {
			return nil, lost(t.n, h.checkpoint.Size)
		}
		if err != nil {
			return nil, err
		}
		if !whole {
			return nil, &CorruptError{Index: t.n, Fault: Changed, Reason: "is no record"}
		}
		for _, hash := range t.add(tlog.RecordHash(line)) {
			if _, err := w.Write(hash[:]); err != nil {
				return nil, err
			}
		}
	}
	return t, w.Flush()
}

// mend brings the journal from what a crash left to where one can append: records that are whole are signed, half a
// record is cut off, and a new journal says what became of the one before.
func (j *Journal) mend(h *head) error {
	if h.signed && h.count() == h.checkpoint.Size && len(h.tail.torn) == 0 && h.count() > 0 {
		return nil
	}
	if h.blocked != nil {
		if h.signed && len(h.tail.torn) == 0 && h.count() == h.checkpoint.Size {
			return nil
		}
		return h.blocked
	}
	if err := j.signRest(h); err != nil {
		return err
	}
	if len(h.tail.torn) > 0 {
		if err := j.cut(h); err != nil {
			return err
		}
	}
	if h.count() > 0 {
		return nil
	}
	before, err := j.putAside()
	if err != nil || before == nil {
		return err
	}
	raw, err := encodeDetail(before)
	if err != nil {
		return err
	}
	return j.commit(h, KindRestarted, raw)
}

// signRest signs records that were written but not signed.
func (j *Journal) signRest(h *head) error {
	if h.signed && h.count() == h.checkpoint.Size {
		return nil
	}
	start, err := locate(h.records, h.tail.end, h.checkpoint.Size)
	if err != nil {
		return err
	}
	t := *h.tree
	lines := newLineReader(h.records, start)
	for t.n < h.count() {
		line, whole, err := lines.next()
		if err != nil {
			return err
		}
		e, err := ParseRecord(line)
		if !whole || err != nil || e.Index != t.n {
			return &CorruptError{Index: t.n, Fault: Changed, Reason: "is no record"}
		}
		if err := writeHashes(h.hashes, t.n, t.add(tlog.RecordHash(line))); err != nil {
			return err
		}
	}
	// Whoever wrote them may have been killed before they were on the disk.
	if err := h.records.Sync(); err != nil {
		return err
	}
	next, err := j.sign(&t)
	if err != nil {
		return err
	}
	if err := j.writeNext(next); err != nil {
		return err
	}
	return j.publish(h, next, &t)
}

// recovered is the detail of KindRecovered.
type recovered struct {
	Bytes int    `json:"bytes"` // that were cut off
	Begin string `json:"begin"` // of them
}

const maxBegin = 200

// cut removes what a crash left of a record that nobody was told of. The removal is on the disk before anything is
// written in its place: two halves of records must not come together.
func (j *Journal) cut(h *head) error {
	torn := h.tail.torn
	if err := errors.Join(h.records.Truncate(h.tail.end), h.records.Sync()); err != nil {
		return err
	}
	h.tail.torn = nil
	raw, err := encodeDetail(recovered{Bytes: len(torn), Begin: strings.ToValidUTF8(string(torn[:min(len(torn), maxBegin)]), "\uFFFD")})
	if err != nil {
		return err
	}
	return j.commit(h, KindRecovered, raw)
}

// commit appends one record. All that needs room is written before the record itself.
func (j *Journal) commit(h *head, kind string, detail json.RawMessage) error {
	if h.blocked != nil {
		return h.blocked
	}
	line, err := encodeRecord(Entry{Index: h.count(), Time: j.options.Clock(), Kind: kind, Detail: detail})
	if err != nil {
		return err
	}
	t := *h.tree
	stored := t.add(tlog.RecordHash(line))
	next, err := j.sign(&t)
	if err != nil {
		return err
	}
	if err := writeHashes(h.hashes, h.count(), stored); err != nil {
		return err
	}
	if err := j.writeNext(next); err != nil {
		return err
	}
	if err := h.write(line); err != nil {
		return errors.Join(err, os.Remove(j.path(nextCheckpoint)))
	}
	return j.publish(h, next, &t)
}

// write appends the line. What cannot be written or synced whole is taken back.
func (h *head) write(line []byte) error {
	_, err := h.records.WriteAt(append(bytes.Clone(line), '\n'), h.tail.end)
	if err == nil {
		err = h.records.Sync()
	}
	if err != nil {
		return errors.Join(err, h.records.Truncate(h.tail.end))
	}
	h.tail.end += int64(len(line)) + 1
	h.tail.index++
	h.tail.last = line
	return nil
}

// writeNext writes a checkpoint beside the one that counts.
func (j *Journal) writeNext(next Checkpoint) error {
	f, err := os.OpenFile(j.path(nextCheckpoint), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(next.Note)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// publish puts the checkpoint that was written into its place. A power cut may bring the one before back, which is as good:
// the records behind it are signed again. Only the names of new files must last.
func (j *Journal) publish(h *head, next Checkpoint, t *tree) error {
	if err := os.Rename(j.path(nextCheckpoint), j.path(checkpointFile)); err != nil {
		return err
	}
	if t.n <= 1 {
		if err := durable.SyncDir(j.dir); err != nil {
			return err
		}
	}
	h.signed, h.checkpoint, h.tree = true, next, t
	return nil
}
