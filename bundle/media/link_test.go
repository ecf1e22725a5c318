package media

import (
	"crypto/rand"
	"net"
	"path/filepath"
	"sync"
	"testing"

	"github.com/plimsoll/plimsoll/internal/testbundle"
)

// brokenLink is a TCP proxy that counts bytes. Whenever so many have passed as cuts says next, all connections are cut
// and the next ones refused.
type brokenLink struct {
	listener net.Listener
	host     string // behind it

	mu       sync.Mutex
	up, down int64   // bytes to the host and from it
	cuts     []int64 // of up and down together
	refusals int     // connections, after each cut
	refusing int
	broken   int // cuts so far
	open     map[*net.TCPConn]*net.TCPConn
}

func newBrokenLink(t *testing.T, host string, refusals int, cuts ...int64) *brokenLink {
	t.Helper()
	l := &brokenLink{
		listener: must(net.Listen("tcp", "127.0.0.1:0"))(t), host: host,
		refusals: refusals, cuts: cuts, open: make(map[*net.TCPConn]*net.TCPConn),
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.listener.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { l.serve(conn.(*net.TCPConn)) })
		}
	})
	t.Cleanup(func() {
		_ = l.listener.Close()
		l.mu.Lock()
		l.cut()
		l.mu.Unlock()
		wg.Wait()
	})
	return l
}

func (l *brokenLink) addr() string { return l.listener.Addr().String() }

func (l *brokenLink) serve(client *net.TCPConn) {
	conn, err := net.Dial("tcp", l.host)
	l.mu.Lock()
	if l.refusing > 0 || err != nil {
		l.refusing--
		l.mu.Unlock()
		reset(client)
		if err == nil {
			_ = conn.Close()
		}
		return
	}
	server := conn.(*net.TCPConn)
	l.open[client] = server
	l.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() { l.pipe(server, client, &l.up) })
	wg.Go(func() { l.pipe(client, server, &l.down) })
	wg.Wait()
	l.mu.Lock()
	delete(l.open, client)
	l.mu.Unlock()
}

// pipe counts before it passes on: what is lost has used the link too.
func (l *brokenLink) pipe(to, from *net.TCPConn, count *int64) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		l.mu.Lock()
		*count += int64(n)
		if len(l.cuts) > 0 && l.up+l.down >= l.cuts[0] {
			l.cuts = l.cuts[1:]
			l.broken++
			l.refusing = l.refusals
			l.cut()
		}
		l.mu.Unlock()
		if err == nil {
			_, err = to.Write(buf[:n])
		}
		if err != nil {
			_ = to.Close()
			_ = from.Close()
			return
		}
	}
}

// cut leaves to both sides what they have received.
func (l *brokenLink) cut() {
	for client, server := range l.open {
		_ = client.Close()
		_ = server.Close()
	}
}

func reset(conn *net.TCPConn) {
	_ = conn.SetLinger(0)
	_ = conn.Close()
}

// random is a bundle with a blob of so many bytes, in a folder.
func random(t testing.TB, size int) (*testbundle.Bundle, string) {
	t.Helper()
	padding := make([]byte, size)
	must(rand.Read(padding))(t)
	return written(t, testbundle.Options{Padding: padding})
}

// TestBrokenLinkCostsLittle breaks a push and a pull twice, with the registry away after each.
func TestBrokenLinkCostsLittle(t *testing.T) {
	const size = 40 << 20
	b, dir := random(t, size)
	host := registryHost(t)
	o := Options{PlainHTTP: true}
	check := func(l *brokenLink, count *int64) {
		t.Helper()
		l.mu.Lock()
		defer l.mu.Unlock()
		bytes := *count // what was cut may still be counted
		if l.broken != 2 || len(l.cuts) > 0 {
			t.Errorf("the link broke %d times", l.broken)
		}
		t.Logf("%d bytes, %.3f times the blob", bytes, float64(bytes)/size)
		if bytes > size*11/10 {
			t.Errorf("%d bytes for a blob of %d", bytes, size)
		}
	}
	push := newBrokenLink(t, host, 3, size/4, size*3/4)
	if err := carryWith(t.Context(), t, dir, "oci://"+push.addr()+"/app", o); err != nil {
		t.Fatal(err)
	}
	check(push, &push.up)
	checkSame(t, b, "oci://"+host+"/app:"+b.Tag)

	pull := newBrokenLink(t, host, 3, size/4, size*3/4)
	to := filepath.Join(t.TempDir(), "out")
	if err := carryWith(t.Context(), t, "oci://"+pull.addr()+"/app:"+b.Tag, to, o); err != nil {
		t.Fatal(err)
	}
	check(pull, &pull.down)
	checkSame(t, b, to)
}
