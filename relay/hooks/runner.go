package hooks

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	firstWait    = time.Second     // after the first attempt; it doubles
	lastWait     = 5 * time.Minute // at most
	maxAttempts  = 14              // that is half an hour
	lookInterval = 2 * time.Second // how long a change of hooks.json can go unnoticed
)

// Journal is where results are recorded.
type Journal interface {
	Append(ctx context.Context, kind string, detail any) error
}

// JournalKind is the kind of the records.
const JournalKind = "hook"

// Result is the record: how telling a hook of a generation ended.
type Result struct {
	Hook       string `json:"hook"`
	Type       Type   `json:"type"`
	Generation uint64 `json:"generation"`
	Result     string `json:"result"` // told, or gave-up
	Attempts   int    `json:"attempts"`
	Left       int    `json:"left,omitempty"`  // refs that were too many to be told
	Error      string `json:"error,omitempty"` // of the last attempt
}

// Options are what hooks are told with. The zero value works.
type Options struct {
	Relay   string       // the relay's name, for those who have several
	Names   []string     // by which Argo CD knows the relay; see Hook.RepositoryPrefixes
	Version string       // of the program
	Log     *slog.Logger // may be nil
	Journal Journal      // may be nil

	dial func(ctx context.Context, network, address string) (net.Conn, error) // of tests
}

// Runner tells the hooks of a serving relay. One process of a data folder has one.
type Runner struct {
	dir     string
	options Options
	log     *slog.Logger
	store   *Store
	wake    chan struct{}

	saving sync.Mutex // held while the state is written, so that the last one written is the latest
	saved  string     // the last error of that, so that it is logged once

	mu      sync.Mutex
	served  *Served // as Activated was told; nil before
	seen    *Served // up to where the workers' pending is complete; nil: not known
	ready   bool    // seen is what this process serves, not only what one before it did
	workers map[string]*worker
	left    []hookState // of the process before this one
}

// worker tells one hook. All but hook and wake is guarded by Runner.mu.
type worker struct {
	hook Hook
	wake chan struct{}
	stop func() // ends the goroutine and waits for it

	state    hookState // Pending is what came while the attempt ran
	inflight *pending  // what the attempt that runs tells
	cancel   context.CancelFunc
	ok, bad  uint64
}

// New makes a runner for a data folder. It does nothing before Run.
func New(dir string, o Options) *Runner {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Runner{dir: dir, options: o, log: o.Log, store: Open(dir), wake: make(chan struct{}, 1), workers: make(map[string]*worker)}
}

// Activated says what is served from now on. It returns at once; the runner takes up the latest only.
func (r *Runner) Activated(s Served) {
	r.mu.Lock()
	r.served = &s
	r.mu.Unlock()
	poke(r.wake)
}

func poke(wake chan struct{}) {
	select {
	case wake <- struct{}{}:
	default:
	}
}

// Run tells hooks until ctx ends, and then waits for its goroutines, one for each hook. Hooks that are added, changed or
// removed meanwhile are taken up. What goes wrong is logged; the error is always nil.
func (r *Runner) Run(ctx context.Context) error {
	doc, err := readState(r.dir)
	if err != nil {
		r.log.Warn("what hooks were told is not known; they are told again", "error", err)
	}
	r.mu.Lock()
	r.seen, r.left = doc.Served, doc.Hooks
	r.mu.Unlock()
	defer r.stop()
	ticker := time.NewTicker(lookInterval)
	defer ticker.Stop()
	var file fs.FileInfo
	trouble, configured := "", false
	for {
		changed := false
		if fi, err := os.Stat(r.store.path()); !configured || !sameFile(fi, file) || err != nil && !errors.Is(err, fs.ErrNotExist) {
			hooks, read, err := r.store.read()
			switch {
			case err == nil:
				file, trouble, changed, configured = read, "", configured, true
				r.configure(ctx, hooks)
			case err.Error() != trouble:
				trouble = err.Error()
				r.log.Error("the hooks cannot be read; those from before stay in force", "error", err)
			}
		}
		// Before the hooks are known, what they were told must be kept for them as it is.
		if configured && r.observe() || changed {
			r.save()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-r.wake:
		case <-ticker.C:
		}
	}
}

func sameFile(a, b fs.FileInfo) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}

// stop ends all workers. They stay listed: what one has just told is still written.
func (r *Runner) stop() {
	r.mu.Lock()
	workers := slices.Collect(maps.Values(r.workers))
	r.mu.Unlock()
	for _, w := range workers {
		w.stop()
	}
}

// configure starts and ends workers so that they are those of the hooks. One whose hook is the same goes on.
func (r *Runner) configure(ctx context.Context, hooks []Hook) {
	r.mu.Lock()
	workers := slices.Collect(maps.Values(r.workers))
	r.mu.Unlock()
	for _, w := range workers {
		i, found := find(hooks, w.hook.Name)
		if found && reflect.DeepEqual(hooks[i], w.hook) {
			continue
		}
		w.stop()
		r.mu.Lock()
		delete(r.workers, w.hook.Name)
		r.left = append(r.left, w.state)
		r.mu.Unlock()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, h := range hooks {
		if r.workers[h.Name] == nil {
			r.workers[h.Name] = r.start(ctx, h)
		}
	}
	r.left = nil // a hook that comes back later has missed what came meanwhile
}

// start makes a worker, which takes up what was known of the same hook before. The caller holds mu.
func (r *Runner) start(ctx context.Context, h Hook) *worker {
	w := &worker{hook: h, wake: make(chan struct{}, 1), state: hookState{Name: h.Name, Target: target(h)}}
	known := false
	for _, st := range r.left {
		if st.Name == h.Name && st.Target == w.state.Target {
			w.state, known = st, true
			w.state.GaveUp, w.state.Attempts = false, 0 // what kept it from being told may be over
		}
	}
	if r.seen != nil && !known {
		w.state.Pending = everything(h, *r.seen)
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	w.stop = func() {
		cancel()
		<-done
	}
	go func() { // stop waits for it
		defer close(done)
		r.tell(ctx, w)
	}()
	return w
}

// observe adds to every hook's pending what the latest generation changed, and reports whether it is another one. It is
// done for all hooks at once, so that one generation to compare with is enough for all of them.
func (r *Runner) observe() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.served == nil || r.served == r.seen {
		return false
	}
	now, first := r.served, !r.ready
	for _, w := range r.workers {
		var change *pending
		if r.seen == nil {
			change = everything(w.hook, *now)
		} else if change = difference(*r.seen, *now); !change.concerns(w.hook) {
			change = nil
		}
		if change != nil {
			w.state.Pending = w.state.Pending.merge(change)
			w.state.Attempts, w.state.GaveUp = 0, false
			if w.cancel != nil {
				w.cancel() // the latest generation wins, and soon
			}
		}
		if change != nil || first {
			poke(w.wake)
		}
	}
	r.seen, r.ready = now, true
	return true
}

// tell is a worker's goroutine.
func (r *Runner) tell(ctx context.Context, w *worker) {
	var last *Served // that done is of
	var done map[string]bool
	for {
		attempt, now, pending := r.take(ctx, w)
		if now == nil {
			select {
			case <-ctx.Done():
				return
			case <-w.wake:
			}
			continue
		}
		if now != last {
			last, done = now, make(map[string]bool)
		}
		channels, refs := pending.resolve(w.hook, *now)
		requests, left, err := r.options.requests(w.hook, news{*now, channels, refs})
		if err == nil {
			err = r.options.send(attempt, w.hook, requests, done)
		}
		if wait := r.finish(ctx, w, now, len(requests), left, err); wait > 0 {
			r.pause(ctx, w, now, wait)
		}
	}
}

// pause waits, but no longer than until there is another generation.
func (r *Runner) pause(ctx context.Context, w *worker, now *Served, wait time.Duration) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			return
		case <-w.wake:
			r.mu.Lock()
			newer := r.seen != now
			r.mu.Unlock()
			if newer {
				return
			}
		}
	}
}

// take gives what is to be told now, if anything, and a context that ends when there is something newer.
func (r *Runner) take(ctx context.Context, w *worker) (context.Context, *Served, *pending) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if ctx.Err() != nil || w.state.Pending == nil || w.state.GaveUp || !r.ready {
		return nil, nil, nil
	}
	w.inflight, w.state.Pending = w.state.Pending, nil
	ctx, w.cancel = context.WithCancel(ctx)
	return ctx, r.seen, w.inflight
}

// finish takes down how an attempt ended, and says how long to wait for the next one.
func (r *Runner) finish(ctx context.Context, w *worker, now *Served, requests, left int, err error) (wait time.Duration) {
	r.mu.Lock()
	w.cancel()
	w.cancel = nil
	newer := w.state.Pending != nil
	if err != nil {
		// Perhaps it has heard, though nothing was answered: the next attempt tells all of it again.
		w.state.Pending = w.inflight.merge(w.state.Pending)
	}
	w.inflight = nil
	if err != nil && (newer || ctx.Err() != nil) || err == nil && requests == 0 {
		r.mu.Unlock() // the attempt was cut short, or there was nothing to tell
		r.save()
		return 0
	}
	at := stamp(time.Now())
	w.state.TriedAt = at
	w.state.Attempts++
	result := Result{Hook: w.hook.Name, Type: w.hook.Type, Generation: now.Generation, Attempts: w.state.Attempts, Left: left}
	if err == nil {
		w.ok++
		w.state.Told, w.state.ToldAt, w.state.Attempts, w.state.Error, w.state.Left = now.Generation, at, 0, "", left
		result.Result = "told"
	} else {
		w.bad++
		wait = backoff(w.state.Attempts, err)
		w.state.Error = err.Error()
		result.Error = w.state.Error
		if w.state.Attempts >= maxAttempts {
			w.state.GaveUp, result.Result, wait = true, "gave-up", 0
		}
	}
	r.mu.Unlock()
	r.save()
	r.report(ctx, result, wait)
	return wait
}

// backoff is the time until the next attempt: it doubles, and is as long as the other side asks for.
func backoff(attempts int, err error) time.Duration {
	wait := lastWait
	if shift := attempts - 1; shift < 16 {
		wait = min(lastWait, firstWait<<shift)
	}
	var refused *DeliveryError
	if errors.As(err, &refused) {
		wait = max(wait, refused.after)
	}
	return wait
}

func (r *Runner) report(ctx context.Context, result Result, wait time.Duration) {
	attrs := []any{"hook", result.Hook, "generation", result.Generation, "attempts", result.Attempts}
	if result.Left > 0 {
		attrs = append(attrs, "left", result.Left)
	}
	switch result.Result {
	case "told":
		r.log.Info("a hook was told", attrs...)
	case "":
		r.log.Warn("a hook was not told", append(attrs, "again", wait, "error", result.Error)...)
		return // the journal has how it ends
	default:
		r.log.Error("a hook was not told; it is tried again with the next generation", append(attrs, "error", result.Error)...)
	}
	if r.options.Journal == nil {
		return
	}
	// What was told was told, also when the relay is being stopped.
	if err := r.options.Journal.Append(context.WithoutCancel(ctx), JournalKind, result); err != nil {
		r.log.Error("the result of a hook is not in the journal", "hook", result.Hook, "error", err)
	}
}

// save writes what is known. A disk that takes nothing costs only that hooks are told again after a restart.
func (r *Runner) save() {
	r.saving.Lock()
	defer r.saving.Unlock()
	r.mu.Lock()
	doc := stateDocument{Served: r.seen, Hooks: []hookState{}}
	for _, w := range r.workers {
		st := w.state
		st.Pending = w.inflight.merge(st.Pending)
		doc.Hooks = append(doc.Hooks, st)
	}
	r.mu.Unlock()
	slices.SortFunc(doc.Hooks, func(a, b hookState) int { return strings.Compare(a.Name, b.Name) })
	text := ""
	if err := writeState(r.dir, doc); err != nil {
		text = err.Error()
	}
	if text != "" && text != r.saved {
		r.log.Error("what hooks were told cannot be written; after a restart they are told again", "error", text)
	}
	r.saved = text
}

// Status says how it stands with the hooks, sorted by name.
func (r *Runner) Status() []Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]Status, 0, len(r.workers))
	for _, w := range r.workers {
		st := w.state
		st.Pending = w.inflight.merge(st.Pending)
		s := st.status(w.hook)
		s.Successes, s.Failures = w.ok, w.bad
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b Status) int { return strings.Compare(a.Name, b.Name) })
	return all
}
