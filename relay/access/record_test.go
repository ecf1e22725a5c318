package access

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// notes is a journal. What happens is told to watch, if there is one, whose error is the journal's.
type notes struct {
	t     *testing.T
	lines []string
	watch func(kind string) error
}

func (n *notes) Append(_ context.Context, kind string, detail any) error {
	if n.watch != nil {
		if err := n.watch(kind); err != nil {
			return err
		}
	}
	line, err := strictjson.Marshal(detail)
	if err != nil {
		n.t.Error(err)
	}
	n.lines = append(n.lines, kind+" "+string(line))
	return nil
}

func (n *notes) took() []string {
	lines := n.lines
	n.lines = nil
	return lines
}

// Every change stands between two records, of which the first is written before the file; none has a secret, or a digest
// of one.
func TestChangesAreRecorded(t *testing.T) {
	ctx := t.Context()
	s := newStore(t)
	j := &notes{t: t}
	s.SetJournal(j)
	read := func() string {
		data, err := os.ReadFile(s.path())
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		return string(data)
	}
	before := ""
	j.watch = func(kind string) error {
		if done := strings.HasSuffix(kind, "-done"); done == (read() == before) {
			t.Errorf("%s: the file is written: %v", kind, !done)
		}
		return nil
	}
	var secrets []string
	var id string
	update := func(fn func(*Account) error) func() error {
		return func() error { return s.Update(ctx, "agv-1", fn) }
	}
	for _, step := range []struct {
		name   string
		change func() error
		want   string // "ID" in it is a token's
		done   string
	}{
		{"add", func() error {
			a := NewAccount("agv-1", RoleRobot, "hall-3", day())
			secrets = append(secrets, a.GeneratePassword(), a.Password, strings.TrimPrefix(a.Password, sumPrefix))
			return s.Add(ctx, a)
		}, `account-add {"name":"agv-1","role":"robot","group":"hall-3","disabled":false,"password":true}`, "account-add"},
		{"password", update(func(a *Account) error {
			err := a.SetPassword("correct horse")
			secrets = append(secrets, "correct horse", a.Password)
			return err
		}), `account-change {"name":"agv-1","role":"robot","group":"hall-3","disabled":false,"password":true,"changed":["password"]}`, "account-change"},
		{"token", update(func(a *Account) error {
			token, secret, err := a.AddToken(day())
			secrets, id = append(secrets, secret, token.SHA256), token.ID
			return err
		}), `account-change {"name":"agv-1","role":"robot","group":"hall-3","disabled":false,"password":true,"changed":["tokens"],"tokensAdded":["ID"]}`, "account-change"},
		{"withdrawn", update(func(a *Account) error { return a.RemoveToken(id) }),
			`account-change {"name":"agv-1","role":"robot","group":"hall-3","disabled":false,"password":true,"changed":["tokens"],"tokensRemoved":["ID"]}`, "account-change"},
		{"role and group", update(func(a *Account) error {
			a.Role, a.Group, a.Disabled = RoleOperator, "", true
			return nil
		}), `account-change {"name":"agv-1","role":"operator","disabled":true,"password":true,"changed":["role","group","disabled"]}`, "account-change"},
		{"remove", func() error { return s.Remove(ctx, "agv-1", func(Account) error { return nil }) },
			`account-remove {"name":"agv-1","role":"operator","disabled":true,"password":true}`, "account-remove"},
	} {
		before = read()
		if err := step.change(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		got := j.took()
		want := strings.ReplaceAll(step.want, "ID", id)
		if len(got) != 2 || got[0] != want || got[1] != step.done+`-done {"name":"agv-1"}` {
			t.Errorf("%s is recorded as\n%s\nwant\n%s", step.name, strings.Join(got, "\n"), want)
		}
		for _, secret := range secrets {
			if text := strings.Join(got, "\n"); strings.Contains(text, secret) {
				t.Errorf("%s: %q is in %s", step.name, secret, text)
			}
		}
	}

	// What is refused or changes nothing is not recorded.
	j.watch = nil
	if err := s.Add(ctx, robot("agv-2")); err != nil {
		t.Fatal(err)
	}
	j.took()
	for name, change := range map[string]func() error{
		"taken":   func() error { return s.Add(ctx, robot("AGV-2")) },
		"absent":  func() error { return s.Update(ctx, "nobody", func(*Account) error { return nil }) },
		"nothing": func() error { return s.Update(ctx, "agv-2", func(*Account) error { return nil }) },
		"another's": func() error {
			return s.Remove(ctx, "agv-2", func(Account) error { return errors.New("not this one") })
		},
		"invalid": func() error {
			return s.Update(ctx, "agv-2", func(a *Account) error { a.Role = "emperor"; return nil })
		},
	} {
		if err := change(); (err == nil) != (name == "nothing") {
			t.Errorf("%s: %v", name, err)
		}
		if got := j.took(); len(got) != 0 {
			t.Errorf("%s is recorded as %q", name, got)
		}
	}
}

func TestWhatCannotBeRecordedIsNotChanged(t *testing.T) {
	ctx := t.Context()
	s := newStore(t, robot("agv-1"))
	broken := errors.New("the journal is damaged")
	j := &notes{t: t, watch: func(string) error { return broken }}
	s.SetJournal(j)
	before, err := os.ReadFile(s.path())
	if err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"add":    s.Add(ctx, robot("agv-2")),
		"update": s.Update(ctx, "agv-1", func(a *Account) error { a.Disabled = true; return nil }),
		"remove": s.Remove(ctx, "agv-1", func(Account) error { return nil }),
	} {
		if !errors.Is(err, broken) {
			t.Errorf("%s: %v; want the journal's error", name, err)
		}
	}
	if after, err := os.ReadFile(s.path()); err != nil || string(after) != string(before) {
		t.Errorf("the file is %s, %v", after, err)
	}

	// Once it is done, it is done.
	j.watch = func(kind string) error {
		if strings.HasSuffix(kind, "-done") {
			return broken
		}
		return nil
	}
	if err := s.Add(ctx, robot("agv-2")); err != nil {
		t.Error(err)
	}
	if _, err := s.Account("agv-2"); err != nil {
		t.Error(err)
	}
	j.took()

	// What the disk refused is recorded as refused: here a folder is in the file's place when it is written.
	j.watch = func(kind string) error {
		if strings.HasSuffix(kind, "-refused") {
			return nil
		}
		if err := os.Remove(s.path()); err != nil {
			return err
		}
		return os.MkdirAll(s.path()+"/x", 0o755)
	}
	if err := s.Add(ctx, robot("agv-3")); err == nil {
		t.Error("a file was written in the place of a folder")
	}
	if got := j.took(); len(got) != 2 || !strings.HasPrefix(got[1], `account-add-refused {"name":"agv-3","reason":"`) {
		t.Errorf("%q", got)
	}
}
