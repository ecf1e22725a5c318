package integration

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// attacker is the address that all attacks come from; good clients have others.
var attacker = &net.TCPAddr{IP: net.IPv4(127, 2, 0, 1)}

// attack is what hostile clients do until ctx is done.
type attack struct {
	name    string
	clients int // connections
	client  func(ctx context.Context, a *assault) error
}

// assault is an attack that is under way. A client of it that was refused or cut off comes back.
type assault struct {
	*victim
	attack
	cancel context.CancelFunc
	wg     sync.WaitGroup
	began  atomic.Int64 // clients that do their worst, or did
	strong chan struct{}
	tries  atomic.Int64
}

// hostilePause is how long a client waits before it comes back, and between requests: attackers on the relay's own machine
// must not win by taking its processors.
const hostilePause = 20 * time.Millisecond

// begin starts an attack and waits until all its clients have begun.
func (v *victim) begin(a attack) *assault {
	v.t.Helper()
	ctx, cancel := context.WithCancel(v.t.Context())
	s := &assault{victim: v, attack: a, cancel: cancel, strong: make(chan struct{})}
	for range a.clients {
		s.wg.Go(func() {
			first := sync.OnceFunc(func() {
				if s.began.Add(1) == int64(a.clients) {
					close(s.strong)
				}
			})
			for ctx.Err() == nil {
				s.tries.Add(1)
				_ = s.client(context.WithValue(ctx, begunKey{}, first), s) // to be cut off is what an attacker deserves
				first()
				wait(ctx, hostilePause)
			}
		})
	}
	select {
	case <-s.strong:
	case <-time.After(2 * time.Minute):
		v.t.Errorf("%s: only %d of %d clients could begin", a.name, s.began.Load(), a.clients)
	}
	return s
}

func (s *assault) end() {
	s.cancel()
	s.wg.Wait()
}

type begunKey struct{}

// begun says that a client does its worst now.
func begun(ctx context.Context) {
	if first, ok := ctx.Value(begunKey{}).(func()); ok {
		first()
	}
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// open connects as an attacker, until ctx is done.
func (s *assault) open(ctx context.Context) (net.Conn, error) {
	d := net.Dialer{LocalAddr: attacker, Timeout: 10 * time.Second}
	conn, err := d.DialContext(ctx, "tcp", s.relay.addr)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { _ = conn.Close() })
	return conn, nil
}

// drip writes byte by byte.
func drip(ctx context.Context, w io.Writer, data string) error {
	for i := range len(data) {
		if _, err := io.WriteString(w, data[i:i+1]); err != nil {
			return err
		}
		begun(ctx)
		wait(ctx, 100*time.Millisecond)
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// repeating sends a request again and again on one connection, and reads at most a megabyte of each answer.
func repeating(raw []byte) func(context.Context, *assault) error {
	return func(ctx context.Context, s *assault) error {
		conn, err := s.open(ctx)
		if err != nil {
			return err
		}
		defer conn.Close() //nolint:errcheck // hostile
		r := bufio.NewReader(conn)
		for ctx.Err() == nil {
			if _, err := conn.Write(raw); err != nil {
				return err
			}
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				return err
			}
			if n, err := io.CopyN(io.Discard, resp.Body, 1<<20); n == 1<<20 || err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			begun(ctx)
			wait(ctx, hostilePause)
		}
		return ctx.Err()
	}
}

func slowHeaders(ctx context.Context, s *assault) error {
	conn, err := s.open(ctx)
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // hostile
	return drip(ctx, conn, "GET /v2/ HTTP/1.1\r\nHost: relay\r\n"+s.evil+"X-A: "+strings.Repeat("a", 60<<10))
}

func slowBodies(ctx context.Context, s *assault) error {
	conn, err := s.open(ctx)
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // hostile
	if _, err := fmt.Fprintf(conn, "POST %s/git-upload-pack HTTP/1.1\r\nHost: relay\r\n%sContent-Length: 1000000\r\n\r\n", hostileGit, s.evil+gitV2+uploadPackBody); err != nil {
		return err
	}
	return drip(ctx, conn, strings.Repeat("0", 1_000_000))
}

// slowReaders ask for a blob and take nothing of it.
func slowReaders(ctx context.Context, s *assault) error {
	conn, err := s.open(ctx)
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // hostile
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: relay\r\n%s\r\n", s.blob, s.evil); err != nil {
		return err
	}
	begun(ctx)
	<-ctx.Done()
	return ctx.Err()
}

// idlers connect and say nothing. One that is cut off comes back after a while.
func idlers(ctx context.Context, s *assault) error {
	conn, err := s.open(ctx)
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // hostile
	begun(ctx)
	_, err = conn.Read(make([]byte, 1))
	wait(ctx, time.Second)
	return err
}

// hostileAttacks are the attacks, each with its number of connections.
func (v *victim) hostileAttacks() []attack {
	post := func(b gitBomb) []byte {
		var out bytes.Buffer
		fmt.Fprintf(&out, "POST %s/git-upload-pack HTTP/1.1\r\nHost: relay\r\nContent-Type: application/x-git-upload-pack-request\r\n%sContent-Length: %d\r\n\r\n",
			hostileGit, v.evil+b.headers, len(b.data))
		out.Write(b.data)
		return out.Bytes()
	}
	request := func(format string, args ...any) []byte {
		return append(fmt.Appendf(nil, format+"\r\nHost: relay\r\n", args...), v.evil+"\r\n"...)
	}
	bombs := gitBombs()
	return []attack{
		{name: "slow headers", clients: hostileMany, client: slowHeaders},
		{name: "slow bodies", clients: hostileMany, client: slowBodies},
		{name: "readers that take nothing", clients: hostileMany, client: slowReaders},
		{name: "idle connections", clients: hostileIdle, client: idlers},
		{name: "1,000 ranges", clients: hostileFew, client: repeating(request("GET %s HTTP/1.1\r\nRange: bytes=%s0-0", v.blob, strings.Repeat("0-0,", 999)))},
		{name: "overlapping ranges", clients: hostileFew, client: repeating(request("GET %s HTTP/1.1\r\nRange: bytes=%s0-", v.blob, strings.Repeat("0-,", 999)))},
		{name: "huge headers", clients: hostileFew, client: repeating(request("GET /v2/ HTTP/1.1\r\nX-A: %s", strings.Repeat("a", 60<<10)))},
		{name: "50,000 wants", clients: hostileFew, client: repeating(post(bombs["wants, v2"]))},
		{name: "50,000 wants, v0", clients: hostileFew, client: repeating(post(bombs["wants, v0"]))},
		{name: "100,000 ref prefixes", clients: hostileFew, client: repeating(post(bombs["ref prefixes"]))},
		{name: "gzip bombs", clients: hostileFew, client: repeating(post(bombs["gzip bomb"]))},
		{name: "guessed passwords", clients: hostileFew, client: repeating([]byte("GET /v2/ HTTP/1.1\r\nHost: relay\r\nAuthorization: Basic Z29vZC1yb2JvdDpndWVzcw==\r\n\r\n"))}, // good-robot:guess,
	}
}

var goroutineTotal = regexp.MustCompile(`goroutine profile: total (\d+)`)

// goroutines is how many the relay has.
func (v *victim) goroutines() int {
	v.t.Helper()
	m := goroutineTotal.FindSubmatch(get(v.t, "http://"+v.relay.admin+"/debug/pprof/goroutine?debug=1"))
	if m == nil {
		v.t.Fatal("no goroutine profile")
	}
	n, err := strconv.Atoi(string(m[1]))
	if err != nil {
		v.t.Fatal(err)
	}
	return n
}

// calm waits until the relay has no more goroutines than before, but for a few of its own.
func (v *victim) calm(before int) {
	v.t.Helper()
	var now int
	for range 600 {
		if now = v.goroutines(); now <= before+10 {
			return
		}
		wait(v.t.Context(), 100*time.Millisecond)
	}
	v.t.Errorf("a minute later there are %d goroutines; before there were %d", now, before)
}

// While each attack runs, a good client goes on pulling and looking at Git refs; in the heavy variant, within twice the
// time that it took before. The relay stays within its memory and keeps nothing of the attack.
func TestHostileClients(t *testing.T) {
	shared := newGuardedVictim(t)
	for _, a := range shared.hostileAttacks() {
		t.Run(a.name, func(t *testing.T) {
			v := *shared
			v.site = &site{fixture: shared.fixture, t: t, data: shared.data}
			before := v.goroutines()
			ratio := v.endure(a)
			// Time is measured on a machine that does other things, too: a bad moment must not decide.
			for range hostileRetries {
				if ratio <= maxHostileRatio {
					break
				}
				ratio = min(ratio, v.endure(a))
			}
			if hostileStrict && ratio > maxHostileRatio {
				t.Errorf("a good client took %.2f times as long, at most %.1f is allowed", ratio, maxHostileRatio)
			}
			if peak := v.relay.memory("VmHWM"); peak > maxHostileRSS {
				t.Errorf("%d bytes were resident, at most %d may be", peak, maxHostileRSS)
			}
			v.calm(before)
		})
	}
}

// maxHostileRatio is the bar: how much longer a good client may take while others attack.
const maxHostileRatio = 2.0

// endure attacks once, and gives how many times longer a good client takes meanwhile.
func (v *victim) endure(a attack) (ratio float64) {
	v.t.Helper()
	pull, git := v.service(hostileRounds)
	s := v.begin(a)
	busyPull, busyGit := v.service(hostileRounds)
	s.end()
	of := func(busy, calm time.Duration) float64 { return busy.Seconds() / calm.Seconds() }
	v.t.Logf("%d attackers came %d times; pull %v, was %v (x %.2f); ls-remote %v, was %v (x %.2f); peak RSS %.1f MiB",
		a.clients, s.tries.Load(), busyPull.Round(time.Microsecond), pull.Round(time.Microsecond), of(busyPull, pull),
		busyGit.Round(time.Microsecond), git.Round(time.Microsecond), of(busyGit, git), float64(v.relay.memory("VmHWM"))/(1<<20))
	return max(of(busyPull, pull), of(busyGit, git))
}
