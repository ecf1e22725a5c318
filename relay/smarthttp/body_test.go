package smarthttp

import (
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/plimsoll/plimsoll/relay/traffic"
)

func gzipped(t *testing.T, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	gz := gzip.NewWriter(&b)
	if _, err := gz.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := gz.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestBodies: git gets the body inflated and whole, from memory or from a file, and none that is too large or broken.
func TestBodies(t *testing.T) {
	path, _ := script(t, "exec cat")
	s := serve(t, path, Options{MaxBody: 200 << 10, MaxInflated: 400 << 10})
	text := func(n int) []byte { return bytes.Repeat([]byte("0123456789abcde\n"), n/16) }
	ids := func(n int) []byte { // shrinks no more than object ids do
		raw := make([]byte, n/2)
		rand.NewChaCha8([32]byte{1}).Read(raw) //nolint:errcheck // it has none
		return []byte(hex.EncodeToString(raw))
	}
	for _, tc := range []struct {
		name     string
		body     []byte
		encoding string
		status   int
		want     []byte
	}{
		{"empty", nil, "", 200, nil},
		{"small", text(100), "", 200, text(100)},
		{"named identity", text(100), "identity", 200, text(100)},
		{"as large as memory takes", text(maxInMemory), "", 200, text(maxInMemory)},
		{"in a file", text(maxInMemory + 16), "", 200, text(maxInMemory + 16)},
		{"as large as allowed", text(200 << 10), "", 200, text(200 << 10)},
		{"too large", text(200<<10 + 16), "", 413, nil},
		{"compressed", gzipped(t, text(1000)), "gzip", 200, text(1000)},
		{"compressed, in a file", gzipped(t, ids(300<<10)), "x-gzip", 200, ids(300 << 10)},
		{"too large when inflated", gzipped(t, ids(400<<10+16)), "gzip", 413, nil},
		{"too much out of nothing", gzipped(t, text(300<<10)), "gzip", 413, nil},
		{"a bomb", gzipped(t, make([]byte, 100<<20)), "gzip", 413, nil},
		{"cut gzip", gzipped(t, ids(100_000))[:20_000], "gzip", 400, nil},
		{"gzip with a wrong sum", append(gzipped(t, text(100))[:40], 0, 0, 0, 0, 0, 0, 0, 0), "gzip", 400, nil},
		{"no gzip", text(100), "gzip", 400, nil},
		{"another encoding", text(100), "br", 415, nil},
	} {
		req := s.request(t, UploadPack, "", bytes.NewReader(tc.body))
		if tc.encoding != "" {
			req.Header.Set("Content-Encoding", tc.encoding)
		}
		a := do(req)
		if a.status != tc.status || tc.status == 200 && a.body != string(tc.want) {
			t.Errorf("%s: %d, %d bytes %.50q %v", tc.name, a.status, len(a.body), a.body, a.err)
		}
	}
	left, err := os.ReadDir(s.opts.Spool)
	if err != nil || len(left) > 0 {
		t.Errorf("left in the spool: %v, %v", left, err)
	}
	s.spools.mu.Lock()
	defer s.spools.mu.Unlock()
	if s.spools.used != 0 || len(s.spools.clients) != 0 {
		t.Errorf("left booked: %d, %v", s.spools.used, s.spools.clients)
	}
	req := s.request(t, UploadPack, "", strings.NewReader("0000"))
	req.Header.Set("Content-Type", ReceivePack.RequestType())
	if a := do(req); a.status != 415 {
		t.Errorf("a body for another service: %v", a)
	}
}

// TestBombTakesNoMemory: 64 MiB of zeros in 64 KiB, refused with little more than a buffer.
func TestBombTakesNoMemory(t *testing.T) {
	s := serve(t, "", Options{MaxInflated: 48 << 20})
	bomb := gzipped(t, make([]byte, 64<<20))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	req := s.request(t, UploadPack, "", bytes.NewReader(bomb))
	req.Header.Set("Content-Encoding", "gzip")
	if a := do(req); a.status != 413 {
		t.Errorf("got %v", a)
	}
	runtime.ReadMemStats(&after)
	if took := after.TotalAlloc - before.TotalAlloc; took > 8<<20 {
		t.Errorf("a bomb made %d bytes of garbage", took)
	}
}

// TestBodyStays: what was read can be looked at and read again.
func TestBodyStays(t *testing.T) {
	for _, size := range []int{10, maxInMemory + 10} {
		b := &Body{spools: &spools{total: 1 << 20, each: 1 << 20, clients: make(map[string]int64)}}
		want := strings.Repeat("x", size)
		s := New(Options{Spool: t.TempDir()})
		b, err := s.readBody(t.Context(), strings.NewReader(want), "", "client")
		if err != nil {
			t.Fatal(err)
		}
		if all, ok := b.Bytes(); ok != (size <= maxInMemory) || ok && string(all) != want || b.Size() != int64(size) {
			t.Errorf("%d bytes: %d in memory, %t, size %d", size, len(all), ok, b.Size())
		}
		for range 2 {
			if got, err := io.ReadAll(b); string(got) != want || err != nil {
				t.Errorf("read %d bytes, %v", len(got), err)
			}
			if _, err := b.Seek(0, io.SeekStart); err != nil {
				t.Error(err)
			}
		}
		if err := b.Close(); err != nil || s.spools.used != 0 {
			t.Errorf("closed: %v, %d bytes booked", err, s.spools.used)
		}
	}
}

// TestSlowBodies: clients that send their requests byte by byte keep neither slots nor other clients waiting, and are
// dropped when their time is up.
func TestSlowBodies(t *testing.T) {
	path, _ := script(t, "exec cat")
	const clients = 50
	packs := traffic.NewQueue(traffic.QueueOptions{Slots: 1, MaxWaiting: 1})
	s := serve(t, path, Options{Packs: packs, BodyTimeout: 200 * time.Millisecond})
	results := make(chan answered, clients)
	for range clients {
		body, sender := io.Pipe()
		defer sender.Close()
		req := s.request(t, UploadPack, "slow", body)
		go func() { _, _ = sender.Write([]byte("00")) }()
		go func() { results <- do(req) }()
	}
	if a := do(s.request(t, UploadPack, "quick", strings.NewReader("0000"))); a.status != 200 || a.body != "0000" {
		t.Errorf("another client: %v", a)
	}
	for range clients {
		if a := <-results; a.err == nil && a.status != 408 { // or the connection was dropped
			t.Errorf("a slow client: %v", a)
		}
	}
	if entered := packs.Stats().Entered; entered != 1 {
		t.Errorf("%d requests got a slot, want 1", entered)
	}
}

// TestShallowLines: a fetch that names more shallow ends than any clone has is refused; what is allowed reaches git whole.
func TestShallowLines(t *testing.T) {
	path, _ := script(t, "exec cat")
	s := serve(t, path, Options{})
	line := PktLine("shallow " + strings.Repeat("a", 40) + "\n")
	for n, status := range map[int]int{1: 200, maxShallow: 200, maxShallow + 1: 413} {
		for _, request := range []string{
			"0000" + strings.Repeat(line, n) + "0000", // a flush does not end what is counted
			"0000" + strings.Repeat(line, n) + "ffff",
		} {
			a := do(s.request(t, UploadPack, "", strings.NewReader(request)))
			if a.status != status || status == 200 && a.body != request {
				t.Errorf("%d lines: %d, %d bytes, want %d", n, a.status, len(a.body), status)
			}
			a = do(s.request(t, ReceivePack, "", strings.NewReader(request)))
			if a.status != 200 || a.body != request {
				t.Errorf("%d lines in a push: %d, %d bytes", n, a.status, len(a.body))
			}
		}
	}
}

// TestStalledClients: who sends nothing more is dropped before its time is up.
func TestStalledClients(t *testing.T) {
	path, _ := script(t, "exec cat")
	s := serve(t, path, Options{StallTimeout: 50 * time.Millisecond})
	body, sender := io.Pipe()
	defer sender.Close()
	req := s.request(t, UploadPack, "", body)
	go func() { _, _ = sender.Write([]byte("00")) }()
	if a := do(req); a.err == nil && a.status != 408 {
		t.Errorf("got %v", a)
	}
}

// TestSpoolIsShared: one client takes no more than its part of the disk, all together no more than there is, and small
// requests need none.
func TestSpoolIsShared(t *testing.T) {
	path, dir := script(t, "cat > /dev/null; exec 3< $D/go; echo > $D/started; read x <&3; printf done", "started", "go")
	s := serve(t, path, Options{MaxInflated: 100 << 10, MaxSpool: 400 << 10, Packs: traffic.NewQueue(traffic.QueueOptions{})})
	all, err := os.OpenFile(filepath.Join(dir, "go"), os.O_RDWR, 0) // who reads this waits until it is closed
	if err != nil {
		t.Fatal(err)
	}
	defer all.Close()
	large := strings.Repeat("x", 90<<10)
	results := make(chan answered, 10)
	hold := func(client string) {
		req := s.request(t, UploadPack, client, strings.NewReader(large))
		go func() { results <- do(req) }()
		hear(t, dir, "started")
	}
	hold("a")
	if a := do(s.request(t, UploadPack, "a", strings.NewReader(large))); a.status != 503 || a.header.Get("Retry-After") == "" {
		t.Errorf("a second large request of a client: %v", a)
	}
	hold("b")
	hold("c")
	hold("d")
	if a := do(s.request(t, UploadPack, "e", strings.NewReader(large))); a.status != 503 {
		t.Errorf("beyond what there is: %v", a)
	}
	req := s.request(t, UploadPack, "a", strings.NewReader("0000"))
	go func() { results <- do(req) }()
	hear(t, dir, "started") // a small one runs
	if err := all.Close(); err != nil {
		t.Error(err)
	}
	for range 5 {
		if a := <-results; a.status != 200 || a.body != "done" {
			t.Errorf("got %v", a)
		}
	}
}
