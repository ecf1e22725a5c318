package journal

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/sys/unix"
)

// Fault is what is wrong with a record, or with the journal.
type Fault string

// The faults.
const (
	Changed       Fault = "changed"        // its bytes are not those that were signed
	Dropped       Fault = "dropped"        // it is missing, and later ones are there
	Reordered     Fault = "reordered"      // it is there, but behind a later one
	Inserted      Fault = "inserted"       // what is in its place was never signed, and it follows
	Lost          Fault = "lost"           // it and all that follow are missing
	BadCheckpoint Fault = "bad checkpoint" // missing, or not the relay's
)

// CorruptError names the first record that is not what the relay signed.
type CorruptError struct {
	Index  int64 // -1: no record, or none that can be named
	Fault  Fault
	Reason string
}

func (e *CorruptError) Error() string {
	text := fmt.Sprintf("record %d: %s", e.Index, e.Fault)
	if e.Index < 0 {
		text = string(e.Fault)
	}
	if e.Reason != "" {
		text += ": " + e.Reason
	}
	return text
}

func lost(have, signed int64) *CorruptError {
	return &CorruptError{Index: have, Fault: Lost, Reason: fmt.Sprintf("%d records are there, and the checkpoint was signed over %d", have, signed)}
}

// ForkError says that the journal does not go on from what it once was: its history was rewritten, or an old copy of it
// was restored.
type ForkError struct {
	Older   Checkpoint
	Records int64 // that the journal has now
}

func (e *ForkError) Error() string {
	if e.Older.Size > e.Records {
		return fmt.Sprintf("older checkpoint over %d records: the journal has %d now", e.Older.Size, e.Records)
	}
	return fmt.Sprintf("older checkpoint over %d records: the journal's first %d are others now", e.Older.Size, e.Older.Size)
}

// Report is what Verify saw.
type Report struct {
	Records       int64      // whole ones
	Unsigned      int64      // of these, those behind the checkpoint: usual after a crash, and in a copy of a live journal
	Torn          int64      // bytes behind the last record: one that was not written to its end
	HashesDamaged bool       // the derived hash file is damaged or missing; the next append, or Journal.Verify, makes it anew
	Checkpoint    Checkpoint // its Size is 0 for a journal that has none yet
}

// Verify reads a whole journal and compares it with its checkpoint, and with older ones. It needs the folder and the
// relay's public key only, and writes nothing. Errors are *CorruptError, *ForkError, and those of reading.
func Verify(ctx context.Context, dir string, key ed25519.PublicKey, older ...Checkpoint) (Report, error) {
	report, err := verify(ctx, dir, key, older)
	if err != nil {
		err = fmt.Errorf("journal: %w", err)
	}
	return report, err
}

func verify(ctx context.Context, dir string, key ed25519.PublicKey, older []Checkpoint) (Report, error) {
	v := &verifying{ctx: ctx, older: older}
	err := v.run(dir, key)
	return v.report, err
}

// Verify verifies the journal, and makes its hash file anew if that is all that is wrong and the disk lets it.
func (j *Journal) Verify(ctx context.Context) error {
	report, err := Verify(ctx, j.dir, j.key())
	if err != nil || !report.HashesDamaged {
		return err
	}
	err = j.locked(ctx, func(h *head) error { return j.rebuild(ctx, h) })
	if err != nil && !refusesWrites(err) && !errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("journal: %w", err)
	}
	return nil
}

type verifying struct {
	ctx    context.Context
	older  []Checkpoint
	report Report

	records *os.File
	hashes  *os.File    // nil if it cannot be read
	leaves  *leafReader // the records' hashes, in their order
	signed  int64       // records of which leaves are to be trusted
	trusted bool        // the leaves are those that were signed
	vouched bool        // the records up to the checkpoint are those that were signed
	suspect int64       // the first record that differs from leaves that are not trusted; -1 without one
	tree    tree        // over the records so far
}

func (v *verifying) run(dir string, key ed25519.PublicKey) (err error) {
	// The checkpoint first: a process may append meanwhile.
	unsigned := v.readCheckpoint(filepath.Join(dir, checkpointFile), key)
	v.records, err = os.Open(filepath.Join(dir, recordsFile))
	switch {
	case errors.Is(err, fs.ErrNotExist) && v.report.Checkpoint.Size > 0:
		return lost(0, v.report.Checkpoint.Size)
	case errors.Is(err, fs.ErrNotExist):
		return errors.Join(v.compareOlder(), v.olderThanAll(), ignoreMissing(unsigned))
	case err != nil:
		return err
	}
	defer v.records.Close() //nolint:errcheck // only read from
	if v.hashes, err = os.Open(filepath.Join(dir, hashesFile)); err == nil {
		defer v.hashes.Close() //nolint:errcheck // only read from
	}
	v.readLeaves(unsigned != nil)
	if err := v.readRecords(); err != nil {
		return errors.Join(err, unsigned)
	}
	v.report.Records = v.tree.n
	v.report.Unsigned = v.tree.n - v.report.Checkpoint.Size
	if v.tree.n == 0 {
		unsigned = ignoreMissing(unsigned)
	}
	return errors.Join(unsigned, v.olderThanAll())
}

// readCheckpoint gives what is wrong with the checkpoint.
func (v *verifying) readCheckpoint(path string, key ed25519.PublicKey) error {
	var (
		err error
		bad *CheckpointError
	)
	v.report.Checkpoint, err = readCheckpoint(path, key)
	switch {
	case errors.As(err, &bad):
		return &CorruptError{Index: -1, Fault: BadCheckpoint, Reason: bad.Reason}
	case errors.Is(err, fs.ErrNotExist):
		return &noCheckpointError{CorruptError{Index: -1, Fault: BadCheckpoint, Reason: "is missing"}}
	}
	return err
}

// noCheckpointError is no fault of a journal that has no records yet.
type noCheckpointError struct{ CorruptError }

func (e *noCheckpointError) Unwrap() error { return &e.CorruptError }

func ignoreMissing(err error) error {
	var missing *noCheckpointError
	if errors.As(err, &missing) {
		return nil
	}
	return err
}

// readLeaves finds out whether the hash file has the hashes that were signed. Without a checkpoint it is taken at its
// word if it fits together: it names a changed record all the same.
func (v *verifying) readLeaves(noCheckpoint bool) {
	v.suspect = -1
	c := v.report.Checkpoint
	if v.hashes == nil {
		v.report.HashesDamaged = c.Size > 0
		return
	}
	all := v.newLeaves()
	for all.tree.n < c.Size || noCheckpoint {
		if _, ok := all.next(); !ok {
			break
		}
	}
	v.signed = all.tree.n
	v.trusted = all.tree.n > 0 && (all.tree.n == c.Size && all.tree.root() == c.Hash || noCheckpoint && all.sane)
	v.report.HashesDamaged = c.Size > 0 && !(v.trusted && all.sane)
	v.leaves = v.newLeaves()
}

func (v *verifying) newLeaves() *leafReader {
	return &leafReader{r: bufio.NewReaderSize(io.NewSectionReader(v.hashes, 0, 1<<62), 64<<10), sane: true}
}

// vouch hashes the records, when there is no hash file to compare them with one by one.
func (v *verifying) vouch() error {
	c := v.report.Checkpoint
	lines := newLineReader(v.records, 0)
	var t tree
	for t.n < c.Size && v.ctx.Err() == nil {
		line, whole, err := lines.next()
		if errors.Is(err, io.EOF) || err == nil && !whole {
			return nil
		}
		if err != nil {
			return err
		}
		t.add(tlog.RecordHash(line))
	}
	v.vouched = t.n > 0 && t.root() == c.Hash
	return v.ctx.Err()
}

func (v *verifying) readRecords() error {
	c := v.report.Checkpoint
	if !v.trusted {
		if err := v.vouch(); err != nil {
			return err
		}
	}
	lines := newLineReader(v.records, 0)
	if err := v.compareOlder(); err != nil {
		return err
	}
	for {
		if v.tree.n%1024 == 0 && v.ctx.Err() != nil {
			return v.ctx.Err()
		}
		line, whole, err := lines.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		n := v.tree.n
		hash := tlog.RecordHash(line)
		done, err := v.check(lines, n, line, hash, whole)
		if err != nil || done {
			if err != nil {
				return err
			}
			break
		}
		v.tree.add(hash)
		if v.tree.n == c.Size && v.tree.root() != c.Hash {
			return v.unnamed()
		}
		if err := v.compareOlder(); err != nil {
			return err
		}
	}
	if v.tree.n < c.Size {
		return lost(v.tree.n, c.Size)
	}
	return nil
}

// check looks at one record. It is done with all records when this is a torn one.
func (v *verifying) check(lines *lineReader, n int64, line []byte, hash tlog.Hash, whole bool) (done bool, err error) {
	known := false
	if v.leaves != nil && n < v.signed {
		leaf, ok := v.leaves.next()
		known = ok && leaf == hash
		if !known && v.suspect < 0 {
			v.suspect = n
		}
	}
	if whole && (known && v.trusted || v.vouched && n < v.report.Checkpoint.Size) {
		return false, nil // these very bytes were signed: there is nothing to parse
	}
	if !whole && n < v.report.Checkpoint.Size && len(line) <= MaxRecord { // the end of the file is within it
		return false, lost(n, v.report.Checkpoint.Size)
	}
	e, err := ParseRecord(line)
	isRecord := whole && err == nil
	if !isRecord && n >= v.report.Checkpoint.Size && (n >= v.signed || !whole) {
		v.report.Torn = int64(len(line))
		if whole {
			v.report.Torn++
		}
		if _, _, err := lines.next(); errors.Is(err, io.EOF) {
			return true, nil
		}
		v.report.Torn = 0
		return false, &CorruptError{Index: n, Fault: Changed, Reason: "is no record"}
	}
	if v.trusted && n < v.signed || !isRecord || e.Index != n {
		return false, v.classify(lines, n, append([]byte(nil), line...))
	}
	return false, nil
}

// classify says what happened to record n, in whose place there is the line.
func (v *verifying) classify(lines *lineReader, n int64, line []byte) error {
	at, hasIndex := indexOf(line)
	genuine := hasIndex && v.isLeaf(line, at)
	follows, nextFits := false, false
	for first := true; !follows; first = false {
		other, _, err := lines.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if v.trusted {
			follows = v.isLeaf(other, n)
			nextFits = nextFits || first && v.isLeaf(other, n+1)
		} else {
			k, ok := indexOf(other)
			follows = ok && k == n
			nextFits = nextFits || first && ok && k == n+1
		}
	}
	e := &CorruptError{Index: n, Fault: Changed}
	if hasIndex && at != n {
		e.Reason = fmt.Sprintf("what is in its place says that it is record %d", at)
	}
	switch {
	case follows && hasIndex && at > n && (genuine || !v.trusted):
		e.Fault = Reordered
	case follows:
		e.Fault = Inserted
	case hasIndex && at > n && (genuine || !nextFits):
		e.Fault = Dropped
	}
	return e
}

// isLeaf reports whether a line is the record with the index, as far as the hash file can be trusted.
func (v *verifying) isLeaf(line []byte, index int64) bool {
	if !v.trusted || index >= v.signed {
		return false
	}
	leaf, err := hashReader{v.hashes}.ReadHashes([]int64{tlog.StoredHashIndex(0, index)})
	return err == nil && leaf[0] == tlog.RecordHash(line)
}

// unnamed is the error when the records are not those that were signed, and the hash file cannot tell which.
func (v *verifying) unnamed() error {
	if v.suspect >= 0 {
		return &CorruptError{Index: v.suspect, Fault: Changed, Reason: "the hash file is damaged too, so that another record may be the one"}
	}
	return &CorruptError{Index: -1, Fault: Changed,
		Reason: fmt.Sprintf("one of the first %d records; the hash file is damaged too and cannot tell which", v.tree.n)}
}

// compareOlder compares the tree so far with the older checkpoints of its size.
func (v *verifying) compareOlder() error {
	for _, c := range v.older {
		if c.Size == v.tree.n && c.Hash != v.tree.root() {
			return &ForkError{Older: c, Records: max(v.tree.n, v.report.Checkpoint.Size)}
		}
	}
	return nil
}

func (v *verifying) olderThanAll() error {
	for _, c := range v.older {
		if c.Size > v.tree.n {
			return &ForkError{Older: c, Records: v.tree.n}
		}
	}
	return nil
}
