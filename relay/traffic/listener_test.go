package traffic

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// room is a listener over pipes with somebody who accepts all that is handed out.
type room struct {
	t        *testing.T
	c        *Control
	inner    *pipes
	listener net.Listener

	mu       sync.Mutex
	accepted []net.Conn
	taken    int
	err      error
}

func newRoom(t *testing.T, l Limits) *room {
	r := &room{t: t, c: newControl(l.withDefaults()), inner: newPipes()} // pipes take no file descriptors
	r.listener = r.c.Listener(r.inner)
	go func() {
		for {
			nc, err := r.listener.Accept()
			r.mu.Lock()
			if err != nil {
				r.err = err
				r.mu.Unlock()
				return
			}
			r.accepted = append(r.accepted, nc)
			r.mu.Unlock()
		}
	}()
	return r
}

// dial makes n connections from an address.
func (r *room) dial(from string, n int) []net.Conn {
	r.t.Helper()
	clients := make([]net.Conn, n)
	for i := range clients {
		var err error
		if clients[i], err = r.inner.dial(from); err != nil {
			r.t.Fatal(err)
		}
	}
	synctest.Wait()
	return clients
}

// next is what was handed out since the last call.
func (r *room) next() []net.Conn {
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	got := r.accepted[r.taken:]
	r.taken = len(r.accepted)
	return got
}

func (r *room) close() {
	r.t.Helper()
	if err := r.listener.Close(); err != nil {
		r.t.Error(err)
	}
	synctest.Wait()
	if !errors.Is(r.err, net.ErrClosed) {
		r.t.Errorf("Accept ended with %v", r.err)
	}
	for _, nc := range r.accepted {
		nc.Close() //nolint:errcheck // again, perhaps
	}
	if s := r.c.Stats(); s.Connections != 0 || s.Parked != 0 || s.Idle != 0 || s.Addresses != 0 {
		r.t.Errorf("at the end: %+v", s)
	}
}

func from(conns []net.Conn) []string {
	var all []string
	for _, nc := range conns {
		all = append(all, nc.RemoteAddr().(*net.TCPAddr).IP.String())
	}
	return all
}

// isClosed tells whether the server closed a connection. The client must not expect any bytes.
func isClosed(nc net.Conn) bool {
	nc.SetReadDeadline(time.Now().Add(time.Nanosecond)) //nolint:errcheck // the read tells
	_, err := nc.Read(make([]byte, 1))
	return err == io.EOF
}

func closedOf(conns []net.Conn) (n int) {
	for _, nc := range conns {
		if isClosed(nc) {
			n++
		}
	}
	return n
}

const a, b, c3 = "192.0.2.10", "192.0.2.11", "2001:db8::3"

func TestPlacesGoToAddressesInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t, Limits{Connections: 2})
		defer r.close()
		r.dial(a, 5)
		r.dial(b, 2)
		r.dial(c3, 1)
		first := r.next()
		if got := from(first); !slices.Equal(got, []string{a, a}) {
			t.Fatalf("the first were %v", got)
		}
		if s := r.c.Stats(); s.Connections != 2 || s.Parked != 6 || s.Addresses != 3 {
			t.Errorf("stats: %+v", s)
		}
		var order []string
		for serving := first; len(serving) > 0; {
			if err := serving[0].Close(); err != nil {
				t.Fatal(err)
			}
			more := r.next()
			order = append(order, from(more)...)
			serving = append(serving[1:], more...)
		}
		if want := []string{a, b, c3, a, b, a}; !slices.Equal(order, want) {
			t.Errorf("places went to %v, want %v", order, want)
		}
	})
}

func TestOneAddressIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t, Limits{Connections: 100, ClientConnections: 3})
		defer r.close()
		r.dial(a, 5)
		r.dial("::ffff:"+b, 2) // the same as b
		r.dial(b, 2)
		if got, want := from(r.next()), []string{a, a, a, b, b, b}; !slices.Equal(got, want) {
			t.Errorf("served are %v, want %v", got, want)
		}
		if s := r.c.Stats(); s.Parked != 3 {
			t.Errorf("stats: %+v", s)
		}
	})
}

// TestTenThousandIdleConnections of one address keep no other from being served at once, by a real server.
func TestTenThousandIdleConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, inner := newControl(Limits{}.withDefaults()), newPipes()
		ts := start(t, c, inner, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") })) //nolint:errcheck // the client sees it
		ts.Config.ReadHeaderTimeout = 10 * time.Second
		var hostile []net.Conn
		for range 10_000 {
			nc, err := inner.dial(a)
			if err != nil {
				t.Fatal(err)
			}
			hostile = append(hostile, nc)
		}
		begin := time.Now()
		ts.Client().Transport = inner.transport(t, b)
		if body := get(t, ts, 1); string(body) != "hello" {
			t.Errorf("got %q", body)
		}
		if took := time.Since(begin); took != 0 {
			t.Errorf("another address waited %s", took)
		}
		if s := c.Stats(); s.Connections != defaultClientConnections+1 || s.Parked != 10_000-defaultClientConnections {
			t.Errorf("stats: %+v", s)
		}
		ts.Client().CloseIdleConnections()
		for _, nc := range hostile {
			nc.Close() //nolint:errcheck // only a test's
		}
		ts.Close()
	})
}

func TestParkingIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t, Limits{Connections: 1, Parked: 4})
		defer r.close()
		served := r.dial(b, 1)
		ofA := r.dial(a, 6)
		if closedOf(ofA[:4]) != 0 || closedOf(ofA[4:]) != 2 {
			t.Error("of six connections with room for four, the two newest are not the ones that were closed")
		}
		ofB := r.dial(b, 1)
		if !isClosed(ofA[3]) || closedOf(ofA[:3])+closedOf(ofB) != 0 {
			t.Error("the newest of the address that has most did not make room")
		}
		if s := r.c.Stats(); s.Parked != 4 || s.Refused != 3 || closedOf(served) != 0 {
			t.Errorf("stats: %+v", s)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t, Limits{Connections: 1, Parked: -1})
		defer r.close()
		if n := closedOf(r.dial(a, 3)); n != 2 {
			t.Errorf("%d were closed, want all but one", n)
		}
	})
}

func TestIdleConnectionsMakeRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t, Limits{Connections: 4})
		defer r.close()
		ofA, ofB := r.dial(a, 3), r.dial(b, 1)
		serving := r.next()
		for _, nc := range serving {
			r.c.ConnState(nc, http.StateActive)
		}
		r.c.ConnState(serving[3], http.StateIdle) // b's
		time.Sleep(time.Millisecond)
		r.c.ConnState(serving[1], http.StateIdle)
		time.Sleep(time.Millisecond)
		r.c.ConnState(serving[2], http.StateIdle)
		r.c.ConnState(serving[0], http.StateIdle)
		r.c.ConnState(serving[0], http.StateActive)
		if s := r.c.Stats(); s.Idle != 3 {
			t.Errorf("stats: %+v", s)
		}
		r.dial(c3, 1)
		if len(r.next()) != 0 {
			t.Fatal("a connection was closed that had not been idle for long: its next request may be on its way")
		}
		time.Sleep(2 * idleGrace)
		if got := from(r.next()); !slices.Equal(got, []string{c3}) {
			t.Fatalf("handed out: %v", got)
		}
		if !isClosed(ofA[1]) || closedOf(ofA)+closedOf(ofB) != 1 {
			t.Error("closed was not the longest idle one of the address that has most")
		}
		r.dial(c3, 1) // at once now
		if got := from(r.next()); len(got) != 1 || closedOf(ofA)+closedOf(ofB) != 2 || isClosed(ofA[0]) {
			t.Errorf("handed out: %v; want one more, for an idle one", got)
		}
		if s := r.c.Stats(); s.Evicted != 2 || s.Connections != 4 || s.Idle != 1 {
			t.Errorf("stats: %+v", s)
		}
		serving[1].Close() //nolint:errcheck // as the server does; its place is another's by now
		if s := r.c.Stats(); s.Connections != 4 {
			t.Errorf("a place was freed twice: %+v", s)
		}
	})
}

// TestIdleConnectionsMakeRoomBehindOneAddress: robots behind one address do not wait for each other's idle connections.
func TestIdleConnectionsMakeRoomBehindOneAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t, Limits{ClientConnections: 4})
		defer r.close()
		r.dial(a, 4)
		for _, nc := range r.next() {
			r.c.ConnState(nc, http.StateIdle)
		}
		r.dial(a, 3)
		if len(r.next()) != 0 {
			t.Fatal("a connection was closed that had not been idle for long")
		}
		time.Sleep(2 * idleGrace)
		if got := r.next(); len(got) != 3 {
			t.Errorf("%d were handed out, want 3", len(got))
		}
		if s := r.c.Stats(); s.Connections != 4 || s.Evicted != 3 || s.Idle != 1 {
			t.Errorf("stats: %+v", s)
		}
	})
}

// TestServerTellsOfIdleConnections: with net/http's own hooks, over each protocol.
func TestServerTellsOfIdleConnections(t *testing.T) {
	for _, proto := range protocols {
		t.Run(proto.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, inner := New(Limits{Connections: 1}), newPipes()
				ts := start(t, c, inner, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
					if s := c.Stats(); s.Idle != 0 {
						t.Errorf("within a request: %+v", s)
					}
				}), proto.options...)
				defer ts.Close()
				var roots *x509.CertPool
				if config := ts.Client().Transport.(*http.Transport).TLSClientConfig; config != nil {
					roots = config.RootCAs
				}
				for i := range 3 {
					// Each client has connections of its own, and keeps the idle one, which has to make room for the next.
					tr := inner.transport(t, fmt.Sprint("192.0.2.", i))
					tr.TLSClientConfig = &tls.Config{RootCAs: roots}
					tr.ForceAttemptHTTP2 = proto.major == 2
					defer tr.CloseIdleConnections()
					ts.Client().Transport = tr
					get(t, ts, proto.major)
					synctest.Wait()
					if s := c.Stats(); s.Connections != 1 || s.Idle != 1 || s.Evicted != uint64(i) {
						t.Errorf("after request %d: %+v", i, s)
					}
				}
			})
		})
	}
}

func TestAcceptErrorsPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t, Limits{Connections: 2})
		defer r.close()
		ofA, ofB := r.dial(a, 3), r.dial(b, 1)
		serving := r.next()
		fail := func(errno syscall.Errno) {
			r.inner.errs <- &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", errno)}
			time.Sleep(2 * lastBackoff)
		}
		fail(syscall.EMFILE)
		fail(syscall.ENFILE)
		if !isClosed(ofA[2]) || !isClosed(ofB[0]) || closedOf(ofA) != 1 {
			t.Error("not the parked connections were closed first")
		}
		r.c.ConnState(serving[0], http.StateIdle)
		fail(syscall.ENOBUFS)
		if !isClosed(ofA[0]) {
			t.Error("the idle connection was not closed")
		}
		fail(syscall.ECONNABORTED) // nothing to spare
		fail(syscall.EPERM)
		if s := r.c.Stats(); s.AcceptErrors != 5 || s.Refused != 2 || s.Evicted != 1 || s.Connections != 1 {
			t.Errorf("stats: %+v", s)
		}
		r.dial(c3, 1)
		if got := from(r.next()); !slices.Contains(got, c3) {
			t.Errorf("after the errors, %v were served", got)
		}
	})
	for _, last := range []error{net.ErrClosed, os.NewSyscallError("accept4", syscall.EBADF)} {
		synctest.Test(t, func(t *testing.T) {
			r := newRoom(t, Limits{})
			r.inner.errs <- last
			synctest.Wait()
			if !errors.Is(r.err, last) {
				t.Errorf("Accept gave %v, want %v", r.err, last)
			}
			r.listener.Close() //nolint:errcheck // stops nothing any more
		})
	}
}

func TestCloseEndsWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := newPipes()
		ctl := newControl(Limits{Connections: 2}.withDefaults())
		l, other := ctl.Listener(inner), newPipes()
		l2 := ctl.Listener(other)
		var conns []net.Conn
		for range 3 { // two are ready, one is parked
			nc, err := inner.dial(a)
			if err != nil {
				t.Fatal(err)
			}
			conns = append(conns, nc)
		}
		synctest.Wait()
		elsewhere, err := other.dial(b)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("closed twice: %v", err)
		}
		if n := closedOf(conns); n != 3 {
			t.Errorf("%d connections were closed, want 3", n)
		}
		if nc, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a closed listener gave %v, %v", nc, err)
		}
		late, server := net.Pipe() // accepted at the moment of Close
		ctl.places.arrive(newConn(server, l.(*listener)))
		if !isClosed(late) {
			t.Error("a connection that came with Close was left open")
		}
		// The other listener's connection has got a place.
		nc, err := l2.Accept()
		if err != nil || isClosed(elsewhere) {
			t.Fatal(err)
		}
		if s := ctl.Stats(); s.Connections != 1 || s.Parked != 0 {
			t.Errorf("stats: %+v", s)
		}
		if err := errors.Join(nc.Close(), l2.Close()); err != nil {
			t.Error(err)
		}
	})
}

func TestLimitsFitTheFilesOfTheProcess(t *testing.T) {
	tests := []struct {
		files       uint64
		connections int
		parked      int
	}{
		{1 << 63, 4096, 16384},
		{1 << 20, 4096, 16384},
		{20_000, 4096, 20_000 - otherFiles - 2*4096},
		{1024, 256, 256},
		{100, 1, 0},
	}
	for _, test := range tests {
		l := Limits{}.withDefaults().within(test.files)
		if l.Connections != test.connections || l.Parked != test.parked {
			t.Errorf("with %d files: %d connections, %d parked; want %d, %d", test.files, l.Connections, l.Parked, test.connections, test.parked)
		}
	}
}

// TestConnectionsKeepTheirMethods that net/http and crypto/tls look for.
func TestConnectionsKeepTheirMethods(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := New(Limits{}).Listener(inner)
	defer l.Close() //nolint:errcheck // only a test's
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close() //nolint:errcheck // only a test's
	nc, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close() //nolint:errcheck // only a test's
	if _, ok := nc.(io.ReaderFrom); !ok {
		t.Error("no ReadFrom")
	}
	if _, ok := nc.(interface{ NetConn() net.Conn }).NetConn().(*net.TCPConn); !ok {
		t.Error("the TCP connection cannot be reached")
	}
	if err := nc.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Error(err)
	}
	if _, err := client.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("after CloseWrite the client read %v", err)
	}
	if _, err := client.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	if n, err := nc.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("after CloseWrite the server read %d, %v", n, err)
	}
	pipe, other := net.Pipe()
	defer other.Close() //nolint:errcheck // only a test's
	if err := newConn(pipe, l.(*listener)).CloseWrite(); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("CloseWrite of a pipe: %v", err)
	}
}
