package state

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// marks are the files in a relay's folder that name objects which are tried.
func marks(t *testing.T, r *fakeRelay) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(r.options.Dir, probeMark+"*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// killedProbe leaves what a process leaves that is killed when the object was put: the object and its mark.
func killedProbe(t *testing.T, m *memory, r *fakeRelay) (object string) {
	t.Helper()
	var killed []byte
	ctx, kill := context.WithCancel(t.Context())
	defer kill()
	r.link.setBefore(func(ctx context.Context, name string) error {
		found := marks(t, r)
		if len(found) != 1 || !strings.HasSuffix(found[0], strings.TrimPrefix(name, probeFolder)) {
			t.Errorf("%s is put, and the folder says %q", name, found)
		}
		object, killed = name, []byte(found[0])
		kill()
		return ctx.Err()
	})
	if err := r.Check(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("%v; want context.Canceled", err)
	}
	r.link.setBefore(nil)
	// A process that is only told to end tidies up. This one did not.
	if _, err := m.put(object, []byte("1"), "*"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(string(killed), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	return object
}

// What a killed process leaves of its check is removed by the next one of the same folder, whether it begins with Check
// or with Lock. Another relay's is none of its business: that one may be checking just now, and would take its own object's
// disappearance for a server that does not compare.
func TestProbesOfTheDeadAreRemoved(t *testing.T) {
	for name, begin := range map[string]func(*testing.T, *fakeRelay){
		"check": func(t *testing.T, r *fakeRelay) {
			if err := r.Check(t.Context()); err != nil {
				t.Error(err)
			}
		},
		"lock": func(t *testing.T, r *fakeRelay) { mustUnlock(t, r.mustLock(t)) },
	} {
		t.Run(name, func(t *testing.T) {
			m := newMemory()
			mine, theirs := newRelay(t, m), newRelay(t, m)
			killedProbe(t, m, mine)
			foreign := killedProbe(t, m, theirs)
			begin(t, mine.again())
			if got := m.list("probe"); len(got) != 1 || got[0] != foreign {
				t.Errorf("the bucket has %q; want %q", got, foreign)
			}
			if got := marks(t, mine); len(got) != 0 {
				t.Errorf("the folder still has %q", got)
			}
			begin(t, theirs.again())
			if got := m.list("probe"); len(got) != 0 {
				t.Errorf("the bucket still has %q", got)
			}
		})
	}
}

// A bucket that removes nothing, and a mark of nothing, keep nobody from anything.
func TestProbesThatStay(t *testing.T) {
	m := newMemory()
	r := newRelay(t, m)
	for _, name := range []string{probeMark + strings.Repeat("a", 32), probeMark + "../x", probeMark + "abc"} {
		if err := os.WriteFile(filepath.Join(r.options.Dir, filepath.Base(name)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	stubborn := &fakeRelay{Bucket(keeper{r.link}, r.options).(*bucket), r.link}
	if err := stubborn.Check(t.Context()); err != nil {
		t.Error(err)
	}
	if got := m.list("probe"); len(got) != 1 {
		t.Errorf("the bucket has %q, want one object", got)
	}
	if err := r.again().Check(t.Context()); err != nil {
		t.Error(err)
	}
	if got := m.list("probe"); len(got) != 0 {
		t.Errorf("the bucket still has %q", got)
	}
	if got := marks(t, r); len(got) != 1 || filepath.Base(got[0]) != probeMark+"abc" {
		t.Errorf("the folder has %q, want what is no mark", got)
	}
}

// keeper is a bucket that deletes nothing.
type keeper struct{ *link }

func (keeper) Delete(context.Context, string) error { return errors.New("not allowed") }

// Without its disk's help a relay still learns whether the server compares.
func TestProbeWithoutMark(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root may write everywhere")
	}
	m := newMemory()
	r := newRelay(t, m)
	mustUnlock(t, r.mustLock(t)) // the lock file is there
	if err := os.Chmod(r.options.Dir, 0o555); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Chmod(r.options.Dir, 0o755) }) //nolint:errcheck // of a folder that is being removed
	if err := r.again().Check(t.Context()); err != nil {
		t.Error(err)
	}
	if got := m.list("probe"); len(got) != 0 {
		t.Errorf("the bucket still has %q", got)
	}
}
