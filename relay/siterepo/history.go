package siterepo

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/plimsoll/plimsoll/internal/durable"
	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// Push is one ref that one push changed.
type Push struct {
	Time       time.Time `json:"time"` // by the relay's clock, in whole seconds, UTC
	Repository string    `json:"repository"`
	Seq        uint64    `json:"seq"`           // from 1, one more with each change of the repository
	Who        string    `json:"who,omitempty"` // the operator; empty when a crash left nothing that says it
	Ref        string    `json:"ref"`           // refs/heads/… or refs/tags/…
	Old        string    `json:"old,omitempty"` // object ids; empty: the ref was made, or deleted
	New        string    `json:"new,omitempty"` // object ids; empty: the ref was made, or deleted
}

const (
	historyFile  = "pushes.jsonl"
	reportedFile = "reported"

	maxLine = 16 << 10 // bytes of a line of the history
	maxWho  = 200      // bytes
	maxSeq  = 1 << 62  // no site pushes so often; a push may go a little beyond
)

// line is a Push as the history has it, in canonical JSON.
type line struct {
	Seq  uint64 `json:"seq"`
	Time string `json:"time"` // RFC 3339
	Who  string `json:"who"`
	Ref  string `json:"ref"`
	Old  string `json:"old"`
	New  string `json:"new"`
}

func parseLine(data []byte) (Push, error) {
	var l line
	if err := strictjson.UnmarshalCanonical(data, &l); err != nil {
		return Push{}, err
	}
	at, err := time.Parse(time.RFC3339, l.Time)
	if err != nil {
		return Push{}, err
	}
	if l.Seq == 0 || l.Seq > maxSeq || !keptRef(l.Ref) || !isOID(l.Old) || !isOID(l.New) || len(l.Who) > maxWho {
		return Push{}, fmt.Errorf("push %d of %.100q is not one", l.Seq, l.Ref)
	}
	return Push{Time: at.UTC(), Seq: l.Seq, Who: l.Who, Ref: l.Ref, Old: l.Old, New: l.New}, nil
}

// isOID reports an object id, or none.
func isOID(s string) bool {
	return s == "" || (len(s) == 40 || len(s) == 64) && strings.Trim(s, "0123456789abcdef") == ""
}

// Log gives the history of a repository, the oldest push first.
func (s *Set) Log(ctx context.Context, name string) ([]Push, error) {
	r, err := s.repository(name)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(filepath.Join(r.dir, historyFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("history of site repository %s: %w", name, err)
	}
	defer f.Close()
	var pushes []Push
	_, _, err = readLines(f, func(p Push) error {
		p.Repository = name
		pushes = append(pushes, p)
		return ctx.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("history of site repository %s: %w", name, err)
	}
	return pushes, nil
}

// readLines hands each line that can be read to fn. whole is where the last whole line ends: behind it is what a power cut
// left of an unfinished one.
func readLines(r io.Reader, fn func(Push) error) (whole int64, bad int, err error) {
	br := bufio.NewReaderSize(r, maxLine)
	for begun := int64(0); ; {
		data, err := br.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) { // no line of ours is so long
			begun += int64(len(data))
			continue
		}
		if errors.Is(err, io.EOF) {
			return whole, bad, nil
		}
		if err != nil {
			return whole, bad, err
		}
		whole += begun + int64(len(data))
		p, err := parseLine(bytes.TrimSuffix(data, []byte("\n")))
		if begun > 0 || err != nil {
			bad, begun = bad+1, 0
			continue
		}
		if err := fn(p); err != nil {
			return whole, bad, err
		}
	}
}

// history is what the file of the history says, as far as it is needed to go on.
type history struct {
	size     int64             // of the whole lines; the file is read anew when it has another size
	refs     map[string]string // where each ref is, by the history
	last     uint64            // the highest Seq
	reported uint64            // the Seq up to which Pushed was told
	pending  []Push            // what it was not told
	bad      int               // lines that cannot be read
}

// load reads the file when another process, or a crash, may have changed it.
func (h *history) load(dir string) error {
	reported, err := readReported(dir)
	if err != nil {
		return err
	}
	f, err := os.Open(filepath.Join(dir, historyFile))
	if errors.Is(err, fs.ErrNotExist) {
		*h = history{refs: make(map[string]string), last: reported, reported: reported}
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if h.refs != nil && h.size == fi.Size() && h.reported == reported {
		return nil
	}
	fresh := history{refs: make(map[string]string), last: reported, reported: reported}
	fresh.size, fresh.bad, err = readLines(f, func(p Push) error {
		if p.New == "" {
			delete(fresh.refs, p.Ref)
		} else {
			fresh.refs[p.Ref] = p.New
		}
		fresh.last = max(fresh.last, p.Seq)
		if p.Seq > reported {
			fresh.pending = append(fresh.pending, p)
		}
		return nil
	})
	*h = fresh
	return err
}

// takeBad gives the number of unreadable lines once.
func (h *history) takeBad() int {
	n := h.bad
	h.bad = 0
	return n
}

// add appends pushes, durably, and numbers them.
func (h *history) add(dir string, pushes []Push) ([]Push, error) {
	if len(pushes) == 0 {
		return nil, nil
	}
	if h.last >= maxSeq {
		return nil, fmt.Errorf("push %d is the last one that can be counted", h.last)
	}
	var data []byte
	for i := range pushes {
		p := &pushes[i]
		p.Seq = h.last + 1 + uint64(i)
		p.Time = p.Time.UTC().Truncate(time.Second)
		text, err := strictjson.Marshal(line{
			Seq: p.Seq, Time: p.Time.Format(time.RFC3339), Who: p.Who, Ref: p.Ref, Old: p.Old, New: p.New,
		})
		if err != nil {
			return nil, err
		}
		data = append(append(data, text...), '\n')
	}
	if err := appendDurably(filepath.Join(dir, historyFile), h.size, data); err != nil {
		return nil, err
	}
	h.size += int64(len(data))
	for _, p := range pushes {
		if p.New == "" {
			delete(h.refs, p.Ref)
		} else {
			h.refs[p.Ref] = p.New
		}
	}
	h.last += uint64(len(pushes))
	h.pending = append(h.pending, pushes...)
	return pushes, nil
}

// appendDurably writes data at the end of the whole lines, over what a crash may have left there.
func appendDurably(path string, end int64, data []byte) error {
	_, err := os.Lstat(path)
	made := errors.Is(err, fs.ErrNotExist)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	err = f.Truncate(end)
	if err == nil {
		_, err = f.WriteAt(data, end)
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil { // a line that is half there must not look like one later
		err = errors.Join(err, f.Truncate(end))
	}
	if err = errors.Join(err, f.Close()); err != nil || !made {
		return err
	}
	return durable.SyncDir(filepath.Dir(path))
}

// told notes that Pushed knows of everything up to seq.
func (h *history) told(dir string, seq uint64) error {
	h.pending = slices.DeleteFunc(slices.Clone(h.pending), func(p Push) bool { return p.Seq <= seq })
	h.reported = seq
	return durable.WriteFile(filepath.Join(dir, reportedFile), []byte(strconv.FormatUint(seq, 10)+"\n"), 0o644)
}

// readReported gives the number; 0, which tells everything again, when there is none.
func readReported(dir string) (uint64, error) {
	data, err := os.ReadFile(filepath.Join(dir, reportedFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	seq, err := strconv.ParseUint(strings.TrimSuffix(string(data), "\n"), 10, 64)
	if err != nil || seq > maxSeq {
		return 0, nil
	}
	return seq, nil
}

// changes compares two states, sorted by ref.
func changes(before, after map[string]string) []command {
	var list []command
	for ref, oid := range after {
		if before[ref] != oid {
			list = append(list, command{ref: ref, old: before[ref], new: oid})
		}
	}
	for ref, oid := range before {
		if after[ref] == "" {
			list = append(list, command{ref: ref, old: oid})
		}
	}
	slices.SortFunc(list, func(a, b command) int { return strings.Compare(a.ref, b.ref) })
	return list
}
