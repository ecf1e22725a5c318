package media

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/plimsoll/plimsoll/internal/progress"
)

// tripper is a registry without a network, so that time can be virtual.
type tripper func(*http.Request) (*http.Response, error)

func (f tripper) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		defer r.Body.Close() //nolint:errcheck // as a transport must
	}
	return f(r)
}

func status(r *http.Request, code int, header ...string) (*http.Response, error) {
	resp := &http.Response{StatusCode: code, Request: r, Header: make(http.Header), Body: http.NoBody}
	for i := 0; i < len(header); i += 2 {
		resp.Header.Set(header[i], header[i+1])
	}
	return resp, nil
}

func request(t *testing.T, method string, body io.Reader) *http.Request {
	return must(http.NewRequestWithContext(t.Context(), method, "http://registry.example.com/v2/", body))(t)
}

var errReset = &net.OpError{Op: "read", Err: syscall.ECONNRESET}

func TestPatience(t *testing.T) {
	down := func(*http.Request) (*http.Response, error) { return nil, errReset }
	answers := func(code int, header ...string) tripper {
		return func(r *http.Request) (*http.Response, error) { return status(r, code, header...) }
	}
	for name, tt := range map[string]struct {
		answer   tripper
		reached  bool
		patience time.Duration
		waited   time.Duration // -1: no patience, the answer is passed on
	}{
		"down":                        {down, true, time.Hour, time.Hour},
		"never reached":               {down, false, time.Hour, firstContact},
		"never reached, impatient":    {down, false, time.Second, time.Second},
		"no patience":                 {down, true, -1, 0},
		"busy":                        {answers(503), true, time.Minute, time.Minute},
		"too many":                    {answers(429), true, time.Minute, time.Minute},
		"it asks for 30 s":            {answers(429, "Retry-After", "30"), true, time.Minute, time.Minute},
		"it asks for more than there": {answers(503, "Retry-After", "61"), true, time.Minute, 0},
		"it asks for a year":          {answers(503, "Retry-After", "31536000"), true, time.Minute, 0},
		"it asks for nonsense":        {answers(503, "Retry-After", "-1"), true, time.Minute, time.Minute},
		"unauthorized":                {answers(401), true, time.Hour, -1},
		"forbidden":                   {answers(403), true, time.Hour, -1},
		"not found":                   {answers(404), true, time.Hour, -1},
		"bad request":                 {answers(400), true, time.Hour, -1},
		"not implemented":             {answers(501), true, time.Hour, -1},
	} {
		synctest.Test(t, func(t *testing.T) {
			tr := &transport{next: tt.answer, link: &link{patience: tt.patience}, stall: time.Minute}
			tr.link.reached.Store(tt.reached)
			start := time.Now()
			resp, err := tr.RoundTrip(request(t, http.MethodGet, nil))
			var gaveUp *GaveUpError
			waited := time.Since(start)
			switch {
			case tt.waited < 0:
				if err != nil || waited != 0 {
					t.Errorf("%s: %v after %v", name, err, waited)
				}
			case !errors.As(err, &gaveUp) || waited != tt.waited || gaveUp.After != waited:
				t.Errorf("%s: %v after %v", name, err, waited)
			}
			if resp != nil {
				_ = resp.Body.Close()
			}
		})
	}
}

// TestPatienceIsRewarded sends the body again, waits as it is told, and says so.
func TestPatienceIsRewarded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var bodies []string
		var at []time.Duration
		var said []string
		start := time.Now()
		next := tripper(func(r *http.Request) (*http.Response, error) {
			at = append(at, time.Since(start))
			bodies = append(bodies, string(must(io.ReadAll(r.Body))(t)))
			switch len(bodies) {
			case 1, 2, 3:
				return nil, errReset
			case 4:
				return status(r, 503, "Retry-After", time.Now().Add(40*time.Second).UTC().Format(http.TimeFormat))
			}
			return status(r, 201)
		})
		l := &link{name: "registry.example.com", patience: 2 * time.Minute, progress: func(e progress.Event) {
			said = append(said, e.Stage+" "+e.Name+" "+e.Note)
		}}
		l.reached.Store(true)
		tr := &transport{next: next, link: l, stall: time.Minute}
		resp := must(tr.RoundTrip(request(t, http.MethodPut, strings.NewReader("manifest"))))(t)
		if resp.StatusCode != 201 || strings.Join(bodies, " ") != "manifest manifest manifest manifest manifest" {
			t.Errorf("%d, %q", resp.StatusCode, bodies)
		}
		want := []time.Duration{0, 200 * time.Millisecond, 600 * time.Millisecond, 1400 * time.Millisecond}
		for i, d := range want {
			if at[i] != d {
				t.Errorf("attempt %d at %v, want %v", i, at[i], d)
			}
		}
		if wait := at[4] - at[3]; wait < 39*time.Second || wait > 40*time.Second {
			t.Errorf("waited %v, asked were 40 s", wait)
		}
		if len(said) != 1 || said[0] != "wait registry.example.com link is down, trying again for another 1m59s" {
			t.Errorf("said %q", said)
		}
		if err := resp.Body.Close(); err != nil {
			t.Error(err)
		}
	})
	synctest.Test(t, func(t *testing.T) { // however many wait, they say it together
		n := 0
		var mu sync.Mutex
		l := &link{patience: time.Minute, progress: func(progress.Event) { mu.Lock(); n++; mu.Unlock() }}
		l.reached.Store(true)
		tr := &transport{next: tripper(func(r *http.Request) (*http.Response, error) { return status(r, 503) }), link: l, stall: time.Minute}
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				var busy *errcode.ErrorResponse
				if _, err := tr.RoundTrip(request(t, http.MethodGet, nil)); !errors.As(err, &busy) || busy.StatusCode != 503 {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n != 4 {
			t.Errorf("said %d times in a minute, want 4", n)
		}
	})
}

func TestPatienceEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		l := &link{patience: time.Hour}
		l.reached.Store(true)
		tr := &transport{next: tripper(func(*http.Request) (*http.Response, error) { return nil, errReset }), link: l, stall: time.Minute}
		start := time.Now()
		if _, err := tr.RoundTrip(request(t, http.MethodGet, nil).WithContext(ctx)); err == nil || time.Since(start) != time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

// hanging gives nothing until its context ends.
type hanging struct{ ctx context.Context }

func (h hanging) Read([]byte) (int, error) { <-h.ctx.Done(); return 0, h.ctx.Err() }
func (h hanging) Close() error             { return nil }

func TestStalls(t *testing.T) {
	silent := func(r *http.Request) (*http.Response, error) { <-r.Context().Done(); return nil, r.Context().Err() }
	for name, tt := range map[string]struct {
		method string
		next   tripper
		body   bool
		after  time.Duration
	}{
		"no answer":        {http.MethodGet, silent, false, time.Second},
		"no answer to PUT": {http.MethodPut, silent, false, headerTimeout},
		"does not read":    {http.MethodPut, silent, true, time.Second},
		"reads, no answer": {http.MethodPatch, func(r *http.Request) (*http.Response, error) {
			_, _ = io.Copy(io.Discard, r.Body)
			return silent(r)
		}, true, time.Second},
		"half an answer": {http.MethodGet, func(r *http.Request) (*http.Response, error) {
			resp, err := status(r, 200)
			resp.Body = hanging{r.Context()}
			return resp, err
		}, false, time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			tr := &transport{next: tt.next, link: &link{}, stall: time.Second}
			var body io.Reader
			if tt.body {
				body = bytes.NewReader(make([]byte, 100))
			}
			start := time.Now()
			resp, err := tr.send(request(t, tt.method, body))
			if err == nil {
				_, err = resp.Body.Read(make([]byte, 1))
			}
			if !errors.Is(err, errStalled) || time.Since(start) != tt.after {
				t.Errorf("%s: %v after %v", name, err, time.Since(start))
			}
		})
	}
	// A source that thinks for long is not the registry's fault.
	synctest.Test(t, func(t *testing.T) {
		tr := &transport{next: tripper(func(r *http.Request) (*http.Response, error) {
			_, _ = io.Copy(io.Discard, r.Body)
			return status(r, 201)
		}), link: &link{}, stall: time.Second}
		slow := readerFunc(func([]byte) (int, error) { time.Sleep(time.Hour); return 0, io.EOF })
		if _, err := tr.send(request(t, http.MethodPatch, slow)); err != nil {
			t.Error(err)
		}
	})
}

// TestRate moves bytes both ways with several workers, which share it.
func TestRate(t *testing.T) {
	const rate, each, workers = 1_000_000, 2_500_000, 4
	for _, method := range []string{http.MethodGet, http.MethodPatch} {
		synctest.Test(t, func(t *testing.T) {
			var mu sync.Mutex
			var seconds [64]int64 // bytes in each
			start := time.Now()
			count := func(n int) {
				mu.Lock()
				defer mu.Unlock()
				seconds[int(time.Since(start)/time.Second)] += int64(n)
			}
			tr := &transport{next: tripper(func(r *http.Request) (*http.Response, error) {
				resp, err := status(r, 200)
				if r.Body != nil {
					buf := make([]byte, 32<<10)
					for {
						n, err := r.Body.Read(buf)
						count(n)
						if err != nil {
							break
						}
					}
				} else {
					resp.Body = io.NopCloser(bytes.NewReader(make([]byte, each)))
				}
				return resp, err
			}), link: &link{}, bucket: newBucket(rate), stall: time.Minute}
			var wg sync.WaitGroup
			for range workers {
				wg.Go(func() {
					var body io.Reader
					if method == http.MethodPatch {
						body = bytes.NewReader(make([]byte, each))
					}
					resp := must(tr.RoundTrip(request(t, method, body)))(t)
					buf := make([]byte, 1<<20)
					for {
						n, err := resp.Body.Read(buf)
						count(n)
						if err != nil {
							break
						}
					}
					_ = resp.Body.Close()
				})
			}
			wg.Wait()
			want := float64(workers*each) / rate
			if took := time.Since(start).Seconds(); math.Abs(took-want) > want/20 {
				t.Errorf("%s: %d bytes in %.2f s, want %.2f", method, workers*each, took, want)
			}
			for i, n := range seconds {
				if n > rate*105/100 {
					t.Errorf("%s: %d bytes in second %d", method, n, i)
				}
			}
		})
	}
	if newBucket(0) != nil || newBucket(-1) != nil || newBucket(1).Burst() != 1 || newBucket(math.MaxInt64).Burst() < 1<<20 {
		t.Error("bounds")
	}
}
