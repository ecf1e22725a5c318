package journal

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// files is what a journal's folder holds.
type files map[string]string

func read(t testing.TB, dir string) files {
	t.Helper()
	all := files{}
	for _, name := range []string{recordsFile, hashesFile, checkpointFile, nextCheckpoint} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil {
			all[name] = string(data)
		} else if !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	return all
}

func (f files) write(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	f.writeTo(t, dir)
	return dir
}

func (f files) writeTo(t testing.TB, dir string) {
	t.Helper()
	for _, name := range []string{recordsFile, hashesFile, checkpointFile, nextCheckpoint} {
		data, ok := f[name]
		var err error
		if ok {
			err = os.WriteFile(filepath.Join(dir, name), []byte(data), 0o644)
		} else if err = os.Remove(filepath.Join(dir, name)); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func (f files) with(name, data string) files {
	next := files{}
	for k, v := range f {
		next[k] = v
	}
	if next[name] = data; data == "" {
		delete(next, name)
	}
	return next
}

func lines(f files) []string {
	return strings.SplitAfter(strings.TrimSuffix(f[recordsFile], "\n"), "\n")
}

func joined(list ...[]string) string {
	var b strings.Builder
	for _, part := range list {
		for _, line := range part {
			b.WriteString(strings.TrimSuffix(line, "\n") + "\n")
		}
	}
	return b.String()
}

// Each thing that can happen to a journal is found, and the first bad record is named.
func TestVerifyNames(t *testing.T) {
	j := filled(t, 40)
	whole := read(t, j.dir)
	l := lines(whole)
	stranger := filled(t, 40)
	forged := strings.Replace(l[7], `"n":7`, `"n":8`, 1)
	edit := func(records string) files { return whole.with(recordsFile, records) }
	noHashes := func(f files) files { return f.with(hashesFile, "") }
	text, _, _ := strings.Cut(whole[checkpointFile], "\n\n")
	for name, c := range map[string]struct {
		files files
		index int64
		fault Fault
	}{
		"changed":                     {edit(joined(l[:7], []string{forged}, l[8:])), 7, Changed},
		"changed, no JSON":            {edit(joined(l[:7], []string{"x"}, l[8:])), 7, Changed},
		"changed, the first":          {edit(joined([]string{strings.Replace(l[0], "test", "tset", 1)}, l[1:])), 0, Changed},
		"changed, the last":           {edit(joined(l[:39], []string{strings.Replace(l[39], "test", "tset", 1)})), 39, Changed},
		"changed, the last, garbage":  {edit(joined(l[:39], []string{"x"})), 39, Changed},
		"changed, its number":         {edit(joined(l[:7], []string{strings.Replace(l[7], `:7,`, `:8,`, 1)}, l[8:])), 7, Changed},
		"changed, two":                {edit(joined(l[:7], []string{forged, "x"}, l[9:])), 7, Changed},
		"changed, newline for space":  {edit(strings.Replace(joined(l), `"kind"`, "\n\"kind\"", 1)), 0, Changed},
		"dropped":                     {edit(joined(l[:7], l[8:])), 7, Dropped},
		"dropped, the first":          {edit(joined(l[1:])), 0, Dropped},
		"dropped, many":               {edit(joined(l[:7], l[20:])), 7, Dropped},
		"dropped, the rest renamed":   {edit(joined(l[:7], []string{strings.Replace(l[8], `:8,`, `:7,`, 1)}, l[9:])), 7, Changed},
		"reordered":                   {edit(joined(l[:7], []string{l[8], l[7]}, l[9:])), 7, Reordered},
		"reordered, far":              {edit(joined(l[:7], l[8:], []string{l[7]})), 7, Reordered},
		"reordered, the last":         {edit(joined(l[:38], []string{l[39], l[38]})), 38, Reordered},
		"inserted":                    {edit(joined(l[:7], []string{forged}, l[7:])), 7, Inserted},
		"inserted, an empty line":     {edit(joined(l[:7], []string{""}, l[7:])), 7, Inserted},
		"inserted, twice the same":    {edit(joined(l[:8], l[7:])), 8, Inserted},
		"lost":                        {edit(joined(l[:37])), 37, Lost},
		"lost, half of the last":      {edit(joined(l)[:len(joined(l))-20]), 39, Lost},
		"lost, its newline":           {edit(strings.TrimSuffix(joined(l), "\n")), 39, Lost},
		"lost, all":                   {edit(""), 0, Lost},
		"checkpoint missing":          {whole.with(checkpointFile, ""), -1, BadCheckpoint},
		"checkpoint of another relay": {whole.with(checkpointFile, read(t, stranger.dir)[checkpointFile]), -1, BadCheckpoint},
		"checkpoint cut":              {whole.with(checkpointFile, whole[checkpointFile][:50]), -1, BadCheckpoint},
		"checkpoint changed":          {whole.with(checkpointFile, strings.Replace(whole[checkpointFile], "\n40\n", "\n39\n", 1)), -1, BadCheckpoint},
		"checkpoint unsigned":         {whole.with(checkpointFile, text+"\n"), -1, BadCheckpoint},
		"checkpoint large":            {whole.with(checkpointFile, strings.Repeat("a", MaxCheckpoint+1)), -1, BadCheckpoint},
		"both":                        {edit(joined(l[:7], []string{forged}, l[8:])).with(checkpointFile, ""), 7, Changed},
		"no hashes, changed":          {noHashes(edit(joined(l[:7], []string{forged}, l[8:]))), -1, Changed},
		"no hashes, no JSON":          {noHashes(edit(joined(l[:7], []string{"x"}, l[8:]))), 7, Changed},
		"no hashes, dropped":          {noHashes(edit(joined(l[:7], l[8:]))), 7, Dropped},
		"no hashes, reordered":        {noHashes(edit(joined(l[:7], []string{l[8], l[7]}, l[9:]))), 7, Reordered},
		"no hashes, inserted":         {noHashes(edit(joined(l[:8], l[7:]))), 8, Inserted},
		"no hashes, lost":             {noHashes(edit(joined(l[:37]))), 37, Lost},
		"bad hashes, changed": {edit(joined(l[:7], []string{forged}, l[8:])).
			with(hashesFile, whole[hashesFile][:2000]+"x"+whole[hashesFile][2001:]), 7, Changed},
		"another's records, hashes":  {whole.with(recordsFile, joined(l[:3], []string{forged}, l[4:])).with(hashesFile, read(t, stranger.dir)[hashesFile]), 3, Changed},
		"a line longer than allowed": {edit(joined(l[:7], []string{strings.Repeat("x", 3*MaxRecord)}, l[8:])), 7, Changed},
	} {
		t.Run(name, func(t *testing.T) {
			dir := c.files.write(t)
			_, err := Verify(t.Context(), dir, j.key())
			var bad *CorruptError
			if !errors.As(err, &bad) || bad.Index != c.index || bad.Fault != c.fault {
				t.Fatalf("got %v, want record %d: %s", err, c.index, c.fault)
			}
			if name == "both" && !strings.Contains(err.Error(), string(BadCheckpoint)) {
				t.Errorf("the checkpoint is not named: %v", err)
			}
			damaged := reopen(t, dir, j.options.Identity)
			if err := damaged.Verify(t.Context()); !errors.As(err, &bad) || bad.Fault != c.fault {
				t.Errorf("Journal.Verify: %v", err)
			}
			checkRepair(t, damaged, c.index, c.fault)
		})
	}
}

// checkRepair repairs a journal, which keeps all of it.
func checkRepair(t *testing.T, j *Journal, index int64, fault Fault) {
	t.Helper()
	before := read(t, j.dir)
	appendErr := j.Append(t.Context(), "test", nil)
	var bad *CorruptError
	if appendErr != nil && !errors.As(appendErr, &bad) {
		t.Errorf("append: %v", appendErr)
	}
	// What is wrong at the end keeps anything from being appended.
	if atEnd := fault == Lost || fault == BadCheckpoint || index == 39; atEnd && (appendErr == nil || bad.Index != index || bad.Fault != fault) {
		t.Errorf("append: %v, want record %d: %s", appendErr, index, fault)
	}
	if appendErr == nil {
		before = read(t, j.dir)
	} else if now := read(t, j.dir); fmt.Sprint(now[recordsFile], now[checkpointFile]) != fmt.Sprint(before[recordsFile], before[checkpointFile]) {
		t.Error("an Append that was refused changed files")
	}
	aside, err := j.Repair(t.Context())
	if err != nil || aside == nil || aside.Folder != "damaged-1" || aside.Reason == "" {
		t.Fatalf("repair: %+v, %v", aside, err)
	}
	kept := read(t, j.path(aside.Folder))
	if kept[recordsFile] != before[recordsFile] || kept[checkpointFile] != before[checkpointFile] {
		t.Error("the damaged journal was not kept")
	}
	if again, err := j.Repair(t.Context()); again != nil || err != nil {
		t.Errorf("repaired twice: %+v, %v", again, err)
	}
	if err := j.Append(t.Context(), "test", nil); err != nil {
		t.Fatal(err)
	}
	if got := kinds(all(t, j)); got != "journal-restarted test" {
		t.Errorf("records %s", got)
	}
	if err := j.Verify(t.Context()); err != nil {
		t.Error(err)
	}
	if old := before[checkpointFile]; len(old) < MaxCheckpoint {
		var fork *ForkError
		if c, err := ParseCheckpoint([]byte(old), j.key()); err == nil && !errors.As(j.CheckConsistency(t.Context(), c.Note), &fork) {
			t.Error("the gap is not seen")
		}
	}
}

// A change of any one byte is found, and named where the hash file is what it was.
func TestAnyByte(t *testing.T) {
	j := filled(t, 30)
	whole := read(t, j.dir)
	records := []byte(whole[recordsFile])
	dir := whole.write(t)
	for range 200 {
		at := rand.IntN(len(records))
		changed := bytes.Clone(records)
		changed[at] ^= 1 << rand.IntN(8)
		whole.with(recordsFile, string(changed)).writeTo(t, dir)
		_, err := Verify(t.Context(), dir, j.key())
		want := int64(bytes.Count(records[:at], []byte("\n")))
		var bad *CorruptError
		if !errors.As(err, &bad) || bad.Index != want {
			t.Fatalf("byte %d: %v, want record %d", at, err, want)
		}
	}
	for range 200 { // the hash file alone: derived, and made anew
		hashes := []byte(whole[hashesFile])
		hashes[rand.IntN(len(hashes))] ^= 1 << rand.IntN(8)
		whole.with(hashesFile, string(hashes)).writeTo(t, dir)
		report, err := Verify(t.Context(), dir, j.key())
		if err != nil || !report.HashesDamaged {
			t.Fatalf("%+v, %v", report, err)
		}
	}
}

// However a crash cuts an append short, the next one goes on from it, and nothing that was signed is lost.
func TestCrash(t *testing.T) {
	j := filled(t, 11)
	old := read(t, j.dir)
	oldCheckpoint := checkpoint(t, j)
	add(t, j, 11)
	done := read(t, j.dir)
	id := j.options.Identity
	rest := done[recordsFile][len(old[recordsFile]):]
	zeros := strings.Repeat("\x00", len(rest))
	tails := map[string]string{"none": "", "whole": rest, "zeros": zeros, "zeros, newline": zeros[1:] + "\n",
		"end only": zeros[:30] + rest[30:], "begin only": rest[:30] + zeros[30:], "without newline": rest[:len(rest)-1], "newline": "\n"}
	for cut := 1; cut < len(rest); cut += 11 {
		tails[fmt.Sprintf("first %d bytes", cut)] = rest[:cut]
	}
	garbage := strings.Repeat("\x00", len(done[hashesFile]))
	dir := t.TempDir()
	tried := 0
	for name, tail := range tails {
		for hashes, hashFile := range map[string]string{"old": old[hashesFile], "new": done[hashesFile], "none": "", "half": done[hashesFile][:500], "zeros": garbage,
			"page lost": done[hashesFile][:128] + garbage[128:256] + done[hashesFile][256:]} {
			for next, nextFile := range map[string]string{"none": "", "half": done[checkpointFile][:60], "whole": done[checkpointFile]} {
				if strings.HasPrefix(name, "first") && hashes+next != "newwhole" && hashes+next != "page losthalf" {
					continue // each of these takes milliseconds
				}
				tried++
				files{recordsFile: old[recordsFile] + tail, hashesFile: hashFile, checkpointFile: old[checkpointFile], nextCheckpoint: nextFile}.writeTo(t, dir)
				what := fmt.Sprintf("record %s, hashes %s, next checkpoint %s", name, hashes, next)
				report, err := Verify(t.Context(), dir, id.PublicKey())
				if err != nil {
					t.Fatalf("%s: before: %v", what, err)
				}
				want := strings.Repeat("test ", 11)
				switch {
				case name == "whole":
					want += "test "
				case tail != "":
					want += "journal-recovered "
				}
				if torn := tail != "" && name != "whole"; torn != (report.Torn > 0) || torn && report.Torn != int64(len(tail)) {
					t.Fatalf("%s: torn %d", what, report.Torn)
				}
				crashed := reopen(t, dir, id)
				if got := kinds(all(t, crashed)); got != strings.TrimSpace(want) {
					t.Fatalf("%s: opened with %s, want %s", what, got, want)
				}
				add(t, crashed, 12)
				if got := kinds(all(t, crashed)); got != want+"test" {
					t.Fatalf("%s: %s, want %s", what, got, want)
				}
				if err := crashed.CheckConsistency(t.Context(), oldCheckpoint.Note); err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				if err := crashed.Verify(t.Context()); err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				if report, err := Verify(t.Context(), dir, id.PublicKey(), oldCheckpoint); err != nil || report.Unsigned != 0 || report.HashesDamaged {
					t.Fatalf("%s: %+v, %v", what, report, err)
				}
			}
		}
	}
	t.Logf("%d states", tried)
}

// A crash within the very first append.
func TestCrashAtFirst(t *testing.T) {
	j := filled(t, 0)
	empty := read(t, j.dir)
	add(t, j, 0)
	done := read(t, j.dir)
	for name, f := range map[string]files{
		"nothing":            {},
		"no records":         empty.with(recordsFile, ""),
		"half":               empty.with(recordsFile, done[recordsFile][:20]),
		"half, no checkpint": files{recordsFile: done[recordsFile][:20]},
		"whole":              empty.with(recordsFile, done[recordsFile]),
	} {
		dir := f.write(t)
		if _, err := Verify(t.Context(), dir, j.key()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		again := reopen(t, dir, j.options.Identity)
		add(t, again, 1)
		if err := again.Verify(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What was cut is recorded with its beginning.
func TestRecoveredDetail(t *testing.T) {
	j := filled(t, 2)
	f := read(t, j.dir)
	torn := `{"index":2,"time":"2026` + "\x00\xff"
	f.with(recordsFile, f[recordsFile]+torn).writeTo(t, j.dir)
	list := all(t, reopen(t, j.dir, j.options.Identity))
	if want := `{"bytes":25,"begin":"{\"index\":2,\"time\":\"2026\u0000` + "\uFFFD" + `"}`; string(list[2].Detail) != want {
		t.Errorf("got %s, want %s", list[2].Detail, want)
	}
}

// A copy of a live journal has more records than its checkpoint says.
func TestOldCheckpointOfACopy(t *testing.T) {
	j := filled(t, 5)
	old := read(t, j.dir)
	for i := range 9 {
		add(t, j, i)
	}
	dir := read(t, j.dir).with(checkpointFile, old[checkpointFile]).with(hashesFile, old[hashesFile]).write(t)
	report, err := Verify(t.Context(), dir, j.key())
	if err != nil || report.Records != 14 || report.Unsigned != 9 {
		t.Errorf("%+v, %v", report, err)
	}
	again := reopen(t, dir, j.options.Identity)
	if c := checkpoint(t, again); c.Size != 14 || c.Hash != checkpoint(t, j).Hash {
		t.Errorf("%+v", c)
	}
}

// A crash within Repair leaves something that the next Append, or the next Repair, brings to its end.
func TestCrashInRepair(t *testing.T) {
	j := filled(t, 5)
	whole := read(t, j.dir)
	broken := whole.with(recordsFile, joined(lines(whole)[:3]))
	for moved, f := range map[int]files{
		0: broken,
		1: broken.with(recordsFile, ""),
		2: broken.with(recordsFile, "").with(hashesFile, ""),
		3: {},
	} {
		dir := f.write(t)
		if err := os.Mkdir(filepath.Join(dir, "damaged-1"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "damaged-1", reasonFile), []byte("record 3: lost\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		again := reopen(t, dir, j.options.Identity)
		aside, err := again.Repair(t.Context())
		if err != nil || (aside == nil) != (moved == 3) {
			t.Fatalf("%d moved: %+v, %v", moved, aside, err)
		}
		add(t, again, 0)
		list := all(t, again)
		if kinds(list) != "journal-restarted test" || !strings.Contains(string(list[0].Detail), "lost") {
			t.Errorf("%d moved: %s %s", moved, kinds(list), list[0].Detail)
		}
	}
}

// Whoever has an older checkpoint sees that history was rewritten, though the relay signed it.
func TestFork(t *testing.T) {
	j := filled(t, 20)
	id := j.options.Identity
	older := checkpoint(t, j)
	other := reopen(t, t.TempDir(), id)
	for i := range 30 {
		add(t, other, i+1)
	}
	short := reopen(t, t.TempDir(), id)
	add(t, short, 0)
	for name, forked := range map[string]*Journal{"rewritten": other, "restored": short, "emptied": reopen(t, t.TempDir(), id)} {
		var fork *ForkError
		if err := forked.Verify(t.Context()); err != nil {
			t.Errorf("%s: by itself: %v", name, err)
		}
		if err := forked.CheckConsistency(t.Context(), older.Note); !errors.As(err, &fork) || fork.Older.Size != 20 {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := Verify(t.Context(), forked.dir, id.PublicKey(), older); !errors.As(err, &fork) || fork.Older.Size != 20 {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := forked.ProveOlder(t.Context(), older.Note); !errors.As(err, &fork) {
			t.Errorf("%s: %v", name, err)
		}
	}
	add(t, j, 20)
	if _, err := Verify(t.Context(), j.dir, id.PublicKey(), older, checkpoint(t, j), checkpoint(t, reopen(t, t.TempDir(), id))); err != nil {
		t.Errorf("the journal itself: %v", err)
	}
	var bad *CheckpointError
	if err := j.CheckConsistency(t.Context(), checkpoint(t, filled(t, 1)).Note); !errors.As(err, &bad) {
		t.Errorf("another relay's checkpoint: %v", err)
	}
}

func signed(t testing.TB, j *Journal, text string) []byte {
	t.Helper()
	msg, err := note.Sign(&note.Note{Text: text}, j.options.Identity.NoteSigner())
	if err != nil {
		t.Fatal(err)
	}
	return msg
}

// Only one form of a checkpoint is one, even when it is signed.
func TestParseCheckpoint(t *testing.T) {
	j := filled(t, 0)
	name, hash := j.options.Identity.Name(), tlog.Hash{1}.String()
	if _, err := ParseCheckpoint(signed(t, j, name+"\n7\n"+hash+"\n"), j.key()); err != nil {
		t.Error(err)
	}
	for _, text := range []string{
		"other\n7\n" + hash + "\n", name + "\n07\n" + hash + "\n", name + "\n-1\n" + hash + "\n", name + "\n+7\n" + hash + "\n",
		name + "\n7\n" + hash + "\nmore\n", name + "\n7\n" + hash[:40] + "\n", name + "\n7\n", name + "\n99999999999999999999\n" + hash + "\n",
		name + "\n9223372036854775807\n" + hash + "\n", name + "\n7\n" + strings.Replace(hash, "AAA=", "AAB=", 1) + "\n",
	} {
		var bad *CheckpointError
		if c, err := ParseCheckpoint(signed(t, j, text), j.key()); !errors.As(err, &bad) {
			t.Errorf("%q: %+v, %v", text, c, err)
		}
	}
}
