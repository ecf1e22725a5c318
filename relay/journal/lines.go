package journal

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
)

// lineReader gives the lines of a file. A line that is longer than a record can be is given in pieces of which the first
// ones are not whole.
type lineReader struct {
	r      *bufio.Reader
	offset int64 // of what comes next
	long   []byte
}

func newLineReader(r io.ReaderAt, offset int64) *lineReader {
	return &lineReader{r: bufio.NewReaderSize(io.NewSectionReader(r, offset, 1<<62-offset), 256<<10), offset: offset}
}

// next gives the next line without its newline, valid until the next call. It is whole if there was one. The error is
// io.EOF at the end.
func (l *lineReader) next() (line []byte, whole bool, err error) {
	l.long = l.long[:0]
	for {
		part, err := l.r.ReadSlice('\n')
		l.offset += int64(len(part))
		switch {
		case err == nil:
			part = part[:len(part)-1]
			if len(l.long) == 0 {
				return part, true, nil
			}
			return append(l.long, part...), true, nil
		case errors.Is(err, bufio.ErrBufferFull):
			if l.long = append(l.long, part...); len(l.long) > MaxRecord {
				return l.long, false, nil
			}
		case errors.Is(err, io.EOF):
			if l.long = append(l.long, part...); len(l.long) > 0 {
				return l.long, false, nil
			}
			return nil, false, io.EOF
		default:
			return nil, false, err
		}
	}
}

// tail is the end of the records file.
type tail struct {
	end   int64  // behind the last whole record, in bytes
	last  []byte // the last whole record
	index int64  // its index; -1 without one
	torn  []byte // what is behind it: at most one record that was not written to its end
}

// readTail finds the last record. Every append is synced before the next one begins, so only the last line can be torn:
// without its newline, or with zeros in it.
func readTail(f io.ReaderAt, size int64) (tail, error) {
	t := tail{end: size, index: -1}
	for tries := 0; t.end > 0; tries++ {
		seg, err := lastSegment(f, t.end)
		if err != nil {
			return t, err
		}
		line, whole := bytes.CutSuffix(seg, []byte("\n"))
		e, err := ParseRecord(line)
		if whole && err == nil {
			t.last, t.index = line, e.Index
			return t, nil
		}
		if tries > 0 || len(line) > MaxRecord {
			return t, &CorruptError{Index: -1, Fault: Changed, Reason: "the end of the file is no record"}
		}
		t.torn, t.end = seg, t.end-int64(len(seg))
	}
	return t, nil
}

// lastSegment reads what is between the newline before the last byte, and the end. It reads no more than two bytes over
// the largest record.
func lastSegment(f io.ReaderAt, end int64) ([]byte, error) {
	for room := int64(4 << 10); ; room *= 16 {
		room = min(room, MaxRecord+2, end)
		buf := make([]byte, room)
		if _, err := f.ReadAt(buf, end-room); err != nil && (room == 0 || !errors.Is(err, io.EOF)) {
			return nil, err
		}
		if at := bytes.LastIndexByte(buf[:room-1], '\n'); at >= 0 {
			return buf[at+1:], nil
		}
		if room == end || room == MaxRecord+2 {
			return buf, nil
		}
	}
}

// locate finds where a record begins, by bisection: lines say their index. In a damaged file it may find another one, as
// the reader of that line sees.
func locate(f io.ReaderAt, size, index int64) (int64, error) {
	low, high := int64(0), size // the record begins in [low, high]
	for high-low > 4<<10 {
		mid := low + (high-low)/2
		lines := newLineReaderSize(f, mid, 4<<10)
		if _, _, err := lines.next(); err != nil {
			return 0, err
		}
		start := lines.offset // the first line that begins behind mid
		line, _, err := lines.next()
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		if n, ok := indexOf(line); err == nil && start < high && ok && n <= index {
			low = start
		} else {
			high = mid
		}
	}
	lines := newLineReaderSize(f, low, 8<<10)
	for {
		start := lines.offset
		line, _, err := lines.next()
		if errors.Is(err, io.EOF) {
			return size, nil
		}
		if err != nil {
			return 0, err
		}
		if n, ok := indexOf(line); ok && n >= index {
			return start, nil
		}
	}
}

func newLineReaderSize(r io.ReaderAt, offset int64, size int) *lineReader {
	return &lineReader{r: bufio.NewReaderSize(io.NewSectionReader(r, offset, 1<<62-offset), size), offset: offset}
}

// Entries gives the records from the index from, up to but without the index to; all that follow if to is negative. It
// needs no key and checks the records' form and numbers only: Verify tells whether they are the relay's. The error, the
// last thing that it gives, is a *CorruptError for what is no record.
func Entries(dir string, from, to int64) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		if err := entries(dir, from, to, yield); err != nil {
			yield(Entry{}, fmt.Errorf("journal: %w", err))
		}
	}
}

// Entries gives records as the function Entries does.
func (j *Journal) Entries(from, to int64) iter.Seq2[Entry, error] { return Entries(j.dir, from, to) }

func entries(dir string, from, to int64, yield func(Entry, error) bool) error {
	f, err := os.Open(filepath.Join(dir, recordsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read from
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	from = max(from, 0)
	start, err := locate(f, fi.Size(), from)
	if err != nil {
		return err
	}
	lines := newLineReader(f, start)
	for n := from; to < 0 || n < to; n++ {
		line, whole, err := lines.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		e, err := ParseRecord(line)
		if !whole || err != nil {
			if _, _, err := lines.next(); errors.Is(err, io.EOF) {
				return nil // the last line: one that is being written, or that was cut by a crash
			}
			return &CorruptError{Index: n, Fault: Changed, Reason: "is no record"}
		}
		if e.Index != n {
			return &CorruptError{Index: n, Fault: Dropped, Reason: fmt.Sprintf("record %d is in its place", e.Index)}
		}
		if !yield(e, nil) {
			return nil
		}
	}
	return nil
}
