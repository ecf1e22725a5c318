package traffic

import (
	"context"
	"errors"
	"sync"
	"time"
)

// ErrFull is the answer of a queue in which as many wait as may.
var ErrFull = errors.New("too many requests are waiting")

// defaultWaiting is how many may wait when nothing is said: 500 robots with 16 requests each. What a request that waits takes
// is mostly net/http's: 3 KB, and 18 KB for its connection.
const defaultWaiting = 8192

// QueueOptions are a queue's bounds. The zero value lets everybody in at once.
type QueueOptions struct {
	Slots      int // how many run at one time; 0 is no bound
	PerClient  int // how many of one client run at one time; 0 is no bound
	MaxWaiting int // how many wait at one time; 8192 if 0
}

// QueueStats is the state of a queue, for metrics. The counts only grow.
type QueueStats struct {
	Running int // in a slot now
	Waiting int // in the queue now
	Clients int // that have something running or waiting now

	Entered uint64        // that got a slot
	Full    uint64        // that were turned away with ErrFull
	Gone    uint64        // that went away before they got a slot
	Waited  time.Duration // by all that got a slot, together
}

// Queue lets a bounded number run at a time. Slots that become free go to the clients that wait in turn, so that a client
// with a thousand requests does not come before one with a single request a second time; the requests of one client are
// served first come, first served.
//
// A nil queue lets everybody in. A Queue is safe for concurrent use.
type Queue struct {
	slots, maxWaiting int

	mu      sync.Mutex
	line    line[string, *waiter]
	running int
	stats   QueueStats
}

type waiter struct {
	called chan struct{} // closed when it has a slot, or err
	err    error         // ErrFull: somebody else has a better claim to the place in the queue
	since  time.Time
}

// NewQueue makes a queue.
func NewQueue(o QueueOptions) *Queue {
	if o.MaxWaiting <= 0 {
		o.MaxWaiting = defaultWaiting
	}
	return &Queue{slots: o.Slots, maxWaiting: o.MaxWaiting, line: newLine[string, *waiter](o.PerClient)}
}

// Enter waits for a slot. The caller must call leave when it is done; calling it again does nothing.
//
// The error is ctx's, or ErrFull: MaxWaiting wait already. A client that has fewer waiting than the one that has most takes
// the place of that one's newest, which gets ErrFull: one client cannot fill the queue for all.
func (q *Queue) Enter(ctx context.Context, client string) (leave func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if q == nil {
		return func() {}, nil
	}
	q.mu.Lock()
	if q.free() && q.line.may(client) {
		q.line.start(client)
		q.running++
		q.stats.Entered++
		q.mu.Unlock()
		return q.leave(client), nil
	}
	if !q.room(client) {
		q.stats.Full++
		q.mu.Unlock()
		return nil, ErrFull
	}
	w := &waiter{called: make(chan struct{}), since: time.Now()}
	it := q.line.push(client, w)
	q.mu.Unlock()

	select {
	case <-w.called:
		if w.err != nil {
			return nil, w.err
		}
		return q.leave(client), nil
	case <-ctx.Done():
		q.abandon(client, it)
		return nil, ctx.Err()
	}
}

// Stats tells the state of the queue. That of a nil queue is zero.
func (q *Queue) Stats() QueueStats {
	if q == nil {
		return QueueStats{}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	s := q.stats
	s.Running, s.Waiting, s.Clients = q.running, q.line.waiting, len(q.line.owners)
	return s
}

func (q *Queue) free() bool { return q.slots <= 0 || q.running < q.slots }

// room tells whether one more of client may wait, and makes room for it where another client has two or more beyond it.
func (q *Queue) room(client string) bool {
	if q.line.waiting < q.maxWaiting {
		return true
	}
	own := 0
	if o := q.line.owners[client]; o != nil {
		own = o.waiting
	}
	longest := q.line.longest()
	if longest.waiting < own+2 {
		return false
	}
	newest := longest.last
	w := newest.value
	q.line.remove(newest)
	q.stats.Full++
	w.err = ErrFull
	close(w.called)
	return true
}

func (q *Queue) leave(client string) func() {
	return sync.OnceFunc(func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.release(client)
	})
}

// release gives the slot to whose turn it is.
func (q *Queue) release(client string) {
	q.running--
	q.line.done(client)
	for q.free() && q.line.ready() {
		_, w := q.line.pop()
		q.running++
		q.stats.Entered++
		q.stats.Waited += time.Since(w.since)
		close(w.called)
	}
}

// abandon takes back a wait. The slot may have come at the same moment: then it is given on, not lost.
func (q *Queue) abandon(client string, it *item[string, *waiter]) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case it.owner != nil:
		q.line.remove(it)
		q.stats.Gone++
	case it.value.err == nil:
		q.release(client)
	}
}
