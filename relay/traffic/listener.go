package traffic

import (
	"errors"
	"net"
	"sync"
	"syscall"
	"time"
)

// listener hands out connections that have a place. One goroutine accepts all the time, so that the kernel's queue is never
// full of one client's connections.
type listener struct {
	net.Listener
	control *Control
	done    chan struct{} // closed by Close

	// Under the lock of the places.
	ready  []*conn // that have a place and wait for Accept
	wake   *sync.Cond
	closed bool
	err    error // why nothing more comes
}

func newListener(inner net.Listener, c *Control) *listener {
	l := &listener{Listener: inner, control: c, done: make(chan struct{}), wake: sync.NewCond(&c.places.mu)}
	go l.pump()
	return l
}

// Accept waits for a connection that has a place.
func (l *listener) Accept() (net.Conn, error) {
	mu := &l.control.places.mu
	mu.Lock()
	defer mu.Unlock()
	for len(l.ready) == 0 {
		if l.err != nil {
			return nil, l.err
		}
		l.wake.Wait()
	}
	c := l.ready[0]
	l.ready[0] = nil
	l.ready = l.ready[1:]
	return c, nil
}

// Close ends the listener and closes the connections that wait for a place.
func (l *listener) Close() error {
	mu := &l.control.places.mu
	mu.Lock()
	if l.closed {
		mu.Unlock()
		return l.fail(net.ErrClosed)
	}
	l.closed = true
	mu.Unlock()
	close(l.done)
	err := l.Listener.Close()
	l.end(l.fail(net.ErrClosed))
	l.control.places.forget(l)
	return err
}

func (l *listener) fail(err error) error {
	return &net.OpError{Op: "accept", Net: l.Addr().Network(), Addr: l.Addr(), Err: err}
}

func (l *listener) end(err error) {
	mu := &l.control.places.mu
	mu.Lock()
	defer mu.Unlock()
	if l.err == nil {
		l.err = err
	}
	l.wake.Broadcast()
}

// Waits between attempts when the system has no file descriptor or no memory for a connection.
const (
	firstBackoff = 5 * time.Millisecond
	lastBackoff  = time.Second
)

func (l *listener) pump() {
	backoff := firstBackoff
	for {
		inner, err := l.Listener.Accept()
		if err == nil {
			backoff = firstBackoff
			l.control.places.arrive(newConn(inner, l))
			continue
		}
		if !passing(err) {
			l.end(err)
			return
		}
		l.control.places.shed()
		select {
		case <-time.After(backoff):
			backoff = min(2*backoff, lastBackoff)
		case <-l.done:
			return
		}
	}
}

// passing tells whether the next accept may succeed. Linux reports errors of the new connection and of the network by accept
// (accept(2)), and a lack of file descriptors or memory passes: only an error of the listening socket itself is for good.
func passing(err error) bool {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return false
	}
	switch errno {
	case syscall.EBADF, syscall.EINVAL, syscall.ENOTSOCK, syscall.EFAULT:
		return false
	}
	return true
}
