package seen

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// running is a DB whose Run runs. tries gives the outcome of each try to write, the first one of opening.
type running struct {
	*DB
	log   lockedBuffer
	tries chan error
	stop  func()
}

func run(t *testing.T, path string, o Options, prepare func(*DB)) *running {
	t.Helper()
	r := &running{tries: make(chan error, 1000)}
	o.Log = r.log.logger()
	db, err := Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	r.DB = db
	db.tried = func(err error) { r.tries <- err }
	if prepare != nil {
		prepare(db)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- db.Run(ctx) }()
	r.stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
	return r
}

func (r *running) lines(t *testing.T, want map[string]int) {
	t.Helper()
	for text, n := range want {
		if got := r.log.count(text); got != n {
			t.Errorf("%q is in the log %d times, want %d", text, got, n)
		}
	}
}

const (
	saysPaused  = "pulls are not recorded for now"
	saysResumed = "pulls are recorded again"
	saysDamaged = "damaged and begins anew"
)

// What is not a database of this version is put aside, and recording goes on at once.
func TestPutAside(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, path string){
		"garbage":                 func(t *testing.T, path string) { write(t, path, strings.Repeat("no database ", 1000)) },
		"another version":         func(t *testing.T, path string) { sqlExec(t, path, "PRAGMA user_version=99") },
		"somebody else's":         func(t *testing.T, path string) { sqlExec(t, path, "PRAGMA application_id=0") },
		"no table":                func(t *testing.T, path string) { sqlExec(t, path, "DROP TABLE days") },
		"no column":               func(t *testing.T, path string) { sqlExec(t, path, "ALTER TABLE pulls DROP COLUMN times") },
		"zeros behind the header": func(t *testing.T, path string) { overwrite(t, path, 100, make([]byte, 60_000)) },
		"cut": func(t *testing.T, path string) {
			if err := os.Truncate(path, 5000); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), FileName)
			var events []Event
			for i := range 300 {
				events = append(events, manifest("old", fmt.Sprintf("ghcr.io/acme/app-%d", i), "v1", start))
			}
			record(t, path, Options{}, events...)
			damage(t, path)
			before, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			r := run(t, path, Options{}, nil)
			r.Record(manifest("new", "ghcr.io/acme/app-1", "v1", start))
			r.stop()
			r.lines(t, map[string]int{saysDamaged: 1, saysPaused: 0})
			robots, pulls, _ := read(t, path, Query{})
			if len(robots) != 1 || len(pulls) != 1 || pulls[0].Robot != "new" {
				t.Errorf("robots %v, pulls %v", robots, pulls)
			}
			if s := r.Stats(); s.Recorded != 1 || s.Dropped != 0 {
				t.Errorf("stats %+v", s)
			}
			if aside, err := os.ReadFile(path + ".damaged"); err != nil || len(aside) != len(before) {
				t.Errorf("aside are %d bytes, want %d: %v", len(aside), len(before), err)
			}
		})
	}
}

// A log beside a file that it does not belong to would be played into that: it goes along, whatever is there.
func TestPutAsideTakesTheLogAlong(t *testing.T) {
	path := filepath.Join(t.TempDir(), FileName)
	for range 2 { // the second time in place of the first
		for _, suffix := range []string{"", "-wal", "-shm", "-journal"} {
			write(t, path+suffix, "file"+suffix)
		}
		if err := putAside(path); err != nil {
			t.Fatal(err)
		}
		left, err := filepath.Glob(path + "*")
		if err != nil || len(left) != 2 || left[0] != path+".damaged" || left[1] != path+".damaged-wal" {
			t.Errorf("%v, %v", left, err)
		}
	}
	if err := putAside(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a file: %v", err)
	}
}

// The file becomes damaged while it is written to.
func TestDamagedWhileRunning(t *testing.T) {
	path := filepath.Join(t.TempDir(), FileName)
	synctest.Test(t, func(t *testing.T) {
		r := run(t, path, Options{}, nil)
		for i := range 5 * writeRows {
			if r.Record(manifest("amr", fmt.Sprintf("ghcr.io/acme/app-%d", i), "v1", time.Now())); i%100 == 0 {
				time.Sleep(2 * time.Second)
			}
		}
		synctest.Wait()
		sqlExec(t, path, "PRAGMA wal_checkpoint(TRUNCATE)")
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		overwrite(t, path, 0, []byte(strings.Repeat("overwritten ", int(info.Size()/12))))
		for i := range 100 {
			r.Record(manifest(fmt.Sprintf("robot-%d", i), fmt.Sprintf("ghcr.io/acme/app-%d", i), "v2", time.Now()))
		}
		r.stop()
		r.lines(t, map[string]int{saysDamaged: 1})
		if _, pulls, _ := read(t, path, Query{Repository: "*", Limit: 1}); len(pulls) != 1 || pulls[0].Reference != "v2" {
			t.Errorf("pulls %v", pulls)
		}
	})
}

// A full disk stops recording and nothing else; it is said once, and recording goes on by itself.
func TestDiskFull(t *testing.T) {
	path := filepath.Join(t.TempDir(), FileName)
	synctest.Test(t, func(t *testing.T) {
		var roomy atomic.Bool
		r := run(t, path, Options{}, func(db *DB) {
			db.pragmas = func() []string {
				if roomy.Load() {
					return nil
				}
				return []string{"max_page_count(30)"}
			}
		})
		sent := 0
		for !r.Stats().Paused {
			r.Record(manifest("amr", fmt.Sprintf("ghcr.io/acme/app-%d", sent), "v1", time.Now()))
			if sent++; sent > 10_000 {
				t.Fatal("the disk does not become full")
			}
			time.Sleep(3 * time.Second)
			synctest.Wait()
		}
		before := len(r.tries)
		for range 3 * maxPending { // more than is kept for later
			r.Record(manifest(fmt.Sprint("r-", sent), fmt.Sprintf("ghcr.io/acme/app-%d", sent), "v1", time.Now()))
			if sent++; sent%1000 == 0 {
				time.Sleep(time.Second)
			}
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		s := r.Stats()
		if !s.Paused || s.Dropped == 0 || s.Queued != 0 {
			t.Errorf("while the disk is full: %+v", s)
		}
		r.lines(t, map[string]int{saysPaused: 1, saysResumed: 0, saysDamaged: 0})
		if n := len(r.tries) - before; n < 5 || n > 100 {
			t.Errorf("%d tries in an hour", n)
		}
		roomy.Store(true)
		time.Sleep(retryMax)
		synctest.Wait()
		r.Record(manifest("late", "ghcr.io/acme/late", "v1", time.Now()))
		time.Sleep(5 * time.Second)
		synctest.Wait()
		r.lines(t, map[string]int{saysPaused: 1, saysResumed: 1, saysDamaged: 0})
		s = r.Stats()
		if s.Paused || s.Recorded+s.Dropped != uint64(sent)+1 {
			t.Errorf("%d sent, and afterwards %+v", sent+1, s)
		}
		r.stop()
		_, pulls, _ := read(t, path, Query{})
		if uint64(len(pulls)) != s.Recorded || pulls[0].Robot != "late" {
			t.Errorf("%d rows, want %d; the latest %+v", len(pulls), s.Recorded, pulls[0])
		}
	})
}

// The relay that cannot write its folder serves, ends in time, and says what it lost.
func TestNoFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "later")
	path := filepath.Join(dir, FileName)
	synctest.Test(t, func(t *testing.T) {
		r := run(t, path, Options{}, nil)
		r.Record(manifest("amr", "ghcr.io/acme/app", "v1", time.Now()))
		time.Sleep(time.Minute)
		synctest.Wait()
		if s := r.Stats(); !s.Paused || s.Recorded != 0 || s.Dropped != 0 {
			t.Errorf("without a folder %+v", s)
		}
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if s := r.Stats(); s.Paused || s.Recorded != 1 {
			t.Errorf("with a folder %+v", s)
		}
		r.stop()
		r.lines(t, map[string]int{saysPaused: 1, saysResumed: 1})

		r = run(t, filepath.Join(dir, "no", "such", "folder"), Options{}, nil)
		r.Record(manifest("amr", "ghcr.io/acme/app", "v1", time.Now()))
		time.Sleep(time.Minute)
		r.stop()
		if s := r.Stats(); s.Dropped != 1 {
			t.Errorf("at the end %+v", s)
		}
	})
}

// A reader that is slow does not keep the log from being copied into the file, which would let it grow without end.
func TestSlowReader(t *testing.T) {
	path := filepath.Join(t.TempDir(), FileName)
	var events []Event
	for i := range 3*pageSize + 1 {
		events = append(events, manifest(fmt.Sprint("robot-", i%9), fmt.Sprintf("ghcr.io/acme/app-%d", i), "v1", start.Add(time.Duration(i)*time.Second)))
	}
	record(t, path, Options{}, events...)
	n := 0
	if err := reader(t, path).Walk(t.Context(), Query{Repository: "ghcr.io/*"}, func(p Pull) error {
		if n++; p.Repository != events[len(events)-n].Repository {
			t.Fatalf("row %d is %s, want %s", n, p.Repository, events[len(events)-n].Repository)
		}
		if n == pageSize/2 { // in the middle of a page
			record(t, path, Options{}, manifest("late", "ghcr.io/acme/late", "v1", start))
			sqlExec(t, path, "PRAGMA wal_checkpoint(TRUNCATE)")
			if info, err := os.Stat(path + "-wal"); err != nil || info.Size() != 0 {
				t.Errorf("the reader holds the log: %v, %v", info, err)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if n != len(events) {
		t.Errorf("%d rows, want %d", n, len(events))
	}
	if _, pulls, _ := read(t, path, Query{Limit: pageSize + 5}); len(pulls) != pageSize+5 || pulls[0].Robot != "late" {
		t.Errorf("%d rows with a limit", len(pulls))
	}
}

// Somebody removes the file while it is written: it is made anew, and not written into nowhere.
func TestRemovedWhileRunning(t *testing.T) {
	path := filepath.Join(t.TempDir(), FileName)
	synctest.Test(t, func(t *testing.T) {
		r := run(t, path, Options{}, nil)
		r.Record(manifest("amr", "ghcr.io/acme/app", "v1", time.Now()))
		time.Sleep(2 * time.Second)
		synctest.Wait()
		for _, suffix := range []string{"", "-wal", "-shm"} {
			if err := os.Remove(path + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
		}
		r.Record(blob("amr", "ghcr.io/acme/app", 1000, time.Now())) // belongs to a row that is gone
		r.Record(manifest("amr", "ghcr.io/acme/app", "v2", time.Now()))
		r.stop()
		robots, pulls, days := read(t, path, Query{})
		if len(robots) != 1 || robots[0].Bytes != 1500 || len(pulls) != 1 || pulls[0].Reference != "v2" || len(days) != 1 {
			t.Errorf("robots %v, pulls %v, days %v", robots, pulls, days)
		}
	})
}

// History is bounded by rows and by age, robots by number; what is removed goes in steps.
func TestBounds(t *testing.T) {
	path := filepath.Join(t.TempDir(), FileName)
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(start)) // the bubble's clock begins in 2000
		r := run(t, path, Options{MaxPulls: 300, MaxRobots: 50, MaxAge: 10 * 24 * time.Hour}, nil)
		for i := range 2000 {
			r.Record(manifest(fmt.Sprintf("robot-%d", i%20), fmt.Sprintf("ghcr.io/acme/app-%d", i), "v1", time.Now()))
			if i%50 == 0 {
				time.Sleep(2 * time.Second)
			}
		}
		for i := range 2000 {
			r.Record(Event{Address: fmt.Sprintf("10.0.%d.%d", i/250, i%250), Status: 401})
			if i%500 == 0 {
				time.Sleep(15 * time.Second)
			}
		}
		time.Sleep(pruneEvery)
		r.Record(manifest("last", "ghcr.io/acme/last", "v1", time.Now()))
		time.Sleep(2 * time.Second)
		synctest.Wait()
		robots, pulls, _ := read(t, path, Query{})
		if len(pulls) != 300 || pulls[0].Robot != "last" || pulls[299].Repository != "ghcr.io/acme/app-1701" {
			t.Errorf("%d rows from %v to %v", len(pulls), pulls[len(pulls)-1], pulls[0])
		}
		if len(robots) > 50 {
			t.Errorf("%d robots", len(robots))
		}
		for i := range 30 { // the images of the removed rows go bit by bit
			time.Sleep(pruneEvery)
			r.Record(Event{Robot: "last", Status: 200, Generation: uint64(i)})
			time.Sleep(touchAfter + gatherFor)
		}
		synctest.Wait()
		if n := count(t, path, "SELECT count(*) FROM images"); n != 300 {
			t.Errorf("%d images", n)
		}
		time.Sleep(11 * 24 * time.Hour)
		for i := range 5 {
			time.Sleep(pruneEvery)
			r.Record(manifest("last", fmt.Sprintf("ghcr.io/acme/last-%d", i), "v1", time.Now()))
			time.Sleep(writeAfter + gatherFor)
		}
		r.stop()
		_, pulls, days := read(t, path, Query{})
		if len(pulls) != 5 || len(days) != 1 {
			t.Errorf("after 11 days %d rows, %d days", len(pulls), len(days))
		}
	})
}

// A clock that jumps to 1970 or 2100 loses nothing, and what comes after it is the latest again.
func TestClockJumps(t *testing.T) {
	path := filepath.Join(t.TempDir(), FileName)
	var events []Event
	for i, at := range []time.Time{start, time.Unix(0, 0), time.Unix(-5, 0), start.AddDate(80, 0, 0), start.AddDate(100_000, 0, 0), start.Add(time.Hour)} {
		events = append(events, manifest("amr", "ghcr.io/acme/app", fmt.Sprintf("v%d", i), at))
	}
	for i := range 40 { // more days in one batch than are told apart
		events = append(events, Event{Robot: "wild", Time: start.AddDate(0, i, 0), Bytes: 1, Status: 200})
	}
	record(t, path, Options{}, events...)
	robots, pulls, days := read(t, path, Query{Robot: "amr"})
	if len(pulls) != 6 || pulls[0].Reference != "v5" || len(days) != 4 {
		t.Errorf("pulls %v, days %v", pulls, days)
	}
	for _, r := range robots {
		if r.Name == "amr" && (!r.Last.Equal(start.Add(time.Hour)) || r.Pulls != 6) {
			t.Errorf("robot %+v", r)
		}
	}
	if _, _, days := read(t, path, Query{Robot: "wild"}); len(days) != 16 {
		t.Errorf("%d days", len(days))
	} else {
		var sum int64
		for _, d := range days {
			sum += d.Bytes
		}
		if sum != 40 {
			t.Errorf("%d bytes in all days, want 40", sum)
		}
	}
}

// Robots that went away cost no memory; there are no more in memory than there may be.
func TestMemory(t *testing.T) {
	l := newLedger()
	for i := range 3 * maxRobots {
		e := manifest(fmt.Sprint("robot-", i), fmt.Sprint("ghcr.io/acme/app-", i), "v1", start)
		if !l.add(&e) {
			l.take()
		}
		if len(l.robots) > maxRobots || len(l.images) > maxImages || len(l.dirtyPulls) > maxPending {
			t.Fatalf("%d robots, %d images, %d rows", len(l.robots), len(l.images), len(l.dirtyPulls))
		}
	}
	l.take()
	l.sweep(start.Add(2 * forgetAfter))
	if len(l.robots) != 0 || len(l.images) != 0 {
		t.Errorf("%d robots and %d images after everybody left", len(l.robots), len(l.images))
	}
}

// killedEnv makes the test binary the process that is killed.
const killedEnv = "PLIMSOLL_TEST_SEEN"

// Event number n has n bytes and comes from one of three robots, so that sums tell which events are there.
func numbered(n int64) Event {
	e := manifest(fmt.Sprint("robot-", n%3), fmt.Sprint("ghcr.io/acme/app-", n%7), fmt.Sprint("v", n), start.Add(time.Duration(n)*time.Hour))
	e.Bytes = n
	return e
}

// After kill -9 at any moment the file opens and has all events up to some moment, of all robots the same.
func TestKilled(t *testing.T) {
	if path := os.Getenv(killedEnv); path != "" {
		recordForEver(path)
	}
	path := filepath.Join(t.TempDir(), FileName)
	var before int64
	for range 3 {
		//nolint:gosec // the test binary itself
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilled$")
		cmd.Env = append(os.Environ(), killedEnv+"="+path)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// Not after a commit but at some moment: the line is printed while the process goes on.
		lines := bufio.NewScanner(out)
		for range 3 + rand.IntN(10) {
			if !lines.Scan() {
				t.Fatalf("the process ended by itself: %v", lines.Err())
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err == nil {
			t.Fatal("the process was not killed")
		}
		robots, pulls, _ := read(t, path, Query{})
		var n, bytes int64
		for _, r := range robots {
			n += r.Requests
			bytes += r.Bytes
		}
		if n <= before || bytes != n*(n+1)/2 {
			t.Fatalf("%d events with %d bytes, after %d before: not a prefix", n, bytes, before)
		}
		if int64(len(pulls)) != n || pulls[0].Reference != fmt.Sprint("v", n) || pulls[n-1].Reference != "v1" {
			t.Fatalf("%d rows for %d events", len(pulls), n)
		}
		if check := check(t, path); check != "ok" {
			t.Fatalf("integrity: %s", check)
		}
		before = n
	}
}

// recordForEver goes on after the last event that is in the file, and prints a line for each transaction.
func recordForEver(path string) {
	next := int64(1)
	if r, err := OpenReader(path); err == nil {
		robots, err := r.Robots(context.Background())
		if err != nil {
			panic(err)
		}
		for _, b := range robots {
			next += b.Requests
		}
	}
	db, err := Open(path, Options{Queue: 2 * writeRows})
	if err != nil {
		panic(err)
	}
	written := make(chan struct{}, 1)
	db.tried = func(err error) {
		fmt.Println("written", err)
		written <- struct{}{}
	}
	go func() {
		for range written {
			for range writeRows + 7 { // so many that the next transaction begins at once
				db.Record(numbered(next))
				next++
			}
		}
	}()
	if err := db.Run(context.Background()); err != nil {
		panic(err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func overwrite(t *testing.T, path string, at int64, with []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt(with, at)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

func sqlExec(t *testing.T, path, text string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.Exec(text)
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}

func query[T any](t *testing.T, path, text string) (v T) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	err = db.QueryRow(text).Scan(&v)
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	return v
}

func count(t *testing.T, path, text string) int { return query[int](t, path, text) }

func check(t *testing.T, path string) string { return query[string](t, path, "PRAGMA integrity_check") }
