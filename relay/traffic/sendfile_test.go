package traffic

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"sync"
	"testing"
)

// witness is a listener whose connections note what they were asked to read from.
type witness struct {
	net.Listener
	mu    sync.Mutex
	calls []string
}

func newWitness(t testing.TB) *witness {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return &witness{Listener: l}
}

func (w *witness) Accept() (net.Conn, error) {
	c, err := w.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &witnessed{c.(*net.TCPConn), w}, nil
}

type witnessed struct {
	*net.TCPConn
	witness *witness
}

func (c *witnessed) ReadFrom(r io.Reader) (int64, error) {
	call := fmt.Sprintf("%T", r)
	before := int64(-1)
	part, ok := r.(*io.LimitedReader)
	if ok {
		call = fmt.Sprintf("%T of %T", r, part.R)
		before = part.N
	}
	n, err := c.TCPConn.ReadFrom(r)
	if ok && before-part.N != n {
		call += ", in part"
	}
	c.witness.mu.Lock()
	defer c.witness.mu.Unlock()
	c.witness.calls = append(c.witness.calls, call)
	return n, err
}

// TestFilesReachTheKernel: a blob, whole, in part and shaped, goes on to the TCP connection as part of a file, the form that
// package net gives to sendfile. Anything between that hides ReadFrom or wraps the file makes this fail.
func TestFilesReachTheKernel(t *testing.T) {
	const size = 3 << 20
	path, content := testFile(t, size)
	const want = "*io.LimitedReader of *os.File"
	tests := []struct {
		name   string
		limits Limits
		ranged string
		body   []byte
		calls  int // at most
	}{
		{"whole", Limits{}, "", content, 1},
		{"queued", Limits{Blobs: 1}, "", content, 1},
		{"a range", Limits{}, "bytes=1000-", content[1000:], 1},
		{"without a stall time", Limits{Stall: -1}, "", content, 1},
		{"shaped", Limits{Rate: 1 << 40}, "", content, size/maxGrant + 1},
		{"shaped for clients", Limits{Rate: 1 << 40, ClientRate: 1 << 40}, "bytes=1000-", content[1000:], size/maxGrant + 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c, w := New(test.limits), newWitness(t)
			ts := start(t, c, w, serveFile(t, c, path))
			defer ts.Close()
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, ts.URL, nil)
			if err != nil {
				t.Fatal(err)
			}
			if test.ranged != "" {
				req.Header.Set("Range", test.ranged)
			}
			resp, err := ts.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close() //nolint:errcheck // only read
			body, err := io.ReadAll(resp.Body)
			if err != nil || !bytes.Equal(body, test.body) {
				t.Fatalf("%d bytes, %v; want %d", len(body), err, len(test.body))
			}
			ts.Close() // after it, nothing is written
			if shaped := c.Stats().ShapedBytes; c.shaper != nil && shaped != int64(len(test.body)) {
				t.Errorf("%d bytes were sent under the rates, want %d", shaped, len(test.body))
			}
			if len(w.calls) == 0 || len(w.calls) > test.calls {
				t.Errorf("%d calls of ReadFrom: %q; want 1 to %d", len(w.calls), w.calls, test.calls)
			}
			for _, call := range w.calls {
				if call != want {
					t.Errorf("the connection was to read from %s, want %s", call, want)
				}
			}
		})
	}
}

// TestKernelSendsThePagesOfTheFile proves that no byte passes through this process. What sendfile sends are the file's own
// pages: a change of the file after the server wrote it, and before the client reads it, is seen by the client. A server
// without a Control shows first whether this kernel does so.
func TestKernelSendsThePagesOfTheFile(t *testing.T) {
	if !sharesPages(t, nil) {
		t.Skipf("sendfile on %s does not share the file's pages here", runtime.GOOS)
	}
	for _, l := range []Limits{{}, {Rate: 1 << 40}} {
		if !sharesPages(t, New(l)) {
			t.Errorf("with %+v the file was copied through the process", l)
		}
	}
}

// sharesPages sends a file, changes it and only then lets the client read.
func sharesPages(t *testing.T, c *Control) bool {
	t.Helper()
	const size = 32 << 10 // fits into the buffers of a connection
	path, content := testFile(t, size)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, path) })
	if c != nil {
		listener = c.Listener(listener)
		handler = serveFile(t, c, path).ServeHTTP
	}
	sent := make(chan struct{})
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(sent)
		handler.ServeHTTP(w, r)
	})}
	go server.Serve(listener) //nolint:errcheck // closed below
	defer server.Close()      //nolint:errcheck // only a test's
	client, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close() //nolint:errcheck // only a test's
	if _, err := io.WriteString(client, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	<-sent
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	changed := bytes.Repeat([]byte{'!'}, 100)
	_, err = f.WriteAt(changed, size-200)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(client)
	if err != nil {
		t.Fatal(err)
	}
	body := answer[max(0, len(answer)-size):]
	if !bytes.Equal(body[:size/2], content[:size/2]) {
		t.Fatal("the file arrived changed where nobody changed it")
	}
	return bytes.Equal(body[size-200:size-100], changed)
}

// TestOtherSourcesAreCopied: what is no file cannot be read twice, so it does not go to ReadFrom of the connection, where a
// deadline could pass between reading and writing.
func TestOtherSourcesAreCopied(t *testing.T) {
	sources := map[string]func(t *testing.T, content []byte) io.Reader{
		"a reader": func(_ *testing.T, content []byte) io.Reader { return struct{ io.Reader }{bytes.NewReader(content)} },
		"a pipe": func(t *testing.T, content []byte) io.Reader {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { r.Close() }) //nolint:errcheck // only a test's
			go func() {
				w.Write(content) //nolint:errcheck // the reader sees it
				w.Close()        //nolint:errcheck // the reader sees it
			}()
			return r
		},
		"a part of a reader": func(_ *testing.T, content []byte) io.Reader {
			return io.LimitReader(io.MultiReader(bytes.NewReader(content), endless{}), int64(len(content)))
		},
	}
	for name, source := range sources {
		t.Run(name, func(t *testing.T) {
			content := bytes.Repeat([]byte("0123456789abcdef"), 10_000)
			w := newWitness(t)
			l := newListener(w, New(Limits{}))
			defer l.Close() //nolint:errcheck // only a test's
			client, err := net.Dial("tcp", w.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			server, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			got := make(chan []byte)
			go func() {
				all, _ := io.ReadAll(client) //nolint:errcheck // compared below
				got <- all
			}()
			n, err := server.(io.ReaderFrom).ReadFrom(source(t, content))
			if n != int64(len(content)) || err != nil {
				t.Errorf("ReadFrom gave %d, %v", n, err)
			}
			if err := server.Close(); err != nil {
				t.Error(err)
			}
			if all := <-got; !bytes.Equal(all, content) {
				t.Errorf("%d bytes arrived, want %d", len(all), len(content))
			}
			if len(w.calls) != 0 {
				t.Errorf("the connection was to read from %q", w.calls)
			}
		})
	}
}
