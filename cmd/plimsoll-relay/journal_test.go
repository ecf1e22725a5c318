package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/plimsoll/plimsoll/cmd/internal/cli"
	"github.com/plimsoll/plimsoll/relay/identity"
	"github.com/plimsoll/plimsoll/relay/journal"
)

// journalled is a data folder with ten records.
func journalled(t *testing.T) (data string) {
	t.Helper()
	data = t.TempDir()
	j, err := openJournal(data)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		kind := "import"
		if i%3 == 0 {
			kind = "activate"
		}
		if err := j.Append(t.Context(), kind, map[string]any{"n": i, "text": "a\u202eb"}); err != nil {
			t.Fatal(err)
		}
	}
	return data
}

func journalCmd(t *testing.T, ctx context.Context, data string, args ...string) (out, errOut string, code int) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	root := &cobra.Command{Use: "plimsoll-relay"}
	root.AddCommand(newJournal(&data))
	root.SetArgs(append([]string{"journal"}, args...))
	root.SetOut(&stdout)
	root.SetErr(&stderr)
	code = cli.Run(ctx, root, &stderr, explain, explainJournal)
	return stdout.String(), stderr.String(), code
}

func TestJournalShow(t *testing.T) {
	data := journalled(t)
	for _, c := range []struct {
		args    []string
		rows    int
		says    string
		contain []string
	}{
		{nil, 11, "", []string{"INDEX", `{"n":9,"text":"a\u202eb"}`}},
		{[]string{"--kind", "activate"}, 5, "", []string{"9 ", "activate"}},
		{[]string{"--kind", "activate,import"}, 11, "", nil},
		{[]string{"--limit", "3"}, 4, "7 earlier records are left out", []string{"7 ", "8 ", "9 "}},
		{[]string{"--limit", "3", "--kind", "import"}, 4, "3 earlier records are left out", []string{"5 ", "7 ", "8 "}},
		{[]string{"--limit", "0"}, 11, "", nil},
		{[]string{"--since", "1h"}, 11, "", nil},
		{[]string{"--since", "2999-01-01T00:00:00Z"}, 0, "nothing is recorded", nil},
		{[]string{"--kind", "nothing"}, 0, "nothing is recorded", nil},
		{[]string{"--json"}, 10, "", []string{`{"index":0,`, `"kind":"activate","detail":{"n":0,`}},
	} {
		out, errOut, code := journalCmd(t, t.Context(), data, append([]string{"show"}, c.args...)...)
		if code != 0 || strings.Count(out, "\n") != c.rows || !strings.Contains(errOut, c.says) || c.says == "" && errOut != "" {
			t.Errorf("%v: exit %d, %d rows, want %d\n%s%s", c.args, code, strings.Count(out, "\n"), c.rows, out, errOut)
		}
		for _, text := range c.contain {
			if !strings.Contains(out, text) {
				t.Errorf("%v: no %q in\n%s", c.args, text, out)
			}
		}
	}
	for args, want := range map[string]int{"--limit -1": cli.ExitUsage, "--since x": cli.ExitUsage, "more": cli.ExitFailed} {
		if _, _, code := journalCmd(t, t.Context(), data, append([]string{"show"}, strings.Fields(args)...)...); code == 0 || want == cli.ExitUsage && code != want {
			t.Errorf("%s: exit %d", args, code)
		}
	}
	if _, errOut, code := journalCmd(t, t.Context(), filepath.Join(data, "absent"), "show"); code != cli.ExitFailed {
		t.Errorf("no data folder: exit %d, %s", code, errOut)
	}
	if _, errOut, code := journalCmd(t, t.Context(), t.TempDir(), "show"); code != 0 || !strings.Contains(errOut, "nothing") {
		t.Errorf("no journal: exit %d, %s", code, errOut)
	}
}

// show --follow prints what comes, and its end by an interrupt is not an error.
func TestJournalFollow(t *testing.T) {
	data := journalled(t)
	ctx, cancel := context.WithCancel(t.Context())
	lines := make(chan string)
	done := make(chan int)
	root := &cobra.Command{Use: "plimsoll-relay"}
	root.AddCommand(newJournal(&data))
	root.SetArgs([]string{"journal", "show", "--follow", "--json", "--kind", "activate"})
	root.SetOut(lineWriter(lines))
	go func() { done <- cli.Run(ctx, root, os.Stderr, explain) }()
	for range 4 {
		<-lines
	}
	j, err := openJournal(data)
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"import", "activate"} {
		if err := j.Append(t.Context(), kind, nil); err != nil {
			t.Fatal(err)
		}
	}
	var e journal.Entry
	if err := json.Unmarshal([]byte(<-lines), &e); err != nil || e.Index != 11 {
		t.Errorf("%+v, %v", e, err)
	}
	cancel()
	if code := <-done; code != 0 {
		t.Errorf("exit %d", code)
	}
}

type lineWriter chan string

func (w lineWriter) Write(p []byte) (int, error) {
	w <- string(p)
	return len(p), nil
}

func TestJournalVerify(t *testing.T) {
	data := journalled(t)
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	run := func(want int, says string, args ...string) {
		t.Helper()
		out, errOut, code := journalCmd(t, t.Context(), data, args...)
		if code != want || !strings.Contains(out+errOut, says) {
			t.Errorf("%v: exit %d, want %d with %q\n%s%s", args, code, want, says, out, errOut)
		}
	}
	save := func(name string, args ...string) {
		t.Helper()
		out, errOut, code := journalCmd(t, t.Context(), data, args...)
		if err := os.WriteFile(at(name), []byte(out), 0o644); err != nil || code != 0 {
			t.Fatalf("%v: exit %d, %v: %s", args, code, err, errOut)
		}
	}
	save("relay.pub", "key")
	run(0, "plimsoll-relay-", "key", "--note")
	run(0, "", "checkpoint", "-o", at("old"))
	j, err := openJournal(data)
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Append(t.Context(), "import", nil); err != nil {
		t.Fatal(err)
	}
	run(0, "11 records are as plimsoll-relay-", "verify")
	run(0, "the first 10 are those of", "verify", "--checkpoint", at("old"))
	run(0, `"records": 11`, "verify", "--json")

	// Proofs, read where there is no relay.
	run(0, "", "prove", "4", "-o", at("proof"))
	save("proof-printed", "prove", "4")
	save("since", "prove", "--checkpoint", at("old"))
	here := data
	data = t.TempDir()
	run(cli.ExitUsage, "--key", "verify")
	run(cli.ExitUsage, "--key", "verify", "--proof", at("proof"))
	run(0, "record 4 of 11", "verify", "--proof", at("proof"), "--key", at("relay.pub"))
	run(0, "record 4 of 11", "verify", "--proof", at("proof-printed"), "--key", at("relay.pub"))
	run(0, `"index":4`, "verify", "--proof", at("proof"), "--key", at("relay.pub"), "--json")
	run(0, "with 11 records goes on from the one with 10", "verify", "--proof", at("since"), "--key", at("relay.pub"))
	run(cli.ExitFailed, "no such file", "verify", "--key", at("relay.pub"))
	run(cli.ExitFailed, "no such file", "checkpoint")
	run(cli.ExitFailed, "no such file", "repair")
	if entries, err := os.ReadDir(data); err != nil || len(entries) != 0 {
		t.Errorf("to look made something: %v", entries)
	}
	stranger := t.TempDir()
	id, err := identity.Open(stranger)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(at("stranger.pub"), id.PublicKeyPEM(), 0o644); err != nil {
		t.Fatal(err)
	}
	run(cli.ExitDenied, "another key", "verify", "--proof", at("proof"), "--key", at("stranger.pub"))
	run(cli.ExitFailed, "no PEM block", "verify", "--proof", at("proof"), "--key", at("old"))
	proof, err := os.ReadFile(at("proof"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(at("forged"), bytes.Replace(proof, []byte(`"n":4`), []byte(`"n":5`), 1), 0o644); err != nil {
		t.Fatal(err)
	}
	run(cli.ExitDamaged, "is not in the journal", "verify", "--proof", at("forged"), "--key", at("relay.pub"))

	data = here
	run(cli.ExitDenied, "another key", "verify", "--key", at("stranger.pub"), "--checkpoint", at("old"))
	run(cli.ExitDamaged, "another key", "verify", "--key", at("stranger.pub"))
	run(cli.ExitFailed, "journal has 11 records", "prove", "11")
	for _, args := range []string{"prove", "prove x", "prove -- -1", "prove 1 --checkpoint " + at("old"), "verify --proof a --checkpoint b", "frobnicate"} {
		run(cli.ExitUsage, "--help", strings.Fields(args)...)
	}

	// A record that is changed, and what to do.
	run(0, "nothing to repair", "repair")
	records := filepath.Join(data, journal.Folder, "records.jsonl")
	text, err := os.ReadFile(records)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(records, bytes.Replace(text, []byte(`"n":4`), []byte(`"n":5`), 1), 0o644); err != nil {
		t.Fatal(err)
	}
	run(cli.ExitDamaged, "record 4: changed", "verify")
	run(cli.ExitDamaged, "record 4: changed", "prove", "4")
	run(0, "damaged-1 (record 4: changed)", "repair")
	run(0, "1 records are as", "verify")
	run(cli.ExitDamaged, "an old copy", "verify", "--checkpoint", at("old"))
	run(0, "journal-restarted", "show")
}
