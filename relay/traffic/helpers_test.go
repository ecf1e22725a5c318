package traffic

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// pipes is a listener whose connections are pipes, so that a whole server can run in the time of testing/synctest. A pipe
// has no buffer: what is written was read.
type pipes struct {
	conns  chan net.Conn
	errs   chan error
	closed chan struct{}
	once   sync.Once
}

func newPipes() *pipes {
	return &pipes{conns: make(chan net.Conn), errs: make(chan error), closed: make(chan struct{})}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case err := <-p.errs:
		return nil, err
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 443} }

// dial connects from an address.
func (p *pipes) dial(from string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case p.conns <- &addressed{Conn: server, remote: &net.TCPAddr{IP: net.ParseIP(from), Port: 4000}}:
		return client, nil
	case <-p.closed:
		return nil, errors.New("dial: connection refused")
	}
}

// transport sends requests from an address.
func (p *pipes) transport(t *testing.T, from string) *http.Transport {
	tr := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return p.dial(from) }}
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

type addressed struct {
	net.Conn
	remote net.Addr
}

func (c *addressed) RemoteAddr() net.Addr { return c.remote }

// start serves handler with a control in front, over inner. Options change the server before it starts.
func start(t *testing.T, c *Control, inner net.Listener, handler http.Handler, options ...func(*httptest.Server)) *httptest.Server {
	t.Helper()
	ts := httptest.NewUnstartedServer(handler)
	if inner == nil {
		inner = ts.Listener
	} else if err := ts.Listener.Close(); err != nil {
		t.Fatal(err)
	}
	ts.Listener = c.Listener(inner)
	ts.Config.ConnState = c.ConnState
	ts.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure := false
	for _, option := range options {
		option(ts)
		secure = ts.TLS != nil
	}
	if secure {
		ts.StartTLS()
	} else {
		ts.Start()
	}
	return ts
}

func withTLS(ts *httptest.Server) { ts.TLS = &tls.Config{MinVersion: tls.VersionTLS12} }

func withHTTP2(ts *httptest.Server) {
	withTLS(ts)
	ts.EnableHTTP2 = true
}

// testFile makes a file of n bytes, none of which is like its neighbours.
func testFile(t testing.TB, n int) (path string, content []byte) {
	t.Helper()
	content = make([]byte, n)
	state := uint32(1)
	for i := range content {
		state = state*1664525 + 1013904223
		content[i] = byte(state >> 24)
	}
	path = filepath.Join(t.TempDir(), "blob")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path, content
}

// sink is a ResponseWriter that takes everything.
type sink struct {
	header http.Header
	bytes  int64
}

func (s *sink) Header() http.Header {
	if s.header == nil {
		s.header = http.Header{}
	}
	return s.header
}
func (s *sink) WriteHeader(int) {}
func (s *sink) Write(p []byte) (int, error) {
	s.bytes += int64(len(p))
	return len(p), nil
}

// newTLSClient makes a TLS connection that is slow only after the handshake.
func newTLSClient(t *testing.T, ts *httptest.Server, nc net.Conn, piece int, wait time.Duration) net.Conn {
	t.Helper()
	slow := &trickle{nc, 1 << 20, 0}
	client := tls.Client(slow, &tls.Config{RootCAs: ts.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs, ServerName: "127.0.0.1"})
	if err := client.Handshake(); err != nil {
		t.Fatal(err)
	}
	slow.piece, slow.wait = piece, wait
	return client
}
