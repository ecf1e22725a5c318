package traffic

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// What is given out at one time is what a rate brings in 1/256 s: small enough that a turn of five hundred clients ends
// within two seconds at any rate, and large enough that handing it out costs little.
const (
	grantsPerSecond = 256
	minGrant        = 4 << 10
	maxGrant        = 256 << 10
)

// burst is how long a rate may be saved up. It makes up for timers that are late; more of it would be seen on the wire.
const burst = 50 * time.Millisecond

// bucket says when bytes may be sent so that a rate holds.
type bucket struct {
	rate int64     // bytes per second
	free time.Time // when all that was taken has been paid for
}

// wait is how long to wait before the next take; zero or less is not at all.
func (b *bucket) wait(now time.Time) time.Duration {
	if earliest := now.Add(-burst); b.free.Before(earliest) {
		b.free = earliest
	}
	return b.free.Sub(now)
}

// take books n bytes, or gives back -n.
func (b *bucket) take(n int64) {
	b.free = b.free.Add(time.Duration(float64(n) / float64(b.rate) * float64(time.Second)))
}

// full tells whether the bucket is as a new one would be.
func (b *bucket) full(now time.Time) bool { return b.wait(now) <= -burst }

// shaper holds a rate for all and one for each client. What all may send is given to the clients that want to in turn, by
// equal grants: a client has no larger share for having more connections.
type shaper struct {
	grant      int64
	clientRate int64
	sent       atomic.Int64

	mu      sync.Mutex
	total   bucket // rate 0 is none
	line    line[string, *turn]
	timer   *time.Timer
	clients map[string]*allowance
}

// turn is a wait for the rate of all.
type turn struct {
	bytes  int64
	called chan struct{}
}

// allowance is a client's own rate. It outlives the client's requests until it is full again, so that a client does not
// escape its rate by many small requests.
type allowance struct {
	bucket bucket
	users  int
}

// newShaper gives nil when there is no rate.
func newShaper(rate, clientRate int64) *shaper {
	rate, clientRate = max(rate, 0), max(clientRate, 0)
	if rate == 0 && clientRate == 0 {
		return nil
	}
	lowest := rate
	if rate == 0 || clientRate > 0 && clientRate < rate {
		lowest = clientRate
	}
	return &shaper{
		grant:      min(max(lowest/grantsPerSecond, minGrant), maxGrant),
		clientRate: clientRate,
		total:      bucket{rate: rate},
		line:       newLine[string, *turn](0),
		clients:    make(map[string]*allowance),
	}
}

// join gives a client's allowance, nil when clients have no rate of their own. It must be left.
func (s *shaper) join(client string) *allowance {
	if s.clientRate == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.clients[client]
	if a == nil {
		a = &allowance{bucket: bucket{rate: s.clientRate}}
		s.clients[client] = a
	}
	a.users++
	return a
}

// leave gives back unused bytes of a grant, and the allowance.
func (s *shaper) leave(client string, a *allowance, unused int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.giveBack(a, unused)
	if a == nil {
		return
	}
	a.users--
	s.forget(client, a)
}

// forget drops an allowance that nobody uses once it is full.
func (s *shaper) forget(client string, a *allowance) {
	if a.users > 0 || s.clients[client] != a {
		return
	}
	now := time.Now()
	if a.bucket.full(now) {
		delete(s.clients, client)
		return
	}
	time.AfterFunc(a.bucket.wait(now)+burst, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.forget(client, a)
	})
}

func (s *shaper) giveBack(a *allowance, n int64) {
	if n == 0 {
		return
	}
	if a != nil {
		a.bucket.take(-n)
	}
	if s.total.rate > 0 {
		s.total.take(-n)
		s.arm(time.Now())
	}
}

// take waits until n bytes may be sent: first for the client's own rate, then for its turn at the rate of all.
func (s *shaper) take(ctx context.Context, client string, a *allowance, n int64) error {
	if a != nil {
		s.mu.Lock()
		wait := a.bucket.wait(time.Now())
		a.bucket.take(n)
		s.mu.Unlock()
		if wait > 0 {
			if err := sleep(ctx, wait); err != nil {
				return err // what was booked stays so: only this client's next grant comes later for it
			}
		}
	}
	if s.total.rate == 0 {
		return ctx.Err()
	}
	s.mu.Lock()
	now := time.Now()
	if s.line.waiting == 0 && s.total.wait(now) <= 0 {
		s.total.take(n)
		s.mu.Unlock()
		return ctx.Err()
	}
	t := &turn{bytes: n, called: make(chan struct{})}
	it := s.line.push(client, t)
	s.arm(now)
	s.mu.Unlock()
	select {
	case <-t.called:
		return nil
	case <-ctx.Done():
		s.abandon(a, it)
		return ctx.Err()
	}
}

// abandon takes back a wait. The turn may have come at the same moment: then its bytes are given back.
func (s *shaper) abandon(a *allowance, it *item[string, *turn]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if it.owner == nil {
		s.giveBack(a, it.value.bytes)
	} else {
		s.line.remove(it)
	}
}

// arm lets the next turn come at its time.
func (s *shaper) arm(now time.Time) {
	if s.line.waiting == 0 {
		return
	}
	wait := max(s.total.wait(now), 0)
	if s.timer == nil {
		s.timer = time.AfterFunc(wait, s.call)
	} else {
		s.timer.Reset(wait)
	}
}

// call gives the turns that have come.
func (s *shaper) call() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for s.line.ready() && s.total.wait(now) <= 0 {
		client, t := s.line.pop()
		s.line.done(client)
		s.total.take(t.bytes)
		close(t.called)
	}
	s.arm(now)
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
