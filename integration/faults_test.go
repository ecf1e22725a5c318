package integration

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/plimsoll/plimsoll/internal/faultfs"
	"github.com/plimsoll/plimsoll/relay"
)

// trialStep is a step that is put on trial, from a data folder on which other steps were taken.
type trialStep struct {
	step
	from          []step
	before, after string                           // the version that is served
	done          func(relay.Status) bool          // more that is true after the step; nil: nothing
	repeat        func(err error, now string) bool // errors that repeating the step may have; nil: none
}

func trialSteps() []trialStep {
	staged := func(version string) func(relay.Status) bool {
		return func(st relay.Status) bool {
			return slices.ContainsFunc(st.Staged, func(rec relay.Record) bool { return rec.Version == version })
		}
	}
	v1, v2, v3 := step{"import", "v1"}, step{"import", "v2"}, step{"import", "v3"}
	return []trialStep{
		{step: v1, after: "v1"},
		{step: v2, from: []step{v1}, before: "v1", after: "v2"},
		{step: step{"stage", "v2"}, from: []step{v1}, before: "v1", after: "v1", done: staged("v2")},
		{step: step{"activate", "v2"}, from: []step{v1, {"stage", "v2"}}, before: "v1", after: "v2"},
		{step: step{"rollback", "v1"}, from: []step{v1, v2}, before: "v2", after: "v1",
			repeat: func(err error, now string) bool { // it was done, and there is nothing to go back to any more
				var none *relay.NoReleaseError
				return now == "v1" && errors.As(err, &none)
			}},
		{step: step{"pin", "v1"}, from: []step{v1, v2}, before: "v2", after: "v2",
			done: func(st relay.Status) bool { return len(st.Pinned) == 1 }},
		{step: step{"drop", "v2"}, from: []step{v1, {"stage", "v2"}}, before: "v1", after: "v1",
			done: func(st relay.Status) bool { return !staged("v2")(st) },
			repeat: func(err error, _ string) bool {
				var none *relay.NoReleaseError
				return errors.As(err, &none)
			}},
		{step: step{"gc", ""}, from: []step{{"keep", ""}, v1, v2, v3}, before: "v3", after: "v3"},
	}
}

// lane is one file system with one worker on it. Tests run several at once.
type lane struct {
	t      *testing.T
	world  *faultReleases
	below  string
	mnt    string
	layer  *faultfs.Layer
	worker *faultWorker
	trials int
}

func newLane(t *testing.T, world *faultReleases, scratch string) *lane {
	t.Helper()
	l := &lane{t: t, world: world}
	var err error
	if l.below, err = os.MkdirTemp(scratch, "below-"); err != nil {
		t.Fatal(err)
	}
	if l.mnt, err = os.MkdirTemp(scratch, "mnt-"); err != nil {
		t.Fatal(err)
	}
	l.layer, err = faultfs.Mount(l.below, l.mnt)
	var unavailable *faultfs.UnavailableError
	if errors.As(err, &unavailable) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.close)
	return l
}

func (l *lane) close() {
	if l.worker != nil {
		l.worker.close()
	}
	// A git process that outlived a killed worker may take a moment to die of its errors.
	var err error
	for range 100 {
		if err = l.layer.Close(); err == nil {
			return
		}
		syscall.Nanosleep(&syscall.Timespec{Nsec: int64(50 * time.Millisecond)}, nil) //nolint:errcheck // only a pause
	}
	l.t.Error(err)
}

// try takes a step on a copy of a data folder with a fault, and gives the folder below, what happened, and the step's error.
func (l *lane) try(base string, job faultJob, o faultfs.Options) (data string, out faultfs.Outcome, err error) {
	l.t.Helper()
	l.trials++
	sub := fmt.Sprintf("data-%d", l.trials)
	data = filepath.Join(l.below, sub)
	if err := copyFolder(data, base); err != nil {
		l.t.Fatal(err)
	}
	if l.worker == nil {
		if l.worker, err = startFaultWorker(filepath.Join(l.world.dir, "bundles")); err != nil {
			l.t.Fatal(err)
		}
	}
	o.Kill = l.worker.kill
	if err := l.layer.Begin(sub, o); err != nil {
		l.t.Fatal(err)
	}
	job.Data = filepath.Join(l.mnt, sub)
	if err = l.worker.do(job); errors.Is(err, errWorkerDied) {
		l.worker.close()
		l.worker = nil
	}
	if o.Kind == faultfs.Kill && o.Record {
		// The next process finds what the killed one made and did not sync.
		l.layer.Revive()
		if l.worker, err = startFaultWorker(filepath.Join(l.world.dir, "bundles")); err != nil {
			l.t.Fatal(err)
		}
		err = l.worker.do(job)
	}
	return data, l.layer.End(), err
}

// faultWorld are the releases and the data folders from which the steps start.
type faultWorld struct {
	*faultReleases
	scratch string
	bases   map[string]string // by the steps that were taken
}

func newFaultWorld(t *testing.T) *faultWorld {
	t.Helper()
	// In memory where that is possible: what the disk below does is of no interest, and thousands of folders are made.
	scratch, err := os.MkdirTemp("/dev/shm", "plimsoll-faults-*")
	if err != nil {
		scratch = t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(scratch) }) //nolint:errcheck // scratch
	return &faultWorld{faultReleases: newFaultReleases(t, t.TempDir()), scratch: scratch, bases: make(map[string]string)}
}

// base gives a data folder on which steps were taken, without faults.
func (w *faultWorld) base(t *testing.T, steps []step) string {
	t.Helper()
	key := fmt.Sprint(steps)
	if dir, ok := w.bases[key]; ok {
		return dir
	}
	dir := filepath.Join(w.scratch, fmt.Sprintf("base-%d", len(w.bases)))
	r, err := openFaulty(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.TrustKey(t.Context(), w.key); err != nil {
		t.Fatal(err)
	}
	for _, s := range steps {
		if err := s.run(t.Context(), dir, filepath.Join(w.dir, "bundles")); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
	w.bases[key] = dir
	return dir
}

// check looks at a data folder after a fault: it opens, keeps every promise, serves the old or the new release whole, and
// the step can be repeated. The acknowledged says that the step reported success before the fault.
func (w *faultWorld) check(ctx context.Context, ts trialStep, data string, acknowledged bool) error {
	r, err := openFaulty(ctx, data)
	if err != nil {
		return fmt.Errorf("open again: %w", err)
	}
	if err := r.CheckSite(ctx, relay.CheckOptions{Hash: true}).Err(); err != nil {
		return fmt.Errorf("before anything else: %w", err)
	}
	now, err := servedWhole(ctx, r)
	if err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	if now != ts.before && now != ts.after {
		return fmt.Errorf("%q is served, neither %q nor %q", now, ts.before, ts.after)
	}
	if acknowledged {
		if err := ts.isDone(ctx, r, now); err != nil {
			return fmt.Errorf("the step reported success: %w", err)
		}
	}
	if rep := r.CheckSite(ctx, relay.CheckOptions{Hash: true}); rep.Err() != nil || len(rep.Warnings) > 0 {
		return fmt.Errorf("once it serves: %v %v", rep.Violations, rep.Warnings)
	}
	if err := ts.run(ctx, data, filepath.Join(w.dir, "bundles")); err != nil && (ts.repeat == nil || !ts.repeat(err, now)) {
		return fmt.Errorf("repeat: %w", err)
	}
	if r, err = openFaulty(ctx, data); err != nil {
		return fmt.Errorf("open after repeating: %w", err)
	}
	if now, err = servedWhole(ctx, r); err != nil {
		return fmt.Errorf("serve after repeating: %w", err)
	}
	if err := ts.isDone(ctx, r, now); err != nil {
		return fmt.Errorf("after repeating: %w", err)
	}
	if rep := r.CheckSite(ctx, relay.CheckOptions{Hash: true}); rep.Err() != nil || len(rep.Warnings) > 0 {
		return fmt.Errorf("after repeating: %v %v", rep.Violations, rep.Warnings)
	}
	return nil
}

func (ts trialStep) isDone(ctx context.Context, r *relay.Relay, now string) error {
	if now != ts.after {
		return fmt.Errorf("%q is served, want %q", now, ts.after)
	}
	st, err := r.Status(ctx)
	if err == nil && ts.done != nil && !ts.done(st) {
		err = fmt.Errorf("what %s does is not there: %+v", ts.step, st)
	}
	return err
}

// tally counts points and collects what went wrong.
type tally struct {
	t        *testing.T
	mu       sync.Mutex
	points   map[string]int
	total    int
	problems map[string][]string // the first few of each text
}

func (c *tally) add(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.points == nil {
		c.points, c.problems = make(map[string]int), make(map[string][]string)
	}
	c.points[name]++
	if c.total++; c.total%500 == 0 {
		c.t.Logf("%d points so far", c.total)
	}
}

func (c *tally) problem(point string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.problems[err.Error()] == nil {
		c.t.Logf("%s: %v", point, err) // a run takes long
	}
	c.problems[err.Error()] = append(c.problems[err.Error()], point)
}

func (c *tally) report() {
	t := c.t
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(c.points)) {
		t.Logf("%5d points: %s", c.points[name], name)
	}
	t.Logf("%5d points in all, %d problems", c.total, len(c.problems))
	for _, text := range slices.Sorted(maps.Keys(c.problems)) {
		points := c.problems[text]
		t.Errorf("%d points: %s\n\t%s", len(points), text, strings.Join(points[:min(4, len(points))], "\n\t"))
	}
}

// faultPoint is one fault of one step.
type faultPoint struct {
	ts   trialStep
	base string
	o    faultfs.Options
}

func (p faultPoint) name(out faultfs.Outcome) string {
	return fmt.Sprintf("%s: change %d, %s, %s, %v", p.ts.step, p.o.At, out.Struck, p.o.Kind, p.o.Err)
}

// Whatever write, sync, rename or removal of a step goes wrong, and however, nothing that was promised is lost.
func TestFaults(t *testing.T) {
	w := newFaultWorld(t)
	first := newLane(t, w.faultReleases, w.scratch)
	var points []faultPoint
	for _, ts := range trialSteps() {
		base := w.base(t, ts.from)
		data, out, err := first.try(base, faultJob{Step: ts.step}, faultfs.Options{})
		if err != nil {
			t.Fatalf("%s without a fault: %v", ts.step, err)
		}
		if err := w.check(t.Context(), ts, data, true); err != nil {
			t.Fatalf("%s without a fault: %v", ts.step, err)
		}
		t.Logf("%s makes %d changes", ts.step, out.Changes)
		points = append(points, pointsOf(ts, base, out.Ops)...)
	}
	// In any order, so that a run that is ended has tried something of everything.
	rand.New(rand.NewPCG(1, 1)).Shuffle(len(points), func(i, j int) { points[i], points[j] = points[j], points[i] })
	count := tally{t: t}
	var next atomic.Int64
	var wg sync.WaitGroup
	for i := range 2 {
		l := first
		if i > 0 {
			l = newLane(t, w.faultReleases, w.scratch)
		}
		wg.Go(func() {
			for {
				n := int(next.Add(1)) - 1
				if n >= len(points) || t.Failed() {
					return
				}
				w.fault(l, points[n], &count)
			}
		})
	}
	wg.Wait()
	count.report()
}

// pointsOf lists the faults of a step that are tried: all, or a sample that is spread evenly.
func pointsOf(ts trialStep, base string, ops []faultfs.Op) []faultPoint {
	var points []faultPoint
	errs := []syscall.Errno{syscall.EIO, syscall.ENOSPC, syscall.EROFS}
	add := func(kind faultfs.Kind, every int, may func(faultfs.Op) bool) {
		var at []int
		writes := 0
		for i, op := range ops {
			if writes++; op != faultfs.Write {
				writes = 0
			}
			// In a long row of writes one is like another.
			like := writes > 3 && writes%16 != 0 && i+1 < len(ops) && ops[i+1] == faultfs.Write
			if may(op) && i%every == 0 && !like {
				at = append(at, i+1)
			}
		}
		stride := max(1, len(at)/faultPoints)
		for i := 0; i < len(at); i += stride {
			points = append(points, faultPoint{ts, base, faultfs.Options{At: at[i], Kind: kind, Err: errs[at[i]%len(errs)]}})
		}
	}
	anything := func(faultfs.Op) bool { return true }
	add(faultfs.Refuse, 1, anything)
	add(faultfs.Lie, 1, anything)
	add(faultfs.Short, 1, func(op faultfs.Op) bool { return op == faultfs.Write })
	add(faultfs.Kill, 1, anything)
	add(faultfs.Full, 8, anything)
	add(faultfs.Dead, 8, anything)
	return points
}

// fault tries one fault.
func (w *faultWorld) fault(l *lane, p faultPoint, count *tally) {
	// Where a disk has only failed once, the process that met it can go on, too.
	job := faultJob{Step: p.ts.step, Again: p.o.At%4 == 0 && p.ts.repeat == nil && (p.o.Kind == faultfs.Refuse || p.o.Kind == faultfs.Lie)}
	data, out, err := l.try(p.base, job, p.o)
	if out.Struck == "" {
		os.RemoveAll(data) //nolint:errcheck // scratch
		return             // it came out one change shorter than before
	}
	count.add(fmt.Sprintf("%s, %s", p.ts.step, p.o.Kind))
	if job.Again && err != nil {
		count.problem(p.name(out), plain(fmt.Errorf("again in the same process: %w", err), filepath.Join(l.mnt, filepath.Base(data))))
	}
	if err := w.check(l.t.Context(), p.ts, data, err == nil); err != nil {
		count.problem(p.name(out), plain(err, data))
	}
	os.RemoveAll(data) //nolint:errcheck // scratch
}

// plain takes the folder of one trial out of an error, so that equal errors look equal.
func plain(err error, data string) error {
	return errors.New(strings.ReplaceAll(err.Error(), data, "DATA"))
}

// powerCut is one power cut in one step.
type powerCut struct {
	ts   trialStep
	log  *faultfs.Log
	n    int // changes that were made before it
	seed uint64
}

func (c powerCut) String() string {
	last := "nothing"
	if c.n > 0 {
		last = string(c.log.Entries[c.n-1].Op) + " " + c.log.Entries[c.n-1].Path
	}
	return fmt.Sprintf("%s: after %d of %d changes, the last is %s, seed %d", c.ts.step, c.n, len(c.log.Entries), last, c.seed)
}

// Wherever the power fails in a step, and whatever the disk lost that it did not promise to have, the same holds. And again
// when the power fails while the step is repeated on such a disk, or after a process that was killed.
func TestPowerCuts(t *testing.T) {
	w := newFaultWorld(t)
	l := newLane(t, w.faultReleases, w.scratch)
	seed := uint64(faultSeed)
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	var cuts []powerCut
	add := func(ts trialStep, log *faultfs.Log, n int) {
		cuts = append(cuts, powerCut{ts, log, n, random.Uint64()})
	}
	for _, ts := range trialSteps() {
		_, out, err := l.try(w.base(t, ts.from), faultJob{Step: ts.step}, faultfs.Options{Record: true})
		if err != nil {
			t.Fatalf("%s without a fault: %v", ts.step, err)
		}
		changes := len(out.Log.Entries)
		for i := range powerCutPoints {
			if i%5 == 0 { // the moment after success was reported
				add(ts, out.Log, changes)
			} else {
				add(ts, out.Log, random.IntN(changes+1))
			}
		}
		for i := range killedCutPoints {
			at := 1 + random.IntN(changes)
			if named := named(out.Ops); i%4 != 0 && len(named) > 0 { // where there is a name that is not synced yet
				at = named[random.IntN(len(named))]
			}
			data, out, err := l.try(w.base(t, ts.from), faultJob{Step: ts.step}, faultfs.Options{Record: true, At: at, Kind: faultfs.Kill})
			os.RemoveAll(data) //nolint:errcheck // scratch
			if err != nil && ts.repeat == nil {
				t.Errorf("%s: killed after change %d, repeat: %v", ts.step, at, err)
			}
			after := len(out.Log.Entries)
			add(ts, out.Log, after)
			add(ts, out.Log, min(after, at+random.IntN(max(1, after-at))))
		}
		for range secondCutPoints {
			first := powerCut{ts, out.Log, random.IntN(changes + 1), random.Uint64()}
			if log := w.repeated(l, first); log != nil {
				add(ts, log, random.IntN(len(log.Entries)+1))
			}
		}
	}
	count := tally{t: t}
	var next atomic.Int64
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(cuts) {
					return
				}
				w.cut(t, cuts[i], &count)
			}
		})
	}
	wg.Wait()
	count.report()
}

// named lists the changes that gave a name to something, counted from 1.
func named(ops []faultfs.Op) (at []int) {
	for i, op := range ops {
		if op == faultfs.Mkdir || op == faultfs.Rename {
			at = append(at, i+1)
		}
	}
	return at
}

// repeated takes a step again on the disk that a power cut left, and gives what was changed; nil if nothing was.
func (w *faultWorld) repeated(l *lane, c powerCut) *faultfs.Log {
	l.t.Helper()
	dir, err := os.MkdirTemp(w.scratch, "repeated-")
	if err != nil {
		l.t.Fatal(err)
	}
	defer os.RemoveAll(dir) //nolint:errcheck // scratch
	disk := filepath.Join(dir, "disk")
	if err := c.log.PowerCut(disk, c.n, c.seed); err != nil {
		l.t.Fatal(err)
	}
	data, out, err := l.try(disk, faultJob{Step: c.ts.step}, faultfs.Options{Record: true})
	os.RemoveAll(data) //nolint:errcheck // scratch
	if err != nil && c.ts.repeat == nil {
		l.t.Errorf("%v: repeat: %v", c, err)
	}
	if len(out.Log.Entries) == 0 {
		return nil
	}
	return out.Log
}

// cut tries one power cut.
func (w *faultWorld) cut(t *testing.T, c powerCut, count *tally) {
	dir, err := os.MkdirTemp(w.scratch, "cut-")
	if err != nil {
		t.Error(err)
		return
	}
	defer os.RemoveAll(dir) //nolint:errcheck // scratch
	data := filepath.Join(dir, "data")
	if err := c.log.PowerCut(data, c.n, c.seed); err != nil {
		t.Error(err)
		return
	}
	count.add(c.ts.String())
	if err := w.check(t.Context(), c.ts, data, c.n == len(c.log.Entries)); err != nil {
		count.problem(c.String(), plain(err, data))
	}
}
