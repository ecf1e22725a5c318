package traffic

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkBlob compares a blob of 500 MB by net/http alone with one by a Control, with and without rates that do not bind.
// They take turns, so that what else the machine does is noise for all; the medians of processor time and wall time, client
// included, are told as ratios to net/http alone.
func BenchmarkBlob(b *testing.B) {
	const size = 500 << 20
	path := b.TempDir() + "/blob"
	if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
		b.Fatal(err)
	}
	modes := []struct {
		name    string
		control *Control
	}{
		{"alone", nil},
		{"controlled", New(Limits{})},
		{"queued", New(Limits{Blobs: 64, ClientBlobs: 8})},
		{"shaped", New(Limits{Rate: 1 << 40})},
	}
	servers := make([]*httptest.Server, len(modes))
	for i, mode := range modes {
		servers[i] = benchServer(b, mode.control, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, path) }))
	}
	cpu, wall := make([][]float64, len(modes)), make([][]float64, len(modes))
	buf := make([]byte, 1<<20)
	for b.Loop() {
		for i, ts := range servers {
			begin, used := time.Now(), processorTime(b)
			nc, err := net.Dial("tcp", ts.Listener.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			if _, err := io.WriteString(nc, "GET / HTTP/1.0\r\n\r\n"); err != nil {
				b.Fatal(err)
			}
			n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{nc}, buf)
			if n < size || err != nil {
				b.Fatal(n, err)
			}
			nc.Close() //nolint:errcheck // only read
			cpu[i] = append(cpu[i], (processorTime(b) - used).Seconds())
			wall[i] = append(wall[i], time.Since(begin).Seconds())
		}
	}
	for i, mode := range modes {
		b.ReportMetric(median(cpu[i])/median(cpu[0]), mode.name+"-cpu")
		b.ReportMetric(median(wall[i])/median(wall[0]), mode.name+"-wall")
	}
	b.ReportMetric(size/1e6/median(wall[0]), "alone-MB/s")
}

func processorTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func median(all []float64) float64 {
	slices.Sort(all)
	return all[len(all)/2]
}

// BenchmarkSmall is the price of a small answer.
func BenchmarkSmall(b *testing.B) {
	for _, c := range []*Control{nil, New(Limits{})} {
		b.Run(map[bool]string{true: "alone", false: "controlled"}[c == nil], func(b *testing.B) {
			ts := benchServer(b, c, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Write(make([]byte, 1000)) //nolint:errcheck // the client sees it
			}))
			b.ReportAllocs()
			for b.Loop() {
				benchGet(b, ts, 1000)
			}
		})
	}
}

func benchServer(b *testing.B, c *Control, handler http.Handler) *httptest.Server {
	ts := httptest.NewUnstartedServer(handler)
	if c != nil {
		ts.Listener = c.Listener(ts.Listener)
		ts.Config.ConnState = c.ConnState
		ts.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			out, leave, err := c.Blobs(c.Writer(w), r)
			if err != nil {
				return // the client is gone
			}
			defer leave()
			handler.ServeHTTP(out, r)
		})
	}
	ts.Start()
	b.Cleanup(ts.Close)
	return ts
}

func benchGet(b *testing.B, ts *httptest.Server, size int64) {
	resp, err := ts.Client().Get(ts.URL)
	if err != nil {
		b.Fatal(err)
	}
	n, err := io.Copy(io.Discard, resp.Body)
	if err != nil || n != size {
		b.Fatal(n, err)
	}
	resp.Body.Close() //nolint:errcheck // only read
}

// BenchmarkQueue is entering and leaving with a hundred clients that wait.
func BenchmarkQueue(b *testing.B) {
	q := NewQueue(QueueOptions{Slots: 2})
	b.ReportAllocs()
	b.SetParallelism(100)
	b.RunParallel(func(pb *testing.PB) {
		client := fmt.Sprintf("%p", pb)
		for pb.Next() {
			leave, err := q.Enter(context.Background(), client)
			if err != nil {
				b.Error(err)
				return
			}
			leave()
		}
	})
}

// BenchmarkMemory measures what is kept for a connection that is parked, for one that is served and idle, and for a request
// that waits for a slot. The clients are sockets of the kernel, so that they take no part.
func BenchmarkMemory(b *testing.B) {
	const n = 3000
	request := []byte("GET / HTTP/1.1\r\nHost: relay\r\nUser-Agent: containerd/2.3.7\r\nAccept: */*\r\n\r\n")
	tests := []struct {
		name    string
		limits  Limits
		request []byte
		there   func(s Stats) int
	}{
		{"parked", Limits{Connections: 1}, nil, func(s Stats) int { return s.Parked + 1 }},
		{"idle", Limits{ClientConnections: n}, request, func(s Stats) int { return s.Idle }},
		{"waiting", Limits{ClientConnections: n, Blobs: 1}, request, func(s Stats) int { return s.Blobs.Waiting + s.Blobs.Running }},
	}
	for _, test := range tests {
		b.Run(test.name, func(b *testing.B) {
			for b.Loop() {
				c := New(test.limits)
				release := make(chan struct{})
				ts := benchServer(b, c, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					if test.limits.Blobs > 0 {
						<-release
					}
				}))
				before := inUse()
				fds := connectAll(b, ts.Listener.Addr().(*net.TCPAddr), n, test.request)
				for test.there(c.Stats()) < n {
					time.Sleep(time.Millisecond)
				}
				b.ReportMetric(float64(inUse()-before)/n, "B/each")
				close(release)
				for _, fd := range fds {
					unix.Close(fd) //nolint:errcheck // only a test's
				}
				ts.Close()
			}
		})
	}
}

func connectAll(b *testing.B, to *net.TCPAddr, n int, send []byte) []int {
	b.Helper()
	fds := make([]int, n)
	for i := range fds {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			b.Fatal(err)
		}
		if err := unix.Connect(fd, &unix.SockaddrInet4{Port: to.Port, Addr: [4]byte(to.IP.To4())}); err != nil {
			b.Fatal(err)
		}
		if send != nil {
			if _, err := unix.Write(fd, send); err != nil {
				b.Fatal(err)
			}
		}
		fds[i] = fd
	}
	return fds
}

func inUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}
