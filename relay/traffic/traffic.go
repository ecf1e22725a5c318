// Package traffic keeps clients from hurting one another: what many of them want at once is given out in turn, within fixed
// memory. It bounds connections for each IP address, blobs and bytes per second for each client, and how long a client may
// take nothing.
//
// A server is wired like this. The settings of http.Server belong to it: without ReadHeaderTimeout a client that sends no
// request keeps its place for ever, without IdleTimeout so does one that sends no second.
//
//	control := traffic.New(limits)
//	server := &http.Server{
//		Handler:           handler,            // uses control.Writer once, outermost; control.Blobs around each blob
//		ConnState:         control.ConnState,  // tells which connections are idle
//		ReadHeaderTimeout: 10 * time.Second,   // the TLS handshake included
//		IdleTimeout:       2 * time.Minute,
//		MaxHeaderBytes:    64 << 10,
//		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: 64},
//		// No WriteTimeout, no ReadTimeout: a large blob takes as long as the link wants. Limits.Stall bounds writes.
//	}
//	server.Serve(tls.NewListener(control.Listener(tcp), config)) // in this order
package traffic

import (
	"net"
	"net/http"
	"sync/atomic"
	"syscall"
	"time"
)

// What holds where Limits say nothing.
const (
	defaultConnections       = 4096
	defaultClientConnections = 256
	defaultParked            = 16384
	defaultStall             = 2 * time.Minute
)

// Limits are the bounds of a Control. The zero value has no rates and bounds no blobs.
type Limits struct {
	Rate       int64 // bytes per second of all shaped responses together; 0 is no bound
	ClientRate int64 // bytes per second of one client; 0 is no bound

	Blobs       int // blobs sent at one time; 0 is no bound
	ClientBlobs int // of them, those to one client; 0 is no bound
	Waiting     int // blob requests that wait; 8192 if 0

	// Connections that are served at one time (4096 if 0), those of one IP address (256 if 0), and those that wait for a
	// place (16384 if 0; none if negative). New lowers them to what the process may open files.
	Connections, ClientConnections, Parked int

	// Stall is how long a client may take no byte of what is sent to it, before it loses its connection or HTTP/2 stream: 2
	// minutes if 0, for ever if negative. Up to twice that passes, counted from the last byte.
	Stall time.Duration
}

// Control holds one server's bounds. It may have several listeners, which share them. It is safe for concurrent use.
type Control struct {
	limits  Limits
	places  *places
	blobs   *Queue  // nil without a bound
	shaper  *shaper // nil without rates
	stalled atomic.Uint64
}

// New makes a Control. It keeps no goroutine.
func New(l Limits) *Control {
	l = l.withDefaults()
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err == nil {
		l = l.within(files.Cur)
	}
	return newControl(l)
}

func newControl(l Limits) *Control {
	c := &Control{
		limits: l,
		places: newPlaces(l.Connections, l.ClientConnections, l.Parked),
		shaper: newShaper(l.Rate, l.ClientRate),
	}
	if l.Blobs > 0 || l.ClientBlobs > 0 {
		c.blobs = NewQueue(QueueOptions{Slots: l.Blobs, PerClient: l.ClientBlobs, MaxWaiting: l.Waiting})
	}
	return c
}

func (l Limits) withDefaults() Limits {
	if l.Connections <= 0 {
		l.Connections = defaultConnections
	}
	if l.ClientConnections <= 0 {
		l.ClientConnections = defaultClientConnections
	}
	if l.Parked == 0 {
		l.Parked = defaultParked
	}
	l.Parked = max(l.Parked, 0)
	if l.Stall == 0 {
		l.Stall = defaultStall
	}
	return l
}

// otherFiles is what the rest of the process may have open: the store, databases, git's pipes, the other listener.
const otherFiles = 256

// within lowers the bounds to what files may be open. A served connection takes two: its socket and the blob it gets.
func (l Limits) within(files uint64) Limits {
	spare := int(min(files, 1<<30)) - otherFiles
	l.Connections = max(min(l.Connections, spare/3), 1)
	l.Parked = max(min(l.Parked, spare-2*l.Connections), 0)
	return l
}

// Listener gives the connections of inner a place each, as the limits have it. Closing it closes inner. A TLS listener goes
// around it, not beneath it. An error of accept that passes, such as a lack of file descriptors, is waited for and counted.
func (c *Control) Listener(inner net.Listener) net.Listener { return newListener(inner, c) }

// ConnState is for http.Server.ConnState: idle connections are closed first when places are wanted. A connection that is not
// of this Control's listeners is left alone.
func (c *Control) ConnState(nc net.Conn, s http.ConnState) {
	for {
		switch under := nc.(type) {
		case *conn:
			under.listener.control.places.rest(under, s == http.StateIdle)
			return
		case interface{ NetConn() net.Conn }: // *tls.Conn
			nc = under.NetConn()
		default:
			return
		}
	}
}

// Blobs waits for the turn of r's client, and gives a writer that holds the rates. The caller sends the blob by it, and calls
// leave. The error is the context's, because the client is gone, or ErrFull. It fits registry.Handler.Blobs.
func (c *Control) Blobs(w http.ResponseWriter, r *http.Request) (out http.ResponseWriter, leave func(), err error) {
	if c.blobs == nil {
		out, leave = c.Shape(w, r)
		return out, leave, nil
	}
	free, err := c.blobs.Enter(r.Context(), ClientOf(r))
	if err != nil {
		return nil, nil, err
	}
	out, done := c.Shape(w, r)
	return out, func() { done(); free() }, nil
}

// Shape gives a writer that holds the rates, without a queue: for what is not a blob and may be large, a Git pack. The caller
// must call leave after the last write. Without rates it is w itself.
func (c *Control) Shape(w http.ResponseWriter, r *http.Request) (out http.ResponseWriter, leave func()) {
	if c.shaper == nil {
		return w, func() {}
	}
	client := ClientOf(r)
	s := &shaped{ResponseWriter: w, shaper: c.shaper, ctx: r.Context(), client: client, allowance: c.shaper.join(client)}
	return s, s.leave
}

// Stats is the state of a Control, for metrics. The counts only grow.
type Stats struct {
	Connections int // that have a place
	Idle        int // of them, those between requests
	Parked      int // that wait for a place
	Addresses   int // that have either

	MaxConnections, MaxParked int // the bounds that hold

	Accepted     uint64 // connections
	Evicted      uint64 // idle connections closed for others' sake
	Refused      uint64 // parked connections closed for lack of room
	AcceptErrors uint64 // errors of accept that passed
	Stalled      uint64 // connections and streams that ended because the client took nothing

	ShapedBytes int64 // of body that were sent under the rates

	Blobs QueueStats // of the queue for blobs; zero without a bound
}

// Stats tells the state.
func (c *Control) Stats() Stats {
	p := c.places
	p.mu.Lock()
	s := Stats{
		Connections:    p.served,
		Idle:           p.idle.waiting,
		Parked:         p.parked.waiting,
		Addresses:      len(p.parked.owners),
		MaxConnections: p.max,
		MaxParked:      p.maxParked,
		Accepted:       p.stats.accepted,
		Evicted:        p.stats.evicted,
		Refused:        p.stats.refused,
		AcceptErrors:   p.stats.acceptErrors,
	}
	p.mu.Unlock()
	s.Stalled = c.stalled.Load()
	if c.shaper != nil {
		s.ShapedBytes = c.shaper.sent.Load()
	}
	s.Blobs = c.blobs.Stats()
	return s
}
