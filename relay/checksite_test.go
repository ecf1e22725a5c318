package relay

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plimsoll/plimsoll/internal/strictjson"
	"github.com/plimsoll/plimsoll/relay/state"
)

// Damage to releases is tried in package integration, with real ones.
func TestCheckSiteDocumentsAndFiles(t *testing.T) {
	pinned := Active{APIVersion: activeVersion, Generation: 1, Channels: []Channel{}, Pins: []Pin{{Bundle: release("v1", "x").Bundle.Digest, Since: "2026-01-01T00:00:00Z"}}}
	absent := pinned
	absent.Pins, absent.Channels = nil, []Channel{{Name: "stack", Release: release("v1", "x"), Accepted: release("v1", "x")}}
	hex := release("v1", "x").Bundle.Digest.Encoded()
	for name, tc := range map[string]struct {
		files map[string]string
		want  []string // of violations, "warning " before those of warnings, "left " before leftovers
	}{
		"nothing":            {nil, nil},
		"torn active.json":   {map[string]string{"active.json": `{"apiVersion":`}, []string{"document active.json"}},
		"empty settings":     {map[string]string{"settings.json": ""}, []string{"document settings.json"}},
		"torn promises":      {map[string]string{"promised.json": "\x00\x00"}, []string{"document promised.json"}},
		"torn record":        {map[string]string{"releases/" + hex + ".json": "{}"}, []string{"document releases/" + hex + ".json"}},
		"a pin of nothing":   {map[string]string{"active.json": encode(t, pinned)}, []string{"pin sha256:" + hex, "warning generation"}},
		"an absent release":  {map[string]string{"active.json": encode(t, absent)}, []string{"record releases/" + hex, "blob sha256:" + hex, "warning generation"}},
		"cut writes":         {map[string]string{".active.json.tmp-1": "", "releases/.x.json.tmp-2": "{"}, []string{"left .active.json.tmp-1", "left releases/.x.json.tmp-2"}},
		"cut copies":         {map[string]string{"store/ingest/sha256-" + hex: "abc"}, []string{"left store/ingest/sha256-" + hex}},
		"a copy of nothing":  {map[string]string{"store/ingest/x": "abc"}, []string{"stray store/ingest/x"}},
		"a file among blobs": {map[string]string{"store/blobs/sha256/ab/notes": ""}, []string{"stray store/blobs/sha256/ab/notes"}},
		"a blob elsewhere":   {map[string]string{"store/blobs/sha256/zz/" + hex: ""}, []string{"stray store/blobs/sha256/zz/" + hex}},
		"somebody's file":    {map[string]string{"notes.txt": ""}, []string{"warning stray notes.txt"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			r, err := Open(t.Context(), dir, Options{})
			if err != nil {
				t.Fatal(err)
			}
			for file, content := range tc.files {
				path := filepath.Join(dir, filepath.FromSlash(file))
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			rep := r.CheckSite(t.Context(), CheckOptions{Hash: true})
			var got []string
			for _, v := range rep.Violations {
				got = append(got, string(v.Kind)+" "+v.Object)
			}
			for _, v := range rep.Warnings {
				got = append(got, "warning "+string(v.Kind)+" "+v.Object)
			}
			for _, name := range rep.Leftovers {
				got = append(got, "left "+name)
			}
			same := len(got) == len(tc.want)
			for i := range tc.want {
				same = same && strings.HasPrefix(got[i], tc.want[i]) || same && strings.Contains(got[i], "gen-1") && strings.HasPrefix(tc.want[i], "warning generation")
			}
			if !same {
				t.Errorf("got  %q\nwant %q\n%v", got, tc.want, rep)
			}
			violations := len(tc.want) > 0 && !strings.HasPrefix(tc.want[0], "warning ") && !strings.HasPrefix(tc.want[0], "left ")
			var broken *BrokenSiteError
			if err := rep.Err(); errors.As(err, &broken) != violations || violations && !strings.Contains(err.Error(), broken.Report.Violations[0].Object) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func encode(t *testing.T, v any) string {
	t.Helper()
	data, err := strictjson.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// brokenJournal is a journal that was changed.
type brokenJournal struct{ after func() error }

func (brokenJournal) Append(context.Context, string, any) error { return nil }
func (j brokenJournal) Verify(context.Context) error            { return j.after() }

// The journal is asked; and what is found while something else changes the folder is looked at again.
func TestCheckSiteAgain(t *testing.T) {
	dir := t.TempDir()
	calls := 0
	var r *Relay
	verify := func() error {
		if calls++; calls == 1 {
			if _, err := r.docs.Write(t.Context(), promisedFile, []byte(encode(t, promises{APIVersion: promisedVersion})), state.Any); err != nil {
				return err
			}
			return errors.New("record 7 is being written")
		}
		return nil
	}
	r, err := Open(t.Context(), dir, Options{Journal: brokenJournal{func() error { return verify() }}})
	if err != nil {
		t.Fatal(err)
	}
	if rep := r.CheckSite(t.Context(), CheckOptions{}); rep.Err() != nil || calls != 2 {
		t.Errorf("%v after %d calls", rep.Violations, calls)
	}
	calls, verify = 0, func() error { calls++; return fmt.Errorf("record %d is changed", 7) }
	rep := r.CheckSite(t.Context(), CheckOptions{})
	if len(rep.Violations) != 1 || rep.Violations[0].Kind != JournalBroken || calls != 1 {
		t.Errorf("%v after %d calls", rep.Violations, calls)
	}
}
