package relay

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// litterOf makes files below a folder that are of one age.
func litterOf(t *testing.T, dir string, age time.Duration, names ...string) {
	t.Helper()
	then := time.Now().Add(-age)
	for _, name := range names {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, nil, 0o600), os.Chtimes(path, then, then)); err != nil {
			t.Fatal(err)
		}
	}
}

// What cut writes left goes after a day, from the folders in which the relay writes, and from nowhere else.
func TestGCLeftovers(t *testing.T) {
	d := newDepot(t, 1)
	d.serve(2, 0)
	const day = 24 * time.Hour
	cut := []string{
		".active.json.tmp-1", "derived/.scrub.json.tmp-12", "git/.collecting.tmp-123", "identity/.key.pem.tmp-1", "journal/.x.tmp-1",
		"journal/damaged-1/.reason.tmp-1", "releases/.ab.json.tmp-2", "site/repos/maps/.reported.tmp-1", "tls/.server.pem.tmp-1", "trust/.k.pub.tmp-1",
	}
	litterOf(t, d.dir, day+time.Minute, cut...)
	kept := []string{
		"store/ingest/.a.tmp-1", "store/.a.tmp-1", "site/repos/maps/repo.git/.a.tmp-1", "git/store.git/.a.tmp-1",
		"git/gen-1/.a.tmp-1", ".a.tmp-", ".a.tmp-x", "a.tmp-1", "hooks.json", "journal/other/.a.tmp-1", "lost+found/.a.tmp-1",
	}
	litterOf(t, d.dir, day+time.Minute, kept...)
	const young = "releases/.young.json.tmp-1"
	litterOf(t, d.dir, day-time.Minute, young)
	// A folder and a link have such names, or lead to files that do.
	elsewhere := t.TempDir()
	litterOf(t, elsewhere, day+time.Minute, ".a.tmp-1")
	for _, link := range []string{"site/repos/linked", "journal/damaged-2", ".link.tmp-1"} {
		if err := os.Symlink(elsewhere, filepath.Join(d.dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	// The age of a link is its own: it must not be by its age that one stays.
	old := []unix.Timeval{{Sec: 1}, {Sec: 1}}
	if err := unix.Lutimes(filepath.Join(d.dir, ".link.tmp-1"), old); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(d.dir, ".folder.tmp-1"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(filepath.Join(d.dir, ".folder.tmp-1"), time.Unix(1, 0), time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	kept = append(kept, young, "site/repos/linked/.a.tmp-1", "journal/damaged-2/.a.tmp-1", ".link.tmp-1", ".folder.tmp-1")
	missing := func(names []string) (gone []string) {
		for _, name := range names {
			if _, err := os.Lstat(d.path(name)); errors.Is(err, fs.ErrNotExist) {
				gone = append(gone, name)
			}
		}
		return gone
	}

	would := d.gc(GCOptions{DryRun: true})
	listed := slices.Sorted(slices.Values(would.LeftoverFiles))
	if !slices.Equal(listed, cut) || would.Leftovers != len(cut) {
		t.Errorf("listed %q, want %q", listed, cut)
	}
	if gone := missing(append(cut, kept...)); gone != nil {
		t.Errorf("a dry run removed %q", gone)
	}
	did := d.gc(GCOptions{})
	if did.Leftovers != len(cut) || did.LeftoverFiles != nil || len(did.Problems) != 0 {
		t.Errorf("%+v", did)
	}
	if gone := missing(cut); !slices.Equal(gone, cut) {
		t.Errorf("removed %q, want %q", gone, cut)
	}
	if gone := missing(kept); gone != nil {
		t.Errorf("removed %q", gone)
	}
	if again := d.gc(GCOptions{}); again.Leftovers != 0 {
		t.Errorf("the second collection found %+v", again)
	}
}

// What cannot be looked into is told, and keeps nothing else from going.
func TestGCLeftoversWithoutAFolder(t *testing.T) {
	d := newDepot(t, 1)
	d.serve(2, 0)
	stray := d.admit([]byte("a blob that nothing refers to"))
	litterOf(t, d.dir, 48*time.Hour, "tls/.a.tmp-1")
	litterOf(t, d.dir, 48*time.Hour, "identity/.a.tmp-1")
	closed := d.path("identity")
	if err := os.Chmod(closed, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(closed, 0o700) })
	if _, err := os.ReadDir(closed); err == nil {
		t.Skip("root reads every folder")
	}
	res := d.gc(GCOptions{})
	if res.Leftovers != 1 || len(res.Problems) != 1 || d.has()[stray] {
		t.Errorf("%+v", res)
	}
}
