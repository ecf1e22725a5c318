//go:build e2e

package integration

import (
	"io"
	"math/rand/v2"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/bundle/media"
	"github.com/plimsoll/plimsoll/internal/testbundle"
	"github.com/plimsoll/plimsoll/internal/upstream"
)

const (
	linkBytes = 256 << 20 // of the layer that travels
	outage    = time.Minute
)

// brokenLink is a TCP proxy that counts bytes and has one outage when half of the layer has passed.
type brokenLink struct {
	listener net.Listener
	host     string // behind it
	frozen   bool   // nobody hears of the outage; otherwise connections are cut and new ones refused

	mu       sync.Mutex
	up, down int64         // bytes to the host and from it
	over     chan struct{} // closed at the end of the outage; nil before it
	began    time.Time
	open     map[net.Conn]struct{}
}

func newBrokenLink(t *testing.T, host string, frozen bool) *brokenLink {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &brokenLink{listener: listener, host: host, frozen: frozen, open: make(map[net.Conn]struct{})}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go l.serve(conn)
		}
	}()
	t.Cleanup(func() { _ = listener.Close() })
	return l
}

// outage reports an outage by the channel that its end closes.
func (l *brokenLink) outage() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over == nil || time.Since(l.began) >= outage {
		return nil
	}
	return l.over
}

func (l *brokenLink) serve(client net.Conn) {
	defer client.Close() //nolint:errcheck // a proxy
	if over := l.outage(); over != nil {
		if l.frozen {
			<-over
		}
		return
	}
	server, err := net.Dial("tcp", l.host)
	if err != nil {
		return
	}
	defer server.Close() //nolint:errcheck // a proxy
	l.mu.Lock()
	l.open[client], l.open[server] = struct{}{}, struct{}{}
	l.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() { l.pipe(server, client, &l.up) })
	wg.Go(func() { l.pipe(client, server, &l.down) })
	wg.Wait()
	l.mu.Lock()
	delete(l.open, client)
	delete(l.open, server)
	l.mu.Unlock()
}

func (l *brokenLink) pipe(to, from net.Conn, count *int64) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		over := l.count(count, n)
		if over != nil && l.frozen {
			<-over
			err = io.ErrUnexpectedEOF
		}
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

// count begins the outage when it is time. It gives the end of one that is.
func (l *brokenLink) count(count *int64, n int) <-chan struct{} {
	l.mu.Lock()
	*count += int64(n)
	if l.over == nil && l.up+l.down >= linkBytes/2 {
		over := make(chan struct{})
		l.over, l.began = over, time.Now()
		time.AfterFunc(outage, func() { close(over) })
		if !l.frozen {
			for conn := range l.open {
				_ = conn.Close()
			}
		}
	}
	l.mu.Unlock()
	return l.outage()
}

// TestOutageCostsATenth takes the link away for a minute in the middle of a push and of a pull of 256 MiB, once with
// connections that are cut and refused, once with connections that stand still.
func TestOutageCostsATenth(t *testing.T) {
	plimsoll := filepath.Join(t.TempDir(), "plimsoll")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", plimsoll, "./cmd/plimsoll")
	build.Dir = ".."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	padding := make([]byte, linkBytes)
	if _, err := io.ReadFull(rand.NewChaCha8([32]byte{2}), padding); err != nil {
		t.Fatal(err)
	}
	b := testbundle.New(t, testbundle.Options{Padding: padding})
	folder := filepath.Join(t.TempDir(), "bundle")
	b.Write(t, folder)
	registry, err := upstream.Start(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	copyIt := func(t *testing.T, args ...string) string {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), plimsoll, append([]string{"copy", "--progress", "plain"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("plimsoll copy %q: %v\n%s", args, err, out)
		}
		return string(out)
	}
	copyIt(t, folder, "oci://"+registry.Host()+"/pull", "--to-plain-http")
	t.Run("links", func(t *testing.T) {
		for name, frozen := range map[string]bool{"cut": false, "frozen": true} {
			t.Run("push/"+name, func(t *testing.T) {
				t.Parallel()
				l := newBrokenLink(t, registry.Host(), frozen)
				to := "/push/" + name
				out := copyIt(t, folder, "oci://"+l.listener.Addr().String()+to, "--to-plain-http")
				l.check(t, out, &l.up)
				checkBundle(t, b, "oci://"+registry.Host()+to+":"+b.Tag)
			})
			t.Run("pull/"+name, func(t *testing.T) {
				t.Parallel()
				l := newBrokenLink(t, registry.Host(), frozen)
				to := filepath.Join(t.TempDir(), "out")
				out := copyIt(t, "oci://"+l.listener.Addr().String()+"/pull:"+b.Tag, to, "--from-plain-http")
				l.check(t, out, &l.down)
				checkBundle(t, b, to)
			})
		}
	})
	if err := registry.Close(); err != nil {
		t.Error(err)
	}
}

func (l *brokenLink) check(t *testing.T, out string, count *int64) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.over:
	default:
		t.Fatal("the copy ended before the outage did")
	}
	times := float64(*count) / linkBytes
	t.Logf("%d bytes, %.4f times the layer; done %.1f s after the outage\n%s", *count, times, (time.Since(l.began) - outage).Seconds(), out)
	if times > 1.1 {
		t.Errorf("%.4f times the bytes, want at most 1.1", times)
	}
	if !l.frozen && !strings.Contains(out, "link is down, trying again for another ") {
		t.Errorf("nothing was said of the outage:\n%s", out)
	}
}

// checkBundle reads every byte.
func checkBundle(t *testing.T, b *testbundle.Bundle, ref string) {
	t.Helper()
	src, err := media.OpenSource(t.Context(), ref, media.Options{PlainHTTP: true})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close() //nolint:errcheck // only read from
	root, err := src.Root(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := bundle.Load(t.Context(), src, root)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := media.Check(t.Context(), src, loaded, media.CheckOptions{}); err != nil || root.Digest != b.Root.Digest {
		t.Errorf("%s: %s, %v", ref, root.Digest, err)
	}
}
