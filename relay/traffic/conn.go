package traffic

import (
	"errors"
	"io"
	"math"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// conn is a connection that has or waits for a place. A write in which the peer takes nothing for the stall time fails, which
// ends the connection; http.Server.WriteTimeout cannot do that, because it bounds a whole response, however long.
type conn struct {
	net.Conn
	listener *listener
	address  netip.Addr
	stall    time.Duration // 0 is never

	// Under the lock of the places.
	parked    *item[netip.Addr, *conn]
	idle      *item[netip.Addr, *conn]
	idleSince time.Time
	served    bool

	mu    sync.Mutex
	armed time.Time // when the deadline was last set for a stall
	user  time.Time // the deadline that the server asked for; zero is none
}

func newConn(inner net.Conn, l *listener) *conn {
	return &conn{Conn: inner, listener: l, address: addressOf(inner.RemoteAddr()), stall: l.control.limits.Stall}
}

// NetConn is the connection beneath.
func (c *conn) NetConn() net.Conn { return c.Conn }

// Close frees the place.
func (c *conn) Close() error {
	err := c.Conn.Close()
	c.listener.control.places.leave(c)
	return err
}

// CloseWrite is that of the connection beneath.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// Write writes all of p as long as the peer takes some of it.
func (c *conn) Write(p []byte) (n int, err error) {
	c.arm(false)
	for {
		m, err := c.Conn.Write(p[n:])
		n += m
		if err == nil || !c.again(int64(m), err) {
			return n, err
		}
	}
}

// ReadFrom hands a file, or the part of one that an io.LimitedReader gives, to the connection beneath, so that the kernel
// sends it (sendfile). What comes from elsewhere is copied by Write: it cannot be read a second time when a deadline passes
// between reading and writing.
func (c *conn) ReadFrom(src io.Reader) (n int64, err error) {
	into, ok := c.Conn.(io.ReaderFrom)
	if !ok {
		return copyThrough(c, src)
	}
	part, ok := src.(*io.LimitedReader)
	if !ok {
		part = &io.LimitedReader{R: src, N: math.MaxInt64}
	}
	file, ok := part.R.(sendable)
	if !ok {
		return copyThrough(c, src)
	}
	start, err := file.Seek(0, io.SeekCurrent)
	if err != nil { // a pipe
		return copyThrough(c, src)
	}
	limit := part.N
	c.arm(false)
	if limit >= corkSize {
		c.cork(1)
		defer c.cork(0)
	}
	for {
		m, err := into.ReadFrom(part)
		n += m
		if err == nil || !c.again(m, err) {
			return n, err
		}
		// Where the kernel cannot send from this file, the part was copied, and more may have been read than was written.
		if _, err := file.Seek(start+n, io.SeekStart); err != nil {
			return n, err
		}
		part.N = limit - n
	}
}

// corkSize is how many bytes are worth two calls of the kernel.
const corkSize = 256 << 10

// cork lets the kernel wait until a packet is full, or lets it send what is left (tcp(7), TCP_CORK). Go turns Nagle's
// algorithm off, and then sendfile sends what each few pages bring: a large blob takes a fifth longer.
func (c *conn) cork(on int) {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		if raw, err := tcp.SyscallConn(); err == nil {
			// What fails costs time only.
			_ = raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_CORK, on) })
		}
	}
}

// sendable is what the kernel may be able to send from: *os.File, also when package os hides some of its methods.
type sendable interface {
	io.ReadSeeker
	syscall.Conn
}

// SetDeadline sets both deadlines.
func (c *conn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetWriteDeadline sets a deadline beside that of a stall; the earlier one holds.
func (c *conn) SetWriteDeadline(t time.Time) error {
	if c.stall <= 0 {
		return c.Conn.SetWriteDeadline(t)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.IsZero() && c.user.IsZero() {
		return nil // net/http takes the deadline back after each request
	}
	c.user = t
	return c.setDeadline(time.Now())
}

// arm sees to it that the peer has the stall time from now on. A deadline that is young enough stays.
func (c *conn) arm(force bool) {
	if c.stall <= 0 {
		return
	}
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if force || now.Sub(c.armed) > c.stall/8 {
		c.setDeadline(now) //nolint:errcheck // a closed connection: the write says so
	}
}

func (c *conn) setDeadline(now time.Time) error {
	c.armed = now
	deadline := now.Add(c.stall + c.stall/8)
	if !c.user.IsZero() && c.user.Before(deadline) {
		deadline = c.user
	}
	return c.Conn.SetWriteDeadline(deadline)
}

// again tells whether a write that ended after n bytes goes on: its time was up, but the peer did take something.
func (c *conn) again(n int64, err error) bool {
	if c.stall <= 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	c.mu.Lock()
	asked := !c.user.IsZero() && !c.user.After(time.Now())
	c.mu.Unlock()
	if asked {
		return false
	}
	if n == 0 {
		c.listener.control.stalled.Add(1)
		return false
	}
	c.arm(true)
	return true
}

type copyBuffer [32 << 10]byte

var copyBuffers = sync.Pool{New: func() any { return new(copyBuffer) }}

// copyThrough copies by Write, whatever else dst can do.
func copyThrough(dst io.Writer, src io.Reader) (int64, error) {
	buf := copyBuffers.Get().(*copyBuffer)
	defer copyBuffers.Put(buf)
	return io.CopyBuffer(struct{ io.Writer }{dst}, struct{ io.Reader }{src}, buf[:])
}
