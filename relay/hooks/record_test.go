package hooks

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// notes is a journal of changes. What happens is told to watch, if there is one, whose error is the journal's.
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

func TestChangesAreRecorded(t *testing.T) {
	ctx := t.Context()
	s := Open(t.TempDir())
	j := &notes{t: t}
	s.SetJournal(j)
	here := func() bool {
		_, err := s.Hook("mes")
		return err == nil
	}
	j.watch = func(kind string) error {
		if want := kind == kindAdd+"-done" || kind == kindRemove; here() != want {
			t.Errorf("%s: the hook is there: %v", kind, !want)
		}
		return nil
	}
	mes := Hook{
		Name: "mes", Type: Webhook, URL: "https://mes.example:8443/in/f00dfeed?plant=7", Secret: testSecret, Token: testToken, CAFile: "/etc/ca.pem",
		Channels: []string{"stable"},
	}
	for _, err := range []error{s.Add(ctx, mes), s.Remove(ctx, "mes")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	j.watch = nil
	const about = `{"name":"mes","type":"webhook","place":"https://mes.example:8443","signed":true,"token":true,"caFile":"/etc/ca.pem","channels":["stable"]}`
	want := "hook-add " + about + "\nhook-add-done {\"name\":\"mes\"}\nhook-remove " + about + "\nhook-remove-done {\"name\":\"mes\"}"
	if got := strings.Join(j.lines, "\n"); got != want {
		t.Errorf("recorded is\n%s\nwant\n%s", got, want)
	}

	// What is refused is not recorded.
	if err := s.Add(ctx, webhook("a", "https://a.example")); err != nil {
		t.Fatal(err)
	}
	j.lines = nil
	if err := errors.Join(s.Add(ctx, webhook("a", "https://b.example")), s.Add(ctx, Hook{Name: "b"}), s.Remove(ctx, "c")); err == nil || len(j.lines) != 0 {
		t.Errorf("%v, recorded is %q", err, j.lines)
	}

	// What cannot be recorded is not changed, and what the disk refused is recorded as refused.
	broken := errors.New("the journal is damaged")
	j.watch = func(string) error { return broken }
	for _, err := range []error{s.Add(ctx, mes), s.Remove(ctx, "a")} {
		if !errors.Is(err, broken) {
			t.Errorf("%v; want the journal's error", err)
		}
	}
	if all, err := s.Hooks(); err != nil || len(all) != 1 || all[0].Name != "a" {
		t.Errorf("%v, %v", all, err)
	}
	j.watch = func(kind string) error {
		if kind != kindAdd {
			return nil
		}
		return errors.Join(os.Remove(s.path()), os.MkdirAll(s.path()+"/x", 0o755))
	}
	if err := s.Add(ctx, mes); err == nil {
		t.Error("a file was written in the place of a folder")
	}
	if n := len(j.lines); n != 2 || !strings.HasPrefix(j.lines[1], `hook-add-refused {"name":"mes","reason":"`) || strings.Contains(j.lines[1], "f00dfeed") {
		t.Errorf("%q", j.lines)
	}
}
