package main

import (
	"bytes"
	"context"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/plimsoll/plimsoll/cmd/internal/cli"
	"github.com/plimsoll/plimsoll/relay/seen"
)

// history is a data folder in which three pulls are recorded.
func history(t *testing.T) (data string) {
	t.Helper()
	data = t.TempDir()
	db, err := seen.Open(filepath.Join(data, seen.FileName), seen.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	at := time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)
	app := digest.FromString("app")
	for _, e := range []seen.Event{
		{Time: at, Robot: "agv-17", Address: "10.0.0.7:4000", Agent: "containerd/v2", Kind: seen.KindManifest, Repository: "ghcr.io/acme/app",
			Reference: "v1", Digest: app, Generation: 3, Status: 200, Bytes: 1024},
		{Time: at.Add(time.Second), Robot: "agv-17", Address: "10.0.0.7:4000", Agent: "containerd/v2", Kind: seen.KindBlob,
			Repository: "ghcr.io/acme/app", Generation: 3, Status: 200, Bytes: 1 << 20},
		{Time: at.Add(time.Hour), Address: "10.0.0.9:4000", Agent: "git/2.39", Kind: seen.KindGit, Repository: "github.com/acme/deploy",
			Generation: 3, Status: 200, Bytes: 10},
		{Time: at.Add(25 * time.Hour), Robot: "agv-18", Address: "10.0.0.8:4000", Agent: "containerd/v2", Kind: seen.KindManifest,
			Repository: "docker.io/library/redis", Reference: "7", Digest: digest.FromString("redis"), Generation: 4, Status: 200, Bytes: 500},
	} {
		db.Record(e)
	}
	if err := db.Run(ctx); err != nil {
		t.Fatal(err)
	}
	return data
}

func pulls(t *testing.T, data string, args ...string) (out, errOut string, code int) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	root := &cobra.Command{Use: "plimsoll-relay"}
	root.AddCommand(newPulls(&data))
	root.SetArgs(append([]string{"pulls"}, args...))
	root.SetOut(&stdout)
	root.SetErr(&stderr)
	code = cli.Run(t.Context(), root, &stderr, explain)
	return stdout.String(), stderr.String(), code
}

func TestPulls(t *testing.T) {
	data := history(t)
	for _, c := range []struct {
		args string
		want string
	}{
		{"", `
TIME                  ROBOT     REPOSITORY               REFERENCE  DIGEST               GENERATION  TIMES  BYTES
2026-03-02T11:00:00Z  agv-18    docker.io/library/redis  7          sha256:34fb46c847bb  4           1      500 B
2026-03-01T11:00:00Z  10.0.0.9  github.com/acme/deploy   -          -                    3           1      10 B
2026-03-01T10:00:00Z  agv-17    ghcr.io/acme/app         v1         sha256:a172cedcae47  3           1      1.0 MiB
`},
		{"--since 2026-03-02T00:00:00Z --repository docker.io/*", `
TIME                  ROBOT   REPOSITORY               REFERENCE  DIGEST               GENERATION  TIMES  BYTES
2026-03-02T11:00:00Z  agv-18  docker.io/library/redis  7          sha256:34fb46c847bb  4           1      500 B
`},
		{"--robots", `
ROBOT     ADDRESS   SEEN                  GENERATION  REQUESTS  PULLS  BYTES    AGENT
agv-18    10.0.0.8  2026-03-02T11:00:00Z  4           1         1      500 B    containerd/v2
10.0.0.9  10.0.0.9  2026-03-01T11:00:00Z  3           1         1      10 B     git/2.39
agv-17    10.0.0.7  2026-03-01T10:00:01Z  3           2         1      1.0 MiB  containerd/v2
`},
		{"--robots --robot 10.0.0.9", `
ROBOT     ADDRESS   SEEN                  GENERATION  REQUESTS  PULLS  BYTES  AGENT
10.0.0.9  10.0.0.9  2026-03-01T11:00:00Z  3           1         1      10 B   git/2.39
`},
		{"--days --limit 2", `
DAY         ROBOT   REQUESTS  PULLS  BYTES
2026-03-02  agv-18  1         1      500 B
2026-03-01  agv-17  2         1      1.0 MiB
`},
	} {
		args := strings.Fields(c.args)
		out, errOut, code := pulls(t, data, args...)
		if code != 0 || out != c.want[1:] || errOut != "" {
			t.Errorf("pulls %s: exit %d, %s\n%s\nwant\n%s", c.args, code, errOut, out, c.want[1:])
		}
	}
}

// Each line of --json is one object; the whole digest is in it.
func TestPullsJSON(t *testing.T) {
	data := history(t)
	for args, n := range map[string]int{"--json": 3, "--json --limit 0 --robot agv-17": 1, "--json --robots": 3, "--json --days": 3} {
		out, errOut, code := pulls(t, data, strings.Fields(args)...)
		if code != 0 || errOut != "" || strings.Count(out, "\n") != n {
			t.Errorf("pulls %s: exit %d, %s, %s", args, code, errOut, out)
		}
		for line := range strings.Lines(out) {
			var v map[string]any
			if err := json.Unmarshal([]byte(line), &v); err != nil {
				t.Errorf("pulls %s: %v: %s", args, err, line)
			}
		}
	}
	out, _, _ := pulls(t, data, "--json", "--digest", digest.FromString("app").Encoded()[:12])
	var p seen.Pull
	if err := json.Unmarshal([]byte(out), &p); err != nil || p.Robot != "agv-17" || p.Digest != digest.FromString("app") || p.Bytes != 1024+1<<20 || p.Blobs != 1 {
		t.Errorf("%v: %+v", err, p)
	}
}

func TestPullsWithoutHistory(t *testing.T) {
	data := t.TempDir()
	for _, args := range [][]string{nil, {"--json"}, {"--robots"}} {
		if out, errOut, code := pulls(t, data, args...); code != 0 || out != "" || !strings.Contains(errOut, "nothing is recorded in "+data+" yet") {
			t.Errorf("%v: exit %d, %q, %q", args, code, out, errOut)
		}
	}
	if out, errOut, code := pulls(t, history(t), "--robot", "nobody"); code != 0 || out != "" || errOut != "nothing matches\n" {
		t.Errorf("nobody: exit %d, %q, %q", code, out, errOut)
	}
	if _, errOut, code := pulls(t, filepath.Join(data, "absent")); code != cli.ExitFailed || !strings.Contains(errOut, "data folder") {
		t.Errorf("no data folder: exit %d, %q", code, errOut)
	}
}

func TestPullsUsage(t *testing.T) {
	data := history(t)
	for _, args := range []string{"--limit -1", "--since yesterday", "--since -5h", "--since 5dd", "--robots --days", "--robots --digest sha256:ab", "--days --repository x", "agv-17"} {
		if _, errOut, code := pulls(t, data, strings.Fields(args)...); code != cli.ExitUsage {
			t.Errorf("pulls %s: exit %d, %q", args, code, errOut)
		}
	}
}

func TestPullsCompletion(t *testing.T) {
	data := history(t)
	root := newRoot()
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetArgs([]string{cobra.ShellCompNoDescRequestCmd, "--data", data, "pulls", "--robot", ""})
	if err := root.Execute(); err != nil {
		t.Fatal(err)
	}
	if want := "agv-18\n10.0.0.9\nagv-17\n:4\n"; out.String() != want {
		t.Errorf("completion %q, want %q", out.String(), want)
	}
}

func TestParseSince(t *testing.T) {
	now := time.Date(2026, 3, 8, 12, 0, 0, 0, time.UTC)
	for s, want := range map[string]time.Time{
		"":                          {},
		"90m":                       now.Add(-90 * time.Minute),
		"7d":                        now.AddDate(0, 0, -7),
		"0":                         now,
		"2026-03-01T10:00:00+01:00": time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC),
	} {
		if got, err := parseSince(s, now); err != nil || !got.Equal(want) {
			t.Errorf("%q: %v, %v; want %v", s, got, err, want)
		}
	}
}
