package seen

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
)

var start = time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)

// record writes events as one run of a process does.
func record(t *testing.T, path string, o Options, events ...Event) *DB {
	t.Helper()
	o.Queue = len(events) + 1
	db, err := Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	for _, e := range events {
		db.Record(e)
	}
	cancel()
	if err := db.Run(ctx); err != nil {
		t.Fatal(err)
	}
	return db
}

func reader(t *testing.T, path string) *Reader {
	t.Helper()
	r, err := OpenReader(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func read(t *testing.T, path string, q Query) (robots []Robot, pulls []Pull, days []Day) {
	t.Helper()
	r := reader(t, path)
	var errs [3]error
	robots, errs[0] = r.Robots(t.Context())
	pulls, errs[1] = r.Pulls(t.Context(), q)
	days, errs[2] = r.Days(t.Context(), q)
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
	return robots, pulls, days
}

func digestOf(text string) digest.Digest { return digest.FromString(text) }

func manifest(robot, repository, reference string, at time.Time) Event {
	return Event{Time: at, Robot: robot, Address: "10.0.0.7:41000", Agent: "containerd/v2", Kind: KindManifest, Repository: repository,
		Reference: reference, Digest: digestOf(repository), Generation: 3, Status: 200, Bytes: 500}
}

func blob(robot, repository string, size int64, at time.Time) Event {
	return Event{Time: at, Robot: robot, Address: "10.0.0.7:41002", Agent: "containerd/v2", Kind: KindBlob, Repository: repository,
		Generation: 3, Status: 200, Bytes: size}
}

// What containerd does: HEAD by tag, the manifest by digest, the blobs. The row says the tag and all bytes.
func TestPull(t *testing.T) {
	path := filepath.Join(t.TempDir(), FileName)
	const repo = "ghcr.io/acme/app"
	head := manifest("amr-7", repo, "v1.5", start)
	head.Bytes = 0
	part := blob("amr-7", repo, 700, start.Add(3*time.Second))
	part.Status, part.Duration = 206, 1500*time.Millisecond
	miss := blob("amr-7", repo, 90, start.Add(3*time.Second))
	miss.Status = 404
	db := record(t, path, Options{}, head,
		manifest("amr-7", repo, string(digestOf(repo)), start.Add(time.Second)),
		blob("amr-7", repo, 9000, start.Add(2*time.Second)), part, miss,
		blob("amr-7", "ghcr.io/acme/other", 11, start.Add(4*time.Second)),
		Event{Time: start.Add(5 * time.Second), Robot: "amr-7", Address: "10.0.0.8", Agent: "git/2.39", Kind: KindGit,
			Repository: "github.com/acme/deploy", Generation: 4, Status: 200, Bytes: 77},
	)
	robots, pulls, days := read(t, path, Query{})
	if want := (Robot{Name: "amr-7", Address: "10.0.0.8", Agent: "git/2.39", First: start, Last: start.Add(5 * time.Second), Generation: 4,
		Requests: 7, Pulls: 2, Bytes: 500 + 9000 + 700 + 90 + 11 + 77}); len(robots) != 1 || robots[0] != want {
		t.Errorf("robots %+v\nwant %+v", robots, want)
	}
	want := []Pull{
		{Time: start.Add(5 * time.Second), End: start.Add(5 * time.Second), Robot: "amr-7", Address: "10.0.0.8", Kind: KindGit,
			Repository: "github.com/acme/deploy", Generation: 4, Status: 200, Times: 1, Bytes: 77},
		{Time: start.Add(time.Second), End: start.Add(4500 * time.Millisecond), Robot: "amr-7", Address: "10.0.0.8", Kind: KindManifest,
			Repository: repo, Reference: "v1.5", Digest: digestOf(repo), Generation: 3, Status: 200, Times: 1, Blobs: 2, Bytes: 10200},
	}
	if fmt.Sprint(pulls) != fmt.Sprint(want) {
		t.Errorf("pulls %+v\nwant %+v", pulls, want)
	}
	if want := (Day{Day: "2026-03-01", Robot: "amr-7", Address: "10.0.0.8", Requests: 7, Pulls: 2, Bytes: 10378, Other: 101}); len(days) != 1 || days[0] != want {
		t.Errorf("days %+v\nwant %+v", days, want)
	}
	if s := db.Stats(); s.Recorded != 7 || s.Dropped != 0 || s.Queued != 0 || s.Paused {
		t.Errorf("stats %+v", s)
	}
}

// Whatever comes in whatever order, in however many runs: nothing is lost and nothing is counted twice.
func TestSums(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	path := filepath.Join(t.TempDir(), FileName)
	type sum struct{ requests, pulls, bytes int64 }
	robots, days := map[string]sum{}, map[string]sum{}
	kinds := []string{KindManifest, KindManifest, KindBlob, KindBlob, KindBlob, KindGit, "tags", ""}
	for range 5 {
		var events []Event
		for range 1000 {
			e := Event{
				Time: start.Add(time.Duration(rnd.IntN(72)) * time.Hour), Robot: fmt.Sprintf("robot-%d", rnd.IntN(12)), Address: "10.0.0.1",
				Kind: kinds[rnd.IntN(len(kinds))], Repository: fmt.Sprintf("ghcr.io/acme/app-%d", rnd.IntN(5)), Reference: fmt.Sprintf("v%d", rnd.IntN(3)),
				Digest: digestOf(fmt.Sprint(rnd.IntN(3))), Generation: uint64(rnd.IntN(3)), Status: []int{200, 200, 206, 404, 304}[rnd.IntN(5)],
				Bytes: int64(rnd.IntN(3)) * int64(rnd.IntN(1000)),
			}
			if rnd.IntN(10) == 0 {
				e.Robot, e.Address = "", fmt.Sprintf("10.0.1.%d:5", rnd.IntN(4))
			}
			key := e.Robot + strings.TrimSuffix(e.Address, ":5")
			if e.Robot != "" {
				key = e.Robot
			}
			one := sum{requests: 1, bytes: e.Bytes}
			if e.Status < 300 && e.Bytes > 0 && (e.Kind == KindManifest || e.Kind == KindGit) {
				one.pulls = 1
			}
			for sums, key := range map[*map[string]sum]string{&robots: key, &days: key + e.Time.Format(time.DateOnly)} {
				s := (*sums)[key]
				(*sums)[key] = sum{s.requests + one.requests, s.pulls + one.pulls, s.bytes + one.bytes}
			}
			events = append(events, e)
		}
		record(t, path, Options{}, events...)
	}
	gotRobots, gotPulls, gotDays := read(t, path, Query{})
	inPulls, times := map[string]int64{}, map[string]int64{}
	for _, p := range gotPulls {
		key := p.Robot
		if key == "" {
			key = p.Address
		}
		inPulls[key] += p.Bytes
		times[key] += p.Times
	}
	for _, d := range gotDays {
		key := d.Robot
		if key == "" {
			key = d.Address
		}
		inPulls[key] += d.Other
		if got, want := (sum{d.Requests, d.Pulls, d.Bytes}), days[key+d.Day]; got != want {
			t.Errorf("%s on %s: %v, want %v", key, d.Day, got, want)
		}
	}
	for _, r := range gotRobots {
		key := r.Name
		if key == "" {
			key = r.Address
		}
		if got, want := (sum{r.Requests, r.Pulls, r.Bytes}), robots[key]; got != want {
			t.Errorf("%s: %v, want %v", key, got, want)
		}
		if inPulls[key] != r.Bytes {
			t.Errorf("%s: %d bytes in pulls and others, want %d", key, inPulls[key], r.Bytes)
		}
		if times[key] != r.Pulls {
			t.Errorf("%s: %d pulls in rows, want %d", key, times[key], r.Pulls)
		}
	}
	if len(gotRobots) != len(robots) || len(gotDays) != len(days) {
		t.Errorf("%d robots and %d days, want %d and %d", len(gotRobots), len(gotDays), len(robots), len(days))
	}
}

// A client in a loop makes one row a minute, and no more than its share of rows in a day.
func TestLoop(t *testing.T) {
	path := filepath.Join(t.TempDir(), FileName)
	var events []Event
	for i := range 100 {
		events = append(events, manifest("loop", "ghcr.io/acme/app", "v1", start.Add(time.Duration(i)*time.Millisecond)))
	}
	for i := range dailyRows + 50 {
		events = append(events, manifest("many", fmt.Sprintf("ghcr.io/acme/app-%d", i), "v1", start.Add(time.Duration(i)*time.Second)))
	}
	events = append(events, manifest("many", "ghcr.io/acme/tomorrow", "v1", start.Add(24*time.Hour)))
	record(t, path, Options{}, events...)
	_, loop, _ := read(t, path, Query{Robot: "loop"})
	if len(loop) != 1 || loop[0].Times != 100 || loop[0].Bytes != 50_000 {
		t.Errorf("loop %+v", loop)
	}
	robots, many, days := read(t, path, Query{Robot: "many"})
	if len(many) != dailyRows+1 || many[0].Repository != "ghcr.io/acme/tomorrow" {
		t.Errorf("%d rows, the latest %+v", len(many), many[0])
	}
	if i := len(days) - 1; days[i].Pulls != dailyRows+50 || days[i].Other != 50*500 {
		t.Errorf("day %+v", days[i])
	}
	if robots[0].Pulls != dailyRows+51 {
		t.Errorf("robot %+v", robots[0])
	}
}

func TestQuery(t *testing.T) {
	path := filepath.Join(t.TempDir(), FileName)
	anonymous := manifest("", "docker.io/library/redis", "7", start.Add(3*time.Hour))
	anonymous.Address = "[fd00::9]:4711"
	record(t, path, Options{},
		manifest("amr-1", "ghcr.io/acme/app", "v1", start),
		manifest("amr-2", "ghcr.io/acme/app", "v1", start.Add(time.Hour)),
		manifest("amr-1", "ghcr.io/acme/nav/core", "v2", start.Add(2*time.Hour)),
		anonymous,
	)
	hex := digestOf("ghcr.io/acme/nav/core").Encoded()
	for _, c := range []struct {
		name string
		q    Query
		want string // the last hours of start, latest first
	}{
		{"all", Query{}, "3 2 1 0"},
		{"robot", Query{Robot: "amr-1"}, "2 0"},
		{"no robot", Query{Robot: "amr"}, ""},
		{"anonymous robot", Query{Robot: "fd00::9"}, "3"},
		{"an address of a robot with a name is not its name", Query{Robot: "10.0.0.7"}, ""},
		{"repository", Query{Repository: "ghcr.io/acme/app"}, "1 0"},
		{"glob over slashes", Query{Repository: "ghcr.io/*"}, "2 1 0"},
		{"digest", Query{Digest: "sha256:" + hex}, "2"},
		{"beginning of a digest", Query{Digest: hex[:12]}, "2"},
		{"since", Query{Since: start.Add(time.Hour)}, "3 2 1"},
		{"until", Query{Until: start.Add(time.Hour)}, "0"},
		{"limit", Query{Limit: 2}, "3 2"},
		{"both", Query{Robot: "amr-1", Since: start.Add(time.Minute), Limit: 5}, "2"},
		{"injection", Query{Robot: "' OR 1=1 --", Repository: "' OR 1=1 --"}, ""},
	} {
		_, pulls, _ := read(t, path, c.q)
		var got []string
		for _, p := range pulls {
			got = append(got, fmt.Sprint(int(p.Time.Sub(start).Hours())))
		}
		if g := strings.Join(got, " "); g != c.want {
			t.Errorf("%s: %q, want %q", c.name, g, c.want)
		}
	}
	if _, err := reader(t, path).Pulls(t.Context(), Query{Digest: "sha256:*"}); err == nil {
		t.Error("a pattern was taken for a digest")
	}
	stop := errors.New("stop")
	if err := reader(t, path).Walk(t.Context(), Query{}, func(Pull) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("Walk: %v", err)
	}
}

func TestReaderWithoutDatabase(t *testing.T) {
	path := filepath.Join(t.TempDir(), FileName)
	if _, err := OpenReader(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the reader made a file")
	}
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenReader(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("empty file: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	record(t, path, Options{})
	r := reader(t, path)
	if robots, err := r.Robots(t.Context()); err != nil || len(robots) != 0 {
		t.Errorf("robots %v, %v", robots, err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm()&0o007 != 0 {
		t.Errorf("mode %v, %v: others can read who pulled what", info.Mode(), err)
	}
}

func TestRecordDropsWhenFull(t *testing.T) {
	db, err := Open(filepath.Join(t.TempDir(), FileName), Options{Queue: 4})
	if err != nil {
		t.Fatal(err)
	}
	for range 7 {
		db.Record(manifest("amr", "ghcr.io/acme/app", "v1", start))
	}
	if s := db.Stats(); s.Queued != 4 || s.Dropped != 3 {
		t.Errorf("stats %+v", s)
	}
	if n := testing.AllocsPerRun(100, func() { db.Record(Event{Robot: "amr", Status: 200}) }); n != 0 {
		t.Errorf("%v allocations for a dropped event", n)
	}
	if db, err = Open(filepath.Join(t.TempDir(), FileName), Options{}); err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() { db.Record(Event{Robot: "amr", Status: 200}) }); n != 0 {
		t.Errorf("%v allocations for an event", n)
	}
}

func TestOpenRefusesNonsense(t *testing.T) {
	for _, o := range []Options{{MaxPulls: -1}, {MaxAge: -1}, {MaxRobots: -1}, {Queue: -1}} {
		if _, err := Open("x", o); err == nil {
			t.Errorf("%+v was accepted", o)
		}
	}
	if _, err := Open("", Options{}); err == nil {
		t.Error("no path was accepted")
	}
}

// A pull is in the file a second after it happened; that a robot merely looked is there after ten.
func TestWrittenInTime(t *testing.T) {
	path := filepath.Join(t.TempDir(), FileName)
	synctest.Test(t, func(t *testing.T) {
		db, err := Open(path, Options{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- db.Run(ctx) }()
		db.Record(manifest("amr", "ghcr.io/acme/app", "v1", time.Now()))
		time.Sleep(gatherFor + writeAfter) // of the bubble's clock
		synctest.Wait()
		if s := db.Stats(); s.Recorded != 1 {
			t.Errorf("after a second %+v", s)
		}
		db.Record(Event{Robot: "amr", Kind: "tags", Status: 200})
		time.Sleep(gatherFor + writeAfter)
		synctest.Wait()
		if s := db.Stats(); s.Recorded != 1 {
			t.Errorf("a look was written at once: %+v", s)
		}
		time.Sleep(touchAfter - writeAfter)
		synctest.Wait()
		if s := db.Stats(); s.Recorded != 2 {
			t.Errorf("after ten seconds %+v", s)
		}
		for range db.options.Queue / 2 {
			db.Record(manifest("amr", "ghcr.io/acme/app", "v1", time.Now()))
		}
		synctest.Wait()
		if s := db.Stats(); s.Queued != 0 {
			t.Errorf("half a queue waits: %+v", s)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if s := db.Stats(); s.Recorded != 2+uint64(db.options.Queue/2) || s.Dropped != 0 {
			t.Errorf("at the end %+v", s)
		}
	})
}

// A stranger's text is cut and cannot drive a terminal.
func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"git/2.39.5":               "git/2.39.5",
		"a\x1b[2Jb\nc\x00":         "a·[2Jb·c·",
		"bad\xffutf":               "bad·utf",
		strings.Repeat("x", 200):   strings.Repeat("x", 10),
		strings.Repeat("ä", 9):     strings.Repeat("ä", 5),
		strings.Repeat("世", 9):     "世世世",
		"\u202egnp.exe":            "·gnp.exe",
		strings.Repeat("\xff", 20): strings.Repeat("·", 7),
	} {
		if got := clean(in, 10); got != want {
			t.Errorf("clean(%q): %q, want %q", in, got, want)
		}
	}
}

// lockedBuffer is a log that a test reads while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), text)
}

func (l *lockedBuffer) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }
