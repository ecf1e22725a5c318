package access

import (
	"container/list"
	"context"
	"net/netip"
	"sync"
	"time"
)

// Bounds of what guessing costs the guesser, and of what remembering guessers costs the relay.
const (
	firstDelay = 100 * time.Millisecond // of the answer to the first wrong credentials from an address; doubled each time
	maxDelay   = 5 * time.Second
	burst      = 5 * time.Minute // without wrong credentials, and an address starts anew

	maxGuessers        = 4096 // addresses remembered; those that were wrong longest ago are forgotten
	maxDelayedFrom     = 16   // delayed answers to one address
	maxDelayed         = 1024 // delayed answers in all
	guesserPrefixBits6 = 64   // an IPv6 host can have every address of its /64
)

// guessers slows wrong answers down, for each address more with each one. Right credentials never come here, so they are
// not slowed, whatever else comes from their address.
type guessers struct {
	mu      sync.Mutex
	by      map[netip.Prefix]*list.Element
	recent  *list.List // of *guesser, the last wrong one first
	delayed int
}

type guesser struct {
	prefix  netip.Prefix
	wrong   int // in this burst
	last    time.Time
	delayed int
}

func newGuessers() *guessers {
	return &guessers{by: make(map[netip.Prefix]*list.Element), recent: list.New()}
}

// wrong counts wrong credentials from an address. It gives the number of them in this burst and how long to hold the
// answer back; delayed must be called when that is over. When as many answers are held back as may be, the delay is
// zero: the answer goes out at once rather than cost memory.
func (g *guessers) wrong(addr netip.Addr, now time.Time) (count int, delay time.Duration, done func()) {
	prefix := prefixOf(addr)
	g.mu.Lock()
	defer g.mu.Unlock()
	e, ok := g.by[prefix]
	if ok {
		g.recent.MoveToFront(e)
	} else {
		if g.recent.Len() >= maxGuessers {
			oldest := g.recent.Back()
			g.recent.Remove(oldest)
			delete(g.by, oldest.Value.(*guesser).prefix)
		}
		e = g.recent.PushFront(&guesser{prefix: prefix})
		g.by[prefix] = e
	}
	who := e.Value.(*guesser)
	if now.Sub(who.last) > burst {
		who.wrong = 0
	}
	who.wrong++
	who.last = now
	if who.delayed >= maxDelayedFrom || g.delayed >= maxDelayed {
		return who.wrong, 0, func() {}
	}
	who.delayed++
	g.delayed++
	return who.wrong, delayAfter(who.wrong), func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		who.delayed--
		g.delayed--
	}
}

func delayAfter(wrong int) time.Duration {
	if wrong > 6 {
		return maxDelay
	}
	return firstDelay << (wrong - 1)
}

// waiting is the number of answers that are held back.
func (g *guessers) waiting() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.delayed
}

func prefixOf(addr netip.Addr) netip.Prefix {
	bits := addr.BitLen()
	if addr.Is6() {
		bits = guesserPrefixBits6
	}
	prefix, err := addr.WithZone("").Prefix(bits)
	if err != nil {
		return netip.Prefix{} // no address: a Unix socket, say
	}
	return prefix
}

// sleep waits, or returns early when ctx ends: nobody is there any more to be slowed.
func sleep(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
