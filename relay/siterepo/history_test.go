package siterepo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestPushedIsToldLater: what Pushed did not take is told with the next push, or by the next Open, once each.
func TestPushedIsToldLater(t *testing.T) {
	t.Parallel()
	sb := newSandbox(t)
	dir := filepath.Join(t.TempDir(), "site")
	var mu sync.Mutex
	problems := 0
	s := openSite(t, dir, Options{Problem: func(string, error) {
		mu.Lock()
		defer mu.Unlock()
		problems++
	}})
	clone := sb.clone(s.url(), "alice")
	push := func(content string) {
		sb.Commit(clone, "a", content)
		sb.Git(clone, "push", "--quiet", s.url(), "main")
	}
	push("1")
	s.deaf = true
	push("2")
	push("3")
	if len(s.told) != 1 || problems != 2 {
		t.Errorf("told %v, %d problems", s.told, problems)
	}
	s.deaf = false
	push("4")
	if len(s.told) != 4 {
		t.Errorf("told %v", s.told)
	}
	s.deaf = true
	push("5")
	s = openSite(t, dir, Options{})
	if len(s.told) != 1 || s.told[0].Seq != 5 {
		t.Errorf("the next Open told %v", s.told)
	}
	s = openSite(t, dir, Options{})
	if len(s.told) != 0 {
		t.Errorf("the Open after it told %v", s.told)
	}
}

// TestHistoryOfTwoProcesses: a push through one set is seen by another one of the same folder.
func TestHistoryOfTwoProcesses(t *testing.T) {
	t.Parallel()
	sb := newSandbox(t)
	dir := filepath.Join(t.TempDir(), "site")
	one := openSite(t, dir, Options{})
	two := openSite(t, dir, Options{})
	clone := sb.clone(one.url(), "alice")
	for i, s := range []*site{one, two, two, one, two} {
		sb.Commit(clone, "a", fmt.Sprint(i))
		sb.Git(clone, "push", "--quiet", s.url(), "main")
	}
	one.sound(sb)
	if len(one.told) != 2 || len(two.told) != 3 {
		t.Errorf("told %v and %v", one.told, two.told)
	}
}

// TestHistoryIsCompleted: without the history, or with a damaged one, it is made anew from the refs and their reflogs.
func TestHistoryIsCompleted(t *testing.T) {
	t.Parallel()
	sb := newSandbox(t)
	dir := filepath.Join(t.TempDir(), "site")
	s := openSite(t, dir, Options{})
	clone := sb.clone(s.url(), "alice")
	for i, who := range []string{"alice", "bob", "alice"} {
		sb.Git(clone, "config", "http.extraHeader", whoHeader+": "+who)
		sb.Commit(clone, "a", fmt.Sprint(i))
		sb.Git(clone, "push", "--quiet", "origin", "main")
	}
	path := filepath.Join(dir, reposName, DefaultName, historyFile)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(whole, []byte("\n"))
	for name, tc := range map[string]struct {
		data     []byte
		who      string
		problems int
	}{
		"none":                {nil, "alice bob alice", 0},
		"the last one lost":   {bytes.Join(lines[:2], nil), "alice bob alice", 0},
		"cut in the last one": {whole[:len(whole)-10], "alice bob alice", 0},
		"zeros at the end":    {append(bytes.Join(lines[:2], nil), make([]byte, 50)...), "alice bob alice", 0},
		"a zero line":         {append(bytes.Join(lines[:2], nil), "\x00\x00\n"...), "alice bob alice", 1},
		"damage":              {bytes.Replace(whole, []byte(`"who":"bob"`), []byte(`"who":bob"`), 1), "alice alice", 1},
		"a long line":         {append(append(bytes.Clone(lines[0]), bytes.Repeat([]byte("x"), 3*maxLine)...), "\n"...), "alice bob alice", 1},
		"whole":               {whole, "alice bob alice", 0},
	} {
		if err := os.WriteFile(path, tc.data, 0o644); err != nil {
			t.Fatal(err)
		}
		problems := 0
		set, err := Open(dir, Options{Problem: func(string, error) { problems++ }})
		if err != nil {
			t.Fatal(name, err)
		}
		log, err := set.Log(context.Background(), DefaultName)
		if err != nil {
			t.Fatal(name, err)
		}
		var who []string
		for _, p := range log {
			who = append(who, p.Who)
		}
		if strings.Join(who, " ") != tc.who || problems != tc.problems || log[len(log)-1].New != sb.Git(clone, "rev-parse", "main") {
			t.Errorf("%s: %+v, %d problems", name, log, problems)
		}
	}
	// Without reflog there is still the change, and nobody's name.
	if err := errors.Join(os.Remove(path), os.Remove(filepath.Join(filepath.Dir(path), reportedFile)), os.RemoveAll(filepath.Join(s.repo(), "logs"))); err != nil {
		t.Fatal(err)
	}
	set, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if log := checkHistory(sb, set); len(log) != 1 || log[0].Who != "" || log[0].Old != "" {
		t.Errorf("%+v", log)
	}
}

func TestFromReflog(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	id := func(c string) string { return strings.Repeat(c, 40) }
	line := func(from, to, who string) string {
		return id(from) + " " + id(to) + " " + who + " <x> 1700000000 +0000\tpush\n"
	}
	for _, tc := range []struct{ name, reflog, old, new, want string }{
		{"one", line("0", "a", "al"), "", "a", "al:-a"},
		{"two", line("0", "a", "al") + line("a", "b", "bo"), "", "b", "al:-a bo:ab"},
		{"the last of two", line("0", "a", "al") + line("a", "b", "bo"), "a", "b", "bo:ab"},
		{"one that was not made", line("0", "a", "al") + line("a", "c", "bo"), "", "a", "al:-a"},
		{"two that were not made", line("0", "a", "al") + line("a", "c", "bo") + line("a", "c", "bo"), "", "a", "al:-a"},
		{"a gap", line("0", "a", "al") + line("b", "c", "bo"), "", "c", ":-c"},
		{"another start", line("a", "b", "al"), "", "b", ":-b"},
		{"another end", line("0", "a", "al"), "", "b", ":-b"},
		{"no line", "hello\n", "", "b", ":-b"},
		{"empty", "", "", "b", ":-b"},
		{"a long one", strings.Repeat(line("c", "c", "xx"), 1000) + line("c", "d", "di"), "c", "d", "di:cd"},
	} {
		path := filepath.Join(dir, "logs/refs/heads/main")
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(tc.reflog), 0o644)); err != nil {
			t.Fatal(err)
		}
		p := Push{Ref: "refs/heads/main", New: id(tc.new), Time: time.Unix(1, 0)}
		if tc.old != "" {
			p.Old = id(tc.old)
		}
		var got []string
		for _, q := range fromReflog(dir, p) {
			if q.Old == "" {
				q.Old = "-"
			}
			got = append(got, q.Who+":"+q.Old[:1]+q.New[:1])
			if (q.Who == "") != (q.Time.Unix() == 1) || q.Ref != p.Ref {
				t.Errorf("%s: %+v", tc.name, q)
			}
		}
		if strings.Join(got, " ") != tc.want {
			t.Errorf("%s: %v, want %s", tc.name, got, tc.want)
		}
	}
}

// FuzzHistory: whatever stands in the file, what is read of it is written the same again, and appending to it loses
// nothing that could be read.
func FuzzHistory(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		path := filepath.Join(dir, historyFile)
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
		var before []Push
		whole, _, err := readLines(bytes.NewReader(data), func(p Push) error {
			before = append(before, p)
			return nil
		})
		if err != nil || whole > int64(len(data)) || whole > 0 && data[whole-1] != '\n' || bytes.IndexByte(data[whole:], '\n') >= 0 {
			t.Fatalf("%d of %d bytes are whole, %v", whole, len(data), err)
		}
		var h history
		if err := h.load(dir); err != nil {
			t.Fatal(err)
		}
		add := []Push{{Time: time.Unix(1_700_000_000, 0), Who: "alice", Ref: "refs/heads/main", New: strings.Repeat("a", 40)}}
		added, err := h.add(dir, add)
		if err != nil {
			if h.last < maxSeq {
				t.Fatal(err)
			}
			return
		}
		var fresh history
		if err := fresh.load(dir); err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(fresh.refs) != fmt.Sprint(h.refs) || fresh.last != h.last || fresh.size != h.size {
			t.Errorf("%+v, read again %+v", h, fresh)
		}
		if len(fresh.pending) != len(before)+1 {
			t.Errorf("%d pushes, before %d", len(fresh.pending), len(before))
		}
		if len(fresh.pending) > 0 && fmt.Sprint(fresh.pending[len(fresh.pending)-1]) != fmt.Sprint(added[0]) {
			t.Errorf("%+v, want %+v", fresh.pending[len(fresh.pending)-1], added[0])
		}
	})
}

// FuzzPushHead: what is taken for the head of a push is one, and the report about it can be read again.
func FuzzPushHead(f *testing.F) {
	s := &Set{}
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := readHead(bytes.NewReader(data))
		if err != nil {
			var bad *headError
			if !errors.As(err, &bad) {
				t.Fatal(err)
			}
			return
		}
		if len(h.commands) > maxCommands {
			t.Fatalf("%d commands", len(h.commands))
		}
		for _, c := range h.commands {
			if !isOID(c.old) || !isOID(c.new) || len(c.ref) > maxRef || strings.ContainsAny(c.ref, " \x00\n\x7f") {
				t.Errorf("%+v", c)
			}
			if s.refuse(c) == "" && !keptRef(c.ref) {
				t.Errorf("%s is let through", c.ref)
			}
		}
		if refused := s.check(h); refused != nil {
			report := s.refusal(h, refused)
			status := h.caps["report-status"] || h.caps["report-status-v2"]
			again := h.refusedBy(report)
			if status && (again == nil || len(again.Refs) != len(h.commands)) || !status && again != nil {
				t.Errorf("%q says %+v", report, again)
			}
		}
		h.refusedBy(data)
	})
}
