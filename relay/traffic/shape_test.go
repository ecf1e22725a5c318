package traffic

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// endless is a source of any number of zeros.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func request(t testing.TB, ctx context.Context, client string) *http.Request {
	return httptest.NewRequestWithContext(WithClient(ctx, client), http.MethodGet, "/", nil)
}

// send lets a client receive over several connections until the time is over, and returns what it got.
func send(t *testing.T, c *Control, wg *sync.WaitGroup, ctx context.Context, client string, connections int) *[]int64 {
	got := make([]int64, connections)
	for i := range got {
		wg.Go(func() {
			w := &sink{}
			out, leave, err := c.Blobs(c.Writer(w), request(t, ctx, client))
			if err != nil {
				t.Error(err)
				return
			}
			defer leave()
			_, err = io.Copy(out, io.LimitReader(endless{}, math.MaxInt64))
			if err != context.DeadlineExceeded {
				t.Errorf("the copy ended with %v", err)
			}
			got[i] = w.bytes
		})
	}
	return &got
}

func sum(all ...*[]int64) (n int64) {
	for _, got := range all {
		for _, g := range *got {
			n += g
		}
	}
	return n
}

// within fails the test if got is not within 5 % of want.
func within(t *testing.T, what string, got, want float64) {
	t.Helper()
	if off := math.Abs(got-want) / want; off > 0.05 {
		t.Errorf("%s: %.0f, want %.0f: off by %.1f %%", what, got, want, 100*off)
	}
}

const measured = 5 * time.Second

func TestRateOfAll(t *testing.T) {
	for _, rate := range []int64{100e3, 1e6, 12.5e6, 125e6} {
		for _, clients := range []int{1, 3, 50} {
			t.Run(fmt.Sprintf("%d bytes per second, %d clients", rate, clients), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c := New(Limits{Rate: rate})
					ctx, cancel := context.WithTimeout(t.Context(), measured)
					defer cancel()
					var wg sync.WaitGroup
					var all []*[]int64
					for i := range clients {
						all = append(all, send(t, c, &wg, ctx, fmt.Sprint("robot-", i), 1+i%3))
					}
					wg.Wait()
					within(t, "bytes per second", float64(sum(all...))/measured.Seconds(), float64(rate))
				})
			})
		}
	}
}

func TestRateOfAClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Limits{ClientRate: 2e6})
		ctx, cancel := context.WithTimeout(t.Context(), measured)
		defer cancel()
		var wg sync.WaitGroup
		one, ten := send(t, c, &wg, ctx, "one", 1), send(t, c, &wg, ctx, "ten", 10)
		wg.Wait()
		within(t, "a client with one connection", float64(sum(one))/measured.Seconds(), 2e6)
		within(t, "a client with ten", float64(sum(ten))/measured.Seconds(), 2e6)
	})
}

// TestFairShare: connections do not count, clients do; and what a client may not use is the others'.
func TestFairShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Limits{Rate: 10e6})
		ctx, cancel := context.WithTimeout(t.Context(), measured)
		defer cancel()
		var wg sync.WaitGroup
		one, ten := send(t, c, &wg, ctx, "one", 1), send(t, c, &wg, ctx, "ten", 10)
		wg.Wait()
		within(t, "a client with one connection", float64(sum(one))/measured.Seconds(), 5e6)
		within(t, "a client with ten", float64(sum(ten))/measured.Seconds(), 5e6)
		for i, got := range *ten {
			// What a rate saved up before anybody competed is one connection's.
			if bps := float64(got) / measured.Seconds(); bps < 0.9*5e5 {
				t.Errorf("its connection %d got %.0f bytes per second, want about 500000", i, bps)
			}
		}
	})
	synctest.Test(t, func(t *testing.T) {
		c := New(Limits{Rate: 10e6, ClientRate: 8e6})
		ctx, cancel := context.WithTimeout(t.Context(), measured)
		defer cancel()
		var wg sync.WaitGroup
		alone := send(t, c, &wg, ctx, "alone", 2)
		wg.Wait()
		within(t, "a client that is alone", float64(sum(alone))/measured.Seconds(), 8e6)
	})
}

// TestSmallRequestsDoNotEscapeARate: many responses, each smaller than a grant, one after the other.
func TestSmallRequestsDoNotEscapeARate(t *testing.T) {
	for _, l := range []Limits{{Rate: 1e6}, {ClientRate: 1e6}, {Rate: 1e6, ClientRate: 1e6}} {
		synctest.Test(t, func(t *testing.T) {
			c := New(l)
			w := &sink{}
			begin := time.Now()
			for time.Since(begin) < measured {
				out, leave := c.Shape(w, request(t, t.Context(), "a"))
				if _, err := out.Write(make([]byte, 700)); err != nil {
					t.Fatal(err)
				}
				leave()
				leave() // does nothing
			}
			within(t, "bytes per second", float64(w.bytes)/time.Since(begin).Seconds(), 1e6)
			time.Sleep(time.Minute)
			synctest.Wait()
			if n := len(c.shaper.clients); n != 0 {
				t.Errorf("%d allowances are kept of clients that are gone", n)
			}
		})
	}
}

// TestCancelledGrantsComeBack: requests that go away while they wait for their turn use nothing up.
func TestCancelledGrantsComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Limits{Rate: 1e6})
		ctx, cancel := context.WithTimeout(t.Context(), measured)
		defer cancel()
		var wg sync.WaitGroup
		stays := send(t, c, &wg, ctx, "stays", 1)
		wg.Go(func() {
			for ctx.Err() == nil {
				gone, cancel := context.WithTimeout(ctx, time.Millisecond)
				out, leave := c.Shape(&sink{}, request(t, gone, "goes"))
				out.Write(make([]byte, 1)) //nolint:errcheck // gone or not
				cancel()
				leave()
			}
		})
		wg.Wait()
		within(t, "bytes per second", float64(sum(stays))/measured.Seconds(), 1e6)
		if c.shaper.line.waiting != 0 {
			t.Errorf("%d turns are left over", c.shaper.line.waiting)
		}
	})
}

// TestGrantThatComesTooLateIsGivenBack: the turn comes at the moment when the request goes away.
func TestGrantThatComesTooLateIsGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShaper(1e6, 1e6)
		a := s.join("a")
		now := time.Now()
		s.total.wait(now)
		a.bucket.wait(now)
		all, own := s.total.free, a.bucket.free
		a.bucket.take(s.grant)
		it := s.line.push("a", &turn{bytes: s.grant, called: make(chan struct{})})
		s.call()
		if <-it.value.called; !s.total.free.After(all) || !a.bucket.free.After(own) {
			t.Error("a grant cost nothing")
		}
		s.abandon(a, it)
		if !s.total.free.Equal(all) || !a.bucket.free.Equal(own) {
			t.Errorf("the rates have %s and %s less than before", s.total.free.Sub(all), a.bucket.free.Sub(own))
		}
		s.leave("a", a, 0)
	})
}

// TestAllowanceIsOne for all requests of a client, as long as one uses it or it is not full.
func TestAllowanceIsOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Limits{ClientRate: 1e6})
		shape := func() (*shaped, func()) {
			out, leave := c.Shape(&sink{}, request(t, t.Context(), "a"))
			return out.(*shaped), leave
		}
		first, leaveFirst := shape()
		second, leaveSecond := shape()
		leaveSecond()
		leaveSecond() // does nothing
		time.Sleep(time.Minute)
		third, leaveThird := shape()
		if first.allowance != second.allowance || first.allowance != third.allowance {
			t.Error("requests of one client have several allowances")
		}
		if _, err := third.Write(make([]byte, 1e5)); err != nil {
			t.Fatal(err)
		}
		leaveThird()
		leaveFirst()
		fourth, leaveFourth := shape()
		if first.allowance != fourth.allowance {
			t.Error("an allowance was forgotten before it was full")
		}
		leaveFourth()
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(c.shaper.clients); n != 0 {
			t.Errorf("%d allowances are kept", n)
		}
	})
}

// TestRateOverConnections is the whole way: a server with its listener, over pipes, HTTP/1.1 with and without TLS and HTTP/2.
func TestRateOverConnections(t *testing.T) {
	const rate, size = 2e6, 8e6
	path, content := testFile(t, size)
	for _, proto := range protocols {
		t.Run(proto.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, inner := New(Limits{Rate: rate}), newPipes()
				ts := start(t, c, inner, serveFile(t, c, path), proto.options...)
				defer ts.Close()
				tr := ts.Client().Transport.(*http.Transport)
				tr.DialContext = inner.transport(t, "192.0.2.7").DialContext
				begin := time.Now()
				got := get(t, ts, proto.major)
				if !bytes.Equal(got, content) {
					t.Error("the blob arrived changed")
				}
				within(t, "bytes per second", size/time.Since(begin).Seconds(), rate)
				tr.CloseIdleConnections()
			})
		})
	}
}

var protocols = []struct {
	name    string
	major   int
	options []func(*httptest.Server)
}{
	{"HTTP/1.1", 1, nil},
	{"HTTP/1.1 over TLS", 1, []func(*httptest.Server){withTLS}},
	{"HTTP/2", 2, []func(*httptest.Server){withHTTP2}},
}

func serveFile(t testing.TB, c *Control, path string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f, err := os.Open(path)
		if err != nil {
			t.Error(err)
			return
		}
		defer f.Close() //nolint:errcheck // only read
		out, leave, err := c.Blobs(c.Writer(w), r)
		if err != nil {
			return
		}
		defer leave()
		out.Header().Set("Content-Type", "application/octet-stream")
		http.ServeContent(out, r, "", time.Time{}, f)
	})
}

func get(t *testing.T, ts *httptest.Server, major int) []byte {
	t.Helper()
	resp, err := ts.Client().Get(ts.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	if resp.ProtoMajor != major {
		t.Fatalf("the answer came over HTTP/%d", resp.ProtoMajor)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return body
}
