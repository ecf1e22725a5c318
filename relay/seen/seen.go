// Package seen remembers which robots the relay answered and what they pulled, in a SQLite database that nothing depends
// on: losing it loses history, never a release, and serving never waits for it.
package seen

import (
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
)

// FileName is the database's name in the relay's data folder.
const FileName = "state.db"

// The kinds of events that make history. An event of any other kind says only that the robot was here.
const (
	KindManifest = "manifest" // a manifest; one that sent no bytes (HEAD, 304) is a look, not a pull
	KindBlob     = "blob"     // bytes of a blob, which are added to the pull that they belong to
	KindGit      = "git"      // a pack was sent; listing refs is not this
)

// Event is one answered request.
type Event struct {
	Time       time.Time // when it began; now if zero
	Robot      string    // the identity's name; empty for an anonymous client, whom the address tells apart
	Address    string    // IP address, with or without a port
	Agent      string    // the User-Agent header
	Kind       string
	Repository string // with its upstream: ghcr.io/acme/app
	Reference  string // as it was asked for: a tag, or the digest
	Digest     digest.Digest
	Generation uint64
	Status     int   // of HTTP
	Bytes      int64 // of the body that was sent
	Duration   time.Duration
}

// Options are the settings of a DB. The zero value works.
type Options struct {
	MaxPulls  int           // rows of history, and sums of days, the oldest go first; 500,000 if zero
	MaxAge    time.Duration // of history; 400 days if zero
	MaxRobots int           // robots without a pull in the history; 5,000 if zero
	Queue     int           // events that may wait to be taken up; 2,048 if zero
	Log       *slog.Logger  // told once when recording pauses and once when it goes on; may be nil
}

// Stats is what happened since Open.
type Stats struct {
	Recorded uint64 // events that are in the database
	Dropped  uint64 // events that were lost, because the queue was full or the file could not be written
	Queued   int    // events that were not looked at yet
	Paused   bool   // the file cannot be written at the moment
}

// DB records events. Record may be called by any number of goroutines; Run is called once.
type DB struct {
	path    string
	options Options
	wake    chan struct{} // has one element when the queue is no longer empty, and again when it is half full

	mu    sync.Mutex
	queue []Event // of fixed capacity, so that Record allocates nothing

	recorded, dropped atomic.Uint64
	paused            atomic.Bool

	// For tests.
	pragmas func() []string // further settings of the next connection
	tried   func(error)     // called after each try to write
}

// Open prepares recording. It does not touch the file, since a full disk or a damaged file must not keep the relay from
// serving: Run deals with those.
func Open(path string, o Options) (*DB, error) {
	if path == "" {
		return nil, errors.New("history of pulls: no path")
	}
	if o.MaxPulls < 0 || o.MaxAge < 0 || o.MaxRobots < 0 || o.Queue < 0 {
		return nil, errors.New("history of pulls: a bound is negative")
	}
	setDefault(&o.MaxPulls, 500_000)
	setDefault(&o.MaxAge, 400*24*time.Hour)
	setDefault(&o.MaxRobots, 5_000)
	setDefault(&o.Queue, 2_048)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &DB{path: path, options: o, wake: make(chan struct{}, 1), queue: make([]Event, 0, o.Queue)}, nil
}

func setDefault[T comparable](v *T, to T) {
	var zero T
	if *v == zero {
		*v = to
	}
}

// Record takes an event up. It never blocks: when the queue is full, the event is dropped and counted.
func (db *DB) Record(e Event) {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	db.mu.Lock()
	if len(db.queue) == db.options.Queue {
		db.mu.Unlock()
		db.dropped.Add(1)
		return
	}
	db.queue = append(db.queue, e)
	n := len(db.queue)
	db.mu.Unlock()
	// Waking for each event would cost a request more than recording it does.
	if n == 1 || n == db.options.Queue/2 {
		select {
		case db.wake <- struct{}{}:
		default:
		}
	}
}

func (db *DB) halfFull() bool {
	db.mu.Lock()
	defer db.mu.Unlock()
	return len(db.queue) >= db.options.Queue/2
}

// take gives the events that wait, and spare as the place for the next ones.
func (db *DB) take(spare []Event) []Event {
	db.mu.Lock()
	defer db.mu.Unlock()
	full := db.queue
	db.queue = spare[:0]
	return full
}

// Stats says how recording goes. It is cheap.
func (db *DB) Stats() Stats {
	db.mu.Lock()
	queued := len(db.queue)
	db.mu.Unlock()
	return Stats{Recorded: db.recorded.Load(), Dropped: db.dropped.Load(), Queued: queued, Paused: db.paused.Load()}
}
