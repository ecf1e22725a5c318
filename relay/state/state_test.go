package state

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
)

// places are the implementations; open gives another process's view of one place.
func places(t *testing.T) map[string]func() (open func() Documents) {
	return map[string]func() func() Documents{
		"folder": func() func() Documents {
			dir := t.TempDir()
			return func() Documents { return Dir(dir) }
		},
		"bucket, one folder": func() func() Documents {
			m, dir := newMemory(), t.TempDir()
			return func() Documents {
				return Bucket(&link{memory: m}, BucketOptions{Dir: dir, Fenced: []string{"active.json"}})
			}
		},
		"bucket, two folders": func() func() Documents {
			m := newMemory()
			return func() Documents {
				return Bucket(&link{memory: m}, BucketOptions{Dir: t.TempDir(), Fenced: []string{"active.json"}})
			}
		},
	}
}

func TestDocuments(t *testing.T) {
	for name, place := range places(t) {
		t.Run(name, func(t *testing.T) {
			open := place()
			mine, theirs := open(), open()
			ctx := t.Context()
			if _, err := mine.Read(ctx, "active.json"); !errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("%v; want fs.ErrNotExist", err)
			}
			if names, err := mine.List(ctx, "releases"); err != nil || len(names) != 0 {
				t.Fatalf("%q, %v", names, err)
			}
			first, err := mine.Write(ctx, "active.json", []byte("1"), None)
			if err != nil || first == None || first == Any {
				t.Fatalf("version %q, %v", first, err)
			}
			wantChanged(t, theirs, None)
			second, err := theirs.Write(ctx, "active.json", []byte("2"), first)
			if err != nil || second == first {
				t.Fatalf("version %q after %q, %v", second, first, err)
			}
			wantChanged(t, mine, first)
			wantChanged(t, mine, None)
			if doc, err := mine.Read(ctx, "active.json"); err != nil || string(doc.Data) != "2" || doc.Version != second {
				t.Fatalf("%q, version %q, %v; want version %q", doc.Data, doc.Version, err, second)
			}
			// The same content again is another version, so that nobody takes it for what he has read.
			third, err := mine.Write(ctx, "active.json", []byte("2"), Any)
			if err != nil || third == second {
				t.Fatalf("version %q after %q, %v", third, second, err)
			}
			for _, n := range []string{"releases/b.json", "releases/a.json", "releases/c.json"} {
				if _, err := mine.Write(ctx, n, nil, Any); err != nil {
					t.Fatal(err)
				}
			}
			if err := errors.Join(theirs.Remove(ctx, "releases/b.json"), theirs.Remove(ctx, "releases/b.json")); err != nil {
				t.Fatal(err)
			}
			if names, err := mine.List(ctx, "releases"); err != nil || !slices.Equal(names, []string{"releases/a.json", "releases/c.json"}) {
				t.Fatalf("%q, %v", names, err)
			}
			if _, err := mine.Write(ctx, "large.json", make([]byte, MaxDocument+1), Any); err == nil {
				t.Error("a document of more than MaxDocument was written")
			}
			if doc, err := mine.Read(ctx, "releases/a.json"); err != nil || len(doc.Data) != 0 {
				t.Errorf("%q, %v; want an empty document", doc.Data, err)
			}
		})
	}
}

func wantChanged(t *testing.T, d Documents, replaces Version) {
	t.Helper()
	_, err := d.Write(t.Context(), "active.json", []byte("never"), replaces)
	var changed *ChangedError
	if !errors.As(err, &changed) || changed.Name != "active.json" {
		t.Fatalf("replacing %q: %v; want *ChangedError", replaces, err)
	}
}

// Under the lock nobody's counting is lost, neither within a process nor between processes.
func TestLock(t *testing.T) {
	for name, place := range places(t) {
		t.Run(name, func(t *testing.T) {
			open := place()
			one, other := open(), open()
			var wg sync.WaitGroup
			var holders, waited counter
			for i := range 6 {
				docs := []Documents{one, other}[i%2]
				wg.Go(func() {
					lock, err := docs.Lock(t.Context(), func() { waited.add(1) })
					if err != nil {
						t.Error(err)
						return
					}
					if holders.add(1) != 1 {
						t.Error("two have the lock")
					}
					if err := increment(t.Context(), docs); err != nil {
						t.Error(err)
					}
					if err := lock.Held(); err != nil {
						t.Error(err)
					}
					holders.add(-1)
					if err := lock.Unlock(); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if doc, err := one.Read(t.Context(), "active.json"); err != nil || string(doc.Data) != "6" {
				t.Errorf("%q, %v; want 6", doc.Data, err)
			}
			if n := waited.add(0); n > 6 {
				t.Errorf("%d were told that they wait", n)
			}
		})
	}
}

func TestLockCanBeCancelled(t *testing.T) {
	for name, place := range places(t) {
		t.Run(name, func(t *testing.T) {
			open := place()
			lock, err := open().Lock(t.Context(), func() { t.Error("the first one waits") })
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			if _, err := open().Lock(ctx, cancel); !errors.Is(err, context.Canceled) {
				t.Errorf("%v; want context.Canceled", err)
			}
			if err := lock.Unlock(); err != nil {
				t.Fatal(err)
			}
			// Whoever gave up must not stand in the way.
			if lock, err = open().Lock(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			if err := lock.Unlock(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// A crash in the middle of a write leaves a file that is no document.
func TestFolderLeavesOutWhatIsNoDocument(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"releases/.a.json.tmp", "releases/sub/x.json", "releases/a.json"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if names, err := Dir(dir).List(t.Context(), "releases"); err != nil || !slices.Equal(names, []string{"releases/a.json"}) {
		t.Errorf("%q, %v", names, err)
	}
}

// increment adds one to a number, as a relay adds a generation.
func increment(ctx context.Context, docs Documents) error {
	doc, err := docs.Read(ctx, "active.json")
	n := 0
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	default:
		if n, err = strconv.Atoi(string(doc.Data)); err != nil {
			return err
		}
	}
	_, err = docs.Write(ctx, "active.json", fmt.Append(nil, n+1), doc.Version)
	return err
}

type counter struct {
	mu sync.Mutex
	n  int
}

func (c *counter) add(k int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n += k
	return c.n
}

// FuzzReadHead: what is taken for an object is the only way to write it.
func FuzzReadHead(f *testing.F) {
	f.Fuzz(func(t *testing.T, raw []byte) {
		h, data, err := readHead(raw)
		if err != nil {
			return
		}
		if again, err := h.before(data); err != nil || !bytes.Equal(again, raw) {
			t.Fatalf("%q, %v", again, err)
		}
	})
}

// FuzzReadTerm: a lease that is taken has a holder and a number.
func FuzzReadTerm(f *testing.F) {
	f.Fuzz(func(t *testing.T, raw []byte) {
		if have, err := readTerm(raw); err == nil && (have.Number == 0 || len(have.Holder) != 32) {
			t.Fatalf("%+v", have)
		}
	})
}
