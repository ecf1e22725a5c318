package traffic

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
)

// TestWriterCounts what a handler sent, over each protocol.
func TestWriterCounts(t *testing.T) {
	path, content := testFile(t, 100_000)
	c := New(Limits{})
	tests := []struct {
		name    string
		handler http.HandlerFunc
		status  int
		bytes   int64
	}{
		{"nothing", func(http.ResponseWriter, *http.Request) {}, 200, 0},
		{"a status", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }, 404, 0},
		{"a status after information", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(103); w.WriteHeader(201) }, 201, 0},
		{"the first of two statuses", func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, "x") //nolint:errcheck // counted
			w.WriteHeader(500)
		}, 200, 1},
		{"no body where none is allowed", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(304)
			if _, err := io.WriteString(w, "body"); !errors.Is(err, http.ErrBodyNotAllowed) {
				t.Errorf("wrote to a 304: %v", err)
			}
		}, 304, 0},
		{"writes", func(w http.ResponseWriter, _ *http.Request) {
			for range 10 {
				w.Write(make([]byte, 70_000)) //nolint:errcheck // counted
			}
		}, 200, 700_000},
		{"a copy", func(w http.ResponseWriter, _ *http.Request) {
			io.Copy(w, strings.NewReader("hello")) //nolint:errcheck // counted
		}, 200, 5},
		{"a file", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, path) }, 200, int64(len(content))},
		{"a range", func(w http.ResponseWriter, r *http.Request) {
			r.Header.Set("Range", "bytes=-1000")
			http.ServeFile(w, r, path)
		}, 206, 1000},
		{"flushes", func(w http.ResponseWriter, _ *http.Request) {
			w.(http.Flusher).Flush()
			if err := http.NewResponseController(w).Flush(); err != nil {
				t.Error(err)
			}
			io.WriteString(w, "x") //nolint:errcheck // counted
		}, 200, 1},
		{"an abort", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(202)
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}, 202, 0},
	}
	for _, proto := range protocols {
		for _, shaped := range []bool{false, true} {
			if c = New(Limits{}); shaped {
				c = New(Limits{ClientRate: 1 << 40})
			}
			for _, test := range tests {
				t.Run(proto.name+", "+test.name, func(t *testing.T) {
					got := make(chan *Writer, 1)
					ts := start(t, c, nil, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						counted := c.Writer(w)
						defer func() { got <- counted }()
						out, leave := c.Shape(counted, r)
						defer leave()
						test.handler(out, r)
					}), proto.options...)
					defer ts.Close()
					resp, err := ts.Client().Get(ts.URL)
					if err != nil {
						t.Fatal(err)
					}
					body, err := io.ReadAll(resp.Body)
					w := <-got
					if w.Status() != test.status || resp.StatusCode != test.status || w.Bytes() != test.bytes || int64(len(body)) != test.bytes {
						t.Errorf("counted %d, %d bytes; the client saw %d, %d bytes; want %d, %d", w.Status(), w.Bytes(), resp.StatusCode, len(body), test.status, test.bytes)
					}
					if aborted := test.name == "an abort"; aborted != (err != nil) {
						t.Errorf("the client read %v", err)
					}
					resp.Body.Close() //nolint:errcheck // only read
				})
			}
		}
	}
}

// TestBlobsQueue: blob requests beyond the bound wait, each client's in turn, and none is refused; one whose client goes away
// is forgotten.
func TestBlobsQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Limits{Blobs: 2, ClientBlobs: 1})
		type entry struct {
			leave func()
			err   error
		}
		enter := func(ctx context.Context, client string) chan entry {
			in := make(chan entry, 1)
			go func() {
				w := &sink{}
				out, leave, err := c.Blobs(w, request(t, ctx, client))
				if err == nil && out != http.ResponseWriter(w) {
					t.Error("without rates a writer was put between")
				}
				in <- entry{leave, err}
			}()
			synctest.Wait()
			return in
		}
		a1, a2, b1, c1 := enter(t.Context(), "a"), enter(t.Context(), "a"), enter(t.Context(), "b"), enter(t.Context(), "c")
		gone, cancel := context.WithCancel(t.Context())
		b2 := enter(gone, "b")
		if s := c.Stats().Blobs; s.Running != 2 || s.Waiting != 3 || len(a1) != 1 || len(b1) != 1 {
			t.Errorf("stats: %+v; want the first of a and of b to run", s)
		}
		cancel()
		if e := <-b2; !errors.Is(e.err, context.Canceled) {
			t.Errorf("a client that went away: %v", e.err)
		}
		(<-b1).leave()
		(<-c1).leave()
		synctest.Wait()
		if s := c.Stats().Blobs; s.Running != 1 || s.Waiting != 1 {
			t.Errorf("stats: %+v; want a's second to wait for its first", s)
		}
		(<-a1).leave()
		(<-a2).leave()
		if s := c.Stats().Blobs; s.Running != 0 || s.Waiting != 0 {
			t.Errorf("at the end: %+v", s)
		}
	})
}

func TestBlobsIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Limits{Blobs: 1, Waiting: 1})
		ctx, cancel := context.WithCancel(t.Context())
		if _, _, err := c.Blobs(&sink{}, request(t, ctx, "a")); err != nil {
			t.Fatal(err)
		}
		go c.Blobs(&sink{}, request(t, ctx, "a")) //nolint:errcheck // waits until the end
		synctest.Wait()
		if _, _, err := c.Blobs(&sink{}, request(t, ctx, "a")); !errors.Is(err, ErrFull) {
			t.Errorf("a second that waits: %v, want ErrFull", err)
		}
		cancel()
	})
}

func TestClientOf(t *testing.T) {
	tests := []struct{ name, remote, want string }{
		{"robot-7", "192.0.2.1:4000", "robot-7"},
		{"", "192.0.2.1:4000", "\x00192.0.2.1"},
		{"", "[::ffff:192.0.2.1]:4000", "\x00192.0.2.1"},
		{"", "[2001:db8::1]:4000", "\x002001:db8::1"},
		{"", "@", "\x00@"},
	}
	for _, test := range tests {
		r := httptest.NewRequestWithContext(WithClient(t.Context(), test.name), http.MethodGet, "/", nil)
		r.RemoteAddr = test.remote
		if got := ClientOf(r); got != test.want {
			t.Errorf("%q from %s counts under %q, want %q", test.name, test.remote, got, test.want)
		}
	}
	if got := Client(t.Context()); got != "" {
		t.Errorf("a context without a client has %q", got)
	}
}
