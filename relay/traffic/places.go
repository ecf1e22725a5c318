package traffic

import (
	"net/netip"
	"sync"
	"time"
)

// idleGrace is how long a connection must have been idle before it is closed for another's sake. A client that sends its
// requests one after the other is idle for moments in between, and HTTP/2 calls a connection idle before its first request:
// closing such a one would break the request that is on its way.
const idleGrace = time.Second

// places are what connections are served on: a bounded number in all and for each IP address. What comes beyond is parked,
// which costs a file descriptor and no goroutine, and gets a place when one is free, addresses in turn.
type places struct {
	max, maxParked int

	mu      sync.Mutex
	parked  line[netip.Addr, *conn] // its running ones are the served
	idle    line[netip.Addr, *conn] // the served that are idle, longest first; nothing of it runs
	served  int
	timer   *time.Timer // looks for idle connections while something is parked
	ticking bool
	stats   placeStats
}

type placeStats struct{ accepted, evicted, refused, acceptErrors uint64 }

func newPlaces(max, perAddress, maxParked int) *places {
	return &places{
		max: max, maxParked: maxParked,
		parked: newLine[netip.Addr, *conn](perAddress),
		idle:   newLine[netip.Addr, *conn](0),
	}
}

// arrive takes in a connection that was accepted.
func (p *places) arrive(c *conn) {
	p.mu.Lock()
	p.stats.accepted++
	if c.listener.closed {
		p.mu.Unlock()
		c.Conn.Close() //nolint:errcheck // nobody was told of it
		return
	}
	c.parked = p.parked.push(c.address, c)
	now := time.Now()
	drop := p.makeRoom(c.parked.owner, now, nil)
	drop = p.settle(now, drop)
	if p.parked.waiting > p.maxParked {
		drop = append(drop, p.refuse())
	}
	p.tick()
	p.mu.Unlock()
	closeAll(drop)
}

// leave is called when a connection is closed, by whomever.
func (p *places) leave(c *conn) {
	p.mu.Lock()
	if !p.vacate(c) {
		p.mu.Unlock()
		return
	}
	drop := p.settle(time.Now(), nil)
	p.mu.Unlock()
	closeAll(drop)
}

// rest notes whether a served connection is idle.
func (p *places) rest(c *conn, idle bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.idle != nil {
		p.idle.remove(c.idle)
		c.idle = nil
	}
	if idle && c.served {
		c.idleSince = time.Now()
		c.idle = p.idle.push(c.address, c)
	}
}

// shed closes one connection that can be spared, because file descriptors ran out.
func (p *places) shed() {
	p.mu.Lock()
	p.stats.acceptErrors++
	var drop []*conn
	if p.parked.waiting > 0 {
		drop = append(drop, p.refuse())
	} else if o := p.idle.longest(); o != nil {
		drop = append(drop, p.evict(o.first.value))
	}
	p.mu.Unlock()
	closeAll(drop)
}

// forget closes what of a listener is not served yet.
func (p *places) forget(l *listener) {
	p.mu.Lock()
	var drop []*conn
	for _, o := range p.parked.owners {
		for it := o.first; it != nil; it = it.next {
			if it.value.listener == l {
				drop = append(drop, it.value)
			}
		}
	}
	for _, c := range drop {
		p.parked.remove(c.parked)
	}
	for _, c := range l.ready {
		p.vacate(c)
		drop = append(drop, c)
	}
	l.ready = nil
	drop = p.settle(time.Now(), drop)
	p.mu.Unlock()
	closeAll(drop)
}

// settle gives the free places to those whose turn it is, and takes places from idle connections when there are none free:
// from the address that has most of them. Returned is drop and what is to be closed, once the lock is released.
func (p *places) settle(now time.Time, drop []*conn) []*conn {
	for p.parked.ready() {
		if p.served >= p.max {
			idlest := p.idle.longest()
			if idlest == nil || !rested(idlest, now) {
				break
			}
			drop = append(drop, p.evict(idlest.first.value))
			continue
		}
		_, c := p.parked.pop()
		c.parked, c.served = nil, true
		p.served++
		c.listener.ready = append(c.listener.ready, c)
		c.listener.wake.Signal()
	}
	return drop
}

// makeRoom closes idle connections of an address that has as many as it may, for the sake of its own new ones: robots behind
// one address do not wait for each other's idle connections.
func (p *places) makeRoom(o *owner[netip.Addr, *conn], now time.Time, drop []*conn) []*conn {
	idle := p.idle.owners[o.key]
	for idle != nil && idle.waiting > 0 && o.waiting > p.parked.limit-o.running && rested(idle, now) {
		drop = append(drop, p.evict(idle.first.value))
	}
	return drop
}

func rested(o *owner[netip.Addr, *conn], now time.Time) bool {
	return now.Sub(o.first.value.idleSince) >= idleGrace
}

// evict takes the place of an idle connection.
func (p *places) evict(c *conn) *conn {
	p.stats.evicted++
	p.vacate(c)
	return c
}

// refuse takes out the newest parked connection of the address that has most.
func (p *places) refuse() *conn {
	p.stats.refused++
	c := p.parked.longest().last.value
	p.parked.remove(c.parked)
	return c
}

// vacate frees a connection's place; false if it had none.
func (p *places) vacate(c *conn) bool {
	if !c.served {
		return false
	}
	c.served = false
	p.served--
	p.parked.done(c.address)
	if c.idle != nil {
		p.idle.remove(c.idle)
		c.idle = nil
	}
	return true
}

// tick looks again in a while, as long as something is parked: nobody tells when a connection has been idle long enough.
func (p *places) tick() {
	if p.ticking || p.parked.waiting == 0 {
		return
	}
	p.ticking = true
	if p.timer == nil {
		p.timer = time.AfterFunc(idleGrace, p.look)
	} else {
		p.timer.Reset(idleGrace)
	}
}

func (p *places) look() {
	p.mu.Lock()
	p.ticking = false
	now := time.Now()
	var drop []*conn
	for _, o := range p.parked.most {
		drop = p.makeRoom(o, now, drop)
	}
	drop = p.settle(now, drop)
	p.tick()
	p.mu.Unlock()
	closeAll(drop)
}

// closeAll closes connections whose places were taken already.
func closeAll(drop []*conn) {
	for _, c := range drop {
		c.Conn.Close() //nolint:errcheck // closed for others' sake
	}
}
