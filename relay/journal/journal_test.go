package journal

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/sys/unix"

	"github.com/plimsoll/plimsoll/relay/identity"
)

var then = time.Date(2026, 3, 1, 10, 0, 0, 123_456_789, time.FixedZone("", 3600))

func newIdentity(t testing.TB) *identity.Identity {
	t.Helper()
	id, err := identity.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func reopen(t testing.TB, dir string, id *identity.Identity) *Journal {
	t.Helper()
	j, err := Open(dir, Options{Identity: id, Clock: func() time.Time { return then }})
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// filled is a journal with n records.
func filled(t testing.TB, n int) *Journal {
	t.Helper()
	j := reopen(t, filepath.Join(t.TempDir(), Folder), newIdentity(t))
	for i := range n {
		add(t, j, i)
	}
	return j
}

func add(t testing.TB, j *Journal, i int) {
	t.Helper()
	if err := j.Append(context.Background(), "test", map[string]any{"n": i, "pad": strings.Repeat("<é>", i%50)}); err != nil {
		t.Fatal(err)
	}
}

func all(t testing.TB, j *Journal) []Entry {
	t.Helper()
	var list []Entry
	for e, err := range j.Entries(0, -1) {
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, e)
	}
	return list
}

func kinds(list []Entry) string {
	var names []string
	for _, e := range list {
		names = append(names, e.Kind)
	}
	return strings.Join(names, " ")
}

func checkpoint(t testing.TB, j *Journal) Checkpoint {
	t.Helper()
	data, err := j.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c, err := ParseCheckpoint(data, j.key())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAppend(t *testing.T) {
	j := filled(t, 0)
	if c := checkpoint(t, j); c.Size != 0 {
		t.Errorf("a new journal has %d records", c.Size)
	}
	type detail struct {
		Name string `json:"name"`
	}
	for _, d := range []any{detail{"<a>"}, nil, []string{"x"}, json.RawMessage(`{"a": 1}`)} {
		if err := j.Append(t.Context(), "import", d); err != nil {
			t.Fatal(err)
		}
	}
	want := `{"index":0,"time":"2026-03-01T09:00:00.123Z","kind":"import","detail":{"name":"<a>"}}
{"index":1,"time":"2026-03-01T09:00:00.123Z","kind":"import","detail":null}
{"index":2,"time":"2026-03-01T09:00:00.123Z","kind":"import","detail":["x"]}
{"index":3,"time":"2026-03-01T09:00:00.123Z","kind":"import","detail":{"a":1}}
`
	if got, err := os.ReadFile(j.path(recordsFile)); err != nil || string(got) != want {
		t.Errorf("got %s, %v", got, err)
	}
	c := checkpoint(t, j)
	if c.Size != 4 || c.Origin != j.options.Identity.Name() {
		t.Errorf("checkpoint %+v", c)
	}
	report, err := Verify(t.Context(), j.dir, j.key())
	if err != nil || report.Records != 4 || report.Unsigned != 0 || report.Torn != 0 || report.HashesDamaged {
		t.Errorf("%+v, %v", report, err)
	}
}

// The tree, the hash file and the checkpoint are what golang.org/x/mod computes and verifies.
func TestAsInTlog(t *testing.T) {
	j := filled(t, 0)
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		var list []tlog.Hash
		for _, i := range indexes {
			list = append(list, stored[i])
		}
		return list, nil
	})
	vkey, err := j.options.Identity.NoteVerifierKey()
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	for n := range int64(70) {
		add(t, j, int(n))
		records, err := os.ReadFile(j.path(recordsFile))
		if err != nil {
			t.Fatal(err)
		}
		lines := bytes.Split(records, []byte("\n"))
		more, err := tlog.StoredHashes(n, lines[n], reader)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, more...)
		root, err := tlog.TreeHash(n+1, reader)
		if err != nil {
			t.Fatal(err)
		}
		c := checkpoint(t, j)
		if c.Hash != root || c.Size != n+1 {
			t.Fatalf("%d records: root %v, want %v", n+1, c.Hash, root)
		}
		opened, err := note.Open(c.Note, note.VerifierList(verifier))
		if want := fmt.Sprintf("%s\n%d\n%s\n", verifier.Name(), n+1, root); err != nil || opened.Text != want {
			t.Fatalf("note %q, %v; want %q", opened.Text, err, want)
		}
	}
	var flat []byte
	for _, h := range stored {
		flat = append(flat, h[:]...)
	}
	if file, err := os.ReadFile(j.path(hashesFile)); err != nil || !bytes.Equal(file, flat) {
		t.Errorf("the hash file differs from tlog's (%v)", err)
	}
}

func TestKinds(t *testing.T) {
	j := filled(t, 0)
	for _, kind := range []string{"", "A", "a b", "-a", "a\n", strings.Repeat("a", maxKind+1)} {
		var bad *KindError
		if err := j.Append(t.Context(), kind, nil); !errors.As(err, &bad) {
			t.Errorf("%q: %v", kind, err)
		}
	}
	if err := j.Append(t.Context(), strings.Repeat("a", maxKind), nil); err != nil {
		t.Error(err)
	}
	if err := j.Append(t.Context(), "a", func() {}); err == nil {
		t.Error("a function was recorded")
	}
}

// What could be read in two ways, or is too large, is recorded all the same: an import must not fail for it.
func TestDetails(t *testing.T) {
	j := filled(t, 0)
	nested := strings.Repeat("[", 64) + strings.Repeat("]", 64)
	for _, c := range []struct {
		detail any
		want   string
	}{
		{map[string]int{"Path": 1, "path": 2}, `{"text":"{\"Path\":1,\"path\":2}"}`},
		{json.RawMessage(nested), `{"text":"` + nested + `"}`},
		{strings.Repeat("x", MaxDetail-2), `"` + strings.Repeat("x", MaxDetail-2) + `"`},
		{strings.Repeat("x", MaxDetail-1), `{"omittedBytes":1048065,"sha256":"`},
		{"\xff\u2028", `"\ufffd\u2028"`},
	} {
		if err := j.Append(t.Context(), "test", c.detail); err != nil {
			t.Fatal(err)
		}
		list := all(t, j)
		if got := string(list[len(list)-1].Detail); !strings.HasPrefix(got, c.want) {
			t.Errorf("got %.200s, want %.200s", got, c.want)
		}
	}
	if err := j.Verify(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestEntries(t *testing.T) {
	j := filled(t, 300)
	for _, c := range [][2]int64{{0, -1}, {0, 0}, {0, 1}, {-5, 3}, {299, -1}, {300, -1}, {1000, 2000}, {120, 180}, {7, 3}} {
		next := max(c[0], 0)
		for e, err := range j.Entries(c[0], c[1]) {
			if err != nil || e.Index != next {
				t.Fatalf("%v: %d, %v; want %d", c, e.Index, err, next)
			}
			next++
		}
		want := c[1]
		if want < 0 || want > 300 {
			want = 300
		}
		if next != max(want, c[0]) {
			t.Errorf("%v ends before %d, want %d", c, next, want)
		}
	}
	for i := range int64(300) {
		for e, err := range j.Entries(i, i+1) {
			if err != nil || e.Index != i {
				t.Fatalf("%d: %d, %v", i, e.Index, err)
			}
		}
	}
	for range j.Entries(0, -1) {
		break
	}
	for _, err := range Entries(t.TempDir(), 0, -1) {
		t.Errorf("no journal: %v", err)
	}
}

const appendHelper = "PLIMSOLL_TEST_JOURNAL"

// TestMain appends, when another test starts this program as a process of its own.
func TestMain(m *testing.M) {
	if dir := os.Getenv(appendHelper); dir != "" {
		os.Exit(appendTwenty(dir))
	}
	os.Exit(m.Run())
}

// appendTwenty appends twenty records, and says which ones it was told are on the disk.
func appendTwenty(dir string) int {
	id, err := identity.Open(filepath.Join(dir, identity.Folder))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	j, err := Open(filepath.Join(dir, Folder), Options{Identity: id})
	for i := 0; i < 20 && err == nil; i++ {
		if err = j.Append(context.Background(), "other", i); err == nil {
			fmt.Println(i)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// Processes and goroutines that append at once lose nothing and see what the others wrote.
func TestSeveralProcesses(t *testing.T) {
	dir := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for range 3 {
		group.Go(func() {
			cmd := exec.Command(exe)
			cmd.Env = append(os.Environ(), appendHelper+"="+dir)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	id, err := identity.Open(filepath.Join(dir, identity.Folder))
	if err != nil {
		t.Fatal(err)
	}
	j := reopen(t, filepath.Join(dir, Folder), id)
	for range 2 {
		group.Go(func() {
			for i := range 20 {
				if err := j.Append(t.Context(), "own", i); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Go(func() { // who only looks is never told that something is wrong
		for range 20 {
			if _, err := Verify(t.Context(), j.dir, j.key()); err != nil {
				t.Error(err)
			}
		}
	})
	group.Wait()
	if err := j.Verify(t.Context()); err != nil {
		t.Error(err)
	}
	if got := len(all(t, j)); got != 100 {
		t.Errorf("%d records, want 100", got)
	}
}

// What Append said is recorded is there when the process is killed in the middle of the next one.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	id, err := identity.Open(filepath.Join(dir, identity.Folder))
	if err != nil {
		t.Fatal(err)
	}
	j := reopen(t, filepath.Join(dir, Folder), id)
	older, least := checkpoint(t, j), 0
	for round := range 15 {
		cmd := exec.Command(exe)
		cmd.Env = append(os.Environ(), appendHelper+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		told := bufio.NewScanner(out)
		for range 1 + round {
			if told.Scan() {
				least++
			}
		}
		if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Fatal(err)
		}
		for told.Scan() { // what it was told before it died
			least++
		}
		_ = cmd.Wait() // killed
		j = reopen(t, j.dir, id)
		if err := errors.Join(j.Verify(t.Context()), j.CheckConsistency(t.Context(), older.Note)); err != nil {
			t.Fatal(err)
		}
		if got := strings.Count(kinds(all(t, j)), "other"); got < least || got > least+round+1 {
			t.Fatalf("%d records, of which %d were acknowledged", got, least)
		}
		older = checkpoint(t, j)
	}
}

// Who waits for the lock can be told to stop.
func TestLockIsLeftWithContext(t *testing.T) {
	j := filled(t, 1)
	f, err := os.Open(j.path(lockFile))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // only locked
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := j.Append(ctx, "test", nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	add(t, j, 1)
}

func TestOpenNeedsIdentity(t *testing.T) {
	if _, err := Open(t.TempDir(), Options{}); err == nil {
		t.Error("opened without an identity")
	}
}

// A relay that was given another name is the same relay.
func TestRenamed(t *testing.T) {
	j := filled(t, 3)
	old := checkpoint(t, j)
	named, err := j.options.Identity.WithName("depot-7")
	if err != nil {
		t.Fatal(err)
	}
	j = reopen(t, j.dir, named)
	add(t, j, 3)
	if c := checkpoint(t, j); c.Origin != "depot-7" || c.Size != 4 {
		t.Errorf("%+v", c)
	}
	if err := j.CheckConsistency(t.Context(), old.Note); err != nil {
		t.Error(err)
	}
}
