package traffic

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

const stallTime = 2 * time.Minute

// TestClientThatTakesNothing loses its connection or stream after the stall time and before twice that, however the server
// writes; the handler ends.
func TestClientThatTakesNothing(t *testing.T) {
	path, _ := testFile(t, 8<<20) // more than an HTTP/2 client's window
	writes := map[string]func(c *Control, w http.ResponseWriter, r *http.Request) error{
		"a file": func(c *Control, w http.ResponseWriter, r *http.Request) error {
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			defer f.Close() //nolint:errcheck // only read
			_, err = io.Copy(c.Writer(w), f)
			return err
		},
		"large writes": func(c *Control, w http.ResponseWriter, r *http.Request) error {
			_, err := c.Writer(w).Write(make([]byte, 8<<20))
			return err
		},
		"small writes": func(c *Control, w http.ResponseWriter, r *http.Request) error {
			out := c.Writer(w)
			for range 8 << 10 {
				if _, err := out.Write(make([]byte, 1<<10)); err != nil {
					return err
				}
				if err := http.NewResponseController(out).Flush(); err != nil {
					return err
				}
			}
			return nil
		},
	}
	for _, proto := range protocols {
		for name, write := range writes {
			t.Run(proto.name+", "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c, inner := New(Limits{Stall: stallTime}), newPipes()
					type end struct {
						err  error
						took time.Duration
					}
					ended := make(chan end, 1)
					ts := start(t, c, inner, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						begin := time.Now()
						err := write(c, w, r)
						ended <- end{err, time.Since(begin)}
					}), proto.options...)
					defer ts.Close()
					tr := ts.Client().Transport.(*http.Transport)
					var client net.Conn
					tr.DialContext = func(context.Context, string, string) (nc net.Conn, err error) {
						client, err = inner.dial("192.0.2.7")
						return client, err
					}
					resp, err := ts.Client().Get(ts.URL)
					if err != nil {
						t.Fatal(err)
					}
					defer resp.Body.Close() //nolint:errcheck // never read
					if e := <-ended; e.err == nil || e.took < stallTime || e.took > 2*stallTime+stallTime/4 {
						t.Errorf("the handler's write ended after %s with %v", e.took, e.err)
					}
					if n := c.Stats().Stalled; n != 1 {
						t.Errorf("%d stalls were counted", n)
					}
					client.Close() //nolint:errcheck // before TLS says good-bye into a pipe that nobody reads
				})
			})
		}
	}
}

// trickle reads a little at a time with long waits.
type trickle struct {
	net.Conn
	piece int
	wait  time.Duration
}

func (c *trickle) Read(p []byte) (int, error) {
	time.Sleep(c.wait)
	return c.Conn.Read(p[:min(len(p), c.piece)])
}

// TestClientThatIsSlow keeps its connection as long as it takes something within each stall time.
func TestClientThatIsSlow(t *testing.T) {
	const size = 40_000
	path, content := testFile(t, size)
	for _, proto := range protocols[:2] {
		t.Run(proto.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, inner := New(Limits{Stall: stallTime}), newPipes()
				ts := start(t, c, inner, serveFile(t, c, path), proto.options...)
				defer ts.Close()
				nc, err := inner.dial("192.0.2.7")
				if err != nil {
					t.Fatal(err)
				}
				if proto.options != nil {
					// The handshake is at full speed: net/http bounds it, as a whole.
					nc = newTLSClient(t, ts, nc, 100, stallTime-time.Second)
				} else {
					nc = &trickle{nc, 100, stallTime - time.Second}
				}
				begin := time.Now()
				if _, err := io.WriteString(nc, "GET / HTTP/1.0\r\n\r\n"); err != nil {
					t.Fatal(err)
				}
				answer, err := io.ReadAll(nc)
				if err != nil || !bytes.HasSuffix(answer, content) {
					t.Errorf("%d bytes, %v", len(answer), err)
				}
				if took := time.Since(begin); took < 10*stallTime {
					t.Errorf("the client was not slow: %s", took)
				}
				if n := c.Stats().Stalled; n != 0 {
					t.Errorf("%d stalls were counted", n)
				}
				nc.Close() //nolint:errcheck // only a test's
			})
		})
	}
}

// copying is a connection whose ReadFrom copies, as net's does for a file that the kernel cannot send: when a deadline passes,
// more was read than written.
type copying struct{ net.Conn }

func (c copying) ReadFrom(r io.Reader) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{c.Conn}, struct{ io.Reader }{r}, make([]byte, 1000))
}

// TestSlowClientLosesNoByte: after a deadline in the middle of a file, it goes on with the byte after the last that was taken.
func TestSlowClientLosesNoByte(t *testing.T) {
	const size = 20_000
	path, content := testFile(t, size)
	for _, limited := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			inner := newPipes()
			l := newListener(inner, New(Limits{Stall: stallTime}))
			client, server := net.Pipe()
			nc := newConn(copying{server}, l)
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.Seek(500, io.SeekStart); err != nil {
				t.Fatal(err)
			}
			var src io.Reader = f
			want := content[500:]
			if limited {
				src, want = io.LimitReader(f, size-700), content[500:size-200]
			}
			got := make(chan []byte)
			go func() {
				all, _ := io.ReadAll(&trickle{client, 70, stallTime * 3 / 4}) //nolint:errcheck // compared below
				got <- all
			}()
			n, err := nc.ReadFrom(src)
			if err != nil || n != int64(len(want)) {
				t.Errorf("sent %d bytes of %d, %v", n, len(want), err)
			}
			if err := errors.Join(nc.Close(), f.Close(), l.Close()); err != nil {
				t.Error(err)
			}
			if all := <-got; !bytes.Equal(all, want) {
				t.Errorf("%d bytes arrived, changed or not all of %d", len(all), len(want))
			}
		})
	}
}

// TestStallTimeDoesNotHitTheNextRequest: neither a pause between requests nor one within a handler, each longer than the stall
// time, is the client's fault.
func TestStallTimeDoesNotHitTheNextRequest(t *testing.T) {
	for _, proto := range protocols {
		t.Run(proto.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, inner := New(Limits{Stall: stallTime}), newPipes()
				ts := start(t, c, inner, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					out := c.Writer(w)
					for range 3 {
						if _, err := out.Write(make([]byte, 100_000)); err != nil {
							t.Error(err)
						}
						out.Flush()
						time.Sleep(5 * stallTime)
					}
				}), proto.options...)
				defer ts.Close()
				tr := ts.Client().Transport.(*http.Transport)
				tr.DialContext = inner.transport(t, "192.0.2.7").DialContext
				for range 3 {
					if n := len(get(t, ts, proto.major)); n != 300_000 {
						t.Errorf("%d bytes, want 300000", n)
					}
					time.Sleep(5 * stallTime)
				}
				if s := c.Stats(); s.Stalled != 0 || s.Accepted != 1 {
					t.Errorf("stats %+v; want one connection and no stall", s)
				}
				tr.CloseIdleConnections()
			})
		})
	}
}

// TestServersDeadlineHolds: a deadline that the server sets is earlier or later than the stall time, and is obeyed.
func TestServersDeadlineHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := newPipes()
		l := newListener(inner, New(Limits{Stall: stallTime}))
		defer l.Close() //nolint:errcheck // only a test's
		client, server := net.Pipe()
		nc := newConn(server, l)
		go func() {
			one := make([]byte, 1)
			for range 3 {
				client.Read(one) //nolint:errcheck // only takes
			}
		}()
		begin := time.Now()
		if err := nc.SetDeadline(begin.Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		n, err := nc.Write(make([]byte, 100))
		if took := time.Since(begin); n != 3 || !errors.Is(err, os.ErrDeadlineExceeded) || took != 5*time.Second {
			t.Errorf("wrote %d, %v, after %s; want 3, a passed deadline, after 5s", n, err, took)
		}
		if _, err := nc.Write([]byte{1}); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a write after the deadline: %v", err)
		}
		if err := nc.SetDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		begin = time.Now()
		n, err = nc.Write(make([]byte, 100))
		if took := time.Since(begin); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) || took < stallTime || took > 2*stallTime {
			t.Errorf("wrote %d, %v, after %s; want a stall", n, err, took)
		}
	})
}

// TestStallOverTCP is the same with a real connection and sendfile: the handler ends, when does not matter.
func TestStallOverTCP(t *testing.T) {
	path, _ := testFile(t, 1<<20)
	c, w := New(Limits{Stall: 200 * time.Millisecond}), newWitness(t)
	ended := make(chan error, 1)
	ts := start(t, c, w, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var err error
		for err == nil { // until the connection's buffers are full
			var f *os.File
			if f, err = os.Open(path); err == nil {
				w.Header().Set("Content-Length", "1000000000000")
				_, err = io.Copy(c.Writer(w), f)
				f.Close() //nolint:errcheck // only read
			}
		}
		ended <- err
	}))
	defer ts.Close()
	client, err := net.Dial("tcp", w.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close() //nolint:errcheck // only a test's
	if _, err := io.WriteString(client, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the handler's write ended with %v", err)
	}
	if n := c.Stats().Stalled; n != 1 {
		t.Errorf("%d stalls were counted", n)
	}
}
